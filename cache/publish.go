package cache

import (
	"cmp"
	"context"
	"errors"
	"io"
	"iter"
	"math"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"pierfs/backends"
	"pierfs/cache/attr"
	"pierfs/cache/spool"
)

// uploadChunk is how much is read from staging and handed to a Writer at a time.
const uploadChunk = 1 << 20

// shortContent is the size up to which a content is sent as soon as a question: in one flight, on any session.
const shortContent = 64 << 10

// job is one publication: the state of a File when it began.
type job struct {
	name    string
	change  uint64
	staged  *spool.File
	size    int64
	tail    int64
	pending backends.Attr // what a program set of attributes
	attr    backends.Attr // to be set on a content that is made anew
	perm    os.FileMode
	base    backends.Info
	linked  bool  // has further names: rewritten in place
	inPlace bool  // only grew: its end is sent
	from    int64 // where that belongs
	doubt   bool  // the server may have given what j builds on another name
	begun   bool  // an append in place was begun, and may have left a part of itself
	claim   bool  // the name must be new on the server
	assumed bool  // it was believed to be
	waited  bool  // the writer was opened when the file was created, and not now
	writer  backends.Writer
	temp    string
	refused bool   // the server would not give a gathered content its name
	beside  string // where the content is that could not have its name; see conflict.go
	placed  bool   // something of it was written to a place that a program chose, and not appended
	cut     bool   // all of it was written anew: nothing of the base is in it
	clash   bool   // what bears the name is not what the content may replace; see clash.go
	unsure  bool   // an attempt ended without an answer: what bears the name by now may be ours
	sent    []sent // what it may be then; nil if nobody can tell
	before  func(backends.Info, error) error

	// announce is called before the first byte is sent into the file that bears the name; nil if nobody wants to know.
	announce func(context.Context) error
	patch    patch     // what differs from the base
	left     *remains  // of attempts before this one
	early    *early    // what is on its way already; nil if nothing is
	heard    *heard    // what was said of the directory when the content got its name; nil if nobody listened
	owed     time.Time // since when it is owed; zero if it was not acknowledged before
	place    int64     // how much the place holds that the content is sent to
}

// changedElsewhere is why a content cannot be published that builds on one that is no more.
var changedElsewhere = errors.Join(syscall.ESTALE, errors.New("somebody else changed the file meanwhile"))

// Publish returns when the server has, under the file's name, all that was written before it was called; nil at once if
// there is nothing to publish. After an error everything is still here, still unpublished, and may be published again.
// A write that comes while Publish is under way may be part of it, and is published again by the next.
func (f *File) Publish(ctx context.Context) error {
	if !f.Dirty() {
		return f.whyKept()
	}
	if name, _ := f.Name(); f.tree.options.Background && !f.tree.linked(name) {
		return f.promise(ctx)
	}
	if err := f.turn.take(ctx); err != nil {
		return err
	}
	defer f.turn.give()
	return f.publish(ctx)
}

// arrive is Publish that returns when the server has it, whatever is promised to programs.
func (f *File) arrive(ctx context.Context) error {
	if !f.Dirty() {
		return nil
	}
	if err := f.turn.take(ctx); err != nil {
		return err
	}
	defer f.turn.give()
	return f.publish(ctx)
}

// publish is arrive for a caller who has the turn.
func (f *File) publish(ctx context.Context) error {
	if f.owes() {
		return f.payAll(ctx)
	}
	for round := 0; ; round++ {
		if err := f.settle(); err != nil {
			return f.fault("publish", err)
		}
		j, err := f.begin()
		if j == nil {
			return err
		}
		j.linked = f.tree.linked(j.name)
		info, err := f.upload(ctx, j)
		j.early.drop() // if it was not used
		f.tree.dropLeft(j.left.Swap(nil))
		f.tree.forgetLinks(j.name)
		again := f.end(j, info, err) || errors.Is(err, cutWhileSent) || round < maxRounds && f.overtook(j, err)
		if !again || ctx.Err() != nil {
			return err
		}
	}
}

