package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"pierfs/conncfg"
)

// The pages tell of every command, flag and field, are the same each time, and mandoc finds no fault with them.
func TestManualPages(t *testing.T) {
	root := (&hand{}).command()
	var commands, fields []string
	for _, c := range commandsBelow(root) {
		if c.Runnable() && !c.HasSubCommands() && c.Name() != "help" {
			commands = append(commands, c.CommandPath())
		}
	}
	fields = append(conncfg.FieldNames(), "activeEnvironments", "cacheSize", "[secrets]")
	holds := map[string][]string{"pierfs.1": commands, "pierfs.toml.5": fields, "mount.pierfs.8": {"env=ENV", "x-systemd.requires", "--sloppy"}}
	for _, page := range manualPages() {
		text := func() string {
			var out, errOut bytes.Buffer
			if status := run(t.Context(), []string{"manual", page, "--date", "2026-11-03"}, nil, &out, &errOut); status != 0 {
				t.Fatalf("manual %s: %d, %s", page, status, &errOut)
			}
			return out.String()
		}
		first := text()
		if text() != first {
			t.Errorf("%s is another one each time", page)
		}
		bare := strings.NewReplacer(`\-`, "-", `\fB`, "", `\fR`, "", `\fI`, "", `\(aq`, "'").Replace(first)
		for _, want := range holds[page] {
			if !strings.Contains(bare, want) {
				t.Errorf("%s does not tell of %q", page, want)
			}
		}
		lint(t, page, first)
	}
	if status := run(t.Context(), []string{"manual", "pierfs.9"}, nil, &bytes.Buffer{}, &bytes.Buffer{}); status != 66 {
		t.Errorf("a page that is none: %d", status)
	}
}

func lint(t *testing.T, name, text string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "mandoc", "-Tlint", "-Wwarning", file).CombinedOutput(); err != nil {
		t.Errorf("mandoc -Tlint %s (Debian package mandoc): %v\n%s", name, err, out)
	}
}
