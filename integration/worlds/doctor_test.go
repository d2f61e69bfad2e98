package worlds

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pierfs/integration/daemon"
	"pierfs/integration/process"
	"pierfs/integration/servers"
)

// examined is what `pierfs doctor --json` prints.
type examined struct {
	OK     bool
	Checks []check

	status int
	raw    string
}

type check struct {
	Check, Of, Detail, Fix, Code string
	OK, Unknown, Advice          bool
}

// no returns the checks that count and are not as they should be, with their fixes.
func (e examined) no() map[string]string {
	all := map[string]string{}
	for _, c := range e.Checks {
		if !c.OK && !c.Unknown && !c.Advice {
			all[c.Check] = c.Fix
		}
	}
	return all
}

func doctorSays(t *testing.T, r daemon.Result) examined {
	t.Helper()
	e := examined{status: r.Status, raw: r.Stdout + r.Stderr}
	if err := json.Unmarshal([]byte(r.Stdout), &e); err != nil {
		t.Fatalf("pierfs doctor: exit %d, %v\n%s", r.Status, err, e.raw)
	}
	if e.OK != (r.Status == 0) {
		t.Errorf("pierfs doctor: ok %v, and exit %d", e.OK, r.Status)
	}
	return e
}

// TestDoctor: rows 99 and 116 of the requirements. Each thing that keeps a connection from working though a test succeeds is brought about, doctor says no to
// it, and yes once its fix was applied.
func TestDoctor(t *testing.T) {
	t.Parallel()
	programs, err := built()
	must(t, err)
	d := daemon.New(t, programs)
	server, full, gone := servers.NewSSHD(t, servers.SSHOptions{}), servers.NewSSHD(t, servers.SSHOptions{Size: 4 << 20}), servers.NewSSHD(t, servers.SSHOptions{})
	sound := toSSH(t, server)
	write := func(name string, f fields) { d.Define(t, name, f) }
	for name, f := range map[string]fields{"sound": sound, "disabled": with(sound, fields{"enabled": false}), "byhand": sound, "hidden": sound, "narrow": sound, "closed": sound,
		"full": toSSH(t, full), "gone": toSSH(t, gone), "owing": with(sound, fields{"commit": "background"}), "broken": sound} {
		write(name, f)
	}
	d.Start(t)
	run := func(args ...string) func(*testing.T) {
		return func(t *testing.T) {
			t.Helper()
			if r := d.Pierfs(t, args...); r.Status != 0 {
				t.Fatalf("pierfs %s: exit %d\n%s%s", strings.Join(args, " "), r.Status, r.Stdout, r.Stderr)
			}
		}
	}
	filler := filepath.Join(full.Dir, "filler")
	above := filepath.Join(d.Dir)
	for _, c := range []struct {
		name   string
		args   []string
		breaks func(*testing.T)
		check  string
		fix    string
		mends  func(*testing.T)
	}{
		{"disabled", []string{"disabled"}, nil, "enabled", "pierfs enable disabled", run("enable", "disabled")},
		{"environment that is not active", []string{"sound", "--env", "Production"}, nil, "environment_active", "pierfs env use Test Production", run("env", "use", "Test", "Production")},
		{"unmounted by hand", []string{"byhand"}, run("umount", "byhand"), "mounted", "pierfs mount byhand", run("mount", "byhand")},
		{"path of nobody", []string{d.Dir + "/elsewhere/file"}, nil, "path", "pierfs list", nil},
		{"hidden under another mount", []string{"hidden"}, func(t *testing.T) { must(t, unix.Mount("none", d.Mount("hidden"), "tmpfs", 0, "")) }, "mount_alive", "umount " + d.Mount("hidden"),
			func(t *testing.T) { must(t, unix.Unmount(d.Mount("hidden"), 0)) }},
		{"user who may not come to it", []string{"closed", "--user", "nobody"}, func(t *testing.T) { must(t, os.Chmod(above, 0o700)) }, "user_access", "chmod a+x " + above,
			func(t *testing.T) { must(t, os.Chmod(above, 0o755)) }},
		{"user who may not list it", []string{"narrow", "--user", "nobody"}, func(t *testing.T) { write("narrow", with(sound, fields{"dirMode": "0700"})); run("apply")(t) }, "user_access", "dirMode",
			func(t *testing.T) { write("narrow", with(sound, fields{"dirMode": "0755"})); run("apply")(t) }},
		{"server full", []string{"full"}, func(t *testing.T) { fillDisk(t, filler) }, "server_space", "room", func(t *testing.T) { must(t, os.Remove(filler)) }},
		{"server gone", []string{"gone"}, func(t *testing.T) { gone.Kill(t); d.Pierfs(t, "mount", "gone") }, "server", "port", func(t *testing.T) { gone.Restart(t); run("mount", "gone")(t) }},
		{"change that waits for a person", []string{"owing"}, func(t *testing.T) {
			server.Stop(t)
			must(t, os.WriteFile(filepath.Join(d.Mount("owing"), "held"), []byte("x"), 0o644))
			run("queue", "hold", "owing")(t)
			server.Cont(t)
		}, "owed", "pierfs queue owing", run("queue", "retry", "owing")},
		{"definition that cannot be used", []string{"broken"}, func(t *testing.T) { write("broken", with(sound, fields{"port": 99999})) }, "definition", "pierfs check",
			func(t *testing.T) { write("broken", sound) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			look := func() examined {
				t.Helper()
				return doctorSays(t, d.Pierfs(t, append([]string{"doctor", "--json"}, c.args...)...))
			}
			if c.breaks != nil {
				c.breaks(t)
			}
			e := look()
			if fix, ok := e.no()[c.check]; !ok || !strings.Contains(fix, c.fix) || e.status == 0 {
				t.Errorf("exit %d, no to %q; want %s, and a fix with %q\n%s", e.status, e.no(), c.check, c.fix, e.raw)
			}
			if c.mends == nil {
				return
			}
			c.mends(t)
			for deadline := time.Now().Add(process.Patience); ; { // the server may have to be asked once more
				e = look()
				if len(e.no()) == 0 {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("the fix is applied, and it says no to %q\n%s", e.no(), e.raw)
				}
			}
		})
	}
	path := filepath.Join(d.Mount("sound"), "in", "file")
	e := doctorSays(t, d.Pierfs(t, "doctor", "--json", path))
	if !e.OK || !strings.Contains(e.raw, "/in/file of sound") || !strings.Contains(e.raw, "from 127.0.0.1") {
		t.Errorf("of a path of sound: exit %d\n%s", e.status, e.raw)
	}
	// A daemon that was killed leaves dead mounts. The next one cleans them; until then doctor finds them, without a daemon.
	d.Kill()
	<-d.Done()
	e = doctorSays(t, d.PierfsWith(t, daemon.Call{Env: []string{"CONFIGURATION_DIRECTORY=" + d.ConfigDir, "STATE_DIRECTORY=" + d.StateDir}}, "doctor", "sound", "--json"))
	dead := slices.IndexFunc(e.Checks, func(c check) bool {
		return c.Check == "stale_mounts" && !c.OK && strings.Contains(c.Detail, d.MountRoot) && strings.Contains(c.Fix, "umount -l")
	})
	if e.no()["daemon"] == "" || dead < 0 {
		t.Errorf("behind a daemon that was killed: exit %d, no to %q\n%s", e.status, e.no(), e.raw)
	}
}

