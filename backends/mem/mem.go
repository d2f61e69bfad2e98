// Package mem is a Backend in memory, for tests: a small server with directories, files, symbolic and hard links, a login,
// a clock and a disk that can be full.
//
// It keeps the contract of package backends as a good SFTP server does, and its capabilities can be taken away one by one; FTP
// tells what is left of them on a server that can only stream.
// Faults are injected by two funcs, asked before and after each call: before, they refuse, delay or block it; after, the call
// has happened and only its reply is lost. Break loses every open file at once, as a broken connection does. The methods in
// server.go look at and change the tree behind the back of whoever uses the Backend, as another client of the server would.
//
// Lock: Backend.mu guards the whole tree and is never held while a hook or a consumer runs.
package mem

import (
	"context"
	"crypto/sha256"
	"errors"
	"iter"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"pierfs/backends"
)

// Options say what kind of server it is. The zero value is one that can do everything.
type Options struct {
	// WorkingDir is where the Backend's names begin, as a path of the server without a leading slash; it is made. What
	// lies outside can only be reached through links, and by the methods that look behind the seam.
	WorkingDir string

	// Change takes capabilities away, or sets limits. It is called once with those of a server that can do everything.
	Change func(*backends.Caps)

	// Size is how many bytes all files may have together; 0 means no limit. More is ENOSPC.
	Size int64

	// TimeUnit is what times are truncated to; 0 means a second, as in SFTP version 3.
	TimeUnit time.Duration

	// ListUnit is what listings truncate times to, where that is coarser than TimeUnit; 0 means that it is not.
	ListUnit time.Duration

	// Known are the fields that the server tells of a file; 0 means all. ListKnown are those that its listings tell of
	// them, AfterWrite those that it tells of what was just changed; 0 means as many.
	Known, ListKnown, AfterWrite backends.Fields

	// Forbid, if it is not nil, says by an errno what the server lets nobody who is logged in do: to make a file of a name, to give one to
	// what has another ("rename", also at a Commit), or to take one away.
	Forbid func(what, name string) syscall.Errno

	// Fault and After are the first hooks; see SetFault and SetAfter.
	Fault, After Hook
}

// FTP returns the options of a server that can only stream, as an FTP server without MLSD: a Reader is one transfer onward, and
// each jump a new one; content is written in order, and is added only at the end; times are of seconds, and in listings of
// minutes; nobody tells owners, links or identities. Calls counts the transfers as "retr", "stor" and "appe". Permissions and
// times can be set; change, which may be nil, is asked last.
func FTP(change func(*backends.Caps)) Options {
	return Options{
		ListUnit: time.Minute,
		Known:    backends.HasType | backends.HasPerm | backends.HasSize | backends.HasModTime,
		Change: func(c *backends.Caps) {
			*c = backends.Caps{
				Protocol: "FTP", Server: c.Server,
				Append: true, Replace: true, SetPerm: true, SetTimes: true,
				TimeUnit: c.TimeUnit, MaxRead: c.MaxRead, MaxWrite: c.MaxWrite,
			}
			if change != nil {
				change(c)
			}
		},
	}
}

// Hook is asked around each call. op is the method's name in lower case, a Reader's Stat is "fstat", each entry of a listing
// is "entry"; name is the name asked for. It may block until ctx ends. An error that is no *backends.Error becomes one: an
// ended context is Lost, everything else Final.
type Hook func(ctx context.Context, op, name string) error

// Backend is the server and one login on it.
type Backend struct {
	caps    backends.Caps
	options Options
	size    int64
	root    *inode // of the server
	work    *inode // the working directory

	mu     sync.Mutex
	fault  Hook
	after  Hook
	calls  map[string]int
	used   int64 // bytes in all files
	lastID uint64
	era    int // of connections: a handle of a former era is lost
	closed bool
}

