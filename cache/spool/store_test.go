package spool_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pierfs/cache/spool"
)

// longAgo is a time of change that nothing can share any more.
var longAgo = time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)

func versionOf(content []byte) spool.Version {
	return spool.Version{Size: int64(len(content)), ModTime: longAgo}
}

// bytesOf is n bytes that depend on seed.
func bytesOf(n int, seed byte) []byte {
	p := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(p)
	return p
}

type storeTest struct {
	*testing.T
	dir   string
	store *spool.Store
	shelf *spool.Shelf
}

func newStore(t *testing.T, o spool.StoreOptions) *storeTest {
	s := &storeTest{T: t, dir: filepath.Join(t.TempDir(), "content")}
	s.open(o)
	return s
}

func (s *storeTest) open(o spool.StoreOptions) {
	s.Helper()
	if o.Floor == (spool.Floor{}) {
		o.Floor = spool.Floor{Bytes: 1} // the machine's disk is no part of the test
	}
	store, err := spool.OpenStore(s.dir, o)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(store.Close)
	s.store, s.shelf = store, store.Shelf("sftp|host|22|user|/|Test")
}

// again is what a new process finds.
func (s *storeTest) again() {
	s.Helper()
	s.store.Close()
	s.open(spool.StoreOptions{})
}

func (s *storeTest) take(name string, v spool.Version) *spool.File {
	s.Helper()
	f, err := s.shelf.Take(name, v)
	if err != nil {
		s.Fatal(err)
	}
	return f
}

func (s *storeTest) release(f *spool.File) {
	s.Helper()
	if err := f.Release(true); err != nil {
		s.Fatal(err)
	}
}

// keep puts the parts of a content into the store, or all of it.
func (s *storeTest) keep(name string, content []byte, parts ...spool.Range) {
	s.Helper()
	if parts == nil {
		parts = []spool.Range{{Off: 0, End: int64(len(content))}}
	}
	f := s.take(name, versionOf(content))
	for _, r := range parts {
		if err := f.Fill(content[r.Off:r.End], r.Off); err != nil {
			s.Fatal(err)
		}
	}
	s.release(f)
}

// holds demands that the store has just these parts of content, and that they are right.
func (s *storeTest) holds(name string, content []byte, parts ...spool.Range) {
	s.Helper()
	f := s.take(name, versionOf(content))
	defer s.release(f)
	var want spool.Ranges
	for _, r := range parts {
		want.Add(r)
	}
	var lacks []spool.Range
	for r := range want.Missing(spool.Range{End: int64(len(content))}) {
		lacks = append(lacks, r)
	}
	if got := f.Missing(0, int64(len(content))); fmt.Sprint(got) != fmt.Sprint(lacks) {
		s.Errorf("%s: missing %v, want %v", name, got, lacks)
	}
	s.right(f, content)
}

// right demands that whatever f says is real is that part of content.
func (s *storeTest) right(f *spool.File, content []byte) {
	s.Helper()
	got := make([]byte, len(content))
	if n, err := f.ReadAt(got, 0); n != len(got) && len(got) > 0 {
		s.Fatalf("read %d bytes of %d, %v", n, len(got), err)
	}
	for _, r := range f.Missing(0, int64(len(content))) {
		copy(got[r.Off:r.End], content[r.Off:r.End])
	}
	if !bytes.Equal(got, content) {
		s.Errorf("what is said to be real is something else")
	}
}

func TestContentSurvivesTheProcess(t *testing.T) {
	s := newStore(t, spool.StoreOptions{})
	large, part, small := bytesOf(3<<20, 1), bytesOf(2<<20, 2), bytesOf(1000, 3)
	ranges := []spool.Range{{Off: 0, End: 100}, {Off: 4096, End: 1 << 20}}
	s.keep("large", large)
	s.keep("part", part, ranges...)
	s.shelf.KeepSmall("small", versionOf(small), small, time.Now())
	s.shelf.KeepSmall("empty", versionOf(nil), nil, time.Now())
	for range 2 {
		s.holds("large", large, spool.Range{End: 3 << 20})
		s.holds("part", part, ranges...)
		if !s.shelf.Whole("large", versionOf(large)) || s.shelf.Whole("part", versionOf(part)) || !s.shelf.Whole("small", spool.Version{}) {
			t.Error("it is not known what is here as a whole")
		}
		for name, want := range map[string][]byte{"small": small, "empty": {}} {
			if got, ok := s.shelf.Small(name, versionOf(want)); !ok || !bytes.Equal(got, want) {
				t.Errorf("%s: %d bytes, %v", name, len(got), ok)
			}
		}
		s.again()
	}
	if u := s.shelf.Usage(); u.Files != 4 || u.Bytes < 4<<20 || u.Bytes > 5<<20 {
		t.Errorf("usage %+v", u)
	}
	if other := s.store.Shelf("sftp|host|22|user|/|Production"); other.Whole("large", spool.Version{}) {
		t.Error("another tree has this one's content")
	}
}

