package conncfg

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

func content(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// setEnabled switches a connection on or off, as the command does.
func setEnabled(s *Store, name string, enabled bool) error {
	file := ConnectionFile(name)
	was, err := os.ReadFile(filepath.Join(s.dir, file))
	if err != nil {
		return err
	}
	data, err := WithEnabled(was, enabled)
	if err != nil {
		return err
	}
	return s.Write(file, was, data)
}

func TestSetEnabledChangesOneValueAndNoOtherByte(t *testing.T) {
	rest := "\n# comment  \n[environments.Test] # enabled = true\nport=2222\n"
	for before, after := range map[string]string{
		good + rest:                                      good + "enabled = false\n" + rest,
		"enabled = true\n" + good:                        "enabled = false\n" + good,
		good + "  enabled=true   # why\n" + rest:         good + "  enabled=false   # why\n" + rest,
		"\"enabled\"\t=\ttrue\n" + good:                  "\"enabled\"\t=\tfalse\n" + good,
		strings.TrimSuffix(good, "\n"):                   good + "enabled = false\n",
		strings.ReplaceAll(good+rest, "\n", "\r\n"):      strings.ReplaceAll(good+"enabled = false\n"+rest, "\n", "\r\n"),
		"\xef\xbb\xbfenabled = true\n" + good:            "\xef\xbb\xbfenabled = false\n" + good,
		"\xef\xbb\xbf" + good:                            "\xef\xbb\xbf" + good + "enabled = false\n",
		"":                                               "enabled = false\n",
		"# nothing\n":                                    "enabled = false\n# nothing\n",
		"[environments.Test]\nenabled = true\n":          "enabled = false\n[environments.Test]\nenabled = true\n",
		"description = \"\"\"\nenabled = true\n\"\"\"\n": "description = \"\"\"\nenabled = true\n\"\"\"\nenabled = false\n",
		"enabled = false\n":                              "enabled = false\n",
	} {
		dir := t.TempDir()
		put(t, dir, "connections/p/x.toml", before)
		file := filepath.Join(dir, "connections/p/x.toml")
		if err := setEnabled(NewStore(dir), "p/x", false); err != nil {
			t.Errorf("%q: %v", before, err)
		}
		if got := content(t, file); got != after {
			t.Errorf("%q\nbecame %q\nwant   %q", before, got, after)
		}
		c, _ := Load(dir)
		if c.Connection("p/x").Enabled() {
			t.Errorf("%q is still enabled", content(t, file))
		}
		if err := setEnabled(NewStore(dir), "p/x", true); err != nil {
			t.Errorf("back: %v", err)
		}
		if got, want := content(t, file), strings.Replace(after, "false", "true", 1); got != want {
			t.Errorf("back again %q, want %q", got, want)
		}
	}
}

func TestSetEnabledKeepsModeAndIdleFiles(t *testing.T) {
	dir := tree(t, base())
	file := filepath.Join(dir, "connections/ok.toml")
	if err := os.Chmod(file, 0o640); err != nil {
		t.Fatal(err)
	}
	if err := setEnabled(NewStore(dir), "ok", false); err != nil {
		t.Fatal(err)
	}
	first, err := os.Stat(file)
	if err != nil || first.Mode().Perm() != 0o640 {
		t.Fatalf("mode %v, %v", first.Mode(), err)
	}
	if err := setEnabled(NewStore(dir), "ok", false); err != nil {
		t.Fatal(err)
	}
	if again, err := os.Stat(file); err != nil || !os.SameFile(first, again) {
		t.Errorf("a file that says so already was written again: %v", err)
	}
}

func TestSetEnabledRefuses(t *testing.T) {
	dir := tree(t, with(map[string]string{"connections/torn.toml": "host = x\n", "connections/odd.toml": "enabled = \"yes\"\n"}))
	if err := os.Symlink("ok.toml", filepath.Join(dir, "connections/link.toml")); err != nil {
		t.Fatal(err)
	}
	before := map[string]string{}
	for _, name := range []string{"ok", "torn", "odd"} {
		before[name] = content(t, filepath.Join(dir, "connections", name+".toml"))
	}
	s := NewStore(dir)
	for name, want := range map[string]string{"none": "no such file", "p/none": "no such file", "link": ErrLink.Error(), "torn": "correct the file first", "odd": "neither true nor false",
		"../ok": "", "": "", "a/b/c": "", "/etc/passwd": "", ".ok": ""} {
		if err := setEnabled(s, name, false); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", name, err, want)
		}
	}
	for name, text := range before {
		if got := content(t, filepath.Join(dir, "connections", name+".toml")); got != text {
			t.Errorf("%s was changed to %q", name, got)
		}
	}
}

// At every step a crash leaves the old file or the new one, and nothing else that is taken for a definition.
func TestCrashLeavesOldOrNew(t *testing.T) {
	for _, step := range []string{"write", "sync", "rename"} {
		dir := tree(t, base())
		file := filepath.Join(dir, "connections/ok.toml")
		s := NewStore(dir)
		s.step = func(at string) error {
			if at != step {
				return nil
			}
			if c, _ := Load(dir); names(c) != "ok" || content(t, file) != good {
				t.Errorf("before %s: %s, %q", at, names(c), content(t, file))
			}
			return errors.New("out of power")
		}
		if err := setEnabled(s, "ok", false); err == nil || err.Error() != "out of power" {
			t.Errorf("%s: %v", step, err)
		}
		if got := content(t, file); got != good {
			t.Errorf("%s: the file is %q", step, got)
		}
		if left, _ := os.ReadDir(filepath.Dir(file)); len(left) != 1 {
			t.Errorf("%s: left behind %v", step, left)
		}
	}
}

