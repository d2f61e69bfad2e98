package hostile

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/rand"
	"crypto/tls"
	"io"
	"net"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
)

// FTPManner says how an FTPServer behaves. It is a value; FTPServer.Behave puts another in its place. The zero FTPManner is an
// honest server without TLS that knows MLST.
type FTPManner struct {
	// Wire is shown every new control connection before anything is said on it, as in Manner.
	Wire func(*Wire) net.Conn

	// Data is shown every data connection before anything is said on it, as Wire is control connections.
	Data func(*Wire) net.Conn

	// TLS is offered by AUTH, or spoken from the first byte; nil knows no AUTH.
	TLS      *tls.Config
	Implicit bool

	// DataTLS is spoken on data connections behind PROT P; nil is TLS.
	DataTLS *tls.Config

	// Greeting is the first reply, whole but for its last line end; "" is "220 ready".
	Greeting string

	// Features are the lines of FEAT; nil is MLSTFeatures. An empty one answers FEAT by 502. Without a line of MLST the
	// server knows neither MLST nor MLSD.
	Features []string

	// Rules are asked in turn about every command. What none of them takes is answered honestly.
	Rules []FTPRule
}

// MLSTFeatures are those of a server of this century.
func MLSTFeatures() []string {
	return []string{"UTF8", "MDTM", "MFMT", "SIZE", "REST STREAM", "EPSV", "EPRT", "TVFS", "MLST type*;size*;modify*;unique*;UNIX.mode*;UNIX.uid*;UNIX.gid*;"}
}

// ListFeatures are those of vsftpd, whose greeting belongs to them: it lists as ls does.
func ListFeatures() []string {
	return []string{"EPRT", "EPSV", "MDTM", "PASV", "REST STREAM", "SIZE", "TVFS"}
}

// ListGreeting is vsftpd's.
const ListGreeting = "220 (vsFTPd 3.0.3)"

// FTPServer is a running server.
type FTPServer struct {
	Host     string
	Port     int
	User     string
	Password string // differs from server to server, so that it can be searched for
	Root     string // the directory that is meant to be the working directory, and in which logins begin

	tree     *tree
	listener net.Listener
	work     sync.WaitGroup

	mu        sync.Mutex
	manner    FTPManner
	conns     map[net.Conn]struct{}
	accepted  int
	commands  []Command
	passwords int // given to the server
	overheard int // of these, in the clear
	closed    bool
}

// NewFTP starts a server that ends with the test. Its working directory is empty; beside it lie /etc/passwd and /secret/key,
// both of which hold Outside.
func NewFTP(t testing.TB, m FTPManner) *FTPServer {
	t.Helper()
	s := &FTPServer{User: "pier", Password: "Canary-" + rand.Text(), Root: "/home/pier", tree: newTree(), manner: m,
		conns: make(map[net.Conn]struct{})}
	s.tree.put(s.Root, Dir())
	s.tree.put("/etc/passwd", File{Data: Outside})
	s.tree.put("/secret/key", File{Data: Outside})
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
func (s *FTPServer) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.listener.Close()
	s.CutAll()
	s.work.Wait()
}

// CutAll ends all connections, of both kinds; new ones are accepted.
func (s *FTPServer) CutAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.Close()
	}
}

// Say sends bytes on every control connection, unasked. On one with TLS they go in the clear.
func (s *FTPServer) Say(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		if c.LocalAddr().(*net.TCPAddr).Port == s.Port {
			io.WriteString(c, text) // who has left hears nothing
		}
	}
}

// Behave puts m in place of the manner so far: its Rules for the next command, the rest for the next connection.
func (s *FTPServer) Behave(m FTPManner) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.manner = m
}

func (s *FTPServer) how() FTPManner {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.manner
}

// Put puts f under name, which is relative to the working directory or absolute, with the directories above it.
func (s *FTPServer) Put(name string, f File) { s.tree.put(s.abs(name), f) }

// Get returns what bears the name, and whether anything does.
func (s *FTPServer) Get(name string) (File, bool) {
	s.tree.mu.Lock()
	defer s.tree.mu.Unlock()
	f := s.tree.files[s.abs(name)]
	if f == nil {
		return File{}, false
	}
	return *f, true
}

// Names returns what the directory name holds, in the order in which it came.
func (s *FTPServer) Names(name string) []string {
	s.tree.mu.Lock()
	defer s.tree.mu.Unlock()
	return s.tree.children(s.abs(name))
}

func (s *FTPServer) abs(name string) string {
	if path.IsAbs(name) {
		return path.Clean(name)
	}
	return path.Join(s.Root, name)
}

// Command is what a client sent.
type Command struct {
	Verb string // in upper case
	Arg  string
}

