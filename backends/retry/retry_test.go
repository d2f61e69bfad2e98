package retry_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pierfs/backends"
	"pierfs/backends/backendtest"
	"pierfs/backends/mem"
	"pierfs/backends/retry"
)

var policy = retry.Policy{Count: 3, Timeout: 10 * time.Second}

const budget = 40 * time.Second // of policy

func TestContract(t *testing.T) {
	backendtest.Run(t, func(t *testing.T) backends.Backend {
		return retry.New(mem.New(mem.Options{}), policy, retry.Options{})
	}, backendtest.Options{Beside: true})
}

// down is a server that refuses connections.
func down(_ context.Context, op, name string) error {
	return &backends.Error{Op: op, Name: name, Code: syscall.ECONNREFUSED, Class: backends.Transient, Cause: backends.CauseConnRefused}
}

// lost is a connection that breaks.
func lost(op, name string) error {
	return &backends.Error{Op: op, Name: name, Code: syscall.ECONNRESET, Class: backends.Lost, Cause: backends.CauseConnLost}
}

// silent is a server that does not answer: the protocol's own timeout ends each attempt.
func silent(ctx context.Context, op, name string) error {
	select {
	case <-time.After(policy.Timeout):
		return &backends.Error{Op: op, Name: name, Code: syscall.ETIMEDOUT, Class: backends.Lost, Cause: backends.CauseSilent}
	case <-ctx.Done():
		return ctx.Err()
	}
}

// hung is a backend that breaks the contract: only the end of its context ends a call.
func hung(ctx context.Context, op, name string) error {
	<-ctx.Done()
	return ctx.Err()
}

// bed is a server, the backend under test, and the news it told.
type bed struct {
	*testing.T
	server *mem.Backend
	b      *retry.Backend

	mu   sync.Mutex
	news []retry.State
}

// try runs f with p in a bubble whose clock is its own.
func try(t *testing.T, p retry.Policy, f func(*bed)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &bed{T: t, server: mem.New(mem.Options{})}
		s.b = retry.New(s.server, p, retry.Options{State: func(state retry.State) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.news = append(s.news, state)
		}})
		defer s.b.Close()
		f(s)
	})
}

func (s *bed) told() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	words := []string{}
	for _, state := range s.news {
		word := "offline"
		if state.Online {
			word = "online"
		}
		if state.Online != (state.Err == nil) {
			s.Errorf("news %+v: Err and Online disagree", state)
		}
		words = append(words, word)
	}
	return strings.Join(words, " ")
}

func (s *bed) calls(op string) int { return s.server.Calls()[op] }

func (s *bed) ok(err error) {
	s.Helper()
	if err != nil {
		s.Fatalf("got %v, want success", err)
	}
}

func (s *bed) fails(err error, code syscall.Errno, class backends.Class) *backends.Error {
	s.Helper()
	e, ok := errors.AsType[*backends.Error](err)
	if !ok || e.Code != code || e.Class != class {
		s.Fatalf("got %v (code %v, class %v), want code %v, class %v", err, backends.Errno(err), backends.ClassOf(err), code, class)
	}
	return e
}

func (s *bed) stat(name string) error {
	_, err := s.b.Stat(s.Context(), name)
	return err
}

// One attempt is enough to know that a server which was never heard is away: the calls after it fail at once.
func TestGreetingOpensTheBreaker(t *testing.T) {
	for name, fault := range map[string]mem.Hook{"refused": down, "silent": silent, "hung": hung} {
		try(t, policy, func(s *bed) {
			s.server.SetFault(fault)
			began := time.Now()
			if err := s.b.Greet(s.Context()); err == nil {
				s.Fatalf("%s: the greeting succeeded", name)
			} else if strings.Contains(err.Error(), "context") {
				s.Errorf("%s: a person is told %q", name, err)
			}
			if took := time.Since(began); took > policy.Timeout || s.calls("stat") != 1 {
				s.Errorf("%s: the greeting took %v and %d attempts, want one within %v", name, took, s.calls("stat"), policy.Timeout)
			}
			began = time.Now()
			if e := s.fails(s.stat("x"), syscall.EHOSTDOWN, backends.Transient); e.Cause != backends.CauseOffline {
				s.Errorf("%s: the call after it has cause %q", name, e.Cause)
			}
			if took := time.Since(began); took > 0 {
				s.Errorf("%s: the call after it took %v", name, took)
			}
			s.server.SetFault(nil)
			time.Sleep(time.Minute) // of the bubble: the probe comes by
			synctest.Wait()
			if got := s.told(); got != "offline online" {
				s.Errorf("%s: told %q", name, got)
			}
		})
	}
	try(t, policy, func(s *bed) {
		s.ok(s.b.Greet(s.Context()))
		if got := s.told(); got != "online" {
			s.Errorf("an answered greeting told %q", got)
		}
	})
}

// Holds row 29 of the requirements.
func TestRefusedConnectionsAreCounted(t *testing.T) {
	for _, count := range []int{0, 1, 2, 3, 5} {
		p := retry.Policy{Count: count, Timeout: 10 * time.Second}
		try(t, p, func(s *bed) {
			s.server.SetFault(down)
			began := time.Now()
			e := s.fails(s.stat("x"), syscall.ECONNREFUSED, backends.Transient)
			if took, most := time.Since(began), p.Timeout*time.Duration(count+1); took > most {
				s.Errorf("took %v, more than %v", took, most)
			}
			if n := s.calls("stat"); n != count+1 {
				s.Errorf("%d attempts, want %d", n, count+1)
			}
			if e.Cause != backends.CauseConnRefused {
				s.Errorf("cause: got %q", e.Cause)
			}
		})
	}
}

