package cache

import (
	"cmp"
	"context"
	"errors"
	"math"
	"os"
	"slices"
	"strings"
	"syscall"

	"pierfs/backends"
	"pierfs/cache/attr"
)

// Mkdir makes a directory.
func (t *Tree) Mkdir(ctx context.Context, name string, perm os.FileMode) (Entry, error) {
	t.dropNext(name)
	if t.live(name) != nil {
		return Entry{}, &backends.Error{Op: "mkdir", Name: name, Code: syscall.EEXIST}
	}
	wanted := t.changes.isWanted(name)
	if !wanted && t.changes.concern(name) {
		return t.mkdirLater(ctx, name, perm)
	}
	listening, heard := t.listen(ctx, name)
	if err := t.backend.Mkdir(listening, name, perm); !wanted && t.isAway(ctx, err) {
		return t.mkdirLater(ctx, name, perm)
	} else if err != nil {
		t.attrs.Forget(name)
		return Entry{}, err
	}
	e, err := t.made(ctx, name, heard)
	t.isHomeNow(name)
	if err != nil || t.Caps().SetPerm {
		return e, err
	}
	t.kept.keep(name, backends.Attr{}, backends.Attr{Perm: &perm}, e.Info)
	t.attrs.Put(name, t.kept.shown(name, e.Info))
	return t.Stat(ctx, name)
}

// made notes that name was made, and returns what it is: what was said of it with that, or else what the server says when asked.
func (t *Tree) made(ctx context.Context, name string, heard *heard) (Entry, error) {
	info, told := heard.of(name)
	if told {
		heard.changed(attr.Made(name, t.told(name, info)))
	} else {
		heard.changed(attr.Uncertain(name))
	}
	t.attrs.ForgetIn(name)
	if e, ok, err := t.known(ctx, name); told && ok {
		return e, err
	}
	return t.Refresh(ctx, name)
}

// Symlink makes the link name with the content target.
func (t *Tree) Symlink(ctx context.Context, target, name string) (Entry, error) {
	t.dropNext(name)
	if t.live(name) != nil {
		return Entry{}, &backends.Error{Op: "symlink", Name: name, Code: syscall.EEXIST}
	}
	if t.Caps().Symlink && t.changes.concern(name) {
		return t.symlinkLater(ctx, target, name)
	}
	listening, heard := t.listen(ctx, name)
	if err := t.backend.Symlink(listening, target, name); t.isAway(ctx, err) && t.Caps().Symlink {
		return t.symlinkLater(ctx, target, name)
	} else if err != nil {
		t.attrs.Forget(name)
		return Entry{}, err
	}
	return t.made(ctx, name, heard)
}

// Readlink returns what the link name holds.
func (t *Tree) Readlink(ctx context.Context, name string) (string, error) {
	target, there := t.changes.linkAt(name)
	if target != "" {
		return target, nil
	}
	target, err := t.backend.Readlink(ctx, there)
	if there != name && errors.Is(err, os.ErrNotExist) { // it was renamed meanwhile
		return t.backend.Readlink(ctx, name)
	}
	return target, err
}

// Remove removes a file or link. Who has the file open goes on with it.
func (t *Tree) Remove(ctx context.Context, name string) error {
	return t.nowOrLater(ctx, t.removeNow, t.removeLater, name)
}

// nowOrLater makes a change of name at the server or, while that is away or owed an earlier one, promises it.
func (t *Tree) nowOrLater(ctx context.Context, now, later func(context.Context, string) error, name string) error {
	if !t.changes.concern(name) {
		restore := t.recall(name)
		err := now(ctx, name)
		if !t.isAway(ctx, err) {
			return err
		}
		restore()
	}
	return later(ctx, name)
}

