package integration

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pierfs/integration/daemon"
	"pierfs/integration/link"
	"pierfs/integration/servers"
)

// TestWholeFileIsReadWhileTheDaemonStands: once all of a file is here, who has it open reads it without us.
func TestWholeFileIsReadWhileTheDaemonStands(t *testing.T) {
	t.Parallel()
	eachCache(t, func(t *testing.T, s *cacheStage) {
		s.readAll(t)
		f, err := os.Open(filepath.Join(s.mount, "large"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil { // the pages that the kernel has of it
			t.Fatal(err)
		}
		if err := syscall.Kill(s.daemon.Pid(), syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		var got []byte
		err = within(t, 20*time.Second, "read without the daemon", func() (err error) {
			got, err = io.ReadAll(f)
			return err
		})
		if err := errors.Join(err, syscall.Kill(s.daemon.Pid(), syscall.SIGCONT)); err != nil || !bytes.Equal(got, s.contents["large"]) {
			t.Errorf("%d bytes, %v; the same: %v", len(got), err, bytes.Equal(got, s.contents["large"]))
		}
	})
}

// TestKeptLogIsFollowed: tail -f of a log that is kept here shows what the server's programs append.
func TestKeptLogIsFollowed(t *testing.T) {
	t.Parallel()
	eachCache(t, func(t *testing.T, s *cacheStage) {
		s.readAll(t)
		log, err := os.OpenFile(filepath.Join(s.behind, "large"), os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer log.Close()
		out := filepath.Join(t.TempDir(), "out")
		sh(t, s.mount, `tail -c +1 -s 0.2 -f large >"$1" 2>&1 & echo $! >"$1.pid"`, out)
		defer sh(t, "/", `kill "$(cat "$1.pid")"`, out)
		want := bytes.Clone(s.contents["large"])
		shows := func(what string) {
			t.Helper()
			await(t, what, func() bool {
				info, err := os.Stat(out)
				return err == nil && info.Size() >= int64(len(want))
			})
			has(t, out, want)
		}
		shows("what was there is shown")
		for i, n := range []int{20, 300_000, 1} {
			more := random(10+i, n)
			if _, err := log.Write(more); err != nil {
				t.Fatal(err)
			}
			want = append(want, more...)
			shows(fmt.Sprintf("%d bytes that were appended are shown", n))
		}
	})
}

// TestKeptFileCostsOneRoundTrip: after metadataTTL an open asks the server once, for the state of the file, and within it not at
// all.
func TestKeptFileCostsOneRoundTrip(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		ttl  time.Duration
		wait time.Duration
		most int
	}{"after its lifetime": {2 * time.Second, 3 * time.Second, 1}, "within it": {time.Hour, 0, 0}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, way := servers.NewSSHD(t, servers.SSHOptions{}), link.New(t, link.Options{})
			s := &cacheStage{way: way}
			s.fill(t, server.Dir)
			s.stage = connect(t, newDaemon(t), server, way.Forward(t, "", server.Address()), daemon.Fields{"metadataTTL": test.ttl.String()})
			s.readAll(t)
			f, err := os.Open(filepath.Join(s.mount, "large"))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			<-time.After(test.wait)
			way.SetRoundTrip(longWay)
			count := way.Meter()
			again, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", f.Fd())) // without looking its name up
			if err != nil {
				t.Fatal(err)
			}
			defer again.Close()
			if got, err := io.ReadAll(again); err != nil || !bytes.Equal(got, s.contents["large"]) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if c := count(); c.Flights > test.most || c.Connections > 0 {
				t.Errorf("open and read cost %v, want at most %d flights", c, test.most)
			} else {
				t.Logf("open and read: %v", c)
			}
		})
	}
}
