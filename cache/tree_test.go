package cache_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pierfs/backends"
	"pierfs/backends/mem"
	"pierfs/backends/retry"
	"pierfs/cache"
	"pierfs/cache/spool"
)

// world is a tree of a server in memory, and the directories that it keeps things in.
type world struct {
	*testing.T
	server  *mem.Backend
	tree    *cache.Tree
	options cache.Options
	cache   string // the directory of store
	store   *spool.Store
	apart   time.Duration // see spool.StoreOptions
}

func newWorld(t *testing.T, change func(*mem.Options, *cache.Options)) *world {
	return newWorldApart(t, 0, change)
}

// newKeeping is a world in which all that is read is kept, also what others could yet change unseen: what is changed through its
// own tree must be seen all the same.
func newKeeping(t *testing.T, change func(*mem.Options, *cache.Options)) *world {
	return newWorldApart(t, -1, change)
}

func newWorldApart(t *testing.T, apart time.Duration, change func(*mem.Options, *cache.Options)) *world {
	dir := t.TempDir()
	so := mem.Options{}
	to := cache.Options{
		Staging: filepath.Join(dir, "staging"), Quarantine: filepath.Join(dir, "quarantine"),
		MetadataTTL: time.Minute, NegativeTTL: time.Minute, Retry: retry.Policy{Count: 2, Timeout: 10 * time.Second},
	}
	if change != nil {
		change(&so, &to)
	}
	w := &world{T: t, server: mem.New(so), options: to, cache: filepath.Join(dir, "cache"), apart: apart}
	w.openStore()
	w.tree = w.newTree()
	t.Cleanup(func() { w.tree.Close(context.Background()) })
	return w
}

// openStore opens what is kept of former trees, of which there may be any number.
func (w *world) openStore() {
	w.Helper()
	store, err := spool.OpenStore(w.cache, spool.StoreOptions{Floor: spool.Floor{Bytes: 1}, Apart: w.apart}) // the machine's disk is no part of the test
	w.must(err)
	w.Cleanup(store.Close)
	w.store, w.options.Spool = store, store.Shelf("test")
}

// uncached demands that no content is left in the cache.
func (w *world) uncached() {
	w.Helper()
	if left, err := filepath.Glob(filepath.Join(w.cache, "*", "*")); err != nil || len(left) > 0 {
		w.Errorf("the cache holds %v, %v", left, err)
	}
}

func (w *world) newTree() *cache.Tree {
	w.Helper()
	tree, err := cache.New(retry.New(w.server, w.options.Retry, retry.Options{}), w.options)
	if err != nil {
		w.Fatal(err)
	}
	return tree
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// give puts a file on the server, as another client would.
func (w *world) give(name, content string) {
	w.Helper()
	w.must(w.server.WriteFile(name, []byte(content)))
}

// has demands that the server has content under name.
func (w *world) has(name, content string) {
	w.Helper()
	got, err := w.server.ReadFile(name)
	if err != nil || string(got) != content {
		w.Errorf("server has %s under %q, %v; want %s", short(string(got)), name, err, short(content))
	}
}

// lacks demands that the server has nothing under name.
func (w *world) lacks(name string) {
	w.Helper()
	if got, err := w.server.ReadFile(name); !errors.Is(err, os.ErrNotExist) {
		w.Errorf("server has %s under %q, %v; want nothing", short(string(got)), name, err)
	}
}

// only demands that the server's root holds these names and no others, such as temporary ones.
func (w *world) only(names ...string) {
	w.Helper()
	got, err := w.server.Names("")
	w.must(err)
	slices.Sort(got)
	slices.Sort(names)
	if !slices.Equal(got, names) {
		w.Errorf("server holds %q, want %q", got, names)
	}
}

func short(s string) string {
	if len(s) > 40 {
		return fmt.Sprintf("%q... (%d bytes)", s[:40], len(s))
	}
	return fmt.Sprintf("%q", s)
}

var (
	reading  = cache.OpenMode{Read: true}
	writing  = cache.OpenMode{Read: true, Write: true}
	creating = cache.OpenMode{Read: true, Write: true, Create: true, Perm: 0o640}
	cutting  = cache.OpenMode{Write: true, Truncate: true}
	claiming = cache.OpenMode{Write: true, Create: true, Exclusive: true, Perm: 0o600}
)

func (w *world) open(name string, mode cache.OpenMode) *cache.File {
	w.Helper()
	f, _, err := w.tree.Open(w.Context(), name, mode)
	w.must(err)
	return f
}

func (w *world) write(f *cache.File, content string, off int64) {
	w.Helper()
	n, err := f.WriteAt(w.Context(), []byte(content), off)
	if err != nil || n != len(content) {
		w.Fatalf("WriteAt = %d, %v", n, err)
	}
}

func (w *world) read(f *cache.File) string {
	w.Helper()
	e, err := f.Stat(w.Context())
	w.must(err)
	p := make([]byte, e.Size)
	n, err := f.ReadAt(w.Context(), p, 0)
	if err != nil && err != io.EOF {
		w.Fatal(err)
	}
	return string(p[:n])
}

func (w *world) close(f *cache.File) {
	w.Helper()
	w.must(f.Publish(w.Context()))
	w.must(f.Close(w.Context(), false))
}

func (w *world) list(dir string) []string {
	w.Helper()
	l, err := w.tree.List(w.Context(), dir)
	w.must(err)
	defer l.Close()
	var names []string
	for i := 0; ; i++ {
		e, err := l.At(w.Context(), i)
		if err == io.EOF {
			slices.Sort(names)
			return names
		}
		w.must(err)
		names = append(names, e.Name)
	}
}

func wantErrno(t *testing.T, err error, want syscall.Errno) {
	t.Helper()
	if got := backends.Errno(err); got != want {
		t.Errorf("error %v means %v, want %v", err, got, want)
	}
}

func TestPublishedFileIsOnTheServerWhole(t *testing.T) {
	for _, size := range []int{0, 1, 4096, 300 << 10, 3 << 20} {
		w := newWorld(t, nil)
		content := strings.Repeat("pier", size/4+1)[:size]
		f := w.open("new", creating)
		w.write(f, content, 0)
		w.lacks("new") // nothing is visible before it is whole
		w.must(f.Publish(w.Context()))
		w.has("new", content)
		w.only("new")
		if info, err := w.server.Lstat("new"); err != nil || info.Mode.Perm() != 0o640 {
			t.Errorf("mode %v, %v on the server, want 0640", info.Mode, err)
		}
		w.must(f.Close(w.Context(), false))
	}
}

func TestCreatedFileIsSeenBeforeItIsPublished(t *testing.T) {
	w := newWorld(t, nil)
	w.give("old", "x")
	f := w.open("new", creating)
	w.write(f, "12345", 0)
	e, err := w.tree.Stat(w.Context(), "new")
	if err != nil || e.Size != 5 {
		t.Errorf("Stat = size %d, %v; want the 5 bytes just written", e.Size, err)
	}
	if got := w.list(""); !slices.Equal(got, []string{"new", "old"}) {
		t.Errorf("List = %q", got)
	}
	w.close(f)
	if got := w.list(""); !slices.Equal(got, []string{"new", "old"}) {
		t.Errorf("List after close = %q", got)
	}
}

func TestOverwriteReplacesInOneStepAndKeepsMode(t *testing.T) {
	w := newWorld(t, nil)
	w.give("f", "old content")
	perm := os.FileMode(0o751)
	_, err := w.server.SetAttr(w.Context(), "f", backends.Attr{Perm: &perm})
	w.must(err)
	w.server.SetFault(func(_ context.Context, op, name string) error {
		if op == "writeat" || op == "commit" {
			w.has("f", "old content")
		}
		return nil
	})
	f := w.open("f", cutting)
	w.write(f, "new", 0)
	w.close(f)
	w.has("f", "new")
	w.only("f")
	if info, _ := w.server.Lstat("f"); info.Mode.Perm() != perm {
		t.Errorf("mode became %v, want %v kept", info.Mode, perm)
	}
}

func TestRefusedUploadLeavesTheOldFileAndIsTold(t *testing.T) {
	for _, op := range []string{"create", "writeat", "commit"} {
		w := newWorld(t, nil)
		w.give("f", "old content")
		w.server.SetFault(func(_ context.Context, o, _ string) error {
			if o == op {
				return syscall.ENOSPC
			}
			return nil
		})
		f := w.open("f", cutting)
		w.write(f, "new", 0)
		wantErrno(t, f.Publish(w.Context()), syscall.ENOSPC)
		w.has("f", "old content")
		if !f.Dirty() {
			t.Errorf("%s refused: nothing is left to publish", op)
		}
		w.server.SetFault(nil) // there is room again, and the program tries once more
		w.must(f.Publish(w.Context()))
		w.has("f", "new")
		w.only("f")
		w.must(f.Close(w.Context(), false))
	}
}

func TestLostUploadIsRepeatedAndLeavesNothingBehind(t *testing.T) {
	for _, op := range []string{"create", "writeat", "commit"} {
		for _, late := range []bool{false, true} { // lost before or after the server did it
			t.Run(fmt.Sprint(op, late), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t, nil)
					w.give("f", "old content")
					left := 1
					lose := func(_ context.Context, o, name string) error {
						if o != op || left == 0 {
							return nil
						}
						left--
						w.server.Break()
						return &backends.Error{Op: o, Name: name, Code: syscall.EIO, Class: backends.Lost}
					}
					if late {
						w.server.SetAfter(lose)
					} else {
						w.server.SetFault(lose)
					}
					f := w.open("f", cutting)
					w.write(f, "new", 0)
					w.must(f.Publish(w.Context()))
					w.has("f", "new")
					w.only("f")
					w.must(f.Close(w.Context(), false))
					w.must(w.tree.Close(w.Context()))
				})
			})
		}
	}
}

