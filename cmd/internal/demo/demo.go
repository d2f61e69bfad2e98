// Package demo shows pierfs at work without any configuration: an SFTP server on the loopback interface with sample files, a
// daemon, and a mount, all in this process and all gone when it ends. It is for people to try; nothing is tested against it.
package demo

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"pierfs/cmd/internal/control"
	"pierfs/cmd/internal/daemon"
	"pierfs/cmd/internal/dirs"
	"pierfs/cmd/internal/version"
)

// Options are what Run needs.
type Options struct {
	Out    io.Writer
	Logger *slog.Logger
	For    time.Duration // end by itself after this long; 0 runs until ctx ends
	Dir    string        // mount here; "" makes a directory
}

const environment, name = "Development", "demo"

// Run starts everything, says what to try, and takes everything away again when ctx ends.
func Run(ctx context.Context, o Options) (err error) {
	if o.For > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.For)
		defer cancel()
	}
	if err := checkFuse(); err != nil {
		return err
	}
	base, err := os.MkdirTemp("", "pierfs-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(base)) }()
	remote := filepath.Join(base, "server")
	if err := samples(remote); err != nil {
		return err
	}
	password := rand.Text()
	server, err := startServer(password, remote, o.Logger)
	if err != nil {
		return err
	}
	defer server.close()
	d := dirs.Dirs{Config: filepath.Join(base, "etc"), State: filepath.Join(base, "state"), Cache: filepath.Join(base, "cache"),
		Runtime: filepath.Join(base, "run"), MountRoot: filepath.Join(base, "mnt")}
	if err := define(d.Config, server.address, server.fingerprint, password, remote, o.Dir); err != nil {
		return err
	}
	return live(ctx, d, o, func(mount string) error { return greet(o.Out, d, mount, remote) })
}

// checkFuse says what is missing before anything is started.
func checkFuse() error {
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err == nil {
		return f.Close()
	}
	e := control.Errorf(control.System, "nothing can be mounted on this machine: %v", err)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return e.WithHint("run `modprobe fuse`; in a container, start it with --device /dev/fuse --cap-add SYS_ADMIN")
	case errors.Is(err, os.ErrPermission):
		return e.WithHint("run it as root, or have root `chmod 0666 /dev/fuse`, as distributions do")
	}
	return e
}

// samples makes the files that the server shows.
func samples(dir string) error {
	for file, text := range map[string]string{
		"README.txt":           "This file lies on an SFTP server. Edit it: when your editor has saved, the server has it.\n",
		"orders/2026-11.csv":   "id,customer,total\n1,Harbour Ltd,120.00\n2,Pier & Sons,75.50\n",
		"orders/2026-10.csv":   "id,customer,total\n1,Quay GmbH,310.00\n",
		"logs/transfer.log":    strings.Repeat("2026-11-03T04:05:06Z INFO 1 file received\n", 200),
		"inbox/put-files-here": "",
	} {
		path := filepath.Join(dir, file)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			return err
		}
	}
	return nil
}

// define writes what an operator would: one definition, and which environment is active.
func define(dir, address, fingerprint, password, remote, mountPoint string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	text := fmt.Sprintf("protocol = \"SFTP\"\nhost = %q\nport = %s\nusername = \"demo\"\npassword = %q\nworkingDir = %q\nhostKey = %q\n",
		host, port, password, remote, fingerprint)
	if mountPoint != "" {
		if mountPoint, err = filepath.Abs(mountPoint); err != nil {
			return err
		}
		text += fmt.Sprintf("mountPoint = %q\n", mountPoint)
	}
	connections := filepath.Join(dir, "connections")
	return errors.Join(
		os.MkdirAll(connections, 0o700),
		os.WriteFile(filepath.Join(dir, "pierfs.toml"), fmt.Appendf(nil, "activeEnvironments = [%q]\n", environment), 0o600),
		os.WriteFile(filepath.Join(connections, name+".toml"), []byte(text), 0o600),
	)
}

// live runs the daemon until ctx ends, and calls ready once the mount stands. What it made unwritable is writable again when
// it returns, so that it can be removed.
func live(ctx context.Context, d dirs.Dirs, o Options, ready func(mount string) error) error {
	floor, err := daemon.Real(d)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	up := make(chan struct{}, 1)
	running := daemon.New(daemon.Options{
		Dirs: d, Version: version.Version(), Logger: o.Logger, Floor: floor, ReleasePoints: true,
		Plan: func(context.Context) daemon.Plan { return daemon.ReadPlan(d.Config, d.MountRoot) },
		Notify: func(state string) {
			if strings.HasPrefix(state, "READY=1") {
				select {
				case up <- struct{}{}:
				default:
				}
			}
		},
	})
	ended := make(chan error, 1)
	go func() { ended <- running.Run(ctx, nil) }() // waited for below
	select {
	case err := <-ended:
		return err
	case <-up:
	}
	err = stands(ctx, d)
	if err == nil {
		c, listErr := mounted(ctx, d)
		if err = listErr; err == nil {
			err = ready(c.Dir)
		}
	}
	if err == nil {
		<-ctx.Done()
		fmt.Fprintln(o.Out, "\ntaking everything away ...")
	}
	cancel()
	return errors.Join(err, <-ended)
}

// mounted returns the one connection.
func mounted(ctx context.Context, d dirs.Dirs) (control.Connection, error) {
	client := control.NewClient(d.Runtime)
	defer client.Close()
	answer, err := control.List.Call(ctx, client, control.ListRequest{})
	if err != nil {
		return control.Connection{}, err
	}
	if len(answer.Connections) != 1 {
		return control.Connection{}, fmt.Errorf("%d connections are listed where one was defined", len(answer.Connections))
	}
	return answer.Connections[0], nil
}

func stands(ctx context.Context, d dirs.Dirs) error {
	c, err := mounted(ctx, d)
	if err == nil && c.State != control.StateReady {
		err = control.Errorf(control.NotMounted, "the mount is %s: %s", c.State, c.Reason)
	}
	return err
}

func greet(out io.Writer, d dirs.Dirs, mount, remote string) error {
	w := bufio.NewWriter(out)
	fmt.Fprintf(w, `
An SFTP server runs on the loopback interface, and its files are mounted as a local directory:

  %[1]s

Try, in another terminal:

  ls -lR %[1]s
  cat %[1]s/README.txt
  cp /etc/hosts %[1]s/inbox/ && ls -l %[2]s/inbox     # the server's own side
  ${EDITOR:-vi} %[1]s/orders/2026-11.csv

And with the operator's hand:

  export PIERFS_RUNTIME_DIR=%[3]s
  pierfs status
  pierfs test %[4]s
  pierfs ls %[4]s:/orders

Ctrl-C ends it and leaves nothing behind.
`, mount, remote, d.Runtime+hand(), name)
	return w.Flush()
}