// New returns an empty server.
func New(o Options) *Backend {
	b := &Backend{options: o, size: o.Size, fault: o.Fault, after: o.After, calls: make(map[string]int)}
	b.caps = backends.Caps{
		Protocol: "mem", Server: "a server in memory",
		RandomRead: true, RandomWrite: true, Append: true, Replace: true, Exclusive: true, Symlink: true, Link: true,
		SetPerm: true, SetOwner: true, SetTimes: true, Truncate: true, Fsync: true, TakeOver: true, StatFS: true,
		TimeUnit: time.Second, MaxRead: 256 << 10, MaxWrite: 256 << 10,
		UID: 1000, GID: 1000, HasLogin: true,
	}
	if o.TimeUnit > 0 {
		b.caps.TimeUnit = o.TimeUnit
	}
	if o.Change != nil {
		o.Change(&b.caps)
	}
	b.root = b.newInode(os.ModeDir | 0o755)
	b.root.parent, b.root.nlink = b.root, 2
	b.work = b.root
	for element := range strings.SplitSeq(o.WorkingDir, "/") {
		if element == "" {
			continue
		}
		child := b.newInode(os.ModeDir | 0o755)
		b.attach(b.work, element, child)
		b.work = child
	}
	return b
}

// Caps returns what this server can do.
func (b *Backend) Caps() backends.Caps {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.caps
}

// SetFault sets the func that is asked before each call; an error of it means that the call does not happen.
func (b *Backend) SetFault(h Hook) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fault = h
}

// SetAfter sets the func that is asked after each call that succeeded; an error of it replaces the reply.
func (b *Backend) SetAfter(h Hook) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.after = h
}

// Break loses every Reader and Writer that is open now. New ones can be opened at once.
func (b *Backend) Break() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.era++
}

// Calls returns how often each op was called, "entry" excepted.
func (b *Backend) Calls() map[string]int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.calls)
}

// enter is the beginning of every call.
func (b *Backend) enter(ctx context.Context, op, name string) error {
	b.mu.Lock()
	closed, fault := b.closed, b.fault
	b.calls[op]++
	b.mu.Unlock()
	if closed {
		return refuse(op, name, syscall.ESHUTDOWN)
	}
	if err := ctx.Err(); err != nil {
		return injected(op, name, backends.Transient, err)
	}
	if err := backends.CheckName(op, name); err != nil {
		return err
	}
	if fault == nil {
		return nil
	}
	return injected(op, name, backends.Lost, fault(ctx, op, name))
}

// leave is the end of every call: its reply may be lost.
func (b *Backend) leave(ctx context.Context, op, name string, err error) error {
	b.mu.Lock()
	after := b.after
	b.mu.Unlock()
	if err != nil || after == nil {
		return err
	}
	return injected(op, name, backends.Lost, after(ctx, op, name))
}

// injected makes a hook's error one of the seam. class is what an ended context means.
func injected(op, name string, class backends.Class, err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*backends.Error](err); ok {
		return err
	}
	if !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		class = backends.Final
	}
	return &backends.Error{Op: op, Name: name, Code: backends.Errno(err), Class: class, Err: err}
}

func refuse(op, name string, code syscall.Errno) error {
	return &backends.Error{Op: op, Name: name, Code: code}
}

// forbids asks Options.Forbid.
func (b *Backend) forbids(what, name string) syscall.Errno {
	if b.options.Forbid == nil {
		return 0
	}
	return b.options.Forbid(what, name)
}

// call makes one call on the tree: the hooks around it, the lock in it, and its errno made an error.
func (b *Backend) call(ctx context.Context, op, name string, do func() syscall.Errno) error {
	if err := b.enter(ctx, op, name); err != nil {
		return err
	}
	return b.leave(ctx, op, name, b.locked(op, name, do))
}

func (b *Backend) locked(op, name string, do func() syscall.Errno) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if code := do(); code != 0 {
		return refuse(op, name, code)
	}
	return nil
}

// Stat describes name.
func (b *Backend) Stat(ctx context.Context, name string) (info backends.Info, err error) {
	err = b.call(ctx, "stat", name, func() syscall.Errno {
		i, code := b.find(name)
		if code == 0 {
			info = b.info(path.Base("/"+name), i)
		}
		return code
	})
	if err != nil {
		return backends.Info{}, err
	}
	return info, nil
}

