package ftp

import (
	"strings"
	"sync"
	"time"

	"pierfs/backends"
	"pierfs/backends/ftp/listing"
)

// faces remembers what listings showed lately and questions that cost little do not tell: type, mode and owner of an entry,
// where a link leads, and which directories were listed whole. It spares vsftpd the pattern of Backend.question, for which it
// reads the whole directory (measured: 10 us for each entry of it), and one listing for each link of a directory.
//
// What was asked for before we changed a name ourselves says nothing of it any more, whenever it arrives: the mode of a moment ago
// would be taken for that of now, and given to the next content of that name.
type faces struct {
	mu      sync.Mutex
	seen    map[string]face
	changed map[string]time.Time // when we last changed a name
	before  time.Time            // what was asked for before is of no use for any name
	listed  map[string]time.Time // when the listing began that went to their end, or was too long to be remembered
	long    map[string]bool      // of listed: those that are too long
	asked   map[string]asked     // for patterns in a directory
	lost    int                  // how often seen was emptied
}

type face struct {
	info   backends.Info
	target string
	at     time.Time
	doubt  bool // what it was is not known any more
}

// file reports whether it is known to be no directory, below which something may be known.
func (f face) file() bool { return !f.doubt && f.info.Mode.IsRegular() }

// asked counts questions since at.
type asked struct {
	at time.Time
	n  int
}

// mark is where faces were when a listing began.
type mark struct {
	at   time.Time
	lost int
}

const (
	facesKept  = 32 << 10
	listKept   = facesKept / 2 // entries of one directory that are remembered
	listedKept = 1024
	fileLife   = time.Minute      // of a file's mode and owner; its size and time are asked for each time
	restLife   = 5 * time.Second  // of everything else
	askedFirst = 3                // patterns of one directory in fileLife, before it is listed: single questions are one round trip
	goneLife   = 15 * time.Second // of a listing that did not show a name
	longLife   = time.Hour        // before a directory that was too long is listed for its faces again
)

// note takes what the server has said of name, for which it was asked then.
func (f *faces) note(name string, info backends.Info, target string, then time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !then.Before(f.before) && !then.Before(f.changed[name]) {
		f.put(name, face{info: info, target: target, at: time.Now()})
	}
}

// own takes what name is after a change of ours.
func (f *faces) own(name string, info backends.Info) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.change(name)
	f.put(name, face{info: info, at: time.Now()})
}

// change notes with mu held that we have changed name, or may have.
func (f *faces) change(name string) {
	if len(f.changed) >= facesKept {
		clear(f.changed)
		f.before = time.Now()
	}
	if f.changed == nil {
		f.changed = make(map[string]time.Time)
	}
	f.changed[name] = time.Now()
}

// put is note with mu held. What is forgotten for want of room must not pass for absent, so that the listings go with it.
func (f *faces) put(name string, seen face) {
	if len(f.seen) >= facesKept {
		f.empty()
	}
	if f.seen == nil {
		f.seen = make(map[string]face)
	}
	f.seen[name] = seen
}

// empty forgets all that was seen, with mu held.
func (f *faces) empty() {
	clear(f.seen)
	clear(f.listed)
	f.lost++
}

// begin is called before a listing.
func (f *faces) begin() mark {
	f.mu.Lock()
	defer f.mu.Unlock()
	return mark{time.Now(), f.lost}
}

// complete notes that dir was listed to its end since m, unless some of it is forgotten again.
func (f *faces) complete(dir string, m mark) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m.lost == f.lost {
		f.end(dir, m.at)
		delete(f.long, dir)
	}
}

// end is what complete and tooLong have in common, with mu held.
func (f *faces) end(dir string, at time.Time) {
	if f.listed == nil || len(f.listed) >= listedKept {
		f.listed = make(map[string]time.Time)
	}
	f.listed[dir] = at
}

// worthListing reports whether dir should be listed rather than asked for a pattern: it was asked for some a moment ago, and a
// pattern costs the server as much.
func (f *faces) worthListing(dir string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.long[dir] && time.Since(f.listed[dir]) < longLife {
		return false
	}
	was := f.asked[dir]
	switch {
	case time.Since(was.at) >= fileLife:
		was = asked{at: time.Now()}
	case was.n >= askedFirst:
		return true
	}
	if f.asked == nil || len(f.asked) >= listedKept {
		f.asked = make(map[string]asked)
	}
	was.n++
	f.asked[dir] = was
	return false
}

// tooLong notes that dir has more entries than can be remembered.
func (f *faces) tooLong(dir string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.end(dir, time.Now())
	if f.long == nil || len(f.long) >= listedKept {
		f.long = make(map[string]bool)
	}
	f.long[dir] = true
}

// move notes that from is called to now.
func (f *faces) move(from, to string) {
	f.mu.Lock()
	was, known := f.seen[from]
	f.mu.Unlock()
	f.doubt(to)
	f.forget(from)
	if known && was.file() {
		was.info.Name = base(to)
		f.mu.Lock()
		defer f.mu.Unlock()
		f.put(to, was)
	}
}

// get returns what was shown of name, if that is worth anything still.
func (f *faces) get(name string) (backends.Info, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	found, ok := f.seen[name]
	life := restLife
	if found.info.Mode.IsRegular() {
		life = fileLife
	}
	return found.info, ok && !found.doubt && time.Since(found.at) < life
}

// missing reports whether name was not in its directory when that was listed a moment ago, and nothing was done to it since.
func (f *faces) missing(name string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	listed := f.listed[parent(name)]
	return !f.long[parent(name)] && time.Since(listed) < goneLife && f.seen[name].at.Before(listed)
}

// target returns where the link name leads, if a listing has just shown it.
func (f *faces) target(name string) (string, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	found, ok := f.seen[name]
	return found.target, ok && found.target != "" && time.Since(found.at) < restLife
}

// forget forgets name and what is below it.
func (f *faces) forget(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.change(name)
	was, known := f.seen[name]
	delete(f.seen, name)
	if known && was.file() {
		return
	}
	for other := range f.listed {
		if other == name || strings.HasPrefix(other, name+"/") {
			f.empty()
			return
		}
	}
}

// doubt forgets name, and that it was missing: it may have been made or changed to something that SIZE, MDTM and CWD do not tell,
// as a directory that may not be entered.
func (f *faces) doubt(name string) {
	f.forget(name)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.put(name, face{at: time.Now(), doubt: true})
}

// remember notes what a listing or a pattern shows of name that was asked for then.
func (b *Backend) remember(name string, i backends.Info, e listing.Entry, then time.Time) {
	if b.patterns() || i.Mode.Type() != 0 && e.Target != "" {
		b.faces.note(name, i, e.Target, then)
	}
}

// patterns reports whether the server has no MLST, so that it pays to remember.
func (b *Backend) patterns() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.root != "" && !b.offered.MLST
}
