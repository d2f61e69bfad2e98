package retry

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"pierfs/backends"
)

const (
	longestProbePause  = 30 * time.Second
	firstRefusalPause  = 15 * time.Minute
	longestRefusalWait = 4 * time.Hour
)

// State is whether the server can be reached, as far as calls and probes have shown.
type State struct {
	Online bool
	Since  time.Time
	Err    error // why it is offline; nil when Online
}

// condition is what is known of the connection.
type condition int

const (
	unknown condition = iota // nothing was answered yet
	online
	offline
	refused // offline, and nothing may probe it
)

// line is the breaker: it knows whether the server answers and keeps calls from finding out one by one that it does not.
type line struct {
	backend backends.Backend
	policy  Policy
	tell    func(State)

	ctx    context.Context // ended by close
	cancel context.CancelFunc
	probes sync.WaitGroup

	mu        sync.Mutex
	condition condition
	since     time.Time
	err       error
	answered  time.Time     // when a call was last answered
	pulse     chan struct{} // closed and replaced at every answer that somebody waits for; nil if nobody does
	probing   bool          // a probe runs
	knocked   chan struct{} // holds one when the probe is to ask without waiting
	asked     chan struct{} // closed when the probe has begun to ask and is through with it; nil if nobody waits for it
	refusals  int           // in a row
	nextTry   time.Time     // when a call may try a refused login again; zero while a probe does it
	news      []State       // not yet told
	telling   bool          // somebody is telling
	closed    bool
}

func newLine(b backends.Backend, p Policy, tell func(State)) *line {
	ctx, cancel := context.WithCancel(context.Background())
	return &line{backend: b, policy: p, tell: tell, ctx: ctx, cancel: cancel, knocked: make(chan struct{}, 1)}
}

// admit lets a call through, keeps one that is under way waiting until the connection is back, or fails.
func (l *line) admit(ctx context.Context, u *budget, op, name string) error {
	for {
		l.mu.Lock()
		if l.closed {
			l.mu.Unlock()
			return shutdown(op, name)
		}
		switch {
		case l.condition == refused && (l.probing || time.Now().Before(l.nextTry)):
			err := l.refusal(op, name)
			l.mu.Unlock()
			return err
		case l.condition == refused:
			l.nextTry = time.Now().Add(l.refusalPause()) // this call tries, the others do not
		case l.condition == offline:
			err, pulse := l.outage(op, name), l.waitChannel()
			l.mu.Unlock()
			left := time.Until(u.deadline(0))
			if !u.wasSent() || left <= 0 || !l.sleep(ctx, left, pulse) {
				return err
			}
			continue
		}
		l.mu.Unlock()
		u.markSent()
		return nil
	}
}

// sleep is sleep that also ends with the line; it reports whether both still live.
func (l *line) sleep(ctx context.Context, d time.Duration, wake <-chan struct{}) bool {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(l.ctx, cancel)()
	return sleep(ctx, d, wake)
}

// pause waits before a repetition: at least least, and then until d is over or anybody was answered.
func (l *line) pause(ctx context.Context, least, d time.Duration) bool {
	least = min(least, d)
	if !l.sleep(ctx, least, nil) {
		return false
	}
	l.mu.Lock()
	pulse := l.waitChannel()
	l.mu.Unlock()
	return l.sleep(ctx, d-least, pulse)
}

// waitChannel returns what the next answer closes. l.mu is held.
func (l *line) waitChannel() <-chan struct{} {
	if l.pulse == nil {
		l.pulse = make(chan struct{})
	}
	return l.pulse
}

// answer notes that the server answered.
func (l *line) answer() {
	l.mu.Lock()
	l.answered = time.Now()
	if l.pulse != nil {
		close(l.pulse)
		l.pulse = nil
	}
	l.refusals = 0
	l.become(online, nil)
	l.tellNews()
}

// giveUp notes that a call whose last attempt began at began has spent its budget on err.
func (l *line) giveUp(began time.Time, err error) {
	l.mu.Lock()
	if l.closed || l.away() || l.answered.After(began) || answers(err) {
		l.mu.Unlock()
		return
	}
	l.become(offline, err)
	l.startProbe()
	l.tellNews()
}

// answers reports whether err shows that the server is there: it is full, or only its data connections fail.
func answers(err error) bool {
	cause := backends.CauseOf(err)
	return cause == backends.CauseTooManySessions || cause == backends.CausePassiveBlocked
}

// refuse notes that the login was refused. A probe goes on where that cannot lock an account: a host key may be trusted, a
// working directory made at any time.
func (l *line) refuse(err error) {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return
	}
	l.become(refused, err)
	if mayLock(err) {
		l.nextTry = time.Now().Add(l.refusalPause())
		l.refusals++
	} else {
		l.startProbe()
	}
	l.tellNews()
}

// mayLock reports whether the refusal may have been counted against the account.
func mayLock(err error) bool {
	switch backends.CauseOf(err) {
	case backends.CauseAuth, backends.CauseAuthMethod, "":
		return true
	}
	return false
}

