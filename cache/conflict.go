package cache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"syscall"
	"time"

	"pierfs/backends"
	"pierfs/cache/spool"
)

// Conflict says what becomes of a content that is owed to a name which somebody else gave another content meanwhile.
type Conflict uint8

const (
	KeepBoth  Conflict = iota // theirs stays, ours is stored beside it as NAME.conflict-HOST-TIME
	Overwrite                 // ours replaces theirs
	Fail                      // ours stays here until a person decides
)

// errConflict holds a content back for a person.
var errConflict = &clash{why: "somebody else changed the file meanwhile, and both versions are kept"}

// deliverBeside brings j to the server without touching what bears its name, or does as the policy says.
func (f *File) deliverBeside(ctx context.Context, j *job, d *debt) (info backends.Info, err error) {
	t := f.tree
	if len(j.staged.Missing(0, j.size)) > 0 { // it is not all here, and cannot be completed any more
		j.beside, err = f.keepOwed(d, changedElsewhere)
		return info, err
	}
	switch t.options.Conflict {
	case Fail:
		return info, f.holdBack(errConflict)
	case Overwrite:
		now, err := t.ask(ctx, j.name)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return info, err
		}
		if now.Known != 0 && !now.Mode.IsRegular() {
			return info, f.holdBack(errConflict)
		}
		f.known(j, d, now)
	}
	directly := func() (backends.Info, error) {
		if t.options.Conflict == Overwrite {
			return t.write(ctx, j, j.name)
		}
		return f.writeBeside(ctx, j)
	}
	if t.direct(j.name) || j.linked {
		return directly()
	}
	temp, info, err := f.gather(ctx, j)
	if err == nil {
		defer t.freeTemp(temp)
		if t.options.Conflict == Overwrite {
			info, err = f.place(ctx, j, d, temp, info)
		} else {
			info, err = f.placeBeside(ctx, j, temp, info)
		}
		if err != nil {
			t.removeTemp(ctx, temp)
		}
	}
	if wayRefused(err, backends.Info{}) {
		return directly()
	}
	return info, err
}

// known notes what the server has under the file's name, which is to be replaced by all of j, or of what is owed since.
func (f *File) known(j *job, d *debt, now backends.Info) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.base, j.base = now, now
	j.tail, j.placed = 0, true
	for _, d := range []*debt{d, f.owing.debt} {
		if d != nil {
			d.tail, d.placed = 0, true
		}
	}
	f.sentIsKnown()
}

// placeBeside gives the verified temp a name beside the one that it was meant for. What is owed has the same name each time that it is tried, so
// that it is known where it came there and nobody heard of it.
func (f *File) placeBeside(ctx context.Context, j *job, temp string, info backends.Info) (backends.Info, error) {
	if f.tree.options.Conflict != KeepBoth {
		return info, f.holdBack(errConflict) // next time it is looked at anew
	}
	for n := 0; n < 100; n++ {
		name := conflictName(j.name, f.tree.options.Host, cmp.Or(j.owed, time.Now()), n)
		err := f.tree.backend.Rename(ctx, temp, name, backends.NoReplace)
		if errors.Is(err, os.ErrExist) {
			now, there, err := f.isBeside(ctx, j, name)
			if err == nil && !there {
				continue
			}
			if err == nil {
				f.tree.removeTemp(ctx, temp)
				j.beside = name
			}
			return now, err
		}
		if err == nil {
			j.beside = name
		}
		return info, because(err, backends.CauseRename)
	}
	return info, f.fault("publish", syscall.EEXIST)
}

// isBeside reports whether what bears name, of which it returns what the server says, is j, which is owed.
func (f *File) isBeside(ctx context.Context, j *job, name string) (now backends.Info, there bool, err error) {
	if j.owed.IsZero() {
		return now, false, nil
	}
	now, err = f.tree.ask(ctx, name)
	if err == nil && now.Mode.IsRegular() {
		there, err = f.tree.same(ctx, name, now, j.staged, j.size)
	}
	return now, there, err
}

