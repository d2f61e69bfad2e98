package model

import (
	"maps"
	"slices"
	"syscall"
)

// want is what an operation must return, and what must be true of the server after it.
type want struct {
	err   syscall.Errno
	n     int64
	data  []byte
	text  string
	names []Name
	stat  *Attributes
	node  int // whose attributes stat has
	mtime mtime
	saved []int // files that the server must have as they are
}

// umask is that of the processes.
const umask = 0o022

// do changes the world as o does, begun at second at, and returns what o must return.
func (w *World) do(o Op, at int64) want {
	switch o.Kind {
	case Open:
		return w.doOpen(o, at)
	case Dup, Close, Read, Write, MapWrite, Copy, Ftruncate, Fallocate, Fsync, Fstat, Futimens, Fchmod:
		return w.doOpened(o, at)
	case Stat, Lstat:
		p, err := w.existing(o.Path, o.Kind == Stat)
		if err != 0 {
			return want{err: err}
		}
		return w.attributes(p.node)
	case Truncate, Chmod, Utimes:
		p, err := w.existing(o.Path, true)
		if err != 0 {
			return want{err: err}
		}
		if o.Kind == Truncate {
			return w.doTruncate(p.node, o, at)
		}
		return w.setAttributes(p.node, o)
	case Rename, NoReplace:
		return w.doRename(o)
	case Unlink, Rmdir:
		return w.doRemove(o)
	case Mkdir, Symlink:
		return w.doMake(o, at)
	case Link:
		return w.doLink(o)
	case Readlink:
		p, err := w.existing(o.Path, false)
		switch {
		case err != 0:
			return want{err: err}
		case w.nodes[p.node].typ != SymbolicLink:
			return want{err: syscall.EINVAL}
		}
		return want{text: w.nodes[p.node].target}
	case Readdir:
		return w.doReaddir(o)
	}
	return want{err: syscall.ENOSYS}
}

func (w *World) doOpen(o Op, at int64) want {
	exclusive := o.Flags&syscall.O_CREAT != 0 && o.Flags&syscall.O_EXCL != 0
	p, err := w.walk(o.Path, !exclusive && o.Flags&syscall.O_NOFOLLOW == 0)
	n := w.nodes[p.node]
	writes := opened{flags: o.Flags}.writes() || o.Flags&syscall.O_TRUNC != 0
	switch {
	case err != 0:
		return want{err: err}
	case p.node == 0 && o.Flags&syscall.O_CREAT == 0:
		return want{err: syscall.ENOENT}
	case p.node == 0:
		w.create(p, o, exclusive, at)
		return want{}
	case exclusive:
		return want{err: syscall.EEXIST}
	case n.typ == SymbolicLink:
		return want{err: syscall.ELOOP}
	case n.typ == Directory && (writes || o.Flags&syscall.O_CREAT != 0):
		return want{err: syscall.EISDIR}
	}
	w.open[fd{o.Hand, o.Slot}] = opened{p.node, o.Flags}
	if o.Flags&syscall.O_TRUNC != 0 {
		w.written(p.node, nil, mtime{recent, at})
		w.change(p.node, func(n *node) { n.unheard = true })
	}
	return want{}
}

// create makes a file of which the server knows nothing yet, or that it is empty if it had to decide who makes it.
func (w *World) create(p place, o Op, exclusive bool, at int64) {
	n := node{typ: File, perm: o.Mode &^ umask, mtime: mtime{recent, at}, unsaved: true, unheard: true, versions: []version{{absent: true}}}
	if exclusive {
		n.versions = append(n.versions, version{perm: n.perm, mtime: mtime{kind: anything}})
	}
	w.open[fd{o.Hand, o.Slot}] = opened{w.add(p, n), o.Flags}
}

// doOpened does what needs an open file.
func (w *World) doOpened(o Op, at int64) want {
	slot := fd{o.Hand, o.Slot}
	if o.Kind == Dup {
		of, ok := w.open[fd{o.Hand, o.From}]
		if !ok {
			return want{err: syscall.EBADF}
		}
		w.open[slot] = of
		return want{}
	}
	f, ok := w.open[slot]
	if !ok {
		return want{err: syscall.EBADF}
	}
	n := w.nodes[f.node]
	switch o.Kind {
	case Close:
		return w.doClose(slot, f)
	case Read:
		if !f.reads() {
			return want{err: syscall.EBADF}
		}
		size := int64(len(n.data))
		return want{data: n.data[min(o.Off, size):min(o.Off+o.Size, size)]}
	case Write:
		if !f.writes() {
			return want{err: syscall.EBADF}
		}
		off := o.Off
		if f.flags&syscall.O_APPEND != 0 {
			off = int64(len(n.data))
		}
		w.written(f.node, overlay(n.data, content(o.N, o.Size), off), mtime{recent, at})
		return want{n: o.Size}
	case MapWrite:
		return w.doMapWrite(f, o, at)
	case Copy:
		return w.doCopy(f, o, at)
	case Ftruncate:
		if !f.writes() {
			return want{err: syscall.EINVAL}
		}
		w.resize(f.node, o.Size, at)
		return want{}
	case Fallocate:
		if !f.writes() {
			return want{err: syscall.EBADF}
		}
		if end := o.Off + o.Size; o.Mode == 0 && end > int64(len(n.data)) {
			w.written(f.node, resized(n.data, end), mtime{kind: anything})
		}
		// Whether reserving alone counts as a change is left to the file system.
		w.change(f.node, func(n *node) { n.mtime = mtime{kind: anything} })
		return want{}
	case Fsync:
		w.published(f.node)
		return want{saved: []int{f.node}}
	case Fstat:
		return w.attributes(f.node)
	default:
		return w.setAttributes(f.node, o)
	}
}

