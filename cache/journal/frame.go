package journal

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
)

// The file begins with a header of magic, version and the CRC-32C of both. Each record is framed by the mark, the length of its text, the
// CRC-32C of the text, and that of these twelve bytes; the text is a Change in JSON. Numbers are little-endian. With its own
// checksum a frame can be told from anything else, so that reading finds its way again behind damage.
const (
	magic   = "pierfs journal\r\n"
	version = 1

	headerSize = len(magic) + 8
	frameSize  = 16
	maxRecord  = 16 << 20 // bytes of one text; a longer length is damage
)

var mark = []byte("\xf5rec")

var table = crc32.MakeTable(crc32.Castagnoli)

func header() []byte {
	h := binary.LittleEndian.AppendUint32([]byte(magic), version)
	return binary.LittleEndian.AppendUint32(h, crc32.Checksum(h, table))
}

// encode returns the record of c.
func encode(c *Change) ([]byte, error) {
	text, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	if len(text) > maxRecord {
		return nil, fmt.Errorf("a record of %d bytes is longer than %d", len(text), maxRecord)
	}
	b := make([]byte, 0, frameSize+len(text))
	b = append(b, mark...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(text)))
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(text, table))
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, table))
	return append(b, text...), nil
}

// parsed is what a file holds.
type parsed struct {
	version uint32
	changes []*Change
	good    int64 // length of the file without what is torn at its end; 0 if there is not even a header
	torn    int64
	damaged []Damaged
}

// errNewer is the error for a file of a format that this version does not know.
var errNewer = errors.New("it was written by a newer version and is left as it is; use that version, or one after it")

// parse reads a file. It never fails on damage, only on what a newer version has written.
func parse(text []byte) (parsed, error) {
	var p parsed
	if len(text) < headerSize && bytes.HasPrefix(header(), text) {
		p.torn = int64(len(text)) // never a whole file
		return p, nil
	}
	v, ok := parseHeader(text)
	if !ok { // nobody can tell what the records mean
		p.damaged = []Damaged{{0, text}}
		return p, nil
	}
	if p.version = v; v > version {
		return p, fmt.Errorf("format %d, where %d is known: %w", v, version, errNewer)
	}
	for off := headerSize; off < len(text); {
		body, ok := frame(text[off:])
		if !ok || !p.read(body, text[off:]) {
			off = p.skip(text, off)
			continue
		}
		off += frameSize + len(body)
	}
	p.good = int64(len(text)) - p.torn
	return p, nil
}

func parseHeader(text []byte) (version uint32, ok bool) {
	if len(text) < headerSize || !bytes.HasPrefix(text, []byte(magic)) {
		return 0, false
	}
	n := headerSize - 4
	return binary.LittleEndian.Uint32(text[n-4:]), binary.LittleEndian.Uint32(text[n:]) == crc32.Checksum(text[:n], table)
}

// frame returns the text of the record that b begins with, which need not be sound; false if b does not begin with a whole frame.
func frame(b []byte) ([]byte, bool) {
	if len(b) < frameSize || !bytes.HasPrefix(b, mark) || binary.LittleEndian.Uint32(b[12:]) != crc32.Checksum(b[:12], table) {
		return nil, false
	}
	n := binary.LittleEndian.Uint32(b[4:])
	if n > maxRecord || int(n) > len(b)-frameSize {
		return nil, false
	}
	return b[frameSize : frameSize+int(n)], true
}

// read takes the record whose text is body, behind its frame; false if it is damaged.
func (p *parsed) read(body, frame []byte) bool {
	c := new(Change)
	if binary.LittleEndian.Uint32(frame[8:]) != crc32.Checksum(body, table) || json.Unmarshal(body, c) != nil {
		return false
	}
	p.changes = append(p.changes, c)
	return true
}

// skip goes on behind what cannot be read at off, and returns where the next sound record begins. Where none does, the rest
// is what was torn.
func (p *parsed) skip(text []byte, off int) int {
	for at := off + 1; ; at++ {
		i := bytes.Index(text[min(at, len(text)):], mark)
		if i < 0 {
			p.torn = int64(len(text) - off)
			return len(text)
		}
		at += i
		if body, ok := frame(text[at:]); ok && new(parsed).read(body, text[at:]) {
			p.damaged = append(p.damaged, Damaged{int64(off), bytes.Clone(text[off:at])})
			return at
		}
	}
}
