package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"pierfs/cmd/internal/control"
	"pierfs/cmd/internal/terminal"
	"pierfs/cmd/internal/transfer"
	"pierfs/conncfg"
)

// queued is what queue prints as JSON.
type queued struct {
	Count         int           `json:"count"`
	Bytes         int64         `json:"bytes"`
	Oldest        time.Time     `json:"oldest,omitzero"` // since when the oldest is owed
	OldestSeconds int64         `json:"oldestSeconds"`
	Held          int           `json:"held"`
	Owed          []control.Due `json:"owed"`
}

// add counts one more.
func (q *queued) add(d control.Due) {
	q.Count++
	q.Bytes += d.Size
	if d.State == control.DueHeld {
		q.Held++
	}
	if q.Oldest.IsZero() || d.Since.Before(q.Oldest) {
		q.Oldest = d.Since
	}
}

func (h *hand) queueCommand() *cobra.Command {
	var check bool
	limits := limits{age: 15 * time.Minute}
	cmd := &cobra.Command{Use: "queue [NAME]", Short: "Show what is acknowledged here and not yet at the server", Args: args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if check {
				return h.checkQueue(cmd, args, limits)
			}
			return h.listQueue(cmd, args)
		}}
	cmd.Flags().BoolVar(&check, "check", false, "end with 75 if something waits for too long or is too much, with 74 if something waits for a person")
	cmd.Flags().DurationVar(&limits.age, "age", limits.age, "with --check: how long anything may wait")
	cmd.Flags().StringVar(&limits.size, "size", "", "with --check: how much may wait, such as 1GiB; no limit without it")
	list := &cobra.Command{Use: "list [NAME]", Short: "Show what is owed, the oldest first", Args: args(cobra.MaximumNArgs(1)), RunE: h.listQueue}
	cmd.AddCommand(list, h.queueRetryCommand(), h.queueHoldCommand(), h.queueDropCommand(), h.queueExportCommand())
	return cmd
}

// askQueue returns what is owed by the connection in args, or by all.
func (h *hand) askQueue(cmd *cobra.Command, args []string) (queued, error) {
	q := control.QueueRequest{Environment: h.environment}
	if len(args) > 0 {
		q.Name = args[0]
	}
	all := queued{Owed: []control.Due{}}
	for d, err := range control.Queue.Call(cmd.Context(), h.client(), q) {
		if err != nil {
			return all, err
		}
		all.add(d)
		all.Owed = append(all.Owed, d)
	}
	if all.Count > 0 {
		all.OldestSeconds = int64(time.Since(all.Oldest).Seconds())
	}
	return all, nil
}

func (h *hand) listQueue(cmd *cobra.Command, args []string) error {
	all, err := h.askQueue(cmd, args)
	if err != nil {
		return err
	}
	if h.asJSON {
		return h.json(all)
	}
	return h.printQueue(all)
}

func (h *hand) printQueue(all queued) error {
	if all.Count == 0 {
		_, err := fmt.Fprintln(h.out, "nothing is owed")
		return err
	}
	rows := make([][]string, len(all.Owed))
	for i, d := range all.Owed {
		where := string(d.Path)
		if d.To != nil {
			where += " -> " + string(*d.To)
		}
		rows[i] = []string{d.Name, cmp.Or(d.Environment, "-"), strconv.FormatUint(d.ID, 10), d.Kind, where, inBytes(d.Size), ago(d.Since), string(d.State), briefReason(d)}
	}
	if err := table(h.out, []string{"NAME", "ENVIRONMENT", "ID", "KIND", "PATH", "SIZE", "FOR", "STATE", "REASON"}, rows); err != nil {
		return err
	}
	h.reasons(all.Owed)
	_, err := fmt.Fprintf(h.out, "\n%s, %s; the oldest for %s\n", counted(all.Count, "1 change is owed", "changes are owed"), inBytes(all.Bytes), ago(all.Oldest))
	return err
}

// briefReason is why d is not at its server, short enough for a table.
func briefReason(d control.Due) string {
	switch {
	case d.Cause != "":
		return d.Cause
	case utf8.RuneCountInString(d.Reason) > maxBrief:
		return string([]rune(d.Reason)[:maxBrief-3]) + "..."
	}
	return d.Reason
}

// reasons prints each reason that the table has no room for, once for each connection, and where it is owed to.
func (h *hand) reasons(all []control.Due) {
	type told struct{ name, environment, target, reason string }
	seen := map[told]bool{}
	for _, d := range all {
		if t := (told{d.Name, d.Environment, d.Target, d.Reason}); !seen[t] && (d.Reason != briefReason(d) || d.State == control.DueUnserved) {
			seen[t] = true
			fmt.Fprintf(h.out, "\n%s: %s\n  owed to %s\n", terminal.Quote(fullName(control.Connection{Name: d.Name, Environment: d.Environment})),
				terminal.Quote(d.Reason), terminal.Quote(d.Target))
		}
	}
}

