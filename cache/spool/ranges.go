package spool

import (
	"iter"
	"math"
	"slices"
	"sort"
)

// Range is the bytes from Off up to, not including, End.
type Range struct{ Off, End int64 }

// Len returns the number of bytes in r.
func (r Range) Len() int64 { return r.End - r.Off }

// Ranges is a set of bytes of one file, kept as sorted ranges that neither touch nor overlap. The zero value is empty.
type Ranges struct{ list []Range }

// Add puts r into the set.
func (s *Ranges) Add(r Range) {
	if r.Len() <= 0 {
		return
	}
	from := s.search(r.Off) // the first range that r touches, or where it goes
	to := from
	for to < len(s.list) && s.list[to].Off <= r.End {
		r.Off = min(r.Off, s.list[to].Off)
		r.End = max(r.End, s.list[to].End)
		to++
	}
	s.list = slices.Replace(s.list, from, to, r)
}

// Remove takes r out of the set.
func (s *Ranges) Remove(r Range) {
	if r.Len() <= 0 {
		return
	}
	from := sort.Search(len(s.list), func(i int) bool { return s.list[i].End > r.Off })
	to := from
	var left []Range // of the ranges that r cuts into
	for ; to < len(s.list) && s.list[to].Off < r.End; to++ {
		if cut := s.list[to]; cut.Off < r.Off {
			left = append(left, Range{cut.Off, r.Off})
		}
		if cut := s.list[to]; cut.End > r.End {
			left = append(left, Range{r.End, cut.End})
		}
	}
	s.list = slices.Replace(s.list, from, to, left...)
}

// Cut takes everything from size on out of the set.
func (s *Ranges) Cut(size int64) { s.Remove(Range{size, math.MaxInt64}) }

// Missing yields, in order, the parts of r that are not in the set.
func (s *Ranges) Missing(r Range) iter.Seq[Range] {
	return func(yield func(Range) bool) {
		at := r.Off
		for i := s.search(r.Off); i < len(s.list) && s.list[i].Off < r.End; i++ {
			if s.list[i].Off > at && !yield(Range{at, s.list[i].Off}) {
				return
			}
			at = max(at, s.list[i].End)
		}
		if at < r.End {
			yield(Range{at, r.End})
		}
	}
}

// Has reports whether all of r is in the set.
func (s *Ranges) Has(r Range) bool {
	for range s.Missing(r) {
		return false
	}
	return true
}

// Len returns how many bytes are in the set.
func (s *Ranges) Len() (n int64) {
	for _, r := range s.list {
		n += r.Len()
	}
	return n
}

// All yields the ranges in order.
func (s *Ranges) All() iter.Seq[Range] { return slices.Values(s.list) }

// search returns the index of the first range that ends at or after off.
func (s *Ranges) search(off int64) int {
	return sort.Search(len(s.list), func(i int) bool { return s.list[i].End >= off })
}
