// Package journal is the durable list of what this machine owes: changes that a program was told are done and that their
// target does not have yet. It knows no server and no content. Targets are words to it, and content is the name of a file
// that lies beside.
//
// A Change that Write has taken is on the disk, whole, before Write returns; after a crash or a loss of power it is there
// whole or not at all. Changes of parallel callers share one fdatasync. Entries keep their order, which their sequence
// numbers tell, until they are done.
//
// The list is one append-only file of records, each framed and checked (frame.go), and rewritten beside itself when most of it
// is over (compact.go). What a dying machine left half written at its end is cut off when it is opened. A record that is damaged
// in the middle is passed over and told of, and the file that held it is kept for a person to look at: nothing that cannot be
// read is ever deleted. A file of a newer format is refused and left as it is.
//
// Locks, in the order in which they are taken: Journal.disk (held while the file is written and synced), Journal.mu.
package journal

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// Options are what Open may be told besides the path; the zero value serves.
type Options struct {
	FS      FS                // nil is the real one
	Hook    func(site string) // told right before and after each step on the disk; see Sites. Nil: nobody listens
	MaxSize int64             // bytes that the list may take on the disk; 0 is DefaultMaxSize

	// Reserve is how many bytes of the disk are kept behind the list for changes that only end entries: others are refused with what the disk
	// says (ENOSPC) when they would be taken, so that a disk that is full of contents can become empty again.
	Reserve int64
}

// DefaultMaxSize is room for some hundred thousand entries.
const DefaultMaxSize = 256 << 20

// Journal is an open list. Its methods may be called from many goroutines at once.
type Journal struct {
	path string
	fs   FS
	hook func(string)
	max  int64
	kept int64 // Options.Reserve

	disk sync.Mutex // held by whoever writes the file; what follows up to mu is its
	file File
	size int64 // up to here the file is good
	base int64 // its size when it was begun
	bad  error // why nothing may be appended to file as it is; the next Write begins a new one

	mu     sync.Mutex
	open   map[uint64]Entry // owed
	over   map[uint64]Entry // done, and not forgotten yet
	next   uint64           // sequence number of the next entry
	batch  *batch           // that new changes join; nil if there is none
	closed bool
}

// batch are changes that share one fdatasync.
type batch struct {
	text    []byte
	changes []*Change
	done    chan struct{} // closed when it is on the disk, or err is set
	err     error
}

// ErrFull says that the list has no room for more than is owed already.
var ErrFull = errors.New("the journal is full")

// Found is what Open came across.
type Found struct {
	Torn    int64     // bytes cut off at the end, that no Write had returned for
	Damaged []Damaged // records, or what may have been some, that cannot be read
	Kept    string    // where the file lies that held those; "" if there were none
}

// Damaged is a part of the file that cannot be read. Text is what is there, for a person.
type Damaged struct {
	Off  int64
	Text []byte
}

// Open opens the list at path, making it if it is not there. What is damaged is told in Found and is no error; an error leaves
// everything as it is.
func Open(path string, o Options) (*Journal, Found, error) {
	j := &Journal{path: path, fs: o.FS, hook: o.Hook, max: o.MaxSize, kept: o.Reserve, open: map[uint64]Entry{}, over: map[uint64]Entry{}, next: 1}
	if j.fs == nil {
		j.fs = disk{}
	}
	if j.hook == nil {
		j.hook = func(string) {}
	}
	if j.max == 0 {
		j.max = DefaultMaxSize
	}
	found, err := j.load()
	if err != nil {
		return nil, found, fmt.Errorf("journal %s: %w", path, err)
	}
	return j, found, nil
}

// Read returns what the list at path owes, and changes nothing. It is for one that nobody has open; one that is not there is
// os.ErrNotExist.
func Read(path string) ([]Entry, Found, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, Found{}, err
	}
	read, err := parse(text)
	if err != nil {
		return nil, Found{}, fmt.Errorf("journal %s: %w", path, err)
	}
	j := &Journal{open: map[uint64]Entry{}, over: map[uint64]Entry{}}
	for _, c := range read.changes {
		j.apply(c)
	}
	return j.Owed(), Found{Torn: read.torn, Damaged: read.damaged}, nil
}

// load reads what is there, and leaves a file that can be appended to.
func (j *Journal) load() (found Found, err error) {
	text, err := j.fs.ReadFile(j.path)
	if errors.Is(err, os.ErrNotExist) {
		return found, j.rewrite()
	}
	if err != nil {
		return found, err
	}
	read, err := parse(text)
	if err != nil {
		return found, err
	}
	for _, c := range read.changes {
		j.apply(c)
	}
	found.Torn, found.Damaged = read.torn, read.damaged
	if len(found.Damaged) > 0 {
		return found, j.setAside(&found)
	}
	if read.good == 0 || read.version < version {
		return found, j.rewrite()
	}
	return found, j.resume(read.good)
}

