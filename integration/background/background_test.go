// Package background holds commit = "background" to what it promises: what was acknowledged reaches the server, whatever the server,
// the line and the daemon do meanwhile, and operators see what is on its way and why it is not there.
package background

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"pierfs/integration/daemon"
	"pierfs/integration/servers"
)

// The programs under test.
var (
	underTest = daemon.Share()
	built     = underTest.Programs
)

func TestMain(m *testing.M) { os.Exit(daemon.Main(m, 0, underTest)) }

const connection = "partner"

// background is a definition that gives up on a server soon, so that outages are found out in time.
var background = daemon.Fields{"commit": "background", "timeout": "1s", "retryCount": 0, "drainTimeout": "10s"}

// stage is a daemon with one connection.
type stage struct {
	t      *testing.T
	daemon *daemon.Daemon
	mount  string
}

func newStage(t *testing.T, fields daemon.Fields) *stage {
	t.Helper()
	programs, err := built()
	if err != nil {
		t.Fatal(err)
	}
	s := &stage{t: t, daemon: daemon.New(t, programs)}
	s.mount = s.daemon.Mount(connection)
	s.daemon.Define(t, connection, fields)
	s.start()
	s.list()
	return s
}

func (s *stage) start() {
	s.t.Helper()
	s.daemon.Start(s.t)
}

// list lists the mount: what is there is known from then on, also while the server is away.
func (s *stage) list() {
	s.t.Helper()
	if _, err := os.ReadDir(s.mount); err != nil {
		s.t.Fatal(err)
	}
}

// put writes a file as programs do, and wants it acknowledged.
func (s *stage) put(name, text string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.mount, name), []byte(text), 0o644); err != nil {
		s.t.Fatalf("write %s: %v\n%s", name, err, s.daemon.Log())
	}
}

// queued is what `pierfs queue --json` prints.
type queued struct {
	Count int   `json:"count"`
	Bytes int64 `json:"bytes"`
	Held  int   `json:"held"`
	Owed  []struct {
		Name, Kind, Path, To, State, Reason, Cause string
		ID                                         uint64
		Tries                                      int
	} `json:"owed"`
}

// status is what `pierfs status --json` prints of a connection.
type status struct {
	State, Reason, Cause             string
	OwedFiles, Held, Quarantined     int
	OwedBytes                        int64
	OwedSince, OwedReason, OwedCause string
}

func (s *stage) queue() (q queued) {
	s.t.Helper()
	r := s.daemon.Pierfs(s.t, "queue", connection, "--json")
	if err := json.Unmarshal([]byte(r.Stdout), &q); r.Status != 0 || err != nil {
		s.t.Fatalf("pierfs queue: exit %d, %v\n%s%s", r.Status, err, r.Stdout, r.Stderr)
	}
	return q
}

func (s *stage) status() status {
	s.t.Helper()
	r := s.daemon.Pierfs(s.t, "status", "--json")
	var a struct{ Connections []status }
	if err := json.Unmarshal([]byte(r.Stdout), &a); r.Status != 0 || err != nil || len(a.Connections) != 1 {
		s.t.Fatalf("pierfs status: exit %d, %v\n%s%s", r.Status, err, r.Stdout, r.Stderr)
	}
	return a.Connections[0]
}

// healing is how long it may take until what was mended is found out: the longest pause between tries is 30 s, and a wake-up ends it.
const healing = 60 * time.Second

// await waits until ok, and tells what it waits for if that does not come.
func (s *stage) await(what string, ok func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(healing); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("not within %v: %s\nqueue: %+v\n%s", healing, what, s.queue(), s.daemon.Log())
		}
	}
}

// paid waits until nothing is owed.
func (s *stage) paid() {
	s.t.Helper()
	s.await("nothing is owed", func() bool { return s.queue().Count == 0 })
}

// has wants the server to have a file.
func has(t *testing.T, file, want string) {
	t.Helper()
	if got, err := os.ReadFile(file); err != nil || string(got) != want {
		t.Errorf("the server has %s as %.40q, %v; want %.40q", filepath.Base(file), got, err, want)
	}
}

// What was acknowledged while the server was gone reaches it, though the daemon is killed in between and its cache deleted.
func TestAcknowledgedContentOutlivesServerAndDaemon(t *testing.T) {
	t.Parallel()
	server := servers.NewSSHD(t, servers.SSHOptions{})
	s := newStage(t, daemon.To(t, server, background))
	s.put("before", "here")
	s.paid()
	has(t, filepath.Join(server.Dir, "before"), "here")
	server.Kill(t)
	s.put("before", "changed while it was away")
	s.daemon.Kill()
	if err := os.RemoveAll(s.daemon.CacheDir); err != nil {
		t.Fatal(err)
	}
	s.start()
	if q := s.queue(); q.Count != 1 || q.Owed[0].Path != "before" {
		t.Errorf("after the restart %+v is owed; want the one file", q)
	}
	if got, err := os.ReadFile(filepath.Join(s.mount, "before")); err != nil || string(got) != "changed while it was away" {
		t.Errorf("the mount shows %q, %v while it is owed", got, err)
	}
	server.Restart(t)
	s.paid()
	has(t, filepath.Join(server.Dir, "before"), "changed while it was away")
}
