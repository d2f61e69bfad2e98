package cache

import (
	"context"
	"errors"
	"math"
	"sync/atomic"
	"syscall"
	"time"

	"pierfs/backends"
	"pierfs/cache/journal"
	"pierfs/cache/spool"
)

// debt is a content that was acknowledged when it was durable on this machine (commit = "background"), and that the server does
// not have yet. A File owes one at most: the newest, which replaces what it owed before.
//
// The content is the first size bytes of staged, which nobody changes any more: who writes there gives his File a staging file
// of its own first (thaw). A debt itself does not change but for tail and placed, once what came before it has arrived or it is to
// replace something else.
type debt struct {
	seq    uint64 // of its entry in the journal
	staged *spool.File
	size   int64
	change uint64        // of File.change that it holds
	tail   int64         // from here on it differs from File.base
	placed bool          // something of it was written to a place that a program chose, and not appended to File.base
	delta  int64         // from here on it differs from before
	before *debt         // what it replaced, while that may still come to the server; nil if it replaced nothing
	attr   backends.Attr // what programs set
	set    backends.Attr // what is to be set at the server
	info   backends.Info // as programs see it
	began  time.Time     // since when its name is owed something
	left   remains       // of attempts to send it

	// altered says that a program has written past us to staged since, perhaps over what was promised.
	altered bool

	// missing are the parts that were not here when staged was last synced. More may be here by now, which a loss of power would
	// take away.
	missing []journal.Range
}

// owing is what a File owes. Guarded by File.mu, but for what is said.
type owing struct {
	sealing turn // held by whoever writes down what is owed, or changes its name; taken after File.turn
	thawing turn // held by whoever copies what is frozen, to change it; taken last
	queued  bool // the queue has the file open; guarded by tree.mu

	debt   *debt
	sent   []*debt // whose content may have come to the server, or be on its way there; nobody knows
	into   bool    // that is written to the name itself, which may hold a part of it
	paying *debt   // that is being sent
	stop   context.CancelFunc
	frozen int64 // so many bytes of File.staged belong to a debt
	lasts  bool  // they have since thaw began to copy them
	held   error // why it is not sent before a person says so
	tries  int   // since it last moved
	failed error // of the last try
}

// ledger is what a Tree owes.
type ledger struct {
	journal      *journal.Journal // nil if nothing was ever owed and nothing will be
	queue        *queue
	changes      *changes
	holders      holders
	stagingNames namesSync
	unread       map[uint64]error // entries of a former daemon whose content cannot be read now, and why; not changed after New
	unwritten    []uint64         // entries that are over, of which the journal does not know; guarded by holders.mu
	conflicts    atomic.Int64
	room         *spool.Room // that staging files take; nil for no bound
	hook         func(string)
}

func newLedger(o Options) *ledger {
	l := &ledger{unread: map[uint64]error{}, queue: newQueue(), changes: newChanges(), holders: newHolders(), stagingNames: namesSync{turn: newTurn()}, room: spool.NewRoom(o.StagingLimit), hook: o.Hook}
	if l.hook == nil {
		l.hook = func(string) {}
	}
	return l
}

// Background reports whether contents are acknowledged when they are durable here.
func (t *Tree) Background() bool { return t.options.Background }

// owes reports whether the file owes a content that it acknowledged.
func (f *File) owes() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.owing.debt != nil
}

// unsealedLocked reports whether the file has changes that are neither at the server nor written down as owed; the caller holds mu.
func (f *File) unsealedLocked() bool {
	return f.dirtyLocked() && (f.owing.debt == nil || f.owing.debt.change != f.change)
}

// onlyAttrs reports whether the file owes a content, or did a moment ago, and nothing was changed since but attributes.
func (f *File) onlyAttrs() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	owed := f.owing.debt != nil || f.tree.options.Background && f.published > 0 && f.dirtyLocked()
	return owed && f.tail == math.MaxInt64
}

// follow makes d, which holds what was changed since before, say what it differs in from the server's content.
func (d *debt) follow(before *debt) {
	older := before.attr
	if d.tail < math.MaxInt64 { // written to since, which is newer than the times that were set
		older.ModTime, older.AccTime = nil, nil
	}
	d.attr = merge(older, d.attr)
	d.began = before.began
	d.tail, d.placed = min(d.tail, before.tail), d.placed || before.placed
	d.before = before
}

