package netconn

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

const timeout = 10 * time.Second

// pair returns a Conn and its other side.
func pair(t *testing.T) (*Conn, net.Conn) {
	a, b := net.Pipe()
	c := New(a, timeout)
	t.Cleanup(func() { c.Close(); b.Close() })
	return c, b
}

func TestSilenceEndsWhoWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := pair(t)
		defer c.Expect()()
		begun := time.Now()
		_, err := c.Read(make([]byte, 10))
		if !errors.Is(err, ErrSilent) || !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(begun) != timeout {
			t.Errorf("Read = %v after %v, want ErrSilent after %v", err, time.Since(begun), timeout)
		}
	})
}

func TestIdleConnectionLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := pair(t)
		c.Expect()()
		time.Sleep(100 * timeout)
		if c.Cause() != nil {
			t.Errorf("closed by itself: %v", c.Cause())
		}
		c.Close()
	})
}

func TestSlowProgressLivesAndDripDoesNot(t *testing.T) {
	for _, test := range []struct {
		bytes int // every 4 s
		lives bool
	}{{Floor, true}, {Floor / 2, true}, {Floor / 8, false}, {1, false}} {
		synctest.Test(t, func(t *testing.T) {
			c, peer := pair(t)
			defer c.Expect()()
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				for range 20 {
					time.Sleep(4 * time.Second)
					if _, err := peer.Write(make([]byte, test.bytes)); err != nil {
						return
					}
				}
				peer.Close()
			}()
			_, err := io.Copy(io.Discard, c)
			if lived := err == nil; lived != test.lives {
				t.Errorf("%d bytes every 4 s: %v, should live: %v", test.bytes, err, test.lives)
			}
			c.Close()
			<-ended
		})
	}
}

func TestWriteIntoNothingEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := pair(t)
		begun := time.Now()
		if _, err := c.Write([]byte("x")); !errors.Is(err, ErrSilent) || time.Since(begun) != timeout {
			t.Errorf("Write = %v after %v", err, time.Since(begun))
		}
	})
}

func TestContextEndsRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := pair(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		c.Bind(ctx)
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Read = %v", err)
		}
		<-c.Dead()
	})
}

func TestReleasedContextHasNoHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := pair(t)
		ctx, cancel := context.WithCancel(t.Context())
		if !c.Bind(ctx)() {
			t.Error("released too late")
		}
		cancel()
		synctest.Wait()
		if c.Cause() != nil {
			t.Errorf("closed: %v", c.Cause())
		}
		c.Close()
	})
}

// The oldest is judged by its own progress; that younger ones are answered shows only that the other side lives.
func TestOldestIsJudgedAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type verdict struct {
			t         *Ticket
			overtaken bool
			after     time.Duration
		}
		begun := time.Now()
		verdicts := make(chan verdict, 3)
		w := NewWatch(timeout, nil, func(t *Ticket, overtaken bool) { verdicts <- verdict{t, overtaken, time.Since(begun)} })
		var old, young, last Ticket
		w.Expect(&old)
		w.Expect(&young)
		time.Sleep(timeout / 2)
		w.Progress(&young, 10*Floor)
		w.Done(&young)
		w.Expect(&last)
		if v := <-verdicts; v != (verdict{&old, true, timeout}) {
			t.Errorf("got %+v, want the old one, overtaken, after %v", v, timeout)
		}
		if v := <-verdicts; v != (verdict{&last, false, 2 * timeout}) {
			t.Errorf("got %+v, want the last one, not overtaken, after %v", v, 2*timeout)
		}
		w.Stop()
	})
}

// A request that is still on its way over a slow line cannot have been answered: what leaves is progress.
func TestSlowUploadLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var gone atomic.Int64
		var stalled atomic.Bool
		w := NewWatch(timeout, gone.Load, func(*Ticket, bool) { stalled.Store(true) })
		var request Ticket
		w.Expect(&request)
		w.Sent(&request, 20*Floor)
		for range 20 {
			time.Sleep(timeout / 2)
			gone.Add(Floor)
		}
		if stalled.Load() {
			t.Error("given up while it was leaving")
		}
		time.Sleep(2 * timeout) // delivered, and not answered
		if !stalled.Load() {
			t.Error("not given up after it had left")
		}
		w.Stop()
	})
}

