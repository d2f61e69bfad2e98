package retry

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"pierfs/backends"
)

// Open repeats. The Reader outlives its connection.
func (b *Backend) Open(ctx context.Context, name string) (backends.Reader, error) {
	r, err := ask(ctx, b, "open", name, func(ctx context.Context) (backends.Reader, error) { return b.Backend.Open(ctx, name) })
	if err != nil {
		return nil, err
	}
	return &reader{backend: b, name: name, turn: make(chan struct{}, 1), current: r}, nil
}

// reader is an open file that is opened again when its connection is lost. To know whether it is still the same file, it
// asks the open file for its state in the flight of the first ReadAt; a reader that only ever does one ReadLast, as for
// small files, costs nothing more.
type reader struct {
	backend *Backend
	name    string
	turn    chan struct{} // holds one token while somebody opens the file again

	mu         sync.Mutex
	current    backends.Reader
	generation int  // of current
	used       bool // bytes were given out
	asked      bool // version is known or being asked for
	version    *backends.Info
	closed     bool
}

func (r *reader) now() (backends.Reader, int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.current, r.generation
}

// spentTries is how often one attempt finds a reader that another call has used up.
const spentTries = 3

func (r *reader) isOpen() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.closed
}

// ReadAt goes on after a reconnect.
func (r *reader) ReadAt(ctx context.Context, p []byte, off int64) (n int, err error) {
	err = r.run(ctx, "readat", int64(len(p)), func(ctx context.Context, current backends.Reader) (err error) {
		answered := r.learn(ctx, current)
		n, err = current.ReadAt(ctx, p, off)
		answered()
		return err
	})
	return n, err
}

// ReadLast goes on after a reconnect.
func (r *reader) ReadLast(ctx context.Context, p []byte, off int64) (n int, info backends.Info, err error) {
	err = r.run(ctx, "readlast", int64(len(p)), func(ctx context.Context, current backends.Reader) (err error) {
		n, info, err = current.ReadLast(ctx, p, off)
		return err
	})
	return n, info, err
}

// Stat goes on after a reconnect.
func (r *reader) Stat(ctx context.Context) (info backends.Info, err error) {
	err = r.run(ctx, "stat", nothing, func(ctx context.Context, current backends.Reader) (err error) {
		info, err = current.Stat(ctx)
		return err
	})
	if err == nil {
		r.mu.Lock()
		r.asked, r.version = true, &info
		r.mu.Unlock()
	}
	return info, err
}

// run makes attempts on the current reader, each but the first on one that was opened again. One that another call has closed or
// used up (a ReadLast that was lost, or the opening of a fresh one) before this attempt came to use it has failed nobody.
func (r *reader) run(ctx context.Context, op string, n int64, attempt func(context.Context, backends.Reader) error) error {
	broken := -1 // the generation that failed us
	var atEnd bool
	err := r.backend.run(ctx, op, r.name, n, func(ctx context.Context) error {
		current, generation := r.now()
		if generation == broken {
			var err error
			if current, generation, err = r.reopen(ctx, generation); err != nil {
				return err
			}
		}
		err := attempt(ctx, current)
		for tries := 0; tries < spentTries && errors.Is(err, syscall.EBADF) && r.isOpen(); tries++ {
			var failed error
			if current, generation, failed = r.reopen(ctx, generation); failed != nil {
				return failed
			}
			err = attempt(ctx, current)
		}
		switch {
		case err == nil || err == io.EOF:
			atEnd = err != nil
			r.mu.Lock()
			r.used = true
			r.mu.Unlock()
			return nil
		case r.backend.policy.mayRepeat(err) || ctx.Err() != nil:
			broken = generation
		}
		return err
	})
	if err == nil && atEnd {
		return io.EOF
	}
	return err
}

// learn asks for the version while the caller's first ReadAt is under way. The func it returns waits for the answer.
func (r *reader) learn(ctx context.Context, current backends.Reader) (wait func()) {
	r.mu.Lock()
	asked := r.asked
	r.asked = true
	r.mu.Unlock()
	if asked {
		return func() {}
	}
	var asking sync.WaitGroup
	asking.Go(func() {
		info, err := current.Stat(ctx)
		r.mu.Lock()
		defer r.mu.Unlock()
		if err == nil {
			r.version = &info
		} else {
			r.asked = false // the next ReadAt asks again
		}
	})
	return asking.Wait
}

