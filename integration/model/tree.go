package model

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// tree is one process's own directory: what is done in it, and the worlds that it may be in by the answers so far.
type tree struct {
	o       *Options
	base    string // of the tree, below the directory of the run
	hands   []*hand
	gen     *generator
	worlds  []*World
	count   int // operations done
	stride  int // so that the numbers of several trees part
	first   int
	trace   []Op
	answers []Answer
	inodes  map[int]uint64 // of nodes, as stat(2) told them
	wait    time.Duration  // the longest answer
	failed  int            // operations that ended with the errno of an outage
}

// traced bounds what is remembered of a run with outages, which is not replayed.
const traced = 3000

// do has a process do one operation and drops the worlds that its answer rules out. Without any left it returns a
// *Failure.
func (t *tree) do(o Op) (Answer, error) {
	o.Base = t.base
	a, err := t.hands[o.Hand].do(o, t.o.Limit)
	if err != nil {
		return a, err
	}
	t.trace, t.answers = append(t.trace, o), append(t.answers, a)
	if t.o.Outages && len(t.trace) > 2*traced {
		t.trace, t.answers = slices.Clone(t.trace[traced:]), slices.Clone(t.answers[traced:])
	}
	t.wait = max(t.wait, a.End.Sub(a.Begin))
	if why := t.advance(o, a); why != "" {
		return a, t.failure(o, why)
	}
	if slices.Contains(outage, a.Err) && t.o.Outages {
		t.failed++
	}
	return a, nil
}

// advance moves the worlds on, and tells why none is left.
func (t *tree) advance(o Op, a Answer) (why string) {
	var next []*World
	for _, w := range t.worlds {
		after, saved, differs := w.step(o, a, t.o.excuse())
		for i, u := range after {
			if saved != nil {
				differs = t.serverDiffers(u, saved[i])
			}
			if differs == "" {
				next = append(next, u)
			}
		}
		if why == "" {
			why = differs
		}
	}
	if len(next) == 0 {
		return why
	}
	if t.worlds = distinct(next); len(t.worlds) > maxWorlds {
		return fmt.Sprintf("the outages leave more than %d worlds possible: this is for the model to mend", maxWorlds)
	}
	return t.inodeDiffers(o, a)
}

// inodeDiffers checks that a file keeps its inode number as long as it lives, under all its names.
func (t *tree) inodeDiffers(o Op, a Answer) string {
	if a.Stat == nil || t.o.Outages {
		return ""
	}
	id := t.worlds[0].clone().do(o, 0).node
	if known, ok := t.inodes[id]; ok && known != a.Stat.Inode {
		return fmt.Sprintf("got inode %d, want %d as before", a.Stat.Inode, known)
	}
	t.inodes[id] = a.Stat.Inode
	return ""
}

// serverDiffers tells how files that were published are not what the server has.
func (t *tree) serverDiffers(w *World, saved []int) string {
	if len(saved) == 0 {
		return ""
	}
	for _, f := range w.paths() {
		if !slices.Contains(saved, f.node) {
			continue
		}
		if differs := differsFile(t.backing(f.path), w.nodes[f.node], f.path); differs != "" {
			return differs
		}
	}
	return ""
}

func (t *tree) backing(path string) string { return filepath.Join(t.o.Backing, t.base, path) }

// differsFile tells how the server's own file is not the model's.
func differsFile(name string, n node, path string) string {
	var st unix.Stat_t
	if err := unix.Lstat(name, &st); err != nil {
		return fmt.Sprintf("the server has no %q: %v", path, err)
	}
	w := n.attributes()
	got := *attributes(&st, nil).Stat
	if got.Type == File && n.typ == File {
		data, err := os.ReadFile(name)
		if err != nil {
			return fmt.Sprintf("the server's %q: %v", path, err)
		}
		if differs := differsData(data, n.data); differs != "" {
			return fmt.Sprintf("the server's %q: %s", path, differs)
		}
	}
	if differs := w.differsStat(got, time.Now()); differs != "" {
		return fmt.Sprintf("the server's %q: %s", path, differs)
	}
	return ""
}

