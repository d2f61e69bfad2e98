// Package conncfg is what an operator wrote: connections, environments and their variables, as files below one
// configuration directory.
//
//	connections/NAME.toml           a global connection
//	connections/PROJECT/NAME.toml   a project's; its name is PROJECT/NAME everywhere
//	environments/ENV.toml           the variables of an environment
//	variables.toml                  those of all environments
//	pierfs.toml                     what concerns the whole daemon, such as which environments are active
//
// Load reads them all and never stops at a mistake: each is a Finding with its file, line, field, code and way out, and
// Check adds what is only seen when definitions are put together with variables and with each other. Neither runs a
// command nor opens a file that holds a secret. Resolve does: it turns one connection in one environment into a Target,
// asking each source of a variable at that moment, with a deadline and a bound, so that a changed password counts from
// the next session on.
//
// The rules for fields stand in one table (field.go), which parsing, overriding by environment, options of the command
// line, showing and comparing all go by. Secrets are of type Secret, which nothing prints; findings never quote them.
//
// A Config never changes once it is loaded, and any number of goroutines may use it. Store changes the files: each as a
// whole, or not at all.
package conncfg

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
)

// Config is what stands below one configuration directory, as it was when Load read it.
type Config struct {
	dir          string
	connections  map[string]*Connection
	environments map[string]*Environment
	global       scope
	active       []string
	cache        Cache
	roles        Grants
	findings     []Finding
	owners       func() map[string][]place // see policy.go
}

// Environment is a name under which connections have their own values: Development, Test, Production, and those that
// have a file.
type Environment struct {
	Name   string
	File   string // "" without one
	Policy Policy
	// Protected says that a change which means something here waits for a second person.
	Protected bool

	variables scope
}

var builtin = []string{development, "Test", production}

const (
	defaultActive  = development
	development    = "Development"
	production     = "Production"
	settingsFile   = "pierfs.toml"
	variablesFile  = "variables.toml"
	connectionsDir = "connections"
	environmentDir = "environments"
)

// Load reads the configuration below dir. The config is never nil. Findings are those of the files by themselves; Check
// returns them again together with all others.
//
// Files whose name does not end in .toml, or begins with a dot or a #, are not looked at: editors leave such. Symbolic
// links are followed as long as they stay below dir.
func Load(dir string) (*Config, []Finding) { return LoadWith(dir, nil) }

// LoadWith is Load as if some files below dir, by their slash-separated names, had other contents: nil is one that is not
// there. It tells what a change would do before anything is written.
func LoadWith(dir string, files map[string][]byte) (*Config, []Finding) {
	c := newConfig(dir)
	root, err := os.OpenRoot(dir)
	if err != nil {
		code, severity := CodeRead, Error
		if errors.Is(err, os.ErrNotExist) {
			code, severity = CodeNoConfig, Warning
		}
		c.findings = append(c.findings, Finding{Severity: severity, Code: code, File: dir, Message: reason(err), Hint: "check --config-dir"})
		return c, slices.Clone(c.findings)
	}
	defer root.Close()
	l := &loader{config: c, root: root, fs: root.FS(), instead: files}
	l.checkDir(".")
	l.load()
	return c, slices.Clone(c.findings)
}

// LoadFiles reads a configuration that lies nowhere: an older state, by the slash-separated names of its files. Findings
// call it dir.
func LoadFiles(dir string, files map[string][]byte) (*Config, []Finding) {
	c := newConfig(dir)
	l := &loader{config: c, instead: files}
	l.load()
	return c, slices.Clone(c.findings)
}

func newConfig(dir string) *Config {
	c := &Config{
		dir: dir, connections: map[string]*Connection{}, environments: map[string]*Environment{},
		global: newScope(), active: []string{defaultActive},
	}
	c.owners = ownersOf(c)
	for _, name := range builtin {
		c.environments[name] = &Environment{Name: name, Policy: policyOf(name), variables: newScope()}
	}
	return c
}

// loader reads files for a Config, each relative to the configuration directory and never outside it.
type loader struct {
	config  *Config
	root    *os.Root // nil where instead is all there is
	fs      fs.FS
	instead map[string][]byte // contents of files that count in place of those on disk; see files.go
}

