package wire

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// transfer is one command with a data connection, and what is sent with it.
type transfer struct {
	s      *Session
	ctx    context.Context // of the opening
	data   *data
	ahead  bool // the data connection was opened before it was needed
	upload bool
	eager  bool // content may leave before the server has agreed to take it

	before []*exchange // sent in front of it
	rest   *exchange   // nil without an offset
	main   *exchange
	behind []*exchange // sent with it
	next   *exchange   // that asks for the port of the next data connection, sent last; nil where it is asked for afterwards
	later  []string    // to be sent after it

	err      error         // why it did not open
	over     atomic.Bool   // End or Cancel was called
	ending   atomic.Bool   // all content has been written
	tooEarly atomic.Bool   // the server called an upload complete before it was
	gone     chan struct{} // closed by Cancel
	leaving  sync.Mutex    // held by Cancel
}

var (
	errNotTaken = errors.New("the server does not take the content")
	errTooEarly = errors.New("the server answered before the content had ended")
	errNotAtEnd = errors.New("more content is there than was read")
	errNoReply  = errors.New("the library and the server disagree on how the transfer ended")
)

// stage prepares a transfer: everything but the command.
func (s *Session) stage(ctx context.Context, command string, off int64, upload bool) (*transfer, error) {
	c, ahead, err := s.channel(ctx)
	if err != nil {
		return nil, err
	}
	t := &transfer{s: s, ctx: ctx, ahead: ahead, upload: upload, main: newExchange(command), gone: make(chan struct{})}
	t.main.began, t.main.again = make(chan struct{}), make(chan struct{})
	t.main.answered = t.answer
	if off > 0 {
		t.rest = newExchange(fmt.Sprintf("REST %d", off))
	}
	t.data = newData(s, c, upload, t.main)
	t.before = newExchanges(s.prepended)
	s.mu.Lock()
	why := s.cause
	if why == nil {
		s.current = t
	}
	s.mu.Unlock()
	if why != nil {
		c.close(why)
		return nil, lost("data", false, why)
	}
	return t, nil
}

// answer is called when the final reply has come. An upload that is refused, or that has not ended then, needs its data
// connection no more, whatever it waits for there.
func (t *transfer) answer() {
	switch {
	case !t.upload:
	case !t.main.reply.good():
		t.data.kill(errNotTaken)
	case !t.ending.Load():
		t.tooEarly.Store(true)
		t.data.kill(errTooEarly)
	}
}

func (t *transfer) answered() bool { return t.main.ended() }

// begin sends the command and what goes with it.
func (t *transfer) begin() error {
	list := slices.Clone(t.before)
	if t.rest != nil {
		list = append(list, t.rest)
	}
	list = append(append(list, t.main), t.behind...)
	if t.s.AsksAhead() {
		t.next = newExchange("EPSV")
		list = append(list, t.next)
	}
	sent, err := t.s.send(t.ctx, list)
	if err != nil {
		t.data.never(err)
		return t.failed(lost("transfer", sent && t.upload, err))
	}
	t.s.mu.Lock()
	t.s.next = t.next
	t.s.mu.Unlock()
	t.data.start()
	return nil
}

// AsksAhead reports whether the port of the next data connection is asked for behind a transfer, which spares the next one a
// round trip. The server must not look at a command before the transfer has ended, and EPSV be known to work.
func (s *Session) AsksAhead() bool {
	f := s.Features()
	return f.unhurried && !f.PASV && !s.o.Active
}

// opened waits until the server has begun with the transfer, or refused it.
func (t *transfer) opened(ctx context.Context) error {
	for _, x := range t.before {
		if err := t.s.wait(ctx, x.done); err != nil {
			return lost("transfer", t.upload, err)
		}
	}
	if t.rest != nil {
		if err := t.s.wait(ctx, t.rest.done); err != nil {
			return lost("transfer", t.upload, err)
		}
		if t.rest.reply.Code/100 != 3 { // what follows would come from the beginning
			t.s.settle(t)
			return t.refusal(t.rest)
		}
	}
	if err := t.s.wait(ctx, t.main.began); err != nil {
		return lost("transfer", t.upload, err)
	}
	switch {
	case t.main.agreed: // what comes after that is for End
		return nil
	case t.main.reply.good():
		return nil
	case t.main.reply.Code == 421:
		return lost("transfer", t.upload, &hangUp{t.main.reply}) // which may have crossed the command
	}
	return t.refusal(t.main)
}

