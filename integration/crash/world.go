package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
)

// world is a tree: what each path below a directory holds.
type world map[string]node

// node is a directory, or a file with its content, or a symbolic link, whose content is its target.
type node struct {
	kind    os.FileMode // of os.ModeType
	perm    os.FileMode // of a file; 0 is any
	changed int64       // when a file was, in seconds, if a program has said so; 0 is any
	content []byte
}

func (n node) isDir() bool { return n.kind == os.ModeDir }

// with returns w with path holding content; a file that is there keeps its permissions.
func (w world) with(path string, content []byte) world {
	w = maps.Clone(w)
	w[path] = node{perm: w[path].perm, content: content}
	return w
}

// withPerm returns w with the file at path having the permissions perm.
func (w world) withPerm(path string, perm os.FileMode) world {
	w = maps.Clone(w)
	n := w[path]
	n.perm = perm
	w[path] = n
	return w
}

// withTime returns w with the file at path changed at that time.
func (w world) withTime(path string, changed int64) world {
	w = maps.Clone(w)
	n := w[path]
	n.changed = changed
	w[path] = n
	return w
}

// withDir returns w with a directory at path.
func (w world) withDir(path string) world {
	w = maps.Clone(w)
	w[path] = node{kind: os.ModeDir}
	return w
}

// withLink returns w with a symbolic link at path.
func (w world) withLink(path, target string) world {
	w = maps.Clone(w)
	w[path] = node{kind: os.ModeSymlink, content: []byte(target)}
	return w
}

// without returns w without path and what lies below it.
func (w world) without(path string) world {
	w = maps.Clone(w)
	maps.DeleteFunc(w, func(name string, _ node) bool { return isBelow(name, path) })
	return w
}

// renamed returns w with what is at from, and below it, at to.
func (w world) renamed(from, to string) world {
	moved := w.without(to)
	for name, n := range w {
		if isBelow(name, from) {
			delete(moved, name)
			moved[to+name[len(from):]] = n
		}
	}
	return moved
}

func isBelow(name, dir string) bool { return name == dir || strings.HasPrefix(name, dir+"/") }

// state is one of the trees that a server may be found with.
type state struct {
	world

	// grows names a file that is being added to in place and may end anywhere from least on: nobody was told of the rest yet. ""
	// is none.
	grows string
	least int

	// claim names an empty file by which a server decided who has created the name, and which the next daemon may remove. "" is none.
	claim string
}

// explains reports whether a server that is found with the tree got it by s.
func (s state) explains(found world) bool {
	if len(found) != len(s.world) {
		return false
	}
	for name, want := range s.world {
		got, ok := found[name]
		if !ok || got.kind != want.kind || !s.allows(name, got.content) || !want.bears(got) {
			return false
		}
	}
	return true
}

// bears reports whether n may have the permissions and the time of got.
func (n node) bears(got node) bool {
	return (n.perm == 0 || got.perm == 0 || n.perm == got.perm) && (n.changed == 0 || got.changed == 0 || abs(n.changed-got.changed) <= aDay)
}

// aDay in seconds is as fine as a listing of FTP tells the time of an old file.
const aDay = 24 * 60 * 60

func abs(n int64) int64 { return max(n, -n) }

func (s state) allows(name string, content []byte) bool {
	want := s.world[name].content
	if name == s.grows {
		return len(content) >= s.least && bytes.HasPrefix(want, content)
	}
	return bytes.Equal(content, want)
}

// harm is how one name is not as it may be.
type harm struct {
	name string
	kind harmKind
	text string
}

type harmKind string

const (
	lost    harmKind = "lost"    // what was acknowledged is not there, or a part of it is not
	half    harmKind = "half"    // the beginning of what was not acknowledged
	doubled harmKind = "doubled" // something is there twice
	risen   harmKind = "risen"   // a name that was taken away, or that nobody made
	strange harmKind = "strange" // anything else that nobody wrote
	left    harmKind = "left"    // a temporary name that stays
	shown   harmKind = "shown"   // programs see something else than the server has

	glimpsed harmKind = "glimpsed" // a temporary name that programs see
	stale    harmKind = "ESTALE"   // for a program that reads
)

func (h harm) String() string { return fmt.Sprintf("%s: %q %s", h.kind, h.name, h.text) }

// explain returns which of states a server was found in, or how it differs from the last of them.
func explain(found world, states []state) (s state, ok bool, harms []harm) {
	for _, s := range states {
		if s.explains(found) {
			return s, true, nil
		}
	}
	names := slices.Sorted(maps.Keys(found))
	for _, s := range states {
		names = slices.AppendSeq(names, maps.Keys(s.world))
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if h, ok := harmOf(name, found, states); !ok {
			harms = append(harms, h)
		}
	}
	if harms == nil { // each name is as some state has it, but none has all of them so
		harms = []harm{{"", strange, fmt.Sprintf("the names are a mix of %d states", len(states))}}
	}
	return s, false, harms
}

// harmOf says how name is not as any of states allows; ok if one does.
func harmOf(name string, found world, states []state) (h harm, ok bool) {
	got, there := found[name]
	var wants []string
	kind := risen
	if !there {
		kind = lost // for no state lacks it
	}
	for _, s := range states {
		want, has := s.world[name]
		if has == there && want.kind == got.kind && s.allows(name, got.content) && want.bears(got) {
			return harm{}, true
		}
		if !has {
			wants = append(wants, "nothing")
			continue
		}
		wants = append(wants, tell(want))
		if there {
			kind = worse(kind, differs(got, want))
		}
	}
	if there && kind != doubled && isLess(got, name, states) {
		kind = lost
	}
	is := "nothing"
	if there {
		is = tell(got)
	}
	return harm{name, kind, fmt.Sprintf("is %s, want %s", is, strings.Join(wants, " or "))}, false
}

