// Package ftp fills backends.Backend for FTP and FTPS, over sessions of package wire and listings of package listing.
//
// Names are absolute paths on the wire, always: what a server makes of a name that looks like an option or of its own idea of
// a current directory is never relied on. Commands of one operation leave together: a stat, a small listing, and opening and
// reading a small file are one round trip each on a session that is warm, replacing a file two; a transfer over TLS takes one
// more for its handshake.
//
// Promises. A new content is sent to a temporary name, and takes its own by RNFR and RNTO in a flight that leaves only after
// the server has said that the transfer is complete and that the file has the size it must have. REST is never used for
// writing: servers patch, truncate or append (measured: vsftpd, pure-ftpd, goftp). What a data connection brings is the whole only if the server
// says so afterwards and the size it told is the size that came. A refusal is told apart by asking what bears the name, on the
// error path only, and never by its words. Nothing is deleted to make room for a renaming.
//
// What FTP cannot do is not pretended: see guess. There is no exclusive creation, so that Create asks first and a race remains; no
// change in the middle of a file; no link is made and none told from what it leads to where the server hides it (pyftpdlib);
// times are whole seconds, in listings of LIST minutes or days.
//
// An open file has a transfer of its own, which keeps a session busy only while somebody reads: in between it is parked, and
// taken away when others want the session; the next read goes on where it ended, if the file is still the same, and is ESTALE
// if not. A listing is fetched at the server's pace whatever the caller does meanwhile. So nobody holds a session and waits for another.
//
// Lock order: reader.turn and writer.turn (held over the network, by their own callers), Backend.clock (held over one flight, by
// who holds a session), then Backend.mu, a leaf.
package ftp

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"pierfs/backends"
	"pierfs/backends/ftp/listing"
	"pierfs/backends/ftp/wire"
	"pierfs/backends/pool"
)

// Login is how a session comes about. Its Step is not looked at: see Options.Step.
type Login = wire.Options

// TLS is how FTPS is spoken.
type TLS = wire.TLS

// Options say which server, who we are, and what is asked of it. Login.Address must be set.
type Options struct {
	Login

	// WorkingDir is absolute or relative to the login directory ("" or "~" is that itself).
	WorkingDir string

	MaxSessions int           // at a time; 0 means 4
	IdleTimeout time.Duration // after which no session is left that nobody uses; 0 means never
	Verify      string        // how an upload is checked beyond its size: "" or "size", "hash" where the server can, "readback"; "off" not even by that

	// Sessions are shared with other Backends of the same server and login; nil has them for itself.
	Sessions *Sessions

	Step func(Step) // told of each step of Probe when it has ended; nil if nobody listens
}

// Step is one step of Probe, ended.
type Step struct {
	Name    string // "dns", "tcp", "banner", "tls", "auth", "features", "workingDir", "passive", "data", "list", "roundTrip"
	Took    time.Duration
	Detail  string         // what was found, for people
	Err     error          // *backends.Error; nil if it went well
	Passive netip.AddrPort // what the server told of a data connection, in the step "passive"; the address is invalid where it tells none
	Used    netip.AddrPort // and where it was connected to
	Trips   backends.Trips // of "roundTrip"
}

// Backend is one working directory of one FTP server.
type Backend struct {
	o        Options
	sessions *Sessions
	pool     *pool.Pool[*wire.Session]
	ctx      context.Context // ends with Close
	cancel   context.CancelFunc

	hidden atomic.Uint64
	faces  faces
	riders chan struct{} // has one of each listing by STAT that is under way
	clock  sync.Mutex    // held by who asks what the server's clock shows

	mu      sync.Mutex
	closed  bool
	leases  map[*lease]struct{}
	root    string // absolute, without a slash at the end but for "/"; "" before the first session
	caps    backends.Caps
	offered wire.Features // by the server of the last session
	learned learned
	riding  *ride // in which listings by STAT may take part; nil before the first
	workers sync.WaitGroup
}

// lease is a session lent by the pool.
type lease = pool.Lease[*wire.Session]

// learned is what a server showed of itself beyond FEAT.
type learned struct {
	zone      listing.Zone
	pattern   bool // a listing of "{name}" tells of one entry as lstat does (vsftpd)
	echo      echo
	forged    map[string]bool // directories in which STAT is not to be trusted; guarded by Backend.mu
	longOnes  map[string]bool // those of which STAT does not tell all; guarded by Backend.mu
	plainList bool            // LIST takes no options
	odd       bool            // MLST spells names in its own way
	seals     bool            // TLS data connections end with a close_notify
	madeDir   os.FileMode     // mode of a directory that MKD makes; 0 if unknown
	anyBytes  bool            // names need not be UTF-8
	stores    bool            // a content has been taken
	noPerm    bool            // SITE CHMOD is not known
	noTimes   bool            // nor is any way to set a time
	lineEnds  proof           // names may have CR and LF in them
	noReplace bool            // no file may take the name of another
}

