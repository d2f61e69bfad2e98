package cache_test

import (
	"context"
	"fmt"
	"os"
	"path"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pierfs/backends"
	"pierfs/backends/mem"
	"pierfs/cache"
)

// fillTree makes wide directories in each of deep, with files in each.
func fillTree(wide, deep, files int) func(*world) {
	return func(w *world) {
		for i := range wide {
			for j := range deep {
				fillDir(fmt.Sprintf("d%02d/s%02d", i, j), files)(w)
			}
		}
	}
}

// find comes through dir as find(1) does, and returns how many names there are. It stays pause in each directory.
func (w *world) find(dir string, pause time.Duration) (n int) {
	w.Helper()
	l, err := w.tree.List(w.Context(), dir)
	w.must(err)
	defer l.Close()
	time.Sleep(pause)
	for i := 0; ; i++ {
		e, err := l.At(w.Context(), i)
		if err != nil {
			return n
		}
		if n++; e.IsDir() {
			n += w.find(path.Join(dir, e.Name), pause)
		}
	}
}

func TestWalkIsListedAhead(t *testing.T) {
	for name, test := range map[string]struct {
		options mem.Options
		most    time.Duration
		deep    func(*world)
		names   int
		lists   int
	}{
		"220 directories": {mem.Options{}, 900 * time.Millisecond, fillTree(20, 10, 10), 2220, 221},
		"three sessions, and listings that need none": {mem.FTP(func(c *backends.Caps) { c.Streams, c.ManyLists = 3, true }), 900 * time.Millisecond, fillTree(20, 10, 10), 2220, 221},
		"in three sessions":                           {mem.FTP(func(c *backends.Caps) { c.Streams = 3 }), 7 * time.Second, fillTree(20, 10, 10), 2220, 221},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newFar(t, func(so *mem.Options, _ *cache.Options) { *so = test.options; so.Fault = wayOf(far) }, test.deep)
				calls := w.within("find", test.most, func() {
					if n := w.find("", 0); n != test.names {
						t.Errorf("%d names, want %d", n, test.names)
					}
				})
				// A find that takes longer than metadataTTL asks a few times more.
				if calls["list"] < test.lists || calls["list"] > test.lists+10 || len(calls) != 1 {
					t.Errorf("%v, want %d listings and nothing else", calls, test.lists)
				}
			})
		})
	}
}

// TestLookupsBelowTwoChildrenAreAWalk: a program that asks for one known name in each of many directories.
func TestLookupsBelowTwoChildrenAreAWalk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFar(t, nil, fillTree(20, 10, 3))
		w.within("200 names in 200 directories", 1500*time.Millisecond, func() {
			for i := range 20 {
				for j := range 10 {
					dir := fmt.Sprintf("d%02d", i)
					sub := fmt.Sprintf("%s/s%02d", dir, j)
					w.stat(dir)
					w.stat(sub)
					w.stat(sub + "/f00001")
				}
			}
		})
	})
}

// TestWalkThatStopsIsNotListedOn: a program that looks into two directories and goes away has cost no more than the first window.
func TestWalkThatStopsIsNotListedOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFar(t, nil, fillTree(20, 50, 1))
		calls := w.within("four directories", time.Hour, func() {
			for _, dir := range []string{"", "d00", "d00/s00", "d00/s01"} {
				w.list(dir)
			}
			time.Sleep(time.Minute)
		})
		if calls["list"] > 4+32 {
			t.Errorf("%v, want no more than the first window", calls)
		}
		for i := range 4 {
			calls = w.within("two more, a while later", time.Hour, func() {
				w.list(fmt.Sprintf("d%02d", 2*i))
				w.list(fmt.Sprintf("d%02d", 2*i+1))
				time.Sleep(time.Minute)
			})
		}
		if calls["list"] > 2 {
			t.Errorf("%v: what was in vain again and again is tried again", calls)
		}
	})
}

// TestWalkIsListedAheadAsFarAsThereIsRoom: what is listed ahead of somebody must not drive out what he uses.
func TestWalkIsListedAheadAsFarAsThereIsRoom(t *testing.T) {
	for entries, most := range map[int]int{0: 36, 400: 26} { // directories: those that he lists himself, and a window; or a quarter of the room
		synctest.Test(t, func(t *testing.T) {
			w := newFar(t, func(_ *mem.Options, to *cache.Options) { to.MaxEntries = entries }, fillTree(2, 60, 50))
			calls := w.within("four directories", time.Hour, func() {
				for _, dir := range []string{"", "d00", "d00/s00", "d00/s01"} {
					w.list(dir)
				}
				time.Sleep(900 * time.Millisecond)
			})
			if calls["list"] > most || calls["list"] < most-10 {
				t.Errorf("with room for %d entries: %v, want about %d listings", entries, calls, most)
			}
		})
	}
}

