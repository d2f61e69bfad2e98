package ftp

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"pierfs/backends"
	"pierfs/backends/ftp/listing"
	"pierfs/backends/ftp/wire"
)

// meaning is what a reply says by its code. Those that are vague may mean anything, and are asked about (see the why
// functions); the errno is what stays where asking finds nothing.
type meaning struct {
	code  syscall.Errno
	class backends.Class
	vague bool
}

// meanings has the refusals of RFC 959, 2228, 2428 and 3659. 452 and 552 are both a lack of space: no server tells a quota apart
// by its code. 451 is what pure-ftpd says to any RNTO, 450 what proftpd says to a LIST of nothing.
var meanings = map[int]meaning{
	421: {code: syscall.EIO, class: backends.Transient},
	425: {code: syscall.EIO, class: backends.Transient},
	426: {code: syscall.EIO, class: backends.Transient},
	430: {code: syscall.EACCES},
	450: {code: syscall.EBUSY, vague: true},
	451: {code: syscall.EIO, vague: true},
	452: {code: syscall.ENOSPC},
	500: {code: syscall.EOPNOTSUPP},
	501: {code: syscall.EINVAL, vague: true},
	502: {code: syscall.EOPNOTSUPP},
	503: {code: syscall.EIO},
	504: {code: syscall.EOPNOTSUPP},
	521: {code: syscall.EACCES, vague: true}, // data connection wants TLS (RFC 2228), or the directory exists (RFC 1639)
	522: {code: syscall.EIO, class: backends.Transient},
	530: {code: syscall.EACCES},
	532: {code: syscall.EACCES},
	533: {code: syscall.EACCES},
	534: {code: syscall.EACCES},
	550: {code: syscall.EACCES, vague: true},
	551: {code: syscall.EINVAL, vague: true},
	552: {code: syscall.ENOSPC},
	553: {code: syscall.EACCES, vague: true},
}

func meaningOf(reply wire.Reply) meaning {
	if m, ok := meanings[reply.Code]; ok {
		return m
	}
	if reply.Code < 500 {
		return meaning{code: syscall.EIO, class: backends.Transient}
	}
	return meaning{code: syscall.EIO}
}

// positive reports whether a reply grants what was asked.
func positive(r wire.Reply) bool { return r.Code >= 200 && r.Code < 300 }

// granted returns nil if r grants what command asked, else the refusal.
func granted(command string, r wire.Reply) error {
	if first := strings.HasPrefix(command, "RNFR"); !first && positive(r) || first && r.Code/100 == 3 {
		return nil
	}
	return &wire.Refusal{Command: command, Reply: r}
}

// said is what a reply says, for people; cut where it is endless.
func said(r wire.Reply) string {
	text := fmt.Sprint(r.Code, " ", strings.Join(r.Lines[:min(len(r.Lines), 5)], " "))
	return text[:min(len(text), 200)]
}

// unknown reports whether r says that the server does not know the command.
func unknown(r wire.Reply) bool { return slices.Contains([]int{500, 502, 504}, r.Code) }

// vague reports whether err is a refusal that may mean anything.
func vague(err error) bool {
	r, ok := errors.AsType[*wire.Refusal](err)
	return ok && meaningOf(r.Reply).vague
}

// coded is an error whose errno is known better than the reply tells.
type coded struct {
	code  syscall.Errno
	class backends.Class
	cause backends.Cause
	hint  string
	err   error
}

func (c *coded) Error() string { return c.err.Error() }
func (c *coded) Unwrap() error { return c.err }

// as gives err the code that asking on has found.
func as(code syscall.Errno, err error) error {
	return &coded{code: code, err: fmt.Errorf("%w (%w)", code, err)}
}

// refuse is an error of our own, found before anything was sent or in spite of a server's consent.
func refuse(code syscall.Errno, format string, args ...any) error {
	return &coded{code: code, err: fmt.Errorf(format, args...)}
}

