package backends

import (
	"bytes"
	"context"
	"io"
	"syscall"
)

// SameContent reports whether the size bytes that r reads are those of mine. That r ends sooner is an error that may pass: the file was
// seen with its size.
func SameContent(ctx context.Context, r Reader, mine io.ReaderAt, size int64) (bool, error) {
	const chunk = 1 << 20
	theirs, ours := make([]byte, min(size, chunk)), make([]byte, min(size, chunk))
	for off := int64(0); off < size; off += int64(len(theirs)) {
		n := min(size-off, int64(len(theirs)))
		theirs, ours = theirs[:n], ours[:n]
		switch got, err := r.ReadAt(ctx, theirs, off); {
		case err != nil && err != io.EOF:
			return false, err
		case int64(got) < n:
			return false, &Error{Op: "read", Code: syscall.EAGAIN, Class: Transient, Err: io.ErrUnexpectedEOF}
		}
		if _, err := mine.ReadAt(ours, off); err != nil && err != io.EOF {
			return false, err
		}
		if !bytes.Equal(theirs, ours) {
			return false, nil
		}
	}
	return true, nil
}
