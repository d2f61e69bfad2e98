package model

import (
	"bytes"
	"maps"
	"slices"
	"syscall"
)

// World is a tree of files and what is open in it. It is changed by do alone; clone is cheap, for contents are never
// changed in place.
type World struct {
	nodes map[int]node
	open  map[fd]opened
	last  int // node made last
}

// root is the tree's own directory.
const root = 1

// fd is an open file's number in one process.
type fd struct{ hand, slot int }

// opened is what a descriptor, or several made of each other by dup, refer to.
type opened struct {
	node  int
	flags int
}

func (o opened) reads() bool  { return o.flags&syscall.O_ACCMODE != syscall.O_WRONLY }
func (o opened) writes() bool { return o.flags&syscall.O_ACCMODE != syscall.O_RDONLY }

// node is a file, a directory or a link. Its slices and maps are replaced, never changed.
type node struct {
	typ    Type
	perm   uint32
	data   []byte
	target string
	kids   map[string]int
	parent int // of a directory
	names  int // of a file or link
	mtime  mtime

	// Of a file: what the server may have of it, if that is not for certain what is here.
	unsaved  bool      // there is something to publish
	unheard  bool      // no byte was written since it was made or cut to nothing
	failed   bool      // a program was told that publishing failed
	given    bool      // up, with the last descriptor that may write: it is what its readers saw, and bears no name any more
	versions []version // any of these may be the server's, if unsaved
}

// version is a content that the server may have of a file; absent means that it does not have the file.
type version struct {
	absent bool
	data   []byte
	perm   uint32
	mtime  mtime
}

// mtime is what is known of a time of change.
type mtime struct {
	kind mtimeKind
	at   int64
}

type mtimeKind uint8

const (
	recent mtimeKind = iota // at is the earliest it may be
	exact
	anything
)

// same reports whether two times are the same, or both somewhere near now.
func (m mtime) same(o mtime) bool { return m == o || m.kind == recent && o.kind == recent }

// NewWorld returns an empty tree.
func NewWorld() *World {
	return &World{
		nodes: map[int]node{root: {typ: Directory, perm: 0o755, kids: map[string]int{}, parent: outside}},
		open:  map[fd]opened{},
		last:  root,
	}
}

func (w *World) clone() *World {
	return &World{nodes: maps.Clone(w.nodes), open: maps.Clone(w.open), last: w.last}
}

// same reports whether nothing tells two worlds apart.
func (w *World) same(v *World) bool {
	return maps.Equal(w.open, v.open) && maps.EqualFunc(w.nodes, v.nodes, func(a, b node) bool {
		return a.typ == b.typ && a.perm == b.perm && a.target == b.target && a.parent == b.parent && a.names == b.names &&
			a.mtime.same(b.mtime) && a.unsaved == b.unsaved && a.unheard == b.unheard && a.failed == b.failed && a.given == b.given &&
			maps.Equal(a.kids, b.kids) && bytes.Equal(a.data, b.data) && slices.EqualFunc(a.versions, b.versions, sameVersion)
	})
}

func sameVersion(a, b version) bool {
	return a.absent == b.absent && a.perm == b.perm && a.mtime.same(b.mtime) && bytes.Equal(a.data, b.data)
}

// change replaces a node by what f makes of it.
func (w *World) change(id int, f func(*node)) {
	n := w.nodes[id]
	f(&n)
	w.nodes[id] = n
}

// bind gives a name to a node, and unbind takes it away.
func (w *World) bind(p place, id int) {
	w.change(p.dir, func(d *node) {
		d.kids = maps.Clone(d.kids)
		d.kids[p.name] = id
	})
	w.change(id, func(n *node) {
		n.names++
		if n.typ == Directory {
			n.parent = p.dir
		}
	})
}

func (w *World) unbind(p place) {
	w.change(p.dir, func(d *node) {
		d.kids = maps.Clone(d.kids)
		delete(d.kids, p.name)
	})
	w.change(p.node, func(n *node) { n.names-- })
	w.sweep(p.node)
}

