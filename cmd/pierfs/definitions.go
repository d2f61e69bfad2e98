package main

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"pierfs/cmd/internal/control"
	"pierfs/cmd/internal/terminal"
	"pierfs/conncfg"
)

// checked is what check prints as JSON.
type checked struct {
	ConfigDir   string            `json:"configDir"`
	Connections int               `json:"connections"`
	Errors      int               `json:"errors"`
	Warnings    int               `json:"warnings"`
	Findings    []conncfg.Finding `json:"findings"`
}

func (h *hand) checkCommand() *cobra.Command {
	var policy bool
	cmd := &cobra.Command{Use: "check", Short: "Check all definitions, without a daemon and without asking anybody", Args: args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			config, _ := conncfg.Load(h.dirs.Config)
			c := checked{ConfigDir: h.dirs.Config, Connections: len(config.Connections()), Findings: config.Check()}
			if policy {
				c.Findings = slices.DeleteFunc(c.Findings, func(f conncfg.Finding) bool { return !f.Policy() })
			}
			for _, f := range c.Findings {
				switch f.Severity {
				case conncfg.Error:
					c.Errors++
				case conncfg.Warning:
					c.Warnings++
				}
			}
			if err := h.printChecked(c); err != nil {
				return err
			}
			if c.Errors > 0 {
				return silent{control.ConfigInvalid}
			}
			return nil
		}}
	cmd.Flags().BoolVar(&policy, "policy", false, "only what the policies of environments refuse, or would without an exception")
	return cmd
}

func (h *hand) printChecked(c checked) error {
	if h.asJSON {
		if c.Findings == nil {
			c.Findings = []conncfg.Finding{}
		}
		return h.json(c)
	}
	h.findings(h.out, c.Findings)
	_, err := fmt.Fprintf(h.out, "%s in %s: %s, %s\n", count(c.Connections, "connection"), terminal.Quote(c.ConfigDir),
		count(c.Errors, "error"), count(c.Warnings, "warning"))
	return err
}

func (h *hand) applyCommand() *cobra.Command {
	var offlineOK, dry bool
	var owed owedFlags
	cmd := &cobra.Command{Use: "apply", Aliases: []string{"reload"}, Short: "Have the daemon read the definitions again and do what changed", Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := owed.check(); err != nil {
				return err
			}
			for {
				a, err := control.Apply.Call(cmd.Context(), h.client(), control.ApplyRequest{DryRun: dry, Keep: owed.keep})
				if err != nil {
					return err
				}
				if dry || !owed.wait || len(a.Owing) == 0 {
					return h.applied(a, offlineOK)
				}
				for _, o := range a.Owing {
					if err := h.awaitPaid(cmd.Context(), o.Name, o.Environment); err != nil {
						return err
					}
				}
			}
		}}
	offlineFlag(cmd, &offlineOK)
	cmd.Flags().BoolVarP(&dry, "dry-run", "n", false, "tell what would be mounted and unmounted, and do nothing")
	owed.add(cmd)
	return cmd
}

// offlineFlag is for commands that mount, which is one thing; that the server can be used is another.
func offlineFlag(cmd *cobra.Command, ok *bool) {
	cmd.Flags().BoolVar(ok, "offline-ok", false, "end with 0 also where a mount stands whose server is away or refuses us")
}

// applied prints what was done and fails where definitions have errors or something did not come up.
func (h *hand) applied(a control.ApplyAnswer, offlineOK bool) error {
	if h.asJSON {
		if err := h.json(a); err != nil {
			return err
		}
	} else {
		h.findings(h.err, a.Findings)
		for _, done := range []struct {
			word  string
			names []string
		}{{"added", a.Added}, {"changed", a.Changed}, {"removed", a.Removed}} {
			if len(done.names) > 0 {
				fmt.Fprintf(h.out, "%s: %s\n", done.word, terminal.Quote(strings.Join(done.names, ", ")))
			}
		}
		fmt.Fprintf(h.out, "unchanged: %d\n", a.Unchanged)
		h.stay(a.Owing)
		h.checklist(a.Checklist)
		if err := h.standing(a.Connections); err != nil {
			return err
		}
	}
	return failedApply(a, offlineOK)
}

