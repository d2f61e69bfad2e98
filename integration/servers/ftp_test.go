package servers

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"pierfs/integration/link"
	"pierfs/integration/process"
)

// curl runs curl on name in the server's home, and returns what it wrote and how it ended.
func curl(t *testing.T, s *FTP, address, name string, args ...string) (string, error) {
	t.Helper()
	process.Need(t, "curl")
	scheme := "ftp"
	if s.o.TLS == Implicit {
		scheme = "ftps"
	}
	if s.o.TLS == Explicit {
		args = append(args, "--ssl-reqd")
	}
	url := fmt.Sprintf("%s://%s/%%2f%s/%s", scheme, address, strings.Trim(s.Root, "/"), name)
	args = slices.Concat([]string{"--disable", "--silent", "--show-error", "--max-time", "30", "--globoff", "--noproxy", "*",
		"--cacert", s.Authority.File, "--user", s.User + ":" + s.Password}, args, []string{url})
	return output(exec.CommandContext(t.Context(), "curl", args...))
}

// output runs cmd and returns what it wrote; the error has what it wrote to standard error.
func output(cmd *exec.Cmd) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, stderr.Bytes())
	}
	return stdout.String(), err
}

// ftplib is a client that begins TLS on a data connection only when the server has answered the command, as pyftpdlib
// wants it: it ends a data connection on which it hears anything before the command, and so it does with curl's.
const ftplib = `
import ftplib, ssl, sys
mode, host, port, user, password, ca, verb, name, local = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
context.check_hostname = host.startswith("127.21.")

class Client(ftplib.FTP_TLS):
    def connect(self, *args):
        if mode != "implicit":
            return super().connect(*args)
        self.sock = context.wrap_socket(ftplib.socket.create_connection((host, port), 30), server_hostname=host)
        self.af = self.sock.family
        self.file = self.sock.makefile("r", encoding="utf-8")
        self.welcome = self.getresp()

c = Client(context=context, timeout=30)
c.host = host
c.connect(host, int(port))
if mode == "explicit":
    c.auth()
ftplib.FTP.login(c, user, password)
c.prot_p()
if verb == "STOR":
    c.storbinary("STOR " + name, open(local, "rb"))
elif verb == "RETR":
    c.retrbinary("RETR " + name, sys.stdout.buffer.write)
else:
    c.retrlines("NLST")
c.quit()
`

// upload, download and list are the plain operations, in the working directory that a login begins in.
func upload(t *testing.T, s *FTP, address, local, name string) error {
	t.Helper()
	var err error
	if s.Kind == PyFTPdlib && s.o.TLS != Plain {
		_, err = runFtplib(t, s, address, "STOR", name, local)
	} else {
		_, err = curl(t, s, address, name, "--insecure", "--upload-file", local)
	}
	return err
}

func download(t *testing.T, s *FTP, address, name string) (string, error) {
	t.Helper()
	if s.Kind == PyFTPdlib && s.o.TLS != Plain {
		return runFtplib(t, s, address, "RETR", name, "")
	}
	return curl(t, s, address, name, "--insecure")
}

func list(t *testing.T, s *FTP) (string, error) {
	t.Helper()
	if s.Kind == PyFTPdlib && s.o.TLS != Plain {
		return runFtplib(t, s, s.Address(), "NLST", "", "")
	}
	return curl(t, s, s.Address(), "", "--list-only")
}

func runFtplib(t *testing.T, s *FTP, address, verb, name, local string) (string, error) {
	t.Helper()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	return output(exec.CommandContext(t.Context(), "/usr/bin/python3", "-c", ftplib, s.o.TLS.String(), host, port, s.User, s.Password,
		s.Authority.File, verb, name, local))
}

// eachFTP runs a test on every kind of server and every way it speaks.
func eachFTP(t *testing.T, run func(t *testing.T, o FTPOptions)) {
	for _, kind := range FTPKinds() {
		for _, mode := range FTPModes(kind) {
			t.Run(kind.String()+"/"+mode.String(), func(t *testing.T) {
				t.Parallel()
				run(t, FTPOptions{Kind: kind, TLS: mode})
			})
		}
	}
}

