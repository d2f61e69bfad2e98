package conncfg

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Difference is one value that differs between two states of a configuration, without anything of a secret: of that it tells
// only that it is another one.
type Difference struct {
	File        string `json:"file"` // below the configuration directory
	Connection  string `json:"connection,omitempty"`
	Environment string `json:"environment,omitempty"` // "" for all
	Field       string `json:"field"`
	Before      string `json:"before,omitempty"` // "" where it is not written
	After       string `json:"after,omitempty"`
}

// Differences returns what is written otherwise in after, in the order of files and fields. Comments and layout do not count.
func Differences(before, after *Config) []Difference {
	old, now := before.written(), after.written()
	hidden := before.feedsSecrets()
	maps.Copy(hidden, after.feedsSecrets())
	var out []Difference
	for at := range union(old, now) {
		a, b := old[at], now[at]
		if a.raw == b.raw {
			continue
		}
		d := at
		if strings.HasPrefix(at.Field, "variables.") && hidden[strings.TrimPrefix(at.Field, "variables.")] {
			a.shown, b.shown = hide(a.shown), hide(b.shown)
		}
		if a.shown == b.shown && a.shown != "" {
			b.shown += " (another one)"
		}
		d.Before, d.After = a.shown, b.shown
		out = append(out, d)
	}
	slices.SortFunc(out, func(a, b Difference) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Environment, b.Environment),
			cmp.Compare(rankOf(a.Field), rankOf(b.Field)), cmp.Compare(a.Field, b.Field))
	})
	return out
}

// rankOf is where a field stands in the table of fields.
func rankOf(name string) int {
	return slices.IndexFunc(fields, func(f *field) bool { return f.name == name })
}

func hide(shown string) string {
	if shown == "" {
		return ""
	}
	return masked
}

// value is what is written, and what may be shown of it.
type value struct{ raw, shown string }

// written returns all values of a configuration by their place.
func (c *Config) written() map[Difference]value {
	all := map[Difference]value{}
	for name, conn := range c.connections {
		at := Difference{File: ConnectionFile(name), Connection: name}
		exists := at
		exists.Field = "name"
		all[exists] = value{name, name}
		for env, set := range conn.all() {
			for field, s := range set {
				at.Environment, at.Field = env, field
				all[at] = value{raw: s.raw(), shown: cmp.Or(fieldOf[field].shown(s), `""`)}
				if s.broken {
					all[at] = value{raw: "broken", shown: "(a mistake)"}
				}
			}
		}
	}
	scopes := map[string]scope{"": c.global}
	for name, e := range c.environments {
		scopes[name] = e.variables
		if e.File != "" {
			all[Difference{File: EnvironmentFile(name), Environment: name, Field: "environment"}] = value{name, name}
			of := Difference{File: EnvironmentFile(name), Environment: name, Field: "policy"}
			if e.Policy != policyOf(name) {
				all[of] = value{fmt.Sprintf("%+v", e.Policy), fmt.Sprintf("%+v", e.Policy)}
			}
			if of.Field = "protected"; e.Protected {
				all[of] = value{"true", "true"}
			}
		}
	}
	for env, s := range scopes {
		for _, v := range s.all() {
			at := Difference{File: EnvironmentFile(env), Environment: env, Field: "variables." + v.Name}
			if v.Secret {
				at.Field = "secrets." + v.Name
			}
			all[at] = value{raw: string(v.source.kind) + "\x00" + v.source.text + "\x00" + strings.Join(v.source.argv, "\x00") + v.source.rotation.toml(), shown: cmp.Or(v.Source()+v.source.rotation.String(), `""`)}
		}
	}
	settings := Difference{File: settingsFile}
	settings.Field = "activeEnvironments"
	all[settings] = value{strings.Join(c.active, "\x00"), "[" + strings.Join(c.active, ", ") + "]"}
	if settings.Field = "roles"; !c.roles.Empty() {
		all[settings] = value{c.roles.String(), c.roles.String()}
	}
	return all
}

