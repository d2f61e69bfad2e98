package hostile

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"path"
	"strings"

	"golang.org/x/crypto/ssh"
)

// Rule answers a request otherwise than an honest server would; false leaves it to the next one. It may block: a dialogue
// goes on with the next request only when it returns, as OpenSSH does. What blocks must give up when x.Gone is closed.
type Rule func(x *Exchange) (taken bool)

// Exchange is one request, and the way to answer it.
type Exchange struct {
	Request
	Offset uint64 // of a read or write
	Length uint32 // that a read asks for
	Data   []byte // that a write brings
	Flags  uint32 // of an open

	id     uint32
	handle *handle
	change change
	d      *dialogue
}

// Gone is closed when the client has left.
func (x *Exchange) Gone() <-chan struct{} { return x.d.gone }

// Cut ends the connection.
func (x *Exchange) Cut() { x.d.conn.Close() }

// Send sends bytes as they are.
func (x *Exchange) Send(b []byte) { x.d.rw.Write(b) } // a client that has left needs no answer

// Reply sends one packet that answers the request.
func (x *Exchange) Reply(kind byte, body ...[]byte) { x.Send(x.packet(kind, body...)) }

func (x *Exchange) packet(kind byte, body ...[]byte) []byte {
	return packet(kind, append([][]byte{number(x.id)}, body...)...)
}

// Status answers with a status.
func (x *Exchange) Status(s Status) { x.Send(x.status(s)) }

func (x *Exchange) status(s Status) []byte {
	words := map[Status]string{OK: "Success", EOF: "End of file", NoSuchFile: "No such file", Denied: "Permission denied"}[s]
	if words == "" {
		words = "Failure"
	}
	return x.packet(kindStatus, number(uint32(s)), text(words), text("en"))
}

// handle is an open file or directory.
type handle struct {
	path    string // as the client sent it
	at      string // with links followed
	file    *File
	entries []Entry // that are still to be listed
}

// Entry is one name of a listing.
type Entry struct {
	Name string
	File File
}

func (e Entry) encode() []byte {
	kind := map[uint32]string{TypeDir: "d", TypeLink: "l"}[e.File.mode()&typeMask]
	if kind == "" {
		kind = "-"
	}
	line := fmt.Sprintf("%srw-r--r--    1 pier     pier     %8d Nov 21 02:00 %s", kind, len(e.File.Data), e.Name)
	return append(str(text(e.Name), line), e.File.attrs()...)
}

// dialogue is SFTP on one channel.
type dialogue struct {
	server  *Server
	rw      ssh.Channel
	conn    ssh.Conn
	gone    <-chan struct{}
	handles map[string]*handle
	opened  int
}

const maxRequest = 1 << 20

// serve answers one request after the other until the client leaves.
func (d *dialogue) serve() {
	r := bufio.NewReaderSize(d.rw, 64<<10)
	for {
		var size [4]byte
		if _, err := io.ReadFull(r, size[:]); err != nil {
			return
		}
		n := binary.BigEndian.Uint32(size[:])
		if n == 0 || n > maxRequest {
			return
		}
		body := make([]byte, n)
		if _, err := io.ReadFull(r, body); err != nil {
			return
		}
		d.one(body[0], body[1:])
	}
}

func (d *dialogue) one(kind byte, body fields) {
	m := d.server.how()
	if kind == kindInit {
		d.rw.Write(m.version()) // a client that has left needs no answer
		return
	}
	x := d.parse(kind, body)
	d.server.note(x.Request)
	for _, rule := range m.Rules {
		if rule(x) {
			return
		}
	}
	x.Send(x.honest())
}

func (m Manner) version() []byte {
	if m.Version != nil {
		return m.Version
	}
	offered := m.Extensions
	if offered == nil {
		offered = []Op{PosixRename, Hardlink, Fsync, StatVFS, Limits}
	}
	body := number(3)
	for _, op := range offered {
		body = str(str(body, string(op)), map[Op]string{StatVFS: "2"}[op]+map[bool]string{true: "1"}[op != StatVFS])
	}
	return packet(kindVersion, body)
}

