package cache

import (
	"context"
	"errors"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"pierfs/backends"
)

// A server that cannot replace a file in one step has the old content moved aside first, to backends.AsideName. A daemon that ends in
// between, or loses its connection, leaves it there, and perhaps nobody with the name. So the list of temporary names in use tells as well
// what is being replaced so. This daemon behind a failure, and the next one, look at such a name before they answer for it or change
// anything of it: the old content is removed if somebody bears the name, and has it back if nobody does and the new one was never placed, as
// its temporary name shows, or the name that it was to be renamed from. Else whoever waited for the new content has taken it, and the old
// one must not rise again. What other machines have left is found in listings, as in leftovers.go, and never put back.

const (
	displaceMark = "displaces " // name, and what is to take it
	placedMark   = "placed "    // name
)

// displaces notes that what bears name is about to be replaced by what bears from, if the server may do that in steps. The caller tells end
// what came of it.
func (t *Tree) displaces(name, from string) (end func(error)) {
	caps := t.Caps()
	if caps.Replace && caps.Exclusive { // FTP finds out only when it is refused
		return func(error) {}
	}
	aside := backends.AsideName(name)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.temps[aside] = time.Time{}
	t.litter.active++
	t.warn("noting a replacement", t.litter.add(displaceLine(name, from)))
	return func(err error) {
		if err != nil && (backends.ClassOf(err) != backends.Final || !t.Caps().Replace) {
			t.noteDisplaced(name, from)
			defer t.sweep()
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		t.temps[aside] = time.Now()
		t.warn("noting a replacement", errors.Join(t.litter.add(placedMark+strconv.QuoteToASCII(name)), t.litter.free()))
	}
}

// displaces is Tree.displaces for j, which replaces something if anything is known to be there.
func (j *job) displaces(t *Tree, temp string) (end func(error)) {
	if j.base.Known == 0 || temp == "" {
		return func(error) {}
	}
	return t.displaces(j.name, temp)
}

func displaceLine(name, from string) string {
	return displaceMark + strconv.QuoteToASCII(name) + " " + strconv.QuoteToASCII(from)
}

// readDisplaced takes over what a former daemon may have displaced, as lines tell.
func (l *litter) readDisplaced(lines [][]byte) {
	for _, line := range lines {
		if name, ok := namedBy(placedMark, line); ok {
			delete(l.displaced, name)
			continue
		}
		quoted, ok := strings.CutPrefix(string(line), displaceMark)
		first, err := strconv.QuotedPrefix(quoted)
		if !ok || err != nil {
			continue
		}
		name, bad := strconv.Unquote(first)
		from, unknown := strconv.Unquote(strings.TrimPrefix(quoted[len(first):], " "))
		if bad == nil && unknown == nil && name != "" && backends.CheckName("rename", name) == nil && backends.CheckName("rename", from) == nil && len(l.displaced) < maxLitter {
			l.displaced[name] = from
		}
	}
}

// appendDisplaced adds the lines of what may be displaced to text; the caller holds Tree.mu.
func (l *litter) appendDisplaced(text []byte) []byte {
	for name, from := range l.displaced {
		text = append(append(text, displaceLine(name, from)...), '\n')
	}
	return text
}

// waitsAside reports whether what was displaced from a name may wait at aside; the caller holds Tree.mu.
func (l *litter) waitsAside(aside string) bool {
	if len(l.displaced) == 0 || !strings.HasSuffix(aside, backends.AsideMark) {
		return false
	}
	for name := range l.displaced {
		if backends.AsideName(name) == aside {
			return true
		}
	}
	return false
}

// isAwaited reports whether temp is what was to take a name of which nobody knows whether it has: it must stay until that is known.
func (t *Tree) isAwaited(temp string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, from := range t.litter.displaced {
		if from == temp {
			return true
		}
	}
	return false
}

// noteDisplaced has the content that waits for name put back or removed; from is what was to take the name, "" if nobody knows.
func (t *Tree) noteDisplaced(name, from string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.litter.displaced) < maxLitter {
		t.litter.displaced[name] = from
		t.warn("the list of temporary files on the server", t.litter.write())
	}
}

// isDisplaced reports whether what name had may wait aside.
func (t *Tree) isDisplaced(name string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, displaced := t.litter.displaced[name]
	return displaced
}

// comesBack is putBack for who wants to look at name, and reports whether anything was done. Whoever publishes the file that bears it looks
// himself, and while a change of names is owed there the server has it elsewhere. It does not wait for the sweeping, which may be at the
// same name: each step of the two is refused where the other has made it.
func (t *Tree) comesBack(ctx context.Context, name string) bool {
	return t.isDisplaced(name) && !t.changes.concern(name) && t.live(name) == nil && t.putBack(ctx, name) == nil
}

