package cache

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"pierfs/backends"
	"pierfs/cache/spool"
)

// lending is whether local files can be lent, which is asked of the local file system once.
type lending struct {
	once sync.Once
	ok   bool
}

// mayLend reports whether copied, and files beside it, can be lent.
func (t *Tree) mayLend(copied *spool.File) bool {
	t.lending.once.Do(func() {
		err := spool.CheckLending(filepath.Dir(copied.Path()), t.options.Staging)
		if t.lending.ok = err == nil; err != nil {
			t.log.Info("local files are not lent to the kernel", "err", err)
		}
	})
	return t.lending.ok
}

// Local returns the file on this machine's disk that holds all of the content, for the kernel to read past us; nil if there
// is none, or if it could not be written to later. It is the File's to close.
//
// From the first that is not nil until the last Close that file is the content: what is written through the File, and what
// others append on the server, is written into it, and nothing else changes in it. Whoever lets a program write to it must
// ask again with his mode. mode.Read and mode.Write together mean that a program may store into a shared mapping of it: Dirty
// finds that out, Publish sends all of the content then, and Mapped tells whether that can still happen.
func (f *File) Local(mode OpenMode) (*os.File, error) {
	if f.tree.Background() { // what is owed gets a file of its own before anybody writes on
		return nil, nil
	}
	if !f.isLent() && (mode.Write || !f.bringCopy()) {
		return nil, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.shut != 0, f.lent && f.staged == nil && f.copied == nil:
		return nil, nil
	case f.staged != nil:
		if !f.lent {
			return nil, nil
		}
	case mode.Read && mode.Write:
		if err := f.moveToStaging(); err != nil {
			return nil, fault("open", f.name, err)
		}
	case !f.lent && (f.copied == nil || f.copied.Size() != f.base.Size || !f.copied.Whole() || !f.tree.mayLend(f.copied)):
		return nil, nil
	}
	if mode.Read && mode.Write && !f.stored {
		if err := f.staged.Watch(); err != nil {
			return nil, fault("open", f.name, err)
		}
		f.stored = true
	}
	content := f.copied
	if f.staged != nil {
		content = f.staged
	}
	disk, ok := content.Lend()
	if !ok {
		return nil, nil
	}
	f.lent = true
	return disk, nil
}

// Lendable reports whether Local would return a file to who reads now.
func (f *File) Lendable() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.shut != 0 || f.tree.Background() {
		return false
	}
	return f.lent || f.staged == nil && f.copied != nil && f.copied.Size() == f.base.Size && f.copied.Whole() && f.tree.mayLend(f.copied)
}

func (f *File) isLent() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lent
}

// bringCopy takes the copy that was kept from before, and reports whether there is one.
func (f *File) bringCopy() bool {
	f.mu.Lock()
	name, base, here, none := f.name, f.base, f.copied != nil, f.staged != nil || f.whole != nil || f.gone || f.stale
	f.mu.Unlock()
	switch {
	case here:
		return true
	case none, base.Size <= smallFile, !f.tree.options.Spool.Whole(name, f.tree.versionOf(name, base)):
		return false
	}
	return f.copy() != nil
}

// Mapped reports whether a program still has open, or has mapped, what Local returned.
func (f *File) Mapped() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case !f.lent:
		return false
	case f.staged != nil:
		return f.staged.Shared()
	}
	return f.copied != nil && f.copied.Shared()
}

// moveToStaging makes the lent copy the staging file; the caller holds mu.
func (f *File) moveToStaging() error {
	stem, err := f.tree.newNote(f.name)
	if err != nil {
		return err
	}
	if err := f.copied.MoveTo(stem + dataSuffix); err != nil {
		return err
	}
	f.flight.wake()
	f.staged, f.copied, f.flight = f.copied.Within(f.tree.room), nil, flight{}
	return nil
}

// notice finds out what programs have stored into mappings; the caller holds mu.
func (f *File) notice() {
	if !f.stored || f.staged == nil {
		return
	}
	if at, ok := f.staged.StoredAt(); ok {
		f.renameStaging()
		f.changed(0)
		f.placed, f.riding.stirred = true, true
		if d := f.owing.debt; d != nil && d.staged == f.staged {
			d.altered = true
		}
		if f.riding.through > 0 && !at.IsZero() {
			f.info.ModTime = at
		}
	}
}

// settle makes sure that what is stored from now on will be noticed.
func (f *File) settle() error {
	f.mu.Lock()
	staged, mapped := f.staged, f.stored && (f.riding.on == nil || f.riding.mappable)
	f.mu.Unlock()
	if !mapped || staged == nil {
		return nil
	}
	return staged.Sync() // pages that are clean cannot be stored to unseen
}

// growAtOnce is how much of what was appended on the server one question brings into a file that is lent.
const growAtOnce = 8 << 20

// growLent brings what was appended on the server into the lent file, for its readers must never meet a hole: of a great deal
// only a part, and the rest with the next questions. The caller has the right to fetch.
func (f *File) growLent(ctx context.Context, base, info backends.Info) bool {
	f.mu.Lock()
	copied, reader := f.copied, f.reader
	f.mu.Unlock()
	if copied == nil || reader == nil {
		return false
	}
	now := info
	now.Size = min(info.Size, base.Size+growAtOnce)
	more := make([]byte, now.Size-base.Size)
	if n, err := reader.ReadAt(ctx, more, base.Size); n < len(more) || err != nil && err != io.EOF {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.copied != copied || f.change != f.published || !f.base.SameVersion(base) || f.shut == syscall.EBADF {
		return false
	}
	f.tree.counters.fetched(len(more))
	if err := copied.Grow(more, base.Size); err != nil {
		f.tree.warn("growth of a lent file", err)
		return false
	}
	f.base, f.info = now, now
	f.lags = 0
	if now.Size < info.Size {
		f.lags = info.Size
	} else if f.tree.streams() {
		f.dropReader()
	}
	return true
}

// behind returns the size that the server told of a lent file of which less is here, and whether that is so.
func (f *File) behind() (size int64, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lags, f.lags > f.base.Size
}

// catchUp returns when all is here of a lent file that the server told when it was opened.
func (t *Tree) catchUp(ctx context.Context, f *File) error {
	for size, behind := f.behind(); behind && f.baseInfo().Size < size; _, behind = f.behind() {
		name, ok := f.Name()
		if !ok || t.live(name) != f {
			return nil
		}
		if _, err := t.Refresh(ctx, name); err != nil {
			return err
		}
	}
	return nil
}
