package cache_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
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

// newRemote is a world with commit = "background" and a server that may be away.
func newRemote(t *testing.T, change func(*mem.Options, *cache.Options)) *world {
	return newOwing(t, func(so *mem.Options, to *cache.Options) {
		to.Retry = retry.Policy{Count: 1, Timeout: 50 * time.Millisecond}
		if change != nil {
			change(so, to)
		}
	})
}

// somebodyElse is what contexts bear of those who are at the server.
type somebodyElse struct{}

// away takes the server away, or brings it back.
func (w *world) away(yes bool) {
	if !yes {
		w.server.SetFault(nil)
		w.tree.Wake()
		return
	}
	w.server.SetFault(func(ctx context.Context, op, _ string) error {
		if ctx.Value(somebodyElse{}) != nil {
			return nil
		}
		return &backends.Error{Op: op, Code: syscall.ECONNREFUSED, Class: backends.Transient, Cause: backends.CauseConnRefused}
	})
}

// crash ends the daemon at once, and begins the next.
func (w *world) crash(d *dying) {
	w.Helper()
	d.mu.Lock()
	d.at = len(d.sites) + 1
	d.mu.Unlock()
	d.armed.Store(true)
	w.options.Hook = nil
	w.next()
}

// holds returns all that the server has, with the content of files; directories end in a slash.
func (w *world) holds() map[string]string {
	w.Helper()
	all := map[string]string{}
	var walk func(dir string)
	walk = func(dir string) {
		for info, err := range w.server.List(context.Background(), dir) {
			w.must(err)
			name := strings.TrimPrefix(dir+"/"+info.Name, "/")
			if info.IsDir() {
				all[name+"/"] = ""
				walk(name)
				continue
			}
			content, err := w.server.ReadFile(name)
			w.must(err)
			all[name] = string(content)
		}
	}
	walk("")
	return all
}

// sees returns all that programs see.
func (w *world) sees() map[string]string {
	w.Helper()
	all := map[string]string{}
	var walk func(dir string)
	walk = func(dir string) {
		l, err := w.tree.List(w.Context(), dir)
		w.must(err)
		defer l.Close()
		for i := 0; ; i++ {
			e, err := l.At(w.Context(), i)
			if err == io.EOF {
				return
			}
			w.must(err)
			name := strings.TrimPrefix(dir+"/"+e.Name, "/")
			if e.IsDir() {
				all[name+"/"] = ""
				walk(name)
				continue
			}
			all[name] = w.contentOf(name)
		}
	}
	walk("")
	return all
}

// contentOf returns what programs read under name.
func (w *world) contentOf(name string) string {
	w.Helper()
	f, e, err := w.tree.Open(w.Context(), name, reading)
	if err != nil {
		return err.Error()
	}
	defer f.Close(w.Context(), true)
	got := make([]byte, e.Size)
	if n, err := f.ReadAt(w.Context(), got, 0); int64(n) < e.Size {
		return fmt.Sprint(n, " bytes, ", err)
	}
	return string(got)
}

// differ tells in what two trees differ.
func differ(got, want map[string]string) (lines []string) {
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if content, ok := got[name]; !ok {
			lines = append(lines, "no "+name)
		} else if content != want[name] {
			lines = append(lines, fmt.Sprintf("%s holds %q, want %q", name, content, want[name]))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(got)) {
		if _, ok := want[name]; !ok {
			lines = append(lines, "also "+name)
		}
	}
	return lines
}

