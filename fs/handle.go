package fs

import (
	"context"
	"slices"
	"sync"

	"pierfs/cache"
)

// handle is what the kernel calls an open file or directory.
type handle struct {
	id    uint64
	node  nodeID
	pid   uint32 // thread that opened it; 0 if it is in another pid namespace
	read  bool   // of a file: its program may read it, and so map it
	write bool

	content *content // of a file
	backing int32    // of a file: the passage that it was opened through, 0 if none
	ridable bool     // of a file: the kernel may write it by itself, for nothing is asked of each write
	rides   bool     // of a file: it was lent the staging file; see cache.File.Ride
	empty   bool     // a file whose size was told as 0 when it was opened for reading

	collector bool // of a directory: the kernel may collect what this is brought, and show it what it keeps
	keeper    bool // and kept something when it was opened
	mu        sync.Mutex
	now       *snapshot // that a directory shows
}

// handles is the table of all that is open. Ids are never used twice.
type handles struct {
	mu   sync.Mutex
	last uint64
	byID map[uint64]*handle
}

func (t *handles) add(h *handle) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last++
	h.id = t.last
	t.byID[h.id] = h
	return h.id
}

// get returns nil for an id that is not open.
func (t *handles) get(id uint64) *handle {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.byID[id]
}

// remove returns nil for an id that is not open.
func (t *handles) remove(id uint64) *handle {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.byID[id]
	delete(t.byID, id)
	return h
}

// files returns the handles of open files.
func (t *handles) files() []*handle {
	t.mu.Lock()
	defer t.mu.Unlock()
	var files []*handle
	for _, h := range t.byID {
		if h.content != nil {
			files = append(files, h)
		}
	}
	return files
}

// opened is what a node has while somebody has it open.
type opened struct {
	version  uint64     // of the content that the handles share
	contents []*content // one for each handle
	writers  int
	written  bool // something was written since the first open; to make it or cut it in opening is not to write
	told     bool // a program was told that publishing failed, and nothing was written since
	spoilt   bool // it is no version of the node's name: whoever opens that gets another node
	way      *way // nil until somebody has asked for it
	leaving  int  // of contents: handles that programs have closed, and that are not yet closed here
}

// is reports whether the handles share this version of the node's name.
func (o *opened) is(version uint64) bool { return o.version == version && !o.spoilt }

// content is one successful Open of the tree, ended by one Close when neither a handle nor a request uses it any more.
type content struct {
	file *cache.File
	on   *ground // in use as long as the file is open
	uses int     // guarded by nodes.mu
}

// opens notes that c is open for node id; the node is then not forgotten. keep reports whether the pages that the kernel
// may still hold are of the same version, and known whether its attributes are. ok is false, and nothing noted, if the node is
// open with other content: whoever opens it must look its name up again.
//
// c was opened by name, which may have been given to another file since the kernel asked. Versions do not part the two if the
// server tells whole seconds: then the pages go, and who holds the old file keeps the node to himself.
func (t *nodes) opens(id nodeID, c *content, name string, e cache.Entry, write bool) (keep, known, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := t.find(id)
	if i == 0 {
		return false, false, false
	}
	o := t.open[i]
	if o == nil {
		o = &opened{version: e.Version, spoilt: c.on != t.on} // it was opened where the mount led before
		t.open[i] = o
	} else if !o.is(e.Version) {
		return false, false, false
	} else if o.contents[0].file != c.file {
		o.spoilt = true
		return false, false, false
	}
	o.contents = append(o.contents, c)
	c.uses++
	if write {
		o.told = false // it may have been cut
		o.writers++
		t.touchParents(i)
	}
	n := t.at(i)
	now, named := t.pathOf(i, "")
	same := named && now == name && !t.beingReplaced(i)
	keep = same && !o.spoilt && n.flags&hasPages != 0 && n.stamp == e.Version
	n.stamp, n.flags = e.Version, n.flags|hasPages
	if o.spoilt {
		n.flags &^= hasPages
	}
	return keep, n.told == e.Version, true
}

// reopens is opens for a node that may have no name: it shares what is open already, if anything is.
func (t *nodes) reopens(id nodeID, write bool) (*content, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	o := t.open[t.find(id)]
	if o == nil {
		return nil, false
	}
	c := o.contents[0]
	c.uses++
	o.contents = append(o.contents, c)
	if write {
		o.writers++
	}
	return c, true
}

