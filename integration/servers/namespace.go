package servers

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"pierfs/integration/process"
)

// inside is where the server sees the directory that the test made for it, and programs where it sees those that were
// fetched.
const (
	inside   = "/mnt/base"
	programs = "/mnt/programs"
)

// namespace is a mount and process namespace of its own with users of our making, so that a server runs as if on another
// machine: nothing of this one changes, and when the holder (its process 1) dies, the kernel ends everything in it.
type namespace struct {
	holder *process.Process
	dir    string // of the test: base, etc and the server's own files
}

// setup makes the namespace from the directory it is started in. It covers what has to look different in there:
// accounts, PAM's rules, /run (sshd wants /run/sshd), /proc (of this process namespace), and /dev for a server that knows
// no log but syslog. Copies of FUSE mounts are let
// go: one that stayed here would keep its daemon from unmounting for as long as this server runs. One that is gone
// already, because the list has changed while it was read, is no reason to fail.
const setup = `
set -eu
umask 022
mount --make-rprivate /
while read -r _ _ _ _ point _ rest; do
	case $rest in *" - fuse"*|"- fuse"*) umount -l "$(printf %b "$point")" || : ;; esac
done </proc/self/mountinfo
mount -t proc proc /proc
if [ "$1" -gt 0 ]; then mount -t tmpfs -o size="$1",mode=755 tmpfs base; fi
mkdir -p base/home
chown "$2" base/home
for f in passwd shadow group pam.d; do mount --bind "etc/$f" "/etc/$f"; done
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/sshd /run/empty
if [ -S etc/log ]; then
	mkdir dev
	mount -t tmpfs -o mode=755 tmpfs dev
	for f in null zero full random urandom; do : >dev/$f; mount --bind /dev/$f dev/$f; done
	: >dev/log
	mount --bind etc/log dev/log
	mount --rbind dev /dev
fi
mount -t tmpfs -o mode=755 tmpfs /mnt
mkdir ` + inside + ` ` + programs + `
mount --rbind base ` + inside + `
if [ -n "$3" ]; then mount --bind "$3" ` + programs + `; fi
echo ready
while :; do sleep 3600 & wait; done
`

// newNamespace starts a holder. size is that of a tmpfs for the server's files, 0 for the test's own disk; owner is the
// uid:gid that the home directory belongs to; fetched is the directory shown as programs, "" for none.
func newNamespace(t testing.TB, dir string, size int64, owner, fetched string) *namespace {
	t.Helper()
	process.Need(t, "nsenter", "mount")
	cmd := exec.Command("/bin/sh", "-c", setup, "holder", strconv.FormatInt(size, 10), owner, fetched)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID}
	n := &namespace{holder: process.Start(t, cmd), dir: dir}
	if err := n.holder.Await("ready\n", 0, process.Patience); err != nil {
		t.Fatalf("make a namespace for a server (this needs root): %v\n%s", err, n.holder.Log)
	}
	return n
}

// start runs a program of the namespace.
func (n *namespace) start(t testing.TB, name string, args ...string) *process.Process {
	t.Helper()
	enter := []string{"--target", strconv.Itoa(n.holder.Pid()), "--mount", "--pid", "--", name}
	cmd := exec.Command("nsenter", append(enter, args...)...)
	cmd.Dir = "/"
	p := process.Start(t, cmd)
	t.Cleanup(func() {
		n.holder.Signal(syscall.SIGKILL) // the namespace first: nsenter's death alone leaves what it entered for
		release(p)
	})
	return p
}

// release waits for the end of an nsenter whose program was killed. It stops itself when its program is stopped and does
// not reap it then, which keeps the whole namespace alive.
func release(p *process.Process) {
	p.Signal(syscall.SIGCONT)
	select {
	case <-p.Done():
	case <-time.After(process.Patience):
		p.Kill()
	}
}

// setReadOnly remounts what the server has as its files.
func (n *namespace) setReadOnly(t testing.TB, on bool) {
	t.Helper()
	mode := "remount,rw"
	if on {
		mode = "remount,ro"
	}
	process.Output(t, nil, "nsenter", "--target", strconv.Itoa(n.holder.Pid()), "--mount", "--", "mount", "-o", mode, inside)
}

// view returns a path by which this machine sees what the namespace has at path.
func (n *namespace) view(path string) string {
	return filepath.Join("/proc", strconv.Itoa(n.holder.Pid()), "root", path)
}

// member is one process in the namespace.
type member struct {
	pid     int // as this machine counts
	parent  int
	state   byte
	cmdline string
}

// members returns the living processes of the namespace but its holder and the holder's sleep.
func (n *namespace) members() []member {
	id := func(pid string) string {
		link, _ := os.Readlink(filepath.Join("/proc", pid, "ns", "pid"))
		return link
	}
	ours := id(strconv.Itoa(n.holder.Pid()))
	if ours == "" {
		return nil
	}
	entries, _ := os.ReadDir("/proc")
	var all []member
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == n.holder.Pid() || id(entry.Name()) != ours {
			continue
		}
		stat, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "stat"))
		if err != nil {
			continue // it has ended meanwhile
		}
		cmdline, _ := os.ReadFile(filepath.Join("/proc", entry.Name(), "cmdline"))
		m := member{pid: pid, cmdline: strings.TrimRight(strings.ReplaceAll(string(cmdline), "\x00", " "), " ")}
		if _, rest, ok := strings.Cut(string(stat), ") "); ok {
			_, _ = fmt.Sscanf(rest, "%c %d", &m.state, &m.parent) // the kernel's own format
		}
		if m.state != 'Z' && m.cmdline != "sleep 3600" {
			all = append(all, m)
		}
	}
	return all
}

// signal sends s to every member until each of them is in the state that settled wants; a member may fork meanwhile.
func (n *namespace) signal(t testing.TB, s syscall.Signal, settled func(member) bool) {
	t.Helper()
	deadline := time.Now().Add(process.Patience)
	for {
		open := 0
		for _, m := range n.members() {
			if !settled(m) {
				open++
				_ = syscall.Kill(m.pid, s) // it may have ended meanwhile
			}
		}
		if open == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d processes of the server do not obey %v", open, s)
		}
		time.Sleep(time.Millisecond)
	}
}

func (n *namespace) stop(t testing.TB) {
	t.Helper()
	n.signal(t, syscall.SIGSTOP, func(m member) bool { return m.state == 'T' })
}

func (n *namespace) cont(t testing.TB) {
	t.Helper()
	n.signal(t, syscall.SIGCONT, func(m member) bool { return m.state != 'T' })
}

func (n *namespace) kill(t testing.TB) {
	t.Helper()
	n.signal(t, syscall.SIGKILL, func(member) bool { return false })
}

// makeDir returns a new directory that every user may enter (the testing package's own are closed to others), removed
// when the test ends.
func makeDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pierfs-server-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove the server's directory: %v", err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func write(t testing.TB, name string, mode os.FileMode, format string, args ...any) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, fmt.Appendf(nil, format, args...), mode); err != nil {
		t.Fatal(err)
	}
	return name
}
