package cache

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"pierfs/backends"
	"pierfs/cache/attr"
	"pierfs/cache/spool"
)

// A server that can only stream (Caps.RandomRead is false) sends a file onward from wherever a transfer began, and each jump
// costs a new one: a flight or three. So one goroutine a File, its pump, reads for all who have the file open, in order, into
// the local copy, or into the staging file if there is one. It reads on where others would jump if what lies between comes
// sooner than a new transfer would, keeps what it passes, and goes on ahead of its readers when nobody waits. A reader waits for
// the bytes that it wants, no longer.

const (
	// streamPiece is what a transfer is begun for at least. The next jump's piece is twice as long, up to streamMax: who jumps
	// about in a file will soon have all of it.
	streamPiece = 1 << 20
	streamMax   = 64 << 20
	// streamStep is how much the pump reads at a time at most; waitedStep is the least that it reads for somebody who waits.
	streamStep = 256 << 10
	waitedStep = 64 << 10
	// A gap is passed by reading on if it is shorter than skipMin, or than what comes in the time that a jump takes, up to
	// skipMax.
	skipMin = 1 << 20
	skipMax = 16 << 20
	// maxTransfers is how many files are streamed at a time in one tree: FTP servers bear few sessions, and one that is taken
	// from a transfer costs a new one. While others wait, a file's turn ends after turnBytes or turnTime.
	maxTransfers = 3
	turnBytes    = 4 << 20
	turnTime     = time.Second
	// dearJump is how long a transfer must take to begin for jumps to count.
	dearJump = 10 * time.Millisecond
	// tieLength is how much of what is known of a file is compared when it is found longer: is it the same, grown?
	tieLength = 4 << 10
)

// stream is a File's transfer, and who waits for what. Guarded by File.mu.
type stream struct {
	pumping bool
	reader  backends.Reader // whose transfer it is; nil if there is none
	at      int64           // where the transfer goes on; a new one begins at 0
	wants   []*want
	duty    spool.Range // what the latest jump was for: fetched before the next jump
	ahead   spool.Range // of the latest reader: fetched while nobody waits
	into    *spool.File // where ahead belongs
	jumps   int
	whole   bool // all of it is read in order by now: further jumps would take longer
}

// want is somebody who waits for a range.
type want struct {
	into *spool.File
	r    spool.Range
	sure int64      // how much behind r is as good as wanted
	done chan error // told once
}

// streams reports whether the server can only stream.
func (t *Tree) streams() bool { return !t.Caps().RandomRead }

// readStream is readCopy for a server that can only stream.
func (f *File) readStream(ctx context.Context, copied *spool.File, p []byte, off int64) (int, error) {
	r := spool.Range{Off: off, End: min(off+int64(len(p)), copied.Size())}
	sure, ahead := f.follow(r)
	for waited := false; ; waited = true {
		n, ok, err := copied.ReadReal(p, off)
		if ok {
			f.streamAhead(copied, ahead)
			if err == nil || err == io.EOF {
				f.wasGiven(copied, spool.Range{Off: off, End: off + int64(n)}, waited)
				return n, err
			}
			return f.readThrough(ctx, p, off, f.baseInfo()) // the local disk failed, the server did not
		}
		err = f.obtain(ctx, copied, r, sure, ahead)
		if _, local := errors.AsType[localFailure](err); local {
			return f.readThrough(ctx, p, off, f.baseInfo())
		}
		if err != nil {
			return 0, err
		}
	}
}

// follow notes that r is being read, and returns how much behind it is as good as wanted, and what should be fetched ahead.
func (f *File) follow(r spool.Range) (sure int64, ahead spool.Range) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c := f.flight.follow(r, streamWindow); c != nil {
		return c.window, spool.Range{Off: c.next, End: c.next + c.window}
	}
	f.flight.begin(cursor{next: r.End, window: streamPiece})
	return streamPiece, spool.Range{Off: r.End, End: r.End + min(int64(streamPiece)<<min(f.stream.jumps, 16), streamMax)}
}