// TestTreeIsCopiedWhileTheServerIsAway is cp -r of 1,000 files in 20 directories, with mv and rm among them, while the server is
// away; the daemon is killed in between, and the server comes back: the trees are equal.
func TestTreeIsCopiedWhileTheServerIsAway(t *testing.T) {
	d := &dying{at: 1 << 30, dead: make(chan struct{})}
	w := newRemote(t, func(_ *mem.Options, to *cache.Options) { to.Hook = d.hook })
	ctx := t.Context()
	w.give("old", "what was there")
	w.must(w.server.Mkdir(ctx, "there", 0o755))
	w.give("there/f", "content of f")
	w.sees()
	w.away(true)
	want := map[string]string{"old": "what was there", "there/": "", "there/f": "content of f"}
	w.mkdir("copy")
	want["copy/"] = ""
	for dir := range 20 {
		name := fmt.Sprintf("copy/dir%02d", dir)
		w.mkdir(name)
		want[name+"/"] = ""
		var files sync.WaitGroup
		for lane := range 10 {
			files.Go(func() {
				for i := range 5 {
					name := fmt.Sprintf("%s/file%02d", name, 5*lane+i)
					w.save(name, "content of "+name)
				}
			})
		}
		files.Wait()
		for i := range 50 {
			name := fmt.Sprintf("%s/file%02d", name, i)
			want[name] = "content of " + name
		}
		switch dir {
		case 3, 9: // a directory is renamed with all that is in it
			w.move(want, name, fmt.Sprintf("copy/renamed%02d", dir))
		case 5: // files move between directories, and over others
			for i := range 10 {
				w.move(want, fmt.Sprintf("%s/file%02d", name, i), fmt.Sprintf("copy/dir04/file%02d", i))
			}
			w.move(want, name+"/file20", "copy/dir02/new")
			w.move(want, name+"/file21", "there/f")
		case 7: // all of it is removed again
			for i := range 50 {
				w.removeOf(want, fmt.Sprintf("%s/file%02d", name, i))
			}
			w.must(w.tree.Rmdir(ctx, name))
			delete(want, name+"/")
		case 11:
			w.removeOf(want, "old")
			w.move(want, "there", "elsewhere")
			w.removeOf(want, "copy/dir02/new")
		}
	}
	if lines := differ(w.sees(), want); len(lines) > 0 {
		t.Errorf("programs see, while the server is away: %q", lines[:min(len(lines), 10)])
	}
	w.crash(d)
	w.mkdir("copy/after")
	want["copy/after/"] = ""
	w.move(want, "copy/renamed03", "copy/after/again")
	w.removeOf(want, "copy/after/again/file07")
	w.away(false)
	w.must(w.tree.Drain(ctx))
	if lines := differ(w.holds(), want); len(lines) > 0 {
		t.Errorf("the server: %q", lines[:min(len(lines), 10)])
	}
	if lines := differ(w.sees(), want); len(lines) > 0 {
		t.Errorf("programs see afterwards: %q", lines[:min(len(lines), 10)])
	}
	if owed := w.tree.Owed(); owed.Files != 0 || owed.Conflicts != 0 || owed.Quarantined != 0 {
		t.Errorf("owed %+v, want nothing", owed)
	}
	w.staged(0)
}

func (w *world) mkdir(name string) {
	w.Helper()
	e, err := w.tree.Mkdir(w.Context(), name, 0o755)
	if err != nil || !e.IsDir() {
		w.Fatalf("mkdir %s: %v, %v", name, e.Mode, err)
	}
}

// move renames, and says so in the model.
func (w *world) move(model map[string]string, from, to string) {
	w.Helper()
	w.must(w.tree.Rename(w.Context(), from, to, backends.Replace))
	for name, content := range maps.Clone(model) {
		if name == from || strings.HasPrefix(name, from+"/") {
			delete(model, name)
			model[to+name[len(from):]] = content
		}
	}
}

func (w *world) removeOf(model map[string]string, name string) {
	w.Helper()
	w.must(w.tree.Remove(w.Context(), name))
	delete(model, name)
}

