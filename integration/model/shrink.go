package model

import (
	"errors"
	"fmt"
	"time"
)

// Shrink leaves out of a failure's trace what it does not need, by doing it again in new directories, for at most limit.
// What it returns is f itself if the failure does not come again.
func Shrink(o Options, f *Failure, limit time.Duration) *Failure {
	o = o.filled()
	s := &shrinker{o: o, deadline: time.Now().Add(limit)}
	best := s.replay(f.Trace)
	if best == nil {
		return f
	}
	best.Minimal = true
	for size := max(len(best.Trace)/2, 1); ; size = max(size/2, 1) {
		shorter, whole := s.pass(best.Trace, size)
		if shorter != nil {
			best = shorter
		}
		best.Minimal = whole
		if !whole || size == 1 && shorter == nil {
			return best
		}
	}
}

type shrinker struct {
	o        Options
	deadline time.Time
	count    int
}

// pass leaves out each run of size operations that is not needed. whole is false if time ran out.
func (s *shrinker) pass(trace []Op, size int) (best *Failure, whole bool) {
	for at := len(trace); at > 0; at -= size {
		if time.Now().After(s.deadline) {
			return best, false
		}
		shorter := append(append([]Op(nil), trace[:max(0, at-size)]...), trace[min(at, len(trace)):]...)
		if f := s.replay(shorter); f != nil {
			best, trace = f, f.Trace
		}
	}
	return best, true
}

// replay does the operations in a new directory and returns the failure that comes, nil if none does.
func (s *shrinker) replay(ops []Op) *Failure {
	s.count++
	o := s.o
	t := &tree{o: &o, base: fmt.Sprintf("again%d-%d", s.o.Seed, s.count), gen: newGenerator(o.Seed, 0, o.Hands), stride: 1, first: 1 << 20}
	defer func() {
		for _, h := range t.hands {
			_ = h.end() // one that cannot be killed shows in the run itself
		}
	}()
	if t.start() != nil {
		return nil
	}
	for _, o := range ops {
		if o.Kind == Open || o.Kind == Dup {
			if _, ok := t.worlds[0].open[fd{o.Hand, o.Slot}]; ok {
				continue // its close was left out
			}
		}
		if !t.gen.sensible(t.worlds[0], o) {
			continue
		}
		if _, err := t.do(o); err != nil {
			f, _ := errors.AsType[*Failure](err)
			return f
		}
	}
	done := t.trace
	f, ok := errors.AsType[*Failure](t.quiesce())
	if ok {
		f.Trace = done // and then everything is closed and compared
		f.Answers = f.Answers[:len(done)]
	}
	return f
}
