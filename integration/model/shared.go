package model

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// sharedDir is the directory in which all processes work at once.
const sharedDir = "shared"

// shared is what all processes do to each other. Registers are files that are written as a whole and read as a whole, by
// replacing them or under flock; locks are names that one process at a time can have.
type shared struct {
	o  *Options
	mu sync.Mutex

	replaced, locked []*register
	locks            []*lock
	reads, writes    int
	taken            int
}

// register is a file whose content is always one of the values written to it.
type register struct {
	name    string
	locked  bool // written in place under flock, not replaced
	history *history
	dead    bool // an outage left it in a state that no longer says anything
}

// lock is a name that is taken in a way of which at most one process can succeed.
type lock struct {
	name, token string
	kind        Kind
	holder      int // process that certainly has it; -1 for none
	dead        bool
}

func newShared(o *Options) *shared {
	s := &shared{o: o}
	for i := range 3 {
		s.replaced = append(s.replaced, &register{name: fmt.Sprintf("replaced%d", i), history: newHistory()})
		s.locked = append(s.locked, &register{name: fmt.Sprintf("locked%d", i), locked: true, history: newHistory()})
	}
	s.locks = []*lock{
		{name: "exclusive", kind: Take, holder: -1},
		{name: "directory", kind: Mkdir, holder: -1},
		{name: "taken", token: "token", kind: NoReplace, holder: -1},
	}
	return s
}

// prepare makes the directory and first values.
func (s *shared) prepare(t *tree) error {
	ops := []Op{{Kind: Mkdir, Mode: 0o755}, {Kind: Take, Path: "token", Size: 10}}
	for _, r := range slices.Concat(s.replaced, s.locked) {
		ops = append(ops, Op{Kind: Put, Path: r.name, Other: "first", Size: 100})
	}
	for _, o := range ops {
		o.N, o.Base = t.number(), sharedDir
		a, err := t.hands[0].do(o, s.o.Limit)
		if err == nil && (a.Err != 0 || a.Hung) {
			err = fmt.Errorf("prepare the shared directory: %s: %s", o, a)
		}
		if err != nil {
			return err
		}
		for _, r := range slices.Concat(s.replaced, s.locked) {
			if r.name == o.Path {
				r.history.write("first write", o.N, a.Begin, a.End, true)
			}
		}
	}
	return nil
}

// act has a tree's process do one random thing in the shared directory.
func (s *shared) act(t *tree, me int) error {
	r := t.gen.r
	switch at := r.IntN(10); {
	case at < 3:
		return s.access(t, s.replaced[r.IntN(len(s.replaced))])
	case at < 5:
		return s.access(t, s.locked[r.IntN(len(s.locked))])
	case at < 6:
		return s.list(t)
	case at < 7:
		return s.peek(s.replaced[r.IntN(len(s.replaced))])
	default:
		return s.contend(t, me, s.locks[r.IntN(len(s.locks))])
	}
}

// do has the process do o in the shared directory. refused tells an answer that only an outage explains.
func (s *shared) do(t *tree, o Op) (a Answer, refused bool, err error) {
	o.Base = sharedDir
	a, err = t.hands[o.Hand].do(o, s.o.Limit)
	switch {
	case err != nil:
	case a.Hung:
		err = s.failure(t, o, "it did not return in time")
	case slices.Contains(outage, a.Err) && s.o.Outages:
		t.failed++
		refused = true
	}
	t.wait = max(t.wait, a.End.Sub(a.Begin))
	return a, refused, err
}

func (s *shared) failure(t *tree, o Op, why string) error {
	return &Failure{Seed: s.o.Seed, Tree: sharedDir + " as seen from " + t.base, Op: o, Why: why}
}

// access reads or writes a register.
func (s *shared) access(t *tree, r *register) error {
	s.mu.Lock()
	dead := r.dead
	s.mu.Unlock()
	if dead {
		return nil
	}
	o := Op{N: t.number(), Hand: t.gen.r.IntN(len(t.hands)), Path: r.name, Kind: Get}
	write := t.gen.chance(35)
	switch {
	case write && r.locked:
		o.Kind = PutLocked
	case write:
		o.Kind, o.Other = Put, fmt.Sprintf("new %d", o.N)
	case r.locked:
		o.Kind = GetLocked
	}
	if write {
		o.Size = cell
		if !s.o.Hot {
			o.Size += t.gen.r.Int64N(1 << t.gen.r.IntN(19))
		}
	}
	a, refused, err := s.do(t, o)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case refused && r.locked && write:
		r.dead = true // other processes may have met the half of it that a program sees who fails
		return nil
	case refused && write && a.Call == "rename":
		r.history.write(fmt.Sprintf("%s by %s that failed with %s", o.Kind, t.base, a), o.N, a.Begin, a.End, false)
		return nil
	case refused:
		return nil
	case a.Err != 0:
		return s.failure(t, o, fmt.Sprintf("got %s, want ok", a))
	case write:
		s.writes++
		r.history.write(fmt.Sprintf("%s by %s size %d", o.Kind, t.base, o.Size), o.N, a.Begin, a.End, true)
		return nil
	}
	return s.saw(t, o, r, a)
}

