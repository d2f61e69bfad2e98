package conncfg

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Portable returns a definition as JSON that can leave this machine: the fields as they are written, sorted, without any secret. A
// secret that stands in the definition, sealed or not, is null; references and the names of sources stay.
func (c *Connection) Portable() ([]byte, error) {
	object := c.base.portable()
	object["name"] = c.Name
	object["schemaVersion"] = schemaVersion
	if len(c.envs) > 0 {
		environments := map[string]any{}
		for env, set := range c.envs {
			environments[env] = set.portable()
		}
		object["environments"] = environments
	}
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	err := encoder.Encode(object)
	return b.Bytes(), err
}

// Findings returns what is wrong with the definition by itself.
func (c *Connection) Findings() []Finding { return slices.Clone(c.findings) }

func (set settings) portable() map[string]any {
	object := map[string]any{}
	for name, s := range set {
		if s.broken {
			continue
		}
		object[name] = fieldOf[name].portable(s)
	}
	return object
}

func (f *field) portable(s *setting) any {
	switch {
	case f.kind == truth:
		return s.truth
	case f.kind == whole, f.name == "port" && !strings.Contains(s.text, "$"):
		return json.Number(s.text)
	case f.kind != secret:
		return s.text
	case s.source != nil && s.source.kind == fromCommand:
		return s.source.portable(s.source.argv)
	case s.source != nil && s.source.toml() != "" && s.source.kind != fromSealed:
		return s.source.portable(s.source.text)
	case s.source == nil && onlyReferences(s.secret.Reveal()):
		return s.secret.Reveal()
	}
	return nil
}

// portable names the source, and says when its secret must be changed.
func (s *source) portable(where any) map[string]any {
	object := map[string]any{string(s.kind): where}
	for key, text := range s.rotation.texts() {
		object[key] = text
	}
	return object
}

// Blank is a place of an imported definition that says nothing yet, or did not come along, and why.
type Blank struct {
	Connection  string `json:"connection"`
	Environment string `json:"environment,omitempty"`
	Field       string `json:"field"`
	Why         string `json:"why"`
}

// Foreign is a definition as it was read from JSON of ours or of another product.
type Foreign struct {
	Name    string
	TOML    []byte   // the definition as a file
	Blanks  []Blank  // secrets that did not travel
	Notes   []string // what was assumed or left out
	Invalid error    // it cannot be read at all
}

// ErrForeign says that a JSON value holds no definition.
var ErrForeign = errors.New("is no definition of a connection")

// FromJSON reads definitions: what Portable writes; the same fields as another product has them, bare or in resultList; and the form
// with authentication, socket_timeout and connect_timeout. It never stops in the middle: what is unknown is left out and told.
func FromJSON(data []byte) ([]Foreign, error) {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		return nil, fmt.Errorf("is no JSON: %w", err)
	}
	if decoder.More() {
		return nil, errors.New("is more than one JSON value")
	}
	object, ok := value.(map[string]any)
	if !ok {
		return nil, ErrForeign
	}
	list, wrapped := object["resultList"].([]any)
	if !wrapped {
		list = []any{object}
	}
	var all []Foreign
	for _, v := range list {
		o, ok := v.(map[string]any)
		if !ok || !looksLikeDefinition(o) {
			return nil, ErrForeign
		}
		all = append(all, fromObject(o))
	}
	if len(all) == 0 {
		return nil, ErrForeign
	}
	return all, nil
}

// looksLikeDefinition keeps the JSON of other kinds out.
func looksLikeDefinition(o map[string]any) bool {
	if kind, ok := o["type"].(string); ok && !slices.Contains([]string{"ftp", "sftp", "ftps"}, strings.ToLower(kind)) {
		return false
	}
	_, name := o["name"].(string)
	_, host := o["host"]
	_, protocol := o["protocol"]
	_, nested := o["environments"].(map[string]any)
	return name && (host || protocol || nested)
}

// foreigner turns one JSON object into a definition.
type foreigner struct {
	Foreign
	body bytes.Buffer
}

func fromObject(o map[string]any) Foreign {
	r := &foreigner{}
	r.Name, _ = o["name"].(string)
	o = r.native(o)
	r.table("", o)
	if environments, ok := o["environments"].(map[string]any); ok {
		for _, env := range slices.Sorted(maps.Keys(environments)) {
			inner, ok := environments[env].(map[string]any)
			if !ok || CheckName(env) != nil {
				r.note("environment %q is no table of fields and was left out", env)
				continue
			}
			r.body.WriteString("\n[" + joinKey([]string{"environments", env}) + "]\n")
			r.table(env, inner)
		}
	}
	r.TOML = r.body.Bytes()
	return r.Foreign
}

func (r *foreigner) note(format string, args ...any) {
	r.Notes = append(r.Notes, r.Name+": "+fmt.Sprintf(format, args...))
}

