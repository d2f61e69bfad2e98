package cache

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"pierfs/backends"
	"pierfs/cache/journal"
	"pierfs/cache/spool"
)

// With Options.Passthrough the kernel writes to the staging file of a new content by itself. Nobody tells us of a
// write: that there was one is known by the local file's time (spool.File.Ride), asked for at each close, fsync and stat.
//
// What a program was promised is durable in that very file, with its entry in the journal, as ever. But a program may go on writing to it, and
// what is sent must be of one moment. So, of a content that is owed in a file which a program can still write to,
//
//   - nothing is sent until nobody can: usually the moment after close(2), for RELEASE follows FLUSH;
//   - if that takes long, or the name is to be renamed at the server, a copy is made that is of one moment (spool.File.Snapshot), promised
//     in its place, and sent;
//   - the same copy is made before the content is cut by us, so that what was promised outlives the cutting;
//   - once it is on its way nobody gets the file to write to: who comes then has a staging file of his own, as ever.
//
// A crash leaves the file as it is: the promised bytes, of which a program that went on may have changed some, as on a disk; what it
// wrote behind them is cut off and kept aside. A writer can outlive the daemon, through the dead mount: of what he can still write to a copy of one
// moment is sent.

// riding is who reads and writes the staging file past us. Guarded by File.mu.
type riding struct {
	on       *spool.File   // that is lent; nil if none is
	writers  int           // handles through which the kernel writes
	through  int           // handles through which it reads or writes
	mappable bool          // something may be left by which a program writes: a mapping, or a descriptor of a mount that has ended
	stirred  bool          // something was written since Stirred was asked
	ended    chan struct{} // closed when writers becomes 0; nil if nobody waits
}

// ride is whether staging files may be ridden, which is asked of the local file system once.
type ride struct {
	once sync.Once
	err  error
}

// errNotWanted says that nobody asked for what cannot be had.
var errNotWanted = errors.New("it is not asked for")

// Riding returns why the kernel cannot write to staging files by itself, as far as this machine's disk is concerned; nil if it can.
func (t *Tree) Riding() error {
	if !t.options.Passthrough || !t.options.Background {
		return errNotWanted
	}
	t.ride.once.Do(func() {
		t.ride.err = errors.Join(checkRoom(t.options.Staging, t.options.StagingLimit), spool.CheckRiding(t.options.Staging))
		if t.ride.err != nil {
			t.log.Warn("writePassthrough has no effect: files are written through the daemon", "err", t.ride.err)
		}
	})
	return t.ride.err
}

// checkRoom returns an error if the file system of dir lets more be written than limit, which nobody else enforces on what the kernel
// writes by itself. A project quota of a directory is the size that its file system tells there (ext4, XFS).
func checkRoom(dir string, limit int64) error {
	if limit == 0 {
		return nil
	}
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	if size := int64(s.Blocks) * s.Frsize; size > limit {
		return fmt.Errorf("the file system of %q has %d bytes, and stagingLimit is %d: give the directory a file system, or a project quota, of at most that, or set stagingLimit to 0",
			dir, size, limit)
	}
	return nil
}

// journalReserve is what the journal keeps of the disk that the kernel may fill: the ends of some thousand entries.
const journalReserve = 256 << 10

// journalKeeps is how much of the disk the journal must keep: where we count what is written there is room for it.
func (t *Tree) journalKeeps() int64 {
	if t.Riding() == nil {
		return journalReserve
	}
	return 0
}

