package jail_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pierfs/backends"
	"pierfs/backends/backendtest"
	"pierfs/backends/jail"
	"pierfs/backends/mem"
)

const root = "/srv/data"

// walled is a server with a secret outside of the working directory, and the jail on it.
func walled(readOnly bool) (*mem.Backend, *jail.Backend) {
	server := mem.New(mem.Options{WorkingDir: root})
	server.MakeDir("/etc")
	server.WriteFile("/etc/passwd", []byte("secret"))
	server.WriteFile("/srv/neighbour", []byte("secret"))
	return server, jail.New(server, jail.Options{ReadOnly: readOnly, Roots: func() []string { return []string{root} }})
}

func TestContract(t *testing.T) {
	backendtest.Run(t, func(t *testing.T) backends.Backend {
		_, b := walled(false)
		return b
	}, backendtest.Options{Beside: true, Confined: true})
}

func code(t *testing.T, err error, did string, want syscall.Errno) {
	t.Helper()
	e, ok := errors.AsType[*backends.Error](err)
	if !ok || e.Code != want || e.Class != backends.Final {
		t.Errorf("%s: got %v, want %v, final", did, err, want)
	}
}

func TestReadlinkLeadsNowhereElse(t *testing.T) {
	const refused = "refused"
	for _, c := range []struct{ name, target, want string }{
		{"link", "file", "file"},
		{"link", "./file", "./file"},
		{"link", "/etc/passwd", refused},
		{"link", "/", refused},
		{"link", "/srv", refused},
		{"link", "/srv/database", refused}, // begins as the root does
		{"link", "/srv/data", "."},
		{"link", "/srv/data/dir/file", "dir/file"},
		{"link", "/srv/data/../neighbour", refused},
		{"link", "//srv//data/./dir/", "dir"},
		{"dir/sub/link", "/srv/data/dir/file", "../file"},
		{"dir/sub/link", "/srv/data", "../.."},
		{"link", "..", refused},
		{"link", "../neighbour", refused},
		{"link", "dir/../../neighbour", refused},
		{"dir/link", "..", ".."},
		{"dir/link", "../file", "../file"},
		{"dir/link", "../../neighbour", refused},
		{"dir/sub/link", "../../file", "../../file"},
		{"dir/sub/link", "../../../neighbour", refused},
		{"dir/sub/link", ".././../file", ".././../file"},
		{"link", "dir/../file", "file"},
		{"link", "nothing/../file", "file"},
		// "short" leads to the top, so that the kernel would climb from there.
		{"dir/sub/link", "short/../../etc/passwd", refused},
		{"dir/sub/link", "short/../file", refused},
		{"dir/sub/link", "short/file", "short/file"},
		// "deep" leads to dir/sub, which the text alone does not tell.
		{"link", "deep/../file", "dir/file"},
		{"link", "loop/../file", refused},
	} {
		t.Run(c.name+" to "+c.target, func(t *testing.T) {
			server, b := walled(false)
			server.MakeDir("dir/sub")
			server.MakeLink("../..", "dir/sub/short")
			server.MakeLink("dir/sub", "deep")
			server.MakeLink("loop", "loop")
			server.MakeLink(c.target, c.name)
			got, err := b.Readlink(t.Context(), c.name)
			switch {
			case c.want != refused:
				if got != c.want || err != nil {
					t.Errorf("got %q, %v, want %q", got, err, c.want)
				}
			case strings.HasPrefix(c.target, "loop"):
				code(t, err, "readlink", syscall.ELOOP)
			default:
				code(t, err, "readlink", syscall.EPERM)
			}
		})
	}
}

func TestReadlinkOfNonsenseIsEIO(t *testing.T) {
	for _, target := range []string{"", "nul\x00", strings.Repeat("x/", 3000)} {
		server, b := walled(false)
		server.MakeLink(target, "link")
		_, err := b.Readlink(t.Context(), "link")
		code(t, err, fmt.Sprintf("readlink of %d bytes", len(target)), syscall.EIO)
	}
}

