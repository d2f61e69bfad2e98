package worlds

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"pierfs/integration/daemon"
	"pierfs/integration/process"
)

// world is one in which a connection does not work: what is wrong, what must be said of it, and what is done about it as the fix says.
type world struct {
	name       string
	definition fields
	flags      []string           // of pierfs test
	before     func(t *testing.T) // breaks what cannot stay broken beside other worlds

	cause  string   // the one word that must come out
	fix    []string // words that the fix must have
	says   []string // words that the failure must have, such as the server's own
	mended fields   // what the fix has changed in the definition
	mend   func(t *testing.T)
}

// stage is where worlds are tried: a daemon in which nothing is defined.
type stage struct {
	*daemon.Daemon

	mu    sync.Mutex
	tried map[string][]string // names by cause
}

// test runs `pierfs test` on a definition that nobody has saved.
func (s *stage) test(t *testing.T, f fields, flags ...string) tested {
	t.Helper()
	r := s.PierfsWith(t, daemon.Call{Stdin: "name = \"world\"\n" + define(f)}, append([]string{"test", "-", "--json"}, flags...)...)
	answer := tested{status: r.Status, raw: r.Stdout + r.Stderr}
	if err := json.Unmarshal([]byte(r.Stdout), &answer); err != nil {
		t.Fatalf("pierfs test: exit %d, %v\n%s", r.Status, err, answer.raw)
	}
	return answer
}

// try breaks, asks, mends and asks again.
func (s *stage) try(t *testing.T, w world) {
	t.Helper()
	s.mu.Lock()
	s.tried[w.cause] = append(s.tried[w.cause], w.name)
	s.mu.Unlock()
	if w.before != nil {
		w.before(t)
	}
	got := s.test(t, w.definition, w.flags...)
	if got.OK || got.status == 0 || got.Error.Cause != w.cause {
		t.Errorf("exit %d, cause %q, want %s\n%s", got.status, got.Error.Cause, w.cause, got.raw)
	}
	for _, words := range w.fix {
		if !strings.Contains(got.Error.Hint, words) {
			t.Errorf("the fix is %q, and does not say %q", got.Error.Hint, words)
		}
	}
	for _, words := range w.says {
		if !strings.Contains(got.Error.Text, words) {
			t.Errorf("the failure is told as %q, without %q", got.Error.Text, words)
		}
	}
	if got.Error.Hint == "" || got.Error.Text == "" {
		t.Errorf("without a fix or the server's words\n%s", got.raw)
	}
	for _, step := range got.Steps {
		if step.MS == nil {
			t.Errorf("step %s has no time", step.Step)
		}
	}
	if w.mend != nil {
		w.mend(t)
	}
	mended := with(w.definition, w.mended)
	for deadline := time.Now().Add(process.Patience); ; { // a server may take a moment to notice
		got = s.test(t, mended, w.flags...)
		if got.OK && got.status == 0 {
			break
		}
		if w.mend == nil || time.Now().After(deadline) {
			t.Errorf("the fix is applied, and it does not work: exit %d, cause %q\n%s", got.status, got.Error.Cause, got.raw)
			break
		}
	}
	for _, step := range got.Steps {
		if len(step.Left) > 0 {
			t.Errorf("left at the server: %q", step.Left)
		}
	}
}

// group is worlds that share servers, tried one after the other.
type group func(t *testing.T) []world

// groups returns all of them.
func groups() map[string]group {
	return map[string]group{
		"sshd": sshdWorlds, "sshdKeys": keyWorlds, "sshdOdd": oddSSHWorlds, "sshdFull": fullSSHWorlds, "sshdAccount": accountWorlds,
		"reach": reachWorlds, "ftp": ftpWorlds, "ftps": ftpsWorlds, "certificates": certificateWorlds, "oldTLS": oldTLSWorlds,
		"ftpFull": fullFTPWorlds, "ftpWriting": ftpWritingWorlds, "account": accountWanted,
	}
}

// TestWorlds: rows 25, 58, 106 to 112, 114 and 115 of the requirements. In each broken world `pierfs test` names the one cause, and what it
// tells to do, done, makes it pass.
// Holds rows 25, 56, 58, 100, 106, 107, 108, 109, 110, 111, 112, 114 and 115 of the requirements.
func TestWorlds(t *testing.T) {
	t.Parallel()
	programs, err := built()
	if err != nil {
		t.Fatal(err)
	}
	s := &stage{Daemon: daemon.New(t, programs), tried: map[string][]string{}}
	s.Start(t)
	t.Run("in", func(t *testing.T) {
		for name, group := range groups() {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				for _, w := range group(t) {
					t.Run(w.name, func(t *testing.T) { s.try(t, w) })
				}
			})
		}
	})
	count := 0
	for _, names := range s.tried {
		count += len(names)
	}
	if count < 30 && !t.Failed() {
		t.Errorf("%d worlds, want 30 at the least", count)
	}
	for _, cause := range causes(t) {
		if s.tried[cause] == nil && !slices.Contains(elsewhere, cause) && count >= 30 {
			t.Errorf("no world has the cause %s", cause)
		}
	}
}

// elsewhere are causes that no test of a connection can have: it is not spared, and no server here damages what it is sent.
var elsewhere = []string{"offline", "upload_mismatch"}

// causes returns every word that the seam has for what keeps a connection from working.
func causes(t *testing.T) (words []string) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "../../backends/error.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || !strings.HasPrefix(spec.Names[0].Name, "Cause") || len(spec.Values) == 0 {
			return true
		}
		if value, ok := spec.Values[0].(*ast.BasicLit); ok {
			word, err := strconv.Unquote(value.Value)
			if err != nil {
				t.Fatal(err)
			}
			words = append(words, word)
		}
		return true
	})
	if len(words) < 30 {
		t.Fatalf("found only %q", words)
	}
	return words
}
