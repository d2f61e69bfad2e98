package conncfg

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2/unstable"
)

// FieldChange gives one field of a definition a value as text, or takes it out of the file.
type FieldChange struct {
	Environment string // "" for all environments
	Field       string
	Value       string        // as on the command line; of a secret field a reference such as ${name}
	Sealed      string        // of a secret field: what Key.Seal returned
	RotatedAt   time.Time     // of a sealed one: when it was changed; zero if nobody knows
	RotateAfter time.Duration // and for how long it may stay; 0 is for ever
	Unset       bool
}

// Edit returns a definition with changes made to it. Every byte that they do not concern stays as it is: comments, order,
// layout and line breaks belong to whoever wrote the file. A value is checked as in a definition and a refusal names field,
// value and way out; what is wrong between fields is told by whoever loads the result.
func Edit(data []byte, changes []FieldChange) ([]byte, []Finding) {
	var findings []Finding
	for _, c := range changes {
		place := Finding{Severity: Error, Field: c.Field, Environment: c.Environment}
		value, p := c.toml()
		if p != nil {
			findings = append(findings, place.with(p, c.told()))
			continue
		}
		edited, err := amend(data, amendment{table: c.table(), key: c.Field, value: value})
		if err != nil {
			findings = append(findings, place.with(&problem{CodeSyntax, err.Error(), "correct the file by hand; pierfs check tells the line"}, ""))
			continue
		}
		data = edited
	}
	return data, findings
}

func (c FieldChange) table() []string {
	if c.Environment == "" {
		return nil
	}
	return []string{"environments", c.Environment}
}

// told is the value for a finding, which never has a secret's.
func (c FieldChange) told() string {
	if f := fieldOf[c.Field]; f != nil && f.kind != secret {
		return clip(f.masked(c.Value))
	}
	return ""
}

// toml is the value as TOML, "" to remove the key.
func (c FieldChange) toml() (string, *problem) {
	f := fieldOf[c.Field]
	switch {
	case f == nil:
		return "", &problem{CodeUnknownKey, "there is no such field", didYouMean(c.Field, fieldNames(func(*field) bool { return true }), "docs/DEFINITIONS.md lists the fields")}
	case f.name == "name":
		return "", &problem{CodeWrongPlace, "is that of the file", "`pierfs copy OLD NEW` and `pierfs delete OLD` rename a connection"}
	case c.Environment != "" && f.common:
		return "", &problem{CodeWrongPlace, "is the same in all environments", "leave the environment out"}
	case c.Environment != "" && CheckName(c.Environment) != nil:
		return "", &problem{CodeNameInvalid, "is set for an environment whose name is none", "use letters, digits and _, with - and . only in between"}
	case c.Unset:
		return "", nil
	case c.Sealed != "" && f.kind == secret:
		return "{ sealed = " + quote(c.Sealed) + rotation{c.RotatedAt, c.RotateAfter}.toml() + " }", nil
	case f.kind == secret && !onlyReferences(c.Value):
		return "", &problem{CodePasswordPublic, "is a secret and stands in the open", "write ${name} and give the variable its value with `pierfs vars set --secret name`, or let yourself be asked for it"}
	case f.kind == secret && !f.variables:
		return "", &problem{CodeVariableMisplaced, "replaces no variables", misplacedHint(f)}
	}
	s, p := f.parse(c.Value)
	if p == nil {
		p = f.validate(s)
	}
	if p != nil {
		return "", p
	}
	return f.toml(s), nil
}

// WithoutName returns a definition without the name that may stand in it, for a file of another name.
func WithoutName(data []byte) ([]byte, error) { return amend(data, amendment{key: "name"}) }

// Secrets returns the names of the fields that hold secrets.
func Secrets() []string {
	return slices.Collect(fieldNames(func(f *field) bool { return f.kind == secret }))
}