func TestSomebodyElsesChangeIsNotOverwritten(t *testing.T) {
	dir := tree(t, base())
	s := NewStore(dir)
	edited := good + "port = 2222\n"
	s.step = func(at string) error {
		if at == "rename" {
			put(t, dir, "connections/ok.toml", edited)
		}
		return nil
	}
	if err := setEnabled(s, "ok", false); !errors.Is(err, ErrChanged) {
		t.Errorf("%v, want ErrChanged", err)
	}
	if got := content(t, filepath.Join(dir, "connections/ok.toml")); got != edited {
		t.Errorf("the file is %q", got)
	}
}

func TestFreeNames(t *testing.T) {
	dir := tree(t, map[string]string{"connections/a.toml": good, "connections/p/a.toml": good, "connections/p/b.toml": good})
	c, _ := Load(dir)
	for name, free := range map[string]bool{"a": false, "A": false, "p/a": false, "p/A": false, "P/c": false, "a/x": false, "p": false, "P": false, "b": true, "p/c": true, "q/a": true} {
		if err := c.Free(name); (err == nil) != free || err != nil && !errors.Is(err, ErrNameTaken) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWriteMakesAndRemovesFiles(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "config")
	s, file := NewStore(dir), "connections/p/a.toml"
	if err := s.Write(file, nil, []byte(good)); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(dir, file)); err != nil || info.Mode().Perm() != 0o600 || content(t, filepath.Join(dir, file)) != good {
		t.Errorf("%v, %v", info, err)
	}
	if err := s.Write(file, nil, []byte(good)); !errors.Is(err, ErrChanged) {
		t.Errorf("made again: %v, want ErrChanged", err)
	}
	if err := s.Write("connections/a b.toml", nil, []byte(good)); err == nil {
		t.Error("a bad name was written")
	}
	if err := s.Write(file, []byte(good), nil); err != nil {
		t.Error(err)
	}
	if err := s.Write(file, []byte(good), nil); !errors.Is(err, ErrChanged) {
		t.Errorf("removed again: %v, want ErrChanged", err)
	}
}

func TestManyHandsAtOnce(t *testing.T) {
	dir := tree(t, base())
	s := NewStore(dir)
	var hands sync.WaitGroup
	for i := range 8 {
		hands.Go(func() {
			for range 10 {
				if err := setEnabled(s, "ok", i%2 == 0); err != nil && !errors.Is(err, ErrChanged) {
					t.Error(err)
				}
				if c, findings := Load(dir); names(c) != "ok" || HasErrors(findings) {
					t.Errorf("seen: %s%s", names(c), printed(findings))
				}
			}
		})
	}
	hands.Wait()
	got := content(t, filepath.Join(dir, "connections/ok.toml"))
	if got != good+"enabled = true\n" && got != good+"enabled = false\n" {
		t.Errorf("in the end it is %q", got)
	}
}

func TestRestrict(t *testing.T) {
	c, _ := Load(tree(t, with(map[string]string{
		"variables.toml":         "[variables]\npw = { value = \"x\", secret = true }\nh = \"h\"\nvia = \"${f}\"\nf = { file = \"/f\", secret = false }\ne = { env = \"HOME\" }\n",
		"environments/Test.toml": "[variables]\nh = { command = [\"id\"] }\n",
	})))
	for write, fields := range map[string]string{
		"password": "", `password = "literal"`: "", `password = "${pw}"`: "password", `password = "${via}"`: "password", `password = "${e}"`: "password",
		`password = { file = "/etc/shadow" }`: "password", `password = { command = ["id"] }`: "password", `password = { env = "X" }`: "password", `password = { credential = "x" }`: "password",
		`password = { value = "literal" }`:              "",
		"password\nhost = \"${h}\"":                     "host", // in Test it is a command's
		"password\nprivateKeyFile = \"/k\"":             "privateKeyFile",
		"password\nagent = true":                        "agent",
		"password\nagent = false":                       "",
		"password\nknownHostsFile = \"/k\"":             "knownHostsFile",
		"password\ncertificateFile = \"/k\"":            "certificateFile",
		"password\nagentSocket = \"/k\"":                "agentSocket",
		"password\ncaFile = \"/k\"":                     "caFile",
		"password\nclientCertFile = \"/k\"":             "clientCertFile",
		"password\nclientKeyFile = \"/k\"":              "clientKeyFile",
		"password\nmountPoint = \"/srv/pierfs/x\"":      "",
		"password\nmountPoint = \"/srv/pierfs\"":        "mountPoint",
		"password\nmountPoint = \"/srv/pierfs2/x\"":     "mountPoint",
		"password\nmountPoint = \"/srv/pierfs/../x\"":   "mountPoint",
		"password\n[environments.Test]\nagent = true":   "agent",
		"agent = true\nprivateKeyFile = \"/k\"\nport=7": "agent password privateKeyFile",
	} {
		conn, findings := Parse([]byte(define(write)), "stdin", "x")
		if HasErrors(findings) {
			t.Fatalf("%s:%s", write, printed(findings))
		}
		var got []string
		for _, f := range c.Restrict(conn, "/srv/pierfs") {
			if f.Code != CodeRestricted || f.Severity != Error || f.Hint == "" || f.Line == 0 {
				t.Errorf("%s: %s", write, f)
			}
			got = append(got, f.Field)
		}
		slices.Sort(got)
		if strings.Join(got, " ") != fields {
			t.Errorf("%q: refused %v, want %s", write, got, fields)
		}
	}
}
