package integration

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"pierfs/integration/daemon"
	"pierfs/integration/link"
	"pierfs/integration/servers"
)

// TestUnderTheRaceDetector has many programs do many things at once with a daemon that watches itself for data races, over
// a way that is cut again and again. The daemon stops at the first race, and the log says which.
func TestUnderTheRaceDetector(t *testing.T) {
	t.Parallel()
	programs, err := builtForRace()
	if err != nil {
		t.Fatal(err)
	}
	server := servers.NewSSHD(t, servers.SSHOptions{})
	way := link.New(t, link.Options{RoundTrip: time.Millisecond})
	s := connect(t, daemon.New(t, programs), server, way.Forward(t, "", server.Address()), nil)
	// Two of each kind share names, so that they meet.
	deadline := time.Now().Add(10 * time.Second)
	var all sync.WaitGroup
	for w := range 8 {
		all.Go(func() {
			for i := 0; time.Now().Before(deadline) && !t.Failed(); i++ {
				if err := s.meddle(w/2, w%2, i); err != nil {
					t.Errorf("program %d, round %d: %v", w, i, err)
				}
			}
		})
	}
	all.Go(func() {
		for time.Now().Before(deadline) {
			s.daemon.Pierfs(t, "status", "--json")
			s.daemon.Pierfs(t, "ls", connection+":/", "--json")
			way.Cut()
		}
	})
	all.Wait()
	if status := s.daemon.Stop(t); status != 0 {
		t.Errorf("the daemon ends with %d", status)
	}
}

// meddle does one thing that a program does, with names that only the other program of the same pair uses too.
func (s *stage) meddle(pair, self, round int) error {
	shared := filepath.Join(s.mount, fmt.Sprintf("shared%d", pair))
	own := filepath.Join(s.mount, fmt.Sprintf("own%d-%d", pair, self))
	content := random(round, 10_000+round%5*100_000)
	switch round % 6 {
	case 0:
		return errors.Join(put(own, content), put(shared, content))
	case 1:
		got, err := os.ReadFile(own)
		if err == nil && !bytes.Equal(got, random(round-1, 10_000+(round-1)%5*100_000)) {
			err = fmt.Errorf("%s has %s", own, brief(got))
		}
		_, err2 := os.ReadFile(shared)
		return errors.Join(err, unless(err2, fs.ErrNotExist, syscall.ESTALE))
	case 2:
		err := os.Rename(own, own+"r")
		return errors.Join(err, unless(os.Rename(shared, shared+"r"), fs.ErrNotExist))
	case 3:
		f, err := os.OpenFile(own+"r", os.O_RDWR|os.O_APPEND, 0)
		if err != nil {
			return err
		}
		_, err = io.WriteString(f, "more")
		return errors.Join(err, f.Sync(), f.Close())
	case 4:
		_, err := os.ReadDir(s.mount)
		return errors.Join(err, os.Chmod(own+"r", 0o600), os.Truncate(own+"r", 5))
	default:
		return errors.Join(os.Remove(own+"r"), unless(os.Remove(shared+"r"), fs.ErrNotExist))
	}
}

// unless returns err, or nil if it is one of those expected where two programs meet.
func unless(err error, expected ...error) error {
	for _, e := range expected {
		if errors.Is(err, e) {
			return nil
		}
	}
	return err
}
