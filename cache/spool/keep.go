package spool

import (
	"errors"
	"io"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// Reopen opens the file path that an earlier process has left, as a content of size bytes of which all is real but missing.
// What the file holds beyond size is cut off; one that is shorter is not what it should be, and an error.
func Reopen(path string, size int64, missing []Range) (*File, error) {
	disk, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	info, err := disk.Stat()
	if err == nil && (!info.Mode().IsRegular() || info.Size() < size) {
		err = errors.New("it is shorter than the content that it should hold")
	}
	if err == nil && info.Size() > size {
		err = disk.Truncate(size)
	}
	if err != nil {
		return nil, errors.Join(&os.PathError{Op: "reopen", Path: path, Err: err}, disk.Close())
	}
	f := &File{disk: disk, path: path, size: size}
	for _, r := range missing {
		f.base = max(f.base, min(r.End, size))
	}
	f.real.Add(Range{0, f.base})
	for _, r := range missing {
		f.real.Remove(r)
	}
	return f, nil
}

// Clone makes path a copy of the file as it is now, with the same ranges real; of the same blocks, where the file system can.
func (f *File) Clone(path string) (*File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.measure()
	return f.clone(path, nil)
}

// CloneWithin is Clone for a copy that takes its room from where the file takes it.
func (f *File) CloneWithin(path string) (*File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.measure()
	reserved, err := f.reserve(f.size, f.taken)
	if err != nil {
		return nil, err
	}
	defer f.settle(reserved)
	return f.clone(path, f.room)
}

// clone is Clone for a caller who holds mu.
func (f *File) clone(path string, room *Room) (*File, error) {
	disk, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.copyInto(disk); err != nil {
		return nil, errors.Join(err, disk.Close(), os.Remove(path))
	}
	copied := &File{disk: disk, path: path, size: f.size, base: f.base, real: Ranges{slices.Clone(f.real.list)}}
	return copied.Within(room), nil
}

// copyInto gives disk the size and content of the file; the caller holds mu.
func (f *File) copyInto(disk *os.File) error {
	if unix.IoctlFileClone(int(disk.Fd()), int(f.disk.Fd())) == nil {
		return disk.Truncate(f.size)
	}
	if err := disk.Truncate(f.size); err != nil {
		return err
	}
	for off := int64(0); off < f.size; {
		begin, err := f.disk.Seek(off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // nothing but a hole is left
		}
		end := f.size
		if err != nil {
			begin = off // it tells no holes
		} else if hole, err := f.disk.Seek(begin, unix.SEEK_HOLE); err == nil {
			end = min(hole, f.size)
		}
		if begin >= f.size {
			return nil
		}
		into := io.NewOffsetWriter(disk, begin)
		if _, err := io.Copy(into, io.NewSectionReader(f.disk, begin, end-begin)); err != nil {
			return err
		}
		off = end
	}
	return nil
}

// Held returns how many bytes of content are here.
func (f *File) Held() int64 {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.real.Len() + max(0, f.size-f.base)
}

// Close closes the file and leaves it where it lies.
func (f *File) Close() error {
	f.leave()
	return f.disk.Close()
}
