package sftp

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"pierfs/backends"
)

// frames keeps the large buffers of WRITE packets.
var frames = sync.Pool{New: func() any { return new(frame) }}

// pooled is the capacity from which a frame is worth keeping.
const pooled = 64 << 10

// recycle takes a frame back that has been written.
func recycle(f frame) {
	if cap(f) >= pooled {
		f = f[:0]
		frames.Put(&f)
	}
}

// writer is content on its way. WRITEs leave as soon as a packet is full and are not waited for; what the server says of
// them is collected in failure and comes out of the next call. The last packet is held back, so that a small content
// leaves in one flight with all that makes it final.
//
// A long content under a name that we have made is striped over several channels, as long as it is written onward. All of them must
// have answered, and closed, before anything that makes it final leaves.
type writer struct {
	b      *Backend
	s      *session
	way    // by which it was opened
	name   string
	temp   string // where it is gathered; "" if that is name itself
	guard  string // handle of the empty file that stands under name meanwhile (Exclusive); "" if there is none
	fresh  bool   // name did not exist before us, and is ours to remove
	ways   ways
	parted []way         // further ways that were taken out of ways, their handles still open
	closed []*call       // the CLOSE of each that had one
	made   backends.Info // what the file at place was when we had made it; Known is 0 if nobody asked
	top    atomic.Int64  // the highest end of what was sent
	left   string        // where a former Writer has left a beginning of the content; "" if none has

	turn   chan struct{} // holds one token: whoever has it may touch what follows
	held   frame         // the WRITE being filled, nil if none
	at     int64         // where held begins
	sent   []*packet     // WRITEs not known to be answered
	single bool          // it is not written onward: the order of WRITEs counts, and only one channel keeps it
	torn   bool          // a way has died whose WRITEs may still come to pass
	end    bool          // Commit or Abort was called
	size   int64         // bytes moved

	mu      sync.Mutex
	failure error     // of the first WRITE that went wrong
	missed  []*packet // WRITEs that went wrong on a further way, to be sent by the first
	sure    sure
}

// packet is a WRITE on its way.
type packet struct {
	*call
	frame  frame
	by     way
	off    int64
	missed bool // guarded by writer.mu
}

// Create opens the temporary name, and with Exclusive the name itself, in one round trip.
func (b *Backend) Create(ctx context.Context, name string, mode backends.WriteMode) (backends.Writer, error) {
	for _, beside := range []string{mode.TempName, mode.Left} {
		if err := backends.CheckName("create", beside); err != nil {
			return nil, err
		}
	}
	if mode.TempName == name {
		mode.TempName = "" // no place of its own, so that there is nothing to remove or rename
	}
	var w *writer
	err := b.do(ctx, "create", name, func(s *session) (err error) {
		if name == "" {
			return refuse(syscall.EISDIR, "it is the working directory")
		}
		w, err = b.create(ctx, s, name, mode)
		if failed(err, statusFailure, statusFileExists) && backends.Errno(err) != syscall.EEXIST && mode.TempName != "" {
			// The temporary name is the caller's own: what bears it is left over from an attempt that was lost.
			_, absent := s.lstat(ctx, mode.TempName)
			if lost := unexplained(err, absent); lost != nil {
				return lost
			}
			if absent != nil {
				return s.whyChange(ctx, name, 0, err)
			}
			s.ask(ctx, pathFrame(typeRemove, s.path(mode.TempName)))
			w, err = b.create(ctx, s, name, mode)
			err = s.whyCreate(ctx, mode.TempName, err)
		}
		return err
	})
	if err != nil {
		return nil, weaken(err, mode.TempName != "", backends.CauseTempName)
	}
	return w, nil
}

// weaken says of err, a refusal, that it may be one of the place or of the renaming, and not of the content, where there is such.
func weaken(err error, beside bool, cause backends.Cause) error {
	if e, ok := err.(*backends.Error); ok && beside {
		return backends.Weaken(e, cause)
	}
	return err
}

