// Package events tells any number of listeners what happens, and waits for none of them.
//
// A Bus keeps the latest events, as many as it was made for. A listener is a place in that row and nothing else, so that thousands of
// them cost no more than one, whether they listen or not. One that is so slow that the events at its place are gone is told how many
// it has lost, and goes on with the oldest that is there.
//
// Bus.mu is a leaf: it is held over memory only.
package events

import (
	"context"
	"errors"
	"sync"
	"time"

	"pierfs/cmd/internal/control"
)

// ErrClosed is the end of all events.
var ErrClosed = errors.New("no event follows")

// Bus is where events are published. New makes one; all its methods may be called from many goroutines, and on nil, where nothing is
// kept and nobody listens.
type Bus struct {
	keep int

	mu     sync.Mutex
	ring   []control.Event // at most keep, the oldest at head
	head   int
	next   uint64 // Seq of the next event; the first has 1
	closed bool
	news   chan struct{} // closed at the next event
}

// New returns a Bus that keeps the latest events, keep of them.
func New(keep int) *Bus { return &Bus{keep: max(keep, 1), next: 1, news: make(chan struct{})} }

// Publish gives e its number and, if it has none, its time. It does not block.
func (b *Bus) Publish(e control.Event) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return
	}
	if e.Time.IsZero() {
		e.Time = time.Now().UTC()
	}
	e.Seq = b.next
	b.next++
	if len(b.ring) < b.keep {
		b.ring = append(b.ring, e)
	} else {
		b.ring[b.head] = e
		b.head = (b.head + 1) % b.keep
	}
	close(b.news)
	b.news = make(chan struct{})
}

// Close ends the waits of all listeners, once they have had what was published.
func (b *Bus) Close() {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed {
		b.closed = true
		close(b.news)
	}
}

// Published returns how many events there were.
func (b *Bus) Published() uint64 {
	if b == nil {
		return 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.next - 1
}

// Listener is a place among the events. It is used by one goroutine at a time, and needs no closing.
type Listener struct {
	bus *Bus
	at  uint64 // Seq of the event that comes next
}

// Listen returns a Listener that begins with the oldest event that is kept, or, if fresh, with the next that is published.
func (b *Bus) Listen(fresh bool) *Listener {
	l := &Listener{bus: b, at: 1}
	if b == nil {
		return l
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	l.at = b.oldest()
	if fresh {
		l.at = b.next
	}
	return l
}

// oldest is the Seq of the oldest event that is kept. b.mu is held.
func (b *Bus) oldest() uint64 { return b.next - uint64(len(b.ring)) }

// Missed is how many events were published before the place of l, and can be had no more.
func (l *Listener) Missed() uint64 { return l.at - 1 }

// Next waits for the next event. An event of the kind EventLost stands for those that l was too slow for. The error is that of ctx, or
// ErrClosed.
func (l *Listener) Next(ctx context.Context) (control.Event, error) {
	for {
		e, ok, news, err := l.take()
		if ok || err != nil {
			return e, err
		}
		select {
		case <-news:
		case <-ctx.Done():
			return control.Event{}, ctx.Err()
		}
	}
}

// Now is Next without a wait: false where nothing is there.
func (l *Listener) Now() (control.Event, bool) {
	e, ok, _, _ := l.take()
	return e, ok
}

func (l *Listener) take() (e control.Event, ok bool, news <-chan struct{}, err error) {
	b := l.bus
	if b == nil {
		return e, false, nil, ErrClosed
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	oldest := b.oldest()
	switch {
	case l.at < oldest:
		lost := oldest - l.at
		l.at = oldest
		return control.Event{Seq: oldest - 1, Time: time.Now().UTC(), Kind: control.EventLost, Lost: lost}, true, nil, nil
	case l.at < b.next:
		e = b.ring[(b.head+int(l.at-oldest))%len(b.ring)]
		l.at++
		return e, true, nil, nil
	case b.closed:
		return e, false, nil, ErrClosed
	}
	return e, false, b.news, nil
}
