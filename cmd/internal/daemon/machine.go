package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"pierfs/cmd/internal/control"
	"pierfs/cmd/internal/dirs"
	"pierfs/fs"
)

// Machine is what doctor looks at besides connections. OfThisMachine makes it; tests put other things in its place.
type Machine struct {
	Root string // what stands before /dev, /etc and /proc; "" is this machine
	UID  int    // of the daemon
	Dirs dirs.Dirs

	LookPath     func(program string) (string, error)
	Statfs       func(dir string, into *unix.Statfs_t) error
	Synchronised func() (yes, known bool) // whether somebody keeps the clock
	Files        func() (open, most int)  // that this process has open, and may have
	Answers      func(dir string) error   // asks what is mounted at dir, for a while
}

// OfThisMachine returns the machine that this process runs on.
func OfThisMachine(d dirs.Dirs) Machine {
	return Machine{UID: os.Geteuid(), Dirs: d, LookPath: exec.LookPath, Statfs: unix.Statfs, Synchronised: synchronised, Files: openFiles, Answers: answers}
}

// machine is who doctor speaks of, where it is no connection.
const machine = "machine"

// Bounds below which doctor says that there is too little.
const (
	leastState = 256 << 20 // bytes that uploads can be gathered in
	leastCache = 64 << 20
	leastFiles = 4096 // descriptors: each open file takes one, and so does each session
)

// look returns what is to be said of the machine.
func (m Machine) look() []control.Examined {
	mounts, mountsErr := m.mounts("self")
	checks := []control.Examined{m.device(), m.helper(), m.allowOther(), m.room("state_space", m.Dirs.State, leastState), m.room("cache_space", m.Dirs.Cache, leastCache),
		m.clock(), m.descriptors(), m.passthrough()}
	if mountsErr != nil {
		return append(checks, control.Examined{Check: "mounts", Of: machine, Unknown: true, Detail: mountsErr.Error()})
	}
	return append(checks, m.propagation(mounts), m.stale(mounts), m.hidden(mounts))
}

// good is a check that is as it should be.
func good(check, format string, args ...any) control.Examined {
	return control.Examined{Check: check, Of: machine, OK: true, Detail: fmt.Sprintf(format, args...)}
}

// bad is one that is not, and the way out.
func bad(check, fix, format string, args ...any) control.Examined {
	return control.Examined{Check: check, Of: machine, Detail: fmt.Sprintf(format, args...), Fix: fix, Code: control.System}
}

// advice is one that makes nothing fail.
func advice(c control.Examined) control.Examined {
	c.Advice, c.Code = true, ""
	return c
}

func (m Machine) path(path string) string { return m.Root + path }

func (m Machine) device() control.Examined {
	const check, fix = "fuse_device", "modprobe fuse; in a container, add --device /dev/fuse --cap-add SYS_ADMIN"
	file, err := os.OpenFile(m.path("/dev/fuse"), os.O_RDWR, 0)
	if err != nil {
		return bad(check, fix, "%v", err)
	}
	defer file.Close()
	return good(check, "/dev/fuse can be opened")
}

func (m Machine) helper() control.Examined {
	const check = "fusermount3"
	if m.UID == 0 {
		return good(check, "not needed: the daemon is root")
	}
	program, err := m.LookPath("fusermount3")
	if err != nil {
		return bad(check, "install fuse3", "%v", err)
	}
	info, err := os.Stat(program)
	if err != nil {
		return bad(check, "install fuse3", "%v", err)
	}
	if info.Mode()&os.ModeSetuid == 0 {
		return bad(check, "chmod u+s "+program+", as root, or install fuse3 anew", "%s is not setuid root, and may not mount", program)
	}
	return good(check, "%s", program)
}

