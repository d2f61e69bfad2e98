package wire

import (
	"bufio"
	"context"

	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"

	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pierfs/backends"
)

// fake is an FTP server that does what a test wants. What a test leaves open is answered as by a sound one.
type fake struct {
	t        testing.TB
	listener net.Listener  // nil for one in memory
	dialed   chan net.Conn // data connections of one in memory
	greeting string        // with CR LF; "" says nothing
	answers  map[string]answer
	tls      *tls.Config // implicit

	work sync.WaitGroup
	mu   sync.Mutex
	log  []string
	open map[net.Conn]bool
}

// answer is what the server does about a command. c is its end of the control connection.
type answer func(c *control, arg string)

// control is the server's end of a session.
type control struct {
	net.Conn
	f    *fake
	r    *bufio.Reader
	data net.Listener
	last net.Conn // the data connection accepted last
}

func says(reply string) answer { return func(c *control, _ string) { c.say(reply) } }

// say sends a reply, or several; the line end of the last one is added.
func (c *control) say(format string, args ...any) {
	fmt.Fprintf(c, format+"\r\n", args...)
}

// accept takes the data connection.
func (c *control) accept() net.Conn {
	if c.f.listener == nil {
		return <-c.f.dialed
	}
	conn, err := c.data.Accept()
	if err != nil {
		return nullConn{}
	}
	c.f.keep(conn)
	c.last = conn
	return conn
}

// nullConn is a data connection that never came.
type nullConn struct{ net.Conn }

func (nullConn) Read([]byte) (int, error)    { return 0, io.EOF }
func (nullConn) Write(p []byte) (int, error) { return 0, net.ErrClosed }
func (nullConn) Close() error                { return nil }

// listen opens a port for the next data connection, as servers do: one that was given up waits at a port that is no more.
func (c *control) listen() (port int) {
	if c.f.listener == nil {
		return 1
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.f.t.Error(err)
		return 0
	}
	if c.data != nil {
		c.data.Close()
	}
	c.data = l
	c.f.t.Cleanup(func() { l.Close() })
	return l.Addr().(*net.TCPAddr).Port
}

// send sends content on the data connection and closes it.
func (c *control) send(content string) {
	conn := c.accept()
	io.WriteString(conn, content)
	conn.Close()
}

var sound = map[string]answer{
	"USER": says("331 go on"), "PASS": says("230 welcome"), "FEAT": says("211-Features:\r\n SIZE\r\n MDTM\r\n REST STREAM\r\n211 End"),
	"SYST": says("215 UNIX Type: L8"), "TYPE": says("200 binary"), "PWD": says(`257 "/home" is where you are`), "OPTS": says("200 so be it"),
	"PBSZ": says("200 so be it"), "PROT": says("200 so be it"), "NOOP": says("200 here"), "REST": says("350 from there"),
	"EPSV": func(c *control, _ string) { c.say("229 there (|||%d|)", c.listen()) },
	"PASV": func(c *control, _ string) { p := c.listen(); c.say("227 there (127,0,0,1,%d,%d)", p>>8, p&0xff) },
	"SIZE": says("213 10"), "DELE": says("250 gone"),
	"RETR": func(c *control, _ string) { c.say("150 here it comes"); c.send("0123456789"); c.say("226 that was it") },
	"LIST": func(c *control, _ string) { c.say("150 here it comes"); c.send("a\r\nb\r\n"); c.say("226 that was it") },
	"STOR": func(c *control, _ string) {
		c.say("150 go on")
		io.Copy(io.Discard, c.accept())
		c.say("226 I have it")
	},
}

// newFake starts a server with these answers besides the sound ones.
func newFake(t testing.TB, answers map[string]answer) *fake {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{t: t, listener: l, greeting: "220 fake\r\n", answers: maps.Clone(answers), open: make(map[net.Conn]bool)}
	if f.answers == nil {
		f.answers = make(map[string]answer)
	}
	f.work.Go(f.serve)
	t.Cleanup(func() {
		l.Close()
		f.mu.Lock()
		for conn := range f.open {
			conn.Close()
		}
		f.mu.Unlock()
		f.work.Wait()
	})
	return f
}