// refusal is the reply to x as an error.
func (t *transfer) refusal(x *exchange) error {
	r := &Refusal{Command: x.command, Reply: x.reply, Before: t.asked()}
	if (r.Reply.Code == 425 || r.Reply.Code == 522) && t.s.tls != nil && t.s.tls.sessions.empty() {
		r.Hint = "the server may want data connections to resume the TLS session, and gives no ticket to do so with: have its operator give tickets (proftpd: TLSSessionTickets on) or allow TLS 1.3"
	}
	return r
}

// asked returns the replies to the commands in front.
func (t *transfer) asked() (list []Reply) {
	for _, x := range t.before {
		if x.ended() {
			list = append(list, x.reply)
		}
	}
	return list
}

// failed ends a transfer that has not opened.
func (t *transfer) failed(err error) error {
	t.err = err
	if !t.data.givenUp.Load() {
		t.data.kill(errCanceled)
	}
	t.s.finish(t)
	return err
}

// stale reports whether a transfer was refused because the server no longer has its end of a data connection that was
// opened ahead; a new one may do.
func (t *transfer) stale() bool {
	return t.ahead && t.main.ended() && t.main.reply.Code == 425 && t.s.Healthy()
}

// final waits for the final reply.
func (t *transfer) final(ctx context.Context) (Reply, error) {
	select {
	case <-t.gone:
		return Reply{}, errCanceled
	default:
	}
	if err := t.s.wait(ctx, t.main.done); err != nil {
		return Reply{}, err
	}
	if t.main.reply.Code == 421 {
		return t.main.reply, &hangUp{t.main.reply}
	}
	return t.main.reply, nil
}

// finish makes room for the next transfer.
func (s *Session) finish(t *transfer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == t {
		s.current = nil
	}
}

// Read and Close make a transfer the body of a Download that the library has no part in.
func (t *transfer) Read(p []byte) (int, error) { return t.data.Read(p) }
func (t *transfer) Close() error               { return t.data.Close() }

// Download is content, or a listing, on its way to us. It is used by one goroutine at a time, but Cancel may come from
// any. End or Cancel ends it.
type Download struct {
	t    *transfer
	body io.ReadCloser
}

// Retrieve opens path for reading from off on. A refusal is a *Refusal. ctx is for the opening only.
func (s *Session) Retrieve(ctx context.Context, path string, off int64) (*Download, error) {
	return s.download(ctx, "RETR "+path, off, (*transfer).viaLibrary)
}

// List has a listing sent: "MLSD /a", "LIST -a /a". A refusal is a *Refusal. The library has no part in it: it keeps no
// line as it came, and drops those that it does not understand.
func (s *Session) List(ctx context.Context, command string) (*Download, error) {
	return s.download(ctx, command, 0, func(t *transfer) (io.ReadCloser, error) {
		if err := t.begin(); err != nil {
			return nil, err
		}
		if err := t.opened(t.ctx); err != nil {
			return nil, t.failed(err)
		}
		return t, nil
	})
}

// Prepend has commands sent with the next Retrieve, List or Store, in the same write and in front of it. Their replies are
// told by Before, of the transfer or of the Refusal to open it.
func (s *Session) Prepend(commands ...string) { s.prepended = append(s.prepended, commands...) }

func (s *Session) download(ctx context.Context, command string, off int64, open func(*transfer) (io.ReadCloser, error)) (*Download, error) {
	for _, c := range append([]string{command}, s.prepended...) {
		if err := s.checkCommand(c); err != nil {
			return nil, err
		}
	}
	if err := s.enter(ctx, "transfer"); err != nil {
		return nil, err
	}
	defer func() { s.prepended = nil }()
	for {
		t, err := s.stage(ctx, command, off, false)
		if err != nil {
			return nil, err
		}
		body, err := open(t)
		if err == nil {
			return &Download{t, body}, nil
		}
		if !t.stale() {
			return nil, err
		}
	}
}

// Read returns io.EOF when the data connection has ended. That says nothing of completeness.
func (d *Download) Read(p []byte) (int, error) {
	n, err := d.body.Read(p)
	if err != nil && err != io.EOF {
		err = lost("transfer", false, err)
	}
	return n, err
}

