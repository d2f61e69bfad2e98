package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// recordMark begins the first line of every record that is written. The line is like no other's, so that a record that stands
// somewhere twice, or at another place, is seen.
const recordMark = "record "

// bigSize is more than what begins to travel before its file is closed.
const bigSize = 5 << 20

// worker is a program at work in a directory of its own. It notes at every moment which trees the server may have there.
type worker struct {
	name  string // of the directory
	dir   string // the same, as programs see it
	rng   *rand.Rand
	big   bool     // writes a large file now and then
	ties  bool     // makes links, which not every server can
	times bool     // sets times, which not every server keeps
	even  bool     // does the rare things as often as the others
	log   *logbook // that it shares with others

	register *register // as well
	bag      []job

	now     world   // what it was told
	may     []state // what the server may have; read by others when run has returned
	records int
	claim   string   // what its daemon left of an exclusive creation, and the next one may remove; "" is nothing
	past    *past    // what the server may have while something is owed to it
	trail   []string // the last things it did
	acked   int64    // bytes of content that it was told are safe
	calls   int      // changes that it was told are done
}

// newWorker works at name, which lies in mount.
func newWorker(mount, name string, rng *rand.Rand) *worker {
	return &worker{name: name, dir: filepath.Join(mount, name), rng: rng, now: world{}, may: []state{{world: world{}}}, past: newPast()}
}

// run works until it is to rest, or something fails, which it does when the daemon is dead.
func (w *worker) run(rest *atomic.Bool) error {
	if err := w.untie(); err != nil {
		return err
	}
	for !rest.Load() {
		if err := w.work(); err != nil {
			return err
		}
	}
	return nil
}

// job is one thing that a program does. It returns false if there is nothing to do it with.
type job struct {
	often int
	name  string
	do    func(w *worker) (did bool, err error)
}

// jobs are what the load is made of.
func jobs() []job {
	return []job{
		{6, "create", (*worker).create},
		{4, "overwrite", (*worker).overwrite},
		{3, "create exclusively", (*worker).createExclusively},
		{5, "append", (*worker).append},
		{3, "log", (*worker).logAlone},
		{4, "log together", (*worker).logTogether},
		{2, "write together", (*worker).writeTogether},
		{2, "patch", (*worker).patch},
		{1, "map", (*worker).mapped},
		{2, "truncate", (*worker).truncate},
		{1, "extend", (*worker).extend},
		{2, "append by two handles", (*worker).appendByTwo},
		{2, "save", (*worker).save},
		{1, "create anew", (*worker).createAnew},
		{1, "swap", (*worker).swap},
		{1, "write a large one", (*worker).writeLarge},
		{4, "rename", (*worker).rename},
		{2, "rename while open", (*worker).renameOpen},
		{3, "unlink", (*worker).unlink},
		{2, "unlink while open", (*worker).unlinkOpen},
		{1, "unlink a large one at once", (*worker).unlinkLarge},
		{2, "mkdir", (*worker).mkdir},
		{1, "rename a directory", (*worker).renameDir},
		{1, "rename a directory while a file is open", (*worker).renameDirOpen},
		{1, "rename a directory and make another of its name", (*worker).renameDirAndBack},
		{1, "rmdir", (*worker).rmdir},
		{1, "leave open", (*worker).leaveOpen},
		{2, "read", (*worker).read},
		{1, "chmod", (*worker).chmod},
		{1, "utimes", (*worker).utimes},
		{1, "link", (*worker).link},
		{1, "symlink", (*worker).symlink},
	}
}

// work does one job, chosen by chance.
func (w *worker) work() error {
	for {
		j := w.next()
		did, err := j.do(w)
		if err != nil {
			return errJob{w.name, j.name, err}
		}
		if did {
			return nil
		}
	}
}

// errJob is how a job of a worker has failed.
type errJob struct {
	worker, name string
	err          error
}

func (e errJob) Error() string { return fmt.Sprintf("%s: %s: %v", e.worker, e.name, e.err) }
func (e errJob) Unwrap() error { return e.err }

// next takes a job out of a bag, which is filled again when it is empty.
func (w *worker) next() job {
	if len(w.bag) == 0 {
		for _, j := range jobs() {
			often := j.often
			if w.even {
				often = 1
			}
			w.bag = append(w.bag, slices.Repeat([]job{j}, often)...)
		}
		w.rng.Shuffle(len(w.bag), func(i, k int) { w.bag[i], w.bag[k] = w.bag[k], w.bag[i] })
	}
	j := w.bag[0]
	w.bag = w.bag[1:]
	return j
}

