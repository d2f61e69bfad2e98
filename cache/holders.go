package cache

import (
	"cmp"
	"errors"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"pierfs/cache/spool"
)

// holders counts who needs a staging file: the File that has it, debts, and whoever sends one.
type holders struct {
	mu    sync.Mutex
	count map[*spool.File]int // beyond the first
	over  map[*spool.File][]uint64
	named map[*spool.File]bool // whose names are on the disk
}

func newHolders() holders {
	return holders{count: map[*spool.File]int{}, over: map[*spool.File][]uint64{}, named: map[*spool.File]bool{}}
}

func (h *holders) isNamed(staged *spool.File) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.named[staged]
}

func (h *holders) isNamedNow(staged *spool.File) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.named[staged] = true
}

// share notes one more holder of staged.
func (t *Tree) share(staged *spool.File) {
	t.holders.mu.Lock()
	defer t.holders.mu.Unlock()
	t.holders.count[staged]++
}

// unshare notes one holder less, and reports whether it was the last. The entries of the journal that are over and whose content
// this was are then to be forgotten, once the file is gone.
func (t *Tree) unshare(staged *spool.File) (last bool, over []uint64) {
	h := &t.holders
	h.mu.Lock()
	defer h.mu.Unlock()
	if n := h.count[staged]; n > 1 {
		h.count[staged] = n - 1
		return false, nil
	} else if n == 1 {
		delete(h.count, staged)
		return false, nil
	}
	over = h.over[staged]
	delete(h.over, staged)
	delete(h.named, staged)
	return true, over
}

// takeOver returns the entries of the journal that are over and whose content staged was under the name that it has. It is about to have
// another.
func (t *Tree) takeOver(staged *spool.File) (over []uint64) {
	h := &t.holders
	h.mu.Lock()
	defer h.mu.Unlock()
	if over = h.over[staged]; len(over) > 0 {
		delete(h.over, staged)
		delete(h.named, staged)
	}
	return over
}

// syncStaged returns when a staging file, and its name, are on the disk.
func (t *Tree) syncStaged(staged *spool.File) error {
	t.hook("staging.sync")
	if err := staged.Sync(); err != nil {
		return err
	}
	if !t.holders.isNamed(staged) {
		if err := t.stagingNames.sync(t.options.Staging); err != nil {
			return err
		}
		t.holders.isNamedNow(staged)
	}
	t.hook("staging.synced")
	return nil
}

// namesSync syncs the names in a directory, once for all who ask meanwhile.
type namesSync struct {
	turn turn
	mu   sync.Mutex
	next *syncing
}

type syncing struct {
	done chan struct{}
	err  error
}

func (n *namesSync) sync(dir string) error {
	n.mu.Lock()
	s := n.next
	if s != nil {
		n.mu.Unlock()
		<-s.done
		return s.err
	}
	s = &syncing{done: make(chan struct{})}
	n.next = s
	n.mu.Unlock()
	n.turn <- struct{}{}
	n.mu.Lock()
	n.next = nil // who comes now has made his name perhaps too late for this one
	n.mu.Unlock()
	s.err = syncPath(dir)
	n.turn.give()
	close(s.done)
	return s.err
}

// syncPath returns when what is at path is on the disk: a content, or the names in a directory.
func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return cmp.Or(f.Sync(), f.Close())
}

// makeDir makes dir, and what is missing above it, and returns when their names are on the disk.
func makeDir(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return syncAbove(dir)
}

// syncAbove returns when dir is to be found behind a loss of power: when its name, and those of the directories above it on the same
// file system, are on the disk.
func syncAbove(dir string) error {
	var here, above unix.Stat_t
	if err := unix.Stat(dir, &here); err != nil {
		return err
	}
	for at := filepath.Clean(dir); filepath.Dir(at) != at; at = filepath.Dir(at) {
		if err := unix.Stat(filepath.Dir(at), &above); err != nil || above.Dev != here.Dev {
			return err
		}
		if err := syncPath(filepath.Dir(at)); errors.Is(err, os.ErrPermission) {
			return nil // what may not be read was not made by us either
		} else if err != nil {
			return err
		}
	}
	return nil
}
