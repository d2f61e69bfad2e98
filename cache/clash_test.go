package cache_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pierfs/backends"
	"pierfs/backends/mem"
	"pierfs/cache"
)

// patched opens f, reads it, changes a part of it, and lets another host write to it before it is published.
func patched(w *world, theirs string) *cache.File {
	w.Helper()
	w.give("f", "one two three")
	f := w.open("f", cache.OpenMode{Read: true, Write: true})
	if got := w.read(f); got != "one two three" {
		w.Fatalf("read %q", got)
	}
	w.write(f, "TWO", 4)
	time.Sleep(time.Minute)
	w.give("f", theirs)
	return f
}

func withConflict(c cache.Conflict) func(*mem.Options, *cache.Options) {
	return func(_ *mem.Options, o *cache.Options) { o.Conflict, o.Host = c, "here" }
}

// beside returns the names of conflicts on the server.
func (w *world) beside() (names []string) {
	w.Helper()
	for info, err := range w.server.List(w.Context(), "") {
		w.must(err)
		if strings.Contains(info.Name, ".conflict-") {
			names = append(names, info.Name)
		}
	}
	return names
}

func TestChangeOfWhatSomebodyElseChangedIsKeptBeside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, withConflict(cache.KeepBoth))
		f := patched(w, "theirs, meanwhile")
		wantErrno(t, f.Publish(w.Context()), syscall.ESTALE)
		w.has("f", "theirs, meanwhile")
		names := w.beside()
		if len(names) != 1 || !strings.HasPrefix(names[0], "f.conflict-here-") {
			t.Fatalf("beside it lies %q", names)
		}
		w.has(names[0], "one TWO three")
		w.only("f", names[0])
		w.write(f, "more", 0)
		wantErrno(t, f.Publish(w.Context()), syscall.ESTALE)
		w.must(f.Close(w.Context(), true))
		if owed := w.tree.Owed(); owed.Conflicts != 1 || owed.Quarantined != 0 {
			t.Errorf("counted as %+v", owed)
		}
		f = w.open("f", cache.OpenMode{Read: true})
		if got := w.read(f); got != "theirs, meanwhile" {
			t.Errorf("the name shows %q", got)
		}
		w.close(f)
	})
}

func TestConflictFollowsThePolicy(t *testing.T) {
	for name, c := range map[string]struct {
		policy cache.Conflict
		code   syscall.Errno
		holds  string
		kept   int
	}{
		"overwrite": {cache.Overwrite, 0, "one TWO three", 0},
		"fail":      {cache.Fail, syscall.ESTALE, "theirs", 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, withConflict(c.policy))
				f := patched(w, "theirs")
				wantErrno(t, f.Publish(w.Context()), c.code)
				w.has("f", c.holds)
				w.only("f")
				w.must(f.Close(w.Context(), c.code != 0))
				kept, err := filepath.Glob(filepath.Join(w.options.Quarantine, "*.data"))
				if w.must(err); len(kept) != c.kept {
					t.Fatalf("quarantine holds %v, want %d", kept, c.kept)
				}
				for _, path := range kept {
					if got, err := os.ReadFile(path); err != nil || string(got) != "one TWO three" {
						t.Errorf("it is %q, %v", got, err)
					}
				}
			})
		})
	}
}

func TestLastWriterOfAWholeFileWins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.give("f", "old")
		f := w.open("f", cutting)
		w.write(f, "ours", 0)
		time.Sleep(time.Minute)
		w.give("f", "theirs")
		w.must(f.Publish(w.Context()))
		w.has("f", "ours")

		time.Sleep(time.Minute)
		w.give("f", "theirs again")
		w.write(f, "OU", 0) // of what was published: that builds on it
		wantErrno(t, f.Publish(w.Context()), syscall.ESTALE)
		w.has("f", "theirs again")
		w.must(f.Close(w.Context(), true))
		if got := w.beside(); len(got) != 1 {
			t.Errorf("beside it lies %q", got)
		}
	})
}

// TestConflictOfAPartIsQuarantined: what was never fetched of the old content cannot be completed from the new one.
func TestConflictOfAPartIsQuarantined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.give("f", strings.Repeat("old", 1<<20))
		f := w.open("f", writing)
		w.write(f, "part", 0)
		time.Sleep(time.Minute)
		w.give("f", "theirs")
		wantErrno(t, f.Publish(w.Context()), syscall.ESTALE)
		w.has("f", "theirs")
		w.only("f")
		w.must(f.Close(w.Context(), true))
		if kept, err := filepath.Glob(filepath.Join(w.options.Quarantine, "*.data")); err != nil || len(kept) != 1 {
			t.Errorf("quarantine holds %v, %v", kept, err)
		}
	})
}

