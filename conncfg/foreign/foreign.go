// Package foreign reads what other programs keep of servers, as definitions of connections: rclone's remotes, hosts of ssh_config,
// FileZilla's sites, and lines of fstab for sshfs and curlftpfs.
//
// A reader takes what has the same meaning here, tells what it changed or left out, and never guesses at security: what the other
// program did not check is checked here, and told. Passwords that were only obscured are revealed and stay apart from the
// definition, as Secrets, to be stored encrypted; nothing here prints them. Files of keys are named, never opened.
//
// The texts may be anybody's: size and number are bounded, and no text makes a reader fail but by an error.
package foreign

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"pierfs/conncfg"
)

// Bounds of what Read takes.
const (
	MaxSize        = 16 << 20
	maxConnections = 10_000
)

// Connection is a definition that was read, and the secrets that stood there.
type Connection struct {
	conncfg.Foreign
	Secrets map[string]conncfg.Secret // by field
}

// Formats are the names of what Read knows.
func Formats() []string { return []string{"rclone", "ssh-config", "filezilla", "fstab"} }

// ErrRefused is at the root of every error that says that a text is not what it was said to be.
var ErrRefused = errors.New("the file cannot be read")

func refuse(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrRefused, fmt.Sprintf(format, args...))
}

// Read reads a text in a format. user is who logs in where nobody is named, for the other programs take their own caller. notes are
// about what is in no connection.
func Read(format string, text []byte, user string) (all []Connection, notes []string, err error) {
	if len(text) > MaxSize {
		return nil, nil, refuse("it has %d bytes, and %d are the most", len(text), MaxSize)
	}
	r := &reader{user: user}
	switch format {
	case "rclone":
		err = r.rclone(string(text))
	case "ssh-config":
		err = r.sshConfig(string(text))
	case "filezilla":
		err = r.fileZilla(text)
	case "fstab":
		err = r.fstab(string(text))
	default:
		err = refuse("%q is no format that is known here", format)
	}
	if err != nil {
		return nil, nil, err
	}
	return r.finish()
}

// reader gathers what a format tells.
type reader struct {
	user  string
	sites []*site
	notes []string
}

// site is one server as it is understood so far.
type site struct {
	name    string // as the other program calls it
	fields  map[string]any
	secrets map[string]conncfg.Secret
	blanks  []conncfg.Blank
	notes   []string
}

func (r *reader) add(name string) *site {
	s := &site{name: name, fields: map[string]any{}, secrets: map[string]conncfg.Secret{}}
	r.sites = append(r.sites, s)
	return s
}

func (r *reader) note(format string, args ...any) {
	r.notes = append(r.notes, fmt.Sprintf(format, args...))
}

func (s *site) note(format string, args ...any) {
	s.notes = append(s.notes, fmt.Sprintf(format, args...))
}

// set takes a value over unless it is empty.
func (s *site) set(field, value string) {
	if value != "" {
		s.fields[field] = value
	}
}

func (s *site) secret(field, value string) {
	if value != "" {
		s.secrets[field] = conncfg.NewSecret(value)
	}
}

// file tells of a file of this machine, which only its owner may name in a definition.
func (s *site) file(field, name string) {
	s.blanks = append(s.blanks, conncfg.Blank{Field: field, Why: "it was " + strconv.Quote(name) + ": look whether the file may be read by the daemon alone, and name it by hand"})
}

// number takes a whole number over, or tells that it is none.
func (s *site) number(field, value string) {
	n, err := strconv.Atoi(value)
	switch {
	case value == "":
	case err != nil || n < 0:
		s.note("%s %q is no number and was left out", field, clip(value))
	default:
		s.fields[field] = n
	}
}

// leftOut tells of settings that have no meaning here.
func (s *site) leftOut(names []string) {
	if len(names) > 0 {
		slices.Sort(names)
		s.note("left out, for it means nothing here: %s", clip(strings.Join(slices.Compact(names), ", ")))
	}
}

// finish completes what every definition needs, and gives each a name of its own.
func (r *reader) finish() ([]Connection, []string, error) {
	if len(r.sites) > maxConnections {
		return nil, nil, refuse("it has %d connections, and %d are the most", len(r.sites), maxConnections)
	}
	taken := map[string]bool{}
	var all []Connection
	for _, s := range r.sites {
		if s.fields["host"] == nil {
			r.note("%q was left out: it names no host", clip(s.name))
			continue
		}
		if s.fields["username"] == nil {
			s.fields["username"] = r.user
			s.note("nobody is named who logs in, so it is %s, as the other program would have it", strconv.Quote(r.user))
		}
		if s.fields["workingDir"] == nil {
			s.fields["workingDir"] = "."
			s.note("no directory is named, so it is the login directory")
		}
		name := nameFor(s.name, taken)
		if name != s.name {
			s.note("it was called %q", clip(s.name))
		}
		c, err := s.connection(name)
		if err != nil {
			return nil, nil, err
		}
		all = append(all, c)
	}
	if len(all) == 0 {
		return nil, nil, refuse("no connection that could be used is in it%s", because(r.notes))
	}
	return all, r.notes, nil
}

func because(notes []string) string {
	if len(notes) == 0 {
		return ""
	}
	return ": " + notes[0]
}

func (s *site) connection(name string) (Connection, error) {
	s.fields["name"] = name
	text, err := json.Marshal(s.fields)
	if err != nil {
		return Connection{}, err
	}
	read, err := conncfg.FromJSON(text)
	if err != nil || len(read) != 1 {
		return Connection{}, refuse("%q cannot be written as a definition: %v", clip(s.name), err)
	}
	c := Connection{Foreign: read[0], Secrets: s.secrets}
	slices.SortStableFunc(s.blanks, func(a, b conncfg.Blank) int { return strings.Compare(a.Field, b.Field) })
	for _, b := range s.blanks {
		b.Connection = name
		c.Blanks = append(c.Blanks, b)
	}
	for _, note := range s.notes {
		c.Notes = append(c.Notes, name+": "+note)
	}
	return c, nil
}

// nameFor makes a name of one that may have been anything, and one that nobody else has.
func nameFor(was string, taken map[string]bool) string {
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '_', r == '-', r == '.':
			return r
		}
		return '_'
	}, was)
	for _, twice := range []string{"__", ".."} {
		for strings.Contains(name, twice) {
			name = strings.ReplaceAll(name, twice, twice[:1])
		}
	}
	name = strings.Trim(name, "-._")
	if name == "" {
		name = "connection"
	}
	name = strings.TrimRight(name[:min(len(name), 90)], "-.")
	free := name
	for i := 2; taken[strings.ToLower(free)]; i++ {
		free = name + "_" + strconv.Itoa(i)
	}
	taken[strings.ToLower(free)] = true
	return free
}

// clip keeps a message short, whatever the file holds.
func clip(text string) string {
	const most = 200
	if len(text) > most {
		return strings.ToValidUTF8(text[:most], "") + "..."
	}
	return text
}
