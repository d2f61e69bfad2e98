package cache

import (
	"context"

	"pierfs/cache/attr"
)

// alone reserves names for a change at the server: no File begins to bear one of them, or a name below it, before release
// is called, and no other change of them, of what is above or of what is below them is under way. So whoever has a file open
// has it from before the change or from after it, and never from in between, where the server's answers are of two worlds.
func (t *Tree) alone(ctx context.Context, names ...string) (release func(), err error) {
	t.dropNext(names...) // nobody has what was opened ahead
	for {
		done, others := t.reserve(names)
		if others == nil {
			return func() { t.release(names, done) }, nil
		}
		if err := ended(ctx, others); err != nil {
			return nil, err
		}
	}
}

// reserve marks names as being changed, unless others is changing one of them, or something above or below it.
func (t *Tree) reserve(names []string) (done, others chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, name := range names {
		if others := t.busyLocked(name); others != nil {
			return nil, others
		}
		for changing, others := range t.busy {
			if isBelow(changing, name) {
				return nil, others
			}
		}
	}
	done = make(chan struct{})
	for _, name := range names {
		t.busy[name] = done
	}
	return done, nil
}

// ended waits until a change has ended.
func ended(ctx context.Context, change <-chan struct{}) error {
	select {
	case <-change:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// release ends the reservation of names, and their era.
func (t *Tree) release(names []string, done chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, name := range names {
		delete(t.busy, name)
		*t.endedLocked(name)++
	}
	close(done)
}

// settled waits until nothing is being changed at names or above them.
func (t *Tree) settled(ctx context.Context, names ...string) error {
	for _, name := range names {
		for {
			t.mu.Lock()
			busy := t.busyLocked(name)
			t.mu.Unlock()
			if busy == nil {
				break
			}
			if err := ended(ctx, busy); err != nil {
				return err
			}
		}
	}
	return nil
}

// awaits waits until nothing is being changed at name or above it, and reports whether anything was.
func (t *Tree) awaits(ctx context.Context, name string) bool {
	t.mu.Lock()
	busy := t.busyLocked(name) != nil
	t.mu.Unlock()
	if busy {
		_ = t.settled(ctx, name) // an ended context ends the caller's loop as well
	}
	return busy
}

// busyLocked returns what closes when the change at name, or above it, has ended; nil if there is none. The caller holds mu.
func (t *Tree) busyLocked(name string) chan struct{} {
	for changing, done := range t.busy {
		if isBelow(name, changing) {
			return done
		}
	}
	return nil
}

// endAllEras tells every Open under way that names below one that was renamed have changed too, unless that is known to
// be no directory.
func (t *Tree) endAllEras(renamed string) {
	if info, _, state := t.attrs.Get(renamed); state == attr.Present && !info.IsDir() {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.moves++
}
