package cache_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pierfs/backends"
	"pierfs/backends/mem"
	"pierfs/cache"
)

// contentOf is what file i of fillSmall holds.
func contentOf(i int) string { return strings.Repeat(fmt.Sprintf("%05d|", i), 100) }

func fillSmall(dir string, files int, pattern string) func(*world) {
	return func(w *world) {
		w.must(w.server.MakeDir(dir))
		for i := range files {
			w.give(fmt.Sprintf(dir+"/"+pattern, i), contentOf(i))
		}
		time.Sleep(time.Hour) // they are old
	}
}

// cat reads a file as a program does.
func (w *world) cat(name, want string) {
	w.Helper()
	f, _, err := w.tree.Open(w.Context(), name, reading)
	if err != nil {
		w.Error(err)
		return
	}
	if got := w.read(f); got != want {
		w.Errorf("%s holds %s, want %s", name, short(got), short(want))
	}
	w.must(f.Close(w.Context(), false))
}

// TestNextSmallFilesAreThere: 200 small files, one after the other, in the order of the listing, of their names or of their numbers.
func TestNextSmallFilesAreThere(t *testing.T) {
	shuffled := rand.New(rand.NewPCG(1, 2)).Perm(200)
	for name, test := range map[string]struct {
		options mem.Options
		pattern string
		at      func(i int) int
		most    time.Duration
		opens   int // at most
	}{
		"as listed":         {mem.Options{}, "f%05d", func(i int) int { return i }, 1200 * time.Millisecond, 200},
		"in numbers":        {mem.Options{}, "f%d", func(i int) int { return i }, 1200 * time.Millisecond, 200},
		"in three sessions": {mem.FTP(func(c *backends.Caps) { c.Streams = 3 }), "f%05d", func(i int) int { return i }, 5600 * time.Millisecond, 200},
		"in all four":       {mem.FTP(func(c *backends.Caps) { c.Streams, c.Shorts = 3, 4 }), "f%05d", func(i int) int { return i }, 4300 * time.Millisecond, 200},
		"in any order":      {mem.Options{}, "f%05d", func(i int) int { return shuffled[i] }, time.Hour, 240},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newFar(t, func(so *mem.Options, _ *cache.Options) { *so = test.options; so.Fault = wayOf(far) }, fillSmall("d", 200, test.pattern))
				w.list("d")
				calls := w.within("200 files", test.most, func() {
					for i := range 200 {
						w.cat(fmt.Sprintf("d/"+test.pattern, test.at(i)), contentOf(test.at(i)))
					}
				})
				if n := calls["open"] + calls["retr"]; n > 2*test.opens {
					t.Errorf("%v, want each file opened once", calls)
				}
				w.must(w.tree.Close(context.Background()))
			})
		})
	}
}

// TestNextFilesAreBoundedInBytes: on their way, and open ahead of all who read.
func TestNextFilesAreBoundedInBytes(t *testing.T) {
	const size, dirs, files, read = 200 << 10, 3, 100, 30
	synctest.Test(t, func(t *testing.T) {
		content := noise(size, 1)
		var opening, most atomic.Int32
		w := newFar(t, func(so *mem.Options, to *cache.Options) {
			to.MetadataTTL = time.Minute
			so.Fault = func(ctx context.Context, op, name string) error {
				if op == "open" {
					most.Store(max(most.Load(), opening.Add(1)))
				}
				return wayOf(far)(ctx, op, name)
			}
		}, func(w *world) {
			for d := range dirs {
				w.must(w.server.MakeDir(fmt.Sprint("d", d)))
				for i := range files {
					w.giveOf(fmt.Sprintf("d%d/f%02d", d, i), content, longAgo)
				}
			}
		})
		w.server.SetAfter(func(_ context.Context, op, _ string) error {
			if op == "readlast" {
				opening.Add(-1)
			}
			return nil
		})
		calls := w.within("30 files in each of three directories", time.Hour, func() {
			for d := range dirs {
				w.list(fmt.Sprint("d", d))
			}
			for i := range read {
				for d := range dirs {
					w.cat(fmt.Sprintf("d%d/f%02d", d, i), content)
				}
			}
			time.Sleep(20 * time.Second) // all that is to be opened ahead is
		})
		if n := most.Load(); n > 1<<20/size+1 { // and what is asked for by itself
			t.Errorf("%d files of %d bytes were on their way at a time", n, size)
		}
		if ahead := calls["open"] - read*dirs; ahead*size > 16<<20 || ahead*size < 12<<20 {
			t.Errorf("%d files of %d bytes are open ahead, want 16 MiB of them at most, and not far less", ahead, size)
		}
		w.must(w.tree.Close(context.Background()))
	})
}

