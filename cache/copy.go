package cache

import (
	"context"
	"errors"
	"io"
	"os"
	"syscall"

	"pierfs/backends"
	"pierfs/cache/spool"
)

// copy returns the local copy of base, with what is kept of it from before; nil if there can be none.
func (f *File) copy() *spool.File {
	t := f.tree
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.copied != nil || t.options.Spool == nil || f.shut == syscall.EBADF || t.ctx.Err() != nil {
		return f.copied
	}
	copied, err := t.options.Spool.Take(f.name, t.versionOf(f.name, f.base))
	if err != nil {
		t.log.Warn("reading without a local copy", "name", f.name, "err", err)
		return nil
	}
	f.copied = copied
	return copied
}

// versionOf is the version of a content by which it is looked up when it was kept: as the server tells it, and exact. What
// merely can be the same, as Info.SameVersion says, is not believed of a content that nobody has open.
func (t *Tree) versionOf(name string, i backends.Info) spool.Version {
	i = t.kept.asTold(name, i)
	v := spool.Version{Size: i.Size, ID: i.ID, Unit: i.TimeUnit}
	if i.Known.Has(backends.HasSize | backends.HasModTime) {
		v.ModTime = i.ModTime
	}
	return v
}

// openKept opens name if all of its content is kept here, of the very version that the server has, which is asked for only
// where what is known is older than its lifetime: nothing is opened at the server. Nil if it is not so.
func (t *Tree) openKept(ctx context.Context, name string, mode OpenMode, now era) (*File, error) {
	if !mode.Read || mode.Truncate {
		return nil, nil
	}
	if live := t.live(name); live != nil && !live.isHere() || live == nil && !t.options.Spool.Whole(name, spool.Version{}) {
		return nil, nil
	}
	e, err := t.Stat(ctx, name)
	if err == nil {
		err = openable(name, e.Info)
	}
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, nil // an open does not believe in an absence that is only remembered
	case err != nil:
		return nil, err
	}
	if e.TimeUnit > 0 { // it was listed, by the minute or so; asked for alone its time may be exact
		e, err = t.Refresh(ctx, name)
	}
	if err != nil || t.live(name) == nil && !t.options.Spool.Whole(name, t.versionOf(name, e.Info)) {
		return nil, err
	}
	f, err := t.joinOrAdd(name, e, now)
	if err != nil {
		return nil, err
	}
	f.takeKept(ctx)
	return t.opened(ctx, f, mode)
}

// isHere reports whether all of the server's content is here.
func (f *File) isHere() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.staged == nil && (f.whole != nil || f.copied != nil && f.copied.Whole() && f.copied.Size() == f.base.Size)
}

// takeKept takes what is kept of the content.
func (f *File) takeKept(ctx context.Context) {
	if f.isHere() {
		return
	}
	if f.baseInfo().Size > smallFile || f.tree.small.Load() >= smallFiles {
		f.copy()
		return
	}
	if f.fetching.take(ctx) == nil { // else whoever reads takes it
		defer f.fetching.give()
		f.takeSmall()
	}
}

// takeSmall takes the content of a small file from what is kept, if it is there. The caller has the turn to fetch it.
func (f *File) takeSmall() bool {
	t := f.tree
	f.mu.Lock()
	name, base, done := f.name, f.base, f.staged != nil || f.whole != nil
	f.mu.Unlock()
	if done {
		return true
	}
	content, ok := t.options.Spool.Small(name, t.versionOf(name, base))
	if !ok {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.staged == nil && f.whole == nil && f.shut != syscall.EBADF && f.name == name && f.base.SameVersion(base) {
		f.whole = content
		t.small.Add(int64(len(content)))
		f.dropReader()
	}
	return true
}

// dropCopy gives the copy back, to be kept for later or to be removed; the caller holds mu.
func (f *File) dropCopy(keep bool) {
	if f.copied == nil {
		return
	}
	f.tree.counters.wasted.Add(f.wasted())
	f.tree.warn("a cached file", f.copied.Release(keep && !f.stale && !f.gone))
	f.flight.wake()
	f.copied, f.flight = nil, flight{}
}

// giveBackCopy is dropCopy for a Tree that has ended.
func (f *File) giveBackCopy() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dropCopy(true)
}

