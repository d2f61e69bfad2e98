package sftp

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"pierfs/backends/netconn"
	"pierfs/backends/trace"
)

// ours is the bit that tells our own request ids from those of pkg/sftp, which count up from 1.
const ours = 1 << 31

const (
	readBuffer  = 64 << 10
	coalesce    = 30 << 10              // small frames that leave together stay within one SSH packet of 32 KiB
	lazyDelay   = 20 * time.Millisecond // how long a CLOSE that nobody waits for may wait for company
	writeBudget = 3 << 20               // bytes of content that may be queued on a channel, of all writers together
	readBudget  = 3 << 20               // bytes of content that may be on order, of all readers: a window, and what is asked meanwhile
)

// fault is why a request has no reply.
type fault struct {
	sent bool // it may have reached the server
	err  error
}

func (f *fault) Error() string { return f.err.Error() }
func (f *fault) Unwrap() error { return f.err }

// lane says which of two queues a flight takes: what carries content, and what must stay behind it, does not hold up
// the rest.
type lane int

const (
	urgent lane = iota
	bulk
)

// mux shares one SFTP channel between many callers, and pkg/sftp. Frames are whole from the first to the last byte, and
// the frames of one flight leave together and in order. One goroutine writes and one reads; both end with fail.
//
// Lock order: mux.mu, then call.mu; the watch's own lock, queue.mu and writer.mu are leaves. Nothing blocks under any of them.
type mux struct {
	rw     io.ReadWriteCloser
	watch  *netconn.Watch
	trace  *trace.Session
	sent   func() int64 // bytes written to the connection so far; nil if there is none below
	onFail func(error)

	extensions map[string]string
	version    frame // the server's VERSION packet, to be shown to pkg/sftp too

	reads, writes budget       // bytes of content on order, and on their way
	files         atomic.Int32 // open files that were opened here
	moved         int64        // bytes of content, when the session last looked; guarded by session.mu
	since         time.Time    // when that had changed; guarded by session.mu

	mu       sync.Mutex
	wake     sync.Cond
	queues   [2][]*flight
	lazy     []*flight
	flush    bool // lazy ones have waited long enough
	timer    *time.Timer
	calls    map[uint32]*call
	next     uint32
	lib      *library
	libCalls map[uint32]*call
	failure  error // why it is dead; nil while it lives
	gone     chan struct{}
	workers  sync.WaitGroup
}

// newMux exchanges versions over rw and starts to work. timeout is the longest that the oldest request may go without
// progress. sent and delivered are those of the connection below; onFail is told once why the mux died, and closes what
// lies under rw.
func newMux(rw io.ReadWriteCloser, timeout time.Duration, told *trace.Session, sent, delivered func() int64, onFail func(error)) (*mux, error) {
	m := &mux{
		rw: rw, trace: told, sent: sent, onFail: onFail,
		reads: budget{limit: readBudget}, writes: budget{limit: writeBudget},
		calls: make(map[uint32]*call), libCalls: make(map[uint32]*call),
		gone: make(chan struct{}),
	}
	m.wake.L = &m.mu
	m.watch = netconn.NewWatch(timeout, delivered, m.stalled)
	r := bufio.NewReaderSize(rw, readBuffer)
	if err := m.greet(r); err != nil {
		return nil, err
	}
	m.workers.Go(m.write)
	m.workers.Go(func() { m.read(r) })
	return m, nil
}

// greet sends INIT and reads VERSION.
func (m *mux) greet(r *bufio.Reader) error {
	if _, err := m.rw.Write([]byte{0, 0, 0, 5, typeInit, 0, 0, 0, protocolVersion}); err != nil {
		return fmt.Errorf("sftp greeting: %w", err)
	}
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return fmt.Errorf("sftp greeting: %w", err)
	}
	n := binary.BigEndian.Uint32(head[:])
	if head[4] != typeVersion || n < 5 || n > maxPacket {
		return fmt.Errorf("sftp greeting: %w: the answer begins %q", errMalformed, head)
	}
	m.version = make(frame, 4+n)
	copy(m.version, head[:])
	if _, err := io.ReadFull(r, m.version[5:]); err != nil {
		return fmt.Errorf("sftp greeting: %w", err)
	}
	version, extensions, err := parseVersion(m.version[5:])
	if err != nil {
		return fmt.Errorf("sftp greeting: %w", err)
	}
	if version != protocolVersion {
		return fmt.Errorf("sftp greeting: %w: the server speaks version %d, not 3", errMalformed, version)
	}
	m.extensions = extensions
	return nil
}

