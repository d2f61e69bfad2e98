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
