package cache

import (
	"context"
	"errors"
	"io"
	"math"
	"os"
	"sync"
	"syscall"
	"time"

	"pierfs/backends"
	"pierfs/cache/attr"
	"pierfs/cache/spool"
)

// smallFile is the size up to which a file is read whole in one flight and kept in memory while it is open: what one
// READ of OpenSSH carries (limits@openssh.com: 261,120 bytes).
const smallFile = 255 << 10

// smallFiles is how much of small files may be in memory at a time, in one tree. Beyond it they are read as large ones.
const smallFiles = 64 << 20

// File is the content that bears a name, shared by all who have it open. It follows its name through Tree.Rename; after
// Tree.Remove it bears none and goes on. Its methods may be called from many goroutines at once.
type File struct {
	tree     *Tree
	id       uint64 // orders the taking of turns
	turn     turn   // held by whoever publishes, renames or removes the file
	fetching turn   // held by whoever fetches a small file; taken alone

	opens int // guarded by tree.mu; 0 means that the file is finished

	mu       sync.Mutex
	name     string
	shut     syscall.Errno // why it takes no more changes: EBADF after the last Close, ESHUTDOWN once the Tree is closed
	gone     bool          // removed: there is nothing to publish to
	stale    bool          // somebody else gave the name to another content: publishing would undo that
	version  uint64
	changing bool // its attributes, at the server: until that has answered nobody knows what they are

	info backends.Info // as programs see the file
	base backends.Info // what the server has and the content builds on; Known is 0 if it has nothing

	kept error // why its content was put into quarantine when the Tree was closed: nobody is told that it was published
	torn error // a write that failed half done: what is here is not what the program meant, and is not published

	reader   backends.Reader // of base; nil until something is read
	compared bool            // reader was asked whether it is of base
	whole    []byte          // all of base, if that is small and was read
	copied   *spool.File     // what was read of base, if that is large, in the cache directory; see copy.go
	flight   flight          // of what is being fetched into copied
	stream   stream          // the same where the server can only stream; see stream.go
	staged   *spool.File     // nil until something is written; whole and reader only fill it then
	onward   int64           // how much of staged was written from its beginning on
	early    *early          // what of that is on its way before the file is published; see early.go
	writer   backends.Writer // holds a name that was created exclusively, until the first publication
	temp     string          // the writer's temporary name
	reads    bool            // somebody opened it to read it
	assumed  bool            // it was made because the name was believed to be free, and does not mean to replace anything
	reclaim  bool            // the name must be new on the server, and is held no more
	tried    bool            // a publication failed that may have happened
	unheard  bool            // what bears the name may be what a publication without an answer has brought there
	sent     []sent          // that, as far as it can be told from another's; see unheard.go
	doubtful bool            // the server may have renamed it, which nobody was told
	placed   bool            // something was written to a place that a program chose, and not appended
	logs     bool            // whoever opened it only appends
	believed bool            // it was opened without asking the server
	moved    bool            // what was appended stands elsewhere than programs were told; see Moved
	begun    bool            // an append in place failed and may have left a part of itself
	cut      bool            // it was cut to nothing since it was published: nothing of the base is in it

	// What the server does not have: the file is dirty while change != published. tail is the lowest offset that
	// changed, pending what a program set of attributes.
	change, published uint64
	tail              int64
	pending           backends.Attr
	patch             patch // the same, range by range

	owing owing // what was acknowledged and is not there yet

	// Of content that the kernel reads past us; see Local.
	lent   bool // copied, or what was staged of it, is the kernel's to read: one local file for good
	stored bool // programs may store into it unseen
	riding riding
	lags   int64 // size at the server, if more was appended there than is here
}

func newFile(t *Tree, name string, info backends.Info) *File {
	return &File{tree: t, id: t.staged.Add(1), turn: newTurn(), fetching: newTurn(), name: name, info: info, version: t.staged.Add(1), tail: math.MaxInt64,
		owing: owing{sealing: newTurn(), thawing: newTurn()}}
}

