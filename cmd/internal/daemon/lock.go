package daemon

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"pierfs/cmd/internal/control"
)

// lock is the daemon's claim on a directory. The kernel gives it up when the process ends, however it ends, so that what
// else is found there afterwards is known to be stale.
type lock struct{ file *os.File }

// takeLock claims dir, or says whose it is.
func takeLock(dir string) (*lock, error) {
	path := filepath.Join(dir, "pierfsd.lock")
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	err = flockSoon(file)
	if errors.Is(err, unix.EWOULDBLOCK) {
		pid, _ := io.ReadAll(io.LimitReader(file, 32)) // only for the message
		file.Close()
		return nil, control.Errorf(control.Exists, "a pierfsd already runs on %s (process %s)", dir, strings.TrimSpace(string(pid))).
			WithHint("stop it first, or give this one other --runtime-dir and --state-dir")
	}
	if err == nil {
		err = file.Truncate(0)
	}
	if err == nil {
		_, err = fmt.Fprintf(file, "%d\n", os.Getpid())
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return &lock{file}, nil
}

// lockPatience is what a daemon that is just ending gets, as in a restart.
const lockPatience = 2 * time.Second

func flockSoon(file *os.File) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(lockPatience); ; <-tick.C {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(deadline) {
			return err
		}
	}
}

func (l *lock) release() error { return l.file.Close() }
