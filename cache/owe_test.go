package cache_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pierfs/backends"
	"pierfs/backends/mem"
	"pierfs/backends/retry"
	"pierfs/cache"
)

// newOwing makes a world with commit = "background".
func newOwing(t *testing.T, change func(*mem.Options, *cache.Options)) *world {
	var options mem.Options
	w := newWorld(t, func(so *mem.Options, to *cache.Options) {
		to.Background, to.Target, to.Host = true, "mem test", "here"
		if change != nil {
			change(so, to)
		}
		options = *so
	})
	w.must(w.tree.Close(t.Context())) // with its server, which must outlive its trees here
	w.server = mem.New(options)
	t.Cleanup(func() { w.refuse(false) })
	w.next()
	return w
}

// refuse makes the server take no content until it is called again with false.
func (w *world) refuse(yes bool) {
	w.server.SetFault(nil)
	if yes {
		w.server.SetFault(func(_ context.Context, op, _ string) error {
			if op == "create" || op == "update" {
				return syscall.EDQUOT
			}
			return nil
		})
		return
	}
	w.tree.Wake()
}

// paid waits until nothing is owed any more.
func (w *world) paid() {
	w.Helper()
	w.await("all is sent", func() bool { return w.tree.Owed().Files == 0 })
}

func (w *world) await(what string, ok func() bool) {
	w.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			w.Fatalf("it never came to it that %s; owed %+v, queue %+v, server %q", what, w.tree.Owed(), w.tree.Queue(), func() []string { n, _ := w.server.Names(""); return n }())
		}
	}
}

// save writes a file as programs do, and closes it.
func (w *world) save(name, content string) {
	w.Helper()
	f := w.open(name, cache.OpenMode{Write: true, Create: true, Truncate: true, Perm: 0o644})
	w.write(f, content, 0)
	w.must(f.Publish(w.Context()))
	w.must(f.Close(w.Context(), false))
}

// add appends.
func (w *world) add(f *cache.File, content string) {
	w.Helper()
	_, err := f.Append(w.Context(), []byte(content))
	w.must(err)
}

// lists demands that programs see these names.
func (w *world) lists(names ...string) {
	w.Helper()
	l, err := w.tree.List(w.Context(), "")
	w.must(err)
	defer l.Close()
	var got []string
	for i := 0; ; i++ {
		e, err := l.At(w.Context(), i)
		if err != nil {
			break
		}
		got = append(got, e.Name)
	}
	slices.Sort(got)
	if !slices.Equal(got, names) {
		w.Errorf("the directory lists %q, want %q", got, names)
	}
}

// shows demands that programs see content under name.
func (w *world) shows(name, content string) {
	w.Helper()
	e, err := w.tree.Stat(w.Context(), name)
	if err != nil || e.Size != int64(len(content)) {
		w.Errorf("stat %q: size %d, %v; want %d", name, e.Size, err, len(content))
		return
	}
	f := w.open(name, reading)
	got := make([]byte, len(content))
	n, err := f.ReadAt(w.Context(), got, 0)
	if string(got[:n]) != content {
		w.Errorf("read %q: %s, %v; want %s", name, short(string(got[:n])), err, short(content))
	}
	w.must(f.Close(w.Context(), false))
}

// nextDaemon closes the tree, as a daemon that is stopped, and makes another on the same directories.
func (w *world) nextDaemon() error {
	w.Helper()
	err := w.stop()
	w.next()
	return err
}

// stop closes the tree while the server takes nothing.
func (w *world) stop() error {
	ctx, cancel := context.WithCancel(w.Context())
	cancel()
	w.server.SetFault(func(context.Context, string, string) error { return syscall.EDQUOT })
	defer w.server.SetFault(nil)
	return w.tree.Close(ctx)
}

// next makes the tree of another daemon, whose end does not end the server.
func (w *world) next() {
	w.Helper()
	tree, err := cache.New(outliving{retry.New(w.server, w.options.Retry, retry.Options{})}, w.options)
	w.must(err)
	w.tree = tree
}