func (b *Backend) create(ctx context.Context, s *session, name string, mode backends.WriteMode) (*writer, error) {
	s.expect(mode.Size)
	m := s.channel()
	w := &writer{b: b, s: s, way: way{m: m}, name: name, temp: mode.TempName, left: mode.Left, turn: make(chan struct{}, 1)}
	w.sure.kept = s.takesOver() && b.o.Verify != "off" // then the server may make something else of what it gets
	opened := false
	defer func() {
		if !opened {
			m.files.Add(-1)
		}
	}()
	perm := attrs{flags: attrPerm, perm: permBits(mode.Perm.Perm())}
	if mode.Perm == 0 {
		perm = attrs{}
	}
	place, flags := w.place(), uint32(openWrite|openCreate|openExcl)
	if w.temp == "" && !mode.Exclusive {
		flags = openWrite | openCreate | openTrunc
	}
	f, begun := m.flight(), time.Now()
	there := f.add(pathFrame(typeLstat, s.path(name)))
	open := f.add(openFrame(s.path(place), flags, perm))
	open.late = w.undoLate(place, flags&openExcl != 0)
	var made *call
	if flags&openExcl != 0 && s.wide() > 1 && (mode.Size == 0 || mode.Size > crowded) { // else it will have one way
		made = f.add(pathFrame(typeLstat, s.path(place)))
	}
	held := func() error { return nil }
	if mode.Exclusive && w.temp != "" {
		held = w.holdName(f, perm)
	}
	f.send(urgent)
	f.wait(ctx)

	var err error
	w.handle, err = open.reply.handle()
	guarded := held()
	was, absent := there.reply.info("")
	if _, linkless := errors.AsType[*noLink](guarded); linkless && failed(absent, statusNoSuchFile) {
		guarded = w.holdWithoutLink(ctx, perm)
	}
	if mode.Exclusive && w.temp == "" {
		w.fresh = err == nil
		guarded = err
	}
	switch {
	case absent == nil && was.IsDir() && !mode.Exclusive:
		w.discard(ctx)
		return nil, refuse(syscall.EISDIR, "it is a directory")
	case guarded != nil && absent == nil && !lostReply(guarded):
		w.discard(ctx)
		return nil, as(syscall.EEXIST, guarded)
	case guarded != nil:
		w.discard(ctx)
		return nil, s.whyCreate(ctx, name, guarded)
	case err != nil:
		w.cleanUp(ctx) // of the name as well, if it is held
		return nil, s.whyPath(ctx, place, err)
	}
	s.tripped(begun)
	opened = true
	w.ways.first = w.way
	if made != nil {
		w.made, _ = made.reply.info("") // without an answer there are no further ways
	}
	w.turn <- struct{}{}
	return w, nil
}

// holdName adds to f what makes the writer's name an empty file of its own, if it is free; the func that it returns tells
// after the flight whether it is. Where there are links the name is made as one of the claim's (see backends.ClaimName), so
// that a lost answer leaves a proof behind.
func (w *writer) holdName(f *flight, perm attrs) (held func() error) {
	claim := backends.ClaimName(w.temp)
	if claim == "" || !w.m.offers(extHardlink) || w.b.linkless.Load() || w.b.lasting.Load() {
		return w.openName(f, perm)
	}
	made := f.add(openFrame(w.s.path(claim), openWrite|openCreate|openExcl, perm))
	made.late = w.undoLate(claim, true)
	link := f.add(extendedFrame(extHardlink, w.s.path(claim), w.s.path(w.name)))
	link.late = func(r reply) {
		if r.status() == nil {
			w.removeSoon("", w.name)
		}
	}
	return func() error {
		err := link.reply.status()
		w.fresh = err == nil
		handle, unmade := made.reply.handle()
		switch {
		case lostReply(err):
			return err // the claim stays, as the proof
		case err == nil, unmade == nil:
			w.removeSoon(handle, claim)
		}
		switch {
		case err == nil:
			return nil
		case unmade != nil:
			return unmade // why there was nothing to link
		}
		return &noLink{err}
	}
}

// noLink is the refusal of a name as a link, though the claim could be made.
type noLink struct{ error }

func (e *noLink) Unwrap() error { return e.error }

// openName adds to f what makes the writer's name an empty file by itself.
func (w *writer) openName(f *flight, perm attrs) (held func() error) {
	guard := f.add(openFrame(w.s.path(w.name), openWrite|openCreate|openExcl, perm))
	guard.late = w.undoLate(w.name, true)
	return func() (err error) {
		w.guard, err = guard.reply.handle()
		w.fresh = err == nil
		return err
	}
}

// holdWithoutLink is for a name that seemed to be free and was refused as a link: some file systems have none, and are not
// asked for one again. That is noted before anything else: should this answer be lost, no claim proves anything.
func (w *writer) holdWithoutLink(ctx context.Context, perm attrs) error {
	w.b.linkless.Store(true)
	f := w.m.flight()
	held := w.openName(f, perm)
	f.send(urgent)
	f.wait(ctx)
	err := held()
	if err != nil && !lostReply(err) {
		w.b.linkless.Store(false) // somebody was faster, or nothing at all can be made there
	}
	return err
}