// ago is how long ago t was, as people read it.
func ago(t time.Time) string {
	d := time.Since(t)
	if d > 48*time.Hour {
		return count(int(d/(24*time.Hour)), "day")
	}
	if d > time.Minute {
		return d.Truncate(time.Second).String()
	}
	return d.Truncate(100 * time.Millisecond).String()
}

// limits are what --check allows.
type limits struct {
	age  time.Duration
	size string
}

// queueChecked is what queue --check prints as JSON.
type queueChecked struct {
	OK            bool         `json:"ok"`
	Code          control.Code `json:"code,omitempty"`
	Reason        string       `json:"reason,omitempty"`
	Count         int          `json:"count"`
	Bytes         int64        `json:"bytes"`
	Oldest        time.Time    `json:"oldest,omitzero"`
	OldestSeconds int64        `json:"oldestSeconds"`
	Held          int          `json:"held"`
	Quarantined   int          `json:"quarantined"`
}

func (h *hand) checkQueue(cmd *cobra.Command, args []string, l limits) error {
	most, ok := int64(0), true
	if l.size != "" {
		most, ok = conncfg.ParseSize(l.size)
	}
	if !ok {
		return usageError{fmt.Errorf("--size %q is no size; write 1GiB or 500MB", l.size)}
	}
	all, err := h.askQueue(cmd, args)
	if err != nil {
		return err
	}
	c := queueChecked{Count: all.Count, Bytes: all.Bytes, Oldest: all.Oldest, OldestSeconds: all.OldestSeconds, Held: all.Held}
	if c.Quarantined, err = h.quarantined(cmd, args); err != nil {
		return err
	}
	switch {
	case c.Held > 0:
		c.Code, c.Reason = control.Stuck, counted(c.Held, "1 change is", "changes are")+" held until somebody decides: see `pierfs queue`"
	case c.Quarantined > 0:
		c.Code, c.Reason = control.Stuck, counted(c.Quarantined, "1 file is", "files are")+" in quarantine: see `pierfs status`"
	case c.Count > 0 && time.Since(c.Oldest) > l.age:
		c.Code, c.Reason = control.StillOwed, "the oldest change is owed for "+ago(c.Oldest)+", and "+l.age.String()+" is allowed: see `pierfs queue`"
	case l.size != "" && c.Bytes > most:
		c.Code, c.Reason = control.StillOwed, inBytes(c.Bytes)+" are owed, and "+inBytes(most)+" are allowed: see `pierfs queue`"
	default:
		c.OK = true
	}
	return h.printQueueChecked(c)
}

// quarantined counts the contents in quarantine of the connection in args, or of all.
func (h *hand) quarantined(cmd *cobra.Command, args []string) (n int, err error) {
	a, err := control.Status.Call(cmd.Context(), h.client(), control.StatusRequest{})
	for _, c := range a.Connections {
		if (h.environment == "" || c.Environment == h.environment) && (len(args) == 0 || c.Name == args[0]) {
			n += c.Quarantined
		}
	}
	return n, err
}

func (h *hand) printQueueChecked(c queueChecked) error {
	switch {
	case h.asJSON:
		if err := h.json(c); err != nil {
			return err
		}
	case c.OK && c.Count == 0:
		_, err := fmt.Fprintln(h.out, "nothing is owed")
		return err
	case c.OK:
		_, err := fmt.Fprintf(h.out, "%s, %s; the oldest for %s\n", counted(c.Count, "1 change is owed", "changes are owed"), inBytes(c.Bytes), ago(c.Oldest))
		return err
	default:
		fmt.Fprintf(h.err, "pierfs: %s\n", terminal.Quote(c.Reason))
	}
	if !c.OK {
		return silent{c.Code}
	}
	return nil
}

// change reads NAME and IDs.
func (h *hand) change(args []string) (q control.QueueChange, err error) {
	q = control.QueueChange{Name: args[0], Environment: h.environment}
	for _, word := range args[1:] {
		id, err := strconv.ParseUint(word, 10, 64)
		if err != nil {
			return q, usageError{fmt.Errorf("%q is no ID; `pierfs queue` shows them", word)}
		}
		q.IDs = append(q.IDs, id)
	}
	return q, nil
}

// changeQueue has the daemon change what args name, and prints what came of it.
func (h *hand) changeQueue(cmd *cobra.Command, verb control.Verb[control.QueueChange, control.QueueChanged], args []string, word string) error {
	q, err := h.change(args)
	if err != nil {
		return err
	}
	if q.DryRun, err = cmd.Flags().GetBool("dry-run"); err != nil {
		return err
	}
	a, err := verb.Call(cmd.Context(), h.client(), q)
	if err != nil {
		return err
	}
	if h.asJSON {
		return h.json(a)
	}
	if q.DryRun {
		word = "would be " + word
	}
	fmt.Fprintf(h.out, "%s: %s\n", word, counted(a.Changed, "1 change", "changes"))
	for _, kept := range a.Kept {
		fmt.Fprintf(h.out, "  %s\n", terminal.Quote(kept))
	}
	return nil
}

