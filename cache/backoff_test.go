package cache_test

import (
	"context"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pierfs/backends"
	"pierfs/backends/retry"
	"pierfs/cache"
)

// TestTriesBecomeRareAndNotTooRare: what the server does not take is tried ever more rarely, but at least once a minute, or every half
// if the server is not there at all; and never at even distances, so that those who wait for one server do not come all at once.
func TestTriesBecomeRareAndNotTooRare(t *testing.T) {
	away := &backends.Error{Op: "any", Code: syscall.ECONNREFUSED, Class: backends.Transient}
	content := func(w *world) { w.save("f", "content") }
	name := func(w *world) { w.mkdir("d") }
	for what, c := range map[string]struct {
		why  error
		owe  func(*world)
		last time.Duration
	}{
		"a content, no server":         {away, content, 30 * time.Second},
		"a change of names, no server": {away, name, 30 * time.Second},
		"a content that is refused":    {syscall.EDQUOT, content, time.Minute},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newRemote(t, nil)
				w.must(w.tree.Close(t.Context()))
				w.options.Retry = retry.Policy{} // which repeats on its own
				var mu sync.Mutex
				var tries []time.Time
				tree, err := cache.New(outliving{w.server}, w.options)
				w.must(err)
				w.tree = tree
				w.server.SetFault(func(_ context.Context, op, name string) error {
					mu.Lock()
					defer mu.Unlock()
					question := op == "stat" && name == "f" && c.why == error(away) // whether it is back
					if question || c.why != error(away) && op == "create" || op == "mkdir" {
						tries = append(tries, time.Now())
					}
					if op == "stat" && c.why != error(away) {
						return nil
					}
					return c.why
				})
				c.owe(w)
				time.Sleep(3 * time.Hour)
				mu.Lock()
				defer mu.Unlock()
				var gaps []time.Duration
				for i := 1; i < len(tries); i++ {
					gaps = append(gaps, tries[i].Sub(tries[i-1]))
				}
				slack := time.Second // for the tries themselves
				if longest := slices.Max(gaps); longest > c.last+slack {
					t.Errorf("it is not tried for %v, want at most %v", longest, c.last)
				}
				late := gaps[len(gaps)/2:]
				if shortest := slices.Min(late); shortest < c.last/2-slack {
					t.Errorf("after hours it is tried again within %v, want at least %v", shortest, c.last/2)
				}
				if slices.Max(late)-slices.Min(late) < c.last/8 {
					t.Errorf("tries come evenly, %v to %v", slices.Min(late), slices.Max(late))
				}
				w.server.SetFault(nil)
			})
		})
	}
}
