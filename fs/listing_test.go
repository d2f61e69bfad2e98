package fs

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"pierfs/backends"
	"pierfs/backends/mem"
	"pierfs/cache"
)

// listRig is a mount with files in d, on which what is known lives as long as told.
func listRig(t *testing.T, files int, life time.Duration) *rig {
	t.Helper()
	r := newRig(t, rigOptions{cache: cache.Options{MetadataTTL: life, NegativeTTL: life}})
	must(t, r.server.Mkdir(t.Context(), "d", 0o755))
	for i := range files {
		must(t, r.server.WriteFile(fmt.Sprintf("d/f%05d", i), nil))
	}
	return r
}

// asks returns how often the kernel asks for names, and for a single one, while script runs.
func (r *rig) asks(script string, want any) (listings, lookups int) {
	r.t.Helper()
	before := r.mount.Stats()
	r.want(script, fmt.Sprint(want))
	after := r.mount.Stats()
	return after.Listings - before.Listings, after.Lookups - before.Lookups
}

func TestSecondListingAsksNobody(t *testing.T) {
	const files = 10_000
	for _, script := range []string{`ls d | wc -l`, `ls -f d | grep -c f`, `ls -l d | grep -c f`, `find d -type f | wc -l`} {
		t.Run(strings.ReplaceAll(script, " ", "_"), func(t *testing.T) {
			r := listRig(t, files, time.Hour)
			if n, _ := r.asks(script, files); n == 0 {
				t.Error("nobody asked for names that nobody knew")
			}
			for range 2 {
				if n, _ := r.asks(script, files); n > 0 {
					t.Errorf("%s again: %d requests for names", script, n)
				}
			}
		})
	}
}

// TestNamesAreKeptAsLongAsTheirAttributes: names that the kernel keeps come without attributes, each of which would then be a request.
func TestNamesAreKeptAsLongAsTheirAttributes(t *testing.T) {
	const files = 10_000
	r := listRig(t, files, 2*time.Second)
	r.want(`ls -l d | grep -c f`, fmt.Sprint(files))
	for r.tree.Known("d") != nil { // ends with what is known of d
		time.Sleep(10 * time.Millisecond)
	}
	listings, lookups := r.asks(`ls -l d | grep -c f`, files)
	if listings == 0 || lookups > files/10 {
		t.Errorf("when all had expired the kernel asked %d times for names and for %d single ones", listings, lookups)
	}
}

// TestAttributesOfKeptNamesComeTogether: who wants attributes where the kernel keeps names alone is not given each by itself.
func TestAttributesOfKeptNamesComeTogether(t *testing.T) {
	const files = 10_000
	r := listRig(t, files, time.Hour)
	r.want(`ls -f d | grep -c f; ls -f d | grep -c f`, fmt.Sprintf("%d\n%d", files, files))
	if _, lookups := r.asks(`ls -l d | grep -c f`, files); lookups > files/2 { // ls(1) has room for some 3300 at a time
		t.Errorf("the kernel asked for %d names by themselves", lookups)
	}
	for range 2 {
		r.want(`ls -l d | grep -c f`, fmt.Sprint(files))
	}
	if listings, lookups := r.asks(`ls -l d | grep -c f`, files); listings+lookups > 0 {
		t.Errorf("and then %d times for names and for %d single ones", listings, lookups)
	}
}

func TestNothingIsKeptWhereNothingMayBeUsedTwice(t *testing.T) {
	r := newRig(t, rigOptions{cache: cache.Options{MetadataTTL: -1}})
	must(t, r.server.WriteFile("f", nil))
	for want := range 3 {
		must(t, r.server.WriteFile(fmt.Sprint(want), nil))
		if n, _ := r.asks(`ls | wc -l`, want+2); n == 0 {
			t.Error("nobody was asked")
		}
	}
}

