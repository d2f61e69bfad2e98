package spool

import (
	"cmp"
	"container/list"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Store is content of many trees in one directory, bounded in bytes, which survives the process. Each tree has a Shelf of
// its own in it; the bound is theirs together, and what was used longest ago goes first, never what is open.
//
// What is written down is true at every moment, power loss included: a large content's ranges are noted when nobody has it
// open any more and its bytes are on the disk (fsync), the note is gone before the first byte changes again, and it holds
// for the inode and the time of its last change alone; a small content carries its checksum. What cannot be so, or what is
// not ours alone, is removed. The directory may be deleted at any time: what is open goes on, the rest is missing.
//
// A large content is <id>.data with <id>.note beside it, a small one <id>.small, in a directory a tree. No id is used twice.
type Store struct {
	dir     string
	log     *slog.Logger
	apart   time.Duration
	now     func() time.Time
	opened  time.Time
	listed  chan struct{} // closed when the names of the files are known that a former process left
	ready   chan struct{} // closed when it is known what is in them
	stopped chan struct{} // closed when the scribe has ended
	bell    chan struct{} // has room for one: there is something to be written down

	mu      sync.Mutex
	size    int64 // bound of used
	floor   Floor
	shelves map[string]*Shelf
	missed  []dropped // what was dropped before ready was closed
	used    int64     // bytes of all entries
	closed  list.List // of *entry that nobody has open, latest used first
	todo    []*entry  // to be written down
	pending int64     // bytes of small contents among todo
	trash   []string  // files to be removed once mu is given back
	ended   bool
}

// Shelf is one tree's part of a Store. The nil Shelf keeps nothing.
type Shelf struct {
	store   *Store
	dir     string
	entries map[string]*entry // by name; guarded by store.mu
}

// entry is what a Store has of one name. Guarded by Store.mu.
type entry struct {
	shelf   *Shelf
	name    string
	version Version
	id      string // of its files; "" if there are none: then it only tells since when the version is known
	seen    time.Time
	bytes   int64 // counted in Store.used
	small   bool
	whole   bool // all of it is here
	file    *File
	content []byte        // of a small one that is not yet written
	ranges  Ranges        // of a large one that nobody has open, unless they are many and noted
	stamp   stamp         // likewise
	noted   bool          // the ranges and the stamp are written down
	gone    bool          // it is in the Store no more
	place   *list.Element // in Store.closed
	taken   uint64        // counts Takes
	queued  bool          // it is in Store.todo
}

// Floor is how much of the local file system must stay free.
type Floor struct {
	Percent int   // of its size
	Bytes   int64 // with Percent: whichever is less
}

// StoreOptions are the bounds of a Store.
type StoreOptions struct {
	Size   int64 // bytes that it may hold; 0 is DefaultSize
	Floor  Floor // zero is DefaultFloor
	Logger *slog.Logger
	Now    func() time.Time // nil is time.Now

	// Apart is how far the clocks of servers and ours may be apart: so long after its last change, beyond the unit of its time, a
	// version is believed to be all that will bear this time. 0 is DefaultApart; with a negative one anything is kept, also
	// what may yet change unseen.
	Apart time.Duration
}

// DefaultApart is how far clocks may be apart.
const DefaultApart = 5 * time.Second

// DefaultSize is how many bytes a Store may hold.
const DefaultSize = 4 << 30

// DefaultFloor is what stays free: 5 % of the file system, or 1 GiB where that is less.
var DefaultFloor = Floor{Percent: 5, Bytes: 1 << 30}

const (
	dataSuffix  = ".data"
	noteSuffix  = ".note"
	smallSuffix = ".small"
	tempSuffix  = ".new"

	// MaxSmall is the longest content that is kept as a small one.
	MaxSmall = 1 << 20
	// maxFiles bounds the entries of a Store, and so the memory that they take: about 400 bytes each.
	maxFiles = 1 << 16
	// overhead is what an entry counts beside its content.
	overhead = 4096
	// maxPending bounds the small contents that wait to be written; further ones are not kept.
	maxPending = 32 << 20
	// fewRanges is how many ranges of a closed entry are kept in memory though they are noted.
	fewRanges = 16
	// surveyWithin is how long after the opening of a Store its users wait for what a former process left.
	surveyWithin = 2 * time.Second
	// closeWithin bounds what Close still writes down.
	closeWithin = 5 * time.Second
)

// OpenStore returns the Store in dir, which it makes (0700) if need be. Nobody else may use dir meanwhile. Whatever in it is
// no part of a Store is removed.
func OpenStore(dir string, o StoreOptions) (*Store, error) {
	s := &Store{dir: dir, log: o.Logger, apart: cmp.Or(o.Apart, DefaultApart), now: o.Now, opened: time.Now(), listed: make(chan struct{}), ready: make(chan struct{}), stopped: make(chan struct{}),
		bell: make(chan struct{}, 1), shelves: map[string]*Shelf{}}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.now == nil {
		s.now = time.Now
	}
	s.SetBounds(o.Size, o.Floor)
	if err := s.own(dir); err != nil {
		return nil, err
	}
	go func() { // ends by Close
		defer close(s.stopped)
		left := s.list()
		close(s.listed)
		s.survey(left)
		s.write()
	}()
	return s, nil
}

// await returns when what a former process left is known, or when that takes long: then it counts as absent for the time being.
func (s *Store) await() {
	<-s.listed
	select {
	case <-s.ready:
		return
	default:
	}
	patience := time.NewTimer(time.Until(s.opened.Add(surveyWithin)))
	defer patience.Stop()
	select {
	case <-s.ready:
	case <-patience.C:
	}
}

// SetBounds changes the bounds, and evicts what is beyond them; 0 and the zero Floor are the defaults.
func (s *Store) SetBounds(size int64, floor Floor) {
	s.mu.Lock()
	defer s.unlock()
	s.size, s.floor = cmp.Or(size, DefaultSize), cmp.Or(floor, DefaultFloor)
	s.makeRoom()
}

// Close writes down what is not yet, within some seconds, and ends the Store. What is still open then is lost with the
// process, but not wrong.
func (s *Store) Close() {
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	s.ring()
	patience := time.NewTimer(closeWithin)
	defer patience.Stop()
	select {
	case <-s.stopped:
	case <-patience.C:
	}
}

// own makes dir if it is not there, and empties it if somebody else may have written to it.
func (s *Store) own(dir string) error {
	info, err := os.Lstat(dir)
	if err == nil && !isOurs(info, os.ModeDir|0o700) {
		s.log.Warn("what lies in place of the cache is thrown away", "path", dir, "mode", info.Mode().String())
		err = cmp.Or(os.RemoveAll(dir), os.ErrNotExist)
	}
	if errors.Is(err, os.ErrNotExist) {
		err = os.MkdirAll(dir, 0o700)
	}
	return err
}

// isOurs reports whether info is of the type and mode want, belongs to us, and bears one name if it is a file.
func isOurs(info os.FileInfo, want os.FileMode) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) == os.Geteuid() && info.Mode() == want && (want.IsDir() || stat.Nlink == 1)
}

