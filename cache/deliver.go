package cache

import (
	"context"
	"errors"
	"os"
	"slices"
	"syscall"

	"pierfs/backends"
	"pierfs/cache/journal"
	"pierfs/cache/spool"
)

// pay returns when the file owes nothing any more of what it owed before.
func (f *File) pay(ctx context.Context) error {
	if err := f.turn.take(ctx); err != nil {
		return err
	}
	defer f.turn.give()
	return f.payInTurn(ctx)
}

// payUnlessWritten is pay for a caller who can wait for whoever still writes to what is owed.
func (f *File) payUnlessWritten(ctx context.Context) error {
	if f.mayRest() {
		return errWritten
	}
	return f.pay(ctx)
}

// payInTurn is pay for a caller who has the turn.
func (f *File) payInTurn(ctx context.Context) error {
	for range maxMoves {
		if err := f.payOnce(ctx); !errors.Is(err, errMoved) {
			return err
		}
	}
	return errStopped
}

func (f *File) payOnce(ctx context.Context) error {
	if f.awaitsChange() {
		return f.fault("publish", errParked)
	}
	if err := f.setApart(ctx); err != nil {
		return err
	}
	sending, stop := context.WithCancel(ctx)
	defer stop()
	d, j, err := f.beginPaying(stop)
	if d == nil {
		return err
	}
	defer f.tree.dropSent(d)
	info, err := f.deliver(sending, j, d)
	f.dropIfReplaced(d)
	if err != nil && sending.Err() != nil && ctx.Err() == nil {
		err = errStopped
	}
	switch {
	case errors.Is(err, errMoved):
		return err
	case err != nil:
		f.unpaid(j, err)
		return err
	case j.beside != "":
		return f.lostTo(j, d)
	}
	return f.paid(j, d, info)
}

// beginPaying takes what is to be sent, which stays here until dropSent; nil if nothing is owed, or it is held, or a
// program writes to it again.
func (f *File) beginPaying(stop context.CancelFunc) (*debt, *job, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := f.owing.debt
	if d == nil || f.owing.held != nil || f.gone {
		return nil, nil, nil
	}
	if f.awaitsWriterLocked() {
		return nil, nil, errWritten
	}
	if f.owing.failed == errWritten { // that was no failure
		f.owing.tries, f.owing.failed = 0, nil
	}
	j := &job{
		name: f.name, change: d.change, staged: d.staged, size: d.size, tail: d.tail, perm: d.info.Mode & permBits,
		base: f.base, pending: d.attr, attr: d.set, begun: f.begun || len(f.owing.sent) > 0,
		owed: d.began, placed: d.placed, left: &d.left,
	}
	j.announce = func(ctx context.Context) error { return f.sending(ctx, d) }
	f.tree.share(d.staged)
	f.owing.paying, f.owing.stop = d, stop
	return d, j, nil
}

// awaitsChange reports whether a change of names must be made before what the file owes can be sent.
func (f *File) awaitsChange() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.owing.debt != nil && f.tree.changes.block(f.name, f.owing.debt.seq)
}

// errParked is why a content is not sent now.
var errParked = &backends.Error{Op: "publish", Code: syscall.EAGAIN, Class: backends.Transient, Err: errors.New("a change of its name, or of a directory above it, comes first")}

// errStopped ends the sending of a content that has lost its name meanwhile.
var errStopped = &backends.Error{Op: "publish", Code: syscall.EINTR, Err: errors.New("its name was changed meanwhile")}

