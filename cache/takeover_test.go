package cache_test

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pierfs/backends"
	"pierfs/backends/mem"
	"pierfs/backends/retry"
	"pierfs/cache"
)

// breaking is a line: every so many writes the connection breaks, for ever.
type breaking struct {
	w     *world
	every int                         // 0 never breaks
	harm  func(op, name string) error // asked before each call besides; nil is none

	mu     sync.Mutex
	calls  map[string]int
	writes int // since the last break
}

func (b *breaking) hook(_ context.Context, op, name string) error {
	b.mu.Lock()
	b.calls[op]++
	cut := false
	if op == "writeat" {
		b.writes++
		cut = b.every > 0 && b.writes > b.every
	}
	if cut {
		b.writes = 0
	}
	harm := b.harm
	b.mu.Unlock()
	if cut {
		return b.cut(op, name)
	}
	if harm != nil {
		return harm(op, name)
	}
	return nil
}

// cut breaks the connection.
func (b *breaking) cut(op, name string) error {
	b.w.server.Break()
	return &backends.Error{Op: op, Name: name, Code: syscall.ECONNRESET, Class: backends.Lost, Cause: backends.CauseConnLost, Err: errors.New("the test cuts the line")}
}

func (b *breaking) count(op string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.calls[op]
}

// temps returns the temporary names at the server.
func (b *breaking) temps() []string {
	names, _ := b.w.server.Names("")
	return slices.DeleteFunc(names, func(n string) bool { return !strings.Contains(n, ".pierfs-") })
}

// overBadLine runs f in a bubble with a line that breaks, with commit = "close" and with "background", and looks for what is left behind.
func overBadLine(t *testing.T, f func(w *world, b *breaking)) {
	t.Helper()
	for _, background := range []bool{false, true} {
		t.Run(map[bool]string{false: "close", true: "background"}[background], func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				patient := func(_ *mem.Options, to *cache.Options) { to.Retry = retry.Policy{Count: 20, Timeout: 10 * time.Second} }
				var w *world
				if background {
					w = newOwing(t, patient)
				} else {
					w = newWorld(t, patient)
				}
				b := &breaking{w: w, calls: map[string]int{}}
				w.server.SetFault(b.hook)
				f(w, b)
				w.server.SetFault(nil)
				time.Sleep(time.Minute) // what is left is swept meanwhile
				w.only("f")
				w.must(w.tree.Close(w.Context()))
				if left, err := os.ReadFile(w.options.Staging + "/litter"); err == nil {
					t.Errorf("still known to be left on the server: %s", left)
				}
			})
		})
	}
}

// arrives writes content to f as a program does, and waits until the server has it.
func (b *breaking) arrives(content []byte) {
	b.w.Helper()
	f := b.w.open("f", creating)
	b.w.write(f, string(content), 0)
	b.w.must(f.Publish(b.w.Context()))
	b.w.must(f.Close(b.w.Context(), false))
	for deadline := time.Now().Add(time.Hour); b.w.tree.Owed().Files > 0; time.Sleep(time.Second) {
		if time.Now().After(deadline) {
			b.w.Fatalf("it did not arrive: %+v", b.w.tree.Queue())
		}
	}
	b.w.has("f", string(content))
}

const longer = 64 << 20

// TestUploadGoesOnWhereItsLineBroke: a file that takes longer than the line ever holds arrives, and costs little more than its size.
func TestUploadGoesOnWhereItsLineBroke(t *testing.T) {
	overBadLine(t, func(w *world, b *breaking) {
		b.every = 12
		b.arrives(bytesOf(longer, 1))
		if got := b.count("writeat"); got > 2*longer>>20 || b.count("takeover") == 0 {
			t.Errorf("%d MiB were sent of %d, with %d pieces taken over", got, longer>>20, b.count("takeover"))
		}
	})
}

// TestUploadBeginsAnewInDoubt: whatever there is about what is left, the content arrives as it is.
func TestUploadBeginsAnewInDoubt(t *testing.T) {
	once := func(b *breaking, op string, do func()) func(string, string) error {
		var first sync.Once
		return func(now, _ string) error {
			if now == op && len(b.temps()) > 0 {
				first.Do(do)
			}
			return nil
		}
	}
	for what, prepare := range map[string]func(w *world, b *breaking){
		"what was left is gone": func(w *world, b *breaking) {
			b.harm = once(b, "takeover", func() { w.must(w.server.Delete(b.temps()[0])); w.must(w.server.Delete(b.temps()[0])) })
		},
		"what was left is shorter": func(w *world, b *breaking) {
			b.harm = once(b, "takeover", func() {
				for _, temp := range b.temps() {
					if i, err := w.server.Lstat(temp); err == nil && i.Size > 0 {
						w.must(w.server.WriteFile(temp, bytesOf(1<<20, 9)))
					}
				}
			})
		},
		"the server refuses to copy": func(_ *world, b *breaking) {
			b.harm = func(op, name string) error { return failing(op == "takeover", syscall.ENOSPC) }
		},
		"the server's session ends when it is to copy": func(_ *world, b *breaking) {
			b.harm = func(op, name string) error {
				if op == "takeover" {
					return b.cut(op, name)
				}
				return nil
			}
		},
		"the server takes too long to copy": func(_ *world, b *breaking) {
			b.harm = func(op, name string) error {
				if op != "takeover" {
					return nil
				}
				return &backends.Error{Op: op, Name: name, Code: syscall.ETIMEDOUT, Class: backends.Lost, Cause: backends.CauseSilent}
			}
		},
	} {
		t.Run(what, func(t *testing.T) {
			overBadLine(t, func(w *world, b *breaking) {
				prepare(w, b)
				harm := b.harm
				cut := false
				b.harm = func(op, name string) error {
					if n := b.count("writeat"); !cut && op == "writeat" && n == 12 {
						cut = true
						return b.cut(op, name)
					}
					return harm(op, name)
				}
				b.arrives(bytesOf(longer, 1))
				if b.count("takeover") != 1 {
					t.Errorf("%d pieces were to be taken over: this test tests nothing", b.count("takeover"))
				}
				if got := b.count("writeat"); got > 12+longer>>20 {
					t.Errorf("%d MiB were sent, more than what was lost and the whole", got)
				}
			})
		})
	}
}

