package cache

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"pierfs/backends"
)

const (
	// maxLitter is how many temporary names are remembered that may be left on the server. What is beyond it is told in the
	// log, and stays for a person to remove.
	maxLitter = 1000

	firstSweep   = 200 * time.Millisecond
	longestSweep = 15 * time.Second

	// Two files in the staging directory hold names, each quoted as a Go string on a line of its own: those that are left,
	// and, in the order in which they were taken, those that uploads have taken. The latter begins anew beyond maxTaken
	// bytes, when no upload is under way.
	litterFile = "litter"
	takenFile  = "taken"
	maxTaken   = 16 << 10
)

// litter are the temporary names of uploads that may be left on the server, because the connection broke before they could
// be removed, or the daemon ended. Listings hide them, and they are removed when the server answers again, also by the next
// daemon.
type litter struct {
	path string // of the file

	// Guarded by Tree.mu.
	holds     map[string]string    // names that stand as empty files on the server, by the temporary names of their uploads; see claims.go
	claims    map[string]time.Time // those that a former daemon may have left, and since when
	names     map[string]string    // and which name an upload was to give its content to; "" of a former daemon's
	noted     map[string]time.Time // when a name came to be among them; those of a former daemon are not told
	sweeping  bool                 // a goroutine removes them
	displaced map[string]string    // names whose content may wait aside, and what was to take them; see displaced.go
	taken     *os.File             // only added to
	size      int64                // of taken
	active    int                  // names taken and not yet freed
}

// readLitter takes over what a former daemon has left in dir: what it knew of, and what it may have been at when it ended.
func readLitter(dir string) (l litter, err error) {
	l = litter{path: filepath.Join(dir, litterFile), names: map[string]string{}, noted: map[string]time.Time{}, holds: map[string]string{}, claims: map[string]time.Time{}, displaced: map[string]string{}}
	for _, file := range []string{litterFile, takenFile} {
		text, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return l, err
		}
		lines := bytes.Split(text, []byte("\n"))
		l.readClaims(lines)
		l.readDisplaced(lines)
		for _, line := range lines[max(0, len(lines)-maxLitter):] {
			name, bad := strconv.Unquote(string(line))
			if bad == nil && name != "" && backends.CheckName("remove", name) == nil && len(l.names) < maxLitter {
				l.names[name] = ""
			}
		}
	}
	if err := l.write(); err != nil {
		return l, err
	}
	l.taken, err = os.OpenFile(filepath.Join(dir, takenFile), os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	return l, err
}

// isEmpty reports whether nothing is left; the caller holds Tree.mu.
func (l *litter) isEmpty() bool { return len(l.names)+len(l.claims)+len(l.displaced) == 0 }

// take notes that an upload takes a name, before the server hears of it; the caller holds Tree.mu.
func (l *litter) take(name string) error {
	l.active++
	return l.add(strconv.QuoteToASCII(name))
}

// add adds a line to the list of names taken; the caller holds Tree.mu.
func (l *litter) add(line string) error {
	n, err := l.taken.WriteString(line + "\n")
	l.size += int64(n)
	return err
}

// free notes that a name is no longer in use; the caller holds Tree.mu.
func (l *litter) free() error {
	if l.active--; l.active > 0 || l.size <= maxTaken {
		return nil
	}
	l.size = 0
	return l.taken.Truncate(0)
}

// close ends the list of names taken, which is of no more use if all of them are free; the caller holds Tree.mu.
func (l *litter) close() error {
	err := l.taken.Close()
	if l.active == 0 {
		err = errors.Join(err, os.Remove(l.taken.Name()))
	}
	return err
}

// write makes the file tell the names; the caller holds Tree.mu.
func (l *litter) write() error {
	if l.isEmpty() {
		if err := os.Remove(l.path); !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	}
	text := l.appendDisplaced(l.appendClaims(nil))
	for name := range l.names {
		text = append(strconv.AppendQuoteToASCII(text, name), '\n')
	}
	beside := l.path + "~"
	if err := os.WriteFile(beside, text, 0o600); err != nil {
		return err
	}
	return os.Rename(beside, l.path)
}

// removeTemp removes what an upload may have left on the server under a temporary name, later if not now.
func (t *Tree) removeTemp(ctx context.Context, temp string) {
	for _, name := range t.reserved(temp) {
		if t.isAwaited(name) {
			t.note(name)
			continue
		}
		switch err := t.backend.Remove(ctx, name); {
		case err == nil, errors.Is(err, os.ErrNotExist):
		case ctx.Err() != nil && t.note(name): // it was given up here, and is removed in a moment
			t.sweep()
		default:
			t.remember(name, err)
		}
	}
}

