package sftp

import (
	"context"
	"errors"
	"os"
	"strings"
	"syscall"

	"github.com/pkg/sftp"

	"pierfs/backends"
)

// Mkdir makes a directory.
func (b *Backend) Mkdir(ctx context.Context, name string, mode os.FileMode) error {
	return b.do(ctx, "mkdir", name, func(s *session) error {
		if name == "" {
			return refuse(syscall.EEXIST, "it is the working directory")
		}
		perm := attrs{flags: attrPerm, perm: permBits(mode)}
		change := newFrame(typeMkdir, 64).text(s.path(name)).attrs(perm)
		err := s.askTouching(ctx, change, touching(ctx, name).also(name)).status()
		return s.whyCreate(ctx, name, err)
	})
}

// Remove removes a file or link.
func (b *Backend) Remove(ctx context.Context, name string) error {
	return b.do(ctx, "remove", name, func(s *session) error {
		if name == "" {
			return refuse(syscall.EISDIR, "it is the working directory")
		}
		err := s.askTouching(ctx, pathFrame(typeRemove, s.path(name)), touching(ctx, name)).status()
		if vague(err) || failed(err, statusPermissionDenied) {
			info, unknown := s.lstat(ctx, name)
			if lost := unexplained(err, unknown); lost != nil {
				return lost
			}
			if unknown == nil && info.IsDir() {
				return as(syscall.EISDIR, err)
			}
		}
		return s.whyChange(ctx, name, -1, s.whyPath(ctx, name, err))
	})
}

// Rmdir removes an empty directory.
func (b *Backend) Rmdir(ctx context.Context, name string) error {
	return b.do(ctx, "rmdir", name, func(s *session) error {
		if name == "" {
			return refuse(syscall.EBUSY, "it is the working directory")
		}
		err := s.askTouching(ctx, pathFrame(typeRmdir, s.path(name)), touching(ctx, name)).status()
		if vague(err) || failed(err, statusNoSuchFile, statusPermissionDenied) {
			err = b.whyRmdir(ctx, s, name, err)
		}
		return s.whyChange(ctx, name, -1, s.whyPath(ctx, name, err))
	})
}

// whyRmdir says of a refused removal of name that it is no directory, or not an empty one.
func (b *Backend) whyRmdir(ctx context.Context, s *session, name string, err error) error {
	info, unknown := s.lstat(ctx, name)
	if lost := unexplained(err, unknown); lost != nil {
		return lost
	}
	switch {
	case unknown != nil:
		return err
	case info.Known.Has(backends.HasType) && !info.IsDir():
		return as(syscall.ENOTDIR, err)
	case failed(err, statusPermissionDenied):
		return err
	}
	inhabited, unknown := b.inhabited(ctx, s, name)
	if lost := unexplained(err, unknown); lost != nil {
		return lost
	}
	if inhabited {
		return as(syscall.ENOTEMPTY, err)
	}
	return err
}

// inhabited reports whether dir has entries, hidden ones included.
func (b *Backend) inhabited(ctx context.Context, s *session, dir string) (bool, error) {
	before := b.hidden.Load()
	for _, err := range b.list(ctx, s, dir) {
		return err == nil, err
	}
	return b.hidden.Load() != before, nil
}

// Rename gives from the name to.
func (b *Backend) Rename(ctx context.Context, from, to string, mode backends.RenameMode) error {
	if err := backends.CheckName("rename", to); err != nil {
		return err
	}
	return b.do(ctx, "rename", from, func(s *session) error {
		switch {
		case from == "" || to == "":
			return refuse(syscall.EBUSY, "it is the working directory")
		case mode == backends.NoReplace:
			return s.renameNew(ctx, from, to)
		case from == to:
			_, err := s.lstat(ctx, from)
			return err
		}
		a := touching(ctx, from, to)
		err := s.replace(ctx, s.meta, from, to, func(f *flight) { a.ask(s, f) })
		if err == nil {
			a.answered()
		}
		return err
	})
}

// renameNew renames to a name that does not exist. OpenSSH's RENAME links and unlinks, and so refuses a name that does,
// and mod_sftp's refuses too; of others it is not known, and they are asked first, which leaves a gap of one round trip.
func (s *session) renameNew(ctx context.Context, from, to string) error {
	if !s.openSSH {
		_, absent := s.lstat(ctx, to)
		switch {
		case absent == nil:
			return refuse(syscall.EEXIST, "%q exists", to)
		case lostReply(absent):
			return absent // nobody knows whether it may be replaced
		}
	}
	change := twoPathsFrame(typeRename, s.path(from), s.path(to))
	err := s.askTouching(ctx, change, touching(ctx, from, to)).status()
	if vague(err) || failed(err, statusPermissionDenied) {
		_, absent := s.lstat(ctx, to)
		if lost := unexplained(err, absent); lost != nil {
			return lost
		}
		if absent == nil {
			return as(syscall.EEXIST, err)
		}
	}
	if failed(err, statusPermissionDenied, statusUnsupported) && s.meta.offers(extPosixRename) {
		// OpenSSH's -P can refuse the one and let the other: as above, with a gap of one round trip.
		if other := s.askTouching(ctx, s.renaming(true, from, to), touching(ctx, from, to)).status(); other == nil || lostReply(other) {
			return other
		}
	}
	return s.whyRename(ctx, from, to, err)
}

