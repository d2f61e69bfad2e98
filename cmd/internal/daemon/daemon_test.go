package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"pierfs/backends"
	"pierfs/cache"
	"pierfs/cmd/internal/control"
)

// Holds rows 1 and 54 of the requirements.
func TestMountsWhatIsDefined(t *testing.T) {
	s := newStage(t)
	s.define("one")
	s.define("proj/two")
	s.define("off", "enabled = false")
	s.define("broken", `port = 99999`)
	s.start()
	for _, name := range []string{"one", "proj/two"} {
		c := s.wantState(name, control.StateReady)
		if c.Dir != s.dir(name) || c.Endpoint != "sftp://batch@files.example:22/data" {
			t.Errorf("%s is shown as %+v", name, c)
		}
		if info, err := os.Stat(s.dir(name)); err != nil || !info.IsDir() {
			t.Errorf("mount point of %s: %v, %v", name, info, err)
		}
	}
	s.wantState("off", control.StateDisabled)
	if c := s.wantState("broken", control.StateFailed); !strings.Contains(c.Reason, "port") {
		t.Errorf("a broken definition is told as %q; want its field", c.Reason)
	}
	if err := s.stop(); err != nil {
		t.Errorf("the daemon ended with %v", err)
	}
	if _, err := os.Stat(control.SocketPath(s.dirs.Runtime)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

func TestApplyTouchesOnlyWhatChanged(t *testing.T) {
	s := newStage(t)
	s.define("same")
	s.define("changes")
	s.define("goes")
	s.start()
	same, changes := s.fake("same"), s.fake("changes")
	s.define("same", `description = "a word more changes nothing"`)
	s.define("changes", "retryCount = 5")
	s.define("comes")
	if err := os.Remove(filepath.Join(s.dirs.Config, "connections/goes.toml")); err != nil {
		t.Fatal(err)
	}
	s.apply() // or the watcher was faster
	if s.fake("same") != same {
		t.Error("a connection whose meaning is the same was mounted anew")
	}
	if s.fake("changes") != changes || changes.led.Load() != 1 || same.led.Load() != 0 {
		t.Errorf("a changed connection was led elsewhere %d times, and one that means the same %d times; want 1 and 0", changes.led.Load(), same.led.Load())
	}
	s.wantState("comes", control.StateReady)
	if c, ok := s.list()["Test/goes"]; ok {
		t.Errorf("a removed connection is still there: %+v", c)
	}
	if _, err := os.Stat(s.dir("goes")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the mount point of a removed connection is still there: %v", err)
	}
	if answer := s.apply(); answer.Unchanged != 3 || len(answer.Added)+len(answer.Changed)+len(answer.Removed) != 0 {
		t.Errorf("applying the same again did %+v", answer)
	}
}

func TestDefinitionWithErrorsKeepsTheMount(t *testing.T) {
	s := newStage(t)
	s.define("one")
	s.start()
	before := s.fake("one")
	for _, text := range []string{`port = 99999`, `this is no TOML`, `retryCuont = 3`} {
		s.define("one", text)
		s.apply()
		s.wantState("one", control.StateReady)
		if s.fake("one") != before {
			t.Fatalf("%s took the mount away", text)
		}
	}
}

// TestMendedWithoutAWord: what keeps a connection from being mounted need not be in its text.
func TestMendedWithoutAWord(t *testing.T) {
	s := newStage(t)
	s.define("one")
	file := filepath.Join(s.dirs.Config, "connections", "one.toml")
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	s.start()
	s.apply()
	s.wantState("one", control.StateFailed)
	if err := os.Chmod(file, 0o600); err != nil {
		t.Fatal(err)
	}
	s.apply()
	s.wantState("one", control.StateReady)
}

// Holds row 62 of the requirements.
func TestChangedFilesAreNoticed(t *testing.T) {
	s := newStage(t)
	s.start()
	s.define("proj/late")
	select {
	case dir := <-s.mounted:
		if dir != s.dir("proj/late") {
			t.Errorf("mounted %s", dir)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("a new definition in a new folder was not noticed")
	}
}

func TestSignalReloads(t *testing.T) {
	s := newStage(t)
	s.define("one")
	s.start()
	s.define("one", "retryCount = 7")
	s.reload <- syscall.SIGHUP
	for state := range s.told {
		if strings.HasPrefix(state, "RELOADING=1") {
			break
		}
	}
	for state := range s.told {
		if strings.HasPrefix(state, "READY=1") {
			break
		}
	}
	s.wantState("one", control.StateReady)
}

func TestMountTakenAwayComesBack(t *testing.T) {
	s := newStage(t)
	s.define("one")
	s.start()
	<-s.mounted
	first := s.fake("one")
	_ = first.Unmount(t.Context()) // as by umount(8)
	select {
	case <-s.mounted:
	case <-time.After(20 * time.Second):
		t.Fatal("a mount that was taken away did not come back")
	}
	if s.fake("one") == first {
		t.Error("the mount is the old one")
	}
}

func TestOfflineIsShown(t *testing.T) {
	s := newStage(t)
	s.define("one")
	s.start()
	s.heard["one"](false, errors.New("gone fishing"))
	if c := s.wantState("one", control.StateOffline); c.Reason != "gone fishing" {
		t.Errorf("offline for the reason %q", c.Reason)
	}
	s.heard["one"](true, nil)
	s.wantState("one", control.StateReady)
}

// What is dangerous is logged each time that it is mounted, not only when it is read.
func TestWarningsAreLoggedAtEachMount(t *testing.T) {
	s := newStage(t)
	s.define("old", "legacyAlgorithms = true", `tempName = "none"`)
	s.start()
	before := s.log.String()
	if err := s.fake("old").Unmount(t.Context()); err != nil { // it is mounted again
		t.Fatal(err)
	}
	<-s.mounted
	<-s.mounted
	again := strings.TrimPrefix(s.log.String(), before)
	for _, code := range []string{"LEGACY", "IN_PLACE"} {
		if !strings.Contains(before, code) || !strings.Contains(again, code) {
			t.Errorf("%s is missing in the log of the first or the second mount", code)
		}
	}
}

// A mount whose server is away says so without anybody having touched it, and the service manager is told.
func TestServerIsAskedWhenTheMountStands(t *testing.T) {
	s := newStage(t)
	s.define("away")
	s.fault = func(context.Context, string, string) error {
		return &backends.Error{Op: "connect", Code: syscall.ECONNREFUSED, Class: backends.Transient, Cause: backends.CauseConnRefused}
	}
	s.start()
	if c := s.wantState("away", control.StateOffline); !strings.Contains(c.Reason, "refused") {
		t.Errorf("offline for the reason %q; want what went wrong", c.Reason)
	}
	s.heard["away"](true, nil)
	if c := s.wantState("away", control.StateReady); c.Reason != "" {
		t.Errorf("ready, and still for the reason %q", c.Reason)
	}
	for state := ""; !strings.Contains(state, "STATUS=1 of 1"); {
		select {
		case state = <-s.told:
		case <-time.After(20 * time.Second):
			t.Fatal("the service manager is not told that the server is back")
		}
	}
}

// What a person has mended is tried at once, also where a refused login would be left alone for long.
func TestServerIsAskedAgainByHand(t *testing.T) {
	s := newStage(t)
	s.define("one")
	s.start()
	for verb, call := range map[string]func() error{
		"apply": func() error {
			_, err := control.Apply.Call(t.Context(), s.client, control.ApplyRequest{})
			return err
		},
		"mount": func() error {
			_, err := control.Mount.Call(t.Context(), s.client, control.MountRequest{Name: "one"})
			return err
		},
		"trust": func() error {
			_, err := control.Trust.Call(t.Context(), s.client, control.TrustRequest{Name: "one", Fingerprint: fingerprint})
			return err
		},
	} {
		s.heard["one"](false, errors.New("the server refused the password"))
		s.wantState("one", control.StateOffline)
		if err := call(); err != nil {
			t.Errorf("%s: %v", verb, err)
		}
		s.wantState("one", control.StateReady)
	}
}

// A mount that is made anew logs in once: a second refusal at once may lock the account.
func TestMountAsksAServerOnce(t *testing.T) {
	s := newStage(t)
	s.define("one")
	s.start()
	if _, err := control.Umount.Call(t.Context(), s.client, control.UmountRequest{Name: "one"}); err != nil {
		t.Fatal(err)
	}
	s.fault = func(context.Context, string, string) error {
		return &backends.Error{Op: "connect", Code: syscall.EACCES, Class: backends.Refused, Cause: backends.CauseAuth}
	}
	answer, err := control.Mount.Call(t.Context(), s.client, control.MountRequest{Name: "one"})
	if err != nil || len(answer.Connections) != 1 { // the server would be back if it had been asked again
		t.Fatalf("mount answered %+v, %v", answer, err)
	}
	if c := answer.Connections[0]; c.State != control.StateOffline || c.Code != control.AuthFailed {
		t.Errorf("mount of a login that is refused answered state %s, code %q; want offline, AUTH_FAILED", c.State, c.Code)
	}
}

// Whoever trusts or mounts sees at once what came of it, though the server takes its time.
func TestNewsOfAServerAreWaitedFor(t *testing.T) {
	s := newStage(t)
	s.slow = 50 * time.Millisecond
	s.define("one")
	s.start()
	s.heard["one"](false, errors.New("its key is unknown"))
	if _, err := control.Trust.Call(t.Context(), s.client, control.TrustRequest{Name: "one", Fingerprint: fingerprint}); err != nil {
		t.Fatal(err)
	}
	s.wantState("one", control.StateReady)
	s.heard["one"](false, errors.New("gone"))
	answer, err := control.Mount.Call(t.Context(), s.client, control.MountRequest{Name: "one"})
	if err != nil || answer.Connections[0].State != control.StateReady {
		t.Errorf("mount answered %+v, %v; want ready", answer, err)
	}
}

// A server that says the same again has answered: who mounts need not wait for another word.
func TestTheSameAnswerIsToldAtOnce(t *testing.T) {
	s := newStage(t)
	s.slow, s.refuses = 50*time.Millisecond, true
	s.define("one")
	s.start()
	s.heard["one"](false, &backends.Error{Op: "connect", Code: syscall.EACCES, Class: backends.Refused, Cause: backends.CauseAuth})
	began := time.Now()
	answer, err := control.Mount.Call(t.Context(), s.client, control.MountRequest{Name: "one"})
	if err != nil || answer.Connections[0].State != control.StateOffline {
		t.Errorf("mount answered %+v, %v; want offline", answer, err)
	}
	if took := time.Since(began); took >= firstAnswer {
		t.Errorf("it was told after %v", took)
	}
}

// A field shows what its variables have become beside what is written, and a secret neither way.
func TestShowTellsWhatVariablesBecome(t *testing.T) {
	s := newStage(t)
	s.write("environments/Test.toml", "[variables]\nport = \"2200\"\nuser = \"batch\"\n[secrets]\npw = \""+canary+"\"")
	s.write("connections/one.toml", `protocol = "SFTP"
host = "files.example"
port = "${port}"
username = "${user}"
password = "${pw}"
workingDir = "/data"`)
	s.start()
	show, err := control.Show.Call(t.Context(), s.client, control.ShowRequest{Name: "one"})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, f := range show.Definition {
		if f.Resolved != "" {
			got[f.Field] = f.Value + " is " + f.Resolved
		}
	}
	if want := map[string]string{"port": "${port} is 2200", "username": "${user} is batch"}; !maps.Equal(got, want) {
		t.Errorf("show tells %v; want %v", got, want)
	}
	wantNoCanary(t, s)
}

// Between the saving of a file and the daemon's reading of it, no verb shows or asks what was written before.
// Holds row 1 of the requirements.
func TestVerbsReadWhatIsWrittenNow(t *testing.T) {
	s := newStage(t)
	s.define("one")
	s.start()
	s.define("one", "port = 2200")
	show, err := control.Show.Call(t.Context(), s.client, control.ShowRequest{Name: "one"})
	if err != nil || show.Port != 2200 {
		t.Errorf("show tells port %d, %v; want what is written", show.Port, err)
	}
	s.define("one", "port = 2201")
	trusted, err := control.Trust.Call(t.Context(), s.client, control.TrustRequest{Name: "one", Fingerprint: fingerprint})
	if err != nil || trusted.Address != "files.example:2201" {
		t.Errorf("trust asked %s, %v; want what is written", trusted.Address, err)
	}
	s.define("new", "port = 2202")
	for step, err := range control.Test.Call(t.Context(), s.client, control.TestRequest{Name: "new"}) {
		if err != nil || step.Step == "resolve" && !strings.Contains(step.Detail, ":2202") {
			t.Errorf("test says %+v, %v; want what is written", step, err)
		}
	}
	s.define("newer")
	if _, err := control.Mount.Call(t.Context(), s.client, control.MountRequest{Name: "newer"}); err != nil {
		t.Errorf("mount of what was written a moment ago: %v", err)
	}
}

// The way out names the connection as a command has to, and a definition's errors come one by one.
func TestReasonsTellTheWayOut(t *testing.T) {
	s := newStage(t)
	s.write("pierfs.toml", `activeEnvironments = ["Test", "Production"]`)
	s.define("one")
	s.define("broken", "port = 99999", "retryCount = -1")
	s.fault = func(context.Context, string, string) error {
		return &backends.Error{Op: "stat", Code: syscall.EACCES, Class: backends.Refused, Cause: backends.CauseHostKeyUnknown,
			Err: &backends.Error{Op: "connect", Code: syscall.EACCES, Err: errors.New("the key is unknown")}, Hint: "run: pierfs trust NAME SHA256:x"}
	}
	s.start()
	all := s.list()
	for name, hint := range map[string]string{"Test/one": "run: pierfs trust one SHA256:x", "Production/one": "run: pierfs trust one --env Production SHA256:x"} {
		if c := all[name]; c.Reason != "the key is unknown" || c.Cause != "host_key_unknown" || c.Code != control.HostKeyUnknown || c.Hint != hint {
			t.Errorf("%s: reason %q, cause %q, code %q, hint %q; want the plain reason and %q", name, c.Reason, c.Cause, c.Code, c.Hint, hint)
		}
	}
	if c := all["Test/broken"]; len(c.Findings) != 2 || !strings.Contains(c.Reason, "1 more error") || !strings.Contains(c.Hint, "`pierfs check --config-dir "+s.dirs.Config+"`") {
		t.Errorf("a definition with two errors is told as %q with %d findings, and the hint %q", c.Reason, len(c.Findings), c.Hint)
	}
	_, err := control.Stat.Call(t.Context(), s.client, control.FileRequest{Connection: "one", Path: "f"})
	if e, ok := errors.AsType[*control.Error](err); !ok || e.Hint != "run: pierfs trust one SHA256:x" {
		t.Errorf("a file verb fails with %+v; want the same way out", e)
	}
	answer, err := control.Enable.Call(t.Context(), s.client, control.EnableRequest{Name: "one"})
	if err != nil || len(answer.Findings) == 0 {
		t.Errorf("disable tells %v, %v; want what concerns this connection", answer.Findings, err)
	}
	for _, f := range answer.Findings {
		if f.Connection != "one" {
			t.Errorf("disable of one tells %v", f)
		}
	}
}

// A password that is changed at its source counts from the next login on, without a new mount.
// Holds row 62 of the requirements.
func TestRotatedSecretCountsAtTheNextLogin(t *testing.T) {
	s := newStage(t)
	source := filepath.Join(t.TempDir(), "password")
	put := func(text string) {
		t.Helper()
		if err := os.WriteFile(source, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put(canary)
	s.write("connections/one.toml", fmt.Sprintf("protocol = \"SFTP\"\nhost = \"h\"\nusername = \"u\"\nworkingDir = \"/x\"\npassword = { file = %q }", source))
	s.start()
	first := s.fake("one")
	put("new")
	s.apply()
	if got := s.secrets["one"]().Password.Reveal(); got != "new" {
		t.Errorf("after apply the next login would send %q; want the new password", got)
	}
	if s.fake("one") != first {
		t.Error("a password that was changed at its source took the mount down")
	}
	if err := os.Remove(source); err != nil {
		t.Fatal(err)
	}
	s.apply()
	if got := s.secrets["one"]().Password.Reveal(); got != "new" {
		t.Errorf("with its source gone the next login would send %q; want the last one known", got)
	}
}

func TestSecondDaemonIsRefused(t *testing.T) {
	s := newStage(t)
	s.start()
	second := New(Options{Dirs: s.dirs, Floor: s.floor(), Plan: func(context.Context) Plan { return Plan{} }})
	wantCode(t, "a second daemon", second.Run(t.Context(), nil), control.Exists)
	if _, err := control.List.Call(t.Context(), s.client, control.ListRequest{}); err != nil {
		t.Errorf("the first daemon suffered: %v", err)
	}
}

func TestStaleSocketIsReplaced(t *testing.T) {
	s := newStage(t)
	if err := errors.Join(os.MkdirAll(s.dirs.Runtime, 0o700), os.WriteFile(control.SocketPath(s.dirs.Runtime), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	s.start()
	s.list()
}

// Holds row 54 of the requirements.
func TestEnvironments(t *testing.T) {
	s := newStage(t)
	s.write("pierfs.toml", `activeEnvironments = ["Test", "Production"]`)
	elsewhere := filepath.Join(filepath.Dir(s.dirs.Config), "elsewhere")
	s.define("one", `mountPoint = "`+elsewhere+`"`)
	s.start()
	all := s.list()
	if got := all["Test/one"].Dir; got != elsewhere {
		t.Errorf("in the first active environment it is mounted on %s; want its mountPoint", got)
	}
	if got, want := all["Production/one"].Dir, filepath.Join(s.dirs.MountRoot, "Production/one"); got != want {
		t.Errorf("in the second active environment it is mounted on %s; want %s", got, want)
	}
	_, err := control.Stat.Call(t.Context(), s.client, control.FileRequest{Connection: "one", Environment: "Development"})
	wantCode(t, "an environment that is not active", err, control.NotMounted)
	_, err = control.Stat.Call(t.Context(), s.client, control.FileRequest{Connection: "one", Environment: "Moon"})
	wantCode(t, "an environment that is not there", err, control.UnknownEnvironment)
}

func TestNestedMountPointsAreRefused(t *testing.T) {
	s := newStage(t)
	s.define("a")
	s.define("b", `mountPoint = "`+s.dir("a")+`/inner"`)
	s.define("c", `mountPoint = "`+filepath.Dir(s.dirs.State)+`"`)
	s.define("d")
	s.start()
	s.wantState("a", control.StateReady)
	s.wantState("b", control.StateFailed)
	s.wantState("c", control.StateFailed)
	s.wantState("d", control.StateReady)
}

// Holds row 8 of the requirements.
func TestEnableAndDisable(t *testing.T) {
	s := newStage(t)
	s.define("one", "# a comment that stays")
	s.start()
	_, err := control.Enable.Call(t.Context(), s.client, control.EnableRequest{Name: "one"})
	if err != nil {
		t.Fatal(err)
	}
	s.wantState("one", control.StateDisabled)
	_, err = control.Stat.Call(t.Context(), s.client, control.FileRequest{Connection: "one"})
	wantCode(t, "stat of a disabled connection", err, control.Disabled)
	_, err = control.Mount.Call(t.Context(), s.client, control.MountRequest{Name: "one"})
	wantCode(t, "mount of a disabled connection", err, control.Disabled)
	if _, err = control.Enable.Call(t.Context(), s.client, control.EnableRequest{Name: "one", Enabled: true}); err != nil {
		t.Fatal(err)
	}
	s.wantState("one", control.StateReady)
	_, err = control.Enable.Call(t.Context(), s.client, control.EnableRequest{Name: "none"})
	wantCode(t, "disable of what is not there", err, control.UnknownConnection)
}

func TestUnmountedByHandStaysSo(t *testing.T) {
	s := newStage(t)
	s.define("one")
	s.start()
	s.fake("one").open = 2
	_, err := control.Umount.Call(t.Context(), s.client, control.UmountRequest{Name: "one"})
	wantCode(t, "umount with open files", err, control.Busy)
	if _, err := control.Umount.Call(t.Context(), s.client, control.UmountRequest{Name: "one", Force: true}); err != nil {
		t.Fatal(err)
	}
	s.wantState("one", control.StateUnmounted)
	s.apply()
	s.wantState("one", control.StateUnmounted)
	if _, err := control.Mount.Call(t.Context(), s.client, control.MountRequest{Name: "one"}); err != nil {
		t.Fatal(err)
	}
	s.wantState("one", control.StateReady)
}

func TestFileVerbs(t *testing.T) {
	s := newStage(t)
	s.define("one")
	s.start()
	ctx, at := t.Context(), func(p string) control.FileRequest {
		return control.FileRequest{Connection: "one", Path: control.Name(p)}
	}
	content := bytes.Repeat([]byte("pier "), 700_000)
	if _, err := control.Mkdir.Call(ctx, s.client, control.MkdirRequest{FileRequest: at("/a/b"), Parents: true}); err != nil {
		t.Fatal(err)
	}
	size := int64(len(content))
	file, err := control.Put.Call(ctx, s.client, control.PutRequest{FileRequest: at("a/b"), Into: "f", Size: &size}, bytes.NewReader(content))
	if err != nil || file.Size != size || file.Type != "file" || file.Name != "f" {
		t.Fatalf("put answered %+v, %v", file, err)
	}
	if got, err := s.server("one").ReadFile("a/b/f"); err != nil || !bytes.Equal(got, content) {
		t.Errorf("the server has %d bytes, %v", len(got), err)
	}
	_, body, err := control.Get.Call(ctx, s.client, control.GetRequest{FileRequest: at("/a/b/f")})
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(body)
	body.Close()
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("get gave %d bytes, %v; want what was put", len(got), err)
	}
	_, err = control.Put.Call(ctx, s.client, control.PutRequest{FileRequest: at("a/b/f"), NoReplace: true}, strings.NewReader("x"))
	wantCode(t, "put that may not replace", err, control.Exists)
	if done, err := control.Mv.Call(ctx, s.client, control.MvRequest{FileRequest: at("a/b/f"), To: "/a"}); err != nil || done.Path != "/a/f" {
		t.Errorf("mv into a directory answered %+v, %v", done, err)
	}
	var names []string
	for file, err := range control.Ls.Call(ctx, s.client, control.LsRequest{FileRequest: at("a")}) {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, file.Type+" "+string(file.Name))
	}
	slices.Sort(names)
	if want := []string{"directory b", "file f"}; !slices.Equal(names, want) {
		t.Errorf("ls gave %q; want %q", names, want)
	}
	_, err = control.Stat.Call(ctx, s.client, at("../../../etc/passwd"))
	wantCode(t, "a name above the working directory", err, control.NotFound)
	_, err = control.Stat.Call(ctx, s.client, at("a\x00b"))
	wantCode(t, "a name with NUL", err, control.Usage)
	rm := func(q control.RmRequest) (err error) {
		for _, err = range control.Rm.Call(ctx, s.client, q) {
		}
		return err
	}
	wantCode(t, "rm of a directory", rm(control.RmRequest{FileRequest: at("a")}), control.Usage)
	wantCode(t, "rm -d of a full directory", rm(control.RmRequest{FileRequest: at("a"), Dir: true}), control.NotEmpty)
	wantCode(t, "rm -r of the working directory", rm(control.RmRequest{FileRequest: at("/"), Recursive: true}), control.Usage)
	wantCode(t, "rm -r", rm(control.RmRequest{FileRequest: at("a"), Recursive: true}), "")
	wantCode(t, "rm of what is gone", rm(control.RmRequest{FileRequest: at("a")}), control.NotFound)
}

// A hand that is killed in the middle of put leaves the server as it was.
func TestCutPutPublishesNothing(t *testing.T) {
	s := newStage(t)
	s.define("one")
	s.start()
	if err := s.server("one").WriteFile("f", []byte("old")); err != nil {
		t.Fatal(err)
	}
	before := s.server("one").Calls()["create"]
	for _, name := range []string{"f", "new"} {
		ctx, kill := context.WithCancel(t.Context())
		reader, writer := io.Pipe()
		go func() {
			_, _ = writer.Write(bytes.Repeat([]byte("half"), 1<<20)) // ends with the pipe
			kill()
		}()
		if _, err := control.Put.Call(ctx, s.client, control.PutRequest{FileRequest: control.FileRequest{Connection: "one", Path: control.Name(name)}}, reader); err == nil {
			t.Error("a killed put succeeded")
		}
		reader.Close()
	}
	size := int64(10)
	_, err := control.Put.Call(t.Context(), s.client, control.PutRequest{FileRequest: control.FileRequest{Connection: "one", Path: "f"}, Size: &size}, strings.NewReader("short"))
	wantCode(t, "a put of fewer bytes than announced", err, control.Cut)
	if err := s.stop(); err != nil {
		t.Errorf("something was owed: %v", err)
	}
	if got, err := s.server("one").ReadFile("f"); err != nil || string(got) != "old" {
		t.Errorf("the old file is %q, %v", got, err)
	}
	if names, err := s.server("one").Names(""); err != nil || !slices.Equal(names, []string{"f"}) {
		t.Errorf("the server has %q, %v; want f alone", names, err)
	}
	if after := s.server("one").Calls()["create"]; after != before {
		t.Errorf("%d uploads were begun for streams that never ended", after-before)
	}
}

func TestStopTellsWhatIsLeft(t *testing.T) {
	s := newStage(t)
	s.define("one", "retryCount = 0", `timeout = "1s"`)
	s.start()
	d := s.server("one")
	d.SetFault(func(_ context.Context, op, name string) error {
		if op == "create" || op == "commit" || op == "writeat" {
			return &backends.Error{Op: op, Name: name, Code: syscall.ENOSPC}
		}
		return nil
	})
	_, err := control.Put.Call(t.Context(), s.client, control.PutRequest{FileRequest: control.FileRequest{Connection: "one", Path: "f"}}, strings.NewReader("x"))
	wantCode(t, "put to a full server", err, control.NoSpace)
	m, err := s.daemon.mountOf("one", "")
	if err != nil {
		t.Fatal(err)
	}
	if owed, _ := m.holds(); owed.Files+owed.Quarantined != 0 {
		t.Errorf("a put whose hand was told of its failure is owed: %+v", owed)
	}
	// A program that has written and not yet closed when the daemon is stopped.
	tree, err := m.use()
	if err != nil {
		t.Fatal(err)
	}
	file, _, err := tree.Open(t.Context(), "g", cache.OpenMode{Write: true, Create: true, Perm: 0o644})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteAt(t.Context(), []byte("precious"), 0); err != nil {
		t.Fatal(err)
	}
	err = s.stop()
	left, ok := errors.AsType[*LeftError](err)
	if !ok || left.Connection != "one" || left.Quarantined != 1 {
		t.Errorf("the daemon ended with %v; want what it could not publish", err)
	}
	kept := ""
	err = filepath.WalkDir(filepath.Join(s.dirs.State, "quarantine"), func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if text, err := os.ReadFile(path); err == nil && string(text) == "precious" {
				kept = path
			}
		}
		return err
	})
	if err != nil || kept == "" {
		t.Errorf("the content is not under the quarantine directory: %v", err)
	}
}

func TestMountURL(t *testing.T) {
	s := newStage(t)
	s.define("one")
	s.start()
	own := t.TempDir()
	dir := filepath.Join(own, "here")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unguardAll(t, own) })
	request := control.MountURLRequest{URL: "sftp://u@host.example:2222/x", Dir: dir, Password: control.Seal(canary), TrustNew: true}

	s.fail(&backends.Error{Op: "login", Code: syscall.EACCES, Class: backends.Refused, Cause: backends.CauseAuth, Err: errors.New("no")})
	_, err := control.MountURL.Call(t.Context(), s.client, request)
	wantCode(t, "mount with a refused login", err, control.AuthFailed)
	if len(s.list()) != 1 {
		t.Errorf("a refused login left %v", s.list())
	}
	s.fail(&backends.Error{Op: "login", Code: syscall.EACCES, Class: backends.Refused, Cause: backends.CauseHostKeyChanged})
	_, err = control.MountURL.Call(t.Context(), s.client, request)
	wantCode(t, "mount with --trust-new and a changed key", err, control.HostKeyChanged)
	s.fail(&backends.Error{Op: "login", Code: syscall.EACCES, Class: backends.Refused, Cause: backends.CauseHostKeyUnknown})
	careful := request
	careful.TrustNew = false
	_, err = control.MountURL.Call(t.Context(), s.client, careful)
	wantCode(t, "mount with an unknown key", err, control.HostKeyUnknown)

	link := filepath.Join(own, "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	for bad, want := range map[string]control.Code{link: control.NotAllowed, "relative": control.Usage, own + "/none": control.CannotCreate, "/dev/null": control.CannotCreate} {
		q := request
		q.Dir = bad
		_, err := control.MountURL.Call(t.Context(), s.client, q)
		wantCode(t, "mount on "+bad, err, want)
	}
	q := request
	q.URL = "sftp://u:" + canary + "@host/x"
	_, err = control.MountURL.Call(t.Context(), s.client, q)
	wantCode(t, "a password in the URL", err, control.Usage)

	for url, option := range map[string]string{"sftp://u@h/x": "trustCert=" + fingerprint, "ftpes://u@h/x": "hostKey=" + fingerprint, "ftp://u@h/x": "caFile=/ca"} {
		q := request
		q.URL, q.Options = url, []string{option}
		_, err = control.MountURL.Call(t.Context(), s.client, q)
		wantCode(t, url+" with "+option+", which protects nobody", err, control.Usage)
	}
	for url, scheme := range map[string]string{"ftpes://u@h/x": "ftps://", "ftps://u@h/x": "ftpes://"} {
		s.fail(&backends.Error{Op: "connect", Code: syscall.EPROTO, Class: backends.Refused, Cause: backends.CauseTLSMode})
		q := careful
		q.URL = url
		_, err = control.MountURL.Call(t.Context(), s.client, q)
		wantCode(t, "mount in the wrong mode of TLS", err, control.ProtocolError)
		if e, ok := errors.AsType[*control.Error](err); ok && !strings.Contains(e.Hint, "mount "+scheme) {
			t.Errorf("the way out for %s in the wrong mode of TLS is told as %q", url, e.Hint)
		}
	}
	s.fail(&backends.Error{Op: "login", Code: syscall.EACCES, Class: backends.Refused, Cause: backends.CauseCertUnknown})
	_, err = control.MountURL.Call(t.Context(), s.client, careful)
	wantCode(t, "mount with an unknown certificate", err, control.CertUnknown)
	if e, ok := errors.AsType[*control.Error](err); ok && !strings.Contains(e.Hint, "--trust-cert") {
		t.Errorf("the way out of an unknown certificate is told as %q", e.Hint)
	}

	s.pinErr = &backends.Error{Op: "login", Code: syscall.EACCES, Class: backends.Refused, Cause: backends.CauseAuth, Err: errors.New("no")}
	_, err = control.MountURL.Call(t.Context(), s.client, request)
	wantCode(t, "mount with --trust-new and a wrong password", err, control.AuthFailed)
	if err != nil && !strings.Contains(err.Error(), fingerprint) || !strings.Contains(s.log.String(), "host key trusted") {
		t.Errorf("a key was trusted, and neither %q nor the log tells it", err)
	}
	s.pinErr = nil
	s.fail(&backends.Error{Op: "login", Code: syscall.EACCES, Class: backends.Refused, Cause: backends.CauseHostKeyUnknown})

	answer, err := control.MountURL.Call(t.Context(), s.client, request)
	if err != nil || len(answer.Connections) != 1 || answer.Trusted == nil {
		t.Fatalf("mount answered %+v, %v", answer, err)
	}
	if c := s.list()["/"+dir]; c.State != control.StateReady || !c.AdHoc || c.Endpoint != "sftp://u@host.example:2222/x" {
		t.Errorf("the mount is listed as %+v", c)
	}
	_, err = control.MountURL.Call(t.Context(), s.client, request)
	wantCode(t, "a second mount on the same directory", err, control.CannotCreate)
	if _, err := control.Mkdir.Call(t.Context(), s.client, control.MkdirRequest{FileRequest: control.FileRequest{Connection: dir, Path: "d"}}); err != nil {
		t.Errorf("a file verb on an ad-hoc mount: %v", err)
	}
	s.apply()
	if len(s.list()) != 2 {
		t.Errorf("apply touched the ad-hoc mount: %v", s.list())
	}
	if _, err := control.Umount.Call(t.Context(), s.client, control.UmountRequest{Name: dir}); err != nil {
		t.Errorf("umount: %v", err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("after umount the directory is %v, %v; want it as it was", info, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "f"), nil, 0o600); err != nil {
		t.Errorf("after umount: %v", err)
	}
	wantNoCanary(t, s)
}

func TestBareMountPointIsGuarded(t *testing.T) {
	s := newStage(t)
	s.define("one")
	s.start()
	if info, err := os.Stat(s.dir("one")); err != nil || info.Mode().Perm() != 0o500 {
		t.Errorf("the bare mount point is %v, %v; want mode 0500", info, err)
	}
	write := func() error { return os.WriteFile(filepath.Join(s.dir("one"), "lost"), nil, 0o600) }
	if err := write(); err == nil {
		t.Error("a program wrote into the bare mount point")
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	if err := write(); err == nil {
		t.Error("a program wrote into the bare mount point after the daemon had stopped")
	}
	// The definition goes while no daemon runs; the next one makes it undone.
	if err := os.Remove(filepath.Join(s.dirs.Config, "connections/one.toml")); err != nil {
		t.Fatal(err)
	}
	s.start()
	if _, err := os.Stat(s.dir("one")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the mount point of a removed connection is still there: %v", err)
	}
}

// The list of mount points may be damaged by a power cut, or be lost: the daemon starts and mounts all the same, and knows its
// own directories again.
func TestMountPointsOutliveTheirList(t *testing.T) {
	list := func(s *stage) string { return filepath.Join(s.dirs.State, "mountpoints.json") }
	for name, damage := range map[string]func(s *stage) error{
		"emptied": func(s *stage) error { return os.Truncate(list(s), 0) },
		"null":    func(s *stage) error { return os.WriteFile(list(s), []byte("null"), 0o600) },
		"torn":    func(s *stage) error { return os.WriteFile(list(s), []byte(`{"/x": {"mode": 493}, "/y": {`), 0o600) },
		"lost":    func(s *stage) error { return os.Remove(list(s)) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t)
			s.define("one")
			s.start()
			if err := errors.Join(s.stop(), damage(s)); err != nil {
				t.Fatal(err)
			}
			s.start()
			s.wantState("one", control.StateReady)
			if err := os.Remove(filepath.Join(s.dirs.Config, "connections/one.toml")); err != nil {
				t.Fatal(err)
			}
			s.apply()
			if _, err := os.Stat(s.dir("one")); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the mount point is still there when its connection is gone: %v", err)
			}
		})
	}
}