// Shelf returns the part for the tree of that identity, which is any text that two trees share only if the same names
// mean the same files in both.
func (s *Store) Shelf(identity string) *Shelf {
	sum := sha256.Sum256([]byte(identity))
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shelfLocked(hex.EncodeToString(sum[:16]))
}

func (s *Store) shelfLocked(base string) *Shelf {
	h := s.shelves[base]
	if h == nil {
		h = &Shelf{store: s, dir: filepath.Join(s.dir, base), entries: map[string]*entry{}}
		s.shelves[base] = h
	}
	return h
}

// unlock gives mu back and removes what is not wanted any more.
func (s *Store) unlock() {
	trash := s.trash
	s.trash = nil
	s.mu.Unlock()
	for _, path := range trash {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			s.log.Warn("cleaning up the cache", "err", err)
		}
	}
}

func (s *Store) ring() {
	select {
	case s.bell <- struct{}{}:
	default: // it will see this too
	}
}

func (e *entry) path(suffix string) string { return filepath.Join(e.shelf.dir, e.id+suffix) }

// count makes e count as n bytes; the caller holds mu.
func (s *Store) count(e *entry, n int64) {
	if !e.gone {
		s.used += n - e.bytes
	}
	e.bytes = n
}

// insert puts e into the Store, in place of what had its name; the caller holds mu.
func (s *Store) insert(e *entry) {
	if old := e.shelf.entries[e.name]; old != nil {
		s.drop(old)
	}
	e.shelf.entries[e.name] = e
	s.used += e.bytes
}

// shut puts e among those that nobody has open, as the latest used; the caller holds mu.
func (s *Store) shut(e *entry) { e.place = s.closed.PushFront(e) }

