//go:build !race

package hostile

// slowdown is how much slower than usual the machine may be.
const slowdown = 1
