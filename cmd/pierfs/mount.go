package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"crypto/rand"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"pierfs/cmd/internal/control"
	"pierfs/cmd/internal/terminal"
)

// umask returns what new files of this process lack. Asking sets it for a moment, which no other goroutine minds: this
// process makes no other file meanwhile.
func umask() os.FileMode {
	mask := unix.Umask(0)
	unix.Umask(mask)
	return os.FileMode(mask)
}

// passwordVariable hands a password to the hand. It goes no further than the socket: a daemon that the hand starts does
// not inherit it.
const passwordVariable = "PIERFS_PASSWORD"

type mountFlags struct {
	options      []string
	passwordFile string
	hostKey      string
	ca           string
	trustCert    string
	trustNew     bool
	noPassword   bool
	offlineOK    bool
}

func (h *hand) mountCommand() *cobra.Command {
	var f mountFlags
	cmd := &cobra.Command{
		Use:   "mount NAME | mount URL DIR",
		Short: "Mount a defined connection again, or a server without any definition",
		Args:  args(cobra.RangeArgs(1, 2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			isURL := strings.Contains(args[0], "://")
			switch {
			case isURL && len(args) == 2:
				return h.mountURL(cmd.Context(), args[0], args[1], f)
			case !isURL && len(args) == 1:
				a, err := control.Mount.Call(cmd.Context(), h.client(), control.MountRequest{Name: args[0], Environment: h.environment})
				return h.mounted(a, err, f.offlineOK)
			}
			if !isURL {
				return control.Errorf(control.Usage, "%s is a connection, and is mounted where its definition says", args[0]).
					WithHint("`pierfs edit %s --set mountPoint=%s` makes that its place; `pierfs mount %s` mounts it", args[0], args[1], args[0])
			}
			return usageError{errors.New("it is written: mount NAME, or mount sftp://user@host:port/dir DIR; ftp://, ftpes:// and ftps:// are known too")}
		},
	}
	offlineFlag(cmd, &f.offlineOK)
	set := cmd.Flags()
	set.StringArrayVarP(&f.options, "option", "o", nil, "fields of the definition: KEY=VALUE,...")
	set.StringVar(&f.passwordFile, "password-file", "", "read the password from this file's first line; - reads it from standard input")
	set.BoolVar(&f.noPassword, "no-password", false, "ask for none: a key or agent logs in")
	set.StringVar(&f.hostKey, "host-key", "", "the only host key to accept: SHA256:...")
	set.StringVar(&f.ca, "ca", "", "authorities that may have signed the certificate of an FTPS server, in place of the system's: a PEM file, or a directory of such")
	set.StringVar(&f.trustCert, "trust-cert", "", "the only certificate to accept of an FTPS server: SHA256:..., or as openssl x509 -fingerprint -sha256 prints it")
	set.BoolVar(&f.trustNew, "trust-new", false, "trust the host key or certificate if nothing is known of the server yet")
	return cmd
}

func (h *hand) umountCommand() *cobra.Command {
	var q control.UmountRequest
	var owed owedFlags
	cmd := &cobra.Command{Use: "umount NAME|DIR", Aliases: []string{"unmount"}, Short: "Unmount a connection, or a mount without definition", Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if err := owed.check(); err != nil {
				return err
			}
			q.Name, q.Environment, q.Keep = args[0], h.environment, owed.keep
			if strings.HasPrefix(args[0], ".") || strings.HasPrefix(args[0], "/") || h.isLocalDir(cmd.Context(), args[0]) {
				if q.Name, err = realDir(args[0]); err != nil {
					return err
				}
			}
			var a control.MountAnswer
			err = h.paid(cmd.Context(), owed, q.Name, func() (err error) {
				a, err = control.Umount.Call(cmd.Context(), h.client(), q)
				return err
			})
			if err != nil {
				return err
			}
			if q.DryRun && !h.asJSON {
				return h.wouldUnmount(a)
			}
			return h.unmounted(a)
		}}
	owed.add(cmd)
	cmd.Flags().BoolVarP(&q.DryRun, "dry-run", "n", false, "tell what would be unmounted, or what stands in the way, and change nothing")
	cmd.Flags().BoolVarP(&q.Force, "force", "f", false, "also while programs have files open: they get some seconds, then they are cut off")
	return cmd
}

// isLocalDir reports whether arg, written without a slash or dot before it, is meant as a directory: no connection is called
// so, and a mount without definition stands there.
func (h *hand) isLocalDir(ctx context.Context, arg string) bool {
	dir, err := realDir(arg)
	if err != nil {
		return false
	}
	a, err := control.List.Call(ctx, h.client(), control.ListRequest{})
	if err != nil {
		return false
	}
	isDir := false
	for _, c := range a.Connections {
		if c.Name == arg {
			return false
		}
		isDir = isDir || c.Dir == dir
	}
	return isDir
}

