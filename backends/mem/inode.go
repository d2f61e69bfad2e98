package mem

import (
	"os"
	"path"
	"strconv"
	"strings"
	"syscall"
	"time"

	"pierfs/backends"
)

const (
	pageSize = 4096
	maxLinks = 40 // followed in one name, as on Linux

	permBits = os.ModePerm | os.ModeSetuid | os.ModeSetgid | os.ModeSticky
)

// inode is a file, a directory or a link. Backend.mu guards it.
type inode struct {
	id       uint64
	mode     os.FileMode
	uid, gid uint32
	nlink    uint32
	modTime  time.Time
	accTime  time.Time
	parent   *inode            // of a directory; the root is its own
	children map[string]*inode // of a directory
	target   string            // of a link
	size     int64             // of a file
	pages    map[int64][]byte  // of a file; a page that is missing reads as zeros
}

// The methods below are called with b.mu held, but for New's.

func (b *Backend) newInode(mode os.FileMode) *inode {
	b.lastID++
	now := b.now()
	i := &inode{id: b.lastID, mode: mode, uid: b.caps.UID, gid: b.caps.GID, modTime: now, accTime: now}
	switch {
	case mode.IsDir():
		i.children = make(map[string]*inode)
		i.nlink = 1 // its own "."
	case mode&os.ModeSymlink == 0:
		i.pages = make(map[int64][]byte)
	}
	return i
}

func (b *Backend) now() time.Time { return time.Now().Truncate(b.caps.TimeUnit) }

// info is what the server tells of i.
func (b *Backend) info(name string, i *inode) backends.Info {
	if b.options.Known != 0 {
		return only(b.whole(name, i), b.options.Known)
	}
	return b.whole(name, i)
}

// whole is all there is to tell of i.
func (b *Backend) whole(name string, i *inode) backends.Info {
	info := backends.Info{
		Name: name, Mode: i.mode, Size: i.size, ModTime: i.modTime, AccTime: i.accTime,
		UID: i.uid, GID: i.gid, Nlink: i.nlink, ID: strconv.FormatUint(i.id, 10),
		Known: backends.HasType | backends.HasPerm | backends.HasSize | backends.HasModTime | backends.HasAccTime |
			backends.HasOwner | backends.HasNlink | backends.HasID,
	}
	switch {
	case i.mode&os.ModeSymlink != 0:
		info.Size = int64(len(i.target))
	case i.mode.IsDir():
		info.Size = pageSize
	}
	if name == "/" {
		info.Name = ""
	}
	return info
}

// changed is info as it is told of what was just changed.
func (b *Backend) changed(name string, i *inode) backends.Info {
	if known := b.options.AfterWrite; known != 0 {
		return only(b.info(name, i), known)
	}
	return b.info(name, i)
}

// listed is info as a listing tells it.
func (b *Backend) listed(name string, i *inode) backends.Info {
	info := b.info(name, i)
	if b.options.ListKnown != 0 {
		info = only(b.whole(name, i), b.options.ListKnown)
	}
	if unit := b.options.ListUnit; unit > b.caps.TimeUnit && info.Known.Has(backends.HasModTime) {
		info.ModTime, info.TimeUnit = info.ModTime.Truncate(unit), unit
	}
	return info
}

// only returns info without the fields that are not in known.
func only(info backends.Info, known backends.Fields) backends.Info {
	told := backends.Info{Name: info.Name, Known: info.Known & known}
	if told.Known.Has(backends.HasType) {
		told.Mode |= info.Mode.Type()
	}
	if told.Known.Has(backends.HasPerm) {
		told.Mode |= info.Mode & permBits
	}
	if told.Known.Has(backends.HasSize) {
		told.Size = info.Size
	}
	if told.Known.Has(backends.HasModTime) {
		told.ModTime, told.TimeUnit = info.ModTime, info.TimeUnit
	}
	if told.Known.Has(backends.HasAccTime) {
		told.AccTime = info.AccTime
	}
	if told.Known.Has(backends.HasOwner) {
		told.UID, told.GID = info.UID, info.GID
	}
	if told.Known.Has(backends.HasNlink) {
		told.Nlink = info.Nlink
	}
	if told.Known.Has(backends.HasID) {
		told.ID = info.ID
	}
	return told
}

