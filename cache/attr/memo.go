package attr

import (
	"encoding/binary"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"pierfs/backends"
)

// A Store can note what it comes to know, so that another one, of the next daemon, knows it as well. The notes, in their order, make
// an empty Store know what this one knew, but for ages: what was recalled is older than any bound, and believed only by
// whoever asks nobody (GetListed, Listing).

// maxNotes is how many notes may wait for Memo. Beyond it they are dropped, and Memo tells all.
const maxNotes = 100_000

// maxListed is how many entries a listing may have that is noted.
const maxListed = 200_000

// note is one thing that a Store came to know.
type note struct {
	kind     noteKind
	name, to string
	fact     fact
	id       string
	list     *List
	complete bool
	number   uint64
}

type noteKind byte

const (
	noteFact     noteKind = 1 + iota // name is as fact and id say, or absent; or, where fact knows nothing, uncertain
	noteList                         // the directory name holds list
	noteForget                       // nothing is known of what is in the directory name
	noteForgetIn                     // and nothing of what is below it
	noteMove                         // what was known below name is known below to
	noteStamp                        // what number means to the caller is among what is known
	noteUnstamp                      // number means nothing any more
)

// notes are what a Store has noted. The zero value notes nothing.
type notes struct {
	on   bool
	list []note
	lost bool
	news chan struct{}

	stamps map[uint64]bool
}

// Note has the Store note what it comes to know from now on. What it returns holds one value when there is something for Memo.
func (s *Store) Note() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.notes.on, s.notes.news = true, make(chan struct{}, 1)
	return s.notes.news
}

// note notes n; the caller holds the lock.
func (s *Store) note(n note) {
	o := &s.notes
	if !o.on {
		return
	}
	if o.list = append(o.list, n); len(o.list) > maxNotes {
		o.list, o.lost = nil, true
	}
	select {
	case o.news <- struct{}{}:
	default: // somebody was told already
	}
}

// Stamp notes that what number means to the caller is among what the Store knows, so that it need not be told of it again once that was
// recalled. Unstamp forgets the number.
func (s *Store) Stamp(number uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.note(note{kind: noteStamp, number: number})
	s.stamp(number)
}

func (s *Store) stamp(number uint64) {
	if s.notes.stamps == nil {
		s.notes.stamps = map[uint64]bool{}
	}
	s.notes.stamps[number] = true
}

// Unstamp undoes Stamp.
func (s *Store) Unstamp(number uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unstamp(number)
}

func (s *Store) unstamp(number uint64) {
	if s.notes.stamps[number] {
		s.note(note{kind: noteUnstamp, number: number})
		delete(s.notes.stamps, number)
	}
}

// KeepStamps undoes all stamps but those of numbers, and reports whether there were any: a recalled one may have been undone when
// nobody lived to write that down, and its number may come to mean something else.
func (s *Store) KeepStamps(numbers map[uint64]bool) (undone bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for number := range s.notes.stamps {
		if !numbers[number] {
			s.unstamp(number)
			undone = true
		}
	}
	return undone
}

// Stamped reports whether number was stamped.
func (s *Store) Stamped(number uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.notes.stamps[number]
}

// noteAnswer notes what a server said of a name, if that was not known before; the caller holds the lock.
func (s *Store) noteAnswer(name string, r record, id string) {
	if !s.notes.on {
		return
	}
	dir, base := split(name)
	d := s.dir(dir)
	was, wasID, ok := s.find(d, base)
	if ok && was.fact == r.fact && wasID == id || !ok && r.absent && d.complete {
		return
	}
	s.note(note{kind: noteFact, name: name, fact: r.fact, id: id})
}

// noteListing notes that d, the directory dir, holds its list, and what is known better; the caller holds the lock.
func (s *Store) noteListing(dir string, d *directory) {
	if !s.notes.on {
		return
	}
	for _, n := range listingNotes(dir, d) {
		s.note(n)
	}
}

func listingNotes(dir string, d *directory) (all []note) {
	switch {
	case d.list == nil:
	case d.list.Len() > maxListed:
		all = append(all, note{kind: noteForget, name: dir})
	default:
		all = append(all, note{kind: noteList, name: dir, list: d.list, complete: d.complete})
	}
	for _, base := range slices.Sorted(maps.Keys(d.index)) {
		name := strings.Trim(dir+"/"+base, "/")
		all = append(all, note{kind: noteFact, name: name, fact: d.records[d.index[base]].fact, id: d.ids[base]})
	}
	return all
}

// Memo returns what the Store came to know since it was last asked, for Recall; false if that is not to be had, and all is to be told.
func (s *Store) Memo() (text []byte, ok bool) {
	s.mu.Lock()
	all, lost := s.notes.list, s.notes.lost
	s.notes.list, s.notes.lost = nil, false
	s.mu.Unlock()
	if lost {
		return nil, false
	}
	for _, n := range all {
		text = n.append(text)
	}
	return text, true
}

// WholeMemo returns what the Store knows, in at most about limit bytes: what was used last goes before the rest.
func (s *Store) WholeMemo(limit int) []byte {
	s.mu.Lock()
	s.notes.list, s.notes.lost = nil, false
	var dirs [][]note
	for _, dir := range slices.Backward(s.dirs.Keys()) { // the keys begin with the oldest
		d, _ := s.dirs.Peek(dir)
		dirs = append(dirs, listingNotes(dir, d))
	}
	var stamps []byte
	for number := range s.notes.stamps {
		stamps = note{kind: noteStamp, number: number}.append(stamps)
	}
	s.mu.Unlock()
	texts := [][]byte{stamps}
	size := 0
	for _, notes := range dirs {
		var text []byte
		for _, n := range notes {
			text = n.append(text)
		}
		if size += len(text); size > limit {
			break
		}
		texts = append(texts, text)
	}
	slices.Reverse(texts) // so that they are in the same order again
	return slices.Concat(texts...)
}

