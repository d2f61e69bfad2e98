package fs

import (
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"pierfs/cache"
)

// snapshot is a listing as open directories show it, from its first entry to its last, so that offsets stay good while names
// come and go.
type snapshot struct {
	listing *cache.Listing
	changes uint64 // nodes.changes of the directory when the listing was taken
	on      *ground
	number  uint64 // of no listing of this mount that shows anything else
	ending  ending
	uses    atomic.Int32
}

// ending is an entry of a listing behind which the offset is not the natural one; see keeping.stuck.
type ending struct {
	place int
	off   uint64 // 0: there is no such entry
}

// newSnapshot returns one that is in use, as on is from now on, which the caller uses.
func newSnapshot(listing *cache.Listing, changes uint64, on *ground) *snapshot {
	on.enter()
	p := &snapshot{listing: listing, changes: changes, on: on}
	return p.share()
}

// share begins one more use.
func (p *snapshot) share() *snapshot {
	p.uses.Add(1)
	return p
}

// leave ends a use, and with the last one a listing that is still arriving; nil was none.
func (p *snapshot) leave() {
	if p != nil && p.uses.Add(-1) == 0 {
		p.listing.Close()
		p.on.leave()
	}
}

// An offset is the number of a listing and a place in it: "." has the place 0, ".." 1, and the first entry 2. So what the kernel keeps of
// one listing is never taken for a part of another one.
const (
	placeDot    = 0
	placeDotDot = 1
	placeFirst  = 2

	placeBits  = 30
	placeMask  = 1<<placeBits - 1
	numberMask = 1<<(62-placeBits) - 1
)

// behind returns the offset behind what is in a place.
func (p *snapshot) behind(place int) uint64 {
	if p.ending.off != 0 && place == p.ending.place {
		return p.ending.off
	}
	return p.number<<placeBits | uint64(place+1)
}

// has returns the place at an offset, and whether the offset is one of p; else the place is that of another listing.
func (p *snapshot) has(off uint64) (place int, ours bool) {
	if off == p.ending.off && off != 0 {
		return p.ending.place + 1, true
	}
	return int(off & placeMask), off>>placeBits == p.number
}

// keeping is what we know of the names that the kernel keeps of a directory (FOPEN_CACHE_DIR).
//
// The kernel collects what is brought to those who may collect, if it comes in one piece, and shows it to them in place of asking, until the
// directory is changed through the mount, is opened by somebody who is not to have what is kept (no FOPEN_KEEP_CACHE), or we tell it to
// drop it. Nothing of that can be seen from here. So who opens a directory gets what is kept if all that anybody can have collected is
// one listing, and that is what he would be shown; and collects anew if nobody else collects any more.
type keeping struct {
	number uint64      // of the listing that the kernel collects or keeps; 0 if that may be several
	shown  cache.Shown // by it; the zero value while it is arriving
	on     *ground     // of whom it is
	ending ending      // of it
	begun  *snapshot   // of that number; nil if there are no collectors

	collectors int         // open handles that may collect
	keepers    int         // those of them for whom something was kept
	asked      int         // names that were looked up while there were keepers
	life       *time.Timer // of what may be shown to collectors; nil if there are none

	// Where a listing was collected and not to its end (its reader stopped, the server failed), the kernel collects no other one until that
	// has ended, and only what comes at the very offset behind it ends it. So the last entry of the next listing gets that offset.
	reach uint64 // what was brought of number
	ended bool   // to its end
	stuck uint64 // reach of a former number that was not; 0 none
}

const (
	// askedAtMost is how many names are looked up beside those for whom names are kept, before the kernel has to ask us for the rest of the names:
	// then it asks for attributes as well. One lookup takes 15 to 30 us.
	askedAtMost = 32
	// Names are not kept for who would ask for their attributes when these have expired: he comes too late in a lifetime, or there are too many.
	leastLife = 100 * time.Millisecond
	entryLife = 2 * time.Microsecond
)

// forget makes it uncertain what the kernel keeps.
func (k *keeping) forget() {
	if k.stuck == 0 && !k.ended {
		k.stuck = k.reach
	}
	k.number, k.shown, k.on, k.ending, k.reach, k.ended = 0, cache.Shown{}, nil, ending{}, 0, false
}

