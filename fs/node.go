package fs

import (
	"encoding/binary"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"pierfs/cache"
)

// nodeID is what the kernel calls a node: a slot of the table, and above it how often the slot was given away before. No
// id is ever used twice, so the FUSE generation stays 0.
type nodeID = uint64

const (
	rootID  nodeID = fuse.FUSE_ROOT_ID
	rootIno        = 1
)

// slot is the place of a node in the table; 0 is none.
type slot = uint32

const rootSlot slot = 1

// node is kept small and free of pointers but its name: a million of them are nothing unusual (BenchmarkNodes).
type node struct {
	name    string
	ino     uint64
	stamp   uint64 // of a file: the version of the pages that the kernel may hold; of a directory: counts our changes in it
	told    uint64 // the version whose attributes the kernel was told last
	lookups uint64 // how often the kernel was given the node and has not yet forgotten it
	changed int64  // when we last changed an attribute that mtime does not tell of, in nanoseconds; 0 never
	parent  slot   // 0 if it bears no name
	age     uint32 // upper half of the id
	kids    uint32 // nodes that have this for a parent, whose paths lead through it
	kind    uint16 // S_IFMT bits of the mode
	flags   nodeFlags
}

type nodeFlags uint16

const (
	hasPages  nodeFlags = 1 << iota // stamp is set
	displaced                       // ino is counted in nodes.away
	ceded                           // ino is that of the node which took the name over
)

// place is a name in a directory.
type place struct {
	dir  slot
	name string
}

// nodes is the table of all nodes that the kernel knows.
type nodes struct {
	mu    sync.Mutex
	on    *ground        // that names are of
	slabs [][]node       // slot s is slabs[s/slabSize][s%slabSize]; slabs never move
	next  slot           // first slot that was never used
	free  []slot         // used before
	index index          // by the first name that a node bears
	other map[place]slot // by its further names
	more  map[slot][]place
	open  map[slot]*opened
	// linked finds the node of a file by what the tree calls it under all its names (cache.Entry.Linked), and files the
	// other way: the kernel may have forgotten the node and now ask for one name after the other.
	linked map[uint64]slot
	files  map[slot]uint64
	// away counts nodes and entries of moved that bear an ino which is not the natural one of where they are.
	away map[uint64]int
	// moved remembers the ino of names that were renamed here and then forgotten by the kernel.
	moved map[movedKey]uint64
	live  int
	// last is what removed directories were, for those who still stand in them.
	last map[slot]cache.Entry
	// kept is what the kernel may keep of listings, for directories that were opened.
	kept    map[slot]*keeping
	numbers uint64 // counts listings that were begun
	// replacing counts the renames under way that give a name to another file: what the tree opens by it may be that one.
	replacing map[place]int
}

type movedKey struct {
	dirIno uint64
	name   string
}

const (
	slabSize    = 1024
	movedAtMost = 1 << 16
	deepest     = 4096 // PATH_MAX; a longer chain of parents is a broken table
)

func newNodes() *nodes {
	t := &nodes{
		index: newIndex(),
		other: map[place]slot{},
		more:  map[slot][]place{},
		open:  map[slot]*opened{},
		away:  map[uint64]int{},
		moved: map[movedKey]uint64{},
		next:  rootSlot,
		last:  map[slot]cache.Entry{},
		kept:  map[slot]*keeping{},

		replacing: map[place]int{},

		linked: map[uint64]slot{},
		files:  map[slot]uint64{},
	}
	root := t.at(t.take())
	root.ino, root.kind, root.lookups = rootIno, fuse.S_IFDIR, 1
	return t
}

func (t *nodes) at(i slot) *node { return &t.slabs[i/slabSize][i%slabSize] }

// take gives a free slot.
func (t *nodes) take() slot {
	t.live++
	if n := len(t.free); n > 0 {
		i := t.free[n-1]
		t.free = t.free[:n-1]
		return i
	}
	i := t.next
	t.next++
	if int(i/slabSize) == len(t.slabs) {
		t.slabs = append(t.slabs, make([]node, slabSize))
	}
	return i
}

func (t *nodes) id(i slot) nodeID { return nodeID(t.at(i).age)<<32 | nodeID(i) }

// find returns the slot of id, 0 if the kernel was not given id or has forgotten it.
func (t *nodes) find(id nodeID) slot {
	i := slot(id)
	if i == 0 || i >= t.next {
		return 0
	}
	if n := t.at(i); n.age != uint32(id>>32) || n.kind == 0 {
		return 0
	}
	return i
}

