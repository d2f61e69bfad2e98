// Package manual writes manual pages (man(7)) of what a program says of itself: of its commands and flags, as --help has them, and of
// pages of the documentation, which are Markdown. So a page cannot say anything else than the program.
//
// A page has no time of its own: the same program gives the same bytes.
package manual

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Page is what a manual page is besides its text.
type Page struct {
	Name    string // such as pierfs
	Section int
	Short   string // one line, without a full stop
	Version string // of the program
	Date    string // of the version; "" is none
	// Sections are what follows the commands and flags, as Markdown in which each begins with a heading "# NAME".
	Sections string
	SeeAlso  []string // such as "pierfs(1)"
}

// Commands writes the page of a program: of root, and of all commands below it that are not hidden.
func (p Page) Commands(root *cobra.Command) []byte {
	w := p.begin()
	w.section("SYNOPSIS")
	w.synopsis(root)
	w.section("DESCRIPTION")
	w.prose(or(root.Long, root.Short))
	w.section("OPTIONS")
	w.flags(root.PersistentFlags(), root.LocalNonPersistentFlags())
	if commands := leaves(root); len(commands) > 0 {
		w.section("COMMANDS")
		for _, c := range commands {
			w.command(c)
		}
	}
	if root.Example != "" {
		w.section("EXAMPLES")
		w.code(root.Example)
	}
	return p.end(w)
}

// Text writes the page of a text in Markdown. Its title, the first heading, is left out, for the page has one.
func (p Page) Text(markdown string) []byte {
	w := p.begin()
	w.section("DESCRIPTION")
	if title, rest, ok := strings.Cut(markdown, "\n"); ok && strings.HasPrefix(title, "# ") {
		markdown = rest
	}
	w.markdown(markdown, 1)
	return p.end(w)
}

func (p Page) begin() *roff {
	w := &roff{}
	fmt.Fprintf(w, ".TH %s %d \"%s\" %s\n", quoted(strings.ToUpper(p.Name)), p.Section, p.Date, quoted(p.Name+" "+p.Version))
	w.section("NAME")
	fmt.Fprintf(w, "%s \\- %s\n", escape(p.Name), escape(lowerFirst(p.Short)))
	return w
}

func (p Page) end(w *roff) []byte {
	w.markdown(p.Sections, 0)
	if len(p.SeeAlso) > 0 {
		w.section("SEE ALSO")
		for i, other := range p.SeeAlso {
			name, section, _ := strings.Cut(strings.TrimSuffix(other, ")"), "(")
			comma := ","
			if i == len(p.SeeAlso)-1 {
				comma = ""
			}
			fmt.Fprintf(w, ".BR %s (%s)%s\n", escape(name), section, comma)
		}
	}
	return w.Bytes()
}

// leaves returns the commands below c that do something, in the order of --help.
func leaves(c *cobra.Command) (all []*cobra.Command) {
	for _, below := range c.Commands() {
		if below.Hidden || below.Name() == "help" {
			continue
		}
		if below.Runnable() && (!below.HasSubCommands() || below.Flags().HasFlags()) || !below.HasSubCommands() {
			all = append(all, below)
		}
		all = append(all, leaves(below)...)
	}
	return all
}

// roff is a page that is being written.
type roff struct{ bytes.Buffer }

func (w *roff) section(name string)    { fmt.Fprintf(w, ".SH %s\n", quoted(name)) }
func (w *roff) subsection(name string) { fmt.Fprintf(w, ".SS %s\n", quoted(name)) }

func (w *roff) synopsis(root *cobra.Command) {
	if root.Runnable() && !root.HasSubCommands() {
		fmt.Fprintf(w, ".B %s\n%s\n", escape(root.Name()), escape(strings.TrimPrefix(root.UseLine(), root.Name()+" ")))
		return
	}
	fmt.Fprintf(w, ".B %s\n[OPTION...] [COMMAND] [ARGUMENT...]\n", escape(root.Name()))
}

func (w *roff) command(c *cobra.Command) {
	use := strings.TrimSuffix(c.UseLine(), " [flags]")
	w.subsection(use)
	w.prose(or(c.Long, c.Short))
	w.flags(c.LocalNonPersistentFlags())
	if c.Example != "" {
		w.code(c.Example)
	}
}

// prose writes what --help prints: paragraphs with a blank line between them. What is indented stays as it is.
func (w *roff) prose(text string) {
	for i, paragraph := range strings.Split(strings.TrimSpace(text), "\n\n") {
		if i > 0 {
			w.paragraphBegins()
		}
		if strings.HasPrefix(paragraph, "  ") {
			w.code(paragraph)
			continue
		}
		for line := range strings.Lines(paragraph) {
			w.line(escape(strings.TrimSpace(line)))
		}
	}
}

func (w *roff) flags(sets ...*pflag.FlagSet) {
	for _, set := range sets {
		set.VisitAll(func(f *pflag.Flag) {
			if f.Hidden || f.Name == "help" {
				return
			}
			w.WriteString(".TP\n")
			what, usage := pflag.UnquoteUsage(f)
			name := `\fB\-\-` + escape(f.Name) + `\fR`
			if f.Shorthand != "" {
				name = `\fB\-` + f.Shorthand + `\fR, ` + name
			}
			if what != "" {
				name += ` \fI` + escape(what) + `\fR`
			}
			w.line(name)
			w.line(escape(usage))
		})
	}
}

// paragraphBegins writes a new paragraph, where none has just begun.
func (w *roff) paragraphBegins() {
	written := bytes.TrimSuffix(w.Bytes(), []byte("\n"))
	last := written[bytes.LastIndexByte(written, '\n')+1:]
	for _, request := range []string{".SH", ".SS", ".PP"} {
		if bytes.HasPrefix(last, []byte(request)) {
			return
		}
	}
	w.WriteString(".PP\n")
}

func (w *roff) code(text string) {
	w.paragraphBegins()
	w.WriteString(".RS 4\n.nf\n")
	for line := range strings.Lines(strings.TrimRight(text, "\n")) {
		w.line(escape(strings.TrimSuffix(line, "\n")))
	}
	w.WriteString(".fi\n.RE\n")
}

// line writes a line of text, which no request can begin by accident.
func (w *roff) line(text string) {
	if strings.HasPrefix(text, ".") || strings.HasPrefix(text, "'") {
		text = `\&` + text
	}
	w.WriteString(text + "\n")
}

// escape keeps a text from meaning anything to roff.
func escape(text string) string {
	return strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`, "`", `\(ga`, "^", `\(ha`, "~", `\(ti`).Replace(text)
}

// quoted is one argument of a request.
func quoted(text string) string { return `"` + strings.ReplaceAll(escape(text), `"`, `\(dq`) + `"` }

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func lowerFirst(text string) string {
	if len(text) > 1 && text[1] >= 'a' && text[1] <= 'z' {
		return strings.ToLower(text[:1]) + text[1:]
	}
	return text
}
