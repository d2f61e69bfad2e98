package daemon

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"pierfs/cmd/internal/control"
	"pierfs/cmd/internal/dirs"
	"pierfs/conncfg"
)

// tests remembers which revision of which connection passed a test last, beyond the end of the daemon. The zero value knows of none
// and keeps nothing.
type tests struct {
	mu     sync.Mutex
	file   string // "" keeps nothing
	passed map[string]pass
}

// pass is a test that went well.
type pass struct {
	Revision string    `json:"revision"`
	At       time.Time `json:"at"`
}

// open reads what is kept in stateDir. What cannot be read counts as never tested.
func (s *tests) open(stateDir string, log *slog.Logger) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.file = filepath.Join(stateDir, "tested.json")
	text, err := os.ReadFile(s.file)
	if err == nil {
		err = json.Unmarshal(text, &s.passed)
	}
	if err != nil && !os.IsNotExist(err) {
		s.passed = nil
		log.Warn("which connections were tested is not known any more", "file", s.file, "err", err)
	}
}

// note remembers that revision of k has passed a test.
func (s *tests) note(k key, revision string, at time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == "" {
		return nil
	}
	passed := maps.Clone(s.passed)
	if passed == nil {
		passed = map[string]pass{}
	}
	passed[k.environment+"/"+k.name] = pass{revision, at.UTC().Truncate(time.Second)}
	text, err := json.MarshalIndent(passed, "", "\t")
	if err != nil {
		return err
	}
	s.passed = passed
	return dirs.Replace(s.file, append(text, '\n'), 0o600)
}

// mark tells in c whether revision, which it has, was tested, and when any was.
func (s *tests) mark(c control.Connection, revision string) control.Connection {
	if c.AdHoc {
		return c
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.passed[c.Environment+"/"+c.Name]
	c.Tested, c.Untested = p.At, p.Revision != revision
	return c
}

// checklist is what is to be seen to of connections that an apply touches, and of those that were changed since they were tested.
func (d *Daemon) checklist(plan Plan, a control.ApplyAnswer) (all []control.Checked) {
	for _, w := range plan.Wants {
		touched := slices.Contains(a.Added, label(w)) || slices.Contains(a.Changed, label(w))
		tested := d.tests.mark(control.Connection{Name: w.Name, Environment: w.Environment}, w.Revision)
		if !w.Enabled || !touched && !tested.Untested {
			continue
		}
		c := control.Checked{Name: w.Name, Environment: w.Environment, UniqueName: true, Tested: tested.Tested, Untested: tested.Untested}
		for _, f := range plan.Findings {
			switch {
			case f.Connection != w.Name || f.Environment != "" && f.Environment != w.Environment:
			case f.Code == conncfg.CodeMissing && !slices.Contains(c.Missing, f.Field):
				c.Missing = append(c.Missing, f.Field)
			case f.Code == conncfg.CodeNameTaken || f.Code == conncfg.CodeNameCase:
				c.UniqueName = false
			}
		}
		all = append(all, c)
	}
	return all
}

// testedAs returns what remembers that the connection of q, as it is written now, has passed a test; nil if it is not a stored one.
func (d *Daemon) testedAs(ctx context.Context, q control.TestRequest) func() {
	if !q.Definition.IsZero() || strings.HasPrefix(q.Name, "/") || d.private {
		return nil
	}
	config, environment, err := d.readPlan(ctx).at(q.Environment)
	if err != nil || config.Connection(q.Name) == nil {
		return nil
	}
	revision := config.Revision(q.Name, environment)
	return func() {
		if err := d.tests.note(key{environment, q.Name}, revision, time.Now()); err != nil {
			d.log.Warn("that a test passed cannot be kept", "conn", q.Name, "env", environment, "err", err)
		}
	}
}