// because says of err that it may be a refusal of the way, for which cause stands, and not of the content.
func because(err error, cause backends.Cause) error {
	e, ok := seam("", "", err).(*backends.Error)
	if !ok {
		return err
	}
	if e = backends.Weaken(e, cause); e.Cause != cause {
		return err
	}
	return &coded{code: e.Code, class: e.Class, cause: cause, hint: e.Hint, err: err}
}

// isBroken reports whether err says that there is no answer.
func isBroken(err error) bool {
	switch backends.ClassOf(err) {
	case backends.Lost, backends.Transient:
		_, told := errors.AsType[*wire.Refusal](err)
		return !told
	}
	return false
}

// seam is seam for a Backend that may be closed.
func (b *Backend) seam(op, name string, err error) error {
	if err != nil && b.ctx.Err() != nil && (isBroken(err) || errors.Is(err, errClosed) || backends.Errno(err) == syscall.ESHUTDOWN) {
		return &backends.Error{Op: op, Name: name, Code: syscall.ESHUTDOWN, Err: errClosed}
	}
	return seam(op, name, err)
}

// seam dresses err for the other side of the seam.
func seam(op, name string, err error) error {
	if err == nil {
		return nil
	}
	e := &backends.Error{Op: op, Name: name, Err: err, Code: syscall.EIO}
	if c, ok := errors.AsType[*coded](err); ok {
		e.Code, e.Class, e.Cause, e.Hint = c.code, c.class, c.cause, c.hint
		return e
	}
	if told, ok := errors.AsType[*backends.Error](err); ok {
		if told.Op == op && told.Name == name {
			return told
		}
		again := *told
		again.Op, again.Name = op, name
		return &again
	}
	if r, ok := errors.AsType[*wire.Refusal](err); ok {
		m := meaningOf(r.Reply)
		e.Code, e.Class = m.code, m.class
		return e
	}
	if l, ok := errors.AsType[*listing.Error](err); ok {
		e.Code = l.Code
		return e
	}
	switch {
	case errors.Is(err, errClosed):
		e.Code = syscall.ESHUTDOWN
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		e.Code, e.Class = backends.Errno(err), backends.Transient
	}
	return e
}

// unanswered is the error of a question on the error path that got no answer: the refusal must not pass for more than it says,
// and as the server has refused, nothing has happened.
func unanswered(err error) error {
	if e, ok := errors.AsType[*backends.Error](err); ok && e.Class == backends.Lost {
		e := *e
		e.Class = backends.Transient
		return &e
	}
	return err
}

// why says more of a vague refusal err of an operation on name: what bears the name decides, by there if it is there. where nothing does,
// free is what the refusal means where all is well above it.
func (b *Backend) why(ctx context.Context, s *wire.Session, name string, err error, free syscall.Errno, there func(backends.Info) syscall.Errno) error {
	if !vague(err) {
		return err
	}
	b.faces.doubt(name)
	info, absent := b.stat(ctx, s, name)
	switch {
	case absent == nil:
		return as(there(info), err)
	case isBroken(absent):
		return unanswered(absent)
	case backends.Errno(seam("", "", absent)) != syscall.ENOENT:
		return err
	}
	return b.whyAbsent(ctx, s, name, err, free)
}

// whyAbsent tells ENOTDIR and ENOENT by what is above name, and free where its parent is a directory.
func (b *Backend) whyAbsent(ctx context.Context, s *wire.Session, name string, err error, free syscall.Errno) error {
	if name == "" || parent(name) == "" {
		return as(free, err)
	}
	info, absent := b.stat(ctx, s, parent(name))
	switch {
	case absent == nil && info.Mode.IsRegular():
		return as(syscall.ENOTDIR, err)
	case absent == nil:
		return as(free, err)
	case isBroken(absent):
		return unanswered(absent)
	}
	return as(syscall.ENOENT, err)
}

// file is what a refusal means for an operation on files, if what bears the name is info.
func file(info backends.Info) syscall.Errno {
	if info.IsDir() {
		return syscall.EISDIR
	}
	return syscall.EACCES
}
