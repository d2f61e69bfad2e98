package background

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"pierfs/integration/daemon"
	"pierfs/integration/servers"
)

// What the kernel wrote by itself and a program was promised reaches the server though the daemon is killed: what was closed, and what was
// synced without what was written behind it, also while its program outlives the daemon and writes on. What was never closed goes to quarantine.
func TestContentThatTheKernelWroteOutlivesTheDaemon(t *testing.T) {
	t.Parallel()
	server := servers.NewSSHD(t, servers.SSHOptions{})
	fields := daemon.To(t, server, background)
	fields["writePassthrough"] = true
	s := newStage(t, fields)
	server.Kill(t)
	begin := func(name, text string) *os.File {
		t.Helper()
		f, err := os.Create(filepath.Join(s.mount, name))
		if err == nil {
			_, err = io.WriteString(f, text)
		}
		if err != nil {
			t.Fatalf("write %s: %v\n%s", name, err, s.daemon.Log())
		}
		return f
	}
	s.put("closed", "all of it")
	s.put("again", "old, and longer")
	s.put("again", "new")
	never := begin("never", "half of it")
	defer never.Close()
	synced := begin("synced", "promised")
	defer synced.Close()
	if err := synced.Sync(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(synced, " and more"); err != nil {
		t.Fatal(err)
	}
	cut := begin("cut", "promised, and then cut")
	defer cut.Close()
	if err := cut.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := cut.Truncate(0); err != nil {
		t.Fatal(err)
	}
	s.daemon.Kill()
	if _, err := io.WriteString(synced, " behind the grave"); err != nil {
		t.Logf("a program cannot write on: %v", err)
	}
	s.start()
	server.Restart(t)
	s.paid()
	has(t, filepath.Join(server.Dir, "closed"), "all of it")
	has(t, filepath.Join(server.Dir, "again"), "new")
	has(t, filepath.Join(server.Dir, "cut"), "promised, and then cut")
	has(t, filepath.Join(server.Dir, "synced"), "promised")
	if _, err := os.Stat(filepath.Join(server.Dir, "never")); err == nil {
		t.Error("what was never closed is at the server")
	}
	if n := s.status().Quarantined; n < 2 {
		t.Errorf("%d contents are in quarantine, want those of never, and of what followed synced", n)
	}
}
