package cache_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pierfs/backends"
	"pierfs/backends/mem"
	"pierfs/cache"
)

// growth is more than goes in one piece.
var growth = "theirs " + strings.Repeat("x", 300_000) + "\n"

// newLogging makes a world with a log of one line, of the kind of server asked for, that has learned of the log and gone away.
func newLogging(t *testing.T, kind string, content string, change func(*mem.Options, *cache.Options)) *world {
	w := newRemote(t, func(so *mem.Options, to *cache.Options) {
		*so = directKinds[kind]()
		if change != nil {
			change(so, to)
		}
	})
	w.give("log", content)
	past := time.Now().Add(-time.Hour)
	_, err := w.server.SetAttr(t.Context(), "log", backends.Attr{ModTime: &past, AccTime: &past})
	w.must(err)
	w.sees()
	_, err = w.tree.Stat(t.Context(), "log")
	w.must(err)
	return w
}

// line appends to the log as programs do.
func (w *world) line(text string) {
	w.Helper()
	f := w.open("log", logging)
	w.add(f, text)
	w.close(f)
}

// TestOwedAppendGoesBehindWhatOthersAppended: lines that were acknowledged while the server was away come once, behind those of other hosts,
// also those that are sent by the next daemon; whoever reads or writes on here sees one file.
func TestOwedAppendGoesBehindWhatOthersAppended(t *testing.T) {
	for kind := range directKinds {
		for before, content := range map[string]string{"a file": "one\n", "an empty file": ""} {
			for _, restart := range []bool{false, true} {
				t.Run(fmt.Sprint(kind, ", ", before, ", restart ", restart), func(t *testing.T) {
					t.Parallel()
					w := newLogging(t, kind, content, nil)
					w.away(true)
					w.line("two\n")
					w.line("three\n")
					theirs := content + growth
					w.give("log", theirs)
					if restart {
						if err := w.nextDaemon(); err == nil {
							t.Error("nothing is owed")
						}
					}
					w.away(false)
					w.must(w.tree.Drain(t.Context()))
					w.has("log", theirs+"two\nthree\n")
					w.shows("log", theirs+"two\nthree\n")
					w.line("four\n")
					w.must(w.tree.Drain(t.Context()))
					w.has("log", theirs+"two\nthree\nfour\n")
					w.only("log")
					w.staged(0)
					if owed := w.tree.Owed(); owed.Conflicts != 0 {
						t.Errorf("counted as %+v, want no conflict", owed)
					}
				})
			}
		}
	}
}

// TestProgramGoesOnBehindWhatOthersAppended: a program has the log open all the time, and has written a line that it has not promised yet
// when what it promised before goes behind the lines of others.
func TestProgramGoesOnBehindWhatOthersAppended(t *testing.T) {
	for kind := range directKinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			w := newLogging(t, kind, "one\n", nil)
			f := w.open("log", cache.OpenMode{Read: true, Write: true, Append: true})
			if got := w.read(f); got != "one\n" {
				t.Fatalf("read %q", got)
			}
			w.away(true)
			w.add(f, "two\n")
			w.must(f.Publish(t.Context()))
			w.add(f, "three\n")
			theirs := "one\n" + growth
			w.give("log", theirs)
			w.away(false)
			w.await("what was promised is there", func() bool {
				got, err := w.server.ReadFile("log")
				return err == nil && string(got) == theirs+"two\n"
			})
			w.must(f.Publish(t.Context()))
			if got := w.read(f); got != theirs+"two\nthree\n" {
				t.Errorf("who has it open reads %s", short(got))
			}
			w.close(f)
			w.must(w.tree.Drain(t.Context()))
			w.has("log", theirs+"two\nthree\n")
			w.staged(0)
		})
	}
}

