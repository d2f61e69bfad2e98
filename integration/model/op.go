// Package model checks a file system against a model of one: it makes random operations from a seed, has processes of
// their own do them in a directory, does the same in memory, and compares every answer, the server's own files after every
// close, and whole trees whenever nothing is open.
//
// A World is the model: what a directory tree is after a list of operations. Run drives several processes at once. Each has
// a tree to itself, of which everything is known, and all share one directory, of which it is checked that the answers fit
// into one order (a read sees the last write before it, a lock has one holder at a time).
//
// Against faults the checks stay and one freedom is added: an operation may fail with an errno of an absent server, and
// then either happened as a whole or not at all. Run goes on with both worlds until an answer tells them apart.
package model

import (
	"fmt"
	"strings"
	"syscall"
	"time"
)

// Kind is what an operation does.
type Kind string

// The kinds act on a path (Path, and Other where there are two) or on an open file (Slot, and From where there are two).
const (
	Open      Kind = "open"
	Dup       Kind = "dup" // of From, as Slot
	Close     Kind = "close"
	Read      Kind = "read"
	Write     Kind = "write" // at Off, or at the end if the file was opened with O_APPEND
	MapWrite  Kind = "mapwrite"
	Copy      Kind = "copy" // copy_file_range of all from Off of From to the same offset of Slot
	Ftruncate Kind = "ftruncate"
	Fallocate Kind = "fallocate"
	Fsync     Kind = "fsync"
	Fstat     Kind = "fstat"
	Futimens  Kind = "futimens"
	Fchmod    Kind = "fchmod"

	Stat      Kind = "stat"
	Lstat     Kind = "lstat"
	Truncate  Kind = "truncate"
	Rename    Kind = "rename"
	NoReplace Kind = "rename-noreplace"
	Unlink    Kind = "unlink"
	Mkdir     Kind = "mkdir"
	Rmdir     Kind = "rmdir"
	Symlink   Kind = "symlink" // Other is what the link holds
	Readlink  Kind = "readlink"
	Link      Kind = "link"
	Chmod     Kind = "chmod"
	Utimes    Kind = "utimes"
	Readdir   Kind = "readdir"

	// Several system calls in one, for the shared directory. A content is Tag's pattern, Size long.
	Put       Kind = "put"        // write Other, then rename it over Path
	Get       Kind = "get"        // read all of Path
	PutLocked Kind = "put-locked" // write over Path under flock
	GetLocked Kind = "get-locked" // read all of Path under flock
	Take      Kind = "take"       // create Path with O_EXCL, and close it
)

// Op is one operation. Paths are relative to Base, and that to the directory of the run.
type Op struct {
	N     int // its number, by which written bytes are known again
	Hand  int // the process that does it
	Kind  Kind
	Base  string
	Path  string
	Other string
	Slot  int // open file, as the process calls it
	From  int
	Flags int // of open
	Off   int64
	Size  int64
	Mode  uint32
	Time  int64 // seconds
}

// patience is how long the operation may take if each of its system calls may take limit.
func (o Op) patience(limit time.Duration) time.Duration {
	switch o.Kind {
	case MapWrite, Copy, Readdir:
		return 3 * limit
	case Put, Get, Take:
		return 4 * limit
	case PutLocked, GetLocked:
		return 20 * limit // others who wait for the lock come first
	}
	return limit
}

// String tells the operation as a line of a trace.
func (o Op) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "#%d", o.N)
	if o.Hand > 0 {
		fmt.Fprintf(&b, " process %d", o.Hand)
	}
	fmt.Fprintf(&b, " %s", o.Kind)
	if o.Path != "" || o.Kind == Readdir {
		fmt.Fprintf(&b, " %q", short(o.Path))
	}
	if o.Other != "" {
		fmt.Fprintf(&b, " %q", short(o.Other))
	}
	switch o.Kind {
	case Open:
		fmt.Fprintf(&b, " %s mode %#o as fd %d", flagNames(o.Flags), o.Mode, o.Slot)
	case Dup:
		fmt.Fprintf(&b, " fd %d as fd %d", o.From, o.Slot)
	case Copy:
		fmt.Fprintf(&b, " fd %d to fd %d from %d", o.From, o.Slot, o.Off)
	case Close, Fsync, Fstat:
		fmt.Fprintf(&b, " fd %d", o.Slot)
	case Read, Write, MapWrite, Fallocate:
		fmt.Fprintf(&b, " fd %d, %d bytes at %d", o.Slot, o.Size, o.Off)
		if o.Kind == Fallocate && o.Mode != 0 {
			b.WriteString(" keep size")
		}
	case Ftruncate:
		fmt.Fprintf(&b, " fd %d to %d", o.Slot, o.Size)
	case Truncate:
		fmt.Fprintf(&b, " to %d", o.Size)
	case Mkdir, Chmod:
		fmt.Fprintf(&b, " %#o", o.Mode)
	case Fchmod:
		fmt.Fprintf(&b, " fd %d %#o", o.Slot, o.Mode)
	case Utimes:
		fmt.Fprintf(&b, " %d", o.Time)
	case Futimens:
		fmt.Fprintf(&b, " fd %d %d", o.Slot, o.Time)
	case Put, PutLocked:
		fmt.Fprintf(&b, " %d bytes", o.Size)
	}
	return b.String()
}

