package model

import (
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// hand is a process that does operations, and the pipes to it.
type hand struct {
	cmd     *exec.Cmd
	ops     *gob.Encoder
	pipe    io.Closer
	answers chan Answer // closed when the process has ended
	stuck   bool        // it did not answer in time, and may never
}

// errGone tells that a process ended by itself.
var errGone = errors.New("the process that does the operations has ended")

// startHand starts a process by the command that Options.Command makes.
func startHand(cmd *exec.Cmd) (*hand, error) {
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	h := &hand{cmd: cmd, ops: gob.NewEncoder(in), pipe: in, answers: make(chan Answer)}
	go h.read(gob.NewDecoder(out)) // ends with the process
	return h, nil
}

func (h *hand) read(from *gob.Decoder) {
	defer close(h.answers)
	for {
		var a Answer
		if from.Decode(&a) != nil {
			return
		}
		h.answers <- a
	}
}

// do has the process do o. If it takes longer than limit for a system call the answer is Hung, and the process is of no
// use any more.
func (h *hand) do(o Op, limit time.Duration) (Answer, error) {
	begin := time.Now()
	if err := h.ops.Encode(o); err != nil {
		return Answer{}, fmt.Errorf("%w: %w", errGone, err)
	}
	timer := time.NewTimer(o.patience(limit))
	defer timer.Stop()
	select {
	case a, ok := <-h.answers:
		if !ok {
			return Answer{}, errGone
		}
		a.Begin, a.End = begin, time.Now()
		return a, nil
	case <-timer.C:
		h.stuck = true
		return Answer{Hung: true, Begin: begin, End: time.Now()}, nil
	}
}

// end lets the process end, and kills it if it does not. A process that the file system holds in an uninterruptible wait
// cannot be killed: it is left behind and told of.
func (h *hand) end() error {
	h.pipe.Close() // it reads until then
	if h.stuck {
		_ = h.cmd.Process.Signal(syscall.SIGKILL) // it may have ended meanwhile
	}
	ended := make(chan struct{})
	go func() {
		for range h.answers {
		}
		_ = h.cmd.Wait() // how it ended does not matter
		close(ended)
	}()
	timer := time.NewTimer(killPatience)
	defer timer.Stop()
	select {
	case <-ended:
		return nil
	case <-timer.C:
	}
	_ = h.cmd.Process.Signal(syscall.SIGKILL) // it may have ended meanwhile
	timer.Reset(killPatience)
	select {
	case <-ended:
		return nil
	case <-timer.C:
		return fmt.Errorf("process %d cannot be killed: the file system holds it", h.cmd.Process.Pid)
	}
}

// killPatience is how long a process may take to close what it has open.
const killPatience = 30 * time.Second
