package cache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"pierfs/cache/journal"
)

// ErrOwed says that something that was acknowledged is not at the server. It stays in the journal, and the next daemon sends it.
var ErrOwed = errors.New("not all that was acknowledged has reached the server; the rest is sent when this is mounted again")

// Due is one thing that is owed, as a person is told of it.
type Due struct {
	Seq      uint64 // of its entry, which says which one is meant
	Kind     string // as in package journal: put, mkdir, rename ...
	Name     string
	To       string // the new name of a rename, and what a link leads to
	Size     int64
	Missing  int64 // so much of Size is still to be fetched from what it builds on
	Since    time.Time
	Sending  bool
	Tries    int       // since it last moved
	Next     time.Time // when it is tried again; zero if it is being tried, or is held
	Reason   error     // why it is not there yet; nil if it was not tried
	Held     bool      // it is not sent before somebody says so
	Conflict bool      // it is held because the name is somebody else's by now
	Foreign  bool      // it is owed to another target than this tree has, and held
	Target   string
}

// dueOf is what the journal tells of e.
func dueOf(e journal.Entry) Due {
	d := Due{
		Seq: e.Seq, Kind: string(e.Kind), Name: string(e.Name), To: string(e.To), Size: e.Size, Since: e.When, Target: string(e.Target), Held: e.Held,
	}
	for _, r := range e.Missing {
		d.Missing += r.End - r.Off
	}
	return d
}

// Queue returns what is owed, in the order in which it came to be.
func (t *Tree) Queue() []Due {
	if t.journal == nil {
		return nil
	}
	files, next, outage := t.owingFiles(), t.queue.next(), t.queue.why()
	var all []Due
	for _, e := range t.journal.Owed() {
		d := dueOf(e)
		if f := files[e.Seq]; f != nil {
			f.tell(&d, outage)
			if d.Next = next[f]; !d.Held && !d.Sending && d.Next.IsZero() {
				d.Next = time.Now()
			}
		} else if t.isForeign(e) {
			d.Foreign, d.Held = true, true
		} else if why := t.unread[e.Seq]; why != nil {
			d.Held, d.Reason = true, why
		} else if c := t.changes.find(e.Seq); c != nil {
			t.changes.describe(c, &d)
		}
		all = append(all, d)
	}
	slices.SortStableFunc(all, func(a, b Due) int { return a.Since.Compare(b.Since) })
	return all
}

// isForeign reports whether e is owed to another target than this tree has.
func (t *Tree) isForeign(e journal.Entry) bool { return string(e.Target) != t.options.Target }

// owingFiles returns the files that owe something, by its entry.
func (t *Tree) owingFiles() map[uint64]*File {
	files := map[uint64]*File{}
	for _, f := range t.below("") {
		f.mu.Lock()
		if f.owing.debt != nil {
			files[f.owing.debt.seq] = f
		}
		f.mu.Unlock()
	}
	return files
}

// tell completes d with what the file knows, and with why nothing at all is sent now, if that is so.
func (f *File) tell(d *Due, outage error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	d.Sending = f.owing.stop != nil
	d.Tries, d.Reason = f.owing.tries, cmp.Or(f.owing.held, f.owing.failed)
	d.Held, d.Conflict = f.owing.held != nil, isClash(f.owing.held)
	if outage != nil && (d.Reason == nil || isOutage(d.Reason)) {
		d.Reason = outage
	}
}

func (q *queue) why() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.outage
}

// next returns when Files are tried again that are not tried now.
func (q *queue) next() map[*File]time.Time {
	q.mu.Lock()
	defer q.mu.Unlock()
	next := map[*File]time.Time{}
	for _, w := range q.waiting {
		next[w.file] = w.at
	}
	if q.pause > 0 {
		for f := range q.known {
			if next[f].Before(q.until) {
				next[f] = q.until
			}
		}
	}
	return next
}

// count adds what is owed beside the changes of open files.
func (o *Owed) count(t *Tree) {
	if t.journal == nil {
		return
	}
	o.Outage = cmp.Or(t.queue.why(), t.changes.why())
	files := t.owingFiles()
	for _, e := range t.journal.Owed() {
		if o.Oldest.IsZero() || e.When.Before(o.Oldest) {
			o.Oldest = e.When
		}
		if f := files[e.Seq]; f != nil {
			if f.isHeld() {
				o.Held++
			}
			continue
		}
		c := t.changes.find(e.Seq)
		if c == nil && !t.isForeign(e) && t.unread[e.Seq] == nil {
			continue // it has just been sent, or written down anew
		}
		o.Files++
		o.Bytes += e.Size
		if c == nil || t.changes.isHeld(c) {
			o.Held++
		}
	}
}

