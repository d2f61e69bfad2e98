package listing

import (
	"strconv"
	"strings"
	"time"
)

// slack is how far ahead of the server's clock a date may lie: clocks differ, and a zone may be unknown.
const slack = 24 * time.Hour

const day = 24 * time.Hour

// ParseTime reads a time of RFC 3659 section 2.3, as MDTM and the facts tell it: UTC, with or without a fraction of the
// second. A leap second is the last second before it.
func ParseTime(s string) (time.Time, bool) {
	s, fraction, fractional := strings.Cut(s, ".")
	if len(s) != 14 || !isDecimal(s) || fractional && !isDecimal(fraction) {
		return time.Time{}, false
	}
	number := func(from, to int) int { n, _ := strconv.Atoi(s[from:to]); return n }
	t, ok := moment(number(0, 4), number(4, 6), number(6, 8), number(8, 10), number(10, 12), min(number(12, 14), 59))
	if !ok || number(12, 14) > 60 {
		return time.Time{}, false
	}
	if fractional {
		n, _ := strconv.Atoi((fraction + "000000000")[:9])
		t = t.Add(time.Duration(n))
	}
	return t, true
}

// moment is a time that exists.
func moment(year, month, dayOf, hour, minute, second int) (time.Time, bool) {
	t := time.Date(year, time.Month(month), dayOf, hour, minute, second, 0, time.UTC)
	ok := year >= 1 && year <= 9999 && t.Year() == year && int(t.Month()) == month && t.Day() == dayOf &&
		hour >= 0 && hour < 24 && minute >= 0 && minute < 60 && second >= 0 && second < 60
	return t, ok
}

// date reads the date that s begins with, in any form that is known, and cuts it off with one space behind it. wall is what
// the server's clock showed, as if it stood on UTC.
func (o Options) date(s string) (wall time.Time, unit time.Duration, name string, ok bool) {
	first, rest := word(s)
	second, rest := word(rest)
	switch {
	case strings.Count(first, "-") == 2:
		return isoDate(s)
	case strings.Count(first, "-") == 1: // ls --time-style=iso of a recent file
		month, dayOf, _ := strings.Cut(first, "-")
		m, mOK := twoDigits(month)
		d, dOK := twoDigits(dayOf)
		clock, clockOK := parseClock(second)
		if !mOK || !dOK || !clockOK {
			return time.Time{}, 0, "", false
		}
		wall, ok = o.latest(m, d, clock)
		return wall, clock.unit, afterSpace(rest), ok && hasName(rest)
	}
	month, known := monthOf(first)
	dayOf, isDay := ordinal(second)
	if !known || !isDay {
		if dayOf, isDay = ordinal(first); !isDay {
			return time.Time{}, 0, "", false
		}
		if month, known = monthOf(second); !known {
			return time.Time{}, 0, "", false
		}
	}
	return o.monthDay(month, dayOf, rest)
}

// monthDay reads what stands behind a month and a day: a year, a time, or both in this order (ls -T).
func (o Options) monthDay(month, dayOf int, s string) (wall time.Time, unit time.Duration, name string, ok bool) {
	third, rest := word(s)
	if !hasName(rest) {
		return time.Time{}, 0, "", false
	}
	if clock, isClock := parseClock(third); isClock {
		if year, after := word(rest); clock.unit == time.Second && len(year) == 4 && isDecimal(year) && hasName(after) {
			y, _ := strconv.Atoi(year)
			wall, ok = moment(y, month, dayOf, clock.hour, clock.minute, clock.second)
			return wall, clock.unit, afterSpace(after), ok
		}
		wall, ok = o.latest(month, dayOf, clock)
		return wall, clock.unit, afterSpace(rest), ok
	}
	year, isYear := ordinal(third)
	if !isYear || year < 1000 {
		return time.Time{}, 0, "", false
	}
	wall, ok = moment(year, month, dayOf, 0, 0, 0)
	return wall, day, afterSpace(rest), ok
}