// TestOnlyWhatIsHereTakesRoom: a content of which little is here is a sparse file, on the disk and in the books, also in the next process.
func TestOnlyWhatIsHereTakesRoom(t *testing.T) {
	const size, here = 1 << 30, 1 << 20
	s := newStore(t, spool.StoreOptions{})
	f := s.take("f", spool.Version{Size: size, ModTime: longAgo})
	for _, off := range []int64{0, 512 << 20, size - here} {
		if err := f.Fill(bytesOf(here, 1), off); err != nil {
			t.Fatal(err)
		}
	}
	s.release(f)
	for range 2 {
		var disk unix.Stat_t
		files, err := filepath.Glob(filepath.Join(s.dir, "*", "*.data"))
		if err != nil || len(files) != 1 {
			t.Fatalf("%v, %v", files, err)
		}
		if err := unix.Stat(files[0], &disk); err != nil || disk.Size != size || disk.Blocks*512 > 4*here {
			t.Errorf("%d bytes on the disk for a content of %d, %v; want hardly more than %d", disk.Blocks*512, disk.Size, err, 3*here)
		}
		if u := s.shelf.Usage(); u.Files != 1 || u.Bytes < 3*here || u.Bytes > 4*here {
			t.Errorf("it counts as %+v", u)
		}
		s.again()
	}
}

func TestOnlyTheVeryVersionIsReused(t *testing.T) {
	content := bytesOf(100_000, 1)
	was := spool.Version{Size: 100_000, ModTime: longAgo, ID: "1"}
	for what, v := range map[string]spool.Version{
		"another time":     {Size: 100_000, ModTime: longAgo.Add(time.Second), ID: "1"},
		"another size":     {Size: 100_001, ModTime: longAgo, ID: "1"},
		"another identity": {Size: 100_000, ModTime: longAgo, ID: "2"},
		"a coarser time":   {Size: 100_000, ModTime: longAgo, Unit: time.Minute, ID: "1"},
		"no time":          {Size: 100_000, ID: "1"},
	} {
		s := newStore(t, spool.StoreOptions{})
		f := s.take("f", was)
		if err := f.Fill(content, 0); err != nil {
			t.Fatal(err)
		}
		s.release(f)
		s.shelf.KeepSmall("s", was, content, time.Now())
		s.again()
		if f := s.take("f", v); f.Real() != 0 {
			t.Errorf("%s: %d bytes are reused", what, f.Real())
		}
		if _, ok := s.shelf.Small("s", v); ok {
			t.Errorf("%s: a small content is reused", what)
		}
	}
	s := newStore(t, spool.StoreOptions{})
	s.keep("f", content)
	if f := s.take("f", spool.Version{Size: 100_000, ModTime: longAgo.Local(), ID: "1"}); f.Real() != 100_000 {
		t.Error("an identity that was not told before keeps the content from being reused")
	}
}

// TestWhatMayYetChangeUnseenIsNotKept: a file changed a moment ago may change again and bear the same time.
func TestWhatMayYetChangeUnseenIsNotKept(t *testing.T) {
	now := longAgo
	s := newStore(t, spool.StoreOptions{Now: func() time.Time { return now }})
	content := bytesOf(300_000, 1)
	for _, c := range []struct {
		after time.Duration
		kept  bool
	}{
		{2 * time.Second, false},
		{5 * time.Second, false},
		{10 * time.Second, true}, // seen with this time for long enough, whatever the clocks say
	} {
		now = now.Add(c.after)
		v := spool.Version{Size: int64(len(content)), ModTime: longAgo.Add(time.Hour)} // the server's clock is ahead
		f := s.take("f", v)
		if f.Real() != 0 {
			t.Fatalf("%v on: something is reused", c.after)
		}
		if err := f.Fill(content, 0); err != nil {
			t.Fatal(err)
		}
		s.release(f)
		s.shelf.KeepSmall("s", v, content, now)
		if _, small := s.shelf.Small("s", v); s.shelf.Whole("f", v) != c.kept || small != c.kept {
			t.Errorf("%v on: kept %v and %v, want %v", c.after, s.shelf.Whole("f", v), small, c.kept)
		}
	}
}

