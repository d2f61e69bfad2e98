// Package sftp fills backends.Backend for the SSH file transfer protocol, version 3 with OpenSSH's extensions.
//
// It is pkg/sftp and x/crypto/ssh on a connection of ours (netconn) with a frame multiplexer of ours in between. What is
// hot goes past pkg/sftp: requests of one operation leave together, so that a stat is one round trip, a small listing
// two, reading a small file two, and replacing one three. What that buys and what pkg/sftp loses is measured in the
// project's protocol notes; the calls that lose data (WriteTo, io.Copy from a File, ReadAt beyond a packet) are not used.
//
// Promises. A new content replaces the old by one rename, and that rename leaves only after the server has answered well
// for every byte, for the size and for the closing; servers run the next request even when the one before failed. A
// reply may come short, late, never, or be nonsense: it costs an error, never a panic, a hang or a wrong byte. New does
// no network I/O; a session is dialled at the first call, shared by all, and replaced when it is dead, without anybody
// noticing whose request had not left yet. A request that left and stays without an answer is Class Lost.
//
// What version 3 cannot do is not pretended: times are whole seconds from 1970 to 2106 (anything else is EINVAL), there
// is no number of links and no identity of a file, and no way to ask who we are (see session.learnLogin for what serves
// instead). OpenSSH answers FAILURE to most refusals; errno.go asks on, only then, what was meant.
//
// A Backend has at most one session in use; a session has one channel for everything but content and, once files are long, others
// for content, so that a bulk transfer never stands before a stat in a queue of ours. A window of 2 MiB a round trip is what one
// channel carries; on long ways a long file is therefore read and written by several (channels.go, ways.go), each with a handle of
// its own that was shown to be of the same file. A channel that is refused or dies is missed by nobody.
//
// Lock order: Backend.mu, session.mu, mux.mu, call.mu; ways.mu and reader.mu are taken before mux.mu; writer.mu and queue.mu are
// leaves. None is held while waiting for the server; a writer's turn is, by its own callers.
package sftp

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"math"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"pierfs/backends"
	"pierfs/backends/trace"
)

// Options say which server, who we are, and how long to wait. Address and Username must be set.
type Options struct {
	Address  string // host:port
	Username string

	// Password answers the methods "password" and "keyboard-interactive"; nil offers neither. It is asked at each login
	// and its result is not kept.
	Password func() (string, error)

	PrivateKey      func() (string, error) // PEM text; wins over the file; nil if there is none
	PrivateKeyFile  string
	Passphrase      func() (string, error) // of the private key; nil if there is none
	CertificateFile string                 // OpenSSH certificate for the private key or for a key of the agent
	Agent           bool
	AgentSocket     string // path; "" means $SSH_AUTH_SOCK

	LegacyAlgorithms bool // also offer what x/crypto/ssh calls insecure

	// HostKey is the one fingerprint ("SHA256:...") that is accepted. "" consults KnownHostsFiles and Trusted.
	HostKey         string
	KnownHostsFiles []string // a missing file is an empty one
	// Trusted returns the keys that are believed for an address besides; nil for none.
	Trusted func(address string) []TrustedKey

	// WorkingDir is absolute or relative to the login directory ("" or "~" is that itself); the server resolves it.
	WorkingDir string

	// Verify is how an upload is compared beyond its size: "" or "size", "hash" by the server's checksum, or "readback", which is
	// what "hash" is as well where the server computes none; "off" takes the server's word, whatever size it tells.
	Verify string

	ConnectTimeout time.Duration // for each of dns, tcp, handshake and login; 0 means 10 s
	SocketTimeout  time.Duration // without progress; 0 means 30 s
	IdleTimeout    time.Duration // after which a session that nobody uses is closed; 0 means never

	Logger *slog.Logger // nil is silent

	// Step is told of each step of a login, in order; nil if nobody listens. It must not block.
	Step func(Step)

	// Trace keeps what is said, without content and secrets; nil keeps nothing.
	Trace *trace.Ring
	trace *trace.Session // of the login that is being made, and then of its session

	// Dial stands in for name resolution and the net package: it leads through another host, or is a test's. Its *backends.Error is passed on
	// as it is. nil is the network.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	hangUps *atomic.Int32 // logins in a row that ended when the password had been shown; see noLogin
	plain   *atomic.Bool  // the server offers to replace a name in one step, and refuses it
}

