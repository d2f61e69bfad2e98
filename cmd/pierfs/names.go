package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"pierfs/cmd/internal/control"
	"pierfs/cmd/internal/terminal"
	"pierfs/cmd/internal/transfer"
)

func (h *hand) mkdirCommand() *cobra.Command {
	var q control.MkdirRequest
	cmd := &cobra.Command{Use: "mkdir NAME:/path", Short: "Make a directory on the server", Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return h.ofFile(cmd.Context(), args[0], &q.FileRequest, func(c *control.Client) error {
				f, err := control.Mkdir.Call(cmd.Context(), c, q)
				switch {
				case err != nil:
					return err
				case q.DryRun:
					p := h.plan()
					if f.Mode == "" { // it is not there
						p.take(transfer.Effect{Do: "mkdir", Path: q.Path, Type: "directory"})
					}
					return p.end()
				case h.asJSON:
					return h.json(f)
				}
				return nil
			})
		}}
	cmd.Flags().BoolVarP(&q.Parents, "parents", "p", false, "make what is missing above it too, and do not mind if it exists")
	dryFlag(cmd, &q.DryRun)
	return cmd
}

// removed is what rm prints as JSON.
type removed struct {
	Path  control.Name `json:"path"`
	Files int          `json:"files"` // that are gone, and links
	Dirs  int          `json:"directories"`
	Bytes int64        `json:"bytes"`
	Left  int          `json:"left"` // names that are still there
	// Failures are the first of those, each with the reason.
	Failures []transfer.Failure `json:"failures,omitempty"`

	found int
}

// take counts one name.
func (t *removed) take(r control.Removal) {
	t.found = r.Found
	switch {
	case r.Error != nil && len(t.Failures) < maxTold:
		t.Failures = append(t.Failures, transfer.Failure{Path: r.Path, Error: r.Error})
	case r.Error != nil:
	case r.Type == "directory":
		t.Dirs++
	default:
		t.Files++
		t.Bytes += r.Size
	}
	t.Left = t.found - t.Files - t.Dirs
}

// maxTold is how many failures are told one by one.
const maxTold = 20

func (h *hand) rmCommand() *cobra.Command {
	var q control.RmRequest
	cmd := &cobra.Command{Use: "rm NAME:/path", Short: "Remove a file of the server", Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return h.ofFile(cmd.Context(), args[0], &q.FileRequest, func(c *control.Client) error {
				if q.DryRun {
					return h.wouldRemove(cmd.Context(), c, q)
				}
				return h.remove(cmd.Context(), c, q, args[0])
			})
		}}
	cmd.Flags().BoolVarP(&q.Dir, "dir", "d", false, "remove an empty directory too")
	cmd.Flags().BoolVarP(&q.Recursive, "recursive", "r", false, "remove a directory and all that is in it")
	dryFlag(cmd, &q.DryRun)
	return cmd
}

func (h *hand) wouldRemove(ctx context.Context, c *control.Client, q control.RmRequest) error {
	p := h.plan()
	for r, err := range control.Rm.Call(ctx, c, q) {
		if err != nil {
			return err
		}
		p.take(transfer.Effect{Do: "rm", Path: r.Path, Type: r.Type, Size: r.Size, Error: r.Error})
	}
	return p.end()
}

// remove removes, and where it is cut short tells how far it came.
func (h *hand) remove(ctx context.Context, c *control.Client, q control.RmRequest, arg string) error {
	t := removed{Path: q.Path}
	for r, err := range control.Rm.Call(ctx, c, q) {
		if err != nil {
			return h.removedSoFar(ctx, t, q, arg, err)
		}
		t.take(r)
	}
	if h.asJSON {
		if err := h.json(t); err != nil {
			return err
		}
	} else {
		h.tellFailures(t.Failures)
		if t.Left > 0 {
			fmt.Fprintf(h.err, "pierfs: %s are removed, and %s; the same command tries them again\n", t.counts(), counted(t.Left, "1 name is left", "names are left"))
		}
	}
	if len(t.Failures) > 0 {
		return silent{t.Failures[0].Error.Code}
	}
	return nil
}

func (t removed) counts() string {
	return counted(t.Files, "1 file", "files") + " and " + counted(t.Dirs, "1 directory", "directories")
}

