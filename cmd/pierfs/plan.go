package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"pierfs/cmd/internal/control"
	"pierfs/cmd/internal/terminal"
	"pierfs/cmd/internal/transfer"
)

const dryHelp = "tell what would be done, name by name, and change nothing"

// dryFlag is for commands that change files.
func dryFlag(cmd *cobra.Command, dry *bool) {
	cmd.Flags().BoolVarP(dry, "dry-run", "n", false, dryHelp)
}

// planned is what the dry run of a command that changes files prints as JSON.
type planned struct {
	Would []transfer.Effect `json:"would"`
	Files int               `json:"files"` // among them
	Bytes int64             `json:"bytes"`
}

// planner prints what would be done while it becomes known: a tree may be larger than memory.
type planner struct {
	h    *hand
	sum  planned
	kept int // names that could not be
	all  int
	err  error
	why  control.Code
}

func (h *hand) plan() *planner { return &planner{h: h, sum: planned{Would: []transfer.Effect{}}} }

// words say what would be done.
func words(do string) string {
	switch do {
	case "rm":
		return "would be removed"
	case "mv":
		return "would be renamed"
	case "put":
		return "would be put"
	case "get":
		return "would be got"
	case "link":
		return "would be made as a link"
	case "export":
		return "would be exported"
	}
	return "would be made"
}

func (p *planner) take(e transfer.Effect) {
	p.all++
	switch {
	case e.Error != nil:
		p.kept++
		p.why = e.Error.Code
	case e.Type != "directory":
		p.sum.Files++
		p.sum.Bytes += e.Size
	}
	if p.h.asJSON {
		p.sum.Would = append(p.sum.Would, e)
		return
	}
	if e.Error != nil {
		p.h.tellFailures([]transfer.Failure{{Path: e.Path, Error: e.Error}})
		return
	}
	line := words(e.Do) + ": " + terminal.Quote(string(e.Path))
	if e.Type == "directory" {
		line += "/"
	}
	if e.To != nil {
		line += " to " + terminal.Quote(string(*e.To))
	}
	if e.Type == "file" {
		line += ", " + inBytes(e.Size)
	}
	if was := e.Replaces; was != nil {
		line += ", in place of a " + was.Type + " of " + inBytes(was.Size)
		if !was.Time.IsZero() {
			line += " and " + was.Time.Local().Format(time.DateTime)
		}
	}
	if _, err := fmt.Fprintln(p.h.out, line); err != nil {
		p.err = err
	}
}

// end prints the sum. What could not be done decides the status, as it would without a dry run.
func (p *planner) end() error {
	switch {
	case p.err != nil:
		return p.err
	case p.h.asJSON:
		p.err = p.h.json(p.sum)
	case p.all == 0:
		_, p.err = fmt.Fprintln(p.h.out, "nothing would be done: it is so already")
	default:
		_, p.err = fmt.Fprintf(p.h.out, "%s, %s; this was a dry run, and nothing was changed\n", counted(p.all-p.kept, "1 name", "names"), inBytes(p.sum.Bytes))
	}
	if p.err == nil && p.kept > 0 {
		return silent{p.why}
	}
	return p.err
}
