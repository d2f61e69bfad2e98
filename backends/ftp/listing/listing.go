// Package listing reads what FTP servers say of files: the facts of MLST and MLSD (RFC 3659 section 7), and the lines of
// LIST and STAT, which no document describes. It opens no connection and asks no clock.
//
// It promises three things. Nothing is taken for whole that is not: a last line without its end is an error. Nothing is
// dropped in silence: a line that nobody can read and a name that may not cross the seam are counted, and the first such
// lines are shown to whoever wants to see them. And nothing is made up: an Info knows only what the server really said, so
// that an entry without HasType is one that the server must be asked about (MLST, or CWD), before anybody believes anything
// of it.
//
// What a server lists may be written by anybody who can make a file there. A name with a line feed in it becomes two lines,
// and the second may look like an entry of its own choosing; this cannot be told from a real one, here or anywhere. Such an
// entry cannot lead out of its directory, it cannot take the place of one that was listed before it, and it is no more than
// a name that will not be found.
//
// A Listing is used by one goroutine.
package listing

import (
	"io"
	"iter"
	"time"

	"pierfs/backends"
)

// Format is how a server writes its listings.
type Format uint8

const (
	Facts Format = iota // MLSD and MLST
	Lines               // LIST and STAT: Unix, DOS, EPLF, each line as it comes
)

// Bounds of one listing. Beyond them it ends with an error (EFBIG).
const (
	MaxEntries = 1_000_000
	MaxBytes   = 256 << 20
	MaxLine    = 64 << 10
)

// Options say what a listing alone does not tell. The zero value reads facts well, and lines as of a server on UTC in 1970.
type Options struct {
	// Now is the present. The year of a date that has none is told from it.
	Now time.Time

	// Zone is where the server's clock stands that LIST tells the times of. The zero Zone is UTC, known to nobody.
	Zone Zone

	// Unreadable is told of the first few lines that nobody can read, quoted and cut; nil if nobody listens.
	Unreadable func(line string)
}

// Entry is what a server said of one name. The Info's Name is the bare element, its Known says what was told. ModTime is UTC
// for Facts, and by Options.Zone for Lines. Size is known for files and, where the server tells it, directories; of a link it is
// the length of Target, if that was told, and never what the server says. Devices, pipes and sockets have their type in Mode.
type Entry struct {
	backends.Info

	// Target is a link's content, if the server told it; "" otherwise. Ask the server only where it matters.
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
}

// Counts are what a Listing came across.
type Counts struct {
	Bytes      int64
	Entries    int // yielded
	Unreadable int // lines that nobody can read
	Hidden     int // names that may not cross the seam: backends.CheckElement refuses them
	Doubles    int // entries whose name had come before
}

// Listing is one listing on its way.
type Listing struct {
	r      io.Reader
	format Format
	o      Options
	counts Counts
	self   Entry
	isSelf bool
}

// Read returns the listing that comes out of r. Nothing is read before the iteration begins.
func Read(r io.Reader, f Format, o Options) *Listing { return &Listing{r: r, format: f, o: o} }

// Status returns the listing in a reply to "STAT path", whose lines are those of the whole reply without code and line ends. The
// first and last are the server's own words. Format is Lines, always.
func Status(lines []string, o Options) *Listing { return &Listing{format: Lines, o: o} }

// Entries yields the entries as they arrive, without the directory itself and its parent; of two with equal names the first. It may be ranged
// over once. An error is yielded once, last, with a zero Entry, and is r's own, or an *Error: what came before is then not
// the whole directory.
func (l *Listing) Entries() iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {}
}

// Counts returns what was come across so far.
func (l *Listing) Counts() Counts { return l.counts }

// Self returns what the listing has said so far of the directory itself: the fact "type=cdir", or the line of ".". That there
// is one proves that the directory exists.
func (l *Listing) Self() (Entry, bool) { return l.self, l.isSelf }

// One reads the reply to "MLST path", whose lines are those of the whole reply without code and line ends. The Entry's Name is the last
// element of the name that the server repeats, and may be "" or what it never was: who asked knows better. A reply
// that says nothing of a file is an *Error.
func One(lines []string) (Entry, error) { return Entry{}, nil }