func TestPartialWriteKeepsTheRest(t *testing.T) {
	w := newWorld(t, nil)
	content := strings.Repeat("0123456789", 200_000)
	w.give("f", content)
	f := w.open("f", writing)
	w.write(f, "XX", 1_000_000)
	if got := w.read(f); got != content[:1_000_000]+"XX"+content[1_000_002:] {
		t.Error("the open file does not show the old content with the change in it")
	}
	w.close(f)
	w.has("f", content[:1_000_000]+"XX"+content[1_000_002:])
}

func TestPartialWriteWithoutReadingKeepsTheRest(t *testing.T) {
	w := newWorld(t, nil)
	w.give("f", "0123456789")
	f := w.open("f", cache.OpenMode{Write: true})
	w.write(f, "XX", 4)
	w.close(f)
	w.has("f", "0123XX6789")
}

func TestAppendSendsOnlyTheEnd(t *testing.T) {
	w := newWorld(t, nil)
	w.give("log", strings.Repeat("x", 1<<20))
	f := w.open("log", cache.OpenMode{Write: true})
	for i := range 3 {
		if _, err := f.Append(w.Context(), []byte(fmt.Sprintln("line", i))); err != nil {
			t.Fatal(err)
		}
		w.must(f.Sync(w.Context()))
	}
	w.close(f)
	w.has("log", strings.Repeat("x", 1<<20)+"line 0\nline 1\nline 2\n")
	if calls := w.server.Calls(); calls["create"] != 0 || calls["update"] != 3 || calls["readat"] != 0 {
		t.Errorf("calls %v: want the file neither fetched nor sent anew", calls)
	}
}

func TestAppendThatIsRefusedHalfWayIsTakenBack(t *testing.T) {
	w := newWorld(t, func(so *mem.Options, _ *cache.Options) { so.Size = 3 << 20 })
	w.give("log", "one\n")
	f := w.open("log", cache.OpenMode{Write: true})
	if _, err := f.Append(w.Context(), make([]byte, 4<<20)); err != nil {
		t.Fatal(err)
	}
	wantErrno(t, f.Publish(w.Context()), syscall.ENOSPC)
	w.has("log", "one\n")
	w.must(f.Close(w.Context(), true))
}

func TestHolesAreNotSent(t *testing.T) {
	w := newWorld(t, nil)
	f := w.open("sparse", creating)
	w.write(f, "begin", 0)
	size := int64(64 << 20)
	_, err := f.SetAttr(w.Context(), backends.Attr{Size: &size})
	w.must(err)
	w.close(f)
	if n := w.server.Calls()["writeat"]; n > 1 {
		t.Errorf("%d writes for a file that is one hole", n)
	}
	if info, err := w.server.Lstat("sparse"); err != nil || info.Size != size {
		t.Errorf("size %d, %v on the server, want %d", info.Size, err, size)
	}
}

func TestExclusiveCreationHasOneWinner(t *testing.T) {
	w := newWorld(t, nil)
	f := w.open("lock", claiming)
	w.has("lock", "") // the name is taken for every other client at once
	if _, _, err := w.tree.Open(w.Context(), "lock", claiming); backends.Errno(err) != syscall.EEXIST {
		t.Errorf("second creation: %v, want EEXIST", err)
	}
	w.write(f, "me", 0)
	w.close(f)
	w.has("lock", "me")
	w.only("lock")

	w.give("theirs", "x")
	if _, _, err := w.tree.Open(w.Context(), "theirs", claiming); backends.Errno(err) != syscall.EEXIST {
		t.Errorf("creation over another client's file: %v, want EEXIST", err)
	}
	w.has("theirs", "x")
}

