package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pierfs/conncfg/trust"
	"pierfs/integration/daemon"
	"pierfs/integration/servers"
)

// TestStrangersOnTheWay: with an SSH host in between its key is judged before the server's, each is trusted by the same
// command, and the mount works once both are.
func TestStrangersOnTheWay(t *testing.T) {
	t.Parallel()
	jump := servers.NewSSHD(t, servers.SSHOptions{})
	server := servers.NewFTP(t, servers.FTPOptions{TLS: servers.Explicit, Certificate: servers.CertificateOptions{SelfSigned: true}})
	d := newDaemon(t)
	d.Define(t, connection, overFTPS(server, daemon.Fields{
		"via": fmt.Sprintf("ssh://%s@%s:%d", jump.User, jump.Host, jump.Port), "viaPassword": jump.Password, "rateLimit": "8MiB",
	}))
	d.Start(t)
	for _, met := range []struct{ cause, fingerprint string }{
		{"host_key_unknown", jump.Fingerprint(t)},
		{"cert_unknown_authority", trust.Fingerprint(server.Certificate.X509)},
	} {
		steps := testSteps(t, d, connection)
		last := steps[len(steps)-1]
		if last.OK || last.Cause != met.cause || !strings.Contains(last.Detail+last.Fix, met.fingerprint) {
			t.Errorf("pierfs test ended with %+v, want %s and %s", last, met.cause, met.fingerprint)
		}
		if r := d.Pierfs(t, "trust", connection, met.fingerprint); r.Status != 0 || !strings.Contains(r.Stdout, met.fingerprint) {
			t.Fatalf("pierfs trust %s: exit %d\n%s%s", met.fingerprint, r.Status, r.Stdout, r.Stderr)
		}
	}
	d.AwaitState(t, connection, "ready", healing)
	content := random(1, 1<<20)
	name := filepath.Join(d.Mount(connection), "f")
	if err := put(name, content); err != nil {
		t.Fatal(err)
	}
	has(t, filepath.Join(server.Dir, "f"), content)
	has(t, name, content)
	if !strings.Contains(jump.Log(), "Accepted password") {
		t.Errorf("nobody logged in to the host in between:\n%s", jump.Log())
	}
	jump.Kill(t)
	server.KillSessions(t)
	if _, err := os.ReadDir(d.Mount(connection)); err == nil {
		if _, err := os.Stat(filepath.Join(d.Mount(connection), "g")); err == nil || os.IsNotExist(err) {
			t.Errorf("with the host in between gone the mount answers: %v", err)
		}
	}
	jump.Restart(t)
	d.AwaitState(t, connection, "ready", healing)
	heals(t, name, content)
}

// TestAnotherHostAnswers: where the host cannot be reached its stand-in is asked, without a program's seeing more than a pause;
// each is trusted for itself and each is tried by `pierfs test` (row 82).
func TestAnotherHostAnswers(t *testing.T) {
	t.Parallel()
	first, second := servers.NewSSHD(t, servers.SSHOptions{}), servers.NewSSHD(t, servers.SSHOptions{})
	second.ChangePassword(t, first.Password)
	content := random(1, 300_000)
	for server, name := range map[*servers.SSHD]string{first: "first", second: "second"} {
		if err := os.WriteFile(filepath.Join(server.Dir, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	d := newDaemon(t)
	d.Define(t, connection, daemon.To(t, first, daemon.Fields{"hostKey": nil, "fallbackHosts": second.Address(), "metadataTTL": 0, "negativeTTL": 0}))
	d.Start(t)
	for _, server := range []*servers.SSHD{first, second} {
		if r := d.Pierfs(t, "trust", connection); r.Status != 0 || !strings.Contains(r.Stdout, server.Fingerprint(t)) {
			t.Fatalf("pierfs trust: exit %d, want the key of %s\n%s%s", r.Status, server.Address(), r.Stdout, r.Stderr)
		}
	}
	d.AwaitState(t, connection, "ready", healing)
	tested := map[string]bool{}
	for _, step := range testSteps(t, d, connection) {
		host, _, _ := strings.Cut(step.Detail, ": ")
		tested[host] = true
	}
	if !tested[first.Address()] || !tested[second.Address()] {
		t.Errorf("pierfs test told of %v", tested)
	}
	has(t, filepath.Join(d.Mount(connection), "first"), content)
	first.Kill(t)
	first.KillSessions(t)
	has(t, filepath.Join(d.Mount(connection), "second"), content)
	name := filepath.Join(d.Mount(connection), "written")
	if err := put(name, content); err != nil {
		t.Fatal(err)
	}
	has(t, filepath.Join(second.Dir, "written"), content)
	if log := d.Log(); !strings.Contains(log, "another host answers") {
		t.Errorf("the log does not tell that another host answers:\n%s", log)
	}
}