// displacedIf returns the names of which that may be so, and wanted says.
func (t *Tree) displacedIf(wanted func(name string) bool) []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.litter.displaced) == 0 {
		return nil
	}
	return slices.DeleteFunc(slices.Sorted(maps.Keys(t.litter.displaced)), func(name string) bool { return !wanted(name) })
}

// putBackIn puts back what was displaced from names in dir, which is about to be listed. A server that does not answer says so then.
func (t *Tree) putBackIn(ctx context.Context, dir string) {
	for _, name := range t.displacedIf(func(name string) bool { return parent(name) == dir }) {
		t.comesBack(ctx, name)
	}
}

// putBackBelow puts back what was displaced from names, and from those below them, which are about to be changed.
func (t *Tree) putBackBelow(ctx context.Context, names ...string) error {
	below := func(name string) bool {
		return slices.ContainsFunc(names, func(above string) bool { return isBelow(name, above) })
	}
	for _, name := range t.displacedIf(below) {
		if err := t.putBack(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// putBackAll puts back what was displaced from any name that nobody is at work with. The error is that of a server that cannot be asked now.
func (t *Tree) putBackAll(ctx context.Context) error {
	for _, name := range t.displacedIf(func(string) bool { return true }) {
		if err := t.putBackAlone(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

func (t *Tree) putBackAlone(ctx context.Context, name string) error {
	release, err := t.alone(ctx, name)
	if err != nil {
		return err
	}
	defer release()
	if t.changes.concern(name) {
		return nil
	}
	if f := t.live(name); f != nil {
		select {
		case f.turn <- struct{}{}:
			defer f.turn.give()
		default: // whoever publishes it looks himself
			return nil
		}
	}
	return t.putBack(ctx, name)
}

// putBack gives what waits aside its name back, if nobody bears that, and removes it otherwise. The error is that of a server that cannot be
// asked now.
func (t *Tree) putBack(ctx context.Context, name string) error {
	if !t.isDisplaced(name) {
		return nil
	}
	aside := backends.AsideName(name)
	info, err := t.backend.Stat(ctx, aside)
	if err == nil && info.Mode.IsRegular() {
		err = t.settleAside(ctx, aside, name)
		t.attrs.Forget(name)
	}
	switch {
	case err == nil, errors.Is(err, os.ErrNotExist):
	case backends.ClassOf(err) != backends.Final || ctx.Err() != nil:
		return err
	default:
		t.log.Warn("what a file had before stays beside it on the server", "name", name, "aside", aside, "err", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.litter.displaced, name)
	if freed, known := t.temps[aside]; !known || !freed.IsZero() {
		t.temps[aside] = time.Now() // a listing that is under way may still tell it
	}
	t.warn("the list of temporary files on the server", t.litter.write())
	return nil
}

// settleAside is putBack of a content that is there.
func (t *Tree) settleAside(ctx context.Context, aside, name string) error {
	_, err := t.backend.Stat(ctx, name)
	if errors.Is(err, os.ErrNotExist) {
		if err := t.neverPlaced(ctx, name); err != nil {
			return err
		}
		if err = t.backend.Rename(ctx, aside, name, backends.NoReplace); err == nil {
			t.log.Warn("a replacement was broken off half way: the file has its old content back", "name", name)
			return nil
		}
		if !errors.Is(err, os.ErrExist) {
			return err
		}
		err = nil // somebody has made it at this moment
	}
	if err != nil {
		return err
	}
	return t.backend.Remove(ctx, aside)
}

// neverPlaced returns nil if what was to take name is still where it was: nobody has taken it under the name.
func (t *Tree) neverPlaced(ctx context.Context, name string) error {
	t.mu.Lock()
	from := t.litter.displaced[name]
	t.mu.Unlock()
	err := errTaken
	if from != "" {
		_, err = t.backend.Stat(ctx, from)
	}
	if errors.Is(err, os.ErrNotExist) {
		return errTaken
	}
	return err
}

// errTaken is why an old content stays aside.
var errTaken error = &backends.Error{Op: "rename", Code: syscall.ESTALE, Err: errors.New("what replaced it may have been taken away meanwhile")}

// isLeftAside reports whether an entry of a listing is what a replacement has moved aside, and from which element.
func isLeftAside(info backends.Info) (from string, ok bool) {
	from, ok = strings.CutPrefix(info.Name, ".")
	if ok {
		from, ok = strings.CutSuffix(from, backends.AsideMark)
	}
	return from, ok && from != "" && len(info.Name) < backends.MaxElement // else it is cut, and nobody knows where
}
