// Package jail confines a Backend to its working directory, and makes it read-only if asked to.
//
// Three things could lead out, and this is what becomes of each:
//
//   - Names. CheckName is asked for every name that goes down, and for every element that comes up in a listing; what it
//     refuses is left out and counted in Caps.Hidden.
//
//   - Links that the kernel follows. What Readlink returns is resolved by the kernel of this machine, in its own tree: an
//     absolute target, or one ".." too many, would have a program open a file of this machine by a server's word. A
//     relative target passes byte for byte if its ".."s all come first and do not climb above the working directory. A ".."
//     behind a name climbs from wherever that name leads, so such a target is resolved here and passed on in an equal form
//     without it. An absolute target inside the working directory is passed on as the relative one that leads to the same
//     place. Everything else is EPERM. Symlink refuses to make what leads out, with EPERM too.
//
//   - Links that the server follows. The kernel resolves links itself and never asks for a name with a link in its middle,
//     but a program that uses the control socket may, and anybody may turn a directory into a link on the server between
//     two calls. So each element that a call would pass through, and the last one where the server would follow it (Open,
//     List, Update, and Create without a temporary name), must be known to be no link: from a Stat or List of the last
//     minute, or else from a Stat made for the purpose. A link that stays inside is resolved here, element by element, and
//     the call made on what it leads to; one that does not is EPERM.
//
// What is left is the time between the question and the call, up to a minute: who can write in the working directory by
// another way and swaps a directory for a link just then has the server follow it. A protocol that cannot say "do not
// follow", as SFTP and FTP, leaves no way to close that.
//
// Lock: known.mu guards its maps only.
package jail

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"pierfs/backends"
)

// Options say where the walls are.
type Options struct {
	// Roots returns the absolute paths by which the server knows the working directory, as far as they are known by now;
	// absolute links below them are inside. nil means that none is known, and every absolute link leads out.
	Roots func() []string

	// ReadOnly makes every change EROFS, and nothing of it is sent.
	ReadOnly bool
}

const (
	maxLinks  = 40   // followed for one name, as on Linux
	maxTarget = 4095 // bytes in a link, as on Linux
)

// Backend is another Backend, confined.
type Backend struct {
	backends.Backend
	o      Options
	known  known
	hidden atomic.Uint64 // entries left out here, which the backend below let pass
}

// New returns b in a jail. Closing it closes b.
func New(b backends.Backend, o Options) *Backend { return &Backend{Backend: b, o: o} }

// Caps returns those of the backend, ReadOnly if the jail is.
func (b *Backend) Caps() backends.Caps {
	caps := b.Backend.Caps()
	caps.ReadOnly = caps.ReadOnly || b.o.ReadOnly
	caps.Hidden += b.hidden.Load()
	return caps
}

// change returns nil if the names may be changed: each is checked, and then the jail must not be read-only.
func (b *Backend) change(op string, names ...string) error {
	for _, name := range names {
		if err := backends.CheckName(op, name); err != nil {
			return err
		}
	}
	if b.o.ReadOnly {
		return &backends.Error{Op: op, Name: names[0], Code: syscall.EROFS, Hint: "the connection is defined with readOnly"}
	}
	return nil
}

// Stat describes name.
func (b *Backend) Stat(ctx context.Context, name string) (backends.Info, error) {
	place, err := b.resolve(ctx, "stat", name, keepLast)
	if err != nil {
		return backends.Info{}, err
	}
	return b.stat(ctx, place)
}

// stat asks the server and remembers what it said.
func (b *Backend) stat(ctx context.Context, place string) (backends.Info, error) {
	info, err := b.Backend.Stat(ctx, place)
	if err == nil {
		b.known.learn(place, info)
	} else {
		b.known.forget(place)
	}
	return info, err
}

// List yields the entries whose names may cross. Whether dir is a link is asked in the flight of the first request, and
// answered before anything is yielded.
func (b *Backend) List(ctx context.Context, dir string) iter.Seq2[backends.Info, error] {
	return func(yield func(backends.Info, error) bool) {
		place, err := b.resolve(ctx, "list", dir, keepLast)
		if err != nil {
			yield(backends.Info{}, err)
			return
		}
		if link := b.entries(ctx, place, b.asking(ctx, place), yield); !link {
			return
		}
		if place, err = b.resolve(ctx, "list", place, followLast); err != nil {
			yield(backends.Info{}, err)
			return
		}
		b.entries(ctx, place, func() (bool, error) { return false, nil }, yield)
	}
}

