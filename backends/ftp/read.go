package ftp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"pierfs/backends"
	"pierfs/backends/ftp/listing"
	"pierfs/backends/ftp/wire"
	"pierfs/backends/netconn"
	"pierfs/backends/pool"
)

const (
	leastSkip = 256 << 10 // so much is read and dropped rather than beginning anew, whatever the line
	mostSkip  = 4 << 20   // and never more than this
	keepBack  = 256 << 10 // of what was read stays, for reads that come out of order
	keepSkip  = mostSkip  // of what was skipped stays: somebody is likely to come for it
	resumes   = 3         // times in a row that a transfer is begun again without having brought anything
	atOnce    = 32 << 10  // so much is read with the opening
)

// reader is an open file: one transfer that goes on as long as reads go on. One that breaks off is begun again, but a silent
// server is asked no second time here: no read lasts longer than a timeout after the last that was heard, so that those who
// repeat it know how much of their time is spent.
type reader struct {
	b     *Backend
	name  string
	turns turns // whoever has the turn may touch what follows

	version backends.Info // as the server told it in the flight that opened the file
	held    *lease        // of the transfer; nil if there is none
	down    *wire.Download
	pos     int64 // what down brings next
	window  window
	pace    pace
	closed  bool
	failed  error // what reading with the opening came to, if reading again would come to the same
}

// Open opens name: [SIZE, MDTM and MLST where there is one, RETR] leave in one write, so that the first bytes and what is said
// of the file come together.
func (b *Backend) Open(ctx context.Context, name string) (backends.Reader, error) {
	if err := b.check(ctx, "open", name); err != nil {
		return nil, err
	}
	if name == "" {
		return nil, seam("open", name, refuse(syscall.EISDIR, "it is the working directory"))
	}
	ctx, loosen := b.bind(ctx)
	defer loosen()
	r := &reader{b: b, name: name}
	if err := r.open(ctx, 0); err != nil {
		return nil, b.seam("open", name, err)
	}
	r.readSmall(ctx)
	r.park()
	return r, nil
}

// readSmall reads all of a small file with its opening, and gives the session back: parked until the first read, it would be taken
// away where others wait for one, and the transfer would have to be made again.
func (r *reader) readSmall(ctx context.Context) {
	size := r.version.Size
	if !r.version.Known.Has(backends.HasSize) || size == 0 || size > atOnce {
		return
	}
	n, err := r.read(ctx, make([]byte, size), 0)
	if err == nil && int64(n) == size {
		err = r.finish(ctx)
	}
	if err != nil && err != io.EOF && !isBroken(err) && ctx.Err() == nil {
		r.failed = err
	}
}

// open begins a transfer at off. The first decides which version is read; every other must be of the same. One that is said to be
// short may have the session that is kept for questions.
func (r *reader) open(ctx context.Context, off int64) error {
	kind := pool.Content
	if backends.WantsWhole(ctx) {
		kind = pool.Meta
	}
	for lively := 0; ; {
		held, err := r.b.take(ctx, kind, again)
		if err != nil {
			return err
		}
		began := time.Now()
		down, version, err := r.b.retrieve(ctx, held.Session(), r.name, off)
		if err != nil {
			if r.b.replaced(held, err, &lively) && ctx.Err() == nil {
				continue
			}
			return r.whyOpen(err)
		}
		r.pace.rtt = time.Since(began)
		r.held, r.down, r.pos = held, down, off
		if !held.Session().Features().Restart {
			r.pos = 0
		}
		switch {
		case r.version.Known == 0:
			r.version = version
		case !r.version.SameVersion(version):
			r.drop()
			return stale("it has changed since it was opened")
		}
		return nil
	}
}

// openBy is open with a deadline.
func (r *reader) openBy(ctx context.Context, off int64, by time.Time) error {
	within, cancel := context.WithDeadline(ctx, by)
	defer cancel()
	err := r.open(within, off)
	if err == nil || within.Err() == nil || ctx.Err() != nil || !isBroken(err) && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return &backends.Error{Op: "readat", Name: r.name, Code: syscall.ETIMEDOUT, Class: backends.Transient, Cause: backends.CauseSilent,
		Err: fmt.Errorf("no transfer within %v: %v", r.b.patience(), err)} // not wrapped: nobody else's time has ended
}

