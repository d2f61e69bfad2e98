package control

import (
	"errors"
	"fmt"
	"net/http"

	"pierfs/conncfg"
)

// Code is the stable word for what went wrong; scripts compare it, and it decides the exit status.
type Code string

const (
	Usage              Code = "USAGE"               // the request makes no sense as written
	BadData            Code = "BAD_DATA"            // what was sent cannot be understood
	NotFound           Code = "NOT_FOUND"           // no such file or directory
	UnknownConnection  Code = "UNKNOWN_CONNECTION"  // no definition or mount bears the name
	UnknownEnvironment Code = "UNKNOWN_ENVIRONMENT" // no environment bears the name
	NotRunning         Code = "NOT_RUNNING"         // no daemon answers on the socket
	Disabled           Code = "DISABLED"            // the connection is switched off
	NotMounted         Code = "NOT_MOUNTED"         // the connection is there but not ready to serve
	Unreachable        Code = "UNREACHABLE"         // the server cannot be reached
	Internal           Code = "INTERNAL"            // our own fault
	System             Code = "SYSTEM"              // this machine lacks something: no /dev/fuse, no fusermount3
	Exists             Code = "EXISTS"              // the name is taken
	NotEmpty           Code = "NOT_EMPTY"           // the directory is not empty
	NoSpace            Code = "NO_SPACE"            // no room at the server or here
	CannotCreate       Code = "CANNOT_CREATE"       // a local file or mount point cannot be made
	Failed             Code = "IO"                  // the server or the disk failed the operation
	Cut                Code = "CUT"                 // a stream ended before its end
	Stuck              Code = "STUCK"               // what is owed waits for a person
	Offline            Code = "OFFLINE"             // the server is known to be away; it is being probed
	Timeout            Code = "TIMEOUT"             // no answer within the deadline
	Busy               Code = "BUSY"                // programs have files open there
	StillOwed          Code = "OWED"                // the server does not have everything that was acknowledged here
	Stopping           Code = "STOPPING"            // the daemon is on its way out
	ProtocolError      Code = "PROTOCOL"            // the other side speaks something else
	NotAllowed         Code = "NOT_ALLOWED"         // this caller may not do this
	PermissionDenied   Code = "PERMISSION"          // the server does not allow it
	ReadOnly           Code = "READ_ONLY"           // the connection is read-only
	AuthFailed         Code = "AUTH_FAILED"         // the server refused the login
	HostKeyUnknown     Code = "HOST_KEY_UNKNOWN"    // nobody vouched for the server's key
	HostKeyChanged     Code = "HOST_KEY_CHANGED"    // the server shows another key than before
	CertUnknown        Code = "CERT_UNKNOWN"        // no authority and nobody else vouched for the server's certificate
	CertChanged        Code = "CERT_CHANGED"        // the server shows another certificate than the one that is trusted
	CertInvalid        Code = "CERT_INVALID"        // the certificate has expired, or is another server's
	ConfigInvalid      Code = "CONFIG"              // a definition has errors
)

// meaning is what a code means outside: the process' exit status after sysexits(3) and the HTTP status.
type meaning struct{ exit, status int }

func (c Code) meaning() meaning {
	switch c {
	case Usage:
		return meaning{64, http.StatusBadRequest}
	case BadData:
		return meaning{65, http.StatusUnprocessableEntity}
	case NotFound, UnknownConnection, UnknownEnvironment:
		return meaning{66, http.StatusNotFound}
	case NotRunning, Disabled, NotMounted, Unreachable:
		return meaning{69, http.StatusConflict}
	case System:
		return meaning{71, http.StatusInternalServerError}
	case Exists, NotEmpty, NoSpace, CannotCreate:
		return meaning{73, http.StatusConflict}
	case Failed, Cut, Stuck:
		return meaning{74, http.StatusBadGateway}
	case Offline, Timeout, Busy, StillOwed, Stopping:
		return meaning{75, http.StatusServiceUnavailable}
	case ProtocolError:
		return meaning{76, http.StatusBadGateway}
	case NotAllowed, PermissionDenied, ReadOnly, AuthFailed, HostKeyUnknown, HostKeyChanged, CertUnknown, CertChanged, CertInvalid:
		return meaning{77, http.StatusForbidden}
	case ConfigInvalid:
		return meaning{78, http.StatusUnprocessableEntity}
	}
	return meaning{70, http.StatusInternalServerError} // Internal, and codes of a newer daemon
}

// Exit returns the exit status after sysexits(3) that goes with c.
func (c Code) Exit() int { return c.meaning().exit }

// Codes returns every code, in the order of their exit statuses, for the page that documents them.
func Codes() []Code {
	return []Code{Usage, BadData, NotFound, UnknownConnection, UnknownEnvironment, NotRunning, Disabled, NotMounted,
		Unreachable, Internal, System, Exists, NotEmpty, NoSpace, CannotCreate, Failed, Cut, Stuck, Offline, Timeout, Busy, StillOwed, Stopping,
		ProtocolError, NotAllowed, PermissionDenied, ReadOnly, AuthFailed, HostKeyUnknown, HostKeyChanged,
		CertUnknown, CertChanged, CertInvalid, ConfigInvalid}
}

// Error is a failure as it travels: what a script compares, what a person reads, and the way out.
type Error struct {
	Code  Code   `json:"code"`
	Text  string `json:"text"`
	Hint  string `json:"hint,omitempty"`
	Cause string `json:"cause,omitempty"` // the seam's stable word, such as host_key_unknown
	// Findings is what is wrong with the definition that it is about.
	Findings []conncfg.Finding `json:"findings,omitempty"`
}

// Error returns the text and what was found, in one line.
func (e *Error) Error() string {
	text := e.Text
	for _, f := range e.Findings {
		text += "; " + f.String()
	}
	return text
}

// Errorf returns an Error without a hint.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Text: fmt.Sprintf(format, args...)}
}

// WithHint returns e with the way out.
func (e *Error) WithHint(format string, args ...any) *Error {
	c := *e
	c.Hint = fmt.Sprintf(format, args...)
	return &c
}

// CodeOf returns the code of the first *Error in err, Internal for any other error, "" for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return Internal
}

// asError returns the *Error in err, or err as an Internal one.
func asError(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return &Error{Code: Internal, Text: err.Error()}
}
