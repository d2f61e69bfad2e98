package cache

import (
	"context"
	"fmt"
	"path"
	"slices"
	"sync"
	"syscall"
	"time"

	"pierfs/backends"
	"pierfs/cache/spool"
)

// Some servers let no content gather beside its name: they take no name that begins with a dot, or none but those that somebody
// waits for, or rename nothing. There a content is written to its own name, which is the only way left: readers see it grow, and an upload that
// fails costs what was there. That this is so is learned from the first refusal whose content then gets there by that way, for the
// directory in which it was, and tried again after directFor: permissions change. Where what was refused is the renaming over a
// file that was there, it may be one of that file alone, and so it is learned of its name.

const (
	directFor = time.Hour
	maxDirect = 1000
)

// directs are the directories, each with a slash behind it, and names whose contents do not gather beside them. The zero value is
// ready. The lock is a leaf.
type directs struct {
	mu    sync.Mutex
	since map[string]time.Time
	said  []string // for people, of which promise does not hold, each once
}

// direct reports whether contents for name are written to that itself.
func (t *Tree) direct(name string) bool {
	if t.options.TempName == TempNone {
		return true
	}
	d := &t.directs
	d.mu.Lock()
	defer d.mu.Unlock()
	return time.Since(d.since[name]) < directFor || time.Since(d.since[parent(name)+"/"]) < directFor
}

// wayRefused reports whether err may be a refusal of the way alone by which a content was to get to name, where is already what
// there describes, if its Known is not 0. What is not explained may be a disk that is full, for which nothing is given up.
func wayRefused(err error, there backends.Info) bool {
	switch backends.CauseOf(err) {
	case backends.CauseTempName, backends.CauseRename:
		return backends.ClassOf(err) == backends.Final && (there.Known == 0 || backends.Errno(err) != syscall.EIO)
	}
	return false
}

// because gives err, a refusal to make a temporary file or to rename it, the cause that a Writer which knows of both would have told.
func because(err error, cause backends.Cause) error {
	if e, ok := err.(*backends.Error); ok {
		return backends.Weaken(e, cause)
	}
	return err
}

// wentDirectly notes that a content for name got there by its own name, which refused, of the other way, did not let it.
func (t *Tree) wentDirectly(name string, there backends.Info, refused error) {
	dir := path.Dir(name)
	if dir == "." {
		dir = "the working directory"
	}
	key, what := parent(name)+"/", fmt.Sprintf("the server refuses temporary names in %s", dir)
	if backends.CauseOf(refused) == backends.CauseRename {
		what = fmt.Sprintf("the server refuses to rename uploads in %s", dir)
		if there.Known != 0 {
			key = name
		}
	}
	d := &t.directs
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.since == nil {
		d.since = map[string]time.Time{}
	}
	for old := range d.since { // any one will do: at worst it is learned anew
		if len(d.since) < maxDirect {
			break
		}
		delete(d.since, old)
	}
	d.since[key] = time.Now()
	t.weakerLocked(what+": files are written in place, so that readers on the server see them grow, and an upload that fails costs the old one", refused)
}

// maxWeaker is how many such things are told: each directory can have its own.
const maxWeaker = 20

// weakerLocked tells once that a promise does not hold; the caller holds directs.mu.
func (t *Tree) weakerLocked(what string, why error) {
	if slices.Contains(t.directs.said, what) || len(t.directs.said) >= maxWeaker {
		return
	}
	t.directs.said = append(t.directs.said, what)
	t.log.Warn("a promise does not hold here", "what", what, "err", why)
}

// Weaker returns, in words for a person, which of the usual promises the server, or this machine, has turned out not to allow.
func (t *Tree) Weaker() []string {
	t.directs.mu.Lock()
	defer t.directs.mu.Unlock()
	said := slices.Clone(t.directs.said)
	if err := t.Riding(); err != nil && err != errNotWanted {
		said = append(said, fmt.Sprintf("writePassthrough has no effect, files are written through the daemon: %v", err))
	}
	return said
}

// replaceDirectly is replace after refused, where the content may get to its own name.
func (f *File) replaceDirectly(ctx context.Context, j *job, refused error) (backends.Info, error) {
	t := f.tree
	if j.before != nil { // it was asked, or would have been, by the Commit that failed
		if err := j.before(t.ask(ctx, j.name)); err != nil {
			return backends.Info{}, err
		}
	}
	w, err := t.backend.Create(ctx, j.name, backends.WriteMode{Perm: j.perm, Size: j.size, Exclusive: j.claim})
	if err != nil {
		return backends.Info{}, eitherRefusal(refused, err)
	}
	j.unsure, j.sent = true, nil
	attr, _ := sendable(j.attr, t.Caps())
	listening, heard := t.listen(ctx, j.name)
	j.heard, j.place = heard, 0
	info, err := send(listening, w, j, attr, t.worthSending(j.staged, spool.Range{End: j.size}))
	if err != nil {
		return info, eitherRefusal(refused, err)
	}
	t.wentDirectly(j.name, j.base, refused)
	return info, nil
}

// eitherRefusal is the error where both ways were refused: the first, if the second is of its kind.
func eitherRefusal(first, second error) error {
	if backends.ClassOf(second) == backends.Final && backends.Errno(first) == backends.Errno(second) {
		return first
	}
	return second
}

// writeBeside uploads j to a name beside the one that it was meant for, where nothing gathers.
func (f *File) writeBeside(ctx context.Context, j *job) (info backends.Info, err error) {
	name, err := f.tree.freeConflictName(ctx, j.name)
	if err != nil {
		return info, err
	}
	info, err = f.tree.write(ctx, j, name)
	if err == nil {
		j.beside = name
	}
	return info, err
}