// streamAhead lets the pump go on to ahead, if something is missing there.
func (f *File) streamAhead(into *spool.File, ahead spool.Range) {
	if _, missing := missingIn(into, ahead, 0); !missing || !f.tree.begin() {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stream.ahead, f.stream.into = ahead, into
	f.pump()
}

// obtain returns when all of r is real in into, which is the copy or the staging file. The error errElsewhere says that it is
// neither any more.
func (f *File) obtain(ctx context.Context, into *spool.File, r spool.Range, sure int64, ahead spool.Range) error {
	if !f.tree.begin() {
		return f.fault("read", syscall.ESHUTDOWN)
	}
	w := &want{into: into, r: r, sure: sure, done: make(chan error, 1)}
	f.mu.Lock()
	f.stream.wants = append(f.stream.wants, w)
	f.stream.ahead, f.stream.into = ahead, into
	f.pump()
	f.mu.Unlock()
	select {
	case err := <-w.done:
		return err
	case <-ctx.Done():
		f.mu.Lock()
		defer f.mu.Unlock()
		f.stream.forget(w)
		return ctx.Err()
	}
}

// pump starts the goroutine that reads for all, unless it runs; the caller holds mu and has counted it as one of the Tree's.
func (f *File) pump() {
	if f.stream.pumping {
		f.tree.work.Done()
		return
	}
	f.stream.pumping = true
	go func() { // ends when nothing is wanted, or with the Tree, whose backend is closed then
		defer f.tree.work.Done()
		turn := transferTurn{tree: f.tree}
		defer turn.give()
		buf := make([]byte, streamStep)
		for {
			turn.take()
			into, r := f.next()
			if into == nil {
				return
			}
			f.landStream(into, f.fetchStream(into, r, buf))
			turn.used(r.Len())
		}
	}()
}

// transferTurn is one file's part in the transfers of a Tree.
type transferTurn struct {
	tree  *Tree
	taken bool
	began time.Time
	bytes int64
}

// take waits for a turn, unless there is one or the Tree is closed.
func (t *transferTurn) take() {
	if t.taken {
		return
	}
	select {
	case t.tree.transfers <- struct{}{}:
		t.taken = true
	default:
		t.tree.waiting.Add(1)
		defer t.tree.waiting.Add(-1)
		select {
		case t.tree.transfers <- struct{}{}: // who waits longest comes first
			t.taken = true
		case <-t.tree.ctx.Done():
		}
	}
	t.began, t.bytes = time.Now(), 0
}

// used notes that n bytes were asked for, and lets others go first if that is enough.
func (t *transferTurn) used(n int64) {
	t.bytes += n
	if t.tree.waiting.Load() > 0 && (t.bytes >= turnBytes || time.Since(t.began) >= turnTime) {
		t.give()
	}
}

func (t *transferTurn) give() {
	if t.taken {
		<-t.tree.transfers
		t.taken = false
	}
}

// next decides what the pump reads next; nil if nothing is wanted, and then the pump has ended.
func (f *File) next() (into *spool.File, r spool.Range) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := &f.stream
	s.settle(f.copied, f.staged)
	if err := f.tree.ctx.Err(); err != nil {
		s.fail(err)
	}
	into, r = f.choose()
	s.pumping = into != nil
	return into, r
}

// choose returns what is best read next: what somebody waits for and the transfer soon comes to, the rest of what it was begun
// for, what somebody else waits for, and what is likely to be wanted. The caller holds mu.
func (f *File) choose() (*spool.File, spool.Range) {
	s, skip := &f.stream, f.tree.pace.skip()
	onward := func(off, sure int64) bool { return off >= s.at && off-s.at <= max(skip, sure) }
	step := func(into *spool.File, from, to int64) (*spool.File, spool.Range) {
		if onward(from, 0) {
			from = s.at
		}
		return into, spool.Range{Off: from, End: min(to, from+streamStep, f.base.Size)}
	}
	var near *want
	var nearest int64
	for _, w := range s.wants {
		// What lies before it is as good as wanted if its reader goes on through it: the kernel asks ahead out of order.
		if off, ok := missingIn(w.into, w.r, 0); ok && onward(off, w.sure) && (near == nil || off < nearest) {
			near, nearest = w, off
		}
	}
	if near != nil {
		return near.into, spool.Range{Off: s.at, End: min(max(nearest+waitedStep, near.r.End), s.at+streamStep, f.base.Size)}
	}
	if s.whole = s.whole || f.wholePays(); s.whole && (len(s.wants) > 0 || s.into != nil && f.tree.waiting.Load() == 0) {
		into := s.into
		if len(s.wants) > 0 {
			into = s.wants[0].into
		}
		for _, from := range []int64{s.at, 0} {
			if off, ok := missingIn(into, spool.Range{End: f.base.Size}, from); ok {
				return step(into, off, off+streamStep)
			}
		}
	}
	if len(s.wants) > 0 {
		first := s.wants[0]
		if off, ok := missingIn(first.into, s.duty, s.at); ok { // else two who read in turn would have nothing but jumps
			return step(first.into, off, off+streamStep)
		}
		off, _ := missingIn(first.into, first.r, 0)
		begin := f.jump(first, off)
		return first.into, spool.Range{Off: begin, End: min(max(off+waitedStep, first.r.End), begin+streamStep, f.base.Size)}
	}
	if s.into == nil || f.tree.waiting.Load() > 0 { // nobody waits here, and somebody does elsewhere
		return nil, spool.Range{}
	}
	if off, ok := missingIn(s.into, s.duty, s.at); ok {
		return step(s.into, off, off+streamStep)
	}
	off, ok := missingIn(s.into, s.ahead, s.at)
	if !ok || !onward(off, 0) {
		off, ok = missingIn(s.into, s.ahead, 0)
	}
	switch {
	case !ok:
		return nil, spool.Range{}
	case !onward(off, 0) && off > s.ahead.Off+s.ahead.Len()/2: // not yet worth a transfer
		return nil, spool.Range{}
	case !onward(off, 0):
		s.duty = spool.Range{Off: off, End: off + max(s.ahead.Len(), streamPiece)}
	}
	return step(s.into, off, off+streamStep)
}

