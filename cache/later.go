package cache

import (
	"context"
	"errors"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"pierfs/backends"
	"pierfs/cache/attr"
	"pierfs/cache/journal"
)

// What follows promises changes of names: they are in the journal when it returns, and what is known is as if they had been made.

// owe writes c down, and with it what else changes in the same step.
func (t *Tree) owe(c *change, also journal.Change) ([]journal.Entry, error) {
	c.e.Target, c.e.When = journal.Name(t.options.Target), time.Now()
	also.Add = append([]journal.Entry{c.e}, also.Add...)
	if err := t.enter(&also); err != nil {
		return nil, fault(string(c.e.Kind), string(c.e.Name), err)
	}
	c.e = also.Add[0]
	t.changes.add(c)
	return also.Add[1:], nil
}

// versionAt is what a change expects of what the server has at name; nil if it expects nothing of it. It is as the server told it: a time
// that a program set, and the server could not keep, is forgotten with the name.
func (t *Tree) versionAt(name string, info backends.Info) *journal.Version {
	if info.Known == 0 || info.IsDir() {
		return nil
	}
	v := versionOf(t.kept.asTold(name, info))
	return &v
}

// expected is versionAt for a change of attributes of name, which is e as far as is known. Nothing is expected of what a former daemon knew,
// which may have changed it in its last second, nor of what is going to be another version by our own doing.
func (t *Tree) expected(name string, e Entry) *journal.Version {
	f := t.live(name)
	switch {
	case t.linked(name):
		return nil
	case f == nil:
		if _, asked, _ := t.attrs.GetListed(name); isRecalled(asked) {
			return nil
		}
		return t.versionAt(name, e.Info)
	case f.Dirty():
		return nil
	}
	return t.versionAt(name, f.baseInfo())
}

// recall returns what restores what is known of names now, once it turned out that nothing has happened to them.
func (t *Tree) recall(names ...string) (restore func()) {
	if !t.options.Background {
		return func() {}
	}
	type known struct {
		info  backends.Info
		state attr.State
	}
	all := make([]known, len(names))
	for i, name := range names {
		all[i].info, _, all[i].state = t.attrs.GetListed(name)
	}
	return func() {
		for i, name := range names {
			switch all[i].state {
			case attr.Present:
				t.attrs.Put(name, all[i].info)
			case attr.Absent:
				t.attrs.PutAbsent(name)
			}
		}
	}
}

// renamesLater reports whether a renaming is to be promised and not made: the server does not have yet what is renamed.
func (t *Tree) renamesLater(from, to string) bool {
	if t.changes.concern(from, to) {
		return true
	}
	return t.options.Background && !t.linked(from) && !t.linked(to) && slices.ContainsFunc(t.below(from), (*File).owes)
}

// mkdirLater is Mkdir while the server cannot be asked.
func (t *Tree) mkdirLater(ctx context.Context, name string, perm os.FileMode) (Entry, error) {
	release, err := t.alone(ctx, name)
	if err != nil {
		return Entry{}, err
	}
	defer release()
	if err := t.mayMake("mkdir", name); err != nil {
		return Entry{}, err
	}
	info := t.blank(name, perm)
	info.Mode = os.ModeDir | perm&permBits
	c := &change{e: journal.Entry{Kind: journal.Mkdir, Name: journal.Name(name), Show: versionOf(info), Attr: attrOf(backends.Attr{Perm: &perm})}}
	if _, err := t.owe(c, journal.Change{}); err != nil {
		return Entry{}, err
	}
	t.showMkdir(name, info)
	t.shown(c)
	return t.lastKnown(name)
}

// mayMake returns an error if something is known to bear name, or to forbid that anything does.
func (t *Tree) mayMake(op, name string) error {
	switch _, err := t.lastKnown(name); {
	case err == nil:
		return fault(op, name, syscall.EEXIST)
	case !errors.Is(err, os.ErrNotExist) && !errors.Is(err, ErrUnlisted):
		return err
	}
	if above, err := t.lastKnown(parent(name)); errors.Is(err, os.ErrNotExist) {
		return fault(op, name, syscall.ENOENT)
	} else if err == nil && !above.IsDir() {
		return fault(op, name, syscall.ENOTDIR)
	}
	return nil
}

