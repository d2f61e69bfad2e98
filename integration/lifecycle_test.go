package integration

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"pierfs/integration/daemon"
	"pierfs/integration/process"
	"pierfs/integration/servers"
)

// TestStopLeavesNothingMounted: SIGTERM unmounts everything in time, whatever programs do with the mounts just then.
func TestStopLeavesNothingMounted(t *testing.T) {
	t.Parallel()
	for name, busy := range map[string]func(t *testing.T, s *stage){
		"idle": func(*testing.T, *stage) {},
		"a file open for reading": func(t *testing.T, s *stage) {
			if err := put(filepath.Join(s.mount, "f"), []byte("x")); err != nil {
				t.Fatal(err)
			}
			f, err := os.Open(filepath.Join(s.mount, "f"))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { f.Close() })
		},
		"a working directory": func(t *testing.T, s *stage) {
			cmd := exec.Command("sh", "-c", "echo in; exec sleep 600")
			cmd.Dir = s.mount
			p := process.Start(t, cmd)
			if err := p.Await("in\n", 0, process.Patience); err != nil {
				t.Fatal(err)
			}
		},
		"a copy in another mount namespace": func(t *testing.T, s *stage) {
			process.Need(t, "unshare")
			p := process.Start(t, exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c", "echo in; exec sleep 600"))
			if err := p.Await("in\n", 0, process.Patience); err != nil {
				t.Fatal(err)
			}
		},
		"a server that is stopped": func(t *testing.T, s *stage) { s.server.Stop(t) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t, servers.SSHOptions{}, impatient)
			busy(t, s)
			start := time.Now()
			if status := s.daemon.Stop(t); status != 0 {
				t.Errorf("exit status %d, want 0", status)
			}
			if took := time.Since(start); took > 30*time.Second {
				t.Errorf("the stop took %v", took)
			}
			if mounts := s.daemon.Mounts(t); len(mounts) > 0 {
				t.Errorf("still mounted: %v", mounts)
			}
			if _, err := os.Lstat(filepath.Join(s.daemon.RuntimeDir, "control.sock")); !os.IsNotExist(err) {
				t.Errorf("the control socket: %v, want it gone", err)
			}
		})
	}
}

