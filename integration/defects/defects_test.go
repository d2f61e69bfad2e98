package defects

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"pierfs/integration/daemon"
	"pierfs/integration/link"
	"pierfs/integration/servers"
)

// TestD1ResetOfAnIdleConnectionIsForgotten: after one TCP reset of an idle pooled connection every later call gave EIO, for
// ever, as long as the program polled. It was seen on FTP; with SFTP the same must not be either.
func TestD1ResetOfAnIdleConnectionIsForgotten(t *testing.T) {
	t.Parallel()
	s := newStage(t, servers.SSHOptions{}, nil)
	s.plant(t, "polled", []byte("content"))
	for round := range 3 {
		s.mountHas(t, "polled", []byte("content"))
		s.way.Cut()
		for poll := range 20 {
			name := fmt.Sprintf("unknown %d %d", round, poll) // what is not known must be asked for
			if _, err := os.Stat(s.in(name)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("poll %d after reset %d: %v, want that it does not exist", poll, round, err)
			}
		}
	}
}

// TestD2RefusedDirectoryIsTold: cp into a directory that the server refuses exited 0, close and fsync were OK, the file was
// listed, and never came to the server.
func TestD2RefusedDirectoryIsTold(t *testing.T) {
	t.Parallel()
	s := newStage(t, servers.SSHOptions{}, nil)
	must(t, "mkdir", os.Mkdir(filepath.Join(s.behind, "closed"), 0o755)) // by root: the login may look and not write
	local := filepath.Join(t.TempDir(), "report")
	must(t, "write", os.WriteFile(local, random(1, 100_000), 0o644))
	if status, said := cp(t, local, s.in("closed/report")); status == 0 || !strings.Contains(said, "Permission denied") {
		t.Errorf("cp exits %d and says %q, want a failure by permission", status, said)
	}
	f, err := os.OpenFile(s.in("closed/synced"), os.O_CREATE|os.O_WRONLY, 0o644)
	if err == nil {
		_, err = f.WriteString("x")
		err = errors.Join(err, f.Sync(), f.Close())
	}
	isOneOf(t, "open, write, fsync and close", err, syscall.EACCES)
	if entries, err := os.ReadDir(s.in("closed")); err != nil || len(entries) > 0 {
		t.Errorf("the mount lists %v (%v), want nothing: the server has nothing", entries, err)
	}
}

// TestD3FailureOfTheUploadIsTheErrorOfClose: with an upload in RELEASE, close had returned before it failed: the error was
// swallowed, nothing was tried again, the server kept the old file and the mount showed the new one.
func TestD3FailureOfTheUploadIsTheErrorOfClose(t *testing.T) {
	t.Parallel()
	s := newStage(t, servers.SSHOptions{}, impatient)
	old, fresh := random(1, 60_000), random(2, 70_000)
	s.plant(t, "report", old)
	s.mountHas(t, "report", old)
	f, err := os.OpenFile(s.in("report"), os.O_WRONLY|os.O_TRUNC, 0)
	must(t, "open", err)
	_, err = f.Write(fresh)
	must(t, "write", err)
	s.way.BlackHole()
	isOneOf(t, "close while the link is dark", within(t, budget, "close", f.Close), away...)
	s.way.Cut()
	s.way.Heal(t)
	s.heals(t, "report", old) // the mount tells what the server has
	s.serverHas(t, "report", old)
	must(t, "write again", put(s.in("report"), fresh))
	s.serverHas(t, "report", fresh)
	s.mountHas(t, "report", fresh)
	s.serverHasOnly(t, "report")
}

// TestD4UnmountRightAfterCloseLosesNothing: write, fsync, close and unmount at once ended well, and the server had nothing.
func TestD4UnmountRightAfterCloseLosesNothing(t *testing.T) {
	t.Parallel()
	for name, unmount := range map[string]func(t *testing.T, s *stage){
		"fusermount3 -u": func(t *testing.T, s *stage) {
			if out, err := exec.CommandContext(t.Context(), "fusermount3", "-u", s.mount).CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		},
		"pierfs disable": func(t *testing.T, s *stage) {
			if r := s.daemon.Pierfs(t, "disable", connection); r.Status != 0 {
				t.Errorf("exit %d\n%s", r.Status, r.Stderr)
			}
		},
		"SIGTERM": func(t *testing.T, s *stage) {
			if status := s.daemon.Stop(t); status != 0 {
				t.Errorf("the daemon exits %d", status)
			}
		},
		"SIGKILL": func(_ *testing.T, s *stage) { s.daemon.Kill() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t, servers.SSHOptions{}, nil)
			var want []string
			for i := range 20 {
				name := fmt.Sprintf("file%02d", i)
				must(t, name, put(s.in(name), random(i, 50_000)))
				want = append(want, name)
			}
			unmount(t, s)
			for i, name := range want {
				s.serverHas(t, name, random(i, 50_000))
			}
			s.serverHasOnly(t, want...)
		})
	}
}

