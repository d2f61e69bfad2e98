package hostile

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"pierfs/backends"
)

// TestFTPDownloadIsWhole: what a server sends instead of a file, and calls a success or not, is never taken for the file.
func TestFTPDownloadIsWhole(t *testing.T) {
	t.Parallel()
	whole := numbered(300_000)
	for name, rules := range map[string][]FTPRule{
		"end early and 226":          {FTPSends(whole[:1000], "226 done", "RETR")},
		"end early and 426":          {FTPSends(whole[:1000], "426 broken", "RETR")},
		"end early and 451":          {FTPSends(whole[:1000], "451 disk", "RETR")},
		"end early and 150":          {FTPSends(whole[:1000], "150 0.2 seconds", "RETR")},
		"end early and silence":      {FTPSends(whole[:1000], "", "RETR")},
		"end early and 421":          {FTPSends(whole[:1000], "421 bye", "RETR")},
		"all and 426":                {FTPSends(whole, "426 broken", "RETR")},
		"all and silence":            {FTPSends(whole, "", "RETR")},
		"nothing and 226":            {FTPSends("", "226 done", "RETR")},
		"226 and nothing":            {FTPReplies("150 soon\r\n226 done", "RETR")},
		"226 at once":                {FTPReplies("226 done", "RETR")},
		"more than told":             {FTPSends(whole+"more", "226 done", "RETR")},
		"150 and silence":            {FTPReplies("150 soon", "RETR")},
		"silence":                    {FTPMute("RETR")},
		"550 behind 150":             {FTPReplies("150 soon\r\n550 no", "RETR")},
		"550 is no success":          {FTPSends(whole, "550 no", "RETR")},
		"two final replies":          {FTPSends(whole[:1000], "226 done\r\n226 done", "RETR")},
		"rest is refused":            {FTPReplies("501 no", "REST"), FTPSends(whole[:5], "226 done", "RETR")},
		"size is a lie":              {FTPReplies("213 1000000", "SIZE"), FTPReplies("500 no", "MLST")},
		"the server hangs up":        {FTPSends(whole[:1000], "", "RETR"), FTPCuts("NOOP", "PWD")},
		"rest is ignored":            {FTPReplies("350 sure", "REST"), FTPOnce(FTPSends(whole[:1000], "426 broken", "RETR"), "RETR"), FTPSends(whole, "226 done", "RETR")},
		"another file's bytes, less": {FTPSends(strings.Repeat("x", 299_999), "226 done", "RETR")},
	} {
		for _, features := range [][]string{nil, ListFeatures()} {
			t.Run(fmt.Sprintf("%s/%d", name, len(features)), func(t *testing.T) {
				t.Parallel()
				s := NewFTP(t, FTPManner{Features: features})
				furnishFTP(s)
				s.Put("file", File{Data: whole, Mtime: 1_700_000_000})
				connectFTP(t, s, func(c *connection) {
					c.warm()
					s.Behave(FTPManner{Features: features, Rules: rules})
					got, err := c.reads("file", len(whole)+10)
					if err == nil && got != whole {
						t.Errorf("got %d bytes of %d without an error, the first wrong one at %d", len(got), len(whole), difference(got, whole))
					}
					if errors.Is(err, io.EOF) {
						t.Errorf("%d bytes of %d, and this was the end: %v", len(got), len(whole), err)
					}
					s.Behave(FTPManner{Features: features})
					c.recovers()
					c.readsRight("file", whole)
				})
			})
		}
	}
}

// TestSmallFTPDownloadIsWhole: what is read in one flight, because it is small, is believed no sooner.
func TestSmallFTPDownloadIsWhole(t *testing.T) {
	t.Parallel()
	for name, rule := range map[string]FTPRule{
		"less":     FTPSends("ab", "226 done", "RETR"),
		"nothing":  FTPSends("", "226 done", "RETR"),
		"more":     FTPSends("abcd", "226 done", "RETR"),
		"endless":  FTPSendsForEver(func() string { return strings.Repeat("abc", 1<<14) }, "RETR"),
		"too soon": FTPReplies("226 done", "RETR"),
	} {
		for _, features := range [][]string{nil, ListFeatures()} {
			t.Run(fmt.Sprintf("%s/%d", name, len(features)), func(t *testing.T) {
				t.Parallel()
				s := NewFTP(t, FTPManner{Features: features})
				furnishFTP(s)
				connectFTP(t, s, func(c *connection) {
					c.warm()
					s.Behave(FTPManner{Features: features, Rules: []FTPRule{rule}})
					if got, err := c.reads("file", 100); err == nil {
						t.Errorf("read %.40q without an error", got)
					}
					err := c.within(4*limit+slack, "read at once", func(ctx context.Context) error {
						got, err := readLast(ctx, c, "file", 100)
						if err == nil {
							t.Errorf("read %.40q at once without an error", got)
						}
						return err
					})
					if errors.Is(err, io.EOF) {
						t.Errorf("this was the end: %v", err)
					}
				})
			})
		}
	}
}

