//go:build !amd64

package fs

import "golang.org/x/sys/unix"

const oldOpen = unix.SYS_OPENAT // there is no other

var oldMakers = []uintptr{unix.SYS_RENAMEAT}
