package wire

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"pierfs/backends"
	"pierfs/backends/netconn"
)

// Channel tells how data connections are made.
type Channel struct {
	Command string // EPSV, PASV, EPRT or PORT
	Told    string // host:port as the server told it; without a host where it tells none (EPSV)
	Used    string // host:port connected to, or listened at
	Took    time.Duration
}

// channel is a data connection before its command: connected, or awaited in active mode.
type channel struct {
	Channel
	conn     *netconn.Conn // nil in active mode
	listener *net.TCPListener
}

func (c *channel) close(why error) {
	if c.conn != nil {
		c.conn.Kill(why)
	}
	if c.listener != nil {
		c.listener.Close() // a socket that cannot be closed leaves nothing to do
	}
}

// alive reports whether the server still holds its end of a connection that was opened ahead.
func (c *channel) alive() bool {
	if c.conn == nil {
		return true
	}
	n, err := c.conn.Pending()
	return n == 0 && (err == nil || errors.Is(err, errors.ErrUnsupported)) && c.conn.Cause() == nil
}

// spare is a data connection that is opened ahead. channel and err are set before ready is closed.
type spare struct {
	ready   chan struct{}
	channel *channel
	err     error

	unwanted bool // to be given back when it is ready, unless somebody wants it by then; guarded by Session.mu
}

// drop gives a spare back that is ready; who opens one looks after the others.
func (p *spare) drop(why error) {
	select {
	case <-p.ready:
		if p.channel != nil {
			p.channel.close(why)
		}
	default:
	}
}

// Warm opens the next data connection in the background. It costs nothing if there is one, or a transfer under way.
func (s *Session) Warm() {
	s.mu.Lock()
	if s.spare != nil {
		s.spare.unwanted = false
	}
	if s.spare != nil || s.cause != nil || s.current != nil || s.closed {
		s.mu.Unlock()
		return
	}
	p := &spare{ready: make(chan struct{})}
	s.spare = p
	s.workers.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*s.o.ConnectTimeout+s.o.SocketTimeout) // each step has its own
		defer cancel()
		if p.err = s.enter(ctx, "data"); p.err == nil {
			p.channel, p.err = s.open(ctx)
		}
		s.mu.Lock()
		if s.spare == p && p.unwanted {
			s.spare = nil
		}
		unwanted := s.spare != p
		close(p.ready)
		s.mu.Unlock()
		if unwanted {
			p.drop(errCanceled)
		}
	})
	s.mu.Unlock()
}

// Cool gives back the data connection that Warm has opened, and the server's port with it. One that is still being opened is
// given back when it stands: two at a time would be one too many for a server.
func (s *Session) Cool() {
	s.mu.Lock()
	p := s.spare
	if p == nil {
		s.mu.Unlock()
		return
	}
	select {
	case <-p.ready:
		s.spare = nil
	default:
		p.unwanted = true
		p = nil
	}
	s.mu.Unlock()
	if p != nil {
		p.drop(errCanceled)
	}
}

// Passive opens a data connection ahead, if there is none yet, and tells how.
func (s *Session) Passive(ctx context.Context) (Channel, error) {
	if err := s.enter(ctx, "data"); err != nil {
		return Channel{}, err
	}
	c, _, err := s.channel(ctx)
	if err != nil {
		return Channel{}, err
	}
	p := &spare{ready: make(chan struct{}), channel: c}
	close(p.ready)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cause != nil {
		c.close(s.cause)
		return Channel{}, lost("data", false, s.cause)
	}
	s.spare = p
	return c.Channel, nil
}

// channel returns the data connection opened ahead, or opens one.
func (s *Session) channel(ctx context.Context) (c *channel, ahead bool, err error) {
	s.mu.Lock()
	p := s.spare
	if p != nil {
		p.unwanted = false
	}
	s.mu.Unlock()
	if p != nil {
		select {
		case <-p.ready:
		case <-ctx.Done():
			return nil, false, lost("data", false, context.Cause(ctx))
		case <-s.dead:
			return nil, false, lost("data", false, s.why())
		}
		s.mu.Lock()
		taken := s.spare == p
		if taken {
			s.spare = nil
		}
		s.mu.Unlock()
		switch {
		case !taken:
		case p.err == nil && p.channel.alive():
			return p.channel, true, nil
		default:
			p.drop(errCanceled)
		}
	}
	c, err = s.open(ctx)
	return c, false, err
}

