package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"pierfs/backends"
	"pierfs/cache"
	"pierfs/cmd/internal/control"
)

// The file verbs go to the very tree that the kernel is shown, so that the two can never disagree.

// transferChunk is what get and put carry at a time.
const transferChunk = 1 << 20

// place is one file of one mount.
type place struct {
	tree   *cache.Tree
	name   string
	called string // how commands name the connection
}

// at returns another file of the same mount.
func (p place) at(name string) place { return place{p.tree, name, p.called} }

// told is toldOf for the connection of p.
func (p place) told(err error) error { return toldOf(p.called, err) }

// find returns what q names, good until ctx ends. The daemon opens no path of this machine for a client; this is a name at the server.
func (d *Daemon) find(ctx context.Context, q control.FileRequest) (place, error) {
	tree, w, err := d.treeOf(ctx, q.Connection, q.Environment)
	if err != nil {
		return place{}, err
	}
	name := serverName(q.Path)
	if err := backends.CheckName("find", name); err != nil {
		return place{}, told(err)
	}
	return place{tree, name, d.called(w)}, nil
}

// serverName makes a path of the command line one of the seam: relative to the working directory, clean, and never above it.
func serverName(p control.Name) string {
	return strings.TrimPrefix(path.Clean("/"+string(p)), "/")
}

func (d *Daemon) stat(ctx context.Context, q control.FileRequest) (control.File, error) {
	p, err := d.find(ctx, q)
	if err != nil {
		return control.File{}, err
	}
	return p.stat(ctx)
}

func (p place) stat(ctx context.Context) (control.File, error) {
	entry, err := p.tree.Stat(ctx, p.name)
	if err != nil {
		return control.File{}, p.told(err)
	}
	file := fileOf(entry)
	if entry.Mode.Type() == os.ModeSymlink {
		if target, err := p.tree.Readlink(ctx, p.name); err == nil { // a link that may not be followed has no target to show
			name := control.Name(target)
			file.Target = &name
		}
	}
	return file, nil
}

// fileOf tells an entry.
func fileOf(e cache.Entry) control.File {
	f := control.File{Name: control.Name(e.Name), Type: typeOf(e.Mode), Size: e.Size, Mode: fmt.Sprintf("%04o", unixMode(e.Mode)), Time: e.ModTime.UTC()}
	if e.ModTime.IsZero() {
		f.Time = e.ModTime
	}
	if e.Known.Has(backends.HasOwner) {
		uid, gid := e.UID, e.GID
		f.UID, f.GID = &uid, &gid
	}
	return f
}

func typeOf(mode os.FileMode) string {
	switch mode.Type() {
	case 0:
		return "file"
	case os.ModeDir:
		return "directory"
	case os.ModeSymlink:
		return "symlink"
	}
	return "other"
}

// unixMode is the permission bits as chmod(1) takes them.
func unixMode(mode os.FileMode) uint32 {
	bits := uint32(mode.Perm())
	for flag, bit := range map[os.FileMode]uint32{os.ModeSetuid: 0o4000, os.ModeSetgid: 0o2000, os.ModeSticky: 0o1000} {
		if mode&flag != 0 {
			bits |= bit
		}
	}
	return bits
}

func (d *Daemon) get(ctx context.Context, q control.GetRequest, start func(control.Got) (io.Writer, error)) error {
	p, err := d.find(ctx, q.FileRequest)
	if err != nil {
		return err
	}
	file, entry, err := p.tree.Open(ctx, p.name, cache.OpenMode{Read: true})
	if err != nil {
		return p.told(err)
	}
	defer file.Close(ctx, true) // it was only read
	got := control.Got{File: fileOf(entry)}
	if q.Was != nil && q.Was.Same(got.Version()) && q.Offset <= got.Size {
		got.Offset = max(q.Offset, 0)
	}
	w, err := start(got)
	if err != nil {
		return err
	}
	return p.told(pour(ctx, w, file, got.Offset))
}

// put gathers the whole stream on this machine before it touches the tree: a hand that is cut in the middle leaves nothing
// at the server, not even where the server can do no better than to write the name itself.
func (d *Daemon) put(ctx context.Context, q control.PutRequest, body io.Reader) (control.File, error) {
	p, err := d.find(ctx, q.FileRequest)
	if err != nil {
		return control.File{}, err
	}
	if p, err = p.into(ctx, q); err != nil {
		return control.File{}, err
	}
	gathered, err := d.gather(body, q.Size)
	if err != nil {
		return control.File{}, err
	}
	defer gathered.Close()
	perm := os.FileMode(q.Mode) & os.ModePerm
	if perm == 0 {
		perm = 0o644
	}
	mode := cache.OpenMode{Write: true, Create: true, Truncate: true, Exclusive: q.NoReplace, Perm: perm}
	if q.At > 0 {
		mode = cache.OpenMode{Write: true}
	}
	file, entry, err := p.tree.Open(ctx, p.name, mode)
	if err != nil {
		return control.File{}, p.told(err)
	}
	if q.At > 0 && entry.Size != q.At {
		err = control.Errorf(control.Failed, "%q has %d bytes, and not %d", p.name, entry.Size, q.At).WithHint("somebody else writes to it: put the whole file")
	} else {
		err = fill(ctx, file, gathered, q.At)
	}
	if err == nil && q.Time != nil {
		_, err = file.SetAttr(ctx, backends.Attr{ModTime: q.Time})
	}
	if err == nil {
		err = file.Publish(ctx)
	}
	if err := errors.Join(err, file.Close(ctx, true)); err != nil { // the hand has the file, and is told: nothing to keep here
		return control.File{}, p.told(err)
	}
	return p.stat(ctx)
}

