package fs

import "hash/maphash"

// index finds nodes by their first name. It holds slots alone, and compares with the names that the nodes bear: a map
// would hold every name twice and cost 60 bytes more a node. Open addressing, linear probing; deletion moves later ones
// up, so that nothing is left behind.
type index struct {
	seed  maphash.Seed
	slots []slot // a power of two; 0 is free
	used  int
}

const smallestIndex = 64

func newIndex() index { return index{seed: maphash.MakeSeed(), slots: make([]slot, smallestIndex)} }

func (x *index) home(p place) int {
	h := maphash.String(x.seed, p.name) ^ uint64(p.dir)*0x9e3779b97f4a7c15
	return int((h ^ h>>32) & uint64(len(x.slots)-1))
}

func (x *index) next(k int) int { return (k + 1) & (len(x.slots) - 1) }

// placeOf returns the first name of node i.
func (t *nodes) placeOf(i slot) place {
	n := t.at(i)
	return place{n.parent, n.name}
}

// search returns where in the index p is, or would be.
func (t *nodes) search(p place) int {
	x := &t.index
	k := x.home(p)
	for x.slots[k] != 0 && t.placeOf(x.slots[k]) != p {
		k = x.next(k)
	}
	return k
}

// enter puts node i, which bears a name, into the index.
func (t *nodes) enter(i slot) {
	x := &t.index
	if x.used*4 >= len(x.slots)*3 {
		t.reindex(len(x.slots) * 2)
	}
	x.slots[t.search(t.placeOf(i))] = i
	x.used++
}

// leave takes node i, which still bears its name, from the index.
func (t *nodes) leave(i slot) {
	x := &t.index
	hole := t.search(t.placeOf(i))
	if x.slots[hole] == 0 {
		return
	}
	x.used--
	for k := x.next(hole); x.slots[k] != 0; k = x.next(k) {
		// What lies at k may fill the hole unless its home lies behind the hole.
		home := x.home(t.placeOf(x.slots[k]))
		if (k-home)&(len(x.slots)-1) >= (k-hole)&(len(x.slots)-1) {
			x.slots[hole] = x.slots[k]
			hole = k
		}
	}
	x.slots[hole] = 0
	if len(x.slots) > smallestIndex && x.used*8 < len(x.slots) {
		t.reindex(len(x.slots) / 2)
	}
}

func (t *nodes) reindex(size int) {
	x := &t.index
	old := x.slots
	x.slots = make([]slot, size)
	for _, i := range old {
		if i != 0 {
			x.slots[t.search(t.placeOf(i))] = i
		}
	}
}
