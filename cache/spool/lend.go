package spool

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Lend returns the local file itself, open for reading and writing, if all of the base is here. From then on nothing in it is
// changed but by the File's own WriteAt, Append and Truncate, and by Grow, which adds to it. It is the File's to close.
func (f *File) Lend() (disk *os.File, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.isWhole() {
		return nil, false
	}
	f.lent = true
	return f.disk, true
}

// MoveTo gives the local file another place, on the same file system, and takes it out of the Store that it came from. It is
// then a file like those that Create makes. Who has it open, or mapped, goes on. If it was deleted, with its directory, it goes
// on without a name, and Keep has to copy it.
func (f *File) MoveTo(path string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.unnote(); err != nil {
		return err
	}
	if err := os.Rename(f.path, path); err != nil && !f.isDeleted() {
		return err
	}
	f.path = path
	e := f.entry
	if e == nil {
		return nil
	}
	s := e.shelf.store
	s.mu.Lock()
	defer s.unlock()
	s.drop(e)
	e.file, f.entry = nil, nil
	return nil
}

// isDeleted reports whether the local file has no name any more.
func (f *File) isDeleted() bool {
	var now unix.Stat_t
	return unix.Fstat(int(f.disk.Fd()), &now) == nil && now.Nlink == 0
}

// marked is the time that a watched file bears as long as nobody but its File has written to it. What is stored into a mapping
// gives it another, however coarse the clock of the local file system is. It is not the time that Sent leaves.
var marked = time.Unix(2, 0)

// Watch begins to watch for what programs store into shared mappings of the local file, of which nobody is told.
func (f *File) Watch() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.watched = true
	return f.mark()
}

// WasMarked reports whether nobody but its File has written to the file path, which a former process has left, since that looked last.
func WasMarked(path string) bool { return hasTime(path, marked) }

// marks follows each write of ours; the caller holds mu.
func (f *File) marks() {
	if f.watched {
		_ = f.mark() // an unmarked file passes for one that was stored to, which is safe
	}
}

func (f *File) mark() error {
	f.marked++
	return f.setTime(marked)
}

// setTime has the local file bear t as the time of its last change, whatever its name is by now.
func (f *File) setTime(t time.Time) error {
	tv := unix.NsecToTimeval(t.UnixNano())
	return unix.Futimes(int(f.disk.Fd()), []unix.Timeval{tv, tv})
}

// Stored reports whether something was stored since the last question, or since Watch. A page that was stored to is noticed
// once, and again after Sync. What is stored while the File itself writes may go unnoticed, as a part of that.
func (f *File) Stored() bool {
	_, ok := f.StoredAt()
	return ok
}

// Shared reports whether somebody else has the local file open, or mapped: the kernel grants a write lease only to the one
// who alone has it open (fcntl(2)).
func (f *File) Shared() bool {
	f.mu.RLock()
	defer f.mu.RUnlock()
	fd := f.disk.Fd()
	if _, err := unix.FcntlInt(fd, unix.F_SETLEASE, unix.F_WRLCK); err != nil {
		return err == unix.EAGAIN
	}
	_, err := unix.FcntlInt(fd, unix.F_SETLEASE, unix.F_UNLCK)
	return err != nil
}

// CheckLending returns why local files of the directory from cannot be lent and moved to the directory to, or nil. Their file
// system must tell who has a file open, and of stores into mappings (tmpfs does not).
func CheckLending(from, to string) error {
	disk, err := os.CreateTemp(from, "lend-*"+tempSuffix)
	if err != nil {
		return err
	}
	f := &File{disk: disk, path: disk.Name(), size: int64(os.Getpagesize())}
	err = f.checkLending(filepath.Join(to, filepath.Base(f.path)))
	if removed := f.Remove(); err == nil {
		err = removed
	}
	return err
}

func (f *File) checkLending(to string) error {
	if err := f.disk.Truncate(f.size); err != nil {
		return err
	}
	page, err := unix.Mmap(int(f.disk.Fd()), 0, int(f.size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map: %w", err)
	}
	defer func() { _ = unix.Munmap(page) }() // it is a mapping, and whole
	if err := f.Watch(); err != nil {
		return err
	}
	page[0]++
	if !f.Stored() {
		return fmt.Errorf("the file system of %q does not tell when mapped files are written", f.path)
	}
	shared, err := f.sharedWithAnother()
	if err != nil {
		return err
	}
	if !shared || f.Shared() {
		return fmt.Errorf("the file system of %q does not tell who has a file open", f.path)
	}
	return f.MoveTo(to)
}

// sharedWithAnother is what Shared says while the file is open a second time. No process is forked meanwhile: until it
// executes its program it would hold that second one open, too, which would then seem to be somebody else's.
func (f *File) sharedWithAnother() (bool, error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	other, err := os.Open(f.path)
	if err != nil {
		return false, err
	}
	return f.Shared(), other.Close()
}
