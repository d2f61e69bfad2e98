// Package attr keeps names, attributes, listings and absences, each with an age.
//
// A Store remembers what a server said and when; how old an answer may be is the caller's to decide. It is bounded: the
// least recently used directory goes, with all that is known below it but its subdirectories, when there are too many
// entries. Names are as in package backends; a directory's own attributes stand with its parent's entries.
//
// What a listing told is kept as it came, a List that is never changed and that everybody who reads the listing shares; what
// was learned since lies over it.
package attr

import (
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"pierfs/backends"
)

// Store is what is known of one tree. Its methods may be called from many goroutines at once and never block on more
// than its own lock.
type Store struct {
	mu      sync.Mutex
	dirs    *simplelru.LRU[string, *directory]
	entries int // in all directories together, and one for each directory
	limit   int
	change  uint64    // counts our own changes to names, in the whole tree
	shapes  uint64    // counts the shapes that directories had; see List.Shape
	epoch   time.Time // has a reading of the clock that nobody can set
	notes   notes     // of what it comes to know; see memo.go
}

// directory is what is known of the names in one directory.
type directory struct {
	list     *List     // what a listing told; nil if there was none
	asked    time.Time // when it was asked for
	complete bool      // what is not in it was not there
	unseen   bool      // no program has seen it
	shape    uint64    // of list with what was learned since
	over               // what was learned since
	change   uint64    // Store.change when we last changed a name here; no less than when the directory was made
	born     uint64    // answers to what was asked before this moment are not taken
}

// over is what is known of single names.
type over struct {
	index   map[string]uint32 // places in records: a map of whole records would cost half as much again in spare room
	records []record
	ids     map[string]string // identities, of the names that have one; nil if none has
}

// record is one name's attributes, with what listed ones have in common.
type record struct {
	fact
	asked  int64  // when the server said so; nanoseconds since Store.epoch
	change uint64 // Store.change when we last changed the name; 0 if never
}

// New returns an empty Store that holds about limit entries.
func New(limit int) *Store {
	s := &Store{limit: max(limit, 1), epoch: time.Now()}
	s.dirs, _ = simplelru.NewLRU(1<<30, func(_ string, d *directory) { s.entries -= d.size() })
	return s
}

// expired is a record's asked when the answer is too old for any use.
const expired = -1 << 62

// Ages are kept by the clock that runs evenly: when somebody sets the other one back, answers must not live longer for it.
func (s *Store) packTime(t time.Time) int64       { return int64(t.Sub(s.epoch)) }
func (s *Store) unpackTime(asked int64) time.Time { return s.epoch.Add(time.Duration(asked)) }

// State says what Get knows.
type State uint8

const (
	Unknown State = iota
	Present
	Absent
)

// Get returns what is known of name and when the server was asked for it.
func (s *Store) Get(name string) (info backends.Info, asked time.Time, state State) {
	return s.get(name, false)
}

// GetListed is Get for a caller to whom a listing will do that no program has seen.
func (s *Store) GetListed(name string) (info backends.Info, asked time.Time, state State) {
	return s.get(name, true)
}

func (s *Store) get(name string, listed bool) (info backends.Info, asked time.Time, state State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	dir, base := split(name)
	d, ok := s.dirs.Get(dir)
	if !ok {
		return info, asked, Unknown
	}
	r, id, ok := s.find(d, base)
	if _, single := d.get(base); d.unseen && !single && !listed && (!ok || r.unit > 0) {
		return info, asked, Unknown // whoever asks for the name itself is told more
	}
	switch {
	case ok && r.absent:
		return info, s.unpackTime(r.asked), Absent
	case ok && r.unknown():
		return info, asked, Unknown
	case ok:
		return r.info(base, id), s.unpackTime(r.asked), Present
	case name != "" && d.complete:
		return info, d.asked, Absent
	}
	return info, asked, Unknown
}

// find returns what is known of a name in d.
func (s *Store) find(d *directory, base string) (r record, id string, ok bool) {
	if r, ok := d.get(base); ok {
		return r, d.ids[base], true
	}
	if d.list == nil {
		return r, "", false
	}
	i, ok := d.list.Find(base)
	if !ok {
		return r, "", false
	}
	e := d.list.entry(i)
	return record{fact: e.fact, asked: s.packTime(d.asked)}, d.list.id(e), true
}

// Mark is a moment in the life of a Store, taken before a server is asked. An answer that comes after we changed the name
// ourselves may be older than our change, and is not remembered.
type Mark uint64

// Mark returns the present moment.
func (s *Store) Mark() Mark {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Mark(s.change)
}

