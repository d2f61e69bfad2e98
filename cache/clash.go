package cache

import (
	"context"
	"errors"
	"os"
	"syscall"

	"pierfs/backends"
)

// What a program wrote anew replaces what is there, as on any disk: the last writer wins. What builds on a content that it read,
// or was made under a name that was believed to be free, replaces nothing else: that would undo what somebody else did,
// unseen. Whether it does is asked in the flight before the renaming, so that what remains of the race is one round trip.

// builds reports whether j holds something of what the server had.
func (f *File) builds(j *job) bool { return j.base.Known != 0 && !j.cut && !j.isBlind() }

// mayReplace sees to it that j replaces only what it may: at its Commit where it gathers under a temporary name, else now.
func (f *File) mayReplace(ctx context.Context, j *job) error {
	keeps := f.tree.options.Conflict != Overwrite
	if !j.doubt && !(keeps && (j.assumed || f.builds(j))) {
		return nil
	}
	before := func(now backends.Info, err error) error {
		switch absent := errors.Is(err, os.ErrNotExist); {
		case j.isBlind(): // it may be what an attempt before this one has brought there
			return nil
		case absent && !j.doubt:
			return nil
		case absent: // renamed unheard: made anew it would be one file too many
			return f.fault("publish", changedElsewhere)
		case err != nil:
			return err
		case !keeps || !j.assumed && f.tree.told(j.name, now).SameVersion(j.base):
			return nil
		case j.base.Known != 0 && !f.builds(j):
			return nil
		}
		j.clash = true
		return f.fault("publish", changedElsewhere)
	}
	if f.tree.direct(j.name) || j.linked {
		return before(f.tree.ask(ctx, j.name))
	}
	j.before = before
	return nil
}

// lostBase reports whether err, of completing j, means that its base is no more.
func (f *File) lostBase(ctx context.Context, j *job, err error) bool {
	code := backends.Errno(err)
	return (code == syscall.ESTALE || code == syscall.ENOENT) && f.baseIsGone(ctx, j)
}

// clashed brings j to where it harms nobody, because the name is another content's by now, and returns what the program is told:
// ESTALE. With KeepBoth it is stored beside that; with Fail, or if it is not all here or the server may have a part of it, it is put
// into quarantine.
func (f *File) clashed(ctx context.Context, j *job, why error) error {
	t := f.tree
	j.before = nil
	why = f.fault("publish", errors.Join(changedElsewhere, why))
	t.conflicts.Add(1)
	err := error(syscall.ENODATA)
	if t.options.Conflict == KeepBoth && !j.begun && f.fill(ctx, j.staged, 0, j.size) == nil {
		err = t.options.Retry.Do(ctx, func(ctx context.Context) error { return f.besides(ctx, j) })
	}
	t.detach(f)
	if err != nil {
		return f.quarantine(why)
	}
	f.mu.Lock()
	if f.change == j.change {
		f.published = f.change
	}
	f.mu.Unlock()
	t.attrs.Forget(j.name)
	t.attrs.Forget(j.beside)
	t.kept.touched(parent(j.name))
	t.log.Error("a conflict: somebody else changed the file meanwhile, and both are kept", "name", j.name, "ours", j.beside)
	return why
}

// besides uploads j to a name of its own beside the one that it was meant for.
func (f *File) besides(ctx context.Context, j *job) error {
	t := f.tree
	if t.direct(j.name) {
		_, err := f.writeBeside(ctx, j)
		return err
	}
	temp, info, err := f.gather(ctx, j)
	if err == nil {
		defer t.freeTemp(temp)
		if _, err = f.placeBeside(ctx, j, temp, info); err != nil {
			t.removeTemp(ctx, temp)
		}
	}
	if wayRefused(err, backends.Info{}) {
		_, err = f.writeBeside(ctx, j)
	}
	return err
}
