package dial_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"pierfs/backends"
	"pierfs/backends/backendtest"
	"pierfs/backends/dial"
	"pierfs/conncfg"
	"pierfs/conncfg/trust"
	"pierfs/integration/servers"
)

// targetFTP is a directory of its own on a real server, whose authority is believed.
func targetFTP(t *testing.T, s *servers.FTP, mode servers.TLSMode, dir string) conncfg.Target {
	t.Helper()
	path := filepath.Join(s.Dir, dir)
	if err := os.Mkdir(path, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o777); err != nil { // whatever the umask
		t.Fatal(err)
	}
	place := conncfg.Target{
		Protocol: conncfg.FTP, Host: s.Host, Port: s.Port, Username: s.User, Password: conncfg.NewSecret(s.Password),
		WorkingDir: strings.TrimSuffix(s.Root, "/") + "/" + dir, Verify: conncfg.VerifySize, MaxSessions: 4,
		ConnectTimeout: 5 * time.Second, SocketTimeout: 5 * time.Second, RetryCount: 3,
	}
	if mode != servers.Plain {
		place.Protocol = conncfg.FTPS
		place.TLS = conncfg.TLS{Implicit: mode == servers.Implicit, MinVersion: tls.VersionTLS12, CAFile: s.Authority.File, ServerName: s.Host}
	}
	return place
}

func TestContractOnVsftpd(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a real server")
	}
	s := servers.NewFTP(t, servers.FTPOptions{})
	n := 0
	backendtest.Run(t, func(t *testing.T) backends.Backend {
		n++
		return dialled(t, targetFTP(t, s, servers.Plain, fmt.Sprint("rule", n)), dial.Options{})
	}, backendtest.Options{Confined: true})
}

// tested logs in once and returns the names of the steps, the last of them, and what Test returned.
func tested(t *testing.T, place conncfg.Target, o dial.Options) (steps []string, last dial.Step, err error) {
	t.Helper()
	err = dial.Test(t.Context(), place, o, func(s dial.Step) {
		steps, last = append(steps, s.Name), s
	})
	return steps, last, err
}

// Holds row 81 of the requirements: the last step measures round trips.
func TestTestReportsEachStepOfFTP(t *testing.T) {
	for mode, want := range map[servers.TLSMode]string{
		servers.Plain:    "tcp banner auth features workingDir passive data list roundTrip",
		servers.Explicit: "tcp banner tls auth features workingDir passive data list roundTrip",
		servers.Implicit: "tcp tls banner auth features workingDir passive data list roundTrip",
	} {
		s := servers.NewFTP(t, servers.FTPOptions{TLS: mode})
		steps, last, err := tested(t, targetFTP(t, s, mode, "data"), dial.Options{})
		if got := strings.Join(steps, " "); got != want || err != nil {
			t.Errorf("%v: steps %q, %v; want %q", mode, got, err, want)
		}
		if trips := last.Trips; len(trips) < 3 || trips.Min() <= 0 || trips.Median() < trips.Min() || trips.Max() < trips.Median() || last.Proposed.Connect < 30*time.Second {
			t.Errorf("%v: the last step measured %+v, want three or more round trips", mode, last)
		}
	}
}

