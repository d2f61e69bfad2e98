package cache_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pierfs/backends"
	"pierfs/backends/mem"
	"pierfs/cache"
)

// logging is how a program opens a log.
var logging = cache.OpenMode{Write: true, Append: true, Create: true, Perm: 0o640}

func (w *world) append(f *cache.File, line string) {
	w.Helper()
	if n, err := f.Append(w.Context(), []byte(line)); err != nil || n != len(line) {
		w.Fatalf("Append = %d, %v", n, err)
	}
}

// ways are servers that take writes at any place, and such that only append.
var ways = map[string]func(*mem.Options, *cache.Options){
	"in place":     nil,
	"by appending": func(so *mem.Options, _ *cache.Options) { *so = mem.FTP(nil) },
}

// TestAppendToAFileThatOthersOnlyGrewIsNoConflict: what was appended goes behind what another host has appended meanwhile, and so does
// what is appended to the open file afterwards.
func TestAppendToAFileThatOthersOnlyGrewIsNoConflict(t *testing.T) {
	for name, way := range ways {
		for before, content := range map[string]string{"a file": "one\n", "an empty file": ""} {
			t.Run(name+", "+before, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t, way)
					w.give("log", content)
					time.Sleep(2 * time.Minute) // also a server that tells minutes tells the times apart
					f := w.open("log", logging)
					w.append(f, "two\n")
					theirs := content + "theirs " + strings.Repeat("x", 300_000) + "\n"
					w.give("log", theirs)
					w.must(f.Publish(w.Context()))
					w.has("log", theirs+"two\n")
					if !f.Moved() || f.Moved() {
						t.Error("it is not told once that the end stands elsewhere")
					}
					w.append(f, "three\n")
					if e, err := f.Stat(w.Context()); err != nil || e.Size != int64(len(theirs)+len("two\nthree\n")) {
						t.Errorf("Stat = %+v, %v", e, err)
					}
					w.close(f)
					w.has("log", theirs+"two\nthree\n")
					f = w.open("log", reading)
					if got := w.read(f); got != theirs+"two\nthree\n" {
						t.Errorf("read %s", short(got))
					}
					w.close(f)
					w.only("log")
				})
			})
		}
	}
}

// TestWriteAtAPlaceIsNoAppend: a program that chose the place of what it wrote, be it the end, has read the file.
func TestWriteAtAPlaceIsNoAppend(t *testing.T) {
	for name, change := range map[string]func(*world, *cache.File){
		"a write at the end": func(w *world, f *cache.File) { w.write(f, "two\n", 4) },
		"a cut": func(w *world, f *cache.File) {
			size := int64(3)
			_, err := f.SetAttr(w.Context(), backends.Attr{Size: &size})
			w.must(err)
			w.append(f, "two\n")
		},
		"an append and a write": func(w *world, f *cache.File) {
			w.append(f, "two\n")
			w.write(f, "T", 4)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			w.give("log", "one\n")
			f := w.open("log", writing)
			if got := w.read(f); got != "one\n" {
				t.Fatalf("read %q", got)
			}
			change(w, f)
			w.give("log", "one\nother\n")
			wantErrno(t, f.Publish(w.Context()), syscall.ESTALE)
			w.has("log", "one\nother\n")
			w.must(f.Close(w.Context(), true))
		})
	}
}

// TestAppendAsksNothingOfWhatIsKnown: a line more costs the flight that opens the file and those that bring it there, where the server
// says in that flight what the file is.
func TestAppendAsksNothingOfWhatIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFar(t, nil, func(w *world) { w.give("log", "one\n") })
		w.stat("log")
		for range 20 {
			calls := w.within("a line", 3*far, func() {
				w.stat("log")
				f := w.open("log", logging)
				w.append(f, "more\n")
				w.close(f)
			})
			if calls["stat"]+calls["open"] > 0 || calls["update"] != 1 {
				t.Errorf("%v, want one update and no question", calls)
			}
		}
		w.has("log", "one\n"+strings.Repeat("more\n", 20))
	})
}

