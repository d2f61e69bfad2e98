package sftp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pierfs/backends"
)

// script is a server that says what a test wants.
type script struct {
	offers string                            // one further extension; set before the first call
	answer func(kind byte, p *parser) []byte // type and what follows the id; nil is no answer

	in  *io.PipeReader
	out *io.PipeWriter
	io.Reader
	io.WriteCloser

	cut atomic.Int64 // after how many bytes of the next answer to a READ the stream ends; below 0 it does not

	mu  sync.Mutex
	log []string
}

var kinds = map[byte]string{typeOpen: "open", typeClose: "close", typeRead: "read", typeWrite: "write", typeLstat: "lstat",
	typeFstat: "fstat", typeFsetstat: "fsetstat", typeOpendir: "opendir", typeReaddir: "readdir", typeRemove: "remove",
	typeRealpath: "realpath", typeStat: "stat", typeRename: "rename"}

// scripted returns a Backend whose server is answer; what answer does not know ("nil, false") is answered as by a server
// with nothing but an empty directory /base.
func scripted(t testing.TB, o Options, answer func(kind byte, p *parser) (reply []byte, known bool)) (*Backend, *script) {
	t.Helper()
	o.Address, o.Username, o.WorkingDir = "test:22", "root", "/base"
	b, err := New(o)
	ok(t, err)
	in, w := io.Pipe()
	r, out := io.Pipe()
	s := &script{in: in, out: out, Reader: r, WriteCloser: w}
	s.cut.Store(-1)
	moved := "" // the name that was renamed
	s.answer = func(kind byte, p *parser) []byte {
		whole, again := *p, *p
		if reply, known := answer(kind, p); known {
			return reply
		}
		switch {
		case kind == typeExtended && again.text() == extPosixRename:
			moved = again.text()
		case kind == typeLstat && moved != "" && again.text() == moved:
			return statusReply(statusNoSuchFile)
		}
		return honest(kind, &whole)
	}
	b.connect = func(ctx context.Context) (*session, error) { return pipeSession(ctx, &b.o, s) }
	done := make(chan struct{})
	go func() { defer close(done); s.serve() }()
	t.Cleanup(func() { b.Close(); s.Close(); <-done })
	return b, s
}

func (s *script) Close() error {
	return errors.Join(s.in.Close(), s.out.Close(), s.WriteCloser.Close())
}

func (s *script) serve() {
	for {
		var head [5]byte
		if _, err := io.ReadFull(s.in, head[:]); err != nil {
			return
		}
		body := make([]byte, binary.BigEndian.Uint32(head[:])-1)
		if _, err := io.ReadFull(s.in, body); err != nil {
			return
		}
		if head[4] == typeInit {
			v := frame{0, 0, 0, 0, typeVersion}.u32(3).text(extPosixRename).text("1").text(extFsync).text("1").text(extHardlink).text("1")
			if s.offers != "" {
				v = v.text(s.offers).text("1")
			}
			v.measure()
			s.out.Write(v)
			continue
		}
		p := &parser{b: body}
		id := p.u32()
		s.note(head[4], *p)
		reply := s.answer(head[4], p)
		if reply == nil {
			continue
		}
		f := frame{0, 0, 0, 0, reply[0]}.u32(id)
		f = append(f, reply[1:]...)
		f.measure()
		if n := s.cut.Load(); n >= 0 && head[4] == typeRead {
			s.out.Write(f[:min(int(n), len(f))]) // whoever reads it is told by the end of the stream
			s.out.Close()
			return
		}
		if _, err := s.out.Write(f); err != nil {
			return
		}
	}
}

func (s *script) note(kind byte, p parser) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name, known := kinds[kind]
	if kind == typeExtended {
		name, known = p.text(), true
	}
	if !known {
		name = fmt.Sprint(kind)
	}
	s.log = append(s.log, name)
}

func (s *script) heard(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.log, name)
}

func statusReply(code uint32) []byte {
	return frame{typeStatus}.u32(code).text("scripted").text("")
}

