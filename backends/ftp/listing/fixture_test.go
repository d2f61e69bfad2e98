package listing

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pierfs/backends"
)

// The files under testdata are what vsftpd 3.0.3, pure-ftpd 1.0.50, proftpd 1.3.8 and pyftpdlib 1.5.7 say of one directory on
// a machine on UTC, with names that begin and end in a space, links, a device, a pipe, and two names with a line feed.

var fixtureTime = time.Date(2026, 11, 21, 7, 0, 0, 0, time.UTC)

// told renders e; an absent field is "?".
func told(e Entry) string {
	field := func(f backends.Fields, value any) string {
		if e.Known.Has(f) {
			return fmt.Sprint(value)
		}
		return "?"
	}
	target := ""
	if e.Target != "" {
		target = " -> " + e.Target
	}
	return fmt.Sprintf("%q%s %s %s %s %s", e.Name, target,
		field(backends.HasType, e.Mode.Type()), field(backends.HasPerm, e.Mode&(os.ModePerm|setBits)),
		field(backends.HasSize, e.Size), field(backends.HasModTime, e.ModTime.Format("2006-01-02T15:04:05")))
}

// truth is the directory as it was, with the times that LIST tells to the minute.
var truth = []string{
	`" leading" ---------- -rw-r--r-- 2 2026-11-21T06:04:00`,
	`".hidden" ---------- -rw-r--r-- 2 2026-11-21T06:04:00`,
	`"a" ---------- urwxr-xr-x 3 2026-11-21T06:04:00`,
	`"d" d--------- trwxrwxrwx 4096 2026-11-21T06:04:00`,
	`"dangling" -> nowhere L--------- -rwxrwxrwx 7 2026-11-21T06:04:00`,
	`"dev" Dc--------- -rw-r--r-- ? 2026-11-21T06:04:00`,
	`"dlink" -> d L--------- -rwxrwxrwx 1 2026-11-21T06:04:00`,
	`"fifo" p--------- -rw-r--r-- ? 2026-11-21T06:04:00`,
	`"lat\xe9" ---------- -rw-r--r-- 1 2026-11-21T06:04:00`,
	`"link" -> a L--------- -rwxrwxrwx 1 2026-11-21T06:04:00`,
	`"new" ---------- -rw-r--r-- 1 2026-11-21T06:04:00`,
	`"old" ---------- -rw-r--r-- 0 2020-02-29T00:00:00`,
	`"rep" d--------- -rwxr-xr-x 4096 2026-11-21T06:04:00`,
	`"sub" d--------- -rwxr-xr-x 4096 2026-11-21T06:04:00`,
	`"summer" ---------- -rw-r--r-- 0 2026-07-15T12:34:00`,
	`"trail " ---------- -rw-r--r-- 2 2026-11-21T06:04:00`,
	`"weird -> link" -> a -> b L--------- -rwxrwxrwx 6 2026-11-21T06:04:00`,
	`"with space" ---------- -rw-r--r-- 2 2026-11-21T06:04:00`,
	`"x" ---------- -rw-r--r-- 1 2026-11-21T06:04:00`,
}

const forged = `"FAKE" ---------- -rw-r--r-- 777 2026-11-21T05:00:00`

func fixture(t *testing.T, server, name string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("testdata", server, name+".txt"))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// replyLines are a reply as its reader hands it on: without line ends and the code of its first and last line.
func replyLines(content []byte) []string {
	lines := strings.Split(strings.TrimSuffix(string(content), "\r\n"), "\n")
	for i := range lines {
		lines[i] = strings.TrimSuffix(lines[i], "\r")
	}
	lines[0], lines[len(lines)-1] = lines[0][4:], lines[len(lines)-1][4:]
	return lines
}

// collect runs l to its end.
func collect(t *testing.T, l *Listing) []string {
	t.Helper()
	var all []string
	for e, err := range l.Entries() {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, told(e))
	}
	slices.Sort(all)
	return all
}

func same(t *testing.T, got, want []string) {
	t.Helper()
	slices.Sort(want)
	for _, line := range got {
		if !slices.Contains(want, line) {
			t.Errorf("got  %s", line)
		}
	}
	for _, line := range want {
		if !slices.Contains(got, line) {
			t.Errorf("want %s", line)
		}
	}
	if len(got) != len(want) {
		t.Errorf("got %d entries, want %d", len(got), len(want))
	}
}