// checklist prints what is to be seen to before connections go into service.
func (h *hand) checklist(all []control.Checked) {
	for _, c := range all {
		name := terminal.Quote(c.Environment + "/" + c.Name)
		points := []string{"its name is its own", "no required field is missing"}
		if !c.UniqueName {
			points[0] = "ITS NAME IS TAKEN"
		}
		if len(c.Missing) > 0 {
			points[1] = "MISSING: " + strings.Join(c.Missing, ", ")
		}
		switch {
		case c.Tested.IsZero():
			points = append(points, "NEVER TESTED")
		case c.Untested:
			points = append(points, fmt.Sprintf("NOT TESTED SINCE IT WAS CHANGED (before: %s ago)", ago(c.Tested)))
		default:
			points = append(points, fmt.Sprintf("tested %s ago", ago(c.Tested)))
		}
		fmt.Fprintf(h.out, "%s: %s\n", name, terminal.Quote(strings.Join(points, "; ")))
		if c.Untested {
			fmt.Fprintf(h.out, "  %s\n", terminal.Quote("pierfs test "+c.Name+" --env "+c.Environment))
		}
	}
}

// failedApply is the status of what came up with errors, or not at all, or stands without its server.
func failedApply(a control.ApplyAnswer, offlineOK bool) error {
	if conncfg.HasErrors(a.Findings) {
		return silent{control.ConfigInvalid}
	}
	if err := failedMounts(a.Connections, offlineOK); err != nil || len(a.Owing) == 0 {
		return err
	}
	return silent{control.StillOwed}
}

// failedMounts is the status of the first connection that is not mounted; if all are, of the first whose server cannot be used.
func failedMounts(all []control.Connection, offlineOK bool) error {
	var offline error
	for _, c := range all {
		switch code := c.NotReady(); {
		case code == "":
		case c.State != control.StateOffline:
			return silent{code}
		case offline == nil && !offlineOK:
			offline = silent{code}
		}
	}
	return offline
}

func (h *hand) listCommand() *cobra.Command {
	return &cobra.Command{Use: "list", Short: "List connections and where they are mounted", Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := control.List.Call(cmd.Context(), h.client(), control.ListRequest{})
			if err != nil {
				return err
			}
			elsewhere, err := h.elsewhere(a.Environments)
			if err != nil {
				return err
			}
			a.Connections = slices.DeleteFunc(a.Connections, elsewhere)
			if h.asJSON {
				return h.json(a)
			}
			if len(a.Connections) == 0 {
				return h.nothing(cmd.Context(), a.Environments)
			}
			return h.connections(a.Connections)
		}}
}

// elsewhere reports of a connection whether --env leaves it out.
func (h *hand) elsewhere(environments []control.Environment) (func(control.Connection) bool, error) {
	named := func(e control.Environment) bool { return e.Name == h.environment }
	if h.environment != "" && !slices.ContainsFunc(environments, named) {
		return nil, control.Errorf(control.UnknownEnvironment, "there is no environment %q", h.environment).WithHint("`pierfs status` shows them")
	}
	return func(c control.Connection) bool { return h.environment != "" && c.Environment != h.environment }, nil
}

// nothing says why there is nothing to list, and how that is changed.
func (h *hand) nothing(ctx context.Context, environments []control.Environment) error {
	a, err := control.Status.Call(ctx, h.client(), control.StatusRequest{})
	if err != nil {
		return err
	}
	switch active, others := environmentNames(environments); {
	case h.environment != "":
		_, err = fmt.Fprintf(h.out, "Nothing is mounted in environment %s; active on this machine: %s\n",
			terminal.Quote(h.environment), terminal.Quote(cmp.Or(active, "none")))
		return err
	case active == "":
		_, err = fmt.Fprintf(h.out, "No environment is active on this machine, so nothing is mounted.\n"+
			"  name one (%s) in activeEnvironments of %s\n", terminal.Quote(others), terminal.Quote(filepath.Join(a.ConfigDir, "pierfs.toml")))
		return err
	}
	_, err = fmt.Fprintf(h.out, "No connection is defined, and nothing is mounted.\n"+
		"  for good: pierfs create NAME -s protocol=SFTP -s host=HOST -s username=USER -s workingDir=/DIR --ask-password\n"+
		"  by file:  %s; docs/DEFINITIONS.md says how, `pierfs check` whether it is right\n"+
		"  for now:  pierfs mount sftp://user@host/dir DIR\n", terminal.Quote(filepath.Join(a.ConfigDir, "connections", "NAME.toml")))
	return err
}

func (h *hand) statusCommand() *cobra.Command {
	var watch bool
	cmd := &cobra.Command{Use: "status", Short: "Show the daemon and what each connection owes", Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if watch {
				return h.watchStatus(cmd.Context())
			}
			a, err := control.Status.Call(cmd.Context(), h.client(), control.StatusRequest{})
			if err != nil {
				return err
			}
			return h.showStatus(a)
		}}
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "show it again whenever it changes, until Ctrl-C")
	return cmd
}

// showStatus prints those of a that --env means.
func (h *hand) showStatus(a control.StatusAnswer) error {
	elsewhere, err := h.elsewhere(a.Environments)
	if err != nil {
		return err
	}
	a.Connections = slices.DeleteFunc(a.Connections, func(c control.ConnectionStatus) bool { return elsewhere(c.Connection) })
	if h.asJSON {
		return h.json(a)
	}
	return h.printStatus(a)
}