func nameReply(names ...string) []byte {
	f := frame{typeName}.u32(uint32(len(names)))
	for _, name := range names {
		f = f.text(name).text("-rw-r--r--").attrs(attrs{flags: attrPerm | attrSize, perm: modeFile | 0o644, size: 1})
	}
	return f
}

func attrsReply(a attrs) []byte { return frame{typeAttrs}.attrs(a) }

var aFile = attrs{flags: attrSize | attrPerm | attrTimes, perm: modeFile | 0o644, size: 5, mtime: 1e9}

func honest(kind byte, p *parser) []byte {
	switch kind {
	case typeRealpath:
		return nameReply(p.text())
	case typeStat, typeLstat:
		if p.text() == "/base" {
			return attrsReply(attrs{flags: attrPerm, perm: modeDir | 0o755})
		}
		return attrsReply(aFile)
	case typeFstat:
		return attrsReply(aFile)
	case typeOpen, typeOpendir:
		return frame{typeHandle}.text("h")
	case typeReaddir, typeRead:
		return statusReply(statusEOF)
	}
	return statusReply(statusOK)
}

// TestCutIsNoEndOfFile: a stream that ends at whatever byte of an answer is told by an io.EOF, as the end of a file is. A
// reader that took the one for the other would cut a copy short without a word.
func TestCutIsNoEndOfFile(t *testing.T) {
	content := frame{typeData}.text("0123456789")
	for n := range 4 + 4 + len(content) {
		for what, read := range map[string]func(backends.Reader) (int, error){
			"ReadAt": func(r backends.Reader) (int, error) { return r.ReadAt(t.Context(), make([]byte, 10), 0) },
			"ReadLast": func(r backends.Reader) (int, error) {
				n, _, err := r.ReadLast(t.Context(), make([]byte, 10), 0)
				return n, err
			},
		} {
			b, s := scripted(t, Options{}, func(kind byte, p *parser) ([]byte, bool) { return content, kind == typeRead })
			r, err := b.Open(t.Context(), "file")
			ok(t, err)
			s.cut.Store(int64(n))
			got, err := read(r)
			if err == nil || errors.Is(err, io.EOF) || backends.ClassOf(err) != backends.Lost {
				t.Errorf("cut after %d bytes: %s = %d, %v (%v), want an error, lost", n, what, got, err, backends.ClassOf(err))
			}
		}
	}
}

func TestHostileNamesStayOutside(t *testing.T) {
	told := false
	b, _ := scripted(t, Options{}, func(kind byte, p *parser) ([]byte, bool) {
		if kind != typeReaddir || told {
			return nil, false
		}
		told = true
		return nameReply(".", "..", "good", "../evil", "/etc/passwd", "", "a/b", "nul\x00", strings.Repeat("x", 256), "good",
			"new\nline", "lat\xedn", strings.Repeat("y", 255)), true
	})
	got := entries(t, b, "")
	if want := []string{"good", "new\nline", "lat\xedn", strings.Repeat("y", 255)}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if hidden := b.Caps().Hidden; hidden != 7 {
		t.Errorf("%d hidden, want 7", hidden)
	}
}

func TestHostileModesAndSizes(t *testing.T) {
	mode, size := uint32(0), uint64(0)
	b, s := scripted(t, Options{}, func(kind byte, p *parser) ([]byte, bool) {
		if kind != typeLstat && kind != typeStat || p.text() == "/base" {
			return nil, false
		}
		return attrsReply(attrs{flags: attrPerm | attrSize, perm: mode, size: size}), true
	})
	for raw, want := range map[uint32]os.FileMode{
		modeChar | 0o666: os.ModeDevice | os.ModeCharDevice | 0o666, modeBlock: os.ModeDevice, modeFIFO: os.ModeNamedPipe,
		modeSocket: os.ModeSocket, modeFile | 0o6755: os.ModeSetuid | os.ModeSetgid | 0o755, 0o170000: os.ModeIrregular,
		0xffffffff: os.ModeIrregular | os.ModeSetuid | os.ModeSetgid | os.ModeSticky | 0o777,
	} {
		mode, size = raw, math.MaxUint64
		info, err := b.Stat(t.Context(), "x")
		ok(t, err)
		if info.Mode != want || info.Size != math.MaxInt64 {
			t.Errorf("mode %o shows as %v, want %v; size %d", raw, info.Mode, want, info.Size)
		}
		if special(info) {
			if _, err := b.Open(t.Context(), "x"); backends.Errno(err) != syscall.ENXIO {
				t.Errorf("opening a %v: %v, want ENXIO", info.Mode, err)
			}
			if s.heard("open") {
				t.Fatalf("a %v was opened", info.Mode)
			}
		}
	}
}

