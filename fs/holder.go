package fs

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// holdsOpen reports whether process pid has the file ino of the mount mountID open for writing, for certain. It asks
// /proc/PID/fdinfo, which answers from the process' own table and never from the file system (kernels before 5.14 name no
// ino there: never certain then).
func holdsOpen(pid uint32, mountID int64, ino uint64) bool {
	if pid == 0 || mountID == 0 {
		return false
	}
	dir := fmt.Sprintf("/proc/%d/fdinfo", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	for _, e := range entries {
		info, err := os.ReadFile(dir + "/" + e.Name())
		if err == nil && isOpenForWriting(info, mountID, ino) {
			return true
		}
	}
	return false
}

func isOpenForWriting(info []byte, mountID int64, ino uint64) bool {
	var sameMount, sameFile, writes bool
	for line := range bytes.Lines(info) {
		key, value, _ := strings.Cut(string(line), ":")
		value = strings.TrimSpace(value)
		switch key {
		case "flags":
			flags, err := strconv.ParseUint(value, 8, 32)
			writes = err == nil && openMode(uint32(flags)).Write
		case "mnt_id":
			sameMount = value == strconv.FormatInt(mountID, 10)
		case "ino":
			sameFile = value == strconv.FormatUint(ino, 10)
		}
	}
	return sameMount && sameFile && writes
}
