package daemon

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"maps"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pierfs/cmd/internal/control"
	"pierfs/conncfg"
)

// Holds row 101 of the requirements: each of 30, 14, 7 and 1 days, and the end, is told once.
func TestEachStageOfACertificatesEndIsToldOnce(t *testing.T) {
	var c certificates
	const day = 24 * time.Hour
	end := time.Date(2026, 11, 3, 12, 0, 0, 0, time.UTC)
	if f, ok := c.finding("h:21", end); ok {
		t.Errorf("of a server that has shown nothing: %+v", f)
	}
	for _, step := range []struct {
		left time.Duration
		news bool
		code conncfg.Code // of what lists tell
	}{
		{40 * day, false, ""}, {29 * day, true, conncfg.CodeCertExpires}, {20 * day, false, conncfg.CodeCertExpires},
		{10 * day, true, conncfg.CodeCertExpires}, {6 * day, true, conncfg.CodeCertExpires}, {2 * day, false, conncfg.CodeCertExpires},
		{time.Hour, true, conncfg.CodeCertExpires}, {0, true, conncfg.CodeCertExpired}, {-day, false, conncfg.CodeCertExpired},
	} {
		now := end.Add(-step.left)
		f, news := c.saw("h:21", "SHA256:a", end, now)
		if news != step.news || news && !strings.Contains(f.Message, "2026-11-03 12:00 UTC") {
			t.Errorf("%v before the end: told %v %q, want %v", step.left, news, f.Message, step.news)
		}
		if f, _ := c.finding("h:21", now); f.Code != step.code {
			t.Errorf("%v before the end: lists tell %q, want %q", step.left, f.Code, step.code)
		}
		if again := c.reached(now); len(again) > 0 {
			t.Errorf("%v before the end: told again: %v", step.left, again)
		}
	}
	if f, news := c.saw("h:21", "SHA256:b", end.Add(300*day), end); news {
		t.Errorf("a renewed certificate is told as %q", f.Message)
	}
	if news := c.reached(end.Add(290 * day)); len(news) != 1 || news["h:21"].Code != conncfg.CodeCertExpires {
		t.Errorf("with nobody logging in, %v is told of the renewed one", news)
	}
}

// A certificate that ends soon is told where operators look: in lists, and in the log of each connection that leads there.
func TestCertificateThatEndsIsListedAndLogged(t *testing.T) {
	s := newStage(t)
	s.define("one")
	s.define("two", "port = 2222")
	s.start()
	s.daemon.certified("files.example:22", "SHA256:a", time.Now().Add(5*24*time.Hour))
	s.daemon.certified("files.example:22", "SHA256:a", time.Now().Add(5*24*time.Hour))
	c := s.list()["Test/one"]
	if len(c.Findings) != 1 || c.Findings[0].Code != conncfg.CodeCertExpires || c.Findings[0].Connection != "one" || c.Findings[0].Hint == "" {
		t.Errorf("listed: %+v, want one finding about the certificate", c.Findings)
	}
	if c := s.list()["Test/two"]; len(c.Findings) > 0 {
		t.Errorf("a connection to another server is listed with %+v", c.Findings)
	}
	warned := 0
	for line := range strings.Lines(s.log.String()) {
		if strings.Contains(line, `"code":"CERT_EXPIRES"`) && strings.Contains(line, `"conn":"one"`) {
			warned++
		}
	}
	if warned != 1 {
		t.Errorf("warned %d times in the log, want once:\n%s", warned, s.log)
	}
}

