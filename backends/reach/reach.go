// Package reach connects to a server, before any protocol is spoken: it resolves the name, tries the addresses, and tells in the
// words of the seam why none of it came about, or why the peer was gone before it had said yes or no.
//
// It holds no state. Every wait ends with its context and with Server.Timeout.
package reach

import (
	"context"
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

// Server is whom to connect to.
type Server struct {
	Address string        // host:port
	Speaks  string        // what is expected to listen there, for hints: "SSH", "FTP"
	Timeout time.Duration // for the name, and again for the connection

	// Dial connects; nil is a net.Dialer. Another is given the name unresolved, and its *backends.Error is returned as it is.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// Check is asked of a connection before it is returned; its error ends the attempt. Nil takes any.
	Check func(net.Conn) error

	// Ended is told of each step, "dns" and "tcp", when it has ended, and returns its error.
	Ended func(step string, begun time.Time, detail string, err error) error
}

// Connect resolves the name and connects, to the first address that answers.
func (s Server) Connect(ctx context.Context) (net.Conn, error) {
	host, port, err := net.SplitHostPort(s.Address)
	if err != nil {
		err = &backends.Error{Op: "connect", Code: syscall.EINVAL, Err: fmt.Errorf("address %q: %w", s.Address, err)}
		return nil, s.Ended("dns", time.Now(), "", err)
	}
	connect, hosts := s.Dial, []string{host}
	if connect == nil {
		connect = new(net.Dialer).DialContext
		if hosts, err = s.resolve(ctx, host); err != nil {
			return nil, err
		}
	}
	begun := time.Now()
	ctx, cancel := context.WithTimeout(ctx, s.Timeout)
	defer cancel()
	for n, host := range hosts {
		// Every address gets its share of the time that is left, so that one that is silent does not hide the others.
		share := (s.Timeout - time.Since(begun)) / time.Duration(len(hosts)-n)
		one, stop := context.WithTimeout(ctx, share)
		var conn net.Conn
		conn, err = connect(one, "tcp", net.JoinHostPort(host, port))
		stop()
		if err != nil {
			continue
		}
		if s.Check != nil {
			if err := s.Check(conn); err != nil {
				conn.Close()
				return nil, s.Ended("tcp", begun, "", err)
			}
		}
		s.Ended("tcp", begun, conn.RemoteAddr().String(), nil)
		return conn, nil
	}
	return nil, s.Ended("tcp", begun, "", s.unreachable(err))
}

func (s Server) resolve(ctx context.Context, host string) ([]string, error) {
	if _, err := netip.ParseAddr(host); err == nil {
		return []string{host}, nil
	}
	begun := time.Now()
	ctx, cancel := context.WithTimeout(ctx, s.Timeout)
	defer cancel()
	hosts, err := net.DefaultResolver.LookupHost(ctx, host)
	if err != nil {
		return nil, s.Ended("dns", begun, "", &backends.Error{Op: "connect", Code: syscall.EHOSTUNREACH, Class: backends.Transient,
			Cause: backends.CauseDNS, Err: err, Hint: "check the spelling of host, and that this machine's resolver knows it"})
	}
	s.Ended("dns", begun, strings.Join(hosts, ", "), nil)
	return hosts, nil
}

// unreachable tells why no connection came about. What a dialer of somebody else has told of already is left as it is.
func (s Server) unreachable(err error) error {
	if told, ok := errors.AsType[*backends.Error](err); ok {
		return told
	}
	e := &backends.Error{Op: "connect", Code: syscall.EHOSTUNREACH, Class: backends.Transient, Cause: backends.CauseNoRoute, Err: err,
		Hint: "check host and port, the route to it and the firewalls between"}
	timeout, _ := errors.AsType[net.Error](err)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		e.Code, e.Cause = syscall.ECONNREFUSED, backends.CauseConnRefused
		e.Hint = "the machine answers, but nothing listens there: check port, and that the " + s.Speaks + " server runs"
	case errors.Is(err, syscall.ECONNRESET):
		e.Code, e.Cause = syscall.ECONNRESET, backends.CauseConnLost
		e.Hint = "something answers at " + s.Address + " and hangs up at once: check what stands between, and that the " + s.Speaks + " server runs"
	case errors.Is(err, context.Canceled):
		e.Code, e.Cause = syscall.EINTR, ""
	case netconn.IsTimeout(err), timeout != nil && timeout.Timeout():
		e.Code, e.Cause = syscall.ETIMEDOUT, backends.CauseConnTimeout
		e.Hint = "no answer from " + s.Address + ": check host, and that no firewall drops the packets"
	}
	return e
}

// BrokeOff is the error of a login that ended with err, with no more said by the server. Whatever it was may have passed by the
// next one. The hint is for a server that hung up; one that was silent gets its own.
func BrokeOff(conn *netconn.Conn, err error, hint string) *backends.Error {
	e := &backends.Error{Op: "connect", Code: syscall.EIO, Class: backends.Transient, Cause: backends.CauseConnLost, Err: err, Hint: hint}
	broken := conn.Broken()
	switch {
	case errors.Is(broken, context.Canceled):
		e.Code, e.Cause, e.Err = syscall.EINTR, "", broken
	case netconn.IsTimeout(broken):
		e.Err = broken // TLS and SSH may tell of our deadline as of the server's hanging up
		fallthrough
	case netconn.IsTimeout(err):
		e.Code, e.Cause = syscall.ETIMEDOUT, backends.CauseSilent
		e.Hint = "the server did not answer in time; a longer connectTimeout may help if it is slow"
	}
	return e
}