func (t *Tree) removeNow(ctx context.Context, name string) error {
	release, err := t.alone(ctx, name)
	if err != nil {
		return err
	}
	defer release()
	if err := t.fence(ctx, name); err != nil {
		return err
	}
	f := t.live(name)
	if f == nil {
		return t.removed(ctx, name, t.removeKnown)
	}
	f.stopSending()
	if err := f.turn.take(ctx); err != nil {
		return err
	}
	defer f.turn.give()
	if err := f.owing.sealing.take(ctx); err != nil {
		return err
	}
	defer f.owing.sealing.give()
	if n, ok := f.Name(); !ok || n != name {
		return t.removed(ctx, name, t.removeKnown) // renamed while we waited, or one of several names
	}
	if err := f.hold(ctx); err != nil {
		return err
	}
	if f.onServer() {
		err := t.removed(ctx, name, t.removeKnown)
		if err != nil && !(f.unsure() && errors.Is(err, os.ErrNotExist)) {
			return err
		}
	}
	if err := f.forgive(); err != nil { // it goes on being owed, and is seen
		return fault("unlink", name, err)
	}
	if t.options.Background && !f.onServer() {
		t.attrs.PutAbsent(name)
	}
	f.abortClaim()         // now: afterwards the name is free for another's
	if t.live(name) == f { // no other name took it over
		t.detach(f)
		f.remove()
	}
	return nil
}

// removed removes name at the server by remove, and notes the outcome.
func (t *Tree) removed(ctx context.Context, name string, remove func(context.Context, string) error) error {
	listening, heard := t.listen(ctx, name)
	err := remove(listening, name)
	switch {
	case err == nil, errors.Is(err, os.ErrNotExist):
		t.unlink(name)
		t.options.Spool.Drop(name)
		t.kept.forget(name)
		heard.changed(attr.Removed(name))
	default:
		t.attrs.Forget(name)
	}
	return err
}

// Rmdir removes an empty directory. One in which a file waits to be published is not empty.
func (t *Tree) Rmdir(ctx context.Context, name string) error {
	return t.nowOrLater(ctx, t.rmdirNow, t.rmdirLater, name)
}

func (t *Tree) rmdirNow(ctx context.Context, name string) error {
	release, err := t.alone(ctx, name)
	if err != nil {
		return err
	}
	defer release()
	if t.waitingBelow(name) {
		return &backends.Error{Op: "rmdir", Name: name, Code: syscall.ENOTEMPTY}
	}
	t.tidy(ctx, name)
	err = t.removed(ctx, name, t.backend.Rmdir)
	if err == nil {
		t.attrs.ForgetIn(name)
	}
	return err
}

// waitingBelow reports whether a file below the directory name waits to be published: the server knows nothing of it and
// would call the directory empty.
func (t *Tree) waitingBelow(name string) bool {
	return slices.ContainsFunc(t.below(name), func(f *File) bool {
		bears, ok := f.Name()
		return ok && bears != name && isBelow(bears, name) && f.Dirty()
	})
}

// Rename gives from the name to. What is unpublished under from is published first, so that the server renames what the
// program sees; who has a replaced file open goes on with it.
func (t *Tree) Rename(ctx context.Context, from, to string, mode backends.RenameMode) error {
	for _, name := range []string{from, to} {
		if err := backends.CheckName("rename", name); err != nil {
			return err
		}
	}
	// A name known to be absent is not renamed: if the server's answer were lost, its absence would pass for success.
	if _, err := t.Stat(ctx, from); err != nil || from == to {
		return err
	}
	if done, err := t.renameOwed(ctx, from, to, mode); done || err != nil {
		return err
	}
	if !t.renamesLater(from, to) {
		restore := t.recall(from, to)
		err := t.renameNow(ctx, from, to, mode)
		if !t.isAway(ctx, err) {
			return err
		}
		restore()
	}
	return t.renameLater(ctx, from, to, mode)
}

