package hostile

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pierfs/backends"
	"pierfs/conncfg"
	"pierfs/integration/servers"
)

// TestNoServerOfFTP: whatever answers on the port in place of FTP costs an error in time, and never the password.
func TestNoServerOfFTP(t *testing.T) {
	t.Parallel()
	drip := time.NewTicker(20 * time.Millisecond)
	t.Cleanup(drip.Stop)
	for name, wire := range map[string]func(*Wire) net.Conn{
		"nothing":                 Says(""),
		"end":                     SaysAndCuts(""),
		"half a greeting":         Says("22"),
		"greeting without an end": Says("220 ready"),
		"announced for ever":      SaysForEver("120 soon\r\n"),
		"announced and nothing":   Says("120 in ten minutes\r\n"),
		"continued for ever":      SaysForEver("220-hello\r\n"),
		"a line without end":      SaysForEver("2"),
		"zeros without end":       SaysForEver("\x00"),
		"line feeds":              SaysForEver("\n"),
		"full":                    SaysAndCuts("421 too many users\r\n"),
		"full and connected":      Says("421 too many users\r\n"),
		"refused":                 SaysAndCuts("530 not you\r\n"),
		"refused with escapes":    SaysAndCuts("530 \x1b]0;pwned\a\u009b31m\r\n"),
		"code of no kind":         SaysAndCuts("999 what\r\n"),
		"greeting one byte a tick": func(w *Wire) net.Conn {
			return DripsGreeting(drip.C)(w)
		},
		"ssh":            Says("SSH-2.0-OpenSSH_9.2p1\r\n"),
		"http":           SaysAndCuts("HTTP/1.1 400 Bad Request\r\n\r\n"),
		"smtp that ends": SaysAndCuts("554 no\r\n"),
		"tls alert":      SaysAndCuts("\x15\x03\x01\x00\x02\x02\x28"),
	} {
		for _, protocol := range []conncfg.Protocol{conncfg.FTP, conncfg.FTPS} {
			for _, implicit := range []bool{false, true} {
				if implicit && protocol == conncfg.FTP {
					continue
				}
				t.Run(fmt.Sprintf("%s/%s/%v", name, protocol, implicit), func(t *testing.T) {
					t.Parallel()
					s := NewFTP(t, FTPManner{Wire: wire})
					target := targetFTP(s)
					target.Protocol, target.TLS.Implicit, target.TLS.MinVersion = protocol, implicit, tls.VersionTLS12
					connectTo(t, target, func(c *connection) {
						c.refused("stat", func(ctx context.Context) error { return stat(ctx, c) })
						if n := c.log.size(); n > 64<<10 {
							t.Errorf("the log has %d bytes of it", n)
						}
					})
					if n, _ := s.Passwords(); n != 0 {
						t.Errorf("the password was given away %d times", n)
					}
				})
			}
		}
	}
}

