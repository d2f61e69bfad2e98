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
