package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestSecondRunExcusesOnlyAFailure holds what test.sh makes of tests that fail, each in another way. None of the graver ways
// would happen again in a second run.
func TestSecondRunExcusesOnlyAFailure(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		plant string
		tags  string
		well  bool
		tells []string
		hides string
	}{
		{plant: "none", well: true, hides: "unsteady"},
		{plant: "once", well: true, tells: []string{"unsteady: pierfs/integration/testdata/planted.TestPlanted/part\n", "the machine stalled"}},
		{plant: "twice", tells: []string{"line 299 of a long story", "it fails", " lines ..."}, hides: "line 30 of a long story"},
		{plant: "skip", tells: []string{"SKIP: integration/testdata/planted TestPlanted", "nothing to try it with", "a skipped test proves nothing"}},
		{plant: "race", tells: []string{"race detected during execution", "no second run excuses pierfs/integration/testdata/planted: a data race"}},
		{plant: "panic", tells: []string{"panic: out of order", "no second run excuses pierfs/integration/testdata/planted: a panic"}},
		{plant: "leftovers", tells: []string{"something is left behind", "failed, and not by one of its tests"}},
		{plant: "broken", tags: "broken", tells: []string{"broken_test.go:5"}},
	} {
		cmd := exec.CommandContext(t.Context(), "bash", "test.sh", "these", "./integration/testdata/planted", "-tags="+c.tags)
		cmd.Env = append(os.Environ(), "PLANT="+c.plant, "PLANT_ONCE="+filepath.Join(t.TempDir(), c.plant))
		out, err := cmd.CombinedOutput()
		if well := err == nil; well != c.well {
			t.Errorf("%s: well is %v, want %v: %v\n%s", c.plant, well, c.well, err, out)
		}
		for _, tells := range c.tells {
			if !strings.Contains(string(out), tells) {
				t.Errorf("%s: does not tell %q:\n%s", c.plant, tells, out)
			}
		}
		if c.hides != "" && strings.Contains(string(out), c.hides) {
			t.Errorf("%s: tells %q:\n%s", c.plant, c.hides, out)
		}
	}
}