// newPerm returns what a new file or directory gets of the permissions that its maker asked for.
func (b *Backend) newPerm(perm, umasked os.FileMode) os.FileMode {
	if b.caps.SetPerm {
		return perm & permBits
	}
	return umasked
}

// attach gives i the name element in dir; nothing bears it.
func (b *Backend) attach(dir *inode, element string, i *inode) {
	dir.children[element] = i
	dir.modTime = b.now()
	i.nlink++
	if i.mode.IsDir() {
		i.parent = dir
		dir.nlink++ // the child's ".."
	}
}

// detach takes the name element of dir away, and frees what has no name left.
func (b *Backend) detach(dir *inode, element string) {
	i := dir.children[element]
	delete(dir.children, element)
	dir.modTime = b.now()
	i.nlink--
	if i.mode.IsDir() {
		dir.nlink--
	}
	if i.nlink == 0 {
		b.used -= i.size
	}
}

// find returns what bears name, links in its last element not followed.
func (b *Backend) find(name string) (*inode, syscall.Errno) { return b.walk(b.work, name, false, 0) }

// follow returns what name leads to.
func (b *Backend) follow(name string) (*inode, syscall.Errno) { return b.walk(b.work, name, true, 0) }

// walk goes from dir along name, which may have "..", and follows links as a server does: anywhere.
func (b *Backend) walk(dir *inode, name string, last bool, links int) (*inode, syscall.Errno) {
	i := dir
	if strings.HasPrefix(name, "/") {
		i = b.root
	}
	elements := strings.Split(strings.Trim(name, "/"), "/")
	for n, element := range elements {
		switch {
		case element == "" || element == ".":
			continue
		case !i.mode.IsDir():
			return nil, syscall.ENOTDIR
		case element == "..":
			i = i.parent
			continue
		}
		child := i.children[element]
		if child == nil {
			return nil, syscall.ENOENT
		}
		if child.mode&os.ModeSymlink != 0 && (last || n < len(elements)-1) {
			if links++; links > maxLinks {
				return nil, syscall.ELOOP
			}
			rest := append([]string{child.target}, elements[n+1:]...)
			return b.walk(i, strings.Join(rest, "/"), last, links)
		}
		i = child
	}
	return i, 0
}

// parent returns the directory that name is in, or would be in, and its last element.
func (b *Backend) parent(name string) (*inode, string, syscall.Errno) {
	if name == "" {
		return nil, "", syscall.EBUSY // the working directory itself
	}
	dir, element := path.Split(name)
	i, code := b.walk(b.work, dir, true, 0)
	switch {
	case code != 0:
		return nil, "", code
	case !i.mode.IsDir():
		return nil, "", syscall.ENOTDIR
	}
	return i, element, 0
}

// free is parent of a name that nothing bears.
func (b *Backend) free(name string) (*inode, string, syscall.Errno) {
	if name == "" {
		return nil, "", syscall.EEXIST
	}
	dir, element, code := b.parent(name)
	if code == 0 && dir.children[element] != nil {
		code = syscall.EEXIST
	}
	return dir, element, code
}

func (b *Backend) remove(name string, wantDir bool) syscall.Errno {
	if name == "" && !wantDir {
		return syscall.EISDIR
	}
	dir, element, code := b.parent(name)
	if code != 0 {
		return code
	}
	i := dir.children[element]
	switch {
	case i == nil:
		return syscall.ENOENT
	case wantDir && !i.mode.IsDir():
		return syscall.ENOTDIR
	case !wantDir && i.mode.IsDir():
		return syscall.EISDIR
	case wantDir && len(i.children) > 0:
		return syscall.ENOTEMPTY
	}
	b.detach(dir, element)
	if wantDir {
		i.nlink = 0
	}
	return 0
}

func (b *Backend) rename(from, to string, mode backends.RenameMode) syscall.Errno {
	oldDir, oldElement, code := b.parent(from)
	if code != 0 {
		return code
	}
	i := oldDir.children[oldElement]
	if i == nil {
		return syscall.ENOENT
	}
	newDir, newElement, code := b.parent(to)
	if code != 0 {
		return code
	}
	old := newDir.children[newElement]
	switch {
	case old != nil && mode == backends.NoReplace:
		return syscall.EEXIST
	case old == i:
		return 0
	case i.mode.IsDir() && holds(i, newDir):
		return syscall.EINVAL
	case old == nil:
	case old.mode.IsDir() && !i.mode.IsDir():
		return syscall.EISDIR
	case !old.mode.IsDir() && i.mode.IsDir():
		return syscall.ENOTDIR
	case len(old.children) > 0:
		return syscall.ENOTEMPTY
	}
	if old != nil {
		b.detach(newDir, newElement)
	}
	i.nlink++ // it never drops to 0 on its way
	b.detach(oldDir, oldElement)
	b.attach(newDir, newElement, i)
	i.nlink--
	return 0
}