// open makes a data connection.
func (s *Session) open(ctx context.Context) (*channel, error) {
	if s.o.Active {
		return s.invite(ctx)
	}
	begun := time.Now()
	if !s.Features().PASV {
		if c := s.foretold(ctx); c != nil {
			return c.since(begun), nil
		}
		c, err := s.passive(ctx, "EPSV", parseEPSV)
		if err == nil || !errors.Is(err, errNoEPSV) {
			return c.since(begun), err
		}
		s.mu.Lock()
		s.features.PASV = true
		s.mu.Unlock()
	}
	c, err := s.passive(ctx, "PASV", parsePASV)
	return c.since(begun), err
}

func (c *channel) since(begun time.Time) *channel {
	if c != nil {
		c.Took = time.Since(begun)
	}
	return c
}

// errNoEPSV is a server on which PASV is worth a try: EPSV is refused, answered with nonsense, or leads to a port where
// nobody listens (as behind routers that know PASV only).
var errNoEPSV = errors.New("EPSV does not work")

// foretold connects to the port that was asked for behind the login (learn) or the last transfer (transfer.begin), if there is one. Whatever is wrong
// with it, another can be asked for.
func (s *Session) foretold(ctx context.Context) *channel {
	s.mu.Lock()
	x := s.next
	s.next = nil
	s.mu.Unlock()
	if x == nil || s.wait(ctx, x.done) != nil {
		return nil
	}
	c, err := s.reach(ctx, "EPSV", x.reply, parseEPSV)
	if err != nil {
		return nil
	}
	return c
}

// passive asks the server for a port and connects to it.
func (s *Session) passive(ctx context.Context, command string, parse func(string) (host string, port uint16, err error)) (*channel, error) {
	reply, err := s.ask(ctx, command)
	if err != nil {
		return nil, err
	}
	return s.reach(ctx, command, reply, parse)
}

// reach connects to the port that the server has told. The host that a reply names is not believed: it would let a server have us
// connect to anybody.
func (s *Session) reach(ctx context.Context, command string, reply Reply, parse func(string) (host string, port uint16, err error)) (*channel, error) {
	host, port, err := "", uint16(0), error(nil)
	if reply.Code/100 == 2 {
		host, port, err = parse(reply.text())
	} else {
		err = &Refusal{Command: command, Reply: reply}
	}
	if err != nil {
		if command == "EPSV" {
			return nil, errNoEPSV
		}
		return nil, noChannel(syscall.EIO, err, "the server gives no port for data: it may have none left, or want active mode")
	}
	at := func(host string) string { return net.JoinHostPort(host, fmt.Sprint(port)) }
	c := &channel{Channel: Channel{Command: command, Told: at(host), Used: at(s.dataHost)}}
	if host != "" && host != s.dataHost {
		s.o.Logger.Debug("the server names another host for data, which is not used", "server", s.o.Address, "told", c.Told, "used", c.Used)
	}
	within, cancel := context.WithTimeout(ctx, s.o.ConnectTimeout)
	defer cancel()
	raw, err := s.o.dialer()(within, "tcp", c.Used)
	if err != nil && command == "EPSV" && errors.Is(err, syscall.ECONNREFUSED) {
		return nil, errNoEPSV
	}
	if err != nil {
		if gone := s.why(); gone != nil && ctx.Err() == nil {
			return nil, lost("data", false, gone) // the server takes its ports away with the session
		}
		return nil, blocked(ctx, c, err)
	}
	c.conn = netconn.New(raw, s.o.SocketTimeout)
	return c, nil
}