// Ride lends the staging file to the kernel for one handle of a program, to read and write as mode says, until Alight; nil if it is not to be
// had. It is the File's to close. The first handle must write, to a content that is all here and that nothing is owed of; those who come while
// the file is lent as on have that or nothing.
func (f *File) Ride(mode OpenMode, on *os.File) (*os.File, error) {
	name, named := f.Name()
	if f.tree.Riding() != nil || on == nil && (!mode.Write || !named || f.tree.linked(name)) {
		return nil, nil
	}
	if on != nil && mode.Write {
		done, ok := f.partForWriter()
		defer done()
		if !ok {
			return nil, nil
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.shut != 0, f.staged == nil:
		return nil, nil
	case on == nil && (f.owing.frozen > 0 || f.stale || f.torn != nil || f.lent):
		return nil, nil
	case mode.Write && f.travelsNow():
		return nil, nil
	}
	disk, err := f.staged.Ride(on)
	if disk == nil || err != nil {
		return nil, err
	}
	r := &f.riding
	r.on = f.staged
	r.through++
	if mode.Write {
		r.writers++
		r.mappable = r.mappable || mode.Read
	}
	f.lent, f.stored = true, true
	return disk, nil
}

// partForWriter sets apart what is owed in the staging file before one more program writes to that; what was promised before he came is not his
// to change, so that until done is called nothing more is promised. ok is false if he may not write there. Of a file that is being
// written to all the while there is no copy of one moment, and he makes no difference.
func (f *File) partForWriter() (done func(), ok bool) {
	if f.owing.sealing.take(f.tree.ctx) != nil {
		return func() {}, false
	}
	err := f.sealApart(f.tree.ctx, func() bool { return f.owesStaged() && f.riding.on == f.staged && !f.travelsNow() })
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.owing.sealing.give, !f.owesStaged() || errors.Is(err, errWritten)
}

// owesStaged reports whether what the file owes lies in its staging file; the caller holds mu.
func (f *File) owesStaged() bool { return f.owing.debt != nil && f.owing.debt.staged == f.staged }

// travelsNow reports whether the content of the staging file is on its way, or may have come to the server; the caller holds mu.
func (f *File) travelsNow() bool {
	is := func(d *debt) bool { return d != nil && d.staged == f.staged }
	return is(f.owing.paying) || slices.ContainsFunc(f.owing.sent, is)
}

// Alight ends what Ride has begun for a handle of that mode, which the kernel has closed.
func (f *File) Alight(mode OpenMode) { f.alight(mode, false) }

// AlightUnseen is Alight for a handle of a mount that has ended: its program may have it open, and write on.
func (f *File) AlightUnseen(mode OpenMode) { f.alight(mode, mode.Write) }

func (f *File) alight(mode OpenMode, writesOn bool) {
	f.mu.Lock()
	f.notice()
	r := &f.riding
	r.mappable = r.mappable || writesOn
	r.through--
	if mode.Write {
		r.writers--
	}
	ended := mode.Write && r.writers == 0
	if ended && r.ended != nil {
		close(r.ended)
		r.ended = nil
	}
	f.stillWritten()
	f.mu.Unlock()
	if ended {
		f.tree.queue.hurry(f)
	}
}

// stillWritten reports whether a program can write to the staging file past us; the caller holds mu.
func (f *File) stillWritten() bool {
	r := &f.riding
	if r.on == nil || r.writers > 0 {
		return r.writers > 0
	}
	if r.mappable && r.on.Shared() { // by a reader, or a mapping: nobody can tell
		return true
	}
	r.mappable = false
	if r.through == 0 {
		f.notice()
		r.on.Alight()
		r.on = nil
		f.lent, f.stored = false, false
	}
	return false
}

// Stirred reports whether the kernel has written to the file since it was last asked.
func (f *File) Stirred() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.notice()
	stirred := f.riding.stirred
	f.riding.stirred = false
	return stirred
}

// leastLeft is how much of the disk must be left for a content to be believed whole that the kernel wrote: nobody tells us of a write that failed
// for want of room.
const leastLeft = 1 << 20

// syncRidden returns when what is promised and has been written to since is on the disk. Publish would find nothing to do if the kernel had told of
// a write by time when it began and not when it ended (O_DIRECT with io_submit or io_uring).
func (f *File) syncRidden() error {
	f.mu.Lock()
	d, on := f.owing.debt, f.riding.on
	promised := on != nil && on == f.staged && d != nil && d.staged == on && !f.unsealedLocked()
	torn := f.torn
	f.mu.Unlock()
	if !promised || torn != nil {
		return torn
	}
	err := f.tree.syncStaged(on)
	if err != nil {
		f.lost(d, err)
	}
	return err
}

