package listing

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"pierfs/backends"
)

// one reads a single line, and fails the test if it is not one entry.
func one(t *testing.T, line string, f Format, o Options) Entry {
	t.Helper()
	l := Read(strings.NewReader(line+"\r\n"), f, o)
	var got []Entry
	for e, err := range l.Entries() {
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		got = append(got, e)
	}
	if len(got) != 1 {
		t.Fatalf("%q is %d entries, counts %+v", line, len(got), l.Counts())
	}
	return got[0]
}

func TestLinesInEveryForm(t *testing.T) {
	o := Options{Now: time.Date(2026, 11, 21, 7, 0, 0, 0, time.UTC)}
	for line, want := range map[string]string{
		// columns
		"-rw-r--r--   1 ftp      ftp           1234 Nov 21 06:04 full":            `"full" ---------- -rw-r--r-- 1234 2026-11-21T06:04:00`,
		"-rw-r--r--   1 ftp           1234 Nov 21 06:04 no group":                 `"no group" ---------- -rw-r--r-- 1234 2026-11-21T06:04:00`,
		"-rw-r--r--   1 1234 Nov 21 06:04 no owner":                               `"no owner" ---------- -rw-r--r-- 1234 2026-11-21T06:04:00`,
		"-rw-r--r-- 1234 Nov 21 06:04 nothing":                                    `"nothing" ---------- -rw-r--r-- 1234 2026-11-21T06:04:00`,
		"-rw-r--r--   1 DOM\\user domain users 77 Nov 21 06:04 x":                 `"x" ---------- -rw-r--r-- 77 2026-11-21T06:04:00`,
		"-rw-r--r--. 1 0 0 5 Nov 21 06:04 selinux":                                `"selinux" ---------- -rw-r--r-- 5 2026-11-21T06:04:00`,
		"-rw-r--r--+ 1 0 0 5 Nov 21 06:04 acl":                                    `"acl" ---------- -rw-r--r-- 5 2026-11-21T06:04:00`,
		"-rw-r--r--@ 1 0 0 5 Nov 21 06:04 mac":                                    `"mac" ---------- -rw-r--r-- 5 2026-11-21T06:04:00`,
		"drwxr-xr-x1234 0 0 5 Nov 21 06:04 many":                                  `"many" d--------- -rwxr-xr-x 5 2026-11-21T06:04:00`,
		"crw-rw-rw-   1 0        0          1,   3 Nov 21 06:04 null":             `"null" Dc--------- -rw-rw-rw- ? 2026-11-21T06:04:00`,
		"brw-rw-rw-   1 0        0        259,   3 Nov 21 06:04 disk":             `"disk" D--------- -rw-rw-rw- ? 2026-11-21T06:04:00`,
		"srwxrwxrwx   1 0        0          0 Nov 21 06:04 socket":                `"socket" S--------- -rwxrwxrwx ? 2026-11-21T06:04:00`,
		"-rwSr-Sr-T   1 0        0          0 Nov 21 06:04 odd":                   `"odd" ---------- ugtrw-r--r-- 0 2026-11-21T06:04:00`,
		"drwxr-xr-x   1 0        0          0 Nov 21 06:04 slash/":                `"slash" d--------- -rwxr-xr-x 0 2026-11-21T06:04:00`,
		"-rw-r--r--   1 0        0   0010 Nov 21 06:04 decimal":                   `"decimal" ---------- -rw-r--r-- 10 2026-11-21T06:04:00`,
		"-rw-r--r--   1 0        0   9223372036854775807 Nov 21 06:04 large":      `"large" ---------- -rw-r--r-- 9223372036854775807 2026-11-21T06:04:00`,
		"-rw-r--r--   1 0        0   5 Nov 21 06:04   two":                        `"  two" ---------- -rw-r--r-- 5 2026-11-21T06:04:00`,
		"-rw-r--r--   1 0        0   5 Nov 21 06:04 7 Nov 21 05:00 x":             `"7 Nov 21 05:00 x" ---------- -rw-r--r-- 5 2026-11-21T06:04:00`,
		"- [R----F--] supervisor            214 Jan 14 14:50 novell":              `"novell" ---------- ? 214 2026-01-14T14:50:00`,
		"d [R----F--] supervisor            512 Jan 16 18:53 login":               `"login" d--------- ? 512 2026-01-16T18:53:00`,
		"lrwxrwxrwx   1 0        0  3 Nov 21 06:04 no target":                     `"no target" L--------- -rwxrwxrwx ? 2026-11-21T06:04:00`,
		"lrwxrwxrwx   1 0        0  0 Nov 21 06:04 size -> is -> nothing":         `"size" -> is -> nothing L--------- -rwxrwxrwx 13 2026-11-21T06:04:00`,
		"lrwxrwxrwx   1 0        0  7 Nov 21 06:04 size -> is -> nothing":         `"size -> is" -> nothing L--------- -rwxrwxrwx 7 2026-11-21T06:04:00`,
		"lrwxrwxrwx   1 0        0  9223372036854775807 Nov 21 06:04 huge -> far": `"huge" -> far L--------- -rwxrwxrwx 3 2026-11-21T06:04:00`,
		// dates
		"-rw-r--r-- 1 0 0 5 Feb 29  2020 leap":                                        `"leap" ---------- -rw-r--r-- 5 2020-02-29T00:00:00`,
		"-rw-r--r-- 1 0 0 5 Feb 29 11:00 leap":                                        `"leap" ---------- -rw-r--r-- 5 2024-02-29T11:00:00`,
		"-rw-r--r-- 1 0 0 5 Nov 22 06:59 ahead":                                       `"ahead" ---------- -rw-r--r-- 5 2026-11-22T06:59:00`,
		"-rw-r--r-- 1 0 0 5 Nov 22 07:01 behind":                                      `"behind" ---------- -rw-r--r-- 5 2025-11-22T07:01:00`,
		"-rw-r--r-- 1 0 0 5 21 Nov 06:04 day first":                                   `"day first" ---------- -rw-r--r-- 5 2026-11-21T06:04:00`,
		"-rw-r--r-- 1 0 0 5 Nov 21 06:04:42 2019 seconds":                             `"seconds" ---------- -rw-r--r-- 5 2019-11-21T06:04:42`,
		"-rw-r--r-- 1 0 0 5 2026-11-21 06:04 long iso":                                `"long iso" ---------- -rw-r--r-- 5 2026-11-21T06:04:00`,
		"-rw-r--r-- 1 0 0 5 2026-11-21 06:04:42.123456789 +0100 full iso":             `"full iso" ---------- -rw-r--r-- 5 2026-11-21T06:04:42`,
		"-rw-r--r-- 1 0 0 5 11-21 06:04 iso":                                          `"iso" ---------- -rw-r--r-- 5 2026-11-21T06:04:00`,
		"-rw-r--r-- 1 0 0 5 2020-02-29  old iso":                                      `"old iso" ---------- -rw-r--r-- 5 2020-02-29T00:00:00`,
		"-rw-r--r-- 1 0 0 5 15. Mär 06:04 de":                                         `"de" ---------- -rw-r--r-- 5 2026-03-15T06:04:00`,
		"-rw-r--r-- 1 0 0 5 ao\xfbt  15  2020 fr":                                     `"fr" ---------- -rw-r--r-- 5 2020-08-15T00:00:00`,
		"-rw-r--r-- 1 0 0 5 15 févr. 06:04 fr":                                        `"fr" ---------- -rw-r--r-- 5 2026-02-15T06:04:00`,
		"-rw-r--r-- 1 0 0 5 Ağu 15 06:04 tr":                                          `"tr" ---------- -rw-r--r-- 5 2026-08-15T06:04:00`,
		"-rw-r--r-- 1 0 0 5 11月 21 06:04 ja":                                          `"ja" ---------- -rw-r--r-- 5 2026-11-21T06:04:00`,
		"-rw-r--r-- 1 0 0 5  2月 29日  2020年 ja":                                        `"ja" ---------- -rw-r--r-- 5 2020-02-29T00:00:00`,
		"11-21-26  06:04AM       <DIR>          iis":                                  `"iis" d--------- ? ? 2026-11-21T06:04:00`,
		"11-21-26  12:04AM       <DIR>           leading":                             `" leading" d--------- ? ? 2026-11-21T00:04:00`,
		"02-29-2020  12:04PM                  1234 noon":                              `"noon" ---------- ? 1234 2020-02-29T12:04:00`,
		"02-29-20  18:04             1,234,567 x  y ":                                 `"x  y " ---------- ? 1234567 2020-02-29T18:04:00`,
		"11/21/2026  06:04 PM    <DIR>          cmd":                                  `"cmd" d--------- ? ? 2026-11-21T18:04:00`,
		"21.11.2026  18:04    <DIR>          dotted":                                  `"dotted" d--------- ? ? 2026-11-21T18:04:00`,
		"11-21-26  06:04AM       <JUNCTION>     j [C:\\data]":                         `"j" -> C:\data L--------- ? 7 2026-11-21T06:04:00`,
		"11-21-26  06:04AM       <SYMLINKD>     s [..\\x]":                            `"s" -> ..\x L--------- ? 4 2026-11-21T06:04:00`,
		"11-21-26  06:04AM       <SYMLINK>      f":                                    `"f" L--------- ? ? 2026-11-21T06:04:00`,
		"+i8388621.29609,m1600000000,/,\tdir":                                         `"dir" d--------- ? ? 2020-09-13T12:26:40`,
		"+i8388621.44468,m1600000000,r,s10376,up644,\tRFCEPLF":                        `"RFCEPLF" ---------- -rw-r--r-- 10376 2020-09-13T12:26:40`,
		"+m1600000000,\tno type":                                                      `"no type" ? ? ? 2020-09-13T12:26:40`,
		"-rw-r--r-- 1 0 0 5 Nov 21 06:04 \xff\xfe\x1b[31m":                            `"\xff\xfe\x1b[31m" ---------- -rw-r--r-- 5 2026-11-21T06:04:00`,
		"-rw-r--r-- 1 0 0 5 Nov 21 06:04 " + strings.Repeat("x", backends.MaxElement): fmt.Sprintf("%q ---------- -rw-r--r-- 5 2026-11-21T06:04:00", strings.Repeat("x", backends.MaxElement)),
	} {
		if got := told(one(t, line, Lines, o)); got != want {
			t.Errorf("%q\ngot  %s\nwant %s", line, got, want)
		}
	}
}

