package backendtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"pierfs/backends"

	"golang.org/x/sync/errgroup"
)

var treeTests = []rule{
	{"mkdir makes a directory once", func(s *suite) {
		s.ok(s.b.Mkdir(s.ctx, "dir", 0o700), "mkdir")
		info := s.stat("dir")
		if !info.IsDir() || s.b.Caps().SetPerm && info.Known.Has(backends.HasPerm) && info.Mode.Perm() != 0o700 {
			s.Errorf("got %v, want a directory of mode 0700", info.Mode)
		}
		s.write("file", "x")
		s.code(s.b.Mkdir(s.ctx, "dir", 0o755), "mkdir of a directory", syscall.EEXIST)
		s.code(s.b.Mkdir(s.ctx, "file", 0o755), "mkdir of a file", syscall.EEXIST)
		s.code(s.b.Mkdir(s.ctx, "", 0o755), "mkdir of the working directory", syscall.EEXIST)
		s.code(s.b.Mkdir(s.ctx, "nothing/dir", 0o755), "mkdir without parent", syscall.ENOENT)
		s.code(s.b.Mkdir(s.ctx, "file/dir", 0o755), "mkdir below a file", syscall.ENOTDIR, syscall.ENOENT)
	}},
	{"remove removes files only", func(s *suite) {
		s.mkdir("dir")
		s.write("file", "x")
		s.code(s.b.Remove(s.ctx, "dir"), "remove dir", syscall.EISDIR)
		s.code(s.b.Remove(s.ctx, "nothing"), "remove nothing", syscall.ENOENT)
		s.code(s.b.Remove(s.ctx, "file/below"), "remove file/below", syscall.ENOTDIR, syscall.ENOENT)
		s.ok(s.b.Remove(s.ctx, "file"), "remove file")
		s.lists("", "dir")
	}},
	{"rmdir removes empty directories only", func(s *suite) {
		s.mkdir("dir")
		s.mkdir("dir/sub")
		s.write("file", "x")
		s.code(s.b.Rmdir(s.ctx, "dir"), "rmdir dir", syscall.ENOTEMPTY)
		s.code(s.b.Rmdir(s.ctx, "file"), "rmdir file", syscall.ENOTDIR)
		s.code(s.b.Rmdir(s.ctx, "nothing"), "rmdir nothing", syscall.ENOENT)
		s.ok(s.b.Rmdir(s.ctx, "dir/sub"), "rmdir dir/sub")
		s.ok(s.b.Rmdir(s.ctx, "dir"), "rmdir dir")
		s.lists("", "file")
	}},
	{"rename moves files and directories", func(s *suite) {
		s.mkdir("a")
		s.mkdir("a/sub")
		s.mkdir("b")
		s.write("a/sub/file", "x")
		for _, mode := range []backends.RenameMode{backends.Replace, backends.NoReplace} {
			s.ok(s.b.Rename(s.ctx, "a/sub/file", "b/moved", mode), "rename file")
			s.ok(s.b.Rename(s.ctx, "b/moved", "a/sub/file", mode), "rename file back")
			s.ok(s.b.Rename(s.ctx, "a/sub", "b/dir", mode), "rename directory")
			s.holds("b/dir/file", "x")
			s.absent("a/sub")
			s.ok(s.b.Rename(s.ctx, "b/dir", "a/sub", mode), "rename directory back")
		}
		s.lists("a", "sub")
		s.lists("b")
	}},
	{"rename meets what is there", renameMatrix},
	{"rename refuses what cannot be", func(s *suite) {
		s.mkdir("dir")
		s.write("file", "x")
		for _, mode := range []backends.RenameMode{backends.Replace, backends.NoReplace} {
			s.code(s.b.Rename(s.ctx, "nothing", "new", mode), "rename nothing", syscall.ENOENT)
			s.code(s.b.Rename(s.ctx, "file", "nothing/new", mode), "rename into nothing", syscall.ENOENT)
			s.code(s.b.Rename(s.ctx, "file", "file/new", mode), "rename below a file", syscall.ENOTDIR, syscall.ENOENT)
			s.code(s.b.Rename(s.ctx, "dir", "dir/sub", mode), "rename into itself", syscall.EINVAL)
		}
		s.lists("", "dir", "file")
	}},
	{"rename to the same name changes nothing", func(s *suite) {
		s.write("file", "x")
		s.ok(s.b.Rename(s.ctx, "file", "file", backends.Replace), "rename")
		s.holds("file", "x")
	}},
}