// numbered returns n bytes of which no piece is like another.
func numbered(n int) string {
	var b strings.Builder
	for i := 0; b.Len() < n; i++ {
		fmt.Fprintf(&b, "%d ", i)
	}
	return b.String()[:n]
}

// difference returns where a and b begin to differ.
func difference(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// reads reads a file from its beginning to its end in pieces.
func (c *connection) reads(name string, most int) (string, error) {
	c.t.Helper()
	var got []byte
	err := c.within(4*(c.limit+slack), "reading "+name, func(ctx context.Context) error {
		r, err := c.Open(ctx, name)
		if err != nil {
			return err
		}
		defer r.Close() // it waits for nobody
		for len(got) < most {
			p := make([]byte, 64<<10)
			n, err := r.ReadAt(ctx, p, int64(len(got)))
			got = append(got, p[:n]...)
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	return string(got), err
}

// readsRight fails the test unless a file soon has the right content.
func (c *connection) readsRight(name, want string) {
	c.t.Helper()
	c.settles("read "+name, func(ctx context.Context) error {
		got, err := read(ctx, c, name, len(want)+1)
		if err == nil && got != want {
			err = untrue("%d bytes of %d", len(got), len(want))
		}
		return err
	})
}

// TestFTPDataCutAtEveryPlace: a data connection that breaks or falls silent after whatever number of bytes never makes a
// shorter file or listing.
func TestFTPDataCutAtEveryPlace(t *testing.T) {
	t.Parallel()
	secure := newPrivate(t)
	whole := numbered(2000)
	for way, wire := range map[string]func(int) func(*Wire) net.Conn{"cut": CutsAfter, "silence": StallsAfter} {
		for security, p := range map[string]*private{"clear": {}, "TLS": secure} {
			for _, n := range []int{0, 1, 2, 99, 100, 1000, 1999, 1500} {
				t.Run(fmt.Sprintf("%s/%s/%d", way, security, n), func(t *testing.T) {
					t.Parallel()
					s := NewFTP(t, FTPManner{TLS: p.config})
					furnishFTP(s)
					s.Put("file", File{Data: whole, Mtime: 1_700_000_000})
					for n := range 50 {
						s.Put(fmt.Sprintf("many/%d", n), File{})
					}
					connectTo(t, p.targetOr(s), func(c *connection) {
						c.warm()
						s.Behave(FTPManner{TLS: p.config, Data: wire(n)})
						if got, err := c.reads("file", len(whole)+1); err == nil && got != whole {
							t.Errorf("read %d bytes of %d without an error", len(got), len(whole))
						}
						var names []string
						err := c.bounded("list", func(ctx context.Context) (err error) {
							names, err = list(ctx, c, "many")
							return err
						})
						if err == nil && len(names) != 50 {
							t.Errorf("listed %d names of 50 without an error", len(names))
						}
						s.Behave(FTPManner{TLS: p.config})
						c.recovers()
						c.readsRight("file", whole)
					})
				})
			}
		}
	}
}

// TestFTPUploadIsWhole is the sixth row: an upload that the server loses, cuts or lies about is an error, and the old
// content stays.
func TestFTPUploadIsWhole(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		rules []FTPRule
		want  syscall.Errno // 0 is any
	}{
		"10 bytes read, 226":       {[]FTPRule{FTPTakes(10, -1, "226 done")}, 0},
		"half kept, 226":           {[]FTPRule{FTPTakes(-1, 160_000, "226 done")}, 0},
		"nothing kept, 226":        {[]FTPRule{FTPTakes(-1, 0, "226 done")}, 0},
		"all, no 226":              {[]FTPRule{FTPTakes(-1, -1, "")}, 0},
		"all, 426":                 {[]FTPRule{FTPTakes(-1, -1, "426 broken")}, 0},
		"all, 451":                 {[]FTPRule{FTPTakes(-1, -1, "451 disk")}, 0},
		"no space at the end":      {[]FTPRule{FTPTakes(-1, 1000, "452 disk full")}, syscall.ENOSPC},
		"quota in the middle":      {[]FTPRule{FTPTakes(100_000, -1, "552 quota exceeded")}, 0},
		"refused at once":          {[]FTPRule{FTPReplies("553 no", "STOR")}, 0},
		"no space at once":         {[]FTPRule{FTPReplies("452 disk full", "STOR")}, syscall.ENOSPC},
		"226 at once":              {[]FTPRule{FTPReplies("226 done", "STOR")}, 0},
		"226 behind 150":           {[]FTPRule{FTPReplies("150 go\r\n226 done", "STOR")}, 0},
		"silence":                  {[]FTPRule{FTPMute("STOR")}, 0},
		"150 and silence":          {[]FTPRule{FTPReplies("150 go", "STOR")}, 0},
		"hangs up behind 150":      {[]FTPRule{FTPOn(func(x *FTPExchange) { x.Reply("150 go"); x.Cut() }, "STOR")}, 0},
		"size of another":          {[]FTPRule{FTPReplies("213 7", "SIZE"), FTPReplies("500 no", "MLST")}, 0},
		"size is not told":         {[]FTPRule{FTPReplies("550 no", "SIZE"), FTPReplies("500 no", "MLST"), FTPTakes(-1, 7, "226 done")}, 0},
		"RNFR refused":             {[]FTPRule{FTPReplies("550 no", "RNFR")}, 0},
		"RNTO refused":             {[]FTPRule{FTPReplies("553 no", "RNTO")}, 0},
		"RNTO says 250 and is not": {[]FTPRule{FTPReplies("250 sure", "RNTO")}, 0},
		"no data connection":       {[]FTPRule{FTPReplies("425 no", "EPSV", "PASV")}, 0},
		"425 behind 150":           {[]FTPRule{FTPReplies("150 go\r\n425 no", "STOR")}, 0},
	} {
		for _, m := range []FTPManner{{}, {Greeting: ListGreeting, Features: ListFeatures()}} {
			t.Run(fmt.Sprintf("%s/%d", name, len(m.Features)), func(t *testing.T) {
				t.Parallel()
				s := NewFTP(t, m)
				furnishFTP(s)
				connectFTP(t, s, func(c *connection) {
					c.warm()
					hostile := m
					hostile.Rules = test.rules
					s.Behave(hostile)
					err := c.within(3*limit+slack, "replace", func(ctx context.Context) error {
						return upload(ctx, c, "old", content, backends.WriteMode{TempName: ".old.part", Perm: 0o644})
					})
					if f, _ := s.Get("old"); err == nil && f.Data != content || err != nil && f.Data != "old content" && !(f.Data == content && backends.ClassOf(err) == backends.Lost) {
						t.Errorf("upload: %v; and the server has %d bytes under the name", err, len(f.Data))
					}
					if err == nil && name != "no data connection" { // one may have been opened ahead
						t.Errorf("the upload succeeded")
					}
					if test.want != 0 && backends.Errno(err) != test.want {
						t.Errorf("upload: code %v of %v, want %v", backends.Errno(err), err, test.want)
					}
					s.Behave(m)
					c.recovers()
					c.readsRight("file", "abc")
				})
			})
		}
	}
}

// TestUploadThatIsNotUnderstood: where a server that has taken contents does not know STOR for once (pure-ftpd), that says nothing of the
// temporary name, for want of which a file would be written in place: the upload is one to be tried again, and the old content is there.
func TestUploadThatIsNotUnderstood(t *testing.T) {
	t.Parallel()
	s := NewFTP(t, FTPManner{})
	furnishFTP(s)
	patientFTP(t, s, func(c *connection) {
		replace := func(content string) error {
			return upload(t.Context(), c, "file", content, backends.WriteMode{TempName: ".file.part", Perm: 0o644})
		}
		if err := replace("first"); err != nil {
			t.Fatal(err)
		}
		s.Behave(FTPManner{Rules: []FTPRule{FTPReplies("500 Unknown command", "STOR")}})
		if err := replace("second"); backends.ClassOf(err) != backends.Transient || backends.CauseOf(err) != "" {
			t.Errorf("the upload ended with %v, class %v, cause %q", err, backends.ClassOf(err), backends.CauseOf(err))
		}
		s.Behave(FTPManner{})
		c.readsRight("file", "first")
	})
}

// TestStaleRest: a server may keep the offset of a transfer that it has refused for the next one. What comes then is the end of a
// file, and is not taken for all of it.
func TestStaleRest(t *testing.T) {
	t.Parallel()
	whole := numbered(9 << 20)
	for _, features := range [][]string{nil, ListFeatures()} {
		s := NewFTP(t, FTPManner{Features: features})
		furnishFTP(s)
		s.Put("file", File{Data: whole, Mtime: 1_700_000_000})
		patientFTP(t, s, func(c *connection) {
			c.warm()
			kept := int64(0)
			s.Behave(FTPManner{Features: features, Rules: []FTPRule{func(x *FTPExchange) bool {
				if x.Verb != "RETR" || kept > 0 {
					return false
				}
				if kept = x.d.rest; kept > 0 {
					x.Reply("550 not now") // and the offset stays
				}
				return kept > 0
			}}})
			r, err := c.Open(t.Context(), "file")
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close() // it waits for nobody
			p := make([]byte, 1000)
			if n, err := r.ReadAt(t.Context(), p, 8<<20); err == nil && string(p[:n]) != whole[8<<20:8<<20+n] {
				t.Errorf("at 8 MiB: other bytes, the first at %d", difference(string(p[:n]), whole[8<<20:]))
			}
			for range 3 {
				got, err := c.reads("file", len(whole)+10)
				if err == nil && got != whole {
					t.Errorf("got %d bytes of %d without an error, the first wrong one at %d", len(got), len(whole), difference(got, whole))
				}
			}
			if kept == 0 {
				t.Error("no offset was kept")
			}
			c.readsRight("file", whole)
		})
	}
}

// TestAppendThatReplaces: a server that takes APPE for STOR, or one that loses half of it, is caught by its size.
func TestAppendThatReplaces(t *testing.T) {
	t.Parallel()
	for name, takes := range map[string]FTPRule{
		"replaces": FTPTakes(-1, -1, "226 done"), "loses": FTPTakes(-1, 10, "226 done"), "loses all": FTPTakes(-1, 0, "226 done"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := NewFTP(t, FTPManner{})
			furnishFTP(s)
			connectFTP(t, s, func(c *connection) {
				c.warm()
				s.Behave(FTPManner{Rules: []FTPRule{func(x *FTPExchange) bool {
					if x.Verb != "APPE" {
						return false
					}
					x.Verb = "STOR"
					return takes(x)
				}}})
				err := c.within(3*limit+slack, "append", func(ctx context.Context) error {
					w, err := c.Update(ctx, "file")
					if err != nil {
						return err
					}
					return finish(ctx, w, content, 3)
				})
				if err == nil {
					f, _ := s.Get("file")
					t.Errorf("the append succeeded, and the server has %d bytes", len(f.Data))
				}
			})
		})
	}
}

// TestFTPDataConnectionIsStolen is the eleventh row: who connects to the passive port before us is served in our place. He may get
// what we were to read, in the clear, which nothing can help; but what he sends is never taken for the server's, and what
// the server has of him never for ours.
func TestFTPDataConnectionIsStolen(t *testing.T) {
	t.Parallel()
	p := newPrivate(t)
	content := content[:4000] // so little that all of it is written before anybody can object
	forged := strings.Repeat("forged! ", len(content)/8)
	for name, thief := range map[string]func(net.Conn){
		"listens":           func(c net.Conn) { io.Copy(io.Discard, c) },
		"leaves":            func(net.Conn) {},
		"sends less":        func(c net.Conn) { io.WriteString(c, "forged") },
		"sends as much":     func(c net.Conn) { io.WriteString(c, forged) },
		"sends as over TLS": func(c net.Conn) { io.WriteString(tls.Client(c, &tls.Config{InsecureSkipVerify: true}), forged) },
	} {
		for way, m := range map[string]FTPManner{"MLST": {}, "LIST": {Greeting: ListGreeting, Features: ListFeatures()}, "TLS": {TLS: p.config}} {
			t.Run(name+"/"+way, func(t *testing.T) {
				t.Parallel()
				for what, do := range map[string]func(*FTPServer, *connection){
					"upload": func(s *FTPServer, c *connection) {
						err := c.within(4*limit+slack, "replace", func(ctx context.Context) error {
							return upload(ctx, c, "old", content, backends.WriteMode{TempName: ".old.part", Perm: 0o644})
						})
						if f, _ := s.Get("old"); err == nil && f.Data != content || f.Data != "old content" && f.Data != content {
							t.Errorf("upload: %v; and the server has %.40q under the name", err, f.Data)
						}
					},
					"append": func(s *FTPServer, c *connection) {
						before, _ := s.Get("file")
						err := c.within(4*limit+slack, "append", func(ctx context.Context) error {
							w, err := c.Update(ctx, "file")
							if err != nil {
								return err
							}
							return finish(ctx, w, content, int64(len(before.Data)))
						})
						if f, _ := s.Get("file"); err == nil && f.Data != before.Data+content {
							t.Errorf("append: the server has %.40q", f.Data)
						}
					},
					"read": func(_ *FTPServer, c *connection) {
						if got, err := c.reads("file", 100); err == nil && got != "abc" {
							t.Errorf("read %q", got)
						}
					},
					"list": func(_ *FTPServer, c *connection) {
						if infos, err := c.lists("dir"); err == nil && !slices.Equal(namesOf(infos), []string{"a", "b"}) {
							t.Errorf("listed %q", namesOf(infos))
						}
					},
				} {
					s := NewFTP(t, m)
					furnishFTP(s)
					target := targetFTP(s)
					if m.TLS != nil {
						target = p.target(s)
					}
					connectTo(t, target, func(c *connection) {
						c.warm()
						stolen := m
						stolen.Rules = []FTPRule{FTPStolen(thief)}
						s.Behave(stolen)
						opened := s.Asked("EPSV")
						do(s, c) // it may go by a port that was opened before
						do(s, c)
						if s.Asked("EPSV") == opened {
							t.Errorf("%s: nothing was stolen", what)
						}
						s.Behave(m)
						c.recovers()
					})
				}
			})
		}
	}
}

// TestFTPUploadCutAtEveryPlace: a data connection that ends after whatever number of bytes, and a control connection that
// ends at whatever byte of the dialogue, leaves the old content or puts the new one there, whole; and an upload that
// succeeded is there.
func TestFTPUploadCutAtEveryPlace(t *testing.T) {
	t.Parallel()
	small := strings.Repeat("pierfs! ", 500)
	replace := func(t *testing.T, s *FTPServer, c *connection, change func(), honest FTPManner) {
		c.warm()
		change()
		err := c.within(3*limit+slack, "replace", func(ctx context.Context) error {
			return upload(ctx, c, "old", small, backends.WriteMode{TempName: ".old.part", Perm: 0o644})
		})
		f, _ := s.Get("old")
		if err == nil && f.Data != small || f.Data != small && f.Data != "old content" {
			t.Errorf("upload: %v; and the server has %d bytes under the name", err, len(f.Data))
		}
		s.Behave(honest)
		if backends.ClassOf(err) != backends.Refused {
			c.recovers()
		}
	}
	secure := newPrivate(t)
	for security, p := range map[string]*private{"clear": {}, "TLS": secure} {
		for _, stay := range []bool{false, true} {
			for n := range steps(0, len(small)+500, 511) {
				t.Run(fmt.Sprintf("data/%s/%v/%d", security, stay, n), func(t *testing.T) {
					t.Parallel()
					s := NewFTP(t, FTPManner{TLS: p.config})
					furnishFTP(s)
					connectTo(t, p.targetOr(s), func(c *connection) {
						replace(t, s, c, func() { s.Behave(FTPManner{TLS: p.config, Data: HearsOnly(n, stay)}) }, FTPManner{TLS: p.config})
					})
				})
			}
		}
	}
	for way, wire := range map[string]func(*atomic.Int64) func(*Wire) net.Conn{"cut": endsAt(false), "silence": endsAt(true)} {
		for n := range steps(0, 400, 13) {
			t.Run(fmt.Sprintf("control/%s/%d", way, n), func(t *testing.T) {
				t.Parallel()
				left := new(atomic.Int64)
				left.Store(1 << 40)
				s := NewFTP(t, FTPManner{Wire: wire(left)})
				furnishFTP(s)
				connectFTP(t, s, func(c *connection) {
					replace(t, s, c, func() { left.Store(int64(n)) }, FTPManner{})
				})
			})
		}
	}
}

// endsAt cuts, or silences, control connections when left bytes more were sent on any of them.
func endsAt(stay bool) func(*atomic.Int64) func(*Wire) net.Conn {
	return func(left *atomic.Int64) func(*Wire) net.Conn {
		return func(w *Wire) net.Conn { return &ender{Conn: w, left: left, stay: stay} }
	}
}

type ender struct {
	net.Conn
	left *atomic.Int64
	stay bool
}

func (e *ender) Write(p []byte) (int, error) {
	over := -e.left.Add(-int64(len(p)))
	if over <= 0 {
		return e.Conn.Write(p)
	}
	n, err := e.Conn.Write(p[:max(0, len(p)-int(over))])
	if !e.stay {
		e.Conn.Close()
		return n, net.ErrClosed
	}
	return len(p), err
}

// TestEmptyFTPUploads: a file of no bytes is a file, over TLS too, where a handshake has to be made for nothing; and nothing
// appended is no harm.
func TestEmptyFTPUploads(t *testing.T) {
	t.Parallel()
	p := newPrivate(t)
	for name, m := range map[string]FTPManner{"clear": {}, "TLS": {TLS: p.config}, "sequential": {TLS: p.config, Greeting: ListGreeting, Features: ListFeatures()}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := NewFTP(t, m)
			furnishFTP(s)
			target := targetFTP(s)
			if m.TLS != nil {
				target = p.target(s)
			}
			connectTo(t, patient(target), func(c *connection) {
				for n := range 5 {
					name := fmt.Sprintf("empty-%d", n)
					if err := c.within(c.limit, "empty", func(ctx context.Context) error {
						w, err := c.Create(ctx, name, backends.WriteMode{TempName: ".part", Perm: 0o644})
						if err != nil {
							return err
						}
						_, err = w.Commit(ctx, backends.Commit{})
						return err
					}); err != nil {
						t.Errorf("upload of nothing: %v", err)
					}
					if f, ok := s.Get(name); !ok || f.Data != "" {
						t.Errorf("the server has %d bytes, %v", len(f.Data), ok)
					}
				}
			})
		})
	}
}

