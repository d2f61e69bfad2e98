package hostile

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"pierfs/backends"
	"pierfs/conncfg"
	"pierfs/integration/servers"
)

// targetFTP is the connection to s, as a definition makes it.
func targetFTP(s *FTPServer) conncfg.Target {
	return conncfg.Target{
		Name: "hostile", Environment: "Test", Protocol: conncfg.FTP, Host: s.Host, Port: s.Port, Username: s.User,
		Password: conncfg.NewSecret(s.Password), WorkingDir: s.Root, ConnectTimeout: timeout, SocketTimeout: timeout, RetryCount: retries,
		Encoding: "utf-8", MaxSessions: 2,
	}
}

// connectFTP is connect for FTP.
func connectFTP(t *testing.T, s *FTPServer, f func(*connection)) {
	t.Helper()
	connectTo(t, targetFTP(s), f)
}

// patientFTP is connectFTP where all must go well, however slow the machine.
func patientFTP(t *testing.T, s *FTPServer, f func(*connection)) {
	t.Helper()
	connectTo(t, patient(targetFTP(s)), f)
}

// patient gives a target all the time in the world.
func patient(target conncfg.Target) conncfg.Target {
	target.ConnectTimeout, target.SocketTimeout = 30*time.Second, 30*time.Second
	return target
}

// private is what a server needs for TLS, and what its clients need to believe it.
type private struct {
	authority *servers.Authority
	config    *tls.Config
}

func newPrivate(t *testing.T) *private {
	t.Helper()
	p := &private{authority: servers.NewAuthority(t, t.TempDir())}
	p.config = p.with(t, servers.CertificateOptions{})
	return p
}

// with returns a configuration with another certificate.
func (p *private) with(t *testing.T, o servers.CertificateOptions) *tls.Config {
	t.Helper()
	c := p.authority.Server(t, fmt.Sprintf("server-%d", time.Now().UnixNano()), "127.0.0.1", o)
	pair, err := tls.LoadX509KeyPair(c.File, c.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}}
}

// target is the connection to s over TLS.
func (p *private) target(s *FTPServer) conncfg.Target {
	target := targetFTP(s)
	target.Protocol = conncfg.FTPS
	target.TLS = conncfg.TLS{CAFile: p.authority.File, MinVersion: tls.VersionTLS12, Implicit: s.how().Implicit}
	return target
}

// furnishFTP puts what the calls work on into the working directory.
func furnishFTP(s *FTPServer) {
	s.Put("file", File{Data: "abc", Mtime: 1_700_000_000})
	s.Put("old", File{Data: "old content", Mtime: 1_700_000_000})
	s.Put("dir/a", File{Mtime: 1_700_000_000})
	s.Put("dir/b", File{Mtime: 1_700_000_000})
	s.Put("empty", Dir())
}

// ftpCall is one way to use a Backend over FTP, and the commands that it cannot do without, be it over MLST or LIST.
type ftpCall struct {
	name  string
	needs []string
	do    func(context.Context, backends.Backend) error
	truth func(*FTPServer) error // asked when do returned nil; nil where a server's word cannot be checked
	steps int                    // calls of the Backend, each with a budget of its own; 0 is one
}

// ftpHolds returns what must be so of an upload to name.
func ftpHolds(name, want string) func(*FTPServer) error {
	return func(s *FTPServer) error {
		if f, ok := s.Get(name); !ok || f.Data != want {
			return untrue("the server has %d bytes (%v), want %d", len(f.Data), ok, len(want))
		}
		return nil
	}
}

var ftpCalls = []ftpCall{
	{"stat", nil, func(ctx context.Context, b backends.Backend) error {
		info, err := b.Stat(ctx, "file")
		if err == nil && (info.Size != 3 || !info.Mode.IsRegular()) {
			err = untrue("size %d, mode %v", info.Size, info.Mode)
		}
		return err
	}, nil, 0},
	{"list", []string{"MLSD"}, func(ctx context.Context, b backends.Backend) error {
		names, err := list(ctx, b, "dir")
		if err == nil && !slices.Equal(names, []string{"a", "b"}) {
			err = untrue("names %q", names)
		}
		return err
	}, nil, 0},
	{"read", []string{"RETR"}, func(ctx context.Context, b backends.Backend) error {
		got, err := read(ctx, b, "file", 100)
		if err == nil && got != "abc" {
			err = untrue("content %q", got)
		}
		return err
	}, nil, 2},
	{"create", []string{"STOR", "RNFR", "RNTO"}, func(ctx context.Context, b backends.Backend) error {
		return upload(ctx, b, "new", content, backends.WriteMode{TempName: ".new.part", Perm: 0o644})
	}, ftpHolds("new", content), 3},
	{"replace", []string{"STOR", "RNFR", "RNTO"}, func(ctx context.Context, b backends.Backend) error {
		return upload(ctx, b, "old", content, backends.WriteMode{TempName: ".old.part", Perm: 0o644})
	}, ftpHolds("old", content), 3},
	{"append", []string{"APPE"}, func(ctx context.Context, b backends.Backend) error {
		w, err := b.Update(ctx, "file")
		if err != nil {
			return err
		}
		return finish(ctx, w, content, 3)
	}, ftpHolds("file", "abc"+content), 3},
	{"mkdir", []string{"MKD"}, func(ctx context.Context, b backends.Backend) error { return b.Mkdir(ctx, "made", 0o755) }, nil, 0},
	{"remove", []string{"DELE"}, func(ctx context.Context, b backends.Backend) error { return b.Remove(ctx, "dir/a") }, nil, 0},
	{"rmdir", []string{"RMD"}, func(ctx context.Context, b backends.Backend) error { return b.Rmdir(ctx, "empty") }, nil, 0},
	{"rename", []string{"RNFR", "RNTO"}, func(ctx context.Context, b backends.Backend) error {
		return b.Rename(ctx, "dir/b", "other", backends.Replace)
	}, nil, 0},
	{"setattr", []string{"MFMT"}, func(ctx context.Context, b backends.Backend) error {
		when := time.Unix(1_600_000_000, 0)
		_, err := b.SetAttr(ctx, "old", backends.Attr{ModTime: &when})
		return err
	}, nil, 0},
}

