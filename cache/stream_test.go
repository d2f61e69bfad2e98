package cache_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"pierfs/backends"
	"pierfs/backends/mem"
	"pierfs/backends/retry"
	"pierfs/cache"
	"pierfs/cache/spool"
)

// newStream is a world whose server can only stream, as one of FTP.
func newStream(t *testing.T, change func(*mem.Options, *cache.Options)) *world {
	return newWorld(t, streaming(change))
}

// newStreamKeeping is newKeeping for such a server.
func newStreamKeeping(t *testing.T, change func(*mem.Options, *cache.Options)) *world {
	return newKeeping(t, streaming(change))
}

func streaming(change func(*mem.Options, *cache.Options)) func(*mem.Options, *cache.Options) {
	return func(so *mem.Options, to *cache.Options) {
		*so = mem.FTP(nil)
		if change != nil {
			change(so, to)
		}
	}
}

// noise is n bytes that look like nothing.
func noise(n int, seed byte) string {
	p := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(p)
	return string(p)
}

// part demands that f holds want at off.
func (w *world) part(f *cache.File, want string, off int64) {
	w.Helper()
	p := make([]byte, len(want))
	if n, err := f.ReadAt(w.Context(), p, off); n != len(p) || err != nil && err != io.EOF || string(p) != want {
		w.Fatalf("ReadAt(%d bytes, %d) = %d, %v; same content: %v", len(p), off, n, err, string(p) == want)
	}
}

// costs runs f and demands that it costs so many calls of each op, and none of the others named.
func (w *world) costs(what string, want map[string]int, f func()) {
	w.Helper()
	before := w.server.Calls()
	f()
	after := w.server.Calls()
	for _, op := range []string{"stat", "list", "retr", "stor", "appe", "setattr", "rename", "remove"} {
		if got := after[op] - before[op]; got != want[op] {
			w.Errorf("%s: %d %s, want %d", what, got, op, want[op])
		}
	}
}

// TestRoomForStagingIsShownWhereTheServerTellsNone: it bounds what can be written, and programs look before they write.
func TestRoomForStagingIsShownWhereTheServerTellsNone(t *testing.T) {
	w := newStream(t, nil)
	space, err := w.tree.StatFS(t.Context())
	var here unix.Statfs_t
	if err := unix.Statfs(w.options.Staging, &here); err != nil {
		t.Fatal(err)
	}
	size := uint64(here.Frsize)
	if err != nil || space.Total != here.Blocks*size || space.Avail == 0 || space.Avail > space.Free || space.Free > space.Total {
		t.Errorf("got %+v, %v; staging lies on %d blocks of %d bytes", space, err, here.Blocks, size)
	}
}

func TestStreamIsReadInOneTransfer(t *testing.T) {
	w := newStream(t, nil)
	const size = 40<<20 + 777
	content := noise(size, 1)
	w.give("big", content)
	w.costs("two sequential readers", map[string]int{"retr": 1, "stat": 2 + 1}, func() { // both opens ask, and the end of the file
		f, g := w.open("big", reading), w.open("big", reading)
		var both sync.WaitGroup
		for _, f := range []*cache.File{f, g} {
			both.Go(func() {
				p := make([]byte, 128<<10)
				for off := int64(0); off < size; {
					n, err := f.ReadAt(w.Context(), p, off)
					if err != nil && err != io.EOF || string(p[:n]) != content[off:off+int64(n)] {
						t.Errorf("ReadAt at %d: %d, %v", off, n, err)
						return
					}
					off += int64(n)
				}
			})
		}
		both.Wait()
		w.must(f.Close(w.Context(), false))
		w.must(g.Close(w.Context(), false))
	})
}

// TestStreamBearsReadsOutOfOrder: read-ahead of the kernel comes in pieces that overtake each other.
func TestStreamBearsReadsOutOfOrder(t *testing.T) {
	w := newStream(t, nil)
	const size = 16 << 20
	content := noise(size, 2)
	w.give("big", content)
	w.costs("eight at once, shuffled within a MiB", map[string]int{"retr": 1, "stat": 2}, func() {
		f := w.open("big", reading)
		for mib := int64(0); mib < size; mib += 1 << 20 {
			var all sync.WaitGroup
			for _, i := range rand.Perm(8) {
				all.Go(func() { w.part(f, content[mib+int64(i)<<17:mib+int64(i+1)<<17], mib+int64(i)<<17) })
			}
			all.Wait()
		}
		w.must(f.Close(w.Context(), false))
	})
}

