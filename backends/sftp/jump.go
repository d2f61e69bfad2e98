package sftp

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

	"golang.org/x/crypto/ssh"

	"pierfs/backends"
	"pierfs/backends/netconn"
	"pierfs/backends/reach"
)

// Jump leads to servers through an SSH host: its connections are channels of one login there (direct-tcpip, RFC 4254
// section 7.2), which is made when it is first needed and anew when it is dead. The host's key is checked as that of any
// server. Its methods may be called from many goroutines at once.
//
// Locks: Jump.mu is not held while waiting for anybody.
type Jump struct {
	o Options

	mu      sync.Mutex
	current *crossing
	dialing *crossingAttempt
	closed  bool

	waiting atomic.Int32 // for a login that somebody else makes; tests want to know
}

// crossingAttempt is one login on its way, shared by all who wait for it: what the host refuses it refuses once.
type crossingAttempt struct {
	done     chan struct{}
	crossing *crossing
	err      error
	left     bool // it ended because nobody of those who began it waited any more
}

// NewJump returns a Jump over the host at o.Address, or EINVAL for options that cannot work. It does no network I/O.
// WorkingDir and Step mean nothing to it.
func NewJump(o Options) (*Jump, error) {
	b, err := New(o)
	if err != nil {
		return nil, err
	}
	b.o.Step = nil
	return &Jump{o: b.o}, nil
}

// DialContext connects to address by way of the host, which looks its name up. Errors are *backends.Error: what is wrong with the
// host itself is told as of any server, under its address.
func (j *Jump) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	for {
		c, fresh, err := j.crossing(ctx)
		if err != nil {
			return nil, j.dressed(err)
		}
		conn, err := c.open(ctx, network, address)
		if err == nil {
			return conn, nil
		}
		refused, ok := errors.AsType[*ssh.OpenChannelError](err)
		switch {
		case ok:
			return nil, j.dressed(noWayOn(address, refused))
		case ctx.Err() != nil:
			return nil, j.dressed(noAnswer(ctx, address))
		case fresh:
			return nil, j.dressed(reach.BrokeOff(c.conn, err, "the SSH host in via broke off"))
		}
		// A login of long ago that has died unnoticed says nothing about the host.
	}
}

// noAnswer is a connection that did not come about in the caller's time.
func noAnswer(ctx context.Context, address string) *backends.Error {
	e := &backends.Error{Op: "connect", Code: syscall.ETIMEDOUT, Class: backends.Transient, Cause: backends.CauseConnTimeout, Err: context.Cause(ctx),
		Hint: "no answer from " + address + " behind the SSH host in via: check host and port, and the firewalls between the two"}
	if errors.Is(ctx.Err(), context.Canceled) {
		e.Code, e.Cause, e.Hint = syscall.EINTR, "", ""
	}
	return e
}

// dressed says whose fault it is.
func (j *Jump) dressed(err error) error {
	e, ok := errors.AsType[*backends.Error](err)
	if !ok {
		e = &backends.Error{Op: "connect", Code: backends.Errno(err), Class: backends.Transient, Cause: backends.CauseConnLost, Err: err}
	}
	told := *e
	told.Err = fmt.Errorf("via SSH host %s: %w", j.o.Address, e.Err)
	return &told
}

// noWayOn is the host's answer that it does not reach the server, or may not.
func noWayOn(address string, refused *ssh.OpenChannelError) *backends.Error {
	e := &backends.Error{Op: "connect", Code: syscall.EHOSTUNREACH, Class: backends.Transient, Cause: backends.CauseNoRoute,
		Err: fmt.Errorf("no connection to %s: %w", address, refused), Hint: "check host and port, as the SSH host in via has to reach them"}
	switch refused.Reason {
	case ssh.Prohibited:
		e.Code, e.Class = syscall.EACCES, backends.Refused
		e.Hint = "the SSH host in via does not forward connections for this login: have AllowTcpForwarding and PermitOpen allow it"
	case ssh.ResourceShortage:
		e.Code, e.Cause, e.Hint = syscall.EAGAIN, backends.CauseTooManySessions, "the SSH host in via carries no more connections now"
	}
	return e
}