// turn is a lock that a context can stop waiting for.
type turn chan struct{}

func newTurn() turn { return make(turn, 1) }

func (t turn) take(ctx context.Context) error {
	select {
	case t <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (t turn) give() { <-t }

// Name returns the name that the file bears; ok is false once it was removed.
func (f *File) Name() (name string, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.name, !f.gone
}

// Dirty reports whether Publish would have something to do: the file was created, cut, written or given attributes, and
// the server does not know it yet.
func (f *File) Dirty() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dirtyLocked()
}

func (f *File) dirtyLocked() bool {
	f.notice()
	return !f.gone && f.change != f.published
}

// exists reports whether the file waits to be published, or was published since it was opened here.
func (f *File) exists() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dirtyLocked() || f.published != 0 && f.base.Known != 0 && !f.stale
}

// Stat describes the file as programs see it. An unchanged file is asked for at the server when what is known is too old.
func (f *File) Stat(ctx context.Context) (Entry, error) {
	name, ok := f.Name()
	if !ok || f.tree.live(name) != f {
		return f.entry(), nil // its name, if any, is another's
	}
	e, err := f.tree.Stat(ctx, name)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return f.entry(), nil
	case err == nil && e.Version != f.entry().Version:
		return f.entry(), nil
	}
	return e, err
}

// entry is what is known of the file without asking.
func (f *File) entry() Entry {
	name, ok := f.Name()
	var links Entry
	if ok {
		f.tree.countLinks(name, &links)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	e := Entry{Info: f.info, Version: f.version, Valid: f.tree.options.MetadataTTL}
	if f.staged != nil {
		e.Size = f.staged.Size()
	}
	switch {
	case links.Nlink > 0:
		e.Nlink, e.Linked = links.Nlink, links.Linked
		e.Known |= backends.HasNlink
	case f.gone:
		e.Nlink = 0
		e.Known |= backends.HasNlink
	}
	return e
}

// agrees reports whether info is the version that the file builds on.
func (f *File) agrees(info backends.Info) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.base.SameVersion(info)
}

// observe takes what the server says of the file's name by now, and reports whether that is still this content.
func (f *File) observe(ctx context.Context, info backends.Info) bool {
	f.mu.Lock()
	base, dirty := f.base, f.change != f.published || f.changing
	same := dirty || base.SameVersion(info)
	if same && !dirty {
		f.base, f.info = info, info
	}
	f.mu.Unlock()
	if same || f.goesOn(info) {
		return true
	}
	return f.grew(ctx, base, info)
}