// renameMatrix renames each kind of thing over each other kind, in both modes.
func renameMatrix(s *suite) {
	kinds := []string{"file", "empty", "full"}
	make := map[string]func(name string){
		"file":  func(name string) { s.write(name, name) },
		"empty": func(name string) { s.mkdir(name) },
		"full":  func(name string) { s.mkdir(name); s.write(name+"/in", name) },
	}
	// what Replace says to from over to; 0 is success
	replace := map[[2]string]syscall.Errno{
		{"file", "empty"}: syscall.EISDIR, {"file", "full"}: syscall.EISDIR,
		{"empty", "file"}: syscall.ENOTDIR, {"full", "file"}: syscall.ENOTDIR,
		{"empty", "full"}: syscall.ENOTEMPTY, {"full", "full"}: syscall.ENOTEMPTY,
	}
	for i, from := range kinds {
		for j, to := range kinds {
			for _, mode := range []backends.RenameMode{backends.Replace, backends.NoReplace} {
				dir := fmt.Sprintf("case%d%d%d", i, j, mode)
				s.mkdir(dir)
				source, target := dir+"/from", dir+"/to"
				make[from](source)
				make[to](target)
				want := replace[[2]string{from, to}]
				if mode == backends.NoReplace {
					want = syscall.EEXIST
				}
				err := s.b.Rename(s.ctx, source, target, mode)
				did := fmt.Sprintf("rename (mode %d) of %s over %s", mode, from, to)
				if want == 0 && err == nil {
					s.lists(dir, "to")
					if from == "file" {
						s.holds(target, source)
					}
					continue
				}
				if want == 0 && !s.b.Caps().Replace { // it cannot in one step, and may then refuse
					want = syscall.EEXIST
				}
				s.code(err, did, want)
				s.lists(dir, "from", "to")
				if from == "file" {
					s.holds(source, source)
				}
				if to == "file" {
					s.holds(target, target)
				}
			}
		}
	}
}