// realDir returns dir as an absolute path in which only the last element may be a link: a dead mount may lie there, which
// must not be touched.
func realDir(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	above, err := filepath.EvalSymlinks(filepath.Dir(dir))
	if err != nil {
		return "", err
	}
	return filepath.Join(above, filepath.Base(dir)), nil
}

// unmounted tells what is no longer mounted, and what mounts it again.
func (h *hand) wouldUnmount(a control.MountAnswer) error {
	for _, c := range a.Connections {
		fmt.Fprintf(h.out, "would be unmounted: %s, from %s\n", terminal.Quote(fullName(c)), terminal.Quote(c.Dir))
	}
	return nil
}

func (h *hand) unmounted(a control.MountAnswer) error {
	if h.asJSON {
		return h.json(a)
	}
	for _, c := range a.Connections {
		again := ""
		if !c.AdHoc {
			again = "; `pierfs mount " + c.Name + "` or the daemon's next start mounts it again"
		}
		fmt.Fprintf(h.out, "unmounted: %s%s\n", terminal.Quote(fullName(c)), terminal.Quote(again))
	}
	h.kept(a.Owing)
	return nil
}

// mounted prints what was mounted. A mount stands also while its server is away; the status tells it all the same.
func (h *hand) mounted(a control.MountAnswer, err error, offlineOK bool) error {
	if err != nil {
		return err
	}
	if h.asJSON {
		if err := h.json(a); err != nil {
			return err
		}
		return failedMounts(a.Connections, offlineOK)
	}
	h.findings(h.err, a.Findings)
	if a.Trusted != nil {
		if err := h.printTrusted(*a.Trusted); err != nil {
			return err
		}
	}
	if err := h.standing(a.Connections); err != nil {
		return err
	}
	return failedMounts(a.Connections, offlineOK)
}

func (h *hand) mountURL(ctx context.Context, url, dir string, f mountFlags) error {
	dir, err := realDir(dir)
	if err != nil {
		return err
	}
	password, err := h.password(url, f)
	if err != nil {
		return err
	}
	q := control.MountURLRequest{URL: url, Password: control.Seal(password), Dir: dir, HostKey: f.hostKey, TrustNew: f.trustNew}
	for _, o := range f.options {
		for option := range strings.SplitSeq(o, ",") {
			if option != "" {
				q.Options = append(q.Options, option)
			}
		}
	}
	own, err := f.certificates()
	if err != nil {
		return err
	}
	q.Options = append(q.Options, own...)
	a, err := h.mountThere(ctx, q)
	return h.mounted(a, err, f.offlineOK)
}

// certificates are the options for --ca and --trust-cert. The daemon has another working directory than this process.
func (f mountFlags) certificates() ([]string, error) {
	var options []string
	if f.ca != "" {
		file, err := filepath.Abs(f.ca)
		if err != nil {
			return nil, err
		}
		options = append(options, "caFile="+file)
	}
	if f.trustCert != "" {
		options = append(options, "trustCert="+f.trustCert)
	}
	return options, nil
}

// mountThere asks the daemon, and starts one if none runs. One that is just ending, because the last mount has gone, is
// waited for.
func (h *hand) mountThere(ctx context.Context, q control.MountURLRequest) (control.MountAnswer, error) {
	const rounds = 3
	c := h.client()
	defer c.Close()
	for round := 1; ; round++ {
		_, err := control.Status.Call(ctx, c, control.StatusRequest{})
		if control.CodeOf(err) == control.NotRunning {
			err = h.startDaemon(ctx)
		}
		if err != nil && control.CodeOf(err) != control.Cut {
			return control.MountAnswer{}, err
		}
		a, err := control.MountURL.Call(ctx, c, q)
		code := control.CodeOf(err)
		if round == rounds || code != control.Stopping && code != control.NotRunning && code != control.Cut {
			return a, err
		}
		if err := h.awaitGone(ctx, c); err != nil {
			return a, err
		}
	}
}

// awaitGone waits until a daemon that is ending has ended.
func (h *hand) awaitGone(ctx context.Context, c *control.Client) error {
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := control.Status.Call(ctx, c, control.StatusRequest{}); err != nil && ctx.Err() == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return control.Errorf(control.Stopping, "the daemon that is stopping does not end").WithHint("see its log, and `pierfs status`")
		case <-tick.C:
		}
	}
}

// password finds the password of a mount: in a file, in the environment, or with a person.
func (h *hand) password(url string, f mountFlags) (string, error) {
	switch value, set := os.LookupEnv(passwordVariable); {
	case f.noPassword:
		return "", nil
	case f.passwordFile == "-":
		return firstLine(h.in)
	case f.passwordFile != "":
		file, err := os.Open(f.passwordFile)
		if err != nil {
			return "", err
		}
		defer file.Close()
		return firstLine(file)
	case set:
		return value, nil
	case isTerminal(h.in):
	case wantsPassword(url, f.options):
		return "", usageError{errors.New("there is no password for " + terminal.Quote(url) + ", and no terminal to ask at: give --password-file FILE or $" +
			passwordVariable + ", or --no-password if the server wants none")}
	default:
		return "", nil // a key or an agent
	}
	fmt.Fprintf(h.err, "password for %s (empty for none): ", terminal.Quote(url))
	text, err := term.ReadPassword(int(h.in.(*os.File).Fd()))
	fmt.Fprintln(h.err)
	return string(text), err
}

