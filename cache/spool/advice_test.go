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

// TestFillIsRightAcrossPieces: what is written in several steps lies where it belongs, around what was real before.
func TestFillIsRightAcrossPieces(t *testing.T) {
	const size = 4*folio + 100
	want := make([]byte, size)
	for i := range want {
		want[i] = byte(i / 251)
	}
	f, err := Create(filepath.Join(t.TempDir(), "content"), size)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Remove()
	ours := bytes.Repeat([]byte{255}, 10)
	copy(want[folio-5:], ours)
	if _, err := f.WriteAt(ours, folio-5); err != nil {
		t.Fatal(err)
	}
	for _, r := range []Range{{1, 3*folio + 7}, {2 * folio, size}, {0, 1}} {
		base := bytes.Clone(want[r.Off:r.End])
		if r.Off == 1 {
			clear(base[folio-6 : folio+4]) // it has other bytes where a program wrote
		}
		if err := f.Fill(base, r.Off); err != nil {
			t.Fatal(err)
		}
	}
	got := make([]byte, size)
	if _, ok, err := f.ReadReal(got, 0); !ok || err != nil || !bytes.Equal(got, want) {
		t.Errorf("all is here: %v, %v; equal: %v", ok, err, bytes.Equal(got, want))
	}
}
