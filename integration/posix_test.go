package integration

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/posixtest"

	"pierfs/integration/daemon"
	"pierfs/integration/process"
	"pierfs/integration/servers"
)

// Two suites that are not ours say how near a mount comes to a disk. Each has a floor, which only ever rises, and a table
// of what does not pass, with the reason: what is in the table and passes is a failure too, so that the table stays true.

const posixFloor = 27

// posixEnd is how a test of posixtest ends that does not pass.
type posixEnd struct{ how, why string }

// posixExpected are the tests of posixtest that do not pass, by how they end.
var posixExpected = map[string]posixEnd{
	"FcntlFlockLocksFile": {"fail", "fails on bare ext4 too; upstream skips it"},
	"OpenSymlinkRace":     {"fail", "fails on bare ext4 too where /etc/passwd is on the same file system; upstream skips it"},
	"SymlinkReadlink":     {"fail", "makes a link to /foobar; a link that leads out of the working directory is EPERM, for a program that followed it would read a file of this machine by a server's word"},
	"XAttr":               {"skip", "SFTP has no extended attributes; we answer ENOTSUP, which the test takes for a reason to skip"},
	"XAttrLarge":          {"skip", "as XAttr; ext4 skips it too, for lack of room"},
}

// notRun are those that fail on bare ext4 and so say nothing about us.
var notRun = []string{"FcntlFlockLocksFile", "OpenSymlinkRace"}

func TestPosix(t *testing.T) {
	t.Parallel()
	posix(t, newStage(t, servers.SSHOptions{User: "root"}, nil), posixExpected, posixFloor)
}

// posix runs posixtest on s: those that are not in ends must pass, and at least floor in all.
func posix(t *testing.T, s *stage, ends map[string]posixEnd, floor int) {
	passed := 0
	for _, name := range slices.Sorted(maps.Keys(posixtest.All)) {
		if slices.Contains(notRun, name) {
			continue
		}
		mount, _ := s.dir(t, name)
		r := child(t, name, mount, time.Minute)
		how := "fail"
		switch {
		case r.Status == 0 && strings.Contains(r.Stdout, "--- PASS: "+name):
			how = "pass"
			passed++
		case r.Status == 0 && strings.Contains(r.Stdout, "--- SKIP: "+name):
			how = "skip"
		}
		expected, odd := ends[name]
		if !odd {
			expected.how = "pass"
		}
		if how != expected.how {
			t.Errorf("%s: %s, want %s\n%s%s", name, how, expected.how, r.Stdout, r.Stderr)
		}
	}
	t.Logf("posixtest: %d of %d pass", passed, len(posixtest.All)-len(notRun))
	if passed < floor {
		t.Errorf("%d pass, want at least %d", passed, floor)
	}
}

const probeFloor = 176

func TestLegacyProbe(t *testing.T) {
	t.Parallel()
	legacyProbe(t, newStage(t, servers.SSHOptions{User: "root"}, nil), probeFloor)
}

// legacyProbe runs the probe on s: at least floor of its checks must say ok, and none may fail.
func legacyProbe(t *testing.T, s *stage, floor int) {
	t.Helper()
	process.Need(t, "python3", "git")
	shared := os.Getenv("PIERFS_SHARED")
	if shared == "" {
		shared = filepath.Join("..", "..", "shared")
	}
	probe := filepath.Join(shared, "tools", "legacy_probe.py")
	if _, err := os.Stat(probe); err != nil {
		t.Fatalf("%v: set PIERFS_SHARED to the directory that holds tools/legacy_probe.py", err)
	}
	mount, behind := s.dir(t, "probe")
	cmd := exec.CommandContext(t.Context(), "python3", probe, mount, behind)
	r := daemon.Run(t, cmd, 15*time.Minute)
	counts := map[string]int{}
	line := regexp.MustCompile(`(?m)^(\S+): (ok|fail|unsupported)\b.*$`)
	for _, m := range line.FindAllStringSubmatch(r.Stdout, -1) {
		counts[m[2]]++
		if m[2] != "ok" {
			t.Log(m[0])
		}
		if m[2] == "fail" {
			t.Error(m[0])
		}
	}
	t.Logf("legacy probe: %d ok, %d fail, %d unsupported in %v", counts["ok"], counts["fail"], counts["unsupported"], r.Took.Round(time.Second))
	if counts["ok"] < floor || counts["fail"] > 0 {
		t.Errorf("%d ok and %d fail, want at least %d and none\n%s", counts["ok"], counts["fail"], floor, r.Stderr)
	}
}
