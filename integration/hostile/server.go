// Package hostile is an SFTP server and an FTP server that lie, stall and break their protocols, as told. Their manners are
// values: Manner and FTPManner say how connections are met before and during the login, Rules say which requests are
// answered otherwise than an honest server would, and the files themselves may claim what is not so. The zero Manner is an
// honest server with its files in memory.
//
// The tests of this package hold the rows of the threat table that a server or somebody between can bring about: against a
// Backend as dial makes it, and, where a program or the daemon as a whole could be hurt, through a mount.
//
// The server listens on loopback, ends with its test, and leaves no goroutine behind.
package hostile

import (
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"net"
	"path"
	"slices"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"
)

// Manner says how a Server behaves. It is a value; Server.Behave puts another in its place.
type Manner struct {
	// Wire is shown every new connection before anything is said on it, and returns what SSH is to be spoken on; nil if
	// it has dealt with the connection by itself, which is then closed. Nil leaves connections as they are.
	Wire func(*Wire) net.Conn

	// Login changes the server's half of the SSH handshake; nil leaves it at Server.Password for Server.User.
	Login func(*ssh.ServerConfig)

	// Channel is shown every request for a channel and returns whether it took it; nil takes none.
	Channel func(ssh.NewChannel) (taken bool)

	// Version is what is answered to INIT, whole; nil is version 3 with all Extensions.
	Version []byte

	// Extensions that are offered; nil offers all that the server has.
	Extensions []Op

	// Rules are asked in turn about every request. What none of them takes is answered honestly.
	Rules []Rule
}

// Server is a running server.
type Server struct {
	Host     string
	Port     int
	User     string
	Password string // differs from server to server, so that it can be searched for
	Root     string // the directory that is meant to be the working directory

	tree     *tree
	listener net.Listener
	work     sync.WaitGroup

	mu        sync.Mutex
	manner    Manner
	key       ssh.Signer
	conns     map[net.Conn]struct{}
	accepted  int
	requests  []Request
	passwords int
	closed    bool
}

// Outside is what lies outside of the working directory; none of it may ever be seen through a mount.
const Outside = "root:hostile-canary:0:0\n"

// New starts a server that ends with the test. Its working directory is empty; beside it lie /etc/passwd and /secret/key,
// both of which hold Outside.
func New(t testing.TB, m Manner) *Server {
	t.Helper()
	s := &Server{User: "pier", Password: "Canary-" + rand.Text(), Root: "/home/pier", tree: newTree(), manner: m,
		conns: make(map[net.Conn]struct{})}
	s.tree.put(s.Root, Dir())
	s.tree.put("/etc/passwd", File{Data: Outside})
	s.tree.put("/secret/key", File{Data: Outside})
	s.ChangeHostKey(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().(*net.TCPAddr)
	s.Host, s.Port, s.listener = addr.IP.String(), addr.Port, l
	s.work.Go(s.accept)
	t.Cleanup(s.Close)
	return s
}

// Close ends all connections and waits for what the server has started. It may be called twice.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.listener.Close()
	s.CutAll()
	s.work.Wait()
}

// CutAll ends all connections; new ones are accepted.
func (s *Server) CutAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.Close()
	}
}

// Behave puts m in place of the manner so far: its Rules for the next request, the rest for the next connection.
func (s *Server) Behave(m Manner) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.manner = m
}

func (s *Server) how() Manner {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.manner
}

// ChangeHostKey gives the server another host key, for the next connection, and returns its fingerprint.
func (s *Server) ChangeHostKey(t testing.TB) string {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	s.key = key
	s.mu.Unlock()
	return ssh.FingerprintSHA256(key.PublicKey())
}

// Fingerprint returns the fingerprint of the host key, in the form SHA256:...
func (s *Server) Fingerprint() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return ssh.FingerprintSHA256(s.key.PublicKey())
}

// Put puts f under name, which is relative to the working directory or absolute, with the directories above it.
func (s *Server) Put(name string, f File) { s.tree.put(s.abs(name), f) }

// Get returns what bears the name, and whether anything does.
func (s *Server) Get(name string) (File, bool) {
	s.tree.mu.Lock()
	defer s.tree.mu.Unlock()
	f := s.tree.files[s.abs(name)]
	if f == nil {
		return File{}, false
	}
	return *f, true
}

