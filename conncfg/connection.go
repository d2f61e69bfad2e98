package conncfg

import (
	"bytes"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Connection is one definition as an operator wrote it: the values of its fields, for all environments and for single
// ones, with references not yet replaced. Those of a Config are read-only and may be used from many goroutines; an
// unsaved one belongs to whoever parsed it.
type Connection struct {
	Name string // NAME or PROJECT/NAME
	File string // where it stands; "stdin" or a URL's scheme for an unsaved one

	base     settings
	envs     map[string]settings
	envLines map[string]int
	findings []Finding
	stranger string // who else can write the file
	torn     bool   // a part of the file could not be read: what seems to be missing may stand there
}

// settings are the fields that are written, by name.
type settings map[string]*setting

// Parse reads one definition. The origin is told in findings; the name is what the file or the caller calls it, and ""
// takes the definition's own name field. The connection is never nil, so that further findings can be asked for; it is
// usable if no finding is an Error.
func Parse(data []byte, origin, name string) (*Connection, []Finding) {
	c := newConnection(name, origin)
	root := document(data, func(f Finding) {
		c.torn = c.torn || f.Code == CodeSyntax || f.Code == CodeRead
		c.report(f)
	})
	c.readName(root)
	for _, e := range root.entries {
		if e.key == "environments" {
			c.readEnvironments(e)
			continue
		}
		c.readField(e, c.base, "")
	}
	return c, slices.Clone(c.findings)
}

func newConnection(name, file string) *Connection {
	return &Connection{Name: name, File: file, base: settings{}, envs: map[string]settings{}, envLines: map[string]int{}}
}

// report adds a finding about the connection as a whole file.
func (c *Connection) report(f Finding) {
	f.File = c.File
	if f.Connection == "" {
		f.Connection = c.Name
	}
	c.findings = append(c.findings, f)
}

func (c *Connection) readName(root *table) {
	own, line := "", 0
	if e := root.byKey["name"]; e != nil {
		own, _ = e.value.(string)
		line = e.line
	}
	if c.Name == "" {
		c.Name = own
		if own == "" {
			c.report(Finding{Severity: Error, Code: CodeMissing, Field: "name", Line: line, Message: "is required", Hint: `write name = "..."`})
			return
		}
	}
	for _, f := range CheckFullName(c.Name) {
		f.Line = line
		c.report(f)
	}
	if c.Name == own {
		return
	}
	if base := c.Name[strings.LastIndexByte(c.Name, '/')+1:]; own != "" && own != base {
		c.report(Finding{Severity: Error, Code: CodeNameMismatch, Field: "name", Value: own, Line: line,
			Message: "is not the name of the file, which is " + strconv.Quote(base), Hint: "leave name out, or rename the file to " + own + ".toml"})
	}
}

func (c *Connection) readEnvironments(e *entry) {
	t, ok := e.value.(*table)
	if !ok {
		c.report(Finding{Severity: Error, Code: CodeWrongType, Field: e.key, Line: e.line, Message: "is " + kindOf(e.value), Hint: "write [environments.Test] and the fields that differ there below it"})
		return
	}
	for _, e := range t.entries {
		over, ok := e.value.(*table)
		if !ok {
			f := Finding{Severity: Error, Code: CodeWrongType, Field: "environments." + e.key, Line: e.line, Message: "is " + kindOf(e.value)}
			if fieldOf[e.key] != nil {
				f.Hint = "write [environments.Test], with the environment's name, above it"
			}
			c.report(f)
			continue
		}
		for _, f := range CheckName(e.key) {
			f.Field, f.Line, f.Hint = "environments."+e.key, e.line, "this is an environment's name; "+f.Hint
			c.report(f)
		}
		c.envs[e.key], c.envLines[e.key] = settings{}, over.line
		for _, inner := range over.entries {
			c.readField(inner, c.envs[e.key], e.key)
		}
	}
}

// readField takes one key into the settings. What is wrong with it is reported, and the key still counts as written.
func (c *Connection) readField(e *entry, into settings, env string) {
	f := fieldOf[e.key]
	place := Finding{Severity: Error, Line: e.line, Field: e.key, Environment: env}
	if f == nil {
		place.Code, place.Message = CodeUnknownKey, "there is no such field"
		place.Hint = didYouMean(e.key, fieldNames(func(f *field) bool { return env == "" || !f.common }), "docs/DEFINITIONS.md lists the fields")
		c.report(place)
		return
	}
	if env != "" && f.common {
		place.Code, place.Message = CodeWrongPlace, "is the same in all environments"
		place.Hint = "write it above the first [environments...] table"
		c.report(place)
		return
	}
	s, p := f.read(e.value)
	if p == nil && s.source != nil {
		s.source, p = readSourceTable(e.value.(*table), place, c.report)
		if p == nil && s.source.kind == fromValue {
			s.secret, s.source = NewSecret(s.source.text), nil
		}
	}
	if p == nil {
		p = f.validate(s)
	}
	if p != nil {
		c.report(place.with(p, f.reveal(e.value)))
		into[f.name] = &setting{line: e.line, env: env, broken: true}
		return
	}
	s.line, s.env = e.line, env
	into[f.name] = s
}

// with fills in a problem.
func (f Finding) with(p *problem, value string) Finding {
	f.Code, f.Message, f.Hint, f.Value = p.code, p.message, p.hint, value
	return f
}

// reveal is the value for a finding: what was written, and nothing of a secret.
func (f *field) reveal(written any) string {
	if f.kind == secret {
		return ""
	}
	switch v := written.(type) {
	case string:
		return clip(f.masked(v))
	case number:
		return string(v)
	case bool:
		return strconv.FormatBool(v)
	}
	return ""
}

// masked is a value that was refused without what may be a secret in it.
func (f *field) masked(v string) string {
	if f.mask == nil {
		return v
	}
	return f.mask(v)
}

// clip bounds what a finding repeats.
func clip(v string) string {
	if r := []rune(v); len(r) > 200 {
		return string(r[:200]) + "..."
	}
	return v
}

// validate applies the rules that need no other field: those of references, and the field's own unless variables decide.
func (f *field) validate(s *setting) *problem {
	if s.source != nil {
		return nil
	}
	written := s.text
	if f.kind == secret {
		written = s.secret.Reveal()
	}
	switch {
	case f.name == "privateKey": // a PEM text, in which nothing is replaced
	case f.variables:
		if _, p := split(written); p != nil {
			return p
		}
		if f.deferred(s) {
			return nil
		}
	case strings.Contains(written, "${"):
		return &problem{CodeVariableMisplaced, "contains ${, and variables are replaced in " + variableFields() + " only", misplacedHint(f)}
	}
	if f.check == nil {
		return nil
	}
	return f.check(s)
}

func variableFields() string {
	names := slices.Collect(fieldNames(func(f *field) bool { return f.variables }))
	return strings.Join(names[:len(names)-1], ", ") + " and " + names[len(names)-1]
}

func misplacedHint(f *field) string {
	switch {
	case f.kind == secret:
		return f.name + ` = { file = "/path" }, { credential = "NAME" }, { env = "NAME" } or { command = ["PROGRAM"] } says where the value is`
	case f.common:
		return "write the text itself"
	}
	return "write a value for each environment in its [environments.ENV] table"
}

// readSourceTable reads { env = "X" } and its kin.
func readSourceTable(t *table, place Finding, report func(Finding)) (*source, *problem) {
	s := &source{quiet: true}
	failed := false
	bad := func(e *entry, p *problem) {
		f := place
		f.Line, f.Field = e.line, place.Field+"."+e.key
		failed = true
		report(f.with(p, ""))
	}
	for _, e := range t.entries {
		switch {
		case e.key == "secret":
			marked, ok := e.value.(bool)
			if !ok {
				bad(e, &problem{CodeWrongType, "is " + kindOf(e.value), "write secret = true or secret = false"})
			}
			s.quiet = marked
			continue
		case e.key == rotatedAtKey || e.key == rotateAfterKey:
			if p := s.rotation.take(e.key, e.value); p != nil {
				bad(e, p)
			}
			continue
		case !slices.Contains(sourceKeys, e.key):
			bad(e, &problem{CodeUnknownKey, "there is no such source", didYouMean(e.key, slices.Values(sourceKeys), "use one of "+strings.Join(sourceKeys, ", "))})
			continue
		case s.kind != fromNowhere:
			bad(e, invalid("is a second source beside "+string(s.kind), "keep one of them"))
			continue
		}
		s.kind = origin(e.key)
		if p := s.take(e.value); p != nil {
			bad(e, p)
		}
	}
	if s.kind == fromNowhere && !failed {
		return s, invalid("says no source", "write one of value, env, file, credential, command, sealed")
	}
	if failed {
		s.kind = fromNowhere
		return s, nil
	}
	return s, s.rotation.problem()
}

// take checks and keeps the value of the source's key.
func (s *source) take(v any) *problem {
	if s.kind == fromCommand {
		return s.takeCommand(v)
	}
	word, ok := v.(string)
	if !ok {
		return &problem{CodeWrongType, "is " + kindOf(v) + "; it takes a text", "quote it"}
	}
	s.text = word
	switch s.kind {
	case fromValue:
		_, p := split(word)
		return p
	case fromEnv:
		if word == "" || strings.ContainsAny(word, "=\x00") {
			return invalid("is no name of an environment variable", "write its name without $")
		}
	case fromFile:
		if strings.Contains(word, "${") {
			return &problem{CodeVariableMisplaced, "contains ${, and no variables are replaced here", "write the path itself"}
		}
		return checkPath(&setting{text: word})
	case fromSealed:
		return checkSealed(word)
	case fromCredential:
		if word == "" || word == "." || word == ".." || strings.ContainsAny(word, "/\x00") {
			return invalid("is no name of a credential", "write the name that LoadCredential= gives it, without a directory")
		}
	}
	return nil
}

func (s *source) takeCommand(v any) *problem {
	const hint = `write command = ["/usr/bin/program", "argument"]: no shell takes it apart`
	list, ok := v.([]any)
	if !ok {
		return &problem{CodeWrongType, "is " + kindOf(v) + "; it takes a list", hint}
	}
	for _, v := range list {
		word, ok := v.(string)
		switch {
		case !ok:
			return &problem{CodeWrongType, "holds " + kindOf(v), "quote every word"}
		case strings.ContainsRune(word, 0):
			return invalid("holds NUL", hint)
		case strings.Contains(word, "${"):
			return &problem{CodeVariableMisplaced, "contains ${, and no variables are replaced here", "write the word itself; there is no shell either"}
		}
		s.argv = append(s.argv, word)
	}
	if len(s.argv) == 0 || s.argv[0] == "" {
		return invalid("names no program", hint)
	}
	return nil
}

// Description returns the description, which may have several lines.
func (c *Connection) Description() string {
	if s := c.base["description"]; s != nil {
		return s.text
	}
	return ""
}

// Enabled reports whether the connection is to be mounted. It is unless its definition says otherwise.
func (c *Connection) Enabled() bool {
	s := c.base["enabled"]
	return s == nil || s.broken || s.truth
}

// Project returns the project of PROJECT/NAME, or "" for a global connection.
func (c *Connection) Project() string {
	project, _, ok := strings.Cut(c.Name, "/")
	if !ok {
		return ""
	}
	return project
}

// Environments returns the names of the environments that the definition mentions, sorted.
func (c *Connection) Environments() []string { return slices.Sorted(maps.Keys(c.envs)) }

// merged returns the setting of a field in env, or nil.
func (c *Connection) merged(env, name string) *setting {
	if s := c.envs[env][name]; s != nil {
		return s
	}
	return c.base[name]
}

// Set gives a field a value as text, as -o FIELD=VALUE does. The rules are those of a definition, but for secrets, which
// the command line shows to everybody on the machine: they are refused, and SetSecret takes them.
func (c *Connection) Set(name, value string) []Finding {
	place := Finding{Severity: Error, Field: name, File: c.File, Connection: c.Name}
	f := fieldOf[name]
	settable := func(f *field) bool { return !f.common && f.kind != secret }
	switch {
	case f == nil:
		return []Finding{place.with(&problem{CodeUnknownKey, "there is no such field", didYouMean(name, fieldNames(settable), "docs/DEFINITIONS.md lists the fields")}, "")}
	case f.kind == secret:
		return []Finding{place.with(&problem{CodePasswordPublic, "everybody on this machine can read it in the list of processes", publicHint}, "")}
	case f.common:
		return []Finding{place.with(&problem{CodeWrongPlace, "means nothing for a connection that is not saved", "leave it out"}, "")}
	}
	s, p := f.parse(value)
	if p == nil {
		p = f.validate(s)
	}
	if p != nil {
		return []Finding{place.with(p, clip(f.masked(value)))}
	}
	c.base[name] = s
	return nil
}

const publicHint = "give it with --password-file FILE, in $PIERFS_PASSWORD, or at the prompt"

// SetSecret gives a field that holds a secret the value itself: nothing in it is replaced, and it is
// never written to a file.
func (c *Connection) SetSecret(name string, value Secret) []Finding {
	f := fieldOf[name]
	place := Finding{Severity: Error, Field: name, File: c.File, Connection: c.Name}
	if f == nil || f.kind != secret {
		return []Finding{place.with(&problem{CodeUnknownKey, "is no secret field",
			"use one of " + strings.Join(slices.Collect(fieldNames(func(f *field) bool { return f.kind == secret })), ", ")}, "")}
	}
	s := &setting{secret: value, given: true}
	if p := f.check(s); p != nil {
		return []Finding{place.with(p, "")}
	}
	c.base[name] = s
	return nil
}

// TOML returns the definition as a file, in the order of docs/DEFINITIONS.md. Secrets that stand in it literally are left
// out, so that it can be shown and sent anywhere; references and sources stay.
func (c *Connection) TOML() []byte {
	var b bytes.Buffer
	write := func(set settings) {
		for _, f := range fields {
			if s := set[f.name]; s != nil && !s.broken {
				f.write(&b, s)
			}
		}
	}
	write(c.base)
	for _, env := range c.Environments() {
		b.WriteString("\n[environments." + quoteKey(env) + "]\n")
		write(c.envs[env])
	}
	return b.Bytes()
}

func (f *field) write(b *bytes.Buffer, s *setting) {
	if value := f.toml(s); value != "" {
		b.WriteString(f.name + " = " + value + "\n")
	}
}

// toml is the value as TOML; "" for a secret that stands in the definition itself.
func (f *field) toml(s *setting) string {
	switch {
	case f.kind == whole || f.kind == truth || f.name == "port" && !strings.Contains(s.text, "$"):
		return s.text
	case f.kind == secret && s.source != nil:
		return s.source.toml()
	case f.kind == secret && (s.given || !onlyReferences(s.secret.Reveal())):
		return ""
	case f.kind == secret:
		return quote(s.secret.Reveal())
	}
	return quote(s.text)
}

// toml is the source as an inline table, or "" for a literal one.
func (s *source) toml() string {
	switch s.kind {
	case fromValue, fromNowhere:
		return ""
	case fromCommand:
		words := make([]string, len(s.argv))
		for i, w := range s.argv {
			words[i] = quote(w)
		}
		return "{ command = [" + strings.Join(words, ", ") + "]" + s.rotation.toml() + " }"
	}
	return "{ " + string(s.kind) + " = " + quote(s.text) + s.rotation.toml() + " }"
}

func quoteKey(key string) string {
	if strings.Contains(key, ".") {
		return quote(key)
	}
	return key
}

// quote writes a TOML basic string.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case r < ' ' || r == 0x7f:
			hex := strconv.FormatInt(int64(r), 16)
			b.WriteString(`\u` + strings.Repeat("0", 4-len(hex)) + hex)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// Shown is one field of a connection for people.
type Shown struct {
	Field string `json:"field"`
	Value string `json:"value"` // a secret is asterisks, or the reference or source that it comes from
	From  string `json:"from"`  // "definition", "environment Test", or "default"
}

// Show returns the fields in env: those that are written, and the defaults of those that are not. References stay as
// written; the Target has what they become.
func (c *Connection) Show(env string) []Shown {
	var out []Shown
	defaults := c.defaults(env)
	for _, f := range fields {
		s := c.merged(env, f.name)
		switch {
		case f.name == "name":
			out = append(out, Shown{"name", c.Name, "definition"})
		case s != nil && s.broken:
		case s != nil && s.env != "":
			out = append(out, Shown{f.name, f.shown(s), "environment " + s.env})
		case s != nil:
			out = append(out, Shown{f.name, f.shown(s), "definition"})
		case f.speaks(defaults.Protocol):
			if value := f.standardFor(defaults); value != "" {
				out = append(out, Shown{f.name, value, "default"})
			}
		}
	}
	return out
}

// speaks reports whether the field means something for a protocol.
func (f *field) speaks(p Protocol) bool { return f.protocols == nil || slices.Contains(f.protocols, p) }

func (f *field) standardFor(t *Target) string {
	if f.depends != nil {
		return f.depends(t)
	}
	return f.standard
}

// fileName is the file of a connection below the configuration directory.
func fileName(full string) string {
	return filepath.Join("connections", filepath.FromSlash(full)+".toml")
}
