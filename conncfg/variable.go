package conncfg

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Variable is what an operator wrote for one ${name}.
type Variable struct {
	Name        string
	Environment string // "" for a global one
	Secret      bool   // never shown; a file's, credential's or command's value is taken for one unless marked otherwise
	File        string
	Line        int

	marked bool // secret = true is written: it must not go where lists and logs show it
	source source
}

// Source tells where the value comes from, without the value of a secret.
func (v *Variable) Source() string {
	if v.source.kind == fromValue && v.Secret {
		return masked
	}
	return v.source.String()
}

// scope holds the variables of an environment, or the global ones. A secret and a plain one may bear the same name.
type scope struct{ plain, secret map[string]*Variable }

func newScope() scope { return scope{map[string]*Variable{}, map[string]*Variable{}} }

func (s scope) find(name string) *Variable {
	if v := s.secret[name]; v != nil {
		return v
	}
	return s.plain[name]
}

func (s scope) all() []*Variable {
	return slices.SortedFunc(func(yield func(*Variable) bool) {
		for _, group := range []map[string]*Variable{s.plain, s.secret} {
			for _, v := range group {
				if !yield(v) {
					return
				}
			}
		}
	}, func(a, b *Variable) int { return a.Line - b.Line })
}

// piece is a part of a text: literal, or the name of a variable.
type piece struct {
	text string
	name bool
}

// split takes a text apart at its references. A reference is ${name} with letters, digits, dots and underscores in it; a
// $ that no brace follows is a dollar sign. #{...}, which other products replace too, is refused.
func split(text string) ([]piece, *problem) {
	var pieces []piece
	if at := strings.Index(text, "#{"); at >= 0 && strings.Contains(text[at:], "}") {
		return nil, &problem{CodeVariableSyntax, "contains #{...}, a variable of a message's context, and there is no message here", "write ${name} and define name in an environment"}
	}
	for text != "" {
		before, after, found := strings.Cut(text, "${")
		if before != "" {
			pieces = append(pieces, piece{text: before})
		}
		if !found {
			break
		}
		name, rest, closed := strings.Cut(after, "}")
		switch {
		case !closed:
			return nil, &problem{CodeVariableSyntax, "contains ${ without a closing brace", "write ${name}; a value that holds ${ itself can come from a variable with a file or env source"}
		case name == "":
			return nil, &problem{CodeVariableSyntax, "contains ${} without a name", "write ${name}"}
		case !variableName(name):
			return nil, &problem{CodeVariableSyntax, "contains a variable name with other characters than letters, digits, dots and underscores", "write ${name}"}
		}
		pieces, text = append(pieces, piece{name, true}), rest
	}
	return pieces, nil
}

func variableName(name string) bool {
	return name != "" && len(name) <= 200 && strings.IndexFunc(name, func(r rune) bool { return !wordRune(r) && r != '.' }) < 0
}

// onlyReferences reports whether a secret field's text is nothing but references, and so may be shown.
func onlyReferences(text string) bool {
	pieces, p := split(text)
	return p == nil && len(pieces) > 0 && !slices.ContainsFunc(pieces, func(p piece) bool { return !p.name })
}

// expander replaces references in one environment. Each variable is asked for once, so that a command runs once for a
// definition that names it twice.
type expander struct {
	config *Config
	env    string
	fetch  func(source) (string, error) // nil when offline: what comes from outside stays unknown
	memo   map[string]*expansion
	path   []string // variables being expanded, outermost first
}

// expansion is what became of a text.
type expansion struct {
	text    string
	unknown bool // offline, and a part of it comes from outside
	secret  bool // a part of it is marked secret
	problem *problem
}

func (c *Config) expander(env string) *expander {
	return &expander{config: c, env: env, memo: map[string]*expansion{}}
}

// online makes the expander ask the sources themselves, within ctx.
func (x *expander) online(ctx context.Context) *expander {
	x.fetch = func(s source) (string, error) {
		if s.kind == fromSealed {
			return x.config.unseal(s)
		}
		return s.fetch(ctx)
	}
	return x
}

