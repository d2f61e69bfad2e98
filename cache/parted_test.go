package cache_test

import (
	"context"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"

	"pierfs/backends"
	"pierfs/cache"
)

// TestFileThatWasRenamedUnheardIsNotMadeAnew: the server renames a file that is open to write, and nobody hears of it. What is
// written to it then has no name any more, and is not published under the old one, as a file too many. If the server did not
// rename it all is as before.
func TestFileThatWasRenamedUnheardIsNotMadeAnew(t *testing.T) {
	for _, done := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, nil)
			w.replaceTree(w.server)
			w.give("from", "old")
			f := w.open("from", cache.OpenMode{Write: true, Truncate: true})
			unheard := func(_ context.Context, op, name string) error {
				if op == "rename" {
					return lost(op, name)
				}
				return nil
			}
			if done {
				w.server.SetAfter(unheard)
			} else {
				w.server.SetFault(unheard)
			}
			if err := w.tree.Rename(w.Context(), "from", "to", backends.Replace); err == nil {
				t.Fatal("a rename without an answer was called done")
			}
			w.server.SetAfter(nil)
			w.server.SetFault(nil)
			w.write(f, "newer", 0)
			if done {
				wantErrno(t, f.Publish(w.Context()), syscall.ESTALE)
				w.must(f.Close(w.Context(), true))
			} else {
				w.close(f)
				w.has("from", "newer")
			}
			if names, err := w.server.Names(""); err != nil || !slices.Equal(names, map[bool][]string{true: {"to"}, false: {"from"}}[done]) {
				t.Errorf("done: %t: the server has %q, %v", done, names, err)
			}
			w.must(w.tree.Close(w.Context()))
		})
	}
}
