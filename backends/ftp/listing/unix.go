package listing

import (
	"os"
	"strconv"
	"strings"

	"pierfs/backends"
)

const maxColumns = 12 // between the permissions and the size; owners may have spaces in their names

var unixTypes = map[byte]os.FileMode{
	'-': 0, 'd': os.ModeDir, 'l': os.ModeSymlink, 'b': os.ModeDevice, 'c': os.ModeDevice | os.ModeCharDevice,
	'p': os.ModeNamedPipe, 's': os.ModeSocket, 'D': os.ModeIrregular,
}

// unix reads a line as ls -l writes it. Nobody agrees on the columns between the permissions and the size, so that the
// leftmost size with a date behind it is what the line is read by; the name is all that follows the date and one space.
func (o Options) unix(s string) (Entry, bool) {
	kind, ok := unixTypes[s[0]]
	if !ok {
		return Entry{}, false
	}
	e := Entry{Info: backends.Info{Mode: kind, Known: backends.HasType}}
	rest, ok := e.permissions(s[1:])
	if !ok {
		return Entry{}, false
	}
	var columns []string
	for len(columns) < maxColumns {
		column, after := word(rest)
		if column == "" {
			return Entry{}, false
		}
		rest = after
		if strings.HasSuffix(column, ",") && kind&os.ModeDevice != 0 {
			continue // the device's major number; the minor stands where a size would
		}
		if size, ok := parseSize(column); ok {
			if wall, unit, name, ok := o.date(rest); ok {
				e.Size, e.Known = size, e.Known|backends.HasSize
				e.setTime(wall, unit, o.Zone)
				e.owners(columns)
				e.setName(name)
				return e, true
			}
		}
		columns = append(columns, column)
	}
	return Entry{}, false
}

// permissions reads "rwxr-sr-t" with a mark of SELinux or an ACL behind it, or those of NetWare ("[RWCEAFMS]"), which are
// no mode.
func (e *Entry) permissions(s string) (rest string, ok bool) {
	if netware := strings.TrimLeft(s, " "); strings.HasPrefix(netware, "[") {
		_, rest, ok := strings.Cut(netware, "]")
		return rest, ok && strings.HasPrefix(rest, " ")
	}
	if len(s) < 10 {
		return "", false
	}
	for i, c := range []byte(s[:9]) {
		bit := os.FileMode(1) << (8 - i)
		special := setBitAt[i]
		switch {
		case c == '-':
		case c == "rwx"[i%3]:
			e.Mode |= bit
		case special != 0 && (c == 's' || c == 't'):
			e.Mode |= bit | special
		case special != 0 && (c == 'S' || c == 'T' || c == 'l' || c == 'L'):
			e.Mode |= special
		default:
			return "", false
		}
	}
	e.Known |= backends.HasPerm
	rest = s[9:]
	if strings.IndexByte(".+@", rest[0]) >= 0 {
		rest = rest[1:]
	}
	// A server that gives the number of links four columns leaves no space before it.
	return rest, rest != "" && (rest[0] == ' ' || rest[0] >= '0' && rest[0] <= '9')
}

var setBitAt = [9]os.FileMode{2: os.ModeSetuid, 5: os.ModeSetgid, 8: os.ModeSticky}

// owners reads what stands before the size: links, owner and group, of which each may be missing.
func (e *Entry) owners(columns []string) {
	if len(columns) == 3 || len(columns) > 0 && isDecimal(columns[0]) {
		if n, err := strconv.ParseUint(columns[0], 10, 32); err == nil {
			e.Nlink, e.Known = uint32(n), e.Known|backends.HasNlink
		}
		columns = columns[1:]
	}
	if len(columns) == 0 {
		return
	}
	e.Owner, e.Group = columns[0], strings.Join(columns[1:], " ")
	if uid, gid := parseID(e.Owner), parseID(e.Group); uid.ok && gid.ok {
		e.UID, e.GID, e.Known = uid.n, gid.n, e.Known|backends.HasOwner
	}
}

const arrow = " -> "

// setName takes the rest of a line for the name, and for a link's target behind an arrow. Both may have an arrow in them:
// where the size is the length of the target, as on every Unix, it tells which one is meant; else the first.
func (e *Entry) setName(s string) {
	e.Name = s
	switch {
	case e.IsDir():
		e.Name = strings.TrimSuffix(s, "/") // ls -F
	case e.Mode&os.ModeSymlink != 0:
		if cut := int64(len(s)-len(arrow)) - e.Size; e.Size > 0 && cut > 0 && s[cut:cut+int64(len(arrow))] == arrow {
			e.Name, e.Target = s[:cut], s[cut+int64(len(arrow)):]
			return
		}
		e.Name, e.Target, _ = strings.Cut(s, arrow)
	}
}

// word cuts the first word off s, and leaves what follows as it is.
func word(s string) (first, rest string) {
	s = strings.TrimLeft(s, " ")
	end := strings.IndexByte(s, ' ')
	if end < 0 {
		return s, ""
	}
	return s[:end], s[end:]
}