// isoDate reads "2026-11-21 06:04", with seconds, a fraction and a zone of its own or none (ls --time-style=long-iso,
// full-iso), and "2020-02-29 ", the date of an older file (iso).
func isoDate(s string) (wall time.Time, unit time.Duration, name string, ok bool) {
	date, rest := word(s)
	y, m, d, ok := isoDay(date)
	if !ok || !hasName(rest) {
		return time.Time{}, 0, "", false
	}
	second, after := word(rest)
	clock, isClock := parseClock(second)
	if !isClock || !hasName(after) {
		wall, ok = moment(y, m, d, 0, 0, 0)
		return wall, day, afterSpace(afterSpace(rest)), ok // GNU ls fills the column of the time with one space
	}
	if zone, behind := word(after); clock.unit == time.Second && isZone(zone) && hasName(behind) {
		after = behind // of the server's, which Options.Zone knows as well
	}
	wall, ok = moment(y, m, d, clock.hour, clock.minute, clock.second)
	return wall, clock.unit, afterSpace(after), ok
}

func isoDay(s string) (y, m, d int, ok bool) {
	if len(s) != 10 || s[4] != '-' || s[7] != '-' || !isDecimal(s[:4]+s[5:7]+s[8:]) {
		return 0, 0, 0, false
	}
	y, _ = strconv.Atoi(s[:4])
	m, _ = strconv.Atoi(s[5:7])
	d, _ = strconv.Atoi(s[8:])
	return y, m, d, true
}

func isZone(s string) bool {
	return len(s) == 5 && (s[0] == '+' || s[0] == '-') && isDecimal(s[1:])
}

// latest is the rule for dates without a year: the latest that is not more than slack in the future.
func (o Options) latest(month, dayOf int, c clock) (time.Time, bool) {
	now := o.Now.UTC()
	now = now.Add(o.Zone.Offset(now))
	for year := now.Year() + 1; year > now.Year()-9; year-- { // eight years may lie between two leap days
		t, ok := moment(year, month, dayOf, c.hour, c.minute, c.second)
		if ok && !t.After(now.Add(slack)) {
			return t, true
		}
	}
	return time.Time{}, false
}

// clock is a time of the day.
type clock struct {
	hour, minute, second int
	unit                 time.Duration
}

// parseClock reads "06:04", "6:04", "06:04:42" and "06:04:42.123456789".
func parseClock(s string) (clock, bool) {
	c := clock{unit: time.Minute}
	hour, rest, ok := strings.Cut(s, ":")
	minute, second, exact := strings.Cut(rest, ":")
	if !ok || len(hour) > 2 || len(minute) != 2 || !isDecimal(hour+minute) || hour == "" {
		return clock{}, false
	}
	c.hour, _ = strconv.Atoi(hour)
	c.minute, _ = strconv.Atoi(minute)
	if exact {
		second, fraction, _ := strings.Cut(second, ".")
		if len(second) != 2 || !isDecimal(second+fraction) {
			return clock{}, false
		}
		c.second, _ = strconv.Atoi(second)
		c.unit = time.Second
	}
	return c, c.hour < 24 && c.minute < 60 && c.second < 60
}

// twoDigits reads one or two digits.
func twoDigits(s string) (int, bool) {
	n, err := strconv.Atoi(s)
	return n, err == nil && isDecimal(s) && len(s) <= 2
}

// ordinal reads the number of a day or a year as some languages write it: "3.", "21日", "2020年".
func ordinal(s string) (int, bool) {
	for _, suffix := range []string{".", ",", "日", "일", "年", "년"} {
		s = strings.TrimSuffix(s, suffix)
	}
	n, err := strconv.Atoi(s)
	return n, err == nil && isDecimal(s) && len(s) <= 4
}

// hasName reports whether something follows a date.
func hasName(s string) bool { return strings.HasPrefix(s, " ") }

// afterSpace is what follows one space; any more belong to the name.
func afterSpace(s string) string { return strings.TrimPrefix(s, " ") }
