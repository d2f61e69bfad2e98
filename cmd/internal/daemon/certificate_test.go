package daemon

import (
	"strings"
	"testing"
	"time"

	"pierfs/conncfg"
)

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
