package cache_test

import (
	"context"
	"errors"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pierfs/backends"
	"pierfs/cache"
)

// leaveLitter has an upload to name broken off by an outage, after its temporary file was made, and returns the name of
// that. The server is away until the func is called.
func (w *world) leaveLitter(name string) (temp string, back func()) {
	w.Helper()
	f := w.open(name, cuttingNew)
	w.write(f, "never to arrive", 0)
	made := false
	w.server.SetFault(func(_ context.Context, op, name string) error {
		if op == "create" && !made {
			made = true
			return nil
		}
		w.server.Break()
		return &backends.Error{Op: op, Name: name, Code: syscall.ECONNREFUSED, Class: backends.Transient}
	})
	if f.Publish(w.Context()) == nil {
		w.Fatal("an upload that was cut off was called done")
	}
	w.must(f.Close(w.Context(), true))
	names, err := w.server.Names(dirOf(name))
	w.must(err)
	for _, n := range names {
		if strings.Contains(n, ".pierfs-") {
			temp = strings.TrimPrefix(dirOf(name)+"/"+n, "/")
		}
	}
	if temp == "" {
		w.Fatalf("the outage left nothing behind: this test tests nothing: %q", names)
	}
	return temp, func() { w.server.SetFault(nil) }
}

var cuttingNew = cache.OpenMode{Write: true, Create: true, Truncate: true, Perm: 0o600}

func dirOf(name string) string {
	return strings.TrimSuffix(name[:strings.LastIndexByte(name, '/')+1], "/")
}

// TestTemporaryFileOfAnOutageIsHiddenAndRemoved: who knows that a temporary file may be left shows it to nobody, and removes
// it when the server is back.
func TestTemporaryFileOfAnOutageIsHiddenAndRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.replaceTree(w.server) // nothing between that would keep us from asking until a probe is answered
		w.must(w.server.MakeDir("d"))
		w.give("d/other", "")
		_, back := w.leaveLitter("d/file")
		time.Sleep(time.Hour)
		back()
		if got := w.list("d"); len(got) != 1 || got[0] != "other" {
			t.Errorf("the directory shows %q, want other alone", got)
		}
		time.Sleep(time.Minute)
		if got, err := w.server.Names("d"); err != nil || len(got) != 1 {
			t.Errorf("a minute after the outage the server has %q, %v", got, err)
		}
		w.must(w.tree.Close(w.Context()))
	})
}

// TestDirectoryWithATemporaryFileOfAnOutageIsEmpty: what no program can see keeps none from removing or replacing a
// directory.
func TestDirectoryWithATemporaryFileOfAnOutageIsEmpty(t *testing.T) {
	for what, take := range map[string]func(*world) error{
		"rmdir":  func(w *world) error { return w.tree.Rmdir(w.Context(), "d") },
		"rename": func(w *world) error { return w.tree.Rename(w.Context(), "empty", "d", backends.Replace) },
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, nil)
				w.replaceTree(w.server)
				w.must(w.server.MakeDir("d"))
				w.must(w.server.MakeDir("empty"))
				_, back := w.leaveLitter("d/file")
				back()
				w.must(take(w))
				w.must(w.tree.Close(w.Context()))
			})
		})
	}
}