// What a server does not keep is not renamed over what it did keep.
func TestNoRenameUnlessAllWasWell(t *testing.T) {
	for name, bad := range map[string]func(kind byte, p *parser) ([]byte, bool){
		"write refused": func(kind byte, p *parser) ([]byte, bool) { return statusReply(statusFailure), kind == typeWrite },
		"sync refused": func(kind byte, p *parser) ([]byte, bool) {
			return statusReply(statusFailure), kind == typeExtended && p.text() == extFsync
		},
		"close refused": func(kind byte, p *parser) ([]byte, bool) { return statusReply(statusFailure), kind == typeClose },
		"short": func(kind byte, p *parser) ([]byte, bool) {
			short := aFile
			short.size = 4
			return attrsReply(short), kind == typeLstat && p.text() != "/base"
		},
		"gone": func(kind byte, p *parser) ([]byte, bool) {
			return statusReply(statusNoSuchFile), kind == typeLstat && strings.HasSuffix(p.text(), "tmp")
		},
		"size not told": func(kind byte, p *parser) ([]byte, bool) {
			return attrsReply(attrs{flags: attrPerm, perm: modeFile}), kind == typeLstat && p.text() != "/base"
		},
		"nonsense": func(kind byte, p *parser) ([]byte, bool) { return []byte{typeName, 1}, kind == typeWrite },
		"cut off":  func(kind byte, p *parser) ([]byte, bool) { return []byte{typeStatus}, kind == typeClose },
	} {
		t.Run(name, func(t *testing.T) {
			b, s := scripted(t, Options{}, bad)
			w, err := b.Create(t.Context(), "name", backends.WriteMode{TempName: "tmp"})
			ok(t, err)
			_, err = w.WriteAt(t.Context(), []byte("12345"), 0)
			ok(t, err)
			_, err = w.Commit(t.Context(), backends.Commit{Size: 5})
			if backends.Errno(err) != syscall.EIO || backends.ClassOf(err) == backends.Lost {
				t.Errorf("got %v (%v), want EIO, and not lost: the name was not touched", err, backends.ClassOf(err))
			}
			if s.heard(extPosixRename) || s.heard("rename") {
				t.Error("a rename was sent")
			}
		})
	}
	b, s := scripted(t, Options{}, func(byte, *parser) ([]byte, bool) { return nil, false })
	info, err := create(t.Context(), b, "name", []byte("12345"), backends.WriteMode{TempName: "tmp"})
	ok(t, err)
	if info.Size != 5 || !s.heard(extPosixRename) {
		t.Errorf("an honest server: %+v, rename heard: %v", info, s.heard(extPosixRename))
	}
}

