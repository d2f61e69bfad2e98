package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pierfs/integration/daemon"
)

// TestExportWithAPassphrase: row 94. An export with a passphrase tells no name, also not by its own, and is imported elsewhere with the
// same passphrase alone.
func TestExportWithAPassphrase(t *testing.T) {
	t.Parallel()
	programs, err := built()
	if err != nil {
		t.Fatal(err)
	}
	here, there := daemon.New(t, programs), daemon.New(t, programs)
	here.Define(t, "Secret_Partner", daemon.Fields{"protocol": "SFTP", "host": "hidden.example", "username": "u", "workingDir": "/in", "enabled": false})
	here.Start(t)
	there.Start(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "phrase"), []byte("open sesame\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	in := daemon.Call{Dir: dir}
	if r := here.PierfsWith(t, in, "export", "Secret_Partner", "--passphrase-file", "phrase"); r.Status != 0 {
		t.Fatalf("export: %d, %s", r.Status, r.Stderr)
	}
	made, err := filepath.Glob(filepath.Join(dir, "*-ftp-integration-export.zip.age"))
	if err != nil || len(made) != 1 {
		t.Fatalf("%q, %v", made, err)
	}
	text, err := os.ReadFile(made[0])
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "Partner") || strings.Contains(string(text), "hidden") {
		t.Error("what is in it can be read")
	}
	if r := there.PierfsWith(t, in, "import", made[0]); r.Status != 64 || !strings.Contains(r.Stderr, "--passphrase-file") {
		t.Errorf("without a passphrase: %d, %s", r.Status, r.Stderr)
	}
	if r := there.PierfsWith(t, daemon.Call{Dir: dir, Stdin: "other\n"}, "import", made[0], "--passphrase-file", "-"); r.Status != 65 || !strings.Contains(r.Stderr, "the passphrase is another one") {
		t.Errorf("with another passphrase: %d, %s", r.Status, r.Stderr)
	}
	if r := there.PierfsWith(t, in, "import", made[0], "--passphrase-file", "phrase"); r.Status != 0 {
		t.Errorf("with the passphrase: %d, %s", r.Status, r.Stderr)
	}
	if r := there.Pierfs(t, "show", "Secret_Partner"); !strings.Contains(r.Stdout, "hidden.example") {
		t.Errorf("it is not there: %s%s", r.Stdout, r.Stderr)
	}
}
