package cache

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"pierfs/backends"
	"pierfs/cache/journal"
)

// Changes of names are owed as contents are (commit = "background"), but only where they cannot be made at once: while the server is
// away, and as long as an earlier change that concerns the same names is owed. They are entries of the same journal. Two changes
// are related if a name of the one is a name of the other, or lies above or below it. Related ones are made in the order of
// their entries, one after the other; others side by side. A content waits for the changes that are related to its name and
// were entered before it. It bears the name that it has by now: who renames a file that is owed, or a directory above it, enters
// the renaming and the contents anew, in one step.
//
// Names that a change which is owed concerns are answered from what is known, however old that is: the server would answer for
// what was before. So are all others while the server is away.

// change is one change of names that is owed.
type change struct {
	e       journal.Entry
	sending bool
	parked  bool // it waits for contents below it
	tries   int
	next    time.Time // not to be tried before
	failed  error     // of the last try
	held    error     // why it is not made before a person says so
}

// attrs reports whether only attributes change, so that nothing else is to be had under other names.
func (c *change) attrs() bool { return c.e.Kind == journal.SetAttr }

// names returns the names that the change concerns.
func (c *change) names() []string {
	if c.e.Kind == journal.Rename {
		return []string{string(c.e.Name), string(c.e.To)}
	}
	return []string{string(c.e.Name)}
}

// makes returns the name that is there once the change is made; "" if there is none.
func (c *change) makes() string {
	switch c.e.Kind {
	case journal.Rename:
		return string(c.e.To)
	case journal.Mkdir, journal.Symlink:
		return string(c.e.Name)
	}
	return ""
}

// changes are those that are owed, in their order. The lock is a leaf.
type changes struct {
	mu    sync.Mutex
	count atomic.Int64 // of list, for who does not want to wait for the lock
	list  []*change
	at    map[string][]uint64 // sequence numbers of the changes that concern a name, in order
	under map[string][]uint64 // and of those that concern a name below it
	moves map[string][]uint64 // of those of at that change more than attributes
	moved chan struct{}       // closed when one is done, held, or cannot be made now; nil while nobody waits
	news  chan struct{}       // holds one when the dispatcher should look again
}

func newChanges() *changes {
	return &changes{at: map[string][]uint64{}, under: map[string][]uint64{}, moves: map[string][]uint64{}, news: make(chan struct{}, 1)}
}

// add appends c, which is in the journal.
func (l *changes) add(c *change) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, c)
	l.count.Store(int64(len(l.list)))
	l.each(c, func(of map[string][]uint64, name string) { of[name] = append(of[name], c.e.Seq) })
	l.wake()
}

// remove takes c out, which is done.
func (l *changes) remove(c *change) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = slices.DeleteFunc(l.list, func(o *change) bool { return o == c })
	l.count.Store(int64(len(l.list)))
	l.each(c, func(of map[string][]uint64, name string) {
		of[name] = slices.DeleteFunc(of[name], func(seq uint64) bool { return seq == c.e.Seq })
		if len(of[name]) == 0 {
			delete(of, name)
		}
	})
	l.tell()
	l.wake()
}

// each calls f for each place where c is to be found; the caller holds mu.
func (l *changes) each(c *change, f func(of map[string][]uint64, name string)) {
	for _, name := range c.names() {
		f(l.at, name)
		if !c.attrs() {
			f(l.moves, name)
		}
		for name != "" {
			name = parent(name)
			f(l.under, name)
		}
	}
}

// tell wakes who waits for changes to be made; the caller holds mu.
func (l *changes) tell() {
	if l.moved != nil {
		close(l.moved)
		l.moved = nil
	}
}

// wake has the dispatcher look.
func (l *changes) wake() {
	select {
	case l.news <- struct{}{}:
	default: // it will look anyway
	}
}

