package model

import (
	"cmp"
	"encoding/gob"
	"errors"
	"io"
	"path/filepath"
	"runtime/debug"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// Serve is the life of one process: it does each operation that it reads in dir and writes the answer, until in ends. A
// broken, if not nil, stands between: it is handed each operation and the way to do it, to prove that the model notices.
func Serve(dir string, in io.Reader, out io.Writer, broken func(Op, func(Op) Answer) Answer) error {
	unix.Umask(umask)
	debug.SetPanicOnFault(true) // a page that cannot be had is an answer too
	w := &worker{dir: dir, open: map[int]int{}}
	do := w.do
	if broken != nil {
		do = func(o Op) Answer { return broken(o, w.do) }
	}
	ops, answers := gob.NewDecoder(in), gob.NewEncoder(out)
	for {
		var o Op
		if err := ops.Decode(&o); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if err := answers.Encode(do(o)); err != nil {
			return err
		}
	}
}

// worker does operations with plain system calls, whatever a library would make of them.
type worker struct {
	dir  string
	open map[int]int // descriptors by the numbers that operations use
}

func (w *worker) do(o Op) Answer {
	switch o.Kind {
	case Open, Dup, Close, Read, Write, MapWrite, Copy, Ftruncate, Fallocate, Fsync, Fstat, Futimens, Fchmod:
		return w.onFile(o)
	case Put, Get, PutLocked, GetLocked, Take:
		return w.shared(o)
	}
	return w.onPath(o)
}

func (w *worker) path(o Op, name string) string { return filepath.Join(w.dir, o.Base, name) }

// answer makes an Answer of what a system call returned.
func answer(err error) Answer {
	if err == nil {
		return Answer{}
	}
	if code, ok := errors.AsType[syscall.Errno](err); ok {
		return Answer{Err: code}
	}
	return Answer{Err: syscall.ENOSYS}
}

// again repeats what a signal interrupted; Go's own signals do that at any time.
func again(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}

func (w *worker) onPath(o Op) Answer {
	name, other := w.path(o, o.Path), w.path(o, o.Other)
	switch o.Kind {
	case Stat, Lstat:
		var st unix.Stat_t
		get := unix.Stat
		if o.Kind == Lstat {
			get = unix.Lstat
		}
		return attributes(&st, again(func() error { return get(name, &st) }))
	case Truncate:
		return answer(again(func() error { return unix.Truncate(name, o.Size) }))
	case Chmod:
		return answer(again(func() error { return unix.Chmod(name, o.Mode) }))
	case Utimes:
		return answer(again(func() error { return unix.UtimesNanoAt(unix.AT_FDCWD, name, times(o.Time), 0) }))
	case Rename:
		return answer(again(func() error { return unix.Rename(name, other) }))
	case NoReplace:
		return answer(again(func() error {
			return unix.Renameat2(unix.AT_FDCWD, name, unix.AT_FDCWD, other, unix.RENAME_NOREPLACE)
		}))
	case Unlink:
		return answer(again(func() error { return unix.Unlink(name) }))
	case Mkdir:
		return answer(again(func() error { return unix.Mkdir(name, o.Mode) }))
	case Rmdir:
		return answer(again(func() error { return unix.Rmdir(name) }))
	case Symlink:
		return answer(again(func() error { return unix.Symlink(o.Other, name) }))
	case Link:
		return answer(again(func() error { return unix.Link(name, other) }))
	case Readlink:
		return readlink(name)
	case Readdir:
		names, err := readdir(name)
		a := answer(err)
		a.Names = names
		return a
	}
	return Answer{Err: syscall.ENOSYS}
}

func times(seconds int64) []unix.Timespec { return []unix.Timespec{{Sec: seconds}, {Sec: seconds}} }

func attributes(st *unix.Stat_t, err error) Answer {
	a := answer(err)
	if err == nil {
		a.Stat = &Attributes{Type: typeOf(st.Mode), Perm: st.Mode & 0o7777, Size: st.Size, Nlink: uint64(st.Nlink), Inode: st.Ino, Mtime: st.Mtim.Sec}
	}
	return a
}

func typeOf(mode uint32) Type {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return File
	case unix.S_IFDIR:
		return Directory
	case unix.S_IFLNK:
		return SymbolicLink
	}
	return Unknown
}