// maxRounds is how often a content is sent anew because a program that goes on writing made it differ from what had arrived.
const maxRounds = 5

// overtook reports whether j does not match what arrived only because a program wrote meanwhile.
func (f *File) overtook(j *job, err error) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return backends.CauseOf(err) == backends.CauseMismatch && f.change != j.change
}

// Sync is Publish, for a caller that will not take a bare file for nothing. The server makes content durable where it
// can before it says that it has it, so there is nothing else to ask for.
func (f *File) Sync(ctx context.Context) error {
	if err := f.syncRidden(); err != nil {
		return f.fault("publish", err)
	}
	return f.Publish(ctx)
}

// begin takes the state to be published; nil if there is nothing to do.
func (f *File) begin() (*job, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.notice()
	switch {
	case f.kept != nil:
		return nil, fault("publish", f.name, f.kept)
	case f.gone || f.change == f.published:
		return nil, nil
	case f.stale:
		return nil, fault("publish", f.name, changedElsewhere)
	case f.torn != nil:
		return nil, f.torn
	}
	if err := f.stageLocked(); err != nil { // only attributes may have changed
		return nil, fault("publish", f.name, err)
	}
	j := &job{
		name: f.name, change: f.change, staged: f.staged, size: f.staged.Size(), tail: f.tail, perm: f.info.Mode & permBits,
		base: f.base, writer: f.writer, temp: f.temp, pending: f.pending, begun: f.begun, claim: f.reclaim,
		assumed: f.assumed && f.base.Known == 0 && (!f.unheard || f.sent != nil), doubt: f.doubtful && f.base.Known != 0,
		left: new(remains),
	}
	if j.pending.AccTime != nil && j.pending.ModTime == nil { // the two go together on the wire
		j.pending.ModTime = new(f.info.ModTime)
	}
	j.attr = f.attrToSet(j.pending)
	f.writer, f.temp = nil, ""
	j.early = f.stopEarly()
	j.cut, j.placed = f.cut, f.placed
	f.tail, f.pending, f.cut, f.placed = math.MaxInt64, backends.Attr{}, false, false
	j.unsure, j.sent = f.unheard, f.sent
	j.patch, f.patch = f.patch, patch{}
	j.patch.lost = j.patch.lost || f.stored || f.lent
	return j, nil
}

// attrToSet is what the new content must be given, for it begins as a file of its own: the permissions that programs
// see, the owner that the replaced file had, and what a program set. The caller holds mu.
func (f *File) attrToSet(a backends.Attr) backends.Attr {
	if f.info.Known.Has(backends.HasPerm) {
		perm := f.info.Mode & permBits
		a.Perm = &perm
	}
	caps := f.tree.Caps()
	if f.base.Known.Has(backends.HasOwner) && caps.HasLogin && caps.SetOwner {
		if uid := f.base.UID; a.UID == nil && uid != caps.UID {
			a.UID = &uid
		}
		if gid := f.base.GID; a.GID == nil && gid != caps.GID {
			a.GID = &gid
		}
	}
	return a
}

// end notes what became of j, and reports whether it must be tried again under the name that the file bears by now.
func (f *File) end(j *job, info backends.Info, err error) (again bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.begun, f.reclaim = j.begun, j.claim
	f.tried = err != nil && (f.tried || backends.ClassOf(err) != backends.Final)
	f.unheard, f.sent = err != nil && j.unsure, nil
	if f.unheard {
		f.sent = j.sent
	}
	f.tree.options.Spool.Drop(j.name) // a program may give the new content the size and time of the old one
	if err != nil {
		f.tail = min(f.tail, j.tail)
		f.patch.add(j.patch)
		f.cut, f.placed = f.cut || j.cut, f.placed || j.placed
		f.pending = merge(j.pending, f.pending)
		f.tree.attrs.Forget(j.name)
		return !f.gone && f.name != j.name && errors.Is(err, os.ErrNotExist)
	}
	f.arrived(j, info)
	return false
}