// startProbe starts the one probe. l.mu is held.
func (l *line) startProbe() {
	if !l.probing {
		l.probing = true
		l.probes.Go(l.probe)
	}
}

// knock has the probe ask now, and starts it where a refused login is left alone. What it returns is closed when there is an
// answer, or none was to be had in time.
func (l *line) knock() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || !l.away() {
		asked := make(chan struct{})
		close(asked)
		return asked
	}
	if l.asked == nil {
		l.asked = make(chan struct{})
	}
	select {
	case l.knocked <- struct{}{}:
	default: // it is to ask already
	}
	l.startProbe()
	return l.asked
}

// refusalPause is how long nothing is sent after a refusal. l.mu is held.
func (l *line) refusalPause() time.Duration {
	return min(firstRefusalPause<<min(l.refusals, 8), longestRefusalWait)
}

// become changes the condition and queues the news of it. l.mu is held.
func (l *line) become(c condition, err error) {
	if l.condition == c && backends.CauseOf(l.err) == backends.CauseOf(err) {
		l.err = err
		return
	}
	if !l.away() || c == online {
		l.since = time.Now()
	}
	l.condition, l.err = c, err
	l.news = append(l.news, State{Online: c == online, Since: l.since, Err: err})
}

// away reports whether the connection is known not to work. l.mu is held.
func (l *line) away() bool { return l.condition == offline || l.condition == refused }

// tellNews unlocks l.mu and tells what is queued, in order, without holding it.
func (l *line) tellNews() {
	defer l.mu.Unlock()
	if l.telling {
		return // whoever tells sees what we queued
	}
	l.telling = true
	for len(l.news) > 0 {
		state := l.news[0]
		l.news = l.news[1:]
		if l.tell == nil {
			continue
		}
		l.mu.Unlock()
		l.tell(state)
		l.mu.Lock()
	}
	l.telling = false
}

// probe asks for the working directory until the server answers, or refuses in a way that may lock the account. It is
// started by startProbe, alone, and ends with the line.
func (l *line) probe() {
	defer l.endProbe()
	pause := firstPause
	for l.sleep(l.ctx, jitter(pause), l.knocked) {
		if l.works() {
			return // a call that was under way got through first
		}
		asked := l.takeAsked()
		again := l.ask()
		if asked != nil {
			close(asked)
		}
		if !again {
			return
		}
		pause = min(2*pause, longestProbePause)
	}
}

// ask is one question of the probe. It reports whether another is due.
func (l *line) ask() (again bool) {
	ctx, cancel := context.WithTimeout(l.ctx, l.policy.timeout())
	defer cancel()
	_, err := l.backend.Stat(ctx, "")
	switch class := backends.ClassOf(err); {
	case l.ctx.Err() != nil:
		return false
	case err == nil || class == backends.Final && !isContext(err):
		l.answer()
		return false
	case class == backends.Refused && !l.policy.Auth:
		l.refuse(err)
		return !mayLock(err)
	}
	return true
}

// takeAsked returns what to close when the question that begins now is through; nil if nobody waits for it. Who knocks later is not
// told by it: what he has reason to believe may have come about behind the question.
func (l *line) takeAsked() chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	asked := l.asked
	l.asked = nil
	return asked
}

// endProbe ends the probe. A call may have found the server away again just before, or somebody knocked while the last question was
// under way.
func (l *line) endProbe() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.probing = false
	if !l.closed && (l.condition == offline || l.condition == refused && (!mayLock(l.err) || l.asked != nil)) {
		l.startProbe()
		return
	}
	if l.asked != nil {
		close(l.asked)
		l.asked = nil
	}
}

func (l *line) works() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.away()
}

// outage is what a call gets that is not sent because the connection is offline. l.mu is held.
func (l *line) outage(op, name string) error {
	e := failure(op, name, syscall.EHOSTDOWN, backends.Transient, backends.CauseOffline,
		fmt.Errorf("offline since %s: %w", l.since.Format(time.RFC3339), l.err))
	e.Hint = "the server is asked in the background until it answers; nothing needs to be restarted"
	return e
}

// refusal is what a call gets that is not sent because the login was refused. l.mu is held.
func (l *line) refusal(op, name string) error {
	last, _ := errors.AsType[*backends.Error](l.err)
	e := *last
	e.Op, e.Name = op, name
	again := "asked again in the background"
	if !l.probing {
		again = "not asked again before " + l.nextTry.Format(time.RFC3339)
	}
	e.Err = fmt.Errorf("refused since %s, %s: %w", l.since.Format(time.RFC3339), again, l.err)
	return &e
}

// close ends the probe and every pause.
func (l *line) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.cancel()
}

func shutdown(op, name string) error {
	return failure(op, name, syscall.ESHUTDOWN, backends.Final, "", nil)
}

// isContext reports whether err only tells that a context ended.
func isContext(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}
