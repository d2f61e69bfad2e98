package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pierfs/cmd/internal/control"
	"pierfs/conncfg"
)

const canary = "c4nary-Pa55"

// Row 5: a name is available, taken or invalid, with statuses 0, 1 and 2, without a daemon and without creating anything.
// Holds rows 3, 4 and 5 of the requirements.
func TestNameCheck(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "connections"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "connections", "Production_FTP.toml"), []byte("host = \"x\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := &stand{t: t, run: t.TempDir()}
	want := map[string]int{"Production_FTP": 1, "production_ftp": 1, "Production_FTP/x": 1}
	for _, name := range []string{"Test_X", "Prod_X", "my-ftp-connection", "shop/a.b"} {
		want[name] = 0
	}
	for _, name := range []string{" a", "\ta", "\u00a0a", ".a", "a ", "a/b/c", `a\b`, "a:b", "a*", "a?", `a"b`, "a<b", "a>b", "a|b", "a$b", "a{b", "a}b", "a'b", "a;b", "a\nb", "a\x00b", "..", "ä"} {
		want[name] = 2
	}
	for name, status := range want {
		got, out, errOut := s.hand("", "name", "check", "--config-dir", dir, "--", name)
		word := []string{"available", "taken", "invalid"}[status]
		if got != status || !strings.HasPrefix(out, word) || errOut != "" {
			t.Errorf("%q: %d, %q, %q; want %d", name, got, out, errOut, status)
		}
	}
	if entries, err := os.ReadDir(filepath.Join(dir, "connections")); err != nil || len(entries) != 1 {
		t.Errorf("%d definitions, %v", len(entries), err)
	}
}

// Row 105: a secret is refused as an argument, and travels from a file or from standard input.
func TestSecretsAreNoArguments(t *testing.T) {
	var created control.CreateRequest
	var set control.SetVarRequest
	s := newStand(t, func(s *control.Server) {
		control.Create.Serve(s, func(_ context.Context, q control.CreateRequest) (control.ChangeAnswer, error) {
			created = q
			return control.ChangeAnswer{Revision: 1}, nil
		})
		control.SetVar.Serve(s, func(_ context.Context, q control.SetVarRequest) (control.ChangeAnswer, error) {
			set = q
			return control.ChangeAnswer{Revision: 1}, nil
		})
	})
	for _, args := range [][]string{
		{"create", "a", "--set", "password=" + canary}, {"create", "a", "--set", "Test.password=" + canary}, {"create", "a", "--set", "privateKey=" + canary},
		{"edit", "a", "--set", "viaPassword=" + canary}, {"vars", "set", "x", canary, "--secret"},
	} {
		status, out, errOut := s.hand("", args...)
		if status != 64 || strings.Contains(out+errOut, canary) || errOut == "" {
			t.Errorf("%q: %d, %q", args[:2], status, out+errOut)
		}
	}
	if status, _, errOut := s.hand(canary+"\n", "create", "a", "--set", "host=x", "--set", "Test.port=22", "--password-file", "-", "--disabled"); status != 0 {
		t.Fatal(errOut)
	}
	last := created.Set[len(created.Set)-1]
	if len(created.Set) != 4 || created.Set[1].Environment != "Test" || created.Set[1].Field != "port" || last.Field != "password" || last.Secret.Open() != canary {
		t.Errorf("%+v", created.Set)
	}
	if status, _, errOut := s.hand("", "create", "a", "--set", "password=${shop.password}"); status != 0 || created.Set[0].Value != "${shop.password}" {
		t.Errorf("%d, %s, %+v", status, errOut, created.Set)
	}
	if status, _, errOut := s.hand(canary+"\n", "vars", "set", "x", "--secret", "--value-file", "-", "--env", "Test"); status != 0 || set.Value.Open() != canary || !set.Secret || set.Environment != "Test" {
		t.Errorf("%d, %s, %+v", status, errOut, set)
	}
	if status, _, _ := s.hand("", "vars", "set", "x", "--secret"); status != 64 {
		t.Errorf("without a terminal to ask at: %d", status)
	}
}

