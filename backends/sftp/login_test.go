package sftp

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"pierfs/backends"
	"pierfs/integration/servers"
)

func text(s string) func() (string, error) { return func() (string, error) { return s, nil } }

// works fails the test unless b can list its working directory.
func works(t *testing.T, b *Backend) {
	t.Helper()
	for _, err := range b.List(t.Context(), "") {
		ok(t, err)
	}
}

// refuses checks that b cannot work for the given cause, that the class is right, and that a person is told what to do.
func refuses(t *testing.T, b *Backend, class backends.Class, cause backends.Cause) *backends.Error {
	t.Helper()
	_, err := b.Stat(t.Context(), "")
	e, is := errors.AsType[*backends.Error](err)
	switch {
	case !is:
		t.Fatalf("got %T %v, want a *backends.Error of cause %s", err, err, cause)
	case e.Class != class || e.Cause != cause:
		t.Fatalf("got %v, %q: %v, want %v, %q", e.Class, e.Cause, err, class, cause)
	case e.Hint == "":
		t.Errorf("%v has no hint", err)
	}
	return e
}

func TestLogin(t *testing.T) {
	s := servers.NewSSHD(t, servers.SSHOptions{})
	plain, locked := s.NewKey(t, servers.KeyOptions{}), s.NewKey(t, servers.KeyOptions{Passphrase: "long word"})
	old, rsa := s.NewKey(t, servers.KeyOptions{Type: "rsa", PEM: true, Passphrase: "long word"}), s.NewKey(t, servers.KeyOptions{Type: "rsa"})
	cert, unknown := s.NewKey(t, servers.KeyOptions{Certificate: true}), s.NewKey(t, servers.KeyOptions{Unknown: true})
	pem, err := os.ReadFile(plain.File)
	ok(t, err)
	socket := servers.NewAgent(t, plain)
	certSocket := servers.NewAgent(t, servers.Key{File: cert.File})
	for name, o := range map[string]Options{
		"password":                   {},
		"key":                        {PrivateKeyFile: plain.File},
		"key as text":                {PrivateKeyFile: "/nowhere", PrivateKey: text(string(pem))},
		"key with passphrase":        {PrivateKeyFile: locked.File, Passphrase: text("long word")},
		"RSA key":                    {PrivateKeyFile: rsa.File},
		"old RSA key and passphrase": {PrivateKeyFile: old.File, Passphrase: text("long word")},
		"certificate":                {PrivateKeyFile: cert.File, CertificateFile: cert.Certificate},
		"agent":                      {Agent: true, AgentSocket: socket},
		"certificate by agent":       {Agent: true, AgentSocket: certSocket, CertificateFile: cert.Certificate},
		"key refused, then password": {PrivateKeyFile: unknown.File, Password: text(s.Password)},
	} {
		t.Run(name, func(t *testing.T) { works(t, connect(t, s, o)) })
	}
	for name, c := range map[string]struct {
		o     Options
		cause backends.Cause
	}{
		"wrong password":               {Options{Password: text("wrong")}, backends.CauseAuth},
		"unknown key":                  {Options{PrivateKeyFile: unknown.File}, backends.CauseAuth},
		"key of a certificate, bare":   {Options{PrivateKeyFile: cert.File}, backends.CauseAuth},
		"passphrase missing":           {Options{PrivateKeyFile: locked.File}, backends.CauseKeyFile},
		"passphrase wrong":             {Options{PrivateKeyFile: locked.File, Passphrase: text("no")}, backends.CauseKeyFile},
		"key file missing":             {Options{PrivateKeyFile: "/nowhere"}, backends.CauseKeyFile},
		"agent missing":                {Options{Agent: true, AgentSocket: "/nowhere"}, backends.CauseKeyFile},
		"certificate of another's key": {Options{PrivateKeyFile: plain.File, CertificateFile: cert.Certificate}, backends.CauseKeyFile},
	} {
		t.Run(name, func(t *testing.T) {
			e := refuses(t, connect(t, s, c.o), backends.Refused, c.cause)
			if strings.Contains(e.Error(), s.Password) {
				t.Errorf("%v tells the password", e)
			}
		})
	}
}

