package cache

import (
	"context"
	"errors"
	"io"
	"sync"
	"syscall"
	"time"

	"pierfs/backends"
	"pierfs/cache/spool"
)

// errElsewhere says that the content is no longer where it was looked for: it was staged, published or dropped meanwhile, or
// a reader turned out to be another version's.
var errElsewhere = errors.New("the content is elsewhere by now")

// maxMoves bounds how often one call looks for content anew: a server that tells something else each time must not keep
// it for ever.
const maxMoves = 16

// ReadAt follows io.ReaderAt: n < len(p) only with an error, io.EOF at the end of the content as programs see it. It waits for what is
// owed only where the server has not, or has no longer, what is to be read under the file's name: a content that a former daemon
// sent and did not live to note, or that arrives just now, or a change of names that is still to be made.
func (f *File) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	owed, moves := f.isOwed()
	n, err := f.readMoving(ctx, p, off)
	if err != nil && (owed || moves) && f.comes(ctx, err, owed, moves) {
		n, err = f.readMoving(ctx, p, off)
	}
	return n, err
}

// isOwed reports whether a content is owed to the file's name, and whether a change of that is.
func (f *File) isOwed() (content, moves bool) {
	if f.tree.journal == nil {
		return false, false
	}
	name, ok := f.Name()
	return f.owes(), ok && f.tree.changes.concern(name)
}

// comes returns when what was owed as reading began, which err has ended, is at the server, and reports whether reading is worth another try.
func (f *File) comes(ctx context.Context, err error, owed, moves bool) bool {
	switch backends.Errno(err) {
	case syscall.ESTALE:
	case syscall.ENOENT:
		owed = false // what it builds on is gone, and not under way
	default:
		return false
	}
	if name, _ := f.Name(); moves && f.tree.awaitChanges(ctx, name) != nil {
		return false
	}
	return !owed && moves || owed && f.pay(ctx) == nil
}

// readMoving is ReadAt of a content that may be staged, published or dropped meanwhile.
func (f *File) readMoving(ctx context.Context, p []byte, off int64) (int, error) {
	for range maxMoves {
		n, err := f.readOnce(ctx, p, off)
		if err != errElsewhere {
			return n, err
		}
		if err := ctx.Err(); err != nil {
			return 0, err
		}
	}
	return 0, f.fault("read", errChangedWhileRead)
}

func (f *File) readOnce(ctx context.Context, p []byte, off int64) (int, error) {
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
		n, err := readBytes(whole, p, off)
		f.tree.counters.gave(n, false)
		return n, err
	case off >= max(base.Size, 1): // that a file is empty is asked of the file itself, once
		return 0, io.EOF
	case base.Size <= smallFile && f.tree.small.Load() < smallFiles:
		if err := f.fetchWhole(ctx); err != nil {
			return 0, err
		}
		return 0, errElsewhere
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
	if err := f.readBase(ctx, reader, part, off); err != nil {
		return 0, err
	}
	f.tree.counters.gave(len(part), true)
	if len(part) < len(p) {
		return len(part), io.EOF
	}
	return len(part), nil
}

// readBase reads all of p, which ends at or before the end of base, from a reader of base. Where it ends there, one byte
// more is asked for, so that the end is the server's and not only ours. A reader that was opened before base was known is
// compared with it in the same flight. The error is errElsewhere if another reader should be asked.
func (f *File) readBase(ctx context.Context, reader backends.Reader, p []byte, off int64) error {
	f.mu.Lock()
	unsure, size := f.reader == reader && !f.compared, f.base.Size
	f.mu.Unlock()
	var (
		asking  sync.WaitGroup
		info    backends.Info
		unknown error
	)
	if unsure {
		asking.Go(func() { info, unknown = reader.Stat(ctx) })
	}
	q := p
	if off+int64(len(p)) == size {
		q = make([]byte, len(p)+1)
	}
	n, err := reader.ReadAt(ctx, q, off)
	asking.Wait()
	stale := backends.Errno(err) == syscall.ESTALE
	if err == nil || err == io.EOF {
		err = unknown
	}
	if err == nil && n != len(p) {
		err = f.odd(ctx, reader, off+int64(n), size)
	}
	switch {
	case !f.uses(reader):
		return errElsewhere // it was closed while we read
	case stale || unsure && unknown == nil && !f.grewOnly(ctx, info):
		f.giveUp(reader)
		return errElsewhere // opening it again tells whether what bears the name is base
	case err != nil:
		return err
	}
	if unsure {
		f.trust(reader)
	}
	copy(p, q)
	f.tree.counters.fetched(len(p))
	return nil
}

// odd decides what it means that the content of a reader ends at end, or goes on behind it, where the server told size
// before. It grew: what was asked for is still right. It was cut: what was told is gone, and inventing zeros for it would
// be a lie. Or one of the server's answers is a lie itself.
func (f *File) odd(ctx context.Context, reader backends.Reader, end, size int64) error {
	now, err := reader.Stat(ctx)
	if err != nil {
		return err
	}
	return f.oddNow(end, size, now.Size)
}

