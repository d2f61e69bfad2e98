package integration

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"pierfs/integration/daemon"
	"pierfs/integration/process"
	"pierfs/integration/servers"
)

// terminal is a pseudo-terminal with a program on it.
type terminal struct {
	*process.Process // Log is what the person sees
	keys             *os.File
}

// onTerminal starts cmd as if a person had typed it.
func onTerminal(t *testing.T, cmd *exec.Cmd) *terminal {
	t.Helper()
	keys, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { keys.Close() })
	number, err := unix.IoctlGetInt(int(keys.Fd()), unix.TIOCGPTN)
	if err := errors.Join(err, unix.IoctlSetPointerInt(int(keys.Fd()), unix.TIOCSPTLCK, 0)); err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(int(keys.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 120}); err != nil {
		t.Fatal(err)
	}
	screen, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer screen.Close()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = screen, screen, screen
	x := &terminal{process.Start(t, cmd), keys}
	go func() { // ends when nothing is on the terminal any more, or with keys
		seen := make([]byte, 4096)
		for {
			n, err := keys.Read(seen)
			_, _ = x.Log.Write(seen[:n]) // into memory
			if err != nil {
				return
			}
		}
	}()
	return x
}

// TestPersonIsAskedForThePassword: without a file and a variable, mount asks whoever sits there, and shows nothing of the answer.
func TestPersonIsAskedForThePassword(t *testing.T) {
	t.Parallel()
	server := servers.NewSSHD(t, servers.SSHOptions{})
	if err := os.WriteFile(filepath.Join(server.Dir, "f"), []byte("there"), 0o644); err != nil {
		t.Fatal(err)
	}
	d, env := alone(t)
	dir := filepath.Join(d.Dir, "here")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(binaries(t), "pierfs"), "mount", fmt.Sprintf("sftp://%s@%s%s", server.User, server.Address(), server.Root), dir, "--trust-new")
	cmd.Env = append(os.Environ(), env...)
	x := onTerminal(t, cmd)
	if err := x.Await("password for sftp://", 0, process.Patience); err != nil {
		t.Fatalf("it asks for no password: %v\n%s", err, x.Log)
	}
	// Who types before the echo is off shows what he types.
	awaitNoEcho(t, x)
	if _, err := x.keys.WriteString(server.Password + "\n"); err != nil {
		t.Fatal(err)
	}
	if status := x.Wait(t, process.Patience); status != 0 {
		t.Errorf("pierfs mount ends with %d\n%s", status, x.Log)
	}
	if strings.Contains(x.Log.String(), server.Password) {
		t.Errorf("the password stands on the screen: %s", x.Log)
	}
	has(t, filepath.Join(dir, "f"), []byte("there"))
	if r := d.PierfsWith(t, daemon.Call{Env: env}, "umount", dir); r.Status != 0 {
		t.Errorf("pierfs umount: exit %d\n%s", r.Status, r.Stderr)
	}
	ended(t, d.RuntimeDir)
}

// awaitNoEcho waits until what is typed is not shown.
func awaitNoEcho(t *testing.T, x *terminal) {
	t.Helper()
	await(t, "the echo is off", func() bool {
		flags, err := unix.IoctlGetTermios(int(x.keys.Fd()), unix.TCGETS)
		return err == nil && flags.Lflag&unix.ECHO == 0
	})
}

// TestProgressIsShownToPeople: get and put draw a bar on a terminal, and nothing where nobody looks.
func TestProgressIsShownToPeople(t *testing.T) {
	t.Parallel()
	s := newStage(t, servers.SSHOptions{}, nil)
	local := t.TempDir()
	content := random(1, 8<<20)
	if err := os.WriteFile(filepath.Join(local, "up"), content, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"put", "up", connection + ":/f"}, {"get", connection + ":/f", "down"}} {
		cmd := exec.Command(filepath.Join(binaries(t), "pierfs"), args...)
		cmd.Env, cmd.Dir = append(os.Environ(), "PIERFS_RUNTIME_DIR="+s.daemon.RuntimeDir), local
		x := onTerminal(t, cmd)
		if status := x.Wait(t, process.Patience); status != 0 {
			t.Errorf("pierfs %s: exit %d\n%s", args[0], status, x.Log)
		}
		await(t, "pierfs "+args[0]+" shows a bar", func() bool {
			return strings.Contains(x.Log.String(), args[0]+" ") && strings.Contains(x.Log.String(), "% |")
		})
		if r := s.daemon.PierfsWith(t, daemon.Call{Dir: local}, args...); r.Status != 0 || r.Stderr != "" || strings.Contains(r.Stdout, "%") {
			t.Errorf("pierfs %s without a terminal: exit %d, prints %q and %q", args[0], r.Status, r.Stdout, r.Stderr)
		}
	}
	has(t, filepath.Join(s.behind, "f"), content)
	has(t, filepath.Join(local, "down"), content)
}