// removedSoFar adds to what ended a removal how far it came, and how it goes on.
func (h *hand) removedSoFar(ctx context.Context, t removed, q control.RmRequest, arg string, err error) error {
	e := *asControl(err)
	if ctx.Err() != nil {
		e = *control.Errorf(control.Cut, "interrupted")
	}
	at := terminal.Quote(arg)
	switch {
	case !q.Recursive && ctx.Err() != nil:
		return e.WithHint("it may have been removed all the same: `pierfs stat %s` tells", at)
	case !q.Recursive, t.found == 0 && ctx.Err() == nil:
		return err
	case t.found == 0:
		return e.WithHint("how much of it was removed is not known; `pierfs rm -r %s` goes on with it", at)
	}
	e.Text += fmt.Sprintf("; %s are removed, and at least %s", t.counts(), counted(t.Left, "1 name is left", "names are left"))
	goOn := "`pierfs rm -r " + at + "` goes on with it"
	if ctx.Err() == nil && e.Hint != "" {
		goOn = e.Hint + "; then " + goOn
	}
	return e.WithHint("%s", goOn)
}

// tellFailures prints what became of single names.
func (h *hand) tellFailures(all []transfer.Failure) {
	for _, f := range all {
		fmt.Fprintf(h.err, "pierfs: %s: %s\n", terminal.Quote(string(f.Path)), terminal.Quote(f.Error.Text))
		h.wayOut(h.err, nil, f.Error.Complete().Hint)
	}
}

func (h *hand) mvCommand() *cobra.Command {
	var q control.MvRequest
	cmd := &cobra.Command{Use: "mv NAME:/from NAME:/to", Short: "Rename a file of the server", Args: args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if q.FileRequest, err = h.at(args[0]); err != nil {
				return err
			}
			to, err := h.at(args[1])
			if err != nil {
				return err
			}
			if to.Connection != q.Connection {
				return usageError{errors.New("mv stays within one connection; between two: `pierfs get`, `pierfs put`, `pierfs rm`")}
			}
			q.To = to.Path
			c, done, err := h.served(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			d, err := control.Mv.Call(cmd.Context(), c, q)
			switch {
			case err != nil && !q.DryRun:
				return h.whereItIs(cmd.Context(), c, q, err)
			case err != nil:
				return err
			case q.DryRun:
				p := h.plan()
				p.take(transfer.Effect{Do: "mv", Path: q.Path, To: &d.Path, Replaces: d.Replaces})
				return p.end()
			case h.asJSON:
				return h.json(d)
			}
			return nil
		}}
	cmd.Flags().BoolVarP(&q.NoReplace, "no-clobber", "n", false, "fail if the new name exists")
	cmd.Flags().BoolVar(&q.DryRun, "dry-run", false, dryHelp)
	return cmd
}

// askWithin is how long is waited for the word of a server behind which a command was interrupted.
const askWithin = 5 * time.Second

// whereItIs adds to a renaming whose answer is lost what the server says of both names: a server renames a directory with all that is in it
// in one step, or not at all.
func (h *hand) whereItIs(ctx context.Context, c *control.Client, q control.MvRequest, err error) error {
	e := *asControl(err)
	if ctx.Err() != nil {
		e = *control.Errorf(control.Cut, "interrupted")
	}
	switch e.Code {
	case control.Cut, control.Offline, control.Timeout, control.Stopping, control.Unreachable:
	default:
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askWithin)
	defer cancel()
	from, to := q.FileRequest, q.FileRequest
	to.Path = q.To
	_, old := control.Stat.Call(ctx, c, from)
	_, now := control.Stat.Call(ctx, c, to)
	names := "`pierfs stat " + terminal.Quote(q.Connection+":"+string(q.Path)) + "`"
	switch {
	case old == nil && control.CodeOf(now) == control.NotFound:
		e.Text += "; nothing was renamed"
		return e.WithHint("the same command tries it again")
	case now == nil && control.CodeOf(old) == control.NotFound:
		e.Text += "; all of it has the new name"
		return e.WithHint("there is nothing left to be done")
	}
	e.Text += "; whether it was renamed is not known: a server renames all of it or nothing"
	return e.WithHint("%s tells whether it still has the old name; if so the same command tries it again", names)
}
