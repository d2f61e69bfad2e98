package failover_test

import (
	"context"
	"io"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pierfs/backends"
	"pierfs/backends/backendtest"
	"pierfs/backends/failover"
	"pierfs/backends/mem"
)

func TestContract(t *testing.T) {
	backendtest.Run(t, func(t *testing.T) backends.Backend {
		away := mem.New(mem.Options{Fault: fails(syscall.ECONNREFUSED, backends.Transient, backends.CauseConnRefused)})
		b := failover.New([]failover.Host{{"a:22", away}, {"b:22", mem.New(mem.Options{})}}, failover.Options{Rest: time.Hour})
		if _, err := b.Stat(t.Context(), ""); err == nil {
			t.Fatal("nobody is at the first host")
		}
		return b
	}, backendtest.Options{Beside: true})
}

// fails lets every call fail.
func fails(code syscall.Errno, class backends.Class, cause backends.Cause) mem.Hook {
	return func(_ context.Context, op, name string) error {
		return &backends.Error{Op: op, Name: name, Code: code, Class: class, Cause: cause}
	}
}

// trio is three hosts, told apart by the directory that each has under its own name.
type trio struct {
	*failover.Backend
	hosts []*mem.Backend
	moves []string
}

func newTrio(t *testing.T, rest time.Duration) *trio {
	t.Helper()
	f := new(trio)
	var hosts []failover.Host
	for _, name := range []string{"a", "b", "c"} {
		host := mem.New(mem.Options{})
		if err := host.Mkdir(t.Context(), name, 0o755); err != nil {
			t.Fatal(err)
		}
		f.hosts = append(f.hosts, host)
		hosts = append(hosts, failover.Host{Name: name, Backend: host})
	}
	f.Backend = failover.New(hosts, failover.Options{Rest: rest, Moved: func(from, to string) { f.moves = append(f.moves, from+to) }})
	t.Cleanup(func() { f.Close() })
	return f
}

// answers wants the next call to be answered by the host.
func (f *trio) answers(t *testing.T, host string) {
	t.Helper()
	if _, err := f.Stat(t.Context(), host); err != nil {
		t.Fatalf("%s is asked, want %s: %v", f.InUse(), host, err)
	}
}

// refuses wants the next call to fail.
func (f *trio) refuses(t *testing.T) {
	t.Helper()
	if _, err := f.Stat(t.Context(), ""); err == nil {
		t.Fatal("the call did not fail")
	}
}

// Holds row 82 of the requirements.
func TestEachFailureMovesToTheNextHost(t *testing.T) {
	for _, cause := range []backends.Cause{
		backends.CauseDNS, backends.CauseNoRoute, backends.CauseConnRefused, backends.CauseConnTimeout, backends.CauseSilent,
	} {
		t.Run(string(cause), func(t *testing.T) {
			f := newTrio(t, time.Hour)
			away := fails(syscall.EHOSTUNREACH, backends.Transient, cause)
			f.answers(t, "a")
			f.hosts[0].SetFault(away)
			f.refuses(t)
			f.answers(t, "b")
			f.hosts[1].SetFault(away)
			f.hosts[2].SetFault(away)
			f.refuses(t)
			f.refuses(t)
			f.hosts[0].SetFault(nil)
			f.answers(t, "a")
			if got := strings.Join(f.moves, " "); got != "ab ba" {
				t.Errorf("told of %s: c has never answered", got)
			}
		})
	}
}

func TestOtherFailuresStay(t *testing.T) {
	for _, e := range []backends.Error{
		{Code: syscall.EACCES, Class: backends.Refused, Cause: backends.CauseAuth},
		{Code: syscall.EACCES, Class: backends.Refused, Cause: backends.CauseHostKeyChanged},
		{Code: syscall.EAGAIN, Class: backends.Transient, Cause: backends.CauseTooManySessions},
		{Code: syscall.EIO, Class: backends.Lost, Cause: backends.CauseConnLost},
		{Code: syscall.ENOENT, Class: backends.Final},
	} {
		f := newTrio(t, time.Hour)
		f.hosts[0].SetFault(fails(e.Code, e.Class, e.Cause))
		f.refuses(t)
		f.hosts[0].SetFault(nil)
		f.answers(t, "a")
		if f.InUse() != "a" || len(f.moves) != 0 {
			t.Errorf("%v: %s is in use, told of %v", &e, f.InUse(), f.moves)
		}
	}
}

func TestCallsThatFailTogetherMoveOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newTrio(t, time.Hour)
		f.hosts[0].SetFault(func(context.Context, string, string) error {
			time.Sleep(time.Second)
			return &backends.Error{Code: syscall.ETIMEDOUT, Class: backends.Transient, Cause: backends.CauseConnTimeout}
		})
		for range 5 {
			go f.Stat(t.Context(), "")
		}
		synctest.Wait()
		time.Sleep(2 * time.Second)
		if f.InUse() != "b" {
			t.Errorf("%s is in use", f.InUse())
		}
	})
}

// Holds row 82 of the requirements.
func TestBackWhenTheFirstAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newTrio(t, time.Minute)
		f.hosts[0].SetFault(fails(syscall.ECONNREFUSED, backends.Transient, backends.CauseConnRefused))
		f.refuses(t)
		f.answers(t, "b")
		file, err := f.Create(t.Context(), "open", backends.WriteMode{TempName: ".open"})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		f.answers(t, "b") // and has the first looked at, which is away yet
		synctest.Wait()
		f.hosts[0].SetFault(nil)
		f.answers(t, "b")
		synctest.Wait()
		f.answers(t, "b") // for it is too early to look again
		looks := f.hosts[0].Calls()["stat"]
		time.Sleep(time.Hour)
		if now := f.hosts[0].Calls()["stat"]; now != looks {
			t.Errorf("a host was asked %d times while nobody called", now-looks)
		}
		f.answers(t, "b")
		synctest.Wait()
		f.answers(t, "a")
		if !slices.Equal(f.moves, []string{"ab", "ba"}) {
			t.Errorf("told of %v", f.moves)
		}
		if _, err := file.Commit(t.Context(), backends.Commit{}); err != nil {
			t.Errorf("what was open: %v", err)
		}
		if _, err := f.hosts[1].Stat(t.Context(), "open"); err != nil {
			t.Errorf("what was open is not where it was opened: %v", err)
		}
	})
}

func TestClosedWhileItLooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newTrio(t, time.Second)
		f.hosts[0].SetFault(func(ctx context.Context, _, _ string) error {
			<-ctx.Done()
			return &backends.Error{Code: syscall.ETIMEDOUT, Class: backends.Transient, Cause: backends.CauseConnTimeout, Err: io.EOF}
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		f.Stat(ctx, "")
		time.Sleep(time.Second)
		f.answers(t, "b")
		f.Close()
		synctest.Wait() // the look has ended: a goroutine that is left fails the test
	})
}