// TestUploadThatWasGivenUpComesNotAfterANewerOne: the server is stalled, the connection is given up with the renaming of an upload
// on its way, and the server comes to it when something newer was done with the name. It must find nothing to rename then.
func TestUploadThatWasGivenUpComesNotAfterANewerOne(t *testing.T) {
	for what, change := range map[string]func(*world) (want string){
		"publish": func(w *world) string {
			f := w.open("f", cuttingNew)
			w.write(f, "newer", 0)
			w.close(f)
			return "newer"
		},
		"append": func(w *world) string {
			f := w.open("f", cache.OpenMode{Write: true})
			w.write(f, " and more", 3)
			w.close(f)
			return "old and more"
		},
		"rename": func(w *world) string {
			w.give("other", "other's")
			w.must(w.tree.Rename(w.Context(), "other", "f", backends.Replace))
			return "other's"
		},
		"truncate": func(w *world) string {
			_, err := w.tree.SetAttr(w.Context(), "f", backends.Attr{Size: new(int64(1))})
			w.must(err)
			return "o"
		},
	} {
		for _, killed := range []bool{false, true} {
			t.Run(what+map[bool]string{true: ", of the next daemon"}[killed], func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t, nil)
					w.replaceTree(w.server)
					w.give("f", "old")
					temp, back := w.leaveLitter("f")
					back()
					former := w.tree
					if killed {
						w.replaceTree(w.server)
					}
					want := change(w)
					if err := w.server.Move(temp, "f"); !errors.Is(err, os.ErrNotExist) {
						t.Errorf("the upload that was given up came last: %v", err)
					}
					w.has("f", want)
					w.must(w.tree.Close(w.Context()))
					_ = former.Close(w.Context())
				})
			})
		}
	}
}

// TestTemporaryFileFollowsARenamingThatIsOwed: what an outage has left below a directory is removed also if that is renamed while the server is away,
// and the server comes to the renaming later than to the question for what was left.
func TestTemporaryFileFollowsARenamingThatIsOwed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newRemote(t, nil)
		w.must(w.server.MakeDir("d"))
		w.sees()
		made := false
		w.server.SetFault(func(_ context.Context, op, name string) error {
			if op == "create" && !made {
				made = true
				return nil
			}
			return &backends.Error{Op: op, Name: name, Code: syscall.ECONNREFUSED, Class: backends.Transient}
		})
		w.save("d/f", "content")
		time.Sleep(time.Minute)
		if names, err := w.server.Names("d"); err != nil || len(names) != 1 {
			t.Fatalf("the server has %q, %v: this test tests nothing", names, err)
		}
		w.must(w.tree.Rename(t.Context(), "d", "e", backends.NoReplace))
		w.server.SetFault(func(_ context.Context, op, _ string) error {
			if op == "rename" {
				return syscall.EBUSY
			}
			return nil
		})
		w.tree.Wake()
		time.Sleep(time.Minute)
		w.away(false)
		time.Sleep(time.Minute)
		if names, err := w.server.Names("e"); err != nil || !slices.Equal(names, []string{"f"}) {
			t.Errorf("the directory holds %q, %v", names, err)
		}
		w.must(w.tree.Close(t.Context()))
	})
}

// replaceTree goes on with another tree, of b.
func (w *world) replaceTree(b backends.Backend) {
	w.Helper()
	tree, err := cache.New(b, w.options)
	w.must(err)
	w.tree = tree
}

// outliving is a server that goes on when one of its clients has closed its connection.
type outliving struct{ backends.Backend }

func (outliving) Close() error { return nil }

// TestNextDaemonRemovesWhatTheFormerLeft also gives the file a name that is no UTF-8, and moves its directory before.
func TestNextDaemonRemovesWhatTheFormerLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.replaceTree(outliving{w.server})
		w.must(w.server.MakeDir("d"))
		w.give("d/other", "")
		_, back := w.leaveLitter("d/latin-1 \xfc\nline")
		back()
		w.must(w.tree.Rename(w.Context(), "d", "moved", backends.Replace))
		w.must(w.tree.Close(w.Context()))
		if got, err := w.server.Names("moved"); err != nil || len(got) != 2 {
			t.Fatalf("the former daemon removed it already: %q, %v: this test tests nothing", got, err)
		}
		w.replaceTree(w.server)
		if got := w.list("moved"); len(got) != 1 {
			t.Errorf("the directory shows %q, want other alone", got)
		}
		time.Sleep(time.Minute)
		if got, err := w.server.Names("moved"); err != nil || len(got) != 1 {
			t.Errorf("a minute later the server has %q, %v", got, err)
		}
		w.must(w.tree.Close(w.Context()))
	})
}

