package model

import (
	"strings"
	"syscall"
)

const (
	maxName  = 255 // bytes of one name
	maxLinks = 40  // symbolic links that one path may lead through
)

// place is where a path leads: the entry name of the directory dir, and what bears it (0 for nothing).
type place struct {
	dir  int
	name string
	node int
}

// outside is the node above the root: nothing is known of it, so no generated operation goes there.
const outside = -1

// walk follows path from the root as the kernel does. follow says whether a link in the last place is followed.
func (w *World) walk(path string, follow bool) (place, syscall.Errno) {
	todo := strings.Split(path, "/")
	at := place{dir: root, node: root}
	if path == "" {
		return at, 0
	}
	for links := 0; len(todo) > 0; {
		name := todo[0]
		todo = todo[1:]
		dir := at.node
		d := w.nodes[dir]
		if d.typ != Directory {
			return place{}, syscall.ENOTDIR
		}
		switch {
		case name == "." || name == "":
			continue
		case name == "..":
			if dir == root {
				return place{dir: outside, node: outside}, 0
			}
			at = place{dir: d.parent, node: d.parent}
			continue
		case len(name) > maxName:
			return place{}, syscall.ENAMETOOLONG
		}
		at = place{dir: dir, name: name, node: d.kids[name]}
		if at.node == 0 {
			if len(todo) > 0 {
				return place{}, syscall.ENOENT
			}
			return at, 0
		}
		if n := w.nodes[at.node]; n.typ == SymbolicLink && (follow || len(todo) > 0) {
			if links++; links > maxLinks {
				return place{}, syscall.ELOOP
			}
			todo = append(strings.Split(n.target, "/"), todo...)
			at = place{dir: dir, node: dir}
		}
	}
	return at, 0
}

// existing is walk for a path that must lead to something.
func (w *World) existing(path string, follow bool) (place, syscall.Errno) {
	p, err := w.walk(path, follow)
	if err == 0 && p.node == 0 {
		err = syscall.ENOENT
	}
	return p, err
}

// parent follows path to the directory that has, or would have, its last name.
func (w *World) parent(path string) (place, syscall.Errno) {
	dir, name := "", path
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		dir, name = path[:i], path[i+1:]
	}
	p, err := w.existing(dir, true)
	switch {
	case err != 0:
		return place{}, err
	case p.node == outside:
		return p, 0
	case w.nodes[p.node].typ != Directory:
		return place{}, syscall.ENOTDIR
	}
	return place{dir: p.node, name: name}, 0
}

// lookup fills in what bears the place's name.
func (w *World) lookup(p place) (place, syscall.Errno) {
	if len(p.name) > maxName {
		return place{}, syscall.ENAMETOOLONG
	}
	if p.dir != outside {
		p.node = w.nodes[p.dir].kids[p.name]
	}
	return p, 0
}

// leadsOut reports whether an operation touches what lies above the root.
func (w *World) leadsOut(o Op) bool {
	for _, path := range []string{o.Path, o.Other} {
		if o.Kind == Symlink && path == o.Other {
			continue
		}
		for _, follow := range []bool{false, true} {
			if p, err := w.walk(path, follow); err == 0 && (p.node == outside || p.dir == outside) {
				return true
			}
		}
	}
	return false
}
