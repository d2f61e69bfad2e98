package model

import (
	"math/rand/v2"
	"strings"
	"syscall"
)

// generator makes operations that mean something in a world: most name what is there, some what is not.
type generator struct {
	r     *rand.Rand
	hands int
}

func newGenerator(seed uint64, stream int, hands int) *generator {
	return &generator{r: rand.New(rand.NewPCG(seed, uint64(stream))), hands: hands}
}

// weights says how often each kind is made.
var weights = []struct {
	kind Kind
	n    int
}{
	{Open, 22}, {Write, 20}, {Close, 13}, {Read, 12}, {Ftruncate, 3}, {Fsync, 3}, {Fstat, 3}, {Futimens, 2}, {Fchmod, 1},
	{Dup, 2}, {MapWrite, 2}, {Copy, 2}, {Fallocate, 1},
	{Stat, 4}, {Lstat, 4}, {Readdir, 4}, {Rename, 7}, {NoReplace, 3}, {Unlink, 5}, {Mkdir, 5}, {Rmdir, 3}, {Symlink, 2},
	{Readlink, 1}, {Link, 3}, {Chmod, 3}, {Utimes, 3}, {Truncate, 3},
}

// names are few, so that operations meet, and strange, so that names are seen to be bytes.
var names = []string{"a", "b", "c", "d", "e", "f", "with space", "new\nline", "ümlaut", "latin-1 \xfc", ".dot", "-dash*?[", "b\\s'\"$"}

const (
	slots      = 5        // files that a process has open at most
	maxDepth   = 3        // directories above a new name
	maxNodes   = 60       // in a tree; beyond it some are removed
	maxContent = 3 << 19  // bytes of a file
	hole       = 64 << 10 // how far beyond the end a write may begin
	longWrite  = 300 << 10
)

// next returns the n-th operation.
func (g *generator) next(w *World, n int) Op {
	for {
		o := g.draw(w)
		o.N = n
		if g.sensible(w, o) {
			return o
		}
	}
}

// sensible reports whether the model knows what o does.
func (g *generator) sensible(w *World, o Op) bool {
	switch o.Kind {
	case Open:
		p, err := w.walk(o.Path, true)
		if err == 0 && w.nodes[p.node].typ == Directory && !(opened{flags: o.Flags}).writes() && o.Flags&syscall.O_CREAT == 0 {
			return false // directories are listed, not opened
		}
	case Copy:
		if from, ok := w.open[fd{o.Hand, o.From}]; ok && w.nodes[from.node].given {
			return false
		}
	case Link:
		p, _ := w.walk(o.Path, false)
		if w.nodes[p.node].typ == SymbolicLink {
			return false // servers differ in whether that makes a second name of the link or of what it leads to
		}
	case Rename, NoReplace:
		if strings.Count(o.Other, "/") > maxDepth {
			return false
		}
	}
	return !w.leadsOut(o)
}

func (g *generator) draw(w *World) Op {
	total := 0
	for _, k := range weights {
		total += k.n
	}
	at := g.r.IntN(total)
	if len(w.nodes) > maxNodes {
		return g.fill(w, Op{Kind: []Kind{Unlink, Rmdir, Rename}[g.r.IntN(3)], Hand: g.r.IntN(g.hands)})
	}
	for _, k := range weights {
		if at -= k.n; at < 0 {
			return g.fill(w, Op{Kind: k.kind, Hand: g.r.IntN(g.hands)})
		}
	}
	panic("the weights do not add up")
}

func (g *generator) fill(w *World, o Op) Op {
	switch o.Kind {
	case Open:
		return g.open(w, o)
	case Dup:
		free, ok := g.free(w, o.Hand)
		if !ok {
			return g.close(w, o)
		}
		o.From, o.Slot = g.slot(w, o.Hand), free
	case Close:
		return g.close(w, o)
	case Read, Write, MapWrite, Copy, Ftruncate, Fallocate, Fsync, Fstat, Futimens, Fchmod:
		o.Slot = g.slot(w, o.Hand)
		if _, ok := w.open[fd{o.Hand, o.Slot}]; !ok && !g.chance(3) {
			return g.open(w, o)
		}
		o = g.within(w, o)
	case Rename, NoReplace, Link:
		o.Path, o.Other = g.path(w), g.path(w)
	case Symlink:
		o.Path, o.Other = g.fresh(w), g.target()
	case Mkdir:
		o.Path = g.fresh(w)
		if strings.Count(o.Path, "/") >= maxDepth {
			o.Path = g.name()
		}
	case Readdir:
		if o.Path = g.directory(w); g.chance(10) {
			o.Path = g.path(w)
		}
	case Rmdir:
		if o.Path = g.directory(w); o.Path == "" || g.chance(20) {
			o.Path = g.path(w)
		}
	default:
		o.Path = g.path(w)
	}
	o.Mode = []uint32{0o644, 0o600, 0o640, 0o755, 0o700, 0o775, 0o664}[g.r.IntN(7)]
	if o.Kind == Fallocate {
		o.Mode = uint32(g.r.IntN(2)) // 1 is FALLOC_FL_KEEP_SIZE
	}
	if o.Kind == Mkdir || o.Kind == Chmod {
		o.Mode |= 0o700 // a directory stays one that its owner may use
	}
	if o.Kind == Truncate {
		o.Size = g.r.Int64N(longWrite)
	}
	o.Time = 978_307_200 + g.r.Int64N(1<<29) // from 2001 to 2018
	return o
}