// A server's consent to the renaming is held against what it then shows.
func TestRenameThatNeverWas(t *testing.T) {
	type answer = func(kind byte, p *parser) ([]byte, bool)
	about := func(name string, reply []byte) answer {
		renamed := false
		return func(kind byte, p *parser) ([]byte, bool) {
			renamed = renamed || kind == typeExtended && p.text() == extPosixRename
			return reply, renamed && kind == typeLstat && strings.HasSuffix(p.text(), name)
		}
	}
	longer := aFile
	longer.size++
	for name, test := range map[string]struct {
		answer answer
		code   syscall.Errno
		class  backends.Class
	}{
		"not done": {func(kind byte, p *parser) ([]byte, bool) { // tmp stays
			return statusReply(statusOK), kind == typeExtended && p.text() == extPosixRename
		}, syscall.EIO, backends.Final},
		"another size":           {about("name", attrsReply(longer)), syscall.EIO, backends.Lost},
		"a directory":            {about("name", attrsReply(attrs{flags: attrPerm, perm: modeDir})), syscall.EIO, backends.Lost},
		"not to be looked at":    {about("name", statusReply(statusPermissionDenied)), syscall.EIO, backends.Lost},
		"no answer":              {about("name", nil), syscall.ETIMEDOUT, backends.Lost},
		"taken away by a reader": {about("name", statusReply(statusNoSuchFile)), 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			b, s := scripted(t, Options{SocketTimeout: 100 * time.Millisecond}, test.answer)
			info, err := create(t.Context(), b, "name", []byte("12345"), backends.WriteMode{TempName: "tmp"})
			if backends.Errno(err) != test.code || backends.ClassOf(err) != test.class {
				t.Errorf("got %v (%v), want %v, %v", err, backends.ClassOf(err), test.code, test.class)
			}
			if err == nil && info.Size != 5 {
				t.Errorf("told %+v", info)
			}
			if undone := err != nil && test.class == backends.Final; s.heard("remove") != undone {
				t.Errorf("the temporary name was removed: %v, want %v", s.heard("remove"), undone)
			}
		})
	}
}

// Whatever a server answers to whatever is asked, it costs an error and no panic.
func TestNonsenseIsAnError(t *testing.T) {
	long := strings.Repeat("h", maxHandle+1)
	for name, reply := range map[string][]byte{
		"no answer":          {},
		"type only":          {typeStatus},
		"unknown type":       {250, 1, 2, 3},
		"short handle":       {typeHandle, 0, 0, 0, 9, 'x'},
		"long handle":        frame{typeHandle}.text(long),
		"huge count":         frame{typeName}.u32(math.MaxUint32),
		"many names missing": frame{typeName}.u32(1000).text("a"),
		"huge length":        frame{typeData}.u32(math.MaxUint32),
		"too much data":      frame{typeData}.text(strings.Repeat("x", 100000)),
		"no data":            frame{typeData}.text(""),
		"endless extensions": frame{typeAttrs}.u32(attrExtended).u32(math.MaxUint32),
		"a status of OK":     statusReply(statusOK),
		"extended":           {typeExtReply},
	} {
		t.Run(name, func(t *testing.T) {
			calls := map[byte]func(b *Backend) error{
				typeLstat:    func(b *Backend) error { _, err := b.Stat(t.Context(), "x"); return err },
				typeOpendir:  func(b *Backend) error { return firstError(b.List(t.Context(), "")) },
				typeReaddir:  func(b *Backend) error { return firstError(b.List(t.Context(), "")) },
				typeOpen:     func(b *Backend) error { _, err := b.Open(t.Context(), "x"); return err },
				typeReadlink: func(b *Backend) error { _, err := b.Readlink(t.Context(), "x"); return err },
				typeRead: func(b *Backend) error {
					r, err := b.Open(t.Context(), "x")
					ok(t, err)
					_, err = r.ReadAt(t.Context(), make([]byte, 100), 0)
					return err
				},
			}
			for kind, call := range calls {
				b, _ := scripted(t, Options{SocketTimeout: 100 * time.Millisecond}, func(got byte, p *parser) ([]byte, bool) {
					if len(reply) == 0 {
						return nil, got == kind
					}
					return reply, got == kind
				})
				err := call(b)
				e, is := errors.AsType[*backends.Error](err)
				if !is {
					t.Errorf("to %s: got %v, want an error", kinds[kind], err)
				} else if e.Class != backends.Final && e.Class != backends.Lost {
					t.Errorf("to %s: class %v of %v", kinds[kind], e.Class, err)
				}
			}
		})
	}
}

func firstError(list func(func(backends.Info, error) bool)) error {
	for _, err := range list {
		if err != nil {
			return err
		}
	}
	return nil
}

