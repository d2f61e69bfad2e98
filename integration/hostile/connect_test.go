package hostile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"runtime/pprof"
	"strings"
	"sync"
	"testing"
	"time"

	"pierfs/backends"
	"pierfs/backends/dial"
	"pierfs/conncfg"
	"pierfs/integration/process"
)

// The timeouts that every test gives its connections, and what an operation may take in all (docs/SEMANTICS.md).
const (
	timeout = slowdown * 500 * time.Millisecond
	retries = 1
	limit   = timeout * (retries + 1)

	// slack is what the machine may add: logins of other tests, the scheduler.
	slack = slowdown * time.Second
)

// target is the connection to s, as a definition makes it.
func target(s *Server) conncfg.Target {
	return conncfg.Target{
		Name: "hostile", Environment: "Test", Protocol: conncfg.SFTP, Host: s.Host, Port: s.Port, Username: s.User,
		Password: conncfg.NewSecret(s.Password), WorkingDir: s.Root, ConnectTimeout: timeout, SocketTimeout: timeout, RetryCount: retries,
		SSH: conncfg.SSH{HostKey: s.Fingerprint()}, Encoding: "utf-8",
	}
}

// connection is a Backend to a hostile server, whose log is kept.
type connection struct {
	backends.Backend
	t      *testing.T
	secret string        // that must not be told
	limit  time.Duration // what a call may take in all
	log    *journal
}

// connect runs f with a connection to s. Behind f, whatever the server did, no goroutine of the connection is left, and
// neither its log nor any error that passed through bounded had the password in it.
func connect(t *testing.T, s *Server, f func(*connection)) {
	t.Helper()
	connectTo(t, target(s), f)
}

func connectTo(t *testing.T, target conncfg.Target, f func(*connection)) {
	t.Helper()
	c := &connection{t: t, secret: target.Password.Reveal(), log: &journal{},
		limit: target.SocketTimeout * time.Duration(target.RetryCount+1)}
	// Goroutines inherit labels: those of this connection can be told from those of tests beside it.
	label := fmt.Sprintf("%s %p", t.Name(), c)
	pprof.Do(t.Context(), pprof.Labels("connection", label), func(context.Context) {
		b, err := dial.Dial(target, dial.Options{Logger: slog.New(slog.NewTextHandler(c.log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
		if err != nil {
			t.Fatalf("dial: %v", err)
		}
		c.Backend = b
		defer c.close()
		f(c)
	})
	c.left(label)
	if c.log.has(c.secret) {
		t.Errorf("the log has the password in it")
	}
}

// close closes the Backend, which waits for nobody.
func (c *connection) close() {
	closed := make(chan error, 1)
	go func() { closed <- c.Backend.Close() }() // ends with Close
	if err, ok := process.Await(closed, limit+slack); !ok {
		c.t.Errorf("Close does not return\n%s", stacks())
	} else if err != nil {
		c.t.Errorf("close: %v", err)
	}
}

// left fails the test if goroutines of the connection are left after a little while.
func (c *connection) left(label string) {
	deadline := time.Now().Add(3 * time.Second)
	for {
		left := labelled(label)
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			c.t.Errorf("%d kinds of goroutines are left after Close, the first:\n%s", len(left), left[0])
			return
		}
		time.Sleep(25 * time.Millisecond)
	}
}

func stacks() string {
	var b bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&b, 1); err != nil {
		return err.Error()
	}
	return b.String()
}

// labelled returns the stacks of the goroutines that bear the label.
func labelled(label string) []string {
	mark := fmt.Sprintf("%q:%q", "connection", label)
	var found []string
	for stack := range strings.SplitSeq(stacks(), "\n\n") {
		if strings.Contains(stack, mark) {
			found = append(found, stack)
		}
	}
	return found
}

// bounded calls f, which must end within the connection's budget, and returns its error, which must have a code.
func (c *connection) bounded(what string, f func(context.Context) error) error {
	c.t.Helper()
	return c.within(c.limit+slack, what, f)
}

func (c *connection) within(limit time.Duration, what string, f func(context.Context) error) error {
	c.t.Helper()
	ctx, cancel := context.WithCancel(c.t.Context())
	defer cancel()
	result := make(chan error, 1)
	begun := time.Now()
	go func() { result <- f(ctx) }() // ends with f
	err, ok := process.Await(result, limit)
	if !ok {
		c.t.Errorf("%s takes longer than %v", what, limit)
		cancel()
		if err, ok = process.Await(result, limit); !ok {
			c.t.Fatalf("%s goes on when its context has ended\n%s", what, stacks())
		}
		c.t.Logf("%s ended after %v, when its context had: %v", what, time.Since(begun), err)
	}
	if err != nil && backends.Errno(err) == 0 {
		c.t.Errorf("%s: error without a code: %v", what, err)
	}
	if errors.Is(err, io.EOF) {
		c.t.Errorf("%s: whoever asks whether this is the end of the file is told yes: %v", what, err)
	}
	if err != nil && strings.Contains(err.Error(), c.secret) {
		c.t.Errorf("%s: the error has the password in it", what)
	}
	return err
}

// journal is a log that can be searched. The zero value is empty.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// maxJournal is how much is kept of a log: enough for a flood to show.
const maxJournal = 64 << 20

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.text.Len() < maxJournal {
		j.text.Write(p)
	}
	return len(p), nil
}

func (j *journal) has(text string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return bytes.Contains(j.text.Bytes(), []byte(text))
}

func (j *journal) size() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Len()
}

// control matches what no terminal may be sent: C0 but tab and line feed, DEL, and C1 in both its forms.
var control = regexp.MustCompile("[\x00-\x08\x0b-\x1f\x7f]|\u0080|[\u0081-\u009f]")

// pause lets a little time pass between two questions whether something has happened.
func pause(ctx context.Context) {
	select {
	case <-time.After(20 * time.Millisecond):
	case <-ctx.Done():
	}
}