// TestFTPOddSuccess: success by another code than the usual is a success, and the reply to the next command is that command's.
func TestFTPOddSuccess(t *testing.T) {
	t.Parallel()
	for name, rule := range map[string]FTPRule{
		"250 for 226":       FTPDoes("250 done", "RETR", "STOR", "MLSD", "LIST", "APPE"),
		"225 for 226":       FTPDoes("225 done", "RETR", "STOR", "MLSD", "LIST", "APPE"),
		"226 of many lines": FTPDoes("226-done\r\n in 0.001 s\r\n226 really", "RETR", "STOR", "MLSD", "LIST", "APPE"),
		"DELE 200":          FTPDoes("200 ok", "DELE"),
		"RMD 200":           FTPDoes("200 ok", "RMD"),
		"MKD 250":           FTPDoes("250 ok", "MKD"),
		"RNTO 200":          FTPDoes("200 ok", "RNTO"),
		"CWD 200":           FTPDoes("200 ok", "CWD"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := NewFTP(t, FTPManner{Rules: []FTPRule{rule}})
			furnishFTP(s)
			patientFTP(t, s, func(c *connection) {
				for _, call := range ftpCalls {
					if err := c.doesFTP(s, call); err != nil {
						t.Errorf("%s: %v", call.name, err)
					}
				}
			})
		})
	}
}