// leave remembers a temporary name that may be left on the server because of err, and has it removed later.
func (t *Tree) leave(temp string, err error) {
	for _, name := range t.reserved(temp) {
		t.remember(name, err)
	}
}

// removeAgain has temp removed once more in a moment: a server that still reads what a broken connection has left it may make the
// file after it was removed (proftpd over TLS).
func (t *Tree) removeAgain(temp string) {
	for _, name := range t.reserved(temp) {
		t.note(name)
	}
	t.sweep()
}

func (t *Tree) remember(name string, err error) {
	room := t.note(name)
	t.log.Warn("a temporary file may be left on the server", "name", name, "remembered", room, "err", err)
	t.sweep()
}

// note adds name to what may be left, if there is room.
func (t *Tree) note(name string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.litter.names) >= maxLitter {
		return false
	}
	t.litter.names[name], t.litter.noted[name] = t.targets[name], time.Now()
	t.warn("the list of temporary files on the server", t.litter.write())
	return true
}

// sweep starts to remove what is left on the server, if there is anything and nobody does so already.
func (t *Tree) sweep() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed || t.litter.sweeping || t.litter.isEmpty() {
		return
	}
	t.litter.sweeping = true
	t.work.Add(1)
	go t.sweepLitter()
}

// sweepLitter removes what is left on the server. It is started by sweep, alone, and ends with the last name, with the Tree,
// or when the login is refused: whoever is answered next starts it again.
func (t *Tree) sweepLitter() {
	defer t.work.Done()
	for pause := firstSweep; t.pause(pause); pause = min(2*pause, longestSweep) {
		err := t.putBackAll(t.ctx) // what was to replace it tells, and is swept behind it
		if err == nil {
			for _, name := range t.ripe() {
				if err = t.sweepAway(t.ctx, name); err != nil {
					break
				}
			}
		}
		if err == nil {
			err = t.removeClaims(t.ctx)
		}
		if t.swept(backends.ClassOf(err) == backends.Refused) {
			return
		}
	}
	t.swept(true)
}

// pause waits, and reports whether the Tree is still there.
func (t *Tree) pause(d time.Duration) bool { return t.pauseUnless(nil, d) }

// pauseUnless is pause that news ends early.
func (t *Tree) pauseUnless(news <-chan struct{}, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-news:
		return true
	case <-timer.C:
		return true
	case <-t.ctx.Done():
		return false
	}
}

// swept ends the sweeping if there is no more to do, or it is given up.
func (t *Tree) swept(giveUp bool) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.litter.sweeping = !giveUp && !t.litter.isEmpty()
	return !t.litter.sweeping
}

// ripe returns the names to sweep. Those that were noted only a moment ago wait for the next time, for the server may be about to
// make the file.
func (t *Tree) ripe() []string {
	names := t.leftBelow("")
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.DeleteFunc(names, func(name string) bool { return time.Since(t.litter.noted[name]) < firstSweep })
}

// leftBelow returns the names known to be left in dir and below, but for those that uploads have taken anew.
func (t *Tree) leftBelow(dir string) []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var names []string
	for name := range t.litter.names {
		freed, known := t.temps[name]
		if taken := known && freed.IsZero(); !taken && isBelow(name, dir) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// sweepAway is removeLitter of a name that nobody waits for. While something above it is being renamed nobody can tell
// where it is: then it stays for the next time. So it does while that is only owed.
func (t *Tree) sweepAway(ctx context.Context, name string) error {
	if t.isMoving(name) || t.isAwaited(name) {
		return nil
	}
	err := t.clearAway(ctx, name)
	if err == nil && !t.isMoving(name) {
		t.forgetLitter(name)
	}
	return err
}

func (t *Tree) isMoving(name string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.busyLocked(name) != nil || t.changes.concern(name)
}

// removeLitter removes one name that is left, if what bears it may be ours: a file. The error is that of a server that
// cannot be asked now; what it refuses for good, or what is another's, is forgotten.
func (t *Tree) removeLitter(ctx context.Context, name string) error {
	if t.isAwaited(name) {
		return nil
	}
	err := t.clearAway(ctx, name)
	if err == nil && !t.changes.concern(name) { // else it may be elsewhere for now
		t.forgetLitter(name)
	}
	return err
}

// clearAway is removeLitter that forgets nothing.
func (t *Tree) clearAway(ctx context.Context, name string) error {
	info, err := t.backend.Stat(ctx, name)
	if err == nil && info.Mode.IsRegular() {
		err = t.backend.Remove(ctx, name)
	}
	switch {
	case err == nil, errors.Is(err, os.ErrNotExist):
	case backends.ClassOf(err) != backends.Final || ctx.Err() != nil:
		return err
	default:
		t.log.Warn("a temporary file stays on the server", "name", name, "err", err)
	}
	return nil
}

func (t *Tree) forgetLitter(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.litter.names, name)
	delete(t.litter.noted, name)
	if freed, known := t.temps[name]; !known || !freed.IsZero() {
		t.temps[name] = time.Now() // a listing that is under way may still tell it
	}
	t.warn("the list of temporary files on the server", t.litter.write())
}