// Holds rows 124 and 125 of the requirements.
func TestSilenceEndsWithinTheBudget(t *testing.T) {
	for name, fault := range map[string]mem.Hook{"silent": silent, "hung": hung} {
		t.Run(name, func(t *testing.T) {
			try(t, policy, func(s *bed) {
				s.server.WriteFile("file", []byte("x"))
				r, err := s.b.Open(s.Context(), "file")
				s.ok(err)
				s.server.SetFault(fault)
				for op, call := range map[string]func() error{
					"stat":   func() error { return s.stat("file") },
					"mkdir":  func() error { return s.b.Mkdir(s.Context(), "dir", 0o755) },
					"remove": func() error { return s.b.Remove(s.Context(), "file") },
					"list":   func() error { _, err := names(s.Context(), s.b, ""); return err },
					"open":   func() error { _, err := s.b.Open(s.Context(), "file"); return err },
					"read":   func() error { _, err := r.ReadAt(s.Context(), make([]byte, 10), 0); return err },
				} {
					began := time.Now()
					s.fails(call(), syscall.ETIMEDOUT, backends.Lost)
					if took := time.Since(began); took > budget {
						s.Errorf("%s took %v, more than %v", op, took, budget)
					}
					s.server.SetFault(nil)
					for s.stat("") != nil {
						time.Sleep(time.Second)
					}
					s.server.SetFault(fault)
				}
			})
		})
	}
}

func names(ctx context.Context, b backends.Backend, dir string) (names []string, err error) {
	for info, err := range b.List(ctx, dir) {
		if err != nil {
			return names, err
		}
		names = append(names, info.Name)
	}
	return names, nil
}

func TestFinalIsNotRepeated(t *testing.T) {
	try(t, policy, func(s *bed) {
		began := time.Now()
		s.fails(s.stat("nothing"), syscall.ENOENT, backends.Final)
		s.fails(s.b.Rmdir(s.Context(), "nothing"), syscall.ENOENT, backends.Final)
		if n := s.calls("stat") + s.calls("rmdir"); n != 2 || time.Since(began) > 0 {
			s.Errorf("%d calls in %v, want 2 at once", n, time.Since(began))
		}
	})
}

func TestOutageWithinTheBudgetIsInvisible(t *testing.T) {
	for _, outage := range []time.Duration{0, time.Millisecond, time.Second, 7 * time.Second, 20 * time.Second} {
		try(t, policy, func(s *bed) {
			s.server.SetFault(down)
			time.AfterFunc(outage, func() { s.server.SetFault(nil) })
			began := time.Now()
			s.ok(s.stat(""))
			if n := s.calls("stat"); n > 4 {
				s.Errorf("%d attempts, want at most 4", n)
			}
			s.Logf("an outage of %v cost %v", outage, time.Since(began))
			if s.told() != "online" {
				s.Errorf("news: got %q, want no word of the outage", s.told())
			}
		})
	}
}

func TestAnAnswerToAnotherEndsThePause(t *testing.T) {
	try(t, retry.Policy{Count: 3, Timeout: time.Minute}, func(s *bed) {
		s.server.SetFault(func(ctx context.Context, op, name string) error {
			if name == "x" {
				return down(ctx, op, name)
			}
			return nil
		})
		s.server.WriteFile("x", nil)
		time.AfterFunc(20*time.Second, func() {
			s.server.SetFault(nil)
			s.stat("")
		})
		began := time.Now()
		s.ok(s.stat("x"))
		if took := time.Since(began); took > 21*time.Second {
			s.Errorf("took %v, want little more than the outage of 20 s", took)
		}
	})
}

func TestCallersContextEndsAtOnceAndBlamesNobody(t *testing.T) {
	for name, fault := range map[string]mem.Hook{"in a pause": down, "in an attempt": hung} {
		t.Run(name, func(t *testing.T) {
			try(t, policy, func(s *bed) {
				s.server.SetFault(fault)
				ctx, cancel := context.WithTimeout(s.Context(), time.Second)
				defer cancel()
				began := time.Now()
				if _, err := s.b.Stat(ctx, ""); err == nil {
					s.Error("got success")
				}
				if took := time.Since(began); took > time.Second {
					s.Errorf("took %v, want 1 s", took)
				}
				s.server.SetFault(nil)
				s.ok(s.stat("")) // not offline
			})
		})
	}
}

// change is a call that must not happen twice, and what shows that it happened.
type change struct {
	call func(ctx context.Context, b backends.Backend) error
	done func(server *mem.Backend) bool
}

var changes = map[string]change{
	"mkdir": {
		func(ctx context.Context, b backends.Backend) error { return b.Mkdir(ctx, "new", 0o755) },
		func(s *mem.Backend) bool { return exists(s, "new") },
	},
	"remove": {
		func(ctx context.Context, b backends.Backend) error { return b.Remove(ctx, "file") },
		func(s *mem.Backend) bool { return !exists(s, "file") },
	},
	"rmdir": {
		func(ctx context.Context, b backends.Backend) error { return b.Rmdir(ctx, "dir") },
		func(s *mem.Backend) bool { return !exists(s, "dir") },
	},
	"rename": {
		func(ctx context.Context, b backends.Backend) error {
			return b.Rename(ctx, "file", "new", backends.NoReplace)
		},
		func(s *mem.Backend) bool { return !exists(s, "file") && exists(s, "new") },
	},
	"symlink": {
		func(ctx context.Context, b backends.Backend) error { return b.Symlink(ctx, "file", "new") },
		func(s *mem.Backend) bool { return exists(s, "new") },
	},
	"link": {
		func(ctx context.Context, b backends.Backend) error { return b.Link(ctx, "file", "new") },
		func(s *mem.Backend) bool { info, err := s.Lstat("file"); return err == nil && info.Nlink == 2 },
	},
	"setattr": {
		func(ctx context.Context, b backends.Backend) error {
			size := int64(1)
			_, err := b.SetAttr(ctx, "file", backends.Attr{Size: &size})
			return err
		},
		func(s *mem.Backend) bool { info, err := s.Lstat("file"); return err == nil && info.Size == 1 },
	},
}