// TestNobodyIsFollowedInAHugeDirectory: to know what comes next there would cost more than it saves.
func TestNobodyIsFollowedInAHugeDirectory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFar(t, nil, fillSmall("d", 10, "f%05d"))
		for i := 10; i <= 20_000; i++ {
			w.must(w.server.WriteFile(fmt.Sprintf("d/f%05d", i), nil))
		}
		w.list("d")
		calls := w.within("10 files", time.Hour, func() {
			for i := range 10 {
				w.cat(fmt.Sprintf("d/f%05d", i), contentOf(i))
			}
			synctest.Wait()
		})
		if calls["open"] != 10 {
			t.Errorf("%v, want only the files opened that were asked for", calls)
		}
		w.must(w.tree.Close(context.Background()))
	})
}

// TestFileThatComesAheadIsNotAskedFor: a program looks a file up before it opens it, on a server where each question needs a session.
func TestFileThatComesAheadIsNotAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := mem.FTP(func(c *backends.Caps) { c.Streams, c.Shorts = 3, 4 })
		w := newFar(t, func(so *mem.Options, _ *cache.Options) { *so = server; so.Fault = wayOf(far) }, fillSmall("d", 100, "f%05d"))
		calls := w.within("100 files", 3500*time.Millisecond, func() {
			for i := range 100 {
				name := fmt.Sprintf("d/f%05d", i)
				w.stat(name)
				w.cat(name, contentOf(i))
			}
		})
		if calls["stat"] > 10 || calls["open"] > 100 {
			t.Errorf("%v, want each file opened once and hardly any asked for besides", calls)
		}
		w.must(w.tree.Close(context.Background()))
	})
}

func TestNextSmallFilesAreThereForThreads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFar(t, nil, fillSmall("d", 200, "f%05d"))
		w.list("d")
		calls := w.within("200 files by 16 threads", 600*time.Millisecond, func() {
			var all sync.WaitGroup
			var mu sync.Mutex
			next := 0
			for range 16 {
				all.Go(func() {
					for {
						mu.Lock()
						i := next
						next++
						mu.Unlock()
						if i >= 200 {
							return
						}
						w.cat(fmt.Sprintf("d/f%05d", i), contentOf(i))
					}
				})
			}
			all.Wait()
		})
		if calls["open"] > 210 {
			t.Errorf("%v, want each file opened once", calls)
		}
	})
}

// TestFileOpenedAheadIsNoOlderThanItsLifetime: what was changed on the server is seen after the lifetime at the latest, and an
// open file never shows a mix.
func TestFileOpenedAheadIsNoOlderThanItsLifetime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFar(t, nil, fillSmall("d", 50, "f%05d"))
		w.list("d")
		for i := range 4 {
			w.cat(fmt.Sprintf("d/f%05d", i), contentOf(i))
		}
		synctest.Wait()
		time.Sleep(time.Second) // all are there
		for i := range 50 {
			w.give(fmt.Sprintf("d/f%05d", i), "changed")
		}
		time.Sleep(1200 * time.Millisecond)
		for i := range 50 {
			w.cat(fmt.Sprintf("d/f%05d", i), "changed")
		}
	})
}

// TestNothingStaysOpenAhead: what nobody came for is closed after its lifetime, and is not opened again and again.
func TestNothingStaysOpenAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFar(t, nil, fillSmall("d", 200, "f%05d"))
		w.list("d")
		calls := w.within("four files", time.Hour+time.Minute, func() {
			for i := range 4 {
				w.cat(fmt.Sprintf("d/f%05d", i), contentOf(i))
			}
			time.Sleep(time.Hour)
		})
		if calls["open"] > 4+20 {
			t.Errorf("%v, want no more than a first window", calls)
		}
	})
}

