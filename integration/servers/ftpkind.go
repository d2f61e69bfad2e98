package servers

import (
	"cmp"
	"crypto/tls"
	_ "embed"
	"encoding/json"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// FTPKind is a program that serves FTP.
type FTPKind int

const (
	Vsftpd FTPKind = iota
	PureFTPd
	ProFTPD
	PyFTPdlib
)

// FTPKinds returns all of them.
func FTPKinds() []FTPKind { return []FTPKind{Vsftpd, PureFTPd, ProFTPD, PyFTPdlib} }

func (k FTPKind) String() string {
	return [...]string{"vsftpd", "pure-ftpd", "proftpd", "pyftpdlib"}[k]
}

const (
	tls12 = tls.VersionTLS12
	tls13 = tls.VersionTLS13
)

func weak(version uint16) bool { return version < tls12 }

// openSSL returns a version of TLS as OpenSSL and proftpd call it: TLSv1, TLSv1.1 and so on.
func openSSL(version uint16) string {
	return strings.TrimSuffix(strings.Replace(tls.VersionName(version), "TLS ", "TLSv", 1), ".0")
}

// command returns the program with its arguments, and writes its configuration.
func (s *FTP) command(t testing.TB) []string {
	t.Helper()
	switch s.Kind {
	case Vsftpd:
		return []string{programs + "/usr/sbin/vsftpd", s.writeVsftpd(t)}
	case PureFTPd:
		return append([]string{programs + "/usr/sbin/pure-ftpd"}, s.pureArguments(t)...)
	case ProFTPD:
		return []string{programs + "/usr/sbin/proftpd", "--nodaemon", "--config", s.writeProFTPD(t)}
	default:
		return []string{"/usr/bin/python3", s.writePy(t), s.writePyOptions(t)}
	}
}

func (s *FTP) writeVsftpd(t testing.TB) string {
	t.Helper()
	listen := "listen=YES\nlisten_address=" + s.Host
	if net.ParseIP(s.Host).To4() == nil {
		listen = "listen=NO\nlisten_ipv6=YES\nlisten_address6=" + s.Host
	}
	lines := []string{
		listen, fmt.Sprintf("listen_port=%d", s.Port), "background=NO",
		fmt.Sprintf("pasv_min_port=%d", s.DataFirst), fmt.Sprintf("pasv_max_port=%d", s.DataLast), "connect_from_port_20=YES",
		"anonymous_enable=NO", "local_enable=YES", "pam_service_name=ftp", "secure_chroot_dir=/run/empty", "delay_failed_login=0",
		"write_enable=" + yes(!s.o.ReadOnly), "local_umask=022", "use_localtime=" + yes(s.o.Zone != ""),
		"chroot_local_user=" + yes(s.o.Chroot), "allow_writeable_chroot=YES",
		"isolate=NO", "isolate_network=NO", "seccomp_sandbox=NO", // it lives in namespaces of ours
		"xferlog_enable=YES", "xferlog_std_format=NO", "log_ftp_protocol=YES", "vsftpd_log_file=" + s.logFile(),
	}
	if s.o.TLS != Plain {
		lines = append(lines, "ssl_enable=YES", "implicit_ssl="+yes(s.o.TLS == Implicit), "require_ssl_reuse="+yes(!s.o.NoReuse),
			"force_local_logins_ssl="+yes(!s.o.ClearToo), "force_local_data_ssl="+yes(!s.o.ClearToo), "ssl_ciphers=ALL:@SECLEVEL=0",
			"rsa_cert_file="+s.Certificate.File, "rsa_private_key_file="+s.Certificate.KeyFile,
			"require_cert="+yes(s.o.ClientCert), "validate_cert="+yes(s.o.ClientCert), "ssl_request_cert="+yes(s.o.ClientCert))
		if s.o.ClientCert {
			lines = append(lines, "ca_certs_file="+s.Authority.File)
		}
	}
	if s.o.MaxClients > 0 {
		lines = append(lines, fmt.Sprintf("max_clients=%d", s.o.MaxClients))
	}
	if s.o.Idle > 0 {
		lines = append(lines, "idle_session_timeout="+seconds(s.o.Idle))
	}
	lines = append(lines, s.o.Config...)
	return write(t, filepath.Join(s.etc, "vsftpd.conf"), 0o644, "%s\n", strings.Join(lines, "\n"))
}

func (s *FTP) pureArguments(t testing.TB) []string {
	t.Helper()
	args := []string{
		"--bind", s.Host + "," + strconv.Itoa(s.Port), "--passiveportrange", fmt.Sprintf("%d:%d", s.DataFirst, s.DataLast),
		"--login", "unix", "--minuid", "1", "--dontresolve", "--noanonymous", "--umask", "022:022", "--verboselog",
		"--maxclientsnumber", strconv.Itoa(cmp.Or(s.o.MaxClients, 50)),
	}
	if s.o.TLS == Explicit {
		demand := "3"
		if s.o.ClearToo {
			demand = "1"
		}
		args = append(args, "--tls", demand, "--certfile", s.Certificate.File+","+s.Certificate.KeyFile)
		if first, _ := s.versions(); weak(first) {
			args = append(args, "--tlsciphersuite", "ALL:@SECLEVEL=0")
		}
	}
	if s.o.Chroot {
		args = append(args, "--chrooteveryone")
	}
	if s.o.Idle > 0 {
		args = append(args, "--maxidletime", strconv.Itoa(max(1, int(s.o.Idle/time.Minute))))
	}
	return append(args, s.o.Config...)
}

func (s *FTP) writeProFTPD(t testing.TB) string {
	t.Helper()
	lines := []string{
		"ServerType standalone", "ServerName pierfs", "DefaultAddress " + s.Host, fmt.Sprintf("Port %d", s.Port),
		"SocketBindTight on", "UseIPv6 " + onOff(strings.Contains(s.Host, ":")), "UseReverseDNS off", "User nobody", "Group nogroup", "PidFile /run/proftpd.pid", "ScoreboardFile /run/proftpd.score",
		"ModulePath " + programs + "/usr/lib/proftpd", "LoadModule mod_tls.c", "LoadModule mod_digest.c", "LoadModule mod_site_misc.c",
		"DelayEngine off", "AuthOrder mod_auth_unix.c", "RequireValidShell off", "WtmpLog off", "TransferLog none",
		fmt.Sprintf("PassivePorts %d %d", s.DataFirst, s.DataLast),
		"Umask 022", "AllowOverwrite on", "AllowStoreRestart on", "AllowRetrieveRestart on",
		"TimesGMT " + onOff(s.o.Zone == ""),
		`LogFormat commands "FTP command: %r"`, "ExtendedLog " + s.logFile() + " ALL commands",
	}
	if s.o.TLS != Plain {
		first, last := s.versions()
		versions := ""
		for v := first; v <= last; v++ {
			versions += " " + openSSL(v)
		}
		certificate, key := "TLSECCertificateFile ", "TLSECCertificateKeyFile "
		if s.o.Certificate.RSA {
			certificate, key = "TLSRSACertificateFile ", "TLSRSACertificateKeyFile "
		}
		lines = append(lines, "TLSEngine on", "TLSProtocol"+versions, "TLSRequired "+onOff(!s.o.ClearToo), "TLSCipherSuite ALL:@SECLEVEL=0",
			certificate+s.Certificate.File, key+s.Certificate.KeyFile, "TLSCACertificateFile "+s.Authority.File,
			"TLSVerifyClient "+onOff(s.o.ClientCert))
		if s.o.NoReuse {
			lines = append(lines, "TLSOptions NoSessionReuseRequired")
		}
		if s.o.TLS == Implicit {
			lines = append(lines, "TLSOptions UseImplicitSSL")
		}
	}
	if s.o.Chroot {
		lines = append(lines, "DefaultRoot ~")
	}
	if s.o.MaxClients > 0 {
		lines = append(lines, fmt.Sprintf("MaxClients %d", s.o.MaxClients))
	}
	if s.o.Idle > 0 {
		lines = append(lines, "TimeoutIdle "+seconds(s.o.Idle))
	}
	if s.o.ReadOnly {
		lines = append(lines, "<Limit WRITE>", "DenyAll", "</Limit>")
	}
	lines = append(lines, s.o.Config...)
	return write(t, filepath.Join(s.etc, "proftpd.conf"), 0o644, "%s\n", strings.Join(lines, "\n"))
}

//go:embed pyftpd.py
var pyProgram string

func (s *FTP) writePy(t testing.TB) string {
	t.Helper()
	return write(t, filepath.Join(s.etc, "pyftpd.py"), 0o644, "%s", pyProgram)
}

func (s *FTP) writePyOptions(t testing.TB) string {
	t.Helper()
	options, err := json.Marshal(map[string]any{
		"host": s.Host, "port": s.Port, "first": s.DataFirst, "last": s.DataLast,
		"user": s.User, "password": s.Password, "uid": account, "home": inside + "/home",
		"tls": s.o.TLS.String(), "certificate": s.Certificate.File, "key": s.Certificate.KeyFile, "demand": !s.o.ClearToo,
		"chroot": s.o.Chroot, "readOnly": s.o.ReadOnly, "maxClients": s.o.MaxClients, "idle": int(s.o.Idle / time.Second),
		"local": s.o.Zone != "", "config": s.o.Config,
	})
	if err != nil {
		t.Fatal(err)
	}
	return write(t, filepath.Join(s.etc, "pyftpd.json"), 0o600, "%s", options)
}

// parseCommand returns the command that a line of the log tells of.
func (k FTPKind) parseCommand(line string) (command string, ok bool) {
	switch k {
	case Vsftpd: // ... FTP command: Client "127.0.0.1", "STOR a"
		_, rest, ok := strings.Cut(line, `FTP command: Client "`)
		_, command, ok2 := strings.Cut(rest, `", "`)
		return strings.TrimSuffix(command, `"`), ok && ok2
	case PureFTPd: // ... [DEBUG] Command [stor] [a]
		_, rest, ok := strings.Cut(line, "[DEBUG] Command [")
		verb, argument, _ := strings.Cut(strings.TrimSuffix(rest, "]"), "] [")
		return strings.TrimRight(strings.ToUpper(verb)+" "+argument, " "), ok
	default:
		_, command, ok := strings.Cut(line, "FTP command: ")
		return command, ok
	}
}
