package sftp

import (
	"context"
	"errors"
	"slices"
	"time"
)

// One SFTP channel carries no more than a window in a round trip: that of OpenSSH for what is written to it and that of
// x/crypto/ssh for what is read from it are 2 MiB, and neither can be told otherwise. So content on long ways takes several
// channels, beside the first one, which is for everything else.
const (
	// laneWindow is what one channel carries in a round trip, of 2 MiB less what waits for an adjustment (measured).
	laneWindow = 1930 << 10
	// laneRate is the bandwidth that channels are opened for, in bytes a second.
	laneRate = 300 << 20
	// maxChannels bounds the channels for content. OpenSSH allows ten of one connection (MaxSessions).
	maxChannels = 8
	// busy is how much content a file must have moved before a channel of its own seems worth the round trips.
	busy = 1 << 20
	// longFile is the size from which a file is likely to need all of them.
	longFile = 8 << 20
	// idleChannel is how long a channel that carries nothing stays.
	idleChannel = time.Minute
)

// errIdle is why a channel or a session was closed that nobody needed.
var errIdle = errors.New("nothing was to be done")

// tripped notes an exchange of small requests that began at begun.
func (s *session) tripped(begun time.Time) {
	took := int64(time.Since(begun))
	for {
		known := s.trip.Load()
		if known != 0 && known <= took || s.trip.CompareAndSwap(known, max(took, 1)) {
			return
		}
	}
}

// wide is how many channels for content are worth having: one if the server is near.
func (s *session) wide() int {
	if s.worth > 0 {
		return s.worth
	}
	lanes := time.Duration(s.trip.Load()).Seconds() * laneRate / laneWindow
	return min(max(int(lanes+0.5), 1), maxChannels)
}

// channel returns the channel on which to open a file, which counts as one that has a file open: one for content with the
// least to do, if there is any yet.
func (s *session) channel() *mux {
	s.mu.Lock()
	defer s.mu.Unlock()
	best := s.meta
	for n, m := range s.data {
		if n == 0 || m.load() < best.load() {
			best = m
		}
	}
	best.files.Add(1)
	return best
}

// widen opens further channels in the background until there are n, and returns what is closed when all that are being opened
// stand or are refused; nil if none ever was.
func (s *session) widen(n int) (ended <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	missing := min(n, maxChannels) - len(s.data) - s.coming
	if s.dial == nil || s.refused || missing <= 0 || s.cause != nil {
		return s.opening
	}
	if s.coming == 0 {
		s.opening, s.more = make(chan struct{}), make(chan struct{})
	}
	s.coming += missing
	for range missing {
		s.workers.Go(s.addChannel)
	}
	return s.opening
}

// expect opens the channels that a content of size bytes is likely to need, before it does: it takes two round trips.
func (s *session) expect(size int64) {
	if n := s.wide(); n > 1 && size >= longFile {
		s.widen(n)
	}
}

// content returns the channels for content, and what is closed when there may be another; nil if none is being opened.
func (s *session) content() (channels []*mux, more <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.data), s.more
}

// addChannel opens one channel for content. A server that refuses it is not asked again.
func (s *session) addChannel() {
	ctx, cancel := context.WithTimeout(context.Background(), s.o.ConnectTimeout)
	defer cancel()
	m, err := s.another(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.more)
	s.more = make(chan struct{})
	if s.coming--; s.coming == 0 {
		close(s.opening)
		s.more = nil
	}
	switch {
	case err != nil:
		s.refused = true
		s.o.Logger.Debug("no further channel", "server", s.o.Address, "err", err)
	case s.cause != nil, m.dead():
		s.workers.Go(func() { m.fail(errClosed); m.end() })
	default:
		s.data = append(s.data, m)
	}
}

func (s *session) another(ctx context.Context) (*mux, error) {
	rw, err := s.dial(ctx)
	if err != nil {
		return nil, err
	}
	// The greeting is awaited without a ticket; a connection that dies in the middle of it ends the read.
	stop := context.AfterFunc(ctx, func() { rw.Close() })
	defer stop()
	m, err := s.newMux(rw, s.lost)
	if err != nil {
		rw.Close() // a server that leaves a greeting without an answer must not keep the channel
	}
	return m, err
}

// lost is told why a channel for content has died. One that the server has hung up costs its files a way, anything else is
// the end of the session: a server that sends nonsense or nothing cannot be believed on the others either.
func (s *session) lost(why error) {
	if !errors.Is(why, errHungUp) && !errors.Is(why, errIdle) {
		s.kill(why)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cause != nil {
		return
	}
	if errors.Is(why, errHungUp) {
		s.refused = true
	}
	s.data = slices.DeleteFunc(s.data, func(m *mux) bool {
		dead := m.dead()
		if dead {
			s.workers.Go(m.end)
		}
		return dead
	})
}

// retire closes the channels for content that have carried nothing for so long and have no file open that was opened there.
func (s *session) retire(idle time.Duration) {
	s.mu.Lock()
	var unused []*mux
	for _, m := range s.data {
		moved := m.reads.total.Load() + m.writes.total.Load()
		if moved != m.moved || m.files.Load() > 0 || m.load() > 0 {
			m.moved, m.since = moved, time.Now()
		} else if time.Since(m.since) >= idle {
			unused = append(unused, m)
		}
	}
	s.data = slices.DeleteFunc(s.data, func(m *mux) bool { return slices.Contains(unused, m) })
	if s.cause == nil {
		for _, m := range unused {
			s.workers.Go(func() { m.fail(errIdle); m.end() })
		}
	}
	s.mu.Unlock()
}

// unused reports whether nothing was asked for so long, and no file is open.
func (s *session) unused(idle time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	var asked uint64
	open := s.coming > 0
	for _, m := range s.channels() {
		m.mu.Lock()
		asked += uint64(m.next)
		open = open || len(m.calls) > 0 || len(m.libCalls) > 0
		m.mu.Unlock()
		open = open || m.files.Load() > 0
	}
	if open || asked != s.asked {
		s.asked, s.since = asked, time.Now()
		return false
	}
	return time.Since(s.since) >= idle
}