// What keeps a connection from working is told apart, each with the step it shows in and a way out.
func TestTestTellsCausesOfFTPApart(t *testing.T) {
	explicit := servers.NewFTP(t, servers.FTPOptions{TLS: servers.Explicit, MaxTLS: tls.VersionTLS12})
	implicit := servers.NewFTP(t, servers.FTPOptions{TLS: servers.Implicit})
	plain := servers.NewFTP(t, servers.FTPOptions{})
	expired := servers.NewFTP(t, servers.FTPOptions{TLS: servers.Explicit, Certificate: servers.CertificateOptions{NotAfter: time.Now().Add(-time.Hour)}})
	other := servers.NewFTP(t, servers.FTPOptions{TLS: servers.Explicit, Certificate: servers.CertificateOptions{Name: "other.example"}})
	selfSigned := servers.NewFTP(t, servers.FTPOptions{TLS: servers.Explicit, Certificate: servers.CertificateOptions{SelfSigned: true}})
	mutual := servers.NewFTP(t, servers.FTPOptions{TLS: servers.Explicit, ClientCert: true})
	onExplicit, onImplicit, onPlain := targetFTP(t, explicit, servers.Explicit, "data"), targetFTP(t, implicit, servers.Implicit, "data"), targetFTP(t, plain, servers.Plain, "data")
	if err := os.WriteFile(filepath.Join(plain.Dir, "data", "file"), []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(plain.Dir, "data", "closed"), 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(plain.Dir, "data", "blind"), 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(plain.Dir, "data", "blind"), 0o311); err != nil {
		t.Fatal(err)
	}
	but := func(place conncfg.Target, change func(*conncfg.Target)) conncfg.Target { change(&place); return place }
	for _, c := range []struct {
		what  string
		place conncfg.Target
		step  string
		cause backends.Cause
	}{
		{"wrong password", but(onPlain, func(t *conncfg.Target) { t.Password = conncfg.NewSecret("wrong") }), "auth", backends.CauseAuth},
		{"no directory", but(onPlain, func(t *conncfg.Target) { t.WorkingDir += "/nowhere" }), "workingDir", backends.CauseWorkingDir},
		{"a file as directory", but(onPlain, func(t *conncfg.Target) { t.WorkingDir += "/file" }), "workingDir", backends.CauseWorkingDirFile},
		{"a directory that may not be entered", but(onPlain, func(t *conncfg.Target) { t.WorkingDir += "/closed" }), "workingDir", backends.CauseWorkingDirPerm},
		{"TLS wanted by the server", but(onExplicit, func(t *conncfg.Target) { t.Protocol = conncfg.FTP }), "auth", backends.CauseTLSRequired},
		{"FTPS on a server without", but(onPlain, func(t *conncfg.Target) { t.Protocol, t.TLS = conncfg.FTPS, onExplicit.TLS }), "tls", backends.CauseTLSRefused},
		{"explicit on implicit", but(onImplicit, func(t *conncfg.Target) { t.TLS.Implicit = false; t.ConnectTimeout = 2 * time.Second }), "banner", backends.CauseTLSMode},
		{"implicit on explicit", but(onExplicit, func(t *conncfg.Target) { t.TLS.Implicit = true }), "tls", backends.CauseTLSMode},
		{"TLS 1.3 on 1.2", but(onExplicit, func(t *conncfg.Target) { t.TLS.MinVersion = tls.VersionTLS13 }), "tls", backends.CauseTLSVersion},
		{"unknown authority", but(onExplicit, func(t *conncfg.Target) { t.TLS.CAFile = "" }), "tls", backends.CauseCertUnknown},
		{"self-signed", targetFTP(t, selfSigned, servers.Explicit, "data"), "tls", backends.CauseCertUnknown},
		{"expired", targetFTP(t, expired, servers.Explicit, "data"), "tls", backends.CauseCertExpired},
		{"another host's", targetFTP(t, other, servers.Explicit, "data"), "tls", backends.CauseCertName},
		{"another than the pinned", but(onExplicit, func(t *conncfg.Target) { t.TLS.TrustCert = trust.Fingerprint(implicit.Certificate.X509) }), "tls", backends.CauseCertChanged},
		{"client certificate wanted", targetFTP(t, mutual, servers.Explicit, "data"), "", backends.CauseClientCert},
	} {
		_, last, err := tested(t, c.place, dial.Options{})
		e, ok := last.Err.(*backends.Error)
		if !ok || e.Cause != c.cause || c.step != "" && last.Name != c.step || backends.CauseOf(err) != c.cause || e.Hint == "" {
			t.Errorf("%s: step %q, %v (cause %q, hint %v); want %q, %q", c.what, last.Name, last.Err, backends.CauseOf(err), ok && e.Hint != "", c.step, c.cause)
		}
		if c.cause == backends.CauseCertExpired && !strings.Contains(fmt.Sprint(err), expired.Certificate.X509.NotAfter.UTC().Format(time.DateOnly)) {
			t.Errorf("the expired certificate is told without its date: %v", err)
		}
	}
}

// A working directory that does not exist is told with how far its path leads.
func TestNearestDirectoryIsTold(t *testing.T) {
	ssh, ftp := servers.NewSSHD(t, servers.SSHOptions{}), servers.NewFTP(t, servers.FTPOptions{})
	for protocol, place := range map[string]conncfg.Target{"SFTP": target(t, ssh, "data"), "FTP": targetFTP(t, ftp, servers.Plain, "data")} {
		exists := place.WorkingDir
		for dir, want := range map[string]string{exists + "/a/b/c": exists, "/nowhere": "/", "data/a": "data", "nowhere/b": "."} {
			place.WorkingDir = dir
			_, last, err := tested(t, place, dial.Options{})
			e, ok := err.(*backends.Error)
			if !ok || e.Cause != backends.CauseWorkingDir || !strings.HasSuffix(e.Hint, fmt.Sprintf("%q", want)) || last.Err != err {
				t.Errorf("%s in %q: step %q, %v (%+v); want workdir_missing and %q", protocol, dir, last.Name, last.Err, err, want)
			}
		}
	}
}

