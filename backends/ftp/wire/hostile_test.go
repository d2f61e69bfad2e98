package wire

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"pierfs/backends"
	"pierfs/backends/netconn"
)

func do(t *testing.T, s *Session, commands ...string) []Reply {
	t.Helper()
	replies, err := s.Do(t.Context(), commands...)
	if err != nil {
		t.Errorf("Do %v: %v", commands, err)
	}
	return replies
}

// TestUnusualIsTakenForWhatItIs: codes that are good, though not the ones the RFC names.
func TestUnusualIsTakenForWhatItIs(t *testing.T) {
	s, _ := session(t, map[string]answer{
		"PASS": says("202 superfluous"),
		"DELE": says("200 done"), "MKD": says("250 done"), "CWD": says("200 done"),
		"SIZE": says("213-wait\r\n213 12"),
		"PWD":  says(`257 "/a""b" is "where" you are`),
		"RETR": func(c *control, _ string) { c.say("125 open already"); c.send("x"); c.say("250 fine") },
		"STOR": func(c *control, _ string) {
			c.say("125 open already")
			io.Copy(io.Discard, c.accept())
			c.say("250 fine")
		},
		"LIST": func(c *control, _ string) { c.send(""); c.say("226 nothing to say before") },
		"NOOP": says("100 wait\r\n101 a little\r\n200 now"),
	})
	if s.Home() != `/a"b` {
		t.Errorf("home %q", s.Home())
	}
	for i, reply := range do(t, s, "DELE a", "MKD b", "CWD c", "SIZE d", "NOOP") {
		if want := []int{200, 250, 200, 213, 200}[i]; reply.Code != want {
			t.Errorf("reply %d: %v, want %d", i, reply, want)
		}
	}
	if got, err := retrieve(t.Context(), s, "/f", 0); string(got) != "x" || err != nil {
		t.Errorf("retrieved %q, %v", got, err)
	}
	if _, err := store(t.Context(), s, "STOR /f", []byte("x")); err != nil {
		t.Errorf("store: %v", err)
	}
	d, err := s.List(t.Context(), "LIST /")
	ok(t, err)
	if got, err := io.ReadAll(d); len(got) != 0 || err != nil {
		t.Errorf("list: %q, %v", got, err)
	}
	if reply, err := d.End(t.Context()); reply.Code != 226 || err != nil {
		t.Errorf("end of list: %v, %v", reply, err)
	}
	if !s.Healthy() {
		t.Error("spoiled")
	}
}

// TestStraysAreNeverBelieved: a reply that is there before its command, or behind the last one, ends the session.
func TestStraysAreNeverBelieved(t *testing.T) {
	for name, answers := range map[string]map[string]answer{
		"behind a reply":  {"NOOP": says("200 ok\r\n213 999")},
		"a line too many": {"NOOP": says("213-status\r\n213 End\r\n -rw-r--r-- evil\r\n213 End")},
		"another kind's":  {"NOOP": says("213 999")},
		"no reply":        {"NOOP": says("hello")},
		"half a reply":    {"NOOP": func(c *control, _ string) { io.WriteString(c, "213-hal"); c.Close() }},
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := session(t, answers)
			if replies, err := s.Do(t.Context(), "NOOP"); err == nil {
				t.Errorf("believed %v", replies)
			}
			eventually(t, "spoiled", func() bool { return !s.Healthy() })
			_, err := s.Do(t.Context(), "SIZE /f")
			failed(t, err, backends.Transient)
		})
	}
	t.Run("before a command", func(t *testing.T) {
		sent := make(chan struct{})
		s, f := session(t, map[string]answer{"NOOP": func(c *control, _ string) {
			c.say("200 ok")
			<-sent
			c.say("213 999")
			sent <- struct{}{}
		}})
		do(t, s, "NOOP")
		sent <- struct{}{}
		<-sent
		eventually(t, "spoiled", func() bool { return !s.Healthy() }) // it is on its way
		_, err := s.Do(t.Context(), "SIZE /f")
		failed(t, err, backends.Transient)
		if lines := f.heard("SIZE"); len(lines) > 0 || s.Healthy() {
			t.Errorf("sent %q, healthy %v", lines, s.Healthy())
		}
	})
}

// TestRepliesFitTheirCommands: a surplus reply shifts all that follow; none is believed that cannot be meant.
func TestRepliesFitTheirCommands(t *testing.T) {
	for command, bad := range map[string]string{
		"SIZE /f": "250 done", "MDTM /f": "226 done", "MLST /f": "213 10", "RNFR /f": "250 renamed", "PWD": "250 here", "DELE /f": "213 10", "RNTO /f": "350 go on",
		"MKD /f": "213 10", "RMD /f": "257 \"/f\" made", "STAT /f": "257 \"/f\" made",
	} {
		verb, _, _ := strings.Cut(command, " ")
		s, f := session(t, nil)
		f.mu.Lock()
		f.answers = map[string]answer{verb: says(bad)}
		f.mu.Unlock()
		_, err := s.Do(t.Context(), command)
		failed(t, err, backends.Lost)
		if !errors.Is(err, errMisfit) || s.Healthy() {
			t.Errorf("%s answered by %q: %v, healthy %v", command, bad, err, s.Healthy())
		}
	}
}

