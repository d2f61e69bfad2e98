// Package registry is the one way in which definitions change, and the memory of how they did.
//
// A change by command is a set of files. It is made as a whole or not at all, also through a crash: what is to be written is
// noted first (pending.json, with every content kept as an object), then each file is written beside, synced and renamed, then
// the change is entered in the log, then the note goes. Open finishes what a note is found of. A file that somebody edited by hand
// is found by Observe, which enters it in the same log and keeps it in the same way, so that nothing depends on the road that a
// change came by. A change of something protected waits as a proposal until somebody else approves it (proposal.go), whichever road it
// came by.
//
// The log (audit.jsonl) only grows: one JSON value a line, each with the hash of the one before, so that a line that was altered,
// taken out or put in is found by Verify. It holds no secret: of one it tells only that it is another now. Objects are the
// contents of files as they were, for Content. They may hold what an operator wrote literally, so they are encrypted (AES-256-GCM,
// with the file key beside them, mode 0400), and their names are keyed, so that nobody who sees the log can try passwords against one.
//
// All of it lies in one directory of the state. One Registry serves many goroutines; its lock is held over local disk only.
package registry

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"pierfs/cmd/internal/dirs"
	"pierfs/conncfg"
)

// Registry changes the files below one configuration directory.
type Registry struct {
	dir    string // of ours
	config string // of the definitions
	store  *conncfg.Store
	key    []byte
	aead   cipher.AEAD
	now    func() time.Time
	step   func(string) error // tests fail a step here

	mu    sync.Mutex
	seq   uint64            // of the last entry
	head  string            // its hash
	files map[string]string // the object that each file held when it was last looked at
}

// Author is who made a change, as far as the kernel or the file tells.
type Author struct {
	UID  uint32 `json:"uid"`
	User string `json:"user,omitempty"`
	PID  int32  `json:"pid,omitempty"`
	Exe  string `json:"exe,omitempty"`
}

// Entry is one change in the log.
type Entry struct {
	Seq     uint64    `json:"seq"`
	Time    time.Time `json:"time"`
	Who     Author    `json:"who"`
	Verb    string    `json:"verb"`              // of the command; "by hand" for an edited file, "found" for the first look
	Subject string    `json:"subject,omitempty"` // the connection, environment or variable that the command named
	Reason  string    `json:"reason,omitempty"`
	// Approver is the second person where the change needed one; Proposal is the number under which it waited for him.
	Approver *Author              `json:"approver,omitempty"`
	Proposal string               `json:"proposal,omitempty"`
	Files    []File               `json:"files"`
	Changes  []conncfg.Difference `json:"changes"`
	Prev     string               `json:"prev"` // hash of the entry before; "" of the first
	Hash     string               `json:"hash"`
}

// File is one file of a change, with the objects of its content; "" is no file.
type File struct {
	Name   string `json:"name"`
	Before string `json:"before,omitempty"`
	After  string `json:"after,omitempty"`
}

// Change is what a command wants written.
type Change struct {
	Who     Author
	Verb    string
	Subject string
	Reason  string
	Files   map[string][]byte // by name below the configuration directory; nil removes
}

// Open returns the registry in dir of the configuration below config, and finishes a change that a crash has cut.
func Open(dir, config string) (*Registry, error) {
	if err := dirs.Make(filepath.Join(dir, "objects"), 0o700); err != nil {
		return nil, err
	}
	r := &Registry{dir: dir, config: config, store: conncfg.NewStore(config), now: time.Now, step: func(string) error { return nil }, files: map[string]string{}}
	var err error
	if r.key, err = openKey(filepath.Join(dir, "key")); err != nil {
		return nil, err
	}
	if r.aead, err = cipherOf(r.key); err != nil {
		return nil, err
	}
	if err := r.readLog(); err != nil {
		return nil, err
	}
	return r, r.recover()
}

func openKey(file string) ([]byte, error) {
	key, err := os.ReadFile(file)
	if err == nil && len(key) == sha256.Size {
		return key, nil
	}
	if err == nil || !errors.Is(err, os.ErrNotExist) {
		return nil, errors.Join(fmt.Errorf("%s is no key", file), err)
	}
	key = make([]byte, sha256.Size)
	rand.Read(key)
	return key, dirs.Replace(file, key, 0o400)
}

