package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"pierfs/integration/daemon"
	"pierfs/integration/process"
)

// booted is this machine's system over an overlay of its root, with the package unpacked into it and systemd as its first process, in namespaces of
// its own: nothing that it does can be seen outside.
type booted struct {
	t   *testing.T
	pid string // of systemd, out here
}

// boot is run before systemd: $1 is an empty directory, $2 the package, unpacked.
const boot = `set -e
	mount --make-rprivate /
	mount -t tmpfs tmpfs "$1"
	cd "$1" && mkdir up work root
	mount -t overlay overlay -o "lowerdir=/,upperdir=$1/up,workdir=$1/work" root
	cp -a "$2"/usr "$2"/etc root/
	cd root
	rm -rf etc/systemd/system/* etc/rc?.d/* etc/init.d/*
	: > etc/machine-id && : > etc/fstab && : > booted-by-test
	ip link set lo up
	mount -t proc proc proc
	mount -t sysfs -o ro sysfs sys
	mount -t tmpfs tmpfs sys/fs/cgroup
	mount -t cgroup2 cgroup2 sys/fs/cgroup
	mount -t tmpfs tmpfs dev
	for d in null zero full random urandom tty fuse; do touch dev/$d && mount --bind /dev/$d dev/$d; done
	mkdir dev/pts dev/shm && mount -t devpts devpts dev/pts -o newinstance,ptmxmode=0666 && ln -s pts/ptmx dev/ptmx && ln -s /proc/self/fd dev/fd
	for d in run tmp srv var/log; do mount -t tmpfs tmpfs $d; done
	mkdir old && pivot_root . old && umount -l /old
	exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system --unit=multi-user.target --log-target=null`

func bootSystem(t *testing.T) *booted {
	t.Helper()
	process.Need(t, "unshare", "nsenter", "pivot_root", "ip", "systemctl", "dpkg-deb")
	unpacked, dir := t.TempDir(), t.TempDir()
	if out, err := exec.Command("dpkg-deb", "-x", pack(t), unpacked).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	group := "/sys/fs/cgroup/unified" // beside the first version of control groups
	if _, err := os.Stat(group); err != nil {
		group = "/sys/fs/cgroup"
	}
	group = filepath.Join(group, "pierfs-test-"+strconv.Itoa(os.Getpid()))
	t.Cleanup(func() { // when all in it have ended, which takes a moment
		const clear = `for i in $(seq 50); do test -d "$1" || exit 0; find "$1" -depth -type d -exec rmdir {} + 2>/dev/null; sleep 0.1; done; ! test -d "$1"`
		if err := exec.Command("sh", "-c", clear, "sh", group).Run(); err != nil {
			t.Errorf("the control group %s stays: %v", group, err)
		}
	})
	const start = `mkdir -p "$3" && echo $$ > "$3"/cgroup.procs && exec unshare --pid --fork --kill-child --mount --uts --ipc --net --cgroup sh -c "$4" sh "$1" "$2"`
	p := process.Start(t, exec.Command("sh", "-c", start, "sh", dir, unpacked, group, boot))
	s := &booted{t: t}
	for late := time.Now().Add(process.Patience); ; time.Sleep(20 * time.Millisecond) {
		pid := strconv.Itoa(p.Pid())
		children, _ := os.ReadFile(filepath.Join("/proc", pid, "task", pid, "children")) // none yet
		s.pid = strings.TrimSpace(string(children))
		if s.pid != "" {
			state := s.try("test -e /booted-by-test && systemctl is-system-running") // before that / is the machine's own
			if word := strings.TrimSpace(state.Stdout); word == "running" || word == "degraded" {
				return s
			}
		}
		if time.Now().After(late) {
			t.Fatalf("systemd does not come up: %s", p.Log)
		}
	}
}

