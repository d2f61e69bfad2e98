package spool

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// What others write into the local file itself is seen once, and the File's size follows it.
func TestRiddenFileTellsOfWrites(t *testing.T) {
	dir := t.TempDir()
	f, err := Create(filepath.Join(dir, "f"), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Remove()
	disk, err := f.Ride(nil)
	if err != nil || disk == nil {
		t.Fatal(disk, err)
	}
	if other, err := f.Ride(os.Stdin); other != nil || err != nil {
		t.Errorf("it is lent as another file: %v, %v", other, err)
	}
	kernel, err := os.OpenFile(f.Path(), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer kernel.Close()
	for range 3 { // the times of three writes in a row may be the same
		if f.Stored() {
			t.Error("something was stored by nobody")
		}
		if _, err := kernel.WriteString("more"); err != nil {
			t.Fatal(err)
		}
		at, ok := f.StoredAt()
		if !ok || at.Year() < 2020 {
			t.Errorf("a write was not seen, or at %v", at)
		}
	}
	if f.Size() != 12 {
		t.Errorf("the size is %d", f.Size())
	}
	if !f.Shared() {
		t.Error("the writer is not seen")
	}
	copied, err := f.Snapshot(filepath.Join(dir, "copy"))
	if err != nil || copied.Size() != 12 {
		t.Fatalf("snapshot: %v", err)
	}
	if err := copied.Remove(); err != nil {
		t.Error(err)
	}
	if _, err := kernel.WriteString("x"); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Snapshot(filepath.Join(dir, "copy")); !errors.Is(err, ErrMoving) {
		t.Errorf("a copy is taken of what was written to since it was looked at: %v", err)
	}
	f.Alight()
	if f.Size() != 13 || WasSent(f.Path()) {
		t.Errorf("it ends with %d bytes, taken for sent: %v", f.Size(), WasSent(f.Path()))
	}
}

// A file that is watched and was not sent is no leftover that may be thrown away.
func TestWatchedFileIsNotTakenForSent(t *testing.T) {
	f, err := Create(filepath.Join(t.TempDir(), "f"), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Remove()
	if err := f.Watch(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("unsent"), 0); err != nil {
		t.Fatal(err)
	}
	if WasSent(f.Path()) {
		t.Error("what was never sent is taken for sent")
	}
}

func TestFileWithABaseIsNotRidden(t *testing.T) {
	f, err := Create(filepath.Join(t.TempDir(), "f"), 10)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Remove()
	if disk, err := f.Ride(nil); disk != nil || err != nil {
		t.Errorf("it is lent: %v, %v", disk, err)
	}
}