// named returns the node that bears the name p, 0 if none does.
func (t *nodes) named(p place) slot {
	if i := t.index.slots[t.search(p)]; i != 0 {
		return i
	}
	if len(t.other) > 0 {
		return t.other[p]
	}
	return 0
}

// path returns the node's name as the tree knows it; ok is false if it bears none any more.
func (t *nodes) path(id nodeID) (name string, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.pathOf(t.find(id), "")
}

// pathIn returns the name of an entry of dir.
func (t *nodes) pathIn(dir nodeID, element string) (name string, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.pathOf(t.find(dir), element)
}

func (t *nodes) pathOf(i slot, element string) (string, bool) {
	var array [32]string
	elements := array[:0]
	if element != "" {
		elements = append(elements, element)
	}
	size := len(element)
	for i != rootSlot {
		if i == 0 || len(elements) > deepest {
			return "", false
		}
		n := t.at(i)
		elements = append(elements, n.name)
		size += len(n.name) + 1
		i = n.parent
	}
	var b strings.Builder
	b.Grow(size)
	for k := len(elements) - 1; k >= 0; k-- {
		b.WriteString(elements[k])
		if k > 0 {
			b.WriteByte('/')
		}
	}
	return b.String(), true
}

// view is what an answer to the kernel needs of a node.
type view struct {
	id      nodeID
	ino     uint64
	names   int // that we know
	changed int64
	written bool // somebody has it open for writing
}

func (t *nodes) viewOf(i slot) view {
	n := t.at(i)
	v := view{id: t.id(i), ino: n.ino, changed: n.changed, names: len(t.more[i])}
	if n.parent != 0 || i == rootSlot {
		v.names++
	}
	if o := t.open[i]; o != nil {
		v.written = o.writers > 0
	}
	return v
}

// view returns the node's view; ok is false if the kernel was not given id.
func (t *nodes) view(id nodeID) (v view, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := t.find(id)
	if i == 0 {
		return view{}, false
	}
	return t.viewOf(i), true
}

// look gives the kernel, once more, the node that stands for an entry of dir; ok is false if dir is gone. A name that by
// now stands for something else (another type, or other content while somebody has the old open) gets a new node.
func (t *nodes) look(on *ground, dir nodeID, name string, e cache.Entry) (v view, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if on != t.on {
		e.Linked = 0 // it was asked for where the mount led before: others are called so now
	}
	d := t.find(dir)
	if d == 0 {
		return view{}, false
	}
	i := t.lookSlot(place{d, name}, e)
	t.isFile(i, e.Linked)
	n := t.at(i)
	n.lookups++
	n.told = e.Version
	return t.viewOf(i), true
}

// tells notes that the kernel is being told the attributes of a version of node id, 0 if it is not after all.
func (t *nodes) tells(id nodeID, version uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := t.find(id); i != 0 {
		t.at(i).told = version
	}
}

// isFile notes that node i is the file that the tree calls so under all its names; 0 for one that it knows by one name.
func (t *nodes) isFile(i slot, linked uint64) {
	if old := t.files[i]; old != linked && old != 0 {
		delete(t.linked, old)
		delete(t.files, i)
	}
	if linked != 0 && t.linked[linked] == 0 {
		t.linked[linked], t.files[i] = i, linked
	}
}

func (t *nodes) lookSlot(p place, e cache.Entry) slot {
	kind := kindOf(e.Mode)
	old := t.named(p)
	if i := t.linked[e.Linked]; old == 0 && i != 0 && t.at(i).parent != 0 && t.at(i).kind == kind {
		if o := t.open[i]; o == nil || o.is(e.Version) {
			t.attach(i, p)
			return i
		}
	}
	if old == 0 {
		return t.create(p, kind, t.inoFor(p))
	}
	n := t.at(old)
	if n.kind != kind {
		t.unname(p, old)
		return t.create(p, kind, t.inoFor(p))
	}
	if o := t.open[old]; o != nil && !o.is(e.Version) {
		// It has the same number, for to programs it is the same file, changed. The kernel may well give the new node
		// back at once and ask again, so the old one no longer claims the number.
		ino := n.ino
		n.flags |= ceded
		t.unname(p, old)
		return t.create(p, kind, ino)
	}
	return old
}

// create makes a node and gives it the free name p. If ino is not p's natural one that is counted.
func (t *nodes) create(p place, kind uint16, ino uint64) slot {
	i := t.take()
	n := t.at(i)
	*n = node{name: p.name, ino: ino, parent: p.dir, age: n.age, kind: kind}
	t.enter(i)
	t.at(p.dir).kids++
	t.settle(i)
	return i
}

