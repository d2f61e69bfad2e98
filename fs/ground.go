package fs

import (
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"pierfs/cache"
)

// ground is a tree that is shown, and how. A mount may be led to another one while it is used (Server.Lead): each request, each
// open content and each open listing stays with the ground that it began on.
type ground struct {
	tree *cache.Tree
	o    Options
	uses atomic.Int64  // by requests, contents and listings, and one more while it is the one that is shown
	gone chan struct{} // closed when nobody uses it any more
}

func newGround(tree *cache.Tree, o Options) *ground {
	g := &ground{tree: tree, o: o, gone: make(chan struct{})}
	g.uses.Store(1)
	return g
}

// enter begins a use. It is false if nobody may any more: another ground is shown by now.
func (g *ground) enter() bool {
	for {
		n := g.uses.Load()
		if n == 0 {
			return false
		}
		if g.uses.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// leave ends a use; nil was none.
func (g *ground) leave() {
	if g != nil && g.uses.Add(-1) == 0 {
		close(g.gone)
	}
}

// readOnly reports whether nothing may be changed there. The kernel refuses most changes itself on a read-only mount.
func (g *ground) readOnly() bool { return g.o.ReadOnly || g.tree.Caps().ReadOnly }

// now returns what is shown.
func (s *fileSystem) now() *ground { return s.shown.Load() }

// use returns what is shown, in use: leave must follow.
func (s *fileSystem) use() *ground {
	for {
		if g := s.now(); g.enter() {
			return g
		}
	}
}

// leadPatience is how long Lead waits for the kernel to have heard of everything: a notice waits for the request that works on the
// same directory, and that may wait for a server.
const leadPatience = 2 * time.Second

// Lead shows tree from now on, in place of the tree before, which nobody but what is open and under way still uses: gone is closed
// when that has ended, and then the old tree can be closed. The mount, its number and its root stay as they are, and so does every
// name that is on both: a program that stands in a directory stands in the new tree's directory of that name. What is open goes on
// where it was opened, and never shares a page with what is opened afterwards. Owners, modes and whether changes are allowed are those
// of o; the device that /proc/mounts shows, and a kernel's own refusal of writes, stay as they were mounted.
//
// A name that the kernel was told to be missing may stay so for the negative TTL that it was told with.
func (s *Server) Lead(tree *cache.Tree, o Options) (gone <-chan struct{}) {
	if o.Logger == nil {
		o.Logger = s.fs.now().o.Logger
	}
	next := newGround(tree, o)
	old := s.fs.shown.Swap(next)
	s.fs.space.forget()
	told := make(chan struct{})
	stale := s.fs.nodes.leadTo(next)
	go func() { // ends with the last notice, at the latest when the kernel lets go of the mount
		defer close(told)
		for _, n := range stale {
			if n.name != "" {
				s.fuse.EntryNotify(n.dir, n.name)
			}
			s.fuse.InodeNotify(n.id, 0, 0)
		}
	}()
	old.leave()
	patience := time.NewTimer(leadPatience)
	defer patience.Stop()
	select {
	case <-told:
	case <-patience.C:
	}
	return old.gone
}

// stale is a node of which the kernel knows what is no more. A directory has no name here: to take its name from the kernel would
// take it from those who stand in it.
type stale struct {
	id, dir nodeID
	name    string
}

// leadTo is told that other content bears all names from now on. It returns what the kernel must be told.
func (t *nodes) leadTo(on *ground) []stale {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.on = on
	clear(t.linked)
	clear(t.files)
	clear(t.last)
	for _, k := range t.kept {
		k.forget()
	}
	for _, o := range t.open {
		o.spoilt = true
	}
	all := make([]stale, 0, t.live)
	for i := rootSlot; i < t.next; i++ {
		n := t.at(i)
		if n.kind == 0 {
			continue
		}
		n.told = 0
		n.flags &^= hasPages
		s := stale{id: t.id(i)}
		if n.kind == syscall.S_IFDIR {
			n.stamp++ // listings begun before are of other files
		} else if n.parent != 0 {
			s.dir, s.name = t.id(n.parent), n.name
		}
		all = append(all, s)
	}
	for p, i := range t.other {
		all = append(all, stale{id: t.id(i), dir: t.id(p.dir), name: p.name})
	}
	slices.Reverse(all) // what was looked up last is used first
	return all
}

// forget makes the next question for the server's room one.
func (p *space) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.until = time.Time{}
}
