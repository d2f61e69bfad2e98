package conncfg

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func page(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("../docs/DEFINITIONS.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// Every example of the page is what it says: a definition, the daemon's settings, or an environment.
func TestExamplesOfThePage(t *testing.T) {
	var definitions []string
	files := map[string]string{"pierfs.toml": "", "environments/Production.toml": ""}
	for _, block := range regexp.MustCompile("(?s)```toml\n(.*?)```").FindAllStringSubmatch(page(t), -1) {
		first, _, _ := strings.Cut(block[1], "\n")
		if _, known := files[strings.TrimPrefix(first, "# ")]; known {
			files[strings.TrimPrefix(first, "# ")] = block[1]
		} else {
			definitions = append(definitions, block[1])
		}
	}
	if len(definitions) < 4 || files["pierfs.toml"] == "" || files["environments/Production.toml"] == "" {
		t.Fatalf("only %d definitions were found, and %v", len(definitions), files)
	}
	for i, text := range definitions {
		files["connections/example"+string(rune('a'+i))+".toml"] = text
	}
	files["environments/Test.toml"] = "[variables]\ndomain = \"example.org\"\nshop.password = { env = \"SHOP\" }\n"
	if got := errorsOf(check(t, files)); len(got) > 0 {
		t.Errorf("the examples have errors:%s", printed(got))
	}
}

// The page's tables have every field with its type, default and an example that the field takes.
func TestPageHasEveryField(t *testing.T) {
	rows := map[string][]string{}
	for line := range strings.Lines(page(t)) {
		if cells := strings.Split(line, "|"); len(cells) == 7 && strings.HasPrefix(cells[1], " `") {
			rows[strings.Split(cells[1], "`")[1]] = cells
		}
	}
	types := map[kind]string{text: "text", secret: "text or source", whole: "number", truth: "true/false", duration: "duration", mode: "permissions", rate: "rate", size: "size"}
	for _, f := range fields {
		row := rows[f.name]
		if row == nil {
			t.Errorf("%s is not on the page", f.name)
			continue
		}
		delete(rows, f.name)
		want := types[f.kind]
		if f.name == "port" {
			want = "number"
		}
		if got := strings.TrimSpace(row[2]); got != want {
			t.Errorf("%s is said to be %q, want %q", f.name, got, want)
		}
		if strings.Contains(row[1], "**V**") != f.variables {
			t.Errorf("%s: variables are %v, and the page says otherwise", f.name, f.variables)
		}
		if short := !strings.Contains(f.standard, " ") && !strings.Contains(f.standard, "/"); short && f.standard != "" && !strings.HasPrefix(strings.Trim(row[3], " `"), f.standard) {
			t.Errorf("%s: the default is said to be %q, want %q", f.name, row[3], f.standard)
		}
		example := strings.Trim(strings.TrimSpace(row[5]), "`")
		name := "x"
		if f.name == "name" {
			name = "Shop"
		}
		c, findings := Parse([]byte(f.name+" = "+example), "page", name)
		if HasErrors(findings) || c.base[f.name] == nil && f.name != "name" {
			t.Errorf("%s = %s:%s", f.name, example, printed(findings))
		}
	}
	for name := range rows {
		t.Errorf("the page has %s, and there is no such field", name)
	}
}

func TestPageHasEveryCode(t *testing.T) {
	source, err := os.ReadFile("finding.go")
	if err != nil {
		t.Fatal(err)
	}
	var codes []string
	for _, m := range regexp.MustCompile(`Code += "([A-Z_]+)"`).FindAllStringSubmatch(string(source), -1) {
		codes = append(codes, m[1])
	}
	var told []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([A-Z_]+)` \\|").FindAllStringSubmatch(page(t), -1) {
		told = append(told, m[1])
	}
	slices.Sort(codes)
	slices.Sort(told)
	if len(codes) < 40 || !slices.Equal(codes, told) {
		t.Errorf("codes of the program\n%v\nand of the page\n%v", codes, told)
	}
}

func TestPageHasEveryEncoding(t *testing.T) {
	_, section, _ := strings.Cut(page(t), "### Encodings")
	section, _, _ = strings.Cut(section, "###")
	for _, name := range encodings {
		inRange := strings.HasPrefix(name, "iso-8859-") || strings.HasPrefix(name, "windows-125")
		if !inRange && !strings.Contains(section, name) {
			t.Errorf("%s is not on the page", name)
		}
	}
	for _, word := range regexp.MustCompile(`\b(?:cp|latin|koi8|gb|utf|shift|euc)[-\w]*\b`).FindAllString(section, -1) {
		if checkEncoding(&setting{text: word}) != nil {
			t.Errorf("the page has %s, which is refused", word)
		}
	}
}