func stale(why string) error { return refuse(syscall.ESTALE, "%s", why) }

// whyOpen is what the refusal of a transfer means to a reader that had one before: the file is not there any more.
func (r *reader) whyOpen(err error) error {
	if c, ok := errors.AsType[*coded](err); ok && r.version.Known != 0 && c.code != syscall.ESTALE {
		return stale("it cannot be opened again: " + err.Error())
	}
	return err
}

// retrieve begins a transfer of name and tells what the server says of it.
func (b *Backend) retrieve(ctx context.Context, s *wire.Session, name string, off int64) (*wire.Download, backends.Info, error) {
	f := s.Features()
	if err := keeps(f, name); err != nil {
		return nil, backends.Info{}, err
	}
	if !f.Restart {
		off = 0
	}
	p := b.path(name)
	ask := []string{"SIZE " + p, "MDTM " + p}
	if f.MLST {
		ask = append(ask, "MLST "+p)
	}
	s.Prepend(ask...)
	down, err := s.Retrieve(ctx, p, off)
	if err != nil {
		return nil, backends.Info{}, b.why(ctx, s, name, err, syscall.ENOENT, file)
	}
	return down, versionOf(name, down.Before()), nil
}

// versionOf is what SIZE, MDTM and MLST say of a file that is being read, through a link if it is one.
func versionOf(name string, replies []wire.Reply) backends.Info {
	if len(replies) < 2 {
		return backends.Info{Name: base(name), Known: backends.HasType}
	}
	told := refine(backends.Info{Name: base(name), Known: backends.HasType}, replies[0], replies[1])
	if len(replies) > 2 && positive(replies[2]) {
		if e, err := listing.One(replies[2].Lines); err == nil && e.Mode.IsRegular() && e.Known.Has(backends.HasType|backends.HasSize) && !doubtful(e) {
			e.Name, e.TimeUnit = base(name), 0
			i := e.Info
			i.TimeUnit = 0
			return i
		}
	}
	return told
}

// ReadAt reads onward, or begins anew where that costs less.
func (r *reader) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	n, err := r.readAt(ctx, p, off)
	if err == io.EOF {
		return n, io.EOF
	}
	return n, r.b.seam("readat", r.name, err)
}

func (r *reader) readAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := r.b.check(ctx, "readat", r.name); err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, refuse(syscall.EINVAL, "offset %d", off)
	}
	ctx, loosen := r.b.bind(ctx)
	defer loosen()
	if err := r.turns.take(ctx, off); err != nil {
		return 0, err
	}
	defer func() { r.turns.give(r.pos) }()
	if r.closed {
		return 0, refuse(syscall.EBADF, "%w", os.ErrClosed)
	}
	if r.held != nil && !r.held.Unpark() {
		r.drop() // somebody else is waiting for the session
	}
	n, err := r.read(ctx, p, off)
	r.park()
	if backends.CauseOf(err) == backends.CauseSilent {
		r.turns.fail(err) // they have waited as long, and need not find out one after the other
	}
	return n, err
}

// patience is how long a read may wait for the server to begin a transfer.
func (b *Backend) patience() time.Duration { return max(b.o.ConnectTimeout, b.o.SocketTimeout) }

// read fills p.
func (r *reader) read(ctx context.Context, p []byte, off int64) (n int, err error) {
	if r.failed != nil {
		return 0, r.failed
	}
	heard := time.Now() // or began
	for failed, came := 0, 0; n < len(p); {
		if k := r.window.copy(p[n:], off+int64(n)); k > 0 {
			n += k
			continue
		}
		at, rest := off+int64(n), p[n:]
		if r.version.Known.Has(backends.HasSize) {
			if at >= r.version.Size {
				return n, r.finish(ctx)
			}
			rest = rest[:min(int64(len(rest)), r.version.Size-at)]
		}
		by := heard.Add(r.b.patience())
		k, err := r.fetch(ctx, rest, at, by)
		n += k
		switch {
		case k > 0:
			heard = time.Now()
			if came += k; came >= netconn.Floor {
				failed, came = 0, 0
			}
		case err == nil:
		case err == io.EOF:
			return n, io.EOF
		case !isBroken(err) || ctx.Err() != nil || failed == resumes, backends.CauseOf(err) == backends.CauseSilent, !time.Now().Before(by):
			return n, err
		default:
			failed, came = failed+1, 0
		}
	}
	return n, nil
}

