package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A daemon that cannot start says why and what to do in whole lines.
func TestRefusedStartIsToldInLines(t *testing.T) {
	dir := t.TempDir()
	open := filepath.Join(dir, "run")
	if err := os.Mkdir(open, 0o755); err != nil {
		t.Fatal(err)
	}
	args := []string{"--runtime-dir", open, "--state-dir", filepath.Join(dir, "state"), "--cache-dir", filepath.Join(dir, "cache"),
		"--config-dir", filepath.Join(dir, "etc"), "--mount-root", filepath.Join(dir, "mnt")}
	for want, args := range map[string][]string{"chmod 0700 " + open: args, "unknown flag: --nonsense": {"--nonsense"}} {
		var out, errOut bytes.Buffer
		status := run(args, &out, &errOut)
		text := errOut.String()
		if status == 0 || !strings.HasPrefix(text, "pierfsd: ") || !strings.Contains(text, want) || !strings.HasSuffix(text, "\n") {
			t.Errorf("pierfsd %q ends with %d and says %q; want %q and a whole line", args, status, text, want)
		}
	}
}

// The manual tells of every flag and command, and mandoc finds no fault with it.
func TestManualPage(t *testing.T) {
	var out, errOut bytes.Buffer
	if status := run([]string{"manual", "--date", "2026-11-03"}, &out, &errOut); status != 0 {
		t.Fatalf("%d: %s", status, &errOut)
	}
	for _, want := range []string{`\-\-mount\-root`, "pierfsd demo", "SIGHUP", "EXIT STATUS"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the page does not tell of %s", want)
		}
	}
	file := filepath.Join(t.TempDir(), "pierfsd.8")
	if err := os.WriteFile(file, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "mandoc", "-Tlint", "-Wwarning", file).CombinedOutput(); err != nil {
		t.Errorf("mandoc -Tlint (Debian package mandoc): %v\n%s", err, out)
	}
}
