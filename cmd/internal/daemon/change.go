package daemon

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"pierfs/cmd/internal/control"
	"pierfs/cmd/internal/registry"
	"pierfs/conncfg"
)

// serveChanges gives the verbs that change definitions their handlers.
func (d *Daemon) serveChanges(s *control.Server) {
	control.Create.Serve(s, d.create)
	control.Edit.Serve(s, d.edit)
	control.Copy.Serve(s, d.copy)
	control.Delete.Serve(s, d.delete)
	control.Replace.Serve(s, d.replace)
	control.Read.Serve(s, d.read)
	control.Vars.Serve(s, d.vars)
	control.SetVar.Serve(s, d.setVar)
	control.Extract.Serve(s, d.extract)
	control.EnvAdd.Serve(s, d.envCreate)
	control.EnvUse.Serve(s, d.envUse)
	control.History.Serve(s, d.history)
	control.Rollback.Serve(s, d.rollback)
	control.Verify.Serve(s, d.verify)
	control.Pending.Serve(s, d.pending)
	control.Approve.Serve(s, d.approve)
	control.Reject.Serve(s, d.reject)
	control.Export.Serve(s, d.export)
	control.Import.Serve(s, d.imports)
}

// openRegistry opens the log of changes. Without it everything is mounted all the same, and nothing is changed by command.
func (d *Daemon) openRegistry() {
	r, err := registry.Open(filepath.Join(d.o.Dirs.State, "registry"), d.o.Dirs.Config)
	if err != nil {
		d.log.Error("the log of changes cannot be used; definitions cannot be changed by command", "dir", d.o.Dirs.State, "err", err)
		return
	}
	d.registry = r
}

// observe enters what changed on disk in the log: as the doing of a command's caller where ctx is a command's and verb its
// name, else as that of whoever owns the files.
func (d *Daemon) observe(ctx context.Context, verb, subject string) {
	if d.registry == nil {
		return
	}
	var who *registry.Author
	if verb != "" {
		a := author(ctx)
		who = &a
	} else {
		verb = "by hand"
	}
	e, err := d.registry.Observe(verb, subject, who)
	if err != nil {
		d.log.Error("a change could not be entered in the log", "err", err)
	}
	d.logEntry(e)
}

func (d *Daemon) logEntry(e *registry.Entry) {
	if e == nil {
		return
	}
	names := make([]string, len(e.Files))
	for i, f := range e.Files {
		names[i] = f.Name
	}
	d.tellChanged(e)
	d.log.Info("definitions changed", "revision", e.Seq, "verb", e.Verb, "uid", e.Who.UID, "user", e.Who.User, "files", names, "hash", e.Hash)
}

func author(ctx context.Context) registry.Author {
	peer, ok := control.PeerOf(ctx)
	if !ok {
		return registry.NewAuthor(uint32(os.Geteuid()), int32(os.Getpid()))
	}
	return registry.NewAuthor(peer.UID, peer.PID)
}

// draft is a change that is being made up: the configuration as it is, and the files that shall be written.
type draft struct {
	d       *Daemon
	verb    string
	subject string
	guarded bool // refused while programs have files open there
	anew    bool // applied also where nothing is to be written
	o       control.ChangeOptions

	approves string // the proposal that it carries out; "" of one that nobody has approved

	now        map[string][]byte // what is in force
	held       map[string][]byte // of that, what differs from the files
	justSealed map[string]bool   // by this very change
	was        *conncfg.Config
	files      map[string][]byte
}

// begin reads the configuration. d.editing is held from here to the end of the change.
func (d *Daemon) begin(ctx context.Context, verb, subject string, o control.ChangeOptions) (*draft, error) {
	if d.registry == nil {
		return nil, control.Errorf(control.Internal, "the log of changes cannot be used, and nothing is changed without it").
			WithHint("the daemon's log tells why; after that is mended, start it again")
	}
	d.observe(ctx, "", "")
	now, torn := conncfg.Files(d.o.Dirs.Config)
	if len(torn) > 0 {
		return nil, d.refusal(torn)
	}
	c := &draft{d: d, verb: verb, subject: subject, o: o, now: now, held: d.heldBack(), justSealed: map[string]bool{}, files: map[string][]byte{}}
	for name, content := range c.held {
		if now[name] = content; content == nil {
			delete(now, name)
		}
	}
	c.was = c.with(nil)
	return c, nil
}