func TestExclusiveCreationThatIsRemovedLeavesNothing(t *testing.T) {
	w := newWorld(t, nil)
	f := w.open("lock", claiming)
	w.must(w.tree.Remove(w.Context(), "lock"))
	w.close(f)
	w.only()
}

func TestOpenFileOutlivesItsRemoval(t *testing.T) {
	w := newWorld(t, nil)
	for _, content := range []string{"small", strings.Repeat("large", 100_000)} {
		w.give("f", content)
		f := w.open("f", writing)
		w.must(w.tree.Remove(w.Context(), "f"))
		w.lacks("f")
		if got := w.read(f); got != content {
			t.Errorf("read %s after removal, want %s", short(got), short(content))
		}
		w.write(f, "X", 0)
		if got := w.read(f); got != "X"+content[1:] {
			t.Errorf("read %s after removal and write", short(got))
		}
		if e, err := f.Stat(w.Context()); err != nil || e.Nlink != 0 {
			t.Errorf("Stat of a removed file = nlink %d, %v", e.Nlink, err)
		}
		w.close(f)
		w.only()
	}
}

func TestRemovalOfAFileNeverPublishedSendsNothing(t *testing.T) {
	w := newWorld(t, nil)
	f := w.open("f", creating)
	w.write(f, "x", 0)
	w.must(w.tree.Remove(w.Context(), "f"))
	w.close(f)
	if calls := w.server.Calls(); calls["remove"]+calls["create"] != 0 {
		t.Errorf("calls %v for a file that came and went", calls)
	}
	if _, err := w.tree.Stat(w.Context(), "f"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Stat = %v, want ENOENT", err)
	}
}

func TestRenameCarriesOpenFiles(t *testing.T) {
	w := newWorld(t, nil)
	w.must(w.server.MakeDir("a"))
	w.give("a/f", "content")
	f := w.open("a/f", writing)
	w.write(f, "C", 0)
	w.must(w.tree.Rename(w.Context(), "a", "b", backends.Replace))
	w.write(f, "CON", 0)
	w.close(f)
	w.has("b/f", "CONtent")
	w.lacks("a/f")
	if e, err := w.tree.Stat(w.Context(), "b/f"); err != nil || e.Size != 7 {
		t.Errorf("Stat = %d, %v", e.Size, err)
	}
	if _, err := w.tree.Stat(w.Context(), "a/f"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Stat of the old name = %v, want ENOENT", err)
	}
}

func TestRenameOverAnOpenFileLeavesItsReadersTheOldContent(t *testing.T) {
	w := newWorld(t, nil)
	w.give("old", "old content")
	w.give("new", "new")
	f := w.open("old", reading)
	w.must(w.tree.Rename(w.Context(), "new", "old", backends.Replace))
	if got := w.read(f); got != "old content" {
		t.Errorf("the old reader got %q", got)
	}
	g := w.open("old", reading)
	if got := w.read(g); got != "new" {
		t.Errorf("a new reader got %q", got)
	}
	w.close(f)
	w.close(g)
}

func TestRenameNoReplaceSeesUnpublishedFiles(t *testing.T) {
	w := newWorld(t, nil)
	w.give("a", "a")
	f := w.open("b", creating)
	wantErrno(t, w.tree.Rename(w.Context(), "a", "b", backends.NoReplace), syscall.EEXIST)
	w.close(f)
}

func TestRmdirSparesUnpublishedFiles(t *testing.T) {
	w := newWorld(t, nil)
	w.must(w.server.MakeDir("d"))
	f := w.open("d/f", creating)
	wantErrno(t, w.tree.Rmdir(w.Context(), "d"), syscall.ENOTEMPTY)
	w.close(f)
	w.has("d/f", "")
}

func TestRenameOverADirectorySparesUnpublishedFiles(t *testing.T) {
	w := newWorld(t, nil)
	w.must(w.server.MakeDir("d"))
	w.must(w.server.MakeDir("e"))
	f := w.open("e/f", creating)
	wantErrno(t, w.tree.Rename(w.Context(), "d", "e", backends.Replace), syscall.ENOTEMPTY)
	w.close(f)
	w.has("e/f", "")
}

func TestNameTooLongIsSoWhateverIsKnown(t *testing.T) {
	w := newWorld(t, nil)
	name := strings.Repeat("n", backends.MaxElement+1)
	for range 2 {
		_, err := w.tree.Stat(w.Context(), name)
		wantErrno(t, err, syscall.ENAMETOOLONG)
		w.list("")
	}
}

func TestAttributesOfAnUnpublishedFileArriveWithIt(t *testing.T) {
	w := newWorld(t, nil)
	f := w.open("f", creating)
	w.write(f, "x", 0)
	perm, when := os.FileMode(0o755), time.Unix(1_000_000_000, 0)
	e, err := f.SetAttr(w.Context(), backends.Attr{Perm: &perm, ModTime: &when})
	if err != nil || e.Mode.Perm() != perm || !e.ModTime.Equal(when) {
		t.Fatalf("SetAttr = %v %v, %v", e.Mode, e.ModTime, err)
	}
	w.close(f)
	info, err := w.server.Lstat("f")
	if err != nil || info.Mode.Perm() != perm || !info.ModTime.Equal(when) {
		t.Errorf("server has %v %v, %v; want %v %v", info.Mode, info.ModTime, err, perm, when)
	}
}

func TestTimesThatTheServerCannotKeepAreShownAsSet(t *testing.T) {
	first, last := time.Unix(0, 0), time.Unix(1<<32-1, 0) // as SFTP version 3
	w := newWorld(t, func(so *mem.Options, _ *cache.Options) {
		so.Change = func(c *backends.Caps) { c.FirstTime, c.LastTime = first, last }
	})
	for set, told := range map[time.Time]time.Time{
		time.Unix(-86400, 0):            first,
		time.Unix(1<<33, 0):             last,
		time.Unix(1_000_000_000, 12345): time.Unix(1_000_000_000, 0),
	} {
		w.give("f", "content")
		e, err := w.tree.SetAttr(w.Context(), "f", backends.Attr{ModTime: &set})
		if err != nil || !e.ModTime.Equal(set) {
			t.Fatalf("SetAttr = %v, %v; want %v", e.ModTime, err, set)
		}
		if info, _ := w.server.Lstat("f"); !info.ModTime.Equal(told) {
			t.Errorf("server has %v, want %v", info.ModTime, told)
		}
		w.must(w.tree.Rename(w.Context(), "f", "g", backends.Replace))
		f := w.open("g", reading)
		if got := w.read(f); got != "content" {
			t.Errorf("read %q", got)
		}
		w.close(f)
		if e, err := w.tree.Refresh(w.Context(), "g"); err != nil || !e.ModTime.Equal(set) {
			t.Errorf("after a rename %v, %v; want %v", e.ModTime, err, set)
		}
		other := time.Unix(2_000_000_000, 0)
		w.must(w.server.Chtimes("g", other, other))
		if e, err := w.tree.Refresh(w.Context(), "g"); err != nil || !e.ModTime.Equal(other) {
			t.Errorf("after another client's change %v, %v; want %v", e.ModTime, err, other)
		}
		w.must(w.tree.Remove(w.Context(), "g"))
	}
}

