package wire

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"syscall"
	"time"

	"pierfs/backends"
	"pierfs/backends/netconn"
	"pierfs/backends/reach"
	"pierfs/backends/trace"
)

var discard = slog.New(slog.DiscardHandler)

// login does everything that comes after the TCP connection.
func (s *Session) login(ctx context.Context) error {
	if err := s.greet(ctx); err != nil {
		return err
	}
	begun := s.begin()
	if err := s.authenticate(ctx); err != nil {
		return s.o.ended("auth", begun, "", err)
	}
	s.o.ended("auth", begun, "user "+s.o.Username, nil)
	begun = s.begin()
	if err := s.learn(); err != nil {
		return s.o.ended("features", begun, "", err)
	}
	s.o.ended("features", begun, s.features.Server, nil)
	s.conn.SetDeadline(time.Time{})
	s.spawn(s.listen)
	return nil
}

// begin starts the time of a step.
func (s *Session) begin() time.Time {
	now := time.Now()
	s.conn.SetDeadline(now.Add(s.o.ConnectTimeout))
	return now
}

// greet brings the connection to where a user can be named: greeting and TLS, in the order of the mode.
func (s *Session) greet(ctx context.Context) error {
	implicit := s.tls != nil && s.o.TLS.Implicit
	if implicit {
		if err := s.secure(ctx, s.begin()); err != nil {
			return err
		}
	}
	begun := s.begin()
	reply, err := s.hear()
	if err == nil {
		err = welcome(reply)
	} else {
		err = s.noGreeting(err)
	}
	if err != nil {
		return s.o.ended("banner", begun, "", err)
	}
	s.features.Server = strings.TrimSpace(strings.Join(reply.Lines, " "))
	s.o.ended("banner", begun, fmt.Sprintf("%q", reply.text()), nil)
	if s.tls == nil || implicit {
		return nil
	}
	begun = s.begin()
	if err := s.askForTLS(); err != nil {
		return s.o.ended("tls", begun, "", err)
	}
	return s.secure(ctx, begun)
}

// hear reads one final reply. What is preliminary (a greeting of 120) only announces it.
func (s *Session) hear() (Reply, error) {
	for range maxEarly {
		reply, err := readReply(s.replies, false)
		if err == nil {
			s.o.trace.Add(trace.Got, reply.said())
		}
		if err != nil || !reply.early() {
			return reply, err
		}
	}
	return Reply{}, ErrTooLong
}

// say sends commands and hears the replies to all of them. While nobody else uses the connection nothing may be left over.
func (s *Session) say(commands ...string) ([]Reply, error) {
	if s.replies.Buffered() > 0 {
		return nil, errStray
	}
	for _, command := range commands {
		s.o.trace.Add(trace.Sent, shown(command))
	}
	if _, err := io.WriteString(s.line, strings.Join(commands, "\r\n")+"\r\n"); err != nil {
		return nil, err
	}
	var replies []Reply
	for range commands {
		reply, err := s.hear()
		if err == nil && reply.Code == 421 {
			err = &hangUp{reply}
		}
		if err != nil {
			return replies, err
		}
		replies = append(replies, reply)
	}
	return replies, nil
}

func (s *Session) say1(command string) (Reply, error) {
	replies, err := s.say(command)
	if err != nil {
		return Reply{}, err
	}
	return replies[0], nil
}

// welcome judges a greeting.
func welcome(reply Reply) error {
	e := &backends.Error{Op: "connect", Code: syscall.EAGAIN, Class: backends.Transient, Err: &Refusal{Command: "greeting", Reply: reply}}
	switch {
	case reply.Code/100 == 2:
		return nil
	case reply.Code == 421:
		e.Cause, e.Hint = backends.CauseTooManySessions, "the server takes no further session now: it is full, or being shut down; a lower maxSessions may help"
	default:
		e.Code, e.Cause, e.Hint = syscall.EIO, backends.CauseConnLost, "the server turns this machine away before any login: ask its operator why"
	}
	return e
}