// Close takes no further calls. Connections that are open live on, and the login with them.
func (j *Jump) Close() error {
	j.mu.Lock()
	j.closed = true
	c := j.current
	j.mu.Unlock()
	if c != nil {
		c.retire()
	}
	return nil
}

// crossing returns the login in use, after making it if need be; fresh says that it was made just now.
func (j *Jump) crossing(ctx context.Context) (c *crossing, fresh bool, err error) {
	for {
		j.mu.Lock()
		if j.closed {
			j.mu.Unlock()
			return nil, false, &backends.Error{Op: "connect", Code: syscall.ESHUTDOWN, Err: errClosed}
		}
		if j.current != nil && j.current.alive() {
			defer j.mu.Unlock()
			return j.current, false, nil
		}
		a := j.dialing
		if a == nil {
			a = &crossingAttempt{done: make(chan struct{})}
			j.dialing = a
			j.mu.Unlock()
			j.make(ctx, a)
			return a.crossing, true, a.err
		}
		j.waiting.Add(1)
		j.mu.Unlock()
		select {
		case <-a.done:
			if !a.left {
				return a.crossing, true, a.err
			}
		case <-ctx.Done():
			return nil, false, noAnswer(ctx, j.o.Address)
		}
	}
}

// make logs in for all who wait for a.
func (j *Jump) make(ctx context.Context, a *crossingAttempt) {
	a.crossing, a.err = j.login(ctx)
	a.left = a.err != nil && ctx.Err() != nil
	j.mu.Lock()
	j.dialing = nil
	if a.err == nil {
		j.current = a.crossing
	}
	closed := j.closed
	j.mu.Unlock()
	if a.err == nil && closed {
		a.crossing.retire()
	}
	close(a.done)
}

func (j *Jump) login(ctx context.Context) (*crossing, error) {
	hosts, err := j.o.hostKeys()
	if err != nil {
		return nil, refusal(backends.CauseKeyFile, err, "correct the file or take it out of the definition")
	}
	return logIn(ctx, &j.o, func(ctx context.Context, o *Options, without map[string]bool) (*crossing, error) {
		conn, release, err := o.knock(ctx)
		if err != nil {
			return nil, err
		}
		client, err := o.handshake(conn, hosts, hosts.algorithms(o.LegacyAlgorithms, without), hosts.check)
		if !release() && err == nil {
			err = &backends.Error{Op: "connect", Code: backends.Errno(ctx.Err()), Class: backends.Transient, Err: context.Cause(ctx)}
		}
		if err != nil {
			conn.Kill(err)
			return nil, err
		}
		c := &crossing{o: o, conn: conn, client: client}
		go c.keepAlive() // ends with the connection
		return c, nil
	})
}

// crossing is one login on the host.
type crossing struct {
	o      *Options
	conn   *netconn.Conn
	client *ssh.Client

	mu       sync.Mutex
	channels int // connections
	retired  bool
}

func (c *crossing) alive() bool { return c.conn.Cause() == nil && c.conn.Broken() == nil }

// retire closes the login when its last connection has closed.
func (c *crossing) retire() {
	c.mu.Lock()
	c.retired = true
	last := c.channels == 0
	c.mu.Unlock()
	if last {
		c.conn.Kill(errClosed)
	}
}

// hold counts a connection, and release counts it off.
func (c *crossing) hold() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.retired {
		return false
	}
	c.channels++
	return true
}

func (c *crossing) release() {
	c.mu.Lock()
	c.channels--
	last := c.retired && c.channels == 0
	c.mu.Unlock()
	if last {
		c.conn.Kill(errClosed)
	}
}

