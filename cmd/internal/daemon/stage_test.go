package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pierfs/backends/dial"
	"pierfs/backends/mem"
	"pierfs/cache"
	"pierfs/cmd/internal/control"
	"pierfs/cmd/internal/dirs"
	"pierfs/conncfg"
	pierfs "pierfs/fs"
)

// stage is a daemon on servers in memory and without a kernel, with real definitions, mount points and a real socket.
type stage struct {
	t      *testing.T
	dirs   dirs.Dirs
	client *control.Client
	daemon *Daemon
	log    *safeBuffer
	stop   func() error // ends the daemon and returns what Run returned; may be called twice
	reload chan os.Signal
	told   chan string // what the service manager was told

	mu       sync.Mutex
	servers  map[string]*mem.Backend // by NAME: the latest dialled
	heard    map[string]func(up bool, reason error)
	secrets  map[string]func() conncfg.Target
	logins   map[string]func(step string, took time.Duration, err error)
	mounts   map[string]*fakeMount // by directory: the latest
	mounted  chan string           // directories, as they are mounted
	testErr  error
	believes map[string][]string // fingerprints that are trusted, by address
	pinErr   error               // of every test of a server once its key is trusted
	slow     time.Duration       // that a server which somebody knocks at takes to be back
	refuses  bool                // that server says what it said before
	fault    mem.Hook            // of servers dialled from now on
	dials    int
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// fakeMount is a mount that no kernel knows of.
type fakeMount struct {
	once sync.Once
	done chan struct{}
	open int
	led  atomic.Int32  // how often it was led elsewhere
	gone chan struct{} // what Lead returns; nil is one that nobody has anything open on
}

func (f *fakeMount) Lead(*cache.Tree, pierfs.Options) <-chan struct{} {
	f.led.Add(1)
	if f.gone != nil {
		return f.gone
	}
	gone := make(chan struct{})
	close(gone)
	return gone
}

func (f *fakeMount) Unmount(context.Context) error { f.once.Do(func() { close(f.done) }); return nil }
func (f *fakeMount) Done() <-chan struct{}         { return f.done }
func (f *fakeMount) OpenFiles() int                { return f.open }

// line is a Backend whose server is back as soon as somebody knocks.
type line struct {
	*mem.Backend
	knock func() <-chan struct{}
}

func (l line) Knock() <-chan struct{} { return l.knock() }

func (l line) Greet(ctx context.Context) error { _, err := l.Stat(ctx, ""); return err }

const canary = "canary-5up3r-s3cret"

// fingerprint is that of the key which every server shows.
const fingerprint = "SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU"

func newStage(t *testing.T) *stage {
	t.Helper()
	dir := t.TempDir()
	s := &stage{t: t, log: &safeBuffer{}, servers: map[string]*mem.Backend{}, heard: map[string]func(bool, error){}, secrets: map[string]func() conncfg.Target{}, logins: map[string]func(string, time.Duration, error){},
		mounts: map[string]*fakeMount{}, mounted: make(chan string, 100), told: make(chan string, 100),
		dirs: dirs.Dirs{Config: filepath.Join(dir, "etc"), State: filepath.Join(dir, "state"), Cache: filepath.Join(dir, "cache"),
			Runtime: filepath.Join(dir, "run"), MountRoot: filepath.Join(dir, "mnt")}}
	s.write("pierfs.toml", `activeEnvironments = ["Test"]`)
	if err := os.MkdirAll(filepath.Join(s.dirs.Config, "connections"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unguardAll(t, dir) })
	return s
}

// unguardAll lets t.TempDir remove mount points that stay unwritable while their connection is defined.
func unguardAll(t *testing.T, root string) {
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		f, err := openPlain(path)
		if err != nil {
			return err
		}
		defer f.Close()
		if privileged() {
			_ = setImmutable(f, false) // not every file system has the flag
		}
		return f.Chmod(0o700)
	})
	if err != nil {
		t.Errorf("unguard: %v", err)
	}
}

func (s *stage) write(name, text string) {
	s.t.Helper()
	name = filepath.Join(s.dirs.Config, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o700), os.WriteFile(name, []byte(text+"\n"), 0o600)); err != nil {
		s.t.Fatal(err)
	}
}

// define writes a definition that holds the canary as its password.
func (s *stage) define(name string, more ...string) {
	s.t.Helper()
	s.write("connections/"+name+".toml", `protocol = "SFTP"
host = "files.example"
username = "batch"
password = "`+canary+`"
workingDir = "/data"
`+strings.Join(more, "\n"))
}

func (s *stage) dir(name string) string { return filepath.Join(s.dirs.MountRoot, "Test", name) }

