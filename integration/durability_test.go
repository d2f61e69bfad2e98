package integration

import (
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"pierfs/integration/link"
	"pierfs/integration/servers"
)

// TestCloseMeansTheServerHasIt looks at the server's disk directly after each close and fsync that returned 0.
func TestCloseMeansTheServerHasIt(t *testing.T) {
	t.Parallel()
	s := newStage(t, servers.SSHOptions{}, nil)
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	for i, size := range []int{0, 1, 4096, 32 << 10, 255<<10 + 1, 1<<20 + 3, 9 << 20} {
		name := filepath.Join(s.mount, "f")
		content := random(i, size)
		must("write", put(name, content))
		has(t, filepath.Join(s.behind, "f"), content)
	}

	name, behind := filepath.Join(s.mount, "g"), filepath.Join(s.behind, "g")
	want := random(99, 300_000)
	must("write", put(name, want))

	f, err := os.OpenFile(name, os.O_RDWR, 0)
	must("open to patch", err)
	_, err = f.WriteAt([]byte("patched"), 150_000)
	must("patch", err)
	copy(want[150_000:], "patched")
	must("fsync", f.Sync())
	has(t, behind, want)
	_, err = f.WriteAt([]byte("again"), 10)
	must("patch again", err)
	copy(want[10:], "again")
	must("close", f.Close())
	has(t, behind, want)

	for range 3 {
		f, err = os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
		must("open to append", err)
		_, err = io.WriteString(f, "one line more\n")
		must("append", err)
		must("close", f.Close())
		want = append(want, "one line more\n"...)
		has(t, behind, want)
	}

	must("truncate", os.Truncate(name, 1000))
	want = want[:1000]
	has(t, behind, want)

	f, err = os.OpenFile(name, os.O_WRONLY|os.O_SYNC, 0)
	must("open with O_SYNC", err)
	_, err = f.WriteAt([]byte("sync"), 500)
	must("write", err)
	copy(want[500:], "sync")
	has(t, behind, want)
	must("close", f.Close())

	must("rename", os.Rename(name, filepath.Join(s.mount, "h")))
	has(t, filepath.Join(s.behind, "h"), want)
	entries, err := os.ReadDir(s.behind)
	must("list", err)
	if len(entries) != 2 {
		t.Errorf("the server has %v, want f and h: something was left behind", entries)
	}
}

