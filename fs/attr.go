package fs

import (
	"os"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"pierfs/backends"
	"pierfs/cache"
)

const (
	// preferredIO is what st_blksize advises: stdio writes in such pieces, and each piece is a request.
	preferredIO = 128 << 10
	// defaultFileMode and defaultDirMode are shown when neither the server nor the definition says.
	defaultFileMode os.FileMode = 0o644
	defaultDirMode  os.FileMode = 0o755
)

// unixMode returns m as stat(2) gives it.
func unixMode(m os.FileMode) uint32 {
	mode := uint32(m.Perm())
	switch m.Type() {
	case os.ModeDir:
		mode |= syscall.S_IFDIR
	case os.ModeSymlink:
		mode |= syscall.S_IFLNK
	case 0:
		mode |= syscall.S_IFREG
	default:
		// A pipe, socket or device of the server is nobody's here. Shown as what it is, the kernel would open one of this
		// machine's, and a pipe without another end blocks for ever; a socket cannot be opened (ENXIO).
		mode |= syscall.S_IFSOCK
	}
	if m&os.ModeSetuid != 0 {
		mode |= syscall.S_ISUID
	}
	if m&os.ModeSetgid != 0 {
		mode |= syscall.S_ISGID
	}
	if m&os.ModeSticky != 0 {
		mode |= syscall.S_ISVTX
	}
	return mode
}

// permMode returns the permission bits of a stat(2) mode.
func permMode(mode uint32) os.FileMode {
	m := os.FileMode(mode & 0o777)
	if mode&syscall.S_ISUID != 0 {
		m |= os.ModeSetuid
	}
	if mode&syscall.S_ISGID != 0 {
		m |= os.ModeSetgid
	}
	if mode&syscall.S_ISVTX != 0 {
		m |= os.ModeSticky
	}
	return m
}

// attr fills out with what stat(2) shows of e.
func (g *ground) attr(out *fuse.Attr, v view, e cache.Entry) {
	uid, gid := g.o.Owner.show(e, g.tree.Caps())
	*out = fuse.Attr{
		Ino:     v.ino,
		Size:    uint64(max(e.Size, 0)),
		Mode:    unixMode(g.shownMode(e)),
		Owner:   fuse.Owner{Uid: uid, Gid: gid},
		Nlink:   uint32(v.names),
		Blksize: preferredIO,
	}
	out.Blocks = (out.Size + 511) / 512
	if v.names > 0 && e.Known.Has(backends.HasNlink) && !e.IsDir() {
		out.Nlink = max(out.Nlink, e.Nlink)
	}
	// Directories show one link: "unknown", which keeps find(1) from counting sub-directories by it.
	mtime, atime := e.ModTime, e.AccTime
	if mtime.IsZero() {
		mtime = time.Unix(0, 0)
	}
	if !e.Known.Has(backends.HasAccTime) || atime.IsZero() {
		atime = mtime
	}
	// The protocols know no ctime. It must not move by itself (git would read every file again), and must move with
	// changes that mtime does not tell of.
	ctime := mtime
	if t := time.Unix(0, v.changed); v.changed != 0 && t.After(ctime) {
		ctime = t
	}
	out.SetTimes(&atime, &mtime, &ctime)
}

func (g *ground) shownMode(e cache.Entry) os.FileMode {
	switch {
	case e.Mode&os.ModeSymlink != 0:
		return os.ModeSymlink | 0o777
	case e.IsDir() && g.o.DirMode != 0:
		return os.ModeDir | g.o.DirMode
	case e.Mode.IsRegular() && g.o.FileMode != 0:
		return g.o.FileMode
	case e.Known.Has(backends.HasPerm):
		return e.Mode
	case e.IsDir():
		return e.Mode.Type() | defaultDirMode
	}
	return e.Mode.Type() | defaultFileMode
}

// entry fills out for a name that was given to the kernel as v.
func (s *fileSystem) entry(r *request, out *fuse.EntryOut, v view, e cache.Entry) {
	out.NodeId = v.id
	if r.on != s.now() {
		e.Valid = 0 // the mount was led elsewhere meanwhile
	}
	out.SetEntryTimeout(max(e.Valid, 0))
	out.SetAttrTimeout(s.attrLife(v, e))
	r.on.attr(&out.Attr, v, e)
}

func (s *fileSystem) GetAttr(cancel <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	r := s.begin(cancel, in.Pid)
	defer s.end(r)
	v, ok := s.nodes.view(in.NodeId)
	if !ok {
		return statusStale
	}
	e, err := s.stat(r, in.NodeId)
	if err != nil && in.NodeId == rootID {
		// The mount stays a directory while its server is away, so that nothing takes it for an unmounted one.
		e, err = s.bareRoot(), nil
	}
	if err != nil {
		return status(err)
	}
	s.attrOut(r, out, v, e)
	return fuse.OK
}

