package link

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

// patience bounds what must happen; a slow machine makes a test slow and never wrong.
const patience = 20 * time.Second

// listen starts a server whose connections are handed to serve, and returns its address.
func listen(t *testing.T, serve func(*net.TCPConn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serve(c.(*net.TCPConn))
		}
	}()
	return l.Addr().String()
}

// echo answers every byte with itself, at once.
func echo(c *net.TCPConn) {
	defer c.Close()
	_, _ = io.Copy(c, c)
}

func dial(t *testing.T, address string) *net.TCPConn {
	t.Helper()
	c, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn)
}

func send(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatalf("send %q: %v", text, err)
	}
}

func receive(t *testing.T, c net.Conn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
		t.Fatalf("received %q, %v; want %q", got, err, want)
	}
}

func TestFlights(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		talk func(*testing.T, net.Conn)
		want int
	}{
		{"nothing", func(*testing.T, net.Conn) {}, 0},
		{"one question", func(t *testing.T, c net.Conn) { send(t, c, "a"); receive(t, c, "a") }, 1},
		{"a burst is one flight", func(t *testing.T, c net.Conn) {
			for range 5 {
				send(t, c, "a")
			}
			receive(t, c, "aaaaa")
		}, 1},
		{"each answer waited for", func(t *testing.T, c net.Conn) {
			for range 4 {
				send(t, c, "a")
				receive(t, c, "a")
			}
		}, 4},
		{"a window of three over nine", func(t *testing.T, c net.Conn) {
			send(t, c, "abc")
			for range 6 {
				if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
					t.Fatal(err)
				}
				send(t, c, "d")
			}
			receive(t, c, "ddd")
		}, 3},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			l := New(t, Options{RoundTrip: 200 * time.Millisecond})
			c := dial(t, l.Forward(t, "", listen(t, echo)))
			send(t, c, "login")
			receive(t, c, "login")
			count := l.Meter()
			test.talk(t, c)
			if got := count(); got.Flights != test.want {
				t.Errorf("%v; want %d flights", got, test.want)
			}
		})
	}
}

func TestConnectingIsAFlight(t *testing.T) {
	t.Parallel()
	const roundTrip = 100 * time.Millisecond
	greet := func(c *net.TCPConn) {
		_, _ = io.WriteString(c, "hello")
		echo(c)
	}
	for _, test := range []struct {
		name  string
		serve func(*net.TCPConn)
		talk  func(*testing.T, net.Conn)
		want  int
	}{
		{"and the server's first word the second", greet, func(t *testing.T, c net.Conn) { receive(t, c, "hello") }, 2},
		{"and an answer to the client's the second", echo, func(t *testing.T, c net.Conn) { send(t, c, "a"); receive(t, c, "a") }, 2},
		{"and a dialogue goes on", greet, func(t *testing.T, c net.Conn) { receive(t, c, "hello"); send(t, c, "a"); receive(t, c, "a") }, 3},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			l := New(t, Options{RoundTrip: roundTrip})
			address := l.Forward(t, "", listen(t, test.serve))
			count, begun := l.Meter(), time.Now()
			test.talk(t, dial(t, address))
			if got := count(); got.Flights != test.want || got.Connections != 1 {
				t.Errorf("%v; want %d flights and a connection", got, test.want)
			}
			if took, least := time.Since(begun), time.Duration(test.want)*roundTrip; took < least {
				t.Errorf("it took %v, want at least %v", took, least)
			}
		})
	}
}

// TestASecondConnectionIsOpenedBesideTheFirst: who opens it ahead of need does not pay for it later.
func TestASecondConnectionIsOpenedBesideTheFirst(t *testing.T) {
	t.Parallel()
	l := New(t, Options{RoundTrip: 100 * time.Millisecond})
	address := l.Forward(t, "", listen(t, echo))
	first, second := dial(t, address), dial(t, address)
	count := l.Meter()
	send(t, first, "b")
	send(t, second, "b")
	receive(t, first, "b")
	receive(t, second, "b")
	if got := count(); got.Flights != 1 || got.Connections != 0 {
		t.Errorf("%v; want 1 flight and no connection", got)
	}
}

func TestWhatNobodyWaitsForIsNoFlight(t *testing.T) {
	t.Parallel()
	l := New(t, Options{RoundTrip: 50 * time.Millisecond})
	heard := make(chan struct{})
	c := dial(t, l.Forward(t, "", listen(t, func(c *net.TCPConn) {
		defer c.Close()
		_, _ = io.ReadFull(c, make([]byte, 3))
		close(heard)
	})))
	count := l.Meter()
	send(t, c, "bye")
	select {
	case <-heard:
	case <-time.After(patience):
		t.Fatal("the server heard nothing")
	}
	if got := count(); got.Flights != 0 || got.ToServer != 3 {
		t.Errorf("%v; want 0 flights and 3 bytes to the server", got)
	}
}