// TestOddFTPLogins: what real servers say out of the ordinary is no reason to fail.
func TestOddFTPLogins(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		m       FTPManner
		account string
	}{
		"announced":              {FTPManner{Greeting: "120 in a moment\r\n220 ready"}, ""},
		"greeting of many lines": {FTPManner{Greeting: "220-hello\r\n  220 not yet\r\n220-\r\nnor here\r\n220 ready"}, ""},
		"greeting without words": {FTPManner{Greeting: "220"}, ""},
		"password superfluous":   {FTPManner{Rules: []FTPRule{FTPReplies("202 superfluous", "PASS")}}, ""},
		"user is enough":         {FTPManner{Rules: []FTPRule{FTPReplies("230 in", "USER")}}, ""},
		"user is enough, 232":    {FTPManner{Rules: []FTPRule{FTPReplies("232 in", "USER")}}, ""},
		"account":                {FTPManner{Rules: []FTPRule{FTPReplies("332 account?", "PASS"), FTPReplies("230 in", "ACCT")}}, "payroll"},
		"account after the user": {FTPManner{Rules: []FTPRule{FTPReplies("332 account?", "USER"), FTPReplies("230 in", "ACCT")}}, "payroll"},
		"no OPTS":                {FTPManner{Rules: []FTPRule{FTPReplies("500 what?", "OPTS")}}, ""},
		"OPTS 504":               {FTPManner{Rules: []FTPRule{FTPReplies("504 no such", "OPTS")}}, ""},
		"no FEAT":                {FTPManner{Features: []string{}}, ""},
		"FEAT without blanks":    {FTPManner{Rules: []FTPRule{FTPReplies("211-Features:\r\nMLST type*;size*;modify*;\r\nSIZE\r\nMDTM\r\n211 End", "FEAT")}}, ""},
		"FEAT with bare LF":      {FTPManner{Rules: []FTPRule{FTPReplies("211-Features:\n MLST type*;size*;modify*;\n SIZE\n MDTM\n211 End", "FEAT")}}, ""},
		"FEAT with codes":        {FTPManner{Rules: []FTPRule{FTPReplies("211-Features:\r\n211-MLST type*;size*;modify*;\r\n211-SIZE\r\n211 End", "FEAT")}}, ""},
		"FEAT of one line":       {FTPManner{Rules: []FTPRule{FTPReplies("211 none", "FEAT")}}, ""},
		"no SYST":                {FTPManner{Rules: []FTPRule{FTPReplies("502 no", "SYST")}}, ""},
		"no TYPE":                {FTPManner{Rules: []FTPRule{FTPReplies("502 no", "TYPE")}}, ""},
		"no PWD":                 {FTPManner{Rules: []FTPRule{FTPReplies("502 no", "PWD")}}, ""},
		"PWD without quotes":     {FTPManner{Rules: []FTPRule{FTPReplies("257 is current", "PWD")}}, ""},
		"CWD 200":                {FTPManner{Rules: []FTPRule{FTPDoes("200 ok", "CWD")}}, ""},
		"pasv without brackets":  {FTPManner{Rules: []FTPRule{FTPReplies("500 no", "EPSV"), pasvIn(" =%s")}}, ""},
		"pasv in words":          {FTPManner{Rules: []FTPRule{FTPReplies("500 no", "EPSV"), pasvIn(" Entering passive mode %s")}}, ""},
		"greets as another":      {FTPManner{Greeting: "220 \xe4\xf6\xfc \xff"}, ""},
		"EPSV fails once":        {FTPManner{Rules: []FTPRule{FTPOnce(FTPReplies("425 no", "EPSV"), "EPSV")}}, ""},
		"hangs up on the first":  {FTPManner{Rules: []FTPRule{FTPOnce(FTPCuts("USER"), "USER")}}, ""},
		"full at first":          {FTPManner{Rules: []FTPRule{FTPOnce(FTPReplies("421 full", "USER"), "USER")}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := NewFTP(t, test.m)
			furnishFTP(s)
			target := targetFTP(s)
			target.FTP.Account = conncfg.NewSecret(test.account)
			if strings.Contains(name, "first") {
				target.RetryCount = 3
			}
			connectTo(t, patient(target), func(c *connection) {
				c.warm()
				for _, call := range ftpCalls {
					if call.name == "setattr" {
						continue // not among all these features
					}
					if err := c.doesFTP(s, call); err != nil {
						t.Errorf("%s: %v", call.name, err)
					}
				}
			})
			if test.account != "" && !slices.Contains(s.Commands(), Command{"ACCT", test.account}) {
				t.Errorf("the account was not told: %q", s.Commands())
			}
		})
	}
}

// TestFTPWorkingDirWithQuotes: quotes in a path are doubled in the reply to PWD (RFC 959, appendix II).
func TestFTPWorkingDirWithQuotes(t *testing.T) {
	t.Parallel()
	for _, name := range []string{`a"b`, `"`, `"quoted"`, `a""b`, `x" is cwd "y`} {
		s := NewFTP(t, FTPManner{})
		s.Root += "/" + name
		furnishFTP(s)
		patientFTP(t, s, func(c *connection) {
			for _, call := range ftpCalls {
				if err := c.doesFTP(s, call); err != nil {
					t.Errorf("in %q, %s: %v", name, call.name, err)
				}
			}
		})
	}
}

