// Package meter tells an Observer of each call of a Backend when it has ended, and keeps the totals.
//
// It changes nothing: values, errors and order pass as they are. A listing's time is what the server took, without the time
// its consumer spent between entries; it is told when the iteration ends, however it ends.
package meter

import (
	"context"
	"io"
	"iter"
	"os"
	"sync/atomic"
	"time"

	"pierfs/backends"
)

// Totals is what crossed the wire since New.
type Totals struct {
	Calls, Failures uint64 // an end of file is no failure
	Read, Written   uint64 // bytes of content
}

// Backend is another Backend whose calls are told of.
type Backend struct {
	backends.Backend
	observe                        backends.Observer
	calls, failures, read, written atomic.Uint64
}

// New returns b behind a meter; observe may be nil. Closing it closes b.
func New(b backends.Backend, observe backends.Observer) *Backend {
	return &Backend{Backend: b, observe: observe}
}

// Totals returns what was counted so far. It never blocks.
func (b *Backend) Totals() Totals {
	return Totals{Calls: b.calls.Load(), Failures: b.failures.Load(), Read: b.read.Load(), Written: b.written.Load()}
}

// note counts and tells of one call.
func (b *Backend) note(op, name string, took time.Duration, n int, err error) {
	b.calls.Add(1)
	if err != nil && err != io.EOF {
		b.failures.Add(1)
	}
	if b.observe != nil {
		b.observe(backends.Call{Op: op, Name: name, Took: took, Bytes: n, Err: err})
	}
}

// timed makes one call that moves no content.
func timed[T any](b *Backend, op, name string, call func() (T, error)) (T, error) {
	began := time.Now()
	value, err := call()
	b.note(op, name, time.Since(began), 0, err)
	return value, err
}

// did is timed for a call that returns only an error.
func (b *Backend) did(op, name string, call func() error) error {
	_, err := timed(b, op, name, func() (struct{}, error) { return struct{}{}, call() })
	return err
}

// Stat tells of a "stat".
func (b *Backend) Stat(ctx context.Context, name string) (backends.Info, error) {
	return timed(b, "stat", name, func() (backends.Info, error) { return b.Backend.Stat(ctx, name) })
}

// List tells of a "list" when it has ended.
func (b *Backend) List(ctx context.Context, dir string) iter.Seq2[backends.Info, error] {
	return func(yield func(backends.Info, error) bool) {
		var took time.Duration
		var failed error
		began := time.Now()
		defer func() { b.note("list", dir, took+time.Since(began), 0, failed) }()
		for info, err := range b.Backend.List(ctx, dir) {
			took += time.Since(began)
			failed = err
			more := yield(info, err)
			began = time.Now()
			if !more {
				return
			}
		}
	}
}

// Open tells of an "open", and the Reader of its own calls.
func (b *Backend) Open(ctx context.Context, name string) (backends.Reader, error) {
	r, err := timed(b, "open", name, func() (backends.Reader, error) { return b.Backend.Open(ctx, name) })
	if err != nil {
		return nil, err
	}
	return &reader{r, b, name}, nil
}

// Create tells of a "create", and the Writer of its own calls.
func (b *Backend) Create(ctx context.Context, name string, mode backends.WriteMode) (backends.Writer, error) {
	return b.writer("create", name, func() (backends.Writer, error) { return b.Backend.Create(ctx, name, mode) })
}

// Update tells of an "update", and the Writer of its own calls.
func (b *Backend) Update(ctx context.Context, name string) (backends.Writer, error) {
	return b.writer("update", name, func() (backends.Writer, error) { return b.Backend.Update(ctx, name) })
}

func (b *Backend) writer(op, name string, open func() (backends.Writer, error)) (backends.Writer, error) {
	w, err := timed(b, op, name, open)
	if err != nil {
		return nil, err
	}
	return &writer{w, b, name}, nil
}

// Mkdir tells of a "mkdir".
func (b *Backend) Mkdir(ctx context.Context, name string, mode os.FileMode) error {
	return b.did("mkdir", name, func() error { return b.Backend.Mkdir(ctx, name, mode) })
}