// TestDamagedAndForeignFilesAreThrownAway holds a store against all that may have happened to its directory.
func TestDamagedAndForeignFilesAreThrownAway(t *testing.T) {
	content, small := bytesOf(1<<20, 1), bytesOf(5000, 2)
	for what, damage := range map[string]func(path string) error{
		"a byte changed": func(path string) error { return flip(path, 10) },
		"the last byte changed": func(path string) error {
			info, err := os.Stat(path)
			if err != nil {
				return err
			}
			return flip(path, info.Size()-1)
		},
		"cut":      func(path string) error { return os.Truncate(path, 700) },
		"emptied":  func(path string) error { return os.Truncate(path, 0) },
		"longer":   func(path string) error { return add(path) },
		"for all":  func(path string) error { return os.Chmod(path, 0o644) },
		"another":  func(path string) error { return replace(path) },
		"a link":   func(path string) error { return link(path) },
		"linked":   func(path string) error { return os.Link(path, path+"~") },
		"gone":     os.Remove,
		"a folder": func(path string) error { return mkdir(path) },
	} {
		for _, suffix := range []string{".data", ".note", ".small"} {
			if what == "another" && suffix != ".data" || what == "a byte changed" && suffix == ".data" && testing.Short() {
				continue // the same bytes in another inode are right where they carry a checksum
			}
			t.Run(what+suffix, func(t *testing.T) {
				s := newStore(t, spool.StoreOptions{})
				s.keep("large", content)
				s.shelf.KeepSmall("small", versionOf(small), small, time.Now())
				s.store.Close()
				hit, err := filepath.Glob(filepath.Join(s.dir, "*", "*"+suffix))
				if err != nil || len(hit) != 1 {
					t.Fatalf("%v, %v", hit, err)
				}
				if err := damage(hit[0]); err != nil {
					t.Fatal(err)
				}
				s.open(spool.StoreOptions{})
				got, ok := s.shelf.Small("small", versionOf(small))
				if ok && !bytes.Equal(got, small) || ok != (suffix != ".small") {
					t.Errorf("small: %d bytes, %v", len(got), ok)
				}
				f := s.take("large", versionOf(content))
				if whole := f.Real() == int64(len(content)); whole != (suffix == ".small") || !whole && f.Real() != 0 {
					t.Errorf("large: %d bytes are believed", f.Real())
				}
				s.right(f, content)
				s.release(f)
				s.store.Close()
				if left, _ := filepath.Glob(filepath.Join(s.dir, "*", "*")); len(left) > 3 {
					t.Errorf("left: %v", left)
				}
			})
		}
	}
}

func flip(path string, off int64) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	p := make([]byte, 1)
	if _, err := f.ReadAt(p, off); err != nil {
		return err
	}
	p[0] ^= 1
	_, err = f.WriteAt(p, off)
	return err
}

func add(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString("more")
	return err
}

func replace(path string) error {
	p, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil {
		return err
	}
	return os.WriteFile(path, p, 0o600)
}

func link(path string) error {
	if err := os.Rename(path, path+"~"); err != nil {
		return err
	}
	return os.Symlink(path+"~", path)
}

func mkdir(path string) error {
	if err := os.Remove(path); err != nil {
		return err
	}
	return os.MkdirAll(filepath.Join(path, "within"), 0o700)
}

func TestWhatIsNoPartOfAStoreIsRemoved(t *testing.T) {
	s := newStore(t, spool.StoreOptions{})
	content := bytesOf(300_000, 1)
	s.keep("f", content)
	s.store.Close()
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		os.WriteFile(filepath.Join(s.dir, "README"), nil, 0o600),
		os.Symlink(filepath.Dir(outside), filepath.Join(s.dir, strings.Repeat("ab", 16))),
		os.MkdirAll(filepath.Join(s.dir, "sub", "sub"), 0o777),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	s.open(spool.StoreOptions{})
	s.holds("f", content, spool.Range{End: int64(len(content))})
	left, err := os.ReadDir(s.dir)
	if err != nil || len(left) != 1 {
		t.Errorf("left: %v, %v", left, err)
	}
	if _, err := os.Stat(outside); err != nil {
		t.Errorf("a link was followed: %v", err)
	}
}

func TestDirectoryThatOthersMayWriteToIsNotBelieved(t *testing.T) {
	for what, open := range map[string]func(dir string) error{
		"mode": func(dir string) error { return os.Chmod(dir, 0o777) },
		"link": func(dir string) error {
			if err := os.Rename(dir, dir+"~"); err != nil {
				return err
			}
			return os.Symlink(dir+"~", dir)
		},
	} {
		s := newStore(t, spool.StoreOptions{})
		s.keep("f", bytesOf(300_000, 1))
		s.store.Close()
		if err := open(s.dir); err != nil {
			t.Fatal(err)
		}
		s.open(spool.StoreOptions{})
		s.holds("f", bytesOf(300_000, 1))
		if info, err := os.Lstat(s.dir); err != nil || info.Mode() != os.ModeDir|0o700 {
			t.Errorf("%s: %v, %v", what, info.Mode(), err)
		}
	}
}