// removeSoon closes a handle, if it is not "", and removes a name with the next flight.
func (w *writer) removeSoon(handle, name string) {
	f := w.m.flight()
	if handle != "" {
		f.add(pathFrame(typeClose, handle))
	}
	f.add(pathFrame(typeRemove, w.s.path(name))).over = func(r reply) {
		if failed(r.status(), statusPermissionDenied, statusUnsupported) {
			w.b.lasting.Store(true) // so that no further one stays
		}
	}
	f.sendLazily()
}

// lostReply reports whether err says that there is no answer.
func lostReply(err error) bool { _, ok := errors.AsType[*fault](err); return ok }

// undoLate takes back an opening that succeeded when nobody waited for it any more.
func (w *writer) undoLate(name string, made bool) func(reply) {
	return func(r reply) {
		handle, err := r.handle()
		if err != nil {
			return
		}
		f := w.m.flight()
		f.add(pathFrame(typeClose, handle))
		if made {
			f.add(pathFrame(typeRemove, w.s.path(name)))
		}
		f.sendLazily()
	}
}

// Update opens an existing file to change it in place.
func (b *Backend) Update(ctx context.Context, name string) (backends.Writer, error) {
	var w *writer
	err := b.do(ctx, "update", name, func(s *session) error {
		m := s.channel()
		w = &writer{b: b, s: s, way: way{m: m}, name: name, turn: make(chan struct{}, 1)}
		opened := false
		defer func() {
			if !opened {
				m.files.Add(-1)
			}
		}()
		f := m.flight()
		real, stat := f.add(pathFrame(typeRealpath, s.path(name))), f.add(pathFrame(typeStat, s.path(name)))
		open := f.add(openFrame(s.path(name), openWrite, attrs{}))
		open.late = w.undoLate(name, false)
		beside := touching(ctx).also(name)
		beside.ask(s, f)
		f.send(urgent)
		f.wait(ctx)
		var err error
		w.handle, err = open.reply.handle()
		info, unknown := stat.reply.info("")
		if unknown == nil && info.IsDir() {
			err = refuse(syscall.EISDIR, "it is a directory")
		} else if err != nil {
			return s.whyChange(ctx, name, -1, s.whyPath(ctx, name, err))
		} else {
			err = s.confined(real.reply)
		}
		if err != nil && w.handle != "" {
			m.closeSoon(w.handle)
		}
		if opened = err == nil; opened {
			beside.answered()
		}
		w.ways.first = w.way
		w.turn <- struct{}{}
		return err
	})
	if err != nil {
		return nil, err
	}
	return w, nil
}

// place is the name that the bytes are written to.
func (w *writer) place() string {
	if w.temp != "" {
		return w.temp
	}
	return w.name
}

// begin takes the turn for one call; the func that it returns gives it back.
func (w *writer) begin(ctx context.Context) (giveBack func(), err error) {
	select {
	case <-w.turn:
	case <-ctx.Done():
		return nil, &fault{err: context.Cause(ctx)}
	}
	giveBack = func() { w.turn <- struct{}{} }
	if w.end {
		giveBack()
		return nil, refuse(syscall.EBADF, "%w", os.ErrClosed)
	}
	return giveBack, nil
}

// failed is the error that the writer has met; nil while all is well.
func (w *writer) failed() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.failure
}

func (w *writer) fail(err error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failure == nil {
		w.failure = err
	}
	return w.failure
}

// WriteAt copies p into packets. It waits only when so much is on its way that p must wait for its turn.
func (w *writer) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	giveBack, err := w.begin(ctx)
	if err != nil {
		return 0, seam("writeat", w.name, err)
	}
	defer giveBack()
	if off < 0 || off > math.MaxInt64-int64(len(p)) {
		return 0, seam("writeat", w.name, refuse(syscall.EFBIG, "offset %d", off))
	}
	n := 0
	for n < len(p) {
		if err := w.failed(); err != nil {
			return n, w.told("writeat", w.whyWrite(ctx, err))
		}
		took, err := w.hold(ctx, p[n:], off+int64(n))
		n += took
		if err != nil {
			return n, w.told("writeat", err)
		}
	}
	if w.size += int64(n); w.size >= busy && w.m == w.s.meta {
		w.s.widen(1)
	}
	return n, nil
}

