package spool

import (
	"errors"
	"io"
	"iter"
	"math"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// Clone is a copy of a File that is being made. It ends with End or GiveUp.
type Clone struct {
	of, to   *File
	shares   bool   // the file system lets the two share their blocks: a copy costs the same however large it is
	still    int64  // so much of the copy is made
	real     Ranges // of that
	reserved int64  // of the room that the copy takes its disk from
}

// Clone makes path a copy of the file as it is now, with the same ranges real; of the same blocks, where the file system can. Nobody
// counts what it takes. The promise is that of BeginClone.
func (f *File) Clone(path string, still int64) (*File, error) {
	c, err := f.beginClone(path, false, still)
	if err != nil {
		return nil, err
	}
	return c.End()
}

// BeginClone begins a copy at path, which takes its room from where the file takes it. The caller promises that the first still bytes are
// changed by nothing but Fill before the copy has ended: they are copied here, and nobody who uses the file waits for that.
func (f *File) BeginClone(path string, still int64) (*Clone, error) {
	return f.beginClone(path, true, still)
}

func (f *File) beginClone(path string, counted bool, still int64) (*Clone, error) {
	disk, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	c := &Clone{of: f, to: &File{disk: disk, path: path}}
	if err = c.begin(counted, still); err == nil && !c.shares {
		err = copyRuns(disk, f.disk, f.Data(Range{0, c.still}))
	}
	if err != nil {
		return nil, errors.Join(err, c.GiveUp())
	}
	return c, nil
}

// begin takes room for the copy, and notes what the file has of the part that is copied first: what is filled meanwhile may be in it or not.
func (c *Clone) begin(counted bool, still int64) (err error) {
	f := c.of
	f.mu.Lock()
	defer f.mu.Unlock()
	f.measure()
	if counted {
		f.settle(0)
		if c.reserved, err = f.reserve(f.size, f.taken); err != nil {
			return err
		}
		c.to.room = f.room
	}
	c.shares = c.share()
	c.still, c.real = min(still, f.size), Ranges{slices.Clone(f.real.list)}
	c.real.Cut(c.still)
	return nil
}

// share has the two files share their blocks, and reports whether they can.
func (c *Clone) share() bool {
	return unix.IoctlFileClone(int(c.to.disk.Fd()), int(c.of.disk.Fd())) == nil
}

// End copies what is not copied yet, and returns the copy, which is the file as it is now.
func (c *Clone) End() (*File, error) {
	if err := c.end(); err != nil {
		return nil, errors.Join(err, c.GiveUp())
	}
	return c.to, nil
}

func (c *Clone) end() error {
	f, to := c.of, c.to
	f.mu.Lock()
	defer f.mu.Unlock()
	f.measure()
	rest := Range{c.still, f.size}
	if c.shares && c.share() {
		rest.Off = 0
	} else if err := copyRuns(to.disk, f.disk, runs(rest, f.dataLocked)); err != nil {
		return err
	}
	if err := to.disk.Truncate(f.size); err != nil {
		return err
	}
	for r := range f.real.All() {
		c.real.Add(Range{max(r.Off, rest.Off), r.End})
	}
	to.size, to.base, to.real = f.size, f.base, c.real
	to.advise()
	to.settle(0)
	to.room.giveBack(c.reserved)
	c.reserved = 0
	return nil
}

// GiveUp removes what was copied.
func (c *Clone) GiveUp() error {
	c.to.room.giveBack(c.reserved)
	c.reserved = 0
	return c.to.Remove()
}

// copyTo makes the file path (0600, it must not exist) of what is here, and durable. It leaves holes where there are some.
func (f *File) copyTo(path string) error {
	to, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer to.Close() // of what is synced
	if err := to.Truncate(f.Size()); err != nil {
		return err
	}
	if err := copyRuns(to, f.disk, f.Data(Range{End: f.Size()})); err != nil {
		return err
	}
	return to.Sync()
}

// Data yields the parts of r that may hold something else than zeros, in order, as far as the local file system knows
// its holes (SEEK_DATA, lseek(2)); elsewhere all of r.
func (f *File) Data(r Range) iter.Seq[Range] { return runs(r, f.data) }

// data returns the first run of data that ends behind off; false if there is only a hole.
func (f *File) data(off int64) (Range, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dataLocked(off)
}

// dataLocked is data for a caller who holds mu: the seeks move a position that nothing else uses.
func (f *File) dataLocked(off int64) (Range, bool) {
	begin, err := f.disk.Seek(off, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return Range{}, false
	}
	if err != nil {
		return Range{off, math.MaxInt64}, true
	}
	end, err := f.disk.Seek(begin, unix.SEEK_HOLE)
	if err != nil {
		end = math.MaxInt64
	}
	return Range{begin, end}, true
}

// runs yields, in order, the parts of r that lie in what next returns for an offset in it.
func runs(r Range, next func(off int64) (Range, bool)) iter.Seq[Range] {
	return func(yield func(Range) bool) {
		for off := r.Off; off < r.End; {
			data, ok := next(off)
			if !ok || data.Off >= r.End {
				return
			}
			data.End = min(data.End, r.End)
			if !yield(data) {
				return
			}
			off = data.End
		}
	}
}

// copyRuns copies runs from one file to the other, to the same places.
func copyRuns(to, from *os.File, runs iter.Seq[Range]) error {
	for r := range runs {
		if err := copyRange(to, from, r); err != nil {
			return err
		}
	}
	return nil
}

// copyRange copies r: in the kernel, which takes half as long as reading and writing, where the file systems can.
func copyRange(to, from *os.File, r Range) error {
	for r.Len() > 0 {
		at, into := r.Off, r.Off
		n, err := unix.CopyFileRange(int(from.Fd()), &at, int(to.Fd()), &into, int(r.Len()), 0)
		if err != nil || n == 0 {
			_, err := io.Copy(io.NewOffsetWriter(to, r.Off), io.NewSectionReader(from, r.Off, r.Len()))
			return err
		}
		r.Off += int64(n)
	}
	return nil
}
