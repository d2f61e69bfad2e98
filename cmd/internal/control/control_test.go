package control_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"pierfs/cmd/internal/control"
)

// TestMain lets the test binary play a caller of another user: see TestStrangerIsRefused.
func TestMain(m *testing.M) {
	if dir := os.Getenv("CONTROL_TEST_CALL"); dir != "" {
		_, err := control.List.Call(context.Background(), control.NewClient(dir), control.ListRequest{})
		fmt.Print(control.CodeOf(err))
		return
	}
	os.Exit(m.Run())
}

// serve runs a server whose verbs setup registers and returns a client of it.
func serve(t *testing.T, setup func(*control.Server)) (*control.Client, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "run")
	s := control.NewServer(slog.New(slog.DiscardHandler))
	setup(s)
	l, err := control.Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, l, time.Second) }()
	c := control.NewClient(dir)
	t.Cleanup(func() {
		c.Close()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("server ended with %v", err)
		}
	})
	return c, dir
}

func TestVerbRoundTrip(t *testing.T) {
	c, _ := serve(t, func(s *control.Server) {
		control.Mkdir.Serve(s, func(ctx context.Context, q control.MkdirRequest) (control.File, error) {
			peer, ok := control.PeerOf(ctx)
			if !ok || int(peer.UID) != os.Getuid() || int(peer.PID) != os.Getpid() {
				t.Errorf("peer of the request is %+v, %v; want this process", peer, ok)
			}
			if q.Connection == "bad" {
				return control.File{}, control.Errorf(control.Exists, "%q is there", q.Path).WithHint("choose another")
			}
			return control.File{Name: q.Path, Mode: fmt.Sprintf("%04o", q.Mode)}, nil
		})
	})
	name := control.Name("a b\n\xff\xfe")
	got, err := control.Mkdir.Call(t.Context(), c, control.MkdirRequest{Mode: 0o700,
		FileRequest: control.FileRequest{Connection: "x", Path: name}})
	if err != nil || got.Name != name || got.Mode != "0700" {
		t.Errorf("mkdir answered %+v, %v; want the name's own bytes and the mode", got, err)
	}
	_, err = control.Mkdir.Call(t.Context(), c, control.MkdirRequest{FileRequest: control.FileRequest{Connection: "bad", Path: "p"}})
	var e *control.Error
	if !errors.As(err, &e) || e.Code != control.Exists || e.Hint != "choose another" || e.Text != `"p" is there` {
		t.Errorf("mkdir failed with %#v; want code, text and hint as the handler gave them", err)
	}
}

func TestVerbThatPanicsIsAnError(t *testing.T) {
	c, _ := serve(t, func(s *control.Server) {
		control.List.Serve(s, func(context.Context, control.ListRequest) (control.ListAnswer, error) { panic("broken") })
	})
	for range 2 { // the server lives on
		if _, err := control.List.Call(t.Context(), c, control.ListRequest{}); control.CodeOf(err) != control.Internal {
			t.Errorf("a verb that panics gave %v; want code %s", err, control.Internal)
		}
	}
}

