package attr

import (
	"hash/maphash"
	"math"
	"math/bits"
	"slices"
	"sort"
	"strings"

	"pierfs/backends"
)

// List is entries of one directory in the order in which they came, packed: a million of them are 56 MB, and their names
// and identities. The zero value is empty. It does no locking; it is not copied, and never changed once a Store has it, so
// that who reads it and the Store share one.
type List struct {
	pages [][]entry // of pageSize entries, but for the last
	text  arena     // names, each followed by the identity
	n     int
	vague int // entries of which only the name is known
	shape uint64
	index []uint32 // places and one by hash of the name, of a List that a Store has; nil if it is short

	// What a Store knows better than base.
	base   *List // entries before our own; nil if there are none
	hidden []int // places in base that are not there any more, ascending
	better map[int]better
}

// better is what a Store learned of an entry after it was listed.
type better struct {
	info backends.Info
	old  bool // and what it learned is not to be used without asking
}

const (
	pageSize   = 1 << 10
	unindexed  = 8 // entries that are as well looked through
	arenaChunk = 1 << 16
)

// entry is one entry of a List.
type entry struct {
	fact
	text           uint32 // where the name is; the identity stands behind it
	nameLen, idLen uint16
}

// fact is one name's attributes, packed.
type fact struct {
	size             int64
	modTime, accTime int64 // nanoseconds since 1970
	mode, uid, gid   uint32
	nlink            uint32
	known            backends.Fields
	unit             timeUnit // of modTime
	absent           bool     // of a record
}

func pack(i backends.Info) fact {
	return fact{
		size: i.Size, modTime: nanos(i.ModTime), accTime: nanos(i.AccTime),
		mode: uint32(i.Mode), uid: i.UID, gid: i.GID, nlink: i.Nlink, known: i.Known, unit: packUnit(i.TimeUnit),
	}
}

func (f *fact) info(name, id string) backends.Info {
	return backends.Info{
		Name: name, Mode: fileMode(f.mode), Size: f.size, ModTime: instant(f.modTime), AccTime: instant(f.accTime),
		UID: f.uid, GID: f.gid, Nlink: f.nlink, ID: id, Known: f.known, TimeUnit: f.unit.unpack(),
	}
}

// Add appends an entry. A name, or an identity, of more than 64 KiB is none.
func (l *List) Add(info backends.Info) {
	if len(info.Name) > math.MaxUint16 {
		return
	}
	if len(info.ID) > math.MaxUint16 {
		info.ID, info.Known = "", info.Known&^backends.HasID
	}
	l.add(pack(info), info.Name, info.ID)
}

func (l *List) add(f fact, name, id string) {
	e := entry{f, l.text.add(name, id), uint16(len(name)), uint16(len(id))}
	last := len(l.pages) - 1
	switch {
	case last < 0:
		l.pages, last = append(l.pages, nil), 0
	case len(l.pages[last]) == pageSize:
		l.pages, last = append(l.pages, make([]entry, 0, pageSize)), last+1
	}
	l.pages[last] = append(l.pages[last], e)
	l.n++
	if e.known == 0 {
		l.vague++
	}
}

// Shape tells Lists of one Store apart: two of the same shape have the same names of the same types in the same order. It is 0 of a
// List that no Store has taken or given.
func (l *List) Shape() uint64 { return l.shape }

// Len returns the number of entries.
func (l *List) Len() int { return l.below() + l.n }

// below is the number of entries that come from base.
func (l *List) below() int {
	if l.base == nil {
		return 0
	}
	return l.base.Len() - len(l.hidden)
}

// At returns entry i.
func (l *List) At(i int) backends.Info {
	below := l.below()
	if i >= below {
		return l.at(i - below)
	}
	i = l.inBase(i)
	if b, ok := l.better[i]; ok {
		return b.info
	}
	return l.base.At(i)
}

// Old reports whether what is known of entry i is not to be used without asking, though the listing is fresh.
func (l *List) Old(i int) bool { return l.better != nil && i < l.below() && l.better[l.inBase(i)].old }

// Find returns the place of name in a List that a Store has given.
func (l *List) Find(name string) (i int, ok bool) {
	below := l.below()
	if l.base != nil {
		if i, ok := l.base.Find(name); ok {
			k, gone := slices.BinarySearch(l.hidden, i)
			return i - k, !gone
		}
	}
	if l.index == nil {
		for i := range l.n {
			if l.name(l.entry(i)) == name {
				return below + i, true
			}
		}
		return 0, false
	}
	for h := l.slot(name); l.index[h] != 0; h = (h + 1) % uint64(len(l.index)) {
		if i := int(l.index[h] - 1); l.name(l.entry(i)) == name {
			return below + i, true
		}
	}
	return 0, false
}

// inBase returns the place in base of entry i.
func (l *List) inBase(i int) int {
	return i + sort.Search(len(l.hidden), func(k int) bool { return l.hidden[k]-k > i })
}

func (l *List) at(i int) backends.Info {
	e := l.entry(i)
	return e.info(l.name(e), l.id(e))
}

func (l *List) entry(i int) *entry      { return &l.pages[i/pageSize][i%pageSize] }
func (l *List) name(e *entry) string    { return l.text.get(e.text, e.nameLen) }
func (l *List) id(e *entry) string      { return l.text.get(e.text+uint32(e.nameLen), e.idLen) }
func (l *List) slot(name string) uint64 { return maphash.String(seed, name) % uint64(len(l.index)) }

// seed makes it useless to choose names for their hashes.
var seed = maphash.MakeSeed()

// seal makes names quick to find and gives back spare room. Nothing is added after it.
func (l *List) seal() {
	if last := len(l.pages) - 1; last >= 0 {
		l.pages[last] = slices.Clip(l.pages[last])
		if len(l.pages[last]) < pageSize {
			l.pages[last] = append(make([]entry, 0, len(l.pages[last])), l.pages[last]...)
		}
	}
	l.text.seal()
	if l.n <= unindexed {
		return
	}
	l.index = make([]uint32, 1<<bits.Len(uint(l.n+l.n/3)))
	for i := range l.n {
		name := l.name(l.entry(i))
		h := l.slot(name)
		for l.index[h] != 0 && l.name(l.entry(int(l.index[h]-1))) != name { // of two equal names the first is found
			h = (h + 1) % uint64(len(l.index))
		}
		if l.index[h] == 0 {
			l.index[h] = uint32(i + 1)
		}
	}
}

// arena is text in large pieces: a million short strings of their own cost more than what they say.
type arena struct {
	full []string
	last strings.Builder
}

// add appends the parts, one behind the other, and returns where they are.
func (a *arena) add(parts ...string) uint32 {
	size := 0
	for _, part := range parts {
		size += len(part)
	}
	if a.last.Len() > 0 && a.last.Len()+size > arenaChunk {
		a.full = append(a.full, a.last.String())
		a.last = strings.Builder{}
		a.last.Grow(arenaChunk)
	}
	at := uint32(len(a.full))<<16 | uint32(a.last.Len())
	for _, part := range parts {
		a.last.WriteString(part)
	}
	return at
}

// get returns n bytes at a place that add returned, or behind it.
func (a *arena) get(at uint32, n uint16) string {
	if n == 0 {
		return ""
	}
	piece, off := int(at>>16), int(at&0xffff)
	if piece < len(a.full) {
		return a.full[piece][off : off+int(n)]
	}
	return a.last.String()[off : off+int(n)]
}

// seal gives back spare room.
func (a *arena) seal() {
	if a.last.Len() > 0 {
		a.full = append(a.full, strings.Clone(a.last.String()))
	}
	a.last = strings.Builder{}
}