func (s *stage) floor() Floor {
	return Floor{
		Dial: func(t conncfg.Target, _ *slog.Logger, l Link) (Backend, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.dials++
			if t.Password.Reveal() != canary && t.MountPoint == "" {
				return nil, fmt.Errorf("the password did not arrive")
			}
			b := mem.New(mem.Options{Fault: s.fault})
			s.servers[t.Name], s.heard[t.Name], s.secrets[t.Name], s.logins[t.Name] = b, l.Heard, l.Secrets, l.Login
			return line{b, func() <-chan struct{} { return s.back(l) }}, nil
		},
		Mount: func(dir string, _ *cache.Tree, _ pierfs.Options) (Mounted, error) {
			f := &fakeMount{done: make(chan struct{})}
			s.mu.Lock()
			s.mounts[dir] = f
			s.mu.Unlock()
			s.mounted <- dir
			return f, nil
		},
		Test: func(_ context.Context, t conncfg.Target, _ dial.Tries, _ *slog.Logger, report func(control.Step)) error {
			s.mu.Lock()
			err := s.testErr
			s.mu.Unlock()
			report(control.Step{Step: "tcp", OK: err == nil, Millis: 1.5})
			return err
		},
		Believed: func(server conncfg.Server) ([]string, error) { return s.believes[server.Address], nil },
		Pin: func(_ context.Context, t conncfg.Target, _ string) (*control.TrustAnswer, error) {
			s.fail(s.pinErr)
			return &control.TrustAnswer{Address: t.Address(), KeyType: "ssh-ed25519", Fingerprint: fingerprint}, nil
		},
	}
}

// back is a server that somebody knocked at.
func (s *stage) back(l Link) <-chan struct{} {
	asked := make(chan struct{})
	answer := func() {
		if !s.refuses {
			l.Heard(true, nil)
		}
		close(asked)
	}
	if s.slow == 0 {
		answer()
	} else {
		time.AfterFunc(s.slow, answer)
	}
	return asked
}

// fail makes every test of a server end with err.
func (s *stage) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.testErr = err
}

// start runs the daemon and returns when it is ready.
func (s *stage) start() {
	s.t.Helper()
	d := New(Options{
		Dirs: s.dirs, Version: "test", Logger: slog.New(slog.NewJSONHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Plan:  func(context.Context) Plan { return ReadPlan(s.dirs.Config, s.dirs.MountRoot) },
		Floor: s.floor(),
		Notify: func(state string) {
			select {
			case s.told <- state:
			default: // nobody listens any more
			}
		},
	})
	s.daemon = d
	ctx, cancel := context.WithCancel(context.Background())
	s.reload = make(chan os.Signal, 1)
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx, s.reload) }()
	var once sync.Once
	var result error
	s.stop = func() error {
		once.Do(func() { cancel(); result = <-ended })
		return result
	}
	s.t.Cleanup(func() {
		if s.client != nil {
			s.client.Close()
		}
		_ = s.stop() // who cares has asked before
	})
	for {
		select {
		case state := <-s.told:
			if strings.HasPrefix(state, "READY=1") {
				s.client = control.NewClient(s.dirs.Runtime)
				return
			}
		case err := <-ended:
			ended <- err
			s.t.Fatalf("the daemon ended at once: %v", err)
		case <-time.After(20 * time.Second):
			s.t.Fatalf("the daemon is not ready:\n%s", s.log)
		}
	}
}

func (s *stage) apply() control.ApplyAnswer {
	s.t.Helper()
	answer, err := control.Apply.Call(s.t.Context(), s.client, control.ApplyRequest{})
	if err != nil {
		s.t.Fatal(err)
	}
	return answer
}

// list returns connections by ENV/NAME.
func (s *stage) list() map[string]control.Connection {
	s.t.Helper()
	answer, err := control.List.Call(s.t.Context(), s.client, control.ListRequest{})
	if err != nil {
		s.t.Fatal(err)
	}
	all := map[string]control.Connection{}
	for _, c := range answer.Connections {
		all[c.Environment+"/"+c.Name] = c
	}
	return all
}

func (s *stage) wantState(name string, want control.State) control.Connection {
	s.t.Helper()
	c := s.list()["Test/"+name]
	if c.State != want {
		s.t.Errorf("%s is %q (%s); want %q", name, c.State, c.Reason, want)
	}
	return c
}

func (s *stage) server(name string) *mem.Backend {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.servers[name]
}

func (s *stage) fake(name string) *fakeMount {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mounts[s.dir(name)]
}

func wantCode(t *testing.T, what string, err error, want control.Code) {
	t.Helper()
	if got := control.CodeOf(err); got != want {
		t.Errorf("%s: %v (code %q); want code %q", what, err, got, want)
	}
}

// rawPost speaks to the socket without the client, to see what travels.
func rawPost(t *testing.T, runtimeDir, verb, body string) string {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", control.SocketPath(runtimeDir))
	}}}
	resp, err := client.Post("http://pierfs/"+control.Protocol+"/"+verb, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(resp.Header, resp.Trailer, string(text))
}