// TestListingThatSweepingOvertakesShowsNoTemporaryName: what the server told of before it was removed is not shown after.
func TestListingThatSweepingOvertakesShowsNoTemporaryName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.must(w.server.MakeDir("d"))
		w.give("d/other", "")
		_, back := w.leaveLitter("d/file")
		back()
		let := make(chan struct{})
		w.replaceTree(slowLists{w.server, let})
		listed := make(chan []string)
		go func() { listed <- w.list("d") }()
		time.Sleep(time.Minute)
		if got, err := w.server.Names("d"); err != nil || len(got) != 1 {
			t.Fatalf("a minute later the server has %q, %v: this test tests nothing", got, err)
		}
		close(let)
		if got := <-listed; !slices.Equal(got, []string{"other"}) {
			t.Errorf("the directory shows %q, want other alone", got)
		}
		w.must(w.tree.Close(w.Context()))
	})
}

// slowLists tells what it had when it was asked, when it is let.
type slowLists struct {
	backends.Backend
	let <-chan struct{}
}

func (s slowLists) List(ctx context.Context, dir string) iter.Seq2[backends.Info, error] {
	var all []backends.Info
	for info, err := range s.Backend.List(ctx, dir) {
		if err != nil {
			return func(yield func(backends.Info, error) bool) { yield(info, err) }
		}
		all = append(all, info)
	}
	<-s.let
	return func(yield func(backends.Info, error) bool) {
		for _, info := range all {
			if !yield(info, nil) {
				return
			}
		}
	}
}

// TestNextDaemonFindsWhatLiesInARenamedDirectory: the former one was killed when the server had renamed a directory with a temporary
// name in it, and before it heard of that.
func TestNextDaemonFindsWhatLiesInARenamedDirectory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.replaceTree(outliving{w.server})
		killed := w.tree
		w.must(w.server.MakeDir("d"))
		_, back := w.leaveLitter("d/file")
		back()
		w.replaceTree(renamesOnly{outliving{w.server}})
		renaming, cancel := context.WithCancel(w.Context())
		renamed := make(chan error, 1)
		go func() { renamed <- w.tree.Rename(renaming, "d", "moved", backends.Replace) }()
		synctest.Wait()
		if got, err := w.server.Names("moved"); err != nil || len(got) != 1 {
			t.Fatalf("the server has %q, %v: this test tests nothing", got, err)
		}
		between := w.tree

		w.replaceTree(w.server)
		if got := w.list("moved"); len(got) != 0 {
			t.Errorf("the directory shows %q, want nothing", got)
		}
		time.Sleep(time.Minute)
		if got, err := w.server.Names("moved"); err != nil || len(got) != 0 {
			t.Errorf("a minute later the server has %q, %v", got, err)
		}
		w.must(w.tree.Close(w.Context()))
		cancel()
		<-renamed
		for _, dead := range []*cache.Tree{between, killed} { // as far as the next one knows, and they owe nothing
			_ = dead.Close(w.Context())
		}
	})
}

// renamesOnly never answers a renaming, which happens, and can be asked nothing about what is left.
type renamesOnly struct{ backends.Backend }

func (r renamesOnly) Rename(ctx context.Context, from, to string, mode backends.RenameMode) error {
	if err := r.Backend.Rename(ctx, from, to, mode); err != nil {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}

func (r renamesOnly) Remove(ctx context.Context, name string) error {
	return &backends.Error{Op: "remove", Name: name, Code: syscall.EAGAIN, Class: backends.Transient}
}

// TestNextDaemonRemovesWhatTheFormerWasAt: the temporary names of uploads that were under way when a daemon was killed are known
// to the next one.
func TestNextDaemonRemovesWhatTheFormerWasAt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		killed := w.tree
		for range 500 {
			w.close(w.open("again", cuttingNew))
		}
		w.open("claimed", claiming)
		w.server.SetFault(func(ctx context.Context, op, _ string) error {
			if op == "commit" {
				<-ctx.Done()
			}
			return nil
		})
		f := w.open("file", cuttingNew)
		w.write(f, "never to arrive", 0)
		ctx, cancel := context.WithCancel(w.Context())
		published := make(chan error, 1)
		go func() { published <- f.Publish(ctx) }()
		synctest.Wait()
		if names, err := w.server.Names(""); err != nil || len(names) != 4 {
			t.Fatalf("the server has %q, %v: this test tests nothing", names, err)
		}

		w.replaceTree(w.server)
		if got := w.list(""); !slices.Equal(got, []string{"again", "claimed"}) {
			t.Errorf("the directory shows %q", got)
		}
		time.Sleep(time.Minute)
		w.only("again")
		w.server.SetFault(nil)
		cancel()
		<-published
		w.must(f.Close(w.Context(), true))
		w.must(w.tree.Close(w.Context()))
		_ = killed.Close(w.Context()) // it is dead as far as the next one knows, and owes nothing
	})
}