// echo is whether replies to STAT can be trusted, see Backend.question.
type echo uint8

const (
	untried echo = iota
	echoes       // REST repeats the number that it is told
	silent       // it does not, or somebody has forged replies
)

var _ backends.Backend = (*Backend)(nil)

// New returns a Backend for o, or EINVAL for options that cannot work. It does no network I/O.
func New(o Options) (*Backend, error) {
	if _, _, err := net.SplitHostPort(o.Address); err != nil {
		return nil, seam("connect", "", refuse(syscall.EINVAL, "address %q: %w", o.Address, err))
	}
	if !slices.Contains([]string{"", "off", "size", "hash", "readback"}, o.Verify) {
		return nil, seam("connect", "", refuse(syscall.EINVAL, "verify %q is none of off, size, hash, readback", o.Verify))
	}
	if o.ConnectTimeout <= 0 {
		o.ConnectTimeout = 10 * time.Second
	}
	if o.SocketTimeout <= 0 {
		o.SocketTimeout = 30 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.Login.Step = nil
	b := &Backend{o: o, sessions: o.Sessions, leases: make(map[*lease]struct{}), riders: make(chan struct{}, mostRiders), caps: guess(o)}
	if b.sessions == nil {
		b.sessions = new(Sessions)
	}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	b.pool = b.sessions.borrow(&b.o)
	return b, nil
}

// guess is what a server can do that has not been asked yet.
func guess(o Options) backends.Caps {
	c := backends.Caps{
		Protocol: "FTP", Append: true, Replace: true, SetPerm: true, SetTimes: true,
		FirstTime: time.Unix(0, 0), LastTime: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
		TimeUnit: time.Second, MaxRead: 1 << 20, MaxWrite: 1 << 20,
		Streams: pool.ForContent(o.MaxSessions), Shorts: pool.Sessions(o.MaxSessions),
	}
	if o.TLS != nil {
		c.Protocol = "FTPS"
	}
	return c
}

// Caps tells what the server of the last session can do.
func (b *Backend) Caps() backends.Caps {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.caps
	c.SetPerm = c.SetPerm && !b.learned.noPerm
	c.SetTimes = c.SetTimes && !b.learned.noTimes
	c.Replace = c.Replace && !b.learned.noReplace
	c.ManyLists = b.offered.StatLists && b.learned.echo != silent
	c.Hidden = b.hidden.Load()
	return c
}

// know takes in what a session tells of its server.
func (b *Backend) know(f wire.Features) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.offered = f
	b.caps.Server = f.Server
	b.caps.SetPerm = f.Chmod
	b.caps.SetTimes = f.MFMT || f.MDTMSets || slices.Contains(f.MFF, "modify")
	b.caps.StatFS = offers(f, "AVBL")
	b.caps.Sums = sums(f)
	if isPure(f) && b.caps.ListLimit == 0 {
		b.caps.ListLimit = pureLimit
	}
}

// learn changes what is known of the server.
func (b *Backend) learn(f func(*learned)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f(&b.learned)
}

func (b *Backend) known() learned {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.learned
}

// learnOwner takes the owner of a file that we have just made for our own.
func (b *Backend) learnOwner(made backends.Info) {
	if !made.Known.Has(backends.HasOwner) {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.caps.UID, b.caps.GID, b.caps.HasLogin = made.UID, made.GID, true
}

// Root returns the absolute path of the working directory as the server names it; "" before the first session. It never
// blocks.
func (b *Backend) Root() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.root
}

// repeat says what may be done about a session that turns out to be dead when it is used again after a while.
type repeat bool

const (
	again repeat = true  // asked a second time, whatever the first has done
	once  repeat = false // asked only of a session that has just shown to be alive
)

// use runs f with a session, which f uses alone until it returns. A session that others have closed while it was idle is
// replaced without f's caller noticing.
func (b *Backend) use(ctx context.Context, op, name string, r repeat, f func(context.Context, *wire.Session) error) error {
	if err := b.check(ctx, op, name); err != nil {
		return err
	}
	ctx, loosen := b.bind(ctx)
	defer loosen()
	for lively := 0; ; {
		l, err := b.take(ctx, pool.Meta, r)
		if err != nil {
			return b.seam(op, name, err)
		}
		err = f(ctx, l.Session())
		if !b.replaced(l, err, &lively) || r == once || ctx.Err() != nil {
			return b.seam(op, name, err)
		}
	}
}

