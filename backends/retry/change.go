package retry

import (
	"context"
	"errors"
	"os"
	"syscall"

	"pierfs/backends"
)

// settle asks the server what became of a change whose reply was lost: done, or not done (and then it may be repeated). An
// error that is Final says that somebody else's doing is in the way.
type settle func(context.Context) (done bool, err error)

// A Recheck tells whether a Rename or a Remove that failed may be made again: what it was meant for may be somebody else's by
// then. It asks by stat, which waits no longer than the attempt may; lost says that the change may have come to pass. done says that the change has come to pass, or is not to any more.
type Recheck func(ctx context.Context, lost bool, stat func(context.Context, string) (backends.Info, error)) (done bool, err error)

type recheckKey struct{}

// WithRecheck returns ctx for one change that is not made again before check has allowed it. An error of check ends the change.
func WithRecheck(ctx context.Context, check Recheck) context.Context {
	return context.WithValue(ctx, recheckKey{}, check)
}

// change repeats a change that must not happen twice. Once a reply was lost, no repetition is sent before the server has
// told its state, and no refusal is believed before that: it may be the echo of our own success.
func (b *Backend) change(ctx context.Context, op, name string, do func(context.Context) error, settle settle) error {
	unsure, again := false, false
	check, _ := ctx.Value(recheckKey{}).(Recheck)
	return b.run(ctx, op, name, nothing, func(ctx context.Context) error {
		if unsure {
			if done, err := settle(ctx); done || err != nil {
				return err
			}
		}
		if again && check != nil {
			if done, err := check(ctx, unsure, b.Backend.Stat); done || err != nil {
				return err
			}
		}
		again = true
		err := do(ctx)
		switch class := backends.ClassOf(err); {
		case err != nil && (class == backends.Lost || ctx.Err() != nil):
			unsure = true
		case err != nil && class == backends.Final && unsure:
			if done, _ := settle(ctx); done {
				return nil
			}
		}
		return err
	})
}

// gone settles a Remove: nothing bears the name. Where somebody made a new file meanwhile, that one is removed.
func (b *Backend) gone(name string) settle {
	return func(ctx context.Context) (bool, error) {
		_, err := b.Backend.Stat(ctx, name)
		if errors.Is(err, os.ErrNotExist) {
			return true, nil
		}
		return false, err
	}
}

// Mkdir repeats. After a lost reply an empty directory counts as ours: the caller has just been told that the name was
// free. One with something in it was made by others: EEXIST.
func (b *Backend) Mkdir(ctx context.Context, name string, mode os.FileMode) error {
	do := func(ctx context.Context) error { return b.Backend.Mkdir(ctx, name, mode) }
	return b.change(ctx, "mkdir", name, do, func(ctx context.Context) (bool, error) {
		info, err := b.Backend.Stat(ctx, name)
		switch {
		case errors.Is(err, os.ErrNotExist):
			return false, nil
		case err != nil:
			return false, err
		case !info.IsDir():
			return false, exists("mkdir", name)
		}
		for _, err := range b.Backend.List(ctx, name) {
			if err == nil {
				err = exists("mkdir", name)
			}
			return false, err
		}
		return true, nil
	})
}

// Remove repeats.
func (b *Backend) Remove(ctx context.Context, name string) error {
	do := func(ctx context.Context) error { return b.Backend.Remove(ctx, name) }
	return b.change(ctx, "remove", name, do, b.gone(name))
}

// Rmdir repeats.
func (b *Backend) Rmdir(ctx context.Context, name string) error {
	do := func(ctx context.Context) error { return b.Backend.Rmdir(ctx, name) }
	return b.change(ctx, "rmdir", name, do, b.gone(name))
}

// Rename repeats. After a lost reply it is done if from is gone and to is there.
func (b *Backend) Rename(ctx context.Context, from, to string, mode backends.RenameMode) error {
	do := func(ctx context.Context) error { return b.Backend.Rename(ctx, from, to, mode) }
	return b.change(ctx, "rename", from, do, func(ctx context.Context) (bool, error) {
		_, err := b.Backend.Stat(ctx, from)
		if !errors.Is(err, os.ErrNotExist) {
			return false, err
		}
		if _, err := b.Backend.Stat(ctx, to); err != nil {
			return false, err
		}
		return true, nil
	})
}

// Symlink repeats. After a lost reply it is done if the link is there with the content asked for.
func (b *Backend) Symlink(ctx context.Context, target, name string) error {
	do := func(ctx context.Context) error { return b.Backend.Symlink(ctx, target, name) }
	return b.change(ctx, "symlink", name, do, func(ctx context.Context) (bool, error) {
		found, err := b.Backend.Readlink(ctx, name)
		switch {
		case errors.Is(err, os.ErrNotExist):
			return false, nil
		case errors.Is(err, syscall.EINVAL), err == nil && found != target:
			return false, exists("symlink", name)
		}
		return err == nil, err
	})
}

// Link repeats. After a lost reply it is done if both names describe the same file, as far as the server's attributes tell.
func (b *Backend) Link(ctx context.Context, old, name string) error {
	do := func(ctx context.Context) error { return b.Backend.Link(ctx, old, name) }
	return b.change(ctx, "link", name, do, func(ctx context.Context) (bool, error) {
		found, err := b.Backend.Stat(ctx, name)
		if errors.Is(err, os.ErrNotExist) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		wanted, err := b.Backend.Stat(ctx, old)
		if err != nil {
			return false, err
		}
		if !found.SameVersion(wanted) {
			return false, exists("link", name)
		}
		return true, nil
	})
}

// SetAttr repeats: it sets what is to be, whatever was.
func (b *Backend) SetAttr(ctx context.Context, name string, attr backends.Attr) (backends.Info, error) {
	return ask(ctx, b, "setattr", name, func(ctx context.Context) (backends.Info, error) {
		return b.Backend.SetAttr(ctx, name, attr)
	})
}

func exists(op, name string) error {
	return failure(op, name, syscall.EEXIST, backends.Final, "", nil)
}
