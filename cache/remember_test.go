package cache_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"pierfs/backends"
	"pierfs/backends/mem"
	"pierfs/cache"
)

// newKnowing is a world that remembers names beyond the daemon.
func newKnowing(t *testing.T, d *dying) *world {
	return newRemote(t, func(_ *mem.Options, to *cache.Options) {
		to.Known, to.Hook = filepath.Join(t.TempDir(), "known"), d.hook
	})
}

// crashKnowing kills the daemon and begins the next, once what is known has come to hold each of words.
func (w *world) crashKnowing(d *dying, words ...string) {
	w.Helper()
	var text []byte
	w.await("what is known is written down", func() bool {
		text, _ = os.ReadFile(w.options.Known)
		return !slices.ContainsFunc(words, func(word string) bool { return !bytes.Contains(text, []byte(word)) })
	})
	w.options.Known += "again" // the old one is not quite dead
	w.must(os.WriteFile(w.options.Known, text, 0o600))
	w.crash(d)
}

// TestLastKnownAnswersOutliveTheDaemon kills the daemon while the server is away. Its successor shows what was known, with all that is owed
// laid over it, and believes nothing of it any more once the server is back.
func TestLastKnownAnswersOutliveTheDaemon(t *testing.T) {
	d := &dying{at: 1 << 30, dead: make(chan struct{})}
	w := newKnowing(t, d)
	ctx := t.Context()
	w.must(w.server.Mkdir(ctx, "dir", 0o755))
	w.must(w.server.Mkdir(ctx, "moved", 0o755))
	for _, name := range []string{"dir/one", "dir/two", "moved/three"} {
		w.give(name, "content of "+name)
	}
	w.sees()
	w.save("dir/delivered", "ours")
	w.paid()
	w.away(true)
	w.save("dir/owed", "owed")
	w.must(w.tree.Remove(ctx, "dir/one"))
	w.must(w.tree.Rename(ctx, "moved", "dir/there", backends.NoReplace))
	w.crashKnowing(d, "delivered", "three")

	if got, want := w.list("dir"), []string{"delivered", "owed", "there", "two"}; !slices.Equal(got, want) {
		t.Errorf("dir lists %q, want %q", got, want)
	}
	if got := w.list("dir/there"); !slices.Equal(got, []string{"three"}) {
		t.Errorf("the renamed directory lists %q", got)
	}
	for name, size := range map[string]int64{"dir/two": 18, "dir/delivered": 4, "dir/there/three": 22, "dir/owed": 4} {
		if e, err := w.tree.Stat(ctx, name); err != nil || e.Size != size {
			t.Errorf("stat %s: %d, %v", name, e.Size, err)
		}
	}
	for _, name := range []string{"dir/one", "moved", "dir/never"} {
		if _, err := w.tree.Stat(ctx, name); backends.Errno(err) != syscall.ENOENT {
			t.Errorf("stat %s: %v", name, err)
		}
	}
	_, _, err := w.tree.Open(ctx, "dir/two", reading)
	wantErrno(t, err, syscall.EIO) // what was never read is not here

	w.give("dir/two", "changed meanwhile, by somebody else")
	w.give("dir/new", "made meanwhile")
	w.away(false)
	w.must(w.tree.Drain(ctx))
	w.reads("dir/two", "changed meanwhile, by somebody else")
	w.reads("dir/new", "made meanwhile")
	if lines := differ(w.sees(), w.holds()); len(lines) > 0 {
		t.Errorf("seen and not there: %q", lines)
	}
}