func (f *File) oddNow(end, size, now int64) error {
	switch {
	case now == size:
		return f.fault("read", errors.Join(syscall.EIO, errors.New("the server sends another length than the size it tells")))
	case end > size && now > size:
		return nil
	}
	return f.fault("read", errChangedWhileRead)
}

var errChangedWhileRead = errors.Join(syscall.ESTALE, errors.New("the file changed while it was read"))

// readable reports whether something of the content is here or open, so that nothing has to be opened to read it.
func (f *File) readable() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.reader != nil || f.whole != nil || f.staged != nil || f.copied != nil && (f.tree.streams() || f.copied.Whole())
}

// adopt takes a reader of what is likely to be base, or for certain if it was compared, unless there is one.
func (f *File) adopt(r backends.Reader, compared bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.reader != nil || f.whole != nil || f.shut == syscall.EBADF {
		r.Close()
		return
	}
	f.reader, f.compared = r, compared
}

func (f *File) uses(r backends.Reader) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.reader == r
}

func (f *File) trust(r backends.Reader) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.compared = f.compared || f.reader == r
}

// giveUp closes r and lets another reader be opened in its place.
func (f *File) giveUp(r backends.Reader) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.reader == r {
		f.dropReader()
	}
}

// dropReader closes the reader; the caller holds mu. Who reads from it at the moment finds out that it is not used any more.
func (f *File) dropReader() {
	if f.reader != nil {
		f.reader.Close()
		f.reader = nil
	}
}

// source returns the reader of base, opening it if need be. What bears the name must still be base.
func (f *File) source(ctx context.Context) (backends.Reader, error) {
	for {
		f.mu.Lock()
		reader, name, base, nameless := f.reader, f.name, f.base, f.gone || f.stale || f.shut == syscall.EBADF
		elsewhere := f.stale && !f.gone && f.tree.streams() // it may have been changed in place: a transfer would go on with that
		f.mu.Unlock()
		switch {
		case elsewhere:
			return nil, f.fault("read", errChangedWhileRead)
		case reader != nil:
			return reader, nil
		case nameless || base.Known == 0:
			return nil, f.fault("read", syscall.ESTALE)
		}
		reader, err := f.openBase(ctx, name)
		if err == nil && f.install(reader, name, base) {
			return reader, nil
		}
		if err == nil {
			reader.Close()
		}
		if !f.changedSince(name, base) && err != nil {
			return nil, err
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
}

// openBase opens what bears the file's name, and demands that it is base.
func (f *File) openBase(ctx context.Context, name string) (backends.Reader, error) {
	reader, err := f.tree.backend.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	info, err := reader.Stat(ctx)
	if err == nil && !f.sameContent(info) && !(f.tree.streams() && f.continues(ctx, reader, info)) {
		err = f.fault("read", syscall.ESTALE)
	}
	if err != nil {
		reader.Close()
		return nil, err
	}
	return reader, nil
}

// install makes r the file's reader, unless the file changed meanwhile.
func (f *File) install(r backends.Reader, name string, base backends.Info) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.reader != nil || f.shut == syscall.EBADF || f.name != name || !f.base.SameVersion(base) {
		return false
	}
	f.reader, f.compared = r, true
	return true
}

// changedSince reports whether it is worth trying anew what failed with name and base.
func (f *File) changedSince(name string, base backends.Info) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.shut != syscall.EBADF && (f.reader != nil || f.name != name || !f.base.SameVersion(base))
}

// sameContent reports whether open, which an open file tells of itself and which may lack its identity, is base. While we
// change base at the server ourselves, its time and its end are not held against it.
func (f *File) sameContent(open backends.Info) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	open = f.tree.kept.shown(f.name, open)
	if open.ID == "" {
		open.ID = f.base.ID
	}
	if f.changing && open.Size >= f.base.Size {
		open.Size, open.ModTime = f.base.Size, f.base.ModTime
	}
	return open.Known == 0 || f.base.SameVersion(open)
}

// grewOnly reports whether open, which an open file tells of itself, is base, or base with something appended: a log that
// another host writes must not become unreadable by that. What bears the name must then be as long by now, and a file: opening
// follows links, and another's file behind one would pass for a longer version of this one.
func (f *File) grewOnly(ctx context.Context, open backends.Info) bool {
	if f.sameContent(open) {
		return true
	}
	name, ok := f.Name()
	if base := f.baseInfo(); !ok || !mayContinue(base, open) {
		return false
	}
	now, err := f.tree.backend.Stat(ctx, name)
	return err == nil && (now.SameVersion(open) || mayContinue(open, now))
}

