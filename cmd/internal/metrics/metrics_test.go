package metrics

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"pierfs/backends"
	"pierfs/cmd/internal/control"
)

// full is a Set that has every figure.
func full() *Set {
	s := New("v1", func() Look {
		return Look{
			Connections: []Connection{
				{Name: "bank", Environment: "Test", Mounted: true, State: control.StateOffline, Since: time.Now().Add(-time.Minute), OpenFiles: 2,
					Certificate: time.Unix(2e9, 0), RotateBy: time.Unix(2e9, 0), ClientCertificate: time.Unix(2e9, 0), Authority: time.Unix(2e9, 0), Owed: 3, OwedBytes: 10, OwedOldest: time.Minute},
				{Name: "torn", Environment: "Test", Damaged: true},
			},
			Findings: map[string]int{"error": 1}, Kept: Kept{1, 2, 3}, Events: 7, StateFree: 9,
		}
	})
	m := s.Meter("bank", "Test")
	m.Count(backends.Call{Op: "readat", Took: time.Millisecond, Bytes: 100, Err: io.EOF})
	m.Count(backends.Call{Op: "writeat", Took: time.Millisecond, Bytes: 50})
	m.Count(backends.Call{Op: "stat", Err: syscall.ENOENT})
	s.Attempt(control.Deployment{Name: "bank", Environment: "Test", Phase: "auth", Cause: "auth_failed"})
	return s
}

func text(t *testing.T, s *Set) string {
	t.Helper()
	text, err := s.Text()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// What happens and how things stand is told as Prometheus reads it; a journal that cannot be read is a figure, and takes no other away.
func TestFigures(t *testing.T) {
	s := full()
	told := text(t, s)
	for _, want := range []string{
		`pierfs_ready{connection="bank",environment="Test"} 0`,
		`pierfs_owed_changes{connection="bank",environment="Test"} 3`,
		`pierfs_owed_oldest_seconds{connection="bank",environment="Test"} 60`,
		`pierfs_journal_damaged{connection="torn",environment="Test"} 1`,
		`pierfs_read_bytes_total{connection="bank",environment="Test"} 100`,
		`pierfs_written_bytes_total{connection="bank",environment="Test"} 50`,
		`pierfs_calls_total{connection="bank",environment="Test",op="readat",result="ok"} 1`,
		`pierfs_calls_total{connection="bank",environment="Test",op="stat",result="error"} 1`,
		`pierfs_call_duration_seconds_count{connection="bank",environment="Test",kind="read"} 1`,
		`pierfs_deployments_total{cause="auth_failed",connection="bank",environment="Test",phase="auth"} 1`,
		`pierfs_certificate_expiry_timestamp_seconds{connection="bank",environment="Test"} 2e+09`,
		`pierfs_secret_rotation_timestamp_seconds{connection="bank",environment="Test"} 2e+09`,
		`pierfs_definition_findings{severity="error"} 1`, "pierfs_state_free_bytes 9", "process_resident_memory_bytes", "go_goroutines",
		"# TYPE pierfs_conflicts_total counter",
	} {
		if !strings.Contains(told, want) {
			t.Errorf("the figures lack %s", want)
		}
	}
	for _, without := range []string{`pierfs_owed_changes{connection="torn"`, `pierfs_ready{connection="torn"`} {
		if strings.Contains(told, without) {
			t.Errorf("the figures have %s, which nobody can know", without)
		}
	}
	s.Forget("bank", "Test")
	if told := text(t, s); strings.Contains(told, "pierfs_calls_total{") || strings.Contains(told, "pierfs_deployments_total{") {
		t.Errorf("what was counted of a connection that is gone is still told:\n%s", told)
	}
	var none Meter
	none.Count(backends.Call{})
}

// In JSON they are the same, without those of the process.
func TestFiguresAsJSON(t *testing.T) {
	all, err := full().Figures()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]control.Metric{}
	for _, m := range all {
		found[m.Name] = m
	}
	if m := found["pierfs_owed_changes"]; m.Type != "gauge" || len(m.Samples) != 1 || m.Samples[0].Connection != "bank" || m.Samples[0].Value != 3 {
		t.Errorf("owed changes are told as %+v", m)
	}
	if m := found["pierfs_call_duration_seconds"]; m.Type != "histogram" || len(m.Samples) != 3 || m.Samples[0].Count != 1 {
		t.Errorf("durations are told as %+v", m)
	}
	if m := found["pierfs_calls_total"]; m.Type != "counter" || m.Samples[0].Labels["op"] == "" {
		t.Errorf("calls are told as %+v", m)
	}
	if _, ok := found["go_goroutines"]; ok {
		t.Error("the runtime is among them")
	}
}

