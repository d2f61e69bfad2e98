package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pierfs/integration/process"
)

// budget is how many steps a load takes at most before its daemon is killed.
const budget = 2000

// chance returns a moment of chance: any of some hundred steps of the load, now and then one soon after the daemon's start.
func (s *stage) chance() aim {
	a := aim{nth: 1 + s.rng.IntN(1500), cut: s.rng.IntN(5) == 0}
	switch s.rng.IntN(8) {
	case 0:
		a.early, a.nth = true, 1+s.rng.IntN(80)
	case 1: // while it takes over what the one before has left
		a.after, a.nth = time.Duration(1+s.rng.IntN(1000))*time.Millisecond, 0
	}
	if s.rng.IntN(2) == 0 {
		a.delay = time.Duration(1+s.rng.IntN(2000)) * time.Microsecond
	}
	if (a.delay > 0 || a.after > 0) && s.disk == nil && s.rng.IntN(3) == 0 {
		a.grace = time.Duration(1+s.rng.IntN(200)) * time.Millisecond
	}
	if s.outages && !a.early && a.after == 0 {
		s.addOutage(&a)
	}
	return a
}

// survives is live as a test of its own, whose log is told if it fails. Most daemons are given the time to clear up behind the one
// before.
func (s *stage) survives(t *testing.T, name string, a aim) bool {
	t.Helper()
	return t.Run(name, func(t *testing.T) { s.live(t, a, s.disk != nil || s.rng.IntN(4) > 0) })
}

// live is the life of one daemon, from its start to its death by aim, with programs at work. It begins with looking at what the
// one before has left, and reports whether the daemon was killed right at a step.
func (s *stage) live(t *testing.T, a aim, patient bool) (hit bool) {
	t.Helper()
	g := s.begin(t, a)
	if err := s.daemon.AwaitReady(); err == nil {
		s.blame(t, s.check(t, g, patient))
		if !t.Failed() && !g.isOver() { // one that died meanwhile has not shown all that it owes
			s.load(t, g)
			if a.calm && !t.Failed() && !g.isOver() {
				s.calm(t, g)
			}
		}
	} else if !errors.Is(err, process.ErrEnded) {
		t.Fatalf("pierfsd does not become ready: %v\n%s", err, s.daemon.Log())
	}
	at := s.finish(t, g)
	s.blame(t, append(s.judge(t), s.judgeContest()...))
	if t.Failed() {
		t.Logf("killed: %v (%s)", a, at)
	}
	return at != ""
}

// begin launches a daemon that is to be killed by aim.
func (s *stage) begin(t *testing.T, a aim) *gate {
	t.Helper()
	launched := make(chan struct{})
	g := newGate(a, func() {
		<-launched
		if a.grace > 0 {
			s.daemon.Terminate()
			s.late = time.AfterFunc(a.grace, s.daemon.Strike)
			return
		}
		s.daemon.Strike()
		s.blackOut()
	})
	g.fall = func() { s.fall(a.gap) }
	if s.contest != nil {
		g.hear = s.contest.hear
	}
	s.road.set(g)
	s.daemon.Launch(t)
	close(launched)
	if a.after > 0 {
		time.AfterFunc(a.after, g.killed)
	}
	return g
}

// finish kills the daemon, if that has not been done, waits for the server to be through with it, and returns the step at which
// it died; "" if it was between two.
func (s *stage) finish(t *testing.T, g *gate) (at string) {
	t.Helper()
	g.killed()
	<-s.daemon.Done()
	if g.hasFallen() {
		s.stands()
		s.sum.outages++
	}
	if s.late != nil { // it has ended by itself
		s.late.Stop()
	}
	if g.aim.cut {
		s.server.KillSessions(t)
		s.sum.cuts++
	}
	if g.aim.grace > 0 {
		s.sum.terms++
	}
	passed, at := g.close()
	s.sum.kills++
	addAll(s.sum.passed, passed)
	if at != "" {
		s.sum.sites[at]++
	}
	if err := g.settle(process.Patience); err != nil {
		t.Fatal(err)
	}
	s.powerUp(t)
	return at
}

