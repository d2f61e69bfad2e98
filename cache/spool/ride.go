package spool

import (
	"errors"
	"math"
	"os"
	"time"
)

// A File is ridden while the kernel lets programs write to the local file by itself. Its size is then that of the local file, and what was
// written is known by the time of change alone, as of what is stored into mappings: the File sets it back to a time that no write leaves.
// The file system sets the time of a write before the write's first byte, with the file locked, and locks it too when the time is set
// back: what was written before that is whole by then, and what comes after is seen at the next question, however coarse the clock is.

// ErrMoving says that a file was written to while it was being copied.
var ErrMoving = errors.New("it is being written to")

// Ride lends the local file to the kernel, for programs to write to, and watches it: see Watch. It may be called again. It is nil if the File
// began as the image of something, whose ranges must be kept in mind, and if on is not nil and another one. The file is the File's to close.
func (f *File) Ride(on *os.File) (*os.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.base != 0 || on != nil && f.disk != on {
		return nil, nil
	}
	if !f.watched {
		f.watched = true
		if err := f.mark(); err != nil {
			f.watched = false
			return nil, err
		}
	}
	f.lent, f.ridden = true, true
	return f.disk, nil
}

// Alight takes the local file back from the kernel, which nobody has open or mapped through it any more.
func (f *File) Alight() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.measure()
	f.settle(0)
	f.lent, f.ridden, f.watched = false, false, false
}

// measure takes the size from the local file, where others than the File write to it; the caller holds mu.
func (f *File) measure() {
	if !f.ridden {
		return
	}
	if info, err := f.disk.Stat(); err == nil {
		f.size = info.Size()
	}
}

// StoredAt is Stored that also tells when.
func (f *File) StoredAt() (at time.Time, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.watched {
		return at, false
	}
	info, err := f.disk.Stat()
	if err == nil && info.ModTime().Equal(marked) {
		return at, false
	}
	if err == nil {
		at = info.ModTime()
	}
	f.marks()
	f.measure()
	if f.ridden {
		f.settle(0)
	}
	return at, true
}

// Snapshot makes path a copy of a watched file that is of one moment, and takes its room from where the file takes it. ErrMoving says that
// somebody has written to the file meanwhile, or since Stored was asked last.
func (f *File) Snapshot(path string) (*File, error) {
	if err := f.disk.Sync(); err != nil { // pages of mappings that are clean cannot be stored to unseen
		return nil, err
	}
	before, still := f.stands()
	if !still {
		return nil, ErrMoving
	}
	c, err := f.BeginClone(path, math.MaxInt64) // what is changed all the same is found out
	if err != nil {
		return nil, err
	}
	copied, err := c.End()
	if err != nil {
		return nil, err
	}
	if after, still := f.stands(); !still || after != before {
		return nil, errors.Join(ErrMoving, copied.Remove())
	}
	return copied, nil
}

// stands reports whether nobody has written to the local file since it was marked, and how often that was done.
func (f *File) stands() (marks int, still bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	info, err := f.disk.Stat()
	return f.marked, err == nil && info.ModTime().Equal(marked)
}

// CheckRiding returns why the kernel cannot be let write to files of the directory dir by itself, or nil. Their file system must tell of
// writes by time, who has a file open, and of stores into mappings.
func CheckRiding(dir string) error { return CheckLending(dir, dir) }