// blocked tells that the server's port cannot be reached.
func blocked(ctx context.Context, c *channel, err error) error {
	if ctx.Err() != nil {
		return lost("data", false, context.Cause(ctx))
	}
	code := syscall.EHOSTUNREACH
	timeout, _ := errors.AsType[net.Error](err)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		code = syscall.ECONNREFUSED
	case netconn.IsTimeout(err), timeout != nil && timeout.Timeout():
		code = syscall.ETIMEDOUT
	}
	told := ""
	if c.Told != c.Used {
		told = fmt.Sprintf(" (it said %s)", c.Told)
	}
	return noChannel(code, fmt.Errorf("the control connection works, but data cannot be had from %s%s: %w", c.Used, told, err),
		"a firewall lets the control connection through and not the data: ask the server's operator for its passive ports and "+
			"have them opened, or try active mode")
}

func noChannel(code syscall.Errno, err error, hint string) error {
	// The refusal of EPSV, PASV, EPRT or PORT is none of the command that wanted the connection, so that it is not wrapped.
	return &backends.Error{Op: "data", Code: code, Class: backends.Transient, Cause: backends.CausePassiveBlocked,
		Err: errors.New(err.Error()), Hint: hint}
}

// invite listens for the server in active mode.
func (s *Session) invite(ctx context.Context) (*channel, error) {
	begun := time.Now()
	local, ok := s.conn.LocalAddr().(*net.TCPAddr)
	if !ok {
		return nil, refuse("data", syscall.EOPNOTSUPP, errNoActive)
	}
	listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: local.IP, Zone: local.Zone})
	if err != nil {
		return nil, noChannel(backends.Errno(err), err, "this machine has no port to listen at")
	}
	here := listener.Addr().(*net.TCPAddr).AddrPort()
	here = netip.AddrPortFrom(here.Addr().Unmap().WithZone(""), here.Port())
	commands := []string{extendedPort(here)}
	if here.Addr().Is4() {
		commands = append(commands, oldPort(here))
	}
	for _, command := range commands {
		var reply Reply
		if reply, err = s.ask(ctx, command); err != nil {
			listener.Close()
			return nil, err
		}
		if reply.good() {
			verb, _, _ := strings.Cut(command, " ")
			return &channel{Channel: Channel{Command: verb, Used: here.String(), Took: time.Since(begun)}, listener: listener}, nil
		}
		err = &Refusal{Command: command, Reply: reply}
	}
	listener.Close()
	return nil, noChannel(syscall.EIO, err, "the server allows no active mode: use passive mode")
}

// extendedPort is RFC 2428's way to say where we listen, oldPort RFC 959's.
func extendedPort(a netip.AddrPort) string {
	family := 1
	if a.Addr().Is6() {
		family = 2
	}
	return fmt.Sprintf("EPRT |%d|%s|%d|", family, a.Addr(), a.Port())
}

func oldPort(a netip.AddrPort) string {
	ip := a.Addr().As4()
	return fmt.Sprintf("PORT %d,%d,%d,%d,%d,%d", ip[0], ip[1], ip[2], ip[3], a.Port()>>8, a.Port()&0xff)
}

var errNoPort = errors.New("the reply names no port")

// parseEPSV finds the port in "229 Entering Extended Passive Mode (|||6446|)". The delimiter may be any character, and some servers
// fill in what RFC 2428 has empty.
func parseEPSV(text string) (host string, port uint16, err error) {
	_, inside, ok := strings.Cut(text, "(")
	if !ok || len(inside) < 5 {
		return "", 0, fmt.Errorf("%w: %.100q", errNoPort, text)
	}
	fields := strings.Split(inside, inside[:1])
	if len(fields) < 5 {
		return "", 0, fmt.Errorf("%w: %.100q", errNoPort, text)
	}
	n, err := strconv.ParseUint(fields[3], 10, 16)
	if err != nil || n == 0 {
		return "", 0, fmt.Errorf("%w: %.100q", errNoPort, text)
	}
	return "", uint16(n), nil
}

