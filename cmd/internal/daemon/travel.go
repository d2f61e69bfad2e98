package daemon

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"pierfs/cmd/internal/control"
	"pierfs/cmd/internal/dirs"
	"pierfs/conncfg"
)

// maxImport bounds the definitions of one import, as text.
const maxImport = 64 << 20

func (d *Daemon) export(_ context.Context, q control.ExportRequest) (control.ExportAnswer, error) {
	config := d.inForce()
	a := control.ExportAnswer{Connections: []control.Exported{}}
	var all []*conncfg.Connection
	var unknown []string
	for _, name := range q.Names {
		if c := config.Connection(name); c == nil {
			unknown = append(unknown, name)
		} else if !slices.Contains(all, c) {
			all = append(all, c)
		}
	}
	if len(unknown) > 0 {
		return a, control.Errorf(control.UnknownConnection, "there is no connection %q", strings.Join(unknown, `", "`)).
			WithHint("nothing was exported; `pierfs list` shows the connections")
	}
	if len(q.Names) == 0 {
		all = config.Connections()
	}
	for _, c := range all {
		if err := d.refusal(c.Findings()); err != nil {
			return a, err // a part of it would be missing
		}
		text, err := c.Portable()
		if err != nil {
			return a, err
		}
		a.Connections = append(a.Connections, control.Exported{Name: c.Name, Definition: string(text)})
	}
	believed, err := d.believed(config, all)
	a.Dependencies = append(nonNil(config.Dependencies(all...)), believed...)
	return a, err
}

// believed returns the host keys and certificates that somebody has said to trust of the servers of connections, sorted. Whoever imports them is
// told, and believes them himself or not.
func (d *Daemon) believed(config *conncfg.Config, all []*conncfg.Connection) ([]conncfg.Dependency, error) {
	if d.o.Floor.Believed == nil {
		return nil, nil
	}
	found := map[[2]string]*conncfg.Dependency{}
	for _, c := range all {
		for _, server := range config.Servers(c) {
			prints, err := d.o.Floor.Believed(server)
			if err != nil {
				return nil, control.Errorf(control.Failed, "what is trusted of %s: %v", server.Address, err).WithHint("look below %s; nothing was exported", filepath.Join(d.o.Dirs.State, "trust"))
			}
			kind := "hostKey"
			if server.Protocol == conncfg.FTPS {
				kind = "certificate"
			}
			for _, print := range prints {
				at := [2]string{kind, server.Address + " " + print}
				if found[at] == nil {
					found[at] = &conncfg.Dependency{Kind: kind, Name: at[1], Here: true}
				}
				found[at].UsedBy = append(found[at].UsedBy, c.Name+"."+server.Environment)
			}
		}
	}
	out := make([]conncfg.Dependency, 0, len(found))
	for _, dependency := range found {
		slices.Sort(dependency.UsedBy)
		out = append(out, *dependency)
	}
	slices.SortFunc(out, func(a, b conncfg.Dependency) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
	})
	return out, nil
}

// arrival is one definition on its way in.
type arrival struct {
	name, as string
	text     []byte
	findings []conncfg.Finding
	blanks   []conncfg.Blank
	missing  []conncfg.Dependency
	set      []control.Setting
}

// imports plans an import, answers each question of the plan, and stores the definitions if none stands against it. They are not
// mounted before `pierfs apply` or `pierfs mount`.
func (d *Daemon) imports(ctx context.Context, q control.ImportRequest, body io.Reader) (control.ImportAnswer, error) {
	var list []control.Imported
	decoder := json.NewDecoder(io.LimitReader(body, maxImport))
	if err := decoder.Decode(&list); err != nil {
		return control.ImportAnswer{}, control.Errorf(control.BadData, "understand the definitions: %v", err).WithHint("`pierfs import FILE` reads archives and JSON; with --from it reads what others keep")
	}
	if q.Rename != "" && len(list) != 1 {
		return control.ImportAnswer{}, control.Errorf(control.Usage, "one name was given for %d connections", len(list)).WithHint("export them one by one to rename them")
	}
	d.editing.Lock()
	defer d.editing.Unlock()
	c, err := d.begin(ctx, "import", "", q.ChangeOptions)
	if err != nil {
		return control.ImportAnswer{}, err
	}
	a := control.ImportAnswer{Checks: []control.Check{}, Connections: []control.ImportedAs{}, Missing: []conncfg.Dependency{}, Unresolved: []conncfg.Blank{}, Notes: []string{}}
	a.Change = control.ChangeAnswer{Changes: []conncfg.Difference{}, Impact: []control.Impact{}, Findings: []conncfg.Finding{}}
	arrivals := make([]*arrival, len(list))
	for i, in := range list {
		arrivals[i] = c.receive(in, q)
	}
	a.Checks = append(a.Checks, c.checkFormat(arrivals), c.checkConflicts(arrivals, q, &a), c.checkDependencies(arrivals, q, &a))
	if slices.ContainsFunc(a.Checks, func(k control.Check) bool { return !k.OK }) {
		return a, nil
	}
	for _, in := range arrivals {
		if c.files[conncfg.ConnectionFile(in.as)], err = c.sealed(in); err != nil {
			return a, err
		}
		a.Unresolved = append(a.Unresolved, in.blanks...)
		a.Notes = append(a.Notes, c.notActive(in)...)
	}
	return c.store(ctx, a, arrivals)
}

