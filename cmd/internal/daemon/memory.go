package daemon

import (
	"cmp"
	"log/slog"
	"math"
	"os"
	"path"
	"runtime/debug"
	"strconv"
	"strings"
)

// memoryLimit is what the daemon's heap shall stay below. The collector works harder as it comes near, in place of letting
// garbage double what a listing of a million names needs: 400 MB may be resident then, of which the program itself, its threads and
// what is freed but not given back take some 60. It is soft: what is in use is never refused.
const memoryLimit = 320 << 20

// LimitMemory sets the soft limit of the collector: memoryLimit, or less where the control group allows less. $GOMEMLIMIT
// counts more.
func LimitMemory(log *slog.Logger) {
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	limit := min(memoryLimit, groupLimit(readRoot)/10*9) // a tenth for stacks and what is not the heap's
	debug.SetMemoryLimit(limit)
	log.Debug("memory", "softLimit", limit)
}

func readRoot(name string) ([]byte, error) { return os.ReadFile("/" + name) }

// groupLimit returns the least memory that this process' control group or one above it may use, of cgroup version 2 or 1
// (cgroups(7)); math.MaxInt64 if there is no limit, or none can be read. read reads a file by its path below the root.
func groupLimit(read func(name string) ([]byte, error)) int64 {
	least := int64(math.MaxInt64)
	text, err := read("proc/self/cgroup")
	if err != nil {
		return least
	}
	for line := range strings.Lines(string(text)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3) // id:controllers:path
		if len(parts) != 3 {
			continue
		}
		tree, file := "sys/fs/cgroup", "memory.max"
		switch parts[1] {
		case "":
		case "memory":
			tree, file = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
		default:
			continue
		}
		for group := path.Clean("/" + parts[2]); ; group = path.Dir(group) {
			least = min(least, readLimit(read, path.Join(tree, group, file)))
			if group == "/" {
				break
			}
		}
	}
	return least
}

// readLimit returns the number in a file. A group without a limit says "max", and one that is only seen from outside a
// container has no file.
func readLimit(read func(name string) ([]byte, error), name string) int64 {
	text, err := read(name)
	if err != nil {
		return math.MaxInt64
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return math.MaxInt64
	}
	return cmp.Or(max(n, 0), math.MaxInt64)
}