// TestUndecidableAppendIsQuarantined loses the connection in an append, and another host appends as well: nobody can tell whose bytes
// are whose. They are not sent a second time, and not thrown away.
func TestUndecidableAppendIsQuarantined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.give("log", "one\n")
		f := w.open("log", writing)
		if _, err := f.Append(w.Context(), []byte("ours\n")); err != nil {
			t.Fatal(err)
		}
		w.server.SetFault(func(_ context.Context, op, name string) error {
			if op == "writeat" {
				w.give("log", "one\ntheirs\n")
				w.server.Break()
				return lost(op, name)
			}
			return nil
		})
		wantErrno(t, f.Publish(w.Context()), syscall.ESTALE)
		w.server.SetFault(nil)
		w.has("log", "one\ntheirs\n")
		w.must(f.Close(w.Context(), true))
		kept, err := filepath.Glob(filepath.Join(w.options.Quarantine, "*.data"))
		if err != nil || len(kept) != 1 {
			t.Fatalf("quarantine holds %v, %v", kept, err)
		}
		if got, err := os.ReadFile(kept[0]); err != nil || !strings.HasSuffix(string(got), "ours\n") {
			t.Errorf("it is %q, %v", got, err)
		}
		if w.tree.Owed().LastError == nil {
			t.Error("nobody is told")
		}
		w.only("log")
	})
}

// TestOwnUploadWithoutAnAnswerIsNoConflict: what an attempt of ours has brought there is not somebody else's.
func TestOwnUploadWithoutAnAnswerIsNoConflict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.give("f", "one two three")
		f := w.open("f", cache.OpenMode{Read: true, Write: true})
		w.write(f, "TWO", 4)
		var times atomic.Int32
		w.server.SetAfter(func(_ context.Context, op, name string) error {
			if times.Add(1) < 100 && op == "commit" {
				w.server.Break()
				return &backends.Error{Op: op, Name: name, Code: syscall.EIO, Class: backends.Lost}
			}
			return nil
		})
		_ = f.Publish(w.Context()) // whatever is told of the first one
		w.server.SetAfter(nil)
		w.must(f.Publish(w.Context()))
		w.has("f", "one TWO three")
		w.only("f")
		w.must(f.Close(w.Context(), false))
	})
}

// TestMismatchIsSentAgainAndThenTold: what arrived is not what was sent, once and for good.
func TestMismatchIsSentAgainAndThenTold(t *testing.T) {
	for name, times := range map[string]int{"once": 1, "for good": 100} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, nil)
				w.give("f", "old")
				sent := 0
				w.server.SetFault(func(_ context.Context, op, name string) error {
					if op != "commit" {
						return nil
					}
					if sent++; sent > times {
						return nil
					}
					return &backends.Error{Op: op, Name: name, Code: syscall.EIO, Cause: backends.CauseMismatch}
				})
				f := w.open("f", cutting)
				w.write(f, "new", 0)
				began := time.Now()
				err := f.Publish(w.Context())
				w.server.SetFault(nil)
				if times == 1 {
					w.must(err)
					w.has("f", "new")
				} else {
					wantErrno(t, err, syscall.EIO)
					w.has("f", "old")
				}
				if want := min(times, w.options.Retry.Count) + 1; sent != want || time.Since(began) > time.Second {
					t.Errorf("it was sent %d times in %v, want %d", sent, time.Since(began), want)
				}
				w.must(f.Close(w.Context(), true))
				w.only("f")
			})
		})
	}
}

// TestDoneFileTellsThatAFileIsComplete: it comes after the file has its name, and again after something was appended.
func TestDoneFileTellsThatAFileIsComplete(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(_ *mem.Options, o *cache.Options) { o.DoneFile = "NAME.done" })
		w.must(w.server.MakeDir("d"))
		var order []string
		w.server.SetAfter(func(_ context.Context, op, name string) error {
			if op == "commit" {
				order = append(order, name)
			}
			return nil
		})
		if got := w.list("d"); len(got) != 0 {
			t.Fatalf("d shows %q", got)
		}
		f := w.open("d/f", cuttingNew)
		w.write(f, "content", 0)
		w.close(f)
		if got := w.list("d"); !slices.Equal(got, []string{"f", "f.done"}) {
			t.Errorf("d shows %q", got)
		}
		w.has("d/f.done", "")
		f = w.open("d/f", writing)
		_, err := f.Append(w.Context(), []byte(", and more"))
		w.must(err)
		w.close(f)
		w.close(w.open("d/own.done", cuttingNew))
		w.server.SetAfter(nil)
		if want := []string{"d/f", "d/f.done", "d/f", "d/f.done", "d/own.done"}; !slices.Equal(order, want) {
			t.Errorf("in this order: %q, want %q", order, want)
		}

		w.server.SetFault(func(_ context.Context, op, name string) error {
			if strings.HasSuffix(name, ".done") {
				return &backends.Error{Op: op, Name: name, Code: syscall.EACCES}
			}
			return nil
		})
		f = w.open("d/g", cuttingNew)
		w.write(f, "content", 0)
		wantErrno(t, f.Publish(w.Context()), syscall.EACCES)
		w.server.SetFault(nil)
		w.must(f.Publish(w.Context()))
		w.must(f.Close(w.Context(), false))
		w.has("d/g", "content")
		w.has("d/g.done", "")

		// What was appended, and then could not be told, is not appended again.
		w.server.SetFault(func(_ context.Context, op, name string) error {
			if op == "create" && strings.HasSuffix(name, ".done") {
				return &backends.Error{Op: op, Name: name, Code: syscall.EACCES}
			}
			return nil
		})
		f = w.open("d/g", writing)
		_, err = f.Append(w.Context(), []byte(", and more"))
		w.must(err)
		wantErrno(t, f.Publish(w.Context()), syscall.EACCES)
		w.server.SetFault(nil)
		w.must(f.Publish(w.Context()))
		w.must(f.Close(w.Context(), false))
		w.has("d/g", "content, and more")
	})
}

