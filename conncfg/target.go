package conncfg

import (
	"cmp"
	"net"
	"net/url"
	"os"
	"path"
	"strconv"
	"strings"
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
	Fallbacks  []Place // that serve the same files, in the order in which they are tried where Host cannot be reached
	Username   string
	Password   Secret
	WorkingDir string // absolute, or relative to the login directory

	ConnectTimeout time.Duration // until a session stands: dns, tcp, handshake and login each
	SocketTimeout  time.Duration // without progress: less than 1 KiB within it
	IdleTimeout    time.Duration // after which no session is left that nobody uses; 0 keeps one
	RetryCount     int           // further attempts after the first; N+1 in all
	RetryAuth      bool          // refused logins are repeated too

	SSH SSH
	FTP FTPOptions
	TLS TLS

	Via           Via    // the host in between; zero goes straight
	SourceAddress string // of this machine, that sessions leave from; "" lets the system choose
	RateLimit     int64  // bytes per second in each direction, of the whole connection; 0 is none

	Encoding string // of names on the wire; "utf-8" passes bytes through
	ReadOnly bool

	MountPoint string // absolute; "" means MOUNTROOT/ENV/NAME
	UID, GID   *uint32
	FileMode   os.FileMode // permission bits shown for files in place of the server's; 0 shows the server's
	DirMode    os.FileMode // the same for directories
	Owner      Owner
	Commit     CommitMode
	Conflict   ConflictPolicy
	// DrainTimeout is how long a mount that is taken down goes on bringing to the server what it owes.
	DrainTimeout time.Duration
	// StagingLimit is how many bytes may be written here that the server does not have yet; 0 leaves it to the disk.
	StagingLimit int64

	// WritePassthrough lets the kernel write new files here by itself; only with CommitBackground.
	WritePassthrough bool
	TempName         string     // pattern of the temporary upload name, "" for the default; see docs/DEFINITIONS.md
	DoneFile         string     // pattern of the name of an empty file that tells that an upload is complete; "" for none
	Update           UpdateMode // of SFTP
	Verify           Verify
	MetadataTTL      time.Duration
	NegativeTTL      time.Duration
	MaxEntries       int // names remembered at most; 0 for the default
	MaxSessions      int // of FTP and FTPS; SFTP needs one
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

// FTPOptions are what only FTP and FTPS need.
type FTPOptions struct {
	Account      Secret // sent where the server asks for it (ACCT)
	Active       bool   // the server opens the data connections
	PassivePorts Ports  // that the server is known to use; nothing but hints hangs on it
}

// Ports is a range of them, both ends included. The zero value is unknown.
type Ports struct{ First, Last int }

// Has reports whether port is in the range. An unknown range has every port.
func (p Ports) Has(port int) bool { return p == Ports{} || p.First <= port && port <= p.Last }

// String returns the range as a definition has it, "" if it is unknown.
func (p Ports) String() string {
	if p == (Ports{}) {
		return ""
	}
	return strconv.Itoa(p.First) + "-" + strconv.Itoa(p.Last)
}

// Verify says how an upload is compared with what the server has, before it bears its name.
type Verify string

const (
	VerifyOff      Verify = "off"      // not at all: the server's word is taken, also of one that changes what it gets
	VerifySize     Verify = "size"     // by its size
	VerifyHash     Verify = "hash"     // by a checksum that the server computes, and as readback where it computes none
	VerifyReadback Verify = "readback" // by reading it again
)

// Via is a host that leads to the server.
type Via struct {
	Kind     ViaKind // "" goes straight
	Host     string  // without brackets
	Port     int
	Username string
	Password Secret
	KeyFile  string // private key for an SSH host
	HostKey  string // "SHA256:..." fingerprint that alone is accepted of an SSH host
}

// ViaKind is how the host in between is asked to lead on.
type ViaKind string

const (
	ViaSSH   ViaKind = "ssh"    // a jump host: direct-tcpip channels
	ViaSOCKS ViaKind = "socks5" // RFC 1928; the proxy looks names up
	ViaHTTP  ViaKind = "http"   // CONNECT
)

// Address returns host:port as net.Dial takes it.
func (v Via) Address() string { return net.JoinHostPort(v.Host, strconv.Itoa(v.Port)) }

// TLS is what only FTPS needs.
type TLS struct {
	Implicit   bool   // else explicit: AUTH TLS
	MinVersion uint16 // a tls.Version constant
	AllowWeak  bool
	CAFile     string // PEM file, or directory of such: believed instead of the system's authorities
	TrustCert  string // "SHA256:..." fingerprint of the one certificate accepted
	// OnlyAuthorities says that the environment believes no certificate by its fingerprint, whoever has said to trust it, and none that
	// signs itself.
	OnlyAuthorities bool
	CertFile        string
	KeyFile         string
	ServerName      string
}

// Owner says whose files the mount shows.
type Owner string

const (
	OwnerMap   Owner = "map"   // the login's files show as UID and GID, and back again in chown; others as sent
	OwnerRaw   Owner = "raw"   // as the server sends them
	OwnerFixed Owner = "fixed" // everything shows as UID and GID
)

// UpdateMode says how a small change inside a large file comes to the server.
type UpdateMode string

const (
	UpdateReplace UpdateMode = "replace" // with all of the file, which then takes the old one's place
	UpdateInPlace UpdateMode = "inPlace" // by itself, into the file
)

// ConflictPolicy says what becomes of a change of a file that somebody else has changed meanwhile.
type ConflictPolicy string

const (
	ConflictKeepBoth  ConflictPolicy = "keep-both" // theirs keeps the name, ours is stored beside it
	ConflictOverwrite ConflictPolicy = "overwrite" // ours replaces theirs
	ConflictFail      ConflictPolicy = "fail"      // theirs keeps the name, ours stays on this machine
)

// CommitMode says when close(2) returns.
type CommitMode string

const (
	CommitClose      CommitMode = "close"      // when the server has the file
	CommitBackground CommitMode = "background" // when this machine has it durably
)

// Identity names the server, the login, the working directory and the environment, by which what is owed is known: what is owed to
// one identity is never sent to another. It holds no secret, is read by people, and two of them are equal only if all of these are.
func (t Target) Identity() string {
	dir := t.WorkingDir
	if !path.IsAbs(dir) {
		dir = "/./" + dir // which no absolute one begins with: these are clean
	}
	u := url.URL{Scheme: t.scheme(), User: url.User(t.Username), Host: strings.ToLower(t.Address()), Path: dir}
	return u.String() + " in " + t.Environment
}

// Hosts returns t, and then t with each of its Fallbacks in place of the host.
func (t Target) Hosts() []Target {
	all := []Target{t}
	all[0].Fallbacks = nil
	for _, p := range t.Fallbacks {
		other := all[0]
		if other.Host, other.Port = p.Host, cmp.Or(p.Port, t.Port); t.TLS.ServerName == t.Host {
			other.TLS.ServerName = p.Host
		}
		all = append(all, other)
	}
	return all
}

// Place is one server.
type Place struct {
	Host string // without brackets, also for IPv6
	Port int    // 0 is the port of the connection
}

// String returns p as a definition has it.
func (p Place) String() string {
	if p.Port == 0 {
		return p.Host
	}
	return net.JoinHostPort(p.Host, strconv.Itoa(p.Port))
}

// Address returns host:port as net.Dial takes it.
func (t Target) Address() string { return net.JoinHostPort(t.Host, strconv.Itoa(t.Port)) }

// Display returns the target as a URL without any secret, for /proc/mounts, logs and lists. A working directory relative
// to the login directory begins with /~, as ParseURL reads it.
func (t Target) Display() string {
	dir := t.WorkingDir
	if !path.IsAbs(dir) {
		dir = path.Join("/~", dir)
	}
	return t.scheme() + "://" + t.Username + "@" + t.Address() + dir
}

func (t Target) scheme() string {
	switch {
	case t.TLS.Implicit:
		return "ftps"
	case t.Protocol == FTPS:
		return "ftpes"
	}
	return strings.ToLower(string(t.Protocol))
}