// concern reports whether a change is owed that makes the server's answers for one of names those of before.
func (l *changes) concern(names ...string) bool {
	if l.count.Load() == 0 {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.ContainsFunc(names, func(name string) bool { return len(l.at[name]) > 0 || l.concernsLocked(name) })
}

// concernsIn is concern for what is in the directory name.
func (l *changes) concernsIn(name string) bool {
	if l.count.Load() == 0 {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.concernsLocked(name)
}

// concernsLocked reports whether a change is owed of a name below name, or one of it or above it that is more than one of attributes;
// the caller holds mu.
func (l *changes) concernsLocked(name string) bool {
	if len(l.under[name]) > 0 {
		return true
	}
	for ; len(l.moves[name]) == 0; name = parent(name) {
		if name == "" {
			return false
		}
	}
	return true
}

// movesIn reports whether a change is owed that makes the names that the server has in the directory dir those of before.
func (l *changes) movesIn(dir string) bool {
	if l.count.Load() == 0 {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, above := dir, false; !above; name = parent(name) {
		if len(l.moves[name]) > 0 {
			return true
		}
		above = name == ""
	}
	return slices.ContainsFunc(l.list, func(c *change) bool {
		return !c.attrs() && slices.ContainsFunc(c.names(), func(name string) bool { return isBelow(name, dir) })
	})
}

// setIn returns the names in the directory dir whose attributes are to be changed.
func (l *changes) setIn(dir string) (names []string) {
	if l.count.Load() == 0 {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.list {
		if name := string(c.e.Name); c.attrs() && name != "" && parent(name) == dir {
			names = append(names, name)
		}
	}
	return names
}

// block reports whether a change that is related to name must be made before the entry seq.
func (l *changes) block(name string, seq uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.list) > 0 && l.before(name, seq)
}

// before reports whether a change that is related to name was entered before seq; the caller holds mu.
func (l *changes) before(name string, seq uint64) bool {
	if s := l.under[name]; len(s) > 0 && s[0] < seq {
		return true
	}
	for {
		if s := l.at[name]; len(s) > 0 && s[0] < seq {
			return true
		}
		if name == "" {
			return false
		}
		name = parent(name)
	}
}

// find returns the change seq, nil if it is not owed.
func (l *changes) find(seq uint64) *change {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.list {
		if c.e.Seq == seq {
			return c
		}
	}
	return nil
}

// linkAt returns what the link name leads to, if it is owed, or else under which name the server has it for now.
func (l *changes) linkAt(name string) (target, there string) {
	if l.count.Load() == 0 {
		return "", name
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range slices.Backward(l.list) {
		switch to := string(c.e.To); {
		case c.e.Kind == journal.Symlink && string(c.e.Name) == name:
			return to, name
		case c.e.Kind == journal.Rename && isBelow(name, to):
			name = string(c.e.Name) + name[len(to):]
		}
	}
	return "", name
}

// rest reports whether nothing more can be done: all that is owed is held, or waits for what is.
func (l *changes) rest() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !slices.ContainsFunc(l.list, func(c *change) bool { return c.held == nil && (c.sending || !c.parked && !l.waits(c)) })
}

// waits reports whether c must wait for others; the caller holds mu.
func (l *changes) waits(c *change) bool {
	return slices.ContainsFunc(c.names(), func(name string) bool { return l.before(name, c.e.Seq) })
}

// take returns the next change that can be made, nil if there is none now, and then for how long there will be none.
func (l *changes) take() (*change, time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	sleep := time.Hour
	for _, c := range l.list {
		switch wait := time.Until(c.next); {
		case c.sending, c.parked, c.held != nil, l.waits(c):
		case wait > 0:
			sleep = min(sleep, wait)
		default:
			c.sending = true
			return c, 0
		}
	}
	return nil, sleep
}

// tried notes that c could not be made.
func (l *changes) tried(c *change, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c.sending, c.failed = false, err
	c.tries++
	first, last := firstBackoff, lastBackoff
	if isOutage(err) {
		first, last = firstOutage, lastOutage
	}
	c.next = time.Now().Add(jitter(min(first<<min(c.tries-1, 10), last)))
	if held, ok := errors.AsType[*clash](err); ok {
		c.held = held
	}
	l.tell()
	l.wake()
}

// retry has all changes tried now that wait because of an error that counts.
func (l *changes) retry(counts func(error) bool) {
	if l.count.Load() == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.list {
		if c.failed != nil && counts(c.failed) {
			c.next = time.Time{}
		}
	}
	l.wake()
}

// describe completes d with what is known of c.
func (l *changes) describe(c *change, d *Due) {
	l.mu.Lock()
	defer l.mu.Unlock()
	d.Sending, d.Tries, d.Reason, d.Held = c.sending, c.tries, cmp.Or(c.held, c.failed), c.held != nil
	d.Conflict = isClash(c.held)
	if !c.sending && c.held == nil {
		d.Next = c.next
	}
}

// isStubborn reports whether c has failed before, and not for want of the server.
func (l *changes) isStubborn(c *change) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return c.tries >= patience && !isOutage(c.failed)
}

func (l *changes) isHeld(c *change) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return c.held != nil
}

// change lets f change one of them, which the lock guards.
func (l *changes) change(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
	l.tell()
	l.wake()
}

// why returns the last reason why changes were not made, nil if they are.
func (l *changes) why() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.list {
		if c.failed != nil && isOutage(c.failed) {
			return c.failed
		}
	}
	return nil
}