func TestPasswordOverKeyboardInteractive(t *testing.T) {
	s := servers.NewSSHD(t, servers.SSHOptions{Auth: []string{"keyboard-interactive"}})
	works(t, connect(t, s, Options{}))
	refuses(t, connect(t, s, Options{Password: text("wrong")}), backends.Refused, backends.CauseAuth)
}

func TestMethodThatServerDoesNotOffer(t *testing.T) {
	s := servers.NewSSHD(t, servers.SSHOptions{Auth: []string{"publickey"}})
	e := refuses(t, connect(t, s, Options{}), backends.Refused, backends.CauseAuthMethod)
	if !strings.Contains(e.Error(), "publickey") {
		t.Errorf("%v does not tell what the server allows", e)
	}
}

func TestTwoFactorsOfKeyAndPassword(t *testing.T) {
	s := servers.NewSSHD(t, servers.SSHOptions{Config: []string{"AuthenticationMethods publickey,password"}})
	key := s.NewKey(t, servers.KeyOptions{})
	works(t, connect(t, s, Options{PrivateKeyFile: key.File, Password: text(s.Password)}))
}

func TestServerOfMany(t *testing.T) {
	s := servers.NewSSHD(t, servers.SSHOptions{Legacy: true})
	works(t, connect(t, s, Options{LegacyAlgorithms: true}))
	refuses(t, connect(t, s, Options{}), backends.Refused, backends.CauseAlgorithms)
}

// A wrong password is shown once: a second try by another method counts towards locking the account.
func TestWrongPasswordIsShownOnce(t *testing.T) {
	var tries atomic.Int64
	address := sshServer(t, &ssh.ServerConfig{
		PasswordCallback: func(ssh.ConnMetadata, []byte) (*ssh.Permissions, error) { tries.Add(1); return nil, errors.New("no") },
		KeyboardInteractiveCallback: func(_ ssh.ConnMetadata, ask ssh.KeyboardInteractiveChallenge) (*ssh.Permissions, error) {
			tries.Add(1)
			ask("", "", []string{"Password: "}, []bool{false})
			return nil, errors.New("no")
		},
	})
	refuses(t, trusting(t, address, Options{Password: text("wrong")}), backends.Refused, backends.CauseAuth)
	if tries.Load() != 1 {
		t.Errorf("the password was shown %d times, want once", tries.Load())
	}
}

func TestSeveralQuestionsAreNotAnswered(t *testing.T) {
	var answers atomic.Int64
	address := sshServer(t, &ssh.ServerConfig{
		KeyboardInteractiveCallback: func(_ ssh.ConnMetadata, ask ssh.KeyboardInteractiveChallenge) (*ssh.Permissions, error) {
			got, err := ask("", "", []string{"Password: ", "Token: "}, []bool{false, true})
			answers.Add(int64(len(got)))
			return nil, errors.Join(errors.New("no"), err)
		},
	})
	e := refuses(t, trusting(t, address, Options{Password: text("Canary")}), backends.Refused, backends.CauseAuthMethod)
	if answers.Load() > 0 || !strings.Contains(e.Error(), "2 questions") || strings.Contains(e.Error(), "Canary") {
		t.Errorf("answered %d, told %v", answers.Load(), e)
	}
}

// A server that hangs up when it is shown the password may just have been stopped; one that does it again refuses, and is
// not shown the password a third time.
func TestHangUpOnPassword(t *testing.T) {
	var tries, honest atomic.Int64
	var config *ssh.ServerConfig
	cut := func(conn net.Conn) {
		config := *config
		config.PasswordCallback = func(ssh.ConnMetadata, []byte) (*ssh.Permissions, error) {
			if tries.Add(1); honest.Load() == 0 {
				conn.Close()
			}
			return nil, errors.New("no")
		}
		ssh.NewServerConn(conn, &config) // what becomes of it is the client's to tell
		conn.Close()
	}
	config = serverConfig(t)
	b := trusting(t, serve(t, cut), Options{Password: text("right")})
	refuses(t, b, backends.Transient, backends.CauseConnLost)
	refuses(t, b, backends.Refused, backends.CauseAuth)
	honest.Store(1)
	refuses(t, b, backends.Refused, backends.CauseAuth) // by its word, which begins the count anew
	honest.Store(0)
	refuses(t, b, backends.Transient, backends.CauseConnLost)
	if tries.Load() != 4 {
		t.Errorf("the password was shown %d times, want 4", tries.Load())
	}
}

