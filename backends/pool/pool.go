// Package pool lends sessions to whoever has something to ask, and learns how many of them a server bears.
//
// A Pool belongs to one login on one server, and may be shared by all who use it. It knows nothing of what a session speaks.
//
// Promises. No more than Options.Max sessions are open at a time. Where there may be two or more, one is never lent for
// content, so that a long transfer never stands before a question. A login that the server refuses because it bears no more
// lowers the number to what is open, for 30 seconds at first and up to 5 minutes; those who ask wait for a session to come
// back, and hold nothing while they wait. Where none is open there is nothing to wait for, and it is an error. A login that is refused for any other reason is an error for everybody who waits
// for it, and is not repeated. Who holds a session and does not need it at the moment parks it: it is taken away as soon as
// somebody else would have to wait. Every wait ends with its context, and after Options.Wait.
//
// A session that has been idle is given back its looks first (Options.Cool) and is closed later, the last one much later, so that the next
// question finds a login done. Nobody knows whether a server has closed an idle session until it is asked: Lease.Fresh tells
// what may be used without a doubt, and Lease.Discard closes with a session that proved dead all that are as old.
//
// Lock: Pool.mu is a leaf; sessions are dialled, closed and revoked without it.
package pool

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"time"

	"pierfs/backends"
)

// Session is what a Pool lends.
type Session interface {
	Healthy() bool // may be used again; must not block
	Close() error  // may come from any goroutine, and more than once
}

// Kind is what a session is wanted for.
type Kind uint8

const (
	Meta    Kind = iota // a question, a change or a small file: soon over
	Content             // a transfer, which may last
)

// Options say how a Pool goes about it.
type Options[S Session] struct {
	// Dial logs in. Its error tells the pool by Class and Cause what it means; ctx ends with the Pool.
	Dial func(ctx context.Context) (S, error)

	Max  int           // sessions at a time; 0 means 4
	Wait time.Duration // how long a caller waits for a session at most; 0 means 30 s
	Idle time.Duration // after which an idle session is closed, but for the last; 0 means 60 s
	Last time.Duration // after which the last one is closed as well; 0 means never

	// Cool makes an idle session give up what it only holds to be quick, after 15 s; nil does nothing.
	Cool func(S)
}

const (
	standardMax = 4

	fresh     = 5 * time.Second // for so long a session that was used is taken to be alive
	coolAfter = 15 * time.Second

	firstPause   = 30 * time.Second // before one more session is tried than the server bore
	longestPause = 5 * time.Minute
	doubts       = 3 // refused logins in a row, without a session open, until they are no longer taken for a limit
)

// Pool lends sessions. Its methods may be called from many goroutines at once.
type Pool[S Session] struct {
	o      Options[S]
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu       sync.Mutex
	idle     []*held[S] // the one used last at the end
	lent     map[*Lease[S]]struct{}
	dialing  int
	content  int          // leases lent for content
	waiting  []*waiter[S] // first come, first served
	parked   []*Lease[S]  // the one parked longest first
	bears    int          // sessions the server bears, as far as known; Max until a login was refused
	tryAgain time.Time    // when one more than bears may be tried
	pause    time.Duration
	full     error // what the server said when it bore no more; nil if it never did
	loggedIn bool  // this login has worked once
	refusals int   // in a row, without a session open
	timer    *time.Timer
	closed   bool
}

// held is a session with what the pool knows of it.
type held[S Session] struct {
	session S
	used    time.Time
	cooled  bool
	before  bool // it was lent, or idle
}

// waiter is one who waits. grant is closed when lease or err is set.
type waiter[S Session] struct {
	kind    Kind
	granted chan struct{}
	lease   *Lease[S]
	err     error
}

// Lease is a session lent to one holder.
type Lease[S Session] struct {
	pool   *Pool[S]
	held   *held[S]
	kind   Kind
	fresh  bool
	made   bool   // for whoever holds it now
	revoke func() // set while parked
	over   bool
}

// New returns a Pool without a session. The first is dialled when it is asked for.
func New[S Session](o Options[S]) *Pool[S] {
	o.Max = Sessions(o.Max)
	if o.Wait <= 0 {
		o.Wait = 30 * time.Second
	}
	if o.Idle <= 0 {
		o.Idle = 60 * time.Second
	}
	p := &Pool[S]{o: o, bears: o.Max, lent: make(map[*Lease[S]]struct{})}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// Take lends a session, after a login if need be. The caller gives it back with Release or Discard.
func (p *Pool[S]) Take(ctx context.Context, kind Kind) (*Lease[S], error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	w := &waiter[S]{kind: kind, granted: make(chan struct{})}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, errClosed()
	}
	p.waiting = append(p.waiting, w)
	p.serve()
	p.mu.Unlock()
	limit := time.NewTimer(p.o.Wait)
	defer limit.Stop()
	select {
	case <-w.granted:
		return w.lease, w.err
	case <-ctx.Done():
		return p.leave(w, context.Cause(ctx))
	case <-limit.C:
		return p.leave(w, p.tired())
	}
}