// TestAppendedBytesAreCompared: what was appended is read back where that is wanted. If it is something else, the program is told and nothing
// is appended twice.
func TestAppendedBytesAreCompared(t *testing.T) {
	for name, damage := range map[string]bool{"sound": false, "damaged": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, func(_ *mem.Options, o *cache.Options) { o.CompareEnds = true })
				w.give("f", "old")
				f := w.open("f", writing)
				_, err := f.Append(w.Context(), []byte(", new"))
				w.must(err)
				w.server.SetAfter(func(_ context.Context, op, name string) error {
					if op == "commit" && damage {
						w.give("f", "old, nEw")
					}
					return nil
				})
				err = f.Publish(w.Context())
				w.server.SetAfter(nil)
				if !damage {
					w.must(err)
					w.has("f", "old, new")
					w.must(f.Close(w.Context(), false))
					return
				}
				wantErrno(t, err, syscall.EIO)
				wantErrno(t, f.Publish(w.Context()), syscall.ESTALE)
				w.has("f", "old, nEw")
				w.must(f.Close(w.Context(), true))
				kept, err := filepath.Glob(filepath.Join(w.options.Quarantine, "*.data"))
				if err != nil || len(kept) != 1 {
					t.Fatalf("quarantine holds %q, %v; want ours", kept, err)
				}
				if got, err := os.ReadFile(kept[0]); err != nil || !strings.HasSuffix(string(got), ", new") {
					t.Errorf("it is %q, %v", got, err)
				}
			})
		})
	}
}

// TestSmallChangesGoIntoTheFile: with InPlace the changed bytes alone are sent, and what was never read is not fetched.
func TestSmallChangesGoIntoTheFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(_ *mem.Options, o *cache.Options) { o.InPlace = true })
		want := []byte(strings.Repeat("0123456789abcdef", 1<<19)) // 8 MiB
		w.give("f", string(want))
		fetched, temps := 0, 0
		count := func(_ context.Context, op, name string) error {
			switch op {
			case "readat", "readlast":
				fetched++
			case "create":
				temps++
			}
			return nil
		}
		w.server.SetFault(count)
		f := w.open("f", writing)
		put := func(text string, off int) {
			w.write(f, text, int64(off))
			want = append(want[:off], append([]byte(text), want[min(off+len(text), len(want)):]...)...)
		}
		cut := func(size int) {
			_, err := f.SetAttr(w.Context(), backends.Attr{Size: new(int64(size))})
			w.must(err)
			want = append(want[:min(size, len(want))], make([]byte, max(0, size-len(want)))...)
		}
		check := func(what string) {
			w.must(f.Publish(w.Context()))
			if got, err := w.server.ReadFile("f"); err != nil || string(got) != string(want) {
				t.Errorf("%s: the server has %d bytes, want %d, %v", what, len(got), len(want), err)
			}
		}
		put("patched", 5_000_000)
		put("again", 100)
		check("patched")
		put("at the end and behind", len(want)-5)
		check("grown")
		cut(7_000_000)
		cut(7_500_000)
		put("x", 7_200_000)
		check("cut, and grown again")
		cut(8_000_000)
		check("only grown")
		if fetched != 0 || temps != 0 {
			t.Errorf("%d reads and %d temporary files", fetched, temps)
		}

		// An attempt breaks off, and another program of ours goes on before the next.
		w.server.SetFault(func(_ context.Context, op, name string) error {
			if op == "commit" {
				w.server.Break()
				return lost(op, name)
			}
			return nil
		})
		put("first", 1_000_000)
		put("longer", len(want)-2)
		if f.Publish(w.Context()) == nil {
			t.Error("a publication without an answer was called done")
		}
		w.server.SetFault(count)
		put("second", 2_000_000)
		cut(7_900_000)
		check("after a failure")
		w.must(f.Close(w.Context(), false))

		f = w.open("f", writing)
		w.write(f, "ours", 10)
		time.Sleep(time.Minute)
		w.give("f", "theirs")
		wantErrno(t, f.Publish(w.Context()), syscall.ESTALE)
		w.has("f", "theirs")
		w.must(f.Close(w.Context(), true))
	})
}
