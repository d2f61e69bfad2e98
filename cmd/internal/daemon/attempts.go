package daemon

import (
	"context"
	"log/slog"
	"path/filepath"
	"time"

	"pierfs/cmd/internal/control"
	"pierfs/cmd/internal/deployments"
)

// attempt is one try of a mount to come into service, or to be taken out of it. It is guarded by mount.mu.
type attempt struct {
	try   int // since it was in service
	phase string
	began time.Time
	login time.Duration // what the steps of the login that is under way have taken
	told  bool          // that it failed
}

// openDeployments opens the log of attempts. Everything works without it.
func (d *Daemon) openDeployments() {
	failed := func(err error) { d.log.Error("the log of deployments may not outlive a loss of power", "err", err) }
	log, err := deployments.Open(filepath.Join(d.o.Dirs.State, "deployments.jsonl"), deployments.Limits{}, failed)
	if err != nil {
		d.log.Error("no log of deployments is kept", "err", err)
		return
	}
	d.deployments = log
}

// begin starts an attempt at a phase.
func (m *mount) begin(phase string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.attempt = attempt{try: m.attempt.try + 1, phase: phase, began: time.Now()}
}

// reached notes how far the attempt has come.
func (m *mount) reached(phase string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.attempt.phase = phase
}

// ending is the phase of a mount that ends with err.
func ending(err error) string {
	if err != nil {
		return control.PhaseTaken
	}
	return control.PhaseUnmount
}

// loggedIn is told each step of each login. What fails is an attempt of its own.
func (m *mount) loggedIn(step string, took time.Duration, err error) {
	m.mu.Lock()
	if step == "dns" { // a login begins
		m.attempt.login = 0
	}
	m.attempt.login += took
	a := m.attempt
	if err == nil {
		m.mu.Unlock()
		return
	}
	a.phase = step
	m.attempt.login, m.attempt.told = 0, true
	m.attempt.try++
	m.mu.Unlock()
	m.tell(a, a.login, err)
	if m.log.Enabled(m.ctx, slog.LevelDebug) {
		for _, line := range tracedLines(m.trace.Last(tracedWithFailure)) {
			m.log.Debug("trace", "session", line.Session, line.Kind, line.Text)
		}
	}
}

// stood is told when the server has become known as up, or as away for a reason.
func (m *mount) stood(before control.State, up bool, reason error) {
	m.mu.Lock()
	a := m.attempt
	lost := !up && before == control.StateReady
	switch {
	case lost:
		m.attempt = attempt{try: 1, phase: control.PhaseConnect, began: time.Now()}
		a = attempt{phase: control.PhaseSession, began: a.began}
	case up:
		m.attempt = attempt{began: time.Now()} // in service since
		a.phase = control.PhaseReady
	}
	m.mu.Unlock()
	if up || lost || !a.told && reason != errLate {
		m.tell(a, time.Since(a.began), reason)
	}
}

// attempted ends the attempt that is under way.
func (m *mount) attempted(err error) {
	m.mu.Lock()
	a := m.attempt
	m.attempt = attempt{try: a.try}
	m.mu.Unlock()
	m.tell(a, time.Since(a.began), err)
}

// tell writes an attempt down, and tells whoever listens.
func (m *mount) tell(a attempt, took time.Duration, err error) {
	if m.want.loose {
		return
	}
	why := troubleOf(err)
	m.mu.Lock()
	at := endpoint(m.target)
	m.mu.Unlock()
	told := control.Deployment{Time: time.Now().UTC(), Name: m.want.Name, Environment: m.want.Environment, Try: max(a.try, 1), Phase: a.phase,
		OK: err == nil, Millis: millis(took), Cause: why.cause, Code: why.code, Reason: why.reason, Endpoint: at}
	if err := m.d.deployments.Add(told); err != nil {
		m.log.Error("an attempt is not in the log of deployments", "phase", told.Phase, "err", err)
	}
	m.d.figures.Attempt(told)
	m.d.events.Publish(control.Event{Kind: control.EventDeployment, Name: told.Name, Environment: told.Environment, Deployment: &told})
}

// tellDeployments tells the attempts that are kept.
func (d *Daemon) tellDeployments(ctx context.Context, q control.DeploymentsRequest, send func(control.Deployment) error) error {
	wanted := filter(q.Name, q.Environment)
	fits := func(a control.Deployment) bool { return wanted(a.Name, a.Environment) && !a.Time.Before(q.Since) }
	skip := 0
	if q.Last > 0 {
		for a, err := range d.deployments.All() {
			if err != nil {
				return told(err)
			}
			if fits(a) {
				skip++
			}
		}
		skip = max(0, skip-q.Last)
	}
	for a, err := range d.deployments.All() {
		switch {
		case err != nil:
			return told(err)
		case !fits(a):
			continue
		case skip > 0:
			skip--
			continue
		}
		if err := send(a); err != nil {
			return err
		}
	}
	return nil
}
