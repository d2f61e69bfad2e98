package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"pierfs/cmd/internal/control"
	"pierfs/conncfg"
)

// group is a command that only has others below it.
func (h *hand) group(use, short string, below ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			names := make([]string, len(below))
			for i, c := range below {
				names[i] = c.Name()
			}
			return usageError{fmt.Errorf("there is no command %q; there are %s", use+" "+args[0], strings.Join(names, ", "))}
		}}
	cmd.AddCommand(below...)
	return cmd
}

func (h *hand) varsCommand() *cobra.Command {
	return h.group("vars", "Variables of environments, and of all", h.varsListCommand(), h.varsSetCommand(), h.varsUnsetCommand(), h.varsExplainCommand(), h.varsExtractCommand())
}

func (h *hand) varsListCommand() *cobra.Command {
	return &cobra.Command{Use: "list", Short: "List variables, where each comes from and what needs it", Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := control.Vars.Call(cmd.Context(), h.client(), control.VarsRequest{Environment: h.environment})
			if err != nil {
				return err
			}
			if h.asJSON {
				return h.json(a)
			}
			return h.printVars(a.Variables)
		}}
}

func (h *hand) printVars(all []control.Variable) error {
	if len(all) == 0 {
		_, err := fmt.Fprintln(h.out, "There are no variables. `pierfs vars set NAME VALUE` makes one.")
		return err
	}
	rows := make([][]string, len(all))
	for i, v := range all {
		kind := "plain"
		if v.Secret {
			kind = "secret"
		}
		rows[i] = []string{v.Name, scopeOf(v), kind, v.Source, dateOr(v.RotatedAt, "-"), dateOr(v.RotateBy, "-"), v.File + ":" + strconv.Itoa(v.Line), usedBy(v)}
	}
	return table(h.out, []string{"NAME", "ENVIRONMENT", "KIND", "SOURCE", "CHANGED", "CHANGE BY", "PLACE", "USED BY"}, rows)
}

// dateOr is the day of t, or none where nobody knows it.
func dateOr(t time.Time, none string) string {
	if t.IsZero() {
		return none
	}
	return t.Format(time.DateOnly)
}

func scopeOf(v control.Variable) string {
	if v.Environment == "" {
		return "(all)"
	}
	return v.Environment
}

// usedBy names the connections that need v, each once.
func usedBy(v control.Variable) string {
	var names []string
	for _, u := range v.UsedBy {
		if !slices.Contains(names, u.Connection) {
			names = append(names, u.Connection)
		}
	}
	if len(names) == 0 {
		return "-"
	}
	return strings.Join(names, ", ")
}

func (h *hand) varsSetCommand() *cobra.Command {
	var f changeFlags
	var secret bool
	var file, yes, after string
	cmd := &cobra.Command{Use: "set NAME [VALUE]", Short: "Give a variable a value, in one environment with --env, else in all", Args: args(cobra.RangeArgs(1, 2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			q := control.SetVarRequest{Name: args[0], Environment: h.environment, Secret: secret, ChangeOptions: f.options}
			if cmd.Flags().Changed("rotate-after") {
				days, err := rotateAfter(after, secret)
				if err != nil {
					return err
				}
				q.RotateAfter = &days
			}
			switch {
			case secret && len(args) == 2:
				return usageError{errors.New("a secret on the command line could be read by everybody on this machine: leave it out to be asked, or give --value-file FILE")}
			case len(args) == 2:
				q.Value = control.Seal(args[1])
			default:
				text, given, err := h.secret(file, secret, "value of "+args[0])
				if err != nil {
					return err
				}
				if !given {
					return usageError{errors.New("there is no value: write it behind the name, or give --value-file FILE")}
				}
				q.Value = control.Seal(text)
			}
			return h.setVar(cmd, q, yes, f)
		}}
	f.add(cmd)
	set := cmd.Flags()
	set.BoolVar(&secret, "secret", false, "its value is stored encrypted and never shown; without --value-file it is asked for")
	set.StringVar(&file, "value-file", "", "read the value from this file's first line; - reads it from standard input")
	set.StringVar(&after, "rotate-after", "", "a secret must be changed after so many days, such as 90d, and warnings say so; 0 is never, and without this it stays as it was")
	set.StringVar(&yes, "yes", "", "the name once more, where connections need the variable and nobody can be asked")
	return cmd
}

// rotateAfter is how many days a secret may stay; 0 is for ever.
func rotateAfter(text string, secret bool) (int, error) {
	after, ok := conncfg.ParseDays(text)
	switch {
	case !secret:
		return 0, usageError{errors.New("--rotate-after is for secrets: give --secret as well")}
	case text == "0":
		return 0, nil
	case !ok:
		return 0, usageError{fmt.Errorf("--rotate-after %q is no number of days from 1 to 3650: write 90d, or 0 for never", text)}
	}
	return int(after / (24 * time.Hour)), nil
}

// setVar tells whom a change of a variable affects, and wants the name once more if anybody is.
func (h *hand) setVar(cmd *cobra.Command, q control.SetVarRequest, yes string, f changeFlags) error {
	if !q.DryRun {
		first := q
		first.DryRun = true
		a, err := control.SetVar.Call(cmd.Context(), h.client(), first)
		if err != nil {
			return err
		}
		if len(a.Impact) > 0 {
			if err := h.confirm(q.Name, yes, a); err != nil {
				return err
			}
		}
	}
	a, err := made(cmd.Context(), h, f, "", control.SetVar, &q, &q.ChangeOptions)
	return h.changed(a, err, f)
}

func (h *hand) varsUnsetCommand() *cobra.Command {
	var f changeFlags
	var yes string
	cmd := &cobra.Command{Use: "unset NAME", Short: "Remove a variable, of one environment with --env, else the global one", Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return h.setVar(cmd, control.SetVarRequest{Name: args[0], Environment: h.environment, Unset: true, ChangeOptions: f.options}, yes, f)
		}}
	f.add(cmd)
	cmd.Flags().StringVar(&yes, "yes", "", "the name once more, where connections need the variable and nobody can be asked")
	return cmd
}

