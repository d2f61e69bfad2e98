package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"

	"golang.org/x/sys/unix"

	"pierfs/integration/process"
)

// Who stores into a mapping and waits for its pages keeps his whole process from having memory: what the daemon needs for them may
// come from this one. So this program does it in another, called with the word storeWord and what to store.

const storeWord = "crash-store"

// storing stores text at off, by way of a shared mapping, into the file name, which is of the given size, and syncs it.
func storing(name string, text []byte, off, size int) error {
	ctx, cancel := context.WithTimeout(context.Background(), process.Patience)
	defer cancel()
	return exec.CommandContext(ctx, "/proc/self/exe", storeWord, name, string(text), strconv.Itoa(off), strconv.Itoa(size)).Run()
}

// isStoring reports whether this process is to store something, which it then did.
func isStoring() bool {
	if len(os.Args) != 6 || os.Args[1] != storeWord {
		return false
	}
	off, bad := strconv.Atoi(os.Args[4])
	size, worse := strconv.Atoi(os.Args[5])
	if err := errors.Join(bad, worse, store(os.Args[2], []byte(os.Args[3]), off, size)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return true
}

// store may die of a fault: then the daemon that was to bring the page is dead.
func store(name string, text []byte, off, size int) error {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	pages, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return closing(f, err)
	}
	copy(pages[off:], text)
	return closing(f, errors.Join(unix.Msync(pages, unix.MS_SYNC), f.Sync(), unix.Munmap(pages)))
}
