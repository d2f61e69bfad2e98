package cache_test

import (
	"context"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pierfs/backends"
	"pierfs/backends/mem"
	"pierfs/cache"
)

func lost(op, name string) error {
	return &backends.Error{Op: op, Name: name, Code: syscall.EIO, Class: backends.Lost}
}

// TestAppendGoesOnWhereALostOneEnded loses the connection in the middle of an append, for longer than the budget: what is
// left at the server is taken for ours when the program tries again, and nothing of it doubles.
func TestAppendGoesOnWhereALostOneEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.give("log", "one\n")
		f := w.open("log", writing)
		line := strings.Repeat("two", 1<<20) + "\n"
		if _, err := f.Append(w.Context(), []byte(line)); err != nil {
			t.Fatal(err)
		}
		writes := 0
		w.server.SetFault(func(_ context.Context, op, name string) error {
			if op == "writeat" {
				writes++
			}
			if writes > 1 {
				w.server.Break()
				return lost(op, name)
			}
			return nil
		})
		if err := f.Publish(w.Context()); err == nil {
			t.Fatal("an append without an answer was called done")
		}
		w.server.SetFault(nil)
		time.Sleep(time.Minute)
		if got, _ := w.server.ReadFile("log"); len(got) <= 4 {
			t.Fatal("the fault left nothing behind: this test tests nothing")
		}
		w.close(f)
		w.has("log", "one\n"+line)
		w.must(w.tree.Close(w.Context()))
	})
}

// TestAppendOfAnotherHostIsNotTakenBack lets an append fail after another host has appended as well.
func TestAppendOfAnotherHostIsNotTakenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.give("log", "one\n")
		f := w.open("log", writing)
		if _, err := f.Append(w.Context(), []byte("ours, and longer\n")); err != nil {
			t.Fatal(err)
		}
		w.server.SetFault(func(_ context.Context, op, name string) error {
			if op != "writeat" {
				return nil
			}
			w.give("log", "one\ntheirs\n")
			return syscall.EDQUOT
		})
		wantErrno(t, f.Publish(w.Context()), syscall.EDQUOT)
		w.has("log", "one\ntheirs\n")
		w.server.SetFault(nil)
		wantErrno(t, f.Publish(w.Context()), syscall.ESTALE)
		w.has("log", "one\ntheirs\n")
		w.must(f.Close(w.Context(), true))
		w.must(w.tree.Close(w.Context()))
	})
}

func TestAppendKeepsTheModeThatAnotherHostSet(t *testing.T) {
	w := newWorld(t, nil)
	w.give("log", "one\n")
	f := w.open("log", writing)
	w.must(w.server.Chmod("log", 0o600))
	if _, err := f.Append(w.Context(), []byte("two\n")); err != nil {
		t.Fatal(err)
	}
	w.close(f)
	w.has("log", "one\ntwo\n")
	if info, _ := w.server.Lstat("log"); info.Mode.Perm() != 0o600 {
		t.Errorf("mode %v, want the 0600 that another host set meanwhile", info.Mode)
	}
}

func TestAppendAfterTimesWereSetHasItsOwnTime(t *testing.T) {
	w := newWorld(t, nil)
	w.give("log", "one\n")
	f := w.open("log", writing)
	w.write(f, "two\n", 4)
	past := time.Unix(1000, 0)
	_, err := f.SetAttr(w.Context(), backends.Attr{ModTime: &past, AccTime: &past})
	w.must(err)
	w.write(f, "three\n", 8)
	w.close(f)
	if info, _ := w.server.Lstat("log"); time.Since(info.ModTime) > time.Minute {
		t.Errorf("time %v at the server: the last write came after it was set", info.ModTime)
	}
}

func TestFileThatIsCutWhileItIsSentArrivesCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.open("f", creating)
		w.write(f, strings.Repeat("x", 4<<20), 0)
		cut := false
		w.server.SetFault(func(_ context.Context, op, _ string) error {
			if op == "writeat" && !cut {
				cut = true
				size := int64(10)
				_, err := f.SetAttr(w.Context(), backends.Attr{Size: &size})
				w.must(err)
			}
			return nil
		})
		began := time.Now()
		w.must(f.Publish(w.Context()))
		if took := time.Since(began); took > 0 {
			t.Errorf("publication waited %v for nothing", took)
		}
		w.has("f", "xxxxxxxxxx")
		w.only("f")
		w.must(f.Close(w.Context(), false))
		w.must(w.tree.Close(w.Context()))
	})
}

