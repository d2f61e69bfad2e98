package hostile

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"pierfs/backends"
)

// TestUploadLies is the sixth row for uploads: whatever keeps the bytes from being on the server under their name is the
// error of Commit at the latest, and the name keeps what it had, byte for byte.
func TestUploadLies(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		rules   func() []Rule
		changed bool // the server itself has spoilt what the name had
	}{
		"writes discarded":             {rules: func() []Rule { return []Rule{Pretends(Write)} }},
		"later writes discarded":       {rules: func() []Rule { return []Rule{After(1, Pretends(Write), Write)} }},
		"writes refused":               {rules: func() []Rule { return []Rule{Refuses(Failure, Write)} }},
		"writes denied":                {rules: func() []Rule { return []Rule{Refuses(Denied, Write)} }},
		"writes end":                   {rules: func() []Rule { return []Rule{Refuses(EOF, Write)} }},
		"writes refused from byte 0":   {rules: func() []Rule { return []Rule{RefusesWriteFrom(0)} }},
		"writes refused from byte 1":   {rules: func() []Rule { return []Rule{RefusesWriteFrom(1)} }},
		"writes refused near the end":  {rules: func() []Rule { return []Rule{RefusesWriteFrom(uint64(len(content) - 1))} }},
		"half of each write is kept":   {rules: func() []Rule { return []Rule{Halves()} }},
		"fsync refused":                {rules: func() []Rule { return []Rule{Refuses(Failure, Fsync)} }},
		"close refused":                {rules: func() []Rule { return []Rule{Refuses(Failure, Close)} }},
		"close never answered":         {rules: func() []Rule { return []Rule{Mute(Close)} }},
		"rename refused":               {rules: func() []Rule { return []Rule{Refuses(Failure, PosixRename, Rename)} }},
		"rename denied":                {rules: func() []Rule { return []Rule{Refuses(Denied, PosixRename, Rename)} }},
		"rename only said to be done":  {rules: func() []Rule { return []Rule{Pretends(PosixRename, Rename)} }},
		"rename empties the name":      {rules: func() []Rule { return []Rule{Empties(PosixRename, "target")} }, changed: true},
		"size said to be 0":            {rules: func() []Rule { return []Rule{Alters(sized(0), Lstat, Fstat, Stat)} }},
		"size said to be one too many": {rules: func() []Rule { return []Rule{Alters(sized(uint64(len(content)+1)), Lstat, Fstat, Stat)} }},
		"size said to be -1":           {rules: func() []Rule { return []Rule{Alters(sized(math.MaxUint64), Lstat, Fstat, Stat)} }},
		"no size said":                 {rules: func() []Rule { return []Rule{Answers(kindAttrs, number(0), Lstat, Fstat)} }},
		"open refused":                 {rules: func() []Rule { return []Rule{Refuses(Denied, Open)} }},
		"cut at the second write":      {rules: func() []Rule { return []Rule{After(1, Cuts(Write), Write)} }},
		"cut at the closing":           {rules: func() []Rule { return []Rule{Cuts(Close)} }},
	} {
		for target, old := range map[string]bool{"new": false, "old": true} {
			t.Run(name+"/"+target, func(t *testing.T) {
				t.Parallel()
				s := New(t, Manner{})
				if old {
					s.Put("target", File{Data: "what was there"})
				}
				connect(t, s, func(c *connection) {
					c.warmAt("")
					s.Behave(Manner{Rules: test.rules()})
					// Writing content may take longer, if it moves; this one is short.
					err := c.bounded("upload", func(ctx context.Context) error {
						return upload(ctx, c, "target", content, backends.WriteMode{TempName: ".target.part", Perm: 0o644})
					})
					if err == nil {
						t.Error("the upload succeeded")
					}
				})
				f, ok := s.Get("target")
				if !test.changed && (ok != old || ok && f.Data != "what was there") {
					t.Errorf("the name has %.40q after the failed upload, exists: %v, before: %v", f.Data, ok, old)
				}
			})
		}
	}
}

// sized puts another size into an ATTRS reply.
func sized(size uint64) func(*Exchange, []byte) []byte {
	return func(_ *Exchange, reply []byte) []byte {
		const at = 4 + 1 + 4 + 4 // length, kind, id, flags
		if reply[4] == kindAttrs && len(reply) >= at+8 {
			copy(reply[at:], long(size))
		}
		return reply
	}
}