// keepAlive finds out that the host is gone when nobody on this side would.
func (c *crossing) keepAlive() {
	ticker := time.NewTicker(min(15*time.Second, c.o.SocketTimeout*2/5))
	defer ticker.Stop()
	for heard := int64(-1); ; heard = c.conn.Received() {
		select {
		case <-c.conn.Dead():
			return
		case <-ticker.C:
		}
		if c.conn.Received() != heard {
			continue
		}
		done := c.conn.Expect()
		_, _, err := c.client.SendRequest("keepalive@openssh.com", true, nil)
		done()
		if err != nil {
			c.conn.Kill(err)
			return
		}
	}
}

// open opens a channel to address. When ctx ends the answer is not waited for; if the host has said nothing at all
// meanwhile, it is taken for gone.
func (c *crossing) open(ctx context.Context, network, address string) (net.Conn, error) {
	if !c.hold() {
		return nil, errClosed
	}
	heard := c.conn.Received()
	done := c.conn.Expect()
	raw, err := c.client.DialContext(ctx, network, address)
	done()
	if err != nil {
		_, refused := errors.AsType[*ssh.OpenChannelError](err)
		switch {
		case refused, ctx.Err() != nil && c.conn.Received() != heard:
		case errors.Is(ctx.Err(), context.Canceled): // too early to tell
		default:
			c.conn.Kill(err)
		}
		c.release()
		return nil, err
	}
	return newFarConn(c, raw, address), nil
}

// piece is how much of a Write is on its way at once.
const piece = 32 << 10

// farConn is a channel as a net.Conn with deadlines, which x/crypto's has none of, and with methods that return when it is
// closed even if the host is silent. A Write that meets its deadline leaves nobody knows how much behind, and ends the
// connection; a Read loses nothing.
type farConn struct {
	net.Conn // the channel; only addresses are taken from it
	address  string
	crossing *crossing

	readBy, writeBy netconn.Deadline
	closed          chan struct{}
	once            sync.Once

	reading sync.Mutex
	rest    []byte // of the last chunk; guarded by reading
	buffer  []byte // that rest is in
	chunks  chan []byte
	free    chan []byte
	failed  error // why chunks was closed; set before

	writing sync.Mutex
	pieces  chan []byte // to the writer; nil stands for CloseWrite
	results chan error
	written atomic.Int64
	reached atomic.Int64 // the highest that Delivered has returned
}

func newFarConn(c *crossing, raw net.Conn, address string) *farConn {
	f := &farConn{
		Conn: raw, address: address, crossing: c, closed: make(chan struct{}),
		chunks: make(chan []byte), free: make(chan []byte, 2), pieces: make(chan []byte), results: make(chan error, 1),
	}
	f.free <- make([]byte, piece)
	f.free <- make([]byte, piece)
	var workers sync.WaitGroup
	workers.Go(f.pump)
	workers.Go(f.push)
	go func() { // ends when the channel does, by Close or with the login
		workers.Wait()
		c.release()
	}()
	return f
}

// pump reads the channel ahead by one buffer.
func (f *farConn) pump() {
	defer close(f.chunks)
	for {
		var buffer []byte
		select {
		case buffer = <-f.free:
		case <-f.closed:
			f.failed = net.ErrClosed
			return
		}
		n, err := f.Conn.Read(buffer)
		if n > 0 {
			select {
			case f.chunks <- buffer[:n]:
			case <-f.closed:
				f.failed = net.ErrClosed
				return
			}
		}
		if err != nil {
			f.failed = f.why(err)
			return
		}
	}
}

// why tells the end of the host's connection from the server's.
func (f *farConn) why(err error) error {
	if broken := f.crossing.conn.Broken(); broken != nil {
		return fmt.Errorf("via SSH host %s: %w", f.crossing.o.Address, errors.Join(broken, io.ErrUnexpectedEOF))
	}
	return err
}

// push writes to the channel.
func (f *farConn) push() {
	for {
		select {
		case <-f.closed:
			f.Conn.Close() // may wait for a host that is silent, which is why nobody else does it
			return
		case p := <-f.pieces:
			if p == nil {
				f.results <- f.Conn.(interface{ CloseWrite() error }).CloseWrite()
				continue
			}
			_, err := f.Conn.Write(p)
			f.results <- err
		}
	}
}