func exists(s *mem.Backend, name string) bool {
	_, err := s.Lstat(name)
	return err == nil
}

func TestLostChangesAreSettled(t *testing.T) {
	for op, change := range changes {
		// The first n calls of op are lost, before they happen or after, and so are some of the questions for the state.
		for _, lose := range []struct {
			what          string
			before, after int
			questions     int
		}{
			{"before it happened", 1, 0, 0}, {"after it happened", 0, 1, 0}, {"twice before", 2, 0, 0},
			{"after, and the question too", 0, 1, 1}, {"before, and the question too", 1, 0, 1},
		} {
			t.Run(op+" lost "+lose.what, func(t *testing.T) {
				try(t, policy, func(s *bed) {
					s.server.WriteFile("file", []byte("text"))
					s.server.MakeDir("dir")
					before, after, questions := lose.before, lose.after, lose.questions
					s.server.SetFault(func(_ context.Context, called, name string) error {
						switch {
						case called == op && before > 0:
							before--
							return lost(called, name)
						case called != op && questions > 0:
							questions--
							return lost(called, name)
						}
						return nil
					})
					s.server.SetAfter(func(_ context.Context, called, name string) error {
						if called == op && after > 0 {
							after--
							return lost(called, name)
						}
						return nil
					})
					s.ok(change.call(s.Context(), s.b))
					if !change.done(s.server) {
						s.Error("success was told, and nothing was done")
					}
					if n := s.calls(op); lose.after > 0 && op != "setattr" && n != 1 {
						s.Errorf("%d calls, want 1: the first had happened", n)
					}
				})
			})
		}
	}
}

// The server may work off the lost request only after it said that nothing had happened.
func TestLostChangesThatHappenLateAreNoFailure(t *testing.T) {
	for op, late := range map[string]func(*mem.Backend) error{
		"mkdir":  func(s *mem.Backend) error { return s.MakeDir("new") },
		"remove": func(s *mem.Backend) error { return s.Delete("file") },
		"rmdir":  func(s *mem.Backend) error { return s.Delete("dir") },
		"rename": func(s *mem.Backend) error { return s.Move("file", "new") },
	} {
		t.Run(op, func(t *testing.T) {
			try(t, policy, func(s *bed) {
				s.server.WriteFile("file", []byte("text"))
				s.server.MakeDir("dir")
				s.server.SetFault(func(_ context.Context, called, name string) error {
					switch {
					case called == op && s.calls(op) == 1:
						return lost(called, name)
					case called == op:
						return late(s.server)
					}
					return nil
				})
				s.ok(changes[op].call(s.Context(), s.b))
				if !changes[op].done(s.server) {
					s.Error("success was told, and nothing was done")
				}
			})
		})
	}
}

func TestLostChangesTellTheTruthAboutOthers(t *testing.T) {
	inTheWay := func(s *mem.Backend) { s.MakeDir("new"); s.WriteFile("new/others", nil) }
	gone := func(s *mem.Backend) { s.Delete("file") }
	for _, c := range []struct {
		op    string
		other func(*mem.Backend) // what another client does while the reply is lost
		want  syscall.Errno
	}{
		{"mkdir", inTheWay, syscall.EEXIST}, {"symlink", inTheWay, syscall.EEXIST}, {"link", inTheWay, syscall.EEXIST},
		{"rename", inTheWay, syscall.EEXIST}, {"rename", gone, syscall.ENOENT}, {"link", gone, syscall.ENOENT},
	} {
		t.Run(c.op, func(t *testing.T) {
			try(t, policy, func(s *bed) {
				s.server.WriteFile("file", []byte("text"))
				first := true
				s.server.SetFault(func(_ context.Context, op, name string) error {
					if op == c.op && first {
						first = false
						c.other(s.server)
						return lost(op, name)
					}
					return nil
				})
				s.fails(changes[c.op].call(s.Context(), s.b), c.want, backends.Final)
			})
		})
	}
}

func TestListGoesOnWhereItBroke(t *testing.T) {
	try(t, policy, func(s *bed) {
		want := []string{}
		for i := range 100 {
			name := fmt.Sprintf("file%02d", i)
			want = append(want, name)
			s.server.WriteFile(name, nil)
		}
		breaks := []string{"file00", "file50", "file99"}
		s.server.SetFault(func(_ context.Context, op, name string) error {
			if op == "entry" && len(breaks) > 0 && name == breaks[0] {
				breaks = breaks[1:]
				return lost(op, name)
			}
			return nil
		})
		got, err := names(s.Context(), s.b, "")
		s.ok(err)
		if !slices.Equal(got, want) {
			s.Errorf("got %q, want each name once", got)
		}
		if n := s.calls("list"); n != 4 {
			s.Errorf("%d listings, want 4", n)
		}
	})
}

