// Package wire speaks FTP (RFC 959, 2228, 2389, 2428, 3659, 4217) on one control connection: it logs in, pipelines commands,
// opens data connections ahead of need, and moves content. It knows replies, not what they mean for a file: that is for the
// package above.
//
// A Session is used by one goroutine at a time; Close, and Cancel of a transfer, may come from another. Whatever makes the order
// of commands and replies doubtful (a stray reply, one that is too long or answers another command, a data connection that
// broke without a reply, a context that ended in mid-dialogue) spoils the Session: Healthy is false from then on, and its
// owner closes it. Nothing is ever read from a Session whose order is in doubt.
//
// Every wait has a deadline: ConnectTimeout for each step of a login and for a data connection, SocketTimeout without progress
// for everything else. Passwords reach no error and no log; what a server says is quoted.
//
// One goroutine of a Session reads replies and gives them to the exchanges in its queue, which is in the order of the commands
// written; so a server that hangs up is known at once, and a data connection can be opened ahead beside other commands. A
// transfer is an exchange with a data connection. The library, jlaffaye/ftp, runs RETR, STOR and APPE on a control connection
// that is not there (library.go); everything else is done without it, and the reasons stand there.
//
// Locks: Session.writing is taken before Session.mu; data.mu is a leaf, and so are those of security and resumption. No lock is
// held over the network but writing, over a write that the Watch of netconn bounds.
package wire

import (
	"context"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"pierfs/backends/trace"
)

// Options are what a Session needs.
type Options struct {
	Address  string // host:port
	Username string // "" logs in as anonymous
	Password func() (string, error)
	Account  func() (string, error) // asked where the server wants one (332, ACCT); nil has none
	TLS      *TLS                   // nil speaks in the clear
	Active   bool                   // the server opens the data connections (EPRT, PORT) instead of us
	PASV     bool                   // EPSV is not tried: an earlier session found that it does not work here (Features.PASV)
	Ahead    bool                   // the first port for data is asked for within the login: an earlier session found that the server bears it (AsksAhead)

	// PlainNames says that names are not UTF-8 on this server, so that it is not asked to speak it (OPTS UTF8 ON).
	PlainNames bool

	// HangUps counts how often in a row the server has hung up when it was shown the password. The sessions of one login share it,
	// so that a password is not shown for ever to a server that refuses like that. nil counts nothing.
	HangUps *atomic.Int32

	ConnectTimeout time.Duration
	SocketTimeout  time.Duration

	// DialContext opens the control connection and passive data connections; nil is a net.Dialer. With one that leads through another host
	// Active cannot work, and is an error at once.
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)

	Trace  *trace.Ring // keeps what is said, without secrets; nil keeps nothing
	Step   func(Step)  // told of each step of a login when it has ended; nil if nobody listens
	Logger *slog.Logger

	trace *trace.Session // of the connection that is being made
}

// TLS is how FTPS is spoken.
type TLS struct {
	Implicit   bool   // TLS from the first byte; else AUTH TLS
	MinVersion uint16 // a tls.Version constant
	AllowWeak  bool   // old versions, CBC and RSA key exchange too
	CAFile     string // PEM file, or a directory of such; believed in place of the system's authorities
	TrustCert  string // "SHA256:..." of the one certificate accepted, whatever it says
	CertFile   string // of our own, with KeyFile
	KeyFile    string
	ServerName string // "" is the host

	// OnlyAuthorities is for where no certificate is believed by its fingerprint: one that signs itself is not either, though CAFile names
	// it, and no way out leads by a fingerprint alone. Trusted is nil then.
	OnlyAuthorities bool

	// Trusted returns the fingerprints ("SHA256:...") that an operator has trusted for host:port. Asked at each login.
	Trusted func(address string) []string

	// Certificate is told the fingerprint and end of validity of the certificate that a login has shown; nil if nobody listens.
	Certificate func(fingerprint string, notAfter time.Time)
}

// Step is one step of a login, ended: "dns", "tcp", "banner", "tls", "auth", "features".
type Step struct {
	Name   string
	Took   time.Duration
	Detail string
	Err    error // *backends.Error with Cause and Hint
}

// Reply is one final reply: its code and its lines without code and line ends. The first and the last are the server's own
// words; those between keep their leading spaces.
type Reply struct {
	Code  int
	Lines []string
	Cut   bool // longer than what is kept of a reply to STAT, so that lines are missing before the last one
	Bare  bool // a line between the first and the last ended in LF alone, as one does that is a part of a name
}

// Features are what the server offers, from FEAT, the greeting and what was learned since.
type Features struct {
	Server     string   // how the server names itself, for people
	Sequential bool     // known to run a command only when the one before has ended, transfers included
	MLST       bool     // MLST and MLSD
	Facts      []string // facts of MLST, lower case
	Size       bool
	MDTM       bool
	MFMT       bool
	MFF        []string // facts that MFF changes, lower case
	Restart    bool     // REST STREAM
	UTF8       bool
	Hash       []string // algorithms of HASH, upper case, the selected one first
	Sums       []string // of XCRC, XMD5, XSHA1, XSHA256, XSHA512, those offered, upper case
	Chmod      bool     // SITE CHMOD is worth a try
	MDTMSets   bool     // "MDTM time path" sets the time (vsftpd)
	PASV       bool     // EPSV does not work here; worth telling the next session
	StatLists  bool     // a directory's STAT brings its listing, one command after the other (vsftpd)
	LineEnds   bool     // a NUL in a command stands for a line feed, a CR for itself, and a listing's lines end in CR LF (vsftpd)
	Other      []string // every line of FEAT as sent, without spaces around it

	// mute says that a transfer which is given up may stay without a final reply: pure-ftpd 1.0.50 ends it with a 150, or with nothing,
	// and takes a command that comes before a transfer has ended for an unknown one.
	mute bool

	// fragile says that a download over TLS must not be given up by closing its data connection.
	fragile bool

	// unhurried says that the server reads no command while a transfer is under way, whatever becomes of that: vsftpd 3.0.3.
	unhurried bool

	// awaitsNotify says that 226 comes after a download only when TLS's close_notify of ours has come: vsftpd 3.0.3, and pure-ftpd
	// 1.0.50 after a listing. It may be sent at once there, which saves a round trip. proftpd 1.3.8 waits as well, but resets the
	// connection if it came early: its word that a listing was all takes a third.
	awaitsNotify bool

	// deaf says that the server does not read what comes into a RETR: pure-ftpd 1.0.50. A close_notify that lies there unread when
	// it closes makes TCP reset the connection, and what was still on its way is lost.
	deaf bool
}