// cipherOf returns the cipher of objects; its key is another one than that of their names.
func cipherOf(key []byte) (cipher.AEAD, error) {
	own, err := hkdf.Key(sha256.New, key, nil, "pierfs registry objects", 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(own)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// name is what an object with this content is called.
func (r *Registry) name(content []byte) string {
	if content == nil {
		return ""
	}
	mac := hmac.New(sha256.New, r.key)
	mac.Write(content)
	return hex.EncodeToString(mac.Sum(nil)[:16])
}

func (r *Registry) keep(content []byte) (string, error) {
	name := r.name(content)
	if name == "" {
		return "", nil
	}
	file := filepath.Join(r.dir, "objects", name)
	if _, err := os.Lstat(file); err == nil {
		return name, nil
	}
	nonce := make([]byte, r.aead.NonceSize())
	rand.Read(nonce)
	return name, dirs.Replace(file, r.aead.Seal(nonce, nonce, content, []byte(name)), 0o400)
}

// object returns a content that was kept.
func (r *Registry) object(name string) ([]byte, error) {
	if name == "" {
		return nil, nil
	}
	sealed, err := os.ReadFile(filepath.Join(r.dir, "objects", filepath.Base(name)))
	if err != nil {
		return nil, err
	}
	n := r.aead.NonceSize()
	if len(sealed) < n {
		return nil, fmt.Errorf("object %s was cut", name)
	}
	content, err := r.aead.Open([]byte{}, sealed[:n], sealed[n:], []byte(name))
	if err != nil {
		return nil, fmt.Errorf("object %s was altered", name)
	}
	return content, nil
}

// Observe enters what was changed by hand since the registry last looked, with the file's owner as its author; by is the verb
// if a command of ours wrote the files itself, and who its caller. It returns nil if nothing changed.
func (r *Registry) Observe(verb, subject string, who *Author) (*Entry, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.observe(verb, subject, who)
}

func (r *Registry) observe(verb, subject string, who *Author) (*Entry, error) {
	files, torn := conncfg.Files(r.config)
	if len(torn) > 0 {
		return nil, nil // what seems to be missing may stand there: look again when it can be read
	}
	changed := map[string][]byte{}
	for name, content := range files {
		if r.files[name] != r.name(content) {
			changed[name] = content
		}
	}
	for name := range r.files {
		if _, there := files[name]; !there {
			changed[name] = nil
		}
	}
	if r.seq > 0 {
		if err := r.hold(changed); err != nil {
			return nil, err
		}
	}
	if len(changed) == 0 {
		return nil, nil
	}
	e := Entry{Verb: verb, Subject: subject}
	if r.seq == 0 {
		e.Verb = "found"
	}
	if who != nil {
		e.Who = *who
	} else {
		e.Who = ownerOf(r.config, slices.Sorted(maps.Keys(changed)))
	}
	return r.enter(e, changed)
}

// Change makes a change and returns its entry. Files that are not what the registry knows them to be are observed first; where one of
// those that shall be written is changed in the same moment nothing is done, and the error is conncfg.ErrChanged.
func (r *Registry) Change(c Change) (*Entry, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, err := r.observe("by hand", "", nil); err != nil {
		return nil, err
	}
	if err := r.waitsFor(c.Files); err != nil {
		return nil, err
	}
	now, _ := conncfg.Files(r.config)
	return r.make(Entry{Time: r.now().UTC(), Who: c.Who, Verb: c.Verb, Subject: c.Subject, Reason: c.Reason}, now, c.Files)
}

// Note enters what somebody did that changes no file, such as whom this machine believes from now on.
func (r *Registry) Note(who Author, verb, subject string, changes []conncfg.Difference) (*Entry, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := Entry{Who: who, Verb: verb, Subject: subject, Files: []File{}, Changes: changes}
	return &e, r.append(&e)
}

// make writes files in place of what is there now, and enters e.
func (r *Registry) make(e Entry, now, files map[string][]byte) (*Entry, error) {
	for name, content := range files {
		if err := conncfg.CheckFile(name); err != nil {
			return nil, err
		}
		if was, there := now[name]; same(was, there, content) {
			delete(files, name)
		}
	}
	if len(files) == 0 {
		return nil, nil
	}
	if err := r.note(&e, now, files); err != nil {
		return nil, err
	}
	written := []string{}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		err := r.step("write " + name)
		if err == nil {
			err = r.store.Write(name, now[name], files[name])
		}
		if err != nil {
			return nil, errors.Join(err, r.undo(now, files, written))
		}
		written = append(written, name)
	}
	if err := r.step("enter"); err != nil {
		return nil, err
	}
	return r.finish(e, files)
}

// undo puts back what a change that failed has written already.
func (r *Registry) undo(now, files map[string][]byte, written []string) error {
	var errs []error
	for _, name := range written {
		errs = append(errs, r.store.Write(name, files[name], now[name]))
	}
	if err := errors.Join(errs...); err != nil {
		return err // the note stays, and the next start finishes the change
	}
	return os.Remove(r.pending())
}

// pending is the note of a change that is being made.
func (r *Registry) pending() string { return filepath.Join(r.dir, "pending.json") }

// note keeps all contents and writes down what is about to be done.
func (r *Registry) note(e *Entry, now, files map[string][]byte) error {
	for _, name := range slices.Sorted(maps.Keys(files)) {
		before, err := r.keep(now[name])
		if err != nil {
			return err
		}
		after, err := r.keep(files[name])
		if err != nil {
			return err
		}
		e.Files = append(e.Files, File{name, before, after})
	}
	e.Seq = r.seq + 1
	text, err := json.Marshal(e)
	if err != nil {
		return err
	}
	return dirs.Replace(r.pending(), text, 0o600)
}

// finish enters a change whose files are written, and takes the note away.
func (r *Registry) finish(e Entry, files map[string][]byte) (*Entry, error) {
	e.Files, e.Seq = nil, 0
	entered, err := r.enter(e, files)
	if err != nil {
		return nil, err
	}
	return entered, os.Remove(r.pending())
}

// recover finishes the change that a note tells of: its files are what they were or what they shall be, one by one.
func (r *Registry) recover() error {
	text, err := os.ReadFile(r.pending())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var e Entry
	if err == nil {
		err = json.Unmarshal(text, &e)
	}
	if err != nil {
		return fmt.Errorf("the note of a change that was cut: %w", err)
	}
	if e.Seq <= r.seq { // it was entered
		return os.Remove(r.pending())
	}
	files := map[string][]byte{}
	for _, f := range e.Files {
		before, err := r.object(f.Before)
		if err != nil {
			return err
		}
		after, err := r.object(f.After)
		if err != nil {
			return err
		}
		err = r.store.Write(f.Name, before, after)
		if errors.Is(err, conncfg.ErrChanged) { // written before the crash, or by hand since: Observe tells
			err = nil
		}
		if err != nil {
			return fmt.Errorf("finish a change that was cut: %w", err)
		}
		files[f.Name] = after
	}
	_, err = r.finish(e, files)
	return err
}

// enter puts an entry into the log.
func (r *Registry) enter(e Entry, files map[string][]byte) (*Entry, error) {
	before, err := r.known()
	if err != nil {
		return nil, err
	}
	after := maps.Clone(before)
	known := maps.Clone(r.files)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		object, err := r.keep(files[name])
		if err != nil {
			return nil, err
		}
		e.Files = append(e.Files, File{name, known[name], object})
		if object == "" {
			delete(known, name)
			delete(after, name)
		} else {
			known[name], after[name] = object, files[name]
		}
	}
	old, _ := conncfg.LoadFiles(r.config, before)
	now, _ := conncfg.LoadFiles(r.config, after)
	e.Changes = conncfg.Differences(old, now)
	if err := r.append(&e); err != nil {
		return nil, err
	}
	r.files = known
	return &e, nil
}