// told dresses err, which leaves what the name holds untouched if it is written to a temporary name: no answer then
// means that nothing happened.
func (w *writer) told(op string, err error) error {
	e := seam(op, w.name, err)
	if failure, ok := e.(*backends.Error); ok && w.temp != "" && failure.Class == backends.Lost {
		failure.Class = backends.Transient
	}
	return e
}

// hold copies as much of p as the packet being filled can take, and sends it when it is full.
func (w *writer) hold(ctx context.Context, p []byte, off int64) (int, error) {
	head := writeHeader(w.handle)
	if w.held != nil && off != w.at+int64(len(w.held)-head) {
		if err := w.ship(ctx); err != nil {
			return 0, err
		}
	}
	if w.held == nil {
		if off < w.top.Load() {
			w.doubt()
		}
		w.held, w.at = w.packet(off, len(p)), off
	}
	n := min(len(p), head+w.s.maxWrite-len(w.held))
	w.held = append(w.held, p[:n]...)
	if len(w.held)-head >= w.s.maxWrite {
		return n, w.ship(ctx)
	}
	return n, nil
}

// packet begins a WRITE. Whoever writes much at once gets a buffer for a full packet; small content grows as it comes.
func (w *writer) packet(off int64, n int) frame {
	if n < pooled && w.size == 0 {
		return writeFrame(w.handle, off, n)
	}
	f := *frames.Get().(*frame)
	if head := writeHeader(w.handle); cap(f) < head+w.s.maxWrite {
		f = make(frame, 0, head+w.s.maxWrite)
	}
	return append(f[:0], writeFrame(w.handle, off, 0)...)
}

// ship sends the packet being filled, when so much may be on its way: by the way with the least to do as long as the content is
// written onward, else by the first, behind all that was sent before.
func (w *writer) ship(ctx context.Context) error {
	if w.held == nil {
		return nil
	}
	end := w.at + int64(len(w.held)-writeHeader(w.handle))
	if !w.single && w.at < w.top.Load() {
		if err := w.oneByOne(ctx); err != nil {
			return err
		}
	}
	if err := w.repair(ctx); err != nil {
		return err
	}
	p := &packet{frame: w.held.sealWrite(w.handle), by: w.way, off: w.at}
	by, err := w.room(ctx, int64(len(p.frame)), w.single)
	if err != nil {
		return err
	}
	w.held = nil
	w.top.Store(max(w.top.Load(), end))
	f := by.m.flight()
	w.load(f, p, by)
	f.send(bulk)
	w.secure()
	if by.m.load() > crowded && w.made.Known != 0 && !w.single && w.ways.mayWiden(w.s) {
		w.b.background(w.widen)
	}
	return nil
}

// room waits until n bytes may be sent by some way, or by the first.
func (w *writer) room(ctx context.Context, n int64, first bool) (way, error) {
	if !first {
		return w.ways.take(ctx, w.s, n, writes)
	}
	return w.s.queue.wait(ctx, func() (way, bool) { return w.way, w.m.writes.take(n) || w.m.dead() })
}

// load adds p to a flight on the channel of by, whose budget it was taken of. Its frame is kept until the server has answered: a
// further way may die with it.
func (w *writer) load(f *flight, p *packet, by way) {
	p.frame, p.by = p.frame.readdress(p.by.handle, by.handle), by
	n := int64(len(p.frame))
	end := p.off + n - int64(writeHeader(by.handle))
	further := by != w.way // which Abort changes while WRITEs are unanswered
	p.call = f.add(p.frame)
	p.kept = new(atomic.Int32)
	p.kept.Store(2)
	p.over = func(r reply) {
		w.s.give(&by.m.writes, n)
		err := r.status()
		if err != nil && further {
			w.mu.Lock()
			p.missed = true
			w.missed = append(w.missed, p)
			w.mu.Unlock()
			return
		}
		if err != nil {
			w.fail(err)
		} else {
			w.answered(p.off, end)
		}
		p.written(p.frame)
	}
	w.sent = append(w.unanswered(), p)
}

// repair sends anew, by the first way, what went wrong on a further one, which is not used any more.
func (w *writer) repair(ctx context.Context) error {
	w.mu.Lock()
	missed := w.missed
	w.missed = nil
	w.mu.Unlock()
	for _, p := range missed {
		w.torn = true
		w.ways.lose(p.by)
		// The mux may still be writing the frame, and changes its id.
		again := &packet{frame: slices.Clone(p.frame), by: p.by, off: p.off}
		if _, err := w.room(ctx, int64(len(again.frame)), true); err != nil {
			return err
		}
		f := w.m.flight()
		w.load(f, again, w.way)
		f.send(bulk)
	}
	return nil
}

