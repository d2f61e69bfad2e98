package fs

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"pierfs/backends/mem"
	"pierfs/cache"
)

// smallDisk returns a directory on an ext4 of its own, of size bytes.
func smallDisk(t *testing.T, size int64) string {
	t.Helper()
	image, dir := filepath.Join(t.TempDir(), "image"), filepath.Join(t.TempDir(), "disk")
	must(t, os.WriteFile(image, nil, 0o600))
	must(t, os.Truncate(image, size))
	must(t, os.Mkdir(dir, 0o700))
	for _, args := range [][]string{{"mkfs.ext4", "-q", "-F", "-m", "0", image}, {"mount", "-o", "loop", image, dir}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s (it needs root, e2fsprogs and loop devices)", strings.Join(args, " "), err, out)
		}
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount %s: %v: %s", dir, err, out)
		}
	})
	return dir
}

// A disk that the kernel fills is told to who writes, and to who closes what could not be written down; what was acknowledged is sent, and makes
// room again.
func TestKernelFillsTheStagingDisk(t *testing.T) {
	const size = 24 << 20
	disk := smallDisk(t, size)
	var away atomic.Bool
	away.Store(true)
	r := newRig(t, rigOptions{
		mem: mem.Options{Forbid: func(string, string) syscall.Errno {
			if away.Load() {
				return syscall.EDQUOT
			}
			return 0
		}},
		cache:   cache.Options{Background: true, Passthrough: true, Target: "rig", StagingLimit: size},
		staging: filepath.Join(disk, "staging"),
	})
	if err := r.tree.Riding(); err != nil {
		t.Fatal(err)
	}
	r.pollNothing()
	block := make([]byte, 1<<20)
	var acknowledged []string
	full := false
	for i := range 100 {
		name := string(rune('a'+i/26)) + string(rune('a'+i%26))
		err := os.WriteFile(filepath.Join(r.dir, name), block, 0o644)
		if err == nil {
			acknowledged = append(acknowledged, name)
			continue
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%s: %v", name, err)
		}
		full = true
		_ = os.Remove(filepath.Join(r.dir, name)) // as programs do
		break
	}
	if !full || len(acknowledged) < 10 {
		t.Fatalf("%d files were taken by a disk of %d bytes, which became full: %v", len(acknowledged), size, full)
	}
	for i := range 300 { // and now with what is smallest, until nothing is taken any more
		if err := os.WriteFile(filepath.Join(r.dir, "small"+string(rune('A'+i%50))+string(rune('A'+i/50))), block[:4096], 0o644); errors.Is(err, syscall.ENOSPC) {
			break
		}
	}
	away.Store(false)
	r.tree.Wake()
	wantSoon(t, "what was acknowledged is at the server", func() bool { return len(r.tree.Queue()) == 0 })
	for _, name := range acknowledged {
		if got := r.onServer(name); len(got) != len(block) {
			t.Errorf("the server has %d bytes of %s", len(got), name)
		}
	}
	must(t, os.WriteFile(filepath.Join(r.dir, "after"), block, 0o644))
	r.drained()
	if n := r.mount.fs.writes.Load(); n > 0 {
		t.Errorf("%d writes came to us", n)
	}
}

// A file system that takes more than stagingLimit would let the kernel pass it: then we write, and that is told.
func TestKernelDoesNotPassTheStagingLimit(t *testing.T) {
	r := newRig(t, rigOptions{cache: cache.Options{Background: true, Passthrough: true, Target: "rig", StagingLimit: 16 << 20}})
	r.sh("echo text > f")
	r.drained()
	if got := r.onServer("f"); got != "text\n" || r.mount.fs.writes.Load() == 0 {
		t.Errorf("the server has %q, and we were asked for %d writes", got, r.mount.fs.writes.Load())
	}
	said := strings.Join(r.tree.Weaker(), "\n")
	if !strings.Contains(said, "writePassthrough has no effect") || !strings.Contains(said, "stagingLimit is 16777216") || !strings.Contains(said, "quota") {
		t.Errorf("told: %s", said)
	}
}
