package backendtest

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"pierfs/backends"

	"golang.org/x/sync/errgroup"
)

// content returns n bytes that look like nothing, the same for each seed.
func content(n int, seed uint64) string {
	p := make([]byte, n)
	source := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	source.Read(p)
	return string(p)
}

// big is longer than any server's packet and window of requests, and no multiple of anything.
const big = 3<<20 + 12345

var readTests = []rule{
	{"ReadAt gives all it is asked for, and io.EOF at the end", func(s *suite) {
		const text = "0123456789"
		s.write("file", text)
		r, err := s.b.Open(s.ctx, "file")
		s.ok(err, "open")
		defer r.Close()
		for _, read := range []struct {
			off, size int
			want      string
			eof       bool
		}{
			{0, 10, text, false}, {0, 4, "0123", false}, {4, 6, "456789", false}, {9, 1, "9", false},
			{0, 11, text, true}, {8, 5, "89", true}, {10, 1, "", true}, {100, 5, "", true},
		} {
			p := make([]byte, read.size)
			n, err := r.ReadAt(s.ctx, p, int64(read.off))
			if string(p[:n]) != read.want {
				s.Errorf("ReadAt(%d bytes, %d): got %q, want %q", read.size, read.off, p[:n], read.want)
			}
			// io.ReaderAt leaves open whether a read that ends with the file says so.
			if read.eof && err != io.EOF || !read.eof && err != nil && err != io.EOF {
				s.Errorf("ReadAt(%d bytes, %d): got error %v, want EOF %v", read.size, read.off, err, read.eof)
			}
		}
		_, err = r.ReadAt(s.ctx, make([]byte, 1), -1)
		s.code(err, "ReadAt at -1", syscall.EINVAL)
	}},
	{"an empty file is io.EOF at once", func(s *suite) {
		s.write("file", "")
		r, err := s.b.Open(s.ctx, "file")
		s.ok(err, "open")
		defer r.Close()
		if n, err := r.ReadAt(s.ctx, make([]byte, 10), 0); n != 0 || err != io.EOF {
			s.Errorf("got %d, %v, want 0, EOF", n, err)
		}
		s.holds("file", "")
	}},
	{"ReadLast reads, tells of the file and closes", func(s *suite) {
		s.write("file", "0123456789")
		r, err := s.b.Open(s.ctx, "file")
		s.ok(err, "open")
		p := make([]byte, 100)
		n, info, err := r.ReadLast(s.ctx, p, 2)
		if string(p[:n]) != "23456789" || err != io.EOF {
			s.Errorf("got %q, %v, want 23456789, EOF", p[:n], err)
		}
		if info.Size != 10 || !info.SameVersion(s.stat("file")) {
			s.Errorf("the Info is %+v, stat says %+v", info, s.stat("file"))
		}
		s.ok(r.Close(), "close")
		s.ok(r.Close(), "close again")
	}},
	{"a Reader's Stat tells of the open file", func(s *suite) {
		s.write("file", "12345")
		r, err := s.b.Open(s.ctx, "file")
		s.ok(err, "open")
		defer r.Close()
		info, err := r.Stat(s.ctx)
		s.ok(err, "fstat")
		if want := s.stat("file"); !info.SameVersion(want) || info.Name != "file" {
			s.Errorf("got %+v, want %+v", info, want)
		}
	}},
	{"many may read one Reader at once", func(s *suite) {
		text := content(big, 1)
		s.write("file", text)
		r, err := s.b.Open(s.ctx, "file")
		s.ok(err, "open")
		defer r.Close()
		var group errgroup.Group
		for i := range 16 {
			group.Go(func() error {
				random := rand.New(rand.NewPCG(1, uint64(i)))
				for range 8 {
					off := random.IntN(big)
					p := make([]byte, 1+random.IntN(400_000))
					n, err := r.ReadAt(s.ctx, p, int64(off))
					if err != nil && err != io.EOF {
						return err
					}
					if want := text[off:min(off+len(p), big)]; string(p[:n]) != want {
						s.Errorf("ReadAt(%d bytes, %d): %d bytes, not those of the file", len(p), off, n)
					}
				}
				return nil
			})
		}
		s.ok(group.Wait(), "ReadAt")
	}},
	{"a Reader keeps what it opened, or says ESTALE", func(s *suite) {
		old, fresh := content(300_000, 1), content(300_000, 2)
		s.write("file", old)
		r, err := s.b.Open(s.ctx, "file")
		s.ok(err, "open")
		defer r.Close()
		s.write("file", fresh)
		s.keeps(r, old, "after a replacement")

		removed, err := s.b.Open(s.ctx, "file")
		s.ok(err, "open")
		defer removed.Close()
		s.ok(s.b.Remove(s.ctx, "file"), "remove")
		s.keeps(removed, fresh, "after a removal")
	}},
	{"open refuses what is no file", func(s *suite) {
		s.mkdir("dir")
		s.write("file", "x")
		_, err := s.b.Open(s.ctx, "dir")
		s.code(err, "open dir", syscall.EISDIR)
		_, err = s.b.Open(s.ctx, "")
		s.code(err, "open the working directory", syscall.EISDIR)
		_, err = s.b.Open(s.ctx, "nothing")
		s.code(err, "open nothing", syscall.ENOENT)
		_, err = s.b.Open(s.ctx, "file/below")
		s.code(err, "open file/below", syscall.ENOTDIR, syscall.ENOENT)
	}},
}

