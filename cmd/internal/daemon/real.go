package daemon

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"pierfs/backends"
	"pierfs/backends/dial"
	"pierfs/backends/retry"
	"pierfs/backends/trace"
	"pierfs/cache"
	"pierfs/cmd/internal/control"
	"pierfs/cmd/internal/dirs"
	"pierfs/conncfg"
	"pierfs/conncfg/trust"
	"pierfs/fs"
)

// Real returns the floor of a daemon in service: servers over the network, mounts in the kernel, and a trust store under the
// state directory.
func Real(d dirs.Dirs) (Floor, error) {
	store, err := trust.Open(filepath.Join(d.State, "trust"))
	if err != nil {
		return Floor{}, err
	}
	r := real{store: store, knownHosts: knownHosts(), shared: new(dial.Shared)}
	return Floor{
		Dial: r.dial,
		Mount: func(dir string, tree *cache.Tree, o fs.Options) (Mounted, error) {
			server, err := fs.Mount(dir, tree, o)
			if err != nil {
				return nil, explainMount(err, logOf(d))
			}
			return kernelMount{server}, nil
		},
		Clean: fs.Clean,
		Test:  r.test,
		Pin:   r.pin,
		Believed: func(s conncfg.Server) ([]string, error) {
			if s.Protocol == conncfg.FTPS {
				return r.store.Certificates(s.Address)
			}
			return r.store.Believed(s.Address, trust.Identity{})
		},
		Look: r.look,
	}, nil
}

// kernelMount is a Mounted in the kernel.
type kernelMount struct{ *fs.Server }

func (k kernelMount) OpenFiles() int { return k.Stats().OpenFiles }

// explainMount adds the way out where this machine lacks what mounting needs. What fusermount3 says of a refusal it says on
// standard error alone, which is the log.
func explainMount(err error, log string) error {
	e := control.Errorf(control.System, "%s", oneLine(err.Error()))
	if _, statErr := os.Stat("/dev/fuse"); statErr != nil {
		return e.WithHint("/dev/fuse is missing: modprobe fuse; in a container, add --device /dev/fuse --cap-add SYS_ADMIN")
	}
	if privileged() {
		return e.WithHint("mounting needs CAP_SYS_ADMIN, which containers often lack; more stands in %s", log)
	}
	if _, lookErr := exec.LookPath("fusermount3"); lookErr != nil {
		return e.WithHint("a user needs fusermount3 (Debian: apt install fuse3)")
	}
	return e.WithHint("what fusermount3 said stands in %s; a user needs the right to open /dev/fuse and to write to the directory", log)
}

// logOf says where this process logs to.
func logOf(d dirs.Dirs) string {
	own, ownErr := os.Stderr.Stat()
	file, err := os.Stat(d.Log())
	if ownErr != nil || err != nil || !os.SameFile(own, file) {
		return "the daemon's log"
	}
	return d.Log()
}

// knownHosts are the files of OpenSSH that count besides the trust store: the system's, and those of the daemon's user.
func knownHosts() []string {
	files := []string{"/etc/ssh/ssh_known_hosts"}
	if home, err := os.UserHomeDir(); err == nil {
		files = append(files, filepath.Join(home, ".ssh/known_hosts"))
	}
	var found []string
	for _, f := range files {
		if _, err := os.Stat(f); err == nil {
			found = append(found, f)
		}
	}
	return found
}

type real struct {
	store      *trust.Store
	knownHosts []string
	shared     *dial.Shared // by all mounts
}

func (r real) options(log *slog.Logger) dial.Options {
	return dial.Options{
		Logger:              log,
		Trusted:             r.store.HostKeys,
		TrustedCertificates: r.store.Certificates,
		KnownHostsFiles:     r.knownHosts,
		Shared:              r.shared,
		Observer: func(c backends.Call) {
			log.Debug("call", "op", c.Op, "name", c.Name, "took", c.Took, "bytes", c.Bytes, "err", c.Err)
		},
	}
}

func (r real) dial(t conncfg.Target, log *slog.Logger, l Link) (Backend, error) {
	o := r.options(log)
	o.State = func(s retry.State) { l.Heard(s.Online, s.Err) }
	o.Secrets = l.Secrets
	o.Certificate = l.Certificate
	o.Trace = l.Trace
	if logged := o.Observer; l.Called != nil {
		o.Observer = func(c backends.Call) {
			l.Called(c)
			logged(c)
		}
	}
	if l.Login != nil {
		o.Login = func(s dial.Step) { l.Login(s.Name, s.Took, s.Err) }
	}
	return dial.Dial(t, o)
}

func (r real) test(ctx context.Context, t conncfg.Target, tries dial.Tries, log *slog.Logger, report func(control.Step)) error {
	o := r.options(log)
	o.Trace = new(trace.Ring)
	return dial.Try(ctx, t, o, tries, func(s dial.Step) {
		step := stepOf(s)
		if s.Err != nil {
			step.Trace = tracedLines(o.Trace.Last(tracedWithFailure))
		}
		report(step)
	})
}

