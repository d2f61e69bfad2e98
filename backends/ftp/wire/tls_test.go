package wire

import (
	"crypto/tls"
	"errors"
	"strings"
	"testing"
	"time"

	"pierfs/backends"
	"pierfs/integration/servers"
)

// TestCertificatesAreJudged: who is believed, and why somebody is not.
func TestCertificatesAreJudged(t *testing.T) {
	for name, test := range map[string]struct {
		certificate servers.CertificateOptions
		change      func(o *TLS, shown string)
		cause       backends.Cause // "" logs in
	}{
		"good":               {servers.CertificateOptions{}, func(*TLS, string) {}, ""},
		"RSA":                {servers.CertificateOptions{RSA: true}, func(*TLS, string) {}, ""},
		"unknown authority":  {servers.CertificateOptions{}, func(o *TLS, _ string) { o.CAFile = "" }, backends.CauseCertUnknown},
		"expired":            {servers.CertificateOptions{NotAfter: time.Now().Add(-time.Hour)}, func(*TLS, string) {}, backends.CauseCertExpired},
		"another name":       {servers.CertificateOptions{Name: "other.example"}, func(*TLS, string) {}, backends.CauseCertName},
		"the name asked for": {servers.CertificateOptions{Name: "other.example"}, func(o *TLS, _ string) { o.ServerName = "other.example" }, ""},
		"self-signed":        {servers.CertificateOptions{SelfSigned: true}, func(*TLS, string) {}, backends.CauseCertUnknown},
		"pinned":             {servers.CertificateOptions{SelfSigned: true, Name: "other.example"}, func(o *TLS, shown string) { o.CAFile, o.TrustCert = "", shown }, ""},
		"pinned and expired": {servers.CertificateOptions{NotAfter: time.Now().Add(-time.Hour)}, func(o *TLS, shown string) { o.TrustCert = shown }, ""},
		"another pinned":     {servers.CertificateOptions{}, func(o *TLS, _ string) { o.TrustCert = "SHA256:x" }, backends.CauseCertChanged},
		"trusted":            {servers.CertificateOptions{SelfSigned: true}, func(o *TLS, shown string) { o.Trusted = func(string) []string { return []string{"SHA256:x", shown} } }, ""},
		"another trusted":    {servers.CertificateOptions{SelfSigned: true}, func(o *TLS, _ string) { o.Trusted = func(string) []string { return []string{"SHA256:x"} } }, backends.CauseCertChanged},
		"good by itself":     {servers.CertificateOptions{}, func(o *TLS, _ string) { o.Trusted = func(string) []string { return []string{"SHA256:x"} } }, ""},
		"no such file":       {servers.CertificateOptions{}, func(o *TLS, _ string) { o.CAFile = "/none" }, backends.CauseKeyFile},
	} {
		t.Run(name, func(t *testing.T) {
			server := servers.NewFTP(t, servers.FTPOptions{TLS: servers.Explicit, Certificate: test.certificate})
			o := options(t, server, servers.Explicit, server.Address())
			shown := Fingerprint(server.Certificate.X509)
			test.change(o.TLS, shown)
			told := ""
			o.TLS.Certificate = func(fingerprint string, notAfter time.Time) {
				if told = fingerprint; !notAfter.Equal(server.Certificate.X509.NotAfter) {
					t.Errorf("told that it ends at %v", notAfter)
				}
			}
			s, err := Dial(t.Context(), o)
			if test.cause == "" {
				ok(t, err)
				if told != shown {
					t.Errorf("told %q, want %q", told, shown)
				}
				_, err = store(t.Context(), s, "STOR "+server.Root+"/f", []byte("x")) // resumed
				ok(t, err)
				ok(t, s.Close())
				return
			}
			failed(t, err, backends.Refused)
			e, _ := errors.AsType[*backends.Error](err)
			if e == nil || e.Cause != test.cause || test.cause != backends.CauseKeyFile && !strings.Contains(e.Error()+e.Hint, shown) {
				t.Errorf("%v (%s), want %s and the fingerprint", err, backends.CauseOf(err), test.cause)
			}
			for cause, want := range map[backends.Cause]string{backends.CauseCertUnknown: "run: pierfs trust NAME " + shown, backends.CauseCertChanged: "somebody stands in between"} {
				if e.Cause == cause && !strings.Contains(e.Hint, want) {
					t.Errorf("%s is told to be mended by %q, want %q", cause, e.Hint, want)
				}
			}
			if strings.Contains(strings.Join(server.Commands(t), " "), "USER") {
				t.Error("the user was named to a server that is not believed")
			}
		})
	}
}

