package cache

import (
	"context"
	"errors"
	"maps"
	"os"
	"path"
	"strings"
	"syscall"

	"pierfs/backends"
)

// maxLinks is how many names of files with several names are remembered. Beyond it the oldest knowledge does not go, the
// newest is not taken: such a file is then two files to this tree, as it is to every other client of the server.
const maxLinks = 100_000

// names are the names of one file that has several, as far as they were made here: SFTP version 3 tells no link count
// and no identity (draft-ietf-secsh-filexfer-02 section 5). An open file of several names is one File, and is published
// into itself, for a rename over one name would part it from the others.
type names struct {
	id  uint64
	set map[string]struct{}
}

// errNoLinkNow refuses further names while changes are owed: which of them are one file only the server knows. Programs that are told
// EPERM copy instead, as on a file system without links.
var errNoLinkNow = errors.Join(syscall.EPERM, errors.New("no further names are made while the server is away, or behind changes that are owed to it"))

// Link gives the file old the further name name. What is unpublished of it is published first.
func (t *Tree) Link(ctx context.Context, old, name string) (Entry, error) {
	t.dropNext(old, name)
	if t.live(name) != nil {
		return Entry{}, &backends.Error{Op: "link", Name: name, Code: syscall.EEXIST}
	}
	if t.changes.concern(old, name) {
		return Entry{}, fault("link", name, errNoLinkNow)
	}
	if f := t.live(old); f != nil {
		if err := f.turn.take(ctx); err != nil {
			return Entry{}, err
		}
		defer f.turn.give() // a publication in between would give the old name to another file
		if err := f.publish(ctx); err != nil {
			return Entry{}, err
		}
	}
	err := t.backend.Link(ctx, old, name)
	t.attrs.Forget(name)
	t.attrs.Forget(old)
	if t.isAway(ctx, err) {
		err = fault("link", name, errNoLinkNow)
	}
	if err != nil {
		return Entry{}, err
	}
	t.kept.touched(parent(name))
	t.mu.Lock()
	t.link(old, name)
	t.mu.Unlock()
	return t.Refresh(ctx, name)
}

// Temp opens a new file that bears no name (O_TMPFILE) until File.Link gives it one; dir must be a directory.
func (t *Tree) Temp(ctx context.Context, dir string, perm os.FileMode) (*File, Entry, error) {
	e, err := t.Stat(ctx, dir)
	switch {
	case err != nil:
		return nil, Entry{}, err
	case !e.IsDir():
		return nil, Entry{}, &backends.Error{Op: "tmpfile", Name: dir, Code: syscall.ENOTDIR}
	case t.Caps().ReadOnly:
		return nil, Entry{}, &backends.Error{Op: "tmpfile", Name: dir, Code: syscall.EROFS}
	}
	f := newFile(t, "", t.blank("", perm))
	f.gone, f.opens = true, 1
	if t.ctx.Err() != nil {
		return nil, Entry{}, shutDown("tmpfile", dir)
	}
	if err := f.stage(); err != nil {
		return nil, Entry{}, f.fault("tmpfile", err)
	}
	return f, f.entry(), nil
}

// Link gives the file the name name, which nothing may bear yet: a further one if it bears one, and otherwise, to a file
// that Temp made, its first, under which it is then published.
func (f *File) Link(ctx context.Context, name string) (Entry, error) {
	t := f.tree
	if old, ok := f.Name(); ok {
		return t.Link(ctx, old, name)
	}
	if err := backends.CheckName("link", name); err != nil {
		return Entry{}, err
	}
	_, err := t.Refresh(ctx, name)
	if err == nil {
		err = &backends.Error{Op: "link", Name: name, Code: syscall.EEXIST}
	}
	if !errors.Is(err, os.ErrNotExist) {
		return Entry{}, err
	}
	if err := f.bear(name); err != nil {
		return Entry{}, err
	}
	if err := f.Publish(ctx); err != nil {
		f.unbear()
		return Entry{}, err
	}
	return f.entry(), nil
}