func TestListBearsASlowConsumerAndNoSilence(t *testing.T) {
	try(t, policy, func(s *bed) {
		s.server.WriteFile("a", nil)
		s.server.WriteFile("b", nil)
		for _, err := range s.b.List(s.Context(), "") {
			s.ok(err)
			time.Sleep(2 * budget)
		}
		s.server.SetFault(func(ctx context.Context, op, name string) error {
			if name == "b" {
				return hung(ctx, op, name)
			}
			return nil
		})
		began := time.Now()
		_, err := names(s.Context(), s.b, "")
		s.fails(err, syscall.ETIMEDOUT, backends.Lost)
		if took := time.Since(began); took > budget {
			s.Errorf("took %v, more than %v", took, budget)
		}
	})
}

func TestReaderSurvivesAReconnect(t *testing.T) {
	try(t, policy, func(s *bed) {
		s.server.WriteFile("file", []byte("0123456789"))
		r, err := s.b.Open(s.Context(), "file")
		s.ok(err)
		defer r.Close()
		p := make([]byte, 5)
		for _, read := range []func() (int, error){
			func() (int, error) { return r.ReadAt(s.Context(), p, 0) },
			func() (int, error) { return r.ReadAt(s.Context(), p, 0) },
			func() (int, error) { _, err := r.Stat(s.Context()); return 5, err },
			func() (int, error) { n, _, err := r.ReadLast(s.Context(), p, 0); return n, err },
		} {
			s.server.Break()
			n, err := read()
			s.ok(err)
			if string(p[:n]) != "01234" {
				s.Errorf("got %q, want 01234", p[:n])
			}
		}
		if n := s.calls("open"); n != 5 {
			s.Errorf("%d opens, want 5", n)
		}
	})
}

// TestReaderThatAnotherCallReplacedFailsNobody: two calls use one reader; the connection is lost, and one of them opens the
// file again and closes the former reader while the other is about to use it.
func TestReaderThatAnotherCallReplacedFailsNobody(t *testing.T) {
	try(t, policy, func(s *bed) {
		s.server.WriteFile("file", []byte("0123456789"))
		r, err := s.b.Open(s.Context(), "file")
		s.ok(err)
		defer r.Close()
		_, err = r.Stat(s.Context())
		s.ok(err)
		late := false
		s.server.SetFault(func(ctx context.Context, op, name string) error {
			if op != "readat" || late {
				return nil
			}
			late = true
			s.server.Break()
			_, err := r.Stat(ctx)
			s.ok(err)
			return &backends.Error{Op: op, Name: name, Code: syscall.EBADF, Class: backends.Final} // as of a reader that is closed
		})
		p := make([]byte, 5)
		n, err := r.ReadAt(s.Context(), p, 2)
		s.ok(err)
		if string(p[:n]) != "23456" || !late {
			s.Errorf("got %q, late %v; want 23456 of a call that came late", p[:n], late)
		}
	})
}

// TestReaderThatAnotherCallUsedUpIsOpenedAgain: a ReadLast that was lost has used the reader up before it is opened again.
func TestReaderThatAnotherCallUsedUpIsOpenedAgain(t *testing.T) {
	try(t, policy, func(s *bed) {
		s.server.WriteFile("file", []byte("0123456789"))
		r, err := s.b.Open(s.Context(), "file")
		s.ok(err)
		defer r.Close()
		_, err = r.Stat(s.Context())
		s.ok(err)
		spent := false
		s.server.SetFault(func(_ context.Context, op, name string) error {
			if op != "readat" || spent {
				return nil
			}
			spent = true
			return &backends.Error{Op: op, Name: name, Code: syscall.EBADF, Class: backends.Final}
		})
		p := make([]byte, 5)
		n, err := r.ReadAt(s.Context(), p, 2)
		s.ok(err)
		if string(p[:n]) != "23456" || s.calls("open") != 2 {
			s.Errorf("got %q after %d opens, want 23456 after 2", p[:n], s.calls("open"))
		}
	})
}

// TestReaderThatIsClosedStaysSo: who reads after Close is told, and nothing is opened again for it.
func TestReaderThatIsClosedStaysSo(t *testing.T) {
	try(t, policy, func(s *bed) {
		s.server.WriteFile("file", []byte("0123456789"))
		r, err := s.b.Open(s.Context(), "file")
		s.ok(err)
		s.ok(r.Close())
		_, err = r.ReadAt(s.Context(), make([]byte, 5), 0)
		s.fails(err, syscall.EBADF, backends.Final)
		if n := s.calls("open"); n != 1 {
			s.Errorf("%d opens, want 1", n)
		}
	})
}

func TestReaderOfAnotherVersionIsStale(t *testing.T) {
	for name, other := range map[string]func(*mem.Backend){
		"gone":     func(s *mem.Backend) { s.Delete("file") },
		"replaced": func(s *mem.Backend) { s.Delete("file"); s.WriteFile("file", []byte("9876543210")) },
		"longer":   func(s *mem.Backend) { s.WriteFile("file", []byte("0123456789a")) },
		"touched":  func(s *mem.Backend) { s.Chtimes("file", time.Time{}, time.Unix(1e9, 0)) },
	} {
		t.Run(name, func(t *testing.T) {
			try(t, policy, func(s *bed) {
				s.server.WriteFile("file", []byte("0123456789"))
				r, err := s.b.Open(s.Context(), "file")
				s.ok(err)
				defer r.Close()
				_, err = r.ReadAt(s.Context(), make([]byte, 5), 0)
				s.ok(err)
				other(s.server)
				s.server.Break()
				_, err = r.ReadAt(s.Context(), make([]byte, 5), 5)
				s.fails(err, syscall.ESTALE, backends.Final)
			})
		})
	}
}