// commit tells what the change does, and unless it is only tried, does it.
func (c *draft) commit(ctx context.Context) (control.ChangeAnswer, error) {
	d := c.d
	a := control.ChangeAnswer{Changes: []conncfg.Difference{}, Impact: []control.Impact{}, Findings: []conncfg.Finding{}}
	for name, data := range c.files {
		if was, there := c.now[name]; there == (data != nil) && bytes.Equal(was, data) {
			delete(c.files, name)
		}
	}
	if len(c.files) == 0 {
		if c.anew && !c.o.DryRun {
			applied := d.apply(ctx, control.ApplyRequest{})
			applied.Findings = []conncfg.Finding{}
			a.Apply = &applied
		}
		return a, nil
	}
	if err := os.MkdirAll(d.o.Dirs.Config, 0o700); err != nil {
		return a, err
	}
	next := c.with(c.files)
	a.Changes = nonNil(conncfg.Differences(c.was, next))
	a.Impact = d.impact(conncfg.Affects(c.was, next))
	findings, err := c.judge(next, a.Impact)
	if a.Findings = nonNil(findings); err != nil {
		return a, err
	}
	if err := c.restricted(ctx, next); err != nil {
		return a, err
	}
	if c.o.DryRun {
		return a, nil
	}
	if err := c.guard(next, a.Impact); err != nil {
		return a, err
	}
	id, err := c.propose(ctx, next)
	if a.Pending = id; id != "" || err != nil {
		return a, err
	}
	e, err := c.enter(ctx)
	if err != nil {
		return a, err
	}
	d.logEntry(e)
	if e != nil {
		a.Revision = e.Seq
	}
	applied := d.apply(ctx, control.ApplyRequest{Keep: c.o.Force || c.o.Keep})
	applied.Findings = a.Findings // of what was changed; what is wrong with others does not fail this
	a.Apply = &applied
	return a, nil
}

// enter writes the files, or lets a proposal of them come into force.
func (c *draft) enter(ctx context.Context) (*registry.Entry, error) {
	if c.approves != "" {
		e, err := c.d.registry.Approve(c.approves, author(ctx))
		if err != nil {
			return nil, proposalError(err)
		}
		return e, nil
	}
	e, err := c.d.registry.Change(registry.Change{Who: author(ctx), Verb: c.verb, Subject: c.subject, Reason: c.o.Reason, Files: c.files})
	if err != nil {
		return nil, changeError(err)
	}
	return e, nil
}

func changeError(err error) error {
	if errors.Is(err, registry.ErrWaits) {
		return control.Errorf(control.Busy, "%v", err).WithHint("`pierfs pending` shows it; approve or reject it first")
	}
	if errors.Is(err, conncfg.ErrChanged) {
		return control.Errorf(control.Busy, "%v", err).WithHint("look at it and try again")
	}
	return control.Errorf(control.CannotCreate, "write the definitions: %v", err).WithHint("nothing was changed; check the configuration directory's owner, mode and free space")
}

// judge finds what is wrong with the configuration as it would be: an error that is there already hinders nobody, a new one does.
func (c *draft) judge(next *conncfg.Config, impact []control.Impact) ([]conncfg.Finding, error) {
	type what struct {
		code                                conncfg.Code
		file, connection, env, field, value string
	}
	of := func(f conncfg.Finding) what {
		return what{f.Code, f.File, f.Connection, f.Environment, f.Field, f.Value}
	}
	known := map[what]bool{}
	for _, f := range c.was.Check() {
		if f.Severity == conncfg.Error {
			known[of(f)] = true
		}
	}
	affected := map[string]bool{}
	for _, i := range impact {
		affected[i.Name] = true
	}
	var told, fresh []conncfg.Finding
	for _, f := range next.Check() {
		concerns := affected[f.Connection] || c.files[c.relative(f.File)] != nil
		if concerns {
			told = append(told, f)
		}
		if f.Severity == conncfg.Error && !known[of(f)] {
			fresh = append(fresh, f)
		}
	}
	return told, c.d.refusal(fresh)
}

func (c *draft) relative(file string) string {
	name, err := filepath.Rel(c.d.o.Dirs.Config, file)
	if err != nil {
		return file
	}
	return filepath.ToSlash(name)
}

// guard refuses to take from under anybody what he still needs.
func (c *draft) guard(next *conncfg.Config, impact []control.Impact) error {
	if c.o.Force {
		return nil
	}
	stays := c.stay(next)
	for _, i := range impact {
		owed := i.OwedFiles
		m, _ := c.d.at(key{i.Environment, i.Name})
		if m != nil && (stays[i.Dir] || !c.guarded) { // what is open is finished where it was opened, or has its time
			o, _, err := m.debtor().owing()
			if owed = o.Changes; err != nil {
				return told(err)
			}
		}
		switch {
		case i.Change == "added", m == nil && slices.Contains(next.Active(), i.Environment) && !slices.Contains(c.was.Active(), i.Environment):
		case owed > 0 && !c.o.Keep:
			return control.Errorf(control.StillOwed, "%s in %s owes its server %s", i.Name, i.Environment, changes(owed)).
				WithHint("--wait waits until the server has them; --keep leaves them here, owed to the server as it was; `pierfs queue %s` shows them", i.Name)
		case i.OpenFiles > 0 && c.guarded && !stays[i.Dir]:
			return control.Errorf(control.Busy, "programs have files open on %s: %d", i.Dir, i.OpenFiles).
				WithHint("see who has them with `fuser -vm %s`; --force gives programs %v and then cuts them", i.Dir, unmountWithin)
		}
	}
	return nil
}

