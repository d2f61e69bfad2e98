package daemon

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"

	"pierfs/cmd/internal/control"
	"pierfs/cmd/internal/registry"
	"pierfs/conncfg"
)

// readPlan reads the definitions that are in force: of a file that was changed by hand, and has to wait for a second person, what it held
// before.
func (d *Daemon) readPlan(ctx context.Context) Plan {
	held := d.heldBack()
	if len(held) == 0 {
		return d.o.Plan(ctx)
	}
	config, _ := conncfg.LoadWith(d.o.Dirs.Config, held)
	return planOf(config, d.o.Dirs.MountRoot)
}

// inForce reads the configuration that is in force.
func (d *Daemon) inForce() *conncfg.Config {
	config, _ := conncfg.LoadWith(d.o.Dirs.Config, d.heldBack())
	return config
}

// heldBack returns what is in force of files that hold something else by now.
func (d *Daemon) heldBack() map[string][]byte {
	if d.registry == nil {
		return nil
	}
	held, err := d.registry.Held()
	if err != nil {
		d.log.Error("the changes that wait for approval cannot be read", "err", err)
	}
	return held
}

// pending tells the changes that wait, as far as the caller may see what they are about.
func (d *Daemon) pending(ctx context.Context, _ control.PendingRequest) (control.PendingAnswer, error) {
	a := control.PendingAnswer{Pending: []control.Proposal{}}
	for _, p := range d.proposed() {
		if slices.ContainsFunc(p.Files, func(f registry.File) bool { return !d.sees(ctx, f.Name) }) {
			continue
		}
		told := control.Proposal{ID: p.ID, Time: p.Time, UID: p.Who.UID, User: p.Who.User, Verb: p.Verb, Subject: p.Subject, Reason: p.Reason,
			Protects: p.Protects, Files: []string{}, Changes: nonNil(p.Changes)}
		for _, f := range p.Files {
			told.Files = append(told.Files, f.Name)
		}
		a.Pending = append(a.Pending, told)
	}
	return a, nil
}

func (d *Daemon) proposed() []registry.Proposal {
	if d.registry == nil {
		return nil
	}
	all, err := d.registry.Proposals()
	if err != nil {
		d.log.Error("a change that waits for approval cannot be read", "err", err)
	}
	return all
}

// judging returns the proposal of a request, if its caller may judge it: he has the role for all that it concerns.
func (d *Daemon) judging(ctx context.Context, id string) (registry.Proposal, map[string][]byte, error) {
	if d.registry == nil {
		return registry.Proposal{}, nil, control.Errorf(control.Internal, "the log of changes cannot be used").WithHint("the daemon's log tells why")
	}
	p, files, err := d.registry.Contents(id)
	if err != nil {
		return p, nil, proposalError(err)
	}
	for _, f := range p.Files {
		if project := projectOf(f.Name); !d.role(ctx, conncfg.Approver, project) {
			peer, _ := control.PeerOf(ctx)
			return p, nil, lacks(peer, d.grants(), conncfg.Approver, "judging "+id, project)
		}
	}
	return p, files, nil
}

func proposalError(err error) error {
	switch {
	case errors.Is(err, registry.ErrNoProposal):
		return control.Errorf(control.NotFound, "%v", err).WithHint("`pierfs pending` lists what waits")
	case errors.Is(err, registry.ErrOutdated), errors.Is(err, conncfg.ErrChanged):
		return control.Errorf(control.Busy, "%v", err).WithHint("reject it, and have it proposed again")
	}
	return logUnread(err)
}

// approve brings a change into force that somebody else has proposed.
func (d *Daemon) approve(ctx context.Context, q control.ApproveRequest) (control.ChangeAnswer, error) {
	d.editing.Lock()
	defer d.editing.Unlock()
	c, err := d.begin(ctx, "approve", q.ID, q.ChangeOptions)
	if err != nil {
		return control.ChangeAnswer{}, err
	}
	p, files, err := d.judging(ctx, q.ID)
	if err != nil {
		return control.ChangeAnswer{}, err
	}
	if who := author(ctx); who.UID == p.Who.UID {
		return control.ChangeAnswer{}, control.Errorf(control.NotAllowed, "user %d wants this change, and a second person has to approve it", who.UID).
			WithHint("somebody else who is an approver runs `pierfs approve %s`: %s", p.ID, strings.Join(append([]string{"root"}, d.grants().Who(conncfg.Approver, projectOf(p.Files[0].Name))...), ", "))
	}
	c.files, c.approves, c.guarded = files, p.ID, p.Verb == "delete" || p.Verb == "env use"
	return c.commit(ctx)
}

// reject ends a change that waits. Who has proposed it may take it back himself.
func (d *Daemon) reject(ctx context.Context, q control.ApproveRequest) (control.ChangeAnswer, error) {
	d.editing.Lock()
	defer d.editing.Unlock()
	a := control.ChangeAnswer{Changes: []conncfg.Difference{}, Impact: []control.Impact{}, Findings: []conncfg.Finding{}}
	p, _, err := d.judging(ctx, q.ID)
	if control.CodeOf(err) == control.NotAllowed && author(ctx).UID == p.Who.UID {
		err = nil
	}
	if err != nil {
		return a, err
	}
	for _, c := range p.Changes {
		c.Before, c.After = c.After, c.Before
		a.Changes = append(a.Changes, c)
	}
	if q.DryRun {
		return a, nil
	}
	if err := d.registry.Reject(p.ID, author(ctx), q.Reason); err != nil {
		return a, proposalError(err)
	}
	d.log.Info("a change was rejected", "proposal", p.ID, "verb", p.Verb, "subject", p.Subject, "uid", author(ctx).UID)
	return a, nil
}

// propose keeps a change for a second person where it needs one; "" where it does not.
func (c *draft) propose(ctx context.Context, next *conncfg.Config) (id string, err error) {
	protects := conncfg.Protects(c.was, next)
	if len(protects) == 0 || c.approves != "" {
		return "", nil
	}
	p, err := c.d.registry.Propose(registry.Change{Who: author(ctx), Verb: c.verb, Subject: c.subject, Reason: c.o.Reason, Files: c.files}, protects)
	if err != nil {
		return "", changeError(err)
	}
	c.d.log.Info("a change waits for approval", "proposal", p.ID, "verb", c.verb, "subject", c.subject, "protects", protects, "uid", p.Who.UID)
	return p.ID, nil
}

// with returns what is in force with other files in its place.
func (c *draft) with(files map[string][]byte) *conncfg.Config {
	all := maps.Clone(c.held)
	if all == nil {
		all = map[string][]byte{}
	}
	maps.Copy(all, files)
	config, _ := conncfg.LoadWith(c.d.o.Dirs.Config, all)
	return config
}