// arrived notes that the server has j, as info says; the caller holds mu.
func (f *File) arrived(j *job, info backends.Info) {
	_, refused := sendable(j.attr, f.tree.Caps()) // as it has turned out by now
	f.tree.kept.published(j.name, f.toKeep(j, info), refused, info)
	info = inherit(f.info, f.tree.kept.shown(j.name, info))
	f.published, f.base, f.doubtful, f.believed = j.change, info, false, false
	if f.change == j.change {
		f.info = info
		f.sentAll(j)
	}
	if j.inPlace && j.patch.count > 0 {
		f.dropCopy(false)
	}
	if j.inPlace {
		f.dropReader() // after a lost connection it would look for the file as it was
	}
	f.forgetReader()
	if j.inPlace {
		f.tree.attrs.Change(attr.Told{}, attr.Altered(j.name, info))
		f.tree.worked(parent(j.name))
		return
	}
	heard := j.heard
	if heard == nil {
		_, heard = f.tree.listen(context.Background())
	}
	if j.owed.IsZero() {
		heard.changed(attr.Made(j.name, info))
		return
	}
	// Programs have seen the file since it was promised: that it has arrived now is no reason to ask for its directory, nor, where many
	// arrive at once and nobody knows which was the last, to take what is known of that for too old.
	heard.changed(attr.Altered(j.name, info))
	f.tree.worked(parent(j.name))
}

// sentAll notes on the staging file that nothing of it is owed any more: a daemon that comes after a crash would take it for content
// that was lost. The caller holds mu.
func (f *File) sentAll(j *job) {
	if f.staged == nil || f.staged != j.staged || f.stored || f.lent {
		return
	}
	f.tree.warn("noting that a content has arrived", f.staged.Sent())
}

// toKeep is what programs are to be shown of a content that was just published, and of which the server says info: what they
// set, and where the server tells times by the minute, the second in which they wrote it. Of a content that was owed they have seen
// the time since it was promised: a program that finds another one takes the file for changed. The caller holds mu.
func (f *File) toKeep(j *job, info backends.Info) backends.Attr {
	a := j.pending
	if a.ModTime == nil && !j.owed.IsZero() {
		a.ModTime = j.attr.ModTime
	}
	unit := max(info.TimeUnit, f.tree.Caps().TimeUnit)
	if wrote := f.info.ModTime; a.ModTime == nil && unit >= time.Minute && f.change == j.change && overlap(wrote, 0, info.ModTime, unit) {
		a.ModTime = &wrote
	}
	return a
}

// forgetReader closes the reader of a base that is no more: all that counts of it is in staging. The caller holds mu.
func (f *File) forgetReader() {
	if f.staged != nil && len(f.staged.Missing(0, f.staged.Size())) == 0 {
		f.dropReader()
		f.dropCopy(false)
	}
}

// merge returns older with newer laid over it.
func merge(older, newer backends.Attr) backends.Attr {
	if newer.Perm == nil {
		newer.Perm = older.Perm
	}
	if newer.UID == nil {
		newer.UID = older.UID
	}
	if newer.GID == nil {
		newer.GID = older.GID
	}
	if newer.ModTime == nil {
		newer.ModTime = older.ModTime
	}
	if newer.AccTime == nil {
		newer.AccTime = older.AccTime
	}
	return newer
}

