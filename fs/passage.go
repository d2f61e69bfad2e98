package fs

import (
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"pierfs/cache"
)

// A file of which all is on this machine's disk is read by the kernel itself, past us (FUSE passthrough, as root). The kernel
// knows one way at a time for all who have a file open (fs/fuse/iomode.c): once there is a passage, everybody goes through it,
// to the same local file, or open(2) fails with EIO. So the first who opens a file decides, and what he decides lasts until
// nobody has it open any more:
//
//   - Who opens it to write first has it read through us and kept in the kernel's pages, and so has everybody beside him.
//   - A passage is for a first reader. Who comes to write later goes through the passage and asks us for every read and write
//     all the same (FOPEN_DIRECT_IO), and we write into the very file that the readers read: they see it at once, also in their
//     mappings. Locks, inotify and sizes are those of one inode. What he stores into a mapping of his own nobody tells us of;
//     the local file's time does (cache.File.Local).
//   - Who first opens a new content to write it is lent the staging file (writePassthrough; cache.File.Ride): the kernel writes by itself, for him
//     and for all who come beside him. If it cannot be lent to one of these, because what is in it is on its way to the server, the
//     name gets another node.
//   - A mapping of a passage outlives the close of what it was made from, and the kernel tells us of the close alone. As long
//     as one is left, the file stays open here, and whoever opens it comes through the passage as well.

// way is how the kernel gets at a node's content, for all who have it open.
type way struct {
	chosen  chan struct{} // closed when the rest is decided
	file    *cache.File   // that the passage leads to
	ridden  *os.File      // its staging file, if the kernel writes by itself; nil if it only reads
	backing int32         // what the kernel calls the passage; 0 if there is none
}

// backer is the part of a fuse.Server that makes passages.
type backer interface {
	RegisterBackingFd(*fuse.BackingMap) (int32, syscall.Errno)
	UnregisterBackingFd(id int32) syscall.Errno
}

// enter finds the way for h, which was just opened. An error means that it cannot be open.
func (s *fileSystem) enter(h *handle) error {
	w, first := s.nodes.wayOf(h.node)
	if w == nil {
		return syscall.ESTALE
	}
	if first {
		s.choose(w, h)
	}
	<-w.chosen // whoever chooses waits for nothing but the local disk
	switch {
	case w.backing == 0:
		return nil
	case w.file != h.content.file: // the same version, and yet another content
		s.nodes.spoil(h.node) // the kernel looks the name up again, and gets another node for it
		return syscall.ESTALE
	}
	if w.ridden != nil && !h.rides {
		disk, err := w.file.Ride(h.mode(), w.ridden)
		if err != nil {
			return err
		}
		if disk == nil {
			s.nodes.spoil(h.node)
			return syscall.ESTALE
		}
		h.rides = true
	}
	if h.write && !h.rides {
		if _, err := w.file.Local(h.mode()); err != nil {
			return err
		}
	}
	h.backing = w.backing
	s.nodes.forgetPages(h.node)
	return nil
}

// choose decides for the first who has the node of h open.
func (s *fileSystem) choose(w *way, h *handle) {
	defer close(w.chosen)
	if s.backer == nil || s.noPassage.Load() {
		return
	}
	file := h.content.file
	var disk *os.File
	var err error
	switch {
	case !h.write:
		disk, err = file.Local(h.mode())
	case h.ridable:
		disk, err = file.Ride(h.mode(), nil)
		h.rides = disk != nil
	}
	if disk == nil || err != nil {
		return
	}
	id, errno := s.backer.RegisterBackingFd(&fuse.BackingMap{Fd: int32(disk.Fd())})
	if errno != 0 {
		s.alight(h)
		// EPERM: not root. ELOOP: the cache directory is on an overlay. ENOTTY, EOPNOTSUPP: an older kernel. None of it changes.
		if !s.noPassage.Swap(true) {
			s.log().Info("local files are read through the daemon: the kernel makes no passage to them", "err", errno)
		}
		return
	}
	w.file, w.backing = file, id
	if h.rides {
		w.ridden = disk
	}
}

// alight gives back what h was lent to write to, if it was.
func (s *fileSystem) alight(h *handle) {
	switch {
	case !h.rides:
		return
	case s.ended.Load():
		h.content.file.AlightUnseen(h.mode())
	default:
		h.content.file.Alight(h.mode())
	}
	h.rides = false
}

// dropPages lets the kernel drop the pages of a file that nobody has open any more and of which all is here by now: the next reader
// comes through a passage, to the pages of the local file, and would wait in open(2) until the others are dropped, 90 ms for 512 MiB.
func (s *fileSystem) dropPages(id nodeID) {
	s.nodes.forgetPages(id)
	s.releasing.Go(func() { s.kernel.InodeNotify(id, 0, 0) }) // it waits for who reads the file, as a handler must not
}

// mode is what the program that opened h may do with it.
func (h *handle) mode() cache.OpenMode { return cache.OpenMode{Read: h.read, Write: h.write} }

// wayOf returns the way of a node that is open, nil if it is not. first says that the caller is to choose it.
func (t *nodes) wayOf(id nodeID) (w *way, first bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	o := t.open[t.find(id)]
	if o == nil {
		return nil, false
	}
	if o.way != nil {
		return o.way, false
	}
	o.way = &way{chosen: make(chan struct{})}
	return o.way, true
}

// leaves notes that the program has closed a handle that came through a passage, and reports whether it was the last one.
func (t *nodes) leaves(id nodeID) (last bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	o := t.open[t.find(id)]
	if o == nil {
		return false
	}
	o.leaving++
	return o.leaving == len(o.contents)
}

// stays undoes leaves.
func (t *nodes) stays(id nodeID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if o := t.open[t.find(id)]; o != nil {
		o.leaving--
	}
}

// mapped is what programs have closed, and may still have mapped.
type mapped struct {
	mu    sync.Mutex
	all   []*handle
	ended bool // none is kept any more
}

// mappedPoll is how often it is asked whether a mapping is still there. Nobody tells of its end.
const mappedPoll = time.Second

// remains reports whether h must stay open though its program has closed it, and then keeps it: something that was mapped
// through the passage is left, or may be.
func (s *fileSystem) remains(h *handle) bool {
	if h.backing == 0 || !s.nodes.leaves(h.node) || !h.content.file.Mapped() {
		return false
	}
	s.mapped.mu.Lock()
	defer s.mapped.mu.Unlock()
	if s.mapped.ended {
		return false
	}
	s.nodes.stays(h.node)
	s.mapped.all = append(s.mapped.all, h)
	if len(s.mapped.all) == 1 {
		time.AfterFunc(mappedPoll, s.askMapped)
	}
	return true
}

// askMapped releases what is mapped no more.
func (s *fileSystem) askMapped() {
	s.mapped.mu.Lock()
	defer s.mapped.mu.Unlock()
	all := s.mapped.all
	s.mapped.all = nil
	for _, h := range all {
		s.releasing.Go(func() { s.release(h) }) // Server.releaseAll waits for it, for it has taken mu before
	}
}

// endMapped releases all that is mapped, for the mount is gone.
func (s *fileSystem) endMapped() {
	s.mapped.mu.Lock()
	all := s.mapped.all
	s.mapped.all, s.mapped.ended = nil, true
	s.mapped.mu.Unlock()
	for _, h := range all {
		s.release(h)
	}
}

// forgetPassage lets the kernel forget a passage that nobody is open through any more.
func (s *fileSystem) forgetPassage(backing int32) {
	if backing != 0 {
		s.backer.UnregisterBackingFd(backing) // refused only if the connection has ended
	}
}