// TestWhatIsLearnedIsListed: what others do is shown as soon as it is known here, whatever the kernel keeps.
func TestWhatIsLearnedIsListed(t *testing.T) {
	r := listRig(t, 3, time.Hour)
	ctx := t.Context()
	list := func(want string) {
		t.Helper()
		for range 2 {
			r.want(`ls d | tr '\n' ' '`, want)
		}
	}
	list("f00000 f00001 f00002")
	must(t, r.server.WriteFile("d/new", nil))
	if _, err := r.tree.Refresh(ctx, "d/new"); err != nil {
		t.Fatal(err)
	}
	list("f00000 f00001 f00002 new")
	must(t, r.server.Remove(ctx, "d/f00001"))
	if _, err := r.tree.Refresh(ctx, "d/f00001"); !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	list("f00000 f00002 new")
	must(t, r.tree.Rename(ctx, "d/new", "d/moved", backends.Replace)) // as the commands do
	list("f00000 f00002 moved")
	must(t, r.tree.Remove(ctx, "d/moved"))
	_, err := r.tree.Mkdir(ctx, "d/moved", 0o755)
	must(t, err)
	r.want(`find d -type d -name moved; find d -type d -name moved`, "d/moved\nd/moved")
	r.sh(`mkdir e; mv d e/d; ls e/d`)
	r.want(`ls -ia e/d | awk '$2 == ".." { print $1 }'; stat -c %i e | tr -d '\n'`, r.sh(`stat -c '%i
%i' e`))
}

// TestListingThatWasNotReadToItsEndIsNoHindrance: whoever stops in the middle, or fails there, leaves the next ones to be shown what there is, and
// soon from what is kept.
func TestListingThatWasNotReadToItsEndIsNoHindrance(t *testing.T) {
	const files = 5000
	r := listRig(t, files, time.Hour)
	all := `ls -f d | grep -c f`
	for name, interrupt := range map[string]func(){
		"stopped": func() { r.child("read a few", filepath.Join(r.dir, "d")) },
		"failed": func() {
			r.server.SetFault(func(_ context.Context, op, name string) error {
				if op == "entry" && name == "d/f03000" {
					return &backends.Error{Op: "list", Name: "d", Code: syscall.EIO}
				}
				return nil
			})
			defer r.server.SetFault(nil)
			if out, err := r.try(all); err == nil && out == fmt.Sprint(files) {
				t.Error("the listing did not fail")
			}
		},
	} {
		r.forget(t, "d")
		interrupt()
		r.forget(t, "d") // so that another listing is shown next
		for range 3 {
			r.want(all, fmt.Sprint(files))
		}
		if n, _ := r.asks(all, files); n > 0 {
			t.Errorf("%s: the fourth time after it the kernel asked %d times for names", name, n)
		}
	}
}

// forget makes what is known of a directory's names unknown.
func (r *rig) forget(t *testing.T, dir string) {
	t.Helper()
	must(t, r.tree.Rename(t.Context(), dir, dir+"-", backends.NoReplace))
	must(t, r.server.WriteFile(dir+"-/g", nil))
	must(t, r.server.Remove(t.Context(), dir+"-/g"))
	must(t, r.tree.Rename(t.Context(), dir+"-", dir, backends.NoReplace))
}

// TestOpenDirectoryShowsWhatIsThereFromItsBeginning: programs that go back in a directory, or open it again, while the names in it change.
func TestOpenDirectoryShowsWhatIsThereFromItsBeginning(t *testing.T) {
	r := listRig(t, 0, time.Hour)
	must(t, r.server.Mkdir(t.Context(), "e", 0o755))
	r.child("change and look", r.dir)
}

func TestReaderIsShownEachNameOnceWhateverOthersDo(t *testing.T) {
	r := listRig(t, 6000, time.Hour)
	r.sh(`ls -f d; ls -f d`)
	r.child("go on while others list", filepath.Join(r.dir, "d"))
	r.sh(`ls -f d; ls -f d; rm -r d`)
	r.want(`ls`, "")
}

// TestWhoGoesBackSeesWhatOthersDid: at the latest when what is known has expired, and one of several who have the directory open too, though its
// own time tells nothing.
func TestWhoGoesBackSeesWhatOthersDid(t *testing.T) {
	for who, child := range map[string]string{"alone": "go back until it is there", "one of two": "go back beside another"} {
		t.Run(who, func(t *testing.T) {
			r := listRig(t, 100, goingBackLife)
			r.server.SetAfter(func(ctx context.Context, op, name string) error {
				if op != "mkdir" || name != "ready" {
					return nil
				}
				before, err := r.server.Stat(ctx, "d")
				if err == nil {
					err = r.server.WriteFile("d/new", nil)
				}
				if err == nil {
					_, err = r.server.SetAttr(ctx, "d", backends.Attr{ModTime: &before.ModTime})
				}
				return err
			})
			r.child(child, r.dir)
		})
	}
}

