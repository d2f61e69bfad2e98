package control

import (
	"errors"
	"os"
	"strings"
	"syscall"
)

// LocalError tells a failure of this machine's own files: with the way out for the file that it is about, where it is about one.
func LocalError(err error) *Error {
	e := &Error{Code: Failed, Text: strings.ReplaceAll(err.Error(), "\n", "; ")} // of joined errors
	name := ""
	if path, ok := errors.AsType[*os.PathError](err); ok {
		name = path.Path
	}
	switch {
	case errors.Is(err, syscall.ENOSPC):
		e.Code = NoSpace
		return e.WithHint("make room on this machine: `df -h` shows where there is none")
	case name == "":
	case errors.Is(err, os.ErrNotExist):
		e.Code = NotFound
		return e.WithHint("there is no such file on this machine: check the name, `ls` shows what is there")
	case errors.Is(err, os.ErrPermission):
		e.Code = PermissionDenied
		return e.WithHint("look at its owner and mode on this machine: `ls -ld %s`", name)
	case errors.Is(err, os.ErrExist):
		e.Code = Exists
		return e.WithHint("it is on this machine: choose another name, or take `%s` away", name)
	default:
		return e.WithHint("this machine says so of `%s`: `ls -ld` and `df -h` tell more", name)
	}
	return e
}
