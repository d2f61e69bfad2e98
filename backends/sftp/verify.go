package sftp

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"hash"
	"io"
	"slices"
	"syscall"

	"pierfs/backends"
)

// extCheckFile asks the server for the hash of a file (draft-ietf-secsh-filexfer-extensions-00, section 3; ProFTPD's mod_sftp and
// commercial servers have it, OpenSSH does not).
const extCheckFile = "check-file"

// sum is a way to add a content up.
type sum struct {
	name string
	new  func() hash.Hash
}

// sums are the algorithms that are asked for, the best first.
var sums = []sum{
	{"sha512", sha512.New}, {"sha256", sha256.New}, {"sha1", sha1.New}, {"md5", md5.New},
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
	f := w.m.flight()
	names := ""
	for _, a := range sums {
		names += "," + a.name
	}
	ask := f.add(extendedFrame(extCheckFile+"-name", w.s.path(w.place()), names[1:]).u64(0).u64(0).u32(0)) // from the start, to the end, in one piece
	f.send(bulk)
	p, err := ask.wait(ctx).extended()
	if err != nil {
		return err
	}
	name := p.text()
	if name == extCheckFile { // the draft's own example repeats it
		name = p.text()
	}
	i := slices.IndexFunc(sums, func(s sum) bool { return s.name == name })
	if p.bad || i < 0 {
		return refuse(syscall.EIO, "the server has taken a checksum %q that nobody asked for", name)
	}
	ours := sums[i].new()
	if _, err := io.Copy(ours, io.NewSectionReader(c.Content, 0, c.Size)); err != nil {
		return err
	}
	if theirs := p.b; !bytes.Equal(theirs, ours.Sum(nil)) {
		return mismatch("the server has other bytes than were sent: their %s is %x, and not %x", name, theirs, ours.Sum(nil))
	}
	return nil
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
