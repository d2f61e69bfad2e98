// Package daemon runs the built programs for a test: pierfsd with directories of its own, and pierfs against it, as an
// operator would, from other processes. Whatever a test leaves mounted is let go when it ends.
package daemon

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"pierfs/integration/process"
	"pierfs/integration/servers"
)

// Environment is the one that is active, and in which connections are mounted.
const Environment = "Test"

// Programs are the built binaries.
type Programs struct{ Dir string }

// builtBefore names the directory of programs that integration/test.sh has built for all packages; those built with flags lie
// in a directory of it that is called by them.
const builtBefore = "PIERFS_PROGRAMS"

// Build builds the programs into a new directory, which the caller removes. What has been built already it only links there.
func Build(flags ...string) (Programs, error) {
	dir, err := os.MkdirTemp("", "pierfs-bin-")
	if err != nil {
		return Programs{}, err
	}
	before := filepath.Join(os.Getenv(builtBefore), strings.Join(flags, " "))
	if os.Getenv(builtBefore) != "" && hasPrograms(before) {
		err = linkAll(before, dir)
	} else {
		args := append([]string{"build", "-o", dir + "/"}, flags...)
		cmd := exec.Command("go", append(args, "pierfs/cmd/pierfs", "pierfs/cmd/pierfsd")...)
		var out []byte
		if out, err = cmd.CombinedOutput(); err != nil {
			err = fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, out)
		}
	}
	if err == nil {
		err = os.Chmod(dir, 0o755) // other users run them too
	}
	if err != nil {
		return Programs{}, errors.Join(err, os.RemoveAll(dir))
	}
	return Programs{Dir: dir}, nil
}

// hasPrograms reports whether somebody has built programs in dir: not those with every flag that a package may want.
func hasPrograms(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "pierfsd"))
	return err == nil
}

// linkAll links the programs of the directory from into the directory to.
func linkAll(from, to string) error {
	for _, program := range []string{"pierfs", "pierfsd"} {
		if err := os.Link(filepath.Join(from, program), filepath.Join(to, program)); err != nil {
			return err
		}
	}
	return nil
}

// Daemon is one pierfsd and its directories. It may be started and stopped many times.
type Daemon struct {
	Dir        string // holds all the others
	ConfigDir  string
	StateDir   string
	CacheDir   string
	RuntimeDir string
	MountRoot  string

	// Env and Args are added when it is started.
	Env  []string
	Args []string

	programs Programs
	notify   *net.UnixConn
	news     chan string // what it told the service manager
	process  *process.Process
}

// New makes the directories for a daemon; Define says what it mounts, Start starts it.
func New(t testing.TB, programs Programs) *Daemon {
	t.Helper()
	dir, err := os.MkdirTemp("", "pierfs-daemon-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil { // other users may come to the mounts
		t.Fatal(err)
	}
	d := &Daemon{
		Dir: dir, ConfigDir: filepath.Join(dir, "etc"), StateDir: filepath.Join(dir, "state"), CacheDir: filepath.Join(dir, "cache"),
		RuntimeDir: filepath.Join(dir, "run"), MountRoot: filepath.Join(dir, "mnt"),
		programs: programs, news: make(chan string, 1024),
	}
	t.Cleanup(func() { d.cleanup(t) })
	d.write(t, "pierfs.toml", fmt.Sprintf("activeEnvironments = [%q]\n", Environment))
	if err := os.Mkdir(filepath.Join(d.ConfigDir, "connections"), 0o700); err != nil {
		t.Fatal(err)
	}
	d.notify, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	var reader sync.WaitGroup
	reader.Go(d.hear)
	t.Cleanup(func() {
		_ = d.notify.Close() // it ends hear
		reader.Wait()
	})
	return d
}

// hear passes on what the daemon tells its service manager.
func (d *Daemon) hear() {
	text := make([]byte, 64<<10)
	for {
		n, err := d.notify.Read(text)
		if err != nil {
			return
		}
		for line := range strings.SplitSeq(string(text[:n]), "\n") {
			select {
			case d.news <- line:
			default: // nobody asks
			}
		}
	}
}

