// Package dial makes a ready Backend of a Target: it is the one list of protocols, and the one order of wrappers.
//
// From the caller down: retry > meter > jail > charset > failover > protocol, failover only where there are hosts to fall
// back on. Retry is outermost, so that its questions after a lost
// reply are metered and confined as well; the meter sees each attempt; the jail judges the names that programs see, and nothing
// but their translation, which keeps slashes where they are, stands between it and the protocol, so that nothing gets around
// it. Dial touches no network: the first call does.
package dial

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"pierfs/backends"
	"pierfs/backends/failover"
	"pierfs/backends/jail"
	"pierfs/backends/meter"
	"pierfs/backends/retry"
	"pierfs/backends/trace"
	"pierfs/conncfg"
	"pierfs/conncfg/trust"
)

// Options are what a connection needs besides its Target. The zero value trusts no host key but a pinned one, and no
// certificate but a pinned one and those that the authorities vouch for.
type Options struct {
	Logger   *slog.Logger      // nil is silent
	Observer backends.Observer // told of each call that crossed the wire; nil if nobody listens
	State    func(retry.State) // told when the server goes away and comes back; nil if nobody listens

	// Trusted returns the host keys believed for host:port, as trust.Store.HostKeys does. It is asked at each login, so that
	// what is trusted meanwhile counts at the next.
	Trusted func(address string) ([]trust.HostKey, error)

	KnownHostsFiles []string // consulted besides the Target's own

	// TrustedCertificates is the same for the fingerprints of certificates, as trust.Store.Certificates gives them.
	TrustedCertificates func(address string) ([]string, error)

	// Certificate is told at each login which certificate the server at host:port has shown, by its fingerprint, and when it
	// ends. It must not block; nil if nobody listens.
	Certificate func(address, fingerprint string, notAfter time.Time)

	// Trace keeps what is said to and from the server, without content and secrets; nil keeps nothing.
	Trace *trace.Ring

	// Login is told each step of each login of a Backend in service, also of the sessions that are added to others. It must not block; nil
	// if nobody listens. Logins that several connections share are told to the one that needed them first.
	Login func(Step)

	// Shared is what this connection has in common with others of the process; nil shares nothing.
	Shared *Shared

	// Secrets returns the Target with its secrets as they are now. It is asked at each login for those that the Target has, so
	// that a password which was changed at its source counts at the next. Nil: they stay as they are.
	Secrets func() conncfg.Target
}

// Step is one step of a login or of Test, ended.
type Step struct {
	Name   string // "dns", "tcp", "ssh" or "banner" and "tls", "auth", "features", "workingDir", "passive", "data", "list", "roundTrip"
	Took   time.Duration
	Detail string // what was found, for people
	Err    error  // *backends.Error with Cause and Hint; nil if it went well

	Warning   string   // what went well and is odd all the same
	Privilege string   // of a step "privilege": what was tried, as the tries of Privileges are called
	May       May      // and whether the login is allowed it
	Left      []string // names of ours that may be left in the working directory

	Trips    backends.Trips // of a step "roundTrip": what a small question cost, several times
	Proposed Timeouts       // and which timeouts go with it
}

// protocol is what the Backend of each protocol offers to this package beyond the seam.
type protocol interface {
	backends.Backend
	Root() string                    // what the server calls the working directory; "" before the first session
	Probe(ctx context.Context) error // logs in afresh and tells each step
}

// speaker makes the Backends of one protocol, and asks its servers who they are.
type speaker struct {
	connect func(t conncfg.Target, o Options, step func(Step)) (protocol, error)
	scan    func(ctx context.Context, t conncfg.Target, o Options, want string) (trust.Identity, error)
}

// speakers is the list of protocols.
var speakers = map[conncfg.Protocol]speaker{
	conncfg.SFTP: {connectSFTP, scanSFTP},
	conncfg.FTP:  {connectFTP, scanFTP},
	conncfg.FTPS: {connectFTP, scanFTPS},
}

func speakerOf(p conncfg.Protocol) (speaker, error) {
	s, ok := speakers[p]
	if !ok {
		return s, unsupported(p)
	}
	return s, nil
}

