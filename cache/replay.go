package cache

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"pierfs/backends"
	"pierfs/cache/journal"
)

// forgone is why a change is not made any more: somebody else has made it, or its opposite, or what it was meant for is gone.
type forgone struct{ why string }

func (f *forgone) Error() string { return f.why }

// clash is why a content or a change waits for a person: something is in its way that is not ours.
type clash struct {
	why   string
	lacks string // the directory without which it has no place; "" if that is not what is in the way
}

func (c *clash) Error() string { return c.why }

func isClash(err error) bool {
	_, ok := errors.AsType[*clash](err)
	return ok
}

// carryOut makes c at the server, which may have been made before: an answer was lost, or the daemon died. So the server is asked
// first wherever making it twice would tell.
func (t *Tree) carryOut(ctx context.Context, c *change) error {
	name, to := string(c.e.Name), string(c.e.To)
	if err := t.fence(ctx, c.names()...); err != nil {
		return err
	}
	switch c.e.Kind {
	case journal.Mkdir:
		return t.makeDir(ctx, name, setOf(c.e.Attr))
	case journal.Symlink:
		return t.makeLink(ctx, to, name)
	case journal.Rmdir:
		t.tidy(ctx, name)
		err := t.backend.Rmdir(ctx, name)
		switch code := backends.Errno(err); {
		case errors.Is(err, os.ErrNotExist):
			return nil
		case code == syscall.ENOTEMPTY, code == syscall.EEXIST, code == syscall.ENOTDIR:
			return &forgone{"somebody else has put something there"}
		}
		return err
	case journal.Remove:
		return t.removeIfOurs(ctx, c)
	case journal.Rename:
		return t.renameIfOurs(ctx, c, name, to)
	case journal.SetAttr:
		return t.setIfOurs(ctx, c)
	}
	return &clash{why: fmt.Sprintf("this version cannot do %q", c.e.Kind)}
}

func (t *Tree) makeDir(ctx context.Context, name string, a backends.Attr) error {
	perm := os.FileMode(0o777)
	if a.Perm != nil {
		perm = *a.Perm
	}
	err := t.backend.Mkdir(ctx, name, perm)
	if errors.Is(err, os.ErrExist) {
		now, err := t.ask(ctx, name)
		if err == nil && !now.IsDir() {
			return &clash{why: "somebody else has made a file of that name"}
		}
		return err
	}
	return err
}

// makeLink makes the link name, or one beside it if somebody else has made something of that name.
func (t *Tree) makeLink(ctx context.Context, target, name string) error {
	err := t.backend.Symlink(ctx, target, name)
	switch code := backends.Errno(err); {
	case code == syscall.EPERM, code == syscall.EACCES, code == syscall.EOPNOTSUPP:
		return &clash{why: fmt.Sprintf("the server refuses the link: %v", err)}
	case !errors.Is(err, os.ErrExist):
		return err
	}
	switch there, err := t.backend.Readlink(ctx, name); {
	case err == nil && there == target:
		return nil // before an answer was lost
	case errors.Is(err, os.ErrNotExist), err != nil && backends.ClassOf(err) != backends.Final: // else it is no link
		return err
	}
	if t.options.Conflict != KeepBoth {
		return &clash{why: "somebody else has made something of that name"}
	}
	beside, err := t.freeConflictName(ctx, name)
	if err == nil {
		err = t.backend.Symlink(ctx, target, beside)
	}
	if err != nil {
		return err
	}
	t.attrs.Forget(name)
	t.attrs.Forget(beside)
	return &forgone{"somebody else has made something of that name; ours is " + beside}
}

