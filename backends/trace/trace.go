// Package trace keeps what was last said between this machine and servers, for a person who looks why something failed.
//
// A Ring has the latest sessions, each with its latest lines: requests, replies and notes such as the steps of a login. All is bounded:
// sessions, lines, and the length of a line. Secrets never get in: who speaks a protocol leaves them out, and has what a session was
// shown hidden from whatever a server may echo. Content of files is not traced.
//
// All methods may be called from many goroutines, and on nil, where they do nothing. Ring.mu is a leaf, held over memory only.
package trace

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// Bounds of a Ring.
const (
	Sessions = 8   // that are kept, the latest
	Lines    = 100 // of each
	maxText  = 300 // bytes of each
)

// Kind is what a line is.
type Kind string

const (
	Sent Kind = "sent" // by us
	Got  Kind = "got"  // from the server
	Note Kind = "note" // neither
)

// Line is one thing that was said.
type Line struct {
	Time    time.Time
	Session uint64 // counts sessions from 1
	Kind    Kind
	Text    string // printable or not: whoever shows it to a terminal quotes it
}

// Ring keeps lines. The zero value is ready.
type Ring struct {
	mu       sync.Mutex
	begun    uint64
	sessions []*Session // the oldest first
}

// Session is one session of a Ring.
type Session struct {
	ring   *Ring
	number uint64
	hidden []string
	lines  []Line // at most Lines, the oldest at head
	head   int
}

// Session begins one more. The oldest is dropped where there are too many.
func (r *Ring) Session(server string) *Session {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.begun++
	s := &Session{ring: r, number: r.begun}
	if len(r.sessions) == Sessions {
		r.sessions = slices.Delete(r.sessions, 0, 1)
	}
	r.sessions = append(r.sessions, s)
	s.add(Note, "session with "+server)
	return s
}

// Hide replaces secret by asterisks in all lines from now on, unless it is so short that it says nothing and is in every word.
func (s *Session) Hide(secret string) {
	if s == nil || len(secret) < 4 {
		return
	}
	s.ring.mu.Lock()
	defer s.ring.mu.Unlock()
	if !slices.Contains(s.hidden, secret) {
		s.hidden = append(s.hidden, secret)
	}
}

// Add keeps one line.
func (s *Session) Add(kind Kind, text string) {
	if s == nil {
		return
	}
	s.ring.mu.Lock()
	defer s.ring.mu.Unlock()
	s.add(kind, text)
}

// add is Add with Ring.mu held.
func (s *Session) add(kind Kind, text string) {
	for _, secret := range s.hidden {
		text = strings.ReplaceAll(text, secret, "****")
	}
	if len(text) > maxText {
		cut := maxText
		for cut > 0 && !utf8.RuneStart(text[cut]) {
			cut--
		}
		text = text[:cut] + "..."
	}
	line := Line{Time: time.Now(), Session: s.number, Kind: kind, Text: strings.Clone(text)}
	if len(s.lines) < Lines {
		s.lines = append(s.lines, line)
		return
	}
	s.lines[s.head] = line
	s.head = (s.head + 1) % Lines
}

// Lines returns all lines in the order in which they were said.
func (r *Ring) Lines() []Line {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []Line
	for _, s := range r.sessions {
		all = append(all, s.lines[s.head:]...)
		all = append(all, s.lines[:s.head]...)
	}
	slices.SortStableFunc(all, func(a, b Line) int { return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.Session, b.Session)) })
	return all
}

// Last returns the latest n lines.
func (r *Ring) Last(n int) []Line {
	all := r.Lines()
	return all[max(0, len(all)-n):]
}
