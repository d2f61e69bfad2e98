package cache_test

import (
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pierfs/backends"
	"pierfs/backends/mem"
	"pierfs/backends/retry"
	"pierfs/cache"
	"pierfs/cache/spool"
)

// longAgo is a time of change that is over, so that what bears it can be kept.
var longAgo = time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)

// eachKept runs f with a server that tells no identities, as SFTP version 3, and with one that can only stream, with the sizes of a
// small file and a large one. The world has the file f of long ago.
func eachKept(t *testing.T, f func(w *world, content string)) {
	plain := func(so *mem.Options, _ *cache.Options) {
		so.Known = backends.HasType | backends.HasPerm | backends.HasSize | backends.HasModTime
	}
	for what, change := range map[string]func(*mem.Options, *cache.Options){
		"SFTP": plain,
		"FTP":  func(so *mem.Options, _ *cache.Options) { *so = mem.FTP(nil) },
	} {
		for size, n := range map[string]int{"empty": 0, "small": 10_000, "large": 3<<20 + 777} {
			t.Run(what+" "+size, func(t *testing.T) {
				w := newWorld(t, change)
				content := noise(n, 1)
				w.giveOf("f", content, longAgo)
				f(w, content)
			})
		}
	}
}

// giveOf puts a file on the server that was last changed at some time.
func (w *world) giveOf(name, content string, at time.Time) {
	w.Helper()
	w.give(name, content)
	w.must(w.server.Chtimes(name, at, at))
}

// reads opens name, reads all of it, and demands that it is want.
func (w *world) reads(name, want string) {
	w.Helper()
	f := w.open(name, reading)
	if got := w.read(f); got != want {
		w.Errorf("%s: %d bytes are read, want %d; the same: %v", name, len(got), len(want), got == want)
	}
	w.close(f)
}

// again is a new daemon, which knows nothing but what lies in the cache.
func (w *world) again() {
	w.Helper()
	w.store.Close()
	w.openStore()
	w.replaceTree(outliving{retry.New(w.server, w.options.Retry, retry.Options{})})
}

