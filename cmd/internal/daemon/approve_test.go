package daemon

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pierfs/cmd/internal/control"
)

const twoPersons = `activeEnvironments = ["Test"]
[roles]
admin = ["4803"]
approver = ["4803", "4806"]
`

// waiting returns what waits for approval.
func (s *stage) waiting() []control.Proposal {
	s.t.Helper()
	a, err := control.Pending.Call(s.t.Context(), s.client, control.PendingRequest{})
	if err != nil {
		s.t.Fatal(err)
	}
	return a.Pending
}

// onlyWaiting returns the one change that waits.
func (s *stage) onlyWaiting() control.Proposal {
	s.t.Helper()
	all := s.waiting()
	if len(all) != 1 {
		s.t.Fatalf("%d changes wait, want 1: %+v\n%s", len(all), all, s.log)
	}
	return all[0]
}

// Row 104: a change of a protected connection waits for another person, whoever asks; it is in force when he has approved it, and the log
// has both.
func TestProtectedWaitsForASecondPerson(t *testing.T) {
	s := newStage(t)
	s.write("pierfs.toml", twoPersons)
	s.define("a", "protected = true")
	s.define("b")
	s.start()
	s.opened()
	const admin, approver = 4803, 4806
	before := s.everything()
	for what, call := range map[string][2]string{
		"edit": {"edit", `{"name":"a","set":[{"field":"host","value":"other.example"}],"reason":"moved"}`}, "disable": {"enable", `{"name":"a"}`},
		"delete": {"delete", `{"name":"a"}`}, "the protection": {"edit", `{"name":"a","set":[{"field":"protected","unset":true}]}`},
		"a new one": {"create", `{"name":"c","definition":"protocol=\"SFTP\"\nhost=\"h\"\nusername=\"u\"\nworkingDir=\"/\"\nprotected=true\n"}`},
	} {
		if got := s.as(admin, 1, call[0], call[1]); !strings.Contains(got, `"pending":"`) || s.everything() != before {
			t.Errorf("%s: %s", what, got)
		}
		p := s.onlyWaiting()
		if p.UID != admin || len(p.Protects) == 0 || len(p.Changes) == 0 {
			t.Errorf("%s: %+v", what, p)
		}
		if got := s.as(admin, 1, "reject", `{"id":"`+p.ID+`"}`); strings.Contains(got, "error") { // his own
			t.Errorf("%s: rejected by who wants it: %s", what, got)
		}
	}
	s.as(admin, 1, "edit", `{"name":"a","set":[{"field":"host","value":"other.example"}],"reason":"moved"}`)
	p := s.onlyWaiting()
	body := `{"id":"` + p.ID + `"}`
	if got := s.as(admin, 1, "approve", body); !strings.Contains(got, "second person") {
		t.Errorf("approved by who wants it: %s", got)
	}
	if got := s.as(4809, 1, "approve", body); !strings.Contains(got, "has not the role approver") {
		t.Errorf("approved by somebody: %s", got)
	}
	if s.everything() != before || !strings.Contains(s.wantState("a", control.StateReady).Endpoint, "files.example") {
		t.Error("a change is in force that nobody has approved")
	}
	var a control.ChangeAnswer
	if got := s.as(approver, 1, "approve", body); json.Unmarshal([]byte(got), &a) != nil || a.Revision == 0 || a.Apply == nil {
		t.Errorf("approve: %s", got)
	}
	if c := s.wantState("a", control.StateReady); !strings.Contains(c.Endpoint, "other.example") || len(s.waiting()) != 0 {
		t.Errorf("%+v", c)
	}
	h, err := control.History.Call(t.Context(), s.client, control.HistoryRequest{Subject: "a", Last: 1})
	if err != nil || h.Revisions[0].UID != admin || h.Revisions[0].ApproverUID == nil || *h.Revisions[0].ApproverUID != approver || h.Revisions[0].Reason != "moved" {
		t.Errorf("the log has %+v, %v", h.Revisions, err)
	}
	if v, err := control.Verify.Call(t.Context(), s.client, control.VerifyRequest{}); err != nil || !v.OK {
		t.Errorf("%+v, %v", v, err)
	}
	if got := s.as(admin, 1, "edit", `{"name":"b","set":[{"field":"host","value":"other.example"}]}`); strings.Contains(got, "pending") || strings.Contains(got, "error") {
		t.Errorf("what is not protected: %s", got)
	}
}

