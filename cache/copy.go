package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"pierfs/backends"
	"pierfs/cache/spool"
)

// copy returns the local copy of base, making it if need be; nil if there can be none.
func (f *File) copy() *spool.File {
	t := f.tree
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.copied != nil || t.options.Cache == "" || f.shut == syscall.EBADF {
		return f.copied
	}
	copied, err := spool.Create(filepath.Join(t.options.Cache, fmt.Sprint(t.staged.Add(1))), f.base.Size)
	if err != nil {
		t.log.Warn("reading without a local copy", "name", f.name, "err", err)
		return nil
	}
	f.copied = copied
	return copied
}

// dropCopy gives the copy's disk back; the caller holds mu.
func (f *File) dropCopy() {
	if f.copied == nil {
		return
	}
	f.tree.copied.Add(-f.flight.counted)
	f.tree.warn("removal of a cached file", f.copied.Remove())
	f.flight.wake()
	f.copied, f.flight = nil, flight{}
}

// readCopy reads from the copy what is there, and fetches what is not, together with what a sequential reader is going to
// want next.
func (f *File) readCopy(ctx context.Context, copied *spool.File, p []byte, off int64) (int, error) {
	if f.tree.streams() {
		return f.readStream(ctx, copied, p, off)
	}
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
			select {
			case <-landed:
			case <-ctx.Done():
				return 0, ctx.Err()
			}
		case r.Len() > 0:
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

// land ends the flight of r, wakes who waits for it, counts what was fetched, and makes room around it if that is more
// than the cache may hold.
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

// makeRoom counts what the copy holds, and drops what lies far from r if the cache holds more than it may; the caller holds mu.
func (f *File) makeRoom(r spool.Range) {
	if f.recount() <= f.tree.options.CacheSize || f.flight.pinned {
		return
	}
	behind := spool.Range{Off: 0, End: r.Off - maxWindow - keepBehind}
	ahead := spool.Range{Off: r.End + maxWindow, End: f.copied.Size()}
	for _, old := range []spool.Range{behind, ahead} {
		if old.Len() > 0 {
			f.tree.warn("making room in the cache", f.copied.Drop(old))
		}
	}
	f.recount()
}

// recount brings Tree.copied up to what the copy holds, and returns it; the caller holds mu.
func (f *File) recount() int64 {
	before := f.flight.counted
	f.flight.counted = f.copied.Real()
	return f.tree.copied.Add(f.flight.counted - before)
}

// emptyCache makes the cache directory and removes what a former daemon left there.
func (t *Tree) emptyCache() error {
	dir := t.options.Cache
	if dir == "" {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	left, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range left {
		if err := os.Remove(filepath.Join(dir, entry.Name())); err != nil {
			return err
		}
	}
	return nil
}