// oneByOne makes the first way the only one, for a content that is not written onward.
func (w *writer) oneByOne(ctx context.Context) error {
	w.single = true
	if w.ways.count() == 0 && !w.torn {
		return nil
	}
	if err := w.settle(ctx); err != nil {
		return err
	}
	if w.torn {
		return w.fail(&fault{sent: true, err: errHungUp}) // an old WRITE might still come after a new one
	}
	return nil
}

// unanswered forgets the WRITEs at the front that are answered.
func (w *writer) unanswered() []*packet {
	for len(w.sent) > 0 {
		select {
		case <-w.sent[0].done:
			w.sent = w.sent[1:]
		default:
			return w.sent
		}
	}
	return nil
}

// settle waits until the server has answered for all WRITEs.
func (w *writer) settle(ctx context.Context) error {
	for {
		for _, p := range w.sent {
			err := p.wait(ctx).err
			w.mu.Lock()
			missed := p.missed
			w.mu.Unlock()
			if err != nil && !missed {
				return w.fail(err)
			}
		}
		w.sent = nil
		if err := w.failed(); err != nil {
			return err
		}
		if err := w.repair(ctx); err != nil {
			return err
		}
		if len(w.sent) == 0 {
			return nil
		}
	}
}

// last adds the packet being filled, if there is one, to f, a flight of the first way.
func (w *writer) last(ctx context.Context, f *flight) error {
	if w.held == nil {
		return nil
	}
	p := &packet{frame: w.held.sealWrite(w.handle), by: w.way, off: w.at}
	if _, err := w.room(ctx, int64(len(p.frame)), true); err != nil {
		return err
	}
	w.held = nil
	w.top.Store(max(w.top.Load(), p.off+int64(len(p.frame)-writeHeader(w.handle))))
	w.load(f, p, w.way)
	return nil
}

// gather brings the content back to the first way: all WRITEs are answered and the further handles closed when it returns. A handle is
// closed behind its WRITEs, in the same flight: what was refused is sent anew by the first way.
func (w *writer) gather(ctx context.Context) error {
	w.parted = append(w.parted, w.ways.close()...)
	if len(w.parted) == 0 && !w.torn {
		return nil
	}
	if err := w.ship(ctx); err != nil {
		return err
	}
	closed := w.part()
	if err := w.settle(ctx); err != nil {
		return err
	}
	var refused error
	for _, c := range closed { // all are waited for, also when one is refused
		if err := c.wait(ctx).status(); err != nil && !lostReply(err) { // a handle whose channel is gone is closed
			refused = fmt.Errorf("close: %w", err)
		}
	}
	return refused
}

// part sends the CLOSE of every further way that is still open, each on its own channel, and returns those of all that there were.
func (w *writer) part() (closed []*call) {
	for _, by := range append(w.parted, w.ways.close()...) {
		f := by.m.flight()
		w.closed = append(w.closed, f.add(pathFrame(typeClose, by.handle)))
		f.send(bulk)
	}
	w.parted = nil
	return w.closed
}

// widen looks for further ways to the file at place. It is ours, and nothing is written by a handle that may be of another.
func (w *writer) widen() {
	defer w.ways.rest()
	ctx, cancel := context.WithTimeout(w.b.ctx, w.s.o.SocketTimeout)
	defer cancel()
	is := w.made
	if !is.Known.Has(backends.HasSize|backends.HasModTime) || is.Size != 0 {
		return
	}
	w.ways.widen(ctx, w.s, func(ctx context.Context, m *mux) (string, error) {
		same := func(other backends.Info) bool {
			return other.Known == is.Known && other.Mode == is.Mode && other.UID == is.UID && other.GID == is.GID &&
				other.Size <= w.top.Load() && !other.ModTime.Before(is.ModTime)
		}
		handle, err := openAgain(ctx, m, w.s.path(w.place()), openWrite, typeLstat, same)
		if err == nil {
			err = surely(ctx, m, handle, same)
		}
		return handle, err
	})
}

// whyWrite says more of a refused WRITE.
func (w *writer) whyWrite(ctx context.Context, err error) error {
	if c, ok := errors.AsType[*coded](err); ok {
		return c
	}
	err = w.s.whyChange(ctx, w.place(), w.s.maxWrite, w.s.whyHandle(err))
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failure = err
	return err
}

// Truncate sets the size of what is written.
func (w *writer) Truncate(ctx context.Context, size int64) error {
	w.doubt()
	return w.flush(ctx, "truncate", func(f *flight) {
		f.add(newFrame(typeFsetstat, 32).text(w.handle).attrs(attrs{flags: attrSize, size: uint64(size)}))
	})
}