func (h *hand) printStatus(a control.StatusAnswer) error {
	active, others := environmentNames(a.Environments)
	check := "pierfs check"
	if a.ConfigDir != h.dirs.Config {
		check += " --config-dir " + a.ConfigDir
	}
	err := table(h.out, nil, [][]string{
		{"pierfsd", a.Version + ", process " + strconv.Itoa(a.PID) + ", since " + a.Started.Local().Format(time.DateTime)},
		{"definitions", a.ConfigDir + ", " + count(a.Findings, "finding") + " (" + check + ")"},
		{"active", cmp.Or(active, "no environment") + " (not active: " + cmp.Or(others, "none") + ")"},
		{"mount root", a.MountRoot},
	})
	if err != nil || len(a.Connections) == 0 {
		return err
	}
	var rows [][]string
	for _, c := range a.Connections {
		row := connectionRow(c.Connection)
		rows = append(rows, []string{row[0], row[1], row[2], strconv.Itoa(c.OpenFiles), owed(c), c.Server, briefly(c.Connection)})
	}
	fmt.Fprintln(h.out)
	if err := table(h.out, []string{"NAME", "ENVIRONMENT", "STATE", "OPEN", "OWED", "SERVER", "REASON"}, rows); err != nil {
		return err
	}
	for _, c := range a.Connections {
		h.trouble(c.Connection)
		h.left(c, a.StateDir)
	}
	return nil
}

// environmentNames returns those that are active on this machine, and the others.
func environmentNames(all []control.Environment) (active, others string) {
	var is, isNot []string
	for _, e := range all {
		if e.Active {
			is = append(is, e.Name)
		} else {
			isNot = append(isNot, e.Name)
		}
	}
	return strings.Join(is, ", "), strings.Join(isNot, ", ")
}

// owed is what c owes to its server.
func owed(c control.ConnectionStatus) string {
	if c.OwedFiles == 0 && c.Quarantined == 0 {
		return "nothing"
	}
	return fmt.Sprintf("%s, %d bytes; %d in quarantine", count(c.OwedFiles, "file"), c.OwedBytes, c.Quarantined)
}

// left prints what went wrong without any program having been told, and where the content is.
func (h *hand) left(c control.ConnectionStatus, stateDir string) {
	if c.OwedReason != "" {
		fmt.Fprintf(h.out, "\n%s: owed for %s: %s\n  `pierfs queue %s` shows what\n", terminal.Quote(fullName(c.Connection)), ago(c.OwedSince), terminal.Quote(c.OwedReason), terminal.Quote(c.Name))
	}
	if c.Held > 0 {
		fmt.Fprintf(h.out, "\n%s: %s held until somebody decides\n  `pierfs queue %s` shows them\n", terminal.Quote(fullName(c.Connection)), counted(c.Held, "1 change is", "changes are"), terminal.Quote(c.Name))
	}
	if c.LastError != "" {
		fmt.Fprintf(h.out, "\n%s: not published: %s\n", terminal.Quote(fullName(c.Connection)), terminal.Quote(c.LastError))
	}
	for _, what := range c.Weaker {
		fmt.Fprintf(h.out, "\n%s: a promise does not hold: %s\n", terminal.Quote(fullName(c.Connection)), terminal.Quote(what))
	}
	if c.Conflicts > 0 {
		fmt.Fprintf(h.out, "\n%s: %s with changes of others since it was mounted\n  the log names the files; look for NAME.conflict-HOST-TIME beside them, and in quarantine\n",
			terminal.Quote(fullName(c.Connection)), count(c.Conflicts, "conflict"))
	}
	if c.Quarantined > 0 {
		fmt.Fprintf(h.out, "\n%s: %s in quarantine\n  look at it below %s, put it where it belongs, and delete it there\n",
			terminal.Quote(fullName(c.Connection)), count(c.Quarantined, "file"), terminal.Quote(filepath.Join(stateDir, "quarantine")))
	}
}

// count is n things in words.
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return strconv.Itoa(n) + " " + thing + "s"
}

func (h *hand) showCommand() *cobra.Command {
	return &cobra.Command{Use: "show NAME", Short: "Show one connection with every variable replaced", Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := control.Show.Call(cmd.Context(), h.client(), control.ShowRequest{Name: args[0], Environment: h.environment})
			if err != nil {
				return err
			}
			if h.asJSON {
				return h.json(a)
			}
			return h.printShown(a)
		}}
}