// blame fails the test with what was found.
func (s *stage) blame(t *testing.T, harms []harm) {
	t.Helper()
	for _, h := range harms {
		s.sum.harms[h.kind]++
		t.Error(h)
	}
	if len(harms) > 0 {
		for _, w := range s.workers {
			t.Logf("%s did: %s", w.name, strings.Join(w.trail, "; "))
		}
	}
}

// load has all workers work until the daemon is dead.
func (s *stage) load(t *testing.T, g *gate) {
	t.Helper()
	g.load()
	s.rest.Store(false)
	errs := make([]error, len(s.workers))
	var all sync.WaitGroup
	for i, w := range s.workers {
		all.Go(func() {
			err := w.run(&s.rest)
			if err = s.unlessFallen(g, err); err != nil {
				errs[i] = err
				g.killed() // to end the others
			}
		})
	}
	over := make(chan struct{})
	if c := s.contest; c != nil {
		all.Go(func() {
			if err := s.unlessFallen(g, c.run(func() bool { return s.rest.Load() || g.isOver() })); err != nil {
				t.Error(err)
				g.killed()
			}
		})
		var rival sync.WaitGroup
		rival.Go(func() {
			if err := c.compete(func() bool { return isClosed(over) }); err != nil {
				t.Error(err)
			}
		})
		defer rival.Wait()
	}
	defer close(over)
	done := make(chan struct{})
	go func() { // ends with the workers
		all.Wait()
		close(done)
	}()
	late := time.NewTimer(process.Patience)
	defer late.Stop()
	enough := time.NewTicker(20 * time.Millisecond)
	defer enough.Stop()
	for working := true; working; {
		select {
		case <-done:
			working = false
		case <-enough.C:
			switch {
			case g.aim.calm && g.hasFallen() && g.steps() > g.aim.outage+calming, g.aim.calm && g.steps() > budget:
				s.rest.Store(true)
			case g.steps() > budget:
				g.killed()
			}
		case <-late.C:
			t.Errorf("the load did not end within %v", process.Patience)
			g.killed()
		}
	}
	for _, err := range errs {
		if err != nil {
			t.Errorf("a program was told, by a daemon that lives: %v", err)
		}
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// lives reports whether the daemon is alive, which one that somebody has just killed may seem to be for a moment.
func (s *stage) lives(g *gate) bool {
	if g.isOver() {
		return false
	}
	select {
	case <-s.daemon.Done():
		return false
	case <-time.After(dying):
		return true
	}
}

// dying is how long a process that was killed may take to be gone.
const dying = 2 * time.Second

// judge returns how what the server has is not what it may have, right after a daemon's death. What it has is what the workers go
// on from, unless something may be owed to it.
func (s *stage) judge(t *testing.T) (harms []harm) {
	t.Helper()
	for _, w := range s.workers {
		found := s.has(t, w.name)
		s.sum.temps += len(found.temps)
		more := w.past.halves(found.world)
		if !s.owing() {
			more = s.settle(w, found.world)
		}
		harms = append(harms, inside(w.name, more)...)
	}
	found := s.has(t, logbookDir)
	s.sum.temps += len(found.temps)
	if !s.owing() {
		harms = append(harms, s.settleLog(found.world)...)
	}
	return append(harms, inside(logbookDir, onlyLog(found.world))...)
}

// judgeContest is judge for what others have written to as well.
func (s *stage) judgeContest() []harm {
	if s.contest == nil {
		return nil
	}
	harms := s.contest.judge()
	addAll(s.sum.contest, s.contest.sum)
	clear(s.contest.sum)
	return harms
}

// owing reports whether programs are told before the server has what they did.
func (s *stage) owing() bool { return s.commit == "background" }

// settle takes what was found for what worker w goes on from, and returns how it may not be so.
func (s *stage) settle(w *worker, found world) (harms []harm) {
	at, _, harms := explain(found, w.may)
	if len(w.may) > 1 {
		switch {
		case at.grows != "":
			s.sum.torn++
		case at.explains(w.now):
			s.sum.nothing++
		default:
			s.sum.whole++
		}
	}
	w.found(found, at)
	return harms
}

// settleLog is settle for what all workers have in common.
func (s *stage) settleLog(found world) (harms []harm) {
	log := found[logbookName].content
	register, there := found[registerName]
	harms = append(s.log.explain(log), s.register.explain(register, there)...)
	s.log.found(log)
	s.register.found(register, there)
	return harms
}

// onlyLog returns what does not belong beside what all have in common.
func onlyLog(found world) (harms []harm) {
	for name := range found {
		if name != logbookName && name != registerName {
			harms = append(harms, harm{name, risen, "is of nobody's making"})
		}
	}
	return harms
}

// has returns what the server has below name, an empty tree if there is nothing.
func (s *stage) has(t *testing.T, name string) sight {
	t.Helper()
	found, err := look(filepath.Join(s.behind, name))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return found
}

// inside returns harms with the names that they have from the top.
func inside(dir string, harms []harm) []harm {
	for i := range harms {
		harms[i].name = filepath.Join(dir, harms[i].name)
	}
	return harms
}

// homes returns the directories that are worked in, and what each is to hold.
func (s *stage) homes() map[string][]state {
	log := world{}
	if s.log.base != nil {
		log = log.with(logbookName, s.log.base)
	}
	if s.register.there {
		log = log.with(registerName, s.register.base)
	}
	homes := map[string][]state{logbookDir: {{world: log}}}
	for _, w := range s.workers {
		homes[w.name] = w.rests()
	}
	return homes
}

// check returns how what programs see behind a restart, and what the server has, is not what it may be. If it is patient it waits
// until nothing is owed and no temporary name is left, and programs go on looking meanwhile. The daemon may be killed at any time.
func (s *stage) check(t *testing.T, g *gate, patient bool) (harms []harm) {
	t.Helper()
	if s.owing() {
		harms = s.settleSeen(t, g)
	} else {
		harms = s.watch(t, g)
	}
	watch := s.watch
	if len(harms) > 0 {
		if slices.ContainsFunc(harms, func(h harm) bool { return h.kind != glimpsed }) {
			return harms
		}
		watch = func(*testing.T, *gate) []harm { return nil } // it is known what they see; whether it goes is not
	}
	temps, more := s.await(t, g, patient, watch)
	harms = append(harms, more...)
	for _, temp := range temps {
		harms = append(harms, harm{temp, left, fmt.Sprintf("is still on the server %v after the restart", s.patience)})
	}
	return harms
}

// settleSeen takes what programs see for what everybody goes on from, and returns how it may not be so.
func (s *stage) settleSeen(t *testing.T, g *gate) (harms []harm) {
	t.Helper()
	for _, w := range s.workers {
		seen, ok := s.sees(t, g, w.name)
		if !ok {
			return harms
		}
		harms = append(append(harms, s.harmsOf(seen)...), inside(w.name, s.settle(w, seen.world))...)
	}
	if seen, ok := s.sees(t, g, logbookDir); ok {
		harms = append(append(harms, s.harmsOf(seen)...), s.settleLog(seen.world)...)
	}
	return harms
}

// watch returns how what programs see is not what everybody goes on from.
func (s *stage) watch(t *testing.T, g *gate) (harms []harm) {
	t.Helper()
	for name, want := range s.homes() {
		seen, ok := s.sees(t, g, name)
		if !ok {
			break
		}
		_, _, more := explain(seen.world, want)
		harms = append(append(harms, s.harmsOf(seen)...), asShown(name, more)...)
	}
	return harms
}

// harmsOf returns what no program should see, or be told, whatever the tree is like. Behind a failure of the power nobody knows temporary names
// any more: these are counted, and forgiven.
func (s *stage) harmsOf(seen sight) (harms []harm) {
	for _, temp := range seen.temps {
		if s.disk != nil {
			s.sum.forgiven++
			continue
		}
		harms = append(harms, harm{temp, glimpsed, "by programs"})
	}
	for _, name := range seen.stale {
		harms = append(harms, harm{name, stale, "is told to a program that reads it"})
	}
	return harms
}

// asShown returns harms that programs see, and the server has not.
func asShown(dir string, harms []harm) []harm {
	for i, h := range inside(dir, harms) {
		harms[i] = harm{h.name, shown, "to programs " + h.text + ", as the server has it"}
	}
	return harms
}

// sees returns what programs see in the directory name, which is made if it is not there; ok is false if the daemon is dead.
func (s *stage) sees(t *testing.T, g *gate, name string) (seen sight, ok bool) {
	t.Helper()
	dir := filepath.Join(s.daemon.Mount(connection), name)
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		s.unlessDead(t, g, "mkdir", err)
		return seen, false
	}
	seen, err := look(dir)
	if err != nil {
		s.unlessDead(t, g, "read the mount", err)
		return seen, false
	}
	if g.aim.grace > 0 && g.isOver() { // the mount may have been taken away meanwhile, and the directory be what lies below it
		return seen, false
	}
	for _, names := range [][]string{seen.temps, seen.stale} {
		for i := range names {
			names[i] = filepath.Join(name, names[i])
		}
	}
	return seen, true
}

// await returns how what the server has is not what programs see, which watch goes on looking at. If it is patient it waits until nothing is owed and no temporary name is
// left, and returns those that are in the end.
func (s *stage) await(t *testing.T, g *gate, patient bool, watch func(*testing.T, *gate) []harm) (temps []string, harms []harm) {
	t.Helper()
	for deadline := time.Now().Add(s.patience); ; time.Sleep(5 * time.Millisecond) {
		temps, harms = nil, nil
		if patient {
			if harms = watch(t, g); len(harms) > 0 {
				return nil, harms
			}
		}
		for name, want := range s.homes() {
			found := s.has(t, name)
			for _, temp := range found.temps {
				temps = append(temps, filepath.Join(name, temp))
			}
			_, _, more := explain(found.world, want)
			harms = append(harms, inside(name, more)...)
		}
		switch {
		case g.isOver(), !patient && s.owing():
			return nil, nil
		case len(harms) > 0 && !s.owing():
			return nil, harms
		case len(harms) == 0 && (len(temps) == 0 || !patient):
			return nil, nil
		case len(harms) == 0 && s.disk != nil:
			s.clearUp(t, temps)
			return nil, nil
		case time.Now().After(deadline):
			s.daemon.Dump()
			return temps, harms
		}
	}
}

// unlessDead fails the test with what a program was told, unless the daemon is dead.
func (s *stage) unlessDead(t *testing.T, g *gate, what string, err error) {
	t.Helper()
	if s.lives(g) {
		t.Errorf("%s: %v", what, err)
	}
}

// somethingKept is pierfsd's status when something lies in quarantine: what was being written when a daemon was killed.
const somethingKept = 74

// end starts the daemon once more, which must find all in order, and stops it.
func (s *stage) end(t *testing.T) {
	t.Helper()
	if t.Failed() {
		return
	}
	g := newGate(aim{}, func() {}) // it is not killed
	s.road.set(g)
	s.daemon.Start(t)
	s.blame(t, s.check(t, g, true))
	if status := s.daemon.Stop(t); status != 0 && status != somethingKept {
		t.Errorf("pierfsd ends with status %d", status)
	}
	passed, _ := g.close()
	addAll(s.sum.passed, passed)
	for _, w := range s.workers {
		s.sum.calls += w.calls
		s.sum.acked += w.acked
	}
}