func stepOf(s dial.Step) control.Step {
	step := control.Step{Step: s.Name, OK: s.Err == nil, Millis: millis(s.Took), Detail: s.Detail,
		Warning: s.Warning, Privilege: s.Privilege, May: string(s.May), Left: s.Left}
	if len(s.Trips) > 0 {
		step.RoundTrip = &control.RoundTrip{Asked: len(s.Trips), Min: millis(s.Trips.Min()), Median: millis(s.Trips.Median()), Max: millis(s.Trips.Max()),
			ConnectTimeout: s.Proposed.Connect.String(), SocketTimeout: s.Proposed.Socket.String()}
	}
	if s.Err == nil {
		return step
	}
	e := told(s.Err).(*control.Error) // told makes one of every error
	step.Detail, step.Cause, step.Fix = e.Text, e.Cause, e.Hint
	return step
}

// pin asks the server for its key or certificate and believes it: the one with the fingerprint, whatever was believed
// before, or without one whatever it shows, as long as nobody has vouched for another. It is believed before anything is sent
// to the server that it belongs to.
//
// Of several hosts it is the first that shows the fingerprint, or the first of which nothing was believed.
func (r real) pin(ctx context.Context, t conncfg.Target, fingerprint string) (*control.TrustAnswer, error) {
	return r.pinIn(ctx, r.store, t, fingerprint)
}

// look is pin that believes nothing.
func (r real) look(ctx context.Context, t conncfg.Target, fingerprint string) (*control.TrustAnswer, error) {
	return r.pinIn(ctx, onlooker{r.store}, t, fingerprint)
}

// believer is where it is written down who is believed.
type believer interface {
	Pin(address string, i trust.Identity) (fresh bool, err error)
	Replace(address string, i trust.Identity) (forgotten []string, err error)
}

// onlooker tells what a Store would do.
type onlooker struct{ store *trust.Store }

func (o onlooker) Pin(address string, i trust.Identity) (fresh bool, err error) {
	return o.store.Stranger(address, i)
}

func (o onlooker) Replace(address string, i trust.Identity) (forgotten []string, err error) {
	known, err := o.store.Believed(address, i)
	return slices.DeleteFunc(known, func(print string) bool { return print == i.Fingerprint() }), err
}

func (r real) pinIn(ctx context.Context, store believer, t conncfg.Target, fingerprint string) (*control.TrustAnswer, error) {
	var answer *control.TrustAnswer
	var first error
	for _, host := range t.Hosts() {
		pinned, err := r.pinHost(ctx, store, host, fingerprint)
		if err == nil && (fingerprint != "" || !pinned.Already) {
			return pinned, nil
		}
		answer, first = cmp.Or(answer, pinned), cmp.Or(first, err)
	}
	if first != nil {
		return nil, first
	}
	return answer, nil
}

func (r real) pinHost(ctx context.Context, store believer, t conncfg.Target, fingerprint string) (*control.TrustAnswer, error) {
	shown, err := dial.Find(ctx, t, r.options(slog.New(slog.DiscardHandler)), fingerprint)
	if err != nil {
		return nil, err
	}
	answer := &control.TrustAnswer{Address: shown.Address, KeyType: shown.Kind(), Fingerprint: shown.Fingerprint(), Certificate: certificateOf(shown.Identity)}
	switch fingerprint {
	case "":
		return pinNew(store, answer, shown.Identity)
	case shown.Fingerprint():
		answer.Forgotten, err = store.Replace(shown.Address, shown.Identity)
		return answer, err
	}
	return nil, control.Errorf(changed(shown.Identity), "%s shows the %s %s, and none that is %s", shown.Address, shown.What(), shown.Fingerprint(), fingerprint).
		WithHint("compare with what the server's operator says; nothing was trusted")
}

// pinNew believes what a server shows of which nothing is known.
func pinNew(store believer, answer *control.TrustAnswer, shown trust.Identity) (*control.TrustAnswer, error) {
	fresh, err := store.Pin(answer.Address, shown)
	if other, ok := errors.AsType[*trust.OtherError](err); ok {
		return nil, control.Errorf(changed(shown), "%v", other).
			WithHint("the server was installed anew, or somebody stands in between: ask its operator for the fingerprint")
	}
	if err != nil {
		return nil, err
	}
	answer.Already = !fresh
	return answer, nil
}

// changed is the code of a server that shows something else than it should.
func changed(shown trust.Identity) control.Code {
	if shown.Certificate != nil {
		return control.CertChanged
	}
	return control.HostKeyChanged
}

// certificateOf tells what a certificate says of itself; nil for a host key, which says nothing.
func certificateOf(shown trust.Identity) *control.Certificate {
	c := shown.Certificate
	if c == nil {
		return nil
	}
	told := &control.Certificate{Subject: c.Subject.String(), Issuer: c.Issuer.String(), NotBefore: c.NotBefore, NotAfter: c.NotAfter, Names: c.DNSNames}
	for _, ip := range c.IPAddresses {
		told.Names = append(told.Names, ip.String())
	}
	return told
}