// sending notes that the content of d may come to the server from now on, here and in the journal. What came to be owed in its
// place meanwhile must know of it as well.
func (f *File) sending(ctx context.Context, d *debt) error {
	if err := f.owing.sealing.take(ctx); err != nil {
		return err
	}
	defer f.owing.sealing.give()
	f.mu.Lock()
	known := slices.Contains(f.owing.sent, d)
	if !known {
		f.owing.sent = append(f.owing.sent, d)
		f.tree.share(d.staged)
	}
	newer := f.owing.debt
	f.mu.Unlock()
	switch {
	case known, newer == nil:
		return nil
	case newer != d:
		return f.tree.rebase(f, newer)
	case len(d.missing) > 0 && len(missing(d)) == 0: // the next daemon must be able to tell it from another's
		if err := f.tree.syncStaged(d.staged); err != nil {
			return err
		}
		f.mu.Lock()
		d.missing = nil
		f.mu.Unlock()
		return f.tree.rebase(f, d)
	}
	return f.tree.enter(&journal.Change{Begin: []uint64{d.seq}})
}

// sentIsKnown notes that it is known what became of all that was sent; the caller holds mu.
func (f *File) sentIsKnown() {
	for _, d := range f.owing.sent {
		f.tree.warn("removal of a staging file", f.tree.dropStaging(d.staged))
	}
	f.owing.sent, f.owing.into = nil, false
}

func (t *Tree) dropSent(d *debt) { t.warn("removal of a staging file", t.dropStaging(d.staged)) }

// unpaid notes that d could not be sent.
func (f *File) unpaid(j *job, err error) {
	f.mu.Lock()
	f.begun = j.begun
	f.notPaying()
	if j.refused {
		f.sentIsKnown()
	}
	f.mu.Unlock()
	if !isOutage(err) || j.begun {
		f.tree.attrs.Forget(j.name)
	}
	if !isOutage(err) && !errors.Is(err, errStopped) {
		f.tree.log.Warn("what is owed could not be sent yet", "name", j.name, "err", err)
	}
}

// paid notes that the server has the content of d, as info says.
func (f *File) paid(j *job, d *debt, info backends.Info) error {
	if err := f.owing.sealing.take(f.tree.ctx); err != nil {
		return err // the next daemon finds it there
	}
	defer f.owing.sealing.give()
	f.tree.hook("drain.arrived")
	f.tree.options.Spool.Drop(j.name) // a program may have given the new content the size and time of the old one
	f.mu.Lock()
	f.notPaying()
	if !f.gone {
		f.arrived(j, info)
	}
	f.begun = false
	newer := f.owing.debt
	f.sentIsKnown()
	if newer != nil && newer != d {
		newer.tail, newer.before = newer.since(d), nil
	}
	f.mu.Unlock()
	if newer != nil && newer != d { // it builds on what has just arrived
		return f.tree.rebase(f, newer)
	}
	// As long as the journal says that d is owed, so does the File: what is done to its name waits for our turn, or it could be made
	// and acknowledged, and a daemon after a crash would send d once more.
	over := f.tree.end(d.seq)
	f.mu.Lock()
	if f.owing.debt == d {
		f.owing.debt, f.owing.failed, f.owing.tries = nil, nil, 0
	}
	f.mu.Unlock()
	if over {
		f.letGo(d)
	}
	f.tree.sweep()
	return nil
}

// rebase writes d down anew, for the file's base or name has changed; the caller has the sealing.
func (t *Tree) rebase(f *File, d *debt, over ...uint64) error {
	change := journal.Change{Add: []journal.Entry{f.record(d)}, Done: append([]uint64{d.seq}, over...)}
	if err := t.enter(&change); err != nil {
		return err
	}
	t.journal.Forget(d.seq)
	f.mu.Lock()
	defer f.mu.Unlock()
	d.seq = change.Add[0].Seq
	return nil
}