func TestSmallReadsFetchLargePieces(t *testing.T) {
	w := newStream(t, nil)
	const size = 64 << 20
	content := noise(size, 3)
	w.give("big", content)
	before := w.server.Calls()["retr"]
	f := w.open("big", reading)
	const reads = 1000
	random := rand.New(rand.NewPCG(1, 2))
	for range reads {
		off := random.Int64N(size - 4096)
		w.part(f, content[off:off+4096], off)
	}
	if n := w.server.Calls()["retr"] - before; n > 64 {
		t.Errorf("%d random reads in %d MiB cost %d transfers, want one for each MiB at most", reads, size>>20, n)
	}
	w.must(f.Close(w.Context(), false))
}

// TestStreamsTakeTurns: no more files are streamed at a time than a server bears sessions, and all get their part.
func TestStreamsTakeTurns(t *testing.T) {
	w := newStream(t, nil)
	const files, size = 8, 12 << 20
	for i := range files {
		w.give(fmt.Sprint(i), strings.Repeat(fmt.Sprint(i), size))
	}
	var under, most atomic.Int64
	w.server.SetFault(func(_ context.Context, op, _ string) error {
		if op == "readat" {
			if n := under.Add(1); n > most.Load() {
				most.Store(n)
			}
		}
		return nil
	})
	w.server.SetAfter(func(_ context.Context, op, _ string) error {
		if op == "readat" {
			under.Add(-1)
		}
		return nil
	})
	before := w.server.Calls()["retr"]
	var all sync.WaitGroup
	for i := range files {
		f := w.open(fmt.Sprint(i), reading)
		all.Go(func() {
			if w.read(f) != strings.Repeat(fmt.Sprint(i), size) {
				t.Errorf("file %d is not what the server has", i)
			}
			w.must(f.Close(w.Context(), false))
		})
	}
	all.Wait()
	if n := most.Load(); n > 3 {
		t.Errorf("%d files were streamed at a time", n)
	}
	if n := w.server.Calls()["retr"] - before; n != files {
		t.Errorf("%d transfers for %d files", n, files)
	}
}

// TestUploadsTakeTurns: no more uploads are under way than a server bears with one transfer to spare, and those that wait are
// not given up however long the others take.
func TestUploadsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newStream(t, func(so *mem.Options, _ *cache.Options) {
			*so = mem.FTP(func(c *backends.Caps) { c.Streams = 3 })
		})
		const uploads, atATime = 5, 2
		goOn := make(chan struct{})
		var under atomic.Int64
		w.server.SetFault(func(_ context.Context, op, _ string) error {
			if op == "writeat" {
				under.Add(1)
				<-goOn
			}
			return nil
		})
		var all sync.WaitGroup
		for i := range uploads {
			f := w.open(fmt.Sprint(i), creating)
			w.write(f, "content", 0)
			all.Go(func() { w.must(f.Publish(w.Context())) })
		}
		for sent := range uploads {
			synctest.Wait()
			if n, want := int(under.Load()), min(sent+atATime, uploads); n != want {
				t.Errorf("after %d uploads %d have begun, want %d", sent, n, want)
			}
			time.Sleep(time.Hour) // the bubble's, to be longer than any budget
			goOn <- struct{}{}
		}
		all.Wait()
		for i := range uploads {
			w.has(fmt.Sprint(i), "content")
		}
	})
}

// TestTwoReadersFarApartDoNotFight: who reads a file in two places in turn does not jump for each read.
func TestTwoReadersFarApartDoNotFight(t *testing.T) {
	w := newStream(t, nil)
	const size = 128 << 20
	w.give("big", strings.Repeat("0123456789abcdef", size/16))
	before := w.server.Calls()["retr"]
	f := w.open("big", reading)
	p := make([]byte, 128<<10)
	for off := int64(0); off < size/2; off += int64(len(p)) {
		for _, place := range []int64{off, size/2 + off} {
			if n, err := f.ReadAt(w.Context(), p, place); n < len(p) && err != nil {
				t.Fatal(place, n, err)
			}
		}
	}
	if n := w.server.Calls()["retr"] - before; n > size/(4<<20) {
		t.Errorf("%d transfers for %d MiB read in two places", n, size>>20)
	}
	w.must(f.Close(w.Context(), false))
}