// staged demands that the staging directory holds no content, and quarantine n.
func (w *world) staged(quarantined int) {
	w.Helper()
	w.await("staging holds no content", func() bool {
		left, err := filepath.Glob(filepath.Join(w.options.Staging, "*.data"))
		return err == nil && len(left) == 0
	})
	if kept, err := filepath.Glob(filepath.Join(w.options.Quarantine, "*.data")); err != nil || len(kept) != quarantined {
		w.Errorf("quarantine holds %v, %v; want %d contents", kept, err, quarantined)
	}
}

func TestCloseInBackgroundReturnsBeforeTheServerHasIt(t *testing.T) {
	w := newOwing(t, nil)
	w.give("old", "old content")
	w.refuse(true)
	w.save("new", "new content")
	w.save("old", "changed")
	w.shows("new", "new content")
	w.shows("old", "changed")
	w.lacks("new")
	w.has("old", "old content")
	w.lists("new", "old")
	if owed := w.tree.Owed(); owed.Files != 2 || owed.Oldest.IsZero() {
		t.Errorf("owed %+v, want two files and since when", owed)
	}
	w.refuse(false)
	w.paid()
	w.has("new", "new content")
	w.has("old", "changed")
	w.only("new", "old")
	w.staged(0)
}

func TestWhatIsOwedOutlivesTheDaemon(t *testing.T) {
	w := newOwing(t, nil)
	w.give("old", "old content")
	w.give("log", "line\n")
	w.refuse(true)
	w.save("new", "new content")
	w.save("old", "changed")
	f := w.open("log", writing)
	w.add(f, "more\n")
	w.must(f.Close(w.Context(), false))
	mode := os.FileMode(0o600)
	_, err := w.tree.SetAttr(w.Context(), "new", backends.Attr{Perm: &mode})
	w.must(err)
	if err := w.nextDaemon(); err == nil {
		t.Error("Close does not tell that something is owed")
	}
	w.refuse(true)
	w.shows("new", "new content")
	w.shows("old", "changed")
	w.shows("log", "line\nmore\n")
	if e, err := w.tree.Stat(t.Context(), "new"); err != nil || e.Mode.Perm() != mode {
		t.Errorf("mode %v, %v; want %v", e.Mode, err, mode)
	}
	w.refuse(false)
	w.paid()
	w.has("new", "new content")
	w.has("old", "changed")
	w.has("log", "line\nmore\n")
	w.only("new", "old", "log")
	w.staged(0)
	w.await("the attributes are there", func() bool {
		info, err := w.server.Stat(t.Context(), "new")
		return err == nil && info.Mode.Perm() == mode
	})
}

