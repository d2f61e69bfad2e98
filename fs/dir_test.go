package fs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"pierfs/backends"
	"pierfs/backends/mem"
	"pierfs/cache"
)

// children are programs that a test runs in another process, with a directory of the mount.
var children = map[string]func(dir string) error{
	"remove while listing": func(dir string) error {
		d, err := os.Open(dir)
		if err != nil {
			return err
		}
		removed, grown := filepath.Join(dir, "f1999"), filepath.Join(dir, "f1998")
		for n := 0; ; n++ {
			entries, err := d.ReadDir(1)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return err
			}
			// Asking for each makes the kernel fetch attributes with the next names.
			if _, err := entries[0].Info(); err != nil && entries[0].Name() != "f1999" {
				return err
			}
			if n == 3 {
				if err := errors.Join(os.Remove(removed), os.WriteFile(grown, []byte("longer"), 0o644)); err != nil {
					return err
				}
			}
		}
		if _, err := os.Lstat(removed); !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("the removed file is there again: %v", err)
		}
		if i, err := os.Lstat(grown); err != nil || i.Size() != 6 {
			return fmt.Errorf("the file that was written meanwhile: %v, %v; want 6 bytes", i, err)
		}
		if _, err := d.Seek(0, 0); err != nil {
			return err
		}
		again, err := d.ReadDir(-1)
		if len(again) != 1999 {
			return fmt.Errorf("after rewinddir the listing has %d names (%v), want 1999", len(again), err)
		}
		return nil
	},
	"numbers agree": func(dir string) error {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		buf, d := make([]byte, 1<<16), 0
		if d, err = syscall.Open(dir, syscall.O_RDONLY, 0); err != nil {
			return err
		}
		n, err := syscall.ReadDirent(d, buf)
		if err != nil {
			return err
		}
		numbers := map[uint64]bool{}
		for rest := buf[:n]; len(rest) > 0; {
			size := int(rest[16]) | int(rest[17])<<8
			var ino uint64
			for k := range 8 {
				ino |= uint64(rest[k]) << (8 * k)
			}
			numbers[ino] = true
			rest = rest[size:]
		}
		for _, e := range append(entries, nil) {
			path := filepath.Join(dir, "..")
			if e != nil {
				path = filepath.Join(dir, e.Name())
			}
			var st syscall.Stat_t
			if err := syscall.Lstat(path, &st); err != nil {
				return err
			}
			if !numbers[st.Ino] {
				return fmt.Errorf("%s has the number %d, which the listing does not", path, st.Ino)
			}
		}
		return nil
	},
}

func TestListingNeverBringsBackWhatWasChangedMeanwhile(t *testing.T) {
	r := newRig(t, rigOptions{cache: cache.Options{MetadataTTL: time.Hour, NegativeTTL: time.Hour}})
	for i := range 2000 {
		must(t, r.server.WriteFile(fmt.Sprintf("f%04d", i), []byte("x")))
	}
	r.child("remove while listing", r.dir)
}

func TestNumbersOfListingAndStatAgree(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.sh(`mkdir -p d/sub; touch d/a d/b; mv d/a d/c; touch d/a; ln d/b d/hard; ln -s x d/link`)
	r.child("numbers agree", filepath.Join(r.dir, "d"))
	r.child("numbers agree", filepath.Join(r.dir, "d/sub"))
	r.want(`stat -c %i d/b d/hard | uniq | wc -l; stat -c %h d/b; stat -c %i d/a d/c | uniq | wc -l`, "1\n2\n2")
}

func TestRequestFollowsARenameAboveIt(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.sh(`mkdir -p a/b; echo content > a/b/f`)
	b := newBlock("a/b/new")
	r.server.SetFault(func(ctx context.Context, op, name string) error {
		if op != "mkdir" {
			return nil
		}
		return b.hook(ctx, op, name)
	})
	p := r.start()
	p.send(`cd "$MNT/a/b"; mkdir new; echo made $?`)
	<-b.entered
	r.sh(`mv a c`)
	close(b.letGo)
	if got := p.read(); got != "made 0" {
		t.Errorf("mkdir in a directory that is renamed meanwhile: %q", got)
	}
	r.want(`find . | sort | tr '\n' ' '`, ". ./c ./c/b ./c/b/f ./c/b/new")
}