// Answer remembers that the server, asked after m, described name so; false if the answer was overtaken.
func (s *Store) Answer(name string, info backends.Info, asked time.Time, m Mark) bool {
	return s.answer(name, record{fact: pack(info), asked: s.packTime(asked)}, info.ID, m)
}

// AnswerAbsent remembers that the server, asked after m, had no such name; false if the answer was overtaken.
func (s *Store) AnswerAbsent(name string, asked time.Time, m Mark) bool {
	return s.answer(name, record{fact: fact{absent: true}, asked: s.packTime(asked)}, "", m)
}

func (s *Store) answer(name string, r record, id string, m Mark) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !r.absent && s.changedIn(name, m) {
		r.asked = expired // the directory may have been asked for before we changed a name in it
	}
	if !s.take(name, r, id, m) {
		return false
	}
	s.shrink()
	return true
}

// take remembers what the server, asked after m, said of name; false if we have changed the name since. The caller holds the lock.
func (s *Store) take(name string, r record, id string, m Mark) bool {
	dir, base := split(name)
	d := s.dir(dir)
	old, _ := d.get(base)
	r.change = old.change
	if Mark(d.born) > m || Mark(r.change) > m {
		return false
	}
	s.noteAnswer(name, r, id)
	d.set(s, base, r, id)
	return true
}

// changedIn reports whether we have changed a name in the directory name since m, as far as anything is known of it; the caller
// holds the lock.
func (s *Store) changedIn(name string, m Mark) bool {
	d, ok := s.dirs.Peek(name)
	return ok && Mark(d.change) > m
}

// Changed reports whether we changed name since m, or may have.
func (s *Store) Changed(name string, m Mark) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	dir, base := split(name)
	d := s.dir(dir)
	r, _ := d.get(base)
	return Mark(d.born) > m || Mark(r.change) > m
}

// Put remembers that we made name what info says.
func (s *Store) Put(name string, info backends.Info) { s.Change(Told{}, Made(name, info)) }

// PutAbsent remembers that we removed name.
func (s *Store) PutAbsent(name string) { s.Change(Told{}, Removed(name)) }

// Forget drops what is known of name, whose fate is uncertain: the next question asks.
func (s *Store) Forget(name string) { s.Change(Told{}, Uncertain(name)) }

// Edit is what a change of ours did to one name.
type Edit struct {
	name    string
	info    backends.Info
	state   State
	altered bool // the name was there before, and its directory is what it was
}

// Made says that we made name, or put another content in its place.
func Made(name string, info backends.Info) Edit { return Edit{name: name, info: info, state: Present} }

// Altered says that we changed what name stands for, and nothing of its directory.
func Altered(name string, info backends.Info) Edit {
	return Edit{name: name, info: info, state: Present, altered: true}
}

// Removed says that we removed name.
func Removed(name string) Edit { return Edit{name: name, state: Absent} }

// Uncertain says that nobody knows what became of name.
func Uncertain(name string) Edit { return Edit{name: name} }

// Name is the name that was changed.
func (e Edit) Name() string { return e.name }

// Alters reports whether the directory of the name is what it was before.
func (e Edit) Alters() bool { return e.altered }

// Told is what a server said of directories once a change of ours was done, by their names. Mark is from before the change.
type Told struct {
	Mark  Mark
	Asked time.Time
	Dirs  map[string]backends.Info
}

// Change remembers a change of ours, which overtakes what was on its way of these names. The time of a directory is no longer what
// it was: what told says of it holds, unless another change of ours in it has ended since told.Mark, and else it is too old to be
// used. So is what an Edit says of a directory that was altered, if a change of ours in it has ended since then.
func (s *Store) Change(told Told, edits ...Edit) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var last []string // directories of which told knows the last
	for dir := range told.Dirs {
		if Mark(s.dir(dir).change) <= told.Mark {
			last = append(last, dir)
		}
	}
	for _, e := range edits {
		s.edit(e, told.Mark)
	}
	for _, dir := range last {
		info := told.Dirs[dir]
		s.take(dir, record{fact: pack(info), asked: s.packTime(told.Asked)}, info.ID, told.Mark)
	}
	s.shrink()
}