func TestOwedFileBearsEverything(t *testing.T) {
	for _, restart := range []bool{false, true} {
		for _, known := range []bool{false, true} { // the server has an older content
			t.Run(fmt.Sprintf("restart=%v known=%v", restart, known), func(t *testing.T) {
				names := []string{"append", "rename", "over", "unlink", "truncate", "chmod", "utimes", "rewrite", "patch"}
				w := newOwing(t, nil)
				if known {
					for _, name := range names {
						w.give(name, "older content")
					}
				}
				w.refuse(true)
				for _, name := range names {
					w.save(name, "content of "+name)
				}
				if restart {
					if err := w.nextDaemon(); err == nil {
						t.Error("nothing is owed")
					}
					w.refuse(true)
				}
				ctx := t.Context()
				f := w.open("append", writing)
				w.add(f, ", and more")
				w.must(f.Close(ctx, false))
				f = w.open("patch", writing)
				w.write(f, "CONTENT", 0)
				w.must(f.Close(ctx, false))
				w.save("rewrite", "rewritten")
				size, at, mode := int64(7), time.Unix(1_000_000_000, 0), os.FileMode(0o604)
				for name, a := range map[string]backends.Attr{"truncate": {Size: &size}, "chmod": {Perm: &mode}, "utimes": {ModTime: &at, AccTime: &at}} {
					if _, err := w.tree.SetAttr(ctx, name, a); err != nil {
						t.Errorf("%s: %v", name, err)
					}
				}
				change := func() {
					w.must(w.tree.Remove(ctx, "unlink"))
					w.must(w.tree.Rename(ctx, "rename", "renamed", backends.Replace))
					w.must(w.tree.Rename(ctx, "renamed", "over", backends.Replace))
				}
				if !known { // else the server must be asked
					change()
				}
				if restart {
					if err := w.nextDaemon(); err == nil {
						t.Error("nothing is owed")
					}
				}
				w.refuse(false)
				if known {
					change()
				}
				w.paid()
				w.only("append", "over", "truncate", "chmod", "utimes", "rewrite", "patch")
				w.has("append", "content of append, and more")
				w.has("patch", "CONTENT of patch")
				w.has("over", "content of rename")
				w.has("truncate", "content")
				w.has("rewrite", "rewritten")
				for name, want := range map[string]func(backends.Info) bool{
					"chmod":  func(i backends.Info) bool { return i.Mode.Perm() == mode },
					"utimes": func(i backends.Info) bool { return i.ModTime.Equal(at) },
				} {
					if info, err := w.server.Stat(ctx, name); err != nil || !want(info) {
						t.Errorf("%s: server has %+v, %v", name, info, err)
					}
				}
				w.staged(0)
			})
		}
	}
}

func TestUnlinkBeforeTheUploadSendsNothing(t *testing.T) {
	w := newOwing(t, nil)
	var sent atomic.Int64
	w.server.SetFault(func(_ context.Context, op, _ string) error {
		if op == "create" || op == "remove" || op == "rename" {
			sent.Add(1)
			return syscall.EDQUOT
		}
		return nil
	})
	w.save("f", "content")
	sent.Store(0)
	if err := w.tree.Remove(t.Context(), "f"); err != nil {
		t.Errorf("remove: %v", err)
	}
	if err := w.nextDaemon(); err != nil {
		t.Errorf("something is owed: %v", err)
	}
	w.only()
	w.staged(0)
	if n := sent.Load(); n > 0 {
		t.Errorf("%d calls were sent for a file that never was there", n)
	}
}

func TestSupersededContentIsNotSent(t *testing.T) {
	w := newOwing(t, nil)
	w.refuse(true)
	for i := range 20 {
		w.save("f", fmt.Sprint("version ", i))
	}
	w.refuse(false)
	w.paid()
	w.has("f", "version 19")
	if n := w.server.Calls()["rename"]; n != 1 {
		t.Errorf("%d contents were given the name, want the last alone", n)
	}
	w.staged(0)
}

func TestSealedContentIsNotChangedByLaterWrites(t *testing.T) {
	w := newOwing(t, nil)
	w.refuse(true)
	w.save("f", "acknowledged")
	f := w.open("f", writing)
	w.write(f, "SCRIBBLED ON AND LONGER", 0)
	// The daemon is killed: what was never closed must not arrive, and must not have spoiled what was acknowledged.
	dead := w.tree
	w.next()
	t.Cleanup(func() { dead.Close(context.Background()) })
	w.refuse(false)
	w.paid()
	w.has("f", "acknowledged")
	w.staged(1)
}

func TestFailedCloseKeepsWhatWasAcknowledgedBefore(t *testing.T) {
	w := newOwing(t, nil)
	w.refuse(true)
	w.save("f", "acknowledged")
	f := w.open("f", writing)
	w.write(f, "given up, and longer", 0)
	f.GiveUp() // as after a close that failed
	w.must(f.Close(t.Context(), true))
	w.shows("f", "acknowledged")
	w.refuse(false)
	w.paid()
	w.has("f", "acknowledged")
	w.staged(0)
}

