package worlds

import (
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pierfs/integration/daemon"
	"pierfs/integration/link"
	"pierfs/integration/servers"
)

// names returns what lies in dir.
func names(t *testing.T, dir string) (all []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

// TestProbesLeaveNothing: row 58 of the requirements. What the probes make they take away, on each protocol; and without them it is said that no
// write was tried.
func TestProbesLeaveNothing(t *testing.T) {
	t.Parallel()
	ssh, ftp := servers.NewSSHD(t, servers.SSHOptions{}), servers.NewFTP(t, servers.FTPOptions{})
	m := newMachine(t)
	for protocol, c := range map[string]struct {
		definition fields
		dir        string
	}{"SFTP": {toSSH(t, ssh), ssh.Dir}, "FTP": {toFTP(ftp, servers.Plain), ftp.Dir}} {
		must(t, os.WriteFile(filepath.Join(c.dir, "theirs"), []byte("x"), 0o644))
		got := m.test(t, c.definition)
		if !got.OK || !slices.ContainsFunc(got.NotProven, func(s string) bool { return strings.Contains(s, "--write-probe") }) {
			t.Errorf("%s: a test without a probe does not say that no write was tried\n%s", protocol, got.raw)
		}
		got = m.test(t, c.definition, "--write-probe", "--privileges")
		steps := ""
		may := map[string]string{}
		for _, s := range got.Steps {
			if s.Privilege != "" {
				may[s.Privilege] = s.May
				continue
			}
			steps += " " + s.Step
		}
		if !got.OK || !strings.Contains(steps, "roundTrip create write rename replace verify remove privileges") && !strings.Contains(steps, "promises create write rename replace verify remove privileges") {
			t.Errorf("%s: exit %d after%s\n%s", protocol, got.status, steps, got.raw)
		}
		for _, privilege := range []string{"list", "read", "create", "overwrite", "append", "rename", "delete", "mkdir", "rmdir", "chmod", "utimes"} {
			if may[privilege] != "yes" {
				t.Errorf("%s: may %s: %q, want yes", protocol, privilege, may[privilege])
			}
		}
		if left := names(t, c.dir); !slices.Equal(left, []string{"theirs"}) {
			t.Errorf("%s: left at the server: %q", protocol, left)
		}
	}
}

// TestPrivileges: row 97 of the requirements. A login that may write though the definition is readOnly is warned of, and one that may not is
// described, without anything that fails.
func TestPrivileges(t *testing.T) {
	t.Parallel()
	free, bound := servers.NewSSHD(t, servers.SSHOptions{}), servers.NewFTP(t, servers.FTPOptions{ReadOnly: true, Chroot: true})
	must(t, os.WriteFile(filepath.Join(bound.Dir, "report"), []byte("x"), 0o644))
	m := newMachine(t)
	for name, c := range map[string]struct {
		definition fields
		may        map[string]string
		warning    string
	}{
		"too much":   {with(toSSH(t, free), fields{"readOnly": true}), map[string]string{"create": "yes", "delete": "yes", "list": "yes"}, "only list and read"},
		"too little": {toFTP(bound, servers.Plain), map[string]string{"list": "yes", "read": "yes", "create": "no", "mkdir": "no", "delete": "unknown"}, "uploads need create"},
		"enough":     {with(toFTP(bound, servers.Plain), fields{"readOnly": true}), map[string]string{"read": "yes", "create": "no"}, `workingDir is "/"`},
	} {
		got := m.test(t, c.definition, "--privileges")
		may, warnings := map[string]string{}, ""
		for _, s := range got.Steps {
			if s.Privilege != "" {
				may[s.Privilege] = s.May
			}
			warnings += s.Warning
		}
		maps.DeleteFunc(may, func(privilege, _ string) bool { return c.may[privilege] == "" })
		if !got.OK || !maps.Equal(may, c.may) || !strings.Contains(warnings, c.warning) {
			t.Errorf("%s: exit %d, %q, warnings %q; want %q and %q\n%s", name, got.status, may, warnings, c.may, c.warning, got.raw)
		}
	}
	if left := names(t, free.Dir); len(left) > 0 {
		t.Errorf("left at the server: %q", left)
	}
}

// TestProbeSurvivesItsConnection: a connection that breaks in the middle of a probe fails it, and what was made is removed over another; what
// cannot be removed is named.
func TestProbeSurvivesItsConnection(t *testing.T) {
	t.Parallel()
	server := servers.NewSSHD(t, servers.SSHOptions{})
	l := link.New(t, link.Options{})
	at := netip.MustParseAddrPort(l.Forward(t, "127.0.0.1:0", server.Address()))
	definition := with(daemon.To(t, server, nil), fields{"host": at.Addr().String(), "port": int(at.Port()), "timeout": 3, "retryCount": 0})
	m := newMachine(t)
	// How much travels to the server in a probe that nothing disturbs: where in it the line is cut is spread over all of it.
	count := l.Meter()
	if got := m.test(t, definition, "--write-probe"); !got.OK {
		t.Fatalf("undisturbed: exit %d\n%s", got.status, got.raw)
	}
	whole := count().ToServer
	count = l.Meter()
	if got := m.test(t, definition); !got.OK {
		t.Fatalf("without a probe: exit %d\n%s", got.status, got.raw)
	}
	begin := count().ToServer
	const cuts = 6
	for i := range int64(cuts) {
		l.CutAfter(link.ToServer, begin+(whole-begin)*(2*i+1)/(2*cuts))
		got := m.test(t, definition, "--write-probe")
		left := names(t, server.Dir)
		var told []string
		for _, s := range got.Steps {
			told = append(told, s.Left...)
		}
		for _, name := range left {
			if !slices.Contains(told, name) {
				t.Errorf("cut %d: %q is left, and nobody was told\n%s", i, name, got.raw)
			}
			must(t, os.Remove(filepath.Join(server.Dir, name)))
		}
		if got.OK {
			t.Logf("cut %d: the probe did not notice", i)
		}
	}
}
