package jail_test

import (
	"os"
	"strings"
	"testing"

	"pierfs/backends"
	"pierfs/backends/jail"
)

// FuzzKernelNeverLeaves plays the kernel: it resolves names by what the jail says of a server full of links, and must never
// be led above the working directory or to an absolute path.
func FuzzKernelNeverLeaves(f *testing.F) {
	f.Add("../..", "dir/sub", "short/../../etc/passwd", "a/../b")
	f.Add("/srv/data", "/srv/data/dir/../..", "..", "l2/../l1/..")
	f.Add("l1", "dir/sub/l3/../../..", "../../l2/..", "./../sub/..//l4/..")
	f.Add("dir/sub", "l1/../../l1/..", "../../l1/..", "../../../srv")
	f.Fuzz(func(t *testing.T, first, second, third, fourth string) {
		server, b := walled(false)
		server.MakeDir("dir/sub")
		names := []string{"l1", "l2", "dir/sub/l3", "dir/sub/l4"}
		for i, target := range []string{first, second, third, fourth} {
			if strings.ContainsAny(target, "\x00") || len(target) > 200 {
				return
			}
			server.MakeLink(target, names[i])
		}
		for _, name := range names {
			kernel(t, b, name)
			// The server follows links too, and must not be made to leave either.
			if r, err := b.Open(t.Context(), name+"/passwd"); err == nil {
				r.Close()
				t.Errorf("open %s/passwd reached a file that is not inside", name)
			}
		}
	})
}

// kernel walks along name as Linux does.
func kernel(t *testing.T, b *jail.Backend, name string) {
	t.Helper()
	var at []string
	todo := strings.Split(name, "/")
	for links := 0; len(todo) > 0; {
		element := todo[0]
		todo = todo[1:]
		switch element {
		case "", ".":
			continue
		case "..":
			if len(at) == 0 {
				t.Fatalf("%s leads above the working directory", name)
			}
			at = at[:len(at)-1]
			continue
		}
		next := strings.Join(append(at[:len(at):len(at)], element), "/")
		info, err := b.Stat(t.Context(), next)
		if err != nil {
			if code := backends.Errno(err); code == 0 {
				t.Fatalf("stat %q: %v", next, err)
			}
			return
		}
		if info.Mode&os.ModeSymlink == 0 {
			at = append(at, element)
			continue
		}
		if links++; links > 40 {
			return
		}
		target, err := b.Readlink(t.Context(), next)
		if err != nil {
			return
		}
		if strings.HasPrefix(target, "/") {
			t.Fatalf("readlink %s: got the absolute %q", next, target)
		}
		todo = append(strings.Split(target, "/"), todo...)
	}
}
