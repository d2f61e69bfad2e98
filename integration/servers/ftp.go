package servers

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"pierfs/integration/link"
	"pierfs/integration/process"
)

// TLSMode says how FTP is secured.
type TLSMode int

const (
	Plain    TLSMode = iota // not at all
	Explicit                // AUTH TLS on a connection that begins in the clear
	Implicit                // from the first byte
)

func (m TLSMode) String() string { return [...]string{"plain", "explicit", "implicit"}[m] }

// FTPModes returns how the server of kind k can speak: pure-ftpd knows no implicit TLS.
func FTPModes(k FTPKind) []TLSMode {
	if k == PureFTPd {
		return []TLSMode{Plain, Explicit}
	}
	return []TLSMode{Plain, Explicit, Implicit}
}

// FTPOptions says what server to start. The zero value is vsftpd without TLS.
type FTPOptions struct {
	Kind FTPKind
	TLS  TLSMode

	// Of a server with TLS, which demands TLS for logins and data.
	MinTLS, MaxTLS uint16 // tls.VersionTLS10 and so on; 0 is 1.2 and 1.3. The old two come with their weak ciphers
	NoReuse        bool   // vsftpd and proftpd take data connections that do not resume the session; the others always do
	ClearToo       bool   // Explicit only: TLS is offered and not demanded
	ClientCert     bool   // vsftpd and proftpd: demand a client's certificate of the Authority
	Certificate    CertificateOptions

	Address   string // to listen on; "" is an address of loopback that no other server has; "::1" is IPv6
	DataPorts int    // passive ports; 0 is 32. pure-ftpd takes half as many sessions

	Chroot   bool  // the user sees Dir as / and nothing above it
	ReadOnly bool  // every change is refused
	Size     int64 // bytes of the file system that Dir lies on; 0 is the machine's own disk

	MaxClients int           // sessions taken; 0 is what the server is made with
	Idle       time.Duration // idle sessions are ended, in seconds; pure-ftpd knows only minutes. 0 is what the server is made with
	Zone       string        // the server's time zone, as TZ has it; "" is UTC

	Config []string // further lines of the configuration; of pure-ftpd, further arguments; of pyftpdlib, attributes of the handler
}

// FTP is a running FTP server.
type FTP struct {
	Kind      FTPKind
	Host      string
	Port      int
	DataFirst int // passive ports
	DataLast  int

	User     string
	Password string
	Dir      string // the user's home as this machine sees it: what arrives at the server lies here
	Root     string // the same directory as a client has to call it; logins begin in it

	Authority   *Authority  // that the server's certificate is of, also without TLS
	Certificate Certificate // of the server

	o      FTPOptions
	etc    string // the server's own files
	space  *namespace
	server *process.Process
	syslog *syslog // nil but for pure-ftpd
}

// NewFTP starts a server that runs until the test ends. It listens when NewFTP returns.
func NewFTP(t testing.TB, o FTPOptions) *FTP {
	t.Helper()
	if o.Kind == PureFTPd && o.TLS == Implicit {
		t.Fatal("pure-ftpd knows no implicit TLS")
	}
	fetched := Fetched(t)
	dir := makeDir(t)
	s := &FTP{
		Kind:     o.Kind,
		Host:     o.Address,
		User:     "pier",
		Password: "Canary-" + filepath.Base(dir),
		Dir:      filepath.Join(dir, "base", "home"),
		Root:     inside + "/home",
		o:        o,
		etc:      filepath.Join(dir, "etc"),
	}
	if s.Host == "" {
		s.Host = ownAddress(t)
	}
	home := s.Root
	if o.Chroot {
		s.Root = "/"
	}
	if err := os.Mkdir(filepath.Join(dir, "base"), 0o755); err != nil {
		t.Fatal(err)
	}
	owner := accounts(t, s.etc, "ftp", s.User, s.Password, home)
	s.Authority = NewAuthority(t, filepath.Join(s.etc, "tls"))
	s.Certificate = s.Authority.Server(t, "server", s.Host, o.Certificate)
	write(t, s.logFile(), 0o600, "")
	if o.Kind == PureFTPd {
		s.syslog = newSyslog(t, filepath.Join(s.etc, "log"))
	}
	s.space = newNamespace(t, dir, o.Size, owner, fetched)
	if o.Size > 0 {
		s.Dir = s.space.view(home)
	}
	if o.ReadOnly && o.Kind == PureFTPd {
		if err := os.Chown(s.Dir, 0, 0); err != nil { // it knows no other way
			t.Fatal(err)
		}
	}

	// A free port may be taken by somebody else before the server binds it: then another one will do.
	var err error
	for range 5 {
		ports := cmp.Or(o.DataPorts, 32)
		s.Port = freePorts(t, s.Host, ports+1)
		s.DataFirst, s.DataLast = s.Port+1, s.Port+ports
		if err = s.start(t); err == nil {
			return s
		}
	}
	t.Fatalf("start %v: %v\n%s", s.Kind, err, s.Log())
	return nil
}

