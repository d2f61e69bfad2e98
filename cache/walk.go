package cache

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// A program that works in one child of a directory and then in the next one is on a walk, and likely to come to all that lies
// below: find, du, a backup, a build. What it will list is listed ahead of it then, in the order in which it will come, as many
// directories at a time as the server bears, and as far ahead as the walk has shown to go. Who waits for the server himself is
// not held up: on a server where each question needs a session one is left, and on the others no more is on its way than
// is answered as quickly as one question alone.
const (
	walkPause  = time.Second // a walk that does not move for so long, and four short listings, has stopped
	maxWalks   = 4           // at a time, in one tree
	stepsKept  = 1 << 10     // directories of which it is remembered where somebody worked in them
	firstAhead = 32          // directories listed ahead at first
	mostAhead  = 512
	aheadNames = 200_000 // entries listed ahead that nobody came for yet
	mostPlaces = 100_000 // directories of a walk that are remembered
	firstLane  = 16      // listings ahead on their way at first
	mostLane   = 64
	smallList  = 400 // entries of a listing whose time tells how busy the server is
)

// walks is what is known of the walks in a tree. Its lock is taken before those of looks and attrs.
type walks struct {
	on atomic.Bool // there is a walk

	mu     sync.Mutex
	steps  *simplelru.LRU[string, *steps] // by directory
	all    []*walk
	flying int           // listings ahead on their way
	lane   int           // how many there may be
	best   time.Duration // that a listing took
	rest   time.Time     // until when nothing is listed ahead, for the server is away
	timer  *time.Timer   // ends walks that have stopped; nil if there is none
	ended  bool
}

// steps is where somebody worked below a directory.
type steps struct {
	child string // the last one in which he did
	at    time.Time
	run   int // children in a row
	need  int // that make a walk
}

// walk is somebody who comes through one directory after the other below root. Its places are a tree of directories that he has
// not left behind, each with those in it in the order in which he is believed to come to them.
type walk struct {
	root    *place
	places  map[string]*place
	order   order
	window  int // directories that may be ahead, or on their way to it
	ahead   int // listed ahead, not visited yet
	names   int // that they have
	flying  int
	used    int
	wasted  int
	movedAt time.Time
	inHand  bool          // the last directory was there when he came
	stays   time.Duration // in a directory that was there when he came; 0 if that is not known
}

// order is that in which the directories of a directory are visited.
type order bool

const (
	asListed order = false
	byName   order = true
)

// place is a directory on the way of a walk.
type place struct {
	name  string
	state placeState
	at    time.Time // when it was listed ahead
	names int       // that it has
	up    *place    // nil for the root
	order order     // of kids
	kids  []*place  // nil until they are known
}

type placeState uint8

const (
	toList placeState = iota
	onItsWay
	listedAhead
	passed // listed or visited by others, or not to be listed
)

func newWalks() walks {
	all, err := simplelru.NewLRU[string, *steps](stepsKept, nil)
	if err != nil {
		panic(err) // only for a size below one
	}
	return walks{steps: all, lane: firstLane}
}

// stop ends all walks for good.
func (w *walks) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended, w.all = true, nil
	if w.timer != nil {
		w.timer.Stop()
	}
}

// visited notes that somebody works in dir: he lists it, or looks a name up in it.
func (t *Tree) visited(dir string) {
	if t.options.MetadataTTL == 0 || dir == "" {
		return // what is listed ahead could not be used; and nothing is beside the root
	}
	w, now := &t.walks, time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return
	}
	for _, one := range w.all {
		if isBelow(dir, one.root.name) {
			t.walked(one, dir, now)
		}
	}
	for child := dir; child != ""; child = parent(child) {
		root := parent(child)
		if before, ok := w.step(root, child, now); ok {
			t.startWalk(root, before, child, now)
		}
	}
	t.walkOn(now)
}

// step notes that somebody works in child, and reports whether that makes a walk below dir, and where he was before.
func (w *walks) step(dir, child string, now time.Time) (before string, walks bool) {
	s, ok := w.steps.Get(dir)
	if !ok {
		w.steps.Add(dir, &steps{child: child, at: now, run: 1, need: 2})
		return "", false
	}
	pause := now.Sub(s.at)
	s.at = now
	if pause > w.pause() {
		s.run = 0
		if s.child == child {
			s.run = 1
		}
	}
	if s.child == child {
		return "", false
	}
	before, s.child = s.child, child
	s.run++
	return before, s.run >= s.need
}