// pasvIn answers PASV in words of its own, in which %s is six numbers.
func pasvIn(words string) FTPRule {
	return FTPOn(func(x *FTPExchange) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			x.Reply("425 no")
			return
		}
		x.d.listener = l
		port := l.Addr().(*net.TCPAddr).Port
		x.Reply("227" + fmt.Sprintf(words, fmt.Sprintf("127,0,0,1,%d,%d", port>>8, port&0xff)))
	}, "PASV")
}

// TestFTPCutAtEveryByte: a control connection that ends at whatever byte of the login or of the first answers is a passing
// trouble. The call ends in time, and the next ones work once connections hold.
func TestFTPCutAtEveryByte(t *testing.T) {
	t.Parallel()
	eachBreak(t, func(t *testing.T, n int, secure *private) {
		s := NewFTP(t, FTPManner{Wire: CutsAfter(n), TLS: secure.config})
		furnishFTP(s)
		connectTo(t, secure.targetOr(s), func(c *connection) {
			err := c.bounded("stat", func(ctx context.Context) error { return stat(ctx, c) })
			if err == nil {
				return // so many bytes are enough for a login and a stat
			}
			if s.Asked("USER") > 0 && s.Asked("FEAT") == 0 {
				return // to hang up on the password is how some servers refuse it, and it must not be tried again then
			}
			s.Behave(FTPManner{TLS: secure.config})
			c.recovers()
		})
	})
}

// TestFTPSilenceAtEveryByte is the same with a server that stays connected and says no more.
func TestFTPSilenceAtEveryByte(t *testing.T) {
	t.Parallel()
	eachBreak(t, func(t *testing.T, n int, secure *private) {
		s := NewFTP(t, FTPManner{Wire: StopsAfter(n), TLS: secure.config})
		furnishFTP(s)
		connectTo(t, secure.targetOr(s), func(c *connection) {
			if err := c.bounded("stat", func(ctx context.Context) error { return stat(ctx, c) }); err == nil {
				return
			}
			s.Behave(FTPManner{TLS: secure.config})
			c.recovers()
		})
	})
}

// targetOr is target, or a connection in the clear where the server has no TLS.
func (p *private) targetOr(s *FTPServer) conncfg.Target {
	if p.config == nil {
		return targetFTP(s)
	}
	return p.target(s)
}

// eachBreak runs a test for the bytes at which to break off what a server sends until a first stat is answered: each one in
// the clear, and some over TLS.
func eachBreak(t *testing.T, test func(t *testing.T, n int, secure *private)) {
	t.Helper()
	secure := newPrivate(t)
	for name, p := range map[string]*private{"clear": {}, "TLS": secure} {
		sent := new(atomic.Int64)
		s := NewFTP(t, FTPManner{Wire: Counts(sent), TLS: p.config})
		furnishFTP(s)
		connectTo(t, p.targetOr(s), func(c *connection) { c.warm() })
		whole, by := int(sent.Load()), 1
		if p.config != nil {
			by = 23
		}
		if whole < 300 {
			t.Fatalf("a login and a stat take %d bytes, want more than 300", whole)
		}
		for n := range steps(0, whole, by) {
			t.Run(fmt.Sprintf("%s/%d", name, n), func(t *testing.T) {
				t.Parallel()
				test(t, n, p)
			})
		}
	}
}

// TestFTPPasswordRefused: a refused password is told once and never again by itself.
func TestFTPPasswordRefused(t *testing.T) {
	t.Parallel()
	for name, reply := range map[string]string{"530": "530 Login incorrect.", "550": "550 no", "many lines": "530-no\r\n530 no", "501": "501 no"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := NewFTP(t, FTPManner{Rules: []FTPRule{FTPReplies(reply, "PASS")}})
			connectFTP(t, s, func(c *connection) {
				for range 3 {
					err := c.refused("stat", func(ctx context.Context) error { return stat(ctx, c) })
					if backends.ClassOf(err) != backends.Refused || backends.CauseOf(err) != backends.CauseAuth {
						t.Errorf("class %v, cause %q of %v; want refused, %q", backends.ClassOf(err), backends.CauseOf(err), err, backends.CauseAuth)
					}
				}
			})
			if n, _ := s.Passwords(); n > 3 {
				t.Errorf("three calls told the password %d times", n)
			}
		})
	}
}

