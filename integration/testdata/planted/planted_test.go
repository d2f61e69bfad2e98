// Package planted fails in the ways that integration/test.sh must tell apart. PLANT names the way, and PLANT_ONCE a file
// that is there once it has failed: it does so only in its first run.
package planted

import (
	"fmt"
	"os"
	"testing"
)

// first reports whether nothing has failed yet, and takes note that something does.
func first() bool {
	note, err := os.OpenFile(os.Getenv("PLANT_ONCE"), os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return false
	}
	note.Close()
	return true
}

func TestMain(m *testing.M) {
	status := m.Run()
	if os.Getenv("PLANT") == "leftovers" && first() {
		fmt.Println("something is left behind")
		status = 1
	}
	os.Exit(status)
}

func TestPlanted(t *testing.T) {
	switch plant := os.Getenv("PLANT"); plant {
	case "twice":
		for line := range 300 {
			t.Logf("line %d of a long story", line)
		}
		t.Error("it fails")
	case "once":
		t.Run("part", func(t *testing.T) {
			if first() {
				t.Error("the machine stalled")
			}
		})
	case "skip":
		t.Skip("nothing to try it with")
	case "race":
		if first() {
			fmt.Println("WARNING: DATA RACE")
			t.Error("race detected during execution of test")
		}
	case "panic":
		if first() {
			panic("out of order")
		}
	}
}

func TestBesideIt(t *testing.T) { t.Log("this one is well") }