// sweep forgets a node that has neither a name nor a descriptor.
func (w *World) sweep(id int) {
	if w.nodes[id].names == 0 && !w.isOpen(id) {
		delete(w.nodes, id)
	}
}

func (w *World) isOpen(id int) bool {
	for _, o := range w.open {
		if o.node == id {
			return true
		}
	}
	return false
}

// add makes a node and returns its id.
func (w *World) add(p place, n node) int {
	w.last++
	w.nodes[w.last] = n
	w.bind(p, w.last)
	return w.last
}

// paths yields the name of each node below the root, parents first, in order.
func (w *World) paths() []found {
	var all []found
	var visit func(dir int, prefix string)
	visit = func(dir int, prefix string) {
		kids := w.nodes[dir].kids
		for _, name := range slices.Sorted(maps.Keys(kids)) {
			all = append(all, found{prefix + name, kids[name]})
			if w.nodes[kids[name]].typ == Directory {
				visit(kids[name], prefix+name+"/")
			}
		}
	}
	visit(root, "")
	return all
}

// found is a path and what it names.
type found struct {
	path string
	node int
}

// written notes that a file's bytes changed.
func (w *World) written(id int, data []byte, at mtime) {
	w.change(id, func(n *node) {
		n.dirty()
		n.data, n.mtime, n.unheard, n.failed = data, at, false, false
	})
}

// dirty notes that the node is about to change, and that the server has what it was, or some older version.
func (n *node) dirty() {
	if !n.unsaved {
		n.versions = []version{n.version()}
		n.unsaved = true
	}
}

func (n *node) version() version { return version{data: n.data, perm: n.perm, mtime: n.mtime} }

// published notes that the server has the file as it is.
func (w *World) published(id int) {
	w.change(id, func(n *node) { n.unsaved, n.failed, n.versions = false, false, nil })
}

// maybePublished notes that publishing failed in a way that says nothing of what the server has.
func (w *World) maybePublished(id int) {
	w.change(id, func(n *node) {
		if v := n.version(); n.unsaved && !slices.ContainsFunc(n.versions, func(u version) bool { return sameVersion(u, v) }) {
			n.versions = append(slices.Clip(n.versions), v)
		}
		n.failed = n.unsaved
	})
}

// settle returns the worlds in which a file may be after the last close of a descriptor that may write, when publishing it
// had failed: with any version that the server may have. Those who still read it go on with what they saw.
func (w *World) settle(id int) []*World {
	n, ok := w.nodes[id]
	if !ok || !n.unsaved || !n.failed || w.isWritten(id) {
		return []*World{w}
	}
	var worlds []*World
	for _, v := range n.versions {
		u := w.clone()
		heir := id
		if u.isOpen(id) {
			u.change(id, func(n *node) { n.given, n.unsaved, n.failed, n.versions = true, false, false, nil })
			u.last++
			heir = u.last
		}
		switch {
		case v.absent:
			u.pass(id, 0)
		default:
			u.pass(id, heir)
			u.change(heir, func(n *node) {
				*n = node{typ: File, names: n.names, data: v.data, perm: v.perm, mtime: v.mtime}
			})
		}
		worlds = append(worlds, u)
	}
	return worlds
}

// isWritten reports whether somebody has a file open who may write to it.
func (w *World) isWritten(id int) bool {
	for _, o := range w.open {
		if o.node == id && o.writes() {
			return true
		}
	}
	return false
}

// pass takes all names from a file and gives them to another, 0 for none.
func (w *World) pass(from, to int) {
	if from == to {
		return
	}
	for _, f := range w.paths() {
		if f.node != from {
			continue
		}
		p, _ := w.parent(f.path) // it was just found there
		p.node = from
		w.unbind(p)
		if to != 0 {
			w.bind(p, to)
		}
	}
}

// unsavedBelow returns the files with something to publish that bear the path's name or one below it.
func (w *World) unsavedBelow(p place) []int {
	var ids []int
	var visit func(id int)
	visit = func(id int) {
		n := w.nodes[id]
		if n.unsaved {
			ids = append(ids, id)
		}
		for _, kid := range n.kids {
			visit(kid)
		}
	}
	visit(p.node)
	return ids
}
