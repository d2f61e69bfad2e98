package hostile

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"pierfs/backends"
)

// A listing as MLSD and as LIST has it, of the names given.
var listings = map[string]struct {
	m    FTPManner
	verb string
	line func(name string) string
}{
	"MLSD": {FTPManner{}, "MLSD", func(name string) string { return "type=file;size=3;modify=20260101000000; " + name + "\r\n" }},
	"LIST": {FTPManner{Greeting: ListGreeting, Features: ListFeatures()}, "LIST", func(name string) string {
		return "-rw-r--r--    1 0        0               3 Jan 01  2026 " + name + "\r\n"
	}},
}

// lists returns what the Backend lists of dir.
func (c *connection) lists(dir string) (infos []backends.Info, err error) {
	c.t.Helper()
	err = c.within(2*c.limit+slack, "list "+dir, func(ctx context.Context) error {
		for info, err := range c.List(ctx, dir) {
			if err != nil {
				return err
			}
			infos = append(infos, info)
		}
		return nil
	})
	return infos, err
}

// listsShortly returns what the Backend lists of dirs, all at the same time and each wanted whole.
func (c *connection) listsShortly(dirs ...string) (names [][]string, err error) {
	c.t.Helper()
	names = make([][]string, len(dirs))
	err = c.within(4*c.limit+slack, "short listings", func(ctx context.Context) error {
		failed := make(chan error, len(dirs))
		for i, dir := range dirs {
			go func() { // ends with the listing, which within waits for
				for info, err := range c.List(backends.WithWhole(ctx), dir) {
					if err != nil {
						failed <- err
						return
					}
					names[i] = append(names[i], info.Name)
				}
				failed <- nil
			}()
		}
		var all error
		for range dirs {
			all = errors.Join(all, <-failed)
		}
		return all
	})
	return names, err
}

func namesOf(infos []backends.Info) (names []string) {
	for _, info := range infos {
		names = append(names, info.Name)
	}
	return names
}

// TestFTPNames is the first row of the threat table: names that no directory can hold are left out of a listing and counted;
// odd ones are there byte for byte; of two equal ones the first wins; and the listing as a whole goes on.
func TestFTPNames(t *testing.T) {
	t.Parallel()
	odd := []string{"esc\x1b[2Jape", "bell\a", "-rf", "latin1-\xe4", "back\\slash", "del\x7f", "c1-\u009b31m", "...", strings.Repeat("y", 255), "-> not a link", "semi;colon", "a  b"}
	bad := []string{"../escape", "../../etc/passwd", "/etc/passwd", "..", ".", "a/b", "nul\x00byte", strings.Repeat("x", 300), "/", "dir/", "./dot", "cr at the end\r"}
	for how, listing := range listings {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			odd, bad := slices.Clone(odd), slices.Clone(bad)
			never := []string{"../escape", "/etc/passwd", "a/../../b", ".", "..", "nul\x00byte", strings.Repeat("x", 300), "a//b", "cr\r\nlf"}
			if how == "LIST" { // it says that it is vsftpd, and shows that it bears line ends in names
				odd = append(odd, "cr\rhere", "lf\nhere", "\n")
			} else {
				bad = append(bad, "cr\rhere")
				never = append(never, "cr\rhere", "lf\nhere")
			}
			var b strings.Builder
			b.WriteString(listing.line("honest-1") + listing.line("twice"))
			for _, name := range slices.Concat(bad, odd) {
				b.WriteString(listing.line(name))
			}
			b.WriteString(strings.Replace(listing.line("twice"), "3", "4", 1) + listing.line("honest-2"))
			s := NewFTP(t, listing.m)
			furnishFTP(s)
			patientFTP(t, s, func(c *connection) {
				c.warm()
				m := listing.m
				m.Rules = []FTPRule{FTPSends(b.String(), "226 done", listing.verb)}
				s.Behave(m)
				infos, err := c.lists("dir")
				if err != nil {
					t.Errorf("list: %v", err)
				}
				got := namesOf(infos)
				want := slices.Concat([]string{"honest-1", "twice", "honest-2"}, odd)
				slices.Sort(got)
				slices.Sort(want)
				if !slices.Equal(got, want) {
					t.Errorf("the listing has\n%q, want\n%q", got, want)
				}
				for _, info := range infos {
					if info.Size != 3 {
						t.Errorf("%q has size %d: the second of two equal names has won", info.Name, info.Size)
					}
				}
				if hidden := c.Caps().Hidden; hidden == 0 {
					t.Error("names were left out and none is counted")
				}
				for _, name := range never {
					if _, err := c.Stat(t.Context(), name); backends.Errno(err) != syscall.EINVAL && backends.Errno(err) != syscall.ENAMETOOLONG {
						t.Errorf("stat of %q is answered %v, want EINVAL or ENAMETOOLONG", name, err)
					}
				}
			})
			if strays := s.strays(); len(strays) > 0 {
				t.Errorf("the server was asked for what lies outside: %q", strays)
			}
		})
	}
}

