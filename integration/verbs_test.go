package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"pierfs/integration/daemon"
	"pierfs/integration/process"
	"pierfs/integration/servers"
)

// TestFileVerbs: both doors open into the same room; what goes in by one is at once seen by the other.
func TestFileVerbs(t *testing.T) {
	t.Parallel()
	s := newStage(t, servers.SSHOptions{}, nil)
	local := t.TempDir()
	content := random(1, 3<<20)
	if err := os.WriteFile(filepath.Join(local, "up"), content, 0o644); err != nil {
		t.Fatal(err)
	}
	run := func(want int, args ...string) daemon.Result {
		t.Helper()
		r := s.daemon.PierfsWith(t, daemon.Call{Dir: local}, args...)
		if r.Status != want {
			t.Errorf("pierfs %s: exit %d, want %d\n%s%s", strings.Join(args, " "), r.Status, want, r.Stdout, r.Stderr)
		}
		return r
	}
	run(0, "mkdir", connection+":/d")
	run(0, "put", "up", connection+":/d/f")
	has(t, filepath.Join(s.behind, "d", "f"), content)
	has(t, filepath.Join(s.mount, "d", "f"), content)
	run(0, "mv", connection+":/d/f", connection+":/d/g")
	run(0, "get", connection+":/d/g", "down")
	has(t, filepath.Join(local, "down"), content)
	if r := run(0, "ls", connection+":/d"); !strings.Contains(r.Stdout, "g") {
		t.Errorf("pierfs ls: %q", r.Stdout)
	}
	if r := run(0, "stat", connection+":/d/g", "--json"); !strings.Contains(r.Stdout, fmt.Sprint(len(content))) {
		t.Errorf("pierfs stat: %q", r.Stdout)
	}
	run(66, "get", connection+":/d/missing", "down2")
	if _, err := os.Stat(filepath.Join(local, "down2")); !os.IsNotExist(err) {
		t.Errorf("a failed get leaves a file: %v", err)
	}
	run(0, "rm", connection+":/d/g")
	if _, err := os.Stat(filepath.Join(s.mount, "d", "g")); !os.IsNotExist(err) {
		t.Errorf("after pierfs rm the mount shows it: %v", err)
	}
	run(66, "ls", "nobody:/")

	run(0, "umount", connection)
	if mounts := s.daemon.Mounts(t); len(mounts) != 0 {
		t.Errorf("after umount: %v", mounts)
	}
	run(0, "mount", connection)
	s.daemon.AwaitState(t, connection, "ready", process.Patience)
	run(0, "disable", connection)
	s.daemon.AwaitState(t, connection, "disabled", process.Patience)
	run(0, "enable", connection)
	s.daemon.AwaitState(t, connection, "ready", process.Patience)
}

// alone returns a daemon's directories and the environment in which a hand that starts a daemon by itself uses them,
// instead of those of the machine.
func alone(t *testing.T) (*daemon.Daemon, []string) {
	t.Helper()
	d := newDaemon(t)
	path := binaries(t) + ":" + os.Getenv("PATH")
	return d, []string{"PATH=" + path, "CONFIGURATION_DIRECTORY=" + d.ConfigDir, "STATE_DIRECTORY=" + d.StateDir, "CACHE_DIRECTORY=" + d.CacheDir,
		"RUNTIME_DIRECTORY=" + d.RuntimeDir, "PIERFS_RUNTIME_DIR=" + d.RuntimeDir, "HOME=" + d.Dir}
}

