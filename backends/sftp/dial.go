package sftp

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"pierfs/backends"
	"pierfs/backends/netconn"
	"pierfs/backends/reach"
	"pierfs/backends/trace"
)

func (o *Options) step(s Step) {
	o.trace.Add(trace.Note, noted(s)) // before the step is told: whoever hears of it may look here
	if o.Step != nil {
		o.Step(s)
	}
	o.Logger.Debug("login", "step", s.Name, "server", o.Address, "took", s.Took, "detail", s.Detail, "err", s.Err)
}

// noted is a step in the trace.
func noted(s Step) string {
	if s.Err != nil {
		return fmt.Sprintf("%s failed after %v: %v", s.Name, s.Took.Round(time.Microsecond), s.Err)
	}
	return fmt.Sprintf("%s took %v: %s", s.Name, s.Took.Round(time.Microsecond), s.Detail)
}

// dial makes a session: dns, tcp, ssh, auth, workingDir, each within the connect timeout.
func dial(ctx context.Context, o *Options) (*session, error) {
	hosts, err := o.hostKeys()
	if err != nil {
		return nil, o.ended("ssh", time.Now(), "", refusal(backends.CauseKeyFile, err, "correct the file or take it out of the definition"))
	}
	return logIn(ctx, o, func(ctx context.Context, o *Options, without map[string]bool) (*session, error) {
		conn, release, err := o.knock(ctx)
		if err != nil {
			return nil, err
		}
		s, err := o.enter(ctx, conn, hosts, without)
		if !release() || err != nil {
			conn.Kill(cmp.Or(err, context.Cause(ctx)))
			if s != nil {
				s.close()
			}
			if err == nil {
				err = &fault{err: context.Cause(ctx)}
			}
			return nil, err
		}
		return s, nil
	})
}

// logIn makes logins by once until one succeeds or there is no use in another. A server with several keys may show one that is
// not believed before one that is. It is asked again for the others; only the last refusal is told as a step, and what was
// told already is not told twice.
func logIn[T any](ctx context.Context, o *Options, once func(context.Context, *Options, map[string]bool) (T, error)) (T, error) {
	own := *o
	own.trace = o.Trace.Session(o.Address)
	o = &own
	var first error
	without, told := make(map[string]bool), make(map[string]bool)
	for {
		var held []Step
		attempt := *o
		attempt.Step = func(s Step) {
			switch {
			case s.Err != nil:
				held = append(held, s)
			case !told[s.Name]:
				told[s.Name] = true
				o.step(s)
			}
		}
		made, err := once(ctx, &attempt, without)
		if first == nil {
			first = err
		}
		wrong, ok := errors.AsType[*errHostKey](err)
		if ok && wrong.other && !without[wrong.kind] {
			without[wrong.kind] = true
			continue
		}
		if _, ok := errors.AsType[*errHostKey](first); ok && err != nil {
			err = first // a server that runs out of keys is no other refusal than the first
			for n := range held {
				held[n].Err = first
			}
		}
		for _, s := range held {
			o.step(s)
		}
		return made, err
	}
}

// knock connects; the connection is bound to ctx until release is called.
func (o *Options) knock(ctx context.Context) (conn *netconn.Conn, release func() bool, err error) {
	raw, err := o.reach(ctx)
	if err != nil {
		return nil, nil, err
	}
	conn = netconn.New(raw, o.SocketTimeout)
	return conn, conn.Bind(ctx), nil
}

// ended reports a step and returns its error, dressed.
func (o *Options) ended(name string, begun time.Time, detail string, err error) error {
	err = seam("connect", "", err)
	o.step(Step{Name: name, Took: time.Since(begun), Detail: detail, Err: err})
	return err
}

// reach resolves the name and connects, to the first address that answers.
func (o *Options) reach(ctx context.Context) (net.Conn, error) {
	server := reach.Server{Address: o.Address, Speaks: "SSH", Timeout: o.ConnectTimeout, Dial: o.Dial, Ended: o.ended}
	return server.Connect(ctx)
}

// refusal is an error that must not be repeated by itself.
func refusal(cause backends.Cause, err error, hint string) error {
	return &backends.Error{Op: "connect", Code: syscall.EACCES, Class: backends.Refused, Cause: cause, Err: err, Hint: hint}
}

// greeting watches the first bytes that a server says, for who speaks another protocol can be told from who is silent.
type greeting struct {
	*netconn.Conn
	first  []byte
	passed bool
}

// errForeign is a peer that does not speak SSH.
var errForeign = errors.New("the server does not speak SSH")