// What is read from goes on to the socket itself, which can send a file without copying it.
func TestReadFromReachesTheSocket(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	raw, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c := New(raw, timeout)
	defer c.Close()
	peer, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	content := strings.Repeat("content ", 400000) // more than two pieces
	got := make(chan []byte, 1)
	go func() { b, _ := io.ReadAll(peer); got <- b; peer.Close() }()
	n, err := io.Copy(c, strings.NewReader(content))
	if err != nil || n != int64(len(content)) {
		t.Fatalf("Copy = %d, %v", n, err)
	}
	raw.(*net.TCPConn).CloseWrite()
	if !bytes.Equal(<-got, []byte(content)) {
		t.Error("something else arrived")
	}
	if _, err := raw.Read(make([]byte, 1)); err != io.EOF { // the peer's end says that it has everything
		t.Errorf("the peer's end reads as %v", err)
	}
	if c.Written() != n || c.Delivered() < n {
		t.Errorf("written %d, delivered %d of %d", c.Written(), c.Delivered(), n)
	}
}

// TestBrokenTellsTheFirstTrouble: what a library above makes of an error is not to be relied on, so that the Conn keeps it.
func TestBrokenTellsTheFirstTrouble(t *testing.T) {
	why := errors.New("why")
	for name, test := range map[string]struct {
		trouble func(*Conn, net.Conn)
		want    error
	}{
		"none":     {func(c *Conn, _ net.Conn) {}, nil},
		"end":      {func(_ *Conn, peer net.Conn) { peer.Close() }, io.EOF},
		"deadline": {func(c *Conn, _ net.Conn) { c.SetDeadline(time.Unix(1, 0)) }, os.ErrDeadlineExceeded},
		"kill":     {func(c *Conn, _ net.Conn) { c.Kill(why) }, why},
		"close":    {func(c *Conn, _ net.Conn) { c.Close() }, nil},
	} {
		c, peer := pair(t)
		test.trouble(c, peer)
		if test.want != nil || name == "close" {
			if _, err := c.Read(make([]byte, 1)); err == nil {
				t.Errorf("%s: Read succeeded", name)
			}
		}
		c.Close()
		c.Read(make([]byte, 1)) // of a closed connection: no news
		if got := c.Broken(); !errors.Is(got, test.want) {
			t.Errorf("%s: Broken = %v, want %v", name, got, test.want)
		}
	}
}

// TestPendingLooksWithoutReading: what is there, an end and nothing are told apart, and nothing is taken away.
func TestPendingLooksWithoutReading(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	raw, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c := New(raw, timeout)
	defer c.Close()
	peer, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if n, err := c.Pending(); n != 0 || err != nil {
		t.Errorf("nothing sent: Pending = %d, %v", n, err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := peer.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("after CloseWrite the peer reads %v", err)
	}
	peer.Write([]byte("xy"))
	peer.Close()
	first := make([]byte, 1)
	if _, err := io.ReadFull(c, first); err != nil { // waits until both have come, in one segment
		t.Fatal(err)
	}
	if n, err := c.Pending(); n != 1 || err != nil {
		t.Errorf("one byte left: Pending = %d, %v", n, err)
	}
	if rest, err := io.ReadAll(c); string(rest) != "y" || err != nil {
		t.Errorf("read %q, %v", rest, err)
	}
	if n, err := c.Pending(); n != 0 || err != io.EOF {
		t.Errorf("closed by the peer: Pending = %d, %v", n, err)
	}
	pipe, _ := pair(t)
	if _, err := pipe.Pending(); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("a pipe: %v", err)
	}
}

// TestWhatWasGivenUpIsNotDeliveredLater fills the way to a server that takes nothing, and gives up. What it takes then must break
// off: an orderly end would have the kernel deliver all of it, however late.
func TestWhatWasGivenUpIsNotDeliveredLater(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	raw, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	c := New(raw, 100*time.Millisecond)
	for err == nil {
		_, err = c.Write(make([]byte, 1<<20))
	}
	if !errors.Is(err, ErrSilent) {
		t.Fatal(err)
	}
	if err := server.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, server); !errors.Is(err, syscall.ECONNRESET) || n >= c.Written() {
		t.Errorf("the server took %d bytes of %d and then had %v", n, c.Written(), err)
	}
}