// TestDirectoryMayBeForgottenBeforeItIsClosed: the kernel forgets a removed directory so, and nothing of it stays in use.
func TestDirectoryMayBeForgottenBeforeItIsClosed(t *testing.T) {
	server := mem.New(mem.Options{})
	must(t, server.Mkdir(t.Context(), "d", 0o755))
	tree, err := cache.New(server, cache.Options{Staging: filepath.Join(t.TempDir(), "staging"), Quarantine: filepath.Join(t.TempDir(), "quarantine"), MetadataTTL: time.Hour})
	must(t, err)
	s := newFileSystem(tree, Options{})
	var entry fuse.EntryOut
	if code := s.Lookup(nil, &fuse.InHeader{NodeId: rootID}, "d", &entry); code != fuse.OK {
		t.Fatal(code)
	}
	d := fuse.InHeader{NodeId: entry.NodeId}
	var opened fuse.OpenOut
	if code := s.OpenDir(nil, &fuse.OpenIn{InHeader: d}, &opened); code != fuse.OK || opened.OpenFlags&fuse.FOPEN_CACHE_DIR == 0 {
		t.Fatal(code, opened)
	}
	if code := s.ReadDir(nil, &fuse.ReadIn{InHeader: d, Fh: opened.Fh, Size: 4096}, fuse.NewDirEntryList(make([]byte, 4096), 0)); code != fuse.OK {
		t.Fatal(code)
	}
	if code := s.Rmdir(nil, &fuse.InHeader{NodeId: rootID}, "d"); code != fuse.OK {
		t.Fatal(code)
	}
	s.Forget(entry.NodeId, 1)
	s.ReleaseDir(&fuse.ReleaseIn{Fh: opened.Fh})
	if nodes, uses := s.nodes.count(), s.now().uses.Load(); nodes != 1 || uses != 1 || len(s.nodes.kept) > 0 {
		t.Errorf("%d nodes, %d uses of the tree and %d listings are left, want the root and one", nodes, uses, len(s.nodes.kept))
	}
	must(t, tree.Close(t.Context()))
}

// readAgain reads d from its beginning.
func readAgain(d *os.File) ([]string, error) {
	if _, err := d.Seek(0, 0); err != nil {
		return nil, err
	}
	all, err := d.Readdirnames(-1)
	slices.Sort(all)
	return all, err
}

// goingBackLife is how long what is known lives where programs go back in a directory.
const goingBackLife = 500 * time.Millisecond

// goBack opens d in dir n times and reads all of them from the beginning, until long after what was known at first has expired, and then the first
// until it shows the name that somebody else makes.
func goBack(dir string, n int) error {
	var open []*os.File
	look := func(want int) error {
		for _, d := range open {
			if all, err := readAgain(d); err != nil || len(all) != want {
				return fmt.Errorf("%d names, %v", len(all), err)
			}
		}
		return nil
	}
	for range n {
		d, err := os.Open(filepath.Join(dir, "d"))
		if err != nil {
			return err
		}
		open = append(open, d)
		if err := look(100); err != nil {
			return err
		}
	}
	for began := time.Now(); time.Since(began) < 4*goingBackLife; { // behind which each is shown what the kernel has collected since
		if err := look(100); err != nil {
			return err
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "ready"), 0o755); err != nil {
		return err
	}
	for until := time.Now().Add(10 * time.Second); time.Now().Before(until); {
		if all, err := readAgain(open[0]); err != nil || len(all) == 101 {
			return err
		}
	}
	return errors.New("what somebody else made was never shown")
}

