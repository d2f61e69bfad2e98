package cache_test

import (
	"context"
	"maps"
	"testing"

	"pierfs/backends"
	"pierfs/backends/mem"
	"pierfs/cache"
)

// TestOwedChangeOfNamesKnowsOursByItsBytes has an upload go without an answer, the server away behind it, and a program rename or remove what
// was uploaded. What then bears the name is ours or, of the same size, another host's: the first is removed or renamed, the second stays.
func TestOwedChangeOfNamesKnowsOursByItsBytes(t *testing.T) {
	for what, c := range map[string]struct {
		change func(*world) error
		ours   map[string]string // what the server has in the end
		theirs map[string]string // the same, if somebody else has replaced ours
	}{
		"removed": {
			change: func(w *world) error { return w.tree.Remove(w.Context(), "f") },
			ours:   map[string]string{"e": "an older one"}, theirs: map[string]string{"e": "an older one", "f": "THEIRS"},
		},
		"renamed": {
			change: func(w *world) error { return w.tree.Rename(w.Context(), "f", "g", backends.Replace) },
			ours:   map[string]string{"e": "an older one", "g": "upload"}, theirs: map[string]string{"e": "an older one", "g": "upload", "f": "THEIRS"},
		},
		"renamed twice": {
			change: func(w *world) error {
				w.must(w.tree.Rename(w.Context(), "f", "g", backends.Replace))
				return w.tree.Rename(w.Context(), "g", "h", backends.Replace)
			},
			ours: map[string]string{"e": "an older one", "h": "upload"}, theirs: map[string]string{"e": "an older one", "h": "upload", "f": "THEIRS"},
		},
		"replaced by a renaming": {
			change: func(w *world) error { return w.tree.Rename(w.Context(), "e", "f", backends.Replace) },
			ours:   map[string]string{"f": "an older one"},
		},
	} {
		for _, foreign := range []bool{false, true} {
			for _, crash := range []bool{false, true} {
				want, says := c.ours, what+", ours"
				if foreign {
					want, says = c.theirs, what+", theirs"
				}
				if want == nil {
					continue
				}
				if crash {
					says += ", behind a crash"
				}
				t.Run(says, func(t *testing.T) {
					d := &dying{dead: make(chan struct{})}
					w := newRemote(t, func(_ *mem.Options, to *cache.Options) { to.Hook = d.hook })
					w.give("e", "an older one")
					w.sees()
					unheard := make(chan struct{})
					w.server.SetAfter(func(_ context.Context, op, name string) error {
						if op != "rename" {
							return nil
						}
						w.server.SetAfter(nil)
						w.away(true)
						close(unheard)
						return lost(op, name)
					})
					w.save("f", "upload")
					<-unheard
					w.must(c.change(w))
					if foreign {
						w.give("f", "THEIRS")
					}
					if crash {
						w.crash(d)
					}
					w.away(false)
					w.must(w.tree.Drain(t.Context()))
					if got := w.holds(); !maps.Equal(got, want) {
						t.Errorf("the server holds %v, want %v", got, want)
					}
				})
			}
		}
	}
}
