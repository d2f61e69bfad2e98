package backendtest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"

	"pierfs/backends"

	"golang.org/x/sync/errgroup"
)

var statTests = []rule{
	{"stat tells of the working directory", func(s *suite) {
		info := s.stat("")
		if !info.IsDir() || !info.Known.Has(backends.HasType) {
			s.Errorf("got mode %v, known %b, want a directory", info.Mode, info.Known)
		}
	}},
	{"stat tells type, size and name", func(s *suite) {
		s.mkdir("dir")
		s.write("dir/file", "12345")
		file, dir := s.stat("dir/file"), s.stat("dir")
		if file.Name != "file" || !file.Mode.IsRegular() || file.Size != 5 {
			s.Errorf("file: got %+v", file)
		}
		if dir.Name != "dir" || !dir.IsDir() {
			s.Errorf("dir: got %+v", dir)
		}
		if !file.Known.Has(backends.HasType | backends.HasSize) {
			s.Errorf("known: got %b, want type and size", file.Known)
		}
	}},
	{"stat of what is absent is ENOENT", func(s *suite) {
		s.absent("nothing")
		s.absent("nothing/below")
		_, err := s.b.Stat(s.ctx, "nothing")
		if !errors.Is(err, os.ErrNotExist) {
			s.Errorf("errors.Is(%v, os.ErrNotExist) is false", err)
		}
	}},
	{"stat below a file is ENOTDIR or ENOENT", func(s *suite) {
		s.write("file", "x")
		_, err := s.b.Stat(s.ctx, "file/below")
		s.code(err, "stat file/below", syscall.ENOTDIR, syscall.ENOENT)
	}},
	{"equal files have equal versions", func(s *suite) {
		s.write("file", "one")
		first, second := s.stat("file"), s.stat("file")
		if !first.SameVersion(second) {
			s.Errorf("%+v and %+v are not the same version", first, second)
		}
		s.write("file", "three")
		if third := s.stat("file"); first.SameVersion(third) {
			s.Errorf("%+v and %+v are the same version", first, third)
		}
	}},
	{"caps are sane", func(s *suite) {
		s.stat("")
		caps := s.b.Caps()
		if caps.Protocol == "" || caps.MaxRead <= 0 || caps.MaxWrite <= 0 || caps.TimeUnit < 0 || caps.ListLimit < 0 {
			s.Errorf("got %+v", caps)
		}
	}},
	{"sum tells what the server adds up, or EOPNOTSUPP", func(s *suite) {
		const content = "what is added up"
		s.write("file", content)
		sum, err := s.b.Sum(s.ctx, "file")
		if err != nil {
			s.code(err, "sum", syscall.EOPNOTSUPP)
			return
		}
		h := backends.NewSum(sum.Algorithm)
		if h == nil || !s.b.Caps().Sums {
			s.Fatalf("got a sum by %q, and Caps().Sums is %v", sum.Algorithm, s.b.Caps().Sums)
		}
		h.Write([]byte(content))
		if !bytes.Equal(h.Sum(nil), sum.Value) {
			s.Errorf("got %s by %s, want %x", sum, sum.Algorithm, h.Sum(nil))
		}
		_, err = s.b.Sum(s.ctx, "absent")
		s.code(err, "sum of what is absent", syscall.ENOENT)
	}},
	{"statfs tells the room, or EOPNOTSUPP", func(s *suite) {
		s.stat("")
		space, err := s.b.StatFS(s.ctx)
		if !s.b.Caps().StatFS {
			s.code(err, "statfs", syscall.EOPNOTSUPP)
			return
		}
		s.ok(err, "statfs")
		if space.Total == 0 || space.Free > space.Total || space.Avail > space.Total {
			s.Errorf("got %+v", space)
		}
	}},
}