// Names returns what the directory name holds, in the order in which it came.
func (s *Server) Names(name string) []string {
	s.tree.mu.Lock()
	defer s.tree.mu.Unlock()
	return s.tree.children(s.abs(name))
}

func (s *Server) abs(name string) string {
	if path.IsAbs(name) {
		return path.Clean(name)
	}
	return path.Join(s.Root, name)
}

// Request is what a client asked for.
type Request struct {
	Op   Op
	Path string // as the client sent it; of an open file, as it was opened
	To   string // of a rename or link
}

// maxRequests is how many requests are remembered; of an endless exchange the beginning is enough.
const maxRequests = 100_000

// Requests returns what was asked so far, of all connections, in the order in which it came.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// Asked returns how often op was asked for.
func (s *Server) Asked(op Op) int {
	n := 0
	for _, r := range s.Requests() {
		if r.Op == op {
			n++
		}
	}
	return n
}

func (s *Server) note(r Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.requests) < maxRequests {
		s.requests = append(s.requests, r)
	}
}

// Passwords returns how often the password was given away.
func (s *Server) Passwords() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.passwords
}

// Connections returns how many connections were accepted so far.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.accepted
}

// accept is the listener's goroutine; it ends with the listener.
func (s *Server) accept() {
	for {
		c, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			c.Close()
			return
		}
		s.accepted++
		s.conns[c] = struct{}{}
		s.work.Go(func() { s.serve(c) })
		s.mu.Unlock()
	}
}

// serve meets one connection, until it ends.
func (s *Server) serve(c net.Conn) {
	defer func() {
		c.Close()
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
	}()
	m := s.how()
	speak := c
	if m.Wire != nil {
		if speak = m.Wire(&Wire{c}); speak == nil {
			return
		}
	}
	conn, channels, requests, err := ssh.NewServerConn(speak, s.config(m))
	if err != nil {
		return // the client has left, or was refused as told
	}
	defer conn.Close()
	s.work.Go(func() { ssh.DiscardRequests(requests) })
	for c := range channels {
		if m.Channel != nil && m.Channel(c) {
			continue
		}
		if c.ChannelType() != "session" {
			c.Reject(ssh.UnknownChannelType, "only sessions")
			continue
		}
		channel, requests, err := c.Accept()
		if err != nil {
			return
		}
		s.work.Go(func() { s.session(channel, requests, conn) })
	}
}

func (s *Server) config(m Manner) *ssh.ServerConfig {
	s.mu.Lock()
	key := s.key
	s.mu.Unlock()
	c := &ssh.ServerConfig{ServerVersion: "SSH-2.0-OpenSSH_9.2p1", MaxAuthTries: -1}
	c.KeyExchanges = []string{ssh.KeyExchangeCurve25519} // the cheapest: tests log in a thousand times
	c.PasswordCallback = func(meta ssh.ConnMetadata, password []byte) (*ssh.Permissions, error) {
		return nil, s.Check(meta.User(), string(password))
	}
	if m.Login != nil {
		m.Login(c)
	}
	c.AddHostKey(key)
	return c
}

// Check notes that somebody gave a password, and returns nil if it is the right one.
func (s *Server) Check(user, password string) error {
	if password == s.Password {
		s.mu.Lock()
		s.passwords++
		s.mu.Unlock()
		if user == s.User {
			return nil
		}
	}
	return fmt.Errorf("not %q with this password", user)
}

// session serves one channel: SFTP once it is asked for, nothing else.
func (s *Server) session(channel ssh.Channel, requests <-chan *ssh.Request, conn ssh.Conn) {
	defer channel.Close()
	for r := range requests {
		sftp := r.Type == "subsystem" && string(r.Payload) == string(text("sftp"))
		if r.WantReply {
			r.Reply(sftp, nil) // a client that has left needs no answer
		}
		if sftp {
			break
		}
	}
	gone := make(chan struct{}) // closed when the client's side of the channel is
	s.work.Go(func() {
		ssh.DiscardRequests(requests)
		close(gone)
	})
	d := &dialogue{server: s, rw: channel, conn: conn, gone: gone, handles: make(map[string]*handle)}
	d.serve()
}
