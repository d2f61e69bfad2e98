package fs

import (
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"testing"

	"pierfs/backends"
	"pierfs/cache"
)

func fileEntry(version uint64) cache.Entry {
	return cache.Entry{Info: backends.Info{Mode: 0o644}, Version: version}
}

func dirEntry() cache.Entry { return cache.Entry{Info: backends.Info{Mode: os.ModeDir | 0o755}} }

func mustLook(t *testing.T, n *nodes, dir nodeID, name string, e cache.Entry) view {
	t.Helper()
	v, ok := n.look(nil, dir, name, e)
	if !ok {
		t.Fatalf("look(%d, %q): the directory is not known", dir, name)
	}
	return v
}

func TestNodeKeepsItsNumberOverRenamesAndForgetting(t *testing.T) {
	n := newNodes()
	a := mustLook(t, n, rootID, "a", dirEntry())
	f := mustLook(t, n, a.id, "f", fileEntry(1))
	n.rename(rootID, "a", rootID, "b")
	if path, ok := n.path(f.id); !ok || path != "b/f" {
		t.Errorf("after a became b, a/f is at %q (%v), want b/f", path, ok)
	}
	if ino := n.ino(a.id, "f"); ino != f.ino {
		t.Errorf("listing gives number %d for the renamed directory's file, stat gave %d", ino, f.ino)
	}
	n.forget(f.id, 1)
	n.forget(a.id, 1)
	b := mustLook(t, n, rootID, "b", dirEntry())
	if b.ino != a.ino {
		t.Errorf("number of the renamed directory after the kernel forgot it: %d, want %d as before", b.ino, a.ino)
	}
	if again := mustLook(t, n, b.id, "f", fileEntry(1)); again.ino != f.ino {
		t.Errorf("number of its file: %d, want %d as before", again.ino, f.ino)
	}
	if fresh := mustLook(t, n, rootID, "a", dirEntry()); fresh.ino == b.ino {
		t.Errorf("a new file under the old name has the number %d of the renamed one", fresh.ino)
	}
}

// TestLinkedNamesAreOneNodeAfterForgetting: a file of several names is one node, with the number that it had, in whatever order
// the kernel asks for its names again.
func TestLinkedNamesAreOneNodeAfterForgetting(t *testing.T) {
	for _, order := range [][]string{{"a", "b", "c"}, {"c", "b", "a"}, {"b", "c", "a"}} {
		n := newNodes()
		linked := fileEntry(1)
		a := mustLook(t, n, rootID, "a", linked)
		linked.Linked = 5
		for _, name := range []string{"b", "c"} {
			if _, ok := n.link(nil, a.id, rootID, name, linked.Linked); !ok {
				t.Fatal("the node cannot be linked")
			}
		}
		n.forget(a.id, 3)
		if n.count() != 1 {
			t.Fatalf("%d nodes are left, want the root", n.count())
		}
		first := mustLook(t, n, rootID, order[0], linked)
		for _, name := range order {
			v := mustLook(t, n, rootID, name, linked)
			if v.id != first.id || v.ino != a.ino || n.ino(rootID, name) != a.ino {
				t.Errorf("%v: %q is node %d with number %d, want node %d with number %d", order, name, v.id, v.ino, first.id, a.ino)
			}
		}
		n.remove(rootID, "a")
		if other := mustLook(t, n, rootID, "a", fileEntry(2)); other.id == first.id || other.ino == a.ino {
			t.Errorf("%v: a new file under a removed name is node %d with number %d, as the old one", order, other.id, other.ino)
		}
		for _, id := range []nodeID{first.id, first.id + 1, first.id + 2} {
			n.forget(id, 100)
		}
		if len(n.linked) > 0 || len(n.files) > 0 {
			t.Errorf("%v: forgotten nodes are still known as files: %v, %v", order, n.linked, n.files)
		}
	}
}

func TestNodeOfReplacedContentIsNewWhileTheOldIsOpen(t *testing.T) {
	n := newNodes()
	old := mustLook(t, n, rootID, "f", fileEntry(1))
	c := &content{}
	if _, _, ok := n.opens(old.id, c, "f", fileEntry(1), false); !ok {
		t.Fatal("a node that nobody has open cannot be opened")
	}
	if again := mustLook(t, n, rootID, "f", fileEntry(1)); again.id != old.id {
		t.Errorf("unchanged and open: node %d, want %d", again.id, old.id)
	}
	fresh := mustLook(t, n, rootID, "f", fileEntry(2))
	if fresh.id == old.id || fresh.ino != old.ino {
		t.Errorf("changed on the server: node %d number %d, want a node other than %d and number %d", fresh.id, fresh.ino, old.id, old.ino)
	}
	if path, ok := n.path(old.id); ok {
		t.Errorf("the old content still bears the name %q", path)
	}
	if _, _, ok := n.opens(old.id, &content{}, "f", fileEntry(2), false); ok {
		t.Error("the old node was opened with the new content")
	}
	n.forget(fresh.id, 1)
	if again := mustLook(t, n, rootID, "f", fileEntry(2)); again.ino != old.ino {
		t.Errorf("after the kernel gave the new node back the number is %d, want %d", again.ino, old.ino)
	}
	n.closes(old.id, c, false, 0)
	n.forget(old.id, 2)
	if _, ok := n.view(old.id); ok {
		t.Error("the old node outlived its last close and lookup")
	}
}

