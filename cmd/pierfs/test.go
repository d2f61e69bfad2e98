package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"pierfs/cmd/internal/control"
	"pierfs/cmd/internal/terminal"
)

// tested is what test prints as JSON.
type tested struct {
	OK    bool           `json:"ok"`
	Steps []control.Step `json:"steps"`
	Error *control.Error `json:"error,omitempty"`
}

func (h *hand) testCommand() *cobra.Command {
	return &cobra.Command{Use: "test NAME|FILE|-", Short: "Try a connection step by step: a defined one, or one in a file or on standard input",
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			q, err := h.testRequest(args[0])
			if err != nil {
				return err
			}
			c, done, err := h.served(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			t := tested{Steps: []control.Step{}}
			for step, err := range control.Test.Call(cmd.Context(), c, q) {
				if err != nil {
					t.Error = asControl(err)
					break
				}
				t.Steps = append(t.Steps, step)
				if !h.asJSON {
					h.printStep(step)
				}
			}
			t.OK = t.Error == nil
			return h.printTested(t)
		}}
}

// maxDefinition bounds what is read as a definition.
const maxDefinition = 512 << 10

// testRequest takes "-" and names that look like files as definitions, directories as what is mounted on them, the rest as
// names.
func (h *hand) testRequest(what string) (control.TestRequest, error) {
	q := control.TestRequest{Environment: h.environment}
	var text []byte
	var err error
	switch {
	case what == "-":
		text, err = io.ReadAll(io.LimitReader(h.in, maxDefinition))
	case strings.HasSuffix(what, ".toml") || strings.HasPrefix(what, "/") || strings.HasPrefix(what, "."):
		switch info, statErr := os.Stat(what); {
		case statErr == nil && info.IsDir():
			q.Name, err = realDir(what)
			return q, err
		case statErr == nil && info.Size() > maxDefinition:
			return q, control.Errorf(control.BadData, "%s is too long for a definition", what)
		}
		q.Name = strings.TrimSuffix(filepath.Base(what), ".toml")
		text, err = os.ReadFile(what)
	default:
		q.Name = what
		return q, nil
	}
	if err == nil && strings.TrimSpace(string(text)) == "" {
		err = control.Errorf(control.BadData, "the definition is empty")
	}
	q.Definition = control.Seal(string(text))
	return q, err
}

func (h *hand) printStep(s control.Step) {
	word := "ok    "
	if !s.OK {
		word = "FAILED"
	}
	fmt.Fprintf(h.out, "%-11s %s %8.1f ms  %s\n", terminal.Quote(s.Step), word, s.Millis, terminal.Quote(s.Detail))
}

func (h *hand) printTested(t tested) error {
	switch {
	case h.asJSON:
		if err := h.json(t); err != nil {
			return err
		}
	case t.OK:
		_, err := fmt.Fprintln(h.out, "the connection works: login and listing ok; no write was tried")
		return err
	default:
		if n := len(t.Steps); n == 0 || t.Steps[n-1].OK || t.Steps[n-1].Detail != t.Error.Text { // else it has just been said
			fmt.Fprintf(h.err, "pierfs: %s\n", terminal.Quote(t.Error.Text))
		}
		h.wayOut(h.err, t.Error.Findings, "")
		if t.Error.Cause != "" {
			fmt.Fprintf(h.err, "  cause: %s\n", terminal.Quote(t.Error.Cause))
		}
		if t.Error.Hint != "" {
			fmt.Fprintf(h.err, "  fix: %s\n", terminal.Quote(t.Error.Hint))
		}
	}
	if !t.OK {
		return silent{t.Error.Code}
	}
	return nil
}