// noGreeting tells why there was no greeting.
func (s *Session) noGreeting(err error) error {
	b := s.tap.first
	foreign := func(cause backends.Cause, hint string, format string, args ...any) error {
		return &backends.Error{Op: "connect", Code: syscall.EPROTO, Class: backends.Refused, Cause: cause, Err: fmt.Errorf(format, args...), Hint: hint}
	}
	const secret = "the server speaks TLS from the first byte: set protocol = \"FTPS\" with useImplicit = true; port 990 as a rule"
	e := reach.BrokeOff(s.conn, err, "the server hung up before it said who it is: it may be full, or have banned this machine")
	switch {
	case s.tls != nil && s.tls.wanted.Load() && e.Cause == backends.CauseConnLost: // TLS 1.3 tells late
		return noClientCert(err)
	case bytes.HasPrefix(b, []byte("SSH-")):
		return foreign(backends.CauseWrongProtocol, "an SSH server listens on this port: check port, or set protocol = \"SFTP\"", "%w", err)
	case len(b) > 0 && (b[0] == recordAlert || b[0] == recordHandshake):
		return foreign(backends.CauseTLSMode, secret, "the server answers with TLS where a greeting was awaited")
	case errors.Is(err, errMalformed), errors.Is(err, ErrTooLong), len(b) >= 4 && !isReply(b):
		return foreign(backends.CauseWrongProtocol, "something else listens on this port: check port and protocol", "no greeting of FTP: %.64q", b)
	case e.Cause == backends.CauseSilent && s.speaksTLS():
		return foreign(backends.CauseTLSMode, secret, "the server is silent until TLS is begun")
	}
	return e
}

// askForTLS sends AUTH. SSL is its older name.
func (s *Session) askForTLS() error {
	reply, err := s.say1("AUTH TLS")
	if err == nil && reply.Code/100 == 5 {
		var again Reply
		if again, err = s.say1("AUTH SSL"); err == nil && again.good() {
			reply = again
		}
	}
	switch {
	case err != nil:
		return s.cut(err, "the server hung up when it was asked for TLS")
	case reply.Code/100 != 2 && reply.Code != 334: // some servers want to say with 334 that TLS may begin
		e := &backends.Error{Op: "connect", Code: syscall.EPROTO, Class: backends.Refused, Cause: backends.CauseTLSRefused, Err: &Refusal{Command: "AUTH TLS", Reply: reply},
			Hint: "the server offers no TLS here; nothing was sent in the clear. Have it set up there, or try implicit TLS, which has a port of its own (990)"}
		if reply.Code/100 == 4 {
			e.Code, e.Class = syscall.EAGAIN, backends.Transient
		}
		return e
	case s.replies.Buffered() > 0:
		return &backends.Error{Op: "connect", Code: syscall.EPROTO, Class: backends.Refused, Cause: backends.CauseTLSRefused,
			Err:  errors.New("something was sent in the clear behind the server's consent to TLS"),
			Hint: "somebody between here and the server may be tampering with the connection"}
	}
	return nil
}

// secure puts TLS on the connection, and ends the step.
func (s *Session) secure(ctx context.Context, begun time.Time) error {
	line, err := s.tls.secure(ctx, s.conn)
	if err != nil {
		return s.o.ended("tls", begun, "", err)
	}
	s.use(line)
	chain := s.tls.shown()
	if s.o.TLS.Certificate != nil && len(chain) > 0 {
		s.o.TLS.Certificate(Fingerprint(chain[0]), chain[0].NotAfter)
	}
	s.o.ended("tls", begun, s.tls.detail(line), nil)
	return nil
}

// cut is a dialogue of the login that broke.
func (s *Session) cut(err error, hint string) error {
	if h, ok := errors.AsType[*hangUp](err); ok {
		return &backends.Error{Op: "connect", Code: syscall.EAGAIN, Class: backends.Transient, Cause: backends.CauseTooManySessions, Err: h,
			Hint: "the server takes no further session now: it is full, or being shut down; a lower maxSessions may help"}
	}
	if errors.Is(err, errMalformed) || errors.Is(err, ErrTooLong) || errors.Is(err, errStray) {
		return &backends.Error{Op: "connect", Code: syscall.EPROTO, Class: backends.Refused, Cause: backends.CauseWrongProtocol, Err: err,
			Hint: "this is no sound FTP server: check port and protocol"}
	}
	if s.tls != nil && s.tls.wanted.Load() && !netconn.IsTimeout(s.conn.Broken()) {
		return noClientCert(err)
	}
	return reach.BrokeOff(s.conn, err, hint)
}