// TestOwedAppendThatIsNone: what was not only appended, or not to a file that only grew, is a conflict as ever.
func TestOwedAppendThatIsNone(t *testing.T) {
	for name, c := range map[string]struct {
		write  func(*world)
		theirs string
	}{
		"a write at the end": {func(w *world) {
			f := w.open("log", writing)
			w.write(f, "two\n", 4)
			w.close(f)
		}, "one\ntheirs\n"},
		"a write, and an append": {func(w *world) {
			f := w.open("log", writing)
			w.write(f, "ONE", 0)
			w.close(f)
			w.line("two\n")
		}, "one\ntheirs\n"},
		"an append, and a write": {func(w *world) {
			w.line("two\n")
			f := w.open("log", writing)
			w.write(f, "TWO", 4)
			w.close(f)
		}, "one\ntheirs\n"},
		"it was cut": {func(w *world) { w.line("two\n") }, "one"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newLogging(t, "sftp", "one\n", nil)
			w.away(true)
			c.write(w)
			w.give("log", c.theirs)
			w.away(false)
			w.must(w.tree.Drain(t.Context()))
			w.has("log", c.theirs)
			kept, err := filepath.Glob(filepath.Join(w.options.Quarantine, "*.data"))
			w.must(err)
			if n := len(w.beside()) + len(kept); n != 1 {
				t.Errorf("ours lies beside as %q and in quarantine as %q, want one of these", w.beside(), kept)
			}
			if owed := w.tree.Owed(); owed.Conflicts != 1 {
				t.Errorf("counted as %+v, want one conflict", owed)
			}
		})
	}
}

// TestOwedAppendToAnotherBeginning: a longer file is not taken for one that grew, as far as the beginning is known here.
func TestOwedAppendToAnotherBeginning(t *testing.T) {
	w := newLogging(t, "sftp", "one\n", nil)
	f := w.open("log", cache.OpenMode{Read: true, Write: true, Append: true})
	if got := w.read(f); got != "one\n" {
		t.Fatalf("read %q", got)
	}
	w.away(true)
	w.add(f, "two\n")
	w.close(f)
	w.give("log", "another and longer\n")
	w.away(false)
	w.must(w.tree.Drain(t.Context()))
	w.has("log", "another and longer\n")
	if beside := w.beside(); len(beside) != 1 {
		t.Errorf("beside it lies %q", beside)
	} else {
		w.has(beside[0], "one\ntwo\n")
	}
}

// TestOwedAppendWithoutAnAnswerAndOthers: the answer to an owed append is lost, and others append behind. What is there is not sent again;
// where only a part of it came there, or theirs stands in its place, nothing is sent and ours is in quarantine.
func TestOwedAppendWithoutAnAnswerAndOthers(t *testing.T) {
	for name, c := range map[string]struct {
		at, server string
		kept       int
	}{
		"all of it came there":    {"commit", "one\ntwo\ntheirs\n", 0},
		"a part of it came there": {"commit", "one\ntwtheirs\n", 1},
		"nothing of it":           {"writeat", "one\ntheirs\n", 1},
	} {
		for kind := range directKinds {
			for _, crash := range []bool{false, true} {
				t.Run(fmt.Sprint(name, ", ", kind, ", killed ", crash), func(t *testing.T) {
					t.Parallel()
					w := newLogging(t, kind, "one\n", nil)
					if kind == "ftp" && c.at == "writeat" {
						t.Log("as a transfer that ends before its first byte")
					}
					gone := make(chan struct{})
					var once atomic.Bool
					w.server.SetFault(func(_ context.Context, op, name string) error {
						if op != c.at || !once.CompareAndSwap(false, true) {
							return nil
						}
						w.give("log", c.server)
						w.server.Break()
						close(gone)
						if crash {
							select {}
						}
						return lost(op, name)
					})
					w.line("two\n")
					<-gone
					if crash {
						w.next()
					}
					w.must(w.tree.Drain(t.Context()))
					w.has("log", c.server)
					w.staged(c.kept)
					if owed := w.tree.Owed(); owed.Conflicts != c.kept {
						t.Errorf("counted as %+v, want %d conflicts", owed, c.kept)
					}
				})
			}
		}
	}
}

// TestDaemonMayDieWhileAnAppendGoesBehindOthers lets a daemon die at each step that it takes from when others have appended until all
// is there: its lines are there once, behind theirs, and nothing else is.
func TestDaemonMayDieWhileAnAppendGoesBehindOthers(t *testing.T) {
	for kind := range directKinds {
		t.Run(kind, func(t *testing.T) {
			passed, _ := dieBehind(t, kind, math.MaxInt)
			if len(passed) < 10 {
				t.Fatalf("it has taken the steps %q alone", passed)
			}
			for at := range passed {
				if dieBehind(t, kind, at+1); t.Failed() {
					t.Fatalf("it died at step %d, %s", at+1, passed[at])
				}
			}
		})
	}
}

