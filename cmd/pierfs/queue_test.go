package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pierfs/cmd/internal/control"
)

// debts are what the daemon of these tests owes, by connection.
func debts() map[string][]control.Due {
	to := control.Name("b")
	return map[string][]control.Due{
		"none": {},
		"new": {{Name: "new", Environment: "Test", ID: 1, Kind: "put", Path: "dir/a", Size: 2048, Since: time.Now().Add(-time.Minute), State: control.DueSending, Target: "sftp://u@h:22/in in Test"},
			{Name: "new", Environment: "Test", ID: 2, Kind: "rename", Path: "a", To: &to, Since: time.Now(), State: control.DueWaiting, Target: "sftp://u@h:22/in in Test"}},
		"old": {{Name: "old", Environment: "Test", ID: 7, Kind: "put", Path: "\x1b[2J", Size: 3, Since: time.Now().Add(-time.Hour), State: control.DueWaiting, Tries: 9,
			Reason: "dial tcp 192.0.2.7:22: connect: connection refused, and much more than a table has room for", Cause: "connection_refused", Target: "sftp://u@h:22/in in Test"}},
		"held": {{Name: "held", Environment: "Test", ID: 8, Kind: "put", Path: "../../x", Size: 1, Since: time.Now(), State: control.DueHeld, Reason: "held by an operator"}},
		"gone": {{Name: "gone", Environment: "Test", ID: 9, Kind: "put", Path: "x", Size: 1, Since: time.Now(), State: control.DueUnserved, Reason: "it is disabled", Target: "sftp://u@gone:22/in in Test"}},
		"bad":  {},
	}
}

func newQueueStand(t *testing.T, asked *[]string) *stand {
	change := func(word string) func(context.Context, control.QueueChange) (control.QueueChanged, error) {
		return func(_ context.Context, q control.QueueChange) (control.QueueChanged, error) {
			*asked = append(*asked, fmt.Sprint(word, " ", q.Name, q.IDs))
			if q.Name == "gone" {
				return control.QueueChanged{}, control.Errorf(control.NotMounted, "it is disabled")
			}
			a := control.QueueChanged{Changed: max(1, len(q.IDs))}
			if word == "drop" {
				a.Kept = []string{"/state/quarantine/17.data"}
			}
			return a, nil
		}
	}
	return newStand(t, func(s *control.Server) {
		control.Queue.Serve(s, func(_ context.Context, q control.QueueRequest, send func(control.Due) error) error {
			for _, name := range []string{"none", "new", "old", "held", "gone", "bad"} {
				if q.Name != "" && q.Name != name {
					continue
				}
				for _, d := range debts()[name] {
					if err := send(d); err != nil {
						return err
					}
				}
			}
			return nil
		})
		control.Status.Serve(s, func(context.Context, control.StatusRequest) (control.StatusAnswer, error) {
			a := control.StatusAnswer{}
			for name := range debts() {
				c := control.ConnectionStatus{Connection: control.Connection{Name: name, Environment: "Test"}}
				if name == "bad" {
					c.Quarantined = 2
				}
				a.Connections = append(a.Connections, c)
			}
			return a, nil
		})
		control.QueueRetry.Serve(s, change("retry"))
		control.QueueHold.Serve(s, change("hold"))
		control.QueueDrop.Serve(s, change("drop"))
		control.QueueExport.Serve(s, func(_ context.Context, q control.QueueItem, start func(control.Due) (io.Writer, error)) error {
			for _, d := range debts()[q.Name] {
				if d.ID == q.ID {
					w, err := start(d)
					if err == nil {
						_, err = io.WriteString(w, strings.Repeat("x", int(d.Size)))
					}
					if q.Name == "old" {
						err = control.Errorf(control.Failed, "the disk failed")
					}
					return err
				}
			}
			return control.Errorf(control.NotFound, "nothing of that number is owed")
		})
	})
}