func (n note) append(b []byte) []byte {
	b = append(b, byte(n.kind))
	b = appendText(b, n.name)
	switch n.kind {
	case noteFact:
		b = n.fact.append(b, n.id)
	case noteMove:
		b = appendText(b, n.to)
	case noteStamp, noteUnstamp:
		b = binary.AppendUvarint(b, n.number)
	case noteList:
		complete := byte(0)
		if n.complete {
			complete = 1
		}
		b = append(b, complete)
		b = binary.AppendUvarint(b, uint64(n.list.n))
		for i := range n.list.n {
			e := n.list.entry(i)
			b = appendText(b, n.list.name(e))
			b = e.append(b, n.list.id(e))
		}
	}
	return b
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func (f *fact) append(b []byte, id string) []byte {
	b = appendText(b, id)
	absent := byte(0)
	if f.absent {
		absent = 1
	}
	b = append(b, absent, byte(f.unit))
	for _, v := range [...]int64{f.size, f.modTime, f.accTime} {
		b = binary.AppendVarint(b, v)
	}
	for _, v := range [...]uint32{f.mode, f.uid, f.gid, f.nlink, uint32(f.known)} {
		b = binary.AppendUvarint(b, uint64(v))
	}
	return b
}

// errNoMemo says that a text is none of Memo's.
var errNoMemo = errors.New("what was kept of names cannot be read")

// recalled is how old what was recalled counts as: too old for whoever minds.
var recalled = time.Unix(0, 0)

// Recall makes the Store know what text, which Memo or WholeMemo returned, tells. After an error it knows what came before the damage.
func (s *Store) Recall(text []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := reader{rest: text}
	for len(r.rest) > 0 && !r.bad {
		n := r.note()
		if r.bad {
			break
		}
		s.recall(n)
	}
	s.shrink()
	if r.bad {
		return errNoMemo
	}
	return nil
}

// recall takes n; the caller holds the lock.
func (s *Store) recall(n note) {
	old := s.packTime(recalled)
	switch n.kind {
	case noteFact:
		dir, base := split(n.name)
		s.dir(dir).set(s, base, record{fact: n.fact, asked: old}, n.id)
	case noteList:
		n.list.seal()
		s.drop(n.name)
		d := s.dir(n.name)
		d.list, d.asked, d.complete, d.unseen = n.list, recalled, n.complete, true
		n.list.shape = s.reshape(d)
		s.entries += n.list.Len()
	case noteForget:
		s.drop(n.name)
	case noteForgetIn:
		s.forgetIn(n.name)
	case noteMove:
		s.move(n.name, n.to)
	case noteStamp:
		s.stamp(n.number)
	case noteUnstamp:
		s.unstamp(n.number)
	}
}

// drop forgets what is known of the entries of dir, but for the root's own; the caller holds the lock.
func (s *Store) drop(dir string) {
	d, ok := s.dirs.Peek(dir)
	if !ok {
		return
	}
	self, isRoot := d.get("")
	id := d.ids[""]
	s.dirs.Remove(dir)
	if isRoot {
		s.dir(dir).set(s, "", self, id)
	}
}

// reader takes a text apart.
type reader struct {
	rest []byte
	bad  bool
}

func (r *reader) note() (n note) {
	n.kind, n.name = noteKind(r.byte()), r.text()
	switch n.kind {
	case noteFact:
		n.fact, n.id = r.fact()
	case noteForget, noteForgetIn:
	case noteMove:
		n.to = r.text()
	case noteStamp, noteUnstamp:
		n.number = r.number()
	case noteList:
		n.complete, n.list = r.byte() == 1, new(List)
		for range r.number() {
			name := r.text()
			f, id := r.fact()
			if r.bad {
				break
			}
			n.list.add(f, name, id)
		}
	default:
		r.bad = true
	}
	return n
}

func (r *reader) fact() (f fact, id string) {
	id = r.text()
	f.absent, f.unit = r.byte() == 1, timeUnit(r.byte())
	for _, v := range [...]*int64{&f.size, &f.modTime, &f.accTime} {
		*v = r.signed()
	}
	for _, v := range [...]*uint32{&f.mode, &f.uid, &f.gid, &f.nlink} {
		*v = uint32(r.number())
	}
	f.known = backends.Fields(r.number())
	r.bad = r.bad || int(f.unit) >= len(timeUnits)
	return f, id
}

func (r *reader) byte() byte {
	if len(r.rest) == 0 {
		r.bad = true
		return 0
	}
	b := r.rest[0]
	r.rest = r.rest[1:]
	return b
}

func (r *reader) number() uint64 {
	v, n := binary.Uvarint(r.rest)
	r.skip(n)
	return v
}

func (r *reader) signed() int64 {
	v, n := binary.Varint(r.rest)
	r.skip(n)
	return v
}

func (r *reader) skip(n int) {
	if n <= 0 {
		r.bad, r.rest = true, nil
		return
	}
	r.rest = r.rest[n:]
}

func (r *reader) text() string {
	n := r.number()
	if r.bad || n > uint64(len(r.rest)) {
		r.bad, r.rest = true, nil
		return ""
	}
	s := string(r.rest[:n])
	r.rest = r.rest[n:]
	return s
}