// TestD5EditsInPlaceAreNotMixedAfterAKill: after kill -9 in the middle of edits in place, acknowledged writes were
// overwritten with the server's old bytes, and the mixture was uploaded.
func TestD5EditsInPlaceAreNotMixedAfterAKill(t *testing.T) {
	t.Parallel()
	s := newStage(t, servers.SSHOptions{}, nil)
	want := random(1, 4<<20)
	s.plant(t, "database", want)
	f, err := os.OpenFile(s.in("database"), os.O_RDWR, 0)
	must(t, "open", err)
	defer f.Close()
	for i, off := range []int64{1 << 20, 3 << 20} {
		patch := random(10+i, 1_000_000)
		_, err := f.WriteAt(patch, off)
		must(t, "write", errors.Join(err, f.Sync()))
		copy(want[off:], patch)
		s.serverHas(t, "database", want)
	}
	_, err = f.WriteAt(random(20, 1_000_000), 0) // not acknowledged: neither fsync nor close
	must(t, "write", err)
	s.daemon.Kill()
	s.serverHas(t, "database", want)
	s.start(t)
	s.mountHas(t, "database", want)
	s.serverHas(t, "database", want)
	s.serverHasOnly(t, "database")
}

// TestD6UnpublishedContentOutlivesItsRecords: when the file that says what is owed was empty after a crash, the content was
// deleted as not known. Ours keeps it whatever is left of its own records.
func TestD6UnpublishedContentOutlivesItsRecords(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(name string) error{
		"as it was": func(string) error { return nil },
		"emptied":   func(name string) error { return os.Truncate(name, 0) },
		"removed":   os.Remove,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t, servers.SSHOptions{}, nil)
			content := random(1, 1<<20)
			f, err := os.Create(s.in("owed"))
			must(t, "create", err)
			defer f.Close()
			_, err = f.Write(content)
			must(t, "write", err)
			s.daemon.Kill()
			for _, file := range files(t, s.daemon.StateDir) {
				if got, err := os.ReadFile(file); err == nil && string(got) != string(content) {
					must(t, "damage "+file, damage(file))
				}
			}
			s.start(t)
			kept := false
			for _, file := range files(t, s.daemon.StateDir) {
				got, err := os.ReadFile(file)
				kept = kept || err == nil && string(got) == string(content)
			}
			if !kept {
				t.Errorf("the content is gone; the state directory has %v", files(t, s.daemon.StateDir))
			}
		})
	}
}

// files returns all regular files below dir.
func files(t *testing.T, dir string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			all = append(all, name)
		}
		return err
	})
	must(t, "walk", err)
	return all
}

// TestD7TornFileIsNeverPublished: kill -9 while a program was still writing a new file published what there was of it,
// under its final name; with the cache off it was there while it grew.
func TestD7TornFileIsNeverPublished(t *testing.T) {
	t.Parallel()
	s := newStage(t, servers.SSHOptions{}, nil)
	f, err := os.Create(s.in("growing"))
	must(t, "create", err)
	defer f.Close()
	for i := range 30 {
		_, err := f.Write(random(i, 100_000))
		must(t, "write", err)
		s.serverHasOnly(t)
	}
	s.daemon.Kill()
	s.serverHasOnly(t)
	s.start(t)
	s.serverHasOnly(t)
	if _, err := os.Stat(s.in("growing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the torn file in the mount: %v, want that it does not exist", err)
	}
}

// TestD8ReplacedNameIsNeverAbsent: rename(a, b) removed b and then renamed: for the readers of the server b was absent
// meanwhile, and for good if the connection broke between the two.
func TestD8ReplacedNameIsNeverAbsent(t *testing.T) {
	t.Parallel()
	t.Run("watched", func(t *testing.T) {
		t.Parallel()
		s := newStage(t, servers.SSHOptions{}, nil)
		s.plant(t, "report", []byte("first"))
		done := make(chan struct{})
		var watching sync.WaitGroup
		for _, dir := range []string{s.behind, s.mount} {
			watching.Go(func() {
				for n := 0; ; n++ {
					select {
					case <-done:
						t.Logf("%s looked at %d times", dir, n)
						return
					default:
					}
					if _, err := os.ReadFile(filepath.Join(dir, "report")); err != nil {
						t.Errorf("while it was replaced: %v", err)
						return
					}
				}
			})
		}
		for i := range 100 {
			must(t, "write", put(s.in("new"), random(i, 1000)))
			must(t, "rename", os.Rename(s.in("new"), s.in("report")))
			s.serverHas(t, "report", random(i, 1000))
		}
		close(done)
		watching.Wait()
	})
	t.Run("cut", func(t *testing.T) {
		t.Parallel()
		s := newStage(t, servers.SSHOptions{}, daemon.Fields{"timeout": 2, "retryCount": 2})
		for i := range 12 {
			old, fresh := random(2*i, 1000), random(2*i+1, 1100)
			must(t, "write", errors.Join(put(s.in("report"), old), put(s.in("new"), fresh)))
			direction := link.Direction(i % 2)
			s.way.CutAfter(direction, int64(i/2)*40)
			err := within(t, 3*budget, fmt.Sprintf("rename cut after %d bytes %v", i/2*40, direction), func() error {
				return os.Rename(s.in("new"), s.in("report"))
			})
			s.way.CutAfter(direction, -1)
			must(t, "rename with retries", err)
			s.serverHas(t, "report", fresh)
			s.mountHas(t, "report", fresh)
			s.serverHasOnly(t, "report")
		}
	})
}