// FieldNames returns the names of all fields, in the order in which definitions are best written.
func FieldNames() []string {
	return slices.Collect(fieldNames(func(*field) bool { return true }))
}

// amendment sets one key of a TOML file, or removes it.
type amendment struct {
	table []string // path of the table; nil is the top of the file
	key   string   // where tables nest, the rest of the path with dots in between
	value string   // as TOML; "" removes the key
}

// sets reports whether a key at path is the one that is meant.
func (a amendment) sets(path []string) bool {
	return len(path) > len(a.table) && slices.Equal(path[:len(a.table)], a.table) && strings.Join(path[len(a.table):], ".") == a.key
}

// spot is where a key stands, or could.
type spot struct {
	found      bool
	from, to   int // of the value
	line, next int // of the lines that the key and its value take
	end        int // where a key of the table can be added
	table      bool
}

// amend makes one change and leaves all other bytes. It fails where the file is no TOML, and where a key is written in a way
// that leaves no room, such as inside of braces.
func amend(data []byte, a amendment) ([]byte, error) {
	body := bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	mark := data[:len(data)-len(body)]
	at, err := findSpot(body, a)
	if err != nil {
		return nil, err
	}
	var out []byte
	br := lineBreak(body)
	switch {
	case at.found && a.value == "":
		out = slices.Concat(body[:at.line], body[at.next:])
	case at.found:
		out = slices.Concat(body[:at.from], []byte(a.value), body[at.to:])
	case a.value == "":
		out = body
	default:
		added := a.tomlKey() + " = " + a.value + br
		if !at.table {
			added = "[" + joinKey(a.table) + "]" + br + added
			if at.end > 0 {
				added = br + added
			}
		}
		if at.end > 0 && body[at.end-1] != '\n' {
			added = br + added
		}
		out = slices.Concat(body[:at.end], []byte(added), body[at.end:])
	}
	if err := a.proves(body, out); err != nil {
		return nil, err
	}
	return slices.Concat(mark, out), nil
}

// proves reads the result again: it must have no mistake that was not there before, and the key must be what it was made.
func (a amendment) proves(before, after []byte) error {
	count := func(text []byte) (n int) {
		document(text, func(Finding) { n++ })
		return n
	}
	if count(after) > count(before) {
		return errors.New("it is written in a way that leaves no room for the change")
	}
	if at, err := findSpot(after, a); err != nil || at.found != (a.value != "") {
		return errors.New("it is written where it cannot be changed, in braces or twice")
	}
	return nil
}

// tomlKey writes the key: bare where it can be, quoted where dots are part of the name.
func (a amendment) tomlKey() string { return quoteKey(a.key) }

func joinKey(path []string) string {
	quoted := make([]string, len(path))
	for i, key := range path {
		quoted[i] = quoteKey(key)
	}
	return strings.Join(quoted, ".")
}

// findSpot looks for the key. What is added goes below the last key of its table, so that no comment is parted from what it
// belongs to.
func findSpot(body []byte, a amendment) (at spot, err error) {
	var p unstable.Parser
	p.Reset(body)
	var table []string
	at.table = len(a.table) == 0
	for p.NextExpression() {
		n := p.Expression()
		path := keyOf(n)
		here := slices.Equal(table, a.table)
		full := slices.Concat(table, path)
		switch {
		case n.Kind == unstable.Table:
			table = path
			if slices.Equal(table, a.table) {
				at.table, at.end = true, lineEnd(body, offsetOfKey(n))
			}
		case n.Kind == unstable.ArrayTable:
			table = append(path, "[]")
		case len(full) <= len(a.table) && slices.Equal(full, a.table[:len(full)]):
			return at, fmt.Errorf("%s is written in braces, in which nothing is changed", strings.Join(full, "."))
		case a.sets(full):
			if at.found {
				return at, fmt.Errorf("%s is written twice", a.key)
			}
			at.found = true
			from, to := int(n.Raw.Offset), int(n.Raw.Offset+n.Raw.Length)
			at.to = from + len(bytes.TrimRight(body[from:to], " \t"))
			at.from = valueStart(body, n)
			at.line = bytes.LastIndexByte(body[:from], '\n') + 1
			at.next = lineEnd(body, to)
		}
		if n.Kind == unstable.KeyValue && here {
			at.end = lineEnd(body, int(n.Raw.Offset+n.Raw.Length))
		}
	}
	if p.Error() != nil {
		return at, errors.New(syntaxMessage(p.Error()))
	}
	if !at.table {
		at.end = len(body)
	}
	return at, nil
}

