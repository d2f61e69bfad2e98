package integration

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pierfs/integration/daemon"
	"pierfs/integration/process"
	"pierfs/integration/servers"
)

// What docs/SEMANTICS.md promises of the corners that few programs look into, each on a real server.

// TestPipesAreShownAndNotOpened: what is neither file, directory nor link on the server is shown as a socket. A program that
// opened the pipe of another machine would wait for ever.
func TestPipesAreShownAndNotOpened(t *testing.T) {
	t.Parallel()
	s := newStage(t, servers.SSHOptions{}, nil)
	kinds := map[string]func(path string) error{
		"pipe":   func(path string) error { return unix.Mkfifo(path, 0o666) },
		"socket": func(path string) error { return unix.Mknod(path, unix.S_IFSOCK|0o666, 0) },
		"device": func(path string) error { return unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))) }, // /dev/zero
	}
	for name, make := range kinds {
		if err := make(filepath.Join(s.behind, name)); err != nil {
			t.Fatal(err)
		}
	}
	for name := range kinds {
		info, err := os.Lstat(filepath.Join(s.mount, name))
		if err != nil {
			t.Errorf("lstat of a %s: %v", name, err)
			continue
		}
		if info.Mode().Type() != os.ModeSocket {
			t.Errorf("a %s is shown as %v; want a socket", name, info.Mode())
		}
		for _, flags := range []int{os.O_RDONLY, os.O_WRONLY, os.O_RDWR} {
			err := within(t, 10*time.Second, "open a "+name, func() error {
				f, err := os.OpenFile(filepath.Join(s.mount, name), flags, 0)
				if err == nil {
					err = errors.Join(errors.New("opened"), f.Close())
				}
				return err
			})
			errnoIs(t, "open a "+name, err, syscall.ENXIO)
		}
		if err := os.Remove(filepath.Join(s.mount, name)); err != nil {
			t.Errorf("remove a %s: %v", name, err)
		}
	}
}

// TestFallocateMakesRoomAndNothingElse: room is reserved in the staging file; no server can punch, collapse or zero.
func TestFallocateMakesRoomAndNothingElse(t *testing.T) {
	t.Parallel()
	s := newStage(t, servers.SSHOptions{}, nil)
	f, err := os.Create(filepath.Join(s.mount, "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	size := func(want int64) {
		t.Helper()
		if info, err := f.Stat(); err != nil || info.Size() != want {
			t.Errorf("the file has %d bytes, %v; want %d", info.Size(), err, want)
		}
	}
	if _, err := f.WriteString("content"); err != nil {
		t.Fatal(err)
	}
	if err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, 1<<20); err != nil {
		t.Errorf("with FALLOC_FL_KEEP_SIZE: %v", err)
	}
	size(7)
	for name, mode := range map[string]uint32{
		"punch": unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE, "zero": unix.FALLOC_FL_ZERO_RANGE,
		"collapse": unix.FALLOC_FL_COLLAPSE_RANGE, "insert": unix.FALLOC_FL_INSERT_RANGE,
	} {
		errnoIs(t, name, unix.Fallocate(int(f.Fd()), mode, 0, 4096), syscall.EOPNOTSUPP)
	}
	size(7)
	if err := unix.Fallocate(int(f.Fd()), 0, 0, 4096); err != nil {
		t.Errorf("with mode 0: %v", err)
	}
	size(4096)
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	has(t, filepath.Join(s.behind, "f"), append([]byte("content"), make([]byte, 4096-7)...))
}

