package fs

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/posixtest"

	"pierfs/backends"
	"pierfs/backends/mem"
	"pierfs/cache"
)

// The process that serves a mount must not touch it: a call that waits for ourselves may wait for ever. All access in
// these tests is from child processes, shells or this binary again.

const (
	envPosixTest = "PIERFS_FS_POSIXTEST"
	envPosixDir  = "PIERFS_FS_POSIXDIR"
	envChild     = "PIERFS_FS_CHILD"
	envChildDir  = "PIERFS_FS_CHILDDIR"
	envBeside    = "PIERFS_FS_BESIDE"
)

func TestMain(m *testing.M) {
	if name := os.Getenv(envPosixTest); name != "" {
		posixChild(name, os.Getenv(envPosixDir))
	}
	if name := os.Getenv(envChild); name != "" {
		if err := children[name](os.Getenv(envChildDir)); err != nil {
			os.Stdout.WriteString(err.Error() + "\n")
			os.Exit(1)
		}
		os.Exit(0)
	}
	if name := os.Getenv(envBeside); name != "" {
		run := besideChild
		if jump, ok := strings.CutPrefix(name, "jump "); ok {
			name, run = jump, jumpChild
		}
		if err := run(name, os.Getenv(envChildDir)); err != nil {
			os.Stdout.WriteString(err.Error() + "\n")
			os.Exit(1)
		}
		os.Exit(0)
	}
	if dir := os.Getenv(envDaemon); dir != "" {
		daemonChild(dir)
	}
	os.Exit(m.Run())
}

// posixChild runs one posixtest in this process and exits.
func posixChild(name, dir string) {
	all := func(string, string) (bool, error) { return true, nil }
	test := testing.InternalTest{Name: name, F: func(t *testing.T) { posixtest.All[name](t, dir) }}
	testing.Main(all, []testing.InternalTest{test}, nil, nil)
	os.Exit(3)
}

// rig is a server in memory, mounted.
type rig struct {
	t      *testing.T
	server *mem.Backend
	tree   *cache.Tree
	mount  *Server
	dir    string
}

type rigOptions struct {
	mem   mem.Options
	fs    Options
	cache cache.Options

	staging string // where contents are staged; "" is a directory of the test's own
}

func newRig(t *testing.T, o rigOptions) *rig {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("these tests mount: run them as root, with /dev/fuse")
	}
	r := &rig{t: t, server: mem.New(o.mem), dir: filepath.Join(t.TempDir(), "mnt")}
	if err := os.Mkdir(r.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	logger := slog.New(slog.NewTextHandler(t.Output(), nil))
	o.cache.Staging, o.cache.Quarantine, o.cache.Logger = filepath.Join(t.TempDir(), "staging"), filepath.Join(t.TempDir(), "quarantine"), logger
	if o.staging != "" {
		o.cache.Staging = o.staging
	}
	if o.cache.MetadataTTL == 0 {
		o.cache.MetadataTTL, o.cache.NegativeTTL = time.Second, time.Second
	}
	var err error
	if r.tree, err = cache.New(r.server, o.cache); err != nil {
		t.Fatal(err)
	}
	o.fs.Name, o.fs.AllowOther, o.fs.Logger = t.Name(), true, logger
	if r.mount, err = Mount(r.dir, r.tree, o.fs); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.end)
	return r
}

func (r *rig) end() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := r.mount.Unmount(ctx); err != nil {
		r.t.Errorf("unmount: %v", err)
	}
	if err := r.tree.Close(ctx); err != nil {
		r.t.Errorf("close of the tree: %v", err)
	}
}

// sh runs a script in the mount from another process, fails the test if it fails, and returns what it printed.
func (r *rig) sh(script string) string {
	r.t.Helper()
	out, err := r.try(script)
	if err != nil {
		r.t.Fatalf("%s\n%v\n%s", script, err, out)
	}
	return out
}

func (r *rig) try(script string) (string, error) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 60*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-ec", `cd "$MNT"`+"\n"+script)
	cmd.Env = append(os.Environ(), "MNT="+r.dir)
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// child runs one of children on dir in another process.
func (r *rig) child(name, dir string) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 60*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), envChild+"="+name, envChildDir+"="+dir)
	cmd.WaitDelay = time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		r.t.Errorf("%s: %v\n%s", name, err, out)
	}
}

func (r *rig) want(script, want string) {
	r.t.Helper()
	if got := r.sh(script); got != want {
		r.t.Errorf("%s\ngot  %q\nwant %q", script, got, want)
	}
}

