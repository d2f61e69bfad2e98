package integration

import (
	"path/filepath"
	"testing"

	"pierfs/integration/daemon"
	"pierfs/integration/process"
	"pierfs/integration/servers"
)

// TestMountedWhileTheServerIsDown: the mount comes up all the same, says what is wrong, and serves when the server comes.
func TestMountedWhileTheServerIsDown(t *testing.T) {
	t.Parallel()
	server := servers.NewSSHD(t, servers.SSHOptions{})
	server.Kill(t)
	d := newDaemon(t)
	d.Define(t, connection, daemon.To(t, server, impatient))
	d.Start(t)
	d.AwaitState(t, connection, "offline", process.Patience)
	if mounts := d.Mounts(t); len(mounts) != 1 {
		t.Errorf("mounted: %v, want one mount", mounts)
	}
	err := within(t, offline, "write while it is down", func() error { return put(filepath.Join(d.Mount(connection), "f"), []byte("x")) })
	errnoIs(t, "write while it is down", err, away...)
	server.Restart(t)
	d.AwaitState(t, connection, "ready", healing)
	if err := put(filepath.Join(d.Mount(connection), "f"), []byte("x")); err != nil {
		t.Errorf("write when it is there: %v", err)
	}
	has(t, filepath.Join(server.Dir, "f"), []byte("x"))
}
