package model

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sync"
	"time"
)

// Options say what to check and for how long.
type Options struct {
	Dir     string // where the operations are done: an empty directory of the mount
	Backing string // the same directory as the server has it; Dir itself for a local file system

	Seed      uint64
	Processes int           // at once, each with a tree of its own; 0 is 1
	Hands     int           // processes that take turns in each tree; 0 is 1
	Ops       int           // in each tree; 0 is as many as there is time for
	Duration  time.Duration // 0 is until Ops are done
	Limit     time.Duration // in which each system call must return; 0 is 30 s
	Quiesce   int           // operations after which all is closed and compared; 0 is 150
	Alone     bool          // leave the shared directory out

	// Hot has the processes mostly replace and read two shared files, of one size and so often that many are of one second, while
	// somebody at the server looks at them all the time.
	Hot bool

	// Blinks allows files that were removed while open to be lost (ESTALE): a connection that breaks takes them with it.
	Blinks bool

	// Outages allows errnos of an absent server. Longest is how long the mount may need to come back, Calm ends whatever
	// makes the outages before the last comparison, and Temporary matches names that uploads leave when they are cut off.
	Outages   bool
	Longest   time.Duration
	Calm      func() error
	Temporary *regexp.Regexp

	// Command makes the command of a process that calls Serve for dir with its standard input and output.
	Command func(dir string) *exec.Cmd
}

// Report tells what a run has done.
type Report struct {
	Ops, Failed   int // Failed: ended with the errno of an outage
	Reads, Writes int // of shared registers
	Locks         int // taken
	Longest       time.Duration
}

func (r Report) String() string {
	return fmt.Sprintf("%d operations, %d of them failed in outages, the longest took %v; shared: %d reads and %d writes of registers, %d locks taken",
		r.Ops, r.Failed, r.Longest.Round(time.Millisecond), r.Reads, r.Writes, r.Locks)
}

func (o Options) filled() Options {
	o.Processes, o.Hands = max(o.Processes, 1), max(o.Hands, 1)
	if o.Limit == 0 {
		o.Limit = 30 * time.Second
	}
	if o.Quiesce == 0 {
		o.Quiesce = 150
	}
	if o.Longest == 0 {
		o.Longest = time.Minute
	}
	return o
}

// Run does random operations and returns an error that tells the first answer that was wrong.
func Run(o Options) (report Report, err error) {
	o = o.filled()
	r := &run{o: &o, done: make(chan struct{}), shared: newShared(&o)}
	defer func() {
		for _, t := range r.trees {
			for _, h := range t.hands {
				err = errors.Join(err, h.end())
			}
		}
		report = r.report()
	}()
	if err := r.start(); err != nil {
		return report, err
	}
	if o.Duration > 0 {
		timer := time.AfterFunc(o.Duration, r.stop)
		defer timer.Stop()
	}
	var onlooker sync.WaitGroup
	if o.Hot {
		onlooker.Go(func() { r.look() })
	}
	err = r.each(func(i int, t *tree) error { return t.run(r.done, func() error { return r.aside(i, t) }) })
	r.stop()
	onlooker.Wait()
	if err == nil && o.Outages {
		err = r.calm()
	}
	if err == nil {
		err = r.shared.check()
	}
	return report, err
}

type run struct {
	o      *Options
	trees  []*tree
	shared *shared
	done   chan struct{}
	once   sync.Once
}

func (r *run) stop() { r.once.Do(func() { close(r.done) }) }

func (r *run) start() error {
	for i := range r.o.Processes {
		t := &tree{o: r.o, base: fmt.Sprintf("tree%d", i), gen: newGenerator(r.o.Seed, i, r.o.Hands), stride: r.o.Processes, first: i}
		r.trees = append(r.trees, t)
		if err := t.start(); err != nil {
			return err
		}
	}
	if r.o.Alone {
		return nil
	}
	return r.shared.prepare(r.trees[0])
}

// start starts the tree's processes and makes its directory.
func (t *tree) start() error {
	t.worlds, t.inodes = []*World{NewWorld()}, map[int]uint64{}
	for range t.gen.hands {
		h, err := startHand(t.o.Command(t.o.Dir))
		if err != nil {
			return err
		}
		t.hands = append(t.hands, h)
	}
	a, err := t.hands[0].do(Op{Kind: Mkdir, Path: t.base, Mode: 0o755}, t.o.Limit)
	if err == nil && (a.Err != 0 || a.Hung) {
		err = fmt.Errorf("make %s: %s", t.base, a)
	}
	return err
}

// each runs f for all trees at once, and ends the others when one fails.
func (r *run) each(f func(int, *tree) error) error {
	errs := make([]error, len(r.trees))
	var all sync.WaitGroup
	for i, t := range r.trees {
		all.Go(func() {
			if errs[i] = f(i, t); errs[i] != nil {
				r.stop()
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// aside does something in the shared directory now and then.
func (r *run) aside(i int, t *tree) error {
	switch {
	case r.o.Hot && t.gen.chance(90):
		return r.shared.access(t, r.shared.replaced[t.gen.r.IntN(2)])
	case r.o.Alone || !t.gen.chance(20):
		return nil
	}
	return r.shared.act(t, i)
}

// look looks at the hot files as the server has them, until the run is over.
func (r *run) look() {
	for i := 0; ; i++ {
		select {
		case <-r.done:
			return
		default:
		}
		_ = r.shared.peek(r.shared.replaced[i%2]) // what it finds wrong the processes meet as well
		time.Sleep(30 * time.Microsecond)
	}
}

// calm ends the outages and compares everything once more, now without any excuse.
func (r *run) calm() error {
	if r.o.Calm != nil {
		if err := r.o.Calm(); err != nil {
			return err
		}
	}
	if err := r.each(func(_ int, t *tree) error { return t.awaitServer() }); err != nil {
		return err
	}
	if err := r.cleaned(); err != nil {
		return err
	}
	r.o.Outages = false
	return r.each(func(_ int, t *tree) error {
		if err := t.look(); err != nil {
			return err
		}
		return t.compareServer()
	})
}

// cleaned waits until the temporary files that outages left on the server are gone.
func (r *run) cleaned() error {
	deadline := time.Now().Add(r.o.Longest)
	for {
		var left []string
		err := filepath.WalkDir(r.o.Backing, func(name string, _ os.DirEntry, err error) error {
			if r.trees[0].litter(name) {
				left = append(left, name)
			}
			return err
		})
		switch {
		case err == nil && len(left) == 0:
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("seed %d: %v after the last outage the server still has %q (%v)", r.o.Seed, r.o.Longest, left, err)
		}
		time.Sleep(100 * time.Millisecond) // a poll, bounded above
	}
}

func (r *run) report() Report {
	report := Report{Reads: r.shared.reads, Writes: r.shared.writes, Locks: r.shared.taken}
	for _, t := range r.trees {
		report.Ops += t.count
		report.Failed += t.failed
		report.Longest = max(report.Longest, t.wait)
	}
	return report
}