func TestNodePagesAreKeptOnlyForTheSameVersion(t *testing.T) {
	n := newNodes()
	f := mustLook(t, n, rootID, "f", fileEntry(1))
	for i, step := range []struct {
		version uint64
		keep    bool
	}{{1, false}, {1, true}, {2, false}, {2, true}} {
		c := &content{}
		keep, _, ok := n.opens(f.id, c, "f", fileEntry(step.version), false)
		if !ok || keep != step.keep {
			t.Errorf("open %d of version %d: keep %v ok %v, want %v true", i, step.version, keep, ok, step.keep)
		}
		n.closes(f.id, c, false, 0)
	}
}

func TestNodeWithTwoNamesLivesByEither(t *testing.T) {
	n := newNodes()
	d := mustLook(t, n, rootID, "d", dirEntry())
	f := mustLook(t, n, rootID, "f", fileEntry(1))
	if v, ok := n.link(nil, f.id, d.id, "g", 7); !ok || v.id != f.id || v.names != 2 || v.ino != f.ino {
		t.Fatalf("link: %+v %v, want the same node with two names", v, ok)
	}
	n.rename(rootID, "f", d.id, "g")
	if v, _ := n.view(f.id); v.names != 2 {
		t.Errorf("a rename between two names of one file left %d names, want both", v.names)
	}
	n.remove(rootID, "f")
	if path, _ := n.path(f.id); path != "d/g" {
		t.Errorf("after one name went it is at %q, want d/g", path)
	}
	n.remove(d.id, "g")
	if v, ok := n.view(f.id); !ok || v.names != 0 {
		t.Errorf("after both names went: %+v known %v, want known without a name", v, ok)
	}
}

func TestNodeIDIsNeverUsedTwice(t *testing.T) {
	n := newNodes()
	a := mustLook(t, n, rootID, "a", fileEntry(1))
	n.forget(a.id, 1)
	b := mustLook(t, n, rootID, "b", fileEntry(1))
	if slot(a.id) != slot(b.id) || a.id == b.id {
		t.Errorf("ids %#x and %#x, want the same slot and different ids", a.id, b.id)
	}
	if _, ok := n.path(a.id); ok {
		t.Error("a forgotten id still has a path")
	}
}

// modelNode is a node of the model that TestNodesAgreeWithModel compares the table with: everything by name and pointer.
type modelNode struct {
	id      nodeID
	ino     uint64
	dir     bool
	parent  *modelNode
	name    string
	lookups uint64
	entries map[string]*modelNode
}

func (m *modelNode) path() (string, bool) {
	if m.id == rootID {
		return "", true
	}
	if m.parent == nil {
		return "", false
	}
	above, ok := m.parent.path()
	if !ok {
		return "", false
	}
	return strings.TrimPrefix(above+"/"+m.name, "/"), ok
}

func (m *modelNode) above(other *modelNode) bool {
	for ; other != nil; other = other.parent {
		if other == m {
			return true
		}
	}
	return false
}

func TestNodesAgreeWithModel(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { agree(t, rand.New(rand.NewPCG(seed, 1))) })
	}
}