// keeps checks that r reads want, or is stale.
func (s *suite) keeps(r backends.Reader, want, when string) {
	s.Helper()
	p := make([]byte, len(want))
	n, err := r.ReadAt(s.ctx, p, 0)
	if err != nil && err != io.EOF {
		s.code(err, "ReadAt "+when, syscall.ESTALE)
	} else if string(p[:n]) != want {
		s.Errorf("ReadAt %s: got other bytes than those of the version opened", when)
	}
}

var writeTests = []rule{
	{"a content comes back as it was written", func(s *suite) {
		for _, n := range []int{0, 1, 4095, 4096, 4097, 32768, 261_121, big} {
			text := content(n, uint64(n))
			w := s.create("file")
			for off := 0; off < n; off += 100_000 {
				s.put(w, text[off:min(off+100_000, n)], int64(off))
			}
			s.commit(w, n)
			if sha256.Sum256([]byte(s.read("file"))) != sha256.Sum256([]byte(text)) {
				s.Errorf("%d bytes came back changed", n)
			}
			if got := s.stat("file").Size; got != int64(n) {
				s.Errorf("stat says %d bytes, want %d", got, n)
			}
			s.lists("", "file")
		}
	}},
	{"WriteAt leaves the caller's buffer alone and free", func(s *suite) {
		w := s.create("file")
		p := []byte("first ")
		_, err := w.WriteAt(s.ctx, p, 0)
		s.ok(err, "WriteAt")
		copy(p, "second")
		_, err = w.WriteAt(s.ctx, p, 6)
		s.ok(err, "WriteAt")
		copy(p, "other!")
		s.commit(w, 12)
		s.holds("file", "first second")
	}},
	{"what a name held is readable until Commit", func(s *suite) {
		s.write("file", "old")
		w := s.create("file")
		s.holds("file", "old")
		s.put(w, "newer", 0)
		s.ok(w.Sync(s.ctx), "sync")
		s.holds("file", "old")
		s.commit(w, 5)
		s.holds("file", "newer")
		s.lists("", "file")
	}},
	{"a name that is new appears at Commit", func(s *suite) {
		w := s.create("file")
		s.put(w, "x", 0)
		s.ok(w.Sync(s.ctx), "sync")
		s.absent("file")
		s.commit(w, 1)
		s.holds("file", "x")
	}},
	{"Commit of another size is EIO and changes nothing", func(s *suite) {
		s.write("file", "old")
		for _, size := range []int64{0, 4, 6} {
			w := s.create("file")
			s.put(w, "12345", 0)
			_, err := w.Commit(s.ctx, backends.Commit{Size: size})
			s.code(err, "commit", syscall.EIO)
			s.holds("file", "old")
		}
	}},
	{"Abort leaves nothing", func(s *suite) {
		s.write("file", "old")
		for _, name := range []string{"file", "new"} {
			w := s.create(name)
			s.put(w, content(300_000, 1), 0)
			s.soon("abort", func() { s.ok(w.Abort(), "abort") })
		}
		s.holds("file", "old")
		s.lists("", "file")
	}},
	{"Commit sets the attributes and tells what the server has", func(s *suite) {
		when := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
		w := s.create("file")
		s.put(w, "12345", 0)
		info, err := w.Commit(s.ctx, backends.Commit{Size: 5, Attr: backends.Attr{Perm: pointer(os.FileMode(0o640)), ModTime: &when}})
		s.ok(err, "commit") // a field the server cannot set is passed over
		stat := s.stat("file")
		if !info.SameVersion(stat) || info.Name != "file" {
			s.Errorf("commit says %+v, stat says %+v", info, stat)
		}
		if s.b.Caps().SetPerm && stat.Mode.Perm() != 0o640 {
			s.Errorf("mode: got %v, want 0640", stat.Mode)
		}
		if s.b.Caps().SetTimes {
			s.sameTime(stat.ModTime, when, "ModTime")
		}
	}},
	{"Commit replaces nothing that its caller does not want to be replaced", func(s *suite) {
		s.write("file", "theirs")
		no := &backends.Error{Op: "publish", Name: "file", Code: syscall.ESTALE}
		for name, want := range map[string]syscall.Errno{"file": 0, "new": syscall.ENOENT} {
			w := s.create(name)
			s.put(w, "ours", 0)
			asked := 0
			_, err := w.Commit(s.ctx, backends.Commit{Size: 4, Before: func(i backends.Info, err error) error {
				asked++
				if backends.Errno(err) != want || err == nil && i.Size != int64(len("theirs")) {
					s.Errorf("before the renaming to %s: got %+v, %v, want %v", name, i, err, want)
				}
				return no
			}})
			if asked != 1 || !errors.Is(err, syscall.ESTALE) || backends.ClassOf(err) != backends.Final {
				s.Errorf("commit of %s: asked %d times, got %v", name, asked, err)
			}
		}
		s.holds("file", "theirs")
		s.lists("", "file")
		w := s.create("file")
		s.put(w, "ours", 0)
		_, err := w.Commit(s.ctx, backends.Commit{Size: 4, Before: func(backends.Info, error) error { return nil }})
		s.ok(err, "commit")
		s.holds("file", "ours")
	}},
	{"a new file gets the permissions asked for", func(s *suite) {
		w, err := s.b.Create(s.ctx, "file", backends.WriteMode{TempName: ".temp", Perm: 0o600})
		s.ok(err, "create")
		s.commit(w, 0)
		if info := s.stat("file"); s.b.Caps().SetPerm && info.Known.Has(backends.HasPerm) && info.Mode.Perm() != 0o600 {
			s.Errorf("mode: got %v, want 0600", info.Mode)
		}
	}},
	{"what bears the temporary name is left over, and no link there is followed", func(s *suite) {
		s.write("other", "untouched")
		s.write(".temp", "of an attempt that was lost")
		if s.b.Caps().Symlink {
			s.ok(s.b.Symlink(s.ctx, "other", ".temp-link"), "symlink")
		}
		for _, name := range []string{".temp", ".temp-link"} {
			w, err := s.b.Create(s.ctx, "file", backends.WriteMode{TempName: name, Perm: 0o644})
			s.ok(err, "create")
			s.put(w, name, 0)
			s.commit(w, len(name))
			s.holds("file", name)
		}
		s.holds("other", "untouched")
		s.lists("", "file", "other")
	}},
	{"without a temporary name the name itself is written", func(s *suite) {
		for _, text := range []string{"first", "second and longer", "3rd"} {
			w, err := s.b.Create(s.ctx, "file", backends.WriteMode{Perm: 0o644})
			s.ok(err, "create")
			s.put(w, text, 0)
			s.commit(w, len(text))
			s.holds("file", text)
			s.lists("", "file")
		}
	}},
	{"a Writer takes over what another has left, and is told when that is too little", func(s *suite) {
		text := content(big, 7)
		s.write(".left", text)
		begin := func(left string) backends.Writer {
			w, err := s.b.Create(s.ctx, "file", backends.WriteMode{TempName: ".temp", Perm: 0o644, Left: left})
			s.ok(err, "create")
			return w
		}
		if !s.b.Caps().TakeOver {
			w := begin(".left")
			s.code(w.TakeOver(s.ctx, 0, 1<<20), "TakeOver", syscall.EOPNOTSUPP)
			s.ok(w.Abort(), "abort")
			s.lists("", ".left")
			return
		}
		w := begin(".left")
		s.ok(w.TakeOver(s.ctx, 0, 1<<20), "TakeOver")
		s.ok(w.TakeOver(s.ctx, 1<<20, 1<<20), "TakeOver")
		if got := w.Acknowledged(); got != 2<<20 {
			s.Errorf("%d bytes are certain of %d that were taken over", got, 2<<20)
		}
		s.ok(s.b.Remove(s.ctx, ".left"), "remove") // it is of no more use
		s.put(w, text[2<<20:], 2<<20)
		s.commit(w, big)
		if got := w.Acknowledged(); got != 0 {
			s.Errorf("%d bytes are told to be left of what has got its name", got)
		}
		s.holds("file", text)
		s.lists("", "file")

		s.write(".short", text[:1000])
		s.mkdir(".dir")
		links := s.b.Caps().Symlink
		if links {
			s.ok(s.b.Symlink(s.ctx, "file", ".link"), "symlink")
		}
		for _, left := range []string{".short", ".dir", ".nothing", ".link", ""} {
			w := begin(left)
			if err := w.TakeOver(s.ctx, 0, 1001); backends.ClassOf(err) != backends.Final || err == nil {
				s.Errorf("TakeOver of %q: %v", left, err)
			}
			if _, err := w.WriteAt(s.ctx, []byte("x"), 0); err == nil {
				s.Errorf("a Writer that could not take over %q goes on", left)
			}
			if got := w.Acknowledged(); got != 0 {
				s.Errorf("%d bytes of %q are told to be certain", got, left)
			}
			s.ok(w.Abort(), "abort")
		}
		w = begin("file")
		s.put(w, "x", 0)
		s.ok(w.Sync(s.ctx), "sync")
		s.code(w.TakeOver(s.ctx, 0, 1000), "TakeOver over what was written", syscall.EINVAL)
		s.ok(w.Abort(), "abort")
		s.holds("file", text)
	}},
	{"what is not written onward is not certain", func(s *suite) {
		long := content(6<<20, 8)
		for what, spoil := range map[string]func(backends.Writer){
			"a gap":          func(w backends.Writer) { s.put(w, long, 100) },
			"written again":  func(w backends.Writer) { s.put(w, long, 0); s.put(w, "x", 1000) },
			"another size":   func(w backends.Writer) { s.put(w, long, 0); s.ok(w.Truncate(s.ctx, int64(len(long))), "truncate") },
			"nothing at all": func(backends.Writer) {},
		} {
			if !s.b.Caps().RandomWrite || !s.b.Caps().Truncate {
				continue
			}
			w := s.create("file")
			spoil(w)
			s.ok(w.Sync(s.ctx), "sync")
			if got := w.Acknowledged(); got != 0 {
				s.Errorf("%s: %d bytes are told to be certain", what, got)
			}
			s.ok(w.Abort(), "abort")
		}
	}},
	{"a temporary name that is left over is used again", func(s *suite) {
		s.write(temp("file"), "left over by a crash, and longer")
		s.write("file", "new")
		s.holds("file", "new")
		s.lists("", "file")
	}},
	{"writes may come in any order, or must not", func(s *suite) {
		w := s.create("file")
		if !s.b.Caps().RandomWrite {
			_, err := w.WriteAt(s.ctx, []byte("x"), 5)
			s.code(err, "WriteAt past the end", syscall.EINVAL)
			_, err = w.WriteAt(s.ctx, []byte("x"), 0)
			s.code(err, "WriteAt of a Writer that has failed", syscall.EINVAL)
			s.ok(w.Abort(), "abort")
			return
		}
		text := content(big, 3)
		var group errgroup.Group
		const chunk = 130_000
		for _, i := range rand.New(rand.NewPCG(1, 2)).Perm((big + chunk - 1) / chunk) {
			group.Go(func() error {
				_, err := w.WriteAt(s.ctx, []byte(text[i*chunk:min((i+1)*chunk, big)]), int64(i*chunk))
				return err
			})
		}
		s.ok(group.Wait(), "WriteAt")
		s.put(w, "again", 7)
		s.commit(w, big)
		s.holds("file", text[:7]+"again"+text[12:])
	}},
	{"a hole reads as zeros", func(s *suite) {
		if !s.b.Caps().RandomWrite {
			return // told apart in the test before
		}
		w := s.create("file")
		s.put(w, "end", 1<<20)
		s.put(w, "begin", 0)
		s.commit(w, 1<<20+3)
		s.holds("file", "begin"+strings.Repeat("\x00", 1<<20-5)+"end")
	}},
	{"a Writer truncates, or says EOPNOTSUPP", func(s *suite) {
		w := s.create("file")
		s.put(w, "0123456789", 0)
		err := w.Truncate(s.ctx, 4)
		if !s.b.Caps().Truncate {
			s.code(err, "truncate", syscall.EOPNOTSUPP)
			s.ok(w.Abort(), "abort")
			return
		}
		s.ok(err, "truncate to 4")
		s.ok(w.Truncate(s.ctx, 6), "truncate to 6")
		s.commit(w, 6)
		s.holds("file", "0123\x00\x00")
	}},
	{"Create refuses a name that cannot be a file", func(s *suite) {
		s.mkdir("dir")
		s.write("file", "x")
		for name, want := range map[string][]syscall.Errno{
			"dir": {syscall.EISDIR}, "nothing/file": {syscall.ENOENT}, "file/below": {syscall.ENOTDIR, syscall.ENOENT},
		} {
			mode := backends.WriteMode{TempName: temp(name), Perm: 0o644}
			w, err := s.b.Create(s.ctx, name, mode)
			if err == nil { // the server finds out when the name is to be replaced
				_, err = w.Commit(s.ctx, backends.Commit{})
			}
			s.code(err, "create "+name, want...)
		}
		s.lists("dir")
		if _, err := s.b.Stat(s.ctx, "dir"); err != nil {
			s.Errorf("stat dir after a refused create: %v", err)
		}
	}},
	{"an exclusive Create has one winner", func(s *suite) {
		mode := backends.WriteMode{TempName: ".temp-1", Perm: 0o644, Exclusive: true}
		w, err := s.b.Create(s.ctx, "file", mode)
		s.ok(err, "create")
		if s.b.Caps().Exclusive {
			if info := s.stat("file"); info.Size != 0 || !info.Mode.IsRegular() {
				s.Errorf("the name claimed: got %+v, want an empty file", info)
			}
			mode.TempName = ".temp-2"
			_, err := s.b.Create(s.ctx, "file", mode)
			s.code(err, "second exclusive create", syscall.EEXIST)
		}
		s.put(w, "mine", 0)
		s.commit(w, 4)
		s.holds("file", "mine")
		_, err = s.b.Create(s.ctx, "file", mode)
		s.code(err, "exclusive create of what is there", syscall.EEXIST)
		s.holds("file", "mine")
		s.lists("", "file")
	}},
	{"an exclusive Create that is aborted leaves nothing", func(s *suite) {
		w, err := s.b.Create(s.ctx, "file", backends.WriteMode{TempName: ".temp", Perm: 0o644, Exclusive: true})
		s.ok(err, "create")
		s.ok(w.Abort(), "abort")
		s.lists("")
	}},
	{"of many exclusive Creates one wins", func(s *suite) {
		if !s.b.Caps().Exclusive {
			return // the test before says what holds then
		}
		var winners sync.Map
		var group sync.WaitGroup
		for i := range 8 {
			group.Go(func() {
				w, err := s.b.Create(s.ctx, "lock", backends.WriteMode{TempName: ".temp" + string(rune('0'+i)), Exclusive: true, Perm: 0o644})
				if err == nil {
					winners.Store(i, w)
				} else {
					s.code(err, "exclusive create", syscall.EEXIST)
				}
			})
		}
		group.Wait()
		n := 0
		for _, w := range winners.Range {
			n++
			s.commit(w.(backends.Writer), 0)
		}
		if n != 1 {
			s.Errorf("%d won, want 1", n)
		}
		s.lists("", "lock")
	}},
	{"Update changes in place, as far as the server can", func(s *suite) {
		caps := s.b.Caps()
		s.write("file", "0123456789")
		s.mkdir("dir")
		w, err := s.b.Update(s.ctx, "file")
		if !caps.RandomWrite && !caps.Append {
			s.code(err, "update", syscall.EOPNOTSUPP)
			return
		}
		s.ok(err, "update")
		s.put(w, "END", 10)
		want := "0123456789END"
		if caps.RandomWrite {
			s.put(w, "xx", 2)
			want = "01xx456789END"
		}
		s.ok(w.Sync(s.ctx), "sync")
		s.holds("file", want)
		s.commit(w, len(want))
		s.holds("file", want)

		_, err = s.b.Update(s.ctx, "nothing")
		s.code(err, "update nothing", syscall.ENOENT)
		_, err = s.b.Update(s.ctx, "dir")
		s.code(err, "update dir", syscall.EISDIR)
		s.lists("", "dir", "file")
	}},
	{"an ended context ends reads and writes", func(s *suite) {
		s.write("file", content(big, 1))
		r, err := s.b.Open(s.ctx, "file")
		s.ok(err, "open")
		defer r.Close()
		w := s.create("other")
		ctx, cancel := context.WithCancel(s.ctx)
		cancel()
		s.soon("ReadAt and WriteAt", func() {
			if _, err := r.ReadAt(ctx, make([]byte, big), 0); err == nil || err == io.EOF {
				s.Errorf("ReadAt: got %v, want an error", err)
			}
			if _, err := w.Commit(ctx, backends.Commit{}); err == nil {
				s.Error("Commit: got success")
			} else if code := backends.Errno(err); code != syscall.EINTR && code != syscall.ETIMEDOUT && !errors.Is(err, context.Canceled) {
				s.Errorf("Commit: got code %v, want EINTR", code)
			}
		})
		s.holds("file", content(big, 1))
		s.absent("other")
	}},
}