func TestSmallFileCostsOneTransfer(t *testing.T) {
	w := newStream(t, nil)
	for i := range 3 {
		w.give(fmt.Sprint("f", i), strings.Repeat("x", 4096+i))
	}
	w.costs("listing", map[string]int{"list": 1}, func() { w.list("") })
	w.costs("open and read what was listed", map[string]int{"retr": 3}, func() {
		for i := range 3 {
			f := w.open(fmt.Sprint("f", i), reading)
			w.part(f, strings.Repeat("x", 4096+i), 0)
			w.must(f.Close(w.Context(), false))
		}
	})
}

func TestStreamedFileThatChangesIsNeverAMix(t *testing.T) {
	const size = 8 << 20
	old, fresh := noise(size, 4), noise(size, 5)
	for _, how := range []string{"replaced", "rewritten in place"} {
		t.Run(how, func(t *testing.T) {
			w := newStream(t, func(so *mem.Options, to *cache.Options) { to.MetadataTTL = 0 })
			w.give("f", old)
			w.must(w.server.Chtimes("f", time.Unix(1e9, 0), time.Unix(1e9, 0)))
			f := w.open("f", reading)
			w.part(f, old[:128<<10], 0)
			switch how {
			case "replaced":
				w.give("g", fresh)
				w.must(w.server.Move("g", "f"))
			default:
				w.give("f", fresh)
			}
			got := make([]byte, size)
			n, err := f.ReadAt(w.Context(), got, 0)
			if err == nil || err == io.EOF {
				if string(got[:n]) != old {
					t.Errorf("%d bytes, neither the old version nor an error", n)
				}
			} else if backends.Errno(err) != syscall.ESTALE {
				t.Errorf("ReadAt = %v, want ESTALE", err)
			}
			g := w.open("f", reading)
			if w.read(g) != fresh {
				t.Error("who opens it anew does not read the new version")
			}
			w.must(f.Close(w.Context(), false))
			w.must(g.Close(w.Context(), false))
		})
	}
}

func TestStreamedLogIsFollowed(t *testing.T) {
	for _, size := range []int{100, 1 << 20} { // in memory, and in a copy
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			w := newStream(t, func(so *mem.Options, to *cache.Options) { to.MetadataTTL = 0 })
			content := noise(size, 6)
			w.give("log", content)
			f := w.open("log", reading)
			for i := range 5 {
				if w.read(f) != content {
					t.Fatalf("after %d lines: not what the server has", i)
				}
				content += fmt.Sprintf("line %d\n", i)
				w.give("log", content)
			}
			// Another, longer file takes the name: no part of it belongs to what f reads.
			w.give("log", noise(size*2, 7))
			p := make([]byte, 100)
			_, _ = f.Stat(w.Context())
			if n, err := f.ReadAt(w.Context(), p, int64(len(content))); err == nil || n > 0 && string(p[:n]) != content[len(content)-n:] {
				t.Errorf("behind the end of the file that was replaced: %d bytes, %v", n, err)
			}
			w.must(f.Close(w.Context(), false))
		})
	}
}

func TestStreamedFileOutlivesItsName(t *testing.T) {
	const size = 4 << 20
	old := noise(size, 8)
	for what, takeAway := range map[string]func(w *world){
		"removed":      func(w *world) { w.must(w.tree.Remove(w.Context(), "f")) },
		"renamed over": func(w *world) { w.must(w.tree.Rename(w.Context(), "g", "f", backends.Replace)) },
	} {
		for _, read := range []string{"", "the beginning", "the end"} {
			t.Run(what+" "+read, func(t *testing.T) {
				w := newStream(t, nil)
				w.give("f", old)
				w.give("g", "other")
				f := w.open("f", reading)
				switch read {
				case "the beginning":
					w.part(f, old[:4096], 0)
				case "the end":
					w.part(f, old[size-4096:], size-4096)
				}
				takeAway(w)
				if w.read(f) != old {
					t.Error("the content did not outlive its name")
				}
				w.must(f.Close(w.Context(), false))
			})
		}
	}
}

func TestEmptyStreamedFileOutlivesItsName(t *testing.T) {
	w := newStream(t, nil)
	w.give("f", "")
	f := w.open("f", reading)
	w.must(w.tree.Remove(w.Context(), "f"))
	if n, err := f.ReadAt(w.Context(), make([]byte, 10), 0); n != 0 || err != io.EOF {
		t.Errorf("ReadAt = %d, %v, want EOF", n, err)
	}
	w.must(f.Close(w.Context(), false))
}