// holds reports whether dir is i or lies somewhere below it.
func holds(i, dir *inode) bool {
	for ; dir != i; dir = dir.parent {
		if dir == dir.parent {
			return false
		}
	}
	return true
}

// settable returns 0 if every field of attr can be set on i.
func (b *Backend) settable(i *inode, attr backends.Attr) syscall.Errno {
	switch {
	case attr.Perm != nil && (!b.caps.SetPerm || i.mode&os.ModeSymlink != 0),
		(attr.UID != nil || attr.GID != nil) && !b.caps.SetOwner,
		(attr.ModTime != nil || attr.AccTime != nil) && !b.caps.SetTimes,
		attr.Size != nil && !b.caps.Truncate:
		return syscall.EOPNOTSUPP
	case attr.Size == nil:
		return 0
	case i.mode.IsDir():
		return syscall.EISDIR
	case !i.mode.IsRegular() || *attr.Size < 0:
		return syscall.EINVAL
	}
	return 0
}

// set sets what settable has let through.
func (b *Backend) set(i *inode, attr backends.Attr) syscall.Errno {
	if attr.Size != nil {
		if code := b.resize(i, *attr.Size); code != 0 {
			return code
		}
		i.modTime = b.now()
	}
	if attr.Perm != nil {
		i.mode = i.mode.Type() | *attr.Perm&permBits
	}
	if attr.UID != nil {
		i.uid = *attr.UID
	}
	if attr.GID != nil {
		i.gid = *attr.GID
	}
	if attr.ModTime != nil {
		i.modTime = attr.ModTime.Truncate(b.caps.TimeUnit)
	}
	if attr.AccTime != nil {
		i.accTime = attr.AccTime.Truncate(b.caps.TimeUnit)
	}
	return 0
}

// possible returns attr without what this server cannot set on a file.
func (b *Backend) possible(attr backends.Attr) backends.Attr {
	if !b.caps.SetPerm {
		attr.Perm = nil
	}
	if !b.caps.SetOwner {
		attr.UID, attr.GID = nil, nil
	}
	if !b.caps.SetTimes {
		attr.ModTime, attr.AccTime = nil, nil
	}
	if !b.caps.Truncate {
		attr.Size = nil
	}
	return attr
}

// resize sets a file's size; what is beyond it is forgotten.
func (b *Backend) resize(i *inode, size int64) syscall.Errno {
	if more := size - i.size; b.size > 0 && more > 0 && b.used+more > b.size {
		return syscall.ENOSPC
	}
	b.used += size - i.size
	if size < i.size {
		for n := range i.pages {
			if n*pageSize >= size {
				delete(i.pages, n)
			}
		}
		if page := i.pages[size/pageSize]; page != nil {
			clear(page[size%pageSize:])
		}
	}
	i.size = size
	return 0
}

// write puts p at off.
func (b *Backend) write(i *inode, p []byte, off int64) syscall.Errno {
	if end := off + int64(len(p)); end > i.size {
		if code := b.resize(i, end); code != 0 {
			return code
		}
	}
	for len(p) > 0 {
		page := i.pages[off/pageSize]
		if page == nil {
			page = make([]byte, pageSize)
			i.pages[off/pageSize] = page
		}
		n := copy(page[off%pageSize:], p)
		p, off = p[n:], off+int64(n)
	}
	i.modTime = b.now()
	return 0
}

// read fills p from off as far as the file goes.
func (i *inode) read(p []byte, off int64) int {
	if off >= i.size {
		return 0
	}
	p = p[:min(int64(len(p)), i.size-off)]
	for rest := p; len(rest) > 0; {
		n := min(len(rest), int(pageSize-off%pageSize))
		if page := i.pages[off/pageSize]; page != nil {
			copy(rest[:n], page[off%pageSize:])
		} else {
			clear(rest[:n])
		}
		rest, off = rest[n:], off+int64(n)
	}
	return len(p)
}
