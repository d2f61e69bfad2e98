package conncfg

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func names(c *Config) string {
	var all []string
	for _, conn := range c.Connections() {
		all = append(all, conn.Name)
	}
	return strings.Join(all, " ")
}

func TestLayout(t *testing.T) {
	c, findings := Load(tree(t, with(map[string]string{
		"connections/audit/logs.toml": good, "connections/audit/ok.toml": good, "connections/empty/README": "x",
		"connections/.ok.toml.swp": "x", "connections/.hidden.toml": "x", "connections/#ok.toml#": "x", "connections/ok.toml~": "x", "connections/ok.toml.bak": "x",
		"connections/4913": "x", "connections/notes.txt": "x", "connections/.git/config.toml": "x", "environments/.x.toml": "x", "environments/Acceptance.toml": "[variables]\n", "other.toml": "x",
	})))
	if len(findings) > 0 {
		t.Errorf("found%s", printed(findings))
	}
	if got := names(c); got != "audit/logs audit/ok ok" {
		t.Errorf("connections: %s", got)
	}
	if p := c.Connection("audit/logs").Project(); p != "audit" || c.Connection("ok").Project() != "" {
		t.Errorf("project is %q", p)
	}
	var envs []string
	for _, e := range c.Environments() {
		envs = append(envs, e.Name)
	}
	if got := strings.Join(envs, " "); got != "Acceptance Development Production Test" {
		t.Errorf("environments: %s", got)
	}
}

func TestNamesThatGetInEachOthersWay(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		code  Code
		file  string
	}{
		"project and connection":             {map[string]string{"connections/ok/x.toml": good}, CodeNameTaken, "connections/ok"},
		"project and connection but case":    {map[string]string{"connections/OK/x.toml": good}, CodeNameCase, "connections/OK"},
		"connections but case":               {map[string]string{"connections/Ok.toml": good}, CodeNameCase, "connections/ok.toml"},
		"connections of a project":           {map[string]string{"connections/p/a.toml": good, "connections/p/A.toml": good}, CodeNameCase, "connections/p/a.toml"},
		"projects but case":                  {map[string]string{"connections/p/a.toml": good, "connections/P/b.toml": good}, CodeNameCase, "connections/p"},
		"file with a bad name":               {map[string]string{"connections/a b.toml": good}, CodeNameInvalid, "connections/a b.toml"},
		"project with a bad name":            {map[string]string{"connections/a b/x.toml": good}, CodeNameInvalid, "connections/a b"},
		"environment with a bad name":        {map[string]string{"environments/a b.toml": "[variables]\n"}, CodeNameInvalid, "environments/a b.toml"},
		"directory where a file should be":   {map[string]string{"variables.toml": "", "variables.toml/x": "x", "connections/ok.toml": "", "connections/k.toml": strings.Replace(good, "${pw}", "", 1)}, CodeRead, "variables.toml"},
		"active environment that is unknown": {map[string]string{"pierfs.toml": `activeEnvironments = ["Prodution"]`}, CodeUnknownEnvironment, "pierfs.toml"},
		"active environments as a text":      {map[string]string{"pierfs.toml": `activeEnvironments = "Test"`}, CodeWrongType, "pierfs.toml"},
		"active environment twice":           {map[string]string{"pierfs.toml": `activeEnvironments = ["Test", "Test"]`}, CodeDuplicateKey, "pierfs.toml"},
		"unknown setting":                    {map[string]string{"pierfs.toml": "activeEnvironments = [\"Test\"]\nactiveEnv = 1"}, CodeUnknownKey, "pierfs.toml"},
		"policy that is not there yet":       {map[string]string{"environments/Test.toml": "readOnly = true\n"}, CodeUnknownKey, "environments/Test.toml"},
	} {
		t.Run(name, func(t *testing.T) {
			got := errorsOf(check(t, with(c.files)))
			if len(got) != 1 || got[0].Code != c.code || !strings.HasSuffix(got[0].File, "/"+c.file) || got[0].Hint == "" {
				t.Errorf("want one %s in %s with a hint, got%s", c.code, c.file, printed(got))
			}
		})
	}
}

