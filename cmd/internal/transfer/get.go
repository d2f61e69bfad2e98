package transfer

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"pierfs/cmd/internal/control"
)

// errEnough ends a transfer that was to get one file.
var errEnough = errors.New("enough")

// GetTree brings what the directory o.Remote holds into the directory o.Local, which it makes if it is missing. Files that are here with the
// size and time that the server tells are left alone. What fails is counted, and the rest is done all the same.
func GetTree(ctx context.Context, o Options) (Totals, error) {
	if err := o.Filter.Check(); err != nil {
		return Totals{}, err
	}
	r := newRun(o)
	root, err := r.openLocal()
	if err != nil {
		return Totals{}, err
	}
	defer root.Close()
	err = r.getDir(ctx, root, "")
	if errors.Is(err, errEnough) {
		err = nil
	}
	return r.end(ctx, err)
}

// openLocal opens the directory that all goes to. In a dry run one that is missing is as an empty one.
func (r *run) openLocal() (*os.Root, error) {
	if r.o.Would == nil {
		if err := os.MkdirAll(r.o.Local, 0o777); err != nil {
			return nil, err
		}
		return os.OpenRoot(r.o.Local)
	}
	root, err := os.OpenRoot(r.o.Local)
	if !errors.Is(err, os.ErrNotExist) {
		return root, err
	}
	empty, err := os.MkdirTemp("", "pierfs-")
	if err != nil {
		return nil, err
	}
	root, err = os.OpenRoot(empty)
	return root, errors.Join(err, os.Remove(empty)) // what is open stays, and is empty for good
}

// here is a name of this machine for a dry run.
func (r *run) here(rel string) *control.Name {
	name := control.Name(filepath.Join(r.o.Local, rel))
	return &name
}

// localFile is what has a name here, for a dry run.
func localFile(root *os.Root, name string) *control.File {
	info, err := root.Lstat(name)
	if err != nil {
		return nil
	}
	kinds := map[os.FileMode]string{0: "file", os.ModeDir: "directory", os.ModeSymlink: "symlink"}
	return &control.File{Name: control.Name(name), Type: cmp.Or(kinds[info.Mode().Type()], "other"), Size: info.Size(), Mode: fmt.Sprintf("%04o", info.Mode().Perm()), Time: info.ModTime()}
}

// getDir gets one directory. Its error is that it could not be listed.
func (r *run) getDir(ctx context.Context, root *os.Root, rel string) error {
	files, err := list(ctx, r.o.Client, r.at(rel), !r.o.NoLinks)
	if err != nil {
		return err
	}
	cut := hasParts(root, rel)
	var dirs []string
	for _, f := range files {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		name := string(f.Name)
		to := path.Join(rel, name)
		switch {
		case path.Base(name) != name || !filepath.IsLocal(name): // no server may name another place
			r.failed(ctx, to, control.Errorf(control.BadData, "%q is no name for a file", name).WithHint("it was left out: `pierfs mv` gives it another name at the server"))
		case f.Type == "directory":
			if err := r.makeHere(root, to); err != nil {
				r.failed(ctx, to, err)
				continue
			}
			r.add(func(t *Totals) { t.Dirs++ })
			dirs = append(dirs, to)
		case !r.o.Filter.Fits(f):
		case f.Type == "symlink" && r.o.NoLinks:
		case f.Type == "symlink":
			r.getLink(ctx, root, to, f)
		case f.Type != "file":
			r.failed(ctx, to, control.Errorf(control.Usage, "%q is neither a file nor a directory nor a link", to).WithHint("%s", leftOut))
		default:
			if r.o.NewOnly && r.o.Done.has(gotKey(to, f)) {
				continue
			}
			r.found(f.Size)
			r.workers.Go(func() error {
				r.failed(ctx, to, r.getFile(ctx, root, to, f, cut))
				return nil
			})
			if r.o.First {
				return errEnough
			}
		}
	}
	for _, dir := range dirs {
		if err := r.getDir(ctx, root, dir); err != nil {
			if errors.Is(err, errEnough) || ctx.Err() != nil {
				return err
			}
			r.failed(ctx, dir, err)
		}
	}
	return nil
}

// leftOut is the way out of a thing that no file can be made of.
const leftOut = "it was left out, and nothing need be done; `pierfs stat` tells what it is"

