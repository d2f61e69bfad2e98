package cache

import (
	"cmp"
	"context"
	"errors"
	"math"
	"os"
	"slices"

	"pierfs/backends"
	"pierfs/cache/journal"
	"pierfs/cache/spool"
)

// What programs only appended, and was acknowledged, goes behind what others have appended to the file meanwhile: another debt is written
// down in its place, which begins behind that, and only then is anything sent. So a daemon that comes after a crash knows where the
// end belongs. Of an attempt without an answer nothing is sent again: all of it is there, behind what it built on and before what
// others have appended since, or nobody can tell what is whose.

// errMoved ends the sending of a content in whose place another is owed by now.
var errMoved = errors.New("it belongs behind what others have appended")

// deliverBehind has d, whose name bears something else by now than it builds on, go behind that if it may, and else beside it.
func (f *File) deliverBehind(ctx context.Context, j *job, d *debt) (backends.Info, error) {
	switch moved, err := f.goBehind(ctx, j, d); {
	case err != nil:
		return backends.Info{}, err
	case moved:
		return backends.Info{}, errMoved
	}
	return f.deliverBeside(ctx, j, d)
}

// onlyAdds reports whether d is its base, and behind that nothing but what programs have appended, or other attributes alone.
func (d *debt) onlyAdds(base backends.Info) bool {
	return !d.placed && base.Known != 0 && (d.tail == base.Size || d.tail == math.MaxInt64 && d.size == base.Size)
}

// goBehind reports whether another debt is owed in the place of d, which goes on from what the server has by now.
func (f *File) goBehind(ctx context.Context, j *job, d *debt) (bool, error) {
	if !d.onlyAdds(j.base) {
		return false, nil
	}
	now, err := f.tree.ask(ctx, j.name)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil || !mayContinue(j.base, now) || !d.attr.Untimed().Empty() && !isAsAccessible(now, j.base, d.info) {
		return false, err
	}
	from := j.base.Size
	if s := f.lastSent(); s != nil {
		from = s.size
	} else if j.begun {
		return false, nil
	}
	if from < j.base.Size || from > d.size || from > now.Size {
		return false, nil
	}
	if same, err := f.beginsSo(ctx, j, spool.Range{Off: max(0, j.base.Size-tieLength), End: from}); !same || err != nil {
		return false, err
	}
	return f.moveOwed(j, d, now, from)
}

// isAsAccessible reports whether now has the permissions and the owner of one of was, as far as is known. A longer file that has others is
// not taken for one that only grew where permissions are to be set: it may be another, which nobody means to open to others.
func isAsAccessible(now backends.Info, was ...backends.Info) bool {
	return slices.ContainsFunc(was, func(was backends.Info) bool {
		known := now.Known & was.Known
		return (!known.Has(backends.HasPerm) || now.Mode&permBits == was.Mode&permBits) &&
			(!known.Has(backends.HasOwner) || now.UID == was.UID && now.GID == was.GID)
	})
}

// lastSent returns the longest content of which nobody knows whether it came to the server; nil if there is none.
func (f *File) lastSent() *debt {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.owing.sent) == 0 {
		return nil
	}
	return slices.MaxFunc(f.owing.sent, func(a, b *debt) int { return cmp.Compare(a.size, b.size) })
}

// beginsSo reports whether what bears j's name is like j in part, as far as that is here.
func (f *File) beginsSo(ctx context.Context, j *job, part spool.Range) (bool, error) {
	for _, r := range j.staged.Missing(part.Off, part.End) {
		part.Off = r.End
	}
	if part.Len() <= 0 {
		return true, nil
	}
	ours, err := sumOf(j.staged, part)
	if err != nil {
		return false, err
	}
	theirs, err := f.tree.sumAt(ctx, j.name, part)
	return ours == theirs, err
}

// moveOwed writes down that what d holds from its offset from on is owed behind what the server has, which says now of the name, and
// reports whether d is not to be sent any more. What programs have written since and not closed goes along. The times that they set
// are not set: those that the file has are of what others appended, which programs here have not seen.
func (f *File) moveOwed(j *job, d *debt, now backends.Info, from int64) (bool, error) {
	t := f.tree
	if err := f.owing.sealing.take(t.ctx); err != nil {
		return false, err
	}
	defer f.owing.sealing.give()
	f.mu.Lock()
	switch {
	case f.owing.debt != d && f.owing.debt != nil && !f.gone: // which holds what d does
		f.notPaying()
		f.mu.Unlock()
		return true, nil
	case f.owing.debt != d, f.gone, f.stale, f.staged != d.staged, f.placed, f.lent, f.stored, f.owing.into:
		f.mu.Unlock()
		return false, nil
	}
	sent := f.owing.sent
	err := f.moveOwedLocked(d, now, from)
	f.mu.Unlock()
	if err != nil {
		return false, f.fault("publish", err)
	}
	for _, s := range sent {
		t.dropSent(s)
	}
	t.over(d)
	t.attrs.Forget(j.name)
	t.log.Info("others have appended to a file; what is owed goes behind that", "name", j.name, "size", now.Size)
	return true, nil
}

// moveOwedLocked is moveOwed for a caller who holds mu, which keeps programs from writing meanwhile. After an error nothing has changed.
func (f *File) moveOwedLocked(d *debt, now backends.Info, from int64) error {
	t := f.tree
	moved, err := t.newStaging(f.name, now.Size)
	if err != nil {
		return err
	}
	next := &debt{
		staged: moved, size: now.Size + d.size - from, change: d.change, tail: now.Size, delta: now.Size,
		attr: d.attr.Untimed(), info: d.info, began: d.began,
	}
	if d.size == from {
		next.tail, next.delta = math.MaxInt64, math.MaxInt64
	}
	next.info.Size = next.size
	if next.info.ModTime.Before(now.ModTime) {
		next.info.ModTime = now.ModTime
	}
	if err = copyEnd(moved, f.staged, from); err == nil {
		err = moved.Sent() // until the entry is written it is a copy, and nothing to be kept if the daemon ends
	}
	if err == nil {
		err = t.syncStaged(moved)
	}
	base, sent := f.base, f.owing.sent
	if err == nil {
		next.missing = missing(next)
		f.base, f.owing.sent = now, nil
		change := journal.Change{Add: []journal.Entry{f.recordLocked(next)}, Done: []uint64{d.seq}}
		if err = t.enter(&change); err == nil {
			next.seq = change.Add[0].Seq
		}
	}
	if err != nil {
		f.base, f.owing.sent = base, sent
		return errors.Join(err, t.dropStaging(moved))
	}
	next.set = f.attrToSet(next.attr)
	next.set.ModTime, next.set.AccTime = &next.info.ModTime, &next.info.ModTime
	t.share(moved)
	f.swapStaging(moved)
	f.forgetBase()
	f.owing.debt, f.owing.frozen, f.begun = next, next.size, false
	f.notPaying()
	if f.change == d.change {
		f.info = next.info
	}
	f.info.Size, f.onward = moved.Size(), 0
	if f.tail < math.MaxInt64 {
		f.tail += now.Size - from
	}
	f.version, f.moved = t.staged.Add(1), true // the kernel may hold pages of what was before
	return nil
}

// notPaying notes that nothing is being sent; the caller holds mu.
func (f *File) notPaying() { f.owing.paying, f.owing.stop = nil, nil }
