package ftp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"pierfs/backends"
	"pierfs/backends/ftp/listing"
	"pierfs/backends/ftp/wire"
	"pierfs/backends/pool"
)

// List yields the entries of dir: one round trip on a warm session, and another for the first of a server that lists times
// without a zone, or for entries that may be links in disguise.
func (b *Backend) List(ctx context.Context, dir string) iter.Seq2[backends.Info, error] {
	return func(yield func(backends.Info, error) bool) {
		l := &listed{b: b, dir: dir, yield: yield}
		if err := l.run(ctx); err != nil && !l.left {
			yield(backends.Info{}, err)
		}
	}
}

// listed is one List on its way.
type listed struct {
	b     *Backend
	dir   string
	yield func(backends.Info, error) bool
	left  bool // the caller has gone
	count int
	mark  mark // of the faces, when it began

	lively int // sessions that broke though they had been used a moment before
}

func (l *listed) run(ctx context.Context) error {
	b := l.b
	if err := b.check(ctx, "list", l.dir); err != nil {
		return err
	}
	ctx, loosen := b.bind(ctx)
	defer loosen()
	if backends.WantsWhole(ctx) {
		if done, err := l.listShort(ctx); done {
			return b.seam("list", l.dir, err)
		}
	}
	for {
		held, err := b.take(ctx, pool.Meta, again)
		if err != nil {
			return b.seam("list", l.dir, err)
		}
		stale, err := l.list(ctx, held)
		if !stale || l.count > 0 || ctx.Err() != nil {
			return b.seam("list", l.dir, err)
		}
	}
}

// list lists in one session, and gives it back.
func (l *listed) list(ctx context.Context, held *lease) (stale bool, err error) {
	b, s := l.b, held.Session()
	l.mark = b.faces.begin()
	t, err := b.openList(ctx, s, l.dir)
	if err != nil {
		return b.replaced(held, err, &l.lively), err
	}
	in := newInflow()
	if t.format == listing.Lines && !b.known().zone.Known() && s.Features().MDTM {
		raw, all, err := b.calibrate(ctx, s, t)
		if all || err != nil {
			s.Warm()
			if stale := b.giveBack(held, err); err != nil {
				return stale, err
			}
			return false, l.fromMemory(ctx, t, raw)
		}
		in.chunks = [][]byte{raw}
	}
	pumped := make(chan bool, 1)
	if !b.background(func() { pumped <- b.pump(held, t, in) }) {
		t.down.Cancel()
		return b.giveBack(held, nil), errClosed
	}
	stop := context.AfterFunc(ctx, func() {
		t.down.Cancel()
		in.leave()
	})
	defer stop()
	doubts, err := l.take(b.reading(t, in.reader(ctx)))
	if l.left || err != nil {
		t.down.Cancel() // or it has ended long ago
		in.leave()
	}
	if err == nil && !l.left {
		err = l.resolve(ctx, doubts)
	}
	if err == nil && !l.left {
		l.ended()
	}
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return <-pumped, err
	}
	return false, nil
}

// transfer is a listing that has begun.
type transfer struct {
	dir    string
	format listing.Format
	down   *wire.Download
	said   wire.Reply // the final reply
}

// openList begins the listing of dir. That a LIST brings nothing says nothing of whether there is a directory (vsftpd), and one of a
// file looks like one of a directory: CWD before it, in the same write, tells.
func (b *Backend) openList(ctx context.Context, s *wire.Session, dir string) (*transfer, error) {
	p := b.path(dir)
	t := &transfer{dir: dir, format: listing.Facts}
	command := "MLSD " + p
	if !s.Features().MLST {
		t.format = listing.Lines
		command = b.listCommand(p)
		s.Prepend("CWD "+p, "CWD "+b.Root())
		if b.known().echo == untried && s.Features().StatLists {
			s.Prepend(echoTrial...)
		}
	}
	down, err := s.List(ctx, command)
	if t.format == listing.Lines && err != nil && vague(err) && !b.known().plainList {
		return b.openPlain(ctx, s, t, p, err)
	}
	if err != nil {
		return nil, b.whyList(ctx, s, dir, err)
	}
	t.down = down
	if said := down.Before(); len(said) > 2 {
		b.learnEcho(said[2])
	}
	if t.format == listing.Lines && len(down.Before()) > 0 && !positive(down.Before()[0]) {
		down.Cancel()
		return nil, b.whyList(ctx, s, dir, &wire.Refusal{Command: "CWD " + p, Reply: down.Before()[0]})
	}
	return t, nil
}

