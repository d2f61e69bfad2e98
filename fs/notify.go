package fs

import (
	"hash/maphash"
	"path"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// notifier tells the kernel of what changed behind its back: by the file verbs, or as somebody learned of the server. A
// notice waits in the kernel for the request that works on the same directory or file, so none is ever given by a handler;
// a few goroutines give them, each directory always by the same, and one that waits holds up no other.
type notifier struct {
	mu    sync.Mutex
	lanes [notifyLanes]lane
	seed  maphash.Seed
	ended bool
	wake  *sync.Cond
	done  sync.WaitGroup
}

type lane struct {
	queue  []notice
	queued map[notice]bool // what is in queue: nothing need be told twice
}

// notice is what the kernel is told of: a name that was changed, or a directory whose names are to be asked for again.
type notice struct {
	name    string
	listing nodeID // 0 for a name
}

const notifyLanes = 4

func newNotifier() *notifier {
	n := &notifier{seed: maphash.MakeSeed()}
	n.wake = sync.NewCond(&n.mu)
	return n
}

// start begins to give notices; tell gives one.
func (n *notifier) start(tell func(notice)) {
	for i := range n.lanes {
		n.lanes[i].queued = map[notice]bool{}
		n.done.Go(func() { n.run(&n.lanes[i], tell) })
	}
}

// run ends after end.
func (n *notifier) run(l *lane, tell func(notice)) {
	for {
		n.mu.Lock()
		for len(l.queue) == 0 && !n.ended {
			n.wake.Wait()
		}
		if n.ended {
			n.mu.Unlock()
			return
		}
		next := l.queue[0]
		l.queue = l.queue[1:]
		delete(l.queued, next)
		n.mu.Unlock()
		tell(next)
	}
}

// add never blocks.
func (n *notifier) add(one notice) {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := &n.lanes[(maphash.String(n.seed, path.Dir(one.name))+one.listing)%notifyLanes]
	if n.ended || l.queued == nil || l.queued[one] {
		return
	}
	l.queued[one] = true
	l.queue = append(l.queue, one)
	n.wake.Broadcast()
}

// end forgets what is queued, and waits for the notices under way.
func (n *notifier) end() {
	n.mu.Lock()
	n.ended = true
	n.wake.Broadcast()
	n.mu.Unlock()
	n.done.Wait()
}

// forgetAttributes makes the kernel ask for the attributes of a file before it uses them again: it is about to read content that
// is not of the length it believes in. Alone of all notices this one may be given by a handler: without pages the kernel waits
// for nobody (fuse_reverse_inval_inode with a negative offset).
func (s *fileSystem) forgetAttributes(id nodeID) {
	if s.kernel != nil { // nil where a test asks without a kernel
		s.kernel.InodeNotify(id, -1, 0)
	}
}

// notices is the part of a fuse.Server that tells the kernel.
type notices interface {
	InodeNotify(node uint64, off, length int64) fuse.Status
	EntryNotify(parent uint64, name string) fuse.Status
}

// tell gives a notice.
func (s *fileSystem) tell(to notices, n notice) {
	if n.listing != 0 {
		s.dropListing(to, n.listing)
		return
	}
	s.tellKernel(to, n.name)
}

// tellKernel makes the kernel ask again for a name, its attributes, its pages and its directory's listing. What the kernel
// answers does not matter: it does not know the name, or it is unmounted.
func (s *fileSystem) tellKernel(to notices, name string) {
	dir, entry, element := s.nodes.ids(name)
	if dir == 0 {
		return
	}
	s.nodes.changed(dir)
	s.nodes.forgetListing(dir)
	if element != "" {
		to.EntryNotify(dir, element)
	}
	to.InodeNotify(dir, 0, 0)
	if entry != 0 {
		to.InodeNotify(entry, 0, 0)
	}
}
