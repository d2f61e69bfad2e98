package integration

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// TestPromisesNameTestsThatExist: a promise of docs/SEMANTICS.md whose test was renamed or removed is held by nothing.
func TestPromisesNameTestsThatExist(t *testing.T) {
	page, err := os.ReadFile("../docs/SEMANTICS.md")
	if err != nil {
		t.Fatal(err)
	}
	promised := regexp.MustCompile(`\[(Test[A-Za-z0-9_]+)\]`).FindAllStringSubmatch(string(page), -1)
	if len(promised) < 40 {
		t.Fatalf("only %d tests are named", len(promised))
	}
	cmd := exec.Command("git", "grep", "-hoE", "--untracked", `^func Test[A-Za-z0-9_]+`, "--", "*_test.go")
	cmd.Dir = ".."
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	for line := range strings.Lines(string(out)) {
		there[strings.TrimPrefix(strings.TrimSpace(line), "func ")] = true
	}
	for _, name := range promised {
		if !there[name[1]] {
			t.Errorf("docs/SEMANTICS.md names %s, which is nowhere", name[1])
		}
	}
}
