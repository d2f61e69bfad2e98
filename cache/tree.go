// Package cache is one connection's tree as this machine knows it, and its word of honour.
//
// A Tree answers questions about names from what the server said a short while ago, reads content through open files,
// and keeps what programs write in staging files until it is published: gathered on the server under a temporary name,
// verified there, and only then given its name. Publish returns when the server has the content, or with the reason why
// not; nothing is acknowledged before.
//
// Both doors, the kernel's (package fs) and the operator's (file verbs), open into the same Tree. A Tree knows neither.
//
// Its parts: attr remembers names and attributes with their age; spool keeps content on local disk and knows which
// ranges of it are real. A File is the content that bears a name, shared by everybody who has it open; what was written
// to it and is not yet published lies over all answers about its name.
//
// Locks, in the order in which they are taken: a File's turn (held over the network by whoever publishes, renames or
// removes the file; a channel, so that waiting for it ends with the context), Tree.mu, File.mu. The latter two are held
// over memory and local disk only.
package cache

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"log/slog"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"pierfs/backends"
	"pierfs/backends/retry"
	"pierfs/cache/attr"
	"pierfs/cache/spool"
)

// Options are what New needs besides the backend.
type Options struct {
	// Staging is a directory of this tree alone, under the state directory and never under the cache directory, for the
	// cache may be deleted at any time and what is staged may not. New makes it (0700). What a former daemon left in it
	// is moved to Quarantine and never published: nobody can tell whether it was complete.
	Staging    string
	Quarantine string

	// Spool is where content that was read is kept, and nothing that is owed. What was kept is read again only where the
	// server still tells the same size, time and identity. Nil: nothing is kept, and large files are read without a copy.
	Spool *spool.Shelf

	// Known is the file, under the cache directory, in which Background keeps what is known of names for the next daemon. "": nowhere.
	Known string

	// TempName is the pattern of the names under which uploads gather, with NAME and XXXX for the name and a random
	// part; "" is DefaultTempName, TempNone writes the name itself, for servers that allow nothing else.
	TempName string

	// DoneFile is the pattern of the name, with NAME in it, of an empty file that is written after a content has got its name as a
	// whole, or was changed in place, for a program at the server that waits for it. "": none is.
	DoneFile string

	// CompareEnds has what was appended in place read back and compared; what arrives as a whole is compared by the backend.
	CompareEnds bool

	// InPlace has small changes inside a large file written into the file itself, where the server can; see patch.go.
	InPlace bool

	// Ahead bounds what is fetched ahead of readers, of all trees that share it; nil bounds each tree by itself.
	Ahead *Budget

	MetadataTTL time.Duration // how long an answer of the server may be used again; 0 asks every time
	NegativeTTL time.Duration // the same for absent names
	MaxEntries  int           // names remembered at most; 0 is DefaultMaxEntries

	// Background makes Publish return when content and its entry in the journal are on this machine's disk; uploads follow. What
	// a former daemon owed is sent in either case. Target names the server, the login and the working directory in any words:
	// what is owed to one target is never sent to another. Host is this machine's name, for contents that Conflict puts beside others.
	Background bool
	Target     string
	Host       string
	Conflict   Conflict

	// StagingLimit is how many bytes of this machine's disk contents may take that the server does not have; who writes more gets
	// ENOSPC. 0 leaves it to the disk.
	StagingLimit int64

	// Passthrough lets the kernel write new contents to their staging files by itself, with Background and if File.Ride is asked for
	// them. Their file system must keep them within StagingLimit then, or it has no effect; see Tree.Riding.
	Passthrough bool

	// Hook is told right before and after each step on the disk and each change at the server; see Sites. Nil: nobody listens.
	Hook func(site string)

	Retry  retry.Policy // for whole uploads; single calls are repeated below the seam
	Logger *slog.Logger // nil logs nothing
}

// Defaults of Options.
const (
	DefaultTempName   = ".NAME.pierfs-XXXX"
	TempNone          = "none"
	DefaultMaxEntries = 5_000_000
)

// Entry is what the tree knows of a name.
type Entry struct {
	backends.Info

	// Valid is how long this answer may be used without asking again; beside ENOENT it is that of the absence.
	Valid time.Duration

	// Linked is the same for all names of one file that are known to be its names, and of no other; 0 for a file that is
	// known by one name only.
	Linked uint64

	// Version tells contents apart: two Entries of one name with different versions must not share cached pages, for
	// somebody else changed the content on the server. What is written through this tree, and what others only append,
	// keeps the version as long as the file is open.
	Version uint64
}

