package bench

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"pierfs/integration/daemon"
	"pierfs/integration/process"
	"pierfs/integration/servers"
)

// peer is somebody who can do works.
type peer struct {
	name     string
	says     string             // how it is set up
	ssh, ftp bool               // what it speaks
	onDemand bool               // measured only if it is named
	fits     func(w *work) bool // the works that it is measured at; nil is all but those of this machine alone
	mount    func(b testing.TB, c *cell) mounted

	here bool // what it writes stays where the program has put it

	// Of a client that does not mount: what it does in place of a work, by the work's name.
	does map[string]func(c *cell) error
}

// can reports whether e can do w, and whether that tells anything.
func (e *peer) can(w *work, protocol string) bool {
	if protocol == "sftp" && !e.ssh || protocol != "sftp" && !e.ftp {
		return false
	}
	if e.does != nil {
		return e.does[w.name] != nil
	}
	return e.fits == nil || e.fits(w)
}

// mounted is a mount. A client that does not mount has the zero value.
type mounted struct {
	dir    string
	pid    int    // of the process that serves it; 0 for none
	within string // a directory that its processes name in their command lines; "" for none
}

// abort makes every call that hangs in the mount fail.
func (m mounted) abort() {
	if m.dir != "" && m.pid != 0 {
		_ = syscall.Unmount(m.dir, syscall.MNT_FORCE) // there may be no mount any more
	}
}

var peers = []*peer{
	{
		name: "pierfs", ssh: true, ftp: true, mount: mountPierfs(nil),
		says: "a definition that says nothing but where the server is: close waits for the server",
	},
	{
		name: "pierfs-bg", ssh: true, ftp: true, mount: mountPierfs(daemon.Fields{"commit": "background"}),
		says: `commit = "background"`,
		fits: func(w *work) bool { return w.writes },
	},
	{
		name: "pierfs-16", ftp: true, mount: mountPierfs(daemon.Fields{"maxSessions": 16}),
		says: "maxSessions = 16",
		fits: func(w *work) bool { return strings.HasPrefix(w.name, "cat_") },
	},
	{
		name: "pierfs-bg-16", ftp: true, mount: mountPierfs(daemon.Fields{"maxSessions": 16, "commit": "background"}),
		says: `commit = "background", maxSessions = 16`,
		fits: func(w *work) bool { return w.name == "write_small" || w.name == "write_1000" },
	},
	{
		name: "sshfs", ssh: true, mount: mountSSHFS,
		says: "-o reconnect, otherwise as installed",
	},
	{
		name: "rclone", ssh: true, ftp: true, mount: mountRclone("--vfs-cache-mode", "full"),
		says: "--vfs-cache-mode full, otherwise as installed: it begins to send 5 s after close; disable_tls13, with which alone it logs in to vsftpd",
	},
	{
		name: "rclone-off", ssh: true, ftp: true, onDemand: true, mount: mountRclone(),
		says: "as installed: no cache on disk, close waits for the server, no appends",
	},
	{
		name: "curl", ftp: true, mount: noMount("curl"), does: curls,
		says: "one process for all files; TLS 1.2 at most",
	},
	{
		name: "lftp", ftp: true, mount: noMount("lftp"), does: lftps,
		says: "get, put, ls, and mirror --parallel=4 for many files",
	},
	{
		name: "disk", ssh: true, ftp: true, mount: mountDisk,
		says: "the same files on the file system of pierfs's cache",
		fits: func(w *work) bool { return w.warm || w.staged }, here: true,
	},
}

// temp makes a directory that is let go of with all that is mounted in it.
func temp(b testing.TB) string {
	b.Helper()
	dir, err := os.MkdirTemp("", "pierfs-bench-")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := daemon.Clear(dir); err != nil {
			b.Error(err)
		}
	})
	return dir
}