// Row 104: a file that is edited by hand waits as well: what it held before is in force, also after the daemon has started anew, until
// somebody else than its owner approves; rejected it is put back. What is not protected counts at once.
func TestProtectedFileWaitsToo(t *testing.T) {
	s := newStage(t)
	s.write("pierfs.toml", twoPersons)
	s.define("a", "protected = true")
	s.define("b")
	s.start()
	s.opened()
	const approver = 4806
	edited := func(host string) {
		file := filepath.Join(s.dirs.Config, "connections/a.toml")
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		s.write("connections/a.toml", strings.Replace(strings.TrimSuffix(string(text), "\n"), "files.example", host, 1))
	}
	original := s.everything()
	edited("evil.example")
	s.define("b", `port = 2222`)
	s.apply()
	p := s.onlyWaiting()
	status, err := control.Status.Call(t.Context(), s.client, control.StatusRequest{})
	if err != nil || status.Pending != 1 || p.UID != uint32(os.Geteuid()) || p.Verb != "by hand" || p.Changes[0].After != "evil.example" {
		t.Errorf("status tells %d, %v; %+v", status.Pending, err, p)
	}
	held := func() {
		t.Helper()
		if c := s.wantState("a", control.StateReady); !strings.Contains(c.Endpoint, "files.example") {
			t.Errorf("in force is %s", c.Endpoint)
		}
	}
	held()
	if c := s.list()["Test/b"]; !strings.Contains(c.Endpoint, "2222") {
		t.Errorf("what is not protected waits: %+v", c)
	}
	_, err = control.Edit.Call(t.Context(), s.client, control.EditRequest{Name: "a", Set: []control.Setting{{Field: "description", Value: "x"}}})
	wantCode(t, "edit of a file that waits", err, "")
	for _, p := range s.waiting() {
		if p.Verb == "edit" {
			s.as(approver, 1, "reject", `{"id":"`+p.ID+`"}`)
		}
	}
	s.client.Close()
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	for len(s.told) > 0 {
		<-s.told // of the first daemon
	}
	s.start()
	held()
	p = s.onlyWaiting()
	_, err = control.Approve.Call(t.Context(), s.client, control.ApproveRequest{ID: p.ID})
	wantCode(t, "approved by the file's owner", err, control.NotAllowed)
	if got := s.as(approver, 1, "reject", `{"id":"`+p.ID+`"}`); strings.Contains(got, "error") {
		t.Error(got)
	}
	s.apply()
	held()
	if now := s.everything(); !strings.Contains(now, "files.example") || strings.Contains(now, "evil.example") || len(s.waiting()) != 0 {
		t.Errorf("rejected, and the file is\n%s\nit was\n%s", now, original)
	}
	edited("good.example")
	s.apply()
	held()
	if got := s.as(approver, 1, "approve", `{"id":"`+s.onlyWaiting().ID+`"}`); strings.Contains(got, `"error"`) {
		t.Error(got)
	}
	if c := s.wantState("a", control.StateReady); !strings.Contains(c.Endpoint, "good.example") || len(s.waiting()) != 0 {
		t.Errorf("approved, and in force is %s", c.Endpoint)
	}
	edited("files.example") // there is no such text any more: nothing changes, and nothing waits
	s.apply()
	if n := len(s.waiting()); n != 0 {
		t.Errorf("%d changes wait", n)
	}
}

