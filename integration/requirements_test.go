package integration

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Every test that docs/REQUIREMENTS.md names is there.
func TestRequirementsNameTests(t *testing.T) {
	page, err := os.ReadFile("../docs/REQUIREMENTS.md")
	if err != nil {
		t.Fatal(err)
	}
	room, found := "", 0
	for _, m := range regexp.MustCompile("((?:conncfg|cmd|cache|backends|fs|integration)(?:/[a-z]+)*) |`((?:Test|Fuzz)[A-Za-z]+)`").FindAllStringSubmatch(string(page), -1) {
		name := m[2]
		if m[1] != "" {
			room = m[1]
			continue
		}
		files, err := filepath.Glob(filepath.Join("..", room, "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		there := false
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			there = there || strings.Contains(string(text), "func "+name+"(")
		}
		if found++; !there {
			t.Errorf("%s has no test %s", room, name)
		}
	}
	if found < 30 {
		t.Errorf("the page names %d tests", found)
	}
}
