package wire

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"pierfs/backends"
	"pierfs/backends/netconn"
	"pierfs/backends/reach"
)

// security is the TLS of one session: its configuration, and the certificates that it has been shown.
type security struct {
	o        *TLS
	address  string
	config   *tls.Config
	sessions resumption
	roots    *x509.CertPool // nil for the system's

	wanted atomic.Bool // the server has asked for a certificate of ours

	mu      sync.Mutex
	chain   []*x509.Certificate // of the last handshake
	version uint16              // and of TLS, that it came to
	expired *x509.Certificate   // believed all the same
	scan    bool                // nothing is believed, and nothing refused
}

// newSecurity reads the files that o names. The session cache is the session's own: proftpd's mod_tls accepts a data
// connection only if it resumes the TLS session of its own control connection, and a cache that two share mixes them up.
func newSecurity(o *TLS, address string) (*security, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	s := &security{o: o, address: address}
	if s.roots, err = authorities(o.CAFile); err != nil {
		return nil, err
	}
	s.config = &tls.Config{
		ServerName:         host, // also of an address: without it Go would look for sessions by port
		MinVersion:         max(o.MinVersion, tls.VersionTLS12),
		MaxVersion:         tls.VersionTLS13,
		ClientSessionCache: &s.sessions,
		// vsftpd and pure-ftpd answer a first guess of X25519 with another question, which costs a round trip.
		CurvePreferences:   []tls.CurveID{tls.CurveP256, tls.CurveP384, tls.CurveP521},
		InsecureSkipVerify: true, // verify does it, and tells fingerprints
		VerifyConnection:   s.verify,
		Time:               s.now,

		DynamicRecordSizingDisabled: true, // whole files are sent, not pages that somebody waits to see
	}
	if o.ServerName != "" {
		s.config.ServerName = o.ServerName
	}
	if o.AllowWeak {
		s.config.MinVersion = tls.VersionTLS10
		if o.MinVersion != 0 {
			s.config.MinVersion = o.MinVersion
		}
		for _, suite := range slices.Concat(tls.CipherSuites(), tls.InsecureCipherSuites()) {
			s.config.CipherSuites = append(s.config.CipherSuites, suite.ID)
		}
	}
	own := new(tls.Certificate)
	if o.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(o.CertFile, o.KeyFile)
		if err != nil {
			return nil, err
		}
		own = &pair
	}
	s.config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		s.wanted.Store(len(own.Certificate) == 0)
		return own, nil
	}
	return s, nil
}

// resumption is the session cache of one control connection: every data connection resumes what is in it. A handshake that
// comes to nothing, as that of a transfer which is refused, does not empty it, which Go would have it do: proftpd then
// takes no data connection any more.
type resumption struct {
	mu   sync.Mutex
	last *tls.ClientSessionState
}

// Get returns the session seen last, whatever the key.
func (r *resumption) Get(string) (*tls.ClientSessionState, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last, r.last != nil
}

// Put keeps a session; nil is one that was refused.
func (r *resumption) Put(_ string, session *tls.ClientSessionState) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if session != nil {
		r.last = session
	}
}

func (r *resumption) empty() bool {
	_, some := r.Get("")
	return !some
}

// authorities reads a PEM file or a directory of such; nil for "".
func authorities(path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, nil
	}
	files := []string{path}
	if entries, err := os.ReadDir(path); err == nil {
		files = nil
		for _, entry := range entries {
			if !entry.IsDir() {
				files = append(files, filepath.Join(path, entry.Name()))
			}
		}
	}
	pool, any := x509.NewCertPool(), false
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		any = pool.AppendCertsFromPEM(b) || any
	}
	if !any {
		return nil, fmt.Errorf("%s: no certificate in it", path)
	}
	return pool, nil
}

// Fingerprint is how a certificate is named in Options.TLS, as "SHA256:" and the hash of all of it.
func Fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])
}

// errCertificate is a certificate that is not believed.
type errCertificate struct {
	cause backends.Cause
	leaf  *x509.Certificate
	err   error
	hint  string
}