func TestLinkOutOfWorkingDirIsNotOpened(t *testing.T) {
	r := newRig(t, Options{}, nil)
	outside := t.TempDir()
	put(t, outside+"/secret", []byte("secret"))
	put(t, r.path("inside"), []byte("inside"))
	ok(t, os.Symlink(outside+"/secret", r.path("out")))
	ok(t, os.Symlink(outside, r.path("outdir")))
	ok(t, os.Symlink("inside", r.path("in")))
	for _, name := range []string{"out", "outdir/secret"} {
		if _, err := r.Open(t.Context(), name); backends.Errno(err) != syscall.EACCES {
			t.Errorf("Open(%q) = %v, want EACCES", name, err)
		}
		if _, err := r.Update(t.Context(), name); backends.Errno(err) != syscall.EACCES {
			t.Errorf("Update(%q) = %v, want EACCES", name, err)
		}
	}
	if err := firstError(r.List(t.Context(), "outdir")); backends.Errno(err) != syscall.EACCES {
		t.Errorf("List = %v, want EACCES", err)
	}
	f, err := r.Open(t.Context(), "in")
	ok(t, err)
	ok(t, f.Close())
}

// A listing without end is given up at the bound, with an error that says so, and not taken for complete.
func TestListingBeyondTheBoundIsAnError(t *testing.T) {
	for name, test := range map[string]struct{ length, most int }{
		"many names":           {0, maxEntries},
		"long names":           {255, maxNameBytes / 255},
		"one name again":       {-1, 1},
		"names that are wrong": {256, 0},
	} {
		n := 0
		names := make([]string, 900)
		for i := range names {
			names[i] = strings.Repeat("0", max(test.length, 1))
		}
		same := nameReply(names...)
		b, _ := scripted(t, Options{}, func(kind byte, p *parser) ([]byte, bool) {
			if kind != typeReaddir {
				return nil, false
			}
			if test.length < 0 || test.length > 255 { // nothing counts but how many there are
				return same, true
			}
			for i := range names {
				names[i] = fmt.Sprintf("%0*d", max(test.length, 1), n)
				n++
			}
			return nameReply(names...), true
		})
		seen, failure := 0, error(nil)
		for _, err := range b.List(t.Context(), "") {
			if failure = err; err == nil {
				seen++
			}
		}
		if backends.Errno(failure) != syscall.EOVERFLOW || backends.ClassOf(failure) != backends.Final || seen != test.most {
			t.Errorf("%s: %d names and %v, want %d and EOVERFLOW", name, seen, failure, test.most)
		}
	}
}

// A listing that never ends is read as it comes: what is held does not grow with it but for 8 bytes a name.
func TestEndlessListingIsBounded(t *testing.T) {
	n := 0
	b, _ := scripted(t, Options{}, func(kind byte, p *parser) ([]byte, bool) {
		if kind != typeReaddir {
			return nil, false
		}
		names := make([]string, 1000)
		for i := range names {
			names[i] = fmt.Sprintf("%0200d", n)
			n++
		}
		return nameReply(names...), true
	})
	seen := 0
	for _, err := range b.List(t.Context(), "") {
		ok(t, err)
		if seen++; seen == 200000 {
			break
		}
	}
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	if m.HeapInuse > 200<<20 {
		t.Errorf("%d MiB in use after 200,000 names", m.HeapInuse>>20)
	}
}

// Answers that drip in, each in time and all of them too little, are no progress.
func TestDrippingListingEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		b, _ := scripted(t, Options{SocketTimeout: 10 * time.Second}, func(kind byte, p *parser) ([]byte, bool) {
			if kind != typeReaddir {
				return nil, false
			}
			time.Sleep(9 * time.Second)
			n++
			return nameReply(fmt.Sprint(n)), true
		})
		begun := time.Now()
		err := firstError(b.List(t.Context(), ""))
		if backends.Errno(err) != syscall.ETIMEDOUT {
			t.Errorf("got %v, want ETIMEDOUT", err)
		}
		if took := time.Since(begun); took > 40*time.Second {
			t.Errorf("it took %v", took)
		}
		b.Close()
	})
}