// TestFTPListingIsWhole: a listing that was cut, in a line or between two, that the server calls truncated, or that ends
// without a word, is never taken for the directory.
func TestFTPListingIsWhole(t *testing.T) {
	t.Parallel()
	for how, listing := range listings {
		var b strings.Builder
		for n := range 20 {
			b.WriteString(listing.line(fmt.Sprintf("name-%d", n)))
		}
		whole := b.String()
		for name, rule := range map[string]FTPRule{
			"cut in a name, 226":        FTPSends(whole[:len(whole)-5], "226 done", listing.verb),
			"cut in facts, 226":         FTPSends(whole[:len(whole)-len(listing.line("name-19"))+10], "226 done", listing.verb),
			"cut before the line end":   FTPSends(whole[:len(whole)-2], "226 done", listing.verb),
			"426":                       FTPSends(whole, "426 broken", listing.verb),
			"451":                       FTPSends(whole, "451 disk", listing.verb),
			"550":                       FTPSends(whole, "550 no", listing.verb),
			"no word":                   FTPSends(whole, "", listing.verb),
			"hangs up":                  FTPOn(func(x *FTPExchange) { FTPSends(whole[:100], "", listing.verb)(x); x.Cut() }, listing.verb),
			"550 in place of a listing": FTPReplies("550 no", listing.verb),
			"425":                       FTPReplies("425 no", listing.verb),
		} {
			t.Run(how+"/"+name, func(t *testing.T) {
				t.Parallel()
				s := NewFTP(t, listing.m)
				furnishFTP(s)
				connectFTP(t, s, func(c *connection) {
					c.warm()
					m := listing.m
					m.Rules = []FTPRule{rule}
					s.Behave(m)
					infos, err := c.lists("dir")
					if err == nil {
						t.Errorf("%d names, and no error", len(infos))
					}
					s.Behave(listing.m)
					c.recovers()
					c.settles("list", func(ctx context.Context) error {
						names, err := list(ctx, c, "dir")
						if err == nil && len(names) != 2 {
							err = untrue("names %q", names)
						}
						return err
					})
				})
			})
		}
	}
}

// TestTruncatedFTPListing: what a server calls truncated, or cuts at its round number, is known to be a part only.
func TestTruncatedFTPListing(t *testing.T) {
	t.Parallel()
	line := listings["MLSD"].line
	many := func(n int) string {
		var b strings.Builder
		for n := range n {
			b.WriteString(line(fmt.Sprintf("name-%d", n)))
		}
		return b.String()
	}
	for name, test := range map[string]struct {
		greeting, final string
		n               int
	}{
		"said":   {"", "226 Output truncated to 500 matches", 500},
		"unsaid": {"220---------- Welcome to Pure-FTPd ----------\r\n220 ready", "226 10000 matches total", 9_998},
		"both":   {"220---------- Welcome to Pure-FTPd ----------\r\n220 ready", "226 Output truncated to 10000 matches", 9_998},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := FTPManner{Greeting: test.greeting}
			if test.greeting != "" {
				m.Features = append(MLSTFeatures(), "ESTP", "SPSV")
			}
			s := NewFTP(t, m)
			furnishFTP(s)
			patientFTP(t, s, func(c *connection) {
				c.warm()
				m.Rules = []FTPRule{FTPSends(many(test.n), test.final, "MLSD")}
				s.Behave(m)
				infos, err := c.lists("dir")
				if err == nil && len(infos) == test.n && c.Caps().ListLimit != test.n {
					t.Errorf("%d names, no error, and a ListLimit of %d", len(infos), c.Caps().ListLimit)
				}
			})
		})
	}
}

