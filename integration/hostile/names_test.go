package hostile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"pierfs/backends"
)

// TestNames is the first row of the threat table: names that no directory can hold are left out of a listing and counted;
// odd ones that it can hold are there byte for byte; of two equal ones the first wins; and the listing as a whole goes on.
func TestNames(t *testing.T) {
	t.Parallel()
	entries := []Entry{{"honest-1", File{Data: "1"}}, {"twice", File{Data: "1"}}}
	entries = append(entries, BadNames()...)
	for _, name := range OddNames() {
		entries = append(entries, Entry{name, File{}})
	}
	entries = append(entries, Entry{"twice", Link("/etc/passwd")}, Entry{"honest-2", File{Data: "22"}})
	s := New(t, Manner{Rules: []Rule{Lists("dir", entries...)}})
	furnish(s)
	want := slices.Concat([]string{"a", "b", "honest-1", "twice"}, OddNames(), []string{"honest-2"})
	slices.Sort(want)
	connect(t, s, func(c *connection) {
		c.warm()
		var got []string
		twice := 0
		err := c.bounded("list", func(ctx context.Context) error {
			for info, err := range c.List(ctx, "dir") {
				if err != nil {
					return err
				}
				got = append(got, info.Name)
				if info.Name == "twice" && (info.Mode&os.ModeSymlink != 0 || info.Size != 1) {
					twice++
				}
			}
			return nil
		})
		if err != nil {
			t.Errorf("list: %v", err)
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("the listing has\n%q, want\n%q", got, want)
		}
		if twice > 0 {
			t.Error("the second of two equal names has won")
		}
		// "." and ".." come twice, once honestly.
		if hidden := c.Caps().Hidden; hidden == 0 {
			t.Error("names were left out and none is counted")
		}
		for _, name := range []string{"../escape", "/etc/passwd", "a/../../b", ".", "..", "nul\x00byte", strings.Repeat("x", 300), "a//b"} {
			for _, call := range onName {
				err := c.bounded(call.name, func(ctx context.Context) error { return call.do(ctx, c, name) })
				if code := backends.Errno(err); code != syscall.EINVAL && code != syscall.ENAMETOOLONG {
					t.Errorf("%s of %q is answered %v, want EINVAL or ENAMETOOLONG", call.name, name, err)
				}
			}
		}
	})
	if strays := s.Strays(); len(strays) > 0 {
		t.Errorf("the server was asked for what lies outside: %q", strays)
	}
	for _, r := range s.Requests() {
		if strings.ContainsRune(r.Path+r.To, 0) {
			t.Errorf("the server was asked for a name with NUL: %q", r)
		}
	}
}

// onName are the calls that bear one name that they were given.
var onName = []struct {
	name string
	do   func(context.Context, backends.Backend, string) error
}{
	{"stat", func(ctx context.Context, b backends.Backend, name string) error {
		_, err := b.Stat(ctx, name)
		return err
	}},
	{"list", func(ctx context.Context, b backends.Backend, name string) error {
		_, err := list(ctx, b, name)
		return err
	}},
	{"open", func(ctx context.Context, b backends.Backend, name string) error {
		_, err := read(ctx, b, name, 10)
		return err
	}},
	{"create", func(ctx context.Context, b backends.Backend, name string) error {
		return upload(ctx, b, name, "x", backends.WriteMode{TempName: "dir/.temp"})
	}},
	{"temporary name", func(ctx context.Context, b backends.Backend, name string) error {
		return upload(ctx, b, "dir/new", "x", backends.WriteMode{TempName: name})
	}},
	{"update", func(ctx context.Context, b backends.Backend, name string) error {
		w, err := b.Update(ctx, name)
		if err == nil {
			err = errors.Join(errUntrue, w.Abort())
		}
		return err
	}},
	{"mkdir", func(ctx context.Context, b backends.Backend, name string) error { return b.Mkdir(ctx, name, 0o755) }},
	{"remove", func(ctx context.Context, b backends.Backend, name string) error { return b.Remove(ctx, name) }},
	{"rmdir", func(ctx context.Context, b backends.Backend, name string) error { return b.Rmdir(ctx, name) }},
	{"rename from", func(ctx context.Context, b backends.Backend, name string) error {
		return b.Rename(ctx, name, "dir/c", backends.Replace)
	}},
	{"rename to", func(ctx context.Context, b backends.Backend, name string) error {
		return b.Rename(ctx, "dir/a", name, backends.Replace)
	}},
	{"setattr", func(ctx context.Context, b backends.Backend, name string) error {
		_, err := b.SetAttr(ctx, name, backends.Attr{Size: new(int64)})
		return err
	}},
	{"symlink", func(ctx context.Context, b backends.Backend, name string) error { return b.Symlink(ctx, "a", name) }},
	{"readlink", func(ctx context.Context, b backends.Backend, name string) error {
		_, err := b.Readlink(ctx, name)
		return err
	}},
	{"link from", func(ctx context.Context, b backends.Backend, name string) error { return b.Link(ctx, name, "dir/l") }},
	{"link to", func(ctx context.Context, b backends.Backend, name string) error { return b.Link(ctx, "dir/a", name) }},
}

