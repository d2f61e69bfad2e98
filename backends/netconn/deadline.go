package netconn

import (
	"sync"
	"time"
)

// Deadline is a deadline for a connection whose waits are not in a socket: those who wait select on Passed. The zero value
// never passes. Its methods may be called from many goroutines at once.
type Deadline struct {
	mu     sync.Mutex
	timer  *time.Timer
	passed chan struct{}
}

// Set moves the deadline to t, also under those who wait already; zero takes it away.
func (d *Deadline) Set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil && !d.timer.Stop() {
		<-d.passed // the timer's func has begun and will close it
	}
	d.timer = nil
	closed := d.hasPassed()
	if left := time.Until(t); t.IsZero() || left > 0 {
		if closed || d.passed == nil {
			d.passed = make(chan struct{})
		}
		if !t.IsZero() {
			passed := d.passed
			d.timer = time.AfterFunc(left, func() { close(passed) })
		}
		return
	}
	if d.passed == nil {
		d.passed = make(chan struct{})
	}
	if !closed {
		close(d.passed)
	}
}

func (d *Deadline) hasPassed() bool {
	select {
	case <-d.passed:
		return true
	default:
		return false
	}
}

// Passed is closed when the deadline has passed. A later Set makes a new one.
func (d *Deadline) Passed() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.passed == nil {
		d.passed = make(chan struct{})
	}
	return d.passed
}
