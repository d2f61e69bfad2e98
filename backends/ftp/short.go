package ftp

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"strconv"
	"strings"

	"pierfs/backends/ftp/listing"
	"pierfs/backends/ftp/wire"
	"pierfs/backends/pool"
)

// A LIST has a session and a data connection for itself, two round trips for vsftpd. STAT brings the same lines on the control
// connection, where many questions travel in one flight. So listings that are wanted whole (backends.WithWhole) ride together in
// one session, as far as what comes can be relied on:
//
// Whoever can make a file can forge the end of such a reply, and replies to what follows. So each of them is believed only when a
// number that nobody could foresee has come behind it (wire.Session.Status): all before that is what the server had to say of this
// directory, and of no other. If it does not come the session is given up, with every listing in it that was not believed by then, and
// the directory is not asked for in this way again.
//
// A listing that is doubtful in any way is asked for again by LIST: one with a line that ends in LF alone (a name goes on behind it),
// one that was too long to be kept, one without the directory itself in it (a file, nothing, or what may not be read).

// mostRiders is how many listings are under way in one session: three commands each, of which servers took 256 in one burst.
const mostRiders = 64

// ride is a session in which listings by STAT are asked for, for as long as there are any. It is given back as soon as
// somebody has to wait for a session.
type ride struct {
	ready chan struct{} // closed when lease or err is set
	lease *lease
	err   error

	// Guarded by Backend.mu.
	riders int
	over   bool  // takes nobody on any more; so it is without riders
	broke  error // what became of the session
}

// listShort lists l.dir by STAT. done is false where a LIST must tell; nothing has been yielded then.
func (l *listed) listShort(ctx context.Context) (done bool, err error) {
	b := l.b
	if !b.listsShort(l.dir) {
		return false, nil
	}
	select {
	case b.riders <- struct{}{}:
	case <-ctx.Done():
		return true, context.Cause(ctx)
	}
	l.mark = b.faces.begin()
	told := make(chan []string, 1)
	asks := b.background(func() { // whose end others wait for, and not only the caller
		defer func() { <-b.riders }()
		told <- b.ride(l.dir)
	})
	if !asks {
		<-b.riders
		return true, errClosed
	}
	select {
	case lines := <-told:
		if lines == nil {
			return false, nil
		}
		return true, l.whole(ctx, listing.Status(lines, b.linesOf(l.dir)), wire.Reply{})
	case <-ctx.Done():
		return true, context.Cause(ctx)
	}
}

// listsShort reports whether STAT may tell what is in dir. To vsftpd a name that is no directory any more is a pattern.
func (b *Backend) listsShort(dir string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := &b.learned
	return b.root != "" && b.offered.StatLists && l.echo != silent && !l.forged[dir] && !l.longOnes[dir] &&
		!strings.ContainsAny(dir, "*?{\r\n")
}

// ride asks for dir in the session that others ride in, and returns the lines of the reply; nil if they cannot be relied on.
func (b *Backend) ride(dir string) []string {
	r := b.board()
	defer b.alight(r)
	<-r.ready
	if r.err != nil {
		return nil
	}
	lines, err := b.status(b.ctx, r.lease.Session(), dir)
	if err != nil {
		b.derail(r, err)
		b.o.Logger.Debug("a directory is listed anew", "server", b.o.Address, "name", dir, "err", err)
	}
	return lines
}

// board takes the caller on a ride, which it ends with alight.
func (b *Backend) board() *ride {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.riding
	if r == nil || r.over {
		r = &ride{ready: make(chan struct{}), riders: 1}
		b.riding = r
		b.workers.Go(func() { b.start(r) }) // by a worker, so that Close waits for this one, too
	}
	r.riders++
	return r
}

// start borrows the session, and counts as a rider so long.
func (b *Backend) start(r *ride) {
	if r.lease, r.err = b.take(b.ctx, pool.Meta, again); r.err != nil {
		b.derail(r, r.err)
	}
	close(r.ready)
	if r.err == nil {
		r.lease.Park(func() { b.derail(r, nil) })
	}
	b.alight(r)
}

// derail lets nobody on any more.
func (b *Backend) derail(r *ride, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r.over = true
	if r.broke == nil {
		r.broke = err
	}
}

// alight ends a ride, and with the last rider gives the session back.
func (b *Backend) alight(r *ride) {
	b.mu.Lock()
	r.riders--
	last := r.riders == 0
	if last {
		r.over = true
	}
	broke := r.broke
	b.mu.Unlock()
	if last && r.lease != nil {
		b.giveBack(r.lease, broke)
	}
}

// status asks for the listing of dir, and returns the reply's lines; nil if a LIST must tell. An error means that the session broke.
func (b *Backend) status(ctx context.Context, s *wire.Session, dir string) ([]string, error) {
	if b.known().echo == untried {
		if err := b.tryEcho(ctx, s); err != nil || b.known().echo != echoes {
			return nil, err
		}
	}
	reply, err := s.Status(ctx, b.path(dir), unforeseen())
	switch {
	case errors.Is(err, wire.ErrForged):
		b.distrustDir(dir)
		b.o.Logger.Warn("a name in a directory forges replies of the server", "server", b.o.Address, "name", dir)
		return nil, err
	case reply.Cut:
		b.listsLong(dir)
		return nil, err
	case err != nil, !positive(reply), reply.Bare, !b.showsItself(reply.Lines):
		return nil, err
	}
	if !b.known().zone.Known() && s.Features().MDTM {
		if err := b.learnZone(ctx, s, dir, reply.Lines); err != nil {
			return nil, err
		}
	}
	return reply.Lines, nil
}

// unforeseen returns a number that who made the files of a server cannot have known.
func unforeseen() string {
	var b [8]byte
	rand.Read(b[:]) // never fails
	return strconv.FormatUint(1_000_000+binary.BigEndian.Uint64(b[:])%1_000_000_000, 10)
}

// showsItself reports whether lines are the listing of a directory, as its own name in it proves, and nothing in it may have been
// changed on the way: 0xff has a meaning of its own on a control connection.
func (b *Backend) showsItself(lines []string) bool {
	list := listing.Status(lines, b.lines())
	for e, err := range list.Entries() {
		if err != nil || strings.IndexByte(e.Name, 0xff) >= 0 {
			return false
		}
	}
	_, is := list.Self()
	return is
}

// learnZone has files of a listing tell the time. One listing at a time does: the others have the answer then.
func (b *Backend) learnZone(ctx context.Context, s *wire.Session, dir string, lines []string) error {
	b.clock.Lock()
	defer b.clock.Unlock()
	if b.known().zone.Known() {
		return nil
	}
	return b.askTimes(ctx, s, dir, listing.Status(lines, listing.Options{Now: b.lines().Now, CRLF: true}))
}

// listsLong notes that dir is too long to be listed by STAT.
func (b *Backend) listsLong(dir string) {
	b.learn(func(l *learned) { note(&l.longOnes, dir) })
}

// note adds dir to a set of directories, which is begun anew when it has become too large.
func note(set *map[string]bool, dir string) {
	if *set == nil || len(*set) >= listedKept {
		*set = make(map[string]bool)
	}
	(*set)[dir] = true
}