func TestFactsInEveryForm(t *testing.T) {
	for line, want := range map[string]string{
		"Type=Dir;Modify=20261121060441; d":                  `"d" d--------- ? ? 2026-11-21T06:04:41`,
		"TYPE=FILE;SIZE=010;MODIFY=20261121060441.5; f":      `"f" ---------- ? 10 2026-11-21T06:04:41`,
		"type=OS.unix=slink:/etc/passwd;size=999; l":         `"l" -> /etc/passwd L--------- ? 11 ?`,
		"type=OS.Unix=SLink:A b;size=999; l":                 `"l" -> A b L--------- ? 3 ?`,
		"type=OS.unix=symlink;size=999; l":                   `"l" L--------- ? ? ?`,
		"type=OS.unix=chr-1/3;size=0; c":                     `"c" Dc--------- ? ? ?`,
		"type=OS.unix=pipe; p":                               `"p" p--------- ? ? ?`,
		"type=OS.other=thing;size=5; o":                      `"o" ? ? 5 ?`,
		"type=unknown;UNIX.mode=0644; u":                     `"u" ? -rw-r--r-- ? ?`,
		"size=5;;modify=20261121060441; no type":             `"no type" ? ? 5 2026-11-21T06:04:41`,
		"type=file;size=5 no semicolon":                      `"no semicolon" ---------- ? 5 ?`,
		"type=file;size=-1;modify=yesterday; bad":            `"bad" ---------- ? ? ?`,
		"type=file;size=0x1F;modify=20261321060441; bad":     `"bad" ---------- ? ? ?`,
		"type=file;size=99999999999999999999; bad":           `"bad" ---------- ? ? ?`,
		"type=file;modify=20200229110060; leap second":       `"leap second" ---------- ? ? 2020-02-29T11:00:59`,
		"type=file;UNIX.mode=0104755;size=1; mode":           `"mode" ---------- urwxr-xr-x 1 ?`,
		"type=dir;unix.mode=0o1755; python":                  `"python" d--------- trwxr-xr-x ? ?`,
		"type=file;UNIX.mode=9; mode":                        `"mode" ---------- ? ? ?`,
		"type=file;UNIX.groupname=domain users;size=1; x; y": `"x; y" ---------- ? 1 ?`,
		" no facts":                  `"no facts" ? ? ? ?`,
		" type=file;size=3; set off": `"set off" ---------- ? 3 ?`,
		"type=file;  leading":        `" leading" ---------- ? ? ?`,
		"type=dir;sizd=4096; s":      `"s" d--------- ? 4096 ?`,
		"type=dir;type=file; twice":  `"twice" ---------- ? ? ?`,
	} {
		if got := told(one(t, line, Facts, Options{})); got != want {
			t.Errorf("%q\ngot  %s\nwant %s", line, got, want)
		}
	}
	e := one(t, "type=file;perm=aDFrw;create=20200229110000;UNIX.ownername=joe;UNIX.owner=7;UNIX.group=8;UNIX.groupname=crew;unique=U1; x", Facts, Options{})
	if e.Rights != "adfrw" || !e.HasRights || e.Created.Year() != 2020 || e.Owner != "joe" || e.Group != "crew" || e.UID != 7 || e.GID != 8 || e.ID != "U1" ||
		!e.Known.Has(backends.HasOwner|backends.HasID) {
		t.Errorf("got %+v", e)
	}
	if e := one(t, "type=file;UNIX.uid=7; x", Facts, Options{}); e.Known.Has(backends.HasOwner) {
		t.Error("an owner is known without a group")
	}
}