// Holds row 101 of the requirements: not only the server's certificate is watched, but also the one that is shown to it and the authorities that
// are believed: in lists with the days that are left, by doctor, as figures, and once a stage in the log.
func TestCertificatesInFilesAreTold(t *testing.T) {
	s := newStage(t)
	const day = 24 * time.Hour
	own, authorities := filepath.Join(t.TempDir(), "own.pem"), filepath.Join(t.TempDir(), "ca.pem")
	certificateUntil(t, own, time.Now().Add(5*day+time.Hour))
	certificateUntil(t, authorities, time.Now().Add(90*day+time.Hour))
	s.define("one", `clientCertFile = "`+own+`"`, `clientKeyFile = "`+own+`"`, `caFile = "`+authorities+`"`)
	file := filepath.Join(s.dirs.Config, "connections/one.toml")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, bytes.Replace(text, []byte("SFTP"), []byte("FTPS"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	s.start()
	s.daemon.certified("files.example:21", "SHA256:a", time.Now().Add(200*day+time.Hour))
	c := s.list()["Test/one"]
	left := map[string]int{}
	for _, e := range c.Certificates {
		left[e.Of] = e.DaysLeft
	}
	if !maps.Equal(left, map[string]int{"server": 200, "client": 5, "authority": 90}) {
		t.Errorf("listed: %+v", c.Certificates)
	}
	if len(c.Findings) != 1 || c.Findings[0].Code != conncfg.CodeCertExpires || c.Findings[0].Field != "clientCertFile" {
		t.Errorf("listed: %+v, want one finding about our own certificate", c.Findings)
	}
	a, err := control.Doctor.Call(t.Context(), s.client, control.DoctorRequest{Name: "one"})
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, c := range a.Checks {
		if strings.Contains(c.Detail, "days") || c.Advice {
			found[c.Check] = c.OK
		}
	}
	for check, ok := range map[string]bool{"certificate": true, "client_certificate": false, "authority": true} {
		if said, there := found[check]; !there || said != ok {
			t.Errorf("doctor: %s: %v, want %v", check, said, ok)
		}
	}
	m, err := control.Metrics.Call(t.Context(), s.client, control.MetricsRequest{Text: true})
	for _, name := range []string{"certificate", "client_certificate", "authority"} {
		if err != nil || !strings.Contains(m.Text, "pierfs_"+name+`_expiry_timestamp_seconds{connection="one",environment="Test"}`) {
			t.Errorf("no figure of %s: %v", name, err)
		}
	}
	s.daemon.lookAtCertificates()
	s.daemon.lookAtCertificates()
	if n := strings.Count(s.log.String(), `"msg":"certificate"`); n != 1 {
		t.Errorf("warned %d times, want once of our own:\n%s", n, s.log)
	}
}

// A file of certificates that blocks whoever reads it, as a FIFO would, and one that is gone, are told as nothing, and hold nobody; one that is
// replaced is read anew.
func TestFilesOfCertificatesHoldNobody(t *testing.T) {
	dir := t.TempDir()
	fifo, file := filepath.Join(dir, "fifo"), filepath.Join(dir, "ca.pem")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	var c certificates
	for _, name := range []string{fifo, filepath.Join(dir, "none"), dir} {
		if end := c.endOf(fileEnd{name, false}); !end.IsZero() {
			t.Errorf("%s ends at %s", name, end)
		}
	}
	for _, day := range []int{10, 200} {
		end := time.Now().AddDate(0, 0, day).UTC().Truncate(time.Second)
		certificateUntil(t, file, end)
		if err := os.Chtimes(file, time.Time{}, end); err != nil { // another one, however coarse the clock
			t.Fatal(err)
		}
		if got := c.endOf(fileEnd{file, false}); !got.Equal(end) {
			t.Errorf("it ends at %s, want %s", got, end)
		}
	}
	hangs := &lookedUp{end: time.Unix(1e9, 0), looking: make(chan struct{})}
	c.ends[fileEnd{"hangs", false}] = hangs
	if got := c.endOf(fileEnd{"hangs", false}); !got.Equal(hangs.end) {
		t.Errorf("of a file that hangs %s is told, want what was known", got)
	}
}

// certificateUntil writes a certificate that ends then.
func certificateUntil(t *testing.T, file string, end time.Time) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: end}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}
