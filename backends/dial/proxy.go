package dial

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"

	socks "golang.org/x/net/proxy"

	"pierfs/backends"
	"pierfs/conncfg"
)

// proxy leads through a SOCKS5 or HTTP proxy. What leaves it is the proxy's own TCP connection, with nothing in between.
type proxy struct {
	via      conncfg.Via
	password func() (string, error) // nil if there is none
	timeout  time.Duration
	dial     dialFunc
}

func proxyOf(t conncfg.Target, o Options, dial dialFunc) *proxy {
	return &proxy{
		via:      t.Via,
		password: o.reveal(t, func(t conncfg.Target) conncfg.Secret { return t.Via.Password }),
		timeout:  t.ConnectTimeout,
		dial:     dial,
	}
}

// through connects to the proxy, has it lead on to address by ask, and returns the connection, which is then the server's.
func (p *proxy) through(ctx context.Context, network, address string, ask func(context.Context, net.Conn) error) (net.Conn, error) {
	if _, _, err := net.SplitHostPort(address); err != nil || strings.ContainsFunc(address, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return nil, p.refuse(syscall.EINVAL, "", fmt.Errorf("%q is no address", address), "correct host")
	}
	ctx, cancel := within(ctx, p.timeout)
	defer cancel()
	conn, err := p.dial(ctx, network, p.via.Address())
	if err != nil {
		return nil, p.unreachable(ctx, err)
	}
	if err := ask(ctx, conn); err != nil {
		conn.Close()
		if told, ok := errors.AsType[*backends.Error](err); ok {
			return nil, told
		}
		return nil, p.brokeOff(ctx, err)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		return &proxied{tcp, farAddr(address)}, nil
	}
	return conn, nil
}

// farAddr is a server behind a proxy: no address of a socket of ours.
type farAddr string

func (a farAddr) Network() string { return "tcp" }
func (a farAddr) String() string  { return string(a) }

// proxied is a proxy's connection to a server, which says so.
type proxied struct {
	*net.TCPConn
	server farAddr
}

func (p *proxied) RemoteAddr() net.Addr { return p.server }

// fail makes an error of something that the proxy is at fault for, or has told.
func (p *proxy) fail(e backends.Error) *backends.Error {
	e.Op = "connect"
	e.Err = fmt.Errorf("via the proxy %s: %w", p.via.Address(), e.Err)
	return &e
}

func (p *proxy) refuse(code syscall.Errno, cause backends.Cause, err error, hint string) *backends.Error {
	return p.fail(backends.Error{Code: code, Class: backends.Refused, Cause: cause, Err: err, Hint: hint})
}

// unreachable is a proxy that cannot be connected to.
func (p *proxy) unreachable(ctx context.Context, err error) error {
	e := backends.Error{Code: syscall.EHOSTUNREACH, Class: backends.Transient, Cause: backends.CauseNoRoute, Err: err,
		Hint: "check host and port in via, the route to it and the firewalls between"}
	told, ok := errors.AsType[*backends.Error](err)
	switch {
	case ok:
		e = *told
	case errors.Is(err, syscall.ECONNREFUSED):
		e.Code, e.Cause, e.Hint = syscall.ECONNREFUSED, backends.CauseConnRefused, "check host and port in via, and that the proxy runs"
	case isLate(ctx, err):
		e.Code, e.Cause = syscall.ETIMEDOUT, backends.CauseConnTimeout
	}
	return p.fail(givenUp(ctx, e))
}

// brokeOff is a proxy that has not answered, or not to the end.
func (p *proxy) brokeOff(ctx context.Context, err error) error {
	e := backends.Error{Code: syscall.EIO, Class: backends.Transient, Cause: backends.CauseConnLost, Err: err,
		Hint: "the proxy in via hung up before it answered: check that it is a proxy of this kind"}
	if isLate(ctx, err) {
		e.Code, e.Cause, e.Hint = syscall.ETIMEDOUT, backends.CauseSilent, "the proxy in via does not answer, or cannot reach the server in time"
	}
	return p.fail(givenUp(ctx, e))
}

func isLate(ctx context.Context, err error) bool {
	timeout, ok := errors.AsType[net.Error](err)
	return errors.Is(ctx.Err(), context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) || ok && timeout.Timeout()
}

// givenUp is e for a caller who waits no more.
func givenUp(ctx context.Context, e backends.Error) backends.Error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return backends.Error{Code: syscall.EINTR, Class: backends.Transient, Err: context.Cause(ctx)}
	}
	return e
}

// login returns who we are for the proxy; ok is false if it need not know.
func (p *proxy) login() (user, password string, ok bool, err error) {
	if p.password != nil {
		if password, err = p.password(); err != nil {
			return "", "", false, p.refuse(syscall.EACCES, backends.CauseAuth, err, "check viaPassword")
		}
	}
	return p.via.Username, password, p.via.Username != "" || p.password != nil, nil
}

const checkLogin = "check the user in via, and viaPassword; nothing is tried again by itself, so that no account is locked"