// fetch reads some of p from the transfer, which is brought to off first; one must have begun by then. It may return 0, nil.
func (r *reader) fetch(ctx context.Context, p []byte, off int64, by time.Time) (int, error) {
	if r.held != nil && (off < r.pos || off-r.pos > r.pace.worthSkipping()) {
		r.drop()
	}
	if r.held == nil {
		if err := r.openBy(ctx, off, by); err != nil {
			return 0, err
		}
	}
	if off > r.pos {
		return 0, r.skip(ctx, off)
	}
	n, err := r.receive(ctx, p)
	if n > 0 {
		r.window.put(p[:n], r.pos-int64(n), keepBack)
		return n, nil
	}
	return 0, err
}

// skip reads on to off, and keeps what it passes.
func (r *reader) skip(ctx context.Context, off int64) error {
	p := make([]byte, min(off-r.pos, 128<<10))
	for r.pos < off {
		q := p[:min(int64(len(p)), off-r.pos)]
		n, err := r.receive(ctx, q)
		if n > 0 {
			r.window.put(q[:n], r.pos-int64(n), keepSkip)
		} else if err != nil {
			return err
		}
	}
	return nil
}

// receive reads from the transfer. Whatever ends it gives the session back.
func (r *reader) receive(ctx context.Context, p []byte) (int, error) {
	stop := context.AfterFunc(ctx, r.down.Cancel)
	began := time.Now()
	n, err := r.down.Read(p)
	r.pace.add(n, time.Since(began))
	r.pos += int64(n)
	if !stop() { // the transfer has been given up
		r.drop()
		if n > 0 {
			return n, nil
		}
		return 0, context.Cause(ctx)
	}
	switch {
	case n > 0:
		return n, nil
	case err == io.EOF:
		return 0, r.ended(ctx)
	case err != nil:
		r.drop()
	}
	return 0, err
}

// ended decides what it means that a transfer brings nothing any more: io.EOF only where the server says that it was all
// and the size it told has come.
func (r *reader) ended(ctx context.Context) error {
	if r.complete() {
		r.endLater()
		return io.EOF
	}
	_, err := r.down.End(ctx)
	r.release(err)
	if refused, ok := errors.AsType[*wire.Refusal](err); ok {
		return &backends.Error{Op: "readat", Name: r.name, Code: syscall.EIO, Class: backends.Transient, Cause: backends.CauseConnLost, Err: errors.New(refused.Error())}
	}
	switch {
	case err != nil:
		return err
	case !r.version.Known.Has(backends.HasSize):
		r.version.Size = r.pos
		r.version.Known |= backends.HasSize
		return io.EOF
	case r.pos == r.version.Size:
		return io.EOF
	}
	return r.whyLength(ctx)
}

// complete reports whether TLS itself has said that this was the end, and it is where the server told: that leaves nothing for the final
// reply to say, for which servers wait until we have closed (one round trip more).
func (r *reader) complete() bool {
	return r.b.o.TLS != nil && r.version.Known.Has(backends.HasSize) && r.pos == r.version.Size && !r.down.Unsealed()
}

// endLater waits for the final reply while nobody waits for us.
func (r *reader) endLater() {
	held, down := r.held, r.down
	r.held, r.down = nil, nil
	end := func() {
		ctx, cancel := context.WithTimeout(r.b.ctx, r.b.o.SocketTimeout)
		defer cancel()
		_, err := down.End(ctx)
		if err == nil {
			held.Session().Warm()
		}
		r.b.giveBack(held, err)
	}
	if !r.b.background(end) {
		down.Cancel()
		r.b.giveBack(held, nil)
	}
}