// replace renames from to to, which may exist, over channel m. What look adds travels in the same flight, behind it.
func (s *session) replace(ctx context.Context, m *mux, from, to string, look func(*flight)) error {
	f := m.flight()
	posix := m.offers(extPosixRename) && !s.o.plain.Load()
	rename := f.add(s.renaming(posix, from, to))
	look(f)
	f.send(urgent)
	f.wait(ctx)
	err := rename.reply.status()
	if refused := failed(err, statusPermissionDenied, statusUnsupported); err != nil && !lostReply(err) && (!posix || refused) {
		if posix { // offered and refused, as by OpenSSH's -P
			err = s.ask(ctx, s.renaming(false, from, to)).status()
		}
		if err != nil && !lostReply(err) {
			err = s.replaceInSteps(ctx, from, to, err)
		}
		if err == nil {
			if posix && s.o.plain.CompareAndSwap(false, true) {
				s.o.Logger.Warn("the server refuses to replace names in one step, which it offers: the old one is moved aside first, and for a moment nobody bears the name", "name", to)
			}
			f = m.flight()
			look(f)
			f.send(urgent)
			f.wait(ctx)
		}
	}
	if err != nil {
		return s.whyRename(ctx, from, to, err)
	}
	return nil
}

func (s *session) renaming(posix bool, from, to string) frame {
	if posix {
		return extendedFrame(extPosixRename, s.path(from), s.path(to))
	}
	return twoPathsFrame(typeRename, s.path(from), s.path(to))
}

// replaceInSteps is for servers that cannot replace a name in one step (Caps.Replace is false): what to holds is moved
// aside, from takes its place, and what lies aside is removed. In between nobody bears the name; if from cannot take it,
// what was there gets it back.
func (s *session) replaceInSteps(ctx context.Context, from, to string, refused error) error {
	was, absent := s.lstat(ctx, to)
	is, gone := s.lstat(ctx, from)
	if lost := unexplained(refused, errors.Join(absent, gone)); lost != nil {
		return lost
	}
	if absent != nil || gone != nil || was.IsDir() != is.IsDir() {
		return refused
	}
	move := func(from, to string) error {
		return s.ask(ctx, twoPathsFrame(typeRename, s.path(from), s.path(to))).status()
	}
	if was.IsDir() {
		return s.replaceDir(ctx, to, was, refused, func() error { return move(from, to) })
	}
	aside := backends.AsideName(to)
	err := move(to, aside)
	if err != nil && !lostReply(err) { // what lies aside of an attempt that was lost is older than what has the name by now
		s.ask(ctx, pathFrame(typeRemove, s.path(aside)))
		err = move(to, aside)
	}
	if err != nil {
		return err
	}
	if err := move(from, to); err != nil {
		if lostReply(err) {
			return err
		}
		return errors.Join(err, move(aside, to))
	}
	// The new content is in place. What is left over is only litter, which is removed once two listings have shown it.
	if err := s.ask(ctx, pathFrame(typeRemove, s.path(aside))).status(); err != nil {
		s.o.Logger.Warn("what a file had before stays beside it for now", "name", aside, "err", err)
	}
	return nil
}

// replaceDir makes room for a directory where an empty one is; any other stays, and so does the refusal.
func (s *session) replaceDir(ctx context.Context, to string, was backends.Info, refused error, move func() error) error {
	if err := s.ask(ctx, pathFrame(typeRmdir, s.path(to))).status(); err != nil {
		if lostReply(err) {
			return err
		}
		return refused
	}
	err := move()
	if err != nil && !lostReply(err) {
		back := attrs{flags: attrPerm, perm: permBits(was.Mode)}
		err = errors.Join(err, s.ask(ctx, newFrame(typeMkdir, 64).text(s.path(to)).attrs(back)).status())
	}
	return err
}