func TestFTPUploadArrivesInDir(t *testing.T) {
	t.Parallel()
	eachFTP(t, func(t *testing.T, o FTPOptions) {
		started := time.Now()
		s := NewFTP(t, o)
		t.Logf("started in %v", time.Since(started))
		local := write(t, filepath.Join(t.TempDir(), "x"), 0o644, "hello")
		if err := upload(t, s, s.Address(), local, "there"); err != nil {
			t.Fatalf("upload: %v\n%s", err, s.Log())
		}
		if got := read(t, filepath.Join(s.Dir, "there")); got != "hello" {
			t.Errorf("the server has %q, want %q", got, "hello")
		}
		if got, err := download(t, s, s.Address(), "there"); err != nil || got != "hello" {
			t.Errorf("download: got %q, %v", got, err)
		}
		if got, err := list(t, s); err != nil || !slices.Contains(strings.Fields(got), "there") {
			t.Errorf("list: got %q, %v", got, err)
		}
		commands := s.Commands(t)
		for _, want := range []string{"USER pier", "STOR there", "RETR there"} {
			if !slices.Contains(commands, want) {
				t.Errorf("the commands are %q, want %q among them\n%s", commands, want, s.Log())
			}
		}
		if log := s.Log(); strings.Contains(log, s.Password) {
			t.Errorf("the log tells the password: %s", log)
		}
	})
}

func TestFTPOptions(t *testing.T) {
	t.Parallel()
	for _, kind := range FTPKinds() {
		for name, o := range map[string]FTPOptions{
			"one data port": {DataPorts: 2},
			"ipv6":          {Address: "::1"},
			"zone":          {Zone: "Europe/Istanbul"},
			"tls 1.2":       {TLS: Explicit, MaxTLS: tls12},
			"tls 1.3":       {TLS: Explicit, MinTLS: tls13},
			"rsa":           {TLS: Explicit, Certificate: CertificateOptions{RSA: true}},
			"no reuse":      {TLS: Explicit, NoReuse: true},
			"offered":       {TLS: Explicit, ClearToo: true},
			"idle over tls": {TLS: Explicit, Idle: 100 * time.Second, MaxClients: 3},
			"chroot, tmpfs": {Chroot: true, Size: 1 << 20},
		} {
			o.Kind = kind
			t.Run(kind.String()+"/"+name, func(t *testing.T) {
				t.Parallel()
				s := NewFTP(t, o)
				local := write(t, filepath.Join(t.TempDir(), "x"), 0o644, "hello")
				if err := upload(t, s, s.Address(), local, "there"); err != nil {
					t.Fatalf("upload: %v\n%s", err, s.Log())
				}
				if got := read(t, filepath.Join(s.Dir, "there")); got != "hello" {
					t.Errorf("the server has %q, want %q", got, "hello")
				}
			})
		}
	}
}

// TestFTPRefusals holds what the servers are made to refuse.
func TestFTPRefusals(t *testing.T) {
	t.Parallel()
	for _, kind := range FTPKinds() {
		for name, test := range map[string]struct {
			o    FTPOptions
			args []string
			want string // in curl's words or the server's
		}{
			"read only":           {FTPOptions{ReadOnly: true}, []string{"--upload-file", "/etc/passwd"}, "55"},
			"full disk":           {FTPOptions{Size: 1 << 16}, []string{"--upload-file", "/bin/ls"}, "("},
			"tls 1.2 is the last": {FTPOptions{TLS: Explicit, MaxTLS: tls12}, []string{"--tlsv1.3"}, "(35)"},
			"tls 1.3 only":        {FTPOptions{TLS: Explicit, MinTLS: tls13}, []string{"--tls-max", "1.2"}, "(35)"},
			"expired":             {FTPOptions{TLS: Explicit, Certificate: CertificateOptions{NotAfter: time.Now().Add(-time.Hour)}}, nil, "expired"},
			"self-signed":         {FTPOptions{TLS: Explicit, Certificate: CertificateOptions{SelfSigned: true}}, nil, "self"},
			"another name":        {FTPOptions{TLS: Explicit, Certificate: CertificateOptions{Name: "elsewhere.test"}}, nil, "SSL"},
			"wrong password":      {FTPOptions{}, []string{"--user", "pier:wrong"}, "(67)"},
		} {
			t.Run(kind.String()+"/"+name, func(t *testing.T) {
				t.Parallel()
				test.o.Kind = kind
				s := NewFTP(t, test.o)
				out, err := curl(t, s, s.Address(), "", test.args...)
				if err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("got %q, %v, want an error with %q\n%s", out, err, test.want, s.Log())
				}
			})
		}
	}
}

