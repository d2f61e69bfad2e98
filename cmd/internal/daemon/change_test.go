package daemon

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pierfs/cmd/internal/control"
	"pierfs/conncfg"
)

// settingsOf is a definition as flags give it, with the canary as its password.
func settingsOf(more ...string) []control.Setting {
	set := []control.Setting{{Field: "protocol", Value: "SFTP"}, {Field: "host", Value: "files.example"}, {Field: "username", Value: "batch"},
		{Field: "workingDir", Value: "/data"}, {Field: "password", Secret: control.Seal(canary)}}
	for _, text := range more {
		field, value, _ := strings.Cut(text, "=")
		environment, inner, nested := strings.Cut(field, ".")
		if !nested {
			environment, inner = "", field
		}
		set = append(set, control.Setting{Environment: environment, Field: inner, Value: value})
	}
	return set
}

func (s *stage) create(name string, more ...string) control.ChangeAnswer {
	s.t.Helper()
	a, err := control.Create.Call(s.t.Context(), s.client, control.CreateRequest{Name: name, Set: settingsOf(more...)})
	if err != nil {
		s.t.Fatalf("create %s: %v", name, err)
	}
	return a
}

// everything is all files of the configuration, to see that nothing changed.
func (s *stage) everything() string {
	s.t.Helper()
	files, torn := conncfg.Files(s.dirs.Config)
	if len(torn) > 0 {
		s.t.Fatal(torn)
	}
	text := ""
	for _, name := range slices.Sorted(func(yield func(string) bool) {
		for name := range files {
			if !yield(name) {
				return
			}
		}
	}) {
		text += name + "\n" + string(files[name])
	}
	return text
}

// Rows 2, 7, 14: a definition that is created is mounted, its password stands nowhere in the open, and a second one of the name is
// refused without a byte changed.
func TestCreateMounts(t *testing.T) {
	s := newStage(t)
	s.start()
	a := s.create("a", "timeout=45")
	if a.Revision == 0 || a.Apply == nil || len(a.Apply.Added) != 1 || len(a.Impact) == 0 || a.Impact[0].Change != "added" {
		t.Fatalf("%+v", a)
	}
	s.wantState("a", control.StateReady)
	if text := s.everything(); strings.Contains(text, canary) || !strings.Contains(text, "sealed = ") {
		t.Errorf("the password stands in the open:\n%s", text)
	}
	before := s.everything()
	for _, name := range []string{"a", "A", "a/b", " a", "ünï", "a$b", ".a", "a\n"} {
		_, err := control.Create.Call(t.Context(), s.client, control.CreateRequest{Name: name, Set: settingsOf()})
		want := control.ConfigInvalid
		if strings.EqualFold(name, "a") || name == "a/b" {
			want = control.Exists
		}
		wantCode(t, "create "+name, err, want)
	}
	if s.everything() != before {
		t.Error("a refused definition changed the store")
	}
	_, err := control.Create.Call(t.Context(), s.client, control.CreateRequest{Name: "passive", Set: settingsOf("enabled=false")})
	if err != nil {
		t.Fatal(err)
	}
	if c := s.wantState("passive", control.StateDisabled); c.Reason == "" {
		t.Errorf("%+v", c)
	}
	wantNoCanary(t, s)
}

// Row 16: what is missing is told by name, all in one run; a value that is refused has its field and the way out.
func TestRefusedDefinitionNamesEveryField(t *testing.T) {
	s := newStage(t)
	s.start()
	before := s.everything()
	_, err := control.Create.Call(t.Context(), s.client, control.CreateRequest{Name: "a"})
	wantCode(t, "create without fields", err, control.ConfigInvalid)
	for _, field := range []string{"host", "username", "workingDir", "protocol"} {
		if !strings.Contains(err.Error(), field+":") {
			t.Errorf("%s is not told: %v", field, err)
		}
	}
	_, err = control.Create.Call(t.Context(), s.client, control.CreateRequest{Name: "a", Set: settingsOf("port=99999")})
	wantCode(t, "create with a bad port", err, control.ConfigInvalid)
	if text := err.Error(); !strings.Contains(text, "port") || !strings.Contains(text, "99999") || !strings.Contains(text, "65535") {
		t.Errorf("refused: %v", err)
	}
	if s.everything() != before {
		t.Error("a refused definition changed the store")
	}
}