// TestGoodbye: 421 ends the session. What was sent before it was read may have been done all the same, and nothing else.
func TestGoodbye(t *testing.T) {
	s, _ := session(t, map[string]answer{"NOOP": func(c *control, _ string) { c.say("421 tired"); c.Close() }})
	replies, err := s.Do(t.Context(), "NOOP", "SIZE /f")
	failed(t, err, backends.Lost)
	if len(replies) != 0 || s.Healthy() {
		t.Errorf("replies %v, healthy %v", replies, s.Healthy())
	}
	s, _ = session(t, map[string]answer{"NOOP": func(c *control, _ string) { c.say("421 tired"); c.Close() }})
	replies, err = s.Do(t.Context(), "SIZE /f", "NOOP", "SIZE /f")
	failed(t, err, backends.Lost)
	if len(replies) != 1 {
		t.Errorf("replies %v, want the first", replies)
	}
	s, _ = session(t, map[string]answer{"NOOP": func(c *control, _ string) { c.say("200 ok\r\n421 tired"); c.Close() }})
	do(t, s, "NOOP")
	eventually(t, "noticed", func() bool { return !s.Healthy() })
	_, err = s.Do(t.Context(), "NOOP")
	failed(t, err, backends.Transient)
	if !strings.Contains(err.Error(), "tired") {
		t.Errorf("%v: does not say why", err)
	}
}

// TestSilenceEnds: every wait has an end.
func TestSilenceEnds(t *testing.T) {
	stall := func(c *control, _ string) { c.say("150 soon"); io.WriteString(c.accept(), "abc") }
	drip := func(c *control, _ string) {
		c.say("150 soon")
		conn := c.accept()
		for {
			if _, err := io.WriteString(conn, "x"); err != nil {
				return
			}
			time.Sleep(time.Second)
		}
	}
	noEnd := func(c *control, _ string) { c.say("150 soon"); c.send("abc") }
	dripped := func(c *control, _ string) {
		for {
			if _, err := io.WriteString(c, "2"); err != nil {
				return
			}
			time.Sleep(time.Second)
		}
	}
	read := func(ctx context.Context, s *Session) error { _, err := retrieve(ctx, s, "/f", 0); return err }
	for name, test := range map[string]struct {
		answers map[string]answer
		call    func(ctx context.Context, s *Session) error
		class   backends.Class
	}{
		"a command":     {map[string]answer{"NOOP": silent}, func(ctx context.Context, s *Session) error { _, err := s.Do(ctx, "NOOP"); return err }, backends.Lost},
		"a reply drips": {map[string]answer{"NOOP": dripped}, func(ctx context.Context, s *Session) error { _, err := s.Do(ctx, "NOOP"); return err }, backends.Lost},
		"EPSV":          {map[string]answer{"EPSV": silent}, read, backends.Lost},
		"RETR":          {map[string]answer{"RETR": silent}, read, backends.Transient},
		"content":       {map[string]answer{"RETR": stall}, read, backends.Transient},
		"content drips": {map[string]answer{"RETR": drip}, read, backends.Transient},
		"226":           {map[string]answer{"RETR": noEnd}, read, backends.Transient},
		"STOR": {map[string]answer{"STOR": silent}, func(ctx context.Context, s *Session) error {
			_, err := store(ctx, s, "STOR /f", []byte("x"))
			return err
		}, backends.Lost},
		"226 of STOR": {map[string]answer{"STOR": func(c *control, _ string) { c.say("150 go"); io.Copy(io.Discard, c.accept()) }}, func(ctx context.Context, s *Session) error {
			_, err := store(ctx, s, "STOR /f", []byte("x"))
			return err
		}, backends.Lost},
		"nobody reads": {map[string]answer{"STOR": func(c *control, _ string) { c.say("150 go"); c.accept() }}, func(ctx context.Context, s *Session) error {
			_, err := store(ctx, s, "STOR /f", make([]byte, 16<<20))
			return err
		}, backends.Lost},
	} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, test.answers, func(t *testing.T, s *Session) {
				begun := time.Now()
				err := test.call(t.Context(), s)
				failed(t, err, test.class)
				if code := backends.Errno(err); code != syscall.ETIMEDOUT {
					t.Errorf("%v: %v, want ETIMEDOUT", err, code)
				}
				if took := time.Since(begun); took > 3*time.Minute {
					t.Errorf("took %v", took)
				}
				if s.Healthy() {
					t.Error("still healthy")
				}
			})
		})
	}
}

// TestIdleSessionStays: a timeout is of a wait, and leaves nothing behind that ends the next one.
func TestIdleSessionStays(t *testing.T) {
	inMemory(t, nil, func(t *testing.T, s *Session) {
		_, err := store(t.Context(), s, "STOR /f", []byte("x"))
		ok(t, err)
		time.Sleep(10 * s.o.SocketTimeout)
		do(t, s, "NOOP")
		if got, err := retrieve(t.Context(), s, "/f", 0); string(got) != "0123456789" || err != nil {
			t.Errorf("retrieved %q, %v", got, err)
		}
	})
}