// TestLastKnownAnswersHoldWhileTheServerIsAway asks of what is known, of what is known to be absent, and of what is not known.
func TestLastKnownAnswersHoldWhileTheServerIsAway(t *testing.T) {
	w := newRemote(t, func(_ *mem.Options, to *cache.Options) {
		to.MetadataTTL, to.NegativeTTL = time.Nanosecond, time.Nanosecond
	})
	ctx := t.Context()
	w.give("f", "content")
	w.must(w.server.Mkdir(ctx, "listed", 0o755))
	w.must(w.server.Mkdir(ctx, "unlisted", 0o755))
	w.give("listed/f", "content")
	w.give("unlisted/f", "content")
	_ = w.list("")
	_ = w.list("listed")
	w.away(true)
	for name, size := range map[string]int64{"f": 7, "listed/f": 7} {
		if e, err := w.tree.Stat(ctx, name); err != nil || e.Size != size {
			t.Errorf("stat %s: %d, %v", name, e.Size, err)
		}
	}
	if got := w.list("listed"); !slices.Equal(got, []string{"f"}) {
		t.Errorf("listed holds %q", got)
	}
	if _, err := w.tree.Stat(ctx, "listed/none"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a name that is not listed: %v", err)
	}
	_, err := w.tree.Stat(ctx, "unlisted/f")
	wantErrno(t, err, syscall.EIO)
	if _, _, err := w.tree.Open(ctx, "unlisted/f", reading); backends.Errno(err) != syscall.EIO {
		t.Errorf("open of what is not known: %v", err)
	}
	wantErrno(t, w.tree.Remove(ctx, "unlisted/f"), syscall.EIO)
	wantErrno(t, w.tree.Rmdir(ctx, "unlisted"), syscall.EIO)
	w.save("unlisted/new", "made while away")
	w.mkdir("unlisted/dir")
	w.save("unlisted/f", "ours")
	w.away(false)
	w.must(w.tree.Drain(ctx))
	got := w.holds()
	conflict := slices.DeleteFunc(slices.Collect(maps.Keys(got)), func(n string) bool { return !strings.HasPrefix(n, "unlisted/f.conflict-here-") })
	if len(conflict) != 1 || got[conflict[0]] != "ours" || got["unlisted/f"] != "content" || got["unlisted/new"] != "made while away" {
		t.Errorf("the server has %q", got)
	}
}

// TestChangesOfAttributesAreOwed changes attributes of files and directories while the server is away.
func TestChangesOfAttributesAreOwed(t *testing.T) {
	d := &dying{at: 1 << 30, dead: make(chan struct{})}
	w := newRemote(t, func(_ *mem.Options, to *cache.Options) { to.Hook = d.hook })
	ctx := t.Context()
	w.give("f", "content")
	w.must(w.server.Mkdir(ctx, "dir", 0o755))
	_ = w.list("")
	w.away(true)
	mode, at := os.FileMode(0o700), time.Unix(1_000_000_000, 0)
	for _, name := range []string{"f", "dir"} {
		if e, err := w.tree.SetAttr(ctx, name, backends.Attr{Perm: &mode}); err != nil || e.Mode.Perm() != mode {
			t.Errorf("chmod %s: %v, %v", name, e.Mode, err)
		}
		if e, err := w.tree.SetAttr(ctx, name, backends.Attr{ModTime: &at, AccTime: &at}); err != nil || !e.ModTime.Equal(at) {
			t.Errorf("utimes %s: %v, %v", name, e.ModTime, err)
		}
	}
	w.must(w.tree.Rename(ctx, "f", "g", backends.NoReplace))
	w.crash(d)
	for _, name := range []string{"g", "dir"} {
		if e, err := w.tree.Stat(ctx, name); err != nil || e.Mode.Perm() != mode || !e.ModTime.Equal(at) {
			t.Errorf("%s after a restart: %v %v, %v", name, e.Mode, e.ModTime, err)
		}
	}
	w.away(false)
	w.must(w.tree.Drain(ctx))
	for _, name := range []string{"g", "dir"} {
		if info, err := w.server.Stat(ctx, name); err != nil || info.Mode.Perm() != mode || !info.ModTime.Equal(at) {
			t.Errorf("%s at the server: %v %v, %v", name, info.Mode, info.ModTime, err)
		}
	}
}

