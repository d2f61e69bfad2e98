package cache

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"pierfs/backends"
	"pierfs/cache/journal"
	"pierfs/cache/spool"
)

// journalFile is the name of the journal in the staging directory.
const journalFile = "journal"

// openJournal opens the list of what is owed, and removes contents whose entries are over. It returns the names of staging files
// that are owed, which must stay where they are.
func (t *Tree) openJournal() (owed map[string]bool, err error) {
	path := filepath.Join(t.options.Staging, journalFile)
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		if !t.options.Background {
			return nil, nil // nothing was ever owed here
		}
		if err := syncAbove(t.options.Staging); err != nil { // once, before anything is acknowledged that lies there
			return nil, err
		}
	}
	j, found, err := journal.Open(path, journal.Options{Hook: t.options.Hook, Reserve: t.journalKeeps()})
	if err != nil {
		return nil, err
	}
	t.journal = j
	if found.Torn > 0 {
		t.log.Warn("the end of the journal was torn off by a crash; nothing of it was acknowledged", "bytes", found.Torn)
	}
	if len(found.Damaged) > 0 {
		kept := keptAs(t.options.Quarantine, filepath.Base(found.Kept)) // where recoverStaging brings it
		err := fmt.Errorf("%d records of the journal are damaged; it is kept as %s, and their contents beside it", len(found.Damaged), kept)
		t.lastError.Store(&err)
		t.log.Error("the journal is damaged", "records", len(found.Damaged), "kept", kept)
	}
	owed = map[string]bool{}
	for _, e := range j.Owed() {
		owed[e.Staged] = true
		for _, s := range e.Sent {
			owed[s.Staged] = true
		}
	}
	paid := map[string]journal.Entry{}
	for _, e := range j.Over() { // the oldest first
		e.Size = max(e.Size, paid[e.Staged].Size)
		paid[e.Staged] = e
	}
	for _, e := range j.Over() {
		if !owed[e.Staged] && !t.wasWrittenOn(paid[e.Staged]) {
			t.warn("removal of a staging file", removeStaged(t.options.Staging, e.Staged))
		}
		j.Forget(e.Seq)
	}
	return owed, nil
}

// wasWrittenOn reports whether a program has written on in the staging file of e, which the server has: that was never promised, and is
// kept. It has become longer, or the kernel wrote to it and we have not looked since; who changes it through us gives it another name.
func (t *Tree) wasWrittenOn(e journal.Entry) bool {
	path := filepath.Join(t.options.Staging, filepath.Base(e.Staged))
	info, err := os.Stat(path)
	return err == nil && !spool.WasSent(path) && (info.Size() > e.Size || e.Ridden && !spool.WasMarked(path))
}