// drop takes e out of the Store. Who has it open goes on; its files go with the last who has. The caller holds mu.
func (s *Store) drop(e *entry) {
	if e.gone {
		return
	}
	e.gone = true
	delete(e.shelf.entries, e.name)
	s.used -= e.bytes
	if e.place != nil {
		s.closed.Remove(e.place)
		e.place = nil
	}
	if e.file == nil {
		s.discard(e)
	}
}

// discard has e's files removed; the caller holds mu.
func (s *Store) discard(e *entry) {
	switch {
	case e.id == "":
	case e.small:
		s.trash = append(s.trash, e.path(smallSuffix))
	default: // the note first: without the other it says nothing
		s.trash = append(s.trash, e.path(noteSuffix), e.path(dataSuffix))
	}
}

// makeRoom evicts until the bounds are kept, and reports whether they are; the caller holds mu.
func (s *Store) makeRoom() bool {
	short := max(s.used-s.size, s.lacking())
	files := s.closed.Len() - maxFiles
	for short > 0 || files > 0 {
		last := s.closed.Back()
		if last == nil {
			break
		}
		e := last.Value.(*entry)
		short -= e.bytes
		files--
		s.drop(e)
	}
	return short <= 0
}

// lacking returns how many bytes the file system is below the floor; the caller holds mu.
func (s *Store) lacking() int64 {
	var here unix.Statfs_t
	if unix.Statfs(s.dir, &here) != nil {
		return 0 // it was deleted; that is no lack of room
	}
	block := int64(here.Frsize)
	floor := s.floor.Bytes
	if s.floor.Percent > 0 {
		share := int64(here.Blocks) / 100 * int64(s.floor.Percent) * block
		if floor == 0 || share < floor {
			floor = share
		}
	}
	return floor - int64(here.Bavail)*block
}

// HasRoom evicts what may go if there is more than there may be, and reports whether the bounds are kept then.
func (h *Shelf) HasRoom() bool {
	if h == nil {
		return false
	}
	h.store.mu.Lock()
	defer h.store.unlock()
	return h.store.makeRoom()
}

// MayHold reports whether a content of size bytes can be in the Store as a whole.
func (h *Shelf) MayHold(size int64) bool {
	if h == nil {
		return false
	}
	h.store.mu.Lock()
	defer h.store.mu.Unlock()
	return size <= h.store.size
}

// Usage is how much there is of something.
type Usage struct {
	Files int
	Bytes int64
}

// Usage returns what the Store holds of this tree.
func (h *Shelf) Usage() (u Usage) {
	if h == nil {
		return u
	}
	h.store.await()
	h.store.mu.Lock()
	defer h.store.mu.Unlock()
	return h.below("", func(*entry) {})
}

// Usage returns what the Store holds of all trees, and how many bytes it may hold.
func (s *Store) Usage() (u Usage, bound int64) {
	s.await()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.shelves {
		u.Files += h.below("", func(*entry) {}).Files
	}
	u.Bytes = s.used
	return u, s.size
}

// Whole reports whether all of a content is here: of v, or with the zero Version of whatever version was here last.
func (h *Shelf) Whole(name string, v Version) bool {
	if h == nil {
		return false
	}
	h.store.await()
	h.store.mu.Lock()
	defer h.store.mu.Unlock()
	e := h.entries[name]
	return e != nil && e.whole && e.file == nil && (v == Version{} || e.version.Same(v))
}

// Take returns the content of v, with whatever is here of it; it is given back with Release. What the Store had of another
// version of the name is dropped. If somebody else has the same content open, both go on apart.
func (h *Shelf) Take(name string, v Version) (*File, error) {
	s := h.store
	s.await()
	s.mu.Lock()
	defer s.unlock()
	seen := s.now()
	if e := h.entries[name]; e != nil {
		if e.version.Same(v) {
			seen = e.seen
			if f := s.reopen(e); f != nil {
				return f, nil
			}
		}
		s.drop(e)
	}
	e := &entry{shelf: h, name: name, version: v, id: rand.Text(), seen: seen, bytes: overhead}
	f, err := Create(e.path(dataSuffix), v.Size)
	if errors.Is(err, os.ErrNotExist) { // the whole directory was deleted, or this is the tree's first file
		s.vanished(h)
		if err = os.MkdirAll(h.dir, 0o700); err == nil {
			f, err = Create(e.path(dataSuffix), v.Size)
		}
	}
	if err != nil {
		return nil, err
	}
	f.entry, f.begun = e, s.now()
	e.file = f
	s.insert(e)
	return f, nil
}

