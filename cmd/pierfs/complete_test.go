package main

import (
	"context"
	"slices"
	"strings"
	"testing"

	"pierfs/cmd/internal/control"
	"pierfs/conncfg"
)

// completions returns what the shell is told to offer.
func (s *stand) completions(args ...string) []string {
	s.t.Helper()
	status, out, errOut := s.hand("", append([]string{"__completeNoDesc"}, args...)...)
	if status != 0 {
		s.t.Errorf("complete %q: %d, %s", args, status, errOut)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) == 0 || !strings.HasPrefix(lines[len(lines)-1], ":") {
		s.t.Fatalf("complete %q has no end: %q", args, out)
	}
	return lines[:len(lines)-1]
}

// What is offered behind each command is what is there, and what the names of a server could do to a terminal is not.
func TestCompletionsAreLive(t *testing.T) {
	s := newStand(t, func(s *control.Server) {
		control.List.Serve(s, func(context.Context, control.ListRequest) (control.ListAnswer, error) {
			return control.ListAnswer{Environments: []control.Environment{{Name: "Test", Active: true}, {Name: "Production"}},
				Connections: []control.Connection{{Name: "bank", Environment: "Test"}, {Name: "bank", Environment: "Production"}, {Name: "shop/orders", Environment: "Test"}, {Name: "/mnt/x", AdHoc: true}}}, nil
		})
		control.Vars.Serve(s, func(context.Context, control.VarsRequest) (control.VarsAnswer, error) {
			return control.VarsAnswer{Variables: []control.Variable{{Name: "shop.host"}, {Name: "shop.password", Secret: true}}}, nil
		})
		control.Queue.Serve(s, func(_ context.Context, _ control.QueueRequest, send func(control.Due) error) error {
			return send(control.Due{ID: 17})
		})
		control.History.Serve(s, func(context.Context, control.HistoryRequest) (control.HistoryAnswer, error) {
			return control.HistoryAnswer{Revisions: []control.Revision{{Revision: 3}, {Revision: 12}}}, nil
		})
		control.Ls.Serve(s, func(_ context.Context, q control.LsRequest, send func(control.File) error) error {
			if q.Connection != "bank" || q.Path != "/in" {
				return control.Errorf(control.NotFound, "%s: no such directory", q.Path)
			}
			for _, f := range []control.File{{Name: "a.csv", Type: "file"}, {Name: "archive", Type: "directory"}, {Name: "a\x1b]0;evil\x07", Type: "file"}, {Name: "b", Type: "file"}} {
				if err := send(f); err != nil {
					return err
				}
			}
			return nil
		})
	})
	for _, c := range []struct {
		line string
		want []string
	}{
		{"show ", []string{"bank", "shop/orders"}},
		{"show s", []string{"shop/orders"}},
		{"show bank ", nil},
		{"export bank ", []string{"shop/orders"}},
		{"env use ", []string{"Production", "Test"}},
		{"env use Test ", []string{"Production"}},
		{"list --env P", []string{"Production"}},
		{"vars set shop.p", []string{"shop.password"}},
		{"vars set shop.host ", nil},
		{"queue retry bank ", []string{"17"}},
		{"rollback bank 1", []string{"12"}},
		{"ls ba", []string{"bank:/"}},
		{"ls bank:/in/a", []string{"bank:/in/a.csv", "bank:/in/archive/"}},
		{"put report.csv bank:/in/b", []string{"bank:/in/b"}},
		{"ls bank:/none/", nil},
		{"edit bank --set privateKeyP", []string{"privateKeyPassphrase="}},
		{"completion ", []string{"bash", "fish", "zsh"}},
		{"queue re", []string{"retry"}},
	} {
		if got := s.completions(strings.Split(c.line, " ")...); !slices.Equal(got, c.want) {
			t.Errorf("pierfs %s<Tab> offers %q, want %q", c.line, got, c.want)
		}
	}
	if got := s.completions("create", "x", "--set", ""); len(got) != len(conncfg.FieldNames()) {
		t.Errorf("--set offers %d fields of %d", len(got), len(conncfg.FieldNames()))
	}
	for _, flag := range []string{"--runtime-dir", "--config-dir"} {
		_, out, _ := s.hand("", "__completeNoDesc", "list", flag, "")
		if !strings.Contains(out, ":16\n") { // only directories
			t.Errorf("%s offers %q", flag, out)
		}
	}
}

// Where no daemon answers nothing is offered, and nothing is said: it would stand in the middle of the command line.
func TestCompletionsWithoutADaemon(t *testing.T) {
	s := &stand{t: t, run: t.TempDir()}
	for _, line := range []string{"show ", "ls bank:/", "vars set ", "list --env ", "queue retry bank ", "rollback bank "} {
		if got := s.completions(strings.Split(line, " ")...); len(got) != 0 {
			t.Errorf("pierfs %s<Tab> offers %q", line, got)
		}
	}
}

// Every command that takes something says what may stand there, or is known to take only new names and numbers.
func TestEveryPlaceIsCompleted(t *testing.T) {
	free := []string{"name check", "env create", "copy"}
	for _, c := range commandsBelow((&hand{}).command()) {
		name := strings.TrimPrefix(c.CommandPath(), "pierfs ")
		takes := strings.Contains(c.Use, " ") && !c.HasSubCommands()
		if takes && c.Runnable() && len(offersOf(name)) == 0 && !slices.Contains(free, name) {
			t.Errorf("nothing is offered behind pierfs %s", c.Use)
		}
	}
}
