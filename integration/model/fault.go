package model

import (
	"slices"
	"syscall"
)

// excuse says of which operations an errno of an absent server is borne.
type excuse uint8

const (
	none     excuse = iota
	nameless        // of those on files that were removed, or replaced, while they were open
	everything
)

func (o *Options) excuse() excuse {
	switch {
	case o.Outages:
		return everything
	case o.Blinks:
		return nameless
	}
	return none
}

// bears reports whether o may have failed by an outage.
func (w *World) bears(o Op, e excuse) bool {
	if e != nameless {
		return e == everything
	}
	f, ok := w.open[fd{o.Hand, o.Slot}]
	if o.Kind == Copy {
		if from, ok := w.open[fd{o.Hand, o.From}]; ok && w.nodes[from.node].names == 0 {
			return true
		}
	}
	return ok && o.Path == "" && w.nodes[f.node].names == 0
}

// onGiven reports whether o asks something of a content that was given up: who still reads it reads what he saw, or is told
// that it is stale; what else is said of it is left open.
func (w *World) onGiven(o Op) bool {
	f, ok := w.open[fd{o.Hand, o.Slot}]
	switch o.Kind {
	case Read, Fstat, Fsync, Futimens, Fchmod:
		return ok && w.nodes[f.node].given
	}
	return false
}

// step returns the worlds that an answer leaves possible of w.
func (w *World) step(o Op, a Answer, e excuse) (after []*World, saved [][]int, why string) {
	u := w.clone()
	if w.onGiven(o) && (a.Err == syscall.ESTALE || a.Err == 0 && o.Kind != Read) {
		return []*World{u}, nil, ""
	}
	begin := a.Begin.Unix()
	closed := u.open[fd{o.Hand, o.Slot}].node
	want := u.do(o, begin)
	switch why = want.differs(a); {
	case why == "" && o.Kind == Close:
		after = u.settle(closed)
	case why == "":
		if want.err != 0 {
			u.publishedFirst(o)
		}
		after = []*World{u}
	case !a.Hung && w.bears(o, e) && slices.Contains(outage, a.Err):
		after = w.failed(o, a)
		last := 0
		for _, u := range after {
			last = max(last, u.last)
		}
		for _, u := range after {
			u.last = last // the next node has the same number in all of them
		}
		return after, nil, ""
	default:
		return nil, nil, why
	}
	for range after {
		saved = append(saved, want.saved)
	}
	return after, saved, ""
}

// failed returns the worlds after an operation that ended with an errno of an outage: it happened, or it did not.
func (w *World) failed(o Op, a Answer) []*World {
	before, after := w.clone(), w.clone()
	begin := a.Begin.Unix()
	slot := fd{o.Hand, o.Slot}
	f := w.open[slot]
	switch o.Kind {
	case Stat, Lstat, Fstat, Read, Readdir, Readlink, Dup:
		return []*World{before}
	case Fsync:
		before.maybePublished(f.node)
		return []*World{before}
	case Close:
		delete(before.open, slot)
		if f.writes() {
			before.maybePublished(f.node)
		}
		before.sweep(f.node)
		return before.settle(f.node)
	case Open:
		after.do(o, begin)
		made := after.open[slot].node
		delete(after.open, slot)
		if !after.isOpen(made) && made != 0 {
			after.published(made)
		}
		return []*World{before, after}
	case MapWrite:
		after.written(f.node, overlay(w.nodes[f.node].data, content(o.N, o.Size), o.Off), mtime{recent, begin})
		after.maybePublished(f.node)
		before.maybePublished(f.node)
		return []*World{before, after}
	case Write, Copy:
		after.do(o, begin)
		if a.N == 0 {
			return []*World{before, after}
		}
		part := w.clone()
		o.Size = a.N
		part.do(o, begin)
		return []*World{before, after, part}
	case Truncate:
		return w.failedTruncate(o, begin)
	}
	before.publishedFirst(o)
	after.do(o, begin)
	return []*World{before, after}
}

// publishedFirst notes that what is unpublished under the first name of a rename or link may have been published, though the
// operation itself came to nothing: that is done before the server is asked to move or link it.
func (w *World) publishedFirst(o Op) {
	if o.Kind != Rename && o.Kind != NoReplace && o.Kind != Link {
		return
	}
	p, err := w.existing(o.Path, false)
	if err != 0 {
		return
	}
	for _, id := range w.unsavedBelow(p) {
		failed := w.nodes[id].failed
		w.maybePublished(id)
		w.change(id, func(n *node) { n.failed = failed })
	}
}

func (w *World) failedTruncate(o Op, begin int64) []*World {
	before, after := w.clone(), w.clone()
	after.do(o, begin)
	p, err := w.existing(o.Path, true)
	if err != 0 || !w.isOpen(p.node) {
		return []*World{before, after}
	}
	here := w.clone()
	here.resize(p.node, o.Size, begin)
	here.maybePublished(p.node)
	return []*World{before, after, here}
}

// distinct drops worlds that are the same as another one.
func distinct(worlds []*World) []*World {
	var kept []*World
	for _, w := range worlds {
		if !slices.ContainsFunc(kept, w.same) {
			kept = append(kept, w)
		}
	}
	return kept
}