// differs says how got is not what was wanted.
func differs(got, want node) harmKind {
	switch {
	case got.kind != want.kind, got.kind != 0:
		return strange
	case hasDoubled(got.content, want.content):
		return doubled
	case !want.bears(got) && bytes.Equal(got.content, want.content):
		return strange
	case bytes.HasPrefix(want.content, got.content):
		return half
	}
	return strange
}

// worse returns which of two kinds says more of one name.
func worse(a, b harmKind) harmKind {
	order := []harmKind{risen, strange, half, doubled}
	if slices.Index(order, b) > slices.Index(order, a) {
		return b
	}
	return a
}

// isLess reports whether got has less of name than every state has.
func isLess(got node, name string, states []state) bool {
	for _, s := range states {
		if want, has := s.world[name]; !has || got.kind != want.kind || !bytes.HasPrefix(want.content, got.content) {
			return false
		}
	}
	return true
}

// hasDoubled reports whether a record of want, a line that begins with a number of its own, stands in got more often than in want.
func hasDoubled(got, want []byte) bool {
	for line := range bytes.Lines(got) {
		if bytes.HasPrefix(line, []byte(recordMark)) && bytes.Count(got, line) > max(1, bytes.Count(want, line)) {
			return true
		}
	}
	return false
}

// tell describes a node by its size and the records in it.
func tell(n node) string {
	switch n.kind {
	case os.ModeDir:
		return "a directory"
	case os.ModeSymlink:
		return fmt.Sprintf("a link to %q", n.content)
	}
	var records []string
	for line := range bytes.Lines(n.content) {
		if bytes.HasPrefix(line, []byte(recordMark)) {
			records = append(records, strings.TrimSpace(string(line[len(recordMark):min(len(line), 60)])))
		}
	}
	if len(records) > 6 {
		records = append(records[:6], "...")
	}
	return fmt.Sprintf("%d bytes of [%s], %v, changed at %d", len(n.content), strings.Join(records, ", "), n.perm, n.changed)
}

// past are the contents that the files of a tree have had, and the names that were created exclusively. A server to which
// something is owed has any of them.
type past struct {
	contents map[string]bool // large ones by their sums
	claims   map[string]bool
	grown    []state // of large files that were added to
}

// keyOf is content, or the sum of a large one.
func keyOf(content []byte) string {
	if len(content) < bigSize {
		return string(content)
	}
	return fmt.Sprintf("%d bytes with the sum %x", len(content), sha256.Sum256(content))
}

func newPast() *past { return &past{contents: map[string]bool{}, claims: map[string]bool{}} }

// halves returns which files of found have a content that no version of any file had: nor is it one with a part of an append behind it.
func (p past) halves(found world) (harms []harm) {
	for name, n := range found {
		content := keyOf(n.content)
		if n.kind != 0 || p.contents[content] || content == "" && p.claims[name] || p.isGrowing(n.content) {
			continue
		}
		harms = append(harms, harm{name, half, "has a content that no file ever had: " + tell(n)})
	}
	return harms
}

// isGrowing reports whether content lies between one that a file had and a longer one that it had later.
func (p past) isGrowing(content []byte) bool {
	if slices.ContainsFunc(p.grown, func(s state) bool { return s.allows(s.grows, content) }) {
		return true
	}
	less, more := false, false
	for known := range p.contents {
		less = less || known != "" && strings.HasPrefix(string(content), known)
		more = more || strings.HasPrefix(known, string(content))
	}
	return less && more
}

// temporary is how uploads under way are called. They are nobody's files.
var temporary = regexp.MustCompile(`(?s)^\..*\.pierfs-[0-9a-f]{8}~?$`)

// sight is what was seen of a tree.
type sight struct {
	world
	temps []string // temporary names, which are nobody's files
	stale []string // files that had to be opened once more, for their readers were told ESTALE
}

// look reads the tree below dir. What goes meanwhile is not there.
func look(dir string) (seen sight, err error) {
	seen.world = world{}
	err = filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		name := path[len(dir)+1:]
		switch {
		case temporary.MatchString(entry.Name()):
			seen.temps = append(seen.temps, name)
		case entry.IsDir():
			seen.world[name] = node{kind: os.ModeDir}
		case entry.Type() == os.ModeSymlink:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			seen.world[name] = node{kind: os.ModeSymlink, content: []byte(target)}
		default:
			content, again, err := readAgain(path)
			seen.stale = append(seen.stale, slices.Repeat([]string{name}, again)...)
			if errors.Is(err, os.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			info, err := entry.Info()
			if err != nil {
				return err
			}
			seen.world[name] = node{perm: info.Mode().Perm(), changed: info.ModTime().Unix(), content: content}
		}
		return nil
	})
	return seen, err
}

// readAgain reads a file, and opens it once more if it is told ESTALE, which is to happen to nobody: what is owed to a name may arrive between
// two reads, and over FTP what was there before is gone then.
func readAgain(path string) (content []byte, again int, err error) {
	for again = range 5 {
		if content, err = os.ReadFile(path); !errors.Is(err, syscall.ESTALE) {
			break
		}
	}
	return content, again, err
}