// kindOf returns the S_IFMT bits of m.
func kindOf(m os.FileMode) uint16 { return uint16(unixMode(m) & syscall.S_IFMT) }

// unname takes the name p from node i. The node lives on while the kernel remembers it.
func (t *nodes) unname(p place, i slot) {
	n := t.at(i)
	others := t.more[i]
	if t.placeOf(i) == p {
		t.leave(i)
		n.parent, n.name = 0, ""
		if len(others) > 0 {
			delete(t.other, others[0])
			n.parent, n.name = others[0].dir, others[0].name
			t.enter(i)
			others = others[1:]
		}
	} else {
		delete(t.other, p)
		for k, o := range others {
			if o == p {
				others = append(others[:k:k], others[k+1:]...)
				break
			}
		}
	}
	if len(others) == 0 {
		delete(t.more, i)
	} else {
		t.more[i] = others
	}
	t.settle(i)
	t.at(p.dir).kids--
	t.drop(i)
	t.drop(p.dir)
}

// remove is told that the name was removed here.
func (t *nodes) remove(dir nodeID, name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	d := t.find(dir)
	if d == 0 {
		return
	}
	p := place{d, name}
	t.forgetMoved(p)
	if i := t.named(p); i != 0 {
		t.unname(p, i)
	}
	t.touch(d)
}

// replaces notes that a name is about to be given to another file, until the returned func is called.
func (t *nodes) replaces(dir nodeID, name string) (over func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	d := t.find(dir)
	if d == 0 {
		return func() {}
	}
	p := place{d, name}
	t.replacing[p]++
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.replacing[p]--; t.replacing[p] == 0 {
			delete(t.replacing, p)
		}
	}
}

// beingReplaced reports whether a name of node i is about to be given to another file.
func (t *nodes) beingReplaced(i slot) bool {
	return len(t.replacing) > 0 && (t.replacing[t.placeOf(i)] > 0 || slices.ContainsFunc(t.more[i], func(p place) bool { return t.replacing[p] > 0 }))
}

// rename is told that a name moved here.
func (t *nodes) rename(fromDir nodeID, from string, toDir nodeID, to string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	a, b := t.find(fromDir), t.find(toDir)
	if a == 0 || b == 0 {
		return
	}
	p, q := place{a, from}, place{b, to}
	i := t.named(p)
	if p == q || i != 0 && i == t.named(q) {
		return // two names of one file: nothing moved
	}
	ino := t.inoFor(p)
	t.forgetMoved(p)
	t.forgetMoved(q)
	if old := t.named(q); old != 0 {
		t.unname(q, old)
	}
	t.touch(a)
	t.touch(b)
	if i == 0 {
		t.remember(q, ino) // never looked up, or forgotten since
		return
	}
	n := t.at(i)
	if t.placeOf(i) == p {
		t.leave(i)
		n.parent, n.name = b, to
		t.enter(i)
	} else {
		delete(t.other, p)
		t.other[q] = i
		for k, o := range t.more[i] {
			if o == p {
				t.more[i][k] = q
			}
		}
	}
	t.at(b).kids++
	t.at(a).kids--
	n.changed = time.Now().UnixNano()
	if k := t.kept[i]; k != nil {
		k.forget() // it has another number for ".."
	}
	t.settle(i)
	t.drop(a)
}

// link is told that node id, which the tree now calls linked, has got the further name, and gives it to the kernel once more.
func (t *nodes) link(on *ground, id, dir nodeID, name string, linked uint64) (v view, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if on != t.on {
		linked = 0
	}
	i, d := t.find(id), t.find(dir)
	if i == 0 || d == 0 {
		return view{}, false
	}
	p := place{d, name}
	if old := t.named(p); old != 0 && old != i {
		t.unname(p, old)
	}
	if t.named(p) == 0 {
		t.attach(i, p)
	}
	t.isFile(i, linked)
	t.touch(d)
	n := t.at(i)
	n.lookups++
	n.changed = time.Now().UnixNano()
	return t.viewOf(i), true
}

// attach gives node i the further name p, which is free.
func (t *nodes) attach(i slot, p place) {
	t.forgetMoved(p)
	t.at(p.dir).kids++
	if n := t.at(i); n.parent == 0 {
		n.parent, n.name = p.dir, p.name
		t.enter(i)
	} else {
		t.other[p] = i
		t.more[i] = append(t.more[i], p)
	}
	t.settle(i)
}

