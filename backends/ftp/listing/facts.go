package listing

import (
	"os"
	"path"
	"strconv"
	"strings"
	"syscall"
	"time"

	"pierfs/backends"
)

// One reads the reply to "MLST path", whose lines are those of the whole reply without code and line ends. The Entry's Name
// is the last element of the name that the server repeats, and may be what nobody asked for: who asked knows better. A reply
// that says nothing of a file is an *Error.
func One(lines []string) (Entry, error) {
	for line := range inner(lines) {
		e, ok := facts(strings.TrimPrefix(string(line), " "))
		if !ok {
			continue
		}
		e.place = child // a directory is a directory, be it the working directory (pdir: pure-ftpd, of "/")
		if e.Name = path.Base(e.Name); e.Name == "/" {
			e.Name = ""
		}
		return e, nil
	}
	return Entry{}, &Error{syscall.EIO, "says nothing of the file"}
}

// facts reads one line of MLSD: facts, a space, and the name as it is.
func facts(line string) (Entry, bool) {
	told, name, ok := cutFacts(line)
	if !ok {
		return Entry{}, false
	}
	e := Entry{Info: backends.Info{Name: name}}
	var f numbers
	for fact := range strings.SplitSeq(told, ";") {
		key, value, _ := strings.Cut(fact, "=")
		e.fact(strings.ToLower(key), value, &f)
	}
	if f.uid.ok && f.gid.ok {
		e.UID, e.GID, e.Known = f.uid.n, f.gid.n, e.Known|backends.HasOwner
	}
	if e.Mode&os.ModeSymlink != 0 {
		e.ID, e.Known = "", e.Known&^backends.HasID // proftpd gives a link the identity of what it leads to
	}
	e.settleSize()
	return e, true
}

// cutFacts cuts a line before the space that ends its facts.
func cutFacts(line string) (told, name string, ok bool) {
	alone, noFacts := strings.CutPrefix(line, " ")
	if told, name, ok = cutTold(alone); !ok && noFacts {
		return "", alone, true
	}
	return told, name, ok // also of a server that sets its lines off by a space
}

// cutTold is cutFacts for a line with facts. The name of a group may have spaces of its own, and a target too, although the
// RFC knows none; and some servers leave out the last semicolon.
func cutTold(line string) (told, name string, ok bool) {
	if end := strings.Index(line, "; "); end >= 0 && wellFormed(line[:end]) {
		return line[:end], line[end+2:], true
	}
	told, name, ok = strings.Cut(line, " ")
	return told, name, ok && wellFormed(strings.TrimSuffix(told, ";"))
}

// wellFormed reports whether told are facts: each a key and a value. Empty ones (";;") are borne.
func wellFormed(told string) bool {
	any := false
	for fact := range strings.SplitSeq(told, ";") {
		key, _, ok := strings.Cut(fact, "=")
		if fact == "" {
			continue
		}
		if any = true; !ok || key == "" || strings.Trim(strings.ToLower(key), "abcdefghijklmnopqrstuvwxyz0123456789.-_") != "" {
			return false
		}
	}
	return any
}

// numbers are what two facts say together.
type numbers struct{ uid, gid number }

type number struct {
	n  uint32
	ok bool
}

func parseID(s string) number {
	n, err := strconv.ParseUint(s, 10, 32)
	return number{uint32(n), err == nil && isDecimal(s)}
}

// fact takes one fact. One whose value cannot be is passed over, as if the server had not told it.
func (e *Entry) fact(key, value string, f *numbers) {
	switch key {
	case "type":
		e.setType(value)
	case "size", "sizd":
		if n, ok := parseSize(value); ok {
			e.Size, e.Known = n, e.Known|backends.HasSize
		}
	case "modify":
		if t, ok := ParseTime(value); ok {
			e.ModTime, e.TimeUnit, e.Known = t, time.Second, e.Known|backends.HasModTime
		}
	case "create":
		e.Created, _ = ParseTime(value)
	case "unique":
		if value != "" {
			e.ID, e.Known = value, e.Known|backends.HasID
		}
	case "perm":
		e.Rights, e.HasRights = strings.ToLower(value), true
	case "unix.mode":
		if n, err := strconv.ParseUint(strings.TrimPrefix(value, "0o"), 8, 16); err == nil { // as Python writes it (pyftpdlib)
			e.Mode |= permOf(uint32(n))
			e.Known |= backends.HasPerm
		}
	case "unix.uid":
		f.uid = parseID(value)
	case "unix.gid":
		f.gid = parseID(value)
	case "unix.owner": // a number on proftpd
		f.uid = either(f.uid, value)
		e.Owner = first(e.Owner, value)
	case "unix.group":
		f.gid = either(f.gid, value)
		e.Group = first(e.Group, value)
	case "unix.ownername":
		e.Owner = value
	case "unix.groupname":
		e.Group = value
	}
}

func either(n number, s string) number {
	if n.ok {
		return n
	}
	return parseID(s)
}

func first(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// setType takes the fact "type". What nobody knows leaves the type unknown.
func (e *Entry) setType(value string) {
	kind, rest, _ := strings.Cut(strings.ToLower(value), "=")
	mode, known := os.FileMode(0), true
	switch {
	case kind == "file":
	case kind == "dir":
		mode = os.ModeDir
	case kind == "cdir":
		mode, e.place = os.ModeDir, self
	case kind == "pdir":
		mode, e.place = os.ModeDir, parent
	case kind == "os.unix" || kind == "os.windows":
		mode, known = osType(rest)
	default:
		known = false
	}
	if !known {
		return
	}
	e.Mode = e.Mode&(os.ModePerm|setBits) | mode
	e.Known |= backends.HasType
	if mode == os.ModeSymlink {
		_, e.Target, _ = strings.Cut(value, ":")
	}
}

// osType is what follows "OS.unix=": a word, and more behind a colon, a dash or nothing.
func osType(s string) (os.FileMode, bool) {
	for word, mode := range map[string]os.FileMode{
		"slink": os.ModeSymlink, "symlink": os.ModeSymlink, "link": os.ModeSymlink,
		"chr": os.ModeDevice | os.ModeCharDevice, "blk": os.ModeDevice,
		"pipe": os.ModeNamedPipe, "fifo": os.ModeNamedPipe, "sock": os.ModeSocket,
	} {
		if strings.HasPrefix(s, word) {
			return mode, true
		}
	}
	return 0, false
}