// short keeps names that are too long on purpose out of traces.
func short(name string) string {
	if len(name) <= 80 {
		return name
	}
	return fmt.Sprintf("%s...(%d bytes)", name[:20], len(name))
}

func flagNames(flags int) string {
	names := []string{[]string{"O_RDONLY", "O_WRONLY", "O_RDWR"}[flags&syscall.O_ACCMODE]}
	for _, f := range []struct {
		bit  int
		name string
	}{{syscall.O_CREAT, "O_CREAT"}, {syscall.O_EXCL, "O_EXCL"}, {syscall.O_TRUNC, "O_TRUNC"}, {syscall.O_APPEND, "O_APPEND"}, {syscall.O_NOFOLLOW, "O_NOFOLLOW"}} {
		if flags&f.bit != 0 {
			names = append(names, f.name)
		}
	}
	return strings.Join(names, "|")
}

// Answer is what an operation returned.
type Answer struct {
	Err   syscall.Errno // 0 if it succeeded
	Hung  bool          // no answer came within the limit
	Call  string        // of a kind that is several calls: the one that failed
	N     int64         // bytes written or copied
	Data  []byte        // read
	Text  string        // of a link
	Names []Name        // of a directory, sorted, without "." and ".."
	Stat  *Attributes
	Begin time.Time // as the caller's clock has it
	End   time.Time
}

// Name is an entry of a directory.
type Name struct {
	Name string
	Type Type
}

// Type is what a name stands for.
type Type uint8

// The types that a server has.
const (
	Unknown Type = iota
	File
	Directory
	SymbolicLink
)

func (t Type) String() string { return []string{"unknown", "file", "directory", "symlink"}[t] }

// Attributes are those of stat(2) that are compared.
type Attributes struct {
	Type  Type
	Perm  uint32
	Size  int64
	Nlink uint64
	Inode uint64
	Mtime int64 // whole seconds, which is what SFTP carries
}

func (a Answer) String() string {
	switch {
	case a.Hung:
		return "no answer"
	case a.Err != 0 && a.Call != "":
		return fmt.Sprintf("%s: %s", a.Call, errnoName(a.Err))
	case a.Err != 0:
		return errnoName(a.Err)
	case a.Stat != nil:
		return fmt.Sprintf("%s %#o size %d links %d mtime %d", a.Stat.Type, a.Stat.Perm, a.Stat.Size, a.Stat.Nlink, a.Stat.Mtime)
	case a.Data != nil:
		return fmt.Sprintf("%d bytes", len(a.Data))
	case a.Names != nil:
		return fmt.Sprintf("%v", a.Names)
	case a.Text != "":
		return fmt.Sprintf("%q", a.Text)
	}
	return "ok"
}

// cell is the length of one piece of a pattern.
const cell = 16

// pattern fills p with what operation n writes at relative offset from: cells that tell number and place, so that a wrong
// byte tells where it came from.
func pattern(n int, from int64, p []byte) {
	for i := 0; i < len(p); {
		at := from + int64(i)
		c := appendCell(nil, n, at/cell)
		i += copy(p[i:], c[at%cell:])
	}
}

func appendCell(b []byte, n int, place int64) []byte {
	return fmt.Appendf(b, "%07d:%07x\n", n%10_000_000, place&0xfffffff)
}

// content returns the first size bytes of operation n's pattern.
func content(n int, size int64) []byte {
	p := make([]byte, size)
	pattern(n, 0, p)
	return p
}