// readCopy reads from the copy what is there, and fetches what is not, together with what a sequential reader is going to
// want next.
func (f *File) readCopy(ctx context.Context, copied *spool.File, p []byte, off int64) (int, error) {
	if f.tree.streams() {
		return f.readStream(ctx, copied, p, off)
	}
	waited := false
	for first := true; ; first = false {
		want := spool.Range{Off: off, End: min(off+int64(len(p)), copied.Size())}
		if first {
			f.fetchAhead(copied, f.advance(want))
		}
		r, landed, err := f.claim(copied, want)
		switch {
		case err != nil:
			return 0, err
		case landed != nil:
			waited = true
			select {
			case <-landed:
			case <-ctx.Done():
				return 0, ctx.Err()
			}
		case r.Len() > 0:
			waited = true
			err := f.fetchInto(ctx, copied, r)
			if _, local := errors.AsType[localFailure](err); local {
				return f.readThrough(ctx, p, off, f.baseInfo()) // the local disk failed, the server did not
			}
			if err != nil {
				return 0, err
			}
		default:
			n, ok, err := copied.ReadReal(p, off)
			switch {
			case !ok:
				continue // it was dropped in this moment to make room, or has grown
			case err == nil || err == io.EOF:
				f.wasGiven(copied, spool.Range{Off: off, End: off + int64(n)}, waited)
				return n, err
			}
			return f.readThrough(ctx, p, off, f.baseInfo())
		}
	}
}

func (f *File) baseInfo() backends.Info {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.base
}

// claim returns the next range that must be fetched before want can be read, claimed for the caller, or a channel that
// closes when something that others fetch has landed, or neither if all of want is there. The error is errElsewhere.
func (f *File) claim(copied *spool.File, want spool.Range) (spool.Range, <-chan struct{}, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.copied != copied {
		return spool.Range{}, nil, errElsewhere
	}
	missing := copied.Missing(want.Off, want.Len())
	if len(missing) == 0 {
		return spool.Range{}, nil, nil
	}
	for _, m := range missing {
		for free := range f.flight.flying.Missing(m) {
			r := f.tree.blocks(spool.Range{Off: free.Off, End: free.Off + 1})
			r.End = min(r.End, copied.Size())
			for whole := range f.flight.flying.Missing(r) {
				if whole.Off <= free.Off && free.Off < whole.End {
					f.flight.flying.Add(whole)
					return whole, nil, nil
				}
			}
		}
	}
	if f.flight.landed == nil {
		f.flight.landed = make(chan struct{})
	}
	return spool.Range{}, f.flight.landed, nil
}

// fetchInto fetches the claimed range r into copied.
func (f *File) fetchInto(ctx context.Context, copied *spool.File, r spool.Range) error {
	defer f.land(copied, r)
	reader, err := f.source(ctx)
	if err != nil {
		return err
	}
	return f.fetch(ctx, reader, copied, r)
}

// land ends the flight of r, wakes who waits for it, and makes room around it if there is more than the cache may hold.
func (f *File) land(copied *spool.File, r spool.Range) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.copied != copied {
		return // dropped meanwhile, with all its flights
	}
	f.flight.flying.Remove(r)
	f.flight.wake()
	f.makeRoom(r)
}

// makeRoom drops what lies far from r if the cache holds more than it may, and nothing that nobody has open is left to be
// evicted; the caller holds mu.
func (f *File) makeRoom(r spool.Range) {
	if f.flight.pinned || f.lent || f.tree.options.Spool.HasRoom() {
		return
	}
	behind := spool.Range{Off: 0, End: r.Off - firstWindow - keepBehind}
	ahead := spool.Range{Off: r.End + firstWindow, End: f.copied.Size()}
	for _, old := range []spool.Range{behind, ahead} {
		if old.Len() > 0 {
			f.tree.warn("making room in the cache", f.copied.Drop(old))
		}
	}
}