func TestARoundTripTakesItsTime(t *testing.T) {
	t.Parallel()
	l := New(t, Options{RoundTrip: 60 * time.Millisecond, Bandwidth: 1 << 20})
	c := dial(t, l.Forward(t, "", listen(t, echo)))
	start := time.Now()
	send(t, c, "a")
	receive(t, c, "a")
	if took := time.Since(start); took < 60*time.Millisecond {
		t.Errorf("one round trip took %v, want at least 60ms", took)
	}
	start = time.Now()
	text := string(bytes.Repeat([]byte("x"), 128<<10))
	send(t, c, text)
	receive(t, c, text)
	if took := time.Since(start); took < 125*time.Millisecond {
		t.Errorf("128 KiB at 1 MiB/s took %v, want at least 125ms", took)
	}
}

func TestPortsAreKept(t *testing.T) {
	t.Parallel()
	target := listen(t, echo)
	l := New(t, Options{})
	address := l.Forward(t, "", target)
	host, port, _ := net.SplitHostPort(address)
	wantHost, wantPort, _ := net.SplitHostPort(target)
	if port != wantPort || host == wantHost {
		t.Errorf("the link to %s listens on %s, want another host and the same port", target, address)
	}
	other := l.Forward(t, net.JoinHostPort(host, "0"), listen(t, echo))
	c := dial(t, other)
	send(t, c, "a")
	receive(t, c, "a")
}

func TestCut(t *testing.T) {
	t.Parallel()
	l := New(t, Options{})
	ended := make(chan error, 1)
	address := l.Forward(t, "", listen(t, func(c *net.TCPConn) {
		_, err := io.Copy(c, c)
		ended <- err
	}))
	c := dial(t, address)
	send(t, c, "a")
	receive(t, c, "a")
	l.Cut()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("after the cut the client read %v, want ECONNRESET", err)
	}
	select {
	case err := <-ended:
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("after the cut the server read %v, want ECONNRESET", err)
		}
	case <-time.After(patience):
		t.Error("the server was not told of the cut")
	}
	c = dial(t, address)
	send(t, c, "b")
	receive(t, c, "b")
}

func TestCutAfterSoManyBytes(t *testing.T) {
	t.Parallel()
	for _, n := range []int64{0, 1, 70_000} {
		l := New(t, Options{})
		got := make(chan int64, 1)
		c := dial(t, l.Forward(t, "", listen(t, func(c *net.TCPConn) {
			n, _ := io.Copy(io.Discard, c) // it ends with the cut
			got <- n
		})))
		l.CutAfter(ToServer, n)
		_, _ = c.Write(make([]byte, 200_000)) // it may fail or not: the cut comes while it runs
		select {
		case arrived := <-got:
			if arrived != n {
				t.Errorf("cut after %d bytes: %d arrived", n, arrived)
			}
		case <-time.After(patience):
			t.Errorf("cut after %d bytes: the server still reads", n)
		}
	}
}

func TestBlackHoleHoldsEverythingUntilHealed(t *testing.T) {
	t.Parallel()
	l := New(t, Options{})
	address := l.Forward(t, "", listen(t, echo))
	c := dial(t, address)
	send(t, c, "a")
	receive(t, c, "a")
	l.BlackHole()
	send(t, c, "b")
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	late := dial(t, address) // accepted, and never greeted
	send(t, late, "c")
	for _, c := range []net.Conn{c, late} {
		if err := c.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(make([]byte, 1)); !os.IsTimeout(err) {
			t.Errorf("the black hole delivered %d bytes, %v; want a timeout", n, err)
		}
		if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
	}
	l.Heal(t)
	receive(t, c, "b")
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("healed: the end came as %v, want EOF", err)
	}
	receive(t, late, "c")
}

func TestRefuse(t *testing.T) {
	t.Parallel()
	l := New(t, Options{})
	address := l.Forward(t, "", listen(t, echo))
	c := dial(t, address)
	send(t, c, "a")
	receive(t, c, "a")
	l.Refuse()
	if _, err := net.DialTimeout("tcp", address, patience); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("connect: %v, want ECONNREFUSED", err)
	}
	send(t, c, "b")
	receive(t, c, "b")
	l.Heal(t)
	c = dial(t, address)
	send(t, c, "c")
	receive(t, c, "c")
}

func TestNothingIsLeft(t *testing.T) {
	t.Parallel()
	var address string
	var c net.Conn
	t.Run("link", func(t *testing.T) {
		l := New(t, Options{RoundTrip: time.Millisecond})
		address = l.Forward(t, "", listen(t, echo))
		var err error
		if c, err = net.Dial("tcp", address); err != nil {
			t.Fatal(err)
		}
		l.BlackHole()
		send(t, c, "a")
	})
	defer c.Close()
	if _, err := net.DialTimeout("tcp", address, patience); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("connect after the test: %v, want ECONNREFUSED", err)
	}
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
		t.Errorf("a connection that was left open reads %v, want its end", err)
	}
}