// Step is one step of a login or of Probe, ended.
type Step struct {
	Name   string // "dns", "tcp", "ssh", "auth", "workingDir", "list", "roundTrip"
	Took   time.Duration
	Detail string         // what was found, for people
	Err    error          // *backends.Error; nil if it went well
	Trips  backends.Trips // of "roundTrip"
}

// TrustedKey is a host key that somebody has chosen to believe.
type TrustedKey struct {
	Type string // "ssh-ed25519" ...
	Blob []byte // in SSH wire format
}

// Backend is one working directory of one SFTP server.
type Backend struct {
	o      Options
	ctx    context.Context // ends with Close
	cancel context.CancelFunc

	// connect makes a session; tests put a pipe in its place.
	connect func(context.Context) (*session, error)

	hidden   atomic.Uint64
	linkless atomic.Bool // the server offers links, and its files have none
	lasting  atomic.Bool // the server lets nothing be removed
	specials specials

	mu      sync.Mutex
	current *session
	dialing *attempt
	closed  bool
	caps    backends.Caps // of the last session, or the best guess
	workers sync.WaitGroup
}

var _ backends.Backend = (*Backend)(nil)

// attempt is one login on its way, shared by all who wait for it.
type attempt struct {
	done    chan struct{}
	session *session
	err     error
}

// New returns a Backend for o, or EINVAL for options that cannot work. It does no network I/O.
func New(o Options) (*Backend, error) {
	if o.Address == "" || o.Username == "" {
		return nil, seam("connect", "", refuse(syscall.EINVAL, "address and username must be given"))
	}
	if _, _, err := net.SplitHostPort(o.Address); err != nil {
		return nil, seam("connect", "", refuse(syscall.EINVAL, "address %q: %w", o.Address, err))
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
	o.hangUps, o.plain = new(atomic.Int32), new(atomic.Bool)
	b := &Backend{o: o, caps: guess()}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	b.connect = func(ctx context.Context) (*session, error) { return dial(ctx, &b.o) }
	return b, nil
}

// guess is what a server can do that has not been asked yet: what OpenSSH can.
func guess() backends.Caps {
	return backends.Caps{
		Protocol: "SFTP", RandomRead: true, RandomWrite: true, Append: true, Replace: true, Exclusive: true,
		Symlink: true, Link: true, SetPerm: true, SetOwner: true, SetTimes: true, Truncate: true, Fsync: true, StatFS: true,
		FirstTime: time.Unix(0, 0), LastTime: time.Unix(math.MaxUint32, 0), TimeUnit: time.Second, MaxRead: bestPayload, MaxWrite: bestPayload,
	}
}

func (s *session) caps() backends.Caps {
	c := guess()
	c.Server = s.server
	c.Replace = s.meta.offers(extPosixRename)
	c.Link = s.meta.offers(extHardlink)
	c.Fsync = s.meta.offers(extFsync)
	c.TakeOver = s.takesOver()
	c.Sums = s.meta.offers(extCheckFile)
	c.StatFS = s.meta.offers(extStatVFS)
	c.MaxRead, c.MaxWrite = s.maxRead, s.maxWrite
	c.UID, c.GID, c.HasLogin = s.login.uid, s.login.gid, s.login.known
	return c
}

// Caps tells what the server of the last session can do.
func (b *Backend) Caps() backends.Caps {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.caps
	c.Hidden = b.hidden.Load()
	c.Link = c.Link && !b.linkless.Load()
	c.Replace = c.Replace && !b.o.plain.Load()
	return c
}

// learnOwner takes the owner of a file that we have just made for our own: on no server known does a login make files
// that belong to somebody else. Its group may be the directory's, so that a group known better stays.
func (b *Backend) learnOwner(made backends.Info) {
	if !made.Known.Has(backends.HasOwner) {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.caps.HasLogin || b.caps.UID != made.UID {
		b.caps.UID, b.caps.GID, b.caps.HasLogin = made.UID, made.GID, true
	}
}

// session returns the session in use, after a login if need be. All who need one share the same login.
func (b *Backend) session(ctx context.Context) (*session, error) {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil, &fault{err: errClosed}
	}
	if b.current != nil && b.current.alive() {
		defer b.mu.Unlock()
		return b.current, nil
	}
	if b.dialing == nil {
		b.dialing = &attempt{done: make(chan struct{})}
		a := b.dialing
		b.workers.Go(func() { b.login(a) })
	}
	a := b.dialing
	b.mu.Unlock()
	select {
	case <-a.done:
		return a.session, a.err
	case <-ctx.Done():
		return nil, &fault{err: context.Cause(ctx)}
	}
}

// login makes the session that attempt a is about.
func (b *Backend) login(a *attempt) {
	s, err := b.connect(b.ctx)
	b.mu.Lock()
	old := b.current
	b.dialing = nil
	switch {
	case err != nil:
		b.current = nil
	case b.closed:
		err = &fault{err: errClosed}
	default:
		b.current = s
		known := b.caps
		b.caps = s.caps()
		if !b.caps.HasLogin {
			b.caps.UID, b.caps.GID, b.caps.HasLogin = known.UID, known.GID, known.HasLogin
		}
	}
	a.session, a.err = s, err
	b.mu.Unlock()
	close(a.done)
	if old != nil {
		old.close()
	}
	if err != nil && s != nil {
		s.close()
	}
}

// do runs f with a session. If the session turns out to be dead before f's first request has left, f runs again with
// another: the caller need not know that a server has closed an idle connection.
func (b *Backend) do(ctx context.Context, op, name string, f func(*session) error) error {
	if err := backends.CheckName(op, name); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return seam(op, name, &fault{err: context.Cause(ctx)})
	}
	for try := 0; ; try++ {
		s, err := b.session(ctx)
		if err == nil {
			err = f(s)
			if try < 2 && unsent(err) {
				continue
			}
		}
		return seam(op, name, err)
	}
}