// entries yields what is in place, unless isLink says that it is a link: then nothing was yielded.
func (b *Backend) entries(ctx context.Context, place string, isLink func() (bool, error), yield func(backends.Info, error) bool) bool {
	for info, err := range b.Backend.List(ctx, place) {
		link, unsure := isLink()
		switch {
		case link:
			return true
		case err == nil && unsure != nil:
			yield(backends.Info{}, unsure)
			return false
		case err == nil && backends.CheckElement(info.Name) != 0:
			b.hidden.Add(1)
			continue
		case err == nil:
			b.known.learn(path.Join(place, info.Name), info)
		}
		if !yield(info, err) {
			return false
		}
	}
	link, _ := isLink() // without an entry there is nothing to be sure of
	return link
}

// asking asks whether place is a link while the caller asks for something else. The func it returns waits for the answer
// and may be called again; it must be called.
func (b *Backend) asking(ctx context.Context, place string) func() (link bool, err error) {
	if place == "" || b.known.plain(place) {
		return func() (bool, error) { return false, nil }
	}
	var link bool
	var err error
	var asked sync.WaitGroup
	asked.Go(func() {
		var info backends.Info
		info, err = b.stat(ctx, place)
		link = err == nil && info.Mode&os.ModeSymlink != 0
	})
	return func() (bool, error) {
		asked.Wait()
		return link, err
	}
}

// Open opens a file inside. Whether its last element is a link is asked in the same flight.
func (b *Backend) Open(ctx context.Context, name string) (backends.Reader, error) {
	place, err := b.resolve(ctx, "open", name, keepLast)
	if err != nil {
		return nil, err
	}
	isLink := b.asking(ctx, place)
	r, err := b.Backend.Open(ctx, place)
	link, unsure := isLink()
	if !link && (unsure == nil || err != nil) {
		return r, err
	}
	if err == nil {
		r.Close() // nothing was read from it
	}
	if !link {
		return nil, unsure
	}
	if place, err = b.resolve(ctx, "open", place, followLast); err != nil {
		return nil, err
	}
	return b.Backend.Open(ctx, place)
}

// Create begins a content inside.
func (b *Backend) Create(ctx context.Context, name string, mode backends.WriteMode) (backends.Writer, error) {
	if err := b.change("create", name, mode.TempName, mode.Left); err != nil {
		return nil, err
	}
	last := keepLast // the link itself is replaced, or in the way (O_EXCL follows none)
	if mode.TempName == "" && !(mode.Exclusive && b.Backend.Caps().Exclusive) {
		last = followLast
	}
	place, err := b.resolve(ctx, "create", name, last)
	if err != nil {
		return nil, err
	}
	if mode.TempName != "" {
		// A backend makes this name new and never opens what bears it, so that there is no link to follow.
		if mode.TempName, err = b.resolve(ctx, "create", mode.TempName, keepLast); err != nil {
			return nil, err
		}
	}
	if mode.Left != "" {
		if mode.Left, err = b.resolve(ctx, "create", mode.Left, keepLast); err != nil {
			return nil, err
		}
	}
	return b.Backend.Create(ctx, place, mode)
}

// Update opens a file inside to change it.
func (b *Backend) Update(ctx context.Context, name string) (backends.Writer, error) {
	if err := b.change("update", name); err != nil {
		return nil, err
	}
	place, err := b.resolve(ctx, "update", name, followLast)
	if err != nil {
		return nil, err
	}
	return b.Backend.Update(ctx, place)
}

// alter makes a change of one name, which is not known any more afterwards.
func (b *Backend) alter(ctx context.Context, op, name string, do func(place string) error) error {
	if err := b.change(op, name); err != nil {
		return err
	}
	place, err := b.resolve(ctx, op, name, keepLast)
	if err != nil {
		return err
	}
	defer b.known.forget(place)
	return do(place)
}