// TestBoundsOfReplies: no reply costs memory without end.
func TestBoundsOfReplies(t *testing.T) {
	endless := func(piece string) answer {
		return func(c *control, _ string) {
			piece := strings.Repeat(piece, 1000)
			for {
				if _, err := io.WriteString(c, piece); err != nil {
					return
				}
			}
		}
	}
	for name, a := range map[string]answer{
		"line": endless("2"), "lines": func(c *control, _ string) { c.say("213-x"); endless("and on\r\n")(c, "") }, "preliminary": endless("150 soon\r\n"),
	} {
		s, _ := session(t, map[string]answer{"NOOP": a, "STAT": a})
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := s.Do(t.Context(), "NOOP")
		failed(t, err, backends.Lost)
		if runtime.ReadMemStats(&after); after.TotalAlloc-before.TotalAlloc > 32<<20 {
			t.Errorf("%s: %d bytes allocated", name, after.TotalAlloc-before.TotalAlloc)
		}
	}
	// A listing in a reply may be longer than what is kept, and the session stays in step.
	s, _ := session(t, map[string]answer{"STAT": func(c *control, _ string) {
		c.say("213-listing\r\n%s213 End", strings.Repeat("-rw-r--r-- 1 u g 0 Jan 1 00:00 "+strings.Repeat("x", 100)+"\r\n", 20000))
	}})
	replies := do(t, s, "STAT /", "NOOP")
	if len(replies) != 2 || !replies[0].Cut || replies[0].Lines[len(replies[0].Lines)-1] != "End" || replies[1].Code != 200 {
		t.Error("a long listing breaks the dialogue")
	}
	_, err := s.Do(t.Context(), "FEAT\x00")
	failed(t, err, backends.Final)
}

// TestCommandsStayWhole: what would be two commands is none.
func TestCommandsStayWhole(t *testing.T) {
	s, f := session(t, nil)
	for _, bad := range []string{"DELE /a\r\nDELE /b", "DELE a\nb", "DELE a\x00"} {
		if _, err := s.Do(t.Context(), "NOOP", bad); backends.Errno(err) != syscall.EINVAL {
			t.Errorf("Do %q: %v", bad, err)
		}
		if _, err := s.Retrieve(t.Context(), bad, 0); backends.Errno(err) != syscall.EINVAL {
			t.Errorf("Retrieve %q: %v", bad, err)
		}
		if _, err := s.Store(t.Context(), "STOR "+bad); backends.Errno(err) != syscall.EINVAL {
			t.Errorf("Store %q: %v", bad, err)
		}
		if _, err := s.Store(t.Context(), "STOR /a", bad); backends.Errno(err) != syscall.EINVAL {
			t.Errorf("Store behind %q: %v", bad, err)
		}
	}
	if lines := f.heard("DELE"); len(lines) > 0 || len(f.heard("NOOP")) > 0 || !s.Healthy() {
		t.Errorf("sent %q", lines)
	}
	for _, o := range []Options{{Username: "u\r\nDELE x"}, {Username: "u", Password: func() (string, error) { return "p\r\nDELE x", nil }}} {
		o.Address, o.ConnectTimeout, o.SocketTimeout = f.listener.Addr().String(), time.Second, time.Second
		if _, err := Dial(t.Context(), o); err == nil {
			t.Error("logged in with two commands")
		}
	}
	if lines := f.heard("DELE"); len(lines) > 0 {
		t.Errorf("sent %q", lines)
	}
}

// TestLineEndsGoToVsftpdOnly: they stand in a command for themselves, and it stays one command.
func TestLineEndsGoToVsftpdOnly(t *testing.T) {
	f := newFake(t, nil)
	f.greets("220 (vsFTPd 3.0.3)\r\n")
	s := logIn(t, f.options())
	if !s.Features().LineEnds {
		t.Fatal("it is not known for what it says")
	}
	for _, good := range []string{"DELE a\x00b", "DELE a\rb", "DELE \ra\x00\x00\rb\x00"} {
		if _, err := s.Do(t.Context(), good); err != nil {
			t.Errorf("Do %q: %v", good, err)
		}
		if got := f.heard("DELE"); len(got) == 0 || got[len(got)-1] != good {
			t.Errorf("sent %q, want %q", got, good)
		}
	}
	sent := len(f.heard("DELE"))
	for _, bad := range []string{"DELE a\r", "DELE a\nb", "DELE a\r\nDELE b", "DELE a\r\x00b"} {
		if _, err := s.Do(t.Context(), bad); backends.Errno(err) != syscall.EINVAL {
			t.Errorf("Do %q: %v", bad, err)
		}
	}
	if len(f.heard("DELE")) != sent || !s.Healthy() {
		t.Errorf("sent %q", f.heard("DELE")[sent:])
	}
}

