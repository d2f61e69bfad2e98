package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"pierfs/cmd/internal/control"
	"pierfs/cmd/internal/terminal"
	"pierfs/conncfg"
)

// status is an exit status that is an answer and no failure.
type status int

func (s status) Error() string { return "exit status " + strconv.Itoa(int(s)) }

// changeFlags are those of every command that changes definitions.
type changeFlags struct {
	options control.ChangeOptions
	owed    owedFlags
	offline bool
}

// made has the change q made, whose options are o, and with --wait again each time that the server has what it was refused for.
func made[Q any](ctx context.Context, h *hand, f changeFlags, name string, verb control.Verb[Q, control.ChangeAnswer], q *Q, o *control.ChangeOptions) (a control.ChangeAnswer, err error) {
	if err := f.owed.check(); err != nil {
		return a, err
	}
	*o = f.options
	o.Keep = f.owed.keep
	err = h.paid(ctx, f.owed, name, func() (err error) {
		a, err = verb.Call(ctx, h.client(), *q)
		return err
	})
	return a, err
}

func (f *changeFlags) add(cmd *cobra.Command) {
	set := cmd.Flags()
	set.BoolVarP(&f.options.DryRun, "dry-run", "n", false, "tell what would change and whom it affects, and change nothing")
	set.BoolVar(&f.options.Force, "force", false, "also where programs have files open or something is owed to the server")
	f.owed.add(cmd)
	set.StringVar(&f.options.Reason, "reason", "", "why, for the log")
	offlineFlag(cmd, &f.offline)
}

// defineFlags are what a definition is made of on the command line.
type defineFlags struct {
	changeFlags
	fields   []string
	unset    []string
	disabled bool
	password string
	ask      bool
}

func (f *defineFlags) add(cmd *cobra.Command) {
	f.changeFlags.add(cmd)
	set := cmd.Flags()
	set.StringArrayVarP(&f.fields, "set", "s", nil, "FIELD=VALUE, or ENV.FIELD=VALUE for one environment; may be repeated")
	set.StringVar(&f.password, "password-file", "", "read the password from this file's first line, and store it encrypted; - reads it from standard input")
	set.BoolVar(&f.ask, "ask-password", false, "ask for the password, and store it encrypted")
}

// settings takes FIELD=VALUE apart. A secret must not stand there: everybody could read it in the list of processes.
func (h *hand) settings(f defineFlags, environment string) ([]control.Setting, error) {
	var all []control.Setting
	take := func(text string, unset bool) error {
		field, value, given := strings.Cut(text, "=")
		s := control.Setting{Environment: environment, Field: field, Value: value, Unset: unset}
		if i := strings.LastIndexByte(field, '.'); i >= 0 {
			s.Environment, s.Field = field[:i], field[i+1:]
		}
		switch {
		case !given && !unset:
			return usageError{fmt.Errorf("--set %s is no FIELD=VALUE", field)}
		case slices.Contains(conncfg.Secrets(), s.Field) && !unset && !strings.HasPrefix(value, "${"):
			return usageError{fmt.Errorf("%s on the command line could be read by everybody on this machine: give it with --password-file FILE or --ask-password, or write ${variable}", s.Field)}
		}
		all = append(all, s)
		return nil
	}
	for _, text := range f.fields {
		if err := take(text, false); err != nil {
			return nil, err
		}
	}
	for _, text := range f.unset {
		if err := take(text, true); err != nil {
			return nil, err
		}
	}
	if f.disabled {
		all = append(all, control.Setting{Field: "enabled", Value: "false"})
	}
	secret, given, err := h.secret(f.password, f.ask, "password")
	if given && err == nil {
		all = append(all, control.Setting{Environment: environment, Field: "password", Secret: control.Seal(secret)})
	}
	return all, err
}

// secret reads a secret from a file, from standard input or from a person, who is asked twice.
func (h *hand) secret(file string, ask bool, what string) (text string, given bool, err error) {
	switch {
	case file == "-":
		text, err = firstLine(h.in)
	case file != "":
		var f *os.File
		if f, err = os.Open(file); err == nil {
			defer f.Close()
			text, err = firstLine(f)
		}
	case ask && !isTerminal(h.in):
		kind, _, _ := strings.Cut(what, " ")
		err = usageError{errors.New("there is no terminal to ask for the " + what + " at: give it with --" + kind + "-file FILE; - is standard input")}
	case ask:
		text, err = h.askTwice(what)
	default:
		return "", false, nil
	}
	if err == nil && text == "" {
		err = usageError{errors.New("the " + what + " is empty")}
	}
	return text, true, err
}

