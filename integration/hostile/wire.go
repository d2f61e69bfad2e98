package hostile

import "encoding/binary"

// Op names what a client asks for: a word of the protocol's own in lower case, or the name of an extension.
type Op string

// The requests of version 3 (draft-ietf-secsh-filexfer-02), and the extensions of OpenSSH that the server can answer.
const (
	Open        Op = "open"
	Close       Op = "close"
	Read        Op = "read"
	Write       Op = "write"
	Lstat       Op = "lstat"
	Fstat       Op = "fstat"
	Setstat     Op = "setstat"
	Fsetstat    Op = "fsetstat"
	Opendir     Op = "opendir"
	Readdir     Op = "readdir"
	Remove      Op = "remove"
	Mkdir       Op = "mkdir"
	Rmdir       Op = "rmdir"
	Realpath    Op = "realpath"
	Stat        Op = "stat"
	Rename      Op = "rename"
	Readlink    Op = "readlink"
	Symlink     Op = "symlink"
	PosixRename Op = "posix-rename@openssh.com"
	Hardlink    Op = "hardlink@openssh.com"
	Fsync       Op = "fsync@openssh.com"
	StatVFS     Op = "statvfs@openssh.com"
	Limits      Op = "limits@openssh.com"
)

var opOfKind = map[byte]Op{
	3: Open, 4: Close, 5: Read, 6: Write, 7: Lstat, 8: Fstat, 9: Setstat, 10: Fsetstat, 11: Opendir, 12: Readdir, 13: Remove,
	14: Mkdir, 15: Rmdir, 16: Realpath, 17: Stat, 18: Rename, 19: Readlink, 20: Symlink,
}

// Kinds of packets that a server sends, and the two of a client that have no Op of their own.
const (
	kindInit          = 1
	kindVersion       = 2
	kindStatus        = 101
	kindHandle        = 102
	kindData          = 103
	kindName          = 104
	kindAttrs         = 105
	kindExtended      = 200
	kindExtendedReply = 201
)

// Status is the code of a STATUS reply.
type Status uint32

const (
	OK          Status = 0
	EOF         Status = 1
	NoSuchFile  Status = 2
	Denied      Status = 3
	Failure     Status = 4
	BadMessage  Status = 5
	Unsupported Status = 8
)

func u32(b []byte, v uint32) []byte { return binary.BigEndian.AppendUint32(b, v) }
func u64(b []byte, v uint64) []byte { return binary.BigEndian.AppendUint64(b, v) }
func str(b []byte, s string) []byte { return append(u32(b, uint32(len(s))), s...) }
func text(s string) []byte          { return str(nil, s) }
func number(v uint32) []byte        { return u32(nil, v) }
func long(v uint64) []byte          { return u64(nil, v) }
func packet(kind byte, body ...[]byte) []byte {
	p := []byte{0, 0, 0, 0, kind}
	for _, b := range body {
		p = append(p, b...)
	}
	binary.BigEndian.PutUint32(p, uint32(len(p)-4))
	return p
}

// attrs is what the server says of f, with every field it can say.
func (f File) attrs() []byte {
	size := uint64(len(f.Data))
	if f.Claim != nil {
		size = *f.Claim
	}
	b := u64(number(0xf), size)
	b = u32(u32(b, f.UID), f.GID)
	b = u32(b, f.mode())
	return u32(u32(b, f.Mtime), f.Mtime)
}

// fields takes a request apart. What is missing reads as zero: the server's own requests come from an honest client.
type fields []byte

func (f *fields) u32() uint32 {
	if len(*f) < 4 {
		*f = nil
		return 0
	}
	v := binary.BigEndian.Uint32(*f)
	*f = (*f)[4:]
	return v
}

func (f *fields) u64() uint64 { return uint64(f.u32())<<32 | uint64(f.u32()) }

func (f *fields) text() string {
	n := min(int(f.u32()), len(*f))
	s := string((*f)[:n])
	*f = (*f)[n:]
	return s
}

// change is the attributes that a request sets.
type change struct {
	flags              uint32
	size               uint64
	uid, gid           uint32
	mode, atime, mtime uint32
}

func (f *fields) change() change {
	c := change{flags: f.u32()}
	if c.flags&1 != 0 {
		c.size = f.u64()
	}
	if c.flags&2 != 0 {
		c.uid, c.gid = f.u32(), f.u32()
	}
	if c.flags&4 != 0 {
		c.mode = f.u32()
	}
	if c.flags&8 != 0 {
		c.atime, c.mtime = f.u32(), f.u32()
	}
	return c
}