func (m *mux) offers(extension string) bool { _, ok := m.extensions[extension]; return ok }

// flight is requests that leave together.
type flight struct {
	m     *mux
	lane  lane
	calls []*call
	left  bool // it is in nobody's queue any more: written, or given up; guarded by m.mu
}

func (m *mux) flight() *flight { return &flight{m: m} }

// call is one request and its answer.
type call struct {
	frame   frame // nil once written
	id      uint32
	ticket  netconn.Ticket
	flight  *flight
	size    int         // of the frame, in bytes
	content bool        // a READ or a WRITE
	read    bool        // a READ, whose content goes to dest
	want    int         // bytes that were asked for
	lib     bool        // of pkg/sftp: not answered here
	late    func(reply) // what to do with an answer that comes when nobody waits any more; may be nil
	over    func(reply) // told the answer, or the fault, once the server has nothing more to say; called under mu; may be nil

	// kept counts who still needs the frame, the mux that writes it included; nil if only that does.
	kept *atomic.Int32

	done chan struct{} // closed when reply is there

	mu       sync.Mutex
	dest     []byte
	gone     bool // nobody waits
	answered bool // the server has nothing more to say
	reply    reply
}

// add puts one more request at the end of the flight.
func (f *flight) add(fr frame) *call {
	c := &call{frame: fr, size: len(fr), content: fr[4] == typeRead || fr[4] == typeWrite, flight: f, done: make(chan struct{})}
	c.ticket.Owner = c
	f.calls = append(f.calls, c)
	return c
}

// read adds a READ whose bytes go to p.
func (f *flight) read(handle string, off int64, p []byte) *call {
	c := f.add(readFrame(handle, off, len(p)))
	c.read, c.want, c.dest = true, len(p), p
	return c
}

// send queues the flight. If the mux is dead every call has its answer at once.
func (f *flight) send(l lane) {
	f.lane = l
	f.m.mu.Lock()
	if !f.m.enqueue(f) {
		f.m.mu.Unlock()
		f.fail(&fault{err: f.m.failure})
		return
	}
	f.m.queues[l] = append(f.m.queues[l], f)
	f.m.wake.Signal()
	f.m.mu.Unlock()
}

// sendLazily queues the flight to leave with the next one, or by itself a little later. Nobody waits for its answers.
func (f *flight) sendLazily() {
	m := f.m
	for _, c := range f.calls {
		c.gone = true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.enqueue(f) {
		return
	}
	m.lazy = append(m.lazy, f)
	if m.timer == nil {
		m.timer = time.AfterFunc(lazyDelay, m.wakeLazy)
	} else if len(m.lazy) == 1 {
		m.timer.Reset(lazyDelay)
	}
}

func (m *mux) wakeLazy() {
	m.mu.Lock()
	m.flush = true
	m.wake.Signal()
	m.mu.Unlock()
}

// enqueue gives every request its id; false if the mux is dead. Callers hold mu.
func (m *mux) enqueue(f *flight) bool {
	if m.failure != nil {
		return false
	}
	for _, c := range f.calls {
		if c.lib {
			m.libCalls[c.id] = c
			continue
		}
		for {
			m.next++
			c.id = m.next | ours
			if _, taken := m.calls[c.id]; !taken {
				break
			}
		}
		c.frame.seal(c.id)
		m.calls[c.id] = c
	}
	return true
}

// fail answers every call that has no answer yet.
func (f *flight) fail(err *fault) {
	for _, c := range f.calls {
		c.finish(reply{err: err})
	}
}

// wait returns when all calls are answered or ctx has ended; the answers are then in the calls.
func (f *flight) wait(ctx context.Context) {
	for _, c := range f.calls {
		c.wait(ctx)
	}
}

// wait returns the answer. When ctx ends first, the answer is a fault and what the server may still say is left to late.
func (c *call) wait(ctx context.Context) reply {
	select {
	case <-c.done:
		return c.reply
	default:
	}
	select {
	case <-c.done:
		return c.reply
	case <-ctx.Done():
		return c.leave(ctx)
	}
}

// leave gives up waiting. A flight that has not left yet never will.
func (c *call) leave(ctx context.Context) reply {
	m, err := c.flight.m, context.Cause(ctx)
	m.mu.Lock()
	queued := !c.flight.left
	if queued {
		c.flight.left = true
		for _, other := range c.flight.calls {
			delete(m.calls, other.id)
		}
	}
	m.mu.Unlock()
	if queued {
		c.flight.fail(&fault{err: err})
	}
	c.abandon(&fault{sent: true, err: err})
	return c.reply
}

// abandon answers whoever waits with err and leaves what the server may still say to late.
func (c *call) abandon(err *fault) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.gone && !c.answered {
		c.gone, c.dest, c.reply = true, nil, reply{err: err}
		close(c.done)
	}
}

