package dial

import (
	"sync"
	"time"

	"pierfs/backends/ftp"
	"pierfs/conncfg"
)

// Shared is what the connections of one process have in common: those that log in to one server as one user take their
// sessions from one pool, so that all together stay within what the server bears. The zero value is ready. Its methods may be
// called from many goroutines at once; nil shares nothing.
type Shared struct {
	mu  sync.Mutex
	ftp map[login]*lentFTP
}

// lentFTP is sessions and how many Backends take theirs from them.
type lentFTP struct {
	sessions ftp.Sessions
	users    int
}

// login is everything that a session is made of. Secrets are part of it, so that nobody borrows a session with a password that
// would not have opened it, and so is whom a definition believes.
type login struct {
	address  string
	username string
	password conncfg.Secret
	ftp      conncfg.FTPOptions
	tls      conncfg.TLS
	protocol conncfg.Protocol
	via      conncfg.Via
	source   string
	rate     int64
	idle     time.Duration
	encoding string
}

func loginOf(t conncfg.Target) login {
	l := login{
		address: t.Address(), username: t.Username, password: t.Password, ftp: t.FTP, tls: t.TLS, protocol: t.Protocol,
		via: t.Via, source: t.SourceAddress, rate: t.RateLimit, idle: t.IdleTimeout, encoding: t.Encoding,
	}
	l.ftp.PassivePorts = conncfg.Ports{} // concern no login
	return l
}

// borrow returns the sessions that t shares with others of its kind, nil if it has them for itself. They are given back once.
func (s *Shared) borrow(t conncfg.Target) (sessions *ftp.Sessions, giveBack func()) {
	if s == nil {
		return nil, func() {}
	}
	key := loginOf(t)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ftp == nil {
		s.ftp = make(map[login]*lentFTP)
	}
	lent := s.ftp[key]
	if lent == nil {
		lent = new(lentFTP)
		s.ftp[key] = lent
	}
	lent.users++
	return &lent.sessions, sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if lent.users--; lent.users == 0 {
			delete(s.ftp, key)
		}
	})
}
