// Package attr keeps names, attributes, listings and absences, each with an age.
//
// A Store remembers what a server said and when; how old an answer may be is the caller's to decide. It is bounded: the
// least recently used directory goes, with all that is known below it but its subdirectories, when there are too many
// entries. Names are as in package backends; a directory's own attributes stand with its parent's entries.
package attr

import (
	"path"
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
	epoch   time.Time // has a reading of the clock that nobody can set
}

// directory is what is known of the names in one directory.
type directory struct {
	index   map[string]uint32 // places in records: a map of whole records would cost half as much again in spare room
	records []record
	ids     map[string]string // identities, of the names that have one; nil if none has
	listed  time.Time         // when a complete listing was asked for; zero if there is none
	change  uint64            // Store.change when we last changed a name here; no less than when the directory was made
	born    uint64            // Store.change when the directory was made
}

// record is one name's attributes, packed: a million of them are no rare sight.
type record struct {
	size             int64
	modTime, accTime int64  // nanoseconds since 1970
	asked            int64  // when the server said so; nanoseconds since Store.epoch
	change           uint64 // Store.change when we last changed the name; 0 if never
	mode, uid, gid   uint32
	nlink            uint32
	known            backends.Fields
	absent           bool
	unit             timeUnit // of modTime
}

// New returns an empty Store that holds about limit entries.
func New(limit int) *Store {
	s := &Store{limit: max(limit, 1), epoch: time.Now()}
	s.dirs, _ = simplelru.NewLRU(1<<30, func(_ string, d *directory) { s.entries -= len(d.records) + 1 })
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
	s.mu.Lock()
	defer s.mu.Unlock()
	dir, base := split(name)
	d, ok := s.dirs.Get(dir)
	if !ok {
		return info, asked, Unknown
	}
	r, ok := d.get(base)
	switch {
	case ok && r.absent:
		return info, s.unpackTime(r.asked), Absent
	case ok && r.unknown():
		return info, asked, Unknown
	case ok:
		return d.info(base, r), s.unpackTime(r.asked), Present
	case name != "" && !d.listed.IsZero():
		return info, d.listed, Absent
	}
	return info, asked, Unknown
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
	r := pack(info)
	r.asked = s.packTime(asked)
	return s.answer(name, r, info.ID, m)
}

// AnswerAbsent remembers that the server, asked after m, had no such name; false if the answer was overtaken.
func (s *Store) AnswerAbsent(name string, asked time.Time, m Mark) bool {
	return s.answer(name, record{asked: s.packTime(asked), absent: true}, "", m)
}

func (s *Store) answer(name string, r record, id string, m Mark) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	dir, base := split(name)
	d := s.dir(dir)
	old, _ := d.get(base)
	r.change = old.change
	if Mark(d.born) > m || Mark(r.change) > m {
		return false
	}
	d.set(s, base, r, id)
	s.shrink()
	return true
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
func (s *Store) Put(name string, info backends.Info) {
	r := pack(info)
	r.asked = s.packTime(time.Now())
	s.changed(name, r, info.ID)
}

// PutAbsent remembers that we removed name.
func (s *Store) PutAbsent(name string) {
	s.changed(name, record{asked: s.packTime(time.Now()), absent: true}, "")
}

// Forget drops what is known of name, whose fate is uncertain: the next question asks.
func (s *Store) Forget(name string) {
	s.changed(name, record{}, "")
}

// changed is what every change of ours comes down to: the record r stands, what was on its way is overtaken, and the
// directory's own time is no longer what it was.
func (s *Store) changed(name string, r record, id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	dir, base := split(name)
	d := s.dir(dir)
	s.change++
	d.change, r.change = s.change, s.change
	d.set(s, base, r, id)
	if name != "" {
		s.expire(dir)
	}
	s.shrink()
}

// expire makes what is known of name too old to be used; the caller holds the lock.
func (s *Store) expire(name string) {
	dir, base := split(name)
	if d, ok := s.dirs.Peek(dir); ok {
		if i, ok := d.index[base]; ok {
			d.records[i].asked = expired
		}
	}
}