// TestRefusedUploadLeavesNoRest: a failed upload takes its temporary file along, if the server lets it.
func TestRefusedUploadLeavesNoRest(t *testing.T) {
	t.Parallel()
	s := New(t, Manner{Rules: []Rule{RefusesWriteFrom(100_000)}})
	furnish(s)
	left := func(name string) bool { return strings.HasPrefix(name, ".") || name == "new" }
	connect(t, s, func(c *connection) {
		if err := c.bounded("upload", func(ctx context.Context) error {
			return upload(ctx, c, "old", content, backends.WriteMode{TempName: ".old.part", Perm: 0o644})
		}); err == nil {
			t.Error("the upload succeeded")
		}
		if err := c.bounded("exclusive upload", func(ctx context.Context) error {
			return upload(ctx, c, "new", content, backends.WriteMode{TempName: ".new.part", Perm: 0o644, Exclusive: true})
		}); err == nil {
			t.Error("the exclusive upload succeeded")
		}
		// What is thrown away need not be gone when Commit returns, but soon.
		if err := c.bounded("cleaning up", func(ctx context.Context) error {
			for slices.ContainsFunc(s.Names(""), left) && ctx.Err() == nil {
				pause(ctx)
			}
			return nil
		}); err != nil || slices.ContainsFunc(s.Names(""), left) {
			t.Errorf("something is left over in %q", s.Names(""))
		}
	})
	for i, r := range s.Requests() {
		if (r.Op == PosixRename || r.Op == Rename) && strings.Contains(r.Path, ".part") {
			t.Errorf("request %d is a rename of a content whose writing had failed: %v", i, r)
		}
	}
}

// TestReadLies is the same row for downloads: a caller who compares what ReadLast returns with what it tells, or with what
// Stat has told, notices every lie about the size.
func TestReadLies(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		claim uint64
		data  int
	}{{1000, 3}, {3, 1000}, {0, 5}, {5, 0}, {math.MaxUint64, 3}, {math.MaxInt64, 3}, {math.MaxInt64 + 1, 3}, {1 << 40, 70_000}} {
		t.Run(fmt.Sprintf("%d of %d", test.data, test.claim), func(t *testing.T) {
			t.Parallel()
			s := New(t, Manner{})
			furnish(s)
			s.Put("liar", Claims(test.claim, strings.Repeat("x", test.data)))
			connect(t, s, func(c *connection) {
				c.warm()
				var info backends.Info
				if err := c.bounded("stat", func(ctx context.Context) (err error) { info, err = c.Stat(ctx, "liar"); return err }); err != nil {
					return // to refuse the absurd is well
				}
				if info.Size < 0 {
					t.Errorf("the size is %d", info.Size)
				}
				got := ""
				err := c.bounded("read", func(ctx context.Context) (err error) { got, err = readLast(ctx, c, "liar", 128<<10); return err })
				if err == nil && info.Size == int64(len(got)) {
					t.Errorf("%d bytes agree with a size of %d", len(got), info.Size)
				}
			})
		})
	}
}

// TestReadRepliesOfOtherLengths: replies to READ that are too long, or have nothing in them, are errors; short ones are read
// on from where they end.
func TestReadRepliesOfOtherLengths(t *testing.T) {
	t.Parallel()
	data := strings.Repeat("0123456789", 10_000)
	replies := func(length func(asked int) int) Rule {
		return On(func(x *Exchange) {
			if x.handle == nil || x.Offset >= uint64(len(data)) {
				x.Send(x.honest())
				return
			}
			part := data[x.Offset:]
			for len(part) < length(int(x.Length)) {
				part += data
			}
			x.Reply(kindData, text(part[:length(int(x.Length))]))
		}, Read)
	}
	for name, test := range map[string]struct {
		length func(int) int
		ok     bool
	}{
		"half":          {func(n int) int { return (n + 1) / 2 }, true},
		"one thousand":  {func(n int) int { return min(n, 1000) }, true},
		"one more":      {func(n int) int { return n + 1 }, false},
		"twice as much": {func(n int) int { return 2 * n }, false},
		"nothing":       {func(int) int { return 0 }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := New(t, Manner{})
			furnish(s)
			s.Put("big", File{Data: data})
			connectTo(t, patient(target(s)), func(c *connection) {
				c.warm()
				s.Behave(Manner{Rules: []Rule{replies(test.length)}})
				for what, read := range map[string]func(context.Context, backends.Backend, string, int) (string, error){"read": read, "read last": readLast} {
					got := ""
					err := c.bounded(what, func(ctx context.Context) (err error) { got, err = read(ctx, c, "big", 65536); return err })
					switch {
					case (err == nil) != test.ok:
						t.Errorf("%s: %v, want success: %v", what, err, test.ok)
					case test.ok && got != data[:65536]:
						t.Errorf("%s has %d bytes that are not those of the file", what, len(got))
					}
				}
			})
		})
	}
}

