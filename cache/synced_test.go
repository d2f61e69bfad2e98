package cache_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"pierfs/backends"
	"pierfs/backends/mem"
	"pierfs/cache"
)

// TestContentWhoseSyncFailedIsNeverAcknowledged: the kernel tells once that it could not bring pages to the disk. Closing again must not
// make a promise of them, until the program begins anew.
func TestContentWhoseSyncFailedIsNeverAcknowledged(t *testing.T) {
	var fails atomic.Bool
	var dir string
	restore := func() {}
	w := newOwing(t, func(_ *mem.Options, to *cache.Options) {
		dir = to.Staging
		to.Hook = func(site string) {
			if site == "staging.sync" && fails.Swap(false) {
				restore = breakFile(t, dir, ".data")
			}
		}
	})
	f := w.open("f", cache.OpenMode{Write: true, Create: true, Perm: 0o644})
	w.write(f, "lost with the pages", 0)
	fails.Store(true)
	if err := f.Publish(t.Context()); err == nil {
		t.Fatal("a failed sync is acknowledged")
	}
	restore()
	for range 2 {
		if err := f.Publish(t.Context()); err == nil {
			t.Fatal("what was lost with a failed sync is acknowledged by the next one")
		}
	}
	if n := len(w.tree.Queue()); n != 0 {
		t.Errorf("%d are owed", n)
	}
	cut := int64(0)
	_, err := f.SetAttr(t.Context(), backends.Attr{Size: &cut})
	w.must(err)
	w.write(f, "anew", 0)
	w.must(f.Publish(t.Context()))
	w.must(f.Close(t.Context(), false))
	w.must(w.tree.Drain(t.Context()))
	if got := w.holds()["f"]; got != "anew" {
		t.Errorf("the server has %q", got)
	}
}

// TestRemovalIsToldOnceItIsWrittenDown: what is owed to a name that was removed must not be sent by the next daemon.
func TestRemovalIsToldOnceItIsWrittenDown(t *testing.T) {
	w := newRemote(t, nil)
	w.sees()
	w.away(true)
	w.save("f", "content")
	w.lists("f")
	restore := breakFile(t, w.options.Staging, "/journal")
	err := w.tree.Remove(t.Context(), "f")
	restore()
	if err == nil {
		t.Error("a removal that is written down nowhere is acknowledged")
	}
	w.lists("f")
}

// breakFile puts a pipe, which can be neither written to nor synced, in the place of the one file that is open below dir under a name that ends in
// suffix, until restore.
func breakFile(t *testing.T, dir, suffix string) (restore func()) {
	fds, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Error(err)
	}
	for _, at := range fds {
		to, err := os.Readlink(at)
		if err != nil || !strings.HasPrefix(to, dir+"/") || !strings.HasSuffix(to, suffix) {
			continue
		}
		disk, err := os.OpenFile(at, os.O_RDWR, 0)
		if err != nil {
			t.Error(err)
			continue
		}
		fd, err := strconv.Atoi(filepath.Base(at))
		if err != nil {
			t.Error(err)
		}
		ends := make([]int, 2)
		if err := unix.Pipe2(ends, unix.O_CLOEXEC); err != nil {
			t.Error(err)
		}
		if err := unix.Dup3(ends[0], fd, unix.O_CLOEXEC); err != nil {
			t.Error(err)
		}
		return func() {
			if err := unix.Dup3(int(disk.Fd()), fd, unix.O_CLOEXEC); err != nil {
				t.Error(err)
			}
			_ = disk.Close()
			_ = unix.Close(ends[0])
			_ = unix.Close(ends[1])
		}
	}
	t.Errorf("no %s is open", suffix)
	return func() {}
}
