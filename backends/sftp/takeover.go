package sftp

import (
	"cmp"
	"context"
	"fmt"
	"syscall"
	"time"

	"pierfs/backends"
)

// An upload that broke off goes on in a file of its own, into which the server copies what the former one holds for certain (copy-data,
// OpenSSH from 9.0 on). What a broken session has still under way - WRITEs, a truncation, a removal - meets the former file alone.
//
// Certain is what the server has answered for and synced behind that: a machine that loses power may come back with a file of the same size that has
// holes where bytes were acknowledged.

const (
	// secureStep is how much is worth a sync of its own.
	secureStep = 2 << 20
	// secureRest is how many times as long as a sync took the next one waits, as far as secureMost, and secureLong how long one may be likely
	// to take: the channel carries nothing else meanwhile. On a line that is nearly as fast as the server's disk there is none after the first
	// few then.
	secureRest = 10
	secureMost = 5 * time.Second
	secureLong = 250 * time.Millisecond
)

// takesOver reports whether a content can go on from what is left of it. What servers unlike OpenSSH make of copy-data nobody has looked at.
func (s *session) takesOver() bool {
	return s.openSSH && s.meta.offers(extCopyData) && s.meta.offers(extFsync)
}

// sure is how much of a content is certain. Guarded by writer.mu.
type sure struct {
	kept    bool            // it is kept account of: nothing but onward writes has happened, and the server can copy
	whole   int64           // all bytes before it were answered for
	beyond  map[int64]int64 // further pieces that were answered, from their beginnings to their ends
	durable int64           // all bytes before it are synced
	syncing bool
	next    time.Time // when the next sync may begin
	pace    float64   // nanoseconds that a byte took at least, of those that a sync brought to the disk; 0 before the first
}

// answered notes that the server has taken a WRITE.
func (w *writer) answered(off, end int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	u := &w.sure
	switch {
	case !u.kept || off < u.whole: // a further way's may be answered twice
		return
	case off > u.whole:
		if u.beyond == nil {
			u.beyond = make(map[int64]int64)
		}
		u.beyond[off] = end
		return
	}
	for more := true; more; end, more = u.beyond[u.whole] {
		delete(u.beyond, u.whole)
		u.whole = end
	}
}

// doubt ends the account: what is left could be something else than the beginning of the content.
func (w *writer) doubt() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sure.kept, w.sure.beyond = false, nil
}

// due reports whether it is time for a sync.
func (u *sure) due() bool {
	n := u.whole - u.durable
	likely := time.Duration(u.pace * float64(n))
	return u.kept && !u.syncing && n >= secureStep && !time.Now().Before(u.next) && likely <= secureLong
}

// secure has the server sync what it has taken, if it is time. Nobody waits for it. How long it takes is measured from the answer to a
// question before it, which has waited behind the same WRITEs.
func (w *writer) secure() {
	w.mu.Lock()
	u := &w.sure
	due, upTo := u.due(), u.whole
	u.syncing = u.syncing || due
	w.mu.Unlock()
	if !due {
		return
	}
	var began time.Time
	f := w.m.flight()
	f.add(pathFrame(typeFstat, w.handle)).over = func(reply) { began = time.Now() }
	f.add(extendedFrame(extFsync, w.handle)).over = func(r reply) {
		err := r.status()
		if failed(err, statusUnsupported) {
			w.doubt()
			return
		}
		if err != nil { // a server's kernel tells of what it could not write once, and the sync before the close would hear nothing of it
			w.fail(fmt.Errorf("sync: %w", err))
			return
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		took := time.Since(began)
		if pace := float64(took) / float64(upTo-u.durable); u.pace == 0 || pace < u.pace { // the disk may have been busy with others
			u.pace = pace
		}
		u.syncing, u.next, u.durable = false, time.Now().Add(min(secureRest*took, secureMost)), upTo
	}
	f.send(urgent)
}

// Acknowledged is what is certain.
func (w *writer) Acknowledged() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.sure.kept || w.failure != nil && !lostReply(w.failure) {
		return 0
	}
	return w.sure.durable
}

// TakeOver has the server copy, in two round trips.
func (w *writer) TakeOver(ctx context.Context, off, n int64) error {
	giveBack, err := w.begin(ctx)
	if err != nil {
		return seam("takeover", w.name, err)
	}
	defer giveBack()
	if err := w.failed(); err != nil {
		return w.told("takeover", err)
	}
	if err := w.takeOver(ctx, off, n); err != nil {
		return w.told("takeover", w.fail(err))
	}
	return nil
}

func (w *writer) takeOver(ctx context.Context, off, n int64) error {
	switch {
	case !w.s.takesOver() || w.left == "":
		return refuse(syscall.EOPNOTSUPP, "there is nothing to take over, or the server copies nothing")
	case off != w.top.Load() || w.held != nil || n <= 0:
		return refuse(syscall.EINVAL, "%d bytes are to be taken over at %d of a content that ends elsewhere", n, off)
	}
	f := w.m.flight()
	name := f.add(pathFrame(typeLstat, w.s.path(w.left)))
	open := f.add(openFrame(w.s.path(w.left), openRead, attrs{}))
	open.late = func(r reply) {
		if handle, err := r.handle(); err == nil {
			w.m.closeSoon(handle)
		}
	}
	f.send(bulk)
	f.wait(ctx)
	source, err := open.reply.handle()
	if err != nil {
		return err
	}
	defer w.m.closeSoon(source)
	was, err := name.reply.info("")
	if err != nil {
		return err
	}
	f = w.m.flight()
	opened := f.add(pathFrame(typeFstat, source))
	copied := f.add(copyFrame(source, w.handle, off, n))
	synced := f.add(extendedFrame(extFsync, w.handle))
	made := f.add(pathFrame(typeFstat, w.handle))
	f.send(bulk)
	f.wait(ctx)
	same := func(i backends.Info) bool {
		return was.Mode.IsRegular() && i.Known.Has(backends.HasSize) && i.Known == was.Known && i.Mode == was.Mode && i.UID == was.UID && i.GID == was.GID && i.Size >= off+n
	}
	if err := is(opened, same); err != nil {
		return err
	}
	for _, c := range []*call{copied, synced} {
		if err := c.reply.status(); err != nil {
			return err
		}
	}
	// A server that comes to an early end of what it reads calls that well.
	if now, err := made.reply.info(""); err != nil || now.Size != off+n {
		return cmp.Or(err, refuse(syscall.EIO, "the server has %d bytes of %d that it was to copy", now.Size, off+n))
	}
	w.top.Store(off + n)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sure.whole, w.sure.durable = off+n, off+n
	return nil
}
