//go:build !race

package conncfg

const raceEnabled = false
