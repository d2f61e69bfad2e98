// Package fs shows a cache.Tree to the kernel, and does nothing else.
//
// It answers FUSE requests over go-fuse's raw interface, so that node ids and handle ids come from tables of its own
// that can be written down (package cache is asked by name, never by id). It promises:
//
//   - A node is what one name stood for when the kernel asked. It follows its name through renames made here, keeps its
//     st_ino while it does, and outlives its name while somebody has it open. When somebody else replaced the content on
//     the server, the name gets a new node and the old readers keep theirs: old and new bytes never meet in one page cache.
//   - close(2) and fsync(2) return what publishing returned. See Flush for the closes that publish nothing.
//   - A request ends early only when somebody wants its program to stop, and then with EINTR; a signal that a program
//     merely handles (SIGCHLD, Go's SIGURG) interrupts nothing, as on a disk. A change is never answered EINTR: it runs to
//     its end, which the deadlines below the seam put a bound to.
//   - Mounting touches no server, and no unmount waits for ever: its context ends, then the connection is aborted.
//
// Nothing here opens a path under one of our own mounts, and nothing notifies the kernel inside a handler or with a lock
// held (both deadlock, measured). The locks nodes.mu, handles.mu and the small ones of single values are leaves: none is
// held while another is taken, nor over a call of the tree or the kernel.
package fs

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"pierfs/cache"
)

// fileSystem answers the kernel. Requests that it has no method for are ENOSYS by the embedded default, which the kernel
// takes for "never ask again": ACCESS (default_permissions decides), extended attributes (programs see EOPNOTSUPP),
// LSEEK (the kernel's own answer: no holes), COPY_FILE_RANGE (the kernel copies through READ and WRITE), locks (kernel-local:
// right between the processes of one host, and there is no remote lock to map them to), POLL, IOCTL.
type fileSystem struct {
	fuse.RawFileSystem

	shown    atomic.Pointer[ground]
	nodes    *nodes
	handles  handles
	moves    moves
	calm     calm
	again    again
	space    space
	notifier *notifier
	kernel   notices // set before the first request
	backer   backer  // likewise
	direct   bool    // likewise; see writesDirectly
	mapped   mapped

	releasing sync.WaitGroup // releases that still publish

	mountID   atomic.Int64  // of our mount in this namespace, for fdinfo; 0 until known
	inFlight  atomic.Int64  // requests being answered
	listings  atomic.Int64  // requests for names of a directory, of one after the other
	lookups   atomic.Int64  // and of a single one
	writes    atomic.Int64  // WRITE requests that came
	noPassage atomic.Bool   // the kernel was asked for one, and makes none
	ended     atomic.Bool   // the kernel has let go of the mount, and programs perhaps not
	draining  atomic.Bool   // Unmount has begun: nothing new is opened
	stop      chan struct{} // closed when the mount is aborted: every request ends
}

func newFileSystem(tree *cache.Tree, o Options) *fileSystem {
	s := &fileSystem{
		RawFileSystem: fuse.NewDefaultRawFileSystem(),
		nodes:         newNodes(),
		handles:       handles{byID: map[uint64]*handle{}},
		notifier:      newNotifier(),
		stop:          make(chan struct{}),
	}
	on := newGround(tree, o)
	s.shown.Store(on)
	s.nodes.on = on
	return s
}

func (s *fileSystem) log() *slog.Logger { return s.now().o.Logger }

// Init is told of the server before the first request.
func (s *fileSystem) Init(server *fuse.Server) {
	s.kernel, s.backer, s.direct = server, server, server.KernelSettings().Minor >= forgetsBehindWrites
}

func (s *fileSystem) String() string { return fsType }

// at runs op with the node's name. A directory above it may be renamed meanwhile, and op then finds nothing under the old
// name: it is run again with the new one.
func (s *fileSystem) at(id nodeID, op func(name string) error) error {
	return s.follow(func() (string, bool) { return s.nodes.path(id) }, op)
}

// in is at for an entry of the directory dir.
func (s *fileSystem) in(dir nodeID, element string, op func(name string) error) error {
	return s.follow(func() (string, bool) { return s.nodes.pathIn(dir, element) }, op)
}

const followAtMost = 4 // renames in a row above one request

func (s *fileSystem) follow(path func() (string, bool), op func(name string) error) error {
	for try := 1; ; try++ {
		name, ok := path()
		if !ok {
			return syscall.ESTALE
		}
		err := op(name)
		if try == followAtMost || status(err) != fuse.ENOENT {
			return err
		}
		s.moves.settle()
		if now, ok := path(); !ok || now == name {
			return err
		}
	}
}
