package worlds

import (
	"crypto/tls"
	"net"
	"net/textproto"
	"os"
	"path/filepath"
	"testing"
	"time"

	"pierfs/conncfg/trust"
	"pierfs/integration/servers"
)

// toFTP returns a definition that works.
func toFTP(s *servers.FTP, mode servers.TLSMode) fields {
	f := fields{"protocol": "FTP", "host": s.Host, "port": s.Port, "username": s.User, "password": s.Password, "workingDir": s.Root, "timeout": 5, "retryCount": 0}
	if mode != servers.Plain {
		f["protocol"], f["caFile"] = "FTPS", s.Authority.File
		f["useImplicit"], f["useExplicit"] = mode == servers.Implicit, mode == servers.Explicit
	}
	return f
}

// ftpWorlds are wrong definitions for a server in the clear that is well, and directories that are not.
func ftpWorlds(t *testing.T) []world {
	server := servers.NewFTP(t, servers.FTPOptions{})
	strict := servers.NewFTP(t, servers.FTPOptions{Kind: servers.ProFTPD})
	plain := toFTP(server, servers.Plain)
	below := func(name string) fields { return with(plain, fields{"workingDir": server.Root + "/" + name}) }
	at := func(s *servers.FTP, name string, mode os.FileMode) string {
		path := filepath.Join(s.Dir, name)
		must(t, os.MkdirAll(path, 0o755))
		must(t, os.Chown(path, 4742, 4742))
		must(t, os.Chmod(path, mode))
		return path
	}
	dir := func(name string, mode os.FileMode) string { return at(server, name, mode) }
	must(t, os.WriteFile(filepath.Join(server.Dir, "file"), nil, 0o644))
	blind, closed, fixed := at(strict, "blind", 0o311), dir("closed", 0), dir("fixed", 0o555)
	open := func(path string) func(t *testing.T) {
		return func(t *testing.T) { must(t, os.Chmod(path, 0o755)) }
	}
	is := func(a servers.Account) func(t *testing.T) { return func(t *testing.T) { server.SetAccount(t, a) } }
	return []world{
		{name: "wrong password over FTP", definition: with(plain, fields{"password": "wrong"}), cause: "auth_failed", says: []string{"530"}, fix: []string{"does not tell whether"},
			mended: fields{"password": server.Password}},
		{name: "account locked over FTP", definition: plain, before: is(servers.Locked), cause: "auth_failed", fix: []string{"locked"}, mend: is(servers.Good)},
		{name: "password expired over FTP", definition: plain, before: is(servers.PasswordExpired), cause: "auth_failed", fix: []string{"expired"}, mend: is(servers.Good)},
		{name: "SFTP on an FTP port", definition: with(plain, fields{"protocol": "SFTP"}), cause: "wrong_protocol", says: []string{"220"}, fix: []string{`protocol`}, mended: fields{"protocol": "FTP"}},
		{name: "FTPS on a server without TLS", definition: with(toFTP(server, servers.Explicit), nil), cause: "tls_refused", fix: []string{"no TLS"},
			mended: fields{"protocol": "FTP", "caFile": nil, "useExplicit": nil, "useImplicit": nil}},
		{name: "workingDir missing over FTP", definition: below("orders/in"), cause: "workdir_missing", says: []string{"550"}, fix: []string{"workingDir", `"` + server.Root + `"`},
			mend: func(t *testing.T) { dir("orders", 0o755); dir("orders/in", 0o755) }},
		{name: "workingDir a file over FTP", definition: below("file"), cause: "workdir_not_a_directory", fix: []string{"name its directory"}, mended: fields{"workingDir": server.Root}},
		{name: "workingDir closed over FTP", definition: below("closed"), cause: "workdir_no_permission", fix: []string{"may not enter"}, mend: open(closed)},
		{name: "no list permission over FTP", definition: with(toFTP(strict, servers.Plain), fields{"workingDir": strict.Root + "/blind"}), cause: "no_list_permission", says: []string{"550"}, fix: []string{"read the working directory"},
			mend: open(blind)},
		{name: "no write permission over FTP", definition: below("fixed"), flags: []string{"--write-probe"}, cause: "no_write_permission", says: []string{"55"}, fix: []string{"allowed to write"}, mend: open(fixed)},
	}
}