// TestLinks is the second row: a link from the server that leads out of the working directory is EPERM, or is passed on
// as one that stays inside; and nothing that lies outside is read through one.
// Holds rows 24 and 77 of the requirements.
func TestLinks(t *testing.T) {
	t.Parallel()
	s := New(t, Manner{})
	furnish(s)
	s.Put("deep/er/down/file", File{Data: "down"})
	s.Put("deep/er/down/top", Link("../../..")) // the working directory itself
	inside := map[string]string{                // name: target
		"near": "file", "dir/up": "../file", "deep/er/down/far": "../../../dir/a", "dangling": "nowhere", "dotted": "./dir/./a",
	}
	outside := map[string]string{
		"passwd": "/etc/passwd", "root": "/", "up": "..", "upper": "../..", "secret": "../../../secret/key", "dir/uppest": "../../x",
		"sly": "dir/../../x", "prefix": s.Root + "-other/x", "empty": "", "nul": "file\x00", "long": strings.Repeat("x/", 5000),
		// Through a link that itself stays inside: the ".." behind it climbs from where that leads.
		"through": "deep/er/down/top/../../../etc/passwd", "deep/er/down/again": "top/..", "proc": "/proc/self/root/etc/passwd",
	}
	loops := map[string]string{"self": "self", "ping": "pong", "pong": "ping"}
	for _, links := range []map[string]string{inside, outside, loops} {
		for name, target := range links {
			s.Put(name, Link(target))
		}
	}
	s.Put("absolute", Link(s.Root+"/dir/a"))
	connect(t, s, func(c *connection) {
		c.warm()
		for name, target := range inside {
			var got string
			if err := c.bounded("readlink", func(ctx context.Context) (err error) { got, err = c.Readlink(ctx, name); return err }); err != nil || got != target {
				t.Errorf("readlink %q is %q, %v; want %q", name, got, err, target)
			}
		}
		for name, target := range outside {
			if err := c.bounded("readlink", func(ctx context.Context) error {
				got, err := c.Readlink(ctx, name)
				if err == nil {
					err = untrue("%q", got)
				}
				return err
			}); errors.Is(err, errUntrue) {
				t.Errorf("readlink %q, which leads to %.100q, is passed on: %v", name, target, err)
			}
			for _, call := range through {
				if target == "" {
					break // that it leads here is this server's own idea
				}
				err := c.bounded(call.name, func(ctx context.Context) error { return call.do(ctx, c, name) })
				if err == nil || errors.Is(err, errUntrue) {
					t.Errorf("%s through %q, which leads to %.100q, succeeded: %v", call.name, name, target, err)
				}
			}
		}
		for name := range loops {
			for _, call := range through {
				if err := c.bounded(call.name, func(ctx context.Context) error { return call.do(ctx, c, name) }); err == nil {
					t.Errorf("%s through %q, a loop, succeeded", call.name, name)
				}
			}
		}
		var got string
		err := c.bounded("readlink", func(ctx context.Context) (err error) { got, err = c.Readlink(ctx, "absolute"); return err })
		if err == nil && (strings.HasPrefix(got, "/") || got != "dir/a" && got != "./dir/a") {
			t.Errorf("an absolute link to dir/a inside is passed on as %q", got)
		}
		for _, target := range []string{"/etc/passwd", "../x", "dir/../../x", "deep/er/down/top/../x"} {
			if err := c.bounded("symlink", func(ctx context.Context) error { return c.Symlink(ctx, target, "made") }); err == nil {
				t.Errorf("a link to %q, which leads out, was made", target)
			}
		}
	})
	for _, name := range []string{"/etc/passwd", "/secret/key"} {
		if f, _ := s.Get(name); f.Data != Outside {
			t.Errorf("%s was changed to %q", name, f.Data)
		}
	}
}