// fence removes what outages have left of uploads to names, before these are changed. A server that was stalled may still come to a
// renaming whose connection was given up, and put an old content over what is there by then; without the temporary name it cannot.
func (t *Tree) fence(ctx context.Context, names ...string) error {
	if err := t.putBackBelow(ctx, names...); err != nil {
		return err
	}
	for _, temp := range t.leftOf(names) {
		if err := t.removeLitter(ctx, temp); err != nil {
			return err
		}
	}
	return nil
}

// leftOf returns the temporary names known to be left of uploads to names. One that is still reserved is left on purpose (see takeover.go): it was
// never about to be renamed.
func (t *Tree) leftOf(names []string) (temps []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for temp, target := range t.litter.names {
		if freed, known := t.temps[temp]; known && freed.IsZero() {
			continue
		}
		if slices.ContainsFunc(names, func(name string) bool { return target == name || target == "" && t.mayBeTemp(temp, name) }) {
			temps = append(temps, temp)
		}
	}
	claims := len(t.litter.claims)
	for _, name := range names { // what stands there is dealt with now
		delete(t.litter.claims, name)
	}
	if len(t.litter.claims) < claims { // before it is: a daemon after this one would take an empty file for the claim
		t.warn("the list of temporary files on the server", t.litter.write())
	}
	return temps
}

// tidy removes what is left in dir, which must be empty for what comes next. Whether it is, the server says.
func (t *Tree) tidy(ctx context.Context, dir string) {
	t.putBackIn(ctx, dir)
	for _, name := range t.leftBelow(dir) {
		if parent(name) == dir && t.removeLitter(ctx, name) != nil {
			return
		}
	}
}

// foreseeMove notes what is left below from by the names, too, that it has once from is called to, for a daemon that ends between the
// renaming and moveLitter. So it does with temporary names in use: an upload that is being thrown away may find its own gone by then, and
// removed nothing. The func takes that back, for nothing was renamed.
func (t *Tree) foreseeMove(from, to string) (undo func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var foreseen []string
	foresee := func(name, target string) {
		if _, already := t.litter.names[name]; !already {
			t.litter.names[name], t.litter.noted[name] = target, time.Now()
			foreseen = append(foreseen, name)
		}
	}
	for name, target := range t.litter.movedLocked(from, to) {
		foresee(name, target)
	}
	for name, freed := range t.temps {
		if below, ok := strings.CutPrefix(name, from+"/"); ok && freed.IsZero() && !strings.HasSuffix(name, backends.AsideMark) {
			foresee(join(to, below), "")
		}
	}
	if len(foreseen) == 0 {
		return func() {}
	}
	t.warn("the list of temporary files on the server", t.litter.write())
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		for _, name := range foreseen {
			delete(t.litter.names, name)
			delete(t.litter.noted, name)
		}
		t.warn("the list of temporary files on the server", t.litter.write())
	}
}

// movedLocked returns what is left below from by the names that it has below to; the caller holds Tree.mu.
func (l *litter) movedLocked(from, to string) map[string]string {
	moved := map[string]string{}
	for name, target := range l.names {
		below, ok := strings.CutPrefix(name, from+"/")
		if !ok {
			continue
		}
		if strings.HasPrefix(target, from+"/") {
			target = to + target[len(from):]
		}
		moved[join(to, below)] = target
	}
	return moved
}

// moveLitter carries what is left below from to to; the caller holds mu.
func (t *Tree) moveLitter(from, to string) {
	moved := t.litter.movedLocked(from, to)
	if len(moved) == 0 {
		return
	}
	maps.DeleteFunc(t.litter.names, func(name, _ string) bool { return strings.HasPrefix(name, from+"/") })
	maps.DeleteFunc(t.litter.noted, func(name string, _ time.Time) bool { return strings.HasPrefix(name, from+"/") })
	maps.Copy(t.litter.names, moved)
	t.warn("the list of temporary files on the server", t.litter.write())
}