// walked notes that the walk has come to dir; the caller holds walks.mu.
func (t *Tree) walked(one *walk, dir string, now time.Time) {
	p := one.places[dir]
	if up := one.places[parent(dir)]; p == nil && up != nil && up.kids != nil && dir != one.root.name {
		if up.order == one.order {
			one.order = !one.order // he comes to them in another order
		}
		t.load(one, up, dir)
		p = one.places[dir]
	}
	if p == nil {
		one.movedAt, one.inHand = now, false
		return
	}
	found := p.state == listedAhead
	if p.state == toList { // what is ahead is further away than where he is
		one.window = min(one.window+one.window/4, mostAhead)
	}
	if found && now.Sub(p.at) < t.options.MetadataTTL {
		one.used++
		one.window = min(one.window+2, mostAhead)
		if one.inHand {
			one.stays = (3*one.stays + now.Sub(one.movedAt)) / 4
		}
	}
	if p.state != passed { // else he has been here before
		one.inHand = found
	}
	one.movedAt = now
	one.take(p)
	if p.kids == nil {
		t.load(one, p, "")
	}
	for q := p; q.up != nil; q = q.up {
		kids := q.up.kids
		for len(kids) > 0 && kids[0] != q {
			one.leave(kids[0])
			kids = kids[1:]
		}
		q.up.kids = kids
	}
}

// take makes p a place that is not ahead any more.
func (one *walk) take(p *place) {
	if p.state == listedAhead {
		one.ahead--
		one.names -= p.names
	}
	p.state = passed
}

// leave forgets p and what is below it.
func (one *walk) leave(p *place) {
	if p.state == listedAhead {
		one.wasted++
	}
	one.take(p)
	delete(one.places, p.name)
	for _, kid := range p.kids {
		one.leave(kid)
	}
	p.kids = nil
}

// startWalk has what lies below root listed ahead, where somebody went from one child to another; the caller holds walks.mu.
func (t *Tree) startWalk(root, before, child string, now time.Time) {
	w := &t.walks
	if now.Before(w.rest) {
		return
	}
	for i, one := range w.all {
		switch {
		case isBelow(root, one.root.name):
			return // it comes there by itself
		case isBelow(one.root.name, root):
			w.all = append(w.all[:i], w.all[i+1:]...)
			t.addWalk(root, before, child, now, max(one.window, firstAhead), one.used)
			return
		}
	}
	if len(w.all) == maxWalks {
		oldest := 0
		for i := range w.all {
			if w.all[i].movedAt.Before(w.all[oldest].movedAt) {
				oldest = i
			}
		}
		t.endWalk(oldest)
	}
	t.addWalk(root, before, child, now, firstAhead, 0)
}

func (t *Tree) addWalk(root, before, child string, now time.Time, window, used int) {
	one := &walk{root: &place{name: root}, places: map[string]*place{}, window: window, used: used, movedAt: now}
	one.places[root] = one.root
	if l, _, ok := t.attrs.Told(root); ok {
		i, there := l.Find(before[strings.LastIndexByte(before, '/')+1:])
		k, here := l.Find(child[strings.LastIndexByte(child, '/')+1:])
		one.order = order(there && here && k < i)
		one.root.state = passed
		t.load(one, one.root, child)
		if p := one.places[child]; p != nil {
			p.state = passed
		}
	}
	t.walks.all = append(t.walks.all, one)
	t.walks.on.Store(true)
}

// load learns the directories in p from its listing, from the child on in which somebody works, "" if he does in none; the caller
// holds walks.mu.
func (t *Tree) load(one *walk, p *place, child string) {
	l, _, ok := t.attrs.Told(p.name)
	if !ok || len(one.places) >= mostPlaces {
		return
	}
	for _, kid := range p.kids {
		one.leave(kid)
	}
	p.kids, p.order = []*place{}, one.order
	for i := range l.Len() {
		if e := l.At(i); e.IsDir() {
			p.kids = append(p.kids, &place{name: join(p.name, e.Name), up: p})
		}
	}
	if p.order == byName {
		slices.SortFunc(p.kids, func(a, b *place) int { return strings.Compare(a.name, b.name) })
	}
	if i := slices.IndexFunc(p.kids, func(kid *place) bool { return kid.name == child }); i > 0 {
		p.kids = p.kids[i:]
	}
	for _, kid := range p.kids {
		one.places[kid.name] = kid
	}
}

// endWalk forgets a walk. One that was of little use is believed in later the next time. The caller holds walks.mu.
func (t *Tree) endWalk(i int) {
	w := &t.walks
	one := w.all[i]
	w.all = append(w.all[:i], w.all[i+1:]...)
	w.on.Store(len(w.all) > 0)
	if s, ok := w.steps.Peek(one.root.name); ok {
		s.run = 0
		if one.used < one.wasted+one.ahead {
			s.need = min(2*s.need, 64)
		} else {
			s.need = 2
		}
	}
}

// walkOn ends walks that have stopped and starts the listings that the others allow; the caller holds walks.mu.
func (t *Tree) walkOn(now time.Time) {
	w := &t.walks
	for i := len(w.all) - 1; i >= 0; i-- {
		one := w.all[i]
		if now.Sub(one.movedAt) >= w.pause() || one.wasted > firstAhead+one.used || now.Before(w.rest) {
			t.endWalk(i)
		}
	}
	for _, one := range w.all {
		for w.flying < t.lanes() && t.mayGoOn(one) {
			p := one.next(one.root, now, t.options.MetadataTTL)
			if p == nil {
				break
			}
			t.goAhead(one, p)
		}
	}
	if len(w.all) == 0 || w.ended {
		return
	}
	if w.timer == nil {
		w.timer = time.AfterFunc(w.pause(), t.endWalks)
	} else {
		w.timer.Reset(w.pause())
	}
}

