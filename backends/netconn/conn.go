package netconn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrSilent is why a connection was closed that brought no progress while something was awaited. It answers
// errors.Is(err, os.ErrDeadlineExceeded).
var ErrSilent = fmt.Errorf("no progress within the timeout: %w", os.ErrDeadlineExceeded)

// IsTimeout reports whether err is a deadline that has passed, of a connection or of a context.
func IsTimeout(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)
}

// Conn is a net.Conn that closes itself when its Watch stalls or a bound context ends. Reads and writes under way then
// return why. Its methods may be called from many goroutines at once.
type Conn struct {
	net.Conn
	watch *Watch

	read    atomic.Int64
	written atomic.Int64

	once  sync.Once
	dead  chan struct{}
	cause error // why it was closed; set before dead is closed

	broken atomic.Pointer[error]
}

// New returns conn under a watch of timeout, which must be positive. Closing the Conn closes conn.
func New(conn net.Conn, timeout time.Duration) *Conn {
	c := &Conn{Conn: conn, dead: make(chan struct{})}
	c.watch = NewWatch(timeout, c.Delivered, func(*Ticket, bool) { c.Kill(ErrSilent) })
	return c
}

// Expect says that something is awaited, until the func that it returns is called.
func (c *Conn) Expect() (done func()) {
	t := new(Ticket)
	c.watch.Expect(t)
	return func() { c.watch.Done(t) }
}

// Bind closes the connection when ctx ends; the func that it returns loosens the bond and reports whether it was in
// time.
func (c *Conn) Bind(ctx context.Context) (release func() bool) {
	return context.AfterFunc(ctx, func() { c.Kill(context.Cause(ctx)) })
}

// Read reads from the connection. Bytes count as progress for whatever is awaited.
func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.read.Add(int64(n))
		c.watch.Progress(nil, n)
	}
	return n, c.reason(err)
}

// Write writes to the connection, which is awaited until it returns.
func (c *Conn) Write(p []byte) (int, error) {
	t := new(Ticket)
	c.watch.Expect(t)
	n, err := c.Conn.Write(p)
	c.watch.Done(t)
	c.written.Add(int64(n))
	return n, c.reason(err)
}

// chunk is how much of a long ReadFrom is sent under one ticket.
const chunk = 1 << 20

// ReadFrom hands r to the connection below where that can take it without copying (sendfile), in pieces, so that a
// receiver that has stopped is found.
func (c *Conn) ReadFrom(r io.Reader) (int64, error) {
	from, ok := c.Conn.(io.ReaderFrom)
	if !ok {
		return io.Copy(struct{ io.Writer }{c}, r)
	}
	var total int64
	for {
		t := new(Ticket)
		c.watch.Expect(t)
		n, err := from.ReadFrom(io.LimitReader(r, chunk))
		c.watch.Done(t)
		c.written.Add(n)
		total += n
		if err != nil || n < chunk {
			return total, c.reason(err)
		}
	}
}

// Close closes the connection. It may be called twice.
func (c *Conn) Close() error {
	c.Kill(net.ErrClosed)
	return nil
}

// Kill closes the connection; everybody who hangs on it gets cause. Only the first cause counts. If that is silence, or the end of
// somebody's patience, what the other side has not yet taken is thrown away: left to the kernel, a request that was given up would
// still be delivered when the network is healed minutes later, after newer ones on another connection.
func (c *Conn) Kill(cause error) {
	c.once.Do(func() {
		c.cause = cause
		close(c.dead)
		c.watch.Stop()
		if socket, ok := c.Conn.(interface{ SetLinger(int) error }); ok && (IsTimeout(cause) || errors.Is(cause, context.Canceled)) {
			socket.SetLinger(0) // best effort: what refuses is closed already
		}
		c.Conn.Close() // a socket that cannot be closed leaves nothing to do
	})
}

// CloseWrite tells the other side that nothing more is coming, and leaves the other direction open. Where the connection
// below cannot be closed by halves it is errors.ErrUnsupported.
func (c *Conn) CloseWrite() error {
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.ErrUnsupported
	}
	return c.reason(half.CloseWrite())
}

// Pending returns how many bytes, of one at most, can be read at once, and io.EOF if the other side has closed. It reads
// nothing. Where the connection below cannot tell it is errors.ErrUnsupported.
func (c *Conn) Pending() (n int, err error) {
	raw, ok := c.Conn.(syscall.Conn)
	if !ok {
		return 0, errors.ErrUnsupported
	}
	rc, err := raw.SyscallConn()
	if err != nil {
		return 0, c.reason(err)
	}
	var peeked error
	if err := rc.Control(func(fd uintptr) {
		n, _, peeked = unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
	}); err != nil {
		return 0, c.reason(err)
	}
	switch {
	case errors.Is(peeked, unix.EAGAIN), errors.Is(peeked, unix.EINTR):
		return 0, nil
	case peeked != nil:
		return 0, peeked
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

// Dead is closed when the connection has been closed from this side.
func (c *Conn) Dead() <-chan struct{} { return c.dead }

// Cause returns why the connection was closed from this side; nil while it is open.
func (c *Conn) Cause() error {
	select {
	case <-c.dead:
		return c.cause
	default:
		return nil
	}
}

// Received returns the number of bytes read so far.
func (c *Conn) Received() int64 { return c.read.Load() }

// Written returns the number of bytes that the socket has taken so far.
func (c *Conn) Written() int64 { return c.written.Load() }

// Delivered returns the number of bytes that the other side's kernel has acknowledged, where the socket can tell (TCP on
// Linux, TCP_INFO), else Written. A connection below that has a method of this name is asked in place of the socket.
func (c *Conn) Delivered() int64 {
	if below, ok := c.Conn.(interface{ Delivered() int64 }); ok {
		return below.Delivered()
	}
	raw, ok := c.Conn.(syscall.Conn)
	if !ok {
		return c.written.Load()
	}
	rc, err := raw.SyscallConn()
	if err != nil {
		return c.written.Load()
	}
	var info *unix.TCPInfo
	if err := rc.Control(func(fd uintptr) { info, _ = unix.GetsockoptTCPInfo(int(fd), unix.SOL_TCP, unix.TCP_INFO) }); err != nil || info == nil {
		return c.written.Load()
	}
	return int64(info.Bytes_acked)
}

// Broken returns the first error that reading or writing has met, io.EOF and a deadline included; nil while all went well,
// and after a Close. Libraries above a Conn turn all of these into an io.EOF, or into words about something else.
func (c *Conn) Broken() error {
	if err := c.broken.Load(); err != nil {
		return *err
	}
	return nil
}

// reason puts our own cause of death in place of the socket's complaint that it is closed.
func (c *Conn) reason(err error) error {
	if err == nil {
		return nil
	}
	cause := c.Cause()
	switch {
	case cause == nil:
	case errors.Is(cause, net.ErrClosed):
		return err
	default:
		err = cause
	}
	c.broken.CompareAndSwap(nil, &err)
	return err
}
