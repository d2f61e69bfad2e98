package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// contest is a few names that a program writes through the mount and, at the same time, somebody else at the server itself: a rival, who
// adds to files, puts others in their place, and takes some away, into a hoard of his, so that nothing is ever lost by his doing. Each
// writes records like no other's. What the program was told is done must be found by its record: under its name or beside it, in the
// hoard, or in what the daemon keeps. So must the rival's, but for what the program itself has replaced or removed, and for what came to a
// name behind the last question for it before an upload took that.
type contest struct {
	dir    string // as programs see it
	at     string // as the server has it
	hoard  string
	state  string // of the daemon
	late   bool   // programs are told before the server has what they did
	uid    int
	gid    int
	ours   *rand.Rand
	theirs *rand.Rand

	mu     sync.Mutex
	n      int
	said   []*said
	deeds  []deed
	wire   []heard
	asked  map[string]time.Time // by name, and by the number of an opening
	judged time.Time            // last
	sum    map[string]int
}

// said is a record that somebody has written to a name.
type said struct {
	record     []byte
	name       string
	ours, told bool
	begin, end time.Time // of the writing; later begin is when the life before the last ended, of which something may be owed
	judged     time.Time
}

// deed is what the program did that takes something away: it wrote name anew, removed it, or gave it to another.
type deed struct {
	what, name, to string
	end            time.Time // zero while it is done
}

// heard is a step on the wire that changes what a name holds, and when the daemon asked last what that is.
type heard struct {
	name, word string
	at, asked  time.Time
}

const contested = "contested"

// newContest makes the directory at the server.
func (s *stage) newContest(t *testing.T, seed uint64) {
	t.Helper()
	c := &contest{
		dir: filepath.Join(s.daemon.Mount(connection), contested), at: filepath.Join(s.behind, contested), hoard: filepath.Join(s.behind, "hoard"),
		state: s.daemon.StateDir, late: s.owing(), ours: rand.New(rand.NewPCG(seed, 500)), theirs: rand.New(rand.NewPCG(seed, 501)), sum: map[string]int{}, asked: map[string]time.Time{},
	}
	info, err := os.Stat(s.behind)
	if err != nil {
		t.Fatal(err)
	}
	owner := info.Sys().(*syscall.Stat_t)
	c.uid, c.gid = int(owner.Uid), int(owner.Gid)
	for _, dir := range []string{c.at, c.hoard} {
		if err := errors.Join(os.Mkdir(dir, 0o755), os.Chown(dir, c.uid, c.gid)); err != nil {
			t.Fatal(err)
		}
	}
	s.contest = c
}

// hear notes a step on the wire.
func (c *contest) hear(site string, names []string) {
	_, word, _ := strings.Cut(site, ".")
	word = strings.TrimSuffix(word, ".asked")
	c.mu.Lock()
	defer c.mu.Unlock()
	name, now := filepath.Base(names[0]), time.Now()
	switch word {
	case "open":
		c.asked[names[1]] = now
		c.asked[name] = now
	case "lstat", "stat", "SIZE", "MDTM", "MLST", "STAT":
		c.asked[name] = now
	case "write", "fsetstat":
		c.wire = append(c.wire, heard{name, word, now, c.asked[names[1]]})
	case "rename", "posix-rename", "RNTO":
		name = filepath.Base(names[len(names)-1])
		fallthrough
	case "remove", "DELE", "setstat", "STOR", "APPE":
		c.wire = append(c.wire, heard{name, word, now, c.asked[name]})
	}
}

// say makes a record that is about to be written to name.
func (c *contest) say(name string, ours bool) *said {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
	rng, who := c.theirs, "theirs"
	if ours {
		rng, who = c.ours, "ours"
	}
	text := fmt.Appendf(nil, "%s%s-%d to %s\n", recordMark, who, c.n, name)
	for size := 100 + rng.IntN(6000); len(text) < size; {
		text = fmt.Appendf(text, "%016x\n", rng.Uint64())
	}
	s := &said{record: text, name: name, ours: ours, begin: time.Now()}
	c.said = append(c.said, s)
	return s
}

// isSaid notes that s is told to be there.
func (c *contest) isSaid(s *said) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.told, s.end = true, time.Now()
}

// do does what takes something away.
func (c *contest) do(what, name, to string, do func() error) error {
	c.mu.Lock()
	c.deeds = append(c.deeds, deed{what: what, name: name, to: to})
	i := len(c.deeds) - 1
	c.mu.Unlock()
	err := do()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deeds[i].end = time.Now()
	return err
}