func TestUploadEndsOnlyInGoodOrder(t *testing.T) {
	type result struct {
		n   int64
		err error
	}
	results := make(chan result, 1)
	c, _ := serve(t, func(s *control.Server) {
		control.Put.Serve(s, func(_ context.Context, q control.PutRequest, body io.Reader) (control.File, error) {
			n, err := io.Copy(io.Discard, body)
			results <- result{n, err}
			return control.File{Name: q.Path, Size: n}, err
		})
	})
	content := bytes.Repeat([]byte("0123456789"), 100_000)
	got, err := control.Put.Call(t.Context(), c, control.PutRequest{}, bytes.NewReader(content))
	if r := <-results; err != nil || r.err != nil || r.n != int64(len(content)) || got.Size != r.n {
		t.Errorf("a whole stream arrived as %d bytes, %v; the hand got %+v, %v", r.n, r.err, got, err)
	}

	broken := errors.New("disk broke")
	_, err = control.Put.Call(t.Context(), c, control.PutRequest{}, io.MultiReader(bytes.NewReader(content), failing{broken}))
	if r := <-results; control.CodeOf(r.err) != control.Cut {
		t.Errorf("a stream whose source failed ended with %v after %d bytes; want code %s", r.err, r.n, control.Cut)
	}
	if !errors.Is(err, broken) {
		t.Errorf("the hand was told %v; want its own source's error", err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	reader, writer := io.Pipe()
	go func() {
		_, _ = writer.Write(content) // ends with the pipe
		cancel()                     // the hand is killed in the middle
	}()
	// The source says nothing more, as a terminal that nobody types at: the call ends all the same.
	if _, err := control.Put.Call(ctx, c, control.PutRequest{}, reader); err == nil {
		t.Error("an upload whose context ended gave no error")
	}
	if r := <-results; control.CodeOf(r.err) != control.Cut {
		t.Errorf("a stream that was cut ended with %v after %d bytes; want code %s", r.err, r.n, control.Cut)
	}
}

// A refusal reaches the hand also while its source is silent.
func TestRefusedUploadDoesNotWaitForItsSource(t *testing.T) {
	c, _ := serve(t, func(s *control.Server) {
		control.Put.Serve(s, func(context.Context, control.PutRequest, io.Reader) (control.File, error) {
			return control.File{}, control.Errorf(control.NotFound, "no such connection")
		})
	})
	silent, _ := io.Pipe()
	defer silent.Close()
	_, err := control.Put.Call(t.Context(), c, control.PutRequest{}, silent)
	if control.CodeOf(err) != control.NotFound {
		t.Errorf("a refused upload ended with %v; want code %s", err, control.NotFound)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestDownloadTellsFailureBehindTheStream(t *testing.T) {
	content := bytes.Repeat([]byte("x"), 300_000)
	c, _ := serve(t, func(s *control.Server) {
		control.Get.Serve(s, func(_ context.Context, q control.GetRequest, start func(control.Got) (io.Writer, error)) error {
			switch q.Path {
			case "absent":
				return control.Errorf(control.NotFound, "absent")
			case "panics":
				w, err := start(control.Got{})
				if err != nil {
					return err
				}
				_, _ = w.Write(content)
				panic("in the middle")
			}
			w, err := start(control.Got{File: control.File{Name: q.Path, Size: int64(len(content))}})
			if err != nil {
				return err
			}
			if _, err := w.Write(content); err != nil {
				return err
			}
			if q.Path == "half" {
				return control.Errorf(control.Failed, "the server went away")
			}
			return nil
		})
	})
	for _, test := range []struct {
		path control.Name
		want control.Code
	}{{"whole", ""}, {"half", control.Failed}, {"panics", control.Internal}, {"absent", control.NotFound}} {
		file, body, err := control.Get.Call(t.Context(), c, control.GetRequest{FileRequest: control.FileRequest{Path: test.path}})
		if err == nil {
			var got []byte
			got, err = io.ReadAll(body)
			if err == nil && (len(got) != len(content) || file.Name != test.path) {
				t.Errorf("get %s: %d bytes as %+v without an error", test.path, len(got), file)
			}
			body.Close()
		}
		if control.CodeOf(err) != test.want {
			t.Errorf("get %s ended with %v; want code %q", test.path, err, test.want)
		}
	}
}

func TestFeed(t *testing.T) {
	c, _ := serve(t, func(s *control.Server) {
		control.Ls.Serve(s, func(_ context.Context, q control.LsRequest, send func(control.File) error) error {
			if q.Path == "empty" {
				return nil
			}
			for i := range 10_000 {
				if err := send(control.File{Name: control.Name(fmt.Sprintf("f%d", i))}); err != nil {
					return err
				}
			}
			if q.Path == "half" {
				return control.Errorf(control.Failed, "cut")
			}
			return nil
		})
	})
	for _, test := range []struct {
		path control.Name
		n    int
		want control.Code
	}{{"all", 10_000, ""}, {"half", 10_000, control.Failed}, {"empty", 0, ""}} {
		n, code := 0, control.Code("")
		for file, err := range control.Ls.Call(t.Context(), c, control.LsRequest{FileRequest: control.FileRequest{Path: test.path}}) {
			if err != nil {
				code = control.CodeOf(err)
				break
			}
			if want := control.Name(fmt.Sprintf("f%d", n)); file.Name != want {
				t.Fatalf("entry %d is %q; want %q", n, file.Name, want)
			}
			n++
		}
		if n != test.n || code != test.want {
			t.Errorf("ls %s: %d entries, then code %q; want %d and %q", test.path, n, code, test.n, test.want)
		}
	}
}

func TestRequestsAreBounded(t *testing.T) {
	c, dir := serve(t, func(s *control.Server) {
		control.Show.Serve(s, func(context.Context, control.ShowRequest) (control.ShowAnswer, error) {
			return control.ShowAnswer{}, nil
		})
	})
	_, err := control.Show.Call(t.Context(), c, control.ShowRequest{Name: strings.Repeat("x", 2<<20)})
	if code := control.CodeOf(err); code != control.BadData && code != control.Cut {
		t.Errorf("a request of 2 MiB gave %v; want code %s", err, control.BadData)
	}
	for _, body := range []string{"", "{", `{"name":1}`, `{"nmae":"x"}`, `{} {}`, `[]`, "\xff"} {
		if status := post(t, dir, "/v1/show", body); status < 400 || status >= 500 {
			t.Errorf("request %q was answered with status %d; want a refusal", body, status)
		}
	}
	if status := post(t, dir, "/v1/nonsense", "{}"); status != http.StatusNotFound {
		t.Errorf("an unknown verb was answered with status %d", status)
	}
}

func post(t *testing.T, dir, path, body string) int {
	t.Helper()
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", control.SocketPath(dir))
	}}}
	resp, err := c.Post("http://pierfs"+path, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

// A process of another user that gets hold of an open socket is refused by what the kernel says of it.
func TestStrangerIsRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to become another user")
	}
	_, dir := serve(t, func(s *control.Server) {
		control.List.Serve(s, func(context.Context, control.ListRequest) (control.ListAnswer, error) {
			return control.ListAnswer{}, nil
		})
	})
	call := func() string {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = []string{"CONTROL_TEST_CALL=" + dir}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("run a stranger: %v: %s", err, out)
		}
		return string(out)
	}
	if got := call(); got != string(control.NotAllowed) {
		t.Errorf("a stranger at a closed directory got %q; want %s", got, control.NotAllowed)
	}
	// Open the way that file modes close, to see that they are not the only lock.
	for p := dir; p != os.TempDir() && p != "/"; p = filepath.Dir(p) {
		if err := os.Chmod(p, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(control.SocketPath(dir), 0o666); err != nil {
		t.Fatal(err)
	}
	if got := call(); got != string(control.NotAllowed) {
		t.Errorf("a stranger at an open socket got %q; want %s", got, control.NotAllowed)
	}
}

func TestListenWantsAClosedDirectory(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if l, err := control.Listen(dir); err == nil {
		l.Close()
		t.Error("a socket was made in a directory of mode 0755")
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second finds the socket of a dead daemon
		l, err := control.Listen(dir)
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
	}
	info, err := os.Stat(control.SocketPath(dir))
	if err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("the socket is %v, %v; want mode 0660", info, err)
	}
}

func TestNoDaemonIsToldAsSuch(t *testing.T) {
	_, err := control.List.Call(t.Context(), control.NewClient(t.TempDir()), control.ListRequest{})
	if code := control.CodeOf(err); code != control.NotRunning || code.Exit() != 69 {
		t.Errorf("no socket gave %v, exit %d; want %s, 69", err, code.Exit(), control.NotRunning)
	}
}

// No answer has a place for a secret, however deep.
func TestAnswersHoldNothingSealed(t *testing.T) {
	var walk func(path string, typ reflect.Type)
	walk = func(path string, typ reflect.Type) {
		switch {
		case typ == reflect.TypeFor[control.Sealed](), strings.Contains(typ.String(), "Secret"):
			t.Errorf("%s is a %s", path, typ)
		case typ == reflect.TypeFor[time.Time]():
		case typ.Kind() == reflect.Struct:
			for f := range slices.Values(reflect.VisibleFields(typ)) {
				walk(path+"."+f.Name, f.Type)
			}
		case slices.Contains([]reflect.Kind{reflect.Slice, reflect.Pointer, reflect.Map, reflect.Array}, typ.Kind()):
			walk(path, typ.Elem())
		case typ.Kind() == reflect.Interface:
			t.Errorf("%s could hold anything", path)
		}
	}
	names := map[string]bool{}
	for _, d := range control.All() {
		if names[d.Name] {
			t.Errorf("two verbs are named %q", d.Name)
		}
		names[d.Name] = true
		walk(d.Name, d.Answer)
	}
}

func TestSealedIsNotPrinted(t *testing.T) {
	q := control.MountURLRequest{Password: control.Seal("canary-7f3a")}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "q", q.Password, "all", q)
	for _, text := range []string{fmt.Sprint(q), fmt.Sprintf("%#v %+v %x %q %s", q, q, q.Password, q.Password, q.Password), log.String()} {
		if strings.Contains(text, "canary") || strings.Contains(text, fmt.Sprintf("%x", "canary")) {
			t.Errorf("a sealed text was printed: %s", text)
		}
	}
	wire, err := json.Marshal(q)
	var back control.MountURLRequest
	if err != nil || json.Unmarshal(wire, &back) != nil || back.Password.Open() != "canary-7f3a" {
		t.Errorf("a sealed text did not travel: %v", err)
	}
}

func FuzzName(f *testing.F) {
	f.Add("a")
	f.Add("\xff/\x00")
	f.Add(`{"bytes":"YQ=="}`)
	f.Fuzz(func(t *testing.T, s string) {
		wire, err := json.Marshal(control.Name(s))
		if err != nil {
			t.Fatal(err)
		}
		var back control.Name
		if err := json.Unmarshal(wire, &back); err != nil || string(back) != s {
			t.Errorf("%q travelled as %s and arrived as %q, %v", s, wire, back, err)
		}
	})
}

// Every verb needs a role, and the table of them names no verb that is not there.
// Holds row 102 of the requirements.
func TestEveryVerbNeedsARole(t *testing.T) {
	for _, v := range control.All() {
		if _, ok := control.NeedOf(v.Name); !ok {
			t.Errorf("%s has no role in roles.go", v.Name)
		}
	}
}