// stay returns the directories of mounts that stay where they are, and of the same connection, whatever they lead to then.
func (c *draft) stay(next *conncfg.Config) map[string]bool {
	names := map[string]string{}
	for _, w := range planOf(next, c.d.o.Dirs.MountRoot).Wants {
		if w.Enabled {
			names[w.Dir] = w.Name
		}
	}
	stays := map[string]bool{}
	for _, m := range c.d.all() {
		stays[m.want.Dir] = m.serving() && !m.want.AdHoc && names[m.want.Dir] == m.want.Name
	}
	return stays
}

// impact tells how what is affected stands.
func (d *Daemon) impact(affected []conncfg.Affected) []control.Impact {
	out := make([]control.Impact, 0, len(affected))
	var dirs []string
	for _, a := range affected {
		if m, _ := d.at(key{a.Environment, a.Name}); m != nil {
			dirs = append(dirs, m.want.Dir)
		}
	}
	users, units := usersOf(dirs), unitsOf(d.unitDirs, dirs)
	for _, a := range affected {
		i := control.Impact{Affected: a}
		if m, _ := d.at(key{a.Environment, a.Name}); m != nil {
			owed, _ := m.holds()
			i.State, i.Dir, i.OpenFiles, i.OwedFiles = m.status().State, m.want.Dir, m.openFiles(), owed.Files
			i.Users, i.Units = users[i.Dir], units[i.Dir]
		} else if o, owes, err := d.journalOf(Want{Name: a.Name, Environment: a.Environment}).owing(); owes {
			i.OwedFiles = o.Changes
		} else if err != nil {
			d.log.Error("nobody can tell what is owed", "conn", a.Name, "env", a.Environment, "err", err)
		}
		out = append(out, i)
	}
	return out
}

// settings turns what a request says into changes of a file; secrets are sealed with the key of the configuration.
func (d *Daemon) settings(set []control.Setting, dry bool) ([]conncfg.FieldChange, error) {
	changes := make([]conncfg.FieldChange, 0, len(set))
	for _, s := range set {
		c := conncfg.FieldChange{Environment: s.Environment, Field: s.Field, Value: s.Value, Unset: s.Unset}
		if !s.Secret.IsZero() {
			sealed, err := d.seal(s.Secret.Open(), dry)
			if err != nil {
				return nil, err
			}
			c.Sealed = sealed
		}
		changes = append(changes, c)
	}
	return changes, nil
}

// seal encrypts a secret. Where a change is only tried no key is made for it.
func (d *Daemon) seal(text string, dry bool) (string, error) {
	if strings.ContainsAny(text, "\r\x00") {
		return "", control.Errorf(control.BadData, "the secret holds a carriage return or NUL").WithHint("give it as one text")
	}
	if dry {
		if _, err := conncfg.OpenKey(d.o.Dirs.Config); err != nil {
			return conncfg.SealedSample, nil
		}
	}
	if err := os.MkdirAll(d.o.Dirs.Config, 0o700); err != nil {
		return "", err
	}
	key, err := conncfg.MakeKey(d.o.Dirs.Config)
	if err != nil {
		return "", control.Errorf(control.System, "the key for secrets: %v", err).WithHint("see `sealed` in docs/DEFINITIONS.md")
	}
	return key.Seal(conncfg.NewSecret(text)), nil
}

// free refuses a name that is none or is taken.
func (c *draft) free(name string) error {
	if findings := conncfg.CheckFullName(name); len(findings) > 0 {
		return c.d.refusal(findings)
	}
	if err := c.was.Free(name); err != nil {
		return taken(err)
	}
	if _, there := c.now[conncfg.ConnectionFile(name)]; there { // a file that cannot be read as a definition
		return taken(fmt.Errorf("%q: %w", name, conncfg.ErrNameTaken))
	}
	return nil
}

func taken(err error) error {
	e := control.Errorf(control.Exists, "%v", err).WithHint("choose another name; `pierfs name check NAME` tells whether one is free")
	e.Cause = string(conncfg.CodeNameTaken)
	return e
}

