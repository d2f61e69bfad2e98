package cache

import (
	"context"
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

	mu   sync.Mutex
	said map[string]backends.Info
}

// listen returns a context for one change.
func (t *Tree) listen(ctx context.Context) (context.Context, *heard) {
	h := &heard{tree: t, mark: t.attrs.Mark(), asked: time.Now(), said: map[string]backends.Info{}}
	return backends.WithAside(ctx, h.hear), h
}

func (h *heard) hear(name string, info backends.Info) {
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
		if info, ok := h.of(dir); ok && info.IsDir() {
			told.Dirs[dir] = t.told(dir, info)
		}
	}
	t.attrs.Change(told, edits...)
	for dir := range told.Dirs {
		t.worked(dir)
	}
}