func TestActiveEnvironments(t *testing.T) {
	for text, want := range map[string]string{
		`activeEnvironments = ["Production", "Test"]`: "[Production Test]",
		`activeEnvironments = []`:                     "[]",
		``:                                            "[Development]",
		`# nothing`:                                   "[Development]",
	} {
		c, findings := Load(tree(t, with(map[string]string{"pierfs.toml": text})))
		if got := fmt.Sprint(c.Active()); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
		said := slices.ContainsFunc(findings, func(f Finding) bool {
			return f.Code == CodeActiveDefault && f.Severity == Warning && f.Field == "activeEnvironments" && strings.Contains(f.Hint, `["Development"]`)
		})
		if said != (want == "[Development]") || HasErrors(findings) {
			t.Errorf("%q: found%s", text, printed(findings))
		}
	}
}

func TestMissingDirectoryIsAnEmptyConfigurationWithAWarning(t *testing.T) {
	c, findings := Load(filepath.Join(t.TempDir(), "none"))
	if len(findings) != 1 || findings[0].Code != CodeNoConfig || findings[0].Severity != Warning || len(c.Connections()) != 0 || len(c.Active()) != 1 {
		t.Errorf("%s with%s", names(c), printed(findings))
	}
	if c, findings := Load(t.TempDir()); len(findings) > 0 || len(c.Connections()) > 0 {
		t.Errorf("an empty directory:%s", printed(findings))
	}
}

// Links are followed below the configuration directory, as Kubernetes lays its volumes out, and nowhere else.
func TestLinksStayBelowTheDirectory(t *testing.T) {
	dir := tree(t, with(map[string]string{"connections/..data/linked.toml": good}))
	outside := filepath.Join(t.TempDir(), "x.toml")
	if err := os.WriteFile(outside, []byte(good), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]string{"linked.toml": "..data/linked.toml", "out.toml": outside, "loop.toml": "loop.toml", "gone.toml": "nothing.toml", "project": filepath.Dir(outside)} {
		if err := os.Symlink(to, filepath.Join(dir, "connections", name)); err != nil {
			t.Fatal(err)
		}
	}
	c, findings := Load(dir)
	if names(c) != "linked ok" {
		t.Errorf("connections: %s", names(c))
	}
	for _, name := range []string{"out", "loop", "gone"} {
		if !slices.ContainsFunc(findings, func(f Finding) bool {
			return f.Code == CodeSymlink && f.Severity == Error && strings.HasSuffix(f.File, "connections/"+name+".toml") && f.Hint != ""
		}) {
			t.Errorf("nothing about %s:%s", name, printed(findings))
		}
	}
}

func TestModesOfFiles(t *testing.T) {
	secret := strings.Replace(good, "${pw}", "geheim", 1)
	for _, c := range []struct {
		file, text string
		perm       os.FileMode
		code       Code
	}{
		{"connections/ok.toml", secret, 0o640, CodeSecretMode},
		{"connections/ok.toml", secret, 0o604, CodeSecretMode},
		{"connections/ok.toml", secret, 0o600, ""},
		{"connections/ok.toml", good, 0o644, ""},
		{"connections/ok.toml", strings.Replace(good, `"${pw}"`, `{ env = "HOME" }`, 1), 0o644, ""},
		{"connections/ok.toml", good, 0o666, CodeWritable},
		{"connections", "", 0o777, CodeWritable},
		{"variables.toml", "[variables]\npw = { value = \"geheim\", secret = true }\n", 0o644, CodeSecretMode},
		{"variables.toml", "[secrets]\npw = \"geheim\"\n", 0o644, CodeSecretMode},
		{"variables.toml", "[variables]\npw = \"public\"\n", 0o644, ""},
		{"variables.toml", "[variables]\npw = { env = \"HOME\", secret = true }\n", 0o644, ""},
	} {
		files := base()
		if c.text != "" {
			files[c.file] = c.text
		}
		dir := tree(t, files)
		if err := os.Chmod(filepath.Join(dir, c.file), c.perm); err != nil {
			t.Fatal(err)
		}
		config, _ := Load(dir)
		got := errorsOf(config.Check())
		target, refused := config.Resolve(t.Context(), "ok", "Development")
		switch {
		case c.code == "" && (len(got) > 0 || HasErrors(refused)):
			t.Errorf("%s %#o: found%s", c.file, c.perm, printed(got))
		case c.code != "" && (len(got) != 1 || got[0].Code != c.code || !strings.Contains(got[0].Hint, "chmod")):
			t.Errorf("%s %#o: want one %s that says chmod, got%s", c.file, c.perm, c.code, printed(got))
		case c.code != "" && !reflect.DeepEqual(target, Target{}):
			t.Errorf("%s %#o: a target in spite of it", c.file, c.perm)
		}
	}
}

