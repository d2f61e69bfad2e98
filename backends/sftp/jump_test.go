package sftp

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"pierfs/backends"
)

// gate is an SSH host that leads on, in this process.
type gate struct {
	address string
	logins  atomic.Int32
	mu      sync.Mutex
	config  *ssh.ServerConfig
	conns   []net.Conn // of its clients
}

// newGate starts a host that gives each wish for a connection to lead.
func newGate(t *testing.T, lead func(address string, n ssh.NewChannel)) *gate {
	t.Helper()
	g := &gate{config: serverConfig(t)}
	g.address = serve(t, func(conn net.Conn) {
		g.mu.Lock()
		config := *g.config
		g.mu.Unlock()
		_, channels, requests, err := ssh.NewServerConn(conn, &config)
		if err != nil {
			return // the scan of the host key ends so
		}
		g.logins.Add(1)
		g.mu.Lock()
		g.conns = append(g.conns, conn)
		g.mu.Unlock()
		go func() { // ends with the connection
			for r := range requests {
				r.Reply(true, nil)
			}
		}()
		for n := range channels {
			var wish struct {
				Host       string
				Port       uint32
				Origin     string
				OriginPort uint32
			}
			if err := ssh.Unmarshal(n.ExtraData(), &wish); err != nil || n.ChannelType() != "direct-tcpip" {
				n.Reject(ssh.UnknownChannelType, "no")
				continue
			}
			go lead(wish.Host, n) // ends with the connection
		}
	})
	return g
}

// cut ends all connections of the host's clients.
func (g *gate) cut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, conn := range g.conns {
		conn.Close()
	}
	g.conns = nil
}

// echo sends back what comes, and the end too.
func echo(_ string, n ssh.NewChannel) {
	channel, requests, err := n.Accept()
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests) // ends with the channel
	io.Copy(channel, channel)
	channel.CloseWrite()
	channel.Close()
}

// jump returns a Jump over g that believes its key.
func (g *gate) jump(t *testing.T, o Options) *Jump {
	t.Helper()
	o.Address, o.Username, o.Password = g.address, "pier", text("x")
	_, _, print, err := ScanHostKey(t.Context(), o)
	ok(t, err)
	o.HostKey = print
	j, err := NewJump(o)
	ok(t, err)
	t.Cleanup(func() { j.Close() })
	return j
}

func (g *gate) dial(t *testing.T, j *Jump) net.Conn {
	t.Helper()
	conn, err := j.DialContext(t.Context(), "tcp", "inside.example:21")
	ok(t, err)
	t.Cleanup(func() { conn.Close() })
	return conn
}

// refusesToLead checks that no connection comes about, for the given reason.
func refusesToLead(t *testing.T, j *Jump, ctx context.Context, class backends.Class, cause backends.Cause, code syscall.Errno) {
	t.Helper()
	conn, err := j.DialContext(ctx, "tcp", "inside.example:21")
	if err == nil {
		conn.Close()
		t.Fatal("a connection came about")
	}
	e, is := errors.AsType[*backends.Error](err)
	switch {
	case !is || e.Class != class || e.Cause != cause || e.Code != code:
		t.Fatalf("got %v, %q, %v: %v, want %v, %q, %v", backends.ClassOf(err), backends.CauseOf(err), backends.Errno(err), err, class, cause, code)
	case !strings.Contains(err.Error(), j.o.Address):
		t.Errorf("%v does not name the host", err)
	case e.Hint == "" && code != syscall.EINTR:
		t.Errorf("%v has no hint", err)
	}
}

