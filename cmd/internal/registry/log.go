package registry

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"pierfs/cmd/internal/dirs"
	"pierfs/conncfg"
)

// maxEntry bounds one line of the log: an import of very many connections is the longest.
const maxEntry = 64 << 20

// ErrNoRevision says that a file never had the content that was asked for.
var ErrNoRevision = errors.New("there is no such revision")

func (r *Registry) log() string { return filepath.Join(r.dir, "audit.jsonl") }

// sum is the hash of an entry: of its JSON without the hash itself.
func (e Entry) sum() string {
	e.Hash = ""
	text, err := json.Marshal(e)
	if err != nil {
		return "" // no value of its types fails
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// append writes e behind the last entry and syncs it. A part of a line that a crash has left is not an entry, and is cut off.
func (r *Registry) append(e *Entry) error {
	if e.Time.IsZero() {
		e.Time = r.now().UTC()
	}
	if e.Changes == nil {
		e.Changes = []conncfg.Difference{}
	}
	e.Seq, e.Prev, e.Hash = r.seq+1, r.head, ""
	// As it will be read: texts from outside that are no UTF-8 do not survive JSON as they are.
	plain, err := json.Marshal(e)
	if err != nil {
		return err
	}
	*e = Entry{}
	if err := json.Unmarshal(plain, e); err != nil {
		return err
	}
	e.Hash = e.sum()
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(r.log(), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if _, err := f.Write(append(line, '\n')); err != nil {
		return errors.Join(err, f.Truncate(info.Size()))
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if r.seq == 0 {
		if err := dirs.Sync(r.dir); err != nil {
			return err
		}
	}
	r.seq, r.head = e.Seq, e.Hash
	return nil
}

// readLog learns where the log ends and what each file held last.
func (r *Registry) readLog() error {
	for e, err := range r.entries() {
		if err != nil {
			return err
		}
		r.seq, r.head = e.Seq, e.Hash
		for _, f := range e.Files {
			if f.After == "" {
				delete(r.files, f.Name)
			} else {
				r.files[f.Name] = f.After
			}
		}
	}
	return r.cutTorn()
}

// cutTorn takes off what stands behind the last line break.
func (r *Registry) cutTorn() error {
	f, err := os.OpenFile(r.log(), os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	tail := make([]byte, min(info.Size(), maxEntry))
	if _, err := f.ReadAt(tail, info.Size()-int64(len(tail))); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	whole := int64(bytes.LastIndexByte(tail, '\n') + 1)
	if whole == int64(len(tail)) {
		return nil
	}
	return f.Truncate(info.Size() - int64(len(tail)) + whole)
}

// entries reads the log from its beginning. A line that is none is an error with its number.
func (r *Registry) entries() iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		f, err := os.Open(r.log())
		if errors.Is(err, os.ErrNotExist) {
			return
		}
		if err != nil {
			yield(Entry{}, err)
			return
		}
		defer f.Close()
		lines := bufio.NewReader(f)
		for n := 1; ; n++ {
			line, err := lines.ReadBytes('\n')
			if err != nil { // what has no line break was never entered
				if !errors.Is(err, io.EOF) {
					yield(Entry{}, err)
				}
				return
			}
			var e Entry
			if err := json.Unmarshal(line, &e); err != nil {
				yield(Entry{}, fmt.Errorf("%s: line %d is no entry: %w", r.log(), n, err))
				return
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

// History yields the entries that concern a file of the configuration, the oldest first; all of them for "".
func (r *Registry) History(file string) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for e, err := range r.entries() {
			concerns := file == "" || slices.ContainsFunc(e.Files, func(f File) bool { return f.Name == file })
			if (err != nil || concerns) && !yield(e, err) {
				return
			}
		}
	}
}

// Content returns what a file held after entry seq: nil if it was not there, ErrNoRevision if no such entry concerns it.
func (r *Registry) Content(file string, seq uint64) ([]byte, error) {
	for e, err := range r.History(file) {
		if err != nil {
			return nil, err
		}
		if e.Seq != seq {
			continue
		}
		for _, f := range e.Files {
			if f.Name == file {
				return r.object(f.After)
			}
		}
	}
	return nil, ErrNoRevision
}

// Verdict is what Verify found.
type Verdict struct {
	Entries int    `json:"entries"`
	Head    string `json:"head"`             // hash of the last entry: kept elsewhere, it proves that nothing was cut off
	Broken  string `json:"broken,omitempty"` // the first thing that is not as it was written
}

// Verify reads the whole log and follows the chain. head, if it is not "", must be the hash of one of the entries.
func (r *Registry) Verify(head string) (Verdict, error) {
	v := Verdict{}
	seen := head == ""
	for e, err := range r.entries() {
		switch {
		case err != nil:
			v.Broken = err.Error()
		case e.Seq != uint64(v.Entries)+1:
			v.Broken = fmt.Sprintf("entry %d stands in place %d", e.Seq, v.Entries+1)
		case e.Prev != v.Head:
			v.Broken = fmt.Sprintf("entry %d does not follow the one before it", e.Seq)
		case e.sum() != e.Hash:
			v.Broken = fmt.Sprintf("entry %d was altered", e.Seq)
		}
		if v.Broken != "" {
			return v, nil
		}
		v.Entries++
		v.Head = e.Hash
		seen = seen || e.Hash == head
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case !seen:
		v.Broken = "no entry has the hash that was given: the log was cut or written anew"
	case uint64(v.Entries) < r.seq:
		v.Broken = fmt.Sprintf("the log ends with entry %d, and this daemon wrote entry %d", v.Entries, r.seq)
	}
	return v, nil
}

// Head returns the last entry's number and hash.
func (r *Registry) Head() (uint64, string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seq, r.head
}

// NewAuthor tells of a process as far as the kernel does.
func NewAuthor(uid uint32, pid int32) Author {
	a := Author{UID: uid, PID: pid}
	if u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10)); err == nil {
		a.User = u.Username
	}
	if pid > 0 {
		a.Exe, _ = os.Readlink("/proc/" + strconv.Itoa(int(pid)) + "/exe") // "" where it is not ours to see, or has ended
	}
	return a
}

// ownerOf is whom a change by hand is put down to: the owner of the first file that is still there.
func ownerOf(config string, names []string) Author {
	for _, name := range append(names, ".") {
		info, err := os.Stat(filepath.Join(config, name))
		if err != nil {
			continue
		}
		if stat, ok := info.Sys().(*syscall.Stat_t); ok {
			return NewAuthor(stat.Uid, 0)
		}
	}
	return Author{}
}