// step does something that brings the tree to next. Until it is told to be done, the server may have the tree before it, that
// after it, or one of via.
func (w *worker) step(what string, next world, do func() error, via ...state) error {
	w.trail = append(w.trail[max(0, len(w.trail)-15):], what)
	w.may = append([]state{{world: w.now}, {world: next}}, via...)
	for _, s := range w.may[1:] {
		w.remember(s)
	}
	if err := do(); err != nil {
		return err
	}
	w.calls++
	for name, n := range next {
		if old := w.now[name].content; bytes.HasPrefix(n.content, old) {
			w.acked += int64(len(n.content) - len(old))
		} else {
			w.acked += int64(len(n.content))
		}
	}
	w.now, w.may = next, []state{{world: next}}
	return nil
}

// remember notes the contents of s, each of which comes to the server whole or not at all.
func (w *worker) remember(s state) {
	if s.claim != "" {
		w.past.claims[s.claim] = true
		return
	}
	if s.grows != "" && len(s.world[s.grows].content) >= bigSize {
		w.past.grown = append(w.past.grown, s)
	}
	for _, n := range s.world {
		if n.kind == 0 {
			w.past.contents[keyOf(n.content)] = true
		}
	}
}

// found says that the tree was found so, in the state s.
func (w *worker) found(at world, s state) {
	if s.claim == "" {
		s.claim = w.claim
	}
	w.now, w.claim = maps.Clone(at), ""
	for name, n := range at { // times count that a program has set
		n.changed = s.world[name].changed
		w.now[name] = n
	}
	if _, still := at[s.claim]; still {
		w.claim = s.claim
	}
	w.may = w.rests()
	w.remember(state{world: at})
}

// rests returns what the tree may be while nothing is done.
func (w *worker) rests() []state {
	states := []state{{world: w.now}}
	if w.claim != "" {
		states = append(states, state{world: w.now.without(w.claim)})
	}
	return states
}

func (w *worker) path(name string) string { return filepath.Join(w.dir, name) }

// record returns a record of the given size.
func (w *worker) record(size int) []byte {
	w.records++
	text := fmt.Appendf(nil, "%s%s-%d\n", recordMark, w.name, w.records)
	for len(text) < size {
		text = fmt.Appendf(text, "%016x%016x\n", w.rng.Uint64(), w.rng.Uint64())
	}
	return text
}

// size is one that a program may write: mostly small, now and then large.
func (w *worker) size() int {
	switch n := w.rng.IntN(100); {
	case n < 60:
		return w.rng.IntN(4 << 10)
	case n < 98 || !w.big:
		return w.rng.IntN(100 << 10)
	}
	return bigSize
}

const maxFiles = 10

// names returns those of the files or directories.
func (w *worker) names(dirs bool) []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(w.now)) {
		if n := w.now[name]; n.isDir() == dirs && n.kind != os.ModeSymlink {
			names = append(names, name)
		}
	}
	return names
}

// file returns the name of some file.
func (w *worker) file() (name string, ok bool) { return w.one(w.names(false)) }

func (w *worker) one(names []string) (name string, ok bool) {
	if len(names) == 0 {
		return "", false
	}
	return names[w.rng.IntN(len(names))], true
}

// newName returns a name that nothing bears, in some directory.
func (w *worker) newName(stem string) string {
	return w.fresh(append(w.names(true), "")[w.rng.IntN(len(w.names(true))+1)], stem)
}

// fresh is newName in the directory dir.
func (w *worker) fresh(dir, stem string) string {
	for {
		name := filepath.Join(dir, fmt.Sprintf("%s%d", stem, w.rng.IntN(40)))
		if _, there := w.now[name]; !there {
			return name
		}
	}
}

// write writes content in a few calls.
func (w *worker) write(f *os.File, content []byte) error {
	for len(content) > 0 {
		n := min(len(content), 1+w.rng.IntN(1<<20))
		if _, err := f.Write(content[:n]); err != nil {
			return err
		}
		content = content[n:]
	}
	return nil
}

// put opens name and writes content to it.
func (w *worker) put(name string, flag int, content []byte) error {
	f, err := os.OpenFile(w.path(name), os.O_WRONLY|flag, 0o644)
	if err != nil {
		return err
	}
	return closing(f, w.write(f, content))
}

