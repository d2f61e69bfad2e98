package cache

import (
	"context"
	"errors"
	"path"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"pierfs/backends"
	"pierfs/cache/attr"
)

// The first name that is looked up in a directory is asked for alone: its neighbours may be millions. Whoever asks for a second
// one soon is likely to ask for more, and one listing then answers for all of them, also for those that are not there. It is made
// beside the question, never in its place, and broken off in a directory that proves large: there it takes as many
// questions until the next attempt as the listing is worth.
//
// That a name is not there is taken from such a listing only where names are asked for in a burst, one hard upon the other, as by
// who searches a path: who asks for one name now and then, for somebody may have put it there by now, has the server asked.
const (
	lookPause   = 2 * time.Second       // after which the next name is a first one again
	burst       = 20 * time.Millisecond // between an answer, or a change of ours, and the next question, at most
	lookedDirs  = 1 << 10               // directories of which it is remembered what was asked for
	firstListed = 10_000                // entries after which a directory that nobody knows is large: five round trips of OpenSSH
	listedALook = 1000                  // entries that are listed for each question
	mostLooks   = 1 << 12               // questions after which a listing that was of no use is tried again, at most
	vainFor     = time.Minute           // or the pause after which it is
)

// looks remembers of directories what was asked for in them lately, and their listings under way. Its lock is a leaf.
type looks struct {
	mu      sync.Mutex
	dirs    *simplelru.LRU[string, *looked]
	glances map[string]*glance
}

// looked is what was asked for in one directory.
type looked struct {
	names []string // the last few
	count int      // of names that were asked for since the last listing
	at    time.Time
	large int // entries at which a listing was broken off
	vain  int // questions that the next listing is put off for, as the last was of no use
}

// glance is a listing that is made for what it will be good for, and that nobody reads as it arrives.
type glance struct {
	began   time.Time
	room    atomic.Int64 // entries that it may still have
	entries int          // that it had; to be read once it is done
	err     error        // nil if the whole directory is known now
	done    chan struct{}
	tell    []func() // called then; guarded by looks.mu
}

// errLarge breaks a glance off.
var errLarge = errors.New("there are more entries than are worth listing")

func newLooks() looks {
	dirs, err := simplelru.NewLRU[string, *looked](lookedDirs, nil)
	if err != nil {
		panic(err) // only for a size below one
	}
	return looks{dirs: dirs, glances: map[string]*glance{}}
}

// justMissed reports whether the server has said lately that there is no such name, so that who makes it need not ask, and when it was
// asked. What a listing that no program has seen says of it is good for who was just answered by it.
func (t *Tree) justMissed(name string) (asked time.Time, ok bool) {
	_, asked, state := t.attrs.Get(name)
	if state == attr.Unknown && t.inBurst(name) {
		_, asked, state = t.attrs.GetListed(name)
	}
	return asked, state == attr.Absent && time.Since(asked) < t.options.NegativeTTL
}

// inBurst reports whether a name in the directory of name was answered for, or changed, just now.
func (t *Tree) inBurst(name string) bool {
	t.looks.mu.Lock()
	defer t.looks.mu.Unlock()
	w, ok := t.looks.dirs.Peek(parent(name))
	return ok && time.Since(w.at) < burst
}

// known returns what Stat says without asking the server; false if that must be asked.
func (t *Tree) known(ctx context.Context, name string) (e Entry, ok bool, err error) {
	for {
		mark := t.attrs.Mark()
		info, asked, state := t.attrs.Get(name)
		switch {
		case state == attr.Present && time.Since(asked) < t.options.MetadataTTL:
			if e, ok := t.entry(ctx, name, info, asked, mark); ok {
				return e, true, nil
			}
		case state == attr.Absent && time.Since(asked) < t.options.NegativeTTL:
			e, err := t.absent(name, asked)
			return e, true, err
		default:
			return e, false, nil
		}
		if err := ctx.Err(); err != nil {
			return Entry{}, true, err
		}
	}
}

