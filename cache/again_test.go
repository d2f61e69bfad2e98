package cache_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pierfs/backends"
	"pierfs/backends/mem"
	"pierfs/cache"
)

// TestForeignFileBehindALostAnswerStays loses the answer to a change of names, before it has happened or behind it, and has another host put a
// file of its own at the name before the change is made again: that file is neither replaced, nor moved, nor removed.
func TestForeignFileBehindALostAnswerStays(t *testing.T) {
	for what, c := range map[string]struct {
		op      string // whose answer is lost
		at      string // where another host comes
		happens bool   // it has been done
		change  func(*world) error
		after   map[string]string
		beside  string // what is beside f then
	}{
		"an owed content, not yet there": {
			op: "rename", at: "f", after: map[string]string{"f": "theirs"}, beside: "ours",
			change: func(w *world) error { w.save("f", "ours"); return nil },
		},
		"an owed content, that was there": {
			op: "rename", at: "f", happens: true, after: map[string]string{"f": "theirs"},
			change: func(w *world) error { w.save("f", "ours"); return nil },
		},
		"a renaming that was done": {
			op: "rename", at: "f", happens: true, after: map[string]string{"f": "theirs", "g": "what was before"},
			change: func(w *world) error { return w.tree.Rename(w.Context(), "f", "g", backends.Replace) },
		},
		"a removal that was done": {
			op: "remove", at: "f", happens: true, after: map[string]string{"f": "theirs"},
			change: func(w *world) error { return w.tree.Remove(w.Context(), "f") },
		},
	} {
		t.Run(what, func(t *testing.T) {
			w := newOwing(t, nil)
			w.give("f", "what was before")
			w.shows("f", "what was before")
			times := 0
			lose := func(_ context.Context, op, name string) error {
				if op != c.op || strings.Contains(name, "conflict") {
					return nil
				}
				if times++; times > 1 {
					return nil
				}
				w.give(c.at, "theirs")
				w.server.Break()
				return lost(op, name)
			}
			if c.happens {
				w.server.SetAfter(lose)
			} else {
				w.server.SetFault(lose)
			}
			w.must(c.change(w))
			w.must(w.tree.Drain(w.Context()))
			if times == 0 {
				t.Fatal("no answer was lost")
			}
			w.server.SetAfter(nil)
			w.server.SetFault(nil)
			for name, content := range c.after {
				w.has(name, content)
			}
			beside := w.beside()
			if c.beside == "" && len(beside) > 0 || c.beside != "" && len(beside) != 1 {
				t.Fatalf("beside it lies %q", beside)
			}
			if c.beside != "" {
				w.has(beside[0], c.beside)
			}
		})
	}
}

// TestRemovalMeansTheNameWhereLittleIsKnown loses a removal before it has happened, of a file that somebody else has changed since the server was
// last asked for it, long ago: the name is removed all the same.
func TestRemovalMeansTheNameWhereLittleIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(_ *mem.Options, o *cache.Options) { o.MetadataTTL = time.Hour })
		w.give("f", "what was before")
		w.shows("f", "what was before")
		time.Sleep(10 * time.Minute)
		w.give("f", "changed since")
		w.server.SetFault(func(_ context.Context, op, name string) error {
			if op != "remove" {
				return nil
			}
			w.server.SetFault(nil)
			return lost(op, name)
		})
		w.must(w.tree.Remove(w.Context(), "f"))
		w.lacks("f")
		w.must(w.tree.Close(t.Context()))
	})
}