func (l *loader) load() {
	l.loadVariables()
	l.loadEnvironments()
	l.loadConnections()
	l.loadSettings()
	l.config.findings = tidy(l.config.findings)
}

func (l *loader) report(f Finding) {
	f.File = l.place(f.File)
	l.config.findings = append(l.config.findings, f)
}

// place is how findings call a file: as the operator reaches it.
func (l *loader) place(name string) string { return l.config.place(name) }

func (c *Config) place(name string) string { return path.Join(c.dir, name) }

func reason(err error) string {
	if perr, ok := errors.AsType[*fs.PathError](err); ok {
		return perr.Err.Error()
	}
	return err.Error()
}

// read returns the content of a regular file, and its mode.
func (l *loader) read(name string) ([]byte, os.FileMode, bool) {
	if data, ok := l.instead[name]; ok {
		return data, l.mode(name), data != nil
	}
	f, err := l.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	if err != nil {
		l.unreadable(name, err)
		return nil, 0, false
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("is no regular file")
	}
	var data []byte
	if err == nil {
		data, err = io.ReadAll(io.LimitReader(f, maxDocument+1))
	}
	if err != nil {
		l.unreadable(name, err)
		return nil, 0, false
	}
	if info.Mode().Perm()&0o002 != 0 {
		l.report(Finding{Severity: Error, Code: CodeWritable, File: name, Message: "everybody may write this file, and it can name programs to run", Hint: "chmod o-w " + l.place(name)})
	}
	return data, info.Mode().Perm(), true
}

func (l *loader) unreadable(name string, err error) {
	f := Finding{Severity: Error, Code: CodeRead, File: name, Message: reason(err), Hint: "check that the daemon's user may read it"}
	if info, lerr := l.root.Lstat(name); lerr == nil && info.Mode()&os.ModeSymlink != 0 {
		f.Code, f.Hint = CodeSymlink, "a link must lead to a file below the configuration directory"
	}
	l.report(f)
}

func (l *loader) checkDir(name string) {
	info, err := l.root.Stat(name)
	if err == nil && info.Mode().Perm()&0o002 != 0 && info.Mode()&os.ModeSticky == 0 {
		l.report(Finding{Severity: Error, Code: CodeWritable, File: name, Message: "everybody may create files in this directory, and they can name programs to run", Hint: "chmod o-w " + l.place(name)})
	}
}

// list returns the names below a directory that are ours to read, directories and files apart. A directory that does not
// exist is an empty one.
func (l *loader) list(dir string) (dirs, files []string) {
	if l.root != nil {
		dirs, files = l.listDisk(dir)
	}
	return l.listInstead(dir, dirs, files)
}

func (l *loader) listDisk(dir string) (dirs, files []string) {
	entries, err := fs.ReadDir(l.fs, dir)
	if err != nil {
		if !errors.Is(err, os.ErrNotExist) {
			l.unreadable(dir, err)
		}
		return nil, nil
	}
	l.checkDir(dir)
	for _, e := range entries {
		name := e.Name()
		if name[0] == '.' || name[0] == '#' {
			continue
		}
		isDir := e.IsDir()
		if e.Type()&os.ModeSymlink != 0 {
			info, err := l.root.Stat(path.Join(dir, name))
			if err != nil && strings.HasSuffix(name, ".toml") {
				l.unreadable(path.Join(dir, name), err)
			}
			if err != nil {
				continue
			}
			isDir = info.IsDir()
		}
		if isDir {
			dirs = append(dirs, name)
		} else if stem, ok := strings.CutSuffix(name, ".toml"); ok {
			files = append(files, stem)
		}
	}
	return dirs, files
}

func (l *loader) loadSettings() {
	c := l.config
	if !l.exists(settingsFile) {
		l.defaultActive()
		return
	}
	data, _, ok := l.read(settingsFile)
	if !ok {
		c.active = nil // nobody knows what may be mounted: nothing
		return
	}
	report := func(f Finding) { f.File = settingsFile; l.report(f) }
	root := document(data, report)
	said := false
	for _, e := range root.entries {
		switch e.key {
		case "activeEnvironments":
			said = true
			c.active = l.readActive(e, report)
		case "cacheSize":
			c.cache.Size = readSize(e, report)
		case "cacheFree":
			c.cache.FreePercent, c.cache.FreeBytes = readFree(e, report)
		case "roles":
			l.readRoles(e, report)
		default:
			known := []string{"activeEnvironments", "cacheSize", "cacheFree", "roles"}
			report(Finding{Severity: Error, Code: CodeUnknownKey, Field: e.key, Line: e.line, Message: "there is no such setting",
				Hint: didYouMean(e.key, slices.Values(known), "there are "+strings.Join(known, ", "))})
		}
	}
	if !said {
		l.defaultActive()
	}
}

