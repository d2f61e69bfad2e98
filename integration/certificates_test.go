package integration

import (
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pierfs/conncfg/trust"
	"pierfs/integration/daemon"
	"pierfs/integration/servers"
)

// overFTPS returns the fields of a connection to s that believes no authority but the system's, changed by more.
func overFTPS(s *servers.FTP, more daemon.Fields) daemon.Fields {
	fields := daemon.Fields{
		"protocol": "FTPS", "host": s.Host, "port": s.Port, "username": s.User, "password": s.Password, "workingDir": s.Root,
		"timeout": 2, "retryCount": 0, "exception": "its certificate signs itself",
	}
	maps.Copy(fields, more)
	return fields
}

// TestCertificates: a certificate that nobody vouches for is refused with its fingerprint and the command that trusts it, a
// changed one loudly, and in neither case does the server see a password. One that is trusted works, and is told when it ends.
// Holds rows 36 and 101 of the requirements.
func TestCertificates(t *testing.T) {
	t.Parallel()
	server := servers.NewFTP(t, servers.FTPOptions{TLS: servers.Explicit, Certificate: servers.CertificateOptions{SelfSigned: true}})
	d := newDaemon(t)
	d.Define(t, connection, overFTPS(server, nil))
	d.Start(t)
	first := trust.Fingerprint(server.Certificate.X509)
	refused := func(cause, fingerprint string) {
		t.Helper()
		steps := testSteps(t, d, connection)
		last := steps[len(steps)-1]
		if last.OK || last.Step != "tls" || last.Cause != cause || !strings.Contains(last.Detail+last.Fix, fingerprint) || last.Fix == "" {
			t.Errorf("pierfs test ended with %+v, want %s and %s", last, cause, fingerprint)
		}
		for _, command := range server.Commands(t) {
			if strings.HasPrefix(command, "USER") || strings.HasPrefix(command, "PASS") {
				t.Errorf("a login was tried at a server that nobody vouched for: %s", command)
			}
		}
		if _, err := os.ReadDir(d.Mount(connection)); err == nil {
			t.Error("the directory can be listed")
		}
	}
	refused("cert_unknown_authority", first)
	told := func(words string) {
		t.Helper()
		for _, verb := range [][]string{{"test", connection}, {"list"}} {
			if r := d.Pierfs(t, verb...); !strings.Contains(r.Stdout+r.Stderr, words) {
				t.Errorf("pierfs %s does not tell %q:\n%s%s", verb[0], words, r.Stdout, r.Stderr)
			}
		}
	}
	told("then run: pierfs trust " + connection + " " + first)
	r := d.Pierfs(t, "trust", connection, strings.Repeat("AB:", 31)+"AB")
	if r.Status != 77 {
		t.Errorf("pierfs trust of a fingerprint that the server does not show: exit %d\n%s%s", r.Status, r.Stdout, r.Stderr)
	}
	r = d.Pierfs(t, "trust", connection, first)
	if r.Status != 0 || !strings.Contains(r.Stdout, server.Certificate.X509.Subject.String()) || !strings.Contains(r.Stdout, "localhost") {
		t.Fatalf("pierfs trust: exit %d, want what the certificate says of itself\n%s%s", r.Status, r.Stdout, r.Stderr)
	}
	d.AwaitState(t, connection, "ready", healing)
	if err := put(filepath.Join(d.Mount(connection), "f"), []byte("x")); err != nil {
		t.Errorf("write to the trusted server: %v", err)
	}
	if r := d.Pierfs(t, "list"); !strings.Contains(r.Stdout, "CERT_EXPIRES") || !strings.Contains(d.Log(), "CERT_EXPIRES") {
		t.Errorf("neither list nor the log tells that the certificate ends at %s:\n%s\n%s", server.Certificate.X509.NotAfter, r.Stdout, d.Log())
	}

	server.ChangeCertificate(t, servers.CertificateOptions{SelfSigned: true, NotAfter: time.Now().Add(400 * 24 * time.Hour)})
	server.KillSessions(t)
	second := trust.Fingerprint(server.Certificate.X509)
	steps := testSteps(t, d, connection)
	if last := steps[len(steps)-1]; last.Cause != "cert_changed" || !strings.Contains(last.Detail+last.Fix, second) || !strings.Contains(last.Detail+last.Fix, first) {
		t.Errorf("pierfs test of a changed certificate ended with %+v, want cert_changed and both fingerprints", last)
	}
	if r := d.Pierfs(t, "stat", connection+":/not asked for yet"); r.Status != 77 {
		t.Errorf("pierfs stat at a changed server: exit %d\n%s%s", r.Status, r.Stdout, r.Stderr)
	}
	d.AwaitState(t, connection, "offline", healing)
	told("somebody stands in between")
	told("then run: pierfs trust " + connection + " " + second)
	if r := d.Pierfs(t, "trust", connection); r.Status != 77 {
		t.Errorf("pierfs trust of whatever comes in place of what is trusted: exit %d\n%s%s", r.Status, r.Stdout, r.Stderr)
	}
	if r := d.Pierfs(t, "trust", connection, second); r.Status != 0 || !strings.Contains(r.Stdout, first) {
		t.Errorf("pierfs trust of the new certificate: exit %d, want 0 and the one that is forgotten\n%s%s", r.Status, r.Stdout, r.Stderr)
	}
	d.AwaitState(t, connection, "ready", healing)
	has(t, filepath.Join(d.Mount(connection), "f"), []byte("x"))
	if r := d.Pierfs(t, "list"); strings.Contains(r.Stdout, "CERT_EXPIRES") {
		t.Errorf("a renewed certificate is told to end:\n%s", r.Stdout)
	}
}