// Sync returns when the server has all that was written, on its disk if it knows the word for that.
func (w *writer) Sync(ctx context.Context) error {
	return w.flush(ctx, "sync", func(f *flight) {
		if w.m.offers(extFsync) {
			f.add(extendedFrame(extFsync, w.handle))
		}
	})
}

// flush sends what is held and what add adds, in one flight, and waits for everything.
func (w *writer) flush(ctx context.Context, op string, add func(*flight)) error {
	giveBack, err := w.begin(ctx)
	if err != nil {
		return seam(op, w.name, err)
	}
	defer giveBack()
	if w.ways.count() > 0 || w.torn {
		// What went by other ways must be there before what follows.
		if err := w.ship(ctx); err != nil {
			return w.told(op, err)
		}
		if err := w.settle(ctx); err != nil {
			return w.told(op, w.whyWrite(ctx, err))
		}
	}
	f := w.m.flight()
	if err := w.last(ctx, f); err != nil {
		return w.told(op, err)
	}
	loaded := len(f.calls)
	add(f)
	f.send(bulk)
	f.wait(ctx)
	if err := w.settle(ctx); err != nil {
		return w.told(op, w.whyWrite(ctx, err))
	}
	for _, c := range f.calls[loaded:] {
		if err := c.reply.status(); err != nil {
			w.fail(err)
			return w.told(op, w.whyWrite(ctx, err))
		}
	}
	return nil
}

// Commit makes the content final: one flight with what is still held, the attributes, the syncing, the closing and the
// question for the size; and when all of that went well, another with the renaming and the question what there is now.
func (w *writer) Commit(ctx context.Context, c backends.Commit) (backends.Info, error) {
	giveBack, err := w.begin(ctx)
	if err != nil {
		return backends.Info{}, seam("commit", w.name, err)
	}
	w.end = true
	defer giveBack()
	defer w.m.files.Add(-1)
	info, err := w.complete(ctx, c)
	if err != nil {
		if !lostReply(err) {
			w.doubt()
		}
		w.cleanUp(ctx)
		return backends.Info{}, w.told("commit", err)
	}
	if made := w.temp != "" || w.fresh; made && c.Attr.UID == nil && c.Attr.GID == nil {
		w.b.learnOwner(info)
	}
	if w.temp == "" {
		return info, nil
	}
	info, err = w.publish(ctx, info)
	err = seam("commit", w.name, err)
	if err != nil && backends.ClassOf(err) != backends.Lost {
		w.cleanUp(ctx)
	}
	return info, err
}

// complete sends what is missing and returns what the server says of the complete content, which is still under the name
// it was written to.
func (w *writer) complete(ctx context.Context, c backends.Commit) (backends.Info, error) {
	sets, err := w.attributes(ctx, c.Attr)
	if err != nil {
		return backends.Info{}, err
	}
	if err := w.gather(ctx); err != nil {
		return backends.Info{}, w.whyWrite(ctx, err)
	}
	f := w.m.flight()
	if err := w.last(ctx, f); err != nil {
		return backends.Info{}, err
	}
	for _, a := range sets {
		// What the server cannot set is passed over: the caller sees what it has.
		f.add(newFrame(typeFsetstat, 64).text(w.handle).attrs(a))
	}
	var sync *call
	if w.m.offers(extFsync) {
		sync = f.add(extendedFrame(extFsync, w.handle))
	}
	closed := f.add(pathFrame(typeClose, w.handle))
	if w.guard != "" {
		f.add(pathFrame(typeClose, w.guard))
	}
	stat := f.add(pathFrame(typeLstat, w.s.path(w.place())))
	var there *call
	verifies := w.verifies(c)
	if c.Before != nil && w.temp != "" && !verifies {
		there = f.add(pathFrame(typeLstat, w.s.path(w.name)))
	}
	w.handle, w.guard = "", ""
	f.send(bulk)
	f.wait(ctx)
	if err := w.settle(ctx); err != nil {
		return backends.Info{}, w.whyWrite(ctx, err)
	}
	if sync != nil {
		if err := sync.reply.status(); err != nil && !failed(err, statusUnsupported) {
			return backends.Info{}, w.whyWrite(ctx, fmt.Errorf("sync: %w", err))
		}
	}
	if err := closed.reply.status(); err != nil {
		return backends.Info{}, w.whyWrite(ctx, fmt.Errorf("close: %w", err))
	}
	info, err := stat.reply.info(base(w.name))
	switch {
	case failed(err, statusNoSuchFile):
		return info, refuse(syscall.EIO, "the server has lost what was written to %q: %w", w.place(), err)
	case err != nil:
		return info, err
	case !info.Known.Has(backends.HasSize):
		return info, refuse(syscall.EIO, "the server does not tell the size of what was written")
	case info.Size != c.Size && w.b.o.Verify == "off": // what else the server tells is of what it has made of the content
		info = backends.Info{Name: info.Name, Mode: info.Mode, Size: c.Size, Known: info.Known & (backends.HasType | backends.HasPerm | backends.HasSize)}
	case info.Size != c.Size:
		return info, mismatch("the server has %d bytes of %d", info.Size, c.Size)
	}
	if verifies {
		if err := w.verify(ctx, c); err != nil {
			return info, err
		}
		if c.Before != nil && w.temp != "" { // that may have taken its time
			f := w.m.flight()
			there = f.add(pathFrame(typeLstat, w.s.path(w.name)))
			f.send(bulk)
			f.wait(ctx)
		}
	}
	return info, w.mayReplace(there, c.Before)
}