// text returns the file of a connection that exists.
func (c *draft) text(name string) ([]byte, error) {
	data, there := c.now[conncfg.ConnectionFile(name)]
	if !there {
		return nil, control.Errorf(control.UnknownConnection, "there is no connection %q", name).WithHint("`pierfs list` shows them")
	}
	return data, nil
}

func (d *Daemon) create(ctx context.Context, q control.CreateRequest) (control.ChangeAnswer, error) {
	d.editing.Lock()
	defer d.editing.Unlock()
	c, err := d.begin(ctx, "create", q.Name, q.ChangeOptions)
	if err != nil {
		return control.ChangeAnswer{}, err
	}
	if err := c.free(q.Name); err != nil {
		return control.ChangeAnswer{}, err
	}
	return c.write(ctx, q.Name, []byte(q.Definition.Open()), q.Set)
}

func (d *Daemon) edit(ctx context.Context, q control.EditRequest) (control.ChangeAnswer, error) {
	d.editing.Lock()
	defer d.editing.Unlock()
	c, err := d.begin(ctx, "edit", q.Name, q.ChangeOptions)
	if err != nil {
		return control.ChangeAnswer{}, err
	}
	text, err := c.text(q.Name)
	if err != nil {
		return control.ChangeAnswer{}, err
	}
	if q.Was != "" && q.Was != fingerprintOf(text) {
		return control.ChangeAnswer{}, control.Errorf(control.Busy, "somebody else changed %s meanwhile", q.Name).WithHint("edit it again; nothing was written")
	}
	if !q.Definition.IsZero() {
		text = []byte(q.Definition.Open())
	}
	return c.write(ctx, q.Name, text, q.Set)
}

// enable writes whether a connection is switched on.
func (d *Daemon) enable(ctx context.Context, q control.EnableRequest) (control.ChangeAnswer, error) {
	d.editing.Lock()
	defer d.editing.Unlock()
	verb := "disable"
	if q.Enabled {
		verb = "enable"
	}
	c, err := d.begin(ctx, verb, q.Name, q.ChangeOptions)
	if err != nil {
		return control.ChangeAnswer{}, err
	}
	text, err := c.text(q.Name)
	if err != nil {
		return control.ChangeAnswer{}, err
	}
	if text, err = conncfg.WithEnabled(text, q.Enabled); err != nil {
		return control.ChangeAnswer{}, control.Errorf(control.ConfigInvalid, "change the definition: %v", err).WithHint("`pierfs edit %s` opens it: write enabled there", q.Name)
	}
	c.files[conncfg.ConnectionFile(q.Name)] = text
	if !q.DryRun {
		d.waitNoMore(map[string]bool{q.Name: true})
	}
	if q.Enabled && !q.DryRun { // by hand in both directions
		d.mu.Lock()
		maps.DeleteFunc(d.held, func(k key, _ bool) bool { return k.name == q.Name })
		d.mu.Unlock()
	}
	c.anew = q.Enabled
	return c.commit(ctx)
}

// write makes a definition's file what text and settings say.
func (c *draft) write(ctx context.Context, name string, text []byte, set []control.Setting) (control.ChangeAnswer, error) {
	changes, err := c.d.settings(set, c.o.DryRun)
	if err != nil {
		return control.ChangeAnswer{}, err
	}
	was := c.was.Connection(name)
	for i, change := range changes {
		c.justSealed[change.Sealed] = true
		if change.Sealed == "" {
			continue
		}
		changes[i].RotatedAt = time.Now().UTC().Truncate(time.Second)
		if was != nil {
			changes[i].RotateAfter = was.RotateAfter(change.Environment, change.Field)
		}
	}
	text, findings := conncfg.Edit(text, changes)
	for i := range findings {
		findings[i].Connection = name
	}
	if err := c.d.refusal(findings); err != nil {
		return control.ChangeAnswer{}, err
	}
	if text, err = c.sealAll(name, text); err != nil {
		return control.ChangeAnswer{}, err
	}
	if len(text) == 0 {
		text = []byte("\n") // an empty definition, whose missing fields are told one by one
	}
	c.files[conncfg.ConnectionFile(name)] = text
	return c.commit(ctx)
}

