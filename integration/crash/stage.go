package main

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pierfs/integration/daemon"
	"pierfs/integration/power"
	"pierfs/integration/process"
	"pierfs/integration/servers"
)

// connection is the name of the one that is mounted.
const connection = "files"

// workers is how many programs are at work at a time, each in a directory of its own; all of them write one log together.
const workers = 4

// stage is a server and a daemon that is killed again and again, with all that it has in its directories.
type stage struct {
	protocol protocol
	commit   string
	rng      *rand.Rand
	road     road
	daemon   *daemon.Daemon
	server   server
	late     *time.Timer // that kills a daemon which was told to end; set before its gate is over
	behind   string      // the directory as the server has it
	workers  []*worker
	log      *logbook // of all workers
	register *register
	sum      figures
	disk     *power.Disk // below the daemon's directories; nil if the power does not fail with it
	outages  bool        // the server dies now and then
	rest     atomic.Bool // the workers are to end
	outage   outage
	contest  *contest // nil for none

	patience time.Duration // for the server to have all, and nothing else, behind a restart
}

// server is what a stage has of its server.
type server interface {
	KillSessions(t testing.TB)
	Kill(t testing.TB)
	Restart(t testing.TB)
}

// protocol is one of those that a stage may speak.
type protocol string

const (
	sftp     protocol = "sftp"
	ftp      protocol = "ftp"
	ftps     protocol = "ftps"
	proftpd  protocol = "proftpd"
	pureftpd protocol = "pure-ftpd"
	pyftpd   protocol = "pyftpdlib"
	stepwise protocol = "stepwise" // where no file may take the name of another
)

// newStage starts a server, and makes a daemon that mounts it through a road.
func newStage(t *testing.T, programs daemon.Programs, p protocol, commit string, seed uint64, more daemon.Fields) *stage {
	t.Helper()
	s := &stage{
		protocol: p, commit: commit, rng: rand.New(rand.NewPCG(seed, 1)), daemon: daemon.New(t, programs), sum: newFigures(),
		patience: process.Patience, outage: outage{t: t},
	}
	socket := s.newGateway(t)
	var fields daemon.Fields
	if p == sftp {
		fields = s.newSFTP(t, socket)
	} else {
		fields = s.newFTP(t, servedAs[p])
	}
	fields["commit"] = commit
	maps.Copy(fields, more)
	s.daemon.Env = append(s.daemon.Env, gateVariable+"="+socket)
	s.daemon.Define(t, connection, fields)
	mount := s.daemon.Mount(connection)
	s.log, s.register = newLogbook(mount), newRegister(mount)
	for i := range workers {
		w := newWorker(mount, fmt.Sprintf("w%d", i), rand.New(rand.NewPCG(seed, uint64(100+i))))
		w.big, w.ties, w.times, w.log, w.register = i == 0, p == sftp, p == sftp || p == ftp, s.log, s.register
		s.workers = append(s.workers, w)
	}
	return s
}

// gateVariable tells a daemon that was built for it where its gate is.
const gateVariable = "PIERFS_CRASH_GATE"

// newGateway opens the socket at which taps and daemons find the gate of the moment.
func (s *stage) newGateway(t *testing.T) (socket string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "pierfs-crash-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket = filepath.Join(dir, "gate")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{dir: 0o755, socket: 0o666} { // taps run as the login
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
	}
	s.serve(t, l, s.road.hearTap)
	return socket
}

// newSFTP starts an OpenSSH server whose SFTP server is a tap before the real one.
func (s *stage) newSFTP(t *testing.T, socket string) daemon.Fields {
	t.Helper()
	program := filepath.Join(filepath.Dir(socket), "tap")
	if err := copySelf(program); err != nil {
		t.Fatal(err)
	}
	server := servers.NewSSHD(t, servers.SSHOptions{SFTP: strings.Join([]string{program, tapWord, socket}, " ")})
	s.server, s.behind = server, server.Dir
	return daemon.To(t, server, nil)
}

// servedAs are the servers of FTP where that is not vsftpd.
var servedAs = map[protocol]servers.FTPOptions{
	ftps:     {TLS: servers.Explicit},
	proftpd:  {Kind: servers.ProFTPD},
	pureftpd: {Kind: servers.PureFTPd},
	pyftpd:   {Kind: servers.PyFTPdlib},
	stepwise: {Kind: servers.ProFTPD, Config: []string{"<Directory />", "AllowOverwrite off", "</Directory>"}},
}

// newFTP starts a server of FTP, with a road beside it for control connections.
func (s *stage) newFTP(t *testing.T, o servers.FTPOptions) daemon.Fields {
	t.Helper()
	server := servers.NewFTP(t, o)
	l, err := net.Listen("tcp", net.JoinHostPort(server.Host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	s.server, s.behind, s.outage.door = server, server.Dir, l
	fields := daemon.Fields{
		"protocol": "FTP", "host": server.Host, "port": l.Addr().(*net.TCPAddr).Port, "username": server.User, "password": server.Password,
		"workingDir": server.Root,
	}
	hear := s.road.hearControl
	if o.TLS != servers.Plain {
		hear = s.road.hearSealed
		fields["protocol"], fields["useImplicit"], fields["caFile"] = "FTPS", o.TLS == servers.Implicit, server.Authority.File
	}
	s.outage.each = func(c net.Conn) { hear(c, server.Address()) }
	s.serve(t, l, s.outage.each)
	return fields
}

// serve serves l until the test ends. The server ends sooner, and with it everyone who is served.
func (s *stage) serve(t *testing.T, l net.Listener, each func(net.Conn)) {
	t.Helper()
	var served sync.WaitGroup
	served.Go(func() { serve(l, each) })
	t.Cleanup(func() {
		l.Close()
		served.Wait()
	})
}

// copySelf puts this program where every login may run it.
func copySelf(to string) error {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return err
	}
	return os.WriteFile(to, self, 0o755)
}
