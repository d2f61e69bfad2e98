package model

import (
	"errors"
	"flag"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"pierfs/integration/daemon"
	"pierfs/integration/link"
	"pierfs/integration/process"
	"pierfs/integration/servers"
)

// The tests of a mount take a minute together; the long run is
//
//	go test ./integration/model -run TestMountUnderFaults -model.duration 30m -model.every 20s -timeout 40m
var (
	duration = flag.Duration("model.duration", 20*time.Second, "how long each test of a mount runs")
	every    = flag.Duration("model.every", 3*time.Second, "time between two faults")
	seed     = flag.Uint64("model.seed", 1, "where the random operations begin")
	whole    = flag.String("model.trace", "", "file for the whole trace of a failure")
	shrink   = flag.Duration("model.shrink", 30*time.Second, "how long to make a failing trace smaller")
)

// The programs under test.
var (
	underTest = daemon.Share()
	built     = underTest.Programs
)

// connection is the name of the one that is mounted.
const connection = "files"

// stage is a server, a way to it, and a mount.
type stage struct {
	server *servers.SSHD
	way    *link.Link
	daemon *daemon.Daemon
}

func newStage(t *testing.T, fields daemon.Fields) *stage {
	t.Helper()
	programs, err := built()
	if err != nil {
		t.Fatal(err)
	}
	s := &stage{server: servers.NewSSHD(t, servers.SSHOptions{}), way: link.New(t, link.Options{}), daemon: daemon.New(t, programs)}
	to := daemon.To(t, s.server, fields)
	host, port, err := net.SplitHostPort(s.way.Forward(t, "", s.server.Address()))
	if err != nil {
		t.Fatal(err)
	}
	to["host"] = host
	if to["port"], err = strconv.Atoi(port); err != nil {
		t.Fatal(err)
	}
	s.daemon.Define(t, connection, to)
	s.daemon.Start(t)
	s.daemon.AwaitState(t, connection, "ready", process.Patience)
	return s
}

// options are those of a run in a new directory of the mount.
func (s *stage) options(t *testing.T) Options {
	t.Helper()
	dir := filepath.Join(s.daemon.Mount(connection), "run")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return Options{
		Dir: dir, Backing: filepath.Join(s.server.Dir, "run"), Command: serving(t, ""),
		Seed: *seed, Processes: 8, Duration: *duration, Temporary: regexp.MustCompile(`(?s)^\..*\.pierfs-[0-9a-f]{8}~?$`),
	}
}

// outageOf makes the server or the way to it fail for a while.
type outageOf func(t *testing.T, s *stage, wait func(time.Duration))

// run runs the model and makes one of the faults every now and then.
func (s *stage) run(t *testing.T, o Options, faults []outageOf) {
	t.Helper()
	type result struct {
		report Report
		err    error
	}
	done := make(chan result, 1)
	calm := make(chan chan struct{})
	o.Calm = func() error {
		settled := make(chan struct{})
		calm <- settled
		<-settled
		return nil
	}
	go func() {
		report, err := Run(o)
		done <- result{report, err}
	}()
	var got *result
	var quiet bool
	pause := func(d time.Duration) {
		if got != nil {
			return
		}
		select {
		case r := <-done:
			got = &r
		case settled := <-calm:
			quiet = true
			defer close(settled)
		case <-time.After(d):
		}
	}
	for i := 0; got == nil; i++ {
		if pause(*every); got != nil || quiet || len(faults) == 0 {
			continue
		}
		faults[(i+int(o.Seed%uint64(len(faults))))%len(faults)](t, s, pause)
	}
	t.Log(got.report)
	if got.err == nil {
		return
	}
	f, ok := errors.AsType[*Failure](got.err)
	if ok && len(faults) == 0 && len(f.Trace) > 0 {
		t.Errorf("smaller: %v", Shrink(o, f, *shrink))
	}
	if ok && *whole != "" {
		if err := os.WriteFile(*whole, []byte(f.Tell(len(f.Trace))), 0o644); err != nil {
			t.Error(err)
		}
	}
	t.Fatalf("%v\nthe daemon wrote:\n%s", got.err, tail(s.daemon.Log(), 8<<10))
}