func (h *hand) varsExplainCommand() *cobra.Command {
	return &cobra.Command{Use: "explain NAME", Short: "Tell which of the variables of a name counts where, and what needs it", Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := control.Vars.Call(cmd.Context(), h.client(), control.VarsRequest{})
			if err != nil {
				return err
			}
			e := explainVariable(args[0], h.environment, a)
			if len(e.Environments) == 0 {
				return control.Errorf(control.UnknownEnvironment, "there is no environment %q", h.environment).WithHint("`pierfs env list` shows them")
			}
			if h.asJSON {
				return h.json(e)
			}
			return h.printExplained(e)
		}}
}

// explained is what vars explain prints as JSON.
type explained struct {
	Name         string           `json:"name"`
	Environments []explainedWhere `json:"environments"`
}

// explainedWhere is a variable in one environment: the one that counts first, and those that it hides behind it.
type explainedWhere struct {
	Environment string             `json:"environment"`
	Variables   []control.Variable `json:"variables"`
}

func explainVariable(name, only string, a control.VarsAnswer) explained {
	e := explained{Name: name, Environments: []explainedWhere{}}
	for _, env := range a.Environments {
		if only != "" && env.Name != only {
			continue
		}
		w := explainedWhere{Environment: env.Name, Variables: []control.Variable{}}
		for _, v := range a.Variables {
			if v.Name == name && (v.Environment == "" || v.Environment == env.Name) {
				w.Variables = append(w.Variables, v)
			}
		}
		e.Environments = append(e.Environments, w)
	}
	return e
}

func (h *hand) printExplained(e explained) error {
	var rows [][]string
	for _, w := range e.Environments {
		if len(w.Variables) == 0 {
			rows = append(rows, []string{w.Environment, "is not defined", "", ""})
		}
		for i, v := range w.Variables {
			word := "is"
			if i > 0 {
				word = "and not"
			}
			rows = append(rows, []string{w.Environment, word, v.Source, v.File + ":" + strconv.Itoa(v.Line)})
			if i > 0 {
				continue
			}
			for _, u := range v.UsedBy {
				if u.Environment == w.Environment {
					rows = append(rows, []string{w.Environment, "needed by", u.Connection, u.Field})
				}
			}
		}
	}
	return table(h.out, nil, rows)
}

func (h *hand) varsExtractCommand() *cobra.Command {
	var f changeFlags
	cmd := &cobra.Command{Use: "extract CONNECTION", Short: "Make secrets that stand literally in a definition encrypted variables", Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			q := control.ExtractRequest{Name: args[0]}
			a, err := made(cmd.Context(), h, f, args[0], control.Extract, &q, &q.ChangeOptions)
			return h.changed(a, err, f)
		}}
	f.add(cmd)
	return cmd
}

func (h *hand) envCommand() *cobra.Command {
	return h.group("env", "Environments, and which are active on this machine", h.envListCommand(), h.envShowCommand(), h.envUseCommand(), h.envCreateCommand())
}

func (h *hand) envListCommand() *cobra.Command {
	return &cobra.Command{Use: "list", Short: "List the environments", Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := control.Vars.Call(cmd.Context(), h.client(), control.VarsRequest{})
			if err != nil {
				return err
			}
			if h.asJSON {
				return h.json(map[string][]control.Environment{"environments": a.Environments})
			}
			rows := make([][]string, len(a.Environments))
			for i, e := range a.Environments {
				rows[i] = []string{e.Name, "-"}
				if e.Active {
					rows[i][1] = "active"
				}
			}
			return table(h.out, []string{"ENVIRONMENT", "ON THIS MACHINE"}, rows)
		}}
}

func (h *hand) envShowCommand() *cobra.Command {
	return &cobra.Command{Use: "show ENV", Short: "List the variables that count in an environment", Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := control.Vars.Call(cmd.Context(), h.client(), control.VarsRequest{Environment: args[0]})
			if err != nil {
				return err
			}
			a.Variables = slices.CompactFunc(a.Variables, func(first, second control.Variable) bool { return first.Name == second.Name }) // the first one counts
			if h.asJSON {
				return h.json(a)
			}
			return h.printVars(a.Variables)
		}}
}

func (h *hand) envUseCommand() *cobra.Command {
	var f changeFlags
	cmd := &cobra.Command{Use: "use ENV...", Short: "Make these the environments that are active on this machine", Args: args(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			q := control.EnvRequest{Names: args}
			a, err := made(cmd.Context(), h, f, "", control.EnvUse, &q, &q.ChangeOptions)
			return h.changed(a, err, f)
		}}
	f.add(cmd)
	return cmd
}

func (h *hand) envCreateCommand() *cobra.Command {
	var f changeFlags
	cmd := &cobra.Command{Use: "create ENV [FILE|-]", Short: "Make an environment, empty or from a file or standard input", Args: args(cobra.RangeArgs(1, 2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			q := control.EnvRequest{Names: args[:1]}
			if len(args) == 2 {
				var err error
				if q.Definition, err = h.definition(args[1]); err != nil {
					return err
				}
			}
			a, err := made(cmd.Context(), h, f, "", control.EnvAdd, &q, &q.ChangeOptions)
			return h.changed(a, err, f)
		}}
	f.add(cmd)
	return cmd
}
