package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"pierfs/integration/daemon"
	"pierfs/integration/process"
	"pierfs/integration/servers"
)

// TestUserMounts: somebody who is not root mounts a server on a directory of his own, with a daemon of his own in the XDG
// directories, and nothing but fusermount3 has more rights than he has. The whole of it has a /dev/fuse that is open to
// everybody, as it is on Debian and may not be here.
func TestUserMounts(t *testing.T) {
	t.Parallel()
	process.Need(t, "fusermount3", "unshare", "setpriv", "bash")
	server := servers.NewSSHD(t, servers.SSHOptions{})
	if err := os.WriteFile(filepath.Join(server.Dir, "f"), []byte("there"), 0o644); err != nil {
		t.Fatal(err)
	}
	home, err := os.MkdirTemp("", "pierfs-home-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := daemon.Clear(home); err != nil {
			t.Error(err)
		}
	})
	// fusermount3 wants to know the name of its user: 65534 is nobody.
	const asRoot = `
		chmod 755 . && mkdir run here theirs && chown 65534:65534 . run here && chmod 700 run here
		mknod -m 666 fuse c 10 229 && mount --bind fuse /dev/fuse
		asNobody() { setpriv --reuid 65534 --regid 65534 --clear-groups bash -euc "$@"; }
		asNobody "$1" bash "$3"
		chmod 600 fuse
		asNobody "$2" bash "$3"`
	const asUser = `
		status() { local s=0; "$@" >out 2>&1 || s=$?; echo "$s"; }
		test "$(status pierfs mount "$1" theirs --trust-new)" = 77 || { cat out; exit 1; }
		pierfs mount "$1" here --trust-new || { s=$?; find . -name pierfsd.log -exec tail -n 20 {} +; exit $s; }
		cat here/f; echo new > here/new
		test "$(stat -c %u here/new)" = 65534
		pierfs list
		pierfs umount here
		test "$(stat -c %a here)" = 700
		! test -e here/f`
	// Where /dev/fuse is not for everybody he is refused. fusermount3 says why in the log alone.
	const asStranger = `
		s=0; pierfs mount "$1" here >out 2>&1 || s=$?
		cat out; tail -n 5 .local/state/pierfs/pierfsd.log
		test "$s" = 71
		grep -q '^pierfs: mount .*fusermount exited with code [0-9]*$' out
		grep -q "$HOME/.local/state/pierfs/pierfsd.log" out
		grep -q 'fusermount3: ' .local/state/pierfs/pierfsd.log
		! test -e here/f`
	cmd := exec.CommandContext(t.Context(), "unshare", "--mount", "--propagation", "private", "bash", "-euc", asRoot, "bash", asUser, asStranger,
		fmt.Sprintf("sftp://%s@%s%s", server.User, server.Address(), server.Root))
	cmd.Dir = home
	cmd.Env = []string{"PATH=" + binaries(t) + ":" + os.Getenv("PATH"), "HOME=" + home, "XDG_RUNTIME_DIR=" + filepath.Join(home, "run"),
		"XDG_CONFIG_HOME=" + filepath.Join(home, ".config"), "PIERFS_PASSWORD=" + server.Password}
	if r := daemon.Run(t, cmd, time.Minute); r.Status != 0 {
		t.Errorf("exit %d\n%s%s", r.Status, r.Stdout, r.Stderr)
	}
	has(t, filepath.Join(server.Dir, "new"), []byte("new\n"))
	ended(t, home)
}
