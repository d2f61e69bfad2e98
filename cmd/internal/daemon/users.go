package daemon

import (
	"bufio"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"pierfs/cmd/internal/control"
)

// mostUsers bounds what an answer tells of who uses a mount.
const mostUsers = 100

// usersOf returns who has files open below one of dirs, or stands there, by the directory. It asks /proc alone and never touches a mount:
// of one whose server is away nothing would come back.
func usersOf(dirs []string) map[string][]control.User {
	users := map[string][]control.User{}
	processes, err := os.ReadDir("/proc")
	if err != nil || len(dirs) == 0 {
		return users
	}
	for _, p := range processes {
		pid, err := strconv.Atoi(p.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		proc := filepath.Join("/proc", p.Name())
		links := []string{filepath.Join(proc, "cwd"), filepath.Join(proc, "root")}
		open, _ := os.ReadDir(filepath.Join(proc, "fd")) // none where it is not ours to see, or has ended
		for _, fd := range open {
			links = append(links, filepath.Join(proc, "fd", fd.Name()))
		}
		for _, link := range links {
			path, err := os.Readlink(link)
			if err != nil {
				continue
			}
			path = strings.TrimSuffix(path, " (deleted)")
			for _, dir := range dirs {
				if (path == dir || strings.HasPrefix(path, dir+"/")) && len(users[dir]) < mostUsers {
					users[dir] = append(users[dir], userOf(pid, path))
				}
			}
		}
	}
	return users
}

func userOf(pid int, path string) control.User {
	u := control.User{PID: pid, Path: path}
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	u.Exe, _ = os.Readlink(filepath.Join(proc, "exe")) // "" where it has ended
	if info, err := os.Stat(proc); err == nil {
		if stat, ok := info.Sys().(*syscall.Stat_t); ok {
			u.UID = stat.Uid
		}
	}
	return u
}

// unitDirs are where systemd reads units from.
func unitDirs() []string {
	return []string{"/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system"}
}

// unitsOf returns the units that want one of dirs to be mounted (RequiresMountsFor=, WantsMountsFor=; systemd.unit(5)), by the directory.
func unitsOf(where, dirs []string) map[string][]string {
	units := map[string][]string{}
	if len(dirs) == 0 {
		return units
	}
	for _, dir := range where {
		files, _ := filepath.Glob(filepath.Join(dir, "*.*"))
		dropIns, _ := filepath.Glob(filepath.Join(dir, "*.d", "*.conf"))
		for _, file := range append(files, dropIns...) {
			unit := filepath.Base(file)
			if parent := filepath.Base(filepath.Dir(file)); strings.HasSuffix(parent, ".d") {
				unit = strings.TrimSuffix(parent, ".d")
			}
			for _, want := range wantedMounts(file) {
				for _, d := range dirs {
					if (want == d || strings.HasPrefix(want, d+"/")) && !slices.Contains(units[d], unit) {
						units[d] = append(units[d], unit)
					}
				}
			}
		}
	}
	return units
}

// wantedMounts returns the paths that a unit's file wants mounted.
func wantedMounts(file string) []string {
	f, err := os.Open(file)
	if err != nil {
		return nil
	}
	defer f.Close()
	var paths []string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		key, value, _ := strings.Cut(lines.Text(), "=")
		if key = strings.TrimSpace(key); key == "RequiresMountsFor" || key == "WantsMountsFor" {
			paths = append(paths, strings.Fields(value)...)
		}
	}
	return paths
}
