package cache

import (
	"context"
	"errors"
	"io"
	"path"
	"sync"

	"pierfs/backends"
)

// warmers is how many listings and files Warm has under way where the server bears many.
const warmers = 16

// Warming is how far Warm has come.
type Warming struct {
	Found Amount // so far: directories are listed meanwhile
	Done  Amount // among these: all of their content is here
	Here  int    // files among Done that were here before

	// Failed are files and directories that could not be read, such as for want of permission, and the first reason.
	Failed int
	Reason error
}

// Amount is a number of files and their bytes.
type Amount struct {
	Files int
	Bytes int64
}

// ErrCacheFull says that more was found than the cache may hold.
var ErrCacheFull = errors.New("the cache holds no more")

// Warm fetches the file name, or all files below the directory name, so that they are read from here later. Links are not
// followed. It calls progress, one call at a time, whenever something has been found or fetched; an error of progress ends
// it, and so do ErrCacheFull and a connection that is lost. What single files fail with is counted.
func (t *Tree) Warm(ctx context.Context, name string, progress func(Warming) error) error {
	return t.warm(ctx, name, &warming{progress: progress})
}

// WouldWarm is Warm that fetches nothing: what is not here is found, and never done.
func (t *Tree) WouldWarm(ctx context.Context, name string, progress func(Warming) error) error {
	return t.warm(ctx, name, &warming{progress: progress, look: true})
}

func (t *Tree) warm(ctx context.Context, name string, w *warming) error {
	e, err := t.Refresh(ctx, name)
	if err == nil && !e.IsDir() {
		err = openable(name, e.Info)
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(opensAhead(ctx))
	defer cancel(nil)
	w.tree, w.cancel = t, cancel
	w.moved.L = &w.mu
	defer context.AfterFunc(ctx, func() { // those who wait for work have an end, too
		w.mu.Lock()
		defer w.mu.Unlock()
		w.moved.Broadcast()
	})()
	w.found(name, e)
	var workers sync.WaitGroup
	for range t.warmers() {
		workers.Go(func() { w.work(ctx) }) // ends with ctx, or when nothing is left
	}
	workers.Wait()
	return context.Cause(ctx)
}

func (t *Tree) warmers() int {
	switch streams := t.Caps().Streams; {
	case !t.streams():
		return warmers
	case streams > 0:
		return min(streams, maxTransfers)
	}
	return maxTransfers
}

// warming is one Warm under way.
type warming struct {
	tree     *Tree
	cancel   context.CancelCauseFunc
	progress func(Warming) error
	look     bool // and fetch nothing

	mu    sync.Mutex // held over progress
	moved sync.Cond  // dirs, files or busy changed
	dirs  []string
	files []string
	busy  int // workers that may yet find something
	so    Warming
}

// found notes an entry, if it is one to be fetched or listed; the caller holds mu, but for the first.
func (w *warming) found(name string, e Entry) {
	switch {
	case e.IsDir():
		w.dirs = append(w.dirs, name)
	case e.Mode.IsRegular():
		w.files = append(w.files, name)
		w.so.Found.Files++
		w.so.Found.Bytes += e.Size
	}
}

// work does what is to be done until nothing is left, or ctx ends.
func (w *warming) work(ctx context.Context) {
	for {
		name, isDir, ok := w.next(ctx)
		if !ok {
			return
		}
		var err error
		if isDir {
			err = w.list(ctx, name)
		} else {
			err = w.fetch(ctx, name)
		}
		w.ended(err)
	}
}

// next returns what to do next: files, as long as there are enough of them for all, else directories.
func (w *warming) next(ctx context.Context) (name string, isDir, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		switch {
		case ctx.Err() != nil:
			return "", false, false
		case len(w.files) > 0 && (len(w.dirs) == 0 || len(w.files) >= 2*warmers):
			name, w.files = w.files[0], w.files[1:]
		case len(w.dirs) > 0:
			name, w.dirs, isDir = w.dirs[len(w.dirs)-1], w.dirs[:len(w.dirs)-1], true
		case w.busy == 0:
			return "", false, false
		default:
			w.moved.Wait()
			continue
		}
		w.busy++
		return name, isDir, true
	}
}

// ended notes that a worker is through with something.
func (w *warming) ended(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.busy--
	w.moved.Broadcast()
	switch {
	case err == nil:
	case errors.Is(err, ErrCacheFull) || backends.ClassOf(err) != backends.Final:
		w.cancel(err)
		return
	default:
		w.so.Failed++
		if w.so.Reason == nil {
			w.so.Reason = err
		}
	}
	if err := w.progress(w.so); err != nil {
		w.cancel(err)
	}
}

func (w *warming) list(ctx context.Context, dir string) error {
	listing, err := w.tree.List(ctx, dir)
	if err != nil {
		return err
	}
	defer listing.Close()
	for i := 0; ; i++ {
		e, err := listing.At(ctx, i)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		name := path.Join(dir, e.Name)
		if !e.Known.Has(backends.HasType) { // as some FTP servers list
			if e, err = w.tree.Stat(ctx, name); err != nil {
				return err
			}
		}
		w.mu.Lock()
		w.found(name, e)
		w.moved.Broadcast()
		w.mu.Unlock()
	}
}

// fetch has all of a file here.
func (w *warming) fetch(ctx context.Context, name string) error {
	if w.look {
		return w.lookAt(ctx, name)
	}
	f, e, err := w.tree.Open(ctx, name, OpenMode{Read: true})
	if err != nil {
		return err
	}
	defer f.Close(ctx, true) // it was only read
	here := f.isHere()
	if !here {
		if !w.fits(e.Size) {
			return ErrCacheFull
		}
		if err := f.readAll(ctx); err != nil {
			return err
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.so.Done.Files++
	w.so.Done.Bytes += e.Size
	if here {
		w.so.Here++
	}
	return nil
}

// lookAt counts a file that is here.
func (w *warming) lookAt(ctx context.Context, name string) error {
	e, err := w.tree.Stat(ctx, name)
	if err != nil || !w.tree.options.Spool.Whole(name, w.tree.versionOf(name, e.Info)) {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.so.Done.Files++
	w.so.Done.Bytes += e.Size
	w.so.Here++
	return nil
}

// fits reports whether the cache can hold a file of size bytes beside all that Warm has brought into it.
func (w *warming) fits(size int64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.tree.options.Spool.MayHold(w.so.Done.Bytes + size)
}

// readAll reads the file from its beginning to its end, for the sake of what is then here.
func (f *File) readAll(ctx context.Context) error {
	buf := make([]byte, 256<<10)
	for off := int64(0); ; {
		n, err := f.ReadAt(ctx, buf, off)
		off += int64(n)
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
	}
}

// DropKept drops what is kept of the content of name and of all below it, and returns how much that was. What is open stays.
func (t *Tree) DropKept(name string) Amount {
	u := t.options.Spool.Forget(name)
	return Amount(u)
}

// KeptBelow counts what DropKept would drop.
func (t *Tree) KeptBelow(name string) Amount { return Amount(t.options.Spool.Below(name)) }
