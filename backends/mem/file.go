package mem

import (
	"context"
	"errors"
	"io"
	"path"
	"syscall"

	"pierfs/backends"
)

// handle is an open file of one era; the zero name of an op is the file's.
type handle struct {
	backend *Backend
	file    *inode
	name    string
	era     int
	closed  bool // Backend.mu guards it
}

// call is Backend.call for an open file.
func (h *handle) call(ctx context.Context, op string, do func() syscall.Errno) error {
	b := h.backend
	if err := b.enter(ctx, op, h.name); err != nil {
		return err
	}
	b.mu.Lock()
	lost := h.era != b.era
	b.mu.Unlock()
	if lost {
		return &backends.Error{
			Op: op, Name: h.name, Code: syscall.ECONNRESET, Class: backends.Lost, Cause: backends.CauseConnLost,
			Err: errors.New("the connection that the file was opened by is gone"),
		}
	}
	return b.leave(ctx, op, h.name, b.locked(op, h.name, func() syscall.Errno {
		if h.closed {
			return syscall.EBADF
		}
		return do()
	}))
}

func (h *handle) close() {
	h.backend.mu.Lock()
	defer h.backend.mu.Unlock()
	h.closed = true
}

// Open opens a file, through links wherever they lead: confining is another's duty.
func (b *Backend) Open(ctx context.Context, name string) (backends.Reader, error) {
	r := &reader{handle: handle{backend: b, name: name}}
	err := b.call(ctx, "open", name, func() (code syscall.Errno) {
		r.era = b.era
		r.file, code = b.follow(name)
		if code == 0 && r.file.mode.IsDir() {
			code = syscall.EISDIR
		}
		if code == 0 {
			r.asked = b.info(path.Base(name), r.file)
		}
		return code
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

// reader keeps the file it was opened on, whatever bears the name by now. Where the server can only stream, it keeps it for as
// long as it reads onward; a jump is a new transfer of what bears the name by then.
type reader struct {
	handle
	asked   backends.Info // the file's state when it was opened
	flowing bool          // a transfer is under way, and is at next
	next    int64
}

func (r *reader) ReadAt(ctx context.Context, p []byte, off int64) (n int, err error) {
	n, _, err = r.read(ctx, "readat", p, off)
	return n, err
}

func (r *reader) ReadLast(ctx context.Context, p []byte, off int64) (int, backends.Info, error) {
	return r.read(ctx, "readlast", p, off)
}

func (r *reader) read(ctx context.Context, op string, p []byte, off int64) (n int, info backends.Info, err error) {
	err = r.call(ctx, op, func() syscall.Errno {
		if off < 0 {
			return syscall.EINVAL
		}
		if code := r.transfer(off); code != 0 {
			return code
		}
		n = r.file.read(p, off)
		r.next = off + int64(n)
		info = r.state()
		return 0
	})
	switch {
	case err != nil:
		return 0, backends.Info{}, err
	case n < len(p):
		return n, info, io.EOF
	}
	return n, info, nil
}

func (r *reader) Stat(ctx context.Context) (info backends.Info, err error) {
	err = r.call(ctx, "fstat", func() syscall.Errno {
		info = r.asked
		if r.backend.caps.RandomRead {
			info = r.state()
		}
		return 0
	})
	return info, err
}

// state is what the server tells of the open file now. Backend.mu is held.
func (r *reader) state() backends.Info { return r.backend.info(path.Base(r.name), r.file) }

// transfer makes sure that a transfer is under way at off, where the server can only stream. Backend.mu is held.
func (r *reader) transfer(off int64) syscall.Errno {
	b := r.backend
	if b.caps.RandomRead || r.flowing && off == r.next {
		return 0
	}
	b.calls["retr"]++
	now, code := b.follow(r.name)
	if code != 0 || now != r.file || !r.state().SameVersion(r.asked) {
		return syscall.ESTALE
	}
	r.flowing = true
	return 0
}

func (r *reader) Close() error {
	r.close()
	return nil
}

// Create begins a content.
func (b *Backend) Create(ctx context.Context, name string, mode backends.WriteMode) (backends.Writer, error) {
	for _, name := range []string{mode.TempName, mode.Left} {
		if err := backends.CheckName("create", name); err != nil {
			return nil, err
		}
	}
	w := &writer{handle: handle{backend: b, name: name}, mode: mode}
	defer b.forgetClaim(w) // unless the reply is lost
	err := b.call(ctx, "create", name, func() syscall.Errno {
		w.era = b.era
		if !b.caps.RandomWrite {
			b.calls["stor"]++
		}
		return w.create()
	})
	if e, ok := err.(*backends.Error); ok && mode.TempName != "" {
		return nil, backends.Weaken(e, backends.CauseTempName)
	}
	if err != nil {
		return nil, err
	}
	w.answered = true
	return w, nil
}

// forgetClaim takes the second name from an exclusive creation that was answered; see backends.ClaimName.
func (b *Backend) forgetClaim(w *writer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	claim := backends.ClaimName(w.mode.TempName)
	if dir, element, code := b.parent(claim); code == 0 && w.answered && w.claim != nil && dir.children[element] == w.claim {
		b.detach(dir, element)
	}
}

// Update opens a file to change it in place.
func (b *Backend) Update(ctx context.Context, name string) (backends.Writer, error) {
	w := &writer{handle: handle{backend: b, name: name}, inPlace: true, appending: !b.caps.RandomWrite}
	said := asides{}
	err := b.call(ctx, "update", name, func() (code syscall.Errno) {
		if !b.caps.RandomWrite && !b.caps.Append {
			return syscall.EOPNOTSUPP
		}
		w.era = b.era
		if w.file, code = b.follow(name); code != 0 {
			return code
		}
		if w.file.mode.IsDir() {
			return syscall.EISDIR
		}
		w.next = w.file.size
		said.touch(b, name)
		return 0
	})
	if err != nil {
		return nil, err
	}
	said.tell(ctx, b)
	return w, nil
}

// writer is content on its way into file, which bears the temporary name, or the name itself.
type writer struct {
	handle
	mode      backends.WriteMode
	inPlace   bool
	appending bool // each write must be where the last ended
	begun     bool // something was written
	claim     *inode
	answered  bool // the caller knows that the claim was made
	next      int64
	failed    syscall.Errno
	onward    int64 // so much was written onward from the beginning, and answered; -1 where it was not. Backend.mu guards it
}

// create makes the files that the mode asks for. Backend.mu is held.
func (w *writer) create() syscall.Errno {
	b := w.backend
	dir, element, code := b.parent(w.name)
	if code != 0 {
		return code
	}
	old := dir.children[element]
	switch {
	case old != nil && w.mode.Exclusive:
		return syscall.EEXIST
	case old != nil && old.mode.IsDir():
		return syscall.EISDIR
	}
	w.appending = !b.caps.RandomWrite
	if w.mode.TempName == "" {
		w.file, code = w.begin(w.name)
		w.claim = w.file
		return code
	}
	switch code = b.remove(w.mode.TempName, false); code {
	case 0, syscall.ENOENT:
	default:
		return code
	}
	if w.file, code = w.begin(w.mode.TempName); code != 0 {
		return code
	}
	if w.mode.Exclusive && b.caps.Exclusive {
		if code := b.forbids("make", w.name); code != 0 {
			w.drop(w.mode.TempName, w.file)
			return code
		}
		w.claim = b.newInode(b.newPerm(w.mode.Perm, 0o644))
		b.attach(dir, element, w.claim)
		if claim := backends.ClaimName(w.mode.TempName); claim != "" && b.caps.Link {
			dir, element, _ := b.parent(claim) // the one of the temporary name
			b.attach(dir, element, w.claim)
		}
	}
	return 0
}

// begin makes name an empty file.
func (w *writer) begin(name string) (*inode, syscall.Errno) {
	b := w.backend
	if i, code := b.follow(name); code == 0 {
		if i.mode.IsDir() {
			return nil, syscall.EISDIR
		}
		return i, b.resize(i, 0)
	}
	dir, element, code := b.parent(name)
	if code == 0 {
		code = b.forbids("make", name)
	}
	if code != 0 {
		return nil, code
	}
	i := b.newInode(b.newPerm(w.mode.Perm, 0o644))
	b.attach(dir, element, i)
	return i, 0
}

// change is call for what a writer that has failed does not do any more.
func (w *writer) change(ctx context.Context, op string, do func() syscall.Errno) error {
	return w.call(ctx, op, func() syscall.Errno {
		if w.failed == 0 {
			w.failed = do()
		}
		return w.failed
	})
}

func (w *writer) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	err := w.change(ctx, "writeat", func() syscall.Errno {
		if off < 0 || w.appending && off != w.next {
			return syscall.EINVAL
		}
		if w.inPlace && w.appending && !w.begun {
			w.begun = true
			w.backend.calls["appe"]++
		}
		w.next = off + int64(len(p))
		return w.backend.write(w.file, p, off)
	})
	w.backend.mu.Lock()
	defer w.backend.mu.Unlock()
	switch {
	case err != nil:
		return 0, err
	case off == w.onward:
		w.onward += int64(len(p))
	case off < w.onward:
		w.onward = -1
	}
	return len(p), nil
}

func (w *writer) Truncate(ctx context.Context, size int64) error {
	return w.change(ctx, "truncate", func() syscall.Errno {
		switch {
		case !w.backend.caps.Truncate:
			return syscall.EOPNOTSUPP
		case size < 0:
			return syscall.EINVAL
		}
		w.next, w.onward = size, -1
		w.file.modTime = w.backend.now() // as ftruncate(2) does for every size
		return w.backend.resize(w.file, size)
	})
}

func (w *writer) Sync(ctx context.Context) error {
	return w.change(ctx, "sync", func() syscall.Errno { return 0 })
}

// TakeOver copies, as the server would.
func (w *writer) TakeOver(ctx context.Context, off, n int64) error {
	err := w.change(ctx, "takeover", func() syscall.Errno {
		b := w.backend
		if !b.caps.TakeOver || w.mode.Left == "" {
			return syscall.EOPNOTSUPP
		}
		left, code := b.find(w.mode.Left)
		switch {
		case code != 0:
			return code
		case off != w.file.size || n < 0 || !left.mode.IsRegular() || left.size < off+n:
			return syscall.EINVAL
		}
		p := make([]byte, n)
		left.read(p, off)
		w.next = off + n
		return b.write(w.file, p, off)
	})
	w.backend.mu.Lock()
	defer w.backend.mu.Unlock()
	if err == nil && off == w.onward {
		w.onward += n
	}
	return err
}

// Acknowledged believes what was answered.
func (w *writer) Acknowledged() int64 {
	w.backend.mu.Lock()
	defer w.backend.mu.Unlock()
	if w.inPlace || w.failed != 0 || !w.backend.caps.TakeOver {
		return 0
	}
	return max(w.onward, 0)
}

func (w *writer) Commit(ctx context.Context, c backends.Commit) (info backends.Info, err error) {
	var refused error
	weaker := false // it may be the renaming alone that is refused
	said := asides{}
	err = w.change(ctx, "commit", func() syscall.Errno {
		b := w.backend
		if code := b.set(w.file, b.possible(c.Attr)); code != 0 {
			return code
		}
		if w.file.size != c.Size {
			return syscall.EIO
		}
		if refused = w.ask(c.Before); refused != nil {
			return backends.Errno(refused)
		}
		if code := w.publish(); code != 0 {
			weaker = true
			return code
		}
		info = b.changed(path.Base(w.name), w.file)
		if !w.inPlace {
			said.touch(b, dirOf(w.name))
		}
		return 0
	})
	if err == nil || backends.ClassOf(err) == backends.Final {
		w.end(err == nil)
	}
	switch {
	case refused != nil:
		return backends.Info{}, refused
	case err != nil && weaker:
		return backends.Info{}, backends.Weaken(err.(*backends.Error), backends.CauseRename)
	case err != nil:
		return backends.Info{}, err
	}
	said.tell(ctx, w.backend)
	return info, nil
}

// ask asks before whether what the name holds may be replaced. Backend.mu is held, but not while before has the word, which may take its
// time.
func (w *writer) ask(before func(backends.Info, error) error) error {
	if before == nil || w.mode.TempName == "" {
		return nil
	}
	b := w.backend
	dir, element, code := b.parent(w.name)
	if code == 0 && dir.children[element] == nil {
		code = syscall.ENOENT
	}
	var info backends.Info
	var absent error
	if code != 0 {
		absent = &backends.Error{Op: "stat", Name: w.name, Code: code}
	} else {
		info = b.info(element, dir.children[element])
	}
	b.mu.Unlock()
	defer b.mu.Lock()
	return before(info, absent)
}

// publish gives the content its name. Backend.mu is held.
func (w *writer) publish() syscall.Errno {
	if w.mode.TempName == "" {
		return 0
	}
	w.onward = -1
	how := backends.Replace
	if w.mode.Exclusive && w.claim == nil {
		how = backends.NoReplace
	}
	if code := w.backend.forbids("rename", w.name); code != 0 {
		return code
	}
	return w.backend.rename(w.mode.TempName, w.name, how)
}

// Abort removes the temporary name, and the name of an exclusive Create.
func (w *writer) Abort() error {
	if err := w.call(context.Background(), "abort", func() syscall.Errno { return 0 }); err != nil {
		return err
	}
	w.end(false)
	return nil
}

// end closes the writer; unless it was committed, nothing of it stays.
func (w *writer) end(committed bool) {
	b := w.backend
	b.mu.Lock()
	defer b.mu.Unlock()
	if w.closed {
		return
	}
	w.closed = true
	if committed || w.inPlace {
		return
	}
	w.drop(w.mode.TempName, w.file)
	w.drop(w.name, w.claim)
}

// drop removes name if it still bears i.
func (w *writer) drop(name string, i *inode) {
	dir, element, code := w.backend.parent(name)
	if code == 0 && i != nil && dir.children[element] == i && w.backend.forbids("remove", name) == 0 {
		w.backend.detach(dir, element)
	}
}