// TestTLSCauses: what keeps TLS from coming about on a real server is told apart.
func TestTLSCauses(t *testing.T) {
	for name, test := range map[string]struct {
		server servers.FTPOptions
		change func(o *Options)
		cause  backends.Cause
	}{
		"old server":          {servers.FTPOptions{TLS: servers.Explicit, MinTLS: tls.VersionTLS10, MaxTLS: tls.VersionTLS11}, func(*Options) {}, backends.CauseTLSVersion},
		"older server":        {servers.FTPOptions{TLS: servers.Explicit, MaxTLS: tls.VersionTLS12}, func(o *Options) { o.TLS.MinVersion = tls.VersionTLS13 }, backends.CauseTLSVersion},
		"no TLS":              {servers.FTPOptions{}, func(o *Options) { o.TLS = &TLS{} }, backends.CauseTLSRefused},
		"implicit to plain":   {servers.FTPOptions{TLS: servers.Explicit}, func(o *Options) { o.TLS.Implicit = true }, backends.CauseTLSMode},
		"explicit to TLS":     {servers.FTPOptions{TLS: servers.Implicit}, func(o *Options) { o.TLS.Implicit, o.ConnectTimeout = false, time.Second }, backends.CauseTLSMode},
		"in the clear to TLS": {servers.FTPOptions{TLS: servers.Implicit}, func(o *Options) { o.TLS, o.ConnectTimeout = nil, time.Second }, backends.CauseTLSMode},
		"in the clear":        {servers.FTPOptions{TLS: servers.Explicit}, func(o *Options) { o.TLS = nil }, backends.CauseTLSRequired},
		"certificate wanted":  {servers.FTPOptions{TLS: servers.Explicit, ClientCert: true}, func(*Options) {}, backends.CauseClientCert},
		"and in 1.2":          {servers.FTPOptions{TLS: servers.Explicit, ClientCert: true, MaxTLS: tls.VersionTLS12}, func(*Options) {}, backends.CauseClientCert},
		"and by proftpd":      {servers.FTPOptions{Kind: servers.ProFTPD, TLS: servers.Implicit, ClientCert: true}, func(*Options) {}, backends.CauseClientCert},
		"wrong password":      {servers.FTPOptions{TLS: servers.Implicit}, func(o *Options) { o.Password = func() (string, error) { return canary, nil } }, backends.CauseAuth},
	} {
		t.Run(name, func(t *testing.T) {
			server := servers.NewFTP(t, test.server)
			o := options(t, server, test.server.TLS, server.Address())
			test.change(&o)
			_, err := Dial(t.Context(), o)
			failed(t, err, backends.Refused)
			e, _ := errors.AsType[*backends.Error](err)
			if e == nil || e.Cause != test.cause || e.Hint == "" {
				t.Errorf("%v (%s), want %s and a hint", err, backends.CauseOf(err), test.cause)
			}
		})
	}
}

// TestWeakAndClient: old versions where they are allowed, and a certificate of our own where one is wanted.
func TestWeakAndClient(t *testing.T) {
	server := servers.NewFTP(t, servers.FTPOptions{TLS: servers.Explicit, MinTLS: tls.VersionTLS10, MaxTLS: tls.VersionTLS11})
	o := options(t, server, servers.Explicit, server.Address())
	o.TLS.AllowWeak = true
	s := logIn(t, o)
	_, err := store(t.Context(), s, "STOR "+server.Root+"/f", []byte("x"))
	ok(t, err)

	server = servers.NewFTP(t, servers.FTPOptions{TLS: servers.Explicit, ClientCert: true})
	o = options(t, server, servers.Explicit, server.Address())
	own := server.Authority.Client(t, "client")
	o.TLS.CertFile, o.TLS.KeyFile = own.File, own.KeyFile
	s = logIn(t, o)
	_, err = store(t.Context(), s, "STOR "+server.Root+"/f", []byte("x"))
	ok(t, err)
}

// TestScanCertificate shows what is there without a login.
func TestScanCertificate(t *testing.T) {
	for _, how := range []servers.TLSMode{servers.Explicit, servers.Implicit} {
		server := servers.NewFTP(t, servers.FTPOptions{TLS: how, Certificate: servers.CertificateOptions{NotAfter: time.Now().Add(-time.Hour)}})
		chain, err := ScanCertificate(t.Context(), options(t, server, how, server.Address()))
		ok(t, err)
		if !chain[0].Equal(server.Certificate.X509) {
			t.Errorf("%v: another certificate", how)
		}
	}
}

// TestIPv6: EPSV and EPRT know it, PASV and PORT do not.
func TestIPv6(t *testing.T) {
	for _, kind := range servers.FTPKinds() {
		server := servers.NewFTP(t, servers.FTPOptions{Kind: kind, Address: "::1"})
		for _, active := range []bool{false, true} {
			o := options(t, server, servers.Plain, server.Address())
			o.Active = active
			s := logIn(t, o)
			_, err := store(t.Context(), s, "STOR "+server.Root+"/f", []byte("x"))
			if got, failed := retrieve(t.Context(), s, server.Root+"/f", 0); err != nil || failed != nil || string(got) != "x" {
				t.Errorf("%v, active %v: %v, %q, %v", kind, active, err, got, failed)
			}
			ok(t, s.Close())
		}
	}
}

// TestActiveMode: real servers connect to us, with TLS too.
func TestActiveMode(t *testing.T) {
	for _, kind := range servers.FTPKinds() {
		for _, how := range []servers.TLSMode{servers.Plain, servers.Explicit} {
			server := servers.NewFTP(t, servers.FTPOptions{Kind: kind, TLS: how})
			o := options(t, server, how, server.Address())
			o.Active = true
			s := logIn(t, o)
			s.Warm()
			content := some(1 << 20)
			_, err := store(t.Context(), s, "STOR "+server.Root+"/f", content)
			if got, failed := retrieve(t.Context(), s, server.Root+"/f", 0); err != nil || failed != nil || string(got) != string(content) {
				t.Errorf("%v, %v: %v, %d bytes, %v", kind, how, err, len(got), failed)
			}
			ok(t, s.Close())
		}
	}
}
