package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"pierfs/cmd/internal/control"
	"pierfs/cmd/internal/terminal"
)

// tested is what test prints as JSON.
type tested struct {
	OK    bool           `json:"ok"`
	Steps []control.Step `json:"steps"`
	// Proven and NotProven say what the steps show of the connection, and what they leave open.
	Proven    []string `json:"proven"`
	NotProven []string `json:"notProven"`
	// Records is the command that shows what the daemon has noted of the connection; "" for one that is not stored.
	Records string         `json:"records,omitempty"`
	Error   *control.Error `json:"error,omitempty"`
}

// testFlags are what is tried besides logging in and listing.
type testFlags struct{ write, privileges, verbose bool }

func (h *hand) testCommand() *cobra.Command {
	var f testFlags
	cmd := &cobra.Command{Use: "test NAME|FILE|-", Short: "Try a connection step by step: a defined one, or one in a file or on standard input",
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			q, err := h.testRequest(args[0])
			if err != nil {
				return err
			}
			q.WriteProbe, q.Privileges = f.write, f.privileges
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
					h.printTrace(step, f.verbose)
				}
			}
			t.OK = t.Error == nil
			if t.Error != nil && q.Definition.IsZero() && !strings.HasPrefix(q.Name, "/") {
				t.Records = "pierfs deployments " + q.Name
			}
			t.judge(f)
			return h.printTested(t)
		}}
	cmd.Flags().BoolVarP(&f.verbose, "verbose", "v", false, "show what was said to and from the server before a step failed")
	cmd.Flags().BoolVar(&f.write, "write-probe", false, "write a file of a name of its own, replace, read and remove it")
	cmd.Flags().BoolVar(&f.privileges, "privileges", false, "try what the login may do, on names of our own")
	return cmd
}

// printTrace shows what was said before a step failed, to whoever wants to know.
func (h *hand) printTrace(s control.Step, verbose bool) {
	if !verbose {
		return
	}
	for _, line := range s.Trace {
		_ = printTraceLine(h.out, line) // the step itself was printed there
	}
}

// judge fills in what was proven. Whatever stands behind the step that failed was not.
func (t *tested) judge(f testFlags) {
	t.Proven, t.NotProven = []string{}, []string{}
	for _, claim := range []struct{ step, words, unless string }{
		{"tcp", "the server is reached", ""},
		{"tls", "it proves who it is", ""},
		{"ssh", "it proves who it is", ""},
		{"auth", "the login", ""},
		{"list", "listing of workingDir", ""},
		{"remove", "writing: a temporary name, renaming, replacing, reading, removing", "writing (--write-probe tries it)"},
		{"privileges", "what the login may do", "what the login may do (--privileges tries it)"},
	} {
		done := slices.ContainsFunc(t.Steps, func(s control.Step) bool { return s.Step == claim.step && s.OK })
		tried := claim.step == "remove" && f.write || claim.step == "privileges" && f.privileges
		switch {
		case done:
			t.Proven = append(t.Proven, claim.words)
		case claim.unless != "" && !tried:
			t.NotProven = append(t.NotProven, claim.unless)
		case claim.unless != "" || t.Error != nil && claim.step != "tls" && claim.step != "ssh":
			t.NotProven = append(t.NotProven, claim.words)
		}
	}
	t.NotProven = append(t.NotProven, "large files and long transfers")
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
			return q, control.Errorf(control.BadData, "%s is too long for a definition", what).WithHint("`pierfs test NAME` takes one connection; docs/DEFINITIONS.md shows a definition")
		}
		q.Name = strings.TrimSuffix(filepath.Base(what), ".toml")
		text, err = os.ReadFile(what)
	default:
		q.Name = what
		return q, nil
	}
	if err == nil && strings.TrimSpace(string(text)) == "" {
		err = control.Errorf(control.BadData, "the definition is empty").WithHint("`pierfs manual pierfs.toml.5` shows one")
	}
	q.Definition = control.Seal(string(text))
	return q, err
}

func (h *hand) printStep(s control.Step) {
	name, word := s.Step, "ok    "
	switch {
	case !s.OK:
		word = "FAILED"
	case s.May != "":
		name, word = "  "+s.Privilege, fmt.Sprintf("%-6s", s.May)
	}
	fmt.Fprintf(h.out, "%-11s %s %8.1f ms  %s\n", terminal.Quote(name), word, s.Millis, terminal.Quote(s.Detail))
	if s.Warning != "" {
		fmt.Fprintf(h.out, "  warning: %s\n", terminal.Quote(s.Warning))
	}
}

func (h *hand) printTested(t tested) error {
	switch {
	case h.asJSON:
		if err := h.json(t); err != nil {
			return err
		}
	case t.OK:
		_, err := fmt.Fprintf(h.out, "the connection works\n  proven: %s\n  not proven: %s\n", strings.Join(t.Proven, "; "), strings.Join(t.NotProven, "; "))
		return err
	default:
		if last := t.failed(); last == nil || last.Detail != t.Error.Text { // else it has just been said
			fmt.Fprintf(h.err, "pierfs: %s\n", terminal.Quote(t.Error.Text))
		}
		h.wayOut(h.err, t.Error.Findings, "")
		if t.Error.Cause != "" {
			fmt.Fprintf(h.err, "  cause: %s\n", terminal.Quote(t.Error.Cause))
		}
		if t.Error.Hint != "" {
			fmt.Fprintf(h.err, "  fix: %s\n", terminal.Quote(t.Error.Hint))
		}
		if t.Records != "" {
			fmt.Fprintf(h.err, "  records: %s\n", terminal.Quote(t.Records))
		}
	}
	if !t.OK {
		return silent{t.Error.Code}
	}
	return nil
}

// failed returns the last step that went wrong; nil if none did.
func (t tested) failed() *control.Step {
	for _, s := range slices.Backward(t.Steps) {
		if !s.OK {
			return &s
		}
	}
	return nil
}
