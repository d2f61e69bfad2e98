package daemon

import (
	"context"
	"errors"
	"os"
	"strings"
	"time"

	"pierfs/backends/dial"
	"pierfs/cmd/internal/control"
	"pierfs/conncfg"
)

func (d *Daemon) test(ctx context.Context, q control.TestRequest, send func(control.Step) error) error {
	began := time.Now()
	target, err := d.testTarget(ctx, q)
	step := control.Step{Step: "resolve", OK: err == nil, Millis: millis(time.Since(began))}
	if err != nil {
		e, ok := errors.AsType[*control.Error](err)
		if !ok || e.Code != control.ConfigInvalid && e.Code != control.NotAllowed {
			return err
		}
		step.Detail, step.Fix = e.Text, e.Hint
	} else {
		step.Detail = endpoint(target)
	}
	if err := errors.Join(send(step), err); err != nil {
		return err
	}
	called := ""
	if q.Definition.IsZero() {
		called = d.called(Want{Name: q.Name, Environment: target.Environment})
	}
	var unheard error
	note := d.testedAs(ctx, q)
	tries := dial.Tries{Write: q.WriteProbe, Privileges: q.Privileges}
	err = d.o.Floor.Test(ctx, target, tries, d.log.With("conn", target.Name, "env", target.Environment), func(s control.Step) {
		s.Fix = named(s.Fix, called)
		unheard = errors.Join(unheard, send(s))
	})
	if err == nil && note != nil {
		note()
	}
	return errors.Join(toldOf(called, err), unheard)
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// testTarget resolves what a test is asked of: a definition of the store as it is written now, one that the request
// brings, or what is mounted on a directory.
func (d *Daemon) testTarget(ctx context.Context, q control.TestRequest) (conncfg.Target, error) {
	if strings.HasPrefix(q.Name, "/") && q.Definition.IsZero() {
		m, err := d.mountOf(q.Name, "")
		if err != nil {
			return conncfg.Target{}, err
		}
		return m.reach(), nil
	}
	plan := d.readPlan(ctx)
	config, environment, err := plan.at(q.Environment)
	if err != nil {
		return conncfg.Target{}, err
	}
	if q.Definition.IsZero() {
		if config.Connection(q.Name) == nil {
			_, err := plan.wanted(q.Name, "")
			return conncfg.Target{}, err
		}
		return d.resolve(ctx, config, q.Name, environment)
	}
	c, findings := conncfg.Parse([]byte(q.Definition.Open()), "definition", "")
	if c.Name == "" { // a file that leaves the name out has its own
		c, findings = conncfg.Parse([]byte(q.Definition.Open()), "definition", q.Name)
	}
	if err := d.refusal(findings); err != nil {
		return conncfg.Target{}, err
	}
	target, _, err := d.resolveUnsaved(ctx, config, c, environment)
	return target, err
}

// resolveUnsaved resolves a connection that a caller brought, within what that caller may have the daemon do. Root may have it
// do anything, and so may the daemon's own user, who could do it without the daemon.
func (d *Daemon) resolveUnsaved(ctx context.Context, config *conncfg.Config, c *conncfg.Connection, environment string) (conncfg.Target, []conncfg.Finding, error) {
	if peer, ok := control.PeerOf(ctx); !ok || peer.UID != 0 && peer.UID != uint32(os.Geteuid()) {
		if err := d.refusal(config.Restrict(c, d.o.Dirs.MountRoot)); err != nil {
			e := *err.(*control.Error)
			e.Code = control.NotAllowed
			return conncfg.Target{}, nil, &e
		}
	}
	target, findings := config.ResolveUnsaved(ctx, c, environment)
	return target, findings, d.refusal(findings)
}