func TestSmallFileCostsNothingMore(t *testing.T) {
	try(t, policy, func(s *bed) {
		s.server.WriteFile("file", []byte("x"))
		r, err := s.b.Open(s.Context(), "file")
		s.ok(err)
		if _, _, err := r.ReadLast(s.Context(), make([]byte, 10), 0); err != io.EOF {
			s.Errorf("got %v, want EOF", err)
		}
		s.ok(r.Close())
		if calls := s.server.Calls(); len(calls) != 2 || calls["open"] != 1 || calls["readlast"] != 1 {
			s.Errorf("calls: got %v, want one open and one readlast", calls)
		}
	})
}

// upload is what the cache does within Policy.Do.
func upload(b backends.Backend, attempts *atomic.Int64) func(context.Context) error {
	return func(ctx context.Context) error {
		attempts.Add(1)
		w, err := b.Create(ctx, "file", backends.WriteMode{TempName: fmt.Sprintf(".temp%d", attempts.Load()), Perm: 0o644})
		if err != nil {
			return err
		}
		for i := range 10 {
			if _, err := w.WriteAt(ctx, []byte("x"), int64(i)); err != nil {
				w.Abort()
				return err
			}
		}
		_, err = w.Commit(ctx, backends.Commit{Size: 10})
		return err
	}
}

func TestUploadsAreRepeatedWhole(t *testing.T) {
	for _, op := range []string{"create", "writeat", "commit"} {
		for when, set := range map[string]func(*mem.Backend, mem.Hook){"before": (*mem.Backend).SetFault, "after": (*mem.Backend).SetAfter} {
			t.Run(op+" lost "+when, func(t *testing.T) {
				try(t, policy, func(s *bed) {
					first := true
					set(s.server, func(_ context.Context, called, name string) error {
						if called == op && first {
							first = false
							s.server.Break()
							return lost(called, name)
						}
						return nil
					})
					var attempts atomic.Int64
					s.ok(policy.Do(s.Context(), upload(s.b, &attempts)))
					content, err := s.server.ReadFile("file")
					s.ok(err)
					if string(content) != "xxxxxxxxxx" {
						s.Errorf("the server has %q", content)
					}
					want := int64(2)
					if op == "create" || op == "commit" && when == "after" {
						want = 1 // below Do's height: begun again, or found to be done
					}
					if attempts.Load() != want {
						s.Errorf("%d uploads, want %d", attempts.Load(), want)
					}
				})
			})
		}
	}
}

func TestUploadsDoNotMultiplyAttempts(t *testing.T) {
	for name, fault := range map[string]mem.Hook{"down": down, "silent": silent, "hung": hung} {
		t.Run(name, func(t *testing.T) {
			try(t, policy, func(s *bed) {
				s.server.SetFault(fault)
				var attempts atomic.Int64
				began := time.Now()
				err := policy.Do(s.Context(), upload(s.b, &attempts))
				if err == nil {
					s.Fatal("got success")
				}
				if n := strings.Count(err.Error(), "given up after"); n > 1 {
					s.Errorf("%q says %d times that it was given up, want once at most", err, n)
				}
				if took := time.Since(began); took > budget {
					s.Errorf("took %v, more than %v", took, budget)
				}
				if n := s.calls("create"); n > 4 {
					s.Errorf("%d creates reached the server, want at most 4", n)
				}
			})
		})
	}
}

// An upload that a short outage has broken goes on soon after it, and not behind the long pause that its own calls have brought it to: one of
// these was answered meanwhile, or somebody else's.
func TestUploadGoesOnOnceTheServerAnswers(t *testing.T) {
	for what, c := range map[string]struct {
		breaks string // the call with which the outage begins
		outage time.Duration
		then   func(*bed, context.Context)
	}{
		"a call of its own": {"commit", 3 * time.Second, func(s *bed, ctx context.Context) { s.b.Remove(ctx, "temp") }},
		"another's call":    {"writeat", time.Second, func(*bed, context.Context) {}},
	} {
		t.Run(what, func(t *testing.T) {
			policy := retry.Policy{Count: 3, Timeout: 30 * time.Second}
			try(t, policy, func(s *bed) {
				began := time.Now()
				over := func() bool { return time.Since(began) >= c.outage }
				s.server.SetFault(func(ctx context.Context, op, name string) error {
					switch {
					case over():
						return nil
					case op == c.breaks:
						s.server.Break()
						return lost(op, name)
					case op == "remove":
						return down(ctx, op, name)
					}
					return nil
				})
				time.AfterFunc(c.outage, func() { s.stat("") })
				var attempts atomic.Int64
				s.ok(policy.Do(s.Context(), func(ctx context.Context) error {
					err := upload(s.b, &attempts)(ctx)
					if err != nil {
						c.then(s, ctx)
					}
					return err
				}))
				if took := time.Since(began); took > c.outage+2*time.Second {
					s.Errorf("an outage of %v cost an upload %v", c.outage, took)
				}
			})
		})
	}
}

func TestUploadThatAlwaysBreaksEnds(t *testing.T) {
	try(t, policy, func(s *bed) {
		s.server.SetFault(func(_ context.Context, op, name string) error {
			if op == "commit" {
				return lost(op, name)
			}
			return nil
		})
		var attempts atomic.Int64
		if err := policy.Do(s.Context(), upload(s.b, &attempts)); err == nil {
			s.Fatal("got success")
		}
		if attempts.Load() != 4 {
			s.Errorf("%d uploads, want 4", attempts.Load())
		}
		if s.told() != "online" {
			s.Errorf("news: got %q; a server that answers is not offline", s.told())
		}
	})
}

