package integration

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
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

// posixExpected are the tests of posixtest that do not pass, by how they end.
var posixExpected = map[string]struct{ how, why string }{
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
	s := newStage(t, servers.SSHOptions{User: "root"}, nil)
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
		expected, odd := posixExpected[name]
		if !odd {
			expected.how = "pass"
		}
		if how != expected.how {
			t.Errorf("%s: %s, want %s\n%s%s", name, how, expected.how, r.Stdout, r.Stderr)
		}
	}
	t.Logf("posixtest: %d of %d pass", passed, len(posixtest.All)-len(notRun))
	if passed < posixFloor {
		t.Errorf("%d pass, want at least %d", passed, posixFloor)
	}
}

const (
	probeFloor = 176
	probeFails = 0
)

func TestLegacyProbe(t *testing.T) {
	t.Parallel()
	process.Need(t, "python3", "git")
	shared := os.Getenv("PIERFS_SHARED")
	if shared == "" {
		shared = filepath.Join("..", "..", "shared")
	}
	probe := filepath.Join(shared, "tools", "legacy_probe.py")
	if _, err := os.Stat(probe); err != nil {
		t.Fatalf("%v: set PIERFS_SHARED to the directory that holds tools/legacy_probe.py", err)
	}
	s := newStage(t, servers.SSHOptions{User: "root"}, nil)
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
	}
	t.Logf("legacy probe: %d ok, %d fail, %d unsupported in %v", counts["ok"], counts["fail"], counts["unsupported"], r.Took.Round(time.Second))
	if counts["ok"] < probeFloor || counts["fail"] > probeFails {
		t.Errorf("%s ok and %s fail, want at least %d and at most %d\n%s", strconv.Itoa(counts["ok"]), strconv.Itoa(counts["fail"]), probeFloor, probeFails, r.Stderr)
	}
}
