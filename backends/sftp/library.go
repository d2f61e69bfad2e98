package sftp

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/pkg/sftp"
)

// library is pkg/sftp on a channel of ours, for the requests whose speed does not matter. It sees the server's VERSION
// packet as if it had asked for it, its frames go out between ours, and of the answers it sees only those that are
// well-formed: one that it cannot take ends its session, and it is not to decide that.
type library struct {
	m      *mux
	client *sftp.Client
	in     *io.PipeWriter

	pending frame // the frame that pkg/sftp is writing, in two pieces; it holds a lock of its own meanwhile
}

// viaLibrary runs f with pkg/sftp's client. It returns when f does or ctx ends; f then goes on until the server answers or
// the session is given up, which is no later than the timeout.
func (m *mux) viaLibrary(ctx context.Context, f func(*sftp.Client) error) error {
	l, err := m.attach()
	if err != nil {
		return err
	}
	result := make(chan error, 1)
	m.workers.Go(func() { result <- guarded(l.client, f) })
	select {
	case err := <-result:
		return m.libraryError(err)
	case <-ctx.Done():
		return &fault{sent: true, err: context.Cause(ctx)}
	}
}

// guarded turns a panic of the library into an error.
func guarded(client *sftp.Client, f func(*sftp.Client) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: pkg/sftp: %v", errMalformed, p)
		}
	}()
	return f(client)
}

// libraryError turns what pkg/sftp returns into what the rest of this package returns.
func (m *mux) libraryError(err error) error {
	if err == nil {
		return nil
	}
	if status, ok := errors.AsType[*sftp.StatusError](err); ok {
		return &statusError{status.Code, status.Error()}
	}
	if f, ok := errors.AsType[*fault](err); ok {
		return f
	}
	switch {
	case errors.Is(err, os.ErrNotExist):
		return &statusError{code: statusNoSuchFile}
	case errors.Is(err, os.ErrPermission):
		return &statusError{code: statusPermissionDenied}
	case errors.Is(err, io.EOF):
		return &statusError{code: statusEOF}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.failure != nil {
		return &fault{sent: true, err: m.failure}
	}
	return fmt.Errorf("%w: %w", errMalformed, err)
}

// attach starts the library at its first use. It costs no round trip.
func (m *mux) attach() (*library, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.failure != nil {
		return nil, &fault{err: m.failure}
	}
	if m.lib != nil {
		return m.lib, nil
	}
	r, w := io.Pipe()
	l := &library{m: m, in: w}
	client, err := sftp.NewClientPipe(io.MultiReader(bytes.NewReader(m.version), r), l)
	if err != nil {
		return nil, err
	}
	l.client, m.lib = client, l
	return l, nil
}

// Write takes what pkg/sftp sends and passes it on in whole frames.
func (l *library) Write(p []byte) (int, error) {
	l.pending = append(l.pending, p...)
	for len(l.pending) >= 4 {
		size := 4 + int(binary.BigEndian.Uint32(l.pending))
		if len(l.pending) < size {
			break
		}
		if err := l.pass(l.pending[:size:size]); err != nil {
			return 0, err
		}
		l.pending = l.pending[size:]
	}
	if len(l.pending) == 0 {
		l.pending = nil
	}
	return len(p), nil
}

func (l *library) pass(f frame) error {
	if f[4] == typeInit {
		return nil // answered with the VERSION that the server sent to us
	}
	if len(f) < packetHeader || f.id()&ours != 0 {
		return errMalformed
	}
	flight := l.m.flight()
	c := flight.add(f)
	c.lib, c.id = true, f.id()
	flight.send(urgent)
	select {
	case <-c.done:
		return c.reply.err
	default:
		return nil
	}
}

// Close is pkg/sftp's way to end the session, which is not its to end.
func (l *library) Close() error { return nil }

func (l *library) hangUp(why error) { l.in.CloseWithError(why) }

// readForeign passes an answer to pkg/sftp on.
func (m *mux) readForeign(r *bufio.Reader, id uint32, head []byte, size int) error {
	m.mu.Lock()
	c, lib := m.libCalls[id], m.lib
	delete(m.libCalls, id)
	m.mu.Unlock()
	if c == nil || lib == nil {
		return fmt.Errorf("%w: it answers no request", errMalformed)
	}
	answer, err := m.readReply(r, c, head[4], size)
	m.watch.Done(&c.ticket)
	if err != nil {
		return err
	}
	if err := answer.wellFormed(); err != nil {
		return err
	}
	_, err = lib.in.Write(append(head, answer.body...))
	return err
}

// wellFormed returns nil if pkg/sftp can take r.
func (r reply) wellFormed() error {
	p := parser{b: r.body}
	switch r.kind {
	case typeStatus:
		_, _, err := parseStatus(r.body)
		return err
	case typeHandle:
		p.bytes()
	case typeAttrs:
		p.attrs()
	case typeName:
		return parseNames(r.body, func(entry) bool { return true })
	case typeExtReply:
		_, err := r.space() // of extensions that answer, the library is asked for statvfs only
		return err
	default:
		return errMalformed
	}
	return p.err()
}
