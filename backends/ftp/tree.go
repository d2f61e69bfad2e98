package ftp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"pierfs/backends"
	"pierfs/backends/ftp/listing"
	"pierfs/backends/ftp/wire"
)

// change is use for an operation that changes the tree.
func (b *Backend) change(ctx context.Context, op, name string, f func(context.Context, *wire.Session) error) error {
	defer b.faces.doubt(name)
	return b.use(ctx, op, name, once, f)
}

// discard is change for an operation that removes name.
func (b *Backend) discard(ctx context.Context, op, name string, f func(context.Context, *wire.Session) error) error {
	err := b.change(ctx, op, name, f)
	if err == nil {
		b.faces.forget(name)
	}
	return err
}

// do sends one command about name.
func do(ctx context.Context, s *wire.Session, command string) error {
	replies, err := s.Do(ctx, command)
	if err != nil {
		return err
	}
	return granted(command, replies[0])
}

// Mkdir makes the directory and looks at it in one round trip, and changes its mode in another where the server's umask
// has left too much or too little.
func (b *Backend) Mkdir(ctx context.Context, name string, mode os.FileMode) error {
	if name == "" {
		if err := b.check(ctx, "mkdir", name); err != nil {
			return err
		}
		return seam("mkdir", name, refuse(syscall.EEXIST, "it is the working directory"))
	}
	return b.change(ctx, "mkdir", name, func(ctx context.Context, s *wire.Session) error {
		if err := keepsDir(s.Features(), name); err != nil {
			return err
		}
		command := "MKD " + b.path(name)
		if b.known().madeDir == mode.Perm() && mode.Perm() != 0 {
			return b.whyNotMade(ctx, s, name, do(ctx, s, command))
		}
		q := b.question(s.Features(), name)
		replies, err := s.Do(ctx, append([]string{command}, q.commands...)...)
		if len(replies) > 0 {
			if err := granted(command, replies[0]); err != nil {
				return b.whyNotMade(ctx, s, name, err)
			}
		}
		if err != nil {
			return err
		}
		info, unsure := b.answer(ctx, s, q, replies[1:])
		if unsure == nil && info.Known.Has(backends.HasPerm) {
			b.learn(func(l *learned) { l.madeDir = info.Mode.Perm() })
		}
		if unsure == nil && (info.Mode.Perm() == mode.Perm() || !info.Known.Has(backends.HasPerm)) || !b.Caps().SetPerm {
			return nil
		}
		_, err = s.Do(ctx, b.chmod(mode.Perm(), name)) // as near as the server lets us: a refusal leaves a directory all the same
		return err
	})
}

func (b *Backend) whyNotMade(ctx context.Context, s *wire.Session, name string, err error) error {
	return b.why(ctx, s, name, err, syscall.EACCES, func(backends.Info) syscall.Errno { return syscall.EEXIST })
}

// Remove removes a file or link.
func (b *Backend) Remove(ctx context.Context, name string) error {
	if name == "" {
		return b.noneOf(ctx, "remove", name, syscall.EISDIR)
	}
	return b.discard(ctx, "remove", name, func(ctx context.Context, s *wire.Session) error {
		if err := keeps(s.Features(), name); err != nil {
			return err
		}
		err := do(ctx, s, "DELE "+b.path(name))
		return b.why(ctx, s, name, err, syscall.ENOENT, file)
	})
}

// Rmdir removes an empty directory.
func (b *Backend) Rmdir(ctx context.Context, name string) error {
	if name == "" {
		return b.noneOf(ctx, "rmdir", name, syscall.EBUSY)
	}
	return b.discard(ctx, "rmdir", name, func(ctx context.Context, s *wire.Session) error {
		if err := keeps(s.Features(), name); err != nil {
			return err
		}
		err := do(ctx, s, "RMD "+b.path(name))
		err = b.why(ctx, s, name, err, syscall.ENOENT, func(i backends.Info) syscall.Errno {
			if i.IsDir() {
				return syscall.EACCES
			}
			return syscall.ENOTDIR
		})
		return b.whyFull(ctx, s, name, err)
	})
}

// noneOf refuses an operation on the working directory itself.
func (b *Backend) noneOf(ctx context.Context, op, name string, code syscall.Errno) error {
	if err := b.check(ctx, op, name); err != nil {
		return err
	}
	return seam(op, name, refuse(code, "it is the working directory"))
}

// whyFull says ENOTEMPTY of a directory that could not be removed or replaced, if there is something in it.
func (b *Backend) whyFull(ctx context.Context, s *wire.Session, name string, err error) error {
	if c, ok := errors.AsType[*coded](err); !ok || c.code != syscall.EACCES {
		return err
	}
	full, unknown := b.full(ctx, s, name)
	if unknown == nil && !full && s.Features().MLST { // proftpd shows links to nothing by LIST only
		unknown = b.lines1(ctx, s, name, func(listing.Entry) { full = true })
	}
	switch {
	case unknown != nil && isBroken(unknown):
		return unanswered(unknown)
	case full:
		return as(syscall.ENOTEMPTY, err)
	}
	return err
}

