package sftp

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"pierfs/backends"
	"pierfs/backends/netconn"
)

var errClosed = errors.New("the connection was closed from this side")

// session is one login. It lives until the first thing goes wrong with it; then it is replaced, never mended.
type session struct {
	o       *Options
	conn    *netconn.Conn                                     // nil where a test has put a pipe in its place
	meta    *mux                                              // for everything but content
	dial    func(context.Context) (io.ReadWriteCloser, error) // opens another channel; nil if there can be only one
	server  string
	openSSH bool         // RENAME does not replace
	worth   int          // channels for content that are worth having, if a test says so; 0 leaves it to the round trip
	trip    atomic.Int64 // the shortest round trip seen, in nanoseconds; 0 before the first

	chmodFollows atomic.Bool // the server sets permissions, but not those of what a name stands for itself

	root              string // absolute, resolved by the server, without a slash at its end; "/" for the root itself
	maxRead, maxWrite int
	login             login

	dead  chan struct{}
	queue queue

	mu      sync.Mutex
	cause   error // why it is dead; set before dead is closed
	data    []*mux
	coming  int           // channels that are being opened
	opening chan struct{} // closed when all of them stand or are refused; nil before the first
	more    chan struct{} // closed when one of them stands or is refused; nil while none is being opened
	refused bool          // the server allows no more channels
	asked   uint64        // requests, when unused last looked
	since   time.Time     // when that had changed, or a file was open
	workers sync.WaitGroup
}

// login is what the server calls us, as far as it can be learned.
type login struct {
	uid, gid uint32
	known    bool
}

func (s *session) alive() bool {
	select {
	case <-s.dead:
		return false
	default:
		return true
	}
}

// kill ends the session at once; whoever waits for something gets why.
func (s *session) kill(why error) {
	s.mu.Lock()
	if s.cause != nil {
		s.mu.Unlock()
		return
	}
	s.cause = why
	all := s.channels()
	s.mu.Unlock()
	close(s.dead)
	if s.conn != nil {
		s.conn.Kill(why)
	}
	for _, m := range all {
		if s.conn == nil {
			m.rw.Close() // on a dead connection there is nobody to tell
		}
		m.fail(why)
	}
}

// channels returns all there are. Callers hold mu.
func (s *session) channels() []*mux {
	if s.meta == nil {
		return s.data
	}
	return append([]*mux{s.meta}, s.data...)
}

// close ends the session and waits for its goroutines.
func (s *session) close() {
	s.kill(errClosed)
	s.workers.Wait()
	s.mu.Lock()
	all := s.channels()
	s.mu.Unlock()
	for _, m := range all {
		m.close(errClosed)
	}
}

// newChannel makes a mux of rw, whose end ends the session.
func (s *session) newChannel(rw io.ReadWriteCloser) (*mux, error) { return s.newMux(rw, s.kill) }

func (s *session) newMux(rw io.ReadWriteCloser, onFail func(error)) (*mux, error) {
	var sent, delivered func() int64
	if s.conn != nil {
		sent, delivered = s.conn.Written, s.conn.Delivered
	}
	return newMux(rw, s.o.SocketTimeout, s.o.trace, sent, delivered, onFail)
}

// begin learns what there is to know before the first call: where the working directory is, what one request may
// carry, and who we are. It takes one round trip, and one more where the server can name its users.
func (s *session) begin(ctx context.Context) error {
	wanted := s.o.WorkingDir
	if rest, ok := strings.CutPrefix(wanted, "~/"); ok || wanted == "~" {
		wanted = strings.TrimPrefix(rest, "~")
	}
	if wanted == "" {
		wanted = "."
	}
	f, begun := s.meta.flight(), time.Now()
	real := f.add(pathFrame(typeRealpath, wanted))
	stat := f.add(pathFrame(typeStat, wanted))
	home := f.add(pathFrame(typeStat, "."))
	var bounds *call
	if s.meta.offers(extLimits) {
		bounds = f.add(extendedFrame(extLimits))
	}
	f.send(urgent)
	f.wait(ctx)
	s.tripped(begun)

	info, err := stat.reply.info("")
	if err != nil {
		return workingDirError(s.o.WorkingDir, err)
	}
	if info.Known.Has(backends.HasType) && !info.IsDir() {
		return notADirectory(s.o.WorkingDir)
	}
	if s.root, err = real.reply.path(); err != nil {
		return workingDirError(s.o.WorkingDir, err)
	}
	if s.root != "/" {
		s.root = strings.TrimRight(s.root, "/")
	}
	if !strings.HasPrefix(s.root, "/") {
		return workingDirError(s.o.WorkingDir, errMalformed)
	}
	s.maxRead, s.maxWrite = safePayload, safePayload
	if bounds != nil {
		if l, err := bounds.reply.limits(); err == nil {
			s.maxRead, s.maxWrite = payload(l.read), payload(l.write)
		}
	}
	own, err := home.reply.info("")
	if err != nil || !own.Known.Has(backends.HasOwner) {
		return nil
	}
	return s.learnLogin(ctx, own, info)
}

