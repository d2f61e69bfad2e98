package manual

import (
	"regexp"
	"strings"
)

// markdown writes the Markdown that the documentation is written in: headings, paragraphs, lists, tables, code, and in the text
// emphasis, code and links. height is by how much headings are lifted.
func (w *roff) markdown(text string, height int) {
	lines := strings.Split(strings.Trim(text, "\n"), "\n")
	for i := 0; i < len(lines); {
		line := lines[i]
		switch {
		case line == "":
			i++
		case strings.HasPrefix(line, "#"):
			w.heading(line, height)
			i++
		case strings.HasPrefix(line, "```"):
			end := i + 1
			for end < len(lines) && !strings.HasPrefix(lines[end], "```") {
				end++
			}
			w.code(strings.Join(lines[i+1:end], "\n"))
			i = end + 1
		case strings.HasPrefix(line, "|"):
			end := i
			for end < len(lines) && strings.HasPrefix(lines[end], "|") {
				end++
			}
			w.table(lines[i:end])
			i = end
		default:
			end := i + 1
			for end < len(lines) && lines[end] != "" && !startsBlock(lines[end]) {
				end++
			}
			w.paragraph(lines[i:end])
			i = end
		}
	}
}

func startsBlock(line string) bool {
	return strings.HasPrefix(line, "* ") || strings.HasPrefix(line, "|") || strings.HasPrefix(line, "```") || strings.HasPrefix(line, "#")
}

func (w *roff) heading(line string, height int) {
	depth := len(line) - len(strings.TrimLeft(line, "#"))
	name := plain(strings.TrimLeft(line, "# "))
	if depth-height <= 1 {
		w.section(strings.ToUpper(name))
		return
	}
	w.subsection(name)
}

func (w *roff) paragraph(lines []string) {
	if first, item := strings.CutPrefix(lines[0], "* "); item {
		w.WriteString(".IP \\(bu 3\n")
		lines[0] = first
	} else {
		w.paragraphBegins()
	}
	w.line(inline(strings.Join(trimmed(lines), " ")))
}

func trimmed(lines []string) []string {
	out := make([]string, len(lines))
	for i, line := range lines {
		out[i] = strings.TrimSpace(line)
	}
	return out
}

// table writes each row as the text of its first cell; where there are more than two, with the names of their columns.
func (w *roff) table(rows []string) {
	header := cells(rows[0])
	for _, row := range rows[2:] {
		row := cells(row)
		w.WriteString(".TP\n")
		w.line(inline(row[0]))
		var told []string
		for i, cell := range row[1:] {
			name := plain(header[min(i+1, len(header)-1)])
			switch {
			case cell == "":
			case len(row) == 2 || name == "Meaning" || name == "":
				told = append(told, inline(cell))
			default:
				told = append(told, escape(name)+": "+inline(cell))
			}
		}
		if len(told) == 0 {
			told = []string{`\&`}
		}
		w.line(strings.Join(told, ". "))
	}
}

func cells(row string) []string {
	row = strings.Trim(row, "|")
	const pipe = "\x00"
	parts := strings.Split(strings.ReplaceAll(row, `\|`, pipe), "|")
	for i, p := range parts {
		parts[i] = strings.TrimSpace(strings.ReplaceAll(p, pipe, "|"))
	}
	return parts
}

var (
	spans = regexp.MustCompile("``(.+?)``|`([^`]+)`|\\*\\*([^*]+)\\*\\*|\\*([^* ][^*]*)\\*|\\[([^\\]]+)\\]\\([^)]*\\)")
	links = regexp.MustCompile(`\[([^\]]+)\]\([^)]*\)`)
)

// inline turns code and strong text bold, emphasis italic, and links into their text.
func inline(text string) string {
	var b strings.Builder
	last := 0
	for _, m := range spans.FindAllStringSubmatchIndex(text, -1) {
		b.WriteString(escape(text[last:m[0]]))
		part := func(i int) (string, bool) {
			if m[2*i] < 0 {
				return "", false
			}
			return text[m[2*i]:m[2*i+1]], true
		}
		for i, font := range []string{1: "B", 2: "B", 3: "B", 4: "I", 5: ""} {
			if inside, ok := part(i); i > 0 && ok {
				if font == "" {
					b.WriteString(inline(inside))
				} else {
					b.WriteString(`\f` + font + escape(inside) + `\fR`)
				}
			}
		}
		last = m[1]
	}
	b.WriteString(escape(text[last:]))
	return b.String()
}

// plain is a text without its marks.
func plain(text string) string {
	return strings.NewReplacer("`", "", "**", "").Replace(links.ReplaceAllString(text, "$1"))
}
