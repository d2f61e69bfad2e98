package daemon

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"pierfs/cmd/internal/control"
	"pierfs/conncfg"
)

func (s *stage) export(names ...string) control.ExportAnswer {
	s.t.Helper()
	a, err := control.Export.Call(s.t.Context(), s.client, control.ExportRequest{Names: names})
	if err != nil {
		s.t.Fatal(err)
	}
	return a
}

// imported sends what was exported back, as the hand does.
func (s *stage) imported(a control.ExportAnswer, q control.ImportRequest) control.ImportAnswer {
	s.t.Helper()
	var list []control.Imported
	for _, c := range a.Connections {
		all, err := conncfg.FromJSON([]byte(c.Definition))
		if err != nil {
			s.t.Fatal(err)
		}
		list = append(list, control.Imported{Name: all[0].Name, Definition: control.Seal(string(all[0].TOML)), Blanks: all[0].Blanks})
	}
	body, err := json.Marshal(list)
	if err != nil {
		s.t.Fatal(err)
	}
	answer, err := control.Import.Call(s.t.Context(), s.client, q, bytes.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	return answer
}

// failed names the checks that stand against an import.
func failed(a control.ImportAnswer) (names []string) {
	for _, k := range a.Checks {
		if !k.OK {
			names = append(names, k.Check)
			if len(k.Detail) == 0 || k.Hint == "" || k.Code == "" {
				names = append(names, "without a reason")
			}
		}
	}
	return names
}

// Rows 87, 93, 95: exported, deleted and imported, a definition is the same; a password that stood in it is told as missing; nothing is
// mounted before apply, also by a daemon that starts anew.
func TestImportBringsBackWhatWasExported(t *testing.T) {
	s := newStage(t)
	s.write("variables.toml", "[secrets]\npw = \""+canary+"\"")
	s.define("a")
	s.write("connections/p/b.toml", "protocol = \"SFTP\"\nhost = \"h.example\"\nusername = \"u\"\nworkingDir = \"/in\"\npassword = \"${pw}\"\ntimeout = \"45s\"\n[environments.Test]\nreadOnly = true\n")
	s.start()
	one := s.export("p/b")
	both := s.export()
	if text, _ := json.Marshal(both); bytes.Contains(text, []byte(canary)) || len(both.Connections) != 2 {
		t.Errorf("%s", text)
	}
	for _, name := range []string{"a", "p/b"} {
		if _, err := control.Delete.Call(t.Context(), s.client, control.DeleteRequest{Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	dry := s.imported(both, control.ImportRequest{ChangeOptions: control.ChangeOptions{DryRun: true}})
	if len(failed(dry)) > 0 || dry.Change.Revision != 0 || len(dry.Change.Changes) == 0 {
		t.Fatalf("%+v", dry)
	}
	a := s.imported(both, control.ImportRequest{})
	if len(failed(a)) > 0 || a.Change.Revision == 0 || len(a.Unresolved) != 1 || a.Unresolved[0].Field != "password" || a.Unresolved[0].Connection != "a" {
		t.Fatalf("%+v", a)
	}
	if again := s.export("p/b"); again.Connections[0] != one.Connections[0] {
		t.Errorf("it came back as %+v, was %+v", again, one)
	}
	for range 2 {
		if c := s.wantState("p/b", control.StateUnmounted); !strings.Contains(c.Reason, "pierfs apply") {
			t.Errorf("%+v", c)
		}
		if err := s.stop(); err != nil {
			t.Fatal(err)
		}
		for len(s.told) > 0 { // what the one before said
			<-s.told
		}
		s.start()
	}
	if applied := s.apply(); !slices.Contains(applied.Added, "Test/p/b") {
		t.Errorf("%+v", applied)
	}
	s.wantState("p/b", control.StateReady)
}

// Rows 89, 90: a name that is taken is a refusal of its own, and nothing of the package is written; --overwrite and --rename are the ways out.
// Holds rows 89, 90 and 95 of the requirements.
func TestImportRefusesAsAWhole(t *testing.T) {
	s := newStage(t)
	s.define("a")
	s.define("b")
	s.start()
	both := s.export("a", "b")
	if _, err := control.Delete.Call(t.Context(), s.client, control.DeleteRequest{Name: "b"}); err != nil {
		t.Fatal(err)
	}
	before := s.everything()
	if a := s.imported(both, control.ImportRequest{}); !slices.Equal(failed(a), []string{"conflict"}) || len(a.Checks) != 3 {
		t.Errorf("%+v", a.Checks)
	}
	if s.everything() != before {
		t.Error("a part of a refused package was written")
	}
	one := control.ExportAnswer{Connections: both.Connections[:1]}
	if a := s.imported(one, control.ImportRequest{Rename: "c"}); len(failed(a)) > 0 || a.Connections[0].As != "c" {
		t.Errorf("%+v", a)
	}
	if a := s.imported(both, control.ImportRequest{Overwrite: true}); len(failed(a)) > 0 || a.Connections[0].Change != "replaced" || a.Connections[1].Change != "added" {
		t.Errorf("%+v", a)
	}
	_, err := control.Export.Call(t.Context(), s.client, control.ExportRequest{Names: []string{"a", "nobody", "none"}})
	wantCode(t, "export of nobody", err, control.UnknownConnection)
	if !strings.Contains(err.Error(), "nobody") || !strings.Contains(err.Error(), "none") {
		t.Errorf("it does not name them: %v", err)
	}
}

// Rows 91, 92: what is missing is listed and refused, or left out and told; environments take other names.
func TestImportWithoutWhatItNeeds(t *testing.T) {
	s := newStage(t)
	s.start()
	text := `{"name":"x","protocol":"SFTP","host":"h.example","username":"u","workingDir":"/","password":"${no.such}",
	"environments":{"Old":{"host":"old.example"},"Test":{"port":2222}}}`
	foreign := control.ExportAnswer{Connections: []control.Exported{{Name: "x", Definition: text}}}
	a := s.imported(foreign, control.ImportRequest{})
	if !slices.Equal(failed(a), []string{"dependencies"}) || len(a.Missing) != 2 || a.Missing[0].Name != "Old" || a.Missing[1].Name != "no.such" {
		t.Errorf("%+v", a)
	}
	a = s.imported(foreign, control.ImportRequest{ExcludeMissing: true})
	if len(failed(a)) > 0 || len(a.Unresolved) != 2 {
		t.Fatalf("%+v", a)
	}
	if text := s.everything(); strings.Contains(text, "Old") || strings.Contains(text, "no.such") || !strings.Contains(text, "2222") {
		t.Errorf("stored\n%s", text)
	}
	s.write("variables.toml", "no.such = { env = \"NO_SUCH\" }")
	t.Setenv("NO_SUCH", canary)
	a = s.imported(foreign, control.ImportRequest{Overwrite: true, MapEnv: map[string]string{"Old": "Production"}})
	if len(failed(a)) > 0 || !strings.Contains(s.everything(), "[environments.Production]\nhost = \"old.example\"") {
		t.Errorf("%+v\n%s", a.Checks, s.everything())
	}
	if notes := strings.Join(a.Notes, "\n"); !strings.Contains(notes, "`pierfs env use Test Production`") {
		t.Errorf("nothing is said of an environment that is not active: %q", notes)
	}
	a = s.imported(foreign, control.ImportRequest{Overwrite: true, MapEnv: map[string]string{"Old": "Test"}})
	if !slices.Contains(failed(a), "format") {
		t.Errorf("two environments became one: %+v", a.Checks)
	}
}

// An import cannot have the daemon run a program, read a file, or mount over the system.
func TestImportNamesNothingOfThisMachine(t *testing.T) {
	s := newStage(t)
	s.start()
	for field, value := range map[string]string{
		"password": `{"command":["/bin/touch","/tmp/owned"]}`, "privateKeyFile": `"/root/.ssh/id_rsa"`, "privateKey": `{"file":"/etc/shadow"}`,
		"mountPoint": `"/home"`, "agent": `true`, "knownHostsFile": `"/etc/passwd"`,
	} {
		text := `{"name":"x","protocol":"SFTP","host":"h.example","username":"u","workingDir":"/","` + field + `":` + value + `}`
		a := s.imported(control.ExportAnswer{Connections: []control.Exported{{Name: "x", Definition: text}}}, control.ImportRequest{Overwrite: true, ExcludeMissing: true})
		if len(failed(a)) > 0 || len(a.Unresolved) != 1 || a.Unresolved[0].Field != field || a.Unresolved[0].Why == "" {
			t.Errorf("%s: %+v", field, a)
		}
		if strings.Contains(s.everything(), field) {
			t.Errorf("%s was stored:\n%s", field, s.everything())
		}
	}
}

// Holds row 86 of the requirements: what was trusted of the servers of a connection is told with it, in each environment, but for where its definition names the one
// that counts.
func TestExportTellsWhatIsTrusted(t *testing.T) {
	s := newStage(t)
	s.define("a", "[environments.Production]", `host = "prod.example"`)
	s.define("named", `hostKey = "`+fingerprint+`"`)
	s.believes = map[string][]string{"files.example:22": {"SHA256:here"}, "prod.example:22": {"SHA256:there"}, "else.example:22": {"SHA256:x"}}
	s.start()
	var got []string
	for _, d := range s.export().Dependencies {
		if d.Kind == "hostKey" {
			got = append(got, d.Name+" for "+strings.Join(d.UsedBy, ","))
		}
	}
	if want := []string{"files.example:22 SHA256:here for a.Test", "prod.example:22 SHA256:there for a.Production"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
