package integration

import (
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"pierfs/integration/daemon"
	"pierfs/integration/link"
	"pierfs/integration/servers"
)

// freezer is a server that can be stopped, as by SIGSTOP, and go on.
type freezer interface {
	Stop(testing.TB)
	Cont(testing.TB)
}

// TestServerStops: a server that freezes in the middle of whatever costs each program an errno in time, and the same mount
// works again when it goes on.
func TestServerStops(t *testing.T) {
	t.Parallel()
	stops(t, func(t *testing.T) (*stage, freezer) {
		s := newStage(t, servers.SSHOptions{}, impatient)
		return s, s.server
	})
}

// stops is TestServerStops on a stage that start makes for each call.
func stops(t *testing.T, start func(*testing.T) (*stage, freezer)) {
	t.Helper()
	big := random(1, 24<<20)
	for name, call := range map[string]func(s *stage) (before, during func() error){
		"stat": func(s *stage) (before, during func() error) {
			return nil, func() error { _, err := os.Stat(filepath.Join(s.mount, "unknown")); return err }
		},
		"list": func(s *stage) (before, during func() error) {
			return nil, func() error { _, err := os.ReadDir(filepath.Join(s.mount, "sub")); return err }
		},
		"read": func(s *stage) (before, during func() error) {
			var f *os.File
			return func() (err error) {
					if f, err = os.Open(filepath.Join(s.mount, "big")); err != nil {
						return err
					}
					_, err = io.ReadFull(f, make([]byte, 64<<10))
					return err
				}, func() error {
					defer f.Close()
					_, err := f.ReadAt(make([]byte, 64<<10), 20<<20)
					return err
				}
		},
		"read on": func(s *stage) (before, during func() error) {
			var f *os.File
			return func() (err error) {
					if f, err = os.Open(filepath.Join(s.mount, "big")); err != nil {
						return err
					}
					_, err = io.ReadFull(f, make([]byte, 64<<10))
					return err
				}, func() error {
					defer f.Close()
					for p := make([]byte, 64<<10); ; { // what is on its way still comes
						began := time.Now()
						if _, err := f.Read(p); err != nil {
							t.Logf("the read that failed took %v", time.Since(began))
							return err
						}
					}
				}
		},
		"write": func(s *stage) (before, during func() error) {
			return nil, func() error { return put(filepath.Join(s.mount, "new"), big[:1<<20]) }
		},
		"overwrite": func(s *stage) (before, during func() error) {
			return nil, func() error { return put(filepath.Join(s.mount, "report"), big[:1<<20]) }
		},
		"rename": func(s *stage) (before, during func() error) {
			return nil, func() error { return os.Rename(filepath.Join(s.mount, "report"), filepath.Join(s.mount, "renamed")) }
		},
		"mkdir": func(s *stage) (before, during func() error) {
			return nil, func() error { return os.Mkdir(filepath.Join(s.mount, "made"), 0o755) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, server := start(t)
			report := []byte("old content")
			for name, content := range map[string][]byte{"report": report, "big": big} {
				if err := os.WriteFile(filepath.Join(s.behind, name), content, 0o666); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Mkdir(filepath.Join(s.behind, "sub"), 0o777); err != nil {
				t.Fatal(err)
			}
			has(t, filepath.Join(s.mount, "report"), report)
			before, during := call(s)
			if before != nil {
				if err := before(); err != nil {
					t.Fatal(err)
				}
			}
			server.Stop(t)
			errnoIs(t, name, within(t, budget, name, during), syscall.ETIMEDOUT, syscall.EHOSTDOWN, syscall.EIO)
			err := within(t, offline, "a call once it is known", func() error {
				_, err := os.Stat(filepath.Join(s.mount, "unknown too"))
				return err
			})
			errnoIs(t, "stat", err, syscall.EHOSTDOWN)
			if got := s.daemon.State(t, connection); got != "offline" {
				t.Errorf("state %q, want offline", got)
			}
			server.Cont(t)
			heals(t, filepath.Join(s.mount, "big"), big)
			s.daemon.AwaitState(t, connection, "ready", healing)
			if name != "rename" {
				has(t, filepath.Join(s.behind, "report"), report)
			}
			if err := put(filepath.Join(s.mount, "after"), report); err != nil {
				t.Errorf("write after it: %v", err)
			}
			has(t, filepath.Join(s.behind, "after"), report)
		})
	}
}

// TestStatfsDoesNotWait: df and file managers ask every mount, and none of them shall hang for one.
func TestStatfsDoesNotWait(t *testing.T) {
	t.Parallel()
	s := newStage(t, servers.SSHOptions{}, nil)
	ask := func() error { return syscall.Statfs(s.mount, &syscall.Statfs_t{}) }
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	s.server.Stop(t)
	if err := within(t, 5*time.Second, "statfs while the server is stopped", ask); err != nil {
		errnoIs(t, "statfs", err, away...)
	}
	s.server.Cont(t)
}

// TestServerIsRestarted: connections are refused for a while, and then the same mount works with a server that knows
// nothing of the old sessions. Files that were open go on.
func TestServerIsRestarted(t *testing.T) {
	t.Parallel()
	fields := daemon.Fields{"negativeTTL": "0s"} // or a name that is absent may be known to be
	maps.Copy(fields, impatient)
	s := newStage(t, servers.SSHOptions{}, fields)
	content := random(2, 8<<20)
	if err := os.WriteFile(filepath.Join(s.behind, "big"), content, 0o666); err != nil {
		t.Fatal(err)
	}
	reading, err := os.Open(filepath.Join(s.mount, "big"))
	if err != nil {
		t.Fatal(err)
	}
	defer reading.Close()
	got := make([]byte, len(content))
	if _, err := io.ReadFull(reading, got[:100_000]); err != nil {
		t.Fatal(err)
	}
	writing, err := os.Create(filepath.Join(s.mount, "written"))
	if err != nil {
		t.Fatal(err)
	}
	defer writing.Close()
	if _, err := writing.Write(content[:1<<20]); err != nil {
		t.Fatal(err)
	}
	s.server.Kill(t)
	err = within(t, budget, "stat while it is down", func() error {
		_, err := os.Stat(filepath.Join(s.mount, "unknown"))
		return err
	})
	errnoIs(t, "stat while it is down", err, away...)
	if _, err := os.Stat(s.mount); err != nil {
		errnoIs(t, "stat of the mount itself", err, syscall.EHOSTDOWN)
	}
	if mounts := s.daemon.Mounts(t); len(mounts) != 1 {
		t.Errorf("mounted while the server is down: %v, want the one mount in its place", mounts)
	}
	s.server.Restart(t)
	heals(t, filepath.Join(s.mount, "big"), content)
	if _, err := io.ReadFull(reading, got[100_000:]); err != nil {
		t.Errorf("reading on: %v", err)
	}
	if string(got) != string(content) {
		t.Error("reading on across the restart brought other bytes")
	}
	if _, err := writing.Write(content[1<<20:]); err != nil {
		t.Errorf("writing on: %v", err)
	}
	if err := writing.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	has(t, filepath.Join(s.behind, "written"), content)
}

// TestSessionsAreCutUnseen: a connection that breaks and can be made again at once is seen by nobody.
// Holds row 30 of the requirements.
func TestSessionsAreCutUnseen(t *testing.T) {
	t.Parallel()
	s := newStage(t, servers.SSHOptions{}, nil)
	for i := range 5 {
		name := fmt.Sprintf("f%d", i)
		content := random(i, 1<<20)
		s.server.KillSessions(t)
		if err := put(filepath.Join(s.mount, name), content); err != nil {
			t.Errorf("write %s after the sessions were killed: %v", name, err)
		}
		s.server.KillSessions(t)
		has(t, filepath.Join(s.mount, name), content)
		has(t, filepath.Join(s.behind, name), content)
		s.server.KillSessions(t)
		if err := os.Rename(filepath.Join(s.mount, name), filepath.Join(s.mount, name+"r")); err != nil {
			t.Errorf("rename: %v", err)
		}
		s.server.KillSessions(t)
		if _, err := os.ReadDir(s.mount); err != nil {
			t.Errorf("list: %v", err)
		}
	}
	if names := sh(t, s.behind, `ls -A | xargs`); names != "f0r f1r f2r f3r f4r\n" {
		t.Errorf("the server has %q", names)
	}
}

// TestUploadIsCutAtEveryStage cuts the way after ever more bytes of the same upload: close either returns 0 and the server
// has the new content, or it fails and the server has the old one. With retries it succeeds.
// Holds row 30 of the requirements.
func TestUploadIsCutAtEveryStage(t *testing.T) {
	t.Parallel()
	old, fresh := random(1, 50_000), random(2, 60_000)
	server := servers.NewSSHD(t, servers.SSHOptions{})
	way := link.New(t, link.Options{})
	s := connect(t, newDaemon(t), server, way.Forward(t, "", server.Address()), daemon.Fields{"timeout": 5, "retryCount": 2})
	for cut := int64(0); cut < 66_000; cut = cut*5/4 + 40 {
		for _, direction := range []link.Direction{link.ToServer, link.ToClient} {
			name := "report"
			if err := put(filepath.Join(s.mount, name), old); err != nil {
				t.Fatalf("before the cut at %d: %v", cut, err)
			}
			at := cut
			if direction == link.ToClient {
				if at = cut / 40; at > 700 { // few bytes come back
					continue
				}
			}
			way.CutAfter(direction, at)
			err := within(t, 20*time.Second, fmt.Sprintf("upload cut after %d bytes %v", at, direction), func() error {
				return put(filepath.Join(s.mount, name), fresh)
			})
			way.CutAfter(direction, -1)
			if err != nil {
				t.Errorf("cut after %d bytes %v: %v, want the retry to succeed", at, direction, err)
			}
			has(t, filepath.Join(server.Dir, name), fresh)
			if names := sh(t, server.Dir, `ls -A`); names != name+"\n" {
				t.Errorf("cut after %d bytes %v: the server has %q", at, direction, names)
				sh(t, server.Dir, `find . -type f -name '.*' -delete`)
			}
		}
	}
}

// TestBareMountPointIsUnwritable: what a program writes while nothing is mounted would never reach the server.
func TestBareMountPointIsUnwritable(t *testing.T) {
	t.Parallel()
	s := newStage(t, servers.SSHOptions{}, nil)
	s.daemon.Kill()
	if err := syscall.Unmount(s.mount, syscall.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	if err := put(filepath.Join(s.mount, "lost"), []byte("x")); err == nil {
		t.Error("a program wrote into the bare directory below the mount")
	}
}
