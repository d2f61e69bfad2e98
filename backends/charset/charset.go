// Package charset carries the names of a server that does not write UTF-8 across the seam: above it names are UTF-8, below
// it they are the bytes that the server knows.
//
// It stands right before the protocol, so that everybody above (the jail first of all) sees the names that programs see.
// Names, Info.Name, the targets of links, WriteMode.TempName and the Name of errors are translated; what the server says in
// words is not. The protocol's own paths, such as the working directory, its owner translates with Encode and Decode.
//
// Every name that the server has can be reached, and no two look alike. Bytes that are no character in the encoding are
// shown as characters of the private use area (U+F700 and the byte), and become the same bytes again. A name that the
// encoding cannot write, or that would come back as another one, is EILSEQ before anything is sent; one that is no
// UTF-8 too. Nothing is folded, composed or replaced by something similar.
//
// A name may be longer on one side than on the other, and both ends of it are bound to MaxElement: one that becomes too
// long on its way down is ENAMETOOLONG; one that does on its way up is left out of listings and counted in Caps.Hidden.
//
// It has no lock and no state but that count.
package charset

import (
	"context"
	"iter"
	"os"
	"sync/atomic"
	"syscall"

	"pierfs/backends"
)

// Backend is another Backend whose names are written in an encoding.
type Backend struct {
	backends.Backend
	encoding *Encoding
	hidden   atomic.Uint64 // entries left out here, which the backend below let pass
}

// New returns b with names in UTF-8. Closing it closes b.
func New(b backends.Backend, e *Encoding) *Backend { return &Backend{Backend: b, encoding: e} }

// Caps returns those of the backend, with the names hidden here.
func (b *Backend) Caps() backends.Caps {
	caps := b.Backend.Caps()
	caps.Hidden += b.hidden.Load()
	return caps
}

// down translates names on their way to the server.
func (b *Backend) down(op string, names ...*string) error {
	for _, name := range names {
		if err := backends.CheckName(op, *name); err != nil {
			return err
		}
		wire, err := b.encoding.Encode(*name)
		if err != nil {
			return b.refuse(op, *name, err)
		}
		if err := backends.CheckName(op, wire); err != nil {
			return b.up(err)
		}
		*name = wire
	}
	return nil
}

func (b *Backend) refuse(op, name string, err error) error {
	return &backends.Error{
		Op: op, Name: name, Code: syscall.EILSEQ, Err: err,
		Hint: "the connection is defined with encoding = \"" + b.encoding.name + "\"",
	}
}

// up translates the name in an error.
func (b *Backend) up(err error) error {
	e, ok := err.(*backends.Error)
	if !ok {
		return err
	}
	above := *e
	above.Name = b.encoding.Decode(e.Name)
	return &above
}

// listening returns ctx for a call below, whose caller, if he listens, is told names as he knows them. What has a name that is too long
// there he has to ask for.
func (b *Backend) listening(ctx context.Context) context.Context {
	tell, above := backends.AsideOf(ctx)
	if tell == nil {
		return ctx
	}
	var besides []string
	for _, name := range above {
		if b.down("stat", &name) == nil {
			besides = append(besides, name)
		}
	}
	return backends.WithAside(ctx, func(name string, info backends.Info) {
		info.Name = b.encoding.Decode(info.Name)
		if above := b.encoding.Decode(name); backends.CheckName("stat", above) == nil {
			tell(above, info)
		}
	}, besides...)
}

func (b *Backend) infoUp(info backends.Info, err error) (backends.Info, error) {
	info.Name = b.encoding.Decode(info.Name)
	return info, b.up(err)
}

// Stat describes name.
func (b *Backend) Stat(ctx context.Context, name string) (backends.Info, error) {
	if err := b.down("stat", &name); err != nil {
		return backends.Info{}, err
	}
	return b.infoUp(b.Backend.Stat(ctx, name))
}

// List yields the entries whose names may cross in UTF-8 too.
func (b *Backend) List(ctx context.Context, dir string) iter.Seq2[backends.Info, error] {
	return func(yield func(backends.Info, error) bool) {
		if err := b.down("list", &dir); err != nil {
			yield(backends.Info{}, err)
			return
		}
		for info, err := range b.Backend.List(ctx, dir) {
			info, err := b.infoUp(info, err)
			if err == nil && backends.CheckElement(info.Name) != 0 {
				b.hidden.Add(1)
				continue
			}
			if !yield(info, err) {
				return
			}
		}
	}
}

// Open opens a file.
func (b *Backend) Open(ctx context.Context, name string) (backends.Reader, error) {
	if err := b.down("open", &name); err != nil {
		return nil, err
	}
	r, err := b.Backend.Open(ctx, name)
	if err != nil {
		return nil, b.up(err)
	}
	return &reader{r, b}, nil
}

// Create begins a content.
func (b *Backend) Create(ctx context.Context, name string, mode backends.WriteMode) (backends.Writer, error) {
	if err := b.down("create", &name, &mode.TempName, &mode.Left); err != nil {
		return nil, err
	}
	return b.writer(b.Backend.Create(ctx, name, mode))
}