// Read fails at once when the first line is one that no SSH server sends. Others may come before the version (RFC 4253
// section 4.2).
func (g *greeting) Read(p []byte) (int, error) {
	n, err := g.Conn.Read(p)
	if g.passed {
		return n, err
	}
	g.first = append(g.first, p[:min(n, 256-min(256, len(g.first)))]...)
	switch {
	case bytes.Contains(g.first, []byte("SSH-")):
		g.passed = true
	case foreign(g.first):
		return 0, fmt.Errorf("%w: it says %q", errForeign, firstLine(g.first))
	}
	return n, err
}

// foreign reports whether a greeting is known to be that of another protocol: FTP and SMTP begin with three digits, HTTP,
// IMAP and POP3 with their words, TLS with an alert.
func foreign(b []byte) bool {
	if len(b) >= 4 && (b[3] == ' ' || b[3] == '-') && !slices.ContainsFunc(b[:3], func(c byte) bool { return c < '0' || c > '9' }) {
		return true
	}
	for _, word := range []string{"HTTP/", "* OK", "+OK", "<", "\x15\x03"} {
		if bytes.HasPrefix(b, []byte(word)) {
			return true
		}
	}
	return false
}

func firstLine(b []byte) string {
	line, _, _ := bytes.Cut(b, []byte("\n"))
	return string(bytes.TrimRight(line, "\r"))
}

// handshake brings the SSH connection up, and reports the steps ssh and auth.
func (o *Options) handshake(conn *netconn.Conn, hosts *hostKeys, algorithms []string, check ssh.HostKeyCallback) (*ssh.Client, error) {
	begun := time.Now()
	proof, err := newCredentials(o, conn)
	if err != nil {
		hint := ""
		if unusable, ok := errors.AsType[*errKey](err); ok {
			hint = unusable.hint
		}
		return nil, o.ended("auth", begun, "", refusal(backends.CauseKeyFile, err, hint))
	}
	defer proof.close()
	greeted := &greeting{Conn: conn}
	believed := time.Time{}
	config := &ssh.ClientConfig{
		User: o.Username, AuthCallback: proof.choose, HostKeyAlgorithms: algorithms, ClientVersion: "SSH-2.0-pierfs",
		HostKeyCallback: func(name string, remote net.Addr, key ssh.PublicKey) error {
			if err := check(name, remote, key); err != nil {
				return err
			}
			believed = time.Now()
			conn.SetDeadline(believed.Add(o.ConnectTimeout))
			o.ended("ssh", begun, key.Type()+" "+fingerprint(key), nil)
			return nil
		},
	}
	if o.LegacyAlgorithms {
		config.Config = legacyConfig()
	}
	conn.SetDeadline(begun.Add(o.ConnectTimeout))
	c, channels, requests, err := ssh.NewClientConn(greeted, o.Address, config)
	if err != nil {
		if believed.IsZero() {
			return nil, o.ended("ssh", begun, "", noSSH(greeted, err))
		}
		return nil, o.ended("auth", believed, "", noLogin(o, conn, proof, err))
	}
	o.hangUps.Store(0)
	conn.SetDeadline(time.Time{})
	o.ended("auth", believed, "user "+o.Username, nil)
	return ssh.NewClient(c, channels, requests), nil
}

// legacyConfig adds to the defaults what x/crypto/ssh calls insecure, behind them.
func legacyConfig() ssh.Config {
	good, bad := ssh.SupportedAlgorithms(), ssh.InsecureAlgorithms()
	return ssh.Config{
		KeyExchanges: append(good.KeyExchanges, bad.KeyExchanges...),
		Ciphers:      append(good.Ciphers, bad.Ciphers...),
		MACs:         append(good.MACs, bad.MACs...),
	}
}

// noSSH tells why the handshake failed before the host key was believed.
func noSSH(greeted *greeting, err error) error {
	if wrong, ok := errors.AsType[*errHostKey](err); ok {
		return refusal(wrong.cause, wrong, wrong.hint)
	}
	if _, ok := errors.AsType[*ssh.AlgorithmNegotiationError](err); ok {
		return &backends.Error{Op: "connect", Code: syscall.EPROTO, Class: backends.Refused, Cause: backends.CauseAlgorithms, Err: err,
			Hint: "the server is old: set legacyAlgorithms = true if it cannot be updated"}
	}
	const elsewhere = "something else listens on this port: check port (SSH has 22) and protocol"
	e := reach.BrokeOff(greeted.Conn, err,
		"the server broke off before it proved who it is: it may be full, have banned this machine, or be no SSH server")
	switch {
	case errors.Is(err, errScanned):
		return err
	case errors.Is(err, errForeign):
		e.Code, e.Class, e.Cause, e.Err, e.Hint = syscall.EPROTO, backends.Refused, backends.CauseWrongProtocol, err, elsewhere
	case e.Cause == backends.CauseSilent && bytes.Contains(greeted.first, []byte("\n")) && !greeted.passed:
		// Servers may say something before their version (RFC 4253 section 4.2), and be slow with that.
		e.Code, e.Cause, e.Hint = syscall.EPROTO, backends.CauseWrongProtocol, elsewhere
		e.Err = fmt.Errorf("%w: it says %q", errForeign, firstLine(greeted.first))
	case e.Cause == backends.CauseSilent:
		e.Hint = "the port is open but no SSH server answers: it may be overloaded, stopped, or another service"
	}
	return e
}

