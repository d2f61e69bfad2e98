package cache

import (
	"cmp"
	"os"
	"sync"

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
	s.err = syncDir(dir)
	n.turn.give()
	close(s.done)
	return s.err
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return cmp.Or(d.Sync(), d.Close())
}