// TestOwedAttributesAreNotSetOnAnothersFile: attributes that are owed are not set on what somebody else has put there meanwhile, which is told. On the
// file that was meant they are, also if they were before: an answer was lost.
func TestOwedAttributesAreNotSetOnAnothersFile(t *testing.T) {
	mode, at := os.FileMode(0o601), time.Unix(1_000_000_000, 123_456_789)
	chmod, utimes := backends.Attr{Perm: &mode}, backends.Attr{ModTime: &at, AccTime: &at}
	for what, all := range map[string][]backends.Attr{"chmod": {chmod}, "utimes": {utimes}, "utimes and chmod": {utimes, chmod}} {
		for _, when := range []string{"away", "unheard"} {
			for _, foreign := range []bool{false, true} {
				for _, crash := range []bool{false, true} {
					t.Run(fmt.Sprintf("%s,%s,foreign=%v,crash=%v", what, when, foreign, crash), func(t *testing.T) {
						t.Parallel()
						d := &dying{at: 1 << 30, dead: make(chan struct{})}
						w := newRemote(t, func(_ *mem.Options, to *cache.Options) { to.Hook = d.hook })
						ctx := t.Context()
						w.give("f", "content")
						w.sees()
						if when == "away" {
							w.away(true)
						} else {
							w.server.SetAfter(func(_ context.Context, op, name string) error {
								if op != "setattr" {
									return nil
								}
								w.server.SetAfter(nil)
								w.away(true)
								return lost(op, name)
							})
						}
						for _, a := range all {
							_, err := w.tree.SetAttr(ctx, "f", a)
							w.must(err)
						}
						owed := len(w.tree.Queue())
						if owed != len(all) {
							t.Fatalf("%d changes are owed, want %d", owed, len(all))
						}
						if foreign {
							w.give("f", "of somebody else")
							theirs := os.FileMode(0o640)
							_, err := w.server.SetAttr(context.WithValue(ctx, somebodyElse{}, true), "f", backends.Attr{Perm: &theirs})
							w.must(err)
						}
						if crash {
							w.crash(d)
						}
						w.away(false)
						w.must(w.tree.Drain(ctx))
						info, err := w.server.Stat(ctx, "f")
						w.must(err)
						made := slices.ContainsFunc(all, func(a backends.Attr) bool {
							return a.Perm != nil && info.Mode.Perm() == mode || a.ModTime != nil && info.ModTime.Equal(at.Truncate(time.Second))
						})
						conflicts := 0
						if foreign {
							conflicts = owed
						}
						if made == foreign || w.tree.Owed().Conflicts != conflicts {
							t.Errorf("the server has %v %v, and %d conflicts were told, want %d", info.Mode, info.ModTime, w.tree.Owed().Conflicts, conflicts)
						}
						if e, err := w.tree.Refresh(ctx, "f"); err != nil || e.Mode != info.Mode {
							t.Errorf("programs see %v, %v; the server has %v", e.Mode, err, info.Mode)
						}
					})
				}
			}
		}
	}
}

// TestAttributesOfADirectoryAreShownWhileContentsArrive: what was set on a directory behind what is owed in it is seen all the while, also when
// the server tells what the directory is like as the first of it arrives, and so do listings that were never made before.
func TestAttributesOfADirectoryAreShownWhileContentsArrive(t *testing.T) {
	w := newRemote(t, func(_ *mem.Options, to *cache.Options) { to.MetadataTTL = time.Nanosecond })
	ctx := t.Context()
	w.mkdir("d")
	w.mkdir("d/e")
	w.refuse(true)
	for _, name := range []string{"d/a", "d/b", "d/e/a", "d/e/b"} {
		w.save(name, "content")
	}
	mode, at := 0o755|os.ModeSticky, time.Unix(1_000_000_000, 500)
	for _, name := range []string{"d/e", "d"} {
		for _, a := range []backends.Attr{{Perm: &mode}, {ModTime: &at, AccTime: &at}} {
			_, err := w.tree.SetAttr(ctx, name, a)
			w.must(err)
		}
	}
	isAsSet := func(e cache.Entry) {
		t.Helper()
		if e.Mode != os.ModeDir|mode || !e.ModTime.Equal(at) {
			t.Errorf("%s is %v of %v, want %v of %v", e.Name, e.Mode, e.ModTime, mode, at)
		}
	}
	look := func() {
		t.Helper()
		for _, name := range []string{"d", "d/e"} {
			e, err := w.tree.Stat(ctx, name)
			w.must(err)
			isAsSet(e)
		}
		for _, e := range append(w.entries(""), w.entries("d")...) {
			if e.IsDir() {
				isAsSet(e)
			}
		}
	}
	look()
	w.server.SetFault(func(_ context.Context, op, name string) error {
		if op == "create" && strings.Contains(name, "b") {
			return syscall.EDQUOT
		}
		return nil
	})
	w.tree.Wake()
	w.await("the first files arrive", func() bool { return w.tree.Owed().Files == 6 })
	look()
	w.refuse(false)
	w.paid()
	w.must(w.tree.Drain(ctx))
	look()
}