func TestConflictKeepsBoth(t *testing.T) {
	for name, known := range map[string]bool{"changed": true, "created": false} {
		t.Run(name, func(t *testing.T) {
			w := newOwing(t, nil)
			if known {
				w.give("f", "before")
				w.shows("f", "before")
			}
			w.refuse(true)
			w.save("f", "ours")
			w.give("f", "theirs, which is another")
			w.refuse(false)
			w.paid()
			w.has("f", "theirs, which is another")
			w.shows("f", "theirs, which is another")
			names, err := w.server.Names("")
			w.must(err)
			beside := slices.DeleteFunc(names, func(n string) bool { return !strings.HasPrefix(n, "f.conflict-here-") })
			if len(beside) != 1 {
				t.Fatalf("%q beside f, want one", beside)
			}
			w.has(beside[0], "ours")
			if n := w.tree.Owed().Conflicts; n != 1 {
				t.Errorf("%d conflicts counted, want 1", n)
			}
			w.staged(0)
		})
	}
}

// TestOwedConflictFollowsThePolicy: ours replaces theirs with Overwrite, and waits for a person with Fail, on either kind of server.
func TestOwedConflictFollowsThePolicy(t *testing.T) {
	for kind, options := range directKinds {
		for _, policy := range []cache.Conflict{cache.Overwrite, cache.Fail} {
			for _, known := range []bool{true, false} {
				t.Run(fmt.Sprint(kind, policy, known), func(t *testing.T) {
					t.Parallel()
					w := newRemote(t, func(so *mem.Options, to *cache.Options) {
						*so = options()
						to.Conflict = policy
					})
					if known {
						w.give("f", "before")
						w.shows("f", "before")
					}
					w.away(true)
					w.save("f", "ours")
					w.give("f", "theirs, which is another")
					w.away(false)
					err := w.tree.Drain(t.Context())
					w.only("f")
					if policy == cache.Overwrite {
						w.must(err)
						w.has("f", "ours")
						return
					}
					w.has("f", "theirs, which is another")
					if q := w.tree.Queue(); !errors.Is(err, cache.ErrOwed) || len(q) != 1 || !q[0].Conflict {
						t.Errorf("Drain = %v, queue %+v", err, q)
					}
				})
			}
		}
	}
}

// TestConflictIsStoredBesideOnce: the daemon dies, or hears nothing, when ours has just got its name beside theirs. It is there once for all that.
func TestConflictIsStoredBesideOnce(t *testing.T) {
	for _, crash := range []bool{false, true} {
		t.Run(map[bool]string{false: "unheard", true: "killed"}[crash], func(t *testing.T) {
			w := newRemote(t, nil)
			stored := make(chan struct{})
			var first atomic.Bool
			w.refuse(true)
			w.save("f", "ours")
			w.give("f", "theirs, which is another")
			w.server.SetAfter(func(_ context.Context, op, name string) error {
				if op != "rename" || !first.CompareAndSwap(false, true) {
					return nil
				}
				close(stored)
				if crash {
					select {}
				}
				w.server.SetFault(func(_ context.Context, op, name string) error {
					w.server.SetFault(nil)
					return lost(op, name) // to whoever asks what became of it
				})
				return lost(op, name)
			})
			w.refuse(false)
			<-stored
			if crash {
				w.next()
			}
			w.must(w.tree.Drain(t.Context()))
			w.has("f", "theirs, which is another")
			if beside := w.beside(); len(beside) != 1 {
				t.Errorf("beside it lies %q, want ours once", beside)
			} else {
				w.has(beside[0], "ours")
			}
			w.staged(0)
		})
	}
}

func TestAnotherTargetIsSentNothing(t *testing.T) {
	w := newOwing(t, nil)
	w.refuse(true)
	w.save("f", "content")
	w.options.Target = "another server"
	if err := w.nextDaemon(); err == nil {
		t.Error("nothing is owed")
	}
	w.refuse(false)
	if q := w.tree.Queue(); len(q) != 1 || !q[0].Foreign {
		t.Errorf("queue %+v, want one entry of another target", q)
	}
	w.lacks("f")
	w.options.Target = "mem test"
	w.nextDaemon()
	w.refuse(false)
	w.paid()
	w.has("f", "content")
}

