package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"pierfs/cmd/internal/control"
	"pierfs/cmd/internal/terminal"
	"pierfs/conncfg"
)

// table writes rows in columns; every cell is quoted.
func table(out io.Writer, header []string, rows [][]string) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	for i, row := range append([][]string{header}, rows...) {
		if i == 0 && header == nil {
			continue
		}
		for j, cell := range row {
			if j > 0 {
				fmt.Fprint(w, "\t")
			}
			fmt.Fprint(w, terminal.Quote(cell))
		}
		fmt.Fprintln(w)
	}
	return w.Flush()
}

func connectionRow(c control.Connection) []string {
	environment := c.Environment
	if c.AdHoc {
		environment = "-"
	}
	return []string{c.Name, environment, string(c.State), c.Endpoint, c.Dir, briefly(c)}
}

var connectionHeader = []string{"NAME", "ENVIRONMENT", "STATE", "SERVER", "DIRECTORY", "REASON"}

// connections prints a table of what stands how, and below it what keeps each from being ready, with the way out.
func (h *hand) connections(all []control.Connection) error {
	if err := h.overview(all); err != nil {
		return err
	}
	for _, c := range all {
		h.trouble(c)
	}
	return nil
}

func (h *hand) overview(all []control.Connection) error {
	if len(all) == 0 {
		return nil
	}
	rows := make([][]string, len(all))
	header, certified := connectionHeader, slices.ContainsFunc(all, func(c control.Connection) bool { return len(c.Certificates) > 0 })
	if certified {
		header = append(slices.Clip(header), "CERTIFICATE")
	}
	for i, c := range all {
		rows[i] = connectionRow(c)
		if certified {
			rows[i] = append(rows[i], daysLeft(c))
		}
	}
	return table(h.out, header, rows)
}

// daysLeft is for how many days the first certificate to end is good that c relies on.
func daysLeft(c control.Connection) string {
	if len(c.Certificates) == 0 {
		return "-"
	}
	first := slices.MinFunc(c.Certificates, func(a, b control.Ending) int { return a.NotAfter.Compare(b.NotAfter) })
	if first.DaysLeft < 0 {
		return "has ended"
	}
	return count(first.DaysLeft, "day")
}

// standing prints how what was mounted stands. What keeps one from being ready is told as a failure is, on standard error.
func (h *hand) standing(all []control.Connection) error {
	if err := h.overview(all); err != nil {
		return err
	}
	for _, c := range all {
		if c.NotReady() == "" {
			h.trouble(c)
			continue
		}
		word := "is not mounted"
		switch c.State {
		case control.StateOffline:
			word = "is mounted, and offline"
		case control.StateStarting:
			word = "is still starting"
		}
		fmt.Fprintf(h.err, "pierfs: %s %s: %s\n", terminal.Quote(fullName(c)), word, terminal.Quote(cmp.Or(c.Reason, string(c.State))))
		e := control.Error{Code: c.NotReady(), Hint: c.Hint, Findings: c.Findings}
		h.wayOut(h.err, c.Findings, e.Complete().Hint)
	}
	return nil
}

// maxBrief is how long a reason may be in a table.
const maxBrief = 50

// briefly is why c is not ready, or what will keep it from being so, short enough for a table: by the word that
// docs/OPERATING.md explains, where there is one.
func briefly(c control.Connection) string {
	var errors int
	for _, f := range c.Findings {
		if f.Severity == conncfg.Error {
			errors++
		}
	}
	switch warnings := len(c.Findings) - errors; {
	case c.Cause != "":
		return c.Cause
	case errors > 0:
		return counted(errors, "an error in its definition", "errors in its definition")
	case c.Reason == "" && warnings > 0:
		return counted(warnings, "a warning, see below", "warnings, see below")
	case c.Reason == "" && c.Untested && !c.Tested.IsZero():
		return "untested since it was changed"
	case utf8.RuneCountInString(c.Reason) > maxBrief:
		return string([]rune(c.Reason)[:maxBrief-3]) + "..."
	}
	return c.Reason
}

// counted is one for 1, and the number and many for others.
func counted(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return strconv.Itoa(n) + " " + many
}

// trouble prints what the table had no room for: why c is not ready, or what will keep it from being so, and the way out.
func (h *hand) trouble(c control.Connection) {
	if c.Hint == "" && len(c.Findings) == 0 && briefly(c) == c.Reason {
		return
	}
	reason := cmp.Or(c.Reason, string(c.State))
	if conncfg.HasErrors(c.Findings) { // which tell more
		reason = "its definition cannot be used"
	}
	fmt.Fprintf(h.out, "\n%s: %s\n", terminal.Quote(fullName(c)), terminal.Quote(reason))
	h.wayOut(h.out, c.Findings, c.Hint)
}

// wayOut prints what was found, one a line, and what to do.
func (h *hand) wayOut(out io.Writer, findings []conncfg.Finding, hint string) {
	for _, f := range findings {
		fmt.Fprintf(out, "  %s\n", terminal.Quote(f.String()))
	}
	if hint != "" {
		fmt.Fprintf(out, "  %s\n", terminal.Quote(hint))
	}
}

// fullName is how sentences call a connection.
func fullName(c control.Connection) string {
	if c.AdHoc || c.Environment == "" {
		return c.Name
	}
	return c.Name + " in " + c.Environment
}

func (h *hand) findings(out io.Writer, all []conncfg.Finding) {
	for _, f := range all {
		fmt.Fprintln(out, terminal.Quote(f.String()))
	}
}

// fileRow is a file as ls -l has it.
func fileRow(f control.File) []string {
	kind := map[string]string{"file": "-", "directory": "d", "symlink": "l"}[f.Type]
	if kind == "" {
		kind = "?"
	}
	name := string(f.Name)
	if f.Target != nil {
		name += " -> " + string(*f.Target)
	}
	when := "-"
	if !f.Time.IsZero() {
		when = f.Time.Local().Format(time.DateTime)
	}
	return []string{kind + f.Mode, id(f.UID), id(f.GID), strconv.FormatInt(f.Size, 10), when, name}
}

func id(n *uint32) string {
	if n == nil {
		return "-"
	}
	return strconv.FormatUint(uint64(*n), 10)
}