func (l *loader) defaultActive() {
	if len(l.config.connections) > 0 {
		l.report(Finding{Severity: Warning, Code: CodeActiveDefault, File: settingsFile, Field: "activeEnvironments",
			Message: "nothing says which environments are active on this machine, so it is " + defaultActive, Hint: `write activeEnvironments = ["` + defaultActive + `"]`})
	}
}

func (l *loader) readActive(e *entry, report func(Finding)) []string {
	active := []string{}
	refuse := func(code Code, value, message, hint string) {
		report(Finding{Severity: Error, Code: code, Field: e.key, Line: e.line, Value: value, Message: message, Hint: hint})
	}
	list, ok := e.value.([]any)
	if !ok {
		refuse(CodeWrongType, "", "is "+kindOf(e.value)+"; it takes a list", `write activeEnvironments = ["Production"]`)
		return active
	}
	for _, v := range list {
		name, ok := v.(string)
		switch {
		case !ok:
			refuse(CodeWrongType, "", "holds "+kindOf(v), "quote the environments' names")
		case l.config.environments[name] == nil:
			refuse(CodeUnknownEnvironment, name, "there is no such environment",
				didYouMean(name, maps.Keys(l.config.environments), "create environments/"+name+".toml"))
		case slices.Contains(active, name):
			refuse(CodeDuplicateKey, name, "is named twice", "name it once")
		default:
			active = append(active, name)
		}
	}
	return active
}

func (l *loader) loadVariables() {
	if !l.exists(variablesFile) {
		return
	}
	l.readScope(variablesFile, &Environment{}, l.config.global)
}

func (l *loader) loadEnvironments() {
	_, names := l.list(environmentDir)
	for _, name := range names {
		file := path.Join(environmentDir, name+".toml")
		if findings := CheckName(name); len(findings) > 0 {
			l.nameFindings(findings, file, "an environment's name")
			continue
		}
		for other := range l.config.environments {
			if other != name && strings.EqualFold(other, name) {
				l.report(Finding{Severity: Warning, Code: CodeNameCase, File: file, Environment: name,
					Message: "differs from the environment " + other + " in upper and lower case alone", Hint: "rename one of them"})
			}
		}
		e := &Environment{Name: name, File: l.place(file), Policy: policyOf(name), variables: newScope()}
		l.config.environments[name] = e
		l.readScope(file, e, e.variables)
	}
}

func (l *loader) nameFindings(findings []Finding, file, what string) {
	for _, f := range findings {
		f.File, f.Hint = file, "the file is named after "+what+"; "+f.Hint
		l.report(f)
	}
}

// readScope reads the [variables] and [secrets] of an environment, and what it asks of connections, or the global ones if it has no name.
// Literal secrets need a file that nobody else reads.
func (l *loader) readScope(file string, of *Environment, into scope) {
	env := of.Name
	data, perm, ok := l.read(file)
	if !ok {
		return
	}
	report := func(f Finding) {
		f.File, f.Environment = file, env
		l.report(f)
	}
	literal := 0
	add := func(v *Variable) {
		v.File = l.place(file)
		if v.Secret {
			into.secret[v.Name] = v
		} else {
			into.plain[v.Name] = v
		}
		if v.marked && v.source.kind == fromValue && !onlyReferences(v.source.text) && literal == 0 {
			literal = v.Line
		}
	}
	bare := &table{} // variables.toml may leave out the header: it holds nothing else
	for _, e := range document(data, report).entries {
		group, ok := e.value.(*table)
		switch {
		case ok && (e.key == "variables" || e.key == "secrets"):
			l.readGroup(group, e.key == "secrets", file, env, report, add)
		case ok && e.key == "policy" && env != "":
			readPolicy(group, &of.Policy, report)
		case e.key == "protected" && env != "":
			truth, isTruth := e.value.(bool)
			if of.Protected = truth || !isTruth; !isTruth {
				report(Finding{Severity: Error, Code: CodeWrongType, Field: e.key, Line: e.line, Message: "is " + kindOf(e.value), Hint: "write protected = true or protected = false, without quotes"})
			}
		case env == "":
			bare.entries = append(bare.entries, e)
		default:
			report(Finding{Severity: Error, Code: CodeUnknownKey, Field: e.key, Line: e.line, Message: "there is no such table",
				Hint: didYouMean(e.key, slices.Values([]string{"variables", "secrets", "policy", "protected"}), "variables stand below [variables]")})
		}
	}
	l.readGroup(bare, false, file, env, report, add)
	if literal > 0 && perm&0o077 != 0 {
		report(Finding{Severity: Error, Code: CodeSecretMode, Line: literal, Message: fmt.Sprintf("a secret stands in a file that others may read (mode %#o)", perm), Hint: "chmod 600 " + l.place(file)})
	}
}