func agree(t *testing.T, r *rand.Rand) {
	table := newNodes()
	root := &modelNode{id: rootID, ino: rootIno, dir: true, lookups: 1, entries: map[string]*modelNode{}}
	live := []*modelNode{root} // what the kernel remembers
	for step := range 3000 {
		dir := live[r.IntN(len(live))]
		if !dir.dir {
			dir = root
		}
		name := string(rune('a' + r.IntN(6)))
		switch r.IntN(6) {
		case 0, 1: // look up, made if need be
			m := dir.entries[name]
			e := fileEntry(1)
			if m == nil && r.IntN(2) == 0 || m != nil && m.dir {
				e = dirEntry()
			}
			v := mustLook(t, table, dir.id, name, e)
			if m == nil {
				m = &modelNode{id: v.id, ino: v.ino, dir: e.IsDir(), parent: dir, name: name, entries: map[string]*modelNode{}}
				dir.entries[name] = m
				live = append(live, m)
			}
			m.lookups++
			if v.id != m.id || v.ino != m.ino {
				t.Fatalf("step %d: look at %q gives node %d number %d, want %d %d", step, name, v.id, v.ino, m.id, m.ino)
			}
		case 2: // rename
			m, to, name2 := dir.entries[name], live[r.IntN(len(live))], string(rune('a'+r.IntN(6)))
			if m == nil || !to.dir || m.above(to) {
				continue
			}
			if old := to.entries[name2]; old == m || old != nil && (len(old.entries) > 0 || old.above(dir)) {
				continue
			} else if old != nil {
				old.parent = nil
			}
			table.rename(dir.id, name, to.id, name2)
			delete(dir.entries, name)
			to.entries[name2], m.parent, m.name = m, to, name2
		case 3: // remove
			if m := dir.entries[name]; m != nil && len(m.entries) == 0 {
				table.remove(dir.id, name)
				delete(dir.entries, name)
				m.parent = nil
			}
		case 4: // forget a part
			if m := live[r.IntN(len(live))]; m != root && m.lookups > 1 {
				table.forget(m.id, 1)
				m.lookups--
			}
		case 5: // forget all of a leaf
			k := r.IntN(len(live))
			m := live[k]
			if m == root || len(m.entries) > 0 || r.IntN(4) > 0 {
				continue
			}
			table.forget(m.id, m.lookups)
			if m.parent != nil {
				delete(m.parent.entries, m.name)
			}
			live = append(live[:k:k], live[k+1:]...)
		}
		if step%100 == 0 {
			compare(t, step, table, live)
		}
	}
	compare(t, -1, table, live)
	for _, m := range live[1:] {
		table.forget(m.id, m.lookups)
	}
	if table.count() != 1 || table.index.used != 0 || len(table.other) != 0 || len(table.more) != 0 {
		t.Errorf("after everything was forgotten: %d nodes, %d names, %d further names, want the root alone", table.count(), table.index.used, len(table.more))
	}
	if len(table.away) > len(table.moved) {
		t.Errorf("%d numbers are counted as away, and only %d names remembered as moved", len(table.away), len(table.moved))
	}
}

func compare(t *testing.T, step int, table *nodes, live []*modelNode) {
	t.Helper()
	numbers := map[uint64]nodeID{}
	for _, m := range live {
		v, ok := table.view(m.id)
		if !ok || v.ino != m.ino {
			t.Fatalf("step %d: node %d is %+v (known %v), want number %d", step, m.id, v, ok, m.ino)
		}
		if other, twice := numbers[m.ino]; twice {
			t.Fatalf("step %d: nodes %d and %d have the same number", step, other, m.id)
		}
		numbers[m.ino] = m.id
		got, gotOK := table.path(m.id)
		want, wantOK := m.path()
		if got != want || gotOK != wantOK {
			t.Fatalf("step %d: node %d is at %q (%v), want %q (%v)", step, m.id, got, gotOK, want, wantOK)
		}
	}
	if table.count() != len(live) {
		t.Fatalf("step %d: %d nodes, want %d", step, table.count(), len(live))
	}
}

// heapOfNodes fills a table as `find` over so many directories of so many files would, and returns what a node takes of the heap.
func heapOfNodes(dirs, files int) float64 {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	n := newNodes()
	for d := range dirs {
		dir, _ := n.look(nil, rootID, fmt.Sprintf("dir%02d", d), dirEntry())
		for f := range files {
			n.look(nil, dir.id, fmt.Sprintf("file-%07d.dat", f), fileEntry(1))
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	runtime.KeepAlive(n)
	return (float64(after.HeapAlloc) - float64(before.HeapAlloc)) / float64(dirs*files)
}

func TestNodesAreSmall(t *testing.T) {
	if each := heapOfNodes(6, 10_000); each > 150 {
		t.Errorf("a node takes %.0f bytes of heap, want at most 150", each)
	}
}

// BenchmarkNodes tells what a million of nodes take.
func BenchmarkNodes(b *testing.B) {
	const dirs, files = 100, 10_000
	var each float64
	for b.Loop() {
		each = heapOfNodes(dirs, files)
	}
	b.ReportMetric(each, "heapB/node")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/(dirs*files), "ns/node")
}

// TestNodesOfManyNamesAgreeWithModel is the same for hard links: files alone, in the root and one directory.
func TestNodesOfManyNamesAgreeWithModel(t *testing.T) {
	type at struct {
		dir  nodeID
		name string
	}
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 2))
		table := newNodes()
		dirs := []nodeID{rootID, mustLook(t, table, rootID, "dir", dirEntry()).id}
		names := map[at]nodeID{}       // what bears each name
		lookups := map[nodeID]uint64{} // of each node that the kernel remembers
		count := func(id nodeID) (n int) {
			for _, other := range names {
				if other == id {
					n++
				}
			}
			return n
		}
		pick := func() at { return at{dirs[r.IntN(2)], string(rune('a' + r.IntN(5)))} }
		for step := range 3000 {
			p, q := pick(), pick()
			switch r.IntN(5) {
			case 0: // look up
				v := mustLook(t, table, p.dir, p.name, fileEntry(1))
				if id, ok := names[p]; ok && id != v.id {
					t.Fatalf("seed %d step %d: %v is node %d, want %d", seed, step, p, v.id, id)
				}
				names[p] = v.id
				lookups[v.id]++
			case 1: // link
				if id, ok := names[p]; ok && names[q] == 0 {
					table.link(nil, id, q.dir, q.name, 0)
					names[q] = id
					lookups[id]++
				}
			case 2: // remove
				table.remove(p.dir, p.name)
				delete(names, p)
			case 3: // rename
				if id, ok := names[p]; ok && id != names[q] {
					table.rename(p.dir, p.name, q.dir, q.name)
					delete(names, p)
					names[q] = id
				}
			case 4: // forget
				for id, n := range lookups {
					table.forget(id, n)
					delete(lookups, id)
					for at, other := range names {
						if other == id {
							delete(names, at)
						}
					}
					break
				}
			}
			if got, want := table.index.used+len(table.other), len(names)+1; got != want {
				t.Fatalf("seed %d step %d: %d names, want %d", seed, step, got, want)
			}
			for id := range lookups {
				v, ok := table.view(id)
				if !ok || v.names != count(id) {
					t.Fatalf("seed %d step %d: node %d is %+v (known %v), want %d names", seed, step, id, v, ok, count(id))
				}
				if path, ok := table.path(id); ok != (v.names > 0) || ok && names[at{dirs[strings.Count(path, "/")], path[strings.LastIndex(path, "/")+1:]}] != id {
					t.Fatalf("seed %d step %d: node %d is at %q (%v), which is not its name", seed, step, id, path, ok)
				}
			}
		}
	}
}