// Rows 18, 19: a change tells whom it affects before it happens; a dry run does nothing else; comments stay.
func TestEditTellsItsImpact(t *testing.T) {
	s := newStage(t)
	s.define("a", "# ours")
	s.define("b")
	s.start()
	s.wantState("a", control.StateReady)
	s.fake("a").open = 2
	before := s.everything()
	q := control.EditRequest{Name: "a", Set: []control.Setting{{Field: "host", Value: "other.example"}}, ChangeOptions: control.ChangeOptions{DryRun: true}}
	a, err := control.Edit.Call(t.Context(), s.client, q)
	if err != nil || a.Revision != 0 || a.Apply != nil || s.everything() != before {
		t.Fatalf("a dry run: %+v, %v", a, err)
	}
	if len(a.Changes) != 1 || a.Changes[0].Before != "files.example" || a.Changes[0].After != "other.example" || a.Changes[0].Field != "host" {
		t.Errorf("%+v", a.Changes)
	}
	i := slices.IndexFunc(a.Impact, func(i control.Impact) bool { return i.Environment == "Test" })
	if i < 0 || a.Impact[i].OpenFiles != 2 || a.Impact[i].Dir != s.dir("a") || a.Impact[i].State != control.StateReady {
		t.Errorf("%+v", a.Impact)
	}
	q.DryRun, q.Reason = false, "moved"
	if a, err = control.Edit.Call(t.Context(), s.client, q); err != nil || a.Revision == 0 || !slices.Equal(a.Apply.Changed, []string{"Test/a"}) {
		t.Fatalf("%+v, %v", a, err)
	}
	if !strings.Contains(s.everything(), "# ours") {
		t.Error("the comment is gone")
	}
	if a, err = control.Edit.Call(t.Context(), s.client, q); err != nil || a.Revision != 0 {
		t.Errorf("the same again: %+v, %v", a, err)
	}
	_, err = control.Edit.Call(t.Context(), s.client, control.EditRequest{Name: "a", Was: "somebody else's", Definition: control.Seal("x")})
	wantCode(t, "edit of what somebody else changed", err, control.Busy)
	_, err = control.Edit.Call(t.Context(), s.client, control.EditRequest{Name: "nobody"})
	wantCode(t, "edit of nothing", err, control.UnknownConnection)
}

// Row 11: what programs have open is not deleted from under them, unless by force.
func TestDeleteSparesOpenFiles(t *testing.T) {
	s := newStage(t)
	s.define("a")
	s.start()
	s.wantState("a", control.StateReady)
	s.fake("a").open = 1
	_, err := control.Delete.Call(t.Context(), s.client, control.DeleteRequest{Name: "a"})
	wantCode(t, "delete with open files", err, control.Busy)
	s.wantState("a", control.StateReady)
	a, err := control.Delete.Call(t.Context(), s.client, control.DeleteRequest{Name: "a", ChangeOptions: control.ChangeOptions{Force: true}})
	if err != nil || !slices.Equal(a.Apply.Removed, []string{"Test/a"}) {
		t.Fatalf("%+v, %v", a, err)
	}
	if len(s.list()) != 0 {
		t.Errorf("%+v", s.list())
	}
}

// Row 9: a project's connection becomes a global one under its own name, unless that is taken; the move is in the log.
func TestMoveToGlobal(t *testing.T) {
	s := newStage(t)
	s.define("p/a", `name = "a"`)
	s.define("q/b")
	s.define("b")
	s.start()
	_, err := control.Copy.Call(t.Context(), s.client, control.CopyRequest{Name: "q/b", To: "b", Move: true})
	wantCode(t, "a name that is taken", err, control.Exists)
	if _, err := control.Copy.Call(t.Context(), s.client, control.CopyRequest{Name: "p/a", To: "c", Move: true}); err != nil {
		t.Fatal(err)
	}
	s.wantState("c", control.StateReady)
	h, err := control.History.Call(t.Context(), s.client, control.HistoryRequest{Subject: "c"})
	if err != nil || len(h.Revisions) != 1 || h.Revisions[0].Verb != "move" || h.Revisions[0].Subject != "p/a" || len(h.Revisions[0].Files) != 2 {
		t.Errorf("%+v, %v", h, err)
	}
}