// A certificate that somebody has trusted is believed whoever signed it, whatever its name and its dates.
// Holds rows 36 and 100 of the requirements: where authorities alone count it is not.
func TestTrustedCertificatesAreBelieved(t *testing.T) {
	for what, certificate := range map[string]servers.CertificateOptions{
		"self-signed": {SelfSigned: true},
		"of another":  {Name: "other.example"},
		"expired":     {NotAfter: time.Now().Add(-time.Hour)},
	} {
		s := servers.NewFTP(t, servers.FTPOptions{TLS: servers.Explicit, Certificate: certificate})
		place := targetFTP(t, s, servers.Explicit, "data")
		shown, err := dial.Scan(t.Context(), place, dial.Options{})
		if err != nil || shown.Certificate == nil || !shown.Certificate.Equal(s.Certificate.X509) {
			t.Fatalf("%s: scanned %+v, %v; want the server's certificate", what, shown, err)
		}
		store, err := trust.Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := store.Pin(shown.Address, shown.Identity); err != nil {
			t.Fatal(err)
		}
		var seen []string
		o := dial.Options{TrustedCertificates: store.Certificates, Certificate: func(address, fingerprint string, notAfter time.Time) {
			seen = append(seen, address+" "+fingerprint+" "+notAfter.UTC().String())
		}}
		if _, _, err := tested(t, place, o); err != nil {
			t.Errorf("%s and trusted: %v", what, err)
		}
		if want := place.Address() + " " + shown.Fingerprint() + " " + shown.Certificate.NotAfter.UTC().String(); !slices.Contains(seen, want) {
			t.Errorf("%s: told of %q, want %q", what, seen, want)
		}
		strict := place
		strict.TLS.OnlyAuthorities = true
		if _, last, err := tested(t, strict, o); last.Name != "tls" || err == nil {
			t.Errorf("%s, trusted, where authorities alone count: step %q, %v, want it refused", what, last.Name, err)
		}
		s.ChangeCertificate(t, servers.CertificateOptions{SelfSigned: true})
		if _, last, err := tested(t, place, o); last.Name != "tls" || backends.CauseOf(err) != backends.CauseCertChanged {
			t.Errorf("%s, and then another: step %q, %v, want cert_changed", what, last.Name, err)
		}
	}
}

func TestFTPShowsNoIdentity(t *testing.T) {
	place := closed(t)
	place.Protocol = conncfg.FTP
	if _, err := dial.Scan(t.Context(), place, dial.Options{}); backends.Errno(err) != syscall.EOPNOTSUPP {
		t.Errorf("got %v, want EOPNOTSUPP", err)
	}
}

// Holds row 37 of the requirements.
func TestClientCertificateLogsIn(t *testing.T) {
	s := servers.NewFTP(t, servers.FTPOptions{TLS: servers.Explicit, ClientCert: true})
	own := s.Authority.Client(t, "client")
	place := targetFTP(t, s, servers.Explicit, "data")
	place.TLS.CertFile, place.TLS.KeyFile = own.File, own.KeyFile
	if _, last, err := tested(t, place, dial.Options{}); err != nil {
		t.Errorf("with a client certificate: step %q, %v", last.Name, err)
	}
}

// Holds row 32 of the requirements.
func TestOldTLSIsSpokenOnlyWhereItIsAllowed(t *testing.T) {
	s := servers.NewFTP(t, servers.FTPOptions{TLS: servers.Explicit, MinTLS: tls.VersionTLS10, MaxTLS: tls.VersionTLS11})
	place := targetFTP(t, s, servers.Explicit, "data")
	if _, last, err := tested(t, place, dial.Options{}); last.Name != "tls" || backends.CauseOf(err) != backends.CauseTLSVersion {
		t.Errorf("not allowed: step %q, %v, want tls_version_mismatch", last.Name, err)
	}
	place.TLS.AllowWeak, place.TLS.MinVersion = true, tls.VersionTLS10
	if _, last, err := tested(t, place, dial.Options{}); err != nil {
		t.Errorf("allowed: step %q, %v", last.Name, err)
	}
}

// The ports that a definition records are compared with what the server tells.
// Holds row 80 of the requirements.
func TestPortsOutsideOfTheRecordedRangeAreTold(t *testing.T) {
	s := servers.NewFTP(t, servers.FTPOptions{})
	place := targetFTP(t, s, servers.Plain, "data")
	for ports, told := range map[conncfg.Ports]bool{{}: false, {First: s.DataFirst, Last: s.DataLast}: false, {First: 1, Last: 2}: true} {
		place.FTP.PassivePorts = ports
		passive := ""
		err := dial.Test(t.Context(), place, dial.Options{}, func(s dial.Step) {
			if s.Name == "passive" {
				passive = s.Detail
			}
		})
		if err != nil || strings.Contains(passive, "outside of passivePorts, 1-2") != told || strings.Contains(passive, "within passivePorts") != (ports.First > 2) || passive == "" {
			t.Errorf("with %q: %q, %v; want it told: %v", ports, passive, err, told)
		}
	}
}

