package wire

import (
	"bufio"
	"cmp"
	"context"
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
)

// Dial makes a session: dns, tcp, banner, tls, auth, features, each within the connect timeout.
func Dial(ctx context.Context, o Options) (*Session, error) {
	return o.connect(ctx, (*Session).login)
}

// ScanCertificate returns the chain that the server shows, its own first, without believing it and without a login.
func ScanCertificate(ctx context.Context, o Options) ([]*x509.Certificate, error) {
	var chain []*x509.Certificate
	if o.TLS == nil {
		return nil, refuse("connect", syscall.EINVAL, errors.New("the connection has no TLS"))
	}
	unasked := *o.TLS
	unasked.CAFile, unasked.CertFile = "", ""
	o.TLS = &unasked
	s, err := o.connect(ctx, func(s *Session, ctx context.Context) error {
		s.tls.scan = true
		defer func() { chain = s.tls.shown() }()
		return s.greet(ctx)
	})
	if err == nil {
		s.conn.Close()
	}
	if len(chain) > 0 {
		return chain, nil
	}
	return nil, err
}

// connect reaches the server and has enter do the rest.
func (o Options) connect(ctx context.Context, enter func(*Session, context.Context) error) (*Session, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
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

func (o *Options) step(s Step) {
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

// refused is an error that must not be repeated by itself.
func refused(cause backends.Cause, err error, hint string) error {
	return &backends.Error{Op: "connect", Code: syscall.EACCES, Class: backends.Refused, Cause: cause, Err: err, Hint: hint}
}

// reach resolves the name and connects, to the first address that answers.
func (o *Options) reach(ctx context.Context) (net.Conn, error) {
	host, port, err := net.SplitHostPort(o.Address)
	if err != nil {
		return nil, o.ended("dns", time.Now(), "", refuse("connect", syscall.EINVAL, fmt.Errorf("address %q: %w", o.Address, err)))
	}
	hosts := []string{host}
	if o.DialContext == nil {
		if hosts, err = o.resolve(ctx, host); err != nil {
			return nil, err
		}
	}
	begun := time.Now()
	ctx, cancel := context.WithTimeout(ctx, o.ConnectTimeout)
	defer cancel()
	for n, host := range hosts {
		// Every address gets its share of the time that is left, so that one that is silent does not hide the others.
		share := (o.ConnectTimeout - time.Since(begun)) / time.Duration(len(hosts)-n)
		one, stop := context.WithTimeout(ctx, share)
		var conn net.Conn
		conn, err = o.dialer()(one, "tcp", net.JoinHostPort(host, port))
		stop()
		if err != nil {
			continue
		}
		if _, ok := direct(conn, port); o.Active && !ok {
			conn.Close()
			return nil, o.ended("tcp", begun, "", refuse("connect", syscall.EOPNOTSUPP, errNoActive))
		}
		o.ended("tcp", begun, conn.RemoteAddr().String(), nil)
		return conn, nil
	}
	return nil, o.ended("tcp", begun, "", unreachable(o.Address, err))
}

func (o *Options) resolve(ctx context.Context, host string) ([]string, error) {
	if _, err := netip.ParseAddr(host); err == nil {
		return []string{host}, nil
	}
	begun := time.Now()
	ctx, cancel := context.WithTimeout(ctx, o.ConnectTimeout)
	defer cancel()
	hosts, err := net.DefaultResolver.LookupHost(ctx, host)
	if err != nil {
		return nil, o.ended("dns", begun, "", &backends.Error{Op: "connect", Code: syscall.EHOSTUNREACH, Class: backends.Transient,
			Cause: backends.CauseDNS, Err: err, Hint: "check the spelling of host, and that this machine's resolver knows it"})
	}
	o.ended("dns", begun, strings.Join(hosts, ", "), nil)
	return hosts, nil
}

// unreachable tells why no connection came about. What a dialer of somebody else has told of already is left as it is.
func unreachable(address string, err error) error {
	if told, ok := errors.AsType[*backends.Error](err); ok {
		return told
	}
	e := &backends.Error{Op: "connect", Code: syscall.EHOSTUNREACH, Class: backends.Transient, Cause: backends.CauseNoRoute, Err: err,
		Hint: "check host and port, the route to it and the firewalls between"}
	timeout, _ := errors.AsType[net.Error](err)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		e.Code, e.Cause = syscall.ECONNREFUSED, backends.CauseConnRefused
		e.Hint = "the machine answers, but nothing listens there: check port, and that the FTP server runs"
	case errors.Is(err, syscall.ECONNRESET):
		e.Code, e.Cause = syscall.ECONNRESET, backends.CauseConnLost
		e.Hint = "something answers at " + address + " and hangs up at once: check what stands between, and that the FTP server runs"
	case errors.Is(err, context.Canceled):
		e.Code, e.Cause = syscall.EINTR, ""
	case isTimeout(err), timeout != nil && timeout.Timeout():
		e.Code, e.Cause = syscall.ETIMEDOUT, backends.CauseConnTimeout
		e.Hint = "no answer from " + address + ": check host, and that no firewall drops the packets"
	}
	return e
}

// brokeOff is a login that ended before the server had said yes or no. Whatever it was may have passed by the next one.
func brokeOff(conn *netconn.Conn, err error, hint string) *backends.Error {
	e := &backends.Error{Op: "connect", Code: syscall.EIO, Class: backends.Transient, Cause: backends.CauseConnLost, Err: err, Hint: hint}
	broken := conn.Broken()
	switch {
	case errors.Is(broken, context.Canceled):
		e.Code, e.Cause, e.Err = syscall.EINTR, "", broken
	case isTimeout(broken):
		e.Err = broken // TLS may tell of our deadline as of something else
		fallthrough
	case isTimeout(err):
		e.Code, e.Cause = syscall.ETIMEDOUT, backends.CauseSilent
		e.Hint = "the server did not answer in time; a longer connectTimeout may help if it is slow"
	}
	return e
}