// noLogin tells why the login failed. Only a server that has said no is believed to have refused us; x/crypto takes every
// error for a refusal, so that the connection is asked what it met.
func noLogin(o *Options, conn *netconn.Conn, proof *credentials, err error) error {
	refused, ok := errors.AsType[*refusedLogin](err)
	lost := reach.BrokeOff(conn, err, "the server hung up during the login: it may be full, or have banned this machine")
	switch {
	case ok && refused.offered:
		o.hangUps.Store(0)
		return refusal(backends.CauseAuth, refused, refused.hint)
	case ok:
		return refusal(backends.CauseAuthMethod, refused, refused.hint)
	case proof.told && conn.Broken() != nil && lost.Cause == backends.CauseConnLost:
		return hungUpOnPassword(o, lost)
	case conn.Broken() != nil, !proof.told && len(proof.tried) <= 1: // "none" is always among them
		return lost
	}
	return refusal(backends.CauseAuth, err, "check username and password or key"+untold)
}

// hungUpOnPassword is for a server that was shown the password and hung up without a word. It may just have been
// restarted; but some refuse like that, and showing them a wrong password again and again would lock the account.
func hungUpOnPassword(o *Options, lost *backends.Error) error {
	if o.hangUps.Add(1) < tolerated {
		lost.Hint = "the server hung up when it was shown the password: it may be full, or being restarted; or this is how it refuses a login"
		return lost
	}
	lost.Code, lost.Class, lost.Cause = syscall.EACCES, backends.Refused, backends.CauseAuth
	lost.Err = fmt.Errorf("the server has hung up %d times in a row when it was shown the password: %w", o.hangUps.Load(), lost.Err)
	lost.Hint = "check username and password, and that the account is neither locked nor expired: some servers refuse like that; nothing is tried again by itself"
	return lost
}

// tolerated is how often in a row a server may hang up on the password before that counts as a refusal. Accounts are
// locked after three to ten wrong ones.
const tolerated = 2

// enter makes a session of a connection that stands.
func (o *Options) enter(ctx context.Context, conn *netconn.Conn, hosts *hostKeys, without map[string]bool) (*session, error) {
	client, err := o.handshake(conn, hosts, hosts.algorithms(o.LegacyAlgorithms, without), hosts.check)
	if err != nil {
		return nil, err
	}
	begun := time.Now()
	conn.SetDeadline(begun.Add(o.ConnectTimeout))
	s := &session{o: o, conn: conn, dead: make(chan struct{}), server: string(client.ServerVersion())}
	s.openSSH = strings.Contains(s.server, "OpenSSH") || strings.Contains(s.server, "mod_sftp")
	s.server = strings.TrimPrefix(s.server, "SSH-2.0-")
	s.dial = func(context.Context) (io.ReadWriteCloser, error) { return subsystem(client, false) }
	rw, err := subsystem(client, true)
	if err == nil {
		s.meta, err = s.newChannel(rw)
	}
	if err != nil {
		return nil, o.ended("workingDir", begun, "", noSFTP(conn, client, err))
	}
	if err := s.begin(ctx); err != nil {
		if lostReply(err) && ctx.Err() == nil {
			err = reach.BrokeOff(conn, err, "the server hung up when it was asked for the working directory")
		}
		return s, o.ended("workingDir", begun, "", err)
	}
	conn.SetDeadline(time.Time{})
	o.ended("workingDir", begun, s.root, nil)
	s.workers.Go(func() {
		s.keepAlive(func() error {
			_, _, err := client.SendRequest("keepalive@openssh.com", true, nil)
			return err
		})
	})
	return s, nil
}

// errNoSubsystem is a server that refuses to start SFTP.
var errNoSubsystem = errors.New("the server offers no SFTP")