// Tree is one connection's directory tree. Its methods may be called from many goroutines at once. Names are those of
// package backends, and so are the errors.
type Tree struct {
	backend backends.Backend
	options Options
	log     *slog.Logger
	attrs   *attr.Store
	kept    kept
	lending lending
	ride    ride
	looks   looks
	walks   walks
	nexts   nexts
	staged  atomic.Uint64 // numbers staging files

	ctx    context.Context // ends when the Tree is closed; bears what outlives a request
	cancel context.CancelFunc
	work   sync.WaitGroup // goroutines of listings and of reading ahead

	mu        sync.Mutex
	ended     [1 << 12]uint64      // counts the Files that ended, by a hash of their names; see era
	files     map[string]*File     // open files by the name they bear; a removed file is in nobody's way here
	links     map[string]*names    // files of several names, by each of these; see link.go
	temps     map[string]time.Time // temporary names of uploads under way, and when others were freed
	targets   map[string]string    // of the temporary names in use: what an upload is to give its content to
	leftovers leftovers
	litter    litter                   // temporary names that may be left on the server
	busy      map[string]chan struct{} // names that are being changed at the server; see change.go
	moves     uint64                   // counts renames of what may be a directory; see era
	closed    bool

	small        atomic.Int64  // bytes of small files held in memory, at most smallFiles
	counters     counters      // of what was read from here and from the server
	pace         pace          // of a server that can only stream
	transfers    chan struct{} // holds a token for each file that is being streamed; see transferTurn
	uploads      turn          // has room for as many uploads as may be under way at a time; nil if that is no matter
	shortUploads turn          // the same for short ones
	waiting      atomic.Int64  // files that wait to be
	aheads       aheads        // of readers
	earlies      atomic.Int64  // contents that travel while they are written, at most maxEarly
	cutListing   atomic.Bool   // it was told that the server cuts listings
	lastError    atomic.Pointer[error]

	directs directs // where contents do not gather beside their names

	*ledger // what is owed
}

