package control

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"time"
)

// The verbs that go through whole directories, and those that let a transfer go on.
var (
	Sum     = Verb[SumRequest, SumAnswer]{Name: "sum", Within: 24 * time.Hour}
	Symlink = Verb[SymlinkRequest, File]{Name: "symlink"}
)

// transferring describes them.
func transferring() []Description {
	return []Description{Sum.Describe(), Symlink.Describe()}
}

// LsRequest asks what a directory holds; with Recursive, what those in it hold too, and theirs. Links are told, never followed.
type LsRequest struct {
	FileRequest
	Recursive bool   `json:"recursive,omitempty"`
	Links     bool   `json:"links,omitempty"` // tell where links lead
	Filter    Filter `json:"filter,omitzero"`
	First     bool   `json:"first,omitempty"` // nothing behind the first that fits
}

// Match is how a Filter compares names.
type Match string

const (
	StartsWith Match = "STARTS_WITH"
	Exact      Match = "EXACT_MATCH"
	Contains   Match = "CONTAINS"
	EndsWith   Match = "ENDS_WITH"
	Wildcard   Match = "WILDCARD" // * is any number of bytes, ? is one
)

// Matches returns all of them.
func Matches() []Match { return []Match{StartsWith, Exact, Contains, EndsWith, Wildcard} }

// Filter chooses files by their names and sizes. The zero value lets everything through, also what is no file.
type Filter struct {
	Text          string `json:"text,omitempty"`
	Match         Match  `json:"match,omitempty"` // "" is StartsWith
	CaseSensitive bool   `json:"caseSensitive,omitempty"`
	MaxKB         int64  `json:"maxFileSizeKB,omitempty"` // 0 has no limit
}

// IsZero reports whether everything fits.
func (f Filter) IsZero() bool { return f.Text == "" && f.MaxKB == 0 }

// Check returns what is wrong with f.
func (f Filter) Check() error {
	if f.Match != "" && !slices.Contains(Matches(), f.Match) {
		return Errorf(Usage, "%q is no way to compare names", f.Match).WithHint("write one of %s", fmt.Sprint(Matches()))
	}
	if f.MaxKB < 0 {
		return Errorf(Usage, "no file is smaller than %d kB", f.MaxKB).WithHint("leave --max-file-size-kb out, or give it a number above 0")
	}
	return nil
}

// Fits reports whether f lets a file through. Once it filters anything it lets files alone through.
func (f Filter) Fits(file File) bool {
	if f.IsZero() {
		return true
	}
	if file.Type != "file" || f.MaxKB > 0 && file.Size > f.MaxKB*1024 {
		return false
	}
	name, text := path.Base(string(file.Name)), f.Text
	if !f.CaseSensitive {
		name, text = strings.ToLower(name), strings.ToLower(text)
	}
	switch f.Match {
	case Exact:
		return name == text
	case Contains:
		return strings.Contains(name, text)
	case EndsWith:
		return strings.HasSuffix(name, text)
	case Wildcard:
		return matches(text, name)
	}
	return strings.HasPrefix(name, text)
}

// matches reports whether name is what pattern says, in time that grows with the product of their lengths at most.
func matches(pattern, name string) bool {
	star, from := -1, 0
	p, n := 0, 0
	for n < len(name) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, from = p, n
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == name[n]):
			p++
			n++
		case star >= 0: // the star takes one more
			from++
			p, n = star+1, from
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// GetRequest asks for a file's content. With Offset only what comes behind that many bytes is sent, if the file is still the version
// Was; if it is not, all of it.
type GetRequest struct {
	FileRequest
	Offset int64    `json:"offset,omitempty"`
	Was    *Version `json:"was,omitempty"`
}

// Version tells one content of a name from another, as far as size and time of change do.
type Version struct {
	Size int64     `json:"size"`
	Time time.Time `json:"modTime,omitzero"`
}

// Version returns that of f.
func (f File) Version() Version { return Version{f.Size, f.Time} }

// Same reports whether both are the same version, and known well enough to say so.
func (v Version) Same(w Version) bool {
	return v.Size == w.Size && !v.Time.IsZero() && v.Time.Equal(w.Time)
}

// Got is the file whose content follows, from Offset on.
type Got struct {
	File
	Offset int64 `json:"offset,omitempty"`
}

// SumRequest asks for the checksum of a file as the server has it now: computed there, where the server does so, or with Read, and where it
// does not, from all of it, read for this.
type SumRequest struct {
	FileRequest
	Read bool `json:"read,omitempty"`
}

// SumAnswer is that checksum.
type SumAnswer struct {
	Algorithm string `json:"algorithm"` // such as "SHA-256"
	Sum       string `json:"sum"`       // in hexadecimal digits
	Read      bool   `json:"read"`      // the content was read, and added up here
}

// SymlinkRequest makes a symbolic link.
type SymlinkRequest struct {
	FileRequest
	Target Name `json:"target"`
}
