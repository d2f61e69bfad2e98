package attr

import (
	"os"
	"time"
)

// nanos packs t; the zero time, which a server that sends none leaves, is the smallest number.
func nanos(t time.Time) int64 {
	if t.IsZero() {
		return noTime
	}
	return t.UnixNano()
}

func instant(n int64) time.Time {
	if n == noTime {
		return time.Time{}
	}
	return time.Unix(0, n)
}

const noTime = -1 << 63

func fileMode(m uint32) os.FileMode { return os.FileMode(m) }

// timeUnit is a place in timeUnits: what a time was rounded to.
type timeUnit uint8

var timeUnits = [...]time.Duration{
	0, time.Second, time.Minute, 15 * time.Minute, time.Hour, 2 * time.Hour, 12 * time.Hour, 24 * time.Hour, 36 * time.Hour, 48 * time.Hour,
}

// packUnit returns the least of timeUnits that is not finer than d; what is still coarser is the last.
func packUnit(d time.Duration) timeUnit {
	for i, unit := range timeUnits {
		if unit >= d {
			return timeUnit(i)
		}
	}
	return timeUnit(len(timeUnits) - 1)
}

func (u timeUnit) unpack() time.Duration { return timeUnits[u] }