// inMemory runs use on a session with a server in memory, in a bubble where time passes when everybody waits.
func inMemory(t *testing.T, answers map[string]answer, use func(t *testing.T, s *Session)) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{t: t, dialed: make(chan net.Conn, 1), greeting: "220 fake\r\n", answers: answers, open: make(map[net.Conn]bool)}
		var first sync.Once
		o := Options{Address: "fake:21", Username: "u", Password: func() (string, error) { return canary, nil }, ConnectTimeout: time.Minute, SocketTimeout: time.Minute}
		o.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			here, there := net.Pipe()
			f.keep(there)
			control := false
			first.Do(func() { control = true })
			if control {
				f.work.Go(func() { f.session(there) })
				return here, nil
			}
			select {
			case f.dialed <- there:
				return here, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		s, err := Dial(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		use(t, s)
		s.Close()
		f.mu.Lock()
		for conn := range f.open {
			conn.Close()
		}
		f.mu.Unlock()
		f.work.Wait()
	})
}

func (f *fake) keep(conn net.Conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.open[conn] = true
}

func (f *fake) serve() {
	for {
		conn, err := f.listener.Accept()
		if err != nil {
			return
		}
		f.keep(conn)
		f.work.Go(func() { f.session(conn) })
	}
}

func (f *fake) session(conn net.Conn) {
	if f.tls != nil {
		conn = tls.Server(conn, f.tls)
	}
	c := &control{Conn: conn, f: f, r: bufio.NewReader(conn)}
	defer func() {
		c.Close()
		if c.data != nil {
			c.data.Close()
		}
	}()
	f.mu.Lock()
	greeting := f.greeting
	f.mu.Unlock()
	io.WriteString(c, greeting)
	for {
		line, err := c.r.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimRight(line, "\r\n")
		f.mu.Lock()
		f.log = append(f.log, line)
		f.mu.Unlock()
		verb, arg, _ := strings.Cut(line, " ")
		f.mu.Lock()
		answer := f.answers[verb]
		f.mu.Unlock()
		if answer == nil {
			answer = sound[verb]
		}
		if answer == nil {
			answer = says("502 what?")
		}
		answer(c, arg)
	}
}

// heard returns the commands that came, in order.
func (f *fake) heard(verb string) (lines []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, line := range f.log {
		if strings.HasPrefix(line, verb) {
			lines = append(lines, line)
		}
	}
	return lines
}

// greets changes the greeting of sessions that have not begun.
func (f *fake) greets(text string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.greeting = text
}

func (f *fake) options() Options {
	return Options{Address: f.listener.Addr().String(), Username: "u", Password: func() (string, error) { return canary, nil },
		ConnectTimeout: 5 * time.Second, SocketTimeout: 5 * time.Second}
}

// canary is the password; it must not be seen anywhere but in PASS.
const canary = "s3cret-canary"

// short is a timeout that a test waits for.
const short = 150 * time.Millisecond

// session logs in to a fake server with these answers.
func session(t testing.TB, answers map[string]answer) (*Session, *fake) {
	t.Helper()
	f := newFake(t, answers)
	return logIn(t, f.options()), f
}

// silent answers nothing.
func silent(*control, string) {}

// closes ends the control connection.
func closes(c *control, _ string) { c.Close() }

// failed checks the class of err; a nil err is an error of the test.
func failed(t testing.TB, err error, class backends.Class) {
	t.Helper()
	if err == nil || backends.ClassOf(err) != class {
		t.Errorf("got %v (%v), want an error, %v", err, backends.ClassOf(err), class)
	}
}

// refusedWith checks that err is a refusal with that code.
func refusedWith(t testing.TB, err error, code int) {
	t.Helper()
	if r, ok := errors.AsType[*Refusal](err); !ok || r.Reply.Code != code {
		t.Errorf("got %v, want a refusal with %d", err, code)
	}
}

// eventually asks f until it returns true. It is for what nobody tells.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !f(); {
		if time.Now().After(end) {
			t.Fatalf("in vain: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}
