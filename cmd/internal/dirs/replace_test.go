package dirs_test

import (
	"os"
	"path/filepath"
	"testing"

	"pierfs/cmd/internal/dirs"
)

// TestReplace: a file is replaced with the mode that was asked for, and nothing else is left beside it, also where that fails.
func TestReplace(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	for _, content := range []string{"first", "second"} {
		if err := dirs.Replace(file, []byte(content), 0o400); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(file)
		info, _ := os.Stat(file)
		if err != nil || string(got) != content || info.Mode() != 0o400 {
			t.Errorf("the file holds %q, %v, with the mode %v", got, err, info.Mode())
		}
	}
	taken := filepath.Join(dir, "dir")
	if err := os.MkdirAll(filepath.Join(taken, "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := dirs.Replace(taken, []byte("third"), 0o600); err == nil {
		t.Error("a directory was replaced")
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 2 {
		t.Errorf("beside the file there are %v, %v", names, err)
	}
}
