package cache

import (
	"context"
	"os"

	"pierfs/backends"
	"pierfs/cache/journal"
)

// hooked tells Options.Hook right before and after each call that changes something at the server.
type hooked struct {
	backends.Backend
	hook func(string)
}

// wireCalls are the calls that hooked tells of.
var wireCalls = []string{"create", "writeat", "takeover", "commit", "abort", "update", "mkdir", "remove", "rmdir", "rename", "setattr", "symlink", "link"}

// Sites returns all words that Options.Hook may be told.
func Sites() []string {
	sites := append(journal.Sites(), "staging.sync", "staging.synced", "drain.arrived")
	for _, call := range wireCalls {
		sites = append(sites, "wire."+call+".before", "wire."+call+".after")
	}
	return sites
}

func (h hooked) around(call string, do func() error) error {
	h.hook("wire." + call + ".before")
	err := do()
	h.hook("wire." + call + ".after")
	return err
}

func (h hooked) Create(ctx context.Context, name string, mode backends.WriteMode) (w backends.Writer, err error) {
	err = h.around("create", func() error { w, err = h.Backend.Create(ctx, name, mode); return err })
	if err != nil {
		return nil, err
	}
	return hookedWriter{w, h}, nil
}

func (h hooked) Update(ctx context.Context, name string) (w backends.Writer, err error) {
	err = h.around("update", func() error { w, err = h.Backend.Update(ctx, name); return err })
	if err != nil {
		return nil, err
	}
	return hookedWriter{w, h}, nil
}

func (h hooked) Mkdir(ctx context.Context, name string, mode os.FileMode) error {
	return h.around("mkdir", func() error { return h.Backend.Mkdir(ctx, name, mode) })
}

func (h hooked) Remove(ctx context.Context, name string) error {
	return h.around("remove", func() error { return h.Backend.Remove(ctx, name) })
}

func (h hooked) Rmdir(ctx context.Context, name string) error {
	return h.around("rmdir", func() error { return h.Backend.Rmdir(ctx, name) })
}

func (h hooked) Rename(ctx context.Context, from, to string, mode backends.RenameMode) error {
	return h.around("rename", func() error { return h.Backend.Rename(ctx, from, to, mode) })
}

func (h hooked) SetAttr(ctx context.Context, name string, attr backends.Attr) (info backends.Info, err error) {
	err = h.around("setattr", func() error { info, err = h.Backend.SetAttr(ctx, name, attr); return err })
	return info, err
}

func (h hooked) Symlink(ctx context.Context, target, name string) error {
	return h.around("symlink", func() error { return h.Backend.Symlink(ctx, target, name) })
}

func (h hooked) Link(ctx context.Context, old, name string) error {
	return h.around("link", func() error { return h.Backend.Link(ctx, old, name) })
}

type hookedWriter struct {
	backends.Writer
	h hooked
}

func (w hookedWriter) WriteAt(ctx context.Context, p []byte, off int64) (n int, err error) {
	err = w.h.around("writeat", func() error { n, err = w.Writer.WriteAt(ctx, p, off); return err })
	return n, err
}

func (w hookedWriter) Commit(ctx context.Context, c backends.Commit) (info backends.Info, err error) {
	err = w.h.around("commit", func() error { info, err = w.Writer.Commit(ctx, c); return err })
	return info, err
}

func (w hookedWriter) Abort() error {
	return w.h.around("abort", func() error { return w.Writer.Abort() })
}

func (w hookedWriter) TakeOver(ctx context.Context, off, n int64) error {
	return w.h.around("takeover", func() error { return w.Writer.TakeOver(ctx, off, n) })
}
