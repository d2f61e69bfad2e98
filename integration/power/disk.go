// Package power is a file system that loses its power: in memory, mounted like any other, for a test to put under a program's
// directories. Programs see what they write. The disk below it has a content only once that was synced, and a name, or that one is gone,
// only once its directory was: no other file, and no other directory, brings it along. What was not synced is dropped when the
// power fails, or chance keeps some of it: changes of names up to one of them, or those that do not hang upon lost ones; and of
// each content the old pages, the new ones, or some of both.
//
// Kept at once are owners, permissions and the targets of symbolic links, of which nobody promises anything.
//
// Locks: Disk.mu, under which nothing is called that the test has handed in.
package power

import (
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// Step is one change of what the disk has, or of what it is to have: Op on Path, which is about to be made, or was just made.
type Step struct {
	Op   Op
	Path string // from the root of the Disk
	Made bool
}

// Op is what a Step does.
type Op string

const (
	Sync   Op = "sync"   // of a content
	Names  Op = "names"  // the sync of a directory
	Make   Op = "make"   // of a file, a directory or a link
	Rename Op = "rename" // to Path
	Remove Op = "remove"
)

// Disk is the file system. Its methods may be called at any time, by anybody but the func that it tells of steps.
type Disk struct {
	dir  string
	tell func(Step) bool

	mu      sync.Mutex
	off     bool // nothing is stored any more, and every call is EIO
	root    *object
	pending []change // of names, and not on the disk; the oldest first
	numbers uint64   // of objects
	clock   time.Time
	server  *fuse.Server
}

// New mounts an empty Disk at dir, which must be there, until t ends. Tell is told of each step; if it returns true the power fails right
// there, before a step that is not made yet. It may be nil.
func New(t testing.TB, dir string, tell func(Step) bool) *Disk {
	t.Helper()
	d := &Disk{dir: dir, tell: tell}
	if tell == nil {
		d.tell = func(Step) bool { return false }
	}
	d.root = d.newObject(syscall.S_IFDIR | 0o755)
	if err := d.mount(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.unmount)
	return d
}

func (d *Disk) mount() (err error) {
	forever := time.Hour // nobody but who uses the mount changes anything
	d.server, err = fs.Mount(d.dir, &node{d: d, o: d.root}, &fs.Options{
		MountOptions: fuse.MountOptions{DirectMountStrict: true, FsName: "power", Name: "power", MaxWrite: 1 << 20, AllowOther: true},
		EntryTimeout: &forever, AttrTimeout: &forever, NullPermissions: true,
		RootStableAttr: &fs.StableAttr{Ino: d.root.number},
	})
	return err
}

// unmount returns when nobody can reach the Disk any more.
func (d *Disk) unmount() {
	_ = syscall.Unmount(d.dir, syscall.MNT_FORCE|syscall.MNT_DETACH) // a test may have let go of it
	d.server.Wait()
}

// Fail has the power fail.
func (d *Disk) Fail() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.off = true
}

// Return brings the power back, once nobody has anything open any more, with what is on the disk, and returns how many changes were
// dropped. Chance says what of them is there all the same; nil keeps none.
func (d *Disk) Return(chance *rand.Rand) (dropped int, err error) {
	d.Fail()
	d.unmount()
	d.mu.Lock()
	defer d.mu.Unlock()
	dropped = d.settle(chance)
	d.off = false
	return dropped, d.mount()
}

// settle makes what is on the disk what programs see; d.mu is held.
func (d *Disk) settle(chance *rand.Rand) (dropped int) {
	dropped = len(d.pending)
	if chance != nil {
		d.store(someOf(d.pending, chance))
		dropped = len(d.pending)
	}
	d.pending = nil
	return dropped + d.root.restart(chance, map[*object]bool{})
}

// someOf returns which changes of names are on the disk though nobody has synced them: none, the first ones, or any.
func someOf(changes []change, chance *rand.Rand) func(int, change) bool {
	kept := make([]bool, len(changes))
	switch chance.IntN(3) {
	case 1:
		for i := range chance.IntN(len(kept) + 1) {
			kept[i] = true
		}
	case 2:
		for i := range kept {
			kept[i] = chance.IntN(2) == 0
		}
	}
	return func(i int, _ change) bool { return kept[i] }
}