// mountPierfs mounts with what is needed to find the server, and with more.
func mountPierfs(more daemon.Fields) func(testing.TB, *cell) mounted {
	return func(b testing.TB, c *cell) mounted {
		b.Helper()
		var fields daemon.Fields
		root := c.site.remote(c.top)
		if s := c.site.sshd; s != nil {
			key := s.NewKey(b, servers.KeyOptions{})
			fields = daemon.To(b, s, daemon.Fields{"host": c.host, "port": c.port, "password": nil, "privateKeyFile": key.File, "workingDir": root})
		} else {
			f := c.site.ftp
			fields = daemon.Fields{"protocol": "FTP", "host": c.host, "port": c.port, "username": f.User, "password": f.Password, "workingDir": root}
			if c.site.protocol == "ftps" {
				fields["protocol"], fields["caFile"], fields["serverName"] = "FTPS", f.Authority.File, f.Host
			}
		}
		maps.Copy(fields, more)
		maps.Copy(fields, c.more)
		d := daemon.New(b, c.programs)
		d.Define(b, "bench", fields)
		if c.traces != "" {
			d.Args = append(d.Args, "--log-level", "debug")
			b.Cleanup(func() { write(b, filepath.Join(c.traces, c.name()+".log"), d.Log()) })
		}
		d.Start(b)
		d.AwaitState(b, "bench", "ready", process.Patience)
		return mounted{d.Mount("bench"), d.Pid(), d.Dir}
	}
}

// parseFields reads "maxSessions=16,metadataTTL=1m".
func parseFields(list string) (daemon.Fields, error) {
	fields := daemon.Fields{}
	for _, item := range split(list) {
		key, value, ok := strings.Cut(item, "=")
		if !ok {
			return nil, fmt.Errorf("-o %q: FIELD=VALUE is wanted", item)
		}
		if n, err := strconv.Atoi(value); err == nil {
			fields[key] = n
		} else if truth, err := strconv.ParseBool(value); err == nil {
			fields[key] = truth
		} else {
			fields[key] = value
		}
	}
	return fields, nil
}

func mountSSHFS(b testing.TB, c *cell) mounted {
	b.Helper()
	process.Need(b, "sshfs")
	dir, point := mountPoint(b)
	key, known := c.identity(b, dir)
	return serve(b, dir, point, exec.Command("sshfs", "-f", "-F", "/dev/null", "-p", strconv.Itoa(c.port),
		"-o", "reconnect,IdentityFile="+key+",UserKnownHostsFile="+known, c.site.sshd.User+"@"+c.host+":"+c.site.remote(c.top), point))
}

// identity makes a key for the server and a known_hosts file that knows it at its end of the link.
func (c *cell) identity(b testing.TB, dir string) (key, known string) {
	b.Helper()
	s := c.site.sshd
	known = filepath.Join(dir, "known_hosts")
	write(b, known, strings.Replace(s.KnownHosts(b), "["+s.Host+"]", "["+c.host+"]", 1))
	return s.NewKey(b, servers.KeyOptions{}).File, known
}

func mountRclone(flags ...string) func(testing.TB, *cell) mounted {
	return func(b testing.TB, c *cell) mounted {
		b.Helper()
		process.Need(b, "rclone")
		dir, point := mountPoint(b)
		text := fmt.Sprintf("[bench]\nhost = %s\nport = %d\n", c.host, c.port)
		if s := c.site.sshd; s != nil {
			key, known := c.identity(b, dir)
			text += fmt.Sprintf("type = sftp\nuser = %s\nkey_file = %s\nknown_hosts_file = %s\n", s.User, key, known)
		} else {
			obscured, err := exec.Command("rclone", "obscure", c.site.ftp.Password).Output()
			if err != nil {
				b.Fatal(err)
			}
			text += fmt.Sprintf("type = ftp\nuser = %s\npass = %s\n", c.site.ftp.User, obscured)
			if c.site.protocol == "ftps" {
				text += "explicit_tls = true\nno_check_certificate = true\ndisable_tls13 = true\n" // with 1.3 vsftpd ends its logins
			}
		}
		config := filepath.Join(dir, "rclone.conf")
		write(b, config, text)
		args := append([]string{"mount", "--config", config, "--cache-dir", filepath.Join(dir, "cache")}, flags...)
		return serve(b, dir, point, exec.Command("rclone", append(args, "bench:"+c.site.remote(c.top), point)...))
	}
}

