package wire

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"pierfs/backends"
	"pierfs/backends/netconn"
	"pierfs/backends/reach"
	"pierfs/backends/trace"
)

// Dial makes a session: dns, tcp, banner, tls, auth, features, each within the connect timeout.
func Dial(ctx context.Context, o Options) (*Session, error) {
	return o.connect(ctx, (*Session).login)
}

// ScanCertificate returns the chain that the server shows, its own first, without believing it and without a login.
func ScanCertificate(ctx context.Context, o Options) ([]*x509.Certificate, error) {
	chain, _, err := scan(ctx, o)
	return chain, err
}

// ScanVersion returns the newest version of TLS that the server and we both speak, however old it is, without a login.
func ScanVersion(ctx context.Context, o Options) (uint16, error) {
	if o.TLS != nil {
		any := *o.TLS
		any.MinVersion, any.AllowWeak = tls.VersionTLS10, true
		o.TLS = &any
	}
	_, version, err := scan(ctx, o)
	return version, err
}

// scan shakes hands with whoever is there.
func scan(ctx context.Context, o Options) (chain []*x509.Certificate, version uint16, err error) {
	if o.TLS == nil {
		return nil, 0, refuse("connect", syscall.EINVAL, errors.New("the connection has no TLS"))
	}
	unasked := *o.TLS
	unasked.CAFile, unasked.CertFile = "", ""
	o.TLS = &unasked
	s, err := o.connect(ctx, func(s *Session, ctx context.Context) error {
		s.tls.scan = true
		defer func() { chain, version = s.tls.shown(), s.tls.spoken() }()
		return s.greet(ctx)
	})
	if err == nil {
		s.conn.Close()
	}
	if len(chain) > 0 {
		return chain, version, nil
	}
	return nil, 0, err
}

// connect reaches the server and has enter do the rest.
func (o Options) connect(ctx context.Context, enter func(*Session, context.Context) error) (*Session, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	o.trace = o.Trace.Session(o.Address)
	s := &Session{o: o, dead: make(chan struct{}), heard: time.Now()}
	if o.TLS != nil {
		begun := time.Now()
		var err error
		if s.tls, err = newSecurity(o.TLS, o.Address); err != nil {
			return nil, o.ended("tls", begun, "", refused(backends.CauseKeyFile, err, "check caFile, clientCertFile and clientKeyFile"))
		}
	}
	raw, err := o.reach(ctx)
	if err != nil {
		return nil, err
	}
	s.conn = netconn.New(raw, o.SocketTimeout)
	s.tap = &tap{Conn: s.conn}
	s.use(s.tap)
	s.dataHost = dataHost(o.Address, raw)
	release := s.conn.Bind(ctx)
	err = enter(s, ctx)
	if !release() || err != nil {
		s.conn.Kill(cmp.Or(err, context.Cause(ctx)))
		if err == nil {
			err = lost("connect", false, context.Cause(ctx))
		}
		return nil, err
	}
	s.conn.SetDeadline(time.Time{})
	return s, nil
}

// use has everything go over line.
func (s *Session) use(line net.Conn) {
	s.line, s.replies = line, bufio.NewReader(line)
}

// check fills in what was left out, and refuses what cannot work.
func (o *Options) check() error {
	if o.Logger == nil {
		o.Logger = discard
	}
	if o.Username == "" {
		o.Username = "anonymous"
	}
	if strings.ContainsAny(o.Username, "\r\n\x00") {
		return refuse("connect", syscall.EINVAL, fmt.Errorf("user name %q has a line end or NUL in it", o.Username))
	}
	if o.ConnectTimeout <= 0 || o.SocketTimeout <= 0 {
		return refuse("connect", syscall.EINVAL, errors.New("a connection needs timeouts"))
	}
	return nil
}

func (o *Options) dialer() func(ctx context.Context, network, address string) (net.Conn, error) {
	if o.DialContext != nil {
		return o.DialContext
	}
	return new(net.Dialer).DialContext
}

// dataHost is where data connections lead: the very machine that we have reached if we did so directly, since a name may have
// several; else what the one who led us there understands.
func dataHost(address string, conn net.Conn) string {
	host, port, _ := net.SplitHostPort(address)
	if a, ok := direct(conn, port); ok {
		return a.Addr().Unmap().String()
	}
	return host
}

// direct returns the server's address if conn leads to it and not to somebody who passes on.
func direct(conn net.Conn, port string) (netip.AddrPort, bool) {
	a, ok := conn.RemoteAddr().(*net.TCPAddr)
	if !ok || fmt.Sprint(a.Port) != port {
		return netip.AddrPort{}, false
	}
	return a.AddrPort(), true
}

// noted is a step in the trace.
func noted(s Step) string {
	if s.Err != nil {
		return fmt.Sprintf("%s failed after %v: %v", s.Name, s.Took.Round(time.Microsecond), s.Err)
	}
	return fmt.Sprintf("%s took %v: %s", s.Name, s.Took.Round(time.Microsecond), s.Detail)
}

func (o *Options) step(s Step) {
	o.trace.Add(trace.Note, noted(s)) // before the step is told: whoever hears of it may look here
	if o.Step != nil {
		o.Step(s)
	}
	o.Logger.Debug("login", "step", s.Name, "server", o.Address, "took", s.Took, "detail", s.Detail, "err", s.Err)
}

// ended reports a step and returns its error.
func (o *Options) ended(name string, begun time.Time, detail string, err error) error {
	o.step(Step{Name: name, Took: time.Since(begun), Detail: detail, Err: err})
	return err
}

// reach resolves the name and connects, to the first address that answers.
func (o *Options) reach(ctx context.Context) (net.Conn, error) {
	server := reach.Server{Address: o.Address, Speaks: "FTP", Timeout: o.ConnectTimeout, Dial: o.DialContext, Ended: o.ended}
	if o.Active {
		_, port, _ := net.SplitHostPort(o.Address) // which Connect says all about that is wrong
		server.Check = func(conn net.Conn) error {
			if _, ok := direct(conn, port); !ok {
				return refuse("connect", syscall.EOPNOTSUPP, errNoActive)
			}
			return nil
		}
	}
	return server.Connect(ctx)
}

// refused is an error that must not be repeated by itself.
func refused(cause backends.Cause, err error, hint string) error {
	return &backends.Error{Op: "connect", Code: syscall.EACCES, Class: backends.Refused, Cause: cause, Err: err, Hint: hint}
}