// leave takes w out of the queue, unless it was served in this moment.
func (p *Pool[S]) leave(w *waiter[S], err error) (*Lease[S], error) {
	p.mu.Lock()
	i := slices.Index(p.waiting, w)
	if i >= 0 {
		p.waiting = slices.Delete(p.waiting, i, i+1)
	}
	p.mu.Unlock()
	if i >= 0 {
		return nil, err
	}
	<-w.granted
	return w.lease, w.err
}

// tired is why a caller who has waited long enough gets nothing. While a login is under way it is the server that keeps him
// waiting, and not those who hold sessions.
func (p *Pool[S]) tired() error {
	p.mu.Lock()
	n, full, dialing := p.open(), p.full, p.dialing
	p.mu.Unlock()
	if n == dialing && backends.CauseOf(full) == backends.CauseAuth {
		return limitReached(full)
	}
	if dialing > 0 {
		return &backends.Error{
			Op: "connect", Code: syscall.ETIMEDOUT, Class: backends.Transient, Cause: backends.CauseSilent,
			Err: fmt.Errorf("the server did not let us in within %v", p.o.Wait),
		}
	}
	e := &backends.Error{
		Op: "connect", Code: syscall.ETIMEDOUT, Class: backends.Transient, Cause: backends.CauseTooManySessions,
		Err:  fmt.Errorf("no session was free within %v, with %d open", p.o.Wait, n),
		Hint: "raise maxSessions if the server bears more, or let fewer programs work at once",
	}
	if full != nil {
		e.Err = fmt.Errorf("no session was free within %v, with %d open; the server grants no more: %w", p.o.Wait, n, full)
		e.Hint = "others may use up the sessions that the server grants this login"
	}
	return e
}

func errClosed() error {
	return &backends.Error{Op: "connect", Code: syscall.ESHUTDOWN, Err: errors.New("the connection is closed")}
}

// open is the number of sessions that there are or will be. Callers hold mu, as for all that follow up to background.
func (p *Pool[S]) open() int { return len(p.idle) + len(p.lent) + p.dialing }

// limit is how many sessions there may be now.
func (p *Pool[S]) limit() int {
	switch {
	case !p.loggedIn && p.bears > 0:
		return 1 // a password that is wrong is shown once, and not by all who wait at the same time
	case p.bears < p.o.Max && !time.Now().Before(p.tryAgain):
		return min(p.bears+1, p.o.Max)
	}
	return p.bears
}

// forContent is how many sessions may be lent for content at a time.
func (p *Pool[S]) forContent() int { return ForContent(p.bears) }

// ForContent is how many of sessions are lent for content at a time; 0 sessions are as many as a Pool has without being told.
func ForContent(sessions int) int { return max(1, Sessions(sessions)-1) }

// Sessions is how many sessions a Pool has of which Options.Max is told.
func Sessions(told int) int {
	if told <= 0 {
		return standardMax
	}
	return told
}

// mayLend reports whether a session may be lent for kind.
func (p *Pool[S]) mayLend(kind Kind) bool {
	return kind == Meta || p.content < p.forContent()
}

// serve gives idle sessions to those who wait, has sessions dialled for the others as far as there may be more, and has
// parked ones taken away for the rest.
func (p *Pool[S]) serve() {
	var rest []*waiter[S]
	for _, w := range p.waiting {
		h := p.takeIdle(w.kind)
		if h == nil {
			rest = append(rest, w)
			continue
		}
		p.lend(w, h, time.Since(h.used) < fresh)
	}
	p.waiting = rest
	wanted, content := 0, p.content
	blocked := 0 // those whom only a parked session can help
	for _, w := range p.waiting {
		if w.kind == Content {
			if content >= p.forContent() {
				blocked++
				continue
			}
			content++
		}
		wanted++
	}
	for ; p.dialing < wanted && p.open() < p.limit(); p.dialing++ {
		p.work.Go(p.dial)
	}
	blocked += max(0, wanted-p.dialing)
	for ; blocked > 0 && len(p.parked) > 0; blocked-- {
		l := p.parked[0]
		p.parked = p.parked[1:]
		revoke := l.revoke
		l.revoke = nil
		p.work.Go(revoke)
	}
	p.schedule()
}

