package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pierfs/cmd/internal/control"
	"pierfs/conncfg"
)

// stand is a hand before a daemon that answers as the test says.
type stand struct {
	t   *testing.T
	run string
}

func newStand(t *testing.T, setup func(*control.Server)) *stand {
	t.Helper()
	s := &stand{t: t, run: filepath.Join(t.TempDir(), "run")}
	server := control.NewServer(slog.New(slog.DiscardHandler))
	setup(server)
	l, err := control.Listen(s.run)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx, l, time.Second) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("server ended with %v", err)
		}
	})
	return s
}

func (s *stand) hand(in string, args ...string) (status int, out, errOut string) {
	var stdout, stderr bytes.Buffer
	status = run(s.t.Context(), append([]string{"--runtime-dir", s.run}, args...), strings.NewReader(in), &stdout, &stderr)
	return status, stdout.String(), stderr.String()
}

func TestNamesFromServersCannotReachTheTerminal(t *testing.T) {
	evil := "a\x1b]0;owned\x07\n\u202e\u009b31m\x7fb"
	s := newStand(t, func(s *control.Server) {
		control.Ls.Serve(s, func(_ context.Context, _ control.LsRequest, send func(control.File) error) error {
			if err := send(control.File{Name: control.Name(evil), Type: "file"}); err != nil {
				return err
			}
			return control.Errorf(control.Failed, "broke at %s", evil)
		})
		control.List.Serve(s, func(context.Context, control.ListRequest) (control.ListAnswer, error) {
			return control.ListAnswer{Connections: []control.Connection{{Name: "x", Reason: evil}}}, nil
		})
		control.Stat.Serve(s, func(_ context.Context, q control.FileRequest) (control.File, error) {
			target := control.Name(evil)
			return control.File{Name: q.Path, Type: "symlink", Target: &target}, nil
		})
	})
	for _, args := range [][]string{{"ls", "x:/"}, {"list"}, {"stat", "x:/" + evil}, {"stat", evil}} {
		_, out, errOut := s.hand("", args...)
		if text := out + errOut; strings.ContainsAny(text, "\x1b\x07\u202e\u009b\x7f") || text == "" {
			t.Errorf("pierfs %q printed %q", args, text)
		}
	}
	status, out, _ := s.hand("", "stat", "x:/"+evil, "--json")
	if strings.ContainsAny(out, "\x1b\x07\u202e\u009b\x7f") {
		t.Errorf("as JSON it printed %q", out)
	}
	var file control.File
	if err := json.Unmarshal([]byte(out), &file); err != nil || status != 0 || string(*file.Target) != evil {
		t.Errorf("as JSON the name is %q, %v; want it as it is", out, err)
	}
}