func (h *hand) askTwice(what string) (string, error) {
	fd := int(h.in.(*os.File).Fd())
	fmt.Fprintf(h.err, "%s: ", what)
	first, err := term.ReadPassword(fd)
	fmt.Fprintf(h.err, "\nonce more: ")
	second, again := term.ReadPassword(fd)
	fmt.Fprintln(h.err)
	if err = errors.Join(err, again); err == nil && string(first) != string(second) {
		err = usageError{errors.New("the two differ")}
	}
	return string(first), err
}

// definition reads a definition from a file or, with "-", from standard input.
func (h *hand) definition(name string) (control.Sealed, error) {
	var text []byte
	var err error
	if name == "-" {
		text, err = io.ReadAll(io.LimitReader(h.in, maxDefinition+1))
	} else {
		text, err = os.ReadFile(name)
	}
	switch {
	case err != nil:
		return control.Sealed{}, err
	case len(text) > maxDefinition:
		return control.Sealed{}, control.Errorf(control.BadData, "%s is too long for a definition", name).WithHint("one connection is one file: `pierfs create NAME FILE` takes them one by one")
	case strings.TrimSpace(string(text)) == "":
		return control.Sealed{}, control.Errorf(control.BadData, "the definition is empty").WithHint("docs/DEFINITIONS.md shows one")
	}
	return control.Seal(string(text)), nil
}

func (h *hand) createCommand() *cobra.Command {
	var f defineFlags
	cmd := &cobra.Command{Use: "create NAME [FILE|-]", Short: "Define a connection, from a file, from standard input or from --set", Args: args(cobra.RangeArgs(1, 2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			q := control.CreateRequest{Name: args[0]}
			var err error
			if len(args) == 2 {
				if q.Definition, err = h.definition(args[1]); err != nil {
					return err
				}
			}
			if q.Set, err = h.settings(f, ""); err != nil {
				return err
			}
			if len(args) == 1 && len(q.Set) == 0 {
				return usageError{errors.New("there is nothing to define it from: name a FILE, -, or fields with --set")}
			}
			a, err := made(cmd.Context(), h, f.changeFlags, args[0], control.Create, &q, &q.ChangeOptions)
			return h.changed(a, err, f.changeFlags)
		}}
	f.add(cmd)
	cmd.Flags().BoolVar(&f.disabled, "disabled", false, "define it switched off; `pierfs enable` switches it on")
	return cmd
}

func (h *hand) editCommand() *cobra.Command {
	var f defineFlags
	cmd := &cobra.Command{Use: "edit NAME [FILE|-]", Short: "Change a definition: single fields, the whole of it, or in an editor", Args: args(cobra.RangeArgs(1, 2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			q := control.EditRequest{Name: args[0]}
			var err error
			if q.Set, err = h.settings(f, h.environment); err != nil {
				return err
			}
			switch {
			case len(args) == 2:
				q.Definition, err = h.definition(args[1])
			case len(q.Set) == 0:
				err = h.inEditor(cmd.Context(), &q)
			}
			if err != nil {
				return err
			}
			a, err := made(cmd.Context(), h, f.changeFlags, args[0], control.Edit, &q, &q.ChangeOptions)
			return h.changed(a, err, f.changeFlags)
		}}
	f.add(cmd)
	cmd.Flags().StringArrayVarP(&f.unset, "unset", "u", nil, "FIELD or ENV.FIELD to take out; may be repeated")
	return cmd
}

// inEditor has a person edit the text of a definition.
func (h *hand) inEditor(ctx context.Context, q *control.EditRequest) error {
	editor := os.Getenv("VISUAL")
	if editor == "" {
		editor = os.Getenv("EDITOR")
	}
	if editor == "" || !isTerminal(h.in) {
		return usageError{errors.New("there is nothing to change: name fields with --set or --unset, a FILE or -; or set $EDITOR, at a terminal")}
	}
	a, err := control.Read.Call(ctx, h.client(), control.ReadRequest{Name: q.Name})
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "pierfs-edit-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, filepath.Base(q.Name)+".toml")
	if err := os.WriteFile(file, []byte(a.Text), 0o600); err != nil {
		return err
	}
	words := append(strings.Fields(editor), file)
	cmd := exec.CommandContext(ctx, words[0], words[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = h.in, h.out, h.err
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", words[0], err)
	}
	q.Was = a.Was
	q.Definition, err = h.definition(file)
	return err
}

func (h *hand) copyCommand() *cobra.Command {
	var f changeFlags
	cmd := &cobra.Command{Use: "copy NAME NEW", Short: "Define a connection like another one", Args: args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			q := control.CopyRequest{Name: args[0], To: args[1]}
			a, err := made(cmd.Context(), h, f, args[0], control.Copy, &q, &q.ChangeOptions)
			return h.changed(a, err, f)
		}}
	f.add(cmd)
	return cmd
}

func (h *hand) moveCommand() *cobra.Command {
	var f changeFlags
	cmd := &cobra.Command{Use: "move-to-global PROJECT/NAME", Short: "Make a project's connection a global one", Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, name, inProject := strings.Cut(args[0], "/")
			if !inProject {
				return usageError{fmt.Errorf("%s is a global connection already", args[0])}
			}
			q := control.CopyRequest{Name: args[0], To: name, Move: true}
			a, err := made(cmd.Context(), h, f, args[0], control.Copy, &q, &q.ChangeOptions)
			return h.changed(a, err, f)
		}}
	f.add(cmd)
	return cmd
}

func (h *hand) deleteCommand() *cobra.Command {
	var f changeFlags
	var yes string
	var noBackup bool
	cmd := &cobra.Command{Use: "delete NAME", Short: "Delete a definition, after telling who uses it", Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			q := control.DeleteRequest{Name: args[0], ChangeOptions: f.options}
			if !f.options.DryRun {
				first := q
				first.DryRun = true
				a, err := control.Delete.Call(cmd.Context(), h.client(), first)
				if err != nil {
					return err
				}
				if err := h.confirm(args[0], yes, a); err != nil {
					return err
				}
				if !noBackup {
					file, err := h.backup(cmd.Context(), args[0])
					if err != nil {
						return err
					}
					fmt.Fprintf(h.err, "kept, without secrets: %s\n", terminal.Quote(file))
				}
			}
			a, err := made(cmd.Context(), h, f, args[0], control.Delete, &q, &q.ChangeOptions)
			return h.changed(a, err, f)
		}}
	f.add(cmd)
	cmd.Flags().StringVar(&yes, "yes", "", "the name once more, where nobody can be asked for it")
	cmd.Flags().BoolVar(&noBackup, "no-backup", false, "write no export into the working directory first")
	return cmd
}