// TestFinerTimeIsNoConflict: what a program has given a time that the server cannot keep (cp -p, rsync -a) is still the file that the server has
// when something owed replaces, changes or removes it, also by the next daemon, which knows the time no more.
func TestFinerTimeIsNoConflict(t *testing.T) {
	steps := map[string]func(*world){
		"replaced": func(w *world) {
			w.save("y", "new")
			w.must(w.tree.Rename(w.Context(), "y", "x", backends.Replace))
		},
		"appended": func(w *world) {
			f := w.open("x", cache.OpenMode{Write: true})
			w.add(f, "new")
			w.must(f.Publish(w.Context()))
			w.must(f.Close(w.Context(), false))
		},
		"patched": func(w *world) {
			f := w.open("x", cache.OpenMode{Write: true})
			w.write(f, "new", 0)
			w.must(f.Publish(w.Context()))
			w.must(f.Close(w.Context(), false))
		},
		"renamed": func(w *world) { w.must(w.tree.Rename(w.Context(), "x", "y", backends.Replace)) },
		"removed": func(w *world) { w.must(w.tree.Remove(w.Context(), "x")) },
	}
	want := map[string]map[string]string{
		"replaced": {"x": "new"}, "appended": {"x": "oldnew"}, "patched": {"x": "new"}, "renamed": {"y": "old"}, "removed": {},
	}
	for name, step := range steps {
		for _, when := range []string{"there", "away", "killed"} {
			t.Run(name+","+when, func(t *testing.T) {
				d := &dying{at: 1 << 30, dead: make(chan struct{})}
				w := newRemote(t, func(_ *mem.Options, to *cache.Options) { to.Hook = d.hook })
				w.save("x", "old")
				at := time.Unix(1_000_000_000, 123_456_789)
				_, err := w.tree.SetAttr(t.Context(), "x", backends.Attr{ModTime: &at, AccTime: &at})
				w.must(err)
				w.paid()
				w.shows("x", "old")
				if w.refuse(true); when != "there" {
					w.away(true)
				}
				step(w)
				if when == "killed" {
					w.crash(d)
				}
				w.refuse(false)
				w.must(w.tree.Drain(t.Context()))
				if got := w.holds(); !maps.Equal(got, want[name]) {
					t.Errorf("the server has %q, want %q", got, want[name])
				}
			})
		}
	}
}

// TestTimeOfWhatIsOwedStays: a file bears the time at which it was written also when the server has it, which keeps whole seconds alone: an
// editor takes a file for changed by others whose time is another one than it has seen.
func TestTimeOfWhatIsOwedStays(t *testing.T) {
	w := newRemote(t, func(_ *mem.Options, to *cache.Options) { to.MetadataTTL = time.Nanosecond })
	w.refuse(true)
	w.save("x", "content")
	before, err := w.tree.Stat(t.Context(), "x")
	w.must(err)
	w.refuse(false)
	w.paid()
	after, err := w.tree.Stat(t.Context(), "x")
	w.must(err)
	if !after.ModTime.Equal(before.ModTime) {
		t.Errorf("the time was %v and is %v", before.ModTime, after.ModTime)
	}
}