// symlinkLater is Symlink while the server cannot be asked. Only a link that leads downward, or upward within the tree, is promised: where
// any other leads the server must say.
func (t *Tree) symlinkLater(ctx context.Context, target, name string) (Entry, error) {
	release, err := t.alone(ctx, name)
	if err != nil {
		return Entry{}, err
	}
	defer release()
	if !leadsInside(target, name) {
		return Entry{}, fault("symlink", name, errors.Join(syscall.EPERM, errors.New("where such a link leads the server must say, which is away")))
	}
	if err := t.mayMake("symlink", name); err != nil {
		return Entry{}, err
	}
	info := t.blank(name, 0o777)
	info.Mode, info.Size = os.ModeSymlink|0o777, int64(len(target))
	info.Known &^= backends.HasModTime // the server will say when it was made
	c := &change{e: journal.Entry{Kind: journal.Symlink, Name: journal.Name(name), To: journal.Name(target), Show: versionOf(info)}}
	if _, err := t.owe(c, journal.Change{}); err != nil {
		return Entry{}, err
	}
	t.attrs.Put(name, info)
	t.shown(c)
	return t.lastKnown(name)
}

// leadsInside reports whether the link name that leads to target stays in the tree, whatever other links lie on its way.
func leadsInside(target, name string) bool {
	if target == "" || len(target) > maxTarget || strings.ContainsRune(target, 0) || path.IsAbs(target) {
		return false
	}
	up, down := 0, false
	for part := range strings.SplitSeq(target, "/") {
		switch {
		case part == ".." && down:
			return false
		case part == "..":
			up++
		case part != "" && part != ".":
			down = true
		}
	}
	return up <= strings.Count(name, "/")
}

// maxTarget is the longest content of a link that Linux follows.
const maxTarget = 4095

// shown notes that what is known is as if c had been made. The next daemon may know it from this one, and then shows only what is not.
func (t *Tree) shown(c *change) { t.attrs.Stamp(c.e.Seq) }

// showMkdir lets what is known be as if the directory had been made.
func (t *Tree) showMkdir(name string, info backends.Info) {
	t.attrs.Put(name, info)
	t.attrs.ForgetIn(name)
	t.attrs.AnswerList(name, new(attr.List), time.Now(), t.attrs.Mark(), true, false)
}

// removeLater is Remove while the server cannot be asked. Of a file that it cannot have it will be asked nothing either.
func (t *Tree) removeLater(ctx context.Context, name string) error {
	release, err := t.alone(ctx, name)
	if err != nil {
		return err
	}
	defer release()
	f := t.live(name)
	if f != nil {
		f.stopSending()
	}
	give, err := t.takeAll(ctx, f)
	if err != nil {
		return err
	}
	defer give()
	e, err := t.lastKnown(name)
	if err == nil && e.IsDir() {
		err = fault("unlink", name, syscall.EISDIR)
	}
	if err != nil {
		return err
	}
	c := &change{e: journal.Entry{Kind: journal.Remove, Name: journal.Name(name), Base: t.versionAt(name, e.Info)}}
	c.e.Sent = t.marks(f)
	var also journal.Change
	known := true
	if f != nil {
		known = f.onServer()
		f.mu.Lock()
		c.e.Base = t.versionAt(name, f.base)
		if d := f.owing.debt; d != nil {
			also.Done = append(also.Done, d.seq)
		}
		f.mu.Unlock()
	}
	if known {
		_, err = t.owe(c, also)
	} else if len(also.Done) > 0 {
		err = t.enter(&also)
	}
	if err != nil {
		return err
	}
	if f != nil {
		f.forgiveOver()
		f.abortClaim()
		t.detach(f)
		f.remove()
	}
	t.showRemoved(name)
	if known {
		t.shown(c)
	}
	return nil
}

// showRemoved lets what is known be as if name had been removed.
func (t *Tree) showRemoved(name string) {
	t.unlink(name)
	t.options.Spool.Drop(name)
	t.kept.forget(name)
	t.attrs.PutAbsent(name)
}

// takeAll takes turns and sealings of files that are not nil.
func (t *Tree) takeAll(ctx context.Context, files ...*File) (release func(), err error) {
	give, err := takeTurns(ctx, slices.Clone(files)...)
	if err != nil {
		return nil, err
	}
	giveSealings, err := takeSealings(ctx, slices.Clone(files)...)
	if err != nil {
		give()
		return nil, err
	}
	return func() { giveSealings(); give() }, nil
}

