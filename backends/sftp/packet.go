package sftp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"time"

	"pierfs/backends"
)

// Types of packets, draft-ietf-secsh-filexfer-02 section 3: what OpenSSH calls version 3.
const (
	typeInit     = 1
	typeVersion  = 2
	typeOpen     = 3
	typeClose    = 4
	typeRead     = 5
	typeWrite    = 6
	typeLstat    = 7
	typeFstat    = 8
	typeSetstat  = 9
	typeFsetstat = 10
	typeOpendir  = 11
	typeReaddir  = 12
	typeRemove   = 13
	typeMkdir    = 14
	typeRmdir    = 15
	typeRealpath = 16
	typeStat     = 17
	typeRename   = 18
	typeReadlink = 19
	typeSymlink  = 20
	typeStatus   = 101
	typeHandle   = 102
	typeData     = 103
	typeName     = 104
	typeAttrs    = 105
	typeExtended = 200
	typeExtReply = 201
)

const protocolVersion = 3

// Bits of an OPEN request.
const (
	openRead   = 0x01
	openWrite  = 0x02
	openCreate = 0x08
	openTrunc  = 0x10
	openExcl   = 0x20
)

// Bits that say which attributes follow.
const (
	attrSize     = 0x00000001
	attrOwner    = 0x00000002
	attrPerm     = 0x00000004
	attrTimes    = 0x00000008
	attrExtended = 0x80000000
)

// Extensions of OpenSSH (PROTOCOL section 4) that are put to use.
const (
	extPosixRename = "posix-rename@openssh.com"
	extStatVFS     = "statvfs@openssh.com"
	extHardlink    = "hardlink@openssh.com"
	extFsync       = "fsync@openssh.com"
	extLsetstat    = "lsetstat@openssh.com"
	extLimits      = "limits@openssh.com"
	extUsersGroups = "users-groups-by-id@openssh.com"
	extCopyData    = "copy-data" // draft-ietf-secsh-filexfer-extensions-00, section 7
)

const (
	maxPacket     = 256<<10 + 4096 // of a reply; OpenSSH's own bound is 256 KiB
	maxHandle     = 256            // bytes, by the draft
	safePayload   = 32 << 10       // that every server must carry
	bestPayload   = 261120         // beyond it OpenSSH cuts reads (measured with 9.2)
	packetHeader  = 9              // length, type, id
	maxStatusText = 256            // bytes of a server's words that are worth keeping
	maxNames      = 1 << 16        // in one reply
)

// frame is one request on its way: length, type and id first, filled in by the mux.
type frame []byte

func newFrame(kind byte, room int) frame {
	f := make(frame, packetHeader, packetHeader+room)
	f[4] = kind
	return f
}

func (f frame) u32(v uint32) frame        { return binary.BigEndian.AppendUint32(f, v) }
func (f frame) u64(v uint64) frame        { return binary.BigEndian.AppendUint64(f, v) }
func (f frame) text(s string) frame       { return append(f.u32(uint32(len(s))), s...) }
func (f frame) attrs(a attrs) frame       { return a.append(f) }
func (f frame) id() uint32                { return binary.BigEndian.Uint32(f[5:]) }
func (f frame) seal(id uint32)            { binary.BigEndian.PutUint32(f[5:], id); f.measure() }
func (f frame) measure()                  { binary.BigEndian.PutUint32(f, uint32(len(f)-4)) }
func pathFrame(kind byte, p string) frame { return newFrame(kind, 4+len(p)).text(p) }

func twoPathsFrame(kind byte, a, b string) frame {
	return newFrame(kind, 8+len(a)+len(b)).text(a).text(b)
}

func extendedFrame(name string, args ...string) frame {
	f := newFrame(typeExtended, 64).text(name)
	for _, arg := range args {
		f = f.text(arg)
	}
	return f
}

func openFrame(path string, flags uint32, a attrs) frame {
	return newFrame(typeOpen, 40+len(path)).text(path).u32(flags).attrs(a)
}