// authenticate names user, password and account as far as the server wants them.
func (s *Session) authenticate(ctx context.Context) error {
	reply, err := s.say1("USER " + s.o.Username)
	if err != nil {
		return s.cut(err, "the server hung up when it was told the user")
	}
	if reply.Code/100 == 3 && reply.Code != 332 {
		return s.password()
	}
	if reply.Code == 332 {
		return s.account()
	}
	if reply.good() {
		return nil
	}
	e := s.denied("USER", reply)
	if s.tls == nil && e.Class == backends.Refused && (reply.Code != 530 || s.offersTLS(ctx)) {
		e.Cause, e.Hint = backends.CauseTLSRequired, "the server refuses the user before any password was sent: it may want TLS (protocol = \"FTPS\"), or not allow this user"
	}
	return e
}

// offersTLS asks a server that has refused a user in the clear whether it could do better, on a connection of its own: vsftpd
// hangs up when it refuses so.
func (s *Session) offersTLS(ctx context.Context) bool {
	o := s.o
	o.Step, o.Logger = nil, nil
	offers := false
	other, err := o.connect(ctx, func(s *Session, ctx context.Context) error {
		if err := s.greet(ctx); err != nil {
			return err
		}
		s.begin()
		reply, err := s.say1("AUTH TLS")
		offers = err == nil && reply.good()
		return err
	})
	if err == nil {
		other.conn.Close()
	}
	return offers
}

func (s *Session) password() error {
	password, err := secret(s.o.Password)
	if err != nil {
		return refused(backends.CauseAuth, err, "check where the password comes from")
	}
	if password == "" && strings.EqualFold(s.o.Username, "anonymous") {
		password = "anonymous@"
	}
	s.o.trace.Hide(password)
	reply, err := s.say1("PASS " + password)
	switch {
	case err != nil:
		return s.hungUpOnPassword(err)
	case reply.Code == 332:
		s.strike(false)
		return s.account()
	case reply.good():
		s.strike(false)
		return nil
	}
	s.strike(false)
	return s.denied("PASS", reply)
}

func (s *Session) account() error {
	account, err := secret(s.o.Account)
	if err != nil {
		return refused(backends.CauseAccount, err, "check where the account comes from")
	}
	if account == "" {
		return refused(backends.CauseAccount, errors.New("the server asks for an account besides user and password"), "set account to what the server's operator tells")
	}
	s.o.trace.Hide(account)
	reply, err := s.say1("ACCT " + account)
	if err != nil {
		return s.cut(err, "the server hung up when it was told the account")
	}
	if reply.good() {
		return nil
	}
	e := s.denied("ACCT", reply)
	if e.Cause == backends.CauseAuth {
		e.Cause = backends.CauseAccount
	}
	return e
}

// secret asks for a secret, which must not become more than one command.
func secret(ask func() (string, error)) (string, error) {
	if ask == nil {
		return "", nil
	}
	text, err := ask()
	if err == nil && strings.ContainsAny(text, "\r\n\x00") {
		err = errors.New("it has a line end or NUL in it")
	}
	return text, err
}

// denied is a login that the server has refused.
func (s *Session) denied(verb string, reply Reply) *backends.Error {
	e := &backends.Error{Op: "connect", Code: syscall.EACCES, Class: backends.Refused, Cause: backends.CauseAuth, Err: &Refusal{Command: verb, Reply: reply},
		Hint: "check username and password; the server does not tell whether the account is unknown, expired or locked. Nothing is tried again by itself, so that no account is locked"}
	if reply.Code/100 == 4 {
		e.Code, e.Class, e.Hint = syscall.EAGAIN, backends.Transient, "the server says that it may work later"
	}
	return e
}

// tolerated is how often in a row a server may hang up on the password before that counts as a refusal. Accounts are
// locked after three to ten wrong ones.
const tolerated = 2

// hungUpOnPassword is for a server that was shown the password and hung up without a word. It may just have been
// restarted; but some refuse like that, and showing them a wrong password again and again would lock the account.
func (s *Session) hungUpOnPassword(err error) error {
	told := s.cut(err, "the server hung up when it was shown the password")
	e, ok := told.(*backends.Error)
	if !ok || e.Cause != backends.CauseConnLost || s.strike(true) < tolerated {
		return told
	}
	e.Code, e.Class, e.Cause = syscall.EACCES, backends.Refused, backends.CauseAuth
	e.Err = fmt.Errorf("the server has hung up more than once when it was shown the password: %w", e.Err)
	e.Hint = "check username and password: some servers refuse like that; nothing is tried again by itself"
	return e
}

// strike counts how often in a row the server has hung up on the password.
func (s *Session) strike(hungUp bool) int32 {
	switch {
	case s.o.HangUps == nil:
		return 1
	case hungUp:
		return s.o.HangUps.Add(1)
	}
	s.o.HangUps.Store(0)
	return 0
}
