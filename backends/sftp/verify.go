package sftp

import (
	"bytes"
	"context"
	"io"
	"slices"
	"strings"
	"syscall"

	"pierfs/backends"
)

// extCheckFile asks the server for the hash of a file (draft-ietf-secsh-filexfer-extensions-00, section 3; ProFTPD's mod_sftp and
// commercial servers have it, OpenSSH does not).
const extCheckFile = "check-file"

// wireSum is how check-file names an algorithm.
func wireSum(algorithm string) string {
	return strings.ToLower(strings.ReplaceAll(algorithm, "-", ""))
}

// mismatch says that the server has another content than was sent.
func mismatch(format string, args ...any) error {
	return &backends.Error{Code: syscall.EIO, Cause: backends.CauseMismatch, Err: refuse(syscall.EIO, format, args...)}
}

// verifies reports whether more than the size of what was written is compared.
func (w *writer) verifies(c backends.Commit) bool {
	return c.Content != nil && (w.b.o.Verify == "hash" || w.b.o.Verify == "readback")
}

// verify compares what was written, which is closed, with what it must be: by the server's hash where that is wanted and there is one,
// else by reading it back.
func (w *writer) verify(ctx context.Context, c backends.Commit) error {
	if w.b.o.Verify == "hash" && w.m.offers(extCheckFile) {
		return w.compareSum(ctx, c)
	}
	return w.readBack(ctx, c)
}

// compareSum has the server add up what it has.
func (w *writer) compareSum(ctx context.Context, c backends.Commit) error {
	theirs, err := w.m.sum(ctx, w.s.path(w.place()))
	if err != nil {
		return err
	}
	ours := backends.NewSum(theirs.Algorithm)
	if _, err := io.Copy(ours, io.NewSectionReader(c.Content, 0, c.Size)); err != nil {
		return err
	}
	if !bytes.Equal(theirs.Value, ours.Sum(nil)) {
		return mismatch("the server has other bytes than were sent: their %s is %s, and not %x", wireSum(theirs.Algorithm), theirs, ours.Sum(nil))
	}
	return nil
}

// Sum asks the server, if it offers check-file.
func (b *Backend) Sum(ctx context.Context, name string) (backends.Sum, error) {
	var found backends.Sum
	err := b.do(ctx, "sum", name, func(s *session) (err error) {
		if !s.meta.offers(extCheckFile) {
			return refuse(syscall.EOPNOTSUPP, "the server computes no checksums")
		}
		if found, err = s.meta.sum(ctx, s.path(name)); err != nil {
			return s.whyPath(ctx, name, err)
		}
		return nil
	})
	return found, err
}

// sum has the server add up a file, by the first of our algorithms that it knows.
func (m *mux) sum(ctx context.Context, path string) (backends.Sum, error) {
	var names []string
	for _, algorithm := range backends.SumAlgorithms() {
		names = append(names, wireSum(algorithm))
	}
	f := m.flight()
	ask := f.add(extendedFrame(extCheckFile+"-name", path, strings.Join(names, ",")).u64(0).u64(0).u32(0)) // from the start, to the end, in one piece
	f.send(bulk)
	p, err := ask.wait(ctx).extended()
	if err != nil {
		return backends.Sum{}, err
	}
	name := p.text()
	if name == extCheckFile { // the draft's own example repeats it
		name = p.text()
	}
	i := slices.Index(names, name)
	if p.bad || i < 0 {
		return backends.Sum{}, refuse(syscall.EIO, "the server has taken a checksum %q that nobody asked for", name)
	}
	return backends.Sum{Algorithm: backends.SumAlgorithms()[i], Value: bytes.Clone(p.b)}, nil
}

// readBack reads what was written, and compares each byte.
func (w *writer) readBack(ctx context.Context, c backends.Commit) error {
	r, err := w.b.open(ctx, w.s, w.place())
	if err != nil {
		return err
	}
	defer r.Close()
	theirs, ours := make([]byte, min(c.Size, maxFlight)), make([]byte, min(c.Size, maxFlight))
	for off := int64(0); off < c.Size; off += int64(len(theirs)) {
		n := min(c.Size-off, maxFlight)
		theirs, ours = theirs[:n], ours[:n]
		if _, err := r.ReadAt(ctx, theirs, off); err != nil && err != io.EOF {
			return err
		}
		if _, err := c.Content.ReadAt(ours, off); err != nil && err != io.EOF {
			return err
		}
		if !bytes.Equal(theirs, ours) {
			return mismatch("the server has other bytes than were sent, in the %d from %d on", n, off)
		}
	}
	return nil
}
