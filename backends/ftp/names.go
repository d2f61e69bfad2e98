package ftp

import (
	"context"
	"errors"
	"slices"
	"strings"
	"syscall"

	"pierfs/backends"
	"pierfs/backends/ftp/wire"
)

// checkName returns nil if name may be sent. A CR or an LF would end the command, but to a server that bears them, and a CR
// before an LF or at the end of an element is one that even that would lose.
func (b *Backend) checkName(ctx context.Context, op, name string) error {
	if err := backends.CheckName(op, name); err != nil {
		return err
	}
	if !hasLineEnd(name) {
		return nil
	}
	bears := false
	if !strings.Contains(name, "\r\n") && !strings.Contains(name+"/", "\r/") {
		var err error
		if bears, err = b.bearsLineEnds(ctx); err != nil {
			return b.seam(op, name, err)
		}
	}
	if !bears {
		return &backends.Error{Op: op, Name: name, Code: syscall.EINVAL, Err: errors.New("FTP has no way to name this")}
	}
	return nil
}

func hasLineEnd(name string) bool { return strings.ContainsAny(name, "\r\n") }

// proof is what is known of something that must be proven before it is relied on.
type proof uint8

const (
	unproven proof = iota
	proven
	disproven
)

// bearsLineEnds reports whether a CR and an LF may stand in names. vsftpd (3.0.3) takes a NUL in a command for an LF, as it makes
// a NUL of an LF in a reply, and a CR for itself. That it is vsftpd its greeting says; that nobody on the way cuts, splits or
// cleans commands is proven by two directories that do not exist, unless somebody makes "/" of their names. The first name
// with a line end asks, so that nobody else meets what a firewall makes of a NUL.
func (b *Backend) bearsLineEnds(ctx context.Context) (bool, error) {
	f, err := b.features(ctx)
	if err != nil || !f.LineEnds {
		return false, err
	}
	if known := b.known().lineEnds; known != unproven {
		return known == proven, nil
	}
	err = b.use(ctx, "connect", "", again, func(ctx context.Context, s *wire.Session) error {
		if _, err := s.Do(ctx, "NOOP"); err != nil {
			return err
		}
		const number = "192837465"
		replies, err := s.Do(ctx, "CWD /\x00", "CWD /\r.", "REST "+number, "REST 0", "CWD "+b.Root())
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		found := disproven // also by whoever hangs up at this, or answers more than was asked
		if err == nil && replies[0].Code == 550 && replies[1].Code == 550 && repeats(replies[2], number) {
			found = proven
		} else {
			b.o.Logger.Warn("names with line ends are refused: the server, or somebody on the way to it, changes commands", "server", b.o.Address)
		}
		b.learn(func(l *learned) { l.lineEnds = found })
		return nil
	})
	return b.known().lineEnds == proven, err
}

// path is name as it is sent. A line feed is a NUL there (see bearsLineEnds). proftpd obeys what Telnet means by 0xFF, so that one
// is sent for it as two (RFC 854); others take the second for a part of the name.
func (b *Backend) path(name string) string {
	b.mu.Lock()
	root, f := b.root, b.offered
	b.mu.Unlock()
	p := under(root, name)
	if strings.IndexByte(p, 0xff) >= 0 && isProFTPD(f) {
		p = strings.ReplaceAll(p, "\xff", "\xff\xff")
	}
	return strings.ReplaceAll(p, "\n", "\x00")
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
