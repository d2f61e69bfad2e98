//go:build race

package hostile

// slowdown is how much slower than usual the machine may be: the race detector makes cryptography in Go crawl.
const slowdown = 4
