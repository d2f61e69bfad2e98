package cache

import (
	"context"
	"errors"
	"os"
	"time"

	"pierfs/backends"
	"pierfs/backends/retry"
)

// A renaming or a removal that was not answered is made again once the server is back. What it was meant for may be somebody else's by
// then, so that the server is asked before each repetition.

// replacingOnly returns ctx for a renaming over name that replaces base and nothing else.
func (t *Tree) replacingOnly(ctx context.Context, name string, base backends.Info) context.Context {
	return retry.WithRecheck(ctx, func(ctx context.Context, _ bool, stat stating) (bool, error) {
		now, err := stat(ctx, name)
		switch {
		case errors.Is(err, os.ErrNotExist):
			return false, nil
		case err != nil:
			return false, err
		case t.told(name, now).SameVersion(base):
			return false, nil
		}
		return false, fault("publish", name, changedElsewhere)
	})
}

type stating = func(context.Context, string) (backends.Info, error)

// renameOnce gives from the name to. If an answer was lost and somebody else bears from by now, where to has what was renamed, it is not done
// to his as well. was is what from was; its Known is 0 if nobody knows.
func (t *Tree) renameOnce(ctx context.Context, from, to string, mode backends.RenameMode, was backends.Info) error {
	if tells(was) {
		ctx = retry.WithRecheck(ctx, func(ctx context.Context, lost bool, stat stating) (bool, error) {
			if !lost {
				return false, nil
			}
			now, err := stat(ctx, from)
			if err != nil || t.told(from, now).SameVersion(was) {
				return false, unlessAbsent(err)
			}
			there, err := stat(ctx, to)
			return err == nil && there.SameVersion(was), unlessAbsent(err)
		})
	}
	if mode != backends.Replace {
		return t.backend.Rename(ctx, from, to, mode)
	}
	displaced := t.displaces(to, from)
	err := t.backend.Rename(ctx, from, to, mode)
	displaced(err)
	return err
}

// removeOnce removes name. If an answer was lost and another file bears the name by now, that one stays. was is what name was.
func (t *Tree) removeOnce(ctx context.Context, name string, was backends.Info) error {
	if tells(was) {
		ctx = retry.WithRecheck(ctx, func(ctx context.Context, lost bool, stat stating) (bool, error) {
			if !lost {
				return false, nil
			}
			now, err := stat(ctx, name)
			return err == nil && !t.told(name, now).SameVersion(was), unlessAbsent(err)
		})
	}
	return t.backend.Remove(ctx, name)
}

// removeKnown is removeOnce of what is known to bear name. What was known longer ago tells nothing: somebody else may have changed the file before
// the removal, which means it all the same.
func (t *Tree) removeKnown(ctx context.Context, name string) error {
	was := t.wasAt(name)
	if _, asked, _ := t.attrs.GetListed(name); time.Since(asked) > knownFor {
		was = backends.Info{}
	}
	return t.removeOnce(ctx, name, was)
}

// knownFor is how long what the server said of a name may have been said for a removal to mean that and nothing else.
const knownFor = 5 * time.Second

// wasAt returns what the server has at name, as far as that is known; its Known is 0 if it is not.
func (t *Tree) wasAt(name string) backends.Info {
	if f := t.live(name); f != nil {
		return f.baseInfo()
	}
	info, ok := t.heardOf(name)
	if !ok {
		return backends.Info{}
	}
	return info
}

// tells reports whether info tells a file from another.
func tells(info backends.Info) bool {
	return info.Known.Has(backends.HasType|backends.HasSize|backends.HasModTime) && info.Mode.IsRegular()
}

func unlessAbsent(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