// closes undoes opens, for a handle that came through the passage, if through is one; but for the use of c, which the caller lets
// go after it. If nobody has the node open any more it returns the passage to it, which nobody needs any more.
func (t *nodes) closes(id nodeID, c *content, write bool, through int32) (unneeded int32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := t.find(id)
	o := t.open[i]
	if o == nil {
		return 0
	}
	if through != 0 {
		o.leaving--
	}
	if k := slices.Index(o.contents, c); k >= 0 {
		o.contents = slices.Delete(o.contents, k, k+1)
	}
	if write {
		o.writers--
		t.touchParents(i)
	}
	if len(o.contents) > 0 {
		return 0
	}
	if o.way != nil {
		unneeded = o.way.backing
	}
	delete(t.open, i)
	t.drop(i)
	return unneeded
}

// forgetPages notes that the pages which the kernel holds of node id are not those of any version.
func (t *nodes) forgetPages(id nodeID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := t.find(id); i != 0 {
		t.at(i).flags &^= hasPages
	}
}

// spoil notes that what node id is open with is no version of its name: whoever opens the name gets another node.
func (t *nodes) spoil(id nodeID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := t.find(id)
	if i == 0 {
		return
	}
	t.at(i).flags &^= hasPages
	if o := t.open[i]; o != nil {
		o.spoilt = true
	}
}

// borrow returns the content that node id is open with, nil if it is not; letGo must follow.
func (t *nodes) borrow(id nodeID) *content {
	t.mu.Lock()
	defer t.mu.Unlock()
	o := t.open[t.find(id)]
	if o == nil {
		return nil
	}
	o.contents[0].uses++
	return o.contents[0]
}

// wrote notes that the node's content was changed here.
func (t *nodes) wrote(id nodeID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if o := t.open[t.find(id)]; o != nil {
		o.written, o.told = true, false
	}
}

// hasOpen reports whether somebody has the node open.
func (t *nodes) hasOpen(id nodeID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.open[t.find(id)] != nil
}

// hasOtherWriters reports whether the node is open for writing more than once.
func (t *nodes) hasOtherWriters(id nodeID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	o := t.open[t.find(id)]
	return o != nil && o.writers > 1
}

// hasWritten reports whether something was written to what the node is open with, which may be open under another node as well.
func (t *nodes) hasWritten(id nodeID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	o := t.open[t.find(id)]
	if o == nil || o.written {
		return o != nil
	}
	for _, other := range t.open {
		if other.written && other.contents[0].file == o.contents[0].file {
			return true
		}
	}
	return false
}

// tell notes that a program was told how publishing the node's content ended.
func (t *nodes) tell(id nodeID, failed bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if o := t.open[t.find(id)]; o != nil {
		o.told = failed
	}
}

func (t *nodes) wasTold(id nodeID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	o := t.open[t.find(id)]
	return o != nil && o.told
}

// letGo ends one use of c, and the last use closes it, which may publish.
func (s *fileSystem) letGo(ctx context.Context, c *content, told bool) error {
	s.nodes.mu.Lock()
	c.uses--
	last := c.uses == 0
	s.nodes.mu.Unlock()
	if !last {
		return nil
	}
	defer c.on.leave()
	return c.file.Close(ctx, told)
}

// release ends handle h of a file. No program waits for it, nor for what it may have to publish.
func (s *fileSystem) release(h *handle) {
	if s.remains(h) {
		return
	}
	told := s.nodes.wasTold(h.node)
	name, named := h.content.file.Name()
	dropped := told && h.content.file.Dirty()
	passable := h.backing == 0 && s.backer != nil && !s.noPassage.Load() && h.content.file.Lendable()
	s.alight(h)
	s.forgetPassage(s.nodes.closes(h.node, h.content, h.write, h.backing))
	if passable && !s.nodes.hasOpen(h.node) {
		s.dropPages(h.node)
	}
	if err := s.letGo(s.owed(), h.content, told); err != nil {
		// No program waits for this answer. The tree has kept the content and counts it (Owed).
		s.log().Error("a file could not be published after its last close", "name", name, "err", err)
	}
	if dropped && named {
		// A program was told that its content did not arrive, and with the last handle it is gone: the name has its old
		// content, or none, and nothing that the kernel keeps of the other may show.
		s.nodes.forgetPages(h.node)
		s.notifier.add(notice{name: name})
	}
}