func dieBehind(t *testing.T, kind string, at int) (passed []string, died bool) {
	d := &dying{at: at, dead: make(chan struct{})}
	var log lockedBuffer
	w := newLogging(t, kind, "one\n", func(_ *mem.Options, to *cache.Options) {
		to.Hook, to.Logger = d.hook, slog.New(slog.NewTextHandler(&log, nil))
	})
	defer func() {
		if t.Failed() {
			t.Log(log.String())
		}
	}()
	w.away(true)
	w.line("two\n")
	w.line("three\n")
	w.give("log", "one\ntheirs\n")
	d.armed.Store(true)
	w.away(false)
	drained, victim := make(chan error, 1), w.tree
	go func() { drained <- victim.Drain(context.Background()) }() // never returns if the daemon dies
	select {
	case err := <-drained:
		w.must(err)
		died = !d.spare()
	case <-d.dead:
		died = true
	}
	if died {
		w.server.Break()
		w.options.Hook = nil
		w.next()
	}
	w.must(w.tree.Drain(t.Context()))
	w.has("log", "one\ntheirs\ntwo\nthree\n")
	w.only("log")
	w.staged(0)
	return d.sites, died
}

// TestOwedAttributesOfAFileThatOthersOnlyGrew: a mode that was promised is set, and a time that was promised is not, for it is that of a
// content that is no more.
func TestOwedAttributesOfAFileThatOthersOnlyGrew(t *testing.T) {
	mode, at := os.FileMode(0o604), time.Unix(1_000_000_000, 0)
	for name, write := range map[string]func(*world){
		"alone":           func(*world) {},
		"with an append":  func(w *world) { w.line("two\n") },
		"with the former": func(w *world) { w.line("") },
	} {
		for _, restart := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", restart ", restart), func(t *testing.T) {
				t.Parallel()
				w := newLogging(t, "sftp", "one\n", nil)
				w.away(true)
				write(w)
				for _, a := range []backends.Attr{{Perm: &mode}, {ModTime: &at, AccTime: &at}} {
					_, err := w.tree.SetAttr(t.Context(), "log", a)
					w.must(err)
				}
				w.give("log", "one\ntheirs\n")
				theirs, err := w.server.Stat(t.Context(), "log")
				if err == nil {
					t.Fatal("the server is not away")
				}
				if restart {
					if err := w.nextDaemon(); err == nil {
						t.Error("nothing is owed")
					}
				}
				w.away(false)
				w.must(w.tree.Drain(t.Context()))
				if theirs, err = w.server.Stat(t.Context(), "log"); err != nil || theirs.Mode.Perm() != mode || theirs.ModTime.Equal(at) {
					t.Errorf("the server has %+v, %v; want the mode %v and another time than ours", theirs, err, mode)
				}
				if e, err := w.tree.Stat(t.Context(), "log"); err != nil || e.Size != theirs.Size || e.Mode.Perm() != mode {
					t.Errorf("programs see %+v, %v", e.Info, err)
				}
				if owed := w.tree.Owed(); owed.Conflicts != 0 || owed.Files != 0 {
					t.Errorf("counted as %+v, want no conflict", owed)
				}
			})
		}
	}
}

// TestOverwritingIsNeverTakenForAppending: ours is to replace theirs, and the first attempt fails. The next one does not send the end alone.
func TestOverwritingIsNeverTakenForAppending(t *testing.T) {
	w := newLogging(t, "sftp", "one\n", func(_ *mem.Options, to *cache.Options) { to.Conflict = cache.Overwrite })
	f := w.open("log", reading)
	w.read(f)
	w.close(f)
	w.away(true)
	f = w.open("log", cache.OpenMode{Read: true, Write: true})
	w.read(f)
	w.write(f, "two\n", 4)
	w.close(f)
	w.give("log", "o")
	var failed atomic.Bool
	w.server.SetFault(func(_ context.Context, op, name string) error {
		if op == "commit" && failed.CompareAndSwap(false, true) {
			return &backends.Error{Op: op, Code: syscall.ECONNRESET, Class: backends.Transient, Err: errors.New("broken")}
		}
		return nil
	})
	w.tree.Wake()
	w.must(w.tree.Drain(t.Context()))
	if !failed.Load() {
		t.Error("nothing has failed")
	}
	w.has("log", "one\ntwo\n")
	w.only("log")
}
