package cache

import (
	"context"
	"iter"
	"math"

	"pierfs/backends"
	"pierfs/cache/spool"
)

// Small changes inside a large file can be written into the file itself, where an operator prefers that to moving all of it: readers
// of the server then see each change as it comes, and a change that fails half way stays half done until it is made again. What a
// program never read is not fetched for that.

// maxPatches is how many changes of one file are kept apart before all of it is sent.
const maxPatches = 10_000

// patch is what programs have changed of a file since the server had it. The zero value is nothing.
type patch struct {
	ranges spool.Ranges
	count  int
	lost   bool // something else was changed, too
}

// changed notes that r is another now; the caller holds File.mu.
func (p *patch) changed(r spool.Range) {
	if p.lost || r.Len() <= 0 {
		return
	}
	p.ranges.Add(r)
	if p.count++; p.count > maxPatches {
		p.ranges, p.lost = spool.Ranges{}, true
	}
}

// changedRange notes that r is another now, if that is of use; the caller holds mu.
func (f *File) changedRange(r spool.Range) {
	if f.tree.options.InPlace {
		f.patch.changed(r)
	}
}

// add notes all that was changed in q.
func (p *patch) add(q patch) {
	for r := range q.ranges.All() {
		p.changed(r)
	}
	p.lost = p.lost || q.lost
}

// within yields what lies before size.
func (p *patch) within(size int64) iter.Seq[spool.Range] {
	return func(yield func(spool.Range) bool) {
		for r := range p.ranges.All() {
			r.End = min(r.End, size)
			if r.Len() > 0 && !yield(r) {
				return
			}
		}
	}
}

// patches reports whether j is to be written into the file that the server has.
func (f *File) patches(j *job) bool {
	caps := f.tree.Caps()
	if !f.tree.options.InPlace || f.tree.Background() || !caps.RandomWrite || !caps.Truncate || j.base.Known == 0 || j.base.Size < earlyStart ||
		j.writer != nil || j.cut || j.begun || j.patch.lost {
		return false
	}
	var changed int64
	for r := range j.patch.within(j.size) {
		changed += r.Len()
	}
	return 2*changed <= j.size
}

// patchUp writes what j changes into the file on the server, if that is still what j builds on.
func (f *File) patchUp(ctx context.Context, j *job) (info backends.Info, err error) {
	t := f.tree
	err = t.options.Retry.Do(ctx, func(ctx context.Context) error {
		if err := t.fence(ctx, j.name); err != nil {
			return err
		}
		j.from = j.base.Size
		if j.unsure { // an attempt may have left any part of itself
			j.from = math.MaxInt64
		} else if now, err := t.ask(ctx, j.name); err != nil {
			return err
		} else if !now.SameVersion(j.base) {
			return f.fault("publish", changedElsewhere)
		}
		w, err := t.backend.Update(ctx, j.name)
		if err != nil {
			return err
		}
		j.inPlace, j.unsure, j.sent = true, true, nil
		info, err = send(ctx, w, j, j.sendable(t.Caps()), j.patch.within(j.size))
		return err
	})
	return info, err
}