// subsystem opens a channel with SFTP on it. If sure is false nobody waits for the server's word that it has started SFTP,
// which takes a round trip: without it the greeting stays without an answer.
func subsystem(client *ssh.Client, sure bool) (io.ReadWriteCloser, error) {
	channel, requests, err := client.OpenChannel("session", nil)
	if err != nil {
		return nil, err
	}
	go ssh.DiscardRequests(requests)         // ends with the channel
	go io.Copy(io.Discard, channel.Stderr()) // so does this; what is not read would stop the window
	ok, err := channel.SendRequest("subsystem", sure, ssh.Marshal(struct{ Name string }{"sftp"}))
	if err == nil && sure && !ok {
		err = errNoSubsystem
	}
	if err != nil {
		channel.Close()
		return nil, err
	}
	return channel, nil
}

// noSFTP tells why the login was accepted and there is no SFTP all the same.
func noSFTP(conn *netconn.Conn, client *ssh.Client, err error) error {
	const hint = "the login works, but the server starts no SFTP for it: check its \"Subsystem sftp\" and the user's shell start-up files, which may not print anything"
	if errors.Is(err, errNoSubsystem) || errors.Is(err, errMalformed) {
		return &backends.Error{Op: "connect", Code: syscall.EPROTO, Class: backends.Refused, Cause: backends.CauseNoSFTP, Err: err, Hint: hint}
	}
	e := reach.BrokeOff(conn, err, "the server hung up before it started SFTP")
	_, full := errors.AsType[*ssh.OpenChannelError](err)
	switch {
	case full:
		e.Code, e.Cause, e.Hint = syscall.EAGAIN, backends.CauseTooManySessions, "the server allows no session for this login now"
	case conn.Broken() == nil && e.Cause == backends.CauseConnLost:
		// The program for SFTP has ended: there may be none, or it is being stopped with the server.
		e.Cause, e.Hint = backends.CauseNoSFTP, hint
		said := shellSays(client)
		if said != "" {
			e.Err = fmt.Errorf("%w; the server says %q", err, said)
		}
		if isExpired(said) {
			return refusal(backends.CausePasswordExpired, e.Err, "the password has expired: have it changed, at the server or by its operator, and give the new one as password")
		}
	}
	return e
}

// workingDirError tells why the working directory cannot be used. Only what the server says of the directory itself is a
// refusal: any other failure may pass, as that of a file system which is away for a moment.
func workingDirError(dir string, err error) error {
	if lostReply(err) {
		return err
	}
	if !failed(err, statusNoSuchFile, statusNoSuchPath, statusPermissionDenied, statusNotDirectory) {
		return &backends.Error{Op: "connect", Class: backends.Transient, Code: syscall.EIO, Cause: backends.CauseWorkingDir,
			Err: fmt.Errorf("working directory %q: %w", dir, err), Hint: "have the server's operator look why it cannot be asked for the directory"}
	}
	e := &backends.Error{Op: "connect", Class: backends.Refused, Code: syscall.ENOENT, Cause: backends.CauseWorkingDir,
		Err: fmt.Errorf("working directory %q: %w", dir, err), Hint: "correct workingDir, or have the directory made on the server"}
	if failed(err, statusPermissionDenied) {
		e.Code, e.Cause = syscall.EACCES, backends.CauseWorkingDirPerm
		e.Hint = "have the login allowed to enter the directory, or name another one as workingDir"
	}
	return e
}

func notADirectory(dir string) error {
	return &backends.Error{Op: "connect", Class: backends.Refused, Code: syscall.ENOTDIR, Cause: backends.CauseWorkingDirFile,
		Err: fmt.Errorf("working directory %q: it is no directory", dir), Hint: "name a directory as workingDir"}
}

// scan shakes hands only so far that the server shows its host key.
func scan(ctx context.Context, o *Options, without map[string]bool) (ssh.PublicKey, error) {
	raw, err := o.reach(ctx)
	if err != nil {
		return nil, err
	}
	conn := netconn.New(raw, o.SocketTimeout)
	defer conn.Close()
	defer conn.Bind(ctx)()
	var seen ssh.PublicKey
	hosts := &hostKeys{address: o.Address}
	quiet := *o
	quiet.Agent, quiet.PrivateKey, quiet.PrivateKeyFile, quiet.CertificateFile = false, nil, "", ""
	_, err = quiet.handshake(conn, hosts, hosts.algorithms(o.LegacyAlgorithms, without), func(_ string, _ net.Addr, key ssh.PublicKey) error {
		seen = key
		return errScanned
	})
	if seen != nil {
		return seen, nil
	}
	return nil, err
}
