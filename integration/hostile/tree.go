package hostile

import (
	"cmp"
	"path"
	"slices"
	"strings"
	"sync"
)

// Types in st_mode as they travel.
const (
	TypeSocket  = 0o140000
	TypeLink    = 0o120000
	TypeRegular = 0o100000
	TypeBlock   = 0o060000
	TypeDir     = 0o040000
	TypeChar    = 0o020000
	TypeFIFO    = 0o010000
	typeMask    = 0o170000
)

// File is one file of the server: what it holds, and what the server says of it. The zero File is an empty regular one.
type File struct {
	Mode     uint32 // type and permissions as they travel; 0 is a regular file of 0644
	Data     string
	Target   string  // of a link
	Claim    *uint64 // the size that is told in place of the true one
	UID, GID uint32
	Mtime    uint32
}

func (f File) mode() uint32 { return cmp.Or(f.Mode, TypeRegular|0o644) }

func (f File) is(kind uint32) bool { return f.mode()&typeMask == kind }

// Dir is a directory.
func Dir() File { return File{Mode: TypeDir | 0o755} }

// Link is a symbolic link to target.
func Link(target string) File { return File{Mode: TypeLink | 0o777, Target: target} }

// Claims is a regular file that holds data and is said to have size bytes.
func Claims(size uint64, data string) File { return File{Data: data, Claim: &size} }

// tree is the server's files by absolute path. Names are listed in the order in which they came.
type tree struct {
	mu    sync.Mutex
	files map[string]*File
	order []string
}

func newTree() *tree { return &tree{files: map[string]*File{"/": {Mode: TypeDir | 0o755}}} }

func (t *tree) put(name string, f File) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for dir := path.Dir(name); t.files[dir] == nil; dir = path.Dir(dir) {
		t.set(dir, &File{Mode: TypeDir | 0o755})
	}
	t.set(name, &f)
}

// set puts f under name. Callers hold mu, as for all that follow.
func (t *tree) set(name string, f *File) {
	if t.files[name] == nil {
		t.order = append(t.order, name)
	}
	t.files[name] = f
}

func (t *tree) drop(name string) {
	delete(t.files, name)
	t.order = slices.DeleteFunc(t.order, func(n string) bool { return n == name })
}

func (t *tree) children(dir string) []string {
	var names []string
	for _, name := range t.order {
		if path.Dir(name) == dir {
			names = append(names, path.Base(name))
		}
	}
	return names
}

// leads reports whether anything lies below dir.
func (t *tree) leads(dir string) bool {
	return slices.ContainsFunc(t.order, func(name string) bool { return strings.HasPrefix(name, dir+"/") })
}

// maxLinks is how many links are followed before a path counts as a loop.
const maxLinks = 40

// resolve returns the path that name has when links are followed, in the last element too if last; "" if there is a loop.
func (t *tree) resolve(name string, last bool) string {
	rest := strings.Split(strings.Trim(path.Clean("/"+name), "/"), "/")
	at := "/"
	for links := 0; len(rest) > 0; {
		element := rest[0]
		rest = rest[1:]
		switch element {
		case "", ".":
			continue
		case "..":
			at = path.Dir(at)
			continue
		}
		next := path.Join(at, element)
		f := t.files[next]
		if f == nil && !t.leads(next) { // however long the rest, there is nothing on its way
			return path.Join(next, strings.Join(rest, "/"))
		}
		if f == nil || !f.is(TypeLink) || len(rest) == 0 && !last {
			at = next
			continue
		}
		if links++; links > maxLinks {
			return ""
		}
		if strings.HasPrefix(f.Target, "/") {
			at = "/"
		}
		rest = append(strings.Split(f.Target, "/"), rest...)
	}
	return at
}

// rename gives what from bears, and all below it, the name to.
func (t *tree) rename(from, to string) {
	if from == to {
		return
	}
	for _, name := range slices.Clone(t.order) {
		if name == from || strings.HasPrefix(name, from+"/") {
			f := t.files[name]
			t.drop(name)
			t.set(to+name[len(from):], f)
		}
	}
}