func mountPoint(b testing.TB) (dir, point string) {
	b.Helper()
	dir = temp(b)
	point = filepath.Join(dir, "mnt")
	if err := os.Mkdir(point, 0o755); err != nil {
		b.Fatal(err)
	}
	return dir, point
}

func write(b testing.TB, name, text string) {
	b.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
}

// serve starts a program that serves point, and returns when it does. The mount goes first, then the program, then dir.
func serve(b testing.TB, dir, point string, cmd *exec.Cmd) mounted {
	b.Helper()
	p := process.Start(b, cmd)
	b.Cleanup(func() {
		_ = syscall.Unmount(point, syscall.MNT_FORCE) // it may not have come to a mount; dir is only removed without one
		_ = syscall.Unmount(point, syscall.MNT_DETACH)
	})
	for deadline := time.Now().Add(process.Patience); ; time.Sleep(10 * time.Millisecond) {
		mounts, err := daemon.MountsBelow(dir)
		if err != nil {
			b.Fatal(err)
		}
		if len(mounts) == 1 {
			return mounted{point, p.Pid(), dir}
		}
		select {
		case <-p.Done():
			deadline = time.Now()
		default:
		}
		if !time.Now().Before(deadline) {
			b.Fatalf("%s does not mount: %s", cmd.Path, p.Log)
		}
	}
}

// mountDisk is the same files on this machine's own disk.
func mountDisk(b testing.TB, c *cell) mounted {
	b.Helper()
	dir := temp(b)
	if err := fillDir(dir, c.work, c.size); err != nil {
		b.Fatal(err)
	}
	syscall.Sync()
	return mounted{dir: dir}
}

// The clients that do not mount find what they send, and leave what they fetch, in c.dir.

func noMount(program string) func(testing.TB, *cell) mounted {
	return func(b testing.TB, c *cell) mounted {
		b.Helper()
		process.Need(b, program)
		dir := temp(b)
		data := filepath.Join(dir, "data")
		err := os.Mkdir(data, 0o755)
		if err == nil && c.work.writes {
			for i, l := range c.work.leaves(c.size) {
				seed := int64(i)
				if l.name == "big" {
					seed = writeSeed
				}
				err = cmp.Or(err, makeFile(filepath.Join(data, l.name), seed, l.size))
			}
		}
		if err == nil {
			write(b, filepath.Join(dir, "idle"), "")
		}
		if err != nil {
			b.Fatal(err)
		}
		return mounted{dir: dir}
	}
}

var curls = map[string]func(*cell) error{
	"read_64":     func(c *cell) error { return c.curlGet("big") },
	"read_512":    func(c *cell) error { return c.curlGet("big") },
	"ls_10k":      func(c *cell) error { return c.curlList() },
	"cat_small":   func(c *cell) error { return c.curlGet(numberedNames(c.size.small)...) },
	"cat_1000":    func(c *cell) error { return c.curlGet(numberedNames(c.size.many)...) },
	"write_64":    func(c *cell) error { return c.curlPut("big") },
	"write_512":   func(c *cell) error { return c.curlPut("big") },
	"write_small": func(c *cell) error { return c.curlPut(numberedNames(c.size.few)...) },
	"write_1000":  func(c *cell) error { return c.curlPut(numberedNames(c.size.many)...) },
}

func numberedNames(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = numbered(i)
	}
	return names
}

func (c *cell) curlGet(names ...string) error {
	var config strings.Builder
	for _, name := range names {
		fmt.Fprintf(&config, "url = %q\noutput = %q\n", c.url(name), filepath.Join(c.dir, name))
	}
	if _, err := c.curl(config.String()); err != nil {
		return err
	}
	c.told = func() error { return c.fetched(names) }
	return nil
}