// readGroup reads one table of variables. Dotted names may be written as they are: a.b = "x" is the variable a.b.
func (l *loader) readGroup(group *table, secrets bool, file, env string, report func(Finding), add func(*Variable)) {
	prefix := "variables."
	if secrets {
		prefix = "secrets."
	}
	var walk func(t *table, under string)
	walk = func(t *table, under string) {
		for _, e := range t.entries {
			name := under + e.key
			place := Finding{Severity: Error, File: file, Field: prefix + name, Line: e.line}
			if !variableName(name) {
				report(place.with(&problem{CodeVariableSyntax, "is no name of a variable", "use letters, digits, dots and underscores"}, ""))
				continue
			}
			inner, isTable := e.value.(*table)
			if isTable && !isSource(inner) {
				walk(inner, name+".")
				continue
			}
			v, p := readVariable(name, e, secrets, place, report)
			if p != nil {
				report(place.with(p, ""))
				v.source = source{} // defined, and worth nothing: references to it are not a second mistake
			}
			if owner := l.stranger(place.File); owner != "" && v.source.outside() {
				report(place.with(foreignProblem(owner, l.place(place.File)), ""))
				v.source = source{}
			}
			v.Environment = env
			add(v)
		}
	}
	walk(group, "")
}

// isSource tells a variable's table from one that only groups dotted names.
func isSource(t *table) bool {
	return t.inline || slices.ContainsFunc(t.entries, func(e *entry) bool {
		_, group := e.value.(*table)
		return !group && slices.Contains(sourceKeys, e.key)
	})
}

func readVariable(name string, e *entry, secrets bool, place Finding, report func(Finding)) (*Variable, *problem) {
	v := &Variable{Name: name, Line: e.line, Secret: secrets, marked: secrets}
	switch value := e.value.(type) {
	case string:
		v.source = source{kind: fromValue, text: value}
		_, p := split(value)
		return v, p
	case number:
		i, ok := value.integer()
		if !ok {
			return v, &problem{CodeWrongType, "is no number that fits", "quote it"}
		}
		v.source = source{kind: fromValue, text: fmt.Sprint(i)}
		return v, nil
	case *table:
		s, p := readSourceTable(value, place, report)
		v.source = *s
		v.Secret = secrets || s.kind == fromFile || s.kind == fromCredential || s.kind == fromCommand || s.kind == fromSealed
		if mark := value.byKey["secret"]; mark != nil {
			marked, _ := mark.value.(bool)
			v.Secret, v.marked = secrets || marked, secrets || marked
		}
		v.source.quiet = v.Secret
		return v, p
	}
	return v, &problem{CodeWrongType, "is " + kindOf(e.value) + "; it takes a text or a table", `write "..." or { env = "NAME" }`}
}

