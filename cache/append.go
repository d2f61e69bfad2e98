package cache

import (
	"errors"
	"io"
	"math"

	"pierfs/backends"
	"pierfs/cache/spool"
)

// Who opens a file with O_APPEND to write alone means the end of whatever is there. So opening it asks nothing of what is known, and
// where others have appended meanwhile, or have put another file there, what he appended goes behind that: it is no conflict.

// believes reports whether an Open goes by what is known of the name: what counts is what the server has when it is published. What is
// only owed at first tells its conflicts by the content that it was opened with.
func (t *Tree) believes(mode OpenMode) bool {
	return mode.onlyAppends() && t.Caps().RandomWrite && !t.options.Background
}

func (m OpenMode) onlyAppends() bool { return m.Append && m.Write && !m.Read && !m.Truncate }

// goesOn makes the file what the server says of its name by now, and reports whether it did: where programs only append, and all that
// they appended is there, they go on behind whatever others have made of it.
func (f *File) goesOn(info backends.Info) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	other := f.base.ID != "" && info.ID != "" && f.base.ID != info.ID
	if !f.logs || f.reads || other || !info.Mode.IsRegular() || f.dirtyLocked() || f.changing || f.lent || f.owing.debt != nil {
		return false
	}
	if f.staged != nil {
		f.swapStaging(nil)
	}
	f.forgetBase()
	f.base, f.info, f.version = info, info, f.tree.staged.Add(1) // the kernel may hold pages of what was before
	return true
}

// appends reports whether j holds its base, and behind that nothing but what programs have appended.
func (j *job) appends() bool {
	return !j.placed && !j.cut && j.tail < math.MaxInt64 && j.tail == j.base.Size
}

// moveEnd puts what j appends behind what the server has by now, and reports whether that could be done: now is what it says of the
// name, the zero Info if there is nothing. An attempt that was begun has perhaps brought a part of j there already, and then
// nobody can tell what is whose.
func (f *File) moveEnd(j *job, now backends.Info) (bool, error) {
	other := j.base.ID != "" && now.ID != "" && j.base.ID != now.ID
	if !j.appends() || j.begun || other || now.Known != 0 && !now.Mode.IsRegular() {
		return false, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.staged != j.staged || f.gone || f.stale || f.placed || f.lent || f.stored || f.early != nil || f.owing.debt != nil || f.owing.frozen > 0 {
		return false, nil
	}
	moved, err := f.tree.newStaging(f.name, now.Size)
	if err != nil {
		return false, err
	}
	if err := copyEnd(moved, f.staged, j.base.Size); err != nil {
		return false, errors.Join(err, f.tree.dropStaging(moved))
	}
	by := now.Size - j.base.Size
	j.staged, j.size, j.tail, j.base = moved, j.size+by, now.Size, now
	f.swapStaging(moved)
	f.forgetBase()
	f.base, f.info.Size, f.onward = now, moved.Size(), 0
	if f.tail < math.MaxInt64 {
		f.tail += by
	}
	f.moved = true
	return true, nil
}

// copyEnd appends to one staging file what another holds from off on.
func copyEnd(to, from *spool.File, off int64) error {
	end := io.NewSectionReader(from, off, from.Size()-off)
	buf := make([]byte, min(end.Size(), uploadChunk))
	for {
		n, err := end.Read(buf)
		if n > 0 {
			if _, _, err := to.Append(buf[:n]); err != nil {
				return err
			}
		}
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
	}
}

// beginAnew makes j, which appends to a file that was believed to be there and is not, a file of its own, and reports whether it did.
func (f *File) beginAnew(j *job) bool {
	f.mu.Lock()
	believed := f.believed
	f.mu.Unlock()
	if !believed {
		return false
	}
	moved, err := f.moveEnd(j, backends.Info{})
	if !moved || err != nil {
		return false
	}
	j.assumed = true
	f.mu.Lock()
	f.assumed = true
	f.mu.Unlock()
	return true
}

// Moved reports whether, since it was last asked, what was appended here came to stand behind what others had appended, and so not where
// programs were told: pages of the file that somebody keeps are not what it holds.
func (f *File) Moved() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	moved := f.moved
	f.moved = false
	return moved
}