// TestFTPFacts: MLSD in all its dialects says what is so, or that it is not known.
func TestFTPFacts(t *testing.T) {
	t.Parallel()
	file, dir, link := os.FileMode(0), os.ModeDir, os.ModeSymlink
	for line, want := range map[string]struct {
		mode os.FileMode
		size int64 // -1 where it must not be believed
	}{
		"type=file;size=3; x":                       {file, 3},
		"Type=File;Size=3; x":                       {file, 3},
		"TYPE=DIR; x":                               {dir, -1},
		"Type=Dir;Size=4096; x":                     {dir, -1},
		"type=OS.unix=slink:target;size=6; x":       {link, -1},
		"type=OS.unix=symlink;size=1000; x":         {link, -1},
		"type=OS.UNIX=slink:/etc/passwd;size=11; x": {link, -1},
		";;type=file;;size=3;; x":                   {file, 3},
		"size=3;type=file;perm=adfrw;unknown=1; x":  {file, 3},
	} {
		t.Run(line, func(t *testing.T) {
			t.Parallel()
			s := NewFTP(t, FTPManner{Rules: []FTPRule{FTPSends(line+"\r\n", "226 done", "MLSD")}})
			furnishFTP(s)
			kind := map[os.FileMode]uint32{file: TypeRegular | 0o644, dir: TypeDir | 0o755, link: TypeLink | 0o777}[want.mode]
			s.Put("dir/x", File{Mode: kind, Data: "abc", Target: "target"})
			if want.mode != file {
				s.Put("dir/x", File{Mode: kind, Target: "target"})
			}
			patientFTP(t, s, func(c *connection) {
				infos, err := c.lists("dir")
				if err != nil || len(infos) != 1 || infos[0].Name != "x" {
					t.Fatalf("listed %+v, %v", infos, err)
				}
				info := infos[0]
				if !info.Known.Has(backends.HasType) || info.Mode.Type() != want.mode {
					t.Errorf("mode %v (known %b), want %v", info.Mode, info.Known, want.mode)
				}
				if want.size >= 0 && (info.Size != want.size || !info.Known.Has(backends.HasSize)) {
					t.Errorf("size %d (known %b), want %d", info.Size, info.Known, want.size)
				}
				if want.mode == link && info.Known.Has(backends.HasSize) && info.Size > 11 {
					t.Errorf("a link of size %d", info.Size)
				}
			})
		})
	}
}

// TestFTPSizesThatAreNone: sizes that no file can have are not believed, and never end up as the length of a file.
func TestFTPSizesThatAreNone(t *testing.T) {
	t.Parallel()
	for _, size := range []string{"-1", "18446744073709551615", "9223372036854775808", "999999999999999999999999", "0x1F", "1e3", "", " 3", "three"} {
		t.Run(size, func(t *testing.T) {
			t.Parallel()
			s := NewFTP(t, FTPManner{Rules: []FTPRule{
				FTPSends("type=file;size="+size+";modify=20260101000000; x\r\n", "226 done", "MLSD"),
				FTPReplies("213 "+size, "SIZE"),
				FTPReplies("250-\r\n type=file;size="+size+"; /home/pier/file\r\n250 End", "MLST"),
			}})
			furnishFTP(s)
			patientFTP(t, s, func(c *connection) {
				infos, err := c.lists("dir")
				for _, info := range infos {
					if info.Known.Has(backends.HasSize) && info.Size != 3 {
						t.Errorf("listed with size %d, %v", info.Size, err)
					}
				}
				info, err := c.Stat(t.Context(), "file")
				if err == nil && info.Known.Has(backends.HasSize) && info.Size != 3 {
					t.Errorf("size %d", info.Size)
				}
			})
		})
	}
}

// TestFTPDatesOfLISTAreReadByTheCalendar: the year that LIST leaves out is told from the server's clock, also over New Year
// and on the 29th of February, and a line with a date that is none is not dropped in silence.
func TestFTPLISTDates(t *testing.T) {
	t.Parallel()
	now := time.Now().UTC()
	recent := now.Add(-30 * 24 * time.Hour).Truncate(time.Minute)
	for line, want := range map[string]time.Time{
		"-rw-r--r-- 1 0 0 3 " + recent.Format("Jan _2 15:04") + " x":  recent,
		"-rw-r--r--. 1 0 0 3 " + recent.Format("Jan _2 15:04") + " x": recent, // SELinux
		"-rw-r--r--+ 1 0 0 3 Feb 29  2024 x":                          time.Date(2024, 2, 29, 0, 0, 0, 0, time.UTC),
		"-rw-r--r-- 1 0 0 3 2024-02-29 12:34 x":                       time.Date(2024, 2, 29, 12, 34, 0, 0, time.UTC),
		"-rw-r--r-- 1 user group name 3 Dec 31  2023 x":               time.Date(2023, 12, 31, 0, 0, 0, 0, time.UTC),
		"02-29-24  12:34PM                    3 x":                    time.Date(2024, 2, 29, 12, 34, 0, 0, time.UTC),
	} {
		t.Run(line, func(t *testing.T) {
			t.Parallel()
			m := listings["LIST"].m
			m.Rules = []FTPRule{FTPSends(line+"\r\n", "226 done", "LIST"), FTPReplies("213 "+want.Format("20060102150405"), "MDTM")}
			s := NewFTP(t, m)
			furnishFTP(s)
			patientFTP(t, s, func(c *connection) {
				infos, err := c.lists("dir")
				if err != nil || len(infos) != 1 || infos[0].Name != "x" || infos[0].Size != 3 {
					t.Fatalf("listed %+v, %v (hidden %d)", infos, err, c.Caps().Hidden)
				}
				if info := infos[0]; info.Known.Has(backends.HasModTime) && !info.ModTime.Equal(want) {
					t.Errorf("time %v, want %v", info.ModTime, want)
				}
			})
		})
	}
}