// sealAll encrypts the secrets that stand literally in a text that somebody has sent: what comes through the hand is never stored in the
// open. One that the definition has sealed already stays as it is.
func (c *draft) sealAll(name string, text []byte) ([]byte, error) {
	conn, _ := conncfg.Parse(text, "definition", name)
	was := c.was.Connection(name)
	for _, l := range conn.Literals() {
		sealed := ""
		if was != nil {
			if slices.ContainsFunc(was.Literals(), l.Same) {
				continue // somebody has written it there, and was told
			}
			sealed = was.Sealed(l.Environment, l.Field)
		}
		if key, err := conncfg.OpenKey(c.d.o.Dirs.Config); err == nil && sealed != "" {
			if same, err := key.Open(sealed); err != nil || same.Reveal() != l.Value.Reveal() {
				sealed = ""
			}
		} else {
			sealed = ""
		}
		if sealed == "" {
			var err error
			if sealed, err = c.d.seal(l.Value.Reveal(), c.o.DryRun); err != nil {
				return nil, err
			}
		}
		edited, findings := conncfg.Edit(text, []conncfg.FieldChange{{Environment: l.Environment, Field: l.Field, Sealed: sealed}})
		if len(findings) > 0 {
			return nil, c.d.refusal(findings)
		}
		text = edited
		c.justSealed[sealed] = true
	}
	return text, nil
}

func (d *Daemon) copy(ctx context.Context, q control.CopyRequest) (control.ChangeAnswer, error) {
	d.editing.Lock()
	defer d.editing.Unlock()
	verb := "copy"
	if q.Move {
		verb = "move"
	}
	c, err := d.begin(ctx, verb, q.Name, q.ChangeOptions)
	if err != nil {
		return control.ChangeAnswer{}, err
	}
	text, err := c.text(q.Name)
	if err != nil {
		return control.ChangeAnswer{}, err
	}
	if err := c.free(q.To); err != nil {
		return control.ChangeAnswer{}, err
	}
	if text, err = conncfg.WithoutName(text); err != nil {
		return control.ChangeAnswer{}, control.Errorf(control.ConfigInvalid, "%v", err).WithHint("correct the definition first")
	}
	c.files[conncfg.ConnectionFile(q.To)] = text
	if q.Move {
		c.guarded = true
		c.files[conncfg.ConnectionFile(q.Name)] = nil
	}
	return c.commit(ctx)
}

func (d *Daemon) delete(ctx context.Context, q control.DeleteRequest) (control.ChangeAnswer, error) {
	d.editing.Lock()
	defer d.editing.Unlock()
	c, err := d.begin(ctx, "delete", q.Name, q.ChangeOptions)
	if err != nil {
		return control.ChangeAnswer{}, err
	}
	if _, err := c.text(q.Name); err != nil {
		return control.ChangeAnswer{}, err
	}
	c.guarded = true
	c.files[conncfg.ConnectionFile(q.Name)] = nil
	a, err := c.commit(ctx)
	if err == nil && !q.DryRun {
		d.waitNoMore(map[string]bool{q.Name: true})
	}
	return a, err
}

// replace removes a definition, whose mountPoint another one takes over that has none.
func (d *Daemon) replace(ctx context.Context, q control.ReplaceRequest) (control.ChangeAnswer, error) {
	d.editing.Lock()
	defer d.editing.Unlock()
	c, err := d.begin(ctx, "replace", q.Name, q.ChangeOptions)
	if err != nil {
		return control.ChangeAnswer{}, err
	}
	if _, err := c.text(q.Name); err != nil {
		return control.ChangeAnswer{}, err
	}
	text, err := c.text(q.To)
	if err != nil {
		return control.ChangeAnswer{}, err
	}
	if q.Name == q.To {
		return control.ChangeAnswer{}, control.Errorf(control.Usage, "%s cannot take its own place", q.Name).WithHint("`pierfs copy %s NEW` makes one that can, `pierfs edit %s` changes it", q.Name, q.Name)
	}
	old, heir := c.was.Connection(q.Name), c.was.Connection(q.To)
	if old != nil && heir != nil && mountPointOf(heir, "") == "" && mountPointOf(old, "") != "" {
		var findings []conncfg.Finding
		if text, findings = conncfg.Edit(text, []conncfg.FieldChange{{Field: "mountPoint", Value: mountPointOf(old, "")}}); len(findings) > 0 {
			return control.ChangeAnswer{}, d.refusal(findings)
		}
		c.files[conncfg.ConnectionFile(q.To)] = text
	}
	c.guarded = true
	c.files[conncfg.ConnectionFile(q.Name)] = nil
	return c.commit(ctx)
}

// read tells a definition as it is written, for an editor. What holds a secret leaves the daemon in no way.
func (d *Daemon) read(_ context.Context, q control.ReadRequest) (control.ReadAnswer, error) {
	files, _ := conncfg.Files(d.o.Dirs.Config)
	name := conncfg.ConnectionFile(q.Name)
	text, there := files[name]
	if !there {
		return control.ReadAnswer{}, control.Errorf(control.UnknownConnection, "there is no connection %q", q.Name).WithHint("`pierfs list` shows them")
	}
	file := filepath.Join(d.o.Dirs.Config, name)
	if c, _ := conncfg.Parse(text, file, q.Name); len(c.Literals()) > 0 {
		return control.ReadAnswer{}, control.Errorf(control.NotAllowed, "%s holds a password literally, and passwords are not given out", q.Name).
			WithHint("`pierfs vars extract %s` takes it out; or edit %s on the machine itself, or single fields with --set", q.Name, file)
	}
	return control.ReadAnswer{Name: q.Name, File: file, Text: string(text), Was: fingerprintOf(text)}, nil
}