// run does random operations until there were enough of them, or done is closed.
func (t *tree) run(done <-chan struct{}, aside func() error) error {
	for i := 0; t.o.Ops == 0 || i < t.o.Ops; i++ {
		select {
		case <-done:
			return t.quiesce()
		default:
		}
		if err := aside(); err != nil {
			return err
		}
		o := t.gen.next(t.worlds[0], t.number())
		a, err := t.do(o)
		if err != nil {
			return err
		}
		if err := t.mend(o, a); err != nil {
			return err
		}
		if (i+1)%t.o.Quiesce == 0 {
			if err := t.quiesce(); err != nil {
				return err
			}
		}
	}
	return t.quiesce()
}

func (t *tree) number() int {
	t.count++
	return t.first + t.count*t.stride
}

// mend waits after an outage until the mount answers again, though not always: going on while the server is away is a part
// of the test, as long as the worlds are few.
func (t *tree) mend(o Op, a Answer) error {
	if !t.o.Outages || a.Err == 0 || !slices.Contains(outage, a.Err) {
		return nil
	}
	if o.Kind == Link {
		return t.unlink(o)
	}
	if len(t.worlds) < manyWorlds && t.gen.chance(60) {
		return nil
	}
	if err := t.awaitServer(); err != nil {
		return err
	}
	if len(t.worlds) < manyWorlds {
		return nil
	}
	if err := t.look(); err != nil || len(t.worlds) < manyWorlds {
		return err
	}
	return t.quiesce()
}

// unlink removes what a failed link may have made. The mount does not know then that the file has two names, and a client
// that does not know it parts them with the next replacement, rightly.
func (t *tree) unlink(link Op) error {
	for {
		if err := t.awaitServer(); err != nil {
			return err
		}
		a, err := t.do(Op{N: t.number(), Hand: link.Hand, Kind: Unlink, Path: link.Other})
		if err != nil || !slices.Contains(outage, a.Err) {
			return err
		}
	}
}

// manyWorlds is how many possible states are borne before it is looked which of them is true; maxWorlds bounds them.
const (
	manyWorlds = 16
	maxWorlds  = 4096
)

// awaitServer lists the tree until that works again, for as long as an outage may last.
func (t *tree) awaitServer() error {
	deadline := time.Now().Add(t.o.Longest)
	for {
		a, err := t.do(Op{N: t.number(), Kind: Readdir})
		switch {
		case err != nil:
			return err
		case a.Err == 0:
			return nil
		}
		t.trace, t.answers = t.trace[:len(t.trace)-1], t.answers[:len(t.answers)-1] // one of many that say the same
		switch {
		case time.Now().After(deadline):
			return fmt.Errorf("tree %s: still %s after %v: the mount does not come back", t.base, a, t.o.Longest)
		}
		time.Sleep(50 * time.Millisecond) // a poll, bounded above
	}
}

// quiesce closes all that is open and compares the whole tree, in the mount and on the server.
func (t *tree) quiesce() error {
	for hand := range t.hands {
		for slot := range slots {
			if _, ok := t.worlds[0].open[fd{hand, slot}]; !ok {
				continue
			}
			if _, err := t.do(Op{N: t.number(), Hand: hand, Kind: Close, Slot: slot}); err != nil {
				return err
			}
		}
	}
	if t.o.Outages { // what failed may still happen as long as the server is stalled
		if err := t.awaitServer(); err != nil {
			return err
		}
	}
	if err := t.look(); err != nil {
		return err
	}
	return t.compareServer()
}

// look reads the whole tree through the mount, and what is open.
func (t *tree) look() error {
	if err := t.lookAtOpen(); err != nil {
		return err
	}
	todo := []string{""}
	for len(todo) > 0 {
		dir := todo[0]
		todo = todo[1:]
		a, err := t.do(Op{N: t.number(), Hand: t.gen.r.IntN(len(t.hands)), Kind: Readdir, Path: dir})
		if err != nil {
			return err
		}
		for _, name := range a.Names {
			path := join(dir, name.Name)
			if name.Type == Directory {
				todo = append(todo, path)
			}
			if err := t.lookAt(path, name.Type); err != nil {
				return err
			}
		}
	}
	return nil
}

