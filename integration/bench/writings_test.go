package bench

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// left is a file that a work leaves at the server.
type left struct {
	name string
	size int64
	same func(path string) error // compares the content
}

var writings = []*work{
	{
		name: "write_small", near: true, far: true, writes: true,
		says:   func(n sizes) string { return fmt.Sprintf("write %d files of 4 KiB, one after the other", n.few) },
		make:   func(string, sizes) error { return nil },
		do:     func(c *cell) error { return c.writeAll(c.size.few) },
		leaves: func(n sizes) []left { return smallFiles(n.few) },
	},
	{
		name: "write_1000", ftp: true, writes: true,
		says:   func(n sizes) string { return fmt.Sprintf("write %d files of 4 KiB, one after the other", n.many) },
		make:   func(string, sizes) error { return nil },
		do:     func(c *cell) error { return c.writeAll(c.size.many) },
		leaves: func(n sizes) []left { return smallFiles(n.many) },
	},
	{
		name: "append", far: true, writes: true,
		says: func(n sizes) string {
			return fmt.Sprintf("append %d times 1 KiB to %s, each time opened anew", n.appends, bytesText(n.middle))
		},
		make: func(dir string, n sizes) error { return makeFile(filepath.Join(dir, "log"), bigSeed, n.middle) },
		do:   (*cell).appendLines,
		leaves: func(n sizes) []left {
			size := n.middle + int64(n.appends)*lineSize // the file goes on as its content does
			return []left{{"log", size, func(path string) error { return sameFile(path, bigSeed, size) }}}
		},
	},
	{
		name: "rename", far: true, writes: true,
		says: func(n sizes) string { return fmt.Sprintf("%d renames", n.few) },
		make: func(dir string, n sizes) error { return makeNumbered(dir, n.few, smallSize) },
		do: func(c *cell) error {
			return c.steps(c.size.few, func(i int) error {
				return os.Rename(filepath.Join(c.dir, numbered(i)), filepath.Join(c.dir, "new-"+numbered(i)))
			})
		},
		leaves: func(n sizes) []left {
			files := smallFiles(n.few)
			for i := range files {
				files[i].name = "new-" + files[i].name
			}
			return files
		},
	},
	{
		name: "unlink", far: true, writes: true,
		says: func(n sizes) string { return fmt.Sprintf("%d unlinks", n.few) },
		make: func(dir string, n sizes) error { return makeNumbered(dir, n.few, smallSize) },
		do: func(c *cell) error {
			return c.steps(c.size.few, func(i int) error { return os.Remove(filepath.Join(c.dir, numbered(i))) })
		},
		leaves: func(sizes) []left { return nil },
	},
	{
		name: "write_64", far: true, writes: true,
		says:   func(n sizes) string { return "write " + bytesText(n.middle) },
		make:   func(string, sizes) error { return nil },
		do:     func(c *cell) error { return c.write("big", c.size.middle) },
		leaves: func(n sizes) []left { return bigFile(n.middle) },
	},
	{
		name: "write_512", near: true, ftp: true, writes: true,
		says:   func(n sizes) string { return "write " + bytesText(n.big) },
		make:   func(string, sizes) error { return nil },
		do:     func(c *cell) error { return c.write("big", c.size.big) },
		leaves: func(n sizes) []left { return bigFile(n.big) },
	},
	{
		name: "stage_512", near: true, writes: true, staged: true,
		says: func(n sizes) string {
			return fmt.Sprintf("the writes of %s alone, by 1 MiB, without close", bytesText(n.big))
		},
		make: func(string, sizes) error { return nil },
		do:   func(c *cell) error { return c.stage("big", c.size.big) },
		leaves: func(n sizes) []left {
			return []left{{"big", n.big, func(path string) error { return sameStaged(path, n.big) }}}
		},
	},
}

func smallFiles(n int) []left {
	files := make([]left, n)
	for i := range files {
		files[i] = left{numbered(i), smallSize, func(path string) error { return sameFile(path, int64(i), smallSize) }}
	}
	return files
}

