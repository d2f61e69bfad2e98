package fs

import (
	"bytes"
	"context"
	"crypto/md5"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"pierfs/cache"
	"pierfs/cache/spool"
)

// passages counts the passages that are made and forgotten.
type passages struct {
	backer
	refuse syscall.Errno

	mu         sync.Mutex
	made, open int
}

func (p *passages) RegisterBackingFd(m *fuse.BackingMap) (int32, syscall.Errno) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.made++
	if p.refuse != 0 {
		return 0, p.refuse
	}
	id, errno := p.backer.RegisterBackingFd(m)
	if errno == 0 {
		p.open++
	}
	return id, errno
}

func (p *passages) UnregisterBackingFd(id int32) syscall.Errno {
	errno := p.backer.UnregisterBackingFd(id)
	p.mu.Lock()
	defer p.mu.Unlock()
	if errno == 0 {
		p.open--
	}
	return errno
}

func (p *passages) counts() (made, open int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.made, p.open
}

// newPassageRig is a rig that keeps what was read, and the passages of its mount.
func newPassageRig(t *testing.T, o rigOptions) (*rig, *passages) {
	t.Helper()
	if o.cache.Spool == nil {
		store, err := spool.OpenStore(filepath.Join(t.TempDir(), "cache"), spool.StoreOptions{Floor: spool.Floor{Bytes: 1}})
		must(t, err)
		t.Cleanup(store.Close)
		o.cache.Spool = store.Shelf("rig")
	}
	r := newRig(t, o)
	return r, r.countPassages()
}

// countPassages has the passages of the mount counted from now on.
func (r *rig) countPassages() *passages {
	s := r.mount.fs
	s.nodes.mu.Lock() // which every request that opens a file takes before
	defer s.nodes.mu.Unlock()
	p := &passages{backer: s.backer}
	s.backer = p
	return p
}

// old is a time that is long enough ago for a content to be kept beyond its last close.
var old = time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)

// keep puts a file on the server and has it read once, so that all of it is here.
func (r *rig) keep(name string, content []byte) {
	r.t.Helper()
	r.put(name, content)
	r.fetch(name, content)
}

func (r *rig) put(name string, content []byte) {
	r.t.Helper()
	must(r.t, r.server.WriteFile(name, content))
	must(r.t, r.server.Chtimes(name, old, old))
}

func (r *rig) fetch(name string, content []byte) {
	r.t.Helper()
	if got := r.sh("stat -c %s " + name + " && cat " + name + " | wc -c"); got != fmt.Sprintf("%d\n%d", len(content), len(content)) {
		r.t.Fatalf("%s: %s", name, got)
	}
	wantSoon(r.t, "what read it has closed it", func() bool { return r.mount.Stats().OpenFiles == 0 })
}

// wantSoon waits for something that happens without a program waiting for it.
func wantSoon(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

// runChild runs what TestMain does for envBeside, and returns what it printed.
func runChild(t *testing.T, name, dir string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), envBeside+"="+name, envChildDir+"="+dir)
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%s in %s: %v", name, dir, err)
	}
	return string(out)
}

func md5Of(p []byte) string { return fmt.Sprintf("%x", md5.Sum(p)) }

func linesOf(n int) []byte {
	var b bytes.Buffer
	for i := 0; b.Len() < n; i++ {
		fmt.Fprintf(&b, "line %d\n", i)
	}
	return b.Bytes()[:n]
}

// TestWholeFileIsReadThroughAPassage: what is here in whole is read by the kernel itself, and a passage is forgotten with its
// last reader.
func TestWholeFileIsReadThroughAPassage(t *testing.T) {
	r, p := newPassageRig(t, rigOptions{})
	want := linesOf(2 << 20)
	r.keep("f", want)
	if made, _ := p.counts(); made != 0 {
		t.Errorf("%d passages to a file of which nothing was here", made)
	}
	r.server.Calls()
	r.want(`exec 3<f; exec 4<f; cmp /dev/fd/3 /dev/fd/4 && md5sum <f | cut -c1-8`, fmt.Sprintf("%.8s", md5Of(want)))
	if made, _ := p.counts(); made != 1 {
		t.Errorf("%d passages for two readers at a time and a third, want 1", made)
	}
	for op, n := range r.server.Calls() {
		if op == "read" || op == "readlast" {
			t.Errorf("the server was asked for content (%s, %d times)", op, n)
		}
	}
	wantSoon(t, "the kernel forgets the passage", func() bool { _, open := p.counts(); return open == 0 })
}

