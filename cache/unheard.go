package cache

import (
	"context"
	"errors"
	"os"
	"slices"

	"pierfs/cache/spool"
)

// An attempt to publish that ends without an answer may have given the name our content, and somebody else may have replaced that by the
// time of the next. So what was sent is remembered by its sum, and what bears the name is read back and compared before it
// is replaced: it is what the content builds on, or ours, or a conflict.

// sent is a whole content that an attempt without an answer may have brought to its name.
type sent struct {
	size int64
	sum  digest
}

// unheardOf notes that an attempt to send j as a whole ended without an answer. What a program changed while it was sent cannot be told
// any more from anything else.
func (f *File) unheardOf(j *job) {
	blind := j.isBlind()
	if j.unsure = true; blind {
		return
	}
	sum, err := sumOf(j.staged, spool.Range{End: j.size})
	f.mu.Lock()
	f.notice()
	changed := f.change != j.change || f.stored || f.lent
	f.mu.Unlock()
	one := sent{j.size, sum}
	switch {
	case err != nil, changed:
		j.sent = nil
	case !slices.Contains(j.sent, one):
		j.sent = append(j.sent, one)
	}
}

// isBlind reports whether what bears j's name may be ours, and nothing tells it from another's.
func (j *job) isBlind() bool { return j.unsure && j.sent == nil }

// recognise finds out whether what bears j's name is what an attempt without an answer has brought there. If so that is what j builds
// on. It is a conflict if it is neither that nor what j was built on.
func (f *File) recognise(ctx context.Context, j *job) error {
	t := f.tree
	claimed := j.base.Known == 0 && !j.assumed // the name is ours alone, with an empty file for now
	if !j.unsure || j.isBlind() || claimed || j.linked || t.direct(j.name) || j.cut || j.claim || t.options.Conflict == Overwrite {
		return nil
	}
	now, err := t.ask(ctx, j.name)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case j.base.Known != 0 && now.SameVersion(j.base):
		return nil
	}
	if now.Mode.IsRegular() && slices.ContainsFunc(j.sent, func(s sent) bool { return s.size == now.Size }) {
		sum, err := t.sumAt(ctx, j.name, spool.Range{End: now.Size})
		if err != nil {
			return err
		}
		if slices.Contains(j.sent, sent{now.Size, sum}) {
			f.mu.Lock()
			f.base, j.base, j.assumed = now, now, false
			f.mu.Unlock()
			return nil
		}
	}
	j.clash = true
	return f.fault("publish", changedElsewhere)
}