// parse takes a request apart.
func (d *dialogue) parse(kind byte, body fields) *Exchange {
	x := &Exchange{d: d, id: body.u32()}
	x.Op = opOfKind[kind]
	if kind == kindExtended {
		x.Op = Op(body.text())
	}
	switch x.Op {
	case Open:
		x.Path, x.Flags, x.change = body.text(), body.u32(), body.change()
	case Close, Readdir, Fstat, Fsync:
		x.open(body.text())
	case Fsetstat:
		x.open(body.text())
		x.change = body.change()
	case Read:
		x.open(body.text())
		x.Offset, x.Length = body.u64(), body.u32()
	case Write:
		x.open(body.text())
		x.Offset, x.Data = body.u64(), []byte(body.text())
	case Setstat, Mkdir:
		x.Path, x.change = body.text(), body.change()
	case Rename, PosixRename, Hardlink, Symlink:
		x.Path, x.To = body.text(), body.text() // of a symlink, target and name, as OpenSSH reads them
	case Limits:
	default:
		x.Path = body.text()
	}
	return x
}

func (x *Exchange) open(id string) {
	if x.handle = x.d.handles[id]; x.handle != nil {
		x.Path = x.handle.path
	}
	if x.Op == Close {
		delete(x.d.handles, id)
	}
}

// honest does what was asked and returns the reply, as OpenSSH would.
func (x *Exchange) honest() []byte {
	t := x.d.server.tree
	t.mu.Lock()
	defer t.mu.Unlock()
	switch x.Op {
	case Close, Read, Write, Fstat, Fsetstat, Fsync, Readdir:
		if x.handle == nil {
			return x.status(NoSuchFile)
		}
		return x.onHandle()
	case Realpath:
		return x.realpath(t)
	case Open, Opendir:
		return x.opening(t)
	case Stat, Lstat, Setstat, Readlink:
		return x.onPath(t)
	case Mkdir, Symlink, Hardlink, Remove, Rmdir, Rename, PosixRename:
		return x.names(t)
	case StatVFS:
		body := long(4096)
		for _, v := range []uint64{4096, 1 << 20, 1 << 19, 1 << 19, 1 << 16, 1 << 15, 1 << 15, 1, 0, 255} {
			body = u64(body, v)
		}
		return x.packet(kindExtendedReply, body)
	case Limits:
		return x.packet(kindExtendedReply, long(262144), long(261120), long(261120), long(1000))
	}
	return x.status(Unsupported)
}

func (x *Exchange) onHandle() []byte {
	h := x.handle
	switch x.Op {
	case Read:
		size := uint64(len(h.file.Data))
		if x.Offset >= size {
			return x.status(EOF)
		}
		return x.packet(kindData, text(h.file.Data[x.Offset:min(size, x.Offset+uint64(min(x.Length, 261120)))]))
	case Write:
		end := x.Offset + uint64(len(x.Data))
		if end > 1<<30 {
			return x.status(Failure)
		}
		data := []byte(h.file.Data)
		if uint64(len(data)) < end {
			data = append(data, make([]byte, end-uint64(len(data)))...)
		}
		copy(data[x.Offset:], x.Data)
		h.file.Data = string(data)
	case Fstat:
		return x.packet(kindAttrs, h.file.attrs())
	case Fsetstat:
		h.file.set(x.change)
	case Readdir:
		if len(h.entries) == 0 {
			return x.status(EOF)
		}
		n := min(100, len(h.entries))
		body := number(uint32(n))
		for _, e := range h.entries[:n] {
			body = append(body, e.encode()...)
		}
		h.entries = h.entries[n:]
		return x.packet(kindName, body)
	}
	return x.status(OK)
}

func (f *File) set(c change) {
	if c.flags&1 != 0 && c.size <= 1<<30 {
		data := make([]byte, c.size)
		copy(data, f.Data)
		f.Data = string(data)
	}
	if c.flags&2 != 0 {
		f.UID, f.GID = c.uid, c.gid
	}
	if c.flags&4 != 0 {
		f.Mode = f.mode()&typeMask | c.mode&0o7777
	}
	if c.flags&8 != 0 {
		f.Mtime = c.mtime
	}
}