func (b *Backend) listCommand(p string) string {
	if b.known().plainList {
		return "LIST " + p
	}
	return "LIST -a " + p
}

// openPlain tries LIST without options, which some servers take for a part of the name (pyftpdlib).
func (b *Backend) openPlain(ctx context.Context, s *wire.Session, t *transfer, p string, refused error) (*transfer, error) {
	if r, ok := errors.AsType[*wire.Refusal](refused); ok && len(r.Before) > 0 && !positive(r.Before[0]) {
		return nil, b.whyList(ctx, s, t.dir, refused)
	}
	down, err := s.List(ctx, "LIST "+p)
	if err != nil {
		return nil, b.whyList(ctx, s, t.dir, err)
	}
	b.learn(func(l *learned) { l.plainList = true })
	t.down = down
	return t, nil
}

func (b *Backend) whyList(ctx context.Context, s *wire.Session, dir string, err error) error {
	return b.why(ctx, s, dir, err, syscall.ENOENT, func(i backends.Info) syscall.Errno {
		if i.IsDir() || i.Mode&os.ModeSymlink != 0 {
			return syscall.EACCES
		}
		return syscall.ENOTDIR
	})
}

// reading is the listing that comes out of r.
func (b *Backend) reading(t *transfer, r io.Reader) *listing.Listing {
	return listing.Read(r, t.format, b.linesOf(t.dir))
}

// linesOf is lines for dir, with whoever is told of what cannot be read.
func (b *Backend) linesOf(dir string) listing.Options {
	o := b.lines()
	o.Unreadable = func(line string) {
		b.o.Logger.Warn("a line of a listing cannot be read", "server", b.o.Address, "dir", dir, "line", line)
	}
	return o
}

// take yields what l lists, but for entries that must be asked about, which it returns.
func (l *listed) take(list *listing.Listing) (doubts []listing.Entry, err error) {
	defer func() {
		c := list.Counts()
		l.b.hidden.Add(uint64(c.Hidden + c.Doubles + c.Unreadable))
	}()
	for e, err := range list.Entries() {
		switch {
		case err != nil:
			return nil, err
		case (doubtful(e) || hasLineEnd(e.Name) && l.b.known().lineEnds == unproven) && len(doubts) < maxDoubts:
			doubts = append(doubts, e)
		case !l.give(e):
			return nil, nil
		}
	}
	return doubts, nil
}

// ended notes that the listing was complete.
func (l *listed) ended() {
	limit := l.b.Caps().ListLimit
	switch {
	case !l.b.patterns():
	case l.count > listKept:
		l.b.faces.tooLong(l.dir)
	case limit == 0 || l.count < limit:
		l.b.faces.complete(l.dir, l.mark)
	}
}

// passes reports whether name, of which a server tells, can be asked for.
func (b *Backend) passes(name string) bool {
	return backends.CheckElement(name) == 0 && (!hasLineEnd(name) || b.known().lineEnds == proven)
}

// maxDoubts bounds the entries of one listing that are held back because they may be links in disguise, or because it is not
// known whether the server can be asked for such a name.
const maxDoubts = 100_000

func (l *listed) give(e listing.Entry) bool {
	if e.Mode&os.ModeIrregular != 0 || !e.Known.Has(backends.HasType) || !l.b.passes(e.Name) {
		l.b.hidden.Add(1)
		return true
	}
	l.count++
	l.left = !l.yield(l.b.info(join(l.dir, e.Name), e, l.mark.at), nil)
	return !l.left
}

// resolve yields the doubtful entries as a LIST tells their types: one for all.
func (l *listed) resolve(ctx context.Context, doubts []listing.Entry) error {
	doubts, err := l.settleNames(ctx, doubts)
	if err != nil || len(doubts) == 0 {
		return err
	}
	shown := make(map[string]listing.Entry, len(doubts))
	for _, e := range doubts {
		shown[e.Name] = listing.Entry{}
	}
	err = l.b.use(ctx, "list", l.dir, again, func(ctx context.Context, s *wire.Session) error {
		return l.b.lines1(ctx, s, l.dir, func(e listing.Entry) {
			if _, wanted := shown[e.Name]; wanted {
				shown[e.Name] = e
			}
		})
	})
	if err != nil && isBroken(err) {
		return err
	}
	for _, e := range doubts {
		if found := shown[e.Name]; found.Known.Has(backends.HasType) {
			e = l.b.asLink(join(l.dir, e.Name), e, found)
		}
		if !l.give(special(e)) {
			return nil
		}
	}
	return nil
}