func (e *errCertificate) Error() string {
	return fmt.Sprintf("certificate %s of %q, issued by %q: %v", Fingerprint(e.leaf), e.leaf.Subject, e.leaf.Issuer, e.err)
}

func (e *errCertificate) Unwrap() error { return e.err }

// now is the time as the library is to know it. It resumes no session of a server whose certificate has expired, though we
// have decided to believe it, and many servers take no other data connection.
func (s *security) now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.expired != nil {
		return s.expired.NotAfter.Add(-time.Second)
	}
	return time.Now()
}

// verify decides on the certificate of each connection, control and data, resumed or not.
func (s *security) verify(state tls.ConnectionState) error {
	if len(state.PeerCertificates) == 0 {
		return errors.New("the server shows no certificate")
	}
	s.mu.Lock()
	s.chain, s.version = state.PeerCertificates, state.Version
	scan := s.scan
	s.mu.Unlock()
	if scan {
		return nil
	}
	leaf := state.PeerCertificates[0]
	if err := s.judge(leaf, state.PeerCertificates); err != nil {
		return err
	}
	if time.Now().After(leaf.NotAfter) {
		s.mu.Lock()
		s.expired = leaf
		s.mu.Unlock()
	}
	return nil
}

// changed begins the hint about a certificate in whose place another one was trusted.
const changed = "the server was installed anew, or somebody stands in between: do not connect before its operator has confirmed the new fingerprint; then "

// judge returns nil if leaf is believed: because of its fingerprint, or by itself.
func (s *security) judge(leaf *x509.Certificate, chain []*x509.Certificate) error {
	shown := Fingerprint(leaf)
	if s.o.TrustCert != "" {
		if s.o.TrustCert == shown {
			return nil
		}
		return &errCertificate{backends.CauseCertChanged, leaf, fmt.Errorf("the definition trusts %s alone", s.o.TrustCert),
			changed + "write it into the definition: trustCert = \"" + shown + "\""}
	}
	var trusted []string
	if s.o.Trusted != nil {
		trusted = s.o.Trusted(s.address)
	}
	if slices.Contains(trusted, shown) {
		return nil
	}
	cause, err := s.examine(chain)
	if err == nil {
		return nil
	}
	if s.o.OnlyAuthorities {
		return &errCertificate{cause, leaf, err, s.authorityHint(cause, leaf)}
	}
	hint := "compare the fingerprint with what the server's operator tells, then run: pierfs trust NAME " + shown + "; or name the authority that signed it as caFile"
	switch {
	case len(trusted) > 0:
		cause, err = backends.CauseCertChanged, fmt.Errorf("another one was trusted (%s), and by itself it is not: %w", strings.Join(trusted, ", "), err)
		hint = changed + "run: pierfs trust NAME " + shown
	case cause == backends.CauseCertExpired && time.Now().Before(leaf.NotBefore):
		hint = "it begins later: check this machine's clock, and have the server's operator check his; until then it can be trusted by its fingerprint: trustCert = \"" + shown + "\""
	case cause == backends.CauseCertExpired:
		hint = "have the server's operator renew it; until then it can be trusted by its fingerprint: trustCert = \"" + shown + "\""
	case cause == backends.CauseCertName:
		hint = "set host to a name that the certificate has, or serverName; or trust it by its fingerprint: trustCert = \"" + shown + "\""
	}
	return &errCertificate{cause, leaf, err, hint}
}

// examine asks whether a chain is good by itself.
func (s *security) examine(chain []*x509.Certificate) (backends.Cause, error) {
	leaf, now := chain[0], time.Now()
	if now.After(leaf.NotAfter) || now.Before(leaf.NotBefore) {
		return backends.CauseCertExpired, fmt.Errorf("it is valid from %s to %s", leaf.NotBefore.Format(time.RFC3339), leaf.NotAfter.Format(time.RFC3339))
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: s.roots, Intermediates: between, DNSName: s.config.ServerName})
	switch {
	case err == nil && s.o.OnlyAuthorities && signsItself(leaf):
		return backends.CauseCertUnknown, errors.New("it is signed by itself, and vouches for nobody")
	case err == nil:
		return "", nil
	}
	if name, ok := errors.AsType[x509.HostnameError](err); ok {
		return backends.CauseCertName, fmt.Errorf("it is for %s: %w", names(leaf), name)
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
		return backends.CauseCertExpired, err
	}
	return backends.CauseCertUnknown, err
}

