package power

import (
	"context"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// node is an object as the kernel knows it from one mounting to the next.
type node struct {
	fs.Inode
	d *Disk
	o *object
}

var _ = (fs.NodeLookuper)((*node)(nil))
var _ = (fs.NodeReaddirer)((*node)(nil))
var _ = (fs.NodeGetattrer)((*node)(nil))
var _ = (fs.NodeSetattrer)((*node)(nil))
var _ = (fs.NodeCreater)((*node)(nil))
var _ = (fs.NodeMkdirer)((*node)(nil))
var _ = (fs.NodeLinker)((*node)(nil))
var _ = (fs.NodeSymlinker)((*node)(nil))
var _ = (fs.NodeReadlinker)((*node)(nil))
var _ = (fs.NodeUnlinker)((*node)(nil))
var _ = (fs.NodeRmdirer)((*node)(nil))
var _ = (fs.NodeRenamer)((*node)(nil))
var _ = (fs.NodeOpener)((*node)(nil))
var _ = (fs.NodeReader)((*node)(nil))
var _ = (fs.NodeWriter)((*node)(nil))
var _ = (fs.NodeFsyncer)((*node)(nil))
var _ = (fs.NodeAllocater)((*node)(nil))
var _ = (fs.NodeStatfser)((*node)(nil))

// do does something with what programs see, unless there is no power.
func (d *Disk) do(work func() syscall.Errno) syscall.Errno {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.off {
		return syscall.EIO
	}
	return work()
}

// step is do for something that a power failure before or after it makes a difference to.
func (n *node) step(op Op, name string, work func() syscall.Errno) syscall.Errno {
	s := Step{Op: op, Path: filepath.Join(n.Path(nil), name)}
	if n.d.tell(s) {
		n.d.Fail()
	}
	if code := n.d.do(work); code != 0 {
		return code
	}
	s.Made = true
	if n.d.tell(s) {
		n.d.Fail()
		return syscall.EIO
	}
	return 0
}

// names makes changes to directories as a whole; d.mu is held.
func (d *Disk) names(c ...edit) {
	for _, e := range c {
		set(e.dir.names, e.name, e.to)
		d.touch(e.dir)
	}
	d.pending = append(d.pending, c)
}

// child returns the kernel's side of o in n, and tells its attributes; d.mu is held.
func (n *node) child(ctx context.Context, o *object, out *fuse.EntryOut) *fs.Inode {
	o.tell(&out.Attr)
	return n.NewInode(ctx, &node{d: n.d, o: o}, fs.StableAttr{Mode: o.mode & syscall.S_IFMT, Ino: o.number})
}

func (o *object) tell(out *fuse.Attr) {
	out.Ino, out.Mode, out.Uid, out.Gid, out.Nlink = o.number, o.mode, o.uid, o.gid, uint32(o.links)
	out.Size, out.Blksize = uint64(len(o.now.content)), page
	out.Blocks = (out.Size + 511) / 512
	out.SetTimes(&o.now.modified, &o.now.modified, &o.now.changed)
}

func (n *node) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	return n.d.do(func() syscall.Errno { n.o.tell(&out.Attr); return 0 })
}

func (n *node) Setattr(_ context.Context, _ fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	return n.d.do(func() syscall.Errno {
		if mode, ok := in.GetMode(); ok {
			n.o.mode = n.o.mode&syscall.S_IFMT | mode&^syscall.S_IFMT
		}
		if uid, ok := in.GetUID(); ok {
			n.o.uid = uid
		}
		if gid, ok := in.GetGID(); ok {
			n.o.gid = gid
		}
		n.d.change(n.o)
		if size, ok := in.GetSize(); ok {
			n.d.resize(n.o, int(size))
		}
		if modified, ok := in.GetMTime(); ok {
			n.o.now.modified = modified
		}
		n.o.tell(&out.Attr)
		return 0
	})
}

// resize cuts o, or adds zeros to it; d.mu is held.
func (d *Disk) resize(o *object, size int) {
	if grow := size - len(o.now.content); grow > 0 {
		o.now.content = append(o.now.content, make([]byte, grow)...)
	} else {
		o.now.content = slices.Clone(o.now.content[:size]) // whoever reads may still have the rest
	}
	d.touch(o)
}

func (n *node) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (child *fs.Inode, code syscall.Errno) {
	code = n.d.do(func() syscall.Errno {
		o := n.o.names[name]
		if o == nil {
			return syscall.ENOENT
		}
		child = n.child(ctx, o, out)
		return 0
	})
	return child, code
}

func (n *node) Readdir(context.Context) (stream fs.DirStream, code syscall.Errno) {
	code = n.d.do(func() syscall.Errno {
		var entries []fuse.DirEntry
		for name, o := range n.o.names {
			entries = append(entries, fuse.DirEntry{Name: name, Ino: o.number, Mode: o.mode})
		}
		stream = fs.NewListDirStream(entries)
		return 0
	})
	return stream, code
}

// make gives a new object a name.
func (n *node) make(ctx context.Context, name string, mode uint32, content []byte, out *fuse.EntryOut) (child *fs.Inode, code syscall.Errno) {
	code = n.step(Make, name, func() syscall.Errno {
		if n.o.names[name] != nil {
			return syscall.EEXIST
		}
		o := n.d.newObject(mode)
		if caller, ok := fuse.FromContext(ctx); ok {
			o.uid, o.gid = caller.Uid, caller.Gid
		}
		o.now.content = content
		n.d.names(edit{n.o, name, o})
		child = n.child(ctx, o, out)
		return 0
	})
	return child, code
}