func (d *Daemon) write(t testing.TB, name, text string) {
	t.Helper()
	name = filepath.Join(d.ConfigDir, name)
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Fields are the keys of a definition; values are strings, numbers and truths.
type Fields map[string]any

// Define writes the definition of a connection, for the running daemon's next reading of the files.
func (d *Daemon) Define(t testing.TB, name string, fields Fields) {
	t.Helper()
	var text strings.Builder
	for _, key := range slices.Sorted(maps.Keys(fields)) {
		if value, ok := fields[key].(string); ok {
			fmt.Fprintf(&text, "%s = %s\n", key, strconv.Quote(value))
		} else {
			fmt.Fprintf(&text, "%s = %v\n", key, fields[key])
		}
	}
	d.write(t, filepath.Join("connections", name+".toml"), text.String())
}

// To returns the fields of a connection to s with its password, changed and completed by more.
func To(t testing.TB, s *servers.SSHD, more Fields) Fields {
	t.Helper()
	fields := Fields{
		"protocol": "SFTP", "host": s.Host, "port": s.Port, "username": s.User, "password": s.Password,
		"workingDir": s.Root, "hostKey": s.Fingerprint(t),
	}
	maps.Copy(fields, more)
	for key, value := range fields {
		if value == nil {
			delete(fields, key)
		}
	}
	return fields
}

// Mount returns where the connection name is mounted.
func (d *Daemon) Mount(name string) string { return filepath.Join(d.MountRoot, Environment, name) }

// Log returns all that the daemon has written since it was last started.
func (d *Daemon) Log() string { return d.process.Log.String() }

// Pid returns the daemon's process id.
func (d *Daemon) Pid() int { return d.process.Pid() }

// Start starts the daemon and returns when it says that it is ready.
func (d *Daemon) Start(t testing.TB) {
	t.Helper()
	d.Launch(t)
	if err := d.AwaitReady(); err != nil {
		t.Fatalf("pierfsd does not become ready: %v\n%s", err, d.Log())
	}
}

// AwaitReady waits until a daemon that was launched says that it is ready; process.ErrEnded if it ends before.
func (d *Daemon) AwaitReady() error { return d.await("READY=1", process.Patience) }

// Done returns a channel that is closed when the daemon has ended.
func (d *Daemon) Done() <-chan struct{} { return d.process.Done() }

// Launch starts the daemon and does not wait for it. It ends with t, if not sooner.
func (d *Daemon) Launch(t testing.TB) {
	t.Helper()
	for len(d.news) > 0 { // of the one before
		<-d.news
	}
	args := []string{"--config-dir", d.ConfigDir, "--state-dir", d.StateDir, "--cache-dir", d.CacheDir, "--runtime-dir", d.RuntimeDir, "--mount-root", d.MountRoot}
	cmd := exec.Command(filepath.Join(d.programs.Dir, "pierfsd"), append(args, d.Args...)...)
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+filepath.Join(d.Dir, "notify"), "SSH_AUTH_SOCK=", "GORACE=halt_on_error=1 exitcode=66")
	cmd.Env = append(cmd.Env, d.Env...)
	d.process = process.Start(t, cmd)
}

// StartRefused starts the daemon, expects it to end by itself, and returns its exit status and what it wrote.
func (d *Daemon) StartRefused(t testing.TB) (status int, log string) {
	t.Helper()
	d.Launch(t)
	status = d.process.Wait(t, process.Patience)
	return status, d.Log()
}

// await waits until the daemon tells line.
func (d *Daemon) await(line string, limit time.Duration) error {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		select {
		case got := <-d.news:
			if got == line {
				return nil
			}
		case <-d.process.Done():
			return process.ErrEnded
		case <-timer.C:
			return os.ErrDeadlineExceeded
		}
	}
}

// AwaitNotice waits until the daemon tells, or has told, its service manager line, behind what was waited for before. It may
// have ended meanwhile.
func (d *Daemon) AwaitNotice(t testing.TB, line string) {
	t.Helper()
	late := time.NewTimer(process.Patience)
	defer late.Stop()
	for {
		select {
		case got := <-d.news:
			if got == line {
				return
			}
		case <-late.C:
			t.Fatalf("pierfsd does not tell its service manager %s\n%s", line, d.Log())
		}
	}
}

// Reload makes the daemon read its definitions again and returns when it has.
func (d *Daemon) Reload(t testing.TB) {
	t.Helper()
	for len(d.news) > 0 {
		<-d.news
	}
	d.process.Signal(syscall.SIGHUP)
	if err := d.await("READY=1", process.Patience); err != nil {
		t.Fatalf("pierfsd does not become ready after SIGHUP: %v\n%s", err, d.Log())
	}
}

// Stop stops the daemon with SIGTERM and returns its exit status.
func (d *Daemon) Stop(t testing.TB) int {
	t.Helper()
	d.process.Signal(syscall.SIGTERM)
	return d.process.Wait(t, 90*time.Second)
}

// Kill kills the daemon, as the kernel would for lack of memory.
func (d *Daemon) Kill() { d.process.Kill() }

// Strike is Kill that does not wait for the end.
func (d *Daemon) Strike() { d.process.Signal(syscall.SIGKILL) }

// Terminate tells the daemon to end, and does not wait for that.
func (d *Daemon) Terminate() { d.process.Signal(syscall.SIGTERM) }

// Dump ends the daemon with what its goroutines are at in its log.
func (d *Daemon) Dump() { d.process.Signal(syscall.SIGQUIT); <-d.process.Done() }

// Mounts returns what is mounted below the daemon's directories, as the kernel tells it.
func (d *Daemon) Mounts(t testing.TB) []string {
	t.Helper()
	mounts, err := MountsBelow(d.Dir)
	if err != nil {
		t.Fatal(err)
	}
	return mounts
}