// Rows 43, 44, 45: a secret is never given back; it stays a secret; what is set by command is encrypted.
func TestVariablesByCommand(t *testing.T) {
	s := newStage(t)
	s.define("a")
	s.start()
	set := func(q control.SetVarRequest) error {
		_, err := control.SetVar.Call(t.Context(), s.client, q)
		return err
	}
	for _, q := range []control.SetVarRequest{
		{Name: "shop.host", Value: control.Seal("global.example")}, {Name: "shop.host", Environment: "Test", Value: control.Seal("test.example")},
		{Name: "shop.password", Secret: true, Value: control.Seal(canary)},
	} {
		if err := set(q); err != nil {
			t.Fatalf("%+v: %v", q, err)
		}
	}
	wantCode(t, "a secret in the open", set(control.SetVarRequest{Name: "shop.password", Value: control.Seal("x")}), control.Usage)
	wantCode(t, "a name that is none", set(control.SetVarRequest{Name: "a b", Value: control.Seal("x")}), control.ConfigInvalid)
	wantCode(t, "no such environment", set(control.SetVarRequest{Name: "x", Environment: "Nowhere", Value: control.Seal("x")}), control.UnknownEnvironment)
	wantCode(t, "unset of nothing", set(control.SetVarRequest{Name: "x", Unset: true}), control.NotFound)
	if _, err := control.Edit.Call(t.Context(), s.client, control.EditRequest{Name: "a", Set: []control.Setting{{Field: "host", Value: "${shop.host}"}, {Field: "password", Value: "${shop.password}"}}}); err != nil {
		t.Fatal(err)
	}
	s.wantState("a", control.StateReady) // the floor demands the canary as the password
	a, err := control.Vars.Call(t.Context(), s.client, control.VarsRequest{Environment: "Test"})
	if err != nil || len(a.Variables) != 3 || a.Variables[0].Environment != "Test" || len(a.Variables[0].UsedBy) != 1 || len(a.Variables[1].UsedBy) != 0 {
		t.Errorf("%+v, %v", a, err)
	}
	err = set(control.SetVarRequest{Name: "shop.host", Environment: "Test", Unset: true})
	if err == nil {
		err = set(control.SetVarRequest{Name: "shop.host", Unset: true})
	}
	wantCode(t, "unset of what is needed", err, control.ConfigInvalid)
	if text := s.everything(); strings.Contains(text, canary) {
		t.Errorf("a secret stands in the open:\n%s", text)
	}
	wantNoCanary(t, s)
}

// Row 52: a literal password becomes a secret variable, and the connection goes on.
func TestExtractTakesThePasswordOut(t *testing.T) {
	s := newStage(t)
	s.define("p/a-b", "# ours")
	s.start()
	if a, err := control.Extract.Call(t.Context(), s.client, control.ExtractRequest{Name: "p/a-b"}); err != nil || len(a.Changes) != 2 {
		t.Fatalf("%+v, %v", a, err)
	}
	text := s.everything()
	if strings.Contains(text, canary) || !strings.Contains(text, `password = "${p.a_b.password}"`) || !strings.Contains(text, "# ours") {
		t.Errorf("it became\n%s", text)
	}
	s.wantState("p/a-b", control.StateReady)
	a, err := control.Read.Call(t.Context(), s.client, control.ReadRequest{Name: "p/a-b"})
	if err != nil || !strings.Contains(a.Text, "# ours") {
		t.Errorf("%+v, %v", a, err)
	}
	s.define("literal")
	_, err = control.Read.Call(t.Context(), s.client, control.ReadRequest{Name: "literal"})
	wantCode(t, "read a literal password", err, control.NotAllowed)
}

// Rows 39, 47: one command switches the machine to another environment, and there may be more than the three.
func TestEnvironmentsByCommand(t *testing.T) {
	s := newStage(t)
	s.define("a")
	s.start()
	if _, err := control.EnvAdd.Call(t.Context(), s.client, control.EnvRequest{Names: []string{"Acceptance"}}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"Acceptance", "acceptance", "Test"} {
		_, err := control.EnvAdd.Call(t.Context(), s.client, control.EnvRequest{Names: []string{name}})
		wantCode(t, "an environment that is there", err, control.Exists)
	}
	_, err := control.EnvUse.Call(t.Context(), s.client, control.EnvRequest{Names: []string{"Nowhere"}})
	wantCode(t, "no such environment", err, control.UnknownEnvironment)
	a, err := control.EnvUse.Call(t.Context(), s.client, control.EnvRequest{Names: []string{"Acceptance"}})
	if err != nil || !slices.Equal(a.Apply.Added, []string{"Acceptance/a"}) || !slices.Equal(a.Apply.Removed, []string{"Test/a"}) {
		t.Fatalf("%+v, %v", a, err)
	}
	if c := s.list()["Acceptance/a"]; c.State != control.StateReady {
		t.Errorf("%+v", c)
	}
}

