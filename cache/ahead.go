package cache

import (
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"pierfs/cache/spool"
)

// Content is fetched ahead of sequential readers: for each of them as much as its window holds, which grows with what it has read
// onward; for all readers of a tree together four times what the server brings within a round trip, as measured, block by block in
// turn; for all trees of a daemon what their Budget allows. Who jumps gets nothing that he did not ask for, until having all of the
// file costs no more than going on like that.

const (
	// firstWindow is how far ahead of a sequential reader may be fetched before anything is known of the way, minWindow in any case,
	// maxWindow where it is long and wide: enough for 200 MB/s at 80 ms.
	firstWindow = 8 << 20
	minWindow   = 512 << 10
	maxWindow   = 32 << 20
	// streamWindow is the same where the server can only stream.
	streamWindow = 8 << 20
	// windowGrowth is how many times what a reader has read onward is fetched ahead of it.
	windowGrowth = 4
	// maxCursors is how many sequential readers of one file are told apart.
	maxCursors = 8
	// keepBehind is what stays behind a reader when the cache is full: reads arrive out of order.
	keepBehind = 4 << 20

	// manyJumps is after how many reads that hit nothing a piece of probeSize is fetched, to see how fast that comes.
	manyJumps = 6
	probeSize = 4 << 20
	// wholeSize bounds what is fetched of a file because its readers jump.
	wholeSize = 1 << 30
)

// DefaultBudget is what all trees of a daemon may fetch ahead at a time, in bytes.
const DefaultBudget = 128 << 20

// Budget is how many bytes may be on their way ahead of readers, of all trees that share it. A nil Budget has no bound.
type Budget struct {
	limit int64
	taken atomic.Int64
}

// NewBudget returns a Budget of n bytes.
func NewBudget(n int64) *Budget { return &Budget{limit: n} }

func (b *Budget) take(n int64) bool {
	if b == nil || b.taken.Add(n) <= b.limit {
		return true
	}
	b.taken.Add(-n)
	return false
}

func (b *Budget) give(n int64) {
	if b != nil {
		b.taken.Add(-n)
	}
}

// flight is what is being fetched into a File's copy, and what its readers are likely to want next. Guarded by File.mu.
type flight struct {
	flying  spool.Ranges
	landed  chan struct{} // closed when something lands; nil while nobody waits
	cursors []cursor      // latest first
	pinned  bool          // all of the copy must stay: the server's file is about to go
	unread  spool.Ranges  // what was fetched ahead of readers, or is being fetched, and not yet read
	jumps   int           // reads that went on nowhere and found nothing
	whole   bool          // all of it is worth having
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
	window int64 // how much is fetched ahead of it
	run    int64 // how much it has read onward
	ahead  bool  // what is in its window and missing is to be fetched
}

// follow returns the sequential reader that reads r now, moved on, with a window of limit at most; nil if there is none.
func (l *flight) follow(r spool.Range, limit int64) *cursor {
	for i, c := range l.cursors {
		// Read-ahead of the kernel comes in pieces and not always in order.
		if r.Off > c.next+c.window || r.End < c.next-c.window {
			continue
		}
		if r.End > c.next {
			c.run += r.End - c.next
			c.next, c.window = r.End, min(max(2*c.window, windowGrowth*c.run), limit)
		}
		copy(l.cursors[1:], l.cursors[:i])
		l.cursors[0] = c
		return &l.cursors[0]
	}
	return nil
}

// begin notes a reader that may turn out to be sequential.
func (l *flight) begin(c cursor) {
	l.cursors = append([]cursor{c}, l.cursors[:min(len(l.cursors), maxCursors-1)]...)
}

// stop forgets what was to be fetched ahead, until somebody reads again.
func (l *flight) stop() {
	for i := range l.cursors {
		l.cursors[i].ahead = false
	}
	l.whole = false
}

// wanted returns what is to be fetched ahead, of the latest reader first.
func (l *flight) wanted(size int64) (all []spool.Range) {
	for _, c := range l.cursors {
		if c.ahead {
			all = append(all, spool.Range{Off: c.next, End: min(c.next+c.window, size)})
		}
	}
	if l.whole {
		all = append(all, spool.Range{Off: 0, End: size})
	}
	return all
}

