package cache_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pierfs/backends"
	"pierfs/backends/mem"
	"pierfs/cache"
)

// wayOf makes each call of the server take one round trip, and a listing two, as SFTP does; what was opened comes with its opening.
func wayOf(roundTrip time.Duration) mem.Hook {
	return func(ctx context.Context, op, name string) error {
		switch op {
		case "entry", "fstat":
			return nil
		case "list":
			time.Sleep(roundTrip)
		}
		time.Sleep(roundTrip)
		return nil
	}
}

const far = 40 * time.Millisecond

// newFar returns a world whose server is 40 ms away, for use in a bubble. fill puts there what is to be there.
func newFar(t *testing.T, change func(*mem.Options, *cache.Options), fill func(w *world)) *world {
	w := newWorld(t, func(so *mem.Options, to *cache.Options) {
		so.Fault = wayOf(far)
		to.MetadataTTL, to.NegativeTTL = 2*time.Second, time.Second
		if change != nil {
			change(so, to)
		}
	})
	fill(w)
	return w
}

// within demands that do takes no longer than most, and returns how many calls of each kind it took.
func (w *world) within(what string, most time.Duration, do func()) map[string]int {
	w.Helper()
	before, began := w.server.Calls(), time.Now()
	do()
	took := time.Since(began)
	synctest.Wait()
	calls := w.server.Calls()
	for op, n := range before {
		if calls[op] -= n; calls[op] == 0 {
			delete(calls, op)
		}
	}
	w.Logf("%s: %v, %v", what, took, calls)
	if took > most {
		w.Errorf("%s took %v, want at most %v", what, took, most)
	}
	return calls
}

func (w *world) stat(name string) {
	w.Helper()
	if _, err := w.tree.Stat(w.Context(), name); err != nil {
		w.Error(err)
	}
}

func (w *world) misses(name string) {
	w.Helper()
	if _, err := w.tree.Stat(w.Context(), name); !errors.Is(err, os.ErrNotExist) {
		w.Errorf("%s: %v, want ENOENT", name, err)
	}
}

func fillDir(dir string, files int) func(*world) {
	return func(w *world) {
		w.must(w.server.MakeDir(dir))
		for i := range files {
			w.give(fmt.Sprintf("%s/f%05d", dir, i), "x")
		}
	}
}

func TestFirstNameIsAskedForAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFar(t, nil, fillDir("d", 100))
		calls := w.within("one name", far, func() { w.stat("d/f00001") })
		if calls["stat"] != 1 || calls["list"] != 0 {
			t.Errorf("%v, want one question", calls)
		}
		time.Sleep(time.Minute)
		calls = w.within("the same name a minute later", far, func() { w.stat("d/f00001") })
		if calls["stat"] != 1 || calls["list"] != 0 {
			t.Errorf("%v, want one question", calls)
		}
	})
}

// TestManyMissingNamesCostAListing: 300 names that are not there, one after the other, cost what a listing does.
func TestManyMissingNamesCostAListing(t *testing.T) {
	for name, options := range map[string]mem.Options{"any order": {}, "streams": mem.FTP(nil)} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newFar(t, func(so *mem.Options, _ *cache.Options) { *so = options; so.Fault = wayOf(far) }, fillDir("d", 100))
				calls := w.within("300 missing names", 4*far, func() {
					for i := range 300 {
						w.misses(fmt.Sprint("d/missing", i))
					}
				})
				if calls["list"] != 1 || calls["stat"] > 4 {
					t.Errorf("%v, want one listing and a few questions", calls)
				}
			})
		})
	}
}

func TestNamesAskedForAtOnceCostAListing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFar(t, nil, fillDir("d", 100))
		var all sync.WaitGroup
		calls := w.within("16 at once", 9*far, func() {
			for k := range 16 {
				all.Go(func() {
					for i := range 50 {
						w.stat(fmt.Sprintf("d/f%05d", (i*16+k)%100))
					}
				})
			}
			all.Wait()
		})
		if calls["list"] != 1 || calls["stat"] > 64 {
			t.Errorf("%v, want one listing", calls)
		}
	})
}