// removeIfOurs removes what c removes, unless it is another's by now.
func (t *Tree) removeIfOurs(ctx context.Context, c *change) error {
	name := string(c.e.Name)
	now, err := t.ask(ctx, name)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	ours := c.e.Base == nil && len(c.e.Sent) == 0 || c.e.Base != nil && t.kept.asTold(name, now).SameVersion(infoOf(name, *c.e.Base))
	if !ours { // or what was on its way when it was removed
		if ours, err = t.isOneOf(ctx, name, now, c.e.Sent); err != nil {
			return err
		}
	}
	if !ours || now.IsDir() {
		return &forgone{"somebody else has changed it meanwhile"}
	}
	err = t.removeOnce(ctx, name, now)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// setIfOurs sets the attributes that c sets, unless the file is another's by now.
func (t *Tree) setIfOurs(ctx context.Context, c *change) error {
	name, a := string(c.e.Name), setOf(c.e.Attr)
	if c.e.Base != nil {
		now, err := t.ask(ctx, name)
		switch {
		case err != nil:
			return unlessRemoved(err)
		case t.isVersion(name, now, *c.e.Base), t.isVersion(name, now, c.e.Show): // the latter if an answer was lost
		case mayContinue(infoOf(name, *c.e.Base), now) && isAsAccessible(now, infoOf(name, *c.e.Base), infoOf(name, c.e.Show)):
			t.attrs.Forget(name) // it is longer than programs were told
			a = a.Untimed()
		default:
			return &forgone{"somebody else has changed it meanwhile"}
		}
		if a.Empty() {
			return nil
		}
	}
	info, refused, err := t.send(ctx, name, a)
	if err == nil {
		t.kept.keep(name, a, refused, info)
	}
	return unlessRemoved(err)
}

// isVersion reports whether now is v, of which a program may have set a time that is finer than the server keeps.
func (t *Tree) isVersion(name string, now backends.Info, v journal.Version) bool {
	now = t.kept.asTold(name, now)
	now.TimeUnit = max(now.TimeUnit, t.Caps().TimeUnit)
	return now.SameVersion(infoOf(now.Name, v))
}

// unlessRemoved returns err, and for one that says that the name is not there, that the change has lost its meaning.
func unlessRemoved(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return &forgone{"somebody else has removed it"}
	}
	return err
}

// renameIfOurs gives what is at from the name to. What somebody else has put there meanwhile stays, and ours goes beside it.
func (t *Tree) renameIfOurs(ctx context.Context, c *change, from, to string) error {
	was, err := t.ask(ctx, from)
	gone := errors.Is(err, os.ErrNotExist)
	if err != nil && !gone {
		return err
	}
	there, err := t.ask(ctx, to)
	free := errors.Is(err, os.ErrNotExist)
	if err != nil && !free {
		return err
	}
	there = t.kept.asTold(to, there)
	base := c.e.Base
	done := !free && (base == nil || there.SameVersion(infoOf(to, *base)))
	theirs, mine, err := t.whoseAre(ctx, c, was, there)
	switch {
	case err != nil:
		return err
	case theirs:
		return nil // ours never came there, or is at its new name already, where its content follows
	case gone && (done || base == nil && !infoOf(from, c.e.Show).IsDir()):
		return nil // before an answer was lost, or it never came there and is sent to its new name
	case gone:
		return &forgone{"somebody else has removed it"}
	case free:
		return t.renameOnce(ctx, from, to, backends.NoReplace, was)
	case mine, c.e.Over != nil && there.SameVersion(infoOf(to, *c.e.Over)), there.IsDir() && was.IsDir() && t.options.Conflict != Fail:
		err := t.renameOnce(ctx, from, to, backends.Replace, was)
		if there.IsDir() && (backends.Errno(err) == syscall.ENOTEMPTY || errors.Is(err, os.ErrExist)) {
			return &clash{why: "somebody else has put something into the directory of the new name"}
		}
		return err
	case t.options.Conflict == Overwrite && !there.IsDir():
		return t.renameOnce(ctx, from, to, backends.Replace, was)
	case t.options.Conflict == Fail || was.IsDir():
		return &clash{why: "somebody else has made something of the new name"}
	}
	beside, err := t.freeConflictName(ctx, to)
	if err == nil {
		err = t.backend.Rename(ctx, from, beside, backends.NoReplace)
	}
	if err != nil {
		return err
	}
	t.attrs.Forget(to)
	return &forgone{"somebody else has made a file of the new name; ours is " + beside}
}

// whoseAre tells who made what bears the names of the renaming c: was is somebody else's file, where the server had none that ours could
// be; there is what we had on its way to the new name when ours replaced it. A Known of 0 says that nothing is there.
func (t *Tree) whoseAre(ctx context.Context, c *change, was, there backends.Info) (theirs, mine bool, err error) {
	from, to := string(c.e.Name), string(c.e.To)
	if was.Known != 0 && c.e.All && c.e.Base == nil && !infoOf(from, c.e.Show).IsDir() {
		ours, err := t.isOneOf(ctx, from, was, c.e.Sent)
		if err != nil || !ours {
			return err == nil, false, err
		}
	}
	if there.Known != 0 {
		mine, err = t.isOneOf(ctx, to, there, c.e.Went)
	}
	return false, mine, err
}
