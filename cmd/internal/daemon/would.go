package daemon

import (
	"context"
	"errors"
	"os"
	"path"
	"syscall"

	"pierfs/backends"
	"pierfs/cmd/internal/control"
)

// What the file verbs would do, with the refusals that they would meet as far as these can be known without trying.

// putPlan tells under which name put would make a file, and what has that name now.
func (d *Daemon) putPlan(ctx context.Context, q control.PutRequest) (control.Done, error) {
	p, err := d.find(ctx, q.FileRequest)
	if err != nil {
		return control.Done{}, err
	}
	if p, err = p.into(ctx, q); err != nil {
		return control.Done{}, err
	}
	done, err := p.wouldTake(ctx, "create", q.NoReplace)
	done.Extends = p.tree.Extends(p.name)
	return done, err
}

// wouldTake tells what has the name that something is to get.
func (p place) wouldTake(ctx context.Context, op string, noReplace bool) (control.Done, error) {
	done := control.Done{Path: p.path()}
	entry, err := p.changeable(ctx, op)
	if err == nil && noReplace {
		err = &backends.Error{Op: op, Name: p.name, Code: syscall.EEXIST}
	}
	switch {
	case errors.Is(err, os.ErrNotExist):
		return done, p.hasRoom(ctx)
	case err != nil:
		return done, p.told(err)
	}
	file := fileOf(entry)
	done.Replaces = &file
	return done, nil
}

// hasRoom wants the directory in which p is to be made.
func (p place) hasRoom(ctx context.Context) error {
	above, err := p.tree.Stat(ctx, aboveOf(p.name))
	if err == nil && !above.IsDir() {
		err = &backends.Error{Op: "stat", Name: aboveOf(p.name), Code: syscall.ENOTDIR}
	}
	return p.told(err)
}

// aboveOf is the directory that name lies in.
func aboveOf(name string) string {
	if above := path.Dir(name); above != "." {
		return above
	}
	return ""
}

// wouldMove tells what renaming p to to would do.
func (p place) wouldMove(ctx context.Context, to string, noReplace bool) (control.Done, error) {
	if _, err := p.changeable(ctx, "rename"); err != nil {
		return control.Done{}, p.told(err)
	}
	return p.at(to).wouldTake(ctx, "rename", noReplace)
}

// wouldMake tells which directory is there, or would be: one without a mode.
func (p place) wouldMake(ctx context.Context, parents bool) (control.File, error) {
	at := p.path()
	file := control.File{Name: control.Name(path.Base(p.name)), Path: &at, Type: "directory"}
	entry, err := p.changeable(ctx, "mkdir")
	switch {
	case err == nil && (!parents || !entry.IsDir()):
		return file, p.told(&backends.Error{Op: "mkdir", Name: p.name, Code: syscall.EEXIST})
	case err == nil:
		return fileOf(entry), nil
	case !errors.Is(err, os.ErrNotExist):
		return file, p.told(err)
	case !parents:
		return file, p.hasRoom(ctx)
	}
	return file, nil
}
