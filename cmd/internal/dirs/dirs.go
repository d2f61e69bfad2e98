// Package dirs says where pierfs keeps its things, for hand and daemon alike, and puts small files there so that they outlive a
// loss of power. The directories are what systemd hands a service, else the usual places of root, else those that the XDG base
// directory specification gives a user.
package dirs

import (
	"path/filepath"
	"strconv"
	"strings"
)

// Dirs are the five directories of one daemon. All are absolute.
type Dirs struct {
	Config    string // definitions, written by operators
	State     string // what must survive: staged content, quarantine, trust store
	Cache     string // what may be thrown away
	Runtime   string // control socket and lock; empty after a boot
	MountRoot string // connections appear below it as ENV/NAME
}

// Log is where a daemon logs to that was started by the hand, and has no service manager to read it.
func (d Dirs) Log() string { return filepath.Join(d.State, "pierfsd.log") }

// Default returns the directories of a daemon that runs as uid in the environment that getenv reads.
func Default(uid int, getenv func(string) string) Dirs {
	d := system()
	if uid != 0 {
		d = user(uid, getenv)
	}
	// systemd.exec(5): each may list several directories, of which the first is ours.
	for variable, dir := range map[string]*string{
		"CONFIGURATION_DIRECTORY": &d.Config,
		"STATE_DIRECTORY":         &d.State,
		"CACHE_DIRECTORY":         &d.Cache,
		"RUNTIME_DIRECTORY":       &d.Runtime,
	} {
		if first, _, _ := strings.Cut(getenv(variable), ":"); filepath.IsAbs(first) {
			*dir = first
		}
	}
	if dir := getenv("PIERFS_RUNTIME_DIR"); dir != "" {
		d.Runtime = dir
	}
	return d
}

func system() Dirs {
	return Dirs{
		Config:    "/etc/pierfs",
		State:     "/var/lib/pierfs",
		Cache:     "/var/cache/pierfs",
		Runtime:   "/run/pierfs",
		MountRoot: "/srv/pierfs",
	}
}

func user(uid int, getenv func(string) string) Dirs {
	home := getenv("HOME")
	if !filepath.IsAbs(home) {
		home = "/nonexistent" // fails where it is used, with the path in the message
	}
	// The specification has relative values ignored.
	base := func(variable, fallback string) string {
		if dir := getenv(variable); filepath.IsAbs(dir) {
			return filepath.Join(dir, "pierfs")
		}
		return filepath.Join(fallback, "pierfs")
	}
	runtime := "/tmp/pierfs-" + strconv.Itoa(uid)
	if dir := getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		runtime = filepath.Join(dir, "pierfs")
	}
	return Dirs{
		Config:    base("XDG_CONFIG_HOME", filepath.Join(home, ".config")),
		State:     base("XDG_STATE_HOME", filepath.Join(home, ".local/state")),
		Cache:     base("XDG_CACHE_HOME", filepath.Join(home, ".cache")),
		Runtime:   runtime,
		MountRoot: filepath.Join(home, "pierfs"),
	}
}