// upload brings j to the server, as often as the policy allows. Where the server bears few transfers at a time it waits for its
// turn, as long as that takes: those who have theirs end, for each of them must move.
func (f *File) upload(ctx context.Context, j *job) (info backends.Info, err error) {
	done, err := f.tree.takeUpload(ctx, j.size, j.early)
	if err != nil {
		f.abort(j)
		return info, fault("publish", j.name, err)
	}
	defer done()
	if j.inPlace = f.onlyGrew(j); j.inPlace {
		info, err := f.uploadTail(ctx, j)
		switch {
		case err == nil:
			return info, f.tellGrown(ctx, j)
		case errors.Is(err, os.ErrNotExist) && f.beginAnew(j):
		case errors.Is(err, changedElsewhere) && f.tree.options.Conflict == Overwrite: // all of ours, if all of it is here
		case errors.Is(err, changedElsewhere):
			return info, f.clashed(ctx, j, err)
		case !errors.Is(err, os.ErrPermission) && !errors.Is(err, syscall.EOPNOTSUPP):
			return info, err
		}
		j.inPlace = false // a file that allows no writing, or a server that cannot append after all: it can still be replaced
	}
	if f.patches(j) {
		info, err := f.patchUp(ctx, j)
		switch {
		case err == nil:
			return info, f.tree.tellDone(ctx, j.name)
		case errors.Is(err, os.ErrNotExist), errors.Is(err, os.ErrPermission), errors.Is(err, syscall.EOPNOTSUPP):
		case errors.Is(err, changedElsewhere) && f.tree.options.Conflict == Overwrite:
		case errors.Is(err, changedElsewhere):
			return info, f.clashed(ctx, j, err)
		default:
			return info, err
		}
		j.inPlace = false
	}
	if err := f.fill(ctx, j.staged, 0, j.size); err != nil {
		f.abort(j)
		if f.builds(j) && f.lostBase(ctx, j, err) {
			err = f.clashed(ctx, j, err)
		}
		return info, err
	}
	err = f.recognise(ctx, j)
	if err == nil {
		err = f.mayReplace(ctx, j)
	}
	if err != nil {
		f.abort(j)
		if j.clash {
			err = f.clashed(ctx, j, err)
		}
		return info, err
	}
	if j.linked {
		j.unsure, j.sent = true, nil // until it has ended well: readers see each byte as it comes
		if info, err = f.rewrite(ctx, j); err == nil {
			err = f.tree.tellDone(ctx, j.name)
		}
		return info, err
	}
	err = f.tree.untilItMatches(ctx, j.name, func(ctx context.Context) error {
		if err := f.recognise(ctx, j); err != nil {
			return err
		}
		info, err = f.replace(ctx, j)
		if wayRefused(err, j.base) && !f.tree.direct(j.name) {
			info, err = f.replaceDirectly(ctx, j, err)
		}
		if f.tree.direct(j.name) {
			j.unsure, j.sent = true, nil
		} else if backends.ClassOf(err) == backends.Lost {
			f.unheardOf(j)
		}
		return err
	})
	if j.clash {
		return info, f.clashed(ctx, j, err)
	}
	if err == nil {
		if err = f.tree.tellDone(ctx, j.name); err != nil {
			f.unheardOf(j) // what bears the name is ours
		}
	}
	return info, err
}

// takeUpload waits until a content of size bytes may be sent, where the server bears few transfers at a time. A short one takes no longer
// than a question, and may have a session that is kept for those. What has begun early has its transfer already.
func (t *Tree) takeUpload(ctx context.Context, size int64, begun *early) (done func(), err error) {
	if held, ok := begun.adopt(); ok {
		return held.give, nil
	}
	uploads := t.uploads
	if size <= shortContent {
		uploads = t.shortUploads
	}
	if uploads == nil {
		return func() {}, nil
	}
	if err := uploads.take(ctx); err != nil {
		return nil, err
	}
	return uploads.give, nil
}

// untilItMatches makes uploads by the policy until what arrived is what was sent. A difference is no trouble of the line, so that it is
// tried again at once, but no more often than the policy says.
func (t *Tree) untilItMatches(ctx context.Context, name string, upload func(context.Context) error) (err error) {
	for range 1 + max(0, t.options.Retry.Count) {
		if err = t.options.Retry.Do(ctx, upload); backends.CauseOf(err) != backends.CauseMismatch || ctx.Err() != nil {
			return err
		}
		t.log.Warn("what arrived is not what was sent", "name", name, "err", err)
	}
	return err
}

// onlyGrew reports whether j only adds to something that the server has, so that sending the end is enough.
func (f *File) onlyGrew(j *job) bool {
	caps := f.tree.Caps()
	return j.base.Known != 0 && (j.base.Size > 0 || j.appends()) && j.tail >= j.base.Size && j.writer == nil && (caps.RandomWrite || caps.Append)
}

