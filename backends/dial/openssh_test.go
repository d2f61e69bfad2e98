package dial_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pierfs/backends"
	"pierfs/backends/backendtest"
	"pierfs/backends/dial"
	"pierfs/backends/retry"
	"pierfs/conncfg"
	"pierfs/integration/servers"
)

// target is a directory of its own on a real server.
func target(t *testing.T, s *servers.SSHD, dir string) conncfg.Target {
	t.Helper()
	path := filepath.Join(s.Dir, dir)
	if err := os.Mkdir(path, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o777); err != nil { // whatever the umask
		t.Fatal(err)
	}
	return conncfg.Target{
		Protocol: conncfg.SFTP, Host: s.Host, Port: s.Port, Username: s.User, Password: conncfg.NewSecret(s.Password),
		WorkingDir: s.Root + "/" + dir, SSH: conncfg.SSH{HostKey: s.Fingerprint(t)},
		ConnectTimeout: 5 * time.Second, SocketTimeout: 5 * time.Second, RetryCount: 3,
	}
}

func dialled(t *testing.T, target conncfg.Target, o dial.Options) *retry.Backend {
	t.Helper()
	b, err := dial.Dial(target, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func TestContractOnOpenSSH(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a real server")
	}
	s := servers.NewSSHD(t, servers.SSHOptions{})
	n := 0
	backendtest.Run(t, func(t *testing.T) backends.Backend {
		n++
		return dialled(t, target(t, s, fmt.Sprint("rule", n)), dial.Options{})
	}, backendtest.Options{Beside: true, Confined: true})
}

func TestLinksOfOpenSSHStayInside(t *testing.T) {
	s := servers.NewSSHD(t, servers.SSHOptions{})
	b := dialled(t, target(t, s, "data"), dial.Options{})
	at := func(name string) string { return filepath.Join(s.Dir, "data", name) }
	for name, to := range map[string]string{
		"out": "/etc", "passwd": "/etc/passwd", "up": "..", "absolute": s.Root + "/data/dir", "dir/inside": "../file",
	} {
		os.Mkdir(at("dir"), 0o755)
		if err := os.Symlink(to, at(name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(at("file"), []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]syscall.Errno{
		"passwd": syscall.EPERM, "out/passwd": syscall.EPERM, "up/data/file": syscall.EPERM, "absolute/inside": 0, "dir/inside": 0,
	} {
		r, err := b.Open(t.Context(), name)
		if backends.Errno(err) != want {
			t.Errorf("open %s: got %v, want %v", name, err, want)
		}
		if err == nil {
			r.Close()
		}
	}
	for name, want := range map[string]string{"absolute": "dir", "dir/inside": "../file", "out": "", "up": ""} {
		got, err := b.Readlink(t.Context(), name)
		if got != want || want == "" && backends.Errno(err) != syscall.EPERM {
			t.Errorf("readlink %s: got %q, %v, want %q", name, got, err, want)
		}
	}
}

// Holds row 23 of the requirements.
func TestTestReportsEachStep(t *testing.T) {
	s := servers.NewSSHD(t, servers.SSHOptions{})
	good := target(t, s, "data")
	wrong := good
	wrong.Password = conncfg.NewSecret("wrong")
	stranger := good
	stranger.SSH.HostKey = ""
	nowhere := good
	nowhere.WorkingDir += "/nowhere"
	for _, c := range []struct {
		what  string
		t     conncfg.Target
		steps []string
		cause backends.Cause
	}{
		{"good", good, []string{"tcp", "ssh", "auth", "workingDir", "list", "roundTrip"}, ""},
		{"wrong password", wrong, []string{"tcp", "ssh", "auth"}, backends.CauseAuth},
		{"unknown host key", stranger, []string{"tcp", "ssh"}, backends.CauseHostKeyUnknown},
		{"no directory", nowhere, []string{"tcp", "ssh", "auth", "workingDir"}, backends.CauseWorkingDir},
	} {
		var steps []string
		err := dial.Test(t.Context(), c.t, dial.Options{}, func(s dial.Step) { steps = append(steps, s.Name) })
		if !slices.Equal(steps, c.steps) || backends.CauseOf(err) != c.cause {
			t.Errorf("%s: got steps %q, %v (cause %q), want %q, %q", c.what, steps, err, backends.CauseOf(err), c.steps, c.cause)
		}
	}
	key, err := dial.Scan(t.Context(), good, dial.Options{})
	if err != nil || key.Fingerprint() != s.Fingerprint(t) {
		t.Errorf("scan: got %q, %v, want %q", key.Fingerprint(), err, s.Fingerprint(t))
	}
}

func TestOutageOfOpenSSH(t *testing.T) {
	if testing.Short() {
		t.Skip("kills a real server and waits for it")
	}
	s := servers.NewSSHD(t, servers.SSHOptions{})
	place := target(t, s, "data")
	place.ConnectTimeout, place.SocketTimeout, place.RetryCount = time.Second, time.Second, 2
	if err := os.WriteFile(filepath.Join(s.Dir, "data", "file"), []byte("0123456789"), 0o644); err != nil {
		t.Fatal(err)
	}
	news := make(chan retry.State, 10)
	b := dialled(t, place, dial.Options{State: func(state retry.State) { news <- state }})
	r, err := b.Open(t.Context(), "file")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	read := func() error {
		p := make([]byte, 5)
		n, err := r.ReadAt(t.Context(), p, 0)
		if err == nil && string(p[:n]) != "01234" {
			t.Errorf("read %q, want 01234", p[:n])
		}
		return err
	}
	for _, cut := range []func(){func() {}, func() { s.KillSessions(t) }, func() { s.Kill(t); s.Restart(t) }} {
		cut()
		if err := read(); err != nil {
			t.Fatalf("read over a cut within the budget: %v", err)
		}
	}
	if state := <-news; !state.Online {
		t.Errorf("news: got %+v, want online", state)
	}

	s.Kill(t)
	began := time.Now()
	if err := read(); err == nil {
		t.Error("read with the server gone: got success")
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("the read took %v, the budget is 3 s", took)
	}
	var calls sync.WaitGroup
	for range 10 {
		calls.Go(func() {
			began := time.Now()
			if _, err := b.Stat(t.Context(), "file"); backends.CauseOf(err) != backends.CauseOffline {
				t.Errorf("stat while offline: got %v, want offline", err)
			}
			if took := time.Since(began); took > 100*time.Millisecond {
				t.Errorf("a call while offline took %v", took)
			}
		})
	}
	calls.Wait()
	if state := <-news; state.Online || state.Err == nil {
		t.Errorf("news: got %+v, want offline", state)
	}
	s.Restart(t)
	select {
	case state := <-news:
		if !state.Online {
			t.Errorf("news: got %+v, want online", state)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("no news 20 s after the server was back")
	}
	if err := read(); err != nil {
		t.Errorf("read after the outage: %v", err)
	}
}

// A password that is changed at its source counts at the next login, without a new Dial.
func TestSecretsAreAskedAtEachLogin(t *testing.T) {
	s := servers.NewSSHD(t, servers.SSHOptions{})
	right := target(t, s, "secrets")
	stale := right
	stale.Password = conncfg.NewSecret("the one of last year")
	var known atomic.Value
	known.Store(stale)
	b := dialled(t, stale, dial.Options{Secrets: func() conncfg.Target { return known.Load().(conncfg.Target) }})
	if _, err := b.Stat(t.Context(), ""); backends.CauseOf(err) != backends.CauseAuth {
		t.Fatalf("with the stale password: %v, want %s", err, backends.CauseAuth)
	}
	known.Store(right)
	b.Knock()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); ; <-tick.C {
		_, err := b.Stat(t.Context(), "")
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("with the new password: %v", err)
		}
	}
}
