package sftp

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"pierfs/backends"
)

const (
	// crowded is how much must be on order on a channel before another way to the same file is worth having.
	crowded = 1 << 20
	// again is how long after one try to find further ways the next may follow.
	again = 5 * time.Second
)

// way is a handle of an open file on one channel.
type way struct {
	m      *mux
	handle string
}

// ways are the handles of one open file: the first, by which it was opened, and what was opened later on other channels, so
// that its content need not go through one window. One that dies is missed by nobody.
type ways struct {
	first way

	mu      sync.Mutex
	further []way
	lost    []way // taken out of further, their handles still open: a CLOSE must not overtake who still uses one
	seeking bool
	stop    chan struct{} // tells a search to look no further; nil before the first
	over    chan struct{} // is closed when the search has ended; nil before the first
	sought  time.Time     // when the last search ended
	closed  bool
}

// pick takes n bytes of the budget that of finds on the way with the least to do; ok is false if all ways are full. The first
// channel of a session is spared for other things once there is any other. A dead way is as good as any if there is no other:
// it says by itself what is wrong.
func (w *ways) pick(s *session, n int64, of func(*mux) *budget) (best way, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	best, found := w.first, w.first.m != s.meta && !w.first.m.dead()
	for _, other := range w.further {
		if !other.m.dead() && (!found || other.m.load() < best.m.load()) {
			best, found = other, true
		}
	}
	return best, of(best.m).take(n) || best.m.dead()
}

// take waits until n bytes of a budget are free on one of the ways, and takes them.
func (w *ways) take(ctx context.Context, s *session, n int64, of func(*mux) *budget) (way, error) {
	return s.queue.wait(ctx, func() (way, bool) { return w.pick(s, n, of) })
}

func reads(m *mux) *budget  { return &m.reads }
func writes(m *mux) *budget { return &m.writes }

// budget is how many bytes of content one channel may have under way in one direction.
type budget struct {
	limit        int64
	taken, total atomic.Int64
}

// take takes n bytes if they are free; what is larger than the limit must have it alone.
func (b *budget) take(n int64) bool {
	for {
		now := b.taken.Load()
		if now > 0 && now+n > b.limit {
			return false
		}
		if b.taken.CompareAndSwap(now, now+n) {
			b.total.Add(n)
			return true
		}
	}
}

// queue is who waits for a budget on any channel of a session. They wait here, not for one channel: what becomes free first, or
// is opened meanwhile, is theirs.
type queue struct {
	mu      sync.Mutex
	waiting []chan struct{}
}

// wait returns what try returns once that is ok. try is asked again when something was given back.
func (q *queue) wait(ctx context.Context, try func() (way, bool)) (way, error) {
	if by, ok := try(); ok {
		return by, nil
	}
	place := make(chan struct{}, 1)
	q.mu.Lock()
	q.waiting = append(q.waiting, place)
	q.mu.Unlock()
	defer q.leave(place)
	for {
		if by, ok := try(); ok {
			return by, nil
		}
		q.wakeAfter(place) // it may be right for somebody else
		select {
		case <-place:
		case <-ctx.Done():
			return way{}, &fault{err: context.Cause(ctx)}
		}
	}
}

// leave gives a place up, and lets the next one look whether there is room for him, too.
func (q *queue) leave(place chan struct{}) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = slices.DeleteFunc(q.waiting, func(other chan struct{}) bool { return other == place })
	q.wake(0)
}

// wake lets the one at position i look again. Callers hold mu.
func (q *queue) wake(i int) {
	if i < len(q.waiting) {
		select {
		case q.waiting[i] <- struct{}{}:
		default:
		}
	}
}

func (q *queue) wakeAfter(place chan struct{}) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.wake(slices.Index(q.waiting, place) + 1)
}

// freed says that something was given back, or that there is a further way.
func (q *queue) freed() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.wake(0)
}

// give gives n bytes of a budget back.
func (s *session) give(b *budget, n int64) {
	b.taken.Add(-n)
	s.queue.freed()
}

// lose takes a way out, unless it is the first, and reports whether another may be tried in its place. Its handle stays open
// until close.
func (w *ways) lose(gone way) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	left := w.further[:0]
	for _, other := range w.further {
		if other != gone && !other.m.dead() {
			left = append(left, other)
		} else if !other.m.dead() {
			w.lost = append(w.lost, other)
		}
	}
	w.further = left
	if gone != w.first {
		return true
	}
	return w.first.m.dead() && len(left) > 0
}

