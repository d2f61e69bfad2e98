package servers

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// sftp runs OpenSSH's own client on the server with a batch of commands and returns all that it printed.
func sftp(t *testing.T, s *SSHD, batch string, env []string, options ...string) (string, error) {
	t.Helper()
	dir := t.TempDir()
	known := write(t, filepath.Join(dir, "known_hosts"), 0o600, "%s", s.KnownHosts(t))
	args := []string{"-F", "none", "-P", fmt.Sprint(s.Port), "-o", "UserKnownHostsFile=" + known, "-o", "GlobalKnownHostsFile=none",
		"-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=no", "-o", "NumberOfPasswordPrompts=1"}
	for _, option := range options {
		args = append(args, "-o", option)
	}
	cmd := exec.CommandContext(t.Context(), "sftp", append(args, s.User+"@"+s.Host)...)
	cmd.Stdin = strings.NewReader(batch)
	cmd.Env = append(os.Environ(), append(env, "SSH_AUTH_SOCK=")...)
	if len(env) > 0 {
		cmd.Env = append(os.Environ(), env...)
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// askpass returns an environment in which ssh asks a program for the password, and that answers with password.
func askpass(t *testing.T, password string) []string {
	t.Helper()
	program := write(t, filepath.Join(t.TempDir(), "askpass"), 0o700, "#!/bin/sh\necho '%s'\n", password)
	return []string{"SSH_ASKPASS=" + program, "SSH_ASKPASS_REQUIRE=force", "SSH_AUTH_SOCK="}
}

func TestLogins(t *testing.T) {
	t.Parallel()
	s := NewSSHD(t, SSHOptions{})
	plain := s.NewKey(t, KeyOptions{})
	certified := s.NewKey(t, KeyOptions{Certificate: true})
	pem := s.NewKey(t, KeyOptions{Type: "rsa", PEM: true})
	unknown := s.NewKey(t, KeyOptions{Unknown: true})
	agent := NewAgent(t, plain)
	keyOnly := func(k Key) []string {
		return []string{"IdentitiesOnly=yes", "IdentityFile=" + k.File, "PreferredAuthentications=publickey"}
	}
	for _, test := range []struct {
		name    string
		env     []string
		options []string
		ok      bool
	}{
		{"password", askpass(t, s.Password), []string{"PreferredAuthentications=password"}, true},
		{"wrong password", askpass(t, "wrong"), []string{"PreferredAuthentications=password"}, false},
		{"keyboard-interactive", askpass(t, s.Password), []string{"PreferredAuthentications=keyboard-interactive"}, true},
		{"key", nil, keyOnly(plain), true},
		{"old key format", nil, keyOnly(pem), true},
		{"certificate", nil, append(keyOnly(certified), "CertificateFile="+certified.Certificate), true},
		{"unknown key", nil, keyOnly(unknown), false},
		{"agent", []string{"SSH_AUTH_SOCK=" + agent}, []string{"PreferredAuthentications=publickey", "IdentityFile=none"}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			out, err := sftp(t, s, "pwd\n", test.env, test.options...)
			if got := err == nil && strings.Contains(out, s.Root); got != test.ok {
				t.Errorf("login worked: %v, want %v (%v)\n%s", got, test.ok, err, out)
			}
		})
	}
}

func TestUploadArrivesInDir(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]SSHOptions{
		"plain": {}, "root": {User: "root"}, "external": {SFTP: External}, "noted": {Requests: true}, "chroot": {Chroot: true, ForceCommand: true}, "tmpfs": {Size: 1 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := NewSSHD(t, o)
			key := s.NewKey(t, KeyOptions{})
			local := write(t, filepath.Join(t.TempDir(), "x"), 0o644, "hello")
			out, err := sftp(t, s, fmt.Sprintf("put %s %s/there\n", local, s.Root), nil, "IdentityFile="+key.File)
			if err != nil {
				t.Fatalf("upload: %v\n%s", err, out)
			}
			if o.Requests && !strings.Contains(s.Requests(t), "open") {
				t.Errorf("the requests are noted as %q, want an open among them", s.Requests(t))
			}
			if got := read(t, filepath.Join(s.Dir, "there")); got != "hello" {
				t.Errorf("the server has %q, want %q", got, "hello")
			}
		})
	}
}

func TestReadOnlyServerRefuses(t *testing.T) {
	t.Parallel()
	s := NewSSHD(t, SSHOptions{SFTP: ReadOnly})
	key := s.NewKey(t, KeyOptions{})
	out, _ := sftp(t, s, "mkdir x\n", nil, "IdentityFile="+key.File)
	if !strings.Contains(out, "ermission denied") {
		t.Errorf("mkdir on a read-only server said %q, want permission denied", out)
	}
}

// banner connects and reads the server's first bytes within limit.
func banner(s *SSHD, limit time.Duration) error {
	c, err := net.DialTimeout("tcp", s.Address(), limit)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	_, err = c.Read(make([]byte, 4))
	return err
}

func TestStopContKillRestart(t *testing.T) {
	t.Parallel()
	s := NewSSHD(t, SSHOptions{})
	fine := func(when string) {
		t.Helper()
		if err := banner(s, 10*time.Second); err != nil {
			t.Fatalf("%s: no greeting: %v\n%s", when, err, s.Log())
		}
	}
	fine("started")
	s.Stop(t)
	if err := banner(s, 200*time.Millisecond); !os.IsTimeout(err) {
		t.Errorf("stopped: greeting came, or %v; want a timeout", err)
	}
	s.Cont(t)
	fine("let go on")
	s.Kill(t)
	if err := banner(s, time.Second); err == nil || os.IsTimeout(err) {
		t.Errorf("killed: got %v, want connection refused", err)
	}
	s.Restart(t)
	fine("started again")
	before := s.Fingerprint(t)
	s.ChangeHostKeys(t)
	fine("with another key")
	if after := s.Fingerprint(t); after == before {
		t.Errorf("the host key is still %s", before)
	}
}

func TestSessionsAreCounted(t *testing.T) {
	t.Parallel()
	s := NewSSHD(t, SSHOptions{})
	key := s.NewKey(t, KeyOptions{})
	if n := s.Sessions(); n != 0 {
		t.Errorf("before any login: %d sessions", n)
	}
	known := write(t, filepath.Join(t.TempDir(), "known_hosts"), 0o600, "%s", s.KnownHosts(t))
	cmd := exec.CommandContext(t.Context(), "ssh", "-F", "none", "-p", fmt.Sprint(s.Port), "-o", "UserKnownHostsFile="+known, "-i", key.File,
		s.User+"@"+s.Host, "echo in; cat")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := stdout.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if n := s.Sessions(); n != 1 {
		t.Errorf("during a login: %d sessions, want 1: %+v", n, s.space.members())
	}
	s.KillSessions(t)
	if err := cmd.Wait(); err == nil {
		t.Error("the client did not notice that its session was killed")
	}
	if err := banner(s, 10*time.Second); err != nil {
		t.Errorf("after its sessions were killed the server does not greet: %v", err)
	}
}

func TestNothingOutlivesTheTest(t *testing.T) {
	t.Parallel()
	var s *SSHD
	t.Run("server", func(t *testing.T) { s = NewSSHD(t, SSHOptions{Size: 1 << 20}) })
	if err := banner(s, time.Second); err == nil {
		t.Error("the server still greets")
	}
	if left := s.space.members(); len(left) > 0 {
		t.Errorf("still there: %+v", left)
	}
	if _, err := os.Stat(filepath.Dir(s.etc)); !os.IsNotExist(err) {
		t.Errorf("its directory: %v, want it gone", err)
	}
}