// full reports whether there is anything in dir.
func (b *Backend) full(ctx context.Context, s *wire.Session, dir string) (bool, error) {
	t, err := b.openList(ctx, s, dir)
	if err != nil {
		return false, err
	}
	stop := context.AfterFunc(ctx, t.down.Cancel)
	defer stop()
	list := b.reading(t, t.down)
	for _, err := range list.Entries() {
		t.down.Cancel()
		return err == nil, err
	}
	c := list.Counts()
	return c.Hidden+c.Unreadable > 0, b.endList(ctx, t)
}

// Rename renames in one round trip; with NoReplace it asks first, and a race remains.
func (b *Backend) Rename(ctx context.Context, from, to string, mode backends.RenameMode) error {
	if err := b.check(ctx, "rename", from, to); err != nil {
		return err
	}
	if from == "" || to == "" {
		return seam("rename", from, refuse(syscall.EBUSY, "it is the working directory"))
	}
	return b.use(ctx, "rename", from, once, func(ctx context.Context, s *wire.Session) error {
		if err := cmp.Or(keeps(s.Features(), from), keeps(s.Features(), to)); err != nil {
			return err
		}
		if mode == backends.NoReplace || from == to {
			if err := b.mayRename(ctx, s, from, to); err != nil || from == to {
				return err
			}
		}
		rnfr, rnto := "RNFR "+b.path(from), "RNTO "+b.path(to)
		replies, err := s.Do(ctx, rnfr, rnto)
		if err != nil {
			b.faces.doubt(from)
			b.faces.doubt(to)
		}
		if len(replies) > 0 {
			if err := granted(rnfr, replies[0]); err != nil {
				return b.why(ctx, s, from, err, syscall.ENOENT, func(backends.Info) syscall.Errno { return syscall.EACCES })
			}
		}
		if err != nil {
			return err
		}
		err = granted(rnto, replies[1])
		if err != nil && mode == backends.Replace {
			err = b.replaceInSteps(ctx, s, from, to, err)
		}
		if err != nil {
			return b.whyRename(ctx, s, from, to, err)
		}
		b.faces.move(from, to)
		return nil
	})
}

// mayRename returns EEXIST if to is taken.
func (b *Backend) mayRename(ctx context.Context, s *wire.Session, from, to string) error {
	_, err := b.stat(ctx, s, to)
	switch {
	case from == to:
		return err
	case err == nil:
		if _, err := b.stat(ctx, s, from); err != nil {
			return err
		}
		return refuse(syscall.EEXIST, "%q is there already", to)
	case backends.Errno(seam("", "", err)) == syscall.ENOENT:
		return nil
	}
	return err
}

// whyRename says what the refusal of a RNTO means, as rename(2) would tell it.
func (b *Backend) whyRename(ctx context.Context, s *wire.Session, from, to string, err error) error {
	if !vague(err) {
		return err
	}
	source, absent := b.stat(ctx, s, from)
	switch {
	case absent != nil && isBroken(absent):
		return unanswered(absent)
	case absent == nil && source.IsDir() && strings.HasPrefix(to, from+"/"):
		return as(syscall.EINVAL, err)
	}
	err = b.why(ctx, s, to, err, syscall.EACCES, func(target backends.Info) syscall.Errno {
		switch {
		case target.IsDir() && !source.IsDir():
			return syscall.EISDIR
		case source.IsDir() && !target.IsDir():
			return syscall.ENOTDIR
		}
		return syscall.EACCES
	})
	if source.IsDir() {
		return b.whyFull(ctx, s, to, err)
	}
	return err
}

