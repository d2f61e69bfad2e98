package fs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"pierfs/backends/mem"
	"pierfs/cache"
)

// newRideRig is a rig whose kernel writes new files by itself.
func newRideRig(t *testing.T) (*rig, *passages) {
	t.Helper()
	r := newRig(t, rigOptions{cache: cache.Options{Background: true, Passthrough: true, Target: "rig"}})
	p := r.countPassages()
	if err := r.tree.Riding(); err != nil {
		t.Fatalf("the file system of %s does not serve; set TMPDIR to a directory on ext4 or XFS: %v", t.TempDir(), err)
	}
	r.pollNothing()
	return r, p
}

// pollNothing has another process ask for poll(2) in the mount, which the kernel asks of us once. If it asked when this process opened a file, which the
// runtime registers with epoll, the runtime could wait for itself.
func (r *rig) pollNothing() {
	r.t.Helper()
	r.sh(`python3 -c '
import os, select
f = os.open("polled", os.O_RDWR | os.O_CREAT)
p = select.poll(); p.register(f); p.poll(0)
os.close(f); os.unlink("polled")' `)
}

// drained waits until the server has all that is owed.
func (r *rig) drained() {
	r.t.Helper()
	wantSoon(r.t, "what was written is at the server", func() bool { return len(r.tree.Queue()) == 0 })
}

// wantSame compares each file of the mount with what the server has.
func (r *rig) wantSame() {
	r.t.Helper()
	r.drained()
	for _, name := range strings.Fields(r.sh("find . -type f -printf '%P\n'")) {
		here, err := os.ReadFile(filepath.Join(r.dir, name))
		must(r.t, err)
		if there := r.onServer(name); there != string(here) {
			r.t.Errorf("%s: the server has %d bytes (%s), the mount shows %d (%s)", name, len(there), md5Of([]byte(there)), len(here), md5Of(here))
		}
	}
}

// TestKernelDoesNotWriteByItselfWhatIsDirect: dd takes O_DIRECT back for a last block that is no whole one.
func TestKernelDoesNotWriteByItselfWhatIsDirect(t *testing.T) {
	r, _ := newRideRig(t)
	r.sh(`head -c 10500 /bin/ls | dd of=f bs=4k iflag=fullblock oflag=direct status=none; head -c 10500 /bin/ls | cmp - f`)
	r.wantSame()
	if n := r.mount.fs.writes.Load(); n != 3 {
		t.Errorf("%d writes came to us, want 3", n)
	}
}