// TestWhatTookATemporaryNameIsSpared: a directory or a link under the name is nobody's upload.
func TestWhatTookATemporaryNameIsSpared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		temp, back := w.leaveLitter("file")
		w.must(w.server.Delete(temp))
		back()
		w.must(w.server.Symlink(w.Context(), "elsewhere", temp))
		time.Sleep(time.Minute)
		w.only(temp)
		if got := w.list(""); len(got) != 1 {
			t.Errorf("the directory shows %q, want the link", got)
		}
		w.must(w.tree.Close(w.Context()))
	})
}

// TestRefusedUploadLeavesNothing: whatever step of an upload fails, the temporary file does not stay.
func TestRefusedUploadLeavesNothing(t *testing.T) {
	for _, step := range []string{"create", "writeat", "commit"} {
		for _, class := range []backends.Class{backends.Final, backends.Transient, backends.Lost} {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, nil)
				w.give("file", "old")
				f := w.open("file", cache.OpenMode{Write: true, Truncate: true})
				w.write(f, "new", 5)
				w.server.SetFault(func(_ context.Context, op, name string) error {
					if op != step {
						return nil
					}
					if class == backends.Lost {
						w.server.Break()
					}
					return &backends.Error{Op: op, Name: name, Code: syscall.EIO, Class: class}
				})
				if f.Publish(w.Context()) == nil {
					t.Errorf("%s, %v: no error", step, class)
				}
				w.server.SetFault(nil)
				w.must(f.Close(w.Context(), true))
				time.Sleep(time.Minute)
				w.only("file")
				w.has("file", "old")
				w.must(w.tree.Close(w.Context()))
				if left, err := os.ReadDir(w.options.Staging); err != nil || len(left) > 0 {
					t.Errorf("%s, %v: staging holds %v, %v", step, class, left, err)
				}
			})
		}
	}
}

// TestTemporaryFileThatIsMadeLateIsRemoved: a server may make the file of a broken upload after it was asked to remove it.
func TestTemporaryFileThatIsMadeLateIsRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.give("file", "old")
		f := w.open("file", cuttingNew)
		w.write(f, "never to arrive", 0)
		late := map[string]bool{}
		w.server.SetFault(func(_ context.Context, op, name string) error {
			switch op {
			case "commit":
				return &backends.Error{Op: op, Name: name, Code: syscall.EIO, Class: backends.Transient}
			case "remove":
				if !late[name] {
					late[name] = true
					time.AfterFunc(time.Millisecond, func() { w.give(name, "late") })
				}
			}
			return nil
		})
		if f.Publish(w.Context()) == nil {
			t.Error("an upload that was cut off was called done")
		}
		w.server.SetFault(nil)
		time.Sleep(2 * time.Millisecond)
		if len(late) == 0 {
			t.Error("nothing was removed: this test tests nothing")
		}
		if got := w.list(""); !slices.Equal(got, []string{"file"}) {
			t.Errorf("the directory shows %q", got)
		}
		w.must(f.Close(w.Context(), true))
		time.Sleep(time.Minute)
		w.only("file")
		w.has("file", "old")
		w.must(w.tree.Close(w.Context()))
	})
}

