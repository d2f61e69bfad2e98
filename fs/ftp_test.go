package fs

import (
	"maps"
	"path/filepath"
	"testing"

	"pierfs/backends"
	"pierfs/backends/mem"
	"pierfs/cache"
	"pierfs/cache/spool"
)

// newFTP is a rig whose server can only stream, as one of FTP without MLSD, and has a local copy of what is read.
func newFTP(t *testing.T, change func(*backends.Caps)) *rig {
	t.Helper()
	store, err := spool.OpenStore(filepath.Join(t.TempDir(), "cache"), spool.StoreOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	return newRig(t, rigOptions{mem: mem.FTP(change), cache: cache.Options{Spool: store.Shelf("test")}})
}

// The reasons why more of go-fuse's tests do not pass where the protocol knows no links.
var posixStreamOdd = map[string]string{
	"Link":             "FTP has no hard links: EPERM",
	"LinkUnlinkRename": "as Link",
	"SymlinkReadlink":  "FTP cannot make symbolic links: EPERM",
	"SetattrSymlink":   "as SymlinkReadlink",
}

func TestPosixOfAServerThatCanOnlyStream(t *testing.T) {
	odd := maps.Clone(posixOdd)
	maps.Copy(odd, posixStreamOdd)
	posix(t, newFTP(t, nil), odd)
}

func TestPosixOfAServerThatKeepsNoAttributes(t *testing.T) {
	odd := maps.Clone(posixOdd)
	maps.Copy(odd, posixStreamOdd)
	posix(t, newFTP(t, func(c *backends.Caps) { c.SetPerm, c.SetTimes = false, false }), odd)
}

// TestFilesOfAServerThatCanOnlyStream: what programs do to a mount whose server knows transfers only, and that the server has it.
func TestFilesOfAServerThatCanOnlyStream(t *testing.T) {
	r := newFTP(t, nil)
	r.want(`seq 1 200000 > f; sed -i 's/^100000$/x/' f; tail -n 1 f; sed -n 100000p f; echo end >> f; tail -n 1 f; wc -l < f`, "200000\nx\nend\n200001")
	r.want(`cp -p f g; cmp f g; test ! f -nt g; test ! g -nt f; truncate -s 10 g; cat g | wc -c; chmod 640 g; stat -c %a g`, "10\n640")
	r.want(`exec 3< f; rm f; sed -n 100000p <&3; ls`, "x\ng")
	r.want(`ln g h 2>&1 | grep -o 'not permitted'; ln -s g h 2>&1 | grep -o 'not permitted'; ls`, "not permitted\nnot permitted\ng")
	r.want(`set -C; echo a > lock; (echo b > lock) 2>/dev/null || cat lock`, "a")
	if got := r.onServer("lock"); got != "a\n" {
		t.Errorf("the server has %q", got)
	}
}

// TestOwnersAndModesThatTheServerCannotKeep: chown, chmod and touch do not fail for it, and show what they did.
func TestOwnersAndModesThatTheServerCannotKeep(t *testing.T) {
	r := newFTP(t, func(c *backends.Caps) { c.SetPerm, c.SetTimes = false, false })
	r.want(`install -m 750 /dev/null f; chown 12:34 f; touch -d @1000000000 f; stat -c '%a %u %g %Y' f; ls >/dev/null; stat -c '%a %u %g %Y' f`,
		"750 12 34 1000000000\n750 12 34 1000000000")
	r.want(`chown :56 f; echo more > f; stat -c '%a %u %g' f`, "750 12 56")
}

// TestEntriesOfUnknownType: a listing that does not tell what is a directory and what is a link.
func TestEntriesOfUnknownType(t *testing.T) {
	o := mem.FTP(nil)
	o.ListKnown = backends.HasSize
	r := newRig(t, rigOptions{mem: o})
	if err := r.server.MakeDir("d/e"); err != nil {
		t.Fatal(err)
	}
	if err := r.server.MakeLink("d", "l"); err != nil {
		t.Fatal(err)
	}
	r.want(`find . | sort | xargs; ls -F | xargs; readlink l`, ". ./d ./d/e ./l\nd/ l@\nd")
}
