package cache_test

import (
	"context"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pierfs/backends"
	"pierfs/backends/mem"
	"pierfs/cache"
)

// inSteps is a server that lets no file take the name of another.
func inSteps(so *mem.Options, _ *cache.Options) {
	*so = mem.FTP(func(c *backends.Caps) { c.Replace = false })
}

// leaveAside has the replacement of f by its first daemon broken off, behind steps of what the server does then, and begins another.
func (w *world) leaveAside(steps func()) {
	w.Helper()
	w.replaceTree(outliving{w.server})
	w.give("f", "old")
	f := w.open("f", cuttingNew)
	w.write(f, "new", 0)
	gone := false
	w.server.SetFault(func(_ context.Context, op, name string) error {
		if op != "commit" && !gone {
			return nil
		}
		if !gone {
			gone = true
			steps()
		}
		w.server.Break()
		return &backends.Error{Op: op, Name: name, Code: syscall.ECONNREFUSED, Class: backends.Transient}
	})
	if f.Publish(w.Context()) == nil {
		w.Fatal("a replacement that was cut off was called done")
	}
	w.must(f.Close(w.Context(), true))
	w.must(w.tree.Close(w.Context()))
	w.server.SetFault(nil)
	w.replaceTree(w.server)
}

// temp returns the one temporary name on the server.
func (w *world) temp() string {
	w.Helper()
	names, err := w.server.Names("")
	w.must(err)
	names = slices.DeleteFunc(names, func(name string) bool { return name == "f" || name == backends.AsideName("f") })
	if len(names) != 1 {
		w.Fatalf("the server has the temporary names %q, want one", names)
	}
	return names[0]
}

// TestReplacementInStepsThatIsBrokenOff: the old content has its name again, or is gone once the new one has it, whatever a program does
// first; and no program sees where it was meanwhile.
func TestReplacementInStepsThatIsBrokenOff(t *testing.T) {
	aside := backends.AsideName("f")
	for step, c := range map[string]struct {
		steps func(*world)
		want  string
	}{
		"before it began":            {func(*world) {}, "old"},
		"with the old content aside": {func(w *world) { w.must(w.server.Move("f", aside)) }, "old"},
		"with the new one in place": {func(w *world) {
			w.must(w.server.Move("f", aside))
			w.must(w.server.Move(w.temp(), "f"))
		}, "new"},
		"with the new one taken away": {func(w *world) {
			w.must(w.server.Move("f", aside))
			w.must(w.server.Delete(w.temp()))
		}, "gone"},
	} {
		for first, do := range map[string]func(*world) (want string){
			"nothing": nil,
			"a listing": func(w *world) string {
				if got := w.list(""); !slices.Equal(got, []string{"f"}) {
					w.Errorf("programs see %q, want f alone", got)
				}
				return ""
			},
			"a look": func(w *world) string { w.stat("f"); return "" },
			"a reader": func(w *world) string {
				f := w.open("f", reading)
				if got := w.read(f); got != "old" && got != "new" {
					w.Errorf("a program reads %q", got)
				}
				w.close(f)
				return ""
			},
			"a writer": func(w *world) string {
				f := w.open("f", cuttingNew)
				w.write(f, "newer", 0)
				w.close(f)
				return "newer"
			},
			"a removal": func(w *world) string {
				w.must(w.tree.Remove(w.Context(), "f"))
				return "gone"
			},
			"a renaming over it": func(w *world) string {
				w.give("other", "other's")
				w.must(w.tree.Rename(w.Context(), "other", "f", backends.Replace))
				return "other's"
			},
		} {
			t.Run(step+", "+first, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t, inSteps)
					w.leaveAside(func() { c.steps(w) })
					want := c.want
					if want == "gone" && first != "nothing" {
						return // of a name that is not there
					}
					if do != nil {
						if other := do(w); other != "" {
							want = other
						}
					}
					time.Sleep(time.Minute)
					w.must(w.tree.Close(w.Context()))
					if want == "gone" {
						if _, err := w.server.Lstat("f"); err == nil {
							t.Error("an old content has risen again")
						}
						return
					}
					w.has("f", want)
					w.only("f")
				})
			})
		}
	}
}

// TestReplacementInStepsThatAnotherMachineBrokeOff is found in listings, and left alone for as long as it may be under way. What nobody bears
// the name of any more does not rise again.
func TestReplacementInStepsThatAnotherMachineBrokeOff(t *testing.T) {
	for name, taken := range map[string]bool{"nobody has the name": false, "the new content has it": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, inSteps)
				aside := backends.AsideName("f")
				w.give(aside, "old")
				want := []string{aside}
				if taken {
					w.give("f", "new")
					want = []string{"f"}
				}
				w.list("")
				time.Sleep(5 * time.Minute)
				w.list("")
				time.Sleep(time.Minute)
				if _, err := w.server.Lstat(aside); err != nil {
					t.Fatalf("it was taken away at once: %v", err)
				}
				time.Sleep(5 * time.Minute)
				w.list("")
				time.Sleep(time.Minute)
				w.only(want...)
			})
		})
	}
}

// TestOwedReplacementInStepsThatIsBrokenOff: what was acknowledged arrives over the old content that has come back, and is no conflict.
func TestOwedReplacementInStepsThatIsBrokenOff(t *testing.T) {
	w := newOwing(t, inSteps)
	w.give("f", "old")
	f := w.open("f", writing)
	w.write(f, "new", 0)
	aside, gone := backends.AsideName("f"), false
	w.server.SetFault(func(_ context.Context, op, name string) error {
		if op == "commit" && !gone {
			gone = true
			w.must(w.server.Move("f", aside))
		}
		if !gone {
			return nil
		}
		w.server.Break()
		return lost(op, name)
	})
	w.must(f.Close(w.Context(), false))
	w.await("the replacement is broken off", func() bool {
		_, err := w.server.Lstat(aside)
		return err == nil
	})
	if w.nextDaemon() == nil {
		t.Fatal("nothing is owed: this test tests nothing")
	}
	w.paid()
	w.await("nothing else is left", func() bool {
		names, err := w.server.Names("")
		return err == nil && slices.Equal(names, []string{"f"})
	})
	w.has("f", "new")
}