// saw notes the value that a read returned.
func (s *shared) saw(t *tree, o Op, r *register, a Answer) error {
	if r.dead {
		return nil
	}
	value, ok := valueOf(a.Data)
	if !ok {
		return s.failure(t, o, fmt.Sprintf("%d bytes are no value that was ever written as a whole: %q...", len(a.Data), around(a.Data, 0)))
	}
	s.reads++
	r.history.read(fmt.Sprintf("%s by %s size %d", o.Kind, t.base, len(a.Data)), value, a.Begin, a.End)
	return nil
}

// valueOf tells which operation wrote a content, if one did and all of it.
func valueOf(data []byte) (value int, ok bool) {
	if _, err := fmt.Sscanf(string(around(data, 0)), "%d:", &value); err != nil {
		return 0, false
	}
	return value, bytes.Equal(data, content(value, int64(len(data))))
}

// peek reads a register as others see it who look at the server's own files.
func (s *shared) peek(r *register) error {
	begin := time.Now()
	data, err := os.ReadFile(filepath.Join(s.o.Backing, sharedDir, r.name))
	if err != nil {
		return fmt.Errorf("the server's %s: %w", r.name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	value, ok := valueOf(data)
	if !ok {
		return fmt.Errorf("the server's %s: %d bytes are no value that was ever written as a whole: %q", r.name, len(data), around(data, 0))
	}
	s.reads++
	r.history.read("look at the server's file", value, begin, time.Now())
	return nil
}

// list lists the directory: what is only ever replaced is always in it.
func (s *shared) list(t *tree) error {
	o := Op{N: t.number(), Kind: Readdir}
	a, refused, err := s.do(t, o)
	if err != nil || refused {
		return err
	}
	if a.Err != 0 {
		return s.failure(t, o, a.String())
	}
	for _, r := range slices.Concat(s.replaced, s.locked) {
		if at, ok := slices.BinarySearchFunc(a.Names, r.name, func(n Name, name string) int { return strings.Compare(n.Name, name) }); !ok {
			return s.failure(t, o, fmt.Sprintf("%s is missing in %v", r.name, a.Names))
		} else if a.Names[at].Type != File {
			return s.failure(t, o, fmt.Sprintf("%s is a %s", r.name, a.Names[at].Type))
		}
	}
	return nil
}

// contend takes a lock, or gives back the one it has.
func (s *shared) contend(t *tree, me int, l *lock) error {
	s.mu.Lock()
	mine, dead := l.holder == me, l.dead
	if mine {
		l.holder = -1 // from the begin of giving back nobody is certain to have it
	}
	s.mu.Unlock()
	if dead {
		return nil
	}
	o := l.taking(mine)
	o.N = t.number()
	a, refused, err := s.do(t, o)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	busy := syscall.EEXIST
	if l.kind == NoReplace {
		busy = syscall.ENOENT // another one has moved the token away
	}
	switch {
	case refused:
		l.dead = true
	case a.Err == 0 && !mine && l.holder >= 0 && !l.dead:
		return s.failure(t, o, fmt.Sprintf("two processes have it: %d and %d", l.holder, me))
	case a.Err == 0 && !mine:
		l.holder = me
		s.taken++
	case a.Err != 0 && (mine || a.Err != busy) && !l.dead:
		return s.failure(t, o, fmt.Sprintf("got %s", a))
	}
	return nil
}

// taking returns the operation that takes the lock, or gives it back.
func (l *lock) taking(back bool) Op {
	switch {
	case l.kind == Take && back:
		return Op{Kind: Unlink, Path: l.name}
	case l.kind == Take:
		return Op{Kind: Take, Path: l.name, Size: cell}
	case l.kind == Mkdir && back:
		return Op{Kind: Rmdir, Path: l.name}
	case l.kind == Mkdir:
		return Op{Kind: Mkdir, Path: l.name, Mode: 0o755}
	case back:
		return Op{Kind: NoReplace, Path: l.name, Other: l.token}
	}
	return Op{Kind: NoReplace, Path: l.token, Other: l.name}
}

// check tells which register's history no order explains.
func (s *shared) check() error {
	for _, r := range slices.Concat(s.replaced, s.locked) {
		if why := r.history.check(); why != "" {
			return fmt.Errorf("seed %d: %s/%s: %s", s.o.Seed, sharedDir, r.name, why)
		}
	}
	return nil
}
