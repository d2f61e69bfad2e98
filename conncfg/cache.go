package conncfg

import (
	"math"
	"strconv"
	"strings"
)

// Cache is how much may be kept of what is read. Zero fields are for whoever keeps it to choose.
type Cache struct {
	Size int64 // bytes, of all connections together

	// How much of its file system stays free; at most one of the two is set.
	FreePercent int
	FreeBytes   int64
}

// sizeUnits are bytes, by the unit in lower case.
var sizeUnits = map[string]float64{
	"": 1, "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12,
	"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40,
}

// leastCache is what reading ahead needs.
const leastCache = 64 << 20

const sizeHint = `write "4GiB" or "500MB"; a bare number is bytes`

// ParseSize reads a number with a unit, to whole bytes.
func ParseSize(text string) (int64, bool) {
	text = strings.ToLower(strings.TrimSpace(text))
	digits := strings.TrimRight(text, "abcdefghijklmnopqrstuvwxyz ")
	unit, known := sizeUnits[strings.TrimSpace(text[len(digits):])]
	number, err := strconv.ParseFloat(digits, 64)
	if err != nil || !known || strings.Trim(digits, "0123456789.") != "" || number*unit >= math.MaxInt64 {
		return 0, false
	}
	return int64(number * unit), true
}

// settingText returns the value of a setting that is a text or a whole number.
func settingText(e *entry) (string, bool) {
	switch v := e.value.(type) {
	case string:
		return v, true
	case number:
		n, ok := v.integer()
		return strconv.FormatInt(n, 10), ok
	}
	return "", false
}

func readSize(e *entry, report func(Finding)) int64 {
	refuse := func(code Code, message, hint string) int64 {
		report(Finding{Severity: Error, Code: code, Field: e.key, Line: e.line, Message: message, Hint: hint})
		return 0
	}
	text, ok := settingText(e)
	if !ok {
		return refuse(CodeWrongType, "is "+kindOf(e.value)+"; it takes a size", sizeHint)
	}
	size, ok := ParseSize(text)
	switch {
	case !ok:
		return refuse(CodeInvalid, "is no size", sizeHint)
	case size < leastCache:
		return refuse(CodeRange, "is less than 64 MiB, which reading ahead needs", sizeHint)
	}
	return size
}

func readFree(e *entry, report func(Finding)) (percent int, bytes int64) {
	const hint = `write a share of the file system, "5%", or a size, "1GiB"`
	refuse := func(code Code, message string) {
		report(Finding{Severity: Error, Code: code, Field: e.key, Line: e.line, Message: message, Hint: hint})
	}
	text, ok := settingText(e)
	if !ok {
		refuse(CodeWrongType, "is "+kindOf(e.value)+"; it takes a text")
		return 0, 0
	}
	if share, ok := strings.CutSuffix(strings.TrimSpace(text), "%"); ok {
		n, err := strconv.Atoi(strings.TrimSpace(share))
		switch {
		case err != nil:
			refuse(CodeInvalid, "is no share")
			return 0, 0
		case n < 1 || n > 99:
			refuse(CodeRange, "is outside 1% to 99%")
			return 0, 0
		}
		return n, 0
	}
	size, ok := ParseSize(text)
	if !ok || size < 1 {
		refuse(CodeInvalid, "is no size")
		return 0, 0
	}
	return 0, size
}
