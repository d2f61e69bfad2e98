package cache

import (
	"context"
	"sync/atomic"

	"pierfs/backends"
)

// An upload whose line breaks goes on where the server had it for certain (backends.Writer.Acknowledged). The next attempt gathers in a temporary
// file of its own, into which the server copies that much of the former one: what the broken session still has under way meets the former
// file alone, which is removed once it has been copied.
//
// What is left is known to the Tree that left it and to nobody else, for one content that has not changed since. Its name stands among the litter all
// the while, so that it is swept when it has served, or by the next daemon. Wherever anything is in doubt all is sent anew.

const (
	// worthLeaving is how much of a content is worth to be left: less is sent as soon as copied.
	worthLeaving = 4 << 20
	// takeOverPiece is how much a server is to copy at a time, so that it answers within the timeout of the connection.
	takeOverPiece = 16 << 20
	// maxTakeOvers is how often it is tried to take the same over.
	maxTakeOvers = 3
)

// remainder is the beginning of a content that an attempt has left under a temporary name.
type remainder struct {
	temp  string
	size  int64
	tries int // to take it over that ended with the connection
}

// remains is what the last attempt to send one content has left, nil if nothing. Who takes it out uses it or drops it.
type remains struct{ atomic.Pointer[remainder] }

// breakOff ends an attempt to send j, because of err: what the server has of it under temp is left for the next one, if enough is certain, else it
// is removed.
func (f *File) breakOff(ctx context.Context, j *job, temp string, certain int64, err error) {
	t := f.tree
	if certain >= worthLeaving && mayPass(err) && f.stillHolds(j) && t.keepLeft(temp) {
		t.log.Info("an upload broke off, and will go on", "name", j.name, "size", certain, "of", j.size, "err", err)
		t.dropLeft(j.left.Swap(&remainder{temp: temp, size: certain}))
		return
	}
	t.removeTemp(ctx, temp)
	if backends.ClassOf(err) != backends.Final {
		t.removeAgain(temp)
	}
	t.freeTemp(temp)
}

// mayPass reports whether err is one of the line, and not of the content.
func mayPass(err error) bool {
	class := backends.ClassOf(err)
	return class == backends.Transient || class == backends.Lost
}

// stillHolds reports whether no byte of j's content has changed since its sending began.
func (f *File) stillHolds(j *job) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.notice()
	if f.riding.on == j.staged { // a program may write to it past us
		return false
	}
	if j.owed.IsZero() {
		return f.change == j.change
	}
	d := f.owing.debt
	return d == nil || d.staged != j.staged || !d.altered
}

// keepLeft writes down that a temporary name, which stays reserved, is left on the server, and reports whether there was room for that.
func (t *Tree) keepLeft(temp string) bool {
	kept := true
	for _, name := range t.reserved(temp) {
		kept = kept && t.note(name)
	}
	return kept
}

// dropLeft has what is left removed by and by; nil is nothing.
func (t *Tree) dropLeft(l *remainder) {
	if l == nil {
		return
	}
	t.removeAgain(l.temp)
	t.freeTemp(l.temp)
}

// create is Create of a place for j's content, which begins with what an attempt before has left; from tells how much that is.
func (f *File) create(ctx context.Context, j *job, name string, mode backends.WriteMode) (w backends.Writer, from int64, err error) {
	t := f.tree
	l := j.left.Swap(nil)
	aside := name != j.name || mode.TempName != "" && !mode.Exclusive // else a failure would cost the name
	if l != nil && !(aside && t.Caps().TakeOver && l.size <= j.size && f.stillHolds(j)) {
		t.dropLeft(l)
		l = nil
	}
	if l != nil {
		mode.Left = l.temp
	}
	if w, err = t.backend.Create(ctx, name, mode); err != nil || l == nil {
		j.left.Store(l)
		return w, 0, err
	}
	copied, err := takeOver(ctx, w, l.size)
	if err == nil {
		t.removeTemp(ctx, l.temp)
		t.dropLeft(l)
		return w, l.size, nil
	}
	_ = w.Abort() // its error would add nothing to this one
	// A line that breaks while a server copies says nothing against what is left, unless it is the copying that ends the session.
	if l.tries++; backends.CauseOf(err) == backends.CauseConnLost && copied > 0 && l.tries < maxTakeOvers {
		j.left.Store(l)
		return nil, 0, err
	}
	t.log.Info("an upload cannot go on and begins anew", "name", j.name, "err", err)
	t.removeTemp(ctx, l.temp) // it may fill a server's disk
	t.dropLeft(l)
	if mayPass(err) {
		return nil, 0, err
	}
	mode.Left = ""
	w, err = t.backend.Create(ctx, name, mode)
	return w, 0, err
}

// takeOver has the server copy the first size bytes of what is left, and returns how many it has copied.
func takeOver(ctx context.Context, w backends.Writer, size int64) (copied int64, err error) {
	for copied < size {
		n := min(takeOverPiece, size-copied)
		if err := w.TakeOver(ctx, copied, n); err != nil {
			return copied, err
		}
		copied += n
	}
	return copied, nil
}

// dropIfReplaced drops what an attempt to send d has left, if d is not owed any more: nobody will send it again.
func (f *File) dropIfReplaced(d *debt) {
	f.mu.Lock()
	owed := f.owing.debt == d
	f.mu.Unlock()
	if !owed {
		f.tree.dropLeft(d.left.Swap(nil))
	}
}
