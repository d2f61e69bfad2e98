// Package process starts programs for a test and sees to it that none outlives it: each ends with the test that started
// it, and is killed by the kernel if the test's own process dies without a chance to clean up.
package process

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Patience is how long Wait and Stop give a program before they call it hung.
const Patience = 30 * time.Second

// Process is a running program. Its methods may be called from many goroutines at once.
type Process struct {
	cmd  *exec.Cmd
	Log  *Log          // what it wrote to standard error, and to standard output where the caller left that unset
	done chan struct{} // closed when it has ended
	err  error         // how it ended; read after done
}

// Start runs cmd until it ends or the test does. A program that cannot be started fails the test. The test's log shows
// what the program wrote if the test failed.
func Start(t testing.TB, cmd *exec.Cmd) *Process {
	t.Helper()
	p := &Process{cmd: cmd, Log: &Log{}, done: make(chan struct{})}
	if cmd.Stdout == nil {
		cmd.Stdout = p.Log
	}
	if cmd.Stderr == nil {
		cmd.Stderr = p.Log
	}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	// A grandchild that inherited the log's pipe must not keep Wait from returning.
	cmd.WaitDelay = time.Second

	started := make(chan error)
	go func() {
		// The kernel sends the death signal when the starting thread ends, so that thread is kept for as long as the
		// program runs.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		p.err = cmd.Wait()
		close(p.done)
	}()
	if err := <-started; err != nil {
		t.Fatalf("start %s: %v", cmd.Path, err)
	}
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() && p.Log.Len() > 0 {
			t.Logf("%s wrote:\n%s", cmd.Path, p.Log.Tail(16<<10))
		}
	})
	return p
}

// Pid returns the program's process id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Done returns a channel that is closed when the program has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Signal sends s; a program that has ended already is no error.
func (p *Process) Signal(s os.Signal) { _ = p.cmd.Process.Signal(s) }

// Kill kills the program and waits until it is gone. It may be called twice.
func (p *Process) Kill() {
	p.Signal(syscall.SIGKILL)
	<-p.done
}

// Wait waits for the program's end within limit and returns its exit status, -1 if a signal ended it. A program that
// runs on fails the test.
func (p *Process) Wait(t testing.TB, limit time.Duration) int {
	t.Helper()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(limit):
		t.Fatalf("%s still runs after %v", p.cmd.Path, limit)
		return -1
	}
}

// Log gathers what a program writes. The zero value is empty and ready.
type Log struct {
	mu      sync.Mutex
	text    bytes.Buffer
	changed chan struct{} // closed at the next write; nil if nobody waits
}

// Write appends p.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
	return l.text.Write(p)
}

// Len returns how many bytes were written so far.
func (l *Log) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Len()
}

// String returns all that was written so far.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// Tail returns the last n bytes that were written.
func (l *Log) Tail(n int) string {
	text := l.String()
	return text[max(0, len(text)-n):]
}

// ErrEnded is returned by Await when the program ended before it wrote what was awaited.
var ErrEnded = errors.New("the program has ended")

// Await returns once text has been written at or behind offset from, with an error when the program ends first or limit
// passes.
func (p *Process) Await(text string, from int, limit time.Duration) error {
	return p.Log.await(text, from, limit, p.done)
}

// Await returns once text has been written at or behind offset from, with an error when limit passes first.
func (l *Log) Await(text string, from int, limit time.Duration) error {
	return l.await(text, from, limit, nil)
}

// await waits for text, for the writer's end, or for limit to pass.
func (l *Log) await(text string, from int, limit time.Duration, ended <-chan struct{}) error {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		found, changed := l.look(text, from)
		if found {
			return nil
		}
		select {
		case <-changed:
		case <-ended:
			if found, _ := l.look(text, from); found {
				return nil
			}
			return ErrEnded
		case <-timer.C:
			return os.ErrDeadlineExceeded
		}
	}
}

// look reports whether text stands behind offset from, and if not returns a channel that tells of the next write.
func (l *Log) look(text string, from int) (bool, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if strings.Contains(string(l.text.Bytes()[min(from, l.text.Len()):]), text) {
		return true, nil
	}
	if l.changed == nil {
		l.changed = make(chan struct{})
	}
	return false, l.changed
}

// Output runs a short program to its end and returns what it wrote to standard output. Any failure, a missing program
// among them, fails the test and shows what the program said.
func Output(t testing.TB, stdin io.Reader, name string, args ...string) string {
	t.Helper()
	Need(t, name)
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Stdin = stdin
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", strings.Join(cmd.Args, " "), err, out, stderr.Bytes())
	}
	return string(out)
}

// Need fails the test if one of the programs is missing, and names the command that installs them all. A test that is
// skipped for lack of a program proves nothing and hides that it does.
func Need(t testing.TB, programs ...string) {
	t.Helper()
	for _, program := range programs {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("this test needs %s: run integration/test.sh, which installs what is missing", program)
		}
	}
}