// through are the calls that a server would follow a link for. Each succeeds only by getting at the other end.
var through = []struct {
	name string
	do   func(context.Context, backends.Backend, string) error
}{
	{"open", func(ctx context.Context, b backends.Backend, name string) error {
		got, err := read(ctx, b, name, 100)
		if strings.Contains(got, "canary") {
			err = errors.Join(err, untrue("read %q", got))
		}
		return err
	}},
	{"list", func(ctx context.Context, b backends.Backend, name string) error {
		names, err := list(ctx, b, name)
		if len(names) > 0 {
			err = errors.Join(err, untrue("listed %q", names))
		}
		return err
	}},
	{"create below", func(ctx context.Context, b backends.Backend, name string) error {
		return upload(ctx, b, name+"/evil", "x", backends.WriteMode{TempName: name + "/.evil"})
	}},
	{"create in place", func(ctx context.Context, b backends.Backend, name string) error {
		return upload(ctx, b, name, "x", backends.WriteMode{})
	}},
	{"update", func(ctx context.Context, b backends.Backend, name string) error {
		w, err := b.Update(ctx, name)
		if err == nil {
			err = finish(ctx, w, "x", 0)
		}
		return err
	}},
	{"stat below", func(ctx context.Context, b backends.Backend, name string) error {
		_, err := b.Stat(ctx, name+"/passwd")
		return err
	}},
	{"mkdir below", func(ctx context.Context, b backends.Backend, name string) error {
		return b.Mkdir(ctx, name+"/made", 0o755)
	}},
	{"rename into", func(ctx context.Context, b backends.Backend, name string) error {
		return b.Rename(ctx, "dir/b", name+"/b", backends.Replace)
	}},
}

// TestSwappedLink: a file that turns into a link out of the working directory between the look and the opening. The content
// of the other file is not passed on as that of the one that was looked at.
func TestSwappedLink(t *testing.T) {
	t.Parallel()
	for _, op := range []Op{Lstat, Realpath, Stat} {
		t.Run(string(op), func(t *testing.T) {
			t.Parallel()
			s := New(t, Manner{})
			furnish(s)
			connect(t, s, func(c *connection) {
				c.warm()
				known, err := c.Stat(t.Context(), "file")
				if err != nil {
					t.Fatal(err)
				}
				s.Behave(Manner{Rules: []Rule{Swaps(op, "file", Link("/secret/key"))}})
				err = c.bounded("read", func(ctx context.Context) error {
					r, err := c.Open(ctx, "file")
					if err != nil {
						return err
					}
					defer r.Close() // it waits for nobody
					p := make([]byte, 100)
					n, info, err := r.ReadLast(ctx, p, 0)
					if strings.Contains(string(p[:n]), "canary") && info.SameVersion(known) {
						return untrue("%q", p[:n])
					}
					if err == io.EOF {
						return nil
					}
					return err
				})
				if errors.Is(err, errUntrue) {
					t.Errorf("what lies outside was read as the file that was looked at: %v", err)
				}
			})
		})
	}
}

// TestKinds: what is neither file nor directory nor link is not opened, whatever the server says of it; opening a pipe would
// stop the server for good.
func TestKinds(t *testing.T) {
	t.Parallel()
	s := New(t, Manner{})
	furnish(s)
	for kind, name := range map[uint32]string{TypeFIFO: "fifo", TypeSocket: "socket", TypeBlock: "block", TypeChar: "char", 0o150000: "door"} {
		s.Put("kinds/"+name, File{Mode: kind | 0o6777, Data: "x"})
	}
	s.Put("kinds/file", File{Mode: TypeRegular | 0o6755, Data: "x"})
	connect(t, s, func(c *connection) {
		c.warm()
		for _, name := range []string{"fifo", "socket", "block", "char", "door"} {
			err := c.bounded("open", func(ctx context.Context) error { _, err := read(ctx, c, "kinds/"+name, 10); return err })
			if err == nil {
				t.Errorf("a %s was read", name)
			}
		}
		seen := map[string]os.FileMode{}
		if err := c.bounded("list", func(ctx context.Context) error {
			for info, err := range c.List(ctx, "kinds") {
				if err != nil {
					return err
				}
				seen[info.Name] = info.Mode
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if mode, ok := seen["file"]; !ok || !mode.IsRegular() {
			t.Errorf("the honest file is listed: %v, as %v", ok, mode)
		}
		for name, mode := range seen {
			if name != "file" && mode.IsRegular() {
				t.Errorf("a %s shows as %v", name, mode)
			}
		}
		got := fmt.Sprint(s.Asked(Open))
		for name := range seen {
			if name != "file" {
				c.bounded("open", func(ctx context.Context) error { _, err := read(ctx, c, "kinds/"+name, 10); return err }) // refused above
			}
		}
		if now := fmt.Sprint(s.Asked(Open)); now != got {
			t.Errorf("after the listing the server was asked to open what is no file: %s times, then %s", got, now)
		}
	})
}
