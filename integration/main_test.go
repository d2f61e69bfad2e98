package integration

import (
	"os"
	"testing"

	"pierfs/integration/daemon"
)

// The programs under test, and the same with the race detector.
var (
	underTest        = daemon.Share()
	underTestForRace = daemon.Share("-race")

	built, builtForRace = underTest.Programs, underTestForRace.Programs
)

func TestMain(m *testing.M) {
	if name := os.Getenv(childVariable); name != "" {
		runChild(name) // does not return
	}
	os.Exit(daemon.Main(m, 0, underTest, underTestForRace))
}
