package demo

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
)

// server is an SFTP server on the loopback interface that knows one login.
type server struct {
	address     string
	fingerprint string

	listener net.Listener
	work     sync.WaitGroup

	mu     sync.Mutex
	conns  map[net.Conn]struct{}
	closed bool
}

// startServer serves the files of this machine, beginning in dir, to whoever knows the password. It listens on loopback
// only, and the password is too long to be guessed; it ends with close.
func startServer(password, dir string, log *slog.Logger) (*server, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		return nil, err
	}
	config := &ssh.ServerConfig{
		PasswordCallback: func(meta ssh.ConnMetadata, given []byte) (*ssh.Permissions, error) {
			if meta.User() == "demo" && subtle.ConstantTimeCompare(given, []byte(password)) == 1 {
				return nil, nil
			}
			return nil, errors.New("refused")
		},
	}
	config.AddHostKey(signer)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &server{address: listener.Addr().String(), fingerprint: ssh.FingerprintSHA256(signer.PublicKey()),
		listener: listener, conns: map[net.Conn]struct{}{}}
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
				if err := serveConn(conn, config, dir); err != nil {
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
	s.mu.Lock()
	s.closed = true
	for conn := range s.conns {
		conn.Close()
	}
	s.mu.Unlock()
	s.work.Wait()
}

// serveConn serves the sftp subsystem on every session of one connection.
func serveConn(conn net.Conn, config *ssh.ServerConfig, dir string) error {
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil { // of the handshake
		return err
	}
	_, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return err
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return err
	}
	var sessions sync.WaitGroup
	defer sessions.Wait()
	sessions.Go(func() { answer(requests) })
	for offered := range channels {
		if offered.ChannelType() != "session" {
			if err := offered.Reject(ssh.UnknownChannelType, "sftp only"); err != nil {
				return err
			}
			continue
		}
		channel, requests, err := offered.Accept()
		if err != nil {
			return err
		}
		sessions.Go(func() { serveSession(channel, requests, dir) })
	}
	return nil
}

// answer refuses requests; a keepalive wants no more than that.
func answer(requests <-chan *ssh.Request) {
	for r := range requests {
		if r.WantReply {
			_ = r.Reply(false, nil) // fails only where nobody is there any more
		}
	}
}

func serveSession(channel ssh.Channel, requests <-chan *ssh.Request, dir string) {
	defer channel.Close()
	for r := range requests {
		isSFTP := r.Type == "subsystem" && len(r.Payload) > 4 && string(r.Payload[4:]) == "sftp"
		if r.WantReply {
			_ = r.Reply(isSFTP, nil) // as above
		}
		if !isSFTP {
			continue
		}
		go answer(requests) // ends when the channel does
		s, err := sftp.NewServer(channel, sftp.WithServerWorkingDirectory(dir))
		if err != nil {
			return
		}
		if err := s.Serve(); err != nil && !errors.Is(err, io.EOF) {
			return
		}
		return
	}
}
