package dial

import (
	"strings"
	"testing"

	"pierfs/backends"
	"pierfs/conncfg"
)

func TestWeakerPromisesAreTold(t *testing.T) {
	whole := backends.Caps{Replace: true, Fsync: true, Sums: true}
	for name, c := range map[string]struct {
		target conncfg.Target
		caps   backends.Caps
		want   []string
	}{
		"none":            {conncfg.Target{Protocol: conncfg.SFTP, Verify: conncfg.VerifyHash}, whole, nil},
		"in place":        {conncfg.Target{Protocol: conncfg.FTP, TempName: "none"}, backends.Caps{}, []string{"readers on the server see files grow"}},
		"old server":      {conncfg.Target{Protocol: conncfg.SFTP}, backends.Caps{}, []string{"in one step", "fsync"}},
		"no sums":         {conncfg.Target{Protocol: conncfg.FTP, Verify: conncfg.VerifyHash}, backends.Caps{Replace: true}, []string{"reading them back"}},
		"nothing written": {conncfg.Target{Protocol: conncfg.SFTP, TempName: "none", ReadOnly: true}, backends.Caps{}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			said := Weaker(c.target, c.caps)
			if len(said) != len(c.want) {
				t.Fatalf("said %q, want %q", said, c.want)
			}
			for i, want := range c.want {
				if !strings.Contains(said[i], want) {
					t.Errorf("said %q, want %q", said[i], want)
				}
			}
		})
	}
}