// Drain returns nil when nothing is owed, and an error that is ErrOwed if ctx ends before, or if what is left is held back.
func (t *Tree) Drain(ctx context.Context) error {
	t.emptied(ctx, func() bool { return false })
	return t.stillOwed()
}

// stillOwed returns ErrOwed if something is owed.
func (t *Tree) stillOwed() error {
	if t.journal == nil || t.journal.Len() == 0 {
		return nil
	}
	return fmt.Errorf("%d changes are owed: %w", t.journal.Len(), ErrOwed)
}

// errNoSuchDue says that nothing of that number is owed any more.
var errNoSuchDue = errors.New("nothing of that number is owed; it may have been sent meanwhile")

func noSuchDue(seq uint64) error { return fmt.Errorf("%d: %w", seq, errNoSuchDue) }

// owing returns the file that owes the entry seq.
func (t *Tree) owing(seq uint64) (*File, error) {
	if f := t.owingFiles()[seq]; f != nil {
		return f, nil
	}
	return nil, noSuchDue(seq)
}

// Hold keeps an entry from being sent until Retry. That is written down.
func (t *Tree) Hold(seq uint64) error {
	if c := t.changes.find(seq); c != nil {
		err := t.enter(&journal.Change{Hold: []uint64{seq}})
		if err == nil {
			t.changes.change(func() { c.held = errHeld })
		}
		return err
	}
	f, err := t.owing(seq)
	if err != nil {
		return err
	}
	if err := t.enter(&journal.Change{Hold: []uint64{seq}}); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.owing.held = errHeld
	return nil
}

// Retry has an entry tried now, also one that is held.
func (t *Tree) Retry(seq uint64) error {
	if c := t.changes.find(seq); c != nil {
		err := t.enter(&journal.Change{Release: []uint64{seq}})
		if err == nil {
			t.changes.change(func() { c.held, c.tries, c.next = nil, 0, time.Time{} })
			t.Wake()
		}
		return err
	}
	f, err := t.owing(seq)
	if err != nil {
		return err
	}
	if err := t.enter(&journal.Change{Release: []uint64{seq}}); err != nil {
		return err
	}
	f.mu.Lock()
	f.owing.held, f.owing.tries = nil, 0
	f.mu.Unlock()
	f.enqueue()
	t.Wake()
	return nil
}

// OpenDue opens the content of an entry, as it is owed. It stays readable when it was sent meanwhile. One that is not all here is an
// error.
func (t *Tree) OpenDue(seq uint64) (io.ReadCloser, Due, error) {
	if t.journal == nil {
		return nil, Due{}, noSuchDue(seq)
	}
	e, ok := t.journal.Entry(seq)
	if !ok {
		return nil, Due{}, noSuchDue(seq)
	}
	return openDue(t.options.Staging, e)
}

// errNoContent and errNotAllHere say why there is nothing to read.
var (
	errNoContent  = errors.New("it has no content")
	errNotAllHere = errors.New("a part of it is not here, but in the file on the server that it changes")
)

// openDue opens the content of e, which lies in the directory staging.
func openDue(staging string, e journal.Entry) (io.ReadCloser, Due, error) {
	due := dueOf(e)
	switch {
	case e.Staged == "" || filepath.Base(e.Staged) != e.Staged:
		return nil, due, fmt.Errorf("%d: %w", e.Seq, errNoContent)
	case due.Missing > 0:
		return nil, due, fmt.Errorf("%d: %w", e.Seq, errNotAllHere)
	}
	disk, err := os.Open(filepath.Join(staging, e.Staged))
	if errors.Is(err, os.ErrNotExist) {
		return nil, due, noSuchDue(e.Seq)
	}
	if err != nil {
		return nil, due, err
	}
	return content{io.LimitReader(disk, e.Size), disk}, due, nil
}

type content struct {
	io.Reader
	io.Closer
}

// Drop gives an entry up. With backup its content is copied to quarantine before, and kept is where it lies. The name has then what
// the server has.
func (t *Tree) Drop(seq uint64, backup bool) (kept string, err error) {
	if t.journal == nil {
		return "", noSuchDue(seq)
	}
	if e, ok := t.journal.Entry(seq); ok && (t.isForeign(e) || t.unread[seq] != nil) {
		kept, err := dropEntry(t.options.Staging, t.options.Quarantine, e, backup)
		if err != nil || !t.end(seq) {
			return "", cmp.Or(err, error(syscall.EIO))
		}
		t.warn("removal of a staging file", removeStaged(t.options.Staging, e.Staged))
		t.journal.Forget(seq)
		return kept, nil
	}
	if c := t.changes.find(seq); c != nil {
		return "", t.dropChange(c)
	}
	f, err := t.owing(seq)
	if err != nil {
		return "", err
	}
	return f.drop(seq, backup)
}

