// Package defects holds tests for what other network file systems were seen to do to their users: the twelve defects of the
// strongest of them (D1 to D12), and what happened on a full server and on a broken network. Each test makes the same
// happen to a real daemon, mount and OpenSSH server, and tells what must come of it.
package defects

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"pierfs/integration/daemon"
	"pierfs/integration/link"
	"pierfs/integration/process"
	"pierfs/integration/servers"
)

// The programs under test.
var (
	underTest = daemon.Share()
	built     = underTest.Programs
)

func TestMain(m *testing.M) { os.Exit(daemon.Main(m, 0, underTest)) }

const (
	// connection is the name of the one that is mounted.
	connection = "files"
	// budget is what a call may take with impatient: timeout x (retryCount + 1), and what a loaded machine adds.
	budget = 2*2*time.Second + 2*time.Second
	// prompt is what a call may take that waits for nobody.
	prompt = 2 * time.Second
	// healing is how long a connection may need to come back by itself: the back-off of the probe is at most 30 s.
	healing = 40 * time.Second
)

// impatient is a definition that gives up soon.
var impatient = daemon.Fields{"timeout": 2, "retryCount": 1}

// away are what programs are told when the server cannot be reached.
var away = []syscall.Errno{syscall.ETIMEDOUT, syscall.EHOSTDOWN, syscall.EHOSTUNREACH, syscall.EIO, syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.ENOTCONN}

// stage is a server, a way to it, and a mount.
type stage struct {
	server *servers.SSHD
	way    *link.Link
	daemon *daemon.Daemon
	mount  string // as programs see the server's files
	behind string // as the server has them
}

func newStage(t *testing.T, o servers.SSHOptions, fields daemon.Fields) *stage {
	t.Helper()
	programs, err := built()
	if err != nil {
		t.Fatal(err)
	}
	s := &stage{server: servers.NewSSHD(t, o), way: link.New(t, link.Options{}), daemon: daemon.New(t, programs)}
	to := daemon.To(t, s.server, fields)
	host, port, err := net.SplitHostPort(s.way.Forward(t, "", s.server.Address()))
	if err != nil {
		t.Fatal(err)
	}
	to["host"] = host
	if to["port"], err = strconv.Atoi(port); err != nil {
		t.Fatal(err)
	}
	s.daemon.Define(t, connection, to)
	s.mount, s.behind = s.daemon.Mount(connection), s.server.Dir
	s.start(t)
	return s
}

func (s *stage) start(t *testing.T) {
	t.Helper()
	s.daemon.Start(t)
	s.daemon.AwaitState(t, connection, "ready", process.Patience)
}

// plant makes a file on the server that its user may change.
func (s *stage) plant(t *testing.T, name string, content []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(s.behind, name), content, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(s.behind, name), 0o666); err != nil {
		t.Fatal(err)
	}
}

// in returns the path of a name in the mount.
func (s *stage) in(name string) string { return filepath.Join(s.mount, name) }

// heals waits until a program can read the file again, which must come by itself.
func (s *stage) heals(t *testing.T, name string, content []byte) {
	t.Helper()
	deadline := time.Now().Add(healing)
	for {
		got, err := os.ReadFile(s.in(name))
		if err == nil {
			if !bytes.Equal(got, content) {
				t.Errorf("back again, %s has %s, want %s", name, brief(got), brief(content))
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not back %v after the server is: %v", healing, err)
		}
		time.Sleep(50 * time.Millisecond) // a poll, bounded above
	}
}

// serverHas fails the test unless the server's own file holds content.
func (s *stage) serverHas(t *testing.T, name string, content []byte) {
	t.Helper()
	has(t, filepath.Join(s.behind, name), content)
}

// mountHas fails the test unless a program reads content.
func (s *stage) mountHas(t *testing.T, name string, content []byte) {
	t.Helper()
	has(t, s.in(name), content)
}

func has(t *testing.T, name string, content []byte) {
	t.Helper()
	got, err := os.ReadFile(name)
	switch {
	case err != nil:
		t.Error(err)
	case !bytes.Equal(got, content):
		t.Errorf("%q has %s, want %s", name, brief(got), brief(content))
	}
}

// serverHasOnly fails the test unless the server's directory holds these names and no other.
func (s *stage) serverHasOnly(t *testing.T, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(s.behind)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if fmt.Sprint(got) != fmt.Sprint(names) {
		t.Errorf("the server has %q, want %q", got, names)
	}
}

func brief(content []byte) string {
	if len(content) <= 40 {
		return fmt.Sprintf("%q", content)
	}
	return fmt.Sprintf("%q... (%d bytes)", content[:40], len(content))
}

// must ends the test if what failed.
func must(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// isOneOf fails the test unless err carries one of the errnos.
func isOneOf(t *testing.T, what string, err error, want ...syscall.Errno) {
	t.Helper()
	for _, code := range want {
		if errors.Is(err, code) {
			return
		}
	}
	t.Errorf("%s: %v, want one of %v", what, err, want)
}

// within returns what f returns, and ends the test if that takes longer than limit: f is left behind then until the
// daemon's end frees it.
func within(t *testing.T, limit time.Duration, what string, f func() error) error {
	t.Helper()
	start := time.Now()
	result := make(chan error, 1)
	go func() { result <- f() }()
	select {
	case err := <-result:
		t.Logf("%s: %v after %v", what, err, time.Since(start).Round(time.Millisecond))
		return err
	case <-time.After(limit):
		t.Fatalf("%s hangs for %v already", what, limit)
		return nil
	}
}

// put writes a file as programs do and returns the first error, that of close among them.
func put(name string, content []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Close())
}

// cp runs cp(1) and returns its exit status and what it said.
func cp(t *testing.T, from, to string) (status int, said string) {
	t.Helper()
	r := daemon.Run(t, exec.CommandContext(t.Context(), "cp", from, to), time.Minute)
	return r.Status, r.Stderr
}

// random returns n bytes that no other seed gives.
func random(seed, n int) []byte {
	b := make([]byte, n)
	x := uint64(seed)*0x9e3779b97f4a7c15 + 1
	for i := range b {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b[i] = byte(x >> 32)
	}
	return b
}
