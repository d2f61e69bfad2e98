package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"pierfs/cmd/internal/control"
	"pierfs/cmd/internal/terminal"
)

// owedFlags say what becomes of what is owed to a server, where its connection is taken away. Without either that is refused.
type owedFlags struct{ wait, keep bool }

func (o *owedFlags) add(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&o.wait, "wait", false, "wait until the server has what is owed")
	cmd.Flags().BoolVar(&o.keep, "keep", false, "leave what is owed in the journal: it is sent when the connection is mounted again")
}

func (o *owedFlags) check() error {
	if o.wait && o.keep {
		return usageError{errors.New("--wait and --keep exclude each other")}
	}
	return nil
}

// paid calls do, and with --wait again each time that the server has what do was refused for.
func (h *hand) paid(ctx context.Context, o owedFlags, name string, do func() error) error {
	for {
		err := do()
		if !o.wait || control.CodeOf(err) != control.StillOwed {
			return err
		}
		if err := h.awaitPaid(ctx, name, h.environment); err != nil {
			return err
		}
	}
}

// lookEvery is how often it is asked whether something is still owed.
const lookEvery = 200 * time.Millisecond

// awaitPaid returns when the server of a connection has what is owed to it. What waits for a person is not waited for.
func (h *hand) awaitPaid(ctx context.Context, name, environment string) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for told := false; ; told = true {
		owed, held := 0, 0
		for d, err := range control.Queue.Call(ctx, h.client(), control.QueueRequest{Name: name, Environment: environment}) {
			switch {
			case err != nil:
				return err
			case d.State == control.DueHeld:
				held++
			case d.State != control.DueUnserved:
				owed++
			}
		}
		switch {
		case held > 0:
			return control.Errorf(control.Stuck, "%s: %s held until somebody decides", name, counted(held, "1 change is", "changes are")).
				WithHint("`pierfs queue %s` shows them; retry sends them, --keep leaves them where they are", name)
		case owed == 0:
			return nil
		case !told && !h.asJSON:
			fmt.Fprintf(h.err, "pierfs: waiting for %s of %s\n", counted(owed, "1 change", "changes"), terminal.Quote(name))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// stay prints which connections stay as they were because something is owed.
func (h *hand) stay(all []control.Owing) {
	for _, o := range all {
		fmt.Fprintf(h.err, "pierfs: %s stays as it was: it owes its server %s\n", terminal.Quote(fullName(control.Connection{Name: o.Name, Environment: o.Environment})), owes(o))
	}
	if len(all) > 0 {
		fmt.Fprintln(h.err, "  it is done by itself when the servers have that; --wait waits for it, --keep does it now and leaves what is owed in the journal")
	}
}

// kept prints what connections that were taken away leave in their journals.
func (h *hand) kept(all []control.Owing) {
	for _, o := range all {
		fmt.Fprintf(h.out, "%s still owes its server %s; that is sent when it is mounted again\n",
			terminal.Quote(fullName(control.Connection{Name: o.Name, Environment: o.Environment})), owes(o))
	}
}

// owes is how much it is.
func owes(o control.Owing) string {
	return fmt.Sprintf("%s, %s, the oldest for %s", counted(o.Changes, "1 change", "changes"), inBytes(o.Bytes), ago(o.Since))
}
