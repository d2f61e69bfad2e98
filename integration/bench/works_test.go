package bench

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
)

// work is one thing that programs do.
type work struct {
	name string
	says func(n sizes) string // its row in the tables

	// Where it is done without being named: on a way with no round trip, on one with, on any way to an FTP server.
	near, far, ftp bool

	warm bool // what this machine has already is measured, beside its own disk

	make  func(dir string, n sizes) error // what the server has
	first func(c *cell) error             // before the clock starts; may be nil
	do    func(c *cell) error             // what is measured; compares what it is told with what make has made

	// Of works that write: what the server has in the end, and nothing else. The clock runs until it has, but of what is staged only until
	// the last write(2) has returned; beside it stands this machine's own disk.
	writes bool
	staged bool
	leaves func(n sizes) []left
}

// works are all of them, in the order of the tables.
var works = slices.Concat(reads, warms, writings)

var reads = []*work{
	{
		name: "read_64", far: true,
		says: func(n sizes) string { return "read " + bytesText(n.middle) },
		make: func(dir string, n sizes) error { return makeFile(filepath.Join(dir, "big"), bigSeed, n.middle) },
		do:   func(c *cell) error { return c.cat("big", c.size.middle) },
	},
	{
		name: "read_512", near: true, ftp: true,
		says: func(n sizes) string { return "read " + bytesText(n.big) },
		make: func(dir string, n sizes) error { return makeFile(filepath.Join(dir, "big"), bigSeed, n.big) },
		do:   func(c *cell) error { return c.cat("big", c.size.big) },
	},
	{
		name: "rand_4k", far: true,
		says: func(n sizes) string {
			return fmt.Sprintf("%d random reads of 4 KiB in %s", n.randoms, bytesText(n.middle))
		},
		make: func(dir string, n sizes) error { return makeFile(filepath.Join(dir, "big"), bigSeed, n.middle) },
		do:   func(c *cell) error { return c.jump("big", c.size.middle, c.size.randoms, sameBlock) },
	},
	{
		name: "ls_10k", near: true, far: true, ftp: true,
		says: func(n sizes) string { return fmt.Sprintf("`ls -l` of %d", n.listed) },
		make: func(dir string, n sizes) error { return makeNumbered(dir, n.listed, 8) },
		do:   func(c *cell) error { return c.ls("-l", c.size.listed) },
	},
	{
		name: "find_tree", near: true, far: true,
		says: func(n sizes) string {
			return fmt.Sprintf("`find` over %d directories, %d files", n.outer*(n.inner+1), n.outer*n.inner*n.leaves)
		},
		make: makeTree,
		do:   (*cell).find,
	},
	{
		name: "cat_small", near: true, far: true,
		says: func(n sizes) string { return fmt.Sprintf("read %d files of 4 KiB, one after the other", n.small) },
		make: func(dir string, n sizes) error { return makeNumbered(dir, n.small, smallSize) },
		do:   func(c *cell) error { return c.catAll(c.size.small, 1) },
	},
	{
		name: "cat_small_16", near: true, far: true,
		says: func(sizes) string { return "the same by 16 threads" },
		make: func(dir string, n sizes) error { return makeNumbered(dir, n.small, smallSize) },
		do:   func(c *cell) error { return c.catAll(c.size.small, 16) },
	},
	{
		name: "cat_1000", ftp: true,
		says: func(n sizes) string { return fmt.Sprintf("read %d files of 4 KiB, one after the other", n.many) },
		make: func(dir string, n sizes) error { return makeNumbered(dir, n.many, smallSize) },
		do:   func(c *cell) error { return c.catAll(c.size.many, 1) },
	},
	{
		name: "missing", far: true,
		says: func(n sizes) string { return fmt.Sprintf("`stat` of %d missing names in one directory", n.absent) },
		make: func(dir string, n sizes) error { return makeNumbered(dir, n.few, 8) },
		do:   (*cell).askAbsent,
	},
	{
		name: "deep", far: true,
		says: func(n sizes) string { return fmt.Sprintf("`stat` of %d names %d directories deep", n.deep, depth) },
		make: func(dir string, n sizes) error {
			dir = filepath.Join(dir, deepDir())
			return errors.Join(os.MkdirAll(dir, 0o755), makeNumbered(dir, n.deep, 8))
		},
		do: (*cell).askDeep,
	},
}

var warms = []*work{
	{
		name: "warm_read", near: true, warm: true,
		says:  func(n sizes) string { return fmt.Sprintf("read %s %d times again", bytesText(n.big), again) },
		make:  func(dir string, n sizes) error { return makeFile(filepath.Join(dir, "big"), bigSeed, n.big) },
		first: func(c *cell) error { return c.cat("big", c.size.big) },
		do: func(c *cell) error {
			return c.steps(again, func(int) error { return c.skim("big", c.size.big) })
		},
	},
	{
		name: "warm_rand", near: true, warm: true,
		says: func(n sizes) string {
			return fmt.Sprintf("%d random reads of 4 KiB in %s read before", n.warmRandoms, bytesText(n.middle))
		},
		make:  func(dir string, n sizes) error { return makeFile(filepath.Join(dir, "big"), bigSeed, n.middle) },
		first: func(c *cell) error { return c.cat("big", c.size.middle) },
		do:    func(c *cell) error { return c.jump("big", c.size.middle, c.size.warmRandoms, sameEnds) },
	},
	{
		name: "warm_ls", near: true, warm: true,
		says:  func(n sizes) string { return fmt.Sprintf("`ls -f` of %d again", n.wide) },
		make:  func(dir string, n sizes) error { return makeNumbered(dir, n.wide, 0) },
		first: func(c *cell) error { return c.ls("-f", c.size.wide) },
		do:    func(c *cell) error { return c.ls("-f", c.size.wide) },
	},
	{
		name: "warm_ls_l", near: true, warm: true,
		says:  func(n sizes) string { return fmt.Sprintf("`ls -l` of %d again", n.listed) },
		make:  func(dir string, n sizes) error { return makeNumbered(dir, n.listed, 8) },
		first: func(c *cell) error { return c.ls("-l", c.size.listed) },
		do:    func(c *cell) error { return c.ls("-l", c.size.listed) },
	},
}

