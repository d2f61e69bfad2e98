package integration

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// requirements is how many rows the requirements have.
const requirements = 131

// Every requirement stands on docs/REQUIREMENTS.md or docs/ROADMAP.md, and the tests that hold it name its row.
func TestTestsNameTheirRequirements(t *testing.T) {
	seen := map[string]bool{}
	for _, page := range []string{"REQUIREMENTS.md", "ROADMAP.md"} {
		text, err := os.ReadFile(filepath.Join("..", "docs", page))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			numbers := regexp.MustCompile(`^\| ([0-9]+(?:, [0-9]+)*) `).FindStringSubmatch(line)
			if numbers == nil {
				continue
			}
			room := ""
			for _, m := range regexp.MustCompile("((?:conncfg|cmd|cache|backends|fs|integration)(?:/[a-z]+)*) |`((?:Test|Fuzz)[A-Za-z]+)`").FindAllStringSubmatch(line, -1) {
				if m[1] != "" {
					room = m[1]
					continue
				}
				doc := docOf(t, room, m[2])
				for number := range strings.SplitSeq(numbers[1], ", ") {
					if !regexp.MustCompile(`\b[Rr]ows? (?:[0-9]+(?:, | and ))*` + number + `\b`).MatchString(doc) {
						t.Errorf("%s %s does not name row %s", room, m[2], number)
					}
				}
			}
			for number := range strings.SplitSeq(numbers[1], ", ") {
				seen[number] = true
			}
		}
	}
	for n := 1; n <= requirements; n++ {
		if !seen[strconv.Itoa(n)] {
			t.Errorf("row %d stands nowhere", n)
		}
	}
}

// docOf returns the comment of a test.
func docOf(t *testing.T, room, test string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", room, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if m := regexp.MustCompile(`(?m)((?:^//.*\n)*)^func ` + test + `\(`).FindSubmatch(text); m != nil {
			return string(m[1])
		}
	}
	return ""
}

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