func TestFileTooLargeToBeKeptCanBeRemoved(t *testing.T) {
	w := newStream(t, nil)
	w.store.SetBounds(1<<20, spool.Floor{Bytes: 1})
	const size = 64 << 20
	w.give("f", strings.Repeat("x", size))
	f := w.open("f", reading)
	w.part(f, strings.Repeat("x", 4096), 0)
	w.must(w.tree.Remove(w.Context(), "f"))
	w.lacks("f")
	if _, err := f.ReadAt(w.Context(), make([]byte, 4096), size-4096); backends.Errno(err) != syscall.ESTALE {
		t.Errorf("the end of a file that is gone: %v, want ESTALE", err)
	}
	w.must(f.Close(w.Context(), false))
}

func TestBrokenTransferGoesOn(t *testing.T) {
	w := newStream(t, nil)
	const size = 8 << 20
	content := noise(size, 9)
	w.give("f", content)
	var reads atomic.Int64
	w.server.SetFault(func(_ context.Context, op, name string) error {
		if op == "readat" && reads.Add(1)%7 == 0 {
			w.server.Break()
		}
		return nil
	})
	f := w.open("f", reading)
	for off := int64(0); off < size; off += 128 << 10 {
		w.part(f, content[off:off+128<<10], off)
	}
	w.must(f.Close(w.Context(), false))
}

func TestPatchedFileIsUploadedWhole(t *testing.T) {
	w := newStream(t, nil)
	const size = 3<<20 + 5
	content := noise(size, 10)
	w.give("f", content)
	w.costs("a patch in the middle", map[string]int{"stat": 2, "retr": 1, "stor": 1}, func() { // what ends with the file is asked for again
		f := w.open("f", cache.OpenMode{Write: true})
		w.write(f, "patch", 1<<20)
		w.must(f.Close(w.Context(), false))
	})
	content = content[:1<<20] + "patch" + content[1<<20+5:]
	w.has("f", content)
	f := w.open("f", writing)
	w.write(f, "hole behind", int64(size)+10_000)
	w.must(f.Close(w.Context(), false))
	w.has("f", content+strings.Repeat("\x00", 10_000)+"hole behind")
	short := int64(7)
	_, err := w.tree.SetAttr(w.Context(), "f", backends.Attr{Size: &short})
	w.must(err)
	w.has("f", content[:7])
	w.only("f")
}

// countingBackend counts the bytes that are written.
type countingBackend struct {
	backends.Backend
	sent atomic.Int64
}

func (b *countingBackend) Create(ctx context.Context, name string, mode backends.WriteMode) (backends.Writer, error) {
	w, err := b.Backend.Create(ctx, name, mode)
	return &countingWriter{w, b}, err
}

func (b *countingBackend) Update(ctx context.Context, name string) (backends.Writer, error) {
	w, err := b.Backend.Update(ctx, name)
	return &countingWriter{w, b}, err
}

type countingWriter struct {
	backends.Writer
	b *countingBackend
}

func (w *countingWriter) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	n, err := w.Writer.WriteAt(ctx, p, off)
	w.b.sent.Add(int64(n))
	return n, err
}

// TestSyncedAppendsSendOnlyTheirEnd: 64 MiB with a sync for each MiB.
func TestSyncedAppendsSendOnlyTheirEnd(t *testing.T) {
	w := newStream(t, nil)
	counting := &countingBackend{Backend: w.server}
	var err error
	w.tree, err = cache.New(retry.New(counting, w.options.Retry, retry.Options{}), w.options)
	w.must(err)
	const size = 64 << 20
	f := w.open("log", creating)
	w.costs("64 syncs", map[string]int{"stat": 63, "stor": 1, "appe": 63}, func() {
		for off := int64(0); off < size; off += 1 << 20 {
			w.write(f, strings.Repeat(string(rune('a'+off>>20%26)), 1<<20), off)
			w.must(f.Sync(w.Context()))
		}
	})
	w.must(f.Close(w.Context(), false))
	if n := counting.sent.Load(); n > 70<<20 {
		t.Errorf("%d MiB were sent for 64 MiB", n>>20)
	}
	if info, err := w.server.Lstat("log"); err != nil || info.Size != size {
		t.Errorf("the server has %d bytes, %v", info.Size, err)
	}
}

