package conncfg

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestExpiryCountsTheDaysThatAreReached(t *testing.T) {
	now := time.Date(2026, 11, 3, 12, 0, 0, 0, time.UTC)
	const day = 24 * time.Hour
	for left, want := range map[time.Duration]struct {
		stage int
		said  string
	}{
		31 * day: {0, ""}, 30*day + 1: {0, ""}, 30 * day: {1, "in 30 days"}, 15 * day: {1, "in 15 days"}, 14 * day: {2, "in 14 days"},
		7 * day: {3, "in 7 days"}, 36 * time.Hour: {3, "in 1 day"}, day: {4, "in 1 day"}, time.Hour: {4, "in less than a day"},
		0: {5, "has ended at 2026-11-03 12:00 UTC"}, -9 * day: {5, "has ended at 2026-10-25"},
	} {
		if got := Expiry(now.Add(left), now); got != want.stage {
			t.Errorf("%v before the end: stage %d, want %d", left, got, want.stage)
		}
		f, ok := ServerCertificate(now.Add(left), now)
		if ok != (want.stage > 0) || !strings.Contains(f.Message, want.said) {
			t.Errorf("%v before the end: %v %q, want %q", left, ok, f.Message, want.said)
		}
		code := map[bool]Code{true: CodeCertExpired, false: CodeCertExpires}[want.stage == 5]
		if ok && (f.Code != code || f.Severity != Warning || f.Hint == "") {
			t.Errorf("%v before the end: %+v, want a %s with a way out", left, f, code)
		}
	}
}

// pemFile writes certificates that end at the given times.
func pemFile(t *testing.T, ends ...time.Time) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	text := "a note\n"
	for _, end := range ends {
		template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Unix(0, 0), NotAfter: end}
		der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
		if err != nil {
			t.Fatal(err)
		}
		text += string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	name := filepath.Join(t.TempDir(), "certs.pem")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestCheckTellsOfCertificatesThatEnd(t *testing.T) {
	late, soon, past := time.Now().Add(365*24*time.Hour), time.Now().Add(5*24*time.Hour), time.Now().Add(-time.Hour)
	dir := t.TempDir()
	for _, c := range []struct {
		what, field, file string
		code              Code
	}{
		{"our own, good", "clientCertFile", pemFile(t, late, past), ""},
		{"our own, soon over", "clientCertFile", pemFile(t, soon, late), CodeCertExpires},
		{"our own, over", "clientCertFile", pemFile(t, past), CodeCertExpired},
		{"authorities, one of them good", "caFile", pemFile(t, past, late), ""},
		{"authorities, all over", "caFile", pemFile(t, past, past), CodeCertExpired},
		{"no certificates", "caFile", pemFile(t), CodeInvalid},
		{"a directory of authorities", "caFile", dir, ""},
	} {
		definition := define("protocol = \"FTPS\"\n" + c.field + " = \"" + c.file + "\"")
		if c.field == "clientCertFile" {
			definition += "clientKeyFile = \"" + pemFile(t) + "\"\n"
		}
		got := check(t, with(map[string]string{"connections/ok.toml": definition}))
		if c.code == "" && len(got) > 0 || c.code != "" && (len(got) != 1 || got[0].Code != c.code || got[0].Field != c.field || got[0].Severity != Warning || got[0].Hint == "") {
			t.Errorf("%s: want %q of %s, got%s", c.what, c.code, c.field, printed(got))
		}
	}
}