// TestMountWithoutConfiguration is `pierfs mount URL DIR` on a machine where no daemon runs.
func TestMountWithoutConfiguration(t *testing.T) {
	t.Parallel()
	server := servers.NewSSHD(t, servers.SSHOptions{})
	d, env := alone(t)
	if err := os.WriteFile(filepath.Join(server.Dir, "f"), []byte("there"), 0o644); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(d.Dir, "here")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	passwordFile := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(passwordFile, []byte(server.Password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	url := fmt.Sprintf("sftp://%s@%s%s", server.User, server.Address(), server.Root)
	mount := func(want bool, env []string, args ...string) daemon.Result {
		t.Helper()
		r := d.PierfsWith(t, daemon.Call{Env: env}, append([]string{"mount", url, dir}, args...)...)
		if (r.Status == 0) != want {
			t.Errorf("pierfs mount %s: exit %d, want success: %v\n%s%s", strings.Join(args, " "), r.Status, want, r.Stdout, r.Stderr)
		}
		_, err := os.ReadFile(filepath.Join(dir, "f"))
		if (err == nil) != want {
			t.Errorf("pierfs mount %s: exit %d, and the file reads %v", strings.Join(args, " "), r.Status, err)
		}
		return r
	}
	umount := func() {
		t.Helper()
		if r := d.PierfsWith(t, daemon.Call{Env: env}, "umount", dir); r.Status != 0 {
			t.Errorf("pierfs umount: exit %d\n%s%s", r.Status, r.Stdout, r.Stderr)
		}
		if mounts := d.Mounts(t); len(mounts) != 0 {
			t.Errorf("after umount: %v", mounts)
		}
	}
	if r := mount(false, env, "--password-file", passwordFile); !strings.Contains(r.Stderr, server.Fingerprint(t)) {
		t.Errorf("a refused host key is not told: %s", r.Stderr)
	}
	mount(false, env, "--password-file", passwordFile, "--host-key", "SHA256:"+strings.Repeat("A", 43))
	mount(false, append(env, "PIERFS_PASSWORD=wrong"), "--trust-new")
	mount(true, append(env, "PIERFS_PASSWORD="+server.Password), "--trust-new")
	umount()
	mount(true, env, "--password-file", passwordFile)
	if err := put(filepath.Join(dir, "new"), []byte("x")); err != nil {
		t.Error(err)
	}
	has(t, filepath.Join(server.Dir, "new"), []byte("x"))
	// The daemon that the hand started does not inherit the password.
	for _, pid := range pidsOf(t, d.RuntimeDir) {
		for _, file := range []string{"environ", "cmdline"} {
			text, err := os.ReadFile(filepath.Join("/proc", pid, file))
			if err == nil && strings.Contains(string(text), server.Password) {
				t.Errorf("/proc/%s/%s shows the password", pid, file)
			}
		}
	}
	umount()
	url = fmt.Sprintf("sftp://%s@%s/~/", server.User, server.Address())
	mount(true, env, "--password-file", passwordFile, "--host-key", server.Fingerprint(t), "-o", "readOnly=true")
	errnoIs(t, "write to a mount with -o readOnly", put(filepath.Join(dir, "ro"), nil), syscall.EROFS)
	umount()
	server.ChangeHostKeys(t)
	mount(false, env, "--password-file", passwordFile, "--trust-new")
	ended(t, d.RuntimeDir)
}

// pidsOf returns the processes whose command line or environment names dir, but this one.
func pidsOf(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var pids []string
	for _, entry := range entries {
		cmdline, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "cmdline"))
		if err != nil || len(cmdline) == 0 || !strings.Contains(filepath.Base(strings.Split(string(cmdline), "\x00")[0]), "pierfs") {
			continue
		}
		environ, _ := os.ReadFile(filepath.Join("/proc", entry.Name(), "environ"))
		if strings.Contains(string(cmdline)+string(environ), dir) {
			pids = append(pids, entry.Name())
		}
	}
	return pids
}

