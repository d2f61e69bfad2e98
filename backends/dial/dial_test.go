package dial_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"pierfs/backends"
	"pierfs/backends/dial"
	"pierfs/conncfg"
)

const canary = "pa55-canary"

// closed returns a target where nothing listens.
func closed(t *testing.T) conncfg.Target {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	return conncfg.Target{
		Protocol: conncfg.SFTP, Host: "127.0.0.1", Port: port, Username: "user", Password: conncfg.NewSecret(canary),
		WorkingDir: "/data", ConnectTimeout: time.Second, SocketTimeout: 2 * time.Second,
	}
}

func TestDialTouchesNoNetwork(t *testing.T) {
	target := closed(t)
	target.ReadOnly = true
	b, err := dial.Dial(target, dial.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if caps := b.Caps(); caps.Protocol != "SFTP" || !caps.ReadOnly {
		t.Errorf("caps: got %+v, want SFTP, read-only", caps)
	}
	err = b.Mkdir(t.Context(), "dir", 0o755)
	if code := backends.Errno(err); code != syscall.EROFS {
		t.Errorf("mkdir: got %v, want EROFS without a connection", err)
	}
	if err := b.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

func TestWrappersStandInOrder(t *testing.T) {
	calls := 0
	target := closed(t)
	target.RetryCount = 1
	b, err := dial.Dial(target, dial.Options{Observer: func(backends.Call) { calls++ }})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	_, err = b.Stat(t.Context(), "")
	if backends.CauseOf(err) != backends.CauseConnRefused {
		t.Errorf("got %v, want connection_refused", err)
	}
	if calls != 2 {
		t.Errorf("the meter saw %d calls, want both attempts", calls)
	}
}

func TestTestReportsTheStepThatFails(t *testing.T) {
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	var steps []dial.Step
	err := dial.Test(t.Context(), closed(t), dial.Options{Logger: logger}, func(s dial.Step) { steps = append(steps, s) })
	if len(steps) == 0 {
		t.Fatal("no step was reported")
	}
	last := steps[len(steps)-1]
	e, ok := errors.AsType[*backends.Error](last.Err)
	if last.Name != "tcp" || !ok || e.Cause != backends.CauseConnRefused || e.Hint == "" {
		t.Errorf("last step: got %+v, want tcp with cause connection_refused and a hint", last)
	}
	if err == nil || err.Error() != last.Err.Error() {
		t.Errorf("returned: got %v, want %v", err, last.Err)
	}
	if told := fmt.Sprintf("%s %+v %v", log.String(), steps, err); strings.Contains(told, canary) {
		t.Error("the password was told")
	}
}

func TestUnknownProtocolsAreRefusedClearly(t *testing.T) {
	for _, protocol := range []conncfg.Protocol{"SCP", ""} {
		target := closed(t)
		target.Protocol = protocol
		_, dialled := dial.Dial(target, dial.Options{})
		_, scanned := dial.Scan(t.Context(), target, dial.Options{})
		tested := dial.Test(t.Context(), target, dial.Options{}, func(dial.Step) { t.Error("a step was reported") })
		for _, err := range []error{dialled, scanned, tested} {
			e, ok := errors.AsType[*backends.Error](err)
			if !ok || e.Code != syscall.EPROTONOSUPPORT || e.Hint == "" || !strings.Contains(err.Error(), "is none that is spoken") {
				t.Errorf("%q: got %v, want EPROTONOSUPPORT with a hint", protocol, err)
			}
		}
	}
}

func TestPolicyTakesTheLongerTimeout(t *testing.T) {
	p := dial.Policy(conncfg.Target{RetryCount: 3, ConnectTimeout: 5 * time.Second, SocketTimeout: time.Minute, RetryAuth: true})
	if p.Count != 3 || p.Timeout != time.Minute || !p.Auth {
		t.Errorf("got %+v", p)
	}
}