func signsItself(c *x509.Certificate) bool {
	return bytes.Equal(c.RawIssuer, c.RawSubject) && c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil
}

// authorityHint is the way out where no certificate is believed by its fingerprint: a better certificate, or an exception in the definition.
func (s *security) authorityHint(cause backends.Cause, leaf *x509.Certificate) string {
	hint := "have the server's operator get a certificate of an authority, and name that as caFile if the system does not know it"
	switch {
	case cause == backends.CauseCertName:
		hint = "set host to a name that the certificate has, or serverName"
	case cause == backends.CauseCertExpired && time.Now().Before(leaf.NotBefore):
		hint = "it begins later: check this machine's clock, and have the server's operator check his"
	case cause == backends.CauseCertExpired:
		hint = "have the server's operator renew it"
	case !signsItself(leaf):
		hint = "name the authority that signed it as caFile"
	}
	return hint + ". This environment believes none by its fingerprint (requireAuthority); if it must be, compare " + Fingerprint(leaf) +
		" with what the server's operator tells, and write both trustCert and why: pierfs edit NAME --set trustCert=" + Fingerprint(leaf) + " --set exception='why, and until when'"
}

// names are the hosts that c is for.
func names(c *x509.Certificate) string {
	list := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		list = append(list, ip.String())
	}
	if len(list) == 0 {
		return fmt.Sprintf("no host (its subject is %q)", c.Subject)
	}
	return strings.Join(list, ", ")
}

func (s *security) shown() []*x509.Certificate {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.chain
}

// spoken returns the version of TLS that the last handshake came to; 0 before one.
func (s *security) spoken() uint16 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.version
}

// tap lies under TLS. It keeps the first bytes that the server sends, by which a handshake that failed can be explained, and
// notes whether the stream ended by itself.
type tap struct {
	*netconn.Conn
	first []byte
	ended atomic.Bool
}

func (t *tap) Read(p []byte) (int, error) {
	n, err := t.Conn.Read(p)
	if room := 64 - len(t.first); room > 0 {
		t.first = append(t.first, p[:min(n, room)]...)
	}
	if err == io.EOF {
		t.ended.Store(true)
	}
	return n, err
}

// TLS's own words (RFC 8446 sections 5.1 and 6).
const (
	recordAlert     = 0x15
	recordHandshake = 0x16
	serverHello     = 2

	alertHandshakeFailure    = 40
	alertProtocolVersion     = 70
	alertInsufficientSecurit = 71
	alertCertificateRequired = 116
)

// secure does the handshake on conn.
func (s *security) secure(ctx context.Context, conn *netconn.Conn) (net.Conn, error) {
	t := &tap{Conn: conn}
	c := tls.Client(t, s.config)
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, s.explain(t, err)
	}
	return c, nil
}