// settleNames yields the entries that were held back for their names alone, and returns the others.
func (l *listed) settleNames(ctx context.Context, doubts []listing.Entry) (others []listing.Entry, err error) {
	for _, e := range doubts {
		if hasLineEnd(e.Name) {
			if _, err := l.b.bearsLineEnds(ctx); err != nil {
				return nil, err
			}
		}
		if doubtful(e) {
			others = append(others, e)
		} else if !l.give(e) {
			return nil, nil
		}
	}
	return others, nil
}

// lines1 calls f for each entry that LIST shows of dir, in a session that the caller holds.
func (b *Backend) lines1(ctx context.Context, s *wire.Session, dir string, f func(listing.Entry)) error {
	_, err := b.linesAt(ctx, s, b.path(dir), f)
	return err
}

// linesAt is lines1 for a path as it is sent. It returns the listing, of which all has been told.
func (b *Backend) linesAt(ctx context.Context, s *wire.Session, p string, f func(listing.Entry)) (*listing.Listing, error) {
	down, err := s.List(ctx, b.listCommand(p))
	if err != nil && vague(err) && !b.known().plainList {
		if down, err = s.List(ctx, "LIST "+p); err == nil {
			b.learn(func(l *learned) { l.plainList = true })
		}
	}
	if err != nil {
		return nil, err
	}
	defer s.Warm()
	t := &transfer{dir: p, format: listing.Lines, down: down}
	stop := context.AfterFunc(ctx, down.Cancel)
	defer stop()
	list := b.reading(t, down)
	for e, failed := range list.Entries() {
		if err = failed; err == nil {
			f(e)
		}
	}
	if err == nil {
		err = b.endList(ctx, t)
	}
	if err != nil {
		down.Cancel()
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return list, err
}

// endList waits for the server to say that a listing was complete.
func (b *Backend) endList(ctx context.Context, t *transfer) error {
	reply, err := t.down.End(ctx)
	if err != nil {
		return err
	}
	t.said = reply
	if b.o.TLS == nil {
		return nil
	}
	switch sealed := !t.down.Unsealed(); {
	case sealed && !b.known().seals:
		b.learn(func(l *learned) { l.seals = true })
	case !sealed && b.known().seals:
		return &backends.Error{Op: "list", Name: t.dir, Code: syscall.EIO, Class: backends.Transient, Err: errors.New("somebody has cut the listing short")}
	}
	return nil
}

// truncated reports whether the server says that it has left something out: the text is the only notice (pure-ftpd 1.0.50: "Output
// truncated to 10000 matches").
func truncated(r wire.Reply) bool {
	return strings.Contains(strings.ToLower(strings.Join(r.Lines, "\n")), "truncated")
}

// cut notes that a listing of n entries was not complete.
func (b *Backend) cut(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n > 0 && (b.caps.ListLimit == 0 || n < b.caps.ListLimit) {
		b.caps.ListLimit = n
	}
}

// fromMemory yields a listing that has come whole.
func (l *listed) fromMemory(ctx context.Context, t *transfer, raw []byte) error {
	return l.whole(ctx, l.b.reading(t, bytes.NewReader(raw)), t.said)
}

// whole yields a listing that is here, of which the server has said so.
func (l *listed) whole(ctx context.Context, list *listing.Listing, said wire.Reply) error {
	doubts, err := l.take(list)
	if truncated(said) {
		l.b.cut(l.count)
	}
	if err == nil && !l.left {
		err = l.resolve(ctx, doubts)
	}
	if err == nil && !l.left {
		l.ended()
	}
	return err
}

const (
	samples = 8       // files that are asked to learn a server's clock
	sampled = 4 << 20 // bytes of a listing that may be held for it
)

// calibrate fetches a listing of a server whose clock is not known yet: where files in it can be asked for their time in UTC (MDTM), they
// tell how far the clock is off. A listing that is too long for that is returned as far as it has come.
func (b *Backend) calibrate(ctx context.Context, s *wire.Session, t *transfer) (raw []byte, all bool, err error) {
	stop := context.AfterFunc(ctx, t.down.Cancel)
	defer stop()
	raw, err = io.ReadAll(io.LimitReader(t.down, sampled))
	switch {
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case err == nil && len(raw) == sampled:
		return raw, false, nil
	case err == nil:
		err = b.endList(ctx, t)
	}
	if err != nil {
		t.down.Cancel()
		return nil, false, err
	}
	o := listing.Options{Now: time.Now(), CRLF: b.lines().CRLF}
	return raw, true, b.askTimes(ctx, s, t.dir, listing.Read(bytes.NewReader(raw), listing.Lines, o))
}

// askTimes has files of a listing of dir, read as if the server were on UTC, tell the time.
func (b *Backend) askTimes(ctx context.Context, s *wire.Session, dir string, list *listing.Listing) error {
	var asked []listing.Sample
	var commands []string
	for e, err := range list.Entries() {
		if err != nil || len(asked) == samples {
			break
		}
		if e.Mode.IsRegular() && e.Known.Has(backends.HasModTime) && e.TimeUnit <= time.Minute && b.passes(e.Name) {
			asked = append(asked, listing.Sample{Listed: e.ModTime, Unit: e.TimeUnit})
			commands = append(commands, "MDTM "+b.path(join(dir, e.Name)))
		}
	}
	if len(asked) == 0 {
		return nil
	}
	replies, err := s.Do(ctx, commands...)
	if err != nil {
		return err
	}
	told := asked[:0]
	for i, r := range replies {
		if when, ok := timeOf(r); ok {
			told = append(told, listing.Sample{Listed: asked[i].Listed, Unit: asked[i].Unit, Modified: when})
		}
	}
	if zone := listing.Calibrate(told...); zone.Known() {
		b.learn(func(l *learned) { l.zone = zone })
	}
	return nil
}

// pump moves a listing into in at the server's pace, and gives the session back when it has ended.
func (b *Backend) pump(held *lease, t *transfer, in *inflow) (stale bool) {
	_, err := io.Copy(in, t.down)
	if err == nil {
		err = b.endList(b.ctx, t)
	}
	if err != nil {
		t.down.Cancel()
	} else if truncated(t.said) {
		in.cut = true
	}
	held.Session().Warm()
	stale = b.giveBack(held, err)
	if in.cut {
		b.cut(in.lines)
	}
	in.end(err)
	return stale
}

// inflow is what has come of a listing and was not read yet, so that a slow reader keeps no session busy.
type inflow struct {
	cut   bool // the server says that it is not complete
	lines int

	mu     sync.Mutex
	chunks [][]byte
	size   int
	err    error // io.EOF when all has come
	more   chan struct{}
	room   sync.Cond
}

func newInflow() *inflow {
	in := &inflow{more: make(chan struct{})}
	in.room.L = &in.mu
	return in
}

// unread is how much of a listing may wait for a slow reader. Beyond that the server waits too.
const unread = 32 << 20

// Write takes what comes.
func (in *inflow) Write(p []byte) (int, error) {
	in.lines += bytes.Count(p, []byte("\n"))
	in.mu.Lock()
	defer in.mu.Unlock()
	for in.size >= unread && in.err == nil {
		in.room.Wait()
	}
	if in.err != nil {
		return 0, in.err // nobody reads any more
	}
	in.size += len(p)
	in.chunks = append(in.chunks, bytes.Clone(p))
	in.wake()
	return len(p), nil
}

// leave lets go of whoever waits for a reader that has gone.
func (in *inflow) leave() {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.err == nil {
		in.err = errLeft
	}
	in.chunks, in.size = nil, 0
	in.room.Broadcast()
}

var errLeft = errors.New("nobody reads the listing any more")

func (in *inflow) wake() {
	close(in.more)
	in.more = make(chan struct{})
}

// end says that nothing comes any more, and why.
func (in *inflow) end(err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if err == nil {
		err = io.EOF
	} else if err == io.EOF {
		err = fmt.Errorf("the listing broke off: %w", io.ErrUnexpectedEOF)
	}
	if in.err == nil {
		in.err = err
	}
	in.wake()
}

// reader reads what has come, and waits for more.
func (in *inflow) reader(ctx context.Context) io.Reader { return inflowReader{ctx, in} }

type inflowReader struct {
	ctx context.Context
	in  *inflow
}

func (r inflowReader) Read(p []byte) (int, error) {
	for {
		n, more, err := r.in.next(p)
		if n > 0 || err != nil {
			return n, err
		}
		select {
		case <-more:
		case <-r.ctx.Done():
			return 0, context.Cause(r.ctx)
		}
	}
}

func (in *inflow) next(p []byte) (n int, more <-chan struct{}, err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for n < len(p) && len(in.chunks) > 0 {
		k := copy(p[n:], in.chunks[0])
		n += k
		in.size -= k
		if in.chunks[0] = in.chunks[0][k:]; len(in.chunks[0]) == 0 {
			in.chunks = in.chunks[1:]
		}
	}
	if n > 0 {
		in.room.Broadcast()
		return n, nil, nil
	}
	return 0, in.more, in.err
}