// TestDownloadsTellHowTheyEnd: a content that was cut is told by the final reply, or by its absence.
func TestDownloadsTellHowTheyEnd(t *testing.T) {
	cut := func(reply string) answer {
		return func(c *control, _ string) { c.say("150 soon"); c.send("abc"); c.say("%s", reply) }
	}
	for _, code := range []int{426, 451, 552} {
		s, _ := session(t, map[string]answer{"RETR": cut(fmt.Sprint(code, " no more"))})
		got, err := retrieve(t.Context(), s, "/f", 0)
		refusedWith(t, err, code)
		if string(got) != "abc" || !s.Healthy() {
			t.Errorf("%d: got %q, healthy %v", code, got, s.Healthy())
		}
	}
	s, _ := session(t, map[string]answer{"RETR": func(c *control, _ string) { c.say("150 soon"); c.send("abc"); c.Close() }})
	_, err := retrieve(t.Context(), s, "/f", 0)
	failed(t, err, backends.Transient)
	if errors.Is(err, io.EOF) {
		t.Errorf("%v passes for the end of a file", err)
	}
	reset := func(c *control, _ string) {
		c.say("150 soon")
		conn := c.accept().(*net.TCPConn)
		io.WriteString(conn, "abc")
		conn.SetLinger(0)
		conn.Close()
		c.say("226 fine")
	}
	s, _ = session(t, map[string]answer{"RETR": reset})
	if got, err := retrieve(t.Context(), s, "/f", 0); err == nil {
		t.Errorf("reset after 3 bytes: %q and no error", got)
	}
	s, _ = session(t, map[string]answer{"REST": says("502 cannot"), "RETR": func(c *control, _ string) { c.say("150 soon"); c.send("0123"); c.say("226 done") }})
	_, err = retrieve(t.Context(), s, "/f", 5)
	refusedWith(t, err, 502)
	do(t, s, "NOOP")
	s, _ = session(t, map[string]answer{"RETR": says("550 none")})
	_, err = s.Retrieve(t.Context(), "/f", 0)
	refusedWith(t, err, 550)
	do(t, s, "NOOP")
}

// TestUploadsTellHowTheyEnd: what the server did not take never looks like success.
func TestUploadsTellHowTheyEnd(t *testing.T) {
	big := make([]byte, 16<<20)
	early := func(end string) answer {
		return func(c *control, _ string) {
			c.say("150 go on")
			conn := c.accept()
			io.ReadFull(conn, make([]byte, 10))
			conn.Close()
			c.say("%s", end)
		}
	}
	for name, test := range map[string]struct {
		stor    answer
		content []byte
		code    int // of the refusal; 0 is Lost
	}{
		"552":            {early("552 quota exceeded"), big, 552},
		"a lie":          {early("226 I have it all"), big, 0},
		"no word":        {func(c *control, _ string) { c.say("150 go"); io.Copy(io.Discard, c.accept()); c.Close() }, []byte("x"), 0},
		"553":            {says("553 not there"), []byte("x"), 553},
		"553, something": {says("553 not there"), big, 553},
		"452 at the end": {func(c *control, _ string) { c.say("150 go"); io.Copy(io.Discard, c.accept()); c.say("452 full") }, []byte("x"), 452},
	} {
		for _, banner := range []string{"220 fake\r\n", "220 (vsFTPd 3.0.3)\r\n"} {
			f := newFake(t, map[string]answer{"STOR": test.stor})
			f.greets(banner)
			s := logIn(t, f.options())
			_, err := store(t.Context(), s, "STOR /f", test.content, "SIZE /f")
			if test.code == 0 {
				failed(t, err, backends.Lost)
				continue
			}
			refusedWith(t, err, test.code)
			if !s.Healthy() {
				t.Errorf("%s, %q: spoiled", name, banner)
			}
			do(t, s, "NOOP")
		}
	}
}

// TestOneByOneUnlessSequential: what is to come behind an upload is sent with it only where the server is known to wait.
func TestOneByOneUnlessSequential(t *testing.T) {
	for banner, together := range map[string]bool{"220 fake\r\n": false, "220 (vsFTPd 3.0.3)\r\n": true, "220 Welcome to Pure-FTPd\r\n": false} {
		stor := make(chan int, 1)
		f := newFake(t, map[string]answer{"STOR": func(c *control, _ string) {
			c.say("150 go on")
			io.Copy(io.Discard, c.accept())
			stor <- c.r.Buffered()
			c.say("226 done")
		}})
		f.greets(banner)
		s := logIn(t, f.options())
		replies, err := store(t.Context(), s, "STOR /f", []byte("x"), "SIZE /f", "NOOP")
		if err != nil || len(replies) != 2 || replies[0].Code != 213 || replies[1].Code != 200 {
			t.Errorf("%q: %v, %v", banner, replies, err)
		}
		if waiting := <-stor; (waiting > 0) != together {
			t.Errorf("%q: %d bytes behind STOR, together: %v", banner, waiting, together)
		}
	}
}

