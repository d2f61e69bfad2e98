package hostile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"pierfs/backends"
)

// content is what is written in tests: more than one packet of any server.
var content = strings.Repeat("pierfs! ", 40_000)

// call is one way to use a Backend, and the requests that it cannot do without.
type call struct {
	name  string
	needs []Op
	do    func(context.Context, backends.Backend) error

	// steps is how many calls of the Backend it is made of, each with a budget of its own; 0 is one.
	steps int

	// truth is asked when do returned nil: whether what it promised is so. Nil where a server's word cannot be checked.
	truth func(*Server) error
}

// furnish puts what the calls work on into the working directory.
func furnish(s *Server) {
	s.Put("file", File{Data: "abc", Mtime: 1_700_000_000})
	s.Put("old", File{Data: "old content", Mtime: 1_700_000_000})
	s.Put("dir/a", File{})
	s.Put("dir/b", File{})
	s.Put("empty", Dir())
	s.Put("link", Link("file"))
}

var calls = []call{
	{"stat", []Op{Lstat}, func(ctx context.Context, b backends.Backend) error {
		info, err := b.Stat(ctx, "file")
		if err == nil && (info.Size != 3 || !info.Mode.IsRegular()) {
			err = untrue("size %d, mode %v", info.Size, info.Mode)
		}
		return err
	}, 0, nil},
	{"list", []Op{Opendir, Readdir}, func(ctx context.Context, b backends.Backend) error {
		names, err := list(ctx, b, "dir")
		if err == nil && !slices.Equal(names, []string{"a", "b"}) {
			err = untrue("names %q", names)
		}
		return err
	}, 0, nil},
	{"read", []Op{Open, Read}, func(ctx context.Context, b backends.Backend) error {
		got, err := read(ctx, b, "file", 100)
		if err == nil && got != "abc" {
			err = untrue("content %q", got)
		}
		return err
	}, 2, nil},
	{"read last", []Op{Open, Read, Fstat}, func(ctx context.Context, b backends.Backend) error {
		got, err := readLast(ctx, b, "file", 100)
		if err == nil && got != "abc" {
			err = untrue("content %q", got)
		}
		return err
	}, 2, nil},
	{"create", []Op{Open, Write, Close, Lstat, PosixRename}, func(ctx context.Context, b backends.Backend) error {
		return upload(ctx, b, "new", content, backends.WriteMode{TempName: ".new.part", Perm: 0o644})
	}, 3, holds("new")},
	{"replace", []Op{Open, Write, Fsync, Close, PosixRename}, func(ctx context.Context, b backends.Backend) error {
		return upload(ctx, b, "old", content, backends.WriteMode{TempName: ".old.part", Perm: 0o644})
	}, 3, holds("old")},
	{"create exclusively", []Op{Open, Write}, func(ctx context.Context, b backends.Backend) error {
		return upload(ctx, b, "new", content, backends.WriteMode{TempName: ".new.part", Perm: 0o644, Exclusive: true})
	}, 3, holds("new")},
	{"append", []Op{Open, Write, Close}, func(ctx context.Context, b backends.Backend) error {
		w, err := b.Update(ctx, "old")
		if err != nil {
			return err
		}
		return finish(ctx, w, content, int64(len("old content")))
	}, 3, func(s *Server) error {
		if f, _ := s.Get("old"); f.Data != "old content"+content {
			return untrue("the server has %d bytes", len(f.Data))
		}
		return nil
	}},
	{"mkdir", []Op{Mkdir}, func(ctx context.Context, b backends.Backend) error { return b.Mkdir(ctx, "made", 0o755) }, 0, nil},
	{"remove", []Op{Remove}, func(ctx context.Context, b backends.Backend) error { return b.Remove(ctx, "file") }, 0, nil},
	{"rmdir", []Op{Rmdir}, func(ctx context.Context, b backends.Backend) error { return b.Rmdir(ctx, "empty") }, 0, nil},
	{"rename", []Op{PosixRename}, func(ctx context.Context, b backends.Backend) error {
		return b.Rename(ctx, "file", "other", backends.Replace)
	}, 0, nil},
	{"rename without replacing", []Op{Rename}, func(ctx context.Context, b backends.Backend) error {
		return b.Rename(ctx, "file", "other", backends.NoReplace)
	}, 0, nil},
	{"setattr", []Op{Setstat}, func(ctx context.Context, b backends.Backend) error {
		perm := os.FileMode(0o600)
		_, err := b.SetAttr(ctx, "file", backends.Attr{Perm: &perm})
		return err
	}, 0, nil},
	{"symlink", []Op{Symlink}, func(ctx context.Context, b backends.Backend) error { return b.Symlink(ctx, "file", "another") }, 0, nil},
	{"readlink", []Op{Readlink}, func(ctx context.Context, b backends.Backend) error {
		target, err := b.Readlink(ctx, "link")
		if err == nil && target != "file" {
			err = untrue("target %q", target)
		}
		return err
	}, 0, nil},
	{"link", []Op{Hardlink}, func(ctx context.Context, b backends.Backend) error { return b.Link(ctx, "file", "hard") }, 0, nil},
	{"statfs", []Op{StatVFS}, func(ctx context.Context, b backends.Backend) error {
		_, err := b.StatFS(ctx)
		return err
	}, 0, nil},
}

