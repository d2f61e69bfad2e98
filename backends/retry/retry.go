// Package retry repeats what may be repeated, and knows when to stop asking.
//
// It promises to its callers:
//
//   - A call ends within Timeout x (Count+1), pauses and logins included. Only the moving of content may take longer, as
//     long as it moves: what n bytes take at the least that counts as progress, 1 KiB within Timeout.
//   - At most Count+1 attempts are made. They begin at 0, at about 0.2 s, and then at ever longer distances up to
//     Timeout x Count, so that an outage which ends before that is not seen. Any other call that gets an answer meanwhile
//     ends a pause early, that of an upload too, and that of an upload is short if anything was answered behind what broke it.
//   - Only Transient and Lost failures are repeated. After a Lost change the server is asked for its state first, so that a
//     success of our own never comes back as EEXIST or ENOENT.
//   - An open Reader goes on after a reconnect if size, time and identity of the file are unchanged; else ESTALE.
//   - A Writer that loses its connection stays lost: the caller repeats the whole upload by Policy.Do. What Create, Stat and
//     Commit spend inside Do is counted in Do's budget, so that attempts never multiply.
//
// The second half is the breaker (line.go). After one call, or one upload, has spent its budget, and no other call was answered
// meanwhile, the connection is offline: calls that begin then fail at once with EHOSTDOWN (which is what CIFS says too), Transient,
// Cause offline; calls that were under way wait for the news until their own budget ends. That Create or Readlink succeed is no
// answer, for they may know without asking. One probe (Stat of the working directory) runs after 0.2 s, then ever more rarely
// up to every 30 s, and ends with the first answer or with Close. Greet opens the breaker after one attempt, for a connection
// that nobody has used yet.
//
// A refusal (host key, login, working directory) is given up at once, and calls get it again without anything being sent.
// Where asking cannot lock an account, the probe goes on, so that a key trusted or a directory made is noticed by itself. A
// refused login is not probed: one call may try it after 15 minutes, then one after 30 and so on up to every 4 hours. With
// Policy.Auth a refusal is repeated and probed as an outage is.
//
// Locks: line.mu and budget.mu guard fields only and are taken alone; neither is held across a call or a callback.
package retry

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"syscall"
	"time"

	"pierfs/backends"
)

const (
	firstPause     = 200 * time.Millisecond
	defaultTimeout = 30 * time.Second
	leastProgress  = 1024 // bytes within Timeout
)

// Policy is how often and how long a call is tried. The zero value tries once, for 30 seconds.
type Policy struct {
	Count   int           // further attempts after the first
	Timeout time.Duration // of one attempt without progress; a call may last Timeout x (Count+1) in all; 0 means 30 s
	Auth    bool          // repeat refused logins too
}

func (p Policy) timeout() time.Duration {
	if p.Timeout <= 0 {
		return defaultTimeout
	}
	return p.Timeout
}

// budget is the time that may pass without progress.
func (p Policy) budget() time.Duration { return p.timeout() * time.Duration(p.count()+1) }

func (p Policy) count() int { return max(p.Count, 0) }

// start tells when after the first attempt the k-th repetition begins if everything before failed at once: 0.2 s for the
// first, Timeout x Count for the last, and in between each further by the same factor.
func (p Policy) start(k int) time.Duration {
	last := p.timeout() * time.Duration(p.count())
	if k <= 1 || last <= firstPause {
		return min(firstPause, last)
	}
	exponent := float64(k-1) / float64(p.count()-1)
	return time.Duration(float64(firstPause) * math.Pow(float64(last)/float64(firstPause), exponent))
}

// mayRepeat reports whether err may have been a passing trouble.
func (p Policy) mayRepeat(err error) bool {
	switch backends.ClassOf(err) {
	case backends.Transient, backends.Lost:
		return true
	case backends.Refused:
		return p.Auth
	}
	return false
}

// Do calls f, which makes one whole upload, until it succeeds, fails finally, or the budget is spent. The calls of f must
// use the context that f is given and go through a Backend made by New, for these report progress: the budget counts from
// the last one. f starts afresh each time, with a new Writer. The last error is returned.
func (p Policy) Do(ctx context.Context, f func(context.Context) error) error {
	if budgetOf(ctx) != nil {
		return f(ctx) // the outer Do repeats
	}
	u := newBudget(p)
	ctx = context.WithValue(ctx, budgetKey{}, u)
	for {
		err := f(ctx)
		if err == nil || ctx.Err() != nil || !p.mayRepeat(err) || backends.CauseOf(err) == backends.CauseOffline {
			return err
		}
		pause, ok := u.failed(true)
		if !ok {
			u.tellLine(err)
			return u.spent(err)
		}
		if !u.pause(ctx, pause, err) {
			return err
		}
	}
}

// budget is what one call, or one upload by Do, may still spend.
type budget struct {
	policy Policy
	began  time.Time

	mu       sync.Mutex
	since    time.Time // of the last progress
	failures int       // attempts that failed; never reset, so that an upload is not begun for ever
	over     bool
	sent     bool  // an attempt was made while the connection was not known to be offline
	line     *line // that an upload goes by; nil before its first call
	back     bool  // the server has answered a call since what failed last
}

