package spool

import (
	"bytes"
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestHolesAreNotReadAhead: who reads a content while it comes does not have the kernel fill memory with the zeros that stand for
// what is yet to come. It reads ahead once it has missed something, here what memory has lost.
func TestHolesAreNotReadAhead(t *testing.T) {
	const here, size = 1 << 20, 16 << 20
	f, err := Create(filepath.Join(t.TempDir(), "content"), size)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Remove()
	if err := f.Fill(bytes.Repeat([]byte("content "), here/8), 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Fadvise(int(f.disk.Fd()), 0, here, unix.FADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
	for off := int64(0); off < here; off += 128 << 10 {
		if _, ok, err := f.ReadReal(make([]byte, 128<<10), off); !ok || err != nil {
			t.Fatalf("read at %d: %v, %v", off, ok, err)
		}
	}
	if n := resident(t, f, Range{here, size}); n > 0 {
		t.Errorf("%d pages of what has not come are in memory, want none", n)
	}
}

// resident returns how many pages of r are in memory.
func resident(t *testing.T, f *File, r Range) (n int) {
	t.Helper()
	pages, err := unix.Mmap(int(f.disk.Fd()), r.Off, int(r.Len()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(pages)
	in := make([]byte, len(pages)/unix.Getpagesize())
	if _, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&pages[0])), uintptr(len(pages)), uintptr(unsafe.Pointer(&in[0]))); errno != 0 {
		t.Fatal(errno)
	}
	for _, is := range in {
		n += int(is & 1)
	}
	return n
}
