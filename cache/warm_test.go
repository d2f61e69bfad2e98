package cache_test

import (
	"context"
	"errors"
	"fmt"
	"path"
	"syscall"
	"testing"

	"pierfs/backends"
	"pierfs/backends/mem"
	"pierfs/cache"
	"pierfs/cache/spool"
)

// newWarm is a world with a tree of files of long ago: 30 small ones and a large one.
func newWarm(t *testing.T, change func(*mem.Options, *cache.Options)) (w *world, contents map[string]string) {
	w, contents = newWorld(t, change), map[string]string{}
	w.must(w.server.MakeDir("d/empty"))
	for i := range 30 {
		name := fmt.Sprintf("d/%d/f%d", i%3, i)
		w.must(w.server.MakeDir(path.Dir(name)))
		contents[name] = noise(1000+i, byte(i))
		w.giveOf(name, contents[name], longAgo)
	}
	contents["d/large"] = noise(3<<20, 99)
	w.giveOf("d/large", contents["d/large"], longAgo)
	w.giveOf("outside", "x", longAgo)
	return w, contents
}

func TestWarmBringsAllBelowADirectoryHere(t *testing.T) {
	for what, change := range map[string]func(*mem.Options, *cache.Options){
		"SFTP": nil, "FTP": func(so *mem.Options, _ *cache.Options) { *so = mem.FTP(nil) },
	} {
		t.Run(what, func(t *testing.T) {
			w, contents := newWarm(t, change)
			var last cache.Warming
			warm := func() {
				w.must(w.tree.Warm(w.Context(), "d", func(so cache.Warming) error {
					if so.Done.Files < last.Done.Files || so.Done.Files > so.Found.Files {
						t.Errorf("%+v after %+v", so, last)
					}
					last = so
					return nil
				}))
			}
			would := func(found, here int) {
				var so cache.Warming
				opened := w.server.Calls()["open"]
				w.must(w.tree.WouldWarm(w.Context(), "d", func(now cache.Warming) error { so = now; return nil }))
				if so.Found.Files != found || so.Here != here || so.Done.Files != here || w.server.Calls()["open"] != opened {
					t.Errorf("a look says %+v and opens %d files; want %d found, %d here, none opened", so, w.server.Calls()["open"]-opened, found, here)
				}
			}
			would(31, 0)
			warm()
			would(31, 31)
			if last.Done.Files != 31 || last.Done != last.Found || last.Here != 0 || last.Failed != 0 {
				t.Errorf("at the end %+v", last)
			}
			for name, content := range contents {
				w.asks(name, func() { w.reads(name, content) })
			}
			last = cache.Warming{}
			warm()
			if last.Done.Files != 31 || last.Here != 31 {
				t.Errorf("once more %+v", last)
			}
			if u := w.tree.KeptBelow("d/1"); u.Files != 10 {
				t.Errorf("would drop %+v", u)
			}
			if u := w.tree.DropKept("d/1"); u.Files != 10 {
				t.Errorf("dropped %+v", u)
			}
			if r := w.tree.Reading(); r.Kept.Files != 21 {
				t.Errorf("%+v is left", r.Kept)
			}
		})
	}
}

func TestWarmTellsWhatCannotBeRead(t *testing.T) {
	w, _ := newWarm(t, nil)
	w.server.SetFault(func(_ context.Context, op, name string) error {
		if name == "d/1/f1" && op == "open" || name == "d/2" && op == "list" {
			return syscall.EACCES
		}
		return nil
	})
	var last cache.Warming
	w.must(w.tree.Warm(w.Context(), "d", func(so cache.Warming) error { last = so; return nil }))
	if last.Failed != 2 || backends.Errno(last.Reason) != syscall.EACCES || last.Done.Files != 20 {
		t.Errorf("%+v", last)
	}
	if err := w.tree.Warm(w.Context(), "absent", nil); backends.Errno(err) != syscall.ENOENT {
		t.Errorf("what is not there: %v", err)
	}
}

func TestWarmStops(t *testing.T) {
	w, _ := newWarm(t, nil)
	enough := errors.New("enough")
	if err := w.tree.Warm(w.Context(), "d", func(cache.Warming) error { return enough }); err != enough {
		t.Errorf("told to stop: %v", err)
	}
	ctx, cancel := context.WithCancel(w.Context())
	if err := w.tree.Warm(ctx, "d", func(cache.Warming) error { cancel(); return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	w.store.SetBounds(20_000, spool.Floor{Bytes: 1})
	if err := w.tree.Warm(w.Context(), "d", func(cache.Warming) error { return nil }); err != cache.ErrCacheFull {
		t.Errorf("with no room for all: %v", err)
	}
}