// TestFTPServerIsFull: 421 instead of a greeting, and 530 for a login that has worked before, mean that there are sessions
// enough; calls go on with those that stand.
func TestFTPServerIsFull(t *testing.T) {
	t.Parallel()
	for name, full := range map[string]FTPManner{
		"421":               {Wire: SaysAndCuts("421 too many users\r\n")},
		"530 after success": {Rules: []FTPRule{FTPReplies("530 421 too many", "PASS")}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := NewFTP(t, FTPManner{})
			furnishFTP(s)
			target := targetFTP(s)
			target.MaxSessions = 4
			connectTo(t, patient(target), func(c *connection) {
				c.warm()
				s.Behave(full)
				ended := make(chan error, 8)
				for n := range cap(ended) {
					go func() { // ends with its call
						ended <- c.within(c.limit, "a call beside others", func(ctx context.Context) error {
							if n%2 == 0 {
								return upload(ctx, c, fmt.Sprintf("new-%d", n), content, backends.WriteMode{TempName: fmt.Sprintf(".part-%d", n), Perm: 0o644})
							}
							_, err := read(ctx, c, "file", 3)
							return err
						})
					}()
				}
				for range cap(ended) {
					if err := <-ended; err != nil {
						t.Errorf("with one session: %v", err)
					}
				}
			})
		})
	}
}

// TestNoPasswordInTheClear is the ninth row of the threat table: whoever stands between cannot talk us out of TLS, and no
// certificate but the right one is shown a password.
// Holds rows 71, 72, 118 and 119 of the requirements.
func TestNoPasswordInTheClear(t *testing.T) {
	t.Parallel()
	p := newPrivate(t)
	weak := p.config.Clone()
	weak.MinVersion, weak.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	other := newPrivate(t)
	for name, m := range map[string]FTPManner{
		"no AUTH 500":         {Rules: []FTPRule{FTPReplies("500 what?", "AUTH")}},
		"no AUTH 502":         {Rules: []FTPRule{FTPReplies("502 no", "AUTH")}},
		"no AUTH 534":         {Rules: []FTPRule{FTPReplies("534 policy", "AUTH")}},
		"AUTH 200":            {Rules: []FTPRule{FTPReplies("200 fine", "AUTH")}},
		"AUTH 331":            {Rules: []FTPRule{FTPReplies("331 password?", "AUTH")}},
		"AUTH 230":            {Rules: []FTPRule{FTPReplies("230 logged in", "AUTH")}},
		"AUTH and silence":    {Rules: []FTPRule{FTPMute("AUTH")}},
		"AUTH and nothing":    {Rules: []FTPRule{FTPReplies("234 go on", "AUTH")}},
		"AUTH and text":       {Rules: []FTPRule{FTPReplies("234 go on\r\n331 password?\r\n230 in", "AUTH")}},
		"injected behind 234": {TLS: p.config, Rules: []FTPRule{injects("331 password?\r\n230 in\r\n")}},
		"login in greeting":   {Greeting: "230 logged in already"},
		"weak versions":       {TLS: weak},
		"another authority":   {TLS: other.config},
		"self-signed":         {TLS: p.with(t, servers.CertificateOptions{SelfSigned: true})},
		"expired":             {TLS: p.with(t, servers.CertificateOptions{NotAfter: time.Now().Add(-time.Hour)})},
		"another name":        {TLS: p.with(t, servers.CertificateOptions{Name: "elsewhere.test"})},
	} {
		for _, implicit := range []bool{false, true} {
			if implicit && m.TLS == nil || implicit && len(m.Rules) > 0 {
				continue
			}
			t.Run(fmt.Sprintf("%s/%v", name, implicit), func(t *testing.T) {
				t.Parallel()
				m.Implicit = implicit
				s := NewFTP(t, m)
				furnishFTP(s)
				connectTo(t, p.target(s), func(c *connection) {
					c.refused("stat", func(ctx context.Context) error { return stat(ctx, c) })
				})
				if n, _ := s.Passwords(); n != 0 {
					t.Errorf("the password was given away %d times", n)
				}
				if slices.ContainsFunc(s.Commands(), func(c Command) bool { return c.Verb == "USER" }) {
					t.Errorf("the user was told: %q", s.Commands())
				}
			})
		}
	}
}

