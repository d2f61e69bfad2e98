package hostile

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"pierfs/backends"
)

// brokenReplies are answers that no server should give.
func brokenReplies() map[string]func(verbs ...string) FTPRule {
	reply := func(text string) func(...string) FTPRule {
		return func(verbs ...string) FTPRule { return FTPReplies(text, verbs...) }
	}
	return map[string]func(verbs ...string) FTPRule{
		"words":                    reply("hello"),
		"nothing but a line end":   reply(""),
		"a code of two digits":     reply("22 ok"),
		"a code of four digits":    reply("2200 ok"),
		"code 000":                 reply("000 ok"),
		"code 999":                 reply("999 ok"),
		"zeros":                    reply(strings.Repeat("\x00", 100)),
		"continued and never done": reply("250-first\r\n250-second"),
		"ended by another code":    reply("250-first\r\n213 5"),
		"preliminary only":         reply("150 soon"),
		"preliminary ten times":    reply(strings.TrimSuffix(strings.Repeat("150 soon\r\n", 10), "\r\n")),
		"intermediate":             reply("350 go on"),
		"closing":                  reply("421 bye"),
		"not implemented":          reply("502 no"),
		"not logged in":            reply("530 log in first"),
		"transient":                reply("450 busy"),
		"without words":            reply("250"),
		"227 )(":                   reply("227 )("),
		"227 of nothing":           reply("227 Entering Passive Mode (,,,,,)"),
		"227 of too much":          reply("227 Entering Passive Mode (127,0,0,1,999,999)"),
		"229 of nothing":           reply("229 (|||)"),
		"229 of too much":          reply("229 Entering Extended Passive Mode (|||99999999999999999999|)"),
		"229 backwards":            reply("229 )|||5("),
		"213 of nothing":           reply("213 "),
		"213 negative":             reply("213 -1"),
		"213 of 2^64":              reply("213 18446744073709551616"),
		"213 in octal":             reply("213 010"),
		"213 of many lines":        reply("213-3\r\n213 3"),
		"257 of nothing":           reply("257 "),
		"257 of a quote":           reply(`257 "`),
		"escapes":                  reply("550 \x1b[2J\x1b]0;pwned\a\u009b31m"),
		"100 KiB of words":         reply("250 " + strings.Repeat("x", 100<<10)),
		"10,000 lines":             reply("250-\r\n" + strings.Repeat(" x\r\n", 10_000) + "250 end"),
		"bare LF":                  reply("250-a\n250 b"),
		"bare CR":                  reply("250 a\rb"),
		"silence":                  FTPMute,
		"the end":                  FTPCuts,
		"one stray behind":         func(verbs ...string) FTPRule { return FTPAdds("213 999", verbs...) },
		"many stray behind": func(verbs ...string) FTPRule {
			return FTPAdds(strings.TrimSuffix(strings.Repeat("226 done\r\n", 50), "\r\n"), verbs...)
		},
		"a line of words behind": func(verbs ...string) FTPRule { return FTPAdds("welcome", verbs...) },
		"twice": func(verbs ...string) FTPRule {
			return FTPOn(func(x *FTPExchange) { x.Honest(); x.Reply("250 again") }, verbs...)
		},
	}
}

