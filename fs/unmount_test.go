package fs

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pierfs/backends/mem"
	"pierfs/cache"
)

func (r *rig) unmount(within time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	return r.mount.Unmount(ctx)
}

func mountedAt(t *testing.T, dir string) bool {
	t.Helper()
	mounts, err := readMounts()
	if err != nil {
		t.Fatal(err)
	}
	_, ok := topmost(mounts, dir)
	return ok
}

func TestUnmountLetsOpenFilesFinish(t *testing.T) {
	r := newRig(t, rigOptions{})
	p := r.start()
	p.here(`exec 3> "$MNT/f"; echo one >&3`)
	ended := make(chan error, 1)
	go func() { ended <- r.unmount(20 * time.Second) }()
	if out := p.do(`while grep -q " $MNT fuse" /proc/mounts; do :; done; ls "$MNT"`); out != "[0]" {
		t.Errorf("ls of the mount point after unmount began: %q, want the empty directory below", out)
	}
	p.here(`echo two >&3; exec 3>&-`)
	if err := <-ended; err != nil {
		t.Errorf("unmount: %v", err)
	}
	if got := r.onServer("f"); got != "one\ntwo\n" {
		t.Errorf("the server has %q of the file that was open", got)
	}
}

func TestUnmountAbortsWhatDoesNotFinish(t *testing.T) {
	r := newRig(t, rigOptions{})
	p := r.start()
	p.here(`exec 3> "$MNT/f"; echo one >&3`)
	begun := time.Now()
	if err := r.unmount(300 * time.Millisecond); err != nil {
		t.Errorf("unmount: %v", err)
	}
	if took := time.Since(begun); took > 3*time.Second {
		t.Errorf("it took %v with a context of 300 ms", took)
	}
	if got := r.onServer("f"); got != "one\n" {
		t.Errorf("the server has %q of the file that was left open", got)
	}
	if out := p.do(`echo two >&3`); !strings.Contains(out, "not connected") && !strings.Contains(out, "abort") {
		t.Errorf("a write after the abort: %q, want ENOTCONN", out)
	}
}

func TestUnmountEndsWithAMountThatAnotherNamespaceKeeps(t *testing.T) {
	r := newRig(t, rigOptions{})
	p := r.start()
	p.send(`exec unshare -m --propagation private bash -c 'echo ready; read'`)
	if got := p.read(); got != "ready" {
		t.Fatal(got)
	}
	begun := time.Now()
	if err := r.unmount(300 * time.Millisecond); err != nil {
		t.Errorf("unmount: %v", err)
	}
	if took := time.Since(begun); took > 3*time.Second {
		t.Errorf("it took %v with a context of 300 ms", took)
	}
}

func TestUnmountDoesNotWaitForASilentServer(t *testing.T) {
	stuck := make(chan struct{}, 16)
	silent := func(ctx context.Context, op, name string) error {
		if name != "f" {
			return nil
		}
		stuck <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}
	r := newRig(t, rigOptions{mem: mem.Options{Fault: silent}})
	p := r.start()
	p.send(`cat "$MNT/f"`)
	<-stuck
	begun := time.Now()
	if err := r.unmount(300 * time.Millisecond); err != nil {
		t.Errorf("unmount: %v", err)
	}
	if took := time.Since(begun); took > 3*time.Second {
		t.Errorf("it took %v with a context of 300 ms", took)
	}
}

func TestDoneWhenSomebodyElseUnmounts(t *testing.T) {
	r := newRig(t, rigOptions{})
	p := r.start()
	p.here(`exec 3> "$MNT/f"; echo one >&3`)
	if out := p.do(`umount -l "$MNT"; exec 3>&-`); out != "[0]" {
		t.Fatal(out)
	}
	p.here(`exec 3>&-`)
	select {
	case <-r.mount.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("Done is not closed 10 s after umount")
	}
	if got := r.onServer("f"); got != "one\n" {
		t.Errorf("the server has %q", got)
	}
}

const envDaemon = "PIERFS_FS_DAEMON"

// daemonChild mounts a server in memory at dir, says so, and waits for its end.
func daemonChild(dir string) {
	state, err := os.MkdirTemp("", "state")
	var tree *cache.Tree
	if err == nil {
		tree, err = cache.New(mem.New(mem.Options{}), cache.Options{Staging: filepath.Join(state, "s"), Quarantine: filepath.Join(state, "q")})
	}
	if err == nil {
		_, err = Mount(dir, tree, Options{Source: "mem://", AllowOther: true})
	}
	if err != nil {
		os.Stdout.WriteString(err.Error() + "\n")
		os.Exit(1)
	}
	os.Stdout.WriteString("ready\n")
	select {}
}

// startDaemon starts a process of its own that has dir mounted.
func startDaemon(t *testing.T, dir string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), envDaemon+"="+dir, "TMPDIR="+t.TempDir())
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		unix.Unmount(dir, unix.MNT_DETACH)
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatal(line, err)
	}
	return cmd
}

func TestStaleMountsAreOnlyThoseOfDeadDaemons(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "mnt")
	want := func(when string, stale, failed bool) {
		t.Helper()
		begun := time.Now()
		got, err := Stale(dir)
		if got != stale || (err != nil) != failed {
			t.Errorf("%s: stale %v, error %v; want %v, error %v", when, got, err, stale, failed)
		}
		if took := time.Since(begun); took > 2*probePatience {
			t.Errorf("%s: it took %v", when, took)
		}
	}
	want("no directory", false, false)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	want("nothing mounted", false, false)
	if err := unix.Mount("none", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	want("another file system", false, false)
	if err := errors.Join(Clean(dir), unix.Unmount(dir, 0)); err != nil {
		t.Fatalf("Clean touched another file system: %v", err)
	}
	daemon := startDaemon(t, dir)
	want("a live daemon", false, false)
	if err := Clean(dir); err != nil || !mountedAt(t, dir) {
		t.Fatalf("Clean of a live mount: %v, mounted %v", err, mountedAt(t, dir))
	}
	if _, err := Mount(dir, nil, Options{}); !errors.Is(err, syscall.EBUSY) {
		t.Errorf("Mount over a live mount: %v, want EBUSY", err)
	}
	if err := daemon.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	var stopped syscall.WaitStatus
	if _, err := syscall.Wait4(daemon.Process.Pid, &stopped, syscall.WUNTRACED, nil); err != nil || !stopped.Stopped() {
		t.Fatal(stopped, err)
	}
	want("a stopped daemon", false, true)
	if err := errors.Join(daemon.Process.Signal(syscall.SIGCONT), daemon.Process.Kill()); err != nil {
		t.Fatal(err)
	}
	daemon.Wait()
	want("a killed daemon", true, false)
	if err := Clean(dir); err != nil || mountedAt(t, dir) {
		t.Errorf("Clean of a dead mount: %v, mounted %v", err, mountedAt(t, dir))
	}
	want("after Clean", false, false)
}
