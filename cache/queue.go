package cache

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"pierfs/cache/journal"
)

// waits takes the file's debt, if it has one, into account.
func (o *Owed) waits(f *File) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if d := f.owing.debt; d != nil && (o.Oldest.IsZero() || d.began.Before(o.Oldest)) {
		o.Oldest = d.began
	}
}

// Due is one thing that is owed, as a person is told of it.
type Due struct {
	Seq     uint64 // of its entry, which says which one is meant
	Kind    string
	Name    string
	Size    int64
	Since   time.Time
	Sending bool
	Tries   int   // since it last moved
	Reason  error // why it is not there yet; nil if it was not tried
	Held    bool  // it is not sent before somebody says so
	Foreign bool  // it is owed to another target than this tree has, and held
	Target  string
}

// Queue returns what is owed, in the order in which it came to be.
func (t *Tree) Queue() []Due {
	if t.journal == nil {
		return nil
	}
	files := map[uint64]*File{}
	for _, f := range t.below("") {
		f.mu.Lock()
		if f.owing.debt != nil {
			files[f.owing.debt.seq] = f
		}
		f.mu.Unlock()
	}
	var all []Due
	for _, e := range t.journal.Owed() {
		d := Due{Seq: e.Seq, Kind: string(e.Kind), Name: string(e.Name), Size: e.Size, Since: e.When, Target: string(e.Target), Held: e.Held}
		if f := files[e.Seq]; f != nil {
			f.tell(&d)
		} else {
			d.Foreign, d.Held = true, true
		}
		all = append(all, d)
	}
	slices.SortFunc(all, func(a, b Due) int { return a.Since.Compare(b.Since) })
	return all
}

// tell completes d with what the file knows.
func (f *File) tell(d *Due) {
	f.mu.Lock()
	defer f.mu.Unlock()
	d.Sending = f.owing.stop != nil
	d.Tries, d.Reason = f.owing.tries, cmp.Or(f.owing.held, f.owing.failed)
	d.Held = f.owing.held != nil
	if d.Reason == nil || isOutage(d.Reason) {
		if outage := f.tree.queue.why(); outage != nil {
			d.Reason = outage
		}
	}
}

func (q *queue) why() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.outage
}

// errNoSuchDue says that nothing of that number is owed any more.
var errNoSuchDue = errors.New("nothing of that number is owed; it may have been sent meanwhile")

// owing returns the file that owes the entry seq.
func (t *Tree) owing(seq uint64) (*File, error) {
	for _, f := range t.below("") {
		f.mu.Lock()
		found := f.owing.debt != nil && f.owing.debt.seq == seq
		f.mu.Unlock()
		if found {
			return f, nil
		}
	}
	return nil, fmt.Errorf("%d: %w", seq, errNoSuchDue)
}

// Hold keeps an entry from being sent until Retry. That is written down.
func (t *Tree) Hold(seq uint64) error {
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

// Drop gives an entry up, after its content was copied to quarantine; it returns where that lies. The name has then what the
// server has.
func (t *Tree) Drop(seq uint64) (kept string, err error) {
	for _, e := range t.journal.Owed() {
		if e.Seq == seq && (string(e.Target) != t.options.Target || e.Kind != journal.Put) {
			return t.dropForeign(e)
		}
	}
	f, err := t.owing(seq)
	if err != nil {
		return "", err
	}
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
		return "", fmt.Errorf("%d: %w", seq, errNoSuchDue)
	}
	kept = f.keepOwed(d, errDropped)
	if _, err := os.Stat(kept); err != nil {
		return "", err
	}
	t.detach(f)
	name, _ := f.Name()
	f.mu.Lock()
	f.published = f.change
	f.mu.Unlock()
	f.forgive()
	t.attrs.Forget(name)
	t.unqueue(f)
	return kept, nil
}

var errDropped = errors.New("dropped by an operator")

// dropForeign gives up an entry that this tree cannot send.
func (t *Tree) dropForeign(e journal.Entry) (kept string, err error) {
	kept = filepath.Join(t.options.Quarantine, e.Staged)
	staged := filepath.Join(t.options.Staging, e.Staged)
	told := note{Name: string(e.Name), Begun: e.When, Kept: time.Now(), Reason: "owed to " + string(e.Target) + ", " + errDropped.Error()}
	err = errors.Join(os.MkdirAll(t.options.Quarantine, 0o700), writeNote(noteOf(kept), told))
	if err == nil && e.Staged != "" {
		err = errors.Join(os.Link(staged, kept), syncDir(t.options.Quarantine))
	}
	if err != nil {
		return "", err
	}
	t.end(e.Seq)
	t.warn("removal of a staging file", removeStaged(t.options.Staging, e.Staged))
	t.journal.Forget(e.Seq)
	return kept, nil
}