// takeIdle returns an idle session that may be used for kind, the one used last first; nil if there is none.
func (p *Pool[S]) takeIdle(kind Kind) *held[S] {
	for p.mayLend(kind) && len(p.idle) > 0 {
		h := p.idle[len(p.idle)-1]
		p.idle = p.idle[:len(p.idle)-1]
		if h.session.Healthy() {
			return h
		}
		p.discard(h)
	}
	return nil
}

// lend gives h to w.
func (p *Pool[S]) lend(w *waiter[S], h *held[S], fresh bool) {
	w.lease = &Lease[S]{pool: p, held: h, kind: w.kind, fresh: fresh, made: !h.before}
	h.before = true
	p.lent[w.lease] = struct{}{}
	if w.kind == Content {
		p.content++
	}
	close(w.granted)
}

// discard closes a session that belongs to nobody any more.
func (p *Pool[S]) discard(h *held[S]) {
	p.work.Go(func() { h.session.Close() })
}

// fail ends the waiting of w.
func (p *Pool[S]) fail(w *waiter[S], err error) {
	w.err = err
	close(w.granted)
}

// schedule sets the timer to when something is due that nobody's call brings about.
func (p *Pool[S]) schedule() {
	var next time.Time
	soonest := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	for i, h := range p.idle {
		if !h.cooled {
			soonest(h.used.Add(coolAfter))
		}
		if rest := p.rest(i); rest > 0 {
			soonest(h.used.Add(rest))
		}
	}
	if len(p.waiting) > 0 && p.bears < p.o.Max && time.Now().Before(p.tryAgain) {
		soonest(p.tryAgain)
	}
	switch {
	case next.IsZero() || p.closed:
		if p.timer != nil {
			p.timer.Stop()
		}
	case p.timer == nil:
		p.timer = time.AfterFunc(time.Until(next), p.tick)
	default:
		p.timer.Reset(time.Until(next))
	}
}

// rest returns how long the i-th idle session may be idle; 0 is for ever.
func (p *Pool[S]) rest(i int) time.Duration {
	if i == len(p.idle)-1 {
		return p.o.Last
	}
	return p.o.Idle
}

// tick is the timer's: it cools and closes idle sessions, and lets one more be tried where that was put off.
func (p *Pool[S]) tick() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	now := time.Now()
	kept := p.idle[:0]
	for i, h := range p.idle {
		idle := now.Sub(h.used)
		if rest := p.rest(i); rest > 0 && idle >= rest {
			p.discard(h)
			continue
		}
		if !h.cooled && idle >= coolAfter {
			h.cooled = true
			if p.o.Cool != nil {
				p.o.Cool(h.session)
			}
		}
		kept = append(kept, h)
	}
	clear(p.idle[len(kept):])
	p.idle = kept
	p.serve()
}

