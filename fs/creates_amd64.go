package fs

import "golang.org/x/sys/unix"

const oldOpen = unix.SYS_OPEN

var oldMakers = []uintptr{
	unix.SYS_CREAT, unix.SYS_MKDIR, unix.SYS_MKNOD, unix.SYS_SYMLINK, unix.SYS_LINK, unix.SYS_RENAME, unix.SYS_RENAMEAT,
}
