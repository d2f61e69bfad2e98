package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"syscall"
	"time"
)

// idle is how long a stream may stand still in either direction before it is cut; a slow pipe into `pierfs put` may take
// its time, a hand that was stopped must not hold a file for ever.
const idle = 15 * time.Minute

// Server answers verbs on one socket. Make it with NewServer, hand it to the Serve method of every verb, then Run it.
type Server struct {
	logger *slog.Logger
	mux    *http.ServeMux
	uid    uint32 // the daemon's own, served besides root
	guard  Guard  // of everybody else; nil serves nobody else

	mu    sync.Mutex
	verbs map[string]bool
}

// NewServer returns a Server without verbs that serves root and the caller's own user.
func NewServer(logger *slog.Logger) *Server {
	return &Server{logger: logger, mux: http.NewServeMux(), uid: uint32(os.Geteuid()), verbs: map[string]bool{}}
}

// Serves reports whether a verb of that name is answered.
func (s *Server) Serves(verb string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.verbs[verb]
}

func (s *Server) handle(verb string, f func(*exchange)) {
	s.mu.Lock()
	s.verbs[verb] = true
	s.mu.Unlock()
	s.mux.HandleFunc("POST /"+Protocol+"/"+verb, func(w http.ResponseWriter, r *http.Request) {
		x := &exchange{s: s, w: w, r: r, rc: http.NewResponseController(w), verb: verb}
		if err := s.admit(r.Context(), verb, nil); err != nil {
			x.fail(err)
			return
		}
		defer x.recover()
		f(x)
	})
}

// Listen makes the control socket in runtimeDir, which it makes too if it is missing. The caller must hold the directory's
// lock: a socket that is there already is that of a dead daemon and is removed.
func Listen(runtimeDir string) (net.Listener, error) {
	if err := os.MkdirAll(runtimeDir, ownerOpen); err != nil {
		return nil, err
	}
	if err := checkRuntimeDir(runtimeDir); err != nil {
		return nil, err
	}
	path := SocketPath(runtimeDir)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	// A name beside, then a rename: nobody meets a socket whose mode is not yet right.
	temp := path + ".new"
	if err := os.Remove(temp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: temp, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(temp, 0o660), os.Rename(temp, path)); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// OpenTo lets other users than the daemon's connect to the socket in runtimeDir, or no longer. What they are told the kernel's word for
// who they are decides; they pass the directory and see nothing else of it.
func OpenTo(runtimeDir string, others bool) error {
	info, err := os.Stat(runtimeDir)
	if err != nil {
		return err
	}
	dir, socket := info.Mode().Perm()&^0o001, os.FileMode(0o660)
	if others {
		dir, socket = info.Mode().Perm()|0o011, 0o666
	}
	return errors.Join(os.Chmod(runtimeDir, dir), os.Chmod(SocketPath(runtimeDir), socket))
}

// checkRuntimeDir refuses a directory that somebody else could reach into.
func checkRuntimeDir(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.IsDir():
		return fmt.Errorf("%s is not a directory", dir)
	case !ok || int(stat.Uid) != os.Geteuid():
		return fmt.Errorf("%s belongs to another user", dir)
	case info.Mode().Perm()&^ownerOnly != 0:
		return fmt.Errorf("%s is open to others (mode %04o): chmod 0700 %s", dir, info.Mode().Perm(), filepath.Clean(dir))
	}
	return nil
}

// Run answers on l until ctx ends; then no new request is taken, those under way have until grace to end, and are cut. It
// closes l.
func (s *Server) Run(ctx context.Context, l net.Listener, grace time.Duration) error {
	base, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	server := &http.Server{
		Handler:           s.mux,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(s.logger.Handler(), slog.LevelDebug),
		BaseContext:       func(net.Listener) context.Context { return base },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			peer, err := peerOfConn(c)
			if err != nil {
				s.logger.Warn("control connection without credentials", "err", err)
				return ctx // admit refuses what has no peer
			}
			return WithPeer(ctx, peer)
		},
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }() // ends by Shutdown or Close below
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	last, stop := context.WithTimeout(base, grace)
	defer stop()
	err := server.Shutdown(last)
	if err != nil {
		cancel()
		err = server.Close()
	}
	<-served
	return err
}

// exchange is one request and its answer.
type exchange struct {
	s       *Server
	w       http.ResponseWriter
	r       *http.Request
	rc      *http.ResponseController
	verb    string
	started bool // the status line is out
}

func (x *exchange) ctx() context.Context { return x.r.Context() }

// recover keeps a panic of one verb from the others, and from the daemon's mounts.
func (x *exchange) recover() {
	p := recover()
	if p == nil {
		return
	}
	x.s.logger.Error("verb panicked", "verb", x.verb, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
	x.finish(Errorf(Internal, "%s broke in the daemon", x.verb).WithHint("its log has the place; please report it"))
}

// askAgain is the way out where a hand was cut off.
const askAgain = "nothing was done with what came: the same command begins anew"

// request reads the JSON body into q.
func (x *exchange) request(q any) error {
	if err := x.rc.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	text, err := io.ReadAll(http.MaxBytesReader(x.w, x.r.Body, maxRequest))
	if err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return Errorf(BadData, "a request may not be longer than %d bytes", maxRequest).WithHint("name fewer things at a time, or let a directory stand for them")
		}
		return Errorf(Cut, "read the request: %v", err).WithHint("%s", askAgain)
	}
	if err := x.rc.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	return decodeRequest(text, q)
}

