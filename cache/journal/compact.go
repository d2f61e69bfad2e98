package journal

import (
	"errors"
	"os"
	"path/filepath"
)

// compactFrom is the size from which a file is worth being rewritten.
const compactFrom = 1 << 20

// compactIfDue rewrites the file if it has become twice as large as it was when it was begun; the caller holds disk. That it
// fails costs nothing but room: the file that is there stays in use.
func (j *Journal) compactIfDue() {
	if j.size < compactFrom || j.size < 2*j.base {
		return
	}
	if err := j.rewrite(); err != nil {
		j.base = j.size // not again at once
	}
}

// rewrite writes what still counts into a new file, which takes the place of the old one in one step; the caller holds disk.
// After an error the old file is still in use, or the next Write begins here.
func (j *Journal) rewrite() error {
	text, err := j.snapshot()
	if err != nil {
		return err
	}
	fresh := j.path + ".new"
	j.hook(siteNew)
	f, err := j.fs.OpenFile(fresh, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(text, 0)
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		j.hook(siteNewSynced)
		err = j.fs.Rename(fresh, j.path)
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	j.hook(siteRenamed)
	old := j.file
	j.file, j.size, j.base = f, int64(len(text)), int64(len(text))
	j.bad = j.fs.SyncDir(filepath.Dir(j.path)) // else a loss of power may bring the old file back, without what comes now
	if old != nil {
		old.Close() // nothing of it counts any more
	}
	if j.bad == nil {
		j.hook(siteDirSynced)
	}
	return j.bad
}

// snapshot returns a file that holds what counts now, and nothing else.
func (j *Journal) snapshot() ([]byte, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	text := header()
	add := func(c Change) error {
		record, err := encode(&c)
		text = append(text, record...)
		return err
	}
	if err := add(Change{Next: j.next}); err != nil {
		return nil, err
	}
	for _, e := range inOrder(j.open) {
		if err := add(Change{Add: []Entry{e}}); err != nil {
			return nil, err
		}
	}
	for _, e := range inOrder(j.over) {
		if err := add(Change{Add: []Entry{e}, Done: []uint64{e.Seq}}); err != nil {
			return nil, err
		}
	}
	return text, nil
}
