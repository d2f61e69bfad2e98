package servers

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"pierfs/integration/process"
)

// KeyOptions says what key to make. The zero value is an ed25519 key without a passphrase, which the server accepts.
type KeyOptions struct {
	Type        string // as ssh-keygen -t takes it
	Passphrase  string
	PEM         bool // in the format of OpenSSL, as keys were before OpenSSH 7.8
	Certificate bool // signed by the CA that the server trusts; the bare key is then refused
	Unknown     bool // the server does not accept it
}

// Key is a private key file.
type Key struct {
	File        string
	Passphrase  string
	Certificate string // file of the certificate, "" without one
}

func (s *SSHD) authorizedKeys() string { return filepath.Join(s.etc, "authorized_keys") }

// NewKey makes a key by which the server's user may log in.
func (s *SSHD) NewKey(t testing.TB, o KeyOptions) Key {
	t.Helper()
	dir, err := os.MkdirTemp(s.etc, "key-")
	if err != nil {
		t.Fatal(err)
	}
	key := Key{File: filepath.Join(dir, "id"), Passphrase: o.Passphrase}
	kind := o.Type
	if kind == "" {
		kind = "ed25519"
	}
	args := []string{"-q", "-t", kind, "-C", "test", "-N", o.Passphrase, "-f", key.File}
	if o.PEM {
		args = append(args, "-m", "PEM")
	}
	process.Output(t, nil, "ssh-keygen", args...)
	switch {
	case o.Unknown:
	case o.Certificate:
		key.Certificate = key.File + "-cert.pub"
		process.Output(t, nil, "ssh-keygen", "-q", "-s", filepath.Join(s.etc, "ca"), "-I", "test", "-n", s.User, key.File+".pub")
	default:
		s.Authorize(t, key)
	}
	return key
}

// Authorize lets the server's user log in by key, which may be of another server.
func (s *SSHD) Authorize(t testing.TB, key Key) {
	t.Helper()
	f, err := os.OpenFile(s.authorizedKeys(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteString(read(t, key.File+".pub"))
	if err2 := f.Close(); err == nil {
		err = err2
	}
	if err != nil {
		t.Fatal(err)
	}
}

// NewAgent starts an ssh-agent that holds the keys, which must have no passphrase, and returns its socket.
func NewAgent(t testing.TB, keys ...Key) string {
	t.Helper()
	process.Need(t, "ssh-agent", "ssh-add")
	// Not below the test's own directory: a socket's path is short.
	socket := filepath.Join(makeDir(t), "agent")
	agent := process.Start(t, exec.Command("ssh-agent", "-D", "-a", socket))
	if err := agent.Await("SSH_AUTH_SOCK=", 0, process.Patience); err != nil {
		t.Fatalf("start ssh-agent: %v\n%s", err, agent.Log)
	}
	for _, key := range keys {
		cmd := exec.CommandContext(t.Context(), "ssh-add", "-q", key.File)
		cmd.Env = append(os.Environ(), "SSH_AUTH_SOCK="+socket)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, out)
		}
	}
	return socket
}
