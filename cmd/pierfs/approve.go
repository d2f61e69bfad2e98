package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"pierfs/cmd/internal/control"
	"pierfs/cmd/internal/terminal"
	"pierfs/conncfg"
)

func (h *hand) pendingCommand() *cobra.Command {
	return &cobra.Command{Use: "pending", Short: "List the changes that wait for a second person", Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := control.Pending.Call(cmd.Context(), h.client(), control.PendingRequest{})
			if err != nil {
				return err
			}
			if h.asJSON {
				return h.json(a)
			}
			return h.printPending(a.Pending)
		}}
}

func (h *hand) printPending(all []control.Proposal) error {
	for _, p := range all {
		what := fmt.Sprintf("%s %s, for %s", p.Verb, p.Subject, strings.Join(p.Protects, ", "))
		if err := h.printChanges(p.ID, p.Time, whose(p.User, p.UID), what, p.Reason, p.Changes); err != nil {
			return err
		}
	}
	return nil
}

// printChanges prints what one change does: a line on who made it when, and below it each field that it changes.
func (h *hand) printChanges(id string, at time.Time, who, what, reason string, changes []conncfg.Difference) error {
	line := strings.Join([]string{id, at.Local().Format(time.DateTime), who, strings.TrimRight(what, " ")}, "  ")
	if reason != "" {
		line += "  (" + reason + ")"
	}
	if _, err := fmt.Fprintln(h.out, terminal.Quote(line)); err != nil {
		return err
	}
	rows := make([][]string, len(changes))
	for i, c := range changes {
		rows[i] = []string{"   ", c.File, c.Environment, c.Field, orNone(c.Before) + " -> " + orNone(c.After)}
	}
	return table(h.out, nil, rows)
}

// whose is the name of a user, or the number of one who has none any more.
func whose(user string, uid uint32) string {
	if user == "" {
		return "uid " + strconv.FormatUint(uint64(uid), 10)
	}
	return user
}

func (h *hand) approveCommand() *cobra.Command {
	var f changeFlags
	cmd := &cobra.Command{Use: "approve ID", Short: "Let a change come into force that somebody else has made", Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			q := control.ApproveRequest{ID: args[0]}
			a, err := made(cmd.Context(), h, f, "", control.Approve, &q, &q.ChangeOptions)
			return h.changed(a, err, f)
		}}
	f.add(cmd)
	return cmd
}

func (h *hand) rejectCommand() *cobra.Command {
	var f changeFlags
	cmd := &cobra.Command{Use: "reject ID", Short: "End a change that waits; a file that was changed by hand is put back", Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := control.Reject.Call(cmd.Context(), h.client(), control.ApproveRequest{ID: args[0], ChangeOptions: f.options})
			if err != nil || h.asJSON || f.options.DryRun {
				return h.changed(a, err, f)
			}
			_, err = fmt.Fprintf(h.out, "rejected: %s\n", terminal.Quote(args[0]))
			return err
		}}
	cmd.Flags().BoolVarP(&f.options.DryRun, "dry-run", "n", false, "tell what would be put back, and change nothing")
	cmd.Flags().StringVar(&f.options.Reason, "reason", "", "why, for the log")
	return cmd
}

// proposals offers the numbers of the changes that wait.
func proposals(h *hand, ctx context.Context, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	a, _ := control.Pending.Call(ctx, h.client(), control.PendingRequest{}) // who cannot be asked knows none
	var ids []string
	for _, p := range a.Pending {
		ids = append(ids, p.ID)
	}
	return ids, onlyThese
}