// doClose publishes, as docs/SEMANTICS.md says, unless a file was only made and its maker still holds it.
func (w *World) doClose(slot fd, f opened) want {
	delete(w.open, slot)
	n := w.nodes[f.node]
	defer w.sweep(f.node)
	switch {
	case n.names == 0 || !f.writes():
		return want{}
	case n.unheard && w.holds(slot.hand, f.node):
		failed := n.failed
		w.maybePublished(f.node)
		w.change(f.node, func(n *node) { n.failed = failed })
		return want{}
	}
	w.published(f.node)
	return want{saved: []int{f.node}}
}

// holds reports whether a process has a file open.
func (w *World) holds(hand, id int) bool {
	for slot, o := range w.open {
		if slot.hand == hand && o.node == id {
			return true
		}
	}
	return false
}

// doMapWrite writes through a shared mapping, and then msync and fsync.
func (w *World) doMapWrite(f opened, o Op, at int64) want {
	n := w.nodes[f.node]
	switch {
	case !f.reads() || !f.writes():
		return want{err: syscall.EACCES}
	case o.Off+o.Size > int64(len(n.data)):
		return want{err: syscall.EINVAL} // by the process itself: the kernel's answer is SIGBUS
	}
	w.written(f.node, overlay(n.data, content(o.N, o.Size), o.Off), mtime{recent, at})
	w.published(f.node)
	return want{n: o.Size, saved: []int{f.node}}
}

func (w *World) doCopy(f opened, o Op, at int64) want {
	from, ok := w.open[fd{o.Hand, o.From}]
	switch {
	case !ok, !from.reads(), !f.writes(), f.flags&syscall.O_APPEND != 0:
		return want{err: syscall.EBADF}
	}
	source := w.nodes[from.node].data
	source = source[min(o.Off, int64(len(source))):]
	source = source[:min(int64(len(source)), o.Size)]
	if from.node == f.node && len(source) > 0 {
		return want{err: syscall.EINVAL} // the ranges overlap
	}
	if len(source) > 0 {
		w.written(f.node, overlay(w.nodes[f.node].data, source, o.Off), mtime{recent, at})
	}
	return want{n: int64(len(source))}
}

// overlay returns old with p written at off.
func overlay(old, p []byte, off int64) []byte {
	data := make([]byte, max(int64(len(old)), off+int64(len(p))))
	copy(data, old)
	copy(data[off:], p)
	return data
}

// resized returns old cut or stretched.
func resized(old []byte, size int64) []byte {
	data := make([]byte, size)
	copy(data, old)
	return data
}

// resize cuts or stretches a file. Whether the time changes with a size that does not is left to the file system.
func (w *World) resize(id int, size, at int64) {
	changed := mtime{recent, at}
	if size == int64(len(w.nodes[id].data)) {
		changed = mtime{kind: anything}
	}
	w.written(id, resized(w.nodes[id].data, size), changed)
	if size == 0 {
		w.change(id, func(n *node) { n.unheard = true })
	}
}

func (w *World) doTruncate(id int, o Op, at int64) want {
	if w.nodes[id].typ == Directory {
		return want{err: syscall.EISDIR}
	}
	w.resize(id, o.Size, at)
	w.published(id)
	return want{saved: []int{id}}
}

// setAttributes changes those that are not content; what is unsaved stays so. If the server may have the file as it is, it may
// have been told at once.
func (w *World) setAttributes(id int, o Op) want {
	w.change(id, func(n *node) {
		if v := n.version(); n.unsaved && slices.ContainsFunc(n.versions, func(u version) bool { return sameVersion(u, v) }) {
			defer func() { n.versions = append(slices.Clip(n.versions), n.version()) }()
		}
		switch o.Kind {
		case Chmod, Fchmod:
			n.perm = o.Mode
		default:
			n.mtime = mtime{exact, o.Time}
		}
	})
	return want{}
}

