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