// learnLogin finds out who we are on the server. SFTP has no word for it. The login directory belongs to its user almost
// everywhere; where the server can turn numbers into names (users-groups-by-id@openssh.com) the owner of either
// directory is believed only if he bears the login's name. Without that, root owning the login directory says nothing
// (chroot) unless we are root. What a file made by us later belongs to is better knowledge still; see learnOwner.
func (s *session) learnLogin(ctx context.Context, home, dir backends.Info) error {
	if !s.meta.offers(extUsersGroups) {
		if home.UID != 0 || s.o.Username == "root" {
			s.login = login{home.UID, home.GID, true}
		}
		return nil
	}
	owners := []backends.Info{home, dir}
	uids := frame(nil).u32(home.UID).u32(dir.UID)
	f := s.meta.flight()
	c := f.add(extendedFrame(extUsersGroups, string(uids), ""))
	f.send(urgent)
	names, err := c.wait(ctx).userNames()
	if err != nil {
		if _, ok := errors.AsType[*fault](err); ok {
			return err
		}
		return nil // it told us nothing; that is no reason not to work
	}
	if n := slices.Index(names[:min(len(names), len(owners))], s.o.Username); n >= 0 {
		s.login = login{owners[n].UID, owners[n].GID, true}
	}
	return nil
}

// userNames is the answer to users-groups-by-id@openssh.com: names of users, then of groups; "" for one without a name.
func (r reply) userNames() ([]string, error) {
	p, err := r.extended()
	if err != nil {
		return nil, err
	}
	users := parser{b: p.bytes()}
	var names []string
	for len(users.b) > 0 && !users.bad {
		names = append(names, users.text())
	}
	if p.bad || users.bad {
		return nil, errMalformed
	}
	return names, nil
}

// path returns what the server is asked for name by.
func (s *session) path(name string) string {
	switch {
	case name == "":
		return s.root
	case s.root == "/":
		return "/" + name
	}
	return s.root + "/" + name
}

// within returns the name that the server's absolute path has here, and whether it lies inside the working directory.
func (s *session) within(path string) (name string, inside bool) {
	if path == s.root {
		return "", true
	}
	prefix := s.root
	if prefix != "/" {
		prefix += "/"
	}
	return strings.CutPrefix(path, prefix)
}

// ask sends one request by itself and waits for the answer.
func (s *session) ask(ctx context.Context, fr frame) reply {
	f, begun := s.meta.flight(), time.Now()
	c := f.add(fr)
	f.send(urgent)
	answer := c.wait(ctx)
	if answer.err == nil {
		s.tripped(begun)
	}
	return answer
}

func (s *session) lstat(ctx context.Context, name string) (backends.Info, error) {
	return s.ask(ctx, pathFrame(typeLstat, s.path(name))).info(base(name))
}

// keepAlive asks something of an idle server now and then, so that its absence is found before somebody needs it.
// It ends with the session.
func (s *session) keepAlive(ask func() error) {
	interval := min(15*time.Second, s.o.SocketTimeout*2/5)
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for heard := int64(-1); ; {
		select {
		case <-s.dead:
			return
		case <-ticker.C:
		}
		s.retire(idleChannel)
		if s.o.IdleTimeout > 0 && s.unused(s.o.IdleTimeout) {
			s.kill(errIdle)
			return
		}
		if now := s.conn.Received(); now != heard {
			heard = now
			continue
		}
		done := s.conn.Expect()
		err := ask()
		done()
		if err != nil {
			s.kill(err)
			return
		}
		heard = s.conn.Received()
	}
}