// edit is Change of one name, for a caller who holds the lock. What is said of a directory that was altered is from before
// changes of ours in it that have ended since m.
func (s *Store) edit(e Edit, m Mark) {
	var r record
	switch e.state {
	case Present:
		r = record{fact: pack(e.info), asked: s.packTime(time.Now())}
	case Absent:
		r = record{fact: fact{absent: true}, asked: s.packTime(time.Now())}
	}
	dir, base := split(e.name)
	d := s.dir(dir)
	if e.altered && s.changedIn(e.name, m) {
		r.asked = expired
	}
	s.change++
	d.change, r.change = s.change, s.change
	s.note(note{kind: noteFact, name: e.name, fact: r.fact, id: e.info.ID})
	d.set(s, base, r, e.info.ID)
	if e.name != "" && !e.altered {
		s.expire(dir)
	}
}

// expire makes what is known of name too old to be used; the caller holds the lock.
func (s *Store) expire(name string) {
	dir, base := split(name)
	d, ok := s.dirs.Peek(dir)
	if !ok {
		return
	}
	if r, id, ok := s.find(d, base); ok {
		r.asked = expired
		d.set(s, base, r, id)
	}
}

// ForgetBelow drops all that is known of name and below it.
func (s *Store) ForgetBelow(name string) {
	s.Forget(name)
	s.ForgetIn(name)
}

// Move carries what is known below from, which we have renamed, over to what is below to.
func (s *Store) Move(from, to string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.note(note{kind: noteMove, name: from, to: to})
	s.move(from, to)
}

// move is Move for a caller who holds the lock.
func (s *Store) move(from, to string) {
	s.forgetIn(to)
	for _, dir := range s.dirs.Keys() {
		if dir != from && !strings.HasPrefix(dir, from+"/") {
			continue
		}
		d, _ := s.dirs.Peek(dir)
		s.dirs.Remove(dir)
		s.dirs.Add(to+dir[len(from):], d)
		s.entries += d.size()
	}
}

// ForgetIn drops all that is known below name, of which a change was remembered just now.
func (s *Store) ForgetIn(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.note(note{kind: noteForgetIn, name: name})
	s.forgetIn(name)
}

// forgetIn is ForgetIn for a caller who holds the lock.
func (s *Store) forgetIn(name string) {
	for _, dir := range s.dirs.Keys() {
		if dir == name || strings.HasPrefix(dir, name+"/") {
			s.dirs.Remove(dir)
		}
	}
}

// AnswerList remembers l as all that dir held when the server was asked, after m. Of names that we changed since, what we made of
// them holds, and what became of the others is in l. If complete is false the server may have left names out, and what is not
// listed stays unknown. The Store has l from then on. It returns false if the listing is of no use, because nobody knows any more
// which names we have changed.
//
// Unseen says that no program has asked for the listing. What is not in it, and times that a server tells only coarsely in
// listings, are then not what Get knows, until Seen is called.
func (s *Store) AnswerList(dir string, l *List, asked time.Time, m Mark, complete, unseen bool) bool {
	l.seal()
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.dir(dir)
	if Mark(d.born) > m {
		return false
	}
	l.shape = s.reshape(d)
	s.entries -= d.size()
	was := d.over
	unseen = unseen && (d.list == nil || d.unseen)
	d.list, d.asked, d.complete, d.unseen, d.over = l, asked, complete, unseen, over{}
	d.born = min(d.change, uint64(m)) // no answer from before a change is taken, and the changes up to m are forgotten here
	s.entries += d.size()
	for base, i := range was.index {
		r := was.records[i]
		// What we changed after m, or in what is a directory, may not be in the listing, or as it was before; what was asked for
		// after the listing is newer than it; the root's own attributes stand here too.
		if base == "" || Mark(r.change) > m || r.asked >= s.packTime(asked) && !r.unknown() || s.changedIn(path.Join(dir, base), m) {
			d.set(s, base, r, was.ids[base])
		}
	}
	s.noteListing(dir, d)
	s.shrink()
	return true
}

// Listing returns all entries of dir, in the order in which they were listed, if a complete listing is known, and when it was
// asked for.
func (s *Store) Listing(dir string) (l *List, asked time.Time, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, ok := s.dirs.Get(dir)
	if !ok || !d.complete {
		return nil, time.Time{}, false
	}
	_, self := d.index[""]
	if len(d.index) == 0 || self && len(d.index) == 1 {
		return d.list, d.asked, d.list.vague == 0
	}
	l = &List{base: d.list, better: map[int]better{}, shape: d.shape}
	vague := d.list.vague
	for _, base := range slices.Sorted(maps.Keys(d.index)) { // what is not in the list comes in the same order each time
		r := d.records[d.index[base]]
		i, listed := d.list.Find(base)
		switch {
		case base == "":
		case r.unknown():
			return nil, time.Time{}, false
		case listed && r.absent:
			l.hidden = append(l.hidden, i)
		case listed:
			l.better[i] = better{r.info(base, d.ids[base]), r.asked == expired}
		case !r.absent:
			l.Add(r.info(base, d.ids[base]))
		}
		if listed && d.list.entry(i).known == 0 {
			vague--
		}
	}
	slices.Sort(l.hidden)
	l.seal()
	return l, d.asked, vague == 0
}

