package daemon

import (
	"context"
	"path/filepath"
	"slices"

	"pierfs/cmd/internal/control"
	"pierfs/conncfg"
)

// ReadPlan reads the definitions below configDir: every connection in every active environment, mounted below mountRoot or,
// in the first active environment alone, at its mountPoint.
func ReadPlan(configDir, mountRoot string) Plan {
	config, _ := conncfg.Load(configDir)
	return planOf(config, mountRoot)
}

func planOf(config *conncfg.Config, mountRoot string) Plan {
	plan := Plan{Config: config, Findings: config.Check()}
	plan.Torn = slices.ContainsFunc(plan.Findings, func(f conncfg.Finding) bool {
		return f.Code == conncfg.CodeRead || f.Code == conncfg.CodeNoConfig
	})
	active := config.Active()
	for _, name := range active {
		plan.Environments = append(plan.Environments, control.Environment{Name: name, Active: true})
	}
	for _, e := range config.Environments() {
		if !slices.Contains(active, e.Name) {
			plan.Environments = append(plan.Environments, control.Environment{Name: e.Name})
		}
	}
	for i, environment := range active {
		for _, c := range config.Connections() {
			plan.Wants = append(plan.Wants, wantOf(config, c, environment, mountRoot, i == 0))
		}
	}
	return plan
}

func wantOf(config *conncfg.Config, c *conncfg.Connection, environment, mountRoot string, first bool) Want {
	name := c.Name
	w := Want{
		Name:        name,
		Environment: environment,
		Enabled:     c.Enabled(),
		Dir:         filepath.Join(mountRoot, environment, name),
		Revision:    config.Revision(name, environment),
		Resolve: func(ctx context.Context) (conncfg.Target, []conncfg.Finding) {
			return config.Resolve(ctx, name, environment)
		},
	}
	if dir := mountPointOf(c, environment); first && dir != "" {
		w.Dir = dir
		if below, err := filepath.Rel(mountRoot, dir); c.Stranger() != "" && (err != nil || !filepath.IsLocal(below)) {
			w.Refused = control.Errorf(control.NotAllowed, "mountPoint lies outside of %s, in a file that %s", mountRoot, c.Stranger()).
				WithHint("look at it, then chown root %s", c.File)
		}
	}
	return w
}

// mountPointOf returns the mountPoint of c in environment, which is the same whatever its variables become; "" if it has none.
func mountPointOf(c *conncfg.Connection, environment string) string {
	for _, field := range c.Show(environment) {
		if field.Field == "mountPoint" && filepath.IsAbs(field.Value) {
			return filepath.Clean(field.Value)
		}
	}
	return ""
}

// wanted returns what is defined under a name: without an environment, in the first active one.
func (p Plan) wanted(name, environment string) (Want, error) {
	for _, w := range p.Wants {
		if w.Name == name && (environment == "" || w.Environment == environment) {
			return w, nil
		}
	}
	defined := p.Config != nil && p.Config.Connection(name) != nil ||
		slices.ContainsFunc(p.Wants, func(w Want) bool { return w.Name == name })
	switch {
	case !defined:
		return Want{}, control.Errorf(control.UnknownConnection, "there is no connection %q", name).
			WithHint("`pierfs list` shows them; `pierfs create %s` defines it; after adding a file, `pierfs apply`", name)
	case environment == "":
		return Want{}, control.Errorf(control.NotMounted, "no environment is active on this machine").WithHint(hintNone)
	case !p.knows(environment):
		return Want{}, unknownEnvironment(environment)
	}
	return Want{}, control.Errorf(control.NotMounted, "environment %q is not active on this machine", environment).
		WithHint("name it in activeEnvironments of pierfs.toml, then `pierfs apply`")
}

// at returns the definitions and the environment that a request means: the one it asks for, else the first active one.
func (p Plan) at(asked string) (*conncfg.Config, string, error) {
	switch {
	case p.Config == nil:
		return nil, "", control.Errorf(control.ConfigInvalid, "no definitions have been read").WithHint("see `pierfs check`")
	case asked != "" && !p.knows(asked):
		return nil, "", unknownEnvironment(asked)
	case asked != "":
		return p.Config, asked, nil
	}
	for _, e := range p.Environments {
		if e.Active {
			return p.Config, e.Name, nil
		}
	}
	return nil, "", control.Errorf(control.Usage, "no environment is active").WithHint(hintNone)
}

// called is how commands name a connection in an environment, which need not be told if it is the first active one.
func (p Plan) called(name, environment string) string {
	if _, first, err := p.at(""); environment == "" || err == nil && environment == first {
		return name
	}
	return name + " --env " + environment
}

func (p Plan) knows(environment string) bool {
	return slices.ContainsFunc(p.Environments, func(e control.Environment) bool { return e.Name == environment })
}

const hintNone = "name one with --env, or those of this machine in activeEnvironments of pierfs.toml"

func unknownEnvironment(name string) error {
	return control.Errorf(control.UnknownEnvironment, "there is no environment %q", name).WithHint("`pierfs status` shows them")
}
