package ftp

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"

	"pierfs/backends/ftp/wire"
	"pierfs/backends/pool"
)

// Sessions are those of one login on one server, shared by the Backends of several working directories, so that all
// together stay within what the server bears. The zero value is ready. How the next session logs in is decided by the
// Options of the Backend that came last.
type Sessions struct {
	mu      sync.Mutex
	pool    *pool.Pool[*wire.Session]
	logins  []*Login // of those who borrow; the last counts
	pasv    bool     // EPSV does not work
	ahead   bool     // a port may be asked for within a login
	hangUps atomic.Int32
}

// borrow returns the pool for a Backend with the options o. Each call is paid back with giveBack of o.
func (s *Sessions) borrow(o *Options) *pool.Pool[*wire.Session] {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.logins = append(s.logins, &o.Login); s.pool == nil {
		s.pool = pool.New(pool.Options[*wire.Session]{
			Dial: s.dial,
			Max:  o.MaxSessions,
			Wait: max(o.ConnectTimeout, o.SocketTimeout),
			Last: o.IdleTimeout,
			Cool: (*wire.Session).Cool,
		})
	}
	return s.pool
}

// giveBack closes the sessions when their last user has gone. Whose options they were is not asked for secrets any more.
func (s *Sessions) giveBack(o *Options) {
	s.mu.Lock()
	var unused *pool.Pool[*wire.Session]
	s.logins = slices.DeleteFunc(s.logins, func(l *Login) bool { return l == &o.Login })
	if len(s.logins) == 0 {
		unused, s.pool = s.pool, nil
	}
	s.mu.Unlock()
	if unused != nil {
		unused.Close()
	}
}

// dial logs in once more. What the last session found out about the way to the server is told to the next.
func (s *Sessions) dial(ctx context.Context) (*wire.Session, error) {
	s.mu.Lock()
	if len(s.logins) == 0 {
		s.mu.Unlock()
		return nil, errClosed
	}
	login := *s.logins[len(s.logins)-1]
	login.PASV, login.Ahead = login.PASV || s.pasv, s.ahead
	s.mu.Unlock()
	login.HangUps = &s.hangUps
	session, err := wire.Dial(ctx, login)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.pasv = s.pasv || session.Features().PASV
	s.ahead = session.AsksAhead()
	s.mu.Unlock()
	session.Warm()
	return session, nil
}