// replaced gives l back after err and reports whether the next session may do: it had been dead all along, or broke when it had
// just been used; that is believed once, for the server may have closed it in this moment.
func (b *Backend) replaced(l *lease, err error, lively *int) bool {
	broke := err != nil && !l.Made() && !l.Session().Healthy() && isBroken(err) && backends.CauseOf(err) != backends.CauseSilent
	if b.giveBack(l, err) {
		return true
	}
	if broke {
		*lively++
	}
	return broke && *lively == 1 && b.ctx.Err() == nil
}

// check returns why nothing can be sent for name.
func (b *Backend) check(ctx context.Context, op string, names ...string) error {
	if b.ctx.Err() != nil {
		return seam(op, names[0], errClosed)
	}
	if ctx.Err() != nil {
		return seam(op, names[0], context.Cause(ctx))
	}
	for _, name := range names {
		if err := b.checkName(ctx, op, name); err != nil {
			return err
		}
	}
	return nil
}

// bind returns ctx, ended with the Backend too. loosen frees what hangs on it.
func (b *Backend) bind(ctx context.Context) (bound context.Context, loosen func()) {
	bound, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(b.ctx, func() { cancel(errClosed) })
	return bound, func() {
		stop()
		cancel(nil)
	}
}

// take lends a session that knows the working directory. One that was idle for long is asked for a sign of life first where
// what follows must not be sent twice.
func (b *Backend) take(ctx context.Context, kind pool.Kind, r repeat) (*lease, error) {
	for {
		l, err := b.pool.Take(ctx, kind)
		if err != nil {
			return nil, err
		}
		b.mu.Lock()
		b.leases[l] = struct{}{}
		b.mu.Unlock()
		s := l.Session()
		if r == once && !l.Fresh() {
			if _, err := s.Do(ctx, "NOOP"); err != nil {
				if stale := b.giveBack(l, err); stale && ctx.Err() == nil {
					continue
				}
				return nil, err
			}
		}
		if err := b.enter(ctx, s); err != nil {
			if stale := b.giveBack(l, err); stale && ctx.Err() == nil {
				continue
			}
			return nil, err
		}
		return l, nil
	}
}

// giveBack returns a session to the pool after it was used with the result err, and reports whether it had been dead all
// along: then the next may do.
func (b *Backend) giveBack(l *lease, err error) (stale bool) {
	b.mu.Lock()
	delete(b.leases, l)
	b.mu.Unlock()
	if err == nil || l.Session().Healthy() || !isBroken(err) {
		l.Release()
		return false
	}
	stale = !l.Fresh() && b.ctx.Err() == nil
	l.Discard()
	return stale
}

// enter makes sure that the working directory is known, and what the session's server can do.
func (b *Backend) enter(ctx context.Context, s *wire.Session) error {
	if b.Root() != "" {
		return nil
	}
	root, err := b.resolve(ctx, s)
	if err != nil {
		return err
	}
	b.know(s.Features())
	b.mu.Lock()
	defer b.mu.Unlock()
	b.root = root
	return nil
}

// background runs f in a goroutine that Close waits for. After Close it does nothing.
func (b *Backend) background(f func()) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed {
		b.workers.Go(f)
	}
	return !b.closed
}

// Close gives up the sessions. Files still open answer ESHUTDOWN.
func (b *Backend) Close() error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil
	}
	b.closed = true
	held := make([]*lease, 0, len(b.leases))
	for l := range b.leases {
		held = append(held, l)
	}
	b.mu.Unlock()
	b.cancel()
	for _, l := range held {
		l.Session().Close()
		l.Discard()
	}
	b.sessions.giveBack(&b.o)
	b.workers.Wait()
	return nil
}

// ScanCertificate returns the chain that the server of o shows, without believing it and without a login.
func ScanCertificate(ctx context.Context, o Options) ([]*x509.Certificate, error) {
	return wire.ScanCertificate(ctx, o.Login)
}

// ScanVersion returns the newest version of TLS that the server of o and we both speak, however old it is, without a login.
func ScanVersion(ctx context.Context, o Options) (uint16, error) {
	return wire.ScanVersion(ctx, o.Login)
}

// errClosed is why nothing goes on after Close.
var errClosed = errors.New("the connection is closed")