// changed is truth with lines replaced by their name, or left out where they are "".
func changed(changes map[string]string, more ...string) []string {
	var lines []string
	for _, line := range truth {
		name, _, _ := strings.Cut(line[1:], `"`)
		if change, ok := changes[name]; ok {
			line = change
		}
		if line != "" {
			lines = append(lines, line)
		}
	}
	return append(lines, more...)
}

func TestLinesOfRealServers(t *testing.T) {
	latin := map[string]string{`lat\xe9`: `"lat?" ---------- -rw-r--r-- 1 2026-11-21T06:04:00`}
	hidden := map[string]string{"dev": "", "fifo": "", "new": "", "x": ""} // by pure-ftpd
	for _, test := range []struct {
		server, file string
		want         []string
		unreadable   int
		self         bool
	}{
		{"vsftpd", "list", changed(nil, forged), 1, true},
		{"vsftpd", "stat", changed(nil, forged), 1, true},
		{"pure-ftpd", "list", changed(hidden), 0, true},
		{"pure-ftpd", "stat", changed(hidden), 0, true},
		{"proftpd", "list", changed(nil, forged), 1, true},
		{"proftpd", "stat", changed(nil), 2, true}, // where each line is set off, a forged one is told from a real one
		{"pyftpdlib", "list", changed(latin, forged), 1, false},
		{"pyftpdlib", "stat", changed(latin, forged), 1, false},
	} {
		t.Run(test.server+"/"+test.file, func(t *testing.T) {
			content := fixture(t, test.server, test.file)
			o := Options{Now: fixtureTime}
			l := Read(bytes.NewReader(content), Lines, o)
			if test.file == "stat" {
				l = Status(replyLines(content), o)
			}
			same(t, collect(t, l), test.want)
			if c := l.Counts(); c.Unreadable != test.unreadable || c.Hidden != 0 || c.Doubles != 0 || c.Entries != len(test.want) {
				t.Errorf("counts are %+v", c)
			}
			if e, ok := l.Self(); ok != test.self || ok && !e.IsDir() {
				t.Errorf("Self = %s, %v", told(e), ok)
			}
		})
	}
}

func TestFactsOfRealServers(t *testing.T) {
	size := func(name, mode, size string) string { return fmt.Sprintf(`"%s" %s %s`, name, mode, size) }
	for server, test := range map[string]struct {
		want       []string
		unreadable int
	}{
		"pure-ftpd": {[]string{
			size(" leading", "----------", "2"), size(".hidden", "----------", "2"), size("a", "----------", "3"), size("d", "d---------", "4096"),
			size("dangling", "L---------", "?"), size("dlink", "L---------", "?"), size("link", "L---------", "?"), size("weird -> link", "L---------", "?"),
			size("dev", "?", "0"), size("fifo", "?", "0"), // type=unknown
			size(`lat\xe9`, "----------", "1"), size("old", "----------", "0"), size("rep", "d---------", "4096"), size("sub", "d---------", "4096"),
			size("summer", "----------", "0"), size("trail ", "----------", "2"), size("with space", "----------", "2"),
		}, 0},
		"proftpd": {[]string{ // leaves out links that lead nowhere
			size(" leading", "----------", "2"), size(".hidden", "----------", "2"), size("a", "----------", "3"), size("d", "d---------", "?"),
			size("dlink", "L---------", "?"), size("link", "L---------", "?"), size("dev", "----------", "0"), size("fifo", "----------", "0"),
			size(`lat\xe9`, "----------", "1"), size("old", "----------", "0"), size("rep", "d---------", "?"), size("sub", "d---------", "?"),
			size("summer", "----------", "0"), size("trail ", "----------", "2"), size("with space", "----------", "2"),
			size("new", "----------", "1"), size("x", "----------", "1"),
		}, 2},
		"pyftpdlib": {[]string{ // follows links
			size(" leading", "----------", "2"), size(".hidden", "----------", "2"), size("a", "----------", "3"), size("d", "d---------", "4096"),
			size("dlink", "d---------", "4096"), size("link", "----------", "3"), size("dev", "----------", "0"), size("fifo", "----------", "0"),
			size("lat?", "----------", "1"), size("old", "----------", "0"), size("rep", "d---------", "4096"), size("sub", "d---------", "4096"),
			size("summer", "----------", "0"), size("trail ", "----------", "2"), size("with space", "----------", "2"),
			size("new", "----------", "1"), size("x", "----------", "1"),
		}, 2},
	} {
		t.Run(server, func(t *testing.T) {
			l := Read(bytes.NewReader(fixture(t, server, "mlsd")), Facts, Options{})
			var got []string
			for e, err := range l.Entries() {
				if err != nil {
					t.Fatal(err)
				}
				if e.Name == "summer" && (!e.ModTime.Equal(time.Date(2026, 7, 15, 12, 34, 56, 0, time.UTC)) || e.TimeUnit != time.Second) {
					t.Errorf("the time of %q is %v to the %v", e.Name, e.ModTime, e.TimeUnit)
				}
				if e.Name == "summer" && server != "pyftpdlib" && (e.UID != 1234 || e.GID != 5678 || !e.Known.Has(backends.HasOwner)) {
					t.Errorf("%q belongs to %d:%d", e.Name, e.UID, e.GID)
				}
				if e.Name == "a" && server != "pyftpdlib" && e.Mode != os.ModeSetuid|0o755 {
					t.Errorf("the mode of %q is %v", e.Name, e.Mode)
				}
				if server == "proftpd" && e.Name == "link" && e.Known.Has(backends.HasID) {
					t.Errorf("the link has the identity %s, which is that of what it leads to", e.ID)
				}
				fields := strings.Fields(strings.TrimPrefix(told(e), fmt.Sprintf("%q", e.Name)))
				got = append(got, size(strings.Trim(fmt.Sprintf("%q", e.Name), `"`), fields[0], fields[2]))
			}
			same(t, got, test.want)
			if c := l.Counts(); c.Unreadable != test.unreadable || c.Hidden+c.Doubles != 0 {
				t.Errorf("counts are %+v", c)
			}
			if e, ok := l.Self(); ok != (server != "pyftpdlib") || ok && !e.IsDir() {
				t.Errorf("Self = %s, %v", told(e), ok)
			}
		})
	}
}