func (l *loader) loadConnections() {
	dirs, files := l.list(connectionsDir)
	folded := map[string]string{} // lower case to what bears the name
	for _, name := range files {
		l.loadConnection(name, folded)
	}
	for _, project := range dirs {
		dir := path.Join(connectionsDir, project)
		if findings := CheckName(project); len(findings) > 0 {
			l.nameFindings(findings, dir, "a project")
			continue
		}
		inner, files := l.list(dir)
		for _, deeper := range inner {
			l.report(Finding{Severity: Warning, Code: CodeUnknownKey, File: path.Join(dir, deeper), Message: "is a folder in a project, and is not looked at", Hint: "projects hold files only"})
		}
		if len(files) == 0 {
			continue
		}
		if other, taken := folded[strings.ToLower(project)]; taken {
			code, message := CodeNameTaken, "the project bears the name of the connection "+other
			if other != project {
				code, message = CodeNameCase, "the project's name differs from "+other+" in upper and lower case alone"
			}
			l.report(Finding{Severity: Error, Code: code, File: dir, Message: message, Hint: "rename one of them: both would be mounted at the same place"})
			continue
		}
		folded[strings.ToLower(project)] = project
		within := map[string]string{}
		for _, name := range files {
			l.loadConnection(project+"/"+name, within)
		}
	}
}

// loadConnection reads one definition, unless another one bears the name already but for upper and lower case.
func (l *loader) loadConnection(full string, folded map[string]string) {
	file := fileName(full)
	name := strings.ToLower(full)
	if other, taken := folded[name]; taken {
		l.report(Finding{Severity: Error, Code: CodeNameCase, File: file, Connection: full,
			Message: "differs from " + other + " in upper and lower case alone", Hint: "rename one of them"})
		return
	}
	folded[name] = full
	data, perm, ok := l.read(file)
	if !ok {
		return
	}
	c, _ := Parse(data, l.place(file), full)
	for env, line := range c.envLines {
		if l.config.environments[env] == nil && CheckName(env) == nil {
			c.report(Finding{Severity: Error, Code: CodeUnknownEnvironment, Line: line, Field: "environments." + env, Message: "there is no such environment",
				Hint: didYouMean(env, maps.Keys(l.config.environments), "create environments/"+env+".toml")})
		}
	}
	if line := c.literalSecret(); line > 0 && perm&0o077 != 0 {
		c.report(Finding{Severity: Error, Code: CodeSecretMode, Line: line,
			Message: fmt.Sprintf("a secret stands in a file that others may read (mode %#o)", perm), Hint: "chmod 600 " + c.File})
	}
	if owner := l.stranger(file); owner != "" {
		c.foreign(owner, l.place(file))
	}
	l.config.connections[full] = c
	l.config.findings = append(l.config.findings, c.findings...)
}

// literalSecret returns the line of the first secret that stands in the definition itself, or 0.
func (c *Connection) literalSecret() int {
	first := 0
	for _, set := range append(slices.Collect(maps.Values(c.envs)), c.base) {
		for name, s := range set {
			if fieldOf[name].kind == secret && s.literal() && (first == 0 || s.line < first) {
				first = s.line
			}
		}
	}
	return first
}

// literal reports whether a secret setting holds at least a part of the secret itself.
func (s *setting) literal() bool {
	return !s.given && !s.broken && s.source == nil && !s.secret.Empty() && !onlyReferences(s.secret.Reveal())
}

// Connections returns all connections, sorted by name. Those with mistakes are among them.
func (c *Config) Connections() []*Connection {
	return slices.SortedFunc(maps.Values(c.connections), func(a, b *Connection) int { return cmp.Compare(a.Name, b.Name) })
}

// Connection returns the one called NAME or PROJECT/NAME, or nil.
func (c *Config) Connection(name string) *Connection { return c.connections[name] }

// Environments returns the environments that exist: the three built in, and those that have a file, sorted by name.
func (c *Config) Environments() []*Environment {
	return slices.SortedFunc(maps.Values(c.environments), func(a, b *Environment) int { return cmp.Compare(a.Name, b.Name) })
}

// Active returns the names of the environments that are mounted on this machine, in the order written.
func (c *Config) Active() []string { return slices.Clone(c.active) }

// Cache returns how much may be kept of what is read.
func (c *Config) Cache() Cache { return c.cache }

// Variables returns what is defined for env, global variables included where env does not hide them, sorted by name.
func (c *Config) Variables(env string) []*Variable {
	seen := c.visible(env)
	out := make([]*Variable, 0, len(seen))
	for name := range seen {
		out = append(out, c.variable(env, name))
	}
	slices.SortFunc(out, func(a, b *Variable) int { return cmp.Compare(a.Name, b.Name) })
	return out
}
