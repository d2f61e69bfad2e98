package servers

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"path/filepath"
	"testing"
	"time"
)

// CertificateOptions says what certificate a server shows. The zero value is a good one for its address and for
// "localhost", of a CA that only the test knows.
type CertificateOptions struct {
	RSA        bool      // with an RSA key of 2048 bits; else ECDSA on P-256
	SelfSigned bool      // by itself, not by the CA
	Name       string    // the one DNS name it is for, instead of the server's address and "localhost"
	NotAfter   time.Time // zero is tomorrow
	NotBefore  time.Time // zero is the day before yesterday
}

// Authority is a CA of a test.
type Authority struct {
	File        string // its certificate as PEM
	Certificate *x509.Certificate
	key         crypto.Signer
	dir         string
}

// Certificate is a certificate and its key, as files.
type Certificate struct {
	File    string // PEM
	KeyFile string // PEM, PKCS 8
	X509    *x509.Certificate
}

// NewAuthority makes a CA whose files lie in dir.
func NewAuthority(t testing.TB, dir string) *Authority {
	t.Helper()
	a := &Authority{key: newKey(t, false), dir: dir}
	template := &x509.Certificate{
		SerialNumber: serial(t), Subject: pkix.Name{CommonName: "pierfs test CA"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(48 * time.Hour),
	}
	a.Certificate = sign(t, template, template, a.key.Public(), a.key)
	a.File = write(t, filepath.Join(dir, "ca.pem"), 0o644, "%s", encode("CERTIFICATE", a.Certificate.Raw))
	return a
}

// Server makes the certificate of a server on host, in files that begin with name.
func (a *Authority) Server(t testing.TB, name, host string, o CertificateOptions) Certificate {
	t.Helper()
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "pierfs test server"}, DNSNames: []string{"localhost"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, NotAfter: o.NotAfter,
	}
	switch ip := net.ParseIP(host); {
	case o.Name != "":
		template.DNSNames = []string{o.Name}
	case ip != nil:
		template.IPAddresses = []net.IP{ip, net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	default:
		template.DNSNames = append(template.DNSNames, host)
	}
	return a.issue(t, name, template, o)
}

// Client makes a certificate by which a client shows who it is, in files that begin with name.
func (a *Authority) Client(t testing.TB, name string) Certificate {
	t.Helper()
	return a.issue(t, name, &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, CertificateOptions{})
}

func (a *Authority) issue(t testing.TB, name string, template *x509.Certificate, o CertificateOptions) Certificate {
	t.Helper()
	key := newKey(t, o.RSA)
	template.SerialNumber = serial(t)
	template.NotBefore = o.NotBefore
	if o.NotBefore.IsZero() {
		template.NotBefore = time.Now().Add(-48 * time.Hour)
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	if o.RSA {
		template.KeyUsage |= x509.KeyUsageKeyEncipherment // for cipher suites without a Diffie-Hellman exchange
	}
	if template.NotAfter.IsZero() {
		template.NotAfter = time.Now().Add(24 * time.Hour)
	}
	parent, signer := a.Certificate, a.key
	if o.SelfSigned {
		parent, signer = template, key
	}
	c := Certificate{X509: sign(t, template, parent, key.Public(), signer)}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	c.File = write(t, filepath.Join(a.dir, name+".pem"), 0o644, "%s", encode("CERTIFICATE", c.X509.Raw))
	c.KeyFile = write(t, filepath.Join(a.dir, name+".key"), 0o600, "%s", encode("PRIVATE KEY", der))
	return c
}

func sign(t testing.TB, template, parent *x509.Certificate, public crypto.PublicKey, signer crypto.Signer) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}

func newKey(t testing.TB, useRSA bool) crypto.Signer {
	t.Helper()
	var key crypto.Signer
	var err error
	if useRSA {
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	} else {
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func serial(t testing.TB) *big.Int {
	t.Helper()
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func encode(kind string, der []byte) []byte {
	var b bytes.Buffer
	_ = pem.Encode(&b, &pem.Block{Type: kind, Bytes: der}) // a buffer takes everything
	return b.Bytes()
}
