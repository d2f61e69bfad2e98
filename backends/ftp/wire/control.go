package wire

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"pierfs/backends/trace"
)

// window is how many commands may be without an answer. Servers lose replies to longer bursts (proftpd 1.3.8 over TLS:
// 157 of 256).
const window = 100

// patience is how long a transfer that was given up may take to get out of the way.
const patience = 2 * time.Second

// exchange is one command and what the server answers to it. Its fields below done are the reader's until done is closed.
type exchange struct {
	command  string
	began    chan struct{} // closed by the first reply, preliminary or not; nil where nobody waits for it
	agreed   bool          // that was a preliminary one; set before began is closed
	again    chan struct{} // closed by a second preliminary one; nil where nobody waits for it
	done     chan struct{} // closed by the final one
	number   string        // that the reply must repeat, else nothing of the session is believed any more; "" where it need not
	spoilt   error         // what was wrong with the reply, where that ended the session; set before Session.dead is closed
	givenUp  bool          // a transfer whose final reply may never come; guarded by Session.mu
	early    int
	reply    Reply
	answered func() // called by the reader before done is closed; may be nil
}

func newExchange(command string) *exchange {
	return &exchange{command: command, done: make(chan struct{})}
}

func newExchanges(commands []string) []*exchange {
	list := make([]*exchange, len(commands))
	for i, command := range commands {
		list[i] = newExchange(command)
	}
	return list
}

func (x *exchange) ended() bool {
	select {
	case <-x.done:
		return true
	default:
		return false
	}
}

// Do sends the commands in one write (in several if there are more than a hundred) and returns their final replies in
// order. A refusal is a Reply and no error.
//
// The error is a *backends.Error: Transient if the server cannot have taken any command, Lost else; Final (EINVAL) for a
// command with CR, LF or NUL in it (but see Features.LineEnds), and then nothing was sent. A 421 in place of a reply is Lost: it may
// have left before the command came, which some servers do all the same. What was answered before an error is returned with it.
func (s *Session) Do(ctx context.Context, commands ...string) ([]Reply, error) {
	for _, command := range commands {
		if err := s.checkCommand(command); err != nil {
			return nil, err
		}
	}
	if err := s.enter(ctx, "command"); err != nil {
		return nil, err
	}
	replies := make([]Reply, 0, len(commands))
	for batch := range slices.Chunk(commands, window) {
		list := newExchanges(batch)
		sent, err := s.send(ctx, list)
		if err != nil {
			return replies, lost("command", sent || len(replies) > 0, err)
		}
		for _, x := range list {
			if err := s.wait(ctx, x.done); err != nil {
				return replies, lost("command", true, err)
			}
			if x.reply.Code == 421 {
				return replies, lost("command", true, s.spoil(&hangUp{x.reply}))
			}
			replies = append(replies, x.reply)
		}
	}
	return replies, nil
}

// ask is Do for one command of our own, beside whatever else is asked.
func (s *Session) ask(ctx context.Context, command string) (Reply, error) {
	x := newExchange(command)
	sent, err := s.send(ctx, []*exchange{x})
	if err == nil {
		err = s.wait(ctx, x.done)
	}
	if err == nil && x.reply.Code == 421 {
		err = s.spoil(&hangUp{x.reply})
	}
	if err != nil {
		return Reply{}, lost("command", sent, err)
	}
	return x.reply, nil
}

// send queues the exchanges and writes their commands at once. Where nothing is awaited nothing may have come: a reply
// that is there before its command belongs to another one. sent is false if nothing can have reached the server.
func (s *Session) send(ctx context.Context, list []*exchange) (sent bool, err error) {
	var b bytes.Buffer
	for _, x := range list {
		s.o.trace.Add(trace.Sent, shown(x.command))
		b.WriteString(x.command)
		b.WriteString("\r\n")
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := s.queued(list); err != nil {
		return false, err
	}
	release := s.conn.Bind(ctx)
	before := s.conn.Written()
	_, err = s.line.Write(b.Bytes())
	if !release() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return s.conn.Written() > before, s.spoil(err)
	}
	return true, nil
}

func (s *Session) queued(list []*exchange) error {
	s.mu.Lock()
	idle := len(s.queue) == 0
	if s.cause != nil {
		defer s.mu.Unlock()
		return s.cause
	}
	if !idle || s.tls != nil { // TLS has records of its own; only the reader can tell
		s.queue = append(s.queue, list...)
		s.mu.Unlock()
		return nil
	}
	s.mu.Unlock()
	if n, err := s.conn.Pending(); n > 0 && err == nil {
		return s.spoil(errStray)
	}
	s.mu.Lock()
	s.queue = append(s.queue, list...)
	s.mu.Unlock()
	return nil
}

// wait returns when c is closed. An error means that the session is dead.
func (s *Session) wait(ctx context.Context, c <-chan struct{}) error {
	select {
	case <-c: // also when something else has happened since
		return nil
	default:
	}
	defer s.conn.Expect()()
	select {
	case <-c:
		return nil
	case <-ctx.Done():
		return s.spoil(context.Cause(ctx))
	case <-s.dead:
	}
	select {
	case <-c:
		return nil
	default:
		return s.why()
	}
}

// listen reads replies until the session ends.
func (s *Session) listen() {
	for {
		if _, err := s.replies.Peek(1); err != nil {
			s.kill(err)
			return
		}
		reply, err := readReply(s.replies, s.listing())
		if err == nil {
			err = s.take(reply)
		}
		if err != nil {
			s.blame(err)
			s.kill(err)
			return
		}
	}
}

