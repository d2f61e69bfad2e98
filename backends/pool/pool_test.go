package pool

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pierfs/backends"
)

// server is what sessions are dialled to.
type server struct {
	mu     sync.Mutex
	open   int
	most   int // that were open at a time
	dials  int
	bears  int   // sessions; 0 is any number
	refuse error // every login
	full   error // what is said when no more are borne
	takes  time.Duration
}

type session struct {
	of     *server
	dead   atomic.Bool
	cooled atomic.Bool
	closed sync.Once
}

func (s *session) Healthy() bool { return !s.dead.Load() }

func (s *session) Close() error {
	s.closed.Do(func() {
		s.dead.Store(true)
		s.of.mu.Lock()
		defer s.of.mu.Unlock()
		s.of.open--
	})
	return nil
}

func (s *server) dial(ctx context.Context) (*session, error) {
	select {
	case <-time.After(s.takes):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dials++
	switch {
	case s.refuse != nil:
		return nil, s.refuse
	case s.bears > 0 && s.open >= s.bears:
		return nil, s.full
	}
	s.open++
	s.most = max(s.most, s.open)
	return &session{of: s}, nil
}

func (s *server) opened() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open
}

func (s *server) dialled() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dials
}

func (s *server) is(change func(*server)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

var (
	tooMany = &backends.Error{Op: "connect", Code: syscall.EIO, Class: backends.Transient, Cause: backends.CauseTooManySessions}
	badPass = &backends.Error{Op: "connect", Code: syscall.EACCES, Class: backends.Refused, Cause: backends.CauseAuth}
	noRoute = &backends.Error{Op: "connect", Code: syscall.EHOSTUNREACH, Class: backends.Transient, Cause: backends.CauseNoRoute}
)

// run runs f on a Pool of a server, with a clock of its own.
func run(t *testing.T, s *server, o Options[*session], f func(t *testing.T, p *Pool[*session])) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		if s.takes == 0 {
			s.takes = 100 * time.Millisecond
		}
		o.Dial = s.dial
		o.Cool = func(s *session) { s.cooled.Store(true) }
		p := New(o)
		defer func() {
			p.Close()
			if n := s.opened(); n != 0 {
				t.Errorf("%d sessions are open after Close", n)
			}
		}()
		f(t, p)
	})
}

func take(t *testing.T, p *Pool[*session], kind Kind) *Lease[*session] {
	t.Helper()
	l, err := p.Take(t.Context(), kind)
	if err != nil {
		t.Fatalf("Take: %v", err)
	}
	return l
}

// trying takes in the background; the channel gets the error and the lease is released at once.
func trying(p *Pool[*session], kind Kind) <-chan error {
	done := make(chan error, 1)
	go func() {
		l, err := p.Take(context.Background(), kind)
		if err == nil {
			l.Release()
		}
		done <- err
	}()
	return done
}

func waits(t *testing.T, done <-chan error, what string) {
	t.Helper()
	synctest.Wait()
	select {
	case err := <-done:
		t.Fatalf("%s did not wait: %v", what, err)
	default:
	}
}

func TestSessionsAreUsedAgain(t *testing.T) {
	s := &server{}
	run(t, s, Options[*session]{}, func(t *testing.T, p *Pool[*session]) {
		for range 10 {
			l := take(t, p, Meta)
			if !l.Fresh() {
				t.Error("a session used a moment ago is not fresh")
			}
			l.Release()
			l.Release()
		}
		if n := s.dialled(); n != 1 {
			t.Errorf("%d logins, want 1", n)
		}
		time.Sleep(fresh)
		if take(t, p, Meta).Fresh() {
			t.Error("a session that was idle for 5 s is fresh")
		}
	})
}

func TestNoMoreThanMax(t *testing.T) {
	s := &server{}
	run(t, s, Options[*session]{Max: 3}, func(t *testing.T, p *Pool[*session]) {
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() {
				l, err := p.Take(t.Context(), Meta)
				if err != nil {
					t.Errorf("Take: %v", err)
					return
				}
				time.Sleep(time.Second)
				l.Release()
			})
		}
		all.Wait()
		if s.most > 3 {
			t.Errorf("%d sessions at a time, at most 3 may be", s.most)
		}
	})
}

