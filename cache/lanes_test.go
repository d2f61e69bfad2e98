package cache_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestOwedNamesTravelAtTheSameTime: of two contents that are owed, each is let go to the server only when the other has set out as well.
func TestOwedNamesTravelAtTheSameTime(t *testing.T) {
	for what, size := range map[string]int{"short": 10, "long": 1 << 20} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newOwing(t, nil)
				var here atomic.Int32
				both := make(chan struct{})
				w.server.SetFault(func(_ context.Context, op, _ string) error {
					if op == "create" && here.Add(1) == 2 {
						close(both)
					}
					if op == "create" {
						select {
						case <-both:
						case <-time.After(time.Hour):
							t.Error("one travels alone")
						}
					}
					return nil
				})
				one, other := strings.Repeat("1", size), strings.Repeat("2", size)
				w.save("one", one)
				w.save("other", other)
				w.must(w.tree.Drain(t.Context()))
				w.has("one", one)
				w.has("other", other)
				w.must(w.tree.Close(t.Context()))
			})
		})
	}
}

// TestShortOwedContentsShareFlights: a hundred small files that are owed arrive in the flights of a few.
func TestShortOwedContentsShareFlights(t *testing.T) {
	const files, flight = 100, 40 * time.Millisecond
	content := func(i int) string { return fmt.Sprintf("content of %d", i) }
	synctest.Test(t, func(t *testing.T) {
		w := newOwing(t, nil)
		w.server.SetFault(func(context.Context, string, string) error {
			time.Sleep(flight)
			return nil
		})
		begin := time.Now()
		for i := range files {
			w.save(fmt.Sprint(i), content(i))
		}
		w.paid()
		if took := time.Since(begin); took > 16*flight { // alone each takes four
			t.Errorf("%d files took %d flights", files, took/flight)
		}
		for i := range files {
			w.has(fmt.Sprint(i), content(i))
		}
		w.must(w.tree.Close(t.Context()))
	})
}