// Remove tells of a "remove".
func (b *Backend) Remove(ctx context.Context, name string) error {
	return b.did("remove", name, func() error { return b.Backend.Remove(ctx, name) })
}

// Rmdir tells of a "rmdir".
func (b *Backend) Rmdir(ctx context.Context, name string) error {
	return b.did("rmdir", name, func() error { return b.Backend.Rmdir(ctx, name) })
}

// Rename tells of a "rename", by the name it was.
func (b *Backend) Rename(ctx context.Context, from, to string, mode backends.RenameMode) error {
	return b.did("rename", from, func() error { return b.Backend.Rename(ctx, from, to, mode) })
}

// SetAttr tells of a "setattr".
func (b *Backend) SetAttr(ctx context.Context, name string, attr backends.Attr) (backends.Info, error) {
	return timed(b, "setattr", name, func() (backends.Info, error) { return b.Backend.SetAttr(ctx, name, attr) })
}

// Symlink tells of a "symlink", by the link's name.
func (b *Backend) Symlink(ctx context.Context, target, name string) error {
	return b.did("symlink", name, func() error { return b.Backend.Symlink(ctx, target, name) })
}

// Readlink tells of a "readlink".
func (b *Backend) Readlink(ctx context.Context, name string) (string, error) {
	return timed(b, "readlink", name, func() (string, error) { return b.Backend.Readlink(ctx, name) })
}

// Link tells of a "link", by the new name.
func (b *Backend) Link(ctx context.Context, old, name string) error {
	return b.did("link", name, func() error { return b.Backend.Link(ctx, old, name) })
}

// Sum tells of a "sum".
func (b *Backend) Sum(ctx context.Context, name string) (backends.Sum, error) {
	return timed(b, "sum", name, func() (backends.Sum, error) { return b.Backend.Sum(ctx, name) })
}

// StatFS tells of a "statfs".
func (b *Backend) StatFS(ctx context.Context) (backends.Space, error) {
	return timed(b, "statfs", "", func() (backends.Space, error) { return b.Backend.StatFS(ctx) })
}

type reader struct {
	backends.Reader
	backend *Backend
	name    string
}

func (r *reader) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	began := time.Now()
	n, err := r.Reader.ReadAt(ctx, p, off)
	r.moved("readat", began, n, err)
	return n, err
}

func (r *reader) ReadLast(ctx context.Context, p []byte, off int64) (int, backends.Info, error) {
	began := time.Now()
	n, info, err := r.Reader.ReadLast(ctx, p, off)
	r.moved("readlast", began, n, err)
	return n, info, err
}

func (r *reader) moved(op string, began time.Time, n int, err error) {
	r.backend.read.Add(uint64(max(n, 0)))
	r.backend.note(op, r.name, time.Since(began), n, err)
}

func (r *reader) Stat(ctx context.Context) (backends.Info, error) {
	return timed(r.backend, "fstat", r.name, func() (backends.Info, error) { return r.Reader.Stat(ctx) })
}

type writer struct {
	backends.Writer
	backend *Backend
	name    string
}

func (w *writer) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	began := time.Now()
	n, err := w.Writer.WriteAt(ctx, p, off)
	w.backend.written.Add(uint64(max(n, 0)))
	w.backend.note("writeat", w.name, time.Since(began), n, err)
	return n, err
}

func (w *writer) Truncate(ctx context.Context, size int64) error {
	return w.backend.did("truncate", w.name, func() error { return w.Writer.Truncate(ctx, size) })
}

func (w *writer) Sync(ctx context.Context) error {
	return w.backend.did("sync", w.name, func() error { return w.Writer.Sync(ctx) })
}

func (w *writer) Commit(ctx context.Context, c backends.Commit) (backends.Info, error) {
	return timed(w.backend, "commit", w.name, func() (backends.Info, error) { return w.Writer.Commit(ctx, c) })
}

func (w *writer) Abort() error {
	return w.backend.did("abort", w.name, w.Writer.Abort)
}

func (w *writer) TakeOver(ctx context.Context, off, n int64) error {
	return w.backend.did("takeover", w.name, func() error { return w.Writer.TakeOver(ctx, off, n) })
}