// TestThreadIsSentOnceToLookANameUp: whoever comes with a node that lost its name a moment ago is told once, and then has what is
// open there, so that no program sees ESTALE for a file that others keep replacing.
func TestThreadIsSentOnceToLookANameUp(t *testing.T) {
	var a again
	for i, want := range []bool{true, false, false} {
		if got := a.first(7); got != want {
			t.Errorf("question %d: %t, want %t", i, got, want)
		}
	}
	if !a.first(8) {
		t.Error("another thread was not told")
	}
	a.over(7)
	if !a.first(7) {
		t.Error("a thread that has opened its file was not told of the next one")
	}
}

// TestNodeOfTwoFilesIsGivenToOne: two files of one version under one node must not share its pages.
func TestNodeOfTwoFilesIsGivenToOne(t *testing.T) {
	n := newNodes()
	f := mustLook(t, n, rootID, "f", fileEntry(1))
	first, second := &content{file: new(cache.File)}, &content{file: new(cache.File)}
	n.opens(f.id, first, "f", fileEntry(1), false)
	if _, _, ok := n.opens(f.id, second, "f", fileEntry(1), false); ok {
		t.Error("the second file was opened under the node of the first")
	}
	if again := mustLook(t, n, rootID, "f", fileEntry(1)); again.id == f.id {
		t.Error("the name still leads to the node of the first file")
	}
}

// TestFileIsOpenUnderAllItsNames: a listing that shows a further name of an open file must not give the kernel a node for it, for
// what it says of the content may be older: two nodes of one file would not share their pages.
func TestFileIsOpenUnderAllItsNames(t *testing.T) {
	n := newNodes()
	e := fileEntry(1)
	e.Linked = 7
	f := mustLook(t, n, rootID, "f", e)
	c := &content{file: new(cache.File)}
	n.opens(f.id, c, "f", e, false)
	if !n.isOpen(rootID, "further", 7) || n.isOpen(rootID, "other", 8) || n.isOpen(rootID, "other", 0) {
		t.Error("a file is open under all its names, and no other is")
	}
	n.closes(f.id, c, false, 0)
	if n.isOpen(rootID, "further", 7) {
		t.Error("open after its last close")
	}
}

// TestFileIsWrittenUnderAllItsNodes: what was written under one node is unpublished under the other one, too.
func TestFileIsWrittenUnderAllItsNodes(t *testing.T) {
	n := newNodes()
	a, b := mustLook(t, n, rootID, "a", fileEntry(1)), mustLook(t, n, rootID, "b", fileEntry(1))
	file := new(cache.File)
	n.opens(a.id, &content{file: file}, "a", fileEntry(1), true)
	n.opens(b.id, &content{file: file}, "b", fileEntry(1), true)
	if n.hasWritten(a.id) || n.hasWritten(b.id) {
		t.Error("written, before anything was")
	}
	n.wrote(a.id)
	if !n.hasWritten(a.id) || !n.hasWritten(b.id) {
		t.Error("not written, though it was under one of the nodes")
	}
}
