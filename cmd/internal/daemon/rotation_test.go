package daemon

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pierfs/cmd/internal/control"
	"pierfs/conncfg"
)

// Holds row 53 of the requirements: a secret that should have been changed is told by list, status, doctor, the log and a figure; setting it
// anew ends that, and keeps for how long one may stay.
func TestOldSecretsAreTold(t *testing.T) {
	s := newStage(t)
	s.start()
	s.create("a")
	set := func(value string, days *int) {
		t.Helper()
		if _, err := control.SetVar.Call(t.Context(), s.client, control.SetVarRequest{Name: "word", Secret: true, Value: control.Seal(value), RotateAfter: days}); err != nil {
			t.Fatal(err)
		}
	}
	ninety := 90
	set(canary, &ninety)
	if _, err := control.Edit.Call(t.Context(), s.client, control.EditRequest{Name: "a", Set: []control.Setting{{Field: "password", Value: "${word}"}}}); err != nil {
		t.Fatal(err)
	}
	due := s.list()["Test/a"].RotateBy
	if left := time.Until(due); left < 89*24*time.Hour || left > 90*24*time.Hour {
		t.Fatalf("it must be changed by %v, want in 90 days", due)
	}
	if c := s.list()["Test/a"]; len(c.Findings) > 0 {
		t.Errorf("told long before: %+v", c.Findings)
	}

	file := filepath.Join(s.dirs.Config, conncfg.EnvironmentFile(""))
	written, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	written = bytes.Replace(written, []byte(due.Add(-90*24*time.Hour).Format(time.DateOnly)), []byte("2001-02-03"), 1)
	if err := os.WriteFile(file, written, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := control.Apply.Call(t.Context(), s.client, control.ApplyRequest{}); err != nil {
		t.Fatal(err)
	}
	old := func(c control.Connection) bool {
		return len(c.Findings) == 1 && c.Findings[0].Code == conncfg.CodeSecretAge && c.Findings[0].Hint != "" && strings.Contains(c.Findings[0].Message, "word")
	}
	if c := s.list()["Test/a"]; !old(c) || c.RotateBy.Year() != 2001 {
		t.Errorf("list: %+v, want one finding about the secret's age", c)
	}
	if a, err := control.Status.Call(t.Context(), s.client, control.StatusRequest{}); err != nil || len(a.Connections) != 1 || !old(a.Connections[0].Connection) {
		t.Errorf("status: %+v, %v", a.Connections, err)
	}
	a, err := control.Doctor.Call(t.Context(), s.client, control.DoctorRequest{Name: "a"})
	found := false
	for _, c := range a.Checks {
		found = found || c.Check == "secret_age" && !c.OK && c.Fix != "" && strings.Contains(c.Detail, "2001-02-03")
	}
	if err != nil || !found {
		t.Errorf("doctor: %+v, %v", a.Checks, err)
	}
	if m, err := control.Metrics.Call(t.Context(), s.client, control.MetricsRequest{Text: true}); err != nil || !strings.Contains(m.Text, `pierfs_secret_rotation_timestamp_seconds{connection="a",environment="Test"}`) {
		t.Errorf("no figure tells of it: %v", err)
	}
	s.daemon.lookAtSecrets()
	s.daemon.lookAtSecrets()
	if n := strings.Count(s.log.String(), `"msg":"secret"`); n != 1 {
		t.Errorf("logged %d times, want once", n)
	}

	set(canary, nil)
	if c := s.list()["Test/a"]; len(c.Findings) > 0 || time.Until(c.RotateBy) < 89*24*time.Hour {
		t.Errorf("set anew: %+v, want 90 days more and nothing to say", c)
	}
	wantNoCanary(t, s)
}

// Holds row 99 of the requirements: doctor tells from which address this machine goes to a server, also where the definition says so, and that a host in
// between hides it.
func TestDoctorTellsTheWayOut(t *testing.T) {
	s := newStage(t)
	s.define("straight", `host = "127.0.0.1"`, `sourceAddress = "127.0.0.7"`)
	s.define("through", `host = "192.0.2.1"`, `via = "socks5://127.0.0.1:1080"`, `sourceAddress = "127.0.0.9"`)
	for _, name := range []string{"straight", "through"} {
		file := filepath.Join(s.dirs.Config, "connections", name+".toml")
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, bytes.Replace(text, []byte("host = \"files.example\"\n"), nil, 1), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.start()
	for name, want := range map[string]string{"straight": "from 127.0.0.7; the server sees that", "through": "from 127.0.0.9, by way of 127.0.0.1, whose address the server sees"} {
		a, err := control.Doctor.Call(t.Context(), s.client, control.DoctorRequest{Name: name})
		said := ""
		for _, c := range a.Checks {
			if c.Check == "source_address" {
				said = c.Detail
			}
		}
		if err != nil || !strings.Contains(said, want) {
			t.Errorf("%s: %q, %v; want %q", name, said, err, want)
		}
	}
}