// wholePays reports whether as many jumps as there were, and those, take as long as all that is missing. The caller holds mu.
func (f *File) wholePays() bool {
	s := &f.stream
	if s.jumps < 4 || s.into == nil || f.base.Size > wholeSize || !f.tree.options.Spool.HasRoom() {
		return false
	}
	begin, perByte := f.tree.pace.told()
	missing := s.into.Missing(0, f.base.Size)
	var n int64
	for _, r := range missing {
		n += r.Len()
	}
	return begin >= dearJump && 2*time.Duration(s.jumps)*begin >= time.Duration(n/1024)*perByte
}

// jump decides where to begin the transfer for w, which misses off. The caller holds mu.
func (f *File) jump(w *want, off int64) (begin int64) {
	s := &f.stream
	align := int64(waitedStep) << min(s.jumps, 1) // who reads backwards wants what lies before, too
	begin = off / align * align
	for _, r := range w.into.Missing(begin, off-begin+1) {
		begin = r.Off // the last one, which holds off
	}
	s.jumps++
	s.duty = spool.Range{Off: begin, End: max(begin+streamPiece, w.r.End+w.sure)}
	return begin
}

// missingIn returns the first offset from at on that is missing of r.
func missingIn(into *spool.File, r spool.Range, at int64) (off int64, ok bool) {
	r.Off = max(r.Off, at)
	if r.Len() <= 0 {
		return 0, false
	}
	missing := into.Missing(r.Off, r.Len())
	if len(missing) == 0 {
		return 0, false
	}
	return missing[0].Off, true
}

// settle tells those who have what they wanted, or want it from where it is no more; the caller holds File.mu.
func (s *stream) settle(copied, staged *spool.File) {
	s.wants = slices.DeleteFunc(s.wants, func(w *want) bool {
		if w.into != copied && w.into != staged {
			w.done <- errElsewhere
			return true
		}
		_, missing := missingIn(w.into, w.r, 0)
		if !missing {
			w.done <- nil
		}
		return !missing
	})
	if s.into != copied && s.into != staged {
		s.into = nil
	}
}

// fail tells err to all who wait, and wants nothing any more; the caller holds File.mu.
func (s *stream) fail(err error) {
	for _, w := range s.wants {
		w.done <- err
	}
	s.wants, s.into, s.duty, s.whole = nil, nil, spool.Range{}, false
}

// forget takes w out; the caller holds File.mu.
func (s *stream) forget(w *want) {
	s.wants = slices.DeleteFunc(s.wants, func(other *want) bool { return other == w })
}

// fetchStream reads r into into, by way of buf.
func (f *File) fetchStream(into *spool.File, r spool.Range, buf []byte) error {
	ctx := f.tree.ctx
	reader, err := f.source(ctx)
	if err != nil {
		return err
	}
	f.mu.Lock()
	s := &f.stream
	if s.reader != reader {
		s.reader, s.at = reader, 0
	}
	jumped, end := s.at != r.Off, f.base.Size
	f.mu.Unlock()
	p := buf[:r.Len()]
	began := time.Now()
	if err := f.readBase(ctx, reader, p, r.Off); err != nil {
		return err
	}
	f.tree.pace.took(jumped, len(p), time.Since(began))
	if r.End == end {
		if err := f.stillBase(ctx); err != nil {
			return err
		}
	}
	if err := into.Fill(p, r.Off); err != nil {
		return localFailure{err}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	s.at = r.End
	if into == f.copied {
		if !s.wanted(r) {
			f.noteAhead(r)
		}
		f.makeRoom(r)
	}
	return nil
}

// wanted reports whether somebody waits for something of r; the caller holds File.mu.
func (s *stream) wanted(r spool.Range) bool {
	return slices.ContainsFunc(s.wants, func(w *want) bool { return w.r.Off < r.End && r.Off < w.r.End })
}

// landStream notes how a step of the pump ended, and closes the transfer when all is here.
func (f *File) landStream(into *spool.File, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		f.stream.reader, f.stream.at = nil, 0
		f.stream.fail(err)
		return
	}
	if into != f.copied && into != f.staged {
		return
	}
	if _, missing := missingIn(into, spool.Range{End: into.Size()}, 0); !missing {
		f.dropReader()
	}
}