func TestOwners(t *testing.T) {
	for line, want := range map[string]struct {
		nlink        uint32
		owner, group string
		known        backends.Fields
	}{
		"-rw-r--r-- 3 joe crew 5 Nov 21 06:04 x":         {3, "joe", "crew", backends.HasNlink},
		"-rw-r--r-- 3 10 20 5 Nov 21 06:04 x":            {3, "10", "20", backends.HasNlink | backends.HasOwner},
		"-rw-r--r-- 3 joe 5 Nov 21 06:04 x":              {3, "joe", "", backends.HasNlink},
		"-rw-r--r-- joe crew 5 Nov 21 06:04 x":           {0, "joe", "crew", 0},
		"-rw-r--r-- 3 joe domain users 5 Nov 21 06:04 x": {3, "joe", "domain users", backends.HasNlink},
		"-rw-r--r-- 3 10 99999999999 5 Nov 21 06:04 x":   {3, "10", "99999999999", backends.HasNlink},
		"-rw-r--r-- 5 Nov 21 06:04 x":                    {0, "", "", 0},
	} {
		e := one(t, line, Lines, Options{Now: fixtureTime})
		if e.Nlink != want.nlink || e.Owner != want.owner || e.Group != want.group || e.Known&(backends.HasNlink|backends.HasOwner) != want.known {
			t.Errorf("%q: %d links, owner %q, group %q, known %b", line, e.Nlink, e.Owner, e.Group, e.Known)
		}
		if want.known.Has(backends.HasOwner) && (e.UID != 10 || e.GID != 20) {
			t.Errorf("%q belongs to %d:%d", line, e.UID, e.GID)
		}
	}
}