// TestRememberedChangeHidesNoOther has a daemon remember a change that arrives later, and die before it has noted that. The journal is begun
// anew then, as after damage, so that another change bears the same number: it must be seen although the next daemon dies at once.
func TestRememberedChangeHidesNoOther(t *testing.T) {
	d := &dying{at: 1 << 30, dead: make(chan struct{})}
	w := newKnowing(t, d)
	ctx := t.Context()
	w.give("first", "1")
	w.give("second", "2")
	w.sees()
	w.away(true)
	w.must(w.tree.Remove(ctx, "first"))
	const stamped = "\x06\x00\x01" // that the change of number 1 is among what is known
	w.await("the change is remembered", func() bool {
		text, _ := os.ReadFile(w.options.Known)
		return bytes.Contains(text, []byte(stamped))
	})
	remembered, err := os.ReadFile(w.options.Known)
	w.must(err)
	w.away(false)
	w.must(w.tree.Drain(ctx))
	w.must(w.tree.Close(ctx))
	w.must(os.Remove(filepath.Join(w.options.Staging, "journal")))
	w.must(os.WriteFile(w.options.Known, remembered, 0o600))
	w.away(true)
	w.next()
	first, err := os.ReadFile(w.options.Known) // all that it has written when it takes the first change
	w.must(err)
	w.must(w.tree.Remove(ctx, "second"))
	w.options.Known += "again"
	w.must(os.WriteFile(w.options.Known, first, 0o600))
	w.crash(d)
	if _, err := w.tree.Stat(ctx, "second"); backends.Errno(err) != syscall.ENOENT {
		t.Errorf("stat of a file whose removal is owed: %v, want ENOENT", err)
	}
}

// TestDamagedMemoryIsThrownAway: what is known may be cut, changed, or another target's, and nothing of that is believed.
func TestDamagedMemoryIsThrownAway(t *testing.T) {
	for what, harm := range map[string]func(text []byte) []byte{
		"changed": func(text []byte) []byte { text[len(text)/2] ^= 1; return text },
		"cut":     func(text []byte) []byte { return text[:len(text)*2/3] },
		"empty":   func([]byte) []byte { return nil },
		"foreign": func(text []byte) []byte { return bytes.Replace(text, []byte("mem test"), []byte("mem west"), 1) },
	} {
		t.Run(what, func(t *testing.T) {
			d := &dying{at: 1 << 30, dead: make(chan struct{})}
			w := newKnowing(t, d)
			w.give("f", "content")
			w.sees()
			w.await("what is known is written down", func() bool {
				text, _ := os.ReadFile(w.options.Known)
				return bytes.Contains(text, []byte("\x01f"))
			})
			w.must(w.tree.Close(t.Context()))
			text, err := os.ReadFile(w.options.Known)
			w.must(err)
			w.must(os.WriteFile(w.options.Known, harm(text), 0o600))
			w.away(true)
			w.next()
			if _, err := w.tree.Stat(t.Context(), "f"); backends.Errno(err) != syscall.EIO {
				t.Errorf("stat of a name of which nothing can be known: %v", err)
			}
			w.away(false)
			w.await("the server is found to be back", func() bool { _, err := w.tree.Stat(t.Context(), "f"); return err == nil })
			w.sees()
			w.must(w.tree.Close(t.Context()))
			w.away(true)
			w.next()
			if e, err := w.tree.Stat(t.Context(), "f"); err != nil || e.Size != 7 {
				t.Errorf("the file was not begun anew: %v, %v", e.Size, err)
			}
		})
	}
}

// BenchmarkRecall is what a restart costs where 100,000 names are remembered.
func BenchmarkRecall(b *testing.B) {
	options := cache.Options{Staging: b.TempDir(), Quarantine: b.TempDir(), Known: filepath.Join(b.TempDir(), "known"), Background: true, MetadataTTL: time.Hour}
	server := mem.New(mem.Options{})
	const names = 100_000
	for i := range names {
		check(b, server.WriteFile(fmt.Sprintf("a-name-of-usual-length-%06d.dat", i), nil))
	}
	tree, err := cache.New(outliving{server}, options)
	check(b, err)
	if n, _ := listAll(b, tree, ""); n != names {
		b.Fatal(n)
	}
	check(b, tree.Close(b.Context()))
	for b.Loop() {
		tree, err := cache.New(outliving{server}, options)
		check(b, err)
		b.StopTimer()
		check(b, tree.Close(b.Context()))
		b.StartTimer()
	}
}
