package fs

import (
	"errors"
	"io"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"pierfs/cache"
)

func (s *fileSystem) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	mode := openMode(in.Flags)
	r := s.begin(cancel, in.Pid)
	defer s.end(r)
	switch {
	case s.draining.Load():
		return statusShutdown
	case (mode.Write || mode.Truncate) && r.on.readOnly():
		return fuse.EROFS
	}
	h := &handle{node: in.NodeId, pid: in.Pid, read: mode.Read, write: mode.Write, ridable: ridable(in.Flags)}
	keep, err := s.open(r, h, mode)
	switch code := status(err); code {
	case fuse.OK:
		s.again.over(h.pid)
		s.opened(h, keep, out)
		return fuse.OK
	case fuse.ENOENT:
		return statusStale // the kernel remembers a name that is gone: it asks for it again, and may then create it
	default:
		return code
	}
}

// open opens h.node. keep reports whether the kernel's pages of it are still good.
func (s *fileSystem) open(r *request, h *handle, mode cache.OpenMode) (keep bool, err error) {
	if _, named := s.nodes.path(h.node); !named {
		return true, s.reopen(r, h, mode)
	}
	var (
		by     = r
		opened string
		file   *cache.File
		e      cache.Entry
	)
	if mode.Truncate {
		changing := s.begun()
		defer s.end(changing)
		by = changing
	}
	err = s.at(h.node, func(name string) (err error) {
		opened = name
		file, e, err = by.on.tree.Open(by, name, mode)
		return err
	})
	if err != nil {
		return false, err
	}
	keep, err = s.hold(by, h, file, opened, e)
	if errors.Is(err, syscall.ESTALE) && !mode.Truncate && !s.again.first(h.pid) {
		return true, s.share(h)
	}
	return keep, err
}

// reopen opens a node that bears no name, by way of /proc/PID/fd after that was removed, or because the name was given to another
// file just now and the kernel has not heard of it.
func (s *fileSystem) reopen(r *request, h *handle, mode cache.OpenMode) error {
	if !s.nodes.hasOpen(h.node) {
		s.calm.ask()
		return syscall.ESTALE
	}
	if s.again.first(h.pid) {
		return syscall.ESTALE
	}
	err := s.share(h)
	if err != nil || !mode.Truncate {
		return err
	}
	if _, err = s.change(r, h.node, truncated(), true); err != nil {
		s.release(h)
	}
	return err
}

// share makes what the node is open with the content of h too.
func (s *fileSystem) share(h *handle) error {
	c, ok := s.nodes.reopens(h.node, h.write)
	if !ok {
		return syscall.ESTALE
	}
	h.content, h.empty = c, false
	err := s.enter(h)
	if err != nil {
		s.release(h)
	}
	return err
}

// hold makes file, which was opened by name, the content of h, or closes it if the node has other content by now (ESTALE: the
// kernel then looks the name up again and comes back with the node for it).
func (s *fileSystem) hold(r *request, h *handle, file *cache.File, name string, e cache.Entry) (keep bool, err error) {
	h.content = &content{file: file, on: r.on}
	h.empty = e.Size == 0 && !h.write
	keep, known, ok := s.nodes.opens(h.node, h.content, name, e, h.write)
	if !ok {
		return false, errors.Join(syscall.ESTALE, file.Close(r, false))
	}
	r.on.enter() // the request is on it
	if !known {
		s.forgetAttributes(h.node)
	}
	if err := s.enter(h); err != nil {
		s.release(h)
		return false, err
	}
	return keep, nil
}

// opened fills out for the open h, which is not released by anybody before this.
func (s *fileSystem) opened(h *handle, keep bool, out *fuse.OpenOut) {
	switch {
	case h.backing != 0:
		out.OpenFlags |= fuse.FOPEN_PASSTHROUGH
		out.BackingID = h.backing
		if h.write && !h.rides {
			out.OpenFlags |= fuse.FOPEN_DIRECT_IO // it reads and writes through us
		}
	case keep:
		out.OpenFlags |= fuse.FOPEN_KEEP_CACHE
	}
	if s.writesDirectly(h) {
		out.OpenFlags |= fuse.FOPEN_DIRECT_IO
	}
	if h.empty && h.backing == 0 {
		// The kernel asks for no page behind the end, and the end is the server's word: a server that tells 0 and has more
		// (as /proc does) would be believed without a question.
		out.OpenFlags |= fuse.FOPEN_DIRECT_IO
	}
	if !h.write {
		out.OpenFlags |= fuse.FOPEN_NOFLUSH // nothing to publish: closing it is no request
	}
	out.Fh = s.handles.add(h)
}

// forgetsBehindWrites is the protocol of Linux 6.18, which drops the pages of what was written past them not only before such a write but also behind
// it. Older kernels let a reader who came in between keep the old page, or the zeros behind an end that has moved on since.
const forgetsBehindWrites = 45

// writesDirectly reports whether what the program of h writes comes to us from its own memory. Through the kernel's pages large blocks take twice as
// long (0.47 s in place of 0.23 for 512 MiB by 1 MiB), for these have to be found and filled first, and nobody reads them here; blocks of 4 KiB take a sixth less.
// Of who opens a file with O_SYNC the kernel would then ask for no fsync.
func (s *fileSystem) writesDirectly(h *handle) bool {
	return s.direct && h.write && !h.read && h.ridable && h.backing == 0
}