// local returns what a client's path means: relative ones begin at the login directory, which is the working directory.
func (x *Exchange) local(t *tree, name string, last bool) string {
	if !path.IsAbs(name) {
		name = path.Join(x.d.server.Root, name)
	}
	return t.resolve(name, last)
}

func (x *Exchange) realpath(t *tree) []byte {
	at := x.local(t, x.Path, true)
	if t.files[path.Dir(at)] == nil {
		return x.status(NoSuchFile)
	}
	return x.packet(kindName, number(1), text(at), text(at), number(0))
}

func (x *Exchange) opening(t *tree) []byte {
	at := x.local(t, x.Path, true)
	f := t.files[at]
	const create, truncate, exclusive = 0x08, 0x10, 0x20
	switch {
	case at == "", x.Op == Opendir && f != nil && !f.is(TypeDir):
		return x.status(Failure)
	case f != nil && x.Op == Open && x.Flags&(create|exclusive) == create|exclusive:
		return x.status(Failure)
	case f == nil && x.Op == Open && x.Flags&create != 0:
		if t.files[path.Dir(at)] == nil {
			return x.status(NoSuchFile)
		}
		f = &File{}
		f.set(x.change)
		t.set(at, f)
	case f == nil:
		return x.status(NoSuchFile)
	}
	if x.Op == Open && x.Flags&truncate != 0 {
		f.Data = ""
	}
	h := &handle{path: x.Path, at: at, file: f}
	if x.Op == Opendir {
		h.entries = []Entry{{".", *f}, {"..", *f}}
		for _, name := range t.children(at) {
			h.entries = append(h.entries, Entry{name, *t.files[path.Join(at, name)]})
		}
	}
	x.d.opened++
	id := fmt.Sprintf("h%d", x.d.opened)
	x.d.handles[id] = h
	return x.packet(kindHandle, text(id))
}

func (x *Exchange) onPath(t *tree) []byte {
	at := x.local(t, x.Path, x.Op == Stat || x.Op == Setstat)
	f := t.files[at]
	switch {
	case f == nil:
		return x.status(NoSuchFile)
	case x.Op == Setstat:
		f.set(x.change)
		return x.status(OK)
	case x.Op == Readlink && !f.is(TypeLink):
		return x.status(BadMessage)
	case x.Op == Readlink:
		return x.packet(kindName, number(1), text(f.Target), text(f.Target), number(0))
	}
	return x.packet(kindAttrs, f.attrs())
}

// names changes what bears which name.
func (x *Exchange) names(t *tree) []byte {
	name := x.Path
	if x.Op == Symlink {
		name = x.To
	}
	at, to := x.local(t, name, false), x.local(t, x.To, false)
	f := t.files[at]
	if t.files[path.Dir(at)] == nil || t.files[path.Dir(to)] == nil {
		return x.status(NoSuchFile)
	}
	switch x.Op {
	case Mkdir, Symlink:
		if f != nil {
			return x.status(Failure)
		}
		f = &File{Mode: TypeLink | 0o777, Target: x.Path}
		if x.Op == Mkdir {
			*f = Dir()
			f.set(x.change)
		}
		t.set(at, f)
		return x.status(OK)
	}
	if f == nil {
		return x.status(NoSuchFile)
	}
	switch x.Op {
	case Remove, Rmdir:
		if f.is(TypeDir) != (x.Op == Rmdir) || len(t.children(at)) > 0 {
			return x.status(Failure)
		}
		t.drop(at)
	case Rename, Hardlink:
		if t.files[to] != nil {
			return x.status(Failure)
		}
		fallthrough
	case PosixRename:
		if x.Op == Hardlink {
			t.set(to, f)
			break
		}
		if strings.HasPrefix(to, at+"/") {
			return x.status(Failure)
		}
		t.rename(at, to)
	}
	return x.status(OK)
}