// Row 104: in a protected environment everything waits that means something there, and nothing else.
func TestProtectedEnvironment(t *testing.T) {
	s := newStage(t)
	s.write("pierfs.toml", twoPersons)
	s.write("environments/Production.toml", "protected = true\n[variables]\nh = \"prod.example\"")
	s.define("a", "[environments.Production]", `host = "${h}"`)
	s.start()
	for what, c := range map[string]struct {
		call  func() (control.ChangeAnswer, error)
		waits bool
	}{
		"env use": {func() (control.ChangeAnswer, error) { return s.use(control.ChangeOptions{}, "Production") }, true},
		"a variable": {func() (control.ChangeAnswer, error) {
			return control.SetVar.Call(t.Context(), s.client, control.SetVarRequest{Name: "h", Environment: "Production", Value: control.Seal("x.example")})
		}, true},
		"its field": {func() (control.ChangeAnswer, error) {
			return control.Edit.Call(t.Context(), s.client, control.EditRequest{Name: "a", Set: []control.Setting{{Environment: "Production", Field: "port", Value: "2222"}}})
		}, true},
		"a field of another environment": {func() (control.ChangeAnswer, error) {
			return control.Edit.Call(t.Context(), s.client, control.EditRequest{Name: "a", Set: []control.Setting{{Environment: "Test", Field: "port", Value: "2222"}}})
		}, false},
	} {
		before := s.everything()
		a, err := c.call()
		if err != nil || (a.Pending != "") != c.waits || (s.everything() == before) != c.waits {
			t.Errorf("%s: pending %q, %v; want it to wait: %v", what, a.Pending, err, c.waits)
		}
	}
}

// Rows 102, 45: who may change definitions of a project alone cannot have the daemon run programs or read files, and what stands in a file
// that others can write cannot either; a password in a text that is sent is stored encrypted.
func TestSourcesAreForAdminsAlone(t *testing.T) {
	s := newStage(t)
	s.write("pierfs.toml", `activeEnvironments = ["Test"]`+roles)
	s.define("shop/one")
	s.define("theirs")
	s.start()
	s.opened()
	const shopAdmin = 4805
	for _, field := range []string{`{"field":"privateKeyFile","value":"/etc/shadow"}`, `{"field":"knownHostsFile","value":"/etc/shadow"}`, `{"field":"agent","value":"true"}`,
		`{"field":"mountPoint","value":"/srv/elsewhere"}`} {
		if got := s.as(shopAdmin, 1, "edit", `{"name":"shop/one","set":[`+field+`]}`); !strings.Contains(got, "NOT_ALLOWED") || !strings.Contains(got, "admin of everything") {
			t.Errorf("%s: %s", field, got)
		}
	}
	text := `protocol = \"SFTP\"\nhost = \"h\"\nusername = \"u\"\nworkingDir = \"/\"\n`
	if got := s.as(shopAdmin, 1, "create", `{"name":"shop/two","definition":"`+text+`password = { command = [\"id\"] }\n"}`); !strings.Contains(got, "NOT_ALLOWED") {
		t.Errorf("a command: %s", got)
	}
	if got := s.as(shopAdmin, 1, "create", `{"name":"shop/two","definition":"# kept\n`+text+`password = \"`+canary+`\" # ours\n"}`); strings.Contains(got, `"error"`) {
		t.Errorf("a definition like any other: %s", got)
	}
	if text, err := os.ReadFile(filepath.Join(s.dirs.Config, "connections/shop/two.toml")); err != nil || strings.Contains(string(text), canary) || !strings.Contains(string(text), "# kept") {
		t.Errorf("stored is %s, %v", text, err)
	}
	s.define("theirs", `privateKeyFile = "/etc/shadow"`, `[environments.Production]`, `password = { command = ["id"] }`)
	if err := os.Chown(filepath.Join(s.dirs.Config, "connections/theirs.toml"), 4801, 4801); err != nil {
		t.Fatal(err)
	}
	a := s.apply()
	found := ""
	for _, f := range a.Findings {
		if f.Code == "OWNER" {
			found += f.Environment + " " + f.Field + " " + f.Value + ";"
		}
	}
	if !strings.Contains(found, " privateKeyFile /etc/shadow;") || !strings.Contains(found, "Production password ;") {
		t.Errorf("a file of somebody else: %q", found)
	}
}