func TestSymlinkMakesNothingThatLeadsOut(t *testing.T) {
	for target, ok := range map[string]bool{
		"file": true, "../file": true, "../../file": false, "/etc/passwd": false, "/srv/data/file": true, "/srv": false, "a/../..": true,
		"a/../../..": false, "..": true, "../..": false,
	} {
		server, b := walled(false)
		server.MakeDir("dir")
		err := b.Symlink(t.Context(), target, "dir/link")
		if ok && err != nil {
			t.Errorf("symlink to %q: got %v, want success", target, err)
		}
		if !ok {
			code(t, err, "symlink to "+target, syscall.EPERM)
			if server.Calls()["symlink"] != 0 {
				t.Errorf("symlink to %q was sent", target)
			}
		}
	}
}

// TestServerFollowsNoLinkOut asks every call for names that lead out through a link of the server.
// Holds rows 24 and 77 of the requirements.
func TestServerFollowsNoLinkOut(t *testing.T) {
	ctx := t.Context()
	type call func(b backends.Backend, name string) error
	follows := map[string]call{ // also in the last element
		"open":   func(b backends.Backend, n string) error { _, err := b.Open(ctx, n); return err },
		"update": func(b backends.Backend, n string) error { _, err := b.Update(ctx, n); return err },
		"create": func(b backends.Backend, n string) error { _, err := b.Create(ctx, n, backends.WriteMode{}); return err },
	}
	lists := call(func(b backends.Backend, n string) error {
		for info, err := range b.List(ctx, n) {
			if err == nil {
				return fmt.Errorf("listed %q", info.Name)
			}
			return err
		}
		return nil
	})
	through := map[string]call{
		"stat":     func(b backends.Backend, n string) error { _, err := b.Stat(ctx, n); return err },
		"mkdir":    func(b backends.Backend, n string) error { return b.Mkdir(ctx, n, 0o755) },
		"remove":   func(b backends.Backend, n string) error { return b.Remove(ctx, n) },
		"rmdir":    func(b backends.Backend, n string) error { return b.Rmdir(ctx, n) },
		"setattr":  func(b backends.Backend, n string) error { _, err := b.SetAttr(ctx, n, backends.Attr{}); return err },
		"rename":   func(b backends.Backend, n string) error { return b.Rename(ctx, n, "new", backends.Replace) },
		"renameto": func(b backends.Backend, n string) error { return b.Rename(ctx, "file", n, backends.Replace) },
		"link":     func(b backends.Backend, n string) error { return b.Link(ctx, n, "new") },
		"linkto":   func(b backends.Backend, n string) error { return b.Link(ctx, "file", n) },
		"symlink":  func(b backends.Backend, n string) error { return b.Symlink(ctx, "file", n) },
		"readlink": func(b backends.Backend, n string) error { _, err := b.Readlink(ctx, n); return err },
		"temp": func(b backends.Backend, n string) error {
			_, err := b.Create(ctx, "new", backends.WriteMode{TempName: n})
			return err
		},
	}
	try := func(op, name string, call call) {
		t.Run(op+" "+name, func(t *testing.T) {
			server, b := walled(false)
			server.WriteFile("file", []byte("x"))
			server.MakeDir("dir")
			server.MakeLink("/etc", "out")
			server.MakeLink("/etc/passwd", "passwd")
			server.MakeLink("../..", "up")
			server.MakeLink("out", "indirect")
			server.MakeLink("../out/passwd", "dir/far")
			code(t, call(b, name), op, syscall.EPERM)
			if content, err := server.ReadFile("/etc/passwd"); string(content) != "secret" {
				t.Errorf("the file outside holds %q, %v", content, err)
			}
			if names, _ := server.Names("/etc"); !slices.Equal(names, []string{"passwd"}) {
				t.Errorf("outside there is %q", names)
			}
		})
	}
	for op, call := range follows {
		for _, name := range []string{"passwd", "dir/far", "out/passwd", "up/etc/passwd", "indirect/passwd"} {
			try(op, name, call)
		}
	}
	for op, call := range through {
		for _, name := range []string{"out/passwd", "up/etc/passwd", "indirect/passwd"} {
			try(op, name, call)
		}
	}
	for _, name := range []string{"out", "up", "indirect", "up/etc"} {
		try("list", name, lists)
	}
}