// TestFTPDemandsTLS holds that a server with TLS takes no password in the clear, unless told to.
func TestFTPDemandsTLS(t *testing.T) {
	t.Parallel()
	for _, kind := range FTPKinds() {
		for _, clear := range []bool{false, true} {
			t.Run(fmt.Sprintf("%v/%v", kind, clear), func(t *testing.T) {
				t.Parallel()
				s := NewFTP(t, FTPOptions{Kind: kind, TLS: Explicit, ClearToo: clear})
				s.o.TLS = Plain // for curl
				if _, err := curl(t, s, s.Address(), ""); (err == nil) != clear {
					t.Errorf("login in the clear: %v, want it taken: %v\n%s", err, clear, s.Log())
				}
			})
		}
	}
}

func TestFTPClientCertificate(t *testing.T) {
	t.Parallel()
	for _, kind := range []FTPKind{Vsftpd, ProFTPD} {
		t.Run(kind.String(), func(t *testing.T) {
			t.Parallel()
			s := NewFTP(t, FTPOptions{Kind: kind, TLS: Explicit, ClientCert: true, MaxTLS: tls12})
			if _, err := curl(t, s, s.Address(), ""); err == nil {
				t.Errorf("a client without a certificate is let in\n%s", s.Log())
			}
			mine := s.Authority.Client(t, "mine")
			if _, err := curl(t, s, s.Address(), "", "--cert", mine.File, "--key", mine.KeyFile); err != nil {
				t.Errorf("with a certificate: %v\n%s", err, s.Log())
			}
		})
	}
}

// greet connects and reads the greeting within limit. The connection stands until the test ends.
func greet(t *testing.T, address string, limit time.Duration) (string, error) {
	t.Helper()
	c, err := net.DialTimeout("tcp", address, limit)
	if err != nil {
		return "", err
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(limit)); err != nil {
		return "", err
	}
	text := make([]byte, 3)
	n, err := c.Read(text)
	return string(text[:n]), err
}

func TestFTPStopContKillRestart(t *testing.T) {
	t.Parallel()
	for _, kind := range FTPKinds() {
		t.Run(kind.String(), func(t *testing.T) {
			t.Parallel()
			s := NewFTP(t, FTPOptions{Kind: kind})
			fine := func(when string) {
				t.Helper()
				if got, err := greet(t, s.Address(), process.Patience); got != "220" {
					t.Fatalf("%s: greeted by %q, %v\n%s", when, got, err, s.Log())
				}
			}
			fine("started")
			if n := s.Sessions(t); n != 1 {
				t.Errorf("%d sessions, want 1", n)
			}
			s.KillSessions(t)
			if n := s.Sessions(t); n != 0 {
				t.Errorf("%d sessions after they were killed", n)
			}
			fine("without its sessions")
			s.Stop(t)
			if got, err := greet(t, s.Address(), 200*time.Millisecond); !os.IsTimeout(err) {
				t.Errorf("stopped: greeted by %q, %v; want a timeout", got, err)
			}
			s.Cont(t)
			fine("let go on")
			s.Kill(t)
			if got, err := greet(t, s.Address(), process.Patience); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("killed: greeted by %q, %v; want connection refused", got, err)
			}
			s.Restart(t)
			fine("started again")
			s.ChangeCertificate(t, CertificateOptions{})
			fine("with another certificate")
		})
	}
}