// TestAppendGoesByWhatIsThereAndNotByWhatIsKnown: opening a file to append to it asks nothing, and so what others have made of the name
// a moment ago must not matter.
func TestAppendGoesByWhatIsThereAndNotByWhatIsKnown(t *testing.T) {
	for name, c := range map[string]struct {
		meanwhile func(*world)
		want      string
	}{
		"it grew":        {func(w *world) { w.give("log", "one\ntheirs\n") }, "one\ntheirs\ntwo\n"},
		"it was emptied": {func(w *world) { w.give("log", "") }, "two\n"},
		"it was removed": {func(w *world) { w.must(w.server.Delete("log")) }, "two\n"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, nil)
				w.give("log", "one\n")
				w.stat("log")
				time.Sleep(time.Second)
				c.meanwhile(w)
				f := w.open("log", logging)
				w.append(f, "two\n")
				w.close(f)
				w.has("log", c.want)
				w.only("log")
			})
		})
	}
}

// TestAppenderGoesOnWhereOthersHaveAppended: a program that keeps a log open goes on behind the lines of other hosts, also when somebody
// looks at it in between.
func TestAppenderGoesOnWhereOthersHaveAppended(t *testing.T) {
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, way)
				w.give("log", "one\n")
				time.Sleep(2 * time.Minute)
				f := w.open("log", logging)
				want := "one\n"
				for i := range 4 {
					want += strings.Repeat("theirs\n", i+1)
					w.give("log", want)
					time.Sleep(2 * time.Minute)
					if e, err := w.tree.Stat(w.Context(), "log"); err != nil || e.Size != int64(len(want)) {
						t.Errorf("Stat = %d bytes, %v; want %d", e.Size, err, len(want))
					}
					w.append(f, "ours\n")
					want += "ours\n"
					w.must(f.Publish(w.Context()))
					w.has("log", want)
				}
				w.close(f)
				w.only("log")
			})
		})
	}
}

// TestAppendToWhatWasRemovedWhileOpenIsTold: the server was asked after the file was opened, so that who removed it has removed what the
// program has open.
func TestAppendToWhatWasRemovedWhileOpenIsTold(t *testing.T) {
	w := newWorld(t, nil)
	w.give("log", "one\n")
	f := w.open("log", writing)
	w.append(f, "two\n")
	w.must(w.server.Delete("log"))
	if err := f.Publish(w.Context()); !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ESTALE) {
		t.Errorf("Publish = %v, want ENOENT or ESTALE", err)
	}
	w.only()
	w.must(f.Close(w.Context(), true))
}

// between does something once the server has made what is created, and before whoever creates it hears of that.
type between struct {
	backends.Backend
	do func()
}

func (b between) Create(ctx context.Context, name string, mode backends.WriteMode) (backends.Writer, error) {
	w, err := b.Backend.Create(ctx, name, mode)
	if err == nil && mode.Exclusive {
		b.do()
	}
	return w, err
}

// TestWonNameIsNotLostToWhoOpensIt: once the server has given a name to who creates it exclusively, others can open the empty file that
// stands for that. It is no reason to tell the creator that there was one before.
func TestWonNameIsNotLostToWhoOpensIt(t *testing.T) {
	w := newWorld(t, nil)
	var tree *cache.Tree
	var other *cache.File
	options := w.options
	options.Staging += "-2"
	tree, err := cache.New(between{w.server, func() {
		f, _, err := tree.Open(t.Context(), "lock", reading)
		w.must(err)
		other = f
	}}, options)
	w.must(err)
	t.Cleanup(func() { tree.Close(context.Background()) })
	f, _, err := tree.Open(t.Context(), "lock", claiming)
	if err != nil {
		t.Fatalf("the creator is told %v", err)
	}
	w.write(f, "mine", 0)
	w.close(f)
	w.has("lock", "mine")
	w.must(other.Close(t.Context(), false))
}

// TestFileThatWasEmptyIsReplacedInOneStep: only what was appended by O_APPEND goes into an empty file itself; any other content is there
// whole or not at all, also if it is sent later.
func TestFileThatWasEmptyIsReplacedInOneStep(t *testing.T) {
	for name, background := range map[string]bool{"at once": false, "later": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(_ *mem.Options, o *cache.Options) { o.Background = background })
			w.give("f", "")
			f := w.open("f", writing)
			w.write(f, "content", 0)
			w.close(f)
			w.must(w.tree.Close(context.Background())) // sends what is owed
			w.has("f", "content")
			if calls := w.server.Calls(); calls["update"] != 0 || calls["create"] != 1 {
				t.Errorf("%v, want a content beside it that takes its place", calls)
			}
		})
	}
}