func TestTruncateByNameIsOnTheServerAtOnce(t *testing.T) {
	for _, can := range []bool{true, false} {
		w := newWorld(t, func(so *mem.Options, _ *cache.Options) {
			so.Change = func(c *backends.Caps) { c.Truncate = can }
		})
		w.give("f", "0123456789")
		size := int64(4)
		e, err := w.tree.SetAttr(w.Context(), "f", backends.Attr{Size: &size})
		if err != nil || e.Size != 4 {
			t.Fatalf("SetAttr = size %d, %v", e.Size, err)
		}
		w.has("f", "0123")
		w.only("f")
	}
}

func TestChangeOnTheServerIsSeenAtOpen(t *testing.T) {
	w := newWorld(t, nil)
	w.give("f", "old")
	before, err := w.tree.Stat(w.Context(), "f")
	w.must(err)
	w.give("f", "newer")
	f, e, err := w.tree.Open(w.Context(), "f", reading)
	w.must(err)
	if got := w.read(f); got != "newer" || e.Size != 5 || e.Version == before.Version {
		t.Errorf("opened %q, size %d, same version: %v; want the new one and said so", got, e.Size, e.Version == before.Version)
	}
	w.close(f)
}

func TestReaderKeepsItsVersionWhenAnotherIsPutInItsPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.give("f", "old content")
		f := w.open("f", reading)
		old := w.read(f)
		w.give("tmp", "new content, and longer")
		w.must(w.server.Move("tmp", "f"))
		time.Sleep(2 * w.options.MetadataTTL)
		e, err := w.tree.Stat(w.Context(), "f")
		w.must(err)
		mine, err := f.Stat(w.Context())
		w.must(err)
		if e.Version == mine.Version || e.Size == mine.Size {
			t.Error("the new content passes for the old one")
		}
		if got := w.read(f); got != old {
			t.Errorf("the open file became %q", got)
		}
		g := w.open("f", reading)
		if got := w.read(g); got != "new content, and longer" {
			t.Errorf("a new open got %q", got)
		}
		w.must(f.Close(w.Context(), false))
		w.must(g.Close(w.Context(), false))
		w.must(w.tree.Close(w.Context()))
	})
}

func TestFileThatGrowsIsFollowed(t *testing.T) {
	for _, size := range []int{10, 1 << 20} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, nil)
			begin := strings.Repeat("l", size)
			w.give("log", begin)
			f := w.open("log", reading)
			if got := w.read(f); got != begin {
				t.Fatalf("read %s", short(got))
			}
			first, err := f.Stat(w.Context())
			w.must(err)
			other, err := w.server.Update(w.Context(), "log")
			w.must(err)
			_, err = other.WriteAt(w.Context(), []byte("more"), int64(size))
			w.must(err)
			_, err = other.Commit(w.Context(), backends.Commit{Size: int64(size) + 4})
			w.must(err)
			time.Sleep(w.options.MetadataTTL)
			e, err := f.Stat(w.Context())
			if err != nil || e.Version != first.Version || e.Size != int64(size)+4 {
				t.Fatalf("Stat = size %d, version %d, %v; want the same version, longer", e.Size, e.Version, err)
			}
			if got := w.read(f); got != begin+"more" {
				t.Errorf("read %s", short(got))
			}
			w.must(f.Close(w.Context(), false))
			w.must(w.tree.Close(w.Context()))
		})
	}
}

func TestSmallFileCostsOneReadAndLargeOnesAreReadAhead(t *testing.T) {
	w := newWorld(t, nil)
	w.give("small", strings.Repeat("s", 4096))
	f := w.open("small", reading)
	w.read(f)
	w.read(f)
	w.close(f)
	if calls := w.server.Calls(); calls["readlast"] != 1 || calls["readat"] != 0 {
		t.Errorf("calls %v for a small file read twice, want one readlast", calls)
	}
	content := strings.Repeat("0123456789abcdef", 8<<20/16)
	w.give("large", content)
	g := w.open("large", reading)
	var got strings.Builder
	for p := make([]byte, 128<<10); ; {
		n, err := g.ReadAt(w.Context(), p, int64(got.Len()))
		got.Write(p[:n])
		if err == io.EOF {
			break
		}
		w.must(err)
	}
	if got.String() != content {
		t.Error("a large file read in order came out different")
	}
	w.close(g)
	if n := w.server.Calls()["readat"]; n > 8<<20/(256<<10)+1 {
		t.Errorf("%d requests for 8 MiB in blocks of 256 KiB: something was fetched twice", n)
	}
}

func TestManyReadersOfOneFileFetchItOnce(t *testing.T) {
	w := newWorld(t, nil)
	content := strings.Repeat("0123456789abcdef", 4<<20/16)
	w.give("f", content)
	f := w.open("f", reading)
	var readers sync.WaitGroup
	for range 8 {
		readers.Go(func() {
			if got := w.read(f); got != content {
				t.Error("a reader got something else")
			}
		})
	}
	readers.Wait()
	w.close(f)
	if n := w.server.Calls()["readat"]; n > 4<<20/(256<<10)+1 {
		t.Errorf("%d requests for 4 MiB in blocks of 256 KiB, read by eight", n)
	}
}

