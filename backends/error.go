package backends

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
)

// Error is what went wrong with one call, told for three readers: Code for the kernel, Class for whoever may repeat the
// call, Cause and Hint for the operator.
type Error struct {
	Op   string        // the method's name in lower case, as in Call.Op
	Name string        // what it was asked of; "" for the connection as a whole
	Code syscall.Errno // never 0
	Class
	Cause Cause  // a stable word for scripts; "" where Code says it all
	Hint  string // the way out, for a person; may be empty
	Err   error  // what the server or library said; may be nil
}

// Error tells what was tried, on what, and what the server said.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Name != "" {
		fmt.Fprintf(&b, " %q", e.Name)
	}
	b.WriteString(": ")
	if e.Err == nil {
		b.WriteString(e.Code.Error())
	} else {
		b.WriteString(e.Err.Error())
	}
	return b.String()
}

// Unwrap lets errors.Is(err, os.ErrNotExist) and errors.As(&errno) answer from Code, and what lies below be found, but for
// an io.EOF: that is how libraries tell of a broken connection, and it must never pass for the end of a file.
func (e *Error) Unwrap() []error {
	if e.Err == nil || errors.Is(e.Err, io.EOF) {
		return []error{e.Code}
	}
	return []error{e.Code, e.Err}
}

// Class says what a failed call means for calling again.
type Class uint8

const (
	// Final: the server or we ourselves answered; asking again gets the same answer.
	Final Class = iota
	// Transient: nothing happened, and trying again may succeed (no connection, too many sessions).
	Transient
	// Lost: the request left and no answer came. Whether it happened is unknown: ask for the state before a repeat.
	Lost
	// Refused: login, host key or certificate were refused. Repeating may lock an account, so nobody does by himself.
	Refused
)

func (c Class) String() string {
	switch c {
	case Final:
		return "final"
	case Transient:
		return "transient"
	case Lost:
		return "lost"
	case Refused:
		return "refused"
	}
	return fmt.Sprintf("class(%d)", uint8(c))
}

// Cause is a stable word for what keeps a connection from working. `pierfs test` prints it, scripts compare it.
type Cause string

const (
	CauseDNS             Cause = "dns_failed"
	CauseNoRoute         Cause = "no_route"
	CauseConnRefused     Cause = "connection_refused"
	CauseConnTimeout     Cause = "connect_timeout"
	CauseSilent          Cause = "server_silent"       // connected, but no greeting or no answer in time
	CauseWrongProtocol   Cause = "wrong_protocol"      // something else answers on this port
	CauseConnLost        Cause = "connection_lost"     // was there, broke off
	CauseAlgorithms      Cause = "no_common_algorithm" // SSH or TLS found nothing both sides accept
	CauseHostKeyUnknown  Cause = "host_key_unknown"
	CauseHostKeyChanged  Cause = "host_key_changed"
	CauseAuth            Cause = "auth_failed"
	CauseAuthMethod      Cause = "auth_method_not_offered"
	CausePasswordExpired Cause = "password_expired" // as far as a server tells it
	CauseKeyFile         Cause = "key_unusable"     // a local key, certificate or agent cannot be used
	CauseNoSFTP          Cause = "no_sftp_subsystem"
	CauseWorkingDir      Cause = "workdir_missing"
	CauseWorkingDirPerm  Cause = "workdir_no_permission"
	CauseWorkingDirFile  Cause = "workdir_not_a_directory"
	CauseListPermission  Cause = "no_list_permission"
	CauseTooManySessions Cause = "too_many_sessions"

	CauseTLSVersion     Cause = "tls_version_mismatch"
	CauseTLSMode        Cause = "ftps_mode_wrong" // implicit where explicit is wanted, or the other way round
	CauseTLSRefused     Cause = "tls_refused"     // AUTH or PROT P
	CauseTLSRequired    Cause = "tls_required"    // the server wants what the definition does not ask for
	CauseCertExpired    Cause = "cert_expired"    // or not valid yet
	CauseCertUnknown    Cause = "cert_unknown_authority"
	CauseCertName       Cause = "cert_name_mismatch"
	CauseCertChanged    Cause = "cert_changed" // another one is trusted
	CauseClientCert     Cause = "client_cert_wanted"
	CauseAccount        Cause = "account_wanted"  // ACCT
	CausePassiveBlocked Cause = "passive_blocked" // the control connection works, data connections do not

	CauseWritePermission Cause = "no_write_permission"
	CauseServerReadOnly  Cause = "server_read_only"
	CauseServerFull      Cause = "server_full"  // its disk, or the login's quota
	CauseWriteFailed     Cause = "write_failed" // and the server does not say why

	CauseMismatch Cause = "upload_mismatch" // what arrived is not what was sent: another size, or other bytes

	// The server refuses what a content needs beside its own name: one to gather under, or the renaming. Written to its own name it
	// may still get there.
	CauseTempName Cause = "temp_name_refused"
	CauseRename   Cause = "rename_refused"

	CauseOffline Cause = "offline" // spared: the connection is known to be down and probed in the background
)

// Errno returns the code the kernel is to be told for err: that of the first *Error or syscall.Errno in it, EINTR or
// ETIMEDOUT for an ended context, else EIO. 0 for nil.
func Errno(err error) syscall.Errno {
	if err == nil {
		return 0
	}
	if e, ok := errors.AsType[*Error](err); ok && e.Code != 0 {
		return e.Code
	}
	if code, ok := errors.AsType[syscall.Errno](err); ok && code != 0 {
		return code
	}
	return contextErrno(err)
}

// ClassOf returns the class of the first *Error in err; Final for any other error.
func ClassOf(err error) Class {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Class
	}
	return Final
}

// CauseOf returns the cause of the first *Error in err that has one.
func CauseOf(err error) Cause {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Cause
	}
	return ""
}

// Weaken returns err with cause, which is CauseTempName or CauseRename, if it may be what that says: a refusal for want of a permission,
// of a command, or of such a name, or one that nobody explains. Every other error comes back as it is.
func Weaken(err *Error, cause Cause) *Error {
	if err.Class != Final || err.Cause != "" || !mayDepend(err.Code) {
		return err
	}
	again := *err
	again.Cause = cause
	return &again
}

// mayDepend reports whether a refusal with code may be one of the way, and not of what was to be done.
func mayDepend(code syscall.Errno) bool {
	switch code {
	case syscall.EACCES, syscall.EPERM, syscall.EOPNOTSUPP, syscall.EINVAL, syscall.ENAMETOOLONG, syscall.EXDEV, syscall.EIO:
		return true
	}
	return false
}