// grew reports whether info is base with something appended, and if so goes on with it: a reader of a log that another
// host writes sees the new lines. A file that was replaced by a longer one is not taken for it: what is known of the old
// content is compared with the new.
func (f *File) grew(ctx context.Context, base, info backends.Info) bool {
	if !base.Mode.IsRegular() || !info.Mode.IsRegular() || info.Size <= base.Size || base.ID != info.ID {
		return false
	}
	if err := f.fetching.take(ctx); err != nil { // of many who look, one compares
		return false
	}
	defer f.fetching.give()
	if f.agrees(info) {
		return true
	}
	f.mu.Lock()
	reader, whole, staged, copied := f.reader, f.whole, f.staged, f.copied
	f.mu.Unlock()
	switch {
	case staged != nil:
		return false
	case f.tree.streams(), copied != nil && reader == nil: // what is here was kept, or needs no reader any more
		if !f.tied(ctx, info) {
			return false
		}
	case whole != nil:
		if !f.beginsWith(ctx, whole) {
			return false
		}
	case reader != nil:
		if open, err := reader.Stat(ctx); err != nil || open.Size < info.Size {
			return false // the open file did not grow: another one bears the name
		}
	default:
		return false
	}
	if f.isLent() || copied != nil && copied.Lent() {
		return f.growLent(ctx, base, info)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.change != f.published || !f.base.SameVersion(base) {
		return false
	}
	f.base, f.info = info, info
	f.dropWhole()
	if f.copied != nil && f.copied.Extend(info.Size) != nil {
		f.dropCopy(false)
	}
	return true
}

// tied reports whether what bears the file's name on a server that can only stream begins with what is known of base. The
// transfer that tells is then the file's.
func (f *File) tied(ctx context.Context, info backends.Info) bool {
	name, ok := f.Name()
	if !ok || !mayContinue(f.baseInfo(), info) {
		return false
	}
	r, err := f.tree.backend.Open(ctx, name)
	if err != nil {
		return false
	}
	if !f.continues(ctx, r, info) {
		r.Close()
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dropReader()
	f.reader, f.compared = r, true
	return true
}

// beginsWith reports whether what bears the file's name on the server begins with content.
func (f *File) beginsWith(ctx context.Context, content []byte) bool {
	name, ok := f.Name()
	if !ok {
		return false
	}
	r, err := f.tree.backend.Open(ctx, name)
	if err != nil {
		return false
	}
	defer r.Close()
	begin := make([]byte, len(content))
	if _, _, err := r.ReadLast(ctx, begin, 0); err != nil && err != io.EOF {
		return false
	}
	return string(begin) == string(content)
}

// WriteAt writes p at off, into the staging file. It does not touch the server, but for what a part of a block needs.
func (f *File) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	defer f.sendEarly()
	return f.write(ctx, off, func(staged *spool.File) (int64, int, error) {
		n, err := staged.WriteAt(p, off)
		return off, n, err
	})
}

// Append writes p at the end, wherever others have moved it meanwhile.
func (f *File) Append(ctx context.Context, p []byte) (int, error) {
	defer f.sendEarly()
	return f.write(ctx, math.MaxInt64, func(staged *spool.File) (int64, int, error) { return staged.Append(p) })
}

// write changes nothing of the staging file before from.
func (f *File) write(ctx context.Context, from int64, write func(*spool.File) (off int64, n int, err error)) (int, error) {
	if err := f.lockToChange(ctx, "write", from); err != nil {
		return 0, err
	}
	defer f.mu.Unlock()
	if err := f.stageLocked(); err != nil {
		return 0, fault("write", f.name, err)
	}
	f.changesFrom(from)
	f.notice()
	end := f.staged.Size() // a write beyond the end changes the gap as well
	off, n, err := write(f.staged)
	if n > 0 {
		f.changed(min(off, end))
		f.placed = f.placed || from < math.MaxInt64
		f.wrote(spool.Range{Off: off, End: off + int64(n)})
	}
	if err != nil {
		f.torn = fault("write", f.name, err)
		return n, f.torn
	}
	return n, nil
}

// Allocate reserves room for n bytes at off in the staging file; the size grows to off+n unless keepSize.
func (f *File) Allocate(ctx context.Context, off, n int64, keepSize bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.writable("allocate"); err != nil {
		return err
	}
	if err := f.stageLocked(); err != nil {
		return fault("allocate", f.name, err)
	}
	f.notice()
	end := f.staged.Size()
	if err := f.staged.Allocate(off, n, keepSize); err != nil {
		return fault("allocate", f.name, err)
	}
	if f.staged.Size() > end || f.riding.writers > 0 { // what the kernel wrote meanwhile passes for a part of it
		f.changed(end)
		f.placed = true
	}
	return nil
}

// truncate sets the size; size < 0 never comes from a kernel and is EINVAL.
func (f *File) truncate(size int64) error {
	if size < 0 {
		return f.fault("truncate", syscall.EINVAL)
	}
	done, err := f.sealBefore(size)
	if err != nil {
		return fault("truncate", f.name, err)
	}
	defer done()
	from := size
	if size == 0 { // it then gets a new staging file, and nothing is copied
		from = math.MaxInt64
	}
	if err := f.lockToChange(f.tree.ctx, "truncate", from); err != nil {
		return err
	}
	defer f.mu.Unlock()
	if err := f.truncateLocked(size); err != nil {
		return fault("truncate", f.name, err)
	}
	if size == 0 { // what was before does not matter any more, whoever made it
		f.torn, f.assumed, f.cut = nil, false, true
	}
	return nil
}

func (f *File) truncateLocked(size int64) error {
	f.placed = true
	if size == 0 && !f.changesInPlace() && (f.staged == nil || f.owing.frozen > 0) { // nothing of the old content counts any more
		staged, err := f.tree.newStaging(f.name, 0)
		if err != nil {
			return err
		}
		f.swapStaging(staged)
		f.forgetBase()
		f.changed(0)
		f.wasCut(0)
		return nil
	}
	if err := f.stageLocked(); err != nil {
		return err
	}
	f.changesFrom(size)
	end := f.staged.Size()
	if err := f.staged.Truncate(size); err != nil {
		return err
	}
	f.changed(min(size, end))
	f.wasCut(size)
	return nil
}

// writable returns the error of op on a file that takes no changes; the caller holds mu.
func (f *File) writable(op string) error {
	if f.shut != 0 {
		return fault(op, f.name, f.shut)
	}
	if f.tree.Caps().ReadOnly {
		return fault(op, f.name, syscall.EROFS)
	}
	return nil
}

// changed notes that bytes from off on are not what the server has; the caller holds mu.
func (f *File) changed(off int64) {
	if f.stored {
		off = 0 // and who knows what else
	}
	f.change++
	f.tail = min(f.tail, off)
	f.info.ModTime = time.Now()
	f.info.Size = f.staged.Size()
	f.pending.ModTime, f.pending.AccTime = nil, nil // on the wire the two go together
}

// stage makes the staging file, if there is none.
func (f *File) stage() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stageLocked()
}

