// Package terminal keeps texts from outside from commanding a terminal: names of files and words of servers may hold what
// moves its cursor, changes its title, or turns the direction of the writing. Whatever pierfs and pierfsd print of them goes
// through here, for people and as JSON alike.
package terminal

import (
	"bytes"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// Quote returns s as it is if every character of it can be seen, else as a Go string literal. Line breaks cannot.
func Quote(s string) string {
	if utf8.ValidString(s) && strings.IndexFunc(s, hidden) < 0 {
		return s
	}
	return strconv.Quote(s)
}

// JSON returns encoded JSON with every character that cannot be seen as \uXXXX; encoding/json leaves DEL, the C1 controls
// and marks of direction as they are. What it means stays the same, and so do the line breaks between its values.
func JSON(text []byte) []byte {
	special := func(r rune) bool { return r >= 0x7f && hidden(r) }
	if bytes.IndexFunc(text, special) < 0 {
		return text
	}
	out := make([]byte, 0, len(text)+16)
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		if special(r) {
			out = appendEscaped(out, r)
		} else {
			out = append(out, text[:n]...)
		}
		text = text[n:]
	}
	return out
}

func hidden(r rune) bool { return !unicode.IsPrint(r) }

// appendEscaped appends r as RFC 8259, section 7 has it: in two halves above U+FFFF.
func appendEscaped(out []byte, r rune) []byte {
	for _, unit := range utf16.AppendRune(nil, r) {
		hex := strconv.FormatUint(uint64(unit), 16)
		out = append(out, `\u`+"0000"[len(hex):]+hex...)
	}
	return out
}

// JSONWriter returns a writer that passes JSON on to w as JSON has it; each Write must hold whole values.
func JSONWriter(w io.Writer) io.Writer { return jsonWriter{w} }

type jsonWriter struct{ w io.Writer }

func (j jsonWriter) Write(p []byte) (int, error) {
	if _, err := j.w.Write(JSON(p)); err != nil {
		return 0, err
	}
	return len(p), nil
}
