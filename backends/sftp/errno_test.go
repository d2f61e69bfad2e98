package sftp

import (
	"context"
	"encoding/binary"
	"io"
	"os"
	"sync/atomic"
	"syscall"
	"testing"

	"pierfs/backends"
)

// cutter is a channel that breaks off after a number of the server's packets.
type cutter struct {
	*process
	left   atomic.Int64 // packets that still come; below 0 all do
	packet []byte       // what is left to hand out of the last one
}

func (c *cutter) Read(b []byte) (int, error) {
	if len(c.packet) == 0 {
		if err := c.next(); err != nil {
			return 0, err
		}
	}
	n := copy(b, c.packet)
	c.packet = c.packet[n:]
	return n, nil
}

// next reads a whole packet, for the process below hands out what its pipe has.
func (c *cutter) next() error {
	head := make([]byte, 4)
	if _, err := io.ReadFull(c.process, head); err != nil {
		return err
	}
	body := make([]byte, binary.BigEndian.Uint32(head))
	if _, err := io.ReadFull(c.process, body); err != nil {
		return err
	}
	if c.left.Load() == 0 {
		c.Close()
		return io.EOF
	}
	c.left.Add(-1)
	c.packet = append(head, body...)
	return nil
}

// TestRefusalsThroughBreakingConnections: OpenSSH tells most refusals as FAILURE, and is asked for the reason. Wherever
// the connection breaks in that, the call ends with the right errno or may be made again, and never with an EIO that looks
// like the server's last word.
func TestRefusalsThroughBreakingConnections(t *testing.T) {
	calls := map[string]struct {
		call func(context.Context, *Backend) error
		want syscall.Errno
	}{
		"rmdir of a full directory": {func(ctx context.Context, b *Backend) error { return b.Rmdir(ctx, "full") }, syscall.ENOTEMPTY},
		"rmdir of a file":           {func(ctx context.Context, b *Backend) error { return b.Rmdir(ctx, "file") }, syscall.ENOTDIR},
		"remove of a directory":     {func(ctx context.Context, b *Backend) error { return b.Remove(ctx, "empty") }, syscall.EISDIR},
		"mkdir of what exists":      {func(ctx context.Context, b *Backend) error { return b.Mkdir(ctx, "file", 0o755) }, syscall.EEXIST},
		"symlink over a file":       {func(ctx context.Context, b *Backend) error { return b.Symlink(ctx, "x", "file") }, syscall.EEXIST},
		"link over a file":          {func(ctx context.Context, b *Backend) error { return b.Link(ctx, "file", "other") }, syscall.EEXIST},
		"link of a directory":       {func(ctx context.Context, b *Backend) error { return b.Link(ctx, "empty", "new") }, syscall.EPERM},
		"list of a file":            {func(ctx context.Context, b *Backend) error { return firstError(b.List(ctx, "file")) }, syscall.ENOTDIR},
		"readlink of a file": {func(ctx context.Context, b *Backend) error {
			_, err := b.Readlink(ctx, "file")
			return err
		}, syscall.EINVAL},
		"rename over a full directory": {func(ctx context.Context, b *Backend) error {
			return b.Rename(ctx, "empty", "full", backends.Replace)
		}, syscall.ENOTEMPTY},
		"rename of a file over a directory": {func(ctx context.Context, b *Backend) error {
			return b.Rename(ctx, "file", "empty", backends.Replace)
		}, syscall.EISDIR},
		"rename of a directory over a file": {func(ctx context.Context, b *Backend) error {
			return b.Rename(ctx, "empty", "file", backends.Replace)
		}, syscall.ENOTDIR},
		"rename to a new name that exists": {func(ctx context.Context, b *Backend) error {
			return b.Rename(ctx, "file", "other", backends.NoReplace)
		}, syscall.EEXIST},
		"exclusive creation of a file": {func(ctx context.Context, b *Backend) error {
			_, err := b.Create(ctx, "file", backends.WriteMode{TempName: ".temp", Exclusive: true})
			return err
		}, syscall.EEXIST},
		"creation below a file": {func(ctx context.Context, b *Backend) error {
			_, err := b.Create(ctx, "file/below", backends.WriteMode{TempName: "file/.temp"})
			return err
		}, syscall.ENOTDIR},
	}
	for what, c := range calls {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			for answered, uncut := int64(0), false; !uncut; answered++ {
				var first *cutter
				r := newRig(t, Options{}, func(p *process) io.ReadWriteCloser {
					channel := &cutter{process: p}
					channel.left.Store(-1)
					if first == nil {
						first = channel
					}
					return channel
				})
				put(t, r.path("file"), []byte("content"))
				put(t, r.path("other"), []byte("content"))
				ok(t, os.Mkdir(r.path("empty"), 0o755))
				ok(t, os.Mkdir(r.path("full"), 0o755))
				put(t, r.path("full/file"), nil)
				works(t, r.Backend)
				first.left.Store(answered)
				err := c.call(t.Context(), r.Backend)
				uncut = first.left.Load() > 0
				class := backends.ClassOf(err)
				if code := backends.Errno(err); code != c.want && (class == backends.Final || uncut) || err == nil {
					t.Errorf("cut after %d answers: got %v (%v, %v), want %v", answered, err, code, class, c.want)
				}
				if answered > 100 {
					t.Fatal("it goes on asking")
				}
				ok(t, r.Close())
			}
		})
	}
}