func (f *File) stageLocked() error {
	switch {
	case f.staged != nil:
		return nil
	case f.lent && f.copied != nil:
		return f.moveToStaging()
	}
	staged, err := f.tree.newStaging(f.name, f.info.Size)
	if err != nil {
		return err
	}
	if f.whole != nil {
		if err := staged.Fill(f.whole, 0); err != nil {
			return errors.Join(err, staged.Remove())
		}
	}
	f.staged = staged
	f.dropWhole()
	return nil
}

// dropWhole gives the memory of a small file back; the caller holds mu.
func (f *File) dropWhole() {
	f.tree.small.Add(-int64(len(f.whole)))
	f.whole = nil
}

// forgetBase lets go of the old content, which was cut away; the caller holds mu.
func (f *File) forgetBase() {
	f.dropWhole()
	f.dropCopy(false)
	f.dropReader()
}

// SetAttr changes what a names. While the file has something unpublished the change is published with it; otherwise the
// server is asked at once. Size cuts or stretches the file, and is published with the next Publish.
func (f *File) SetAttr(ctx context.Context, a backends.Attr) (Entry, error) {
	if a.Size != nil {
		if err := f.truncate(*a.Size); err != nil {
			return Entry{}, err
		}
		a.Size = nil
	}
	err := f.setAttr(ctx, a)
	if err == nil && f.onlyAttrs() { // no close may tell of it any more, though whoever closed the file has not let go of it yet
		err = f.Publish(ctx)
	}
	return f.entry(), err
}

// setAttr sets a, which names no size, at the server, or notes it for what is published next.
func (f *File) setAttr(ctx context.Context, a backends.Attr) error {
	if done, err := f.postpone(a); done || err != nil {
		return err
	}
	if err := f.turn.take(ctx); err != nil {
		return err
	}
	defer f.turn.give()
	if done, err := f.postpone(a); done || err != nil {
		return err
	}
	name := f.attrChanging()
	info, err := f.tree.set(ctx, name, a)
	f.attrChanged(name, a, info, err)
	if err == nil {
		f.tree.forgetLinks(name)
	}
	return err
}

// attrChanging notes that the file's attributes are being changed at the server, under the name that it returns.
func (f *File) attrChanging() (name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.changing = true
	return f.name
}