// ended waits until no daemon of dir is left: one that the hand started ends when nothing is mounted any more.
func ended(t *testing.T, dir string) {
	t.Helper()
	deadline := time.Now().Add(process.Patience)
	for {
		pids := pidsOf(t, dir)
		if len(pids) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("processes %v are left", pids)
			for _, pid := range pids {
				_ = exec.Command("kill", "-9", pid).Run()
			}
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// TestDemo: one command shows a mount that works, and Ctrl-C leaves nothing behind.
func TestDemo(t *testing.T) {
	t.Parallel()
	d, env := alone(t)
	dir := filepath.Join(d.Dir, "demo")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	temp := filepath.Join(d.Dir, "tmp")
	if err := os.Mkdir(temp, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(binaries(t), "pierfsd"), "demo")
	cmd.Env = append(append(os.Environ(), env...), "TMPDIR="+temp)
	p := process.Start(t, cmd)
	if err := p.Await("Ctrl-C", 0, process.Patience); err != nil {
		t.Fatalf("the demo does not come up: %v\n%s", err, p.Log)
	}
	mounts := d.Mounts(t)
	if len(mounts) != 2 {
		t.Fatalf("the demo mounted %v, want SFTP and FTP below its temporary directory\n%s", mounts, p.Log)
	}
	for _, mount := range mounts {
		if !strings.Contains(p.Log.String(), mount) {
			t.Errorf("the demo does not say where it mounted: %s", p.Log)
		}
		if names := sh(t, mount, `ls`); names == "" {
			t.Errorf("the demo shows an empty directory in %s", mount)
		}
		if err := put(filepath.Join(mount, "new"), []byte("x")); err != nil {
			t.Errorf("write in %s: %v", mount, err)
		}
	}
	p.Signal(syscall.SIGINT)
	if status := p.Wait(t, process.Patience); status != 0 {
		t.Errorf("the demo ends with %d\n%s", status, p.Log)
	}
	if mounts := d.Mounts(t); len(mounts) > 0 {
		t.Errorf("the demo left %v mounted", mounts)
	}
	if left := sh(t, temp, `find . -mindepth 1`); left != "" {
		t.Errorf("the demo left files behind:\n%s", left)
	}
	ended(t, d.Dir)
}

// TestReadme: the definition in README.md and its variable are such that `pierfs check` finds no mistake in them, and the
// commands there do what they say.
func TestReadme(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile(filepath.Join("..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	var examples []string
	for _, text := range strings.Split(string(readme), "```toml\n")[1:] {
		example, _, _ := strings.Cut(text, "```")
		examples = append(examples, example)
	}
	if len(examples) != 2 {
		t.Fatalf("README.md shows %d pieces of definitions, want a connection and its variable", len(examples))
	}
	d := newDaemon(t)
	for name, text := range map[string]string{"connections/partner.toml": examples[0], "variables.toml": examples[1]} {
		if err := os.WriteFile(filepath.Join(d.ConfigDir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if r := d.Pierfs(t, "check", "--config-dir", d.ConfigDir); r.Status != 0 {
		t.Errorf("pierfs check: exit %d\n%s%s", r.Status, r.Stdout, r.Stderr)
	}
	for _, command := range []string{"go run ./cmd/pierfsd demo", "integration/test.sh", "pierfs mount sftp://"} {
		if !strings.Contains(string(readme), command) {
			t.Errorf("README.md does not tell %q", command)
		}
	}
	walkReadme(t, d, examples[0])
}

// walkReadme does with a real server what README.md tells a newcomer to do with partner, in that order.
func walkReadme(t *testing.T, d *daemon.Daemon, definition string) {
	t.Helper()
	server := servers.NewSSHD(t, servers.SSHOptions{})
	if err := os.WriteFile(filepath.Join(server.Dir, "f"), []byte("there"), 0o644); err != nil {
		t.Fatal(err)
	}
	for field, value := range map[string]string{"host": fmt.Sprintf("%q\nport = %d", server.Host, server.Port), "username": fmt.Sprintf("%q", server.User),
		"workingDir": fmt.Sprintf("%q", server.Root)} {
		line := regexp.MustCompile(`(?m)^` + field + ` *= .*$`)
		if !line.MatchString(definition) {
			t.Fatalf("README.md's definition has no %s", field)
		}
		definition = line.ReplaceAllLiteralString(definition, field+" = "+value)
	}
	for name, text := range map[string]string{"connections/partner.toml": definition, "variables.toml": fmt.Sprintf("[secrets]\npartnerPassword = %q\n", server.Password)} {
		if err := os.WriteFile(filepath.Join(d.ConfigDir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := func(want int, args ...string) string {
		t.Helper()
		r := d.Pierfs(t, args...)
		if r.Status != want {
			t.Errorf("pierfs %s: exit %d, want %d\n%s%s", strings.Join(args, " "), r.Status, want, r.Stdout, r.Stderr)
		}
		return r.Stdout + r.Stderr
	}
	run(0, "check", "--config-dir", d.ConfigDir)
	d.Start(t)
	shown := run(77, "test", "partner")
	if !strings.Contains(shown, server.Fingerprint(t)) || !strings.Contains(shown, "pierfs trust partner SHA256:") {
		t.Errorf("pierfs test shows neither the server's host key nor the command that trusts it:\n%s", shown)
	}
	if dry := run(0, "trust", "partner", server.Fingerprint(t), "--dry-run"); !strings.Contains(dry, "would be trusted") || !strings.Contains(dry, "affects partner") {
		t.Errorf("pierfs trust --dry-run does not tell what it would trust, and whom that affects:\n%s", dry)
	}
	run(77, "test", "partner")
	run(0, "trust", "partner", server.Fingerprint(t))
	run(0, "test", "partner")
	if names := sh(t, d.Mount("partner"), `ls`); names != "f\n" {
		t.Errorf("ls of the mount: %q", names)
	}
	if list := run(0, "list"); !strings.Contains(list, "ready") {
		t.Errorf("pierfs list:\n%s", list)
	}
}

// TestMountEndsWithTheCause: `pierfs mount NAME && batch` starts no batch where the mount stands and its server cannot be
// used, and neither does apply.
// Holds row 59 of the requirements.
func TestMountEndsWithTheCause(t *testing.T) {
	t.Parallel()
	server := servers.NewSSHD(t, servers.SSHOptions{})
	d := newDaemon(t)
	d.Start(t)
	run := func(want int, told string, args ...string) {
		t.Helper()
		r := d.Pierfs(t, args...)
		if r.Status != want || !strings.Contains(r.Stderr, told) {
			t.Errorf("pierfs %s: exit %d, want %d and %q on standard error\n%s%s", strings.Join(args, " "), r.Status, want, told, r.Stdout, r.Stderr)
		}
	}
	d.Define(t, "refused", daemon.To(t, server, daemon.Fields{"password": "wrong", "timeout": 2, "retryCount": 0}))
	d.Define(t, "away", daemon.To(t, server, daemon.Fields{"port": 1, "timeout": 2, "retryCount": 0}))
	d.Define(t, "stranger", daemon.To(t, server, daemon.Fields{"hostKey": nil, "timeout": 2, "retryCount": 0}))
	d.Define(t, "lost", daemon.To(t, server, daemon.Fields{"workingDir": server.Root + "/missing", "timeout": 2, "retryCount": 0}))
	d.AwaitState(t, "refused", "offline", process.Patience)
	run(77, "pierfs: refused in Test is mounted, and offline: ", "mount", "refused")
	run(0, "", "mount", "refused", "--offline-ok")
	run(69, "check port", "mount", "away")
	run(77, "pierfs trust stranger SHA256:", "mount", "stranger")
	run(78, "workingDir", "mount", "lost")
	for name, want := range map[string][2]string{"refused": {"auth", "auth_failed"}, "away": {"tcp", "connection_refused"},
		"stranger": {"ssh", "host_key_unknown"}, "lost": {"workingDir", "workdir_missing"}} {
		told := d.Pierfs(t, "deployments", name, "--json").Stdout
		if !strings.Contains(told, `"phase":"`+want[0]+`"`) || !strings.Contains(told, want[1]) {
			t.Errorf("pierfs deployments %s does not tell of %q:\n%s", name, want, told)
		}
	}
	for _, name := range []string{"refused", "away", "stranger", "lost"} {
		if !slices.Contains(d.Mounts(t), d.Mount(name)) {
			t.Errorf("%s is not mounted", name)
		}
	}
	d.Define(t, connection, daemon.To(t, server, nil))
	run(0, "", "mount", connection)
	run(0, "", "apply")
	run(0, "", "disable", "refused")
	run(77, "the server refuse", "enable", "refused")
}
