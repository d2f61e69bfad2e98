package sftp

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"syscall"

	"pierfs/backends"
	"pierfs/backends/netconn"
)

// Codes of a STATUS reply. The first nine are version 3; servers of later drafts send the others in version 3 too
// (mod_sftp answers 11 to a rename onto a file).
const (
	statusOK               = 0
	statusEOF              = 1
	statusNoSuchFile       = 2
	statusPermissionDenied = 3
	statusFailure          = 4
	statusBadMessage       = 5
	statusNoConnection     = 6
	statusConnectionLost   = 7
	statusUnsupported      = 8
	statusInvalidHandle    = 9
	statusNoSuchPath       = 10
	statusFileExists       = 11
	statusWriteProtect     = 12
	statusNoMedia          = 13
	statusNoSpace          = 14
	statusQuota            = 15
	statusLockConflict     = 17
	statusDirNotEmpty      = 18
	statusNotDirectory     = 19
	statusInvalidName      = 20
	statusLinkLoop         = 21
	statusIsDirectory      = 24
)

// errnoOfStatus is what a status means by itself. FAILURE says nothing: those who get it ask on (see the why functions).
var errnoOfStatus = map[uint32]syscall.Errno{
	statusEOF:              syscall.EIO,
	statusNoSuchFile:       syscall.ENOENT,
	statusPermissionDenied: syscall.EACCES,
	statusFailure:          syscall.EIO,
	statusBadMessage:       syscall.EINVAL,
	statusNoConnection:     syscall.EIO,
	statusConnectionLost:   syscall.EIO,
	statusUnsupported:      syscall.EOPNOTSUPP,
	statusInvalidHandle:    syscall.ESTALE,
	statusNoSuchPath:       syscall.ENOENT,
	statusFileExists:       syscall.EEXIST,
	statusWriteProtect:     syscall.EROFS,
	statusNoMedia:          syscall.ENXIO,
	statusNoSpace:          syscall.ENOSPC,
	statusQuota:            syscall.EDQUOT,
	statusLockConflict:     syscall.EBUSY,
	statusDirNotEmpty:      syscall.ENOTEMPTY,
	statusNotDirectory:     syscall.ENOTDIR,
	statusInvalidName:      syscall.EINVAL,
	statusLinkLoop:         syscall.ELOOP,
	statusIsDirectory:      syscall.EISDIR,
}

// failed reports whether err is a status of that code.
func failed(err error, codes ...uint32) bool {
	status, ok := errors.AsType[*statusError](err)
	if !ok {
		return false
	}
	for _, code := range codes {
		if status.code == code {
			return true
		}
	}
	return false
}

// vague reports whether err is a status that may mean anything.
func vague(err error) bool { return failed(err, statusFailure) }

// coded is an error whose errno is known better than its status tells.
type coded struct {
	code syscall.Errno
	err  error
}

func (c *coded) Error() string { return c.err.Error() }
func (c *coded) Unwrap() error { return c.err }

// as gives err the code that asking on has found; a code of 0 changes nothing.
func as(code syscall.Errno, err error) error {
	if code == 0 || err == nil {
		return err
	}
	return &coded{code, fmt.Errorf("%w (%w)", code, err)}
}

// refuse is an error of our own, found before anything was sent or in spite of a server's consent.
func refuse(code syscall.Errno, format string, args ...any) error {
	return &coded{code, fmt.Errorf(format, args...)}
}

// seam dresses err for the other side of the seam.
func seam(op, name string, err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*backends.Error](err); ok {
		if e.Op == op && e.Name == name {
			return e
		}
		again := *e
		again.Op, again.Name = op, name
		return &again
	}
	e := &backends.Error{Op: op, Name: name, Err: err, Code: syscall.EIO}
	if f, ok := errors.AsType[*fault](err); ok {
		lost(e, f)
		return e
	}
	if c, ok := errors.AsType[*coded](err); ok {
		e.Code = c.code
		return e
	}
	if s, ok := errors.AsType[*statusError](err); ok {
		if code := errnoOfStatus[s.code]; code != 0 {
			e.Code = code
		}
		return e
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		e.Code, e.Class = backends.Errno(err), backends.Transient
	}
	return e
}

// lost fills in e for a request without a reply.
func lost(e *backends.Error, f *fault) {
	e.Class = backends.Transient
	if f.sent {
		e.Class = backends.Lost
	}
	switch {
	case errors.Is(f.err, context.Canceled):
		e.Code = syscall.EINTR
	case errors.Is(f.err, netconn.ErrSilent):
		e.Code, e.Cause = syscall.ETIMEDOUT, backends.CauseSilent
	case errors.Is(f.err, os.ErrDeadlineExceeded), errors.Is(f.err, context.DeadlineExceeded):
		e.Code = syscall.ETIMEDOUT
	case errors.Is(f.err, errClosed):
		e.Code, e.Class = syscall.ESHUTDOWN, backends.Final
	default:
		e.Code, e.Cause = syscall.EIO, backends.CauseConnLost
	}
}

