// Package wire speaks FTP (RFC 959, 2228, 2389, 2428, 3659, 4217) on one control connection: it logs in, pipelines commands,
// opens data connections ahead of need, and moves content. It knows replies, not what they mean for a file: that is for the
// package above.
//
// A Session is used by one goroutine at a time; Close alone may come from another. Whatever makes the order of commands and
// replies doubtful (a stray reply, a reply that is too long, a data connection that broke without a reply, a context that
// ended in mid-dialogue) spoils the Session: Healthy is false from then on, and its owner closes it. Nothing is ever read
// from a Session whose order is in doubt.
//
// Every wait has a deadline: ConnectTimeout for each step of a login, SocketTimeout without progress for everything else.
package wire

import (
	"context"
	"log/slog"
	"net"
	"time"
)

// Options are what a Session needs.
type Options struct {
	Address  string // host:port
	Username string // "" logs in as anonymous
	Password func() (string, error)
	Account  string // sent where the server asks for it (332, ACCT); "" has none
	TLS      *TLS   // nil speaks in the clear
	Active   bool   // the server opens the data connections (EPRT, PORT) instead of us

	ConnectTimeout time.Duration
	SocketTimeout  time.Duration

	// DialContext opens the control connection and passive data connections; nil is a net.Dialer. With one that leads through another host
	// Active cannot work, and is an error at once.
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)

	Step   func(Step) // told of each step of a login when it has ended; nil if nobody listens
	Logger *slog.Logger
}

// TLS is how FTPS is spoken.
type TLS struct {
	Implicit   bool   // TLS from the first byte; else AUTH TLS
	MinVersion uint16 // a tls.Version constant
	AllowWeak  bool   // old versions, CBC and RSA key exchange too
	CAFile     string // PEM; believed besides the system's
	TrustCert  string // "SHA256:..." of the one certificate accepted, whatever it says
	CertFile   string // of our own, with KeyFile
	KeyFile    string
	ServerName string // "" is the host

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

// Reply is one final reply: its code and its lines without code and line ends.
type Reply struct {
	Code  int
	Lines []string
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
	Other      []string // every line of FEAT as sent
}

// Session is one logged-in control connection.
//
//	func Dial(ctx context.Context, o Options) (*Session, error)
//	func (s *Session) Features() Features
//	func (s *Session) Home() string                   // the login directory, from PWD; absolute, as the server spells it
//	func (s *Session) Healthy() bool                  // may be used again; never blocks
//	func (s *Session) Idle() time.Duration            // since the last reply
//	func (s *Session) Warm()                          // opens the next data connection in the background; cheap if there is one
//	func (s *Session) Cool()                          // gives it back
//	func (s *Session) Close() error
//
// Do sends the commands in one write and returns their final replies in order. A refusal is a Reply and no error.
// The error is a *backends.Error: Transient if the server cannot have taken any command, Lost else; Final (EINVAL) for a command with
// CR, LF or NUL in it, and then nothing was sent.
//
//	func (s *Session) Do(ctx context.Context, commands ...string) ([]Reply, error)
//
// Retrieve, List and Store move content over a data connection. A refusal before the transfer is a *Refusal. behind are commands sent in the
// same write, run by the server when the transfer has ended; only a Sequential server gets them so, any other after its 226.
//
//	func (s *Session) Retrieve(ctx context.Context, path string, off int64) (*Download, error)          // [REST off,] RETR path
//	func (s *Session) List(ctx context.Context, command string) (*Download, error)                      // "MLSD /a", "LIST -a /a"
//	func (s *Session) Store(ctx context.Context, command string, behind ...string) (*Upload, error)     // "STOR /a", "APPE /a"
//
//	func (d *Download) Read(p []byte) (int, error)    // io.EOF when the data connection ended; says nothing of completeness
//	func (d *Download) End(ctx context.Context) (Reply, error)   // after EOF: the final reply. A Refusal for 4yz, 5yz: what came was not all
//	func (d *Download) Cancel()                       // gives up early; brings the session back into step in the background, or spoils it
//
//	func (u *Upload) Write(p []byte) (int, error)
//	func (u *Upload) End(ctx context.Context) (Reply, []Reply, error)   // shuts the data connection down in order; final reply, replies of behind
//	func (u *Upload) Cancel()                         // the server may take what came for the whole: its name is a temporary one
//
// Refusal is a reply of the server that says no, as an error.
//
//	type Refusal struct{ Command string /* without any secret */; Reply Reply }
