package hostile

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
)

// Wire is a connection on which nothing was said yet.
type Wire struct{ net.Conn }

// Says sends text in place of SSH and then says nothing more, until the client leaves.
func Says(text string) func(*Wire) net.Conn {
	return func(w *Wire) net.Conn {
		io.WriteString(w, text) // a client that has left
		io.Copy(io.Discard, w)  // needs no answer
		return nil
	}
}

// SaysForEver sends text over and over.
func SaysForEver(text string) func(*Wire) net.Conn {
	return func(w *Wire) net.Conn {
		b := bytes.Repeat([]byte(text), 64<<10/len(text)+1)
		for {
			if _, err := w.Write(b); err != nil {
				return nil
			}
		}
	}
}

// DripsGreeting sends the first line of SSH one byte a tick, without an end.
func DripsGreeting(ticks <-chan time.Time) func(*Wire) net.Conn {
	return func(w *Wire) net.Conn {
		gone := w.gone()
		const line = "SSH-2.0-drip"
		for n := 0; ; n++ {
			select {
			case <-ticks:
				io.WriteString(w, line[n%len(line):][:1]) // a client that has left needs no answer
			case <-gone:
				return nil
			}
		}
	}
}

// gone discards what the client says and returns a channel that is closed when he has left.
func (w *Wire) gone() <-chan struct{} {
	gone := make(chan struct{})
	go func() { // ends with the connection
		io.Copy(io.Discard, w)
		close(gone)
	}()
	return gone
}

// SaysAndCuts sends text in place of SSH and ends the connection.
func SaysAndCuts(text string) func(*Wire) net.Conn {
	return func(w *Wire) net.Conn {
		io.WriteString(w, text) // a client that has left needs no answer
		return nil
	}
}

// CutsAfter ends the connection once the server has sent n bytes.
func CutsAfter(n int) func(*Wire) net.Conn {
	return func(w *Wire) net.Conn { return &cutter{Conn: w, left: n} }
}

// Counts adds up what the server sends.
func Counts(sent *atomic.Int64) func(*Wire) net.Conn {
	return func(w *Wire) net.Conn { return &counter{Conn: w, sent: sent} }
}

type counter struct {
	net.Conn
	sent *atomic.Int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.sent.Add(int64(n))
	return n, err
}

// StopsAfter says nothing more once the server has sent n bytes, and stays connected.
func StopsAfter(n int) func(*Wire) net.Conn {
	return func(w *Wire) net.Conn { return &cutter{Conn: w, left: n, stay: true} }
}

type cutter struct {
	net.Conn
	stay bool // connected
	mu   sync.Mutex
	left int
}

func (c *cutter) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, err := c.Conn.Write(p[:min(len(p), c.left)])
	c.left -= n
	switch {
	case c.left == 0 && c.stay:
		return len(p), err
	case c.left == 0:
		c.Conn.Close()
		return n, net.ErrClosed
	}
	return n, err
}

// Replaces puts to in place of the first from that the server sends; both have the same length. Somebody between does that
// to the plain beginning of a connection.
func Replaces(from, to string) func(*Wire) net.Conn {
	return func(w *Wire) net.Conn { return &meddler{Conn: w, from: []byte(from), to: []byte(to)} }
}

type meddler struct {
	net.Conn
	from, to []byte
	done     bool
}

// Write is called by one goroutine at a time, and x/crypto hands over whole packets.
func (m *meddler) Write(p []byte) (int, error) {
	if !m.done && bytes.Contains(p, m.from) {
		m.done = true
		if _, err := m.Conn.Write(bytes.Replace(p, m.from, m.to, 1)); err != nil {
			return 0, err
		}
		return len(p), nil
	}
	return m.Conn.Write(p)
}

// InjectsIgnore puts an SSH_MSG_IGNORE before the server's key exchange, as the Terrapin attack does (CVE-2023-48795).
func InjectsIgnore() func(*Wire) net.Conn {
	return func(w *Wire) net.Conn { return &injector{Conn: w} }
}

type injector struct {
	net.Conn
	greeted, done bool
}

func (i *injector) Write(p []byte) (int, error) {
	switch {
	case !i.greeted && bytes.HasPrefix(p, []byte("SSH-")):
		i.greeted = true
	case i.greeted && !i.done:
		i.done = true
		// Length 12, padding 6, SSH_MSG_IGNORE with an empty string.
		if _, err := i.Conn.Write([]byte{0, 0, 0, 12, 6, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}); err != nil {
			return 0, err
		}
	}
	return i.Conn.Write(p)
}

// Listens keeps the first bytes of every client in heard, which stays readable while connections go on.
func Listens(heard *Heard) func(*Wire) net.Conn {
	return func(w *Wire) net.Conn { return &listener{Conn: w, heard: heard} }
}

// Heard is the plain beginning of what clients said.
type Heard struct {
	mu sync.Mutex
	b  []byte
}

type listener struct {
	net.Conn
	heard *Heard
}

func (l *listener) Read(p []byte) (int, error) {
	n, err := l.Conn.Read(p)
	l.heard.mu.Lock()
	defer l.heard.mu.Unlock()
	if len(l.heard.b) < 64<<10 {
		l.heard.b = append(l.heard.b, p[:n]...)
	}
	return n, err
}

// KeyExchanges returns the algorithms of the first KEXINIT that was heard (RFC 4253 section 7.1); nil if none was.
func (h *Heard) KeyExchanges() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, b, found := bytes.Cut(h.b, []byte("\n"))
	const head, cookie = 6, 16 // length, padding, message number
	if !found || len(b) < head+cookie+4 || b[head-1] != 20 {
		return nil
	}
	list := b[head+cookie:]
	n := binary.BigEndian.Uint32(list)
	if uint64(n) > uint64(len(list)-4) {
		return nil
	}
	return strings.Split(string(list[4:4+n]), ",")
}

// The ways to abuse a login.

// Interrogates lets nobody in but by keyboard-interactive, and asks there by ask.
func Interrogates(ask func(ssh.KeyboardInteractiveChallenge) error) func(*ssh.ServerConfig) {
	return func(c *ssh.ServerConfig) {
		c.PasswordCallback = nil
		c.KeyboardInteractiveCallback = func(_ ssh.ConnMetadata, client ssh.KeyboardInteractiveChallenge) (*ssh.Permissions, error) {
			return nil, ask(client)
		}
	}
}

// Banners sends n banners of text before anything is asked.
func Banners(n int, text string) func(*ssh.ServerConfig) {
	return func(c *ssh.ServerConfig) {
		c.PreAuthConnCallback = func(conn ssh.ServerPreAuthConn) {
			for range n {
				if conn.SendAuthBanner(text) != nil {
					return // the client has left
				}
			}
		}
	}
}
