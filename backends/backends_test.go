package backends

import (
	"testing"
	"time"
)

func TestTimesOfOneFileMayBeRoundedDifferently(t *testing.T) {
	at := time.Date(2026, 11, 21, 5, 49, 23, 0, time.UTC)
	told := func(t time.Time, unit time.Duration) Info {
		return Info{Size: 7, ModTime: t, TimeUnit: unit, Known: HasType | HasSize | HasModTime}
	}
	exact, minute, day := told(at, 0), told(at.Truncate(time.Minute), time.Minute), told(at.Truncate(24*time.Hour), 24*time.Hour)
	timeless := Info{Size: 7, Known: HasType | HasSize}
	identified := exact
	identified.ID = "1"
	for _, c := range []struct {
		what string
		a, b Info
		same bool
	}{
		{"second and its minute", exact, minute, true},
		{"second and its day", exact, day, true},
		{"minute and its day", minute, day, true},
		{"the last second of a minute", told(at.Truncate(time.Minute).Add(59*time.Second), 0), minute, true},
		{"the next minute", told(at.Truncate(time.Minute).Add(time.Minute), 0), minute, false},
		{"the second before a minute", told(at.Truncate(time.Minute).Add(-time.Second), 0), minute, false},
		{"two seconds", exact, told(at.Add(time.Second), 0), false},
		{"two minutes", minute, told(at.Truncate(time.Minute).Add(time.Minute), time.Minute), false},
		{"a time and none", exact, timeless, true},
		{"a time and nothing told at all", exact, Info{Size: 7}, false},
		{"an identity and none", identified, exact, true},
		{"another size", exact, Info{Size: 8, ModTime: at, Known: exact.Known}, false},
	} {
		if c.a.SameVersion(c.b) != c.same || c.b.SameVersion(c.a) != c.same {
			t.Errorf("%s: got %v and %v, want %v", c.what, c.a.SameVersion(c.b), c.b.SameVersion(c.a), c.same)
		}
	}
}