// replaceInSteps is for servers that let no file take the name of another (proftpd unless told AllowOverwrite, IIS): what bears to is
// moved aside, from takes its place, and what lies aside is removed, as in backends/sftp. refused is the answer to the RNTO, and is
// returned where that is not the reason.
func (b *Backend) replaceInSteps(ctx context.Context, s *wire.Session, from, to string, refused error) error {
	if !vague(refused) {
		return refused
	}
	was, absent := b.stat(ctx, s, to)
	is, gone := b.stat(ctx, s, from)
	switch {
	case absent != nil && isBroken(absent), gone != nil && isBroken(gone):
		return unanswered(errors.Join(absent, gone))
	case absent != nil, gone != nil, was.IsDir(), is.IsDir():
		return refused
	}
	aside := backends.AsideName(to)
	err := b.move(ctx, s, to, aside)
	if err != nil && !isBroken(err) { // what lies aside of an attempt that was lost is older than what has the name by now
		_, _ = s.Do(ctx, "DELE "+b.path(aside)) // there may be none
		err = b.move(ctx, s, to, aside)
	}
	switch {
	case err != nil && isBroken(err):
		return err
	case err != nil:
		return refused
	}
	if err := b.move(ctx, s, from, to); err != nil {
		if isBroken(err) {
			return err
		}
		return errors.Join(err, b.move(ctx, s, aside, to))
	}
	known := !b.Caps().Replace
	b.learn(func(l *learned) { l.noReplace = true })
	if !known {
		b.o.Logger.Warn("the server lets no file take the name of another: the old one is moved aside first, and for a moment nobody bears the name", "name", to)
	}
	// The new content is in place. What is left over is only litter, which is removed once two listings have shown it.
	remove := "DELE " + b.path(aside)
	replies, err := s.Do(ctx, remove)
	if err == nil {
		err = granted(remove, replies[0])
	}
	if err != nil {
		b.o.Logger.Warn("what a file had before stays beside it for now", "name", aside, "err", err)
	}
	return nil
}

// move renames from to a name that is free.
func (b *Backend) move(ctx context.Context, s *wire.Session, from, to string) error {
	commands := []string{"RNFR " + b.path(from), "RNTO " + b.path(to)}
	replies, err := s.Do(ctx, commands...)
	for i, r := range replies {
		if refused := granted(commands[i], r); refused != nil {
			return refused
		}
	}
	return err
}

// SetAttr looks at name, so that nothing is done to what a link leads to, and then sets what attr names and looks again.
func (b *Backend) SetAttr(ctx context.Context, name string, attr backends.Attr) (info backends.Info, err error) {
	if attr.Empty() {
		err = b.use(ctx, "setattr", name, again, func(ctx context.Context, s *wire.Session) (err error) {
			info, err = b.stat(ctx, s, name)
			return err
		})
		return info, err
	}
	err = b.change(ctx, "setattr", name, func(ctx context.Context, s *wire.Session) (err error) {
		info, err = b.setAttr(ctx, s, name, attr)
		return err
	})
	if err == nil {
		b.own(name, info)
	}
	return info, err
}

func (b *Backend) setAttr(ctx context.Context, s *wire.Session, name string, attr backends.Attr) (backends.Info, error) {
	was, err := b.stat(ctx, s, name)
	if err != nil {
		return was, err
	}
	caps := b.Caps()
	switch {
	case attr.Size != nil && was.IsDir():
		return was, refuse(syscall.EISDIR, "it is a directory")
	case attr.Size != nil, attr.UID != nil, attr.GID != nil:
		return was, refuse(syscall.EOPNOTSUPP, "FTP cannot change a size or an owner")
	case attr.Perm != nil && !caps.SetPerm, attr.ModTime != nil && !caps.SetTimes:
		return was, refuse(syscall.EOPNOTSUPP, "the server cannot set it")
	case attr.ModTime == nil && attr.AccTime != nil:
		return was, refuse(syscall.EOPNOTSUPP, "FTP cannot set the time of the last access alone")
	case was.Mode&os.ModeSymlink != 0:
		return was, refuse(syscall.EOPNOTSUPP, "FTP would follow the link")
	}
	sets, err := b.sets(s.Features(), name, attr)
	if err != nil {
		return was, err
	}
	q := b.question(s.Features(), name)
	if !q.mlst && was.Mode.IsRegular() {
		q = b.light(name)
	}
	replies, err := s.Do(ctx, append(sets, q.commands...)...)
	for i, command := range sets[:min(len(sets), len(replies))] {
		if refused := granted(command, replies[i]); refused != nil {
			return was, b.whySet(name, command, replies[i], was, refused)
		}
	}
	if err != nil {
		return was, err
	}
	info, err := b.answer(ctx, s, q, replies[len(sets):])
	if err == nil && q.light {
		info = b.withFace(info, was)
		if attr.Perm != nil {
			info.Mode, info.Known = info.Mode.Type()|*attr.Perm, info.Known|backends.HasPerm
		}
	}
	return info, err
}

// own remembers what is known of a file that we have changed.
func (b *Backend) own(name string, i backends.Info) {
	if b.patterns() && i.Mode.IsRegular() && i.Known.Has(backends.HasPerm) {
		b.faces.own(name, i)
	}
}

// whySet says what the refusal of an attribute means, and remembers what the server does not know at all.
func (b *Backend) whySet(name, command string, r wire.Reply, was backends.Info, err error) error {
	perm := strings.HasPrefix(command, "SITE CHMOD")
	switch {
	case unknown(r) && perm:
		b.learn(func(l *learned) { l.noPerm = true })
	case unknown(r):
		b.learn(func(l *learned) { l.noTimes = true })
	case !perm && was.IsDir(): // MFMT is for files only (pyftpdlib), and so is MDTM
	case vague(err):
		return as(syscall.EPERM, err)
	default:
		return err
	}
	return as(syscall.EOPNOTSUPP, err)
}