func (m Machine) allowOther() control.Examined {
	const check = "user_allow_other"
	if m.UID == 0 {
		return good(check, "not needed: the daemon is root, and lets others in by the modes of files")
	}
	text, err := os.ReadFile(m.path("/etc/fuse.conf"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return control.Examined{Check: check, Of: machine, Unknown: true, Detail: err.Error()}
	}
	for line := range strings.Lines(string(text)) {
		if strings.TrimSpace(line) == "user_allow_other" {
			return good(check, "set in /etc/fuse.conf")
		}
	}
	return advice(bad(check, "for others, run the daemon as root", "/etc/fuse.conf has no user_allow_other, and the daemon is user %d: nobody else, not even root, can enter its mounts", m.UID))
}

// room looks at the space on dir's file system.
func (m Machine) room(check, dir string, least uint64) control.Examined {
	for ; ; dir = filepath.Dir(dir) { // the nearest that exists
		var st unix.Statfs_t
		err := m.Statfs(dir, &st)
		if errors.Is(err, unix.ENOENT) && dir != "/" {
			continue
		}
		if err != nil {
			return control.Examined{Check: check, Of: machine, Unknown: true, Detail: fmt.Sprintf("%s: %v", dir, err)}
		}
		free := st.Bavail * uint64(st.Bsize)
		switch {
		case free < least:
			return bad(check, "make room on the file system of "+dir, "%d MiB are free for %s, and %d MiB are little", free>>20, dir, least>>20)
		case st.Files > 0 && st.Ffree < 1000:
			return bad(check, "remove files on the file system of "+dir, "%d inodes are free for %s", st.Ffree, dir)
		}
		return good(check, "%d MiB are free for %s", free>>20, dir)
	}
}

func (m Machine) clock() control.Examined {
	const check = "clock"
	switch yes, known := m.Synchronised(); {
	case !known:
		return control.Examined{Check: check, Of: machine, Unknown: true, Detail: "the kernel does not tell whether the clock is kept"}
	case !yes:
		return advice(bad(check, "timedatectl set-ntp true, or run chronyd", "nobody keeps the clock of this machine: certificates may look expired, and changed files unchanged"))
	}
	return good(check, "the clock is kept by somebody")
}

func (m Machine) descriptors() control.Examined {
	const check = "file_descriptors"
	open, most := m.Files()
	const fix = "LimitNOFILE=65536 in the daemon's unit, or ulimit -n"
	switch {
	case most < leastFiles:
		return bad(check, fix, "this process may have %d files open, and %d are little", most, leastFiles)
	case open > most*4/5:
		return bad(check, fix, "%d of %d files are open", open, most)
	}
	return good(check, "%d of %d files are open", open, most)
}

// passthrough says whether the kernel reads local files itself: since Linux 6.9, for root.
func (m Machine) passthrough() control.Examined {
	const check = "passthrough"
	text, err := os.ReadFile(m.path("/proc/sys/kernel/osrelease"))
	if err != nil {
		return control.Examined{Check: check, Of: machine, Unknown: true, Detail: err.Error()}
	}
	release := strings.TrimSpace(string(text))
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		return control.Examined{Check: check, Of: machine, Unknown: true, Detail: "Linux " + release}
	}
	switch {
	case major < 6 || major == 6 && minor < 9:
		return advice(bad(check, "Linux 6.9 or newer", "Linux %s makes no passages: files that are kept here are read through the daemon, at half the speed", release))
	case m.UID != 0:
		return advice(bad(check, "run the daemon as root", "only a root daemon may have the kernel read local files itself"))
	}
	return good(check, "Linux %s reads local files itself", release)
}

// mounts returns what the process pid sees mounted.
func (m Machine) mounts(pid string) ([]fs.MountPoint, error) {
	text, err := os.ReadFile(m.path("/proc/" + pid + "/mountinfo"))
	if err != nil {
		return nil, err
	}
	return fs.ParseMounts(text), nil
}

// covering returns the mount that path lies on: the last of those with the longest directory.
func covering(mounts []fs.MountPoint, path string) (on fs.MountPoint, ok bool) {
	for _, p := range mounts {
		if within(path, p.Dir) && len(p.Dir) >= len(on.Dir) {
			on, ok = p, true
		}
	}
	return on, ok
}

