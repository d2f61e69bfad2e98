//go:build broken

package planted

var _ int = "no number"
