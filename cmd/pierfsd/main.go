// Command pierfsd keeps connections mounted: `pierfsd` is the daemon, `pierfsd demo` shows it at work without any
// configuration. This is its front door: flags, logger, signals and wiring; what it does is in cmd/internal/daemon.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"pierfs/cmd/internal/control"
	"pierfs/cmd/internal/daemon"
	"pierfs/cmd/internal/demo"
	"pierfs/cmd/internal/dirs"
	"pierfs/cmd/internal/manual"
	"pierfs/cmd/internal/terminal"
	"pierfs/cmd/internal/version"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run runs one command line and returns the exit status.
func run(args []string, stdout, stderr io.Writer) int {
	cmd := command(stdout, stderr)
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	err := cmd.Execute()
	if err == nil {
		return 0
	}
	fmt.Fprintf(stderr, "pierfsd: %s\n", terminal.Quote(strings.ReplaceAll(err.Error(), "\n", "; ")))
	fmt.Fprintf(stderr, "  %s\n", terminal.Quote(wayOut(err)))
	return exitStatus(err)
}

// exitStatus is 74 (EX_IOERR) where something is still owed to a server, so that nobody takes the stop for a clean one.
func exitStatus(err error) int {
	if _, ok := errors.AsType[*daemon.LeftError](err); ok {
		return control.Failed.Exit()
	}
	if _, ok := errors.AsType[usageError](err); ok {
		return control.Usage.Exit()
	}
	return control.CodeOf(err).Exit()
}

// wayOut is what to do about err.
func wayOut(err error) string {
	if _, ok := errors.AsType[*daemon.LeftError](err); ok {
		return "it is in the state directory, and sent when pierfsd starts again; `pierfs queue` shows it then"
	}
	if _, ok := errors.AsType[usageError](err); ok {
		return "`pierfsd --help` shows how it is written"
	}
	if e, ok := errors.AsType[*control.Error](err); ok {
		return e.Complete().Hint
	}
	return "mend what it names, and start it again; --log-level debug tells more"
}

// usageError is a command line that makes no sense.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

type flags struct {
	dirs      dirs.Dirs
	logFormat string
	logLevel  string
	exitIdle  bool
	metrics   string
	private   bool
}

func command(stdout, stderr io.Writer) *cobra.Command {
	f := flags{dirs: dirs.Default(os.Geteuid(), os.Getenv)}
	root := &cobra.Command{
		Use:           "pierfsd",
		Short:         "Keep FTP, FTPS and SFTP connections mounted as local directories",
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(*cobra.Command, []string) error {
			return serve(f, stderr)
		},
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	set := root.Flags()
	set.StringVar(&f.dirs.Config, "config-dir", f.dirs.Config, "definitions")
	set.StringVar(&f.dirs.State, "state-dir", f.dirs.State, "what must survive: staged content, quarantine, trust store")
	set.StringVar(&f.dirs.Cache, "cache-dir", f.dirs.Cache, "what may be thrown away")
	set.StringVar(&f.dirs.Runtime, "runtime-dir", f.dirs.Runtime, "control socket and lock")
	set.StringVar(&f.dirs.MountRoot, "mount-root", f.dirs.MountRoot, "connections appear below it as ENV/NAME")
	set.BoolVar(&f.exitIdle, "exit-idle", false, "end when nothing is mounted any more")
	set.BoolVar(&f.private, "private", false, "serve one hand, mount nothing, and end when standard input does")
	set.StringVar(&f.metrics, "metrics-address", "", "let Prometheus read figures at http://HOST:PORT/metrics, on the loopback interface alone; nowhere without it")
	all := root.PersistentFlags()
	all.StringVar(&f.logFormat, "log-format", "text", "text or json")
	all.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
	root.AddCommand(
		&cobra.Command{
			Use: "version", Short: "Print the version", Args: cobra.NoArgs,
			RunE: func(*cobra.Command, []string) error {
				_, err := fmt.Fprintln(stdout, version.Version())
				return err
			},
		},
		demoCommand(&f, stdout, stderr),
		manualCommand(stdout),
	)
	return root
}

func demoCommand(f *flags, stdout, stderr io.Writer) *cobra.Command {
	var o demo.Options
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Start an SFTP and an FTP server with sample files, mount them, and say what to try",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if f.logLevel == "info" { // the demonstration is for reading, not its log
				f.logLevel = "error"
			}
			log, err := logger(*f, stderr)
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			o.Out, o.Logger = stdout, log
			return demo.Run(ctx, o)
		},
	}
	cmd.Flags().DurationVar(&o.For, "for", 0, "end by itself after this long")
	cmd.Flags().StringVar(&o.Dir, "dir", "", "mount the SFTP server here, not in a new directory")
	return cmd
}

