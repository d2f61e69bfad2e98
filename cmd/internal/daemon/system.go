package daemon

import (
	"log/slog"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"pierfs/conncfg"
	"pierfs/fs"
)

// privileged reports whether mount(2) and the like are ours to call.
func privileged() bool { return os.Geteuid() == 0 }

// ownerOf returns the user whose file f is.
func ownerOf(f *os.File) (uint32, error) {
	var stat unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &stat); err != nil {
		return 0, err
	}
	return stat.Uid, nil
}

// Harden keeps secrets in this process: no core file, and no other process of the same user may look into it, through
// /proc/PID/mem or /proc/PID/environ (prctl(2), PR_SET_DUMPABLE).
func Harden() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return err
	}
	return unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
}

// mountOptions says how the tree of target is shown at the spot.
func mountOptions(w Want, target conncfg.Target, spot *spot, log *slog.Logger) fs.Options {
	return fs.Options{
		Name:       w.Name,
		Source:     target.Display(),
		AllowOther: privileged(), // the modes of files decide, as on any disk; a user's own daemon may not ask for it
		ReadOnly:   target.ReadOnly,
		Owner:      ownerOptions(target, spot),
		FileMode:   target.FileMode,
		DirMode:    target.DirMode,
		Logger:     log,
	}
}

// ownerOptions has the mount's files belong to whom the bare mount point belongs, where the definition names nobody.
func ownerOptions(target conncfg.Target, spot *spot) fs.Owner {
	owner := fs.Owner{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}
	var stat unix.Stat_t
	if err := unix.Fstat(int(spot.bare.Fd()), &stat); err == nil {
		owner.UID, owner.GID = stat.Uid, stat.Gid
	}
	if target.UID != nil {
		owner.UID = *target.UID
	}
	if target.GID != nil {
		owner.GID = *target.GID
	}
	switch target.Owner {
	case conncfg.OwnerRaw:
		owner.Mode = fs.OwnerRaw
	case conncfg.OwnerFixed:
		owner.Mode = fs.OwnerFixed
	}
	return owner
}

// Notify tells systemd, if it listens ($NOTIFY_SOCKET). A `pierfs mount` that starts a daemon listens until it is ready.
func Notify(log *slog.Logger) func(string) {
	var once sync.Once
	return func(state string) {
		if _, err := daemon.SdNotify(false, state); err != nil {
			once.Do(func() { log.Debug("the service manager cannot be told", "err", err) })
		}
	}
}

// reloading is what a service of Type=notify-reload says first.
func reloading() string {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return daemon.SdNotifyReloading
	}
	return daemon.SdNotifyReloading + "\nMONOTONIC_USEC=" + strconv.FormatInt(now.Nano()/1000, 10)
}

// watchdogEvery returns how often the service manager wants a sign of life; 0 if it wants none.
func watchdogEvery() time.Duration {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return 0
	}
	return interval / 2
}
