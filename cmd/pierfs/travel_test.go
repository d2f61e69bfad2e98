package main

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pierfs/cmd/internal/control"
	"pierfs/conncfg"
	"pierfs/conncfg/archive"
)

// Rows 84, 85, 95: an export is a ZIP with the name of the pattern, unless another one is given, and replaces nothing by itself.
func TestExportWritesAZip(t *testing.T) {
	s := newStand(t, func(s *control.Server) {
		control.Export.Serve(s, func(_ context.Context, q control.ExportRequest) (control.ExportAnswer, error) {
			c, _ := conncfg.Parse([]byte("protocol = \"SFTP\"\nhost = \"h\"\n"), "x", "p/a")
			text, err := c.Portable()
			return control.ExportAnswer{Connections: []control.Exported{{Name: "p/a", Definition: string(text)}}, Dependencies: []conncfg.Dependency{}}, err
		})
	})
	t.Chdir(t.TempDir())
	before := archive.FileName(time.Now(), []string{"p/a"})
	status, out, errOut := s.hand("", "export", "p/a")
	name := strings.TrimSpace(strings.TrimPrefix(out, "1 connection in "))
	if after := archive.FileName(time.Now(), []string{"p/a"}); status != 0 || name != before && name != after {
		t.Fatalf("%d, %q, %s; want %q", status, out, errOut, before)
	}
	first, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if status, _, errOut = s.hand("", "export", "p/a"); status != 73 {
		t.Errorf("over the same file: %d, %s", status, errOut)
	}
	if status, out, _ = s.hand("", "export", "p/a", "-o", "-"); status != 0 || out != string(first) {
		t.Errorf("the same definition is not the same bytes: %d", status)
	}
}

// Rows 88, 89, 93: a hostile archive ends with 65 before the daemon hears of it; a refused check with its own status; what must be given
// again is never a bare success.
func TestImportTellsWhatIsLeft(t *testing.T) {
	var got []control.Imported
	var asked control.ImportRequest
	answer := control.ImportAnswer{}
	s := newStand(t, func(s *control.Server) {
		control.Import.Serve(s, func(_ context.Context, q control.ImportRequest, body io.Reader) (control.ImportAnswer, error) {
			asked = q
			return answer, json.NewDecoder(body).Decode(&got)
		})
	})
	file := filepath.Join(t.TempDir(), "in.json")
	if err := os.WriteFile(file, []byte(`{"name":"a","host":"h","protocol":"SFTP","username":"u","password":null,"workingDir":"/","deployToWorker":true}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if status, _, errOut := s.hand("PK\x03\x04", "import", "-"); status != 65 || !strings.Contains(errOut, "refused") || got != nil {
		t.Errorf("a hostile one: %d, %s", status, errOut)
	}
	four := func(last bool) []control.Check {
		return []control.Check{{Check: "format", OK: true}, {Check: "conflict", OK: true}, {Check: "dependencies", OK: true}, {Check: "definitions", OK: last, Code: control.ConfigInvalid, Detail: []string{"why not"}}}
	}
	answer = control.ImportAnswer{Checks: four(true), Change: control.ChangeAnswer{Revision: 3}}
	status, out, errOut := s.hand("", "import", file, "--map-env", "Test=Production", "--rename", "b", "--exclude-missing")
	if status != 0 || !strings.Contains(out, "pierfs apply") || !strings.Contains(errOut, "deployToWorker") {
		t.Errorf("%d, %s, %s", status, out, errOut)
	}
	if len(got) != 1 || got[0].Name != "a" || len(got[0].Blanks) != 1 || asked.MapEnv["Test"] != "Production" || asked.Rename != "b" || !asked.ExcludeMissing {
		t.Errorf("%+v, %+v", got, asked)
	}
	answer.Unresolved = []conncfg.Blank{{Connection: "a", Field: "password", Why: "secrets do not travel"}}
	if status, out, errOut = s.hand("", "import", file); status != 78 || !strings.Contains(errOut, "password: secrets do not travel") || !strings.Contains(out, "not complete") {
		t.Errorf("%d, %s, %s", status, out, errOut)
	}
	for code, want := range map[control.Code]int{control.Exists: 73, control.NotFound: 66} {
		answer = control.ImportAnswer{Checks: []control.Check{{Check: "format", OK: true}, {Check: "conflict", Code: code, Detail: []string{"why not"}, Hint: "a way out"}, {Check: "dependencies", OK: true}}}
		if status, _, errOut = s.hand("", "import", file); status != want || !strings.Contains(errOut, "why not") || !strings.Contains(errOut, "a way out") || !strings.Contains(errOut, "nothing was imported") {
			t.Errorf("%s: %d, %s", code, status, errOut)
		}
	}
}

// Row 13: before a definition is deleted it is exported into the working directory, under a name that is free; where that fails nothing is
// deleted, unless --no-backup is given.
func TestDeleteKeepsAnExport(t *testing.T) {
	deleted := 0
	usable := true
	s := newStand(t, func(s *control.Server) {
		control.Export.Serve(s, func(_ context.Context, q control.ExportRequest) (control.ExportAnswer, error) {
			if !usable {
				return control.ExportAnswer{}, control.Errorf(control.ConfigInvalid, "the definition cannot be used")
			}
			c, _ := conncfg.Parse([]byte("protocol = \"SFTP\"\nhost = \"h\"\n"), "x", q.Names[0])
			text, err := c.Portable()
			return control.ExportAnswer{Connections: []control.Exported{{Name: c.Name, Definition: string(text)}}, Dependencies: []conncfg.Dependency{}}, err
		})
		control.Delete.Serve(s, func(_ context.Context, q control.DeleteRequest) (control.ChangeAnswer, error) {
			if !q.DryRun {
				deleted++
			}
			return control.ChangeAnswer{}, nil
		})
	})
	t.Chdir(t.TempDir())
	for i := range 2 {
		if status, _, errOut := s.hand("", "delete", "a", "--yes=a"); status != 0 || !strings.Contains(errOut, "-ftp-integration-a-export") {
			t.Errorf("%d, %s", status, errOut)
		}
		kept, err := filepath.Glob("*-ftp-integration-a-export*.zip")
		if err != nil || len(kept) != i+1 {
			t.Fatalf("%q, %v", kept, err)
		}
		file, err := os.Open(kept[i])
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		info, err := file.Stat()
		if err != nil {
			t.Fatal(err)
		}
		if p, err := archive.Read(file, info.Size()); err != nil || len(p.Connections) != 1 || p.Connections[0].Name != "a" {
			t.Errorf("%s holds %+v, %v", kept[i], p, err)
		}
	}
	usable = false
	if status, _, errOut := s.hand("", "delete", "a", "--yes=a"); status != 78 || deleted != 2 || !strings.Contains(errOut, "--no-backup") {
		t.Errorf("without an export: %d, %d deleted, %s", status, deleted, errOut)
	}
	if status, _, errOut := s.hand("", "delete", "a", "--yes=a", "--no-backup"); status != 0 || deleted != 3 {
		t.Errorf("%d, %d deleted, %s", status, deleted, errOut)
	}
}
