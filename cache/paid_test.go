package cache_test

import (
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pierfs/backends"
	"pierfs/backends/mem"
	"pierfs/cache"
)

// TestNameIsFreeOnlyOnceTheJournalSaysSo: when a content has arrived and the journal does not say so yet, nothing is done to its name
// at the server: a daemon after a crash would send the content again, and a removed file would rise.
func TestNameIsFreeOnlyOnceTheJournalSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var arrived, removed atomic.Bool
		written := make(chan struct{})
		w := newOwing(t, func(_ *mem.Options, to *cache.Options) {
			to.Hook = func(site string) {
				switch {
				case site == "drain.arrived":
					arrived.Store(true)
				case site == "journal.append" && arrived.Load():
					<-written
				}
			}
		})
		f := w.open("f", creating)
		w.write(f, "content", 0)
		w.must(f.Publish(w.Context()))
		for range 100 {
			if arrived.Load() {
				break
			}
			time.Sleep(10 * time.Millisecond)
			synctest.Wait()
		}
		w.must(f.Close(w.Context(), false)) // as the kernel does some time after close(2)
		go func() {
			w.must(w.tree.Remove(w.Context(), "f"))
			removed.Store(true)
		}()
		synctest.Wait()
		if removed.Load() {
			t.Error("the name was removed at the server while the journal still owed its content")
		}
		close(written)
		synctest.Wait()
		if !removed.Load() {
			t.Error("the name was not removed")
		}
		w.must(w.tree.Close(t.Context()))
	})
}

// TestAttributesOfWhatIsOwedArePromised: a chmod that returns is written down as long as the content is owed that it belongs to, also while the
// kernel has not yet released the file that was closed. Nothing else would tell of it before a crash.
func TestAttributesOfWhatIsOwedArePromised(t *testing.T) {
	d := &dying{at: 1 << 30, dead: make(chan struct{})}
	w := newOwing(t, func(_ *mem.Options, to *cache.Options) { to.Hook = d.hook })
	w.give("f", "old")
	w.refuse(true)
	f := w.open("f", cache.OpenMode{Write: true, Truncate: true})
	w.write(f, "content", 0)
	w.must(f.Publish(t.Context()))
	mode := os.FileMode(0o711)
	_, err := f.SetAttr(t.Context(), backends.Attr{Perm: &mode})
	w.must(err)
	w.crash(d)
	w.shows("f", "content")
	if e, err := w.tree.Stat(t.Context(), "f"); err != nil || e.Mode.Perm() != mode {
		t.Errorf("after a crash the mode is %v, %v; want %v", e.Mode, err, mode)
	}
	w.refuse(false)
	w.paid()
	w.await("the mode is there", func() bool {
		info, err := w.server.Stat(t.Context(), "f")
		return err == nil && info.Mode.Perm() == mode
	})
}