// New returns the tree of b, which it owns from then on. It does not wait for the server, and asks it nothing but where a former
// daemon owed something.
func New(b backends.Backend, o Options) (*Tree, error) {
	if o.TempName == "" {
		o.TempName = DefaultTempName
	}
	if o.MaxEntries == 0 {
		o.MaxEntries = DefaultMaxEntries
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	streams := b.Caps().Streams
	t := &Tree{
		backend: b, options: o, log: o.Logger, attrs: attr.New(o.MaxEntries), kept: newKept(), looks: newLooks(), walks: newWalks(), nexts: newNexts(),
		files: map[string]*File{}, links: map[string]*names{}, temps: map[string]time.Time{}, targets: map[string]string{},
		busy: map[string]chan struct{}{}, transfers: make(chan struct{}, maxTransfers), aheads: aheads{budget: o.Ahead},
		ledger: newLedger(o),
	}
	if o.Hook != nil {
		t.backend = hooked{b, o.Hook}
	}
	if streams > 0 {
		t.uploads = make(turn, max(1, streams-1)) // one is left for who reads, if there are two
		t.shortUploads = make(turn, max(cap(t.uploads), b.Caps().Shorts))
		t.transfers = make(chan struct{}, min(streams, maxTransfers))
	}
	if err := t.recoverStaging(); err != nil {
		return nil, fmt.Errorf("staging of %q: %w", o.Staging, err)
	}
	_ = t.Riding() // it is told in the log, and by Weaker
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.leftovers = newLeftovers(o.TempName)
	m := t.recallKnown()
	var news <-chan struct{}
	if m != nil {
		news = t.attrs.Note()
		t.keepStamps(m)
	}
	t.resume()
	if m != nil {
		t.work.Add(1)
		go t.keepKnown(m, news) // ends with the Tree
	}
	t.sweep() // what a former daemon has left, as soon as the server answers
	if t.journal != nil {
		t.work.Add(2)
		go t.drain()       // ends with the Tree
		go t.makeChanges() // the same
	}
	return t, nil
}

// Caps tells what the server can do.
func (t *Tree) Caps() backends.Caps { return t.backend.Caps() }

// Extends reports whether a content may gather under another name beside name, by what is written to its end and is at the server when its
// Publish returns, and then take the name.
func (t *Tree) Extends(name string) bool {
	c := t.Caps()
	return !t.options.Background && t.options.DoneFile == "" && !t.direct(name) && (c.Append || c.RandomWrite) && !c.ReadOnly
}

// Sum has the server add up the file name. It is EOPNOTSUPP where the server does not, and where what it has is not all that name holds here.
func (t *Tree) Sum(ctx context.Context, name string) (backends.Sum, error) {
	if t.live(name) != nil || t.changes.concern(name) || !t.Caps().Sums {
		return backends.Sum{}, &backends.Error{Op: "sum", Name: name, Code: syscall.EOPNOTSUPP}
	}
	return t.backend.Sum(ctx, name)
}

// StatFS tells the room on the server; of a server that does not tell (FTP), that for staging here, which bounds what a
// program can write at a time. It asks every time.
func (t *Tree) StatFS(ctx context.Context) (backends.Space, error) {
	space, err := t.backend.StatFS(ctx)
	if err != nil && backends.Errno(err) != syscall.EOPNOTSUPP || space.Total != 0 {
		return space, err
	}
	var here unix.Statfs_t
	if err := unix.Statfs(t.options.Staging, &here); err != nil {
		return space, fault("statfs", "", err)
	}
	size := uint64(here.Frsize)
	space.Total, space.Free, space.Avail = here.Blocks*size, here.Bfree*size, here.Bavail*size
	return space, nil
}

// Stat describes name without following a link. What is written here and not yet published lies over what the server
// said, and that is asked for only when what is known is older than its lifetime. ENOENT comes with Entry.Valid.
func (t *Tree) Stat(ctx context.Context, name string) (Entry, error) {
	if err := backends.CheckName("stat", name); err != nil {
		return Entry{}, err
	}
	if f := t.live(name); f != nil && f.Dirty() {
		return f.entry(), nil
	}
	if t.changes.concern(name) {
		return t.statBehind(ctx, name)
	}
	e, ok, err := t.known(ctx, name)
	if !ok {
		if e, err = t.look(ctx, name); t.isAway(ctx, err) {
			return t.lastKnown(name)
		}
		return e, err
	}
	if e.Valid < t.options.NegativeTTL/2 || err == nil && e.Valid < t.options.MetadataTTL/2 {
		t.renew(name)
	}
	if t.walks.on.Load() {
		t.visited(parent(name))
	}
	return e, err
}

// Refresh is Stat that asks the server, whatever is known.
func (t *Tree) Refresh(ctx context.Context, name string) (Entry, error) {
	if t.changes.concern(name) {
		return t.statBehind(ctx, name)
	}
	e, err := t.refresh(ctx, name)
	if t.isAway(ctx, err) {
		return t.lastKnown(name)
	}
	return e, err
}

func (t *Tree) refresh(ctx context.Context, name string) (Entry, error) {
	for {
		mark, asked := t.attrs.Mark(), time.Now()
		info, err := t.ask(ctx, name)
		if f := t.live(name); f != nil && f.Dirty() {
			return f.entry(), nil
		}
		switch {
		case err == nil && t.attrs.Answer(name, info, asked, mark):
			if e, ok := t.entry(ctx, name, info, asked, mark); ok {
				return e, nil
			}
		case errors.Is(err, os.ErrNotExist) && t.comesBack(ctx, name):
			continue // it may have come back
		case errors.Is(err, os.ErrNotExist) && t.attrs.AnswerAbsent(name, asked, mark):
			if t.vanished(ctx, name, mark) {
				return t.absent(name, asked)
			}
		case err != nil && !errors.Is(err, os.ErrNotExist):
			return Entry{}, err
		}
		// We changed the name ourselves while the server was asked: the answer may be older than that.
		mark = t.attrs.Mark()
		if known, asked, state := t.attrs.Get(name); state == attr.Present {
			if e, ok := t.entry(ctx, name, known, asked, mark); ok {
				return e, nil
			}
		}
		if err := ctx.Err(); err != nil {
			return Entry{}, err
		}
	}
}

// ask asks the server for name.
func (t *Tree) ask(ctx context.Context, name string) (backends.Info, error) {
	info, err := t.backend.Stat(ctx, name)
	if err != nil {
		return info, err
	}
	return t.told(name, info), nil
}

// told returns what the server said of name, with what is known better: what programs set and the server cannot keep, and what
// it told more exactly before.
func (t *Tree) told(name string, info backends.Info) backends.Info {
	info = t.kept.shown(name, info)
	if known, ok := t.heardOf(name); ok {
		info = finer(known, info)
	}
	return info
}

// heardOf returns what the server said of name before, in a listing too that no program has seen. What a former daemon knew lacks a mode
// or an owner that it changed in its last second.
func (t *Tree) heardOf(name string) (info backends.Info, ok bool) {
	info, asked, state := t.attrs.GetListed(name)
	if isRecalled(asked) {
		info.Known &^= backends.HasPerm | backends.HasOwner
	}
	return info, state == attr.Present
}

// entry joins what the server said with the open file that bears the name, if there is one; false if we changed the name
// since mark, so that the answer is too old to be held against the file.
func (t *Tree) entry(ctx context.Context, name string, info backends.Info, asked time.Time, mark attr.Mark) (Entry, bool) {
	e := Entry{Info: info, Version: fingerprint(info), Valid: max(0, t.options.MetadataTTL-time.Since(asked))}
	e.Name = path.Base(name)
	t.countLinks(name, &e)
	f := t.live(name)
	switch {
	case f == nil:
		return e, true
	case f.observe(ctx, info):
		own := f.entry()
		own.Name, own.Valid = e.Name, e.Valid
		if _, behind := f.behind(); behind {
			own.Valid = 0
		}
		return own, true
	case t.awaits(ctx, name), !t.replaced(f, name, mark):
		return Entry{}, false
	}
	return e, true
}

// replaced makes f bear the name no more, of which the server, asked after mark, told another content; false if we have changed
// the name since.
func (t *Tree) replaced(f *File, name string, mark attr.Mark) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	if t.attrs.Changed(name, mark) {
		return false
	}
	t.detachLocked(f)
	return true
}