// dropChange gives up a change of names. What is known of them is then what the server says.
func (t *Tree) dropChange(c *change) error {
	if !t.end(c.e.Seq) {
		return errUnwritten
	}
	t.journal.Forget(c.e.Seq)
	t.changes.remove(c)
	t.attrs.Unstamp(c.e.Seq)
	for _, name := range c.names() {
		t.attrs.ForgetBelow(name)
	}
	t.queue.unpark()
	return nil
}

// drop gives up what the file owes, which is the entry seq.
func (f *File) drop(seq uint64, backup bool) (kept string, err error) {
	t := f.tree
	f.stopSending()
	if err := f.turn.take(t.ctx); err != nil {
		return "", err
	}
	defer f.turn.give()
	if err := f.owing.sealing.take(t.ctx); err != nil {
		return "", err
	}
	defer f.owing.sealing.give()
	f.mu.Lock()
	d := f.owing.debt
	f.mu.Unlock()
	if d == nil || d.seq != seq {
		return "", noSuchDue(seq)
	}
	if backup {
		if kept, err = f.keepOwed(d, errDropped); err != nil {
			return "", err
		}
	}
	if !t.end(seq) { // before another content may come to be owed to the name
		return "", errUnwritten
	}
	t.detach(f)
	name, _ := f.Name()
	f.mu.Lock()
	if f.change == d.change { // else whoever has written on is told that it has no place any more
		f.published = f.change
	}
	f.mu.Unlock()
	f.forgiveOver()
	t.attrs.Forget(name)
	t.unqueue(f)
	return kept, nil
}

var errDropped = errors.New("dropped by an operator")

// dropEntry is what comes before the end of an entry that no tree sends: with backup its content gets a second name in quarantine.
func dropEntry(staging, quarantine string, e journal.Entry, backup bool) (kept string, err error) {
	if !backup {
		return "", nil
	}
	return keepEntry(staging, quarantine, e, fmt.Errorf("owed to %s, %w", e.Target, errDropped))
}

// keepEntry gives the content of an entry that is not sent any more a second name in quarantine, and returns it; "" if it has none.
func keepEntry(staging, quarantine string, e journal.Entry, reason error) (kept string, err error) {
	return intoQuarantine(staging, quarantine, e, reason, os.Link)
}

// copyEntry puts a copy of all that the staging file of an entry holds into quarantine.
func copyEntry(staging, quarantine string, e journal.Entry, reason error) (kept string, err error) {
	return intoQuarantine(staging, quarantine, e, reason, copyFile)
}

func intoQuarantine(staging, quarantine string, e journal.Entry, reason error, bring func(from, to string) error) (kept string, err error) {
	if e.Staged == "" || filepath.Base(e.Staged) != e.Staged {
		return "", nil
	}
	staged := filepath.Join(staging, e.Staged)
	if kept = filepath.Join(quarantine, e.Staged); isOneFile(staged, kept) { // it was kept before, and the daemon died behind that
		return kept, syncPath(quarantine)
	}
	kept = keptAs(quarantine, e.Staged)
	told := note{Name: string(e.Name), Begun: e.When, Kept: time.Now(), Reason: reason.Error()}
	for _, r := range e.Missing {
		told.Missing = append(told.Missing, rangeOf(r))
	}
	if err = makeDir(quarantine); err == nil {
		err = keepNote(noteOf(kept), told)
	}
	if err == nil {
		err = bring(staged, kept)
	}
	if err != nil {
		_ = os.Remove(noteOf(kept)) // the next attempt makes it anew
		return "", err
	}
	return kept, syncPath(quarantine)
}

// isOneFile reports whether a and b are names of one file.
func isOneFile(a, b string) bool {
	first, err := os.Stat(a)
	second, other := os.Stat(b)
	return err == nil && other == nil && os.SameFile(first, second)
}

// copyFile makes to, which is not there, a durable copy of from.
func copyFile(from, to string) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	disk, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(disk, source)
	err = errors.Join(err, disk.Sync(), disk.Close())
	if err != nil {
		err = errors.Join(err, os.Remove(to))
	}
	return err
}
