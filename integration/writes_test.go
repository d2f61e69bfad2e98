package integration

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"pierfs/integration/daemon"
	"pierfs/integration/link"
	"pierfs/integration/servers"
)

// meteredStages are a mount of an sshd and one of a vsftpd, each by a way that counts what crosses it.
var meteredStages = map[string]func(*testing.T, *link.Link, daemon.Fields) *stage{
	"sshd": func(t *testing.T, way *link.Link, fields daemon.Fields) *stage {
		server := servers.NewSSHD(t, servers.SSHOptions{})
		return connect(t, newDaemon(t), server, way.Forward(t, "", server.Address()), fields)
	},
	"vsftpd": func(t *testing.T, way *link.Link, fields daemon.Fields) *stage {
		o := servers.FTPOptions{}
		server := servers.NewFTP(t, o)
		host, port := split(t, server.Through(t, way))
		all := daemon.Fields{"host": host, "port": port}
		maps.Copy(all, fields)
		return stageOf(t, server, o, all)
	},
}

// onBoth runs test on either of them.
func onBoth(t *testing.T, fields daemon.Fields, test func(*testing.T, *stage, *link.Link)) {
	for name, start := range meteredStages {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			way := link.New(t, link.Options{})
			test(t, start(t, way, fields), way)
		})
	}
}

// patchUnder changes a part of a file through the mount while theirs comes to the server, and returns what close said.
func patchUnder(t *testing.T, s *stage, name string, theirs []byte) error {
	t.Helper()
	if err := put(filepath.Join(s.mount, name), []byte("one two three")); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(s.mount, name), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(f); err != nil || string(got) != "one two three" {
		t.Fatalf("read %q, %v", got, err)
	}
	if _, err := f.WriteAt([]byte("TWO"), 4); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.behind, name), theirs, 0o644); err != nil {
		t.Fatal(err)
	}
	return f.Close()
}

