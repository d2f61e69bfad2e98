package cache

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"
	"time"

	"pierfs/backends"
)

// What is owed to a directory that somebody else has removed at the server has no place there. The removal stands, as any change of
// somebody else's does: nothing is made again unasked, and nothing is thrown away. What is owed waits for a person, who makes the
// directory again, through the mount, or drops what is owed and keeps a copy. With Overwrite ours counts, and the directory is made.

// patience is how often something must have failed before a directory is believed to be gone for good, the last time while the
// server was there: who replaces one has it away for a moment.
const patience = 2

// lacksHome returns the nearest directory above name that the server does not have, if that may be why err came of bringing
// something to name; "" if it is not.
func (t *Tree) lacksHome(ctx context.Context, name string, err error) string {
	if err == nil || name == "" || backends.ClassOf(err) != backends.Final || isClash(err) || ctx.Err() != nil {
		return ""
	}
	lacks := ""
	for dir := parent(name); dir != ""; dir = parent(dir) {
		switch above, err := t.ask(ctx, dir); {
		case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
			lacks = dir
		case err == nil && !above.IsDir():
			return dir
		default:
			return lacks
		}
	}
	return lacks
}

// noHome is why something waits that belongs below dir.
func noHome(dir string) *clash {
	return &clash{why: fmt.Sprintf("the server has no directory %q any more: make it again, or drop this with a backup", dir), lacks: dir}
}

// homeFor makes dir, where ours counts more than that somebody removed it, and else returns why what belongs there waits.
func (t *Tree) homeFor(ctx context.Context, dir string) error {
	if t.options.Conflict != Overwrite {
		t.attrs.PutAbsent(dir)
		return noHome(dir)
	}
	err := t.backend.Mkdir(ctx, dir, 0o777)
	switch {
	case errors.Is(err, os.ErrExist):
		return noHome(dir) // a file
	case err == nil:
		t.conflicts.Add(1)
		t.log.Error("a conflict: somebody else removed a directory to which something is owed, and it is made again", "name", dir)
		t.attrs.Forget(dir)
		t.kept.touched(parent(dir))
	}
	return err
}

// homeFor is Tree.homeFor for what the file owes.
func (f *File) homeFor(ctx context.Context, dir string) error {
	err := f.tree.homeFor(ctx, dir)
	if why, ok := errors.AsType[*clash](err); ok {
		return f.holdBack(why)
	}
	return err
}

// isStubborn reports whether sending what the file owes has failed before, and not for want of the server.
func (f *File) isStubborn() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.owing.tries >= patience && f.owing.failed != nil && !isOutage(f.owing.failed)
}

// lacks reports whether dir is what held, the reason why something waits, says that the server has not.
func lacks(held error, dir string) bool {
	why, ok := errors.AsType[*clash](held)
	return ok && why.lacks == dir
}

// isWanted reports whether a change of names waits for dir to be made again. Who makes it makes it now: it would be owed behind what
// waits for it.
func (l *changes) isWanted(dir string) bool {
	if l.count.Load() == 0 {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.ContainsFunc(l.list, func(c *change) bool { return lacks(c.held, dir) })
}

// isHomeNow notes that a program has made dir: what waited for it is tried again.
func (t *Tree) isHomeNow(dir string) {
	if t.journal == nil {
		return
	}
	for _, f := range t.below(dir) {
		f.mu.Lock()
		again := lacks(f.owing.held, dir)
		if again {
			f.owing.held, f.owing.failed, f.owing.tries = nil, nil, 0
		}
		f.mu.Unlock()
		if again {
			f.enqueue()
		}
	}
	t.changes.change(func() {
		for _, c := range t.changes.list {
			if lacks(c.held, dir) {
				c.held, c.failed, c.tries, c.next = nil, nil, 0, time.Time{}
			}
		}
	})
}