// fetched compares what was fetched with what the server has.
func (c *cell) fetched(names []string) error {
	for i, name := range names {
		var err error
		if name == "big" {
			size := c.size.middle
			if c.work.name == "read_512" {
				size = c.size.big
			}
			err = sameFile(filepath.Join(c.dir, name), bigSeed, size)
		} else {
			err = sameFile(filepath.Join(c.dir, name), int64(i), smallSize)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *cell) curlPut(names ...string) error {
	var config strings.Builder
	for _, name := range names {
		fmt.Fprintf(&config, "url = %q\nupload-file = %q\n", c.url(name), filepath.Join(c.dir, name))
	}
	_, err := c.curl(config.String())
	return err
}

func (c *cell) curlList() error {
	out, err := c.curl(fmt.Sprintf("url = %q\n", c.url("")))
	if err != nil {
		return err
	}
	c.told = func() error { return sameNames(lastFields(out), numberedNames(c.size.listed)) }
	return nil
}

// lastFields returns the last word of each line: the names of a listing.
func lastFields(out string) (names []string) {
	for line := range strings.Lines(out) {
		if fields := strings.Fields(line); len(fields) > 0 {
			names = append(names, fields[len(fields)-1])
		}
	}
	return names
}

func (c *cell) url(name string) string {
	return fmt.Sprintf("ftp://%s/%%2f%s/data/%s", net.JoinHostPort(c.host, strconv.Itoa(c.port)),
		strings.Trim(c.site.remote(c.top), "/"), name)
}

func (c *cell) curl(config string) (string, error) {
	head := fmt.Sprintf("silent\nshow-error\nuser = \"%s:%s\"\ninsecure\n", c.site.ftp.User, c.site.ftp.Password)
	if c.site.protocol == "ftps" {
		head += "ssl-reqd\ntls-max = 1.2\n"
	}
	return c.client(strings.NewReader(head+config), "curl", "--disable", "--noproxy", "*", "--config", "-")
}

var lftps = map[string]func(*cell) error{
	"read_64":  func(c *cell) error { return c.lftpGet("get data/big -o "+c.dir+"/big", "big") },
	"read_512": func(c *cell) error { return c.lftpGet("get data/big -o "+c.dir+"/big", "big") },
	"cat_small": func(c *cell) error {
		return c.lftpGet("mirror --parallel=4 data "+c.dir, numberedNames(c.size.small)...)
	},
	"cat_1000": func(c *cell) error {
		return c.lftpGet("mirror --parallel=4 data "+c.dir, numberedNames(c.size.many)...)
	},
	"write_64":    func(c *cell) error { return c.lftpGet("put " + c.dir + "/big -o data/big") },
	"write_512":   func(c *cell) error { return c.lftpGet("put " + c.dir + "/big -o data/big") },
	"write_small": func(c *cell) error { return c.lftpGet("mirror -R --parallel=4 " + c.dir + " data") },
	"write_1000":  func(c *cell) error { return c.lftpGet("mirror -R --parallel=4 " + c.dir + " data") },
	"ls_10k": func(c *cell) error {
		out, err := c.lftp("ls data")
		if err != nil {
			return err
		}
		c.told = func() error { return sameNames(lastFields(out), numberedNames(c.size.listed)) }
		return nil
	},
}

// lftpGet runs a command of lftp's and compares the files that it has to fetch.
func (c *cell) lftpGet(command string, names ...string) error {
	if _, err := c.lftp(command); err != nil {
		return err
	}
	if len(names) > 0 {
		c.told = func() error { return c.fetched(names) }
	}
	return nil
}

func (c *cell) lftp(command string) (string, error) {
	script := "set net:max-retries 1\nset ssl:verify-certificate no\nset ftp:ssl-force " + strconv.FormatBool(c.site.protocol == "ftps") + "\n" +
		fmt.Sprintf("open -u %s,%s -p %d ftp://%s\ncd %s\n%s\n", c.site.ftp.User, c.site.ftp.Password, c.port, c.host, c.site.remote(c.top), command)
	return c.client(strings.NewReader("set cmd:fail-exit yes\n"+script), "lftp", "--norc", "-f", "/dev/stdin")
}

// client runs a program to its end or the cell's, and returns what it prints.
func (c *cell) client(stdin io.Reader, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(c.ctx, name, args...)
	cmd.Stdin = stdin
	var complaint strings.Builder
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", name, err, complaint.String())
	}
	return string(out), nil
}

func peerNames() (names []string) {
	for _, e := range peers {
		names = append(names, e.name)
	}
	return names
}

func workNames() (names []string) {
	for _, w := range works {
		names = append(names, w.name)
	}
	return names
}