// parsePASV finds the six numbers in a reply to PASV, with parentheses or without (RFC 1123 section 4.1.2.6).
func parsePASV(text string) (host string, port uint16, err error) {
	text = strings.TrimLeft(text, "0123456789") // the code
	for _, run := range strings.FieldsFunc(text, func(r rune) bool { return r != ',' && (r < '0' || r > '9') }) {
		fields := strings.Split(strings.Trim(run, ","), ",")
		if len(fields) != 6 {
			continue
		}
		var n [6]uint64
		for i, field := range fields {
			if n[i], err = strconv.ParseUint(field, 10, 8); err != nil {
				return "", 0, fmt.Errorf("%w: %.100q", errNoPort, text)
			}
		}
		if port = uint16(n[4]<<8 | n[5]); port != 0 {
			return fmt.Sprintf("%d.%d.%d.%d", n[0], n[1], n[2], n[3]), port, nil
		}
	}
	return "", 0, fmt.Errorf("%w: %.100q", errNoPort, text)
}

// data is the data connection of one transfer. It is a net.Conn for the library's sake.
type data struct {
	s        *Session
	channel  *channel
	upload   bool
	content  bool            // of a file that is read
	begun    <-chan struct{} // closed when the transfer's first reply has come
	finished <-chan struct{} // closed when its final one has

	ready chan struct{} // closed when conn and line are set, or err
	conn  *netconn.Conn
	tap   *tap     // below TLS; nil in the clear
	line  net.Conn // conn, or TLS on it
	err   error    // why there is no connection

	shaken    chan struct{} // closed when the TLS handshake has ended; nil in the clear
	handshake error

	givenUp atomic.Bool // settle decides when it is closed
	unheard atomic.Bool // the server has reset an upload in the clear in place of closing it: it may have listened to somebody else

	mu      sync.Mutex
	cause   error // why it was killed
	pace    pace
	eof     bool
	written int64
	broken  error // the first trouble in writing or reading
	once    sync.Once
	closed  error
}

func newData(s *Session, c *channel, upload bool, x *exchange) *data {
	return &data{s: s, channel: c, upload: upload, content: strings.HasPrefix(x.command, "RETR"), begun: x.began, finished: x.done,
		ready: make(chan struct{}), pace: pace{timeout: s.o.SocketTimeout}}
}

// start is called when the command has left: only then does a server take the connection, and begin with TLS.
func (d *data) start() {
	work := func() {
		d.connect()
		close(d.ready)
		if d.err == nil && d.shaken != nil {
			d.shake()
		}
	}
	if !d.s.spawn(work) {
		d.err = errClosed
		close(d.ready)
	}
}

// never says that the command did not leave, so that there is nothing to wait for.
func (d *data) never(err error) {
	d.err = err
	close(d.ready)
	d.kill(err)
}