func TestCacheIsBounded(t *testing.T) {
	w := newWorld(t, nil)
	w.store.SetBounds(1<<20, spool.Floor{Bytes: 1})
	content := strings.Repeat("0123456789abcdef", 64<<20/16)
	w.give("f", content)
	f := w.open("f", reading)
	p := make([]byte, 256<<10)
	for off := int64(0); off < int64(len(content)); off += int64(len(p)) {
		n, err := f.ReadAt(w.Context(), p, off)
		if err != nil && err != io.EOF || string(p[:n]) != content[off:off+int64(n)] {
			t.Fatalf("read at %d: %d bytes, %v", off, n, err)
		}
	}
	var disk int64
	files, err := filepath.Glob(filepath.Join(w.cache, "*", "*"))
	w.must(err)
	for _, path := range files {
		info, err := os.Stat(path)
		w.must(err)
		disk += info.Sys().(*syscall.Stat_t).Blocks * 512
	}
	if disk > 32<<20 {
		t.Errorf("%d MiB on disk after 64 MiB were read through a cache of 1", disk>>20)
	}
	w.close(f)
}

func TestServerThatSendsLessThanItToldIsAnError(t *testing.T) {
	for _, size := range []int{100, 1 << 20} {
		w := newWorld(t, nil)
		w.give("f", strings.Repeat("x", size))
		f := w.open("f", reading)
		w.must(w.server.WriteFile("f", []byte("cut")))
		w.must(w.server.Chtimes("f", time.Unix(5, 0), time.Unix(5, 0)))
		p := make([]byte, size)
		if n, err := f.ReadAt(w.Context(), p, 0); err == nil || err == io.EOF {
			t.Errorf("%d of %d bytes read and called complete: %v", n, size, err)
		}
		w.must(f.Close(w.Context(), false))
	}
}

func TestServerThatSendsMoreThanItToldIsAnError(t *testing.T) {
	for _, size := range []int{3, 1 << 20} {
		w := newWorld(t, nil)
		w.give("f", strings.Repeat("x", size+100))
		lying := &understating{Backend: w.server, by: 100}
		tree, err := cache.New(lying, w.options)
		w.must(err)
		f, e, err := tree.Open(w.Context(), "f", reading)
		w.must(err)
		if e.Size != int64(size) {
			t.Fatalf("size %d, want the lie", e.Size)
		}
		n, err := f.ReadAt(w.Context(), make([]byte, size), 0)
		wantErrno(t, err, syscall.EIO)
		if n != 0 {
			t.Errorf("%d bytes of a file that is longer than it is said to be", n)
		}
		w.must(f.Close(w.Context(), false))
		w.must(tree.Close(w.Context()))
	}
}

// understating is a server that tells sizes that are too small.
type understating struct {
	backends.Backend
	by int64
}

func (u *understating) less(i backends.Info, err error) (backends.Info, error) {
	i.Size -= u.by
	return i, err
}

func (u *understating) Stat(ctx context.Context, name string) (backends.Info, error) {
	return u.less(u.Backend.Stat(ctx, name))
}

func (u *understating) Open(ctx context.Context, name string) (backends.Reader, error) {
	r, err := u.Backend.Open(ctx, name)
	return &understatingReader{r, u}, err
}

type understatingReader struct {
	backends.Reader
	u *understating
}

func (r *understatingReader) Stat(ctx context.Context) (backends.Info, error) {
	return r.u.less(r.Reader.Stat(ctx))
}

func (r *understatingReader) ReadLast(ctx context.Context, p []byte, off int64) (int, backends.Info, error) {
	n, info, err := r.Reader.ReadLast(ctx, p, off)
	info, _ = r.u.less(info, nil)
	return n, info, err
}

func TestAnswersLastAsLongAsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.give("f", "1")
		e, err := w.tree.Stat(w.Context(), "f")
		w.must(err)
		if e.Valid != w.options.MetadataTTL {
			t.Errorf("Valid = %v, want the whole life", e.Valid)
		}
		time.Sleep(w.options.MetadataTTL / 2)
		if e, _ = w.tree.Stat(w.Context(), "f"); e.Valid != w.options.MetadataTTL/2 {
			t.Errorf("Valid = %v at half time", e.Valid)
		}
		if n := w.server.Calls()["stat"]; n != 1 {
			t.Errorf("%d questions within one life", n)
		}
		time.Sleep(w.options.MetadataTTL / 2)
		w.tree.Stat(w.Context(), "f")
		if n := w.server.Calls()["stat"]; n != 2 {
			t.Errorf("%d questions after its end", n)
		}
		w.must(w.tree.Close(w.Context()))
	})
}

func TestAbsenceIsRememberedAndEndsWithCreation(t *testing.T) {
	w := newWorld(t, nil)
	for range 2 {
		e, err := w.tree.Stat(w.Context(), "f")
		if !errors.Is(err, os.ErrNotExist) || e.Valid == 0 {
			t.Fatalf("Stat = %v, valid %v", err, e.Valid)
		}
	}
	if n := w.server.Calls()["stat"]; n != 1 {
		t.Errorf("%d questions for an absent name", n)
	}
	w.close(w.open("f", creating))
	if _, err := w.tree.Stat(w.Context(), "f"); err != nil {
		t.Errorf("Stat after creation = %v", err)
	}
}

func TestCreationOfANameKnownToBeAbsentAsksNothing(t *testing.T) {
	w := newWorld(t, nil)
	w.tree.Stat(w.Context(), "f")
	before := w.server.Calls()["stat"]
	f := w.open("f", creating)
	if n := w.server.Calls()["stat"]; n != before {
		t.Errorf("%d questions at creation", n-before)
	}
	w.close(f)
	w.has("f", "")
}

func TestListingAnswersForStatAndAbsence(t *testing.T) {
	w := newWorld(t, nil)
	w.give("a", "1")
	w.list("")
	_, err := w.tree.Stat(w.Context(), "a")
	w.must(err)
	if _, err := w.tree.Stat(w.Context(), "b"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Stat of an unlisted name = %v", err)
	}
	if n := w.server.Calls()["stat"]; n != 0 {
		t.Errorf("%d questions after a fresh listing", n)
	}
}

func TestCutListingDoesNotAnswerForAbsence(t *testing.T) {
	w := newWorld(t, func(so *mem.Options, _ *cache.Options) {
		so.Change = func(c *backends.Caps) { c.ListLimit = 2 }
	})
	for _, name := range []string{"a", "b", "c"} {
		w.give(name, name)
	}
	w.list("")
	for _, name := range []string{"a", "b", "c"} {
		if _, err := w.tree.Stat(w.Context(), name); err != nil {
			t.Errorf("Stat of %q, which the server has: %v", name, err)
		}
	}
}

func TestListingThatBreaksOffIsNoWholeListing(t *testing.T) {
	w := newWorld(t, nil)
	for i := range 10 {
		w.give(fmt.Sprint("f", i), "x")
	}
	seen := 0
	w.server.SetFault(func(_ context.Context, op, _ string) error {
		if op == "entry" {
			if seen++; seen > 5 {
				return syscall.EIO
			}
		}
		return nil
	})
	l, err := w.tree.List(w.Context(), "")
	w.must(err)
	for i := 0; ; i++ {
		if _, err = l.At(w.Context(), i); err != nil {
			break
		}
	}
	wantErrno(t, err, syscall.EIO)
	w.server.SetFault(nil)
	if got := w.list(""); len(got) != 10 {
		t.Errorf("the next listing has %d of 10 names", len(got))
	}
}

