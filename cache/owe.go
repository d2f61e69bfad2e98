package cache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"
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
// of its own first (thaw). A debt itself does not change but for tail, once what came before it has arrived.
type debt struct {
	seq    uint64 // of its entry in the journal
	staged *spool.File
	size   int64
	change uint64        // of File.change that it holds
	tail   int64         // from here on it differs from File.base
	delta  int64         // the same of before
	before *debt         // what it replaced, while that may still come to the server; nil if it replaced nothing
	attr   backends.Attr // what programs set
	set    backends.Attr // what is to be set at the server
	info   backends.Info // as programs see it
	began  time.Time     // since when its name is owed something
}

// owing is what a File owes. Guarded by File.mu, but for what is said.
type owing struct {
	sealing turn // held by whoever writes down what is owed, or changes its name; taken after File.turn
	queued  bool // the queue has the file open; guarded by tree.mu

	debt   *debt
	sent   []*debt // whose content may have come to the server, or be on its way there; nobody knows
	paying *debt   // that is being sent
	stop   context.CancelFunc
	frozen int64 // so many bytes of File.staged belong to a debt
	held   error // why it is not sent before a person says so
	tries  int   // since it last moved
	failed error // of the last try
}

// ledger is what a Tree owes.
type ledger struct {
	journal      *journal.Journal // nil if nothing was ever owed and nothing will be
	queue        *queue
	holders      holders
	stagingNames namesSync
	unwritten    []uint64 // entries that are over, of which the journal does not know; guarded by holders.mu
	conflicts    atomic.Int64
	hook         func(string)
}

func newLedger(o Options) *ledger {
	l := &ledger{queue: newQueue(), holders: newHolders(), stagingNames: namesSync{turn: newTurn()}, hook: o.Hook}
	if l.hook == nil {
		l.hook = func(string) {}
	}
	return l
}

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

// onlyAttrs reports whether the file owes a content, and nothing was changed since but attributes.
func (f *File) onlyAttrs() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.owing.debt != nil && f.tail == math.MaxInt64
}

// promise is Publish with commit = "background": it returns when content and entry are on this machine's disk, and the upload
// follows. What is missing of a content that was changed before its end is fetched first.
func (f *File) promise(ctx context.Context) error { return f.promiseAfter(ctx, f.pay) }

func (f *File) promiseAfter(ctx context.Context, pay func(context.Context) error) error {
	for range maxMoves {
		if f.lacksBase() { // what is owed changes it, and must arrive before the rest of it can be fetched
			if err := pay(ctx); err != nil {
				return err
			}
		}
		err := f.promiseOnce(ctx)
		if backends.Errno(err) != syscall.ESTALE || !f.lacksBase() {
			return err
		}
	}
	return f.fault("publish", errChangedWhileRead)
}

// lacksBase reports whether the file owes a content, and a part of what it builds on is needed that is not here.
func (f *File) lacksBase() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := f.owing.debt
	if d == nil || f.staged == nil || !f.unsealedLocked() || len(f.staged.Missing(0, f.staged.Size())) == 0 {
		return false
	}
	return !f.onlyGrew(&job{base: f.base, tail: min(d.tail, f.tail)})
}

func (f *File) promiseOnce(ctx context.Context) error {
	if err := f.owing.sealing.take(ctx); err != nil {
		return err
	}
	defer f.owing.sealing.give()
	d, before, err := f.seal()
	if d == nil {
		return err
	}
	if err := f.writeDown(ctx, d, before); err != nil {
		f.unseal(d)
		return f.fault("publish", err)
	}
	f.enqueue()
	return nil
}

// seal takes the state that is to be owed, and what is owed before it; nil if there is nothing to do.
func (f *File) seal() (d, before *debt, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case !f.unsealedLocked():
		return nil, nil, nil
	case f.stale:
		return nil, nil, fault("publish", f.name, changedElsewhere)
	case f.torn != nil:
		return nil, nil, f.torn
	}
	if err := f.stageLocked(); err != nil { // only attributes may have changed
		return nil, nil, fault("publish", f.name, err)
	}
	d = &debt{staged: f.staged, size: f.staged.Size(), change: f.change, tail: f.tail, delta: f.tail, attr: f.pending, info: f.info, began: time.Now()}
	d.info.Size = d.size
	if before = f.owing.debt; before != nil {
		d.follow(before)
	}
	d.set = f.attrToSet(d.attr)
	if d.set.ModTime == nil { // it may travel hours later
		d.set.ModTime = &d.info.ModTime
	}
	f.tree.share(d.staged)
	f.owing.frozen = d.size
	f.tail, f.pending = math.MaxInt64, backends.Attr{}
	return d, before, nil
}

