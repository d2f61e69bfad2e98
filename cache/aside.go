package cache

import (
	"context"
	"slices"
	"sync"
	"time"

	"pierfs/backends"
	"pierfs/cache/attr"
)

// heard is what the server says, in the flight of a change of ours, of the names that it touches: the directories would be asked
// for at once otherwise, for whoever goes on in them, at a round trip each.
type heard struct {
	tree  *Tree
	mark  attr.Mark // from before the change
	asked time.Time
	above []string // directories further up that were asked for besides

	mu   sync.Mutex
	said map[string]backends.Info
}

// listen returns a context for one change, of names.
func (t *Tree) listen(ctx context.Context, names ...string) (context.Context, *heard) {
	h := &heard{tree: t, mark: t.attrs.Mark(), asked: time.Now(), above: t.aging(names), said: map[string]backends.Info{}}
	return backends.WithAside(ctx, h.hear, h.above...), h
}

// aging returns the directories above those of names, of which what is known will soon be too old: the kernel asks for each directory on
// the way to a name, and whoever goes on there would wait for the answer.
func (t *Tree) aging(names []string) (above []string) {
	for _, name := range names {
		for dir := parent(name); dir != ""; {
			dir = parent(dir)
			_, asked, state := t.attrs.Get(dir)
			touched := slices.ContainsFunc(names, func(name string) bool { return parent(name) == dir })
			if state == attr.Present && time.Since(asked) >= t.options.MetadataTTL/2 && !touched && !slices.Contains(above, dir) {
				above = append(above, dir)
			}
		}
	}
	return above
}

func (h *heard) hear(name string, info backends.Info) {
	if slices.Contains(h.above, name) {
		if info.IsDir() && !h.tree.changes.concern(name) {
			h.tree.attrs.Answer(name, h.tree.told(name, info), h.asked, h.mark) // if it was overtaken, the next who needs it asks
		}
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.said[name] = info
}

// of returns what was said of name; false if nothing was. A nil heard has heard nothing.
func (h *heard) of(name string) (backends.Info, bool) {
	if h == nil {
		return backends.Info{}, false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	info, ok := h.said[name]
	return info, ok
}

// changed remembers the change, and what was said of the directories of the names that were made or removed. Whoever works in a
// directory is asked nothing of it in between: names that he asks for next he asks for at once (see look.go).
func (h *heard) changed(edits ...attr.Edit) {
	t := h.tree
	told := attr.Told{Mark: h.mark, Asked: h.asked, Dirs: map[string]backends.Info{}}
	for _, e := range edits {
		dir := parent(e.Name())
		if !e.Alters() {
			t.kept.touched(dir)
		}
		if info, ok := h.of(dir); ok && info.IsDir() && !t.changes.concern(dir) { // else it is as it was before a change that is owed
			told.Dirs[dir] = t.told(dir, info)
		}
	}
	t.attrs.Change(told, edits...)
	for dir := range told.Dirs {
		t.worked(dir)
	}
}
