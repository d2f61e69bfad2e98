package conncfg

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A change of one value leaves what an operator wrote around it: comments, order, layout.
func TestEditLeavesEveryOtherByte(t *testing.T) {
	const file = "# ours\nprotocol = \"SFTP\" # why\nhost='a.example'\n\nport = 2222\n# last words\n\n[environments.Test] # try\nhost = \"t.example\"\n\n[environments.Production]\n# nothing yet\n"
	for _, c := range []struct {
		change  FieldChange
		old, to string
	}{
		{FieldChange{Field: "host", Value: "b.example"}, "host='a.example'", `host="b.example"`},
		{FieldChange{Field: "protocol", Value: "ftps"}, `"SFTP" # why`, `"FTPS" # why`},
		{FieldChange{Field: "port", Unset: true}, "port = 2222\n", ""},
		{FieldChange{Field: "username", Value: "u"}, "port = 2222\n", "port = 2222\nusername = \"u\"\n"},
		{FieldChange{Environment: "Test", Field: "host", Value: "x"}, `host = "t.example"`, `host = "x"`},
		{FieldChange{Environment: "Test", Field: "port", Value: "${p}"}, "\"t.example\"\n", "\"t.example\"\nport = \"${p}\"\n"},
		{FieldChange{Environment: "Production", Field: "readOnly", Value: "true"}, "[environments.Production]\n", "[environments.Production]\nreadOnly = true\n"},
		{FieldChange{Environment: "New.1", Field: "timeout", Value: "45"}, "# nothing yet\n", "# nothing yet\n\n[environments.\"New.1\"]\ntimeout = \"45s\"\n"},
		{FieldChange{Field: "password", Value: "${pw}"}, "port = 2222\n", "port = 2222\npassword = \"${pw}\"\n"},
		{FieldChange{Field: "username", Unset: true}, "", ""},
	} {
		want := strings.Replace(file, c.old, c.to, 1)
		if c.change.Field == "host" && c.change.Environment == "" {
			want = strings.Replace(file, "'a.example'", `"b.example"`, 1)
		}
		for _, br := range []string{"\n", "\r\n"} {
			got, findings := Edit([]byte(strings.ReplaceAll(file, "\n", br)), []FieldChange{c.change})
			if string(got) != strings.ReplaceAll(want, "\n", br) || len(findings) > 0 {
				t.Errorf("%+v made\n%q, %v; want\n%q", c.change, got, findings, want)
			}
		}
	}
}

// What is refused names the field, the value and the way out, and changes nothing.
func TestEditRefusesWithTheWayOut(t *testing.T) {
	for _, c := range []struct {
		change FieldChange
		code   Code
		value  string
	}{
		{FieldChange{Field: "port", Value: "99999"}, CodeRange, "99999"},
		{FieldChange{Field: "hots", Value: "x"}, CodeUnknownKey, ""},
		{FieldChange{Field: "host", Value: "ftp://x"}, CodeHostInvalid, "ftp://x"},
		{FieldChange{Field: "name", Value: "x"}, CodeWrongPlace, "x"},
		{FieldChange{Environment: "Test", Field: "description", Value: "x"}, CodeWrongPlace, "x"},
		{FieldChange{Environment: "../x", Field: "host", Value: "x"}, CodeNameInvalid, "x"},
		{FieldChange{Field: "password", Value: "hunter2"}, CodePasswordPublic, ""},
		{FieldChange{Field: "privateKey", Value: "${k}"}, CodeVariableMisplaced, ""},
	} {
		got, findings := Edit([]byte(good), []FieldChange{c.change})
		if len(findings) != 1 || findings[0].Code != c.code || findings[0].Value != c.value || findings[0].Hint == "" || findings[0].Field == "" || string(got) != good {
			t.Errorf("%+v: %+v", c.change, findings)
		}
	}
	for _, file := range []string{"environments = { Test = { port = 1 } }\n", "port = 22\nport = 23\n", "port = = 1\n"} {
		got, findings := Edit([]byte(file), []FieldChange{{Environment: "Test", Field: "host", Value: "x"}, {Field: "port", Value: "5"}})
		if len(findings) == 0 {
			t.Errorf("%q became %q", file, got)
		}
	}
}

func TestEditVariables(t *testing.T) {
	for _, c := range []struct {
		file   string
		change VariableChange
		want   string
	}{
		{"", VariableChange{Name: "a.b", Value: "x"}, "[variables]\n\"a.b\" = \"x\"\n"},
		{"a.b = 'y' # keep\n", VariableChange{Name: "a.b", Value: "x"}, "a.b = \"x\" # keep\n"},
		{"[variables]\n[variables.a]\nb = 1\n", VariableChange{Name: "a.b", Value: "x"}, "[variables]\n[variables.a]\nb = \"x\"\n"},
		{"[variables]\na = { file = \"/x\" }\n", VariableChange{Name: "a", Unset: true}, "[variables]\n"},
		{"[variables]\na = 1\n[secrets]\n", VariableChange{Name: "s", Secret: true, Sealed: "QUJD"}, "[variables]\na = 1\n[secrets]\ns = { sealed = \"QUJD\", secret = true }\n"},
		{"[variables]\ns = { file = \"/x\" }\n", VariableChange{Name: "s", Secret: true, Sealed: "QUJD"}, "[variables]\ns = { sealed = \"QUJD\", secret = true }\n"},
	} {
		got, findings := EditVariables([]byte(c.file), c.change)
		if string(got) != c.want || len(findings) > 0 {
			t.Errorf("%+v of %q made %q, %v; want %q", c.change, c.file, got, findings, c.want)
		}
	}
	if _, findings := EditVariables(nil, VariableChange{Name: "a b", Value: "x"}); !HasErrors(findings) {
		t.Error("a name with a space was taken")
	}
}