// Told returns the last complete listing of dir as it came, without what was learned since, and when it was asked for. It is the
// same List until the next listing.
func (s *Store) Told(dir string) (l *List, asked time.Time, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, ok := s.dirs.Peek(dir)
	if !ok || !d.complete {
		return nil, time.Time{}, false
	}
	return d.list, d.asked, true
}

// Seen notes that a program is shown what is known of dir.
func (s *Store) Seen(dir string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d, ok := s.dirs.Peek(dir); ok {
		d.unseen = false
	}
}

// Listed is what is known of the last listing of a directory.
type Listed struct {
	Entries int       // 0 if there was none
	Cut     bool      // some may have been left out
	Asked   time.Time // when it was asked for
	Has     bool      // the name asked for is in it
}

// Listed tells of the last listing of the directory of name.
func (s *Store) Listed(name string) (l Listed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	dir, base := split(name)
	d, ok := s.dirs.Peek(dir)
	if !ok || d.list == nil {
		return l
	}
	_, has := d.list.Find(base)
	return Listed{d.list.Len(), !d.complete, d.asked, has}
}

// Len returns the number of entries held, a directory counting as one more.
func (s *Store) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.entries
}

// dir returns the directory, making it if it is new; the caller holds the lock.
func (s *Store) dir(name string) *directory {
	if d, ok := s.dirs.Get(name); ok {
		return d
	}
	d := &directory{change: s.change, born: s.change}
	s.dirs.Add(name, d)
	s.entries++
	return d
}

// size is what a directory counts as.
func (d *directory) size() int {
	n := 1 + len(d.records)
	if d.list != nil {
		n += d.list.Len()
	}
	return n
}

func (o *over) get(name string) (r record, ok bool) {
	i, ok := o.index[name]
	if ok {
		r = o.records[i]
	}
	return r, ok
}

// set puts what is known of one name over all else; the caller holds the lock of s.
func (d *directory) set(s *Store, name string, r record, id string) {
	before := s.face(d, name)
	d.over.set(s, name, r, id)
	if d.list != nil && name != "" && s.face(d, name) != before {
		s.reshape(d)
	}
}

// face is what of a name tells one shape of a directory from another.
type face struct {
	state State // Unknown of a name whose fate is uncertain
	known bool  // and so is its type
	mode  os.FileMode
}

func (s *Store) face(d *directory, name string) face {
	r, _, ok := s.find(d, name)
	switch {
	case !ok || r.absent:
		return face{state: Absent}
	case r.unknown():
		return face{}
	}
	return face{Present, r.known.Has(backends.HasType), fileMode(r.mode).Type()}
}

// reshape gives d a shape that no directory had before, and returns it; the caller holds the lock.
func (s *Store) reshape(d *directory) uint64 {
	s.shapes++
	d.shape = s.shapes
	return d.shape
}

// set puts what is known of one name over all else; the caller holds the lock of s, to whose directories o belongs.
func (o *over) set(s *Store, name string, r record, id string) {
	if o.index == nil {
		o.index = map[string]uint32{}
	}
	i, known := o.index[name]
	if !known || id != "" {
		name, id = strings.Clone(name), strings.Clone(id) // they are parts of a path and of a reply, which they would keep alive
	}
	if known {
		o.records[i] = r
	} else {
		o.index[name] = uint32(len(o.records))
		o.records = append(o.records, r)
		s.entries++
	}
	switch {
	case id == "":
		delete(o.ids, name)
	case o.ids == nil:
		o.ids = map[string]string{name: id}
	default:
		o.ids[name] = id
	}
}

// shrink drops the least recently used directories, but never the last one, until the limit holds.
func (s *Store) shrink() {
	for s.entries > s.limit && s.dirs.Len() > 1 {
		s.dirs.RemoveOldest()
	}
}

// unknown reports whether r only says that its name's fate is uncertain.
func (r record) unknown() bool { return !r.absent && r.known == 0 }

// split returns the directory that holds name and name's last element; the root is the element "" of itself.
func split(name string) (dir, base string) {
	dir, base = path.Split(name)
	return strings.TrimSuffix(dir, "/"), base
}