// ForgetBelow drops all that is known of name and below it.
func (s *Store) ForgetBelow(name string) {
	s.Forget(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, dir := range s.dirs.Keys() {
		if dir == name || strings.HasPrefix(dir, name+"/") {
			s.dirs.Remove(dir)
		}
	}
}

// AnswerList remembers l as all that dir held when the server was asked, after m; not if we changed a name there since. If
// complete is false the server may have left names out, and what is not listed stays unknown.
func (s *Store) AnswerList(dir string, l *List, asked time.Time, m Mark, complete bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.dir(dir)
	if Mark(d.change) > m {
		return
	}
	s.entries -= len(d.records)
	was := *d
	d.index, d.records, d.ids = make(map[string]uint32, l.Len()), make([]record, 0, l.Len()), nil
	d.born = d.change // no answer from before a change is taken, for the changes of names that are gone are forgotten here
	for i, name := range l.names {
		r := l.records[i]
		r.asked = s.packTime(asked)
		old, _ := was.get(name)
		r.change = old.change
		d.set(s, name, r, l.ids[i])
	}
	if self, ok := was.get(""); ok { // the root's own attributes stand here too
		d.set(s, "", self, was.ids[""])
	}
	d.listed = time.Time{}
	if complete {
		d.listed = asked
	}
	s.shrink()
}

// Listing returns all entries of dir if a complete listing is known, in no order, and when it was asked for.
func (s *Store) Listing(dir string) (l *List, asked time.Time, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, ok := s.dirs.Get(dir)
	if !ok || d.listed.IsZero() {
		return nil, time.Time{}, false
	}
	l = &List{names: make([]string, 0, len(d.records)), records: make([]record, 0, len(d.records))}
	for name, i := range d.index {
		r := d.records[i]
		if name == "" || r.absent {
			continue
		}
		if r.unknown() {
			return nil, time.Time{}, false
		}
		l.add(name, r, d.ids[name])
	}
	return l, d.listed, true
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
	d := &directory{index: map[string]uint32{}, change: s.change, born: s.change}
	s.dirs.Add(name, d)
	s.entries++
	return d
}

func (d *directory) get(name string) (r record, ok bool) {
	i, ok := d.index[name]
	if ok {
		r = d.records[i]
	}
	return r, ok
}

func (d *directory) set(s *Store, name string, r record, id string) {
	if i, ok := d.index[name]; ok {
		d.records[i] = r
	} else {
		d.index[name] = uint32(len(d.records))
		d.records = append(d.records, r)
		s.entries++
	}
	switch {
	case id == "":
		delete(d.ids, name)
	case d.ids == nil:
		d.ids = map[string]string{name: id}
	default:
		d.ids[name] = id
	}
}

// shrink drops the least recently used directories, but never the last one, until the limit holds.
func (s *Store) shrink() {
	for s.entries > s.limit && s.dirs.Len() > 1 {
		s.dirs.RemoveOldest()
	}
}

func pack(i backends.Info) record {
	return record{
		size: i.Size, modTime: nanos(i.ModTime), accTime: nanos(i.AccTime),
		mode: uint32(i.Mode), uid: i.UID, gid: i.GID, nlink: i.Nlink, known: i.Known, unit: packUnit(i.TimeUnit),
	}
}

// unknown reports whether r only says that its name's fate is uncertain.
func (r record) unknown() bool { return !r.absent && r.known == 0 }

func (d *directory) info(name string, r record) backends.Info { return r.info(name, d.ids[name]) }

func (r record) info(name, id string) backends.Info {
	return backends.Info{
		Name: name, Mode: fileMode(r.mode), Size: r.size, ModTime: instant(r.modTime), AccTime: instant(r.accTime),
		UID: r.uid, GID: r.gid, Nlink: r.nlink, ID: id, Known: r.known, TimeUnit: r.unit.unpack(),
	}
}

// split returns the directory that holds name and name's last element; the root is the element "" of itself.
func split(name string) (dir, base string) {
	dir, base = path.Split(name)
	return strings.TrimSuffix(dir, "/"), base
}