func (t *Tree) renameNow(ctx context.Context, from, to string, mode backends.RenameMode) error {
	if err := t.publishBelow(ctx, from); err != nil { // before anybody has to wait for us
		return err
	}
	if t.options.Background { // what was acknowledged is not lost if we end half way
		if err := t.publishBelow(ctx, to); err != nil {
			return err
		}
	}
	release, err := t.alone(ctx, from, to)
	if err != nil {
		return err
	}
	defer release()
	target := t.live(to)
	switch {
	case t.sameFile(from, to) && mode == backends.Replace:
		return nil // rename(2): two names of one file stay as they are
	case target != nil && mode == backends.NoReplace:
		return &backends.Error{Op: "rename", Name: to, Code: syscall.EEXIST}
	case t.waitingBelow(to):
		return &backends.Error{Op: "rename", Name: to, Code: syscall.ENOTEMPTY}
	}
	if err := t.publishBelow(ctx, from); err != nil {
		return err
	}
	give, err := t.takePaid(ctx, append(t.below(from), target)...) // no publication is under way to a name that changes
	if err != nil {
		return err
	}
	defer give()
	if target != nil {
		if err := target.hold(ctx); err != nil {
			return err
		}
		if err := t.letGo(ctx, target, from); err != nil {
			return err
		}
	}
	if err := t.fence(ctx, from, to); err != nil {
		return err
	}
	t.tidy(ctx, to)
	nothingMoved := t.foreseeMove(from, to)
	listening, heard := t.listen(ctx, from, to)
	err = t.renameOnce(listening, from, to, mode, t.wasAt(from))
	t.dropRenamed(from, to)
	if err != nil {
		t.attrs.Forget(from)
		t.attrs.Forget(to)
		if backends.ClassOf(err) == backends.Final {
			nothingMoved()
			return err
		}
		for _, f := range t.below(from) {
			f.doubt()
		}
		return err
	}
	t.unlink(to)
	if target != nil && t.live(to) == target {
		t.detach(target)
		target.remove()
	}
	t.endAllEras(from)
	t.moved(from, to, heard)
	t.isHomeNow(to)
	t.sweep()
	return nil
}

// doubt notes that the file may bear another name on the server: a renaming went without an answer.
func (f *File) doubt() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.doubtful = true
}

// letGo gives up the claim by which target holds the name that from is to replace: afterwards the name is the other file's.
// A rename that cannot succeed must not cost target its name.
func (t *Tree) letGo(ctx context.Context, target *File, from string) error {
	target.mu.Lock()
	claims := target.writer != nil
	target.mu.Unlock()
	if !claims {
		return nil
	}
	if _, err := t.ask(ctx, from); err != nil {
		return err
	}
	target.abortClaim()
	return nil
}

// publishBelow publishes what is unpublished at name and below it.
func (t *Tree) publishBelow(ctx context.Context, name string) error {
	for _, f := range t.below(name) {
		if err := f.arrive(ctx); err != nil {
			return err
		}
	}
	return nil
}

// takeTurns takes the turns of the files that are not nil, in an order that all callers share.
func takeTurns(ctx context.Context, files ...*File) (release func(), err error) {
	files = slices.DeleteFunc(files, func(f *File) bool { return f == nil })
	slices.SortFunc(files, func(a, b *File) int { return cmp.Compare(a.id, b.id) })
	files = slices.Compact(files)
	for i, f := range files {
		if err := f.turn.take(ctx); err != nil {
			give(files[:i])
			return nil, err
		}
	}
	return func() { give(files) }, nil
}

func give(files []*File) {
	for _, f := range files {
		f.turn.give()
	}
}

// dropRenamed drops the content that is kept of what was, or may have been, renamed, while nobody can open it: another file
// may bear a name now with the very size and time of the one before.
func (t *Tree) dropRenamed(from, to string) {
	if info, _, state := t.attrs.Get(from); state == attr.Present && !info.IsDir() {
		t.options.Spool.Drop(from)
		t.options.Spool.Drop(to)
		return
	}
	t.options.Spool.Forget(from)
	t.options.Spool.Forget(to)
}

