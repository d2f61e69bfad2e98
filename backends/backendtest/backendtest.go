// Package backendtest is the suite that every Backend passes: each sentence of the contract in package backends that can be
// seen from outside is a test here. A server that cannot do something says so in its Caps, and is then held to say it cleanly
// to the caller too: EOPNOTSUPP, and nothing changed. Nothing is passed over in silence.
package backendtest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"syscall"
	"testing"
	"time"

	"pierfs/backends"
)

// Options tell what a server is known to be unable to do where Caps has no word for it.
type Options struct {
	// Refused are names, out of those that Names returns, and contents of links that the server cannot bear. They must be
	// EINVAL, EILSEQ or ENAMETOOLONG, and no other name may come to be in their place.
	Refused []string

	// RefusedDirs are names that the server bears for files, and makes no directory of. They must be EINVAL.
	RefusedDirs []string

	// Confined says that links are confined to the working directory: one with a ".." behind a name comes back in an equal
	// form without it.
	Confined bool

	// Beside says that a change tells what the directories of its names are like then (see backends.WithAside); what a Backend
	// tells that need not must be true all the same.
	Beside bool

	// Within is how long a call may take whose context has ended, and the whole of a short test; 0 means 20 seconds.
	Within time.Duration
}

// Run tests the Backends that open makes: each is a fresh one with an empty working directory. Run closes them.
func Run(t *testing.T, open func(t *testing.T) backends.Backend, o Options) {
	if o.Within == 0 {
		o.Within = 20 * time.Second
	}
	for _, test := range slices.Concat(statTests, listTests, nameTests, readTests, writeTests, treeTests, besideTests, linkTests, attrTests, lifeTests) {
		t.Run(test.rule, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 3*o.Within)
			defer cancel()
			b := open(t)
			t.Cleanup(func() { b.Close() })
			if b.Caps().ReadOnly {
				t.Fatal("the suite needs a Backend that may change things")
			}
			test.run(&suite{T: t, b: b, ctx: ctx, o: o})
		})
	}
}

// rule is one test.
type rule struct {
	rule string
	run  func(*suite)
}

// suite is one test on its way.
type suite struct {
	*testing.T
	b   backends.Backend
	ctx context.Context
	o   Options
}

// ok fails the test at once if err is not nil.
func (s *suite) ok(err error, did string) {
	s.Helper()
	if err != nil {
		s.Fatalf("%s: got %v, want success", did, err)
	}
}

// code checks that err is a Final *backends.Error with one of the codes.
func (s *suite) code(err error, did string, want ...syscall.Errno) {
	s.Helper()
	e, ok := errors.AsType[*backends.Error](err)
	switch {
	case !ok:
		s.Errorf("%s: got %T %v, want a *backends.Error with code %v", did, err, err, want)
	case !slices.Contains(want, e.Code):
		s.Errorf("%s: got code %v (%v), want %v", did, e.Code, err, want)
	case e.Class != backends.Final:
		s.Errorf("%s: got class %v (%v), want final: asking again gets the same answer", did, e.Class, err)
	case e.Op == "":
		s.Errorf("%s: the error %v does not tell its op", did, err)
	case !errors.Is(err, e.Code):
		s.Errorf("%s: errors.Is(%v, %v) is false", did, err, e.Code)
	}
}

// temp is a temporary name beside name.
func temp(name string) string {
	cut := len(name)
	for cut > 0 && name[cut-1] != '/' {
		cut--
	}
	return name[:cut] + ".pierfs-temp"
}

// create begins a content as the cache does.
func (s *suite) create(name string) backends.Writer {
	s.Helper()
	w, err := s.b.Create(s.ctx, name, backends.WriteMode{TempName: temp(name), Perm: 0o644})
	s.ok(err, "create "+name)
	return w
}

// write makes name a file with content.
func (s *suite) write(name, content string) backends.Info {
	s.Helper()
	w := s.create(name)
	s.put(w, content, 0)
	return s.commit(w, len(content))
}

func (s *suite) put(w backends.Writer, content string, off int64) {
	s.Helper()
	if len(content) == 0 {
		return
	}
	n, err := w.WriteAt(s.ctx, []byte(content), off)
	if err != nil || n != len(content) {
		s.Fatalf("WriteAt of %d bytes at %d: got %d, %v", len(content), off, n, err)
	}
}

func (s *suite) commit(w backends.Writer, size int) backends.Info {
	s.Helper()
	info, err := w.Commit(s.ctx, backends.Commit{Size: int64(size)})
	s.ok(err, "commit")
	if info.Size != int64(size) || !info.Known.Has(backends.HasSize) {
		s.Errorf("commit of %d bytes: the Info says %d bytes, known %b", size, info.Size, info.Known)
	}
	return info
}

// read returns the content of name.
func (s *suite) read(name string) string {
	s.Helper()
	r, err := s.b.Open(s.ctx, name)
	s.ok(err, "open "+name)
	defer r.Close()
	return s.rest(r, 0)
}

// rest returns what r has from off on.
func (s *suite) rest(r backends.Reader, off int64) string {
	s.Helper()
	content, err := io.ReadAll(io.NewSectionReader(readerAt{s.ctx, r}, off, 1<<40))
	s.ok(err, "read")
	return string(content)
}

type readerAt struct {
	ctx context.Context
	r   backends.Reader
}

func (r readerAt) ReadAt(p []byte, off int64) (int, error) { return r.r.ReadAt(r.ctx, p, off) }

// holds checks the content of name.
func (s *suite) holds(name, want string) {
	s.Helper()
	if got := s.read(name); got != want {
		s.Errorf("content of %q: got %s, want %s", name, brief(got), brief(want))
	}
}

func brief(content string) string {
	if len(content) > 40 {
		return string(bytes.ToValidUTF8([]byte(content[:40]), []byte("?"))) + "..."
	}
	return content
}

func (s *suite) mkdir(name string) {
	s.Helper()
	s.ok(s.b.Mkdir(s.ctx, name, 0o755), "mkdir "+name)
}

func (s *suite) stat(name string) backends.Info {
	s.Helper()
	info, err := s.b.Stat(s.ctx, name)
	s.ok(err, "stat "+name)
	return info
}

func (s *suite) absent(name string) {
	s.Helper()
	_, err := s.b.Stat(s.ctx, name)
	s.code(err, "stat of the absent "+name, syscall.ENOENT)
}

// list returns the names in dir, sorted.
func (s *suite) list(dir string) []string {
	s.Helper()
	names := []string{}
	for info, err := range s.b.List(s.ctx, dir) {
		s.ok(err, "list "+dir)
		names = append(names, info.Name)
	}
	slices.Sort(names)
	return names
}

func (s *suite) lists(dir string, want ...string) {
	s.Helper()
	slices.Sort(want)
	if got := s.list(dir); !slices.Equal(got, want) {
		s.Errorf("list %q: got %q, want %q", dir, got, want)
	}
}

// soon runs f and fails the test if it takes too long.
func (s *suite) soon(did string, f func()) {
	s.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(s.o.Within):
		s.Fatalf("%s: still running after %v", did, s.o.Within)
	}
}

func pointer[T any](v T) *T { return &v }

// sameTime compares times as the server gives them.
func (s *suite) sameTime(got, want time.Time, what string) {
	s.Helper()
	unit := max(s.b.Caps().TimeUnit, time.Nanosecond)
	if !got.Truncate(unit).Equal(want.Truncate(unit)) {
		s.Errorf("%s: got %v, want %v to the %v", what, got, want, unit)
	}
}
