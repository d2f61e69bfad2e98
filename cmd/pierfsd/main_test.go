package main

import (
	"bytes"
	"os"
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