// TestClaimThatWasGivenUpIsClaimedAnew lets the first publication of an exclusive creation be refused: when the program tries
// again, another host may have the name.
func TestClaimThatWasGivenUpIsClaimedAnew(t *testing.T) {
	w := newWorld(t, nil)
	f := w.open("lock", claiming)
	w.write(f, "mine", 0)
	w.server.SetFault(func(_ context.Context, op, _ string) error {
		if op == "writeat" {
			return syscall.ENOSPC
		}
		return nil
	})
	wantErrno(t, f.Publish(w.Context()), syscall.ENOSPC)
	w.server.SetFault(nil)
	w.give("lock", "theirs")
	wantErrno(t, f.Publish(w.Context()), syscall.EEXIST)
	w.has("lock", "theirs")
	w.must(w.server.Delete("lock"))
	w.must(f.Publish(w.Context()))
	w.has("lock", "mine")
	w.only("lock")
	w.must(f.Close(w.Context(), false))
}

// TestClearedFileHasTheTimeOfClearing creates a file exclusively, which opens its place on the server, writes to it, and
// cuts it to nothing again later: nothing is sent then that would change the time.
func TestClearedFileHasTheTimeOfClearing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.open("new", cache.OpenMode{Write: true, Create: true, Exclusive: true, Perm: 0o644})
		w.write(f, "gone again", 0)
		time.Sleep(time.Minute)
		if _, err := f.SetAttr(w.Context(), backends.Attr{Size: new(int64)}); err != nil {
			t.Fatal(err)
		}
		cleared := time.Now()
		w.close(f)
		if info, err := w.server.Stat(w.Context(), "new"); err != nil || info.ModTime.Before(cleared.Truncate(time.Second)) {
			t.Errorf("the server tells %v (%v), want a time from %v on", info.ModTime, err, cleared)
		}
		w.must(w.tree.Close(w.Context()))
	})
}

// TestFileCutToWhatItWasHasTheTimeOfCutting adds to a file what is cut off again before it is published: the server has all bytes
// already, and is told of the time alone.
func TestFileCutToWhatItWasHasTheTimeOfCutting(t *testing.T) {
	for name, change := range map[string]func(*backends.Caps){"in place": nil, "by appending": func(c *backends.Caps) { c.RandomWrite = false }} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, func(o *mem.Options, _ *cache.Options) { o.Change = change })
				f := w.open("log", creating)
				w.write(f, "line\n", 0)
				w.must(f.Publish(w.Context()))
				_, err := f.SetAttr(w.Context(), backends.Attr{ModTime: new(time.Unix(1e8, 0))})
				w.must(err)
				w.write(f, "more", 5)
				_, err = f.SetAttr(w.Context(), backends.Attr{Size: new(int64(5))})
				w.must(err)
				w.close(f)
				w.has("log", "line\n")
				if info, err := w.server.Stat(w.Context(), "log"); err != nil || time.Since(info.ModTime) > time.Minute {
					t.Errorf("the server tells %v (%v), want a time of now", info.ModTime, err)
				}
				w.must(w.tree.Close(w.Context()))
			})
		})
	}
}

// TestClaimOutlivesARenameThatFailed: a name that was won with O_EXCL is not lost by an outage in which another file was to
// be renamed over it.
func TestClaimOutlivesARenameThatFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.replaceTree(w.server)
		w.give("other", "theirs")
		f := w.open("won", claiming)
		w.server.SetFault(func(_ context.Context, op, name string) error {
			if op == "abort" || op == "rename" || op == "remove" {
				w.server.Break()
				return lost(op, name)
			}
			return nil
		})
		if err := w.tree.Rename(w.Context(), "other", "won", backends.Replace); err == nil {
			t.Fatal("a rename without an answer was called done")
		}
		w.server.SetFault(nil)
		w.has("won", "") // the outage kept it
		w.write(f, "ours", 0)
		w.close(f)
		w.has("won", "ours")
		w.has("other", "theirs")
		w.must(w.tree.Close(w.Context()))
	})
}

// TestFileThatSomebodyElseMadeMeanwhileIsNotReplaced: who creates a file without O_TRUNC would have opened the other's, had
// the server been asked. With O_TRUNC the last one wins, as ever.
func TestFileThatSomebodyElseMadeMeanwhileIsNotReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		for _, name := range []string{"log", "cut", "cut later"} {
			if _, err := w.tree.Stat(w.Context(), name); backends.Errno(err) != syscall.ENOENT {
				t.Fatal(err)
			}
			w.give(name, "theirs")
		}
		log := w.open("log", creating)
		w.write(log, "ours", 0)
		wantErrno(t, log.Publish(w.Context()), syscall.ESTALE)
		w.must(log.Close(w.Context(), true))
		w.has("log", "theirs")

		mode := creating
		mode.Truncate = true
		cut := w.open("cut", mode)
		w.write(cut, "ours", 0)
		w.close(cut)
		w.has("cut", "ours")

		later := w.open("cut later", creating)
		w.write(later, "gone", 0)
		_, err := later.SetAttr(w.Context(), backends.Attr{Size: new(int64)})
		w.must(err)
		w.write(later, "ours", 0)
		w.close(later)
		w.has("cut later", "ours")
		w.must(w.tree.Close(w.Context()))
	})
}