// TestFTPUnreadableLines: lines that nobody can read are counted, and the rest of the listing is there.
func TestFTPUnreadableLines(t *testing.T) {
	t.Parallel()
	for how, listing := range listings {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			rubbish := "what is this\r\n\x1b[2J\r\ntype=file\r\n"
			m := listing.m
			m.Rules = []FTPRule{FTPSends(listing.line("a")+rubbish+listing.line("b"), "226 done", listing.verb)}
			s := NewFTP(t, m)
			furnishFTP(s)
			patientFTP(t, s, func(c *connection) {
				infos, err := c.lists("dir")
				if err == nil && !slices.Equal(namesOf(infos), []string{"a", "b"}) {
					t.Errorf("listed %q", namesOf(infos))
				}
				if err == nil && c.Caps().Hidden < 2 {
					t.Errorf("lines were left out, and %d are counted", c.Caps().Hidden)
				}
				if c.log.has("\x1b") {
					t.Error("the log has an escape in it")
				}
			})
		})
	}
}

// TestFTPInjectedEntry: a name with a line end in it becomes two entries, and nobody can tell; but the made-up one leads
// nowhere outside and takes no other's place. A line feed is one, but where the server is known to end lines in CR LF.
func TestFTPInjectedEntry(t *testing.T) {
	t.Parallel()
	for how, listing := range listings {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			m := listing.m
			end := "\n"
			if how == "LIST" {
				end = "\r\n"
			}
			evil := strings.TrimSuffix(listing.line("x"), "\r\n") + end + listing.line("/etc/passwd") + listing.line("../y") +
				strings.Replace(listing.line("a"), "3", "777", 1)
			m.Rules = []FTPRule{FTPSends(listing.line("a")+listing.line("b")+evil, "226 done", listing.verb)}
			s := NewFTP(t, m)
			furnishFTP(s)
			patientFTP(t, s, func(c *connection) {
				infos, err := c.lists("dir")
				if err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(namesOf(infos), []string{"a", "b", "x"}) || infos[0].Size != 3 {
					t.Errorf("listed %+v", infos)
				}
			})
		})
	}
}

// TestLineFeedInjectsNothing: to vsftpd a name with a line feed in it is one name, whatever it looks like.
func TestLineFeedInjectsNothing(t *testing.T) {
	t.Parallel()
	listing := listings["LIST"]
	one := strings.TrimSuffix(strings.Replace(listing.line("made up"), "3", "777", 1), "\r\n")
	names := []string{"a", "x\n" + one, "226 done\n226 done", "\n" + one + "\n", "b"}
	var b strings.Builder
	for _, name := range names {
		b.WriteString(listing.line(name))
	}
	for what, content := range map[string]string{"whole": b.String(), "cut": strings.TrimSuffix(b.String(), "\r\n") + "\n"} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			m := listing.m
			m.Rules = []FTPRule{FTPSends(content, "226 done", listing.verb)}
			s := NewFTP(t, m)
			furnishFTP(s)
			patientFTP(t, s, func(c *connection) {
				infos, err := c.lists("dir")
				if what == "cut" {
					if err == nil {
						t.Error("a listing whose last line has no CR was taken for whole")
					}
					return
				}
				got := namesOf(infos)
				slices.Sort(got)
				want := slices.Sorted(slices.Values(names))
				if err != nil || !slices.Equal(got, want) {
					t.Errorf("listed %q, %v; want %q", got, err, want)
				}
			})
		})
	}
}

