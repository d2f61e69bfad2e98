package sftp

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pierfs/backends"
)

// serverProgram is OpenSSH's SFTP server, which speaks the protocol on its standard input and output.
const serverProgram = "/usr/lib/openssh/sftp-server"

// process is an SFTP server and the pipes to it. Every Write that follows a Read begins a flight.
type process struct {
	cmd     *exec.Cmd
	in      io.WriteCloser
	out     io.ReadCloser
	once    sync.Once
	flights atomic.Int64
	heard   atomic.Bool
	bytes   atomic.Int64 // written

	// write stands in for in.Write if a test wants to meddle; nil if not
	write func([]byte) (int, error)
}

func startServer(t testing.TB, args ...string) *process {
	t.Helper()
	if _, err := os.Stat(serverProgram); err != nil {
		t.Fatalf("%v: install openssh-sftp-server", err)
	}
	cmd := exec.Command(serverProgram, append([]string{"-e", "-l", "QUIET"}, args...)...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: cmd, in: in, out: out}
	p.heard.Store(true)
	t.Cleanup(func() { p.Close() })
	return p
}

func (p *process) Read(b []byte) (int, error) {
	n, err := p.out.Read(b)
	if n > 0 {
		p.heard.Store(true)
	}
	return n, err
}

func (p *process) Write(b []byte) (int, error) {
	if p.heard.Swap(false) {
		p.flights.Add(1)
	}
	p.bytes.Add(int64(len(b)))
	if p.write != nil {
		return p.write(b)
	}
	return p.in.Write(b)
}

func (p *process) Close() error {
	p.once.Do(func() {
		p.in.Close()
		p.cmd.Process.Kill()
		p.out.Close()
		p.cmd.Wait()
	})
	return nil
}

// rig is a Backend whose sessions are processes of the server in a directory of the test.
type rig struct {
	*Backend
	dir string // the working directory as the test sees it

	mu   sync.Mutex
	last *process
}

// newRig returns a Backend over real sftp-server processes. change may alter each session's channel before it is used.
func newRig(t testing.TB, o Options, change func(*process) io.ReadWriteCloser, args ...string) *rig {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return newRigAt(t, dir, o, change, args...)
}

func newRigAt(t testing.TB, dir string, o Options, change func(*process) io.ReadWriteCloser, args ...string) *rig {
	t.Helper()
	o.Address, o.Username = "test:22", "root"
	if o.WorkingDir == "" {
		o.WorkingDir = dir
	}
	b, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{Backend: b, dir: dir}
	b.connect = func(ctx context.Context) (*session, error) {
		p := startServer(t, args...)
		var rw io.ReadWriteCloser = p
		if change != nil {
			rw = change(p)
		}
		r.mu.Lock()
		r.last = p
		r.mu.Unlock()
		return pipeSession(ctx, &b.o, rw)
	}
	t.Cleanup(func() { b.Close() })
	return r
}

// pipeSession is a session over one channel, without SSH below it.
func pipeSession(ctx context.Context, o *Options, rw io.ReadWriteCloser) (*session, error) {
	s := &session{o: o, dead: make(chan struct{}), server: "pipe", openSSH: true}
	m, err := s.newChannel(rw)
	if err != nil {
		return nil, seam("connect", "", err)
	}
	s.meta = m
	if err := s.begin(ctx); err != nil {
		s.close()
		return nil, seam("connect", "", err)
	}
	return s, nil
}

func (r *rig) process() *process {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last
}

func (r *rig) path(name string) string { return filepath.Join(r.dir, name) }

// flights counts the flights of f on a session that stands.
func (r *rig) flights(t *testing.T, f func()) int64 {
	t.Helper()
	if _, err := r.Stat(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	p := r.process()
	before := p.flights.Load()
	f()
	return p.flights.Load() - before
}

func put(t testing.TB, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
}

func get(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func entries(t testing.TB, b backends.Backend, dir string) (names []string) {
	t.Helper()
	for i, err := range b.List(t.Context(), dir) {
		ok(t, err)
		names = append(names, i.Name)
	}
	return names
}

// create writes content to name as a program's upload does.
func create(ctx context.Context, b backends.Backend, name string, content []byte, mode backends.WriteMode) (backends.Info, error) {
	w, err := b.Create(ctx, name, mode)
	if err != nil {
		return backends.Info{}, err
	}
	if _, err := w.WriteAt(ctx, content, 0); err != nil {
		return backends.Info{}, errors.Join(err, w.Abort())
	}
	return w.Commit(ctx, backends.Commit{Size: int64(len(content))})
}

// eventually asks f until it returns true. It is for what nobody tells: a server's directory, the end of a library's
// goroutines.
func eventually(t testing.TB, what func() string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !f(); {
		if time.Now().After(end) {
			t.Fatalf("in vain: %s", what())
		}
		time.Sleep(5 * time.Millisecond)
	}
}