// Dial returns the Backend of t, which connects at its first call and again whenever it must. A Target that cannot work at
// all is an error at once.
func Dial(t conncfg.Target, o Options) (*retry.Backend, error) {
	n, err := namesOf(t)
	if err != nil {
		return nil, err
	}
	p, err := connectAll(t, n, o)
	if err != nil {
		return nil, err
	}
	roots := func() []string {
		roots := []string{t.WorkingDir}
		for _, host := range p.hosts {
			roots = append(roots, n.decode(host.Root()))
		}
		return roots
	}
	return wrap(n.translate(p.Backend), t, o, roots), nil
}

// several is the hosts of a connection as one Backend.
type several struct {
	backends.Backend
	hosts []protocol
}

// connectAll returns the bare protocol, of all hosts of t.
func connectAll(t conncfg.Target, n names, o Options) (several, error) {
	var all several
	var hosts []failover.Host
	for _, host := range t.Hosts() {
		p, err := connect(host, n, o, nil)
		if err != nil {
			for _, made := range all.hosts {
				made.Close()
			}
			return several{}, err
		}
		all.hosts = append(all.hosts, p)
		hosts = append(hosts, failover.Host{Name: host.Address(), Backend: p})
	}
	if len(hosts) == 1 {
		all.Backend = all.hosts[0]
		return all, nil
	}
	all.Backend = failover.New(hosts, failover.Options{
		Timeout: t.ConnectTimeout + t.SocketTimeout,
		Moved: func(from, to string) {
			if o.Logger != nil {
				o.Logger.Warn("another host answers", "from", from, "to", to)
			}
		},
	})
	return all, nil
}

// connect returns the bare protocol.
func connect(t conncfg.Target, n names, o Options, step func(Step)) (protocol, error) {
	s, err := speakerOf(t.Protocol)
	if err != nil {
		return nil, err
	}
	if t.WorkingDir, err = n.encode(t.WorkingDir); err != nil {
		return nil, err
	}
	return s.connect(t, o, step)
}

// wrap puts the wrappers around a protocol's Backend. roots is what the server calls the working directory.
func wrap(protocol backends.Backend, t conncfg.Target, o Options, roots func() []string) *retry.Backend {
	confined := jail.New(protocol, jail.Options{ReadOnly: t.ReadOnly, Roots: roots})
	return retry.New(meter.New(confined, o.Observer), Policy(t), retry.Options{State: o.State})
}

// Policy returns how calls of t are repeated; whole uploads are repeated by the same.
func Policy(t conncfg.Target) retry.Policy {
	return retry.Policy{Count: t.RetryCount, Timeout: max(t.ConnectTimeout, t.SocketTimeout), Auth: t.RetryAuth}
}

// Test logs in to t afresh, once and without repetition, and reports each step when it has ended, in order: what keeps the
// connection from working is in the last one, and returned. Where t has hosts to fall back on, each of them is tried, and the
// first error is returned.
func Test(ctx context.Context, t conncfg.Target, o Options, report func(Step)) error {
	return Try(ctx, t, o, Tries{}, report)
}

// Try is Test, and tries more where that went well.
func Try(ctx context.Context, t conncfg.Target, o Options, tries Tries, report func(Step)) error {
	if tries.Write && t.ReadOnly {
		return &backends.Error{Op: "write", Code: syscall.EROFS, Err: errors.New("the definition has readOnly = true: nothing is written to the server"),
			Hint: "leave the probe out, or take readOnly out of the definition"}
	}
	hosts := t.Hosts()
	if len(hosts) == 1 {
		return tryHost(ctx, t, o, tries, report)
	}
	var first error
	for _, host := range hosts {
		err := tryHost(ctx, host, o, tries, func(s Step) {
			s.Detail = host.Address() + ": " + s.Detail
			report(s)
		})
		first = cmp.Or(first, err)
	}
	return first
}