// Row 12: another definition takes the place of one that goes, in one change.
func TestReplaceTakesThePlace(t *testing.T) {
	s := newStage(t)
	where := filepath.Join(filepath.Dir(s.dirs.MountRoot), "stable")
	s.define("old", `mountPoint = "`+where+`"`)
	s.define("new")
	s.start()
	a, err := control.Replace.Call(t.Context(), s.client, control.ReplaceRequest{Name: "old", To: "new", ChangeOptions: control.ChangeOptions{DryRun: true}})
	if err != nil || a.Revision != 0 || len(a.Impact) == 0 {
		t.Fatalf("%+v, %v", a, err)
	}
	if a, err = control.Replace.Call(t.Context(), s.client, control.ReplaceRequest{Name: "old", To: "new"}); err != nil || a.Revision == 0 {
		t.Fatalf("%+v, %v", a, err)
	}
	if c := s.wantState("new", control.StateReady); c.Dir != where || len(s.list()) != 1 {
		t.Errorf("%+v", s.list())
	}
	_, err = control.Replace.Call(t.Context(), s.client, control.ReplaceRequest{Name: "new", To: "none"})
	wantCode(t, "replace by what is not there", err, control.UnknownConnection)
}

// Row 103: whom this machine believes is in the log of changes too, with who has said so.
func TestTrustIsInTheLog(t *testing.T) {
	s := newStage(t)
	s.define("a")
	s.start()
	if _, err := control.Trust.Call(t.Context(), s.client, control.TrustRequest{Name: "a", Fingerprint: fingerprint}); err != nil {
		t.Fatal(err)
	}
	h, err := control.History.Call(t.Context(), s.client, control.HistoryRequest{Last: 1})
	if err != nil || len(h.Revisions) != 1 || h.Revisions[0].Verb != "trust" || int(h.Revisions[0].PID) != os.Getpid() || h.Revisions[0].Changes[0].After != fingerprint {
		t.Errorf("%+v, %v", h, err)
	}
	if v, err := control.Verify.Call(t.Context(), s.client, control.VerifyRequest{}); err != nil || !v.OK {
		t.Errorf("%+v, %v", v, err)
	}
}

// Rows 39, 45: an environment is made of a text as well, but for secrets, which no text brings into the open.
func TestEnvironmentOfAText(t *testing.T) {
	s := newStage(t)
	s.start()
	before := s.everything()
	make := func(text string) error {
		_, err := control.EnvAdd.Call(t.Context(), s.client, control.EnvRequest{Names: []string{"Stage"}, Definition: control.Seal(text)})
		return err
	}
	wantCode(t, "a secret in the text", make("[secrets]\npw = \"x\"\n"), control.Usage)
	wantCode(t, "a policy that is none", make("[policy]\nrequireTLs = true\n"), control.ConfigInvalid)
	if s.everything() != before {
		t.Error("what was refused is written")
	}
	if err := make("# ours\n[variables]\nh = \"stage.example\"\n[policy]\nreadOnly = true\n"); err != nil || !strings.Contains(s.everything(), "# ours") {
		t.Errorf("%v\n%s", err, s.everything())
	}
}

// Row 19: what would be taken away, or given up, is told before, and nothing is done by that.
func TestDryRunsDoNothing(t *testing.T) {
	s := newStage(t)
	s.define("a", inBackground)
	s.start()
	mend := s.refuseUploads()
	s.put("a", "f", "precious")
	_, err := control.Umount.Call(t.Context(), s.client, control.UmountRequest{Name: "a", DryRun: true})
	wantCode(t, "umount of what owes, tried", err, control.StillOwed)
	a, err := control.QueueDrop.Call(t.Context(), s.client, control.QueueChange{Name: "a", DryRun: true})
	if err != nil || a.Changed != 1 || len(s.queue(control.QueueRequest{Name: "a"})) != 1 {
		t.Errorf("drop, tried: %+v, %v", a, err)
	}
	mend()
	s.awaitQueue("sent", func(all []control.Due) bool { return len(all) == 0 })
	m, err := control.Umount.Call(t.Context(), s.client, control.UmountRequest{Name: "a", DryRun: true})
	if err != nil || len(m.Connections) != 1 || m.Connections[0].State != control.StateReady {
		t.Errorf("umount, tried: %+v, %v", m, err)
	}
	s.wantState("a", control.StateReady)
}
