package sftp

import (
	"context"
	"fmt"
	"hash/maphash"
	"iter"
	"os"
	"syscall"
	"time"

	"pierfs/backends"
	"pierfs/backends/netconn"
)

const (
	firstReads = 4  // READDIRs in the flight after OPENDIR: enough for 300 names of OpenSSH and the end
	moreReads  = 64 // READDIRs on their way in a long directory: 10,000 names in 4 round trips (OpenSSH)

	// Bounds of one directory. What is remembered here of an entry is 8 bytes, to know names that come twice; those above
	// remember more.
	maxEntries   = 1_000_000
	maxNameBytes = 64 << 20
)

// Stat describes name without following a link. One round trip.
func (b *Backend) Stat(ctx context.Context, name string) (info backends.Info, err error) {
	err = b.do(ctx, "stat", name, func(s *session) error {
		info, err = s.lstat(ctx, name)
		if failed(err, statusBadMessage) {
			err = s.whyPath(ctx, name, err)
		}
		if err == nil && info.Mode.IsRegular() {
			s.expect(info.Size) // who looks at one file is likely to open it
		}
		return err
	})
	if err == nil && special(info) {
		b.specials.note(name)
	}
	return info, err
}

// List yields the entries of dir. A small directory is two round trips; the closing of the handle waits for company.
func (b *Backend) List(ctx context.Context, dir string) iter.Seq2[backends.Info, error] {
	return func(yield func(backends.Info, error) bool) {
		yielded, stopped := false, false
		err := b.do(ctx, "list", dir, func(s *session) error {
			for info, err := range b.list(ctx, s, dir) {
				if err != nil {
					if f, ok := err.(*fault); ok && yielded {
						f.sent = true // not to be begun again from the start
					}
					return err
				}
				yielded = true
				if !yield(info, nil) {
					stopped = true
					return nil
				}
			}
			return nil
		})
		if err != nil && !stopped {
			yield(backends.Info{}, err)
		}
	}
}

// list is List in one session, with errors as they are.
func (b *Backend) list(ctx context.Context, s *session, dir string) iter.Seq2[backends.Info, error] {
	return func(yield func(backends.Info, error) bool) {
		handle, err := s.openDir(ctx, dir)
		if err != nil {
			yield(backends.Info{}, err)
			return
		}
		l := &listing{b: b, s: s, dir: dir, handle: handle, seed: maphash.MakeSeed(), names: make(map[uint64]struct{})}
		defer l.close()
		if err := l.run(ctx, func(i backends.Info) bool { return yield(i, nil) }); err != nil {
			yield(backends.Info{}, err)
		}
	}
}

// openDir opens dir, if it lies inside the working directory when all links in it are followed. A server that resolves
// no links cannot be asked; who confines names (jail) does not rely on it.
func (s *session) openDir(ctx context.Context, dir string) (handle string, err error) {
	f := s.meta.flight()
	real := f.add(pathFrame(typeRealpath, s.path(dir)))
	open := f.add(pathFrame(typeOpendir, s.path(dir)))
	open.late = s.closeLate
	f.send(urgent)
	f.wait(ctx)
	handle, err = open.reply.handle()
	if err != nil {
		return "", s.whyDir(ctx, dir, err)
	}
	if err := s.confined(real.reply); err != nil {
		s.meta.closeSoon(handle)
		return "", err
	}
	return handle, nil
}

// confined returns nil unless the server says that a path leads out of the working directory.
func (s *session) confined(real reply) error {
	path, err := real.path()
	if err != nil {
		if _, ok := real.err.(*fault); ok {
			return err
		}
		return nil // the request beside it says better what is wrong
	}
	if _, inside := s.within(path); !inside {
		return refuse(syscall.EACCES, "it leads to %q, out of the working directory", path)
	}
	return nil
}

// whyDir says more of a refused OPENDIR.
func (s *session) whyDir(ctx context.Context, dir string, err error) error {
	if vague(err) || failed(err, statusNoSuchFile, statusPermissionDenied) {
		info, unknown := s.ask(ctx, pathFrame(typeStat, s.path(dir))).info("")
		if lost := unexplained(err, unknown); lost != nil {
			return lost
		}
		if unknown == nil && info.Known.Has(backends.HasType) && !info.IsDir() {
			return as(syscall.ENOTDIR, err)
		}
	}
	return s.whyPath(ctx, dir, err)
}

