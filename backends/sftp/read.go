package sftp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"pierfs/backends"
)

// maxFlight is how much one ReadAt has on order at a time; about what a server's window lets through in a round trip.
const maxFlight = 2 << 20

// reader is an open file. It belongs to one session and dies with it.
type reader struct {
	b     *Backend
	s     *session
	way   // by which it was opened
	name  string
	ways  ways
	moved atomic.Int64

	mu     sync.Mutex
	spent  bool // the server has been told to close it
	closed bool
	opened *backends.Info // what was opened, until somebody asks for it; nil if that is not known for certain
	was    *backends.Info // the same, for good
	asked  time.Time      // when the server told opened
}

// openedFor is how long what was opened is an answer to how the open file is.
const openedFor = time.Second

// Open opens name in one round trip. Beside the opening itself the server is asked where the name leads and what is there: a
// directory can be opened like a file (OpenSSH), and a link may lead out of the working directory. What is there is asked
// before and, without following a link, after it: if both answers are the same, that is what was opened, and the first Stat
// of it costs nothing.
func (b *Backend) Open(ctx context.Context, name string) (backends.Reader, error) {
	var r *reader
	err := b.do(ctx, "open", name, func(s *session) error {
		if b.specials.has(name) {
			info, err := s.ask(ctx, pathFrame(typeStat, s.path(name))).info("")
			if err == nil && special(info) {
				return refuse(syscall.ENXIO, "it is %v, neither file nor directory", info.Mode.Type())
			}
		}
		var err error
		r, err = b.open(ctx, s, name)
		return err
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

func (b *Backend) open(ctx context.Context, s *session, name string) (*reader, error) {
	s.expect(backends.SizeTold(ctx))
	m, path := s.channel(), s.path(name)
	opened := false
	defer func() {
		if !opened {
			m.files.Add(-1)
		}
	}()
	f := m.flight()
	real, stat := f.add(pathFrame(typeRealpath, path)), f.add(pathFrame(typeStat, path))
	open := f.add(openFrame(path, openRead, attrs{}))
	open.late = func(r reply) {
		if handle, err := r.handle(); err == nil {
			m.closeSoon(handle)
		}
	}
	again := f.add(pathFrame(typeLstat, path))
	asked := time.Now()
	f.send(urgent)
	f.wait(ctx)
	handle, err := open.reply.handle()
	if err == nil {
		s.tripped(asked)
	}
	info, unknown := stat.reply.info(base(name))
	var wrong error
	switch {
	case unknown == nil && info.IsDir():
		wrong = as(syscall.EISDIR, errors.New("it is a directory"))
	case unknown == nil && special(info):
		b.specials.note(name)
		wrong = refuse(syscall.ENXIO, "it is %v, neither file nor directory", info.Mode.Type())
	case vague(err) && lostReply(unknown):
		return nil, unexplained(err, unknown)
	case err != nil:
		return nil, s.whyPath(ctx, name, err)
	default:
		wrong = s.confined(real.reply)
	}
	if wrong != nil {
		if err == nil {
			m.closeSoon(handle)
		}
		return nil, wrong
	}
	opened = true
	r := &reader{b: b, s: s, way: way{m, handle}, name: name, asked: asked}
	r.ways.first = r.way
	if unknown == nil {
		s.expect(info.Size)
	}
	if after, vanished := again.reply.info(base(name)); unknown == nil && vanished == nil && after.SameVersion(info) {
		r.opened, r.was = &after, &after
	}
	return r, nil
}

// use returns an error if r is closed; last says that nothing is asked of the server after this.
func (r *reader) use(last bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.spent || r.closed {
		return refuse(syscall.EBADF, "%w", os.ErrClosed)
	}
	r.spent = last
	return nil
}

// ReadAt reads p whole, in packets that are on their way together. A short packet is asked again from where it ended.
func (r *reader) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := r.use(false); err != nil {
		return 0, seam("readat", r.name, err)
	}
	if off < 0 {
		return 0, seam("readat", r.name, refuse(syscall.EINVAL, "offset %d", off))
	}
	done := 0
	for {
		part := p[done:min(len(p), done+maxFlight)]
		n, err := r.fetchAny(ctx, part, off+int64(done))
		done += n
		if err == nil && done < len(p) {
			continue
		}
		r.grown(done)
		if err == io.EOF {
			return done, io.EOF
		}
		return done, seam("readat", r.name, err)
	}
}

// grown counts what the file has moved, and asks for channels beside the first one when that is much.
func (r *reader) grown(n int) {
	if r.moved.Add(int64(n)) >= busy && r.m == r.s.meta {
		r.s.widen(1)
	}
}

// fetchAny reads p, which is at most maxFlight long, by the way with the least to do. What a further way cannot do another does.
func (r *reader) fetchAny(ctx context.Context, p []byte, off int64) (n int, err error) {
	for {
		by, err := r.ways.take(ctx, r.s, int64(len(p)-n), reads)
		if err != nil {
			return n, err
		}
		if by.m.load() > crowded && r.ways.mayWiden(r.s) {
			r.b.background(r.widen)
		}
		got, _, err := r.fetch(ctx, by, p[n:], off+int64(n), false)
		n += got
		if err == nil || err == io.EOF || ctx.Err() != nil || !r.ways.lose(by) {
			return n, err
		}
	}
}

// widen looks for further ways to the file. What it is is asked only if that was not told lately: the answer would come behind
// the content that is on order.
func (r *reader) widen() {
	ctx, cancel := context.WithTimeout(r.b.ctx, r.s.o.SocketTimeout)
	defer cancel()
	defer r.ways.rest()
	var is backends.Info
	if r.was != nil && time.Since(r.asked) < openedFor {
		is = *r.was
	} else {
		var err error
		if is, err = r.stat(ctx); err != nil {
			return // who reads will meet the same, and tell
		}
	}
	r.ways.widen(ctx, r.s, func(ctx context.Context, m *mux) (string, error) {
		return openAgain(ctx, m, r.s.path(r.name), openRead, typeStat, func(other backends.Info) bool { return sameFile(is, other) })
	})
}

// ReadLast reads p, the state of the file and closes it, in one flight.
func (r *reader) ReadLast(ctx context.Context, p []byte, off int64) (int, backends.Info, error) {
	if off < 0 || len(p) > maxFlight {
		return r.readLastSlowly(ctx, p, off)
	}
	if err := r.use(true); err != nil {
		return 0, backends.Info{}, seam("readlast", r.name, err)
	}
	if err := r.reserve(ctx, r.way, len(p)); err != nil {
		return 0, backends.Info{}, seam("readlast", r.name, err)
	}
	n, info, err := r.fetch(ctx, r.way, p, off, true)
	if errors.Is(err, errShort) {
		n, info, err = r.reread(ctx, p, off, n, info)
	}
	if err == io.EOF {
		return n, info, io.EOF
	}
	return n, info, seam("readlast", r.name, err)
}

// readLastSlowly is for more than fits in one flight.
func (r *reader) readLastSlowly(ctx context.Context, p []byte, off int64) (int, backends.Info, error) {
	n, err := r.ReadAt(ctx, p, off)
	if err != nil && err != io.EOF {
		return n, backends.Info{}, err
	}
	info, failure := r.Stat(ctx)
	if failure != nil {
		return n, info, failure
	}
	r.Close()
	return n, info, err
}

// errShort is a last read whose server gave less than it was asked for, though the file has more. The handle is gone.
var errShort = errors.New("the server cut a read short")

// reread opens the file anew to read on after n bytes, and takes no other version of it for the same.
func (r *reader) reread(ctx context.Context, p []byte, off int64, n int, was backends.Info) (int, backends.Info, error) {
	again, err := r.b.open(ctx, r.s, r.name)
	if err != nil {
		return n, was, err
	}
	defer again.Close()
	is, err := again.stat(ctx)
	if err != nil {
		return n, was, err
	}
	if !is.SameVersion(was) {
		return n, is, refuse(syscall.ESTALE, "it changed while it was read")
	}
	more, err := again.rest(ctx, again.way, p[n:], off+int64(n))
	return n + more, is, err
}

// fetch reads p, which is at most maxFlight long, by one way, in one flight and what flights short replies make necessary.
// With last the flight ends with FSTAT and CLOSE, and then there are no others: errShort tells that one would be needed.
func (r *reader) fetch(ctx context.Context, by way, p []byte, off int64, last bool) (n int, info backends.Info, err error) {
	f := r.order(by, p, off)
	reads := f.calls
	var stat *call
	if last {
		stat = f.add(pathFrame(typeFstat, by.handle))
		f.add(pathFrame(typeClose, by.handle))
	}
	f.send(urgent)
	f.wait(ctx)
	if last {
		if info, err = stat.reply.info(base(r.name)); err != nil {
			return 0, info, r.s.whyHandle(err)
		}
	}
	for _, c := range reads {
		got, err := c.bytes()
		n += got
		if err != nil {
			return n, info, r.whyRead(ctx, err, last)
		}
		if got == c.want {
			continue
		}
		if last {
			if info.Known.Has(backends.HasSize) && off+int64(n) >= info.Size {
				return n, info, io.EOF
			}
			return n, info, errShort
		}
		got, err = r.rest(ctx, by, p[n:n+c.want-got], off+int64(n))
		n += got
		if err != nil {
			return n, info, err
		}
	}
	return n, info, nil
}

// reserve waits until n bytes may be ordered by one way.
func (r *reader) reserve(ctx context.Context, by way, n int) error {
	_, err := r.s.queue.wait(ctx, func() (way, bool) { return by, by.m.reads.take(int64(n)) || by.m.dead() })
	return err
}

// order makes a flight of READs for p, whose length was taken of the budget: as few as there may be, and about equally long.
func (r *reader) order(by way, p []byte, off int64) *flight {
	f := by.m.flight()
	size := even(len(p), r.s.maxRead)
	for at := 0; at < len(p); at += size {
		c := f.read(by.handle, off+int64(at), p[at:min(len(p), at+size)])
		c.over = func(reply) { r.s.give(&by.m.reads, int64(c.want)) }
	}
	return f
}

// even returns a length, of whole pages if that goes, by which n bytes are cut into no more parts than by most.
func even(n, most int) int {
	const page = 4 << 10
	parts := (n + most - 1) / most
	if parts < 2 {
		return most
	}
	size := (n + parts - 1) / parts
	return min((size+page-1)/page*page, most)
}

// rest asks for p again and again until it is there or the file ends.
func (r *reader) rest(ctx context.Context, by way, p []byte, off int64) (n int, err error) {
	floor := progress{timeout: r.s.o.SocketTimeout}
	for n < len(p) {
		asked := time.Now()
		if err := r.reserve(ctx, by, len(p)-n); err != nil {
			return n, err
		}
		f := r.order(by, p[n:], off+int64(n))
		// One at a time: only the first of several could be trusted to begin where the last has ended.
		f.send(urgent)
		f.wait(ctx)
		for _, c := range f.calls {
			got, err := c.bytes()
			n += got
			if err != nil {
				return n, r.whyRead(ctx, err, false)
			}
			if err := floor.add(got, time.Since(asked)); err != nil {
				return n, err
			}
			if got < c.want {
				break
			}
		}
	}
	return n, nil
}

// bytes is how many bytes a READ brought; io.EOF at the end of the file.
func (c *call) bytes() (int, error) {
	switch {
	case c.reply.err == nil && c.reply.kind == typeData && c.reply.n > 0, c.reply.kind == typeData && c.want == 0:
		return c.reply.n, nil
	case c.reply.err == nil && c.reply.kind == typeData:
		return 0, fmt.Errorf("%w: no bytes and no end", errMalformed)
	}
	err := c.reply.refusal()
	if failed(err, statusEOF) {
		return 0, io.EOF
	}
	return 0, err
}

// whyRead says more of a refused READ: OpenSSH opens directories and fails to read them.
func (r *reader) whyRead(ctx context.Context, err error, closed bool) error {
	if !vague(err) || closed {
		return r.s.whyHandle(err)
	}
	info, unknown := r.stat(ctx)
	if lost := unexplained(err, unknown); lost != nil {
		return lost
	}
	if unknown == nil && info.IsDir() {
		return as(syscall.EISDIR, err)
	}
	return err
}

func (r *reader) stat(ctx context.Context) (backends.Info, error) {
	f := r.m.flight()
	c := f.add(pathFrame(typeFstat, r.handle))
	f.send(urgent)
	info, err := c.wait(ctx).info(base(r.name))
	return info, r.s.whyHandle(err)
}

// Stat describes the open file.
func (r *reader) Stat(ctx context.Context) (backends.Info, error) {
	if err := r.use(false); err != nil {
		return backends.Info{}, seam("stat", r.name, err)
	}
	r.mu.Lock()
	opened := r.opened
	r.opened = nil
	r.mu.Unlock()
	if opened != nil && time.Since(r.asked) < openedFor {
		return *opened, nil
	}
	info, err := r.stat(ctx)
	return info, seam("stat", r.name, err)
}

// Close lets the handle go with whatever is sent next.
func (r *reader) Close() error {
	r.mu.Lock()
	closed, tell := r.closed, !r.spent
	r.closed = true
	r.mu.Unlock()
	if closed {
		return nil
	}
	for _, further := range r.ways.close() {
		further.m.closeSoon(further.handle)
	}
	r.m.files.Add(-1)
	if tell {
		r.m.closeSoon(r.handle)
	}
	return nil
}
