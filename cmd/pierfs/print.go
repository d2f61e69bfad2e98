package main

import (
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"
	"time"

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
	return []string{c.Name, environment, string(c.State), c.Endpoint, c.Dir, c.Reason}
}

var connectionHeader = []string{"NAME", "ENVIRONMENT", "STATE", "SERVER", "DIRECTORY", "REASON"}

func (h *hand) connections(all []control.Connection) error {
	if len(all) == 0 {
		return nil
	}
	rows := make([][]string, len(all))
	for i, c := range all {
		rows[i] = connectionRow(c)
	}
	return table(h.out, connectionHeader, rows)
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