// whyLength says what it means that the server has sent another number of bytes than it told.
func (r *reader) whyLength(ctx context.Context) error {
	var now backends.Info
	err := r.b.use(ctx, "readat", r.name, again, func(ctx context.Context, s *wire.Session) (err error) {
		now, err = r.b.stat(ctx, s, r.name)
		return err
	})
	switch {
	case err != nil && backends.Errno(err) != syscall.ENOENT:
		return err
	case err != nil || !r.version.SameVersion(now):
		return stale("it changed while it was read")
	}
	return refuse(syscall.EIO, "the server sends another length than the %d bytes it tells", r.version.Size)
}

// finish returns io.EOF at the end of the file, which a transfer that has come so far must confirm.
func (r *reader) finish(ctx context.Context) error {
	if r.held == nil || r.pos != r.version.Size {
		return io.EOF
	}
	var one [1]byte
	switch n, err := r.receive(ctx, one[:]); {
	case n == 0 && err != nil && !isBroken(err):
		return err
	case n == 0:
		return io.EOF // it broke off when all had come
	}
	r.drop()
	// More came than was told. A file that grew has kept what was there.
	info, err := r.sizeNow(ctx)
	switch {
	case err != nil:
		return err
	case info.Size > r.version.Size:
		return io.EOF
	}
	return refuse(syscall.EIO, "the server sends more than the %d bytes it tells", r.version.Size)
}

func (r *reader) sizeNow(ctx context.Context) (info backends.Info, err error) {
	err = r.b.use(ctx, "readat", r.name, again, func(ctx context.Context, s *wire.Session) (err error) {
		info, err = r.b.stat(ctx, s, r.name)
		return err
	})
	return info, err
}

// drop gives the transfer up.
func (r *reader) drop() {
	if r.held == nil {
		return
	}
	r.down.Cancel()
	r.release(nil)
}

// release gives the session back, after err.
func (r *reader) release(err error) {
	held := r.held
	r.held, r.down = nil, nil
	if err == nil {
		held.Session().Warm()
	}
	r.b.giveBack(held, err)
}

// park lets the session be taken away until the next read.
func (r *reader) park() {
	if held := r.held; held != nil {
		held.Park(func() { r.revoke(held) })
	}
}

// revoke gives the session back that others are waiting for.
func (r *reader) revoke(held *lease) {
	if r.turns.take(context.Background(), first) != nil {
		return
	}
	if r.held == held {
		r.drop()
	}
	r.turns.give(r.pos)
}

// ReadLast reads and closes. What it tells of the file came in the flight that opened it.
func (r *reader) ReadLast(ctx context.Context, p []byte, off int64) (int, backends.Info, error) {
	n, err := r.readAt(ctx, p, off)
	if err != nil && err != io.EOF {
		return n, backends.Info{}, r.b.seam("readlast", r.name, err)
	}
	info, failed := r.Stat(ctx)
	if failed != nil {
		return n, info, failed
	}
	r.Close()
	return n, info, err
}

// Stat tells what the server said when the file was opened: of what it is by now FTP knows only by name.
func (r *reader) Stat(ctx context.Context) (backends.Info, error) {
	if err := r.b.check(ctx, "stat", r.name); err != nil {
		return backends.Info{}, err
	}
	if err := r.turns.take(ctx, first); err != nil {
		return backends.Info{}, seam("stat", r.name, err)
	}
	defer func() { r.turns.give(r.pos) }()
	if r.closed {
		return backends.Info{}, seam("stat", r.name, refuse(syscall.EBADF, "%w", os.ErrClosed))
	}
	return r.version, nil
}

// Close gives the transfer up. It does not wait for a read under way, which then ends.
func (r *reader) Close() error {
	if r.turns.try() {
		r.shut()
		return nil
	}
	r.b.background(func() {
		if r.turns.take(context.Background(), first) == nil {
			r.shut()
		}
	})
	return nil
}