// TestWhatCannotBeReadIsCounted: no line is dropped in silence, and the first ones are told of, quoted and cut.
func TestWhatCannotBeReadIsCounted(t *testing.T) {
	for f, lines := range map[Format][]string{
		Lines: {
			"ls: cannot access 'x': No such file or directory", "total 3x", "-rw-r--r-- 1 0 0 -1 Nov 21 06:04 negative",
			"-rw-r--r-- 1 0 0 9223372036854775808 Nov 21 06:04 overflow", "-rw-r--r-- 1 0 0 0x1F Nov 21 06:04 hex", "-rw-r--r-- 1 0 0 1K Nov 21 06:04 human",
			"-rw-r--r-- 1 0 0 5 Nov 31 06:04 no such day", "-rw-r--r-- 1 0 0 5 Feb 30  2020 no such day", "-rw-r--r-- 1 0 0 5 Foo 11 06:04 no such month",
			"-rw-r--r-- 1 0 0 5 Nov 21 24:04 no such time", "-rw-r--r-- 1 0 0 5 Nov 21", "-rw-r--r--", "-", "-rw-r--r--x 1 0 0 5 Nov 21 06:04 x", "?rw-r--r-- 1 0 0 5 Nov 21 06:04 x",
			"-rw-r--rw- -> 1 0 0", "11-21-26  06:04AM", "11-21-26  13:04PM  <DIR>  x", "13-21-26  01:04PM  <DIR>  x", "11-21-26  01:04PM  12,34 x", "+no tab", "+sx,\tx", "+m-1,\tx",
			"./sub:", "\x00\x01\x02", "[", "- [", "- []",
		},
		Facts: {"no-facts", "type=file;size=3", "type=file;size=3;", "=x; y", "type; x", "ty pe=file; x", "-rw-r--r-- 1 0 0 5 Nov 21 06:04 x"},
	} {
		for _, line := range lines {
			var quoted []string
			l := Read(strings.NewReader(line+"\r\n"), f, Options{Now: fixtureTime, Unreadable: func(s string) { quoted = append(quoted, s) }})
			for e, err := range l.Entries() {
				t.Errorf("%q is %s, %v", line, told(e), err)
			}
			if l.Counts().Unreadable != 1 || len(quoted) != 1 || quoted[0] != fmt.Sprintf("%q", line) {
				t.Errorf("%q: counts %+v, told %q", line, l.Counts(), quoted)
			}
		}
	}
	told := 0
	l := Read(strings.NewReader(strings.Repeat(strings.Repeat("x", 5000)+"\n", 100)), Lines, Options{Unreadable: func(s string) {
		if told++; len(s) > 4*shownBytes+2 {
			t.Errorf("a line of %d bytes is shown", len(s))
		}
	}})
	for range l.Entries() {
	}
	if l.Counts().Unreadable != 100 || told != shown {
		t.Errorf("%d of %d lines were told", told, l.Counts().Unreadable)
	}
}

