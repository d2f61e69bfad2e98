package daemon

import (
	"context"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path"
	"syscall"

	"pierfs/backends"
	"pierfs/cache"
	"pierfs/cmd/internal/control"
)

// ls tells what a directory holds and, if asked to, all below it: a directory's own entries first, then each directory in it. Of what
// lies above the one that is being listed only the names of directories are kept.
func (d *Daemon) ls(ctx context.Context, q control.LsRequest, send func(control.File) error) error {
	p, err := d.find(ctx, q.FileRequest)
	if err == nil {
		err = q.Filter.Check()
	}
	if err != nil {
		return err
	}
	err = p.walk(ctx, q, "", send)
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

// errEnough ends a walk that has found what it was to find.
var errEnough = errors.New("enough")

func (p place) walk(ctx context.Context, q control.LsRequest, below string, send func(control.File) error) error {
	listing, err := p.tree.List(ctx, p.name)
	if err != nil {
		return p.told(err)
	}
	defer listing.Close()
	var dirs []string
	for i := 0; ; i++ {
		entry, err := listing.At(ctx, i)
		switch {
		case err == io.EOF:
			return p.walkInto(ctx, q, below, dirs, send)
		case i == 0 && below == "" && errors.Is(err, syscall.ENOTDIR):
			file, err := p.stat(ctx)
			if err != nil {
				return err
			}
			return send(file)
		case err != nil:
			return p.told(err)
		}
		if entry.IsDir() && q.Recursive {
			dirs = append(dirs, entry.Name)
		}
		if err := p.tell(ctx, q, below, entry, send); err != nil {
			return err
		}
	}
}

// tell sends one entry, if it fits.
func (p place) tell(ctx context.Context, q control.LsRequest, below string, entry cache.Entry, send func(control.File) error) error {
	file := fileOf(entry)
	if !q.Filter.Fits(file) {
		return nil
	}
	if q.Recursive {
		at := control.Name(path.Join(below, entry.Name))
		file.Path = &at
	}
	if q.Links && entry.Mode.Type() == os.ModeSymlink {
		if target, err := p.tree.Readlink(ctx, path.Join(p.name, entry.Name)); err == nil { // one that may not be followed has none to show
			name := control.Name(target)
			file.Target = &name
		}
	}
	if err := send(file); err != nil {
		return err
	}
	if q.First {
		return errEnough
	}
	return nil
}

// walkInto walks the directories of one that has been told. One that somebody has removed meanwhile is none.
func (p place) walkInto(ctx context.Context, q control.LsRequest, below string, dirs []string, send func(control.File) error) error {
	for _, name := range dirs {
		err := p.at(path.Join(p.name, name)).walk(ctx, q, path.Join(below, name), send)
		if err != nil && control.CodeOf(err) != control.NotFound {
			return err
		}
	}
	return nil
}

// sum has the server add a file up, or reads it from there, whatever is kept of it here. A server that cannot say, or not in time, is read from.
func (d *Daemon) sum(ctx context.Context, q control.SumRequest) (control.SumAnswer, error) {
	p, err := d.find(ctx, q.FileRequest)
	if err != nil {
		return control.SumAnswer{}, err
	}
	if !q.Read {
		sum, err := p.tree.Sum(ctx, p.name)
		if err == nil && backends.NewSum(sum.Algorithm) != nil {
			return control.SumAnswer{Algorithm: sum.Algorithm, Sum: sum.String()}, nil
		}
		if errors.Is(err, os.ErrNotExist) || ctx.Err() != nil {
			return control.SumAnswer{}, p.told(err)
		}
	}
	if d.spool != nil {
		p.tree.DropKept(p.name)
	}
	file, _, err := p.tree.Open(ctx, p.name, cache.OpenMode{Read: true})
	if err != nil {
		return control.SumAnswer{}, p.told(err)
	}
	defer file.Close(ctx, true) // it was only read
	const algorithm = "SHA-256"
	sum := backends.NewSum(algorithm)
	if err := pour(ctx, sum, file, 0); err != nil {
		return control.SumAnswer{}, p.told(err)
	}
	return control.SumAnswer{Algorithm: algorithm, Sum: hex.EncodeToString(sum.Sum(nil)), Read: true}, nil
}

// pour writes a file's content from off on to w.
func pour(ctx context.Context, w io.Writer, file *cache.File, off int64) error {
	buffer := make([]byte, transferChunk)
	for {
		n, err := file.ReadAt(ctx, buffer, off)
		if n > 0 {
			if _, err := w.Write(buffer[:n]); err != nil {
				return control.Errorf(control.Cut, "the hand went away: %v", err).WithHint("the same command with --resume goes on")
			}
			off += int64(n)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (d *Daemon) symlink(ctx context.Context, q control.SymlinkRequest) (control.File, error) {
	p, err := d.find(ctx, q.FileRequest)
	if err != nil {
		return control.File{}, err
	}
	entry, err := p.tree.Symlink(ctx, string(q.Target), p.name)
	if err != nil {
		return control.File{}, p.told(err)
	}
	return fileOf(entry), nil
}