// dropping counts how often the kernel was told to drop a file's pages.
type dropping struct {
	notices
	pages atomic.Int64
}

func (d *dropping) InodeNotify(node uint64, off, length int64) fuse.Status {
	if off == 0 {
		d.pages.Add(1)
	}
	return d.notices.InodeNotify(node, off, length)
}

// TestNobodyWaitsForPagesToBeDropped: what was read while it came lies in memory twice, once as the kernel's pages of our file. They go
// with the last who has it open, and not when somebody opens it through a passage.
func TestNobodyWaitsForPagesToBeDropped(t *testing.T) {
	r, _ := newPassageRig(t, rigOptions{})
	kernel := &dropping{notices: r.mount.fs.kernel}
	r.mount.fs.kernel = kernel
	want := linesOf(2 << 20)
	r.keep("f", want)
	wantSoon(t, "the kernel is told to drop the pages", func() bool { return kernel.pages.Load() == 1 })
	for range 3 {
		r.want(`md5sum <f | cut -c1-8`, fmt.Sprintf("%.8s", md5Of(want)))
	}
	wantSoon(t, "who read it has closed it", func() bool { return r.mount.Stats().OpenFiles == 0 })
	if n := kernel.pages.Load(); n != 1 {
		t.Errorf("the kernel was told %d times to drop pages, want once: a passage leaves none", n)
	}
}

// TestReadersGoOnWithoutPassages: a kernel that makes none is asked once, and everything is read all the same.
func TestReadersGoOnWithoutPassages(t *testing.T) {
	r, p := newPassageRig(t, rigOptions{})
	p.refuse = syscall.EPERM
	want := linesOf(2 << 20)
	r.keep("f", want)
	reads := func() int64 {
		r.want(`md5sum <f | cut -c1-8`, fmt.Sprintf("%.8s", md5Of(want)))
		return r.tree.Reading().FromCache
	}
	reads()
	if before := reads(); reads() != before { // the kernel has all of its pages, and keeps them over opens
		t.Errorf("the kernel asked for pages that it has")
	}
	if made, _ := p.counts(); made != 1 {
		t.Errorf("the kernel was asked for %d passages, want 1", made)
	}
}

// TestProgramsBesideReadersSeeADisk: whatever programs of this machine do with a file that others read, they see what they
// would see on a local disk. The same steps are done on both.
func TestProgramsBesideReadersSeeADisk(t *testing.T) {
	r, p := newPassageRig(t, rigOptions{})
	local := t.TempDir()
	for name := range besideSteps { // before anybody learns which names are not there
		dir := strings.ReplaceAll(name, " ", "_")
		must(t, r.server.MakeDir(dir))
		r.put(dir+"/f", linesOf(besideSize))
	}
	for _, name := range slices.Sorted(maps.Keys(besideSteps)) {
		t.Run(name, func(t *testing.T) {
			r := *r
			r.t = t
			before, _ := p.counts()
			dir := strings.ReplaceAll(name, " ", "_")
			must(t, os.Mkdir(filepath.Join(local, dir), 0o755))
			must(t, os.WriteFile(filepath.Join(local, dir, "f"), linesOf(besideSize), 0o644))
			r.fetch(dir+"/f", linesOf(besideSize))
			want := runChild(t, name, filepath.Join(local, dir))
			got := runChild(t, name, filepath.Join(r.dir, dir))
			if got != want {
				t.Errorf("on the mount:\n%s\non a disk:\n%s", got, want)
			}
			if made, _ := p.counts(); made == before {
				t.Errorf("no passage was made")
			}
			wantSoon(t, "the server has what the disk has", func() bool {
				disk, err := os.ReadFile(filepath.Join(local, dir, "f"))
				must(t, err)
				got, err := r.server.ReadFile(dir + "/f")
				return err == nil && bytes.Equal(got, disk)
			})
			wantSoon(t, "no passage is left", func() bool { _, open := p.counts(); return open == 0 })
			if owed := r.tree.Owed(); owed.Quarantined != 0 || owed.Files != 0 {
				t.Errorf("owed: %+v", owed)
			}
		})
	}
}

const besideSize = 1 << 20

// beside is a reader that was there first, and what others do beside him. Each step prints what it sees.
type beside struct {
	dir string
	r   *os.File
	m   []byte // a mapping of r
	out strings.Builder
}

