package cache_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"pierfs/backends/mem"
	"pierfs/cache"
)

// TestOwedToADirectoryThatIsGone removes, at the server, a directory in which something is owed. It does not come back by itself, and
// nothing is tried for ever: what is owed waits for a person, until the directory is made again or it is dropped with a backup.
func TestOwedToADirectoryThatIsGone(t *testing.T) {
	for what, end := range map[string]func(*world){
		"made again": func(w *world) {
			w.mkdir("a")
			w.must(w.tree.Drain(w.Context()))
			if got := w.holds(); !maps.Equal(got, map[string]string{"a/": "", "a/b/": "", "a/f": "content"}) {
				w.Errorf("the server has %q", got)
			}
			w.staged(0)
		},
		"dropped": func(w *world) {
			for _, due := range w.tree.Queue() {
				_, err := w.tree.Drop(due.Seq, due.Kind == "put")
				w.must(err)
			}
			if got := w.holds(); len(got) != 0 {
				w.Errorf("the server has %q", got)
			}
			w.must(w.tree.Drain(w.Context()))
			w.staged(1)
		},
	} {
		t.Run(what, func(t *testing.T) {
			w := newRemote(t, nil)
			loseDirectory(w)
			w.await("it waits for a person", func() bool {
				w.tree.Wake() // as if the time until the next try had passed
				queue := w.tree.Queue()
				for _, due := range queue {
					if due.Kind != "put" && due.Kind != "mkdir" {
						w.Fatalf("owed is %+v", due)
					}
				}
				return len(queue) == 2 && !slices.ContainsFunc(queue, func(d cache.Due) bool { return !d.Held || !d.Conflict })
			})
			for _, due := range w.tree.Queue() {
				if !strings.Contains(due.Reason.Error(), `no directory "a"`) {
					t.Errorf("%s is held because %v", due.Name, due.Reason)
				}
			}
			if err := w.tree.Drain(t.Context()); !errors.Is(err, cache.ErrOwed) {
				t.Errorf("Drain = %v, want ErrOwed", err)
			}
			if n := w.tree.Owed().Conflicts; n != 2 {
				t.Errorf("%d conflicts are counted, want 2", n)
			}
			end(w)
		})
	}
}

// loseDirectory owes a content and a directory to the directory a, which somebody else removes.
func loseDirectory(w *world) {
	w.Helper()
	w.must(w.server.Mkdir(w.Context(), "a", 0o755))
	w.sees()
	w.away(true)
	w.save("a/f", "content")
	w.mkdir("a/b")
	w.must(w.server.Rmdir(context.WithValue(w.Context(), somebodyElse{}, true), "a"))
	w.server.SetFault(nil)
}

// TestOwedMakesItsDirectoryAgainWhereOursCounts is the same with conflict = "overwrite".
func TestOwedMakesItsDirectoryAgainWhereOursCounts(t *testing.T) {
	w := newRemote(t, func(_ *mem.Options, to *cache.Options) { to.Conflict = cache.Overwrite })
	loseDirectory(w)
	w.await("all is sent", func() bool { w.tree.Wake(); return w.tree.Owed().Files == 0 })
	if got := w.holds(); !maps.Equal(got, map[string]string{"a/": "", "a/b/": "", "a/f": "content"}) {
		t.Errorf("the server has %q", got)
	}
	if w.tree.Owed().Conflicts == 0 {
		t.Error("nobody is told")
	}
}