// serverConfig returns a configuration with a host key.
func serverConfig(t *testing.T) *ssh.ServerConfig {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	ok(t, err)
	key, err := ssh.NewSignerFromKey(private)
	ok(t, err)
	config := &ssh.ServerConfig{PasswordCallback: func(ssh.ConnMetadata, []byte) (*ssh.Permissions, error) { return nil, nil }}
	config.AddHostKey(key)
	return config
}

// Only a server that says no is believed to have no SFTP: one whose session or program ends is asked again.
func TestSFTPThatEndsIsAskedAgain(t *testing.T) {
	for name, test := range map[string]struct {
		session func(ssh.NewChannel, *ssh.ServerConn)
		class   backends.Class
		cause   backends.Cause
	}{
		"connection ends": {func(_ ssh.NewChannel, c *ssh.ServerConn) { c.Close() }, backends.Transient, backends.CauseConnLost},
		"silence":         {func(ssh.NewChannel, *ssh.ServerConn) {}, backends.Transient, backends.CauseSilent},
		"subsystem refused": {func(n ssh.NewChannel, _ *ssh.ServerConn) {
			if _, requests, err := n.Accept(); err == nil {
				ssh.DiscardRequests(requests)
			}
		}, backends.Refused, backends.CauseNoSFTP},
		"program ends": {func(n ssh.NewChannel, _ *ssh.ServerConn) {
			if channel, requests, err := n.Accept(); err == nil {
				for r := range requests {
					r.Reply(true, nil)
					channel.Close()
				}
			}
		}, backends.Transient, backends.CauseNoSFTP},
		"connection ends in the greeting": {func(n ssh.NewChannel, c *ssh.ServerConn) {
			if channel, requests, err := n.Accept(); err == nil {
				for r := range requests {
					r.Reply(true, nil)
					channel.Write([]byte{0, 0, 0})
					c.Close()
				}
			}
		}, backends.Transient, backends.CauseConnLost},
	} {
		t.Run(name, func(t *testing.T) {
			config := serverConfig(t)
			address := serve(t, func(conn net.Conn) {
				c, channels, requests, err := ssh.NewServerConn(conn, config)
				if err != nil {
					return // the scan of the host key ends so
				}
				go ssh.DiscardRequests(requests) // ends with the connection
				for n := range channels {
					test.session(n, c)
				}
			})
			t.Parallel() // the silent one waits
			refuses(t, trusting(t, address, Options{Password: text("x"), ConnectTimeout: 2 * time.Second}), test.class, test.cause)
		})
	}
}

// sshServer is an SSH server of x/crypto that gets as far as the login. It returns its address.
func sshServer(t *testing.T, config *ssh.ServerConfig) string {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	ok(t, err)
	key, err := ssh.NewSignerFromKey(private)
	ok(t, err)
	config.AddHostKey(key)
	return serve(t, func(conn net.Conn) {
		ssh.NewServerConn(conn, config) // what becomes of it is the client's to tell
		conn.Close()
	})
}

// serve calls f with every connection to the address that it returns, until the test ends.
func serve(t *testing.T, f func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ok(t, err)
	var all sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, conn)
			mu.Unlock()
			all.Go(func() { f(conn) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, conn := range conns {
			conn.Close()
		}
		mu.Unlock()
		all.Wait()
	})
	return l.Addr().String()
}

// trusting returns a Backend that believes whatever key the server at address shows.
func trusting(t *testing.T, address string, o Options) *Backend {
	t.Helper()
	o.Address, o.Username = address, "pier"
	kind, blob, print, err := ScanHostKey(t.Context(), o)
	ok(t, err)
	if !strings.HasPrefix(print, "SHA256:") {
		t.Fatalf("fingerprint %q", print)
	}
	o.Trusted = func(string) []TrustedKey { return []TrustedKey{{kind, blob}} }
	b, err := New(o)
	ok(t, err)
	t.Cleanup(func() { b.Close() })
	return b
}