// TestDoctorSeesItsNamespace: row 116 of the requirements. A daemon that mounts where nobody looks is told so.
func TestDoctorSeesItsNamespace(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	hand := m.command(t, "doctor", "--json")
	for want, before := range map[bool][]string{true: {"unshare", "--mount", "--propagation", "slave"}, false: nil} {
		line := append(before, hand.Args...)
		cmd := exec.CommandContext(t.Context(), line[0], line[1:]...)
		cmd.Env = hand.Env
		e := doctorSays(t, daemon.Run(t, cmd, time.Minute))
		fix, no := e.no()["mount_propagation"]
		if no != want || want && !strings.Contains(fix, "PrivateMounts") {
			t.Errorf("behind %q: no %v, fix %q; want no %v\n%s", before, no, fix, want, e.raw)
		}
	}
}

// TestUntestedIsTold: rows 60 and 113 of the requirements. A connection that was changed since it last passed a test is told to be untested, until it
// passes one again; one that fails tells where its records are.
// Holds rows 15, 60 and 113 of the requirements.
func TestUntestedIsTold(t *testing.T) {
	t.Parallel()
	programs, err := built()
	must(t, err)
	d := daemon.New(t, programs)
	server := servers.NewSSHD(t, servers.SSHOptions{})
	sound := toSSH(t, server)
	d.Define(t, "bank", sound)
	d.Start(t)
	untested := func(want bool, when string) {
		t.Helper()
		var answer struct{ Connections []struct{ Untested bool } }
		r := d.Pierfs(t, "list", "--json")
		if err := json.Unmarshal([]byte(r.Stdout), &answer); err != nil || len(answer.Connections) != 1 || answer.Connections[0].Untested != want {
			t.Errorf("%s: %v, want untested %v\n%s", when, err, want, r.Stdout)
		}
	}
	checklist := func(when, want string) {
		t.Helper()
		for _, args := range [][]string{{"apply", "--dry-run"}, {"apply", "--offline-ok"}} {
			if r := d.Pierfs(t, args...); want == "" && strings.Contains(r.Stdout, "TESTED") || !strings.Contains(r.Stdout, want) {
				t.Errorf("pierfs %s %s: want %q in the checklist\n%s%s", strings.Join(args, " "), when, want, r.Stdout, r.Stderr)
			}
		}
	}
	untested(true, "at first")
	checklist("at first", "its name is its own; no required field is missing; NEVER TESTED\n  pierfs test bank --env Test")
	d.Pierfs(t, "test", "bank")
	untested(false, "behind a test")
	checklist("behind a test", "")
	d.Define(t, "bank", with(sound, fields{"password": "wrong"}))
	d.Pierfs(t, "apply", "--offline-ok")
	untested(true, "behind a change")
	checklist("behind a change", "NOT TESTED SINCE IT WAS CHANGED (before: ")
	if r := d.Pierfs(t, "list"); !strings.Contains(r.Stdout, "bank") {
		t.Errorf("pierfs list: %s", r.Stdout)
	}
	if r := d.Pierfs(t, "test", "bank"); r.Status != 77 || !strings.Contains(r.Stderr, "records: pierfs deployments bank") {
		t.Errorf("a test that fails does not tell where its records are: exit %d\n%s%s", r.Status, r.Stdout, r.Stderr)
	}
	untested(true, "behind a test that failed")
}
