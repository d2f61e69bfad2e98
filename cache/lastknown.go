package cache

import (
	"context"
	"errors"
	"os"
	"syscall"
	"time"

	"pierfs/backends"
	"pierfs/cache/attr"
)

// ErrUnlisted says that the server is away, and that nothing is known of a name: neither what it is nor that it is not there.
var ErrUnlisted = errors.New("the server cannot be asked now, and nothing is known of this name")

func unlisted(op, name string) error {
	return &backends.Error{Op: op, Name: name, Code: syscall.EIO, Err: ErrUnlisted}
}

// isAway reports whether err says that the server cannot be asked now, of a tree that goes on without it.
func (t *Tree) isAway(ctx context.Context, err error) bool {
	return err != nil && t.options.Background && ctx.Err() == nil && backends.ClassOf(err) != backends.Final
}

// lastKnown is Stat that asks nobody: the last known answer, however old. Of a name of which nothing is known it is ErrUnlisted.
func (t *Tree) lastKnown(name string) (Entry, error) {
	if f := t.live(name); f != nil {
		return f.entry(), nil
	}
	info, _, state := t.attrs.GetListed(name)
	switch {
	case state == attr.Present && info.Known.Has(backends.HasType):
		e := Entry{Info: info, Version: fingerprint(info)}
		e.Name = lastElement(name)
		t.countLinks(name, &e)
		return e, nil
	case state == attr.Absent:
		return t.absent(name, time.Time{})
	case name == "", len(t.below(name)) > 0: // a directory, of which nothing else is known
		return Entry{Info: backends.Info{Name: lastElement(name), Mode: os.ModeDir | 0o755, Known: backends.HasType | backends.HasPerm}}, nil
	}
	if above, _, state := t.attrs.GetListed(parent(name)); state == attr.Absent || state == attr.Present && above.Known.Has(backends.HasType) && above.Mode.IsRegular() {
		return t.absent(name, time.Time{})
	}
	return Entry{}, unlisted("stat", name)
}

// isRecalled reports whether what was asked for then is known from a former daemon, or is too old for any use. It may lack what that one did in its
// last second, so that it holds only while the server cannot be asked.
func isRecalled(asked time.Time) bool { return time.Since(asked) > 10*365*24*time.Hour }

// statBehind is Stat of a name that changes concern which are owed.
func (t *Tree) statBehind(ctx context.Context, name string) (Entry, error) {
	for {
		_, asked, state := t.attrs.GetListed(name)
		if recalled := state != attr.Unknown && isRecalled(asked) && t.live(name) == nil; recalled && t.awaitChanges(ctx, name) == nil && !t.changes.concern(name) {
			return t.Refresh(ctx, name)
		}
		e, err := t.lastKnown(name)
		if !errors.Is(err, ErrUnlisted) {
			return e, err
		}
		if err := t.awaitChanges(ctx, name); err != nil {
			return Entry{}, err
		}
		if !t.changes.concern(name) {
			return t.Refresh(ctx, name)
		}
	}
}

// openBehind opens a file without asking the server, which is away or does not know the name yet.
func (t *Tree) openBehind(ctx context.Context, name string, mode OpenMode, now era) (*File, error) {
	e, err := t.lastKnown(name)
	if err == nil {
		err = openable(name, e.Info)
	}
	if err != nil {
		return nil, err
	}
	f, err := t.joinOrAdd(name, e, now)
	if err != nil {
		return nil, err
	}
	if mode.Read && !mode.Write && !f.readable() && !f.bringCopy() && e.Size > 0 {
		return nil, errors.Join(unlisted("open", name), f.Close(ctx, true))
	}
	return t.opened(ctx, f, mode)
}

// listLastKnown makes l what is known of dir, however old; false if that is not all.
func (t *Tree) listLastKnown(dir string, l *Listing) bool {
	known, asked, ok := t.attrs.Listing(dir)
	if !ok {
		return false
	}
	t.fillKnown(dir, l, known, asked)
	return true
}

// isEmpty reports whether the directory is known to hold nothing.
func (t *Tree) isEmpty(dir string) (bool, error) {
	l := t.newListing(func() {})
	if !t.listLastKnown(dir, l) {
		return false, unlisted("list", dir)
	}
	return l.list.Len()+len(l.rest) == 0, nil
}
