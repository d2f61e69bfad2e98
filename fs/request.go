package fs

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// request is the context of one request of the kernel. It ends when somebody wants the program that waits for it to stop.
//
// The kernel tells of any signal, once a request and without its number: also of SIGCHLD, of timers, of the SIGURG by which
// Go preempts its goroutines. Programs do not expect stat(2) or read(2) of a file to fail for these, so a request that was
// interrupted looks at what is pending for its thread, and again now and then while it lasts.
type request struct {
	cancel <-chan struct{}
	stop   <-chan struct{}
	pid    uint32
	on     *ground // nil of one that is owed
	done   chan struct{}

	mu   sync.Mutex
	over chan struct{} // made when somebody first waits; closed by end
	gone bool          // end was called
}

const interruptPoll = 100 * time.Millisecond

// begin starts the context of a request; end must be called when it is answered. Nobody waits for anything, and no
// goroutine runs, until Done is first called.
func (s *fileSystem) begin(cancel <-chan struct{}, pid uint32) *request {
	s.inFlight.Add(1)
	return &request{cancel: cancel, stop: s.stop, pid: pid, on: s.use(), done: make(chan struct{})}
}

func (s *fileSystem) end(r *request) {
	s.inFlight.Add(-1)
	r.on.leave()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gone = true
	if r.over != nil {
		close(r.over)
	}
}

// begun is begin for a change: its context ends only when the mount is aborted.
func (s *fileSystem) begun() *request { return s.begin(nil, 0) }

// owed is the context of what must be brought to its end also when the mount is aborted, and belongs to no request.
func (s *fileSystem) owed() *request { return &request{done: make(chan struct{})} }

func (r *request) Deadline() (time.Time, bool) { return time.Time{}, false }
func (r *request) Value(any) any               { return nil }

func (r *request) Done() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over == nil {
		r.over = make(chan struct{})
		if r.gone {
			close(r.over)
		}
		go r.watch(r.over)
	}
	return r.done
}

func (r *request) Err() error {
	select {
	case <-r.done:
		return context.Canceled
	default:
		return nil
	}
}

// watch ends with the request.
func (r *request) watch(over <-chan struct{}) {
	select {
	case <-over:
		return
	case <-r.stop:
		close(r.done)
		return
	case <-r.cancel:
	}
	tick := time.NewTicker(interruptPoll)
	defer tick.Stop()
	for {
		if wantedToStop(r.pid) {
			close(r.done)
			return
		}
		select {
		case <-over:
			return
		case <-r.stop:
			close(r.done)
			return
		case <-tick.C:
		}
	}
}

// stopSignals are the signals that mean: stop what you do.
const stopSignals = 1<<(syscall.SIGHUP-1) | 1<<(syscall.SIGINT-1) | 1<<(syscall.SIGQUIT-1) | 1<<(syscall.SIGTERM-1) | 1<<(syscall.SIGKILL-1)

// wantedToStop reports whether a signal that means so is pending for thread tid. A thread that cannot be looked at (another
// pid namespace: 0) is not: its requests are bounded by the deadlines of the server's side.
func wantedToStop(tid uint32) bool {
	status, err := readProcStatus(tid)
	if err != nil {
		return false
	}
	return (status.pending&^status.blocked)&stopSignals != 0
}

// procStatus is what we ask of /proc/TID/status.
type procStatus struct {
	tgid             uint32
	pending, blocked uint64
}

func readProcStatus(tid uint32) (procStatus, error) {
	var p procStatus
	if tid == 0 {
		return p, os.ErrNotExist
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", tid))
	if err != nil {
		return p, err
	}
	lines := bufio.NewScanner(bytes.NewReader(b))
	for lines.Scan() {
		key, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimSpace(value)
		switch key {
		case "Tgid":
			n, err := strconv.ParseUint(value, 10, 32)
			if err != nil {
				return p, err
			}
			p.tgid = uint32(n)
		case "SigPnd", "ShdPnd", "SigBlk":
			n, err := strconv.ParseUint(value, 16, 64)
			if err != nil {
				return p, err
			}
			if key == "SigBlk" {
				p.blocked = n
			} else {
				p.pending |= n
			}
		}
	}
	return p, lines.Err()
}
