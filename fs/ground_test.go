package fs

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"pierfs/backends"
	"pierfs/backends/mem"
	"pierfs/cache"
)

// furnish makes files in d whose sizes and times are the same on every server.
func furnish(t *testing.T, tree *cache.Tree, files map[string]string) {
	t.Helper()
	if _, err := tree.Mkdir(t.Context(), "d", 0o755); err != nil {
		t.Fatal(err)
	}
	old := time.Unix(1_700_000_000, 0)
	for name, content := range files {
		f, _, err := tree.Open(t.Context(), "d/"+name, cache.OpenMode{Write: true, Create: true, Perm: 0o644})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(t.Context(), []byte(content), 0); err != nil {
			t.Fatal(err)
		}
		if err := f.Publish(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		if _, err := tree.SetAttr(t.Context(), "d/"+name, backends.Attr{ModTime: &old}); err != nil {
			t.Fatal(err)
		}
	}
}

// Rows 18, 47: a mount is led to another server while a program stands in it and has files open. The program stays where it is, its
// files go on where they were opened, and what is opened afterwards is the other server's, also where name, size and time agree.
func TestLeadKeepsWhatIsOpen(t *testing.T) {
	r := newRig(t, rigOptions{cache: cache.Options{MetadataTTL: time.Minute, NegativeTTL: time.Second}})
	furnish(t, r.tree, map[string]string{"f": "old", "gone": "old", "log": "old\n", "seen": "old"})
	other := rig{t: t, server: mem.New(mem.Options{})}
	var err error
	if other.tree, err = cache.New(other.server, cache.Options{Staging: filepath.Join(t.TempDir(), "staging"), Quarantine: filepath.Join(t.TempDir(), "quarantine"),
		MetadataTTL: time.Minute, NegativeTTL: time.Second}); err != nil {
		t.Fatal(err)
	}
	furnish(t, other.tree, map[string]string{"f": "new", "log": "new\n", "seen": "new", "come": "new"})

	root := inode(t, r.dir)
	p := r.start()
	p.here(`cd "$MNT/d"; exec 3<f; exec 4>>log; exec 5<gone`)
	if got := p.do(`cat seen f; ls`); got != "oldoldf gone log seen[0]" {
		t.Fatalf("before: %q", got)
	}
	gone := r.mount.Lead(other.tree, Options{AllowOther: true, ReadOnly: false})
	if now := inode(t, r.dir); now != root {
		t.Errorf("the root is %v; it was %v", now, root)
	}
	for _, step := range []struct{ do, want string }{
		{`ls`, "come f log seen[0]"},
		{`pwd -P; ls "$PWD"`, r.dir + "/d come f log seen[0]"},
		{`cat seen come`, "newnew[0]"},
		{`cat f`, "new[0]"},
		{`cat <&3`, "old[0]"},
		{`cat <&5`, "old[0]"},
		{`cat gone`, "cat: gone: No such file or directory[1]"},
		{`echo more >&4`, "[0]"},
		{`echo more >>seen; cat seen`, "newmore[0]"},
	} {
		if got := p.do(step.do); got != step.want {
			t.Errorf("%s: %q, want %q", step.do, got, step.want)
		}
	}
	select {
	case <-gone:
		t.Error("the tree before is told to be unused while files are open on it")
	default:
	}
	p.here(`exec 3<&-; exec 5<&-; exec 4>&-`)
	select {
	case <-gone:
	case <-time.After(20 * time.Second):
		t.Fatal("nothing is open on the tree before, and it is still in use")
	}
	if got := r.onServer("d/log"); got != "old\nmore\n" {
		t.Errorf("the first server has %q: what was open was not finished there", got)
	}
	if got := other.onServer("d/log"); got != "new\n" {
		t.Errorf("the second server has %q: what was opened on the first came there", got)
	}
	if got := other.onServer("d/seen"); got != "newmore\n" {
		t.Errorf("the second server has %q", got)
	}
	if err := r.tree.Close(t.Context()); err != nil {
		t.Error(err)
	}
	r.tree = other.tree
}

func inode(t *testing.T, dir string) [2]uint64 {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(dir, &st); err != nil {
		t.Fatal(err)
	}
	return [2]uint64{st.Dev, st.Ino}
}

// What is led to a place where nothing may be changed refuses changes by itself; the kernel was told otherwise when it mounted.
func TestLeadToReadOnly(t *testing.T) {
	r := newRig(t, rigOptions{})
	furnish(t, r.tree, map[string]string{"f": "old"})
	tree, err := cache.New(mem.New(mem.Options{}), cache.Options{Staging: filepath.Join(t.TempDir(), "staging"), Quarantine: filepath.Join(t.TempDir(), "quarantine")})
	if err != nil {
		t.Fatal(err)
	}
	furnish(t, tree, map[string]string{"f": "new"})
	<-r.mount.Lead(tree, Options{AllowOther: true, ReadOnly: true, FileMode: 0o600})
	if err := os.WriteFile(filepath.Join(r.dir, "d/f"), []byte("x"), 0o600); err == nil {
		t.Error("a file was written where nothing may be")
	}
	if info, err := os.Stat(filepath.Join(r.dir, "d/f")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v; want the mode of the place that is shown now", info, err)
	}
	if err := r.tree.Close(t.Context()); err != nil {
		t.Error(err)
	}
	r.tree = tree
}
