package main

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"pierfs/cmd/internal/control"
	"pierfs/cmd/internal/dirs"
)

// A daemon that the hand starts gets the password over the socket and in no other way, and ends when it has nothing to do.
func TestStartedDaemonDoesNotInheritThePassword(t *testing.T) {
	const canary = "canary-1nh3rit"
	base := t.TempDir()
	build := exec.Command("go", "build", "-o", base+"/", "pierfs/cmd/pierfsd")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", build, err, out)
	}
	t.Setenv("PATH", base+":"+os.Getenv("PATH"))
	t.Setenv("HOME", base)
	t.Setenv(passwordVariable, canary)
	for name, dir := range map[string]string{"CONFIGURATION_DIRECTORY": "etc", "STATE_DIRECTORY": "state", "CACHE_DIRECTORY": "cache", "RUNTIME_DIRECTORY": "run"} {
		t.Setenv(name, filepath.Join(base, dir))
	}
	t.Setenv("PIERFS_RUNTIME_DIR", "")
	h := &hand{dirs: dirs.Default(os.Geteuid(), os.Getenv), in: strings.NewReader(""), out: t.Output(), err: t.Output()}
	if err := h.startDaemon(t.Context()); err != nil {
		t.Fatal(err)
	}
	status, err := control.Status.Call(t.Context(), h.client(), control.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if p, err := os.FindProcess(status.PID); err == nil {
			_ = p.Kill() // it should have ended
		}
	})
	for _, file := range []string{"environ", "cmdline"} {
		text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(status.PID), file))
		if err == nil && bytes.Contains(text, []byte(canary)) {
			t.Errorf("/proc/PID/%s of the daemon holds the password", file)
		}
		if err != nil && os.Geteuid() == 0 {
			t.Errorf("read /proc/PID/%s: %v", file, err)
		}
	}

	mountPoint := filepath.Join(base, "mnt")
	if err := os.Mkdir(mountPoint, 0o755); err != nil {
		t.Fatal(err)
	}
	var out, errOut bytes.Buffer
	code := run(t.Context(), []string{"mount", "sftp://user@" + closedPort(t) + "/x", mountPoint}, strings.NewReader(""), &out, &errOut)
	if code != control.Unreachable.Exit() {
		t.Errorf("a mount of a server that is down ended with %d: %s%s", code, out.String(), errOut.String())
	}
	awaitEnd(t, h)
	log, err := os.ReadFile(filepath.Join(base, "state/pierfsd.log"))
	if err != nil {
		t.Fatal(err)
	}
	if text := out.String() + errOut.String() + string(log); strings.Contains(text, canary) {
		t.Errorf("the password was told: %s", text)
	}
}

// closedPort returns an address where nothing listens.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// awaitEnd waits until no daemon answers any more.
func awaitEnd(t *testing.T, h *hand) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); <-tick.C {
		if _, err := control.List.Call(t.Context(), h.client(), control.ListRequest{}); control.CodeOf(err) == control.NotRunning {
			return
		}
	}
	t.Error("a daemon with nothing to do does not end")
}
