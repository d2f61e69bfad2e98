package cache

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"time"

	"pierfs/backends"
)

const (
	// maxLanes is how many contents that are owed travel at a time, where the server sets no such bound itself. Short ones may be
	// more, which cost a server a handle each: at 40 ms and three flights a file that is 500 files a second.
	maxLanes      = 32
	maxShortLanes = 64

	// lookPast is how many long contents are looked past for a short one, when no further long one may travel.
	lookPast = 64

	// linger is how long a content waits at least: programs that replace a file rename or remove within it what they have just
	// written, and that need not travel then.
	linger = 10 * time.Millisecond

	// A content that the server does not take is tried again after firstBackoff, and then ever more rarely.
	firstBackoff = 500 * time.Millisecond
	lastBackoff  = time.Minute

	// The same for a server that does not answer at all, of which one content at a time finds out whether it is back.
	firstOutage = 200 * time.Millisecond
	lastOutage  = 30 * time.Second
)

// queue are the Files that owe something. Each is in it once, whatever it owes by now: contents that were replaced before their
// turn came are never sent. It has each of them open, so that they outlive the programs that wrote them. Lock order: queue.mu, File.mu.
type queue struct {
	mu      sync.Mutex
	ready   []*File // in the order in which they came to owe
	waiting waiting
	known   map[*File]bool // ready, waiting or being sent
	short   map[*File]bool // those known with a short content, when it was last written down
	lanes   int            // files being sent
	long    int            // of these, with more than a short content
	pause   time.Duration  // of the outage; 0 if there is none
	until   time.Time      // of the pause
	outage  error
	parked  []*File       // known, and waiting for changes of names
	paid    chan struct{} // closed when nothing is known any more; nil while nobody waits

	news chan struct{} // holds one when the dispatcher should look again
}

func newQueue() *queue {
	return &queue{known: map[*File]bool{}, short: map[*File]bool{}, news: make(chan struct{}, 1)}
}

// waiting is a heap of Files whose last try failed, by the time of the next.
type waiting []wait

type wait struct {
	file *File
	at   time.Time
}

func (w waiting) Len() int           { return len(w) }
func (w waiting) Less(i, k int) bool { return w[i].at.Before(w[k].at) }
func (w waiting) Swap(i, k int)      { w[i], w[k] = w[k], w[i] }
func (w *waiting) Push(x any)        { *w = append(*w, x.(wait)) }
func (w *waiting) Pop() any {
	last := (*w)[len(*w)-1]
	*w = (*w)[:len(*w)-1]
	return last
}

func (w *waiting) remove(i int) { heap.Remove(w, i) }

// enqueue has what the file owes sent by and by.
func (f *File) enqueue() {
	t := f.tree
	t.mu.Lock()
	if !f.owing.queued {
		f.owing.queued = true
		f.opens++
	}
	t.mu.Unlock()
	short := f.owesShort()
	q := t.queue
	q.mu.Lock()
	q.short[f] = short
	if !q.known[f] {
		q.known[f] = true
		heap.Push(&q.waiting, wait{f, time.Now().Add(linger)})
	}
	q.mu.Unlock()
	q.wake()
}

func (q *queue) wake() {
	select {
	case q.news <- struct{}{}:
	default: // it will look anyway
	}
}

// Wake ends all pauses before what is owed is tried again: somebody has reason to believe that the server takes it now.
func (t *Tree) Wake() {
	q := t.queue
	q.mu.Lock()
	q.pause, q.until, q.outage = 0, time.Time{}, nil
	for _, w := range q.waiting {
		q.ready = append(q.ready, w.file)
	}
	q.waiting = nil
	q.mu.Unlock()
	q.wake()
	t.changes.retry(func(error) bool { return true })
}

// isBack notes that the server has taken something: what waits because it was away is tried now.
func (t *Tree) isBack() {
	t.changes.retry(isOutage)
	t.queue.isBack()
}

func (q *queue) isBack() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.pause > 0 {
		q.pause, q.outage = 0, nil
		q.wake()
	}
}

// drain sends what is owed, until the Tree is closed. It is started by New, alone.
func (t *Tree) drain() {
	defer t.work.Done()
	var lanes sync.WaitGroup
	defer lanes.Wait()
	long, most := maxLanes, maxShortLanes
	if t.uploads != nil {
		long, most = cap(t.uploads), cap(t.shortUploads)
	}
	for {
		for f, short := t.queue.take(long, most); f != nil; f, short = t.queue.take(long, most) {
			lanes.Go(func() {
				err := f.payUnlessWritten(t.ctx)
				t.queue.tried(f, short, err)
				if t.changes.unpark(); err == nil {
					t.isBack()
				}
				if errors.Is(err, errParked) && !f.awaitsChange() { // it was made meanwhile
					t.queue.unpark()
				}
				t.unqueue(f)
			})
		}
		if !t.pauseUnless(t.queue.news, t.queue.sleeps()) {
			return
		}
	}
}

