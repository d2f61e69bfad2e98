package ftp

import (
	"errors"
	"slices"
	"strings"
	"syscall"

	"pierfs/backends"
	"pierfs/backends/ftp/wire"
)

// checkName returns nil if name may be sent. A CR, an LF or a NUL would end the command, or the name.
func checkName(op, name string) error {
	if err := backends.CheckName(op, name); err != nil {
		return err
	}
	if strings.ContainsAny(name, "\r\n") {
		return &backends.Error{Op: op, Name: name, Code: syscall.EINVAL, Err: errors.New("FTP has no way to name this")}
	}
	return nil
}

// path is name as it is sent. proftpd obeys what Telnet means by 0xFF, so that one is sent for it as two (RFC 854); others take
// the second for a part of the name.
func (b *Backend) path(name string) string {
	b.mu.Lock()
	root, f := b.root, b.offered
	b.mu.Unlock()
	p := under(root, name)
	if strings.IndexByte(p, 0xff) >= 0 && isProFTPD(f) {
		p = strings.ReplaceAll(p, "\xff", "\xff\xff")
	}
	return p
}

func under(root, name string) string {
	switch {
	case name == "":
		return root
	case root == "/":
		return "/" + name
	}
	return root + "/" + name
}

// parent returns the directory that holds name.
func parent(name string) string {
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		return name[:i]
	}
	return ""
}

// base returns the last element of name; "" for the working directory.
func base(name string) string { return name[strings.LastIndexByte(name, '/')+1:] }

func join(dir, element string) string {
	if dir == "" {
		return element
	}
	return dir + "/" + element
}

// offers reports whether FEAT has the line.
func offers(f wire.Features, line string) bool {
	return slices.ContainsFunc(f.Other, func(other string) bool { return strings.EqualFold(other, line) })
}

// isPure tells pure-ftpd, by an extension that nobody else has.
func isPure(f wire.Features) bool { return offers(f, "ESTP") }

// isProFTPD tells proftpd, by facts that nobody else tells.
func isProFTPD(f wire.Features) bool { return slices.Contains(f.Facts, "unix.groupname") }

// keepsDir is keeps for a directory that is to be made: proftpd (1.3.8) makes none with a star in its path.
func keepsDir(f wire.Features, name string) error {
	if isProFTPD(f) && strings.Contains(name, "*") {
		return refuse(syscall.EINVAL, "the server makes no directory with a star in its name")
	}
	return keeps(f, name)
}

// pureLimit is what pure-ftpd lists at most, without a word about it in a reply to STAT; "." and ".." may be among them.
const pureLimit = 10_000 - 2

// keeps returns nil if the server makes an entry of just this name, EINVAL if it is known to make another one of it: pure-ftpd
// (1.0.50) cuts off trailing spaces, makes "_" of control characters, and prohibits backslashes.
func keeps(f wire.Features, name string) error {
	if !isPure(f) {
		return nil
	}
	for element := range strings.SplitSeq(name, "/") {
		odd := strings.HasSuffix(element, " ") || strings.ContainsFunc(element, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\\' })
		if odd {
			return refuse(syscall.EINVAL, "the server would make another name of %q", element)
		}
	}
	return nil
}
