package cache_test

import (
	"errors"
	"os"
	"testing"

	"pierfs/backends"
	"pierfs/backends/mem"
	"pierfs/cache"
)

// rides returns a world in which the kernel may write to staging files, and a new file of it with the local file that it is lent for a writer.
// Hook may be nil.
func rides(t *testing.T, hook func(site string)) (w *world, f *cache.File, disk *os.File) {
	t.Helper()
	w = newOwing(t, func(_ *mem.Options, to *cache.Options) { to.Passthrough, to.Hook = true, hook })
	if err := w.tree.Riding(); err != nil {
		t.Fatalf("the file system of %s does not serve; set TMPDIR to a directory on ext4 or XFS: %v", t.TempDir(), err)
	}
	f = w.open("f", creating)
	disk, err := f.Ride(creating, nil)
	w.must(err)
	if disk == nil {
		t.Fatal("nothing is lent")
	}
	return w, f, disk
}

// kernelWrites has the kernel write content at off.
func (w *world) kernelWrites(disk *os.File, content string, off int64) {
	w.Helper()
	_, err := disk.WriteAt([]byte(content), off)
	w.must(err)
}

// TestPromiseThatWasWrittenOverIsHeld: what a program wrote over a promise, and could be promised no more, is not sent as if it were that.
func TestPromiseThatWasWrittenOverIsHeld(t *testing.T) {
	w, f, disk := rides(t, nil)
	w.kernelWrites(disk, "promised", 0)
	w.must(f.Publish(t.Context()))
	w.kernelWrites(disk, "CHANGED", 0)
	restore := breakFile(t, w.options.Staging, "/journal")
	err := f.Publish(t.Context())
	restore()
	if err == nil {
		t.Fatal("a promise that is written down nowhere is acknowledged")
	}
	f.Alight(creating) // as RELEASE does
	_ = f.Close(t.Context(), true)
	w.tree.Wake()
	if err := w.tree.Drain(t.Context()); !errors.Is(err, cache.ErrOwed) {
		t.Errorf("Drain = %v", err)
	}
	if due := w.tree.Queue(); len(due) != 1 || !due[0].Held {
		t.Errorf("owed: %+v, want it held", due)
	}
	if got, ok := w.holds()["f"]; ok {
		t.Errorf("the server has %q", got)
	}
}

// TestWriterWhoGoesOnBehindAFailureIsNotForgotten: a close failed, and a child of the program, which has the same descriptor, writes on.
func TestWriterWhoGoesOnBehindAFailureIsNotForgotten(t *testing.T) {
	w, f, disk := rides(t, nil)
	w.refuse(true) // what is owed stays so
	w.kernelWrites(disk, "promised", 0)
	w.must(f.Publish(t.Context()))
	cut := int64(4) // so that the promise lies in a file of its own
	_, err := f.SetAttr(t.Context(), backends.Attr{Size: &cut})
	w.must(err)
	restore := breakFile(t, w.options.Staging, "/journal")
	if err := f.Publish(t.Context()); err == nil {
		t.Error("a promise that is written down nowhere is acknowledged")
	}
	restore()
	f.GiveUp()
	w.kernelWrites(disk, "ise", 4)
	w.must(f.Publish(t.Context()))
	f.Alight(creating)
	w.must(f.Close(t.Context(), false))
	w.refuse(false)
	w.must(w.tree.Drain(t.Context()))
	w.has("f", "promise")
}

// TestSyncBringsToTheDiskWhatNoTimeTells: the kernel changes the time of a file when a write begins, and one that is not waited for may end later.
func TestSyncBringsToTheDiskWhatNoTimeTells(t *testing.T) {
	var breaks func()
	w, f, disk := rides(t, func(site string) {
		if site == "staging.sync" && breaks != nil {
			breaks()
		}
	})
	w.kernelWrites(disk, "promised", 0)
	w.must(f.Sync(t.Context()))
	restore := func() { t.Error("nothing was synced") }
	breaks = func() { breaks, restore = nil, breakFile(t, w.options.Staging, ".data") }
	err := f.Sync(t.Context())
	restore()
	if again := f.Sync(t.Context()); err == nil || again == nil {
		t.Errorf("Sync = %v, and then %v; what was lost with a failed sync is acknowledged by none", err, again)
	}
	f.Alight(creating)
	_ = f.Close(t.Context(), true)
}
