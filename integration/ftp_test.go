package integration

import (
	"maps"
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
