package conncfg

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// Restrict returns an Error for everything in an unsaved definition that would give its author more than his own rights:
// the daemon reads files, runs programs and knows passwords that he may not. It is for definitions from callers other
// than root and the daemon's own user, and wants mount points below mountRoot. What it refuses:
//
//   - sources of secrets other than the definition itself;
//   - fields that name files, sockets or agents on this machine;
//   - references to variables whose value is secret or comes from outside the configuration: a definition with a host of
//     the author's choice would have the daemon send them there;
//   - mount points elsewhere; any at all if mountRoot is "".
func (c *Config) Restrict(conn *Connection, mountRoot string) []Finding {
	var out []Finding
	for env, set := range conn.all() {
		for name, s := range set {
			f := fieldOf[name]
			refuse := func(message, hint string) {
				place := Finding{Severity: Error, File: conn.File, Line: s.line, Connection: conn.Name, Environment: env, Field: name}
				out = append(out, place.with(&problem{CodeRestricted, message, hint}, f.shownIfOpen(s)))
			}
			switch {
			case s.broken:
			case s.source != nil:
				refuse("takes a secret from a "+string(s.source.kind)+", which only root and the daemon's own user may have it do", "hand the secret over itself")
			case f.local && (f.kind != truth || s.truth):
				refuse("names something on this machine, which the daemon would use with its rights and not yours", "save the definition below connections/, or ask root to mount it")
			case name == "mountPoint" && !below(s.text, mountRoot):
				refuse("lies outside "+mountRoot, "leave it out, or ask root to mount it")
			case f.deferred(s):
				if v := c.guarded(s, env); v != "" {
					refuse(fmt.Sprintf("refers to variable %q, whose value is not for every caller", v), "save the definition below connections/, or give the value itself")
				}
			}
		}
	}
	return tidy(out)
}

func below(name, root string) bool {
	return root != "" && strings.HasPrefix(filepath.Clean(name)+"/", filepath.Clean(root)+"/") && filepath.Clean(name) != filepath.Clean(root)
}

// guarded returns the first variable behind s, in any environment it may be resolved in, that is secret or not a literal.
func (c *Config) guarded(s *setting, env string) string {
	envs := []string{env}
	if env == "" {
		envs = envs[:0]
		for _, e := range c.Environments() {
			envs = append(envs, e.Name)
		}
	}
	for _, env := range envs {
		needed := map[string]*Variable{}
		c.references(env, s.text+s.secret.Reveal(), needed)
		names := make([]string, 0, len(needed))
		for name, v := range needed {
			if v != nil && (v.Secret || v.source.kind != fromValue) {
				names = append(names, name)
			}
		}
		if len(names) > 0 {
			return slices.Min(names)
		}
	}
	return ""
}

// foreign reports what a file may not say that somebody else than root and the daemon's own user can write: the daemon would run programs
// for him, and read files.
func (c *Connection) foreign(owner, file string) {
	c.stranger = owner
	for env, set := range c.all() {
		for name, s := range set {
			f := fieldOf[name]
			if s.broken || !(s.source != nil && s.source.outside() || f.local && (f.kind != truth || s.truth)) {
				continue
			}
			place := Finding{Severity: Error, Line: s.line, Environment: env, Field: name}
			c.report(place.with(foreignProblem(owner, file), f.shownIfOpen(s)))
		}
	}
}

// Stranger tells in words who besides root and the daemon's own user can write the definition; "" if nobody can. Such a one may not say
// where on this machine it is mounted, beyond the mount root.
func (c *Connection) Stranger() string { return c.stranger }

func foreignProblem(owner, file string) *problem {
	return &problem{CodeOwner, "names something that the daemon would use with its rights, in a file that " + owner, "look at it, then chown root " + file + "; or have an admin write it by command"}
}

// outside reports whether a value comes from this machine, and not from the definition.
func (s *source) outside() bool {
	return s.kind == fromFile || s.kind == fromCommand || s.kind == fromEnv || s.kind == fromCredential
}