// background runs f in a goroutine that Close waits for; f must end with the session. After Close it does nothing.
func (b *Backend) background(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed {
		b.workers.Go(f)
	}
}

// Close gives up the session. Files still open answer ESHUTDOWN.
func (b *Backend) Close() error {
	b.mu.Lock()
	s := b.current
	b.current, b.closed = nil, true
	b.mu.Unlock()
	b.cancel()
	if s != nil {
		s.close()
	}
	b.workers.Wait()
	return nil
}

// Probe logs in anew, tells Options.Step of each step, lists the working directory as the last, and returns what keeps
// the connection from working. It leaves the session in use alone.
func (b *Backend) Probe(ctx context.Context) error {
	s, err := b.connect(ctx)
	if err != nil {
		return seam("connect", "", err)
	}
	defer s.close()
	begun, n := time.Now(), 0
	for _, failure := range b.list(ctx, s, "") {
		if err = failure; err == nil {
			n++
		}
	}
	e := seam("list", "", err)
	if failure, ok := errors.AsType[*backends.Error](e); ok && failure.Code == syscall.EACCES {
		failure.Cause = backends.CauseListPermission
		failure.Hint = "let the login read the working directory, or name another one as workingDir"
	}
	b.o.step(Step{Name: "list", Took: time.Since(begun), Detail: plural(n, "entry", "entries"), Err: e})
	if e == nil {
		b.probeTrips(ctx, s)
	}
	return e
}

// probeTrips measures what one question costs. A server that goes away now has shown that the connection works all the same.
func (b *Backend) probeTrips(ctx context.Context, s *session) {
	begun := time.Now()
	trips := backends.MeasureTrips(ctx, func(ctx context.Context) error {
		_, err := s.lstat(ctx, "")
		return err
	})
	if len(trips) > 0 {
		b.o.step(Step{Name: "roundTrip", Took: time.Since(begun), Trips: trips})
	}
}

// specialsKept bounds how many names of pipes and devices are remembered.
const specialsKept = 4096

// specials remembers names that were seen to be neither file, directory nor link. Opening a named pipe would stop the
// server's process for good, so that such a name is looked at once more before it is opened. Names that nobody has seen
// yet are not asked about: that would cost every file a round trip.
type specials struct {
	mu    sync.Mutex
	names map[string]struct{}
}

func special(i backends.Info) bool {
	return i.Mode&(os.ModeNamedPipe|os.ModeSocket|os.ModeDevice|os.ModeIrregular) != 0
}

func (s *specials) note(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.names == nil {
		s.names = make(map[string]struct{})
	}
	for old := range maps.Keys(s.names) {
		if len(s.names) < specialsKept {
			break
		}
		delete(s.names, old)
	}
	s.names[name] = struct{}{}
}

func (s *specials) has(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.names[name]
	return ok
}