var listTests = []rule{
	{"an empty directory lists nothing", func(s *suite) {
		s.lists("")
		s.mkdir("dir")
		s.lists("dir")
	}},
	{"a listing has every entry with what stat says", func(s *suite) {
		s.mkdir("dir")
		s.mkdir("dir/sub")
		s.write("dir/file", "12345")
		s.write("dir/.hidden", "")
		s.lists("dir", "sub", "file", ".hidden")
		for info, err := range s.b.List(s.ctx, "dir") {
			s.ok(err, "list dir")
			stat := s.stat("dir/" + info.Name)
			if info.Mode.Type() != stat.Mode.Type() || info.Mode.IsRegular() && info.Size != stat.Size {
				s.Errorf("list says %+v, stat says %+v", info, stat)
			}
		}
	}},
	{"a big directory is complete and can be left early", func(s *suite) {
		const entries = 800 // more than a server sends at once: 64 KiB, or 100 names
		s.mkdir("dir")
		var group errgroup.Group
		group.SetLimit(16)
		want := make([]string, entries)
		for i := range entries {
			want[i] = fmt.Sprintf("entry with a name of some length %04d", i)
			group.Go(func() error { return s.b.Mkdir(s.ctx, "dir/"+want[i], 0o755) })
		}
		s.ok(group.Wait(), "800 x mkdir")
		s.lists("dir", want...)
		for range 50 { // what is left early is given back: a server bears few open directories (vsftpd, OpenSSH: 100)
			for range s.b.List(s.ctx, "dir") {
				break
			}
		}
		s.lists("dir", want...)
	}},
	{"nothing is listed before the iteration starts", func(s *suite) {
		s.mkdir("dir")
		listing := s.b.List(s.ctx, "dir")
		s.mkdir("dir/late")
		for info, err := range listing {
			s.ok(err, "list")
			if info.Name == "late" {
				return
			}
		}
		s.Error("an entry made between List and its iteration is not listed")
	}},
	{"a listing can be iterated again", func(s *suite) {
		s.mkdir("dir")
		listing := s.b.List(s.ctx, "")
		for range 2 {
			n := 0
			for _, err := range listing {
				s.ok(err, "list")
				n++
			}
			if n != 1 {
				s.Errorf("got %d entries, want 1", n)
			}
		}
	}},
	{"listing what is no directory yields one error, last", func(s *suite) {
		s.write("file", "x")
		for name, want := range map[string][]syscall.Errno{
			"file": {syscall.ENOTDIR}, "nothing": {syscall.ENOENT}, "file/below": {syscall.ENOTDIR, syscall.ENOENT},
		} {
			n := 0
			for info, err := range s.b.List(s.ctx, name) {
				n++
				s.code(err, "list "+name, want...)
				if info != (backends.Info{}) {
					s.Errorf("list %s: the error came with %+v", name, info)
				}
			}
			if n != 1 {
				s.Errorf("list %s: yielded %d times, want once", name, n)
			}
		}
	}},
}

// Names returns names that are odd and yet names, as programs make them.
func Names() []string {
	return []string{
		"with space", " leading", "trailing ", "two  spaces", "tab\there", "new\nline", "carriage\rreturn", "escape\x1b[31m",
		"-rf", "--help", ".dot", "..two", "...", "back\\slash", "star*", "what?", "[brackets]", "{braces}", "100%", "%s%n", "%2e%2e",
		"semi;colon", "quote\"double", "quote'single", "back`tick", "$HOME", "~", "~root", "#hash", "a:b", "a|b", "<in>", "&", "!",
		"utf8-äöü-日本-\U0001f6a2", "decomposed-a\u0308", "latin1-\xe4\xf6\xfc", "\xff\xfe", "del\x7f", "CON", "name.", "Case", "case",
		strings.Repeat("n", backends.MaxElement), strings.Repeat("ä", backends.MaxElement/2),
	}
}