func TestOneFileOfRealServers(t *testing.T) {
	for _, server := range []string{"pure-ftpd", "proftpd", "pyftpdlib"} {
		for file, want := range map[string]struct {
			name string
			mode os.FileMode
		}{"mlst-file": {"a", 0}, "mlst-dir": {"d", os.ModeDir}, "mlst-leading": {" leading", 0}, "mlst-root": {"", os.ModeDir}} {
			e, err := One(replyLines(fixture(t, server, file)))
			if err != nil || e.Name != want.name || e.Mode.Type() != want.mode || !e.Known.Has(backends.HasType|backends.HasModTime) {
				t.Errorf("%s, %s: got %s, %v", server, file, told(e), err)
			}
		}
	}
	e, err := One(replyLines(fixture(t, "pure-ftpd", "mlst-link")))
	if err != nil || e.Mode.Type() != os.ModeSymlink || e.Known.Has(backends.HasSize) {
		t.Errorf("the link of pure-ftpd: got %s, %v", told(e), err)
	}
	if e, err := One([]string{"Start", "End"}); backends.Errno(err) == 0 {
		t.Errorf("a reply that says nothing is %s", told(e))
	}
}

func TestStatusOfAFileAndOfNothing(t *testing.T) {
	for _, server := range []string{"vsftpd", "pure-ftpd", "proftpd", "pyftpdlib"} {
		l := Status(replyLines(fixture(t, server, "stat-file")), Options{Now: fixtureTime})
		var found []Entry
		for e, err := range l.Entries() {
			if err != nil {
				t.Fatal(err)
			}
			found = append(found, e)
		}
		if e, ok := l.Self(); ok {
			found = append(found, e)
		}
		if len(found) != 1 || found[0].Name != "a" || found[0].Size != 3 || !found[0].Mode.IsRegular() {
			t.Errorf("%s: STAT of a file gives %v", server, found)
		}
	}
	for _, server := range []string{"vsftpd", "pure-ftpd"} {
		l := Status(replyLines(fixture(t, server, "stat-missing")), Options{Now: fixtureTime})
		if got := collect(t, l); len(got) != 0 {
			t.Errorf("%s: STAT of nothing gives %v", server, got)
		}
		if e, ok := l.Self(); ok {
			t.Errorf("%s: STAT of nothing has a Self %v", server, e)
		}
	}
}