// errUntrue is a success that was none: a lie became silence.
var errUntrue = errors.New("untrue")

func untrue(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errUntrue, fmt.Sprintf(format, args...))
}

func holds(name string) func(*Server) error {
	return func(s *Server) error {
		if f, ok := s.Get(name); !ok || f.Data != content {
			return untrue("%s is there: %v, with %d bytes of %d", name, ok, len(f.Data), len(content))
		}
		return nil
	}
}

func list(ctx context.Context, b backends.Backend, dir string) ([]string, error) {
	var names []string
	for info, err := range b.List(ctx, dir) {
		if err != nil {
			return names, err
		}
		names = append(names, info.Name)
	}
	return names, nil
}

func read(ctx context.Context, b backends.Backend, name string, n int) (string, error) {
	r, err := b.Open(ctx, name)
	if err != nil {
		return "", err
	}
	defer r.Close() // it waits for nobody, and its error would be of a file that was read
	p := make([]byte, n)
	n, err = r.ReadAt(ctx, p, 0)
	if err == io.EOF {
		err = nil
	}
	return string(p[:n]), err
}

func readLast(ctx context.Context, b backends.Backend, name string, n int) (string, error) {
	r, err := b.Open(ctx, name)
	if err != nil {
		return "", err
	}
	defer r.Close() // as in read
	p := make([]byte, n)
	n, info, err := r.ReadLast(ctx, p, 0)
	if err == io.EOF {
		err = nil
		if info.Known.Has(backends.HasSize) && info.Size != int64(n) {
			err = fmt.Errorf("%d bytes of %d: %w", n, info.Size, io.ErrUnexpectedEOF) // the caller can tell
		}
	}
	return string(p[:n]), err
}

func upload(ctx context.Context, b backends.Backend, name, content string, mode backends.WriteMode) error {
	w, err := b.Create(ctx, name, mode)
	if err != nil {
		return err
	}
	return finish(ctx, w, content, 0)
}

// finish writes content at off and commits it.
func finish(ctx context.Context, w backends.Writer, content string, off int64) error {
	if _, err := w.WriteAt(ctx, []byte(content), off); err != nil {
		return errors.Join(err, w.Abort())
	}
	info, err := w.Commit(ctx, backends.Commit{Size: off + int64(len(content))})
	if err == nil && info.Known.Has(backends.HasSize) && info.Size != off+int64(len(content)) {
		err = untrue("commit tells a size of %d", info.Size)
	}
	return err
}

// does makes the call, which must end within the budgets of its steps.
func (c *connection) does(call call, what string) error {
	c.t.Helper()
	return c.within(time.Duration(max(call.steps, 1))*limit+slack, what, func(ctx context.Context) error { return call.do(ctx, c) })
}