func TestOpenFileKeepsItsContentWhenTheServersIsReplaced(t *testing.T) {
	for _, ttl := range []time.Duration{time.Millisecond, time.Hour} {
		t.Run(ttl.String(), func(t *testing.T) { replaceWhileOpen(t, ttl) })
	}
}

func replaceWhileOpen(t *testing.T, ttl time.Duration) {
	r := newRig(t, rigOptions{cache: cache.Options{MetadataTTL: ttl, NegativeTTL: ttl}})
	must(t, r.server.WriteFile("f", []byte(strings.Repeat("old\n", 100_000))))
	p := r.start()
	p.here(`exec 3< "$MNT/f"; read line <&3; ino=$(stat -c %i "$MNT/f")`)
	must(t, r.server.WriteFile("beside", []byte("new\n")))
	must(t, r.server.Move("beside", "f"))
	if got := p.do(`cat "$MNT/f"; test $ino = $(stat -c %i "$MNT/f")`); got != "new[0]" {
		t.Errorf("an open after the replacement reads %q, want the new content under the same number", got)
	}
	if got := p.do(`cat <&3 | sort -u; stat -L -c %s /proc/self/fd/3`); got != "old 400000[0]" {
		t.Errorf("the old reader goes on with %q", got)
	}
}

func TestChangedMakesTheKernelAskAgain(t *testing.T) {
	r := newRig(t, rigOptions{cache: cache.Options{MetadataTTL: time.Hour, NegativeTTL: time.Hour}})
	r.sh(`mkdir d; echo 1 > d/f; cat d/f; ls d; [ ! -e d/g ]`)
	ctx := t.Context()
	must(t, r.tree.Rename(ctx, "d/f", "d/g", backends.Replace))
	r.mount.Changed("d/f")
	r.mount.Changed("d/g")
	r.want(`for i in $(seq 500); do [ ! -e d/f ] && [ -e d/g ] && break; done; ls d; cat d/g`, "g\n1")
}

// TestKernelBelievesForWhatIsLeft: what the kernel is told of a name it may use for what is left of our own answer's life.
func TestKernelBelievesForWhatIsLeft(t *testing.T) {
	for name, life := range map[string]time.Duration{"there": 10 * time.Second, "missing": 4 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			server := mem.New(mem.Options{})
			must(t, server.WriteFile("there", nil))
			tree, err := cache.New(server, cache.Options{Staging: filepath.Join(t.TempDir(), "staging"), Quarantine: filepath.Join(t.TempDir(), "quarantine"),
				MetadataTTL: 10 * time.Second, NegativeTTL: 4 * time.Second})
			must(t, err)
			s := newFileSystem(tree, Options{})
			for _, left := range []time.Duration{life, life - 3*time.Second} {
				var out fuse.EntryOut
				if code := s.Lookup(nil, &fuse.InHeader{NodeId: rootID}, name, &out); code != fuse.OK || (out.NodeId != 0) != (name == "there") {
					t.Fatalf("Lookup of %q = node %d, %v", name, out.NodeId, code)
				}
				if out.EntryTimeout() != left || out.NodeId != 0 && out.AttrTimeout() != left {
					t.Errorf("%q: the kernel may believe the name for %v and its attributes for %v, want %v", name, out.EntryTimeout(), out.AttrTimeout(), left)
				}
				time.Sleep(3 * time.Second)
			}
			must(t, tree.Close(t.Context()))
		})
	}
}

// TestNamesAloneCostLittle: who wants names alone has the kernel take no node for each of them. Attributes come with the first of them, for
// nobody knows yet what is wanted, and with all for who goes on to ask for them.
func TestNamesAloneCostLittle(t *testing.T) {
	const files = 5000
	r := newRig(t, rigOptions{cache: cache.Options{MetadataTTL: time.Hour, NegativeTTL: time.Hour}})
	for i := range files {
		must(t, r.server.WriteFile(fmt.Sprintf("f%04d", i), nil))
	}
	r.want(`ls -f | grep -c f`, fmt.Sprint(files))
	if n := r.mount.Stats().Nodes; n < 10 || n > files/2 {
		t.Errorf("%d nodes for %d names that were listed", n, files)
	}
	before := r.server.Calls()["stat"]
	r.want(`ls -l | grep -c ' f'`, fmt.Sprint(files))
	if n := r.mount.Stats().Nodes; n < files {
		t.Errorf("%d nodes for the attributes of %d names", n, files)
	}
	if n := r.server.Calls()["stat"] - before; n > 0 {
		t.Errorf("the server was asked for %d names that it had listed", n)
	}
}