func (t *tree) lookAtOpen() error {
	for hand := range t.hands {
		for slot := range slots {
			f, ok := t.worlds[0].open[fd{hand, slot}]
			if !ok {
				continue
			}
			ops := []Op{{Kind: Fstat}}
			if f.reads() {
				ops = append(ops, Op{Kind: Read, Size: maxContent + 1})
			}
			for _, o := range ops {
				o.N, o.Hand, o.Slot = t.number(), hand, slot
				if _, err := t.do(o); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (t *tree) lookAt(path string, typ Type) error {
	hand := t.gen.r.IntN(len(t.hands))
	ops := []Op{{Kind: Lstat, Path: path}}
	slot, free := t.gen.free(t.worlds[0], hand)
	switch {
	case typ == SymbolicLink:
		ops = append(ops, Op{Kind: Readlink, Path: path})
	case typ == File && free:
		ops = append(ops, Op{Kind: Open, Path: path, Slot: slot}, Op{Kind: Read, Slot: slot, Size: maxContent + 1}, Op{Kind: Close, Slot: slot})
	}
	for _, o := range ops {
		o.N, o.Hand = t.number(), hand
		a, err := t.do(o)
		if err != nil {
			return err
		}
		if a.Err != 0 && o.Kind == Open {
			return nil
		}
	}
	return nil
}

// compareServer compares the server's own files with the worlds, when nothing is open, and drops those that they rule out.
func (t *tree) compareServer() error {
	var next []*World
	var whys []string
	for _, w := range t.worlds {
		if differs := t.differsServer(w); differs == "" {
			next = append(next, w)
		} else if !slices.Contains(whys, differs) {
			whys = append(whys, differs)
		}
	}
	if len(next) == 0 {
		return t.failure(Op{}, strings.Join(whys, "; or "))
	}
	t.worlds = next
	return nil
}

func (t *tree) differsServer(w *World) string {
	all := map[string]bool{}
	for _, f := range w.paths() {
		all[f.path] = true
		n := w.nodes[f.node]
		if differs := differsFile(t.backing(f.path), n, f.path); differs != "" && !n.unsaved {
			return differs
		}
		if n.typ == SymbolicLink {
			if target, err := os.Readlink(t.backing(f.path)); err != nil || target != n.target {
				return fmt.Sprintf("the server's link %q leads to %q (%v), want %q", f.path, target, err, n.target)
			}
		}
	}
	top := t.backing("")
	var extra string
	err := filepath.WalkDir(top, func(name string, _ os.DirEntry, err error) error {
		path, _ := filepath.Rel(top, name) // it lies below top
		if err == nil && path != "." && !all[path] && !t.litter(name) {
			extra = path
		}
		return err
	})
	switch {
	case err != nil && !os.IsNotExist(err):
		return fmt.Sprintf("walk the server's tree: %v", err)
	case extra != "":
		return fmt.Sprintf("the server has %q, which nobody made", extra)
	}
	return ""
}

// litter reports whether a name may be on the server for a while although no program made it: a temporary file of an
// upload that an outage cut off. The mount never shows it.
func (t *tree) litter(name string) bool {
	return t.o.Outages && t.o.Temporary != nil && t.o.Temporary.MatchString(filepath.Base(name))
}

func (t *tree) failure(o Op, why string) error {
	return &Failure{Seed: t.o.Seed, Tree: t.base, Op: o, Why: why, Trace: t.trace, Answers: t.answers}
}

// Failure tells of an answer that no world explains.
type Failure struct {
	Seed    uint64
	Tree    string
	Op      Op // the last one; the zero value if the whole tree was compared
	Why     string
	Trace   []Op // that led to it
	Answers []Answer
	Minimal bool // the trace was shrunk: none of its operations can be left out
}

// shown is how many operations of a trace an error tells.
const shown = 60

func (f *Failure) Error() string { return f.Tell(shown) }

// Tell tells the failure with the last n operations that led to it.
func (f *Failure) Tell(n int) string {
	what := "comparing the whole tree"
	if f.Op != (Op{}) {
		what = f.Op.String()
	}
	text := fmt.Sprintf("seed %d, tree %s: %s: %s", f.Seed, f.Tree, what, f.Why)
	trace := f.Trace
	if len(trace) > n {
		text += fmt.Sprintf("\n  ... %d operations before these", len(trace)-n)
		trace = trace[len(trace)-n:]
	}
	for i, o := range trace {
		text += "\n  " + o.String()
		if at := len(f.Answers) - len(trace) + i; at >= 0 && at < len(f.Answers) {
			a := f.Answers[at]
			text += fmt.Sprintf(": %s", a)
			if f.Answers[at].Err != syscall.Errno(0) || a.End.Sub(a.Begin) > time.Second {
				text += fmt.Sprintf(" (%v, %v)", a.Begin.Format("15:04:05.000"), a.End.Sub(a.Begin).Round(time.Millisecond))
			}
		}
	}
	return text
}