// start starts the server and returns when it listens.
func (s *FTP) start(t testing.TB) error {
	t.Helper()
	env := []string{
		"LD_LIBRARY_PATH=" + s.libraries(t),
		"PYTHONPATH=" + programs + "/usr/lib/python3/dist-packages",
		"OPENSSL_CONF=" + s.writeOpenSSL(t),
		"TZ=" + cmp.Or(s.o.Zone, "UTC"),
	}
	// vsftpd complains to its standard input, where a client would be.
	args := append([]string{"-c", `exec env "$@" 0>&1`, "start"}, append(env, s.command(t)...)...)
	s.server = s.space.start(t, "sh", args...)
	deadline := time.Now().Add(process.Patience)
	for !s.listens(t) {
		select {
		case <-s.server.Done():
			return process.ErrEnded
		default:
		}
		if time.Now().After(deadline) {
			return os.ErrDeadlineExceeded
		}
		time.Sleep(time.Millisecond)
	}
	return nil
}

// libraries returns where the fetched libraries are, as the server sees it.
func (s *FTP) libraries(t testing.TB) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(Fetched(t), "usr", "lib", "*-linux-gnu"))
	if err != nil || len(found) != 1 {
		t.Fatalf("libraries of the FTP servers: found %q, %v, want one directory", found, err)
	}
	return programs + "/usr/lib/" + filepath.Base(found[0])
}

// writeOpenSSL writes the configuration by which OpenSSL, that all four servers use, takes the versions of TLS.
func (s *FTP) writeOpenSSL(t testing.TB) string {
	t.Helper()
	first, last := s.versions()
	text := "openssl_conf = init\n[init]\nssl_conf = ssl\n[ssl]\nsystem_default = all\n[all]\n" +
		"MinProtocol = " + openSSL(first) + "\nMaxProtocol = " + openSSL(last) + "\n"
	if weak(first) {
		text += "CipherString = ALL:@SECLEVEL=0\n"
	}
	return write(t, filepath.Join(s.etc, "openssl.cnf"), 0o644, "%s", text)
}

// Address returns host:port.
func (s *FTP) Address() string { return net.JoinHostPort(s.Host, strconv.Itoa(s.Port)) }

// Through leads the server through l, data connections included, and returns the address to connect to. The server goes on
// to tell its own address in answers to PASV; EPSV and clients that distrust foreign addresses stay on the link.
func (s *FTP) Through(t testing.TB, l *link.Link) (address string) {
	t.Helper()
	return net.JoinHostPort(l.ForwardPorts(t, s.Host, s.Port, s.DataLast), strconv.Itoa(s.Port))
}

// Stop freezes the server and all its sessions: connections stay open, nothing answers.
func (s *FTP) Stop(t testing.TB) { t.Helper(); s.space.stop(t) }

// Cont lets a stopped server go on.
func (s *FTP) Cont(t testing.TB) { t.Helper(); s.space.cont(t) }

// Kill ends the server and all its sessions at once; its port refuses connections from then on.
func (s *FTP) Kill(t testing.TB) { t.Helper(); s.space.kill(t); release(s.server) }