// TestContentThatChangedMeanwhileIsSentAnew: a program writes to the file while an attempt to send it has failed.
func TestContentThatChangedMeanwhileIsSentAnew(t *testing.T) {
	overBadLine(t, func(w *world, b *breaking) {
		content := bytesOf(longer, 1)
		f := w.open("f", creating)
		w.write(f, string(content), 0)
		var cut, changed atomic.Bool
		b.harm = func(op, name string) error {
			switch {
			case op == "writeat" && b.count(op) == 12 && !cut.Swap(true):
				return b.cut(op, name)
			case op == "create" && cut.Load() && !changed.Load():
				w.write(f, "changed", 0)
				changed.Store(true)
			}
			return nil
		}
		w.must(f.Publish(w.Context()))
		for !changed.Load() {
			time.Sleep(time.Second)
		}
		copy(content, "changed")
		w.close(f)
		for w.tree.Owed().Files > 0 {
			time.Sleep(time.Second)
		}
		w.has("f", string(content))
	})
}

// TestLineThatBreaksWhileTheServerCopies goes on from the same place.
func TestLineThatBreaksWhileTheServerCopies(t *testing.T) {
	overBadLine(t, func(w *world, b *breaking) {
		cut := 0
		b.harm = func(op, name string) error {
			if op == "writeat" && b.count(op) == 40 || op == "takeover" && b.count(op) == 2 {
				cut++
				return b.cut(op, name)
			}
			return nil
		}
		b.arrives(bytesOf(longer, 1))
		if got := b.count("writeat"); cut != 2 || got > 1+longer>>20 {
			t.Errorf("%d MiB were sent; the line broke %d times", got, cut)
		}
	})
}

// TestDaemonThatDiesWhileAnUploadGoesOnLeavesNothing kills it before and behind each step of going on.
func TestDaemonThatDiesWhileAnUploadGoesOnLeavesNothing(t *testing.T) {
	for _, site := range []string{"wire.takeover.before", "wire.takeover.after", "wire.remove.before"} {
		t.Run(site, func(t *testing.T) {
			died, dead := false, make(chan struct{})
			var mu sync.Mutex
			w := newOwing(t, func(_ *mem.Options, to *cache.Options) {
				to.Retry = retry.Policy{Count: 3, Timeout: time.Second}
				to.Hook = func(now string) {
					mu.Lock()
					if now == site && !died {
						died = true
						close(dead)
					}
					gone := died
					mu.Unlock()
					if gone {
						select {}
					}
				}
			})
			b := &breaking{w: w, calls: map[string]int{}}
			b.harm = func(op, name string) error {
				if op == "writeat" && b.count(op) == 12 {
					return b.cut(op, name)
				}
				return nil
			}
			w.server.SetFault(b.hook)
			content := string(bytesOf(longer/2, 1))
			w.save("f", content)
			select {
			case <-dead:
			case <-time.After(20 * time.Second):
				t.Fatalf("the daemon never came by %s", site)
			}
			if len(b.temps()) == 0 {
				t.Fatal("nothing was left: this test tests nothing")
			}
			w.server.Break()
			w.options.Hook = nil
			w.next()
			w.paid()
			w.has("f", content)
			w.await("nothing is left behind", func() bool { return len(b.temps()) == 0 })
		})
	}
}

// TestWhatIsLeftIsDroppedWithItsDebt: nobody will go on from it.
func TestWhatIsLeftIsDroppedWithItsDebt(t *testing.T) {
	for what, end := range map[string]func(w *world){
		"removed":  func(w *world) { w.must(w.tree.Remove(w.Context(), "f")) },
		"replaced": func(w *world) { w.save("f", "another") },
	} {
		t.Run(what, func(t *testing.T) {
			w := newRemote(t, nil)
			b := &breaking{w: w, calls: map[string]int{}}
			away := false
			b.harm = func(op, name string) error {
				if op == "writeat" && b.count(op) == 12 {
					away = true
				}
				if away {
					return b.cut(op, name)
				}
				return nil
			}
			w.server.SetFault(b.hook)
			w.save("f", string(bytesOf(longer/2, 1)))
			w.await("the line has broken", func() bool { return len(w.tree.Queue()) == 1 && w.tree.Queue()[0].Tries > 0 })
			if temps := b.temps(); len(temps) != 1 {
				t.Fatalf("the server has %q", temps)
			}
			end(w)
			w.away(false)
			w.paid()
			w.await("nothing is left behind", func() bool { return len(b.temps()) == 0 })
		})
	}
}