// removeStaged removes a staging file and its note, as far as they are there.
func removeStaged(dir, name string) error {
	if !strings.HasSuffix(name, dataSuffix) || filepath.Base(name) != name {
		return nil
	}
	for _, path := range []string{filepath.Join(dir, name), noteOf(filepath.Join(dir, name))} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// isOwed reports whether a file of the staging directory belongs to something that is owed.
func isOwed(name string, owed map[string]bool) bool {
	return name == journalFile || owed[name] || owed[strings.TrimSuffix(name, noteSuffix)+dataSuffix]
}

// resume takes over what a former daemon owed: its files are there as if their programs had just closed them. What is owed to
// another target stays in the journal.
func (t *Tree) resume() {
	if t.journal == nil {
		return
	}
	t.resumeChanges()
	newest := map[journal.Name]uint64{}
	for _, e := range t.journal.Owed() {
		switch {
		case t.isForeign(e):
			t.log.Error("what is owed to another target is held", "name", e.Name, "target", e.Target, "kind", e.Kind)
		case e.Kind == journal.Put:
			newest[e.Name] = e.Seq
		}
	}
	for _, e := range t.journal.Owed() {
		if t.isForeign(e) || e.Kind != journal.Put {
			continue
		}
		err := errReplaced
		if e.Seq == newest[e.Name] {
			err = t.resumeFile(e)
		}
		if err != nil {
			t.notResumed(e, err)
		}
	}
}

// errReplaced is why a content is not owed any more that another one followed under its name: the daemon died before it had noted that.
var errReplaced = errors.New("a newer content of that name is owed")

// notResumed tells that e cannot be taken over because of err. What may be had later is held, and what is only not owed any more is kept.
func (t *Tree) notResumed(e journal.Entry, err error) {
	gone := errors.Is(err, os.ErrNotExist)
	switch {
	case err == errReplaced:
		_, kept := keepEntry(t.options.Staging, t.options.Quarantine, e, err)
		gone = kept == nil
		err = errors.Join(err, kept)
	case !gone:
		t.unread[e.Seq] = err
	}
	err = fmt.Errorf("content that is owed to %q: %w", e.Name, err)
	t.lastError.Store(&err)
	t.log.Error("owed content cannot be sent", "name", e.Name, "staged", e.Staged, "err", err)
	if gone && t.end(e.Seq) {
		t.warn("removal of a staging file", removeStaged(t.options.Staging, e.Staged))
		t.journal.Forget(e.Seq)
	}
}

// resumeChanges takes over the changes of names that a former daemon owed. Contents bear the names that these lead to.
func (t *Tree) resumeChanges() {
	for _, e := range t.journal.Owed() {
		if t.isForeign(e) || e.Kind == journal.Put {
			continue
		}
		c := &change{e: e}
		if e.Held {
			c.held = errHeld
		}
		if !t.attrs.Stamped(e.Seq) {
			t.show(e)
			t.shown(c)
		}
		t.changes.add(c)
		if e.Kind == journal.Rename { // which that one may have made, or was about to note
			t.foreseeMove(string(e.Name), string(e.To))
		}
	}
}

// resumeFile makes the File that owes e.
func (t *Tree) resumeFile(e journal.Entry) error {
	name := string(e.Name)
	if err := backends.CheckName("open", name); err != nil {
		return err
	}
	if err := t.keepUnsealedEnd(e); err != nil {
		return err
	}
	staged, err := t.reopen(e.Staged, e.Size, e.Missing)
	if err != nil {
		return err
	}
	t.holders.isNamedNow(staged)
	f := newFile(t, name, infoOf(name, e.Show))
	if e.Base != nil {
		f.base = infoOf(name, *e.Base)
	}
	d := &debt{seq: e.Seq, staged: staged, size: e.Size, missing: e.Missing, change: 1, tail: e.Tail, placed: !e.Appended, delta: e.Tail, attr: setOf(e.Attr), info: f.info, began: e.When}
	f.staged, f.change = staged, 1
	d.set = f.attrToSet(d.attr)
	if d.set.ModTime == nil {
		d.set.ModTime = &d.info.ModTime
	}
	t.share(staged) // the debt's
	f.owing.debt, f.owing.frozen = d, e.Size
	if e.Ridden && staged.Shared() { // by a program that has outlived the daemon
		if err := staged.Watch(); err != nil {
			return errors.Join(err, staged.Close())
		}
		f.riding.on, f.riding.mappable = staged, true
	}
	for _, s := range e.Sent {
		if err := f.resumeSent(e, s); err != nil {
			return errors.Join(err, staged.Close())
		}
	}
	if e.Begun {
		t.share(staged)
		f.owing.sent = append(f.owing.sent, d)
	}
	f.owing.into = e.Into
	if e.Held {
		f.owing.held = errHeld
	}
	t.mu.Lock()
	taken := t.files[name] != nil
	if !taken {
		t.files[name] = f
	}
	t.mu.Unlock()
	if taken {
		return errors.Join(fmt.Errorf("%q is owed twice", name), staged.Close())
	}
	f.enqueue()
	return nil
}

// keepUnsealedEnd keeps, for a person to look at, what a program had written behind the content e and nobody had promised yet.
func (t *Tree) keepUnsealedEnd(e journal.Entry) error {
	info, err := os.Stat(filepath.Join(t.options.Staging, filepath.Base(e.Staged)))
	if err != nil || info.Size() <= e.Size {
		return err
	}
	kept, err := copyEntry(t.options.Staging, t.options.Quarantine, e, errors.New("it was being written when the daemon ended"))
	if err == nil {
		t.log.Warn("what was written to a file and not closed when the daemon ended is kept", "name", e.Name, "kept", kept)
	}
	return err
}

// resumeSent takes over a content that the former daemon may have sent before the one that is owed.
func (f *File) resumeSent(e journal.Entry, s journal.Content) error {
	if s.Staged == e.Staged {
		f.tree.share(f.staged)
		f.owing.sent = append(f.owing.sent, &debt{staged: f.staged, size: s.Size, tail: s.Tail, missing: s.Missing})
		return nil
	}
	staged, err := f.tree.reopen(s.Staged, s.Size, s.Missing)
	if errors.Is(err, os.ErrNotExist) {
		return nil // it was removed after it had arrived, or never was sent
	}
	if err != nil {
		return err
	}
	f.owing.sent = append(f.owing.sent, &debt{staged: staged, size: s.Size, tail: s.Tail, missing: s.Missing})
	return nil
}

func (t *Tree) reopen(name string, size int64, missing []journal.Range) (*spool.File, error) {
	if !strings.HasSuffix(name, dataSuffix) || filepath.Base(name) != name {
		return nil, fmt.Errorf("%q is no staging file", name)
	}
	var ranges []spool.Range
	for _, r := range missing {
		ranges = append(ranges, rangeOf(r))
	}
	staged, err := spool.Reopen(filepath.Join(t.options.Staging, name), size, ranges)
	if err != nil {
		return nil, err
	}
	return staged.Within(t.room), nil
}

// keepWhatIsOwed ends the Tree's use of contents that are owed, and leaves them to the next daemon.
func (t *Tree) keepWhatIsOwed() {
	for _, f := range t.below("") {
		f.mu.Lock()
		d := f.owing.debt
		if d != nil {
			t.warn("closing a staging file", d.staged.Close())
			if f.staged == d.staged {
				f.staged = nil
			}
		}
		f.mu.Unlock()
	}
}

// errHeld is why something is not sent that a person holds back.
var errHeld = errors.New("held by an operator")