func TestJumpCarriesBothWays(t *testing.T) {
	g := newGate(t, echo)
	conn := g.dial(t, g.jump(t, Options{}))
	content := bytes.Repeat([]byte("content "), 1<<19) // two windows
	var sending sync.WaitGroup
	sending.Go(func() {
		if n, err := conn.Write(content); err != nil || n != len(content) {
			t.Errorf("Write = %d, %v", n, err)
		}
		conn.SetWriteDeadline(time.Unix(1, 0)) // as crypto/tls does behind its last word
		if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Errorf("CloseWrite: %v", err)
		}
	})
	got, err := io.ReadAll(conn)
	sending.Wait()
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
	if n := conn.(*farConn).Delivered(); n < int64(len(content))-64<<10 {
		t.Errorf("delivered %d of %d", n, len(content))
	}
	if got := conn.RemoteAddr().String(); got != "inside.example:21" {
		t.Errorf("the other side is %s", got)
	}
}

func TestJumpConnectionsHaveDeadlines(t *testing.T) {
	late := make(chan struct{})
	g := newGate(t, func(_ string, n ssh.NewChannel) {
		channel, requests, err := n.Accept()
		if err != nil {
			return
		}
		go ssh.DiscardRequests(requests) // ends with the channel
		<-late
		channel.Write([]byte("at last")) // and nothing is ever read
	})
	conn := g.dial(t, g.jump(t, Options{}))
	conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := conn.Read(make([]byte, 9)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("a read that is too late: %v", err)
	}
	close(late)
	conn.SetReadDeadline(time.Time{})
	got := make([]byte, 7)
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "at last" {
		t.Errorf("after the deadline was taken away: %q, %v", got, err)
	}
	waiting := make(chan error, 1)
	go func() { _, err := conn.Read(make([]byte, 1)); waiting <- err }()
	conn.SetReadDeadline(time.Unix(1, 0)) // under who waits
	if err := <-waiting; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a deadline that moves: %v", err)
	}
	conn.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := conn.Write(make([]byte, 8<<20)); !errors.Is(err, os.ErrDeadlineExceeded) || n >= 8<<20 {
		t.Errorf("a write that nobody takes: %d, %v", n, err)
	}
	if _, err := conn.Write([]byte("x")); err == nil {
		t.Error("a write after one that was cut off succeeds")
	}
}

func TestJumpLogsInOnce(t *testing.T) {
	g := newGate(t, echo)
	j := g.jump(t, Options{})
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			conn, err := j.DialContext(t.Context(), "tcp", "inside.example:21")
			if err != nil {
				t.Error(err)
				return
			}
			conn.Close()
		})
	}
	all.Wait()
	if n := g.logins.Load(); n != 1 {
		t.Errorf("%d logins for eight connections", n)
	}
	g.cut()
	for range 2 { // the first may find out, and then nobody is told
		g.dial(t, j).Close()
	}
	if n := g.logins.Load(); n != 2 {
		t.Errorf("%d logins after the host was lost once", n)
	}
}

// TestJumpShowsAWrongPasswordOnce: whoever else waits for the login gets its refusal, and does not repeat it.
func TestJumpShowsAWrongPasswordOnce(t *testing.T) {
	g := newGate(t, echo)
	asked, answer := make(chan struct{}, 100), make(chan struct{})
	g.mu.Lock()
	g.config.PasswordCallback = func(ssh.ConnMetadata, []byte) (*ssh.Permissions, error) {
		asked <- struct{}{}
		<-answer
		return nil, errors.New("no")
	}
	g.mu.Unlock()
	j := g.jump(t, Options{})
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() { refusesToLead(t, j, t.Context(), backends.Refused, backends.CauseAuth, syscall.EACCES) })
	}
	<-asked
	for j.waiting.Load() < 3 { // the three others wait for the one who asks
		time.Sleep(time.Millisecond)
	}
	close(answer)
	all.Wait()
	if n := len(asked); n != 0 {
		t.Errorf("the password was shown %d times more", n)
	}
}