// One session stays for questions, so that no number of transfers keeps them waiting.
func TestTransfersLeaveOneSession(t *testing.T) {
	run(t, &server{}, Options[*session]{Max: 3}, func(t *testing.T, p *Pool[*session]) {
		first, second := take(t, p, Content), take(t, p, Content)
		third := trying(p, Content)
		waits(t, third, "a third transfer")
		take(t, p, Meta).Release()
		waits(t, third, "a third transfer beside an idle session")
		first.Release()
		if err := <-third; err != nil {
			t.Error(err)
		}
		second.Release()
	})
}

func TestOneSessionServesAll(t *testing.T) {
	run(t, &server{}, Options[*session]{Max: 1}, func(t *testing.T, p *Pool[*session]) {
		l := take(t, p, Content)
		meta := trying(p, Meta)
		waits(t, meta, "a question")
		l.Release()
		if err := <-meta; err != nil {
			t.Error(err)
		}
	})
}

func TestParkedSessionIsTakenAway(t *testing.T) {
	run(t, &server{}, Options[*session]{Max: 2}, func(t *testing.T, p *Pool[*session]) {
		reader, other := take(t, p, Content), take(t, p, Meta)
		revoked := false
		reader.Park(func() {
			revoked = true
			reader.Release()
		})
		synctest.Wait()
		if revoked {
			t.Error("a session was taken away that nobody wanted")
		}
		take(t, p, Content).Release()
		if !revoked || reader.Unpark() {
			t.Errorf("revoked %v, or it can be unparked", revoked)
		}
		other.Release()
	})
}

func TestUnparkedSessionStays(t *testing.T) {
	run(t, &server{}, Options[*session]{Max: 1}, func(t *testing.T, p *Pool[*session]) {
		l := take(t, p, Content)
		l.Park(func() { t.Error("revoked after Unpark") })
		if !l.Unpark() {
			t.Fatal("it cannot be unparked")
		}
		meta := trying(p, Meta)
		waits(t, meta, "a question")
		l.Release()
		<-meta
	})
}

// A greeting of 421 says how many sessions the server bears. Nobody gets an error for it.
func TestLimitIsLearned(t *testing.T) {
	s := &server{bears: 2, full: tooMany}
	run(t, s, Options[*session]{Max: 4, Wait: time.Hour}, func(t *testing.T, p *Pool[*session]) {
		first, second := take(t, p, Meta), take(t, p, Meta)
		third := trying(p, Meta)
		waits(t, third, "a third")
		time.Sleep(time.Second)
		waits(t, third, "a third, after a refused login")
		if n := s.dialled(); n != 3 {
			t.Errorf("%d logins within a second, want 3", n)
		}
		first.Release()
		if err := <-third; err != nil {
			t.Error(err)
		}
		take(t, p, Meta) // and keeps it
		s.is(func(s *server) { s.bears = 4 })
		begun := time.Now()
		take(t, p, Meta).Release() // comes when one more is tried
		if waited := time.Since(begun); waited < 20*time.Second || waited > 45*time.Second {
			t.Errorf("one more was tried after %v, want about 30 s", waited)
		}
		second.Release()
	})
}

// Where no session is open there is nothing to wait for: whoever repeats decides when.
func TestFullServerIsAnErrorWhereNothingIsOpen(t *testing.T) {
	s := &server{refuse: tooMany}
	run(t, s, Options[*session]{}, func(t *testing.T, p *Pool[*session]) {
		for range 3 {
			begun := time.Now()
			_, err := p.Take(t.Context(), Meta)
			if backends.CauseOf(err) != backends.CauseTooManySessions || backends.ClassOf(err) != backends.Transient || time.Since(begun) > time.Second {
				t.Errorf("got %v after %v, want a transient error at once", err, time.Since(begun))
			}
		}
		s.is(func(s *server) { s.refuse = nil })
		take(t, p, Meta).Release()
	})
}

