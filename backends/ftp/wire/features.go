package wire

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"pierfs/backends"
)

// facts are what MLST and MLSD are to tell; a server leaves out what it does not know. Some tell only part of it unasked
// (pyftpdlib 1.5.7 has UNIX.mode off).
const facts = "type;size;modify;perm;unique;UNIX.mode;UNIX.uid;UNIX.gid;UNIX.owner;UNIX.group;"

// learn asks in one flight for what the server offers, and sets what must be set. Only a protection that is refused (or
// a transfer in binary) ends the login.
func (s *Session) learn() error {
	var commands []string
	if s.tls != nil {
		commands = append(commands, "PBSZ 0", "PROT P")
	}
	if !s.o.PlainNames {
		commands = append(commands, "OPTS UTF8 ON")
	}
	commands = append(commands, "FEAT", "SYST", "TYPE I", "PWD", "OPTS MLST "+facts)
	if s.o.Ahead && !s.o.PASV && !s.o.Active {
		commands = append(commands, "EPSV")
	}
	replies, err := s.say(commands...)
	if err != nil {
		return s.cut(err, "the server hung up after the login")
	}
	said := make(map[string]Reply)
	for i, command := range commands {
		verb, _, _ := strings.Cut(command, " ")
		said[verb] = replies[i] // of the two OPTS none is looked at
	}
	if reply := said["PROT"]; s.tls != nil && !reply.good() {
		return &backends.Error{Op: "connect", Code: syscall.EPROTO, Class: backends.Refused, Cause: backends.CauseTLSRefused,
			Err:  &Refusal{Command: "PROT P", Reply: reply},
			Hint: "the server would send files and listings in the clear, which is not done; have TLS for data allowed there"}
	}
	if reply := said["TYPE"]; !reply.good() && reply.Code != 500 && reply.Code != 502 {
		return &backends.Error{Op: "connect", Code: syscall.EPROTO, Class: backends.Refused, Cause: backends.CauseWrongProtocol,
			Err:  &Refusal{Command: "TYPE I", Reply: reply},
			Hint: "the server would change files on the way; binary transfers must be allowed"}
	}
	if s.home = "/"; said["PWD"].good() {
		if home, err := parsePWD(said["PWD"].text()); err == nil {
			s.home = home
		}
	}
	s.features = features(s.features.Server, said["FEAT"], said["SYST"])
	s.features.PASV = s.o.PASV
	if reply := said["EPSV"]; reply.good() {
		s.next = newExchange("EPSV")
		s.next.reply = reply
		close(s.next.done)
	}
	return nil
}

var errNoPath = errors.New("the reply names no absolute path")

// parsePWD finds the path in `257 "/a ""b""" is the current directory`: quotes in it are doubled (RFC 959 appendix II).
func parsePWD(text string) (string, error) {
	_, rest, ok := strings.Cut(text, `"`)
	if !ok {
		return "", fmt.Errorf("%w: %.100q", errNoPath, text)
	}
	var path strings.Builder
	for {
		part, after, ok := strings.Cut(rest, `"`)
		if !ok {
			return "", fmt.Errorf("%w: %.100q", errNoPath, text)
		}
		path.WriteString(part)
		if !strings.HasPrefix(after, `"`) {
			break
		}
		path.WriteByte('"')
		rest = after[1:]
	}
	if p := path.String(); strings.HasPrefix(p, "/") && !strings.ContainsAny(p, "\r\n\x00") {
		return p, nil
	}
	return "", fmt.Errorf("%w: %.100q", errNoPath, text)
}

// features puts together what the server says of itself. Where it has no FEAT, what is older than FEAT is worth a try.
func features(greeting string, feat, syst Reply) Features {
	f := Features{Server: greeting}
	for i, line := range feat.Lines {
		if i == 0 || i == len(feat.Lines)-1 {
			continue // the server's own words
		}
		if line = strings.TrimSpace(line); line != "" {
			f.Other = append(f.Other, line)
		}
	}
	if feat.Code/100 != 2 {
		f.Size, f.MDTM, f.Restart = true, true, true
		f.Other = nil
	}
	for _, line := range f.Other {
		f.add(line)
	}
	f.identify(syst)
	return f
}