func TestHostKeys(t *testing.T) {
	s := servers.NewSSHD(t, servers.SSHOptions{HostKeys: []string{"rsa", "ecdsa", "ed25519"}})
	lines := strings.SplitAfter(strings.TrimSpace(s.KnownHosts(t)), "\n")
	file := func(text string) string {
		name := filepath.Join(t.TempDir(), "known_hosts")
		ok(t, os.WriteFile(name, []byte(text), 0o600))
		return name
	}
	trusted := func(line string) func(string) []TrustedKey {
		fields := strings.Fields(line)
		blob, err := base64.StdEncoding.DecodeString(fields[2])
		ok(t, err)
		return func(address string) []TrustedKey {
			if address != s.Address() {
				t.Errorf("asked for the keys of %q", address)
			}
			return []TrustedKey{{fields[1], blob}}
		}
	}
	none := func(string) []TrustedKey { return nil }
	other := "[" + s.Host + "]:" + fmt.Sprint(s.Port) + " ssh-ed25519 " +
		base64.StdEncoding.EncodeToString(ssh.Marshal(struct{ Type, Key string }{"ssh-ed25519", strings.Repeat("k", 32)})) + "\n"

	t.Run("unknown", func(t *testing.T) {
		e := refuses(t, connect(t, s, Options{Trusted: none}), backends.Refused, backends.CauseHostKeyUnknown)
		_, _, print, err := ScanHostKey(t.Context(), Options{Address: s.Address(), Username: "x"})
		ok(t, err)
		if !strings.Contains(e.Error(), print) || !strings.Contains(e.Hint, "pierfs trust NAME "+print) {
			t.Errorf("%v (%s) does not tell how to trust %s", e, e.Hint, print)
		}
	})
	for n, line := range lines {
		t.Run(fmt.Sprint("found among several: ", n), func(t *testing.T) {
			key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(strings.SplitN(line, " ", 2)[1]))
			ok(t, err)
			kind, _, print, err := FindHostKey(t.Context(), Options{Address: s.Address(), Username: "x"}, ssh.FingerprintSHA256(key))
			ok(t, err)
			if kind != key.Type() || print != ssh.FingerprintSHA256(key) {
				t.Errorf("found %s %s, want %s %s", kind, print, key.Type(), ssh.FingerprintSHA256(key))
			}
		})
		t.Run(fmt.Sprint("one of several is known: ", n), func(t *testing.T) {
			works(t, connect(t, s, Options{KnownHostsFiles: []string{"/nowhere", file(line)}}))
			works(t, connect(t, s, Options{Trusted: trusted(line)}))
		})
	}
	t.Run("none of several is sought", func(t *testing.T) {
		kind, _, _, err := FindHostKey(t.Context(), Options{Address: s.Address(), Username: "x"}, "SHA256:of another")
		ok(t, err)
		if kind != "ssh-ed25519" {
			t.Errorf("shown is %q, want the key that comes first", kind)
		}
	})
	t.Run("changed", func(t *testing.T) {
		e := refuses(t, connect(t, s, Options{KnownHostsFiles: []string{file(other)}}), backends.Refused, backends.CauseHostKeyChanged)
		if strings.Count(e.Error(), "SHA256:") != 2 {
			t.Errorf("%v does not tell both fingerprints", e)
		}
		refuses(t, connect(t, s, Options{Trusted: trusted(other)}), backends.Refused, backends.CauseHostKeyChanged)
	})
	t.Run("changed, and trusted anew", func(t *testing.T) {
		works(t, connect(t, s, Options{KnownHostsFiles: []string{file(other)}, Trusted: trusted(lines[0])}))
	})
	t.Run("revoked", func(t *testing.T) {
		all := strings.Join(lines, "")
		for _, line := range lines {
			all += "\n@revoked * " + strings.SplitN(line, " ", 2)[1]
		}
		refuses(t, connect(t, s, Options{KnownHostsFiles: []string{file(all)}}), backends.Refused, backends.CauseHostKeyChanged)
	})
	t.Run("pinned, whichever of several it is", func(t *testing.T) {
		works(t, connect(t, s, Options{HostKey: s.Fingerprint(t)}))
		works(t, connect(t, s, Options{HostKey: strings.TrimPrefix(s.Fingerprint(t), "SHA256:")}))
	})
	t.Run("pinned to another", func(t *testing.T) {
		o := Options{HostKey: "SHA256:" + strings.Repeat("A", 43), KnownHostsFiles: []string{file(strings.Join(lines, ""))}}
		refuses(t, connect(t, s, o), backends.Refused, backends.CauseHostKeyChanged)
	})
	t.Run("the server shows new ones", func(t *testing.T) {
		b := connect(t, s, Options{KnownHostsFiles: []string{file(strings.Join(lines, ""))}})
		works(t, b)
		s.ChangeHostKeys(t)
		dies(t, inUse(b))
		refuses(t, b, backends.Refused, backends.CauseHostKeyChanged)
	})
}