// follow makes d, which holds what was changed since before, say what it differs in from the server's content.
func (d *debt) follow(before *debt) {
	older := before.attr
	if d.tail < math.MaxInt64 { // written to since, which is newer than the times that were set
		older.ModTime, older.AccTime = nil, nil
	}
	d.attr = merge(older, d.attr)
	d.began = before.began
	d.tail = min(d.tail, before.tail)
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

// unseal takes d back, which could not be written down. Everything is still here, and unpublished.
func (f *File) unseal(d *debt) {
	f.mu.Lock()
	f.tail = min(f.tail, d.delta)
	f.pending = merge(d.attr, f.pending)
	f.mu.Unlock()
	f.tree.warn("removal of a staging file", f.tree.dropStaging(d.staged))
}

// writeDown makes d durable here, in place of before, which may be nil; the caller has the sealing.
func (f *File) writeDown(ctx context.Context, d, before *debt) error {
	if !f.sendsEnd(d) {
		if err := f.fill(ctx, d.staged, 0, d.size); err != nil {
			return err
		}
	}
	if before == nil || before.staged != d.staged || d.delta < math.MaxInt64 {
		if err := f.tree.syncStaged(d.staged); err != nil {
			return err
		}
	}
	change := journal.Change{Add: []journal.Entry{f.record(d)}}
	if before != nil {
		change.Done = []uint64{before.seq}
	}
	if err := f.tree.enter(&change); err != nil {
		return err
	}
	d.seq = change.Add[0].Seq
	f.mu.Lock()
	f.owing.debt = d
	d.forget(func(e *debt) bool { return e == f.owing.paying || slices.Contains(f.owing.sent, e) })
	f.owing.tries, f.owing.failed = 0, nil
	f.mu.Unlock()
	if before != nil {
		f.tree.over(before)
	}
	return nil
}

// sendsEnd reports whether d only adds to what the server has, so that the rest need not be here.
func (f *File) sendsEnd(d *debt) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.onlyGrew(&job{base: f.base, tail: d.tail})
}

// isOver writes down that nothing is owed of d any more, and lets go of its content. Not before may its bytes be changed: should
// the daemon end in between, the next one finds the entry.
func (f *File) isOver(d *debt) {
	if f.tree.end(d.seq) {
		f.letGo(d)
	}
}

// letGo lets go of the content of d, whose entry is over.
func (f *File) letGo(d *debt) {
	f.mu.Lock()
	if f.staged == d.staged && f.owing.debt == nil {
		f.owing.frozen = 0
	}
	f.mu.Unlock()
	f.tree.over(d)
}