// add takes note of one line of FEAT.
func (f *Features) add(line string) {
	word, rest, _ := strings.Cut(line, " ")
	word, rest = strings.ToUpper(word), strings.TrimSpace(rest)
	switch word {
	case "MLST", "MLSD":
		f.MLST = true
		if facts := list(rest, strings.ToLower); len(facts) > 0 {
			f.Facts = facts
		}
	case "SIZE":
		f.Size = true
	case "MDTM":
		f.MDTM = true
	case "MFMT":
		f.MFMT = true
	case "MFF":
		f.MFF = list(rest, strings.ToLower)
	case "REST":
		f.Restart = strings.EqualFold(rest, "STREAM")
	case "UTF8":
		f.UTF8 = true
	case "HASH":
		f.Hash = hashes(rest)
	case "XCRC", "XMD5", "XSHA1", "XSHA256", "XSHA512":
		f.Sums = append(f.Sums, word)
	case "XSHA": // another name of XSHA1
		f.Sums = append(f.Sums, "XSHA")
	}
}

// list takes "a*;b;c;" apart.
func list(text string, change func(string) string) (out []string) {
	for element := range strings.SplitSeq(text, ";") {
		if element = strings.TrimSuffix(strings.TrimSpace(element), "*"); element != "" {
			out = append(out, change(element))
		}
	}
	return out
}

// hashes are the algorithms of HASH; the one with a star is selected, and comes first.
func hashes(text string) []string {
	out := list(text, strings.ToUpper)
	for element := range strings.SplitSeq(text, ";") {
		if name, ok := strings.CutSuffix(strings.TrimSpace(element), "*"); ok {
			name = strings.ToUpper(name)
			out = append([]string{name}, slices.DeleteFunc(out, func(s string) bool { return s == name })...)
			break
		}
	}
	return out
}

// known are servers that the greeting names, with their version if they tell it.
var known = regexp.MustCompile(`(?i)(vsFTPd|Pure-FTPd|ProFTPD|pyftpdlib|FileZilla Server|Microsoft FTP Service|Serv-U FTP Server)(?: v?([0-9][0-9.a-z]*))?`)

// identify finds out which server it is: by its greeting, or by what none but it has in FEAT.
func (f *Features) identify(syst Reply) {
	name := ""
	if m := known.FindStringSubmatch(f.Server); m != nil {
		name = strings.ToLower(m[1])
		f.LineEnds = name == "vsftpd" && !f.MLST // not for a server that was only guessed
		f.Server = strings.TrimSpace(m[1] + " " + m[2])
	} else if name = f.guess(); name != "" {
		f.Server = name
	} else if syst.good() {
		f.Server = strings.TrimSpace(f.Server + ", " + syst.text()[4:])
	}
	switch name {
	case "vsftpd":
		f.Sequential, f.MDTMSets, f.awaitsNotify, f.unhurried = true, true, true, true
		f.StatLists = !f.MLST
	case "proftpd":
		f.Sequential, f.fragile = true, true
	case "pure-ftpd":
		f.Sequential, f.mute, f.awaitsNotify, f.deaf = true, true, true, true
	}
	f.Chmod = !syst.good() || strings.Contains(strings.ToUpper(syst.text()), "UNIX")
}

// guess names a server whose greeting was changed by its operator.
func (f *Features) guess() string {
	has := func(lines ...string) bool {
		for _, line := range lines {
			if !slices.ContainsFunc(f.Other, func(other string) bool { return strings.EqualFold(other, line) }) {
				return false
			}
		}
		return true
	}
	switch {
	case has("ESTP", "SPSV"), has("PRET", "ESTP"):
		return "pure-ftpd"
	case has("SITE MKDIR", "SITE RMDIR", "SITE UTIME"):
		return "proftpd"
	case !f.MLST && has("EPRT", "EPSV", "MDTM", "PASV", "REST STREAM", "SIZE", "TVFS"):
		return "vsftpd"
	}
	return ""
}
