// Package dial makes a ready Backend of a Target: it is the one list of protocols, and the one order of wrappers.
//
// From the caller down: retry > meter > jail > protocol. Retry is outermost, so that its questions after a lost reply are
// metered and confined as well; the meter sees each attempt; the jail stands right before the protocol, so that nothing gets
// around it. Dial touches no network: the first call does.
package dial

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"syscall"
	"time"

	"pierfs/backends"
	"pierfs/backends/jail"
	"pierfs/backends/meter"
	"pierfs/backends/retry"
	"pierfs/backends/sftp"
	"pierfs/conncfg"
	"pierfs/conncfg/trust"
)

// Options are what a connection needs besides its Target. The zero value trusts no host key but a pinned one.
type Options struct {
	Logger   *slog.Logger      // nil is silent
	Observer backends.Observer // told of each call that crossed the wire; nil if nobody listens
	State    func(retry.State) // told when the server goes away and comes back; nil if nobody listens

	// Trusted returns the host keys believed for host:port, as trust.Store.HostKeys does. It is asked at each login, so that
	// what is trusted meanwhile counts at the next.
	Trusted func(address string) ([]trust.HostKey, error)

	KnownHostsFiles []string // consulted besides the Target's own

	// Secrets returns the Target with its secrets as they are now. It is asked at each login for those that the Target has, so
	// that a password which was changed at its source counts at the next. Nil: they stay as they are.
	Secrets func() conncfg.Target
}

// Step is one step of a login or of Test, ended.
type Step struct {
	Name   string // "dns", "tcp", "ssh", "auth", "workingDir", "list"
	Took   time.Duration
	Detail string // what was found, for people
	Err    error  // *backends.Error with Cause and Hint; nil if it went well
}

// Dial returns the Backend of t, which connects at its first call and again whenever it must. A Target that cannot work at
// all is an error at once.
func Dial(t conncfg.Target, o Options) (*retry.Backend, error) {
	protocol, err := connect(t, o, nil)
	if err != nil {
		return nil, err
	}
	return wrap(protocol, t, o, func() []string { return []string{t.WorkingDir, protocol.Root()} }), nil
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
// connection from working is in the last one, and returned.
func Test(ctx context.Context, t conncfg.Target, o Options, report func(Step)) error {
	b, err := connect(t, o, func(s sftp.Step) { report(Step{Name: s.Name, Took: s.Took, Detail: s.Detail, Err: s.Err}) })
	if err != nil {
		return err
	}
	defer b.Close()
	return b.Probe(ctx)
}

// ScanHostKey returns the host key that t's server shows, without believing it and without logging in.
func ScanHostKey(ctx context.Context, t conncfg.Target, o Options) (trust.HostKey, error) {
	if t.Protocol != conncfg.SFTP {
		return trust.HostKey{}, unsupported(t.Protocol)
	}
	kind, blob, _, err := sftp.ScanHostKey(ctx, options(t, o))
	return trust.HostKey{Type: kind, Blob: blob}, err
}

// connect returns the bare protocol.
func connect(t conncfg.Target, o Options, step func(sftp.Step)) (*sftp.Backend, error) {
	if t.Protocol != conncfg.SFTP {
		return nil, unsupported(t.Protocol)
	}
	options := options(t, o)
	options.Step = step
	return sftp.New(options)
}

func options(t conncfg.Target, o Options) sftp.Options {
	files := slices.Clone(o.KnownHostsFiles)
	if t.SSH.KnownHostsFile != "" {
		files = append(files, t.SSH.KnownHostsFile)
	}
	return sftp.Options{
		Address:          t.Address(),
		Username:         t.Username,
		Password:         o.reveal(t, func(t conncfg.Target) conncfg.Secret { return t.Password }),
		PrivateKey:       o.reveal(t, func(t conncfg.Target) conncfg.Secret { return t.SSH.PrivateKey }),
		PrivateKeyFile:   t.SSH.PrivateKeyFile,
		Passphrase:       o.reveal(t, func(t conncfg.Target) conncfg.Secret { return t.SSH.Passphrase }),
		CertificateFile:  t.SSH.CertificateFile,
		Agent:            t.SSH.Agent,
		AgentSocket:      t.SSH.AgentSocket,
		LegacyAlgorithms: t.SSH.LegacyAlgorithms,
		HostKey:          t.SSH.HostKey,
		KnownHostsFiles:  files,
		Trusted:          o.trusted,
		WorkingDir:       t.WorkingDir,
		ConnectTimeout:   t.ConnectTimeout,
		SocketTimeout:    t.SocketTimeout,
		Logger:           o.Logger,
	}
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

// trusted hands the trusted keys down. A store that cannot be read trusts nobody, and the login is refused.
func (o Options) trusted(address string) []sftp.TrustedKey {
	if o.Trusted == nil {
		return nil
	}
	keys, err := o.Trusted(address)
	if err != nil && o.Logger != nil {
		o.Logger.Error("the trusted host keys cannot be read", "server", address, "err", err)
	}
	trusted := make([]sftp.TrustedKey, len(keys))
	for i, key := range keys {
		trusted[i] = sftp.TrustedKey{Type: key.Type, Blob: key.Blob}
	}
	return trusted
}

func unsupported(p conncfg.Protocol) error {
	return &backends.Error{
		Op: "connect", Code: syscall.EPROTONOSUPPORT,
		Err:  fmt.Errorf("protocol %q is not supported yet", p),
		Hint: "SFTP is; a server that offers FTP often offers SFTP on port 22 as well",
	}
}