// does calls one of the calls within its budget.
func (c *connection) doesFTP(s *FTPServer, call ftpCall) error {
	c.t.Helper()
	budget := time.Duration(max(1, call.steps))*c.limit + slack
	err := c.within(budget, call.name, func(ctx context.Context) error { return call.do(ctx, c) })
	if err == nil && call.truth != nil {
		if lie := call.truth(s); lie != nil {
			c.t.Errorf("%s succeeded, but %v", call.name, lie)
		}
	}
	return err
}

// settles fails the test unless f, which asks a server that is honest again, soon returns nil; a lie is an error at once.
func (c *connection) settles(what string, f func(context.Context) error) {
	c.t.Helper()
	if err := c.within(10*time.Second, what, func(ctx context.Context) error {
		for {
			err := f(ctx)
			if err == nil || ctx.Err() != nil || errors.Is(err, errUntrue) {
				return err
			}
			pause(ctx)
		}
	}); err != nil {
		c.t.Errorf("the server is honest again, and %s: %v", what, err)
	}
}

// verbs are all that a client of this server may send.
func verbs() []string {
	return strings.Fields("AUTH PBSZ PROT USER PASS ACCT FEAT OPTS SYST TYPE NOOP PWD CWD REST SITE EPSV PASV EPRT PORT RETR STOR APPE LIST " +
		"MLSD NLST MLST SIZE MDTM MFMT DELE RMD MKD RNFR RNTO STAT")
}

// strays are the commands that named something outside of the working directory, or by a path that is not absolute (of which a
// server may make options), and those that no client of ours sends, as REST before an upload.
func (s *FTPServer) strays() []Command {
	var strays []Command
	rest := false // the command before gave an offset that counts
	for _, c := range s.Commands() {
		if rest && (c.Verb == "STOR" || c.Verb == "APPE") {
			strays = append(strays, c)
		}
		rest = c.Verb == "REST" && c.Arg != "0"
		known := slices.Contains(verbs(), c.Verb) || slices.Contains([]string{"QUIT", "ABOR", "HASH", "AVBL"}, c.Verb)
		name := ""
		switch c.Verb {
		case "MLST", "MLSD", "SIZE", "MDTM", "RETR", "STOR", "APPE", "DELE", "RMD", "MKD", "RNFR", "RNTO", "CWD":
			name = c.Arg
		case "MFMT":
			_, name, _ = strings.Cut(c.Arg, " ")
		}
		if c.Verb == "LIST" {
			name = strings.TrimPrefix(c.Arg, "-a ")
		}
		inside := name == "" || isProof(c) || path.IsAbs(name) && (s.abs(name) == s.Root || strings.HasPrefix(s.abs(name), s.Root+"/"))
		if !known || !inside {
			strays = append(strays, c)
		}
	}
	return strays
}

// isProof reports whether c asks for what no server has, to see whether names with line ends reach it.
func isProof(c Command) bool { return c.Verb == "CWD" && (c.Arg == "/\x00" || c.Arg == "/\r.") }

// TestFTPServerIsHonest holds that the server does what it is asked for when nothing else is told: else the tests of this
// package prove nothing.
func TestFTPServerIsHonest(t *testing.T) {
	t.Parallel()
	p := newPrivate(t)
	for name, m := range map[string]FTPManner{
		"MLST":             {},
		"LIST":             {Greeting: ListGreeting, Features: ListFeatures()},
		"nothing":          {Features: []string{}},
		"explicit":         {TLS: p.config},
		"implicit":         {TLS: p.config, Implicit: true},
		"LIST over TLS":    {TLS: p.config, Greeting: ListGreeting, Features: ListFeatures()},
		"MLST, sequential": {Greeting: "220 ProFTPD 1.3.8 Server (Debian)"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := NewFTP(t, m)
			furnishFTP(s)
			target := targetFTP(s)
			if m.TLS != nil {
				target = p.target(s)
			}
			connectTo(t, patient(target), func(c *connection) {
				for _, call := range ftpCalls {
					if call.name == "setattr" && m.Features != nil {
						continue // MFMT is not among them
					}
					if err := c.doesFTP(s, call); err != nil {
						t.Errorf("%s: %v", call.name, err)
					}
				}
				for _, name := range []string{"new", "empty"} {
					_, err := c.Stat(t.Context(), name)
					if want := map[string]bool{"new": true}[name]; (err == nil) != want {
						t.Errorf("at the end, stat %s: %v", name, err)
					}
				}
				if _, err := c.Stat(t.Context(), "dir/a"); !os.IsNotExist(err) && backends.Errno(err) == 0 {
					t.Errorf("stat of a name that was removed: %v", err)
				}
			})
			given, overheard := s.Passwords()
			if given == 0 || (overheard > 0) != (m.TLS == nil) {
				t.Errorf("the password was given %d times, %d of them in the clear", given, overheard)
			}
			if strays := s.strays(); len(strays) > 0 {
				t.Errorf("the server was sent %q", strays)
			}
		})
	}
}