func TestWorkingDir(t *testing.T) {
	s := servers.NewSSHD(t, servers.SSHOptions{})
	ok(t, os.MkdirAll(filepath.Join(s.Dir, "in", "deep"), 0o777))
	ok(t, os.Mkdir(filepath.Join(s.Dir, "shut"), 0o700)) // belongs to root
	put(t, filepath.Join(s.Dir, "file"), nil)
	put(t, filepath.Join(s.Dir, "in", "deep", "here"), nil)
	for _, dir := range []string{"in/deep", s.Root + "/in/deep", "~/in/deep", "./in/../in/deep"} {
		b := connect(t, s, Options{WorkingDir: dir})
		if got := entries(t, b, ""); !slices.Equal(got, []string{"here"}) {
			t.Errorf("in %q there are %q", dir, got)
		}
	}
	for _, dir := range []string{"", "~", "."} {
		if got := entries(t, connect(t, s, Options{WorkingDir: dir}), "in"); !slices.Equal(got, []string{"deep"}) {
			t.Errorf("below %q there are %q", dir, got)
		}
	}
	refuses(t, connect(t, s, Options{WorkingDir: "nowhere"}), backends.Refused, backends.CauseWorkingDir)
	refuses(t, connect(t, s, Options{WorkingDir: "file"}), backends.Refused, backends.CauseWorkingDirFile)
	refuses(t, connect(t, s, Options{WorkingDir: "shut/x"}), backends.Refused, backends.CauseWorkingDirPerm)

	chrooted := servers.NewSSHD(t, servers.SSHOptions{Chroot: true, ForceCommand: true})
	works(t, connect(t, chrooted, Options{WorkingDir: "/"}))
}

func TestProbeTellsEveryStep(t *testing.T) {
	s := servers.NewSSHD(t, servers.SSHOptions{})
	var steps []string
	o := Options{Step: func(s Step) {
		steps = append(steps, s.Name)
		if s.Err != nil || s.Took < 0 {
			t.Errorf("step %+v", s)
		}
	}}
	b := connect(t, s, o)
	ok(t, b.Probe(t.Context()))
	if want := []string{"tcp", "ssh", "auth", "workingDir", "list", "roundTrip"}; !slices.Equal(steps, want) {
		t.Errorf("steps %q, want %q", steps, want)
	}
}

// A server that shows other keys first is no failed step.
func TestProbeOfServerWithSeveralKeys(t *testing.T) {
	s := servers.NewSSHD(t, servers.SSHOptions{HostKeys: []string{"rsa", "ecdsa", "ed25519"}})
	var steps []Step
	o := Options{Step: func(s Step) { steps = append(steps, s) }, HostKey: s.Fingerprint(t)} // that of the RSA key
	ok(t, connect(t, s, o).Probe(t.Context()))
	if len(steps) != 6 || slices.ContainsFunc(steps, func(s Step) bool { return s.Err != nil }) {
		t.Errorf("steps %+v", steps)
	}
	steps, o.HostKey = nil, "SHA256:"+strings.Repeat("A", 43)
	err := connect(t, s, o).Probe(t.Context())
	if backends.CauseOf(err) != backends.CauseHostKeyChanged || len(steps) != 2 || backends.CauseOf(steps[1].Err) != backends.CauseHostKeyChanged {
		t.Errorf("%v; steps %+v", err, steps)
	}
}

func TestLoginIsLearned(t *testing.T) {
	s := servers.NewSSHD(t, servers.SSHOptions{})
	b := connect(t, s, Options{})
	works(t, b)
	home, err := os.Stat(s.Dir)
	ok(t, err)
	c := b.Caps()
	if !c.HasLogin || c.UID == 0 || c.Server == "" {
		t.Errorf("caps %+v of a login whose home is %+v", c, home.Sys())
	}
}