// Whoever waits for a login that a silent server does not end is kept waiting by the server, and not by too many sessions: that
// decides whether the connection counts as away.
func TestSilentLoginIsSilence(t *testing.T) {
	s := &server{takes: time.Hour}
	run(t, s, Options[*session]{Wait: 2 * time.Second}, func(t *testing.T, p *Pool[*session]) {
		for range 2 {
			begun := time.Now()
			_, err := p.Take(t.Context(), Meta)
			if took := time.Since(begun); took != 2*time.Second {
				t.Errorf("waited for %v, want 2 s", took)
			}
			if cause := backends.CauseOf(err); cause != backends.CauseSilent || backends.ClassOf(err) != backends.Transient {
				t.Errorf("got %v, cause %q; want a transient %q", err, cause, backends.CauseSilent)
			}
		}
	})
	run(t, new(server), Options[*session]{Max: 1, Wait: 2 * time.Second}, func(t *testing.T, p *Pool[*session]) {
		defer take(t, p, Meta).Release()
		if _, err := p.Take(t.Context(), Meta); backends.CauseOf(err) != backends.CauseTooManySessions {
			t.Errorf("while another holds the only session: %v, cause %q; want %q", err, backends.CauseOf(err), backends.CauseTooManySessions)
		}
	})
}

// The pause before one more is tried doubles, up to five minutes.
func TestLimitIsTriedLessAndLess(t *testing.T) {
	s := &server{bears: 1, full: tooMany}
	run(t, s, Options[*session]{Wait: 24 * time.Hour}, func(t *testing.T, p *Pool[*session]) {
		l := take(t, p, Meta)
		second := trying(p, Meta)
		time.Sleep(time.Hour)
		if n := s.dialled() - 1; n < 10 || n > 20 {
			t.Errorf("%d logins were tried in an hour, want 10 to 20", n)
		}
		l.Release()
		<-second
	})
}

// proftpd refuses the password when it has too many sessions.
func TestRefusedLoginAfterSuccessIsALimit(t *testing.T) {
	s := &server{bears: 1, full: badPass}
	run(t, s, Options[*session]{Wait: time.Minute}, func(t *testing.T, p *Pool[*session]) {
		l := take(t, p, Meta)
		second := trying(p, Meta)
		time.Sleep(time.Second)
		waits(t, second, "a second")
		l.Release()
		if err := <-second; err != nil {
			t.Error(err)
		}
	})
}

// A password that was changed on the server must not be tried until the account is locked.
func TestPasswordThatIsNoLongerGoodIsNotTriedForEver(t *testing.T) {
	s := &server{}
	run(t, s, Options[*session]{Wait: time.Minute}, func(t *testing.T, p *Pool[*session]) {
		l := take(t, p, Meta)
		s.is(func(s *server) { s.refuse = badPass })
		l.Session().dead.Store(true)
		l.Discard()
		var err error
		for range 20 {
			_, err = p.Take(t.Context(), Meta)
			if cause := backends.CauseOf(err); cause != backends.CauseAuth {
				t.Errorf("%v is told as %q, want %q: no session is open that could use the number up", err, cause, backends.CauseAuth)
			}
			if backends.ClassOf(err) == backends.Refused {
				break
			}
		}
		if backends.ClassOf(err) != backends.Refused {
			t.Errorf("got %v, want a refusal in the end", err)
		}
		if n := s.dialled() - 1; n > doubts {
			t.Errorf("the password was tried %d times, at most %d", n, doubts)
		}
	})
}

func TestFirstRefusedLoginIsTriedOnce(t *testing.T) {
	s := &server{refuse: badPass}
	run(t, s, Options[*session]{}, func(t *testing.T, p *Pool[*session]) {
		var all []<-chan error
		for range 8 {
			all = append(all, trying(p, Meta))
		}
		synctest.Wait()
		begun := time.Now()
		for _, done := range all {
			if err := <-done; !errors.Is(err, badPass) {
				t.Errorf("got %v, want the refusal", err)
			}
		}
		if time.Since(begun) > time.Second {
			t.Error("some waited longer than for the login")
		}
		if n := s.dialled(); n > 1 {
			t.Errorf("the password was tried %d times, want once: it may lock the account", n)
		}
	})
}

func TestUnreachableServerIsAnErrorAtOnce(t *testing.T) {
	s := &server{refuse: noRoute}
	run(t, s, Options[*session]{}, func(t *testing.T, p *Pool[*session]) {
		if _, err := p.Take(t.Context(), Meta); !errors.Is(err, noRoute) {
			t.Errorf("got %v, want %v", err, noRoute)
		}
		s.is(func(s *server) { s.refuse = nil })
		take(t, p, Meta).Release()
	})
}

