// Command pierfs is the operator's hand: it parses one command, asks the daemon one thing over its socket, and prints the
// answer for people, or as JSON with --json. It links no protocol and no file system; only `check` works by itself.
//
// Exit statuses are those of sysexits(3), as docs/CLI.md lists them.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"pierfs/cmd/internal/control"
	"pierfs/cmd/internal/dirs"
	"pierfs/cmd/internal/terminal"
	"pierfs/cmd/internal/version"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	var status int
	switch name := filepath.Base(os.Args[0]); name {
	case mountHelper, umountHelper:
		status = runHelper(ctx, name, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	default:
		status = run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	}
	stop()
	os.Exit(status)
}

// hand is what every command needs.
type hand struct {
	dirs        dirs.Dirs
	asJSON      bool
	environment string

	in       io.Reader
	out, err io.Writer
}

func newHand(in io.Reader, out, errOut io.Writer) *hand {
	return &hand{dirs: dirs.Default(os.Geteuid(), os.Getenv), in: in, out: out, err: errOut}
}

// run runs one command line and returns the exit status.
func run(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) int {
	h := newHand(in, out, errOut)
	cmd := h.command()
	cmd.SetArgs(args)
	cmd.SetIn(in)
	cmd.SetOut(out)
	cmd.SetErr(errOut)
	meant, err := cmd.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	if meant != cmd {
		err = misused{err, meant.CommandPath()}
	}
	h.fail(err)
	return exitStatus(err)
}

// silent is a failure that has been told already.
type silent struct{ code control.Code }

func (s silent) Error() string { return string(s.code) }

// usageError is a command line that makes no sense.
type usageError struct{ error }

func (u usageError) Unwrap() error { return u.error }

// misused is err of a command, by the name that help knows it by.
type misused struct {
	error
	command string
}

func (m misused) Unwrap() error { return m.error }

func exitStatus(err error) int {
	if s, ok := errors.AsType[status](err); ok {
		return int(s)
	}
	if s, ok := errors.AsType[silent](err); ok {
		return s.code.Exit()
	}
	return asControl(err).Code.Exit()
}

// asControl makes every failure one that a script can read, and that ends in a way out.
func asControl(err error) *control.Error { return classified(err).Complete() }

func classified(err error) *control.Error {
	if e, ok := errors.AsType[*control.Error](err); ok {
		return e
	}
	if _, ok := errors.AsType[usageError](err); ok {
		text, command := strings.ReplaceAll(err.Error(), "\n", "; "), "pierfs help"
		if m, ok := errors.AsType[misused](err); ok {
			command = m.command + " --help"
		}
		return control.Errorf(control.Usage, "%s", text).WithHint("`%s` shows how it is written", command)
	}
	if errors.Is(err, context.Canceled) {
		return control.Errorf(control.Cut, "interrupted").WithHint("the same command begins anew")
	}
	return control.LocalError(err)
}

// fail tells err: as JSON on standard output for scripts, as text on standard error for people.
func (h *hand) fail(err error) {
	if _, ok := errors.AsType[silent](err); ok {
		return
	}
	if _, ok := errors.AsType[status](err); ok {
		return
	}
	e := asControl(err)
	if h.asJSON {
		_ = h.json(map[string]*control.Error{"error": e}) // nobody is left to be told
		return
	}
	fmt.Fprintf(h.err, "pierfs: %s\n", terminal.Quote(e.Text))
	h.wayOut(h.err, e.Findings, e.Hint)
}

func (h *hand) json(v any) error {
	encoder := json.NewEncoder(terminal.JSONWriter(h.out))
	encoder.SetEscapeHTML(false)
	return encoder.Encode(v)
}

// client returns a client of the daemon in the runtime directory.
func (h *hand) client() *control.Client { return control.NewClient(h.dirs.Runtime) }

func (h *hand) command() *cobra.Command {
	root := &cobra.Command{
		Use:                        "pierfs",
		SuggestionsMinimumDistance: 2,
		Short:                      "Work with FTP, FTPS and SFTP connections that are mounted as local directories",
		Long: `pierfs asks the daemon pierfsd for one thing and prints the answer.

A connection is NAME, PROJECT/NAME, or the directory of a mount without definition. A file of it is written NAME:/path,
relative to its working directory.`,
		Example:       "  pierfs list\n  pierfs test partner\n  pierfs mount sftp://user@host/dir /mnt/partner --trust-new",
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
				return usageError{fmt.Errorf("there is no command %q; did you mean %s?", args[0], strings.Join(near, " or "))}
			}
			return usageError{fmt.Errorf("there is no command %q", args[0])}
		},
	}
	root.CompletionOptions.DisableDefaultCmd = true // there is one of ours
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	set := root.PersistentFlags()
	set.StringVar(&h.dirs.Runtime, "runtime-dir", h.dirs.Runtime, "which daemon: its runtime directory ($PIERFS_RUNTIME_DIR)")
	set.StringVar(&h.dirs.Config, "config-dir", h.dirs.Config, "where check looks for definitions")
	set.BoolVar(&h.asJSON, "json", false, "print one JSON value, failures too")
	set.StringVarP(&h.environment, "env", "e", "", "environment; without it the first active one")
	root.AddCommand(
		h.checkCommand(), h.applyCommand(), h.listCommand(), h.statusCommand(), h.showCommand(),
		h.enableCommand(true), h.enableCommand(false), h.testCommand(), h.doctorCommand(), h.trustCommand(),
		h.mountCommand(), h.umountCommand(),
		h.lsCommand(), h.statCommand(), h.getCommand(), h.putCommand(), h.rmCommand(), h.mvCommand(), h.mkdirCommand(),
		h.queueCommand(), h.metricsCommand(), h.cacheCommand(),
		h.eventsCommand(), h.deploymentsCommand(), h.logCommand(), h.traceCommand(),
		h.createCommand(), h.editCommand(), h.copyCommand(), h.moveCommand(), h.deleteCommand(), h.diffCommand(), h.nameCommand(),
		h.varsCommand(), h.envCommand(), h.historyCommand(), h.rollbackCommand(), h.pendingCommand(), h.approveCommand(), h.rejectCommand(), h.replaceCommand(), h.auditCommand(), h.exportCommand(), h.importCommand(),
		h.versionCommand(), h.completionCommand(), h.manualCommand(),
	)
	explain(root)
	h.complete(root)
	return root
}

// args wraps a rule of cobra for positional arguments.
func args(rule cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := rule(cmd, args); err != nil {
			return usageError{fmt.Errorf("%s: %w; it is written: %s", cmd.Name(), err, cmd.UseLine())}
		}
		return nil
	}
}

func (h *hand) versionCommand() *cobra.Command {
	return &cobra.Command{Use: "version", Short: "Print the version", Args: args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			if h.asJSON {
				return h.json(map[string]string{"version": version.Version()})
			}
			_, err := fmt.Fprintln(h.out, version.Version())
			return err
		}}
}

// isTerminal reports whether w shows what is written to a person.
func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