// Holds row 74 of the requirements.
func TestLongUploadThatMovesIsNotCut(t *testing.T) {
	try(t, policy, func(s *bed) {
		broke := false
		s.server.SetFault(func(_ context.Context, op, name string) error {
			if op == "writeat" {
				time.Sleep(9 * time.Second) // 90 s an upload, more than the budget
				if s.server.Calls()[op] == 8 && !broke {
					broke = true
					s.server.Break()
				}
			}
			return nil
		})
		var attempts atomic.Int64
		s.ok(policy.Do(s.Context(), upload(s.b, &attempts)))
		if attempts.Load() != 2 {
			s.Errorf("%d uploads, want 2", attempts.Load())
		}
	})
}

func TestCommitSaysWhetherItHappened(t *testing.T) {
	try(t, policy, func(s *bed) {
		s.server.WriteFile("file", []byte("old"))
		s.server.SetFault(func(_ context.Context, op, name string) error {
			if op == "commit" {
				return lost(op, name)
			}
			return nil
		})
		w, err := s.b.Create(s.Context(), "file", backends.WriteMode{TempName: ".temp"})
		s.ok(err)
		_, err = w.Commit(s.Context(), backends.Commit{})
		s.fails(err, syscall.ECONNRESET, backends.Transient) // nothing happened
	})
}

func TestExclusiveCreateNeverWinsTwice(t *testing.T) {
	mode := backends.WriteMode{TempName: ".temp", Exclusive: true}
	for _, c := range []struct {
		what  string
		other func(*mem.Backend) // in the moment of the loss
		after bool               // the loss is after our own success
		want  syscall.Errno
	}{
		{"nothing happened", func(*mem.Backend) {}, false, 0},
		{"ours happened", func(*mem.Backend) {}, true, 0},
		{"another's happened", func(s *mem.Backend) { s.WriteFile("file", nil) }, false, syscall.EEXIST},
		{"another's happened after our claim", func(s *mem.Backend) {
			s.Delete("file")
			s.WriteFile("file", nil)
		}, true, syscall.EEXIST},
		{"another's content", func(s *mem.Backend) { s.WriteFile("file", []byte("x")) }, false, syscall.EEXIST},
	} {
		t.Run(c.what, func(t *testing.T) {
			try(t, policy, func(s *bed) {
				first := true
				hook := func(_ context.Context, op, name string) error {
					if op == "create" && first {
						first = false
						c.other(s.server)
						return lost(op, name)
					}
					return nil
				}
				if c.after {
					s.server.SetAfter(hook)
				} else {
					s.server.SetFault(hook)
				}
				_, err := s.b.Create(s.Context(), "file", mode)
				if c.want == 0 {
					s.ok(err)
					if names, _ := s.server.Names(""); !slices.Equal(slices.Sorted(slices.Values(names)), []string{".temp", "file"}) {
						s.Errorf("the server has %q", names)
					}
					return
				}
				s.fails(err, c.want, backends.Final)
			})
		})
	}
}

// TestExclusiveCreateWithoutLinksStaysUnknown: nothing tells an empty file of ours from another's.
func TestExclusiveCreateWithoutLinksStaysUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := true
		server := mem.New(mem.Options{Change: func(c *backends.Caps) { c.Link = false }, After: func(_ context.Context, op, name string) error {
			if op == "create" && first {
				first = false
				return lost(op, name)
			}
			return nil
		}})
		s := &bed{T: t, server: server, b: retry.New(server, policy, retry.Options{})}
		defer s.b.Close()
		_, err := s.b.Create(s.Context(), "file", backends.WriteMode{TempName: ".temp", Exclusive: true})
		s.fails(err, syscall.EIO, backends.Final)
	})
}

func TestOfflineFailsAtOnceAndComesBackByItself(t *testing.T) {
	try(t, policy, func(s *bed) {
		s.server.WriteFile("file", []byte("0123456789"))
		r, err := s.b.Open(s.Context(), "file")
		s.ok(err)
		s.server.SetFault(down)
		s.fails(s.stat("x"), syscall.ECONNREFUSED, backends.Transient)

		began := time.Now()
		before := s.calls("mkdir")
		for range 100 {
			e := s.fails(s.b.Mkdir(s.Context(), "dir", 0o755), syscall.EHOSTDOWN, backends.Transient)
			if e.Cause != backends.CauseOffline || e.Op != "mkdir" || e.Name != "dir" || !strings.Contains(e.Error(), "offline since") {
				s.Fatalf("got %+v", e)
			}
		}
		_, err = r.ReadAt(s.Context(), make([]byte, 1), 0)
		s.fails(err, syscall.EHOSTDOWN, backends.Transient)
		if s.calls("mkdir") != before || time.Since(began) > 0 {
			s.Errorf("%d calls were sent in %v, want none, at once", s.calls("mkdir")-before, time.Since(began))
		}

		probes := s.calls("stat")
		time.Sleep(time.Hour)
		if n := s.calls("stat") - probes; n < 100 || n > 200 {
			s.Errorf("%d probes in an hour, want one each 22 to 30 s and a few more", n)
		}
		s.server.SetFault(nil)
		time.Sleep(30 * time.Second)
		began = time.Now()
		s.ok(s.b.Mkdir(s.Context(), "dir", 0o755))
		_, err = r.ReadAt(s.Context(), make([]byte, 1), 0)
		s.ok(err)
		if took := time.Since(began); took > 0 {
			s.Errorf("the first call after the outage took %v", took)
		}
		if s.told() != "online offline online" {
			s.Errorf("news: got %q", s.told())
		}
	})
}

