package daemon

import (
	"context"
	"errors"
	"os"
	"regexp"
	"strings"
	"syscall"

	"pierfs/backends"
	"pierfs/cmd/internal/control"
	"pierfs/conncfg"
)

// told returns err as the hand is to be told of it: *control.Error as it is, what comes from a server by its cause or code.
func told(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*control.Error](err); ok {
		return err
	}
	e := &control.Error{Code: codeOf(err), Text: oneLine(err.Error()), Cause: string(backends.CauseOf(err))}
	if b, ok := errors.AsType[*backends.Error](err); ok {
		e.Hint = b.Hint
	}
	if e.Hint == "" {
		e.Hint = hintOf(e.Code)
	}
	return e
}

// toldOf is told with the way out for one connection, by the name that commands know it by.
func toldOf(called string, err error) error {
	e, ok := errors.AsType[*control.Error](told(err))
	if !ok {
		return nil
	}
	return e.WithHint("%s", named(e.Hint, called))
}

// aboutNamed is a command in a hint. NAME in it stands for the connection: those who write hints know no names.
var aboutNamed = regexp.MustCompile(`\b(pierfs [a-z]+) NAME\b`)

// named puts the name that commands know a connection by into a hint.
func named(hint, called string) string {
	if called == "" {
		return hint
	}
	return aboutNamed.ReplaceAllString(hint, "${1} "+strings.ReplaceAll(called, "$", "$$"))
}

// trouble is why a connection does not serve, as lists tell it. The zero value is none.
type trouble struct {
	reason   string
	cause    string
	code     control.Code
	hint     string // in which NAME stands for the connection
	findings []conncfg.Finding
}

// troubleOf tells err in few words.
func troubleOf(err error) trouble {
	e, ok := errors.AsType[*control.Error](told(err))
	if !ok {
		return trouble{}
	}
	t := trouble{reason: e.Text, cause: e.Cause, code: e.Code, hint: e.Hint, findings: e.Findings}
	if b, ok := errors.AsType[*backends.Error](err); ok {
		t.reason = said(b)
	}
	switch backends.CauseOf(err) {
	case backends.CauseAuth, backends.CauseAuthMethod, backends.CausePasswordExpired, backends.CauseKeyFile, backends.CauseClientCert, backends.CauseAccount:
		t.hint += "; when it is mended: pierfs mount NAME"
	}
	return t
}

// said is what the server or this machine said, without what it was asked for: that is no news about a whole connection.
func said(e *backends.Error) string {
	for {
		inner, ok := e.Err.(*backends.Error)
		switch {
		case ok:
			e = inner
		case e.Err != nil:
			return oneLine(e.Err.Error())
		default:
			return e.Code.Error()
		}
	}
}

// oneLine keeps joined errors in one line of a terminal or log.
func oneLine(s string) string { return strings.ReplaceAll(strings.TrimSpace(s), "\n", "; ") }

func codeOf(err error) control.Code {
	if code := codeOfCause(backends.CauseOf(err)); code != "" {
		return code
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return control.Timeout
	case errors.Is(err, context.Canceled):
		return control.Cut
	}
	code, ok := errors.AsType[syscall.Errno](err)
	if !ok {
		return control.Internal
	}
	return codeOfErrno(code)
}

func codeOfCause(cause backends.Cause) control.Code {
	switch cause {
	case backends.CauseDNS, backends.CauseNoRoute, backends.CauseConnRefused, backends.CausePassiveBlocked:
		return control.Unreachable
	case backends.CauseConnTimeout, backends.CauseSilent:
		return control.Timeout
	case backends.CauseConnLost, backends.CauseTooManySessions, backends.CauseOffline:
		return control.Offline
	case backends.CauseWrongProtocol, backends.CauseAlgorithms, backends.CauseNoSFTP,
		backends.CauseTLSVersion, backends.CauseTLSMode, backends.CauseTLSRefused, backends.CauseTLSRequired:
		return control.ProtocolError
	case backends.CauseHostKeyUnknown:
		return control.HostKeyUnknown
	case backends.CauseHostKeyChanged:
		return control.HostKeyChanged
	case backends.CauseCertUnknown:
		return control.CertUnknown
	case backends.CauseCertChanged:
		return control.CertChanged
	case backends.CauseCertExpired, backends.CauseCertName:
		return control.CertInvalid
	case backends.CauseAuth, backends.CauseAuthMethod, backends.CausePasswordExpired, backends.CauseClientCert, backends.CauseAccount:
		return control.AuthFailed
	case backends.CauseKeyFile, backends.CauseWorkingDir, backends.CauseWorkingDirFile:
		return control.ConfigInvalid
	case backends.CauseWorkingDirPerm, backends.CauseListPermission, backends.CauseWritePermission, backends.CauseTempName, backends.CauseRename:
		return control.PermissionDenied
	case backends.CauseServerReadOnly:
		return control.ReadOnly
	case backends.CauseServerFull:
		return control.NoSpace
	case backends.CauseWriteFailed, backends.CauseMismatch:
		return control.Failed
	}
	return ""
}

func codeOfErrno(code syscall.Errno) control.Code {
	switch code {
	case syscall.ENOENT, syscall.ENOTDIR:
		return control.NotFound
	case syscall.EEXIST:
		return control.Exists
	case syscall.ENOTEMPTY:
		return control.NotEmpty
	case syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG:
		return control.NoSpace
	case syscall.EACCES, syscall.EPERM:
		return control.PermissionDenied
	case syscall.EROFS:
		return control.ReadOnly
	case syscall.EISDIR, syscall.EINVAL, syscall.ENAMETOOLONG, syscall.EOPNOTSUPP, syscall.ELOOP:
		return control.Usage
	case syscall.ETIMEDOUT:
		return control.Timeout
	case syscall.EHOSTDOWN, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.ENOTCONN:
		return control.Offline
	case syscall.ESHUTDOWN:
		return control.NotMounted
	case syscall.ENODEV, syscall.ENXIO, syscall.ENOMEM, syscall.EMFILE, syscall.ENFILE:
		return control.System
	}
	return control.Failed
}

// hintOf is the way out where nobody below knew a better one.
func hintOf(code control.Code) string {
	switch code {
	case control.NotFound:
		return "`pierfs ls NAME` lists what is there"
	case control.Exists:
		return "choose another name, or remove what is there with `pierfs rm`"
	case control.NotEmpty:
		return "remove what is in it first, or use `pierfs rm -r`"
	case control.NoSpace:
		return "make room at the server and under the state directory: `pierfs doctor NAME` shows how much there is"
	case control.PermissionDenied:
		return "`pierfs test NAME --privileges` tells what this login may do there; the server's operator decides"
	case control.ReadOnly:
		return "the definition says readOnly: `pierfs edit NAME --set readOnly=false` lets it be changed"
	case control.Offline, control.Timeout, control.Unreachable:
		return "`pierfs test NAME` shows which step fails"
	case control.Failed, control.Internal:
		return "`pierfs trace NAME` shows what was said to the server; the daemon's log tells more"
	}
	return ""
}

// isAbsent reports whether err says that something local is not there.
func isAbsent(err error) bool { return errors.Is(err, os.ErrNotExist) }