// injects sends text in the clear in the same segment as the consent to TLS.
func injects(text string) FTPRule {
	return FTPOn(func(x *FTPExchange) {
		x.Send([]byte("234 AUTH TLS OK.\r\n" + text))
		x.d.secure(x.d.server.how().TLS)
	}, "AUTH")
}

// TestNoDataInTheClear: a server that refuses PROT P gets neither a listing nor a file, and content goes to nobody but to
// who has shown the certificate.
// Holds rows 71, 72, 118 and 119 of the requirements.
func TestNoDataInTheClear(t *testing.T) {
	t.Parallel()
	p := newPrivate(t)
	other := newPrivate(t)
	for name, m := range map[string]FTPManner{
		"PROT 534":              {TLS: p.config, Rules: []FTPRule{FTPReplies("534 policy", "PROT")}},
		"PROT 536":              {TLS: p.config, Rules: []FTPRule{FTPReplies("536 not supported", "PROT")}},
		"PROT 200, and clear":   {TLS: p.config, Rules: []FTPRule{FTPReplies("200 sure", "PROT")}},
		"data of another":       {TLS: p.config, DataTLS: other.config},
		"data of a self-signed": {TLS: p.config, DataTLS: p.with(t, servers.CertificateOptions{SelfSigned: true})},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := NewFTP(t, m)
			furnishFTP(s)
			connectTo(t, p.target(s), func(c *connection) {
				for _, call := range ftpCalls {
					if !slices.ContainsFunc(call.needs, func(v string) bool { return slices.Contains([]string{"RETR", "STOR", "MLSD", "APPE"}, v) }) {
						continue
					}
					if err := c.doesFTP(s, call); err == nil {
						t.Errorf("%s succeeded", call.name)
					}
				}
				if f, _ := s.Get("old"); f.Data != "old content" {
					t.Errorf("the old content is gone: %.40q", f.Data)
				}
			})
			if _, overheard := s.Passwords(); overheard != 0 {
				t.Errorf("the password was told in the clear %d times", overheard)
			}
			for _, name := range s.Names("") {
				if f, _ := s.Get(name); strings.Contains(f.Data, "pierfs!") {
					t.Errorf("%s has content that should have gone to nobody", name)
				}
			}
		})
	}
}

// TestFTPCertificateChange: another certificate at a reconnect that no authority vouches for is refused, and the password is
// not told.
func TestFTPCertificateChange(t *testing.T) {
	t.Parallel()
	p, other := newPrivate(t), newPrivate(t)
	s := NewFTP(t, FTPManner{TLS: p.config})
	furnishFTP(s)
	connectTo(t, patient(p.target(s)), func(c *connection) {
		c.warm()
		before, _ := s.Passwords()
		s.Behave(FTPManner{TLS: other.config})
		s.CutAll()
		err := c.refused("stat", func(ctx context.Context) error { return stat(ctx, c) })
		if backends.ClassOf(err) != backends.Refused {
			t.Errorf("class %v of %v, want refused", backends.ClassOf(err), err)
		}
		if now, _ := s.Passwords(); now != before {
			t.Errorf("the password was told to somebody else")
		}
		s.Behave(FTPManner{TLS: p.config})
	})
}