// TestStopPublishesWhatIsWritten: a program that holds a file it has written may still close it while the daemon stops, or
// the daemon says with its exit status that something is left.
func TestStopPublishesWhatIsWritten(t *testing.T) {
	t.Parallel()
	s := newStage(t, servers.SSHOptions{}, nil)
	f, err := os.Create(filepath.Join(s.mount, "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	content := random(1, 100_000)
	if _, err := f.Write(content); err != nil {
		t.Fatal(err)
	}
	status := s.daemon.Stop(t)
	got, err := os.ReadFile(filepath.Join(s.behind, "f"))
	switch {
	case status == 0 && err == nil && bytes.Equal(got, content): // published
	case status != 0 && os.IsNotExist(err): // kept, and said so
	default:
		t.Errorf("exit status %d, and the server has %s, %v", status, brief(got), err)
	}
	if mounts := s.daemon.Mounts(t); len(mounts) > 0 {
		t.Errorf("still mounted: %v", mounts)
	}
}

// TestStaleMountIsCleanedUp: a daemon that was killed leaves a dead mount, a socket and a lock; the next one takes over.
func TestStaleMountIsCleanedUp(t *testing.T) {
	t.Parallel()
	s := newStage(t, servers.SSHOptions{}, nil)
	content := []byte("before")
	if err := put(filepath.Join(s.mount, "f"), content); err != nil {
		t.Fatal(err)
	}
	s.daemon.Kill()
	if _, err := os.ReadFile(filepath.Join(s.mount, "f")); err == nil {
		t.Fatal("a mount without a daemon answers")
	}
	s.daemon.Start(t)
	s.daemon.AwaitState(t, connection, "ready", process.Patience)
	has(t, filepath.Join(s.mount, "f"), content)
	if mounts := s.daemon.Mounts(t); len(mounts) != 1 {
		t.Errorf("mounted: %v, want one", mounts)
	}
}

// TestSecondDaemonIsRefused: two daemons on one state directory would publish each other's files; the first goes on.
func TestSecondDaemonIsRefused(t *testing.T) {
	t.Parallel()
	s := newStage(t, servers.SSHOptions{}, nil)
	second := *s.daemon
	if status, log := second.StartRefused(t); status == 0 {
		t.Errorf("a second daemon on the same directories ends with 0\n%s", log)
	}
	if err := put(filepath.Join(s.mount, "f"), []byte("x")); err != nil {
		t.Errorf("the first one's mount: %v", err)
	}
	if r := s.daemon.Pierfs(t, "status"); r.Status != 0 {
		t.Errorf("pierfs status: exit %d\n%s", r.Status, r.Stderr)
	}
}

// TestReloadTouchesWhatChanged: a program in the mount of an unchanged connection notices nothing of a reload.
func TestReloadTouchesWhatChanged(t *testing.T) {
	t.Parallel()
	s := newStage(t, servers.SSHOptions{}, nil)
	f, err := os.Create(filepath.Join(s.mount, "f"))
	if err != nil {
		t.Fatal(err)
	}
	s.daemon.Define(t, "second", daemon.To(t, s.server, nil))
	s.daemon.Define(t, "project/third", daemon.To(t, s.server, nil))
	s.daemon.Reload(t)
	s.daemon.AwaitState(t, "second", "ready", process.Patience)
	s.daemon.AwaitState(t, "project/third", "ready", process.Patience)
	if _, err := f.WriteString("held over the reload"); err != nil {
		t.Error(err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	has(t, filepath.Join(s.daemon.Mount("second"), "f"), []byte("held over the reload"))
	has(t, filepath.Join(s.daemon.Mount("project/third"), "f"), []byte("held over the reload"))
	if err := os.Remove(filepath.Join(s.daemon.ConfigDir, "connections", "second.toml")); err != nil {
		t.Fatal(err)
	}
	s.daemon.Reload(t)
	if state := s.daemon.State(t, "second"); state != "" {
		t.Errorf("a removed connection is %q", state)
	}
	if mounts := s.daemon.Mounts(t); len(mounts) != 2 {
		t.Errorf("mounted: %v, want two", mounts)
	}
}

// TestMountsAreNosuidNodev reads what the kernel says of the mount.
func TestMountsAreNosuidNodev(t *testing.T) {
	t.Parallel()
	s := newStage(t, servers.SSHOptions{}, nil)
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if fields[4] != s.mount {
			continue
		}
		for _, want := range []string{"nosuid", "nodev"} {
			if !strings.Contains(","+fields[5]+",", ","+want+",") {
				t.Errorf("the mount has the options %s, want %s among them", fields[5], want)
			}
		}
		if strings.Contains(line, s.server.Password) {
			t.Errorf("the password stands in mountinfo: %s", line)
		}
		return
	}
	t.Errorf("%s is not mounted", s.mount)
}

// TestSecretsStayInside searches everything that others could see for the password, after a life with logins that worked,
// failed and were tested.
func TestSecretsStayInside(t *testing.T) {
	t.Parallel()
	server := servers.NewSSHD(t, servers.SSHOptions{})
	other := servers.NewSSHD(t, servers.SSHOptions{})
	canary := server.Password
	d := newDaemon(t)
	d.Args = []string{"--log-level", "debug"}
	d.Define(t, connection, daemon.To(t, server, nil))
	wrong := daemon.To(t, other, daemon.Fields{"password": canary, "timeout": 2, "retryCount": 0})
	d.Define(t, "wrong", wrong)
	d.Define(t, "broken", daemon.Fields{"protocol": "SFTP", "password": canary + "${no such}", "host": "a b"})
	variables := "[partner]\nvalue = \"" + canary + "\"\nsecret = true\n"
	if err := os.WriteFile(filepath.Join(d.ConfigDir, "variables.toml"), []byte(variables), 0o600); err != nil {
		t.Fatal(err)
	}
	d.Define(t, "variable", daemon.To(t, server, daemon.Fields{"password": "${partner}"}))
	d.Start(t)
	d.AwaitState(t, connection, "ready", process.Patience)
	d.AwaitState(t, "variable", "ready", process.Patience)
	if err := put(filepath.Join(d.Mount(connection), "f"), []byte("x")); err != nil {
		t.Fatal(err)
	}

	search := func(where, text string) {
		t.Helper()
		if i := strings.Index(text, canary); i >= 0 {
			t.Errorf("%s shows the password: ...%s", where, text[max(0, i-80):i])
		}
	}
	for _, args := range [][]string{
		{"status"}, {"list"}, {"show", connection}, {"show", "variable"}, {"show", "wrong"}, {"show", "broken"}, {"test", connection},
		{"test", "wrong"}, {"test", "broken"}, {"apply"}, {"ls", connection + ":/"}, {"stat", connection + ":/f"}, {"check", "--config-dir", d.ConfigDir},
	} {
		for _, format := range [][]string{nil, {"--json"}} {
			r := d.Pierfs(t, append(args, format...)...)
			search("pierfs "+strings.Join(args, " "), r.Stdout+r.Stderr)
		}
	}
	for _, file := range []string{"cmdline", "environ"} {
		text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(d.Pid()), file))
		if err != nil {
			t.Fatal(err)
		}
		search("/proc/PID/"+file, string(text))
	}
	for _, file := range []string{"/proc/mounts", "/proc/self/mountinfo"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		search(file, string(text))
	}
	for _, dir := range []string{d.StateDir, d.CacheDir, d.RuntimeDir} {
		err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || !entry.Type().IsRegular() {
				return err
			}
			text, err := os.ReadFile(path)
			search(path, string(text))
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
	d.Stop(t)
	search("the log", d.Log())

	// Cores and debuggers: nobody but root reads the memory, and no core is written.
	d.Start(t)
	limits, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(d.Pid()), "limits"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(limits)) {
		if rest, ok := strings.CutPrefix(line, "Max core file size"); ok && strings.Fields(rest)[0] != "0" {
			t.Errorf("the daemon may write a core: %s", line)
		}
	}
}

// TestStateIsClosedToOthers: what is staged, trusted and listened on belongs to the daemon alone.
func TestStateIsClosedToOthers(t *testing.T) {
	t.Parallel()
	s := newStage(t, servers.SSHOptions{}, nil)
	for _, dir := range []string{s.daemon.StateDir, s.daemon.CacheDir, s.daemon.RuntimeDir} {
		info, err := os.Stat(dir)
		if err != nil {
			t.Error(err)
			continue
		}
		if info.Mode().Perm()&0o007 != 0 {
			t.Errorf("%s is %v, want it closed to others", dir, info.Mode())
		}
	}
	info, err := os.Stat(filepath.Join(s.daemon.RuntimeDir, "control.sock"))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o660 {
		t.Errorf("the control socket is %v, want 0660", info.Mode())
	}
	nobody := exec.Command(filepath.Join(binaries(t), "pierfs"), "--runtime-dir", s.daemon.RuntimeDir, "status")
	nobody.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	nobody.Dir = "/"
	if r := daemon.Run(t, nobody, time.Minute); r.Status == 0 {
		t.Errorf("nobody may ask for the status:\n%s", r.Stdout)
	}
}

// binaries returns the directory of the programs, for all to read.
func binaries(t *testing.T) string {
	t.Helper()
	programs, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return programs.Dir
}