// TestLargeDirectoryIsListedOnlyAsFarAsItIsWorth: a listing that goes on and on is broken off, and tried again only when so many
// names were asked for that it pays.
func TestLargeDirectoryIsListedOnlyAsFarAsItIsWorth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		entries := 0
		w := newFar(t, func(so *mem.Options, _ *cache.Options) {
			way := so.Fault
			so.Fault = func(ctx context.Context, op, name string) error {
				if op == "entry" {
					mu.Lock()
					entries++
					mu.Unlock()
				}
				return way(ctx, op, name)
			}
		}, fillDir("d", 30_000))
		calls := w.within("10 names of 30,000", 10*far, func() {
			for i := range 10 {
				w.stat(fmt.Sprintf("d/f%05d", 100*i))
			}
		})
		if calls["list"] != 1 || calls["stat"] != 10 || entries > 11_000 {
			t.Errorf("%v and %d entries, want one listing that is broken off, and each name asked for", calls, entries)
		}
		calls = w.within("200 more", 16*far, func() {
			for i := range 200 {
				w.stat(fmt.Sprintf("d/f%05d", 1+100*i))
			}
		})
		if calls["list"] != 1 || calls["stat"] > 14 {
			t.Errorf("%v, want one listing that pays", calls)
		}
	})
}

// TestStatsOfAListedDirectoryThatIsOldCostAListing: whoever asks for all names again after their lifetime gets a listing.
func TestStatsOfAListedDirectoryThatIsOldCostAListing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const names = 12_000
		w := newFar(t, nil, fillDir("d", names))
		w.list("d")
		time.Sleep(3 * time.Second)
		calls := w.within("12,000 names again", 20*far, func() {
			for i := range names {
				w.stat(fmt.Sprintf("d/f%05d", i))
			}
		})
		if calls["list"] != 1 || calls["stat"] > 20 {
			t.Errorf("%v, want one listing", calls)
		}
	})
}

// TestNamesThatAreMadeOneAfterTheOtherAreNotListedEachTime: what we change ourselves does not spoil a listing for the other names, so
// that none is begun anew before it is too old.
func TestNamesThatAreMadeOneAfterTheOtherAreNotListedEachTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFar(t, nil, fillDir("d", 10))
		began := time.Now()
		calls := w.within("200 files", 603*far, func() {
			for i := range 200 {
				name := fmt.Sprint("d/new", i)
				w.misses(name)
				f := w.open(name, creating)
				w.write(f, "x", 0)
				w.close(f)
			}
		})
		if most := 1 + int(time.Since(began)/(time.Second/2)); calls["list"] > most || calls["stat"] > 3 { // half of negativeTTL
			t.Errorf("%v, want %d listings at most, and no questions", calls, most)
		}
	})
}

// TestListingOfADirectoryThatIsBeingListedWaitsForIt: who lists what a lookup has begun to list does not begin again.
func TestListingOfADirectoryThatIsBeingListedWaitsForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFar(t, nil, fillDir("d", 100))
		w.stat("d/f00001")
		w.stat("d/f00002")
		calls := w.within("a listing that is under way", far, func() {
			if n := len(w.list("d")); n != 100 {
				t.Errorf("%d entries", n)
			}
		})
		if calls["list"] != 0 {
			t.Errorf("%v, want no further listing", calls)
		}
	})
}

func TestNothingIsListedWhereNothingMayBeUsedTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFar(t, func(_ *mem.Options, to *cache.Options) { to.MetadataTTL, to.NegativeTTL = 0, 0 }, fillDir("d", 10))
		calls := w.within("10 names", time.Hour, func() {
			for i := range 10 {
				w.stat(fmt.Sprintf("d/f%05d", i))
				w.misses(fmt.Sprintf("d/g%05d", i))
			}
		})
		if calls["list"] != 0 || calls["stat"] != 20 {
			t.Errorf("%v, want each name asked for", calls)
		}
	})
}

// TestNameAskedForIsToldExactly: a listing that nobody asked for does not blur the times of names that somebody asks for, where the
// server tells only minutes in listings.
func TestNameAskedForIsToldExactly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFar(t, func(so *mem.Options, _ *cache.Options) { *so = mem.FTP(nil); so.Fault = wayOf(far) }, fillDir("d", 10))
		when := time.Now().Truncate(time.Hour).Add(-time.Hour + 17*time.Second)
		for i := range 10 {
			w.must(w.server.Chtimes(fmt.Sprintf("d/f%05d", i), when, when))
		}
		w.within("ten names", 12*far, func() {
			for i := range 10 {
				e, err := w.tree.Stat(w.Context(), fmt.Sprintf("d/f%05d", i))
				if err != nil || !e.ModTime.Equal(when) || e.TimeUnit != 0 {
					t.Errorf("%v to %v, %v; want %v", e.ModTime, e.TimeUnit, err, when)
				}
			}
		})
		calls := w.within("100 that are missing", 2*far, func() {
			for i := range 100 {
				w.misses(fmt.Sprint("d/missing", i))
			}
		})
		if calls["list"]+calls["stat"] > 1 {
			t.Errorf("%v, want the listing to answer", calls)
		}
	})
}