// copyFrame has the server copy n bytes at off of one open file to the same place of another. In PROTOCOL, 0 of n would mean all that there is.
func copyFrame(from, to string, off, n int64) frame {
	return newFrame(typeExtended, 64+len(from)+len(to)).text(extCopyData).text(from).u64(uint64(off)).u64(uint64(n)).text(to).u64(uint64(off))
}

func readFrame(handle string, off int64, n int) frame {
	return newFrame(typeRead, 16+len(handle)).text(handle).u64(uint64(off)).u32(uint32(n))
}

// writeFrame has room for n bytes of content, to be appended; sealWrite puts their number in place.
func writeFrame(handle string, off int64, room int) frame {
	return newFrame(typeWrite, 16+len(handle)+room).text(handle).u64(uint64(off)).u32(0)
}

// writeHeader is the number of bytes before the content.
func writeHeader(handle string) int { return packetHeader + 4 + len(handle) + 8 + 4 }

func (f frame) sealWrite(handle string) frame {
	head := writeHeader(handle)
	binary.BigEndian.PutUint32(f[head-4:], uint32(len(f)-head))
	return f
}

// readdress makes a WRITE by one handle one by another.
func (f frame) readdress(from, to string) frame {
	if len(from) != len(to) {
		again := writeFrame(to, 0, len(f)-writeHeader(from))
		return append(again[:packetHeader+4+len(to)], f[packetHeader+4+len(from):]...)
	}
	copy(f[packetHeader+4:], to)
	return f
}

// errMalformed is a reply that does not parse. The server cannot be believed any more.
var errMalformed = errors.New("malformed reply")

// parser takes a reply apart. Once something is missing it is bad and yields zeros, so that only the end must be asked.
type parser struct {
	b   []byte
	bad bool
}

func (p *parser) take(n int) []byte {
	if p.bad || n < 0 || n > len(p.b) {
		p.bad, p.b = true, nil
		return nil
	}
	head := p.b[:n]
	p.b = p.b[n:]
	return head
}

