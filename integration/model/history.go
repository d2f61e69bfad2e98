package model

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// history is what happened to one register: a file whose whole content is one of many values, each written once.
type history struct {
	start  time.Time
	values map[int]*zone
	events []event
}

// event is one operation, for a person who reads of a failure; times are nanoseconds since the start.
type event struct {
	value      int
	what       string // how it was written or read, and by whom
	begin, end int64
}

func (e event) String() string {
	return fmt.Sprintf("%.6f to %.6f s: %s of value %d", float64(e.begin)/1e9, float64(e.end)/1e9, e.what, e.value)
}

// zone is what is known of a value: when it was written, the earliest end and the latest begin of all operations that
// wrote or read it, in nanoseconds since the start.
type zone struct {
	value          int
	written        bool
	writeBegin     int64
	earliestReturn int64 // of a read, to catch one from before the write
	end, begin     int64
}

func newHistory() *history { return &history{start: time.Now(), values: map[int]*zone{}} }

func (h *history) zone(value int) *zone {
	z := h.values[value]
	if z == nil {
		z = &zone{value: value, earliestReturn: math.MaxInt64, end: math.MaxInt64, begin: math.MinInt64}
		h.values[value] = z
	}
	return z
}

func (h *history) note(what string, value int, begin, end time.Time) {
	h.events = append(h.events, event{value, what, begin.Sub(h.start).Nanoseconds(), end.Sub(h.start).Nanoseconds()})
}

// told is why with all that happened to the two values, and to the others meanwhile.
func (h *history) told(why string, a, b *zone) string {
	const around = int64(5 * time.Millisecond)
	from, to := min(a.end, b.end, a.begin, b.begin)-around, max(a.end, b.end, a.begin, b.begin)+around
	var lines []event
	for _, e := range h.events {
		if e.value == a.value || e.value == b.value || e.end >= from && e.begin <= to {
			lines = append(lines, e)
		}
	}
	slices.SortFunc(lines, func(a, b event) int { return cmp.Compare(a.begin, b.begin) })
	var text strings.Builder
	text.WriteString(why)
	for _, e := range lines {
		fmt.Fprintf(&text, "\n  %v", e)
	}
	return text.String()
}

// write notes that value was written by an operation; sure is false if it may have been, at any time from begin on.
func (h *history) write(what string, value int, begin, end time.Time, sure bool) {
	h.note(what, value, begin, end)
	z := h.zone(value)
	z.written, z.writeBegin = true, begin.Sub(h.start).Nanoseconds()
	z.begin = max(z.begin, z.writeBegin)
	if sure {
		z.end = min(z.end, end.Sub(h.start).Nanoseconds())
	}
}

// read notes that value was read.
func (h *history) read(what string, value int, begin, end time.Time) {
	h.note(what, value, begin, end)
	z := h.zone(value)
	returned := end.Sub(h.start).Nanoseconds()
	z.earliestReturn = min(z.earliestReturn, returned)
	z.end = min(z.end, returned)
	z.begin = max(z.begin, begin.Sub(h.start).Nanoseconds())
}

// check tells why no order of the operations explains all that was read; "" if one does. For a register whose values are
// all different this is exact (Gibbons and Korach, "Testing Shared Memories", 1997): from the first end to the last begin
// of a value's operations nothing else can have been there, so that no two of these times may overlap, and no value whose
// operations all overlap each other may lie within such a time.
func (h *history) check() string {
	var forward, backward []*zone
	for _, z := range h.values {
		switch {
		case !z.written:
			return fmt.Sprintf("value %d was read and never written", z.value)
		case z.earliestReturn < z.writeBegin:
			return fmt.Sprintf("value %d was read %v before it was written", z.value, time.Duration(z.writeBegin-z.earliestReturn))
		case z.end == math.MaxInt64:
			// It may never have been written, and nobody saw it.
		case z.end < z.begin:
			forward = append(forward, z)
		default:
			backward = append(backward, z)
		}
	}
	slices.SortFunc(forward, func(a, b *zone) int { return cmp.Compare(a.end, b.end) })
	for i := 1; i < len(forward); i++ {
		if a, b := forward[i-1], forward[i]; b.end < a.begin {
			return h.told(fmt.Sprintf("value %d was there at %v and still at %v, but value %d at %v", a.value, time.Duration(a.end),
				time.Duration(a.begin), b.value, time.Duration(b.end)), a, b)
		}
	}
	for _, z := range backward {
		i, _ := slices.BinarySearchFunc(forward, z.begin, func(f *zone, at int64) int { return cmp.Compare(f.end, at) })
		if i > 0 && z.end < forward[i-1].begin {
			f := forward[i-1]
			return h.told(fmt.Sprintf("value %d was there at %v and still at %v, but value %d was written or read between %v and %v", f.value,
				time.Duration(f.end), time.Duration(f.begin), z.value, time.Duration(z.begin), time.Duration(z.end)), f, z)
		}
	}
	return ""
}