var nameTests = []rule{
	{"names are bytes", func(s *suite) {
		s.mkdir("dir")
		want := []string{}
		for _, name := range Names() {
			w, err := s.b.Create(s.ctx, "dir/"+name, backends.WriteMode{TempName: "dir/.temp", Perm: 0o644})
			if slices.Contains(s.o.Refused, name) {
				s.code(err, fmt.Sprintf("create %q", name), syscall.EINVAL, syscall.EILSEQ, syscall.ENAMETOOLONG)
				continue
			}
			s.ok(err, fmt.Sprintf("create %q", name))
			s.put(w, name, 0)
			info := s.commit(w, len(name))
			if info.Name != name {
				s.Errorf("commit of %q: the Info says %q", name, info.Name)
			}
			want = append(want, name)
		}
		s.lists("dir", want...)
		for _, name := range want {
			s.holds("dir/"+name, name)
			s.ok(s.b.Rename(s.ctx, "dir/"+name, "dir/moved", backends.Replace), fmt.Sprintf("rename from %q", name))
			s.ok(s.b.Rename(s.ctx, "dir/moved", "dir/"+name, backends.Replace), fmt.Sprintf("rename to %q", name))
			s.ok(s.b.Remove(s.ctx, "dir/"+name), fmt.Sprintf("remove %q", name))
			if slices.Contains(s.o.RefusedDirs, name) {
				s.code(s.b.Mkdir(s.ctx, "dir/"+name, 0o755), fmt.Sprintf("mkdir %q", name), syscall.EINVAL)
				continue
			}
			s.ok(s.b.Mkdir(s.ctx, "dir/"+name, 0o755), fmt.Sprintf("mkdir %q", name))
			s.lists("dir/" + name)
			s.ok(s.b.Rmdir(s.ctx, "dir/"+name), fmt.Sprintf("rmdir %q", name))
		}
		s.lists("dir")
	}},
	{"names that may not cross are refused by every method", func(s *suite) {
		s.mkdir("dir")
		s.write("file", "x")
		for _, name := range []string{
			"/", "/file", "dir/", "dir//file", ".", "./file", "dir/.", "..", "../file", "dir/../file", "nul\x00", "dir/\x00",
		} {
			s.refused(name, syscall.EINVAL)
		}
		long := strings.Repeat("n", backends.MaxElement+1)
		s.refused(long, syscall.ENAMETOOLONG)
		s.refused("dir/"+long+"/file", syscall.ENAMETOOLONG)
		s.lists("", "dir", "file")
		s.lists("dir")
	}},
}

// refused asks every method for name, in every argument, and wants code.
func (s *suite) refused(name string, code syscall.Errno) {
	s.Helper()
	b, ctx := s.b, s.ctx
	mode := backends.WriteMode{TempName: ".temp", Perm: 0o644}
	for op, call := range map[string]func() error{
		"stat":     func() error { _, err := b.Stat(ctx, name); return err },
		"open":     func() error { _, err := b.Open(ctx, name); return err },
		"create":   func() error { _, err := b.Create(ctx, name, mode); return err },
		"temp":     func() error { _, err := b.Create(ctx, "new", backends.WriteMode{TempName: name}); return err },
		"update":   func() error { _, err := b.Update(ctx, name); return err },
		"mkdir":    func() error { return b.Mkdir(ctx, name, 0o755) },
		"remove":   func() error { return b.Remove(ctx, name) },
		"rmdir":    func() error { return b.Rmdir(ctx, name) },
		"rename":   func() error { return b.Rename(ctx, name, "new", backends.Replace) },
		"renameto": func() error { return b.Rename(ctx, "file", name, backends.Replace) },
		"setattr":  func() error { _, err := b.SetAttr(ctx, name, backends.Attr{}); return err },
		"symlink":  func() error { return b.Symlink(ctx, "file", name) },
		"readlink": func() error { _, err := b.Readlink(ctx, name); return err },
		"link":     func() error { return b.Link(ctx, "file", name) },
		"linkold":  func() error { return b.Link(ctx, name, "new") },
		"list": func() error {
			for _, err := range b.List(ctx, name) {
				return err
			}
			return nil
		},
	} {
		s.code(call(), fmt.Sprintf("%s %q", op, brief(name)), code)
	}
}