// TestOpenThatCutsSendsNothing: with O_TRUNC the old content stays on the server until the new one takes its place.
func TestOpenThatCutsSendsNothing(t *testing.T) {
	t.Parallel()
	s := newStage(t, servers.SSHOptions{}, nil)
	there, behind := filepath.Join(s.mount, "report"), filepath.Join(s.behind, "report")
	old, fresh := random(1, 100_000), random(2, 50_000)
	if err := put(there, old); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(there, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	only := func() {
		t.Helper()
		if names := sh(t, s.behind, `ls -A`); names != "report\n" {
			t.Errorf("the server has %q, want the report alone", names)
		}
	}
	has(t, behind, old)
	only()
	if _, err := f.Write(fresh); err != nil {
		t.Fatal(err)
	}
	has(t, behind, old)
	only()
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	has(t, behind, fresh)
	only()
}

// TestReplacedFileKeepsModeAndOwner: a new content comes as a new file, and must not be seen to: where the server lets us, it
// is given to whom the old one belonged.
func TestReplacedFileKeepsModeAndOwner(t *testing.T) {
	t.Parallel()
	s := newStage(t, servers.SSHOptions{User: "root"}, nil)
	behind := filepath.Join(s.behind, "report")
	if err := errors.Join(os.WriteFile(behind, []byte("old"), 0o600), os.Chown(behind, 4711, 4712), os.Chmod(behind, 0o640)); err != nil {
		t.Fatal(err)
	}
	for _, script := range []string{`echo new > report`, `sed -i s/new/newer/ report`, `echo more >> report`, `truncate -s 3 report`, `cp --remove-destination report copy; cp copy report`} {
		sh(t, s.mount, script)
		if got := sh(t, s.behind, `stat -c '%u:%g %a' report`); got != "4711:4712 640\n" {
			t.Errorf("after %s the server's file is of %s, want 4711:4712 640", script, got)
		}
	}
	has(t, behind, []byte("new"))
}

// TestUploadsInPlace: with tempName "none" the target itself is written, for servers that allow no rename.
func TestUploadsInPlace(t *testing.T) {
	t.Parallel()
	s := newStage(t, servers.SSHOptions{Requests: true}, daemon.Fields{"tempName": "none"})
	content := random(1, 100_000)
	for range 2 { // made, and replaced
		if err := put(filepath.Join(s.mount, "report"), content); err != nil {
			t.Fatal(err)
		}
		has(t, filepath.Join(s.behind, "report"), content)
		content = random(2, 50_000)
	}
	if requests := s.server.Requests(t); strings.Contains(requests, "rename") || !strings.Contains(requests, "report") {
		t.Errorf("the server was asked:\n%s", requests)
	}
}

// TestWhatNoServerCanDoIsRefused: programs ask for it, and go on without it if the refusal is one that they know.
func TestWhatNoServerCanDoIsRefused(t *testing.T) {
	t.Parallel()
	s := newStage(t, servers.SSHOptions{}, nil)
	a, b := filepath.Join(s.mount, "a"), filepath.Join(s.mount, "b")
	for name, content := range map[string]string{a: "a", b: "b"} {
		if err := put(name, []byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	errnoIs(t, "RENAME_EXCHANGE", unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE), syscall.EINVAL)
	has(t, a, []byte("a"))
	has(t, filepath.Join(s.behind, "b"), []byte("b"))
	errnoIs(t, "setxattr", unix.Setxattr(a, "user.k", []byte("v"), 0), syscall.ENOTSUP)
	_, err := unix.Getxattr(a, "user.k", make([]byte, 100))
	errnoIs(t, "getxattr", err, syscall.ENOTSUP)
	_, err = unix.Getxattr(a, "system.posix_acl_access", make([]byte, 100))
	errnoIs(t, "getxattr of an ACL", err, syscall.ENOTSUP, syscall.ENODATA) // the kernel's own answer: there is none
	if n, err := unix.Listxattr(a, make([]byte, 100)); n > 0 || err != nil && !errors.Is(err, syscall.ENOTSUP) {
		t.Errorf("listxattr: %d bytes, %v; want none", n, err)
	}
	errnoIs(t, "a name of 256 bytes", put(filepath.Join(s.mount, strings.Repeat("n", 256)), nil), syscall.ENAMETOOLONG)
}

// TestLatePagesThatAreRefusedAreKept: pages of a mapping that arrive after the last close are published then. Where that
// fails no program is left to be told, so the content is kept, logged and counted.
func TestLatePagesThatAreRefusedAreKept(t *testing.T) {
	t.Parallel()
	s := newStage(t, servers.SSHOptions{}, nil)
	mount, behind := s.dir(t, "dir")
	write := func(text string, before func()) {
		t.Helper()
		f, err := os.OpenFile(filepath.Join(mount, "f"), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		pages, err := unix.Mmap(int(f.Fd()), 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		before()
		copy(pages[5000:], text)
		if err := unix.Munmap(pages); err != nil {
			t.Fatal(err)
		}
	}
	content := random(1, 8192)
	if err := put(filepath.Join(mount, "f"), content); err != nil {
		t.Fatal(err)
	}
	write("taken", func() {})
	copy(content[5000:], "taken")
	await(t, "late pages are at the server", func() bool {
		got, err := os.ReadFile(filepath.Join(behind, "f"))
		return err == nil && string(got) == string(content)
	})
	write("precious", func() {
		for _, name := range []string{behind, filepath.Join(behind, "f")} { // the login may now enter and read, and no more
			if err := os.Chown(name, 0, 0); err != nil {
				t.Fatal(err)
			}
		}
	})
	var owed struct {
		Connections []struct {
			Quarantined int
			LastError   string
		}
	}
	await(t, "pages that were refused are counted", func() bool {
		r := s.daemon.Pierfs(t, "status", "--json")
		if err := json.Unmarshal([]byte(r.Stdout), &owed); err != nil || len(owed.Connections) != 1 {
			t.Fatalf("pierfs status: exit %d, %v\n%s%s", r.Status, err, r.Stdout, r.Stderr)
		}
		return owed.Connections[0].Quarantined == 1
	})
	await(t, "the log tells of it", func() bool { return strings.Contains(s.daemon.Log(), "quarantine") })
	if owed.Connections[0].LastError == "" {
		t.Errorf("the last error is told as %q, and the log has\n%s", owed.Connections[0].LastError, s.daemon.Log())
	}
	has(t, filepath.Join(behind, "f"), content)
	copy(content[5000:], "precious")
	kept, note := "", ""
	err := filepath.WalkDir(filepath.Join(s.daemon.StateDir, "quarantine"), func(path string, _ os.DirEntry, err error) error {
		switch filepath.Ext(path) {
		case ".data":
			kept = path
		case ".json":
			text, err := os.ReadFile(path)
			note = string(text)
			return err
		}
		return err
	})
	if err != nil || kept == "" {
		t.Fatalf("nothing is in quarantine: %v", err)
	}
	has(t, kept, content)
	if !strings.Contains(note, "dir/f") {
		t.Errorf("the note beside it does not tell the name: %s", note)
	}
	// docs/OPERATING.md: put it where it belongs.
	if err := os.Chown(behind, 4742, 4742); err != nil {
		t.Fatal(err)
	}
	if r := s.daemon.Pierfs(t, "put", kept, connection+":/dir/f"); r.Status != 0 {
		t.Errorf("pierfs put: exit %d\n%s", r.Status, r.Stderr)
	}
	has(t, filepath.Join(behind, "f"), content)
}

// await waits until ok says so.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(process.Patience); !ok(); time.Sleep(20 * time.Millisecond) { // a poll, bounded
		if time.Now().After(deadline) {
			t.Fatalf("not after %v: %s", process.Patience, what)
		}
	}
}

// TestServiceManagerIsTold: systemd learns that the daemon is ready, how it stands, that it lives, and that it stops.
func TestServiceManagerIsTold(t *testing.T) {
	t.Parallel()
	server := servers.NewSSHD(t, servers.SSHOptions{})
	d := newDaemon(t)
	d.Define(t, connection, daemon.To(t, server, nil))
	d.Env = []string{"WATCHDOG_USEC=400000"}
	d.Start(t)
	for _, line := range []string{"STATUS=1 of 1 connections ready", "WATCHDOG=1", "WATCHDOG=1"} {
		d.AwaitNotice(t, line)
	}
	d.Define(t, connection, daemon.To(t, server, daemon.Fields{"retryCount": 4}))
	for _, line := range []string{"RELOADING=1", "READY=1", "STATUS=1 of 1 connections ready"} {
		d.AwaitNotice(t, line)
	}
	if status := d.Stop(t); status != 0 {
		t.Errorf("the daemon ends with %d", status)
	}
	d.AwaitNotice(t, "STOPPING=1")
}
