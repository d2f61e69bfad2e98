package cache

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"pierfs/cache/spool"
)

// Every staging file has a note beside it, so that a person who finds it in quarantine knows what it is.
const (
	dataSuffix = ".data"
	noteSuffix = ".json"
)

// note says what a kept content is.
type note struct {
	Name   string    `json:"name"` // under which it was to be published
	Begun  time.Time `json:"begun,omitzero"`
	Kept   time.Time `json:"kept,omitzero"` // when it was put into quarantine
	Reason string    `json:"reason,omitempty"`

	// Missing are the parts that were to stay as they are on the server, and were not fetched: they are zeros here.
	Missing []spool.Range `json:"missing,omitempty"`
}

// newStaging makes a staging file for name, the image of a base of size bytes.
func (t *Tree) newStaging(name string, size int64) (*spool.File, error) {
	stem, err := t.newNote(name)
	if err != nil {
		return nil, err
	}
	staged, err := spool.Create(stem+dataSuffix, size)
	if err != nil {
		return nil, errors.Join(err, os.Remove(stem+noteSuffix))
	}
	return staged.Within(t.room), nil
}

// newNote writes the note of a new staging file, and returns what the paths of both begin with.
func (t *Tree) newNote(name string) (stem string, err error) {
	stem = filepath.Join(t.options.Staging, fmt.Sprintf("%d-%d", time.Now().UnixNano(), t.staged.Add(1)))
	return stem, writeNote(stem+noteSuffix, note{Name: name, Begun: time.Now()})
}

// dropStaging lets go of a staging file, and removes it if nobody else holds it.
func (t *Tree) dropStaging(staged *spool.File) error {
	last, over := t.unshare(staged)
	if !last {
		return nil
	}
	err := errors.Join(staged.Remove(), os.Remove(noteOf(staged.Path())))
	if err == nil && len(over) > 0 {
		t.journal.Forget(over...)
	}
	return err
}

// quarantine keeps the file's unpublished content for a person to look at, because of reason, and returns the error
// that tells where. The file itself is left without content to publish.
func (f *File) quarantine(reason error) error {
	f.mu.Lock()
	staged, name := f.staged, f.name
	f.staged, f.published = nil, f.change
	f.mu.Unlock()
	if staged == nil {
		return reason
	}
	t := f.tree
	kept := keptAs(t.options.Quarantine, filepath.Base(staged.Path()))
	told := note{Name: name, Kept: time.Now(), Reason: reason.Error(), Missing: staged.Missing(0, staged.Size())}
	err := makeDir(t.options.Quarantine) // whoever emptied it may have taken it away
	if err == nil {
		err = errors.Join(keepNote(noteOf(kept), told), staged.Keep(kept), syncPath(t.options.Quarantine))
	}
	if err == nil {
		err = os.Remove(noteOf(staged.Path()))
	}
	err = errors.Join(fmt.Errorf("%q is kept as %s: %w", name, kept, reason), err)
	t.lastError.Store(&err)
	t.log.Error("content could not be published", "name", name, "kept", kept, "err", reason)
	return err
}

// recoverStaging makes the directories and moves what a former daemon left in staging into quarantine.
func (t *Tree) recoverStaging() error {
	for _, dir := range []string{t.options.Staging, t.options.Quarantine} {
		if err := makeDir(dir); err != nil {
			return err
		}
	}
	var err error
	if t.litter, err = readLitter(t.options.Staging); err != nil {
		return err
	}
	owed, err := t.openJournal()
	if err != nil {
		return err
	}
	left, err := os.ReadDir(t.options.Staging)
	if err != nil {
		return err
	}
	stems := map[string]string{} // in quarantine, by those here
	for _, entry := range left {
		if name := entry.Name(); name == litterFile || name == takenFile || isOwed(name, owed) {
			continue
		}
		path := filepath.Join(t.options.Staging, entry.Name())
		if strings.HasSuffix(path, dataSuffix) && spool.WasSent(path) { // the server has it
			if err := removeStaged(t.options.Staging, entry.Name()); err != nil {
				return err
			}
			continue
		}
		stem, suffix := stemOf(entry.Name())
		if stems[stem] == "" {
			stems[stem] = freeStem(t.options.Quarantine, stem)
		}
		err := os.Rename(path, stems[stem]+suffix)
		if err != nil && !errors.Is(err, os.ErrNotExist) { // the note of what was removed has gone with it
			return err
		}
	}
	return nil
}

// keptAs returns where in quarantine what the staging directory has as name is kept. What was kept of it before stays: a staging file that
// outlives a daemon may have been changed since.
func keptAs(quarantine, name string) string {
	stem, suffix := stemOf(name)
	return freeStem(quarantine, stem) + suffix
}

// stemOf parts name from the suffix that tells a content from its note.
func stemOf(name string) (stem, suffix string) {
	for _, suffix := range []string{dataSuffix, noteSuffix} {
		if stem, ok := strings.CutSuffix(name, suffix); ok {
			return stem, suffix
		}
	}
	return name, ""
}

// freeStem returns a path in dir, beginning with stem, that no file has, nor a content or a note.
func freeStem(dir, stem string) string {
	path := filepath.Join(dir, stem)
	for n := 2; isThere(path) || isThere(path+dataSuffix) || isThere(path+noteSuffix); n++ {
		path = filepath.Join(dir, fmt.Sprintf("%s-%d", stem, n))
	}
	return path
}

// isThere reports whether something is at path. Where nobody can tell, whoever writes there is told why.
func isThere(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// quarantined counts what lies in quarantine now: a person who has looked at it takes it away.
func (t *Tree) quarantined() (n int) {
	kept, err := os.ReadDir(t.options.Quarantine)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.log.Warn("quarantine cannot be read", "dir", t.options.Quarantine, "err", err)
	}
	for _, entry := range kept {
		if strings.HasSuffix(entry.Name(), dataSuffix) {
			n++
		}
	}
	return n
}

func noteOf(data string) string { return data[:len(data)-len(dataSuffix)] + noteSuffix }

func writeNote(path string, n note) error {
	text, err := json.Marshal(n)
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o600)
}

// keepNote is writeNote that returns when the note is on the disk.
func keepNote(path string, n note) error { return errors.Join(writeNote(path, n), syncPath(path)) }