// TestEarlyCloseComesBackIntoStep whatever the order in which a server says that it has stopped.
func TestEarlyCloseComesBackIntoStep(t *testing.T) {
	flood := func(c *control) {
		conn := c.accept()
		for {
			if _, err := conn.Write(make([]byte, 1<<16)); err != nil {
				conn.Close()
				return
			}
		}
	}
	for name, test := range map[string]struct {
		retr    answer
		pwd     answer
		healthy bool
	}{
		"426":          {func(c *control, _ string) { c.say("150 go"); flood(c); c.say("426 oh") }, nil, true},
		"226":          {func(c *control, _ string) { c.say("150 go"); flood(c); c.say("226 fine") }, nil, true},
		"257 first":    {func(c *control, _ string) { c.say("150 go"); flood(c) }, says("257 \"/\" here\r\n426 oh"), true},
		"nothing":      {func(c *control, _ string) { c.say("150 go"); flood(c) }, nil, false},
		"closes":       {func(c *control, _ string) { c.say("150 go"); flood(c); c.Close() }, nil, false},
		"one too many": {func(c *control, _ string) { c.say("150 go"); flood(c); c.say("426 oh"); c.say("226 ah") }, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, f := session(t, map[string]answer{"RETR": test.retr})
			if test.pwd != nil {
				f.mu.Lock()
				f.answers["PWD"] = test.pwd
				f.mu.Unlock()
			}
			d, err := s.Retrieve(t.Context(), "/f", 0)
			ok(t, err)
			io.ReadFull(d, make([]byte, 100))
			d.Cancel()
			d.Cancel() // no second time
			replies, err := s.Do(t.Context(), "SIZE /f")
			if healthy := err == nil; healthy != test.healthy {
				t.Errorf("%v, want healthy: %v", err, test.healthy)
			}
			if err == nil && replies[0].Lines[0] != "10" {
				t.Errorf("SIZE says %v", replies)
			}
		})
	}
	t.Run("an upload", func(t *testing.T) {
		taken := make(chan error, 1)
		f := newFake(t, map[string]answer{"STOR": func(c *control, _ string) {
			c.say("150 go")
			_, err := io.Copy(io.Discard, c.accept())
			taken <- err
			c.say("426 oh")
		}})
		f.greets("220 (vsFTPd 3.0.3)\r\n")
		s := logIn(t, f.options())
		u, err := s.Store(t.Context(), "STOR /f", "SIZE /f")
		ok(t, err)
		_, err = u.Write(make([]byte, 1000))
		ok(t, err)
		u.Cancel()
		if err := <-taken; err == nil {
			t.Error("the server was told that this was all")
		}
		do(t, s, "NOOP")
	})
}

// TestDataConnections: how they come about, and where they never lead.
func TestDataConnections(t *testing.T) {
	foreign, err := net.Listen("tcp", "127.0.0.2:0")
	ok(t, err)
	defer foreign.Close()
	pasv := func(format string) answer {
		return func(c *control, _ string) { p := c.listen(); c.say(format, p>>8, p&0xff) }
	}
	for name, test := range map[string]struct {
		answers map[string]answer
		command string
	}{
		"EPSV":              {nil, "EPSV"},
		"EPSV refused":      {map[string]answer{"EPSV": says("500 what?")}, "PASV"},
		"EPSV later":        {map[string]answer{"EPSV": says("425 not now")}, "PASV"},
		"EPSV of no family": {map[string]answer{"EPSV": says("522 use (1)")}, "PASV"},
		"EPSV nonsense":     {map[string]answer{"EPSV": says("229 )|||x|(")}, "PASV"},
		"EPSV closed port":  {map[string]answer{"EPSV": says("229 there (|||1|)")}, "PASV"},
		"no parentheses":    {map[string]answer{"EPSV": says("500 what?"), "PASV": pasv("227 Entering 127,0,0,1,%d,%d")}, "PASV"},
		"an equals sign":    {map[string]answer{"EPSV": says("500 what?"), "PASV": pasv("227 =127,0,0,1,%d,%d")}, "PASV"},
		"another host":      {map[string]answer{"EPSV": says("500 what?"), "PASV": pasv("227 there (127,0,0,2,%d,%d)")}, "PASV"},
	} {
		s, f := session(t, test.answers)
		for range 2 {
			if got, err := retrieve(t.Context(), s, "/f", 0); string(got) != "0123456789" || err != nil {
				t.Errorf("%s: %q, %v", name, got, err)
			}
		}
		how, err := s.Passive(t.Context())
		if err != nil || how.Command != test.command || !strings.HasPrefix(how.Used, "127.0.0.1:") || s.Features().PASV != (test.command == "PASV") {
			t.Errorf("%s: %+v, %v, PASV %v", name, how, err, s.Features().PASV)
		}
		if tries := len(f.heard("EPSV")); test.command == "PASV" && tries != 1 {
			t.Errorf("%s: EPSV tried %d times", name, tries)
		}
	}
	for _, reply := range []string{"227 )(", "227 (1,2,3,4,5)", "227 (127,0,0,1,0,0)", "227 (1,2,3,4,5,256)", "227", "425 none left"} {
		s, _ := session(t, map[string]answer{"EPSV": says("500 what?"), "PASV": says(reply)})
		_, err := s.Retrieve(t.Context(), "/f", 0)
		if backends.CauseOf(err) != backends.CausePassiveBlocked {
			t.Errorf("%s: %v", reply, err)
		}
		if _, mistaken := errors.AsType[*Refusal](err); mistaken {
			t.Errorf("%s: passes for a refusal of RETR", reply)
		}
		do(t, s, "NOOP")
	}
}