// makeHere makes a directory, if it is not there.
func (r *run) makeHere(root *os.Root, name string) error {
	if info, err := root.Lstat(name); err != nil && r.dry(Effect{Do: "mkdir", Path: r.at(name).Path, Type: "directory", To: r.here(name)}) {
		return nil
	} else if err == nil && !info.IsDir() {
		return inTheWay(name)
	}
	err := root.Mkdir(name, 0o777)
	if !errors.Is(err, os.ErrExist) {
		return err
	}
	if info, err := root.Lstat(name); err != nil || !info.IsDir() {
		return inTheWay(name)
	}
	return nil
}

// getLink makes a link as it is at the server.
func (r *run) getLink(ctx context.Context, root *os.Root, to string, f control.File) {
	if f.Target == nil {
		r.failed(ctx, to, control.Errorf(control.PermissionDenied, "the link %q leads out of the working directory, or cannot be read", to).WithHint("--no-links leaves links out"))
		return
	}
	target := string(*f.Target)
	if now, err := root.Readlink(to); err == nil && now == target {
		r.add(func(t *Totals) { t.Links++ })
		return
	}
	if r.dry(Effect{Do: "link", Path: r.at(to).Path, Type: "symlink", To: r.here(to), Replaces: localFile(root, to)}) {
		return
	}
	temp := path.Join(path.Dir(to), partOf(to, control.Version{}))
	err := root.Symlink(target, temp)
	if errors.Is(err, os.ErrExist) {
		err = errors.Join(root.Remove(temp), root.Symlink(target, temp))
	}
	if info, statErr := root.Lstat(to); err == nil && statErr == nil && info.IsDir() {
		err = inTheWay(to)
	}
	if err == nil {
		err = root.Rename(temp, to)
	}
	if err != nil {
		_ = root.Remove(temp) // it may not be there
		r.failed(ctx, to, err)
		return
	}
	r.add(func(t *Totals) { t.Links++ })
}

// getFile brings one file here, unless it is here.
func (r *run) getFile(ctx context.Context, root *os.Root, to string, f control.File, cut bool) error {
	if info, err := root.Lstat(to); err == nil && !r.o.NewOnly {
		if info.IsDir() {
			return inTheWay(to)
		}
		if info.Mode().IsRegular() && info.Size() == f.Size && !f.Time.IsZero() && info.ModTime().Equal(f.Time) {
			if r.o.Verify == VerifyOff {
				r.did(f.Size, true, false)
				return nil
			}
			if err := r.compare(ctx, root, to); err == nil {
				r.did(f.Size, true, true)
				return nil
			}
		}
	}
	if r.dry(Effect{Do: "get", Path: r.at(to).Path, Type: "file", Size: f.Size, To: r.here(to), Replaces: localFile(root, to)}) {
		return nil
	}
	one := &fetch{client: r.o.Client, remote: r.at(to), root: root, name: to, resume: cut, keep: true, verify: r.o.Verify, time: f.Time, mask: r.o.Mask}
	got, err := one.run(ctx)
	if err != nil {
		return err
	}
	if r.o.NewOnly {
		if err := syncDir(root, path.Dir(to)); err != nil {
			return err
		}
		if err := r.o.Done.add(gotKey(to, f), to); err != nil {
			return err
		}
	}
	r.did(got.Size, false, r.o.Verify != VerifyOff)
	return nil
}

// compare adds a file up on both sides.
func (r *run) compare(ctx context.Context, root *os.Root, name string) error {
	ours, err := root.Open(name)
	if err != nil {
		return err
	}
	defer ours.Close()
	return Compare(ctx, r.o.Client, r.at(name), ours, r.o.Verify)
}

// gotKey tells one version of a file that was got from all others.
func gotKey(name string, f control.File) string {
	return fmt.Sprintf("get %d %d %s", f.Size, f.Time.UnixNano(), name)
}

// GetFile brings the file o.Remote to the name o.Local. What is cut is kept beside it and goes on the next time, if the server's file is
// still the same. The answer is the file as the server tells of it.
func GetFile(ctx context.Context, o Options, counted func(io.Reader, control.Got) io.Reader) (control.Got, error) {
	root, err := os.OpenRoot(filepath.Dir(o.Local))
	if err != nil {
		return control.Got{}, err
	}
	defer root.Close()
	one := &fetch{client: o.Client, remote: o.Remote, root: root, name: filepath.Base(o.Local), resume: true, keep: true, verify: o.Verify, mask: o.Mask, counted: counted}
	return one.run(ctx)
}

// fetch brings one file here.
type fetch struct {
	client  *control.Client
	remote  control.FileRequest
	root    *os.Root
	name    string
	resume  bool // there may be a part of it
	keep    bool // what is cut stays, for the next time
	verify  Verify
	time    time.Time // that the file gets; zero is that which its opening tells
	mask    os.FileMode
	counted func(io.Reader, control.Got) io.Reader
}