func (h *hand) replaceCommand() *cobra.Command {
	var f changeFlags
	var yes string
	cmd := &cobra.Command{Use: "replace OLD NEW", Short: "Delete a definition, and have another one take its place", Args: args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			q := control.ReplaceRequest{Name: args[0], To: args[1], ChangeOptions: f.options}
			if !f.options.DryRun {
				first := q
				first.DryRun = true
				a, err := control.Replace.Call(cmd.Context(), h.client(), first)
				if err != nil {
					return err
				}
				if err := h.confirm(args[0], yes, a); err != nil {
					return err
				}
			}
			a, err := made(cmd.Context(), h, f, args[0], control.Replace, &q, &q.ChangeOptions)
			return h.changed(a, err, f)
		}}
	f.add(cmd)
	cmd.Flags().StringVar(&yes, "yes", "", "OLD once more, where nobody can be asked for it")
	return cmd
}

// confirm wants the name once more, from --yes or from a person who has seen whom it affects.
func (h *hand) confirm(name, yes string, a control.ChangeAnswer) error {
	switch {
	case yes == name:
		return nil
	case yes != "":
		return usageError{fmt.Errorf("--yes=%s is not %s, and nothing was done", yes, name)}
	case !isTerminal(h.in):
		if err := h.printImpact(h.err, a.Impact); err != nil {
			return err
		}
		return usageError{fmt.Errorf("nobody can be asked whether %s is meant: give --yes=%s", name, name)}
	}
	if err := h.printImpact(h.err, a.Impact); err != nil {
		return err
	}
	fmt.Fprintf(h.err, "type %s to go on: ", terminal.Quote(name))
	line, err := bufio.NewReader(h.in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if strings.TrimSpace(line) != name {
		return usageError{errors.New("that was another name, and nothing was done")}
	}
	return nil
}

func (h *hand) diffCommand() *cobra.Command {
	return &cobra.Command{Use: "diff NAME FILE|-", Short: "Tell how a definition differs from a file, and whom the change would affect", Args: args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := h.definition(args[1])
			if err != nil {
				return err
			}
			a, err := control.Edit.Call(cmd.Context(), h.client(), control.EditRequest{Name: args[0], Definition: text, ChangeOptions: control.ChangeOptions{DryRun: true}})
			if err == nil && len(a.Changes) > 0 {
				return errors.Join(h.changed(a, nil, changeFlags{options: control.ChangeOptions{DryRun: true}}), status(1))
			}
			return h.changed(a, err, changeFlags{options: control.ChangeOptions{DryRun: true}})
		}}
}