func readlink(name string) Answer {
	buf := make([]byte, unix.PathMax)
	n := 0
	a := answer(again(func() (err error) {
		n, err = unix.Readlink(name, buf)
		return err
	}))
	if a.Err == 0 {
		a.Text = string(buf[:n])
	}
	return a
}

// readdir lists a directory with getdents(2).
func readdir(name string) ([]Name, error) {
	d, err := openAgain(name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(d)
	names := []Name{}
	buf := make([]byte, 32<<10)
	for {
		n := 0
		if err := again(func() (err error) { n, err = unix.Getdents(d, buf); return err }); err != nil {
			return nil, err
		}
		if n == 0 {
			slices.SortFunc(names, func(a, b Name) int { return cmp.Compare(a.Name, b.Name) })
			return names, nil
		}
		names = appendEntries(names, buf[:n])
	}
}

// Layout of a struct linux_dirent64: inode, offset, length of the record, type, name.
const (
	direntLength = 16
	direntType   = 18
	direntName   = 19
)

func appendEntries(names []Name, buf []byte) []Name {
	types := map[byte]Type{unix.DT_REG: File, unix.DT_DIR: Directory, unix.DT_LNK: SymbolicLink}
	for len(buf) > direntName {
		length := int(buf[direntLength]) | int(buf[direntLength+1])<<8
		if name := unix.ByteSliceToString(buf[direntName:length]); name != "." && name != ".." {
			names = append(names, Name{name, types[buf[direntType]]})
		}
		buf = buf[length:]
	}
	return names
}

func openAgain(name string, flags int, mode uint32) (d int, err error) {
	err = again(func() (err error) {
		d, err = unix.Open(name, flags|unix.O_CLOEXEC, mode)
		return err
	})
	return d, err
}

func (w *worker) onFile(o Op) Answer {
	if o.Kind == Open {
		d, err := openAgain(w.path(o, o.Path), o.Flags, o.Mode)
		if err == nil {
			w.open[o.Slot] = d
		}
		return answer(err)
	}
	d, ok := w.open[o.Slot]
	from, fromOK := w.open[o.From]
	switch {
	case o.Kind == Dup && !fromOK, o.Kind == Copy && !fromOK, o.Kind != Dup && !ok:
		return Answer{Err: syscall.EBADF}
	case o.Kind == Dup:
		d, err := unix.FcntlInt(uintptr(from), unix.F_DUPFD_CLOEXEC, 0)
		if err == nil {
			w.open[o.Slot] = d
		}
		return answer(err)
	}
	switch o.Kind {
	case Close:
		delete(w.open, o.Slot)
		err := unix.Close(d)
		if err == unix.EINTR {
			err = nil // Linux has closed it; the error of publishing, if any, would have come in its place
		}
		return answer(err)
	case Read:
		p, err := readAt(d, o.Off, o.Size)
		a := answer(err)
		a.Data = p
		return a
	case Write:
		return writeAt(d, o.Off, content(o.N, o.Size))
	case MapWrite:
		return mapWrite(d, o)
	case Copy:
		return copyRange(from, d, o)
	case Ftruncate:
		return answer(again(func() error { return unix.Ftruncate(d, o.Size) }))
	case Fallocate:
		return answer(again(func() error { return unix.Fallocate(d, o.Mode, o.Off, o.Size) }))
	case Fsync:
		return answer(again(func() error { return unix.Fsync(d) }))
	case Fchmod:
		return answer(again(func() error { return unix.Fchmod(d, o.Mode) }))
	case Futimens:
		return answer(again(func() error { return unix.Futimes(d, []unix.Timeval{{Sec: o.Time}, {Sec: o.Time}}) }))
	default:
		var st unix.Stat_t
		return attributes(&st, again(func() error { return unix.Fstat(d, &st) }))
	}
}

// readAt reads size bytes at off, or what there is of them.
func readAt(d int, off, size int64) ([]byte, error) {
	p := make([]byte, size)
	done := 0
	for done < len(p) {
		n := 0
		err := again(func() (err error) { n, err = unix.Pread(d, p[done:], off+int64(done)); return err })
		if err != nil {
			return nil, err
		}
		if n == 0 {
			break
		}
		done += n
	}
	return p[:done], nil
}

// writeAt writes all of p at off; to a file opened with O_APPEND the kernel writes at the end.
func writeAt(d int, off int64, p []byte) Answer {
	done := 0
	for done < len(p) {
		n := 0
		err := again(func() (err error) { n, err = unix.Pwrite(d, p[done:], off+int64(done)); return err })
		if err != nil {
			a := answer(err)
			a.N = int64(done)
			return a
		}
		done += n
	}
	return Answer{N: int64(done)}
}

// mapWrite writes through a mapping of the file, and asks for it to be stored.
func mapWrite(d int, o Op) (a Answer) {
	var st unix.Stat_t
	if err := again(func() error { return unix.Fstat(d, &st) }); err != nil {
		return answer(err)
	}
	page := int64(unix.Getpagesize())
	begin := o.Off / page * page
	length := int(o.Off + o.Size - begin)
	m, err := unix.Mmap(d, begin, length, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return answer(err)
	}
	defer unix.Munmap(m) // of what was mapped just now: it cannot fail
	if o.Off+o.Size > st.Size {
		return Answer{Err: syscall.EINVAL}
	}
	defer func() {
		if recover() != nil { // SIGBUS: the page could not be read
			a = Answer{Err: syscall.EIO, Call: "touch"}
		}
	}()
	a.N = int64(copy(m[o.Off-begin:], content(o.N, o.Size)))
	if err := again(func() error { return unix.Msync(m, unix.MS_SYNC) }); err != nil {
		return Answer{Err: answer(err).Err, Call: "msync", N: a.N}
	}
	if err := again(func() error { return unix.Fsync(d) }); err != nil {
		return Answer{Err: answer(err).Err, Call: "fsync", N: a.N}
	}
	return a
}

// copyRange has the kernel copy from one file to another.
func copyRange(from, to int, o Op) Answer {
	in, out := o.Off, o.Off
	a := Answer{}
	for a.N < o.Size {
		n := 0
		err := again(func() (err error) {
			n, err = unix.CopyFileRange(from, &in, to, &out, int(o.Size-a.N), 0)
			return err
		})
		if err != nil {
			a.Err = answer(err).Err
			return a
		}
		if n == 0 {
			break
		}
		a.N += int64(n)
	}
	return a
}

// shared does what takes several calls.
func (w *worker) shared(o Op) Answer {
	name := w.path(o, o.Path)
	switch o.Kind {
	case Put:
		temp := w.path(o, o.Other)
		if a := writeFile(temp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, o, 0); a.Err != 0 {
			return a
		}
		return step("rename", again(func() error { return unix.Rename(temp, name) }))
	case PutLocked:
		return writeFile(name, unix.O_WRONLY|unix.O_CREAT, o, unix.LOCK_EX)
	case Take:
		return writeFile(name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, o, 0)
	case GetLocked:
		return readFile(name, unix.LOCK_SH)
	default:
		return readFile(name, 0)
	}
}

// step is answer with the name of the call.
func step(call string, err error) Answer {
	a := answer(err)
	if err != nil {
		a.Call = call
	}
	return a
}

// writeFile makes a file hold what o says, and tells the first call that failed.
func writeFile(name string, flags int, o Op, lock int) Answer {
	d, err := openAgain(name, flags, 0o644)
	if err != nil {
		return step("open", err)
	}
	a := fillFile(d, o, lock)
	if err := unix.Close(d); err != nil && err != unix.EINTR && a.Err == 0 {
		return step("close", err)
	}
	return a
}

func fillFile(d int, o Op, lock int) Answer {
	if lock != 0 {
		if err := again(func() error { return unix.Flock(d, lock) }); err != nil {
			return step("flock", err)
		}
		if err := again(func() error { return unix.Ftruncate(d, 0) }); err != nil {
			return step("ftruncate", err)
		}
	}
	a := writeAt(d, 0, content(o.N, o.Size))
	if a.Err != 0 {
		a.Call = "write"
	}
	return a
}

func readFile(name string, lock int) Answer {
	d, err := openAgain(name, unix.O_RDONLY, 0)
	if err != nil {
		return step("open", err)
	}
	defer unix.Close(d) // of a file that was only read
	if lock != 0 {
		if err := again(func() error { return unix.Flock(d, lock) }); err != nil {
			return step("flock", err)
		}
	}
	var st unix.Stat_t
	if err := again(func() error { return unix.Fstat(d, &st) }); err != nil {
		return step("fstat", err)
	}
	p, err := readAt(d, 0, st.Size+1)
	a := step("read", err)
	a.Data = p
	return a
}
