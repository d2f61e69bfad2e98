package cache

import (
	"context"
	"path"
	"strings"

	"pierfs/backends"
)

// doneName is the name of the empty file that tells a program at the server that name is complete; "" if none is wanted, or if
// name is such a file itself.
func (t *Tree) doneName(name string) string {
	pattern, base := t.options.DoneFile, path.Base(name)
	if pattern == "" {
		return ""
	}
	before, after, _ := strings.Cut(pattern, "NAME")
	own := len(base) > len(before)+len(after) && strings.HasPrefix(base, before) && strings.HasSuffix(base, after)
	done := before + base + after
	if own || len(done) > backends.MaxElement {
		return ""
	}
	return join(parent(name), done)
}

// tellDone makes the empty file that goes with a content which has just got its name, or makes it anew.
func (t *Tree) tellDone(ctx context.Context, name string) error {
	done := t.doneName(name)
	if done == "" {
		return nil
	}
	defer func() {
		t.attrs.Forget(done)
		t.kept.touched(parent(done))
	}()
	return t.options.Retry.Do(ctx, func(ctx context.Context) error {
		w, err := t.backend.Create(ctx, done, backends.WriteMode{Perm: 0o644})
		if err != nil {
			return err
		}
		_, err = w.Commit(ctx, backends.Commit{})
		return err
	})
}

// tellGrown is tellDone for j, of which the end was appended. If it fails that end is there all the same, and is not sent again.
func (f *File) tellGrown(ctx context.Context, j *job) error {
	err := f.tree.tellDone(ctx, j.name)
	j.begun = err != nil
	return err
}