func (d *data) connect() {
	conn := d.channel.conn
	if conn == nil {
		if conn, d.err = d.accept(); d.err != nil {
			return
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cause != nil {
		conn.Kill(d.cause)
	}
	d.conn, d.line = conn, conn
	if d.s.tls != nil {
		d.tap = &tap{Conn: conn}
		d.line = tls.Client(d.tap, d.s.tls.config)
		d.shaken = make(chan struct{})
	}
}

// errNoActive is an active mode that cannot be.
var errNoActive = errors.New("active mode needs a direct connection")

// accept takes the server's connection in active mode. Anybody else's is closed.
func (d *data) accept() (*netconn.Conn, error) {
	l := d.channel.listener
	defer l.Close()
	l.SetDeadline(time.Now().Add(d.s.o.ConnectTimeout))
	for {
		raw, err := l.AcceptTCP()
		if err != nil {
			return nil, fmt.Errorf("the server has not connected to %s: %w", d.channel.Used, err)
		}
		peer, _ := d.s.conn.RemoteAddr().(*net.TCPAddr)
		if from := raw.RemoteAddr().(*net.TCPAddr); peer != nil && from.IP.Equal(peer.IP) {
			return netconn.New(raw, d.s.o.SocketTimeout), nil
		}
		raw.Close()
	}
}

func (d *data) shake() {
	if !d.s.Features().Sequential { // pyftpdlib 1.5.7 resets a connection on which TLS begins before it has taken the command
		select {
		case <-d.begun:
		case <-d.s.dead:
		}
	}
	done := d.conn.Expect()
	d.handshake = d.line.(*tls.Conn).HandshakeContext(context.Background())
	done()
	switch {
	case d.handshake != nil:
		d.fail(d.handshake)
	case d.maySayFirst():
		d.line.(*tls.Conn).CloseWrite() // we have nothing to say in a download; an error shows when it is read
	}
	close(d.shaken)
}

// maySayFirst reports whether our close_notify may be sent before the server's.
func (d *data) maySayFirst() bool {
	f := d.s.Features()
	return !d.upload && f.awaitsNotify && !(d.content && f.deaf)
}

// Handshake waits for the TLS handshake; in the clear for the connection. The library calls it after an empty upload.
func (d *data) Handshake() error {
	<-d.ready
	if d.err != nil || d.shaken == nil {
		return d.err
	}
	<-d.shaken
	return d.handshake
}

// kill ends the connection at once.
func (d *data) kill(why error) {
	d.mu.Lock()
	if d.cause == nil {
		d.cause = why
	}
	conn := d.conn
	d.mu.Unlock()
	d.channel.close(why)
	if conn != nil {
		conn.Kill(why)
	}
}

// reset has kill tell the server of an error in place of an end, for an upload that is not to be taken for a whole one.
func (d *data) reset() {
	select {
	case <-d.ready:
	default:
		return
	}
	if d.conn == nil {
		return
	}
	if socket, ok := d.conn.Conn.(interface{ SetLinger(int) error }); ok {
		socket.SetLinger(0) // best effort: the name is a temporary one
	}
}

// abandon ends the connection of a transfer that was given up. A TLS handshake that is under way is let come to its end:
// where it breaks, servers give the session up (pure-ftpd, proftpd), or speak in the clear on it (vsftpd 3.0.3).
func (d *data) abandon(ctx context.Context) {
	select {
	case <-d.ready:
	case <-ctx.Done():
	case <-d.s.dead:
	}
	if d.shaking() {
		select {
		case <-d.shaken:
		case <-ctx.Done():
		case <-d.s.dead:
		}
	}
	if d.upload && d.s.Features().Sequential { // pyftpdlib 1.5.7 says nothing of a connection that was reset
		d.reset()
	}
	d.kill(errCanceled)
}

// dump reads on, for a server that has been told to stop, until it has.
func (d *data) dump(ctx context.Context) {
	if d.Handshake() != nil || d.upload {
		return
	}
	stop := context.AfterFunc(ctx, func() { d.kill(errCanceled) })
	defer stop()
	io.Copy(io.Discard, d.line) // how it ends is told by the reply
	if sealed, ok := d.line.(*tls.Conn); ok {
		sealed.CloseWrite() // it waits for that
	}
}

// shaking reports whether a TLS handshake is still to come to its end.
func (d *data) shaking() bool {
	select {
	case <-d.ready:
	default:
		return d.s.tls != nil
	}
	if d.shaken == nil {
		return false
	}
	select {
	case <-d.shaken:
		return false
	default:
		return true
	}
}

// fail keeps the first trouble.
func (d *data) fail(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.broken == nil {
		d.broken = err
	}
}

func (d *data) trouble() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.broken
}

// Read reads content. What a slow reader leaves lying does not count against the server; a drip does.
func (d *data) Read(p []byte) (int, error) {
	<-d.ready
	if d.err != nil {
		d.fail(d.err)
		return 0, d.err
	}
	done := d.conn.Expect()
	begun := time.Now()
	n, err := d.line.Read(p)
	done()
	if err == nil && d.pace.slow(n, time.Since(begun)) {
		err = netconn.ErrSilent
		d.kill(err)
	}
	switch {
	case err == io.EOF:
		d.mu.Lock()
		d.eof = true
		d.mu.Unlock()
	case err != nil:
		d.fail(err)
	}
	return n, err
}

// Write writes content.
func (d *data) Write(p []byte) (int, error) {
	<-d.ready
	if d.err != nil {
		return 0, d.err
	}
	n, err := d.line.Write(p)
	return n, d.wrote(int64(n), err)
}

// ReadFrom writes what r has; a file goes to a plain connection without being copied.
func (d *data) ReadFrom(r io.Reader) (int64, error) {
	<-d.ready
	if d.err != nil {
		return 0, d.err
	}
	n, err := io.Copy(d.line, r)
	return n, d.wrote(n, err)
}

func (d *data) wrote(n int64, err error) error {
	d.mu.Lock()
	d.written += n
	if d.cause != nil && err != nil {
		err = d.cause
	}
	d.mu.Unlock()
	if err != nil {
		d.fail(err)
	}
	return err
}

// atEnd reports whether nothing more can be read.
func (d *data) atEnd() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.eof || d.broken != nil
}