// conflictName is the n-th name beside name for a content of this host that could not have it.
func conflictName(name, host string, when time.Time, n int) string {
	suffix := fmt.Sprintf(".conflict-%s-%s", host, when.UTC().Format("20060102T150405Z"))
	if n > 0 {
		suffix += fmt.Sprintf("-%d", n)
	}
	base := path.Base(name)
	return join(parent(name), base[:max(0, min(len(base), backends.MaxElement-len(suffix)))]+suffix)
}

func (t *Tree) freeConflictName(ctx context.Context, name string) (string, error) {
	for n := 0; ; n++ {
		free := conflictName(name, t.options.Host, time.Now(), n)
		if _, err := t.ask(ctx, free); errors.Is(err, os.ErrNotExist) {
			return free, nil
		} else if err != nil {
			return "", err
		}
	}
}

// holdBack keeps what the file owes here until a person decides.
func (f *File) holdBack(why *clash) error {
	f.mu.Lock()
	f.owing.held = why
	name := f.name
	f.mu.Unlock()
	f.tree.conflicts.Add(1)
	f.tree.log.Error("a conflict: what is owed waits for a person", "name", name, "reason", why)
	return fault("publish", name, why)
}

// lostTo notes that the server has d under another name, j.beside, or that it is in quarantine: the file's name is another's.
func (f *File) lostTo(j *job, d *debt) error {
	t := f.tree
	if err := f.owing.sealing.take(t.ctx); err != nil {
		return err
	}
	defer f.owing.sealing.give()
	t.conflicts.Add(1)
	t.log.Error("a conflict: somebody else changed the file meanwhile, and both are kept", "name", j.name, "ours", j.beside)
	f.mu.Lock()
	f.notPaying()
	last := f.owing.debt
	f.mu.Unlock()
	if last != d { // written since: that has no place either
		if _, err := f.keepOwed(last, changedElsewhere); err != nil {
			return err
		}
	}
	ended := t.end(last.seq) // before another content may come to be owed to the name
	t.detach(f)
	f.mu.Lock()
	f.sentIsKnown()
	f.owing.debt = nil
	if last == d && f.change == d.change {
		f.published = f.change // nothing is left to be sent
	}
	f.mu.Unlock()
	t.attrs.Forget(j.name)
	t.attrs.Forget(j.beside)
	t.kept.touched(parent(j.name))
	if ended {
		f.letGo(last)
	}
	return nil
}

// keepOwed puts a copy of d into quarantine, because of reason, and returns where it is.
func (f *File) keepOwed(d *debt, reason error) (string, error) {
	t := f.tree
	name, _ := f.Name()
	kept := keptAs(t.options.Quarantine, filepath.Base(d.staged.Path()))
	err := makeDir(t.options.Quarantine)
	var copied *spool.File
	if err == nil {
		copied, err = d.staged.Clone(kept, d.size)
	}
	if err == nil {
		told := note{Name: name, Begun: d.began, Kept: time.Now(), Reason: reason.Error(), Missing: d.staged.Missing(0, d.size)}
		err = errors.Join(copied.Truncate(d.size), copied.Sync(), copied.Close(), keepNote(noteOf(kept), told), syncPath(t.options.Quarantine))
	}
	told := fmt.Errorf("%q is kept as %s: %w", name, kept, errors.Join(reason, err))
	t.lastError.Store(&told)
	t.log.Error("content that is owed could not be sent", "name", name, "kept", kept, "reason", reason, "err", err)
	if err != nil {
		if copied != nil {
			t.warn("removal of a copy", os.Remove(kept)) // the next attempt makes it anew
			_ = os.Remove(noteOf(kept))                  // if it came to that
		}
		return "", f.fault("publish", err)
	}
	return kept, nil
}