// TestTemporaryNameCostsNoQuestion: whether a link bears it need not be asked, for it is made new.
func TestTemporaryNameCostsNoQuestion(t *testing.T) {
	server, b := walled(false)
	server.MakeLink("/etc/passwd", ".temp")
	w, err := b.Create(t.Context(), "file", backends.WriteMode{TempName: ".temp", Perm: 0o644})
	if err != nil {
		t.Fatal(err)
	}
	if calls := server.Calls(); len(calls) != 1 || calls["create"] != 1 {
		t.Errorf("Create made the calls %v, want itself alone", calls)
	}
	if _, err := w.Commit(t.Context(), backends.Commit{}); err != nil {
		t.Error(err)
	}
	if content, err := server.ReadFile("/etc/passwd"); string(content) != "secret" {
		t.Errorf("the file outside holds %q, %v", content, err)
	}
}

func TestLinksInsideAreFollowed(t *testing.T) {
	ctx := t.Context()
	server, b := walled(false)
	server.MakeDir("dir/sub")
	server.WriteFile("dir/sub/file", []byte("text"))
	server.MakeLink("dir/sub", "link")
	server.MakeLink(root+"/dir", "absolute")
	server.MakeLink("../link/file", "dir/far")
	for _, name := range []string{"link/file", "absolute/sub/file", "dir/far", "absolute/far"} {
		r, err := b.Open(ctx, name)
		if err != nil {
			t.Errorf("open %s: %v", name, err)
			continue
		}
		p := make([]byte, 4)
		if n, err := r.ReadAt(ctx, p, 0); string(p[:n]) != "text" {
			t.Errorf("%s: got %q, %v", name, p[:n], err)
		}
		r.Close()
	}
	for info, err := range b.List(ctx, "link") {
		if err != nil || info.Name != "file" {
			t.Errorf("list link: got %+v, %v", info, err)
		}
	}
	if info, err := b.Stat(ctx, "link"); err != nil || info.Mode&os.ModeSymlink == 0 {
		t.Errorf("stat link: got %+v, %v, want a link", info, err)
	}
}

func TestADirectoryTurnedIntoALinkIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, b := walled(false)
		server.MakeDir("dir")
		server.WriteFile("dir/passwd", []byte("x"))
		if _, err := b.Stat(t.Context(), "dir/passwd"); err != nil {
			t.Fatal(err)
		}
		server.Delete("dir")
		server.MakeLink("/etc", "dir")
		time.Sleep(time.Minute)
		_, err := b.Open(t.Context(), "dir/passwd")
		code(t, err, "open", syscall.EPERM)
	})
}

