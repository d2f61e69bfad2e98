package trust

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// certificate is one that signs itself.
func certificate(t *testing.T, name string) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Unix(0, 0), NotAfter: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func openCertificates(t *testing.T) (*Store, string) {
	t.Helper()
	s, file := open(t)
	return s, filepath.Join(filepath.Dir(file), "certificates")
}

func wantCertificates(t *testing.T, s *Store, address string, want ...*x509.Certificate) {
	t.Helper()
	got, err := s.Certificates(address)
	if err != nil {
		t.Fatalf("Certificates(%q): %v", address, err)
	}
	var prints []string
	for _, c := range want {
		prints = append(prints, Fingerprint(c))
	}
	if !slices.Equal(got, prints) {
		t.Errorf("%s: %q are believed, want %q", address, got, prints)
	}
}

func TestPinnedCertificateIsBelieved(t *testing.T) {
	s, file := openCertificates(t)
	c := certificate(t, "ftp.example.com\n*:990 SHA256:x")
	for _, address := range []string{"FTP.example.com:21", "ftp.example.com:21", "[2001:db8::1]:990"} {
		if err := s.PinCertificate(address, c); err != nil {
			t.Fatalf("pin %s: %v", address, err)
		}
		wantCertificates(t, s, address, c)
	}
	again, err := Open(filepath.Dir(file))
	if err != nil {
		t.Fatal(err)
	}
	wantCertificates(t, again, "ftp.example.com.:21", c)
	wantCertificates(t, s, "ftp.example.com:990")
	wantCertificates(t, s, "*:990")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if lines := strings.Split(strings.TrimSpace(string(data)), "\n"); len(lines) != 2 || !strings.Contains(lines[0], "until 2030-01-02") {
		t.Errorf("want a line for each server that tells what the certificate says, got\n%s", data)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", info.Mode(), err)
	}
}

func TestChangedCertificateIsRefusedAndReplacedOnRequest(t *testing.T) {
	s, file := openCertificates(t)
	old, other := certificate(t, "old"), certificate(t, "other")
	if err := s.PinCertificate("h:21", old); err != nil {
		t.Fatal(err)
	}
	err := s.PinCertificate("h:21", other)
	if !errors.Is(err, ErrOtherCertificate) || !strings.Contains(err.Error(), Fingerprint(old)) {
		t.Errorf("pinning another certificate: %v, want ErrOtherCertificate with the old fingerprint", err)
	}
	wantCertificates(t, s, "h:21", old)
	forgotten, err := s.ReplaceCertificates("h:21", other)
	if err != nil || !slices.Equal(forgotten, []string{Fingerprint(old)}) {
		t.Fatalf("replacing forgot %q, %v; want the old one", forgotten, err)
	}
	wantCertificates(t, s, "h:21", other)
	if err := s.ForgetCertificates("h:21"); err != nil {
		t.Fatal(err)
	}
	wantCertificates(t, s, "h:21")
	if data, err := os.ReadFile(file); err != nil || len(data) != 0 {
		t.Errorf("forgotten, and the file has %q, %v", data, err)
	}
}

func TestLinesAboutCertificatesAreKept(t *testing.T) {
	s, file := openCertificates(t)
	a, b := certificate(t, "a"), certificate(t, "b")
	content := "# by hand\nh:21 SHA256:short\nh " + Fingerprint(a) + "\n@revoked h:21 " + Fingerprint(b) + " lost key\nh:21 " + Fingerprint(b) + "\nfarm:990 " + Fingerprint(a) + "\nfarm:990 " + Fingerprint(b) + "\n"
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	wantCertificates(t, s, "h:21")
	wantCertificates(t, s, "farm:990", a, b)
	_, replaced := s.ReplaceCertificates("h:21", b)
	for what, err := range map[string]error{"pinned": s.PinCertificate("h:21", b), "put in place of others": replaced} {
		if err == nil || !strings.Contains(err.Error(), "@revoked") {
			t.Errorf("a revoked certificate was %s: %v", what, err)
		}
	}
	if forgotten, err := s.ReplaceCertificates("farm:990", b); err != nil || !slices.Equal(forgotten, []string{Fingerprint(a)}) {
		t.Fatalf("replacing forgot %q, %v; want the other one alone", forgotten, err)
	}
	want := strings.Join(strings.SplitAfter(content, "\n")[:5], "")
	if got, err := os.ReadFile(file); err != nil || !strings.HasPrefix(string(got), want) || strings.Count(string(got), "\n") != 6 {
		t.Errorf("file is\n%s\nwant the lines of others and one of ours, %v", got, err)
	}
}

