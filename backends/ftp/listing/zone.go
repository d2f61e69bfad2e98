package listing

import (
	"slices"
	"time"
)

const (
	quarter     = 15 * time.Minute
	farthest    = 15 * time.Hour   // no zone is farther from UTC
	tolerance   = 90 * time.Second // between the two questions about a file; some servers round up
	daysOfAYear = 366
)

// Zone is where a server's clock stands. The zero Zone is UTC, and known to nobody.
type Zone struct{ seen []seen }

// seen is one time at which the offset was seen.
type seen struct {
	yearDay int
	offset  time.Duration
}

// Sample is one file's time as LIST and as MDTM tell it.
type Sample struct {
	Listed   time.Time     // Entry.ModTime, read with the zero Zone
	Unit     time.Duration // Entry.TimeUnit; a sample of more than a minute says nothing
	Modified time.Time     // what MDTM says, in UTC
}

// Calibrate learns a zone from samples. One is enough for most; samples from summer and winter teach the daylight saving time
// of both. A sample that says nothing, because the file has changed between the questions, is passed over: a Zone that is
// not Known has learned from none.
func Calibrate(samples ...Sample) Zone {
	var z Zone
	for _, s := range samples {
		if s.Unit <= 0 || s.Unit > time.Minute {
			continue
		}
		apart := s.Listed.Sub(s.Modified.Truncate(s.Unit))
		offset := apart.Round(quarter)
		if (apart-offset).Abs() > tolerance || offset.Abs() > farthest {
			continue
		}
		z.seen = append(z.seen, seen{s.Listed.UTC().YearDay(), offset})
	}
	slices.SortFunc(z.seen, func(a, b seen) int { return a.yearDay - b.yearDay })
	z.seen = slices.CompactFunc(z.seen, func(a, b seen) bool { return a.yearDay == b.yearDay })
	return z
}

// Known reports whether z was learned.
func (z Zone) Known() bool { return len(z.seen) > 0 }

// Offset returns how far the server's clock was ahead of UTC when it showed wall, which is a time in UTC that stands for what
// the clock showed. It is a multiple of 15 minutes: what was seen at the nearest time of the year.
func (z Zone) Offset(wall time.Time) time.Duration {
	best, nearest := time.Duration(0), daysOfAYear
	for _, s := range z.seen {
		apart := s.yearDay - wall.YearDay()
		apart = max(apart, -apart)
		if apart = min(apart, daysOfAYear-apart); apart < nearest {
			best, nearest = s.offset, apart
		}
	}
	return best
}