// requestHeader reads an Upload's request.
func (x *exchange) requestHeader(q any) error {
	if err := decodeHeader(x.r.Header.Get(headerRequest), q); err != nil {
		return Errorf(BadData, "understand the request: %v", err).WithHint("%s", differentVersions)
	}
	return nil
}

// decodeRequest takes exactly one JSON value. Fields that this daemon does not know are refused: to leave out what an
// operator asked for would be worse than to say so.
func decodeRequest(text []byte, q any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(q); err != nil {
		return Errorf(BadData, "understand the request: %v", err).WithHint("%s", differentVersions)
	}
	if _, err := d.Token(); err != io.EOF {
		return Errorf(BadData, "understand the request: something follows it").WithHint("%s", differentVersions)
	}
	return nil
}

func (x *exchange) answer(a any) {
	text, err := json.Marshal(a)
	if err != nil {
		x.fail(err)
		return
	}
	x.deadline()
	x.started = true
	x.w.Header().Set("Content-Type", "application/json")
	_, _ = x.w.Write(append(text, '\n')) // a hand that is gone does not wait for it
}

func (x *exchange) fail(err error) {
	e := x.logged(err)
	text, encodeErr := json.Marshal(map[string]*Error{"error": e})
	if encodeErr != nil {
		text = []byte(`{"error":{"code":"INTERNAL","text":"an error that cannot be told"}}`)
	}
	x.deadline()
	x.started = true
	x.w.Header().Set("Content-Type", "application/json")
	x.w.Header().Set("Connection", "close") // whatever is left of the request is not worth reading
	x.w.WriteHeader(e.Code.meaning().status)
	_, _ = x.w.Write(append(text, '\n')) // as above
}

// logged returns err as it travels. Our own faults end here, so they are logged here; the rest the hand tells.
func (x *exchange) logged(err error) *Error {
	e := asError(err)
	if e.Code == Internal {
		x.s.logger.Error("verb failed", "verb", x.verb, "err", err)
	}
	return e
}

// deadline gives the hand until idle to take what is written next.
func (x *exchange) deadline() {
	_ = x.rc.SetWriteDeadline(time.Now().Add(idle)) // fails only where the connection is gone already
}

// upload returns the request's stream.
func (x *exchange) upload() io.Reader { return &uploadStream{x} }

type uploadStream struct{ x *exchange }

func (u *uploadStream) Read(p []byte) (int, error) {
	if err := u.x.rc.SetReadDeadline(time.Now().Add(idle)); err != nil {
		return 0, Errorf(Cut, "the stream broke off: %v", err).WithHint("%s", askAgain)
	}
	n, err := u.x.r.Body.Read(p)
	if err == nil {
		return n, nil
	}
	_ = u.x.rc.SetReadDeadline(time.Time{}) // nothing more is read, and publishing may take its time
	if err != io.EOF {
		err = Errorf(Cut, "the stream broke off: %v", err).WithHint("%s", askAgain)
	}
	return n, err
}

// download sends a as the answer and returns where the stream goes.
func (x *exchange) download(a any) (io.Writer, error) {
	header, err := encodeHeader(a)
	if err != nil {
		return nil, err
	}
	x.w.Header().Set("Content-Type", "application/octet-stream")
	x.w.Header().Set(headerAnswer, header)
	x.begin()
	return &downloadStream{x}, nil
}

// feed returns a func that sends one answer; live sends it at once, else it may wait for the next to fill a packet.
func (x *exchange) feed(live bool) func(any) error {
	return func(a any) error {
		text, err := json.Marshal(a)
		if err != nil {
			return err
		}
		if !x.started {
			x.w.Header().Set("Content-Type", "application/x-ndjson")
			x.begin()
		}
		x.deadline()
		if _, err = x.w.Write(append(text, '\n')); err != nil || !live {
			return err
		}
		return x.rc.Flush()
	}
}

// begin opens a stream whose trailer tells how it ended.
func (x *exchange) begin() {
	x.deadline()
	x.w.Header().Set("Trailer", headerFailure)
	x.w.WriteHeader(http.StatusOK)
	x.started = true
	_ = x.rc.Flush() // the first write tells if nobody is there
}

// finish ends a stream: in order, or with its failure behind it.
func (x *exchange) finish(err error) {
	switch {
	case err != nil && !x.started:
		x.fail(err)
		return
	case err != nil:
		trailer, encodeErr := encodeHeader(x.logged(err))
		if encodeErr != nil {
			panic(http.ErrAbortHandler) // cuts the connection: no end is an error at the hand
		}
		x.w.Header().Set(headerFailure, trailer)
	default:
		if !x.started { // an empty Feed
			x.w.Header().Set("Content-Type", "application/x-ndjson")
			x.begin()
		}
		x.w.Header().Set(headerFailure, "")
	}
}

type downloadStream struct{ x *exchange }

func (d *downloadStream) Write(p []byte) (int, error) {
	d.x.deadline()
	return d.x.w.Write(p)
}
