package dial

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pierfs/backends/netconn"
)

// pipe returns a connection that is limited, and its peer.
func pipe(t *testing.T, down, up *rate) (here, peer net.Conn) {
	t.Helper()
	here, peer = net.Pipe()
	t.Cleanup(func() { here.Close(); peer.Close() })
	return limit(&delivering{Conn: here}, down, up), peer
}

// delivering counts what it has written, as a channel of an SSH host does.
type delivering struct {
	net.Conn
	n atomic.Int64
}

func (d *delivering) Write(p []byte) (int, error) {
	n, err := d.Conn.Write(p)
	d.n.Add(int64(n))
	return n, err
}

func (d *delivering) Delivered() int64  { return d.n.Load() }
func (d *delivering) CloseWrite() error { return d.Close() }

// took checks that want has passed since begun, but for what was saved up before and what is moved before it is paid for.
func took(t *testing.T, what string, begun time.Time, want time.Duration) {
	t.Helper()
	if took := time.Since(begun); took < want-saved-110*time.Millisecond || took > want+10*time.Millisecond {
		t.Errorf("%s took %v, want %v", what, took, want)
	}
}

func TestRateIsKept(t *testing.T) {
	const perSecond, size = 100_000, 500_000
	content := bytes.Repeat([]byte("x"), size)
	t.Run("written", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			conn, peer := pipe(t, newRate(perSecond, time.Minute), newRate(perSecond, time.Minute))
			go io.Copy(io.Discard, peer) // ends with the test
			begun := time.Now()
			if n, err := conn.Write(content); n != size || err != nil {
				t.Errorf("Write = %d, %v", n, err)
			}
			conn.Write([]byte("y")) // waits for what is before it to be paid for
			took(t, "writing", begun, 5*time.Second)
		})
	})
	t.Run("read", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			conn, peer := pipe(t, newRate(perSecond, time.Minute), newRate(perSecond, time.Minute))
			go peer.Write(append(content, 'y')) // ends with the test
			begun := time.Now()
			if n, err := io.ReadFull(conn, make([]byte, size+1)); n != size+1 || err != nil {
				t.Errorf("read %d, %v", n, err)
			}
			took(t, "reading", begun, 5*time.Second)
		})
	})
	t.Run("by all together", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			down, up := newRate(perSecond, time.Minute), newRate(perSecond, time.Minute)
			begun := time.Now()
			var all sync.WaitGroup
			var spread [4]time.Duration
			for i := range 4 {
				conn, peer := pipe(t, down, up)
				go io.Copy(io.Discard, peer) // ends with the test
				all.Go(func() {
					conn.Write(content[:size/4])
					spread[i] = time.Since(begun)
				})
			}
			all.Wait()
			if first, last := slices.Min(spread[:]), slices.Max(spread[:]); first < 3*time.Second || last < 4*time.Second || last > 5100*time.Millisecond {
				t.Errorf("the four took %v, want five seconds for the last, and the others not much less", spread)
			}
		})
	})
	t.Run("in each direction by itself", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			conn, peer := pipe(t, newRate(perSecond, time.Minute), newRate(perSecond, time.Minute))
			go io.Copy(peer, peer) // ends with the test
			begun := time.Now()
			var all sync.WaitGroup
			all.Go(func() { conn.Write(content) })
			io.ReadFull(conn, make([]byte, size))
			all.Wait()
			took(t, "an echo", begun, 5*time.Second)
		})
	})
}

// TestSlowestRateKillsNobody: who shares a rate with many makes too little progress for the watch over his connection; then
// the rate gives way.
func TestSlowestRateKillsNobody(t *testing.T) {
	for name, reading := range map[string]bool{"writing": false, "reading": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				down, up := newRate(2000, time.Second), newRate(2000, time.Second)
				var all sync.WaitGroup
				for range 10 {
					conn, peer := pipe(t, down, up)
					watched := netconn.New(conn, time.Second)
					defer watched.Close()
					all.Go(func() {
						if !reading {
							go io.Copy(io.Discard, peer) // ends with the test
							if n, err := watched.Write(make([]byte, 20_000)); err != nil {
								t.Errorf("died after %d bytes: %v", n, err)
							}
							return
						}
						go peer.Write(make([]byte, 20_000)) // ends with the test
						done := watched.Expect()
						defer done()
						if n, err := io.ReadFull(watched, make([]byte, 20_000)); err != nil {
							t.Errorf("died after %d bytes: %v", n, err)
						}
					})
				}
				all.Wait()
			})
		})
	}
}

func TestWaitingForOnesTurnEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down, up := newRate(1000, time.Hour), newRate(1000, time.Hour)
		conn, peer := pipe(t, down, up)
		go io.Copy(io.Discard, peer) // ends with the test
		up.charge(100_000)
		begun := time.Now()
		conn.SetWriteDeadline(begun.Add(time.Second))
		if _, err := conn.Write([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(begun) != time.Second {
			t.Errorf("after %v: %v, want the deadline after a second", time.Since(begun), err)
		}
		conn.SetDeadline(time.Time{})
		waiting := make(chan error)
		go func() { _, err := conn.Write([]byte("x")); waiting <- err }()
		synctest.Wait()
		conn.Close()
		if err := <-waiting; err == nil || time.Since(begun) != time.Second {
			t.Errorf("after %v: %v, want an error at once", time.Since(begun), err)
		}
		down.charge(100_000)
		conn, _ = pipe(t, down, up)
		conn.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a read beyond its deadline: %v", err)
		}
	})
}

// TestLimitedSocketIsASocket: the watch asks the socket how much has arrived, and an upload that is given up is reset.
func TestLimitedSocketIsASocket(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for name, dial := range map[string]func() (net.Conn, error){
		"straight": func() (net.Conn, error) { return net.Dial("tcp", l.Addr().String()) },
		"proxied": func() (net.Conn, error) {
			conn, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				return nil, err
			}
			return &proxied{conn.(*net.TCPConn), "server:21"}, nil
		},
	} {
		raw, err := dial()
		if err != nil {
			t.Fatal(err)
		}
		conn := limit(raw, newRate(1<<20, time.Second), newRate(1<<20, time.Second))
		peer, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		watched := netconn.New(conn, time.Minute)
		if n, err := watched.Pending(); n != 0 || err != nil {
			t.Errorf("%s: Pending = %d, %v", name, n, err)
		}
		if _, err := watched.Write([]byte("content")); err != nil {
			t.Error(err)
		}
		watched.SetWriteDeadline(time.Unix(1, 0)) // as crypto/tls does behind its last word
		if err := watched.CloseWrite(); err != nil {
			t.Error(err)
		}
		if got, err := io.ReadAll(peer); string(got) != "content" || err != nil {
			t.Errorf("%s: %q arrived, %v", name, got, err)
		}
		if n := watched.Delivered(); n < 7 {
			t.Errorf("%s: Delivered = %d", name, n)
		}
		if _, ok := conn.(interface{ SetLinger(int) error }); !ok {
			t.Errorf("%s: the connection cannot be reset", name)
		}
		if name == "proxied" && conn.RemoteAddr().String() != "server:21" {
			t.Errorf("the other side is %v", conn.RemoteAddr())
		}
		watched.Close()
		peer.Close()
	}
}