// asks runs f and demands that the server is asked for just these things.
func (w *world) asks(what string, f func(), want ...string) {
	w.Helper()
	before := w.server.Calls()
	f()
	var got []string
	for op, n := range w.server.Calls() {
		for range n - before[op] {
			got = append(got, op)
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		w.Errorf("%s: the server is asked for %q, want %q", what, got, want)
	}
}

func TestWhatWasReadIsReadFromHereAgain(t *testing.T) {
	eachKept(t, func(w *world, content string) {
		w.reads("f", content)
		w.asks("another open soon after", func() { w.reads("f", content) })
		for range 2 {
			w.again()
			w.asks("the first open of another daemon", func() { w.reads("f", content) }, "stat")
			w.asks("and its second", func() { w.reads("f", content) })
		}
		r := w.tree.Reading()
		if r.Hits != 2 || r.Misses != 0 || r.FromCache != int64(2*len(content)) || r.FromServer != 0 || r.Kept.Files != 1 {
			if len(content) > 0 || r.FromServer != 0 || r.Kept.Files != 1 { // the end of a file is no read
				w.Errorf("counted: %+v", r)
			}
		}
	})
}

func TestWhatChangedOnTheServerIsReadAnew(t *testing.T) {
	eachKept(t, func(w *world, content string) {
		w.reads("f", content)
		w.again()
		other := strings.Repeat("y", len(content))
		w.giveOf("f", other, longAgo.Add(time.Second))
		w.reads("f", other)
		w.again()
		w.giveOf("f", content+"more", longAgo.Add(time.Second))
		w.reads("f", content+"more")
	})
}

// disguise writes content to a file in place of another, and gives it the time of that one.
func (w *world) disguise(name, content string) {
	w.Helper()
	f := w.open(name, cutting)
	w.write(f, content, 0)
	at := longAgo
	_, err := f.SetAttr(w.Context(), backends.Attr{ModTime: &at, AccTime: &at})
	w.must(err)
	w.close(f)
}

// TestOurOwnChangesAreNeverHiddenByWhatWasKept: a new content may have the very size and time of the one before.
func TestOurOwnChangesAreNeverHiddenByWhatWasKept(t *testing.T) {
	eachKept(t, func(w *world, content string) {
		other := strings.Repeat("y", len(content))
		w.reads("f", content)
		w.disguise("f", other)
		w.again()
		w.reads("f", other)

		w.giveOf("g", content, longAgo)
		w.must(w.tree.Rename(w.Context(), "g", "f", backends.Replace))
		w.again()
		w.reads("f", content)

		w.must(w.server.MakeDir("d"))
		w.must(w.server.MakeDir("e"))
		w.giveOf("d/f", content, longAgo)
		w.giveOf("e/f", other, longAgo)
		w.reads("d/f", content)
		w.reads("e/f", other)
		w.must(w.tree.Rename(w.Context(), "d", "old", backends.Replace))
		w.must(w.tree.Rename(w.Context(), "e", "d", backends.Replace))
		w.reads("d/f", other)
		w.again()
		w.reads("d/f", other)
	})
}

func TestPartsThatAreHereAreNotFetchedAgain(t *testing.T) {
	w := newWorld(t, nil)
	content := noise(4<<20, 1)
	w.giveOf("f", content, longAgo)
	f := w.open("f", reading)
	w.part(f, content[1<<20:1<<20+1000], 1<<20)
	w.close(f)
	w.again()
	before := w.tree.Reading()
	f = w.open("f", reading)
	w.asks("a part that was read before", func() { w.part(f, content[1<<20:1<<20+1000], 1<<20) })
	w.part(f, content[2<<20:2<<20+1000], 2<<20)
	w.close(f)
	if r := w.tree.Reading(); r.Hits != before.Hits+1 || r.Misses != before.Misses+1 || r.FromServer != 256<<10 {
		t.Errorf("counted %+v", r)
	}
	w.again()
	w.reads("f", content)
	if r := w.tree.Reading(); r.FromServer != 4<<20-512<<10 {
		t.Errorf("%d bytes came from the server, want all but two blocks of 256 KiB", r.FromServer)
	}
}

// TestFileOpenedFromWhatIsKeptOutlivesItsName: nothing of it is open at the server.
func TestFileOpenedFromWhatIsKeptOutlivesItsName(t *testing.T) {
	eachKept(t, func(w *world, content string) {
		w.reads("f", content)
		w.again()
		f := w.open("f", reading)
		w.must(w.tree.Remove(w.Context(), "f"))
		w.lacks("f")
		p := make([]byte, len(content)+1)
		if n, _ := f.ReadAt(w.Context(), p, 0); string(p[:n]) != content {
			w.Errorf("%d bytes are read of a removed file of %d", n, len(content))
		}
		w.must(f.Close(w.Context(), false))
		w.store.Close()
		w.uncached()
	})
}

func TestCacheMayBeDeletedAtAnyTime(t *testing.T) {
	eachKept(t, func(w *world, content string) {
		w.reads("f", content)
		open := w.open("f", reading)
		w.deleteCache()
		if got := w.read(open); got != content {
			w.Error("an open file is read wrongly")
		}
		w.close(open)
		w.reads("f", content)
		w.again()
		w.reads("f", content)
	})
}

// TestKeptLogIsFetchedAtItsEndOnly: what is kept of a file that grows under its reader stays.
func TestKeptLogIsFetchedAtItsEndOnly(t *testing.T) {
	eachKept(t, func(w *world, content string) {
		if len(content) <= 255<<10 {
			return // fetched whole in any case
		}
		w.reads("f", content)
		w.again()
		f := w.open("f", reading)
		w.part(f, content[:1000], 0)
		w.giveOf("f", content+"more", longAgo.Add(time.Hour))
		_, err := w.tree.Refresh(w.Context(), "f")
		w.must(err)
		w.part(f, content[len(content)-1000:]+"more", int64(len(content)-1000))
		if r := w.tree.Reading(); r.FromServer > 64<<10 {
			w.Errorf("%d bytes came from the server for four", r.FromServer)
		}
		w.close(f)
	})
}

// TestRemovedFileIsNotKept: whoever gets its name is not it.
func TestRemovedFileIsNotKept(t *testing.T) {
	eachKept(t, func(w *world, content string) {
		f := w.open("f", reading)
		w.must(w.tree.Remove(w.Context(), "f"))
		p := make([]byte, len(content)+1)
		if n, _ := f.ReadAt(w.Context(), p, 0); string(p[:n]) != content {
			w.Errorf("%d bytes are read of a removed file of %d", n, len(content))
		}
		w.must(f.Close(w.Context(), false))
		if u := w.tree.Reading().Kept; u.Files != 0 {
			w.Errorf("kept of a removed file: %+v", u)
		}
		other := strings.Repeat("y", len(content))
		w.giveOf("f", other, longAgo)
		w.reads("f", other)
	})
}

// TestTreeThatEndsGivesBackWhatIsOpen: nobody closes the files of a mount that was cut off.
func TestTreeThatEndsGivesBackWhatIsOpen(t *testing.T) {
	eachKept(t, func(w *world, content string) {
		w.replaceTree(outliving{retry.New(w.server, w.options.Retry, retry.Options{})})
		f := w.open("f", reading)
		w.read(f)
		w.must(w.tree.Close(w.Context()))
		w.again()
		w.asks("the next daemon", func() { w.reads("f", content) }, "stat")
		w.must(f.Close(w.Context(), false))
	})
}

// TestFetchedAheadIsCounted: what is fetched ahead of a reader who goes on is used, of one who leaves it is wasted.
func TestFetchedAheadIsCounted(t *testing.T) {
	w := newWorld(t, nil)
	content := noise(8<<20, 1)
	w.giveOf("f", content, longAgo)
	w.reads("f", content)
	if r := w.tree.Reading(); r.FromServer != 8<<20 || r.Wasted != 0 {
		t.Errorf("read to the end: %+v", r)
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.giveOf("g", content, longAgo)
		f := w.open("g", reading)
		for off := int64(0); off < 2<<20; off += 128 << 10 {
			w.part(f, content[off:off+128<<10], off)
		}
		synctest.Wait() // and then what is fetched ahead has come
		w.close(f)
		if r := w.tree.Reading(); r.Wasted == 0 || r.Wasted > r.Prefetched || r.Wasted != r.FromServer-2<<20 {
			t.Errorf("left after 2 MiB: %+v, want all else that came counted as wasted", r)
		}
		w.must(w.tree.Close(t.Context()))
	})
}