func TestTemporaryNamesAreNotListed(t *testing.T) {
	w := newWorld(t, nil)
	f := w.open("f", creating)
	w.write(f, "x", 0)
	var listed []string
	w.server.SetFault(func(_ context.Context, op, _ string) error {
		if op == "commit" {
			listed = w.list("")
		}
		return nil
	})
	w.close(f)
	if !slices.Equal(listed, []string{"f"}) {
		t.Errorf("during an upload the directory lists %q", listed)
	}
}

func TestTemporaryNamesDoNotComeBackInAKeptListing(t *testing.T) {
	w := newWorld(t, nil)
	f := w.open("f", claiming) // its temporary name stands on the server from here on
	w.list("")
	w.write(f, "x", 0)
	w.close(f)
	if got := w.list(""); !slices.Equal(got, []string{"f"}) {
		t.Errorf("after the upload the directory lists %q", got)
	}
}

func TestRenameOverAClaimedNameKeepsTheFile(t *testing.T) {
	w := newWorld(t, nil)
	w.give("b", "content")
	f := w.open("t", claiming)
	w.must(w.tree.Rename(w.Context(), "b", "t", backends.Replace))
	w.has("t", "content")
	w.write(f, "replaced", 0)
	w.close(f)
	w.has("t", "content")
	w.only("t")
}

func TestOpenDuringARenameGetsOneOfBothFiles(t *testing.T) {
	w := newWorld(t, nil)
	w.give("f", "old")
	w.give("tmp", "new, and longer")
	inside, opened := make(chan struct{}), make(chan *cache.File)
	w.server.SetFault(func(_ context.Context, op, _ string) error {
		if op == "rename" {
			close(inside)
		}
		return nil
	})
	go func() {
		<-inside
		f, _, err := w.tree.Open(w.Context(), "f", reading)
		if err != nil {
			t.Error(err)
		}
		opened <- f
	}()
	w.must(w.tree.Rename(w.Context(), "tmp", "f", backends.Replace))
	f := <-opened
	if got := w.read(f); got != "old" && got != "new, and longer" {
		t.Errorf("read %q", got)
	}
	w.close(f)
}

func TestReplacingUnderReadersNeverFailsThem(t *testing.T) {
	w := newWorld(t, nil)
	w.give("f", "0")
	var readers sync.WaitGroup
	done := make(chan struct{})
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				f := w.open("f", reading)
				p := make([]byte, 100)
				n, err := f.ReadAt(w.Context(), p, 0)
				if err != io.EOF || strings.Trim(string(p[:n]), string(p[:1])) != "" {
					t.Errorf("read %q, %v", p[:n], err)
				}
				w.close(f)
			}
		})
	}
	for i := range 300 {
		f := w.open("tmp", creating)
		w.write(f, strings.Repeat(fmt.Sprint(i%10), i%50+1), 0)
		w.close(f)
		w.must(w.tree.Rename(w.Context(), "tmp", "f", backends.Replace))
	}
	close(done)
	readers.Wait()
}

func TestRenameOfAnotherNamePublishesTheContent(t *testing.T) {
	w := newWorld(t, nil)
	w.give("u", "content")
	_, err := w.tree.Link(w.Context(), "u", "d")
	w.must(err)
	f := w.open("u", writing)
	w.write(f, "CON", 0)
	w.must(w.tree.Rename(w.Context(), "d", "e", backends.Replace))
	w.has("e", "CONtent")
	w.close(f)
}

func TestLinkCountFallsWithTheNames(t *testing.T) {
	w := newWorld(t, nil)
	w.give("a", "content")
	_, err := w.tree.Link(w.Context(), "a", "b")
	w.must(err)
	w.must(w.tree.Rename(w.Context(), "a", "x", backends.Replace))
	f := w.open("b", writing)
	w.must(w.tree.Remove(w.Context(), "b"))
	w.write(f, "C", 0)
	if e, err := w.tree.Stat(w.Context(), "x"); err != nil || e.Known.Has(backends.HasNlink) && e.Nlink != 1 {
		t.Errorf("nlink %d, %v; want 1", e.Nlink, err)
	}
	w.close(f)
	w.has("x", "Content")
}

func TestTempNameFollowsItsPattern(t *testing.T) {
	for pattern, want := range map[string]func(name string) bool{
		"":               func(n string) bool { return strings.HasPrefix(n, ".f.pierfs-") && len(n) == len(".f.pierfs-")+8 },
		"NAME.part":      func(n string) bool { return n == "f.part" },
		cache.TempNone:   func(n string) bool { return n == "f" },
		"tmp-XXXX.NAME~": func(n string) bool { return strings.HasPrefix(n, "tmp-") && strings.HasSuffix(n, ".f~") },
	} {
		w := newWorld(t, func(_ *mem.Options, to *cache.Options) { to.TempName = pattern })
		var during []string
		w.server.SetFault(func(_ context.Context, op, _ string) error {
			if op == "commit" {
				during, _ = w.server.Names("")
			}
			return nil
		})
		w.close(w.open("f", creating))
		if len(during) != 1 || !want(during[0]) {
			t.Errorf("pattern %q gathers under %q", pattern, during)
		}
		w.only("f")
	}
}

func TestLongNamesHaveTemporaryNamesToo(t *testing.T) {
	w := newWorld(t, nil)
	name := strings.Repeat("n", backends.MaxElement)
	w.close(w.open(name, creating))
	w.only(name)
}

func TestUntoldFailureIsQuarantined(t *testing.T) {
	w := newWorld(t, nil)
	w.server.SetFault(func(_ context.Context, op, _ string) error {
		if op == "create" {
			return syscall.EACCES
		}
		return nil
	})
	f := w.open("dir-less", creating)
	w.write(f, "precious", 0)
	if err := f.Close(w.Context(), false); err == nil {
		t.Fatal("Close says that all is well")
	}
	owed := w.tree.Owed()
	if owed.Quarantined != 1 || owed.LastError == nil || owed.Files != 0 {
		t.Errorf("Owed = %+v", owed)
	}
	w.quarantineHolds("precious")
	w.empty(w.options.Staging)
	w.must(os.RemoveAll(w.options.Quarantine)) // as the operator is told to, and the directory with it
	if owed := w.tree.Owed(); owed.Quarantined != 0 {
		t.Errorf("Owed = %+v after the quarantine was emptied", owed)
	}
}

