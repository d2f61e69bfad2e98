package spool

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestReopenedFileIsWhatItWas(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	f, err := Create(path, 100)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Fill([]byte("0123456789"), 20); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("at the end"), 100); err != nil {
		t.Fatal(err)
	}
	missing := f.Missing(0, 110)
	if _, err := f.WriteAt([]byte("never acknowledged"), 110); err != nil {
		t.Fatal(err)
	}
	f.Close()
	f, err = Reopen(path, 110, missing)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.Size() != 110 || f.Held() != 20 || !slices.Equal(f.Missing(0, 110), missing) {
		t.Errorf("size %d, held %d, missing %v; want 110, 20 and %v", f.Size(), f.Held(), f.Missing(0, 110), missing)
	}
	got := make([]byte, 10)
	if _, err := f.ReadAt(got, 100); string(got) != "at the end" {
		t.Errorf("read %q, %v", got, err)
	}
	if info, err := os.Stat(path); err != nil || info.Size() != 110 {
		t.Errorf("the file has %v, %v; want what is beyond the content cut off", info, err)
	}
	if _, err := Reopen(path, 111, nil); err == nil {
		t.Error("a file that is too short was taken for the content")
	}
}

func TestCloneIsACopyOfItsOwn(t *testing.T) {
	dir := t.TempDir()
	f, err := Create(filepath.Join(dir, "f"), 5<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Remove()
	for _, off := range []int64{0, 1 << 20, 5<<20 - 3, 6 << 20} {
		if _, err := f.WriteAt([]byte("here"), off); err != nil {
			t.Fatal(err)
		}
	}
	want := make([]byte, f.Size())
	if _, err := f.ReadAt(want, 0); err != nil {
		t.Fatal(err)
	}
	c, err := f.Clone(filepath.Join(dir, "c"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Remove()
	if _, err := f.WriteAt([]byte("else"), 0); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, c.Size())
	if _, err := c.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the copy has %d bytes, %v, of which not all are what they were", len(got), err)
	}
	if !slices.Equal(c.Missing(0, c.Size()), f.Missing(0, f.Size())) {
		t.Errorf("missing %v, want %v", c.Missing(0, c.Size()), f.Missing(0, f.Size()))
	}
}