// What a table has no room for stands below it, with the way out, and one finding a line.
func TestListsTellTheWayOut(t *testing.T) {
	connections := []control.Connection{
		{Name: "fine", Environment: "Test", State: control.StateReady},
		{Name: "changed", Environment: "Test", State: control.StateOffline, Cause: "host_key_changed", Reason: "THE HOST KEY HAS CHANGED", Hint: "pierfs trust changed SHA256:x"},
		{Name: "broken", Environment: "Test", State: control.StateFailed, Reason: "port: is outside, and 1 more error", Findings: []conncfg.Finding{
			{Severity: conncfg.Error, Code: "RANGE", Field: "port", Message: "is outside"}, {Severity: conncfg.Error, Code: "MISSING", Field: "host", Message: "is required"}}},
		{Name: "off", Environment: "Test", State: control.StateDisabled, Reason: "enabled = false in its definition"},
	}
	s := newStand(t, func(s *control.Server) {
		control.List.Serve(s, func(context.Context, control.ListRequest) (control.ListAnswer, error) {
			return control.ListAnswer{Connections: connections}, nil
		})
		control.Status.Serve(s, func(context.Context, control.StatusRequest) (control.StatusAnswer, error) {
			a := control.StatusAnswer{StateDir: "/state"}
			for _, c := range connections {
				a.Connections = append(a.Connections, control.ConnectionStatus{Connection: c, Quarantined: 1, Conflicts: 2})
			}
			return a, nil
		})
	})
	for _, verb := range []string{"list", "status"} {
		_, out, _ := s.hand("", verb)
		for _, want := range []string{"  host_key_changed\n", "\nchanged in Test: THE HOST KEY HAS CHANGED\n  pierfs trust changed SHA256:x\n",
			"  2 errors in its definition\n", "\n  error: port: is outside [RANGE]\n  error: host: is required [MISSING]\n"} {
			if !strings.Contains(out, want) {
				t.Errorf("%s lacks %q:\n%s", verb, want, out)
			}
		}
		if strings.Contains(out, "off in Test: enabled") {
			t.Errorf("%s says twice why a connection is off:\n%s", verb, out)
		}
		if verb == "status" && !strings.Contains(out, "fine in Test: 1 file in quarantine\n  look at it below /state/quarantine") {
			t.Errorf("status does not say where the quarantine is:\n%s", out)
		}
		if verb == "status" && !strings.Contains(out, "fine in Test: 2 conflicts with changes of others") {
			t.Errorf("status does not tell of conflicts:\n%s", out)
		}
	}
}

// --env leaves the others out, and a name that is none is not passed over.
func TestListOfOneEnvironment(t *testing.T) {
	environments := []control.Environment{{Name: "Test", Active: true}, {Name: "Production", Active: true}, {Name: "Development"}}
	connections := []control.Connection{{Name: "one", Environment: "Test"}, {Name: "two", Environment: "Production"}, {Name: "/mnt", AdHoc: true}}
	s := newStand(t, func(s *control.Server) {
		control.List.Serve(s, func(context.Context, control.ListRequest) (control.ListAnswer, error) {
			return control.ListAnswer{Environments: environments, Connections: connections}, nil
		})
		control.Status.Serve(s, func(context.Context, control.StatusRequest) (control.StatusAnswer, error) {
			a := control.StatusAnswer{Environments: environments}
			for _, c := range connections {
				a.Connections = append(a.Connections, control.ConnectionStatus{Connection: c})
			}
			return a, nil
		})
	})
	for _, verb := range []string{"list", "status"} {
		if status, out, _ := s.hand("", verb, "-e", "Production"); status != 0 || !strings.Contains(out, "\ntwo ") || strings.Contains(out, "\none ") || strings.Contains(out, "\n/mnt ") {
			t.Errorf("%s -e Production ends with %d:\n%s", verb, status, out)
		}
		if status, _, errOut := s.hand("", verb, "-e", "Prodcution"); status != 66 {
			t.Errorf("%s of no environment ends with %d: %s", verb, status, errOut)
		}
	}
	if _, out, _ := s.hand("", "list", "-e", "Development"); !strings.Contains(out, "active on this machine: Test, Production") {
		t.Errorf("list of an environment that is not active says %q", out)
	}
}

// An empty list says so, and how it is filled.
func TestEmptyListTellsHowToBegin(t *testing.T) {
	var environments []control.Environment
	s := newStand(t, func(s *control.Server) {
		control.List.Serve(s, func(context.Context, control.ListRequest) (control.ListAnswer, error) {
			return control.ListAnswer{Environments: environments}, nil
		})
		control.Status.Serve(s, func(context.Context, control.StatusRequest) (control.StatusAnswer, error) {
			return control.StatusAnswer{ConfigDir: "/conf"}, nil
		})
	})
	for active, want := range map[bool]string{true: "/conf/connections/NAME.toml", false: "activeEnvironments of /conf/pierfs.toml"} {
		environments = []control.Environment{{Name: "Test", Active: active}}
		if status, out, _ := s.hand("", "list"); status != 0 || !strings.Contains(out, want) {
			t.Errorf("with Test active (%v) list ends with %d and says %q; want %s", active, status, out, want)
		}
	}
}