// attrChanged notes what became of setting a at the server, which then said info of the name.
func (f *File) attrChanged(name string, a backends.Attr, info backends.Info, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.changing = false
	if err != nil {
		f.tree.attrs.Forget(name)
		return
	}
	f.tree.attrs.Change(attr.Told{}, attr.Altered(name, info))
	before := info
	if a.ModTime != nil {
		before.ModTime = f.base.ModTime
	}
	switch {
	case !f.base.SameVersion(before): // the name is another content's by now; the next Stat deals with that
	case f.change == f.published:
		f.base, f.info = info, info
	default: // written to meanwhile
		f.base = info
		f.show(a)
	}
}

// postpone remembers a for the next publication and reports true, if there is something to publish or nothing that could
// be asked, or nothing to be done.
func (f *File) postpone(a backends.Attr) (done bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.writable("setattr"); err != nil {
		return false, err
	}
	f.notice() // what was written before it does not take back the times that it sets
	switch {
	case a.Empty():
		return true, nil
	case f.stale && !f.gone:
		return false, fault("setattr", f.name, changedElsewhere) // the name is another content's
	case f.change != f.published || f.gone:
	default:
		return false, nil
	}
	f.show(a)
	f.pending = merge(f.pending, a)
	if !f.gone {
		f.change++
	}
	return true, nil
}

// show lets programs see a; the caller holds mu.
func (f *File) show(a backends.Attr) {
	if a.Perm != nil {
		f.info.Mode = f.info.Mode&^permBits | *a.Perm&permBits
	}
	if (a.UID != nil || a.GID != nil) && !f.tree.Caps().SetOwner {
		f.info.Known |= backends.HasOwner | OwnerHere
	}
	if a.UID != nil {
		f.info.UID = *a.UID
	}
	if a.GID != nil {
		f.info.GID = *a.GID
	}
	if a.ModTime != nil {
		f.info.ModTime = *a.ModTime
	}
	if a.AccTime != nil {
		f.info.AccTime = *a.AccTime
	}
}

// permBits are the bits of a mode that chmod changes.
const permBits = os.ModePerm | os.ModeSetuid | os.ModeSetgid | os.ModeSticky

// Close ends one Open. The last one publishes what is still unpublished, such as pages that came after the last Publish,
// and puts it into quarantine if that fails; told says that a program was already told of the last Publish's failure, or
// wants none, and then nothing is kept.
func (f *File) Close(ctx context.Context, told bool) error {
	var failed error
	for {
		switch f.leave(told || failed != nil) {
		case notLeft: // the last Close, and something is unpublished or claimed
			if told || failed != nil {
				f.abortClaim()
			} else {
				if failed = f.Publish(ctx); failed != nil {
					failed = f.keepUnsealed(failed)
				}
			}
			continue
		case leftLast:
			if failed != nil {
				failed = f.quarantine(failed)
			}
			f.discard()
			return failed
		}
		return nil // also if Publish failed: those who opened it meanwhile owe it now
	}
}

// leaving is what became of an attempt to end one Open.
type leaving uint8

const (
	left     leaving = iota // others have the file open
	leftLast                // nobody has; the file bears no name any more and is the caller's to discard
	notLeft                 // nothing happened: the file holds what must be dealt with while it bears its name
)

// leave ends one Open. The last one is not ended while something is unpublished, unless it is given up, and not while a
// name is claimed on the server: that must be let go before anybody here can create it anew.
func (f *File) leave(giveUp bool) leaving {
	t := f.tree
	t.mu.Lock()
	defer t.mu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.unqueueLocked()
	switch {
	case f.opens == 2 && f.owing.queued:
		return f.leaveOwing(giveUp)
	case f.opens > 1:
		f.opens--
		return left
	}
	if f.dirtyLocked() && (!giveUp || f.writer != nil) {
		return notLeft
	}
	f.opens = 0
	f.shut = syscall.EBADF
	t.free(f)
	return leftLast
}

// shutOut makes the file take no more changes, for the Tree is being closed.
func (f *File) shutOut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.shut == 0 {
		f.shut = syscall.ESHUTDOWN
	}
}