// look asks the server for name, of which nothing is known that could be used, and takes what answers first: the question or a
// listing of the directory.
func (t *Tree) look(ctx context.Context, name string) (Entry, error) {
	if name == "" {
		return t.Refresh(ctx, name)
	}
	if e, ok, err := t.arriving(ctx, name); ok {
		return e, err
	}
	t.visited(parent(name))
	began := time.Now()
	g, inBurst := t.lookedUp(name)
	defer t.answered(name)
	if inBurst {
		if _, asked, state := t.attrs.GetListed(name); state == attr.Absent && time.Since(asked) < t.options.NegativeTTL {
			return t.absent(name, asked)
		}
	}
	if g == nil {
		return t.Refresh(ctx, name)
	}
	if t.streams() { // each question needs a session there: the listing has one
		if err := ended(ctx, g.done); err != nil {
			return Entry{}, err
		}
		if e, ok, err := t.glanced(ctx, name, g, inBurst || !g.began.Before(began)); ok {
			return e, err
		}
		return t.Refresh(ctx, name)
	}
	if !t.begin() {
		return Entry{}, shutDown("stat", name)
	}
	type answer struct {
		e   Entry
		err error
	}
	asked := make(chan answer, 1)
	go func() { // ends with the answer, which the backend's deadlines bound, or with the Tree
		defer t.work.Done()
		e, err := t.Refresh(t.ctx, name)
		asked <- answer{e, err}
	}()
	listed := g.done
	for {
		select {
		case a := <-asked:
			return a.e, a.err
		case <-listed:
			if e, ok, err := t.glanced(ctx, name, g, inBurst || !g.began.Before(began)); ok {
				return e, err
			}
			listed = nil
		case <-ctx.Done():
			return Entry{}, ctx.Err()
		}
	}
}

// glanced returns what g, which has ended, says of name; false if the question must answer. Absent says whether g may say that
// name is not there.
func (t *Tree) glanced(ctx context.Context, name string, g *glance, absent bool) (Entry, bool, error) {
	if e, ok, err := t.known(ctx, name); ok {
		return e, true, err
	}
	if g.err == nil && absent {
		if _, asked, state := t.attrs.GetListed(name); state == attr.Absent && time.Since(asked) < t.options.NegativeTTL {
			e, err := t.absent(name, asked)
			return e, true, err
		}
	}
	t.lookedInVain(parent(name))
	return Entry{}, false, nil
}

// answered notes that a question for name was answered.
func (t *Tree) answered(name string) {
	t.looks.mu.Lock()
	defer t.looks.mu.Unlock()
	if w, ok := t.looks.dirs.Peek(parent(name)); ok {
		w.at = time.Now()
	}
}

// worked notes that something in dir was changed here: whoever did it, and now asks for another name, is in a burst as well.
func (t *Tree) worked(dir string) {
	t.looks.mu.Lock()
	defer t.looks.mu.Unlock()
	if w, ok := t.looks.dirs.Peek(dir); ok {
		w.at = time.Now()
	}
}

// lookedUp notes that name is being asked for, and returns the listing of its directory that is under way, nil if there is none, and
// whether another name was asked for just before.
func (t *Tree) lookedUp(name string) (under *glance, inBurst bool) {
	dir, base := parent(name), path.Base(name)
	if max(t.options.MetadataTTL, t.options.NegativeTTL) == 0 {
		return nil, false // nothing is used twice
	}
	listed := t.attrs.Listed(name)
	l := &t.looks
	l.mu.Lock()
	defer l.mu.Unlock()
	w, ok := l.dirs.Get(dir)
	if !ok {
		w = &looked{}
		l.dirs.Add(dir, w)
	}
	inBurst = time.Since(w.at) < burst
	if g := l.glances[dir]; g != nil {
		return g, inBurst
	}
	switch age := time.Since(listed.Asked); {
	case listed.Cut, age < t.lifeOf(listed)/2:
		return nil, inBurst // a listing does not answer for it
	case !inBurst && !listed.Has && !listed.Asked.IsZero():
		return nil, inBurst // nor would another one
	case age < t.lifeOf(listed):
		t.askedLocked(w, dir, base, listed) // and is answered by the present one
		return nil, inBurst
	}
	return t.askedLocked(w, dir, base, listed), inBurst
}

// lifeOf is how long a listing answers for a name.
func (t *Tree) lifeOf(l attr.Listed) time.Duration {
	if l.Has {
		return t.options.MetadataTTL
	}
	return t.options.NegativeTTL
}