// reopen replaces the reader of a generation that has failed, unless somebody else already did.
func (r *reader) reopen(ctx context.Context, failed int) (backends.Reader, int, error) {
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	case <-ctx.Done():
		return nil, 0, ctx.Err()
	}
	if current, generation := r.now(); generation != failed {
		return current, generation, nil
	}
	fresh, err := r.backend.Backend.Open(ctx, r.name)
	if errors.Is(err, os.ErrNotExist) {
		return nil, 0, r.stale("it is gone")
	}
	if err != nil {
		return nil, 0, err
	}
	if err := r.compare(ctx, fresh); err != nil {
		fresh.Close()
		return nil, 0, err
	}
	return r.replace(fresh)
}

// compare returns nil if fresh reads what r has read so far.
func (r *reader) compare(ctx context.Context, fresh backends.Reader) error {
	r.mu.Lock()
	used, version := r.used, r.version
	r.mu.Unlock()
	if !used && version == nil {
		return nil // nobody has seen a byte of the former version
	}
	if version == nil {
		return r.stale("its state before the connection was lost is not known")
	}
	info, err := fresh.Stat(ctx)
	if err != nil {
		return err
	}
	if !info.SameVersion(*version) {
		return r.stale("it has changed")
	}
	return nil
}

func (r *reader) replace(fresh backends.Reader) (backends.Reader, int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		fresh.Close()
		return nil, 0, failure("open", r.name, syscall.EBADF, backends.Final, "", nil)
	}
	r.current.Close() // its connection is gone, so there is nobody to be told
	r.current = fresh
	r.generation++
	return fresh, r.generation, nil
}

func (r *reader) stale(why string) error {
	return failure("open", r.name, syscall.ESTALE, backends.Final, "",
		errors.New("the connection was lost while the file was open, and "+why))
}

// Close closes the current reader.
func (r *reader) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	return r.current.Close()
}

// Create repeats what did not reach the server, and also what was lost: the temporary name is begun afresh. An Exclusive one
// whose reply was lost is repeated if the name is still free, or if what bears it can be proven to be ours (see
// backends.ClaimName). An empty file that may be ours or another's ends it with EIO: two programs must never both win.
func (b *Backend) Create(ctx context.Context, name string, mode backends.WriteMode) (backends.Writer, error) {
	unsure := false
	w, err := recall(ctx, b, "create", name, func(ctx context.Context) (backends.Writer, error) {
		if unsure {
			if err := b.freeAgain(ctx, name, mode); err != nil {
				return nil, err
			}
		}
		w, err := b.Backend.Create(ctx, name, mode)
		lost := backends.ClassOf(err) == backends.Lost || err != nil && ctx.Err() != nil
		unsure = unsure || mode.Exclusive && lost
		return w, err
	})
	if err != nil {
		return nil, err
	}
	return &writer{Writer: w, backend: b, name: name, temp: mode.TempName}, nil
}

// freeAgain returns nil if nothing bears the name of an exclusive Create whose reply was lost, or nothing does any more because
// it was ours and is removed.
func (b *Backend) freeAgain(ctx context.Context, name string, mode backends.WriteMode) error {
	info, err := b.Backend.Stat(ctx, name)
	claim := backends.ClaimName(mode.TempName)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return b.removeIfAny(ctx, claim)
	case err != nil:
		return err
	case info.Size > 0 || !info.Mode.IsRegular():
		return taken(name) // ours would be an empty file
	}
	switch ours, known, err := b.sameFile(ctx, claim, name); {
	case err != nil:
		return err
	case !known:
		return failure("create", name, syscall.EIO, backends.Final, backends.CauseConnLost,
			errors.New("the connection was lost, and an empty file is there now that may be ours or another's"))
	case !ours:
		return taken(name)
	}
	if err := b.removeIfAny(ctx, name); err != nil {
		return err
	}
	return b.removeIfAny(ctx, claim)
}

