package dial

import (
	"pierfs/backends"
	"pierfs/conncfg"
)

// Weaker says, in words for a person, what of the usual promises does not hold with t on a server that can do c.
func Weaker(t conncfg.Target, c backends.Caps) (said []string) {
	if t.ReadOnly {
		return nil
	}
	if len(t.Fallbacks) > 0 {
		said = append(said, "fallbackHosts: what was written to one host is on another only if the servers see to it")
	}
	if t.TempName == "none" {
		said = append(said, `tempName is "none": readers on the server see files grow, and an upload that fails costs the old file`)
	} else if !c.Replace {
		said = append(said, "the server cannot replace a file in one step: the old one is moved aside first, and for a moment nobody bears the name")
	}
	if t.Verify == conncfg.VerifyHash && !c.Sums {
		said = append(said, "the server computes no checksums: uploads are verified by reading them back")
	}
	if t.Protocol == conncfg.SFTP && !c.Fsync {
		said = append(said, "the server has no fsync@openssh.com: what it has may be lost with its power, also after close() and fsync()")
	}
	return said
}