// resume opens the file to append to it behind its first good bytes.
func (j *Journal) resume(good int64) error {
	f, err := j.fs.OpenFile(j.path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	j.hook(siteCut)
	err = f.Truncate(good)
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	j.file, j.size, j.base = f, good, good
	return nil
}

// setAside begins a new file and keeps the old one, which is damaged, under another name.
func (j *Journal) setAside(found *Found) error {
	found.Kept = j.freeName(j.path + ".damaged")
	j.hook(siteAside)
	if err := j.fs.Link(j.path, found.Kept); err != nil {
		return err
	}
	return j.rewrite()
}

// freeName returns a name that begins with stem and that nothing bears.
func (j *Journal) freeName(stem string) string {
	for i := 1; ; i++ {
		name := fmt.Sprintf("%s-%d", stem, i)
		if _, err := j.fs.ReadFile(name); errors.Is(err, os.ErrNotExist) {
			return name
		}
	}
}

// Write takes c, numbers the entries that it adds, and returns when it is on the disk. After an error nothing of c counts; but if
// the disk failed for good, nobody can tell what is there after a crash.
func (j *Journal) Write(c *Change) error {
	b, leads, err := j.join(c)
	if err != nil {
		return err
	}
	if !leads {
		<-b.done
		return b.err
	}
	j.disk.Lock()
	defer j.disk.Unlock()
	j.mu.Lock()
	j.batch = nil // whoever comes now waits for the next
	j.mu.Unlock()
	b.err = j.append(b)
	if b.err == nil {
		j.mu.Lock()
		for _, c := range b.changes {
			j.apply(c)
		}
		j.mu.Unlock()
		j.compactIfDue()
	}
	close(b.done)
	return b.err
}

// join puts c into the batch that is being gathered; leads says that the caller must write it.
func (j *Journal) join(c *Change) (b *batch, leads bool, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return nil, false, os.ErrClosed
	}
	for i := range c.Add {
		c.Add[i].Seq = j.next
		j.next++
	}
	text, err := encode(c)
	if err != nil {
		return nil, false, err
	}
	if leads = j.batch == nil; leads {
		j.batch = &batch{done: make(chan struct{})}
	}
	b = j.batch
	b.text = append(b.text, text...)
	b.changes = append(b.changes, c)
	return b, leads, nil
}

// append writes b behind what is there; the caller holds disk. What an error has left half written is taken back, or else
// nothing more is written to that file.
func (j *Journal) append(b *batch) error {
	if j.bad != nil {
		if err := j.rewrite(); err != nil {
			return err
		}
	}
	if j.size+int64(len(b.text)) > j.max {
		if err := j.rewrite(); err != nil {
			return err
		}
		if j.size+int64(len(b.text)) > j.max && adds(b) {
			return ErrFull // what only ends entries is always taken
		}
	}
	if err := j.reserve(b); err != nil {
		return fmt.Errorf("journal %s: %w", j.path, err)
	}
	j.hook(siteAppend)
	_, err := j.file.WriteAt(b.text, j.size)
	if err == nil {
		j.hook(siteSync)
		err = j.file.Sync()
		if err != nil {
			// What the disk has of these pages is not known any more, and syncing them again proves nothing (fsync(2)).
			j.bad = err
			err = errors.Join(err, j.rewrite())
		}
	} else if cut := j.file.Truncate(j.size); cut != nil {
		j.bad = errors.Join(err, cut)
	}
	if err != nil {
		return fmt.Errorf("journal %s: %w", j.path, err)
	}
	j.size += int64(len(b.text))
	j.hook(siteSynced)
	return nil
}

// reserve takes the room for b, and behind it what is kept for changes that only end entries; these need not find it. The caller holds disk.
func (j *Journal) reserve(b *batch) error {
	r, ok := j.file.(reserver)
	if !ok || j.kept == 0 {
		return nil
	}
	err := r.Reserve(j.size, int64(len(b.text))+j.kept)
	if errors.Is(err, unix.EOPNOTSUPP) || !adds(b) {
		return nil
	}
	return err
}

func adds(b *batch) bool {
	return slices.ContainsFunc(b.changes, func(c *Change) bool { return len(c.Add) > 0 })
}

// apply brings what is known up to c; the caller holds mu, or is alone.
func (j *Journal) apply(c *Change) {
	j.next = max(j.next, c.Next)
	for _, e := range c.Add {
		j.open[e.Seq] = e
		j.next = max(j.next, e.Seq+1)
	}
	for _, seq := range c.Done {
		if e, ok := j.open[seq]; ok {
			delete(j.open, seq)
			j.over[seq] = e
		}
	}
	j.mark(c.Begin, func(e *Entry) { e.Begun = true })
	j.mark(c.Hold, func(e *Entry) { e.Held = true })
	j.mark(c.Release, func(e *Entry) { e.Held = false })
}

func (j *Journal) mark(seqs []uint64, change func(*Entry)) {
	for _, seq := range seqs {
		if e, ok := j.open[seq]; ok {
			change(&e)
			j.open[seq] = e
		}
	}
}

// Owed returns the entries that are not done, in their order.
func (j *Journal) Owed() []Entry {
	j.mu.Lock()
	defer j.mu.Unlock()
	return inOrder(j.open)
}

// Over returns the entries that are done and not forgotten: whose content may still lie beside.
func (j *Journal) Over() []Entry {
	j.mu.Lock()
	defer j.mu.Unlock()
	return inOrder(j.over)
}

func inOrder(entries map[uint64]Entry) []Entry {
	return slices.SortedFunc(maps.Values(entries), func(a, b Entry) int {
		if a.Seq < b.Seq {
			return -1
		}
		return 1
	})
}

// Entry returns the entry seq as it is now, if it is owed.
func (j *Journal) Entry(seq uint64) (e Entry, ok bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	e, ok = j.open[seq]
	return e, ok
}

// Forget drops entries that are done, for nothing of them lies beside any more. It touches no disk: after a crash they are told
// by Over again, unless the file was rewritten since.
func (j *Journal) Forget(seqs ...uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, seq := range seqs {
		delete(j.over, seq)
	}
}

// Len returns how many entries are owed.
func (j *Journal) Len() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.open)
}

// Dir returns the directory that holds the list.
func (j *Journal) Dir() string { return filepath.Dir(j.path) }

// Close waits for changes that are being written, and takes no more. What is owed stays on the disk.
func (j *Journal) Close() error {
	j.disk.Lock()
	defer j.disk.Unlock()
	j.mu.Lock()
	already := j.closed
	j.closed = true
	j.mu.Unlock()
	if already || j.file == nil {
		return nil
	}
	return j.file.Close()
}
