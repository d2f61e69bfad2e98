// Package servers starts real servers on loopback, each for one test, without touching the system they run on: accounts,
// keys, ports and files are their own, seen only from inside a mount and process namespace of each server. When the test
// ends, or its process dies in whatever way, nothing of a server is left.
//
// It needs root, and fails a test that lacks a program by naming integration/test.sh, which installs it.
package servers

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pierfs/integration/process"
)

// SSHOptions says what server to start. The zero value is a stock OpenSSH with internal-sftp, on which the user "pier"
// logs in with the server's Password or any key made by NewKey.
type SSHOptions struct {
	User    string   // who logs in, also "root"; "" is "pier", an account of this server alone
	Auth    []string // methods offered, as AuthenticationMethods names them; nil offers all
	Address string   // to listen on; "" is 127.0.0.1

	HostKeys []string // types as ssh-keygen takes them; nil is ed25519
	Legacy   bool     // offer only what servers of 2010 had: SHA-1 key exchange and signatures, CBC ciphers

	Sessions     int    // MaxSessions, channels of one connection; 0 is OpenSSH's 10
	SFTP         string // the command that serves SFTP; "" is internal-sftp
	ForceCommand bool   // allow nothing but SFTP
	Requests     bool   // note what the SFTP server was asked, for Requests; implies External

	Chroot bool     // the user sees Dir as /home and nothing above it
	Size   int64    // bytes of the file system that Dir lies on; 0 is the machine's own disk
	Config []string // further lines of sshd_config; they win over ours
}

// What may serve SFTP besides internal-sftp.
const (
	External = "/usr/lib/openssh/sftp-server"
	ReadOnly = "internal-sftp -R"
)

// SSHD is a running OpenSSH server.
type SSHD struct {
	Host string
	Port int

	User     string
	Password string
	Dir      string // the user's home as this machine sees it: what arrives at the server lies here
	Root     string // the same directory as a client has to call it

	o     SSHOptions
	etc   string // the server's own files
	space *namespace
	sshd  *process.Process
}

// NewSSHD starts a server that runs until the test ends.
func NewSSHD(t testing.TB, o SSHOptions) *SSHD {
	t.Helper()
	process.Need(t, "sshd", "ssh-keygen")
	dir := makeDir(t)
	s := &SSHD{
		Host:     cmp.Or(o.Address, "127.0.0.1"),
		User:     cmp.Or(o.User, "pier"),
		Password: "Canary-" + filepath.Base(dir),
		Dir:      filepath.Join(dir, "base", "home"),
		Root:     inside + "/home",
		o:        o,
		etc:      filepath.Join(dir, "etc"),
	}
	if o.Chroot {
		s.Root = "/home"
	}
	if err := os.Mkdir(filepath.Join(dir, "base"), 0o755); err != nil {
		t.Fatal(err)
	}
	if o.Requests {
		write(t, s.requests(), 0o666, "")
		if err := os.Chmod(s.requests(), 0o666); err != nil { // whatever the umask
			t.Fatal(err)
		}
	}
	owner := accounts(t, s.etc, "sshd", s.User, s.Password, s.Root)
	s.makeHostKeys(t)
	process.Output(t, nil, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "user CA", "-f", filepath.Join(s.etc, "ca"))
	s.space = newNamespace(t, dir, o.Size, owner, "")
	if o.Size > 0 {
		s.Dir = s.space.view(inside + "/home")
	}

	// A free port may be taken by somebody else before sshd binds it: then another one will do.
	var err error
	for range 5 {
		s.Port = freePort(t, s.Host)
		if err = s.start(t); err == nil {
			return s
		}
	}
	t.Fatalf("start sshd: %v\n%s", err, s.sshd.Log)
	return nil
}

// start starts sshd on s.Port and returns when it listens.
func (s *SSHD) start(t testing.TB) error {
	t.Helper()
	s.sshd = s.space.start(t, "/usr/sbin/sshd", "-D", "-e", "-f", s.writeConfig(t))
	return s.sshd.Await(fmt.Sprintf("Server listening on %s port %d", s.Host, s.Port), 0, process.Patience)
}

// writeConfig writes sshd_config. The first line that names an option wins, so the test's own lines come first.
func (s *SSHD) writeConfig(t testing.TB) string {
	t.Helper()
	server := cmp.Or(s.o.SFTP, "internal-sftp")
	if s.o.Requests {
		server = External + " -e -l VERBOSE 2>>" + s.requests() // a shell runs it
	}
	lines := slices.Clone(s.o.Config)
	lines = append(lines,
		"ListenAddress "+s.Address(),
		"PidFile none",
		"StrictModes no",
		"UsePAM yes",
		"UseDNS no",
		"PermitRootLogin yes",
		"LogLevel VERBOSE",
		"MaxStartups 100:30:200",
		"AuthorizedKeysFile "+s.authorizedKeys(),
		"TrustedUserCAKeys "+filepath.Join(s.etc, "ca.pub"),
		"Subsystem sftp "+server,
	)
	for _, file := range s.hostKeyFiles() {
		lines = append(lines, "HostKey "+file)
	}
	auth := s.o.Auth
	if auth == nil {
		auth = []string{"publickey", "password", "keyboard-interactive"}
	}
	offered := map[bool]string{true: " yes", false: " no"}
	lines = append(lines,
		"PubkeyAuthentication"+offered[slices.Contains(auth, "publickey")],
		"PasswordAuthentication"+offered[slices.Contains(auth, "password")],
		"KbdInteractiveAuthentication"+offered[slices.Contains(auth, "keyboard-interactive")])
	if s.o.Sessions > 0 {
		lines = append(lines, "MaxSessions "+strconv.Itoa(s.o.Sessions))
	}
	if s.o.ForceCommand {
		lines = append(lines, "ForceCommand "+server)
	}
	if s.o.Chroot {
		lines = append(lines, "ChrootDirectory "+inside)
	}
	if s.o.Legacy {
		lines = append(lines, "KexAlgorithms diffie-hellman-group14-sha1,diffie-hellman-group1-sha1", "HostKeyAlgorithms ssh-rsa",
			"PubkeyAcceptedAlgorithms +ssh-rsa", "Ciphers aes128-cbc,3des-cbc", "MACs hmac-sha1")
	}
	return write(t, filepath.Join(s.etc, "sshd_config"), 0o644, "%s\n", strings.Join(lines, "\n"))
}

