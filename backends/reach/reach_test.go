package reach

import (
	"context"
	"errors"
	"net"
	"syscall"
	"testing"
	"time"

	"pierfs/backends"
)

// to is a server that speaks nothing, at address.
func to(address string) Server {
	return Server{Address: address, Speaks: "FTP", Timeout: 10 * time.Second,
		Ended: func(_ string, _ time.Time, _ string, err error) error { return err }}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// A firewall that forgets what was silent for a minute must not cut the dialogue of FTP while a long transfer runs beside it.
// Holds row 74 of the requirements.
func TestConnectionsAreKeptAlive(t *testing.T) {
	conn, err := to(listen(t).Addr().String()).Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		for _, o := range []struct {
			name               string
			level, option      int
			atLeast, notBeyond int
		}{
			{"SO_KEEPALIVE", syscall.SOL_SOCKET, syscall.SO_KEEPALIVE, 1, 1},
			{"TCP_KEEPIDLE", syscall.IPPROTO_TCP, syscall.TCP_KEEPIDLE, 1, 30},
			{"TCP_KEEPINTVL", syscall.IPPROTO_TCP, syscall.TCP_KEEPINTVL, 1, 30},
		} {
			value, err := syscall.GetsockoptInt(int(fd), o.level, o.option)
			if err != nil || value < o.atLeast || value > o.notBeyond {
				t.Errorf("%s is %d (%v), want %d to %d", o.name, value, err, o.atLeast, o.notBeyond)
			}
		}
	})
}

func TestWhyNobodyIsReached(t *testing.T) {
	gone := listen(t)
	gone.Close()
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for name, c := range map[string]struct {
		ctx    context.Context
		server Server
		code   syscall.Errno
		cause  backends.Cause
	}{
		"nobody listens":      {t.Context(), to(gone.Addr().String()), syscall.ECONNREFUSED, backends.CauseConnRefused},
		"no such name":        {t.Context(), to("no-such-host.invalid:21"), syscall.EHOSTUNREACH, backends.CauseDNS},
		"no address":          {t.Context(), to("no-port"), syscall.EINVAL, ""},
		"the caller has left": {ended, to(gone.Addr().String()), syscall.EINTR, ""},
	} {
		_, err := c.server.Connect(c.ctx)
		e, ok := errors.AsType[*backends.Error](err)
		if !ok || e.Code != c.code || e.Cause != c.cause || c.cause != "" && e.Hint == "" {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestSilenceEndsInTime(t *testing.T) {
	s := to("two.example.com:21")
	s.Timeout = 300 * time.Millisecond
	asked := 0
	s.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
		asked++
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if _, err := s.Connect(t.Context()); backends.CauseOf(err) != backends.CauseConnTimeout || asked != 1 {
		t.Errorf("%v after %d attempts", err, asked)
	}
}

// Whoever checks a connection and does not like it has it closed.
func TestRefusedConnectionIsClosed(t *testing.T) {
	l := listen(t)
	s := to(l.Addr().String())
	foreign := errors.New("another address")
	s.Check = func(net.Conn) error { return foreign }
	if _, err := s.Connect(t.Context()); !errors.Is(err, foreign) {
		t.Errorf("got %v", err)
	}
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the connection is open: %v", err)
	}
}
