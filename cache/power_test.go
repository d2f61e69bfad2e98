package cache_test

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"pierfs/backends"
	"pierfs/backends/mem"
	"pierfs/cache"
)

// powered keeps what the disk has of a staging directory: of each content what it was when it was last synced, for the programs of
// this test work at one file at a time. What was never synced is as long as it should be, and zeros.
type powered struct {
	mu     sync.Mutex
	dir    string
	synced map[string][]byte
	seen   map[string][]byte // at the last sync, to find out which content that was of
}

func (p *powered) hook(site string) {
	if site != "staging.synced" {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for path, content := range p.read() {
		if !bytes.Equal(p.seen[path], content) || p.synced[path] == nil {
			p.synced[path] = content
		}
		p.seen[path] = content
	}
}

func (p *powered) read() map[string][]byte {
	all := map[string][]byte{}
	paths, _ := filepath.Glob(filepath.Join(p.dir, "*.data"))
	for _, path := range paths {
		if content, err := os.ReadFile(path); err == nil {
			all[path] = content
		}
	}
	return all
}

// fails loses the power, and returns a staging directory as it is when that is back. The journal's own syncs are another test's.
func (p *powered) fails(t *testing.T) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	after := t.TempDir()
	left, err := os.ReadDir(p.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range left {
		path := filepath.Join(p.dir, entry.Name())
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if filepath.Ext(path) == ".data" {
			lost := make([]byte, len(content))
			copy(lost, p.synced[path])
			content = lost
		}
		if err := os.WriteFile(filepath.Join(after, entry.Name()), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return after
}

// TestPowerMayFailBehindEachChange loses the power after each thing that a program was told is done: all of it arrives.
func TestPowerMayFailBehindEachChange(t *testing.T) {
	p := &powered{synced: map[string][]byte{}, seen: map[string][]byte{}}
	w := newRemote(t, func(_ *mem.Options, to *cache.Options) { p.dir, to.Hook = to.Staging, p.hook })
	w.give("log", "line\n")
	if got := w.sees(); got["log"] != "line\n" {
		t.Fatalf("programs see %q", got)
	}
	w.away(true)
	want := map[string]string{"log": "line\n"}
	add := func(name, content string) {
		f := w.open(name, writing)
		w.add(f, content)
		w.must(f.Close(w.Context(), false))
		want[name] += content
	}
	for i, change := range []func(){
		func() { w.save("a", "content of a"); want["a"] = "content of a" },
		func() { add("a", ", and more") },
		func() { w.save("a", "rewritten"); want["a"] = "rewritten" },
		func() {
			f := w.open("a", writing)
			w.write(f, "PATCH", 2)
			w.must(f.Close(w.Context(), false))
			want["a"] = "rePATCHen"
		},
		func() { add("log", "another line\n") },
		func() {
			_, err := w.tree.SetAttr(w.Context(), "a", backends.Attr{Perm: new(os.FileMode(0o600))})
			w.must(err)
		},
		func() { w.mkdir("dir"); want["dir/"] = "" },
		func() { w.move(want, "a", "dir/a") },
		func() { w.move(want, "dir", "moved") },
		func() { w.save("b", "short"); w.move(want, "moved/a", "b") },
		func() { w.removeOf(want, "b") },
	} {
		change()
		next := newRemote(t, nil)
		next.give("log", "line\n")
		info, err := w.server.Lstat("log")
		next.must(err)
		_, err = next.server.SetAttr(t.Context(), "log", backends.Attr{ModTime: &info.ModTime, AccTime: &info.AccTime})
		next.must(err)
		next.must(next.tree.Close(t.Context()))
		next.options.Staging = p.fails(t)
		next.next()
		if err := next.tree.Drain(t.Context()); err != nil {
			t.Fatalf("after change %d: %v", i, err)
		}
		if lines := differ(next.holds(), maps.Clone(want)); len(lines) > 0 {
			t.Fatalf("after change %d, the server: %q", i, lines)
		}
	}
}
