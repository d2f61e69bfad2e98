package cache

import (
	"context"
	"errors"
	"iter"
	"math"
	"time"

	"pierfs/backends"
	"pierfs/cache/spool"
)

// What a program writes onward begins to travel while it still writes, so that close costs the tail and not the file. The bytes
// gather under the temporary name that the publication then takes over; what was changed behind them is sent again. Nothing of
// that binds anybody: a beginning that fails, or turns out to be another content's, is thrown away, and all is sent anew. So is one that a
// program has gone back into, where the server takes no writes but at the end.
//
// There a beginning holds a transfer, and who closes a file waits for one: all but one may be held by beginnings, which end when their
// programs like, and a program that pauses lets go of it.

const (
	// earlyStart is how much must be written onward before it begins to travel: the round trips of a smaller file are what it costs.
	earlyStart = 4 << 20
	// maxEarly is how many contents of a tree travel early at a time.
	maxEarly = 4
	// earlyIdle is how long a transfer waits for a program that pauses: longer than a disk or a pipe makes it, and shorter than servers
	// and their firewalls bear.
	earlyIdle = 2 * time.Second
)

// early is the beginning of a content on its way.
type early struct {
	file   *File
	name   string
	staged *spool.File
	news   chan struct{} // holds one when there is something to look at
	done   chan struct{} // closed when nothing is sent any more
	onward bool          // what was handed to the writer cannot be changed any more
	turn   turn          // of Tree.uploads, of which it has one until over or adopt; nil where transfers do not count

	// Set by the goroutine that sends, before done is closed.
	writer  backends.Writer
	temp    string
	claimed bool // the writer holds the name for the file, and stays the file's
	err     error

	// Guarded by File.mu.
	end     int64        // so much was written onward
	sent    int64        // so much was handed to the writer, or is being
	again   spool.Ranges // of that, what was changed since
	stopped bool         // no more is to be sent
	dropped bool         // and it serves for nothing
	ended   bool         // nothing is being sent
	aborted bool
	through bool // its transfer is another's by now, if it had one
}

// wrote notes that a program wrote r; the caller holds mu.
func (f *File) wrote(r spool.Range) {
	f.changedRange(r)
	if r.Off <= f.onward {
		f.onward = max(f.onward, r.End)
	}
	if e := f.early; e != nil {
		e.changed(r)
		e.end = f.onward
		e.wake()
	}
}

// wasCut notes that a program set the size; the caller holds mu.
func (f *File) wasCut(size int64) {
	f.onward = min(f.onward, size)
	f.changedRange(spool.Range{Off: size, End: math.MaxInt64}) // what is cut off and grows again is zeros
	if e := f.early; e != nil {
		e.changed(spool.Range{Off: size, End: e.sent})
		e.end = f.onward
	}
}

// changed notes that r is no longer what was sent; the caller holds File.mu.
func (e *early) changed(r spool.Range) {
	r.End = min(r.End, e.sent)
	if r.Len() > 0 {
		e.again.Add(r)
	}
}

func (e *early) wake() {
	select {
	case e.news <- struct{}{}:
	default:
	}
}

// travels reports whether the content should begin to travel: it is going to be sent whole. The caller holds mu.
func (f *File) travels() bool {
	caps := f.tree.Caps()
	whole := f.base.Known == 0 || f.base.Size == 0 || f.tail < f.base.Size
	return f.early == nil && f.onward >= earlyStart && whole && f.staged != nil && !f.tree.direct(f.name) &&
		caps.RandomWrite == caps.Truncate && !f.gone && !f.stale && !f.lent && !f.stored && f.torn == nil && f.shut == 0 &&
		!f.tree.Background() // what is closed is sent then
}