// unnamed gives the kernel a node without a name (O_TMPFILE).
func (t *nodes) unnamed(e cache.Entry) view {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := t.take()
	n := t.at(i)
	*n = node{age: n.age, kind: kindOf(e.Mode), lookups: 1, told: e.Version}
	for k := uint64(0); n.ino == 0; k++ {
		// A hash of the id, which no other node ever has: as good as a path.
		if ino := hashIno(uint64(t.id(i)), "", k); ino > rootIno && t.away[ino] == 0 {
			n.ino = ino
		}
	}
	t.settle(i)
	return t.viewOf(i)
}

// forget is told that the kernel gave back count of its lookups.
func (t *nodes) forget(id nodeID, count uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := t.find(id)
	if i == 0 || i == rootSlot {
		return
	}
	n := t.at(i)
	n.lookups -= min(count, n.lookups)
	t.drop(i)
}

// drop frees node i, and the directories above it that only its path kept, if nobody needs them.
func (t *nodes) drop(i slot) {
	for i != 0 && i != rootSlot {
		n := t.at(i)
		if n.lookups > 0 || n.kids > 0 || t.open[i] != nil || n.kind == 0 || t.collects(i) {
			return
		}
		parent := n.parent
		others := t.more[i]
		delete(t.more, i)
		delete(t.last, i)
		delete(t.kept, i)
		t.isFile(i, 0)
		if n.flags&displaced != 0 {
			t.notAway(n.ino)
			if parent != 0 {
				t.remember(place{parent, n.name}, n.ino)
			}
		}
		if len(others) > 0 && n.flags&ceded == 0 { // all names keep the number, also the one that it comes from
			for _, p := range append(others, place{parent, n.name}) {
				t.keep(p, n.ino)
			}
		}
		if parent != 0 {
			t.leave(i)
			t.at(parent).kids--
		}
		*n = node{age: n.age + 1}
		t.free = append(t.free, i)
		t.live--
		for _, p := range others {
			delete(t.other, p)
			t.at(p.dir).kids--
			t.drop(p.dir)
		}
		i = parent
	}
}

// touch notes that the directory d was changed here, so that listings begun before are not to be believed in everything.
func (t *nodes) touch(d slot) {
	if n := t.at(d); n.kind == fuse.S_IFDIR {
		n.stamp++
	}
}

// touched is touch for every directory that holds a name of id; attr says that the node's own ctime moves with it.
func (t *nodes) touched(id nodeID, attr bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := t.find(id)
	if i == 0 {
		return
	}
	t.touchParents(i)
	if attr {
		t.at(i).changed = time.Now().UnixNano()
	}
}

func (t *nodes) touchParents(i slot) {
	if p := t.at(i).parent; p != 0 {
		t.touch(p)
	}
	for _, p := range t.more[i] {
		t.touch(p.dir)
	}
}

// changes returns a number that moves whenever the directory id is changed here.
func (t *nodes) changes(id nodeID) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := t.find(id); i != 0 {
		return t.at(i).stamp
	}
	return 0
}

// isOpen reports whether somebody has the entry of dir open, by this name or, if it is not 0, by another one of the file that the
// tree calls linked.
func (t *nodes) isOpen(dir nodeID, name string, linked uint64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, i := range []slot{t.named(place{t.find(dir), name}), t.linked[linked]} {
		if i != 0 && t.open[i] != nil {
			return true
		}
	}
	return false
}

// ids returns the node of dir and of its entry name, as far as the kernel knows them.
func (t *nodes) ids(path string) (dir, entry nodeID, name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	d := rootSlot
	for {
		first, rest, more := strings.Cut(path, "/")
		i := t.named(place{d, first})
		if !more {
			if i != 0 {
				entry = t.id(i)
			}
			return t.id(d), entry, first
		}
		if i == 0 {
			return 0, 0, ""
		}
		d, path = i, rest
	}
}

func (t *nodes) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.live
}

// ino returns the number that an entry of dir has or would get.
func (t *nodes) ino(dir nodeID, name string) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if d := t.find(dir); d != 0 {
		return t.inoFor(place{d, name})
	}
	return fuse.FUSE_UNKNOWN_INO
}

// inos is ino for many entries.
func (t *nodes) inos(dir nodeID, heads []cache.Head, inos []uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	d := t.find(dir)
	for k := range heads {
		inos[k] = fuse.FUSE_UNKNOWN_INO
		if d != 0 {
			inos[k] = t.inoFor(place{d, heads[k].Name})
		}
	}
}

