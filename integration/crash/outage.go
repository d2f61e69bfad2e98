package main

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"pierfs/integration/process"
)

// outage is the server's death, with all its sessions, and its return. Its port refuses connections meanwhile.
type outage struct {
	t    *testing.T // of the stage, whose server it is
	door net.Listener
	each func(net.Conn) // serves who comes to door; nil if daemons go to the server itself

	away sync.WaitGroup
	mu   sync.Mutex
	told map[string]int
}

// calming is how many steps programs go on for behind the beginning of an outage that is the only thing that happens.
const calming = 300

// addOutage has the server die as well: before the daemon, with it, or alone.
func (s *stage) addOutage(a *aim) {
	a.gap = time.Duration(s.rng.IntN(600)) * time.Millisecond
	if s.rng.IntN(4) == 0 {
		a.gap += 2 * time.Second
	}
	switch s.rng.IntN(4) {
	case 0:
	case 1:
		a.outage = a.nth
	case 2:
		a.outage = 1 + s.rng.IntN(a.nth)
	case 3:
		*a = aim{outage: 1 + s.rng.IntN(1000), gap: a.gap, calm: true}
	}
	a.cut = a.cut && a.outage == 0
}

// fall begins an outage that ends when gap is over.
func (s *stage) fall(gap time.Duration) {
	o := &s.outage
	o.away.Go(func() {
		if o.each != nil {
			o.door.Close()
		}
		s.server.Kill(o.t)
		time.Sleep(gap)
		s.server.Restart(o.t)
		if o.each == nil {
			return
		}
		door, err := net.Listen("tcp", o.door.Addr().String())
		if err != nil {
			o.t.Error(err)
			return
		}
		o.door = door
		s.serve(o.t, door, o.each)
	})
}

// stands returns when the server is there again.
func (s *stage) stands() {
	s.outage.away.Wait()
	s.outage.mu.Lock()
	defer s.outage.mu.Unlock()
	addAll(s.sum.told, s.outage.told)
	s.outage.told = nil
}

// unlessFallen returns err if the daemon may not tell it a program: a dead one tells much, and one whose server is away that it is.
func (s *stage) unlessFallen(g *gate, err error) error {
	if _, wrong := errors.AsType[errWrong](err); wrong {
		return err
	}
	if err == nil || !s.lives(g) {
		return nil
	}
	errno, ok := errors.AsType[syscall.Errno](err)
	if _, stored := errors.AsType[*exec.ExitError](err); stored { // by a program that had a page refused
		errno, ok = syscall.EIO, true
	}
	if !ok || !g.hasFallen() || !tellsOfOutage(errno) {
		return err
	}
	s.outage.mu.Lock()
	defer s.outage.mu.Unlock()
	if s.outage.told == nil {
		s.outage.told = map[string]int{}
	}
	var job errJob
	errors.As(err, &job)
	s.outage.told[job.name+": "+errno.Error()]++
	return nil
}

func tellsOfOutage(errno syscall.Errno) bool {
	switch errno {
	case syscall.EIO, syscall.ETIMEDOUT, syscall.EHOSTDOWN, syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.ESTALE:
		return true
	}
	return false
}

// calm looks at a daemon that has outlived an outage: what it and the server have is what programs were told, and nothing is left.
func (s *stage) calm(t *testing.T, g *gate) {
	t.Helper()
	s.stands()
	mount := s.daemon.Mount(connection)
	for deadline := time.Now().Add(process.Patience); ; time.Sleep(5 * time.Millisecond) {
		_, err := os.Stat(filepath.Join(mount, "nothing bears this name"))
		if errors.Is(err, os.ErrNotExist) {
			break
		}
		if time.Now().After(deadline) {
			t.Errorf("%v after the server's return programs are told: %v", process.Patience, err)
			return
		}
	}
	s.blame(t, s.judge(t))
	if !t.Failed() {
		s.blame(t, s.check(t, g, true))
	}
}