// closeLate closes a handle that arrived when nobody waited for it any more.
func (s *session) closeLate(r reply) {
	if handle, err := r.handle(); err == nil {
		s.meta.closeSoon(handle)
	}
}

// closeSoon sends a CLOSE with whatever leaves next; nobody waits for the answer.
func (m *mux) closeSoon(handle string) {
	f := m.flight()
	f.add(pathFrame(typeClose, handle))
	f.sendLazily()
}

// listing is one directory being read.
type listing struct {
	b      *Backend
	s      *session
	dir    string
	handle string
	reads  []*call // on their way, oldest first
	seed   maphash.Seed
	names  map[uint64]struct{} // hashes of the names seen; the first of two equal ones wins
	bytes  int                 // of the names that came, the hidden ones included
	count  int                 // of the names that came, and of answers without one
}

// run reads to the end or until yield returns false. READDIRs travel in batches. The first is small and must be answered
// whole, so that a short directory costs a single flight; from then on the next leave when half of the last are
// answered, so that a long directory keeps the line full.
func (l *listing) run(ctx context.Context, yield func(backends.Info) bool) error {
	l.more(firstReads)
	floor := progress{timeout: l.s.o.SocketTimeout}
	refill := 0
	for ended := false; len(l.reads) > 0; {
		c, asked := l.reads[0], time.Now()
		r := c.wait(ctx)
		if r.err != nil {
			return r.err
		}
		l.reads = l.reads[1:]
		switch {
		case r.kind == typeName:
			if ended {
				return fmt.Errorf("%w: names after the end of the listing", errMalformed)
			}
			goOn, err := l.take(r.body, yield)
			if err != nil || !goOn {
				return err
			}
			if err := floor.add(len(r.body), time.Since(asked)); err != nil {
				return err
			}
		case failed(r.status(), statusEOF):
			ended = true
		default:
			if ended {
				continue // what a server says of reading on past the end does not matter
			}
			return l.s.whyHandle(r.refusal())
		}
		if !ended && len(l.reads) <= refill {
			l.more(moreReads - len(l.reads))
			refill = moreReads / 2
		}
	}
	return nil
}

func (l *listing) more(n int) {
	f := l.s.meta.flight()
	for range n {
		f.add(pathFrame(typeReaddir, l.handle))
	}
	l.reads = append(l.reads, f.calls...)
	f.send(urgent)
}

// take yields the names of one reply.
func (l *listing) take(body []byte, yield func(backends.Info) bool) (goOn bool, err error) {
	before := l.count
	goOn = true
	err = parseNames(body, func(e entry) bool {
		if e.name == "." || e.name == ".." {
			return true
		}
		if l.count, l.bytes = l.count+1, l.bytes+len(e.name); l.count > maxEntries || l.bytes > maxNameBytes {
			return false
		}
		hash := maphash.String(l.seed, e.name)
		info := e.info()
		_, twice := l.names[hash]
		if twice || backends.CheckElement(e.name) != 0 || info.Mode&os.ModeIrregular != 0 {
			l.b.hidden.Add(1)
			return true
		}
		l.names[hash] = struct{}{}
		if special(info) {
			l.b.specials.note(join(l.dir, e.name))
		}
		goOn = yield(info)
		return goOn
	})
	if l.count == before {
		l.count++ // an answer of no name brings the end nearer too
	}
	if err == nil && (l.count > maxEntries || l.bytes > maxNameBytes) {
		err = refuse(syscall.EOVERFLOW, "the listing goes on beyond %d entries or %d MiB of names", maxEntries, maxNameBytes>>20)
	}
	return goOn, err
}

// close frees the handle. READDIRs still on their way are answered before it.
func (l *listing) close() {
	for _, c := range l.reads {
		c.abandon(&fault{sent: true, err: context.Canceled})
	}
	l.s.meta.closeSoon(l.handle)
}

// progress is the floor under an operation of many small answers: each may come in time, and all of them be too little.
// Only the time spent waiting counts, not what a slow caller takes.
type progress struct {
	timeout time.Duration
	waited  time.Duration
	came    int
}

func (p *progress) add(n int, waited time.Duration) error {
	p.came += n
	p.waited += waited
	switch {
	case p.came >= netconn.Floor:
		p.came, p.waited = 0, 0
	case p.waited >= p.timeout:
		return &fault{sent: true, err: netconn.ErrSilent}
	}
	return nil
}

func join(dir, element string) string {
	if dir == "" {
		return element
	}
	return dir + "/" + element
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprint(n, " ", many)
}
