package daemon

import (
	"math"
	"testing"
	"testing/fstest"
)

func TestGroupLimitIsTheLeastAbove(t *testing.T) {
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	for name, c := range map[string]struct {
		root fstest.MapFS
		want int64
	}{
		"nothing is known": {fstest.MapFS{}, math.MaxInt64},
		"no limit":         {fstest.MapFS{"proc/self/cgroup": file("0::/a\n"), "sys/fs/cgroup/a/memory.max": file("max\n")}, math.MaxInt64},
		"its own": {fstest.MapFS{"proc/self/cgroup": file("0::/a/b\n"), "sys/fs/cgroup/a/b/memory.max": file("1000\n"),
			"sys/fs/cgroup/a/memory.max": file("2000\n")}, 1000},
		"one above": {fstest.MapFS{"proc/self/cgroup": file("0::/a/b\n"), "sys/fs/cgroup/a/b/memory.max": file("max\n"),
			"sys/fs/cgroup/a/memory.max": file("2000\n")}, 2000},
		"within a container": {fstest.MapFS{"proc/self/cgroup": file("0::/../outside\n"), "sys/fs/cgroup/memory.max": file("3000\n")}, 3000},
		"version 1": {fstest.MapFS{"proc/self/cgroup": file("12:cpu:/c\n5:memory:/m\nnonsense\n"),
			"sys/fs/cgroup/memory/m/memory.limit_in_bytes": file("4000\n"), "sys/fs/cgroup/memory/memory.limit_in_bytes": file("9223372036854771712\n")}, 4000},
	} {
		if got := groupLimit(c.root.ReadFile); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}