// fullFTPWorlds are a disk that is full, and a server that has enough of us.
func fullFTPWorlds(t *testing.T) []world {
	server := servers.NewFTP(t, servers.FTPOptions{Size: 1 << 20})
	crowded := servers.NewFTP(t, servers.FTPOptions{MaxClients: 1})
	filler := filepath.Join(server.Dir, "filler")
	var guest net.Conn
	return []world{
		{name: "disk full over FTP", definition: toFTP(server, servers.Plain), flags: []string{"--write-probe"}, cause: "write_failed", says: []string{"451"}, fix: []string{"disk", "quota"},
			before: func(t *testing.T) { fillDisk(t, filler) }, mend: func(t *testing.T) { must(t, os.Remove(filler)) }},
		{name: "too many connections", definition: toFTP(crowded, servers.Plain), cause: "too_many_sessions", fix: []string{"full"},
			before: func(t *testing.T) { guest = occupy(t, crowded) }, mend: func(*testing.T) { guest.Close() }},
	}
}

// occupy logs in and stays.
func occupy(t *testing.T, s *servers.FTP) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", s.Address())
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	must(t, conn.SetDeadline(time.Now().Add(time.Minute)))
	text := textproto.NewConn(conn)
	_, _, err = text.ReadResponse(220)
	must(t, err)
	for _, c := range []struct {
		command string
		code    int
	}{{"USER " + s.User, 331}, {"PASS " + s.Password, 230}} {
		must(t, text.PrintfLine("%s", c.command))
		_, _, err = text.ReadResponse(c.code)
		must(t, err)
	}
	return conn
}

// ftpWritingWorlds are servers that refuse some of the ways to write, and those whose data connections do not come about.
func ftpWritingWorlds(t *testing.T) []world {
	picky := servers.NewFTP(t, servers.FTPOptions{Config: []string{"deny_file={.*}"}})
	stiff := servers.NewFTP(t, servers.FTPOptions{Config: []string{"cmds_denied=RNFR,RNTO"}})
	readOnly := servers.NewFTP(t, servers.FTPOptions{ReadOnly: true})
	walled := servers.NewFTP(t, servers.FTPOptions{})
	wall, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	relay(t, wall, walled.Address())
	at := wall.Addr().(*net.TCPAddr)
	behind := with(toFTP(walled, servers.Plain), fields{"host": at.IP.String(), "port": at.Port, "timeout": 2})
	probe := []string{"--write-probe"}
	return []world{
		{name: "temporary names refused", definition: toFTP(picky, servers.Plain), flags: probe, cause: "temp_name_refused", fix: []string{`tempName = "`}, mended: fields{"tempName": "NAME.pierfs-XXXX"}},
		{name: "renaming refused", definition: toFTP(stiff, servers.Plain), flags: probe, cause: "rename_refused", fix: []string{`tempName = "none"`}, mended: fields{"tempName": "none"}},
		{name: "server that takes no file", definition: toFTP(readOnly, servers.Plain), flags: probe, cause: "no_write_permission", fix: []string{"allowed to write"},
			mend: func(t *testing.T) { readOnly.Reconfigure(t, func(o *servers.FTPOptions) { o.ReadOnly = false }) }},
		{name: "passive ports blocked", definition: behind, cause: "passive_blocked", says: []string{"127.0.0.1"}, fix: []string{"passivePorts", "firewall"},
			mended: fields{"host": walled.Host, "port": walled.Port}},
		{name: "data connections that leave the recorded range", definition: with(behind, fields{"passivePorts": "50000-50100"}), cause: "passive_blocked",
			fix: []string{`passivePorts = "50000-50100"`}, mended: fields{"host": walled.Host, "port": walled.Port}},
	}
}