func TestOfflineServerIsAnErrnoAndTheMountStays(t *testing.T) {
	r := newRig(t, rigOptions{cache: cache.Options{MetadataTTL: time.Millisecond}})
	r.sh(`echo 1 > f`)
	r.server.SetFault(func(context.Context, string, string) error {
		return &backends.Error{Op: "x", Code: syscall.EHOSTDOWN, Class: backends.Transient}
	})
	r.want(`cat f 2>&1 || true; stat -c %F . `, "cat: f: Host is down\ndirectory")
	r.server.SetFault(nil)
	r.want(`cat f`, "1")
}

func TestOwnersShowAsConfiguredAndGoBack(t *testing.T) {
	login := backends.Caps{UID: 1000, GID: 1000, HasLogin: true, SetOwner: true}
	sent := func(uid, gid uint32) cache.Entry {
		return cache.Entry{Info: backends.Info{UID: uid, GID: gid, Known: backends.HasOwner}}
	}
	here := func(uid, gid uint32) cache.Entry {
		return cache.Entry{Info: backends.Info{UID: uid, GID: gid, Known: backends.HasOwner | cache.OwnerHere}}
	}
	id := func(n uint32) *uint32 { return &n }
	for _, c := range []struct {
		what          string
		mode          OwnerMode
		caps          backends.Caps
		e             cache.Entry
		showU, showG  uint32
		chown         *uint32
		wantU         *uint32
		wantForbidden bool
	}{
		{"map shows the login as ours", OwnerMap, login, sent(1000, 1000), 7, 8, nil, nil, false},
		{"map shows others as sent", OwnerMap, login, sent(33, 1000), 33, 8, nil, nil, false},
		{"map gives ours back to the login", OwnerMap, login, sent(33, 33), 33, 33, id(7), id(1000), false},
		{"map passes others", OwnerMap, login, sent(1000, 1000), 7, 8, id(5), id(5), false},
		{"a chown to what is shown is nothing", OwnerMap, login, sent(1000, 1000), 7, 8, id(7), nil, false},
		{"map before the login is known shows ours", OwnerMap, backends.Caps{SetOwner: true}, sent(33, 33), 7, 8, id(5), nil, true},
		{"a server that cannot change owners: it is remembered", OwnerMap, backends.Caps{}, cache.Entry{}, 7, 8, id(5), id(5), false},
		{"and shown as it was set", OwnerMap, backends.Caps{}, here(5, 6), 5, 6, id(7), id(7), false},
		{"but not where all is one's", OwnerFixed, backends.Caps{}, here(5, 6), 7, 8, id(5), nil, true},
		{"raw", OwnerRaw, login, sent(1000, 33), 1000, 33, id(5), id(5), false},
		{"fixed", OwnerFixed, login, sent(1000, 33), 7, 8, id(5), nil, true},
		{"fixed to itself", OwnerFixed, login, sent(1000, 33), 7, 8, id(7), nil, false},
		{"a server that sends no owner", OwnerRaw, login, cache.Entry{}, 7, 8, nil, nil, false},
	} {
		o := Owner{Mode: c.mode, UID: 7, GID: 8}
		if u, g := o.show(c.e, c.caps); u != c.showU || g != c.showG {
			t.Errorf("%s: shown as %d:%d, want %d:%d", c.what, u, g, c.showU, c.showG)
		}
		u, _, err := o.take(c.chown, nil, c.e, c.caps)
		if (err != nil) != c.wantForbidden || (u == nil) != (c.wantU == nil) || u != nil && *u != *c.wantU {
			t.Errorf("%s: chown asks the server for %v, error %v", c.what, u, err)
		}
	}
}

func TestNoErrorTurnsAnOperationOffForEver(t *testing.T) {
	for err, want := range map[error]syscall.Errno{
		syscall.ENOSYS:                        syscall.EOPNOTSUPP,
		syscall.Errno(512):                    syscall.EIO,
		errors.New("anything"):                syscall.EIO,
		context.Canceled:                      syscall.EINTR,
		context.DeadlineExceeded:              syscall.ETIMEDOUT,
		&backends.Error{Code: syscall.ENOSPC}: syscall.ENOSPC,
	} {
		if got := status(err); got != fuse.Status(want) {
			t.Errorf("%v becomes %v, want %v", err, got, want)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