// Rows 10, 11, 46: what is deleted or needed by others is named once more; whom it affects has been told before.
func TestDeleteWantsTheNameOnceMore(t *testing.T) {
	var done []string
	impact := []control.Impact{{Affected: conncfg.Affected{Name: "a", Environment: "Test", Change: "removed"}, State: control.StateReady, Dir: "/srv/a", OpenFiles: 2}}
	s := newStand(t, func(s *control.Server) {
		control.Delete.Serve(s, func(_ context.Context, q control.DeleteRequest) (control.ChangeAnswer, error) {
			if !q.DryRun {
				done = append(done, q.Name)
			}
			return control.ChangeAnswer{Impact: impact}, nil
		})
		control.SetVar.Serve(s, func(_ context.Context, q control.SetVarRequest) (control.ChangeAnswer, error) {
			if !q.DryRun {
				done = append(done, q.Name)
			}
			return control.ChangeAnswer{Impact: impact}, nil
		})
		control.Export.Serve(s, func(context.Context, control.ExportRequest) (control.ExportAnswer, error) {
			return control.ExportAnswer{}, control.Errorf(control.Internal, "an export goes only before what is confirmed")
		})
	})
	for _, args := range [][]string{{"delete", "a"}, {"delete", "a", "--yes=b"}, {"vars", "set", "x", "1"}, {"vars", "unset", "x", "--yes=y"}} {
		if status, _, errOut := s.hand("a\n", args...); status != 64 || !strings.Contains(errOut, "--yes=") {
			t.Errorf("%q: %d, %s", args, status, errOut)
		}
	}
	if len(done) > 0 {
		t.Fatalf("done: %q", done)
	}
	if status, out, _ := s.hand("", "delete", "a", "--dry-run"); status != 0 || !strings.Contains(out, "Test/a") || !strings.Contains(out, "2 open files") || len(done) > 0 {
		t.Errorf("%d, %s", status, out)
	}
	for _, args := range [][]string{{"delete", "a", "--yes=a", "--no-backup"}, {"vars", "set", "x", "1", "--yes=x"}} {
		if status, _, errOut := s.hand("", args...); status != 0 {
			t.Errorf("%q: %d, %s", args, status, errOut)
		}
	}
	if strings.Join(done, " ") != "a x" {
		t.Errorf("done: %q", done)
	}
}

// A person reads what changes, whom it affects and that a dry run was one; diff ends with 1 where there is a difference.
func TestChangesAreTold(t *testing.T) {
	answer := control.ChangeAnswer{Changes: []conncfg.Difference{{File: "connections/a.toml", Connection: "a", Environment: "Test", Field: "host", Before: "old", After: "new"}}}
	s := newStand(t, func(s *control.Server) {
		control.Edit.Serve(s, func(_ context.Context, q control.EditRequest) (control.ChangeAnswer, error) {
			a := answer
			if q.Definition.Open() == "same" {
				a.Changes = nil
			}
			if !q.DryRun {
				a.Revision = 7
				a.Apply = &control.ApplyAnswer{Connections: []control.Connection{{Name: "a", Environment: "Test", State: control.StateOffline, Code: control.Unreachable, Reason: "away"}}}
			}
			return a, nil
		})
	})
	status, out, errOut := s.hand("", "edit", "a", "--set", "host=new")
	if status != 69 || !strings.Contains(out, "connections/a.toml [Test]  host  old -> new") || !strings.Contains(out, "revision 7") || !strings.Contains(errOut, "away") {
		t.Errorf("%d\n%s\n%s", status, out, errOut)
	}
	if status, _, _ = s.hand("", "edit", "a", "--set", "host=new", "--offline-ok"); status != 0 {
		t.Errorf("with --offline-ok: %d", status)
	}
	if status, out, _ = s.hand("other", "diff", "a", "-"); status != 1 || !strings.Contains(out, "dry run") {
		t.Errorf("diff: %d, %s", status, out)
	}
	if status, _, _ = s.hand("same", "diff", "a", "-"); status != 0 {
		t.Errorf("diff of the same: %d", status)
	}
	if status, _, _ = s.hand("", "edit", "a"); status != 64 {
		t.Errorf("nothing to change, nobody at a terminal: %d", status)
	}
	_, out, _ = s.hand("", "edit", "a", "--set", "host=new", "--dry-run", "--json")
	var a control.ChangeAnswer
	if err := json.Unmarshal([]byte(out), &a); err != nil || len(a.Changes) != 1 || a.Apply != nil {
		t.Errorf("%s, %v", out, err)
	}
}