// mayReplace asks before, which may be nil, whether what the name holds may be replaced, of which the server says there.
func (w *writer) mayReplace(there *call, before func(backends.Info, error) error) error {
	if there == nil {
		return nil
	}
	info, err := there.reply.info(base(w.name))
	if lostReply(err) {
		return err
	}
	return before(info, seam("stat", w.name, err))
}

// attributes returns what to set on the open file, the owner first: a change of owner clears set-user-id bits (chown(2)).
func (w *writer) attributes(ctx context.Context, attr backends.Attr) ([]attrs, error) {
	if attr.Empty() {
		return nil, nil
	}
	var now backends.Info
	if partial(attr) {
		var err error
		f := w.m.flight()
		c := f.add(pathFrame(typeFstat, w.handle))
		f.send(bulk)
		if now, err = c.wait(ctx).info(""); err != nil {
			return nil, w.s.whyHandle(err)
		}
	}
	return wireAttrs(attr, now)
}

// publish renames the complete content, of which the server has told info, to its name, and returns what it then tells of
// that. The server's consent is not enough: in the same flight it must show the content under its name and the temporary
// name gone, for whoever believes a renaming that never was throws his own copy away.
func (w *writer) publish(ctx context.Context, info backends.Info) (backends.Info, error) {
	w.doubt()
	var there, left *call
	beside := touching(ctx, w.name)
	err := w.s.replace(ctx, w.m, w.temp, w.name, func(f *flight) {
		there = f.add(pathFrame(typeLstat, w.s.path(w.name)))
		left = f.add(pathFrame(typeLstat, w.s.path(w.temp)))
		beside.ask(w.s, f)
	})
	if err != nil {
		return backends.Info{}, weaken(seam("commit", w.name, err), true, backends.CauseRename)
	}
	now, absent := there.reply.info(base(w.name))
	_, gone := left.reply.info("")
	switch {
	case gone == nil:
		return backends.Info{}, refuse(syscall.EIO, "the server says that it has renamed %q to %q, and it has not", w.temp, w.name)
	case lostReply(gone):
		return backends.Info{}, gone
	case lostReply(absent):
		return backends.Info{}, absent
	case absent == nil && now.Size == info.Size && now.Mode.IsRegular():
		beside.answered()
		return now, nil
	case absent == nil && now.Mode.IsRegular() && w.b.o.Verify == "off":
		return info, nil
	case failed(absent, statusNoSuchFile) && failed(gone, statusNoSuchFile):
		return info, nil // who waited for the file on the server has taken it already
	}
	return backends.Info{}, &backends.Error{Code: syscall.EIO, Class: backends.Lost,
		Err: fmt.Errorf("the server has renamed %q to %q, and then does not show it with its %d bytes", w.temp, w.name, info.Size)}
}

// discard takes back what create has opened, without waiting.
func (w *writer) discard(context.Context) {
	f := w.m.flight()
	w.addDiscard(f)
	if len(f.calls) > 0 {
		f.sendLazily()
	}
}

// addDiscard adds what closes and removes everything that was made.
func (w *writer) addDiscard(f *flight) {
	opened := w.handle != ""
	for _, handle := range []string{w.handle, w.guard} {
		if handle != "" {
			f.add(pathFrame(typeClose, handle))
		}
	}
	if w.temp != "" && (opened || w.end) {
		f.add(pathFrame(typeRemove, w.s.path(w.temp)))
	}
	w.handle, w.guard = "", ""
}