// unsealed reports whether TLS ended without its own word of it.
func (d *data) unsealed() bool {
	<-d.ready
	return d.tap != nil && d.tap.ended.Load()
}

// Close shuts the connection down in order. An upload ends with TLS's own end, if need be after its handshake, then TCP's,
// and the connection is closed only when the server has read everything: a socket that is closed with something unread in
// it (TLS 1.3's tickets) resets the connection, and what was on its way is lost (vsftpd 3.0.3: 426 for every 4 MiB).
func (d *data) Close() error {
	d.once.Do(func() {
		if d.givenUp.Load() {
			d.closed = errCanceled
			return
		}
		d.closed = d.shut()
		d.kill(net.ErrClosed)
	})
	return d.closed
}

func (d *data) shut() error {
	select {
	case <-d.ready:
	default:
		if !d.upload {
			return nil
		}
		if err := d.Handshake(); err != nil {
			return err
		}
	}
	if d.err != nil || d.conn == nil {
		return d.err
	}
	if !d.upload {
		if shaken, ok := d.line.(*tls.Conn); ok && d.trouble() == nil {
			shaken.CloseWrite() // the server has said that it is done; whether it hears us does not matter
		}
		return nil
	}
	if err := d.trouble(); err != nil {
		return err
	}
	if err := d.Handshake(); err != nil {
		return err
	}
	if sealed, ok := d.line.(*tls.Conn); ok {
		if err := sealed.CloseWrite(); err != nil {
			d.fail(err)
			return err
		}
	}
	if err := d.conn.CloseWrite(); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		d.fail(err)
		return err
	} else if err != nil && d.tap == nil {
		return nil // nothing but a close can tell the server that this is the end
	}
	d.drain()
	return nil
}

// maxDrain is how much of what a server sends into an upload is read before it is given up.
const maxDrain = 64 << 10

// drain waits until the server has read all and closed, or said so on the control connection.
func (d *data) drain() {
	drained := make(chan struct{})
	read := func() {
		defer close(drained)
		_, err := io.Copy(io.Discard, io.LimitReader(d.line, maxDrain))
		d.unheard.Store(d.tap == nil && errors.Is(err, syscall.ECONNRESET))
	}
	if !d.s.spawn(read) {
		return
	}
	defer d.conn.Expect()()
	select {
	case <-drained:
	case <-d.finished:
		if d.tap != nil {
			return // the server has shown who it is
		}
		wait := time.NewTimer(apart)
		defer wait.Stop()
		select {
		case <-drained:
		case <-wait.C:
		case <-d.s.dead:
		}
	case <-d.s.dead:
	}
}

// apart is how long after the final reply the end of a data connection may come that was sent before it.
const apart = 50 * time.Millisecond

// The rest of net.Conn.

func (d *data) LocalAddr() net.Addr              { return d.s.conn.LocalAddr() }
func (d *data) RemoteAddr() net.Addr             { return d.s.conn.RemoteAddr() }
func (d *data) SetDeadline(time.Time) error      { return errors.ErrUnsupported }
func (d *data) SetReadDeadline(time.Time) error  { return errors.ErrUnsupported }
func (d *data) SetWriteDeadline(time.Time) error { return errors.ErrUnsupported }

// pace finds a server that drips: each Read is answered in time, and all of them together bring next to nothing.
type pace struct {
	timeout time.Duration
	waited  time.Duration
	came    int
}

// slow takes note of n bytes after a wait of d, and reports whether less than netconn.Floor has come within the timeout.
func (p *pace) slow(n int, d time.Duration) bool {
	p.waited += d
	if p.came += n; p.came >= netconn.Floor {
		p.waited, p.came = 0, 0
	}
	return p.waited >= p.timeout
}