func (s *booted) try(script string) daemon.Result {
	s.t.Helper()
	cmd := exec.CommandContext(s.t.Context(), "nsenter", "-t", s.pid, "-m", "-p", "-n", "-u", "-i", "-C", "-r", "-w", "sh", "-c", script)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8"}
	return daemon.Run(s.t, cmd, time.Minute)
}

// run wants a script to succeed, and to write each of some.
func (s *booted) run(script string, want ...string) {
	s.t.Helper()
	r := s.try(script)
	for _, w := range want {
		if !strings.Contains(r.Stdout, w) {
			s.t.Errorf("%s\ndoes not say %q:\n%s%s", script, w, r.Stdout, r.Stderr)
		}
	}
	if r.Status != 0 {
		s.t.Fatalf("%s\nends with %d:\n%s%s\n%s", script, r.Status, r.Stdout, r.Stderr, s.try("journalctl -u pierfsd -n 20 --no-pager -o cat").Stdout)
	}
}

// TestServiceUnderSystemd: the packaged unit under a real systemd. What denies the daemon things does not keep it from mounting, and its mounts are
// everybody's; it is started again when it is killed and when it hangs; fstab mounts by it; it stops in order.
func TestServiceUnderSystemd(t *testing.T) {
	t.Parallel()
	s := bootSystem(t)
	const place = "/srv/pierfs/Development/bank"
	s.run(`pierfsd demo >/tmp/demo.log 2>&1 & 
		for i in $(seq 200); do grep -q Ctrl-C /tmp/demo.log && break; sleep 0.1; done
		sed /mountPoint/d /tmp/pierfs-demo-*/etc/connections/demo.toml > /etc/pierfs/connections/bank.toml && chmod 600 /etc/pierfs/connections/bank.toml`)
	mounted := fmt.Sprintf("for i in $(seq 200); do grep -q ' %s ' /proc/self/mountinfo && ls %s/orders && exit; sleep 0.1; done; exit 1", place, place)

	s.run("systemctl start pierfsd && " + mounted)
	s.run("stat -c '%a %n' /srv/pierfs /srv/pierfs/Development", "755 /srv/pierfs\n", "755 /srv/pierfs/Development\n")
	s.run("setpriv --reuid=65534 --regid=65534 --clear-groups cat "+place+"/README.txt", "SFTP server")
	s.run("echo hello > "+place+"/inbox/x && cat /tmp/pierfs-demo-*/server/inbox/x", "hello")

	s.run("systemctl kill -s KILL pierfsd && for i in $(seq 200); do systemctl show -p NRestarts pierfsd | grep -q =1 && break; sleep 0.1; done; " + mounted)
	s.run(`mkdir -p /etc/systemd/system/pierfsd.service.d && printf '[Service]\nWatchdogSec=1s\n' > /etc/systemd/system/pierfsd.service.d/test.conf
		systemctl daemon-reload && systemctl restart pierfsd && kill -STOP $(systemctl show -p MainPID --value pierfsd)
		for i in $(seq 200); do systemctl show -p NRestarts pierfsd | grep -q =1 && break; sleep 0.1; done; ` + mounted)
	s.run("rm -r /etc/systemd/system/pierfsd.service.d; systemctl stop pierfsd && systemctl show -p Result pierfsd && ! grep ' /srv/pierfs/' /proc/self/mountinfo", "Result=success")

	s.run(`echo 'bank `+place+` pierfs x-systemd.requires=pierfsd.service,_netdev 0 0' > /etc/fstab && systemctl daemon-reload
		systemctl start srv-pierfs-Development-bank.mount && systemctl start pierfsd && systemctl is-active pierfsd && cat `+place+`/README.txt && systemctl stop srv-pierfs-Development-bank.mount && pierfs list`, "active", "SFTP server", "unmounted")
	s.run("systemctl reload pierfsd && systemctl is-active pierfsd && systemctl stop pierfsd && systemctl show -p Result pierfsd", "active", "Result=success")
}
