package integration

import (
	"fmt"
	"os"
	"sync"
	"testing"

	"pierfs/integration/daemon"
)

// built are the programs under test, built when the first test asks for them; with the race detector if they are to be
// tested for that.
var built, builtForRace = build(), build("-race")

func build(flags ...string) func() (daemon.Programs, error) {
	return sync.OnceValues(func() (daemon.Programs, error) {
		programs, err := daemon.Build(flags...)
		if err == nil {
			removeLater(programs.Dir)
		}
		return programs, err
	})
}

// atEnd are directories that all tests share, removed behind the last one.
var atEnd struct {
	sync.Mutex
	dirs []string
}

func removeLater(dir string) {
	atEnd.Lock()
	defer atEnd.Unlock()
	atEnd.dirs = append(atEnd.dirs, dir)
}

func TestMain(m *testing.M) {
	if name := os.Getenv(childVariable); name != "" {
		runChild(name) // does not return
	}
	code := m.Run()
	for _, dir := range atEnd.dirs {
		if err := os.RemoveAll(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	os.Exit(code)
}
