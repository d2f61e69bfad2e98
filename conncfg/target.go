package conncfg

import (
	"net"
	"os"
	"path"
	"strconv"
	"time"
)

// Protocol is one of the three that a connection may speak, in its canonical spelling.
type Protocol string

const (
	FTP  Protocol = "FTP"
	FTPS Protocol = "FTPS"
	SFTP Protocol = "SFTP"
)

// Target is one connection in one environment with every variable resolved: all that is needed to reach a server and to
// show it, and nothing that still has to be looked up. It is a value; two targets that reflect.DeepEqual takes for equal
// are the same place reached the same way.
type Target struct {
	Name        string // NAME, or PROJECT/NAME
	Environment string

	Protocol   Protocol
	Host       string // without brackets, also for IPv6
	Port       int
	Username   string
	Password   Secret
	WorkingDir string // absolute, or relative to the login directory

	ConnectTimeout time.Duration // until a session stands: dns, tcp, handshake and login each
	SocketTimeout  time.Duration // without progress: less than 1 KiB within it
	RetryCount     int           // further attempts after the first; N+1 in all
	RetryAuth      bool          // refused logins are repeated too

	SSH SSH
	TLS TLS

	Encoding string // of names on the wire; "utf-8" passes bytes through
	ReadOnly bool

	MountPoint  string // absolute; "" means MOUNTROOT/ENV/NAME
	UID, GID    *uint32
	FileMode    os.FileMode // permission bits shown for files in place of the server's; 0 shows the server's
	DirMode     os.FileMode // the same for directories
	Owner       Owner
	Commit      CommitMode
	TempName    string // pattern of the temporary upload name, "" for the default; see docs/DEFINITIONS.md
	MetadataTTL time.Duration
	NegativeTTL time.Duration
	MaxSessions int
}

// SSH is what only SFTP needs.
type SSH struct {
	PrivateKeyFile   string
	PrivateKey       Secret // PEM text; wins over the file
	Passphrase       Secret
	CertificateFile  string
	Agent            bool // use the agent at AgentSocket, or at $SSH_AUTH_SOCK of the daemon
	AgentSocket      string
	HostKey          string // "SHA256:..." fingerprint that alone is accepted; "" consults known_hosts and the trust store
	KnownHostsFile   string // consulted besides the daemon's own
	LegacyAlgorithms bool
}

// TLS is what only FTPS needs.
type TLS struct {
	Implicit   bool   // else explicit: AUTH TLS
	MinVersion uint16 // a tls.Version constant
	AllowWeak  bool
	CAFile     string
	TrustCert  string // "SHA256:..." fingerprint of the one certificate accepted
	CertFile   string
	KeyFile    string
	ServerName string
}

// Owner says whose files the mount shows.
type Owner string

const (
	OwnerMap   Owner = "map"   // the login's files show as UID and GID, and back again in chown; others as sent
	OwnerRaw   Owner = "raw"   // as the server sends them
	OwnerFixed Owner = "fixed" // everything shows as UID and GID
)

// CommitMode says when close(2) returns.
type CommitMode string

const (
	CommitClose      CommitMode = "close"      // when the server has the file
	CommitBackground CommitMode = "background" // when this machine has it durably
)

// Address returns host:port as net.Dial takes it.
func (t Target) Address() string { return net.JoinHostPort(t.Host, strconv.Itoa(t.Port)) }

// Display returns the target as a URL without any secret, for /proc/mounts, logs and lists. A working directory relative
// to the login directory begins with /~, as ParseURL reads it.
func (t Target) Display() string {
	scheme := map[Protocol]string{FTP: "ftp", FTPS: "ftps", SFTP: "sftp"}[t.Protocol]
	dir := t.WorkingDir
	if !path.IsAbs(dir) {
		dir = path.Join("/~", dir)
	}
	return scheme + "://" + t.Username + "@" + t.Address() + dir
}
