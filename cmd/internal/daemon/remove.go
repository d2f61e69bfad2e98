package daemon

import (
	"context"
	"errors"
	"io"
	"os"
	"path"
	"syscall"

	"pierfs/backends"
	"pierfs/cache"
	"pierfs/cmd/internal/control"
)

func (d *Daemon) rm(ctx context.Context, q control.RmRequest, send func(control.Removal) error) error {
	p, err := d.find(ctx, q.FileRequest)
	if err != nil {
		return err
	}
	if p.name == "" {
		return control.Errorf(control.Usage, "the working directory itself cannot be removed").WithHint("name what is in it: `pierfs ls %s` lists that", p.called)
	}
	r := &removal{send: send, dry: q.DryRun, found: 1}
	if q.Recursive {
		return r.whole(ctx, p)
	}
	err = r.single(ctx, p, q.Dir)
	if errors.Is(err, syscall.EISDIR) {
		return control.Errorf(control.Usage, "%q is a directory", q.Path).WithHint("`pierfs rm -d` removes an empty one, `pierfs rm -r` all of it")
	}
	return p.told(err)
}

// removal is one call of rm.
type removal struct {
	send  func(control.Removal) error
	dry   bool
	found int
}

// single removes a file, a link or, with dir, an empty directory.
func (r *removal) single(ctx context.Context, p place, dir bool) error {
	if r.dry {
		return r.wouldRemove(ctx, p, dir)
	}
	told := control.Removal{Path: p.path(), Found: 1}
	if dir {
		err := p.tree.Rmdir(ctx, p.name)
		if !errors.Is(err, syscall.ENOTDIR) {
			told.Type = "directory"
			return errors.Join(err, r.unless(err, told))
		}
	}
	err := p.tree.Remove(ctx, p.name)
	return errors.Join(err, r.unless(err, told))
}

// unless tells what was removed, unless it failed.
func (r *removal) unless(err error, what control.Removal) error {
	if err != nil {
		return nil
	}
	return r.send(what)
}

func (r *removal) wouldRemove(ctx context.Context, p place, dir bool) error {
	entry, err := p.changeable(ctx, "remove")
	switch {
	case err != nil:
		return err
	case entry.IsDir() && !dir:
		return syscall.EISDIR
	case entry.IsDir():
		if err := p.isEmpty(ctx); err != nil {
			return err
		}
	}
	return r.send(removalOf(p, entry, r.found))
}

// whole removes what p names and all below it.
func (r *removal) whole(ctx context.Context, p place) error {
	entry, err := p.changeable(ctx, "remove")
	if err == nil && !entry.IsDir() && !r.dry {
		err = p.tree.Remove(ctx, p.name)
		return p.told(errors.Join(err, r.unless(err, removalOf(p, entry, 1))))
	}
	if err == nil {
		_, err = r.all(ctx, p, entry)
	}
	return p.told(err)
}

// all removes what lies in a directory before itself. Links are removed, never followed. What cannot be removed is told, and the rest goes all
// the same, as with rm(1); an error is one that nothing more can be done behind.
func (r *removal) all(ctx context.Context, p place, entry cache.Entry) (gone bool, err error) {
	if !entry.IsDir() {
		return r.one(ctx, p, entry, p.tree.Remove)
	}
	listing, err := p.tree.List(ctx, p.name)
	if err != nil {
		return r.kept(p, entry, err)
	}
	defer listing.Close()
	empty := true
	for i := 0; ; i++ { // what was listed stays listed, whatever is removed
		e, err := listing.At(ctx, i)
		if err == io.EOF {
			break
		}
		if err != nil {
			return r.kept(p, entry, err)
		}
		r.found++
		gone, err := r.all(ctx, p.at(path.Join(p.name, e.Name)), e)
		if err != nil {
			return false, err
		}
		empty = empty && gone
	}
	if !empty { // why has been told
		return false, nil
	}
	return r.one(ctx, p, entry, p.tree.Rmdir)
}

func (r *removal) one(ctx context.Context, p place, entry cache.Entry, remove func(context.Context, string) error) (gone bool, err error) {
	if !r.dry {
		err = remove(ctx, p.name)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) { // else somebody was faster
		return r.kept(p, entry, err)
	}
	return true, r.send(removalOf(p, entry, r.found))
}

// kept tells what could not be removed, or returns err where all others would fail like it.
func (r *removal) kept(p place, entry cache.Entry, err error) (bool, error) {
	e, _ := errors.AsType[*control.Error](p.told(err))
	switch e.Code {
	case control.PermissionDenied, control.NotEmpty, control.NotFound, control.Usage, control.Failed:
		what := removalOf(p, entry, r.found)
		what.Error = e
		return false, r.send(what)
	}
	return false, err
}

func removalOf(p place, entry cache.Entry, found int) control.Removal {
	what := control.Removal{Path: p.path(), Type: typeOf(entry.Mode), Found: found}
	if entry.Mode.IsRegular() {
		what.Size = entry.Size
	}
	return what
}

// path is how p is written on a command line, behind the connection.
func (p place) path() control.Name { return control.Name("/" + p.name) }

// changeable returns what p names, or why nothing may be done to it.
func (p place) changeable(ctx context.Context, op string) (cache.Entry, error) {
	if p.tree.Caps().ReadOnly {
		return cache.Entry{}, &backends.Error{Op: op, Name: p.name, Code: syscall.EROFS}
	}
	return p.tree.Stat(ctx, p.name)
}

// isEmpty wants a directory that holds nothing.
func (p place) isEmpty(ctx context.Context) error {
	listing, err := p.tree.List(ctx, p.name)
	if err != nil {
		return err
	}
	defer listing.Close()
	switch _, err := listing.At(ctx, 0); err {
	case io.EOF:
		return nil
	case nil:
		return &backends.Error{Op: "rmdir", Name: p.name, Code: syscall.ENOTEMPTY}
	default:
		return err
	}
}