// endWalks is called when no walk has moved for a while.
func (t *Tree) endWalks() {
	t.walks.mu.Lock()
	defer t.walks.mu.Unlock()
	t.walkOn(time.Now())
}

// lanes is how many listings ahead may be on their way.
func (t *Tree) lanes() int {
	if caps := t.Caps(); caps.Streams > 0 && !caps.ManyLists {
		return caps.Streams // there is one session more
	}
	return t.walks.lane
}

// mayGoOn reports whether the walk is near enough to what is listed ahead of it.
func (t *Tree) mayGoOn(one *walk) bool {
	n := one.ahead + one.flying
	return n < one.window && one.names < min(aheadNames, t.options.MaxEntries/4) &&
		time.Duration(n)*one.stays < t.options.MetadataTTL/2 // else it would be too old when he comes
}

// next returns the directory in or below p that should be listed next, nil if there is none or he is to come nearer first: of one
// directory not too many are listed whose children would be in the way of those that come before.
func (one *walk) next(p *place, now time.Time, life time.Duration) *place {
	found, _ := one.nextBelow(p, now, life)
	return found
}

func (one *walk) nextBelow(p *place, now time.Time, life time.Duration) (found *place, enough bool) {
	if p.state == listedAhead && now.Sub(p.at) >= life {
		one.take(p)
		one.wasted++
		p.state = toList
	}
	if p.state == toList {
		return p, false
	}
	open := 0
	for _, kid := range p.kids {
		if found, enough = one.nextBelow(kid, now, life); found != nil || enough {
			return found, enough
		}
		if kid.state == onItsWay || kid.state == listedAhead && len(kid.kids) > 0 {
			open++
		}
		if open >= one.window/2 {
			return nil, true
		}
	}
	return nil, false
}

// goAhead lists p ahead of the walk, or goes on with its children if it is known; the caller holds walks.mu.
func (t *Tree) goAhead(one *walk, p *place) {
	p.state = passed
	if _, asked, ok := t.attrs.Told(p.name); ok && time.Since(asked) < t.options.MetadataTTL/2 {
		if p.kids == nil {
			t.load(one, p, "")
		}
		return
	}
	l := &t.looks
	l.mu.Lock()
	defer l.mu.Unlock()
	if w, ok := l.dirs.Peek(p.name); ok && w.large > 0 {
		return
	}
	g, began := l.glances[p.name], time.Now() // somebody may be waiting for it
	if g == nil {
		g = t.glanceLocked(p.name, firstListed)
	}
	if g == nil {
		return
	}
	g.tell = append(g.tell, func() { t.cameAhead(one, p, g, began) })
	p.state = onItsWay
	one.flying++
	t.walks.flying++
}

// cameAhead is told that a listing ahead of a walk, which began at began, has ended.
func (t *Tree) cameAhead(one *walk, p *place, g *glance, began time.Time) {
	w, now := &t.walks, time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	one.flying--
	w.flying--
	if away(g.err) {
		w.rest = now.Add(restAway)
	}
	visited := p.state == passed // meanwhile
	p.state = passed
	if g.err == nil && one.places[p.name] == p {
		if visited {
			one.used++
			one.window = min(one.window+2, mostAhead)
		} else {
			p.state, p.at, p.names = listedAhead, began, g.entries
			one.ahead++
			one.names += p.names
		}
		t.load(one, p, "")
	}
	if g.err == nil {
		w.measure(g.entries, now.Sub(began), true)
	}
	t.walkOn(now)
}

// restAway is how long nothing is listed ahead after the server was away.
const restAway = 5 * time.Second

// pause is how long a walk may not move until it has stopped; the caller holds walks.mu.
func (w *walks) pause() time.Duration { return walkPause + 4*w.best }

// measure learns from the time that a listing took, how far away the server is, and if it was one ahead how many of them may be on
// their way; the caller holds walks.mu.
func (w *walks) measure(names int, took time.Duration, wasAhead bool) {
	if names >= smallList {
		return
	}
	if w.best == 0 || took < w.best {
		w.best = took
	}
	w.best += w.best / 64 // a way that became longer is not held against it for ever
	switch {
	case !wasAhead:
	case took > 3*w.best+100*time.Millisecond:
		w.lane = max(w.lane/2, 4)
	default:
		w.lane = min(w.lane+1, mostLane)
	}
}

// listed notes that somebody has listed dir himself, which has so many names and took so long.
func (t *Tree) listed(dir string, names int, took time.Duration) {
	w := &t.walks
	w.mu.Lock()
	defer w.mu.Unlock()
	w.measure(names, took, false)
	for _, one := range w.all {
		if p := one.places[dir]; p != nil && p.kids == nil {
			t.load(one, p, "")
		}
	}
	t.walkOn(time.Now())
}