// deliver brings d to the server under the file's name, or, if somebody else changed that meanwhile, beside it. Where the server
// bears few transfers at a time it waits for its turn.
func (f *File) deliver(ctx context.Context, j *job, d *debt) (info backends.Info, err error) {
	t := f.tree
	done, err := t.takeUpload(ctx, j.size, nil)
	if err != nil {
		return info, f.fault("publish", err)
	}
	defer done()
	j.linked = t.linked(j.name)
	try := func() error {
		return t.options.Retry.Do(ctx, func(ctx context.Context) error {
			info, err = f.deliverOnce(ctx, j, d)
			return err
		})
	}
	err = try()
	if lacks := t.lacksHome(ctx, j.name, err); lacks != "" && f.isStubborn() {
		if err = f.homeFor(ctx, lacks); err == nil {
			err = try()
		}
	}
	if err == nil && j.beside == "" {
		err = t.tellDone(ctx, j.name)
	}
	t.forgetLinks(j.name)
	return info, err
}

func (f *File) deliverOnce(ctx context.Context, j *job, d *debt) (backends.Info, error) {
	j.refused = false
	if f.tree.queue.why() != nil { // is it back? A question that is not answered leaves nothing behind
		if _, err := f.tree.ask(ctx, j.name); err != nil && !errors.Is(err, os.ErrNotExist) {
			return backends.Info{}, err
		}
	}
	if err := f.tree.putBackBelow(ctx, j.name); err != nil {
		return backends.Info{}, err
	}
	if f.isUnsure() { // it may be there already
		found, now, err := f.look(ctx, j, d)
		switch {
		case err != nil:
			return now, err
		case found == ours:
			return f.tree.complete(ctx, j, now)
		case found == foreign:
			return f.deliverBehind(ctx, j, d)
		}
	}
	if j.inPlace = f.onlyGrew(j); j.inPlace {
		info, err := f.uploadTail(ctx, j)
		switch {
		case errors.Is(err, os.ErrPermission), errors.Is(err, syscall.EOPNOTSUPP):
		case errors.Is(err, os.ErrNotExist):
			j.base = backends.Info{}
		case errors.Is(err, syscall.ESTALE):
			return f.deliverBehind(ctx, j, d)
		default:
			return info, err
		}
		j.inPlace = false
	}
	if err := f.fill(ctx, j.staged, 0, j.size); err != nil {
		if code := backends.Errno(err); (code == syscall.ESTALE || code == syscall.ENOENT) && f.baseIsGone(ctx, j) {
			return f.deliverBeside(ctx, j, d)
		}
		return backends.Info{}, err
	}
	if j.linked || f.tree.direct(j.name) {
		return f.deliverInto(ctx, j, d)
	}
	way := f.deliverInSteps
	if !f.tree.Caps().Exclusive {
		way = f.deliverAtOnce
	}
	info, err := way(ctx, j, d)
	if wayRefused(err, j.base) {
		return f.deliverDirectly(ctx, j, d, err)
	}
	return info, err
}

// deliverInSteps gathers j under a temporary name, verifies it, and gives it its name.
func (f *File) deliverInSteps(ctx context.Context, j *job, d *debt) (backends.Info, error) {
	temp, info, err := f.gather(ctx, j)
	if err != nil {
		return info, err
	}
	defer f.tree.freeTemp(temp)
	info, err = f.place(ctx, j, d, temp, info)
	if err != nil {
		f.tree.removeTemp(ctx, temp)
		if backends.ClassOf(err) != backends.Final {
			f.tree.removeAgain(temp)
		}
	}
	return info, err
}

// deliverDirectly is deliverInto after refused, of the way over a temporary name, of which nothing has come to the name.
func (f *File) deliverDirectly(ctx context.Context, j *job, d *debt, refused error) (backends.Info, error) {
	if j.refused {
		f.mu.Lock()
		f.sentIsKnown()
		f.mu.Unlock()
		j.refused = false
	}
	info, err := f.deliverInto(ctx, j, d)
	switch {
	case err != nil:
		err = eitherRefusal(refused, err)
	case j.beside == "":
		f.tree.wentDirectly(j.name, j.base, refused)
	}
	return info, err
}