func TestLeastRecentlyUsedGoesFirstAndNothingOpen(t *testing.T) {
	const mib = 1 << 20
	s := newStore(t, spool.StoreOptions{Size: 5 * mib})
	contents := map[string][]byte{}
	for i, name := range []string{"a", "b", "c", "d"} {
		contents[name] = bytesOf(mib, byte(i))
		s.keep(name, contents[name])
	}
	held := s.take("a", versionOf(contents["a"])) // the oldest, but open
	s.keep("c", contents["c"])                    // used again
	contents["e"] = bytesOf(2*mib, 9)
	s.keep("e", contents["e"])
	for name, want := range map[string]bool{"b": false, "c": true, "d": false, "e": true} {
		if got := s.shelf.Whole(name, versionOf(contents[name])); got != want {
			t.Errorf("%s is here: %v, want %v", name, got, want)
		}
	}
	s.right(held, contents["a"])
	if u, bound := s.store.Usage(); u.Bytes > bound {
		t.Errorf("%d bytes, more than %d", u.Bytes, bound)
	}
	s.store.SetBounds(1, spool.Floor{Bytes: 1})
	if s.shelf.HasRoom() {
		t.Error("there is room with something open that is larger than the bound")
	}
	if u := s.shelf.Usage(); u.Files != 1 {
		t.Errorf("%d files are left, want the open one", u.Files)
	}
	s.release(held)
	if u := s.shelf.Usage(); u.Files != 0 || !s.shelf.HasRoom() {
		t.Errorf("%+v is left", u)
	}
}

// TestFreeSpaceIsKept: so many bytes of the disk, or so much of it, whichever is less.
func TestFreeSpaceIsKept(t *testing.T) {
	for floor, kept := range map[spool.Floor]bool{
		{Bytes: 1 << 60}:               false,
		{Percent: 100}:                 false,
		{Percent: 100, Bytes: 1 << 60}: false,
		{Percent: 100, Bytes: 1}:       true,
		{Bytes: 1}:                     true,
	} {
		s := newStore(t, spool.StoreOptions{Floor: floor})
		s.keep("f", bytesOf(300_000, 1))
		if room, files := s.shelf.HasRoom(), s.shelf.Usage().Files; room != kept || (files == 1) != kept {
			t.Errorf("with %+v to stay free there is room: %v, and %d files are kept; want %v", floor, room, files, kept)
		}
	}
}

// TestDirectoryMayBeDeletedAtAnyTime: what is open goes on, and all else works as if it had been empty.
func TestDirectoryMayBeDeletedAtAnyTime(t *testing.T) {
	s := newStore(t, spool.StoreOptions{})
	content := bytesOf(1<<20, 1)
	s.keep("closed", content)
	open := s.take("open", versionOf(content))
	if err := open.Fill(content[:1000], 0); err != nil {
		t.Fatal(err)
	}
	s.shelf.KeepSmall("small", versionOf(content[:10]), content[:10], time.Now())
	// Moved away first: something may be written into it at this very moment.
	if err := os.Rename(s.dir, s.dir+"~"); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(s.dir + "~"); err != nil {
		t.Fatal(err)
	}
	if err := open.Fill(content[1000:], 1000); err != nil {
		t.Errorf("filling what is open: %v", err)
	}
	s.right(open, content)
	s.release(open)
	s.holds("closed", content)
	s.keep("new", content)
	s.shelf.KeepSmall("small2", versionOf(content[:10]), content[:10], time.Now())
	s.holds("open", content)
	s.again()
	s.holds("new", content, spool.Range{End: 1 << 20})
	if got, ok := s.shelf.Small("small2", versionOf(content[:10])); !ok || !bytes.Equal(got, content[:10]) {
		t.Errorf("small2: %d bytes, %v", len(got), ok)
	}
	if u := s.shelf.Usage(); u.Files > 3 {
		t.Errorf("%d files", u.Files)
	}
}