// TestNoInjectedCommand is the eighth row: line ends and NUL in a name, an account or a login never become a command.
func TestNoInjectedCommand(t *testing.T) {
	t.Parallel()
	for _, evil := range []string{"x\r\nDELE /home/pier/file", "x\nDELE file", "x\rDELE file", "x\x00DELE", "\r\nDELE file", "dir/x\r\nDELE file\r\ny"} {
		t.Run(fmt.Sprintf("%q", evil), func(t *testing.T) {
			t.Parallel()
			s := NewFTP(t, FTPManner{})
			furnishFTP(s)
			connectFTP(t, s, func(c *connection) {
				c.warm()
				ctx := t.Context()
				_, statErr := c.Stat(ctx, evil)
				_, listErr := list(ctx, c, evil)
				_, readErr := read(ctx, c, evil, 3)
				when := time.Unix(1_700_000_000, 0)
				_, setErr := c.SetAttr(ctx, evil, backends.Attr{ModTime: &when})
				for what, err := range map[string]error{
					"stat": statErr, "list": listErr, "read": readErr, "setattr": setErr, "mkdir": c.Mkdir(ctx, evil, 0o755),
					"create":    upload(ctx, c, evil, content, backends.WriteMode{TempName: "temp", Perm: 0o644}),
					"temp":      upload(ctx, c, "new", content, backends.WriteMode{TempName: evil, Perm: 0o644}),
					"remove":    c.Remove(ctx, evil),
					"rmdir":     c.Rmdir(ctx, evil),
					"rename":    c.Rename(ctx, evil, "y", backends.Replace),
					"rename to": c.Rename(ctx, "file", evil, backends.Replace),
				} {
					if err == nil {
						t.Errorf("%s succeeded", what)
					}
				}
			})
			if s.Asked("DELE") > 1 || len(s.strays()) > 0 { // one may be of the temporary name of a create that failed
				t.Errorf("the server was sent %q", s.strays())
			}
			if f, ok := s.Get("file"); !ok || f.Data != "abc" {
				t.Errorf("the file is %.40q, %v", f.Data, ok)
			}
		})
		t.Run(fmt.Sprintf("login %q", evil), func(t *testing.T) {
			t.Parallel()
			for field, change := range map[string]func(*conncfg.Target){
				"user":     func(target *conncfg.Target) { target.Username = evil },
				"password": func(target *conncfg.Target) { target.Password = conncfg.NewSecret(evil) },
				"account":  func(target *conncfg.Target) { target.FTP.Account = conncfg.NewSecret(evil) },
				"dir":      func(target *conncfg.Target) { target.WorkingDir = "/" + evil },
			} {
				s := NewFTP(t, FTPManner{Rules: []FTPRule{FTPReplies("332 account?", "PASS"), FTPReplies("230 in", "ACCT")}})
				furnishFTP(s)
				target := targetFTP(s)
				target.FTP.Account = conncfg.NewSecret("payroll")
				change(&target)
				connectTo(t, target, func(c *connection) {
					if err := c.bounded("stat", func(ctx context.Context) error { return stat(ctx, c) }); err == nil {
						t.Errorf("stat succeeded with this %s", field)
					}
				})
				if s.Asked("DELE") > 0 {
					t.Errorf("by the %s a command was injected: %q", field, s.Commands())
				}
			}
		})
	}
}