func TestFTPMaxClients(t *testing.T) {
	t.Parallel()
	for _, kind := range FTPKinds() {
		t.Run(kind.String(), func(t *testing.T) {
			t.Parallel()
			s := NewFTP(t, FTPOptions{Kind: kind, MaxClients: 2})
			var stands []net.Conn
			for range 2 {
				stands = append(stands, login(t, s))
			}
			if out, err := curl(t, s, s.Address(), ""); err == nil {
				t.Errorf("a third session is let in: %q", out)
			}
			for _, c := range stands {
				if got := talk(t, c, "NOOP"); !strings.HasPrefix(got, "2") {
					t.Errorf("one of the first two got %q", got)
				}
			}
		})
	}
}

// login logs in by hand.
func login(t *testing.T, s *FTP) net.Conn {
	t.Helper()
	c, err := net.DialTimeout("tcp", s.Address(), process.Patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	talk(t, c, "")
	talk(t, c, "USER "+s.User)
	if got := talk(t, c, "PASS "+s.Password); !strings.HasPrefix(got, "230") {
		t.Fatalf("login: %q\n%s", got, s.Log())
	}
	return c
}

// talk sends a command, "" for none, and returns the final line of the reply.
func talk(t *testing.T, c net.Conn, command string) string {
	t.Helper()
	if err := c.SetDeadline(time.Now().Add(process.Patience)); err != nil {
		t.Fatal(err)
	}
	if command != "" {
		fmt.Fprintf(c, "%s\r\n", command)
	}
	var text []byte
	for {
		b := make([]byte, 1)
		if _, err := c.Read(b); err != nil {
			t.Fatalf("%s: %v behind %q", command, err, text)
		}
		text = append(text, b...)
		lines := strings.Split(string(text), "\r\n")
		if len(lines) < 2 {
			continue
		}
		if last := lines[len(lines)-2]; lines[len(lines)-1] == "" && len(last) > 3 && last[3] == ' ' && last[0] != ' ' {
			return last
		}
	}
}

func TestFTPThroughLink(t *testing.T) {
	t.Parallel()
	eachFTP(t, func(t *testing.T, o FTPOptions) {
		s := NewFTP(t, o)
		l := link.New(t, link.Options{RoundTrip: time.Millisecond})
		address := s.Through(t, l)
		write(t, filepath.Join(s.Dir, "x"), 0o644, "%s", strings.Repeat("x", 100_000))
		count := l.Meter()
		if got, err := download(t, s, address, "x"); err != nil || len(got) != 100_000 {
			t.Fatalf("download: got %d bytes, %v\n%s", len(got), err, s.Log())
		}
		if got := count(); got.Connections != 2 || got.ToClient < 100_000 || got.Flights < 5 {
			t.Errorf("%v; want 2 connections, 100000 bytes to the client and many flights", got)
		}
	})
}

func TestFTPIdleSessionsAreEnded(t *testing.T) {
	t.Parallel()
	for _, kind := range []FTPKind{Vsftpd, ProFTPD, PyFTPdlib} {
		t.Run(kind.String(), func(t *testing.T) {
			t.Parallel()
			s := NewFTP(t, FTPOptions{Kind: kind, Idle: time.Second})
			c := login(t, s)
			if got := talk(t, c, ""); !strings.HasPrefix(got, "421") {
				t.Errorf("an idle session is told %q, want 421", got)
			}
		})
	}
}

func TestFTPNothingOutlivesTheTest(t *testing.T) {
	t.Parallel()
	for _, kind := range FTPKinds() {
		t.Run(kind.String(), func(t *testing.T) {
			t.Parallel()
			var s *FTP
			t.Run("server", func(t *testing.T) {
				s = NewFTP(t, FTPOptions{Kind: kind, Size: 1 << 20})
				login(t, s)
			})
			if _, err := greet(t, s.Address(), time.Second); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("connect after the test: %v, want connection refused", err)
			}
			if left := s.space.members(); len(left) > 0 {
				t.Errorf("still there: %+v", left)
			}
			if _, err := os.Stat(filepath.Dir(s.etc)); !os.IsNotExist(err) {
				t.Errorf("its directory: %v, want it gone", err)
			}
		})
	}
}
