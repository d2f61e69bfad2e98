package wire

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/jlaffaye/ftp"
)

// library is jlaffaye/ftp on a control connection that is not there: what it says is heard here, its login answered here,
// and its transfers done with our commands, our data connections and our accounting. It moves content by RETR, STOR and APPE.
//
// It is told standIn for a path and never learns the real one, of which it would refuse some.
//
// Everything else is done without it, for reasons of its own (v0.2.4): it waits for ever, believes a reply that belongs to another
// command, panics at "227 )(", takes an unusual but good code for a failure, drops lines of a listing that it cannot read,
// knows no raw command, and asks one thing at a time.
type library struct {
	client *ftp.ServerConn
	line   *virtual
	lent   chan struct{} // closed when the last loan has ended; nil if there was none
}

// standIn is the path of every transfer to the library.
const standIn = "it"

// guarded runs f, and turns a panic of the library into an error.
func guarded(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("jlaffaye/ftp: %v", p)
		}
	}()
	return f()
}

// borrow returns the library, ready for t. The first call logs it in, which reaches nobody. After an upload that was given up
// it waits until the library has heard of that: the server's reply may have been here before.
func (t *transfer) borrow() (*library, error) {
	s := t.s
	if s.library != nil && s.library.lent != nil {
		select {
		case <-s.library.lent:
		case <-s.dead:
			t.data.never(s.why())
			return nil, t.failed(lost("transfer", false, s.why()))
		}
	}
	if s.library == nil {
		l := &library{line: &virtual{s: s, out: "220 ready\r\n"}}
		dial := func(string, string) (net.Conn, error) {
			if l.client == nil {
				return l.line, nil
			}
			return l.line.t.data, nil
		}
		err := guarded(func() (err error) {
			client, err := ftp.Dial(s.o.Address, ftp.DialWithDialFunc(dial), ftp.DialWithDisabledUTF8(true))
			if err != nil {
				return err
			}
			l.client = client
			return client.Login("pierfs", "none")
		})
		if err != nil {
			t.data.never(err)
			return nil, t.failed(lost("transfer", false, err))
		}
		s.library = l
	}
	s.library.line.t, s.library.line.out = t, ""
	s.library.line.awaits = nil
	return s.library, nil
}

// viaLibrary opens a download.
func (t *transfer) viaLibrary() (io.ReadCloser, error) {
	l, err := t.borrow()
	if err != nil {
		return nil, err
	}
	off := uint64(0)
	if t.rest != nil {
		fmt.Sscanf(t.rest.command, "REST %d", &off)
	}
	var body *ftp.Response
	err = guarded(func() (err error) {
		body, err = l.client.RetrFrom(standIn, off)
		return err
	})
	switch {
	case t.err != nil:
		return nil, t.err
	case err != nil:
		return nil, t.failed(lost("transfer", false, t.s.spoil(fmt.Errorf("%w: %w", errNoReply, err))))
	}
	return body, nil
}

// loan is an upload that the library does in a goroutine of its own. It hands its data connection out by way of
// io.WriterTo, and waits with the end of it until it is told, so that nothing is copied in between.
type loan struct {
	t      *transfer
	handed chan struct{} // closed when the server has agreed and content can be written
	enough chan struct{} // closed when all has been written
	result chan error    // what the library says in the end
}

// lend opens an upload.
func (t *transfer) lend(verb string) (*loan, error) {
	lib, err := t.borrow()
	if err != nil {
		return nil, err
	}
	l := &loan{t: t, handed: make(chan struct{}), enough: make(chan struct{}), result: make(chan error, 1)}
	store := lib.client.Stor
	if verb == "APPE" {
		store = lib.client.Append
	}
	lent := make(chan struct{})
	work := func() {
		defer close(lent)
		l.result <- guarded(func() error { return store(standIn, l) })
	}
	lib.lent = lent
	if !t.s.spawn(work) {
		close(lent)
		t.data.never(errClosed)
		return nil, t.failed(lost("transfer", false, errClosed))
	}
	select {
	case <-l.handed:
		return l, nil
	case err := <-l.result:
		if t.err == nil {
			t.failed(lost("transfer", true, t.s.spoil(fmt.Errorf("%w: %w", errNoReply, err))))
		}
		return nil, t.err
	}
}

