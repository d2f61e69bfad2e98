package hostile

import (
	"os"
	"testing"

	"pierfs/integration/daemon"
)

// The programs under test.
var (
	underTest = daemon.Share()
	built     = underTest.Programs
)

func TestMain(m *testing.M) { os.Exit(daemon.Main(m, 24, underTest)) }
