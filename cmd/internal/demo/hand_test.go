package demo

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The demo says where the command comes from that it tells people to type.
func TestHandIsIntroduced(t *testing.T) {
	empty := t.TempDir()
	t.Setenv("PATH", empty)
	t.Chdir("../../..")
	if line := hand(); !strings.Contains(line, "run ./cmd/pierfs'") || !strings.Contains(line, "go install") {
		t.Errorf("in a checkout it says %q", line)
	}
	t.Chdir(empty)
	if line := hand(); !strings.Contains(line, "go install") {
		t.Errorf("elsewhere it says %q", line)
	}
	if err := os.WriteFile(filepath.Join(empty, "pierfs"), []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if line := hand(); line != "" {
		t.Errorf("where it is a command already it says %q", line)
	}
}
