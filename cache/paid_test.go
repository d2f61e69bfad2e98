package cache_test

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

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