// renew counts a question for name that what is known has answered. A listing that answers for many is made anew before it is too
// old, so that they do not have to wait for that.
func (t *Tree) renew(name string) {
	listed := t.attrs.Listed(name)
	age, life := time.Since(listed.Asked), t.lifeOf(listed)
	if name == "" || listed.Cut || age < life/2 || age >= life {
		return
	}
	dir := parent(name)
	l := &t.looks
	l.mu.Lock()
	defer l.mu.Unlock()
	if w, ok := l.dirs.Get(dir); ok && l.glances[dir] == nil {
		t.askedLocked(w, dir, path.Base(name), listed)
	}
}

// askedLocked counts a question for base in dir, and begins a listing if there were as many as that is worth; nil if not. The caller
// holds looks.mu.
func (t *Tree) askedLocked(w *looked, dir, base string, listed attr.Listed) *glance {
	w.ask(base)
	worth := max(listed.Entries, w.large)
	if w.count < 2+worth/listedALook+w.vain {
		return nil
	}
	w.count = 0
	return t.glanceLocked(dir, max(firstListed, 4*w.large, 2*worth))
}

// ask counts base, unless it was one of the last few.
func (w *looked) ask(base string) {
	now := time.Now()
	switch pause := now.Sub(w.at); {
	case pause > vainFor:
		w.names, w.count, w.vain = nil, 0, 0
	case pause > lookPause:
		w.names, w.count = nil, 0
	}
	w.at = now
	for _, name := range w.names {
		if name == base {
			return
		}
	}
	w.count++
	if w.names = append(w.names, base); len(w.names) > 4 {
		w.names = w.names[1:]
	}
}

// glanceLocked starts to list dir, up to most entries; nil if the Tree is closed. The caller holds looks.mu.
func (t *Tree) glanceLocked(dir string, most int) *glance {
	if !t.begin() {
		return nil
	}
	g := &glance{began: time.Now(), done: make(chan struct{})}
	g.room.Store(int64(min(most, max(1, t.options.MaxEntries/2))))
	t.looks.glances[dir] = g
	go func() { // ends with the listing, or with the Tree
		defer t.work.Done()
		g.entries, g.err = t.glance(dir, &g.room)
		for _, tell := range t.endGlance(dir, g) {
			tell()
		}
	}()
	return g
}

// glance lists dir into what is known, and returns how many entries came.
func (t *Tree) glance(dir string, room *atomic.Int64) (int, error) {
	ctx, cancel := context.WithCancel(t.ctx)
	defer cancel()
	l := t.newListing(cancel)
	l.room = room
	err := t.list(backends.WithWhole(ctx), dir, l, &overlay{})
	return l.list.Len(), err
}

// endGlance notes how a listing ended, and returns who is to be told of it.
func (t *Tree) endGlance(dir string, g *glance) []func() {
	l := &t.looks
	l.mu.Lock()
	defer l.mu.Unlock()
	defer close(g.done)
	delete(l.glances, dir)
	if w, ok := l.dirs.Peek(dir); ok {
		switch {
		case g.err == nil:
			w.large, w.vain = 0, 0
		case g.err == errLarge:
			w.large = max(w.large, g.entries)
		default:
			w.failed()
		}
	}
	return g.tell
}

// lookedInVain notes that a listing of dir did not answer a question.
func (t *Tree) lookedInVain(dir string) {
	t.looks.mu.Lock()
	defer t.looks.mu.Unlock()
	if w, ok := t.looks.dirs.Peek(dir); ok {
		w.failed()
	}
}

func (w *looked) failed() { w.vain = min(max(2, 2*w.vain), mostLooks) }

// underWay returns the listing of dir that is under way, nil if there is none. Who asks wants all of it.
func (t *Tree) underWay(dir string) *glance {
	l := &t.looks
	l.mu.Lock()
	defer l.mu.Unlock()
	g := l.glances[dir]
	if g != nil {
		g.room.Add(int64(maxListed))
	}
	return g
}

// maxListed is more entries than any directory has.
const maxListed = 1 << 40

// away reports whether err says that the server cannot be asked now.
func away(err error) bool {
	return err != nil && err != errLarge && backends.ClassOf(err) != backends.Final
}