// dying is a daemon that dies: from one step on, nothing of it goes on.
type dying struct {
	armed atomic.Bool
	mu    sync.Mutex
	sites []string // that it passed
	at    int      // how many it lives to see
	dead  chan struct{}
}

func (d *dying) hook(site string) {
	if !d.armed.Load() {
		return
	}
	d.mu.Lock()
	d.sites = append(d.sites, site)
	if len(d.sites) == d.at {
		close(d.dead)
	}
	dead := len(d.sites) >= d.at
	d.mu.Unlock()
	if dead {
		select {}
	}
}

// spare lets it live for ever from now on, and reports whether it has lived until now.
func (d *dying) spare() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.sites) >= d.at {
		return false
	}
	d.at = math.MaxInt
	d.armed.Store(false)
	return true
}

// step is one thing that a program does, and what it makes of the files that it was told are there.
type step struct {
	name string
	do   func(w *world, tree *cache.Tree) error
	then func(files map[string]string)
}

func steps() []step {
	ctx := context.Background()
	save := func(name, content string, mode cache.OpenMode, write func(*cache.File) error) func(*world, *cache.Tree) error {
		return func(w *world, tree *cache.Tree) error {
			f, _, err := tree.Open(ctx, name, mode)
			if err != nil {
				return err
			}
			if err = write(f); err == nil {
				err = f.Publish(ctx)
			}
			return errors.Join(err, f.Close(ctx, err != nil))
		}
	}
	put := func(name, content string) step {
		return step{"put " + name, save(name, content, cache.OpenMode{Write: true, Create: true, Truncate: true, Perm: 0o644}, func(f *cache.File) error {
			_, err := f.WriteAt(ctx, []byte(content), 0)
			return err
		}), func(files map[string]string) { files[name] = content }}
	}
	add := func(name, content string) step {
		return step{"append to " + name, save(name, content, writing, func(f *cache.File) error {
			_, err := f.Append(ctx, []byte(content))
			return err
		}), func(files map[string]string) { files[name] += content }}
	}
	patch := func(name, content string) step {
		return step{"patch " + name, save(name, content, writing, func(f *cache.File) error {
			_, err := f.WriteAt(ctx, []byte(content), 2)
			return err
		}), func(files map[string]string) {
			files[name] = files[name][:2] + content + files[name][min(len(files[name]), 2+len(content)):]
		}}
	}
	move := func(from, to string) step {
		return step{"rename " + from + " to " + to, func(w *world, tree *cache.Tree) error { return tree.Rename(ctx, from, to, backends.Replace) },
			func(files map[string]string) { files[to] = files[from]; delete(files, from) }}
	}
	remove := func(name string) step {
		return step{"remove " + name, func(w *world, tree *cache.Tree) error { return tree.Remove(ctx, name) },
			func(files map[string]string) { delete(files, name) }}
	}
	pause := step{"wait until all is sent", func(w *world, tree *cache.Tree) error {
		for tree.Owed().Files > 0 {
			time.Sleep(time.Millisecond)
		}
		return nil
	}, func(map[string]string) {}}
	return []step{
		put("a", "first content of a"), put("b", "content of b"), put("a", "second"), add("a", ", appended"), move("b", "c"), pause,
		put("c", "over what is there"), add("old", "a line\n"), pause, add("old", "another line\n"), add("old", "and one more\n"), patch("old", "PATCH"),
		put("tmp", "written beside"), move("tmp", "a"), put("gone", "never needed"), remove("gone"), pause,
		remove("c"), move("a", "moved"), put("moved", "again"), remove("moved"), put("last", strings.Repeat("long ", 1000)),
	}
}

