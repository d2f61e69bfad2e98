package model

import (
	"fmt"
	"os"
	"os/exec"
	"testing"

	"pierfs/integration/daemon"
)

// The processes that do operations are this test's binary once more, told by these variables.
const (
	serveVariable  = "PIERFS_MODEL_SERVE"
	brokenVariable = "PIERFS_MODEL_BROKEN"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(serveVariable); dir != "" {
		if err := Serve(dir, os.Stdin, os.Stdout, faultOf(os.Getenv(brokenVariable))); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(daemon.Main(m, 0, underTest))
}

// serving returns what makes the command of a process, with the named fault between it and the file system, "" for none.
func serving(t *testing.T, name string) func(dir string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return func(dir string) *exec.Cmd {
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), serveVariable+"="+dir, brokenVariable+"="+name)
		return cmd
	}
}

// faultOf finds a fault by name, nil for "".
func faultOf(name string) fault {
	for _, faults := range []map[string]fault{brokenAlone, brokenShared, failing} {
		if f, ok := faults[name]; ok {
			return f
		}
	}
	return nil
}