// afterwards is what the manual says besides commands and flags.
const afterwards = "# SIGNALS\n\n| Signal | Meaning |\n|---|---|\n" +
	"| SIGHUP | the definitions are read again, and what changed is done; servers that are away are asked again at once |\n" +
	"| SIGTERM, SIGINT | what is written is published, and what is owed is sent, for at most `drainTimeout` of each connection; then everything is unmounted |\n\n" +
	"# EXIT STATUS\n\n0 if nothing is owed to any server and nothing was put into quarantine, 74 if something is. 64 for a command line that makes no sense, " +
	"71 if this machine lacks something such as /dev/fuse, 73 if another daemon uses the same directories; **pierfs**(1) lists them all.\n\n"

func manualCommand(stdout io.Writer) *cobra.Command {
	var date string
	cmd := &cobra.Command{Use: "manual", Short: "Print the manual page, for man(1)", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			root := cmd.Root()
			p := manual.Page{Name: "pierfsd", Section: 8, Short: root.Short, Version: version.Version(), Date: date,
				Sections: afterwards + manual.Files + manual.Environment, SeeAlso: []string{"pierfs(1)", "pierfs.toml(5)", "mount.pierfs(8)"}}
			_, err := stdout.Write(p.Commands(root))
			return err
		}}
	cmd.Flags().StringVar(&date, "date", "", "what the page tells as its date")
	return cmd
}

func serve(f flags, stderr io.Writer) error {
	log, err := logger(f, stderr)
	if err != nil {
		return err
	}
	whole := f
	whole.logLevel = "debug" // of which the daemon leaves out what its level, or a connection's own, does not have
	everything, err := logger(whole, stderr)
	if err != nil {
		return err
	}
	for _, dir := range []*string{&f.dirs.Config, &f.dirs.State, &f.dirs.Cache, &f.dirs.Runtime, &f.dirs.MountRoot} {
		if *dir, err = absolute(*dir); err != nil {
			return err
		}
	}
	if err := daemon.Harden(); err != nil {
		return fmt.Errorf("keep secrets out of core files: %w", err)
	}
	daemon.LimitMemory(log)
	known := f.dirs
	if f.private {
		known.State = readable(f.dirs.State, f.dirs.Runtime)
	}
	floor, err := daemon.Real(known)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	d := daemon.New(daemon.Options{
		Dirs:     f.dirs,
		Version:  version.Version(),
		Logger:   everything,
		LogLevel: levelOf(log),
		Plan:     func(context.Context) daemon.Plan { return daemon.ReadPlan(f.dirs.Config, f.dirs.MountRoot) },
		Floor:    floor,
		Notify:   daemon.Notify(log),
		ExitIdle: f.exitIdle,

		MetricsAddress: f.metrics,
	})
	if f.private {
		return d.RunPrivate(untilEnd(ctx, os.Stdin))
	}
	return d.Run(ctx, hangups)
}

// readable returns dir, or other if there is nothing in dir, or nothing for us: whose trust cannot be read trusts nobody.
func readable(dir, other string) string {
	if file, err := os.Open(filepath.Join(dir, "trust")); err == nil {
		file.Close()
		return dir
	}
	return other
}

// untilEnd returns a context that ends with ctx, or when whoever writes to in has closed it or died.
func untilEnd(ctx context.Context, in io.Reader) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	go func() { // ends with the process, if not before
		defer cancel()
		_, _ = io.Copy(io.Discard, in) // an error is an end too
	}()
	return ctx
}

// absolute returns dir as a path that keeps its meaning, with the links above it followed: what the kernel calls a mount
// point is compared with it.
func absolute(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	for above, rest := dir, ""; ; above, rest = filepath.Dir(above), filepath.Join(filepath.Base(above), rest) {
		real, err := filepath.EvalSymlinks(above)
		if err == nil {
			return filepath.Join(real, rest), nil
		}
		if !errors.Is(err, os.ErrNotExist) || above == "/" {
			return "", err
		}
	}
}

// levelOf is the least level that log takes.
func levelOf(log *slog.Logger) slog.Level {
	for _, level := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn} {
		if log.Enabled(context.Background(), level) {
			return level
		}
	}
	return slog.LevelError
}

func logger(f flags, w io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(f.logLevel)); err != nil {
		return nil, usageError{fmt.Errorf("--log-level %q is none of debug, info, warn, error", f.logLevel)}
	}
	o := &slog.HandlerOptions{Level: level}
	switch strings.ToLower(f.logFormat) {
	case "text":
		return slog.New(slog.NewTextHandler(w, o)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(terminal.JSONWriter(w), o)), nil
	}
	return nil, usageError{fmt.Errorf("--log-format %q is none of text, json", f.logFormat)}
}