var linkTests = []rule{
	{"a link is itself, and leads where it says", func(s *suite) {
		s.mkdir("dir")
		s.write("dir/file", "text")
		if !s.b.Caps().Symlink {
			s.code(s.b.Symlink(s.ctx, "dir/file", "link"), "symlink", syscall.EOPNOTSUPP)
			_, err := s.b.Readlink(s.ctx, "dir/file")
			s.code(err, "readlink", syscall.EINVAL, syscall.EOPNOTSUPP)
			return
		}
		s.ok(s.b.Symlink(s.ctx, "dir/file", "link"), "symlink")
		if info := s.stat("link"); info.Mode&os.ModeSymlink == 0 || info.Name != "link" {
			s.Errorf("stat of a link: got %+v, want a link", info)
		}
		for info, err := range s.b.List(s.ctx, "") {
			s.ok(err, "list")
			if info.Name == "link" && info.Mode&os.ModeSymlink == 0 {
				s.Errorf("listing of a link: got %+v, want a link", info)
			}
		}
		s.holds("link", "text")
		s.code(s.b.Symlink(s.ctx, "other", "link"), "symlink over a link", syscall.EEXIST)
		s.code(s.b.Symlink(s.ctx, "other", "dir"), "symlink over a directory", syscall.EEXIST)
		s.code(s.b.Mkdir(s.ctx, "link", 0o755), "mkdir over a link", syscall.EEXIST)
		s.code(s.b.Symlink(s.ctx, "other", "nothing/link"), "symlink without parent", syscall.ENOENT)
	}},
	{"a link's content comes back byte for byte", func(s *suite) {
		if !s.b.Caps().Symlink {
			return // the test before says what holds then
		}
		for i, target := range []string{
			"nowhere", "dir/../file", "./file", "with space", "new\nline", "latin1-\xe4", "utf8-ä", "-rf", "%s", "back\\slash", "dir//file", "dir/",
			strings.Repeat("long/", 200) + "end",
		} {
			name := fmt.Sprintf("link%d", i)
			if slices.Contains(s.o.Refused, target) {
				s.code(s.b.Symlink(s.ctx, target, name), fmt.Sprintf("symlink to %q", target), syscall.EINVAL, syscall.EILSEQ)
				s.absent(name)
				continue
			}
			s.ok(s.b.Symlink(s.ctx, target, name), fmt.Sprintf("symlink to %q", brief(target)))
			got, err := s.b.Readlink(s.ctx, name)
			s.ok(err, "readlink")
			if s.o.Confined && target == "dir/../file" {
				target = "file"
			}
			if got != target {
				s.Errorf("readlink: got %q, want %q", brief(got), brief(target))
			}
		}
		s.write("file", "x")
		s.mkdir("dir")
		for name, want := range map[string]syscall.Errno{"file": syscall.EINVAL, "dir": syscall.EINVAL, "nothing": syscall.ENOENT} {
			_, err := s.b.Readlink(s.ctx, name)
			s.code(err, "readlink "+name, want)
		}
	}},
	{"changes of a link do not follow it", func(s *suite) {
		if !s.b.Caps().Symlink {
			return
		}
		s.mkdir("dir")
		s.write("file", "text")
		s.ok(s.b.Symlink(s.ctx, "file", "link"), "symlink")
		s.ok(s.b.Symlink(s.ctx, "dir", "dirlink"), "symlink")
		s.code(s.b.Rmdir(s.ctx, "dirlink"), "rmdir of a link", syscall.ENOTDIR)
		s.ok(s.b.Remove(s.ctx, "dirlink"), "remove of a link to a directory")
		s.ok(s.b.Rename(s.ctx, "link", "moved", backends.Replace), "rename of a link")
		if got, err := s.b.Readlink(s.ctx, "moved"); got != "file" || err != nil {
			s.Errorf("readlink of a link that moved: got %q, %v", got, err)
		}
		s.write("moved", "replaced")
		s.holds("moved", "replaced")
		s.holds("file", "text")
		s.lists("", "dir", "file", "moved")
	}},
	{"a hard link is the same file", func(s *suite) {
		s.write("file", "text")
		err := s.b.Link(s.ctx, "file", "other")
		if !s.b.Caps().Link {
			s.code(err, "link", syscall.EOPNOTSUPP)
			s.lists("", "file")
			return
		}
		s.ok(err, "link")
		s.holds("other", "text")
		if info := s.stat("file"); info.Known.Has(backends.HasNlink) && info.Nlink != 2 {
			s.Errorf("nlink: got %d, want 2", info.Nlink)
		}
		if a, b := s.stat("file"), s.stat("other"); !a.SameVersion(b) {
			s.Errorf("%+v and %+v should be the same", a, b)
		}
		s.code(s.b.Link(s.ctx, "file", "other"), "link over a file", syscall.EEXIST)
		s.code(s.b.Link(s.ctx, "nothing", "new"), "link of nothing", syscall.ENOENT)
		s.ok(s.b.Remove(s.ctx, "file"), "remove")
		s.holds("other", "text")
	}},
}