// TestNamesThatMayNotCross: what could lead out of the directory, or what FTP could never ask for again, is hidden and counted.
func TestNamesThatMayNotCross(t *testing.T) {
	for _, name := range []string{"", "../../evil", "/etc/passwd", "a/b", "a\x00b", "a\rb", "b\r", strings.Repeat("x", 256)} {
		for f, form := range map[Format]string{Lines: "-rw-r--r-- 1 0 0 5 Nov 21 06:04 %s", Facts: "type=file;size=5; %s"} {
			l := Read(strings.NewReader(fmt.Sprintf(form, name)+"\r\n"), f, Options{Now: fixtureTime})
			if got := collect(t, l); len(got) != 0 || l.Counts().Hidden != 1 {
				t.Errorf("%q: got %q, counts %+v", name, got, l.Counts())
			}
		}
	}
	for _, line := range []string{"type=file;size=5; ..", "type=file;size=5; ."} {
		l := Read(strings.NewReader(line+"\n"), Facts, Options{})
		if got := collect(t, l); len(got) != 0 || l.Counts().Hidden != 1 {
			t.Errorf("%q: got %q, counts %+v", line, got, l.Counts())
		}
	}
	l := Status([]string{"Status", "-rw-r--r-- 1 0 0 5 Nov 21 06:04 /etc/passwd", "-rw-r--r-- 1 0 0 5 Nov 21 06:04 x", "End"}, Options{Now: fixtureTime})
	if got := collect(t, l); len(got) != 1 || l.Counts().Hidden != 1 {
		t.Errorf("got %q, counts %+v", got, l.Counts())
	}
	if e, ok := l.Self(); ok {
		t.Errorf("one path among others passes for what was asked: %s", told(e))
	}
}

// TestFirstOfTwoEqualNamesWins: a name with a line feed can list an entry of its own choosing, but never in place of one that stood before.
func TestFirstOfTwoEqualNamesWins(t *testing.T) {
	l := Read(strings.NewReader("type=file;size=1; x\r\ntype=file;size=2; evil\ntype=dir;size=777; x\r\n"), Facts, Options{})
	same(t, collect(t, l), []string{`"evil" ---------- ? 2 ?`, `"x" ---------- ? 1 ?`})
	if l.Counts().Doubles != 1 {
		t.Errorf("counts are %+v", l.Counts())
	}
}