// TestMissingFTPDirectory: a directory that is missing and one that is empty are told apart, though LIST answers both alike.
func TestMissingFTPDirectory(t *testing.T) {
	t.Parallel()
	for how, listing := range listings {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			s := NewFTP(t, listing.m)
			furnishFTP(s)
			patientFTP(t, s, func(c *connection) {
				if infos, err := c.lists("empty"); err != nil || len(infos) > 0 {
					t.Errorf("an empty directory: %q, %v", namesOf(infos), err)
				}
				if infos, err := c.lists("missing"); backends.Errno(err) != syscall.ENOENT {
					t.Errorf("a missing directory: %q, %v; want ENOENT", namesOf(infos), err)
				}
				if infos, err := c.lists("file"); backends.Errno(err) != syscall.ENOTDIR {
					t.Errorf("a file: %q, %v; want ENOTDIR", namesOf(infos), err)
				}
			})
		})
	}
}

// TestFTPShortListings: whatever a server makes of STAT and of the number behind it, what is listed is what a LIST tells, and no
// listing is taken for another's.
func TestFTPShortListings(t *testing.T) {
	t.Parallel()
	const line = "-rw-r--r--    1 0        0               3 Jan 01  2026 made-up\r\n"
	const self = "drwxr-xr-x    2 0        0            4096 Jan 01  2026 .\r\n"
	in := func(dir string, rule FTPRule) FTPRule { // else all of them are listed by LIST from the first on
		return func(x *FTPExchange) bool { return x.Verb == "STAT" && strings.HasSuffix(x.Arg, dir) && rule(x) }
	}
	for what, rules := range map[string][]FTPRule{
		"honest":                     nil,
		"no number behind them":      {FTPReplies("350 Restart position accepted.", "REST")},
		"another number behind them": {FTPReplies("350 Restart position accepted (4711).", "REST")},
		"no REST":                    {FTPReplies("500 Unknown command.", "REST")},
		"refused":                    {FTPReplies("550 no", "STAT")},
		"nothing listed":             {FTPReplies("213-Status follows:\r\n213 End of status", "STAT")},
		"one line":                   {FTPReplies("213 End of status", "STAT")},
		"of no directory":            {FTPReplies("213-S\r\n"+line+"213 End", "STAT")},
		"rubbish in it":              {FTPReplies("213-S\r\nwhat is this\r\n213 End", "STAT")},
		"a bare line end in it":      {FTPReplies("213-S\r\n"+self+strings.Replace(line, "made", "made\n", 1)+"213 End", "STAT")},
		"a number of its own":        {in("dir", FTPReplies("213-S\r\n"+self+line+"213 End\r\n350 (1)", "STAT"))},
		"two replies":                {in("dir", FTPReplies("213-S\r\n"+self+line+"213 End\r\n213-S\r\n"+self+line+"213 End", "STAT"))},
		"cut off":                    {in("dir", FTPCuts("STAT"))},
		"without end":                {in("dir", FTPFloods("213-x\r\n", "STAT"))},
		"a line without end":         {in("dir", FTPFloods("213-"+strings.Repeat("x", 4096), "STAT"))},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			m := FTPManner{Greeting: ListGreeting, Features: ListFeatures()}
			s := NewFTP(t, m)
			furnishFTP(s)
			s.Put("other/c", File{Mtime: 1_700_000_000})
			patientFTP(t, s, func(c *connection) {
				c.warm()
				if _, err := c.lists("dir"); err != nil {
					t.Errorf("list: %v", err)
				}
				m.Rules = rules
				s.Behave(m)
				for range 2 {
					names, err := c.listsShortly("dir", "other", "empty", "other", "dir")
					if want := [][]string{{"a", "b"}, {"c"}, nil, {"c"}, {"a", "b"}}; err != nil || !reflect.DeepEqual(names, want) {
						t.Errorf("listed are %q, %v, want %q", names, err, want)
					}
				}
				if n := s.Asked("STAT"); n < 4 || n > 20 { // some of them for the login's stat
					t.Errorf("STAT was asked %d times: in vain again and again, or not at all", n)
				}
			})
		})
	}
}

// TestFTPSilentShortListing: a STAT that nobody answers ends, and what rides with it is listed all the same.
func TestFTPSilentShortListing(t *testing.T) {
	t.Parallel()
	m := FTPManner{Greeting: ListGreeting, Features: ListFeatures()}
	s := NewFTP(t, m)
	furnishFTP(s)
	connectFTP(t, s, func(c *connection) {
		c.warm()
		c.lists("dir") // so that STAT is known to be of use
		m.Rules = []FTPRule{FTPMute("STAT")}
		s.Behave(m)
		names, err := c.listsShortly("dir", "empty") // LIST has what is left of the time, which may be nothing
		if err == nil && !reflect.DeepEqual(names, [][]string{{"a", "b"}, nil}) {
			t.Errorf("listed are %q", names)
		}
	})
}
