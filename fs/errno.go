package fs

import (
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"pierfs/backends"
)

// status is what the kernel is told for err.
func status(err error) fuse.Status {
	if err == nil {
		return fuse.OK
	}
	switch code := backends.Errno(err); {
	case code == syscall.ENOSYS:
		// The kernel would take it for "this file system never can" and stop asking, for every file.
		return fuse.Status(syscall.EOPNOTSUPP)
	case code == 0 || code >= 512:
		return fuse.EIO // 512 and up are the kernel's own; it refuses a reply that has one
	default:
		return fuse.Status(code)
	}
}

const (
	statusStale      = fuse.Status(syscall.ESTALE)
	statusShutdown   = fuse.Status(syscall.ESHUTDOWN)
	statusNotSupport = fuse.Status(syscall.EOPNOTSUPP)
)