// TestDirectoryIsGivenItsAttributesLast copies a directory as cp -a does, which takes away the right to write to it in the end: that comes
// to the server behind what is owed in it, also if the directory is renamed meanwhile, and if the daemon dies.
func TestDirectoryIsGivenItsAttributesLast(t *testing.T) {
	for _, renamed := range []bool{false, true} {
		for _, when := range []string{"there", "away", "killed"} {
			t.Run(fmt.Sprintf("renamed=%v,%s", renamed, when), func(t *testing.T) {
				d := &dying{at: 1 << 30, dead: make(chan struct{})}
				w := newRemote(t, func(_ *mem.Options, to *cache.Options) { to.Hook = d.hook })
				ctx := t.Context()
				if w.refuse(true); when != "there" {
					w.away(true)
				}
				w.mkdir("d")
				w.save("d/f", "content")
				mode, at := os.FileMode(0o555), time.Unix(1_000_000_000, 0)
				for _, a := range []backends.Attr{{ModTime: &at, AccTime: &at}, {Perm: &mode}} {
					if e, err := w.tree.SetAttr(ctx, "d", a); err != nil || !e.ModTime.Equal(at) {
						t.Errorf("%+v: %v %v, %v", a, e.Mode, e.ModTime, err)
					}
				}
				if _, err := w.tree.Stat(ctx, "d/none"); backends.Errno(err) != syscall.ENOENT {
					t.Errorf("a name that is not there: %v", err)
				}
				dir := "d"
				if renamed {
					dir = "e"
					w.must(w.tree.Rename(ctx, "d", "e", backends.Replace))
				}
				if when == "killed" {
					w.crash(d)
				}
				w.server.SetFault(func(_ context.Context, op, name string) error { // as a server does whose login is not root
					if in := strings.HasPrefix(name, dir+"/"); op == "create" && in {
						if info, err := w.server.Stat(context.WithValue(ctx, somebodyElse{}, true), dir); err == nil && info.Mode.Perm() == mode {
							return syscall.EACCES
						}
					}
					return nil
				})
				w.tree.Wake()
				w.must(w.tree.Drain(ctx))
				if got := w.holds(); !maps.Equal(got, map[string]string{dir + "/": "", dir + "/f": "content"}) {
					t.Errorf("the server has %q", got)
				}
				info, err := w.server.Stat(ctx, dir)
				if err != nil || info.Mode.Perm() != mode || !info.ModTime.Equal(at) {
					t.Errorf("the directory is %v %v, %v", info.Mode, info.ModTime, err)
				}
			})
		}
	}
}

// TestChangesThatClashAreConflicts lets somebody else change at the server what is changed here while it is away.
func TestChangesThatClashAreConflicts(t *testing.T) {
	w := newRemote(t, nil)
	ctx := t.Context()
	for _, name := range []string{"removed", "renamed", "gone", "target"} {
		w.give(name, "content of "+name)
	}
	w.must(w.server.Mkdir(ctx, "emptied", 0o755))
	w.sees()
	w.away(true)
	w.must(w.tree.Remove(ctx, "removed"))
	w.must(w.tree.Rename(ctx, "renamed", "new", backends.NoReplace))
	w.must(w.tree.Remove(ctx, "gone"))
	w.must(w.tree.Rmdir(ctx, "emptied"))
	w.mkdir("made")
	w.mkdir("both")
	there := context.WithValue(ctx, somebodyElse{}, true)
	w.give("removed", "changed by somebody else")
	w.give("new", "made by somebody else")
	w.must(w.server.Remove(there, "gone"))
	w.give("emptied/f", "not empty any more")
	w.give("made", "a file")
	w.must(w.server.Mkdir(there, "both", 0o755))
	w.away(false)
	if err := w.tree.Drain(ctx); !errors.Is(err, cache.ErrOwed) {
		t.Errorf("Drain = %v, want ErrOwed of the directory that cannot be made", err)
	}
	q := w.tree.Queue()
	if len(q) != 1 || q[0].Name != "made" || !q[0].Conflict || !q[0].Held {
		t.Fatalf("queue %+v, want the directory made", q)
	}
	if _, err := w.tree.Drop(q[0].Seq, false); err != nil {
		t.Error(err)
	}
	w.must(w.tree.Drain(ctx))
	want := map[string]string{
		"removed": "changed by somebody else", "new": "made by somebody else", "target": "content of target", "emptied/": "",
		"emptied/f": "not empty any more", "made": "a file", "both/": "",
	}
	got := w.holds()
	for name := range got {
		if strings.HasPrefix(name, "new.conflict-here-") {
			want[name] = "content of renamed"
		}
	}
	if lines := differ(got, want); len(lines) > 0 || len(want) != 8 {
		t.Errorf("the server: %q", lines)
	}
	if n := w.tree.Owed().Conflicts; n != 4 {
		t.Errorf("%d conflicts counted, want 4", n)
	}
}

