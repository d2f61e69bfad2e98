package fs

import (
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// creates reports whether the thread pid, which waits for us to look up a name, may be about to make it. The kernel asks in the same
// words whatever it asks for; which system call waits is in /proc/PID/syscall (proc_pid_syscall(5)). Where that cannot be read, it may.
func creates(pid uint32) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", pid))
	return err != nil || mayCreate(string(text))
}

// mayCreate is creates for what /proc/PID/syscall holds: the number of the call, and its arguments.
func mayCreate(text string) bool {
	var call uintptr
	var arg [3]uint64
	if n, _ := fmt.Sscanf(text, "%d 0x%x 0x%x 0x%x", &call, &arg[0], &arg[1], &arg[2]); n < 4 {
		return true
	}
	switch {
	case call == unix.SYS_OPENAT:
		return arg[2]&unix.O_CREAT != 0
	case call == oldOpen:
		return arg[1]&unix.O_CREAT != 0
	}
	return slices.Contains(makers, call)
}

// makers are calls that make names, or may, of all architectures; oldMakers are those that only some have.
var makers = append([]uintptr{
	unix.SYS_OPENAT2, unix.SYS_MKDIRAT, unix.SYS_MKNODAT, unix.SYS_SYMLINKAT, unix.SYS_LINKAT, unix.SYS_RENAMEAT2, unix.SYS_IO_URING_ENTER,
}, oldMakers...)
