package conncfg

import (
	"cmp"
	"slices"
)

// Use is a field that needs a variable in an environment.
type Use struct {
	Connection  string `json:"connection"`
	Environment string `json:"environment"`
	Field       string `json:"field"`
}

// Uses returns, for each variable, the fields of connections for which it is the one that counts, also by way of other variables.
func (c *Config) Uses() map[*Variable][]Use {
	uses := map[*Variable][]Use{}
	for _, conn := range c.Connections() {
		for _, env := range c.Environments() {
			for _, f := range fields {
				s := conn.merged(env.Name, f.name)
				if s == nil || !f.deferred(s) {
					continue
				}
				needed := map[string]*Variable{}
				c.references(env.Name, s.text+s.secret.Reveal(), needed)
				for _, v := range needed {
					if v != nil {
						uses[v] = append(uses[v], Use{conn.Name, env.Name, f.name})
					}
				}
			}
		}
	}
	return uses
}

// AllVariables returns every variable of every environment, in the order in which those of one name count: an environment's
// before the global ones, secrets before others.
func (c *Config) AllVariables() []*Variable {
	all := c.global.all()
	for _, e := range c.environments {
		all = append(all, e.variables.all()...)
	}
	global := func(v *Variable) int {
		if v.Environment == "" {
			return 1
		}
		return 0
	}
	plain := func(v *Variable) int {
		if v.Secret {
			return 0
		}
		return 1
	}
	slices.SortFunc(all, func(a, b *Variable) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(global(a), global(b)), cmp.Compare(a.Environment, b.Environment), cmp.Compare(plain(a), plain(b)))
	})
	return all
}

// Literal is a secret that stands in a definition itself.
type Literal struct {
	Environment string // "" for all
	Field       string
	Value       Secret
	Variables   bool // the field may refer to a variable instead
}

// Sealed returns what a secret field has encrypted in its place, as it is written for env; "" if it has nothing of that kind.
func (c *Connection) Sealed(env, field string) string {
	set := c.base
	if env != "" {
		set = c.envs[env]
	}
	if s := set[field]; s != nil && s.source != nil && s.source.kind == fromSealed {
		return s.source.text
	}
	return ""
}

// Same reports whether m is the same secret in the same place.
func (l Literal) Same(m Literal) bool {
	return l.Environment == m.Environment && l.Field == m.Field && l.Value.Reveal() == m.Value.Reveal()
}

// Literals returns the secrets that stand in the definition itself, in the order of environments and fields.
func (c *Connection) Literals() []Literal {
	var out []Literal
	for env, set := range c.all() {
		for _, f := range fields {
			if s := set[f.name]; s != nil && f.kind == secret && s.literal() {
				out = append(out, Literal{env, f.name, s.secret, f.variables})
			}
		}
	}
	return out
}

// LiteralVariables returns the names of secrets that stand literally in the text of an environment's file, sorted.
func LiteralVariables(text []byte) []string {
	c, _ := LoadFiles("", map[string][]byte{EnvironmentFile(production): text})
	var names []string
	for _, v := range c.scope(production).all() {
		if v.marked && v.source.kind == fromValue && !onlyReferences(v.source.text) {
			names = append(names, v.Name)
		}
	}
	slices.Sort(names)
	return names
}