// umount and disable say what they did, and what undoes it.
func TestWhatIsTakenAwayIsTold(t *testing.T) {
	s := newStand(t, func(s *control.Server) {
		control.Umount.Serve(s, func(_ context.Context, q control.UmountRequest) (control.MountAnswer, error) {
			return control.MountAnswer{Connections: []control.Connection{{Name: q.Name, Environment: "Test", State: control.StateUnmounted}}}, nil
		})
		control.Enable.Serve(s, func(context.Context, control.EnableRequest) (control.ChangeAnswer, error) {
			return control.ChangeAnswer{Apply: &control.ApplyAnswer{}}, nil
		})
	})
	for verb, want := range map[string]string{"umount": "unmounted: one in Test; `pierfs mount one`", "disable": "disabled: one, until `pierfs enable one`", "enable": "enabled: one\n"} {
		if status, out, _ := s.hand("", verb, "one"); status != 0 || !strings.Contains(out, want) {
			t.Errorf("%s ends with %d and says %q; want %q", verb, status, out, want)
		}
	}
}

func TestFailuresEndWithTheirStatus(t *testing.T) {
	s := newStand(t, func(s *control.Server) {
		control.Stat.Serve(s, func(_ context.Context, q control.FileRequest) (control.File, error) {
			return control.File{}, control.Errorf(control.Code(q.Path), "as asked").WithHint("way out")
		})
	})
	for _, code := range control.Codes() {
		status, out, errOut := s.hand("", "stat", "x:"+string(code))
		if status != code.Exit() || out != "" || !strings.Contains(errOut, "as asked") || !strings.Contains(errOut, "way out") {
			t.Errorf("%s ended with %d, printed %q and %q", code, status, out, errOut)
		}
		status, out, errOut = s.hand("", "stat", "x:"+string(code), "--json")
		var failure struct{ Error control.Error }
		if err := json.Unmarshal([]byte(out), &failure); err != nil || status != code.Exit() || failure.Error.Code != code || errOut != "" {
			t.Errorf("%s as JSON ended with %d, %q, %q", code, status, out, errOut)
		}
	}
	for _, args := range [][]string{{"nonsense"}, {"stat"}, {"stat", "nocolon"}, {"ls", "--nonsense"}, {"mount", "x", "y"}, {"mv", "a:x", "b:y"}} {
		if status, _, errOut := s.hand("", args...); status != 64 || errOut == "" {
			t.Errorf("pierfs %q ended with %d, %q; want 64", args, status, errOut)
		}
	}
	if _, _, errOut := s.hand("", "lst"); !strings.Contains(errOut, "did you mean") || !strings.Contains(errOut, "list") {
		t.Errorf("a misspelt command is told %q", errOut)
	}
	empty := &stand{t: t, run: t.TempDir()}
	if status, _, errOut := empty.hand("", "list"); status != 69 || !strings.Contains(errOut, "pierfsd") {
		t.Errorf("without a daemon: %d, %q; want 69 and what to start", status, errOut)
	}
}

