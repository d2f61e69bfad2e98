package integration

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pierfs/integration/daemon"
	"pierfs/integration/servers"
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

// TestImportFromOthers: what rclone keeps of a server is a connection here, with its password encrypted: it is imported, applied, and
// programs read there. Of a dry run nothing stays.
func TestImportFromOthers(t *testing.T) {
	t.Parallel()
	programs, err := built()
	if err != nil {
		t.Fatal(err)
	}
	server := servers.NewSSHD(t, servers.SSHOptions{})
	if err := os.WriteFile(filepath.Join(server.Dir, "f"), []byte("theirs"), 0o644); err != nil {
		t.Fatal(err)
	}
	d := daemon.New(t, programs)
	d.Start(t)
	block, err := aes.NewCipher([]byte("\x9c\x93\x5bHs\nUMk\xfd|c\xc8\x86\xa9+\xd3\x90\x19\x8e\xb8\x12\x8a\xfb\xf4\xde\x16+\x8b\x95\xf68"))
	if err != nil {
		t.Fatal(err)
	}
	obscured := make([]byte, aes.BlockSize+len(server.Password)) // as rclone obscures, from a counter of zero
	cipher.NewCTR(block, obscured[:aes.BlockSize]).XORKeyStream(obscured[aes.BlockSize:], []byte(server.Password))
	conf := fmt.Sprintf("[partner in]\ntype = sftp\nhost = %s\nport = %d\nuser = %s\npass = %s\n\n[drive]\ntype = drive\n",
		server.Host, server.Port, server.User, base64.RawURLEncoding.EncodeToString(obscured))
	in := daemon.Call{Stdin: conf}
	if r := d.PierfsWith(t, in, "import", "--from", "rclone", "-", "--dry-run"); r.Status != 0 || d.State(t, "partner_in") != "" {
		t.Errorf("dry run: %d, %s%s", r.Status, r.Stdout, r.Stderr)
	}
	r := d.PierfsWith(t, in, "import", "--from", "rclone", "-")
	for _, want := range []string{`it was called "partner in"`, `"drive" was left out`, "password was taken over, and is stored encrypted"} {
		if r.Status != 0 || !strings.Contains(r.Stderr, want) {
			t.Errorf("%d: it does not say %q:\n%s%s", r.Status, want, r.Stdout, r.Stderr)
		}
	}
	text, err := os.ReadFile(filepath.Join(d.ConfigDir, "connections", "partner_in.toml"))
	if err != nil || strings.Contains(string(text), server.Password) || !strings.Contains(string(text), "password = { sealed =") {
		t.Errorf("the definition: %s, %v", text, err)
	}
	if strings.Contains(r.Stdout+r.Stderr+d.Log(), server.Password) {
		t.Error("the password is told")
	}
	for _, args := range [][]string{{"edit", "partner_in", "--set", "workingDir=" + server.Root, "--offline-ok"}, {"trust", "partner_in", server.Fingerprint(t)}, {"apply"}} {
		if r := d.Pierfs(t, args...); r.Status != 0 {
			t.Fatalf("pierfs %v: %d, %s%s", args, r.Status, r.Stdout, r.Stderr)
		}
	}
	has(t, filepath.Join(d.Mount("partner_in"), "f"), []byte("theirs"))
}
