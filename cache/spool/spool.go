// Package spool keeps content on local disk and knows which ranges of it are real.
//
// A File is a sparse local file. It begins as the image of something elsewhere, its base, of which nothing is here yet;
// ranges become real when they are written by a program or filled from the base, and what a program wrote is never
// overwritten by a fill. Reading a range that is not real is the caller's to prevent: Missing tells what to fill first.
//
// A File knows no server. Its lock guards the ranges and the size, and is held over local disk only.
//
// A Store keeps what was read of many files in a directory that may be deleted at any time, bounded in bytes, and beyond the
// life of the process. A File that came from it goes back into it. A File's lock is taken before the Store's.
package spool

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// File is content on local disk. Its methods may be called from many goroutines at once.
type File struct {
	disk *os.File

	path string // where it lies; guarded by mu

	mu   sync.RWMutex // readers of ReadReal share it
	size int64
	base int64  // from here on everything is real: the base holds nothing there that counts
	real Ranges // within [0, base)

	room  *Room // that the file takes its disk from; nil if nobody counts
	taken int64 // of it

	advice int // what the kernel was told of how it is read; see advise

	// Of a File that a Store has given:
	entry   *entry    // nil if none has
	begun   time.Time // when it was taken with nothing in it
	stored  bool      // it was in the Store before, and is of the very version that it is kept as
	noted   bool      // what is real is written down, and true as long as no byte changes
	lent    bool      // somebody reads the local file itself: what is there must not change, but by what is written
	watched bool      // see Watch
	marked  int       // how often it was marked for that
	ridden  bool      // see Ride
	sent    bool      // the content has arrived where it was meant for, and was not changed since; see Sent
	grown   bool      // it has become the image of a longer base, and is of no version that could be looked up again
}

// Create makes the file path (0600, it must not exist) as the image of a base of size bytes.
func Create(path string, size int64) (*File, error) {
	disk, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if size > 0 { // ext4 takes a file that was cut to nothing for one that is being replaced, and brings it to the disk when it is closed
		if err := disk.Truncate(size); err != nil {
			disk.Close()
			os.Remove(path)
			return nil, err
		}
	}
	f := &File{disk: disk, path: path, size: size, base: size}
	f.advise()
	return f, nil
}

// advise tells the kernel how reads of the local file by us are to be served: as long as there are holes nothing is read ahead, for
// that would fill memory with their zeros just before content is written over them (a third of what a download took). The caller
// holds mu, or alone knows the file.
func (f *File) advise() {
	how := unix.FADV_NORMAL
	if !f.isWhole() {
		how = unix.FADV_RANDOM
	}
	if how != f.advice {
		f.advice = how
		_ = unix.Fadvise(int(f.disk.Fd()), 0, 0, how) // without it reads cost more, and bring the same
	}
}

// Path returns where the file lies.
func (f *File) Path() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.path
}

// Size returns the length of the content.
func (f *File) Size() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.measure()
	return f.size
}

// Real returns how many bytes of the base are here.
func (f *File) Real() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.real.Len()
}

// Missing returns the parts of the n bytes at off that are not real yet, in order; nil if all are.
func (f *File) Missing(off, n int64) []Range {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Collect(f.real.Missing(Range{off, min(off+n, f.base)}))
}

// ReadAt follows io.ReaderAt within the content's size. Ranges that are not real read as zeros.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	size := f.Size()
	if off >= size {
		return 0, io.EOF
	}
	short := int64(len(p)) > size-off
	if short {
		p = p[:size-off]
	}
	n, err := f.disk.ReadAt(p, off)
	if err == nil && short {
		err = io.EOF
	}
	return n, err
}

// ReadReal is ReadAt for a file of which Drop may take something away at any time: ok is false, and nothing was read, if
// not all that p asks for is real.
func (f *File) ReadReal(p []byte, off int64) (n int, ok bool, err error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	end := min(off+int64(len(p)), f.size)
	if off >= end {
		return 0, true, io.EOF
	}
	if !f.real.Has(Range{off, min(end, f.base)}) {
		return 0, false, nil
	}
	n, err = f.disk.ReadAt(p[:end-off], off)
	if err == nil && n < len(p) {
		err = io.EOF
	}
	return n, true, err
}

// Last returns the last bytes of the base that are here, in one piece of at most n bytes, and where they lie.
func (f *File) Last(n int64) (p []byte, off int64) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	var last Range
	for r := range f.real.All() {
		last = r
	}
	last.Off = max(last.Off, last.End-n)
	p = make([]byte, last.Len())
	if got, err := f.disk.ReadAt(p, last.Off); got < len(p) && err != nil {
		return nil, 0
	}
	return p, last.Off
}

// WriteAt writes p at off and makes it real; a gap between the old end and off reads as zeros.
func (f *File) WriteAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.writeAt(p, off)
}

// Append writes p at the end, wherever that is by then, and returns where it was.
func (f *File) Append(p []byte) (off int64, n int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.measure()
	off = f.size
	n, err = f.writeAt(p, off)
	return off, n, err
}

func (f *File) writeAt(p []byte, off int64) (int, error) {
	f.measure()
	reserved, err := f.reserve(off, int64(len(p)))
	if err != nil {
		return 0, err
	}
	defer f.settle(reserved)
	f.sent = false
	n, err := f.disk.WriteAt(p, off)
	end := off + int64(n)
	f.real.Add(Range{off, min(end, f.base)})
	if n > 0 {
		f.size = max(f.size, end)
	}
	f.marks()
	return n, err
}

