package wire

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"pierfs/backends"
	"pierfs/backends/netconn"
)

var (
	errClosed   = errors.New("the session was closed from this side")
	errBusy     = errors.New("a transfer is under way on this session")
	errCanceled = errors.New("the transfer was given up")
)

// Refusal is a reply of the server that says no, as an error.
type Refusal struct {
	Command string // without any secret
	Reply   Reply
	Before  []Reply // to the commands of Prepend, where a transfer was refused
	Hint    string  // the way out, for a person, where this package knows more than the reply tells
}

// Error quotes the server: its words may hold anything.
func (r *Refusal) Error() string {
	return fmt.Sprintf("%s: the server says %q", r.Command, r.Reply.text())
}

// hangUp is a server that has ended the session (421).
type hangUp struct{ reply Reply }

func (h *hangUp) Error() string {
	return fmt.Sprintf("the server ended the session: %q", h.reply.text())
}

// lost is the error of a dialogue that broke. sent says that the server may have taken something of it.
func lost(op string, sent bool, err error) error {
	e := &backends.Error{Op: op, Class: backends.Transient, Code: syscall.EIO, Cause: backends.CauseConnLost, Err: err}
	if sent {
		e.Class = backends.Lost
	}
	switch {
	case errors.Is(err, context.Canceled):
		e.Code, e.Cause = syscall.EINTR, ""
	case errors.Is(err, netconn.ErrSilent):
		e.Code, e.Cause = syscall.ETIMEDOUT, backends.CauseSilent
	case netconn.IsTimeout(err):
		e.Code, e.Cause = syscall.ETIMEDOUT, ""
	case errors.Is(err, errClosed):
		e.Code, e.Class, e.Cause = syscall.ESHUTDOWN, backends.Final, ""
	}
	return e
}

// refuse is an error of our own, found before anything was sent.
func refuse(op string, code syscall.Errno, err error) error {
	return &backends.Error{Op: op, Code: code, Class: backends.Final, Err: err}
}

// checkCommand refuses what would be more than one command, or end one early: servers cut a name at a NUL, or hang up, but for
// those that take it for a line feed. To them a CR is a byte like any other, unless it stands at the end; one before a line
// feed would be the end of a line to others.
func (s *Session) checkCommand(command string) error {
	whole := !strings.ContainsAny(command, "\r\n\x00")
	if s.Features().LineEnds {
		whole = !strings.Contains(command, "\n") && !strings.Contains(command, "\r\x00") && !strings.HasSuffix(command, "\r")
	}
	if !whole {
		return refuse("command", syscall.EINVAL, fmt.Errorf("%q has a line end or NUL in it", shown(command)))
	}
	return nil
}

// shown is a command as errors and logs may show it.
func shown(command string) string {
	verb, _, ok := strings.Cut(command, " ")
	if ok && (strings.EqualFold(verb, "PASS") || strings.EqualFold(verb, "ACCT")) {
		return verb + " ****"
	}
	return command
}