func (p *parser) u32() uint32 {
	if b := p.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (p *parser) u64() uint64 {
	if b := p.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (p *parser) bytes() []byte { return p.take(int(p.u32())) }
func (p *parser) text() string  { return string(p.bytes()) }

func (p *parser) err() error {
	if p.bad {
		return errMalformed
	}
	return nil
}

// attrs is what one request sets or one reply tells.
type attrs struct {
	flags        uint32
	size         uint64
	uid, gid     uint32
	perm         uint32
	atime, mtime uint32
}

func (a attrs) append(f frame) frame {
	f = f.u32(a.flags)
	if a.flags&attrSize != 0 {
		f = f.u64(a.size)
	}
	if a.flags&attrOwner != 0 {
		f = f.u32(a.uid).u32(a.gid)
	}
	if a.flags&attrPerm != 0 {
		f = f.u32(a.perm)
	}
	if a.flags&attrTimes != 0 {
		f = f.u32(a.atime).u32(a.mtime)
	}
	return f
}

func (p *parser) attrs() attrs {
	a := attrs{flags: p.u32()}
	if a.flags&attrSize != 0 {
		a.size = p.u64()
	}
	if a.flags&attrOwner != 0 {
		a.uid, a.gid = p.u32(), p.u32()
	}
	if a.flags&attrPerm != 0 {
		a.perm = p.u32()
	}
	if a.flags&attrTimes != 0 {
		a.atime, a.mtime = p.u32(), p.u32()
	}
	if a.flags&attrExtended != 0 {
		for n := p.u32(); n > 0 && !p.bad; n-- {
			p.bytes()
			p.bytes()
		}
	}
	return a
}

// Types and bits within st_mode as they travel.
const (
	modeType   = 0170000
	modeSocket = 0140000
	modeLink   = 0120000
	modeFile   = 0100000
	modeBlock  = 0060000
	modeDir    = 0040000
	modeChar   = 0020000
	modeFIFO   = 0010000
	modeSetuid = 04000
	modeSetgid = 02000
	modeSticky = 01000
)

var typeOfMode = map[uint32]os.FileMode{
	modeSocket: os.ModeSocket,
	modeLink:   os.ModeSymlink,
	modeFile:   0,
	modeBlock:  os.ModeDevice,
	modeDir:    os.ModeDir,
	modeChar:   os.ModeDevice | os.ModeCharDevice,
	modeFIFO:   os.ModeNamedPipe,
}

// fileMode turns st_mode into the language's; a type that nobody knows is os.ModeIrregular, to be kept from sight.
func fileMode(perm uint32) os.FileMode {
	mode, ok := typeOfMode[perm&modeType]
	if !ok {
		mode = os.ModeIrregular
	}
	mode |= os.FileMode(perm & 0777)
	if perm&modeSetuid != 0 {
		mode |= os.ModeSetuid
	}
	if perm&modeSetgid != 0 {
		mode |= os.ModeSetgid
	}
	if perm&modeSticky != 0 {
		mode |= os.ModeSticky
	}
	return mode
}

// permBits turns permissions into what travels, without a type.
func permBits(mode os.FileMode) uint32 {
	perm := uint32(mode.Perm())
	if mode&os.ModeSetuid != 0 {
		perm |= modeSetuid
	}
	if mode&os.ModeSetgid != 0 {
		perm |= modeSetgid
	}
	if mode&os.ModeSticky != 0 {
		perm |= modeSticky
	}
	return perm
}

// info tells what a server sent of the file called name. A size beyond what a file can have is cut to that; a mode
// without a type (some servers send bare permissions) leaves the type unknown.
func (a attrs) info(name string) backends.Info {
	i := backends.Info{Name: name}
	if a.flags&attrPerm != 0 {
		i.Known |= backends.HasPerm
		if a.perm&modeType == 0 {
			i.Mode = fileMode(a.perm | modeFile)
		} else {
			i.Mode = fileMode(a.perm)
			i.Known |= backends.HasType
		}
	}
	if a.flags&attrSize != 0 {
		i.Size = int64(min(a.size, math.MaxInt64))
		i.Known |= backends.HasSize
	}
	if a.flags&attrTimes != 0 {
		i.ModTime, i.AccTime = time.Unix(int64(a.mtime), 0), time.Unix(int64(a.atime), 0)
		i.Known |= backends.HasModTime | backends.HasAccTime
	}
	if a.flags&attrOwner != 0 {
		i.UID, i.GID = a.uid, a.gid
		i.Known |= backends.HasOwner
	}
	return i
}

// entry is one name of a listing.
type entry struct {
	name  string
	kind  byte // first letter of the line for people, as in ls -l; 0 if there is none
	attrs attrs
}

// info tells what the listing said; the letter stands in where the attributes have no type.
func (e entry) info() backends.Info {
	i := e.attrs.info(e.name)
	if i.Known.Has(backends.HasType) {
		return i
	}
	kind, ok := map[byte]os.FileMode{'-': 0, 'd': os.ModeDir, 'l': os.ModeSymlink}[e.kind]
	if ok {
		i.Mode = i.Mode&^os.ModeType | kind
		i.Known |= backends.HasType
	}
	return i
}

// parseNames takes a NAME reply apart and hands each entry to f until that returns false.
func parseNames(body []byte, f func(entry) bool) error {
	p := parser{b: body}
	n := p.u32()
	if n > maxNames {
		return errMalformed
	}
	for ; n > 0 && !p.bad; n-- {
		e := entry{name: p.text()}
		if long := p.bytes(); len(long) > 0 {
			e.kind = long[0]
		}
		e.attrs = p.attrs()
		if !p.bad && !f(e) {
			return nil
		}
	}
	return p.err()
}

// statusError is a server's word that a request failed.
type statusError struct {
	code uint32
	text string
}

func (e *statusError) Error() string {
	if e.text == "" {
		return fmt.Sprintf("server answered status %d", e.code)
	}
	return fmt.Sprintf("server answered %q (status %d)", e.text, e.code)
}

func parseStatus(body []byte) (code uint32, text string, err error) {
	p := parser{b: body}
	code = p.u32()
	if err := p.err(); err != nil {
		return 0, "", err
	}
	words := p.bytes() // servers of the first versions sent none
	return code, string(words[:min(len(words), maxStatusText)]), nil
}

// reply is what a server answered to one request, without length, type and id.
type reply struct {
	kind byte
	body []byte
	n    int   // bytes of a DATA reply, already in their place
	err  error // of type fault: there is no reply
}

// status returns nil for OK, a *statusError for any other status, and for any other reply that it does not belong here.
func (r reply) status() error {
	if r.err != nil {
		return r.err
	}
	if r.kind != typeStatus {
		return errMalformed
	}
	code, text, err := parseStatus(r.body)
	switch {
	case err != nil:
		return err
	case code == statusOK:
		return nil
	}
	return &statusError{code, text}
}

// refusal is for a reply that is not of the kind that carries the answer: it never returns nil.
func (r reply) refusal() error {
	if err := r.status(); err != nil {
		return err
	}
	return errMalformed
}

func (r reply) handle() (string, error) {
	if r.err != nil || r.kind != typeHandle {
		return "", r.refusal()
	}
	p := parser{b: r.body}
	handle := p.text()
	if p.bad || len(handle) > maxHandle {
		return "", errMalformed
	}
	return handle, nil
}

func (r reply) info(name string) (backends.Info, error) {
	if r.err != nil || r.kind != typeAttrs {
		return backends.Info{}, r.refusal()
	}
	p := parser{b: r.body}
	a := p.attrs()
	return a.info(name), p.err()
}

// path returns the one name that REALPATH and READLINK answer with.
func (r reply) path() (string, error) {
	if r.err != nil || r.kind != typeName {
		return "", r.refusal()
	}
	path, n := "", 0
	err := parseNames(r.body, func(e entry) bool { path = e.name; n++; return true })
	if err == nil && n != 1 {
		err = errMalformed
	}
	return path, err
}

// extended returns the body of an answer to an extension.
func (r reply) extended() (parser, error) {
	if r.err != nil || r.kind != typeExtReply {
		return parser{}, r.refusal()
	}
	return parser{b: r.body}, nil
}

// space is the answer to statvfs@openssh.com.
type space struct {
	backends.Space
	fsid     uint64
	readOnly bool
}

func (r reply) space() (space, error) {
	p, err := r.extended()
	if err != nil {
		return space{}, err
	}
	_, unit := p.u64(), p.u64() // f_bsize is the transfer size, f_frsize is what blocks are counted in
	blocks, free, avail := p.u64(), p.u64(), p.u64()
	files, filesFree, _ := p.u64(), p.u64(), p.u64()
	fsid, flags, nameMax := p.u64(), p.u64(), p.u64()
	if p.bad {
		return space{}, errMalformed
	}
	times := func(n uint64) uint64 {
		if unit != 0 && n > math.MaxUint64/unit {
			return math.MaxUint64
		}
		return n * unit
	}
	return space{
		Space: backends.Space{
			Total: times(blocks), Free: times(free), Avail: times(avail),
			Files: files, FilesFree: filesFree,
			BlockSize: uint32(min(unit, math.MaxUint32)), NameMax: uint32(min(nameMax, math.MaxUint32)),
		},
		fsid:     fsid,
		readOnly: flags&1 != 0,
	}, nil
}

// limits is the answer to limits@openssh.com; 0 stands for no limit told.
type limits struct{ packet, read, write, handles uint64 }

func (r reply) limits() (limits, error) {
	p, err := r.extended()
	if err != nil {
		return limits{}, err
	}
	l := limits{p.u64(), p.u64(), p.u64(), p.u64()}
	return l, p.err()
}

// payload is how many bytes one request may ask for or carry, by a server's limit.
func payload(limit uint64) int {
	if limit == 0 {
		return safePayload
	}
	return int(min(limit, bestPayload))
}

// parseVersion takes the VERSION packet apart, after length and type.
func parseVersion(body []byte) (version uint32, extensions map[string]string, err error) {
	p := parser{b: body}
	version = p.u32()
	extensions = make(map[string]string)
	for len(p.b) > 0 && !p.bad {
		name, data := p.text(), p.text()
		extensions[name] = data
	}
	return version, extensions, p.err()
}
