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
	if off >= base.Size {
		return 0, io.EOF
	}
	reader, err := f.source(ctx)
	if err != nil {
		return 0, err
	}
	part := p[:min(int64(len(p)), base.Size-off)]
	if err := f.readBase(ctx, reader, part, off, base.Size); err != nil {
		return 0, err
	}
	if len(part) < len(p) {
		return len(part), io.EOF
	}
	return len(part), nil
}

// readBase reads all of p at off from the server; p ends at or before size, which is what the server told. Where it ends
// there, one byte more is asked for, so that the end is the server's and not only ours.
func (f *File) readBase(ctx context.Context, r backends.Reader, p []byte, off, size int64) error {
	q := p
	if off+int64(len(p)) == size {
		q = make([]byte, len(p)+1)
	}
	n, err := r.ReadAt(ctx, q, off)
	switch {
	case err != nil && err != io.EOF:
		return err
	case n != len(p):
		info, err := r.Stat(ctx)
		if err == nil {
			err = f.odd(off+int64(n), size, info)
		}
		if err != nil {
			return err
		}
	}
	copy(p, q)
	return nil
}

// odd decides what it means that the content goes on to end, or further, where the server told size before and tells now
// of the open file. It grew: what was asked for is still right. It was cut: what was told is gone, and inventing zeros
// for it would be a lie. Or one of the server's answers is a lie itself.
func (f *File) odd(end, size int64, now backends.Info) error {
	switch {
	case now.Size == size:
		return f.fault("read", errors.Join(syscall.EIO, errors.New("the server sends another length than the size it tells")))
	case end > size && now.Size > size:
		return nil
	}
	return f.fault("read", errChangedWhileRead)
}

var errChangedWhileRead = errors.Join(syscall.ESTALE, errors.New("the file changed while it was read"))

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
	whole := make([]byte, base.Size+1) // one byte more than there should be
	n, info, err := reader.ReadLast(ctx, whole, 0)
	switch {
	case err != nil && err != io.EOF:
	case int64(n) != base.Size:
		err = f.odd(int64(n), base.Size, info)
	case f.sameContent(base, info):
		err = nil // the end is where it should be
	default:
		err = f.fault("read", errChangedWhileRead)
	}
	whole = whole[:base.Size]
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
		if err := f.fetch(ctx, reader, staged, r); err != nil {
			return err
		}
	}
	return nil
}

// fetch copies the range r of base from the server into local.
func (f *File) fetch(ctx context.Context, reader backends.Reader, local *spool.File, r spool.Range) error {
	size := f.baseInfo().Size
	buf := make([]byte, min(r.Len(), uploadChunk))
	for off := r.Off; off < r.End; {
		p := buf[:min(r.End-off, int64(len(buf)))]
		if err := f.readBase(ctx, reader, p, off, size); err != nil {
			return err
		}
		if err := local.Fill(p, off); err != nil {
			return err
		}
		off += int64(len(p))
	}
	return nil
}
