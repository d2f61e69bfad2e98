package fs

import (
	"context"
	"fmt"
	"runtime/debug"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"pierfs/backends"
	"pierfs/cache"
)

func truncated() backends.Attr { return backends.Attr{Size: new(int64)} }

// writable returns the handle that id names if it was opened for writing.
func (s *fileSystem) writable(id uint64) (*handle, fuse.Status) {
	switch h := s.handles.get(id); {
	case h == nil || h.content == nil || !h.write:
		return nil, fuse.EBADF
	default:
		return h, fuse.OK
	}
}

func (s *fileSystem) Write(cancel <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	r := s.begin(cancel, in.Pid) // nothing is written before it waits, so it may be interrupted
	defer s.end(r)
	s.writes.Add(1)
	h, code := s.writable(in.Fh)
	if code != fuse.OK {
		return 0, code
	}
	s.nodes.wrote(h.node)
	var (
		n   int
		err error
	)
	// The kernel computed an offset for O_APPEND too, but only we know where others have appended to. A page that was
	// changed through mmap has its place whatever the flags say.
	if in.Flags&syscall.O_APPEND != 0 && in.WriteFlags&fuse.WRITE_CACHE == 0 {
		n, err = h.content.file.Append(r, data)
	} else {
		n, err = h.content.file.WriteAt(r, data, int64(in.Offset))
	}
	if n > 0 {
		return uint32(n), fuse.OK // as write(2): what was taken counts, the next call meets the error
	}
	return 0, status(err)
}

// Flush comes with every close(2) of a descriptor that may write, also of one of several: shells, touch and dd close a
// copy before they write, and every child that a program forks closes its own. It publishes what is unpublished, except
//
//   - if nothing was written yet, the file was only made: while the closer has another descriptor of it, that one's close
//     will come;
//   - if the closer is another process than the opener, and the opener still has the file open: that one's close will come.
//
// When in doubt it publishes. An interrupt does not stop it; who wants his program to end gets EINTR, which nobody reads,
// and the upload goes on.
func (s *fileSystem) Flush(cancel <-chan struct{}, in *fuse.FlushIn) fuse.Status {
	h := s.handles.get(in.Fh)
	if h == nil || h.content == nil || !h.write {
		return fuse.OK
	}
	file := h.content.file
	if h.rides && file.Stirred() {
		s.nodes.wrote(h.node)
	}
	if !file.Dirty() || s.closesLater(h, in.Pid) {
		return fuse.OK
	}
	code := s.publish(cancel, in.Pid, h, file.Publish)
	if code != fuse.OK && code != fuse.EINTR && !s.nodes.hasOtherWriters(h.node) && !s.holds(in.Pid, h.node) {
		s.giveUp(h)
	}
	return code
}

// giveUp lets nobody see any more what a program was told did not arrive. Its last descriptor is being closed, and RELEASE,
// with which the content goes, comes some time after close(2): who opens the name in between must not find it.
func (s *fileSystem) giveUp(h *handle) {
	name, named := h.content.file.Name()
	h.content.file.GiveUp()
	s.nodes.spoil(h.node)
	if named {
		s.notifier.add(notice{name: name})
	}
}

// closesLater reports whether another close of h is certain to follow that will publish.
func (s *fileSystem) closesLater(h *handle, closer uint32) bool {
	if !s.nodes.hasWritten(h.node) && s.holds(closer, h.node) {
		return true
	}
	if closer == h.pid || closer == 0 || h.pid == 0 {
		return false
	}
	a, errA := readProcStatus(closer)
	b, errB := readProcStatus(h.pid)
	if errA != nil || errB != nil || a.tgid == b.tgid {
		return false
	}
	return s.holds(b.tgid, h.node)
}

// holds reports whether process pid has a descriptor of node id for writing, for certain.
func (s *fileSystem) holds(pid uint32, id nodeID) bool {
	v, ok := s.nodes.view(id)
	return ok && holdsOpen(pid, s.mountID.Load(), v.ino)
}

func (s *fileSystem) Fsync(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	h := s.handles.get(in.Fh)
	if h == nil || h.content == nil {
		return fuse.EBADF
	}
	return s.publish(cancel, in.Pid, h, h.content.file.Sync)
}

// publish runs op to its end, also if its caller does not wait for that.
func (s *fileSystem) publish(cancel <-chan struct{}, pid uint32, h *handle, op func(context.Context) error) fuse.Status {
	caller := s.begin(cancel, pid)
	defer s.end(caller)
	c := s.nodes.borrow(h.node)
	if c == nil {
		return fuse.EBADF
	}
	done := make(chan error, 1)
	go func() { // ends with op, which the deadlines below the seam bound
		r := s.begun()
		defer s.end(r)
		err := guarded(func() error { return op(r) })
		s.nodes.tell(h.node, err != nil)
		s.moved(h.node, c.file)
		s.unpublished(c.file, err)
		done <- s.gaveBack(c, err)
	}()
	select {
	case err := <-done:
		return status(err)
	case <-caller.Done():
		return fuse.EINTR
	}
}

// moved lets the kernel forget what it keeps of a file whose end others have moved: it has put what was appended where the end was.
func (s *fileSystem) moved(id nodeID, f *cache.File) {
	if !f.Moved() {
		return
	}
	s.nodes.forgetPages(id)
	if name, named := f.Name(); named {
		s.notifier.add(notice{name: name})
	}
}

// unpublished tells the operator why a content did not come to the server, of which the program learns an errno alone. That
// a connection is away is told once, and not for each file.
func (s *fileSystem) unpublished(f *cache.File, err error) {
	if err == nil || backends.CauseOf(err) == backends.CauseOffline {
		return
	}
	name, _ := f.Name()
	s.log().Warn("a file was not published, and its program was told", "name", name, "err", err)
}

// guarded turns a panic into an error: of a goroutine of ours, go-fuse cannot catch it.
func guarded(op func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return op()
}

// Fallocate makes room. What else fallocate(2) can do (punch, collapse, zero) no server can.
func (s *fileSystem) Fallocate(cancel <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	r := s.begin(cancel, in.Pid)
	defer s.end(r)
	if in.Mode&^unix.FALLOC_FL_KEEP_SIZE != 0 {
		return statusNotSupport
	}
	h, code := s.writable(in.Fh)
	if code != fuse.OK {
		return code
	}
	s.nodes.wrote(h.node)
	return status(h.content.file.Allocate(r, int64(in.Offset), int64(in.Length), in.Mode&unix.FALLOC_FL_KEEP_SIZE != 0))
}