// run gets the file. What had the name before keeps it until all of the file is here.
func (f *fetch) run(ctx context.Context) (control.Got, error) {
	q := control.GetRequest{FileRequest: f.remote}
	if f.resume {
		f.offer(ctx, &q)
	}
	got, body, err := control.Get.Call(ctx, f.client, q)
	if err != nil {
		return got, err
	}
	defer body.Close()
	if f.counted != nil {
		body = struct {
			io.Reader
			io.Closer
		}{f.counted(body, got), body}
	}
	part := path.Join(path.Dir(f.name), partOf(f.name, got.Version()))
	file, err := f.root.OpenFile(part, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return got, control.Errorf(control.CannotCreate, "write beside %s: %v", f.name, err).WithHint("check the directory and its permissions")
	}
	defer file.Close()
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return got, control.Errorf(control.Busy, "%q is being got by another process", f.name).WithHint("wait for it, or end it")
	}
	if err := f.fill(ctx, file, body, got); err != nil {
		if !f.keep || !settled(got.Version(), time.Now()) || control.CodeOf(err) == control.BadData {
			err = errors.Join(err, f.root.Remove(part))
		}
		return got, err
	}
	if err := f.root.Rename(part, f.name); err != nil {
		return got, errors.Join(err, f.root.Remove(part))
	}
	return got, nil
}

// offer tells the daemon how much of the file is here already.
func (f *fetch) offer(ctx context.Context, q *control.GetRequest) {
	now, err := control.Stat.Call(ctx, f.client, f.remote)
	if err != nil || !settled(now.Version(), time.Now()) {
		return // Get tells what is wrong
	}
	info, err := f.root.Lstat(path.Join(path.Dir(f.name), partOf(f.name, now.Version())))
	if err != nil || !info.Mode().IsRegular() || info.Size() > now.Size {
		return
	}
	was := now.Version()
	q.Offset, q.Was = info.Size(), &was
}

// fill completes file, and makes it such that it can get its name.
func (f *fetch) fill(ctx context.Context, file *os.File, body io.Reader, got control.Got) error {
	if err := file.Truncate(got.Offset); err != nil {
		return err
	}
	if _, err := file.Seek(got.Offset, io.SeekStart); err != nil {
		return err
	}
	n, err := io.Copy(file, body)
	if err != nil {
		return err
	}
	if got.Offset+n != got.Size {
		return control.Errorf(control.BadData, "%q has %d bytes, and %d came", f.name, got.Size, got.Offset+n).WithHint("it was changed meanwhile: try again")
	}
	if err := errors.Join(file.Chmod(f.mode()), file.Sync()); err != nil {
		return err
	}
	if f.verify != VerifyOff {
		err := Compare(ctx, f.client, f.remote, file, f.verify)
		if control.CodeOf(err) == control.Failed {
			e := *told(err)
			e.Code = control.BadData // what is here is not worth keeping
			return &e
		}
		if err != nil {
			return err
		}
	}
	at := f.time
	if at.IsZero() {
		at = got.Time
	}
	if at.IsZero() {
		return nil
	}
	return f.root.Chtimes(path.Join(path.Dir(f.name), partOf(f.name, got.Version())), time.Now(), at)
}

// mode is that of the file that is replaced, or that of any new file.
func (f *fetch) mode() os.FileMode {
	if info, err := f.root.Lstat(f.name); err == nil && info.Mode().IsRegular() {
		return info.Mode().Perm()
	}
	return 0o666 &^ f.mask
}

const partPrefix, partSuffix = ".pierfs-", ".part"

// partOf is the name of what is here of one version of a file.
func partOf(name string, v control.Version) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d %d %s", v.Size, v.Time.UnixNano(), path.Base(name)))
	return partPrefix + hex.EncodeToString(sum[:8]) + partSuffix
}

// hasParts reports whether something that was cut lies in a directory.
func hasParts(root *os.Root, dir string) bool {
	f, err := root.Open(path.Clean("./" + dir))
	if err != nil {
		return false
	}
	defer f.Close()
	for {
		names, err := f.Readdirnames(1000)
		for _, name := range names {
			if strings.HasPrefix(name, partPrefix) && strings.HasSuffix(name, partSuffix) {
				return true
			}
		}
		if err != nil || len(names) == 0 {
			return false
		}
	}
}

func syncDir(root *os.Root, dir string) error {
	d, err := root.Open(path.Clean("./" + dir))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
