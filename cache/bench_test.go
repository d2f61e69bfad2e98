package cache_test

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"pierfs/backends/mem"
	"pierfs/cache"
	"pierfs/cache/spool"
)

// newBench returns a tree on a server in memory.
func newBench(b *testing.B) (*mem.Backend, *cache.Tree) {
	dir := b.TempDir()
	server := mem.New(mem.Options{})
	store, err := spool.OpenStore(filepath.Join(dir, "cache"), spool.StoreOptions{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(store.Close)
	tree, err := cache.New(server, cache.Options{
		Staging: filepath.Join(dir, "staging"), Quarantine: filepath.Join(dir, "quarantine"), Spool: store.Shelf("bench"),
		MetadataTTL: time.Hour, NegativeTTL: time.Hour,
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { tree.Close(context.Background()) })
	return server, tree
}

func check(b *testing.B, err error) {
	b.Helper()
	if err != nil && err != io.EOF {
		b.Fatal(err)
	}
}

func BenchmarkStatKnown(b *testing.B) {
	server, tree := newBench(b)
	check(b, server.MakeDir("a/b/c"))
	check(b, server.WriteFile("a/b/c/f", nil))
	b.ReportAllocs()
	for b.Loop() {
		_, err := tree.Stat(b.Context(), "a/b/c/f")
		check(b, err)
	}
}

func listAll(b *testing.B, tree *cache.Tree, dir string) (n int, l *cache.Listing) {
	l, err := tree.List(b.Context(), dir)
	check(b, err)
	for ; ; n++ {
		if _, err := l.At(b.Context(), n); err == io.EOF {
			return n, l
		} else if err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkListKnown lists 100,000 names that are known, and tells what the listing holds beside what is known.
func BenchmarkListKnown(b *testing.B) {
	const names = 100_000
	server, tree := newBench(b)
	check(b, server.MakeDir("d"))
	for i := range names {
		check(b, server.WriteFile(fmt.Sprintf("d/file-%06d", i), nil))
	}
	listAll(b, tree, "d")
	for b.Loop() {
		n, l := listAll(b, tree, "d")
		if l.Close(); n != names {
			b.Fatalf("%d names", n)
		}
	}
	b.ReportMetric(float64(heapOf(func() any { _, l := listAll(b, tree, "d"); return l }))/names, "B/name")
}

// heapOf returns the bytes that what make returns keeps on the heap.
func heapOf(make func() any) int64 {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	kept := make()
	runtime.GC()
	runtime.ReadMemStats(&after)
	runtime.KeepAlive(kept)
	return int64(after.HeapAlloc) - int64(before.HeapAlloc)
}

func BenchmarkReadFromCopy(b *testing.B) {
	const size = 64 << 20
	server, tree := newBench(b)
	check(b, server.WriteFile("f", make([]byte, size)))
	f, _, err := tree.Open(b.Context(), "f", cache.OpenMode{Read: true})
	check(b, err)
	p := make([]byte, 128<<10)
	readAll := func() {
		for off := int64(0); off < size; off += int64(len(p)) {
			_, err := f.ReadAt(b.Context(), p, off)
			check(b, err)
		}
	}
	readAll()
	b.SetBytes(size)
	for b.Loop() {
		readAll()
	}
	check(b, f.Close(b.Context(), false))
}

func BenchmarkWrite(b *testing.B) {
	const size = 64 << 20
	_, tree := newBench(b)
	f, _, err := tree.Open(b.Context(), "f", cache.OpenMode{Write: true, Create: true})
	check(b, err)
	p := make([]byte, 128<<10)
	b.SetBytes(int64(len(p)))
	for off := int64(0); b.Loop(); off = (off + int64(len(p))) % size {
		_, err := f.WriteAt(b.Context(), p, off)
		check(b, err)
	}
	check(b, f.Close(b.Context(), true))
}

// BenchmarkSmallFile creates, writes and publishes files of 4 KiB.
func BenchmarkSmallFile(b *testing.B) {
	_, tree := newBench(b)
	p := make([]byte, 4096)
	for b.Loop() {
		f, _, err := tree.Open(b.Context(), "f", cache.OpenMode{Write: true, Create: true, Truncate: true, Perm: 0o600})
		check(b, err)
		_, err = f.WriteAt(b.Context(), p, 0)
		check(b, err)
		check(b, f.Close(b.Context(), false))
	}
}

// BenchmarkListMillion lists a million names that are not known, and tells what they and the listing hold.
func BenchmarkListMillion(b *testing.B) {
	const names = 1_000_000
	server, tree := newBench(b)
	check(b, server.MakeDir("d"))
	for i := range names {
		check(b, server.WriteFile(fmt.Sprintf("d/file-%07d.txt", i), nil))
	}
	var held int64
	for b.Loop() {
		held = heapOf(func() any {
			n, l := listAll(b, tree, "d")
			if n != names {
				b.Fatalf("%d names", n)
			}
			return l
		})
	}
	b.ReportMetric(float64(held)/names, "B/name")
}