// TestRenamedWhileOpenIsThereAfterACrash: what a program had written to a file that it has open when the file, or a directory above
// it, is renamed is not lost when the daemon dies behind that, whether the server could be asked or not.
func TestRenamedWhileOpenIsThereAfterACrash(t *testing.T) {
	for what, rename := range map[string]func(*world) (name string){
		"the file": func(w *world) string {
			w.must(w.tree.Rename(w.Context(), "d/f", "d/g", backends.Replace))
			return "d/g"
		},
		"its directory": func(w *world) string {
			w.must(w.tree.Rename(w.Context(), "d", "e", backends.Replace))
			return "e/f"
		},
	} {
		for when, before := range map[string]func(*world){
			"away":                      func(w *world) { w.away(true) },
			"something else there owed": func(w *world) { w.refuse(true); w.save("d/owed", "owed") },
			"the file owed": func(w *world) {
				w.refuse(true)
				w.save("d/f", "a former content")
			},
		} {
			t.Run(what+"/"+when, func(t *testing.T) {
				d := &dying{dead: make(chan struct{})}
				w := newRemote(t, func(_ *mem.Options, to *cache.Options) { to.Hook = d.hook })
				_, err := w.tree.Mkdir(w.Context(), "d", 0o755)
				w.must(err)
				w.sees()
				before(w)
				f := w.open("d/f", cache.OpenMode{Write: true, Create: true, Truncate: true, Perm: 0o644})
				w.write(f, "written", 0)
				name := rename(w)
				w.crash(d)
				if got := w.contentOf(name); got != "written" {
					t.Errorf("after the crash %s holds %q", name, got)
				}
				w.server.SetFault(nil)
				w.tree.Wake()
				w.paid()
				if got := w.holds()[name]; got != "written" {
					t.Errorf("the server has %q", got)
				}
			})
		}
	}
}