func TestWaitEndsWithItsContext(t *testing.T) {
	run(t, &server{}, Options[*session]{Max: 1}, func(t *testing.T, p *Pool[*session]) {
		l := take(t, p, Meta)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := p.Take(ctx, Meta); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want the context's end", err)
		}
		_, err := p.Take(t.Context(), Meta)
		if backends.CauseOf(err) != backends.CauseTooManySessions || backends.ClassOf(err) != backends.Transient {
			t.Errorf("got %v, want an error that tells of too many sessions", err)
		}
		l.Release()
		take(t, p, Meta).Release()
	})
}

func TestIdleSessionsAreClosedButOne(t *testing.T) {
	s := &server{}
	run(t, s, Options[*session]{Max: 4}, func(t *testing.T, p *Pool[*session]) {
		var all []*Lease[*session]
		for range 4 {
			all = append(all, take(t, p, Meta))
		}
		last := all[3].Session()
		for _, l := range all {
			l.Release()
		}
		time.Sleep(coolAfter - time.Second)
		if last.cooled.Load() {
			t.Error("cooled too early")
		}
		time.Sleep(2 * time.Second)
		if !last.cooled.Load() {
			t.Error("not cooled after 15 s")
		}
		time.Sleep(time.Hour)
		if n := s.opened(); n != 1 {
			t.Errorf("%d sessions are open after an hour, want 1", n)
		}
	})
}

// Holds row 61 of the requirements.
func TestLastIdleSessionIsClosedInTheEnd(t *testing.T) {
	s := &server{}
	run(t, s, Options[*session]{Max: 4, Last: 10 * time.Minute}, func(t *testing.T, p *Pool[*session]) {
		first, second := take(t, p, Meta), take(t, p, Meta)
		first.Release()
		second.Release()
		time.Sleep(10*time.Minute - time.Second)
		if n := s.opened(); n != 1 {
			t.Errorf("%d sessions are open after nearly ten minutes, want 1", n)
		}
		time.Sleep(2 * time.Second)
		if n := s.opened(); n != 0 {
			t.Errorf("%d sessions are open after ten minutes, want none", n)
		}
		lent := take(t, p, Meta)
		time.Sleep(time.Hour)
		if n := s.opened(); n != 1 {
			t.Errorf("%d sessions are open while one is lent", n)
		}
		lent.Release()
	})
}

// A server that has ended one idle session has most likely ended all.
func TestDeadSessionTakesTheOldOnesAlong(t *testing.T) {
	s := &server{}
	run(t, s, Options[*session]{Max: 4}, func(t *testing.T, p *Pool[*session]) {
		for _, l := range []*Lease[*session]{take(t, p, Meta), take(t, p, Meta), take(t, p, Meta)} {
			defer l.Release()
		}
		take(t, p, Meta).Release()
		time.Sleep(time.Minute / 2)
		take(t, p, Meta).Discard()
		if l := take(t, p, Meta); !l.Fresh() {
			t.Error("a session as old as the dead one was lent")
		}
	})
}

func TestUnhealthySessionIsNotLent(t *testing.T) {
	s := &server{}
	run(t, s, Options[*session]{}, func(t *testing.T, p *Pool[*session]) {
		l := take(t, p, Meta)
		dead := l.Session()
		l.Release()
		dead.dead.Store(true)
		if take(t, p, Meta).Session() == dead {
			t.Error("a dead session was lent")
		}
	})
}

func TestCloseEndsEverything(t *testing.T) {
	s := &server{}
	run(t, s, Options[*session]{Max: 1}, func(t *testing.T, p *Pool[*session]) {
		l := take(t, p, Content)
		l.Park(func() { l.Release() })
		l.Unpark()
		waiting := trying(p, Meta)
		synctest.Wait()
		p.Close()
		p.Close()
		if err := <-waiting; backends.Errno(err) != syscall.ESHUTDOWN {
			t.Errorf("got %v, want ESHUTDOWN", err)
		}
		if l.Session().Healthy() {
			t.Error("a lent session was left open")
		}
		l.Release()
		if _, err := p.Take(t.Context(), Meta); backends.Errno(err) != syscall.ESHUTDOWN {
			t.Errorf("got %v, want ESHUTDOWN", err)
		}
	})
}