func TestKernelWritesByItself(t *testing.T) {
	for _, c := range []struct{ name, script string }{
		{"dd", `dd if=/dev/urandom of=f bs=1M count=8 status=none; test $(stat -c %s f) = 8388608`},
		{"shell", `echo one > f; echo two >> f; test "$(cat f)" = "one
two"`},
		{"exec", `exec 5>f; echo one >&5; test $(stat -c %s f) = 4; echo two >&5; test $(wc -l < f) = 2; exec 5>&-`},
		{"cp with times", `cp -p /bin/ls f; cmp /bin/ls f; test $(stat -c %Y f) = $(stat -c %Y /bin/ls); test $(stat -c %a f) = $(stat -c %a /bin/ls)`},
		{"overwrite", `seq 100000 > f; seq 10 > f; test $(wc -l < f) = 10`},
		{"fsync", `dd if=/dev/urandom of=f bs=64k count=20 conv=fsync status=none`},
		{"sparse", `dd if=/dev/urandom of=f bs=64k count=1 seek=20 status=none; dd if=/dev/urandom of=f bs=64k count=1 conv=notrunc status=none`},
		{"tar", `mkdir d; cp /etc/passwd /etc/group /etc/services d; tar cf t.tar d || test $? = 1; mkdir e; tar xf t.tar -C e; cmp d/passwd e/d/passwd; test $(stat -c %Y d/group) = $(stat -c %Y e/d/group)`},
		{"rsync", `mkdir d; cp /bin/ls /etc/passwd d; rsync -a d/ e/; rsync -a --inplace d/ g/; test -z "$(rsync -ainO d/ e/)"`},
		{"git", `git init -q .; git config user.email a@b; git config user.name a; cp /etc/services s; git add s; git commit -qm one; seq 1000 >> s; git commit -qam two; git fsck --strict; git gc -q; git fsck`},
		{"sqlite", `python3 -c '
import sqlite3
db = sqlite3.connect("db")
db.execute("create table t (n integer, s text)")
for i in range(20):
    db.execute("insert into t values (?, ?)", (i, "x" * 5000)); db.commit()
assert db.execute("select count(*) from t").fetchone() == (20,)
assert db.execute("pragma integrity_check").fetchone() == ("ok",)
db.close()'`},
		{"mapping", `python3 -c '
import mmap, os
f = open("f", "w+b"); f.truncate(1 << 20)
m = mmap.mmap(f.fileno(), 1 << 20)
m[0:5] = b"begin"; m.flush(); m[500000:500003] = b"mid"; os.fsync(f.fileno())
m[500003:500006] = b"dle"; f.close(); m[(1 << 20) - 3:] = b"end"; m.close()'
python3 -c '
b = open("f", "rb").read()
assert b[:5] == b"begin" and b[500000:500006] == b"middle" and b[-3:] == b"end" and len(b) == 1 << 20'`},
		{"calls", `python3 -c '
import os
f = os.open("f", os.O_RDWR | os.O_CREAT)
os.write(f, b"a" * 100000)
os.ftruncate(f, 50000); assert os.fstat(f).st_size == 50000
os.posix_fallocate(f, 0, 80000); assert os.fstat(f).st_size == 80000
assert os.lseek(f, 0, os.SEEK_HOLE) == 80000
g = os.open("g", os.O_WRONLY | os.O_CREAT)
assert os.copy_file_range(f, g, 30000, 0, 10) == 30000
os.pwrite(g, b"zz", 10)
os.fsync(f); os.pwrite(f, b"later", 5); os.close(f)
a = os.open("h", os.O_WRONLY | os.O_CREAT | os.O_APPEND); b = os.open("h", os.O_WRONLY | os.O_APPEND)
os.write(a, b"1"); os.write(b, b"2"); os.write(a, b"3"); assert os.fstat(b).st_size == 3
os.close(a); os.write(b, b"4"); os.close(b)
assert open("h").read() == "1234"'`},
		{"times", `python3 -c '
import os
f = os.open("f", os.O_WRONLY | os.O_CREAT); os.write(f, b"x"); os.utime(f, (5e8, 6e8)); os.close(f)
assert os.stat("f").st_mtime == 6e8, os.stat("f").st_mtime
f = os.open("g", os.O_WRONLY | os.O_CREAT); os.utime(f, (5e8, 6e8)); os.write(f, b"x"); os.close(f)
assert os.stat("g").st_mtime > 1e9, os.stat("g").st_mtime'`},
		{"names", `python3 -c '
import os
f = os.open("f", os.O_WRONLY | os.O_CREAT); os.write(f, b"one"); os.rename("f", "g"); os.write(f, b"two"); os.close(f)
assert open("g").read() == "onetwo"
f = os.open("h", os.O_RDWR | os.O_CREAT); os.write(f, b"one"); os.fsync(f); os.unlink("h"); os.write(f, b"two"); assert os.pread(f, 9, 0) == b"onetwo"; os.close(f)
f = os.open("i", os.O_RDWR | os.O_CREAT); os.write(f, b"one"); os.fsync(f); os.rename("i", "j"); os.write(f, b"two"); os.truncate("j", 2); os.close(f)
assert open("j").read() == "on" and not os.path.exists("h") and not os.path.exists("f")'`},
		{"forks", `(echo one; (echo two); sleep 0.1 & echo three; wait) > f; test $(wc -l < f) = 3`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r, p := newRideRig(t)
			r.sh(c.script)
			r.wantSame()
			if made, _ := p.counts(); made == 0 {
				t.Error("no passage was made")
			}
			wantSoon(t, "all passages are forgotten", func() bool { _, open := p.counts(); return open == 0 })
			if n := r.mount.fs.writes.Load(); n > 0 && c.name != "shell" && c.name != "git" && c.name != "sparse" && c.name != "sqlite" {
				t.Errorf("%d writes came to us", n)
			}
		})
	}
}

// Programs beside a writer see what he writes, through their descriptors and mappings, and write into the same file.
func TestProgramsBesideAWriterSeeADisk(t *testing.T) {
	r, _ := newRideRig(t)
	path := filepath.Join(r.dir, "f")
	w, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	must(t, err)
	defer w.Close()
	reader, err := os.Open(path)
	must(t, err)
	defer reader.Close()
	want := func(f *os.File, want string) {
		t.Helper()
		b := make([]byte, 100)
		n, _ := f.ReadAt(b, 0)
		if info, err := f.Stat(); err != nil || string(b[:n]) != want || info.Size() != int64(len(want)) {
			t.Fatalf("read %q of %d bytes (%v), want %q", b[:n], info.Size(), err, want)
		}
	}
	_, err = w.WriteString("one")
	must(t, err)
	want(reader, "one")
	other, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	must(t, err)
	defer other.Close()
	_, err = other.WriteString("two")
	must(t, err)
	want(reader, "onetwo")
	must(t, w.Sync())
	_, err = w.WriteAt([]byte("ONE"), 0)
	must(t, err)
	want(reader, "ONEtwo")
	must(t, os.Truncate(path, 4))
	want(reader, "ONEt")
	cut, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	must(t, err)
	want(reader, "")
	_, err = cut.WriteString("new")
	must(t, err)
	must(t, cut.Close())
	want(w, "new")
	must(t, other.Close())
	must(t, w.Close())
	r.wantSame()
	want(reader, "new") // though the server has it
	again, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	must(t, err)
	_, err = again.WriteString("er")
	must(t, err)
	must(t, again.Close())
	want(reader, "newer")
	r.wantSame()
	if n := r.mount.fs.writes.Load(); n != 0 {
		t.Errorf("%d writes came to us", n)
	}
}

