package registry

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"pierfs/cmd/internal/dirs"
	"pierfs/conncfg"
)

// Proposal is a change of something protected that waits for a second person. One that was made by hand stands in its file already, and
// what the file held before is in force until then; one by command is written nowhere else.
type Proposal struct {
	ID       string               `json:"id"`
	Time     time.Time            `json:"time"`
	Who      Author               `json:"who"`
	Verb     string               `json:"verb"`
	Subject  string               `json:"subject,omitempty"`
	Reason   string               `json:"reason,omitempty"`
	ByHand   bool                 `json:"byHand,omitempty"`
	Protects []string             `json:"protects"` // what it waits for: "connection NAME", "environment ENV", "roles"
	Files    []File               `json:"files"`
	Changes  []conncfg.Difference `json:"changes"`
}

// Errors of proposals, beside those of the file system.
var (
	ErrNoProposal = errors.New("no change of that number waits")
	ErrOutdated   = errors.New("what it changes was changed meanwhile")
	ErrWaits      = errors.New("a change of the file waits for approval")
)

func (r *Registry) proposals() string { return filepath.Join(r.dir, "proposals") }

// Proposals returns the changes that wait, the oldest first.
func (r *Registry) Proposals() ([]Proposal, error) {
	entries, err := os.ReadDir(r.proposals())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var all []Proposal
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok || strings.HasPrefix(id, ".") {
			continue
		}
		p, perr := r.proposal(id)
		if perr != nil {
			err = errors.Join(err, perr)
			continue
		}
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b Proposal) int { return a.Time.Compare(b.Time) })
	return all, err
}

// proposal reads one.
func (r *Registry) proposal(id string) (p Proposal, err error) {
	text, err := os.ReadFile(filepath.Join(r.proposals(), filepath.Base(id)+".json"))
	if errors.Is(err, os.ErrNotExist) {
		return p, fmt.Errorf("%q: %w", id, ErrNoProposal)
	}
	if err == nil {
		err = json.Unmarshal(text, &p)
	}
	return p, err
}

// Held returns what is in force of the files that hold something else which waits; nil is a file that is not there.
func (r *Registry) Held() (map[string][]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	all, err := r.Proposals()
	held := map[string][]byte{}
	for _, p := range all {
		for _, f := range p.Files {
			if !p.ByHand {
				continue
			}
			content, cerr := r.object(f.Before)
			held[f.Name], err = content, errors.Join(err, cerr)
		}
	}
	return held, err
}

// Contents returns what the files of a proposal hold if it comes into force; nil is a file that is removed.
func (r *Registry) Contents(id string) (Proposal, map[string][]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p, err := r.proposal(id)
	if err != nil {
		return p, nil, err
	}
	files := map[string][]byte{}
	for _, f := range p.Files {
		if files[f.Name], err = r.object(f.After); err != nil {
			return p, nil, err
		}
	}
	return p, files, nil
}

// Propose keeps a change until somebody else approves it. That is entered in the log, and nothing is written.
func (r *Registry) Propose(c Change, protects []string) (Proposal, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now, _ := conncfg.Files(r.config)
	return r.propose(Proposal{Who: c.Who, Verb: c.Verb, Subject: c.Subject, Reason: c.Reason, Protects: protects}, now, c.Files)
}

func (r *Registry) propose(p Proposal, now, files map[string][]byte) (Proposal, error) {
	var id [4]byte
	rand.Read(id[:])
	p.ID, p.Time = hex.EncodeToString(id[:]), r.now().UTC()
	next := maps.Clone(now)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		before, err := r.keep(now[name])
		if err != nil {
			return p, err
		}
		after, err := r.keep(files[name])
		if err != nil {
			return p, err
		}
		p.Files = append(p.Files, File{name, before, after})
		if next[name] = files[name]; files[name] == nil {
			delete(next, name)
		}
	}
	old, _ := conncfg.LoadFiles(r.config, now)
	then, _ := conncfg.LoadFiles(r.config, next)
	p.Changes = conncfg.Differences(old, then)
	text, err := json.Marshal(p)
	if err != nil {
		return p, err
	}
	if err := dirs.Make(r.proposals(), 0o700); err != nil {
		return p, err
	}
	if err := dirs.Replace(filepath.Join(r.proposals(), p.ID+".json"), text, 0o600); err != nil {
		return p, err
	}
	return p, r.append(&Entry{Who: p.Who, Verb: "propose: " + p.Verb, Subject: p.Subject, Reason: p.Reason, Proposal: p.ID, Changes: p.Changes})
}