// closing closes f, whatever became of it.
func closing(f *os.File, err error) error { return errors.Join(err, f.Close()) }

func (w *worker) create() (bool, error) {
	if len(w.names(false)) >= maxFiles {
		return false, nil
	}
	name, content := w.newName("f"), w.record(w.size())
	return true, w.step("create "+name, w.now.with(name, content), func() error { return w.put(name, os.O_CREATE|os.O_TRUNC, content) })
}

func (w *worker) overwrite() (bool, error) {
	name, ok := w.file()
	if !ok {
		return false, nil
	}
	content := w.record(w.size())
	return true, w.step("overwrite "+name, w.now.with(name, content), func() error { return w.put(name, os.O_CREATE|os.O_TRUNC, content) })
}

// createExclusively may leave the empty file by which a server decides who comes first.
func (w *worker) createExclusively() (bool, error) {
	if len(w.names(false)) >= maxFiles {
		return false, nil
	}
	name, content := w.newName("x"), w.record(w.size())
	return true, w.step("create "+name+" exclusively", w.now.with(name, content),
		func() error { return w.put(name, os.O_CREATE|os.O_EXCL, content) }, state{world: w.now.with(name, nil), claim: name})
}

// grown is the tree in which more is added to name, and the state in which a part of it is.
func (w *worker) grown(name string, more []byte) (next world, part state) {
	old := w.now[name].content
	next = w.now.with(name, slices.Concat(old, more))
	return next, state{world: next, grows: name, least: len(old)}
}

func (w *worker) append() (bool, error) {
	name, ok := w.file()
	if !ok || len(w.now[name].content) > bigSize {
		return false, nil
	}
	more := w.record(w.rng.IntN(20 << 10))
	next, part := w.grown(name, more)
	return true, w.step("append to "+name, next, func() error { return w.put(name, os.O_APPEND, more) }, part)
}

// logTogether adds a line to the log of all workers.
func (w *worker) logTogether() (did bool, err error) {
	w.records++
	line := fmt.Appendf(nil, "%s%s-%d %0*d\n", recordMark, w.name, w.records, 1+w.rng.IntN(2000), 0)
	w.trail = append(w.trail[max(0, len(w.trail)-15):], "log together")
	if err := w.log.add(w.name, line); err != nil {
		return true, err
	}
	w.calls++
	w.acked += int64(len(line))
	return true, nil
}

// logAlone appends a few records and syncs each.
func (w *worker) logAlone() (did bool, err error) {
	name, ok := w.file()
	if !ok || len(w.now[name].content) > bigSize {
		return false, nil
	}
	f, err := os.OpenFile(w.path(name), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return true, err
	}
	for i := 0; i < 3 && err == nil; i++ {
		more := w.record(w.rng.IntN(2 << 10))
		next, part := w.grown(name, more)
		err = w.step("log to "+name, next, func() error { return errors.Join(w.write(f, more), f.Sync()) }, part)
	}
	return true, closing(f, err)
}