// throughHTTP asks by CONNECT (RFC 9110 section 9.3.6), with basic authentication if there is a user.
func (p *proxy) throughHTTP(ctx context.Context, network, address string) (net.Conn, error) {
	return p.through(ctx, network, address, func(ctx context.Context, conn net.Conn) error {
		user, password, known, err := p.login()
		if err != nil {
			return err
		}
		var request strings.Builder
		fmt.Fprintf(&request, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n", address, address)
		if known {
			if strings.Contains(user, ":") {
				return p.refuse(syscall.EINVAL, "", errors.New("the user name has a colon, which basic authentication cannot send"), "correct the user in via")
			}
			fmt.Fprintf(&request, "Proxy-Authorization: Basic %s\r\n", base64.StdEncoding.EncodeToString([]byte(user+":"+password)))
		}
		request.WriteString("\r\n")
		return bound(ctx, conn, func() error {
			if _, err := io.WriteString(conn, request.String()); err != nil {
				return err
			}
			return p.answer(conn)
		})
	})
}

// bound has the connection wait no longer than ctx, and takes that back.
func bound(ctx context.Context, conn net.Conn, do func() error) error {
	if deadline, ok := ctx.Deadline(); ok {
		conn.SetDeadline(deadline)
	}
	release := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	err := do()
	if !release() && err == nil {
		err = context.Cause(ctx)
	}
	if err == nil {
		err = conn.SetDeadline(time.Time{})
	}
	return err
}

const maxAnswer = 16 << 10 // bytes of a proxy's answer

// answer reads what the proxy says, and not one byte of what the server says behind it.
func (p *proxy) answer(conn net.Conn) error {
	var head []byte
	for b := make([]byte, 1); !bytes.HasSuffix(head, []byte("\r\n\r\n")) && !bytes.HasSuffix(head, []byte("\n\n")); {
		if _, err := io.ReadFull(conn, b); err != nil {
			return err
		}
		if head = append(head, b[0]); len(head) > maxAnswer || !bytes.HasPrefix(head, []byte("HTTP/"[:min(5, len(head))])) {
			return p.foreign(head)
		}
	}
	response, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(head)), &http.Request{Method: http.MethodConnect})
	if err != nil {
		return p.foreign(head)
	}
	response.Body.Close() // it is the tunnel, or beside the point
	said := fmt.Errorf("it says %q", brief(response.Status))
	switch code := response.StatusCode; {
	case code >= 200 && code < 300:
		return nil
	case code == http.StatusProxyAuthRequired:
		return p.refuse(syscall.EACCES, backends.CauseAuth, said, checkLogin)
	case code == http.StatusForbidden, code == http.StatusMethodNotAllowed:
		return p.refuse(syscall.EACCES, backends.CauseNoRoute, said, "the proxy in via does not lead to this host or port: have it allowed")
	default:
		return p.nowhere(syscall.EHOSTUNREACH, said)
	}
}

// nowhere is a proxy that cannot reach the server.
func (p *proxy) nowhere(code syscall.Errno, said error) error {
	return p.fail(backends.Error{Code: code, Class: backends.Transient, Cause: backends.CauseNoRoute, Err: said,
		Hint: "check host and port, as the proxy in via has to reach them"})
}

// foreign is somebody who speaks another protocol.
func (p *proxy) foreign(said []byte) error {
	return p.refuse(syscall.EPROTO, backends.CauseWrongProtocol, fmt.Errorf("it is no %s proxy: it says %q", p.via.Kind, brief(string(said))),
		"check kind and port in via")
}

func brief(s string) string { return s[:min(len(s), 120)] }

// throughSOCKS asks by RFC 1928, with user name and password (RFC 1929) if there is a user. The proxy looks names up.
func (p *proxy) throughSOCKS(ctx context.Context, network, address string) (net.Conn, error) {
	return p.through(ctx, network, address, func(ctx context.Context, conn net.Conn) error {
		user, password, known, err := p.login()
		if err != nil {
			return err
		}
		var auth *socks.Auth
		if known {
			auth = &socks.Auth{User: user, Password: password}
		}
		dialer, err := socks.SOCKS5(network, p.via.Address(), auth, nil)
		if err != nil {
			return err
		}
		asker, ok := dialer.(interface {
			DialWithConn(ctx context.Context, conn net.Conn, network, address string) (net.Addr, error)
		})
		if !ok {
			return errors.New("the SOCKS library has changed") // its test would tell
		}
		heard := &hearing{Conn: conn}
		if _, err := asker.DialWithConn(ctx, heard, network, address); err != nil {
			return p.saidBySOCKS(heard.said, err)
		}
		return nil
	})
}

// hearing keeps the first bytes that a proxy says: the library tells of them in words only.
type hearing struct {
	net.Conn
	said []byte
}

func (h *hearing) Read(p []byte) (int, error) {
	n, err := h.Conn.Read(p)
	h.said = append(h.said, p[:min(n, 16-min(16, len(h.said)))]...)
	return n, err
}

// saidBySOCKS tells what an answer means: the choice of a method, the answer to a password, and the reply, of which a later
// one is there only if the one before was good.
func (p *proxy) saidBySOCKS(said []byte, err error) error {
	const version, userPassword, none = 5, 2, 0xff
	if len(said) > 0 && said[0] != version {
		return p.foreign(said)
	}
	if len(said) < 2 {
		return err
	}
	method, said := said[1], said[2:]
	if method == none {
		return p.refuse(syscall.EACCES, backends.CauseAuthMethod, err, "the proxy in via wants to know who we are: write a user into via, and viaPassword")
	}
	if method == userPassword && len(said) >= 2 {
		if said[1] != 0 {
			return p.refuse(syscall.EACCES, backends.CauseAuth, err, checkLogin)
		}
		said = said[2:]
	}
	if len(said) < 2 || said[1] == 0 {
		return err
	}
	switch said[1] { // RFC 1928 section 6
	case 2:
		return p.refuse(syscall.EACCES, backends.CauseNoRoute, err, "the proxy in via does not lead to this host or port: have it allowed")
	case 5:
		return p.nowhere(syscall.ECONNREFUSED, err)
	case 6:
		return p.nowhere(syscall.ETIMEDOUT, err)
	}
	return p.nowhere(syscall.EHOSTUNREACH, err)
}
