package fs

import (
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"

	"pierfs/cache"
)

// TestWhoOnlyWritesFillsNoPages: what he writes comes past the kernel's pages, unless each write is a promise, or the kernel leaves old pages behind it.
func TestWhoOnlyWritesFillsNoPages(t *testing.T) {
	for _, c := range []struct {
		what    string
		flags   uint32
		forgets bool
		direct  bool
	}{
		{"to write", syscall.O_WRONLY, true, true},
		{"to append", syscall.O_WRONLY | syscall.O_APPEND, true, true},
		{"to read and write", syscall.O_RDWR, true, false},
		{"to read", syscall.O_RDONLY, true, false},
		{"to write past the pages by itself", syscall.O_WRONLY | syscall.O_DIRECT, true, false},
		{"to write in sync", syscall.O_WRONLY | syscall.O_SYNC, true, false},
		{"to write data in sync", syscall.O_WRONLY | syscall.O_DSYNC, true, false},
		{"to write on an older kernel", syscall.O_WRONLY, false, false},
	} {
		s := &fileSystem{direct: c.forgets, handles: handles{byID: map[uint64]*handle{}}}
		mode := openMode(c.flags)
		var out fuse.OpenOut
		s.opened(&handle{read: mode.Read, write: mode.Write, ridable: ridable(c.flags)}, true, &out)
		if got := out.OpenFlags&fuse.FOPEN_DIRECT_IO != 0; got != c.direct {
			t.Errorf("opened %s: past the pages is %v, want %v", c.what, got, c.direct)
		}
		if out.OpenFlags&fuse.FOPEN_KEEP_CACHE == 0 {
			t.Errorf("opened %s: the pages that others read are dropped", c.what)
		}
	}
}

// TestReadersBesideWhoOnlyWrites: they see at once what he has written, also in what they have mapped, and who reads while he writes never keeps what was
// there before, nor zeros in place of what is appended.
func TestReadersBesideWhoOnlyWrites(t *testing.T) {
	for _, o := range []cache.Options{{}, {Background: true, Target: "rig"}} {
		r := newRig(t, rigOptions{cache: o})
		r.sh(`python3 -c '
import mmap, os
with open("f", "wb") as f: f.write(b"old." * 2048)
r = os.open("f", os.O_RDONLY)
m = mmap.mmap(r, 8192, mmap.MAP_SHARED, mmap.PROT_READ)
w = os.open("f", os.O_WRONLY)
for i in range(300):
    off, new = i * 37 % 8000, bytes([65 + i % 26]) * (i % 90 + 1)
    assert os.pread(r, 100, off) and m[off:off + 100]
    assert os.pwrite(w, new, off) == len(new)
    assert os.pread(r, len(new), off) == new, i
    assert m[off:off + len(new)] == new, i
os.close(w)

end = os.fstat(r).st_size
a = os.open("f", os.O_WRONLY | os.O_APPEND)
if os.fork() == 0:
    for i in range(3000): os.write(a, b"appended")
    os._exit(0)
os.close(a)
seen = bytearray()
while len(seen) < 24000:
    p = os.pread(r, 1 << 16, end + len(seen))
    assert b"\0" not in p, (len(seen), p.index(b"\0"))
    seen += p
assert seen == b"appended" * 3000
assert os.wait()[1] == 0
m.close()
os.close(r)
'`)
		if o.Background {
			r.drained()
		}
		if got := r.onServer("f"); len(got) != 8192+24000 || got != r.sh("cat f") {
			t.Errorf("the server has %d bytes, and the mount shows others", len(got))
		}
	}
}