// A file that was given away, or that was somebody else's before we wrote into it, says nothing of who we are.
func TestLoginIsNotLearnedFromFilesOfOthers(t *testing.T) {
	s := servers.NewSSHD(t, servers.SSHOptions{User: "root"})
	b := connect(t, s, Options{})
	works(t, b)
	ctx := t.Context()
	content := []byte("content")
	write := func(w backends.Writer, err error, off int64, a backends.Attr) {
		t.Helper()
		ok(t, err)
		_, err = w.WriteAt(ctx, content, off)
		ok(t, err)
		_, err = w.Commit(ctx, backends.Commit{Size: off + int64(len(content)), Attr: a})
		ok(t, err)
		if c := b.Caps(); !c.HasLogin || c.UID != 0 || c.GID != 0 {
			t.Errorf("root is taken for %d:%d (%v)", c.UID, c.GID, c.HasLogin)
		}
	}
	uid, gid := uint32(4711), uint32(4712)
	w, err := b.Create(ctx, "given", backends.WriteMode{TempName: ".temp", Perm: 0o644})
	write(w, err, 0, backends.Attr{UID: &uid, GID: &gid})
	w, err = b.Update(ctx, "given")
	write(w, err, int64(len(content)), backends.Attr{})
	w, err = b.Create(ctx, "given", backends.WriteMode{Perm: 0o644}) // in place
	write(w, err, 0, backends.Attr{})
	w, err = b.Create(ctx, "kept", backends.WriteMode{TempName: ".temp", Perm: 0o644})
	write(w, err, 0, backends.Attr{})
}

func TestNoSFTP(t *testing.T) {
	s := servers.NewSSHD(t, servers.SSHOptions{Config: []string{"ForceCommand /bin/echo welcome"}})
	refuses(t, connect(t, s, Options{}), backends.Refused, backends.CauseNoSFTP)
}

func TestNoConnection(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ok(t, err)
	closed := l.Addr().String()
	ok(t, l.Close())
	says := func(words string) string {
		return serve(t, func(conn net.Conn) { conn.Write([]byte(words)); io.Copy(io.Discard, conn) })
	}
	hung := func(ctx context.Context, _, _ string) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() }
	for name, c := range map[string]struct {
		address string
		dial    func(context.Context, string, string) (net.Conn, error)
		class   backends.Class
		cause   backends.Cause
	}{
		"nobody listens":  {closed, nil, backends.Transient, backends.CauseConnRefused},
		"no such host":    {"host.invalid:22", nil, backends.Transient, backends.CauseDNS},
		"no answer":       {"127.0.0.1:1", hung, backends.Transient, backends.CauseConnTimeout},
		"no greeting":     {says(""), nil, backends.Transient, backends.CauseSilent},
		"an FTP server":   {says("220 Welcome\r\n"), nil, backends.Refused, backends.CauseWrongProtocol},
		"a web server":    {says("HTTP/1.1 400 Bad Request\r\n\r\n"), nil, backends.Refused, backends.CauseWrongProtocol},
		"somebody else":   {says("who are you?\n"), nil, backends.Transient, backends.CauseWrongProtocol},
		"a slow server":   {says("SSH-2.0-Open"), nil, backends.Transient, backends.CauseSilent},
		"the first byte":  {says("S"), nil, backends.Transient, backends.CauseSilent},
		"stops after it":  {says("SSH-2.0-x\r\n"), nil, backends.Transient, backends.CauseSilent},
		"nonsense of SSH": {says("SSH-2.0-x\r\n" + strings.Repeat("\xff", 100)), nil, backends.Transient, backends.CauseConnLost},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // most of it is waiting
			b, err := New(Options{Address: c.address, Username: "x", ConnectTimeout: time.Second, Dial: c.dial,
				HostKey: "SHA256:x", Password: text("x")})
			ok(t, err)
			defer b.Close()
			begun := time.Now()
			refuses(t, b, c.class, c.cause)
			if took := time.Since(begun); took > slack {
				t.Errorf("it took %v", took)
			}
		})
	}
}