// checkWrites returns ENOSPC if a write of the kernel's may have failed, and has the content not be promised before it is cut to nothing.
func (f *File) checkWrites() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.riding.on == nil || f.riding.on != f.staged || !f.unsealedLocked() || f.torn != nil || f.staged.Size() == 0 {
		return nil
	}
	var s unix.Statfs_t
	if err := unix.Statfs(f.tree.options.Staging, &s); err != nil {
		return err
	}
	if int64(s.Bavail)*s.Frsize < leastLeft {
		f.torn = fault("write", f.name, syscall.ENOSPC)
	}
	return f.torn
}

// changesInPlace reports whether the staging file stays the file's when it is cut, for somebody reads or writes it past us; the caller holds mu.
func (f *File) changesInPlace() bool {
	return f.lent && (f.riding.writers > 0 || f.owing.frozen == 0)
}

const (
	// rideWait is how long who must have a content at the server waits for its writer to be gone before he makes a copy.
	rideWait = 200 * time.Millisecond
	// ridePatience is the same for what is sent by and by: a writer who closes now and then is sent whole as often.
	ridePatience = 30 * time.Second
	// snapshotTries is how often a copy is tried that a program writes to meanwhile.
	snapshotTries = 5
)

// errWritten is why a content is not sent now.
var errWritten = &backends.Error{Op: "publish", Code: syscall.EBUSY, Class: backends.Final, Err: errors.New("a program has it open and can still write to it")}

// debtIsWritten reports whether what the file owes lies where a program can still write to it.
func (f *File) debtIsWritten() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.debtIsWrittenLocked()
}

func (f *File) debtIsWrittenLocked() bool {
	d := f.owing.debt
	return d != nil && d.staged == f.riding.on && f.stillWritten()
}

// awaitsWriter reports whether what the file owes is not to be sent now: a program can still write to it, or has, and what it holds
// is not promised yet.
func (f *File) awaitsWriter() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.awaitsWriterLocked()
}

func (f *File) awaitsWriterLocked() bool {
	d := f.owing.debt
	return f.debtIsWrittenLocked() || d != nil && d.altered && f.unsealedLocked()
}

// hurryBehind has what the file owes tried now, if what it owed before waited for its writer.
func (f *File) hurryBehind(before *debt) {
	f.mu.Lock()
	waited := before != nil && before.altered
	f.mu.Unlock()
	if waited {
		f.tree.queue.hurry(f)
	}
}

// mayRest reports whether what the file owes can wait for its writer. One who is gone, and has perhaps left a mapping, is not waited for.
func (f *File) mayRest() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.debtIsWrittenLocked() && f.riding.writers > 0 && time.Since(f.owing.debt.began) < ridePatience
}

// setApart returns when what the file owes can be sent: when nobody can write to it any more, or it has been copied.
func (f *File) setApart(ctx context.Context) error {
	if !f.debtIsWritten() {
		return nil
	}
	patience := time.NewTimer(rideWait)
	defer patience.Stop()
	select {
	case <-f.writersEnd():
	case <-patience.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	if !f.debtIsWritten() {
		return nil
	}
	if err := f.owing.sealing.take(ctx); err != nil {
		return err
	}
	defer f.owing.sealing.give()
	return f.sealApart(ctx, f.debtIsWrittenLocked)
}

// writersEnd returns what is closed when nobody writes any more through a handle.
func (f *File) writersEnd() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := &f.riding
	if r.ended == nil {
		r.ended = make(chan struct{})
	}
	ended := r.ended
	if r.writers == 0 {
		close(ended)
		r.ended = nil
	}
	return ended
}

// sealApart promises a copy of the file as it is now, in place of what it owes, if that is needed, which is asked with mu held; the caller has the
// sealing.
func (f *File) sealApart(ctx context.Context, needed func() bool) error {
	for range snapshotTries {
		d, before, err := f.copyApart(needed)
		switch {
		case errors.Is(err, spool.ErrMoving):
			continue
		case d == nil:
			return err
		}
		if err := f.writeDown(ctx, d, before); err != nil {
			f.unseal(d)
			return f.fault("publish", err)
		}
		f.mu.Lock()
		if !f.travelsNow() { // its writer may have gone meanwhile, and the sending of what was owed have begun
			f.unfreeze()
		}
		f.mu.Unlock()
		f.enqueue()
		return nil
	}
	return errWritten
}