// ftpsWorlds are modes and versions of TLS that do not meet.
func ftpsWorlds(t *testing.T) []world {
	explicit := servers.NewFTP(t, servers.FTPOptions{TLS: servers.Explicit, MaxTLS: tls.VersionTLS12})
	implicit := servers.NewFTP(t, servers.FTPOptions{TLS: servers.Implicit})
	mutual := servers.NewFTP(t, servers.FTPOptions{TLS: servers.Explicit, ClientCert: true})
	own := mutual.Authority.Client(t, "client")
	onExplicit, onImplicit := toFTP(explicit, servers.Explicit), toFTP(implicit, servers.Implicit)
	other := toFTP(implicit, servers.Implicit)["caFile"]
	return []world{
		{name: "TLS required by the server", definition: with(onExplicit, fields{"protocol": "FTP", "caFile": nil, "useExplicit": nil, "useImplicit": nil}), cause: "tls_required",
			fix: []string{`protocol = "FTPS"`}, mended: fields{"protocol": "FTPS", "caFile": explicit.Authority.File}},
		{name: "implicit where explicit is spoken", definition: with(onExplicit, fields{"useImplicit": true, "useExplicit": false}), cause: "ftps_mode_wrong",
			says: []string{"220"}, fix: []string{"useExplicit = true", "21"}, mended: fields{"useImplicit": false, "useExplicit": true}},
		{name: "explicit where implicit is spoken", definition: with(onImplicit, fields{"useImplicit": false, "useExplicit": true, "timeout": 2}), cause: "ftps_mode_wrong",
			fix: []string{"useImplicit = true", "990"}, mended: fields{"useImplicit": true, "useExplicit": false}},
		{name: "FTP in the clear where implicit TLS is spoken", definition: with(onImplicit, fields{"protocol": "FTP", "caFile": nil, "useExplicit": nil, "useImplicit": nil, "timeout": 2}),
			cause: "ftps_mode_wrong", fix: []string{"useImplicit = true"}, mended: fields{"protocol": "FTPS", "caFile": implicit.Authority.File, "useImplicit": true, "useExplicit": false}},
		{name: "TLS 1.3 wanted of a server with 1.2", definition: with(onExplicit, fields{"sslProtocol": "TLS1.3"}), cause: "tls_version_mismatch", says: []string{"speaks TLS1.2"},
			fix: []string{`sslProtocol = "TLS1.2"`}, mended: fields{"sslProtocol": "TLS1.2"}},
		{name: "client certificate demanded", definition: toFTP(mutual, servers.Explicit), cause: "client_cert_wanted", fix: []string{"clientCertFile", "clientKeyFile"},
			mended: fields{"clientCertFile": own.File, "clientKeyFile": own.KeyFile}},
		{name: "authority that has signed nothing", definition: with(onExplicit, fields{"caFile": other}), cause: "cert_unknown_authority", fix: []string{"caFile"},
			mended: fields{"caFile": explicit.Authority.File}},
		{name: "authority file missing", definition: with(onExplicit, fields{"caFile": explicit.Authority.File + "2"}), cause: "key_unusable", fix: []string{"caFile"}, mended: fields{"caFile": explicit.Authority.File}},
	}
}

// oldTLSWorlds is a server that knows nothing newer than TLS 1.1.
func oldTLSWorlds(t *testing.T) []world {
	old := servers.NewFTP(t, servers.FTPOptions{TLS: servers.Explicit, MinTLS: tls.VersionTLS10, MaxTLS: tls.VersionTLS11})
	return []world{
		{name: "only TLS 1.1", definition: toFTP(old, servers.Explicit), cause: "tls_version_mismatch", says: []string{"speaks TLS1.1"}, fix: []string{"allowWeakTLS = true", `sslProtocol = "TLS1.1"`},
			mended: fields{"allowWeakTLS": true, "sslProtocol": "TLS1.1"}},
	}
}