// blame notes that the session ends with what came in place of the next reply.
func (s *Session) blame(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) > 0 {
		s.queue[0].spoilt = err
	}
}

// listing reports whether the reply that comes next may carry a listing.
func (s *Session) listing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.queue) > 0 && strings.HasPrefix(s.queue[0].command, "STAT ")
}

// take gives a reply to whom it belongs.
func (s *Session) take(reply Reply) error {
	s.o.trace.Add(trace.Got, reply.said())
	s.mu.Lock()
	s.heard = time.Now()
	x, err := s.match(reply)
	s.mu.Unlock()
	if x != nil {
		x.reply = reply
		if x.answered != nil {
			x.answered()
		}
		close(x.done)
		if x.began != nil && x.early == 0 {
			close(x.began)
		}
	}
	if err == nil && reply.Code == 421 {
		err = &hangUp{reply}
	}
	return err
}

// match returns the exchange that reply ends, if any, and takes it from the queue. Callers hold mu.
func (s *Session) match(reply Reply) (*exchange, error) {
	switch {
	case len(s.queue) == 0 && reply.Code == 421:
		return nil, nil
	case len(s.queue) == 0:
		return nil, fmt.Errorf("%w: %.200q", errStray, reply.text())
	}
	x := s.queue[0]
	if reply.early() {
		if x.early++; x.early > maxEarly {
			return nil, ErrTooLong
		}
		if x.early == 1 && x.began != nil {
			x.agreed = true
			close(x.began)
		}
		if x.early == 2 && x.again != nil {
			close(x.again)
		}
		return nil, nil
	}
	// A transfer that was given up: 257 answers the PWD behind it alone, and may come first (pyftpdlib 1.5.7, proftpd 1.3.8).
	if x.givenUp && reply.Code == 257 && len(s.queue) > 1 && s.queue[1].command == "PWD" {
		if s.features.mute {
			close(x.done)
			s.queue = s.queue[1:]
		}
		pwd := slices.IndexFunc(s.queue, func(x *exchange) bool { return x.command == "PWD" })
		x = s.queue[pwd]
		s.queue = slices.Delete(s.queue, pwd, pwd+1)
		return x, nil
	}
	if len(s.queue) == 1 && s.replies.Buffered() > 0 && !s.goodbye() {
		return nil, fmt.Errorf("%w, behind %.200q", errStray, reply.text())
	}
	if err := misfit(x.command, reply); err != nil && reply.Code != 421 {
		return nil, err
	}
	if x.number != "" && !(reply.Code == 350 && strings.Contains(reply.text(), x.number)) {
		return nil, fmt.Errorf("%w: %.200q", errNoEcho, reply.text())
	}
	s.queue = s.queue[1:]
	return x, nil
}

// goodbye reports whether what was read ahead may be a 421, which may follow anything.
func (s *Session) goodbye() bool {
	next, err := s.replies.Peek(min(3, s.replies.Buffered()))
	return err == nil && bytes.HasPrefix([]byte("421"), next)
}

// errNoSettling is a server that did not come back into step.
var errNoSettling = errors.New("the server did not end the transfer that was given up")

// settle brings the session back into step after a transfer that was given up, in the background. The server is left to
// end it first. Then comes PWD, the one command whose good reply (257) can be nothing else's.
func (s *Session) settle(t *transfer) {
	t.data.givenUp.Store(true)
	if !t.data.shaking() && !s.aborts(t) {
		t.data.abandon(context.Background())
	}
	s.mu.Lock()
	s.current = nil
	t.main.givenUp = true
	if s.cause != nil || len(s.queue) == 0 { // nothing to wait for
		s.mu.Unlock()
		t.data.kill(errCanceled)
		return
	}
	settled := make(chan struct{})
	s.settling = settled
	s.mu.Unlock()
	back := func() {
		defer close(settled)
		s.resync(t)
		s.mu.Lock()
		s.settling = nil
		s.mu.Unlock()
	}
	if !s.spawn(back) {
		t.data.kill(errCanceled)
		close(settled)
	}
}

// aborts reports whether t is given up by ABOR, and not by a closed data connection: proftpd 1.3.8 ends the whole session
// when TLS breaks below a download.
func (s *Session) aborts(t *transfer) bool {
	return s.tls != nil && !t.upload && s.Features().fragile
}

func (s *Session) resync(t *transfer) {
	ctx, cancel := context.WithTimeoutCause(context.Background(), patience, errNoSettling)
	defer cancel()
	if s.aborts(t) {
		abor := newExchange("ABOR")
		if _, err := s.send(ctx, []*exchange{abor}); err != nil {
			return
		}
		t.data.dump(ctx)
		if s.wait(ctx, abor.done) != nil {
			return
		}
	}
	t.data.abandon(ctx)
	first := patience / 2
	if s.Features().mute {
		first = patience / 8
	}
	nudge := time.NewTimer(first)
	defer nudge.Stop()
	select {
	case <-t.main.done:
	case <-t.main.again:
	case <-nudge.C:
	case <-s.dead:
		return
	}
	reply, err := s.ask(ctx, "PWD")
	if err == nil && reply.Code != 257 {
		s.kill(&Refusal{Command: "PWD", Reply: reply})
	}
	s.wait(ctx, t.main.done) // an error has killed the session
}
