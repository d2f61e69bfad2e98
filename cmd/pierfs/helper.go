package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"pierfs/cmd/internal/control"
	"pierfs/cmd/internal/terminal"
)

// The names under which mount(8) and umount(8) call this program: for -t pierfs, and for what the kernel calls fuse.pierfs.
const (
	mountHelper  = "mount.pierfs"
	umountHelper = "umount.fuse.pierfs"
)

// Exit statuses of mount(8), which its helpers share.
const (
	mountUsage     = 1
	mountInternal  = 4
	mountInterrupt = 8
	mountFailed    = 32
)

// helperStatus is the exit status of mount(8) for a failure.
func helperStatus(err error) int {
	switch code := asControl(err).Code; {
	case errors.Is(err, context.Canceled):
		return mountInterrupt
	case code == control.Usage || code == control.NotAllowed:
		return mountUsage
	case code == control.Internal:
		return mountInternal
	}
	return mountFailed
}

// runHelper runs this program as the helper of mount(8) or umount(8) that name says.
func runHelper(ctx context.Context, name string, args []string, in io.Reader, out, errOut io.Writer) int {
	h := newHand(in, out, errOut)
	cmd := h.mountHelperCommand()
	if name == umountHelper {
		cmd = h.umountHelperCommand()
	}
	cmd.SetArgs(args)
	cmd.SetOut(out)
	cmd.SetErr(errOut)
	err := cmd.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	e := asControl(err)
	fmt.Fprintf(errOut, "%s: %s\n", name, terminal.Quote(e.Text))
	h.wayOut(errOut, e.Findings, e.Hint)
	return helperStatus(err)
}

// helperFlags are what mount(8) and umount(8) hand to their helpers besides options, and what means nothing here.
type helperFlags struct {
	fake, sloppy bool
	ignored      bool
	text         string
}

func (f *helperFlags) add(cmd *cobra.Command) {
	set := cmd.Flags()
	set.BoolVarP(&f.fake, "fake", "f", false, "check the options, and mount nothing")
	set.BoolVarP(&f.sloppy, "sloppy", "s", false, "pass over options that are not known")
	set.BoolVarP(&f.ignored, "no-mtab", "n", false, "means nothing: there is no mtab")
	set.BoolVarP(&f.ignored, "verbose", "v", false, "means nothing: what is to say is said")
	set.StringVarP(&f.text, "namespace", "N", "", "means nothing: the daemon mounts")
	set.StringVarP(&f.text, "type", "t", "", "means nothing: there is one type")
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	cmd.CompletionOptions.DisableDefaultCmd, cmd.DisableFlagsInUseLine = true, true
}

// helperWithin is how long mount(8) waits, for a daemon that is starting and for the mount.
const helperWithin = 60 * time.Second

func (h *hand) mountHelperCommand() *cobra.Command {
	var f helperFlags
	var options []string
	cmd := &cobra.Command{Use: mountHelper + " NAME|URL DIR [-fsnv] [-o OPTION,...]", Short: "Mount a connection of pierfs by mount(8) and fstab(5)", Args: args(cobra.ExactArgs(2)),
		Long: `mount(8) calls it for the type pierfs; nobody needs to call it by hand.

NAME or PROJECT/NAME is a connection that is defined. It is mounted where its definition says, at its mountPoint or at
MOUNTROOT/ENV/NAME, and nowhere else: DIR must be that place, so that there are not two truths. The daemon must run, or come up
within the timeout. It returns when the mount stands, which the daemon mounts again by itself after whatever happens. A server
that is away is told, and is no failure: the mount stands, and programs get errors until the server is back.

URL is a server without a definition, as pierfs mount takes it; its options are the fields of a definition. The server must
answer then.`,
		Example: "  mount -t pierfs bank /srv/pierfs/Production/bank\n  mount -t pierfs bank /mnt/bank -o env=Production,ro\n" +
			"  mount -t pierfs sftp://batch@files.example/in /mnt/in -o passwordFile=/root/secret,hostKey=SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU",
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := h.readHelperOptions(options, f.sloppy)
			if err != nil || f.fake {
				return err
			}
			return h.helpMount(cmd.Context(), args[0], args[1], m)
		}}
	f.add(cmd)
	cmd.Flags().StringArrayVarP(&options, "options", "o", nil, "options, with commas between them: see OPTIONS OF MOUNTS")
	return cmd
}

// helperOptions are the options of one mount.
type helperOptions struct {
	readOnly bool
	within   time.Duration
	mount    mountFlags
	fields   []string // what is not for the helper itself
	sloppy   bool
}

// forOthers are options that mount(8), systemd or the boot mean for themselves, or that hold for every mount of ours.
var forOthers = []string{"rw", "defaults", "auto", "noauto", "nofail", "_netdev", "user", "nouser", "users", "owner", "group", "nosuid", "nodev",
	"exec", "async", "relatime", "noatime", "nodiratime", "lazytime", "silent", "loud"}

func (h *hand) readHelperOptions(given []string, sloppy bool) (helperOptions, error) {
	m := helperOptions{within: helperWithin, sloppy: sloppy}
	for option := range strings.SplitSeq(strings.Join(given, ","), ",") {
		key, value, _ := strings.Cut(option, "=")
		var err error
		switch {
		case option == "", slices.Contains(forOthers, key), strings.HasPrefix(key, "x-"), strings.HasPrefix(key, "comment"):
		case key == "ro":
			m.readOnly = true
		case key == "env":
			h.environment = value
		case key == "timeout":
			m.within, err = time.ParseDuration(value)
		case key == "runtimeDir":
			h.dirs.Runtime = value
		case key == "passwordFile":
			m.mount.passwordFile = value
		case key == "hostKey":
			m.mount.hostKey = value
		default:
			m.fields = append(m.fields, option)
		}
		if err != nil || key == "timeout" && m.within <= 0 {
			return m, usageError{fmt.Errorf("timeout=%s is no duration such as 60s", value)}
		}
	}
	return m, nil
}