// copyApart takes the state that is to be owed on a staging file of its own; nil if there is no need. Nobody waits for the copy who does not need it.
func (f *File) copyApart(needed func() bool) (d, before *debt, err error) {
	t := f.tree
	f.mu.Lock()
	staged, err := f.toCopy(needed)
	name, change := f.name, f.change
	if staged != nil {
		t.share(staged) // it is not removed meanwhile
	}
	f.mu.Unlock()
	if staged == nil {
		return nil, nil, err
	}
	defer func() { t.warn("removal of a staging file", t.dropStaging(staged)) }()
	stem, err := t.newNote(name)
	if err != nil {
		return nil, nil, err
	}
	own, err := staged.Snapshot(stem + dataSuffix)
	if err != nil {
		return nil, nil, errors.Join(err, os.Remove(stem+noteSuffix))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	now, err := f.toCopy(needed)
	switch {
	case now == staged && f.change == change:
		return f.sealAs(own)
	case now != nil:
		err = spool.ErrMoving
	}
	return nil, nil, errors.Join(err, t.dropStaging(own))
}

// toCopy returns the staging file if what is owed of it is to be copied, and nil if there is no need; the caller holds mu.
func (f *File) toCopy(needed func() bool) (*spool.File, error) {
	switch {
	case f.owing.debt == nil, !needed(), f.gone, f.stale, f.torn != nil:
		return nil, nil
	case f.owing.debt.staged != f.staged: // which is another one since the file was cut
		return nil, errWritten
	}
	if f.notice(); !f.stored { // by a program that has outlived a daemon, of which only what was promised counts
		f.staged.Stored()
	}
	return f.staged, nil
}

// sealBefore makes sure that what is owed outlives that the file is cut to size in place; until done is called nothing more is promised.
func (f *File) sealBefore(size int64) (done func(), err error) {
	f.mu.Lock()
	ridden := f.riding.writers > 0
	f.mu.Unlock()
	if !ridden {
		return func() {}, nil
	}
	if err := f.owing.sealing.take(f.tree.ctx); err != nil { // what is just being promised is not known before
		return nil, err
	}
	err = f.sealApart(f.tree.ctx, func() bool { return f.owesStaged() && size < f.owing.debt.size && f.stillWritten() })
	if err != nil {
		f.owing.sealing.give()
		return nil, err
	}
	return f.owing.sealing.give, nil
}

// errUnseen is why a content is held that was changed behind its promise in a way that could not be written down.
var errUnseen = errors.New("a program went on writing to it, and that could not be written down: look at it before it is sent")

// cannotRevert reports whether what the file owes is no more what was promised, because a program wrote into it past us; it is then held for a
// person. The caller holds mu.
func (f *File) cannotRevert(d *debt) bool {
	if f.staged != d.staged || !d.altered && f.riding.on != f.staged {
		return false
	}
	f.owing.held = errUnseen
	if f.shut != syscall.ESHUTDOWN { // else the next daemon sends what was promised, as it does behind a crash
		f.tree.warn("holding a content", f.tree.enter(&journal.Change{Hold: []uint64{d.seq}}))
	}
	f.change, f.torn = d.change, nil
	f.tail, f.pending = math.MaxInt64, backends.Attr{}
	f.tree.log.Error("what a program wrote could not be promised, and what it was promised before is changed: it is held", "name", f.name)
	return true
}

// hurry has what f owes tried now, if it waits for its next try.
func (q *queue) hurry(f *File) {
	q.mu.Lock()
	i := slices.IndexFunc(q.waiting, func(w wait) bool { return w.file == f })
	if i >= 0 {
		q.waiting.remove(i)
		q.ready = append(q.ready, f)
	}
	q.mu.Unlock()
	q.wake()
}