// baseIsGone reports whether the server has no longer what j builds on, for certain.
func (f *File) baseIsGone(ctx context.Context, j *job) bool {
	now, err := f.tree.ask(ctx, j.name)
	return errors.Is(err, os.ErrNotExist) || err == nil && !now.SameVersion(j.base)
}

// gather uploads the whole of j under a temporary name and verifies it there.
func (f *File) gather(ctx context.Context, j *job) (temp string, info backends.Info, err error) {
	t := f.tree
	temp = t.tempName(j.name, false)
	w, from, err := f.create(ctx, j, temp, backends.WriteMode{Perm: j.perm, Size: j.size, Exclusive: t.Caps().Exclusive})
	if err != nil {
		t.notCreated(ctx, temp, err)
		return "", info, because(err, backends.CauseTempName)
	}
	begun := gathered{end: from}
	j.place = begun.end
	attr, _ := sendable(j.attr, t.Caps())
	info, err = send(ctx, w, j, attr, begun.rest(t, j.staged, j.size))
	if err != nil {
		f.breakOff(ctx, j, temp, w.Acknowledged(), err)
		// A server that is told the name no sooner (FTP) gives a reason for it; what it does not explain is a disk that is full.
		if !t.Caps().Exclusive && backends.Errno(err) != syscall.EIO {
			err = because(err, backends.CauseTempName)
		}
	}
	return temp, info, err
}

// deliverAtOnce is deliverInSteps for servers that cannot refuse to replace a name anyway: what bears it is asked for behind the content,
// and the renaming is the Writer's, so that a small content costs two flights.
func (f *File) deliverAtOnce(ctx context.Context, j *job, d *debt) (backends.Info, error) {
	t := f.tree
	temp := t.tempName(j.name, false)
	w, from, err := f.create(ctx, j, j.name, backends.WriteMode{TempName: temp, Perm: j.perm, Size: j.size})
	if err != nil {
		t.notCreated(ctx, temp, err)
		return backends.Info{}, err
	}
	begun := gathered{end: from}
	j.place = begun.end
	placing, clash := false, false
	j.before = func(now backends.Info, err error) error {
		switch {
		case errors.Is(err, os.ErrNotExist): // also if it was removed by somebody: what was acknowledged arrives all the same
		case err != nil:
			return err
		case j.base.Known == 0 || !t.told(j.name, now).SameVersion(j.base):
			clash = true
			return f.fault("publish", changedElsewhere)
		}
		err = f.sending(ctx, d)
		placing = err == nil
		return err
	}
	attr, _ := sendable(j.attr, t.Caps())
	listening, heard := t.listen(ctx, j.name)
	displaced := j.displaces(t, temp)
	info, err := send(listening, w, j, attr, begun.rest(t, j.staged, j.size))
	displaced(err)
	if err == nil {
		t.freeTemp(temp)
		j.heard = heard
		return info, nil
	}
	f.breakOff(ctx, j, temp, w.Acknowledged(), err)
	j.before = nil
	if clash {
		return f.deliverBeside(ctx, j, d)
	}
	j.refused = placing && backends.ClassOf(err) == backends.Final
	return info, err
}

