package worlds

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"pierfs/integration/daemon"
	"pierfs/integration/servers"
)

// TestWithoutADaemon: a definition that nobody has saved is tried on a machine on which no daemon runs, by a user who may not
// mount, and nothing is left behind. Rows 55 and 57 of the requirements.
// Holds rows 55, 56 and 57 of the requirements.
func TestWithoutADaemon(t *testing.T) {
	t.Parallel()
	server := servers.NewSSHD(t, servers.SSHOptions{})
	m := newMachine(t)
	const nobody = 65534
	if out, err := exec.Command("chown", "-R", fmt.Sprint(nobody), m.dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	m.credential = &syscall.Credential{Uid: nobody, Gid: nobody}
	definition := daemon.To(t, server, fields{"timeout": 5, "retryCount": 0})
	got := m.test(t, definition)
	if !got.OK || got.status != 0 {
		t.Fatalf("exit %d\n%s", got.status, got.raw)
	}
	for _, dir := range []string{"state", "cache", "run"} {
		if _, err := os.Stat(filepath.Join(m.dir, dir)); err == nil {
			t.Errorf("a test of an unsaved definition has made the directory %s", dir)
		}
	}
	got = m.test(t, with(definition, fields{"password": "wrong"}))
	if got.OK || got.status != 77 || got.Error.Cause != "auth_failed" {
		t.Errorf("with a wrong password: exit %d\n%s", got.status, got.raw)
	}
}

// TestPassiveAddressIsTold: row 80 of the requirements. A server that tells an address which is not its own works all the same, and that is told.
func TestPassiveAddressIsTold(t *testing.T) {
	t.Parallel()
	server := servers.NewFTP(t, servers.FTPOptions{Config: []string{"pasv_address=192.0.2.1", "cmds_denied=EPSV"}})
	got := newMachine(t).test(t, toFTP(server, servers.Plain))
	warnings := ""
	for _, s := range got.Steps {
		warnings += s.Warning
	}
	if !got.OK || !strings.Contains(warnings, "192.0.2.1") {
		t.Errorf("exit %d, warnings %q\n%s", got.status, warnings, got.raw)
	}
}