// List yields the entries as they were when the iteration began, in the order of their names.
func (b *Backend) List(ctx context.Context, dir string) iter.Seq2[backends.Info, error] {
	return func(yield func(backends.Info, error) bool) {
		var entries []backends.Info
		err := b.call(ctx, "list", dir, func() syscall.Errno {
			i, code := b.find(dir)
			if code == 0 && i.mode&os.ModeSymlink != 0 {
				i, code = b.follow(dir)
			}
			if code != 0 {
				return code
			}
			if !i.mode.IsDir() {
				return syscall.ENOTDIR
			}
			for _, element := range slices.Sorted(maps.Keys(i.children)) {
				if backends.CheckElement(element) != 0 {
					b.caps.Hidden++
					continue
				}
				entries = append(entries, b.listed(element, i.children[element]))
			}
			if limit := b.caps.ListLimit; limit > 0 && len(entries) > limit {
				entries = entries[:limit]
			}
			return 0
		})
		if err != nil {
			yield(backends.Info{}, err)
			return
		}
		for _, entry := range entries {
			if err := b.entry(ctx, path.Join(dir, entry.Name)); err != nil {
				yield(backends.Info{}, err)
				return
			}
			if !yield(entry, nil) {
				return
			}
		}
	}
}

// entry is asked before each entry of a listing.
func (b *Backend) entry(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return injected("list", name, backends.Lost, err)
	}
	b.mu.Lock()
	closed, fault := b.closed, b.fault
	b.mu.Unlock()
	if closed {
		return refuse("list", name, syscall.ESHUTDOWN)
	}
	if fault == nil {
		return nil
	}
	return injected("list", name, backends.Lost, fault(ctx, "entry", name))
}

// asides are what a caller is to be told beside a change; see backends.WithAside. Where content can only be streamed he has to ask.
type asides map[string]backends.Info

// touch notes what names are like now. Backend.mu is held.
func (a asides) touch(b *Backend, names ...string) {
	for _, name := range names {
		if i, code := b.find(name); code == 0 {
			a[name] = b.info(path.Base("/"+name), i)
		}
	}
}

// tell tells whoever listens.
func (a asides) tell(ctx context.Context, b *Backend) {
	tell, besides := backends.AsideOf(ctx)
	if tell == nil || !b.Caps().RandomRead {
		return
	}
	b.mu.Lock()
	a.touch(b, besides...)
	b.mu.Unlock()
	for name, info := range a {
		tell(name, info)
	}
}

// changing is call of what changes the directories of names, whose caller is told what these are like then.
func (b *Backend) changing(ctx context.Context, op string, names []string, do func() syscall.Errno) error {
	said := asides{}
	err := b.call(ctx, op, names[0], func() syscall.Errno {
		code := do()
		if code == 0 {
			for _, name := range names {
				said.touch(b, dirOf(name))
			}
			if op == "mkdir" {
				said.touch(b, names...)
			}
		}
		return code
	})
	if err == nil {
		said.tell(ctx, b)
	}
	return err
}

// dirOf is the directory that holds name.
func dirOf(name string) string {
	return strings.TrimSuffix(strings.TrimSuffix(name, path.Base(name)), "/")
}

// Mkdir makes a directory.
func (b *Backend) Mkdir(ctx context.Context, name string, mode os.FileMode) error {
	return b.changing(ctx, "mkdir", []string{name}, func() syscall.Errno {
		dir, element, code := b.free(name)
		if code == 0 {
			b.attach(dir, element, b.newInode(os.ModeDir|b.newPerm(mode, 0o755)))
		}
		return code
	})
}

// Remove removes what is no directory.
func (b *Backend) Remove(ctx context.Context, name string) error {
	return b.changing(ctx, "remove", []string{name}, func() syscall.Errno {
		if code := b.forbids("remove", name); code != 0 {
			return code
		}
		return b.remove(name, false)
	})
}

// Rmdir removes an empty directory.
func (b *Backend) Rmdir(ctx context.Context, name string) error {
	return b.changing(ctx, "rmdir", []string{name}, func() syscall.Errno { return b.remove(name, true) })
}