func (w *world) quarantineHolds(content string) {
	w.Helper()
	kept, err := filepath.Glob(filepath.Join(w.options.Quarantine, "*.data"))
	w.must(err)
	if len(kept) != 1 {
		w.Fatalf("quarantine holds %q", kept)
	}
	if got, err := os.ReadFile(kept[0]); err != nil || string(got) != content {
		w.Errorf("quarantine keeps %q, %v; want %q", got, err, content)
	}
	if _, err := os.Stat(strings.TrimSuffix(kept[0], ".data") + ".json"); err != nil {
		w.Error("no note tells what is kept:", err)
	}
}

func TestToldFailureIsNotKept(t *testing.T) {
	w := newWorld(t, nil)
	w.server.SetFault(func(_ context.Context, op, _ string) error {
		if op == "create" {
			return syscall.EACCES
		}
		return nil
	})
	f := w.open("f", creating)
	wantErrno(t, f.Publish(w.Context()), syscall.EACCES)
	w.must(f.Close(w.Context(), true))
	if owed := w.tree.Owed(); owed.Quarantined != 0 {
		t.Errorf("Owed = %+v", owed)
	}
}

func TestLeftoversOfADeadDaemonAreQuarantinedAndNeverPublished(t *testing.T) {
	w := newWorld(t, nil)
	f := w.open("f", creating)
	w.write(f, "half", 0)
	again := w.newTree() // as a daemon that starts after the first one was killed
	if owed := again.Owed(); owed.Quarantined != 1 {
		t.Errorf("Owed = %+v", owed)
	}
	w.quarantineHolds("half")
	w.lacks("f")
	w.must(f.Close(w.Context(), true))
}

func TestWriteThatFailsHalfDoneIsNotPublished(t *testing.T) {
	w := newWorld(t, nil)
	w.give("f", "old content")
	f := w.open("f", cutting)
	w.write(f, "begin", 0)
	if _, err := f.WriteAt(w.Context(), []byte("x"), -1); err == nil {
		t.Fatal("a write before the beginning was taken")
	}
	if err := f.Publish(w.Context()); err == nil {
		t.Error("what is left of a failed write was published")
	}
	w.has("f", "old content")
	size := int64(0)
	_, err := f.SetAttr(w.Context(), backends.Attr{Size: &size}) // the program begins anew
	w.must(err)
	w.write(f, "anew", 0)
	w.close(f)
	w.has("f", "anew")
}

func TestLinkedNamesAreOneFile(t *testing.T) {
	w := newWorld(t, nil)
	w.give("a", "content")
	e, err := w.tree.Link(w.Context(), "a", "b")
	if err != nil || e.Nlink != 2 {
		t.Fatalf("Link = nlink %d, %v", e.Nlink, err)
	}
	f := w.open("a", writing)
	w.write(f, "C", 0)
	if e, err := w.tree.Stat(w.Context(), "b"); err != nil || e.Nlink != 2 {
		t.Errorf("Stat of the other name = nlink %d, %v", e.Nlink, err)
	}
	g := w.open("b", reading)
	if got := w.read(g); got != "Content" {
		t.Errorf("the other name reads %q before it is published", got)
	}
	w.must(w.tree.Remove(w.Context(), "a"))
	w.write(f, "CO", 0)
	w.close(f)
	w.has("b", "COntent")
	if e, err := g.Stat(w.Context()); err != nil || e.Nlink != 1 {
		t.Errorf("after the first name's removal nlink %d, %v", e.Nlink, err)
	}
	w.close(g)
	w.only("b")
}

func TestLinkedFileThatShrinksLosesItsEnd(t *testing.T) {
	w := newWorld(t, nil)
	w.give("a", "content")
	_, err := w.tree.Link(w.Context(), "a", "b")
	w.must(err)
	f := w.open("b", cutting)
	w.write(f, "c", 0)
	w.close(f)
	w.has("a", "c")
	w.has("b", "c")
}

func TestFileWithoutANameCanBeGivenOne(t *testing.T) {
	w := newWorld(t, nil)
	f, _, err := w.tree.Temp(w.Context(), "", 0o600)
	w.must(err)
	w.write(f, "content", 0)
	w.must(f.Publish(w.Context()))
	w.only()
	_, err = f.Link(w.Context(), "named")
	w.must(err)
	w.has("named", "content")
	w.write(f, "C", 0)
	w.close(f)
	w.has("named", "Content")

	g, _, err := w.tree.Temp(w.Context(), "", 0o600)
	w.must(err)
	_, err = g.Link(w.Context(), "named")
	wantErrno(t, err, syscall.EEXIST)
	w.close(g)
	w.has("named", "Content")
}

// What programs are still writing when the Tree is closed may be half of what they mean: it is kept, whatever it is, and not published. What
// they have added to a file is.
func TestCloseOfTheTreePublishesOnlyWhatWasAdded(t *testing.T) {
	const old = "0123456789"
	for name, c := range map[string]struct {
		write     func(w *world) *cache.File
		has, kept string // in the end, by the server's name and in quarantine
	}{
		"new":       {func(w *world) *cache.File { return w.wrote("f", creating, "half", 0) }, "", "half"},
		"exclusive": {func(w *world) *cache.File { return w.wrote("f", claiming, "half", 0) }, "", "half"},
		"cut":       {func(w *world) *cache.File { return w.wrote("old", cuttingNew, "half", 0) }, old, "half"},
		"patched":   {func(w *world) *cache.File { return w.wrote("old", writing, "half", 2) }, old, "\x00\x00half\x00\x00\x00\x00"},
		"added to":  {func(w *world) *cache.File { return w.wrote("old", writing, "more", 10) }, old + "more", ""},
		"synced": {func(w *world) *cache.File {
			f := w.wrote("f", creating, "whole", 0)
			w.must(f.Publish(w.Context()))
			w.write(f, " and more", 5)
			return f
		}, "whole and more", ""},
		"synced and changed": {func(w *world) *cache.File {
			f := w.wrote("f", creating, "whole", 0)
			w.must(f.Publish(w.Context()))
			w.write(f, "H", 1)
			return f
		}, "whole", "wHole"},
		"nothing but cut":    {func(w *world) *cache.File { return w.open("old", cuttingNew) }, old, ""},
		"nothing but a name": {func(w *world) *cache.File { return w.open("f", creating) }, "", ""},
	} {
		for _, background := range []bool{false, true} {
			t.Run(fmt.Sprint(name, " ", background), func(t *testing.T) {
				w := newWorld(t, func(_ *mem.Options, to *cache.Options) { to.Background = background })
				w.give("old", old)
				f := c.write(w)
				bears, _ := f.Name()
				if err := w.tree.Close(w.Context()); (err != nil) != (c.kept != "") {
					t.Errorf("Close = %v, want an error if something was kept", err)
				}
				if c.has == "" {
					w.only("old")
				} else {
					w.has(bears, c.has)
				}
				arrived := c.kept == "" && c.has != "" && c.has != old
				if err := f.Publish(w.Context()); (err == nil) != arrived {
					t.Errorf("Publish after Close = %v; is it at the server: %v", err, arrived)
				}
				w.must(f.Close(w.Context(), false))
				if c.kept == "" {
					w.empty(w.options.Quarantine)
				} else {
					w.quarantineHolds(c.kept)
				}
				if _, _, err := w.tree.Open(w.Context(), "old", reading); backends.Errno(err) != syscall.ESHUTDOWN {
					t.Errorf("Open after Close = %v", err)
				}
			})
		}
	}
}

