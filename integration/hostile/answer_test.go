package hostile

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pierfs/backends"
)

// TestBrokenAnswers is the third row of the threat table: every broken answer to every request that matters costs an error
// in time, never a panic, a hang or a wrong byte.
func TestBrokenAnswers(t *testing.T) {
	t.Parallel()
	for _, breach := range Breaches() {
		for _, call := range calls {
			t.Run(breach.Name+"/"+call.name, func(t *testing.T) {
				t.Parallel()
				for _, op := range call.needs {
					broken(t, breach, call, op)
				}
			})
		}
	}
}

func broken(t *testing.T, breach Breach, call call, op Op) {
	t.Helper()
	s := New(t, Manner{})
	defer s.Close()
	furnish(s)
	once := target(s)
	once.RetryCount = 0
	connectTo(t, once, func(c *connection) {
		c.warm()
		before := s.Asked(op)
		s.Behave(Manner{Rules: []Rule{breach.Rule(op)}})
		what := fmt.Sprintf("%s with %q for %s", call.name, breach.Name, op)
		err := c.does(call, what)
		if s.Asked(op) == before {
			t.Errorf("%s asks for no %s any more: the table of calls is out of date", call.name, op)
		}
		if errors.Is(err, errUntrue) && !breach.Lie {
			t.Errorf("%s succeeded: %v", what, err)
		}
		if err == nil && call.truth != nil {
			if err := call.truth(s); err != nil {
				t.Errorf("%s succeeded: %v", what, err)
			}
		}
	})
}

// TestSilence is the fifth row: a server that never answers a request, alone or together with all that follow, costs every
// caller an errno within timeout x (retryCount+1). Then the same Backend works again once the server does.
func TestSilence(t *testing.T) {
	t.Parallel()
	for _, call := range calls {
		for _, op := range call.needs {
			for name, rule := range map[string]Rule{"mute": Mute(op), "stall": Stall(op), "cut": Cuts(op)} {
				t.Run(fmt.Sprintf("%s/%s/%s", call.name, op, name), func(t *testing.T) {
					t.Parallel()
					silent(t, call, rule, false)
				})
				t.Run(fmt.Sprintf("%s/%s/%s after login", call.name, op, name), func(t *testing.T) {
					t.Parallel()
					silent(t, call, rule, true)
				})
			}
		}
	}
}

func silent(t *testing.T, call call, rule Rule, warm bool) {
	s := New(t, Manner{})
	furnish(s)
	connect(t, s, func(c *connection) {
		if warm {
			c.warm()
		}
		s.Behave(Manner{Rules: []Rule{rule}})
		if err := c.does(call, call.name); err == nil {
			t.Errorf("%s succeeded without an answer", call.name)
		}
		s.Behave(Manner{})
		c.recovers()
	})
}

// warm logs in to a server that is honest so far.
func (c *connection) warm() { c.t.Helper(); c.warmAt("dir") }

func (c *connection) warmAt(name string) {
	c.t.Helper()
	if err := c.within(10*time.Second, "the login", func(ctx context.Context) error {
		for {
			_, err := c.Stat(ctx, name)
			if err == nil || ctx.Err() != nil || backends.ClassOf(err) == backends.Refused {
				return err
			}
			pause(ctx)
		}
	}); err != nil {
		c.t.Fatalf("an honest server cannot be reached: %v", err)
	}
}

// TestCutWithinAnswer: a connection that ends at whatever byte of an answer is never taken for the end of a file or listing.
func TestCutWithinAnswer(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		op    Op
		whole int // bytes of the answer
	}{{"read", Read, 113}, {"read last", Read, 113}, {"list", Readdir, 300}, {"stat", Lstat, 41}} {
		for n := range steps(0, test.whole, 7) {
			t.Run(fmt.Sprintf("%s/%d", test.name, n), func(t *testing.T) {
				t.Parallel()
				s := New(t, Manner{})
				furnish(s)
				s.Put("file", File{Data: "abc" + strings.Repeat(".", 200)})
				once := target(s)
				once.RetryCount = 0
				connectTo(t, once, func(c *connection) {
					c.warm()
					s.Behave(Manner{Rules: []Rule{CutsWithin(n, test.op)}})
					for _, call := range calls {
						if call.name != test.name {
							continue
						}
						err := c.does(call, call.name)
						if err == nil || errors.Is(err, errUntrue) {
							t.Errorf("%s succeeded: %v", call.name, err)
						}
					}
				})
			})
		}
	}
}

// recovers fails the test unless the Backend works again soon after the server has become honest.
func (c *connection) recovers() {
	c.t.Helper()
	err := c.within(20*time.Second, "the recovery", func(ctx context.Context) error {
		for {
			_, err := c.Stat(ctx, "dir")
			if err == nil || ctx.Err() != nil {
				return err
			}
			if backends.CauseOf(err) == backends.CauseAuth {
				return err // nobody asks again by himself
			}
			pause(ctx)
		}
	})
	if err != nil {
		c.t.Errorf("the server is honest again and the connection is not back: %v (class %v, cause %q)",
			err, backends.ClassOf(err), backends.CauseOf(err))
	}
}

// TestOfflineIsQuick: after one call has spent its budget, further ones end within a second while the server stays silent.
func TestOfflineIsQuick(t *testing.T) {
	t.Parallel()
	s := New(t, Manner{})
	furnish(s)
	connect(t, s, func(c *connection) {
		c.warm()
		s.Behave(Manner{Rules: []Rule{Stall(allOps()...)}})
		for _, call := range calls {
			err := c.does(call, call.name)
			if err == nil {
				t.Errorf("%s succeeded without an answer", call.name)
			}
			if err := c.within(time.Second, "a call while offline", func(ctx context.Context) error { return call.do(ctx, c) }); err == nil {
				t.Errorf("%s succeeded while the server is silent", call.name)
			}
		}
		s.Behave(Manner{})
		c.recovers()
	})
}

func allOps() []Op {
	ops := []Op{PosixRename, Hardlink, Fsync, StatVFS, Limits}
	for _, op := range opOfKind {
		ops = append(ops, op)
	}
	slices.Sort(ops)
	return ops
}
