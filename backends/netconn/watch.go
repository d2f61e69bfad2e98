// Package netconn gives a network connection what no protocol library here brings along: it dies of silence instead of
// waiting in it.
//
// A Conn is a net.Conn with a Watch on it. Whoever awaits something of the other side says so with Expect and takes it
// back with Done; while anything is awaited, less than Floor bytes within the timeout count as no progress, and the
// socket is closed under everybody who hangs on it. When nothing is awaited a connection may be silent for ever. Deadlines
// therefore roll: a transfer may last for hours, a silence may not. A context can be bound to a Conn and closes the
// socket when it ends.
//
// A Watch can also stand alone, for one of several streams within a connection.
//
// Locks: a Watch's own lock is a leaf; nothing is called under it.
package netconn

import (
	"math"
	"sync"
	"time"
)

// Floor is the number of bytes that must come within one timeout while something is awaited.
const Floor = 1024

// Ticket is one thing that is awaited. The zero value is ready for Expect; a Ticket is used once.
type Ticket struct {
	Owner any // whatever the one who waits wants to find again; not looked at

	prev, next *Ticket
	listed     bool
	end        int64 // of the request in the stream of bytes written; MaxInt64 until it is written
}

// Watch tells when nothing comes of what has been awaited longest. Tickets are looked at in the order in which they were
// expected, because that is the order in which a server of one thread answers: the oldest must be answered next, and
// what comes in is a sign of life for the oldest only.
type Watch struct {
	timeout   time.Duration
	delivered func() int64
	stalled   func(oldest *Ticket, overtaken bool)

	mu         sync.Mutex
	head, tail *Ticket
	since      time.Time // of the last sign of life for head
	came       int64     // bytes since then
	seen       int64     // what delivered said when it was asked last
	overtaken  bool      // a younger ticket was answered since head became the oldest
	timer      *time.Timer
	armed      bool
	stopped    bool
}

// NewWatch returns a Watch that calls stalled, in a goroutine of its own and at most once for each ticket, when timeout
// has passed without progress for the oldest ticket. overtaken says that younger ones were answered meanwhile, so that
// the other side is alive. delivered tells how many of the bytes written have reached the other side; it may be nil.
func NewWatch(timeout time.Duration, delivered func() int64, stalled func(oldest *Ticket, overtaken bool)) *Watch {
	return &Watch{timeout: timeout, delivered: delivered, stalled: stalled}
}

// Expect adds t to what is awaited.
func (w *Watch) Expect(t *Ticket) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopped || t.listed {
		return
	}
	t.listed, t.end, t.prev = true, math.MaxInt64, w.tail
	if w.tail != nil {
		w.tail.next = t
		w.tail = t
		return
	}
	w.head, w.tail = t, t
	w.alive()
	w.arm(w.tick(w.timeout))
}

// Sent says that t's request ends at byte end of what was written. Until those bytes are delivered, bytes that leave are
// a sign of life as good as bytes that come: an answer cannot precede its request over a slow line.
func (w *Watch) Sent(t *Ticket, end int64) {
	w.mu.Lock()
	t.end = end
	w.mu.Unlock()
}

// Done says that t was answered or is no longer awaited.
func (w *Watch) Done(t *Ticket) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !t.listed {
		return
	}
	if w.head == t {
		w.alive()
	} else {
		w.overtaken = true
	}
	w.remove(t)
}

// Progress says that n bytes came for t; nil stands for whatever is awaited.
func (w *Watch) Progress(t *Ticket, n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.head == nil || t != nil && t != w.head {
		return
	}
	if w.came += int64(n); w.came >= Floor {
		w.alive()
	}
}

// Stop ends the watch: nothing is awaited and stalled is not called any more.
func (w *Watch) Stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopped = true
	for w.head != nil {
		w.remove(w.head)
	}
	if w.timer != nil {
		w.timer.Stop()
	}
}

// alive begins the time anew. Callers hold mu, as for all that follow.
func (w *Watch) alive() {
	w.since, w.came, w.overtaken = time.Now(), 0, false
}

func (w *Watch) remove(t *Ticket) {
	if t.prev != nil {
		t.prev.next = t.next
	} else {
		w.head = t.next
	}
	if t.next != nil {
		t.next.prev = t.prev
	} else {
		w.tail = t.prev
	}
	t.prev, t.next, t.listed = nil, nil, false
}

// tick is how long to sleep when left is what remains: what leaves must be sampled, what comes tells by itself.
func (w *Watch) tick(left time.Duration) time.Duration {
	if w.delivered != nil {
		left = min(left, w.timeout/4)
	}
	return max(left, time.Millisecond)
}

func (w *Watch) arm(d time.Duration) {
	switch {
	case w.armed:
	case w.timer == nil:
		w.armed, w.timer = true, time.AfterFunc(d, w.look)
	default:
		w.armed = true
		w.timer.Reset(d)
	}
}

// look is the timer's: it sleeps on, or reports the oldest ticket and takes it off the list.
func (w *Watch) look() {
	gone := int64(0)
	if w.delivered != nil {
		gone = w.delivered()
	}
	w.mu.Lock()
	w.armed = false
	if w.stopped || w.head == nil {
		w.mu.Unlock()
		return
	}
	if w.head.end > w.seen && gone-w.seen >= Floor {
		w.alive()
	}
	w.seen = gone
	left := w.timeout - time.Since(w.since)
	if left > 0 {
		w.arm(w.tick(left))
		w.mu.Unlock()
		return
	}
	oldest, overtaken := w.head, w.overtaken
	w.remove(oldest)
	w.alive()
	if w.head != nil {
		w.arm(w.tick(w.timeout))
	}
	w.mu.Unlock()
	w.stalled(oldest, overtaken)
}
