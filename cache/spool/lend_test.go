package spool

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestLentFileTellsOfItsReadersAndWriters: who else has the local file open or mapped is known, and so is what is stored into
// a mapping, also after what the File itself writes.
func TestLentFileTellsOfItsReadersAndWriters(t *testing.T) {
	f := wholeFile(t, filepath.Join(t.TempDir(), "content"))
	if f.Shared() {
		t.Error("a file that nobody else has open is shared")
	}
	other, err := os.OpenFile(f.Path(), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	page, err := unix.Mmap(int(other.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	other.Close()
	if !f.Shared() {
		t.Error("a file that is mapped is not shared")
	}
	if err := f.Watch(); err != nil {
		t.Fatal(err)
	}
	wants := func(stored bool, after string) {
		t.Helper()
		if got := f.Stored(); got != stored {
			t.Errorf("after %s: stored %v, want %v", after, got, stored)
		}
	}
	wants(false, "Watch")
	page[0] = 'x'
	wants(true, "a store")
	wants(false, "the question")
	if _, err := f.WriteAt([]byte("ours"), 10); err != nil {
		t.Fatal(err)
	}
	wants(false, "a write of the File's")
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	page[1] = 'y'
	wants(true, "a store after Sync")
	if string(page[10:14]) != "ours" {
		t.Errorf("the mapping shows %q of what was written, want %q", page[10:14], "ours")
	}
	if err := unix.Munmap(page); err != nil {
		t.Fatal(err)
	}
	if f.Shared() {
		t.Error("a file that is mapped no more is shared")
	}
}

// TestLentFileCanBeWrittenOutsideTheStore: moved away, it is in the Store no more, and what is written to it is seen through
// the descriptor that was lent.
func TestLentFileCanBeWrittenOutsideTheStore(t *testing.T) {
	dir := t.TempDir()
	s, err := OpenStore(filepath.Join(dir, "store"), StoreOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	h := s.Shelf("one")
	v := Version{Size: 5, ModTime: time.Unix(1e9, 0)}
	f, err := h.Take("name", v)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := f.Lend(); ok {
		t.Error("a file of which nothing is here was lent")
	}
	if err := f.Fill([]byte("hello"), 0); err != nil {
		t.Fatal(err)
	}
	disk, ok := f.Lend()
	if !ok {
		t.Fatal("a whole file is not lent")
	}
	if err := f.MoveTo(filepath.Join(dir, "moved")); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("J"), 0); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5)
	if _, err := disk.ReadAt(got, 0); err != nil || string(got) != "Jello" {
		t.Errorf("the lent descriptor reads %q, %v; want %q", got, err, "Jello")
	}
	if u := h.Usage(); u.Files != 0 || u.Bytes != 0 {
		t.Errorf("the Store still counts %+v", u)
	}
	if err := f.Remove(); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(filepath.Join(dir, "store")); err != nil || len(left) > 1 {
		t.Errorf("left in the Store: %v, %v", left, err)
	}
}

// TestDeletedLentFileGoesOn: the cache may be deleted at any time. What a program writes into a lent file of it is kept all the
// same.
func TestDeletedLentFileGoesOn(t *testing.T) {
	dir := t.TempDir()
	f := wholeFile(t, filepath.Join(dir, "content"))
	f.Lend()
	if err := os.Remove(f.Path()); err != nil {
		t.Fatal(err)
	}
	if err := f.MoveTo(filepath.Join(dir, "moved")); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("written"), 8000); err != nil {
		t.Fatal(err)
	}
	kept := filepath.Join(dir, "kept")
	if err := f.Keep(kept); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(kept)
	if want := make([]byte, 8007); err != nil || string(got) != string(want[:8000])+"written" {
		t.Errorf("kept: %d bytes, %v", len(got), err)
	}
}

// TestLendingIsCheckedBeforeItIsDone: a file system that does not tell of stores is refused, and nothing is left behind.
func TestLendingIsCheckedBeforeItIsDone(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	if err := CheckLending(from, to); err != nil {
		t.Errorf("on %s: %v", from, err)
	}
	for _, dir := range []string{from, to} {
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("left in %s: %v, %v", dir, left, err)
		}
	}
	memory, err := os.MkdirTemp("/dev/shm", "pierfs-lend-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(memory)
	if CheckLending(memory, memory) == nil {
		t.Error("tmpfs tells of no stores into mappings, and was found good")
	}
	if CheckLending(from, memory) == nil {
		t.Error("a file was moved from one file system to another")
	}
}

func wholeFile(t *testing.T, path string) *File {
	t.Helper()
	f, err := Create(path, 4096)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Remove() })
	if err := f.Fill(make([]byte, 4096), 0); err != nil {
		t.Fatal(err)
	}
	return f
}