// wantsPassword reports whether nothing but a password logs in at a URL: with FTP, unless the login is anonymous. An empty one
// would be sent, and counted against the account. What is wrong with a URL the daemon says.
func wantsPassword(at string, options []string) bool {
	scheme, _, _ := strings.Cut(strings.ToLower(at), "://")
	u, err := url.Parse(at)
	if err != nil || !slices.Contains([]string{"ftp", "ftpes", "ftps"}, scheme) {
		return false
	}
	user := u.User.Username()
	for option := range strings.SplitSeq(strings.Join(options, ","), ",") {
		if name, ok := strings.CutPrefix(option, "username="); ok {
			user = name
		}
	}
	_, inside := u.User.Password()
	return !inside && !slices.Contains([]string{"", "anonymous", "ftp"}, user)
}

func firstLine(r io.Reader) (string, error) {
	text, err := io.ReadAll(io.LimitReader(r, 64<<10))
	if err != nil {
		return "", err
	}
	line, _, _ := bytes.Cut(text, []byte("\n"))
	return string(bytes.TrimSuffix(line, []byte("\r"))), nil
}

// startWithin is how long a daemon may take until it is ready.
const startWithin = 90 * time.Second

// startDaemon starts pierfsd in a session of its own and returns when it is ready. It ends by itself once nothing is mounted.
func (h *hand) startDaemon(ctx context.Context) error {
	program, err := findDaemon()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(h.dirs.State, 0o700); err != nil {
		return err
	}
	logFile := h.dirs.Log()
	log, err := os.OpenFile(logFile, os.O_WRONLY|os.O_CREATE|os.O_APPEND|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(program, "--runtime-dir", h.dirs.Runtime, "--config-dir", h.dirs.Config, "--exit-idle")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	_, err = launch(ctx, cmd, logFile)
	return err
}

// launch starts a daemon, without the password that this process may have been given, and returns when it is ready. What it
// returns is told once the daemon has ended.
func launch(ctx context.Context, cmd *exec.Cmd, logFile string) (<-chan error, error) {
	// The daemon says that it is ready as it says it to systemd: over a socket whose abstract name nobody can guess.
	name := "@pierfs-" + rand.Text()
	ready, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		return nil, err
	}
	defer ready.Close()
	for _, entry := range os.Environ() {
		if !strings.HasPrefix(entry, passwordVariable+"=") && !strings.HasPrefix(entry, "NOTIFY_SOCKET=") {
			cmd.Env = append(cmd.Env, entry)
		}
	}
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+name)
	if err := cmd.Start(); err != nil {
		return nil, control.Errorf(control.NotRunning, "start %s: %v", cmd.Path, err).WithHint("`%s version` tells whether this machine can run it", cmd.Path)
	}
	ended := make(chan error, 2) // one for awaitReady, one for the caller
	go func() {                  // reaps it if it ends at once; else this process ends first
		err := cmd.Wait()
		ended <- err
		ended <- err
		ready.Close()
	}()
	return ended, awaitReady(ctx, ready, ended, logFile)
}

// awaitReady reads what the daemon tells its service manager until it is ready, has ended, or takes too long.
func awaitReady(ctx context.Context, ready *net.UnixConn, ended <-chan error, logFile string) error {
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { ready.Close() })
	defer stop()
	for message := make([]byte, 4096); ; {
		n, err := ready.Read(message)
		if err == nil && bytes.HasPrefix(message[:n], []byte("READY=1")) {
			return nil
		}
		if err == nil {
			continue
		}
		select {
		case <-ended:
			return control.Errorf(control.NotRunning, "pierfsd ended at once: %s", lastLine(logFile)).WithHint("its log is %s", logFile)
		default:
			return control.Errorf(control.Timeout, "pierfsd is not ready").WithHint("its log is %s", logFile)
		}
	}
}

// lastLine returns the end of a log, for a message.
func lastLine(file string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return "its log cannot be read"
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return lines[len(lines)-1]
}

// findDaemon looks beside this program, then in $PATH.
func findDaemon() (string, error) {
	if self, err := os.Executable(); err == nil {
		if beside := filepath.Join(filepath.Dir(self), "pierfsd"); isExecutable(beside) {
			return beside, nil
		}
	}
	program, err := exec.LookPath("pierfsd")
	if err != nil {
		return "", control.Errorf(control.NotRunning, "no daemon runs, and there is no pierfsd to start").
			WithHint("install pierfsd beside pierfs or in $PATH, or name a running daemon with --runtime-dir")
	}
	return filepath.Abs(program)
}

func isExecutable(file string) bool {
	info, err := os.Stat(file)
	return err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0
}
