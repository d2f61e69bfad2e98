package integration

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"testing"
	"testing/fstest"
	"time"

	"github.com/hanwen/go-fuse/v2/posixtest"

	"pierfs/integration/daemon"
)

// Tests that are not ours run in a process of their own: this test's binary once more, told by these variables what to
// do. A test that kills its process, or hangs, is then one failure and not the end of the run.
const (
	childVariable    = "PIERFS_TEST_CHILD"
	childDirVariable = "PIERFS_TEST_CHILD_DIR"
)

// runChild runs one test on the directory and exits. Whoever started it must look for "--- PASS": a test runner that
// found nothing to run succeeds too.
func runChild(name string) {
	dir := os.Getenv(childDirVariable)
	run, ok := posixtest.All[name]
	if name == "TestFS" {
		run, ok = testFS, true
	}
	if !ok {
		fmt.Fprintf(os.Stderr, "there is no test %q\n", name)
		os.Exit(2)
	}
	all := func(string, string) (bool, error) { return true, nil }
	testing.Main(all, []testing.InternalTest{{Name: name, F: func(t *testing.T) { run(t, dir) }}}, nil, nil)
	os.Exit(2) // testing.Main has exited already
}

// child runs the test name on dir and returns what it printed.
func child(t *testing.T, name, dir string, limit time.Duration) daemon.Result {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "-test.v", "-test.count=1", "-test.timeout="+limit.String())
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), childVariable+"="+name, childDirVariable+"="+dir)
	return daemon.Run(t, cmd, limit+10*time.Second)
}

// testFS walks dir with testing/fstest, which wants what the tree below must hold.
func testFS(t *testing.T, dir string) {
	var files []string
	err := fs.WalkDir(os.DirFS(dir), ".", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && path != "." {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Fatal("the directory is empty")
	}
	if err := fstest.TestFS(os.DirFS(dir), files...); err != nil {
		t.Fatal(err)
	}
}