// absent is the answer for a name that the server did not have when asked.
func (t *Tree) absent(name string, asked time.Time) (Entry, error) {
	e := Entry{Valid: max(0, t.options.NegativeTTL-time.Since(asked))}
	return e, &backends.Error{Op: "stat", Name: name, Code: syscall.ENOENT}
}

// vanished takes the name from an open file whose name somebody else removed on the server: what is still written to it
// cannot be published. It reports false if we have changed the name since mark, or do so, for that may be the cause: the answer is
// then too old to be held against what bears the name by now.
func (t *Tree) vanished(ctx context.Context, name string, mark attr.Mark) bool {
	if t.live(name) != nil && t.awaits(ctx, name) {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.attrs.Changed(name, mark) {
		return false
	}
	t.unlinkLocked(name)
	f := t.files[name]
	if f == nil {
		return true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if t.attrs.Changed(name, mark) { // it was published just now
		return false
	}
	if !f.dirtyLocked() {
		t.detachLocked(f)
	}
	return true
}

// live returns the open file that bears name, nil if there is none.
func (t *Tree) live(name string) *File {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.liveLocked(name)
}

// below returns the open files that bear dir or a name below it.
func (t *Tree) below(dir string) []*File {
	t.mu.Lock()
	defer t.mu.Unlock()
	var files []*File
	for name, f := range t.files {
		if isBelow(name, dir) {
			files = append(files, f)
		}
	}
	for name := range t.links {
		if f := t.liveLocked(name); f != nil && isBelow(name, dir) && !slices.Contains(files, f) {
			files = append(files, f)
		}
	}
	return files
}

// isBelow reports whether name is dir or lies below it; dir "" holds everything.
func isBelow(name, dir string) bool {
	return dir == "" || name == dir || strings.HasPrefix(name, dir+"/")
}

// detach makes f bear no name in this tree any more, because the name is another content's by now. Who has it open goes
// on reading it; what is still written to it cannot be published.
func (t *Tree) detach(f *File) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	t.detachLocked(f)
}

// detachLocked is detach for a caller who holds mu and f.mu.
func (t *Tree) detachLocked(f *File) {
	t.free(f)
	f.stale = true
}

// free takes f's name from it, if it bears it, and ends the name's era; the caller holds mu and f.mu.
func (t *Tree) free(f *File) {
	if t.files[f.name] == f {
		delete(t.files, f.name)
		*t.endedLocked(f.name)++
	}
}

// fingerprint is the Version of a content that nobody here has open.
func fingerprint(i backends.Info) uint64 {
	h := uint64(14695981039346656037) // FNV-1a; a listing asks for that of each entry
	for _, v := range [...]uint64{uint64(i.Mode.Type()), uint64(i.Size), uint64(i.ModTime.UnixNano())} {
		for range 8 {
			h = (h ^ v&0xff) * 1099511628211
			v >>= 8
		}
	}
	for k := range len(i.ID) {
		h = (h ^ uint64(i.ID[k])) * 1099511628211
	}
	return h
}

// OpenMode says how a file is opened.
type OpenMode struct {
	Read, Write bool
	Truncate    bool        // O_TRUNC
	Create      bool        // O_CREAT
	Exclusive   bool        // O_EXCL, with Create
	Append      bool        // O_APPEND: what is written goes through File.Append
	Perm        os.FileMode // of a file that Create makes
}

// Open opens name, which must be a regular file or, with Create, may be absent. Each successful Open is ended by one
// File.Close. All opens of one name and version share one File, which follows its name through Rename and outlives its
// Remove.
//
// The server is asked for the file's state at every Open, in the flight that opens it, so that an Open never serves a
// version older than itself: an Entry whose Version is not what the caller knew means that somebody else changed it. Where all of
// the content is here, and for who only appends (OpenMode.Append, to write alone) where the server can do that at any place, an answer
// of the server that is not older than its lifetime will do, and nothing is opened there.
// A file that Create makes is on the server when it is published; with Exclusive its empty name is there at once, where
// the server can decide that (Caps.Exclusive).
func (t *Tree) Open(ctx context.Context, name string, mode OpenMode) (*File, Entry, error) {
	if err := backends.CheckName("open", name); err != nil {
		return nil, Entry{}, err
	}
	for {
		if err := t.settled(ctx, name); err != nil {
			return nil, Entry{}, err
		}
		t.comesBack(ctx, name) // a server that does not answer says so to open
		f, err := t.open(ctx, name, mode, t.era(name))
		switch {
		case err == nil:
			if err := t.catchUp(ctx, f); err != nil {
				return nil, Entry{}, errors.Join(err, f.Close(ctx, false))
			}
			return f, f.entry(), nil
		case err != errOvertaken:
			return nil, Entry{}, err
		}
		if err := ctx.Err(); err != nil {
			return nil, Entry{}, err
		}
	}
}

// era is the time between two changes of what a name stands for, as far as they are made here: the end of a File that
// bore it and may have been published, a removal, a rename. What the server said of a name in one era does not hold in
// the next.
type era uint64

// errOvertaken says that an era ended while the server was asked.
var errOvertaken = errors.New("the name was changed meanwhile")

func (t *Tree) era(name string) era {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.eraLocked(name)
}

func (t *Tree) eraLocked(name string) era { return era(*t.endedLocked(name) + t.moves) }

// endedLocked returns the count of ends for name, which other names may share; the caller holds mu.
func (t *Tree) endedLocked(name string) *uint64 {
	h := fnv.New32a()
	io.WriteString(h, name)
	return &t.ended[h.Sum32()%uint32(len(t.ended))]
}

func (t *Tree) open(ctx context.Context, name string, mode OpenMode, now era) (*File, error) {
	f, asked, err := t.openNext(ctx, name, mode)
	if f != nil || err != nil {
		return f, err
	}
	defer asked()
	if mode.Create && mode.Exclusive {
		return t.create(ctx, name, mode, now)
	}
	f, err = t.openNowOrBehind(ctx, name, mode, now)
	if mode.Create && (errors.Is(err, os.ErrNotExist) || errors.Is(err, ErrUnlisted)) {
		return t.create(ctx, name, mode, now)
	}
	return f, err
}

func (t *Tree) openNowOrBehind(ctx context.Context, name string, mode OpenMode, now era) (*File, error) {
	if f := t.live(name); t.changes.concern(name) && (f == nil || !f.Dirty()) {
		if mode.Read && !mode.Truncate {
			_ = t.awaitChanges(ctx, name) // its content is to be had under that name only then; else what is here must do
		}
		if t.changes.concern(name) {
			return t.openBehind(ctx, name, mode, now)
		}
	}
	f, err := t.openExisting(ctx, name, mode, now)
	if t.isAway(ctx, err) {
		return t.openBehind(ctx, name, mode, t.era(name)) // a File may have been made for it, and ended
	}
	return f, err
}

func (t *Tree) openExisting(ctx context.Context, name string, mode OpenMode, now era) (*File, error) {
	if f := t.live(name); f != nil && f.Dirty() {
		if t.join(f) {
			return t.opened(ctx, f, mode)
		}
	}
	if asked, ok := t.justMissed(name); mode.Create && ok {
		_, err := t.absent(name, asked) // the kernel has just asked; asking again would cost a flight for each new file
		return nil, err
	}
	if f, err := t.openKept(ctx, name, mode, now); f != nil || err != nil {
		return f, err
	}
	// Asking for the state and opening go out together, so that both cost one flight.
	reader := t.openAhead(ctx, name, mode)
	e, known := t.askReader(ctx, name, reader)
	var err error
	switch {
	case known:
	case mode.Truncate, t.believes(mode):
		e, err = t.Stat(ctx, name) // the content does not matter, so neither does its last second
	default:
		e, err = t.Refresh(ctx, name)
	}
	if err == nil {
		err = openable(name, e.Info)
	}
	if err != nil {
		reader.drop()
		return nil, err
	}
	reader, e, err = t.openedInstead(ctx, name, mode, e, reader)
	if err != nil {
		reader.drop()
		return nil, err
	}
	f, err := t.joinOrAdd(name, e, now)
	if err != nil {
		reader.drop()
		return nil, err
	}
	if !t.streams() && !f.agrees(e.Info) {
		reader.drop() // it is not of what others have open under this name
		reader = nil
	}
	if err := reader.hand(f, !t.streams()); err != nil {
		return nil, errors.Join(err, f.Close(ctx, false))
	}
	if t.believes(mode) {
		f.mu.Lock()
		f.believed = !f.dirtyLocked()
		f.mu.Unlock()
	}
	return t.opened(ctx, f, mode)
}

// opened finishes an Open of f.
func (t *Tree) opened(ctx context.Context, f *File, mode OpenMode) (*File, error) {
	f.mu.Lock()
	f.reads, f.logs = f.reads || mode.Read, f.logs && mode.onlyAppends()
	f.mu.Unlock()
	if mode.Truncate {
		if err := f.truncate(0); err != nil {
			return nil, errors.Join(err, f.Close(ctx, false))
		}
	}
	return f, nil
}

// openable returns the error of opening what info describes as a file.
func openable(name string, info backends.Info) error {
	var code syscall.Errno
	switch {
	case info.Mode.IsDir():
		code = syscall.EISDIR
	case info.Mode&os.ModeSymlink != 0:
		code = syscall.ELOOP
	case !info.Mode.IsRegular():
		code = syscall.ENXIO
	default:
		return nil
	}
	return &backends.Error{Op: "open", Name: name, Code: code}
}

// ahead is a reader being opened while the file's state is asked for.
type ahead struct {
	done   chan struct{}
	reader backends.Reader
	err    error
	fate   atomic.Int32 // undecided, opened or unwanted: whoever comes second closes the reader that nobody wants
}

const (
	undecided int32 = iota
	opened
	unwanted
)

// openAhead starts to open name for reading, if mode wants that and nothing of it is here yet.
func (t *Tree) openAhead(ctx context.Context, name string, mode OpenMode) *ahead {
	if !mode.Read || mode.Truncate {
		return nil
	}
	if f := t.live(name); f != nil && f.readable() {
		return nil
	}
	if !t.begin() {
		return nil
	}
	a := &ahead{done: make(chan struct{})}
	if info, _, state := t.attrs.Get(name); state == attr.Present {
		ctx = backends.WithSize(ctx, info.Size)
	}
	go func() { // ends with the context, or with the Tree, whose backend is closed then
		defer t.work.Done()
		defer close(a.done)
		a.reader, a.err = t.backend.Open(ctx, name)
		if a.err == nil && !a.fate.CompareAndSwap(undecided, opened) {
			a.reader.Close()
		}
	}()
	return a
}

// hand gives the reader to f, whose content it is for certain if it was compared, or returns why the server would not open it.
func (a *ahead) hand(f *File, compared bool) error {
	if a == nil {
		return nil
	}
	<-a.done
	if a.err != nil {
		return a.err
	}
	f.adopt(a.reader, compared)
	return nil
}

// openedInstead returns e and the reader as what was opened: the name may have been given to another file between the two
// questions, and a server that tells no identity leaves no way to tell it later from one that grew. What was opened must be
// what the name had before or has afterwards, without following a link, for opening follows one that took the name; else
// both are asked for again. A file that grows faster than that is what was opened of it. The reader is nil if there is none,
// or none that can be believed: who reads then opens the file anew, and it must be e.
func (t *Tree) openedInstead(ctx context.Context, name string, mode OpenMode, e Entry, a *ahead) (*ahead, Entry, error) {
	for tries := 1; a != nil && !t.streams(); tries++ {
		<-a.done
		if a.err != nil {
			return a, e, nil
		}
		opened, err := a.reader.Stat(ctx)
		if err != nil || !opened.Known.Has(backends.HasType|backends.HasSize|backends.HasModTime) {
			break
		}
		if t.isOpened(name, opened, e) {
			return a, e, nil
		}
		before := e
		if e, err = t.Refresh(ctx, name); err == nil {
			err = openable(name, e.Info)
		}
		switch {
		case err != nil:
			return a, e, err
		case t.isOpened(name, opened, e):
			return a, e, nil
		case tries < openTries:
		case mayContinue(before.Info, opened) && mayContinue(opened, e.Info):
			e.Size, e.ModTime = opened.Size, opened.ModTime
			e.Version = fingerprint(e.Info)
			t.attrs.Forget(name)
			return a, e, nil
		default:
			a.drop()
			return nil, e, nil
		}
		a.drop()
		a = t.openAhead(ctx, name, mode)
	}
	if a != nil && !t.streams() {
		a.drop()
		a = nil
	}
	return a, e, nil
}

// openTries is how often a file is opened that changes each time.
const openTries = 4

// isOpened reports whether what an open file tells of itself, which may lack its identity, is what the name was said to be.
func (t *Tree) isOpened(name string, opened backends.Info, e Entry) bool {
	if opened.ID == "" {
		opened.ID = e.ID
	}
	return t.kept.shown(name, opened).SameVersion(e.Info)
}

// askReader returns what is known of name if that is fresh and a reader of a server that can only stream says the same: it has
// asked for the file's state in the flight that began its transfer, and asking for it again would be one more.
func (t *Tree) askReader(ctx context.Context, name string, a *ahead) (Entry, bool) {
	mark := t.attrs.Mark()
	info, asked, state := t.attrs.GetListed(name)
	if a == nil || !t.streams() || state != attr.Present || time.Since(asked) >= t.options.MetadataTTL {
		return Entry{}, false
	}
	began := time.Now()
	<-a.done
	if a.err != nil {
		return Entry{}, false
	}
	now, err := a.reader.Stat(ctx)
	now = t.told(name, now)
	if err != nil || !now.Known.Has(backends.HasSize|backends.HasModTime) || now.TimeUnit > 0 || !info.SameVersion(now) || !t.attrs.Answer(name, now, began, mark) {
		return Entry{}, false
	}
	return t.entry(ctx, name, now, began, mark)
}

// drop closes the reader, when it has come, that nobody wants any more.
func (a *ahead) drop() {
	if a != nil && !a.fate.CompareAndSwap(undecided, unwanted) {
		a.reader.Close()
	}
}

// create makes the file name, which is not there, or must not be there with mode.Exclusive.
func (t *Tree) create(ctx context.Context, name string, mode OpenMode, now era) (*File, error) {
	if t.Caps().ReadOnly {
		return nil, &backends.Error{Op: "create", Name: name, Code: syscall.EROFS}
	}
	if name == "" {
		return nil, &backends.Error{Op: "create", Name: name, Code: syscall.EISDIR}
	}
	var writer backends.Writer
	var temp string
	if mode.Exclusive {
		var err error
		if writer, temp, err = t.claim(ctx, name, mode.Perm); err != nil {
			return nil, err
		}
	}
	t.kept.forget(name) // of another's file, if of any
	f := newFile(t, name, t.blank(name, mode.Perm))
	f.writer, f.temp, f.assumed = writer, temp, !mode.Exclusive && !mode.Truncate
	if err := f.stage(); err != nil {
		f.discard()
		return nil, err
	}
	f.reads, f.logs = mode.Read, mode.onlyAppends()
	f.reclaim = mode.Exclusive && writer == nil // whoever was faster than our publication is not replaced by it
	f.change++                                  // its bare existence is unpublished
	f.opens = 1
	if err := t.add(f, mode, now); err != nil {
		f.discard()
		return nil, err
	}
	return f, nil
}

// add makes a file that is being created bear its name, unless somebody was faster.
func (t *Tree) add(f *File, mode OpenMode, now era) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f.writer != nil {
		t.takeClaimed(f.name)
	}
	switch taken := t.files[f.name] != nil; {
	case t.closed:
		return shutDown("create", f.name)
	case taken && mode.Exclusive:
		return &backends.Error{Op: "create", Name: f.name, Code: syscall.EEXIST}
	case taken, !mode.Exclusive && t.eraLocked(f.name) != now, t.busyLocked(f.name) != nil:
		return errOvertaken
	}
	t.unlinkLocked(f.name) // it was free, so it is no name of another file any more
	t.files[f.name] = f
	return nil
}