func keyOf(n *unstable.Node) (path []string) {
	for it := n.Key(); it.Next(); {
		path = append(path, string(it.Node().Data))
	}
	return path
}

func offsetOfKey(n *unstable.Node) int {
	it := n.Key()
	it.Next()
	return int(it.Node().Raw.Offset)
}

// valueStart is where the value of a key begins.
func valueStart(body []byte, n *unstable.Node) int {
	end := 0
	for it := n.Key(); it.Next(); {
		end = int(it.Node().Raw.Offset + it.Node().Raw.Length)
	}
	end += bytes.IndexByte(body[end:], '=') + 1
	return end + len(body[end:]) - len(bytes.TrimLeft(body[end:], " \t"))
}

// lineEnd is the offset behind the line that at stands in.
func lineEnd(body []byte, at int) int {
	if i := bytes.IndexByte(body[at:], '\n'); i >= 0 {
		return at + i + 1
	}
	return len(body)
}

// VariableChange gives one variable of an environment, or of all, a value, or removes it.
type VariableChange struct {
	Name   string
	Secret bool   // stands below [secrets] if it is new
	Value  string // of a plain one
	Sealed string // of a secret one: what Key.Seal returned
	// RotatedAt is when a secret one was changed, zero if nobody knows; RotateAfter for how long it may stay, 0 for ever.
	RotatedAt   time.Time
	RotateAfter time.Duration
	Unset       bool
}

// EditVariables returns a file of variables with one change made to it, and every other byte as it was.
func EditVariables(data []byte, c VariableChange) ([]byte, []Finding) {
	place := Finding{Severity: Error, Field: "variables." + c.Name}
	refuse := func(p *problem) ([]byte, []Finding) { return data, []Finding{place.with(p, "")} }
	if !variableName(c.Name) {
		return refuse(&problem{CodeVariableSyntax, "is no name of a variable", "use letters, digits, dots and underscores"})
	}
	if _, p := split(c.Value); p != nil && !c.Secret {
		return refuse(p)
	}
	group := "variables"
	a := amendment{key: c.Name}
	switch {
	case c.Unset:
	case c.Secret:
		group = "secrets"
		a.value = "{ sealed = " + quote(c.Sealed) + ", secret = true" + rotation{c.RotatedAt, c.RotateAfter}.toml() + " }"
	default:
		a.value = quote(c.Value)
	}
	a.table = []string{group}
	for _, table := range [][]string{{"variables"}, {"secrets"}, nil} { // as it stands, if it does
		b := a
		b.table = table
		if at, err := findSpot(bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")), b); err == nil && at.found && (table != nil || !strings.HasPrefix(c.Name, "variables.") && !strings.HasPrefix(c.Name, "secrets.")) {
			a.table = table
		}
	}
	out, err := amend(data, a)
	if err != nil {
		return refuse(&problem{CodeSyntax, err.Error(), "correct the file by hand; pierfs check tells the line"})
	}
	return out, nil
}

// EditActive returns the daemon's settings with other active environments, and every other byte as it was.
func EditActive(data []byte, active []string) ([]byte, error) {
	quoted := make([]string, len(active))
	for i, name := range active {
		quoted[i] = quote(name)
	}
	return amend(data, amendment{key: "activeEnvironments", value: "[" + strings.Join(quoted, ", ") + "]"})
}
