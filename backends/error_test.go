package backends_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"testing"

	"pierfs/backends"
)

func TestErrorAnswersFromItsCode(t *testing.T) {
	said := errors.New("the server's words")
	err := fmt.Errorf("upload: %w", &backends.Error{Op: "stat", Name: "a\nb", Code: syscall.ENOENT, Cause: backends.CauseOffline, Err: said})
	if !errors.Is(err, os.ErrNotExist) || !errors.Is(err, said) {
		t.Error("neither the code nor what lies below is found")
	}
	if code := backends.Errno(err); code != syscall.ENOENT {
		t.Errorf("Errno = %v", code)
	}
	if want := `upload: stat "a\nb": the server's words`; err.Error() != want {
		t.Errorf("Error = %s, want %s", err, want)
	}
	if backends.CauseOf(err) != backends.CauseOffline {
		t.Error("the cause is lost")
	}
}

// TestBrokenConnectionIsNoEndOfFile: libraries tell of a connection that broke by io.EOF, which a reader takes for success.
func TestBrokenConnectionIsNoEndOfFile(t *testing.T) {
	err := &backends.Error{Op: "readat", Code: syscall.EIO, Class: backends.Lost, Err: fmt.Errorf("handshake failed: %w", io.EOF)}
	if errors.Is(err, io.EOF) {
		t.Error("an error of the seam passes for the end of a file")
	}
	if !errors.Is(err, syscall.EIO) {
		t.Error("its code is lost")
	}
}

func TestErrnoOfOtherErrors(t *testing.T) {
	for err, want := range map[error]syscall.Errno{
		nil:                                 0,
		context.Canceled:                    syscall.EINTR,
		context.DeadlineExceeded:            syscall.ETIMEDOUT,
		syscall.EROFS:                       syscall.EROFS,
		errors.New("anything"):              syscall.EIO,
		fmt.Errorf("x: %w", syscall.ENOSPC): syscall.ENOSPC,
	} {
		if got := backends.Errno(err); got != want {
			t.Errorf("Errno(%v) = %v, want %v", err, got, want)
		}
	}
}

func TestNamesThatMayCross(t *testing.T) {
	long := string(make([]byte, backends.MaxElement+1))
	for name, want := range map[string]syscall.Errno{
		"": 0, "a": 0, "a/b": 0, "..a": 0, "a\nb": 0, "\xff": 0, "a b": 0,
		".": syscall.EINVAL, "a/..": syscall.EINVAL, "/a": syscall.EINVAL, "a/": syscall.EINVAL, "a//b": syscall.EINVAL,
		"a\x00b": syscall.EINVAL, long: syscall.ENAMETOOLONG,
	} {
		if got := backends.Errno(backends.CheckName("stat", name)); got != want {
			t.Errorf("CheckName(%q) = %v, want %v", name, got, want)
		}
	}
}
