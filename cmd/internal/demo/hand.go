package demo

import (
	"os"
	"os/exec"
	"path/filepath"
)

// hand is the line that makes pierfs a command in a reader's terminal, with the line break before it; "" where it is one.
func hand() string {
	if _, err := exec.LookPath("pierfs"); err == nil {
		return ""
	}
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), "pierfs")
		if _, err := exec.LookPath(beside); err == nil {
			return "\n  alias pierfs='" + beside + "'"
		}
	}
	checkout, err := os.Getwd()
	if _, statErr := os.Stat(filepath.Join(checkout, "cmd", "pierfs")); err != nil || statErr != nil {
		return "\n  # pierfs is the other program beside pierfsd: go install ./cmd/... in the checkout"
	}
	return "\n  alias pierfs='go -C " + checkout + " run ./cmd/pierfs'   # or for good: go install ./cmd/..."
}
