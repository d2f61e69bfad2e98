package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"pierfs/cmd/internal/control"
	"pierfs/cmd/internal/terminal"
)

// since reads a point in time as people give it: a duration before now, a day, or a time.
func since(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	for _, layout := range []string{time.RFC3339, time.DateTime, "2006-01-02T15:04", time.DateOnly} {
		if at, err := time.ParseInLocation(layout, text, time.Local); err == nil {
			return at, nil
		}
	}
	return time.Time{}, usageError{fmt.Errorf("--since %q is neither a duration, such as 90m, nor a time, such as 2026-11-03T04:05", text)}
}

func (h *hand) eventsCommand() *cobra.Command {
	q := control.EventsRequest{}
	var after string
	cmd := &cobra.Command{Use: "events [NAME]", Short: "Print what happens, a line each", Args: args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if q.Since, err = since(after, time.Now()); err != nil {
				return err
			}
			if q.New && !q.Follow {
				return usageError{errors.New("--new makes sense with --follow alone: without it nothing would be printed")}
			}
			q.Environment = h.environment
			if len(args) > 0 {
				q.Name = args[0]
			}
			return followed(cmd.Context(), q.Follow, control.Events.Call(cmd.Context(), h.client(), q), h.printEvent)
		}}
	cmd.Flags().BoolVarP(&q.Follow, "follow", "f", false, "go on with what happens from now on, until Ctrl-C or the end of the daemon")
	cmd.Flags().BoolVar(&q.New, "new", false, "with --follow: nothing that happened before")
	cmd.Flags().StringVar(&after, "since", "", "nothing older: a duration such as 90m, or a time such as 2026-11-03T04:05")
	return cmd
}

// followed prints the answers of a feed. One that was to go on for ever is ended by Ctrl-C in good order.
func followed[A any](ctx context.Context, follow bool, feed iter.Seq2[A, error], show func(A) error) error {
	for a, err := range feed {
		if follow && ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if err := show(a); err != nil {
			return err
		}
	}
	return nil
}

func (h *hand) printEvent(e control.Event) error {
	if h.asJSON {
		return h.json(e)
	}
	about := e.Name
	if e.Environment != "" {
		about += " in " + e.Environment
	}
	line := strings.TrimSpace(fmt.Sprintf("%s  %-10s %s", e.Time.Local().Format(time.DateTime), e.Kind, about))
	if told := toldOf(e); told != "" {
		line += ": " + told
	}
	_, err := fmt.Fprintln(h.out, terminal.Quote(line))
	return err
}

// toldOf is what e says besides its kind and whom it is about.
func toldOf(e control.Event) string {
	switch {
	case e.Lost > 0:
		return counted(int(e.Lost), "1 event is lost", "events are lost")
	case e.Deployment != nil:
		return attempted(*e.Deployment)
	case e.State != "":
		told := string(e.State)
		if e.Before != "" {
			told = string(e.Before) + " -> " + told
		}
		if why := cmp.Or(e.Cause, e.Reason); why != "" {
			told += ", " + why
		}
		return told
	}
	return e.Text
}

// attempted tells one attempt in few words.
func attempted(d control.Deployment) string {
	told := "try " + strconv.Itoa(d.Try) + ", " + d.Phase
	switch {
	case d.OK:
		told += " ok"
	case d.Cause != "":
		told += " failed: " + d.Cause
	default:
		told += " failed: " + d.Reason
	}
	return told + ", " + milliseconds(d.Millis)
}

func milliseconds(ms float64) string { return strconv.FormatFloat(ms, 'f', 1, 64) + " ms" }

func (h *hand) deploymentsCommand() *cobra.Command {
	q := control.DeploymentsRequest{}
	var after string
	cmd := &cobra.Command{Use: "deployments [NAME]", Short: "Show every attempt to bring connections into service", Args: args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if q.Since, err = since(after, time.Now()); err != nil {
				return err
			}
			q.Environment = h.environment
			if len(args) > 0 {
				q.Name = args[0]
			}
			var rows [][]string
			for d, err := range control.Deployments.Call(cmd.Context(), h.client(), q) {
				if err != nil {
					return err
				}
				if h.asJSON {
					if err := h.json(d); err != nil {
						return err
					}
					continue
				}
				rows = append(rows, deploymentRow(d))
			}
			if len(rows) == 0 {
				return nil
			}
			return table(h.out, []string{"TIME", "NAME", "ENVIRONMENT", "TRY", "PHASE", "RESULT", "MS", "REASON"}, rows)
		}}
	cmd.Flags().IntVar(&q.Last, "last", 0, "only the latest")
	cmd.Flags().StringVar(&after, "since", "", "nothing older: a duration such as 24h, or a time such as 2026-11-03")
	return cmd
}

func deploymentRow(d control.Deployment) []string {
	result := "ok"
	if !d.OK {
		result = cmp.Or(d.Cause, "failed")
	}
	return []string{d.Time.Local().Format(time.DateTime), d.Name, cmp.Or(d.Environment, "-"), strconv.Itoa(d.Try), d.Phase, result,
		strconv.FormatFloat(d.Millis, 'f', 1, 64), d.Reason}
}

// clear makes a terminal empty (ECMA-48: CUP, ED).
const clear = "\x1b[H\x1b[2J"

// watchStatus shows the status whenever it changes: on a terminal in place of what was shown, else below it.
func (h *hand) watchStatus(ctx context.Context) error {
	first := true
	return followed(ctx, true, control.Watch.Call(ctx, h.client(), control.StatusRequest{}), func(a control.StatusAnswer) error {
		switch {
		case h.asJSON:
		case isTerminal(h.out):
			fmt.Fprint(h.out, clear)
		case !first:
			fmt.Fprintln(h.out)
		}
		first = false
		if !h.asJSON {
			fmt.Fprintf(h.out, "%s\n\n", time.Now().Format(time.DateTime))
		}
		return h.showStatus(a)
	})
}

func (h *hand) logCommand() *cobra.Command {
	return &cobra.Command{Use: "log NAME [LEVEL]", Short: "Set the level at which a connection is logged, while the daemon runs", Args: args(cobra.RangeArgs(1, 2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			q := control.LogRequest{Name: args[0], Environment: h.environment}
			if len(args) == 2 {
				q.Level = args[1]
			}
			a, err := control.Log.Call(cmd.Context(), h.client(), q)
			if err != nil {
				return err
			}
			if h.asJSON {
				return h.json(a)
			}
			_, err = fmt.Fprintln(h.out, a.Level)
			return err
		}}
}

func (h *hand) traceCommand() *cobra.Command {
	var q control.TraceRequest
	cmd := &cobra.Command{Use: "trace NAME", Short: "Show what was last said between a connection and its server", Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			q.Name, q.Environment = args[0], h.environment
			for line, err := range control.Trace.Call(cmd.Context(), h.client(), q) {
				if err != nil {
					return err
				}
				if h.asJSON {
					err = h.json(line)
				} else {
					err = printTraceLine(h.out, line)
				}
				if err != nil {
					return err
				}
			}
			return nil
		}}
	cmd.Flags().IntVar(&q.Last, "last", 0, "only the latest lines")
	return cmd
}

// printTraceLine prints one thing that was said: > to the server, < from it.
func printTraceLine(out io.Writer, l control.TraceLine) error {
	mark := map[string]string{"sent": ">", "got": "<"}[l.Kind]
	_, err := fmt.Fprintf(out, "%s %d %s %s\n", l.Time.Local().Format("15:04:05.000"), l.Session, cmp.Or(mark, " "), terminal.Quote(l.Text))
	return err
}
