package conncfg

import (
	"bytes"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/pelletier/go-toml/v2/unstable"
)

// maxDocument bounds a file of ours; the longest sensible one is a hundredth of it.
const maxDocument = 1 << 20

// maxSyntaxErrors bounds what one broken file says about itself.
const maxSyntaxErrors = 5

// table is a TOML table as written. It is kept instead of decoding into structs because a decoder stops at the first
// mistake and forgets the lines.
type table struct {
	line    int
	entries []*entry // in the order of the file
	byKey   map[string]*entry
	header  bool // has stood as a [header] of its own
	inline  bool // stands in braces
}

type entry struct {
	key   string
	line  int
	value any // string, bool, number, []any, *table or other
	span  unstable.Range
}

// number is an integer as written, because 0640 and 640 are not the same mistake.
type number string

// other is a value of a type that no field takes; its text is the type's name.
type other string

// document parses data; what is not TOML or says the same key twice is reported, and the rest is returned all the same.
func document(data []byte, report func(Finding)) *table {
	root := &table{line: 1, byKey: map[string]*entry{}}
	if len(data) > maxDocument {
		report(Finding{Severity: Error, Code: CodeRead, Message: "longer than 1 MiB"})
		return root
	}
	if at := invalidUTF8(data); at >= 0 {
		report(Finding{Severity: Error, Code: CodeSyntax, Line: lineAt(data, at), Message: "not UTF-8", Hint: "save the file as UTF-8"})
		return root
	}
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))

	d := &documentReader{data: data, root: root, current: root, report: report}
	for rest, errors := data, 0; errors < maxSyntaxErrors; errors++ {
		d.parser.Reset(rest)
		d.base = len(data) - len(rest)
		for d.parser.NextExpression() {
			d.expression(d.parser.Expression())
		}
		if d.parser.Error() == nil {
			break
		}
		at := d.base + d.failedAt(rest)
		message, hint := syntaxMessage(d.parser.Error()), "see https://toml.io for how a value is written"
		if strings.Contains(message, "leading zero") {
			hint = `quote permissions: "0640"`
		}
		d.add(CodeSyntax, lineAt(data, at), "", message, hint)
		end := bytes.IndexByte(data[at:], '\n')
		if end < 0 {
			break
		}
		rest = data[at+end+1:] // go on with the next line: one mistake hides no other
	}
	return root
}

type documentReader struct {
	parser  unstable.Parser
	data    []byte
	base    int // where the parser's input begins within data
	root    *table
	current *table
	report  func(Finding)
	at      int // line of the last lookup
	offset  int // its offset
}

func (d *documentReader) add(code Code, line int, field, message, hint string) {
	d.report(Finding{Severity: Error, Code: code, Line: line, Field: field, Message: message, Hint: hint})
}

// failedAt is the offset of the parser's complaint within its input.
func (d *documentReader) failedAt(input []byte) int {
	if perr, ok := d.parser.Error().(*unstable.ParserError); ok {
		if at := cap(input) - cap(perr.Highlight); perr.Highlight != nil && at >= 0 && at < len(input) {
			return at
		}
	}
	return max(0, len(input)-1)
}

// syntaxMessage is the parser's message without the characters it quotes: they may be a password's.
func syntaxMessage(err error) string {
	message, _, _ := strings.Cut(err.Error(), " but got ")
	message, _, _ = strings.Cut(message, ": U+")
	if strings.HasPrefix(message, "unexpected character ") {
		return "the value is neither a quoted text nor a number, true, false, a list or a table"
	}
	return message
}

// line counts from where it counted last: expressions come in the order of the file.
func (d *documentReader) line(r unstable.Range) int {
	offset := d.base + int(r.Offset)
	if d.at == 0 || offset < d.offset {
		d.at, d.offset = 1, 0
	}
	d.at += bytes.Count(d.data[d.offset:offset], []byte{'\n'})
	d.offset = offset
	return d.at
}

func (d *documentReader) expression(n *unstable.Node) {
	switch n.Kind {
	case unstable.KeyValue:
		d.keyValue(d.current, n)
	case unstable.Table:
		d.current = d.open(n)
	case unstable.ArrayTable:
		path, line := d.path(n)
		d.add(CodeWrongType, line, strings.Join(path, "."), "is written as a list of tables, and nothing here is one", "write ["+strings.Join(path, ".")+"]")
		d.current = &table{line: line, byKey: map[string]*entry{}}
	}
}

