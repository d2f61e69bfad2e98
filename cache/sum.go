package cache

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"slices"
	"syscall"

	"pierfs/backends"
	"pierfs/cache/journal"
	"pierfs/cache/spool"
)

// digest is the SHA-256 of a content, or of a part of it.
type digest = [sha256.Size]byte

func sumOf(staged *spool.File, part spool.Range) (sum digest, err error) {
	h := sha256.New()
	n, err := io.Copy(h, io.NewSectionReader(staged, part.Off, part.End-part.Off))
	if err == nil && n < part.End-part.Off {
		err = io.ErrUnexpectedEOF
	}
	return digest(h.Sum(nil)), err
}

// sumAt returns the sum of a part of what bears name on the server.
func (t *Tree) sumAt(ctx context.Context, name string, part spool.Range) (sum digest, err error) {
	r, err := t.backend.Open(ctx, name)
	if err != nil {
		return sum, err
	}
	defer r.Close()
	h := sha256.New()
	buf := make([]byte, min(part.End-part.Off, uploadChunk))
	for off := part.Off; off < part.End; {
		n, err := r.ReadAt(ctx, buf[:min(part.End-off, int64(len(buf)))], off)
		switch {
		case err != nil && err != io.EOF:
			return sum, err
		case n == 0: // somebody is changing it
			return sum, &backends.Error{Op: "read", Name: name, Code: syscall.EAGAIN, Class: backends.Transient, Err: io.ErrUnexpectedEOF}
		}
		h.Write(buf[:n])
		off += int64(n)
	}
	return digest(h.Sum(nil)), nil
}

// mostSummed is how much of a content that is on its way is summed when its name is taken away: a program waits for it.
const mostSummed = 64 << 20

// marks is how what f may have brought to the server is told from another's once its content is not kept any more; the caller has the
// turn and the sealing of f, which may be nil.
func (t *Tree) marks(f *File) (all []journal.Content) {
	if f == nil {
		return nil
	}
	f.mu.Lock()
	sent := slices.Clone(f.owing.sent)
	f.mu.Unlock()
	for _, s := range sent {
		c := journal.Content{Size: s.size}
		part := spool.Range{End: s.size}
		if lacks := s.staged.Missing(0, s.size); len(lacks) > 0 { // what was to be appended
			part.Off = lacks[len(lacks)-1].End
		}
		part.End = min(part.End, part.Off+mostSummed)
		if sum, err := sumOf(s.staged, part); err != nil {
			t.warn("summing a content that is on its way", err) // its size must do
		} else {
			c.Sum, c.Seen = sum[:], journal.Range(part)
		}
		all = append(all, c)
	}
	return all
}

// mayBeUnheard reports whether something of the file may be on the server of which nobody took note as sent.
func (f *File) mayBeUnheard() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.tried || f.writer != nil
}

// isOneOf reports whether what bears name, of which the server says now, is one of those contents.
func (t *Tree) isOneOf(ctx context.Context, name string, now backends.Info, contents []journal.Content) (bool, error) {
	for _, c := range contents {
		if !now.Mode.IsRegular() || now.Size != c.Size {
			continue
		}
		if c.Sum == nil {
			return true, nil
		}
		if sum, err := t.sumAt(ctx, name, rangeOf(c.Seen)); err != nil || slices.Equal(sum[:], c.Sum) {
			return err == nil, err
		}
	}
	return false, nil
}

// compareEnd reads back what was appended of j, if that is wanted. A difference cannot be mended in place: nobody knows whose those bytes are.
func (f *File) compareEnd(ctx context.Context, j *job) error {
	t := f.tree
	if !t.options.CompareEnds || j.from == j.size {
		return nil
	}
	end := spool.Range{Off: j.from, End: j.size}
	theirs, err := t.sumAt(ctx, j.name, end)
	if err != nil {
		return err
	}
	if ours, err := sumOf(j.staged, end); err != nil || ours == theirs {
		return err
	}
	return &backends.Error{
		Op: "publish", Name: j.name, Code: syscall.EIO, Cause: backends.CauseMismatch,
		Err: errors.New("what the server has appended is not what was sent"),
	}
}