// chmod is the command that gives name a mode.
func (b *Backend) chmod(mode os.FileMode, name string) string {
	return fmt.Sprintf("SITE CHMOD %04o %s", bits(mode), b.path(name))
}

// bits are the permission bits of mode as chmod(2) takes them.
func bits(mode os.FileMode) uint32 {
	n := uint32(mode.Perm())
	for flag, bit := range map[os.FileMode]uint32{os.ModeSetuid: 0o4000, os.ModeSetgid: 0o2000, os.ModeSticky: 0o1000} {
		if mode&flag != 0 {
			n |= bit
		}
	}
	return n
}

// sets are the commands that set what FTP can of attr.
func (b *Backend) sets(f wire.Features, name string, attr backends.Attr) (commands []string, err error) {
	caps := b.Caps()
	if attr.ModTime != nil && caps.SetTimes {
		t := attr.ModTime.UTC()
		if t.Before(caps.FirstTime) || t.After(caps.LastTime) {
			return nil, refuse(syscall.EINVAL, "FTP has no word for the time %s", t.Format(time.RFC3339))
		}
		at := t.Format("20060102150405")
		switch p := b.path(name); {
		case f.MFMT:
			commands = append(commands, "MFMT "+at+" "+p)
		case f.MDTMSets:
			commands = append(commands, "MDTM "+at+" "+p)
		default:
			commands = append(commands, "MFF modify="+at+"; "+p)
		}
	}
	if attr.Perm != nil && caps.SetPerm {
		commands = append(commands, b.chmod(*attr.Perm, name))
	}
	return commands, nil
}

// Symlink is EOPNOTSUPP: what servers offer (SITE SYMLINK) cuts at spaces and changes what it is told.
func (b *Backend) Symlink(ctx context.Context, target, name string) error {
	return b.cannot(ctx, "symlink", name, "FTP makes no links")
}

// Link is EOPNOTSUPP.
func (b *Backend) Link(ctx context.Context, old, name string) error {
	if err := b.check(ctx, "link", old); err != nil {
		return err
	}
	return b.cannot(ctx, "link", name, "FTP makes no links")
}

func (b *Backend) cannot(ctx context.Context, op, name, why string) error {
	if err := b.check(ctx, op, name); err != nil {
		return err
	}
	return seam(op, name, refuse(syscall.EOPNOTSUPP, "%s", why))
}

// Readlink tells what listings show of a link. A listing a moment ago is asked first.
func (b *Backend) Readlink(ctx context.Context, name string) (target string, err error) {
	if err := b.check(ctx, "readlink", name); err != nil {
		return "", err
	}
	if target, ok := b.faces.target(name); ok {
		return target, nil
	}
	err = b.use(ctx, "readlink", name, again, func(ctx context.Context, s *wire.Session) error {
		info, err := b.stat(ctx, s, name)
		switch {
		case err != nil:
			return err
		case info.Mode&os.ModeSymlink == 0:
			return refuse(syscall.EINVAL, "it is no link")
		}
		if known, ok := b.faces.target(name); ok {
			target = known
			return nil
		}
		asked := time.Now()
		return b.lines1(ctx, s, parent(name), func(e listing.Entry) {
			if e.Mode&os.ModeSymlink != 0 && e.Target != "" {
				b.info(join(parent(name), e.Name), e, asked) // for whoever asks for the next
				if e.Name == base(name) {
					target = e.Target
				}
			}
		})
	})
	if err == nil && target == "" {
		err = seam("readlink", name, refuse(syscall.EOPNOTSUPP, "the server does not tell where the link leads"))
	}
	return target, err
}

// StatFS tells what AVBL does, where the server has it: what is free, and nothing of the whole.
func (b *Backend) StatFS(ctx context.Context) (room backends.Space, err error) {
	err = b.use(ctx, "statfs", "", again, func(ctx context.Context, s *wire.Session) error {
		if !b.Caps().StatFS {
			return refuse(syscall.EOPNOTSUPP, "the server does not tell")
		}
		command := "AVBL " + b.Root()
		replies, err := s.Do(ctx, command)
		if err != nil {
			return err
		}
		if err := granted(command, replies[0]); err != nil {
			return err
		}
		n, err := strconv.ParseUint(strings.TrimSpace(replies[0].Lines[0]), 10, 64)
		if err != nil {
			return refuse(syscall.EIO, "the server says %q of its space", said(replies[0]))
		}
		room = backends.Space{Total: n, Free: n, Avail: n}
		return nil
	})
	return room, err
}