// change is made as a whole or not at all.
type change []edit

// edit has name in dir lead to another object, or to none.
type edit struct {
	dir  *object
	name string
	to   *object
}

// place is what a change hangs upon an earlier one by.
type place struct {
	dir  *object
	name string
}

// store puts those of the pending changes on the disk that wanted names, and what they hang upon; d.mu is held.
func (d *Disk) store(wanted func(int, change) bool) {
	places := map[place]bool{}
	stored := make([]bool, len(d.pending))
	for i, c := range slices.Backward(d.pending) {
		stored[i] = wanted(i, c) || slices.ContainsFunc(c, func(e edit) bool { return places[place{e.dir, e.name}] })
		for _, e := range c {
			if stored[i] {
				places[place{e.dir, e.name}] = true
			}
		}
	}
	var left []change
	for i, c := range d.pending {
		if !stored[i] {
			left = append(left, c)
			continue
		}
		for _, e := range c {
			set(e.dir.kept, e.name, e.to)
		}
	}
	d.pending = left
}

func set(names map[string]*object, name string, to *object) {
	if to == nil {
		delete(names, name)
	} else {
		names[name] = to
	}
}

// object is a file, a directory or a symbolic link.
type object struct {
	number   uint64
	mode     uint32 // with the type
	uid, gid uint32
	links    int

	now, then   version            // what programs see, and what is on the disk
	names, kept map[string]*object // of a directory: the same
}

// version is a content with its times.
type version struct {
	content           []byte
	modified, changed time.Time
}

func (o *object) isDir() bool { return o.mode&syscall.S_IFMT == syscall.S_IFDIR }

func (d *Disk) newObject(mode uint32) *object {
	d.numbers++
	o := &object{number: d.numbers, mode: mode, links: 1}
	if o.isDir() {
		o.names, o.kept = map[string]*object{}, map[string]*object{}
	}
	d.touch(o)
	return o
}

// touch notes that o was written to.
func (d *Disk) touch(o *object) {
	d.change(o)
	o.now.modified = o.now.changed
}

// change notes that something of o is another. No two changes have one time.
func (d *Disk) change(o *object) {
	d.clock = later(d.clock.Add(1), time.Now())
	o.now.changed = d.clock
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// restart makes what is on the disk of o, and below it, what programs see.
func (o *object) restart(chance *rand.Rand, been map[*object]bool) (dropped int) {
	if been[o] {
		o.links++
		return 0
	}
	been[o], o.links = true, 1
	if o.mode&syscall.S_IFMT == syscall.S_IFREG {
		return o.restartContent(chance)
	}
	o.then = o.now
	o.names = maps.Clone(o.kept)
	for _, name := range slices.Sorted(maps.Keys(o.kept)) { // chance keeps its order
		dropped += o.kept[name].restart(chance, been)
	}
	return dropped
}

func (o *object) restartContent(chance *rand.Rand) (dropped int) {
	if o.now.changed.Equal(o.then.changed) {
		return 0
	}
	kept := o.then
	if chance != nil {
		switch chance.IntN(3) {
		case 1:
			kept = o.now
		case 2:
			kept.content = mix(o.then.content, o.now.content, chance)
		}
	}
	if kept.changed.IsZero() { // it has its name, and nothing else
		kept.modified, kept.changed = o.now.modified, o.now.changed
	}
	o.then = kept
	o.now = version{slices.Clone(kept.content), kept.modified, kept.changed}
	return 1
}

// page is what a disk takes at a time.
const page = 4 << 10

// mix returns a content that has the length of one of two, and of each of its pages that of one of them, or what was never written.
func mix(old, fresh []byte, chance *rand.Rand) []byte {
	size := len(old)
	if chance.IntN(2) == 0 {
		size = len(fresh)
	}
	mixed := make([]byte, size)
	for off := 0; off < size; off += page {
		from := old
		if chance.IntN(2) == 0 {
			from = fresh
		}
		if off < len(from) {
			copy(mixed[off:min(off+page, size)], from[off:])
		}
	}
	return mixed
}
