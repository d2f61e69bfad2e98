package wire

import (
	"bufio"
	"context"
	"net"
	"sync"
	"syscall"
	"time"

	"pierfs/backends/netconn"
)

// Session is one logged-in control connection.
type Session struct {
	o        Options
	conn     *netconn.Conn
	tap      *tap     // on conn
	line     net.Conn // tap, or TLS on conn
	replies  *bufio.Reader
	tls      *security // nil in the clear
	dataHost string    // where passive data connections lead
	home     string

	writing sync.Mutex // held while commands are queued and written, so that both have the same order

	dead chan struct{}

	mu       sync.Mutex
	features Features
	cause    error       // why it is dead; set before dead is closed
	queue    []*exchange // whose replies have not come, in the order of their commands
	heard    time.Time   // when the last reply came
	spare    *spare      // the data connection opened ahead; nil if there is none
	next     *exchange   // an EPSV behind the login or the last transfer that nobody has used; nil if there is none
	current  *transfer
	settling chan struct{} // closed when a transfer that was given up is out of the way; nil if there is none
	closed   bool          // no more workers
	workers  sync.WaitGroup

	// What follows belongs to whoever uses the Session.
	library   *library
	prepended []string
}

// Features tells what the server offers. It may learn later that something does not work.
func (s *Session) Features() Features {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.features
}

// Home returns the login directory, as the server spells it; absolute.
func (s *Session) Home() string { return s.home }

// Healthy reports whether the Session may be used again. It never blocks, and knows of a server that has hung up.
func (s *Session) Healthy() bool {
	select {
	case <-s.dead:
		return false
	default:
		return true
	}
}

// Idle returns the time since the last reply.
func (s *Session) Idle() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Since(s.heard)
}

// Close says good-bye if nothing is under way, ends everything that hangs on the Session, and waits for its goroutines. It
// does not wait for the server.
func (s *Session) Close() error {
	s.leave()
	s.kill(errClosed)
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.workers.Wait()
	return nil
}

// leave sends QUIT, whose answer nobody reads.
func (s *Session) leave() {
	if !s.Healthy() || !s.writing.TryLock() {
		return
	}
	defer s.writing.Unlock()
	s.mu.Lock()
	idle := len(s.queue) == 0 && s.current == nil
	s.mu.Unlock()
	if idle {
		s.conn.SetWriteDeadline(time.Now().Add(time.Second)) // a socket that takes no 6 bytes has no one to tell
		s.line.Write([]byte("QUIT\r\n"))
	}
}

// kill ends the session at once; whoever waits for something gets why. Only the first cause counts.
func (s *Session) kill(why error) {
	s.mu.Lock()
	if s.cause != nil {
		s.mu.Unlock()
		return
	}
	s.cause = why
	spare, current := s.spare, s.current
	s.spare = nil
	s.mu.Unlock()
	close(s.dead)
	s.conn.Kill(why)
	if spare != nil {
		spare.drop(why)
	}
	if current != nil && !current.answered() {
		current.data.kill(why)
	}
	s.o.Logger.Debug("session ended", "server", s.o.Address, "err", why)
}

// spoil ends a session whose order is in doubt because of why, and returns why.
func (s *Session) spoil(why error) error {
	s.kill(why)
	return why
}

// spawn runs f in a goroutine that Close waits for. It reports whether it was in time.
func (s *Session) spawn(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.workers.Go(f)
	return true
}

// why returns what ended the session.
func (s *Session) why() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cause
}

// enter waits until the Session can take a command. Nothing has been sent when it fails.
func (s *Session) enter(ctx context.Context, op string) error {
	if err := ctx.Err(); err != nil {
		return lost(op, false, context.Cause(ctx))
	}
	s.mu.Lock()
	settling, busy := s.settling, s.current != nil
	s.mu.Unlock()
	if settling != nil {
		select {
		case <-settling:
		case <-ctx.Done():
			return lost(op, false, context.Cause(ctx))
		case <-s.dead:
		}
	} else if busy {
		return refuse(op, syscall.EBUSY, errBusy)
	}
	if !s.Healthy() {
		return lost(op, false, s.why())
	}
	return nil
}
