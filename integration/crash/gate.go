package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"
)

// gate is what every step of one daemon on the wire passes, one after the other. It counts them, and kills the daemon where
// it is told to.
type gate struct {
	strike func()                            // after it the daemon does nothing more, though it may take a moment to be gone
	hear   func(site string, names []string) // is told of requests that name something; nil for nobody
	fall   func()                            // begins an outage of the server, and does not wait for its end

	mu       sync.Mutex
	passed   map[string]int // how often each site
	total    int
	counted  int // of these, what counts for the aim
	loaded   bool
	fell     bool // the server, in the outage
	aim      aim
	at       string // where it was killed; "" if it was not, or between steps
	over     bool   // the daemon is dead, or will be in a moment: nothing counts any more
	sessions int
	quiet    chan struct{} // closed when there is no session; renewed with the first one
}

// aim says where to kill. Steps count from the start of the load, or from that of the daemon if it is early.
type aim struct {
	// fresh, if it is not nil, says of a site that the daemon is to be killed right there. No step counts then.
	fresh func(site string) bool

	nth   int // the step at which, or behind which, it is killed; 0 is never
	early bool
	delay time.Duration // 0 kills at the step, which then does not happen; otherwise the step happens, and so much later it is killed

	after time.Duration // of the daemon's start it is killed, whatever step it is at, if it is not 0
	grace time.Duration // between SIGTERM and the kill; 0 is none of the former, and so it is at a step
	cut   bool          // the server loses its sessions at that moment, and does not come to what they still held

	outage int           // the step of the load at which the server dies, and all its sessions; 0 is never
	gap    time.Duration // that it is away then
	calm   bool          // the daemon outlives the outage, and is looked at before it is killed
}

func (a aim) String() string {
	from := "the load"
	if a.early {
		from = "the daemon"
	}
	var text string
	switch {
	case a.fresh != nil:
		return "at a site where none was killed before"
	case a.after > 0:
		text = fmt.Sprintf("%v after the start", a.after)
	case a.nth == 0:
		return "never"
	case a.delay == 0:
		text = fmt.Sprintf("at step %d of %s", a.nth, from)
	default:
		text = fmt.Sprintf("%v after step %d of %s", a.delay, a.nth, from)
	}
	if a.grace > 0 {
		text += fmt.Sprintf(", by SIGTERM and %v later", a.grace)
	}
	if a.cut {
		text += ", and the sessions with it"
	}
	if a.outage > 0 {
		text += fmt.Sprintf("; the server at step %d, for %v", a.outage, a.gap)
	}
	return text
}

func newGate(a aim, strike func()) *gate {
	g := &gate{strike: strike, passed: map[string]int{}, aim: a, quiet: make(chan struct{})}
	close(g.quiet)
	return g
}

// pass is called with a request before the server gets it, or with an answer before the daemon does. It is false where that must not
// happen, for the daemon was killed right there.
func (g *gate) pass(site string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.over {
		return true // what a dead daemon has sent still arrives
	}
	g.passed[site]++
	g.total++
	if g.loaded || g.aim.early {
		g.counted++
	}
	if g.loaded && g.aim.outage > 0 && g.aim.outage == g.counted {
		g.fell = true
		g.fall()
	}
	switch a := g.aim; {
	case a.fresh != nil && a.fresh(site), a.fresh == nil && a.delay == 0 && a.nth > 0 && a.nth == g.counted:
		g.at, g.over = site, true
		g.strike()
		return false
	case a.fresh == nil && a.nth > 0 && a.nth == g.counted:
		time.AfterFunc(a.delay, g.killed)
	}
	return true
}

// load says that the load begins.
func (g *gate) load() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.loaded = true
}

// killed kills the daemon wherever it is.
func (g *gate) killed() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.over {
		g.over = true
		g.strike()
	}
}

// close ends the counting and returns how often each site was passed, and at which the daemon was killed.
func (g *gate) close() (passed map[string]int, at string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.over = true
	return g.passed, g.at
}

// steps returns how many were taken.
func (g *gate) steps() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.total
}

// hasFallen reports whether the outage has begun.
func (g *gate) hasFallen() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.fell
}

// isOver reports whether the daemon was killed.
func (g *gate) isOver() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.over
}

func (g *gate) enter() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.sessions++; g.sessions == 1 {
		g.quiet = make(chan struct{})
	}
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.sessions--; g.sessions == 0 {
		close(g.quiet)
	}
}

// settle waits until the server has done with all sessions that passed g.
func (g *gate) settle(limit time.Duration) error {
	late := time.After(limit)
	for {
		g.mu.Lock()
		n, quiet := g.sessions, g.quiet
		g.mu.Unlock()
		if n == 0 {
			return nil
		}
		select {
		case <-quiet:
		case <-late:
			return fmt.Errorf("the server still serves %d sessions of a daemon that is dead for %v", n, limit)
		}
	}
}

// road leads daemons to a server, each through the gate that stands there when it sets out.
type road struct {
	mu   sync.Mutex
	gate *gate
}

func (r *road) set(g *gate) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gate = g
}

func (r *road) now() *gate {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.gate
}

// serve serves everyone who comes to l until it is closed, and then waits for them.
func serve(l net.Listener, each func(net.Conn)) {
	var all sync.WaitGroup
	defer all.Wait()
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		all.Go(func() {
			defer c.Close()
			each(c)
		})
	}
}

// The words between a tap and its gate: a line that names the site, and one of these bytes.
const (
	goOn = '+'
	halt = '-'
)

// hearTap lets a tap ask the gate until it goes away.
func (r *road) hearTap(c net.Conn) {
	g := r.now()
	g.enter()
	defer g.leave()
	for lines := bufio.NewScanner(c); lines.Scan(); {
		answer := byte(goOn)
		site, names, _ := strings.Cut(lines.Text(), " ")
		if names != "" && g.hear != nil {
			g.hear(site, strings.Split(names, " "))
		}
		if !g.pass(site) {
			answer = halt
		}
		if _, err := c.Write([]byte{answer}); err != nil {
			return
		}
	}
}

// asker is a tap's line to its gate.
type asker struct {
	mu sync.Mutex
	c  net.Conn
}

// errHalted is how a tap learns that its daemon was killed where it stands.
var errHalted = errors.New("the daemon was killed here")

// pass asks the gate. Without one, which has gone with its test, everything passes.
func (a *asker) pass(site string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	answer := make([]byte, 1)
	_, err := io.WriteString(a.c, site+"\n")
	if err == nil {
		_, err = io.ReadFull(a.c, answer)
	}
	if err == nil && answer[0] == halt {
		return errHalted
	}
	return nil
}