// TestFTPPreliminaryReplies: 150 or 125, one of them, several or none before a transfer is the server's own affair.
func TestFTPPreliminaryReplies(t *testing.T) {
	t.Parallel()
	for _, early := range []string{"125 open already", "150-so\r\n150 many", "150 one\r\n150 two\r\n110 three"} {
		s := NewFTP(t, FTPManner{Rules: []FTPRule{FTPOn(func(x *FTPExchange) {
			x.Reply(early)
			c, err := x.Data()
			if err != nil {
				return
			}
			text, _ := x.Content()
			io.WriteString(c, text) // a client may leave early
			x.shut(c)
			x.Reply("226 done")
		}, "RETR", "MLSD")}})
		furnishFTP(s)
		patientFTP(t, s, func(c *connection) {
			for _, call := range ftpCalls {
				if err := c.doesFTP(s, call); err != nil {
					t.Errorf("with %q, %s: %v", early, call.name, err)
				}
			}
		})
	}
}

// TestFTPEarlyClose: who leaves a download early is not in the way of what follows, whatever the server makes of it:
// pure-ftpd ends it with a 150 as its only reply, others with 226, 426, both, or hang up.
func TestFTPEarlyClose(t *testing.T) {
	t.Parallel()
	big := numbered(10 << 20)
	pure := append(MLSTFeatures(), "ESTP", "SPSV")
	for _, last := range []string{"426 broken", "226 done", "150 0.1 seconds (measured here)", "426 broken\r\n226 abort", "", "421 bye", "cut"} {
		t.Run(last, func(t *testing.T) {
			t.Parallel()
			s := NewFTP(t, FTPManner{Features: pure, Rules: []FTPRule{Only150(last)}})
			furnishFTP(s)
			s.Put("big", File{Data: big, Mtime: 1_700_000_000})
			all := connectFTP
			costly := last == "" || strings.Contains(last, "\r\n") // silence and a reply too many cost the session
			if !costly {
				all = patientFTP
			}
			all(t, s, func(c *connection) {
				for range 5 {
					beginning := c.within(2*c.limit+slack, "the beginning of a file", func(ctx context.Context) error {
						got, err := read(ctx, c, "big", 1000)
						if err == nil && got != big[:1000] {
							t.Errorf("content %.40q", got)
						}
						return err
					})
					behind := c.bounded("stat", func(ctx context.Context) error {
						info, err := c.Stat(ctx, "file")
						if err == nil && info.Size != 3 {
							t.Errorf("size %d", info.Size)
						}
						return err
					})
					if err := errors.Join(beginning, behind); err != nil && !costly {
						t.Errorf("the first 1000 bytes, and a stat behind them: %v", err)
					}
				}
				s.Behave(FTPManner{Features: pure})
				c.recovers()
			})
		})
	}
}