// MountsBelow returns the mount points below dir, the last mounted first.
func MountsBelow(dir string) ([]string, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var points []string
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		point := unescape(fields[4])
		if strings.HasPrefix(point, dir+"/") || point == dir {
			points = append(points, point)
		}
	}
	slices.Reverse(points)
	return points, nil
}

// unescape undoes the octal escapes of /proc/self/mountinfo.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// cleanup ends the daemon and removes everything of it. A mount that a daemon left behind which was stopped in order is a
// failure; one that a test killed may leave its mount.
func (d *Daemon) cleanup(t testing.TB) {
	if d.process != nil {
		select {
		case <-d.process.Done():
		default:
			d.process.Signal(syscall.SIGTERM)
			select {
			case <-d.process.Done():
				for _, point := range d.Mounts(t) {
					t.Errorf("after SIGTERM %s is still mounted", point)
				}
			case <-time.After(30 * time.Second):
				t.Errorf("pierfsd does not end within 30s of SIGTERM")
				d.Kill()
			}
		}
		if strings.Contains(d.Log(), "DATA RACE") {
			t.Errorf("the race detector found something:\n%s", d.Log())
		}
	}
	if err := Clear(d.Dir); err != nil {
		t.Errorf("remove the daemon's directories: %v", err)
	}
}

// Clear lets go of all mounts below dir, whatever state they are in, and removes it.
func Clear(dir string) error {
	points, err := MountsBelow(dir)
	if err != nil {
		return err
	}
	for _, point := range points {
		// MNT_FORCE aborts a FUSE connection: whoever hangs in it is freed. Then the mount goes, whoever still uses it.
		_ = syscall.Unmount(point, syscall.MNT_FORCE)
		_ = syscall.Unmount(point, syscall.MNT_DETACH)
	}
	if points, err = MountsBelow(dir); err != nil || len(points) > 0 {
		// Removing would go on at the server.
		return errors.Join(err, fmt.Errorf("nothing is removed, for these are still mounted: %q", points))
	}
	// A bare mount point may be immutable.
	if _, err := exec.LookPath("chattr"); err == nil {
		_ = exec.Command("chattr", "-R", "-f", "-i", dir).Run() // not every file system has the flag
	}
	return os.RemoveAll(dir)
}

// Result is what a command did.
type Result struct {
	Stdout, Stderr string
	Status         int
	Took           time.Duration
}

// Pierfs runs the hand against this daemon, with at most a minute.
func (d *Daemon) Pierfs(t testing.TB, args ...string) Result {
	t.Helper()
	return d.PierfsWith(t, Call{}, args...)
}

// Call is how a command is run; the zero value runs it with nothing.
type Call struct {
	Stdin string
	Env   []string
	Dir   string
}

// PierfsWith is Pierfs with input and environment.
func (d *Daemon) PierfsWith(t testing.TB, c Call, args ...string) Result {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(d.programs.Dir, "pierfs"), args...)
	cmd.Env = append(os.Environ(), "PIERFS_RUNTIME_DIR="+d.RuntimeDir)
	cmd.Env = append(cmd.Env, c.Env...)
	cmd.Dir = c.Dir
	cmd.Stdin = strings.NewReader(c.Stdin)
	return Run(t, cmd, time.Minute)
}

// Run runs cmd to its end. If it takes longer than limit it is killed and the test fails.
func Run(t testing.TB, cmd *exec.Cmd, limit time.Duration) Result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = time.Second // a daemon that it started may keep the pipes
	start := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", strings.Join(cmd.Args, " "), err)
	}
	late := time.AfterFunc(limit, func() { _ = cmd.Process.Kill() })
	err := cmd.Wait()
	r := Result{Stdout: stdout.String(), Stderr: stderr.String(), Status: cmd.ProcessState.ExitCode(), Took: time.Since(start)}
	if !late.Stop() && r.Took >= limit {
		t.Fatalf("%s takes longer than %v\n%s%s", strings.Join(cmd.Args, " "), limit, r.Stdout, r.Stderr)
	}
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) && r.Status == 0 {
		t.Fatalf("%s: %v", strings.Join(cmd.Args, " "), err)
	}
	return r
}

// State returns the state of a connection as `pierfs list --json` tells it, "" if it tells none.
func (d *Daemon) State(t testing.TB, name string) string {
	t.Helper()
	r := d.Pierfs(t, "list", "--json")
	var answer struct {
		Connections []struct{ Name, State string }
	}
	if r.Status != 0 {
		t.Fatalf("pierfs list: exit %d\n%s", r.Status, r.Stderr)
	}
	if err := json.Unmarshal([]byte(r.Stdout), &answer); err != nil {
		t.Fatalf("pierfs list --json: %v\n%s", err, r.Stdout)
	}
	for _, c := range answer.Connections {
		if c.Name == name {
			return c.State
		}
	}
	return ""
}

// AwaitState waits until a connection is in the state.
func (d *Daemon) AwaitState(t testing.TB, name, state string, limit time.Duration) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		got := d.State(t, name)
		if got == state {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is %q after %v, want %q\n%s", name, got, limit, state, d.Log())
		}
		time.Sleep(20 * time.Millisecond)
	}
}