// TestBrokenFTPReplies: whatever is answered to whatever command, each call ends in time with what is true or with an
// error, and afterwards all is well.
func TestBrokenFTPReplies(t *testing.T) {
	t.Parallel()
	for name, broken := range brokenReplies() {
		for _, verb := range []string{"MLST", "MLSD", "SIZE", "MDTM", "EPSV", "RETR", "STOR", "APPE", "RNFR", "RNTO", "MKD", "DELE", "RMD", "MFMT", "PWD", "CWD", "NOOP"} {
			t.Run(verb+"/"+name, func(t *testing.T) {
				t.Parallel()
				s := NewFTP(t, FTPManner{})
				furnishFTP(s)
				connectFTP(t, s, func(c *connection) {
					c.warm()
					s.Behave(FTPManner{Rules: []FTPRule{broken(verb)}})
					for _, call := range ftpCalls {
						if err := c.doesFTP(s, call); errors.Is(err, errUntrue) {
							t.Errorf("%s: %v", call.name, err)
						} else if err != nil && len(err.Error()) > 4096 {
							t.Errorf("the error of %s is %d bytes long", call.name, len(err.Error()))
						}
					}
					if f, _ := s.Get("old"); f.Data != "old content" && f.Data != content {
						t.Errorf("the replaced file has %d bytes", len(f.Data))
					}
					s.Behave(FTPManner{})
					c.recovers()
					s.Put("file", File{Data: "abc", Mtime: 1_700_000_000})
					for _, call := range []ftpCall{ftpCalls[0], ftpCalls[2]} { // the calls before have changed what there is to list
						c.settles("then "+call.name, func(ctx context.Context) error { return call.do(ctx, c) })
					}
				})
				if n := s.strays(); len(n) > 0 {
					t.Errorf("the server was sent %q", n)
				}
			})
		}
	}
}

// TestBrokenFTPLogins is the same for the commands of a login.
func TestBrokenFTPLogins(t *testing.T) {
	t.Parallel()
	for name, broken := range brokenReplies() {
		for _, verb := range []string{"USER", "PASS", "FEAT", "OPTS", "SYST", "TYPE", "PWD", "CWD"} {
			t.Run(verb+"/"+name, func(t *testing.T) {
				t.Parallel()
				s := NewFTP(t, FTPManner{Rules: []FTPRule{broken(verb)}})
				furnishFTP(s)
				connectFTP(t, s, func(c *connection) {
					for range 2 {
						if err := c.doesFTP(s, ftpCalls[0]); errors.Is(err, errUntrue) {
							t.Error(err)
						}
					}
				})
				if given, _ := s.Passwords(); verb == "PASS" && given > 8 {
					t.Errorf("the password was told %d times", given)
				}
			})
		}
	}
}

// TestStrayFTPReply: a reply that nothing has asked for never becomes the answer to a question, be it sent while nobody asks
// or just before.
func TestStrayFTPReply(t *testing.T) {
	t.Parallel()
	p := newPrivate(t)
	for name, m := range map[string]FTPManner{"MLST": {}, "LIST": {Greeting: ListGreeting, Features: ListFeatures()}, "TLS": {TLS: p.config}} {
		for _, stray := range []string{"213 999\r\n", "250 fine\r\n", "226 done\r\n", "213", "250-\r\n"} {
			t.Run(fmt.Sprintf("%s/%q", name, stray), func(t *testing.T) {
				t.Parallel()
				s := NewFTP(t, m)
				furnishFTP(s)
				target := targetFTP(s)
				if m.TLS != nil {
					target = p.target(s)
				}
				connectTo(t, target, func(c *connection) {
					c.warm()
					for range 10 {
						s.Say(stray)
						info, err := c.Stat(t.Context(), "file")
						if err == nil && info.Size != 3 {
							t.Fatalf("size %d of a file of 3 bytes", info.Size)
						}
						if got, err := c.reads("file", 100); err == nil && got != "abc" {
							t.Fatalf("content %q", got)
						}
						s.Say(stray)
						err = c.within(4*limit+slack, "upload", func(ctx context.Context) error {
							return upload(ctx, c, "old", content, backends.WriteMode{TempName: ".part", Perm: 0o644})
						})
						if f, _ := s.Get("old"); err == nil && f.Data != content {
							t.Fatalf("an upload succeeded, and the server has %d bytes", len(f.Data))
						}
					}
					c.recovers()
				})
			})
		}
	}
}

// TestFTPHangsUpWhileIdle: a session that the server has ended while nobody used it, with a 421 or without a word, is
// replaced without the caller noticing.
func TestFTPHangsUpWhileIdle(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*FTPServer){
		"421":         func(s *FTPServer) { s.Say("421 Idle too long.\r\n"); s.CutAll() },
		"421, stays":  func(s *FTPServer) { s.Say("421 Idle too long.\r\n") },
		"not a word":  (*FTPServer).CutAll,
		"half a word": func(s *FTPServer) { s.Say("42"); s.CutAll() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, call := range ftpCalls {
				s := NewFTP(t, FTPManner{})
				furnishFTP(s)
				patientFTP(t, s, func(c *connection) {
					c.warm()
					end(s)
					if err := c.doesFTP(s, call); err != nil {
						t.Errorf("%s: %v", call.name, err)
					}
				})
			}
		})
	}
}