// rmdirLater is Rmdir while the server cannot be asked.
func (t *Tree) rmdirLater(ctx context.Context, name string) error {
	release, err := t.alone(ctx, name)
	if err != nil {
		return err
	}
	defer release()
	e, err := t.lastKnown(name)
	if err != nil {
		return err
	}
	if !e.IsDir() {
		return fault("rmdir", name, syscall.ENOTDIR)
	}
	empty, err := t.isEmpty(name)
	if err == nil && (!empty || t.waitingBelow(name)) {
		err = fault("rmdir", name, syscall.ENOTEMPTY)
	}
	if err != nil {
		return err
	}
	c := &change{e: journal.Entry{Kind: journal.Rmdir, Name: journal.Name(name)}}
	if _, err := t.owe(c, journal.Change{}); err != nil {
		return err
	}
	t.showRemoved(name)
	t.attrs.ForgetIn(name)
	t.shown(c)
	return nil
}

// setLater is set while the server cannot be asked.
func (t *Tree) setLater(name string, a backends.Attr) (backends.Info, error) {
	e, err := t.lastKnown(name)
	if err != nil {
		return e.Info, err
	}
	if e.Mode&os.ModeSymlink != 0 {
		return e.Info, fault("setattr", name, syscall.EOPNOTSUPP) // as while the server is there
	}
	info := changedBy(e.Info, a)
	if a.ModTime != nil {
		info.ModTime = *a.ModTime
	}
	if a.AccTime != nil {
		info.AccTime = *a.AccTime
	}
	c := &change{e: journal.Entry{Kind: journal.SetAttr, Name: journal.Name(name), Base: t.expected(name, e), Show: versionOf(info), Attr: attrOf(a)}}
	if _, err = t.owe(c, journal.Change{}); err == nil {
		t.attrs.Put(name, info)
		t.shown(c)
	}
	return info, err
}

// renameLater is Rename while the server cannot be asked, and of what is owed.
func (t *Tree) renameLater(ctx context.Context, from, to string, mode backends.RenameMode) error {
	if err := t.promiseBelow(ctx, from); err != nil {
		return err
	}
	release, err := t.alone(ctx, from, to)
	if err != nil {
		return err
	}
	defer release()
	if strings.HasPrefix(to, from+"/") {
		return fault("rename", to, syscall.EINVAL)
	}
	files, target := t.below(from), t.live(to)
	for _, f := range files {
		f.stopSending()
	}
	give, err := t.takeAll(ctx, append(files, target)...)
	if err != nil {
		return err
	}
	defer give()
	e, err := t.lastKnown(from)
	if err != nil {
		return err
	}
	replaced, err := t.mayReplace(e, to, mode)
	if err != nil {
		return err
	}
	was := e.Info
	if f := t.live(from); f != nil {
		was = f.baseInfo() // what was made of it since lies over that
	}
	if target != nil && !t.changes.concern(to) {
		if err := target.hold(ctx); err != nil && !t.isAway(ctx, err) {
			return err
		}
	}
	c := &change{e: journal.Entry{Kind: journal.Rename, Name: journal.Name(from), To: journal.Name(to), Base: t.versionAt(from, was), Over: t.versionAt(to, replaced), Show: versionOf(was)}}
	f := t.live(from)
	c.e.Sent, c.e.Went, c.e.All = t.marks(f), t.marks(target), f == nil || !f.mayBeUnheard()
	if err := t.oweRenamed(c, files, target); err != nil {
		return err
	}
	if target != nil {
		target.forgiveOver()
		t.detach(target)
		target.remove()
	}
	t.dropRenamed(from, to)
	t.unlink(to)
	t.endAllEras(from)
	t.showRenamed(from, to, was)
	t.shown(c)
	t.mu.Lock()
	t.moveFiles(from, to)
	t.mu.Unlock()
	for _, f := range files {
		if f.owes() {
			f.enqueue()
		}
	}
	return nil
}

// promiseBelow promises what programs have written at name and below it and not closed yet: it is not lost if we end behind the
// renaming, as it is not behind one that is made at once. What builds on bytes that nobody can ask for now stays as it is.
func (t *Tree) promiseBelow(ctx context.Context, name string) error {
	for _, f := range t.below(name) {
		name, named := f.Name()
		if !named || !f.Dirty() || t.linked(name) {
			continue
		}
		if err := f.promise(ctx); err != nil && !t.isAway(ctx, err) {
			return err
		}
	}
	return nil
}