// TestConflictOnAMount: somebody at the server changes a file that a program changes a part of. Both contents stay, and the program,
// the log and the status tell.
func TestConflictOnAMount(t *testing.T) {
	t.Parallel()
	onBoth(t, nil, func(t *testing.T, s *stage, _ *link.Link) {
		theirs := []byte("what the server's own program wrote")
		errnoIs(t, "close", patchUnder(t, s, "order", theirs), syscall.ESTALE)
		has(t, filepath.Join(s.behind, "order"), theirs)
		beside, err := filepath.Glob(filepath.Join(s.behind, "order.conflict-*"))
		if err != nil || len(beside) != 1 {
			t.Fatalf("beside it lies %q, %v", beside, err)
		}
		has(t, beside[0], []byte("one TWO three"))
		has(t, filepath.Join(s.mount, filepath.Base(beside[0])), []byte("one TWO three"))
		has(t, filepath.Join(s.mount, "order"), theirs)
		if status := s.daemon.Pierfs(t, "status").Stdout; !strings.Contains(status, "1 conflict with changes of others") {
			t.Errorf("status tells nothing of it:\n%s", status)
		}
		if log := s.daemon.Log(); !strings.Contains(log, "a conflict") || !strings.Contains(log, filepath.Base(beside[0])) {
			t.Errorf("the log tells nothing of it:\n%s", log)
		}

		// Who writes all of it anew wins, as on any disk.
		f, err := os.OpenFile(filepath.Join(s.mount, "order"), os.O_WRONLY|os.O_TRUNC, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.Write([]byte("ours anew"))
		if err == nil {
			err = os.WriteFile(filepath.Join(s.behind, "order"), []byte("theirs, while ours was open"), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Errorf("a file written anew: %v", err)
		}
		has(t, filepath.Join(s.behind, "order"), []byte("ours anew"))
	})
}

// TestConflictThatFailsIsQuarantined: with "fail" nothing but theirs is at the server, and ours is in quarantine.
func TestConflictThatFailsIsQuarantined(t *testing.T) {
	t.Parallel()
	onBoth(t, daemon.Fields{"conflict": "fail"}, func(t *testing.T, s *stage, _ *link.Link) {
		errnoIs(t, "close", patchUnder(t, s, "order", []byte("theirs")), syscall.ESTALE)
		has(t, filepath.Join(s.behind, "order"), []byte("theirs"))
		if names := sh(t, s.behind, `ls -A`); names != "order\n" {
			t.Errorf("the server has %q", names)
		}
		kept, err := filepath.Glob(filepath.Join(s.daemon.StateDir, "quarantine", "env", "*", connection, "*.data"))
		if err != nil || len(kept) != 1 {
			t.Fatalf("quarantine holds %q, %v", kept, err)
		}
		has(t, kept[0], []byte("one TWO three"))
	})
}

// TestConflictThatIsOverwritten: with "overwrite" ours is what the server has in the end, and the program hears of nothing.
func TestConflictThatIsOverwritten(t *testing.T) {
	t.Parallel()
	onBoth(t, daemon.Fields{"conflict": "overwrite"}, func(t *testing.T, s *stage, _ *link.Link) {
		if err := patchUnder(t, s, "order", []byte("theirs")); err != nil {
			t.Errorf("close: %v", err)
		}
		has(t, filepath.Join(s.behind, "order"), []byte("one TWO three"))
		if names := sh(t, s.behind, `ls -A`); names != "order\n" {
			t.Errorf("the server has %q", names)
		}
	})
}

// TestUploadsAreReadBackAndTold: with verify = "readback" what was written, and what is appended, comes back; with doneFile an empty file
// tells of each.
func TestUploadsAreReadBackAndTold(t *testing.T) {
	t.Parallel()
	const size, more = 512 << 10, 256 << 10
	onBoth(t, daemon.Fields{"verify": "readback", "doneFile": "NAME.done"}, func(t *testing.T, s *stage, way *link.Link) {
		name, behind := filepath.Join(s.mount, "order"), filepath.Join(s.behind, "order")
		content := random(7, size+more)
		comes := func(what string, least int64, write func() error) {
			t.Helper()
			if err := os.Remove(behind + ".done"); err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
			crossed := way.Meter()
			if err := write(); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if c := crossed(); c.ToClient < least {
				t.Errorf("%s: %v, want %d bytes to the client", what, c, least)
			}
			if info, err := os.Stat(behind + ".done"); err != nil || info.Size() != 0 {
				t.Errorf("%s: the done file: %v", what, err)
			}
		}
		comes("a file", size, func() error { return put(name, content[:size]) })
		comes("an append", more, func() error {
			f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
			if err != nil {
				return err
			}
			_, err = f.Write(content[size:])
			return errors.Join(err, f.Close())
		})
		has(t, behind, content)
	})
}

// TestLargeFileIsAppendedTo: 1 KiB more of a file of 1 GiB costs that KiB, and not the file.
func TestLargeFileIsAppendedTo(t *testing.T) {
	t.Parallel()
	const size, most = 1 << 30, 64 << 10
	onBoth(t, nil, func(t *testing.T, s *stage, way *link.Link) {
		name, behind := filepath.Join(s.mount, "log"), filepath.Join(s.behind, "log")
		if err := put(name, nil); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(behind, size); err != nil {
			t.Fatal(err)
		}
		line := bytes.Repeat([]byte("one line more!!\n"), 64)
		told := func() bool { info, err := os.Stat(name); return err == nil && info.Size() == size }
		await(t, "the size that the server tells", told)
		crossed := way.Meter()
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
		if err == nil {
			_, err = f.Write(line)
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		counts := crossed()
		t.Logf("%v", counts)
		if n := counts.ToServer + counts.ToClient; n >= most {
			t.Errorf("%d bytes crossed the wire, want less than %d", n, most)
		}
		end := make([]byte, len(line))
		theirs, err := os.Open(behind)
		if err != nil {
			t.Fatal(err)
		}
		defer theirs.Close()
		info, err := theirs.Stat()
		if err == nil {
			_, err = theirs.ReadAt(end, size)
		}
		if err != nil || info.Size() != size+int64(len(line)) || !bytes.Equal(end, line) {
			t.Errorf("the server has %d bytes that end with %s, %v", info.Size(), brief(end), err)
		}
	})
}

// TestSmallChangeOfALargeFileIsCheap: with update = "inPlace" 5 bytes inside a file of 1 GiB cost a few requests.
func TestSmallChangeOfALargeFileIsCheap(t *testing.T) {
	t.Parallel()
	const size, most = 1 << 30, 256 << 10
	way := link.New(t, link.Options{})
	s := meteredStages["sshd"](t, way, daemon.Fields{"update": "inPlace"})
	name, behind := filepath.Join(s.mount, "data"), filepath.Join(s.behind, "data")
	if err := put(name, nil); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(behind, size); err != nil {
		t.Fatal(err)
	}
	told := func() bool { info, err := os.Stat(name); return err == nil && info.Size() == size }
	await(t, "the size that the server tells", told)
	crossed := way.Meter()
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt([]byte("patch"), size/2)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	counts := crossed()
	t.Logf("%v", counts)
	if n := counts.ToServer + counts.ToClient; n >= most {
		t.Errorf("%d bytes crossed the wire, want less than %d", n, most)
	}
	got := make([]byte, 7)
	theirs, err := os.Open(behind)
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	info, err := theirs.Stat()
	if err == nil {
		_, err = theirs.ReadAt(got, size/2-1)
	}
	if err != nil || info.Size() != size || string(got) != "\x00patch\x00" {
		t.Errorf("the server has %d bytes, and %q there, %v", info.Size(), got, err)
	}
}