func (s *fileSystem) attrOut(r *request, out *fuse.AttrOut, v view, e cache.Entry) {
	if r.on != s.now() {
		e.Valid = 0 // the mount was led elsewhere meanwhile
	}
	s.nodes.tells(v.id, e.Version)
	out.SetTimeout(s.attrLife(v, e))
	r.on.attr(&out.Attr, v, e)
}

// attrLife returns how long the kernel may use the attributes e of v without asking. Those of what is not published have
// no life: publishing gives the file the server's times.
func (s *fileSystem) attrLife(v view, e cache.Entry) time.Duration {
	if !v.written {
		return max(e.Valid, 0)
	}
	c := s.nodes.borrow(v.id)
	if c == nil {
		return 0 // closed just now
	}
	dirty := c.file.Dirty()
	_ = s.gaveBack(c, nil)
	if dirty {
		return 0
	}
	return max(e.Valid, 0)
}

// bareRoot is the mount's own directory as long as the server cannot be asked for it.
func (s *fileSystem) bareRoot() cache.Entry {
	return cache.Entry{Info: backends.Info{Mode: os.ModeDir | defaultDirMode, Known: backends.HasType | backends.HasPerm}}
}

// stat describes a node: the open content if there is one, for that is what its pages are of, else what bears its name.
func (s *fileSystem) stat(r *request, id nodeID) (cache.Entry, error) {
	if c := s.nodes.borrow(id); c != nil {
		e, err := c.file.Stat(r)
		return e, s.gaveBack(c, err)
	}
	if e, ok := s.nodes.lastOf(id); ok {
		return e, nil
	}
	var e cache.Entry
	err := s.at(id, func(name string) (err error) {
		e, err = r.on.tree.Stat(r, name)
		return err
	})
	if err == nil && !s.nodes.is(id, kindOf(e.Mode)) {
		return e, syscall.ESTALE // another type by now: the kernel looks the name up again
	}
	return e, err
}

// gaveBack ends a borrow; err is what the caller has to say himself.
func (s *fileSystem) gaveBack(c *content, err error) error {
	// Only if the last handle was released meanwhile does this close, and then the answer belongs to nobody's request.
	if failed := s.letGo(s.owed(), c, false); failed != nil {
		s.log().Error("a file could not be published after its last close", "err", failed)
	}
	return err
}

func (s *fileSystem) SetAttr(cancel <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	r := s.begun()
	defer s.end(r)
	if r.on.readOnly() {
		return fuse.EROFS
	}
	v, ok := s.nodes.view(in.NodeId)
	if !ok {
		return statusStale
	}
	a, err := s.wanted(r, in)
	if err != nil {
		return status(err)
	}
	var e cache.Entry
	if a.Empty() {
		e, err = s.stat(r, in.NodeId)
	} else {
		e, err = s.change(r, in.NodeId, a, in.Valid&fuse.FATTR_FH != 0)
	}
	if err != nil {
		return status(err)
	}
	if !a.Empty() {
		s.nodes.touched(in.NodeId, true)
		v, _ = s.nodes.view(in.NodeId)
	}
	s.attrOut(r, out, v, e)
	return fuse.OK
}

// wanted returns what in asks to change. Times that it does not name (UTIME_OMIT) stay as they are.
func (s *fileSystem) wanted(r *request, in *fuse.SetAttrIn) (backends.Attr, error) {
	var a backends.Attr
	if mode, ok := in.GetMode(); ok {
		perm := permMode(mode)
		a.Perm = &perm
	}
	if size, ok := in.GetSize(); ok {
		n := int64(size)
		a.Size = &n
	}
	if t, ok := in.GetMTime(); ok {
		a.ModTime = &t
	}
	if t, ok := in.GetATime(); ok {
		a.AccTime = &t
	}
	uid, setUID := in.GetUID()
	gid, setGID := in.GetGID()
	if !setUID && !setGID {
		return a, nil
	}
	e, err := s.stat(r, in.NodeId)
	if err != nil {
		return a, err
	}
	var toUID, toGID *uint32
	if setUID {
		toUID = &uid
	}
	if setGID {
		toGID = &gid
	}
	a.UID, a.GID, err = r.on.o.Owner.take(toUID, toGID, e, r.on.tree.Caps())
	return a, err
}

// change changes what a names of node id. A size is at the server when it returns, unless the change comes through a
// descriptor, whose close will tell of it.
func (s *fileSystem) change(r *request, id nodeID, a backends.Attr, byDescriptor bool) (cache.Entry, error) {
	if c := s.nodes.borrow(id); c != nil {
		if a.Size != nil {
			s.nodes.wrote(id)
		}
		e, err := c.file.SetAttr(r, a)
		if err == nil && a.Size != nil && !byDescriptor {
			err = c.file.Publish(r)
			s.unpublished(c.file, err)
		}
		return e, s.gaveBack(c, err)
	}
	var e cache.Entry
	err := s.at(id, func(name string) (err error) {
		e, err = r.on.tree.SetAttr(r, name, a)
		return err
	})
	return e, err
}