// TestSlowWalkIsNotListedTooFarAhead: what is listed ahead must not be too old when somebody comes.
func TestSlowWalkIsNotListedTooFarAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFar(t, nil, fillTree(20, 10, 1))
		calls := w.within("find that stays 100 ms everywhere", time.Hour, func() { w.find("", 100*time.Millisecond) })
		if calls["list"] > 280 {
			t.Errorf("%v, want 221 listings and a window more", calls)
		}
	})
}

// TestWhoWalksIsNotHeldUp: while others are listed ahead, one session of a server that grants few is free.
func TestWhoWalksIsNotHeldUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		flying, most := 0, 0
		w := newFar(t, func(so *mem.Options, _ *cache.Options) {
			*so = mem.FTP(func(c *backends.Caps) { c.Streams = 3 })
			way := wayOf(far)
			so.Fault = func(ctx context.Context, op, name string) error {
				if op != "list" {
					return nil
				}
				mu.Lock()
				flying++
				most = max(most, flying)
				mu.Unlock()
				defer func() {
					mu.Lock()
					flying--
					mu.Unlock()
				}()
				return way(ctx, op, name)
			}
		}, fillTree(5, 10, 1))
		w.find("", 0)
		if most > 4 || most < 3 {
			t.Errorf("%d listings at a time, want three ahead and the one that is waited for", most)
		}
	})
}

// TestNothingIsListedAheadOfAServerThatIsAway.
func TestNothingIsListedAheadOfAServerThatIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFar(t, nil, fillTree(5, 50, 1))
		w.list("")
		w.list("d00")
		w.list("d00/s00")
		w.server.SetFault(func(ctx context.Context, op, name string) error {
			time.Sleep(far)
			return &backends.Error{Op: op, Name: name, Code: 112, Class: backends.Transient}
		})
		calls := w.within("a walk that meets an outage", time.Hour, func() {
			for i := range 20 {
				l, err := w.tree.List(w.Context(), fmt.Sprintf("d00/s%02d", i+1))
				w.must(err)
				if _, err := l.At(w.Context(), 0); err == nil {
					t.Error("a server that is away answers")
				}
			}
		})
		if calls["list"] > 20*2+2*32 { // each is tried twice
			t.Errorf("%v, want hardly more than the program asked for itself", calls)
		}
	})
}

// TestNoWalkOutlivesItsTree.
func TestNoWalkOutlivesItsTree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFar(t, nil, fillTree(5, 50, 1))
		w.list("")
		w.list("d00")
		w.list("d00/s00")
		l, err := w.tree.List(w.Context(), "d00/s01")
		w.must(err)
		l.Close()
		w.must(w.tree.Close(context.Background()))
		calls := w.within("afterwards", time.Hour, func() { time.Sleep(time.Hour) })
		if len(calls) != 0 {
			t.Errorf("%v after the end", calls)
		}
	})
}

// TestWalkOnAServerFarAway: where a listing takes longer than the pause after which a walk near by has stopped.
func TestWalkOnAServerFarAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFar(t, func(so *mem.Options, to *cache.Options) {
			so.Fault = wayOf(700 * time.Millisecond)
			to.MetadataTTL = time.Minute
		}, fillTree(10, 10, 1))
		w.within("find", 16*time.Second, func() {
			if n := w.find("", 0); n != 210 {
				t.Errorf("%d names", n)
			}
		})
	})
}

// A server that shows modes in listings alone: what a listing showed that was made ahead of a walk is known of a file that is asked for by
// itself, or the next content of that would lose its mode.
func TestModeOfAListingAheadIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFar(t, func(so *mem.Options, _ *cache.Options) {
			*so = mem.FTP(nil)
			so.Known = backends.HasType | backends.HasSize | backends.HasModTime
			so.ListKnown = so.Known | backends.HasPerm
			so.Fault = wayOf(far)
		}, fillTree(1, 4, 2))
		perm := os.FileMode(0o611)
		const name = "d00/s03/f00001"
		_, err := w.server.SetAttr(t.Context(), name, backends.Attr{Perm: &perm})
		w.must(err)
		for _, dir := range []string{"d00", "d00/s00", "d00/s01"} {
			w.list(dir)
		}
		synctest.Wait()
		e, err := w.tree.Stat(t.Context(), name)
		w.must(err)
		if !e.Known.Has(backends.HasPerm) || e.Mode.Perm() != perm {
			t.Errorf("the mode is %v (known: %v), want %v", e.Mode, e.Known.Has(backends.HasPerm), perm)
		}
		if n := w.server.Calls()["list"]; n < 5 {
			t.Fatalf("nothing was listed ahead: %d listings", n)
		}
	})
}
