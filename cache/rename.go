package cache

import (
	"context"
	"errors"
	"os"
	"syscall"

	"pierfs/backends"
	"pierfs/cache/journal"
)

// worthStopping is the size from which an upload is broken off whose name is about to go; a shorter one is sooner over than a
// connection is made anew.
const worthStopping = 4 << 20

// stopSending ends the sending of what the file owes, if that is under way and takes long: its name is about to go.
func (f *File) stopSending() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if d := f.owing.debt; d != nil && d.size >= worthStopping && f.owing.stop != nil {
		f.owing.stop()
	}
}

// forgive drops what the file owes, for its name is no more, once that is written down; the caller has its turn and its sealing. Without
// that the next daemon would send it.
func (f *File) forgive() error {
	f.mu.Lock()
	d := f.owing.debt
	f.mu.Unlock()
	if d != nil {
		if err := f.tree.enter(&journal.Change{Done: []uint64{d.seq}}); err != nil {
			return err
		}
	}
	f.forgiveOver()
	return nil
}

// payAll sends what the file owes and what was changed since; the caller has the turn.
func (f *File) payAll(ctx context.Context) error {
	for f.Dirty() {
		if err := f.promiseAfter(ctx, f.payInTurn); err != nil {
			return err
		}
		if f.isHeld() {
			return f.fault("publish", syscall.EBUSY)
		}
		if err := f.payInTurn(ctx); err != nil {
			return err
		}
		if _, ok := f.Name(); !ok {
			return nil
		}
		if f.isStale() {
			return f.fault("publish", changedElsewhere)
		}
	}
	return nil
}

func (f *File) isHeld() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.owing.held != nil
}

func (f *File) isStale() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stale
}

// takePaid is takeTurns that also keeps the files from coming to owe anything, which they do not when it returns.
func (t *Tree) takePaid(ctx context.Context, files ...*File) (release func(), err error) {
	give, err := takeTurns(ctx, files...)
	if err != nil || !t.options.Background {
		return give, err
	}
	for {
		giveSealing, err := takeSealings(ctx, files...)
		if err != nil {
			give()
			return nil, err
		}
		owing := t.firstOwing(files)
		if owing == nil {
			return func() { giveSealing(); give() }, nil
		}
		giveSealing()
		if err := owing.payAll(ctx); err != nil {
			give()
			return nil, err
		}
	}
}

func (t *Tree) firstOwing(files []*File) *File {
	for _, f := range files {
		if f != nil && f.owes() {
			return f
		}
	}
	return nil
}

// renameOwed renames a file of which the server knows nothing yet: only the name changes under which it will be sent. done is
// false, and nothing has happened, if that is not so.
func (t *Tree) renameOwed(ctx context.Context, from, to string, mode backends.RenameMode) (done bool, err error) {
	f := t.live(from)
	if f == nil || !t.options.Background || !f.isNews() || t.linked(from) || t.linked(to) {
		return false, nil
	}
	if err := f.Publish(ctx); err != nil { // as a rename does that goes to the server
		return false, err
	}
	release, err := t.alone(ctx, from, to)
	if err != nil {
		return false, err
	}
	defer release()
	target := t.live(to)
	f.stopSending()
	give, err := takeTurns(ctx, f, target)
	if err != nil {
		return false, err
	}
	defer give()
	giveSealing, err := takeSealings(ctx, f, target)
	if err != nil {
		return false, err
	}
	defer giveSealing()
	if t.live(from) != f || !f.owes() || !f.isNews() {
		return false, nil
	}
	base, ok, err := t.inTheWay(ctx, to, target, mode)
	if !ok || err != nil {
		return false, err
	}
	if target != nil {
		if err := target.hold(ctx); err != nil {
			return false, err
		}
	}
	if err := t.renameDebt(f, target, to, base); err != nil {
		return false, err
	}
	if target != nil {
		target.forgiveOver()
		t.detach(target)
		target.remove()
	}
	t.unlink(to)
	t.endAllEras(from)
	_, heard := t.listen(ctx)
	t.moved(from, to, heard)
	if base.Known != 0 { // what the server has there for now
		t.attrs.Put(to, base)
	} else {
		t.attrs.PutAbsent(to)
	}
	f.enqueue() // its sending may have been stopped
	return true, nil
}

// isNews reports whether the server knows nothing of the file, for certain.
func (f *File) isNews() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.base.Known == 0 && len(f.owing.sent) == 0 && !f.tried && f.writer == nil && !f.gone && !f.stale && f.published == 0
}

// inTheWay returns what the server has at to, as it tells it, which is to be replaced; ok is false if a file cannot simply be put there.
func (t *Tree) inTheWay(ctx context.Context, to string, target *File, mode backends.RenameMode) (base backends.Info, ok bool, err error) {
	if target != nil && target.Dirty() {
		target.mu.Lock()
		defer target.mu.Unlock()
		if mode == backends.NoReplace {
			return base, false, fault("rename", to, syscall.EEXIST)
		}
		return t.kept.asTold(to, target.base), len(target.owing.sent) == 0 && !target.tried && target.writer == nil && !target.stale, nil
	}
	e, err := t.Refresh(ctx, to)
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, ErrUnlisted):
		return base, true, nil
	case err != nil:
		return base, false, err
	case mode == backends.NoReplace:
		return base, false, fault("rename", to, syscall.EEXIST)
	}
	return t.kept.asTold(to, e.Info), e.Mode.IsRegular(), nil
}

// renameDebt writes down that what f owes is owed to the name to, where base is replaced, and that target owes nothing.
func (t *Tree) renameDebt(f, target *File, to string, base backends.Info) error {
	f.mu.Lock()
	d := f.owing.debt
	f.mu.Unlock()
	e := f.record(d)
	e.Name, e.Appended = journal.Name(to), false
	if base.Known != 0 {
		v := versionOf(base)
		e.Base = &v
	}
	change := journal.Change{Add: []journal.Entry{e}, Done: []uint64{d.seq}}
	if target != nil {
		target.mu.Lock()
		if o := target.owing.debt; o != nil {
			change.Done = append(change.Done, o.seq)
		}
		target.mu.Unlock()
	}
	if err := t.enter(&change); err != nil {
		return fault("rename", to, err)
	}
	t.journal.Forget(d.seq)
	f.mu.Lock()
	defer f.mu.Unlock()
	d.seq = change.Add[0].Seq
	f.base = base
	d.tail, d.placed = 0, true // it has nothing in common with what it replaces
	return nil
}

// forgiveOver is forgive for a file whose entry is over already.
func (f *File) forgiveOver() {
	f.mu.Lock()
	d := f.owing.debt
	f.owing.debt, f.owing.held = nil, nil
	f.sentIsKnown()
	f.mu.Unlock()
	if d != nil {
		f.letGo(d)
		f.tree.queue.wake()
	}
}