// finish hands the answer to whoever waits, or to late. Who waits finds what over has noted.
func (c *call) finish(r reply) {
	c.mu.Lock()
	if c.answered {
		c.mu.Unlock()
		return
	}
	c.answered, c.dest = true, nil
	if c.over != nil {
		c.over(r)
	}
	if !c.gone {
		c.reply = r
		close(c.done)
	}
	late := c.gone && c.late != nil && r.err == nil
	c.mu.Unlock()
	if late {
		c.late(r)
	}
}

// written takes the frame back that has been written, unless somebody keeps it.
func (c *call) written(f frame) {
	if c.kept == nil || c.kept.Add(-1) == 0 {
		recycle(f)
	}
}

// fill copies b, which arrived at offset at of the reply, to where the caller wants it, if he still does.
func (c *call) fill(at int, b []byte) {
	c.mu.Lock()
	if at < len(c.dest) {
		copy(c.dest[at:], b)
	}
	c.mu.Unlock()
}

// write is the goroutine that alone writes to the channel.
func (m *mux) write() {
	var scratch []byte
	for {
		flights := m.nextFlights()
		if flights == nil {
			return
		}
		scratch = scratch[:0]
		var err error
		for _, f := range flights {
			for _, c := range f.calls {
				m.watch.Expect(&c.ticket)
				if scratch, err = m.put(scratch, c); err != nil {
					m.fail(err)
					return
				}
			}
		}
		if err := m.push(scratch); err != nil {
			m.fail(err)
			return
		}
		if m.sent == nil {
			continue
		}
		end := m.sent()
		for _, f := range flights {
			for _, c := range f.calls {
				m.watch.Sent(&c.ticket, end)
			}
		}
	}
}

// put appends a small frame to scratch, or writes scratch and then a large one.
func (m *mux) put(scratch []byte, c *call) ([]byte, error) {
	f := c.frame
	c.frame = nil
	if m.trace != nil && !c.content {
		m.trace.Add(trace.Sent, f.said())
	}
	if len(scratch)+len(f) <= coalesce {
		scratch = append(scratch, f...)
		c.written(f)
		return scratch, nil
	}
	if err := m.push(scratch); err != nil {
		return scratch[:0], err
	}
	if len(f) <= coalesce {
		scratch = append(scratch[:0], f...)
		c.written(f)
		return scratch, nil
	}
	err := m.push(f)
	c.written(f)
	return scratch[:0], err
}

func (m *mux) push(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	_, err := m.rw.Write(b)
	return err
}

// nextFlights waits for work: everything lazy, everything urgent and one flight of the bulk; nil when the mux is dead.
func (m *mux) nextFlights() []*flight {
	m.mu.Lock()
	defer m.mu.Unlock()
	for {
		if m.failure != nil {
			return nil
		}
		if m.flush || len(m.queues[urgent]) > 0 || len(m.queues[bulk]) > 0 {
			break
		}
		m.wake.Wait()
	}
	due := append(m.lazy, m.queues[urgent]...)
	m.lazy, m.flush, m.queues[urgent] = nil, false, nil
	if len(m.queues[bulk]) > 0 {
		due = append(due, m.queues[bulk][0])
		m.queues[bulk] = m.queues[bulk][1:]
	}
	kept := due[:0]
	for _, f := range due {
		if !f.left {
			f.left = true
			kept = append(kept, f)
		}
	}
	if kept == nil {
		kept = []*flight{}
	}
	return kept
}

// read is the goroutine that alone reads from the channel.
func (m *mux) read(r *bufio.Reader) {
	for {
		if err := m.readOne(r); err != nil {
			m.fail(err)
			return
		}
	}
}