// errNoRoom says that a content is larger than what the cache may hold.
var errNoRoom = errors.New("no room for all of it")

// fetchAll returns when all of base, of size bytes, is here to stay.
func (f *File) fetchAll(ctx context.Context, size int64) error {
	f.mu.Lock()
	staged := f.staged
	f.mu.Unlock()
	if staged != nil {
		return f.fill(ctx, staged, 0, staged.Size())
	}
	if size <= smallFile && f.tree.small.Load() < smallFiles {
		if err := f.fetchWhole(ctx); err != nil {
			return err
		}
		return errElsewhere
	}
	copied := f.copy()
	if copied == nil || !f.tree.options.Spool.MayHold(size) {
		return errNoRoom
	}
	f.mu.Lock()
	f.flight.pinned = true
	f.mu.Unlock()
	return f.obtain(ctx, copied, spool.Range{End: size}, streamPiece, spool.Range{})
}

// wasRead reports whether somebody opened the file to read it.
func (f *File) wasRead() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.reads
}

// stillBase returns ESTALE if the file was changed in place while it was read: then nobody knows of which version its parts
// are. It is asked when the end was reached.
func (f *File) stillBase(ctx context.Context) error {
	name, ok := f.Name()
	if !ok || f.tree.live(name) != f {
		return nil // the name is another's, and says nothing of what is read
	}
	mark := f.tree.attrs.Mark()
	info, err := f.tree.ask(ctx, name)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case f.sameContent(info), mayContinue(f.baseInfo(), info), f.ours(name, mark):
		return nil
	case info.ID != "" && info.ID != f.baseInfo().ID:
		return nil // replaced by another file, of which nothing was read
	}
	return f.fault("read", errChangedWhileRead)
}

// ours reports whether a change of the file since m was, or may have been, made here.
func (f *File) ours(name string, m attr.Mark) bool {
	f.mu.Lock()
	changing := f.changing || f.change != f.published
	f.mu.Unlock()
	return changing || f.tree.attrs.Changed(name, m)
}

// continues reports whether reader, opened by the file's name and described by info, reads base with something appended: it is
// longer, not older, and what is known of the end of base is there, too. A file of which nothing is known here may be anything.
func (f *File) continues(ctx context.Context, reader backends.Reader, info backends.Info) bool {
	base := f.baseInfo()
	if !mayContinue(base, info) {
		return false
	}
	known, off := f.tie()
	theirs := make([]byte, len(known))
	if len(known) == 0 {
		return true
	}
	n, err := reader.ReadAt(ctx, theirs, off)
	return (err == nil || err == io.EOF) && string(theirs[:n]) == string(known)
}

// mayContinue reports whether info can be base with something appended.
func mayContinue(base, info backends.Info) bool {
	return base.Mode.IsRegular() && info.Mode.IsRegular() && info.Size > base.Size && (base.ID == info.ID || base.ID == "" || info.ID == "") &&
		!info.ModTime.Add(info.TimeUnit).Before(base.ModTime)
}

// tie returns the last bytes of base that are here, and where they belong.
func (f *File) tie() (p []byte, off int64) {
	f.mu.Lock()
	whole, copied := f.whole, f.copied
	f.mu.Unlock()
	switch {
	case whole != nil:
		off = max(0, int64(len(whole))-tieLength)
		return whole[off:], off
	case copied != nil:
		return copied.Last(tieLength)
	}
	return nil, 0
}

// pace is how fast a server streams, and how long it takes to begin, as moving means.
type pace struct {
	mu             sync.Mutex
	begin, perByte time.Duration // perByte for 1024 of them; 0 is not known
}

// took notes that n bytes took d, the beginning of a transfer included if jumped.
func (p *pace) took(jumped bool, n int, d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	mean := func(old, d time.Duration) time.Duration {
		if old == 0 {
			return max(d, 1)
		}
		return max(old+(d-old)/8, 1)
	}
	switch {
	case n == 0:
	case !jumped:
		p.perByte = mean(p.perByte, d*1024/time.Duration(n))
	case p.perByte > 0:
		p.begin = mean(p.begin, max(0, d-p.perByte*time.Duration(n)/1024))
	}
}

// told returns how long a transfer takes to begin, and then 1024 bytes; 0 is not known.
func (p *pace) told() (begin, perByte time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.begin, p.perByte
}

// skip is the gap up to which reading on is faster than beginning anew.
func (p *pace) skip() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.begin == 0 || p.perByte == 0 {
		return skipMin
	}
	return min(max(int64(p.begin/p.perByte)*1024, skipMin), skipMax)
}
