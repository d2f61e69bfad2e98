package dial

import (
	"context"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"pierfs/backends/netconn"
)

// rate is how fast bytes may pass in one direction, of all connections together. Who has moved bytes charges them; who wants to
// move some waits until all that was charged is paid for. So nobody waits for bytes that never came, and connections that
// share a rate get about the same of it.
type rate struct {
	perSecond float64
	patience  time.Duration // no wait is longer: a connection that makes no progress is taken for dead

	mu   sync.Mutex
	paid time.Time // when all that was charged is paid for
}

const (
	saved      = time.Second / 4 // of a rate that was not used is kept
	leastPiece = 1 << 10
	mostPiece  = 256 << 10
)

// newRate returns a rate for connections that are given up after timeout without netconn.Floor bytes. It gives way rather than have them die: a
// piece is more than that, and waits are an eighth of the time at most.
func newRate(perSecond int64, timeout time.Duration) *rate {
	return &rate{perSecond: float64(perSecond), patience: timeout / 8}
}

// piece is how much may be moved at once.
func (r *rate) piece() int {
	return int(min(max(r.perSecond/10, leastPiece), mostPiece))
}

// charge counts n bytes.
func (r *rate) charge(n int) {
	if n <= 0 {
		return
	}
	now := time.Now()
	cost := time.Duration(float64(n) / r.perSecond * float64(time.Second))
	r.mu.Lock()
	defer r.mu.Unlock()
	if least := now.Add(-saved); r.paid.Before(least) {
		r.paid = least
	}
	if r.paid = r.paid.Add(cost); r.patience > 0 && r.paid.After(now.Add(r.patience)) {
		r.paid = now.Add(r.patience)
	}
}

// due is how long to wait before more may be moved.
func (r *rate) due() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Until(r.paid)
}

// limitedTo has the connections of dial share perSecond bytes in each direction.
func limitedTo(perSecond int64, timeout time.Duration, dial dialFunc) dialFunc {
	down, up := newRate(perSecond, timeout), newRate(perSecond, timeout)
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return limit(conn, down, up), nil
	}
}

// limited is a connection that moves bytes no faster than its rates.
type limited struct {
	net.Conn
	down, up        *rate
	readBy, writeBy netconn.Deadline
	writing         sync.Mutex
	once            sync.Once
	closed          chan struct{}
}

// socket is what protocols may find in a TCP connection besides net.Conn.
type socket interface {
	net.Conn
	syscall.Conn
	CloseWrite() error
	SetLinger(seconds int) error
}

// channel is what they may find in one that is no socket.
type channel interface {
	net.Conn
	CloseWrite() error
	Delivered() int64
}

// limit returns conn, limited, with all that it can do.
func limit(conn net.Conn, down, up *rate) net.Conn {
	l := &limited{Conn: conn, down: down, up: up, closed: make(chan struct{})}
	switch conn := conn.(type) {
	case socket:
		return &limitedSocket{l, conn}
	case channel:
		return &limitedChannel{l, conn}
	}
	return l
}

type limitedSocket struct {
	*limited
	below socket
}

func (l *limitedSocket) SyscallConn() (syscall.RawConn, error) { return l.below.SyscallConn() }
func (l *limitedSocket) CloseWrite() error                     { return l.below.CloseWrite() }
func (l *limitedSocket) SetLinger(seconds int) error           { return l.below.SetLinger(seconds) }

type limitedChannel struct {
	*limited
	below channel
}

func (l *limitedChannel) CloseWrite() error { return l.below.CloseWrite() }
func (l *limitedChannel) Delivered() int64  { return l.below.Delivered() }

// wait waits until more may be moved. It is an error if the deadline passes or the connection is closed meanwhile.
func (l *limited) wait(r *rate, by *netconn.Deadline) error {
	due := r.due()
	if due <= 0 {
		return nil
	}
	timer := time.NewTimer(due)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-by.Passed():
		return os.ErrDeadlineExceeded
	case <-l.closed:
		return net.ErrClosed
	}
}

// Read reads a piece at most.
func (l *limited) Read(p []byte) (int, error) {
	if err := l.wait(l.down, &l.readBy); err != nil {
		return 0, err
	}
	n, err := l.Conn.Read(p[:min(len(p), l.down.piece())])
	l.down.charge(n)
	return n, err
}

// Write writes piece by piece.
func (l *limited) Write(p []byte) (n int, err error) {
	l.writing.Lock()
	defer l.writing.Unlock()
	for {
		if err := l.wait(l.up, &l.writeBy); err != nil {
			return n, err
		}
		wrote, err := l.Conn.Write(p[n:min(len(p), n+l.up.piece())])
		l.up.charge(wrote)
		if n += wrote; err != nil || n >= len(p) {
			return n, err
		}
	}
}

// Close closes the connection under everybody who waits.
func (l *limited) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Conn.Close()
}

// SetDeadline sets both deadlines.
func (l *limited) SetDeadline(t time.Time) error {
	l.readBy.Set(t)
	l.writeBy.Set(t)
	return l.Conn.SetDeadline(t)
}

// SetReadDeadline moves the deadline of Reads, those that wait for their turn too.
func (l *limited) SetReadDeadline(t time.Time) error {
	l.readBy.Set(t)
	return l.Conn.SetReadDeadline(t)
}

// SetWriteDeadline moves the deadline of Writes, those that wait for their turn too.
func (l *limited) SetWriteDeadline(t time.Time) error {
	l.writeBy.Set(t)
	return l.Conn.SetWriteDeadline(t)
}