func TestFailedAppendGoesOnWhereItEnded(t *testing.T) {
	for _, class := range []backends.Class{backends.Final, backends.Transient, backends.Lost} {
		t.Run(class.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newStream(t, nil)
				begin, more := noise(100_000, 11), noise(5<<20, 12)
				w.give("f", begin)
				f := w.open("f", writing)
				w.write(f, more, int64(len(begin)))
				writes := 0
				w.server.SetAfter(func(_ context.Context, op, name string) error {
					if op != "writeat" {
						return nil
					}
					if writes++; writes != 2 {
						return nil
					}
					return &backends.Error{Op: op, Name: name, Code: syscall.EIO, Class: class}
				})
				err := f.Publish(w.Context())
				if class == backends.Final {
					if err == nil {
						t.Fatal("an append that failed is no success")
					}
					err = f.Publish(w.Context())
				}
				w.must(err)
				w.has("f", begin+more)
				w.must(f.Close(w.Context(), false))
				w.must(w.tree.Close(w.Context()))
			})
		})
	}
}

// TestAppendThatArrivedUnheardIsSuccess: the answer is lost, all of it is there, and the file is another's, whose times the login may not set.
func TestAppendThatArrivedUnheardIsSuccess(t *testing.T) {
	for name, background := range map[string]bool{"close": false, "background": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newStream(t, func(_ *mem.Options, o *cache.Options) { o.Background = background })
				w.give("log", "one\n")
				f := w.open("log", logging)
				w.append(f, "two\n")
				w.server.SetFault(func(_ context.Context, op, name string) error {
					if op == "setattr" {
						return &backends.Error{Op: op, Name: name, Code: syscall.EPERM}
					}
					return nil
				})
				commits := 0
				w.server.SetAfter(func(_ context.Context, op, name string) error {
					if op != "commit" {
						return nil
					}
					if commits++; commits > 1 {
						return nil
					}
					w.server.Break()
					return lost(op, name)
				})
				w.close(f)
				w.must(w.tree.Drain(w.Context()))
				if commits != 1 {
					t.Errorf("%d commits, want the one that was not heard of", commits)
				}
				w.has("log", "one\ntwo\n")
				w.only("log")
				w.must(w.tree.Close(w.Context()))
				if kept, err := filepath.Glob(filepath.Join(w.options.Quarantine, "*.data")); err != nil || len(kept) > 0 {
					t.Errorf("quarantine holds %q, %v", kept, err)
				}
			})
		})
	}
}

func TestFailedAppendNeverTakesAnothersFor(t *testing.T) {
	w := newStream(t, nil)
	w.give("f", "begin ")
	f := w.open("f", writing)
	w.write(f, "ours", 6)
	w.server.SetFault(func(_ context.Context, op, name string) error {
		if op == "writeat" {
			return &backends.Error{Op: op, Name: name, Code: syscall.EIO}
		}
		return nil
	})
	if f.Publish(w.Context()) == nil {
		t.Fatal("no error")
	}
	w.server.SetFault(nil)
	w.give("f", "begin theirs")
	if err := f.Publish(w.Context()); backends.Errno(err) != syscall.ESTALE {
		t.Errorf("Publish = %v, want ESTALE", err)
	}
	w.has("f", "begin theirs")
	f.Close(w.Context(), true)
}

func TestExclusiveCreationReplacesNobody(t *testing.T) {
	w := newStream(t, nil)
	w.give("there", "x")
	if _, _, err := w.tree.Open(w.Context(), "there", claiming); !errors.Is(err, os.ErrExist) {
		t.Errorf("Open = %v, want EEXIST", err)
	}
	f := w.open("new", claiming)
	w.write(f, "ours", 0)
	w.give("new", "theirs") // between our open and our close
	if err := f.Publish(w.Context()); !errors.Is(err, os.ErrExist) {
		t.Errorf("Publish = %v, want EEXIST", err)
	}
	f.Close(w.Context(), true)
	w.has("new", "theirs")
	w.only("new", "there")
	g := w.open("free", claiming)
	w.write(g, "ours", 0)
	w.must(g.Close(w.Context(), false))
	w.has("free", "ours")
}