// takeClaimed takes a name that the server has just given us from a file that somebody opened by it since then, and has not changed:
// what he opened is the empty file that stands for our claim. The caller holds mu.
func (t *Tree) takeClaimed(name string) {
	f := t.files[name]
	if f == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.dirtyLocked() {
		t.detachLocked(f)
	}
}

// claim makes sure that name is ours alone, by the server's decision where it can take one.
func (t *Tree) claim(ctx context.Context, name string, perm os.FileMode) (backends.Writer, string, error) {
	exists := &backends.Error{Op: "create", Name: name, Code: syscall.EEXIST}
	if t.live(name) != nil {
		return nil, "", exists
	}
	if !t.Caps().Exclusive || t.options.Background {
		_, err := t.Refresh(ctx, name)
		switch {
		case err == nil:
			return nil, "", exists
		case !errors.Is(err, os.ErrNotExist) && !errors.Is(err, ErrUnlisted):
			return nil, "", err
		}
		return nil, "", nil
	}
	var temp string
	mode := backends.WriteMode{Perm: perm, Exclusive: true}
	if !t.direct(name) {
		temp = t.tempName(name, true)
		mode.TempName = temp
	}
	w, err := t.backend.Create(ctx, name, mode)
	if err != nil {
		t.notCreated(ctx, temp, err)
	}
	if mode.TempName != "" && wayRefused(err, backends.Info{}) {
		refused := err
		mode.TempName, temp = "", ""
		if w, err = t.backend.Create(ctx, name, mode); err == nil {
			t.wentDirectly(name, backends.Info{}, refused)
		} else {
			err = eitherRefusal(refused, err)
		}
	}
	if err != nil {
		t.attrs.Forget(name)
		return nil, "", err
	}
	return w, temp, nil
}