// Restart starts a killed server again on the same ports, with the same files, certificate and accounts.
func (s *FTP) Restart(t testing.TB) {
	t.Helper()
	if err := s.start(t); err != nil {
		t.Fatalf("start %v again on %s: %v\n%s", s.Kind, s.Address(), err, s.Log())
	}
}

// ChangeCertificate gives the server another certificate of the same CA and restarts it.
func (s *FTP) ChangeCertificate(t testing.TB, o CertificateOptions) {
	t.Helper()
	s.Certificate = s.Authority.Server(t, "server", s.Host, o)
	s.Kill(t)
	s.Restart(t)
}

// KillSessions ends the sessions at once; the server goes on to accept new ones.
func (s *FTP) KillSessions(t testing.TB) {
	t.Helper()
	if s.Kind == PyFTPdlib {
		s.endSessions(t) // it has one process for all
		return
	}
	s.space.signal(t, syscall.SIGKILL, s.isServer)
}

// isServer reports whether m is the process that accepts connections, the first one.
func (s *FTP) isServer(m member) bool { return m.parent == s.server.Pid() }

// endSessions tells a server of one process to close all connections, and waits until it has.
func (s *FTP) endSessions(t testing.TB) {
	t.Helper()
	deadline := time.Now().Add(process.Patience)
	for s.Sessions(t) > 0 {
		for _, m := range s.space.members() {
			if s.isServer(m) {
				_ = syscall.Kill(m.pid, syscall.SIGUSR1) // it may have ended meanwhile
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("%v does not end its sessions", s.Kind)
		}
		time.Sleep(time.Millisecond)
	}
}

// Sessions returns how many control connections stand, logged in or not.
func (s *FTP) Sessions(t testing.TB) int {
	t.Helper()
	n := 0
	for _, c := range sockets(t, s.addrPort(t)) {
		if c.state == established {
			n++
		}
	}
	return n
}

// listens reports whether the server, and nobody else, listens on its port.
func (s *FTP) listens(t testing.TB) bool {
	t.Helper()
	for _, c := range sockets(t, s.addrPort(t)) {
		holds := func(m member) bool { return m.holds(c.inode) }
		if c.state == listening && slices.ContainsFunc(s.space.members(), holds) {
			return true
		}
	}
	return false
}

func (s *FTP) addrPort(t testing.TB) netip.AddrPort {
	t.Helper()
	address, err := netip.ParseAddrPort(s.Address())
	if err != nil {
		t.Fatal(err)
	}
	return address
}

func (s *FTP) logFile() string { return filepath.Join(s.etc, "server.log") }

// Log returns all that the server has written since it was made.
func (s *FTP) Log() string {
	text, err := os.ReadFile(s.logFile())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err.Error()
	}
	log := string(text)
	if s.syslog != nil {
		log += s.syslog.String()
	}
	if s.server != nil {
		log += s.server.Log.String()
	}
	return log
}

// Commands returns the commands that the server got since it was made, in order, a line each, without the password.
func (s *FTP) Commands(t testing.TB) []string {
	t.Helper()
	if s.syslog != nil {
		s.syslog.settle(t)
	}
	var commands []string
	for line := range strings.Lines(s.Log()) {
		if command, ok := s.Kind.parseCommand(strings.TrimRight(line, "\r\n")); ok {
			commands = append(commands, command)
		}
	}
	return commands
}

// versions returns the range of TLS versions.
func (s *FTP) versions() (first, last uint16) {
	first, last = cmp.Or(s.o.MinTLS, tls12), cmp.Or(s.o.MaxTLS, tls13)
	return min(first, last), last
}

// yes returns how vsftpd says whether condition holds.
func yes(condition bool) string {
	if condition {
		return "YES"
	}
	return "NO"
}

func onOff(condition bool) string {
	if condition {
		return "on"
	}
	return "off"
}

func seconds(d time.Duration) string { return fmt.Sprint(max(1, int(d/time.Second))) }