func tail(text string, n int) string { return text[max(0, len(text)-n):] }

// TestMount: without any fault a mount gives exactly the answers of a local disk.
func TestMount(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil)
	s.run(t, s.options(t), nil)
}

// TestMountHeldByTwoProcesses is the same with two processes that take turns in each tree, so that each sees what the
// other's descriptors do.
func TestMountHeldByTwoProcesses(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil)
	o := s.options(t)
	o.Processes, o.Hands = 4, 2
	s.run(t, o, nil)
}

// TestReplacedFilesAreNeverOld: whoever opens a file sees no older content than anybody has seen before, here or at the server,
// also when nothing but the name tells the old file from the new one.
func TestReplacedFilesAreNeverOld(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil)
	o := s.options(t)
	o.Hot = true
	s.run(t, o, nil)
}

// TestBlinksAreUnseen: connections that break, and come back within the retry budget, are seen by no program.
func TestBlinksAreUnseen(t *testing.T) {
	t.Parallel()
	s := newStage(t, daemon.Fields{"timeout": 3, "retryCount": 3})
	o := s.options(t)
	o.Blinks, o.Limit = true, 4*3*time.Second+slackOfMachine
	s.run(t, o, []outageOf{
		func(t *testing.T, s *stage, _ func(time.Duration)) { s.way.Cut() },
		func(t *testing.T, s *stage, wait func(time.Duration)) {
			s.way.BlackHole()
			wait(time.Second)
			s.way.Heal(t)
		},
		func(t *testing.T, s *stage, _ func(time.Duration)) { s.server.KillSessions(t) },
		func(t *testing.T, s *stage, wait func(time.Duration)) {
			s.server.Stop(t)
			wait(time.Second)
			s.server.Cont(t)
		},
		func(t *testing.T, s *stage, _ func(time.Duration)) {
			s.server.Kill(t)
			s.server.Restart(t)
		},
		func(t *testing.T, s *stage, wait func(time.Duration)) {
			s.way.BlackHole()
			wait(4 * time.Second) // longer than one attempt
			s.way.Cut()
			s.way.Heal(t)
		},
	})
}

// slackOfMachine is what a loaded machine adds to an errno that is due.
const slackOfMachine = 4 * time.Second

// TestMountUnderFaults: whatever happens to the server, each call returns in time, what was acknowledged is kept, what
// failed happened as a whole or not at all, and when the server is back so is the mount.
func TestMountUnderFaults(t *testing.T) {
	t.Parallel()
	s := newStage(t, daemon.Fields{"timeout": 2, "retryCount": 1})
	o := s.options(t)
	// A server that is away is asked every 30 s at last, and each of these may meet the next fault.
	o.Outages, o.Limit, o.Longest = true, 2*2*time.Second+slackOfMachine, 3*time.Minute
	s.run(t, o, []outageOf{
		func(t *testing.T, s *stage, _ func(time.Duration)) { s.way.Cut() },
		func(t *testing.T, s *stage, wait func(time.Duration)) {
			s.way.BlackHole()
			wait(time.Second)
			s.way.Heal(t)
		},
		func(t *testing.T, s *stage, wait func(time.Duration)) {
			s.server.Stop(t)
			wait(6 * time.Second)
			s.server.Cont(t)
		},
		func(t *testing.T, s *stage, _ func(time.Duration)) { s.server.KillSessions(t) },
		func(t *testing.T, s *stage, wait func(time.Duration)) {
			s.server.Kill(t)
			wait(6 * time.Second)
			s.server.Restart(t)
		},
		func(t *testing.T, s *stage, wait func(time.Duration)) {
			s.way.BlackHole()
			wait(8 * time.Second)
			s.way.Cut()
			s.way.Heal(t)
		},
		func(t *testing.T, s *stage, wait func(time.Duration)) {
			s.way.Refuse()
			s.way.Cut()
			wait(3 * time.Second)
			s.way.Heal(t)
		},
	})
}