// moved carries what is known, and the open files, from one name to another.
func (t *Tree) moved(from, to string, heard *heard) {
	info, _, state := t.attrs.Get(from)
	directory := state != attr.Present || info.IsDir()
	t.kept.rename(from, to, directory)
	now := attr.Uncertain(to)
	if state != attr.Unknown && info.Known != 0 {
		info.Name = lastElement(to)
		now = attr.Made(to, info)
	}
	heard.changed(attr.Removed(from), now)
	if directory {
		t.attrs.ForgetIn(from)
		t.attrs.ForgetIn(to)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.moveFiles(from, to)
}

// moveFiles carries the open files, and what is left below from, over to to; the caller holds mu.
func (t *Tree) moveFiles(from, to string) {
	t.renameLinks(from, to)
	t.moveLitter(from, to)
	moves := map[string]*File{}
	for name, f := range t.files {
		if name == from || strings.HasPrefix(name, from+"/") {
			moves[to+name[len(from):]] = f
			f.mu.Lock()
			t.free(f)
			f.mu.Unlock()
		}
	}
	for name, f := range moves {
		f.mu.Lock()
		f.name, f.info.Name, f.base.Name = name, lastElement(name), lastElement(name)
		f.mu.Unlock()
		t.files[name] = f
	}
}

func lastElement(name string) string { return name[strings.LastIndexByte(name, '/')+1:] }

// SetAttr changes what a names; Size cuts or stretches the file and is published before SetAttr returns, for nobody
// will close it.
func (t *Tree) SetAttr(ctx context.Context, name string, a backends.Attr) (Entry, error) {
	t.dropNext(name)
	if f := t.live(name); f != nil && t.join(f) {
		e, err := f.SetAttr(ctx, a)
		if err == nil && a.Size != nil {
			err = f.Publish(ctx)
			e = f.entry()
		}
		return e, errors.Join(err, f.Close(ctx, err != nil))
	}
	if a.Size != nil && (!t.Caps().Truncate || t.options.Background) {
		return t.truncate(ctx, name, a)
	}
	err := t.fence(ctx, name)
	mark := t.attrs.Mark()
	var info backends.Info
	if err == nil {
		info, err = t.set(ctx, name, a)
	}
	if err != nil {
		t.attrs.Forget(name)
		return Entry{}, err
	}
	t.attrs.Change(attr.Told{Mark: mark}, attr.Altered(name, info))
	t.forgetLinks(name)
	return t.Stat(ctx, name)
}

// set changes attributes at the server, and remembers what the server cannot keep.
func (t *Tree) set(ctx context.Context, name string, a backends.Attr) (backends.Info, error) {
	if t.changes.concern(name) || t.options.Background && t.owesBelow(name, math.MaxUint64) {
		return t.setLater(name, a)
	}
	info, refused, err := t.send(ctx, name, a)
	if t.isAway(ctx, err) {
		return t.setLater(name, a)
	}
	if err != nil {
		return info, err
	}
	t.kept.keep(name, a, refused, info)
	info = t.kept.shown(name, info)
	if known, ok := t.heardOf(name); ok {
		info = inherit(changedBy(known, a), info)
	}
	return info, nil
}

// changedBy returns info with what a sets of permissions and owners.
func changedBy(info backends.Info, a backends.Attr) backends.Info {
	if a.Perm != nil {
		info.Mode = info.Mode&^permBits | *a.Perm&permBits
		info.Known |= backends.HasPerm
	}
	if a.UID != nil {
		info.UID = *a.UID
	}
	if a.GID != nil {
		info.GID = *a.GID
	}
	return info
}

// send sets at the server what it can keep of a, and returns what it has then, and what it cannot keep.
func (t *Tree) send(ctx context.Context, name string, a backends.Attr) (info backends.Info, refused backends.Attr, err error) {
	send, refused := sendable(a, t.Caps())
	if lone := send.AccTime != nil && send.ModTime == nil; lone {
		now, err := t.backend.Stat(ctx, name)
		if err != nil {
			return now, refused, err
		}
		if !now.Known.Has(backends.HasAccTime) { // there is but a command for the time of the last change
			send.AccTime = nil
		}
	}
	if !send.Empty() || a.Empty() {
		info, err = t.backend.SetAttr(ctx, name, send)
		if !errors.Is(err, syscall.EOPNOTSUPP) {
			return info, refused, err
		}
	}
	// It turns out only now that the server has no command for this, or has it for files and not for directories.
	for _, part := range parts(send) {
		_, err := t.backend.SetAttr(ctx, name, part)
		switch {
		case errors.Is(err, syscall.EOPNOTSUPP) && part.Size == nil:
			refused = merge(refused, part)
		case err != nil:
			return info, refused, err
		}
	}
	info, err = t.backend.Stat(ctx, name)
	if err == nil && info.Mode&os.ModeSymlink != 0 {
		err = &backends.Error{Op: "setattr", Name: name, Code: syscall.EOPNOTSUPP} // programs expect that of links
	}
	return info, refused, err
}

// truncate changes a file's size, and what else a names, on a server that cannot: by writing it anew.
func (t *Tree) truncate(ctx context.Context, name string, a backends.Attr) (Entry, error) {
	f, _, err := t.Open(ctx, name, OpenMode{Write: true})
	if err != nil {
		return Entry{}, err
	}
	_, err = f.SetAttr(ctx, a)
	if err == nil {
		err = f.Publish(ctx)
	}
	e := f.entry()
	return e, errors.Join(err, f.Close(ctx, true))
}

// hold makes sure that the content outlives its name: opened, or here. The caller has the turn.
func (f *File) hold(ctx context.Context) error {
	if f.tree.streams() {
		return f.holdAll(ctx)
	}
	for range maxMoves {
		if f.held() {
			return nil
		}
		reader, err := f.source(ctx)
		if code := backends.Errno(err); code == syscall.EACCES || code == syscall.ESTALE {
			return nil // nobody here can read it anyway
		}
		if err != nil {
			return err
		}
		if f.held() {
			return nil
		}
		info, err := reader.Stat(ctx) // it was opened ahead, and if it is of another version it holds nothing
		switch {
		case err == nil && f.sameContent(info):
			f.trust(reader)
		case ctx.Err() != nil:
			return err
		default:
			f.giveUp(reader)
		}
	}
	return f.fault("read", errChangedWhileRead)
}

// holdAll is hold on a server that can only stream: no open file of it outlives its name, so all of the content is fetched. One
// for which there is no room is not worth that a removal fails: who has it open goes on with what is here, and then has ESTALE.
func (f *File) holdAll(ctx context.Context) error {
	for range maxMoves {
		if f.held() || !f.wasRead() {
			return nil
		}
		size := f.baseInfo().Size
		switch err := f.fetchAll(ctx, size); {
		case err == errElsewhere:
			continue
		case err == errNoRoom:
			f.tree.log.Warn("an open file loses its name and is too large to be kept", "name", f.name, "size", size)
			return nil
		default:
			if code := backends.Errno(err); code == syscall.EACCES || code == syscall.ESTALE || code == syscall.ENOENT {
				return nil // nobody here can read it anyway
			}
			return err
		}
	}
	return f.fault("read", errChangedWhileRead)
}

// held reports whether the content would outlive its name.
func (f *File) held() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.whole != nil, !f.tree.streams() && (f.base.Size == 0 || f.reader != nil && f.compared):
		return true
	case f.staged == nil && f.copied != nil:
		return len(f.copied.Missing(0, f.copied.Size())) == 0
	}
	return f.staged != nil && len(f.staged.Missing(0, f.staged.Size())) == 0
}

// onServer reports whether the server has, or may have, something under the file's name.
func (f *File) onServer() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.base.Known != 0 || f.tried || f.writer != nil || len(f.owing.sent) > 0
}

// unsure reports whether a file that was never published may be on the server for all that.
func (f *File) unsure() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.base.Known == 0
}

// abortClaim gives up the name that an exclusive creation holds on the server. If the server does not answer the name is
// held on, for all we know: it was won, and has not been given back. The caller has the turn.
func (f *File) abortClaim() {
	f.mu.Lock()
	j := &job{writer: f.writer, temp: f.temp, claim: f.reclaim}
	f.writer, f.temp = nil, ""
	f.mu.Unlock()
	f.abort(j)
	f.mu.Lock()
	f.reclaim = j.claim
	f.mu.Unlock()
}