// run is the program, until something fails that may not.
func (c *contest) run(rest func() bool) error {
	for !rest() {
		n := c.ours.IntN(6)
		name, err := fmt.Sprintf("c%d", n), error(nil)
		switch kind := c.ours.IntN(20); {
		case kind < 6 && n != 2 && n != 3:
			err = c.do("rewrite", name, "", func() error { return c.put(name, os.O_TRUNC) })
		case kind == 6 && n > 3:
			err = c.do("unlink", name, "", func() error { return os.Remove(filepath.Join(c.dir, name)) })
		case kind == 7 && n > 3:
			to := fmt.Sprintf("c%d", 4+(n+1)%2)
			err = c.do("rename", name, to, func() error { return os.Rename(filepath.Join(c.dir, name), filepath.Join(c.dir, to)) })
		case kind < 14:
			err = c.put(name, os.O_APPEND)
		default:
			err = c.log(name)
		}
		switch {
		case err == nil:
		case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ESTALE), errors.Is(err, syscall.EIO): // EIO of two appends at a time
			c.count(err)
		default:
			return errJob{contested, name, err}
		}
	}
	return nil
}

func (c *contest) count(err error) {
	errno, _ := errors.AsType[syscall.Errno](err)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sum[errno.Error()]++
}

// put writes a record, and closes.
func (c *contest) put(name string, flag int) error {
	f, err := os.OpenFile(filepath.Join(c.dir, name), os.O_WRONLY|os.O_CREATE|flag, 0o644)
	if err != nil {
		return err
	}
	s := c.say(name, true)
	if _, err = f.Write(s.record); err != nil {
		return closing(f, err)
	}
	time.Sleep(time.Duration(c.ours.IntN(4)) * time.Millisecond)
	if err = f.Close(); err == nil {
		c.isSaid(s)
	}
	return err
}

// log adds two records, and syncs the first.
func (c *contest) log(name string) error {
	f, err := os.OpenFile(filepath.Join(c.dir, name), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	first := c.say(name, true)
	_, err = f.Write(first.record)
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		return closing(f, err)
	}
	c.isSaid(first)
	time.Sleep(time.Duration(c.ours.IntN(20)) * time.Millisecond)
	second := c.say(name, true)
	if _, err = f.Write(second.record); err != nil {
		return closing(f, err)
	}
	if err = f.Close(); err == nil {
		c.isSaid(second)
	}
	return err
}

// compete is the rival, until he is to rest.
func (c *contest) compete(rest func() bool) error {
	for !rest() {
		time.Sleep(time.Duration(1+c.theirs.IntN(15)) * time.Millisecond)
		name := fmt.Sprintf("c%d", c.theirs.IntN(6))
		path := filepath.Join(c.at, name)
		c.mu.Lock()
		c.n++
		aside := filepath.Join(c.hoard, fmt.Sprint(c.n))
		c.mu.Unlock()
		var err error
		switch kind := c.theirs.IntN(10); {
		case kind < 6:
			err = c.add(name, path)
		case kind < 9:
			err = c.replace(name, path, aside)
		default:
			err = os.Rename(path, aside)
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("the rival: %w", err)
		}
	}
	return nil
}

func (c *contest) add(name, path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	s := c.say(name, false)
	if _, err = f.Write(s.record); err == nil {
		c.isSaid(s)
	}
	return closing(f, err)
}

// replace puts another file in the place of path, which is then aside.
func (c *contest) replace(name, path, aside string) error {
	s := c.say(name, false)
	err := errors.Join(os.WriteFile(aside, s.record, 0o644), os.Chown(aside, c.uid, c.gid))
	if err != nil {
		return err
	}
	err = unix.Renameat2(unix.AT_FDCWD, aside, unix.AT_FDCWD, path, unix.RENAME_EXCHANGE)
	if errors.Is(err, os.ErrNotExist) {
		err = unix.Renameat2(unix.AT_FDCWD, aside, unix.AT_FDCWD, path, unix.RENAME_NOREPLACE)
	}
	if err == nil {
		c.isSaid(s)
	}
	return err
}