// since returns from where on d differs from earlier, which the server has now; 0 if that is not known.
func (d *debt) since(earlier *debt) int64 {
	tail := int64(math.MaxInt64)
	for at := d; at != nil; at = at.before {
		if at == earlier {
			return tail
		}
		tail = min(tail, at.delta)
	}
	return 0
}

// forget takes out of d's past what was never sent and never will be.
func (d *debt) forget(sent func(*debt) bool) {
	for d.before != nil && !sent(d.before) {
		d.delta = min(d.delta, d.before.delta)
		d.before = d.before.before
	}
}

// letGo lets go of the content of d, whose entry is over.
func (f *File) letGo(d *debt) {
	f.tree.isDone(d)
	f.mu.Lock()
	if f.staged == d.staged && f.owing.debt == nil {
		f.unfreeze()
	}
	f.mu.Unlock()
	f.tree.drop(d)
}

// over notes that the entry of d is done, and lets go of its content.
func (t *Tree) over(d *debt) {
	t.isDone(d)
	t.drop(d)
}

// isDone notes that the entry of d is done, and that the journal tells of it as long as its staging file is there by that name.
func (t *Tree) isDone(d *debt) {
	h := &t.holders
	h.mu.Lock()
	defer h.mu.Unlock()
	h.over[d.staged] = append(h.over[d.staged], d.seq)
}

// drop lets go of the content of d, whose entry is done.
func (t *Tree) drop(d *debt) {
	t.dropLeft(d.left.Swap(nil))
	t.warn("removal of a staging file", t.dropStaging(d.staged))
	t.changes.unpark()
}

// enter writes c into the journal, together with ends that could not be written before.
func (t *Tree) enter(c *journal.Change) error {
	t.holders.mu.Lock()
	unwritten := t.unwritten
	t.unwritten = nil
	t.holders.mu.Unlock()
	c.Done = append(c.Done, unwritten...)
	err := t.journal.Write(c)
	if errors.Is(err, journal.ErrFull) {
		err = errors.Join(syscall.ENOSPC, err)
	}
	if err != nil && len(unwritten) > 0 {
		t.holders.mu.Lock()
		t.unwritten = append(t.unwritten, unwritten...)
		t.holders.mu.Unlock()
	}
	return err
}

// end writes down that entries are done, and reports whether that is on the disk. If it is not, the next change says so too; should
// the daemon end before, the next one finds the content at the server.
func (t *Tree) end(seqs ...uint64) bool {
	if err := t.enter(&journal.Change{Done: seqs}); err != nil {
		t.log.Error("the journal cannot be written; what was sent stays in it for now", "err", err)
		t.holders.mu.Lock()
		t.unwritten = append(t.unwritten, seqs...)
		t.holders.mu.Unlock()
		return false
	}
	return true
}

// leaveOwing ends an Open of a program, the last, of a file that the queue has open as well. It is not ended while something was
// changed that is not written down, unless that is given up. The caller holds tree.mu and mu.
func (f *File) leaveOwing(giveUp bool) leaving {
	switch {
	case f.gone, !f.unsealedLocked():
	case !giveUp:
		return notLeft
	default:
		f.revert()
	}
	f.opens--
	return left
}

// unqueueLocked ends the queue's hold of a file that owes nothing any more, if somebody else has it open too; the caller holds
// tree.mu and mu.
func (f *File) unqueueLocked() {
	if f.owing.queued && f.owing.debt == nil && f.opens > 1 {
		f.owing.queued = false
		f.opens--
	}
}

// givenBack goes back to what the file owes, if it owes anything, and reports that. As long as the kernel writes for a program that cannot
// be done, and is with the last Close.
func (f *File) givenBack() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.owing.debt == nil {
		return false
	}
	if f.unsealedLocked() && f.riding.writers == 0 {
		f.revert()
	}
	return true
}

// closeJournal leaves what is owed to the next daemon. Its error says that there is something.
func (t *Tree) closeJournal() error {
	if t.journal == nil {
		return nil
	}
	t.keepWhatIsOwed()
	return errors.Join(t.stillOwed(), t.journal.Close())
}
