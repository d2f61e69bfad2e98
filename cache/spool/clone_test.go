package spool

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// TestCloneIsTheFileAsItIsAtItsEnd: whatever is added, cut or filled in while the copy is made is in it.
func TestCloneIsTheFileAsItIsAtItsEnd(t *testing.T) {
	const still = 5 << 20
	for name, meanwhile := range map[string]func(f *File) error{
		"nothing": func(*File) error { return nil },
		"appended": func(f *File) error {
			_, _, err := f.Append(bytes.Repeat([]byte("new"), 1<<20))
			return err
		},
		"written behind": func(f *File) error {
			_, err := f.WriteAt([]byte("written"), 6<<20-3)
			return err
		},
		"cut behind": func(f *File) error { return f.Truncate(still) },
		"filled":     func(f *File) error { return f.Fill(bytes.Repeat([]byte("base"), 1<<18), 2<<20) },
	} {
		dir := t.TempDir()
		f, err := Create(filepath.Join(dir, "f"), still)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Remove()
		for _, off := range []int64{0, 1 << 20, still - 3, 6 << 20} {
			if _, err := f.WriteAt([]byte("here"), off); err != nil {
				t.Fatal(err)
			}
		}
		begun, err := f.BeginClone(filepath.Join(dir, "c"), still)
		if err != nil {
			t.Fatal(err)
		}
		if err := meanwhile(f); err != nil {
			t.Fatal(err)
		}
		c, err := begun.End()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Remove()
		for r := range c.real.All() {
			if !f.real.Has(r) {
				t.Errorf("%s: the copy has %v, which is not here", name, r)
			}
		}
		if err := c.Fill(bytes.Repeat([]byte("base"), still/4), 0); err != nil {
			t.Fatal(err)
		}
		if err := f.Fill(bytes.Repeat([]byte("base"), still/4), 0); err != nil {
			t.Fatal(err)
		}
		want, got := contentOf(t, f), contentOf(t, c)
		if !bytes.Equal(got, want) {
			t.Errorf("%s: the copy has %d bytes, of which not all are those %d of the file", name, len(got), len(want))
		}
		if !slices.Equal(c.Missing(0, c.Size()), f.Missing(0, f.Size())) {
			t.Errorf("%s: missing %v, want %v", name, c.Missing(0, c.Size()), f.Missing(0, f.Size()))
		}
		if _, err := f.WriteAt([]byte("else"), 0); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(contentOf(t, c), want) {
			t.Errorf("%s: the copy follows the file", name)
		}
	}
}

func contentOf(t *testing.T, f *File) []byte {
	t.Helper()
	p := make([]byte, f.Size())
	if _, err := f.ReadAt(p, 0); err != nil {
		t.Fatal(err)
	}
	return p
}

// TestCloneKeepsHoles: a copy takes no more disk than the file.
func TestCloneKeepsHoles(t *testing.T) {
	dir := t.TempDir()
	f, err := Create(filepath.Join(dir, "f"), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Remove()
	if _, err := f.WriteAt([]byte("far away"), 1<<30); err != nil {
		t.Fatal(err)
	}
	c, err := f.Clone(filepath.Join(dir, "c"), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Remove()
	var s unix.Stat_t
	if err := unix.Stat(c.Path(), &s); err != nil || s.Blocks*512 > 1<<20 || s.Size != f.Size() {
		t.Errorf("%d bytes on the disk of %d, %v", s.Blocks*512, s.Size, err)
	}
}

// TestCloneTakesItsRoom: a copy is counted when it is made, refused where there is no room for it, and takes none once it is given up.
func TestCloneTakesItsRoom(t *testing.T) {
	const size = 1 << 20
	dir := t.TempDir()
	room := NewRoom(3 * size)
	f, err := Create(filepath.Join(dir, "f"), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Remove()
	if _, err := f.Within(room).WriteAt(make([]byte, size), 0); err != nil {
		t.Fatal(err)
	}
	one := room.Used()
	if one < size || one > size+size/4 {
		t.Fatalf("%d bytes take %d", size, one)
	}
	c, err := f.BeginClone(filepath.Join(dir, "given up"), size)
	if err != nil {
		t.Fatal(err)
	}
	if used := room.Used(); used < 2*size {
		t.Errorf("%d bytes are taken beside a copy that is being made", used)
	}
	if err := c.GiveUp(); err != nil || room.Used() != one {
		t.Errorf("%d bytes are taken once it was given up, want %d; %v", room.Used(), one, err)
	}
	c, err = f.BeginClone(filepath.Join(dir, "made"), size)
	if err != nil {
		t.Fatal(err)
	}
	made, err := c.End()
	if err != nil {
		t.Fatal(err)
	}
	if used := room.Used(); used < 2*size || used > 2*one+size/4 {
		t.Errorf("%d bytes are taken by two of %d", used, one)
	}
	if _, _, err := made.Append(make([]byte, size/2)); err != nil {
		t.Fatal(err)
	}
	if _, err := f.BeginClone(filepath.Join(dir, "refused"), size); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("a copy without room for it: %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(left) != 2 {
		t.Errorf("left are %v, %v", left, err)
	}
	if err := made.Remove(); err != nil || room.Used() != one {
		t.Errorf("%d bytes are taken once it is removed, want %d; %v", room.Used(), one, err)
	}
}

// TestSnapshotIsOfOneMoment: of a file to which somebody writes all the while a copy holds what was there at one moment, or there is none; whoever
// writes, the File or the kernel past it.
func TestSnapshotIsOfOneMoment(t *testing.T) {
	const size, most = 4 << 20, 200
	for _, past := range []bool{false, true} {
		dir := t.TempDir()
		f, err := Create(filepath.Join(dir, "f"), 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Remove()
		if _, err := f.WriteAt(make([]byte, size), 0); err != nil {
			t.Fatal(err)
		}
		disk, err := f.Ride(nil)
		if err != nil {
			t.Fatal(err)
		}
		write := f.WriteAt
		if past {
			write = disk.WriteAt
		}
		stop, done := make(chan struct{}), make(chan error, 1)
		go func() {
			for n := byte(1); ; n++ {
				select {
				case <-stop:
					done <- nil
					return
				default:
				}
				if _, err := write(bytes.Repeat([]byte{n}, size), 0); err != nil {
					done <- err
					return
				}
			}
		}()
		for range most {
			f.Stored()
			c, err := f.Snapshot(filepath.Join(dir, "c"))
			if errors.Is(err, ErrMoving) {
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			p := contentOf(t, c)
			if i := slices.IndexFunc(p, func(b byte) bool { return b != p[0] }); i >= 0 {
				t.Fatalf("past it: %v: the copy has %d at its beginning and %d at %d", past, p[0], p[i], i)
			}
			if err := c.Remove(); err != nil {
				t.Fatal(err)
			}
		}
		close(stop)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(dir, "c")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("a copy is left that is of no moment: %v", err)
		}
	}
}