// TestLineEndsInNames: where lines end in CR LF alone, a name that holds one of both is whole, and one with both is what ends there.
func TestLineEndsInNames(t *testing.T) {
	line := "-rw-r--r-- 1 0 0 5 Nov 21 06:04 "
	content := line + "a\nb\r\n" + line + "c\rd\r\n" + line + "\n" + line + "forged\n\r\n" + line + "end\r\r\n" + line + "both\r\nhere\r\n"
	for strict, want := range map[bool]string{
		true:  `["\n` + line + `forged\n" "a\nb" "both" "c\rd"] {Entries:4 Unreadable:1 Hidden:1}`,
		false: `["a" "both" "forged"] {Entries:3 Unreadable:2 Hidden:3}`,
	} {
		l := Read(iotest.OneByteReader(strings.NewReader(content)), Lines, Options{Now: fixtureTime, CRLF: strict})
		var names []string
		for e, err := range l.Entries() {
			if err != nil {
				t.Fatal(err)
			}
			names = append(names, e.Name)
		}
		slices.Sort(names)
		c := l.Counts()
		if got := fmt.Sprintf("%q {Entries:%d Unreadable:%d Hidden:%d}", names, c.Entries, c.Unreadable, c.Hidden); got != want {
			t.Errorf("CRLF %v: got %s, want %s", strict, got, want)
		}
	}
	for name, content := range map[string]string{
		"a bare LF at the end": line + "a\n", "cut behind one": line + "a\nb", "no end at all": strings.Repeat("x\n", MaxLine),
	} {
		failed := false
		for _, err := range Read(strings.NewReader(content), Lines, Options{Now: fixtureTime, CRLF: true}).Entries() {
			failed = err != nil
		}
		if !failed {
			t.Errorf("%s: taken for whole", name)
		}
	}
}

func TestCutListingsAreErrors(t *testing.T) {
	broken := errors.New("broken")
	whole := "-rw-r--r-- 1 0 0 5 Nov 21 06:04 whole\r\n"
	for name, test := range map[string]struct {
		r    io.Reader
		want error
	}{
		"in a name":         {strings.NewReader(whole + "-rw-r--r-- 1 0 0 5 Nov 21 06:04 cu"), syscall.EIO},
		"before its end":    {strings.NewReader(whole + "-rw-r--r-- 1 0 0 5 Nov 21 06:04 cut\r"), syscall.EIO},
		"by the connection": {io.MultiReader(strings.NewReader(whole), iotest.ErrReader(broken)), broken},
		"without an end":    {io.MultiReader(strings.NewReader(whole), strings.NewReader(strings.Repeat("x", 1<<20))), syscall.EOVERFLOW},
	} {
		var names []string
		var failed error
		for e, err := range Read(iotest.OneByteReader(test.r), Lines, Options{Now: fixtureTime}).Entries() {
			if failed != nil {
				t.Errorf("%s: something comes after the error", name)
			}
			if failed = err; err == nil {
				names = append(names, e.Name)
			}
		}
		if len(names) != 1 || names[0] != "whole" || !errors.Is(failed, test.want) {
			t.Errorf("%s: got %q and %v, want %v", name, names, failed, test.want)
		}
	}
}

// endless repeats a line for ever, with a number in it.
type endless struct {
	form string
	n    int
	rest string
}

func (e *endless) Read(p []byte) (int, error) {
	if e.rest == "" {
		e.n++
		e.rest = fmt.Sprintf(e.form, e.n)
	}
	n := copy(p, e.rest)
	e.rest = e.rest[n:]
	return n, nil
}

func TestListingsWithoutEndAreErrors(t *testing.T) {
	for name, form := range map[string]string{
		"entries": "type=file; %d\r\n", "junk": "%d\r\n", "empty names": "type=file; \n%.0d", "doubles": "type=file; x%.0d\n", "long lines": strings.Repeat("x", 60_000) + "%d\n",
	} {
		var failed error
		for _, err := range Read(&endless{form: form}, Facts, Options{}).Entries() {
			failed = err
		}
		if !errors.Is(failed, syscall.EOVERFLOW) {
			t.Errorf("%s: got %v", name, failed)
		}
	}
}

func TestLeavingEarly(t *testing.T) {
	seen := 0
	for range Read(&endless{form: "type=file; %d\r\n"}, Facts, Options{}).Entries() {
		if seen++; seen == 3 {
			break
		}
	}
	if seen != 3 {
		t.Errorf("saw %d entries", seen)
	}
}

