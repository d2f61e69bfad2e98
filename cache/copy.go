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

const (
	// maxWindow is how far ahead of a sequential reader is fetched: enough for 100 MB/s at 80 ms.
	maxWindow = 8 << 20
	// maxAheads bounds the fetches ahead of readers in one tree, a block each.
	maxAheads = 128
	// maxCursors is how many sequential readers of one file are told apart.
	maxCursors = 8
	// keepBehind is what stays behind a reader when the cache is full: reads arrive out of order.
	keepBehind = 4 << 20
)

// flight is what is being fetched into a File's copy, and what its readers are likely to want next. Guarded by File.mu.
type flight struct {
	flying  spool.Ranges
	landed  chan struct{} // closed when something lands; nil while nobody waits
	cursors []cursor      // latest first
	counted int64         // bytes of the copy that are in Tree.copied
	pinned  bool          // all of it must stay: the server's file is about to go
}

// wake tells those who wait that something has landed, or never will.
func (l *flight) wake() {
	if l.landed != nil {
		close(l.landed)
		l.landed = nil
	}
}

// cursor is one sequential reader.
type cursor struct {
	next   int64 // where it goes on
	window int64 // how much is fetched ahead of it; doubles while it goes on
}

// follow returns the sequential reader that reads r now, moved on; false if there is none.
func (l *flight) follow(r spool.Range) (cursor, bool) {
	for i, c := range l.cursors {
		// Read-ahead of the kernel comes in pieces and not always in order.
		if r.Off > c.next+c.window || r.End < c.next-c.window {
			continue
		}
		if r.End > c.next {
			c.next, c.window = r.End, min(2*c.window, maxWindow)
		}
		copy(l.cursors[1:], l.cursors[:i])
		l.cursors[0] = c
		return c, true
	}
	return cursor{}, false
}

// begin notes a reader that may turn out to be sequential.
func (l *flight) begin(c cursor) {
	l.cursors = append([]cursor{c}, l.cursors[:min(len(l.cursors), maxCursors-1)]...)
}

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

// advance notes that want is being read and returns what should be fetched ahead of it; empty for a reader that jumps.
func (f *File) advance(want spool.Range) spool.Range {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c, ok := f.flight.follow(want); ok {
		return spool.Range{Off: c.next, End: c.next + c.window}
	}
	fresh := cursor{next: want.End, window: f.tree.block()}
	f.flight.begin(fresh)
	if want.Off == 0 { // a reader that begins at the beginning is likely to go on
		return spool.Range{Off: want.End, End: want.End + fresh.window}
	}
	return spool.Range{}
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

// fetchAhead starts to fetch what is missing of want, as far as there is room for more fetches.
func (f *File) fetchAhead(copied *spool.File, want spool.Range) {
	t := f.tree
	want.End = min(want.End, copied.Size())
	for want.Len() > 0 {
		if t.aheads.Add(1) > maxAheads {
			t.aheads.Add(-1)
			return
		}
		r, _, _ := f.claim(copied, want)
		if r.Len() == 0 || !t.begin() {
			t.aheads.Add(-1)
			f.land(copied, r)
			return
		}
		want.Off = r.End // never twice: a server that is away fails faster than we ask
		go func() {      // ends with the fetch, which the backend's deadlines bound, or with the Tree
			defer t.work.Done()
			defer t.aheads.Add(-1)
			// An error is the reader's who comes for these bytes: nothing has become real.
			_ = f.fetchInto(t.ctx, copied, r)
		}()
	}
}

// begin counts one more goroutine of the Tree; false if it is closed.
func (t *Tree) begin() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.closed {
		t.work.Add(1)
	}
	return !t.closed
}

// block is what one request of the backend may fetch.
func (t *Tree) block() int64 { return max(32<<10, min(int64(t.Caps().MaxRead), 1<<20)) }

// blocks widens r to whole blocks.
func (t *Tree) blocks(r spool.Range) spool.Range {
	b := t.block()
	return spool.Range{Off: r.Off / b * b, End: (r.End + b - 1) / b * b}
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