// whyRename says more of a refused renaming, in the words of rename(2).
func (s *session) whyRename(ctx context.Context, from, to string, err error) error {
	if !vague(err) && !failed(err, statusNoSuchFile, statusPermissionDenied, statusFileExists, statusBadMessage) {
		return err
	}
	f := s.meta.flight()
	source, target := f.add(pathFrame(typeLstat, s.path(from))), f.add(pathFrame(typeLstat, s.path(to)))
	f.send(urgent)
	f.wait(ctx)
	is, gone := source.reply.info("")
	was, absent := target.reply.info("")
	if lost := unexplained(err, errors.Join(gone, absent)); lost != nil {
		return lost
	}
	switch {
	case gone != nil:
		return s.whyPath(ctx, from, err)
	case is.IsDir() && strings.HasPrefix(to, from+"/"):
		return as(syscall.EINVAL, err)
	case absent != nil:
		err = s.whyApart(ctx, from, to, s.whyPath(ctx, to, err))
	case is.IsDir() && !was.IsDir():
		return as(syscall.ENOTDIR, err)
	case !is.IsDir() && was.IsDir():
		return as(syscall.EISDIR, err)
	case is.IsDir() && vague(err):
		return as(syscall.ENOTEMPTY, err)
	}
	return s.whyChange(ctx, to, 0, err)
}

// whyApart says EXDEV of what was refused for two names if they lie on different file systems.
func (s *session) whyApart(ctx context.Context, a, b string, err error) error {
	if !vague(err) || backends.Errno(err) != syscall.EIO || !s.meta.offers(extStatVFS) {
		return err
	}
	f := s.meta.flight()
	one := f.add(extendedFrame(extStatVFS, s.path(parent(a))))
	two := f.add(extendedFrame(extStatVFS, s.path(parent(b))))
	f.send(urgent)
	f.wait(ctx)
	x, err1 := one.reply.space()
	y, err2 := two.reply.space()
	unknown := errors.Join(err1, err2)
	if lost := unexplained(err, unknown); lost != nil {
		return lost
	}
	if unknown == nil && x.fsid != y.fsid {
		return as(syscall.EXDEV, err)
	}
	return err
}

// SetAttr changes what attr names. What can be set without following a link (owner, times and permissions, where the server offers
// lsetstat@openssh.com) is set in one round trip; for the size, and where the server refuses that for permissions, it is asked first what
// the name is.
func (b *Backend) SetAttr(ctx context.Context, name string, attr backends.Attr) (backends.Info, error) {
	var info backends.Info
	err := b.do(ctx, "setattr", name, func(s *session) (err error) {
		info, err = s.setAttr(ctx, name, attr)
		return err
	})
	return info, err
}

func (s *session) setAttr(ctx context.Context, name string, attr backends.Attr) (backends.Info, error) {
	if attr.Empty() {
		return s.lstat(ctx, name)
	}
	own := s.meta.offers(extLsetstat)
	if !own || s.chmodFollows.Load() || attr != (backends.Attr{Perm: attr.Perm}) {
		return s.setKnown(ctx, name, attr, own)
	}
	f := s.meta.flight()
	set := f.add(extendedFrame(extLsetstat, s.path(name)).attrs(attrs{flags: attrPerm, perm: permBits(*attr.Perm)}))
	stat := f.add(pathFrame(typeLstat, s.path(name)))
	f.send(urgent)
	f.wait(ctx)
	err := set.reply.status()
	switch {
	case err == nil:
		info, err := stat.reply.info(base(name))
		if err == nil && info.Mode&os.ModeSymlink != 0 {
			err = refuse(syscall.EOPNOTSUPP, "a link has no permissions of its own")
		}
		return info, err
	case lostReply(err):
		return backends.Info{}, err
	}
	// It is a link, or may not be changed, or the server's C library cannot do this to any file (glibc without /proc, in a chroot).
	info, err := s.setKnown(ctx, name, attr, own)
	if err == nil {
		s.chmodFollows.Store(true)
	}
	return info, err
}

// setKnown is setAttr that asks first what the name is, where that matters.
func (s *session) setKnown(ctx context.Context, name string, attr backends.Attr, own bool) (backends.Info, error) {
	var now backends.Info
	if attr.Perm != nil || attr.Size != nil || partial(attr) || !own {
		var err error
		if now, err = s.lstat(ctx, name); err != nil {
			return now, s.whyPath(ctx, name, err)
		}
		if err := settable(now, attr, own); err != nil {
			return now, err
		}
	}
	sets, err := wireAttrs(attr, now)
	if err != nil {
		return now, err
	}
	f := s.meta.flight()
	for _, a := range sets {
		if a.flags&(attrSize|attrPerm) == 0 && own {
			f.add(extendedFrame(extLsetstat, s.path(name)).attrs(a))
		} else {
			f.add(newFrame(typeSetstat, 64).text(s.path(name)).attrs(a))
		}
	}
	stat := f.add(pathFrame(typeLstat, s.path(name)))
	f.send(urgent)
	f.wait(ctx)
	for n, c := range f.calls[:len(sets)] {
		if err := c.reply.status(); err != nil {
			return backends.Info{}, s.whySet(ctx, name, sets[n], err)
		}
	}
	return stat.reply.info(base(name))
}

