package jail

import (
	"context"
	"errors"
	"os"
	"path"
	"strings"
	"syscall"

	"pierfs/backends"
)

// last says what resolve does with a link in the last element.
type last bool

const (
	keepLast   last = false // the call is about the link itself
	followLast last = true  // the server would follow it, so we do
)

// resolve returns the name that name leads to, with no link that the server would follow. What is absent is left to the
// call itself to find out, which has the right errno for it.
func (b *Backend) resolve(ctx context.Context, op, name string, last last) (string, error) {
	if err := backends.CheckName(op, name); err != nil {
		return "", err
	}
	place, rest, err := b.walk(ctx, op, name, "", split(name), last)
	if err != nil {
		return "", err
	}
	return path.Join(place, strings.Join(rest, "/")), nil
}

// walk goes from the directory place along elements, which may have "..". It returns how far the way is known to be without
// links, and what is left of it from the first element on that is not there.
func (b *Backend) walk(ctx context.Context, op, name, place string, elements []string, last last) (string, []string, error) {
	links := 0
	for len(elements) > 0 {
		element := elements[0]
		switch {
		case element == "" || element == ".":
			elements = elements[1:]
			continue
		case element == ".." && place == "":
			return "", nil, escapes(op, name, name)
		case element == "..":
			place, elements = parent(place), elements[1:]
			continue
		}
		next := path.Join(place, element)
		if len(elements) == 1 && last == keepLast || b.known.plain(next) {
			place, elements = next, elements[1:]
			continue
		}
		info, err := b.stat(ctx, next)
		switch {
		case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
			if climbs(elements) {
				return "", nil, err // where ".." leads from here cannot be known
			}
			return place, elements, nil
		case err != nil:
			return "", nil, err
		case info.Mode&os.ModeSymlink == 0:
			place, elements = next, elements[1:]
			continue
		}
		if links++; links > maxLinks {
			return "", nil, &backends.Error{Op: op, Name: name, Code: syscall.ELOOP, Err: errTooManyLinks}
		}
		target, err := b.Backend.Readlink(ctx, next)
		if err != nil {
			return "", nil, err
		}
		inside, way := b.enter(place, target)
		if way == nil {
			return "", nil, escapes(op, name, target)
		}
		place, elements = inside, append(way, elements[1:]...)
	}
	return place, nil, nil
}

// enter returns where a link in the directory place begins and which way it goes from there; nil if it leads out at once.
func (b *Backend) enter(place, target string) (string, []string) {
	if !strings.HasPrefix(target, "/") {
		return place, strings.Split(target, "/")
	}
	target = path.Clean(target)
	if b.o.Roots == nil {
		return "", nil
	}
	for _, root := range b.o.Roots() {
		root = path.Clean(root)
		if !strings.HasPrefix(root, "/") {
			continue
		}
		if rest, ok := strings.CutPrefix(target+"/", strings.TrimSuffix(root, "/")+"/"); ok {
			return "", strings.Split(rest, "/")
		}
	}
	return "", nil
}

// staysInside reports whether the target of a new link at place leads out by its text alone. What it leads through may be
// made later; Readlink and walk look at that.
func (b *Backend) staysInside(place, target string) bool {
	place, way := b.enter(parent(place), target)
	if way == nil {
		return false
	}
	depth := len(split(place))
	for _, element := range way {
		switch element {
		case "", ".":
		case "..":
			depth--
		default:
			depth++
		}
		if depth < 0 {
			return false
		}
	}
	return true
}

// harmless returns the target of the link at place in a form that leads the kernel nowhere else, whatever it meets.
func (b *Backend) harmless(ctx context.Context, name, place, target string) (string, error) {
	dir := parent(place)
	if !b.staysInside(place, target) {
		return "", escapes("readlink", name, target)
	}
	start, way := b.enter(dir, target)
	if !strings.HasPrefix(target, "/") && !climbs(way) {
		return target, nil
	}
	if !climbs(way) {
		return relative(dir, path.Join(start, strings.Join(way, "/"))), nil
	}
	// The part up to the last ".." is resolved, the part behind it is free of them.
	cut := 0
	for i, element := range way {
		if element == ".." {
			cut = i + 1
		}
	}
	reached, rest, err := b.walk(ctx, "readlink", name, start, way[:cut], followLast)
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return relative(dir, path.Join(start, strings.Join(way, "/"))), nil // it dangles; its text alone stays inside
	case err != nil:
		return "", err
	}
	return relative(dir, path.Join(reached, strings.Join(rest, "/"), strings.Join(way[cut:], "/"))), nil
}

// climbs reports whether a ".." comes behind a name.
func climbs(elements []string) bool {
	named := false
	for _, element := range elements {
		switch element {
		case "", ".":
		case "..":
			if named {
				return true
			}
		default:
			named = true
		}
	}
	return false
}

// relative returns the way from dir to place, both from the working directory.
func relative(dir, place string) string {
	from, to := split(dir), split(place)
	for len(from) > 0 && len(to) > 0 && from[0] == to[0] {
		from, to = from[1:], to[1:]
	}
	way := strings.Repeat("../", len(from)) + strings.Join(to, "/")
	if way == "" {
		return "."
	}
	return strings.TrimSuffix(way, "/")
}

func split(name string) []string {
	if name == "" {
		return nil
	}
	return strings.Split(name, "/")
}

// parent returns the directory that name is in; "" is the working directory.
func parent(name string) string {
	return name[:max(strings.LastIndexByte(name, '/'), 0)]
}
