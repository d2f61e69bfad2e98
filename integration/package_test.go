package integration

import (
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

// pack builds the Debian package of the programs under test.
func pack(t *testing.T) string {
	t.Helper()
	process.Need(t, "dpkg-deb", "git")
	programs, err := built()
	if err != nil {
		t.Fatal(err)
	}
	r := daemon.Run(t, exec.CommandContext(t.Context(), "../packaging/build.sh", "--fast", "--programs", programs.Dir, t.TempDir()), time.Minute)
	if r.Status != 0 {
		t.Fatalf("packaging/build.sh: %d\n%s%s", r.Status, r.Stdout, r.Stderr)
	}
	return strings.TrimSpace(r.Stdout)
}

// system is a bare Debian in a directory and a mount namespace of its own, with this machine's network and /dev/fuse.
type system struct {
	t      *testing.T
	dir    string
	holder *process.Process
}

func newSystem(t *testing.T) *system {
	t.Helper()
	process.Need(t, "unshare", "nsenter", "chroot", "mount")
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	bare := filepath.Join(cache, "pierfs", "root")
	if _, err := os.Stat(bare); err != nil {
		t.Fatalf("this test needs a bare system (%v): run integration/test.sh, which fetches it", err)
	}
	dir, err := os.MkdirTemp("", "pierfs-system-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // last: what is mounted there goes with the holder of the namespace
		if err := daemon.Clear(dir); err != nil {
			t.Error(err)
		}
	})
	s := &system{t: t, dir: dir}
	if out, err := exec.CommandContext(t.Context(), "cp", "-a", bare+"/.", dir).CombinedOutput(); err != nil {
		t.Fatalf("copy %s: %v\n%s", bare, err, out)
	}
	const hold = `cd "$1" && mount --make-rprivate / && mount --bind . . && cd "$1" && mount -t proc proc proc || exit
		for d in fuse null urandom; do touch dev/$d && mount --bind /dev/$d dev/$d || exit; done
		touch there && exec sleep 3600`
	s.holder = process.Start(t, exec.Command("unshare", "--mount", "sh", "-c", hold, "sh", dir))
	late := time.Now().Add(process.Patience)
	for {
		if _, err := os.Stat(filepath.Join(dir, "there")); err == nil {
			return s
		}
		if time.Now().After(late) {
			t.Fatalf("the namespace does not come up: %s", s.holder.Log)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// command runs sh in the system.
func (s *system) command(script string, env ...string) *exec.Cmd {
	cmd := exec.CommandContext(s.t.Context(), "nsenter", "--mount=/proc/"+strconv.Itoa(s.holder.Pid())+"/ns/mnt", "chroot", s.dir, "sh", "-c", script)
	cmd.Env = append([]string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8"}, env...)
	return cmd
}

// run wants a script to end with status, and returns what it wrote.
func (s *system) run(status int, script string, env ...string) string {
	s.t.Helper()
	r := daemon.Run(s.t, s.command(script, env...), time.Minute)
	if r.Status != status {
		s.t.Fatalf("%s\nends with %d, want %d:\n%s%s", script, r.Status, status, r.Stdout, r.Stderr)
	}
	return r.Stdout + r.Stderr
}

// says wants a text to hold each of some.
func (s *system) says(text string, want ...string) {
	s.t.Helper()
	for _, w := range want {
		if !strings.Contains(text, w) {
			s.t.Errorf("it does not say %q:\n%s", w, text)
		}
	}
}

// TestPackage: the package is installed into a clean system; a connection is defined there by command and mounted by mount(8), by name
// and as fstab(5) has it; it is not removed while something is owed to a server, and what is owed survives its removal and its purge, and
// is delivered when it is installed again.
func TestPackage(t *testing.T) {
	t.Parallel()
	deb := pack(t)
	server := servers.NewSSHD(t, servers.SSHOptions{})
	if err := os.WriteFile(filepath.Join(server.Dir, "theirs"), []byte("from the partner\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	s := newSystem(t)
	if out, err := exec.Command("cp", deb, filepath.Join(s.dir, "pierfs.deb")).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	s.run(0, "dpkg -i /pierfs.deb")
	s.says(s.run(0, "dpkg -s pierfs; stat -c '%a %n' /etc/pierfs /etc/pierfs/connections; dpkg -V pierfs"), "Status: install ok installed", "700 /etc/pierfs\n", "700 /etc/pierfs/connections\n")

	s.says(s.run(32, "mount -t pierfs bank /srv/pierfs/Development/bank -o timeout=200ms"), "no daemon answers", "systemctl start pierfsd")
	running := process.Start(t, s.command("exec pierfsd"))
	const point = "/srv/pierfs/Development/bank"
	env := []string{"HOST=" + server.Host, "PORT=" + strconv.Itoa(server.Port), "USER=" + server.User, "DIR=" + server.Root, "KEY=" + server.Fingerprint(t), "PASSWORD=" + server.Password}
	s.says(s.run(32, "mount -t pierfs bank "+point), `there is no connection "bank"`) // it waited for the daemon
	s.run(0, `printf %s "$PASSWORD" | pierfs vars set bank.password --secret --value-file -
		pierfs create bank -s protocol=SFTP -s host=$HOST -s port=$PORT -s username=$USER -s workingDir=$DIR -s hostKey=$KEY -s 'password=${bank.password}' -s commit=background -s drainTimeout=1s -s timeout=1s -s retryCount=0
		pierfs umount bank`, env...)
	s.run(0, "mount -t pierfs bank "+point+" -o env=Development,_netdev,x-systemd.requires=pierfsd.service && cat "+point+"/theirs && umount "+point+" && ! test -e "+point+"/theirs")
	s.run(0, "echo 'bank "+point+" pierfs env=Development,_netdev,nofail 0 0' > /etc/fstab && mount "+point+" && echo ours > "+point+"/ours && pierfs queue --check --age 1h")
	awaitFile(t, filepath.Join(server.Dir, "ours"), "ours\n")
	s.says(s.run(1, "mount -t pierfs bank "+point+" -o ro"), "may be written to", "readOnly=true")
	s.says(s.run(1, "mkdir /elsewhere && mount -t pierfs bank /elsewhere"), "belongs on "+point, "mountPoint=/elsewhere")
	s.says(s.run(1, "mount -t pierfs bank "+point+" -o port=22"), "port=22 is not known", "pierfs edit bank --set port=22")

	server.Kill(t)
	s.run(0, "echo owed > "+point+"/owed")
	s.says(s.run(1, "dpkg -r pierfs"), "is not at its server yet", "PIERFS_REMOVE_OWING=yes")
	s.says(s.run(1, "dpkg -r pierfs", "PIERFS_REMOVE_OWING=yes"), "its daemon still runs")
	s.says(s.run(32, "umount "+point), "owe")
	running.Signal(syscall.SIGTERM)
	if status := running.Wait(t, process.Patience); status != 74 {
		t.Errorf("the daemon that owes something ends with %d", status)
	}
	s.run(0, "dpkg -r pierfs && ! test -e /usr/bin/pierfs && test -e /etc/pierfs/connections/bank.toml")
	s.says(s.run(0, "dpkg -P pierfs && test -e /etc/pierfs/connections/bank.toml && test -d /var/lib/pierfs && ! test -e /var/cache/pierfs"), "/etc/pierfs stays", "/var/lib/pierfs stays")
	server.Restart(t)
	s.run(0, "dpkg -i /pierfs.deb")
	running = process.Start(t, s.command("exec pierfsd"))
	s.run(0, "mount "+point)
	awaitFile(t, filepath.Join(server.Dir, "owed"), "owed\n")
	running.Signal(syscall.SIGTERM)
	if status := running.Wait(t, process.Patience); status != 0 {
		t.Errorf("the daemon that owes nothing ends with %d", status)
	}
}

// awaitFile waits until a file has a content.
func awaitFile(t *testing.T, file, want string) {
	t.Helper()
	for late := time.Now().Add(process.Patience); ; {
		got, err := os.ReadFile(file)
		if string(got) == want {
			return
		}
		if time.Now().After(late) {
			t.Fatalf("%s is %q, %v; want %q", file, got, err, want)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// The units are what systemd understands, and as tight as a process can be that mounts for everybody: no setting of theirs makes a mount
// namespace, in which nobody else would see the mounts. Group and directories are made.
func TestUnits(t *testing.T) {
	t.Parallel()
	process.Need(t, "systemd-analyze", "systemd-sysusers", "systemd-tmpfiles", "dpkg-deb")
	dir := t.TempDir()
	run := func(name string, args ...string) string {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
		if err != nil {
			t.Errorf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	run("dpkg-deb", "-x", pack(t), dir)
	for _, name := range []string{"bin", "sbin", "lib"} {
		if err := os.Symlink("usr/"+name, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	unit, user := filepath.Join(dir, "usr/lib/systemd/system/pierfsd.service"), filepath.Join(dir, "usr/lib/systemd/user/pierfsd.service")
	for _, file := range []string{unit, user} { // the programs are looked for where the unit says, which is not here
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		here := strings.ReplaceAll(string(text), "ExecStart=/usr/sbin/", "ExecStart="+dir+"/usr/sbin/")
		copied := filepath.Join(t.TempDir(), "pierfsd.service")
		if err := os.WriteFile(copied, []byte(here), 0o644); err != nil {
			t.Fatal(err)
		}
		if out := run("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", copied); strings.Contains(out, "pierfsd") {
			t.Errorf("systemd-analyze verify %s says\n%s", file, out)
		}
		if file == unit {
			run("systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=45", copied)
		}
		for line := range strings.Lines(string(text)) {
			key, _, _ := strings.Cut(line, "=")
			switch key {
			case "PrivateMounts", "PrivateTmp", "PrivateDevices", "PrivateIPC", "ProtectSystem", "ProtectHome", "ProtectKernelTunables", "ProtectKernelModules",
				"ProtectKernelLogs", "ProtectControlGroups", "ProtectProc", "ProcSubset", "ReadOnlyPaths", "ReadWritePaths", "InaccessiblePaths", "BindPaths", "TemporaryFileSystem", "DynamicUser", "RootDirectory":
				t.Errorf("%s makes a mount namespace, in which nobody sees the mounts: %s", key, line)
			}
		}
	}
	run("systemd-sysusers", "--root="+dir, filepath.Join(dir, "usr/lib/sysusers.d/pierfs.conf"))
	if group, err := os.ReadFile(filepath.Join(dir, "etc/group")); err != nil || !strings.HasPrefix(string(group), "pierfs:") {
		t.Errorf("the group: %q, %v", group, err)
	}
	run("systemd-tmpfiles", "--root="+dir, "--create", filepath.Join(dir, "usr/lib/tmpfiles.d/pierfs.conf"))
	if info, err := os.Stat(filepath.Join(dir, "srv/pierfs")); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("the mount root: %v, %v", info, err)
	}
}
