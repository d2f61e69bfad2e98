package integration

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"pierfs/integration/daemon"
	"pierfs/integration/process"
	"pierfs/integration/servers"
)

// TestExitStatuses provokes each status of docs/CLI.md through the real programs, and wants every failure to end in a way out.
func TestExitStatuses(t *testing.T) {
	t.Parallel()
	process.Need(t, "unshare", "mount")
	s := newStage(t, servers.SSHOptions{}, nil)
	programs, err := built()
	if err != nil {
		t.Fatal(err)
	}
	s.daemon.Define(t, "wrong", daemon.To(t, s.server, daemon.Fields{"password": "not it", "enabled": false}))
	s.daemon.Define(t, "talker", daemon.To(t, s.server, daemon.Fields{"port": talker(t), "timeout": 2, "retryCount": 0, "enabled": false}))
	s.daemon.Reload(t)
	open, err := os.Create(filepath.Join(s.mount, "open"))
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	broken := filepath.Join(t.TempDir(), "etc")
	if err := os.MkdirAll(filepath.Join(broken, "connections"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(broken, "connections", "x.toml"), []byte("port = 0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	newer, nobody := newerDaemon(t), t.TempDir()
	seen := map[int]bool{0: true}
	for _, c := range []struct {
		status int
		stdin  string
		args   []string
	}{
		{0, "", []string{"list"}},
		{1, "protocol = \"SFTP\"\nhost = \"elsewhere\"\nusername = \"u\"\nworkingDir = \"/\"\n", []string{"diff", connection, "-"}},
		{1, "", []string{"name", "check", connection, "--config-dir", s.daemon.ConfigDir}},
		{2, "", []string{"name", "check", ".x"}},
		{64, "", []string{"lits"}},
		{64, "", []string{"list", "--nonsense"}},
		{65, "PK\x03\x04", []string{"import", "-"}},
		{66, "", []string{"show", "nobody"}},
		{66, "", []string{"get", connection + ":/missing", "-"}},
		{69, "", []string{"list", "--runtime-dir", nobody}},
		{69, "", []string{"ls", "wrong"}},
		{70, "", []string{"list", "--runtime-dir", newer}},
		{73, "", []string{"create", connection, "--set", "host=h"}},
		{75, "", []string{"umount", connection}},
		{76, "", []string{"test", "talker"}},
		{77, "", []string{"test", "wrong"}},
		{78, "", []string{"check", "--config-dir", broken}},
		{78, "", []string{"create", "incomplete", "--set", "host=h"}},
	} {
		seen[c.status] = true
		r := s.daemon.PierfsWith(t, daemon.Call{Stdin: c.stdin}, c.args...)
		if r.Status != c.status {
			t.Errorf("pierfs %s ends with %d, want %d\n%s%s", strings.Join(c.args, " "), r.Status, c.status, r.Stdout, r.Stderr)
		}
		if said := r.Stderr; c.status >= 64 && c.args[0] != "check" && !regexp.MustCompile(`(?m)^  \S`).MatchString(said) {
			t.Errorf("pierfs %s says no way out:\n%s", strings.Join(c.args, " "), said)
		}
	}

	hidden := exec.CommandContext(t.Context(), "unshare", "--mount", "sh", "-c", `mount --make-rprivate / && mount -t tmpfs none /dev && exec "$0" demo`, filepath.Join(programs.Dir, "pierfsd"))
	r := daemon.Run(t, hidden, time.Minute)
	if seen[71] = true; r.Status != 71 || !strings.Contains(r.Stderr, "\n  ") {
		t.Errorf("pierfsd without /dev/fuse ends with %d, want 71 and a way out\n%s", r.Status, r.Stderr)
	}
	log := filepath.Join(s.daemon.StateDir, "registry", "audit.jsonl")
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(log, text[:len(text)-20], 0o600); err != nil {
		t.Fatal(err)
	}
	if seen[74] = true; s.daemon.Pierfs(t, "audit", "verify").Status != 74 {
		t.Error("audit verify of a log that was cut does not end with 74")
	}

	page, err := os.ReadFile("../docs/CLI.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(page), "## Exit statuses")
	table, _, _ = strings.Cut(table, "\n## ")
	for _, row := range regexp.MustCompile(`(?m)^\| (\d+) \|`).FindAllStringSubmatch(table, -1) {
		if status, err := strconv.Atoi(row[1]); err != nil || !seen[status] {
			t.Errorf("nothing here ends with %s, which the page lists", row[1])
		}
	}
}

// talker is the port of a server that speaks neither SSH nor anything else to the point.
func talker(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() { // ends with l
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.WriteString(c, "220 this is something else\r\n") // whoever has gone needs no banner
				_, _ = bufio.NewReader(c).ReadString('\n')
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).Port
}

// newerDaemon is the runtime directory of a daemon that fails with a code nobody here knows.
func newerDaemon(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pierfs-newer-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "control.sock"))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{ReadHeaderTimeout: process.Patience, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusInternalServerError)
		_, _ = io.WriteString(w, `{"error": {"code": "SOMETHING_NEW", "text": "it failed in a new way"}}`)
	})}
	go func() { _ = server.Serve(l) }() // ends with Close
	t.Cleanup(func() { server.Close() })
	return dir
}