// native translates what other products call otherwise.
func (r *foreigner) native(o map[string]any) map[string]any {
	o = maps.Clone(o)
	for _, silent := range []string{"name", "type", "id", "schemaVersion"} {
		if silent != "schemaVersion" {
			delete(o, silent)
		}
	}
	if a, ok := o["authentication"].(map[string]any); ok {
		for _, key := range []string{"username", "password"} {
			if v, there := a[key]; there {
				o[key] = v
			}
		}
		if method, _ := a["authentication_method"].(string); method != "" && method != "username_password" {
			r.note("authentication_method %q is not known here", method)
		}
		delete(o, "authentication")
	}
	for theirs, ours := range map[string]string{"socket_timeout": "socketTimeout", "connect_timeout": "connectTimeout", "working_dir": "workingDir"} {
		if v, there := o[theirs]; there {
			o[ours] = v
			delete(o, theirs)
		}
	}
	if tls, ok := o["tls"].(bool); ok {
		delete(o, "tls")
		if _, there := o["protocol"]; !there {
			o["protocol"] = map[bool]string{true: "FTPS", false: "FTP"}[tls]
			if tls {
				o["useImplicit"] = true
			}
			r.note("tls = %t was taken for protocol %s", tls, o["protocol"])
		}
	}
	if n, ok := o["timeout"].(json.Number); ok {
		if i, err := n.Int64(); err == nil && i >= 1000 {
			o["timeout"] = strconv.FormatInt(i, 10) + "ms"
			r.note("timeout %d was taken for milliseconds", i)
		}
	}
	if p, _ := o["protocol"].(string); p != "" && !strings.EqualFold(p, "FTPS") {
		for _, key := range []string{"useImplicit", "useExplicit", "sslProtocol"} {
			if _, there := o[key]; there {
				delete(o, key)
				r.note("%s means nothing for %s and was left out", key, p)
			}
		}
	}
	return o
}

// table writes the fields of o in the order in which definitions are best written.
func (r *foreigner) table(env string, o map[string]any) {
	for _, f := range fields {
		v, there := o[f.name]
		if !there || f.name == "name" {
			continue
		}
		text, ok := jsonTOML(v)
		switch {
		case v == nil && f.kind == secret:
			r.Blanks = append(r.Blanks, Blank{r.Name, env, f.name, "secrets do not travel: give it again"})
		case v == nil:
		case f.kind == secret && !ok:
			r.Blanks = append(r.Blanks, Blank{r.Name, env, f.name, "is written in no way that is known here"})
		case !ok:
			r.note("%s has no value that is known here and was left out", f.name)
		default:
			r.body.WriteString(f.name + " = " + text + "\n")
		}
	}
	var unknown []string
	for key := range o {
		if fieldOf[key] == nil && !(env == "" && key == "environments") {
			unknown = append(unknown, key)
		}
	}
	if slices.Sort(unknown); len(unknown) > 0 {
		r.note("left out, for there are no such fields: %s", printable(clip(strings.Join(unknown, ", "))))
	}
}

// jsonTOML writes a value as TOML: a text, a whole number, true or false, or the name of a secret's source.
func jsonTOML(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return quote(v), true
	case bool:
		return strconv.FormatBool(v), true
	case json.Number:
		i, err := v.Int64()
		return strconv.FormatInt(i, 10), err == nil
	case map[string]any:
		return sourceTOML(v)
	}
	return "", false
}

// sourceTOML writes the name of a secret's source as TOML, with what is said of its age.
func sourceTOML(v map[string]any) (string, bool) {
	s := source{}
	for key, where := range v {
		switch {
		case key == rotatedAtKey || key == rotateAfterKey:
			if s.rotation.take(key, where) != nil {
				return "", false
			}
			continue
		case s.kind != fromNowhere || key == "secret" || !slices.Contains(sourceKeys, key):
			return "", false
		}
		s.kind = origin(key)
		switch where := where.(type) {
		case string:
			s.text = where
		case []any:
			for _, w := range where {
				word, ok := w.(string)
				if !ok {
					return "", false
				}
				s.argv = append(s.argv, word)
			}
		default:
			return "", false
		}
		if (s.kind == fromCommand) != (s.argv != nil) {
			return "", false
		}
	}
	text := s.toml()
	return text, text != ""
}

// Dependency is something that a definition needs and that does not travel with it.
type Dependency struct {
	Kind   string   `json:"kind"`             // "environment", "variable", "credential", "env" or "file"; of what was believed of a server "hostKey" or "certificate"
	Name   string   `json:"name"`             // of what was believed HOST:PORT, a space and the fingerprint
	Secret bool     `json:"secret,omitempty"` // of a variable
	UsedBy []string `json:"usedBy"`           // NAME.field, or NAME.ENV.field
	Here   bool     `json:"here"`             // it is there on this machine
}