func TestUnreadableCertificatesAreNoUnknownServer(t *testing.T) {
	s, file := openCertificates(t)
	if err := os.Mkdir(file, 0o700); err != nil { // root reads everything but a directory
		t.Fatal(err)
	}
	if prints, err := s.Certificates("h:21"); err == nil {
		t.Errorf("Certificates answers %v without an error", prints)
	}
	if err := s.PinCertificate("h:21", certificate(t, "x")); err == nil {
		t.Error("PinCertificate wrote over what it could not read")
	}
	if _, err := Open(filepath.Dir(file)); err == nil {
		t.Error("Open says nothing")
	}
}

func TestBadAddressesGetNoCertificate(t *testing.T) {
	s, file := openCertificates(t)
	c := certificate(t, "x")
	for _, address := range []string{"", ":21", "h", "h:", "a b:21", "a\nb:21", "*:21", "h#:21", "@h:21"} {
		if err := s.PinCertificate(address, c); err == nil {
			t.Errorf("pinned for %q", address)
		}
	}
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file was written: %v", err)
	}
}

// Host keys and certificates of one address do not touch each other, and obey one rule.
func TestIdentitiesArePinnedAndReplaced(t *testing.T) {
	s, _ := open(t)
	for _, c := range []struct{ first, second Identity }{
		{Identity{Key: key("ssh-ed25519", "one")}, Identity{Key: key("ssh-rsa", "two")}},
		{Identity{Certificate: certificate(t, "one")}, Identity{Certificate: certificate(t, "two")}},
	} {
		what := c.first.What()
		for _, want := range []bool{true, false} {
			if fresh, err := s.Pin("h:990", c.first); fresh != want || err != nil {
				t.Errorf("pin a %s: fresh %v, %v; want %v", what, fresh, err, want)
			}
		}
		_, err := s.Pin("h:990", c.second)
		if other, ok := errors.AsType[*OtherError](err); !ok || other.Believed != c.first.Fingerprint() || !strings.Contains(err.Error(), c.second.Fingerprint()) {
			t.Errorf("pin another than the %s: %v, want an OtherError with both", what, err)
		}
		forgotten, err := s.Replace("h:990", c.second)
		if err != nil || !slices.Equal(forgotten, []string{c.first.Fingerprint()}) {
			t.Errorf("replace the %s: forgot %q, %v", what, forgotten, err)
		}
		if known, err := s.Believed("h:990", c.first); err != nil || !slices.Equal(known, []string{c.second.Fingerprint()}) {
			t.Errorf("in place of the %s: %q, %v are believed", what, known, err)
		}
	}
}

func FuzzCertificates(f *testing.F) {
	f.Add([]byte("h:21 SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU\n"))
	f.Add([]byte("@revoked [::1]:990 SHA256:AAAA\r\n\n#\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		lines := parseCertificates(data)
		var b strings.Builder
		for _, l := range lines {
			b.WriteString(l.text + "\n")
			if l.server != "" && len(l.print) != len("SHA256:")+43 {
				t.Errorf("%q is believed for %q", l.print, l.server)
			}
		}
		if want := strings.TrimSuffix(string(data), "\n") + "\n"; len(data) > 0 && b.String() != want {
			t.Errorf("rewritten as %q, was %q", b.String(), want)
		}
	})
}