func TestCallsUnderWayWaitForTheNews(t *testing.T) {
	try(t, policy, func(s *bed) {
		s.server.SetFault(down)
		time.AfterFunc(30*time.Second, func() { go s.stat("") }) // under way when the first gives up
		var group sync.WaitGroup
		group.Go(func() { s.fails(s.stat(""), syscall.ECONNREFUSED, backends.Transient) })
		synctest.Wait()
		time.Sleep(20 * time.Second)
		late := make(chan error, 1)
		group.Go(func() { late <- s.stat("") })
		for s.told() != "offline" {
			time.Sleep(100 * time.Millisecond)
		}
		s.server.SetFault(nil)
		group.Wait()
		s.ok(<-late)
	})
}

// streaming is a server of FTP that says nothing any more: Create and Readlink know without asking, and Abort has nothing to ask.
func streaming(ctx context.Context, op, name string) error {
	if op == "create" || op == "abort" || op == "readlink" {
		return nil
	}
	return silent(ctx, op, name)
}

func TestMemoryIsNoAnswer(t *testing.T) {
	try(t, policy, func(s *bed) {
		s.ok(s.stat(""))
		s.ok(s.server.Symlink(s.Context(), "target", "link"))
		s.server.SetFault(streaming)
		done := make(chan error, 1)
		go func() { done <- s.stat("file") }()
		asking := time.NewTicker(time.Second + time.Millisecond) // never at the moment at which stat gives up
		defer asking.Stop()
		for over := false; !over; {
			select {
			case <-asking.C:
				w, err := s.b.Create(s.Context(), "new", backends.WriteMode{})
				s.ok(err)
				s.ok(w.Abort())
				_, err = s.b.Readlink(s.Context(), "link")
				s.ok(err)
			case err := <-done:
				s.fails(err, syscall.ETIMEDOUT, backends.Lost)
				over = true
			}
		}
		s.fails(s.stat("file"), syscall.EHOSTDOWN, backends.Transient)
		if s.told() != "online offline" {
			s.Errorf("news: got %q", s.told())
		}
	})
}

// An upload of which only the content meets the silence tells of it as any call does, and ends as soon.
func TestSilentUploadOpensTheBreaker(t *testing.T) {
	for name, size := range map[string]int{"small": 10, "large": 2 << 20} {
		t.Run(name, func(t *testing.T) {
			try(t, policy, func(s *bed) {
				s.ok(s.stat(""))
				s.server.SetFault(streaming)
				began := time.Now()
				err := policy.Do(s.Context(), func(ctx context.Context) error {
					w, err := s.b.Create(ctx, "file", backends.WriteMode{})
					if err != nil {
						return err
					}
					defer w.Abort()
					if size > 1<<20 { // a small one is held back until Commit
						if _, err := w.WriteAt(ctx, make([]byte, size), 0); err != nil {
							return err
						}
					}
					_, err = w.Commit(ctx, backends.Commit{Size: int64(size)})
					return err
				})
				s.fails(err, syscall.ETIMEDOUT, backends.Lost)
				if took, pauses := time.Since(began), 2*time.Second; took > budget+pauses {
					s.Errorf("took %v, more than %v", took, budget+pauses)
				}
				began = time.Now()
				s.fails(s.stat("file"), syscall.EHOSTDOWN, backends.Transient)
				if took := time.Since(began); took > 0 {
					s.Errorf("the call after it took %v", took)
				}
			})
		})
	}
}

// Data connections that a firewall swallows, and a server that is full, are no server that is away.
func TestServerThatAnswersIsNotAway(t *testing.T) {
	for _, cause := range []backends.Cause{backends.CausePassiveBlocked, backends.CauseTooManySessions} {
		try(t, policy, func(s *bed) {
			s.ok(s.stat(""))
			s.server.SetFault(func(_ context.Context, op, name string) error {
				return &backends.Error{Op: op, Name: name, Code: syscall.ETIMEDOUT, Class: backends.Transient, Cause: cause}
			})
			s.fails(s.stat("file"), syscall.ETIMEDOUT, backends.Transient)
			if s.told() != "online" {
				s.Errorf("%s: news: got %q", cause, s.told())
			}
		})
	}
}

func TestOneFailureAmongAnswersIsNoOutage(t *testing.T) {
	try(t, policy, func(s *bed) {
		s.server.SetFault(func(ctx context.Context, op, name string) error {
			if name == "bad" {
				return silent(ctx, op, name)
			}
			return nil
		})
		stop := time.NewTicker(time.Second)
		defer stop.Stop()
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.stat("bad")
		}()
		for running := true; running; {
			select {
			case <-stop.C:
				s.ok(s.stat(""))
			case <-done:
				running = false
			}
		}
		s.ok(s.stat(""))
		if s.told() != "online" {
			s.Errorf("news: got %q, want online only", s.told())
		}
	})
}

// denied is a server that refuses the login.
func denied(_ context.Context, op, name string) error {
	return &backends.Error{Op: op, Name: name, Code: syscall.EACCES, Class: backends.Refused, Cause: backends.CauseAuth}
}

// Holds row 31 of the requirements.
func TestRefusedLoginIsNotHammered(t *testing.T) {
	try(t, policy, func(s *bed) {
		s.server.SetFault(denied)
		for range 24 * 60 { // a program asks each minute of a day
			e := s.fails(s.stat(""), syscall.EACCES, backends.Refused)
			if e.Cause != backends.CauseAuth {
				s.Fatalf("cause: got %q", e.Cause)
			}
			time.Sleep(time.Minute)
		}
		if n := s.calls("stat"); n < 5 || n > 10 {
			s.Errorf("%d logins in a day, want 5 to 10", n)
		}
		s.server.SetFault(nil)
		time.Sleep(4 * time.Hour)
		s.ok(s.stat(""))
		if s.told() != "offline online" {
			s.Errorf("news: got %q", s.told())
		}
	})
}