func (d *documentReader) path(n *unstable.Node) (path []string, line int) {
	for it := n.Key(); it.Next(); {
		path = append(path, string(it.Node().Data))
		line = d.line(it.Node().Raw)
	}
	return path, line
}

// open returns the table of a [header]. A second header of the same name goes on with the first.
func (d *documentReader) open(n *unstable.Node) *table {
	path, line := d.path(n)
	t, ok := d.descend(d.root, path, line)
	if !ok {
		d.add(CodeDuplicateKey, line, strings.Join(path, "."), "is a table here and something else before", "keep one of the two")
		return t
	}
	if t.header {
		d.add(CodeDuplicateKey, line, strings.Join(path, "."), "this table stands here twice, first in line "+strconv.Itoa(t.line), "write its keys below one header")
	}
	t.header, t.line = true, line
	return t
}

// descend walks from t along path, making tables on the way. It answers a table nobody sees when something else is there.
func (d *documentReader) descend(t *table, path []string, line int) (*table, bool) {
	for _, key := range path {
		e := t.byKey[key]
		if e == nil {
			e = &entry{key: key, line: line, value: &table{line: line, byKey: map[string]*entry{}}}
			t.put(e)
		}
		next, ok := e.value.(*table)
		if !ok {
			return &table{line: line, byKey: map[string]*entry{}}, false
		}
		t = next
	}
	return t, true
}

func (t *table) put(e *entry) {
	t.entries = append(t.entries, e)
	t.byKey[e.key] = e
}

func (d *documentReader) keyValue(t *table, n *unstable.Node) {
	path, line := d.path(n)
	last := len(path) - 1
	t, ok := d.descend(t, path[:last], line)
	if former := t.byKey[path[last]]; former != nil || !ok {
		message := "is written twice"
		if former != nil {
			message += ", first in line " + strconv.Itoa(former.line)
		}
		d.add(CodeDuplicateKey, line, strings.Join(path, "."), message, "keep one of the two")
		return
	}
	e := &entry{key: path[last], line: line, span: n.Value().Raw}
	e.span.Offset += uint32(d.base)
	t.put(e)
	e.value = d.value(n.Value(), line)
}

func (d *documentReader) value(n *unstable.Node, line int) any {
	switch n.Kind {
	case unstable.String:
		return string(n.Data)
	case unstable.Bool:
		return string(n.Data) == "true"
	case unstable.Integer:
		return number(n.Data)
	case unstable.Array:
		list := []any{}
		for it := n.Children(); it.Next(); {
			list = append(list, d.value(it.Node(), line))
		}
		return list
	case unstable.InlineTable:
		t := &table{line: line, byKey: map[string]*entry{}, inline: true}
		for it := n.Children(); it.Next(); {
			d.keyValue(t, it.Node())
		}
		return t
	case unstable.Float:
		return other("a number with a fraction")
	}
	return other("a date or time")
}

// kindOf names a value's type in messages.
func kindOf(v any) string {
	switch v := v.(type) {
	case string:
		return "a text"
	case bool:
		return "true or false"
	case number:
		return "a number"
	case []any:
		return "a list"
	case *table:
		return "a table"
	case other:
		return string(v)
	}
	return "nothing"
}

// integer returns the value of a whole number in any of TOML's notations.
func (n number) integer() (int64, bool) {
	text := strings.ReplaceAll(string(n), "_", "")
	if bare := strings.TrimLeft(text, "+-"); len(bare) > 1 && bare[0] == '0' && bare[1] >= '0' && bare[1] <= '9' {
		return 0, false // 0640: no TOML, and Go would read it as octal
	}
	i, err := strconv.ParseInt(text, 0, 64)
	return i, err == nil
}

func lineAt(data []byte, offset int) int {
	return bytes.Count(data[:min(offset, len(data))], []byte{'\n'}) + 1
}

func invalidUTF8(data []byte) int {
	if utf8.Valid(data) {
		return -1
	}
	for at := 0; at < len(data); {
		r, size := utf8.DecodeRune(data[at:])
		if r == utf8.RuneError && size == 1 {
			return at
		}
		at += size
	}
	return -1
}
