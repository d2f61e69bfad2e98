package fs

import (
	"maps"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"pierfs/backends"
	"pierfs/cache"
)

// Flag of renameat2(2); what the others ask for (exchange, whiteout) no server can do.
const renameNoReplace = 1 << 0

func (s *fileSystem) Rename(cancel <-chan struct{}, in *fuse.RenameIn, from, to string) fuse.Status {
	r := s.begun()
	defer s.end(r)
	if r.on.readOnly() {
		return fuse.EROFS
	}
	mode := backends.Replace
	switch in.Flags {
	case 0:
	case renameNoReplace:
		mode = backends.NoReplace
	default:
		return fuse.EINVAL
	}
	return status(s.in(in.NodeId, from, func(path string) error {
		if _, ok := s.nodes.dirNode(in.NodeId, from); ok {
			defer s.moves.begin()()
		}
		target, ok := s.nodes.pathIn(in.Newdir, to)
		if !ok {
			return syscall.ESTALE
		}
		s.keepLast(r, in.Newdir, to, target)
		s.calm.wait()
		defer s.nodes.replaces(in.Newdir, to)()
		if err := r.on.tree.Rename(r, path, target, mode); err != nil {
			return err
		}
		s.nodes.rename(in.NodeId, from, in.Newdir, to)
		return nil
	}))
}

// keepLast notes what the directory at path, an entry of dir, is before it goes. What cannot be learned is not needed: only a
// process that stands in it will ask.
func (s *fileSystem) keepLast(r *request, dir nodeID, name, path string) {
	id, ok := s.nodes.dirNode(dir, name)
	if !ok {
		return
	}
	if e, err := r.on.tree.Stat(r, path); err == nil {
		s.nodes.keepLast(id, e)
	}
}

func (s *fileSystem) Link(cancel <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	r := s.begun()
	defer s.end(r)
	switch named := s.named(in.Oldnodeid); {
	case r.on.readOnly():
		return fuse.EROFS
	case named && !r.on.tree.Caps().Link:
		return fuse.EPERM // link(2): the file system knows no links
	}
	var e cache.Entry
	err := s.in(in.NodeId, name, func(name string) (err error) {
		e, err = s.link(r, in.Oldnodeid, name)
		return err
	})
	if err != nil {
		return status(err)
	}
	v, ok := s.nodes.link(r.on, in.Oldnodeid, in.NodeId, name, e.Linked)
	if !ok {
		return statusStale
	}
	s.nodes.tells(v.id, e.Version)
	s.entry(r, out, v, e)
	return fuse.OK
}

// named reports whether node id bears a name; one without can be given its first.
func (s *fileSystem) named(id nodeID) bool {
	_, ok := s.nodes.path(id)
	return ok
}

// link gives node id the further name: by a name that it has, or, if it has none, through its open file.
func (s *fileSystem) link(r *request, id nodeID, name string) (cache.Entry, error) {
	if old, ok := s.nodes.path(id); ok {
		return r.on.tree.Link(r, old, name)
	}
	c := s.nodes.borrow(id)
	if c == nil {
		return cache.Entry{}, syscall.ENOENT
	}
	e, err := c.file.Link(r, name)
	return e, s.gaveBack(c, err)
}

func (s *fileSystem) Symlink(cancel <-chan struct{}, in *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	if on := s.now(); !on.readOnly() && !on.tree.Caps().Symlink {
		return fuse.EPERM // symlink(2): the file system knows no links
	}
	return s.make(in.NodeId, name, out, func(r *request, path string) (cache.Entry, error) {
		return r.on.tree.Symlink(r, target, path)
	})
}

// moves counts the renames of directories under way, so that a request that found nothing under a name can wait until it
// is certain which name that is by now. Renames do not wait for each other here; the kernel orders those that matter.
type moves struct {
	mu    sync.Mutex
	under int
	still chan struct{} // closed when none is under way any more
}

// begin notes a rename under way until the returned func is called.
func (m *moves) begin() (end func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.under++; m.under == 1 {
		m.still = make(chan struct{})
	}
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.under--; m.under == 0 {
			close(m.still)
		}
	}
}

// settle waits until no rename is under way, or for a second: there may always be a next one.
func (m *moves) settle() {
	m.mu.Lock()
	under, still := m.under, m.still
	m.mu.Unlock()
	if under == 0 {
		return
	}
	enough := time.NewTimer(time.Second)
	defer enough.Stop()
	select {
	case <-still:
	case <-enough.C:
	}
}

// calm lets a program open a file that others keep replacing. Its open met a node that had just lost its name and ended
// with ESTALE; the kernel then looks the name up anew, but only once. Renames wait that long.
type calm struct{ until atomic.Int64 }

const calmFor = 20 * time.Millisecond

func (c *calm) ask() { c.until.Store(time.Now().Add(calmFor).UnixNano()) }

func (c *calm) wait() {
	if d := time.Until(time.Unix(0, c.until.Load())); d > 0 {
		<-time.After(min(d, calmFor))
	}
}

// again remembers threads that were told to look a name up anew, because the node they came with is open with what the name
// was before. Whoever comes back with such a node all the same came by way of /proc/PID/fd, or met the next replacement, and what
// is open under the node was then the name's content after he had begun: he is given that. A second ESTALE would be his program's.
type again struct {
	mu      sync.Mutex
	threads map[uint32]time.Time // when each was told
}

const (
	againWithin = time.Second
	againMost   = 256 // threads remembered, before those are forgotten that did not come back
)

// first reports whether a thread is to be told so: it was not just now.
func (a *again) first(thread uint32) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if told, before := a.threads[thread]; before && time.Since(told) < againWithin {
		return false
	}
	if a.threads == nil {
		a.threads = map[uint32]time.Time{}
	}
	if len(a.threads) >= againMost {
		maps.DeleteFunc(a.threads, func(_ uint32, told time.Time) bool { return time.Since(told) >= againWithin })
	}
	a.threads[thread] = time.Now()
	return true
}

// over notes that a thread has opened what it came for.
func (a *again) over(thread uint32) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.threads, thread)
}