// advance notes that want is being read and returns what should be fetched ahead of it; empty for a reader that jumps.
func (f *File) advance(want spool.Range) spool.Range {
	limit := f.tree.aheads.share()
	if !f.tree.options.Spool.HasRoom() {
		limit = min(limit, firstWindow) // more is dropped to make room before it is read
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if c := f.flight.follow(want, limit); c != nil {
		c.ahead = true
		return spool.Range{Off: c.next, End: c.next + c.window}
	}
	fresh := cursor{next: want.End, window: f.tree.block(), run: want.Len()}
	fresh.ahead = want.Off == 0 // a reader that begins at the beginning is likely to go on
	if f.copied != nil && len(f.copied.Missing(want.Off, want.Len())) > 0 {
		f.jumped(&fresh)
	}
	f.flight.begin(fresh)
	switch {
	case f.flight.whole:
		return spool.Range{Off: 0, End: f.base.Size}
	case fresh.ahead:
		return spool.Range{Off: want.End, End: want.End + fresh.window}
	}
	return spool.Range{}
}

// jumped notes a read that went on nowhere, found nothing, and begins c. There are likely to be as many of them to come as there
// were; once both would take as long as all that is missing, that is fetched. How fast it would come is tried first if nobody knows.
// The caller holds mu.
func (f *File) jumped(c *cursor) {
	f.flight.jumps++
	trip, rate := f.tree.aheads.flow.told()
	missing := f.base.Size - f.copied.Real()
	switch {
	case f.flight.jumps < manyJumps || f.flight.whole || missing > wholeSize:
	case rate == 0 && f.flight.jumps == manyJumps:
		c.window, c.ahead = probeSize, true
	case rate > 0 && 2*time.Duration(f.flight.jumps)*trip > time.Duration(float64(missing)/rate*float64(time.Second)):
		f.flight.whole = true
	}
}

// fetchAhead starts to fetch what advance has found, as far as there is room for more.
func (f *File) fetchAhead(_ *spool.File, want spool.Range) {
	if want.Len() > 0 {
		f.tree.aheads.join(f)
		f.tree.pull()
	}
}

// aheads is the fetching ahead of all readers of a Tree. Lock order: aheads.mu, Tree.mu, File.mu.
type aheads struct {
	flow   flow
	budget *Budget

	mu     sync.Mutex
	flying int64   // bytes that are being fetched ahead
	ring   []*File // those for which more is to be fetched, who has waited longest first
}

// share is how far ahead one reader may be fetched beside the others.
func (a *aheads) share() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return max(a.flow.window()/int64(max(len(a.ring), 1)), 1<<20)
}

// join puts f at the end of the ring, if it is not in it.
func (a *aheads) join(f *File) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !slices.Contains(a.ring, f) {
		a.ring = append(a.ring, f)
	}
}

// pull starts fetches, a block of each file in turn, until enough is on its way.
func (t *Tree) pull() {
	a := &t.aheads
	a.mu.Lock()
	defer a.mu.Unlock()
	for window := a.flow.window(); len(a.ring) > 0 && a.flying < window; {
		f := a.ring[0]
		a.ring = a.ring[1:]
		if !a.budget.take(t.block()) {
			a.ring = append(a.ring, f)
			return // whoever reads next asks again
		}
		copied, r := f.claimAhead()
		if r.Len() == 0 || !t.begin() {
			a.budget.give(t.block())
			if r.Len() > 0 {
				f.land(copied, r)
			}
			continue // and out of the ring, until somebody reads
		}
		a.ring = append(a.ring, f)
		a.flying += r.Len()
		go func() { // ends with the fetch, which the backend's deadlines bound, or with the Tree
			defer t.work.Done()
			f.fetchBlock(copied, r)
			a.mu.Lock()
			a.flying -= r.Len()
			a.mu.Unlock()
			a.budget.give(t.block())
			t.pull()
		}()
	}
}

// claimAhead claims the next block that is to be fetched ahead of the file's readers; an empty one if there is none.
func (f *File) claimAhead() (*spool.File, spool.Range) {
	f.mu.Lock()
	copied, size := f.copied, f.base.Size
	wanted := f.flight.wanted(size)
	f.mu.Unlock()
	if copied == nil {
		return nil, spool.Range{}
	}
	for _, want := range wanted {
		want.End = min(want.End, copied.Size())
		if want.Len() <= 0 {
			continue
		}
		if r, _, err := f.claim(copied, want); err == nil && r.Len() > 0 {
			return copied, r
		}
	}
	return copied, spool.Range{}
}

