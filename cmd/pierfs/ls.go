package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"pierfs/cmd/internal/control"
	"pierfs/cmd/internal/terminal"
)

// filterFlags are the flags that choose files.
type filterFlags struct {
	filter control.Filter
	match  string
	first  bool
}

func (f *filterFlags) add(cmd *cobra.Command) {
	set := cmd.Flags()
	set.StringVar(&f.filter.Text, "filter", "", "only files whose names fit this text")
	set.StringVar(&f.match, "filter-type", string(control.StartsWith), "how they fit it: STARTS_WITH, EXACT_MATCH, CONTAINS, ENDS_WITH or WILDCARD (* and ?)")
	set.BoolVar(&f.filter.CaseSensitive, "case-sensitive", false, "tell capital letters from small ones")
	set.Int64Var(&f.filter.MaxKB, "max-file-size-kb", 0, "only files of at most so many times 1024 bytes")
	set.BoolVar(&f.first, "first-match", false, "the first that fits, and no more")
}

// read returns what was chosen.
func (f *filterFlags) read() (control.Filter, error) {
	f.filter.Match = control.Match(strings.ReplaceAll(strings.ToUpper(f.match), "-", "_"))
	return f.filter, f.filter.Check()
}

// listed is what ls prints as JSON.
type listed struct {
	Path    control.Name   `json:"path"`
	Files   []control.File `json:"files"`
	Count   int            `json:"count"`
	Message string         `json:"message"`
}

func (h *hand) lsCommand() *cobra.Command {
	var q control.LsRequest
	var flags filterFlags
	cmd := &cobra.Command{Use: "ls NAME[:/path]", Short: "List a directory of the server", Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if !strings.Contains(args[0], ":") {
				args[0] += ":/"
			}
			if q.FileRequest, err = h.at(args[0]); err != nil {
				return err
			}
			if q.Filter, err = flags.read(); err != nil {
				return err
			}
			q.First = flags.first
			c, done, err := h.served(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			print := h.lister(q)
			count := 0
			for file, err := range control.Ls.Call(cmd.Context(), c, q) {
				if err != nil {
					return err // what was printed stands; with --json it is no value
				}
				count++
				if err := print.file(file); err != nil {
					return err
				}
			}
			return print.end(count)
		}}
	cmd.Flags().BoolVarP(&q.Recursive, "recursive", "R", false, "list all below it too; links are not followed")
	flags.add(cmd)
	return cmd
}

// lister prints a listing.
type lister interface {
	file(control.File) error
	end(count int) error
}

// lister returns what prints a listing: a whole tree as it comes, for it may be larger than memory; else in order.
func (h *hand) lister(q control.LsRequest) lister {
	switch {
	case h.asJSON:
		return &jsonLister{h: h, path: q.Path}
	case q.Recursive:
		return treeLister{h}
	}
	return &tableLister{h: h}
}

type tableLister struct {
	h     *hand
	files []control.File
}

func (l *tableLister) file(f control.File) error { l.files = append(l.files, f); return nil }

func (l *tableLister) end(int) error {
	slices.SortFunc(l.files, func(a, b control.File) int { return strings.Compare(string(a.Name), string(b.Name)) })
	return l.h.printFiles(l.files)
}

// treeLister prints a line for each file, with its path.
type treeLister struct{ h *hand }

func (l treeLister) file(f control.File) error {
	row := fileRow(f)
	if f.Path != nil {
		row[len(row)-1] = string(*f.Path)
	}
	_, err := fmt.Fprintf(l.h.out, "%s %5s %5s %12s %19s %s\n", row[0], row[1], row[2], row[3], row[4], terminal.Quote(row[5]))
	return err
}

func (l treeLister) end(int) error { return nil }

// jsonLister prints one JSON value in parts. It begins with the first file, so that a failure before that is the only value.
type jsonLister struct {
	h     *hand
	path  control.Name
	begun bool
}

func (l *jsonLister) begin() error {
	if l.begun {
		return nil
	}
	l.begun = true
	name, err := json.Marshal(l.path)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(l.h.out, `{"path":%s,"files":[`, name)
	return err
}

func (l *jsonLister) file(f control.File) error {
	separator := ","
	if !l.begun {
		separator = ""
	}
	if err := l.begin(); err != nil {
		return err
	}
	var b bytes.Buffer
	encoder := json.NewEncoder(terminal.JSONWriter(&b))
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(f); err != nil {
		return err
	}
	_, err := io.WriteString(l.h.out, separator+strings.TrimSuffix(b.String(), "\n"))
	return err
}

func (l *jsonLister) end(count int) error {
	if err := l.begin(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(l.h.out, "],\"count\":%d,\"message\":%q}\n", count, counted(count, "1 file", "files"))
	return err
}