func TestAWarmNameCostsNothingMore(t *testing.T) {
	ctx := t.Context()
	server, b := walled(false)
	server.MakeDir("dir")
	server.WriteFile("dir/file", []byte("x"))
	for _, name := range []string{"dir", "dir/file"} { // as the kernel looks them up
		if _, err := b.Stat(ctx, name); err != nil {
			t.Fatal(err)
		}
	}
	r, err := b.Open(ctx, "dir/file")
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	if err := b.Remove(ctx, "dir/file"); err != nil {
		t.Fatal(err)
	}
	if err := b.Mkdir(ctx, "dir/new", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := b.Mkdir(ctx, "dir/new/sub", 0o755); err != nil {
		t.Fatal(err)
	}
	if calls := server.Calls(); calls["stat"] != 2 || calls["open"] != 1 || calls["remove"] != 1 || calls["mkdir"] != 2 || len(calls) != 4 {
		t.Errorf("calls: got %v, want 2 stat, 1 open, 1 remove, 2 mkdir", calls)
	}
}

// TestNewFilesCostNoQuestion: a file that is made new, and takes its name from one that nobody has asked for, costs nothing that its
// directory or a link in its place would have to be asked for again and again.
func TestNewFilesCostNoQuestion(t *testing.T) {
	ctx := t.Context()
	server, b := walled(false)
	server.MakeDir("dir")
	server.MakeLink("/etc/passwd", "dir/.temp2")
	if _, err := b.Stat(ctx, "dir"); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		temp, name := fmt.Sprint("dir/.temp", i), fmt.Sprint("dir/", i)
		w, err := b.Create(ctx, temp, backends.WriteMode{Exclusive: true, Perm: 0o644})
		if i == 2 { // a link is in the way, and not followed
			code(t, err, "create", syscall.EEXIST)
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Commit(ctx, backends.Commit{}); err != nil {
			t.Fatal(err)
		}
		if err := b.Rename(ctx, temp, name, backends.NoReplace); err != nil {
			t.Fatal(err)
		}
	}
	if calls := server.Calls(); calls["stat"] != 1 {
		t.Errorf("calls: got %v, want 1 stat", calls)
	}
}

// TestNothingBelowWhatWasMovedIsBelieved: what is known of names below a directory is not taken for those that bear them after it was
// renamed, or after another took its place.
func TestNothingBelowWhatWasMovedIsBelieved(t *testing.T) {
	ctx := t.Context()
	server, b := walled(false)
	for _, dir := range []string{"a", "a/sub", "c"} {
		server.MakeDir(dir)
		if _, err := b.Stat(ctx, dir); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Rename(ctx, "a", "b", backends.Replace); err != nil {
		t.Fatal(err)
	}
	server.MakeDir("a")
	server.MakeLink("/etc", "a/sub")
	_, err := b.Open(ctx, "a/sub/passwd")
	code(t, err, "open", syscall.EPERM)
}

// liar is a server that lists what no directory can hold.
type liar struct{ backends.Backend }

func (liar) List(context.Context, string) iter.Seq2[backends.Info, error] {
	return func(yield func(backends.Info, error) bool) {
		for _, name := range []string{"", ".", "..", "../up", "/etc", "a/b", "nul\x00", strings.Repeat("n", 256), "honest"} {
			if !yield(backends.Info{Name: name, Known: backends.HasType}, nil) {
				return
			}
		}
	}
}

func TestListingsBringUpNoNameThatLeadsOut(t *testing.T) {
	server, _ := walled(false)
	b := jail.New(liar{server}, jail.Options{})
	for info, err := range b.List(t.Context(), "") {
		if err != nil || info.Name != "honest" {
			t.Errorf("got %q, %v", info.Name, err)
		}
	}
	if n := b.Caps().Hidden; n != 8 {
		t.Errorf("%d hidden, want 8", n)
	}
}

// Holds row 78 of the requirements.
func TestReadOnlySendsNothing(t *testing.T) {
	ctx := t.Context()
	server, b := walled(true)
	server.WriteFile("file", []byte("x"))
	if !b.Caps().ReadOnly {
		t.Error("Caps().ReadOnly is false")
	}
	for op, call := range map[string]func() error{
		"create":  func() error { _, err := b.Create(ctx, "new", backends.WriteMode{TempName: ".temp"}); return err },
		"update":  func() error { _, err := b.Update(ctx, "file"); return err },
		"mkdir":   func() error { return b.Mkdir(ctx, "dir", 0o755) },
		"remove":  func() error { return b.Remove(ctx, "file") },
		"rmdir":   func() error { return b.Rmdir(ctx, "dir") },
		"rename":  func() error { return b.Rename(ctx, "file", "new", backends.Replace) },
		"setattr": func() error { _, err := b.SetAttr(ctx, "file", backends.Attr{}); return err },
		"symlink": func() error { return b.Symlink(ctx, "file", "link") },
		"link":    func() error { return b.Link(ctx, "file", "new") },
	} {
		code(t, call(), op, syscall.EROFS)
	}
	if calls := server.Calls(); len(calls) != 0 {
		t.Errorf("calls were sent: %v", calls)
	}
	if _, err := b.Stat(ctx, "file"); err != nil {
		t.Errorf("stat: %v", err)
	}
}
