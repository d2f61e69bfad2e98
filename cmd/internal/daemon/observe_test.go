package daemon

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"pierfs/backends"
	"pierfs/cmd/internal/control"
)

// attempts returns the log of deployments as "PHASE CAUSE".
func (s *stage) attempts(q control.DeploymentsRequest) []string {
	s.t.Helper()
	all := []string{}
	for d, err := range control.Deployments.Call(s.t.Context(), s.client, q) {
		if err != nil {
			s.t.Fatal(err)
		}
		if d.Time.IsZero() || d.Millis < 0 || d.Try < 1 || d.OK == (d.Reason != "") {
			s.t.Errorf("an attempt is told as %+v", d)
		}
		all = append(all, strings.TrimSpace(d.Phase+" "+d.Cause))
	}
	return all
}

func wantAttempts(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("the attempts are %q; want %q", got, want)
	}
}

// Row 59: connection errors, refused logins, each retry and the final result are in the log of deployments, and outlive the daemon.
func TestEveryAttemptIsLogged(t *testing.T) {
	s := newStage(t)
	s.define("bank")
	s.define("quiet")
	refused := &backends.Error{Op: "connect", Code: syscall.ECONNREFUSED, Class: backends.Transient, Cause: backends.CauseConnRefused, Err: syscall.ECONNREFUSED}
	auth := &backends.Error{Op: "connect", Code: syscall.EACCES, Class: backends.Refused, Cause: backends.CauseAuth, Err: errors.New("no")}
	s.start()
	login, heard := s.logins["bank"], s.heard["bank"]
	heard(false, refused)
	login("dns", time.Millisecond, nil)
	login("tcp", time.Millisecond, refused)
	login("dns", time.Millisecond, nil)
	login("tcp", time.Millisecond, nil)
	login("auth", time.Millisecond, auth)
	login("dns", time.Millisecond, nil)
	heard(true, nil)
	one := control.DeploymentsRequest{Name: "bank"}
	wantAttempts(t, s.attempts(one), "ready", "session connection_refused", "tcp connection_refused", "auth auth_failed", "ready")
	var tries []int
	var last control.Deployment
	for d, err := range control.Deployments.Call(t.Context(), s.client, one) {
		if err != nil {
			t.Fatal(err)
		}
		tries, last = append(tries, d.Try), d
	}
	if !slices.Equal(tries, []int{1, 1, 1, 2, 3}) {
		t.Errorf("the attempts are the tries %v; want them counted since it was in service", tries)
	}
	if last.Endpoint != "sftp://batch@files.example:22/data" {
		t.Errorf("the last attempt went to %q", last.Endpoint)
	}
	wantAttempts(t, s.attempts(control.DeploymentsRequest{Name: "bank", Last: 2}), "auth auth_failed", "ready")
	wantAttempts(t, s.attempts(control.DeploymentsRequest{Name: "bank", Since: time.Now().Add(time.Hour)}))
	_ = s.fake("bank").Unmount(t.Context()) // as by umount(8)
	for range 3 {
		<-s.mounted
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	s.start()
	got := s.attempts(one)
	if !slices.Contains(got, "taken") || !slices.Contains(got, "unmount") || got[0] != "ready" {
		t.Errorf("after the daemon's next start the attempts are %q", got)
	}
	if got := s.attempts(control.DeploymentsRequest{Name: "quiet"}); len(got) != 3 {
		t.Errorf("the attempts of another connection are %q; want two starts and a stop", got)
	}
	text, err := os.ReadFile(filepath.Join(s.dirs.State, "deployments.jsonl"))
	if err != nil || strings.Contains(string(text), canary) {
		t.Errorf("the log of deployments: %v, or it has the password in it", err)
	}
}

// What cannot be mounted is logged with the step that it ended with.
func TestFailedMountIsLogged(t *testing.T) {
	s := newStage(t)
	s.define("broken", "port = 99999")
	if err := os.MkdirAll(filepath.Join(s.dir("full"), "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	s.define("full")
	s.start()
	for name, want := range map[string]string{"broken": "resolve", "full": "mountPoint"} {
		if got := s.attempts(control.DeploymentsRequest{Name: name}); len(got) == 0 || got[0] != want {
			t.Errorf("the attempts of %s are %q; want %s", name, got, want)
		}
	}
}

// follow returns a func that waits for the next event that is one of kinds.
func (s *stage) follow(q control.EventsRequest, kinds ...control.EventKind) func() control.Event {
	s.t.Helper()
	q.Follow = true
	ctx, cancel := context.WithTimeout(s.t.Context(), 20*time.Second)
	next, stop := iter.Pull2(control.Events.Call(ctx, s.client, q))
	s.t.Cleanup(func() { stop(); cancel() })
	pull := func() control.Event {
		s.t.Helper()
		for {
			e, err, ok := next()
			if err != nil || !ok {
				s.t.Fatalf("the events end with %v, waiting for %q", err, kinds)
			}
			if len(kinds) == 0 || slices.Contains(kinds, e.Kind) || e.Kind == control.EventListening {
				return e
			}
		}
	}
	if e := pull(); e.Kind != control.EventListening {
		s.t.Errorf("the first event is %+v", e)
	}
	return pull
}

// Whoever follows is told of states, attempts, changes and warnings as they happen, and waits no longer than the daemon lives.
func TestEventsAreTold(t *testing.T) {
	s := newStage(t)
	s.define("bank")
	s.define("other")
	s.start()
	states := s.follow(control.EventsRequest{Name: "bank", New: true}, control.EventState)
	warnings := s.follow(control.EventsRequest{Name: "bank", New: true}, control.EventWarning)
	applied := s.follow(control.EventsRequest{New: true}, control.EventApplied, control.EventChanged)
	s.heard["other"](false, errors.New("nobody asked"))
	s.heard["bank"](false, errors.New("gone fishing"))
	if e := states(); e.State != control.StateOffline || e.Before != control.StateReady || e.Reason != "gone fishing" || e.Environment != "Test" {
		t.Errorf("a server that goes away is told as %+v", e)
	}
	if e := warnings(); !strings.Contains(e.Text, "server is away") || !strings.Contains(e.Text, "gone fishing") {
		t.Errorf("the warning is told as %+v", e)
	}
	s.heard["bank"](true, nil)
	if e := states(); e.State != control.StateReady {
		t.Errorf("a server that is back is told as %+v", e)
	}
	s.define("comes")
	s.apply()
	if e := applied(); e.Kind != control.EventChanged || !strings.Contains(e.Text, "comes.toml") {
		t.Errorf("a file that was written is told as %+v", e)
	}
	if e := applied(); e.Kind != control.EventApplied || e.Text != "added Test/comes" {
		t.Errorf("what apply did is told as %+v", e)
	}
	known := map[control.EventKind]int{}
	for e, err := range control.Events.Call(t.Context(), s.client, control.EventsRequest{}) {
		if err != nil {
			t.Fatal(err)
		}
		known[e.Kind]++
	}
	if known[control.EventDeployment] < 3 || known[control.EventState] < 4 || known[control.EventListening] != 0 {
		t.Errorf("what is known is %v", known)
	}
	ended := make(chan error, 1)
	go func() {
		var last control.Event
		for e, err := range control.Events.Call(t.Context(), s.client, control.EventsRequest{Follow: true, New: true}) {
			if err != nil {
				ended <- err
				return
			}
			last = e
			if e.Kind == control.EventListening {
				ended <- nil
			}
		}
		if last.Kind == control.EventListening {
			ended <- fmt.Errorf("nothing was told of the end")
		}
		ended <- nil
	}()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("who follows ends with %v when the daemon does", err)
	}
}

// The status is told again when something has changed, and no longer than somebody listens.
func TestStatusIsWatched(t *testing.T) {
	s := newStage(t)
	s.define("bank")
	s.start()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	seen := 0
	for a, err := range control.Watch.Call(ctx, s.client, control.StatusRequest{}) {
		if err != nil {
			t.Fatal(err)
		}
		state := a.Connections[0].State
		switch seen++; {
		case seen == 1 && state == control.StateReady:
			s.heard["bank"](false, errors.New("gone fishing"))
		case state == control.StateOffline:
			return
		default:
			t.Fatalf("status %d says %s", seen, state)
		}
	}
	t.Error("the status ended by itself")
}

// One connection is logged at its own level while the daemon runs, beyond its mounts, and the others are not.
func TestLevelOfOneConnection(t *testing.T) {
	var out safeBuffer
	d := New(Options{Logger: slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})), LogLevel: slog.LevelInfo})
	d.plan = Plan{Environments: []control.Environment{{Name: "Test", Active: true}}, Wants: []Want{{Name: "one", Environment: "Test"}, {Name: "two", Environment: "Test"}}}
	one, two := d.logOf(d.plan.Wants[0]), d.logOf(d.plan.Wants[1])
	set := func(level, want string) {
		t.Helper()
		a, err := d.setLevel(t.Context(), control.LogRequest{Name: "one", Level: level})
		if err != nil || a.Level != want || a.Own != (level != "default") {
			t.Errorf("log one %s: %+v, %v", level, a, err)
		}
	}
	say := func(word string) {
		for _, log := range []*slog.Logger{one, two, d.log, d.logOf(d.plan.Wants[0])} {
			log.Debug(word)
		}
	}
	say("first")
	set("debug", "debug")
	say("second")
	set("default", "info")
	say("third")
	set("error", "error")
	one.Warn("fourth")
	two.Warn("fifth")
	told := out.String()
	for word, want := range map[string]int{"msg=first": 0, "msg=second conn=one": 2, "msg=second": 2, "msg=third": 0, "msg=fourth": 0, "msg=fifth": 1} {
		if got := strings.Count(told, word); got != want {
			t.Errorf("the log has %d of %q, want %d:\n%s", got, word, want, told)
		}
	}
	if _, err := d.setLevel(t.Context(), control.LogRequest{Name: "one", Level: "loud"}); control.CodeOf(err) != control.Usage {
		t.Errorf("a level that is none: %v", err)
	}
	if _, err := d.setLevel(t.Context(), control.LogRequest{Name: "three", Level: "debug"}); control.CodeOf(err) != control.UnknownConnection {
		t.Errorf("a connection that is none: %v", err)
	}
}

// A journal that nobody can read is a figure of its own, and takes no other figure away.
func TestDamagedJournalIsAFigure(t *testing.T) {
	s := newStage(t)
	s.define("whole")
	s.start()
	torn := filepath.Join(s.dirs.State, "staging", "env", "Test", "torn")
	if err := os.MkdirAll(filepath.Join(torn, "journal"), 0o700); err != nil { // no file, so that it cannot be read
		t.Fatal(err)
	}
	a, err := control.Metrics.Call(t.Context(), s.client, control.MetricsRequest{Text: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`pierfs_journal_damaged{connection="torn",environment="Test"} 1`, `pierfs_journal_damaged{connection="whole",environment="Test"} 0`,
		`pierfs_ready{connection="whole",environment="Test"} 1`} {
		if !strings.Contains(a.Text, want) {
			t.Errorf("the figures lack %s", want)
		}
	}
}