// TestStaleSpare: a data connection opened ahead that the server has given up is replaced.
func TestStaleSpare(t *testing.T) {
	first := true
	s, _ := session(t, map[string]answer{"RETR": func(c *control, arg string) {
		if first {
			first = false
			c.say("425 too late")
			return
		}
		sound["RETR"](c, arg)
	}})
	s.Warm()
	if got, err := retrieve(t.Context(), s, "/f", 0); string(got) != "0123456789" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	_, err := s.Passive(t.Context())
	ok(t, err)
	s.Cool()
	s.Cool()
	if s.spare != nil {
		t.Error("kept")
	}
}

// TestOneSpareAtATime: a data connection that is given back while it is being opened, and wanted again, is one.
func TestOneSpareAtATime(t *testing.T) {
	s, f := session(t, nil)
	for range 50 {
		s.Warm()
		s.Cool()
		if got, err := retrieve(t.Context(), s, "/f", 0); string(got) != "0123456789" || err != nil {
			t.Fatalf("%q, %v", got, err)
		}
		s.Warm()
		s.Cool()
		s.Warm()
	}
	if len(f.heard("PASV")) > 0 || s.Features().PASV {
		t.Error("EPSV was taken for broken")
	}
}

// TestActive: the server connects to us; nobody else may.
func TestActive(t *testing.T) {
	retr := func(local string) answer {
		return func(c *control, _ string) {
			c.say("150 soon")
			var h [4]int
			var p [2]int
			for _, line := range c.f.heard("PORT") {
				fmt.Sscanf(line, "PORT %d,%d,%d,%d,%d,%d", &h[0], &h[1], &h[2], &h[3], &p[0], &p[1])
			}
			for _, line := range c.f.heard("EPRT") {
				port := 0
				fmt.Sscanf(line, "EPRT |1|127.0.0.1|%d|", &port)
				p = [2]int{port >> 8, port & 0xff}
			}
			for _, from := range []string{local, "127.0.0.1:0"} {
				a, _ := net.ResolveTCPAddr("tcp", from)
				conn, err := (&net.Dialer{LocalAddr: a}).Dial("tcp", fmt.Sprintf("127.0.0.1:%d", p[0]<<8|p[1]))
				if err != nil {
					c.say("425 %v", err)
					return
				}
				io.WriteString(conn, from)
				conn.Close()
			}
			c.say("226 done")
		}
	}
	for _, eprt := range []answer{says("200 fine"), says("500 what?")} {
		f := newFake(t, map[string]answer{"EPRT": eprt, "PORT": says("200 fine"), "RETR": retr("127.0.0.2:0")})
		o := f.options()
		o.Active = true
		s := logIn(t, o)
		if got, err := retrieve(t.Context(), s, "/f", 0); string(got) != "127.0.0.1:0" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
	}
	f := newFake(t, nil)
	o := f.options()
	o.Active = true
	o.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		here, there := net.Pipe()
		t.Cleanup(func() { there.Close() })
		return here, nil
	}
	_, err := Dial(t.Context(), o)
	failed(t, err, backends.Final)
}

// TestContexts: an ended context ends the wait, and the session if a dialogue was under way.
func TestContexts(t *testing.T) {
	asked := make(chan struct{})
	s, f := session(t, map[string]answer{"NOOP": func(*control, string) { close(asked) }})
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Do(ended, "SIZE /f")
	failed(t, err, backends.Transient)
	if len(f.heard("SIZE")) > 0 || !s.Healthy() {
		t.Error("an ended context sends something, or spoils")
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-asked; cancel() }()
	_, err = s.Do(ctx, "NOOP")
	failed(t, err, backends.Lost)
	if backends.Errno(err) != syscall.EINTR || s.Healthy() {
		t.Errorf("%v, healthy %v", err, s.Healthy())
	}
	s, _ = session(t, map[string]answer{"STOR": func(c *control, _ string) { c.say("150 go"); c.accept() }})
	u, err := s.Store(t.Context(), "STOR /f")
	ok(t, err)
	ctx, cancel = context.WithTimeout(t.Context(), short)
	defer cancel()
	_, _, err = u.End(ctx)
	failed(t, err, backends.Lost)
}