func (m *mux) readOne(r *bufio.Reader) error {
	var head [packetHeader]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	n, kind, id := binary.BigEndian.Uint32(head[:]), head[4], binary.BigEndian.Uint32(head[5:])
	if n < packetHeader-4 || n > maxPacket {
		return fmt.Errorf("%w: a packet of %d bytes", errMalformed, n)
	}
	size := int(n) - (packetHeader - 4)
	if id&ours == 0 {
		return m.readForeign(r, id, head[:], size)
	}
	m.mu.Lock()
	c := m.calls[id]
	delete(m.calls, id)
	m.mu.Unlock()
	if c == nil {
		return fmt.Errorf("%w: it answers no request", errMalformed)
	}
	answer, err := m.readReply(r, c, kind, size)
	m.watch.Done(&c.ticket)
	if m.trace != nil && err == nil && !(c.content && answer.plain()) {
		m.trace.Add(trace.Got, answer.said(id))
	}
	if err != nil {
		err = hungUp(err)
		c.finish(reply{err: &fault{sent: true, err: err}})
		return err
	}
	c.finish(answer)
	return nil
}

// readReply reads the size bytes of an answer: content of a file to its place, piece by piece as it comes, so that a
// caller who leaves need not wait for the rest; anything else to memory of its own.
func (m *mux) readReply(r *bufio.Reader, c *call, kind byte, size int) (reply, error) {
	if kind != typeData || !c.read {
		body := make([]byte, size)
		for at := 0; at < size; {
			n, err := io.ReadFull(r, body[at:min(size, at+readBuffer)])
			if err != nil {
				return reply{}, err
			}
			m.watch.Progress(&c.ticket, n)
			at += n
		}
		return reply{kind: kind, body: body}, nil
	}
	var length [4]byte
	if size < len(length) {
		return reply{}, errMalformed
	}
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return reply{}, err
	}
	n := int(binary.BigEndian.Uint32(length[:]))
	if n > size-len(length) {
		return reply{}, errMalformed
	}
	for at := 0; at < size-len(length); {
		if _, err := r.Peek(1); err != nil { // waits for more
			return reply{}, err
		}
		b, err := r.Peek(min(r.Buffered(), size-len(length)-at))
		if err != nil {
			return reply{}, err
		}
		if at < n {
			c.fill(at, b[:min(len(b), n-at)])
		}
		m.watch.Progress(&c.ticket, len(b))
		at += len(b)
		if _, err := r.Discard(len(b)); err != nil {
			return reply{}, err
		}
	}
	if n > c.want {
		return reply{}, fmt.Errorf("%w: %d bytes in place of %d", errMalformed, n, c.want)
	}
	return reply{kind: typeData, n: n}, nil
}

// stalled is the watch's: nothing has come of the oldest request for a whole timeout. If younger ones were answered
// the server is alive and only this one is given up, else all are.
func (m *mux) stalled(oldest *netconn.Ticket, overtaken bool) {
	c, ok := oldest.Owner.(*call)
	if !overtaken || !ok || c.lib {
		m.fail(netconn.ErrSilent)
		return
	}
	c.abandon(&fault{sent: true, err: netconn.ErrSilent})
}

// errHungUp is a session that the server has ended.
var errHungUp = errors.New("the server closed the session")

// hungUp returns errHungUp for the end of the stream, which comes as an io.EOF wherever a packet breaks off. Nobody
// above may take that for the end of a file.
func hungUp(err error) error {
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errHungUp
	}
	return err
}

// fail ends the mux: every call is answered with why. Calls whose flight had not left are known not to have been sent.
func (m *mux) fail(why error) {
	m.mu.Lock()
	if m.failure != nil {
		m.mu.Unlock()
		return
	}
	why = hungUp(why)
	m.failure = why
	calls, lib := m.calls, m.lib
	m.calls, m.libCalls, m.queues, m.lazy = nil, nil, [2][]*flight{}, nil
	if m.timer != nil {
		m.timer.Stop()
	}
	m.wake.Broadcast()
	m.mu.Unlock()

	m.watch.Stop()
	close(m.gone)
	m.onFail(why)
	for _, c := range calls {
		m.mu.Lock()
		sent := c.flight.left
		m.mu.Unlock()
		c.finish(reply{err: &fault{sent: sent, err: why}})
	}
	if lib != nil {
		lib.hangUp(why)
	}
}

// load is how much content is on order or on its way.
func (m *mux) load() int64 { return m.reads.taken.Load() + m.writes.taken.Load() }

// dead reports whether the mux has ended.
func (m *mux) dead() bool {
	select {
	case <-m.gone:
		return true
	default:
		return false
	}
}

// end closes what lies under a dead mux, whose connection may live on, and waits for its goroutines.
func (m *mux) end() {
	m.rw.Close() // there is nobody left who could make something of an error
	m.workers.Wait()
}

// close ends the mux from this side and waits for its goroutines.
func (m *mux) close(why error) {
	m.fail(why)
	m.workers.Wait()
}