// place gives the verified temp its name, if that is still what j builds on. Where nothing was, nothing is replaced.
func (f *File) place(ctx context.Context, j *job, d *debt, temp string, info backends.Info) (backends.Info, error) {
	mode, over := backends.NoReplace, f.tree.options.Conflict == Overwrite
	if j.base.Known != 0 || over {
		now, err := f.tree.ask(ctx, j.name)
		switch {
		case errors.Is(err, os.ErrNotExist): // removed by somebody: what was acknowledged arrives all the same
		case err != nil:
			return info, err
		case j.base.Known != 0 && now.SameVersion(j.base):
			mode = backends.Replace
		case over && now.Mode.IsRegular():
			f.known(j, d, now)
			mode = backends.Replace
		default:
			return f.placeBeside(ctx, j, temp, info)
		}
	}
	if err := f.sending(ctx, d); err != nil {
		return info, err
	}
	listening, heard := f.tree.listen(ctx, j.name)
	if mode == backends.Replace && f.tree.options.Conflict != Overwrite {
		listening = f.tree.replacingOnly(listening, j.name, j.base)
	}
	displaced := j.displaces(f.tree, temp)
	err := f.tree.backend.Rename(listening, temp, j.name, mode)
	displaced(err)
	if err == nil {
		j.heard = heard
	}
	if over && errors.Is(err, os.ErrExist) {
		return info, err // made just now: next time it is replaced
	}
	if errors.Is(err, changedElsewhere) || errors.Is(err, os.ErrExist) || mode == backends.NoReplace && errors.Is(err, syscall.EISDIR) {
		return f.placeBeside(ctx, j, temp, info)
	}
	j.refused = err != nil && backends.ClassOf(err) == backends.Final
	info.Name = lastElement(j.name)
	return info, because(err, backends.CauseRename)
}

// deliverInto writes j into its very name: a file with further names, or a server where nothing else is allowed.
func (f *File) deliverInto(ctx context.Context, j *job, d *debt) (info backends.Info, err error) {
	t := f.tree
	now, err := t.ask(ctx, j.name)
	absent := errors.Is(err, os.ErrNotExist)
	switch {
	case err != nil && !absent:
		return info, err
	case !absent && (j.base.Known == 0 || !now.SameVersion(j.base)) && !f.isUnsure(): // else look has seen it
		return f.deliverBeside(ctx, j, d)
	}
	if err := f.sendingInto(ctx, j, d); err != nil {
		return info, err
	}
	if j.linked && !absent {
		w, err := t.backend.Update(ctx, j.name)
		if err != nil {
			return info, err
		}
		return send(ctx, w, j, j.sendable(t.Caps()), slices.Values([]spool.Range{{Off: 0, End: j.size}}))
	}
	return t.write(ctx, j, j.name)
}

// sendingInto is sending where the very name is written to. The next daemon must know a part of d there for ours.
func (f *File) sendingInto(ctx context.Context, j *job, d *debt) error {
	if !j.linked {
		if err := f.noteInto(ctx); err != nil {
			return err
		}
	}
	return f.sending(ctx, d)
}

func (f *File) noteInto(ctx context.Context) error {
	if err := f.owing.sealing.take(ctx); err != nil {
		return err
	}
	defer f.owing.sealing.give()
	f.mu.Lock()
	noted, newest := f.owing.into, f.owing.debt
	f.owing.into = true
	f.mu.Unlock()
	if noted || newest == nil {
		return nil
	}
	return f.tree.rebase(f, newest)
}

// write uploads the whole of j to name itself.
func (t *Tree) write(ctx context.Context, j *job, name string) (info backends.Info, err error) {
	w, err := t.backend.Create(ctx, name, backends.WriteMode{Perm: j.perm})
	if err != nil {
		return info, err
	}
	attr, _ := sendable(j.attr, t.Caps())
	return send(ctx, w, j, attr, t.worthSending(j.staged, spool.Range{Off: 0, End: j.size}))
}

func (f *File) isUnsure() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.owing.sent) > 0
}

// finding is what bears a name at the server, in terms of a content that is owed.
type finding uint8

const (
	builtOn finding = iota // what the content builds on, nothing included, perhaps with a part of what is to be appended
	ours                   // the content itself
	foreign                // something else
)