// openListing makes h one that is shown names which the kernel keeps, as far as that may be, and returns what the kernel is told.
func (s *fileSystem) openListing(h *handle) (flags uint32) {
	on := s.use()
	defer on.leave()
	if on.tree.Lifetime() == 0 {
		return 0
	}
	p, shown, left := s.nowKept(on, h.node)
	defer func() {
		if !h.keeper {
			p.leave()
		}
	}()
	t := s.nodes
	t.mu.Lock()
	defer t.mu.Unlock()
	i := t.find(h.node)
	if i == 0 {
		return 0
	}
	k := t.kept[i]
	if k == nil {
		k = &keeping{}
		t.kept[i] = k
	}
	switch {
	case p != nil && k.keeps(shown, on) && k.stuck == 0 && on == t.on:
		p.number, p.ending = k.number, k.ending
		h.now, h.keeper = p, true
		if k.keepers++; k.keepers == 1 {
			k.asked = 0
		}
		s.lives(k, h.node, left)
		flags = fuse.FOPEN_CACHE_DIR | fuse.FOPEN_KEEP_CACHE
	case k.collectors == 0:
		k.forget()
		flags = fuse.FOPEN_CACHE_DIR
	default:
		return 0
	}
	h.collector = true
	k.collectors++
	return flags
}

// nowKept returns what would be shown of a directory of which the kernel may keep names, in use, and for how long; nil if it would have to be
// asked for, or soon.
func (s *fileSystem) nowKept(on *ground, dir nodeID) (p *snapshot, shown cache.Shown, left time.Duration) {
	name, named := s.nodes.path(dir)
	if !named || !s.nodes.keepsAny(dir, on) {
		return nil, shown, 0
	}
	changes := s.nodes.changes(dir)
	known := on.tree.Known(name)
	if known == nil {
		return nil, shown, 0
	}
	n, _ := known.Len()
	left = known.Left()
	if left <= min(leastLife, on.tree.Lifetime()/2)+time.Duration(n)*entryLife {
		return nil, shown, 0
	}
	return newSnapshot(known, changes, on), known.Shown(), left
}

// keepsAny reports whether the kernel may keep names of a directory of on.
func (t *nodes) keepsAny(dir nodeID, on *ground) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := t.kept[t.find(dir)]
	return k != nil && k.number != 0 && k.on == on && k.stuck == 0
}

// keeps reports whether what the kernel may keep is one listing of on, which shows so.
func (k *keeping) keeps(shown cache.Shown, on *ground) bool {
	return k.number != 0 && shown != cache.Shown{} && k.shown == shown && k.on == on
}

// lives has the kernel drop what it keeps of a directory after a time, if somebody who may be shown it is still there: who opens the directory is
// not shown it any more, but who has it open and goes back to its beginning would be. The caller holds nodes.mu.
func (s *fileSystem) lives(k *keeping, dir nodeID, left time.Duration) {
	if k.life != nil {
		k.life.Stop()
	}
	k.life = time.AfterFunc(max(left, time.Millisecond), func() { s.notifier.add(notice{listing: dir}) })
}

// closeListing ends what openListing and readListing began.
func (s *fileSystem) closeListing(h *handle) {
	h.show(nil)
	if !h.collector {
		return
	}
	var over *snapshot
	defer func() { over.leave() }()
	t := s.nodes
	t.mu.Lock()
	defer t.mu.Unlock()
	k := t.kept[t.find(h.node)]
	if k == nil {
		return
	}
	if h.keeper {
		k.keepers--
	}
	if k.collectors--; k.collectors > 0 {
		return
	}
	if k.life != nil {
		k.life.Stop()
	}
	over, k.begun, k.life = k.begun, nil, nil
	t.drop(t.find(h.node)) // the kernel may forget a removed directory before it closes it
}

// collects reports whether somebody has the directory open whom the kernel shows what it keeps; the caller holds mu.
func (t *nodes) collects(i slot) bool {
	k := t.kept[i]
	return k != nil && k.collectors > 0
}

// show replaces the snapshot that h shows.
func (h *handle) show(p *snapshot) {
	h.mu.Lock()
	old := h.now
	h.now = p
	h.mu.Unlock()
	old.leave()
}

// showing returns the snapshot that h shows, in use; nil if there is none yet.
func (h *handle) showing() *snapshot {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.now == nil {
		return nil
	}
	return h.now.share()
}