// Rename moves a name.
func (b *Backend) Rename(ctx context.Context, from, to string, mode backends.RenameMode) error {
	if err := backends.CheckName("rename", to); err != nil {
		return err
	}
	return b.changing(ctx, "rename", []string{from, to}, func() syscall.Errno {
		if code := b.forbids("rename", to); code != 0 {
			return code
		}
		return b.rename(from, to, mode)
	})
}

// SetAttr changes attributes.
func (b *Backend) SetAttr(ctx context.Context, name string, attr backends.Attr) (info backends.Info, err error) {
	err = b.call(ctx, "setattr", name, func() syscall.Errno {
		i, code := b.find(name)
		if code == 0 {
			code = b.settable(i, attr)
		}
		if code == 0 {
			code = b.set(i, attr)
		}
		if code == 0 {
			info = b.changed(path.Base("/"+name), i)
		}
		return code
	})
	if err != nil {
		return backends.Info{}, err
	}
	return info, nil
}

// Symlink makes a link.
func (b *Backend) Symlink(ctx context.Context, target, name string) error {
	return b.call(ctx, "symlink", name, func() syscall.Errno {
		if !b.caps.Symlink {
			return syscall.EOPNOTSUPP
		}
		if target == "" || strings.Contains(target, "\x00") {
			return syscall.EINVAL
		}
		dir, element, code := b.free(name)
		if code == 0 {
			i := b.newInode(os.ModeSymlink | 0o777)
			i.target = target
			b.attach(dir, element, i)
		}
		return code
	})
}

// Readlink returns a link's content.
func (b *Backend) Readlink(ctx context.Context, name string) (target string, err error) {
	err = b.call(ctx, "readlink", name, func() syscall.Errno {
		i, code := b.find(name)
		switch {
		case code != 0:
			return code
		case i.mode&os.ModeSymlink == 0:
			return syscall.EINVAL
		}
		target = i.target
		return 0
	})
	if err != nil {
		return "", err
	}
	return target, nil
}

// Link gives a file another name.
func (b *Backend) Link(ctx context.Context, old, name string) error {
	if err := backends.CheckName("link", old); err != nil {
		return err
	}
	return b.call(ctx, "link", name, func() syscall.Errno {
		if !b.caps.Link {
			return syscall.EOPNOTSUPP
		}
		i, code := b.find(old)
		if code != 0 {
			return code
		}
		if i.mode.IsDir() {
			return syscall.EPERM
		}
		dir, element, code := b.free(name)
		if code == 0 {
			b.attach(dir, element, i)
		}
		return code
	})
}

// Sum adds a file up by SHA-256, if Caps.Sums says that the server does.
func (b *Backend) Sum(ctx context.Context, name string) (sum backends.Sum, err error) {
	err = b.call(ctx, "sum", name, func() syscall.Errno {
		i, code := b.find(name)
		switch {
		case code != 0:
			return code
		case i.mode.IsDir():
			return syscall.EISDIR
		case !b.caps.Sums:
			return syscall.EOPNOTSUPP
		}
		content := make([]byte, i.size)
		value := sha256.Sum256(content[:i.read(content, 0)])
		sum = backends.Sum{Algorithm: "SHA-256", Value: value[:]}
		return 0
	})
	return sum, err
}

// StatFS tells the room that Options.Size leaves.
func (b *Backend) StatFS(ctx context.Context) (space backends.Space, err error) {
	err = b.call(ctx, "statfs", "", func() syscall.Errno {
		if !b.caps.StatFS {
			return syscall.EOPNOTSUPP
		}
		total := uint64(1 << 40)
		if b.size > 0 {
			total = uint64(b.size)
		}
		left := total - min(uint64(b.used), total)
		space = backends.Space{
			Total: total, Free: left, Avail: left,
			Files: 1 << 20, FilesFree: 1<<20 - min(b.lastID, 1<<20),
			BlockSize: pageSize, NameMax: backends.MaxElement,
		}
		return 0
	})
	if err != nil {
		return backends.Space{}, err
	}
	return space, nil
}

// Close ends everything. What the server holds can still be looked at.
func (b *Backend) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	return nil
}