// notActive tells of environments that a definition has something for, and that are not active here.
func (c *draft) notActive(in *arrival) []string {
	conn, _ := conncfg.Parse(in.text, in.as, in.as)
	active := c.was.Active()
	others := slices.DeleteFunc(conn.Environments(), func(env string) bool { return slices.Contains(active, env) })
	if len(others) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("%s: what it has for %s counts once that is active, and here %s is: `pierfs env use %s`",
		in.as, strings.Join(others, " and "), strings.Join(active, " and "), strings.Join(slices.Concat(active, others), " "))}
}

// sealed returns the text of a definition with the secrets that came beside it, encrypted with the key of this machine.
func (c *draft) sealed(in *arrival) ([]byte, error) {
	changes, err := c.d.settings(in.set, c.o.DryRun)
	if err != nil {
		return nil, err
	}
	text, findings := conncfg.Edit(in.text, changes)
	return text, c.d.refusal(findings)
}

// store writes what passed the other checks, unless the definitions as a whole do not.
func (c *draft) store(ctx context.Context, a control.ImportAnswer, arrivals []*arrival) (control.ImportAnswer, error) {
	last := control.Check{Check: "definitions", OK: true}
	waiting := map[string]bool{}
	for _, in := range arrivals {
		if _, there := c.now[conncfg.ConnectionFile(in.as)]; !there {
			waiting[in.as] = true
		}
	}
	if !c.o.DryRun {
		if err := c.d.wait(waiting); err != nil {
			return a, err
		}
	}
	var err error
	a.Change, err = c.commit(ctx)
	if err != nil && !c.o.DryRun {
		c.d.waitNoMore(waiting)
	}
	if e, ok := err.(*control.Error); ok && (e.Code == control.ConfigInvalid || e.Code == control.Busy) {
		last.OK, last.Code, last.Hint = false, e.Code, e.Hint
		for _, f := range e.Findings {
			last.Detail = append(last.Detail, f.String())
		}
		if len(e.Findings) == 0 {
			last.Detail = []string{e.Text}
		}
		err = nil
	}
	a.Checks = append(a.Checks, last)
	return a, err
}

// receive makes a definition one of this machine: with its environments mapped, and without what no import brings.
func (c *draft) receive(in control.Imported, q control.ImportRequest) *arrival {
	r := &arrival{name: in.Name, as: in.Name, text: []byte(in.Definition.Open()), set: in.Set}
	if q.Rename != "" {
		r.as = q.Rename
	}
	mapped := func(env string) string {
		if to, given := q.MapEnv[env]; given {
			return to
		}
		return env
	}
	for _, b := range in.Blanks {
		b.Connection, b.Environment = r.as, mapped(b.Environment)
		r.blanks = append(r.blanks, b)
	}
	root := c.d.o.Dirs.MountRoot
	text, blanks, findings := c.was.Adopt(r.text, r.as, root, nil)
	if r.findings = findings; conncfg.HasErrors(findings) {
		return r
	}
	for _, b := range blanks {
		b.Environment = mapped(b.Environment)
		r.blanks = append(r.blanks, b)
	}
	if len(q.MapEnv) > 0 {
		var err error
		if text, err = conncfg.MapEnvironments(text, r.as, q.MapEnv); err != nil {
			r.findings = []conncfg.Finding{{Severity: conncfg.Error, Code: conncfg.CodeInvalid, Connection: r.as, Field: "environments", Message: err.Error(), Hint: "map them to different ones"}}
			return r
		}
	}
	conn, _ := conncfg.Parse(text, r.as, r.as)
	r.missing = slices.DeleteFunc(c.was.Dependencies(conn), func(d conncfg.Dependency) bool { return d.Here })
	if q.ExcludeMissing {
		without := map[string]string{}
		for _, d := range r.missing {
			if d.Kind == "environment" {
				without[d.Name] = ""
				r.blanks = append(r.blanks, conncfg.Blank{Connection: r.as, Environment: d.Name, Field: "environment", Why: "there is no such environment here, and its fields were left out"})
			}
		}
		text, _ = conncfg.MapEnvironments(text, r.as, without)
		var more []conncfg.Blank
		text, more, r.findings = c.was.Adopt(text, r.as, root, r.missing)
		r.blanks = append(r.blanks, more...)
	}
	r.text = text
	return r
}

func (c *draft) checkFormat(arrivals []*arrival) control.Check {
	k := control.Check{Check: "format", OK: true}
	for _, in := range arrivals {
		for _, f := range append(conncfg.CheckFullName(in.as), in.findings...) {
			if f.Severity == conncfg.Error {
				k.OK, k.Code, k.Hint = false, control.ConfigInvalid, "correct the definition where it comes from, and export it again"
				k.Detail = append(k.Detail, f.String())
			}
		}
	}
	return k
}

