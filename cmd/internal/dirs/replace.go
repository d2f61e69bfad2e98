package dirs

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
)

// Replace puts content in the place of path, all at once and durably: whoever reads it, also after a loss of power, finds what was
// there before or all of content.
func Replace(path string, content []byte, mode os.FileMode) (err error) {
	temp, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(temp.Name()))
		}
	}()
	_, err = temp.Write(content)
	if err := errors.Join(err, temp.Chmod(mode), temp.Sync(), temp.Close()); err != nil {
		return err
	}
	if err := os.Rename(temp.Name(), path); err != nil {
		return err
	}
	return Sync(filepath.Dir(path))
}

// Make makes dir, and what is missing above it, and returns when dir is to be found behind a loss of power, whoever has made it: when its
// name, and those of the directories above it on the same file system, are on the disk.
func Make(dir string, mode os.FileMode) error {
	if err := os.MkdirAll(dir, mode); err != nil {
		return err
	}
	var here, above syscall.Stat_t
	if err := syscall.Stat(dir, &here); err != nil {
		return &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	for at := filepath.Clean(dir); filepath.Dir(at) != at; at = filepath.Dir(at) {
		if err := syscall.Stat(filepath.Dir(at), &above); err != nil || above.Dev != here.Dev {
			return nil // who may come to dir and not see what is above it has not made that
		}
		if err := Sync(filepath.Dir(at)); errors.Is(err, os.ErrPermission) {
			return nil
		} else if err != nil {
			return err
		}
	}
	return nil
}

// Sync returns when the names in dir are on the disk.
func Sync(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