func (h *hand) printShown(a control.ShowAnswer) error {
	password := "none"
	if a.HasPassword {
		password = "set"
	}
	rows := [][]string{{"name", a.Name}, {"environment", cmp.Or(a.Environment, "-")}, {"state", string(a.State)}}
	if word := briefly(a.Connection); word != "" {
		rows = append(rows, []string{"reason", word})
	}
	rows = append(rows, []string{"directory", a.Dir}, []string{"server", a.Endpoint}, []string{"password", password})
	for _, f := range a.Definition {
		switch {
		case f.Field == "name" || f.Field == "password":
		case f.Resolved != "":
			rows = append(rows, []string{f.Field, f.Resolved, "(" + f.From + ": " + f.Value + ", in " + a.Environment + ")"})
		default:
			rows = append(rows, []string{f.Field, f.Value, "(" + f.From + ")"})
		}
	}
	if err := table(h.out, nil, rows); err != nil {
		return err
	}
	h.trouble(a.Connection)
	return nil
}

func (h *hand) enableCommand(on bool) *cobra.Command {
	word, short := "disable", "Switch a connection off, in its definition"
	if on {
		word, short = "enable", "Switch a connection on, in its definition"
	}
	var f changeFlags
	cmd := &cobra.Command{Use: word + " NAME", Short: short, Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			q := control.EnableRequest{Name: args[0], Enabled: on}
			a, err := made(cmd.Context(), h, f, args[0], control.Enable, &q, &q.ChangeOptions)
			if err != nil || h.asJSON || f.options.DryRun {
				return h.changed(a, err, f)
			}
			return h.switched(args[0], on, a, f.offline)
		}}
	f.add(cmd)
	return cmd
}

// switched prints that a connection was switched on or off, and fails as apply does.
func (h *hand) switched(name string, on bool, a control.ChangeAnswer, offlineOK bool) error {
	word, again := "disabled", ", until `pierfs enable "+name+"`"
	if on {
		word, again = "enabled", ""
	}
	h.findings(h.err, slices.DeleteFunc(a.Findings, func(f conncfg.Finding) bool { return f.Severity != conncfg.Error }))
	fmt.Fprintf(h.out, "%s: %s%s\n", word, terminal.Quote(name), terminal.Quote(again))
	if a.Apply == nil {
		return nil
	}
	if err := h.standing(a.Apply.Connections); err != nil {
		return err
	}
	return failedApply(*a.Apply, offlineOK)
}

func (h *hand) trustCommand() *cobra.Command {
	var dry bool
	cmd := &cobra.Command{Use: "trust NAME [FINGERPRINT]", Short: "Trust the server's host key or certificate, if it is the one with this fingerprint", Args: args(cobra.RangeArgs(1, 2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			q := control.TrustRequest{Name: args[0], Environment: h.environment, DryRun: dry}
			if len(args) > 1 {
				q.Fingerprint = args[1]
			}
			a, err := control.Trust.Call(cmd.Context(), h.client(), q)
			if err != nil {
				return err
			}
			if h.asJSON {
				return h.json(a)
			}
			if dry {
				return h.printWouldTrust(a)
			}
			return h.printTrusted(a)
		}}
	cmd.Flags().BoolVarP(&dry, "dry-run", "n", false, "ask the server, tell what would be trusted and forgotten and whom that affects, and trust nothing")
	return cmd
}

// printWouldTrust prints what trust would do.
func (h *hand) printWouldTrust(a control.TrustAnswer) error {
	if err := h.printTrust(a, "would be trusted", "would be forgotten"); err != nil {
		return err
	}
	if len(a.Affects) > 0 {
		fmt.Fprintf(h.out, "affects %s\n", terminal.Quote(strings.Join(a.Affects, ", ")))
	}
	_, err := fmt.Fprintln(h.out, "this was a dry run, and nothing was changed")
	return err
}

func (h *hand) printTrusted(a control.TrustAnswer) error {
	return h.printTrust(a, "trusted", "forgotten")
}

func (h *hand) printTrust(a control.TrustAnswer, word, forgotten string) error {
	for _, old := range a.Forgotten {
		fmt.Fprintf(h.out, "%s: %s, %s\n", forgotten, terminal.Quote(a.Address), terminal.Quote(old))
	}
	if a.Already {
		word = "trusted already"
	}
	_, err := fmt.Fprintf(h.out, "%s: %s, %s %s\n", word, terminal.Quote(a.Address), terminal.Quote(a.What()), terminal.Quote(a.Fingerprint))
	if c := a.Certificate; c != nil && err == nil {
		err = table(h.out, nil, [][]string{
			{"  subject", c.Subject}, {"  issuer", c.Issuer}, {"  valid", c.NotBefore.Local().Format(time.DateTime) + " to " + c.NotAfter.Local().Format(time.DateTime)},
			{"  names", strings.Join(c.Names, ", ")},
		})
	}
	return err
}
