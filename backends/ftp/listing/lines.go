package listing

import (
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	"pierfs/backends"
)

const setBits = os.ModeSetuid | os.ModeSetgid | os.ModeSticky

// line reads one line of LIST or STAT. Its first byte tells who writes so: a digit DOS, a plus EPLF, else Unix.
func (o Options) line(s string) (e Entry, ok bool) {
	switch c := s[0]; {
	case c == '+':
		e, ok = eplf(s)
	case c >= '0' && c <= '9':
		e, ok = o.dos(s)
	default:
		e, ok = o.unix(s)
	}
	if ok {
		e.settleSize()
	}
	return e, ok
}

// isTotal reports whether s is the first line of ls -l: one word and a number ("total 12", "insgesamt 12").
func isTotal(s string) bool {
	word, n, ok := strings.Cut(s, " ")
	return ok && word != "" && isDecimal(strings.TrimSpace(n)) && strings.Trim(word, "0123456789") == word
}

// setTime gives e the time that a server's clock showed.
func (e *Entry) setTime(wall time.Time, unit time.Duration, z Zone) {
	e.ModTime, e.TimeUnit = wall.Add(-z.Offset(wall)), unit
	e.Known |= backends.HasModTime
}

// eplf reads a line of Easily Parsed LIST Format: "+i8388621.29609,m824255902,/,<tab>name".
func eplf(s string) (Entry, bool) {
	told, name, ok := strings.Cut(s[1:], "\t")
	if !ok {
		return Entry{}, false
	}
	e := Entry{Info: backends.Info{Name: name}}
	for fact := range strings.SplitSeq(told, ",") {
		if fact == "" {
			continue
		}
		switch kind, value := fact[0], fact[1:]; kind {
		case '/':
			e.Mode, e.Known = e.Mode|os.ModeDir, e.Known|backends.HasType
		case 'r':
			e.Known |= backends.HasType
		case 's':
			if e.Size, ok = parseSize(value); !ok {
				return Entry{}, false
			}
			e.Known |= backends.HasSize
		case 'm':
			n, ok := parseSize(value)
			if !ok || n > math.MaxUint32 {
				return Entry{}, false
			}
			e.ModTime, e.TimeUnit, e.Known = time.Unix(n, 0).UTC(), time.Second, e.Known|backends.HasModTime
		case 'i':
			e.ID, e.Known = value, e.Known|backends.HasID
		case 'u':
			if n, err := strconv.ParseUint(strings.TrimPrefix(value, "p"), 8, 16); err == nil {
				e.Mode, e.Known = e.Mode|permOf(uint32(n)), e.Known|backends.HasPerm
			}
		}
	}
	return e, true
}

// isDecimal reports whether s is a number and nothing else: no sign, no other base, no space.
func isDecimal(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

// parseSize reads a number of bytes: decimal, and no more than a file can have.
func parseSize(s string) (int64, bool) {
	if !isDecimal(s) {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}

// permOf turns the lower bits of st_mode into the language's.
func permOf(n uint32) os.FileMode {
	mode := os.FileMode(n) & os.ModePerm
	for bit, set := range map[uint32]os.FileMode{0o4000: os.ModeSetuid, 0o2000: os.ModeSetgid, 0o1000: os.ModeSticky} {
		if n&bit != 0 {
			mode |= set
		}
	}
	return mode
}
