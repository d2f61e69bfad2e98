package dial

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"pierfs/backends"
	"pierfs/backends/ftp"
	"pierfs/conncfg"
	"pierfs/conncfg/trust"
)

func connectFTP(t conncfg.Target, o Options, step func(Step)) (protocol, error) {
	way, err := wayTo(t, o)
	if err != nil {
		return nil, err
	}
	options, giveBack := optionsFTP(t, o, way), func() {}
	if step == nil {
		options.Sessions, giveBack = o.Shared.borrow(t) // a test logs in by itself
		step = o.Login
	}
	if step != nil {
		options.Step = func(s ftp.Step) { step(stepFTP(t, s)) }
	}
	b, err := ftp.New(options)
	if err != nil {
		giveBack()
		way.close()
		return nil, err
	}
	return &protocolFTP{b, t, way, giveBack}, nil
}

// protocolFTP is a Backend that gives its sessions back, and whose Probe tells what the definition knows beside what the
// server said.
type protocolFTP struct {
	*ftp.Backend
	target   conncfg.Target
	way      way
	giveBack func() // may be called twice
}

func (b *protocolFTP) Close() error {
	defer b.way.close()
	defer b.giveBack()
	return b.Backend.Close()
}

func (b *protocolFTP) Probe(ctx context.Context) error {
	return hintPorts(b.target, b.Backend.Probe(ctx))
}

func stepFTP(t conncfg.Target, s ftp.Step) Step {
	step := Step{Name: s.Name, Took: s.Took, Detail: s.Detail, Err: hintPorts(t, s.Err), Trips: s.Trips}
	if port, recorded := int(s.Passive.Port()), t.FTP.PassivePorts.String(); port != 0 && recorded != "" {
		where := "within"
		if !t.FTP.PassivePorts.Has(port) {
			where = "outside of"
		}
		step.Detail += fmt.Sprintf("; port %d is %s passivePorts, %s", port, where, recorded)
	}
	if at := s.Passive.Addr(); at.IsValid() && (at.IsPrivate() || at.IsLoopback()) {
		step.Detail += "; its address is a private one"
	}
	if at := s.Passive.Addr(); at.IsValid() && s.Used.Addr().IsValid() && at != s.Used.Addr() {
		step.Warning = fmt.Sprintf("the server tells the address %s for data connections, which is not its own: it is not followed, and the port was tried at %s. Others may need pasv_address corrected there", at, s.Used.Addr())
	}
	return step
}

// hintPorts adds what is recorded of the server's ports to the hint about a firewall.
func hintPorts(t conncfg.Target, err error) error {
	e, ok := errors.AsType[*backends.Error](err)
	if !ok || e.Cause != backends.CausePassiveBlocked {
		return err
	}
	told := *e
	if ports := t.FTP.PassivePorts.String(); ports != "" {
		told.Hint += "; the definition has passivePorts = \"" + ports + "\""
	} else {
		told.Hint += "; record the ports that the server's operator names as passivePorts"
	}
	return &told
}

// hintVersion adds to an error of the version of TLS which one the server does speak. That takes a connection of its own; where it
// fails the hint stays as it was.
func hintVersion(ctx context.Context, t conncfg.Target, o Options, err error) error {
	e, ok := errors.AsType[*backends.Error](err)
	if !ok || e.Cause != backends.CauseTLSVersion {
		return err
	}
	way, wayErr := wayTo(t, o)
	if wayErr != nil {
		return err
	}
	defer way.close()
	version, scanErr := ftp.ScanVersion(ctx, optionsFTP(t, o, way))
	if scanErr != nil {
		return err
	}
	told := *e
	name := strings.ReplaceAll(tls.VersionName(version), " ", "")
	told.Err = fmt.Errorf("%w; it speaks %s", e.Err, name)
	told.Hint = fmt.Sprintf("set sslProtocol = %q", name)
	if version < tls.VersionTLS12 {
		told.Hint = fmt.Sprintf("have the server updated; until then allowWeakTLS = true with sslProtocol = %q", name)
	}
	return &told
}

// scanFTPS returns the server's own certificate.
func scanFTPS(ctx context.Context, t conncfg.Target, o Options, _ string) (trust.Identity, error) {
	way, err := wayTo(t, o)
	if err != nil {
		return trust.Identity{}, err
	}
	defer way.close()
	chain, err := ftp.ScanCertificate(ctx, optionsFTP(t, o, way))
	if err != nil {
		return trust.Identity{}, err
	}
	return trust.Identity{Certificate: chain[0]}, nil
}

// scanFTP tells that a server which speaks in the clear cannot be told from another.
func scanFTP(context.Context, conncfg.Target, Options, string) (trust.Identity, error) {
	return trust.Identity{}, &backends.Error{
		Op: "connect", Code: syscall.EOPNOTSUPP,
		Err:  errors.New("FTP shows neither a host key nor a certificate: there is nothing to trust"),
		Hint: "FTPS and SFTP prove who the server is",
	}
}

func optionsFTP(t conncfg.Target, o Options, w way) ftp.Options {
	return ftp.Options{
		Login: ftp.Login{
			Address:        t.Address(),
			Username:       t.Username,
			Password:       o.reveal(t, func(t conncfg.Target) conncfg.Secret { return t.Password }),
			Account:        o.reveal(t, func(t conncfg.Target) conncfg.Secret { return t.FTP.Account }),
			TLS:            o.tls(t),
			Active:         t.FTP.Active,
			PlainNames:     !isUTF8(t),
			ConnectTimeout: t.ConnectTimeout,
			SocketTimeout:  t.SocketTimeout,
			DialContext:    w.dial,
			Logger:         o.Logger,
			Trace:          o.Trace,
		},
		WorkingDir:  t.WorkingDir,
		MaxSessions: t.MaxSessions,
		IdleTimeout: t.IdleTimeout,
		Verify:      string(t.Verify),
	}
}

// tls returns how t speaks TLS; nil where it does not.
func (o Options) tls(t conncfg.Target) *ftp.TLS {
	if t.Protocol != conncfg.FTPS {
		return nil
	}
	address, trusted := t.Address(), o.trustedCertificates
	if t.TLS.OnlyAuthorities {
		trusted = nil
	}
	return &ftp.TLS{
		Implicit:   t.TLS.Implicit,
		MinVersion: t.TLS.MinVersion,
		AllowWeak:  t.TLS.AllowWeak,
		CAFile:     t.TLS.CAFile,
		TrustCert:  t.TLS.TrustCert,
		CertFile:   t.TLS.CertFile,
		KeyFile:    t.TLS.KeyFile,
		ServerName: t.TLS.ServerName,
		Trusted:    trusted,

		OnlyAuthorities: t.TLS.OnlyAuthorities,
		Certificate: func(fingerprint string, notAfter time.Time) {
			if o.Certificate != nil {
				o.Certificate(address, fingerprint, notAfter)
			}
		},
	}
}

// trustedCertificates hands the trusted fingerprints down. A store that cannot be read trusts nobody; the authorities still
// do.
func (o Options) trustedCertificates(address string) []string {
	if o.TrustedCertificates == nil {
		return nil
	}
	prints, err := o.TrustedCertificates(address)
	if err != nil && o.Logger != nil {
		o.Logger.Error("the trusted certificates cannot be read", "server", address, "err", err)
	}
	return prints
}