// Row 103: who, when, what of every change, by command and by hand; a rollback brings the content back and is one more entry.
func TestHistoryAndRollback(t *testing.T) {
	s := newStage(t)
	s.define("a", "# first")
	s.start()
	if _, err := control.Edit.Call(t.Context(), s.client, control.EditRequest{Name: "a", Set: []control.Setting{{Field: "username", Value: "other"}},
		ChangeOptions: control.ChangeOptions{Reason: "ticket 7"}}); err != nil {
		t.Fatal(err)
	}
	s.define("a", "# by hand")
	s.apply()
	if _, err := control.Enable.Call(t.Context(), s.client, control.EnableRequest{Name: "a", Enabled: false}); err != nil {
		t.Fatal(err)
	}
	h, err := control.History.Call(t.Context(), s.client, control.HistoryRequest{Subject: "a"})
	if err != nil {
		t.Fatal(err)
	}
	var verbs []string
	for _, r := range h.Revisions {
		verbs = append(verbs, r.Verb)
		if r.Time.IsZero() || r.Hash == "" {
			t.Errorf("%+v", r)
		}
	}
	if want := []string{"found", "edit", "by hand", "disable"}; !slices.Equal(verbs, want) {
		t.Fatalf("history: %q, want %q", verbs, want)
	}
	edit := h.Revisions[1]
	if edit.Reason != "ticket 7" || int(edit.UID) != os.Geteuid() || int(edit.PID) != os.Getpid() || edit.Exe == "" || edit.Changes[0].After != "other" {
		t.Errorf("%+v", edit)
	}
	a, err := control.Rollback.Call(t.Context(), s.client, control.RollbackRequest{Subject: "a", Revision: h.Revisions[0].Revision})
	if err != nil || a.Revision != h.Revisions[3].Revision+1 || !strings.Contains(s.everything(), "# first") {
		t.Errorf("%+v, %v:\n%s", a, err, s.everything())
	}
	s.wantState("a", control.StateReady)
	_, err = control.Rollback.Call(t.Context(), s.client, control.RollbackRequest{Subject: "a", Revision: 999})
	wantCode(t, "no such revision", err, control.NotFound)
	if _, err := control.Delete.Call(t.Context(), s.client, control.DeleteRequest{Name: "a"}); err != nil {
		t.Fatal(err)
	}
	if _, err := control.Rollback.Call(t.Context(), s.client, control.RollbackRequest{Subject: "a", Revision: edit.Revision}); err != nil {
		t.Fatal(err)
	}
	s.wantState("a", control.StateReady)
	v, err := control.Verify.Call(t.Context(), s.client, control.VerifyRequest{})
	if err != nil || !v.OK || v.Entries < 7 {
		t.Errorf("%+v, %v", v, err)
	}
	log, err := os.ReadFile(filepath.Join(s.dirs.State, "registry", "audit.jsonl"))
	if err != nil || strings.Contains(string(log), canary) {
		t.Errorf("the log holds the password, or: %v", err)
	}
}

// Row 14: a dry run of apply tells what would be mounted, and mounts nothing.
func TestApplyDryRun(t *testing.T) {
	s := newStage(t)
	s.define("a")
	s.define("b")
	s.start()
	s.daemon.changing.Lock() // the watcher's own apply waits until the dry run has been seen
	s.define("b", "readOnly = true")
	s.define("c")
	if err := os.Remove(filepath.Join(s.dirs.Config, "connections", "a.toml")); err != nil {
		t.Fatal(err)
	}
	a, err := control.Apply.Call(t.Context(), s.client, control.ApplyRequest{DryRun: true})
	s.daemon.changing.Unlock()
	if err != nil || !slices.Equal(a.Added, []string{"Test/c"}) || !slices.Equal(a.Changed, []string{"Test/b"}) || !slices.Equal(a.Removed, []string{"Test/a"}) {
		t.Errorf("%+v, %v", a, err)
	}
}

// A log that was destroyed stops no mount; it stops changes by command, for they could not be entered.
func TestBrokenLogStopsNoMount(t *testing.T) {
	s := newStage(t)
	s.define("a")
	if err := os.MkdirAll(filepath.Join(s.dirs.State, "registry"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.dirs.State, "registry", "audit.jsonl"), []byte("no entry\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.start()
	s.wantState("a", control.StateReady)
	_, err := control.Create.Call(t.Context(), s.client, control.CreateRequest{Name: "b", Set: settingsOf()})
	wantCode(t, "create without a log", err, control.Internal)
}