// replace uploads the whole of j under a temporary name and gives it its own.
func (f *File) replace(ctx context.Context, j *job) (backends.Info, error) {
	t := f.tree
	if err := t.fence(ctx, j.name); err != nil {
		f.abort(j)
		return backends.Info{}, err
	}
	w, temp, claimed := j.writer, j.temp, j.claim || j.writer != nil
	begun, ok := j.early.take(ctx, j)
	if !ok && w != nil && j.early != nil { // it was given bytes that may be others by now
		f.abort(j)
		w, claimed = nil, j.claim
	}
	j.writer, j.temp, j.waited, j.early = nil, "", w != nil, nil
	if ok {
		w, temp = begun.writer, begun.temp
	}
	if w == nil {
		if temp = t.tempName(j.name, j.claim); temp == "" && j.before != nil { // which no Commit asks then
			if err := j.before(t.ask(ctx, j.name)); err != nil {
				return backends.Info{}, err
			}
		}
		var err error
		w, begun.end, err = f.create(ctx, j, j.name, backends.WriteMode{TempName: temp, Perm: j.perm, Size: j.size, Exclusive: j.claim})
		if err != nil {
			t.notCreated(ctx, temp, err)
			return backends.Info{}, err
		}
	}
	j.place = begun.end
	attr, _ := sendable(j.attr, t.Caps())
	listening, heard := t.listen(ctx, j.name)
	j.heard = heard
	displaced := j.displaces(t, temp)
	info, err := send(listening, w, j, attr, begun.rest(t, j.staged, j.size))
	displaced(err)
	// A Writer that fails in order gives a claimed name up, which must then be claimed anew. One that is lost cannot.
	j.claim = claimed && err != nil && backends.ClassOf(err) == backends.Final
	if err != nil && temp != "" { // its session may be gone, and then its Writer could not remove it
		f.breakOff(ctx, j, temp, begun.certain(w.Acknowledged()), err)
		return info, err
	}
	t.freeTemp(temp)
	return info, err
}

// abort gives up the writer that an exclusive creation left in j, and the name with it, if the server answers.
func (f *File) abort(j *job) {
	if j.writer == nil {
		return
	}
	err := j.writer.Abort()
	if err != nil && j.temp != "" {
		f.tree.leave(j.temp, err)
	}
	f.tree.freeTemp(j.temp)
	j.writer, j.temp, j.claim = nil, "", err == nil
}

// rewrite uploads the whole of j into the file itself, for a new file would part it from its other names.
func (f *File) rewrite(ctx context.Context, j *job) (info backends.Info, err error) {
	err = f.tree.options.Retry.Do(ctx, func(ctx context.Context) error {
		if err := f.tree.fence(ctx, j.name); err != nil {
			return err
		}
		w, err := f.tree.backend.Update(ctx, j.name)
		if err != nil {
			return err
		}
		info, err = send(ctx, w, j, j.sendable(f.tree.Caps()), slices.Values([]spool.Range{{Off: 0, End: j.size}})) // holes as well: old bytes lie there
		return err
	})
	return info, err
}

// uploadTail adds what j has beyond its base to the file on the server, if that is still what j builds on.
func (f *File) uploadTail(ctx context.Context, j *job) (info backends.Info, err error) {
	t := f.tree
	err = t.options.Retry.Do(ctx, func(ctx context.Context) error {
		if err := t.fence(ctx, j.name); err != nil {
			return err
		}
		w, err := f.openToAppend(ctx, j)
		if err != nil {
			return err
		}
		if j.announce != nil {
			if err := j.announce(ctx); err != nil {
				w.Abort() // nothing was written
				return err
			}
		}
		if j.from == j.size && !t.Caps().RandomWrite { // nothing is left to be sent
			w.Abort()
			info, err = f.endInPlace(ctx, j)
			return err
		}
		j.begun = true
		attr := j.sendable(t.Caps())
		info, err = send(ctx, w, j, attr, t.worthSending(j.staged, spool.Range{Off: j.from, End: j.size}))
		if err == nil {
			err = f.compareEnd(ctx, j)
		}
		return err
	})
	if err == nil || j.begun && f.takeBack(ctx, j) {
		j.begun = false
	}
	return info, err
}