// mayWiden takes the search for further ways, if the server is far, one window is not enough, and nobody else searches.
func (w *ways) mayWiden(s *session) bool {
	n := s.wide()
	if n < 2 {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	have := len(w.further)
	if w.first.m != s.meta {
		have++
	}
	if w.closed || w.seeking || have >= n || time.Since(w.sought) < again {
		return false
	}
	w.seeking = true
	w.stop, w.over = make(chan struct{}), make(chan struct{})
	return true
}

// widen opens the file on every channel for content of the session, further ones included that it is worth having, as they come,
// and keeps the handles that open returns. It ends with ctx, with the session, with close, or when that is done; what it has opened
// in vain is closed by then.
func (w *ways) widen(ctx context.Context, s *session, open func(context.Context, *mux) (handle string, err error)) {
	s.widen(s.wide())
	var all sync.WaitGroup
	defer all.Wait()
	tried := []*mux{w.first.m}
	others, stop := w.others()
	for _, other := range others {
		tried = append(tried, other.m)
	}
	for {
		select {
		case <-stop:
			return
		default:
		}
		channels, more := s.content()
		for _, m := range channels {
			if slices.Contains(tried, m) {
				continue
			}
			tried = append(tried, m)
			all.Go(func() {
				handle, err := open(ctx, m)
				if err != nil {
					s.o.Logger.Debug("no further way to a file", "server", s.o.Address, "err", err)
					return
				}
				if !w.add(way{m, handle}) {
					m.closeNow(ctx, handle) // the file was closed meanwhile
				}
				s.queue.freed()
			})
		}
		if more == nil {
			return
		}
		select {
		case <-more:
		case <-stop:
			return
		case <-s.dead:
			return
		case <-ctx.Done():
			return
		}
	}
}

// rest ends the search that mayWiden has begun.
func (w *ways) rest() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seeking, w.sought = false, time.Now()
	close(w.over)
}

// wait returns when no search is under way any more, or ctx or the session has ended. It is for who has called close.
func (w *ways) wait(ctx context.Context, s *session) {
	w.mu.Lock()
	over, seeking := w.over, w.seeking
	w.mu.Unlock()
	if !seeking {
		return
	}
	select {
	case <-over:
	case <-s.dead:
	case <-ctx.Done():
	}
}

// count returns how many further ways there are.
func (w *ways) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.further)
}

// others returns all ways but the first, the lost ones included, and what tells the search under way to stop.
func (w *ways) others() ([]way, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Concat(w.further, w.lost), w.stop
}

// add keeps one more way, unless the file was closed meanwhile.
func (w *ways) add(more way) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.closed {
		w.further = append(w.further, more)
	}
	return !w.closed
}

// close takes out all further ways for good, for the caller to close their handles, and ends the search for others.
func (w *ways) close() []way {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.closed && w.seeking {
		close(w.stop)
	}
	further := slices.Concat(w.further, w.lost)
	w.further, w.lost, w.closed = nil, nil, true
	return further
}

// closeNow sends a CLOSE and waits for its answer: until then a file that was removed takes its space on the server's disk.
func (m *mux) closeNow(ctx context.Context, handle string) {
	f := m.flight()
	f.add(pathFrame(typeClose, handle))
	f.send(bulk)
	f.wait(ctx)
}

// errOther is what a further way has found that leads to another file.
var errOther = errors.New("it is another file, or is being changed")

// openAgain opens path on m for a file that is open by another handle already, and keeps the handle if it is the same file in the
// eyes of same: the name must be that before and after the opening; look says whether a link may lead there (typeStat) or not
// (typeLstat).
func openAgain(ctx context.Context, m *mux, path string, flags uint32, look byte, same func(backends.Info) bool) (handle string, err error) {
	f := m.flight()
	before := f.add(pathFrame(look, path))
	open := f.add(openFrame(path, flags, attrs{}))
	open.late = func(r reply) {
		if handle, err := r.handle(); err == nil {
			m.closeSoon(handle)
		}
	}
	after := f.add(pathFrame(look, path))
	f.send(urgent)
	f.wait(ctx)
	if handle, err = open.reply.handle(); err != nil {
		return "", err
	}
	for _, name := range []*call{before, after} {
		if err := is(name, same); err != nil {
			m.closeNow(ctx, handle)
			return "", err
		}
	}
	return handle, nil
}

// surely is openAgain for a handle to write by: what was opened itself must be the same file, too, which takes a round trip more.
func surely(ctx context.Context, m *mux, handle string, same func(backends.Info) bool) error {
	f := m.flight()
	told := f.add(pathFrame(typeFstat, handle))
	f.send(urgent)
	told.wait(ctx)
	err := is(told, same)
	if err != nil {
		m.closeNow(ctx, handle)
	}
	return err
}

// is returns nil if a server's answer describes a file that is the same in the eyes of same.
func is(told *call, same func(backends.Info) bool) error {
	info, err := told.reply.info("")
	if err == nil && (!info.Mode.IsRegular() || !same(info)) {
		err = errOther
	}
	return err
}

// sameFile reports whether two answers of a server describe one file that nothing was done to in between, as far as version 3
// can tell: it knows no identity. Reading a file may move its access time.
func sameFile(a, b backends.Info) bool {
	return a.Known == b.Known && a.Known.Has(backends.HasSize|backends.HasModTime) && a.SameVersion(b) &&
		a.Mode == b.Mode && a.UID == b.UID && a.GID == b.GID && !b.AccTime.Before(a.AccTime)
}
