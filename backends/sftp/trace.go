package sftp

import (
	"encoding/hex"
	"fmt"
	"unicode/utf8"
)

// names of packets, for the trace.
var packetNames = map[byte]string{
	typeOpen: "OPEN", typeClose: "CLOSE", typeRead: "READ", typeWrite: "WRITE", typeLstat: "LSTAT", typeFstat: "FSTAT", typeSetstat: "SETSTAT",
	typeFsetstat: "FSETSTAT", typeOpendir: "OPENDIR", typeReaddir: "READDIR", typeRemove: "REMOVE", typeMkdir: "MKDIR", typeRmdir: "RMDIR",
	typeRealpath: "REALPATH", typeStat: "STAT", typeRename: "RENAME", typeReadlink: "READLINK", typeSymlink: "SYMLINK", typeStatus: "STATUS",
	typeHandle: "HANDLE", typeData: "DATA", typeName: "NAME", typeAttrs: "ATTRS", typeExtended: "EXTENDED", typeExtReply: "EXTENDED_REPLY",
}

// said is a request in the trace: its number without the bit that all of ours have, and its first strings.
func (f frame) said() string {
	kind := f[4]
	text := fmt.Sprintf("%s %d", packetNames[kind], f.id()&^ours)
	p := parser{b: f[packetHeader:]}
	text += " " + shownBytes(p.bytes())
	switch kind {
	case typeRename, typeSymlink, typeExtended:
		if second := p.bytes(); len(second) > 0 {
			text += " " + shownBytes(second)
		}
	}
	return text
}

// shownBytes is a path as it is, and a handle in hexadecimal.
func shownBytes(b []byte) string {
	for _, c := range b {
		if c < ' ' {
			return hex.EncodeToString(b)
		}
	}
	if !utf8.Valid(b) {
		return hex.EncodeToString(b)
	}
	return fmt.Sprintf("%q", b)
}

// said is an answer in the trace.
func (r reply) said(id uint32) string {
	text := fmt.Sprintf("%s %d", packetNames[r.kind], id&^ours)
	switch r.kind {
	case typeStatus:
		if code, words, err := parseStatus(r.body); err == nil {
			return fmt.Sprintf("%s: %d %q", text, code, words)
		}
	case typeHandle:
		p := parser{b: r.body}
		return text + " " + shownBytes(p.bytes())
	case typeName:
		p := parser{b: r.body}
		return fmt.Sprintf("%s: %d names", text, p.u32())
	}
	return fmt.Sprintf("%s: %d bytes", text, len(r.body))
}

// plain reports whether an answer to a READ or WRITE says that all is well: such are too many to be kept.
func (r reply) plain() bool {
	if r.kind != typeStatus {
		return r.kind == typeData
	}
	code, _, err := parseStatus(r.body)
	return err == nil && (code == 0 || code == statusEOF)
}
