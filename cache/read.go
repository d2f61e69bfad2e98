package cache

import (
	"context"
	"errors"
	"io"
	"syscall"

	"pierfs/backends"
	"pierfs/cache/spool"
)

// ReadAt follows io.ReaderAt: n < len(p) only with an error, io.EOF at the end of the content as programs see it.
func (f *File) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	f.mu.Lock()
	staged, whole, base := f.staged, f.whole, f.base
	f.mu.Unlock()
	switch {
	case staged != nil:
		if err := f.fill(ctx, staged, off, int64(len(p))); err != nil {
			return 0, err
		}
		return staged.ReadAt(p, off)
	case whole != nil:
		return readBytes(whole, p, off)
	case off >= base.Size:
		return 0, io.EOF
	case base.Size <= smallFile && f.tree.small.Load() < smallFiles:
		return f.readWhole(ctx, p, off)
	}
	if copied := f.copy(); copied != nil {
		return f.readCopy(ctx, copied, p, off)
	}
	return f.readThrough(ctx, p, off, base)
}

// readThrough reads from the server and keeps nothing.
func (f *File) readThrough(ctx context.Context, p []byte, off int64, base backends.Info) (int, error) {
	reader, err := f.source(ctx)
	if err != nil {
		return 0, err
	}
	n, err := reader.ReadAt(ctx, p[:min(int64(len(p)), base.Size-off)], off)
	if err == io.EOF {
		return n, f.cut(ctx, reader, off+int64(n))
	}
	if err == nil && n < len(p) {
		err = io.EOF
	}
	return n, err
}

// cut decides what it means that the server ended the file at end, short of the size it told before: the file was cut
// meanwhile, which is an end like any other, or one of its two answers is a lie.
func (f *File) cut(ctx context.Context, r backends.Reader, end int64) error {
	info, err := r.Stat(ctx)
	switch {
	case err != nil:
		return err
	case info.Size > end:
		return f.fault("read", errors.Join(syscall.EIO, errors.New("the server sent less than the size it tells")))
	}
	return io.EOF
}

// readable reports whether something of the content is here or open, so that nothing has to be opened to read it.
func (f *File) readable() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.reader != nil || f.whole != nil || f.staged != nil
}

// adopt takes a reader of the present base, unless there is one.
func (f *File) adopt(r backends.Reader) {
	f.mu.Lock()
	if f.readerWanted() {
		f.reader, r = r, nil
	}
	f.mu.Unlock()
	if r != nil {
		r.Close()
	}
}

// readerWanted reports whether a reader would be of use; the caller holds mu.
func (f *File) readerWanted() bool { return f.reader == nil && f.whole == nil }

// source returns the reader of base, opening it if need be. What bears the name must still be base.
func (f *File) source(ctx context.Context) (backends.Reader, error) {
	f.mu.Lock()
	reader, name, gone, base := f.reader, f.name, f.gone, f.base
	f.mu.Unlock()
	if reader != nil {
		return reader, nil
	}
	if gone || base.Known == 0 {
		return nil, f.fault("read", syscall.ESTALE)
	}
	reader, err := f.tree.backend.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	info, err := reader.Stat(ctx)
	if err == nil && !f.sameContent(base, info) {
		err = f.fault("read", syscall.ESTALE)
	}
	if err != nil {
		reader.Close()
		return nil, err
	}
	f.adopt(reader)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.reader == nil {
		return nil, f.fault("read", syscall.ESTALE) // the whole came by another way, or the file was finished
	}
	return f.reader, nil
}

// sameContent compares what is known by name with what an open file tells, which may lack its identity.
func (f *File) sameContent(base, open backends.Info) bool {
	if name, ok := f.Name(); ok {
		open = f.tree.times.shown(name, open)
	}
	if open.ID == "" {
		open.ID = base.ID
	}
	return open.Known == 0 || base.SameVersion(open)
}

// readWhole fetches a small file in one flight, which also closes it at the server, and serves p from it.
func (f *File) readWhole(ctx context.Context, p []byte, off int64) (int, error) {
	if err := f.turn.take(ctx); err != nil { // one of many readers fetches
		return 0, err
	}
	defer f.turn.give()
	f.mu.Lock()
	staged, whole := f.staged, f.whole
	f.mu.Unlock()
	if staged == nil && whole == nil {
		var err error
		if whole, err = f.fetchWhole(ctx); err != nil {
			return 0, err
		}
	}
	if staged != nil {
		if err := f.fill(ctx, staged, off, int64(len(p))); err != nil {
			return 0, err
		}
		return staged.ReadAt(p, off)
	}
	return readBytes(whole, p, off)
}

// fetchWhole reads all of base into memory; the caller has the turn.
func (f *File) fetchWhole(ctx context.Context) ([]byte, error) {
	reader, err := f.source(ctx)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	base := f.base
	f.mu.Unlock()
	whole := make([]byte, base.Size)
	n, info, err := reader.ReadLast(ctx, whole, 0)
	if err == io.EOF || err == nil && !f.sameContent(base, info) {
		err = f.fault("read", errors.Join(syscall.ESTALE, errors.New("the file changed while it was read")))
		if n < len(whole) && info.Size == base.Size {
			err = f.fault("read", errors.Join(syscall.EIO, errors.New("the server sent less than the size it tells")))
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.reader == reader {
		f.reader = nil
	}
	reader.Close()
	if err != nil {
		return nil, err
	}
	if f.staged != nil {
		return whole, f.staged.Fill(whole, 0)
	}
	f.whole = whole
	f.tree.small.Add(int64(len(whole)))
	return whole, nil
}

func readBytes(content, p []byte, off int64) (int, error) {
	if off >= int64(len(content)) {
		return 0, io.EOF
	}
	n := copy(p, content[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// fill makes n bytes of staged at off real, fetching what is missing from the server.
func (f *File) fill(ctx context.Context, staged *spool.File, off, n int64) error {
	if len(staged.Missing(off, n)) == 0 {
		return nil
	}
	reader, err := f.source(ctx)
	if err != nil {
		return err
	}
	around := f.tree.blocks(spool.Range{Off: off, End: off + n})
	for _, r := range staged.Missing(around.Off, around.Len()) {
		if err := fetch(ctx, reader, staged, r); err != nil {
			return err
		}
	}
	return nil
}

// fetch copies the range r from the server into staged.
func fetch(ctx context.Context, reader backends.Reader, staged *spool.File, r spool.Range) error {
	buf := make([]byte, min(r.Len(), uploadChunk))
	for off := r.Off; off < r.End; {
		p := buf[:min(r.End-off, int64(len(buf)))]
		n, err := reader.ReadAt(ctx, p, off)
		if err != nil && err != io.EOF {
			return err
		}
		if n < len(p) {
			// The base was cut by somebody else; what it had is gone, and inventing zeros for it would be a lie.
			return &backends.Error{Op: "read", Code: syscall.ESTALE, Err: errors.New("the file was cut while it was read")}
		}
		if err := staged.Fill(p, off); err != nil {
			return err
		}
		off += int64(n)
	}
	return nil
}