// reopen returns what e has, for one who takes it; nil if it is nothing, or not what it was. The caller holds mu.
func (s *Store) reopen(e *entry) *File {
	if e.id == "" || e.small || e.file != nil {
		return nil
	}
	ranges := e.ranges
	if len(ranges.list) == 0 && e.noted {
		n, err := readNote(e.path(noteSuffix))
		if err != nil || n.Stamp != e.stamp {
			return nil
		}
		ranges = Ranges{n.Ranges}
	}
	disk, now, err := openOurs(e.path(dataSuffix), os.O_RDWR)
	if err != nil {
		return nil
	}
	if now != e.stamp || now.Size != e.version.Size {
		disk.Close()
		return nil
	}
	f := &File{disk: disk, path: disk.Name(), size: now.Size, base: now.Size, real: Ranges{slices.Clone(ranges.list)}, entry: e, begun: e.seen, stored: true, noted: e.noted}
	f.advise()
	f.lent = f.isWhole() // perhaps by a process that is no more, to somebody who still reads it
	e.file, e.taken = f, e.taken+1
	s.closed.Remove(e.place)
	e.place = nil
	return f
}

// openOurs opens a file that must be ours alone, through no link.
func openOurs(path string, flag int) (*os.File, stamp, error) {
	disk, err := os.OpenFile(path, flag|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, stamp{}, err
	}
	info, err := disk.Stat()
	if err == nil && !isOurs(info, 0o600) {
		err = fmt.Errorf("%s is not ours alone (mode %s)", path, info.Mode())
	}
	if err != nil {
		disk.Close()
		return nil, stamp{}, err
	}
	return disk, stampOf(info), nil
}

func stampOf(info os.FileInfo) stamp {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return stamp{}
	}
	return stamp{Inode: stat.Ino, Changed: stat.Ctim.Nano(), Size: info.Size()}
}

func readNote(path string) (note, error) {
	text, err := readOurs(path, maxNote)
	if err != nil {
		return note{}, err
	}
	n, length, err := decodeNote(text)
	if err == nil && length != len(text) {
		err = errNote
	}
	return n, err
}