// Mkdir makes a directory inside, and remembers it as one.
func (b *Backend) Mkdir(ctx context.Context, name string, mode os.FileMode) error {
	made := ""
	err := b.alter(ctx, "mkdir", name, func(place string) error {
		made = place
		return b.Backend.Mkdir(ctx, place, mode)
	})
	if err == nil {
		b.known.learn(made, backends.Info{Mode: os.ModeDir, Known: backends.HasType})
	}
	return err
}

// Remove removes a file inside.
func (b *Backend) Remove(ctx context.Context, name string) error {
	return b.alter(ctx, "remove", name, func(place string) error { return b.Backend.Remove(ctx, place) })
}

// Rmdir removes a directory inside.
func (b *Backend) Rmdir(ctx context.Context, name string) error {
	return b.alter(ctx, "rmdir", name, func(place string) error { return b.Backend.Rmdir(ctx, place) })
}

// SetAttr changes attributes inside.
func (b *Backend) SetAttr(ctx context.Context, name string, attr backends.Attr) (info backends.Info, err error) {
	changed := ""
	err = b.alter(ctx, "setattr", name, func(place string) error {
		changed = place
		info, err = b.Backend.SetAttr(ctx, place, attr)
		return err
	})
	if err == nil {
		b.known.learn(changed, info)
	}
	return info, err
}

// Rename moves a name inside.
func (b *Backend) Rename(ctx context.Context, from, to string, mode backends.RenameMode) error {
	if err := b.change("rename", from, to); err != nil {
		return err
	}
	source, err := b.resolve(ctx, "rename", from, keepLast)
	if err != nil {
		return err
	}
	target, err := b.resolve(ctx, "rename", to, keepLast)
	if err != nil {
		return err
	}
	defer b.known.moved(source, target)
	return b.Backend.Rename(ctx, source, target, mode)
}

// Link gives a file inside a further name inside.
func (b *Backend) Link(ctx context.Context, old, name string) error {
	if err := b.change("link", name, old); err != nil {
		return err
	}
	source, err := b.resolve(ctx, "link", old, keepLast)
	if err != nil {
		return err
	}
	return b.alter(ctx, "link", name, func(place string) error { return b.Backend.Link(ctx, source, place) })
}

// Sum adds up a file inside.
func (b *Backend) Sum(ctx context.Context, name string) (backends.Sum, error) {
	place, err := b.resolve(ctx, "sum", name, followLast)
	if err != nil {
		return backends.Sum{}, err
	}
	return b.Backend.Sum(ctx, place)
}

// Symlink makes a link that stays inside, byte for byte.
func (b *Backend) Symlink(ctx context.Context, target, name string) error {
	return b.alter(ctx, "symlink", name, func(place string) error {
		if target == "" || strings.Contains(target, "\x00") {
			return &backends.Error{Op: "symlink", Name: name, Code: syscall.EINVAL}
		}
		if !b.staysInside(place, target) {
			return escapes("symlink", name, target)
		}
		return b.Backend.Symlink(ctx, target, place)
	})
}

// Readlink returns a target that the kernel may follow.
func (b *Backend) Readlink(ctx context.Context, name string) (string, error) {
	place, err := b.resolve(ctx, "readlink", name, keepLast)
	if err != nil {
		return "", err
	}
	target, err := b.Backend.Readlink(ctx, place)
	if err != nil {
		return "", err
	}
	if target == "" || len(target) > maxTarget || strings.Contains(target, "\x00") {
		return "", &backends.Error{Op: "readlink", Name: name, Code: syscall.EIO, Err: fmt.Errorf("the server sent %d bytes that are no path", len(target))}
	}
	return b.harmless(ctx, name, place, target)
}

// escapes is the refusal of a link that leads out.
func escapes(op, name, target string) error {
	return &backends.Error{
		Op: op, Name: name, Code: syscall.EPERM,
		Err:  fmt.Errorf("the link leads to %q, out of the working directory", target),
		Hint: "only links that stay inside the working directory are followed or made; a wider workingDir takes in more",
	}
}

var errTooManyLinks = errors.New("links lead to links without end")