func tryHost(ctx context.Context, t conncfg.Target, o Options, tries Tries, report func(Step)) error {
	n, err := namesOf(t)
	if err != nil {
		return err
	}
	p := patience{of: t}
	w := watch{report: report, told: func(s Step) Step {
		if s.Name == "workingDir" {
			s.Detail = n.decode(s.Detail)
			s.Err = hintNearest(ctx, t, n, o, s.Err)
		}
		s.Err = hintVersion(ctx, t, o, s.Err)
		if s.Name == "roundTrip" {
			s = p.judge(s)
		} else if !slices.Contains([]string{"passive", "data", "list"}, s.Name) { // the login is over
			p.slowest = max(p.slowest, s.Took)
		}
		if least := fewTrips * s.Took; s.Name == "tcp" && s.Err == nil && t.ConnectTimeout < least {
			s.Warning = fmt.Sprintf("timeout is %s, and one round trip took %s: %s would be ten of them", t.ConnectTimeout, s.Took.Round(time.Millisecond), least.Round(time.Second))
		}
		return s
	}}
	b, err := connect(t, n, o, w.step)
	if err != nil {
		return err
	}
	defer b.Close()
	err = b.Probe(ctx)
	if w.again() { // some servers refuse a login by hanging up; who does so twice has refused
		err = b.Probe(ctx)
	}
	w.end()
	if err != nil {
		return cmp.Or(w.last, err)
	}
	if said := Weaker(t, b.Caps()); len(said) > 0 {
		report(Step{Name: "promises", Detail: strings.Join(said, "; ")})
	}
	return tries.try(ctx, n.translate(b), t, n.decode(b.Root()), report)
}

// watch passes on the steps of a test.
type watch struct {
	report func(Step)
	told   func(Step) Step // what is told of a step

	mu     sync.Mutex
	last   error // of the steps, as it was told
	held   *Step // a login that was cut, which is not told before it was cut twice
	second bool  // the login is made once more: what comes before it has been told
	over   bool  // further steps are of further sessions
}

func (w *watch) step(s Step) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch cut := s.Name == "auth" && backends.CauseOf(s.Err) == backends.CauseConnLost; {
	case w.over, w.second && s.Name != "auth" && s.Err == nil:
		return
	case cut && !w.second:
		w.held = &s
		return
	}
	w.second = false
	s = w.told(s)
	w.last = s.Err
	w.report(s)
}

// again reports whether the login was cut and should be made once more.
func (w *watch) again() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.second = w.held != nil
	return w.second
}

// end has all further steps passed over.
func (w *watch) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
}

// Shown is what a server has shown of itself, and where.
type Shown struct {
	trust.Identity
	Address string // host:port
}

// Scan returns the host key or certificate that t's server shows, without believing it and without logging in. Where the way
// to it leads through an SSH host that is not believed yet, it is that host's.
func Scan(ctx context.Context, t conncfg.Target, o Options) (Shown, error) {
	return Find(ctx, t, o, "")
}

// Find is Scan for a server with host keys of several types: it returns the one with the fingerprint want, and what it shows
// first if none has it.
func Find(ctx context.Context, t conncfg.Target, o Options, want string) (Shown, error) {
	s, err := speakerOf(t.Protocol)
	if err != nil {
		return Shown{}, err
	}
	identity, err := s.scan(ctx, t, o, want)
	if t.Via.Kind == conncfg.ViaSSH && isStranger(err) {
		identity, err = scanVia(ctx, t, o, want)
		return Shown{identity, t.Via.Address()}, err
	}
	return Shown{identity, t.Address()}, err
}

// isStranger reports whether somebody was given up because nobody vouched for him. A scan believes everybody but the host in
// between.
func isStranger(err error) bool {
	cause := backends.CauseOf(err)
	return cause == backends.CauseHostKeyUnknown || cause == backends.CauseHostKeyChanged
}

// reveal returns what gives a secret of t out when the wire needs it; nil for an empty one.
func (o Options) reveal(t conncfg.Target, of func(conncfg.Target) conncfg.Secret) func() (string, error) {
	if of(t).Empty() {
		return nil
	}
	return func() (string, error) {
		if o.Secrets == nil {
			return of(t).Reveal(), nil
		}
		return of(o.Secrets()).Reveal(), nil
	}
}

func unsupported(p conncfg.Protocol) error {
	return &backends.Error{
		Op: "connect", Code: syscall.EPROTONOSUPPORT,
		Err:  fmt.Errorf("protocol %q is none that is spoken here", p),
		Hint: "SFTP, FTPS and FTP are",
	}
}