// ridable reports whether a program that opens a file with these flags may have the kernel write it by itself: each write of one that asks for
// O_SYNC is a promise, and so a request; and who takes O_DIRECT back for his last block (dd) does not take it from the local file.
func ridable(flags uint32) bool {
	return flags&syscall.O_SYNC == 0 && flags&syscall.O_DSYNC == 0 && flags&syscall.O_DIRECT == 0
}

// openMode returns what the flags of open(2) ask for.
func openMode(flags uint32) cache.OpenMode {
	access := flags & syscall.O_ACCMODE
	return cache.OpenMode{
		Read:      access != syscall.O_WRONLY,
		Write:     access != syscall.O_RDONLY,
		Truncate:  flags&syscall.O_TRUNC != 0,
		Create:    flags&syscall.O_CREAT != 0,
		Exclusive: flags&syscall.O_EXCL != 0 && flags&syscall.O_CREAT != 0,
		Append:    flags&syscall.O_APPEND != 0,
	}
}

func (s *fileSystem) Create(cancel <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	r := s.begun()
	defer s.end(r)
	mode := openMode(in.Flags)
	mode.Create = true
	mode.Perm = permMode(in.Mode)
	h, code := s.create(r, in.NodeId, name, mode, ridable(in.Flags), &out.EntryOut)
	if code != fuse.OK {
		return code
	}
	h.pid = in.Pid
	s.opened(h, false, &out.OpenOut)
	return fuse.OK
}

// create opens an entry of dir that may have to be made, and gives its node to the kernel.
func (s *fileSystem) create(r *request, dir nodeID, name string, mode cache.OpenMode, ridable bool, out *fuse.EntryOut) (*handle, fuse.Status) {
	if s.draining.Load() {
		return nil, statusShutdown
	}
	if r.on.readOnly() {
		return nil, fuse.EROFS
	}
	var (
		opened string
		file   *cache.File
		e      cache.Entry
	)
	err := s.in(dir, name, func(name string) (err error) {
		opened = name
		file, e, err = r.on.tree.Open(r, name, mode)
		return err
	})
	if err != nil {
		return nil, status(err)
	}
	s.nodes.changed(dir)
	v, ok := s.nodes.look(r.on, dir, name, e)
	if !ok {
		return nil, status(errors.Join(syscall.ESTALE, file.Close(r, false)))
	}
	h := &handle{node: v.id, read: mode.Read, write: mode.Write, ridable: ridable}
	if _, err := s.hold(r, h, file, opened, e); err != nil {
		s.nodes.tells(v.id, 0)
		s.nodes.forget(v.id, 1) // this answer does not give it to the kernel
		return nil, status(err)
	}
	v.written = mode.Write
	s.entry(r, out, v, e)
	return h, fuse.OK
}

// Mknod makes regular files only. No server makes the others, and they would be of no use here.
func (s *fileSystem) Mknod(cancel <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	if in.Mode&syscall.S_IFMT != syscall.S_IFREG {
		return fuse.EPERM
	}
	r := s.begun()
	defer s.end(r)
	mode := cache.OpenMode{Write: true, Create: true, Exclusive: true, Perm: permMode(in.Mode)}
	h, code := s.create(r, in.NodeId, name, mode, false, out)
	if code != fuse.OK {
		return code
	}
	err := h.content.file.Publish(r)
	s.nodes.tell(h.node, err != nil)
	s.release(h)
	if err != nil {
		s.nodes.forget(h.node, 1)
	}
	return status(err)
}

func (s *fileSystem) Tmpfile(cancel <-chan struct{}, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	r := s.begun()
	defer s.end(r)
	if s.draining.Load() {
		return statusShutdown
	}
	if r.on.readOnly() {
		return fuse.EROFS
	}
	var (
		file *cache.File
		e    cache.Entry
	)
	err := s.at(in.NodeId, func(dir string) (err error) {
		file, e, err = r.on.tree.Temp(r, dir, permMode(in.Mode))
		return err
	})
	if err != nil {
		return status(err)
	}
	v := s.nodes.unnamed(e)
	h := &handle{node: v.id, pid: in.Pid, read: openMode(in.Flags).Read, write: true}
	if _, err := s.hold(r, h, file, "", e); err != nil {
		s.nodes.forget(v.id, 1)
		return status(err)
	}
	v.written = true
	s.entry(r, &out.EntryOut, v, e)
	s.opened(h, false, &out.OpenOut)
	return fuse.OK
}

func (s *fileSystem) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	r := s.begin(cancel, in.Pid)
	defer s.end(r)
	h := s.handles.get(in.Fh)
	if h == nil || h.content == nil {
		return nil, fuse.EBADF
	}
	n, err := h.content.file.ReadAt(r, buf[:min(len(buf), int(in.Size))], int64(in.Offset))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, status(err) // never a short read: the kernel takes that for the end of the file
	}
	return fuse.ReadResultData(buf[:n]), fuse.OK
}

// Release comes after the last close of a handle, and nobody waits for its answer: what is unpublished then (pages that a
// mapping wrote late, a close that Flush passed over) is published beside it.
func (s *fileSystem) Release(cancel <-chan struct{}, in *fuse.ReleaseIn) {
	r := s.begun()
	defer s.end(r)
	h := s.handles.remove(in.Fh)
	switch {
	case h == nil || h.content == nil:
	case h.content.file.Dirty():
		s.releasing.Go(func() { s.release(h) }) // Server.releaseAll waits for it
	default:
		s.release(h)
	}
}