func (w *World) doRename(o Op) want {
	from, err := w.parent(o.Path)
	if err != 0 {
		return want{err: err}
	}
	to, err := w.parent(o.Other)
	if err != 0 {
		return want{err: err}
	}
	if from, err = w.lookup(from); err != 0 {
		return want{err: err}
	}
	if from.node == 0 {
		return want{err: syscall.ENOENT}
	}
	if to, err = w.lookup(to); err != 0 {
		return want{err: err}
	}
	if err := w.mayRename(from, to, o.Kind == NoReplace); err != 0 {
		return want{err: err}
	}
	if from.node == to.node {
		return want{}
	}
	saved := w.unsavedBelow(from)
	for _, id := range saved {
		w.published(id)
	}
	if to.node != 0 {
		w.unbind(to)
		to.node = 0
	}
	w.bind(to, from.node)
	w.unbind(from)
	if n := w.nodes[from.node]; n.typ == File {
		saved = append(saved, from.node)
	}
	return want{saved: saved}
}

// mayRename returns the errno of a rename that is refused, in the kernel's order.
func (w *World) mayRename(from, to place, noReplace bool) syscall.Errno {
	source, target := w.nodes[from.node], w.nodes[to.node]
	switch {
	case noReplace && to.node != 0:
		return syscall.EEXIST
	case w.within(to.dir, from.node):
		return syscall.EINVAL
	case to.node != 0 && w.within(from.dir, to.node):
		return syscall.ENOTEMPTY
	case to.node == 0 || from.node == to.node:
		return 0
	case source.typ == Directory && target.typ != Directory:
		return syscall.ENOTDIR
	case source.typ != Directory && target.typ == Directory:
		return syscall.EISDIR
	case len(target.kids) > 0:
		return syscall.ENOTEMPTY
	}
	return 0
}

// within reports whether dir is ancestor or lies below it.
func (w *World) within(dir, ancestor int) bool {
	for ; dir != outside; dir = w.nodes[dir].parent {
		if dir == ancestor {
			return true
		}
	}
	return false
}

func (w *World) doRemove(o Op) want {
	p, err := w.parent(o.Path)
	if err == 0 {
		p, err = w.lookup(p)
	}
	n := w.nodes[p.node]
	switch {
	case err != 0:
		return want{err: err}
	case p.node == 0:
		return want{err: syscall.ENOENT}
	case o.Kind == Unlink && n.typ == Directory:
		return want{err: syscall.EISDIR}
	case o.Kind == Rmdir && n.typ != Directory:
		return want{err: syscall.ENOTDIR}
	case o.Kind == Rmdir && len(n.kids) > 0:
		return want{err: syscall.ENOTEMPTY}
	}
	w.unbind(p)
	return want{}
}

func (w *World) doMake(o Op, at int64) want {
	p, err := w.parent(o.Path)
	if err == 0 {
		p, err = w.lookup(p)
	}
	switch {
	case err != 0:
		return want{err: err}
	case p.node != 0:
		return want{err: syscall.EEXIST}
	case o.Kind == Mkdir:
		w.add(p, node{typ: Directory, perm: o.Mode &^ umask, kids: map[string]int{}})
	default:
		w.add(p, node{typ: SymbolicLink, perm: 0o777, target: o.Other, mtime: mtime{kind: anything}})
	}
	return want{}
}

func (w *World) doLink(o Op) want {
	from, err := w.existing(o.Path, false)
	if err != 0 {
		return want{err: err}
	}
	to, err := w.parent(o.Other)
	if err == 0 {
		to, err = w.lookup(to)
	}
	switch {
	case err != 0:
		return want{err: err}
	case to.node != 0:
		return want{err: syscall.EEXIST}
	case w.nodes[from.node].typ == Directory:
		return want{err: syscall.EPERM}
	}
	w.bind(to, from.node)
	if w.nodes[from.node].typ != File {
		return want{}
	}
	w.published(from.node)
	return want{saved: []int{from.node}}
}

func (w *World) doReaddir(o Op) want {
	p, err := w.existing(o.Path, true)
	if err == 0 && w.nodes[p.node].typ != Directory {
		err = syscall.ENOTDIR
	}
	if err != 0 {
		return want{err: err}
	}
	kids := w.nodes[p.node].kids
	names := []Name{}
	for _, name := range slices.Sorted(maps.Keys(kids)) {
		names = append(names, Name{name, w.nodes[kids[name]].typ})
	}
	return want{names: names}
}

// attributes returns what stat(2) shows of a node.
func (w *World) attributes(id int) want {
	want := w.nodes[id].attributes()
	want.node = id
	return want
}

func (n node) attributes() want {
	a := &Attributes{Type: n.typ, Perm: n.perm}
	switch n.typ {
	case File:
		a.Size, a.Nlink = int64(len(n.data)), uint64(n.names)
	case SymbolicLink:
		a.Size, a.Nlink = int64(len(n.target)), uint64(n.names)
	}
	return want{stat: a, mtime: n.mtime}
}