// The server opens the data connections where the definition says so.
func TestActiveModeIsSpoken(t *testing.T) {
	for _, mode := range []servers.TLSMode{servers.Plain, servers.Explicit} {
		s := servers.NewFTP(t, servers.FTPOptions{TLS: mode})
		place := targetFTP(t, s, mode, "data")
		place.FTP.Active = true
		if _, last, err := tested(t, place, dial.Options{}); err != nil {
			t.Errorf("%v: step %q, %v", mode, last.Name, err)
		}
		active := slices.ContainsFunc(s.Commands(t), func(c string) bool { return strings.HasPrefix(c, "EPRT") || strings.HasPrefix(c, "PORT") })
		if passive := slices.ContainsFunc(s.Commands(t), func(c string) bool { return strings.HasPrefix(c, "EPSV") || strings.HasPrefix(c, "PASV") }); passive || !active {
			t.Errorf("%v: the server was asked %q", mode, s.Commands(t))
		}
	}
}

// front forwards connections from an address of its own to address: a firewall that lets the control connection through,
// and nothing else.
func front(t *testing.T, address string) (host string, port int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var both sync.WaitGroup
	t.Cleanup(both.Wait)
	t.Cleanup(func() { l.Close() })
	both.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", address)
			if err != nil {
				near.Close()
				continue
			}
			for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
				both.Go(func() {
					io.Copy(way[0], way[1])
					way[0].Close()
				})
			}
		}
	})
	at := l.Addr().(*net.TCPAddr)
	return at.IP.String(), at.Port
}

func TestBlockedPassivePortsAreToldWithTheRange(t *testing.T) {
	s := servers.NewFTP(t, servers.FTPOptions{})
	place := targetFTP(t, s, servers.Plain, "data")
	place.Host, place.Port = front(t, s.Address())
	place.ConnectTimeout, place.SocketTimeout = 2*time.Second, 2*time.Second
	for ports, hint := range map[conncfg.Ports]string{{}: "as passivePorts", {First: 50000, Last: 50100}: `passivePorts = "50000-50100"`} {
		place.FTP.PassivePorts = ports
		_, last, err := tested(t, place, dial.Options{})
		e, ok := err.(*backends.Error)
		if !ok || e.Cause != backends.CausePassiveBlocked || !strings.Contains(e.Hint, hint) || last.Name != "passive" || !strings.Contains(fmt.Sprint(last.Err), "127.0.0.1") {
			t.Errorf("with %q: step %q, %v (%+v); want passive_blocked, where it was tried, and %q", ports, last.Name, last.Err, err, hint)
		}
	}
}

func TestFullServersAreTold(t *testing.T) {
	s := servers.NewFTP(t, servers.FTPOptions{MaxClients: 1})
	place := targetFTP(t, s, servers.Plain, "data")
	b := dialled(t, place, dial.Options{})
	if _, err := b.Stat(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	_, last, err := tested(t, place, dial.Options{})
	if backends.CauseOf(err) != backends.CauseTooManySessions || last.Name != "banner" {
		t.Errorf("a test beside the one session that the server bears: step %q, %v; want too_many_sessions", last.Name, err)
	}
	if _, err := b.Stat(t.Context(), ""); err != nil {
		t.Errorf("the session that stands: %v", err)
	}
}

// Connections to one server as one user stay within its sessions together, and only with the same secrets.
func TestSessionsAreSharedByLogin(t *testing.T) {
	s := servers.NewFTP(t, servers.FTPOptions{})
	one, two := targetFTP(t, s, servers.Plain, "one"), targetFTP(t, s, servers.Plain, "two")
	one.MaxSessions, two.MaxSessions = 1, 1
	o := dial.Options{Shared: new(dial.Shared)}
	first, second := dialled(t, one, o), dialled(t, two, o)
	for range 3 {
		for _, b := range []backends.Backend{first, second} {
			if _, err := b.Stat(t.Context(), ""); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := s.Sessions(t); n != 1 {
		t.Errorf("two connections of one login have %d sessions, want 1", n)
	}
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	if _, err := second.Stat(t.Context(), ""); err != nil {
		t.Errorf("after the other connection was closed: %v", err)
	}
	two.Password = conncfg.NewSecret("wrong")
	stranger := dialled(t, two, o)
	if _, err := stranger.Stat(t.Context(), ""); backends.CauseOf(err) != backends.CauseAuth {
		t.Errorf("with a wrong password, beside a session that stands: %v, want auth_failed", err)
	}
}
