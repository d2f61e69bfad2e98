package demo

import (
	"context"
	"crypto/subtle"
	"log/slog"
	"net"
	"sync"
)

// login is the one that the servers know. Their passwords are too long to be guessed.
const login = "demo"

// knows reports whether the login is the one that there is.
func knows(user, given, password string) bool {
	return user == login && subtle.ConstantTimeCompare([]byte(given), []byte(password)) == 1
}

// server is one on the loopback interface. It ends with close.
type server struct {
	address string
	release func() error // gives up what it serves from; nil if there is nothing to give up

	listener net.Listener
	cancel   context.CancelFunc // ends what hangs on more than its connection
	work     sync.WaitGroup

	mu     sync.Mutex
	conns  map[net.Conn]struct{}
	closed bool
}

// listen has serve speak to everybody who connects, each in a goroutine of its own, until its ctx ends.
func listen(serve func(context.Context, net.Conn) error, log *slog.Logger) (*server, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &server{address: listener.Addr().String(), listener: listener, cancel: cancel, conns: map[net.Conn]struct{}{}}
	s.work.Go(func() { // ends by close
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			if !s.add(conn) {
				conn.Close()
				return
			}
			s.work.Go(func() {
				defer s.remove(conn)
				if err := serve(ctx, conn); err != nil {
					log.Debug("demo server", "err", err)
				}
			})
		}
	})
	return s, nil
}

func (s *server) add(conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.conns[conn] = struct{}{}
	}
	return !s.closed
}

func (s *server) remove(conn net.Conn) {
	conn.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, conn)
}

// close cuts everybody off and waits until they are gone.
func (s *server) close() {
	s.listener.Close()
	s.cancel()
	s.mu.Lock()
	s.closed = true
	for conn := range s.conns {
		conn.Close()
	}
	s.mu.Unlock()
	s.work.Wait()
	if s.release != nil {
		_ = s.release() // it was open for reading
	}
}