// TestCloseEndsEverything: whoever waits is told, and no goroutine stays.
func TestCloseEndsEverything(t *testing.T) {
	before := runtime.NumGoroutine()
	func() {
		for _, use := range []func(s *Session) error{
			func(s *Session) error { _, err := s.Do(t.Context(), "NOOP"); return err },
			func(s *Session) error { _, err := retrieve(t.Context(), s, "/f", 0); return err },
			func(s *Session) error { _, err := store(t.Context(), s, "STOR /f", make([]byte, 16<<20)); return err },
			func(s *Session) error { s.Warm(); _, err := s.Passive(t.Context()); return errors.Join(err, s.why()) },
		} {
			waits := func(c *control, _ string) { c.say("150 go"); c.accept() }
			f := newFake(t, map[string]answer{"NOOP": silent, "RETR": waits, "STOR": waits})
			s := logIn(t, f.options())
			result := make(chan error, 1)
			go func() { result <- use(s) }()
			eventually(t, "something under way", func() bool {
				return len(f.heard("NOOP"))+len(f.heard("RETR"))+len(f.heard("STOR"))+len(f.heard("EPSV")) > 0
			})
			ok(t, s.Close())
			ok(t, s.Close())
			if err := <-result; err != nil && backends.Errno(err) != syscall.ESHUTDOWN && !errors.Is(err, errClosed) {
				t.Errorf("the one who waited got %v", err)
			}
			if s.Healthy() {
				t.Error("healthy after Close")
			}
			f.listener.Close()
			f.mu.Lock()
			for conn := range f.open {
				conn.Close()
			}
			f.mu.Unlock()
			f.work.Wait()
		}
	}()
	eventually(t, "no goroutine stays", func() bool { return runtime.NumGoroutine() <= before })
}

// TestSecretsAndEscapes: the password is in no error and no log, and a server's words reach no terminal raw.
func TestSecretsAndEscapes(t *testing.T) {
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	for _, answers := range []map[string]answer{
		{"PASS": says("530 \x1b[31mno: " + "\x9b")}, {"USER": says("530 \x1b]0;x\x07")}, {"PASS": closes}, {"PASS": says("332 account?")},
		{"PASS": says("332 account?"), "ACCT": says("532 no")}, {"FEAT": closes},
	} {
		f := newFake(t, answers)
		o := f.options()
		o.Logger = logger
		o.Account = o.Password
		o.Step = func(s Step) { fmt.Fprintln(&log, s.Name, s.Detail, s.Err) }
		_, err := Dial(t.Context(), o)
		if err == nil {
			t.Fatal("logged in")
		}
		e, _ := errors.AsType[*backends.Error](err)
		fmt.Fprintln(&log, err, e.Hint)
	}
	if strings.Contains(log.String(), canary) {
		t.Errorf("the password is in %s", log.String())
	}
	if strings.ContainsAny(log.String(), "\x1b\x07") {
		t.Errorf("raw escapes in %q", log.String())
	}
	if refusal := (&Refusal{Command: "PASS", Reply: Reply{Code: 530, Lines: []string{"\x1b[2J"}}}).Error(); strings.Contains(refusal, "\x1b") {
		t.Errorf("%q", refusal)
	}
}