func (b *beside) path(name string) string { return filepath.Join(b.dir, name) }

func (b *beside) print(format string, args ...any) { fmt.Fprintf(&b.out, format+"\n", args...) }

// look prints what the reader sees around off: by read, by his mapping, by stat.
func (b *beside) look(off int64) {
	p := make([]byte, 12)
	n, err := b.r.ReadAt(p, off)
	b.print("read at %d: %q %v", off, p[:n], err)
	if off+12 <= int64(len(b.m)) {
		b.print("mapped at %d: %q", off, b.m[off:off+12])
	}
	b.size()
}

func (b *beside) size() {
	info, err := b.r.Stat()
	if err != nil {
		b.print("stat: %v", err)
		return
	}
	end, err := b.r.Seek(0, io.SeekEnd)
	b.print("size %d, end %d %v", info.Size(), end, err)
}

func (b *beside) open(flag int) *os.File {
	f, err := os.OpenFile(b.path("f"), flag, 0o644)
	if err != nil {
		panic(err)
	}
	return f
}

func (b *beside) mapFile(f *os.File, prot int) []byte {
	m, err := unix.Mmap(int(f.Fd()), 0, 8192, prot, unix.MAP_SHARED)
	if err != nil {
		panic(err)
	}
	return m
}

var besideSteps = map[string]func(b *beside) error{
	"append": func(b *beside) error {
		w := b.open(os.O_WRONLY | os.O_APPEND)
		for range 3 {
			if _, err := w.WriteString("appended\n"); err != nil {
				return err
			}
			b.look(besideSize)
		}
		err := w.Sync()
		b.look(besideSize + 9)
		return errors.Join(err, w.Close())
	},
	"two appenders": func(b *beside) error {
		w, v := b.open(os.O_WRONLY|os.O_APPEND), b.open(os.O_WRONLY|os.O_APPEND)
		for i := range 10 {
			fmt.Fprintf(w, "w%d ", i)
			fmt.Fprintf(v, "v%d ", i)
		}
		b.look(besideSize + 20)
		return errors.Join(w.Close(), v.Close())
	},
	"overwrite": func(b *beside) error {
		w := b.open(os.O_RDWR)
		_, err := w.WriteAt([]byte("HELLO"), 100)
		b.look(98)
		p := make([]byte, 10)
		n, err2 := w.ReadAt(p, 98)
		b.print("the writer reads %q", p[:n])
		return errors.Join(err, err2, w.Close())
	},
	"cut and write": func(b *beside) error {
		w := b.open(os.O_RDWR | os.O_TRUNC)
		b.size()
		_, err := w.WriteString("all is new, and shorter\n")
		b.look(0)
		late := b.open(os.O_RDONLY)
		p, err2 := io.ReadAll(late)
		b.print("late reader: %q", p)
		return errors.Join(err, err2, w.Close(), late.Close())
	},
	"truncate by name": func(b *beside) error {
		err := os.Truncate(b.path("f"), 5000)
		b.size()
		b.look(4990)
		err2 := os.Truncate(b.path("f"), 6000)
		b.look(4995)
		return errors.Join(err, err2)
	},
	"rename over": func(b *beside) error {
		if err := os.WriteFile(b.path("g"), []byte("the other\n"), 0o644); err != nil {
			return err
		}
		err := os.Rename(b.path("g"), b.path("f"))
		b.look(100)
		p, err2 := os.ReadFile(b.path("f"))
		b.print("by name: %q", p)
		return errors.Join(err, err2)
	},
	"remove and make anew": func(b *beside) error {
		if err := os.Remove(b.path("f")); err != nil {
			return err
		}
		b.look(100)
		again, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", b.r.Fd()))
		if err != nil {
			return err
		}
		p := make([]byte, 6)
		_, err = again.ReadAt(p, 7)
		b.print("by descriptor: %q", p)
		return errors.Join(err, again.Close(), os.WriteFile(b.path("f"), []byte("anew\n"), 0o644))
	},
	"remove and write on": func(b *beside) error {
		w := b.open(os.O_RDWR)
		err := os.Remove(b.path("f"))
		_, err2 := w.WriteAt([]byte("nameless"), 0)
		b.look(0)
		return errors.Join(err, err2, w.Close(), os.WriteFile(b.path("f"), []byte("anew\n"), 0o644))
	},
	"locks": func(b *beside) error {
		w := b.open(os.O_RDWR)
		b.print("shared: %v", unix.Flock(int(b.r.Fd()), unix.LOCK_SH|unix.LOCK_NB))
		b.print("exclusive: %v", unix.Flock(int(w.Fd()), unix.LOCK_EX|unix.LOCK_NB))
		b.print("free: %v", unix.Flock(int(b.r.Fd()), unix.LOCK_UN))
		b.print("exclusive: %v", unix.Flock(int(w.Fd()), unix.LOCK_EX|unix.LOCK_NB))
		return w.Close()
	},
	"store into a mapping": func(b *beside) error {
		w := b.open(os.O_RDWR)
		m := b.mapFile(w, unix.PROT_READ|unix.PROT_WRITE)
		copy(m[100:], "STORED")
		b.look(98)
		_, err := w.WriteAt([]byte("written"), 200)
		b.print("the mapping shows %q", m[198:210])
		copy(m[300:], "MORE")
		err2 := w.Sync()
		copy(m[400:], "LAST")
		b.look(398)
		return errors.Join(err, err2, unix.Munmap(m), w.Close())
	},
	"store after close": func(b *beside) error {
		w := b.open(os.O_RDWR)
		m := b.mapFile(w, unix.PROT_READ|unix.PROT_WRITE)
		err := w.Close()
		copy(m[100:], "AFTER CLOSE")
		b.look(98)
		return errors.Join(err, unix.Munmap(m))
	},
	"store after all closed": func(b *beside) error {
		w := b.open(os.O_RDWR)
		m := b.mapFile(w, unix.PROT_READ|unix.PROT_WRITE)
		err := errors.Join(w.Close(), b.r.Close())
		copy(m[100:], "AFTER ALL")
		b.r = b.open(os.O_RDONLY)
		b.look(98)
		return errors.Join(err, unix.Munmap(m))
	},
	"mapping outlives its descriptor": func(b *beside) error {
		if err := b.r.Close(); err != nil {
			return err
		}
		w := b.open(os.O_RDWR)
		_, err := w.WriteAt([]byte("SEEN?"), 100)
		b.print("mapped: %q", b.m[98:110])
		err = errors.Join(err, w.Close())
		b.print("mapped: %q", b.m[98:110])
		v := b.open(os.O_WRONLY)
		_, err2 := v.WriteAt([]byte("AGAIN"), 100)
		b.print("mapped: %q", b.m[98:110])
		b.r = b.open(os.O_RDONLY)
		b.look(98)
		return errors.Join(err, err2, v.Close())
	},
	"write and read in turns": func(b *beside) error {
		random := rand.New(rand.NewPCG(1, 2))
		flags := []int{os.O_RDONLY, os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND, os.O_RDWR | os.O_TRUNC}
		var open []*os.File
		for i := range 400 {
			switch n := len(open); {
			case n == 0 || n < 6 && random.IntN(3) == 0:
				open = append(open, b.open(flags[random.IntN(len(flags))]))
			case random.IntN(6) == 0:
				k := random.IntN(n)
				if err := open[k].Close(); err != nil {
					return err
				}
				open = append(open[:k], open[k+1:]...)
			default:
				f, p, off := open[random.IntN(n)], make([]byte, 16), random.Int64N(4096)
				if random.IntN(2) == 0 {
					n, err := f.ReadAt(p, off)
					b.print("%d: %q %v", i, p[:n], errors.Is(err, io.EOF))
				} else if n, err := f.WriteAt(fmt.Appendf(nil, "step %d ", i), off); err == nil {
					b.print("%d: wrote %d", i, n)
				}
			}
			if i%50 == 0 {
				b.look(1000)
				if err := b.r.Close(); err != nil {
					return err
				}
				b.r = b.open(os.O_RDONLY)
			}
		}
		for _, f := range open {
			if err := f.Close(); err != nil {
				return err
			}
		}
		return nil
	},
}