func TestAttributesThatTheServerCannotKeepAreShownAsSet(t *testing.T) {
	w := newStream(t, func(so *mem.Options, to *cache.Options) {
		*so = mem.FTP(func(c *backends.Caps) { c.SetPerm, c.SetTimes = false, false })
	})
	w.give("f", "content")
	w.must(w.server.MakeDir("d"))
	perm, uid, when := os.FileMode(0o4751), uint32(7), time.Unix(1e9, 5)
	shown := func(name string, info backends.Info) {
		t.Helper()
		if info.Mode&(os.ModePerm|os.ModeSetuid) != 0o751|os.ModeSetuid || info.UID != uid || !info.Known.Has(cache.OwnerHere) || !info.ModTime.Equal(when) {
			t.Errorf("%s: %+v", name, info)
		}
	}
	perm = 0o751 | os.ModeSetuid
	for _, name := range []string{"f", "d"} {
		_, err := w.tree.SetAttr(w.Context(), name, backends.Attr{Perm: &perm, UID: &uid, ModTime: &when, AccTime: &when})
		w.must(err)
		e, err := w.tree.Refresh(w.Context(), name)
		w.must(err)
		shown(name, e.Info)
	}
	for _, e := range w.entries("") {
		shown("listed "+e.Name, e.Info)
	}
	w.must(w.tree.Rename(w.Context(), "f", "g", backends.Replace))
	e, err := w.tree.Refresh(w.Context(), "g")
	w.must(err)
	shown("renamed", e.Info)

	// What is written keeps the mode and the owner, and gets a time of its own.
	f := w.open("g", writing)
	w.write(f, "C", 0)
	w.must(f.Close(w.Context(), false))
	e, err = w.tree.Refresh(w.Context(), "g")
	w.must(err)
	if e.Mode != perm || e.UID != uid || e.ModTime.Equal(when) {
		t.Errorf("after a write: %+v", e.Info)
	}
	// A directory's time ends with the next change in it, also within the unit of the server's clock.
	w.must(w.tree.Rename(w.Context(), "g", "d/g", backends.Replace))
	if e, err := w.tree.Refresh(w.Context(), "d"); err != nil || e.ModTime.Equal(when) || e.UID != uid {
		t.Errorf("a directory that got an entry: %+v, %v", e.Info, err)
	}
	w.must(w.tree.Rename(w.Context(), "d/g", "g", backends.Replace))
	// What somebody else makes of it, the server tells.
	w.give("g", "by another, longer")
	e, err = w.tree.Refresh(w.Context(), "g")
	w.must(err)
	if e.Mode != 0o644 || e.Known.Has(cache.OwnerHere) {
		t.Errorf("after a change at the server: %+v", e.Info)
	}
}

func TestNewFileKeepsTheModeThatItsMakerGave(t *testing.T) {
	w := newStream(t, func(so *mem.Options, to *cache.Options) {
		*so = mem.FTP(func(c *backends.Caps) { c.SetPerm = false })
	})
	f := w.open("script", cache.OpenMode{Write: true, Create: true, Perm: 0o755})
	w.must(f.Close(w.Context(), false))
	_, err := w.tree.Mkdir(w.Context(), "private", 0o700)
	w.must(err)
	for name, want := range map[string]os.FileMode{"script": 0o755, "private": os.ModeDir | 0o700} {
		if e, err := w.tree.Refresh(w.Context(), name); err != nil || e.Mode != want {
			t.Errorf("%s: %v, %v, want %v", name, e.Mode, err, want)
		}
	}
}

// TestModeIsKnownAfterAnAnswerThatLacksIt: SIZE and MDTM tell of a file that was written, and neither of its mode.
func TestModeIsKnownAfterAnAnswerThatLacksIt(t *testing.T) {
	w := newStream(t, func(so *mem.Options, to *cache.Options) {
		so.AfterWrite = backends.HasType | backends.HasSize | backends.HasModTime
	})
	mode := func(when string, want os.FileMode) {
		t.Helper()
		if e, err := w.tree.Stat(w.Context(), "f"); err != nil || e.Mode != want {
			t.Errorf("%s: %v, %v, want %v", when, e.Mode, err, want)
		}
	}
	f := w.open("f", cache.OpenMode{Write: true, Create: true, Perm: 0o755})
	w.write(f, "x", 0)
	w.must(f.Publish(w.Context()))
	mode("made", 0o755)
	w.write(f, "y", 1)
	w.must(f.Close(w.Context(), false))
	mode("appended to", 0o755)
	perm := os.FileMode(0o600)
	_, err := w.tree.SetAttr(w.Context(), "f", backends.Attr{Perm: &perm})
	w.must(err)
	mode("changed", 0o600)
}

