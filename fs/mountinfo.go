package fs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// mount is one line of /proc/self/mountinfo.
type mount struct {
	id           int64
	major, minor uint32
	dir          string
	fsType       string
}

func readMounts() ([]mount, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var mounts []mount
	for line := range bytes.Lines(b) {
		if m, ok := parseMount(string(line)); ok {
			mounts = append(mounts, m)
		}
	}
	return mounts, nil
}

// parseMount reads "36 35 98:0 /root /dir opts [optional ...] - type source superopts" (proc(5)).
func parseMount(line string) (mount, bool) {
	fields := strings.Fields(line)
	if len(fields) < 6 {
		return mount{}, false
	}
	var m mount
	id, err := strconv.ParseInt(fields[0], 10, 64)
	major, minor, _ := strings.Cut(fields[2], ":")
	ma, errMajor := strconv.ParseUint(major, 10, 32)
	mi, errMinor := strconv.ParseUint(minor, 10, 32)
	if errors.Join(err, errMajor, errMinor) != nil {
		return mount{}, false
	}
	m.id, m.major, m.minor, m.dir = id, uint32(ma), uint32(mi), unescape(fields[4])
	for i, f := range fields[6:] {
		if f == "-" && 6+i+1 < len(fields) {
			m.fsType = fields[6+i+1]
			return m, true
		}
	}
	return mount{}, false
}

// unescape undoes the octal escapes of space, tab, newline and backslash.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+4 <= len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// MountPoint is a mount as the kernel lists it.
type MountPoint struct {
	ID, Parent int64
	Dir        string
	Type       string // of the file system
	Ours       bool   // it shows a tree of ours, of whichever daemon
	AllowOther bool   // other users than the daemon's may enter, where it is a mount of FUSE
	Peers      string // the group in which mounts are passed on both ways; "" if they are not
}

// ParseMounts reads the kernel's list, /proc/PID/mountinfo, in its order: what lies on top comes last.
func ParseMounts(text []byte) (all []MountPoint) {
	for line := range bytes.Lines(text) {
		m, ok := parseMount(string(line))
		if !ok {
			continue
		}
		fields := strings.Fields(string(line))
		p := MountPoint{ID: m.id, Dir: m.dir, Type: m.fsType, Ours: m.fsType == fsTypeFull}
		p.Parent, _ = strconv.ParseInt(fields[1], 10, 64) // 0 is nobody's
		for _, f := range fields[6:] {
			if group, ok := strings.CutPrefix(f, "shared:"); ok {
				p.Peers = group
			}
			if f == "-" {
				break
			}
		}
		p.AllowOther = strings.Contains(fields[len(fields)-1], "allow_other")
		all = append(all, p)
	}
	return all
}

// topmost returns what is mounted at dir and not covered by another mount there.
func topmost(mounts []mount, dir string) (mount, bool) {
	for i := len(mounts) - 1; i >= 0; i-- {
		if mounts[i].dir == dir {
			return mounts[i], true
		}
	}
	return mount{}, false
}

const probePatience = 2 * time.Second

// Stale reports whether a mount of ours lies at dir whose daemon is dead. A live one is not stale, nor is anything else
// that is mounted there. A mount that does not answer at all is an error: its daemon lives, but it is stuck.
func Stale(dir string) (bool, error) {
	dir, err := realDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	mounts, err := readMounts()
	if err != nil {
		return false, err
	}
	if m, ok := topmost(mounts, dir); !ok || m.fsType != fsTypeFull {
		return false, nil
	}
	answer := make(chan error, 1)
	go func() { // may outlive us, with one thread, if the mount never answers
		var st unix.Statfs_t
		answer <- unix.Statfs(dir, &st)
	}()
	patience := time.NewTimer(probePatience)
	defer patience.Stop()
	select {
	case err = <-answer:
		return errors.Is(err, syscall.ENOTCONN) || errors.Is(err, syscall.ECONNABORTED), nil
	case <-patience.C:
		return false, fmt.Errorf("what is mounted at %q does not answer: end its daemon, or umount -f it", dir)
	}
}

// Clean takes dead mounts of ours away from dir, one above the other if need be. Everything else stays.
func Clean(dir string) error {
	const deep = 16
	for range deep {
		stale, err := Stale(dir)
		if err != nil || !stale {
			return err
		}
		real, err := realDir(dir)
		if err != nil {
			return err
		}
		if err := unmount(real, syscall.MNT_DETACH); err != nil {
			return fmt.Errorf("take the dead mount away from %q: %w", dir, err)
		}
	}
	return fmt.Errorf("%q: more than %d dead mounts above each other", dir, deep)
}

// unmount is umount2(2), or the setuid helper for those who may not call that.
func unmount(dir string, flags int) error {
	err := unix.Unmount(dir, flags|unix.UMOUNT_NOFOLLOW)
	if !errors.Is(err, syscall.EPERM) {
		return err
	}
	args := []string{"-u"}
	if flags&syscall.MNT_DETACH != 0 {
		args = append(args, "-z")
	}
	ctx, cancel := context.WithTimeout(context.Background(), abortPatience)
	defer cancel()
	out, err := exec.CommandContext(ctx, "fusermount3", append(args, "--", dir)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("fusermount3: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

const fusectl = "/sys/fs/fuse/connections"

func abortFile(minor uint32) string { return fmt.Sprintf("%s/%d/abort", fusectl, minor) }

// canAbort reports whether abort can work, for which it mounts fusectl if it is root and nobody else has.
func canAbort(minor uint32) bool {
	if unix.Access(abortFile(minor), unix.W_OK) == nil {
		return true
	}
	// Best effort: where this is forbidden the caller goes without.
	_ = unix.Mount("fusectl", fusectl, "fusectl", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	return unix.Access(abortFile(minor), unix.W_OK) == nil
}

// abort ends the connection: every request on it, under way and to come, is ENOTCONN or ECONNABORTED.
func abort(minor uint32) error {
	if !canAbort(minor) {
		return fmt.Errorf("cannot write %s", abortFile(minor))
	}
	return os.WriteFile(abortFile(minor), []byte("1"), 0)
}

// setReadAhead tells the kernel how many bytes to read ahead. Only root may.
func setReadAhead(minor uint32, size int) error {
	file := fmt.Sprintf("/sys/class/bdi/0:%d/read_ahead_kb", minor)
	return os.WriteFile(file, []byte(strconv.Itoa(size>>10)), 0)
}