// awaitChanges waits until no change is owed that is related to name. It does not wait for what cannot be made now.
func (t *Tree) awaitChanges(ctx context.Context, name string) error {
	l := t.changes
	for {
		l.mu.Lock()
		related := len(l.at[name]) > 0 || l.concernsLocked(name)
		stuck := slices.ContainsFunc(l.list, func(c *change) bool { return c.held != nil || c.parked || c.failed != nil })
		if l.moved == nil {
			l.moved = make(chan struct{})
		}
		moved := l.moved
		l.mu.Unlock()
		switch {
		case !related:
			return nil
		case stuck:
			return unlisted("stat", name)
		}
		if err := ended(ctx, moved); err != nil {
			return err
		}
	}
}

// maxChanges is how many changes of names are made at a time.
const maxChanges = 8

// makeChanges makes the changes that are owed, until the Tree is closed. It is started by New, alone.
func (t *Tree) makeChanges() {
	defer t.work.Done()
	var lanes sync.WaitGroup
	defer lanes.Wait()
	free := make(turn, maxChanges)
	for {
		if free.take(t.ctx) != nil {
			return
		}
		c, sleep := t.changes.take()
		if c != nil {
			lanes.Go(func() {
				defer free.give()
				t.makeChange(c)
			})
			continue
		}
		free.give()
		if !t.pauseUnless(t.changes.news, sleep) {
			return
		}
	}
}

// A directory's attributes are set behind the contents that were owed below it before: they may take away the right to put something
// there, as cp -a does of what it copied, and its time is that of the last change in it.

// awaitsContents reports whether c must wait for contents, and has it tried again when one has come.
func (t *Tree) awaitsContents(c *change) bool {
	if !c.attrs() {
		return false
	}
	l := t.changes
	l.change(func() { c.parked = true }) // before looking: one that comes meanwhile ends it
	waits := t.owesBelow(string(c.e.Name), c.e.Seq)
	l.change(func() { c.parked, c.sending = c.parked && waits, c.sending && !waits })
	return waits
}

// owesBelow reports whether a content is owed below the directory name that was entered before seq.
func (t *Tree) owesBelow(name string, seq uint64) bool {
	return slices.ContainsFunc(t.below(name), func(f *File) bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		d := f.owing.debt
		return f.name != name && d != nil && d.seq < seq
	})
}

// unpark has what waits for contents looked at again.
func (l *changes) unpark() {
	if l.count.Load() == 0 {
		return
	}
	l.change(func() {
		for _, c := range l.list {
			c.parked = false
		}
	})
}

// trailing returns the changes of attributes of directories at name or below it behind which a content below them would be that is owed
// now, and is entered anew.
func (t *Tree) trailing(name string) (all []*change) {
	l := t.changes
	l.mu.Lock()
	for _, c := range l.list {
		if c.attrs() && !c.sending && isBelow(string(c.e.Name), name) {
			all = append(all, c)
		}
	}
	l.mu.Unlock()
	return slices.DeleteFunc(all, func(c *change) bool { return !t.owesBelow(string(c.e.Name), c.e.Seq) })
}

// makeChange makes c at the server.
func (t *Tree) makeChange(c *change) {
	if t.awaitsContents(c) {
		return
	}
	try := func() error {
		return t.options.Retry.Do(t.ctx, func(ctx context.Context) error { return t.carryOut(ctx, c) })
	}
	err := try()
	if lacks := t.lacksHome(t.ctx, c.makes(), err); lacks != "" && t.changes.isStubborn(c) {
		if err = t.homeFor(t.ctx, lacks); err == nil {
			err = try()
		}
	}
	lost, ok := errors.AsType[*forgone](err)
	if ok {
		t.conflicts.Add(1)
		t.log.Error("a conflict: a change that is owed has lost its meaning and is not made", "kind", c.e.Kind, "name", c.e.Name, "to", c.e.To, "reason", lost)
		err = nil
	}
	if err == nil && t.end(c.e.Seq) {
		t.hook("drain.arrived")
		t.journal.Forget(c.e.Seq)
		t.changes.remove(c)
		t.attrs.Unstamp(c.e.Seq)
		if lost != nil { // what is known is as if it had been made
			for _, name := range c.names() {
				t.attrs.Forget(name)
			}
		}
		t.queue.unpark()
		t.isBack()
		return
	}
	err = cmp.Or(err, error(errUnwritten))
	if isClash(err) {
		t.conflicts.Add(1)
	}
	if !isOutage(err) {
		t.log.Warn("a change that is owed could not be made yet", "kind", c.e.Kind, "name", c.e.Name, "err", err)
	}
	t.changes.tried(c, err)
}

var errUnwritten = &backends.Error{Op: "publish", Code: syscall.EIO, Err: errors.New("the journal cannot be written")}
