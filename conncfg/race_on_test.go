//go:build race

package conncfg

const raceEnabled = true // the detector makes everything ten times slower