// over notes that the entry of d is done, and lets go of its content.
func (t *Tree) over(d *debt) {
	h := &t.holders
	h.mu.Lock()
	h.over[d.staged] = append(h.over[d.staged], d.seq)
	h.mu.Unlock()
	t.warn("removal of a staging file", t.dropStaging(d.staged))
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

// record returns the journal's entry for d.
func (f *File) record(d *debt) journal.Entry {
	f.mu.Lock()
	defer f.mu.Unlock()
	e := journal.Entry{
		Target: journal.Name(f.tree.options.Target), Kind: journal.Put, When: d.began, Name: journal.Name(f.name),
		Staged: filepath.Base(d.staged.Path()), Size: d.size, Missing: missing(d), Tail: d.tail,
		Show: versionOf(d.info), Attr: attrOf(d.attr), Held: f.owing.held != nil,
	}
	if f.base.Known != 0 {
		base := versionOf(f.base)
		e.Base = &base
	}
	for _, s := range f.owing.sent {
		e.Sent = append(e.Sent, journal.Content{Staged: filepath.Base(s.staged.Path()), Size: s.size, Tail: s.tail, Missing: missing(s)})
	}
	return e
}

// missing returns the parts of d that are to be as its base has them, and are not here.
func missing(d *debt) (ranges []journal.Range) {
	for _, r := range d.staged.Missing(0, d.size) {
		ranges = append(ranges, journal.Range(r))
	}
	return ranges
}

// thaw gives the file a staging file of its own before bytes from off on are changed, if they belong to a debt; the caller
// holds mu.
func (f *File) thaw(off int64) error {
	if f.staged == nil || off >= f.owing.frozen {
		return nil
	}
	t := f.tree
	stem, err := t.newNote(f.name)
	if err != nil {
		return err
	}
	own, err := f.staged.Clone(stem + dataSuffix)
	if err != nil {
		return errors.Join(err, os.Remove(stem+noteSuffix))
	}
	f.swapStaging(own)
	return nil
}

// swapStaging makes own the file's staging file; the caller holds mu.
func (f *File) swapStaging(own *spool.File) {
	old := f.staged
	f.staged, f.owing.frozen = own, 0
	if old != nil {
		f.tree.warn("removal of a staging file", f.tree.dropStaging(old))
	}
}

// revert goes back to what the file owes, for what was changed since is given up: a program was told that it did not
// arrive, or could not be told. The caller holds mu.
func (f *File) revert() {
	d := f.owing.debt
	if f.staged == d.staged {
		f.tree.warn("cutting a staging file", d.staged.Truncate(d.size))
	} else {
		f.tree.share(d.staged)
		f.swapStaging(d.staged)
	}
	f.owing.frozen = d.size
	f.change, f.info, f.torn = d.change, d.info, nil
	f.tail, f.pending = math.MaxInt64, backends.Attr{}
	f.version = f.tree.staged.Add(1)
}

// keepUnsealed keeps, for a person to look at, what was changed since the content that the file owes, because of reason.
func (f *File) keepUnsealed(reason error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.owing.debt == nil || !f.unsealedLocked() || f.staged == nil {
		return reason
	}
	kept := filepath.Join(f.tree.options.Quarantine, filepath.Base(f.staged.Path()))
	copied, err := f.staged.Clone(kept)
	if err == nil {
		told := note{Name: f.name, Kept: time.Now(), Reason: reason.Error(), Missing: copied.Missing(0, copied.Size())}
		err = cmp.Or(writeNote(noteOf(kept), told), copied.Sync(), copied.Close())
	}
	f.tree.lastError.Store(&reason)
	f.tree.log.Error("content could not be written down", "name", f.name, "kept", kept, "err", cmp.Or(err, reason))
	return fmt.Errorf("%q is kept as %s: %w", f.name, kept, cmp.Or(err, reason))
}

// enter writes c into the journal, together with ends that could not be written before.
func (t *Tree) enter(c *journal.Change) error {
	t.holders.mu.Lock()
	unwritten := t.unwritten
	t.unwritten = nil
	t.holders.mu.Unlock()
	c.Done = append(c.Done, unwritten...)
	err := t.journal.Write(c)
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

// versionOf and infoOf lead to the journal's words for what a server said, and back.
func versionOf(i backends.Info) journal.Version {
	return journal.Version{
		Mode: uint32(i.Mode), Size: i.Size, ModTime: i.ModTime, AccTime: i.AccTime, Unit: i.TimeUnit,
		UID: i.UID, GID: i.GID, ID: journal.Name(i.ID), Known: uint16(i.Known),
	}
}

func infoOf(name string, v journal.Version) backends.Info {
	return backends.Info{
		Name: lastElement(name), Mode: os.FileMode(v.Mode), Size: v.Size, ModTime: v.ModTime, AccTime: v.AccTime, TimeUnit: v.Unit,
		UID: v.UID, GID: v.GID, ID: string(v.ID), Known: backends.Fields(v.Known),
	}
}

func attrOf(a backends.Attr) journal.Attr {
	j := journal.Attr{UID: a.UID, GID: a.GID, ModTime: a.ModTime, AccTime: a.AccTime}
	if a.Perm != nil {
		j.Perm = new(uint32(*a.Perm))
	}
	return j
}

func setOf(j journal.Attr) backends.Attr {
	a := backends.Attr{UID: j.UID, GID: j.GID, ModTime: j.ModTime, AccTime: j.AccTime}
	if j.Perm != nil {
		a.Perm = new(os.FileMode(*j.Perm))
	}
	return a
}

// inTurn takes the sealings of files, in an order that all callers share; the caller has their turns.
func takeSealings(ctx context.Context, files ...*File) (release func(), err error) {
	files = slices.DeleteFunc(files, func(f *File) bool { return f == nil })
	slices.SortFunc(files, func(a, b *File) int { return cmp.Compare(a.id, b.id) })
	files = slices.Compact(files)
	for i, f := range files {
		if err := f.owing.sealing.take(ctx); err != nil {
			giveSealings(files[:i])
			return nil, err
		}
	}
	return func() { giveSealings(files) }, nil
}

func giveSealings(files []*File) {
	for _, f := range files {
		f.owing.sealing.give()
	}
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

// givenBack goes back to what the file owes, if it owes anything, and reports that.
func (f *File) givenBack() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.owing.debt == nil {
		return false
	}
	if f.unsealedLocked() {
		f.revert()
	}
	return true
}

// closeJournal leaves what is owed to the next daemon. Its error says that there is something.
func (t *Tree) closeJournal() error {
	if t.journal == nil {
		return nil
	}
	var owed error
	if n := t.keepWhatIsOwed(); n > 0 {
		owed = fmt.Errorf("%d files are owed to the server still; they stay in the journal, and are sent when this is mounted again", n)
	}
	return errors.Join(owed, t.journal.Close())
}

// Background reports whether contents are acknowledged when they are durable here.
func (t *Tree) Background() bool { return t.options.Background }