const (
	catPiece = 128 << 10 // what cat of coreutils reads at a time
	again    = 4         // times that a warm file is read
)

// cat reads a file as cat does.
func (c *cell) cat(name string, size int64) error {
	f, err := os.Open(filepath.Join(c.dir, name))
	if err != nil {
		return err
	}
	defer f.Close()
	c.done, c.of = 0, int(size)
	return sumRead(f, catPiece, bigSeed, size, c.progress)
}

// progress counts n bytes as done.
func (c *cell) progress(n int) error {
	c.done += n
	return c.ctx.Err()
}

// skim reads a file as cat does, and looks at one word of each page: where the disk is this near, a checksum would be half
// of what is measured.
func (c *cell) skim(name string, size int64) error {
	f, err := os.Open(filepath.Join(c.dir, name))
	if err != nil {
		return err
	}
	defer f.Close()
	return skimRead(f, catPiece, bigSeed, size)
}

// jump reads n blocks here and there in a file of size bytes, always the same ones.
func (c *cell) jump(name string, size int64, n int, same func(p []byte, seed, offset int64) error) error {
	f, err := os.Open(filepath.Join(c.dir, name))
	if err != nil {
		return err
	}
	defer f.Close()
	chance := rand.New(rand.NewPCG(5, 7))
	p := make([]byte, smallSize)
	return c.steps(n, func(int) error {
		offset := chance.Int64N(size/smallSize) * smallSize
		if _, err := f.ReadAt(p, offset); err != nil {
			return err
		}
		return same(p, bigSeed, offset)
	})
}

// ls lists the directory, which has n files, with ls -l or ls -f.
func (c *cell) ls(how string, n int) error {
	out, err := exec.CommandContext(c.ctx, "ls", how, c.dir).Output()
	c.told = func() error { return sameListing(string(out), how, n) }
	return err
}

// sameListing compares what ls has printed of a directory with n files.
func sameListing(out, how string, n int) error {
	var names []string
	for line := range strings.Lines(out) {
		fields := strings.Fields(line)
		name := fields[len(fields)-1]
		if how == "-l" && fields[0] == "total" || name == "." || name == ".." {
			continue
		}
		if how == "-l" && (len(fields) != 9 || fields[4] != "8") {
			return fmt.Errorf("ls -l tells %q, want a size of 8", line)
		}
		names = append(names, name)
	}
	return sameNames(names, numberedNames(n))
}

func (c *cell) find() error {
	cmd := exec.CommandContext(c.ctx, "find", ".")
	cmd.Dir = c.dir
	out, err := cmd.Output()
	c.told = func() error {
		return sameNames(strings.Fields(strings.ReplaceAll(string(out), "./", "")), append(treeNames(c.size), "."))
	}
	return err
}

// catAll reads n small files, in the order of their names, by threads at once.
func (c *cell) catAll(n, threads int) error {
	if threads == 1 {
		return c.steps(n, c.catOne)
	}
	c.of = n
	var next, done atomic.Int64
	failed := make(chan error, threads)
	var all sync.WaitGroup
	for range threads {
		all.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				if err := errors.Join(c.ctx.Err(), c.catOne(i)); err != nil {
					failed <- err
					return
				}
				done.Add(1)
			}
		})
	}
	all.Wait()
	c.done = int(done.Load())
	close(failed)
	return <-failed
}

func (c *cell) catOne(i int) error {
	p, err := os.ReadFile(filepath.Join(c.dir, numbered(i)))
	if err != nil {
		return err
	}
	if len(p) != smallSize {
		return fmt.Errorf("%s: %d bytes, want %d", numbered(i), len(p), smallSize)
	}
	return sameBlock(p, int64(i), 0)
}

func (c *cell) askAbsent() error {
	return c.steps(c.size.absent, func(i int) error {
		name := fmt.Sprintf("absent%04d", i)
		if _, err := os.Lstat(filepath.Join(c.dir, name)); !errors.Is(err, syscall.ENOENT) {
			return fmt.Errorf("stat of %s, which is missing: %w", name, errors.Join(errThere, err))
		}
		return nil
	})
}

var errThere = errors.New("not ENOENT")

func (c *cell) askDeep() error {
	return c.steps(c.size.deep, func(i int) error {
		name := filepath.Join(deepDir(), numbered(i))
		info, err := os.Lstat(filepath.Join(c.dir, name))
		if err != nil {
			return err
		}
		if info.Size() != 8 || !info.ModTime().Equal(old) {
			return fmt.Errorf("%s: %d bytes of %v, want 8 of %v", name, info.Size(), info.ModTime(), old)
		}
		return nil
	})
}

// bytesText writes n as people do.
func bytesText(n int64) string { return fmt.Sprintf("%d MiB", n>>20) }