func TestYearOfADateThatHasNone(t *testing.T) {
	istanbul := Calibrate(Sample{Listed: time.Date(2026, 1, 1, 3, 0, 0, 0, time.UTC), Unit: time.Minute, Modified: time.Date(2026, 1, 1, 0, 0, 30, 0, time.UTC)})
	at := func(s string) time.Time {
		t.Helper()
		moment, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		return moment
	}
	for _, test := range []struct {
		now, date string
		zone      Zone
		want      string
	}{
		{"2026-12-31T23:50:00Z", "Jan  1 02:45", istanbul, "2026-12-31T23:45:00Z"}, // the server has New Year already
		{"2026-12-31T23:50:00Z", "Jan  1 02:45", Zone{}, "2027-01-01T02:45:00Z"},   // nobody knows its zone, but that the year is the same
		{"2027-01-01T00:10:00Z", "Dec 31 23:55", Zone{}, "2026-12-31T23:55:00Z"},
		{"2027-01-01T00:10:00Z", "Dec 31 23:55", istanbul, "2026-12-31T20:55:00Z"},
		{"2028-02-28T12:00:00Z", "Feb 29 11:00", Zone{}, "2028-02-29T11:00:00Z"},
		{"2028-02-28T10:00:00Z", "Feb 29 11:00", Zone{}, "2024-02-29T11:00:00Z"},
		{"2104-02-01T10:00:00Z", "Feb 29 11:00", Zone{}, "2096-02-29T11:00:00Z"}, // 2100 has no leap day
		{"2026-11-21T07:00:00Z", "Jun  1 08:00", Zone{}, "2026-06-01T08:00:00Z"},
	} {
		e := one(t, "-rw-r--r-- 1 0 0 5 "+test.date+" x", Lines, Options{Now: at(test.now), Zone: test.zone})
		if !e.ModTime.Equal(at(test.want)) || e.TimeUnit != time.Minute {
			t.Errorf("%s, seen at %s, is %v to the %v, want %s", test.date, test.now, e.ModTime, e.TimeUnit, test.want)
		}
	}
}

func TestZoneIsLearned(t *testing.T) {
	moment := func(month, hour, minute, second int) time.Time {
		return time.Date(2026, time.Month(month), 15, hour, minute, second, 0, time.UTC)
	}
	sample := func(offset time.Duration, utc time.Time) Sample {
		return Sample{Listed: utc.Add(offset).Truncate(time.Minute), Unit: time.Minute, Modified: utc}
	}
	for offset := -12 * time.Hour; offset <= 14*time.Hour; offset += 15 * time.Minute {
		z := Calibrate(sample(offset, moment(7, 12, 34, 56)))
		if !z.Known() || z.Offset(moment(1, 0, 0, 0)) != offset {
			t.Errorf("%v: learned %v, known %v", offset, z.Offset(moment(1, 0, 0, 0)), z.Known())
		}
	}
	both := Calibrate(sample(2*time.Hour, moment(7, 12, 0, 0)), sample(time.Hour, moment(1, 12, 0, 0)))
	for month, want := range map[int]time.Duration{6: 2 * time.Hour, 8: 2 * time.Hour, 12: time.Hour, 2: time.Hour} {
		if got := both.Offset(moment(month, 0, 0, 0)); got != want {
			t.Errorf("month %d: the offset is %v, want %v", month, got, want)
		}
	}
	for why, s := range map[string]Sample{
		"changed meanwhile": sample(7*time.Minute, moment(7, 12, 0, 0)),
		"another year":      sample(365*24*time.Hour, moment(7, 12, 0, 0)),
		"a day only":        {Listed: moment(7, 0, 0, 0), Unit: 24 * time.Hour, Modified: moment(7, 0, 0, 0)},
		"no time":           {Modified: moment(7, 0, 0, 0)},
	} {
		if z := Calibrate(s); z.Known() || z.Offset(moment(7, 0, 0, 0)) != 0 {
			t.Errorf("%s: a zone was learned, %v", why, z.Offset(moment(7, 0, 0, 0)))
		}
	}
	e := one(t, "07-15-26  05:34PM       <DIR>          x", Lines, Options{Zone: both})
	if !e.ModTime.Equal(moment(7, 15, 34, 0)) {
		t.Errorf("the time is %v", e.ModTime)
	}
}

func TestParseTime(t *testing.T) {
	for s, want := range map[string]string{
		"20261121060441":    "2026-11-21T06:04:41Z",
		"20261121060441.25": "2026-11-21T06:04:41.25Z",
		"00010101000000":    "0001-01-01T00:00:00Z",
		"20261231235960":    "2026-12-31T23:59:59Z",
		"2026112106044":     "",
		"191001121060441":   "", // the year 2000 of a server that counts from 1900
		"20261121060441.":   "",
		"20261121060441.x":  "",
		"2026112106044-":    "",
		"+0261121060441":    "",
		"00000101000000":    "",
		"20260229000000":    "",
		"20261121240000":    "",
		"20261121006000":    "",
		"20261121000061":    "",
		"":                  "",
		"20261121060441.123456789012345678901234567890": "2026-11-21T06:04:41.123456789Z",
	} {
		got, ok := ParseTime(s)
		if ok != (want != "") || ok && got.Format(time.RFC3339Nano) != want {
			t.Errorf("ParseTime(%q) = %v, %v, want %s", s, got, ok, want)
		}
	}
}

