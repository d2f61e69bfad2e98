// Package demo shows pierfs at work without any configuration: an SFTP and an FTP server on the loopback interface with sample
// files, a daemon, and a mount of each, all in this process and all gone when it ends. It is for people to try; nothing of the
// product is tested against it.
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
	Dir    string        // mount the SFTP server here; "" makes a directory
}

const environment, name, nameFTP = "Development", "demo", "demo-ftp"

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
	remote, remoteFTP := filepath.Join(base, "server"), filepath.Join(base, "ftp-server")
	if err := errors.Join(samples(remote, "an SFTP"), samples(filepath.Join(remoteFTP, "files"), "an FTP")); err != nil {
		return err
	}
	password := rand.Text()
	server, fingerprint, err := startSFTP(password, remote, o.Logger)
	if err != nil {
		return err
	}
	defer server.close()
	ftp, err := startFTP(password, remoteFTP, o.Logger)
	if err != nil {
		return err
	}
	defer ftp.close()
	d := dirs.Dirs{Config: filepath.Join(base, "etc"), State: filepath.Join(base, "state"), Cache: filepath.Join(base, "cache"),
		Runtime: filepath.Join(base, "run"), MountRoot: filepath.Join(base, "mnt")}
	sftp := definition{name: name, protocol: "SFTP", address: server.address, workingDir: remote, hostKey: fingerprint}
	if o.Dir != "" {
		if sftp.mountPoint, err = filepath.Abs(o.Dir); err != nil {
			return err
		}
	}
	err = define(d.Config, password, sftp, definition{name: nameFTP, protocol: "FTP", address: ftp.address, workingDir: "/files"})
	if err != nil {
		return err
	}
	return live(ctx, d, o, func(mounts map[string]string) error {
		return greet(o.Out, d, mounts, remote, filepath.Join(remoteFTP, "files"))
	})
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

// samples makes the files that a server shows.
func samples(dir, kind string) error {
	for file, text := range map[string]string{
		"README.txt":           "This file lies on " + kind + " server. Edit it: when your editor has saved, the server has it.\n",
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

// definition is a connection as an operator would write it.
type definition struct {
	name, protocol, address, workingDir string
	hostKey, mountPoint                 string // may be empty
}

// text is the definition as a file.
func (d definition) text(password string) (string, error) {
	host, port, err := net.SplitHostPort(d.address)
	if err != nil {
		return "", err
	}
	text := fmt.Sprintf("protocol = %q\nhost = %q\nport = %s\nusername = %q\npassword = %q\nworkingDir = %q\n", d.protocol, host, port, login, password, d.workingDir)
	if d.hostKey != "" {
		text += fmt.Sprintf("hostKey = %q\n", d.hostKey)
	}
	if d.mountPoint != "" {
		text += fmt.Sprintf("mountPoint = %q\n", d.mountPoint)
	}
	return text, nil
}

// define writes what an operator would: the definitions, and which environment is active.
func define(dir, password string, definitions ...definition) error {
	connections := filepath.Join(dir, "connections")
	err := errors.Join(
		os.MkdirAll(connections, 0o700),
		os.WriteFile(filepath.Join(dir, "pierfs.toml"), fmt.Appendf(nil, "activeEnvironments = [%q]\n", environment), 0o600),
	)
	for _, d := range definitions {
		text, textErr := d.text(password)
		err = errors.Join(err, textErr, os.WriteFile(filepath.Join(connections, d.name+".toml"), []byte(text), 0o600))
	}
	return err
}

// live runs the daemon until ctx ends, and calls ready with the directory of each connection once all mounts stand. What it made unwritable is writable again when
// it returns, so that it can be removed.
func live(ctx context.Context, d dirs.Dirs, o Options, ready func(mounts map[string]string) error) error {
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
	mounts, err := mounted(ctx, d)
	if err == nil {
		err = ready(mounts)
	}
	if err == nil {
		<-ctx.Done()
		fmt.Fprintln(o.Out, "\ntaking everything away ...")
	}
	cancel()
	return errors.Join(err, <-ended)
}

// mounted returns where each connection is mounted. One that does not stand is an error.
func mounted(ctx context.Context, d dirs.Dirs) (map[string]string, error) {
	client := control.NewClient(d.Runtime)
	defer client.Close()
	answer, err := control.List.Call(ctx, client, control.ListRequest{})
	if err != nil {
		return nil, err
	}
	mounts := map[string]string{}
	for _, c := range answer.Connections {
		if c.State != control.StateReady {
			return nil, control.Errorf(control.NotMounted, "the mount of %s is %s: %s", c.Name, c.State, c.Reason).WithHint("`pierfs doctor` tells what this machine lacks")
		}
		mounts[c.Name] = c.Dir
	}
	return mounts, nil
}

func greet(out io.Writer, d dirs.Dirs, mounts map[string]string, remote, remoteFTP string) error {
	w := bufio.NewWriter(out)
	fmt.Fprintf(w, `
An SFTP and an FTP server run on the loopback interface, and their files are mounted as local directories:

  %[1]s
  %[5]s

Try, in another terminal:

  ls -lR %[1]s
  cat %[5]s/README.txt
  cp /etc/hosts %[1]s/inbox/ && ls -l %[2]s/inbox     # the server's own side
  cp /etc/hosts %[5]s/inbox/ && ls -l %[6]s/inbox
  ${EDITOR:-vi} %[1]s/orders/2026-11.csv

And with the operator's hand:

  export PIERFS_RUNTIME_DIR=%[3]s
  pierfs status
  pierfs test %[4]s
  pierfs test %[7]s
  pierfs ls %[4]s:/orders

Ctrl-C ends it and leaves nothing behind.
`, mounts[name], remote, d.Runtime+hand(), name, mounts[nameFTP], remoteFTP, nameFTP)
	return w.Flush()
}