// dial logs in once, for whoever waits.
func (p *Pool[S]) dial() {
	s, err := p.o.Dial(p.ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dialing--
	switch {
	case p.closed:
		if err == nil {
			p.discard(&held[S]{session: s})
		}
		return
	case err != nil:
		p.refused(err)
	default:
		p.welcome(s)
	}
	p.serve()
}

// welcome takes a new session in.
func (p *Pool[S]) welcome(s S) {
	p.loggedIn, p.refusals = true, 0
	if n := p.open() + 1; n > p.bears {
		p.bears, p.pause, p.full = n, 0, nil
	}
	h := &held[S]{session: s, used: time.Now()}
	for i, w := range p.waiting {
		if p.mayLend(w.kind) {
			p.waiting = slices.Delete(p.waiting, i, i+1)
			p.lend(w, h, true)
			return
		}
	}
	h.before = true
	p.idle = append(p.idle, h)
}

// refused decides what a login that failed means for those who wait.
func (p *Pool[S]) refused(err error) {
	others := p.open()
	if p.isLimit(err, others) {
		p.bears, p.full = others, err
		if others > 0 {
			p.pause = min(max(firstPause, 2*p.pause), longestPause)
			p.tryAgain = time.Now().Add(p.pause + rand.N(p.pause/4))
			return // what is open comes back
		}
		// Nobody of ours is there to wait for, and whoever repeats knows how long to pause, but for a password.
		if p.tryAgain = time.Now(); backends.CauseOf(err) == backends.CauseAuth {
			p.tryAgain = p.tryAgain.Add(firstPause + rand.N(firstPause/4))
		}
		err = limitReached(err)
	}
	// Somebody's first login waits for nothing but this one. While others are open, only who has waited longest is told.
	for i, w := range p.waiting {
		p.fail(w, err)
		if others > 0 && backends.ClassOf(err) != backends.Refused {
			p.waiting = slices.Delete(p.waiting, 0, i+1)
			return
		}
	}
	p.waiting = nil
}

// isLimit reports whether a login failed because the server bears no more sessions. Servers say so at their greeting; some
// only refuse the password (proftpd: 530), which counts as a limit if the same password has been good before. Where no
// session is open that could have used the number up, that is believed a few times only: the password may have changed, and
// asking again and again would lock the account.
func (p *Pool[S]) isLimit(err error, others int) bool {
	switch {
	case backends.CauseOf(err) == backends.CauseTooManySessions:
		return true
	case backends.CauseOf(err) != backends.CauseAuth || !p.loggedIn:
		return false
	case others > 0:
		return true
	}
	p.refusals++
	return p.refusals < doubts
}

// limitReached is err as those get it for whom there is no session at all. A login that is refused though it has been good may be
// refused for its password or for a limit, and only the server knows.
func limitReached(err error) error {
	e := backends.Error{Op: "connect", Code: syscall.EIO, Err: err}
	if told, ok := errors.AsType[*backends.Error](err); ok {
		e = *told
	}
	e.Class = backends.Transient
	if e.Cause == backends.CauseAuth {
		e.Err = fmt.Errorf("the server refuses a login that it granted before, and no session is open: %w", err)
		e.Hint = "the password may have been changed on the server; if it was not, others use up the sessions that the server grants this login"
		return &e
	}
	if e.Cause = backends.CauseTooManySessions; e.Hint == "" {
		e.Hint = "others use up the sessions that the server grants this login"
	}
	return &e
}

// Session returns what is lent.
func (l *Lease[S]) Session() S { return l.held.session }

// Fresh reports whether the session was used or made within the last seconds, so that it may be taken to be alive.
func (l *Lease[S]) Fresh() bool { return l.fresh }

// Made reports whether the session was dialled for this lease, so that it cannot have been idle.
func (l *Lease[S]) Made() bool { return l.made }

// Release gives the session back. It may be called twice.
func (l *Lease[S]) Release() { l.end(false) }

// Discard gives back a session that has proved dead, and closes with it the idle ones that have not been used for as long as
// it takes to doubt them.
func (l *Lease[S]) Discard() { l.end(true) }

func (l *Lease[S]) end(dead bool) {
	p := l.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if l.over {
		return
	}
	l.over = true
	delete(p.lent, l)
	if l.kind == Content {
		p.content--
	}
	p.unpark(l)
	now := time.Now()
	if dead && !l.fresh {
		p.idle = slices.DeleteFunc(p.idle, func(h *held[S]) bool {
			old := now.Sub(h.used) >= fresh
			if old {
				p.discard(h)
			}
			return old
		})
	}
	switch {
	case p.closed:
		return // Close has closed it
	case dead, !l.held.session.Healthy():
		p.discard(l.held)
	default:
		l.held.used, l.held.cooled = now, false
		p.idle = append(p.idle, l.held)
	}
	p.serve()
}

// Park says that the holder can do without the session. When somebody else would have to wait, revoke is called once, in
// a goroutine of its own; it must give the lease back soon. It may be called before Park returns.
func (l *Lease[S]) Park(revoke func()) {
	p := l.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if l.over || l.revoke != nil {
		return
	}
	l.revoke = revoke
	p.parked = append(p.parked, l)
	p.serve()
}

// Unpark reports whether the session is the holder's still; false means that revoke is being called.
func (l *Lease[S]) Unpark() bool {
	l.pool.mu.Lock()
	defer l.pool.mu.Unlock()
	return l.pool.unpark(l)
}

func (p *Pool[S]) unpark(l *Lease[S]) bool {
	i := slices.Index(p.parked, l)
	if i < 0 {
		return false
	}
	p.parked = slices.Delete(p.parked, i, i+1)
	l.revoke = nil
	return true
}

// Open returns the number of sessions open or being dialled, for people.
func (p *Pool[S]) Open() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.open()
}

// Close closes every session, the lent ones too, and ends every wait with ESHUTDOWN. It may be called twice.
func (p *Pool[S]) Close() error {
	p.mu.Lock()
	if !p.closed {
		p.closed = true
		p.cancel()
		for _, w := range p.waiting {
			p.fail(w, errClosed())
		}
		for _, h := range p.idle {
			p.discard(h)
		}
		for l := range p.lent {
			p.discard(l.held)
		}
		p.waiting, p.idle, p.parked = nil, nil, nil
		p.schedule()
	}
	p.mu.Unlock()
	p.work.Wait()
	return nil
}