// Dependencies returns what connections need besides themselves, in the order of kinds and names.
func (c *Config) Dependencies(all ...*Connection) []Dependency {
	found := map[[2]string]*Dependency{}
	need := func(kind, name, by string, here, hidden bool) {
		d := found[[2]string{kind, name}]
		if d == nil {
			d = &Dependency{Kind: kind, Name: name, Here: here}
			found[[2]string{kind, name}] = d
		}
		d.Here, d.Secret = d.Here && here, d.Secret || hidden
		if !slices.Contains(d.UsedBy, by) {
			d.UsedBy = append(d.UsedBy, by)
		}
	}
	for _, conn := range all {
		for env, set := range conn.all() {
			if env != "" {
				need("environment", env, conn.Name, c.environments[env] != nil, false)
			}
			for _, f := range fields {
				s := set[f.name]
				if s == nil || s.broken {
					continue
				}
				by := strings.ReplaceAll(conn.Name+"."+env+"."+f.name, "..", ".")
				switch {
				case s.source != nil && s.source.kind == fromCommand:
					need("file", s.source.argv[0], by, s.source.offline() == nil, false)
				case s.source != nil && s.source.kind != fromSealed && s.source.kind != fromNowhere:
					need(string(s.source.kind), s.source.text, by, s.source.offline() == nil, false)
				case f.local && f.kind == text:
					p := lookAtFile(s.text)
					need("file", s.text, by, p == nil || p.code != CodeFileMissing, false)
				case f.deferred(s):
					c.needVariables(conn, env, s, func(name string, here, hidden bool) { need("variable", name, by, here, hidden) })
				}
			}
		}
	}
	out := make([]Dependency, 0, len(found))
	for _, d := range found {
		slices.Sort(d.UsedBy)
		out = append(out, *d)
	}
	slices.SortFunc(out, func(a, b Dependency) int { return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name)) })
	return out
}

// needVariables tells the variables that s refers to itself: they are there if any environment, or all of them, has them.
func (c *Config) needVariables(conn *Connection, env string, s *setting, need func(name string, here, hidden bool)) {
	pieces, _ := split(s.text + s.secret.Reveal())
	for _, p := range pieces {
		if !p.name {
			continue
		}
		var v *Variable
		envs := []string{env}
		if env == "" {
			envs = append(slices.Clone(c.active), conn.Environments()...)
		}
		for _, e := range append(envs, slices.Sorted(maps.Keys(c.environments))...) {
			v = cmp.Or(v, c.variable(e, p.text))
		}
		need(p.text, v != nil, v != nil && v.Secret)
	}
}

// Adopt makes an imported definition fit to be stored: what only the owner of a machine may write, and an import never brings, is taken
// out and told. That is secrets from files and programs, paths of keys and authorities, agents, and a mountPoint outside mountRoot.
// With missing, fields that need what is not there are taken out, too, where something else remains.
func (c *Config) Adopt(data []byte, name, mountRoot string, missing []Dependency) ([]byte, []Blank, []Finding) {
	conn, findings := Parse(data, name, name)
	if HasErrors(findings) {
		return nil, nil, findings
	}
	lacks := map[string]bool{}
	for _, d := range missing {
		for _, by := range d.UsedBy {
			lacks[d.Kind+"\x00"+by] = true
		}
	}
	var blanks []Blank
	for env, set := range conn.all() {
		for _, f := range fields {
			s := set[f.name]
			if s == nil {
				continue
			}
			by := strings.ReplaceAll(name+"."+env+"."+f.name, "..", ".")
			why := ""
			switch {
			case s.source != nil && (s.source.kind == fromFile || s.source.kind == fromCommand):
				why = "a " + string(s.source.kind) + " of this machine is named by its owner, never by an import"
			case s.source != nil && s.source.kind == fromSealed:
				why = "it was sealed with another machine's key"
			case f.local && (f.kind != truth || s.truth):
				why = "files and agents of this machine are named by its owner, never by an import"
			case f.name == "mountPoint" && !below(s.text, mountRoot):
				why = "it lies outside " + mountRoot
			case f.kind == secret && s.literal():
				why = "secrets do not travel: give it again"
			case f.kind == secret && lacks["variable\x00"+by]:
				why = "its variable is not defined here"
			case s.source != nil && lacks[string(s.source.kind)+"\x00"+by]:
				why = "its source is not here"
			}
			if why == "" {
				continue
			}
			blanks = append(blanks, Blank{name, env, f.name, why})
			out, err := amend(data, amendment{table: FieldChange{Environment: env}.table(), key: f.name})
			if err != nil {
				return nil, nil, []Finding{{Severity: Error, Code: CodeSyntax, Connection: name, Field: f.name, Message: err.Error(), Hint: "take the field out of the file that is imported"}}
			}
			data = out
		}
	}
	return data, blanks, nil
}

// MapEnvironments renames environments in a definition, or takes out those that become "". It rewrites the whole definition, and is for
// one that a program wrote.
func MapEnvironments(data []byte, name string, to map[string]string) ([]byte, error) {
	conn, findings := Parse(data, name, name)
	for _, f := range findings {
		if f.Code == CodeSyntax {
			return nil, errors.New(f.String())
		}
	}
	mapped := map[string]settings{}
	for env, set := range conn.envs {
		as, given := to[env]
		if !given {
			as = env
		}
		if as == "" {
			continue
		}
		if mapped[as] != nil {
			return nil, fmt.Errorf("two environments would both become %q", as)
		}
		mapped[as] = set
	}
	conn.envs = mapped
	return conn.TOML(), nil
}