var attrTests = []rule{
	{"setattr sets each field, or says EOPNOTSUPP and changes nothing", func(s *suite) {
		when := time.Date(2003, 4, 5, 6, 7, 8, 0, time.UTC)
		caps := s.b.Caps()
		for _, field := range []struct {
			name string
			can  bool
			attr backends.Attr
			is   func(backends.Info) bool
		}{
			{"perm", caps.SetPerm, backends.Attr{Perm: pointer(os.FileMode(0o604))}, func(i backends.Info) bool { return i.Mode.Perm() == 0o604 }},
			{"owner", caps.SetOwner && caps.HasLogin, backends.Attr{UID: &caps.UID, GID: &caps.GID}, func(i backends.Info) bool { return i.UID == caps.UID && i.GID == caps.GID }},
			{"mtime", caps.SetTimes, backends.Attr{ModTime: &when}, func(i backends.Info) bool { return i.ModTime.Equal(when) }},
			{"times", caps.SetTimes, backends.Attr{ModTime: &when, AccTime: &when}, func(i backends.Info) bool { return i.ModTime.Equal(when) }},
			{"shrink", caps.Truncate, backends.Attr{Size: pointer(int64(4))}, func(i backends.Info) bool { return i.Size == 4 }},
			{"grow", caps.Truncate, backends.Attr{Size: pointer(int64(20))}, func(i backends.Info) bool { return i.Size == 20 }},
		} {
			before := s.write("file", "0123456789")
			info, err := s.b.SetAttr(s.ctx, "file", field.attr)
			after := s.stat("file")
			if !field.can {
				if caps.SetOwner && field.name == "owner" {
					continue // it can, but nobody knows a number to try
				}
				s.code(err, "setattr "+field.name, syscall.EOPNOTSUPP)
				if !before.SameVersion(after) || before.Mode != after.Mode {
					s.Errorf("a refused setattr %s changed %+v to %+v", field.name, before, after)
				}
				continue
			}
			s.ok(err, "setattr "+field.name)
			if !field.is(after) || !field.is(info) {
				s.Errorf("setattr %s: it returned %+v, stat says %+v", field.name, info, after)
			}
			switch field.name {
			case "shrink":
				s.holds("file", "0123")
			case "grow":
				s.holds("file", "0123456789"+strings.Repeat("\x00", 10))
			default:
				s.holds("file", "0123456789")
			}
		}
	}},
	{"setattr with one field that cannot be set changes none", func(s *suite) {
		caps := s.b.Caps()
		attr := backends.Attr{Perm: pointer(os.FileMode(0o600)), ModTime: pointer(time.Unix(1e9, 0)), Size: pointer(int64(1))}
		before := s.write("file", "0123456789")
		_, err := s.b.SetAttr(s.ctx, "file", attr)
		if caps.SetPerm && caps.SetTimes && caps.Truncate {
			s.ok(err, "setattr of all")
			if info := s.stat("file"); info.Mode.Perm() != 0o600 || info.Size != 1 || !info.ModTime.Equal(time.Unix(1e9, 0)) {
				s.Errorf("got %+v", info)
			}
			return
		}
		s.code(err, "setattr", syscall.EOPNOTSUPP)
		if after := s.stat("file"); !before.SameVersion(after) || before.Mode != after.Mode {
			s.Errorf("a refused setattr changed %+v to %+v", before, after)
		}
	}},
	{"setattr of nothing tells what is", func(s *suite) {
		s.write("file", "12345")
		info, err := s.b.SetAttr(s.ctx, "file", backends.Attr{})
		s.ok(err, "setattr")
		if !info.SameVersion(s.stat("file")) || info.Name != "file" {
			s.Errorf("got %+v", info)
		}
	}},
	{"setattr works on directories", func(s *suite) {
		s.mkdir("dir")
		if s.b.Caps().SetPerm {
			info, err := s.b.SetAttr(s.ctx, "dir", backends.Attr{Perm: pointer(os.FileMode(0o700))})
			s.ok(err, "setattr")
			if !info.IsDir() || info.Mode.Perm() != 0o700 {
				s.Errorf("got %v, want drwx------", info.Mode)
			}
		}
		_, err := s.b.SetAttr(s.ctx, "dir", backends.Attr{Size: pointer(int64(0))})
		s.code(err, "truncate of a directory", syscall.EISDIR, syscall.EOPNOTSUPP)
	}},
	{"setattr does not follow a link", func(s *suite) {
		if !s.b.Caps().Symlink {
			return
		}
		before := s.write("file", "0123456789")
		s.ok(s.b.Symlink(s.ctx, "file", "link"), "symlink")
		when := time.Unix(1e9, 0)
		for _, attr := range []backends.Attr{{ModTime: &when, AccTime: &when}, {Perm: pointer(os.FileMode(0o600))}, {Size: pointer(int64(1))}} {
			_, err := s.b.SetAttr(s.ctx, "link", attr)
			if err != nil {
				s.code(err, "setattr of a link", syscall.EOPNOTSUPP, syscall.EINVAL)
			}
			if after := s.stat("file"); !before.SameVersion(after) || before.Mode != after.Mode {
				s.Errorf("setattr of a link changed its target from %+v to %+v", before, after)
			}
		}
		if info := s.stat("link"); info.Mode&os.ModeSymlink == 0 {
			s.Errorf("the link became %+v", info)
		}
	}},
	{"setattr of what is absent is ENOENT", func(s *suite) {
		when := time.Unix(1e9, 0)
		_, err := s.b.SetAttr(s.ctx, "nothing", backends.Attr{})
		s.code(err, "setattr of nothing", syscall.ENOENT)
		if s.b.Caps().SetTimes {
			_, err = s.b.SetAttr(s.ctx, "nothing", backends.Attr{ModTime: &when})
			s.code(err, "setattr of nothing", syscall.ENOENT)
		}
	}},
}