// readOurs returns the first bytes of a file that must be ours alone.
func readOurs(path string, most int64) ([]byte, error) {
	disk, now, err := openOurs(path, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer disk.Close()
	text := make([]byte, min(now.Size, most))
	_, err = io.ReadFull(disk, text)
	return text, err
}

// vanished forgets what was in h if its directory is gone; the caller holds mu.
func (s *Store) vanished(h *Shelf) {
	if _, err := os.Lstat(h.dir); !errors.Is(err, os.ErrNotExist) {
		return
	}
	for _, e := range h.entries {
		if e.file == nil && e.id != "" {
			s.drop(e)
		}
	}
}

// settled reports whether nothing else than a content that was fetched from begun on can bear its version: its time was over
// by then, by our clock or, whatever the clocks say, because the server had told the time before.
func (s *Store) settled(v Version, begun, seen time.Time) bool {
	wait := max(v.Unit, time.Second) + s.apart
	return !v.ModTime.IsZero() && (s.apart < 0 || begun.Sub(v.ModTime) > wait || begun.Sub(seen) > wait)
}

// Release gives back a File that Take has returned. Unless keep, or if it cannot be kept, its content is dropped.
func (f *File) Release(keep bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	e := f.entry
	if e == nil { // it has left the Store, or was never in it
		return errors.Join(os.Remove(f.path), f.disk.Close())
	}
	s := e.shelf.store
	info, err := f.disk.Stat()
	err = errors.Join(err, f.disk.Close())
	sure := f.stored || s.settled(e.version, f.begun, e.seen)
	kept := keep && err == nil && !f.grown && isOurs(info, 0o600) && len(f.real.list) > 0 && len(f.real.list) <= maxRanges
	s.mu.Lock()
	defer s.unlock()
	e.file = nil
	switch {
	case e.gone:
		s.discard(e)
		return err
	case !kept:
		s.drop(e)
		return err
	case !sure: // the next to come may keep it
		s.drop(e)
		s.remember(e.shelf, e.name, e.version, e.seen)
		return nil
	}
	e.whole, e.ranges, e.stamp, e.noted = f.isWhole(), f.real, stampOf(info), f.noted
	s.shut(e)
	s.schedule(e)
	s.makeRoom()
	return nil
}

// remember notes since when a version is known of which nothing is kept; the caller holds mu.
func (s *Store) remember(h *Shelf, name string, v Version, seen time.Time) {
	e := &entry{shelf: h, name: name, version: v, seen: seen}
	s.insert(e)
	s.shut(e)
	s.makeRoom()
}

// Small returns a content of v that KeepSmall was given; it must not be changed.
func (h *Shelf) Small(name string, v Version) ([]byte, bool) {
	if h == nil {
		return nil, false
	}
	s := h.store
	s.await()
	s.mu.Lock()
	e := h.entries[name]
	if e == nil || !e.small || !e.version.Same(v) {
		s.mu.Unlock()
		return nil, false
	}
	s.closed.MoveToFront(e.place)
	content, path := e.content, e.path(smallSuffix)
	s.mu.Unlock()
	if content != nil {
		return content, true
	}
	n, content, err := readSmall(path)
	if err == nil && string(n.Name) == name && n.Version.Same(v) {
		return content, true
	}
	s.mu.Lock()
	defer s.unlock()
	s.drop(e)
	return nil, false
}

func readSmall(path string) (note, []byte, error) {
	text, err := readOurs(path, maxNote+MaxSmall)
	if err != nil {
		return note{}, nil, err
	}
	n, length, err := decodeNote(text)
	if err != nil {
		return note{}, nil, err
	}
	content := text[length:]
	if sum := sha256.Sum256(content); string(sum[:]) != string(n.Sum) || int64(len(content)) != n.Version.Size {
		return note{}, nil, errNote
	}
	return n, content, nil
}

// KeepSmall keeps the whole content of v, of which the first byte was asked for at begun or later. It must not be changed
// afterwards. What cannot be kept is not.
func (h *Shelf) KeepSmall(name string, v Version, content []byte, begun time.Time) {
	if h == nil || int64(len(content)) != v.Size || v.Size > MaxSmall {
		return
	}
	s := h.store
	s.await()
	s.mu.Lock()
	defer s.unlock()
	seen := begun
	if old := h.entries[name]; old != nil && old.version.Same(v) {
		if old.small {
			return
		}
		seen = old.seen
	}
	switch {
	case !s.settled(v, begun, seen):
		s.remember(h, name, v, seen)
		return
	case s.ended || s.pending+v.Size > maxPending:
		return
	}
	e := &entry{shelf: h, name: name, version: v, seen: seen, bytes: v.Size + overhead, small: true, whole: true, content: content}
	if content == nil {
		e.content = []byte{}
	}
	s.insert(e)
	s.shut(e)
	s.pending += v.Size
	s.schedule(e)
	s.makeRoom()
}

// Drop drops what is here of name.
func (h *Shelf) Drop(name string) {
	if h == nil {
		return
	}
	s := h.store
	s.await()
	s.mu.Lock()
	defer s.unlock()
	s.miss(dropped{h, name, true})
	if e := h.entries[name]; e != nil {
		s.drop(e)
	}
}

// dropped is a name, or with all below it, of which something may yet be found that must not be believed.
type dropped struct {
	shelf *Shelf
	name  string
	alone bool
}

func (d dropped) has(e *entry) bool {
	return e.shelf == d.shelf && (e.name == d.name || !d.alone && (d.name == "" || strings.HasPrefix(e.name, d.name+"/")))
}

// miss notes what is dropped while it is not known what is here; the caller holds mu.
func (s *Store) miss(d dropped) {
	select {
	case <-s.ready: // closed under mu
	default:
		s.missed = append(s.missed, d)
	}
}

// Forget drops what is here of name and of all names below it; "" is all. It looks at everything that is here.
func (h *Shelf) Forget(name string) (u Usage) {
	if h == nil {
		return u
	}
	s := h.store
	s.await()
	s.mu.Lock()
	defer s.unlock()
	s.miss(dropped{h, name, false})
	return h.below(name, s.drop)
}

// Below counts what is here of name and of all names below it; "" is all. It looks at everything that is here.
func (h *Shelf) Below(name string) (u Usage) {
	if h == nil {
		return u
	}
	h.store.await()
	h.store.mu.Lock()
	defer h.store.mu.Unlock()
	return h.below(name, func(*entry) {})
}

// below does something with every entry of name and below it, and counts them before. store.mu is held.
func (h *Shelf) below(name string, do func(*entry)) (u Usage) {
	for other, e := range h.entries {
		if name == "" || other == name || strings.HasPrefix(other, name+"/") {
			if e.id != "" || e.content != nil {
				u.Files++
				u.Bytes += e.bytes
			}
			do(e)
		}
	}
	return u
}

// Dir returns where the Store lies.
func (s *Store) Dir() string { return s.dir }
