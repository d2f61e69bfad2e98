package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"pierfs/cmd/internal/control"
	"pierfs/cmd/internal/dirs"
)

// wellMachine returns a machine on which all is well, made of files below a directory of its own.
func wellMachine(t *testing.T) Machine {
	t.Helper()
	root := t.TempDir()
	for name, text := range map[string]string{
		"dev/fuse": "", "etc/fuse.conf": "# comment\nuser_allow_other\n", "proc/sys/kernel/osrelease": "6.12.1\n",
		"proc/self/mountinfo": "22 1 0:20 / / rw shared:1 - ext4 /dev/sda rw\n50 22 0:40 / /srv/pierfs/Test/bank rw shared:7 - fuse.pierfs sftp://x rw,allow_other\n",
	} {
		write(t, filepath.Join(root, name), text)
	}
	write(t, filepath.Join(root, "proc/1/mountinfo"), "22 1 0:20 / / rw shared:1 - ext4 /dev/sda rw\n")
	helper := filepath.Join(root, "fusermount3")
	write(t, helper, "")
	if err := os.Chmod(helper, 0o755|os.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	return Machine{Root: root, UID: 1000, Dirs: dirs.Dirs{State: "/var/lib/pierfs", Cache: "/var/cache/pierfs", MountRoot: "/srv/pierfs"},
		LookPath: func(string) (string, error) { return helper, nil },
		Statfs: func(_ string, st *unix.Statfs_t) error {
			*st = unix.Statfs_t{Bsize: 4096, Bavail: 1 << 20, Files: 1 << 20, Ffree: 1 << 20}
			return nil
		},
		Synchronised: func() (bool, bool) { return true, true },
		Files:        func() (int, int) { return 20, 65536 },
		Answers:      func(string) error { return nil },
	}
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestMachineIsLookedAt: row 116 of the requirements, the machine. Each thing is broken alone, and doctor says that and nothing else, with a way out.
func TestMachineIsLookedAt(t *testing.T) {
	file := func(name, text string) func(*testing.T, *Machine) {
		return func(t *testing.T, m *Machine) { write(t, filepath.Join(m.Root, name), text) }
	}
	mounts := func(lines string) func(*testing.T, *Machine) { return file("proc/self/mountinfo", lines) }
	everywhere := func(lines string) func(*testing.T, *Machine) {
		return func(t *testing.T, m *Machine) { mounts(lines)(t, m); file("proc/1/mountinfo", lines)(t, m) }
	}
	const root, bank = "22 1 0:20 / / rw shared:1 - ext4 /dev/sda rw\n", "50 22 0:40 / /srv/pierfs/Test/bank rw - fuse.pierfs sftp://x rw,allow_other\n"
	free := func(blocks, inodes uint64) func(*testing.T, *Machine) {
		return func(_ *testing.T, m *Machine) {
			m.Statfs = func(_ string, st *unix.Statfs_t) error {
				*st = unix.Statfs_t{Bsize: 4096, Bavail: blocks, Files: 1 << 20, Ffree: inodes}
				return nil
			}
		}
	}
	for name, c := range map[string]struct {
		breaks func(*testing.T, *Machine)
		check  string // that says no; "" if none does
		fix    string
		advice bool
	}{
		"all is well":  {func(*testing.T, *Machine) {}, "", "", false},
		"no /dev/fuse": {func(t *testing.T, m *Machine) { remove(t, m, "dev/fuse") }, "fuse_device", "modprobe fuse", false},
		"no fusermount3": {func(_ *testing.T, m *Machine) {
			m.LookPath = func(string) (string, error) { return "", os.ErrNotExist }
		}, "fusermount3", "install fuse3", false},
		"fusermount3 without setuid": {func(t *testing.T, m *Machine) {
			if err := os.Chmod(filepath.Join(m.Root, "fusermount3"), 0o755); err != nil {
				t.Fatal(err)
			}
		}, "fusermount3", "chmod u+s", false},
		"no user_allow_other":             {file("etc/fuse.conf", "# user_allow_other\n"), "user_allow_other", "root", true},
		"little room":                     {free(1<<14, 1<<20), "state_space", "make room", false},
		"few inodes":                      {free(1<<20, 3), "state_space", "remove files", false},
		"clock not kept":                  {func(_ *testing.T, m *Machine) { m.Synchronised = func() (bool, bool) { return false, true } }, "clock", "set-ntp", true},
		"few descriptors":                 {func(_ *testing.T, m *Machine) { m.Files = func() (int, int) { return 20, 1024 } }, "file_descriptors", "LimitNOFILE", false},
		"descriptors in use":              {func(_ *testing.T, m *Machine) { m.Files = func() (int, int) { return 60000, 65536 } }, "file_descriptors", "LimitNOFILE", false},
		"old kernel":                      {file("proc/sys/kernel/osrelease", "6.1.0-13-amd64\n"), "passthrough", "6.9", true},
		"namespace of its own":            {mounts("122 1 0:20 / / rw master:1 - ext4 /dev/sda rw\n"), "mount_propagation", "PrivateMounts", false},
		"namespace that passes mounts on": {mounts("122 1 0:20 / / rw shared:1 - ext4 /dev/sda rw\n"), "", "", false},
		"dead mount":                      {func(_ *testing.T, m *Machine) { m.Answers = func(string) error { return unix.ENOTCONN } }, "stale_mounts", "umount -l /srv/pierfs/Test/bank", false},
		"dead mount of another daemon": {func(t *testing.T, m *Machine) {
			everywhere(root+"51 22 0:41 / /tmp/demo/bank rw - fuse.pierfs sftp://x rw\n")(t, m)
			m.Answers = func(string) error { return unix.ENOTCONN }
		}, "stale_mounts", "umount -l /tmp/demo/bank", true},
		"mount upon it":      {everywhere(root + bank + "60 50 0:41 / /srv/pierfs/Test/bank rw - tmpfs none rw\n"), "hidden_mounts", "umount /srv/pierfs/Test/bank", false},
		"mount above it":     {everywhere(root + bank + "60 22 0:41 / /srv rw - tmpfs none rw\n"), "hidden_mounts", "umount /srv", false},
		"mount inside of it": {everywhere(root + bank + "60 50 0:41 / /srv/pierfs/Test/bank/sub rw - tmpfs none rw\n"), "", "", false},
		"mount before it":    {everywhere(root + "40 22 0:41 / /srv rw - tmpfs none rw\n" + strings.Replace(bank, "50 22", "50 40", 1)), "", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			m := wellMachine(t)
			c.breaks(t, &m)
			said := map[string]control.Examined{}
			for _, e := range m.look() {
				if !e.OK && !e.Unknown {
					said[e.Check] = e
				}
			}
			if _, root := said["passthrough"]; c.check != "passthrough" && root { // this one is no root
				delete(said, "passthrough")
			}
			if name == "little room" || name == "few inodes" {
				delete(said, "cache_space")
			}
			e, ok := said[c.check]
			if ok != (c.check != "") || len(said) > 1 || !ok && len(said) > 0 || !strings.Contains(e.Fix, c.fix) || e.Advice != c.advice {
				t.Errorf("it says no to %+v; want %q, with a fix that has %q, advice %v", said, c.check, c.fix, c.advice)
			}
			if failed := (control.DoctorAnswer{Checks: m.look()}).Failed(); (failed != "") != (c.check != "" && !c.advice) {
				t.Errorf("it fails with %q", failed)
			}
		})
	}
}

func remove(t *testing.T, m *Machine, name string) {
	t.Helper()
	if err := os.Remove(filepath.Join(m.Root, name)); err != nil {
		t.Fatal(err)
	}
}