// A directory that an operator made immutable is as unwritable as can be, and stays as it is.
func TestForeignImmutableMountPointIsLeftAlone(t *testing.T) {
	if !privileged() {
		t.Log("only root can make a directory immutable; there is nothing to hold for others")
		return
	}
	s := newStage(t)
	dir := filepath.Join(filepath.Dir(s.dirs.State), "own")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	bare, err := openPlain(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer bare.Close()
	if err := setImmutable(bare, true); err != nil {
		t.Logf("this file system has no immutable directories: %v", err)
		return
	}
	s.define("one", `mountPoint = "`+dir+`"`)
	s.start()
	s.wantState("one", control.StateReady)
	if err := os.Remove(filepath.Join(s.dirs.Config, "connections/one.toml")); err != nil {
		t.Fatal(err)
	}
	s.apply()
	if info, err := bare.Stat(); err != nil || info.Mode().Perm() != 0o755 || !isImmutable(bare) {
		t.Errorf("the operator's own directory is %v (immutable %v, %v); want it as it was", info.Mode(), isImmutable(bare), err)
	}
}

func TestTestVerb(t *testing.T) {
	s := newStage(t)
	s.define("one")
	s.start()
	run := func(q control.TestRequest) (steps []string, err error) {
		for step, e := range control.Test.Call(t.Context(), s.client, q) {
			if e != nil {
				return steps, e
			}
			word := " failed"
			if step.OK {
				word = " ok"
			}
			steps = append(steps, step.Step+word)
		}
		return steps, nil
	}
	for _, q := range []control.TestRequest{{Name: "one"}, {Definition: control.Seal(`name = "new"
protocol = "SFTP"
host = "h"
username = "u"
password = "` + canary + `"
workingDir = "/x"`)}, {Name: "draft", Definition: control.Seal("protocol = \"SFTP\"\nhost = \"h\"\nusername = \"u\"\nworkingDir = \"/x\"")}} {
		if steps, err := run(q); err != nil || !slices.Equal(steps, []string{"resolve ok", "tcp ok"}) {
			t.Errorf("test gave %q, %v", steps, err)
		}
	}
	steps, err := run(control.TestRequest{Definition: control.Seal("name = \"new\"\nprotocol = \"SFTP\"\nport = 0")})
	wantCode(t, "test of a definition with errors", err, control.ConfigInvalid)
	if !slices.Equal(steps, []string{"resolve failed"}) {
		t.Errorf("test of a definition with errors gave %q", steps)
	}
	s.fail(&backends.Error{Op: "dial", Code: syscall.ECONNREFUSED, Cause: backends.CauseConnRefused, Hint: "check the port"})
	_, err = run(control.TestRequest{Name: "one"})
	wantCode(t, "test of a server that is down", err, control.Unreachable)
	_, err = run(control.TestRequest{Name: "none"})
	wantCode(t, "test of nothing", err, control.UnknownConnection)
	wantNoCanary(t, s)
}

// What a caller brings may not make the daemon use its own rights for him, unless he is root.
func TestUnsavedDefinitionIsRestricted(t *testing.T) {
	s := newStage(t)
	d := New(Options{Dirs: s.dirs, Floor: s.floor(), Plan: func(context.Context) Plan { return ReadPlan(s.dirs.Config, s.dirs.MountRoot) }})
	base := "name = \"x\"\nprotocol = \"SFTP\"\nhost = \"h\"\nusername = \"u\"\nworkingDir = \"/x\"\n"
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{`password = { file = "` + file + `" }`, `password = { command = ["/bin/true"] }`, `mountPoint = "/tmp/x"`} {
		q := control.TestRequest{Definition: control.Seal(base + text)}
		_, err := d.testTarget(control.WithPeer(t.Context(), control.Peer{UID: uint32(os.Geteuid()) + 1000}), q)
		wantCode(t, text+" from another user", err, control.NotAllowed)
		_, err = d.testTarget(t.Context(), q)
		wantCode(t, text+" from nobody knows whom", err, control.NotAllowed)
	}
	for _, uid := range []int{0, os.Geteuid()} {
		_, err := d.testTarget(control.WithPeer(t.Context(), control.Peer{UID: uint32(uid)}), control.TestRequest{Definition: control.Seal(base + `password = { file = "` + file + `" }`)})
		wantCode(t, "a file source from root or the daemon's own user", err, "")
	}
}

// Nothing that leaves the daemon holds a password: no log line and no reply of any verb.
func TestNoSecretLeaves(t *testing.T) {
	s := newStage(t)
	s.define("one")
	s.define("broken", "port = 99999")
	s.start()
	s.apply()
	s.list()
	for _, q := range []control.ShowRequest{{Name: "one"}, {Name: "broken"}} {
		answer, err := control.Show.Call(t.Context(), s.client, q)
		if err == nil && !answer.HasPassword {
			t.Errorf("show tells no password where there is one: %+v", answer)
		}
	}
	wantNoCanary(t, s)
}

// wantNoCanary asks every verb that answers without arguments, raw, and searches all of it and the log.
func wantNoCanary(t *testing.T, s *stage) {
	t.Helper()
	for path, body := range map[string]string{"list": "{}", "status": "{}", "apply": "{}", "show": `{"name":"one"}`, "nonsense": canary[:6],
		"test": `{"name":"one"}`, "mount": `{"name":"one"}`} {
		reply := rawPost(t, s.dirs.Runtime, path, body)
		if strings.Contains(reply, canary) {
			t.Errorf("the reply to %s holds the password: %s", path, reply)
		}
	}
	if strings.Contains(s.log.String(), canary) {
		t.Errorf("the log holds the password:\n%s", s.log)
	}
}

// Every verb that is declared is served.
func TestEveryVerbIsServed(t *testing.T) {
	server := control.NewServer(nil)
	New(Options{}).serve(server)
	for _, v := range control.All() {
		if !server.Serves(v.Name) {
			t.Errorf("nobody serves %s", v.Name)
		}
	}
}