// TestMountURLOfFTP mounts servers of FTP without any definition, each way to say whom to believe.
func TestMountURLOfFTP(t *testing.T) {
	t.Parallel()
	plain := servers.NewFTP(t, servers.FTPOptions{})
	explicit := servers.NewFTP(t, servers.FTPOptions{TLS: servers.Explicit})
	implicit := servers.NewFTP(t, servers.FTPOptions{TLS: servers.Implicit})
	d := newDaemon(t)
	d.Start(t)
	exception := slices.Clip([]string{"-o", "exception=a test"}) // for whom no authority vouches
	for name, test := range map[string]struct {
		scheme string
		server *servers.FTP
		flags  []string
		status int
	}{
		"plain":        {"ftp", plain, nil, 0},
		"authority":    {"ftpes", explicit, []string{"--ca", explicit.Authority.File}, 0},
		"pinned":       {"ftps", implicit, append(exception, "--trust-cert", trust.Fingerprint(implicit.Certificate.X509)), 0},
		"first sight":  {"ftpes", explicit, append(exception, "--trust-new"), 0},
		"not excepted": {"ftps", implicit, []string{"--trust-cert", trust.Fingerprint(implicit.Certificate.X509)}, 78},
		"stranger":     {"ftps", implicit, nil, 77},
		"another":      {"ftpes", explicit, append(exception, "--trust-cert", trust.Fingerprint(implicit.Certificate.X509)), 77},
		"wrong mode":   {"ftps", explicit, []string{"--ca", explicit.Authority.File}, 76},
		"needs TLS":    {"ftp", explicit, nil, 76},
		"host key":     {"ftpes", explicit, []string{"--host-key", trust.Fingerprint(explicit.Certificate.X509)}, 64},
		"ca of nobody": {"ftpes", explicit, []string{"--ca", "/dev/null"}, 78},
	} {
		dir := filepath.Join(t.TempDir(), "here")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		place := url.URL{Scheme: test.scheme, User: url.User(test.server.User), Host: test.server.Address(), Path: test.server.Root}
		args := append([]string{"mount", place.String(), dir, "-o", "timeout=2,retryCount=0"}, test.flags...)
		r := d.PierfsWith(t, daemon.Call{Env: []string{"PIERFS_PASSWORD=" + test.server.Password}}, args...)
		if r.Status != test.status {
			t.Errorf("%s: exit %d, want %d\n%s%s", name, r.Status, test.status, r.Stdout, r.Stderr)
		}
		if r.Status != 0 {
			continue
		}
		if err := put(filepath.Join(dir, name), []byte("x")); err != nil {
			t.Errorf("%s: write: %v", name, err)
		}
		has(t, filepath.Join(test.server.Dir, name), []byte("x"))
		if r := d.Pierfs(t, "umount", dir); r.Status != 0 {
			t.Errorf("%s: umount: exit %d\n%s%s", name, r.Status, r.Stdout, r.Stderr)
		}
	}
}