// patch changes something within a file.
func (w *worker) patch() (bool, error) {
	name, ok := w.file()
	old := w.now[name].content
	if !ok || len(old) < 100 {
		return false, nil
	}
	content := slices.Clone(old)
	off := len(recordMark) + 40 + w.rng.IntN(len(old)-99)
	text := fmt.Appendf(nil, "patch %d", w.records)
	text = text[:min(len(text), len(old)-off)]
	copy(content[off:], text)
	return true, w.step("patch "+name, w.now.with(name, content), func() error {
		f, err := os.OpenFile(w.path(name), os.O_RDWR, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteAt(text, int64(off))
		return closing(f, err)
	})
}

func (w *worker) truncate() (bool, error) {
	name, ok := w.file()
	if !ok {
		return false, nil
	}
	old := w.now[name].content
	size := w.rng.IntN(len(old) + 1)
	return true, w.step(fmt.Sprintf("truncate %s to %d", name, size), w.now.with(name, old[:size:size]),
		func() error { return os.Truncate(w.path(name), int64(size)) })
}

func (w *worker) rename() (bool, error) {
	from, to, ok := w.fromTo()
	if !ok {
		return false, nil
	}
	return true, w.step("rename "+from+" to "+to, w.now.renamed(from, to), func() error { return os.Rename(w.path(from), w.path(to)) })
}

// fromTo returns a file and what it may be called: by a new name, or by that of another.
func (w *worker) fromTo() (from, to string, ok bool) {
	from, ok = w.file()
	if !ok {
		return "", "", false
	}
	to = w.newName("r")
	if other, _ := w.file(); other != from && w.rng.IntN(2) == 0 {
		to = other
	}
	return from, to, true
}

// renameOpen renames a file with something in it that is not published, and goes on writing.
func (w *worker) renameOpen() (bool, error) {
	from, to, ok := w.fromTo()
	if !ok || len(w.now[from].content) > bigSize {
		return false, nil
	}
	f, err := os.OpenFile(w.path(from), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return true, err
	}
	first, second := w.record(w.rng.IntN(4<<10)), w.record(w.rng.IntN(4<<10))
	grown, part := w.grown(from, first)
	err = w.step("append to "+from+" and rename it to "+to, grown.renamed(from, to), func() error {
		return errors.Join(w.write(f, first), os.Rename(w.path(from), w.path(to)))
	}, state{world: grown}, part)
	if err == nil {
		next, part := w.grown(to, second)
		err = w.step("append to "+to, next, func() error { return closing(f, w.write(f, second)) }, part)
	}
	f.Close() // once more, if it did not come to that
	return true, err
}

// untie removes links that a former daemon left: what is done to a second name happens to the first one too. So it does
// with a claim, which may go at any time.
func (w *worker) untie() error {
	if name := w.claim; name != "" {
		if err := w.step("unlink "+name, w.now.without(name), func() error { return w.unlinkIfThere(name) }); err != nil {
			return err
		}
		w.claim = ""
	}
	for _, name := range slices.Sorted(maps.Keys(w.now)) {
		if n := w.now[name]; n.kind != os.ModeSymlink && (n.isDir() || !strings.HasPrefix(filepath.Base(name), "l")) {
			continue
		}
		if err := w.step("unlink "+name, w.now.without(name), func() error { return os.Remove(w.path(name)) }); err != nil {
			return err
		}
	}
	return nil
}

func (w *worker) unlinkIfThere(name string) error {
	if err := os.Remove(w.path(name)); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// link gives a file a second name for a while.
func (w *worker) link() (bool, error) {
	name, ok := w.file()
	if !ok || !w.ties {
		return false, nil
	}
	to := w.newName("l")
	err := w.step("link "+name+" as "+to, w.now.with(to, w.now[name].content), func() error { return os.Link(w.path(name), w.path(to)) })
	if err == nil {
		err = w.step("unlink "+to, w.now.without(to), func() error { return os.Remove(w.path(to)) })
	}
	return true, err
}

func (w *worker) symlink() (bool, error) {
	if !w.ties {
		return false, nil
	}
	name, to := w.newName("s"), w.newName("s")
	err := w.step("make "+name+" a symbolic link", w.now.withLink(name, "nowhere"), func() error { return os.Symlink("nowhere", w.path(name)) })
	if err == nil && name != to {
		err = w.step("rename "+name+" to "+to, w.now.renamed(name, to), func() error { return os.Rename(w.path(name), w.path(to)) })
		name = to
	}
	if err == nil {
		err = w.step("unlink "+name, w.now.without(name), func() error { return os.Remove(w.path(name)) })
	}
	return true, err
}

func (w *worker) unlink() (bool, error) {
	name, ok := w.file()
	if !ok {
		return false, nil
	}
	return true, w.step("unlink "+name, w.now.without(name), func() error { return os.Remove(w.path(name)) })
}

// unlinkOpen writes to a file, old or new, that is gone before it is closed.
func (w *worker) unlinkOpen() (bool, error) {
	name, ok := w.file()
	if !ok || w.rng.IntN(2) == 0 {
		name = w.newName("u")
	}
	size := w.size()
	if w.big && (w.even || w.rng.IntN(3) == 0) {
		size = bigSize // so that it is on its way already
	}
	content := w.record(size)
	over := slices.Concat(content, w.now[name].content[min(len(content), len(w.now[name].content)):])
	return true, w.step("write to "+name+" and unlink it", w.now.without(name), func() error {
		f, err := os.OpenFile(w.path(name), os.O_WRONLY|os.O_CREATE, 0o644)
		if err != nil {
			return err
		}
		err = w.write(f, content)
		return closing(f, errors.Join(err, os.Remove(w.path(name))))
	}, state{world: w.now.with(name, over)}) // the mount may go before the name does, and the file be closed all the same
}

// breakOff writes so much that it is on its way, and unlinks it before it is closed.
func (w *worker) breakOff() (bool, error) {
	name, content := w.newName("u"), w.record(2*bigSize)
	return true, w.step("write to "+name+" and unlink it on its way", w.now.without(name), func() error {
		f, err := os.OpenFile(w.path(name), os.O_WRONLY|os.O_CREATE, 0o644)
		if err != nil {
			return err
		}
		err = w.write(f, content)
		return closing(f, errors.Join(err, os.Remove(w.path(name))))
	}, state{world: w.now.with(name, content)}) // the mount may go before the name does, and the file be closed all the same
}

// unlinkLarge removes a large file while it may still be owed, and on its way.
func (w *worker) unlinkLarge() (bool, error) {
	if !w.big {
		return false, nil
	}
	name, content := w.newName("u"), w.record(bigSize)
	err := w.step("create "+name, w.now.with(name, content), func() error { return w.put(name, os.O_CREATE|os.O_TRUNC, content) })
	if err == nil {
		err = w.step("unlink "+name, w.now.without(name), func() error { return os.Remove(w.path(name)) })
	}
	return true, err
}

func (w *worker) mkdir() (bool, error) {
	if len(w.names(true)) >= 4 {
		return false, nil
	}
	name := w.newName("d")
	if strings.Count(name, "/") > 2 {
		return false, nil
	}
	return true, w.step("mkdir "+name, w.now.withDir(name), func() error { return os.Mkdir(w.path(name), 0o755) })
}

func (w *worker) renameDir() (bool, error) {
	from, ok := w.one(w.names(true))
	to := w.newName("d")
	if !ok || isBelow(to, from) {
		return false, nil
	}
	return true, w.step("rename the directory "+from+" to "+to, w.now.renamed(from, to), func() error { return os.Rename(w.path(from), w.path(to)) })
}

// renameDirOpen renames a directory in which a file is being written, which is published by that, and goes on writing.
func (w *worker) renameDirOpen() (bool, error) {
	from, ok := w.one(w.names(true))
	to := w.newName("d")
	if !ok || isBelow(to, from) || len(w.names(false)) >= maxFiles {
		return false, nil
	}
	name, first, second := w.fresh(from, "f"), w.record(w.size()), w.record(w.rng.IntN(4<<10))
	f, err := os.OpenFile(w.path(name), os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return true, err
	}
	written := w.now.with(name, first)
	err = w.step("write "+name+" and rename its directory to "+to, written.renamed(from, to), func() error {
		return errors.Join(w.write(f, first), os.Rename(w.path(from), w.path(to)))
	}, state{world: written})
	if err == nil {
		next, part := w.grown(to+name[len(from):], second)
		err = w.step("append to it", next, func() error { return closing(f, w.write(f, second)) }, part)
	}
	f.Close() // once more, if it did not come to that
	return true, err
}

// rmdir empties a directory of its files and removes it.
func (w *worker) rmdir() (bool, error) {
	name, ok := w.one(w.names(true))
	if !ok || slices.ContainsFunc(w.names(true), func(dir string) bool { return dir != name && isBelow(dir, name) }) {
		return false, nil
	}
	for _, file := range w.names(false) {
		if !isBelow(file, name) {
			continue
		}
		if err := w.step("unlink "+file, w.now.without(file), func() error { return os.Remove(w.path(file)) }); err != nil {
			return true, err
		}
	}
	return true, w.step("rmdir "+name, w.now.without(name), func() error { return os.Remove(w.path(name)) })
}

// leaveOpen writes to a file, new or old, and does not close it before something else was done: nothing of it may be seen until then.
func (w *worker) leaveOpen() (bool, error) {
	name, ok := w.file()
	if !ok || w.rng.IntN(2) == 0 {
		name = w.newName("o")
	}
	content := w.record(w.size())
	f, err := os.OpenFile(w.path(name), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return true, err
	}
	if err := w.write(f, content); err != nil {
		return true, closing(f, err)
	}
	if err := w.elsewhere(name); err != nil { // the mount may go, and the file be closed all the same
		for _, s := range slices.Clone(w.may) {
			s.world = s.with(name, content)
			w.may = append(w.may, s)
			w.remember(s)
		}
		return true, closing(f, err)
	}
	return true, w.step("close "+name, w.now.with(name, content), f.Close)
}

// elsewhere does something with another name than that.
func (w *worker) elsewhere(than string) error {
	name := "e" + filepath.Base(than)
	content := w.record(100)
	if err := w.step("create "+name, w.now.with(name, content), func() error { return w.put(name, os.O_CREATE|os.O_TRUNC, content) }); err != nil {
		return err
	}
	return w.step("unlink "+name, w.now.without(name), func() error { return os.Remove(w.path(name)) })
}

// read reads something, and it must be what was written.
func (w *worker) read() (bool, error) {
	name, ok := w.file()
	if !ok {
		return false, nil
	}
	f, err := os.Open(w.path(name))
	if err != nil {
		return true, err
	}
	content, err := io.ReadAll(f)
	if err := closing(f, err); err != nil {
		return true, err
	}
	if s := (state{world: w.now}); !s.allows(name, content) {
		return true, errWrong{fmt.Sprintf("%s reads as %s, want %s", name, tell(node{content: content}), tell(w.now[name]))}
	}
	return true, nil
}

// errWrong is an answer that no daemon may give, dead or alive.
type errWrong struct{ text string }

func (e errWrong) Error() string { return e.text }

func (w *worker) chmod() (bool, error) {
	name, ok := w.file()
	if !ok {
		return false, nil
	}
	perm := 0o600 | os.FileMode(w.rng.IntN(8)*0o011)
	return true, w.step(fmt.Sprintf("chmod %s to %v", name, perm), w.now.withPerm(name, perm), func() error { return os.Chmod(w.path(name), perm) })
}

// utimes sets a time long ago.
func (w *worker) utimes() (bool, error) {
	name, ok := w.file()
	if !ok || !w.times {
		return false, nil
	}
	changed := time.Unix(1e9+w.rng.Int64N(5e8), 0)
	return true, w.step(fmt.Sprintf("set the time of %s to %d", name, changed.Unix()), w.now.withTime(name, changed.Unix()),
		func() error { return os.Chtimes(w.path(name), changed, changed) })
}

// extend adds zeros to a file.
func (w *worker) extend() (bool, error) {
	name, ok := w.file()
	if !ok || len(w.now[name].content) > bigSize {
		return false, nil
	}
	next, part := w.grown(name, make([]byte, 1+w.rng.IntN(8<<10)))
	size := int64(len(next[name].content))
	return true, w.step(fmt.Sprintf("extend %s to %d", name, size), next, func() error { return os.Truncate(w.path(name), size) }, part)
}

// appendByTwo appends to a file through two descriptors in turns.
func (w *worker) appendByTwo() (bool, error) {
	name, ok := w.file()
	if !ok || len(w.now[name].content) > bigSize {
		return false, nil
	}
	records := [][]byte{w.record(w.rng.IntN(2 << 10)), w.record(w.rng.IntN(2 << 10)), w.record(w.rng.IntN(2 << 10))}
	next, part := w.grown(name, bytes.Join(records, nil))
	return true, w.step("append to "+name+" by two handles", next, func() error {
		first, err := os.OpenFile(w.path(name), os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return err
		}
		second, err := os.OpenFile(w.path(name), os.O_RDWR|os.O_APPEND, 0)
		if err != nil {
			return closing(first, err)
		}
		for i, record := range records {
			if err == nil {
				err = w.write([]*os.File{first, second}[i%2], record)
			}
		}
		return closing(second, closing(first, err))
	}, part)
}

// save writes a file beside another one and gives it its name, as editors do.
func (w *worker) save() (bool, error) {
	name, ok := w.file()
	if !ok {
		return false, nil
	}
	beside, content := w.fresh(filepath.Dir(name), "t"), w.record(w.size())
	err := w.step("create "+beside, w.now.with(beside, content), func() error { return w.put(beside, os.O_CREATE|os.O_EXCL, content) },
		state{world: w.now.with(beside, nil), claim: beside})
	if err == nil {
		err = w.step("rename "+beside+" to "+name, w.now.renamed(beside, name), func() error { return os.Rename(w.path(beside), w.path(name)) })
	}
	return true, err
}

// createAnew removes a file and creates it again at once.
func (w *worker) createAnew() (bool, error) {
	name, ok := w.file()
	if !ok {
		return false, nil
	}
	content := w.record(w.size())
	err := w.step("unlink "+name, w.now.without(name), func() error { return os.Remove(w.path(name)) })
	if err == nil {
		err = w.step("create "+name+" anew", w.now.with(name, content), func() error { return w.put(name, os.O_CREATE|os.O_EXCL, content) },
			state{world: w.now.with(name, nil), claim: name})
	}
	return true, err
}

// swap gives two files each other's name.
func (w *worker) swap() (bool, error) {
	one, ok := w.file()
	other, _ := w.file()
	if !ok || one == other {
		return false, nil
	}
	aside := w.newName("r")
	for _, names := range [][2]string{{one, aside}, {other, one}, {aside, other}} {
		from, to := names[0], names[1]
		if err := w.step("rename "+from+" to "+to, w.now.renamed(from, to), func() error { return os.Rename(w.path(from), w.path(to)) }); err != nil {
			return true, err
		}
	}
	return true, nil
}

// writeLarge writes so much that it travels while it is written, by several channels, and now and then changes it before it is closed.
func (w *worker) writeLarge() (bool, error) {
	if !w.big || !w.even && w.rng.IntN(2) == 0 {
		return false, nil
	}
	name, ok := w.file()
	if !ok || len(w.names(false)) < maxFiles && w.rng.IntN(2) == 0 {
		name = w.newName("b")
	}
	content := w.record(bigSize + w.rng.IntN(6<<20))
	back := -1
	if w.rng.IntN(3) == 0 {
		back = w.rng.IntN(len(content) - 9)
	}
	first := slices.Clone(content)
	if back >= 0 {
		copy(content[back:], "backwards")
	}
	return true, w.step("write the large "+name, w.now.with(name, content), func() error {
		f, err := os.OpenFile(w.path(name), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
		if err != nil {
			return err
		}
		if err = w.write(f, first); err == nil && back >= 0 {
			_, err = f.WriteAt(content[back:back+9], int64(back))
		}
		return closing(f, err)
	})
}

// renameDirAndBack renames a directory, makes another one of its name, and puts something there.
func (w *worker) renameDirAndBack() (bool, error) {
	from, ok := w.one(w.names(true))
	to := w.newName("d")
	if !ok || isBelow(to, from) || len(w.names(true)) >= 5 || len(w.names(false)) >= maxFiles {
		return false, nil
	}
	below := w.fresh(from, "f")
	before, content := w.record(w.rng.IntN(4<<10)), w.record(w.rng.IntN(4<<10))
	err := w.step("create "+below, w.now.with(below, before), func() error { return w.put(below, os.O_CREATE|os.O_TRUNC, before) })
	if err == nil {
		err = w.step("rename the directory "+from+" to "+to, w.now.renamed(from, to), func() error { return os.Rename(w.path(from), w.path(to)) })
	}
	if err == nil {
		err = w.step("mkdir "+from, w.now.withDir(from), func() error { return os.Mkdir(w.path(from), 0o755) })
	}
	if err == nil {
		err = w.step("create "+below, w.now.with(below, content), func() error { return w.put(below, os.O_CREATE|os.O_TRUNC, content) })
	}
	return true, err
}

// mapped changes something within a file by a store into a shared mapping, and syncs that.
func (w *worker) mapped() (did bool, err error) {
	name, ok := w.file()
	old := w.now[name].content
	if !ok || len(old) < 100 {
		return false, nil
	}
	content := slices.Clone(old)
	text := fmt.Appendf(nil, "mapped %d", w.records)
	off := len(recordMark) + 40 + w.rng.IntN(len(old)-99)
	text = text[:min(len(text), len(old)-off)]
	copy(content[off:], text)
	return true, w.step("map "+name, w.now.with(name, content), func() error { return storing(w.path(name), text, off, len(old)) })
}

// writeTogether changes a file that all workers write to, at the same place.
func (w *worker) writeTogether() (did bool, err error) {
	w.records++
	line := fmt.Appendf(nil, "%s%s-%d ", recordMark, w.name, w.records)
	line = append(line, bytes.Repeat([]byte{'.'}, registerSize-len(line)-1)...)
	w.trail = append(w.trail[max(0, len(w.trail)-15):], "write together")
	if err := w.register.set(append(line, '\n')); err != nil {
		return true, err
	}
	w.calls++
	w.acked += registerSize
	return true, nil
}