// blank is what a file that is just being created looks like.
func (t *Tree) blank(name string, perm os.FileMode) backends.Info {
	now := time.Now()
	info := backends.Info{
		Name: path.Base(name), Mode: perm, ModTime: now, AccTime: now, Nlink: 1,
		Known: backends.HasType | backends.HasPerm | backends.HasSize | backends.HasModTime | backends.HasAccTime,
	}
	if caps := t.Caps(); caps.HasLogin {
		info.UID, info.GID = caps.UID, caps.GID
		info.Known |= backends.HasOwner
	}
	return info
}

// joinOrAdd returns the open file that bears name, with one more open, making it if there is none.
func (t *Tree) joinOrAdd(name string, e Entry, now era) (*File, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, shutDown("open", name)
	}
	f := t.liveLocked(name)
	if f == nil {
		if t.eraLocked(name) != now || t.busyLocked(name) != nil {
			return nil, errOvertaken
		}
		if t.links[name] != nil { // the count is ours and changes without the server's saying so
			e.Nlink, e.Known = 0, e.Known&^backends.HasNlink
		}
		f = newFile(t, name, e.Info)
		f.base, f.version, f.logs = e.Info, e.Version, true
		t.files[name] = f
	}
	f.opens++
	return f, nil
}

// join counts one more open of f, unless its last one has just ended.
func (t *Tree) join(f *File) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f.opens == 0 || t.closed {
		return false
	}
	f.opens++
	return true
}