func (c Command) String() string { return strings.TrimSuffix(c.Verb+" "+c.Arg, " ") }

// Commands returns what was sent so far, on all connections, in the order in which it came.
func (s *FTPServer) Commands() []Command {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.commands)
}

// Asked returns how often verb was sent.
func (s *FTPServer) Asked(verb string) int {
	n := 0
	for _, c := range s.Commands() {
		if c.Verb == verb {
			n++
		}
	}
	return n
}

func (s *FTPServer) note(c Command, clear bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.commands) < maxRequests {
		s.commands = append(s.commands, c)
	}
	if strings.Contains(c.Arg, s.Password) {
		s.passwords++
		if clear {
			s.overheard++
		}
	}
}

// Passwords returns how often the password was given away, and how often of these in the clear.
func (s *FTPServer) Passwords() (given, overheard int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.passwords, s.overheard
}

// Connections returns how many control connections were accepted so far.
func (s *FTPServer) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.accepted
}

// accept is the listener's goroutine; it ends with the listener.
func (s *FTPServer) accept() {
	for {
		c, err := s.listener.Accept()
		if err != nil {
			return
		}
		if !s.take(c) {
			return
		}
		s.mu.Lock()
		s.accepted++
		s.mu.Unlock()
		s.work.Go(func() {
			defer s.drop(c)
			s.serve(c)
		})
	}
}

// take counts a connection among those to close in the end; false if the end is here.
func (s *FTPServer) take(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		c.Close()
		return false
	}
	s.conns[c] = struct{}{}
	return true
}

func (s *FTPServer) drop(c net.Conn) {
	c.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

// serve meets one control connection, until it ends.
func (s *FTPServer) serve(c net.Conn) {
	m := s.how()
	speak := c
	if m.Wire != nil {
		if speak = m.Wire(&Wire{c}); speak == nil {
			return
		}
	}
	d := &session{server: s, conn: speak, raw: c, gone: make(chan struct{}), resume: make(chan struct{}), over: make(chan struct{})}
	defer d.end()
	if m.Implicit && !d.secure(m.TLS) {
		return
	}
	d.say(cmp.Or(m.Greeting, "220 ready"))
	lines := make(chan string, 10_000)
	s.work.Go(func() { d.listen(lines) })
	for line := range lines {
		d.one(line)
	}
}

// session is FTP on one control connection.
type session struct {
	server *FTPServer
	conn   net.Conn
	raw    net.Conn      // below TLS
	gone   chan struct{} // closed when the client has left
	resume chan struct{} // what follows AUTH is read only when it has been answered
	over   chan struct{} // closed when nobody answers any more

	private bool // TLS is spoken here
	guarded bool // PROT P
	at      string
	rest    int64
	from    string // RNFR

	listener net.Listener // of the passive port
	target   string       // that PORT or EPRT has named
}

func (d *session) end() {
	close(d.over)
	d.raw.Close()
	if d.listener != nil {
		d.listener.Close()
	}
}

// maxCommand bounds a command; no honest client comes near.
const maxCommand = 1 << 20

// listen reads commands until the client leaves.
func (d *session) listen(lines chan<- string) {
	defer close(lines)
	defer close(d.gone)
	for r := bufio.NewReaderSize(d.conn, maxCommand); ; {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return
		}
		text := string(bytes.TrimRight(line, "\r\n"))
		select {
		case lines <- text:
		case <-d.over:
			return
		}
		if !strings.HasPrefix(strings.ToUpper(text), "AUTH") {
			continue
		}
		select {
		case <-d.resume:
			r = bufio.NewReaderSize(d.conn, maxCommand) // what came behind AUTH in the clear is dropped
		case <-d.over:
			return
		}
	}
}

// one answers one command.
func (d *session) one(line string) {
	verb, arg, _ := strings.Cut(line, " ")
	x := &FTPExchange{Command: Command{strings.ToUpper(verb), arg}, d: d}
	d.server.note(x.Command, !d.private)
	m := d.server.how()
	if !slices.ContainsFunc(m.Rules, func(rule FTPRule) bool { return rule(x) }) {
		x.Honest()
	}
	if x.Verb == "AUTH" {
		select {
		case d.resume <- struct{}{}:
		case <-d.gone:
		}
	}
}

// secure begins TLS on the control connection, as its server.
func (d *session) secure(config *tls.Config) bool {
	c := tls.Server(d.conn, config)
	if c.Handshake() != nil {
		d.raw.Close()
		return false
	}
	d.conn, d.private = c, true
	return true
}

// say sends one reply, or several, without its last line end.
func (d *session) say(text string) { io.WriteString(d.conn, text+"\r\n") } // a client that has left needs no answer