func fingerprintOf(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

func (d *Daemon) vars(_ context.Context, q control.VarsRequest) (control.VarsAnswer, error) {
	config := d.inForce()
	a := control.VarsAnswer{Variables: []control.Variable{}}
	active := config.Active()
	known := false
	for _, e := range config.Environments() {
		a.Environments = append(a.Environments, control.Environment{Name: e.Name, Active: slices.Contains(active, e.Name)})
		known = known || e.Name == q.Environment
	}
	if q.Environment != "" && !known {
		return a, unknownEnvironment(q.Environment)
	}
	uses := config.Uses()
	for _, v := range config.AllVariables() {
		if q.Environment != "" && v.Environment != "" && v.Environment != q.Environment {
			continue
		}
		used := slices.DeleteFunc(uses[v], func(u conncfg.Use) bool { return q.Environment != "" && u.Environment != q.Environment })
		at, due := v.Rotation()
		a.Variables = append(a.Variables, control.Variable{Name: v.Name, Environment: v.Environment, Secret: v.Secret, Source: v.Source(),
			RotatedAt: at, RotateBy: due, File: v.File, Line: v.Line, UsedBy: nonNil(used)})
	}
	return a, nil
}

func (d *Daemon) setVar(ctx context.Context, q control.SetVarRequest) (control.ChangeAnswer, error) {
	d.editing.Lock()
	defer d.editing.Unlock()
	verb := "vars set"
	if q.Unset {
		verb = "vars unset"
	}
	c, err := d.begin(ctx, verb, q.Name, q.ChangeOptions)
	if err != nil {
		return control.ChangeAnswer{}, err
	}
	if err := c.environment(q.Environment); err != nil {
		return control.ChangeAnswer{}, err
	}
	const most = int(conncfg.MaxRotation / (24 * time.Hour))
	if days := q.RotateAfter; days != nil && (*days < 0 || *days > most) {
		return control.ChangeAnswer{}, control.Errorf(control.Usage, "a secret cannot stay for %d days", *days).WithHint("give from 0, which is for ever, to %d days", most)
	}
	change := conncfg.VariableChange{Name: q.Name, Secret: q.Secret, Unset: q.Unset}
	switch was := c.was.Defined(q.Environment, q.Name); {
	case q.Unset && was == nil:
		return control.ChangeAnswer{}, control.Errorf(control.NotFound, "there is no variable %q there", q.Name).WithHint("`pierfs vars list` shows them and their environments")
	case q.Unset:
	case was != nil && was.Secret != q.Secret:
		word, flag := "no secret", "without --secret"
		if was.Secret {
			word, flag = "a secret", "with --secret"
		}
		return control.ChangeAnswer{}, control.Errorf(control.Usage, "variable %q is %s, and stays what it was made", q.Name, word).
			WithHint("set it %s, or `pierfs vars unset` it first", flag)
	case q.Secret:
		if change.Sealed, err = d.seal(q.Value.Open(), q.DryRun); err != nil {
			return control.ChangeAnswer{}, err
		}
		change.RotatedAt = time.Now().UTC().Truncate(time.Second)
		if was != nil {
			change.RotateAfter = was.RotateAfter()
		}
		if q.RotateAfter != nil {
			change.RotateAfter = time.Duration(*q.RotateAfter) * 24 * time.Hour
		}
	default:
		change.Value = q.Value.Open()
	}
	if err := c.variable(q.Environment, change); err != nil {
		return control.ChangeAnswer{}, err
	}
	return c.commit(ctx)
}

// environment refuses one that does not exist; "" is all of them.
func (c *draft) environment(name string) error {
	if name == "" || slices.ContainsFunc(c.was.Environments(), func(e *conncfg.Environment) bool { return e.Name == name }) {
		return nil
	}
	return unknownEnvironment(name)
}

// variable makes one change to a file of variables.
func (c *draft) variable(environment string, change conncfg.VariableChange) error {
	file := conncfg.EnvironmentFile(environment)
	text, done := c.files[file]
	if !done {
		text = c.now[file]
	}
	text, findings := conncfg.EditVariables(text, change)
	c.files[file] = text
	return c.d.refusal(findings)
}

// extract takes literal secrets out of a definition: a password becomes a secret variable, other secrets are sealed in their place.
func (d *Daemon) extract(ctx context.Context, q control.ExtractRequest) (control.ChangeAnswer, error) {
	d.editing.Lock()
	defer d.editing.Unlock()
	c, err := d.begin(ctx, "vars extract", q.Name, q.ChangeOptions)
	if err != nil {
		return control.ChangeAnswer{}, err
	}
	text, err := c.text(q.Name)
	if err != nil {
		return control.ChangeAnswer{}, err
	}
	conn := c.was.Connection(q.Name)
	if conn == nil {
		return control.ChangeAnswer{}, control.Errorf(control.ConfigInvalid, "the definition of %s cannot be read", q.Name).WithHint("`%s` tells why", d.check())
	}
	for _, l := range conn.Literals() {
		sealed, err := d.seal(l.Value.Reveal(), q.DryRun)
		if err != nil {
			return control.ChangeAnswer{}, err
		}
		change := conncfg.FieldChange{Environment: l.Environment, Field: l.Field, Sealed: sealed}
		if l.Variables {
			name := strings.NewReplacer("/", ".", "-", "_").Replace(q.Name) + "." + l.Field
			if v := c.was.Defined(l.Environment, name); v != nil {
				return control.ChangeAnswer{}, control.Errorf(control.Exists, "there is a variable %q already", name).WithHint("remove it with `pierfs vars unset`, or write the reference by hand")
			}
			if err := c.variable(l.Environment, conncfg.VariableChange{Name: name, Secret: true, Sealed: sealed}); err != nil {
				return control.ChangeAnswer{}, err
			}
			change.Sealed, change.Value = "", "${"+name+"}"
		}
		var findings []conncfg.Finding
		if text, findings = conncfg.Edit(text, []conncfg.FieldChange{change}); len(findings) > 0 {
			return control.ChangeAnswer{}, d.refusal(findings)
		}
	}
	c.files[conncfg.ConnectionFile(q.Name)] = text
	return c.commit(ctx)
}

func (d *Daemon) envCreate(ctx context.Context, q control.EnvRequest) (control.ChangeAnswer, error) {
	d.editing.Lock()
	defer d.editing.Unlock()
	c, err := d.begin(ctx, "env create", strings.Join(q.Names, ", "), q.ChangeOptions)
	if err != nil {
		return control.ChangeAnswer{}, err
	}
	if secrets := conncfg.LiteralVariables([]byte(q.Definition.Open())); len(secrets) > 0 {
		return control.ChangeAnswer{}, control.Errorf(control.Usage, "secret %q stands in the text, and what comes by command is not stored in the open", secrets[0]).
			WithHint("take it out, and give it by `pierfs vars set %s --secret` once the environment is there", secrets[0])
	}
	for _, name := range q.Names {
		if findings := conncfg.CheckName(name); len(findings) > 0 {
			return control.ChangeAnswer{}, d.refusal(findings)
		}
		for _, e := range c.was.Environments() {
			if strings.EqualFold(e.Name, name) {
				return control.ChangeAnswer{}, control.Errorf(control.Exists, "there is an environment %q", e.Name).WithHint("`pierfs env list` shows them")
			}
		}
		text := []byte("[variables]\n")
		if !q.Definition.IsZero() {
			text = []byte(q.Definition.Open())
		}
		c.files[conncfg.EnvironmentFile(name)] = text
	}
	return c.commit(ctx)
}

func (d *Daemon) envUse(ctx context.Context, q control.EnvRequest) (control.ChangeAnswer, error) {
	d.editing.Lock()
	defer d.editing.Unlock()
	c, err := d.begin(ctx, "env use", strings.Join(q.Names, ", "), q.ChangeOptions)
	if err != nil {
		return control.ChangeAnswer{}, err
	}
	for _, name := range q.Names {
		if err := c.environment(name); err != nil {
			return control.ChangeAnswer{}, err
		}
	}
	text, err := conncfg.EditActive(c.now[conncfg.SettingsFile], q.Names)
	if err != nil {
		return control.ChangeAnswer{}, control.Errorf(control.ConfigInvalid, "%s: %v", conncfg.SettingsFile, err).WithHint("`%s` tells the line", d.check())
	}
	c.guarded = true
	c.files[conncfg.SettingsFile] = text
	return c.commit(ctx)
}

// subjectFile is the file that a subject of history and rollback means: a connection's, or one that is named as such.
func subjectFile(subject string) (string, error) {
	switch {
	case subject == "":
		return "", nil
	case strings.HasSuffix(subject, ".toml") && conncfg.CheckFile(subject) == nil:
		return subject, nil
	case len(conncfg.CheckFullName(subject)) == 0:
		return conncfg.ConnectionFile(subject), nil
	}
	return "", control.Errorf(control.Usage, "%q is neither a connection nor a file of the configuration", subject).
		WithHint("write NAME, variables.toml, pierfs.toml or environments/ENV.toml")
}

const defaultHistory = 100

func (d *Daemon) history(_ context.Context, q control.HistoryRequest) (control.HistoryAnswer, error) {
	a := control.HistoryAnswer{Revisions: []control.Revision{}}
	file, err := subjectFile(q.Subject)
	if err != nil {
		return a, err
	}
	if d.registry == nil {
		return a, nil
	}
	most := q.Last
	if most <= 0 {
		most = defaultHistory
	}
	for e, err := range d.registry.History(file) {
		if err != nil {
			return a, control.Errorf(control.Failed, "%v", err).WithHint("`pierfs audit verify` tells whether the log was altered")
		}
		a.Revisions = append(a.Revisions, revision(e))
		if len(a.Revisions) > most {
			a.Revisions = a.Revisions[1:]
		}
	}
	return a, nil
}

func revision(e registry.Entry) control.Revision {
	r := control.Revision{Revision: e.Seq, Time: e.Time, UID: e.Who.UID, User: e.Who.User, PID: e.Who.PID, Exe: e.Who.Exe, Verb: e.Verb,
		Subject: e.Subject, Reason: e.Reason, Proposal: e.Proposal, Files: []string{}, Changes: nonNil(e.Changes), Hash: e.Hash}
	for _, f := range e.Files {
		r.Files = append(r.Files, f.Name)
	}
	if e.Approver != nil {
		r.ApproverUID, r.Approver = &e.Approver.UID, e.Approver.User
	}
	return r
}

func (d *Daemon) rollback(ctx context.Context, q control.RollbackRequest) (control.ChangeAnswer, error) {
	d.editing.Lock()
	defer d.editing.Unlock()
	c, err := d.begin(ctx, "rollback", q.Subject, q.ChangeOptions)
	if err != nil {
		return control.ChangeAnswer{}, err
	}
	file, err := subjectFile(q.Subject)
	if err != nil {
		return control.ChangeAnswer{}, err
	}
	if file == "" {
		return control.ChangeAnswer{}, control.Errorf(control.Usage, "nothing is named that shall be what it was").WithHint("name a connection or a file")
	}
	content, err := d.registry.Content(file, q.Revision)
	switch {
	case errors.Is(err, registry.ErrNoRevision):
		return control.ChangeAnswer{}, control.Errorf(control.NotFound, "%s has no revision %d", q.Subject, q.Revision).WithHint("`pierfs history %s` lists them", q.Subject)
	case err != nil:
		return control.ChangeAnswer{}, logUnread(err)
	}
	c.guarded = content == nil
	c.files[file] = content
	return c.commit(ctx)
}

// logUnread says that the log of changes cannot be read.
func logUnread(err error) error {
	return control.Errorf(control.Failed, "%v", err).WithHint("`pierfs audit verify` tells how far the log of changes is sound; it lies below the state directory")
}

func (d *Daemon) verify(_ context.Context, q control.VerifyRequest) (control.VerifyAnswer, error) {
	if d.registry == nil {
		return control.VerifyAnswer{}, control.Errorf(control.Internal, "the log of changes cannot be used").WithHint("the daemon's log tells why")
	}
	v, err := d.registry.Verify(q.Head)
	if err != nil {
		return control.VerifyAnswer{}, logUnread(err)
	}
	return control.VerifyAnswer{OK: v.Broken == "", Entries: v.Entries, Head: v.Head, Broken: v.Broken}, nil
}

// wouldApply tells what apply would do now, from what was read last to what is written.
func (d *Daemon) wouldApply(ctx context.Context) control.ApplyAnswer {
	plan := d.readPlan(ctx)
	a := control.ApplyAnswer{Added: []string{}, Changed: []string{}, Removed: []string{}, Connections: []control.Connection{}, Findings: nonNil(plan.Findings)}
	before := map[key]Want{}
	for _, w := range d.known().Wants {
		before[w.key()] = w
	}
	for _, w := range plan.Wants {
		was, there := before[w.key()]
		delete(before, w.key())
		switch on := there && was.Enabled; {
		case !on && w.Enabled:
			a.Added = append(a.Added, label(w))
		case on && !w.Enabled:
			a.Removed = append(a.Removed, label(w))
		case on && !was.same(w):
			a.Changed = append(a.Changed, label(w))
		case on:
			a.Unchanged++
		}
	}
	for _, w := range slices.SortedFunc(maps.Values(before), func(a, b Want) int { return strings.Compare(label(a), label(b)) }) {
		if w.Enabled && !w.AdHoc {
			a.Removed = append(a.Removed, label(w))
		}
	}
	a.Checklist = d.checklist(plan, a)
	return a
}
