package cache

import "pierfs/cache/spool"

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
	pinned  bool          // all of the copy must stay: the server's file is about to go
	unread  spool.Ranges  // what was fetched ahead of readers, and not yet read
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
			if f.fetchInto(t.ctx, copied, r) == nil {
				f.fetchedAhead(copied, r)
			}
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
