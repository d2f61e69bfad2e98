package conncfg

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// good is a definition about which there is nothing to say.
const good = `protocol = "SFTP"
host = "files.example.com"
username = "batch"
password = "${pw}"
workingDir = "/in"
`

// base is a configuration about which there is nothing to say.
func base() map[string]string {
	return map[string]string{
		"pierfs.toml":         `activeEnvironments = ["Development"]`,
		"variables.toml":      "[variables]\npw = { value = \"hunter2\", secret = true }\n",
		"connections/ok.toml": good,
	}
}

// tree writes files below a fresh directory, readable by their owner alone.
func tree(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		put(t, dir, name, text)
	}
	return dir
}

func put(t testing.TB, dir, name, text string) {
	t.Helper()
	name = filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// with is base and the files given over it; an empty text removes one.
func with(files map[string]string) map[string]string {
	all := base()
	maps.Copy(all, files)
	maps.DeleteFunc(all, func(_, text string) bool { return text == "" })
	return all
}

func check(t testing.TB, files map[string]string) []Finding {
	t.Helper()
	c, _ := Load(tree(t, files))
	return c.Check()
}

func printed(findings []Finding) string {
	var b strings.Builder
	for _, f := range findings {
		b.WriteString("\n\t" + f.String())
	}
	if b.Len() == 0 {
		return " nothing"
	}
	return b.String()
}

func errorsOf(findings []Finding) []Finding {
	return slices.DeleteFunc(slices.Clone(findings), func(f Finding) bool { return f.Severity != Error })
}