// TestD9CutUploadKeepsTheOldFile: when the connection was cut during an overwrite the server's old file was deleted.
func TestD9CutUploadKeepsTheOldFile(t *testing.T) {
	t.Parallel()
	s := newStage(t, servers.SSHOptions{}, daemon.Fields{"timeout": 5, "retryCount": 0}) // or a retry would succeed
	old := random(1, 20<<20)
	s.plant(t, "report.dat", old)
	for _, at := range []int64{0, 1000, 1 << 20, 10 << 20} {
		s.way.CutAfter(link.ToServer, at)
		fresh := random(2, 20<<20)
		err := within(t, 2*budget, fmt.Sprintf("overwrite cut after %d bytes", at), func() error { return put(s.in("report.dat"), fresh) })
		s.way.CutAfter(link.ToServer, -1)
		if err == nil { // the cut met what travelled ahead of close, which then sent all of it
			s.serverHas(t, "report.dat", fresh)
			must(t, "write", put(s.in("report.dat"), old))
			continue
		}
		isOneOf(t, "overwrite", err, away...)
		s.serverHas(t, "report.dat", old)
		s.heals(t, "report.dat", old)
	}
}

// TestD10LimitedServerServesAll: on a server that limits connections some of eight readers were blocked for ever, and a
// program that held files open and then listed a directory waited for itself.
func TestD10LimitedServerServesAll(t *testing.T) {
	t.Parallel()
	s := newStage(t, servers.SSHOptions{Sessions: 1, Config: []string{"MaxStartups 1"}}, nil)
	for i := range 24 {
		s.plant(t, fmt.Sprintf("file%02d", i), random(i, 2<<20))
	}
	var readers sync.WaitGroup
	for i := range 8 {
		readers.Go(func() {
			for round := range 3 {
				n := i + 8*round
				s.mountHas(t, fmt.Sprintf("file%02d", n), random(n, 2<<20))
			}
		})
	}
	_ = within(t, time.Minute, "eight readers", func() error { readers.Wait(); return nil })
	var held []*os.File
	for i := range 24 {
		f, err := os.Open(s.in(fmt.Sprintf("file%02d", i)))
		must(t, "open", err)
		defer f.Close()
		_, err = f.ReadAt(make([]byte, 1000), 1<<20)
		must(t, "read", err)
		held = append(held, f)
	}
	must(t, "mkdir", os.Mkdir(s.in("sub"), 0o755))
	must(t, "list while 24 files are open", within(t, 10*time.Second, "list", func() error {
		_, err := os.ReadDir(s.in("sub"))
		return err
	}))
	must(t, "write while 24 files are open", within(t, 10*time.Second, "write", func() error { return put(s.in("sub/new"), random(1, 1<<20)) }))
	for _, f := range held {
		_, err := f.ReadAt(make([]byte, 1000), 0)
		must(t, "read on", err)
	}
}

// TestD11ChangeOfTheSameSizeIsSeen: where a server tells no times, the peer knew a file by its size alone and went on
// showing the old content. OpenSSH tells times, in whole seconds; a change within one second must be seen all the same.
func TestD11ChangeOfTheSameSizeIsSeen(t *testing.T) {
	t.Parallel()
	s := newStage(t, servers.SSHOptions{}, daemon.Fields{"metadataTTL": "0s"}) // or an open may use what is known
	for _, size := range []int{1000, 700_000} {
		for i := range 10 {
			name := fmt.Sprintf("file %d", size)
			content := random(i, size)
			s.plant(t, name, content) // in place: even the inode stays
			if i%2 == 0 {             // and an old time, as a copy has that keeps it
				when := time.Unix(1_600_000_000+int64(i), 0)
				must(t, "touch", os.Chtimes(filepath.Join(s.behind, name), when, when))
			}
			s.mountHas(t, name, content)
		}
	}
}

// TestD12FrozenServerCostsNoMoreThanItsTimeout: with a timeout of 10 s a listing hung for 140 s, ten low-level retries each
// with its own.
func TestD12FrozenServerCostsNoMoreThanItsTimeout(t *testing.T) {
	t.Parallel()
	s := newStage(t, servers.SSHOptions{}, impatient)
	s.plant(t, "file", []byte("content"))
	must(t, "mkdir", os.Mkdir(s.in("sub"), 0o755))
	s.server.Stop(t)
	list := func() error { _, err := os.ReadDir(s.in("sub")); return err }
	isOneOf(t, "list", within(t, budget, "list", list), away...)
	for range 3 {
		isOneOf(t, "list once it is known", within(t, prompt, "list once it is known", list), away...)
	}
	s.server.Cont(t)
	s.heals(t, "file", []byte("content"))
	must(t, "list", list())
}