func (x *expander) expand(text string) expansion {
	pieces, p := split(text)
	if p != nil {
		return expansion{problem: p}
	}
	var out expansion
	var b strings.Builder
	for _, piece := range pieces {
		if !piece.name {
			b.WriteString(piece.text)
			continue
		}
		value := x.variable(piece.text)
		if value.problem != nil {
			return expansion{problem: value.problem}
		}
		out.unknown, out.secret = out.unknown || value.unknown, out.secret || value.secret
		if b.Len()+len(value.text) > maxSource {
			return expansion{problem: invalid("grows beyond 64 KiB when its variables are replaced", "check the variables")}
		}
		b.WriteString(value.text)
	}
	out.text = b.String()
	return out
}

func (x *expander) variable(name string) *expansion {
	if done := x.memo[name]; done != nil {
		return done
	}
	if at := slices.Index(x.path, name); at >= 0 {
		ring := append(slices.Clone(x.path[at:]), name)
		return &expansion{problem: &problem{CodeVariableCycle, "variables refer to each other in a ring: " + strings.Join(ring, " -> "), "give one of them a value of its own"}}
	}
	x.path = append(x.path, name)
	done := x.evaluate(name)
	x.path = x.path[:len(x.path)-1]
	x.memo[name] = done
	return done
}

func (x *expander) evaluate(name string) *expansion {
	v := x.config.variable(x.env, name)
	if v == nil {
		return &expansion{problem: x.undefined(name)}
	}
	if v.source.kind == fromValue {
		value := x.expand(v.source.text)
		value.secret = value.secret || v.marked
		return &value
	}
	if x.fetch == nil {
		return &expansion{unknown: true, secret: v.marked}
	}
	if v.source.kind == fromNowhere {
		return &expansion{problem: &problem{CodeSource, fmt.Sprintf("variable %q in environment %q has no usable value", name, x.env), "correct " + v.place()}}
	}
	text, err := x.fetch(v.source)
	if err != nil {
		return &expansion{problem: &problem{CodeSource, fmt.Sprintf("variable %q in environment %q: %s: %v", name, x.env, v.source.kind, err), "see " + v.place()}}
	}
	return &expansion{text: text, secret: v.marked}
}

// literal reports whether every variable behind text is written out in its file.
func (x *expander) literal(text string) bool {
	needed := map[string]*Variable{}
	x.config.references(x.env, text, needed)
	for _, v := range needed {
		if v == nil || v.source.kind != fromValue {
			return false
		}
	}
	return true
}

func (v *Variable) place() string { return fmt.Sprintf("%s:%d", v.File, v.Line) }

func (x *expander) undefined(name string) *problem {
	through := ""
	if len(x.path) > 1 {
		through = " (needed by " + strings.Join(x.path[:len(x.path)-1], " -> ") + ")"
	}
	known := maps.Keys(x.config.visible(x.env))
	return &problem{CodeVariableUndefined, fmt.Sprintf("variable %q%s is not defined in environment %q", name, through, x.env),
		didYouMean(name, known, "`pierfs vars set "+name+" --env "+x.env+"` defines it, with --secret what nobody may see; so does a line below [variables] in environments/"+x.env+".toml or variables.toml")}
}

// variable finds name: an environment's secret, its plain one, a global secret, a global plain one.
func (c *Config) variable(env, name string) *Variable {
	if e := c.environments[env]; e != nil {
		if v := e.variables.find(name); v != nil {
			return v
		}
	}
	return c.global.find(name)
}

// Defined returns the variable that is written for env itself, or among the global ones if env is "", or nil.
func (c *Config) Defined(env, name string) *Variable {
	if env == "" {
		return c.global.find(name)
	}
	return c.scope(env).find(name)
}

// visible maps the names that are defined in env to what they are.
func (c *Config) visible(env string) map[string]*Variable {
	all := map[string]*Variable{}
	for _, s := range []scope{c.global, c.scope(env)} {
		maps.Copy(all, s.plain)
		maps.Copy(all, s.secret)
	}
	return all
}

func (c *Config) scope(env string) scope {
	if e := c.environments[env]; e != nil {
		return e.variables
	}
	return scope{}
}

// references lists every variable that text needs in env, those of its variables included.
func (c *Config) references(env, text string, seen map[string]*Variable) {
	pieces, _ := split(text)
	for _, p := range pieces {
		if _, known := seen[p.text]; !p.name || known {
			continue
		}
		v := c.variable(env, p.text)
		seen[p.text] = v
		if v != nil && v.source.kind == fromValue {
			c.references(env, v.source.text, seen)
		}
	}
}