// Owed is what was written here and is not on the server, and what could never be brought there.
type Owed struct {
	Files       int // with something that the server does not have, open or acknowledged, and other changes that are owed
	Bytes       int64
	Oldest      time.Time // since when the oldest acknowledged content waits; zero if none does
	Held        int       // of Files, that are not sent before a person says so
	Conflicts   int       // contents that could not have their name since this Tree was made
	Outage      error     // why nothing can be sent now; nil if something can, or nothing was tried
	Quarantined int       // contents kept in Options.Quarantine for a person to look at
	LastError   error     // of the last publication whose failure no program was told of; nil if there is none
}

// Owed counts what is owed now.
func (t *Tree) Owed() Owed {
	o := Owed{Quarantined: t.quarantined(), Conflicts: int(t.conflicts.Load())}
	if err := t.lastError.Load(); err != nil {
		o.LastError = *err
	}
	for _, f := range t.below("") {
		if f.Dirty() {
			o.Files++
			o.Bytes += f.entry().Size
		}
	}
	o.count(t)
	return o
}

// Close publishes what was only added to open files until ctx ends, quarantines the rest, for nobody can tell whether more was to come, and
// closes the backend. Calls that come later get ESHUTDOWN, those that write to an open file as well. The error names what had to be quarantined. What was
// acknowledged is sent until ctx ends or the server is known to be away; if something of it is left the error is ErrOwed.
func (t *Tree) Close(ctx context.Context) error {
	t.mu.Lock()
	already := t.closed
	t.closed = true
	t.mu.Unlock()
	if already {
		return nil
	}
	t.endNexts()
	errs := t.endFiles(ctx)
	t.emptied(ctx, t.isOffline)
	t.cancel()
	t.walks.stop()
	errs = append(errs, t.backend.Close()) // frees whoever still waits for the server
	t.work.Wait()
	errs = append(errs, t.closeJournal())
	for _, f := range t.below("") { // a mount that was cut off closes nothing
		f.giveBackCopy()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return errors.Join(append(errs, t.litter.close())...)
}

// endFiles ends what programs are still writing.
func (t *Tree) endFiles(ctx context.Context) (errs []error) {
	files := 0
	for _, f := range t.below("") {
		unfinished, err := f.endWriting(ctx)
		if unfinished {
			files++
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	if files > 0 {
		t.log.Warn("files that programs were still writing are kept, and not published: nobody can tell whether they are whole", "files", files,
			"quarantine", t.options.Quarantine)
	}
	return errs
}

func shutDown(op, name string) error {
	return &backends.Error{Op: op, Name: name, Code: syscall.ESHUTDOWN, Err: errors.New("the connection is being closed")}
}