// TestFTPGoodbyeCrossesTheCommand: a server that ends a session may say so in the moment in which a command is on its way, and then do
// what it says all the same. A change must not be told to have failed when it was done, nor be done twice.
func TestFTPGoodbyeCrossesTheCommand(t *testing.T) {
	t.Parallel()
	for _, call := range ftpCalls {
		for _, verb := range call.needs {
			t.Run(call.name+"/"+verb, func(t *testing.T) {
				t.Parallel()
				s := NewFTP(t, FTPManner{})
				furnishFTP(s)
				patientFTP(t, s, func(c *connection) {
					c.warm()
					s.Behave(FTPManner{Rules: []FTPRule{FTPOnce(FTPSaysFirst("421 Idle too long.", verb), verb)}})
					err := c.doesFTP(s, call)
					switch class := backends.ClassOf(err); {
					case err == nil:
					case call.name == "append" && class == backends.Lost, verb == "RNFR" && call.truth != nil && class == backends.Lost:
						// Whoever has the content at hand asks for what became of it.
					default:
						t.Errorf("%s: %v", call.name, err)
					}
					if n := s.Asked(verb); err == nil && n > 2 || call.name == "append" && n > 1 {
						t.Errorf("%s was sent %d times", verb, n)
					}
				})
			})
		}
	}
}

// TestFTPStalls: a server that stops answering at whatever command costs each call its budget and no more, and is back when
// it answers again.
func TestFTPStalls(t *testing.T) {
	t.Parallel()
	for _, verb := range []string{"MLST", "MLSD", "EPSV", "RETR", "STOR", "APPE", "RNFR", "RNTO", "MKD", "DELE", "RMD", "MFMT", "SIZE", "all"} {
		t.Run(verb, func(t *testing.T) {
			t.Parallel()
			s := NewFTP(t, FTPManner{})
			furnishFTP(s)
			connectFTP(t, s, func(c *connection) {
				c.warm()
				stalled := []string{verb}
				if verb == "all" {
					stalled = nil
				}
				s.Behave(FTPManner{Rules: []FTPRule{FTPStalls(stalled...)}})
				for _, call := range ftpCalls {
					if err := c.doesFTP(s, call); err == nil && (verb == "all" || slices.Contains(call.needs, verb)) {
						t.Errorf("%s succeeded without an answer", call.name)
					}
				}
				if f, _ := s.Get("old"); f.Data != "old content" && f.Data != content {
					t.Errorf("the replaced file has %d bytes", len(f.Data))
				}
				s.Behave(FTPManner{})
				c.recovers()
			})
		})
	}
}