// TestNothingOwedGoesWithTheCache: what is owed is no part of it, whatever bound is set for it and whoever deletes it.
func TestNothingOwedGoesWithTheCache(t *testing.T) {
	for what, harm := range map[string]func(w *world){
		"no room": func(w *world) { w.store.SetBounds(1, spool.Floor{Bytes: 1}) },
		"deleted": (*world).deleteCache,
	} {
		t.Run(what, func(t *testing.T) {
			w := newOwing(t, nil)
			contents := map[string]string{"small": noise(5000, 1), "large": noise(3<<20, 2)}
			w.refuse(true)
			for name, content := range contents {
				w.save(name, content)
				w.shows(name, content)
			}
			harm(w)
			for name, content := range contents {
				w.shows(name, content)
			}
			if err := w.nextDaemon(); err == nil {
				t.Error("nothing is owed any more, and the server has taken nothing")
			}
			w.refuse(false)
			w.paid()
			for name, content := range contents {
				w.has(name, content)
			}
		})
	}
}

// deleteCache deletes the cache's directory under the tree. It is moved away first: something may be written into it at this very moment.
func (w *world) deleteCache() {
	w.Helper()
	w.must(os.Rename(w.cache, w.cache+"~"))
	w.must(os.RemoveAll(w.cache + "~"))
}

// TestOwedChangesAreNotHiddenByWhatWasKept: what was acknowledged first and arrived later, with the size and the time of what was kept before, is
// what is read.
func TestOwedChangesAreNotHiddenByWhatWasKept(t *testing.T) {
	for what, again := range map[string]bool{"the same daemon": false, "the next one": true} {
		t.Run(what, func(t *testing.T) {
			w := newOwing(t, func(so *mem.Options, _ *cache.Options) {
				so.Known = backends.HasType | backends.HasPerm | backends.HasSize | backends.HasModTime
			})
			content := noise(10_000, 1)
			other := strings.Repeat("y", len(content))
			w.giveOf("f", content, longAgo)
			w.reads("f", content)
			w.disguise("f", other)
			w.paid()
			if again {
				w.must(w.nextDaemon())
			}
			w.reads("f", other)
		})
	}
}