// throwAway removes what was written, as far as the server listens, within the timeout; the error is that of a removal
// without an answer. When it returns every handle is closed, those on further channels and those that were just being opened
// included: each would keep the space on the server's disk, and the next content would be refused for want of it while the
// question for the reason, asked later, finds room. The empty file that stood in for an exclusive content goes only if it is still empty: somebody else may
// have put his own in its place.
func (w *writer) throwAway() error {
	if w.held != nil {
		recycle(w.held)
		w.held = nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), w.s.o.SocketTimeout)
	defer cancel()
	f := w.m.flight()
	w.addDiscard(f)
	var guard *call
	if w.fresh {
		guard = f.add(pathFrame(typeLstat, w.s.path(w.name)))
	}
	f.send(bulk)
	for _, c := range w.part() {
		c.wait(ctx)
	}
	w.ways.wait(ctx, w.s)
	f.wait(ctx)
	var unheard error
	for _, c := range f.calls {
		if lostReply(c.reply.err) {
			unheard = c.reply.err
		}
	}
	if guard == nil {
		return unheard
	}
	if info, err := guard.reply.info(""); err == nil && (info.Size == 0 || w.temp == "") && info.Mode.IsRegular() {
		err := w.s.ask(ctx, pathFrame(typeRemove, w.s.path(w.name))).status()
		if lostReply(err) {
			unheard = err
		}
	}
	return unheard
}

// cleanUp is throwAway for a caller who may not have the time for it: once his context has ended it goes on without him.
func (w *writer) cleanUp(ctx context.Context) {
	throwAway := func() { _ = w.throwAway() } // the caller is told of a failure as it is, and looks for what is left himself
	if ctx.Err() == nil {
		throwAway()
		return
	}
	w.b.background(throwAway)
}

// Abort throws away what was written. Its error says that the server did not answer, so that a part of it may be left.
func (w *writer) Abort() error {
	giveBack, err := w.begin(context.Background())
	if err != nil {
		return nil // ended already
	}
	defer giveBack()
	defer w.m.files.Add(-1)
	w.end = true
	return seam("abort", w.place(), w.throwAway())
}

// partial reports whether the server must be told more than attr says: version 3 sets both times or none, and both
// owners.
func partial(attr backends.Attr) bool {
	return (attr.UID == nil) != (attr.GID == nil) || (attr.ModTime == nil) != (attr.AccTime == nil)
}

// wireAttrs turns attr into what is sent, in the order in which it must be set; what attr leaves out of a pair is taken
// from now.
func wireAttrs(attr backends.Attr, now backends.Info) (sets []attrs, err error) {
	if attr.Size != nil {
		if *attr.Size < 0 {
			return nil, refuse(syscall.EINVAL, "size %d", *attr.Size)
		}
		sets = append(sets, attrs{flags: attrSize, size: uint64(*attr.Size)})
	}
	if attr.UID != nil || attr.GID != nil {
		if partial(backends.Attr{UID: attr.UID, GID: attr.GID}) && !now.Known.Has(backends.HasOwner) {
			return nil, refuse(syscall.EOPNOTSUPP, "the server does not tell the owner")
		}
		sets = append(sets, attrs{flags: attrOwner, uid: either(attr.UID, now.UID), gid: either(attr.GID, now.GID)})
	}
	rest := attrs{}
	if attr.Perm != nil {
		rest.flags |= attrPerm
		rest.perm = permBits(*attr.Perm)
	}
	if attr.ModTime != nil || attr.AccTime != nil {
		rest.flags |= attrTimes
		if rest.mtime, err = seconds(either(attr.ModTime, now.ModTime)); err != nil {
			return nil, err
		}
		if rest.atime, err = seconds(either(attr.AccTime, now.AccTime)); err != nil {
			return nil, err
		}
	}
	if rest.flags != 0 {
		sets = append(sets, rest)
	}
	return sets, nil
}

func either[T any](wanted *T, now T) T {
	if wanted != nil {
		return *wanted
	}
	return now
}

// seconds is t as version 3 carries it. Outside 1970 to 2106 it cannot, and servers would take something else for it
// (2200 became 2063, measured), so that this is EINVAL; Caps tells the bounds.
func seconds(t time.Time) (uint32, error) {
	s := t.Unix()
	if s < 0 || s > math.MaxUint32 {
		return 0, refuse(syscall.EINVAL, "SFTP version 3 has no word for the time %s", t.UTC().Format(time.RFC3339))
	}
	return uint32(s), nil
}
