package dial

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"pierfs/backends"
	"pierfs/backends/sftp"
	"pierfs/conncfg"
)

// dialFunc connects as net.Dialer.DialContext does. Its errors are *backends.Error where it knows better than its caller what went
// wrong.
type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// way is how sessions get to a server: from an address, through a host, at a rate. The zero value goes straight, by the protocol's
// own means.
type way struct {
	dial  dialFunc
	leave func() // takes no new sessions; nil if there is nothing to give up
}

// close gives up what leads to the server. Sessions that stand live on.
func (w way) close() {
	if w.leave != nil {
		w.leave()
	}
}

// wayTo returns the way to t's server. It touches no network.
func wayTo(t conncfg.Target, o Options) (way, error) {
	if t.Via.Kind == "" && t.SourceAddress == "" && t.RateLimit == 0 {
		return way{}, nil
	}
	from, err := sourceOf(t)
	if err != nil {
		return way{}, err
	}
	w := way{dial: straight(from)}
	switch t.Via.Kind {
	case "":
	case conncfg.ViaSSH:
		if w, err = throughSSH(t, o, w.dial); err != nil {
			return way{}, err
		}
	case conncfg.ViaSOCKS:
		w.dial = proxyOf(t, o, w.dial).throughSOCKS
	case conncfg.ViaHTTP:
		w.dial = proxyOf(t, o, w.dial).throughHTTP
	default:
		return way{}, &backends.Error{Op: "connect", Code: syscall.EPROTONOSUPPORT, Err: errors.New("via leads through nothing that is known"),
			Hint: "docs/DEFINITIONS.md tells what via may be"}
	}
	if t.RateLimit > 0 {
		w.dial = limitedTo(t.RateLimit, t.SocketTimeout, w.dial)
	}
	return w, nil
}

// sourceOf returns the address that sessions leave from; nil for any.
func sourceOf(t conncfg.Target) (net.Addr, error) {
	if t.SourceAddress == "" {
		return nil, nil
	}
	a, err := netip.ParseAddr(t.SourceAddress)
	if err != nil {
		return nil, &backends.Error{Op: "connect", Code: syscall.EINVAL, Err: err, Hint: "correct sourceAddress: it is an address of this machine"}
	}
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(a, 0)), nil
}

// straight connects from an address of this machine. What fails for other reasons than the two that are told here is left to
// the caller.
func straight(from net.Addr) dialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := (&net.Dialer{LocalAddr: from}).DialContext(ctx, network, address)
		unknown, isDNS := errors.AsType[*net.DNSError](err)
		switch {
		case isDNS && !unknown.IsTimeout:
			err = &backends.Error{Op: "connect", Code: syscall.EHOSTUNREACH, Class: backends.Transient, Cause: backends.CauseDNS, Err: err,
				Hint: "check the spelling of host, and that this machine's resolver knows it"}
		case from != nil && errors.Is(err, syscall.EADDRNOTAVAIL):
			err = &backends.Error{Op: "connect", Code: syscall.EADDRNOTAVAIL, Class: backends.Transient, Cause: backends.CauseNoRoute, Err: err,
				Hint: "sourceAddress is no address of this machine"}
		}
		return conn, err
	}
}

// throughSSH leads through a login on an SSH host.
func throughSSH(t conncfg.Target, o Options, dial dialFunc) (way, error) {
	options := sftp.Options{
		Address:         t.Via.Address(),
		Username:        cmp.Or(t.Via.Username, t.Username),
		Password:        o.reveal(t, func(t conncfg.Target) conncfg.Secret { return t.Via.Password }),
		PrivateKeyFile:  t.Via.KeyFile,
		Agent:           t.SSH.Agent,
		AgentSocket:     t.SSH.AgentSocket,
		HostKey:         t.Via.HostKey,
		KnownHostsFiles: knownHosts(t, o),
		Trusted:         o.trusted,
		ConnectTimeout:  t.ConnectTimeout,
		SocketTimeout:   t.SocketTimeout,
		Logger:          o.Logger,
	}
	if t.SourceAddress != "" {
		options.Dial = dial
	}
	jump, err := sftp.NewJump(options)
	if err != nil {
		return way{}, err
	}
	return way{
		dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := jump.DialContext(ctx, network, address)
			return conn, hintSSH(err)
		},
		leave: func() { jump.Close() }, // never fails
	}, nil
}

// viaHints are the way out where the host in between is at fault: other fields than for a server.
var viaHints = map[backends.Cause]string{
	backends.CauseAuth:        "check the user in via, and viaPassword or viaKeyFile; nothing is tried again by itself, so that no account is locked",
	backends.CauseAuthMethod:  "give the connection what the SSH host in via asks for: viaPassword, viaKeyFile, or both",
	backends.CauseKeyFile:     "check viaKeyFile",
	backends.CauseConnRefused: "check host and port in via, and that its SSH server runs",
}

// hintSSH gives an error of the host in between its way out.
func hintSSH(err error) error {
	e, ok := errors.AsType[*backends.Error](err)
	if !ok {
		return err
	}
	write := "write it into viaHostKey"
	if _, command, ok := strings.Cut(e.Hint, "run: "); ok { // what trusts the key that was shown
		write = "run: " + command + "; or " + write
	}
	told := *e
	switch e.Cause {
	case backends.CauseHostKeyUnknown:
		told.Hint = "compare the fingerprint with what the operator of the SSH host in via tells, then " + write
	case backends.CauseHostKeyChanged:
		told.Hint = "do not connect before the operator of the SSH host in via has confirmed the new fingerprint; then " + write
	default:
		told.Hint = cmp.Or(viaHints[e.Cause], e.Hint)
	}
	return &told
}

// within bounds ctx by the timeout for a step of a login, where the caller does not.
func within(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	if timeout <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, timeout)
}