// TestTimeIsAsFineAsItWasEverTold: a listing that tells minutes makes no other file of one whose second is known.
func TestTimeIsAsFineAsItWasEverTold(t *testing.T) {
	w := newStream(t, func(so *mem.Options, to *cache.Options) { to.MetadataTTL = 0 })
	when := time.Date(2026, 11, 21, 5, 49, 23, 0, time.UTC)
	content := noise(1<<20, 13)
	w.give("f", content)
	w.must(w.server.Chtimes("f", when, when))
	if e := w.entries("")[0]; !e.ModTime.Equal(when.Truncate(time.Minute)) || e.TimeUnit != time.Minute {
		t.Fatalf("listed before it was asked for: %+v", e.Info)
	}
	f := w.open("f", reading)
	w.part(f, content[:100], 0)
	first, err := f.Stat(w.Context())
	w.must(err)
	for range 2 {
		if e := w.entries("")[0]; !e.ModTime.Equal(when) {
			t.Errorf("listed: %v, want %v", e.ModTime, when)
		}
		if e, err := f.Stat(w.Context()); err != nil || !e.ModTime.Equal(when) || e.Version != first.Version {
			t.Errorf("stat: %v, %v, version %d; want %v, %d", e.ModTime, err, e.Version, when, first.Version)
		}
	}
	w.part(f, content, 0)
	// Set to the nanosecond here, told by the minute there.
	fine := when.Add(time.Hour + 5)
	_, err = w.tree.SetAttr(w.Context(), "f", backends.Attr{ModTime: &fine, AccTime: &fine})
	w.must(err)
	if e := w.entries("")[0]; !e.ModTime.Equal(fine) {
		t.Errorf("listed: %v, want what was set, %v", e.ModTime, fine)
	}
	// A change of the same size within the minute is seen at open.
	w.must(w.server.Chtimes("f", when, when.Add(time.Hour+30*time.Second)))
	g := w.open("f", reading)
	if e, err := g.Stat(w.Context()); err != nil || e.Version == first.Version {
		t.Errorf("another version within the same minute: %+v, %v", e, err)
	}
	w.must(f.Close(w.Context(), false))
	w.must(g.Close(w.Context(), false))
}

func TestServerOfMinutesShowsWhenItWasWritten(t *testing.T) {
	w := newStream(t, func(so *mem.Options, to *cache.Options) {
		so.TimeUnit = time.Minute
		to.MetadataTTL = 0
	})
	f := w.open("f", creating)
	w.write(f, "x", 0)
	wrote, err := f.Stat(w.Context())
	w.must(err)
	w.must(f.Close(w.Context(), false))
	e, err := w.tree.Stat(w.Context(), "f")
	w.must(err)
	if there, err := w.server.Lstat("f"); err != nil || !e.ModTime.Equal(wrote.ModTime) && there.ModTime.Equal(wrote.ModTime.Truncate(time.Minute)) {
		t.Errorf("shown %v, written %v, the server has %v", e.ModTime, wrote.ModTime, there.ModTime)
	}
}

func TestCutListingIsNotTakenForAll(t *testing.T) {
	w := newStream(t, func(so *mem.Options, to *cache.Options) {
		*so = mem.FTP(func(c *backends.Caps) { c.ListLimit = 10 })
	})
	for i := range 12 {
		w.give(fmt.Sprintf("f%02d", i), "x")
	}
	if n := len(w.list("")); n != 10 {
		t.Fatalf("%d entries", n)
	}
	w.costs("a name beyond, and one that is nowhere", map[string]int{"stat": 2}, func() {
		if _, err := w.tree.Stat(w.Context(), "f11"); err != nil {
			t.Error(err)
		}
		if _, err := w.tree.Stat(w.Context(), "f12"); !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
	})
	w.must(w.server.Delete("f10"))
	w.must(w.server.Delete("f11"))
	w.list("") // exactly as many as the limit: nobody knows
	w.costs("an absent name", map[string]int{"stat": 1}, func() { w.tree.Stat(w.Context(), "f13") })
}

