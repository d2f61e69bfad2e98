package conncfg

import (
	"strconv"
	"strings"
)

// maxName is the longest name of a connection, project or environment: they become directories and parts of file names.
const maxName = 100

// CheckName returns nil if name may be that of a connection, project or environment: letters, digits and underscores,
// with dashes and dots between them. Names are the names of files, directories and systemd units, and are written in
// shell scripts; hence no more. It takes one part, not PROJECT/NAME: see CheckFullName.
func CheckName(name string) []Finding {
	refuse := func(message, hint string) []Finding {
		return []Finding{{Severity: Error, Code: CodeNameInvalid, Field: "name", Value: name, Message: message, Hint: hint}}
	}
	const allowed = "use letters, digits and _, with - and . only in between"
	switch {
	case name == "":
		return refuse("is empty", allowed)
	case len(name) > maxName:
		return refuse("is longer than "+strconv.Itoa(maxName)+" characters", "choose a shorter name")
	case strings.Contains(name, ".."):
		return refuse("has two dots in a row", allowed)
	}
	for i, r := range name {
		if wordRune(r) || (r == '-' || r == '.') && i > 0 && i < len(name)-1 {
			continue
		}
		where := "contains "
		switch i {
		case 0:
			where = "begins with "
		case len(name) - 1:
			where = "ends with "
		}
		return refuse(where+strconv.QuoteRune(r), allowed)
	}
	return nil
}

func wordRune(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_'
}

// CheckFullName is CheckName for NAME or PROJECT/NAME.
func CheckFullName(full string) []Finding {
	project, name, ok := strings.Cut(full, "/")
	if !ok {
		return CheckName(full)
	}
	return append(CheckName(project), CheckName(name)...)
}