// bear gives a name to a file that Temp made.
func (f *File) bear(name string) error {
	t := f.tree
	t.mu.Lock()
	defer t.mu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case t.closed:
		return shutDown("link", name)
	case t.busyLocked(name) != nil, t.liveLocked(name) != nil:
		return &backends.Error{Op: "link", Name: name, Code: syscall.EEXIST}
	case f.staged == nil || f.name != "":
		return &backends.Error{Op: "link", Name: name, Code: syscall.ENOENT} // it had a name once and lost it
	}
	t.files[name] = f
	f.name, f.gone, f.info.Name = name, false, path.Base(name)
	f.reclaim = true // linkat(2) replaces nothing
	f.change++
	return nil
}

// unbear takes the name back that bear gave, for the server would not have it.
func (f *File) unbear() {
	t := f.tree
	t.mu.Lock()
	defer t.mu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	t.free(f)
	f.name, f.gone, f.info.Name = "", true, ""
}

// liveLocked returns the open file that bears name, as its own or as one of several; the caller holds mu.
func (t *Tree) liveLocked(name string) *File {
	if f := t.files[name]; f != nil {
		return f
	}
	if n := t.links[name]; n != nil {
		for other := range n.set {
			if f := t.files[other]; f != nil {
				return f
			}
		}
	}
	return nil
}

// link notes that name is now a name of the file old; the caller holds mu.
func (t *Tree) link(old, name string) {
	t.unlinkLocked(name)
	if len(t.links) >= maxLinks {
		return
	}
	n := t.links[old]
	if n == nil {
		n = &names{id: t.staged.Add(1), set: map[string]struct{}{old: {}}}
		t.links[old] = n
	}
	n.set[name] = struct{}{}
	t.links[name] = n
}

// unlink notes that name bears nothing any more. An open file that bore it and has another name bears that from now on.
func (t *Tree) unlink(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.unlinkLocked(name)
}

func (t *Tree) unlinkLocked(name string) {
	n := t.links[name]
	if n == nil {
		return
	}
	delete(t.links, name)
	delete(n.set, name)
	for other := range n.set {
		if f := t.files[name]; f != nil {
			f.mu.Lock()
			t.free(f)
			t.files[other] = f
			f.name, f.info.Name, f.base.Name = other, path.Base(other), path.Base(other)
			f.mu.Unlock()
		}
		if len(n.set) == 1 {
			delete(t.links, other)
		}
		break
	}
}

// renameLinks carries the names at and below from to to; the caller holds mu.
func (t *Tree) renameLinks(from, to string) {
	for name, n := range maps.Clone(t.links) {
		if name == from || strings.HasPrefix(name, from+"/") {
			moved := to + name[len(from):]
			delete(t.links, name)
			delete(n.set, name)
			t.links[moved] = n
			n.set[moved] = struct{}{}
		}
	}
}

// sameFile reports whether a and b are known to be names of one file.
func (t *Tree) sameFile(a, b string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.links[a] != nil && t.links[a] == t.links[b]
}

// linked reports whether the file name has further names.
func (t *Tree) linked(name string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.links[name] != nil
}

// countLinks sets e's link count, and which file it is, if more than one name is known.
func (t *Tree) countLinks(name string, e *Entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.links) == 0 {
		return
	}
	if n := t.links[name]; n != nil {
		e.Nlink, e.Linked = uint32(len(n.set)), n.id
		e.Known |= backends.HasNlink
	}
}

// forgetLinks drops what is known of the other names of a file that was changed through name.
func (t *Tree) forgetLinks(name string) {
	t.mu.Lock()
	var others []string
	if n := t.links[name]; n != nil {
		others = slicesOf(n.set, name)
	}
	t.mu.Unlock()
	for _, other := range others {
		t.attrs.Forget(other)
	}
}

// slicesOf returns the members of set but one.
func slicesOf(set map[string]struct{}, but string) []string {
	var members []string
	for m := range set {
		if m != but {
			members = append(members, m)
		}
	}
	return members
}
