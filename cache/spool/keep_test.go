package spool

import (
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
	if f.Size() != 110 || f.Real() != 10 || !slices.Equal(f.Missing(0, 110), missing) {
		t.Errorf("size %d, real %d, missing %v; want 110, 10 and %v", f.Size(), f.Real(), f.Missing(0, 110), missing)
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
