package fs

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pierfs/backends"
	"pierfs/cache"
)

func TestCallsThatMayCreateAreTold(t *testing.T) {
	for text, want := range map[string]bool{
		fmt.Sprintf("%d 0xffffff9c 0x7f00 0x%x 0x1b6 0x0 0x0 0x7ffd 0x7fff\n", unix.SYS_OPENAT, unix.O_CREAT|unix.O_WRONLY): true,
		fmt.Sprintf("%d 0xffffff9c 0x7f00 0x0 0x0 0x0 0x0 0x7ffd 0x7fff\n", unix.SYS_OPENAT):                                false,
		fmt.Sprintf("%d 0xffffff9c 0x7f00 0x1ff 0x0 0x0 0x0 0x7ffd 0x7fff\n", unix.SYS_MKDIRAT):                             true,
		fmt.Sprintf("%d 0xffffff9c 0x7f00 0x7f10 0x0 0x0 0x0 0x7ffd 0x7fff\n", unix.SYS_STATX):                              false,
		"running\n":           true,
		"-1 0x7ffd 0x7fff4\n": true,
	} {
		if got := mayCreate(text); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}

// TestUnknownNamesWhileTheServerIsAway works in a directory that was never listed, of a server that is away: a name of which nothing
// is known can be made, and is EIO for who looks for it.
func TestUnknownNamesWhileTheServerIsAway(t *testing.T) {
	r := newRig(t, rigOptions{cache: cache.Options{Background: true, Target: "test", Host: "here"}})
	if err := r.server.MakeDir("dir"); err != nil {
		t.Fatal(err)
	}
	in := func(name string) string { return filepath.Join(r.dir, "dir", name) }
	if _, err := os.Stat(filepath.Dir(in("x"))); err != nil {
		t.Fatal(err)
	}
	r.server.SetFault(func(_ context.Context, op, _ string) error {
		return &backends.Error{Op: op, Code: syscall.EHOSTDOWN, Class: backends.Transient, Cause: backends.CauseOffline}
	})
	if err := os.WriteFile(in("file"), []byte("content"), 0o644); err != nil {
		t.Errorf("a file cannot be made: %v", err)
	}
	if err := os.Mkdir(in("made"), 0o755); err != nil {
		t.Errorf("a directory cannot be made: %v", err)
	}
	if err := os.WriteFile(in("made/file"), []byte("content"), 0o644); err != nil {
		t.Errorf("a file in a directory that was made cannot be: %v", err)
	}
	if err := os.Rename(in("file"), in("renamed")); err != nil {
		t.Errorf("rename: %v", err)
	}
	if _, err := os.ReadFile(in("other")); backends.Errno(err) != syscall.EIO {
		t.Errorf("a name of which nothing is known: %v, want EIO", err)
	}
	if _, err := os.Stat(in("other")); backends.Errno(err) != syscall.EIO {
		t.Errorf("stat of such a name: %v, want EIO", err)
	}
	r.server.SetFault(nil)
	r.tree.Wake()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := r.tree.Drain(ctx); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"dir/renamed", "dir/made/file"} {
		if content, err := r.server.ReadFile(name); string(content) != "content" {
			t.Errorf("the server has %q under %s, %v", content, name, err)
		}
	}
}