// raw is everything that makes a setting what it is. It may hold a secret and goes nowhere.
func (s *setting) raw() string {
	parts := []string{s.text, s.secret.Reveal(), s.duration.String()}
	s.source.hash(func(more ...string) { parts = append(parts, more...) })
	if s.source != nil {
		parts = append(parts, s.source.rotation.toml())
	}
	return strings.Join(parts, "\x00")
}

// feedsSecrets returns the variables that any connection needs for a field that holds a secret: whether they are marked or not,
// their values are not for everybody.
func (c *Config) feedsSecrets() map[string]bool {
	names := map[string]bool{}
	for _, conn := range c.connections {
		for env := range c.environments {
			needed := map[string]*Variable{}
			for _, name := range Secrets() {
				if s := conn.merged(env, name); s != nil && !s.broken {
					c.references(env, s.secret.Reveal(), needed)
				}
			}
			for name := range needed {
				names[name] = true
			}
		}
	}
	return names
}

func union[K comparable, V any](a, b map[K]V) map[K]V {
	both := maps.Clone(a)
	maps.Copy(both, b)
	return both
}

// Affected is a connection in an environment whose meaning differs between two states of a configuration.
type Affected struct {
	Name        string `json:"name"`
	Environment string `json:"environment"`
	Change      string `json:"change"` // "added", "changed" or "removed"
}

// Affects returns the connections that mean something else in after than in before, in the environments that exist in either.
// A description is no meaning; that it is switched on or off is.
func Affects(before, after *Config) []Affected {
	var out []Affected
	for name := range union(before.connections, after.connections) {
		old, now := before.connections[name], after.connections[name]
		for env := range union(before.environments, after.environments) {
			a := Affected{Name: name, Environment: env, Change: "changed"}
			switch {
			case old == nil:
				a.Change = "added"
			case now == nil:
				a.Change = "removed"
			case before.Revision(name, env) == after.Revision(name, env) && old.Enabled() == now.Enabled() &&
				slices.Contains(before.active, env) == slices.Contains(after.active, env):
				continue
			}
			out = append(out, a)
		}
	}
	slices.SortFunc(out, func(a, b Affected) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Environment, b.Environment))
	})
	return out
}

// Protects returns what a change from before to after needs a second person for, in the words of a proposal: protected connections that
// are written otherwise, protected environments in which something means something else, and the roles where anything is protected. What
// is protected before or after is.
func Protects(before, after *Config) []string {
	found := map[string]bool{}
	for _, a := range Affects(before, after) {
		if before.protectsConnection(a.Name) || after.protectsConnection(a.Name) {
			found["connection "+a.Name] = true
		}
		if before.protectsEnvironment(a.Environment) || after.protectsEnvironment(a.Environment) {
			found["environment "+a.Environment] = true
		}
	}
	for _, d := range Differences(before, after) {
		switch {
		case d.Connection != "":
			if before.protectsConnection(d.Connection) || after.protectsConnection(d.Connection) {
				found["connection "+d.Connection] = true
			}
		case d.Environment != "":
			if before.protectsEnvironment(d.Environment) || after.protectsEnvironment(d.Environment) {
				found["environment "+d.Environment] = true
			}
		case d.File == settingsFile && d.Field == "roles" && (before.protectsAnything() || after.protectsAnything()):
			found["roles"] = true
		}
	}
	return slices.Sorted(maps.Keys(found))
}

func (c *Config) protectsConnection(name string) bool {
	conn := c.connections[name]
	return conn != nil && conn.truth("", "protected")
}

func (c *Config) protectsEnvironment(name string) bool {
	e := c.environments[name]
	return e != nil && e.Protected
}

func (c *Config) protectsAnything() bool {
	for name := range c.connections {
		if c.protectsConnection(name) {
			return true
		}
	}
	return slices.ContainsFunc(c.Environments(), func(e *Environment) bool { return e.Protected })
}