var lifeTests = []rule{
	{"an ended context ends every call, and nothing is done", func(s *suite) {
		s.mkdir("dir")
		s.write("file", "x")
		ctx, cancel := context.WithCancel(s.ctx)
		cancel()
		for op, call := range calls(s.b, ctx) {
			s.soon(op, func() {
				err := call()
				switch code := backends.Errno(err); {
				case err == nil:
					s.Errorf("%s: got success, want an error", op)
				case code != syscall.EINTR && code != syscall.ETIMEDOUT:
					s.Errorf("%s: got code %v (%v), want EINTR", op, code, err)
				}
			})
		}
		s.lists("", "dir", "file")
		s.holds("file", "x")
	}},
	{"a context that ends in a listing ends it", func(s *suite) {
		for i := range 300 {
			s.mkdir(fmt.Sprintf("dir with a long name so that it fills packets %03d", i))
		}
		ctx, cancel := context.WithCancel(s.ctx)
		defer cancel()
		s.soon("list", func() {
			n, failed := 0, false
			for _, err := range s.b.List(ctx, "") {
				if failed {
					s.Error("something was yielded after an error")
				}
				failed = err != nil
				if n++; n == 10 {
					cancel()
				}
			}
			if !failed && n != 300 {
				s.Errorf("the listing ended after %d of 300 entries without an error", n)
			}
		})
		if got := len(s.list("")); got != 300 {
			s.Errorf("the next listing has %d entries, want 300", got)
		}
	}},
	{"after Close every call is ESHUTDOWN", func(s *suite) {
		s.write("file", "x")
		r, err := s.b.Open(s.ctx, "file")
		s.ok(err, "open")
		w := s.create("other")
		s.soon("close", func() {
			s.ok(s.b.Close(), "close")
			s.ok(s.b.Close(), "close again")
		})
		for op, call := range calls(s.b, s.ctx) {
			s.soon(op, func() { s.code(call(), op+" after Close", syscall.ESHUTDOWN) })
		}
		s.soon("open files", func() {
			_, err := r.ReadAt(s.ctx, make([]byte, 1), 0)
			if err == nil {
				s.Error("ReadAt after Close: got success")
			}
			s.ok(r.Close(), "close of a Reader")
			if _, err := w.Commit(s.ctx, backends.Commit{}); err == nil {
				s.Error("Commit after Close: got success")
			}
		})
	}},
	{"sixteen at once do not disturb each other", func(s *suite) {
		var group errgroup.Group
		for i := range 16 {
			group.Go(func() error { return s.worker(fmt.Sprintf("worker%d", i)) })
		}
		s.soon("16 workers", func() { s.ok(group.Wait(), "a worker") })
		s.lists("")
	}},
}