// besideChild prints what a reader and others see of the file f in dir.
func besideChild(name, dir string) (err error) {
	b := &beside{dir: dir}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
		os.Stdout.WriteString(b.out.String())
	}()
	b.r = b.open(os.O_RDONLY)
	b.m = b.mapFile(b.r, unix.PROT_READ)
	if err := besideSteps[name](b); err != nil {
		return err
	}
	b.size()
	return errors.Join(unix.Munmap(b.m), b.r.Close())
}

// TestCacheMayBeDeletedBesideReaders: who comes to write then writes, and the readers see it.
func TestCacheMayBeDeletedBesideReaders(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	store, err := spool.OpenStore(dir, spool.StoreOptions{Floor: spool.Floor{Bytes: 1}})
	must(t, err)
	t.Cleanup(store.Close)
	r, p := newPassageRig(t, rigOptions{cache: cache.Options{Spool: store.Shelf("rig")}})
	want := linesOf(1 << 20)
	r.keep("f", want)
	sh := r.start()
	sh.here(`cd "$MNT"; exec 3<f`)
	if made, _ := p.counts(); made != 1 {
		t.Fatalf("%d passages, want 1", made)
	}
	must(t, os.RemoveAll(dir))
	sh.here(`exec 4<>f; printf HELLO >&4`)
	if got := sh.do(`head -c 6 <&3`); got != "HELLO0[0]" {
		t.Errorf("the reader sees %q", got)
	}
	sh.here(`exec 4>&- 3<&-`)
	copy(want, "HELLO")
	if got, err := r.server.ReadFile("f"); err != nil || !bytes.Equal(got, want) {
		t.Errorf("on the server: %d bytes, %v; as written: %v", len(got), err, bytes.Equal(got, want))
	}
}

