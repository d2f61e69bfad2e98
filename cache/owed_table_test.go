package cache_test

import (
	"context"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pierfs/backends"
	"pierfs/backends/mem"
	"pierfs/cache"
)

// owedOps is what a program does to dir/f, which holds "content" and is owed, and what is at the server in the end.
var owedOps = []struct {
	name string
	do   func(w *world) error
	want map[string]string
}{
	{"read", func(w *world) error { w.shows("dir/f", "content"); return nil }, map[string]string{"dir/f": "content"}},
	{"stat", func(w *world) error { _, err := w.tree.Stat(w.Context(), "dir/f"); return err }, map[string]string{"dir/f": "content"}},
	{"append", func(w *world) error {
		f := w.open("dir/f", writing)
		w.add(f, " and more")
		return f.Close(w.Context(), false)
	}, map[string]string{"dir/f": "content and more"}},
	{"rename", func(w *world) error { return w.tree.Rename(w.Context(), "dir/f", "dir/g", backends.Replace) }, map[string]string{"dir/g": "content"}},
	{"rename over", func(w *world) error { return w.tree.Rename(w.Context(), "dir/f", "other", backends.Replace) }, map[string]string{"other": "content"}},
	{"unlink", func(w *world) error { return w.tree.Remove(w.Context(), "dir/f") }, nil},
	{"truncate", func(w *world) error {
		_, err := w.tree.SetAttr(w.Context(), "dir/f", backends.Attr{Size: new(int64(4))})
		return err
	}, map[string]string{"dir/f": "cont"}},
	{"chmod", func(w *world) error {
		_, err := w.tree.SetAttr(w.Context(), "dir/f", backends.Attr{Perm: new(os.FileMode(0o604))})
		return err
	}, map[string]string{"dir/f": "content"}},
	{"utimes", func(w *world) error {
		at := time.Unix(1_000_000_000, 0)
		_, err := w.tree.SetAttr(w.Context(), "dir/f", backends.Attr{ModTime: &at, AccTime: &at})
		return err
	}, map[string]string{"dir/f": "content"}},
	{"directory renamed", func(w *world) error { return w.tree.Rename(w.Context(), "dir", "moved", backends.Replace) }, map[string]string{"moved/f": "content"}},
	{"unlinked while open", func(w *world) error {
		f := w.open("dir/f", cache.OpenMode{Read: true, Write: true})
		err := w.tree.Remove(w.Context(), "dir/f")
		w.add(f, "!")
		got := make([]byte, 8)
		if _, err := f.ReadAt(w.Context(), got, 0); err != nil || string(got) != "content!" {
			w.Errorf("an unlinked file reads %q, %v", got, err)
		}
		w.must(f.Close(w.Context(), false))
		return err
	}, nil},
}

// TestOwedNameBearsEverything does everything that programs do to a name that is owed: before its upload begins, while it is being
// sent, and after the daemon was killed; and kills the daemon once more behind it.
func TestOwedNameBearsEverything(t *testing.T) {
	for _, when := range []string{"before", "while", "restarted"} {
		for _, op := range owedOps {
			t.Run(when+"/"+op.name, func(t *testing.T) {
				d := &dying{at: 1 << 30, dead: make(chan struct{})}
				w := newRemote(t, func(_ *mem.Options, to *cache.Options) { to.Hook = d.hook })
				w.must(w.server.MakeDir("dir"))
				w.give("other", "content of another")
				w.sees()
				begun, goOn := make(chan struct{}), make(chan struct{})
				var once sync.Once
				if when == "while" {
					w.server.SetFault(func(ctx context.Context, call, _ string) error {
						if call == "commit" {
							once.Do(func() { close(begun) })
							select {
							case <-goOn:
							case <-ctx.Done():
							}
						}
						return nil
					})
				} else {
					w.away(true)
				}
				w.save("dir/f", "content")
				done := make(chan error, 1)
				switch when {
				case "while":
					<-begun
					go func() { done <- op.do(w) }() // ends with op, once the sending goes on
				case "restarted":
					w.crash(d)
					w.refuse(true) // the server is back, and takes no content
					fallthrough
				default:
					done <- op.do(w)
				}
				close(goOn)
				if err := <-done; err != nil {
					t.Fatalf("%s: %v", op.name, err)
				}
				if when != "while" {
					if when == "before" {
						w.crash(d)
					} else {
						w.must(cacheClosed(w))
						w.next()
					}
				}
				w.away(false)
				w.must(w.tree.Drain(t.Context()))
				want := map[string]string{"dir/": "", "other": "content of another"}
				if op.name == "directory renamed" {
					delete(want, "dir/")
					want["moved/"] = ""
				}
				for name, content := range op.want {
					want[name] = content
				}
				if lines := differ(w.holds(), want); len(lines) > 0 {
					t.Errorf("the server: %q", lines)
				}
				if lines := differ(w.sees(), want); len(lines) > 0 {
					t.Errorf("programs see: %q", lines)
				}
				for name := range op.want {
					info, err := w.server.Stat(t.Context(), name)
					if op.name == "chmod" && info.Mode.Perm() != 0o604 || op.name == "utimes" && info.ModTime.Unix() != 1_000_000_000 || err != nil {
						t.Errorf("the server has %+v, %v", info, err)
					}
				}
				if created := w.server.Calls()["create"]; len(op.want) == 0 && when != "while" && created > 1 { // the first try met nobody
					t.Errorf("%d uploads were begun of what was removed before", created)
				}
				w.staged(0)
			})
		}
	}
}

// TestOwedFileIsReadWhileItsUploadMayHaveArrived: a daemon died between the server's answer to an append and its own note of it. What a
// program reads next of the file, before the queue has looked, is the content with what was appended.
func TestOwedFileIsReadWhileItsUploadMayHaveArrived(t *testing.T) {
	var armed atomic.Bool
	dead := make(chan struct{})
	var once sync.Once
	w := newRemote(t, func(_ *mem.Options, to *cache.Options) {
		to.Hook = func(site string) {
			if site == "wire.commit.after" && armed.Load() {
				once.Do(func() { close(dead) })
				select {}
			}
		}
	})
	content := strings.Repeat("0123456789abcdef", 1<<16)
	w.give("big", content)
	armed.Store(true)
	f := w.open("big", cache.OpenMode{Write: true, Append: true})
	w.add(f, "appended")
	w.must(f.Publish(w.Context()))
	<-dead
	w.server.SetFault(func(ctx context.Context, _, _ string) error {
		if ctx.Value(somebodyElse{}) != nil {
			return nil
		}
		return syscall.EDQUOT // the queue does not look yet
	})
	w.options.Hook = nil
	w.next()
	reader := context.WithValue(w.Context(), somebodyElse{}, true)
	f, e, err := w.tree.Open(reader, "big", reading)
	w.must(err)
	defer f.Close(w.Context(), true)
	got := make([]byte, e.Size)
	n, err := f.ReadAt(reader, got, 0)
	if err != nil && err != io.EOF || string(got[:n]) != content+"appended" {
		t.Errorf("read %d bytes of %d, %v", n, len(content)+len("appended"), err)
	}
	w.server.SetFault(nil)
	w.tree.Wake()
	w.paid()
	if got := w.holds()["big"]; got != content+"appended" {
		t.Errorf("the server has %d bytes, want %d", len(got), len(content)+len("appended"))
	}
}