func init() {
	children["read a few"] = func(dir string) error {
		d, err := os.Open(dir)
		if err != nil {
			return err
		}
		buf := make([]byte, 1<<16)
		_, err = syscall.ReadDirent(int(d.Fd()), buf)
		return err
	}
	children["go back until it is there"] = func(dir string) error { return goBack(dir, 1) }
	children["go back beside another"] = func(dir string) error { return goBack(dir, 2) }
	children["go on while others list"] = func(dir string) error {
		before, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		lister, err := os.Open(dir)
		if err != nil {
			return err
		}
		var readers []*os.File
		seen := make([]map[string]int, 3)
		for i := range seen {
			d, err := os.Open(dir)
			if err != nil {
				return err
			}
			readers, seen[i] = append(readers, d), map[string]int{}
		}
		gone := map[string]bool{}
		for step := 0; ; step++ {
			more := false
			for i, d := range readers {
				some, err := d.Readdirnames(700 + 100*i)
				for _, name := range some {
					seen[i][name]++
				}
				more = more || err == nil
			}
			if !more {
				break
			}
			// Each step changes the directory, lists it from its beginning, and so has the kernel collect another listing.
			victim := before[step].Name() // what comes behind it moves
			gone[victim] = true
			if err := errors.Join(os.Remove(filepath.Join(dir, victim)), os.WriteFile(filepath.Join(dir, fmt.Sprint("new", step)), nil, 0o644)); err != nil {
				return err
			}
			for range 2 {
				if all, err := readAgain(lister); err != nil || len(all) != len(before) {
					return fmt.Errorf("%d names after as many were made as were removed, want %d: %v", len(all), len(before), err)
				}
			}
		}
		for i := range seen {
			for _, e := range before {
				if n := seen[i][e.Name()]; n > 1 || n == 0 && !gone[e.Name()] {
					return fmt.Errorf("reader %d was shown %s %d times", i, e.Name(), n)
				}
			}
		}
		return nil
	}
	children["change and look"] = func(dir string) error {
		sub := func(name string) string { return filepath.Join(dir, name) }
		d, err := os.Open(sub("d"))
		if err != nil {
			return err
		}
		e, err := os.Open(sub("e"))
		if err != nil {
			return err
		}
		there := map[string]bool{} // names, as far as they are there
		look := func(what string) error {
			for in, open := range map[string]*os.File{"d": d, "e": e} {
				var want []string
				for name, is := range there {
					if is && strings.HasPrefix(name, in+"/") {
						want = append(want, name[2:])
					}
				}
				slices.Sort(want)
				for range 2 {
					fresh, err := os.Open(sub(in))
					if err != nil {
						return err
					}
					for which, f := range map[string]*os.File{"the open one": open, "a new one": fresh} {
						if got, err := readAgain(f); err != nil || !slices.Equal(got, want) {
							return fmt.Errorf("after %s: %s, %s, shows %q, %v; want %q", what, in, which, got, err, want)
						}
					}
					fresh.Close()
				}
			}
			return nil
		}
		chance := rand.New(rand.NewPCG(5, 4))
		for step := range 150 {
			a, b := fmt.Sprintf("%c/%d", "de"[chance.IntN(2)], chance.IntN(6)), fmt.Sprintf("%c/%d", "de"[chance.IntN(2)], chance.IntN(6))
			var what string
			var err error
			gone := false
			switch chance.IntN(9) {
			case 0, 1:
				what, err = "create", os.WriteFile(sub(a), []byte("x"), 0o644)
			case 2:
				what, err = "mkdir", os.Mkdir(sub(a), 0o755)
			case 3:
				what, err = "symlink", os.Symlink("none/none", sub(a))
			case 4:
				what, err, a, b = "link", os.Link(sub(a), sub(b)), b, a
			case 5, 6:
				what, err, gone = "unlink or rmdir", os.Remove(sub(a)), true
			case 7:
				what, err = "rename", os.Rename(sub(a), sub(b))
				if err == nil && a != b {
					there[b], gone = true, true
				}
			case 8: // open, removed, and still written
				f, failed := os.Create(sub(a))
				if err = failed; err == nil {
					_, wrote := f.WriteString("hidden")
					err = errors.Join(wrote, os.Remove(sub(a)), f.Close())
				}
				what, gone = "create and unlink while open", true
			}
			if err == nil {
				there[a] = !gone
			}
			if err := look(fmt.Sprintf("step %d, %s %s %s", step, what, a, b)); err != nil {
				return err
			}
		}
		return nil
	}
}