// Fill writes what the base holds at off, but only where nothing is real yet, and makes that real.
func (f *File) Fill(p []byte, off int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	end := min(off+int64(len(p)), f.base)
	missing := slices.Collect(f.real.Missing(Range{off, end}))
	if len(missing) == 0 {
		return nil
	}
	if err := f.unnote(); err != nil {
		return err
	}
	reserved, err := f.reserve(off, end-off)
	if err != nil {
		return err
	}
	defer f.settle(reserved)
	defer f.count()
	for _, r := range missing {
		if err := f.lay(p[r.Off-off:r.End-off], r.Off); err != nil {
			return err
		}
		f.real.Add(r)
	}
	f.advise()
	return f.filled()
}

// folio is how much is written to the local file at a time, and aligned. The kernel keeps what one write brings in one piece of memory.
// A file in such pieces is found faster than one in pages, by a tenth of the time to read it; larger ones are asked of memory
// that has long been free, of which the host of a virtual machine may have to bring each page first (0.13 s to write 512 MiB in pieces
// of 64 KiB, up to 1.3 s in pieces of 256).
const folio = 64 << 10

// lay writes p at off; the caller holds mu.
func (f *File) lay(p []byte, off int64) error {
	for len(p) > 0 {
		n := min(int64(len(p)), folio-off%folio)
		if _, err := f.disk.WriteAt(p[:n], off); err != nil {
			return err
		}
		p, off = p[n:], off+n
	}
	return nil
}

// unnote takes back what is written down of a stored file, before something in it changes; the caller holds mu.
func (f *File) unnote() error {
	if !f.noted {
		return nil
	}
	if err := os.Remove(f.entry.path(noteSuffix)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("what is noted of a content cannot be taken back: %w", err)
	}
	f.noted = false
	return nil
}

// count lets the Store know how much is here; the caller holds mu.
func (f *File) count() {
	if f.entry == nil {
		return
	}
	s := f.entry.shelf.store
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count(f.entry, f.real.Len()+overhead)
}

// Whole reports whether all of the base is here.
func (f *File) Whole() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.isWhole()
}

func (f *File) isWhole() bool { return f.real.Has(Range{0, f.base}) }

// Lent reports whether somebody may read the local file itself, so that it can only Grow.
func (f *File) Lent() bool {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.lent
}

// ErrLent says that a file was lent and must stay as it is.
var ErrLent = errors.New("somebody reads the local file itself")

// Extend makes the file the image of a base that has grown to size bytes since, of which the end is missing. It is not for
// files that were written to. The error is ErrLent for one that was lent: it can only Grow.
func (f *File) Extend(size int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lent {
		return ErrLent
	}
	if err := f.unnote(); err != nil {
		return err
	}
	f.grown = true
	if err := f.disk.Truncate(size); err != nil {
		return err
	}
	f.size, f.base = size, size
	f.advise()
	return nil
}

// Grow adds to a file that was lent what its base has beyond its end, which is off. Nothing happens if it ends elsewhere.
func (f *File) Grow(p []byte, off int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if off != f.size {
		return nil
	}
	if err := f.unnote(); err != nil {
		return err
	}
	f.grown = true
	n, err := f.disk.WriteAt(p, off)
	f.size, f.base = off+int64(n), off+int64(n)
	f.real.Add(Range{off, f.size})
	f.count()
	return err
}

// Drop forgets what lies in r, so that it is missing again, and gives its disk back as far as the file system can. It is
// not for files that were written to. A file that was lent stays whole.
func (f *File) Drop(r Range) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lent {
		return nil
	}
	if err := f.unnote(); err != nil {
		return err
	}
	defer f.count()
	f.real.Remove(r)
	f.advise()
	return unix.Fallocate(int(f.disk.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, r.Off, r.Len())
}

// Truncate sets the size. What is cut off is gone, also from the base; what is added is zeros and real.
func (f *File) Truncate(size int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sent = false
	if err := f.disk.Truncate(size); err != nil {
		return err
	}
	f.size = size
	f.base = min(f.base, size)
	f.real.Cut(size)
	f.settle(0)
	f.marks()
	return nil
}

// Allocate reserves n bytes of disk at off; the size grows to off+n unless keepSize.
func (f *File) Allocate(off, n int64, keepSize bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.measure()
	reserved, err := f.reserve(off, n)
	if err != nil {
		return err
	}
	defer f.settle(reserved)
	f.sent = false
	if err := unix.Fallocate(int(f.disk.Fd()), unix.FALLOC_FL_KEEP_SIZE, off, n); err != nil {
		return err
	}
	if end := off + n; !keepSize && end > f.size {
		if err := f.disk.Truncate(end); err != nil {
			return err
		}
		f.size = end
	}
	f.marks()
	return nil
}

// Sync returns when the content is on this machine's disk.
func (f *File) Sync() error { return unix.Fdatasync(int(f.disk.Fd())) }

// Remove closes the file and removes it from the disk.
func (f *File) Remove() error {
	err := os.Remove(f.Path())
	if err != nil && f.isDeleted() {
		err = nil
	}
	f.leave()
	if closeErr := f.disk.Close(); err == nil {
		err = closeErr
	}
	return err
}

// Keep closes the file and moves it to path, for good.
func (f *File) Keep(path string) error {
	if err := f.Sync(); err != nil {
		return err
	}
	err := os.Rename(f.Path(), path)
	if err != nil && f.isDeleted() {
		err = f.copyTo(path)
	}
	if err != nil {
		return err
	}
	f.leave()
	return f.disk.Close()
}