// into follows a name that is a directory to the name within it.
func (p place) into(ctx context.Context, q control.PutRequest) (place, error) {
	entry, err := p.tree.Stat(ctx, p.name)
	slash := strings.HasSuffix(string(q.Path), "/")
	switch {
	case err == nil && entry.IsDir() && q.Into != "":
		if code := backends.CheckElement(string(q.Into)); code != 0 {
			return p, control.Errorf(control.Usage, "%q is no name for a file", q.Into).WithHint("name the file that is to be made: NAME:/path/file")
		}
		return p.at(path.Join(p.name, string(q.Into))), nil
	case err == nil && entry.IsDir():
		return p, control.Errorf(control.Usage, "%q is a directory", q.Path).WithHint("name the file that is to be made in it")
	case err == nil && slash, errors.Is(err, os.ErrNotExist) && slash:
		return p, control.Errorf(control.NotFound, "%q is no directory", q.Path).WithHint("make it with `pierfs mkdir`")
	case err == nil, errors.Is(err, os.ErrNotExist):
		return p, nil
	}
	return p, p.told(err)
}

// gather brings a stream to a file without a name under the state directory, whole or not at all.
func (d *Daemon) gather(body io.Reader, size *int64) (_ *os.File, err error) {
	above := d.o.Dirs.State
	if d.private {
		above = d.o.Dirs.Runtime
	}
	dir := filepath.Join(above, "put")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	file, err := os.CreateTemp(dir, "put-*")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			file.Close()
		}
	}()
	if err := os.Remove(file.Name()); err != nil { // gone with the last handle, also after a crash
		return nil, err
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{file}, body, make([]byte, transferChunk))
	if errors.Is(err, syscall.ENOSPC) {
		return nil, control.Errorf(control.NoSpace, "no room under %s to gather the upload", above).WithHint("make room there; `df -h %s` shows how much there is", above)
	}
	if err != nil {
		return nil, err
	}
	if size != nil && *size != n {
		return nil, control.Errorf(control.Cut, "%d bytes were announced and %d came; nothing was published", *size, n).
			WithHint("the local file changed while it was being read: put it again")
	}
	return file, nil
}

// fill writes all of gathered to file, from at on.
func fill(ctx context.Context, file *cache.File, gathered *os.File, at int64) error {
	buffer := make([]byte, transferChunk)
	for off := int64(0); ; {
		n, err := gathered.ReadAt(buffer, off)
		if n > 0 {
			if _, err := file.WriteAt(ctx, buffer[:n], at+off); err != nil {
				return err
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

func (d *Daemon) mv(ctx context.Context, q control.MvRequest) (control.Done, error) {
	p, err := d.find(ctx, q.FileRequest)
	if err != nil {
		return control.Done{}, err
	}
	to := serverName(q.To)
	if p.name == "" || to == "" {
		return control.Done{}, control.Errorf(control.Usage, "the working directory itself cannot be renamed").WithHint("name what is in it: `pierfs ls %s` lists that", p.called)
	}
	// As mv(1): into a directory that is there, under the old name.
	if entry, err := p.tree.Stat(ctx, to); err == nil && entry.IsDir() {
		to = path.Join(to, path.Base(p.name))
	}
	if q.DryRun {
		return p.wouldMove(ctx, to, q.NoReplace)
	}
	mode := backends.Replace
	if q.NoReplace {
		mode = backends.NoReplace
	}
	return control.Done{Path: p.at(to).path()}, p.told(p.tree.Rename(ctx, p.name, to, mode))
}

func (d *Daemon) mkdir(ctx context.Context, q control.MkdirRequest) (control.File, error) {
	p, err := d.find(ctx, q.FileRequest)
	if err != nil {
		return control.File{}, err
	}
	perm := os.FileMode(q.Mode) & os.ModePerm
	if perm == 0 {
		perm = 0o755
	}
	if q.DryRun {
		return p.wouldMake(ctx, q.Parents)
	}
	if q.Parents {
		if err := p.makeParents(ctx, perm); err != nil {
			return control.File{}, p.told(err)
		}
		return p.stat(ctx)
	}
	entry, err := p.tree.Mkdir(ctx, p.name, perm)
	if err != nil {
		return control.File{}, p.told(err)
	}
	return fileOf(entry), nil
}

// makeParents makes every directory on the way to p, and p.
func (p place) makeParents(ctx context.Context, perm os.FileMode) error {
	if entry, err := p.tree.Stat(ctx, p.name); err == nil {
		if entry.IsDir() {
			return nil
		}
		return syscall.EEXIST
	} else if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if above := path.Dir(p.name); above != "." {
		if err := p.at(above).makeParents(ctx, perm); err != nil {
			return err
		}
	}
	_, err := p.tree.Mkdir(ctx, p.name, perm)
	if errors.Is(err, os.ErrExist) {
		return nil // somebody else was faster
	}
	return err
}
