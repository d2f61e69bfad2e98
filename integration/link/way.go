package link

import "sync"

// way is a queue of parcels, bounded in bytes, with one sender and one receiver.
type way struct {
	mu      sync.Mutex
	changed sync.Cond
	parcels []parcel
	size    int
	closed  bool // no more will be put
	gone    bool // nobody takes any more
}

func newWay() *way {
	w := &way{}
	w.changed.L = &w.mu
	return w
}

// put waits for room and reports whether anybody will take p.
func (w *way) put(p parcel) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.size >= queued && !w.gone {
		w.changed.Wait()
	}
	if w.gone {
		return false
	}
	w.parcels = append(w.parcels, p)
	w.size += len(p.data)
	w.changed.Broadcast()
	return true
}

// take waits for a parcel and returns false when none will come.
func (w *way) take() (parcel, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.parcels) == 0 && !w.closed {
		w.changed.Wait()
	}
	if len(w.parcels) == 0 {
		return parcel{}, false
	}
	p := w.parcels[0]
	w.parcels = w.parcels[1:]
	w.size -= len(p.data)
	w.changed.Broadcast()
	return p, true
}

func (w *way) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	w.changed.Broadcast()
}

func (w *way) abandon() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.gone = true
	w.changed.Broadcast()
}