func TestGetReplacesOnlyByTheWhole(t *testing.T) {
	s := newStand(t, func(s *control.Server) {
		control.Get.Serve(s, func(_ context.Context, q control.GetRequest, start func(control.Got) (io.Writer, error)) error {
			w, err := start(control.Got{File: control.File{Name: q.Path, Size: 6}})
			if err != nil {
				return err
			}
			if _, err = io.WriteString(w, "half"); err != nil || q.Path == "cut" {
				return control.Errorf(control.Failed, "the server went away")
			}
			_, err = io.WriteString(w, "..")
			return err
		})
	})
	dir := t.TempDir()
	local := filepath.Join(dir, "f")
	if err := os.WriteFile(local, []byte("old"), 0o640); err != nil {
		t.Fatal(err)
	}
	if status, _, _ := s.hand("", "get", "x:cut", local); status != 74 {
		t.Errorf("a cut get ended with %d; want 74", status)
	}
	if got, err := os.ReadFile(local); err != nil || string(got) != "old" {
		t.Errorf("a cut get left %q, %v", got, err)
	}
	if status, _, errOut := s.hand("", "get", "x:whole", local); status != 0 {
		t.Errorf("get ended with %d: %s", status, errOut)
	}
	info, err := os.Stat(local)
	if got, readErr := os.ReadFile(local); readErr != nil || err != nil || string(got) != "half.." || info.Mode().Perm() != 0o640 {
		t.Errorf("get left %q, %v, %v", got, info, err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("get left %v beside the file", entries)
	}
	if status, out, _ := s.hand("", "get", "x:whole", "-"); status != 0 || out != "half.." {
		t.Errorf("get to standard output gave %d, %q", status, out)
	}
	if status, _, _ := s.hand("", "get", "x:whole", "/dev/null"); status != 0 {
		t.Errorf("get to a device ended with %d", status)
	}
	if info, err := os.Stat("/dev/null"); err != nil || info.Mode()&os.ModeDevice == 0 {
		t.Fatalf("get took the place of a device: %v, %v", info, err)
	}
}

func TestPutSendsTheFileAndItsName(t *testing.T) {
	type sent struct {
		q    control.PutRequest
		text string
	}
	puts := make(chan sent, 1)
	s := newStand(t, func(s *control.Server) {
		control.Put.Serve(s, func(_ context.Context, q control.PutRequest, body io.Reader) (control.File, error) {
			text, err := io.ReadAll(body)
			puts <- sent{q, string(text)}
			return control.File{Name: q.Path}, err
		})
	})
	local := filepath.Join(t.TempDir(), "name")
	if err := os.WriteFile(local, []byte("content"), 0o640); err != nil {
		t.Fatal(err)
	}
	if status, _, errOut := s.hand("", "put", "-n", local, "proj/x:/in/"); status != 0 {
		t.Fatalf("put ended with %d: %s", status, errOut)
	}
	got := <-puts
	if got.text != "content" || got.q.Connection != "proj/x" || got.q.Path != "/in/" || got.q.Into != "name" || got.q.Mode != 0o640 || *got.q.Size != 7 || !got.q.NoReplace {
		t.Errorf("put sent %+v", got)
	}
	if status, _, _ := s.hand("piped", "put", "-", "x:f"); status != 0 {
		t.Errorf("put of standard input ended with %d", status)
	}
	if got := <-puts; got.text != "piped" || got.q.Size != nil || got.q.Into != "" {
		t.Errorf("put of standard input sent %+v", got)
	}
	if status, _, _ := s.hand("", "put", local+".none", "x:f"); status != 66 {
		t.Errorf("put of a missing file ended with %d; want 66", status)
	}
}

func TestMountHandsThePasswordOver(t *testing.T) {
	const canary = "canary-h4nd"
	asked := make(chan control.MountURLRequest, 1)
	s := newStand(t, func(s *control.Server) {
		control.Status.Serve(s, func(context.Context, control.StatusRequest) (control.StatusAnswer, error) {
			return control.StatusAnswer{}, nil
		})
		control.MountURL.Serve(s, func(_ context.Context, q control.MountURLRequest) (control.MountAnswer, error) {
			asked <- q
			return control.MountAnswer{}, nil
		})
	})
	dir := t.TempDir()
	file := filepath.Join(t.TempDir(), "pw")
	if err := os.WriteFile(file, []byte(canary+"\nmore\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, way := range []string{"file", "variable", "stdin"} {
		args := []string{"mount", "sftp://u@h/d", dir, "-o", "readOnly,retryCount=1", "-o", "timeout=9s", "--host-key", "SHA256:x"}
		in := ""
		switch way {
		case "file":
			args = append(args, "--password-file", file)
		case "variable":
			t.Setenv(passwordVariable, canary)
		case "stdin":
			in, args = canary+"\r\n", append(args, "--password-file", "-")
		}
		status, out, errOut := s.hand(in, args...)
		q := <-asked
		if status != 0 || q.Password.Open() != canary || q.Dir != dir || strings.Join(q.Options, " ") != "readOnly retryCount=1 timeout=9s" || q.HostKey != "SHA256:x" {
			t.Errorf("by %s: %d, %+v %s", way, status, q, errOut)
		}
		if strings.Contains(out+errOut, canary) {
			t.Errorf("by %s the password was printed: %s%s", way, out, errOut)
		}
	}
}

// An FTP login without a password would send an empty one, which servers count against the account.
func TestMountOverFTPSendsNoEmptyPassword(t *testing.T) {
	asked := make(chan control.MountURLRequest, 1)
	s := newStand(t, func(s *control.Server) {
		control.Status.Serve(s, func(context.Context, control.StatusRequest) (control.StatusAnswer, error) {
			return control.StatusAnswer{}, nil
		})
		control.MountURL.Serve(s, func(_ context.Context, q control.MountURLRequest) (control.MountAnswer, error) {
			asked <- q
			return control.MountAnswer{}, nil
		})
	})
	for args, refused := range map[string]bool{
		"ftp://u@h/d":                    true,
		"FTPES://u@h/d":                  true,
		"ftps://u@h/d":                   true,
		"ftp://h/d -o username=u":        true,
		"ftp://u@h/d --no-password":      false,
		"ftp://h/d":                      false,
		"ftp://anonymous@h/d":            false,
		"ftp://u@h/d -o username=ftp":    false,
		"sftp://u@h/d":                   false,
		"ftp://u:inside@h/d -o readOnly": false, // the daemon says what is wrong with it
	} {
		fields := strings.Fields(args)
		status, out, errOut := s.hand("", append([]string{"mount", fields[0], t.TempDir()}, fields[1:]...)...)
		sent := len(asked) > 0
		if sent {
			<-asked
		}
		if sent == refused || (status != 0) != refused {
			t.Errorf("%s: sent %v, status %d\n%s%s", args, sent, status, out, errOut)
		}
		for _, way := range []string{"--password-file", passwordVariable, "--no-password"} {
			if refused && !strings.Contains(errOut, way) {
				t.Errorf("%s: %q does not tell of %s", args, errOut, way)
			}
		}
	}
}

// What will keep a connection from working is told below the table, also while it works.
func TestListTellsOfWarnings(t *testing.T) {
	s := newStand(t, func(s *control.Server) {
		control.List.Serve(s, func(context.Context, control.ListRequest) (control.ListAnswer, error) {
			return control.ListAnswer{Connections: []control.Connection{{Name: "bank", Environment: "Test", State: control.StateReady,
				Findings: []conncfg.Finding{{Severity: conncfg.Warning, Code: conncfg.CodeCertExpires, Message: "the server's certificate ends"}}}}}, nil
		})
	})
	status, out, errOut := s.hand("", "list")
	if status != 0 || !strings.Contains(out, "\nbank in Test: ready\n") || !strings.Contains(out, "the server's certificate ends [CERT_EXPIRES]") {
		t.Errorf("%d\n%s%s", status, out, errOut)
	}
	if !strings.Contains(out, "a warning, see below") || strings.Contains(out, "an error") {
		t.Errorf("the table takes a warning for an error:\n%s", out)
	}
}

// Whom to believe is an option like others, and a file is named so that the daemon finds it.
func TestMountHandsCertificatesOver(t *testing.T) {
	asked := make(chan control.MountURLRequest, 1)
	s := newStand(t, func(s *control.Server) {
		control.Status.Serve(s, func(context.Context, control.StatusRequest) (control.StatusAnswer, error) {
			return control.StatusAnswer{}, nil
		})
		control.MountURL.Serve(s, func(_ context.Context, q control.MountURLRequest) (control.MountAnswer, error) {
			asked <- q
			return control.MountAnswer{Trusted: &control.TrustAnswer{Address: "h:990", Fingerprint: "SHA256:x", Certificate: &control.Certificate{Subject: "CN=h", Names: []string{"h", "h2"}}}}, nil
		})
	})
	t.Chdir(t.TempDir())
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	status, out, errOut := s.hand("", "mount", "ftps://u@h/d", t.TempDir(), "--no-password", "--ca", "ca.pem", "--trust-cert", "AA:BB")
	q := <-asked
	if want := []string{"caFile=" + filepath.Join(here, "ca.pem"), "trustCert=AA:BB"}; status != 0 || !slices.Equal(q.Options, want) {
		t.Errorf("%d, %q %s; want the options %q", status, q.Options, errOut, want)
	}
	for _, want := range []string{"h:990, certificate SHA256:x", "CN=h", "h, h2"} {
		if !strings.Contains(out, want) {
			t.Errorf("what was trusted is printed without %q:\n%s", want, out)
		}
	}
}

func TestCheckWorksAlone(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	check := func() (int, checked) {
		var out bytes.Buffer
		status := run(t.Context(), []string{"check", "--json", "--config-dir", dir}, nil, &out, io.Discard)
		var c checked
		if err := json.Unmarshal(out.Bytes(), &c); err != nil {
			t.Fatalf("check printed %q: %v", out.String(), err)
		}
		return status, c
	}
	write("connections/one.toml", "protocol = \"SFTP\"\nhost = \"h\"\nusername = \"u\"\nworkingDir = \"/x\"\n")
	if status, c := check(); status != 0 || c.Connections != 1 || c.Errors != 0 {
		t.Errorf("good definitions gave %d, %+v", status, c)
	}
	write("connections/two.toml", "protocol = \"SFTP\"\nhost = \"h\"\nprot = 7\n")
	status, c := check()
	if status != 78 || c.Errors < 2 {
		t.Errorf("bad definitions gave %d, %+v; want 78 and every error", status, c)
	}
}

// The hand links no protocol, no kernel interface and no cache: what it can do, the daemon was asked for.
func TestHandLinksNoProtocol(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").CombinedOutput()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, out)
	}
	for dep := range strings.Lines(string(out)) {
		for _, banned := range []string{"pierfs/backends/", "pierfs/fs", "pierfs/cache", "golang.org/x/crypto/ssh", "github.com/pkg/sftp", "github.com/hanwen"} {
			if strings.HasPrefix(strings.TrimSpace(dep), banned) {
				t.Errorf("pierfs links %s", strings.TrimSpace(dep))
			}
		}
	}
}

// Whoever goes on after mount, apply or enable goes on with what is there: a mount whose server cannot be used ends them with
// the cause, unless the caller says that the mount is enough.
func TestMountsWithoutTheirServerEndWithTheCause(t *testing.T) {
	var standing []control.Connection
	s := newStand(t, func(s *control.Server) {
		control.Mount.Serve(s, func(context.Context, control.MountRequest) (control.MountAnswer, error) {
			return control.MountAnswer{Connections: standing}, nil
		})
		control.Apply.Serve(s, func(context.Context, control.ApplyRequest) (control.ApplyAnswer, error) {
			return control.ApplyAnswer{Connections: standing}, nil
		})
		control.Enable.Serve(s, func(context.Context, control.EnableRequest) (control.ChangeAnswer, error) {
			return control.ChangeAnswer{Apply: &control.ApplyAnswer{Connections: standing}}, nil
		})
	})
	ready := control.Connection{Name: "fine", Environment: "Test", State: control.StateReady}
	offline := control.Connection{Name: "one", Environment: "Test", State: control.StateOffline, Cause: "auth_failed", Code: control.AuthFailed,
		Reason: "the server refused the password", Hint: "check it"}
	away := control.Connection{Name: "away", Environment: "Test", State: control.StateOffline, Code: control.Unreachable, Reason: "connection refused", Hint: "check host"}
	failed := control.Connection{Name: "none", Environment: "Test", State: control.StateFailed, Code: control.System, Reason: "no /dev/fuse"}
	for _, test := range []struct {
		what     string
		standing []control.Connection
		status   int
		ok       int // with --offline-ok
		told     []string
	}{
		{"ready", []control.Connection{ready}, 0, 0, nil},
		{"refused", []control.Connection{ready, offline, away}, 77, 0,
			[]string{"pierfs: one in Test is mounted, and offline: the server refused the password\n  check it\n", "pierfs: away in Test is mounted, and offline: connection refused\n  check host\n"}},
		{"away", []control.Connection{away}, 69, 0, []string{"connection refused"}},
		{"away for no reason", []control.Connection{{Name: "x", State: control.StateOffline}}, 75, 0, []string{"pierfs: x is mounted, and offline"}},
		{"late", []control.Connection{{Name: "x", State: control.StateStarting}}, 75, 75, []string{"pierfs: x is still starting"}},
		{"not mounted", []control.Connection{offline, failed}, 69, 69, []string{"pierfs: none in Test is not mounted: no /dev/fuse\n"}},
	} {
		standing = test.standing
		for _, command := range [][]string{{"mount", "one"}, {"apply"}, {"enable", "one"}} {
			status, out, errOut := s.hand("", command...)
			if status != test.status || !strings.Contains(out, standing[0].Name) {
				t.Errorf("%s: %v ends with %d, want %d, and the table:\n%s", test.what, command, status, test.status, out)
			}
			if len(test.told) == 0 && errOut != "" {
				t.Errorf("%s: %v says %q", test.what, command, errOut)
			}
			for _, want := range test.told {
				if !strings.Contains(errOut, want) {
					t.Errorf("%s: %v says %q on standard error; want %q", test.what, command, errOut, want)
				}
			}
			status, out, errOut = s.hand("", append(command, "--json")...)
			if status != test.status || !json.Valid([]byte(out)) || errOut != "" {
				t.Errorf("%s: %v --json ends with %d, %q and %q; want %d and one value", test.what, command, status, out, errOut, test.status)
			}
			if status, _, _ := s.hand("", append(command, "--offline-ok")...); status != test.ok {
				t.Errorf("%s: %v --offline-ok ends with %d, want %d", test.what, command, status, test.ok)
			}
		}
	}
}

// status names the command that checks the definitions which the daemon reads, not those that the hand would look for.
func TestStatusTellsHowToCheck(t *testing.T) {
	s := newStand(t, func(s *control.Server) {
		control.Status.Serve(s, func(context.Context, control.StatusRequest) (control.StatusAnswer, error) {
			return control.StatusAnswer{ConfigDir: "/conf"}, nil
		})
	})
	for dir, want := range map[string]string{"/conf": "(pierfs check)\n", "/elsewhere": "(pierfs check --config-dir /conf)\n"} {
		if _, out, _ := s.hand("", "status", "--config-dir", dir); !strings.Contains(out, want) {
			t.Errorf("a hand that looks in %s says %q; want %q", dir, out, want)
		}
	}
}

// A definition in a file may leave out what it is called: it has the file's name, as those that are saved.
func TestTestOfAFileTellsItsName(t *testing.T) {
	asked := make(chan control.TestRequest, 1)
	s := newStand(t, func(s *control.Server) {
		control.Test.Serve(s, func(_ context.Context, q control.TestRequest, send func(control.Step) error) error {
			asked <- q
			return send(control.Step{Step: "resolve", OK: true})
		})
	})
	file := filepath.Join(t.TempDir(), "draft.toml")
	if err := os.WriteFile(file, []byte("host = 'h'"), 0o600); err != nil {
		t.Fatal(err)
	}
	if status, out, errOut := s.hand("", "test", file); status != 0 {
		t.Fatalf("test ends with %d: %s%s", status, out, errOut)
	}
	if q := <-asked; q.Name != "draft" || q.Definition.Open() != "host = 'h'" {
		t.Errorf("asked for %q, %q; want the file's name and content", q.Name, q.Definition.Open())
	}
}
