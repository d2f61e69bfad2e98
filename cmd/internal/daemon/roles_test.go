package daemon

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"pierfs/cmd/internal/control"
)

// TestMain is the tests, or one call of a control verb by whoever this process is.
func TestMain(m *testing.M) {
	dir := os.Getenv("DAEMON_TEST_CALL")
	if dir == "" {
		os.Exit(m.Run())
	}
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", control.SocketPath(dir))
	}}}
	resp, err := client.Post("http://pierfs/"+control.Protocol+"/"+os.Args[1], "application/json", os.Stdin)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	_, _ = io.Copy(os.Stdout, resp.Body)
}

// as calls a verb as another user, by number, and returns what was answered, a failure too.
func (s *stage) as(uid, gid uint32, verb, body string) string {
	s.t.Helper()
	cmd := exec.CommandContext(s.t.Context(), "/proc/self/exe", verb)
	cmd.Env = []string{"DAEMON_TEST_CALL=" + s.dirs.Runtime}
	cmd.Stdin = strings.NewReader(body)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid, Groups: []uint32{gid}}}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return err.Error() + ": " + out.String() // the socket is closed to him
	}
	return out.String()
}

// opened lets other users reach the runtime directory, as they do where it lies in service.
func (s *stage) opened() {
	s.t.Helper()
	for p := filepath.Dir(s.dirs.Runtime); p != os.TempDir() && p != "/"; p = filepath.Dir(p) {
		if err := os.Chmod(p, 0o755); err != nil {
			s.t.Fatal(err)
		}
	}
}

const roles = `
[roles]
viewer = ["4801"]
operator = ["@4902"]
admin = ["4803"]
[roles.projects.shop]
operator = ["4804"]
admin = ["4805"]
`

// Row 102: what somebody may do hangs on his user and groups, as the kernel names them, on the verb, and on the project; who is refused
// is told which role he lacks, and who has it.
func TestRoles(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("needs root, to become other users")
	}
	s := newStage(t)
	s.write("pierfs.toml", `activeEnvironments = ["Test"]`+roles)
	s.define("global")
	s.define("shop/one")
	s.start()
	s.opened()
	const nobody, viewer, operator, admin, shopOperator, shopAdmin = 4800, 4801, 4802, 4803, 4804, 4805
	said := 0
	edit := func(name string) string {
		said++
		return fmt.Sprintf(`{"name":%q,"set":[{"field":"description","value":"x%d"}]}`, name, said)
	}
	for _, c := range []struct {
		uid        uint32
		verb, body string
		refused    string // a part of what is said; "" is served
	}{
		{nobody, "list", `{}`, "has not the role viewer"},
		{nobody, "edit", edit("global"), "has not the role admin"},
		{viewer, "list", `{}`, ""},
		{viewer, "show", `{"name":"global"}`, ""},
		{viewer, "umount", `{"name":"global"}`, "has not the role operator"},
		{viewer, "stat", `{"connection":"global","path":"/"}`, "has not the role operator"},
		{operator, "stat", `{"connection":"global","path":""}`, ""},
		{operator, "umount", `{"name":"global"}`, ""},
		{operator, "mount", `{"name":"global"}`, ""},
		{operator, "edit", edit("global"), "root may, and 4803"},
		{admin, "edit", edit("global"), ""},
		{admin, "edit", edit("shop/one"), ""},
		{shopOperator, "stat", `{"connection":"shop/one","path":""}`, ""},
		{shopOperator, "stat", `{"connection":"global","path":""}`, "has not the role operator"},
		{shopOperator, "edit", edit("shop/one"), "has not the role admin"},
		{shopAdmin, "edit", edit("shop/one"), ""},
		{shopAdmin, "edit", edit("global"), "has not the role admin"},
		{shopAdmin, "copy", `{"name":"shop/one","to":"two"}`, "has not the role admin"},
		{shopAdmin, "vars-set", `{"name":"x","value":"y"}`, "has not the role admin"},
		{shopAdmin, "rollback", `{"subject":"pierfs.toml","revision":1}`, "has not the role admin"},
	} {
		got := s.as(c.uid, c.uid+100, c.verb, c.body)
		if failed := strings.Contains(got, `"error"`); failed != (c.refused != "") || !strings.Contains(got, c.refused) || failed && !strings.Contains(got, "NOT_ALLOWED") {
			t.Errorf("user %d: %s %s: %s; want %q", c.uid, c.verb, c.body, got, c.refused)
		}
	}
	if got := s.as(shopOperator, 1, "list", `{}`); strings.Contains(got, "global") || !strings.Contains(got, "shop/one") {
		t.Errorf("the operator of one project is told %s", got)
	}
	h, err := control.History.Call(t.Context(), s.client, control.HistoryRequest{Subject: "shop/one"})
	if err != nil || h.Revisions[len(h.Revisions)-1].UID != shopAdmin {
		t.Errorf("the log names %+v, %v", h.Revisions, err)
	}
	// Whoever may write the settings could give roles to himself.
	if err := os.Chown(filepath.Join(s.dirs.Config, "pierfs.toml"), viewer, viewer); err != nil {
		t.Fatal(err)
	}
	s.apply()
	rawPost(t, s.dirs.Runtime, "list", "{}")
	if got := s.as(admin, 1, "list", `{}`); !strings.Contains(got, "permission denied") && !strings.Contains(got, "NOT_ALLOWED") {
		t.Errorf("with settings that belong to somebody else, roles count: %s", got)
	}
}