func TestQueueCommands(t *testing.T) {
	var asked []string
	s := newQueueStand(t, &asked)
	for _, c := range []struct {
		line   string
		status int
		out    []string
		errOut string
	}{
		{"queue none", 0, []string{"nothing is owed\n"}, ""},
		{"queue new", 0, []string{"ID", "dir/a", "2.0 KiB", "sending", "a -> b", "2 changes are owed, 2.0 KiB; the oldest for 1m0"}, ""},
		{"queue list old", 0, []string{`\x1b[2J`, "connection_refused", "1h0m", "\nold in Test: dial tcp 192.0.2.7:22: connect: connection refused, and much more", "owed to sftp://u@h:22/in in Test"}, ""},
		{"queue gone", 0, []string{"unserved", "gone in Test: it is disabled\n  owed to sftp://u@gone:22/in in Test"}, ""},
		{"queue --check none", 0, []string{"nothing is owed"}, ""},
		{"queue --check new", 0, []string{"2 changes are owed, 2.0 KiB"}, ""},
		{"queue --check new --size 1KiB", 75, nil, "2.0 KiB are owed, and 1.0 KiB are allowed"},
		{"queue --check new --age 30s", 75, nil, "and 30s is allowed"},
		{"queue --check old", 75, nil, "the oldest change is owed for 1h0m"},
		{"queue --check held", 74, nil, "1 change is held until somebody decides"},
		{"queue --check bad", 74, nil, "2 files are in quarantine"},
		{"queue --check", 74, nil, "held"},
		{"queue --check new --size much", 64, nil, `"much" is no size`},
		{"queue retry new", 0, []string{"tried now: 1 change\n"}, ""},
		{"queue retry new 2 3", 0, []string{"tried now: 2 changes\n"}, ""},
		{"queue retry gone", 69, nil, "it is disabled"},
		{"queue hold new 2", 0, []string{"held: 1 change\n"}, ""},
		{"queue hold new x", 64, nil, `"x" is no ID`},
		{"queue hold", 64, nil, "queue hold NAME [ID...]"},
		{"queue drop new 2", 64, nil, "say --backup"},
		{"queue drop new --backup", 64, nil, "or --all"},
		{"queue drop new --backup --all 2", 64, nil, "or --all"},
		{"queue drop new --backup 2", 0, []string{"dropped: 1 change\n  /state/quarantine/17.data\n"}, ""},
		{"queue drop new --backup --all", 0, []string{"dropped: 1 change\n"}, ""},
	} {
		status, out, errOut := s.hand("", strings.Fields(c.line)...)
		if status != c.status || !strings.Contains(errOut, c.errOut) || c.errOut == "" && errOut != "" {
			t.Errorf("pierfs %s: %d, %q, want %d and %q", c.line, status, errOut, c.status, c.errOut)
		}
		for _, want := range c.out {
			if !strings.Contains(out, want) {
				t.Errorf("pierfs %s lacks %q:\n%s", c.line, want, out)
			}
		}
	}
	want := []string{"retry new[]", "retry new[2 3]", "retry gone[]", "hold new[2]", "drop new[2]", "drop new[]"}
	if !slices.Equal(asked, want) {
		t.Errorf("asked %q\nwant  %q", asked, want)
	}
}

func TestQueueAsJSON(t *testing.T) {
	s := newQueueStand(t, new([]string))
	status, out, _ := s.hand("", "queue", "--json")
	var all queued
	if err := json.Unmarshal([]byte(out), &all); err != nil || status != 0 || all.Count != 5 || len(all.Owed) != 5 || all.Held != 1 || all.Bytes != 2053 || all.OldestSeconds < 3600 {
		t.Errorf("queue as JSON: %d, %+v, %v", status, all, err)
	}
	status, out, _ = s.hand("", "queue", "none", "--json")
	if status != 0 || !strings.Contains(out, `"owed":[]`) || strings.Contains(out, "0001-01-01") {
		t.Errorf("an empty queue as JSON: %d, %s", status, out)
	}
	status, out, _ = s.hand("", "queue", "--check", "old", "--json")
	var c queueChecked
	if err := json.Unmarshal([]byte(out), &c); err != nil || status != 75 || c.OK || c.Code != control.StillOwed || c.Count != 1 || c.OldestSeconds < 3600 {
		t.Errorf("queue --check as JSON: %d, %s, %v", status, out, err)
	}
}

// What is exported lies under its path below the directory, never outside and never over something else, and is whole.
func TestQueueExport(t *testing.T) {
	s := newQueueStand(t, new([]string))
	dir := filepath.Join(t.TempDir(), "owed")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	status, out, errOut := s.hand("", "queue", "export", "new", dir)
	if text, err := os.ReadFile(filepath.Join(dir, "dir/a")); err != nil || len(text) != 2048 || status != 0 || !strings.Contains(out, "exported: 1 file, 2.0 KiB") {
		t.Errorf("export: %d, %q, %q; %d bytes, %v", status, out, errOut, len(text), err)
	}
	for line, want := range map[string]int{
		"queue export new " + dir:           73, // its name is taken
		"queue export new " + dir + " 99":   66,
		"queue export held " + dir:          74, // leads outside
		"queue export old " + dir:           74, // broke off
		"queue export new " + dir + "/nope": 66,
	} {
		if status, out, errOut := s.hand("", strings.Fields(line)...); status != want {
			t.Errorf("pierfs %s: %d, want %d; %q, %q", line, status, want, out, errOut)
		}
	}
	var names []string
	err := filepath.WalkDir(filepath.Dir(dir), func(path string, _ os.DirEntry, err error) error {
		names = append(names, strings.TrimPrefix(path, filepath.Dir(dir)))
		return err
	})
	if want := []string{"", "/" + filepath.Base(dir), "/" + filepath.Base(dir) + "/dir", "/" + filepath.Base(dir) + "/dir/a"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("exports left %q, %v; want %q", names, err, want)
	}
}