// Update opens a file to change it.
func (b *Backend) Update(ctx context.Context, name string) (backends.Writer, error) {
	if err := b.down("update", &name); err != nil {
		return nil, err
	}
	return b.writer(b.Backend.Update(b.listening(ctx), name))
}

func (b *Backend) writer(w backends.Writer, err error) (backends.Writer, error) {
	if err != nil {
		return nil, b.up(err)
	}
	return &writer{w, b}, nil
}

// Mkdir makes a directory.
func (b *Backend) Mkdir(ctx context.Context, name string, mode os.FileMode) error {
	if err := b.down("mkdir", &name); err != nil {
		return err
	}
	return b.up(b.Backend.Mkdir(b.listening(ctx), name, mode))
}

// Remove removes a file or link.
func (b *Backend) Remove(ctx context.Context, name string) error {
	if err := b.down("remove", &name); err != nil {
		return err
	}
	return b.up(b.Backend.Remove(b.listening(ctx), name))
}

// Rmdir removes an empty directory.
func (b *Backend) Rmdir(ctx context.Context, name string) error {
	if err := b.down("rmdir", &name); err != nil {
		return err
	}
	return b.up(b.Backend.Rmdir(b.listening(ctx), name))
}

// Rename gives from the name to.
func (b *Backend) Rename(ctx context.Context, from, to string, mode backends.RenameMode) error {
	if err := b.down("rename", &from, &to); err != nil {
		return err
	}
	return b.up(b.Backend.Rename(b.listening(ctx), from, to, mode))
}

// SetAttr changes attributes.
func (b *Backend) SetAttr(ctx context.Context, name string, attr backends.Attr) (backends.Info, error) {
	if err := b.down("setattr", &name); err != nil {
		return backends.Info{}, err
	}
	return b.infoUp(b.Backend.SetAttr(ctx, name, attr))
}

// Symlink makes a link whose target is in the server's encoding as well: it is a name there.
func (b *Backend) Symlink(ctx context.Context, target, name string) error {
	if err := b.down("symlink", &name); err != nil {
		return err
	}
	wire, err := b.encoding.Encode(target)
	if err != nil {
		return b.refuse("symlink", b.encoding.Decode(name), err)
	}
	return b.up(b.Backend.Symlink(b.listening(ctx), wire, name))
}

// Readlink returns a link's content.
func (b *Backend) Readlink(ctx context.Context, name string) (string, error) {
	if err := b.down("readlink", &name); err != nil {
		return "", err
	}
	target, err := b.Backend.Readlink(ctx, name)
	return b.encoding.Decode(target), b.up(err)
}

// Sum adds a file up.
func (b *Backend) Sum(ctx context.Context, name string) (backends.Sum, error) {
	if err := b.down("sum", &name); err != nil {
		return backends.Sum{}, err
	}
	sum, err := b.Backend.Sum(ctx, name)
	return sum, b.up(err)
}

// Link gives a file a further name.
func (b *Backend) Link(ctx context.Context, old, name string) error {
	if err := b.down("link", &old, &name); err != nil {
		return err
	}
	return b.up(b.Backend.Link(b.listening(ctx), old, name))
}

// reader is a Reader whose Infos and errors are translated.
type reader struct {
	backends.Reader
	backend *Backend
}

func (r *reader) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	n, err := r.Reader.ReadAt(ctx, p, off)
	return n, r.backend.up(err)
}

func (r *reader) ReadLast(ctx context.Context, p []byte, off int64) (int, backends.Info, error) {
	n, info, err := r.Reader.ReadLast(ctx, p, off)
	info, err = r.backend.infoUp(info, err)
	return n, info, err
}

func (r *reader) Stat(ctx context.Context) (backends.Info, error) {
	return r.backend.infoUp(r.Reader.Stat(ctx))
}

func (r *reader) Close() error { return r.backend.up(r.Reader.Close()) }

// writer is a Writer whose Infos and errors are translated.
type writer struct {
	backends.Writer
	backend *Backend
}

func (w *writer) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	n, err := w.Writer.WriteAt(ctx, p, off)
	return n, w.backend.up(err)
}

func (w *writer) Truncate(ctx context.Context, size int64) error {
	return w.backend.up(w.Writer.Truncate(ctx, size))
}

func (w *writer) Sync(ctx context.Context) error { return w.backend.up(w.Writer.Sync(ctx)) }

func (w *writer) Commit(ctx context.Context, c backends.Commit) (backends.Info, error) {
	if before := c.Before; before != nil {
		c.Before = func(i backends.Info, err error) error { return before(w.backend.infoUp(i, err)) }
	}
	return w.backend.infoUp(w.Writer.Commit(w.backend.listening(ctx), c))
}

func (w *writer) Abort() error { return w.backend.up(w.Writer.Abort()) }

func (w *writer) TakeOver(ctx context.Context, off, n int64) error {
	return w.backend.up(w.Writer.TakeOver(ctx, off, n))
}