// endInPlace gives the file of j, which holds all of it, the attributes that it lacks. Where an attempt without an answer has brought the
// end there, the server has given it a time then, and what it refuses to set matters no more than it does with an answer: the file
// may be another's, which a program may append to and nothing else.
func (f *File) endInPlace(ctx context.Context, j *job) (info backends.Info, err error) {
	t, attr := f.tree, j.pending
	sent := j.size > j.base.Size
	if !sent && j.tail < math.MaxInt64 && attr.ModTime == nil { // written and cut off again
		attr.ModTime = new(time.Now())
	}
	info, _, err = t.send(ctx, j.name, attr)
	if sent && errors.Is(err, os.ErrPermission) {
		info, err = t.ask(ctx, j.name)
	}
	return info, err
}

// openToAppend opens the file of j to change it, and sets where to begin. What the file is then is asked for in the flight that opens
// it, where the server lets us. On a server that can only append, opening asks for the size and sends nothing else, so that it may
// go on beside our own question.
func (f *File) openToAppend(ctx context.Context, j *job) (w backends.Writer, err error) {
	t := f.tree
	if t.Caps().RandomWrite {
		listening, heard := t.listen(ctx, j.name)
		w, refused := t.backend.Update(listening, j.name)
		now, ok := heard.of(j.name)
		if ok {
			now = t.told(j.name, now)
		} else {
			now, err = t.ask(ctx, j.name)
		}
		j.from, err = f.whereToAppend(ctx, j, now, err)
		if err != nil && refused == nil {
			w.Abort() // nothing was written
		}
		return w, cmp.Or(err, refused)
	}
	var opening sync.WaitGroup
	var refused error
	opening.Go(func() { w, refused = t.backend.Update(ctx, j.name) })
	base := j.base.Size
	now, err := t.ask(ctx, j.name)
	j.from, err = f.whereToAppend(ctx, j, now, err)
	opening.Wait()
	switch {
	case err == nil && refused == nil && j.from == base:
		return w, nil
	case refused == nil:
		w.Abort() // nothing was written
	}
	if err = cmp.Or(err, refused); err != nil {
		return nil, err
	}
	return t.backend.Update(ctx, j.name) // what it found may still have been growing then
}

// whereToAppend returns where the end of j goes on the server, which says now, or err, of the name: behind its base, or, where
// nothing can be written twice, behind what a failed attempt has left of the new end; else behind what others have made of the base.
func (f *File) whereToAppend(ctx context.Context, j *job, now backends.Info, err error) (int64, error) {
	for range maxMoves {
		if err != nil {
			return 0, err
		}
		if now.SameVersion(j.base) {
			return j.base.Size, nil
		}
		ours, err := f.leftByUs(ctx, j, now)
		switch {
		case err != nil:
			return 0, err
		case !ours:
			moved, err := f.moveEnd(j, now)
			if err == nil && !moved {
				err = changedElsewhere
			}
			if err != nil {
				return 0, f.fault("publish", err)
			}
			return j.base.Size, nil
		case f.tree.Caps().RandomWrite:
			return j.base.Size, nil
		}
		// The server may still have been taking in what a broken connection had brought it.
		before := now
		if now, err = f.tree.ask(ctx, j.name); err == nil && now.Size == before.Size {
			return now.Size, nil
		}
	}
	return 0, f.fault("publish", changedElsewhere)
}

// sendable is what a program set of attributes, as far as the server can keep it. What stays in its place keeps the rest.
func (j *job) sendable(c backends.Caps) backends.Attr {
	send, _ := sendable(j.pending, c)
	return send
}

