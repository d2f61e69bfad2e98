package fs

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"

	"pierfs/backends"
	"pierfs/cache"
)

// dirListing is what one open directory shows: a snapshot from its first entry to its last, so that offsets stay good
// while names come and go. It is taken anew when somebody reads from the beginning (rewinddir).
type dirListing struct {
	mu      sync.Mutex
	listing *cache.Listing
	changes uint64 // nodes.changes of the directory when the listing was taken
}

// set replaces the snapshot and stops the old one, if that is still arriving.
func (l *dirListing) set(listing *cache.Listing, changes uint64) {
	l.mu.Lock()
	old := l.listing
	l.listing, l.changes = listing, changes
	l.mu.Unlock()
	if old != nil {
		old.Close()
	}
}

// The offset of an entry is its place in the listing and two, after "." and "..".
const (
	offDot    = 0
	offDotDot = 1
	offFirst  = 2
)

func (s *fileSystem) OpenDir(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if s.draining.Load() {
		return statusShutdown
	}
	out.Fh = s.handles.add(&handle{node: in.NodeId, pid: in.Pid})
	return fuse.OK
}

func (s *fileSystem) ReleaseDir(in *fuse.ReleaseIn) {
	if h := s.handles.remove(in.Fh); h != nil {
		h.listing.set(nil, 0)
	}
}

// FsyncDir has nothing to do: a name is on the server when the call that made it returns.
func (s *fileSystem) FsyncDir(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status { return fuse.OK }

func (s *fileSystem) ReadDir(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return s.readDir(cancel, in, func(_ cache.Entry, d fuse.DirEntry, _ bool) bool { return out.AddDirEntry(d) })
}

func (s *fileSystem) ReadDirPlus(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return s.readDir(cancel, in, func(e cache.Entry, d fuse.DirEntry, fresh bool) bool {
		reply := out.AddDirLookupEntry(d)
		if reply == nil {
			return false
		}
		// A node id of 0 gives the name alone. What was listed before we changed something here is not to be believed:
		// it would bring removed names back and shrink files that are being written.
		// What the server did not tell the type of is looked up when somebody wants to know.
		if fresh && e.Valid > 0 && e.Known.Has(backends.HasType) && !s.nodes.isOpen(in.NodeId, d.Name, e.Linked) {
			s.give(in.NodeId, d.Name, e, reply)
		}
		return true
	})
}

// readDir hands the entries from in.Offset on to add, until that has no more room.
func (s *fileSystem) readDir(cancel <-chan struct{}, in *fuse.ReadIn, add func(e cache.Entry, d fuse.DirEntry, fresh bool) bool) fuse.Status {
	r := s.begin(cancel, in.Pid)
	defer s.end(r)
	h := s.handles.get(in.Fh)
	v, ok := s.nodes.view(in.NodeId)
	if h == nil || !ok {
		return fuse.EBADF
	}
	listing, changes, err := s.listing(r, h, in.Offset == 0)
	if err != nil {
		return status(err)
	}
	fresh := changes == s.nodes.changes(in.NodeId)
	for off := in.Offset; ; off++ {
		d := fuse.DirEntry{Off: off + 1, Mode: fuse.S_IFDIR}
		var e cache.Entry
		switch off {
		case offDot:
			d.Name, d.Ino = ".", v.ino
		case offDotDot:
			d.Name, d.Ino = "..", s.nodes.parentIno(in.NodeId)
		default:
			e, err = listing.At(r, int(off-offFirst))
			if errors.Is(err, io.EOF) {
				return fuse.OK
			}
			if err != nil && off > in.Offset {
				return fuse.OK // what came before is shown; the next call meets the error
			}
			if err != nil {
				return status(err)
			}
			if backends.CheckElement(e.Name) != 0 {
				continue // the kernel would refuse the whole directory for it
			}
			d.Name, d.Mode, d.Ino = e.Name, unixMode(e.Mode), s.nodes.ino(in.NodeId, e.Name)
			if !e.Known.Has(backends.HasType) {
				d.Mode = 0 // DT_UNKNOWN
			}
		}
		if !add(e, d, fresh && off >= offFirst) {
			return fuse.OK
		}
	}
}

// listing returns the snapshot that h shows, a new one if h is read from the beginning.
func (s *fileSystem) listing(ctx context.Context, h *handle, anew bool) (*cache.Listing, uint64, error) {
	l := &h.listing
	l.mu.Lock()
	known, changes := l.listing, l.changes
	l.mu.Unlock()
	if known != nil && !anew {
		return known, changes, nil
	}
	changes = s.nodes.changes(h.node)
	var fresh *cache.Listing
	err := s.at(h.node, func(name string) (err error) {
		fresh, err = s.tree.List(ctx, name)
		return err
	})
	if err != nil {
		return nil, 0, err
	}
	l.set(fresh, changes)
	return fresh, changes, nil
}

func (s *fileSystem) Mkdir(cancel <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	return s.make(in.NodeId, name, out, func(r *request, path string) (cache.Entry, error) {
		return s.tree.Mkdir(r, path, permMode(in.Mode))
	})
}

// make answers for an entry that op makes.
func (s *fileSystem) make(dir nodeID, name string, out *fuse.EntryOut, op func(r *request, path string) (cache.Entry, error)) fuse.Status {
	r := s.begun()
	defer s.end(r)
	if s.readOnly() {
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
	return s.give(dir, name, e, out)
}

func (s *fileSystem) Unlink(cancel <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return s.unmake(in.NodeId, name, func(r *request, path string) error { return s.tree.Remove(r, path) })
}

func (s *fileSystem) Rmdir(cancel <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return s.unmake(in.NodeId, name, func(r *request, path string) error {
		s.keepLast(r, in.NodeId, name, path)
		return s.tree.Rmdir(r, path)
	})
}

func (s *fileSystem) unmake(dir nodeID, name string, op func(r *request, path string) error) fuse.Status {
	r := s.begun()
	defer s.end(r)
	if s.readOnly() {
		return fuse.EROFS
	}
	if err := s.in(dir, name, func(path string) error { return op(r, path) }); err != nil {
		return status(err)
	}
	s.nodes.remove(dir, name)
	return fuse.OK
}