// TestLeftoversAreRemovedOnceTheServerIsBack: nobody has to list the directory for that.
func TestLeftoversAreRemovedOnceTheServerIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.replaceTree(outliving{w.server})
		w.leaveLitter("file")
		w.must(w.tree.Close(w.Context()))
		w.replaceTree(w.server)
		time.Sleep(time.Hour)
		if names, err := w.server.Names(""); err != nil || len(names) != 1 {
			t.Fatalf("the server has %q, %v: this test tests nothing", names, err)
		}
		w.server.SetFault(nil)
		time.Sleep(time.Minute)
		w.only()
		w.must(w.tree.Close(w.Context()))
	})
}

// TestNextDaemonRemovesClaimsThatWereNotMadeGood: a killed daemon leaves the empty files of programs that had not closed them. What was
// closed stays, and so does what was done with a name since.
func TestNextDaemonRemovesClaimsThatWereNotMadeGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		killed := w.tree
		w.close(w.open("empty", claiming))
		full := w.open("full", claiming)
		w.write(full, "all of it", 0)
		w.close(full)
		for _, name := range []string{"open", "taken since", "made anew"} {
			w.open(name, claiming)
		}
		w.give("taken since", "by somebody else")
		w.server.SetFault(func(_ context.Context, op, name string) error {
			return &backends.Error{Op: op, Name: name, Code: syscall.ECONNREFUSED, Class: backends.Transient}
		})
		w.replaceTree(w.server)
		time.Sleep(time.Second)
		w.server.SetFault(nil)
		w.close(w.open("made anew", cuttingNew)) // before the sweeper comes to it
		again := w.tree
		w.replaceTree(w.server) // nor did it before that one was killed
		time.Sleep(time.Minute)
		w.only("empty", "full", "made anew", "taken since")
		w.must(w.tree.Close(w.Context()))
		_ = errors.Join(killed.Close(w.Context()), again.Close(w.Context())) // they are dead as far as the next one knows
	})
}

// TestOldLeftoversOfOthersAreRemoved: of machines that are no more. What is young, or named otherwise, stays.
func TestOldLeftoversOfOthersAreRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		old := ".report.pierfs-0123abcd"
		for _, name := range []string{old, ".report.pierfs-notrandom", "report.pierfs-0123abcd.txt"} {
			w.give(name, "half")
		}
		time.Sleep(25 * time.Hour)
		young := ".other.pierfs-0123abcd"
		w.give(young, "half")
		for range 3 {
			w.list("")
			time.Sleep(15 * time.Minute)
		}
		w.only(young, ".report.pierfs-notrandom", "report.pierfs-0123abcd.txt")
		w.must(w.tree.Close(w.Context()))
	})
}

// TestCrashQuarantinesNothingThatTheServerHas: of files that were open, only what was written since the last publication is kept.
func TestCrashQuarantinesNothingThatTheServerHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		killed := w.tree
		w.give("grown", "begin ")
		for _, name := range []string{"published", "written since", "cut since", "grown"} {
			f := w.open(name, cache.OpenMode{Read: true, Write: true, Create: true, Perm: 0o600})
			if _, err := f.Append(w.Context(), []byte("all of it")); err != nil {
				t.Fatal(err)
			}
			w.must(f.Publish(w.Context()))
			switch name {
			case "written since":
				w.write(f, "more", 0)
			case "cut since":
				_, err := f.SetAttr(w.Context(), backends.Attr{Size: new(int64(3))})
				w.must(err)
			case "grown":
				if got := w.read(f); got != "begin all of it" { // fetches what was there
					t.Errorf("read %q", got)
				}
			}
		}
		w.replaceTree(w.server)
		kept, err := filepath.Glob(filepath.Join(w.options.Quarantine, "*"))
		if w.must(err); len(kept) != 4 { // two contents, each with its note
			t.Errorf("quarantine holds %q", kept)
		}
		w.must(w.tree.Close(w.Context()))
		_ = killed.Close(w.Context()) // it is dead as far as the next one knows
	})
}