// leftByUs reports whether the file, which the server now describes so, is the base of j with what a failed attempt to
// append has left: the beginning of the new end, with holes perhaps where writes overtake each other.
func (f *File) leftByUs(ctx context.Context, j *job, now backends.Info) (bool, error) {
	if !j.begun || now.ID != j.base.ID || !now.Mode.IsRegular() || now.Size < j.base.Size || now.Size > j.size {
		return false, nil
	}
	r, err := f.tree.backend.Open(ctx, j.name)
	if err != nil {
		return false, err
	}
	defer r.Close()
	holes := f.tree.Caps().RandomWrite
	theirs, ours := make([]byte, uploadChunk), make([]byte, uploadChunk)
	for off := j.base.Size; off < now.Size; off += int64(len(theirs)) {
		theirs = theirs[:min(now.Size-off, uploadChunk)]
		ours = ours[:len(theirs)]
		if _, err := r.ReadAt(ctx, theirs, off); err != nil && err != io.EOF {
			return false, err
		}
		if n, _ := j.staged.ReadAt(ours, off); n < len(ours) {
			return false, cutWhileSent
		}
		for i, b := range theirs {
			if b != ours[i] && !(holes && b == 0) {
				return false, nil
			}
		}
	}
	return true, nil
}

// takeBack cuts off what a failed attempt to append may have left, so that the file ends where it ended before, and
// reports whether it does.
func (f *File) takeBack(ctx context.Context, j *job) bool {
	now, err := f.tree.ask(ctx, j.name)
	if err == nil && now.SameVersion(j.base) {
		return true
	}
	var ours bool
	if err == nil {
		ours, err = f.leftByUs(ctx, j, now)
	}
	if ours && f.tree.Caps().Truncate {
		_, err = f.tree.backend.SetAttr(ctx, j.name, backends.Attr{Size: &j.base.Size, ModTime: &j.base.ModTime})
		if err == nil {
			return true
		}
	}
	switch {
	case err != nil:
	case ours:
		err = errors.New("the server cannot cut a file; the next attempt goes on behind that part")
	default:
		err = changedElsewhere
	}
	f.tree.log.Warn("a failed append may have left a part of itself", "name", j.name, "size", j.base.Size, "err", err)
	return false
}

// worthSending yields the parts of r that must be sent to a place that holds nothing yet. Holes are not, where the server
// can make them itself: a file of many gigabytes that holds little must not cost its size.
func (t *Tree) worthSending(staged *spool.File, r spool.Range) iter.Seq[spool.Range] {
	if caps := t.Caps(); caps.RandomWrite && caps.Truncate {
		return staged.Data(r)
	}
	return slices.Values([]spool.Range{r})
}

// send writes the given parts of j to w, gives it j's size and the attributes a and commits, or aborts.
func send(ctx context.Context, w backends.Writer, j *job, a backends.Attr, parts iter.Seq[spool.Range]) (backends.Info, error) {
	if err := copyOut(ctx, w, j, parts); err != nil {
		w.Abort() // its error would add nothing to this one
		return backends.Info{}, err
	}
	commit := backends.Commit{Size: j.size, Attr: a, Before: j.before}
	if !j.inPlace {
		commit.Content = j.staged
	}
	return w.Commit(ctx, commit)
}

func copyOut(ctx context.Context, w backends.Writer, j *job, parts iter.Seq[spool.Range]) error {
	buf := make([]byte, min(j.size, uploadChunk))
	end := j.place // of what the place holds; at least that of a place that is new
	if j.inPlace {
		end = j.from
	}
	for part := range parts {
		for off := part.Off; off < part.End; {
			p := buf[:min(part.End-off, int64(len(buf)))]
			n, err := j.staged.ReadAt(p, off)
			if n < len(p) {
				return errors.Join(cutWhileSent, err)
			}
			if _, err := w.WriteAt(ctx, p, off); err != nil {
				return err
			}
			off += int64(n)
			end = max(end, off)
		}
	}
	// What was written and cut off again: only a truncation gives it the time of now.
	cut := j.waited && j.size == 0 && j.tail == 0 || j.inPlace && j.from == j.size && j.tail < math.MaxInt64
	if end != j.size || j.linked || cut {
		return w.Truncate(ctx, j.size)
	}
	return nil
}

// cutWhileSent ends an attempt to send a file that a program cut meanwhile; what is left of it is published anew.
var cutWhileSent = &backends.Error{Op: "publish", Code: syscall.EAGAIN, Err: errors.New("the file was cut while it was being sent")}