func bigFile(size int64) []left {
	return []left{{"big", size, func(path string) error { return sameFile(path, writeSeed, size) }}}
}

func (c *cell) writeAll(n int) error {
	p := make([]byte, smallSize)
	return c.steps(n, func(i int) error {
		fill(p, int64(i), 0)
		return os.WriteFile(filepath.Join(c.dir, numbered(i)), p, 0o644)
	})
}

func (c *cell) appendLines() error {
	line := make([]byte, lineSize)
	return c.steps(c.size.appends, func(i int) error {
		f, err := os.OpenFile(filepath.Join(c.dir, "log"), os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return err
		}
		fill(line, bigSeed, c.size.middle+int64(i)*lineSize)
		_, err = f.Write(line)
		return errors.Join(err, f.Close())
	})
}

func (c *cell) write(name string, size int64) error {
	f, err := os.Create(filepath.Join(c.dir, name))
	if err != nil {
		return err
	}
	c.of = int(size)
	return errors.Join(writeContent(f, writeSeed, size, c.progress), f.Close())
}

// stage is write that leaves the closing to the end of the cell.
func (c *cell) stage(name string, size int64) error {
	f, err := os.Create(filepath.Join(c.dir, name))
	if err != nil {
		return err
	}
	c.closing = f.Close
	c.of = int(size)
	return stagedBlocks(size, func(p []byte) error {
		if _, err := f.Write(p); err != nil {
			return err
		}
		return c.progress(len(p))
	})
}

// stagedBlocks yields what stage writes: one block again and again, for its making would be most of what is measured, with other content at
// the front.
func stagedBlocks(size int64, yield func(p []byte) error) error {
	p := make([]byte, block)
	fill(p, writeSeed, 0)
	for offset := int64(0); offset < size; offset += block {
		fill(p[:smallSize], writeSeed, offset)
		if err := yield(p); err != nil {
			return err
		}
	}
	return nil
}

// sameStaged compares the file at path with what stage has written.
func sameStaged(path string, size int64) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	got := make([]byte, block)
	err = stagedBlocks(size, func(p []byte) error {
		if _, err := io.ReadFull(f, got); err != nil {
			return err
		}
		if !bytes.Equal(got, p) {
			return fmt.Errorf("%s does not hold what was written", path)
		}
		return nil
	})
	if n, _ := f.Read(got); err == nil && n > 0 {
		err = fmt.Errorf("%s is too long", path)
	}
	return err
}

// awaitArrival returns when the server has all that the work leaves, as far as names and sizes tell.
func (c *cell) awaitArrival() error {
	if !c.work.writes {
		return nil
	}
	missing := c.work.leaves(c.size)
	for {
		for len(missing) > 0 {
			info, err := os.Lstat(filepath.Join(c.server, missing[0].name))
			if err != nil || info.Size() != missing[0].size {
				break
			}
			missing = missing[1:]
		}
		if len(missing) == 0 && c.sameLeft() == nil {
			return nil
		}
		select {
		case <-c.ctx.Done():
			return errors.Join(c.ctx.Err(), c.sameLeft())
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// sameLeft compares the names that the server has with those that the work leaves.
func (c *cell) sameLeft() error {
	entries, err := os.ReadDir(c.server)
	if err != nil {
		return err
	}
	var got, want []string
	for _, entry := range entries {
		got = append(got, entry.Name())
	}
	for _, l := range c.work.leaves(c.size) {
		want = append(want, l.name)
	}
	return sameNames(got, want)
}

// check compares, behind the clock, what the program was told and what the server has with what it must be.
func (c *cell) check() error {
	if c.told != nil {
		return c.told()
	}
	if !c.work.writes {
		return nil
	}
	if err := c.sameLeft(); err != nil {
		return err
	}
	for _, l := range c.work.leaves(c.size) {
		if err := l.same(filepath.Join(c.server, l.name)); err != nil {
			return err
		}
	}
	return nil
}
