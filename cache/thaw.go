package cache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"time"

	"pierfs/backends"
	"pierfs/cache/spool"
)

// lockToChange locks mu for op, which is going to change bytes of the staging file from off on: none of them belongs to a debt then. After an
// error mu is not locked.
func (f *File) lockToChange(ctx context.Context, op string, off int64) error {
	for {
		f.mu.Lock()
		err := f.writable(op)
		if err == nil && !f.isFrozen(off) {
			return nil
		}
		f.mu.Unlock()
		if err != nil {
			return err
		}
		if err := f.thaw(ctx); err != nil {
			return f.fault(op, err)
		}
	}
}

// isFrozen reports whether some byte of the staging file from off on belongs to a debt, and may not be changed; the caller holds mu.
func (f *File) isFrozen(off int64) bool {
	return f.staged != nil && max(off, 0) < f.owing.frozen && f.riding.writers == 0
}

// unfreeze notes that no byte of the staging file belongs to a debt any more; the caller holds mu.
func (f *File) unfreeze() { f.owing.frozen, f.owing.lasts = 0, false }

// thaw gives the file a staging file of its own, a copy of the one that holds its debt. What is frozen stays as it is while it is copied, so
// that nobody waits for that but those who are going to change it.
func (f *File) thaw(ctx context.Context) error {
	if err := f.owing.thawing.take(ctx); err != nil {
		return err
	}
	defer f.owing.thawing.give()
	t := f.tree
	f.mu.Lock()
	name, staged, frozen := f.name, f.staged, f.owing.frozen
	if !f.isFrozen(0) { // somebody else was faster
		f.mu.Unlock()
		return nil
	}
	f.owing.lasts = true
	t.share(staged) // it is not removed meanwhile
	f.mu.Unlock()
	defer func() { t.warn("removal of a staging file", t.dropStaging(staged)) }()
	stem, err := t.newNote(name)
	if err != nil {
		return err
	}
	taken := false
	c, err := staged.BeginClone(stem+dataSuffix, frozen)
	if err == nil {
		taken, err = f.takeThawed(c, staged)
	}
	if !taken {
		err = errors.Join(err, os.Remove(stem+noteSuffix))
	}
	return err
}

// takeThawed ends the copy of staged, and makes it the staging file; taken is false if that became another one meanwhile, or may be changed.
func (f *File) takeThawed(c *spool.Clone, staged *spool.File) (taken bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.staged != staged || !f.owing.lasts {
		return false, c.GiveUp()
	}
	own, err := c.End()
	if err != nil {
		return false, err
	}
	f.swapStaging(own)
	return true, nil
}

// changesFrom has bytes of the staging file from off on be changed in place, of which none is frozen; the caller holds mu.
func (f *File) changesFrom(off int64) {
	if f.riding.writers == 0 && off < f.staged.Size() {
		f.renameStaging()
	}
}

// renameStaging gives the staging file another name before bytes change that were owed and have arrived: by the name that the journal tells the
// next daemon takes it for what arrived, and removes it. One that has become longer it keeps. The caller holds mu.
func (f *File) renameStaging() {
	t := f.tree
	if f.owesStaged() || f.travelsNow() {
		return
	}
	over := t.takeOver(f.staged)
	if len(over) == 0 {
		return
	}
	before := noteOf(f.staged.Path())
	stem, err := t.newNote(f.name)
	if err == nil {
		if err = f.staged.MoveTo(stem + dataSuffix); err != nil {
			before = stem + noteSuffix
		}
		err = errors.Join(err, os.Remove(before))
	}
	t.warn("renaming a staging file", err) // what is written now may be lost with the daemon, until it is promised
	t.journal.Forget(over...)
}

// swapStaging makes own the file's staging file; the caller holds mu.
func (f *File) swapStaging(own *spool.File) {
	old := f.staged
	f.staged = own
	f.unfreeze()
	f.patch.lost = true // it was not told range by range
	if old != nil {
		f.tree.warn("removal of a staging file", f.tree.dropStaging(old))
	}
}

// revert goes back to what the file owes, for what was changed since is given up: a program was told that it did not
// arrive, or could not be told. The caller holds mu.
func (f *File) revert() {
	d := f.owing.debt
	if f.cannotRevert(d) {
		return
	}
	if f.staged == d.staged {
		f.tree.warn("cutting a staging file", d.staged.Truncate(d.size))
	} else {
		f.tree.share(d.staged)
		f.swapStaging(d.staged)
	}
	f.owing.frozen = d.size
	f.change, f.info, f.torn = d.change, d.info, nil
	f.tail, f.pending, f.placed = math.MaxInt64, backends.Attr{}, false
	f.version = f.tree.staged.Add(1)
}

// keepUnsealed keeps, for a person to look at, what was changed since the content that the file owes, because of reason.
func (f *File) keepUnsealed(reason error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.owing.debt == nil || !f.unsealedLocked() || f.staged == nil {
		return reason
	}
	kept := keptAs(f.tree.options.Quarantine, filepath.Base(f.staged.Path()))
	var copied *spool.File
	err := makeDir(f.tree.options.Quarantine)
	if err == nil {
		copied, err = f.staged.Clone(kept, f.owing.frozen)
	}
	if err == nil {
		told := note{Name: f.name, Kept: time.Now(), Reason: reason.Error(), Missing: copied.Missing(0, copied.Size())}
		err = cmp.Or(keepNote(noteOf(kept), told), copied.Sync(), copied.Close(), syncPath(f.tree.options.Quarantine))
	}
	f.tree.lastError.Store(&reason)
	f.tree.log.Error("content could not be written down", "name", f.name, "kept", kept, "err", cmp.Or(err, reason))
	return fmt.Errorf("%q is kept as %s: %w", f.name, kept, cmp.Or(err, reason))
}