// TestSymbolicLinksAreOwed makes, renames and removes links while the server is away, through a crash.
func TestSymbolicLinksAreOwed(t *testing.T) {
	d := &dying{at: 1 << 30, dead: make(chan struct{})}
	w := newRemote(t, func(_ *mem.Options, to *cache.Options) { to.Hook = d.hook })
	ctx := t.Context()
	there := context.WithValue(ctx, somebodyElse{}, true)
	w.give("f", "content")
	w.must(w.server.Symlink(there, "f", "old"))
	w.sees()
	w.away(true)
	link := func(target, name string) {
		t.Helper()
		e, err := w.tree.Symlink(ctx, target, name)
		if err != nil || e.Mode.Type() != os.ModeSymlink || e.Size != int64(len(target)) {
			t.Errorf("symlink %s: %v %d, %v", name, e.Mode, e.Size, err)
		}
	}
	leads := func(name, want string) {
		t.Helper()
		if got, err := w.tree.Readlink(ctx, name); err != nil || got != want {
			t.Errorf("%s leads to %q, %v; want %q", name, got, err, want)
		}
	}
	w.mkdir("d")
	link("../f", "d/up")
	link("f", "renamed")
	link("f", "removed")
	link("f", "taken")
	link("f", "same")
	w.must(w.tree.Rename(ctx, "renamed", "d/new", backends.NoReplace))
	w.must(w.tree.Rename(ctx, "d", "e", backends.NoReplace))
	w.must(w.tree.Remove(ctx, "removed"))
	leads("e/up", "../f")
	leads("e/new", "f")
	for target, name := range map[string]string{"/etc": "absolute", "../f": "out", "a/../../f": "out2", "f": "f", "": "nowhere"} {
		if _, err := w.tree.Symlink(ctx, target, name); err == nil {
			t.Errorf("a link %s to %q is promised", name, target)
		}
	}
	_, err := w.tree.Link(ctx, "f", "further")
	wantErrno(t, err, syscall.EPERM)
	_, err = w.tree.SetAttr(ctx, "e/up", backends.Attr{ModTime: new(time.Unix(1e9, 0))})
	wantErrno(t, err, syscall.EOPNOTSUPP)
	w.crash(d)
	leads("e/up", "../f")
	leads("e/new", "f")
	w.give("taken", "a file of somebody else")
	w.must(w.server.Symlink(there, "f", "same"))
	w.away(false)
	w.must(w.tree.Drain(ctx))
	beside := ""
	names, err := w.server.Names("")
	w.must(err)
	for _, name := range names {
		if strings.HasPrefix(name, "taken.conflict-here-") {
			beside = name
		}
	}
	for name, want := range map[string]string{"e/up": "../f", "e/new": "f", "same": "f", "old": "f", beside: "f"} {
		if got, err := w.server.Readlink(there, name); err != nil || got != want {
			t.Errorf("at the server %s leads to %q, %v; want %q", name, got, err, want)
		}
	}
	for _, name := range []string{"removed", "renamed", "further", "d"} {
		if _, err := w.server.Stat(there, name); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is there: %v", name, err)
		}
	}
	w.has("taken", "a file of somebody else")
	leads("e/up", "../f")
	if owed := w.tree.Owed(); owed.Files != 0 || owed.Conflicts != 1 {
		t.Errorf("owed %+v, want one conflict", owed)
	}
}

// TestOwnLinkIsKnownBehindABrokenLine: a link that is owed is made, its answer is lost, and so is the next one, to what the name leads to. It is
// no conflict with ourselves, whatever the policy.
func TestOwnLinkIsKnownBehindABrokenLine(t *testing.T) {
	for _, policy := range []cache.Conflict{cache.KeepBoth, cache.Fail} {
		w := newRemote(t, func(_ *mem.Options, to *cache.Options) { to.Conflict = policy })
		w.sees()
		w.away(true)
		_, err := w.tree.Symlink(t.Context(), "f", "link")
		w.must(err)
		var made, asked atomic.Bool
		w.server.SetAfter(func(_ context.Context, op, name string) error {
			if op == "symlink" && made.CompareAndSwap(false, true) || op == "readlink" && asked.CompareAndSwap(false, true) {
				return lost(op, name)
			}
			return nil
		})
		w.away(false)
		w.must(w.tree.Drain(t.Context()))
		w.only("link")
		if n := w.tree.Owed().Conflicts; n != 0 || !made.Load() {
			t.Errorf("conflict = %v: %d conflicts, link made %v", policy, n, made.Load())
		}
	}
}

// TestLinksAreNotPromisedWhereThereAreNone: a server without symbolic links (FTP) gets none, also below a directory that is still owed to it.
func TestLinksAreNotPromisedWhereThereAreNone(t *testing.T) {
	w := newRemote(t, func(so *mem.Options, _ *cache.Options) { *so = mem.FTP(nil) })
	w.sees()
	w.away(true)
	w.mkdir("d")
	if _, err := w.tree.Symlink(t.Context(), "f", "d/link"); err == nil {
		t.Error("a link is promised that the server cannot have")
	}
	w.away(false)
	w.must(w.tree.Drain(t.Context()))
}