// fetchWhole fetches a small file in one flight, which also closes it at the server. One of many readers fetches; nil means
// that reading should be tried anew.
func (f *File) fetchWhole(ctx context.Context) error {
	if err := f.fetching.take(ctx); err != nil {
		return err
	}
	defer f.fetching.give()
	f.mu.Lock()
	done, base := f.staged != nil || f.whole != nil, f.base
	f.mu.Unlock()
	if done || f.takeSmall() {
		return nil
	}
	began := time.Now()
	reader, err := f.source(ctx)
	if err != nil {
		return err
	}
	whole := make([]byte, base.Size+1) // one byte more than there should be
	n, info, err := reader.ReadLast(ctx, whole, 0)
	if err == io.EOF {
		err = nil
	}
	if err == nil && int64(n) != base.Size {
		err = f.oddNow(int64(n), base.Size, info.Size)
	}
	if err == nil && !f.grewOnly(ctx, info) {
		err = f.fault("read", errChangedWhileRead)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	used, compared := f.reader == reader, f.compared
	if used {
		f.dropReader()
	}
	switch {
	case !used || !f.base.SameVersion(base):
		return nil // the file went on meanwhile
	case backends.Errno(err) == syscall.ESTALE && !compared:
		return nil // it was opened before base was known; the next reader will be compared first
	case err != nil:
		return err
	}
	if f.staged == nil && f.shut != syscall.EBADF {
		f.whole = whole[:base.Size:base.Size]
		f.tree.small.Add(int64(len(f.whole)))
		f.tree.counters.fetched(len(f.whole))
		if !f.gone && !f.stale && int64(n) == base.Size { // else the name is another content's, or has a longer one by now
			f.tree.options.Spool.KeepSmall(f.name, f.tree.versionOf(f.name, base), f.whole, began)
		}
	}
	return nil
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

// fill makes n bytes of staged at off real, fetching what is missing from the local copy or from the server.
func (f *File) fill(ctx context.Context, staged *spool.File, off, n int64) error {
	for range maxMoves {
		if len(staged.Missing(off, n)) == 0 {
			return nil
		}
		err := f.fetchMissing(ctx, staged, off, n)
		if err == errElsewhere {
			err = ctx.Err()
		}
		if err != nil && len(staged.Missing(off, n)) > 0 { // else somebody else has fetched it meanwhile
			return err
		}
	}
	return f.fault("read", errChangedWhileRead)
}

func (f *File) fetchMissing(ctx context.Context, staged *spool.File, off, n int64) error {
	if f.tree.streams() {
		return f.streamMissing(ctx, staged, spool.Range{Off: off, End: off + n})
	}
	if err := f.fillFromCopy(staged, off, n); err != nil {
		return err
	}
	around := f.tree.blocks(spool.Range{Off: off, End: off + n})
	for _, r := range staged.Missing(around.Off, around.Len()) {
		reader, err := f.source(ctx)
		if err != nil {
			return err
		}
		if err := f.fetch(ctx, reader, staged, r); err != nil {
			return err
		}
	}
	return nil
}

// streamMissing is fetchMissing for a server that can only stream. A content that changed before its end will be uploaded
// whole, so that all of it is fetched by and by.
func (f *File) streamMissing(ctx context.Context, staged *spool.File, r spool.Range) error {
	if err := f.fillFromCopy(staged, 0, staged.Size()); err != nil {
		return err
	}
	f.mu.Lock()
	f.dropCopy(false)
	whole := f.tail < f.base.Size
	f.mu.Unlock()
	ahead := spool.Range{Off: r.End, End: r.End + streamPiece}
	if whole {
		ahead = spool.Range{End: staged.Size()}
	}
	return f.obtain(ctx, staged, r, streamPiece, ahead)
}

// fillFromCopy takes what the local copy has of base; once there is a staging file, the copy serves for nothing else.
func (f *File) fillFromCopy(staged *spool.File, off, n int64) error {
	f.mu.Lock()
	copied := f.copied
	f.mu.Unlock()
	if copied == nil {
		return nil
	}
	buf := make([]byte, min(n, uploadChunk))
	for _, r := range staged.Missing(off, n) {
		for ; r.Len() > 0; r.Off += int64(len(buf)) {
			p := buf[:min(r.Len(), int64(len(buf)))]
			if n, ok, _ := copied.ReadReal(p, r.Off); ok && n == len(p) { // else the server has it
				if err := staged.Fill(p, r.Off); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// fetch copies the range r of base from the server into a local file.
func (f *File) fetch(ctx context.Context, reader backends.Reader, into *spool.File, r spool.Range) (err error) {
	end := f.tree.aheads.flow.begin(r.Len())
	defer func() { end(err == nil) }()
	block := blockBuffers.Get().(*[]byte)
	defer blockBuffers.Put(block)
	if need := min(r.Len(), uploadChunk); int64(cap(*block)) < need {
		*block = make([]byte, need)
	}
	buf := (*block)[:min(r.Len(), uploadChunk)]
	for off := r.Off; off < r.End; {
		p := buf[:min(r.End-off, int64(len(buf)))]
		if err := f.readBase(ctx, reader, p, off); err != nil {
			return err
		}
		if err := into.Fill(p, off); err != nil {
			return localFailure{err}
		}
		off += int64(len(p))
	}
	return nil
}

// blockBuffers keeps the buffers that content is fetched through.
var blockBuffers = sync.Pool{New: func() any { return new([]byte) }}

// localFailure is an error of this machine's disk while something was fetched.
type localFailure struct{ error }

func (e localFailure) Unwrap() error { return e.error }