func dryRunFlag(cmd *cobra.Command) {
	cmd.Flags().BoolP("dry-run", "n", false, "count what it would be done to, and change nothing")
}

func (h *hand) queueRetryCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "retry NAME [ID...]", Short: "Try now to bring to the server what is owed, also what is held", Args: args(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return h.changeQueue(cmd, control.QueueRetry, args, "tried now")
		}}
	dryRunFlag(cmd)
	return cmd
}

func (h *hand) queueHoldCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "hold NAME [ID...]", Short: "Keep what is owed from being sent, until retry", Args: args(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return h.changeQueue(cmd, control.QueueHold, args, "held")
		}}
	dryRunFlag(cmd)
	return cmd
}

func (h *hand) queueDropCommand() *cobra.Command {
	var backup, all bool
	cmd := &cobra.Command{Use: "drop NAME --backup ID...|--all", Short: "Give up what is owed: the content goes to quarantine, and never to the server", Args: args(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case !backup:
				return usageError{errors.New("drop gives up what a program was told is written; say --backup, and its content is kept in quarantine")}
			case all == (len(args) > 1):
				return usageError{errors.New("drop takes the IDs that `pierfs queue` shows, or --all")}
			}
			return h.changeQueue(cmd, control.QueueDrop, args, "dropped")
		}}
	cmd.Flags().BoolVar(&backup, "backup", false, "keep the content in quarantine; without it nothing is dropped")
	cmd.Flags().BoolVar(&all, "all", false, "drop all that the connection owes")
	dryRunFlag(cmd)
	return cmd
}

// exported is what queue export prints as JSON.
type exported struct {
	Dir   string `json:"dir"`
	Files int    `json:"files"`
	Bytes int64  `json:"bytes"`
}

func (h *hand) queueExportCommand() *cobra.Command {
	var dry bool
	cmd := &cobra.Command{Use: "export NAME DIR [ID...]", Short: "Copy contents that are owed into a directory here; they stay owed", Args: args(cobra.MinimumNArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			q, err := h.change(append(args[:1:1], args[2:]...))
			if err != nil {
				return err
			}
			all, err := h.askQueue(cmd, args[:1])
			if err != nil {
				return err
			}
			if dry {
				return h.wouldExport(chosen(all.Owed, q.IDs), args[1])
			}
			into, err := os.OpenRoot(args[1])
			if err != nil {
				return err
			}
			defer into.Close() // nothing is written through it itself
			e := exported{Dir: args[1]}
			for _, d := range chosen(all.Owed, q.IDs) {
				n, err := h.export(cmd, into, d)
				if err != nil {
					return fmt.Errorf("export %s: %w", terminal.Quote(string(d.Path)), err)
				}
				e.Files++
				e.Bytes += n
			}
			if missing := len(q.IDs) - e.Files; missing > 0 {
				return control.Errorf(control.NotFound, "%d of the IDs are no contents that are owed", missing).WithHint("`pierfs queue %s` shows what is; it may have been sent meanwhile", q.Name)
			}
			if h.asJSON {
				return h.json(e)
			}
			_, err = fmt.Fprintf(h.out, "exported: %s, %s\n", counted(e.Files, "1 file", "files"), inBytes(e.Bytes))
			return err
		}}
	dryFlag(cmd, &dry)
	return cmd
}

// wouldExport tells what queue export would write.
func (h *hand) wouldExport(some []control.Due, dir string) error {
	p := h.plan()
	for _, d := range some {
		to := control.Name(filepath.Join(dir, strings.TrimLeft(string(d.Path), "/")))
		p.take(transfer.Effect{Do: "export", Path: d.Path, Type: "file", Size: d.Size, To: &to})
	}
	return p.end()
}

// chosen returns the contents among all that have one of these IDs; without any, all contents.
func chosen(all []control.Due, ids []uint64) (some []control.Due) {
	wanted := map[uint64]bool{}
	for _, id := range ids {
		wanted[id] = true
	}
	for _, d := range all {
		if d.Kind == "put" && (len(ids) == 0 || wanted[d.ID]) {
			some = append(some, d)
		}
	}
	return some
}

// export copies one content below into, where nothing bears its name. One that is cut leaves nothing.
func (h *hand) export(cmd *cobra.Command, into *os.Root, d control.Due) (n int64, err error) {
	_, body, err := control.QueueExport.Call(cmd.Context(), h.client(), control.QueueItem{Name: d.Name, Environment: d.Environment, ID: d.ID})
	if err != nil {
		return 0, err
	}
	defer body.Close()
	name := strings.TrimLeft(string(d.Path), "/")
	if err := into.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return 0, err
	}
	file, err := into.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return 0, err
	}
	n, err = io.Copy(file, body)
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		err = errors.Join(err, into.Remove(name))
	}
	return n, err
}