// Read reads what the server sent.
func (f *farConn) Read(p []byte) (int, error) {
	f.reading.Lock()
	defer f.reading.Unlock()
	if len(f.rest) == 0 {
		if f.buffer != nil {
			f.free <- f.buffer[:cap(f.buffer)]
			f.buffer = nil
		}
		passed := f.readBy.Passed()
		select {
		case <-passed:
			return 0, os.ErrDeadlineExceeded
		default:
		}
		var ok bool
		select {
		case f.buffer, ok = <-f.chunks:
			if f.rest = f.buffer; !ok {
				return 0, f.failed
			}
		case <-passed:
			return 0, os.ErrDeadlineExceeded
		case <-f.closed:
			return 0, net.ErrClosed
		}
	}
	n := copy(p, f.rest)
	f.rest = f.rest[n:]
	return n, nil
}

// Write writes to the server, as far as the host takes it.
func (f *farConn) Write(p []byte) (n int, err error) {
	f.writing.Lock()
	defer f.writing.Unlock()
	for n < len(p) {
		part := append(make([]byte, 0, piece), p[n:min(len(p), n+piece)]...) // the writer may be left alone with it
		if err := f.hand(part, f.writeBy.Passed()); err != nil {
			return n, err
		}
		n += len(part)
		f.written.Add(int64(len(part)))
	}
	return n, nil
}

// CloseWrite tells the server that nothing more is coming. As with a socket, the deadline of Writes is not its own: crypto/tls
// leaves one behind that has passed when it has said its last word.
func (f *farConn) CloseWrite() error {
	f.writing.Lock()
	defer f.writing.Unlock()
	return f.hand(nil, nil)
}

// hand gives p to the writer and waits for it to be written, or for passed.
func (f *farConn) hand(p []byte, passed <-chan struct{}) error {
	select {
	case f.pieces <- p:
	case <-passed:
		return f.late()
	case <-f.closed:
		return net.ErrClosed
	}
	select {
	case err := <-f.results:
		if err != nil {
			return f.why(err)
		}
		return nil
	case <-passed:
		return f.late()
	case <-f.closed:
		return net.ErrClosed
	}
}

func (f *farConn) late() error {
	f.Close()
	return os.ErrDeadlineExceeded
}

// Close closes the channel. It does not wait for the host.
func (f *farConn) Close() error {
	f.once.Do(func() {
		close(f.closed)
		go f.Conn.Close() // frees the writer from a full window; ends with the login at the latest
	})
	return nil
}

// Delivered returns how much of what was written has reached the host: at least all but what is still on the way to it for
// everybody.
func (f *farConn) Delivered() int64 {
	host := f.crossing.conn
	way := max(host.Written()-host.Delivered(), 0)
	reached := max(f.written.Load()-way, 0)
	for {
		before := f.reached.Load()
		if reached <= before || f.reached.CompareAndSwap(before, reached) {
			return max(reached, before)
		}
	}
}

// RemoteAddr is the server as the host was asked for it: no address of a socket.
func (f *farConn) RemoteAddr() net.Addr { return address(f.address) }

// LocalAddr is no socket's either.
func (f *farConn) LocalAddr() net.Addr { return address("via " + f.crossing.o.Address) }

// SetDeadline sets both deadlines.
func (f *farConn) SetDeadline(t time.Time) error {
	f.readBy.Set(t)
	f.writeBy.Set(t)
	return nil
}

// SetReadDeadline moves the deadline of Reads, those under way too.
func (f *farConn) SetReadDeadline(t time.Time) error {
	f.readBy.Set(t)
	return nil
}

// SetWriteDeadline moves the deadline of Writes, those under way too.
func (f *farConn) SetWriteDeadline(t time.Time) error {
	f.writeBy.Set(t)
	return nil
}