// What is owed in a file that somebody writes on is sent when he is gone, or, if its name is renamed at the server, as it is then.
func TestOwedContentIsOfOneMoment(t *testing.T) {
	r, _ := newRideRig(t)
	path := filepath.Join(r.dir, "f")
	w, err := os.Create(path)
	must(t, err)
	defer w.Close()
	for i := range 5 {
		_, err = fmt.Fprintf(w, "line %d\n", i)
		must(t, err)
		must(t, w.Sync())
	}
	if due := r.tree.Queue(); len(due) != 1 || due[0].Size != 35 {
		t.Fatalf("owed: %+v", due)
	}
	if _, err := r.server.Stat(t.Context(), "f"); err == nil {
		t.Error("it was sent while it was written")
	}
	_, err = w.WriteString("and more")
	must(t, err)
	must(t, w.Close())
	r.wantSame()
	if got := r.onServer("f"); !strings.HasSuffix(got, "line 4\nand more") {
		t.Errorf("the server has %q", got)
	}
	if err := syscall.Stat(path, new(syscall.Stat_t)); err != nil {
		t.Error(err)
	}
}

// A program whose mount is gone may go on writing through its descriptor: what was promised to it is sent as it is at one moment, or waits.
func TestWriterOutlivesItsMount(t *testing.T) {
	r, _ := newRideRig(t)
	w, err := os.Create(filepath.Join(r.dir, "f"))
	must(t, err)
	defer w.Close()
	text := strings.Repeat("before", 100_000)
	_, err = w.WriteString(text)
	must(t, err)
	must(t, w.Sync())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	must(t, r.mount.Unmount(ctx))
	if _, err := w.WriteAt([]byte("BEHIND"), 0); err != nil {
		t.Logf("a program cannot write on: %v", err)
	}
	r.drained()
	if got := r.onServer("f"); len(got) != len(text) || got[6:] != text[6:] {
		t.Errorf("the server has %d bytes of another content", len(got))
	}
	if n := r.mount.fs.writes.Load(); n > 0 {
		t.Errorf("%d writes came to us", n)
	}
}

// BenchmarkStagedWrites writes 512 MiB by 1 MiB to a file of the staging file system, through the mount in the background, as a program does that
// only writes and as one that could also read, and past it, in turns, and tells how long each took for the writes and for what follows them until the
// content is durable.
func BenchmarkStagedWrites(b *testing.B) {
	const blocks = 512
	block := make([]byte, 1<<20)
	for i := range block {
		block[i] = byte(i * 7)
	}
	write := func(path string, access int) (writes, all time.Duration) {
		begin := time.Now()
		f, err := os.OpenFile(path, access|os.O_CREATE|os.O_TRUNC, 0o666)
		if err != nil {
			b.Fatal(err)
		}
		for range blocks {
			if _, err := f.Write(block); err != nil {
				b.Fatal(err)
			}
		}
		writes = time.Since(begin)
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			b.Fatal(err)
		}
		return writes, time.Since(begin)
	}
	mounted := func(passthrough bool) (dir string, end func()) {
		work := b.TempDir()
		server := mem.New(mem.Options{Forbid: func(string, string) syscall.Errno { return syscall.EDQUOT }}) // nothing is sent beside
		tree, err := cache.New(server, cache.Options{Staging: filepath.Join(work, "staging"), Quarantine: filepath.Join(work, "quarantine"),
			Background: true, Passthrough: passthrough, Target: "bench", MetadataTTL: time.Second})
		if err != nil {
			b.Fatal(err)
		}
		dir = filepath.Join(work, "mnt")
		if err := os.Mkdir(dir, 0o755); err != nil {
			b.Fatal(err)
		}
		m, err := Mount(dir, tree, Options{})
		if err != nil {
			b.Fatal(err)
		}
		return dir, func() {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			_ = errors.Join(m.Unmount(ctx), tree.Close(ctx)) // what is owed stays
		}
	}
	native := b.TempDir()
	ordinary, end := mounted(false)
	defer end()
	past, endPast := mounted(true)
	defer endPast()
	ways := []struct {
		name, dir string
		access    int
	}{
		{"native", native, os.O_WRONLY}, {"mount", ordinary, os.O_WRONLY}, {"mount-read-write", ordinary, os.O_RDWR}, {"passthrough", past, os.O_WRONLY},
	}
	writes, all := make([][]float64, len(ways)), make([][]float64, len(ways))
	for b.Loop() {
		for i, w := range ways {
			path := filepath.Join(w.dir, "f")
			_ = os.Remove(path)
			syscall.Sync()
			one, both := write(path, w.access)
			_ = os.Remove(path)
			writes[i], all[i] = append(writes[i], one.Seconds()), append(all[i], both.Seconds())
		}
	}
	for i, w := range ways {
		slices.Sort(writes[i])
		slices.Sort(all[i])
		b.ReportMetric(writes[i][len(writes[i])/2], w.name+"-writes-median-s")
		b.ReportMetric(writes[i][0], w.name+"-writes-best-s")
		b.ReportMetric(all[i][len(all[i])/2], w.name+"-durable-median-s")
		b.ReportMetric(all[i][0], w.name+"-durable-best-s")
	}
}