// End waits for the final reply after all has been read. A *Refusal (426, 451, 552 ...) means that what came was not all;
// so does any other error.
func (d *Download) End(ctx context.Context) (Reply, error) {
	t := d.t
	stop := context.AfterFunc(ctx, func() { t.s.kill(context.Cause(ctx)) })
	defer stop()
	if !d.atEnd() {
		d.Cancel()
		return Reply{}, refuse("transfer", syscall.EINVAL, errNotAtEnd)
	}
	if t.over.Swap(true) {
		return Reply{}, refuse("transfer", syscall.EINVAL, errCanceled)
	}
	defer t.s.finish(t)
	said := guarded(d.body.Close)
	reply, err := t.final(ctx)
	switch {
	case err != nil:
		return reply, lost("transfer", false, err)
	case !reply.good():
		return reply, t.refusal(t.main)
	case t.data.trouble() != nil:
		return reply, lost("transfer", false, fmt.Errorf("the server says %q, but the data connection broke: %w", reply.text(), t.data.trouble()))
	case said != nil:
		return reply, lost("transfer", false, t.s.spoil(fmt.Errorf("%w: %w", errNoReply, said)))
	}
	return reply, nil
}

// atEnd reports whether there is nothing more to read, for whatever reason.
func (d *Download) atEnd() bool {
	var one [1]byte
	for !d.t.data.atEnd() {
		if n, _ := d.body.Read(one[:]); n > 0 {
			return false
		}
	}
	return true
}

// Before returns the replies to the commands of Prepend.
func (d *Download) Before() []Reply { return d.t.asked() }

// Unsealed reports, after io.EOF, whether a data connection with TLS ended without TLS's word for it. Who sits between
// could have cut it there; some servers just do not say it.
func (d *Download) Unsealed() bool { return d.t.data.unsealed() }

// Cancel gives up early; a Read under way ends. The session is brought back into step in the background, or spoiled.
func (d *Download) Cancel() { d.t.leave() }

// leave gives the transfer up, and reports whether nobody had before. When it returns the session waits for the end of the transfer,
// whoever came first: its content may have ended by the other's doing, and who sees that gives the session to the next.
func (t *transfer) leave() bool {
	t.leaving.Lock()
	defer t.leaving.Unlock()
	if t.over.Swap(true) {
		return false
	}
	close(t.gone)
	t.s.settle(t)
	return true
}

// Upload is content on its way to the server. It is used by one goroutine at a time, but Cancel may come from any. End or
// Cancel ends it.
type Upload struct {
	t    *transfer
	loan *loan
	sent int64
	open bool // the server has agreed
}

// eager is how much content may leave before the server has agreed to take it.
const eager = 64 << 10

// Store opens a file for writing by command: "STOR /a", "APPE /a". A Sequential server is not waited for, which
// would cost a round trip: its refusal comes out of Write or End. Others (pyftpdlib) lose content that comes before they
// have agreed. ctx is for the opening only. A refusal is a *Refusal.
// behind are commands that the server is to run when the transfer has ended well or not; a Sequential server gets them in
// the same write, any other after a good final reply. So does pure-ftpd: what comes there a moment later than the STOR, in a packet of its own,
// is answered while the transfer is under way, by a 500 that would be taken for the end of it.
func (s *Session) Store(ctx context.Context, command string, behind ...string) (*Upload, error) {
	for _, c := range slices.Concat([]string{command}, behind, s.prepended) {
		if err := s.checkCommand(c); err != nil {
			return nil, err
		}
	}
	verb, _, _ := strings.Cut(command, " ")
	if verb != "STOR" && verb != "APPE" {
		return nil, refuse("transfer", syscall.EINVAL, fmt.Errorf("%q is no upload", command))
	}
	if err := s.enter(ctx, "transfer"); err != nil {
		return nil, err
	}
	defer func() { s.prepended = nil }()
	for {
		t, err := s.stage(ctx, command, 0, true)
		if err != nil {
			return nil, err
		}
		t.eager = s.Features().Sequential && s.Idle() < hot
		if f := s.Features(); f.Sequential && !f.mute {
			t.behind = newExchanges(behind)
		} else {
			t.later = behind
		}
		l, err := t.lend(verb)
		if err == nil {
			return &Upload{t: t, loan: l, open: !t.eager}, nil
		}
		if !t.stale() {
			return nil, err
		}
	}
}