type budgetKey struct{}

func newBudget(p Policy) *budget {
	now := time.Now()
	return &budget{policy: p, began: now, since: now}
}

// budgetOf returns the budget of the Do that ctx comes from; nil outside.
func budgetOf(ctx context.Context) *budget {
	u, _ := ctx.Value(budgetKey{}).(*budget)
	return u
}

// progress notes that the server answered or took content.
func (u *budget) progress() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.since = time.Now()
}

// answered is progress by an answer of the server.
func (u *budget) answered() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.since, u.back = time.Now(), true
}

// broke notes that a call, or a part of an upload, failed in a way that may pass.
func (u *budget) broke() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.back = false
}

// pause waits before an upload that failed with err is begun anew: for d, but no longer than it takes the server to be there, if it
// was away. It reports whether ctx, and the line, are still alive.
func (u *budget) pause(ctx context.Context, d time.Duration, err error) bool {
	u.mu.Lock()
	l, back, least := u.line, u.back, floor(u.failures)
	u.mu.Unlock()
	if l == nil || answers(err) {
		return sleep(ctx, d, nil)
	}
	if back {
		d = min(d, least)
	}
	return l.pause(ctx, least, d)
}

// deadline is when an attempt must end that moves n bytes. The first may take as long as n bytes take at the least rate;
// the later ones have what is left.
func (u *budget) deadline(n int64) time.Time {
	u.mu.Lock()
	defer u.mu.Unlock()
	end := u.since.Add(u.policy.budget())
	if u.failures > 0 && n != endless {
		return end
	}
	const longest = 1 << 20 // as KiB; keeps the product below an overflow
	return end.Add(u.policy.timeout() * time.Duration(min(max(n, 0)/leastProgress, longest)))
}

// failed counts a failed attempt and tells how long to wait before the next one; ok is false if there is none. moving says
// that the attempt moved content: it may have lasted long, but its silence before the end was no longer than Timeout.
func (u *budget) failed(moving bool) (pause time.Duration, ok bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.over {
		return 0, false
	}
	now := time.Now()
	if longAgo := now.Add(-u.policy.timeout()); moving && u.failures == 0 && u.since.Before(longAgo) {
		u.since = longAgo
	}
	u.failures++
	pause = max(u.policy.start(u.failures)-now.Sub(u.since), floor(u.failures))
	pause = jitter(pause)
	if u.failures > u.policy.count() || now.Add(pause).Sub(u.since) >= u.policy.budget() {
		u.over = true
		return 0, false
	}
	return pause, true
}

// attempts returns how many were made and failed.
func (u *budget) attempts() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.failures
}

// markSent notes that the call was under way while the connection was not known to be offline.
func (u *budget) markSent() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.sent = true
}

func (u *budget) wasSent() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.sent
}

// use notes the line that an upload goes by.
func (u *budget) use(l *line) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.line = l
}

// tellLine tells the line that an upload has spent its budget on err: its calls may all have been answered but those that
// move content. A failure without a cause is one that the server told of itself, and a connection that broke had been there.
func (u *budget) tellLine(err error) {
	u.mu.Lock()
	l, since := u.line, u.since
	u.mu.Unlock()
	if cause := backends.CauseOf(err); l != nil && cause != "" && cause != backends.CauseConnLost {
		l.giveUp(since, err)
	}
}

// spent returns err with the note that it was the last of several. Who calls within a Do has it from the call, and from the Do.
func (u *budget) spent(err error) error {
	e, ok := errors.AsType[*backends.Error](err)
	n := u.attempts()
	if !ok || n < 2 {
		return err
	}
	told := *e
	reason := e.Err
	if reason == nil {
		reason = e.Code
	}
	if last, ok := reason.(*lastOf); ok {
		reason = last.error
	}
	told.Err = &lastOf{reason, n, time.Since(u.began)}
	return &told
}

// lastOf is the last of n errors in took.
type lastOf struct {
	error
	n    int
	took time.Duration
}

func (l *lastOf) Error() string {
	return fmt.Sprintf("%v (given up after %d attempts in %s)", l.error, l.n, l.took.Round(time.Millisecond))
}

func (l *lastOf) Unwrap() error { return l.error }

// floor is the shortest pause after the k-th failure, for a server that answers others and never us.
func floor(k int) time.Duration { return min(firstPause<<min(k-1, 8), 30*time.Second) }

// jitter shortens d by up to a quarter, so that many who failed at once do not return at once.
func jitter(d time.Duration) time.Duration { return d - time.Duration(rand.Float64()*float64(d)/4) }

// sleep waits for d or until wake is closed, and reports whether ctx is still alive.
func sleep(ctx context.Context, d time.Duration, wake <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-wake:
	case <-ctx.Done():
		return false
	}
	return ctx.Err() == nil
}

// failure makes an error of our own.
func failure(op, name string, code syscall.Errno, class backends.Class, cause backends.Cause, err error) *backends.Error {
	return &backends.Error{Op: op, Name: name, Code: code, Class: class, Cause: cause, Err: err}
}
