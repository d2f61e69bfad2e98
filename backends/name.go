package backends

import (
	"context"
	"errors"
	"strings"
	"syscall"
)

// MaxElement is the longest name element in bytes that may cross the seam: Linux' NAME_MAX.
const MaxElement = 255

// CheckName returns nil if name may cross the seam: "" (the working directory) or elements joined by single slashes, each
// as CheckElement wants it. Names are bytes otherwise: no encoding is demanded and nothing is folded. A protocol that can
// carry less (FTP: no CR, no LF) refuses the rest itself, before it sends anything.
func CheckName(op, name string) error {
	if name == "" {
		return nil
	}
	for element := range strings.SplitSeq(name, "/") {
		if code := CheckElement(element); code != 0 {
			return &Error{Op: op, Name: name, Code: code, Err: errors.New("no server can be asked for this name")}
		}
	}
	return nil
}

// ClaimName returns a second temporary name beside temp, by which an exclusive Create may be known: a Backend that can make
// links makes the empty file there and gives it the name by a link, which it takes away when the server has answered. If the
// answer is lost, whoever repeats the call finds both and can prove that they are one file, or that they are not. "" if temp
// leaves no room for it.
func ClaimName(temp string) string {
	claim := temp + "~"
	if temp == "" || len(claim)-strings.LastIndexByte(claim, '/')-1 > MaxElement {
		return ""
	}
	return claim
}

// AsideMark is what each AsideName ends with. The element before it is that of the name behind a dot, unless it had to be cut.
const AsideMark = ".pierfs-old~"

// AsideName is where the content of name waits while another takes its place, on a server that cannot replace it in one step.
func AsideName(name string) string {
	element := name[strings.LastIndexByte(name, '/')+1:]
	return strings.TrimSuffix(name, element) + "." + element[:min(len(element), MaxElement-len(AsideMark)-1)] + AsideMark
}

// CheckElement returns 0 if element may be one element of a name, ENAMETOOLONG beyond MaxElement bytes, and EINVAL for
// "", ".", "..", a slash, and NUL, which ends an OpenSSH session (measured with 9.2). It is asked for names in both
// directions: what a server lists is no more to be trusted than what a program asks for.
func CheckElement(element string) syscall.Errno {
	switch {
	case len(element) > MaxElement:
		return syscall.ENAMETOOLONG
	case element == "" || element == "." || element == "..":
		return syscall.EINVAL
	case strings.ContainsAny(element, "/\x00"):
		return syscall.EINVAL
	}
	return 0
}

// contextErrno is what an ended context means to the kernel; EIO for any other error.
func contextErrno(err error) syscall.Errno {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return syscall.ETIMEDOUT
	case errors.Is(err, context.Canceled):
		return syscall.EINTR
	}
	return syscall.EIO
}
