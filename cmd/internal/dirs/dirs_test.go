package dirs_test

import (
	"testing"

	"pierfs/cmd/internal/dirs"
)

func TestDefault(t *testing.T) {
	for _, test := range []struct {
		name string
		uid  int
		env  map[string]string
		want dirs.Dirs
	}{
		{"root", 0, map[string]string{"HOME": "/root", "XDG_CONFIG_HOME": "/ignored"}, dirs.Dirs{
			Config: "/etc/pierfs", State: "/var/lib/pierfs", Cache: "/var/cache/pierfs", Runtime: "/run/pierfs", MountRoot: "/srv/pierfs"}},
		{"service", 0, map[string]string{"CONFIGURATION_DIRECTORY": "/etc/a:/etc/b", "STATE_DIRECTORY": "/s", "CACHE_DIRECTORY": "/c", "RUNTIME_DIRECTORY": "/r"}, dirs.Dirs{
			Config: "/etc/a", State: "/s", Cache: "/c", Runtime: "/r", MountRoot: "/srv/pierfs"}},
		{"user", 7, map[string]string{"HOME": "/home/u", "XDG_RUNTIME_DIR": "/run/user/7"}, dirs.Dirs{
			Config: "/home/u/.config/pierfs", State: "/home/u/.local/state/pierfs", Cache: "/home/u/.cache/pierfs",
			Runtime: "/run/user/7/pierfs", MountRoot: "/home/u/pierfs"}},
		{"user with little", 7, map[string]string{"HOME": "/home/u", "XDG_STATE_HOME": "relative", "PIERFS_RUNTIME_DIR": "/x"}, dirs.Dirs{
			Config: "/home/u/.config/pierfs", State: "/home/u/.local/state/pierfs", Cache: "/home/u/.cache/pierfs",
			Runtime: "/x", MountRoot: "/home/u/pierfs"}},
		{"user without a runtime directory", 7, map[string]string{"HOME": "/home/u"}, dirs.Dirs{
			Config: "/home/u/.config/pierfs", State: "/home/u/.local/state/pierfs", Cache: "/home/u/.cache/pierfs",
			Runtime: "/tmp/pierfs-7", MountRoot: "/home/u/pierfs"}},
	} {
		if got := dirs.Default(test.uid, func(k string) string { return test.env[k] }); got != test.want {
			t.Errorf("%s: got %+v; want %+v", test.name, got, test.want)
		}
	}
}