// TestDaemonMayDieAtEachStep lets a daemon die at the steps that it takes on the disk and the changes that it makes at the server,
// and lets another go on after it: what programs were told is done is there then, once, and nothing else. Of each step it takes
// the first time that it comes, the last and some in between; PIERFS_DEATHS=all takes all.
func TestDaemonMayDieAtEachStep(t *testing.T) {
	for _, kind := range []string{"sftp", "ftp"} {
		t.Run(kind, func(t *testing.T) {
			passed, _ := dieAt(t, kind, math.MaxInt)
			sites := map[string]bool{}
			for _, at := range deaths(passed) {
				if now, died := dieAt(t, kind, at); died {
					sites[now[at-1]] = true
				}
				if t.Failed() {
					t.FailNow()
				}
			}
			for i, site := range passed { // when a daemon comes where varies: each kind of step must have been the last of one
				if !testing.Short() && !sites[site] {
					now, died := dieAt(t, kind, i+1)
					sites[site] = died && now[i] == site
				}
			}
		})
	}
}

// deaths returns at which steps to die, of those that a daemon has taken.
func deaths(passed []string) (at []int) {
	times := map[string][]int{}
	for i, site := range passed {
		times[site] = append(times[site], i+1)
	}
	all := os.Getenv("PIERFS_DEATHS") == "all"
	for _, when := range times {
		for k, i := range when {
			if all || k == 0 || !testing.Short() && (k == len(when)-1 || k%(1+len(when)/4) == 0) {
				at = append(at, i)
			}
		}
	}
	slices.Sort(at)
	return at
}

// lockedBuffer may be written to from many goroutines.
type lockedBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// lives waits until all is sent, and reports whether the daemon has lived to see it.
func (w *world) lives(d *dying) bool {
	for w.tree.Owed().Files > 0 {
		select {
		case <-d.dead:
			return false
		case <-time.After(time.Millisecond):
		}
	}
	return d.spare()
}

// dieAt returns the steps that the daemon took, and whether it died at the one asked for.
func dieAt(t *testing.T, kind string, at int) (passed []string, died bool) {
	over := false
	d := &dying{at: at, dead: make(chan struct{})}
	var log lockedBuffer
	defer func() {
		if t.Failed() {
			t.Log(log.String())
		}
	}()
	w := newOwing(t, func(so *mem.Options, to *cache.Options) {
		if kind == "ftp" {
			*so = mem.FTP(nil)
		}
		to.Hook = d.hook
		to.Logger = slog.New(slog.NewTextHandler(&log, nil))
		to.MetadataTTL, to.NegativeTTL = time.Millisecond, time.Millisecond
	})
	w.give("old", "what was there\n")
	before, after := map[string]string{"old": "what was there\n"}, map[string]string{}
	d.armed.Store(true)
	victim, ended := w.tree, make(chan error, 1)
	var under string
	var mu sync.Mutex
	go func() { // ends with the steps, or never: a daemon that died takes its programs' calls with it
		for _, s := range steps() {
			mu.Lock()
			under = s.name
			after = maps.Clone(before)
			s.then(after)
			mu.Unlock()
			if err := s.do(w, victim); err != nil {
				ended <- fmt.Errorf("%s: %w", s.name, err)
				return
			}
			mu.Lock()
			before = after
			mu.Unlock()
		}
		ended <- nil
	}()
	select {
	case err := <-ended:
		w.must(err)
		over = w.lives(d)
	case <-d.dead:
	case <-time.After(30 * time.Second):
		t.Fatalf("%s hangs", under)
	}
	if !over {
		w.server.Break()
		w.options.Hook = nil
		w.next()
	}
	w.paid()
	w.await("no temporary name is left", func() bool {
		names, err := w.server.Names("")
		return err == nil && !slices.ContainsFunc(names, func(n string) bool { return strings.Contains(n, ".pierfs-") })
	})
	mu.Lock()
	defer mu.Unlock()
	got := map[string]string{}
	names, err := w.server.Names("")
	w.must(err)
	for _, name := range names {
		content, err := w.server.ReadFile(name)
		w.must(err)
		got[name] = string(content)
	}
	if !maps.Equal(got, before) && !maps.Equal(got, after) {
		t.Errorf("died at step %d, while a program did %s: the server has\n%q, want\n%q or\n%q", at, under, got, before, after)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.sites), !over
}
