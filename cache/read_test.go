package cache_test

import (
	"context"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pierfs/backends"
	"pierfs/backends/mem"
	"pierfs/cache"
)

func TestReaderDoesNotWaitForWhoHoldsTheFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.give("f", "content")
		f := w.open("f", reading)
		answer := make(chan struct{})
		w.server.SetFault(func(_ context.Context, op, _ string) error {
			if op == "setattr" {
				<-answer
			}
			return nil
		})
		go func() {
			uid := uint32(7)
			f.SetAttr(w.Context(), backends.Attr{UID: &uid})
		}()
		synctest.Wait()
		read := make(chan string, 1)
		go func() { read <- w.read(f) }()
		synctest.Wait()
		select {
		case got := <-read:
			if got != "content" {
				t.Errorf("read %q", got)
			}
		default:
			t.Error("a reader waits for a change that another program makes")
		}
		close(answer)
		synctest.Wait()
		w.must(f.Close(w.Context(), false))
		w.must(w.tree.Close(w.Context()))
	})
}

func TestReaderWhoWaitsLearnsThatTheFileWasCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.give("f", strings.Repeat("x", 1<<20))
		f := w.open("f", writing)
		answer := make(chan struct{})
		w.server.SetFault(func(_ context.Context, op, _ string) error {
			if op == "readat" {
				<-answer
			}
			return nil
		})
		done := make(chan error, 2)
		for range 2 { // one fetches, the other waits for what that one fetches
			go func() {
				_, err := f.ReadAt(w.Context(), make([]byte, 100), 0)
				done <- err
			}()
			synctest.Wait()
		}
		size := int64(0)
		_, err := f.SetAttr(w.Context(), backends.Attr{Size: &size})
		w.must(err)
		synctest.Wait()
		select {
		case err := <-done:
			if err != io.EOF {
				t.Errorf("ReadAt = %v, want the end of a file that was cut to nothing", err)
			}
		default:
			t.Error("a reader still waits for what nobody fetches any more")
		}
		close(answer)
		synctest.Wait()
		if err := <-done; err != io.EOF {
			t.Errorf("the reader who fetched got %v", err)
		}
		w.close(f)
		w.must(w.tree.Close(w.Context()))
	})
}

func TestVersionsAreNotMixedWhenTheFileChangesDuringItsOpening(t *testing.T) {
	for _, size := range []int{100, 1 << 20} {
		for _, op := range []string{"open", "stat"} {
			w := newWorld(t, nil)
			before, after := strings.Repeat("a", size), strings.Repeat("b", size+1000)
			w.give("f", before)
			w.give("new", after)
			moved := false
			w.server.SetAfter(func(_ context.Context, o, _ string) error {
				if o == op && !moved {
					moved = true
					return w.server.Move("new", "f")
				}
				return nil
			})
			f, e, err := w.tree.Open(w.Context(), "f", reading)
			w.must(err)
			want := before
			if e.Size != int64(size) {
				want = after
			}
			p := make([]byte, e.Size)
			n, err := f.ReadAt(w.Context(), p, 0)
			if err != nil && err != io.EOF {
				wantErrno(t, err, syscall.ESTALE)
			} else if string(p[:n]) != want {
				t.Errorf("replaced after %s: %d bytes are %s, want all of %s", op, e.Size, short(string(p[:n])), short(want))
			}
			w.must(f.Close(w.Context(), false))
		}
	}
}

func TestLogThatGrowsWhileItIsReadCanBeRead(t *testing.T) {
	for _, size := range []int{100, 1 << 20} {
		w := newWorld(t, nil)
		begin := strings.Repeat("l", size)
		w.give("log", begin)
		f, e, err := w.tree.Open(w.Context(), "log", reading)
		w.must(err)
		w.give("log", begin+"more")
		p := make([]byte, e.Size)
		if n, err := f.ReadAt(w.Context(), p, 0); err != nil && err != io.EOF || string(p[:n]) != begin {
			t.Errorf("read %s, %v", short(string(p[:n])), err)
		}
		w.must(f.Close(w.Context(), false))
	}
}