// Address returns host:port.
func (s *SSHD) Address() string { return net.JoinHostPort(s.Host, strconv.Itoa(s.Port)) }

// Stop freezes the server and all its sessions: connections stay open, nothing answers.
func (s *SSHD) Stop(t testing.TB) { t.Helper(); s.space.stop(t) }

// Cont lets a stopped server go on.
func (s *SSHD) Cont(t testing.TB) { t.Helper(); s.space.cont(t) }

// Kill ends the server and all its sessions at once; its port refuses connections from then on.
func (s *SSHD) Kill(t testing.TB) { t.Helper(); s.space.kill(t); release(s.sshd) }

// KillSessions ends the sessions at once; the server goes on to accept new ones.
func (s *SSHD) KillSessions(t testing.TB) {
	t.Helper()
	listener := func(m member) bool { return strings.Contains(m.cmdline, "[listener]") }
	s.space.signal(t, 9, listener)
}

// Restart starts a killed server again on the same port, with the same files, keys and accounts.
func (s *SSHD) Restart(t testing.TB) {
	t.Helper()
	if err := s.start(t); err != nil {
		t.Fatalf("start sshd again on %s: %v\n%s", s.Address(), err, s.sshd.Log)
	}
}

// Sessions returns how many SSH connections are logged in.
func (s *SSHD) Sessions() int {
	n := 0
	for _, m := range s.space.members() {
		if strings.HasPrefix(m.cmdline, "sshd: "+s.User) && strings.HasSuffix(m.cmdline, "[priv]") {
			n++
		}
	}
	return n
}

// Log returns what the server has written since it was last started.
func (s *SSHD) Log() string { return s.sshd.Log.String() }

// Requests returns what the SFTP server was asked so far, a line each, as sftp-server(8) logs it: open, close, rename,
// posix-rename, remove, mkdir, set and so on.
func (s *SSHD) Requests(t testing.TB) string {
	t.Helper()
	return read(t, s.requests())
}

func (s *SSHD) requests() string { return filepath.Join(s.etc, "requests") }

func freePort(t testing.TB, host string) int {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func read(t testing.TB, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// The keys by which the server is known.

func (s *SSHD) hostKeyTypes() []string {
	if s.o.HostKeys != nil {
		return s.o.HostKeys
	}
	if s.o.Legacy {
		return []string{"rsa"}
	}
	return []string{"ed25519"}
}

func (s *SSHD) hostKeyFiles() []string {
	var files []string
	for _, kind := range s.hostKeyTypes() {
		files = append(files, filepath.Join(s.etc, "host_"+kind))
	}
	return files
}

func (s *SSHD) makeHostKeys(t testing.TB) {
	t.Helper()
	for i, file := range s.hostKeyFiles() {
		_ = os.Remove(file) // absent at first
		if err := os.MkdirAll(s.etc, 0o755); err != nil {
			t.Fatal(err)
		}
		process.Output(t, nil, "ssh-keygen", "-q", "-t", s.hostKeyTypes()[i], "-N", "", "-f", file)
	}
}

// ChangeHostKeys gives the server new host keys, as a machine set up anew has them, and restarts it.
func (s *SSHD) ChangeHostKeys(t testing.TB) {
	t.Helper()
	s.makeHostKeys(t)
	s.Kill(t)
	s.Restart(t)
}

// KnownHosts returns the lines by which a known_hosts file knows the server, one for each host key.
func (s *SSHD) KnownHosts(t testing.TB) string {
	t.Helper()
	var lines strings.Builder
	for _, file := range s.hostKeyFiles() {
		kind, blob := publicKey(t, file+".pub")
		fmt.Fprintf(&lines, "[%s]:%d %s %s\n", s.Host, s.Port, kind, blob)
	}
	return lines.String()
}

// Fingerprint returns the SHA256: fingerprint of the first host key.
func (s *SSHD) Fingerprint(t testing.TB) string {
	t.Helper()
	_, text := publicKey(t, s.hostKeyFiles()[0]+".pub")
	blob, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(blob)
	return "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])
}

// publicKey returns the type and the base64 text of a public key file.
func publicKey(t testing.TB, name string) (kind, text string) {
	t.Helper()
	fields := strings.Fields(read(t, name))
	if len(fields) < 2 {
		t.Fatalf("%s is no public key", name)
	}
	return fields[0], fields[1]
}
