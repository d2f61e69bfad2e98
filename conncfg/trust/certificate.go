package trust

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"
)

// ErrOtherCertificate is returned for a certificate that would stand beside another one: the server has a new one, or
// somebody stands in between.
var ErrOtherCertificate = errors.New("another certificate is believed already")

// Fingerprint returns SHA256: and the hash of a certificate in base64 without padding.
func Fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])
}

// Certificates returns the fingerprints of the certificates believed for address, which is HOST:PORT as net.Dial takes it;
// none if it is unknown.
func (s *Store) Certificates(address string) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	lines, err := s.readCertificates()
	if err != nil {
		return nil, err
	}
	return believedCertificates(lines, server(address)), nil
}

func believedCertificates(lines []certLine, host string) []string {
	var prints, revoked []string
	for _, l := range lines {
		switch {
		case l.server != host || l.server == "":
		case l.revoked:
			revoked = append(revoked, l.print)
		case !slices.Contains(prints, l.print):
			prints = append(prints, l.print)
		}
	}
	return slices.DeleteFunc(prints, func(p string) bool { return slices.Contains(revoked, p) })
}

// PinCertificate believes c for address from now on, whoever signed it and whatever it says, and returns once that is on the
// disk. One that is believed already changes nothing; ErrOtherCertificate if another one is.
func (s *Store) PinCertificate(address string, c *x509.Certificate) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	lines, host, err := s.certifiable(address, c)
	if err != nil {
		return err
	}
	known := believedCertificates(lines, host)
	switch {
	case slices.Contains(known, Fingerprint(c)):
		return nil
	case len(known) > 0:
		return fmt.Errorf("%s: %w: %s", address, ErrOtherCertificate, known[0])
	}
	return s.writeCertificates(append(lines, lineOf(host, c)))
}

// ReplaceCertificates believes c for address from now on, and no other: those whose fingerprints it returns are forgotten.
// The file has the old certificates or the new one, whatever happens.
func (s *Store) ReplaceCertificates(address string, c *x509.Certificate) (forgotten []string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	lines, host, err := s.certifiable(address, c)
	if err != nil {
		return nil, err
	}
	own := func(print string) bool { return print == Fingerprint(c) }
	forgotten = slices.DeleteFunc(believedCertificates(lines, host), own)
	return forgotten, s.writeCertificates(append(withoutServer(lines, host), lineOf(host, c)))
}

// ForgetCertificates takes every certificate of address out of the store. Lines marked @revoked stay.
func (s *Store) ForgetCertificates(address string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	lines, err := s.readCertificates()
	if err != nil {
		return err
	}
	kept := withoutServer(lines, server(address))
	if len(kept) == len(lines) {
		return nil
	}
	return s.writeCertificates(kept)
}

// certifiable returns the file's lines and how they call address, if c may be believed for it. s.mu is held.
func (s *Store) certifiable(address string, c *x509.Certificate) ([]certLine, string, error) {
	host := server(address)
	if unfit(host) {
		return nil, "", fmt.Errorf("%q is no address of a server", address)
	}
	lines, err := s.readCertificates()
	if err != nil {
		return nil, "", err
	}
	if slices.ContainsFunc(lines, func(l certLine) bool { return l.revoked && l.server == host && l.print == Fingerprint(c) }) {
		return nil, "", fmt.Errorf("%s: the certificate %s is marked @revoked in %s", address, Fingerprint(c), s.certs)
	}
	return lines, host, nil
}

func withoutServer(lines []certLine, host string) []certLine {
	return slices.DeleteFunc(slices.Clone(lines), func(l certLine) bool { return !l.revoked && l.server == host && host != "" })
}

// certLine is one line of the file; without a server it is one that means nothing here.
type certLine struct {
	text    string // without its line break
	server  string
	print   string
	revoked bool
}

// lineOf is c as a new line: what it says of itself is for people, and nothing is read from it.
func lineOf(host string, c *x509.Certificate) certLine {
	said := fmt.Sprintf("until %s, %q, signed by %q", c.NotAfter.UTC().Format(time.DateOnly), c.Subject, c.Issuer)
	return certLine{text: host + " " + Fingerprint(c) + " " + said}
}

func (s *Store) readCertificates() ([]certLine, error) {
	data, err := load(s.certs)
	return parseCertificates(data), err
}

func (s *Store) writeCertificates(lines []certLine) error {
	var b bytes.Buffer
	for _, l := range lines {
		b.WriteString(l.text + "\n")
	}
	return replace(s.certs, b.Bytes())
}

// parseCertificates takes the file apart. It has no errors: what is no line of ours believes in nothing.
func parseCertificates(data []byte) []certLine {
	if len(data) == 0 {
		return nil
	}
	var lines []certLine
	for text := range strings.SplitSeq(strings.TrimSuffix(string(data), "\n"), "\n") {
		lines = append(lines, parseCertificate(text))
	}
	return lines
}

func parseCertificate(text string) certLine {
	l := certLine{text: text}
	words := strings.Fields(text)
	revoked := len(words) > 0 && words[0] == "@revoked"
	if revoked {
		words = words[1:]
	}
	if len(words) < 2 || unfit(words[0]) {
		return l
	}
	hash, ok := strings.CutPrefix(words[1], "SHA256:")
	sum, err := base64.RawStdEncoding.Strict().DecodeString(hash)
	if !ok || err != nil || len(sum) != sha256.Size {
		return l
	}
	if _, _, err := net.SplitHostPort(words[0]); err != nil {
		return l
	}
	l.server, l.print, l.revoked = server(words[0]), words[1], revoked
	return l
}

// server is how a line calls an address; "" for what is none.
func server(address string) string {
	host, port, err := net.SplitHostPort(address)
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if err != nil || host == "" || port == "" {
		return ""
	}
	return net.JoinHostPort(host, port)
}