// TestNewNameIsSeenAtOnce: a name that somebody puts on the server is there for who asks for it next, though the directory was
// listed a moment ago for others who asked.
func TestNewNameIsSeenAtOnce(t *testing.T) {
	for name, options := range map[string]mem.Options{"any order": {}, "streams": mem.FTP(nil)} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newFar(t, func(so *mem.Options, _ *cache.Options) { *so = options; so.Fault = wayOf(far) }, fillDir("d", 10))
				for i := range 50 {
					time.Sleep(50 * time.Millisecond)
					name := fmt.Sprint("d/new", i)
					w.give(name, "x")
					w.stat(name)
				}
			})
		})
	}
}

// TestChangesOneAfterTheOtherCostTheirFlight: who works through the names of a directory is answered from a listing, which is made anew
// before it is too old, and what the directory itself is like is told in the flight of each change.
func TestChangesOneAfterTheOtherCostTheirFlight(t *testing.T) {
	const files = 100
	for what, change := range map[string]func(w *world, i int){
		"renamed": func(w *world, i int) {
			from, to := fmt.Sprintf("d/f%05d", i), fmt.Sprintf("d/new-f%05d", i)
			w.stat(from)
			w.misses(to)
			w.must(w.tree.Rename(w.Context(), from, to, backends.Replace))
		},
		"removed": func(w *world, i int) {
			w.stat(fmt.Sprintf("d/f%05d", i))
			w.must(w.tree.Remove(w.Context(), fmt.Sprintf("d/f%05d", i)))
		},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newFar(t, nil, fillDir("d", files))
				w.stat("d")
				w.stat("")
				calls := w.within("100 "+what, (files+2)*far, func() {
					for i := range files {
						change(w, i)
						w.stat("d") // as the kernel does, for permissions
						w.stat("")
					}
				})
				if calls["stat"] > 4 || calls["list"] > 10 {
					t.Errorf("%v, want hardly a question", calls)
				}
			})
		})
	}
}

// TestDirectoryIsAsTheServerHasItAfterAChange: what is told of it beside the change is its time by now.
func TestDirectoryIsAsTheServerHasItAfterAChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFar(t, nil, fillDir("d", 3))
		w.must(w.server.MakeDir("e"))
		same := func(what string, dirs ...string) {
			t.Helper()
			for _, dir := range dirs {
				e, err := w.tree.Stat(w.Context(), dir)
				info, at := w.server.Lstat(dir)
				if w.must(errors.Join(err, at)); !e.ModTime.Equal(info.ModTime) || e.Mode != info.Mode {
					t.Errorf("%s: %s is shown as of %v, %v; it is of %v, %v", what, dir, e.ModTime, e.Mode, info.ModTime, info.Mode)
				}
			}
			time.Sleep(100 * time.Millisecond)
		}
		w.list("")
		same("listed", "d", "e")
		w.must(w.tree.Rename(w.Context(), "d/f00000", "e/g", backends.Replace))
		same("renamed", "d", "e")
		w.must(w.tree.Remove(w.Context(), "e/g"))
		same("removed", "d", "e")
		_, err := w.tree.Mkdir(w.Context(), "e/sub", 0o750)
		w.must(err)
		same("made", "e", "e/sub")
		f := w.open("d/new", creating)
		w.close(f)
		same("written", "d")
		perm := os.FileMode(0o700)
		_, err = w.tree.SetAttr(w.Context(), "d", backends.Attr{Perm: &perm})
		w.must(err)
		same("changed", "d")
		w.must(w.tree.Rmdir(w.Context(), "e/sub"))
		same("removed", "e")

		var all sync.WaitGroup // at once, each told of a different moment
		for i := range 20 {
			all.Go(func() {
				time.Sleep(time.Duration(i) * 7 * time.Millisecond)
				f, _, err := w.tree.Open(w.Context(), fmt.Sprint("d/at-once", i), creating)
				if err == nil {
					err = errors.Join(f.Publish(w.Context()), f.Close(w.Context(), false))
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		same("twenty at once", "d")
	})
}

// TestArrivalsAreNoReasonToAskAgain: what was promised arrives, several at once, while a program goes on in the directory. It waits for none of that.
func TestArrivalsAreNoReasonToAskAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFar(t, func(_ *mem.Options, to *cache.Options) { to.Background, to.Target, to.Host = true, "mem test", "here" }, fillDir("d", 10))
		w.stat("d")
		w.misses("d/new") // and another, so that it is listed
		calls := w.within("200 files", time.Second+8*far, func() {
			for i := range 200 {
				name := fmt.Sprint("d/new", i)
				w.misses(name)
				w.save(name, "x")
				w.stat("d")
				time.Sleep(5 * time.Millisecond) // so that some arrive meanwhile
			}
		})
		if calls["stat"] > 6 {
			t.Errorf("%v, want hardly a question", calls)
		}
		w.must(w.tree.Close(t.Context()))
	})
}