// taken is what an exclusive Create gets whose reply was lost, and whose name is another's. Its cause tells the caller that
// something may be left under the temporary names.
func taken(name string) error {
	return failure("create", name, syscall.EEXIST, backends.Final, backends.CauseConnLost, nil)
}

// sameFile reports whether name is another name of the file claim, which is ours to change; known is false if that cannot be
// found out. A file of which the other name follows two changes of the time is the same. Without the claim, where there are
// links, the server never came to give it another name.
func (b *Backend) sameFile(ctx context.Context, claim, name string) (same, known bool, err error) {
	if claim == "" || !b.Caps().SetTimes {
		return false, false, nil
	}
	for _, mark := range []time.Time{time.Unix(1e9, 0), time.Unix(1e9+86400, 0)} {
		_, err := b.Backend.SetAttr(ctx, claim, backends.Attr{ModTime: &mark, AccTime: &mark})
		switch {
		case errors.Is(err, os.ErrNotExist):
			return false, b.Caps().Link, nil
		case err != nil && backends.ClassOf(err) == backends.Final:
			return false, false, nil
		case err != nil:
			return false, false, err
		}
		info, err := b.Backend.Stat(ctx, name)
		if err != nil {
			return false, false, err
		}
		if !info.ModTime.Equal(mark) {
			return false, true, nil
		}
	}
	return true, true, nil
}

// removeIfAny removes name, which may be absent.
func (b *Backend) removeIfAny(ctx context.Context, name string) error {
	if name == "" {
		return nil
	}
	err := b.Backend.Remove(ctx, name)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// writer reports progress, and finds out what became of a Commit whose reply was lost.
type writer struct {
	backends.Writer
	backend    *Backend
	name, temp string
}

// WriteAt reports progress to the Do it runs in.
func (w *writer) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	n, err := w.Writer.WriteAt(ctx, p, off)
	return n, w.note(ctx, err)
}

// Sync reports progress to the Do it runs in.
func (w *writer) Sync(ctx context.Context) error { return w.note(ctx, w.Writer.Sync(ctx)) }

// TakeOver reports progress to the Do it runs in.
func (w *writer) TakeOver(ctx context.Context, off, n int64) error {
	return w.note(ctx, w.Writer.TakeOver(ctx, off, n))
}

func (w *writer) note(ctx context.Context, err error) error {
	switch u := budgetOf(ctx); {
	case u == nil:
	case err == nil:
		u.progress()
	default:
		u.broke()
	}
	return err
}

// Commit asks, after a lost reply, for the temporary name: it was renamed if it is gone and the name has the size, and the
// content where that is known. Then that is the success; and if it is still there, nothing has happened, and the error is Transient.
func (w *writer) Commit(ctx context.Context, c backends.Commit) (backends.Info, error) {
	info, err := w.Writer.Commit(ctx, c)
	if err == nil {
		w.backend.line.answer()
	}
	_ = w.note(ctx, err) // which it returns
	if backends.ClassOf(err) != backends.Lost || w.temp == "" || ctx.Err() != nil {
		return info, err
	}
	_, missing := w.backend.Stat(ctx, w.temp)
	switch {
	case missing == nil:
		return backends.Info{}, notDone(err)
	case !errors.Is(missing, os.ErrNotExist):
		return backends.Info{}, err
	}
	info, failed := w.backend.Stat(ctx, w.name)
	if failed != nil || info.Size != c.Size || !info.Mode.IsRegular() {
		return backends.Info{}, err
	}
	if c.Content != nil { // somebody else may have replaced it since by his own
		if same, failed := w.isThere(ctx, c); failed != nil || !same {
			return backends.Info{}, err
		}
	}
	return info, nil
}

// isThere reports whether what bears the name is c.
func (w *writer) isThere(ctx context.Context, c backends.Commit) (bool, error) {
	r, err := w.backend.Open(ctx, w.name)
	if err != nil {
		return false, err
	}
	defer r.Close()
	return backends.SameContent(ctx, r, c.Content, c.Size)
}

// notDone returns the Lost err as Transient, since the server said that nothing happened.
func notDone(err error) error {
	e, _ := errors.AsType[*backends.Error](err)
	told := *e
	told.Class = backends.Transient
	return &told
}