// TestLineEndsAreProvenFirst: a name with a CR or an LF is sent to a server that says that it is vsftpd, and only when it has
// shown that it, and whoever stands in front of it, neither cuts nor splits nor cleans commands.
func TestLineEndsAreProvenFirst(t *testing.T) {
	t.Parallel()
	vsftpd := func(rules ...FTPRule) FTPManner {
		return FTPManner{Greeting: ListGreeting, Features: ListFeatures(), Rules: rules}
	}
	// changed answers a CWD as if its name were what change makes of it.
	changed := func(change func(string) string) FTPRule {
		return func(x *FTPExchange) bool {
			if x.Verb != "CWD" || change(x.Arg) == x.Arg {
				return false
			}
			x.Arg = change(x.Arg)
			x.Honest()
			return true
		}
	}
	for name, test := range map[string]struct {
		m     FTPManner
		bears bool
	}{
		"vsftpd":             {vsftpd(), true},
		"another server":     {FTPManner{}, false},
		"another that lists": {FTPManner{Greeting: "220 hello", Features: ListFeatures()}, false},
		"cuts at NUL":        {vsftpd(changed(func(name string) string { name, _, _ = strings.Cut(name, "\x00"); return name })), false},
		"drops NUL":          {vsftpd(changed(func(name string) string { return strings.ReplaceAll(name, "\x00", "") })), false},
		"cuts at CR":         {vsftpd(changed(func(name string) string { name, _, _ = strings.Cut(name, "\r"); return name })), false},
		"drops CR":           {vsftpd(changed(func(name string) string { return strings.ReplaceAll(name, "\r", "") })), false},
		"splits at CR": {vsftpd(FTPOn(func(x *FTPExchange) {
			x.Honest()
			if strings.Contains(x.Arg, "\r") {
				x.Reply("500 what?")
			}
		}, "CWD")), false},
		"hangs up at NUL": {vsftpd(func(x *FTPExchange) bool {
			odd := strings.Contains(x.Arg, "\x00")
			if odd {
				x.Cut()
			}
			return odd
		}), false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := NewFTP(t, test.m)
			furnishFTP(s)
			s.Put("cut\x00off", File{Data: "odd"}) // as it is sent
			s.Put("cut", File{Data: "precious"})
			proofs := func() (n int) {
				for _, command := range s.Commands() {
					if isProof(command) {
						n++
					}
				}
				return n
			}
			patientFTP(t, s, func(c *connection) {
				c.warm()
				for range 3 {
					asked := proofs()
					got, err := read(t.Context(), c, "cut\noff", 100)
					if test.bears && (err != nil || got != "odd") || !test.bears && backends.Errno(err) != syscall.EINVAL {
						t.Errorf("read %q, %v", got, err)
					}
					if asked > 0 && proofs() > asked {
						t.Error("it is asked for again")
					}
				}
				if err := c.Remove(t.Context(), "cut\noff"); test.bears != (err == nil) {
					t.Errorf("remove: %v", err)
				}
				for _, never := range []string{"cut\r\noff", "cut\r", "cut\r/x"} {
					if err := c.Remove(t.Context(), never); backends.Errno(err) != syscall.EINVAL {
						t.Errorf("remove %q: %v", never, err)
					}
				}
			})
			sent := 0
			for _, command := range s.Commands() {
				if strings.ContainsAny(command.Arg, "\r\x00") {
					sent++
				}
			}
			if !test.bears && sent > proofs() {
				t.Errorf("more than the proof was sent: %q", s.Commands())
			}
			if says := strings.Contains(test.m.Greeting, "vsFTPd"); says != (proofs() > 0) {
				t.Errorf("the proof was asked for %d times", proofs())
			}
			if f, ok := s.Get("cut"); !ok || f.Data != "precious" {
				t.Errorf("the other file is %q, %v", f.Data, ok)
			}
		})
	}
}

var errForeign = errors.New("somebody connected")

// TestNoForeignDataConnection is the seventh row: a server that names another host for a data connection makes us connect
// to nobody else.
func TestNoForeignDataConnection(t *testing.T) {
	t.Parallel()
	foreign, err := net.Listen("tcp", "127.66.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	met := make(chan error, 100)
	go func() { // ends with the listener
		for {
			c, err := foreign.Accept()
			if err != nil {
				return
			}
			met <- errForeign
			c.Close()
		}
	}()
	t.Cleanup(func() {
		foreign.Close()
		select {
		case err := <-met:
			t.Error(err)
		default:
		}
	})
	port := foreign.Addr().(*net.TCPAddr).Port
	for name, rules := range map[string][]FTPRule{
		"PASV":            {FTPReplies("500 no", "EPSV"), FTPReplies(fmt.Sprintf("227 Entering Passive Mode (127,66,0,1,%d,%d)", port>>8, port&0xff), "PASV")},
		"EPSV with host":  {FTPReplies(fmt.Sprintf("229 Extended (|1|127.66.0.1|%d|)", port), "EPSV")},
		"PASV of nowhere": {FTPReplies("500 no", "EPSV"), FTPReplies("227 Entering Passive Mode (10,1,2,3,4,5)", "PASV")},
	} {
		t.Run(name, func(t *testing.T) {
			s := NewFTP(t, FTPManner{Rules: rules})
			furnishFTP(s)
			connectFTP(t, s, func(c *connection) {
				for _, call := range ftpCalls {
					err := c.doesFTP(s, call)
					if err == nil && slices.Contains(call.needs, "RETR") && s.Asked("PASV") == 0 {
						t.Errorf("%s succeeded", call.name)
					}
				}
			})
		})
	}
}
