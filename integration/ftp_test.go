package integration

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"pierfs/integration/daemon"
	"pierfs/integration/process"
	"pierfs/integration/servers"
)

// newFTPStage is newStage with a server of FTP, or of FTPS.
func newFTPStage(t *testing.T, o servers.FTPOptions, more daemon.Fields) *stage {
	t.Helper()
	return stageOf(t, servers.NewFTP(t, o), o, more)
}

// stageOf is newFTPStage for a server of o that is there.
func stageOf(t *testing.T, server *servers.FTP, o servers.FTPOptions, more daemon.Fields) *stage {
	t.Helper()
	fields := daemon.Fields{
		"protocol": "FTP", "host": server.Host, "port": server.Port, "username": server.User, "password": server.Password,
		"workingDir": server.Root,
	}
	if o.TLS != servers.Plain {
		maps.Copy(fields, daemon.Fields{"protocol": "FTPS", "useImplicit": o.TLS == servers.Implicit, "caFile": server.Authority.File})
	}
	maps.Copy(fields, more)
	s := &stage{daemon: newDaemon(t), behind: server.Dir}
	s.daemon.Define(t, connection, fields)
	s.daemon.Start(t)
	s.mount = s.daemon.Mount(connection)
	s.daemon.AwaitState(t, connection, "ready", process.Patience)
	return s
}

// TestFTPServerStops is TestServerStops over FTP.
func TestFTPServerStops(t *testing.T) {
	t.Parallel()
	for _, o := range []servers.FTPOptions{
		{}, {Kind: servers.PureFTPd}, {Kind: servers.ProFTPD, TLS: servers.Explicit}, {Kind: servers.PyFTPdlib},
	} {
		t.Run(o.Kind.String()+" "+o.TLS.String(), func(t *testing.T) {
			t.Parallel()
			stops(t, func(t *testing.T) (*stage, freezer) {
				server := servers.NewFTP(t, o)
				return stageOf(t, server, o, impatient), server
			})
		})
	}
}

// TestCutListingThroughTheMount: pure-ftpd lists 10,000 names of a directory. Those that it leaves out are there all the same, and
// what is not there is absent.
func TestCutListingThroughTheMount(t *testing.T) {
	t.Parallel()
	s := newFTPStage(t, servers.FTPOptions{Kind: servers.PureFTPd}, nil)
	mount, behind := s.dir(t, "crowd")
	const all = 12_000
	for i := range all {
		if err := os.WriteFile(filepath.Join(behind, fmt.Sprintf("entry%05d", i)), []byte("x"), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := os.ReadDir(mount)
	if err != nil || len(entries) >= all || len(entries) < 9_000 {
		t.Fatalf("%d names are listed, %v; want most of them", len(entries), err)
	}
	listed := map[string]bool{}
	for _, e := range entries {
		listed[e.Name()] = true
	}
	hidden := 0
	for i := range all {
		name := fmt.Sprintf("entry%05d", i)
		if listed[name] {
			continue
		}
		if hidden++; hidden%50 > 0 {
			continue
		}
		if content, err := os.ReadFile(filepath.Join(mount, name)); err != nil || string(content) != "x" {
			t.Errorf("%s, which is not listed: %q, %v", name, content, err)
		}
	}
	if hidden != all-len(entries) {
		t.Errorf("%d names are listed and %d are not", len(entries), hidden)
	}
	if _, err := os.Stat(filepath.Join(mount, "entry99999")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("stat of a name that is not there: %v", err)
	}
	if err := put(filepath.Join(mount, "new"), []byte("y")); err != nil {
		t.Error(err)
	}
	has(t, filepath.Join(mount, "new"), []byte("y"))
}

const posixFTPFloor = 23

// posixFTPExpected are the tests of posixtest that do not pass over FTP.
var posixFTPExpected = func() map[string]posixEnd {
	ends := maps.Clone(posixExpected)
	maps.Copy(ends, map[string]posixEnd{
		"Link":             {"fail", "FTP has no hard links: EPERM, as link(2) has it for such file systems"},
		"LinkUnlinkRename": {"fail", "as Link"},
		"SymlinkReadlink":  {"fail", "FTP cannot make symbolic links: EPERM, as symlink(2) has it for such file systems"},
		"SetattrSymlink":   {"fail", "as SymlinkReadlink"},
		"XAttr":            {"skip", "FTP has no extended attributes; we answer ENOTSUP, which the test takes for a reason to skip"},
	})
	return ends
}()

// Holds row 73 of the requirements.
func TestPosixOverFTP(t *testing.T) {
	t.Parallel()
	for _, kind := range servers.FTPKinds() {
		t.Run(kind.String(), func(t *testing.T) {
			t.Parallel()
			posix(t, newFTPStage(t, servers.FTPOptions{Kind: kind}, nil), posixFTPExpected, posixFTPFloor)
		})
	}
}

const probeFTPFloor = 165

func TestLegacyProbeOverFTP(t *testing.T) {
	t.Parallel()
	legacyProbe(t, newFTPStage(t, servers.FTPOptions{}, nil), probeFTPFloor)
}

// ftpModes are how the tools are run on vsftpd.
var ftpModes = []servers.TLSMode{servers.Plain, servers.Explicit}

// Holds row 73 of the requirements.
func TestProgramsOverFTP(t *testing.T) {
	t.Parallel()
	process.Need(t, "bash", "cp", "mv", "rsync", "tar", "git", "sqlite3", "vim", "sed", "diff", "find")
	for _, mode := range ftpModes {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			programs(t, newFTPStage(t, servers.FTPOptions{TLS: mode}, nil), ability{})
		})
	}
}

func TestGibibyteOverFTP(t *testing.T) {
	t.Parallel()
	for _, mode := range ftpModes {
		t.Run(mode.String(), func(t *testing.T) { gibibyte(t, newFTPStage(t, servers.FTPOptions{TLS: mode}, nil)) })
	}
}
