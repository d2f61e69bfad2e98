package background

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pierfs/integration/daemon"
	"pierfs/integration/servers"
)

// TestPoliciesOfWhatIsOwed: a file is owed while the server is gone, and somebody at the server replaces what it builds on. What becomes of the two is
// told by conflict; what arrives is verified by verify = "hash", by reading it back where the server has no checksums.
func TestPoliciesOfWhatIsOwed(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		theirs  string // at the server in the end
		beside  bool
		waiting int
	}{
		"keep-both": {theirs: "theirs, another", beside: true},
		"overwrite": {theirs: "ours, changed"},
		"fail":      {theirs: "theirs, another", waiting: 1},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			server := servers.NewSSHD(t, servers.SSHOptions{})
			fields := maps.Clone(daemon.To(t, server, background))
			fields["conflict"], fields["verify"] = what, "hash"
			s := newStage(t, fields)
			behind := filepath.Join(server.Dir, "order")
			s.put("order", "as before")
			s.paid()
			has(t, behind, "as before")
			s.list()
			server.Kill(t)
			s.put("order", "ours, changed")
			if err := os.WriteFile(behind, []byte("theirs, another"), 0o644); err != nil {
				t.Fatal(err)
			}
			server.Restart(t)
			s.await("all is sent, or waits for a person", func() bool { return s.queue().Count == s.queue().Held && s.queue().Count == c.waiting })
			has(t, behind, c.theirs)
			beside, err := filepath.Glob(behind + ".conflict-*")
			if err != nil || (len(beside) == 1) != c.beside || len(beside) > 1 {
				t.Fatalf("beside it lies %q, %v", beside, err)
			}
			if c.beside {
				has(t, beside[0], "ours, changed")
			}
			if c.waiting > 0 {
				has(t, filepath.Join(s.mount, "order"), "ours, changed") // until somebody decides
			}
			if log := s.daemon.Log(); strings.Contains(log, "conflict") == (what == "overwrite") {
				t.Errorf("the log:\n%s", log)
			}
		})
	}
}
