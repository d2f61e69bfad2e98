package background

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"pierfs/integration/daemon"
	"pierfs/integration/servers"
)

// TestWorkGoesOnWithoutTheServer: the server is away, a tree is copied, parts of it are moved, removed and changed, and the daemon is
// killed. When the server is back the trees are equal.
func TestWorkGoesOnWithoutTheServer(t *testing.T) {
	t.Parallel()
	server := servers.NewSSHD(t, servers.SSHOptions{})
	s := newStage(t, daemon.To(t, server, background))
	source, model := t.TempDir(), t.TempDir()
	const directories, each = 20, 50
	for i := range directories * each {
		name := filepath.Join(source, fmt.Sprintf("d%02d", i%directories), fmt.Sprintf("f%03d", i))
		s.must(errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, fmt.Append(nil, "content of ", name), 0o644)))
	}
	server.Kill(t)
	for _, below := range []string{s.mount, model} {
		for _, command := range []string{
			"cp -r " + source + "/. .",
			"mv d00 moved",
			"mv d01/f001 renamed",
			"mv d02/f002 d03/f003",
			"rm -r d04",
			"rm d05/f005 d05/f025",
			"mkdir empty gone && rmdir gone",
			"echo more >>d06/f006",
			"chmod 600 d07/f007",
			"mv moved d08/further && echo late >d08/further/late",
		} {
			cmd := exec.Command("sh", "-ec", command)
			cmd.Dir = below
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%s: %v\n%s", command, err, out)
			}
		}
	}
	want := listing(t, model)
	if got := listing(t, s.mount); got != want {
		t.Errorf("while the server is away the mount is %s", difference(got, want))
	}
	s.daemon.Kill()
	s.start()
	server.Restart(t)
	s.paid()
	if got := listing(t, server.Dir); got != want {
		t.Errorf("the server has %s", difference(got, want))
	}
	if c := s.status(); c.Held+c.Quarantined != 0 {
		t.Errorf("status tells %+v", c)
	}
}

// TestNamesThatWereNeverListedAreUnknown: while the server is away a directory that nobody has listed may hold anything.
func TestNamesThatWereNeverListedAreUnknown(t *testing.T) {
	t.Parallel()
	server := servers.NewSSHD(t, servers.SSHOptions{})
	if err := errors.Join(os.Mkdir(filepath.Join(server.Dir, "unseen"), 0o755), os.WriteFile(filepath.Join(server.Dir, "unseen", "f"), []byte("x"), 0o644)); err != nil {
		t.Fatal(err)
	}
	s := newStage(t, daemon.To(t, server, background))
	if _, err := os.Stat(filepath.Join(s.mount, "unseen")); err != nil {
		t.Fatal(err)
	}
	server.Kill(t)
	s.put("steady", "so that the outage is known")
	if _, err := os.ReadFile(filepath.Join(s.mount, "unseen", "f")); !errors.Is(err, syscall.EIO) {
		t.Errorf("a name of a directory that was never listed: %v, want EIO", err)
	}
}

// listing is a tree as text: names, kinds, modes of files, and contents.
func listing(t *testing.T, root string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		name, _ := filepath.Rel(root, path) // of what lies below it
		if d.IsDir() {
			fmt.Fprintf(&b, "%s/\n", name)
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		content, err := os.ReadFile(path)
		fmt.Fprintf(&b, "%s %v %q\n", name, info.Mode(), content)
		return err
	})
	if err != nil {
		t.Errorf("list %s: %v", root, err)
	}
	return b.String()
}

// difference is the first lines in which got is not want.
func difference(got, want string) string {
	const most = 5
	var told []string
	has := map[string]bool{}
	for line := range strings.Lines(got) {
		has[line] = true
	}
	for line := range strings.Lines(want) {
		if !has[line] && len(told) < most {
			told = append(told, "without "+line)
		}
		delete(has, line)
	}
	for line := range has {
		if len(told) < 2*most {
			told = append(told, "with "+line)
		}
	}
	return strings.Join(told, "")
}
