package spool

import (
	"errors"
	"os"
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

// Close closes the file and leaves it where it lies.
func (f *File) Close() error {
	f.leave()
	return f.disk.Close()
}
