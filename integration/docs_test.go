package integration

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"pierfs/integration/daemon"
)

// TestPromisesNameTestsThatExist: a promise of docs/SEMANTICS.md, or a row of docs/FTP.md, whose test was renamed or removed is
// held by nothing.
func TestPromisesNameTestsThatExist(t *testing.T) {
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
	for _, page := range []string{"docs/SEMANTICS.md", "docs/FTP.md"} {
		text, err := os.ReadFile("../" + page)
		if err != nil {
			t.Fatal(err)
		}
		promised := regexp.MustCompile(`\[(Test[A-Za-z0-9_]+)\]`).FindAllStringSubmatch(string(text), -1)
		if len(promised) < 40 {
			t.Errorf("%s names only %d tests", page, len(promised))
		}
		for _, name := range promised {
			if !there[name[1]] {
				t.Errorf("%s names %s, which is nowhere", page, name[1])
			}
		}
	}
}

// TestEveryCauseIsExplained: the words that `pierfs test` and `pierfs list` print are those that docs/OPERATING.md explains.
func TestEveryCauseIsExplained(t *testing.T) {
	source, err := parser.ParseFile(token.NewFileSet(), "../backends/error.go", nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	words := map[string]bool{}
	ast.Inspect(source, func(node ast.Node) bool {
		spec, ok := node.(*ast.ValueSpec)
		if !ok || len(spec.Values) != 1 {
			return true
		}
		kind, named := spec.Type.(*ast.Ident)
		literal, plain := spec.Values[0].(*ast.BasicLit)
		if named && plain && kind.Name == "Cause" {
			word, err := strconv.Unquote(literal.Value)
			words[word] = err == nil
		}
		return true
	})
	if len(words) < 20 {
		t.Fatalf("only %d causes were found", len(words))
	}
	_, rows, _ := strings.Cut(text(t, "../docs/OPERATING.md"), "## `pierfs test` says")
	rows, _, _ = strings.Cut(rows, "\n## ")
	told := map[string]bool{}
	for row := range strings.Lines(rows) {
		first, _, _ := strings.Cut(strings.TrimPrefix(row, "| "), " | ")
		for _, word := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(first, -1) {
			told[word[1]] = true
		}
	}
	for word := range words {
		if !told[word] {
			t.Errorf("docs/OPERATING.md does not explain %s", word)
		}
	}
	for word := range told {
		if !words[word] {
			t.Errorf("docs/OPERATING.md explains %s, which nobody says", word)
		}
	}
}

// TestEveryRoomIsInTheDesign: docs/DESIGN.md tells of every package of the product, and of none that is not there.
func TestEveryRoomIsInTheDesign(t *testing.T) {
	_, table, _ := strings.Cut(text(t, "../docs/DESIGN.md"), "| package | it is |")
	table, _, _ = strings.Cut(table, "\n\n")
	told := map[string]bool{}
	for row := range strings.Lines(table) {
		cells := strings.Split(row, "|")
		if len(cells) < 3 {
			continue
		}
		above := "" // "backends/retry, meter" are neighbours
		for name := range strings.SplitSeq(cells[1], ",") {
			name = strings.TrimSpace(name)
			if above != "" && !strings.Contains(name, "/") {
				name = above + "/" + name
			}
			told[name] = true
			above = filepath.Dir(name)
		}
	}
	there := map[string]bool{"integration": true}
	for _, p := range housePackages(t) {
		if !p.product() {
			continue
		}
		there[p.room()] = true
		if !told[p.room()] {
			t.Errorf("docs/DESIGN.md does not tell of %s", p.room())
		}
	}
	for name := range told {
		if !there[name] && !strings.HasPrefix(name, "---") {
			t.Errorf("docs/DESIGN.md tells of %s, which is nowhere", name)
		}
	}
}

// TestCommandsOfThePagesExist: whatever a page or a hint of the program tells people to type is a command, and its flags are
// flags of it.
func TestCommandsOfThePagesExist(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	files = append(files, "../README.md")
	sources := exec.Command("git", "ls-files", "--", "backends/*.go", "cache/*.go", "cmd/*.go", "conncfg/*.go", "fs/*.go")
	sources.Dir = ".."
	out, err := sources.Output()
	if err != nil {
		t.Fatal(err)
	}
	for name := range strings.Lines(string(out)) {
		if name = strings.TrimSpace(name); !strings.HasSuffix(name, "_test.go") {
			files = append(files, filepath.Join("..", name))
		}
	}
	told := map[string]string{} // the help of each, and of the commands below it
	help := func(verbs ...string) string {
		args := append(verbs, "--help")
		r := daemon.Run(t, exec.Command(filepath.Join(binaries(t), "pierfs"), args...), time.Minute)
		if r.Status != 0 {
			t.Fatalf("pierfs %s: exit %d", strings.Join(args, " "), r.Status)
		}
		return r.Stdout
	}
	known := map[string]bool{"help": true, "unmount": true, "reload": true} // the latter two by another name
	listed := regexp.MustCompile(`(?m)^  ([a-z-]+) +[A-Z]`)
	for _, m := range listed.FindAllStringSubmatch(help(), -1) {
		known[m[1]] = true
	}
	if len(known) < 15 {
		t.Fatalf("only the commands %v were found", known)
	}
	// In backquotes, behind "run:", and at the beginning of a line of a block for shells.
	command := regexp.MustCompile("`pierfs ([a-z-]+)([^`\\n]*)`|run: pierfs ([a-z-]+)([^`\"\\n]*)")
	block := regexp.MustCompile("(?s)```sh\\n(.*?)```")
	line := regexp.MustCompile(`(?m)^pierfs ([a-z-]+)([^#|\n]*)`)
	flag := regexp.MustCompile(`(?:^| )(--[a-z-]+)`)
	seen := 0
	for _, file := range files {
		content := text(t, file)
		found := command.FindAllStringSubmatch(content, -1)
		for _, b := range block.FindAllString(content, -1) {
			found = append(found, line.FindAllStringSubmatch(b, -1)...)
		}
		for _, m := range found {
			seen++
			if m[1] == "" {
				m = append(m[:1], m[3:]...)
			}
			if !known[m[1]] {
				t.Errorf("%s tells to type %q, and there is no such command", file, strings.TrimSpace(m[0]))
				continue
			}
			for _, f := range flag.FindAllStringSubmatch(m[2], -1) {
				if told[m[1]] == "" {
					told[m[1]] = help(m[1])
					for _, below := range listed.FindAllStringSubmatch(told[m[1]], -1) {
						told[m[1]] += help(m[1], below[1])
					}
				}
				if !strings.Contains(told[m[1]], f[1]+" ") && !strings.Contains(told[m[1]], f[1]+"\n") {
					t.Errorf("%s tells to type %q, which has no flag %s", file, strings.TrimSpace(m[0]), f[1])
				}
			}
		}
	}
	if seen < 50 {
		t.Errorf("only %d commands were found", seen)
	}
}

// text reads a file of the house.
func text(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}
