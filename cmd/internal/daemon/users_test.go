package daemon

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"pierfs/cmd/internal/control"
)

// Row 11: before a connection is taken away it is told which processes have files open in its mount, or stand there, and which units want
// it mounted.
// Holds rows 11 and 19 of the requirements.
func TestUsersOfAMountAreTold(t *testing.T) {
	s := newStage(t)
	s.define("a")
	s.start()
	s.wantState("a", control.StateReady)
	dir, units := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "bash", "-c", `exec 7<f; echo here; read`)
	cmd.Dir = dir
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { in.Close(); _ = cmd.Wait() }() // it ends with its input
	if _, err := out.Read(make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	paths := map[string]bool{}
	for _, u := range usersOf([]string{dir})[dir] {
		if u.PID != cmd.Process.Pid || u.Exe == "" || int(u.UID) != os.Geteuid() {
			t.Errorf("%+v", u)
		}
		paths[u.Path] = true
	}
	if !paths[dir] || !paths[filepath.Join(dir, "f")] {
		t.Errorf("in use are %v", paths)
	}
	if err := os.WriteFile(filepath.Join(units, "batch.service"), []byte("[Unit]\nRequiresMountsFor=/var "+s.dir("a")+"/in\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.daemon.unitDirs = []string{units}
	a, err := control.Delete.Call(t.Context(), s.client, control.DeleteRequest{Name: "a", ChangeOptions: control.ChangeOptions{DryRun: true}})
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range a.Impact {
		if i.Dir == s.dir("a") && (len(i.Units) != 1 || i.Units[0] != "batch.service") {
			t.Errorf("%+v", i)
		}
	}
}
