package cache

import (
	"sync/atomic"

	"pierfs/cache/spool"
)

// counters count what a Tree's files were read, since it was made. What the kernel answers by itself, from its pages or a file
// that it was lent, is not among it.
type counters struct{ hits, misses, fromCache, fromServer, prefetched, wasted atomic.Int64 }

// gave notes that a reader was given n bytes, and whether it waited for the server.
func (c *counters) gave(n int, waited bool) {
	if waited {
		c.misses.Add(1)
		return
	}
	c.hits.Add(1)
	c.fromCache.Add(int64(n))
}

// fetched notes that n bytes of content came from the server.
func (c *counters) fetched(n int) { c.fromServer.Add(int64(n)) }

// Reading is what was read through a Tree since it was made, and what is kept of it.
type Reading struct {
	Hits       int64 // reads that were answered from what was here
	Misses     int64 // reads that waited for the server
	FromCache  int64 // bytes that hits were given
	FromServer int64 // bytes of content that came from the server
	Prefetched int64 // bytes among these that were fetched ahead of a reader
	Wasted     int64 // bytes among those that nobody had read when their file was closed or room was made

	Kept spool.Usage // what is kept now
}

// Reading tells of what was read.
func (t *Tree) Reading() Reading {
	c := &t.counters
	return Reading{
		Hits: c.hits.Load(), Misses: c.misses.Load(), FromCache: c.fromCache.Load(), FromServer: c.fromServer.Load(),
		Prefetched: c.prefetched.Load(), Wasted: c.wasted.Load(), Kept: t.options.Spool.Usage(),
	}
}

// noteAhead notes that r was fetched ahead of a reader; the caller holds mu.
func (f *File) noteAhead(r spool.Range) {
	f.tree.counters.prefetched.Add(r.Len())
	f.flight.unread.Add(r)
}

// wasGiven notes that a reader was given r, and whether it waited for it.
func (f *File) wasGiven(copied *spool.File, r spool.Range, waited bool) {
	f.tree.counters.gave(int(r.Len()), waited)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.copied == copied {
		f.flight.unread.Remove(r)
	}
}

// wasted returns how much was fetched ahead of readers and never read by them; what is still to come is not. The caller holds mu.
func (f *File) wasted() (n int64) {
	for unread := range f.flight.unread.All() {
		for came := range f.flight.flying.Missing(unread) {
			n += came.Len()
		}
	}
	return n
}