func TestForgottenContentIsGone(t *testing.T) {
	s := newStore(t, spool.StoreOptions{})
	content := bytesOf(300_000, 1)
	for _, name := range []string{"d/a", "d/sub/b", "dd", "other"} {
		s.keep(name, content)
	}
	s.shelf.KeepSmall("d/small", versionOf(content), content, time.Now())
	open := s.take("d/a", versionOf(content))
	if u := s.shelf.Forget("d"); u.Files != 3 || u.Bytes < 900_000 {
		t.Errorf("forgot %+v", u)
	}
	s.right(open, content)
	s.release(open)
	s.again()
	for name, want := range map[string]bool{"d/a": false, "d/sub/b": false, "d/small": false, "dd": true, "other": true} {
		if got := s.shelf.Whole(name, versionOf(content)); got != want {
			t.Errorf("%s is here: %v, want %v", name, got, want)
		}
	}
}

// TestTwoWhoTakeTheSameGoApart: neither sees what becomes of the other's.
func TestTwoWhoTakeTheSameGoApart(t *testing.T) {
	s := newStore(t, spool.StoreOptions{})
	content := bytesOf(300_000, 1)
	s.keep("f", content)
	first := s.take("f", versionOf(content))
	second := s.take("f", versionOf(content))
	if err := second.Fill(content[:5000], 0); err != nil {
		t.Fatal(err)
	}
	if first.Real() != 300_000 || second.Real() != 5000 {
		t.Errorf("%d and %d bytes are real", first.Real(), second.Real())
	}
	s.release(second)
	s.right(first, content)
	s.release(first)
	s.holds("f", content, spool.Range{End: 5000})
	s.again()
	s.holds("f", content, spool.Range{End: 5000})
}

// TestCrashNeverLeavesWrongBytes: whenever a process ends, the next one finds nothing but right bytes. Each round it ends
// somewhere else, while contents are filled, dropped in parts, given back, taken again and changed on the server.
func TestCrashNeverLeavesWrongBytes(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	s := newStore(t, spool.StoreOptions{Size: 3 << 20})
	version := map[string]int{}
	what := func(name string) (spool.Version, []byte) {
		content := bytesOf(600_000, name[0]+byte(version[name]))
		return spool.Version{Size: 600_000, ModTime: longAgo.Add(time.Duration(version[name]) * time.Second)}, content
	}
	reused := 0
	for range 40 {
		open := map[string]*spool.File{}
		for range random.IntN(30) {
			name := string(rune('a' + random.IntN(6)))
			v, content := what(name)
			f := open[name]
			switch {
			case f == nil:
				open[name] = s.take(name, v)
				if n := open[name].Real(); n > 0 {
					reused++
				}
				s.right(open[name], content)
			case random.IntN(4) == 0:
				s.release(f)
				delete(open, name)
			case random.IntN(4) == 0:
				off := random.Int64N(600_000)
				if err := f.Drop(spool.Range{Off: off, End: off + 100_000}); err != nil {
					t.Fatal(err)
				}
			case random.IntN(6) == 0:
				s.release(f)
				delete(open, name)
				version[name]++
			default:
				off := random.Int64N(600_000)
				end := min(off+random.Int64N(400_000), 600_000)
				if err := f.Fill(content[off:end], off); err != nil {
					t.Fatal(err)
				}
			}
		}
		if random.IntN(2) == 0 {
			s.store.Close() // and else it just ends, with some of it noted
		}
		s.open(spool.StoreOptions{Size: 3 << 20})
	}
	if reused < 20 {
		t.Errorf("something was reused %d times only; the test shows nothing", reused)
	}
}

func TestReaderOfAReleasedFileGetsAnError(t *testing.T) {
	s := newStore(t, spool.StoreOptions{})
	content := bytesOf(300_000, 1)
	f := s.take("f", versionOf(content))
	if err := f.Fill(content[:1000], 0); err != nil {
		t.Fatal(err)
	}
	s.release(f)
	if err := f.Fill(content[1000:], 1000); err == nil {
		t.Error("a file that was given back takes more")
	}
	if _, err := f.ReadAt(make([]byte, 10), 0); err == nil || err == io.EOF {
		t.Errorf("a file that was given back is read: %v", err)
	}
	s.holds("f", content, spool.Range{End: 1000})
}

// TestWhatIsOnlyRememberedIsNoFile: since when a version is known counts as no content.
func TestWhatIsOnlyRememberedIsNoFile(t *testing.T) {
	s := newStore(t, spool.StoreOptions{})
	now := time.Now()
	s.shelf.KeepSmall("new", spool.Version{Size: 3, ModTime: now}, []byte("new"), now)
	s.keep("kept", bytesOf(1000, 1))
	one := s.shelf.Usage()
	if all, _ := s.store.Usage(); all != one || one.Files != 1 {
		t.Errorf("the Store has %+v, its one shelf %+v; want one file", all, one)
	}
}
