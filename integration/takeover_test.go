package integration

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pierfs/integration/daemon"
	"pierfs/integration/link"
	"pierfs/integration/servers"
)

// TestUploadArrivesOverALineThatKeepsBreaking: the line never holds for as long as the file takes. cp sees nothing of that, the file arrives byte for
// byte, nothing is left beside it, and it costs less than twice its size.
func TestUploadArrivesOverALineThatKeepsBreaking(t *testing.T) {
	t.Parallel()
	const size, holds = 64 << 20, 12 << 20
	for commit, fields := range map[string]daemon.Fields{
		"close":      {"timeout": "5s", "retryCount": 20},
		"background": {"timeout": "5s", "retryCount": 0, "commit": "background"},
	} {
		t.Run(commit, func(t *testing.T) {
			t.Parallel()
			server := servers.NewSSHD(t, servers.SSHOptions{})
			way := link.New(t, link.Options{Bandwidth: 16 << 20})
			s := connect(t, newDaemon(t), server, way.Forward(t, "", server.Address()), fields)
			content := random(1, size)
			from := filepath.Join(t.TempDir(), "big")
			if err := put(from, content); err != nil {
				t.Fatal(err)
			}
			sentBy := way.Meter()
			way.CutEach(link.ToServer, holds)
			r := daemon.Run(t, exec.CommandContext(t.Context(), "cp", from, filepath.Join(s.mount, "big")), 2*time.Minute)
			if r.Status != 0 {
				t.Fatalf("cp: exit %d, %s\n%s", r.Status, r.Stderr, s.daemon.Log())
			}
			_ = within(t, 2*time.Minute, "until nothing is owed", func() error {
				for strings.Contains(s.daemon.Pierfs(t, "queue", connection).Stdout, "big") {
					time.Sleep(100 * time.Millisecond) // a poll, bounded
				}
				return nil
			})
			sent := sentBy().ToServer
			way.CutEach(link.ToServer, 0)
			has(t, filepath.Join(s.behind, "big"), content)
			if sent < size || sent > 2*size {
				t.Errorf("%d bytes were sent of a file of %d", sent, size)
			}
			t.Logf("%.2f times the size was sent", float64(sent)/size)
			await(t, "nothing is left beside it", func() bool { return sh(t, s.behind, "ls -A") == "big\n" })
		})
	}
}
