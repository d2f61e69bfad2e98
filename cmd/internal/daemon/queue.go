package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"pierfs/cache"
	"pierfs/cmd/internal/control"
)

// queue tells what is owed to servers, the oldest first. A journal that cannot be read is an error once all others are told.
func (d *Daemon) queue(_ context.Context, q control.QueueRequest, send func(control.Due) error) error {
	some := d.debtors(filter(q.Name, q.Environment))
	if len(some) == 0 && q.Name != "" { // a name that is defined owes nothing; any other is a mistake
		if _, err := d.oneDebtor(q.Name, q.Environment); control.CodeOf(err) != control.NotMounted {
			return err
		}
	}
	var all []control.Due
	var unread []error
	for _, b := range some {
		owed, err := b.owes()
		if err != nil {
			unread = append(unread, fmt.Errorf("what %s (%s) owes: %w", b.name, b.environment, err))
		}
		for _, due := range owed {
			all = append(all, b.due(due))
		}
	}
	slices.SortStableFunc(all, func(a, b control.Due) int { return a.Since.Compare(b.Since) })
	for _, due := range all {
		if err := send(due); err != nil {
			return err
		}
	}
	if len(unread) > 0 {
		return told(errors.Join(unread...))
	}
	return nil
}

// changeQueue does do to each of the changes that q names. One that was sent meanwhile is not counted, and no error.
func (d *Daemon) changeQueue(q control.QueueChange, do func(debtor, cache.Due) (kept string, err error)) (control.QueueChanged, error) {
	answer := control.QueueChanged{}
	d.changing.Lock() // a journal alone is not mounted meanwhile
	defer d.changing.Unlock()
	b, err := d.oneDebtor(q.Name, q.Environment)
	if err != nil {
		return answer, err
	}
	if b.tree == nil && b.mount != nil {
		return answer, control.Errorf(control.NotMounted, "%s is not mounted, and it is tried: %s", q.Name, b.why.reason).
			WithHint("mend that; or `pierfs disable --keep %s` first", q.Name)
	}
	all, err := b.owes()
	if err != nil {
		return answer, told(err)
	}
	some, err := chosen(all, q)
	if err != nil {
		return answer, err
	}
	if q.DryRun {
		return control.QueueChanged{Changed: len(some)}, nil
	}
	for _, due := range some {
		kept, err := do(b, due)
		if err != nil && b.stillOwes(due.Seq) {
			return answer, told(err)
		}
		if err != nil {
			continue
		}
		answer.Changed++
		if kept != "" {
			answer.Kept = append(answer.Kept, kept)
		}
	}
	return answer, nil
}

func (b debtor) stillOwes(seq uint64) bool {
	all, err := b.owes()
	_, owed := find(all, seq)
	return owed || err != nil
}

// chosen returns what q names of all that is owed.
func chosen(all []cache.Due, q control.QueueChange) ([]cache.Due, error) {
	if len(q.IDs) == 0 {
		return all, nil
	}
	var some []cache.Due
	for _, id := range q.IDs {
		due, ok := find(all, id)
		if !ok {
			return nil, noSuchDue(q.Name, id)
		}
		some = append(some, due)
	}
	return some, nil
}

func find(all []cache.Due, id uint64) (cache.Due, bool) {
	i := slices.IndexFunc(all, func(d cache.Due) bool { return d.Seq == id })
	if i < 0 {
		return cache.Due{}, false
	}
	return all[i], true
}

func noSuchDue(name string, id uint64) error {
	return control.Errorf(control.NotFound, "%s owes nothing with the ID %d", name, id).
		WithHint("`pierfs queue %s` shows what it owes; it may have been sent meanwhile", name)
}

// queueRetry has what is owed tried now, also what was held.
func (d *Daemon) queueRetry(_ context.Context, q control.QueueChange) (control.QueueChanged, error) {
	var retried *mount
	answer, err := d.changeQueue(q, func(b debtor, due cache.Due) (string, error) {
		retried = b.mount
		switch {
		case due.Foreign && len(q.IDs) > 0:
			return "", control.Errorf(control.StillOwed, "%d is owed to %s, and %s leads to %s", due.Seq, due.Target, q.Name, b.target).
				WithHint("change the definition back; or `pierfs queue export` it, and then `pierfs queue drop --backup` it")
		case due.Foreign, len(q.IDs) == 0 && !due.Held && due.Tries == 0: // nothing but its turn is waited for
			return "", nil
		}
		return "", b.retry(due.Seq)
	})
	if retried != nil {
		retried.knock()
	}
	return answer, err
}

// queueHold keeps from being sent what is owed.
func (d *Daemon) queueHold(_ context.Context, q control.QueueChange) (control.QueueChanged, error) {
	return d.changeQueue(q, func(b debtor, due cache.Due) (string, error) {
		if due.Foreign {
			return "", nil // it is not sent anyway
		}
		return "", b.hold(due.Seq)
	})
}

// queueDrop gives up what is owed, and keeps its content in quarantine.
func (d *Daemon) queueDrop(ctx context.Context, q control.QueueChange) (control.QueueChanged, error) {
	answer, err := d.changeQueue(q, func(b debtor, due cache.Due) (string, error) { return b.drop(due.Seq) })
	if answer.Changed > 0 {
		d.log.Warn("what was owed is given up", "conn", q.Name, "env", q.Environment, "changes", answer.Changed, "kept", answer.Kept, "peer", uidOf(ctx))
	}
	return answer, err
}

// queueExport streams a content that is owed.
func (d *Daemon) queueExport(_ context.Context, q control.QueueItem, start func(control.Due) (io.Writer, error)) error {
	b, err := d.oneDebtor(q.Name, q.Environment)
	if err != nil {
		return err
	}
	content, due, err := b.open(q.ID)
	if err != nil && !b.stillOwes(q.ID) {
		return noSuchDue(q.Name, q.ID)
	}
	if err != nil {
		return told(err)
	}
	defer content.Close() // it was read only
	w, err := start(b.due(due))
	if err != nil {
		return err
	}
	_, err = io.Copy(w, content)
	return told(err)
}
