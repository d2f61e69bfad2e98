// Package listing reads what FTP servers say of files: the facts of MLST and MLSD (RFC 3659 section 7), and the lines of
// LIST and STAT, which no document describes. It opens no connection and asks no clock.
//
// It promises three things. Nothing is taken for whole that is not: a last line without its end is an error. Nothing is
// dropped in silence: a line that nobody can read and a name that may not cross the seam are counted, and the first such
// lines are shown to whoever wants to see them. And nothing is made up: an Info knows only what the server really said, so
// that an entry without HasType is one that the server must be asked about, before anybody believes anything of it.
//
// What a server lists may be written by anybody who can make a file there. A name with a line feed in it becomes two lines,
// and the second may look like an entry of its own choosing (seen on vsftpd 3.0.3, proftpd 1.3.8 and pyftpdlib 1.5.7, for
// LIST and MLSD alike); this cannot be told from a real one, here or anywhere. Such an entry cannot lead out of its
// directory and cannot take the place of one that was listed before it: it is a name that will not be found. Where a server
// is known to end its lines in CR LF and nothing else (Options.CRLF), it takes a name with both in it.
//
// A Listing is used by one goroutine.
package listing

import (
	"hash/maphash"
	"io"
	"iter"
	"path"
	"strconv"
	"strings"
	"syscall"
	"time"

	"pierfs/backends"
)

// Format is how a server writes its listings.
type Format uint8

const (
	Facts Format = iota // MLSD and MLST
	Lines               // LIST and STAT: Unix, NetWare, DOS, EPLF, each line as it comes
)

// Bounds of one listing. Beyond them it ends with an error (EOVERFLOW).
const (
	MaxEntries = 1_000_000
	MaxBytes   = 256 << 20
	MaxLine    = 64 << 10
)

const (
	shown      = 8   // unreadable lines that Options.Unreadable is told of
	shownBytes = 200 // of each
)

// Options say what a listing alone does not tell. The zero value reads facts well, and lines as those of a server on UTC in
// the year 1.
type Options struct {
	// Now is the present. The year of a date that has none is told from it: a server leaves out the year of recent files,
	// so that such a date is the latest one that lies not more than a day ahead of the server's clock.
	Now time.Time

	// Zone is where the server's clock stands that LIST tells the times of.
	Zone Zone

	// CRLF says that lines end in CR LF and nothing else, so that a CR or an LF alone is a part of a name.
	CRLF bool

	// Unreadable is told of the first few lines that nobody can read, quoted and cut; nil if nobody listens.
	Unreadable func(line string)
}

// Entry is what a server said of one name. The Info's Name is the bare element, its Known says what was told. ModTime is UTC
// by the server's word for Facts, and by Options.Zone for Lines. Size is known of files and, where the server tells it, of
// directories; of a link it is the length of Target if that was told, and never what the server says. Devices, pipes and
// sockets have their type in Mode.
//
// Two servers are known to say a type that is not so: MLST of proftpd follows links and then gives the link's size (its
// MLSD does not), and MLSD and MLST of pyftpdlib follow links altogether. LIST and STAT of both tell of links.
type Entry struct {
	backends.Info

	// Target is a link's content, if the server told it; "" otherwise.
	Target string

	// TimeUnit is what ModTime is rounded down to: a second, a minute or a day; 0 without HasModTime.
	TimeUnit time.Duration

	// Rights are what the login may do, as letters of RFC 3659 section 7.5.5 in lower case ("adfr"), if HasRights.
	Rights    string
	HasRights bool

	// Owner and Group are as the server spells them, be it names or numbers; "" if it does not tell.
	Owner, Group string

	// Created is when the file was made; zero if the server does not tell.
	Created time.Time

	place place
}

// place is what an entry is to the directory that is listed.
type place uint8

const (
	child  place = iota
	self         // the directory itself
	parent       // the one above
)

// Counts are what a Listing came across.
type Counts struct {
	Bytes      int64 // of lines, without their ends
	Entries    int   // yielded
	Unreadable int   // lines that nobody can read
	Hidden     int   // names that may not cross the seam, or that no FTP command can carry (CR, or with CRLF one at the end)
	Doubles    int   // entries whose name had come before
}

// Listing is one listing on its way.
type Listing struct {
	lines  iter.Seq2[[]byte, error]
	format Format
	status bool // of a reply, where a file is named by the path asked for
	o      Options

	counts   Counts
	self     Entry
	isSelf   bool
	named    Entry // an entry of a status that is named by an absolute path
	begun    bool  // a line came that was not empty
	indented bool  // and it was set off by a space
	seed     maphash.Seed
	names    map[uint64]struct{}
}

// Read returns the listing that comes out of r. Nothing is read before the iteration begins.
func Read(r io.Reader, f Format, o Options) *Listing {
	return &Listing{lines: split(r, o.CRLF), format: f, o: o}
}