func (n *node) Create(ctx context.Context, name string, _, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	child, code := n.make(ctx, name, syscall.S_IFREG|mode, nil, out)
	return child, nil, 0, code
}

func (n *node) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return n.make(ctx, name, syscall.S_IFDIR|mode, nil, out)
}

func (n *node) Symlink(ctx context.Context, target, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return n.make(ctx, name, syscall.S_IFLNK|0o777, []byte(target), out)
}

func (n *node) Readlink(context.Context) (target []byte, code syscall.Errno) {
	code = n.d.do(func() syscall.Errno { target = n.o.now.content; return 0 })
	return target, code
}

func (n *node) Link(ctx context.Context, target fs.InodeEmbedder, name string, out *fuse.EntryOut) (child *fs.Inode, code syscall.Errno) {
	o := target.(*node).o
	code = n.step(Make, name, func() syscall.Errno {
		if n.o.names[name] != nil {
			return syscall.EEXIST
		}
		o.links++
		n.d.change(o)
		n.d.names(edit{n.o, name, o})
		child = n.child(ctx, o, out)
		return 0
	})
	return child, code
}

func (n *node) Unlink(_ context.Context, name string) syscall.Errno {
	return n.remove(name)
}

func (n *node) Rmdir(_ context.Context, name string) syscall.Errno {
	return n.remove(name)
}

func (n *node) remove(name string) syscall.Errno {
	return n.step(Remove, name, func() syscall.Errno {
		o := n.o.names[name]
		if o == nil {
			return syscall.ENOENT
		}
		if len(o.names) > 0 {
			return syscall.ENOTEMPTY
		}
		n.d.dropName(o)
		n.d.names(edit{n.o, name, nil})
		return 0
	})
}

// dropName notes that o has a name less; d.mu is held.
func (d *Disk) dropName(o *object) {
	o.links--
	d.change(o)
}

func (n *node) Rename(_ context.Context, name string, newParent fs.InodeEmbedder, newName string, flags uint32) syscall.Errno {
	to := newParent.(*node)
	return to.step(Rename, newName, func() syscall.Errno {
		o, old := n.o.names[name], to.o.names[newName]
		switch {
		case flags&^unix.RENAME_NOREPLACE != 0:
			return syscall.EINVAL
		case o == nil:
			return syscall.ENOENT
		case old != nil && flags != 0:
			return syscall.EEXIST
		case old == o:
			return 0
		case old != nil && len(old.names) > 0:
			return syscall.ENOTEMPTY
		}
		if old != nil {
			n.d.dropName(old)
		}
		n.d.change(o)
		n.d.names(edit{n.o, name, nil}, edit{to.o, newName, o})
		return 0
	})
}

func (n *node) Open(_ context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return nil, fuse.FOPEN_KEEP_CACHE, n.d.do(func() syscall.Errno {
		if flags&syscall.O_TRUNC != 0 {
			n.d.resize(n.o, 0)
		}
		return 0
	})
}

func (n *node) Read(_ context.Context, _ fs.FileHandle, dest []byte, off int64) (read fuse.ReadResult, code syscall.Errno) {
	code = n.d.do(func() syscall.Errno {
		content := n.o.now.content
		copied := copy(dest, content[min(int(off), len(content)):])
		read = fuse.ReadResultData(dest[:copied])
		return 0
	})
	return read, code
}

func (n *node) Write(_ context.Context, _ fs.FileHandle, data []byte, off int64) (uint32, syscall.Errno) {
	return uint32(len(data)), n.d.do(func() syscall.Errno {
		if end := int(off) + len(data); end > len(n.o.now.content) {
			n.d.resize(n.o, end)
		}
		copy(n.o.now.content[off:], data)
		n.d.touch(n.o)
		return 0
	})
}

// Allocate makes room, or a hole.
func (n *node) Allocate(_ context.Context, _ fs.FileHandle, off, size uint64, mode uint32) syscall.Errno {
	return n.d.do(func() syscall.Errno {
		now := len(n.o.now.content)
		switch end := int(off + size); mode {
		case 0:
			n.d.resize(n.o, max(now, end))
		case unix.FALLOC_FL_KEEP_SIZE:
		case unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE:
			clear(n.o.now.content[min(int(off), now):min(end, now)])
			n.d.touch(n.o)
		default:
			return syscall.EOPNOTSUPP
		}
		return 0
	})
}

// Fsync puts a content, or the names in a directory, on the disk.
func (n *node) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno {
	if n.o.isDir() {
		return n.step(Names, "", func() syscall.Errno {
			n.d.store(func(_ int, c change) bool {
				return slices.ContainsFunc(c, func(e edit) bool { return e.dir == n.o })
			})
			return 0
		})
	}
	return n.step(Sync, "", func() syscall.Errno {
		n.o.then = version{slices.Clone(n.o.now.content), n.o.now.modified, n.o.now.changed}
		return 0
	})
}

// Statfs tells of a disk that is large enough.
func (n *node) Statfs(_ context.Context, out *fuse.StatfsOut) syscall.Errno {
	out.Bsize, out.Frsize, out.NameLen = page, page, 255
	out.Blocks, out.Bfree, out.Bavail = 1<<24, 1<<24, 1<<24
	out.Files, out.Ffree = 1<<24, 1<<24
	return 0
}
