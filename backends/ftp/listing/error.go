package listing

import (
	"fmt"
	"syscall"
)

// Error is a listing that cannot be believed.
type Error struct {
	Code syscall.Errno // EIO for one that was cut off, EOVERFLOW beyond the bounds
	Why  string
}

// Error tells why.
func (e *Error) Error() string { return fmt.Sprintf("the listing %s", e.Why) }

// Unwrap returns the code.
func (e *Error) Unwrap() error { return e.Code }