func (h *hand) helpMount(ctx context.Context, source, dir string, m helperOptions) error {
	ctx, cancel := context.WithTimeoutCause(ctx, m.within, errNotInTime)
	defer cancel()
	if err := h.awaitDaemon(ctx); err != nil {
		return err
	}
	place, err := realDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		place, err = filepath.Abs(dir) // what is missing above it the daemon makes, if it is to be there
	}
	if err != nil {
		return err
	}
	dir = place
	if strings.Contains(source, "://") {
		if m.readOnly {
			m.fields = append(m.fields, "ro")
		}
		m.mount.options = m.fields
		if isTerminal(h.in) && m.mount.passwordFile == "" {
			m.mount.noPassword = true // nobody is asked in the middle of mount(8)
		}
		return h.mountURL(ctx, source, dir, m.mount)
	}
	if len(m.fields) > 0 && !m.sloppy {
		return control.Errorf(control.Usage, "option %s is not known of a connection that is defined", m.fields[0]).
			WithHint("fields stand in the definition: pierfs edit %s --set %s; mount knows env, ro, timeout and runtimeDir", source, m.fields[0])
	}
	return h.mountDefined(ctx, source, dir, m)
}

var errNotInTime = control.Errorf(control.Timeout, "it was not mounted in time").WithHint("see the daemon's log; -o timeout=2m waits longer")

// awaitDaemon waits for a daemon that is starting. None is started here: that is the service manager's.
func (h *hand) awaitDaemon(ctx context.Context) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var away *control.Error
	for {
		_, err := control.List.Call(ctx, h.client(), control.ListRequest{})
		switch code := control.CodeOf(err); {
		case code == control.NotRunning, code == control.Cut:
			away = asControl(err)
		case ctx.Err() == nil || away == nil:
			return err
		}
		select {
		case <-ctx.Done():
			return away.WithHint("systemctl start pierfsd; in fstab x-systemd.requires=pierfsd.service has it started before")
		case <-tick.C:
		}
	}
}

// mountDefined has the daemon mount a connection that is defined, and returns when it stands on dir.
func (h *hand) mountDefined(ctx context.Context, name, dir string, m helperOptions) error {
	is, err := control.Show.Call(ctx, h.client(), control.ShowRequest{Name: name, Environment: h.environment})
	if err != nil {
		return err
	}
	if is.Dir != "" && is.Dir != dir {
		return control.Errorf(control.Usage, "%s belongs on %s, not on %s", fullName(is.Connection), is.Dir, dir).
			WithHint("pierfs edit %s --set %s.mountPoint=%s makes that its place, if %s is the first active environment", name, is.Environment, dir, is.Environment)
	}
	if m.readOnly && !is.ReadOnly {
		return control.Errorf(control.Usage, "%s may be written to, and ro was asked for", fullName(is.Connection)).
			WithHint("pierfs edit %s --set %s.readOnly=true makes it so for everybody", name, is.Environment)
	}
	a, err := control.Mount.Call(ctx, h.client(), control.MountRequest{Name: name, Environment: h.environment})
	if err != nil {
		return err
	}
	for _, c := range a.Connections {
		switch code := c.NotReady(); {
		case code == "":
		case c.State == control.StateOffline:
			fmt.Fprintf(h.err, "%s: %s is mounted, and offline: %s\n", mountHelper, terminal.Quote(fullName(c)), terminal.Quote(c.Reason))
			h.wayOut(h.err, nil, c.Hint)
		default:
			e := control.Errorf(code, "%s is not mounted: %s", fullName(c), c.Reason)
			e.Hint, e.Findings = c.Hint, c.Findings
			return e
		}
	}
	return standsHere(dir)
}

// standsHere fails where a mount cannot be seen from here: a daemon in a mount namespace of its own mounts for nobody else.
func standsHere(dir string) error {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	defer file.Close()
	escaped := strings.NewReplacer(" ", `\040`, "\t", `\011`, "\n", `\012`, `\`, `\134`).Replace(dir)
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) > 4 && fields[4] == escaped {
			return nil
		}
	}
	return control.Errorf(control.System, "the daemon has mounted %s where nobody else sees it", dir).
		WithHint("it runs in a mount namespace of its own: its unit must not have PrivateMounts=, PrivateTmp=, ProtectSystem= and the like")
}

func (h *hand) umountHelperCommand() *cobra.Command {
	var f helperFlags
	var lazy, rest bool
	cmd := &cobra.Command{Use: umountHelper + " DIR", Short: "Unmount a connection by umount(8)", Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := realDir(args[0])
			if err != nil {
				return err
			}
			_, err = control.Umount.Call(cmd.Context(), h.client(), control.UmountRequest{Name: filepath.Clean(dir), Force: f.fake || lazy})
			if control.CodeOf(err) == control.NotRunning { // what a dead daemon left behind
				err = syscall.Unmount(dir, syscall.MNT_DETACH)
			}
			return err
		}}
	f.add(cmd)
	cmd.Flags().BoolVarP(&lazy, "lazy", "l", false, "also while programs have files open: they get some seconds, then they are cut off")
	cmd.Flags().BoolVarP(&rest, "read-only", "r", false, "means nothing")
	return cmd
}