// explain tells why there is no TLS, by what the server sent, not by what the library makes of it.
func (s *security) explain(t *tap, err error) error {
	if wrong, ok := errors.AsType[*errCertificate](err); ok {
		return &backends.Error{Op: "connect", Code: syscall.EACCES, Class: backends.Refused, Cause: wrong.cause, Err: wrong, Hint: wrong.hint}
	}
	e := &backends.Error{Op: "connect", Code: syscall.EPROTO, Class: backends.Refused, Err: err}
	b := t.first
	switch {
	case len(b) >= 4 && isReply(b):
		e.Cause, e.Err = backends.CauseTLSMode, fmt.Errorf("TLS was awaited from the first byte, and the server says %q", firstLine(b))
		e.Hint = "the server begins in the clear: set useExplicit = true and useImplicit = false; explicit FTPS has port 21 as a rule"
	case bytes.HasPrefix(b, []byte("SSH-")):
		e.Cause, e.Err = backends.CauseWrongProtocol, fmt.Errorf("the server says %q", firstLine(b))
		e.Hint = "an SSH server listens on this port: check port, or set protocol = \"SFTP\""
	case len(b) >= 7 && b[0] == recordAlert:
		s.alerted(e, b[6])
	case len(b) >= 11 && b[0] == recordHandshake && b[5] == serverHello && uint16(b[9])<<8|uint16(b[10]) < s.config.MinVersion:
		offered := uint16(b[9])<<8 | uint16(b[10])
		e.Cause = backends.CauseTLSVersion
		e.Err = fmt.Errorf("the server speaks %s, and %s is the least that is wanted", tls.VersionName(offered), tls.VersionName(s.config.MinVersion))
		e.Hint = "have the server updated; if that cannot be, allowWeakTLS with sslProtocol of its version"
	case s.wanted.Load() && len(b) > 0:
		return noClientCert(err)
	case len(b) == 0 || t.Broken() != nil:
		return reach.BrokeOff(t.Conn, err, "the server broke off in the TLS handshake: it may not speak TLS here, or want another version")
	default:
		e.Cause, e.Hint = backends.CauseAlgorithms, "the server's TLS and ours found nothing in common; have the server's operator look into its log"
	}
	return e
}

const certHint = "the server asks for a certificate of ours: set clientCertFile and clientKeyFile"

// noClientCert is a server that broke off after it had asked for a certificate and got none.
func noClientCert(err error) error { return refused(backends.CauseClientCert, err, certHint) }

// alerted tells what the server's alert means.
func (s *security) alerted(e *backends.Error, alert byte) {
	switch alert {
	case alertProtocolVersion:
		e.Cause = backends.CauseTLSVersion
		e.Err = fmt.Errorf("the server does not speak %s or later: %w", tls.VersionName(s.config.MinVersion), e.Err)
		e.Hint = "set sslProtocol to a version that the server speaks; TLS1.2 is the least without allowWeakTLS"
	case alertCertificateRequired:
		e.Cause, e.Hint = backends.CauseClientCert, certHint
	case alertHandshakeFailure, alertInsufficientSecurit:
		e.Cause, e.Hint = backends.CauseAlgorithms, "no cipher is common to both sides: the server may be old (allowWeakTLS), or ask for a certificate of ours"
	default:
		e.Cause, e.Hint = backends.CauseAlgorithms, "the server ended the TLS handshake; have its operator look into its log"
	}
}

// detail tells how a connection is protected, for people.
func (s *security) detail(line net.Conn) string {
	state := line.(*tls.Conn).ConnectionState()
	text := tls.VersionName(state.Version) + ", " + tls.CipherSuiteName(state.CipherSuite)
	if chain := s.shown(); len(chain) > 0 {
		text += fmt.Sprintf(", certificate %s until %s", Fingerprint(chain[0]), chain[0].NotAfter.Format(time.DateOnly))
	}
	return text
}

// speaksTLS reports whether a server that has said nothing waits for TLS. The deadline of the greeting has passed: it has a
// moment more for an answer, of which nobody's budget knows.
func (s *Session) speaksTLS() bool {
	s.conn.SetDeadline(time.Now().Add(min(max(s.o.ConnectTimeout/10, 300*time.Millisecond), s.o.ConnectTimeout/2, 3*time.Second)))
	t := &tap{Conn: s.conn}
	tls.Client(t, &tls.Config{InsecureSkipVerify: true}).Handshake() // only what comes back matters
	return len(t.first) > 0 && (t.first[0] == recordAlert || t.first[0] == recordHandshake)
}

// isReply reports whether b looks like the beginning of a reply of FTP.
func isReply(b []byte) bool {
	_, _, ok := parseCode(b)
	return ok && len(b) > 3
}

func firstLine(b []byte) string {
	line, _, _ := bytes.Cut(b, []byte("\n"))
	return string(bytes.TrimRight(line, "\r"))
}
