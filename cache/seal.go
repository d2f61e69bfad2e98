package cache

import (
	"cmp"
	"context"
	"math"
	"slices"
	"syscall"
	"time"

	"pierfs/backends"
	"pierfs/cache/journal"
	"pierfs/cache/spool"
)

// promise is Publish with commit = "background": it returns when content and entry are on this machine's disk, and the upload
// follows. What is missing of a content that was changed before its end is fetched first.
func (f *File) promise(ctx context.Context) error { return f.promiseAfter(ctx, f.pay) }

func (f *File) promiseAfter(ctx context.Context, pay func(context.Context) error) error {
	for range maxMoves {
		if f.lacksBase() { // what is owed changes it, and must arrive before the rest of it can be fetched
			if err := pay(ctx); err != nil {
				return err
			}
		}
		err := f.promiseOnce(ctx)
		if backends.Errno(err) != syscall.ESTALE || !f.lacksBase() {
			return err
		}
	}
	return f.fault("publish", errChangedWhileRead)
}

// lacksBase reports whether the file owes a content, and a part of what it builds on is needed that is not here.
func (f *File) lacksBase() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := f.owing.debt
	if d == nil || f.staged == nil || !f.unsealedLocked() || len(f.staged.Missing(0, f.staged.Size())) == 0 {
		return false
	}
	return !f.onlyGrew(&job{base: f.base, tail: min(d.tail, f.tail), placed: true})
}

func (f *File) promiseOnce(ctx context.Context) error {
	if err := f.owing.sealing.take(ctx); err != nil {
		return err
	}
	defer f.owing.sealing.give()
	return f.sealAndWriteDown(ctx)
}

// sealAndWriteDown is promiseOnce for a caller who has the sealing.
func (f *File) sealAndWriteDown(ctx context.Context) error {
	if err := f.settle(); err != nil {
		return f.fault("publish", err)
	}
	if err := f.checkWrites(); err != nil {
		return f.fault("publish", err)
	}
	d, before, err := f.seal()
	if d == nil {
		return err
	}
	if err := f.writeDown(ctx, d, before); err != nil {
		f.unseal(d)
		return f.fault("publish", err)
	}
	f.enqueue()
	if !f.awaitsWriter() {
		f.hurryBehind(before)
	}
	return nil
}

// seal takes the state that is to be owed, and what is owed before it; nil if there is nothing to do.
func (f *File) seal() (d, before *debt, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.kept != nil:
		return nil, nil, fault("publish", f.name, f.kept)
	case !f.unsealedLocked():
		return nil, nil, nil
	case f.stale:
		return nil, nil, fault("publish", f.name, changedElsewhere)
	case f.torn != nil:
		return nil, nil, f.torn
	}
	if err := f.stageLocked(); err != nil { // only attributes may have changed
		return nil, nil, fault("publish", f.name, err)
	}
	return f.sealAs(f.staged)
}

// sealAs is seal of staged, which holds what the file does; the caller holds mu.
func (f *File) sealAs(staged *spool.File) (d, before *debt, err error) {
	d = &debt{staged: staged, size: staged.Size(), change: f.change, tail: f.tail, placed: f.placed, delta: f.tail, attr: f.pending, info: f.info, began: time.Now()}
	d.info.Size = d.size
	if before = f.owing.debt; before != nil {
		d.follow(before)
	}
	d.set = f.attrToSet(d.attr)
	if d.set.ModTime == nil { // it may travel hours later
		d.set.ModTime = &d.info.ModTime
	}
	if d.set.AccTime == nil { // else SFTP must be asked what it is, for it sets both times or none
		d.set.AccTime = d.set.ModTime
	}
	if staged == f.staged { // else it is the debt's alone
		f.tree.share(d.staged)
		f.owing.frozen = d.size
	}
	f.tail, f.pending, f.placed = math.MaxInt64, backends.Attr{}, false
	return d, before, nil
}

// unseal takes d back, which could not be written down. Everything is still here, and unpublished.
func (f *File) unseal(d *debt) {
	f.mu.Lock()
	f.tail = min(f.tail, d.delta)
	f.pending = merge(d.attr, f.pending)
	f.placed = f.placed || d.placed
	f.mu.Unlock()
	f.tree.warn("removal of a staging file", f.tree.dropStaging(d.staged))
}

// writeDown makes d durable here, in place of before, which may be nil; the caller has the sealing.
func (f *File) writeDown(ctx context.Context, d, before *debt) error {
	if !f.sendsEnd(d) {
		if err := f.fill(ctx, d.staged, 0, d.size); err != nil {
			return err
		}
	}
	d.missing = missing(d) // readers fetch more of it at any time, and not before the next sync is that on the disk
	if before == nil || before.staged != d.staged || d.delta < math.MaxInt64 || !slices.Equal(d.missing, before.missing) {
		if err := f.tree.syncStaged(d.staged); err != nil {
			f.lost(d, err)
			return err
		}
	}
	change := journal.Change{Add: []journal.Entry{f.record(d)}}
	if before != nil {
		change.Done = []uint64{before.seq}
	}
	if err := f.tree.enter(&change); err != nil {
		return err
	}
	f.mu.Lock()
	d.seq = change.Add[0].Seq
	f.owing.debt = d
	d.forget(func(e *debt) bool { return e == f.owing.paying || slices.Contains(f.owing.sent, e) })
	f.owing.tries, f.owing.failed = 0, nil
	f.mu.Unlock()
	if before != nil {
		f.tree.over(before)
	}
	return nil
}

// lost notes that d could not be brought to the disk. The kernel tells that once (fsync(2), "EIO"): the next sync of the same file
// succeeds without what is lost, so that nothing of it is acknowledged until the program has begun anew.
func (f *File) lost(d *debt, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if d.staged == f.staged {
		f.torn = fault("publish", f.name, err)
	}
}

// sendsEnd reports whether d only adds to what the server has, so that the rest need not be here.
func (f *File) sendsEnd(d *debt) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.onlyGrew(&job{base: f.base, tail: d.tail, placed: true})
}

// takeSealings takes the sealings of files, in an order that all callers share; the caller has their turns.
func takeSealings(ctx context.Context, files ...*File) (release func(), err error) {
	files = slices.DeleteFunc(files, func(f *File) bool { return f == nil })
	slices.SortFunc(files, func(a, b *File) int { return cmp.Compare(a.id, b.id) })
	files = slices.Compact(files)
	for i, f := range files {
		if err := f.owing.sealing.take(ctx); err != nil {
			giveSealings(files[:i])
			return nil, err
		}
	}
	return func() { giveSealings(files) }, nil
}

func giveSealings(files []*File) {
	for _, f := range files {
		f.owing.sealing.give()
	}
}
