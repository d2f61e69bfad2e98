package listing

import (
	"os"
	"strconv"
	"strings"

	"pierfs/backends"
)

// dosKinds are what stands in the place of a size. A junction is a link: it leads wherever it leads.
var dosKinds = map[string]os.FileMode{
	"<DIR>": os.ModeDir, "<JUNCTION>": os.ModeSymlink, "<SYMLINK>": os.ModeSymlink, "<SYMLINKD>": os.ModeSymlink,
}

const dosColumn = 15 // of the kind and the spaces behind it, before the name

// dos reads a line as IIS and DOS write it: "02-29-20  11:00AM       <DIR>          name".
func (o Options) dos(s string) (Entry, bool) {
	date, rest := word(s)
	hours, rest := word(rest)
	if half, after := word(rest); half == "AM" || half == "PM" {
		hours, rest = hours+half, after
	}
	year, month, dayOf, ok := dosDay(date)
	clock, isClock := dosClock(hours)
	if !ok || !isClock {
		return Entry{}, false
	}
	wall, ok := moment(year, month, dayOf, clock.hour, clock.minute, clock.second)
	kind, name := word(rest)
	if !ok || !hasName(name) {
		return Entry{}, false
	}
	e := Entry{Info: backends.Info{Known: backends.HasType}}
	e.setTime(wall, clock.unit, o.Zone)
	if mode, ok := dosKinds[kind]; ok {
		e.Mode = mode
		e.setDOSName(kind, name)
		return e, true
	}
	if e.Size, ok = parseSize(withoutCommas(kind)); !ok {
		return Entry{}, false
	}
	e.Known |= backends.HasSize
	e.Name = afterSpace(name)
	return e, true
}

// setDOSName takes the name behind a kind, and the target that a link's name is followed by in brackets.
func (e *Entry) setDOSName(kind, s string) {
	if blank := strings.Repeat(" ", dosColumn-len(kind)); strings.HasPrefix(s, blank) {
		e.Name = s[len(blank):]
	} else {
		e.Name = strings.TrimLeft(s, " ")
	}
	if e.Mode&os.ModeSymlink == 0 || !strings.HasSuffix(e.Name, "]") {
		return
	}
	if name, target, ok := strings.Cut(e.Name, " ["); ok {
		e.Name, e.Target = name, strings.TrimSuffix(target, "]")
	}
}

// dosDay reads "02-29-20", "02-29-2020" and "02/29/2020", whose month is first; "29.02.2020", whose day is; and
// "2020-02-29". Years of two digits are from 1970 on.
func dosDay(s string) (year, month, dayOf int, ok bool) {
	if year, month, dayOf, ok = isoDay(s); ok {
		return year, month, dayOf, true
	}
	for _, separator := range []string{"-", "/", "."} {
		parts := strings.Split(s, separator)
		if len(parts) != 3 {
			continue
		}
		if separator == "." {
			parts[0], parts[1] = parts[1], parts[0]
		}
		month, mOK := twoDigits(parts[0])
		dayOf, dOK := twoDigits(parts[1])
		year, err := strconv.Atoi(parts[2])
		switch {
		case !isDecimal(parts[2]) || len(parts[2]) != 2 && len(parts[2]) != 4:
			return 0, 0, 0, false
		case len(parts[2]) == 2 && year < 70:
			year += 2000
		case len(parts[2]) == 2:
			year += 1900
		}
		return year, month, dayOf, mOK && dOK && err == nil
	}
	return 0, 0, 0, false
}

// dosClock reads "11:00AM", "12:05PM", "23:59" and "23:59:58".
func dosClock(s string) (clock, bool) {
	upper := strings.ToUpper(s)
	hours, pm := strings.CutSuffix(upper, "PM")
	hours, am := strings.CutSuffix(hours, "AM")
	c, ok := parseClock(hours)
	if !ok || !am && !pm {
		return c, ok
	}
	if am && pm || c.hour < 1 || c.hour > 12 {
		return clock{}, false
	}
	c.hour %= 12
	if pm {
		c.hour += 12
	}
	return c, true
}

// withoutCommas takes the commas out of a size that is grouped by thousands, and leaves any other as it is.
func withoutCommas(s string) string {
	groups := strings.Split(s, ",")
	for i, group := range groups {
		if len(groups) > 1 && (i > 0 && len(group) != 3 || len(group) > 3 || !isDecimal(group)) {
			return s
		}
	}
	return strings.Join(groups, "")
}
