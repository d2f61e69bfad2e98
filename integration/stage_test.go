package integration

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"pierfs/integration/daemon"
	"pierfs/integration/process"
	"pierfs/integration/servers"
)

// connection is the name of the one that a stage mounts.
const connection = "files"

// stage is a real server, a real daemon, and a mount between them.
type stage struct {
	server *servers.SSHD
	daemon *daemon.Daemon
	mount  string // as programs see the server's files
	behind string // as the server has them
}

// newStage starts all of it. The fields change and complete the definition.
func newStage(t *testing.T, o servers.SSHOptions, fields daemon.Fields) *stage {
	t.Helper()
	s := &stage{server: servers.NewSSHD(t, o), daemon: newDaemon(t)}
	s.daemon.Define(t, connection, daemon.To(t, s.server, fields))
	s.daemon.Start(t)
	s.mount, s.behind = s.daemon.Mount(connection), s.server.Dir
	s.daemon.AwaitState(t, connection, "ready", process.Patience)
	return s
}

// newDaemon makes a daemon that is not yet started.
func newDaemon(t *testing.T) *daemon.Daemon {
	t.Helper()
	programs, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return daemon.New(t, programs)
}

// connect makes a daemon that mounts the server by address, that of a way to it.
func connect(t *testing.T, d *daemon.Daemon, server *servers.SSHD, address string, fields daemon.Fields) *stage {
	t.Helper()
	all := daemon.To(t, server, fields)
	all["host"], all["port"] = split(t, address)
	d.Define(t, connection, all)
	d.Start(t)
	d.AwaitState(t, connection, "ready", process.Patience)
	return &stage{server: server, daemon: d, mount: d.Mount(connection), behind: server.Dir}
}

// dir makes a directory of the name on the server and returns it as programs and as the server see it.
func (s *stage) dir(t *testing.T, name string) (mount, behind string) {
	t.Helper()
	mount = filepath.Join(s.mount, name)
	if err := os.Mkdir(mount, 0o755); err != nil {
		t.Fatal(err)
	}
	return mount, filepath.Join(s.behind, name)
}

// sh runs a script of bash in dir and returns what it printed. A script that fails, or takes longer than five minutes,
// fails the test.
func sh(t *testing.T, dir, script string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "bash", append([]string{"-euo", "pipefail", "-c", script, "bash"}, args...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "HOME="+filepath.Join(t.TempDir()), "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com")
	r := daemon.Run(t, cmd, 5*time.Minute)
	if r.Status != 0 {
		t.Fatalf("%s\nexit %d after %v\n%s%s", script, r.Status, r.Took.Round(time.Millisecond), r.Stdout, r.Stderr)
	}
	return r.Stdout
}

// within returns what f returns. If that takes longer than limit the test fails, and f is left behind until the daemon's
// end frees it.
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

// put writes a file through a mount as programs do, and returns the first error, that of close among them.
func put(name string, content []byte) (err error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	defer func() {
		if closing := f.Close(); err == nil {
			err = closing
		}
	}()
	_, err = f.Write(content)
	return err
}

// has fails the test unless the file holds content.
func has(t *testing.T, name string, content []byte) {
	t.Helper()
	got, err := os.ReadFile(name)
	if err != nil {
		t.Errorf("%v", err)
		return
	}
	if !bytes.Equal(got, content) {
		t.Errorf("%q has %s, want %s", name, brief(got), brief(content))
	}
}

func brief(content []byte) string {
	if len(content) <= 60 {
		return fmt.Sprintf("%q", content)
	}
	return fmt.Sprintf("%q... (%d bytes)", content[:60], len(content))
}

// errnoIs fails the test unless err carries one of the errnos.
func errnoIs(t *testing.T, what string, err error, want ...syscall.Errno) {
	t.Helper()
	for _, code := range want {
		if errors.Is(err, code) {
			return
		}
	}
	var names []string
	for _, code := range want {
		names = append(names, code.Error())
	}
	t.Errorf("%s: %v, want %s", what, err, strings.Join(names, " or "))
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

// impatient is a definition that gives up soon: one retry, two seconds each.
var impatient = daemon.Fields{"timeout": 2, "retryCount": 1}

const (
	// budget is what a call may take with impatient: timeout x (retryCount + 1), and what a loaded machine adds.
	budget = 2*2*time.Second + 3*time.Second
	// offline is what a call may take once the connection is known to be away.
	offline = 1500 * time.Millisecond
	// healing is how long a connection may need to come back by itself: the probe's back-off is at most 30 s.
	healing = 40 * time.Second
)

// heals waits until the file can be read again through the mount, which must happen by itself.
func heals(t *testing.T, name string, content []byte) {
	t.Helper()
	deadline := time.Now().Add(healing)
	for {
		got, err := os.ReadFile(name)
		if err == nil {
			if string(got) != string(content) {
				t.Errorf("back again, %s has %s, want %s", name, brief(got), brief(content))
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not back %v after the server is: %v", healing, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// away are what programs are told when the server cannot be reached.
var away = []syscall.Errno{syscall.ETIMEDOUT, syscall.EHOSTDOWN, syscall.EHOSTUNREACH, syscall.EIO, syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.ENOTCONN}

// split takes host:port apart.
func split(t *testing.T, address string) (host string, port int) {
	t.Helper()
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	if port, err = strconv.Atoi(text); err != nil {
		t.Fatal(err)
	}
	return host, port
}