// TestFTPBombs: what a server can send without an end costs time and no memory. It measures this process, and so runs
// beside no other test.
func TestFTPBombs(t *testing.T) {
	entries := 0
	facts := func() string {
		var b strings.Builder
		for range 500 {
			entries++
			fmt.Fprintf(&b, "type=file;size=3;modify=20260101000000; name-%d\r\n", entries)
		}
		return b.String()
	}
	lines := func() string {
		var b strings.Builder
		for range 500 {
			entries++
			fmt.Fprintf(&b, "-rw-r--r--    1 0        0               3 Jan 01  2026 name-%d\r\n", entries)
		}
		return b.String()
	}
	same := func(text string) func() string { return func() string { return text } }
	block := strings.Repeat("x", 64<<10)
	for name, m := range map[string]FTPManner{
		"greeting":                   {Wire: SaysForEver("220-hello\r\n")},
		"line of a greeting":         {Wire: SaysForEver("2")},
		"FEAT":                       {Rules: []FTPRule{FTPFloods("211-MLST\r\n", "FEAT")}},
		"FEAT without a line end":    {Rules: []FTPRule{FTPFloods("2", "FEAT")}},
		"PWD":                        {Rules: []FTPRule{FTPFloods(`257-"/`+strings.Repeat("x", 1000), "PWD")}},
		"MLST of many lines":         {Rules: []FTPRule{FTPFloods("250-x\r\n", "MLST")}},
		"MLST of a line":             {Rules: []FTPRule{FTPFloods("250 x", "MLST")}},
		"preliminary":                {Rules: []FTPRule{FTPFloods("150 soon\r\n", "RETR", "STOR", "MLSD")}},
		"many replies":               {Rules: []FTPRule{FTPFloods("250 fine\r\n", "MLST", "SIZE", "DELE", "MKD")}},
		"STAT":                       {Greeting: ListGreeting, Features: ListFeatures(), Rules: []FTPRule{FTPFloods("213-x\r\n", "STAT")}},
		"endless MLSD":               {Rules: []FTPRule{FTPSendsForEver(facts, "MLSD")}},
		"endless LIST":               {Greeting: ListGreeting, Features: ListFeatures(), Rules: []FTPRule{FTPSendsForEver(lines, "LIST")}},
		"endless line of MLSD":       {Rules: []FTPRule{FTPSendsForEver(same(block), "MLSD")}},
		"endless line of LIST":       {Greeting: ListGreeting, Features: ListFeatures(), Rules: []FTPRule{FTPSendsForEver(same(block), "LIST")}},
		"endless rubbish for MLSD":   {Rules: []FTPRule{FTPSendsForEver(same(strings.Repeat("what\r\n", 10_000)), "MLSD")}},
		"endless rubbish for LIST":   {Greeting: ListGreeting, Features: ListFeatures(), Rules: []FTPRule{FTPSendsForEver(same(strings.Repeat("what\r\n", 10_000)), "LIST")}},
		"endless line ends for MLSD": {Rules: []FTPRule{FTPSendsForEver(same(strings.Repeat("\r\n", 10_000)), "MLSD")}},
		"endless RETR":               {Rules: []FTPRule{FTPSendsForEver(same(block), "RETR")}},
	} {
		t.Run(name, func(t *testing.T) {
			s := NewFTP(t, m)
			furnishFTP(s)
			connectFTP(t, s, func(c *connection) {
				var before runtime.MemStats
				runtime.ReadMemStats(&before)
				size := peak(t, func() {
					for _, call := range ftpCalls[:4] {
						err := c.within(30*time.Second, call.name, func(ctx context.Context) error { return call.do(ctx, c) })
						if errors.Is(err, errUntrue) {
							t.Errorf("%s: %v", call.name, err)
						}
						if err != nil && len(err.Error()) > 4096 {
							t.Errorf("the error of %s is %d bytes long", call.name, len(err.Error()))
						}
					}
				})
				if size > most {
					t.Errorf("it took %d MiB", size>>20)
				}
				if n := c.log.size(); n > 1<<20 {
					t.Errorf("the log has %d bytes of it", n)
				}
				t.Logf("%d MiB", size>>20)
			})
		})
	}
}

// TestFTPDrips: content that comes one byte a tick is no progress.
func TestFTPDrips(t *testing.T) {
	t.Parallel()
	for verb, call := range map[string]int{"MLSD": 1, "RETR": 2} {
		t.Run(verb, func(t *testing.T) {
			t.Parallel()
			drip := time.NewTicker(20 * time.Millisecond)
			defer drip.Stop()
			s := NewFTP(t, FTPManner{})
			furnishFTP(s)
			s.Put("file", File{Data: numbered(100_000), Mtime: 1_700_000_000})
			connectFTP(t, s, func(c *connection) {
				c.warm()
				s.Behave(FTPManner{Rules: []FTPRule{FTPDripsData(drip.C, "type=file; x\r\n", verb)}})
				if err := c.doesFTP(s, ftpCalls[call]); err == nil {
					t.Errorf("%s succeeded", ftpCalls[call].name)
				}
			})
		})
	}
}