// parentIno returns the number of the directory that id is in; its own for the root.
func (t *nodes) parentIno(id nodeID) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := t.find(id); i != 0 {
		if p := t.at(i).parent; p != 0 {
			return t.at(p).ino
		}
	}
	return rootIno
}

// The number of a file is a hash of its directory's number and its name, so that it is the same tomorrow, and a renamed
// directory takes its whole subtree along. Only a node that is not where its number comes from (renamed, linked, removed
// while open) can hold a number that another name would naturally get, and only these are counted in away. Two names that
// really hash alike share a number; with 64 bits that is somebody's wish, and harms nobody but him.

// inoFor returns the number of the node at p, or that it would get.
func (t *nodes) inoFor(p place) uint64 {
	if i := t.named(p); i != 0 {
		return t.at(i).ino
	}
	dir := t.at(p.dir).ino
	if len(t.moved) > 0 {
		if ino, ok := t.moved[movedKey{dir, p.name}]; ok {
			return ino
		}
	}
	for k := uint64(0); ; k++ {
		if ino := hashIno(dir, p.name, k); ino > rootIno && t.away[ino] == 0 {
			return ino
		}
	}
}

// settle counts node i in away exactly if it is not where its number comes from. A first name wins over further ones.
func (t *nodes) settle(i slot) {
	n := t.at(i)
	home := n.flags&ceded != 0 || n.parent != 0 && hashIno(t.at(n.parent).ino, n.name, 0) == n.ino
	switch {
	case home && n.flags&displaced != 0:
		n.flags &^= displaced
		t.notAway(n.ino)
	case !home && n.flags&displaced == 0:
		n.flags |= displaced
		t.away[n.ino]++
	}
	if n.parent != 0 {
		t.forgetMoved(place{n.parent, n.name})
	}
}

func (t *nodes) notAway(ino uint64) {
	if t.away[ino]--; t.away[ino] <= 0 {
		delete(t.away, ino)
	}
}

// remember keeps the number of a name that was moved here beyond the kernel's memory of it.
func (t *nodes) remember(p place, ino uint64) {
	if hashIno(t.at(p.dir).ino, p.name, 0) != ino {
		t.keep(p, ino)
	}
}

// keep is remember for a name whose own number it may be.
func (t *nodes) keep(p place, ino uint64) {
	t.forgetMoved(p)
	if len(t.moved) >= movedAtMost {
		for k, old := range t.moved { // any one
			delete(t.moved, k)
			t.notAway(old)
			break
		}
	}
	t.moved[movedKey{t.at(p.dir).ino, p.name}] = ino
	t.away[ino]++
}

func (t *nodes) forgetMoved(p place) {
	if len(t.moved) == 0 {
		return
	}
	k := movedKey{t.at(p.dir).ino, p.name}
	if ino, ok := t.moved[k]; ok {
		delete(t.moved, k)
		t.notAway(ino)
	}
}

// hashIno is FNV-1a over dir, name and try, and the finalizer of MurmurHash3 so that the low bits are good as well.
func hashIno(dir uint64, name string, try uint64) uint64 {
	const prime = 1099511628211
	h := uint64(14695981039346656037)
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:8], dir)
	binary.LittleEndian.PutUint64(b[8:], try)
	for _, c := range b {
		h = (h ^ uint64(c)) * prime
	}
	for k := range len(name) {
		h = (h ^ uint64(name[k])) * prime
	}
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

// is reports whether id is a node of the given S_IFMT bits.
func (t *nodes) is(id nodeID, kind uint16) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := t.find(id)
	return i != 0 && t.at(i).kind == kind
}

// changed notes that an entry of dir was made here.
func (t *nodes) changed(dir nodeID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if d := t.find(dir); d != 0 {
		t.touch(d)
	}
}

// keepLast remembers what the directory id is, which is about to be removed.
func (t *nodes) keepLast(id nodeID, e cache.Entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := t.find(id); i != 0 && i != rootSlot {
		t.last[i] = e
	}
}

// lastOf returns what keepLast was told, if the node bears no name any more.
func (t *nodes) lastOf(id nodeID) (cache.Entry, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := t.find(id)
	if i == 0 || t.at(i).parent != 0 {
		return cache.Entry{}, false
	}
	e, ok := t.last[i]
	return e, ok
}

// dirNode returns the node of an entry of dir, if it is known to be a directory.
func (t *nodes) dirNode(dir nodeID, name string) (nodeID, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := t.named(place{t.find(dir), name})
	if i == 0 || t.at(i).kind != syscall.S_IFDIR {
		return 0, false
	}
	return t.id(i), true
}