// Status returns the listing in a reply to "STAT path", whose lines are those of the whole reply without code and line
// ends. Its first and last line are the server's own words. If path is a file, the listing has one entry, or none and Self
// is the file: some servers name it by the whole path. A directory that is missing may look like an empty one, without a
// Self (vsftpd, pure-ftpd).
func Status(lines []string, o Options) *Listing {
	return &Listing{lines: inner(lines), format: Lines, status: true, o: o}
}

// Entries yields the entries as they arrive, without the directory itself and its parent; of two with equal names the first.
// It may be ranged over once. An error is yielded once, last, with a zero Entry, and is the reader's own, or an *Error: what
// came before is then not the whole directory.
func (l *Listing) Entries() iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		l.seed, l.names = maphash.MakeSeed(), make(map[uint64]struct{})
		for line, err := range l.lines {
			if err == nil {
				l.counts.Bytes += int64(len(line))
				err = l.bounds()
			}
			if err != nil {
				yield(Entry{}, err)
				return
			}
			e, ok := l.entry(line)
			if !ok || !l.passes(e) {
				continue
			}
			l.counts.Entries++
			if !yield(e, nil) {
				return
			}
		}
		l.settle()
	}
}

// Counts returns what was come across so far.
func (l *Listing) Counts() Counts { return l.counts }

// Self returns what the listing has said so far of the directory itself: the fact "type=cdir", or the line of ".". That there
// is one proves that the directory exists.
func (l *Listing) Self() (Entry, bool) { return l.self, l.isSelf }

// bounds returns an error when the listing is larger than any honest one.
func (l *Listing) bounds() error {
	switch {
	case l.counts.Bytes > MaxBytes:
		return &Error{syscall.EOVERFLOW, "is larger than " + strconv.Itoa(MaxBytes>>20) + " MiB"}
	case l.counts.Entries+l.counts.Unreadable+l.counts.Hidden+l.counts.Doubles >= MaxEntries:
		return &Error{syscall.EOVERFLOW, "has more than " + strconv.Itoa(MaxEntries) + " entries"}
	}
	return nil
}

// entry reads one line; ok is false if it tells of no file.
func (l *Listing) entry(line []byte) (e Entry, ok bool) {
	s := string(line)
	if strings.TrimSpace(s) == "" {
		return Entry{}, false
	}
	first := !l.begun
	l.begun = true
	if l.status && s[0] == ' ' { // proftpd sets each line off by one
		l.indented = l.indented || first
		s = s[1:]
	} else if l.indented {
		l.unreadable(s) // the rest of a name with a line feed
		return Entry{}, false
	}
	switch {
	case l.format == Facts:
		e, ok = facts(s)
	case first && isTotal(s):
		return Entry{}, false
	default:
		e, ok = l.o.line(s)
	}
	if !ok {
		l.unreadable(s)
	}
	return e, ok
}

func (l *Listing) unreadable(line string) {
	l.counts.Unreadable++
	if l.o.Unreadable != nil && l.counts.Unreadable <= shown {
		l.o.Unreadable(strconv.Quote(line[:min(len(line), shownBytes)]))
	}
}

// passes reports whether e is an entry of the directory that may be shown.
func (l *Listing) passes(e Entry) bool {
	isDir := !e.Known.Has(backends.HasType) || e.IsDir()
	switch {
	case e.place == self, e.Name == "." && isDir:
		if !l.isSelf {
			l.self, l.isSelf = e, true
		}
		return false
	case e.place == parent, e.Name == ".." && isDir:
		return false
	case l.status && l.named.Name == "" && strings.HasPrefix(e.Name, "/"):
		l.named = e
		return false
	case backends.CheckElement(e.Name) != 0, !l.o.CRLF && strings.Contains(e.Name, "\r"), strings.HasSuffix(e.Name, "\r"):
		l.counts.Hidden++
		return false
	}
	key := maphash.String(l.seed, e.Name)
	if _, twice := l.names[key]; twice {
		l.counts.Doubles++
		return false
	}
	l.names[key] = struct{}{}
	return true
}

// settle decides at the end what an entry was that is named by an absolute path: if it came alone, what was asked for.
func (l *Listing) settle() {
	c := l.counts
	switch {
	case l.named.Name == "":
	case l.isSelf || c.Entries+c.Unreadable+c.Hidden+c.Doubles > 0:
		l.counts.Hidden++
	default:
		l.self, l.isSelf = l.named, true
		l.self.Name = path.Base(l.named.Name)
	}
}

// settleSize forgets what the server says of the size of a link or a device, and takes that of the link's target.
func (e *Entry) settleSize() {
	if e.Mode.IsRegular() || e.IsDir() || !e.Known.Has(backends.HasType) {
		return
	}
	e.Size, e.Known = 0, e.Known&^backends.HasSize
	if e.Target != "" {
		e.Size, e.Known = int64(len(e.Target)), e.Known|backends.HasSize
	}
}
