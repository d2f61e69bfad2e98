package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	"pierfs/cmd/internal/control"
)

// PutTree brings what the directory o.Local holds into the directory o.Remote, which it makes if it is missing. What o.Done remembers as put, and
// is since the same on both sides, is left alone. What fails is counted, and the rest is done all the same.
func PutTree(ctx context.Context, o Options) (Totals, error) {
	root, err := os.OpenRoot(o.Local)
	if err != nil {
		return Totals{}, err
	}
	defer root.Close()
	r := newRun(o)
	q := control.MkdirRequest{FileRequest: o.Remote, Parents: true, DryRun: o.Would != nil}
	made, err := control.Mkdir.Call(ctx, o.Client, q)
	if err != nil {
		return Totals{}, err
	}
	if made.Mode == "" { // it would be
		r.dry(Effect{Do: "mkdir", Path: o.Remote.Path, Type: "directory"})
	}
	return r.end(ctx, r.putDir(ctx, root, ""))
}

// putDir puts one directory, which is there at the server. Its error is that it could not be read.
func (r *run) putDir(ctx context.Context, root *os.Root, rel string) error {
	there, err := r.versions(ctx, rel)
	if err != nil {
		return err
	}
	dir, err := root.Open(path.Clean("./" + rel))
	if err != nil {
		return err
	}
	defer dir.Close()
	var dirs []string
	for {
		entries, err := dir.ReadDir(1000)
		for _, e := range entries {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			at := path.Join(rel, e.Name())
			switch e.Type() {
			case os.ModeDir:
				if err := r.makeThere(ctx, at); err != nil {
					r.failed(ctx, at, err)
					continue
				}
				r.add(func(t *Totals) { t.Dirs++ })
				dirs = append(dirs, at)
			case os.ModeSymlink:
				if !r.o.NoLinks {
					r.putLink(ctx, root, at)
				}
			case 0:
				r.workers.Go(func() error {
					r.failed(ctx, at, r.putFile(ctx, root, at, there))
					return nil
				})
			default:
				r.failed(ctx, at, control.Errorf(control.Usage, "%q is neither a file nor a directory nor a link", at).WithHint("%s", leftOut))
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	for _, dir := range dirs {
		if err := r.putDir(ctx, root, dir); err != nil {
			if ctx.Err() != nil {
				return err
			}
			r.failed(ctx, dir, err)
		}
	}
	return nil
}

// versions returns what the server has in a directory, where somebody remembers something to compare it with.
func (r *run) versions(ctx context.Context, rel string) (map[string]control.Version, error) {
	there := map[string]control.Version{}
	if r.o.Done.empty() && r.o.Would == nil {
		return there, nil
	}
	files, err := list(ctx, r.o.Client, r.at(rel), false)
	if r.o.Would != nil && control.CodeOf(err) == control.NotFound { // it would be made
		return there, nil
	}
	for _, f := range files {
		if f.Type == "file" {
			there[string(f.Name)] = f.Version()
		}
	}
	return there, err
}

// makeThere makes a directory at the server, if it is not there.
func (r *run) makeThere(ctx context.Context, at string) error {
	made, err := control.Mkdir.Call(ctx, r.o.Client, control.MkdirRequest{FileRequest: r.at(at), DryRun: r.o.Would != nil})
	if r.o.Would != nil && (err == nil || control.CodeOf(err) == control.NotFound) && made.Mode == "" { // of one in a directory that would be made
		r.dry(Effect{Do: "mkdir", Path: r.at(at).Path, Type: "directory"})
		return nil
	}
	if control.CodeOf(err) != control.Exists {
		return err
	}
	if f, err := control.Stat.Call(ctx, r.o.Client, r.at(at)); err != nil || f.Type != "directory" {
		return inTheWay(at)
	}
	return nil
}

func (r *run) putLink(ctx context.Context, root *os.Root, at string) {
	target, err := root.Readlink(at)
	if err == nil && r.o.Would != nil {
		now, _ := control.Stat.Call(ctx, r.o.Client, r.at(at)) // what is there, if anything
		if now.Target == nil || string(*now.Target) != target {
			r.dry(Effect{Do: "link", Path: r.at(at).Path, Type: "symlink", To: (*control.Name)(&target)})
		}
		return
	}
	if err == nil {
		_, err = control.Symlink.Call(ctx, r.o.Client, control.SymlinkRequest{FileRequest: r.at(at), Target: control.Name(target)})
	}
	if control.CodeOf(err) == control.Exists {
		f, statErr := control.Stat.Call(ctx, r.o.Client, r.at(at))
		if statErr == nil && f.Target != nil && string(*f.Target) == target {
			err = nil
		}
	}
	if err != nil {
		r.failed(ctx, at, err)
		return
	}
	r.add(func(t *Totals) { t.Links++ })
}

// putFile puts one file, unless it was put before.
func (r *run) putFile(ctx context.Context, root *os.Root, at string, there map[string]control.Version) error {
	file, err := root.Open(at)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	r.found(info.Size())
	if now, ok := there[path.Base(at)]; ok && r.o.Done.has(putKey(at, info, now)) {
		r.did(info.Size(), true, false)
		return nil
	}
	would := Effect{Do: "put", Path: r.at(at).Path, Type: "file", Size: info.Size()}
	if now, ok := there[path.Base(at)]; ok {
		would.Replaces = &control.File{Name: control.Name(path.Base(at)), Type: "file", Size: now.Size, Time: now.Time}
	}
	if r.dry(would) {
		return nil
	}
	f, err := Put(ctx, r.o.Client, control.PutRequest{FileRequest: r.at(at)}, file, nil)
	if err != nil {
		return err
	}
	if r.o.Verify != VerifyOff {
		if err := Compare(ctx, r.o.Client, r.at(at), file, r.o.Verify); err != nil {
			return err
		}
	}
	if err := r.o.Done.add(putKey(at, info, f.Version()), at); err != nil {
		return err
	}
	r.did(f.Size, false, r.o.Verify != VerifyOff)
	return nil
}

// putKey tells one version of a file that was put, and what the server has of it, from all others.
func putKey(name string, info os.FileInfo, at control.Version) string {
	return fmt.Sprintf("put %d %d %d %d %s", info.Size(), info.ModTime().UnixNano(), at.Size, at.Time.UnixNano(), name)
}

// Put sends a local file that is open. A file that changes while it is read is given up before anything of it can
// be seen at the server.
func Put(ctx context.Context, c *control.Client, q control.PutRequest, file *os.File, counted func(io.Reader, int64) io.Reader) (control.File, error) {
	info, err := file.Stat()
	if err != nil {
		return control.File{}, err
	}
	source := &steady{file: file, was: info}
	q.Mode = uint32(info.Mode().Perm())
	size := int64(-1)
	if info.Mode().IsRegular() {
		size = info.Size()
		q.Size = &size
	}
	var body io.Reader = source
	if counted != nil {
		body = counted(source, size)
	}
	return control.Put.Call(ctx, c, q, body)
}

// steady is a file that ends in good order only if it is what it was at the beginning.
type steady struct {
	file *os.File
	was  os.FileInfo
}

func (s *steady) Read(p []byte) (int, error) {
	n, err := s.file.Read(p)
	if !errors.Is(err, io.EOF) || !s.was.Mode().IsRegular() {
		return n, err
	}
	now, statErr := s.file.Stat()
	if statErr != nil {
		return n, statErr
	}
	if now.Size() != s.was.Size() || !now.ModTime().Equal(s.was.ModTime()) {
		return n, changed(s.file.Name())
	}
	return n, err
}

// changed is a file that somebody writes to while it is sent.
func changed(name string) error {
	return control.Errorf(control.Cut, "%q was changed while it was read; nothing of it was sent", name).WithHint("put it again when nobody writes to it")
}
