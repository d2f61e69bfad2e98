package main

import (
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"pierfs/cmd/internal/control"
	"pierfs/cmd/internal/terminal"
)

func (h *hand) historyCommand() *cobra.Command {
	var last int
	cmd := &cobra.Command{Use: "history [NAME|FILE]", Short: "Tell who changed definitions when, and what", Args: args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			q := control.HistoryRequest{Last: last}
			if len(args) == 1 {
				q.Subject = args[0]
			}
			a, err := control.History.Call(cmd.Context(), h.client(), q)
			if err != nil {
				return err
			}
			if h.asJSON {
				return h.json(a)
			}
			return h.printHistory(a.Revisions)
		}}
	cmd.Flags().IntVar(&last, "last", 0, "so many changes at most, the latest ones (100)")
	return cmd
}

func (h *hand) printHistory(all []control.Revision) error {
	for _, r := range all {
		who := whose(r.User, r.UID)
		if r.ApproverUID != nil {
			who += ", approved by " + whose(r.Approver, *r.ApproverUID)
		}
		id := strconv.FormatUint(r.Revision, 10)
		if err := h.printChanges(id, r.Time, who, r.Verb+" "+r.Subject, r.Reason, r.Changes); err != nil {
			return err
		}
	}
	return nil
}

func (h *hand) rollbackCommand() *cobra.Command {
	var f changeFlags
	cmd := &cobra.Command{Use: "rollback NAME|FILE REVISION", Short: "Make a definition what it was after a revision, as a new revision", Args: args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			revision, err := strconv.ParseUint(args[1], 10, 64)
			if err != nil {
				return usageError{fmt.Errorf("%q is no revision: `pierfs history %s` lists them", args[1], args[0])}
			}
			q := control.RollbackRequest{Subject: args[0], Revision: revision}
			a, err := made(cmd.Context(), h, f, "", control.Rollback, &q, &q.ChangeOptions)
			return h.changed(a, err, f)
		}}
	f.add(cmd)
	return cmd
}

func (h *hand) auditCommand() *cobra.Command {
	return h.group("audit", "The log of changes", h.auditVerifyCommand())
}

func (h *hand) auditVerifyCommand() *cobra.Command {
	var head string
	cmd := &cobra.Command{Use: "verify", Short: "Prove that no entry of the log of changes was altered, taken out or cut off", Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := control.Verify.Call(cmd.Context(), h.client(), control.VerifyRequest{Head: head})
			if err != nil {
				return err
			}
			if h.asJSON {
				err = h.json(a)
			} else if a.OK {
				_, err = fmt.Fprintf(h.out, "%s, each as it was written; the last one is %s\n", counted(a.Entries, "1 entry", "entries"), a.Head)
			} else {
				_, err = fmt.Fprintf(h.err, "pierfs: the log of changes is not what was written: %s\n  keep it as it is, and compare with the daemon's log, which has the hash of each entry\n", terminal.Quote(a.Broken))
			}
			if err == nil && !a.OK {
				return silent{control.Failed}
			}
			return err
		}}
	cmd.Flags().StringVar(&head, "head", "", "hash of an entry that was kept elsewhere, which must be among them")
	return cmd
}
