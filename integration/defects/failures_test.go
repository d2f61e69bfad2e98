package defects

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"pierfs/integration/daemon"
	"pierfs/integration/servers"
)

// TestFullServerIsTold: a peer said OK to write, fsync, close and cp, and showed 8 MiB that the server never got; another
// said EIO and left a part of the file.
func TestFullServerIsTold(t *testing.T) {
	t.Parallel()
	s := newStage(t, servers.SSHOptions{Size: 4 << 20}, nil)
	old := random(1, 500_000)
	must(t, "write", put(s.in("report"), old))
	big := random(2, 8<<20)
	local := filepath.Join(t.TempDir(), "big")
	must(t, "write", os.WriteFile(local, big, 0o644))
	for _, name := range []string{"report", "new"} {
		if status, said := cp(t, local, s.in(name)); status == 0 || !strings.Contains(said, "No space left") {
			t.Errorf("cp to %s exits %d and says %q, want no space", name, status, said)
		}
		f, err := os.OpenFile(s.in(name), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
		must(t, "open", err)
		_, err = f.Write(big)
		isOneOf(t, "write and fsync", errors.Join(err, f.Sync()), syscall.ENOSPC)
		isOneOf(t, "close behind it", f.Close(), syscall.ENOSPC)
	}
	s.serverHas(t, "report", old)
	s.mountHas(t, "report", old)
	s.serverHasOnly(t, "report")
	must(t, "write what fits", put(s.in("report"), old[:1000]))
	s.serverHas(t, "report", old[:1000])
}

// TestSilentDropFreesEverybody: when packets were dropped without a word, stat, listing and creating hung as long as anybody
// looked, or the files that were open were dead when the link was back.
func TestSilentDropFreesEverybody(t *testing.T) {
	t.Parallel()
	// Without memory of names, each call below asks the server, whatever was listed beside an earlier one.
	s := newStage(t, servers.SSHOptions{}, daemon.Fields{"timeout": 2, "retryCount": 1, "metadataTTL": "0s", "negativeTTL": "0s"})
	content := random(1, 3<<20)
	s.plant(t, "big", content)
	reading, err := os.Open(s.in("big"))
	must(t, "open", err)
	defer reading.Close()
	got := make([]byte, len(content))
	_, err = io.ReadFull(reading, got[:100_000])
	must(t, "read", err)
	writing, err := os.Create(s.in("written"))
	must(t, "create", err)
	_, err = writing.WriteString("the first part")
	must(t, "write", err)

	s.way.BlackHole()
	isOneOf(t, "stat", within(t, budget, "stat", func() error { _, err := os.Stat(s.in("unknown")); return err }), away...)
	isOneOf(t, "list", within(t, prompt, "list", func() error { _, err := os.ReadDir(s.in("")); return err }), append(away, 0)...)
	isOneOf(t, "mkdir", within(t, prompt, "mkdir", func() error { return os.Mkdir(s.in("made"), 0o755) }), away...)
	must(t, "write to what is open", within(t, prompt, "write", func() error { _, err := writing.WriteString(" and the second"); return err }))
	// A peer's process that held a file open for writing could not even start a child: closing its copy hung.
	must(t, "start a child", within(t, prompt, "a child", exec.CommandContext(t.Context(), "true").Run))

	s.way.Cut()
	s.way.Heal(t)
	s.heals(t, "big", content)
	_, err = io.ReadFull(reading, got[100_000:])
	must(t, "read on", err)
	if !bytes.Equal(got, content) {
		t.Error("reading on brought other bytes")
	}
	must(t, "close", writing.Close())
	s.serverHas(t, "written", []byte("the first part and the second"))
}

// TestMountStaysWhenTheConnectionBreaks: a peer unmounted itself within half a second, and the next program wrote into the
// local directory below and was told that all was well.
func TestMountStaysWhenTheConnectionBreaks(t *testing.T) {
	t.Parallel()
	s := newStage(t, servers.SSHOptions{}, impatient)
	s.way.Refuse()
	s.way.Cut()
	for range 20 {
		if err := within(t, budget, "write while it is away", func() error { return put(s.in("lost"), []byte("lost")) }); err == nil {
			t.Error("a program was told that its file is written")
		}
	}
	if mounts := s.daemon.Mounts(t); len(mounts) != 1 {
		t.Errorf("mounted: %v, want the one mount in its place", mounts)
	}
	s.way.Heal(t)
	s.plant(t, "there", []byte("x"))
	s.heals(t, "there", []byte("x"))
	s.serverHasOnly(t, "there")
	if status := s.daemon.Stop(t); status != 0 {
		t.Errorf("the daemon exits %d", status)
	}
	if entries, err := os.ReadDir(s.mount); err != nil && !errors.Is(err, os.ErrNotExist) || len(entries) > 0 {
		t.Errorf("the directory below the mount has %v (%v), want nothing", entries, err)
	}
}

// TestDirectoriesAreNotMerged: renaming a directory over one that is not empty moved the files of both together.
func TestDirectoriesAreNotMerged(t *testing.T) {
	t.Parallel()
	s := newStage(t, servers.SSHOptions{}, nil)
	for _, dir := range []string{"a", "b"} {
		must(t, "mkdir", os.Mkdir(s.in(dir), 0o755))
		must(t, "write", put(s.in(filepath.Join(dir, dir)), []byte(dir)))
	}
	isOneOf(t, "rename over a directory that is not empty", syscall.Rename(s.in("a"), s.in("b")), syscall.ENOTEMPTY)
	s.serverHas(t, "a/a", []byte("a"))
	s.serverHas(t, "b/b", []byte("b"))
}

// TestExclusiveCreationRespectsOthers: O_EXCL on a name that somebody else had made on the server meanwhile replaced that file.
func TestExclusiveCreationRespectsOthers(t *testing.T) {
	t.Parallel()
	s := newStage(t, servers.SSHOptions{}, nil)
	if _, err := os.Stat(s.in("lock")); !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err) // from now on the mount knows that it is absent
	}
	s.plant(t, "lock", []byte("another's"))
	f, err := os.OpenFile(s.in("lock"), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err == nil {
		err = errors.Join(f.Close(), errors.New("it succeeded"))
	}
	isOneOf(t, "O_EXCL", err, syscall.EEXIST)
	s.serverHas(t, "lock", []byte("another's"))
}
