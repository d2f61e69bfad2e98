package deployments

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pierfs/cmd/internal/control"
)

func open(t *testing.T, path string, limits Limits) *Log {
	t.Helper()
	l, err := Open(path, limits, func(err error) { t.Errorf("sync: %v", err) })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func add(t *testing.T, l *Log, name string, try int) {
	t.Helper()
	if err := l.Add(control.Deployment{Name: name, Try: try, Phase: "tcp", Reason: strings.Repeat("r", 100)}); err != nil {
		t.Fatalf("add %s %d: %v", name, try, err)
	}
}

func kept(t *testing.T, l *Log) map[string][]int {
	t.Helper()
	all := map[string][]int{}
	for d, err := range l.All() {
		if err != nil {
			t.Fatal(err)
		}
		all[d.Name] = append(all[d.Name], d.Try)
	}
	return all
}

// Row 59 of the requirements: what was attempted is there after a restart, also where the last line was torn.
func TestAttemptsOutliveTheProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l := open(t, path, Limits{})
	add(t, l, "bank", 1)
	add(t, l, "bank", 2)
	if got := fmt.Sprint(kept(t, l)); got != "map[bank:[1 2]]" { // before Close, which a kill would spare
		t.Errorf("the running log has %s", got)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Add(control.Deployment{}); err == nil {
		t.Error("a closed log takes one more")
	}
	torn, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := torn.WriteString(`{"name":"ba`); err != nil {
		t.Fatal(err)
	}
	torn.Close()
	l = open(t, path, Limits{})
	defer l.Close()
	add(t, l, "bank", 3)
	if got := fmt.Sprint(kept(t, l)); got != "map[bank:[1 2 3]]" {
		t.Errorf("behind a torn line the log has %s", got)
	}
}

// The log is bounded, and a connection that fails all the time does not drive out what is known of the others.
func TestLogIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	limits := Limits{Bytes: 8 << 10, Each: 5}
	l := open(t, path, limits)
	defer l.Close()
	add(t, l, "quiet", 1)
	for try := range 500 {
		add(t, l, "loud", try+1)
		if info, err := os.Stat(path); err != nil || info.Size() > limits.Bytes {
			t.Fatalf("after %d attempts the file has %v, %v; want at most %d bytes", try+1, info.Size(), err, limits.Bytes)
		}
	}
	got := kept(t, l)
	loud := got["loud"]
	if len(got["quiet"]) != 1 || len(loud) < limits.Each || loud[len(loud)-1] != 500 {
		t.Errorf("kept is %v; want the one of quiet, and the latest of loud", got)
	}
	for i := 1; i < len(loud); i++ {
		if loud[i] != loud[i-1]+1 {
			t.Errorf("the attempts of loud are %v; want them in order", loud)
		}
	}
}