// look finds out what bears j's name, of a content that may have come there or not. It compares bytes, for after a crash nothing
// else tells an own success from another's file.
func (f *File) look(ctx context.Context, j *job, d *debt) (finding, backends.Info, error) {
	now, err := f.tree.ask(ctx, j.name)
	switch {
	case errors.Is(err, os.ErrNotExist):
		j.base = backends.Info{} // nothing will be replaced
		return builtOn, now, nil
	case err != nil:
		return foreign, now, err
	case j.base.Known != 0 && now.SameVersion(j.base):
		return builtOn, now, nil
	case !now.Mode.IsRegular():
		return foreign, now, nil
	}
	for _, s := range f.mayBeThere(d) {
		if len(s.staged.Missing(0, s.size)) > 0 {
			continue
		}
		same, err := f.tree.same(ctx, j.name, now, s.staged, s.size)
		switch {
		case err != nil:
			return foreign, now, err
		case same && s == d:
			return ours, now, nil
		case same:
			f.cameBefore(j, d, now, d.since(s))
			return builtOn, now, nil
		}
	}
	for _, s := range f.mayBeThere(d) {
		mine, err := f.appended(ctx, j, s, now)
		switch {
		case err != nil:
			return foreign, now, err
		case mine && s != d && now.Size == s.size:
			f.cameBefore(j, d, now, d.since(s))
		case mine && s != d:
			f.cameBefore(j, d, now, min(d.tail, j.base.Size))
		}
		if mine {
			j.begun = true
			return builtOn, now, nil
		}
	}
	for _, s := range f.writtenInto(d) {
		k := &job{name: j.name, base: backends.Info{ID: now.ID}, staged: s.staged, size: s.size, begun: true}
		mine, err := f.leftByUs(ctx, k, now)
		if mine {
			f.cameBefore(j, d, now, 0)
			return builtOn, now, nil
		}
		if err != nil {
			return foreign, now, err
		}
	}
	return foreign, now, nil
}

// writtenInto returns what may be in part under the file's own name; nil if that is not written to.
func (f *File) writtenInto(d *debt) []*debt {
	f.mu.Lock()
	into := f.owing.into
	f.mu.Unlock()
	if !into {
		return nil
	}
	return f.mayBeThere(d)
}

// appended reports whether what bears j's name is the base with the end of s, or the beginning of that.
func (f *File) appended(ctx context.Context, j *job, s *debt, now backends.Info) (bool, error) {
	k := &job{name: j.name, base: j.base, staged: s.staged, size: s.size, tail: s.tail, begun: true, placed: true}
	if !f.onlyGrew(k) {
		return false, nil
	}
	return f.leftByUs(ctx, k, now)
}

// mayBeThere returns d and what else may have come to the server.
func (f *File) mayBeThere(d *debt) []*debt {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := []*debt{d}
	for _, s := range f.owing.sent {
		if s != d {
			all = append(all, s)
		}
	}
	return all
}

// cameBefore notes that an earlier content than d is what the server has, from which d differs from tail on.
func (f *File) cameBefore(j *job, d *debt, now backends.Info, tail int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.base, d.tail = now, tail
	j.base, j.tail = now, tail
}

// same reports whether what bears name, of which the server says now, is the first size bytes of staged.
func (t *Tree) same(ctx context.Context, name string, now backends.Info, staged *spool.File, size int64) (bool, error) {
	if now.Size != size {
		return false, nil
	}
	r, err := t.backend.Open(ctx, name)
	if err != nil {
		return false, err
	}
	defer r.Close()
	return backends.SameContent(ctx, r, staged, size)
}

// complete gives a content that is there already the attributes that it lacks.
func (t *Tree) complete(ctx context.Context, j *job, now backends.Info) (backends.Info, error) {
	lacks := j.attr
	if lacks.Perm != nil && now.Known.Has(backends.HasPerm) && now.Mode&permBits == *lacks.Perm {
		lacks.Perm = nil
	}
	if lacks.ModTime != nil && overlap(*lacks.ModTime, 0, now.ModTime, max(now.TimeUnit, t.Caps().TimeUnit)) {
		lacks.ModTime, lacks.AccTime = nil, nil
	}
	if send, _ := sendable(lacks, t.Caps()); send.Empty() {
		return now, nil
	}
	info, _, err := t.send(ctx, j.name, lacks)
	return info, err
}