// TestRefusedUpload: what the server does not take is the errno of a call that the program makes, and the old file is
// untouched.
func TestRefusedUpload(t *testing.T) {
	t.Parallel()
	old := random(1, 1<<20)

	t.Run("no permission", func(t *testing.T) {
		t.Parallel()
		s := newStage(t, servers.SSHOptions{}, nil)
		mount, behind := s.dir(t, "closed")
		if err := put(filepath.Join(mount, "report"), old); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{behind, filepath.Join(behind, "report")} { // the login may now enter and read, and no more
			if err := os.Chown(name, 0, 0); err != nil {
				t.Fatal(err)
			}
		}
		errnoIs(t, "new file", put(filepath.Join(mount, "new"), []byte("x")), syscall.EACCES)
		errnoIs(t, "overwrite", put(filepath.Join(mount, "report"), []byte("x")), syscall.EACCES)
		errnoIs(t, "remove", os.Remove(filepath.Join(mount, "report")), syscall.EACCES)
		errnoIs(t, "mkdir", os.Mkdir(filepath.Join(mount, "sub"), 0o755), syscall.EACCES)
		has(t, filepath.Join(behind, "report"), old)
		if names := sh(t, behind, `ls -A`); names != "report\n" {
			t.Errorf("the server has %q, want the report alone", names)
		}
		has(t, filepath.Join(mount, "report"), old)
		if _, err := os.Stat(filepath.Join(mount, "new")); !os.IsNotExist(err) {
			t.Errorf("a file that the server refused: %v, want it absent", err)
		}
	})

	t.Run("read-only server", func(t *testing.T) {
		t.Parallel()
		s := newStage(t, servers.SSHOptions{SFTP: servers.ReadOnly}, nil)
		if err := os.WriteFile(filepath.Join(s.behind, "report"), old, 0o666); err != nil {
			t.Fatal(err)
		}
		has(t, filepath.Join(s.mount, "report"), old)
		errnoIs(t, "overwrite", put(filepath.Join(s.mount, "report"), []byte("x")), syscall.EACCES, syscall.EPERM, syscall.EROFS)
		has(t, filepath.Join(s.behind, "report"), old)
	})

	t.Run("no space", func(t *testing.T) {
		t.Parallel()
		s := newStage(t, servers.SSHOptions{Size: 4 << 20}, nil)
		if err := put(filepath.Join(s.mount, "report"), old); err != nil {
			t.Fatal(err)
		}
		errnoIs(t, "overwrite with more than fits", put(filepath.Join(s.mount, "report"), random(2, 8<<20)), syscall.ENOSPC)
		// The program has an errno; the operator is told what was tried, on what, and why it did not go.
		told := regexp.MustCompile(`level=WARN .*not published.* name=report err=".*(?i:no space left)`)
		await(t, "the log tells of the refused upload", func() bool { return told.MatchString(s.daemon.Log()) })
		has(t, filepath.Join(s.behind, "report"), old)
		errnoIs(t, "new file that does not fit", put(filepath.Join(s.mount, "new"), random(3, 8<<20)), syscall.ENOSPC)
		if names := sh(t, s.behind, `ls -A`); names != "report\n" {
			t.Errorf("the server has %q, want the report alone", names)
		}
		big := filepath.Join(t.TempDir(), "big")
		if err := os.WriteFile(big, random(5, 8<<20), 0o644); err != nil {
			t.Fatal(err)
		}
		message := sh(t, s.mount, `if cp "$1" report 2>&1; then echo "cp succeeded"; fi`, big)
		if !strings.Contains(message, "No space left on device") {
			t.Errorf("cp of a file that does not fit says %q", message)
		}
		has(t, filepath.Join(s.behind, "report"), old)
		small := random(4, 2<<20)
		if err := put(filepath.Join(s.mount, "report"), small); err != nil {
			t.Errorf("a file that fits, after one that did not: %v", err)
		}
		has(t, filepath.Join(s.behind, "report"), small)
	})

	t.Run("readOnly definition", func(t *testing.T) {
		t.Parallel()
		s := newStage(t, servers.SSHOptions{}, map[string]any{"readOnly": true})
		if err := os.WriteFile(filepath.Join(s.behind, "report"), old, 0o666); err != nil {
			t.Fatal(err)
		}
		has(t, filepath.Join(s.mount, "report"), old)
		errnoIs(t, "overwrite", put(filepath.Join(s.mount, "report"), nil), syscall.EROFS)
		errnoIs(t, "create", put(filepath.Join(s.mount, "new"), nil), syscall.EROFS)
		errnoIs(t, "mkdir", os.Mkdir(filepath.Join(s.mount, "d"), 0o755), syscall.EROFS)
		errnoIs(t, "remove", os.Remove(filepath.Join(s.mount, "report")), syscall.EROFS)
		errnoIs(t, "rename", os.Rename(filepath.Join(s.mount, "report"), filepath.Join(s.mount, "r")), syscall.EROFS)
		errnoIs(t, "chmod", os.Chmod(filepath.Join(s.mount, "report"), 0o600), syscall.EROFS)
		has(t, filepath.Join(s.behind, "report"), old)
	})
}

// TestSyncsCostWhatTheyAdd: a program that syncs after each MiB sends each MiB once, and not all that was before it.
func TestSyncsCostWhatTheyAdd(t *testing.T) {
	t.Parallel()
	const size, most = 64, 70 // MiB
	server := servers.NewSSHD(t, servers.SSHOptions{})
	way := link.New(t, link.Options{})
	s := connect(t, newDaemon(t), server, way.Forward(t, "", server.Address()), nil)
	f, err := os.Create(filepath.Join(s.mount, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	count := way.Meter()
	content := random(1, size<<20)
	for i := range size {
		if _, err := f.Write(content[i<<20 : (i+1)<<20]); err != nil {
			t.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			t.Fatalf("fsync after MiB %d: %v", i, err)
		}
		info, err := os.Stat(filepath.Join(s.behind, "log"))
		if err != nil || info.Size() != int64(i+1)<<20 {
			t.Fatalf("after the fsync of MiB %d the server has %v, %v", i, info, err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	has(t, filepath.Join(s.behind, "log"), content)
	if got := count(); got.ToServer+got.ToClient > most<<20 {
		t.Errorf("%v; want at most %d MiB over the wire", got, most)
	}
}