// TestExclusiveCreationLeavesAProof: when the answer to an exclusive creation is lost, and the name was made, it is a link of
// the claim; see backends.ClaimName. When it is answered no claim is left.
func TestExclusiveCreationLeavesAProof(t *testing.T) {
	for answered, uncut := int64(0), false; !uncut; answered++ {
		var first *cutter
		r := newRig(t, Options{}, func(p *process) io.ReadWriteCloser {
			channel := &cutter{process: p}
			channel.left.Store(-1)
			if first == nil {
				first = channel
			}
			return channel
		})
		works(t, r.Backend)
		first.left.Store(answered)
		w, err := r.Create(t.Context(), "lock", backends.WriteMode{TempName: ".temp", Perm: 0o640, Exclusive: true})
		if uncut = first.left.Load() > 0; uncut {
			first.left.Store(-1) // nor is what follows
		}
		lock, absent := os.Lstat(r.path("lock"))
		claim, unproven := os.Lstat(r.path(backends.ClaimName(".temp")))
		switch {
		case err == nil && (absent != nil || lock.Size() != 0 || lock.Mode().Perm() != 0o640):
			t.Errorf("cut after %d answers: the name is %v, %v; want an empty file", answered, lock, absent)
		case err == nil:
			_, err := w.Commit(t.Context(), backends.Commit{})
			cut := err != nil && !uncut // in between, which is as well
			if got := entries(t, r, ""); !cut && (err != nil || len(got) != 1) {
				t.Errorf("cut after %d answers: commit says %v, and there are %q, want lock alone", answered, err, got)
			}
		case backends.ClassOf(err) == backends.Final:
			t.Errorf("cut after %d answers: %v", answered, err)
		case absent == nil && (unproven != nil || !os.SameFile(lock, claim)):
			t.Errorf("cut after %d answers: the name was made, and nothing proves it: %v", answered, unproven)
		}
		ok(t, r.Close())
	}
}

// TestExclusiveCreationWithoutLinks: a server may offer links for files that can have none.
func TestExclusiveCreationWithoutLinks(t *testing.T) {
	refused := 0
	b, _ := scripted(t, Options{}, func(kind byte, p *parser) ([]byte, bool) {
		switch {
		case kind == typeExtended && p.text() == extHardlink:
			refused++
			return statusReply(statusFailure), true
		case kind == typeLstat && p.text() == "/base/file":
			return statusReply(statusNoSuchFile), true
		}
		return nil, false
	})
	for range 2 {
		w, err := b.Create(t.Context(), "file", backends.WriteMode{TempName: ".temp", Exclusive: true})
		ok(t, err)
		ok(t, w.Abort())
	}
	if refused != 1 || b.Caps().Link {
		t.Errorf("%d links were asked for, want one; Caps.Link = %v, want false", refused, b.Caps().Link)
	}
}

// TestExclusiveCreationTellsWhyNothingCanBeMade: what the server says of a link of a claim that could not be made is no reason.
func TestExclusiveCreationTellsWhyNothingCanBeMade(t *testing.T) {
	b, _ := scripted(t, Options{}, func(kind byte, p *parser) ([]byte, bool) {
		switch {
		case kind == typeExtended && p.text() == extHardlink, kind == typeLstat && p.text() == "/base/file":
			return statusReply(statusNoSuchFile), true
		case kind == typeOpen:
			return statusReply(statusPermissionDenied), true
		}
		return nil, false
	})
	_, err := b.Create(t.Context(), "file", backends.WriteMode{TempName: ".temp", Exclusive: true})
	if backends.Errno(err) != syscall.EACCES {
		t.Errorf("got %v, want EACCES", err)
	}
}