// changed prints what a change did, and fails as apply does.
func (h *hand) changed(a control.ChangeAnswer, err error, f changeFlags) error {
	if err != nil {
		return err
	}
	if h.asJSON {
		err = h.json(a)
	} else {
		err = h.printChange(a, f.options.DryRun)
	}
	if err == nil && a.Pending != "" {
		return silent{control.Busy}
	}
	if err != nil || a.Apply == nil {
		return err
	}
	return failedApply(*a.Apply, f.offline)
}

func (h *hand) printChange(a control.ChangeAnswer, dry bool) error {
	rows := make([][]string, len(a.Changes))
	for i, c := range a.Changes {
		place := c.File
		if c.Environment != "" && c.Connection != "" {
			place += " [" + c.Environment + "]"
		}
		rows[i] = []string{place, c.Field, orNone(c.Before) + " -> " + orNone(c.After)}
	}
	if err := table(h.out, nil, rows); err != nil {
		return err
	}
	if err := h.printImpact(h.out, a.Impact); err != nil {
		return err
	}
	h.findings(h.err, a.Findings)
	var err error
	switch {
	case a.Pending != "":
		_, err = fmt.Fprintf(h.out, "it waits for a second person, and nothing is in force yet: `pierfs approve %s`\n", a.Pending)
	case len(a.Changes) == 0 && a.Revision == 0 && !dry:
		_, err = fmt.Fprintln(h.out, "nothing changes: it is so already")
	case dry:
		_, err = fmt.Fprintf(h.out, "%s; this was a dry run, and nothing was changed\n", count(len(a.Changes), "change"))
	default:
		_, err = fmt.Fprintf(h.out, "done, as revision %d\n", a.Revision)
	}
	if err != nil || a.Apply == nil {
		return err
	}
	h.checklist(a.Apply.Checklist)
	return h.standing(a.Apply.Connections)
}

func orNone(value string) string {
	if value == "" {
		return "(not written)"
	}
	return value
}

// printImpact lists whom a change affects: what is mounted here with what is open and owed; of the rest the names.
func (h *hand) printImpact(out io.Writer, impact []control.Impact) error {
	var rows [][]string
	var elsewhere []string
	for _, i := range impact {
		if i.State == "" {
			elsewhere = append(elsewhere, i.Environment+"/"+i.Name)
			continue
		}
		rows = append(rows, []string{"affects", i.Environment + "/" + i.Name, i.Change, string(i.State), i.Dir, count(i.OpenFiles, "open file"), strconv.Itoa(i.OwedFiles) + " owed"})
		for _, u := range i.Users {
			rows = append(rows, []string{"  in use", "process " + strconv.Itoa(u.PID), whose("", u.UID), u.Exe, u.Path})
		}
		for _, unit := range i.Units {
			rows = append(rows, []string{"  wanted by", unit})
		}
	}
	if len(elsewhere) > 0 {
		rows = append(rows, []string{"affects", strings.Join(elsewhere, ", ")})
	}
	return table(out, nil, rows)
}

func (h *hand) nameCommand() *cobra.Command {
	return h.group("name", "Names of connections", &cobra.Command{Use: "check NAME", Short: "Tell whether a name is available (0), taken (1) or invalid (2)",
		Args: args(cobra.ExactArgs(1)), RunE: func(_ *cobra.Command, args []string) error { return h.nameCheck(args[0]) }})
}

// checkedName is what name check prints as JSON.
type checkedName struct {
	Name     string            `json:"name"`
	Result   string            `json:"result"` // "available", "taken" or "invalid"
	Findings []conncfg.Finding `json:"findings"`
}

func (h *hand) nameCheck(name string) error {
	c := checkedName{Name: name, Result: "available", Findings: []conncfg.Finding{}}
	var answer error
	why := ""
	config, _ := conncfg.Load(h.dirs.Config)
	if findings := conncfg.CheckFullName(name); len(findings) > 0 {
		c.Result, c.Findings, answer = "invalid", findings, status(2)
		why = ": " + findings[0].Message + "; " + findings[0].Hint
	} else if err := config.Free(name); err != nil {
		c.Result, answer = "taken", status(1)
	}
	var err error
	if h.asJSON {
		err = h.json(c)
	} else {
		_, err = fmt.Fprintln(h.out, c.Result+why)
	}
	return errors.Join(err, answer)
}