// Approve brings a proposal into force, as a change of who made it that who has approved.
func (r *Registry) Approve(id string, who Author) (*Entry, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p, err := r.proposal(id)
	if err != nil {
		return nil, err
	}
	now, _ := conncfg.Files(r.config)
	files := map[string][]byte{}
	for _, f := range p.Files {
		stands := f.Before
		if p.ByHand {
			stands = f.After
		}
		if r.name(now[f.Name]) != stands || r.files[f.Name] != f.Before {
			return nil, fmt.Errorf("%s: %w", f.Name, ErrOutdated)
		}
		if files[f.Name], err = r.object(f.After); err != nil {
			return nil, err
		}
	}
	e := Entry{Time: r.now().UTC(), Who: p.Who, Approver: &who, Verb: p.Verb, Subject: p.Subject, Reason: p.Reason, Proposal: p.ID}
	var entered *Entry
	if p.ByHand {
		entered, err = r.enter(e, files)
	} else {
		entered, err = r.make(e, now, files)
	}
	if err != nil {
		return nil, err
	}
	return entered, r.withdraw(p.ID)
}

// Reject ends a proposal, and puts back what a file held that was changed by hand.
func (r *Registry) Reject(id string, who Author, reason string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	p, err := r.proposal(id)
	if err != nil {
		return err
	}
	for _, f := range p.Files {
		if !p.ByHand {
			break
		}
		before, err := r.object(f.Before)
		if err != nil {
			return err
		}
		after, err := r.object(f.After)
		if err != nil {
			return err
		}
		if err := r.store.Write(f.Name, after, before); err != nil {
			return err
		}
	}
	if err := r.append(&Entry{Who: who, Verb: "reject: " + p.Verb, Subject: p.Subject, Reason: reason, Proposal: p.ID}); err != nil {
		return err
	}
	return r.withdraw(p.ID)
}

func (r *Registry) withdraw(id string) error {
	if err := os.Remove(filepath.Join(r.proposals(), id+".json")); err != nil {
		return err
	}
	return dirs.Sync(r.proposals())
}

// waitsFor returns an error if one of files holds something that waits.
func (r *Registry) waitsFor(files map[string][]byte) error {
	all, err := r.Proposals()
	if err != nil {
		return err
	}
	for _, p := range all {
		for _, f := range p.Files {
			if _, ours := files[f.Name]; ours && p.ByHand {
				return fmt.Errorf("%s, as %s: %w", f.Name, p.ID, ErrWaits)
			}
		}
	}
	return nil
}

// hold takes from changed what waits already, or has to wait, and makes proposals of the latter; every file by itself.
func (r *Registry) hold(changed map[string][]byte) error {
	all, err := r.Proposals()
	if err != nil {
		return err
	}
	for _, p := range all {
		if !p.ByHand {
			continue
		}
		f := p.Files[0]
		content, differs := changed[f.Name]
		if differs && r.name(content) == f.After {
			delete(changed, f.Name)
		} else if err := r.withdraw(p.ID); err != nil { // it was changed once more, or back
			return err
		}
	}
	before, err := r.known()
	if err != nil || !r.protects(before, changed) {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(changed)) {
		after := maps.Clone(before)
		if after[name] = changed[name]; changed[name] == nil {
			delete(after, name)
		}
		old, _ := conncfg.LoadFiles(r.config, before)
		then, _ := conncfg.LoadFiles(r.config, after)
		protects := conncfg.Protects(old, then)
		if len(protects) == 0 {
			before = after
			continue
		}
		only := map[string][]byte{name: changed[name]}
		p := Proposal{Who: ownerOf(r.config, []string{name}), Verb: "by hand", ByHand: true, Protects: protects}
		if _, err := r.propose(p, before, only); err != nil {
			return err
		}
		delete(changed, name)
	}
	return nil
}

// protects reports whether anything in changed, taken together, needs a second person.
func (r *Registry) protects(before, changed map[string][]byte) bool {
	after := maps.Clone(before)
	for name, content := range changed {
		if after[name] = content; content == nil {
			delete(after, name)
		}
	}
	old, _ := conncfg.LoadFiles(r.config, before)
	then, _ := conncfg.LoadFiles(r.config, after)
	return len(conncfg.Protects(old, then)) > 0
}

// known returns what all files held when they were last entered.
func (r *Registry) known() (map[string][]byte, error) {
	files := map[string][]byte{}
	for name, object := range r.files {
		content, err := r.object(object)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		files[name] = content
	}
	return files, nil
}

// same reports whether a file is what is wanted of it.
func same(was []byte, there bool, want []byte) bool {
	return there == (want != nil) && bytes.Equal(was, want)
}