func (c *draft) checkConflicts(arrivals []*arrival, q control.ImportRequest, a *control.ImportAnswer) control.Check {
	k := control.Check{Check: "conflict", OK: true}
	for _, in := range arrivals {
		as := control.ImportedAs{Name: in.name, As: in.as, Change: "added"}
		was, there := c.now[conncfg.ConnectionFile(in.as)]
		switch {
		case there && slices.Equal(was, in.text):
			as.Change = "unchanged"
		case there && q.Overwrite:
			as.Change = "replaced"
		case there:
			k.OK, k.Code = false, control.Exists
			k.Detail = append(k.Detail, fmt.Sprintf("there is a connection %q", in.as))
		default:
			if err := c.was.Free(in.as); err != nil {
				k.OK, k.Code = false, control.Exists
				k.Detail = append(k.Detail, err.Error())
			}
		}
		a.Connections = append(a.Connections, as)
	}
	if !k.OK {
		k.Hint = "--overwrite replaces it, --rename NEW gives the imported one another name"
	}
	return k
}

func (c *draft) checkDependencies(arrivals []*arrival, q control.ImportRequest, a *control.ImportAnswer) control.Check {
	k := control.Check{Check: "dependencies", OK: true}
	for _, in := range arrivals {
		a.Missing = append(a.Missing, in.missing...)
		if q.ExcludeMissing {
			continue
		}
		for _, m := range in.missing {
			k.Detail = append(k.Detail, fmt.Sprintf("%s %q is not here, and is needed by %s", m.Kind, m.Name, strings.Join(m.UsedBy, ", ")))
		}
	}
	if len(k.Detail) > 0 {
		k.OK, k.Code = false, control.NotFound
		k.Hint = makeFirst(a.Missing) + "; or give an environment another name with --map-env, or leave out what needs them with --exclude-missing"
	}
	return k
}

// makeFirst names the commands that make what an import needs.
func makeFirst(missing []conncfg.Dependency) string {
	var commands []string
	for _, m := range missing {
		command := ""
		switch {
		case m.Kind == "environment":
			command = "`pierfs env create " + m.Name + "`"
		case m.Kind == "variable" && (m.Secret || hidden(m)):
			command = "`pierfs vars set " + m.Name + " --secret`, or with --env ENV for one environment"
		case m.Kind == "variable":
			command = "`pierfs vars set " + m.Name + " VALUE`, or with --env ENV for one environment"
		default:
			command = "the " + m.Kind + " " + m.Name
		}
		if !slices.Contains(commands, command) {
			commands = append(commands, command)
		}
	}
	return "make them first: " + strings.Join(commands, "; ")
}

// hidden reports whether something needs m as a secret.
func hidden(m conncfg.Dependency) bool {
	return slices.ContainsFunc(m.UsedBy, func(by string) bool { return slices.Contains(conncfg.Secrets(), by[strings.LastIndexByte(by, '.')+1:]) })
}

// waiting is where the names of connections are kept that were imported and not yet applied.
func (d *Daemon) waiting() string { return filepath.Join(d.o.Dirs.State, "imported.json") }

// wait keeps connections from being mounted until apply or mount, also by a later daemon.
func (d *Daemon) wait(names map[string]bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := maps.Clone(d.imported)
	if all == nil {
		all = map[string]bool{}
	}
	maps.Copy(all, names)
	return d.keepWaiting(all)
}

func (d *Daemon) waitNoMore(names map[string]bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := maps.Clone(d.imported)
	maps.DeleteFunc(all, func(name string, _ bool) bool { return names == nil || names[name] })
	if err := d.keepWaiting(all); err != nil {
		d.log.Warn("who was imported and not applied could not be written down", "err", err)
	}
}

// waits reports whether a connection was imported and not applied yet.
func (d *Daemon) waits(name string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.imported[name]
}

// keepWaiting writes down who waits. d.mu is held.
func (d *Daemon) keepWaiting(all map[string]bool) error {
	if len(all) == len(d.imported) && maps.Equal(all, d.imported) {
		return nil
	}
	text, err := json.Marshal(slices.Sorted(maps.Keys(all)))
	if err == nil {
		err = dirs.Replace(d.waiting(), text, 0o600)
	}
	if err == nil {
		d.imported = all
	}
	return err
}

// readWaiting learns who was imported and not applied before this daemon started.
func (d *Daemon) readWaiting() {
	text, err := os.ReadFile(d.waiting())
	if isAbsent(err) {
		return
	}
	var names []string
	if err == nil {
		err = json.Unmarshal(text, &names)
	}
	if err != nil {
		d.log.Warn("who was imported and not applied cannot be read: all are mounted", "file", d.waiting(), "err", err)
	}
	d.imported = map[string]bool{}
	for _, name := range names {
		d.imported[name] = true
	}
}