// TestSlowDrip is the other half of the fifth row: what comes, but less than 1 KiB within the timeout, is no progress.
func TestSlowDrip(t *testing.T) {
	t.Parallel()
	ticks := func(t *testing.T, each time.Duration) <-chan time.Time {
		ticker := time.NewTicker(each)
		t.Cleanup(ticker.Stop)
		return ticker.C
	}
	for _, call := range calls {
		for _, op := range call.needs {
			t.Run(fmt.Sprintf("%s/%s", call.name, op), func(t *testing.T) {
				t.Parallel()
				drips(t, call, Drips(ticks(t, timeout/25), op))
			})
		}
	}
	// Whole answers, each of them in time, and all of them nothing.
	for name, test := range map[string]struct {
		call string
		rule func(<-chan time.Time) Rule
	}{
		"a name at a time for ever": {"list", func(ticks <-chan time.Time) Rule { return ListsSlowly(ticks) }},
		"a byte at a time":          {"read", func(ticks <-chan time.Time) Rule { return ReadsSlowly(ticks, Read) }},
		"a byte at a time, last":    {"read last", func(ticks <-chan time.Time) Rule { return ReadsSlowly(ticks, Read) }},
		"no name for ever":          {"list", func(ticks <-chan time.Time) Rule { return Slowly(ticks, Answers(kindName, number(0), Readdir)) }},
		"no name for ever, quickly": {"list", func(<-chan time.Time) Rule { return Answers(kindName, number(0), Readdir) }},
		"one name for ever, quickly": {"list", func(<-chan time.Time) Rule {
			return Answers(kindName, append(number(1), Entry{"same", File{}}.encode()...), Readdir)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, call := range calls {
				if call.name == test.call {
					drips(t, call, test.rule(ticks(t, timeout/4)))
				}
			}
		})
	}
}

func drips(t *testing.T, call call, rule Rule) {
	s := New(t, Manner{})
	furnish(s)
	s.Put("file", File{Data: strings.Repeat("abc", 100)})
	connect(t, s, func(c *connection) {
		c.warm()
		s.Behave(Manner{Rules: []Rule{rule}})
		err := c.does(call, call.name)
		if errors.Is(err, errUntrue) && !strings.Contains(err.Error(), "size 300") && !strings.Contains(err.Error(), strings.Repeat("abc", 33)) {
			t.Errorf("%s succeeded: %v", call.name, err)
		}
		if err != nil {
			s.Behave(Manner{})
			c.recovers()
		}
	})
}

// TestLostConnectionIsNoEndOfFile: that a connection ends is told by io.EOF, and so is the end of a file. The first must
// never look like the second: a copy would be cut short without anybody noticing.
func TestLostConnectionIsNoEndOfFile(t *testing.T) {
	t.Parallel()
	for name, wire := range map[string]func(*Wire) net.Conn{
		"at once":           SaysAndCuts(""),
		"after the version": SaysAndCuts("SSH-2.0-OpenSSH_9.2p1\r\n"),
		"in the login":      CutsAfter(1300),
		"in the greeting":   CutsAfter(1600),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := New(t, Manner{})
			furnish(s)
			connect(t, s, func(c *connection) {
				c.warm()
				r, err := c.Open(t.Context(), "file")
				if err != nil {
					t.Fatal(err)
				}
				defer r.Close() // it waits for nobody
				s.Behave(Manner{Wire: wire})
				s.CutAll()
				if err := c.bounded("read", func(ctx context.Context) error { _, err := r.ReadAt(ctx, make([]byte, 10), 0); return err }); err == nil {
					t.Error("reading without a connection succeeded")
				}
				if err := c.bounded("list", func(ctx context.Context) error { _, err := list(ctx, c, "dir"); return err }); err == nil {
					t.Error("listing without a connection succeeded")
				}
			})
		})
	}
}
