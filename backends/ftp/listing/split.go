package listing

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"iter"
	"strconv"
	"syscall"
)

// split yields the lines of r without their ends, which are LF or CR LF, or CR LF only if strict. A line is good until the next
// one is asked for.
func split(r io.Reader, strict bool) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		b := bufio.NewReaderSize(r, MaxLine)
		var begun []byte // of a line that goes on behind a bare LF
		for {
			line, err := b.ReadSlice('\n')
			if err == nil && strict && !bytes.HasSuffix(line, []byte("\r\n")) {
				begun = append(begun, line...)
				if len(begun) < MaxLine {
					continue
				}
				err = bufio.ErrBufferFull
			}
			switch {
			case err == nil:
				if len(begun) > 0 {
					line = append(begun, line...)
					begun = nil
				}
				if !yield(bytes.TrimSuffix(line[:len(line)-1], []byte("\r")), nil) {
					return
				}
				continue
			case err == io.EOF && len(line)+len(begun) == 0:
				return
			case err == io.EOF:
				err = &Error{syscall.EIO, "was cut off in the middle of a line"}
			case errors.Is(err, bufio.ErrBufferFull):
				err = &Error{syscall.EOVERFLOW, "has a line of more than " + strconv.Itoa(MaxLine>>10) + " KiB"}
			}
			yield(nil, err)
			return
		}
	}
}

// inner yields the lines of a reply but for its first and last.
func inner(lines []string) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for i := 1; i < len(lines)-1; i++ {
			if !yield([]byte(lines[i]), nil) {
				return
			}
		}
	}
}