func TestJumpTellsWhyItLeadsNowhere(t *testing.T) {
	for name, test := range map[string]struct {
		reason ssh.RejectionReason
		class  backends.Class
		cause  backends.Cause
		code   syscall.Errno
	}{
		"forbidden":   {ssh.Prohibited, backends.Refused, backends.CauseNoRoute, syscall.EACCES},
		"unreachable": {ssh.ConnectionFailed, backends.Transient, backends.CauseNoRoute, syscall.EHOSTUNREACH},
		"full":        {ssh.ResourceShortage, backends.Transient, backends.CauseTooManySessions, syscall.EAGAIN},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGate(t, func(_ string, n ssh.NewChannel) { n.Reject(test.reason, "no") })
			j := g.jump(t, Options{})
			for range 2 {
				refusesToLead(t, j, t.Context(), test.class, test.cause, test.code)
			}
			if n := g.logins.Load(); n != 1 {
				t.Errorf("%d logins: the host itself is well", n)
			}
		})
	}
	t.Run("unknown host key", func(t *testing.T) {
		g := newGate(t, echo)
		j, err := NewJump(Options{Address: g.address, Username: "pier", Password: text("x")})
		ok(t, err)
		refusesToLead(t, j, t.Context(), backends.Refused, backends.CauseHostKeyUnknown, syscall.EACCES)
	})
	t.Run("no host", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		ok(t, err)
		l.Close()
		j, err := NewJump(Options{Address: l.Addr().String(), Username: "pier", Password: text("x")})
		ok(t, err)
		refusesToLead(t, j, t.Context(), backends.Transient, backends.CauseConnRefused, syscall.ECONNREFUSED)
	})
	t.Run("silence behind", func(t *testing.T) {
		g := newGate(t, func(string, ssh.NewChannel) {})
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		refusesToLead(t, g.jump(t, Options{}), ctx, backends.Transient, backends.CauseConnTimeout, syscall.ETIMEDOUT)
	})
	t.Run("given up", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		g := newGate(t, func(string, ssh.NewChannel) { cancel() })
		refusesToLead(t, g.jump(t, Options{}), ctx, backends.Transient, "", syscall.EINTR)
	})
	t.Run("closed", func(t *testing.T) {
		j := newGate(t, echo).jump(t, Options{})
		j.Close()
		if _, err := j.DialContext(t.Context(), "tcp", "inside.example:21"); !errors.Is(err, syscall.ESHUTDOWN) {
			t.Errorf("got %v, want ESHUTDOWN", err)
		}
	})
}

// TestJumpOverAHostThatFallsSilent: nobody hangs on it, its connections end, and it is logged in to anew.
func TestJumpOverAHostThatFallsSilent(t *testing.T) {
	var dialled []net.Conn
	var stalled atomic.Bool
	g := newGate(t, echo)
	j := g.jump(t, Options{SocketTimeout: time.Second, ConnectTimeout: 5 * time.Second})
	j.o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		if err == nil {
			conn = &mute{Conn: conn, stalled: &stalled, closed: make(chan struct{})}
			dialled = append(dialled, conn)
		}
		return conn, err
	}
	conn := g.dial(t, j)
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	stalled.Store(true)
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("a read from behind a silent host: %v, want an error that is no end", err)
	}
	conn.Close()
	stalled.Store(false)
	again := g.dial(t, j)
	if _, err := again.Write([]byte("y")); err != nil {
		t.Error(err)
	}
	if len(dialled) != 2 {
		t.Errorf("the host was dialled %d times", len(dialled))
	}
}

// mute is a connection on which nothing comes any more.
type mute struct {
	net.Conn
	stalled *atomic.Bool
	once    sync.Once
	closed  chan struct{}
}

func (m *mute) Read(p []byte) (int, error) {
	n, err := m.Conn.Read(p)
	if m.stalled.Load() {
		<-m.closed
		return 0, net.ErrClosed
	}
	return n, err
}

func (m *mute) Close() error {
	m.once.Do(func() { close(m.closed) })
	return m.Conn.Close()
}

// TestJumpOutlivesItsClose: sessions may be lent to others than who has made them.
func TestJumpOutlivesItsClose(t *testing.T) {
	g := newGate(t, echo)
	j := g.jump(t, Options{})
	first, second := g.dial(t, j), g.dial(t, j)
	login := j.current
	j.Close()
	first.Close()
	if _, err := second.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(second, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	second.Close()
	<-login.conn.Dead()
}
