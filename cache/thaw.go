package cache

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"time"

	"pierfs/backends"
	"pierfs/cache/spool"
)

// thaw gives the file a staging file of its own before bytes from off on are changed, if they belong to a debt; the caller
// holds mu.
func (f *File) thaw(off int64) error {
	if f.staged == nil || f.riding.writers > 0 {
		return nil
	}
	if off >= f.owing.frozen {
		if off < f.staged.Size() {
			f.renameStaging()
		}
		return nil
	}
	t := f.tree
	stem, err := t.newNote(f.name)
	if err != nil {
		return err
	}
	own, err := f.staged.CloneWithin(stem + dataSuffix)
	if err != nil {
		return errors.Join(err, os.Remove(stem+noteSuffix))
	}
	f.swapStaging(own)
	return nil
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
	f.staged, f.owing.frozen = own, 0
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
	copied, err := f.staged.Clone(kept)
	if err == nil {
		told := note{Name: f.name, Kept: time.Now(), Reason: reason.Error(), Missing: copied.Missing(0, copied.Size())}
		err = cmp.Or(keepNote(noteOf(kept), told), copied.Sync(), copied.Close())
	}
	f.tree.lastError.Store(&reason)
	f.tree.log.Error("content could not be written down", "name", f.name, "kept", kept, "err", cmp.Or(err, reason))
	return fmt.Errorf("%q is kept as %s: %w", f.name, kept, cmp.Or(err, reason))
}
