package cache_test

import (
	"context"
	"errors"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"pierfs/backends"
	"pierfs/backends/mem"
	"pierfs/cache"
)

// TestListingFromBeforeAnOwedRenamingIsNotBelieved has directories listed ahead of who looks at their names, while a renaming that
// the former daemon promised is not made yet.
func TestListingFromBeforeAnOwedRenamingIsNotBelieved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newRemote(t, func(_ *mem.Options, o *cache.Options) { o.Retry.Timeout = time.Minute }) // the renaming waits for as long as we say
		w.must(w.server.MakeDir("dir"))
		for _, name := range []string{"dir/a", "dir/b", "dir/c", "dir/d"} {
			w.give(name, name)
		}
		if got := w.sees(); len(got) != 5 {
			t.Fatalf("programs see %q", got)
		}
		w.away(true)
		w.must(w.tree.Rename(w.Context(), "dir/a", "dir/z", backends.Replace))
		if err := w.tree.Close(w.Context()); err == nil {
			t.Fatal("nothing is owed: this test tests nothing")
		}
		again := make(chan struct{})
		w.server.SetFault(func(ctx context.Context, op, _ string) error {
			if op == "rename" {
				select {
				case <-again:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			return nil
		})
		w.next()
		time.Sleep(5 * time.Second) // else one could take the listing for older than the promise
		for _, name := range []string{"dir/b", "dir/c", "dir/d"} {
			_, err := w.tree.Stat(w.Context(), name)
			w.must(err)
		}
		synctest.Wait()
		close(again)
		w.must(w.tree.Drain(w.Context()))
		if _, err := w.tree.Stat(w.Context(), "dir/z"); err != nil {
			t.Errorf("the new name: %v", err)
		}
		if _, err := w.tree.Stat(w.Context(), "dir/a"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the old name: %v", err)
		}
		want := map[string]string{"dir/": "", "dir/z": "dir/a", "dir/b": "dir/b", "dir/c": "dir/c", "dir/d": "dir/d"}
		if lines := differ(w.sees(), want); len(lines) > 0 {
			t.Errorf("programs see %q", lines)
		}
		w.must(w.tree.Close(w.Context()))
	})
}
