package registry

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pierfs/conncfg"
)

const (
	canary     = "c4nary-Pa55"
	definition = "# ours\nprotocol = \"SFTP\"\nhost = \"a.example\"\nusername = \"u\"\npassword = \"" + canary + "\"\nworkingDir = \"/in\"\n"
)

type stage struct {
	*testing.T
	dir, config string
	*Registry
}

func newStage(t *testing.T) *stage {
	t.Helper()
	s := &stage{T: t, dir: filepath.Join(t.TempDir(), "registry"), config: filepath.Join(t.TempDir(), "etc")}
	s.write("connections/a.toml", definition)
	s.open()
	return s
}

func (s *stage) open() {
	s.Helper()
	r, err := Open(s.dir, s.config)
	if err != nil {
		s.Fatal(err)
	}
	s.Registry = r
}

func (s *stage) write(name, text string) {
	s.Helper()
	file := filepath.Join(s.config, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte(text), 0o600)); err != nil {
		s.Fatal(err)
	}
}

func (s *stage) read(name string) string {
	s.Helper()
	text, err := os.ReadFile(filepath.Join(s.config, name))
	if err != nil {
		s.Fatal(err)
	}
	return string(text)
}

func (s *stage) look() *Entry {
	s.Helper()
	e, err := s.Observe("by hand", "", nil)
	if err != nil {
		s.Fatal(err)
	}
	return e
}

func (s *stage) change(files map[string]string) (*Entry, error) {
	c := Change{Who: NewAuthor(0, int32(os.Getpid())), Verb: "edit", Subject: "a", Files: map[string][]byte{}}
	for name, text := range files {
		c.Files[name] = nil
		if text != "" {
			c.Files[name] = []byte(text)
		}
	}
	return s.Change(c)
}

func (s *stage) verdict() Verdict {
	s.Helper()
	v, err := s.Verify("")
	if err != nil {
		s.Fatal(err)
	}
	return v
}