// endWriting ends what programs are still writing when the Tree is closed: it is published if it was only added, and else kept. The error says
// what was kept; unfinished that it was, for nobody can tell whether it was whole.
func (f *File) endWriting(ctx context.Context) (unfinished bool, err error) {
	f.shutOut()
	mine := f.publishing()
	taken := mine.take(ctx) == nil // who is publishing it may go on until ctx ends
	if unfinished = f.isUnfinished(); unfinished {
		f.dropEarly()
		f.abortClaim()
		if f.isBare() {
			f.noteKept(errUnfinished)
		} else {
			err = f.keep(errUnfinished)
		}
	}
	if taken {
		mine.give()
	}
	if unfinished {
		return err != nil, err
	}
	if err = f.Publish(ctx); err != nil {
		err = f.keep(err)
	}
	return false, err
}

// publishing is what Publish takes.
func (f *File) publishing() turn {
	if name, _ := f.Name(); f.tree.options.Background && !f.tree.linked(name) {
		return f.owing.sealing
	}
	return f.turn
}

// errUnfinished is why a content is kept, and not published, when the Tree is closed.
var errUnfinished = errors.New("a program was still writing it when the daemon ended")

// keep puts what was not published into quarantine because of err, when the Tree is closed.
func (f *File) keep(err error) error {
	f.noteKept(err)
	if f.owes() {
		kept := f.keepUnsealed(err)
		f.givenBack()
		return kept
	}
	return f.quarantine(err)
}

// noteKept has every publication that comes from now on, or is still under way, fail with err.
func (f *File) noteKept(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.kept = err
}

// whyKept returns the error of a publication that finds nothing to do because the content was put into quarantine; nil if it was not.
func (f *File) whyKept() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.kept == nil {
		return nil
	}
	return fault("publish", f.name, f.kept)
}

// isUnfinished reports whether the file holds a content that no program has closed, and that is not just the old one with something added.
func (f *File) isUnfinished() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := f.owing.debt
	switch {
	case !f.unsealedLocked():
		return false
	case d != nil:
		return f.tail < d.size
	}
	return f.base.Known == 0 || f.writer != nil || f.cut || f.tail < f.base.Size
}

// isBare reports whether an unfinished file has nothing in it yet, which is then given up.
func (f *File) isBare() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.owing.debt != nil || f.staged != nil && f.staged.Size() > 0 {
		return false
	}
	f.published = f.change
	return true
}

// remove notes that the file bears no name any more.
func (f *File) remove() {
	f.dropEarly()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.gone = true
}

// discard lets go of everything, after the last Close.
func (f *File) discard() {
	f.dropEarly()
	f.mu.Lock()
	reader, staged := f.reader, f.staged
	f.reader, f.staged = nil, nil
	f.published = f.change
	f.shut = syscall.EBADF
	f.dropWhole()
	f.dropCopy(true)
	f.mu.Unlock()
	f.abortClaim()
	if reader != nil {
		reader.Close()
	}
	if staged != nil {
		f.tree.warn("removal of a staging file", f.tree.dropStaging(staged))
	}
}

// warn logs an error that nobody can be told of any more and that costs nothing but a leftover.
func (t *Tree) warn(what string, err error) {
	if err != nil {
		t.log.Warn("cleaning up", "what", what, "err", err)
	}
}

// fault returns err as the error of op on the file, under the name that it bears.
func (f *File) fault(op string, err error) error {
	name, _ := f.Name()
	return fault(op, name, err)
}

// fault returns err as the error of op on name.
func fault(op, name string, err error) error {
	return &backends.Error{Op: op, Name: name, Code: backends.Errno(err), Err: err}
}

// GiveUp takes the name from a file whose publication failed and will not be tried again: whoever opens the name from now
// on finds what the server has. Those who still have the file open keep what they see, and cannot publish it (ESTALE).
func (f *File) GiveUp() {
	if f.givenBack() {
		return
	}
	if f.Dirty() {
		f.tree.detach(f)
	}
}