func TestRefusalThatLocksNobodyIsProbed(t *testing.T) {
	try(t, policy, func(s *bed) {
		s.server.SetFault(func(_ context.Context, op, name string) error {
			return &backends.Error{Op: op, Name: name, Code: syscall.EACCES, Class: backends.Refused, Cause: backends.CauseHostKeyUnknown}
		})
		began := time.Now()
		for range 10 {
			e := s.fails(s.stat("x"), syscall.EACCES, backends.Refused)
			if e.Cause != backends.CauseHostKeyUnknown || e.Name != "x" {
				s.Fatalf("got %+v", e)
			}
		}
		if n := s.calls("stat"); n != 1 || time.Since(began) > 0 {
			s.Errorf("%d calls in %v, want 1 at once", n, time.Since(began))
		}
		time.Sleep(time.Hour)
		if n := s.calls("stat"); n < 100 || n > 200 {
			s.Errorf("%d probes in an hour, want one each 22 to 30 s", n)
		}
		s.server.SetFault(denied) // the key is trusted, and now the password is wrong
		time.Sleep(time.Minute)
		before := s.calls("stat")
		time.Sleep(time.Hour)
		if n := s.calls("stat"); n != before {
			s.Errorf("%d probes after a refused login, want none", n-before)
		}
		s.server.SetFault(nil)
		s.ok(s.stat(""))
		if s.told() != "offline offline online" {
			s.Errorf("news: got %q", s.told())
		}
	})
}

// Holds row 31 of the requirements.
func TestRefusedLoginIsRepeatedWhereAskedFor(t *testing.T) {
	p := policy
	p.Auth = true
	try(t, p, func(s *bed) {
		s.server.SetFault(denied)
		time.AfterFunc(time.Second, func() { s.server.SetFault(nil) })
		s.ok(s.stat(""))
	})
}

func TestCloseEndsProbeAndPauses(t *testing.T) {
	try(t, policy, func(s *bed) {
		s.server.SetFault(down)
		s.stat("")
		s.server.SetFault(hung) // the probe hangs, and so does a call
		time.Sleep(time.Second)
		began := time.Now()
		s.ok(s.b.Close())
		s.ok(s.b.Close())
		s.fails(s.stat(""), syscall.ESHUTDOWN, backends.Final)
		if took := time.Since(began); took > 0 {
			s.Errorf("took %v", took)
		}
	})
	try(t, policy, func(s *bed) {
		s.server.SetFault(down)
		done := make(chan error)
		go func() { done <- s.stat("") }()
		time.Sleep(time.Second)
		s.ok(s.b.Close())
		s.fails(<-done, syscall.ESHUTDOWN, backends.Final)
	})
}

func TestKnockAsksOnceAndAtOnce(t *testing.T) {
	try(t, policy, func(s *bed) {
		s.b.Knock() // nothing is known to be away
		s.server.SetFault(denied)
		s.fails(s.stat(""), syscall.EACCES, backends.Refused)
		for range 3 { // the login is still refused: one attempt for each knock
			before := s.calls("stat")
			s.b.Knock()
			time.Sleep(time.Hour)
			if n := s.calls("stat") - before; n != 1 {
				s.Fatalf("a knock at a refused login made %d attempts, want 1", n)
			}
		}
		asked := s.b.Knock()
		select {
		case <-asked:
			s.Error("told before it was asked")
		default:
		}
		<-asked // the same answer is an answer
		s.server.SetFault(silent)
		began := time.Now()
		if <-s.b.Knock(); time.Since(began) > 2*policy.Timeout {
			s.Errorf("no answer was told after %v", time.Since(began))
		}
		s.server.SetFault(nil)
		<-s.b.Knock()
		s.ok(s.stat(""))
		if s.told() != "offline online" {
			s.Errorf("news: got %q", s.told())
		}
	})
	try(t, policy, func(s *bed) {
		s.server.SetFault(down)
		s.fails(s.stat(""), syscall.ECONNREFUSED, backends.Transient)
		time.Sleep(time.Hour + time.Second) // the probe pauses for long now
		s.server.SetFault(nil)
		s.b.Knock()
		synctest.Wait()
		s.ok(s.stat(""))
	})
}

// TestKnockIsNotAnsweredByAQuestionBeforeIt: whoever has just trusted a host key is told of a question that began afterwards, and not
// of the refusal that was on its way.
func TestKnockIsNotAnsweredByAQuestionBeforeIt(t *testing.T) {
	stranger := &backends.Error{Op: "stat", Code: syscall.EACCES, Class: backends.Refused, Cause: backends.CauseHostKeyUnknown}
	for name, refusal := range map[string]func(context.Context, string, string) error{
		"a stranger": func(context.Context, string, string) error { return stranger },
		"a login":    denied,
	} {
		t.Run(name, func(t *testing.T) {
			try(t, policy, func(s *bed) {
				var trusted atomic.Bool
				s.server.SetFault(func(ctx context.Context, op, name string) error {
					if trusted.Load() {
						return nil
					}
					time.Sleep(time.Second)
					return refusal(ctx, op, name)
				})
				if s.stat("") == nil {
					s.Fatal("a stranger was let in")
				}
				first := s.b.Knock()
				time.Sleep(time.Second / 2)
				trusted.Store(true)
				<-s.b.Knock()
				s.ok(s.stat(""))
				<-first
			})
		})
	}
}
