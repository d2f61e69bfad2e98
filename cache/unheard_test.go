package cache_test

import (
	"context"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pierfs/backends"
	"pierfs/cache"
)

// TestForeignChangeBehindALostAnswerIsAConflict loses the answer to the renaming that ends an upload, in which ours got the name or did not,
// and has another host put its own there before it is tried again, at once or when the program does so: theirs stays. What was written anew as
// a whole replaces it, as the last writer does, and where nobody has come there is no conflict.
func TestForeignChangeBehindALostAnswerIsAConflict(t *testing.T) {
	for what, c := range map[string]struct {
		mode    cache.OpenMode
		before  string // what the file held; "" if there was none
		theirs  string
		lasting bool // no answer comes until the program tries again
		code    syscall.Errno
	}{
		"a change, theirs":                  {mode: cache.OpenMode{Read: true, Write: true}, before: "one two", theirs: "theirs", code: syscall.ESTALE},
		"a change, theirs of our size":      {mode: cache.OpenMode{Read: true, Write: true}, before: "one two", theirs: "THEIRS.", code: syscall.ESTALE},
		"a change, theirs, tried later":     {mode: cache.OpenMode{Read: true, Write: true}, before: "one two", theirs: "theirs", lasting: true, code: syscall.ESTALE},
		"a change, ours":                    {mode: cache.OpenMode{Read: true, Write: true}, before: "one two"},
		"a change, ours, tried later":       {mode: cache.OpenMode{Read: true, Write: true}, before: "one two", lasting: true},
		"a new file, theirs":                {mode: cache.OpenMode{Write: true, Create: true, Perm: 0o644}, theirs: "theirs", code: syscall.ESTALE},
		"a new file, theirs, tried later":   {mode: cache.OpenMode{Write: true, Create: true, Perm: 0o644}, theirs: "theirs", lasting: true, code: syscall.ESTALE},
		"a new file, ours":                  {mode: cache.OpenMode{Write: true, Create: true, Perm: 0o644}},
		"a new file, ours, tried later":     {mode: cache.OpenMode{Write: true, Create: true, Perm: 0o644}, lasting: true},
		"written anew, theirs":              {mode: cache.OpenMode{Write: true, Truncate: true}, before: "one two", theirs: "theirs"},
		"written anew, theirs, tried later": {mode: cache.OpenMode{Write: true, Truncate: true}, before: "one two", theirs: "theirs", lasting: true},
	} {
		for _, done := range []bool{true, false} {
			t.Run(what, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t, withConflict(cache.KeepBoth))
					if c.before != "" {
						w.give("f", c.before)
					}
					f := w.open("f", c.mode)
					if c.mode.Read {
						_ = w.read(f)
					}
					w.write(f, "OUR", 0)
					w.write(f, " own", 3)
					time.Sleep(time.Minute)
					times := 0
					unheard := func(_ context.Context, op, name string) error {
						if op != "commit" || name != "f" || times > 0 && !c.lasting || times > 50 {
							return nil
						}
						if times++; times == 1 && c.theirs != "" {
							w.give("f", c.theirs)
						}
						w.server.Break()
						return lost(op, name)
					}
					if done {
						w.server.SetAfter(unheard)
					} else {
						w.server.SetFault(unheard)
					}
					err := f.Publish(w.Context())
					w.server.SetAfter(nil)
					w.server.SetFault(nil)
					if c.lasting && err != nil && backends.Errno(err) != syscall.ESTALE {
						time.Sleep(time.Minute) // until the server is found to be back
						err = f.Publish(w.Context())
					}
					wantErrno(t, err, c.code)
					beside := w.beside()
					if c.code == 0 {
						w.has("f", "OUR own")
						if len(beside) != 0 {
							t.Errorf("beside it lies %q", beside)
						}
					} else {
						w.has("f", c.theirs)
						if len(beside) != 1 || !strings.HasPrefix(beside[0], "f.conflict-here-") {
							t.Fatalf("beside it lies %q", beside)
						}
						w.has(beside[0], "OUR own")
					}
					w.must(f.Close(w.Context(), true))
				})
			})
		}
	}
}