// A server that says nothing costs every caller the timeout, and not a nanosecond more.
func TestSilenceCostsOneTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := scripted(t, Options{SocketTimeout: 10 * time.Second}, func(kind byte, p *parser) ([]byte, bool) {
			return nil, kind == typeLstat
		})
		ok(t, firstError(b.List(t.Context(), "")))
		var all sync.WaitGroup
		for n := range 10 {
			all.Go(func() {
				begun := time.Now()
				_, err := b.Stat(t.Context(), fmt.Sprint(n))
				if backends.Errno(err) != syscall.ETIMEDOUT || backends.ClassOf(err) != backends.Lost {
					t.Errorf("got %v, want ETIMEDOUT, lost", err)
				}
				if took := time.Since(begun); took != 10*time.Second {
					t.Errorf("it took %v", took)
				}
			})
		}
		all.Wait()
		b.Close()
	})
}

// One request that never gets an answer costs its own caller only, if the server answers others meanwhile.
func TestOneLostRequestLeavesTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := scripted(t, Options{SocketTimeout: 10 * time.Second}, func(kind byte, p *parser) ([]byte, bool) {
			return nil, kind == typeLstat && p.text() == "/base/stuck"
		})
		stuck := make(chan error)
		go func() { _, err := b.Stat(t.Context(), "stuck"); stuck <- err }()
		for range 30 {
			time.Sleep(time.Second)
			if _, err := b.Stat(t.Context(), "fine"); err != nil {
				t.Fatalf("another call: %v", err)
			}
			select {
			case err := <-stuck:
				if backends.Errno(err) != syscall.ETIMEDOUT {
					t.Errorf("got %v, want ETIMEDOUT", err)
				}
				stuck = nil
			default:
			}
		}
		if stuck != nil {
			t.Error("nobody freed the caller")
		}
		b.Close()
	})
}

// A named pipe would stop the server's process in the middle of an open.
func TestNamedPipeIsShownAndNotOpened(t *testing.T) {
	r := newRig(t, Options{SocketTimeout: 5 * time.Second}, nil)
	ok(t, syscall.Mkfifo(r.path("pipe"), 0o644))
	for i, err := range r.List(t.Context(), "") {
		ok(t, err)
		if i.Name != "pipe" || i.Mode.Type() != os.ModeNamedPipe {
			t.Errorf("listed %+v", i)
		}
	}
	if _, err := r.Open(t.Context(), "pipe"); backends.Errno(err) != syscall.ENXIO {
		t.Errorf("Open = %v, want ENXIO", err)
	}
	_, err := r.Stat(t.Context(), "pipe")
	ok(t, err)
}

// Version 3 counts seconds in 32 bits. What does not fit is refused, not wrapped.
func TestTimesBeyondVersion3(t *testing.T) {
	r := newRig(t, Options{}, nil)
	put(t, r.path("file"), nil)
	before, err := r.Stat(t.Context(), "file")
	ok(t, err)
	for _, year := range []int{1960, 2200} {
		when := time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC)
		if _, err := r.SetAttr(t.Context(), "file", backends.Attr{ModTime: &when, AccTime: &when}); backends.Errno(err) != syscall.EINVAL {
			t.Errorf("the year %d: %v, want EINVAL", year, err)
		}
	}
	for _, when := range []time.Time{r.Caps().FirstTime, r.Caps().LastTime} { // the bounds themselves will do
		info, err := r.SetAttr(t.Context(), "file", backends.Attr{ModTime: &when, AccTime: &when})
		ok(t, err)
		if !info.ModTime.Equal(when) {
			t.Errorf("the time is %v, want %v", info.ModTime, when)
		}
	}
	_, err = r.SetAttr(t.Context(), "file", backends.Attr{ModTime: &before.ModTime})
	ok(t, err)
	after, err := r.Stat(t.Context(), "file")
	ok(t, err)
	if !after.ModTime.Equal(before.ModTime) {
		t.Errorf("the time changed from %v to %v", before.ModTime, after.ModTime)
	}
}

func TestPathThatIsTooLong(t *testing.T) {
	r := newRig(t, Options{}, nil)
	name := strings.TrimSuffix(strings.Repeat(strings.Repeat("d", 250)+"/", 20), "/")
	if _, err := r.Stat(t.Context(), name); backends.Errno(err) != syscall.ENAMETOOLONG {
		t.Errorf("Stat = %v, want ENAMETOOLONG", err)
	}
}