// Row 103: the log tells who changed what and when, before and after, of changes by command and by hand alike, and holds no secret.
func TestEveryChangeIsEntered(t *testing.T) {
	s := newStage(t)
	if e := s.look(); e == nil || e.Verb != "found" || len(e.Files) != 1 {
		t.Fatalf("the first look: %+v", e)
	}
	if e := s.look(); e != nil {
		t.Errorf("nothing changed, and it entered %+v", e)
	}
	e, err := s.change(map[string]string{"connections/a.toml": strings.Replace(definition, "a.example", "b.example", 1)})
	if err != nil || e.Who.UID != 0 || e.Who.User != "root" || e.Who.Exe == "" || e.Seq != 2 || e.Time.IsZero() {
		t.Fatalf("%+v, %v", e, err)
	}
	if len(e.Changes) != 1 || e.Changes[0].Field != "host" || e.Changes[0].Before != "a.example" || e.Changes[0].After != "b.example" {
		t.Errorf("changes: %+v", e.Changes)
	}
	if !strings.HasPrefix(s.read("connections/a.toml"), "# ours\n") {
		t.Errorf("comments are gone: %s", s.read("connections/a.toml"))
	}
	s.write("connections/a.toml", strings.Replace(definition, canary, canary+"2", 1))
	if e := s.look(); e == nil || e.Verb != "by hand" || len(e.Changes) != 2 {
		t.Errorf("a change by hand: %+v", e)
	}
	err = filepath.WalkDir(s.dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(name)
		if bytes.Contains(text, []byte(canary)) {
			t.Errorf("%s holds the password", name)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if v := s.verdict(); v.Entries != 3 || v.Broken != "" {
		t.Errorf("%+v", v)
	}
	content, err := s.Content("connections/a.toml", 1)
	if err != nil || string(content) != definition {
		t.Errorf("the first content: %q, %v", content, err)
	}
	if _, err := s.Content("connections/a.toml", 99); !errors.Is(err, ErrNoRevision) {
		t.Errorf("no such revision: %v", err)
	}
	s.open()
	if e := s.look(); e != nil {
		t.Errorf("a new daemon finds changes: %+v", e)
	}
	if e, err := s.change(map[string]string{"connections/a.toml": ""}); err != nil || e.Seq != 4 {
		t.Errorf("%+v, %v", e, err)
	}
}

// Row 103: an entry that is altered, taken out or cut off is found.
func TestVerifyFindsWhatWasDoneToTheLog(t *testing.T) {
	s := newStage(t)
	s.look()
	for _, host := range []string{"b", "c", "d"} {
		if _, err := s.change(map[string]string{"connections/a.toml": strings.Replace(definition, "a.example", host, 1)}); err != nil {
			t.Fatal(err)
		}
	}
	whole, err := os.ReadFile(s.log())
	if err != nil {
		t.Fatal(err)
	}
	_, head := s.Head()
	lines := bytes.SplitAfter(whole, []byte("\n"))
	for what, log := range map[string][]byte{
		"altered":   bytes.Replace(whole, []byte(`"verb":"edit"`), []byte(`"verb":"copy"`), 1),
		"taken out": bytes.Join([][]byte{lines[0], lines[2], lines[3]}, nil),
		"swapped":   bytes.Join([][]byte{lines[0], lines[2], lines[1], lines[3]}, nil),
		"cut off":   bytes.Join(lines[:3], nil),
		"no JSON":   append([]byte("x"), whole...),
		"emptied":   {},
	} {
		if err := os.WriteFile(s.log(), log, 0o600); err != nil {
			t.Fatal(err)
		}
		if v := s.verdict(); v.Broken == "" {
			t.Errorf("%s: %+v", what, v)
		}
	}
	if err := os.WriteFile(s.log(), bytes.Join(lines[:3], nil), 0o600); err != nil {
		t.Fatal(err)
	}
	s.open() // a daemon that has not written the end itself needs the hash that was kept elsewhere
	if v, err := s.Verify(head); err != nil || v.Broken == "" {
		t.Errorf("cut off before the start: %+v, %v", v, err)
	}
}

// A change of several files happens as a whole, wherever it is cut.
func TestCutChangeIsFinishedOrUndone(t *testing.T) {
	next := map[string]string{"connections/a.toml": "", "connections/b.toml": definition, "variables.toml": "x = 1\n"}
	for _, step := range []string{"write connections/a.toml", "write connections/b.toml", "write variables.toml", "enter"} {
		s := newStage(t)
		s.look()
		type cut struct{}
		s.step = func(at string) error {
			if at == step {
				panic(cut{})
			}
			return nil
		}
		func() {
			defer func() {
				if _, ok := recover().(cut); !ok {
					t.Fatalf("it was not cut at %s", step)
				}
			}()
			_, _ = s.change(next)
		}()
		s.open()
		if s.read("connections/b.toml") != definition || s.read("variables.toml") != "x = 1\n" {
			t.Errorf("cut at %s: not finished", step)
		}
		if _, err := os.Stat(filepath.Join(s.config, "connections/a.toml")); !os.IsNotExist(err) {
			t.Errorf("cut at %s: what was removed is there: %v", step, err)
		}
		if v := s.verdict(); v.Entries != 2 || v.Broken != "" {
			t.Errorf("cut at %s: %+v", step, v)
		}
		if e := s.look(); e != nil {
			t.Errorf("cut at %s: something is left to observe: %+v", step, e)
		}

		f := newStage(t)
		f.look()
		f.step = func(at string) error {
			if at == step && at != "enter" {
				return errors.New("no space")
			}
			return nil
		}
		if _, err := f.change(next); (err == nil) != (step == "enter") {
			t.Errorf("failed at %s: %v", step, err)
		}
		if step == "enter" {
			continue
		}
		if f.read("connections/a.toml") != definition {
			t.Errorf("failed at %s: the first file is gone", step)
		}
		if v := f.verdict(); v.Entries != 1 {
			t.Errorf("failed at %s: %+v", step, v)
		}
		if e := f.look(); e != nil {
			t.Errorf("failed at %s: something is left: %+v", step, e.Changes)
		}
	}
}

// A line that a crash has cut is no entry, and the log goes on behind the last whole one.
func TestTornTailIsCutOff(t *testing.T) {
	s := newStage(t)
	s.look()
	f, err := os.OpenFile(s.log(), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteString(`{"seq":2,"ti`)
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	s.open()
	if _, err := s.change(map[string]string{"variables.toml": "x = 1\n"}); err != nil {
		t.Fatal(err)
	}
	if v := s.verdict(); v.Entries != 2 || v.Broken != "" {
		t.Errorf("%+v", v)
	}
}

func TestOnlyFilesOfAConfigurationAreWritten(t *testing.T) {
	s := newStage(t)
	for _, name := range []string{"../x.toml", "connections/../../x.toml", "x.toml", "connections/a/b/c.toml", "pierfs.key", "/etc/passwd", "connections/.a.toml"} {
		if _, err := s.change(map[string]string{name: "x = 1\n"}); err == nil {
			t.Errorf("%q was written", name)
		}
	}
	if err := os.Symlink("/etc/hostname", filepath.Join(s.config, "variables.toml")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.change(map[string]string{"variables.toml": "x = 1\n"}); !errors.Is(err, conncfg.ErrChanged) && !errors.Is(err, conncfg.ErrLink) {
		t.Errorf("through a link: %v", err)
	}
}