func TestEntryOfUnknownTypeIsAskedFor(t *testing.T) {
	w := newStream(t, func(so *mem.Options, to *cache.Options) { so.ListKnown = backends.HasSize | backends.HasModTime })
	w.must(w.server.MakeDir("d"))
	w.must(w.server.MakeLink("d", "l"))
	for _, e := range w.entries("") {
		if e.Known != 0 {
			t.Errorf("%s: %+v, want nothing believed", e.Name, e.Info)
		}
	}
	for name, want := range map[string]os.FileMode{"d": os.ModeDir, "l": os.ModeSymlink} {
		if e, err := w.tree.Stat(w.Context(), name); err != nil || e.Mode.Type() != want {
			t.Errorf("%s: %v, %v", name, e.Mode, err)
		}
	}
}

// entries returns what List shows.
func (w *world) entries(dir string) (entries []cache.Entry) {
	w.Helper()
	l, err := w.tree.List(w.Context(), dir)
	w.must(err)
	defer l.Close()
	for i := 0; ; i++ {
		e, err := l.At(w.Context(), i)
		if err == io.EOF {
			return entries
		}
		w.must(err)
		entries = append(entries, e)
	}
}

// TestReadOfASilentStreamEndsWithinTheBudget: a server that freezes in mid-transfer costs a read the budget and no more, as
// long as the backend's own reader falls silent for one timeout at a time. Whoever reads beside it waits no longer.
func TestReadOfASilentStreamEndsWithinTheBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newStream(t, nil)
		w.give("f", noise(8<<20, 1))
		f := w.open("f", reading)
		w.part(f, noise(64<<10, 1), 0)
		timeout := w.options.Retry.Timeout
		w.server.SetFault(func(ctx context.Context, op, name string) error {
			select {
			case <-time.After(timeout):
			case <-ctx.Done():
				return ctx.Err()
			}
			return &backends.Error{Op: op, Name: name, Code: syscall.ETIMEDOUT, Class: backends.Transient, Cause: backends.CauseSilent}
		})
		budget := timeout * time.Duration(w.options.Retry.Count+1)
		var reads sync.WaitGroup
		for i := range 4 {
			reads.Go(func() {
				began := time.Now()
				_, err := f.ReadAt(w.Context(), make([]byte, 4096), int64(i+3)<<20)
				took := time.Since(began)
				if code := backends.Errno(err); code != syscall.ETIMEDOUT && code != syscall.EHOSTDOWN {
					t.Errorf("read %d: %v, want ETIMEDOUT or EHOSTDOWN", i, err)
				}
				if took > budget {
					t.Errorf("read %d took %v, want %v at most", i, took, budget)
				}
			})
		}
		reads.Wait()
		began := time.Now()
		_, err := f.ReadAt(w.Context(), make([]byte, 4096), 7<<20)
		wantErrno(t, err, syscall.EHOSTDOWN)
		if took := time.Since(began); took > 0 {
			t.Errorf("a read once it is known took %v", took)
		}
		w.server.SetFault(nil)
		time.Sleep(time.Minute)
		w.part(f, noise(8<<20, 1)[7<<20:], 7<<20)
		w.must(f.Close(w.Context(), true))
		w.must(w.tree.Close(w.Context()))
	})
}

// Once jumping about has taken as long as all of the file would, it is read in order and whole.
func TestStreamIsReadWholeForThoseWhoJumpAbout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newStream(t, nil)
		const size = 64 << 20
		content := noise(size, 9)
		w.give("big", content)
		var begun, read atomic.Int64
		w.server.SetAfter(func(_ context.Context, op, _ string) error {
			now := int64(w.server.Calls()["retr"])
			was := begun.Swap(now)
			switch {
			case now > was:
				time.Sleep(120 * time.Millisecond)
			case op == "readat":
				read.Add(1)
				time.Sleep(time.Millisecond) // for 64 or 256 KiB
			default:
				time.Sleep(40 * time.Millisecond)
			}
			return nil
		})
		before := w.server.Calls()["retr"]
		f := w.open("big", reading)
		random := rand.New(rand.NewPCG(5, 6))
		began := time.Now()
		for range 200 {
			off := random.Int64N(size - 4096)
			w.part(f, content[off:off+4096], off)
		}
		took, transfers := time.Since(began), w.server.Calls()["retr"]-before
		t.Logf("200 reads in %v, %d transfers, %d requests", took, transfers, read.Load())
		if took > 3*time.Second || transfers > 25 {
			t.Errorf("200 reads took %v and %d transfers", took, transfers)
		}
		w.close(f)
		w.must(w.tree.Close(w.Context()))
	})
}