// calls is every method once that the server knows, on things that a test has made.
func calls(b backends.Backend, ctx context.Context) map[string]func() error {
	all := map[string]func() error{
		"stat":    func() error { _, err := b.Stat(ctx, "file"); return err },
		"open":    func() error { _, err := b.Open(ctx, "file"); return err },
		"create":  func() error { _, err := b.Create(ctx, "new", backends.WriteMode{TempName: ".temp"}); return err },
		"mkdir":   func() error { return b.Mkdir(ctx, "new", 0o755) },
		"remove":  func() error { return b.Remove(ctx, "file") },
		"rmdir":   func() error { return b.Rmdir(ctx, "dir") },
		"rename":  func() error { return b.Rename(ctx, "file", "new", backends.Replace) },
		"setattr": func() error { _, err := b.SetAttr(ctx, "file", backends.Attr{}); return err },
		"list": func() error {
			for _, err := range b.List(ctx, "") {
				return err
			}
			return errors.New("the listing was empty")
		},
	}
	caps := b.Caps()
	if caps.Symlink {
		all["symlink"] = func() error { return b.Symlink(ctx, "file", "new") }
		all["readlink"] = func() error { _, err := b.Readlink(ctx, "file"); return err }
	}
	if caps.Link {
		all["link"] = func() error { return b.Link(ctx, "file", "new") }
	}
	if caps.StatFS {
		all["statfs"] = func() error { _, err := b.StatFS(ctx); return err }
	}
	if caps.RandomWrite || caps.Append {
		all["update"] = func() error { _, err := b.Update(ctx, "file"); return err }
	}
	return all
}

// worker does a bit of everything in a directory of its own and leaves nothing.
func (s *suite) worker(dir string) error {
	b, ctx := s.b, s.ctx
	if err := b.Mkdir(ctx, dir, 0o755); err != nil {
		return err
	}
	for i := range 5 {
		name, moved := fmt.Sprintf("%s/file%d", dir, i), fmt.Sprintf("%s/moved%d", dir, i)
		text := content(50_000+i, uint64(i))
		w, err := b.Create(ctx, name, backends.WriteMode{TempName: name + ".temp", Perm: 0o644})
		if err != nil {
			return err
		}
		if _, err := w.WriteAt(ctx, []byte(text), 0); err != nil {
			return err
		}
		if _, err := w.Commit(ctx, backends.Commit{Size: int64(len(text))}); err != nil {
			return err
		}
		if err := b.Rename(ctx, name, moved, backends.NoReplace); err != nil {
			return err
		}
		r, err := b.Open(ctx, moved)
		if err != nil {
			return err
		}
		p := make([]byte, len(text))
		_, _, err = r.ReadLast(ctx, p, 0)
		r.Close()
		if string(p) != text {
			return fmt.Errorf("%s came back changed (%v)", moved, err)
		}
		n := 0
		for _, err := range b.List(ctx, dir) {
			if err != nil {
				return err
			}
			n++
		}
		if n != 1 {
			return fmt.Errorf("%s has %d entries, want 1", dir, n)
		}
		if err := b.Remove(ctx, moved); err != nil {
			return err
		}
	}
	return b.Rmdir(ctx, dir)
}