// An error in an environment that is neither active nor named by the connection does not stop anybody.
func TestInactiveEnvironmentsWarn(t *testing.T) {
	files := with(map[string]string{
		"environments/Test.toml":       "[variables]\n",
		"environments/Production.toml": "[variables]\nh = \"p\"\n",
		"pierfs.toml":                  `activeEnvironments = ["Production"]`,
		"connections/ok.toml":          strings.Replace(good, "files.example.com", "${h}", 1),
	})
	got := check(t, files)
	if len(got) != 1 || got[0].Code != CodeVariableUndefined || got[0].Environment != "Test" || got[0].Severity != Warning {
		t.Errorf("inactive: want one warning, got%s", printed(got))
	}
	files["pierfs.toml"] = `activeEnvironments = ["Production", "Test"]`
	if got := errorsOf(check(t, files)); len(got) != 1 || got[0].Environment != "Test" {
		t.Errorf("active: want one error, got%s", printed(got))
	}
	files["pierfs.toml"] = `activeEnvironments = ["Production"]`
	files["connections/ok.toml"] += "[environments.Test]\nport = 2222\n"
	if got := errorsOf(check(t, files)); len(got) != 1 || got[0].Environment != "Test" {
		t.Errorf("mentioned: want one error, got%s", printed(got))
	}
}

func TestFindingIsOneReadableLine(t *testing.T) {
	f := Finding{Severity: Error, Code: CodeRange, File: "/etc/pierfs/connections/a.toml", Line: 7, Connection: "a", Environment: "Test", Field: "port", Value: "0\n", Message: "is outside 1 to 65535", Hint: "write 22"}
	if got, want := f.String(), `/etc/pierfs/connections/a.toml:7: error: a in Test: port = "0\n": is outside 1 to 65535; write 22 [RANGE]`; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got, want := (Finding{Severity: Warning, Code: CodeNoConfig, Message: "nothing"}).String(), "warning: nothing [NO_CONFIG]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// thousand writes 1,000 connections that use variables and differ by environment.
func thousand(t testing.TB) string {
	files := map[string]string{
		"pierfs.toml": `activeEnvironments = ["Test", "Production"]`, "variables.toml": "[variables]\ndomain = \"example.com\"\n",
		"environments/Test.toml": "[variables]\nh = \"test.${domain}\"\npw = { file = \"/nonexistent\" }\n", "environments/Production.toml": "[variables]\nh = \"prod.${domain}\"\npw = { file = \"/nonexistent\" }\n",
	}
	for i := range 1000 {
		files[fmt.Sprintf("connections/p%d/c%d.toml", i%10, i)] = strings.Replace(good, "files.example.com", fmt.Sprintf("h%d.${h}", i), 1) +
			"description = \"number\"\ntimeout = \"45s\"\nretryCount = 4\nmetadataTTL = \"5s\"\n[environments.Test]\nworkingDir = \"/test\"\nreadOnly = true\n"
	}
	return tree(t, files)
}

func TestThousandConnectionsLoadFast(t *testing.T) {
	dir := thousand(t)
	best := time.Hour
	for range 3 { // the machine may be busy with something else
		began := time.Now()
		c, _ := Load(dir)
		if n := len(c.Connections()); n != 1000 {
			t.Fatalf("%d connections", n)
		}
		best = min(best, time.Since(began))
	}
	if best > 200*time.Millisecond && !raceEnabled {
		t.Errorf("loading takes %v, want less than 200 ms", best)
	}
}

func BenchmarkThousandConnections(b *testing.B) {
	dir := thousand(b)
	b.Run("Load", func(b *testing.B) {
		for b.Loop() {
			Load(dir)
		}
	})
	c, _ := Load(dir)
	b.Run("Check", func(b *testing.B) {
		for b.Loop() {
			c.Check()
		}
	})
	b.Run("Revision", func(b *testing.B) {
		for b.Loop() {
			c.Revision("p1/c1", "Test")
		}
	})
}