// sendEarly begins to send what was written, if that is worth it. It is called after each write, without a lock.
func (f *File) sendEarly() {
	t := f.tree
	f.mu.Lock()
	travels := f.travels()
	f.mu.Unlock()
	if !travels {
		return
	}
	if int(t.earlies.Add(1)) > t.mostEarly() || !t.begin() {
		t.earlies.Add(-1)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.travels() || !t.uploads.tryTake() {
		t.earlies.Add(-1)
		t.work.Done()
		return
	}
	e := &early{file: f, name: f.name, staged: f.staged, end: f.onward, news: make(chan struct{}, 1), done: make(chan struct{}), onward: !t.Caps().RandomWrite, turn: t.uploads}
	e.writer, e.temp, e.claimed = f.writer, f.temp, f.writer != nil
	f.early = e
	perm := f.info.Mode & permBits
	go func() { // ends when the file is published or given up, or with the Tree
		defer t.work.Done()
		if e.turn == nil { // else it counts until the transfer is over
			defer t.earlies.Add(-1)
		}
		e.send(t.ctx, backends.WriteMode{Perm: perm, Size: 4 * earlyStart})
	}()
}

// mostEarly is how many contents may travel early at a time.
func (t *Tree) mostEarly() int {
	if t.uploads == nil {
		return maxEarly
	}
	return min(maxEarly, cap(t.uploads)-1)
}

// tryTake takes t if it is free, and reports whether the caller has it; nil is free always.
func (t turn) tryTake() bool {
	if t == nil {
		return true
	}
	select {
	case t <- struct{}{}:
		return true
	default:
		return false
	}
}

// over lets others have the transfer that e holds. It may be called twice.
func (e *early) over() {
	if turn, ok := e.adopt(); ok {
		turn.give()
	}
}

// adopt has the caller give back the transfer that e holds; ok is false if it holds none, or none any more. Nil holds none.
func (e *early) adopt() (held turn, ok bool) {
	if e == nil || e.turn == nil {
		return nil, false
	}
	e.file.mu.Lock()
	defer e.file.mu.Unlock()
	if e.through {
		return nil, false
	}
	e.through = true
	e.file.tree.earlies.Add(-1)
	return e.turn, true
}

// errPaused ends a beginning whose program has paused.
var errPaused = errors.New("the program writes no more")

// send sends what is written, as it comes, until there is an end to it.
func (e *early) send(ctx context.Context, mode backends.WriteMode) {
	e.err = e.open(ctx, mode)
	buf := make([]byte, uploadChunk)
	for e.err == nil {
		off, state := e.next()
		if state == earlyEnds {
			break
		}
		if state == earlyWaits {
			e.err = e.await(ctx)
			continue
		}
		if _, e.err = e.staged.ReadAt(buf, off); e.err == nil {
			_, e.err = e.writer.WriteAt(ctx, buf, off)
		}
	}
	f := e.file
	f.mu.Lock()
	e.ended = true
	e.aborted = e.err != nil || e.dropped || e.spoiled()
	abort := e.aborted
	f.mu.Unlock()
	if abort {
		e.abort()
	}
	close(e.done)
}

// await returns when there is something to look at.
func (e *early) await(ctx context.Context) error {
	var patience <-chan time.Time
	if e.onward {
		timer := time.NewTimer(earlyIdle)
		defer timer.Stop()
		patience = timer.C
	}
	select {
	case <-e.news:
		return nil
	case <-patience:
		return errPaused
	case <-ctx.Done():
		return ctx.Err()
	}
}

// open opens the place where the content gathers, unless the file's claim to its name has one.
func (e *early) open(ctx context.Context, mode backends.WriteMode) error {
	t := e.file.tree
	if t.linked(e.name) {
		return errElsewhere // it will be written in place
	}
	if e.claimed {
		return nil
	}
	e.temp = t.tempName(e.name, false)
	mode.TempName = e.temp
	w, err := t.backend.Create(ctx, e.name, mode)
	if err != nil {
		t.notCreated(ctx, e.temp, err)
		return err
	}
	e.writer = w
	return nil
}

// earlyState is what is to be done next.
type earlyState uint8

const (
	earlyWaits earlyState = iota
	earlySends
	earlyEnds
)

// next returns where the next chunk begins that is to be sent.
func (e *early) next() (off int64, state earlyState) {
	e.file.mu.Lock()
	defer e.file.mu.Unlock()
	switch {
	case e.stopped, e.spoiled():
		return 0, earlyEnds
	case e.end-e.sent < uploadChunk:
		return 0, earlyWaits
	}
	off = e.sent
	e.sent += uploadChunk // before it is read: what is written from now on is sent again
	return off, earlySends
}

// spoiled reports whether what was sent holds bytes that are others by now, and that cannot be sent again; the caller holds File.mu.
func (e *early) spoiled() bool {
	for range e.again.All() {
		return e.onward
	}
	return false
}

// abort throws away what has gathered.
func (e *early) abort() {
	defer e.over()
	if e.claimed || e.writer == nil {
		return
	}
	t := e.file.tree
	if err := e.writer.Abort(); err != nil {
		t.leave(e.temp, err)
	}
	t.freeTemp(e.temp)
}

// stop takes the early beginning out of the file, which is to be published or given up; the caller holds mu.
func (f *File) stopEarly() *early {
	e := f.early
	f.early, f.onward = nil, 0
	if e != nil {
		e.stopped = true
		e.wake()
	}
	return e
}

// dropEarly throws an early beginning away, if there is one. It does not wait for the server.
func (f *File) dropEarly() {
	f.mu.Lock()
	e := f.stopEarly()
	f.mu.Unlock()
	e.drop()
}

// drop throws e away, in the background; nil is nothing.
func (e *early) drop() {
	if e == nil {
		return
	}
	f := e.file
	f.mu.Lock()
	e.stopped, e.dropped = true, true
	abort := e.ended && !e.aborted
	e.aborted = e.aborted || abort
	f.mu.Unlock()
	e.wake()
	if !abort {
		return
	}
	if !f.tree.begin() {
		e.abort() // the Tree is being closed, and its backend says so at once
		return
	}
	go func() { // ends with the server's answer, or without one
		defer f.tree.work.Done()
		e.abort()
	}()
}

// take waits until nothing is sent any more and returns e's writer and what it holds, for j; ok is false if it serves for nothing,
// and then e is being thrown away.
func (e *early) take(ctx context.Context, j *job) (g gathered, ok bool) {
	if e == nil {
		return g, false
	}
	if e.name != j.name || e.staged != j.staged || e.claimed != (j.writer != nil) {
		e.drop()
		return g, false
	}
	select {
	case <-e.done:
	case <-ctx.Done():
		e.drop()
		return g, false
	}
	e.file.mu.Lock()
	defer e.file.mu.Unlock()
	if e.err != nil || e.aborted {
		return g, false
	}
	return gathered{e.writer, e.temp, e.sent, e.again}, true
}

// gathered is what a Writer has been given early.
type gathered struct {
	writer backends.Writer
	temp   string
	end    int64        // all bytes before it
	again  spool.Ranges // but these are others by now
}

// certain is how much of n bytes from the beginning, which the server has, is still to stay.
func (g *gathered) certain(n int64) int64 {
	for r := range g.again.All() {
		n = min(n, r.Off)
	}
	return n
}

// rest yields what is still to be sent of staged, of size bytes: its end, and what was changed behind that.
func (g *gathered) rest(t *Tree, staged *spool.File, size int64) iter.Seq[spool.Range] {
	return func(yield func(spool.Range) bool) {
		for r := range t.worthSending(staged, spool.Range{Off: g.end, End: size}) {
			if !yield(r) {
				return
			}
		}
		for r := range g.again.All() {
			r.End = min(r.End, size)
			if r.Len() > 0 && !yield(r) {
				return
			}
		}
	}
}
