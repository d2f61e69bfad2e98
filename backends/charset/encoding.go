package charset

import (
	"errors"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/charmap"
	"golang.org/x/text/encoding/japanese"
	"golang.org/x/text/encoding/korean"
	"golang.org/x/text/encoding/simplifiedchinese"
	"golang.org/x/text/encoding/traditionalchinese"
)

// Encoding is how a server writes names. All that ByName knows write ASCII as ASCII, and keep no state between characters:
// a byte 0x2F is always a slash, also in Shift-JIS, whose second bytes begin at 0x40. (That they may be 0x5C, a backslash,
// concerns nobody on this side.)
type Encoding struct {
	name string
	of   encoding.Encoding
}

// ByName returns the encoding of one of the names that a definition's `encoding` may have when it is resolved, in lower
// case. "utf-8" is none of them: its names pass as bytes, without a Backend of this package.
func ByName(name string) (*Encoding, bool) {
	of, ok := encodings[name]
	return &Encoding{name, of}, ok
}

var encodings = map[string]encoding.Encoding{
	"iso-8859-1": charmap.ISO8859_1, "iso-8859-2": charmap.ISO8859_2, "iso-8859-3": charmap.ISO8859_3,
	"iso-8859-4": charmap.ISO8859_4, "iso-8859-5": charmap.ISO8859_5, "iso-8859-6": charmap.ISO8859_6,
	"iso-8859-7": charmap.ISO8859_7, "iso-8859-8": charmap.ISO8859_8, "iso-8859-9": charmap.ISO8859_9,
	"iso-8859-10": charmap.ISO8859_10, "iso-8859-13": charmap.ISO8859_13, "iso-8859-14": charmap.ISO8859_14,
	"iso-8859-15": charmap.ISO8859_15, "iso-8859-16": charmap.ISO8859_16,
	"windows-1250": charmap.Windows1250, "windows-1251": charmap.Windows1251, "windows-1252": charmap.Windows1252,
	"windows-1253": charmap.Windows1253, "windows-1254": charmap.Windows1254, "windows-1255": charmap.Windows1255,
	"windows-1256": charmap.Windows1256, "windows-1257": charmap.Windows1257, "windows-1258": charmap.Windows1258,
	"windows-874": charmap.Windows874,
	"cp437":       charmap.CodePage437, "cp850": charmap.CodePage850, "cp852": charmap.CodePage852, "cp855": charmap.CodePage855,
	"cp858": charmap.CodePage858, "cp860": charmap.CodePage860, "cp862": charmap.CodePage862, "cp863": charmap.CodePage863,
	"cp865": charmap.CodePage865, "cp866": charmap.CodePage866,
	"koi8-r": charmap.KOI8R, "koi8-u": charmap.KOI8U, "macintosh": charmap.Macintosh,
	"shift_jis": japanese.ShiftJIS, "euc-jp": japanese.EUCJP, "euc-kr": korean.EUCKR,
	"gbk": simplifiedchinese.GBK, "gb18030": simplifiedchinese.GB18030, "big5": traditionalchinese.Big5,
}

// String returns the name that ByName knows e by.
func (e *Encoding) String() string { return e.name }

// Bytes that are no character in the encoding are shown as characters of the private use area, one for each, beginning at
// this one: U+F781 is the byte 0x81.
const escapes = '\uf700'

func escaped(r rune) bool { return r >= escapes && r < escapes+0x100 }

var errUnencodable = errors.New("the name has a character that the server's encoding cannot write")

// Encode returns the bytes on the wire of a path. It fails if they would not be shown as that path again: because it is no
// UTF-8, or has a character that the encoding lacks.
func (e *Encoding) Encode(path string) (string, error) { return elementwise(path, e.encode) }

// Decode returns what the bytes of a path on the wire are shown as: always UTF-8, and for no other bytes the same.
func (e *Encoding) Decode(wire string) string {
	path, _ := elementwise(wire, func(s string) (string, error) { return e.decode(s), nil }) // which never fails
	return path
}

// elementwise translates what stands between slashes.
func elementwise(path string, translate func(string) (string, error)) (string, error) {
	if ascii(path) {
		return path, nil
	}
	elements := strings.Split(path, "/")
	for i, element := range elements {
		var err error
		if elements[i], err = translate(element); err != nil {
			return "", err
		}
	}
	return strings.Join(elements, "/"), nil
}

func (e *Encoding) encode(name string) (string, error) {
	if ascii(name) {
		return name, nil
	}
	if !utf8.ValidString(name) {
		return "", errUnencodable
	}
	wire := make([]byte, 0, len(name))
	encoder := e.of.NewEncoder()
	for rest := name; rest != ""; {
		r, size := utf8.DecodeRuneInString(rest)
		if escaped(r) {
			wire = append(wire, byte(r-escapes))
			rest = rest[size:]
			continue
		}
		plain := strings.IndexFunc(rest, escaped)
		if plain < 0 {
			plain = len(rest)
		}
		written, err := encoder.String(rest[:plain])
		if err != nil {
			return "", errUnencodable
		}
		wire = append(wire, written...)
		rest = rest[plain:]
	}
	if e.decode(string(wire)) != name {
		return "", errUnencodable // two ways to write one name, or an escape of what needs none
	}
	return string(wire), nil
}

// decode makes no name of another's bytes: each character is one whose encoding is just the bytes that it stands for, and
// any byte left over is escaped. So encode gives back the bytes, whatever they were.
func (e *Encoding) decode(wire string) string {
	if ascii(wire) {
		return wire
	}
	if name, ok := e.character(wire); ok && !strings.ContainsFunc(name, escaped) {
		return name
	}
	var b strings.Builder
	for len(wire) > 0 {
		r, size := e.first(wire)
		b.WriteRune(r)
		wire = wire[size:]
	}
	return b.String()
}

const longest = 4 // bytes of a character, in GB18030

// first returns the first character of wire and the number of its bytes, or the first byte escaped.
func (e *Encoding) first(wire string) (rune, int) {
	for size := 1; size <= min(longest, len(wire)); size++ {
		name, ok := e.character(wire[:size])
		if r, one := utf8.DecodeRuneInString(name); ok && one == len(name) && !escaped(r) {
			return r, size
		}
	}
	return escapes + rune(wire[0]), 1
}

// character decodes bytes that are characters, and gives back the same bytes when it is encoded.
func (e *Encoding) character(wire string) (string, bool) {
	name, err := e.of.NewDecoder().String(wire)
	if err != nil || strings.ContainsRune(name, utf8.RuneError) {
		return "", false
	}
	again, err := e.of.NewEncoder().String(name)
	return name, err == nil && again == wire
}

func ascii(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}