// hot is how long a session is taken for alive without a word of the server. One that has been silent for longer is asked for
// its consent first, when another session can still take its place.
const hot = 5 * time.Second

// agreed returns when n more bytes may be written.
func (u *Upload) agreed(n int64) error {
	t := u.t
	if u.open || t.eager && t.s.tls == nil && u.sent+n <= eager && !t.main.ended() {
		return nil
	}
	err := t.opened(context.Background()) // bounded by the session's timeout
	u.open = err == nil
	return err
}

// Before returns the replies to the commands of Prepend.
func (u *Upload) Before() []Reply { return u.t.asked() }

// Unheard reports, after End, whether the server has reset the data connection when all had been written: one that has read
// everything closes it. Whoever connects to a passive port before us is taken for us, and what the server has is then his.
// Over TLS he is not taken for anybody.
func (u *Upload) Unheard() bool { return u.t.data.unheard.Load() }

// Write sends content. After an error End tells what the server says.
func (u *Upload) Write(p []byte) (int, error) {
	if err := u.agreed(int64(len(p))); err != nil {
		return 0, err
	}
	n, err := u.t.data.Write(p)
	u.sent += int64(n)
	if err != nil {
		err = lost("transfer", true, err)
	}
	return n, err
}

// ReadFrom sends what r has; a file goes to a plain connection without being copied.
func (u *Upload) ReadFrom(r io.Reader) (int64, error) {
	n := int64(0)
	if !u.open { // what is small needs no consent
		var first bytes.Buffer
		if _, err := io.CopyN(&first, r, eager); err != nil && err != io.EOF {
			return 0, err
		}
		done, err := u.Write(first.Bytes())
		if n = int64(done); err != nil || n < eager {
			return n, err
		}
	}
	if err := u.agreed(eager); err != nil {
		return n, err
	}
	more, err := u.t.data.ReadFrom(r)
	u.sent += more
	n += more
	if err != nil {
		err = lost("transfer", true, err)
	}
	return n, err
}

// End says that this was all, shuts the data connection down in order, and returns the final reply and those to the
// commands behind. A *Refusal means that the server has not taken it for good; Lost, that nobody knows.
func (u *Upload) End(ctx context.Context) (Reply, []Reply, error) {
	t := u.t
	if t.over.Swap(true) {
		return Reply{}, nil, refuse("transfer", syscall.EINVAL, errCanceled)
	}
	defer t.s.finish(t)
	stop := context.AfterFunc(ctx, func() { t.s.kill(context.Cause(ctx)) })
	defer stop()
	t.ending.Store(true)
	said := u.loan.end()
	reply, err := t.final(ctx)
	if err != nil {
		return reply, nil, lost("transfer", true, err)
	}
	answers, err := t.answers(ctx, reply)
	switch {
	case !reply.good():
		return reply, answers, t.refusal(t.main)
	case t.tooEarly.Load():
		return reply, answers, lost("transfer", true, fmt.Errorf("%w: %q", errTooEarly, reply.text()))
	case t.data.trouble() != nil:
		return reply, answers, lost("transfer", true, fmt.Errorf("the server says %q, but the data connection broke: %w", reply.text(), t.data.trouble()))
	case said != nil:
		return reply, answers, lost("transfer", true, t.s.spoil(fmt.Errorf("%w: %w", errNoReply, said)))
	}
	return reply, answers, err
}

// answers returns the replies to the commands behind an upload that ended with reply.
func (t *transfer) answers(ctx context.Context, reply Reply) (list []Reply, err error) {
	if len(t.later) > 0 && reply.good() {
		t.s.finish(t)
		return t.s.Do(ctx, t.later...)
	}
	for _, x := range t.behind {
		if err := t.s.wait(ctx, x.done); err != nil {
			return list, lost("command", true, err)
		}
		list = append(list, x.reply)
	}
	return list, nil
}

// Cancel gives up; a Write under way ends. The session is brought back into step in the background, or spoiled. The server
// may take what came for the whole: the name should be a temporary one.
func (u *Upload) Cancel() {
	if u.t.leave() {
		u.loan.end()
	}
}
