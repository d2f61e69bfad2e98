package hostile

import (
	"flag"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"pierfs/integration/daemon"
)

// built are the programs under test, built when the first test asks for them.
var built = sync.OnceValues(func() (daemon.Programs, error) {
	programs, err := daemon.Build()
	programsDir.Store(&programs.Dir)
	return programs, err
})

// programsDir is to be removed behind the last test.
var programsDir atomic.Pointer[string]

func TestMain(m *testing.M) {
	flag.Parse()
	// These tests wait for timeouts more than they work.
	if err := flag.Set("test.parallel", "24"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if dir := programsDir.Load(); dir != nil {
		if err := os.RemoveAll(*dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	os.Exit(code)
}