// propagation says whether programs outside can see what this process mounts.
func (m Machine) propagation(mounts []fs.MountPoint) control.Examined {
	const check = "mount_propagation"
	outside, err := m.mounts("1")
	if err != nil {
		return control.Examined{Check: check, Of: machine, Unknown: true, Detail: err.Error()}
	}
	on, _ := covering(mounts, m.Dirs.MountRoot)
	if slices.ContainsFunc(outside, func(p fs.MountPoint) bool { return p.ID == on.ID }) { // no two namespaces have one mount
		return good(check, "the daemon mounts where everybody looks")
	}
	if on.Peers != "" && slices.ContainsFunc(outside, func(p fs.MountPoint) bool { return p.Peers == on.Peers }) {
		return good(check, "the daemon has a mount namespace of its own, and what it mounts below %s is passed on", m.Dirs.MountRoot)
	}
	return bad(check, "its unit must have no PrivateMounts=, PrivateTmp=, ProtectSystem= and the like, or be started outside of the container",
		"the daemon has a mount namespace of its own, and nobody outside of it sees what it mounts below %s", m.Dirs.MountRoot)
}

// stale finds mounts of ours that nobody answers for. One outside of the mount root may be another daemon's, a demo's say: it is told, and
// hinders nothing here.
func (m Machine) stale(mounts []fs.MountPoint) control.Examined {
	const check = "stale_mounts"
	var dead, elsewhere []string
	for _, p := range mounts {
		switch {
		case !p.Ours || m.Answers(p.Dir) == nil:
		case within(p.Dir, m.Dirs.MountRoot):
			dead = append(dead, p.Dir)
		default:
			elsewhere = append(elsewhere, p.Dir)
		}
	}
	const fix, found = "start the daemon that it was of, or: umount -l ", "what is mounted at %s has no living daemon"
	switch all := slices.Concat(dead, elsewhere); {
	case len(dead) > 0:
		return bad(check, fix+dead[0], found, strings.Join(all, ", "))
	case len(elsewhere) > 0:
		return advice(bad(check, fix+elsewhere[0], found, strings.Join(all, ", ")))
	}
	return good(check, "every mount answers")
}

// hidden finds mounts of ours that something lies over.
func (m Machine) hidden(mounts []fs.MountPoint) control.Examined {
	const check = "hidden_mounts"
	for i, p := range mounts {
		if !p.Ours {
			continue
		}
		for _, above := range mounts[i+1:] {
			if above.Parent == p.ID && above.Dir != p.Dir || !within(p.Dir, above.Dir) {
				continue // a mount inside of ours, or beside it
			}
			return bad(check, "umount "+above.Dir, "%s is hidden under a %s that was mounted at %s later", p.Dir, above.Type, above.Dir)
		}
	}
	return good(check, "none of ours lies under another")
}

// synchronised asks the kernel whether a time service disciplines the clock (adjtimex(2), STA_UNSYNC).
func synchronised() (yes, known bool) {
	var t unix.Timex
	if _, err := unix.Adjtimex(&t); err != nil {
		return false, false
	}
	return t.Status&unix.STA_UNSYNC == 0, true
}

// openFiles counts the descriptors of this process.
func openFiles() (open, most int) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err == nil {
		most = int(min(limit.Cur, 1<<30))
	}
	return len(entriesOf("/proc/self/fd")), most
}

func entriesOf(dir string) []os.DirEntry {
	entries, _ := os.ReadDir(dir) // what cannot be read is not counted
	return entries
}

// answersWithin is how long a mount may take to say anything at all.
const answersWithin = 2 * time.Second

// answers asks what is mounted at dir for its root.
func answers(dir string) error {
	_, err := statSoon(dir)
	return err
}

// statSoon is stat(2) with an end. A mount that never answers costs a thread.
func statSoon(dir string) (unix.Stat_t, error) {
	type answer struct {
		st  unix.Stat_t
		err error
	}
	told := make(chan answer, 1)
	go func() { // may outlive us
		var a answer
		a.err = unix.Stat(dir, &a.st)
		told <- a
	}()
	timer := time.NewTimer(answersWithin)
	defer timer.Stop()
	select {
	case a := <-told:
		return a.st, a.err
	case <-timer.C:
		return unix.Stat_t{}, fmt.Errorf("%s does not answer: %w", dir, context.DeadlineExceeded)
	}
}