// take returns the next File whose turn it is, and whether its content is short; nil if there is none now. Of long contents no more than
// long travel at a time, of all no more than most.
func (q *queue) take(long, most int) (f *File, short bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.pause > 0 {
		most = 1 // to find out
		if time.Now().Before(q.until) {
			return nil, false
		}
	}
	if q.lanes >= most {
		return nil, false
	}
	for len(q.waiting) > 0 && !time.Now().Before(q.waiting[0].at) {
		q.ready = append(q.ready, heap.Pop(&q.waiting).(wait).file)
	}
	for i, f := range q.ready[:min(len(q.ready), lookPast)] {
		short := q.short[f]
		if !short && q.long >= long {
			continue
		}
		q.ready = slices.Delete(q.ready, i, i+1)
		q.lanes++
		if !short {
			q.long++
		}
		return f, short
	}
	return nil, false
}

// owesShort reports whether what the file owes is sent as soon as a question.
func (f *File) owesShort() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.owing.debt == nil || f.owing.debt.size <= shortContent
}

// unpark has all tried that wait for changes of names, one of which was made.
func (q *queue) unpark() {
	q.mu.Lock()
	q.ready, q.parked = append(q.ready, q.parked...), nil
	q.mu.Unlock()
	q.wake()
}

// sleeps returns for how long nothing will have to be done, unless there are news.
func (q *queue) sleeps() time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	next := time.Hour
	if q.pause > 0 && q.lanes == 0 {
		next = min(next, time.Until(q.until))
	}
	if len(q.waiting) > 0 && q.pause == 0 {
		next = min(next, time.Until(q.waiting[0].at))
	}
	return max(next, time.Millisecond)
}

// tried notes what came of sending what f owed, which take said was short.
func (q *queue) tried(f *File, short bool, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	defer q.wake()
	q.lanes--
	if !short {
		q.long--
	}
	if errors.Is(err, errParked) {
		q.parked = append(q.parked, f)
		return
	}
	switch debt, held := f.debtLeft(err); {
	case debt == nil, held:
		delete(q.known, f)
		delete(q.short, f)
	case err == nil, errors.Is(err, errStopped), // it owes something newer, or by another name
		errors.Is(err, errWritten) && !f.awaitsWriter(): // who has gone in this moment
		q.ready = append(q.ready, f)
	case isOutage(err):
		q.pause = min(max(2*q.pause, firstOutage), lastOutage)
		q.until = time.Now().Add(jitter(q.pause))
		q.outage = err
		q.ready = append([]*File{f}, q.ready...)
	default:
		heap.Push(&q.waiting, wait{f, time.Now().Add(f.backoff())})
	}
	if len(q.known) == 0 && q.paid != nil {
		close(q.paid)
		q.paid = nil
	}
}

// debtLeft notes how a try ended, and returns what the file owes now, and whether that is held.
func (f *File) debtLeft(err error) (d *debt, held bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.owing.failed = err
	if err != nil {
		f.owing.tries++
	}
	return f.owing.debt, f.owing.held != nil
}

// backoff is how long to wait before what the file owes is tried again.
func (f *File) backoff() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return jitter(min(firstBackoff<<min(f.owing.tries-1, 10), lastBackoff))
}

// jitter is at most d. It keeps those who wait for one server from coming all at once.
func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d/2+1) }

// isOutage reports whether err tells of the server, and not of the one content: no other would fare better.
func isOutage(err error) bool {
	switch backends.ClassOf(err) {
	case backends.Transient, backends.Lost, backends.Refused:
		return true
	}
	return backends.Errno(err) == 0 || errors.Is(err, context.Canceled)
}

// isOffline reports whether the server is known to be away, or to let us in no more.
func (t *Tree) isOffline() bool {
	why := cmp.Or(t.queue.why(), t.changes.why())
	return backends.CauseOf(why) == backends.CauseOffline || backends.ClassOf(why) == backends.Refused
}

// emptied returns when nothing is owed that could be sent, when ctx ends, or when it is in vain.
func (t *Tree) emptied(ctx context.Context, vain func() bool) {
	q := t.queue
	for !vain() {
		q.mu.Lock()
		if parked := slices.Clone(q.parked); len(q.known) == len(parked) {
			q.mu.Unlock()
			// Asked behind the queue: what has left that lets changes go on that waited for it.
			rest := t.changes.rest()
			if rest && !slices.ContainsFunc(parked, func(f *File) bool { return !f.awaitsChange() }) { // else it is about to be sent
				return
			}
			q.mu.Lock()
		}
		if q.paid == nil {
			q.paid = make(chan struct{})
		}
		paid := q.paid
		q.mu.Unlock()
		look := time.NewTimer(100 * time.Millisecond) // an outage is no news here
		select {
		case <-paid:
		case <-look.C:
		case <-ctx.Done():
			look.Stop()
			return
		}
		look.Stop()
	}
}

// unqueue ends the queue's hold of a file that owes nothing any more.
func (t *Tree) unqueue(f *File) {
	t.mu.Lock()
	f.mu.Lock()
	done := f.owing.queued && f.owing.debt == nil
	last := false
	if done {
		f.owing.queued = false
		f.opens--
		if last = f.opens == 0; last {
			f.shut = syscall.EBADF
			t.free(f)
		}
	}
	f.mu.Unlock()
	t.mu.Unlock()
	if last {
		f.discard()
	}
}
