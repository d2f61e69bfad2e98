package fs

import (
	"bytes"
	"errors"

	"github.com/hanwen/go-fuse/v2/fuse"

	"pierfs/cache"
)

func (s *fileSystem) Lookup(cancel <-chan struct{}, in *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	r := s.begin(cancel, in.Pid)
	defer s.end(r)
	s.lookups.Add(1)
	if s.nodes.lookedBeside(in.NodeId) {
		s.notifier.add(notice{listing: in.NodeId})
	}
	var e cache.Entry
	err := s.in(in.NodeId, name, func(name string) (err error) {
		e, err = r.on.tree.Stat(r, name)
		return err
	})
	if errors.Is(err, cache.ErrUnlisted) && creates(in.Pid) {
		return fuse.ENOENT
	}
	if code := status(err); code == fuse.ENOENT && e.Valid > 0 && r.on == s.now() {
		out.NodeId = 0 // "not there", and may be believed for so long
		out.SetEntryTimeout(e.Valid)
		return fuse.OK
	} else if code != fuse.OK {
		return code
	}
	return s.give(r, in.NodeId, name, e, out)
}

// give answers with the node for an entry of dir. After it the kernel knows the node once more.
func (s *fileSystem) give(r *request, dir nodeID, name string, e cache.Entry, out *fuse.EntryOut) fuse.Status {
	v, ok := s.nodes.look(r.on, dir, name, e)
	if !ok {
		return statusStale
	}
	s.entry(r, out, v, e)
	return fuse.OK
}

func (s *fileSystem) Forget(id, count uint64) { s.nodes.forget(id, count) }

func (s *fileSystem) Readlink(cancel <-chan struct{}, in *fuse.InHeader) (target []byte, code fuse.Status) {
	r := s.begin(cancel, in.Pid)
	defer s.end(r)
	err := s.at(in.NodeId, func(name string) error {
		link, err := r.on.tree.Readlink(r, name)
		target = []byte(link)
		return err
	})
	if err == nil && (len(target) == 0 || len(target) >= pathMax || bytes.IndexByte(target, 0) >= 0) {
		return nil, fuse.EIO // no system has such a link
	}
	return target, status(err)
}

const pathMax = 4096