func (g *generator) chance(percent int) bool { return g.r.IntN(100) < percent }

func (g *generator) open(w *World, o Op) Op {
	free, ok := g.free(w, o.Hand)
	if !ok {
		return g.close(w, o)
	}
	o.Kind, o.Slot, o.Path = Open, free, g.path(w)
	o.Mode = []uint32{0o666, 0o644, 0o600, 0o755}[g.r.IntN(4)]
	o.Flags = []int{syscall.O_RDONLY, syscall.O_WRONLY, syscall.O_RDWR, syscall.O_RDWR}[g.r.IntN(4)]
	if o.Flags == syscall.O_RDONLY {
		return o
	}
	for _, f := range []struct{ bit, percent int }{{syscall.O_CREAT, 75}, {syscall.O_TRUNC, 25}, {syscall.O_APPEND, 15}, {syscall.O_NOFOLLOW, 5}} {
		if g.chance(f.percent) {
			o.Flags |= f.bit
		}
	}
	if o.Flags&syscall.O_CREAT != 0 && g.chance(25) {
		o.Flags |= syscall.O_EXCL
	}
	return o
}

func (g *generator) close(w *World, o Op) Op {
	return Op{Kind: Close, Hand: o.Hand, Slot: g.slot(w, o.Hand)}
}

// slot returns a slot that is in use if there is one.
func (g *generator) slot(w *World, hand int) int {
	at := g.r.IntN(slots)
	for i := range slots {
		if _, ok := w.open[fd{hand, (at + i) % slots}]; ok {
			return (at + i) % slots
		}
	}
	return at
}

func (g *generator) free(w *World, hand int) (int, bool) {
	at := g.r.IntN(slots)
	for i := range slots {
		if _, ok := w.open[fd{hand, (at + i) % slots}]; !ok {
			return (at + i) % slots, true
		}
	}
	return 0, false
}

// within chooses a range of an open file.
func (g *generator) within(w *World, o Op) Op {
	size := int64(len(w.nodes[w.open[fd{o.Hand, o.Slot}].node].data))
	switch g.r.IntN(4) {
	case 0:
	case 1:
		o.Off = size
	case 2:
		o.Off = g.r.Int64N(size + 1)
	case 3:
		o.Off = g.r.Int64N(size + hole)
	}
	o.Size = 1 + g.r.Int64N(1<<g.r.IntN(19))
	if o.Kind == Read && g.chance(40) {
		o.Off, o.Size = 0, maxContent+1
	}
	if o.Kind == Copy {
		o.From, o.Size = g.slot(w, o.Hand), 1+g.r.Int64N(longWrite)
		o.Off = g.r.Int64N(int64(len(w.nodes[w.open[fd{o.Hand, o.From}].node].data)) + 1)
	}
	if o.Kind == MapWrite && size > 0 {
		// Within one page, so that it is done as a whole or not at all.
		const page = 4096
		o.Off = g.r.Int64N(size)
		o.Size = 1 + g.r.Int64N(min(size-o.Off, page-o.Off%page))
	}
	if o.Kind == Ftruncate {
		o.Size = o.Off
		if g.chance(20) {
			o.Size = 0
		}
	}
	if o.Kind != Read && o.Off+o.Size > maxContent {
		o.Off = 0
	}
	return o
}

// path returns one that is there, mostly.
func (g *generator) path(w *World) string {
	all := w.paths()
	switch at := g.r.IntN(100); {
	case at < 62 && len(all) > 0:
		return all[g.r.IntN(len(all))].path
	case at < 93:
		return g.fresh(w)
	case at < 96:
		return join(g.directory(w), strings.Repeat("n", maxName+g.r.IntN(2)))
	case len(all) > 0:
		return all[g.r.IntN(len(all))].path + "/" + g.name() // below a file, or in a directory
	}
	return "missing/" + g.name()
}

// fresh returns a directory that is there and any name in it.
func (g *generator) fresh(w *World) string { return join(g.directory(w), g.name()) }

func (g *generator) name() string { return names[g.r.IntN(len(names))] }

// directory returns one that is there, "" for the tree's own.
func (g *generator) directory(w *World) string {
	dirs := []string{"", ""}
	for _, f := range w.paths() {
		if w.nodes[f.node].typ == Directory {
			dirs = append(dirs, f.path)
		}
	}
	return dirs[g.r.IntN(len(dirs))]
}

// target returns what a symbolic link may hold.
func (g *generator) target() string {
	switch g.r.IntN(4) {
	case 0:
		return "../" + g.name()
	case 1:
		return g.name() + "/" + g.name()
	default:
		return g.name()
	}
}

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}