// onServer returns the content of a file as the server has it.
func (r *rig) onServer(name string) string {
	r.t.Helper()
	f, err := r.server.Open(r.t.Context(), name)
	if err != nil {
		r.t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	b := make([]byte, info.Size)
	if n, err := f.ReadAt(r.t.Context(), b, 0); n < len(b) {
		r.t.Fatal(n, err)
	}
	return string(b)
}

func TestMountTouchesNoServer(t *testing.T) {
	r := newRig(t, rigOptions{mem: mem.Options{Fault: func(context.Context, string, string) error {
		return &backends.Error{Op: "any", Code: 113, Class: backends.Transient}
	}}})
	if calls := r.server.Calls(); len(calls) > 0 {
		t.Errorf("the mount asked the server: %v", calls)
	}
	r.want(`stat -c '%F %a' . ; ls . 2>&1 | grep -o 'No route to host'`, "directory 755\nNo route to host")
	r.want(`grep -c " $MNT fuse.pierfs rw,nosuid,nodev," /proc/mounts`, "1")
}

func TestKernelReadsFurtherAheadThanItDoesByItself(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.want(`cat /sys/class/bdi/$(awk -v at="$MNT" '$5 == at { print $3 }' /proc/self/mountinfo)/read_ahead_kb`, fmt.Sprint(defaultReadAhead>>10))
}

func TestWhatIsWrittenIsOnTheServerAfterClose(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.want(`echo hello > f; cat f; echo more >> f; cat f; stat -c %s f`, "hello\nhello\nmore\n11")
	if got := r.onServer("f"); got != "hello\nmore\n" {
		t.Errorf("the server has %q", got)
	}
	r.want(`mkdir -p a/b; mv f a/b/g; ls -R . | tr '\n' ' '; ln -s b/g a/l; cat a/l; readlink a/l`, ".: a  ./a: b  ./a/b: g hello\nmore\nb/g")
	r.want(`rm -r a; ls -A | wc -l`, "0")
}

// posixNotRun are those of go-fuse's tests that fail on ext4 too, and so say nothing about us.
var posixNotRun = []string{"FcntlFlockLocksFile", "OpenSymlinkRace"}

// posixOdd are the reasons why others do not pass here. Everything that is not named must, and nothing that is named may.
var posixOdd = map[string]string{
	"XAttr":      "servers have no extended attributes: ENOTSUP, and the test skips itself",
	"XAttrLarge": "as XAttr",
}

func TestPosix(t *testing.T) { posix(t, newRig(t, rigOptions{}), posixOdd) }

// posix runs all of posixtest in the mount of r; those in odd must not pass.
func posix(t *testing.T, r *rig, odd map[string]string) {
	for name := range posixtest.All {
		if slices.Contains(posixNotRun, name) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			r := &rig{t: t, dir: r.dir}
			r.sh("mkdir " + name)
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			cmd := exec.CommandContext(ctx, os.Args[0], "-test.v")
			cmd.Env = append(os.Environ(), envPosixTest+"="+name, envPosixDir+"="+filepath.Join(r.dir, name))
			cmd.WaitDelay = time.Second
			out, err := cmd.CombinedOutput()
			passed := err == nil && strings.Contains(string(out), "--- PASS: "+name)
			if why := odd[name]; passed != (why == "") {
				t.Errorf("passed: %v; why it should not: %q; %v\n%s", passed, why, err, out)
			}
		})
	}
}

// TestOpenSeesTheWholeNewVersion: a file that another host has replaced since the kernel was told of it has its new length when
// it is opened.
func TestOpenSeesTheWholeNewVersion(t *testing.T) {
	r := newRig(t, rigOptions{cache: cache.Options{MetadataTTL: time.Minute, NegativeTTL: time.Minute}})
	for _, content := range []string{"first", "the second is longer", "3", strings.Repeat("4", 1000), "fifth"} {
		if err := r.server.WriteFile("f", []byte(content)); err != nil {
			t.Fatal(err)
		}
		// The first stat is answered by what is known of the former version.
		r.want(`stat f >/dev/null; exec 3<f; stat -L -c %s /proc/self/fd/3; dd bs=4096 count=1 status=none <&3 | wc -c`,
			fmt.Sprintf("%d\n%d", len(content), len(content)))
	}
}

// TestOpenThatMeetsARenameReadsAllOfOneVersion: the kernel asks for a node whose name is given to another file before it is
// answered. It then reads the other one through the node, and must not cut it to the length that it knew.
func TestOpenThatMeetsARenameReadsAllOfOneVersion(t *testing.T) {
	r := newRig(t, rigOptions{cache: cache.Options{MetadataTTL: time.Minute, NegativeTTL: time.Minute}})
	r.sh(`echo -n short > f; echo -n 'much longer' > g; cat f g; stat f g`)
	asked, renamed := make(chan struct{}), make(chan struct{})
	var opens atomic.Int32
	r.server.SetFault(func(_ context.Context, op, name string) error {
		if op == "open" && name == "f" && opens.Add(1) == 1 {
			close(asked)
			<-renamed
		}
		return nil
	})
	read := make(chan string, 1)
	go func() {
		defer close(read)
		got, err := r.try(`dd if=f bs=4096 count=1 status=none`)
		if err != nil {
			t.Error(err)
		}
		read <- got
	}()
	<-asked
	r.sh(`mv g f`)
	close(renamed)
	if got := <-read; got != "short" && got != "much longer" {
		t.Errorf("read %q, neither the old nor the new version", got)
	}
}