// A publication that is under way when the Tree is closed is waited for; one that does not end in time is no success.
func TestPublicationThatMeetsTheEndOfTheTree(t *testing.T) {
	for _, inTime := range []bool{true, false} {
		t.Run(fmt.Sprint(inTime), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, nil)
				f := w.wrote("f", creating, "content", 0)
				asked, on := make(chan struct{}), make(chan struct{})
				w.server.SetFault(func(ctx context.Context, op, _ string) error {
					if op == "create" {
						close(asked)
						select {
						case <-on:
						case <-ctx.Done():
							return ctx.Err()
						}
					}
					return nil
				})
				published, closed := make(chan error, 1), make(chan error, 1)
				go func() { published <- f.Publish(context.Background()) }()
				<-asked
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				go func() { closed <- w.tree.Close(ctx) }()
				synctest.Wait()
				if inTime {
					close(on)
				}
				toldClose := <-closed
				if !inTime {
					close(on)
				}
				if told := <-published; (told == nil) != inTime || (toldClose == nil) != inTime {
					t.Errorf("Publish = %v, Close = %v; want both to be told of success: %v", told, toldClose, inTime)
				}
				if inTime {
					w.has("f", "content")
				} else {
					w.quarantineHolds("content")
				}
			})
		})
	}
}

// Who waits to promise what he wrote while the end of the Tree puts that into quarantine is told so.
func TestPromiseThatMeetsTheEndOfTheTree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		syncing, on := make(chan struct{}), make(chan struct{})
		first := true
		w := newWorld(t, func(_ *mem.Options, to *cache.Options) {
			to.Background, to.Target = true, "mem test"
			to.Hook = func(site string) {
				if site == "staging.sync" && first {
					first = false
					close(syncing)
					<-on
				}
			}
		})
		f := w.wrote("f", creating, "whole", 0)
		before, behind, closed := make(chan error, 1), make(chan error, 1), make(chan error, 1)
		go func() { before <- f.Publish(context.Background()) }()
		<-syncing
		w.write(f, "H", 1)
		go func() { closed <- w.tree.Close(context.Background()) }()
		synctest.Wait()
		go func() { behind <- f.Publish(context.Background()) }()
		synctest.Wait()
		close(on)
		w.must(<-before)
		if told, toldClose := <-behind, <-closed; told == nil || toldClose == nil {
			t.Errorf("Publish = %v, Close = %v; and what was written last is in quarantine", told, toldClose)
		}
		w.has("f", "whole")
		w.quarantineHolds("wHole")
	})
}

// wrote returns name, opened by mode, with content written at off.
func (w *world) wrote(name string, mode cache.OpenMode, content string, off int64) *cache.File {
	w.Helper()
	f := w.open(name, mode)
	w.write(f, content, off)
	return f
}

func TestFilesAreDiscardedWithTheirLastClose(t *testing.T) {
	w := newWorld(t, nil)
	w.give("f", strings.Repeat("x", 1<<20))
	for range 3 {
		f, g := w.open("f", reading), w.open("f", writing)
		w.read(f)
		w.write(g, "y", 0)
		w.close(f)
		w.close(g)
	}
	w.empty(w.options.Staging, w.options.Quarantine)
	w.uncached()
}

func TestWritersOfOneFileDoNotLoseEachOthersBytes(t *testing.T) {
	w := newWorld(t, nil)
	const writers, lines = 8, 50
	var all sync.WaitGroup
	for i := range writers {
		all.Go(func() {
			for j := range lines {
				f := w.open("log", creating)
				if _, err := f.Append(w.Context(), fmt.Appendf(nil, "%d.%02d\n", i, j)); err != nil {
					t.Error(err)
				}
				w.close(f)
			}
		})
	}
	all.Wait()
	content, err := w.server.ReadFile("log")
	w.must(err)
	got := strings.Split(strings.TrimSpace(string(content)), "\n")
	if slices.Sort(got); len(slices.Compact(got)) != writers*lines {
		t.Errorf("%d of %d lines arrived", len(got), writers*lines)
	}
	w.only("log")
}

func TestFileThatIsSaidToBeEmptyIsAsked(t *testing.T) {
	w := newWorld(t, nil)
	w.give("f", strings.Repeat("x", 100))
	w.give("e", "")
	tree, err := cache.New(&understating{Backend: w.server, by: 100}, w.options)
	w.must(err)
	f, _, err := tree.Open(w.Context(), "f", reading)
	w.must(err)
	_, err = f.ReadAt(w.Context(), make([]byte, 10), 0)
	wantErrno(t, err, syscall.EIO)
	w.must(f.Close(w.Context(), false))
	w.must(tree.Close(w.Context()))
}

// TestListingKnowsFurtherNames: a server that tells no link counts tells none in listings either, and the kernel takes a
// listing's entry for a stat.
func TestListingKnowsFurtherNames(t *testing.T) {
	w := newWorld(t, func(so *mem.Options, _ *cache.Options) {
		so.Known = backends.HasType | backends.HasPerm | backends.HasSize | backends.HasModTime
	})
	w.give("a", "content")
	_, err := w.tree.Link(w.Context(), "a", "b")
	w.must(err)
	for _, from := range []string{"the server", "what is known"} {
		l, err := w.tree.List(w.Context(), "")
		w.must(err)
		for i := range 2 {
			e, err := l.At(w.Context(), i)
			if err != nil || e.Nlink != 2 || !e.Known.Has(backends.HasNlink) {
				t.Errorf("from %s: %q has %d links, %v; want 2", from, e.Name, e.Nlink, err)
			}
		}
		l.Close()
	}
}