// settable refuses what would go through a link to what it leads to.
func settable(now backends.Info, attr backends.Attr, own bool) error {
	link := now.Mode&os.ModeSymlink != 0
	switch {
	case attr.Size != nil && now.IsDir():
		return refuse(syscall.EISDIR, "it is a directory")
	case attr.Size != nil && (link || special(now)):
		return refuse(syscall.EINVAL, "it is no file")
	case link && attr.Perm != nil:
		return refuse(syscall.EOPNOTSUPP, "a link has no permissions of its own")
	case link && !own:
		return refuse(syscall.EOPNOTSUPP, "the server cannot change a link itself")
	}
	return nil
}

// whySet says more of a refused change of attributes: they are the owner's to change, which is EPERM; only for the size
// it is a matter of access.
func (s *session) whySet(ctx context.Context, name string, set attrs, err error) error {
	err = s.whyPath(ctx, name, err)
	need := -1
	if set.flags&attrSize != 0 {
		need = 0
	}
	err = s.whyChange(ctx, name, need, err)
	if failed(err, statusPermissionDenied) && backends.Errno(err) != syscall.EROFS && set.flags&attrSize == 0 {
		return as(syscall.EPERM, err)
	}
	return err
}

// Symlink makes a link.
func (b *Backend) Symlink(ctx context.Context, target, name string) error {
	return b.do(ctx, "symlink", name, func(s *session) error {
		switch {
		case name == "":
			return refuse(syscall.EEXIST, "it is the working directory")
		case target == "":
			return refuse(syscall.ENOENT, "a link must lead somewhere")
		case strings.ContainsRune(target, 0):
			return refuse(syscall.EINVAL, "a link's content may not hold NUL")
		case len(target) > 4095:
			return refuse(syscall.ENAMETOOLONG, "a content of %d bytes", len(target))
		}
		err := s.meta.viaLibrary(ctx, func(c *sftp.Client) error { return c.Symlink(target, s.path(name)) })
		return s.whyCreate(ctx, name, err)
	})
}

// Readlink returns a link's content.
func (b *Backend) Readlink(ctx context.Context, name string) (string, error) {
	var target string
	err := b.do(ctx, "readlink", name, func(s *session) error {
		// The answer goes through a channel: when ctx ends, the library may still be at work.
		found := make(chan string, 1)
		err := s.meta.viaLibrary(ctx, func(c *sftp.Client) error {
			text, err := c.ReadLink(s.path(name))
			found <- text
			return err
		})
		if err == nil {
			// pkg/sftp takes a status of OK, which tells no content, for an empty one.
			if target = <-found; target == "" {
				err = errMalformed
			}
			return err
		}
		if vague(err) || failed(err, statusBadMessage, statusNoSuchFile) {
			info, unknown := s.lstat(ctx, name)
			if lost := unexplained(err, unknown); lost != nil {
				return lost
			}
			if unknown == nil && info.Mode&os.ModeSymlink == 0 {
				return as(syscall.EINVAL, err)
			}
		}
		return s.whyPath(ctx, name, err)
	})
	return target, err
}

// Link gives a file a further name.
func (b *Backend) Link(ctx context.Context, old, name string) error {
	if err := backends.CheckName("link", old); err != nil {
		return err
	}
	return b.do(ctx, "link", name, func(s *session) error {
		if !s.meta.offers(extHardlink) {
			return refuse(syscall.EOPNOTSUPP, "the server offers no hard links")
		}
		err := s.meta.viaLibrary(ctx, func(c *sftp.Client) error { return c.Link(s.path(old), s.path(name)) })
		if err == nil || lostReply(err) {
			return err
		}
		info, absent := s.lstat(ctx, old)
		if lost := unexplained(err, absent); lost != nil {
			return lost
		}
		switch {
		case absent != nil:
			return s.whyPath(ctx, old, err)
		case info.IsDir():
			return as(syscall.EPERM, err)
		}
		return s.whyApart(ctx, old, name, s.whyCreate(ctx, name, err))
	})
}

// StatFS tells the space around the working directory.
func (b *Backend) StatFS(ctx context.Context) (backends.Space, error) {
	var found space
	err := b.do(ctx, "statfs", "", func(s *session) (err error) {
		if !s.meta.offers(extStatVFS) {
			return refuse(syscall.EOPNOTSUPP, "the server does not tell its space")
		}
		found, err = s.ask(ctx, extendedFrame(extStatVFS, s.root)).space()
		return err
	})
	return found.Space, err
}
