package dial

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"syscall"

	"pierfs/backends"
	"pierfs/conncfg"
)

// hintNearest adds to the hint of a working directory that does not exist how far its path leads. That takes a login of its
// own; where it fails the hint stays as it was.
func hintNearest(ctx context.Context, t conncfg.Target, n names, o Options, err error) error {
	e, ok := errors.AsType[*backends.Error](err)
	if !ok || e.Cause != backends.CauseWorkingDir || e.Code != syscall.ENOENT {
		return err
	}
	dir, ok := nearest(ctx, t, n, o)
	if !ok {
		return err
	}
	told := *e
	told.Hint = fmt.Sprintf("correct workingDir, or have the directory made; the path exists as far as %q", dir)
	return &told
}

// nearest returns the lowest directory above t's working directory that the server has.
func nearest(ctx context.Context, t conncfg.Target, n names, o Options) (string, bool) {
	dir, top := t.WorkingDir, "."
	if path.IsAbs(dir) {
		top = "/"
	}
	t.WorkingDir = top
	b, err := connect(t, n, o, func(Step) {})
	if err != nil {
		return "", false
	}
	defer b.Close()
	translated := n.translate(b)
	ctx, cancel := context.WithTimeout(ctx, t.ConnectTimeout+t.SocketTimeout)
	defer cancel()
	for up := path.Dir(path.Clean(dir)); up != top; up = path.Dir(up) {
		info, err := translated.Stat(ctx, strings.TrimPrefix(up, "/"))
		switch {
		case err == nil && info.IsDir():
			return up, true
		case err == nil || backends.ClassOf(err) != backends.Final:
			return "", false // a file or link in the way, or no answer
		}
	}
	return top, true
}