// TestChangedFileIsNeverAMixThroughAPassage: a reader that was there keeps the version that he opened, and who comes later
// reads the new one, under the same st_ino.
func TestChangedFileIsNeverAMixThroughAPassage(t *testing.T) {
	r, p := newPassageRig(t, rigOptions{cache: cache.Options{MetadataTTL: time.Millisecond}})
	before, after := bytes.Repeat([]byte("old\n"), 100_000), bytes.Repeat([]byte("new\n"), 100_000)
	r.keep("f", before)
	sh := r.start()
	sh.here(`cd "$MNT"; exec 3<f`)
	if got := sh.do(`head -c 4 <&3`); got != "old[0]" {
		t.Fatalf("the first reader: %s", got)
	}
	ino := sh.do(`stat -c %i f`)
	must(t, r.server.WriteFile("beside", after))
	must(t, r.server.Move("beside", "f"))
	if got := sh.do(`sort -u f; sort -u /dev/fd/3`); got != "new old[0]" {
		t.Errorf("the later reader and the first: %s; want new, then old", got)
	}
	if got := sh.do(`stat -c %i f`); got != ino {
		t.Errorf("st_ino became %s, was %s", got, ino)
	}
	sh.here(`exec 3<&-`)
	if got := sh.do(`sort -u f`); got != "new[0]" {
		t.Errorf("after the first reader: %s", got)
	}
	if made, _ := p.counts(); made == 0 {
		t.Error("no passage was made")
	}
	wantSoon(t, "no passage is left", func() bool { _, open := p.counts(); return open == 0 })
}

// TestFileThatGrowsIsFollowedThroughAPassage: tail -f of a file that is here in whole shows what others append on the server.
func TestFileThatGrowsIsFollowedThroughAPassage(t *testing.T) {
	r, p := newPassageRig(t, rigOptions{cache: cache.Options{MetadataTTL: 50 * time.Millisecond}})
	want := linesOf(600_000)
	r.keep("log", want)
	sh := r.start()
	sh.here(`cd "$MNT"; exec 3< <(exec tail -c +1 -s 0.1 -f log)`)
	if got := sh.do(`head -c 600000 <&3 | md5sum | cut -c1-8`); got != fmt.Sprintf("%.8s[0]", md5Of(want)) {
		t.Fatalf("what was there: %s", got)
	}
	for i, n := range []int{1, 100, 5000, growth} {
		more := bytes.Repeat([]byte{byte('a' + i)}, n)
		want = append(want, more...)
		must(t, r.server.WriteFile("log", want))
		if got := sh.do(fmt.Sprintf(`head -c %d <&3 | tr -d %c | wc -c`, n, 'a'+i)); got != "0[0]" {
			t.Fatalf("of %d bytes that were appended other bytes were read: %s", n, got)
		}
	}
	if got := sh.do(`cat log | md5sum | cut -c1-8`); got != fmt.Sprintf("%.8s[0]", md5Of(want)) {
		t.Errorf("who opens it later reads %s", got)
	}
	if made, _ := p.counts(); made != 1 {
		t.Errorf("%d passages, want the one", made)
	}
}

// growth is more than one question brings.
const growth = 20 << 20