// TestChangesMeetNothingThatIsOpenAhead: files that were opened ahead are written, truncated, removed, renamed and made anew as if
// they had not been.
func TestChangesMeetNothingThatIsOpenAhead(t *testing.T) {
	for name, options := range map[string]mem.Options{"any order": {}, "streams": mem.FTP(func(c *backends.Caps) { c.Streams = 3 })} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newFar(t, func(so *mem.Options, _ *cache.Options) { *so = options; so.Fault = wayOf(far) }, fillSmall("d", 40, "f%05d"))
				w.list("d")
				for i := range 4 {
					w.cat(fmt.Sprintf("d/f%05d", i), contentOf(i))
				}
				f := w.open("d/f00004", writing)
				w.write(f, "written", 0)
				w.close(f)
				w.has("d/f00004", "written"+contentOf(4)[7:])
				size := int64(3)
				if _, err := w.tree.SetAttr(w.Context(), "d/f00005", backends.Attr{Size: &size}); err != nil {
					t.Error(err)
				}
				w.has("d/f00005", contentOf(5)[:3])
				w.must(w.tree.Remove(w.Context(), "d/f00006"))
				w.lacks("d/f00006")
				w.must(w.tree.Rename(w.Context(), "d/f00007", "d/f00008", backends.Replace))
				w.cat("d/f00008", contentOf(7))
				w.misses("d/f00007")
				w.must(w.server.Delete("d/f00009"))
				f = w.open("d/f00009", claiming) // somebody else removed it a moment ago
				w.close(f)
				w.has("d/f00009", "")
				w.must(w.tree.Rename(w.Context(), "d", "e", backends.Replace))
				w.cat("e/f00010", contentOf(10))
			})
		})
	}
}

// TestNameKnownToBeAbsentIsNotOpenedAhead: a file that was removed since the directory was listed is not opened ahead of who reads the
// others, and who makes it anew does so at once.
func TestNameKnownToBeAbsentIsNotOpenedAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFar(t, nil, fillSmall("d", 12, "f%05d"))
		w.list("d")
		gone := map[string]bool{}
		for i := 6; i < 12; i++ {
			name := fmt.Sprintf("d/f%05d", i)
			w.must(w.tree.Remove(w.Context(), name))
			gone[name] = true
		}
		w.server.SetFault(func(ctx context.Context, op, name string) error {
			if op == "open" && gone[name] {
				t.Errorf("%s is opened, which was removed", name)
			}
			return wayOf(far)(ctx, op, name)
		})
		for i := range 6 {
			w.cat(fmt.Sprintf("d/f%05d", i), contentOf(i))
		}
		synctest.Wait()
		f := w.open("d/f00007", claiming)
		w.close(f)
		w.has("d/f00007", "")
	})
}

// TestReaderWhoStaysLongHasFewFilesOpenAhead.
func TestReaderWhoStaysLongHasFewFilesOpenAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFar(t, nil, fillSmall("d", 100, "f%05d"))
		calls := w.within("100 files, one a quarter of a second", time.Hour, func() {
			for i := range 100 {
				if i%4 == 0 {
					w.list("d")
				}
				w.cat(fmt.Sprintf("d/f%05d", i), contentOf(i))
				time.Sleep(250 * time.Millisecond)
			}
		})
		if calls["open"] > 130 {
			t.Errorf("%v, want hardly more than 100 files opened", calls)
		}
	})
}

// TestNextFilesYieldToAnOutage.
func TestNextFilesYieldToAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFar(t, nil, fillSmall("d", 100, "f%05d"))
		w.list("d")
		for i := range 2 {
			w.cat(fmt.Sprintf("d/f%05d", i), contentOf(i))
		}
		w.server.SetFault(func(ctx context.Context, op, name string) error {
			time.Sleep(far)
			return &backends.Error{Op: op, Name: name, Code: 112, Class: backends.Transient}
		})
		calls := w.within("a reader who meets an outage", time.Hour, func() {
			for i := range 20 {
				if f, _, err := w.tree.Open(w.Context(), fmt.Sprintf("d/f%05d", i+2), reading); err == nil {
					t.Error("a server that is away answers")
					f.Close(w.Context(), true)
				}
			}
		})
		if calls["open"] > 150 {
			t.Errorf("%v", calls)
		}
		names, err := w.server.Names("d")
		w.must(err)
		slices.Sort(names)
	})
}
