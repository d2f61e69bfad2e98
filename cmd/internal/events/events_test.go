package events

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"pierfs/cmd/internal/control"
)

// Row 59 of the requirements, and what whoever follows relies on: events come in order, and none is missed without a word.
func TestSlowListenerIsToldWhatItLost(t *testing.T) {
	b := New(4)
	slow, quick := b.Listen(false), b.Listen(false)
	for range 10 {
		b.Publish(control.Event{Kind: control.EventState})
		if e, ok := quick.Now(); !ok || e.Kind != control.EventState {
			t.Fatalf("who keeps up gets %+v, %v", e, ok)
		}
	}
	first, ok := slow.Now()
	if !ok || first.Kind != control.EventLost || first.Lost != 6 {
		t.Fatalf("a listener that is 10 events behind a bus that keeps 4 gets %+v; want to be told of 6 lost ones", first)
	}
	for want := first.Seq + 1; want <= 10; want++ {
		if e, ok := slow.Now(); !ok || e.Seq != want {
			t.Errorf("got event %d, %v; want %d", e.Seq, ok, want)
		}
	}
	if e, ok := slow.Now(); ok {
		t.Errorf("there is one more: %+v", e)
	}
	if late := b.Listen(false); late.Missed() != 6 {
		t.Errorf("who comes late has missed %d; want 6", late.Missed())
	}
	if fresh := b.Listen(true); fresh.Missed() != 10 {
		t.Errorf("who wants nothing old begins behind %d; want 10", fresh.Missed())
	}
}

// A wait ends with an event, with its context, and with the bus.
func TestWaitsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(4)
		got := make(chan error, 1)
		wait := func(ctx context.Context) {
			l := b.Listen(true)
			go func() { _, err := l.Next(ctx); got <- err }()
			synctest.Wait()
		}
		wait(t.Context())
		b.Publish(control.Event{})
		if err := <-got; err != nil {
			t.Errorf("an event ends the wait with %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		wait(ctx)
		cancel()
		if err := <-got; !errors.Is(err, context.Canceled) {
			t.Errorf("who goes away ends with %v", err)
		}
		wait(t.Context())
		b.Close()
		if err := <-got; !errors.Is(err, ErrClosed) {
			t.Errorf("the end of the bus ends the wait with %v", err)
		}
		b.Publish(control.Event{})
		if n := b.Published(); n != 1 {
			t.Errorf("%d events were published, one of them after the end", n)
		}
	})
}
