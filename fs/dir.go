package fs

import (
	"io"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"

	"pierfs/backends"
	"pierfs/cache"
)

func (s *fileSystem) OpenDir(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if s.draining.Load() {
		return statusShutdown
	}
	h := &handle{node: in.NodeId, pid: in.Pid}
	out.OpenFlags = s.openListing(h)
	out.Fh = s.handles.add(h)
	return fuse.OK
}

func (s *fileSystem) ReleaseDir(in *fuse.ReleaseIn) {
	if h := s.handles.remove(in.Fh); h != nil {
		s.closeListing(h)
	}
}

// FsyncDir has nothing to do: a name is on the server when the call that made it returns.
func (s *fileSystem) FsyncDir(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status { return fuse.OK }

func (s *fileSystem) ReadDir(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return s.readDir(cancel, in, out, out.AddDirEntry, s.addNames)
}

func (s *fileSystem) ReadDirPlus(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	name := func(d fuse.DirEntry) bool { return out.AddDirLookupEntry(d) != nil } // and a node id of 0: the name alone
	return s.readDir(cancel, in, out, name, s.addEntries)
}

// readDir answers from in.Offset on: "." and ".." with dot, and what comes after them with rest, which adds until there is no
// more room, or returns an error.
func (s *fileSystem) readDir(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList, dot func(fuse.DirEntry) bool,
	rest func(r *request, page page, out *fuse.DirEntryList) error) fuse.Status {
	r := s.begin(cancel, in.Pid)
	defer s.end(r)
	s.listings.Add(1)
	h := s.handles.get(in.Fh)
	v, ok := s.nodes.view(in.NodeId)
	if h == nil || !ok {
		return fuse.EBADF
	}
	shown, place, err := s.snapshot(r, h, in.Offset)
	if err != nil {
		return status(err)
	}
	defer shown.leave()
	p := page{shown, in.NodeId, place, shown.changes == s.nodes.changes(in.NodeId)}
	for ; p.place < placeFirst; p.place++ {
		d := fuse.DirEntry{Name: ".", Ino: v.ino, Mode: fuse.S_IFDIR, Off: shown.behind(p.place)}
		if p.place == placeDotDot {
			d.Name, d.Ino = "..", s.nodes.parentIno(in.NodeId)
		}
		if !dot(d) {
			return fuse.OK
		}
	}
	err = rest(r, p, out)
	empty := out.Offset == in.Offset
	if err != nil && err != io.EOF && empty {
		return status(err)
	}
	if h.collector {
		s.nodes.brought(in.NodeId, shown, out.Offset, empty && err == io.EOF)
	}
	return fuse.OK // what came before an error is shown; the next call meets it
}

// page is where in a listing one request begins.
type page struct {
	*snapshot
	dir   nodeID
	place int
	fresh bool // nothing was changed here since the listing was taken
}

// names is what addNames works with: about as many entries as fit into what ls(1) has room for.
type names struct {
	heads [1 << 10]cache.Head
	inos  [1 << 10]uint64
}

var namesPool = sync.Pool{New: func() any { return new(names) }}

func (s *fileSystem) addNames(r *request, p page, out *fuse.DirEntryList) error {
	n := namesPool.Get().(*names)
	defer namesPool.Put(n)
	for i := p.place - placeFirst; ; {
		found, err := p.listing.Heads(r, i, n.heads[:])
		if err != nil {
			return err
		}
		heads := n.heads[:found]
		s.nodes.inos(p.dir, heads, n.inos[:found])
		for k := range heads {
			if !shows(heads[k].Name) {
				continue
			}
			d := fuse.DirEntry{Name: heads[k].Name, Ino: n.inos[k], Off: p.behind(placeFirst + i + k)}
			if heads[k].Type { // else DT_UNKNOWN
				d.Mode = unixMode(heads[k].Mode)
			}
			if !out.AddDirEntry(d) {
				return nil
			}
		}
		i += found
	}
}

func (s *fileSystem) addEntries(r *request, p page, out *fuse.DirEntryList) error {
	for i := p.place - placeFirst; ; i++ {
		e, err := p.listing.At(r, i)
		if err != nil {
			return err
		}
		if !shows(e.Name) {
			continue
		}
		typed := e.Known.Has(backends.HasType)
		d := fuse.DirEntry{Name: e.Name, Ino: s.nodes.ino(p.dir, e.Name), Off: p.behind(placeFirst + i)}
		if typed {
			d.Mode = unixMode(e.Mode)
		}
		reply := out.AddDirLookupEntry(d)
		if reply == nil {
			return nil
		}
		// A node id of 0 gives the name alone. What was listed before we changed something here is not to be believed:
		// it would bring removed names back and shrink files that are being written.
		// What the server did not tell the type of is looked up when somebody wants to know.
		if p.fresh && e.Valid > 0 && typed && !s.nodes.isOpen(p.dir, d.Name, e.Linked) {
			s.give(r, p.dir, d.Name, e, reply)
		}
	}
}

// shows reports whether the kernel takes an entry of that name; for one that it does not it would refuse the whole directory.
func shows(name string) bool { return backends.CheckElement(name) == 0 }

func (s *fileSystem) Mkdir(cancel <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	return s.make(in.NodeId, name, out, func(r *request, path string) (cache.Entry, error) {
		return r.on.tree.Mkdir(r, path, permMode(in.Mode))
	})
}

// make answers for an entry that op makes.
func (s *fileSystem) make(dir nodeID, name string, out *fuse.EntryOut, op func(r *request, path string) (cache.Entry, error)) fuse.Status {
	r := s.begun()
	defer s.end(r)
	if r.on.readOnly() {
		return fuse.EROFS
	}
	var e cache.Entry
	err := s.in(dir, name, func(path string) (err error) {
		e, err = op(r, path)
		return err
	})
	if err != nil {
		return status(err)
	}
	s.nodes.changed(dir)
	return s.give(r, dir, name, e, out)
}

func (s *fileSystem) Unlink(cancel <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return s.unmake(in.NodeId, name, func(r *request, path string) error { return r.on.tree.Remove(r, path) })
}

func (s *fileSystem) Rmdir(cancel <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return s.unmake(in.NodeId, name, func(r *request, path string) error {
		s.keepLast(r, in.NodeId, name, path)
		return r.on.tree.Rmdir(r, path)
	})
}

func (s *fileSystem) unmake(dir nodeID, name string, op func(r *request, path string) error) fuse.Status {
	r := s.begun()
	defer s.end(r)
	if r.on.readOnly() {
		return fuse.EROFS
	}
	if err := s.in(dir, name, func(path string) error { return op(r, path) }); err != nil {
		return status(err)
	}
	s.nodes.remove(dir, name)
	return fuse.OK
}