// Read is there for io.Copy's sake, which prefers WriteTo.
func (l *loan) Read([]byte) (int, error) { return 0, io.EOF }

// WriteTo has the library wait.
func (l *loan) WriteTo(io.Writer) (int64, error) {
	close(l.handed)
	select {
	case <-l.enough:
	case <-l.t.s.dead:
	}
	if l.t.data.givenUp.Load() {
		return 0, errCanceled
	}
	l.t.data.mu.Lock()
	defer l.t.data.mu.Unlock()
	return l.t.data.written, l.t.data.broken
}

// end lets the library go on, and returns what it says when the final reply has come or the session is dead.
func (l *loan) end() error {
	close(l.enough)
	return <-l.result
}

// virtual is the library's control connection.
type virtual struct {
	s      *Session
	t      *transfer
	in     string // a command that has not come to its end
	out    string // what the library has not read yet
	awaits func() (string, error)
}

// answers to what needs no server. A FEAT without features keeps the library from PRET.
var answers = map[string]string{
	"USER": "331 go on", "PASS": "230 as you are", "FEAT": "502 none", "TYPE": "200 done", "OPTS": "200 done", "PBSZ": "200 done",
	"PROT": "200 done", "EPSV": "229 there is one (|||1|)", "REST": "350 held back", "NOOP": "200 done", "QUIT": "221 bye",
}

// Write takes a command of the library.
func (v *virtual) Write(p []byte) (int, error) {
	v.in += string(p)
	for {
		command, rest, ok := strings.Cut(v.in, "\r\n")
		if !ok {
			return len(p), nil
		}
		v.in = rest
		verb, path, _ := strings.Cut(command, " ")
		switch {
		case v.t != nil && path == standIn && strings.HasPrefix(v.t.main.command, verb+" "):
			if err := v.t.begin(); err != nil {
				return 0, err
			}
			v.awaits = v.opening
		case answers[verb] != "":
			v.out += answers[verb] + "\r\n"
		default:
			v.out += "502 not here\r\n"
		}
	}
}

// Read gives the library what it waits for: a word of our own, or of the server when it has said it.
func (v *virtual) Read(p []byte) (int, error) {
	if v.out == "" {
		if v.awaits == nil {
			return 0, io.ErrUnexpectedEOF
		}
		next := v.awaits
		v.awaits = nil
		var err error
		if v.out, err = next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, v.out)
	v.out = v.out[n:]
	return n, nil
}

// opening tells the library of the server's consent: to an upload before there is any, for to wait for it is not the
// library's affair.
func (v *virtual) opening() (string, error) {
	if !v.t.eager {
		if v.t.err = v.t.opened(v.t.ctx); v.t.err != nil {
			return "", v.t.failed(v.t.err)
		}
	}
	v.awaits = v.closing
	return "150 go on\r\n", nil
}

// closing tells the library of the final reply; it knows 226 only for a good one.
func (v *virtual) closing() (string, error) {
	reply, err := v.t.final(context.Background()) // End watches its own context
	switch {
	case err != nil:
		return "", err
	case reply.good():
		return "226 done\r\n", nil
	}
	return fmt.Sprintf("%d no\r\n", reply.Code), nil
}

// RemoteAddr is a *net.TCPAddr, which the library insists on.
func (v *virtual) RemoteAddr() net.Addr {
	if a, ok := v.s.conn.RemoteAddr().(*net.TCPAddr); ok {
		return a
	}
	return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}
}

func (v *virtual) LocalAddr() net.Addr              { return v.s.conn.LocalAddr() }
func (v *virtual) Close() error                     { return nil }
func (v *virtual) SetDeadline(time.Time) error      { return nil }
func (v *virtual) SetReadDeadline(time.Time) error  { return nil }
func (v *virtual) SetWriteDeadline(time.Time) error { return nil }