// judge returns what is not to be found, of a daemon that is dead, and goes on from what is.
func (c *contest) judge() (harms []harm) {
	c.mu.Lock()
	defer c.mu.Unlock()
	named, err := contents(c.at)
	taken, worse := contents(c.hoard)
	err = errors.Join(err, worse)
	kept, worse := contents(c.state)
	maps.DeleteFunc(kept, func(path string, content []byte) bool {
		if strings.Contains(path, "/quarantine/") {
			taken[path] = content
		}
		return taken[path] != nil
	})
	if err := errors.Join(err, worse); err != nil {
		return []harm{{contested, strange, err.Error()}}
	}
	var still []*said
	for _, s := range c.said {
		at, n := "", 0
		for path, content := range named {
			if k := bytes.Count(content, s.record); k > 0 {
				at, n = filepath.Base(path), max(n, k)
			}
		}
		who := string(bytes.SplitN(s.record, []byte("\n"), 2)[0])
		switch {
		case n > 1:
			harms = append(harms, harm{filepath.Join(contested, at), doubled, fmt.Sprintf("has %d times %s", n, who)})
		case !s.told:
			c.sum["untold"]++
		case at != "" && len(at) == 2: // under one of the names
			c.sum["named"]++
			s.name = at
			still = append(still, s)
		case at != "":
			c.sum["beside"]++
		case holds(taken, s.record):
			c.sum["taken by the rival, or in quarantine"]++
		case holds(kept, s.record) && c.late && s.ours: // it may be owed
			c.sum["kept"]++
			still = append(still, s)
		case holds(kept, s.record):
			c.sum["kept"]++
		case c.isTaken(s):
			c.sum["taken by the program"]++
		case !s.ours && c.unseen(s) != "":
			c.sum["unseen by "+c.unseen(s)]++
		default:
			harms = append(harms, harm{filepath.Join(contested, s.name), lost, "is found nowhere: " + who + c.story(s)})
		}
	}
	now := time.Now()
	for _, s := range still {
		if !s.judged.IsZero() {
			s.begin = s.judged
		}
		s.judged = now
	}
	c.deeds = slices.DeleteFunc(c.deeds, func(d deed) bool { return d.end.Before(c.judged) })
	c.said, c.wire, c.judged = still, nil, now
	clear(c.asked)
	return append(harms, c.clear()...)
}

func holds(all map[string][]byte, record []byte) bool {
	for _, content := range all {
		if bytes.Contains(content, record) {
			return true
		}
	}
	return false
}

// names returns those that s may have borne since.
func (c *contest) names(s *said) []string {
	names := []string{s.name}
	for _, d := range c.deeds {
		if d.what == "rename" && !d.endsBefore(s) && slices.Contains(names, d.name) {
			names = append(names, d.to)
		}
	}
	return names
}

func (d deed) endsBefore(s *said) bool { return !d.end.IsZero() && d.end.Before(s.begin) }

// isTaken reports whether the program itself may have taken s away: what it does after s is there, or in the life before and owed since.
func (c *contest) isTaken(s *said) bool {
	names := c.names(s)
	return slices.ContainsFunc(c.deeds, func(d deed) bool {
		switch {
		case d.endsBefore(s):
			return false
		case d.what == "rename":
			return slices.Contains(names, d.to)
		}
		return slices.Contains(names, d.name)
	})
}

// unseen returns what took a name of s that was asked for last before s came there; "" if nothing did.
func (c *contest) unseen(s *said) string {
	names := c.names(s)
	i := slices.IndexFunc(c.wire, func(h heard) bool {
		return slices.Contains(names, h.name) && h.at.After(s.begin) && !h.asked.After(s.end)
	})
	if i < 0 {
		return ""
	}
	return c.wire[i].word
}

// story is what happened to the name of s.
func (c *contest) story(s *said) string {
	var b strings.Builder
	fmt.Fprintf(&b, ", begun %s, told %s", s.begin.Format("05.000000"), s.end.Format("05.000000"))
	for _, d := range c.deeds {
		if d.name == s.name || d.to == s.name {
			fmt.Fprintf(&b, "; %s %s %s until %s", d.what, d.name, d.to, d.end.Format("05.000000"))
		}
	}
	for _, h := range c.wire {
		if h.name == s.name && h.at.After(s.begin.Add(-50*time.Millisecond)) {
			fmt.Fprintf(&b, "; %s %s, asked %s", h.at.Format("05.000000"), h.word, h.asked.Format("05.000000"))
		}
	}
	for _, o := range c.said {
		if o.name == s.name && o != s && o.begin.After(s.begin.Add(-50*time.Millisecond)) {
			fmt.Fprintf(&b, "; %s ours=%v told=%v", o.begin.Format("05.000000"), o.ours, o.told)
		}
	}
	return b.String()
}

// clear removes what nobody will write to any more.
func (c *contest) clear() []harm {
	all, err := filepath.Glob(filepath.Join(c.hoard, "*"))
	beside, worse := filepath.Glob(filepath.Join(c.at, "c?.conflict-*"))
	err = errors.Join(err, worse)
	for _, path := range append(all, beside...) {
		err = errors.Join(err, os.Remove(path))
	}
	if err != nil {
		return []harm{{contested, strange, err.Error()}}
	}
	return nil
}

// contents returns those of all files below dirs.
func contents(dirs ...string) (all map[string][]byte, err error) {
	all = map[string][]byte{}
	for _, dir := range dirs {
		err = errors.Join(err, filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if errors.Is(err, os.ErrNotExist) || err == nil && (!entry.Type().IsRegular() || temporary.MatchString(entry.Name())) {
				return nil
			}
			if err == nil {
				all[path], err = os.ReadFile(path)
			}
			return err
		}))
	}
	return all, err
}