// snapshot returns what h shows at an offset, in use, and the place that it is: of a new snapshot at 0 (opendir, rewinddir).
func (s *fileSystem) snapshot(r *request, h *handle, off uint64) (p *snapshot, place int, err error) {
	if p = h.showing(); p != nil && off != 0 {
		if place, ours := p.has(off); ours {
			return p, place, nil
		}
	}
	if off != 0 && h.collector {
		if begun := s.nodes.begun(h.node); begun != nil {
			if place, ours := begun.has(off); ours { // others began it, and the kernel showed what it kept of that
				p.leave()
				h.show(begun.share())
				return begun, place, nil
			}
			begun.leave()
		}
		s.nodes.forgetListing(h.node) // what is brought now is no part of it
		s.notifier.add(notice{listing: h.node})
	}
	if p == nil || off == 0 {
		p.leave()
		if p, err = s.take(r, h, off == 0); err != nil {
			return nil, 0, err
		}
	}
	return p, int(off & placeMask), nil // as good a place as any, of who remembers offsets longer than he has the directory open
}

// take makes h show a new snapshot, from its beginning or not, and returns it, in use.
func (s *fileSystem) take(r *request, h *handle, fromStart bool) (*snapshot, error) {
	changes := s.nodes.changes(h.node)
	var listing *cache.Listing
	err := s.at(h.node, func(name string) (err error) {
		listing, err = r.on.tree.List(r, name)
		return err
	})
	if err != nil {
		return nil, err
	}
	p := newSnapshot(listing, changes, r.on)
	p.number = s.nodes.nextNumber()
	if fromStart && h.collector {
		s.begins(h, p)
	}
	h.show(p.share())
	return p, nil
}

// nextNumber returns a number for a snapshot.
func (t *nodes) nextNumber() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.numbers = t.numbers&numberMask + 1
	return t.numbers
}

// begins is told that p is shown from its beginning to h, which may collect.
func (s *fileSystem) begins(h *handle, p *snapshot) {
	shown, left := p.listing.Shown(), p.listing.Left()
	entries, whole := p.listing.Len()
	h.mu.Lock()
	first := h.now == nil
	h.mu.Unlock()
	var over *snapshot
	defer func() { over.leave() }()
	t := s.nodes
	t.mu.Lock()
	defer t.mu.Unlock()
	k := t.kept[t.find(h.node)]
	switch {
	case k == nil:
		return
	case k.keeps(shown, p.on):
		p.number, p.ending = k.number, k.ending
		k.reach, k.ended = 0, false
	case k.collectors > 1:
		k.forget()
		s.lives(k, h.node, left) // the kernel may collect it all the same, and show it to all of them
		return
	default:
		k.forget()
		if first && k.stuck != 0 && whole && entries > 0 { // the kernel has dropped the names themselves since
			p.ending = ending{placeFirst + entries - 1, k.stuck}
		}
		k.number, k.shown, k.on, k.ending = p.number, shown, p.on, p.ending
	}
	over, k.begun = k.begun, p.share()
	s.lives(k, h.node, left)
}

// begun returns what those who may collect are shown, in use; nil if there is nothing.
func (t *nodes) begun(dir nodeID) *snapshot {
	t.mu.Lock()
	defer t.mu.Unlock()
	if k := t.kept[t.find(dir)]; k != nil && k.begun != nil {
		return k.begun.share()
	}
	return nil
}

// brought notes that p was brought up to an offset to somebody who may collect, or to its end.
func (t *nodes) brought(dir nodeID, p *snapshot, off uint64, end bool) {
	var shown cache.Shown
	if end {
		shown = p.listing.Shown()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	k := t.kept[t.find(dir)]
	if k == nil || k.number != p.number {
		return
	}
	k.reach = off
	if !end {
		return
	}
	k.ended, k.shown = true, shown
	if p.ending.off != 0 {
		k.stuck = 0
	}
}

// lookedBeside notes that a name was looked up in dir, and reports whether the kernel had better ask for the rest of the names, so that their
// attributes come along.
func (t *nodes) lookedBeside(dir nodeID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := t.kept[t.find(dir)]
	if k == nil || k.keepers == 0 {
		return false
	}
	k.asked++
	return k.asked == askedAtMost
}

// forgetListing makes it uncertain what the kernel keeps of the names in dir.
func (t *nodes) forgetListing(dir nodeID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if k := t.kept[t.find(dir)]; k != nil {
		k.forget()
	}
}

// dropListing makes the kernel ask for the names in dir before it shows them again.
func (s *fileSystem) dropListing(to notices, dir nodeID) {
	s.nodes.forgetListing(dir)
	to.InodeNotify(dir, 0, 0)
}