// exported returns the names of all figures, as queries may use them.
func exported(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (\S+) (\S+)`).FindAllStringSubmatch(text(t, full()), -1) {
		names[m[1]] = true
		if m[2] == "histogram" {
			names[m[1]+"_bucket"], names[m[1]+"_sum"], names[m[1]+"_count"] = true, true, true
		}
	}
	return names
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile("../../../docs/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

var metricName = regexp.MustCompile(`\b(?:pierfs|process|go)_[a-z0-9_]+`)

// The alert rules, the board and the page name only figures that there are, and the page names all of ours.
func TestPagesNameFiguresThatExist(t *testing.T) {
	there := exported(t)
	for _, page := range []string{"alerts.yml", "grafana.json"} {
		used := 0
		for _, name := range metricName.FindAllString(read(t, page), -1) {
			if used++; !there[name] {
				t.Errorf("docs/%s asks for %s, which nobody tells", page, name)
			}
		}
		if used < 10 {
			t.Errorf("docs/%s uses %d figures", page, used)
		}
	}
	_, table, _ := strings.Cut(read(t, "CLI.md"), "| metric | what it counts |")
	table, _, _ = strings.Cut(table, "\n\n")
	told := map[string]bool{}
	for _, name := range metricName.FindAllString(table, -1) {
		if told[name] = true; !there[name] {
			t.Errorf("docs/CLI.md tells of %s, which there is not", name)
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (pierfs_\S+)`).FindAllStringSubmatch(text(t, full()), -1) {
		if !told[m[1]] {
			t.Errorf("docs/CLI.md does not tell of %s", m[1])
		}
	}
}

// The board is one that can be imported: JSON, with panels that ask something.
func TestBoardIsWhole(t *testing.T) {
	var board struct {
		Title  string
		Panels []struct {
			ID      int
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal([]byte(read(t, "grafana.json")), &board); err != nil {
		t.Fatal(err)
	}
	ids := map[int]bool{}
	for _, p := range board.Panels {
		if ids[p.ID] || p.Title == "" || len(p.Targets) == 0 {
			t.Errorf("panel %d %q has %d queries, or its number twice", p.ID, p.Title, len(p.Targets))
		}
		ids[p.ID] = true
		for _, target := range p.Targets {
			if strings.Count(target.Expr, "(") != strings.Count(target.Expr, ")") || strings.Count(target.Expr, "{") != strings.Count(target.Expr, "}") {
				t.Errorf("panel %q asks %q", p.Title, target.Expr)
			}
		}
	}
	if board.Title == "" || len(ids) < 10 {
		t.Errorf("the board %q has %d panels", board.Title, len(ids))
	}
}

// The rules are in the shape that Prometheus reads: each with a name of its own, an expression, a severity and what to do.
func TestAlertsAreWhole(t *testing.T) {
	rules := strings.Split(read(t, "alerts.yml"), "      - alert: ")[1:]
	names := map[string]bool{}
	for _, rule := range rules {
		name, rest, _ := strings.Cut(rule, "\n")
		if names[name] {
			t.Errorf("two rules are named %s", name)
		}
		names[name] = true
		for _, want := range []string{"        expr: ", "        labels: {severity: ", "          summary: ", "          description: "} {
			if strings.Count(rest, want) != 1 {
				t.Errorf("rule %s has %d of %q", name, strings.Count(rest, want), want)
			}
		}
	}
	if len(rules) < 10 {
		t.Errorf("there are %d rules", len(rules))
	}
}

// Over the network the figures are for this machine alone: by the address that is listened at, and by the name that is asked for.
func TestFiguresStayOnThisMachine(t *testing.T) {
	for _, address := range []string{"0.0.0.0:0", "[::]:0", ":0", "192.0.2.1:9000", "example.com:9000", "127.0.0.1", "[::ffff:192.0.2.1]:0"} {
		if l, err := Listen(address); err == nil {
			l.Close()
			t.Errorf("%s is listened at", address)
		}
	}
	l, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- full().Serve(ctx, l, slog.New(slog.DiscardHandler)) }()
	ask := func(method, path, host string) (int, string) {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), method, "http://"+l.Addr().String()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Host = host
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, string(body)
	}
	if status, body := ask("GET", "/metrics", l.Addr().String()); status != 200 || !strings.Contains(body, `pierfs_owed_changes{connection="bank"`) {
		t.Errorf("GET /metrics: %d, %.200s", status, body)
	}
	for _, q := range [][3]string{{"POST", "/metrics", "localhost"}, {"GET", "/", "localhost"}, {"GET", "/metrics", "evil.example"}, {"GET", "/debug/pprof/", "localhost"}} {
		if status, _ := ask(q[0], q[1], q[2]); status < 400 {
			t.Errorf("%s: %d", fmt.Sprint(q), status)
		}
	}
	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("it ends with %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("it does not end")
	}
	if _, err := Listen("127.0.0.1:not"); err == nil || errors.Is(err, ErrNotLocal) {
		t.Errorf("a port that is none: %v", err)
	}
}
