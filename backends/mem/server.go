package mem

import (
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"pierfs/backends"
)

// The methods below are those of somebody who sits at the server: no hook is asked, no call is counted, and Close ends
// nothing. Names begin in the working directory, or at the server's root with a slash. Links are followed but for the last
// element, as os.Lstat does; WriteFile and ReadFile follow that too.

// WriteFile gives name the content and time.Now, making the file with mode 0644 if it is not there.
func (b *Backend) WriteFile(name string, content []byte) error {
	return b.locked("writefile", name, func() syscall.Errno {
		i, code := b.follow(name)
		if code == syscall.ENOENT {
			dir, element, code := b.free(name)
			if code != 0 {
				return code
			}
			i = b.newInode(0o644)
			b.attach(dir, element, i)
		} else if code != 0 {
			return code
		}
		if i.mode.IsDir() {
			return syscall.EISDIR
		}
		if code := b.resize(i, 0); code != 0 {
			return code
		}
		return b.write(i, content, 0)
	})
}

// ReadFile returns the content of name.
func (b *Backend) ReadFile(name string) (content []byte, err error) {
	err = b.locked("readfile", name, func() syscall.Errno {
		i, code := b.follow(name)
		switch {
		case code != 0:
			return code
		case i.mode.IsDir():
			return syscall.EISDIR
		}
		content = make([]byte, i.size)
		i.read(content, 0)
		return 0
	})
	return content, err
}

// MakeDir makes a directory and those above it.
func (b *Backend) MakeDir(name string) error {
	return b.locked("makedir", name, func() syscall.Errno {
		at := b.work
		if strings.HasPrefix(name, "/") {
			at = b.root
		}
		for element := range strings.SplitSeq(strings.Trim(name, "/"), "/") {
			child := at.children[element]
			if child == nil {
				child = b.newInode(os.ModeDir | 0o755)
				b.attach(at, element, child)
			}
			if !child.mode.IsDir() {
				return syscall.ENOTDIR
			}
			at = child
		}
		return 0
	})
}

// MakeLink makes a symbolic link; nothing is checked, so that a hostile server can be played.
func (b *Backend) MakeLink(target, name string) error {
	return b.locked("makelink", name, func() syscall.Errno {
		dir, element, code := b.free(name)
		if code == 0 {
			i := b.newInode(os.ModeSymlink | 0o777)
			i.target = target
			b.attach(dir, element, i)
		}
		return code
	})
}

// Insert puts an empty file with mode, which may be of any type, into the working directory under any element, also one that
// no honest server has.
func (b *Backend) Insert(element string, mode os.FileMode) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.attach(b.work, element, b.newInode(mode))
}

// Lstat describes name.
func (b *Backend) Lstat(name string) (info backends.Info, err error) {
	err = b.locked("lstat", name, func() syscall.Errno {
		i, code := b.find(name)
		if code == 0 {
			info = b.whole(name[strings.LastIndex(name, "/")+1:], i)
		}
		return code
	})
	return info, err
}

// Names returns what is in dir, sorted.
func (b *Backend) Names(dir string) (names []string, err error) {
	err = b.locked("names", dir, func() syscall.Errno {
		i, code := b.follow(dir)
		if code == 0 {
			names = slices.Sorted(maps.Keys(i.children))
		}
		return code
	})
	return names, err
}

// Delete removes name, with all that is in it.
func (b *Backend) Delete(name string) error {
	return b.locked("delete", name, func() syscall.Errno {
		dir, element, code := b.parent(name)
		if code != 0 {
			return code
		}
		i := dir.children[element]
		if i == nil {
			return syscall.ENOENT
		}
		b.empty(i)
		b.detach(dir, element)
		return 0
	})
}

func (b *Backend) empty(i *inode) {
	for element, child := range i.children {
		b.empty(child)
		b.detach(i, element)
	}
}

// Move renames from to to, replacing what is there.
func (b *Backend) Move(from, to string) error {
	return b.locked("move", from, func() syscall.Errno { return b.rename(from, to, backends.Replace) })
}

// Chtimes sets the times of name.
func (b *Backend) Chtimes(name string, accTime, modTime time.Time) error {
	return b.change(name, backends.Attr{AccTime: &accTime, ModTime: &modTime})
}

// Chmod sets the permission bits of name.
func (b *Backend) Chmod(name string, mode os.FileMode) error {
	return b.change(name, backends.Attr{Perm: &mode})
}

// Chown sets the owner of name.
func (b *Backend) Chown(name string, uid, gid uint32) error {
	return b.change(name, backends.Attr{UID: &uid, GID: &gid})
}

func (b *Backend) change(name string, attr backends.Attr) error {
	return b.locked("change", name, func() syscall.Errno {
		i, code := b.find(name)
		if code != 0 {
			return code
		}
		return b.set(i, attr)
	})
}

// Used returns the bytes in all files.
func (b *Backend) Used() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used
}