// TestLoginCauses: what keeps a login from working is told apart.
func TestLoginCauses(t *testing.T) {
	type change func(*fake, *Options)
	greeting := func(text string) change { return func(f *fake, _ *Options) { f.greets(text) } }
	hastily := func(f *fake, o *Options) { o.ConnectTimeout, o.SocketTimeout = short, short }
	explicit := func(_ *fake, o *Options) { o.TLS = &TLS{} }
	implicit := func(_ *fake, o *Options) { o.TLS = &TLS{Implicit: true} }
	hiding := func(_ *fake, o *Options) { o.TLS = nil }
	for name, test := range map[string]struct {
		answers map[string]answer
		changes []change
		cause   backends.Cause
		class   backends.Class
	}{
		"no greeting":        {nil, []change{greeting(""), hastily}, backends.CauseSilent, backends.Transient},
		"full":               {nil, []change{greeting("421 too many\r\n")}, backends.CauseTooManySessions, backends.Transient},
		"turned away":        {nil, []change{greeting("554 not you\r\n")}, backends.CauseConnLost, backends.Transient},
		"SSH":                {nil, []change{greeting("SSH-2.0-OpenSSH_9.2\r\n")}, backends.CauseWrongProtocol, backends.Refused},
		"HTTP":               {nil, []change{greeting("HTTP/1.1 400 Bad Request\r\n\r\n")}, backends.CauseWrongProtocol, backends.Refused},
		"a TLS alert":        {nil, []change{greeting("\x15\x03\x01\x00\x02\x02\x46"), hastily}, backends.CauseTLSMode, backends.Refused},
		"plain for TLS":      {nil, []change{implicit}, backends.CauseTLSMode, backends.Refused},
		"password":           {map[string]answer{"PASS": says("530 no")}, nil, backends.CauseAuth, backends.Refused},
		"too many":           {map[string]answer{"PASS": says("421 too many")}, nil, backends.CauseTooManySessions, backends.Transient},
		"later":              {map[string]answer{"PASS": says("431 later")}, nil, backends.CauseAuth, backends.Transient},
		"hangs up":           {map[string]answer{"PASS": closes}, nil, backends.CauseConnLost, backends.Transient},
		"no account":         {map[string]answer{"PASS": says("332 account?")}, nil, backends.CauseAccount, backends.Refused},
		"wants TLS":          {map[string]answer{"USER": says("534 secure first")}, nil, backends.CauseTLSRequired, backends.Refused},
		"hides it":           {map[string]answer{"USER": says("530 secure first"), "AUTH": says("234 go")}, []change{hiding}, backends.CauseTLSRequired, backends.Refused},
		"AUTH refused":       {map[string]answer{"AUTH": says("500 what?")}, []change{explicit}, backends.CauseTLSRefused, backends.Refused},
		"AUTH later":         {map[string]answer{"AUTH": says("431 later")}, []change{explicit}, backends.CauseTLSRefused, backends.Transient},
		"injected":           {map[string]answer{"AUTH": says("234 go\r\n230 welcome")}, []change{explicit}, backends.CauseTLSRefused, backends.Refused},
		"stray in the login": {map[string]answer{"USER": says("331 go\r\n230 in")}, nil, backends.CauseWrongProtocol, backends.Refused},
		"ASCII only":         {map[string]answer{"TYPE": says("504 text only")}, nil, backends.CauseWrongProtocol, backends.Refused},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t, test.answers)
			o := f.options()
			var last Step
			o.Step = func(s Step) { last = s }
			for _, change := range test.changes {
				change(f, &o)
			}
			_, err := Dial(t.Context(), o)
			failed(t, err, test.class)
			e, _ := errors.AsType[*backends.Error](err)
			if e == nil || e.Cause != test.cause || e.Hint == "" {
				t.Errorf("%v (%q), want %q and a hint", err, backends.CauseOf(err), test.cause)
			}
			if last.Err == nil {
				t.Error("no step told it")
			}
			if o.TLS != nil && len(f.heard("PASS")) > 0 {
				t.Error("the password was sent without TLS")
			}
		})
	}
}

// TestLoginIsPatient with what a server may say in it.
func TestLoginIsPatient(t *testing.T) {
	for name, answers := range map[string]map[string]answer{
		"no password":       {"USER": says("230 come in")},
		"account at USER":   {"USER": says("332 account?"), "ACCT": says("230 come in")},
		"account at PASS":   {"PASS": says("332 account?"), "ACCT": says("202 not needed")},
		"knows nothing":     {"FEAT": says("500 what?"), "SYST": says("500 what?"), "PWD": says("500 what?"), "OPTS": says("500 what?"), "TYPE": says("502 what?")},
		"telnet":            {"SYST": says("\xff\xfc\x01215 UNIX")},
		"a line feed alone": {"SYST": func(c *control, _ string) { io.WriteString(c, "215 UNIX\n") }},
	} {
		f := newFake(t, answers)
		f.greets("120 in a moment\r\n220 now\r\n")
		o := f.options()
		o.Account = func() (string, error) { return "bills", nil }
		s := logIn(t, o)
		if account := f.heard("ACCT"); strings.HasPrefix(name, "account") && (len(account) != 1 || account[0] != "ACCT bills") {
			t.Errorf("%s: %q", name, account)
		}
		do(t, s, "NOOP")
	}
	f := newFake(t, nil)
	o := f.options()
	o.Username, o.Password = "", nil
	logIn(t, o)
	if pass := f.heard("PASS"); len(pass) != 1 || pass[0] != "PASS anonymous@" || f.heard("USER")[0] != "USER anonymous" {
		t.Errorf("anonymous: %q", pass)
	}
}

// TestManyCommands: more than one burst is in step too.
func TestManyCommands(t *testing.T) {
	s, _ := session(t, map[string]answer{"SIZE": func(c *control, arg string) { c.say("213 %s", arg) }})
	var commands []string
	for n := range 1000 {
		commands = append(commands, fmt.Sprint("SIZE ", n))
	}
	for n, reply := range do(t, s, commands...) {
		if reply.Lines[0] != fmt.Sprint(n) {
			t.Fatalf("SIZE %d says %v", n, reply)
		}
	}
}

// TestBlockedPassive: a port that nobody can reach is told as such, within the connect timeout.
func TestBlockedPassive(t *testing.T) {
	inMemory(t, nil, func(t *testing.T, s *Session) {
		s.o.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			<-ctx.Done() // as packets that are dropped
			return nil, &net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}
		}
		begun := time.Now()
		_, err := s.Retrieve(t.Context(), "/f", 0)
		if backends.CauseOf(err) != backends.CausePassiveBlocked || backends.Errno(err) != syscall.ETIMEDOUT || errors.Is(err, netconn.ErrSilent) {
			t.Errorf("%v (%s)", err, backends.CauseOf(err))
		}
		if took := time.Since(begun); took != s.o.ConnectTimeout {
			t.Errorf("took %v", took)
		}
		do(t, s, "NOOP")
	})
}