func TestNothingIsYieldedOfAnEmptyListing(t *testing.T) {
	for _, s := range []string{"", "\r\n", "total 0\r\n", "insgesamt 12\n"} {
		l := Read(strings.NewReader(s), Lines, Options{})
		if got := collect(t, l); len(got) != 0 || l.Counts().Unreadable != 0 {
			t.Errorf("%q: got %q, counts %+v", s, got, l.Counts())
		}
	}
	if got := collect(t, Status(nil, Options{})); len(got) != 0 {
		t.Errorf("a reply without lines gives %q", got)
	}
}

var fuzzModes = os.ModeType | os.ModePerm | setBits

// sound fails the test if an entry is one that no listing may yield.
func sound(t *testing.T, e Entry) {
	t.Helper()
	switch {
	case backends.CheckElement(e.Name) != 0 || strings.Contains(e.Name, "\r"):
		t.Errorf("the name %q is passed on", e.Name)
	case e.Size < 0:
		t.Errorf("%q has %d bytes", e.Name, e.Size)
	case e.Mode&^fuzzModes != 0:
		t.Errorf("%q has the mode %v", e.Name, e.Mode)
	case !e.Known.Has(backends.HasSize) && e.Size != 0, !e.Known.Has(backends.HasType) && e.Mode.Type() != 0, !e.Known.Has(backends.HasModTime) != (e.TimeUnit == 0):
		t.Errorf("something is told that is not known: %+v", e)
	case e.Mode&os.ModeSymlink == 0 && e.Target != "":
		t.Errorf("%q is %v and leads to %q", e.Name, e.Mode, e.Target)
	}
}

func fuzz(f *testing.F, format Format, o Options) {
	for _, server := range []string{"vsftpd", "pure-ftpd", "proftpd", "pyftpdlib"} {
		for _, file := range []string{"list", "mlsd"} {
			if content, err := os.ReadFile("testdata/" + server + "/" + file + ".txt"); err == nil {
				f.Add(content)
			}
		}
	}
	f.Add([]byte("11-21-26  06:04AM       <JUNCTION>     j [C:\\data]\r\n+i8388621.44468,m1600000000,r,s10376,up644,\tx\r\n"))
	f.Add([]byte("type=OS.unix=slink:a b;UNIX.mode=0777; l\r\n- [R----F--] supervisor            214 Jan 14 14:50 novell\r\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		l := Read(strings.NewReader(string(content)), format, o)
		names := make(map[string]bool)
		for e, err := range l.Entries() {
			if err != nil {
				continue
			}
			sound(t, e)
			if names[e.Name] {
				t.Errorf("%q comes twice", e.Name)
			}
			names[e.Name] = true
		}
		c := l.Counts()
		if lines := strings.Count(string(content), "\n"); c.Entries != len(names) || c.Entries+c.Unreadable+c.Hidden+c.Doubles > lines {
			t.Errorf("of %d lines: %+v", lines, c)
		}
	})
}

func FuzzFacts(f *testing.F) { fuzz(f, Facts, Options{}) }

func FuzzLines(f *testing.F) {
	zone := Calibrate(Sample{Listed: fixtureTime.Add(3 * time.Hour), Unit: time.Minute, Modified: fixtureTime})
	fuzz(f, Lines, Options{Now: fixtureTime, Zone: zone})
}

func FuzzReplies(f *testing.F) {
	f.Add("Status of /:\n -rw-r--r--   1 u        0               3 Nov 21 06:04 /a\nEnd")
	f.Add("Begin\n type=file;size=3; /a\nEnd")
	f.Add("Begin\n type=OS.unix=slink:x; /\nEnd")
	f.Fuzz(func(t *testing.T, reply string) {
		lines := strings.Split(reply, "\n")
		l := Status(lines, Options{Now: fixtureTime})
		for e, err := range l.Entries() {
			if err != nil {
				t.Fatal(err)
			}
			sound(t, e)
		}
		if e, ok := l.Self(); ok && e.Size < 0 {
			t.Errorf("Self is %+v", e)
		}
		if e, err := One(lines); err == nil && strings.Contains(e.Name, "/") {
			t.Errorf("the name is %q", e.Name)
		}
	})
}