// fetchBlock fetches the claimed r ahead of readers. An error is the reader's who comes for these bytes: nothing has become real.
// Nothing more is asked for until then: a server that is away fails faster than we ask.
func (f *File) fetchBlock(copied *spool.File, r spool.Range) {
	f.mu.Lock()
	if f.copied == copied {
		f.flight.unread.Add(r) // before anything of it is here, and so before anybody reads it
	}
	f.mu.Unlock()
	if f.fetchInto(f.tree.ctx, copied, r) == nil {
		f.tree.counters.prefetched.Add(r.Len())
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.copied == copied {
		f.flight.unread.Remove(r)
		f.flight.stop()
	}
}

// flow is how fast content comes, and how long one fetch takes at least, as measured. The zero value knows nothing.
type flow struct {
	mu     sync.Mutex
	trip   time.Duration // the shortest fetch of late; 0 is not known
	tripAt time.Time
	rates  [rateSamples]float64 // bytes a second, while much was on its way; 0 is not known
	next   int                  // of rates

	flying int64 // bytes on their way
	most   int64 // the most of them since since
	since  time.Time
	came   int64
}

const (
	// tripAge is how long the shortest fetch counts.
	tripAge = 10 * time.Second
	// rateSamples is how many samples of the rate count, each of two round trips and sampleTime at least: content comes in bursts.
	rateSamples = 8
	sampleTime  = 10 * time.Millisecond
	// leeway is what the window holds besides round trips: this machine is not always at hand when something has come.
	leeway = 25 * time.Millisecond
)

// begin notes that n bytes are asked for; the func that it returns notes that they have come, or have not.
func (w *flow) begin(n int64) (end func(ok bool)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	began := time.Now()
	if w.flying == 0 {
		w.since, w.came, w.most = began, 0, 0
	}
	w.flying += n
	w.most = max(w.most, w.flying)
	return func(ok bool) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.flying -= n
		if ok {
			w.came += n
			w.sample(time.Now(), began)
		}
	}
}

// sample learns from a fetch that began at began and has ended now. A rate counts if so much was asked for that no more could
// have come, or if it is the best one. The caller holds mu.
func (w *flow) sample(now, began time.Time) {
	took := max(now.Sub(began), time.Microsecond)
	if w.trip == 0 || took <= w.trip || now.Sub(w.tripAt) > tripAge {
		w.trip, w.tripAt = took, now
	}
	elapsed := now.Sub(w.since)
	if elapsed < max(2*w.trip, sampleTime) {
		return
	}
	rate, best := float64(w.came)/elapsed.Seconds(), slices.Max(w.rates[:])
	if rate > best && best > 0 || w.most >= w.windowOf(best)/4 {
		w.rates[w.next] = rate
		w.next = (w.next + 1) % rateSamples
	}
	w.since, w.came, w.most = now, 0, w.flying
}

// told returns the shortest time of a fetch, and the rate; 0 is not known.
func (w *flow) told() (trip time.Duration, rate float64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.trip, slices.Max(w.rates[:])
}

// window is how much is worth having on its way: what comes within four round trips and a little more. If that much comes only
// because no more was asked for, or the way gets wider by further channels, it grows fourfold at once.
func (w *flow) window() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.windowOf(slices.Max(w.rates[:]))
}

func (w *flow) windowOf(rate float64) int64 {
	if rate == 0 {
		return firstWindow
	}
	return min(max(int64(rate*(4*w.trip+leeway).Seconds()), minWindow), maxWindow)
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

// block is what is fetched at a time: about what one request of the backend may fetch, and a power of two. The kernel keeps a local
// file that is written in aligned blocks of such a size in larger pieces of memory, and finds them faster.
func (t *Tree) block() int64 {
	most := max(32<<10, min(t.Caps().MaxRead, 1<<20))
	return 1 << bits.Len(uint(most-1))
}

// blocks widens r to whole blocks.
func (t *Tree) blocks(r spool.Range) spool.Range {
	b := t.block()
	return spool.Range{Off: r.Off / b * b, End: (r.End + b - 1) / b * b}
}
