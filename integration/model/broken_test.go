package model

import (
	"errors"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// fault stands between a process and the local disk that does what it asks for.
type fault func(o Op, do func(Op) Answer) Answer

// brokenAlone are file systems with one fault each, which a single process can notice.
var brokenAlone = map[string]fault{
	"a write is lost": func(o Op, do func(Op) Answer) Answer {
		if o.Kind == Write && o.N%20 == 0 {
			return Answer{N: o.Size}
		}
		return do(o)
	},
	"a write loses its last byte": func(o Op, do func(Op) Answer) Answer {
		if o.Kind == Write && o.N%20 == 0 && o.Size > 1 {
			o.Size--
			a := do(o)
			a.N++
			return a
		}
		return do(o)
	},
	"O_APPEND is ignored": func(o Op, do func(Op) Answer) Answer {
		o.Flags &^= syscall.O_APPEND
		return do(o)
	},
	"O_EXCL is ignored": func(o Op, do func(Op) Answer) Answer {
		o.Flags &^= syscall.O_EXCL
		return do(o)
	},
	"O_TRUNC is ignored": func(o Op, do func(Op) Answer) Answer {
		o.Flags &^= syscall.O_TRUNC
		return do(o)
	},
	"a read is wrong in one byte": func(o Op, do func(Op) Answer) Answer {
		a := do(o)
		if o.Kind == Read && len(a.Data) > 1000 {
			a.Data[len(a.Data)-1]++
		}
		return a
	},
	"a read ends too early": func(o Op, do func(Op) Answer) Answer {
		a := do(o)
		if o.Kind == Read && len(a.Data) > 1000 {
			a.Data = a.Data[:1000]
		}
		return a
	},
	"renaming over a full directory merges": func(o Op, do func(Op) Answer) Answer {
		a := do(o)
		if o.Kind == Rename && a.Err == syscall.ENOTEMPTY {
			a.Err = 0
		}
		return a
	},
	"RENAME_NOREPLACE replaces": func(o Op, do func(Op) Answer) Answer {
		if o.Kind == NoReplace && o.Path != o.Other {
			o.Kind = Rename
		}
		return do(o)
	},
	"every refusal is EIO": func(o Op, do func(Op) Answer) Answer {
		a := do(o)
		if a.Err == syscall.ENOTEMPTY {
			a.Err = syscall.EIO
		}
		return a
	},
	"chmod does nothing": func(o Op, do func(Op) Answer) Answer {
		if o.Kind == Chmod {
			o.Kind = Stat
			return Answer{Err: do(o).Err}
		}
		return do(o)
	},
	"utimes before the close is lost": func(o Op, do func(Op) Answer) Answer {
		if o.Kind == Futimens {
			o.Kind = Fstat
			return Answer{Err: do(o).Err}
		}
		return do(o)
	},
	"a name is missing in listings": func(o Op, do func(Op) Answer) Answer {
		a := do(o)
		if o.Kind == Readdir && len(a.Names) > 3 {
			a.Names = a.Names[1:]
		}
		return a
	},
	"an unlinked file is gone for who has it open": func(o Op, do func(Op) Answer) Answer {
		a := do(o)
		if o.Kind == Read && a.Err == 0 && do(Op{Kind: Fstat, Slot: o.Slot}).Stat.Nlink == 0 {
			return Answer{Err: syscall.ESTALE}
		}
		return a
	},
	"hard links are copies": func(o Op, do func(Op) Answer) Answer {
		a := do(o)
		if (o.Kind == Stat || o.Kind == Lstat) && a.Err == 0 && a.Stat.Type == File {
			a.Stat.Nlink = 1
		}
		return a
	},
	"inode numbers change": func(o Op, do func(Op) Answer) Answer {
		a := do(o)
		if a.Stat != nil {
			a.Stat.Inode += uint64(o.N / 500)
		}
		return a
	},
	"close fails": func(o Op, do func(Op) Answer) Answer {
		a := do(o)
		if o.Kind == Close && o.N%50 == 0 {
			a.Err = syscall.EIO
		}
		return a
	},
	"an operation hangs": func(o Op, do func(Op) Answer) Answer {
		if o.N == 300 {
			time.Sleep(time.Hour) // until it is killed
		}
		return do(o)
	},
}

// TestModelNoticesEveryFault runs the model on a local disk with one fault after the other, and shrinks what it finds.
func TestModelNoticesEveryFault(t *testing.T) {
	t.Parallel()
	for name := range brokenAlone {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			o := Options{Dir: dir, Backing: dir, Seed: 3, Ops: 6000, Quiesce: 400, Alone: true, Limit: 5 * time.Second, Command: serving(t, name)}
			report, err := Run(o)
			f, ok := errors.AsType[*Failure](err)
			if !ok {
				t.Fatalf("not noticed in %v (%v)", report, err)
			}
			if name == "an operation hangs" || name == "inode numbers change" {
				t.Logf("%s", f.Why)
				return // it depends on the number of the operation, which a shorter trace does not reach
			}
			small := Shrink(o, f, time.Minute) // it ends by itself after a few seconds
			t.Logf("%v", small)
			if small == f || len(small.Trace) > 20 {
				t.Errorf("the trace of %d operations did not become smaller than %d", len(f.Trace), len(small.Trace))
			}
		})
	}
}

// TestModelNoticesALyingClose: what is only in the mount after a close, and not on the server, is found at once.
func TestModelNoticesALyingClose(t *testing.T) {
	t.Parallel()
	o := Options{Dir: t.TempDir(), Backing: t.TempDir(), Seed: 1, Ops: 500, Alone: true, Command: serving(t, "")}
	_, err := Run(o)
	f, ok := errors.AsType[*Failure](err)
	if !ok {
		t.Fatalf("a server without any of the files was not noticed: %v", err)
	}
	t.Log(Shrink(o, f, time.Minute))
}

// brokenShared have faults that need several processes to be seen.
var brokenShared = map[string]fault{
	"two processes get the lock": func(o Op, do func(Op) Answer) Answer {
		a := do(o)
		if o.Kind == Take && filepath.Base(o.Path) == "exclusive" && a.Err == syscall.EEXIST {
			a = Answer{}
		}
		return a
	},
	"replacing removes first": func(o Op, do func(Op) Answer) Answer {
		if o.Kind == Put {
			do(Op{Kind: Unlink, Base: o.Base, Path: o.Path})
			time.Sleep(2 * time.Millisecond) // the fault itself: as long as a slow server leaves the name empty
		}
		return do(o)
	},
	"replacing writes in place": func(o Op, do func(Op) Answer) Answer {
		if o.Kind == Put {
			o.Kind = PutLocked // a reader takes no lock here
		}
		return do(o)
	},
	"an old version is read": func() fault {
		known := map[string]Answer{}
		return func(o Op, do func(Op) Answer) Answer {
			if o.Kind != Get && o.Kind != GetLocked {
				return do(o)
			}
			if a, ok := known[o.Path]; ok && o.N%3 == 0 {
				return a
			}
			a := do(o)
			known[o.Path] = a
			return a
		}
	}(),
}

// TestModelNoticesFaultsBetweenProcesses is the same for what several processes do to each other.
func TestModelNoticesFaultsBetweenProcesses(t *testing.T) {
	t.Parallel()
	for name := range brokenShared {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			report, err := Run(Options{Dir: dir, Backing: dir, Seed: 4, Ops: 1500, Processes: 4, Command: serving(t, name)})
			if err == nil {
				t.Fatalf("not noticed in %v", report)
			}
			t.Log(err)
		})
	}
}
