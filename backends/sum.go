package backends

import (
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"hash"
)

// Sum is a checksum of all of a file's content.
type Sum struct {
	Algorithm string // as SumAlgorithms has it
	Value     []byte
}

// String is the value in hexadecimal digits.
func (s Sum) String() string { return hex.EncodeToString(s.Value) }

// SumAlgorithms returns the checksums that tell one content from another, the ones that say most first. Those of servers that are told apart from
// an accident alone, such as CRC32, are not among them: to read the content back says more.
func SumAlgorithms() []string { return []string{"SHA-512", "SHA-256", "SHA-1", "MD5"} }

// NewSum begins a checksum; nil for an algorithm that is not known here.
func NewSum(algorithm string) hash.Hash {
	switch algorithm {
	case "SHA-512":
		return sha512.New()
	case "SHA-256":
		return sha256.New()
	case "SHA-1":
		return sha1.New()
	case "MD5":
		return md5.New()
	}
	return nil
}