// unsent reports whether err says that the session was dead before anything had been sent, so that another may be tried.
func unsent(err error) bool {
	f, ok := errors.AsType[*fault](err)
	return ok && !f.sent && !errors.Is(f.err, context.Canceled) && !errors.Is(f.err, context.DeadlineExceeded) &&
		!errors.Is(f.err, errClosed)
}

// unexplained returns what becomes of a refusal when the question for its reason stays without an answer: nothing has
// happened at the server, and the reason is not known, so that the whole call may be made again. nil if asked, the error of
// the question, is an answer.
func unexplained(refusal, asked error) error {
	f, ok := errors.AsType[*fault](asked)
	if !ok {
		return nil
	}
	return &fault{err: fmt.Errorf("%w (asked why it had answered: %v)", f.err, refusal)}
}

// The functions below ask a server what it left unsaid, on the error path only. What they ask may be refused too; they then
// leave the error as it is.

// whyPath says more of a refusal that concerns the path name: ENOTDIR where an element above is no directory, which
// OpenSSH tells as "no such file"; ENAMETOOLONG, which it tells as a bad message.
func (s *session) whyPath(ctx context.Context, name string, err error) error {
	switch {
	case failed(err, statusBadMessage) && len(s.path(name)) >= 1024:
		return as(syscall.ENAMETOOLONG, err)
	case failed(err, statusBadMessage):
		for element := range strings.SplitSeq(name, "/") {
			if len(element) > 143 { // the shortest limit in use: eCryptfs
				return as(syscall.ENAMETOOLONG, err)
			}
		}
		return err
	case failed(err, statusNoSuchFile, statusNoSuchPath):
		return s.whyAbsent(ctx, name, err)
	}
	return err
}

func (s *session) whyAbsent(ctx context.Context, name string, err error) error {
	f := s.meta.flight()
	for dir := path.Dir(name); dir != "." && dir != "/"; dir = path.Dir(dir) {
		f.add(pathFrame(typeStat, s.path(dir)))
	}
	if len(f.calls) == 0 {
		return err
	}
	f.send(urgent)
	f.wait(ctx)
	for _, c := range f.calls {
		i, unknown := c.reply.info("")
		if lost := unexplained(err, unknown); lost != nil {
			return lost
		}
		if unknown == nil {
			if i.Known.Has(backends.HasType) && !i.IsDir() {
				return as(syscall.ENOTDIR, err)
			}
			return err // the nearest that exists is a directory
		}
	}
	return err
}

// whyChange says more of a refused change in the directory that holds name: a file system that is full or read-only.
// need is the number of bytes that did not fit.
func (s *session) whyChange(ctx context.Context, name string, need int, err error) error {
	if !vague(err) && !failed(err, statusPermissionDenied) || !s.meta.offers(extStatVFS) {
		return err
	}
	f := s.meta.flight()
	c := f.add(extendedFrame(extStatVFS, s.path(parent(name))))
	f.send(urgent)
	room, unknown := c.wait(ctx).space()
	if lost := unexplained(err, unknown); lost != nil {
		return lost
	}
	switch {
	case unknown != nil:
		return err
	case room.readOnly:
		return as(syscall.EROFS, err)
	case !vague(err):
		return err
	case need >= 0 && room.Avail <= uint64(need), room.Files > 0 && room.FilesFree == 0:
		return as(syscall.ENOSPC, err)
	}
	return err
}

// whyExists says EEXIST of a refused creation if name is taken.
func (s *session) whyExists(ctx context.Context, name string, err error) error {
	if !vague(err) {
		return err
	}
	_, absent := s.lstat(ctx, name)
	if lost := unexplained(err, absent); lost != nil {
		return lost
	}
	if absent == nil {
		return as(syscall.EEXIST, err)
	}
	return err
}

// whyCreate says more of a refused creation of name.
func (s *session) whyCreate(ctx context.Context, name string, err error) error {
	return s.whyChange(ctx, name, 0, s.whyPath(ctx, name, s.whyExists(ctx, name, err)))
}

// whyHandle says more of a refused operation on an open file. That it does not exist cannot be: the server has forgotten
// the handle (EBADF travels as NO_SUCH_FILE).
func (s *session) whyHandle(err error) error {
	if failed(err, statusNoSuchFile) {
		return as(syscall.ESTALE, err)
	}
	return err
}

// parent returns the directory that holds name.
func parent(name string) string {
	if dir := path.Dir(name); dir != "." {
		return dir
	}
	return ""
}

// base returns the last element of name; "" for the working directory.
func base(name string) string {
	return name[strings.LastIndexByte(name, '/')+1:]
}