// mayReplace returns what the server has, or will have, at to, where what e describes shall be; its Known is 0 if that is nothing.
func (t *Tree) mayReplace(e Entry, to string, mode backends.RenameMode) (backends.Info, error) {
	there, err := t.lastKnown(to)
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, ErrUnlisted):
		if above, err := t.lastKnown(parent(to)); errors.Is(err, os.ErrNotExist) {
			return there.Info, fault("rename", to, syscall.ENOENT)
		} else if err == nil && !above.IsDir() {
			return there.Info, fault("rename", to, syscall.ENOTDIR)
		}
		return backends.Info{}, nil
	case err != nil:
		return there.Info, err
	case mode == backends.NoReplace:
		return there.Info, fault("rename", to, syscall.EEXIST)
	case there.IsDir() && !e.IsDir():
		return there.Info, fault("rename", to, syscall.EISDIR)
	case !there.IsDir() && e.IsDir():
		return there.Info, fault("rename", to, syscall.ENOTDIR)
	case there.IsDir():
		empty, err := t.isEmpty(to)
		if err == nil && (!empty || t.waitingBelow(to)) {
			err = fault("rename", to, syscall.ENOTEMPTY)
		}
		return there.Info, err
	}
	if f := t.live(to); f != nil {
		return f.baseInfo(), nil
	}
	return there.Info, nil
}

// oweRenamed writes down that c is owed, that what files owe is owed to their new names, behind it, and that target owes nothing.
func (t *Tree) oweRenamed(c *change, files []*File, target *File) error {
	from, to := string(c.e.Name), string(c.e.To)
	var also journal.Change
	var debts []*debt
	var owing []*File
	for _, f := range files {
		f.mu.Lock()
		d, name := f.owing.debt, f.name
		f.mu.Unlock()
		if d == nil {
			continue
		}
		e := f.record(d)
		e.Name = journal.Name(to + name[len(from):])
		also.Add, also.Done = append(also.Add, e), append(also.Done, d.seq)
		debts, owing = append(debts, d), append(owing, f)
	}
	trailing := t.trailing(from)
	for _, c := range trailing {
		e := c.e
		e.Name = journal.Name(to + string(c.e.Name)[len(from):])
		also.Add, also.Done = append(also.Add, e), append(also.Done, c.e.Seq)
	}
	if target != nil {
		target.mu.Lock()
		if d := target.owing.debt; d != nil {
			also.Done = append(also.Done, d.seq)
		}
		target.mu.Unlock()
	}
	added, err := t.owe(c, also)
	if err != nil {
		return err
	}
	for i, d := range debts {
		t.journal.Forget(d.seq)
		owing[i].mu.Lock()
		d.seq = added[i].Seq
		owing[i].mu.Unlock()
	}
	for i, c := range trailing {
		t.journal.Forget(c.e.Seq)
		t.changes.remove(c)
		behind := &change{e: added[len(debts)+i]}
		t.changes.add(behind)
		t.shown(behind)
	}
	return nil
}

// showRenamed lets what is known be as if from, which info describes, were at to; its Known is 0 if the server has nothing yet.
func (t *Tree) showRenamed(from, to string, info backends.Info) {
	t.kept.rename(from, to, info.IsDir())
	t.attrs.Move(from, to)
	t.attrs.PutAbsent(from)
	if info.Known == 0 {
		t.attrs.PutAbsent(to)
		return
	}
	info.Name = lastElement(to)
	t.attrs.Put(to, info)
}

// show lets what is known be as if e, which a former daemon promised, were done.
func (t *Tree) show(e journal.Entry) {
	name := string(e.Name)
	switch e.Kind {
	case journal.Mkdir:
		t.showMkdir(name, infoOf(name, e.Show))
	case journal.Remove:
		t.showRemoved(name)
	case journal.Rmdir:
		t.showRemoved(name)
		t.attrs.ForgetIn(name)
	case journal.Rename:
		t.showRenamed(name, string(e.To), infoOf(name, e.Show))
	case journal.SetAttr, journal.Symlink:
		t.attrs.Put(name, infoOf(name, e.Show))
	}
}