// shut closes; the caller has the turn.
func (r *reader) shut() {
	r.closed = true
	r.drop()
	r.window = window{}
	r.turns.give(r.pos)
}

// window is what was read lately.
type window struct {
	bytes []byte
	off   int64
}

// copy fills p from what it has at off.
func (w *window) copy(p []byte, off int64) int {
	if off < w.off || off >= w.off+int64(len(w.bytes)) {
		return 0
	}
	return copy(p, w.bytes[off-w.off:])
}

// put adds p, which was at off, and keeps the last bytes, at least keep of them.
func (w *window) put(p []byte, off int64, keep int) {
	if len(p) >= keep || off != w.off+int64(len(w.bytes)) {
		cut := max(0, len(p)-keep)
		w.bytes = append(w.bytes[:0], p[cut:]...)
		w.off = off + int64(cut)
		return
	}
	if more := len(w.bytes) + len(p); more > 2*keep {
		gone := more - keep
		w.bytes = append(w.bytes[:0], w.bytes[gone:]...)
		w.off += int64(gone)
	}
	w.bytes = append(w.bytes, p...)
}

// pace is how fast a transfer is, to know what is cheaper: reading on to a place, or beginning anew there.
type pace struct {
	rtt  time.Duration // that beginning anew takes
	rate float64       // bytes a second
}

func (p *pace) add(n int, took time.Duration) {
	if n <= 0 || took <= 0 {
		return
	}
	rate := float64(n) / took.Seconds()
	if p.rate == 0 {
		p.rate = rate
	}
	p.rate += (rate - p.rate) / 8
}

// worthSkipping is how many bytes are sooner read than jumped over.
func (p *pace) worthSkipping() int64 {
	return min(max(leastSkip, int64(4*p.rtt.Seconds()*p.rate)), mostSkip)
}

// turns lets one at a time read, and those first who go on where the transfer is.
type turns struct {
	mu      sync.Mutex
	taken   bool
	waiting []*turn // first come first
	given   int
}

type turn struct {
	off   int64
	ready chan struct{}
	err   error // set before ready is closed; nil where the turn has come
}

// first is the offset of who goes before everybody else.
const first = -1

// fairly is how often in a row the order of coming is passed over.
const fairly = 16

func (t *turns) try() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.taken {
		return false
	}
	t.taken = true
	return true
}

func (t *turns) take(ctx context.Context, off int64) error {
	if t.try() {
		return nil
	}
	w := &turn{off: off, ready: make(chan struct{})}
	t.mu.Lock()
	if !t.taken {
		t.taken = true
		t.mu.Unlock()
		return nil
	}
	t.waiting = append(t.waiting, w)
	t.mu.Unlock()
	select {
	case <-w.ready:
		return w.err
	case <-ctx.Done():
	}
	t.mu.Lock()
	i := slices.Index(t.waiting, w)
	if i >= 0 {
		t.waiting = slices.Delete(t.waiting, i, i+1)
	}
	t.mu.Unlock()
	if i < 0 && w.err == nil {
		t.give(0) // it came in this moment
	}
	return context.Cause(ctx)
}

// fail tells err to all who wait for content.
func (t *turns) fail(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waiting = slices.DeleteFunc(t.waiting, func(w *turn) bool {
		if w.off == first {
			return false
		}
		w.err = err
		close(w.ready)
		return true
	})
}

// give hands the turn on, to who is next behind pos.
func (t *turns) give(pos int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.waiting) == 0 {
		t.taken, t.given = false, 0
		return
	}
	next := 0
	if t.given++; t.given%fairly != 0 {
		next = t.behind(pos)
	}
	w := t.waiting[next]
	t.waiting = slices.Delete(t.waiting, next, next+1)
	close(w.ready)
}

// behind returns who goes before everybody else, or waits for what comes soonest behind pos, or came first.
func (t *turns) behind(pos int64) int {
	best := -1
	for i, w := range t.waiting {
		switch {
		case w.off == first:
			return i
		case w.off >= pos && (best < 0 || w.off < t.waiting[best].off):
			best = i
		}
	}
	return max(best, 0)
}