// Row 45: a secret that was set by command stands in its file encrypted, and resolves; without the key, or with another, it
// does not.
func TestSealedSecretResolves(t *testing.T) {
	dir := tree(t, base())
	key, err := MakeKey(dir)
	if err != nil {
		t.Fatal(err)
	}
	sealed := key.Seal(NewSecret(canary))
	file, findings := EditVariables(nil, VariableChange{Name: "pw", Secret: true, Sealed: sealed})
	if len(findings) > 0 {
		t.Fatal(findings)
	}
	put(t, dir, "variables.toml", string(file))
	if strings.Contains(string(file), canary) {
		t.Errorf("it stands in the open: %s", file)
	}
	resolve := func() (string, []Finding) {
		c, _ := Load(dir)
		target, findings := c.Resolve(t.Context(), "ok", "Development")
		return target.Password.Reveal(), findings
	}
	if got, findings := resolve(); got != canary || HasErrors(findings) {
		t.Errorf("it resolves to %q, %v", got, findings)
	}
	if again, err := MakeKey(dir); err != nil || again.Seal(NewSecret("")) == "" {
		t.Errorf("the key that is there: %v", err)
	}
	if info, err := os.Stat(filepath.Join(dir, keyName)); err != nil || info.Mode().Perm() != 0o400 {
		t.Errorf("mode of the key: %v, %v", info.Mode(), err)
	}
	if err := os.Remove(filepath.Join(dir, keyName)); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenKey(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no key: %v", err)
	}
	if got, findings := resolve(); got != "" || !HasErrors(findings) {
		t.Errorf("without the key: %q, %v", got, findings)
	}
	if _, err := MakeKey(dir); err != nil {
		t.Fatal(err)
	}
	if got, findings := resolve(); got != "" || !HasErrors(findings) {
		t.Errorf("with another key: %q, %v", got, findings)
	}
}

// What would be is what will be: a configuration read with changes is the one that is read once they are written.
func TestLoadWithIsLoadAfterWriting(t *testing.T) {
	dir := tree(t, base())
	files := map[string][]byte{
		"connections/p/new.toml": []byte(good), "connections/ok.toml": nil,
		"environments/Acceptance.toml": []byte("[variables]\nx = 1\n"), "variables.toml": []byte("[variables]\npw = { env = \"PW\" }\n"),
	}
	before, _ := Load(dir)
	preview, found := LoadWith(dir, files)
	if HasErrors(found) || preview.Connection("ok") != nil || preview.Connection("p/new") == nil || preview.Defined("", "pw").Source() != "env PW" {
		t.Fatalf("%v", found)
	}
	s := NewStore(dir)
	now, _ := Files(dir)
	for name, data := range files {
		if err := s.Write(name, now[name], data); err != nil {
			t.Fatal(err)
		}
	}
	after, _ := Load(dir)
	if d := Differences(preview, after); len(d) > 0 {
		t.Errorf("they differ: %+v", d)
	}
	written, _ := Files(dir)
	memory, _ := LoadFiles(dir, written)
	if d := Differences(memory, after); len(d) > 0 {
		t.Errorf("from memory it differs: %+v", d)
	}
	var told []string
	for _, a := range Affects(before, after) {
		if a.Environment == "Acceptance" || a.Environment == "Development" {
			told = append(told, a.Change+" "+a.Environment+"/"+a.Name)
		}
	}
	if got := strings.Join(told, ", "); got != "removed Acceptance/ok, removed Development/ok, added Acceptance/p/new, added Development/p/new" {
		t.Errorf("affected: %s", got)
	}
}

// Differences tell everything of what changed but what a secret was and is.
func TestDifferencesHideSecrets(t *testing.T) {
	one, two := base(), base()
	one["connections/x.toml"] = strings.Replace(good, "${pw}", canary, 1)
	two["connections/x.toml"] = strings.Replace(strings.Replace(good, "${pw}", canary+"2", 1), "batch", "other", 1)
	one["environments/Test.toml"] = "[variables]\npw = \"" + canary + "\"\nplain = \"a\"\n"
	two["environments/Test.toml"] = "[variables]\npw = \"" + canary + "2\"\nplain = \"b\"\n"
	a, _ := Load(tree(t, one))
	b, _ := Load(tree(t, two))
	text := ""
	for _, d := range Differences(a, b) {
		text += d.File + " " + d.Environment + " " + d.Field + ": " + d.Before + " > " + d.After + "\n"
	}
	want := "connections/x.toml  username: batch > other\nconnections/x.toml  password: ******** > ******** (another one)\n" +
		"environments/Test.toml Test variables.plain: value a > value b\nenvironments/Test.toml Test variables.pw: ******** > ******** (another one)\n"
	if text != want {
		t.Errorf("got\n%s\nwant\n%s", text, want)
	}
}

func FuzzEdit(f *testing.F) {
	f.Add([]byte(good), "host", "x", "Test")
	f.Add([]byte("a.b.c = {d = [1,\n2]}\r\n[environments.\"a b\"]\nport=1\n[[x]]\n"), "port", "22", "a b")
	f.Fuzz(func(t *testing.T, data []byte, field, value, env string) {
		got, findings := Edit(data, []FieldChange{{Environment: env, Field: field, Value: value}})
		if HasErrors(findings) {
			return
		}
		_, before := Parse(data, "fuzz", "x")
		c, after := Parse(got, "fuzz", "x")
		if len(after) > len(before) && !strings.Contains(field, "schema") {
			t.Errorf("%q became %q: %v", data, got, after)
		}
		if s := c.envs[env][field]; env != "" && s == nil || env == "" && c.base[field] == nil {
			t.Errorf("%s is not set in %q", field, got)
		}
	})
}