// Only150 answers a RETR that the client leaves early by last alone.
func Only150(last string) FTPRule {
	return FTPOn(func(x *FTPExchange) {
		text, ok := x.Content()
		if !ok {
			x.Reply("550 no")
			return
		}
		rest := x.d.rest
		x.d.rest = 0
		x.Reply("150 here")
		c, err := x.Data()
		if err != nil {
			return
		}
		_, err = io.WriteString(c, text[min(int(rest), len(text)):])
		x.shut(c)
		switch {
		case err == nil:
			x.Reply("226 done")
		case last == "cut":
			x.Cut()
		case last != "":
			x.Reply(last)
		}
	}, "RETR")
}

// TestFTPBigUploadsOverTLS: eight uploads of 4 MiB over TLS 1.3 to a server that sends session tickets which nobody reads
// before the end: all arrive.
func TestFTPBigUploadsOverTLS(t *testing.T) {
	t.Parallel()
	p := newPrivate(t)
	s := NewFTP(t, FTPManner{TLS: p.config})
	furnishFTP(s)
	big := strings.Repeat("0123456789abcdef", 4<<16)
	connectTo(t, patient(p.target(s)), func(c *connection) {
		for n := range 8 {
			name := fmt.Sprintf("big-%d", n)
			if err := c.within(c.limit, "a big upload", func(ctx context.Context) error {
				return upload(ctx, c, name, big, backends.WriteMode{TempName: ".part", Perm: 0o644})
			}); err != nil {
				t.Errorf("upload %d: %v", n, err)
			}
			if f, _ := s.Get(name); f.Data != big {
				t.Errorf("upload %d: the server has %d bytes", n, len(f.Data))
			}
		}
	})
	if names := s.Names(""); slices.Contains(names, ".part") {
		t.Errorf("a temporary name is left: %q", names)
	}
}
