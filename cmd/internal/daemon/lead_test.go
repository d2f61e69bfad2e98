package daemon

import (
	"path/filepath"
	"testing"

	"pierfs/cmd/internal/control"
)

// follows defines a connection at a mountPoint, with another server in Production than in Test.
func (s *stage) follows(name, where string, more ...string) {
	s.define(name, append(more, `mountPoint = "`+where+`"`, "[environments.Production]", `host = "prod.example"`)...)
}

func (s *stage) use(o control.ChangeOptions, names ...string) (control.ChangeAnswer, error) {
	return control.EnvUse.Call(s.t.Context(), s.client, control.EnvRequest{Names: names, ChangeOptions: o})
}

// Rows 18, 47: the mount at a mountPoint follows the active environment without being taken away, also while programs have files open
// there; what is mounted below its environment's name belongs to that, and is not taken from under anybody.
func TestEnvUseLeadsMountsElsewhere(t *testing.T) {
	s := newStage(t)
	s.write("environments/Production.toml", "[variables]")
	where := filepath.Join(filepath.Dir(s.dirs.MountRoot), "stable")
	s.follows("a", where)
	s.define("b")
	s.start()
	s.wantState("a", control.StateReady)
	s.mu.Lock()
	m := s.mounts[where]
	m.open, m.gone = 2, make(chan struct{})
	s.mu.Unlock()
	s.fake("b").open = 1
	_, err := s.use(control.ChangeOptions{}, "Production")
	wantCode(t, "env use while files are open in a directory of the environment", err, control.Busy)
	s.fake("b").open = 0
	if _, err := s.use(control.ChangeOptions{}, "Production"); err != nil {
		t.Fatal(err)
	}
	c := s.list()["Production/a"]
	if c.State != control.StateReady || c.Dir != where || c.Endpoint != "sftp://batch@prod.example:22/data" || m.led.Load() != 1 {
		t.Errorf("led %d times: %+v", m.led.Load(), c)
	}
	select {
	case <-m.done:
		t.Error("the mount was taken away")
	default:
	}
	if _, there := s.list()["Test/a"]; there {
		t.Error("the connection is still listed in the environment that was left")
	}
	if n := len(s.daemon.formerMounts()); n != 1 {
		t.Errorf("%d mounts live on for what is open on them, want 1", n)
	}
	// Back, while the files of the first time are still open.
	if _, err := s.use(control.ChangeOptions{}, "Test"); err != nil {
		t.Fatal(err)
	}
	s.wantState("a", control.StateReady)
	close(m.gone)
}

// Rows 18, 47: what is owed to a server is not left behind unless somebody says so, and then it stays owed to that server.
// Holds rows 18, 47 and 83 of the requirements.
func TestEnvUseSparesWhatIsOwed(t *testing.T) {
	s := newStage(t)
	s.write("environments/Production.toml", "[variables]")
	where := filepath.Join(filepath.Dir(s.dirs.MountRoot), "stable")
	s.follows("a", where, inBackground, `drainTimeout = "100ms"`)
	s.start()
	mend := s.refuseUploads()
	s.put("a", "f", "precious")
	before := s.everything()
	_, err := s.use(control.ChangeOptions{}, "Production")
	wantCode(t, "env use while something is owed", err, control.StillOwed)
	_, err = control.Edit.Call(t.Context(), s.client, control.EditRequest{Name: "a", Set: []control.Setting{{Field: "host", Value: "other.example"}}})
	wantCode(t, "edit of the host while something is owed", err, control.StillOwed)
	if s.everything() != before {
		t.Error("a change that was refused is written")
	}
	if _, err := s.use(control.ChangeOptions{Keep: true}, "Production"); err != nil {
		t.Fatal(err)
	}
	s.awaitQueue("unserved", func(all []control.Due) bool {
		return len(all) == 1 && all[0].State == control.DueUnserved && all[0].Environment == "Test"
	})
	mend()
	if names, err := s.server("a").Names(""); err != nil || len(names) != 0 {
		t.Errorf("the server of Production has %q, %v", names, err)
	}
	if _, err := s.use(control.ChangeOptions{}, "Test"); err != nil {
		t.Fatal(err)
	}
	s.awaitQueue("sent", func(all []control.Due) bool { return len(all) == 0 })
	if got, err := s.server("a").ReadFile("f"); err != nil || string(got) != "precious" {
		t.Errorf("the server has %q, %v", got, err)
	}
}