// certificateWorlds are certificates that prove nothing.
func certificateWorlds(t *testing.T) []world {
	over := func(o servers.CertificateOptions) (*servers.FTP, fields) {
		s := servers.NewFTP(t, servers.FTPOptions{TLS: servers.Explicit, Certificate: o})
		return s, toFTP(s, servers.Explicit)
	}
	expired, onExpired := over(servers.CertificateOptions{NotAfter: time.Now().Add(-time.Hour)})
	early, onEarly := over(servers.CertificateOptions{NotBefore: time.Now().Add(time.Hour)})
	_, onNamed := over(servers.CertificateOptions{Name: "files.partner.example"})
	self, onSelf := over(servers.CertificateOptions{SelfSigned: true})
	print := trust.Fingerprint(self.Certificate.X509)
	return []world{
		{name: "certificate expired", definition: onExpired, cause: "cert_expired", says: []string{expired.Certificate.X509.NotAfter.UTC().Format(time.DateOnly), "pierfs test CA"},
			fix: []string{"renew"}, mend: func(t *testing.T) { expired.ChangeCertificate(t, servers.CertificateOptions{}) }},
		{name: "certificate not valid yet", definition: onEarly, cause: "cert_expired", says: []string{early.Certificate.X509.NotBefore.UTC().Format(time.DateOnly)}, fix: []string{"clock"},
			mend: func(t *testing.T) { early.ChangeCertificate(t, servers.CertificateOptions{}) }},
		{name: "certificate of another host", definition: onNamed, cause: "cert_name_mismatch", says: []string{"files.partner.example"}, fix: []string{"serverName"},
			mended: fields{"serverName": "files.partner.example"}},
		{name: "certificate that signs itself", definition: with(onSelf, fields{"caFile": nil}), cause: "cert_unknown_authority", says: []string{"authority"},
			fix: []string{"pierfs edit NAME --set trustCert=" + print + " --set exception="}, mended: fields{"trustCert": print, "exception": "until it has one"}},
		{name: "certificate changed", definition: with(onSelf, fields{"caFile": nil, "trustCert": trust.Fingerprint(expired.Certificate.X509), "exception": "until it has one"}),
			cause: "cert_changed", says: []string{print}, mended: fields{"trustCert": print}},
		{name: "certificate that signs itself, named as its own authority", definition: with(onSelf, fields{"caFile": self.Certificate.File}), cause: "cert_unknown_authority",
			says: []string{"signed by itself"}, fix: []string{"get a certificate of an authority", "caFile"}, mended: fields{"caFile": self.Authority.File},
			mend: func(t *testing.T) { self.ChangeCertificate(t, servers.CertificateOptions{}) }},
	}
}

// accountWanted is a server that asks for an account besides the password. None of the real ones does: a few lines of Python make one.
func accountWanted(t *testing.T) []world {
	server := servers.NewFTP(t, servers.FTPOptions{Kind: servers.PyFTPdlib, Config: []string{
		"Handler.proto_cmds = dict(Handler.proto_cmds, ACCT=dict(perm=None, auth=False, arg=True, help='ACCT'))",
		"Handler.logged_in = Handler.ftp_PASS",
		"Handler.ftp_PASS = lambda self, line: (setattr(self, 'told', line), self.respond('332 Need account for login.'))",
		"Handler.ftp_ACCT = lambda self, line: self.logged_in(self.told) if line == 'cost-centre-7' else self.respond('530 No such account.')",
	}})
	return []world{
		{name: "account wanted", definition: toFTP(server, servers.Plain), cause: "account_wanted", says: []string{"account"}, fix: []string{"set account"}, mended: fields{"account": "cost-centre-7"}},
	}
}