// TestFileReplacedBetweenQuestionAndOpeningIsReadWhole: a server without identities cannot tell a file that was replaced by a
// longer one from one that grew, unless it says what was opened.
func TestFileReplacedBetweenQuestionAndOpeningIsReadWhole(t *testing.T) {
	for _, size := range []int{20, 300 << 10} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, func(so *mem.Options, _ *cache.Options) {
				so.Known = backends.HasType | backends.HasPerm | backends.HasSize | backends.HasModTime
			})
			old, replaced := strings.Repeat("o", size), strings.Repeat("n", 2*size)
			w.give("f", old)
			asked := make(chan struct{})
			tell := sync.OnceFunc(func() { close(asked) })
			replace := sync.OnceFunc(func() {
				<-asked
				time.Sleep(time.Second)
				w.must(w.server.Delete("f"))
				w.give("f", replaced)
			})
			w.server.SetAfter(func(_ context.Context, op, _ string) error {
				if op == "stat" {
					tell()
				}
				return nil
			})
			w.server.SetFault(func(_ context.Context, op, _ string) error {
				if op == "open" {
					replace()
				}
				return nil
			})
			f, e, err := w.tree.Open(w.Context(), "f", reading)
			w.must(err)
			p := make([]byte, e.Size+1)
			n, err := f.ReadAt(w.Context(), p, 0)
			if got := string(p[:n]); err != io.EOF || got != old && got != replaced {
				t.Errorf("read %s of a file said to have %d bytes, %v: neither the old nor the new one", short(got), e.Size, err)
			}
			if now, err := w.tree.Stat(w.Context(), "f"); err != nil || now.Size != int64(len(replaced)) {
				t.Errorf("afterwards the name has %d bytes, %v; want %d", now.Size, err, len(replaced))
			}
			w.must(f.Close(w.Context(), false))
			w.must(w.tree.Close(w.Context()))
		})
	}
}

// TestOpenThatMeetsARenameReadsOneVersion: what was opened before a file was replaced must not be taken for the new one that
// somebody else has open by then, though it is longer and of the same second.
func TestOpenThatMeetsARenameReadsOneVersion(t *testing.T) {
	for _, size := range []int{20, 300 << 10} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, func(so *mem.Options, _ *cache.Options) {
				so.Known = backends.HasType | backends.HasPerm | backends.HasSize | backends.HasModTime
			})
			long, short := strings.Repeat("l", 2*size), strings.Repeat("s", size)
			w.give("f", long)
			w.give("t", short)
			release := make(chan struct{})
			var opens, stats atomic.Int32
			w.server.SetAfter(func(_ context.Context, op, name string) error {
				if op == "open" && name == "f" && opens.Add(1) == 1 {
					<-release
				}
				return nil
			})
			w.server.SetFault(func(_ context.Context, op, name string) error {
				if op == "stat" && name == "f" && stats.Add(1) == 1 {
					<-release
				}
				return nil
			})
			type result struct {
				f   *cache.File
				err error
			}
			opened := make(chan result, 1)
			go func() {
				f, _, err := w.tree.Open(w.Context(), "f", reading)
				opened <- result{f, err}
			}()
			synctest.Wait()
			w.must(w.tree.Rename(w.Context(), "t", "f", backends.Replace))
			g := w.open("f", cache.OpenMode{Write: true})
			close(release)
			r := <-opened
			w.must(r.err)
			if got := w.read(r.f); got != long && got != short {
				t.Errorf("read %s, neither the old nor the new version", got[:min(len(got), 40)])
			}
			w.must(r.f.Close(w.Context(), false))
			w.must(g.Close(w.Context(), false))
			w.must(w.tree.Close(w.Context()))
		})
	}
}

// TestFileIsReadUnderTheNameThatItIsStillToGet: a directory is renamed in which something is owed, so that the server does it a little later. Who reads
// a file in it meanwhile waits for that.
func TestFileIsReadUnderTheNameThatItIsStillToGet(t *testing.T) {
	for kind, options := range directKinds {
		t.Run(kind, func(t *testing.T) {
			w := newOwing(t, func(so *mem.Options, _ *cache.Options) { *so = options() })
			w.must(w.server.MakeDir("d"))
			w.give("d/f", "content")
			f := w.open("d/f", cache.OpenMode{Write: true}) // so that nothing of it is open at the server
			defer f.Close(t.Context(), true)
			asked := make(chan struct{})
			var once sync.Once
			w.server.SetFault(func(ctx context.Context, op, name string) (err error) {
				switch {
				case op == "create":
					return syscall.EDQUOT
				case op == "rename":
					select {
					case <-asked:
					case <-ctx.Done():
					}
				case op == "open" && name == "e/f":
					once.Do(func() {
						close(asked)
						err = syscall.ENOENT
					})
				}
				return err
			})
			w.save("d/new", "owed")
			w.must(w.tree.Rename(t.Context(), "d", "e", backends.NoReplace))
			got := make([]byte, len("content"))
			if n, err := f.ReadAt(t.Context(), got, 0); string(got[:n]) != "content" {
				t.Errorf("read %q, %v", got[:n], err)
			}
			w.refuse(false)
			w.paid()
		})
	}
}
