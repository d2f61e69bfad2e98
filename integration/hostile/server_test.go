package hostile

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"pierfs/integration/process"
)

// The tests of this file are about the server itself: a lie that does not leave the server proves nothing.

// openSSH runs OpenSSH's own client with a batch of commands and returns all that it printed.
func openSSH(t *testing.T, s *Server, batch string) (string, error) {
	t.Helper()
	process.Need(t, "sftp")
	askpass := filepath.Join(t.TempDir(), "askpass")
	if err := os.WriteFile(askpass, fmt.Appendf(nil, "#!/bin/sh\necho '%s'\n", s.Password), 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "sftp", "-q", "-F", "none", "-P", fmt.Sprint(s.Port), "-o", "UserKnownHostsFile=/dev/null",
		"-o", "StrictHostKeyChecking=no", "-o", "BatchMode=no", "-o", "NumberOfPasswordPrompts=1", s.User+"@"+s.Host)
	cmd.Stdin = strings.NewReader(batch)
	cmd.Env = append(os.Environ(), "SSH_ASKPASS="+askpass, "SSH_ASKPASS_REQUIRE=force", "SSH_AUTH_SOCK=")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestZeroMannerIsHonest(t *testing.T) {
	t.Parallel()
	s := New(t, Manner{})
	content := strings.Repeat("0123456789abcdef", 20_000)
	local := filepath.Join(t.TempDir(), "content")
	if err := os.WriteFile(local, []byte(content), 0o640); err != nil {
		t.Fatal(err)
	}
	back := filepath.Join(t.TempDir(), "back")
	s.Put("there", File{Data: "hello"})
	out, err := openSSH(t, s, fmt.Sprintf(`put -f %s big
get big %s
mkdir d
rename big d/big
ln -s d/big link
ln d/big hard
chmod 600 d/big
rm there
ls -l
df
pwd
`, local, back))
	if err != nil {
		t.Fatalf("sftp: %v\n%s", err, out)
	}
	if got, err := os.ReadFile(back); err != nil || string(got) != content {
		t.Errorf("read back %d bytes (%v), want the %d that were sent", len(got), err, len(content))
	}
	big, ok := s.Get("d/big")
	if !ok || big.Data != content || big.Mode != TypeRegular|0o600 {
		t.Errorf("d/big is there: %v, with %d bytes and mode %o; want %d and 100600\n%s", ok, len(big.Data), big.Mode, len(content), out)
	}
	if link, _ := s.Get("link"); link.Target != "d/big" {
		t.Errorf("link points to %q, want %q", link.Target, "d/big")
	}
	if _, ok := s.Get("there"); ok {
		t.Error("there was removed and is still there")
	}
	if got, want := fmt.Sprint(s.Names("")), "[d link hard]"; got != want {
		t.Errorf("the directory holds %s, want %s", got, want)
	}
	if !strings.Contains(out, s.Root) || s.Asked(Fsync) != 1 {
		t.Errorf("pwd, or fsync (%d, want 1), did not arrive:\n%s", s.Asked(Fsync), out)
	}
	if s.Passwords() != 1 || s.Connections() != 1 {
		t.Errorf("%d passwords in %d connections, want 1 in 1", s.Passwords(), s.Connections())
	}
}

// client is a bare client: it sends a request and looks at whatever comes.
type client struct {
	t  *testing.T
	w  io.Writer
	r  io.Reader
	id uint32
}

func dialRaw(t *testing.T, s *Server) *client {
	t.Helper()
	tcp, err := net.Dial("tcp", net.JoinHostPort(s.Host, fmt.Sprint(s.Port)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tcp.Close() })
	if err := tcp.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	conn, channels, requests, err := ssh.NewClientConn(tcp, "", &ssh.ClientConfig{
		User: s.User, Auth: []ssh.AuthMethod{ssh.Password(s.Password)}, HostKeyCallback: ssh.InsecureIgnoreHostKey(),
	})
	if err != nil {
		t.Fatal(err)
	}
	session, err := ssh.NewClient(conn, channels, requests).NewSession()
	if err != nil {
		t.Fatal(err)
	}
	c := &client{t: t}
	if c.w, err = session.StdinPipe(); err == nil {
		c.r, err = session.StdoutPipe()
	}
	if err == nil {
		err = session.RequestSubsystem("sftp")
	}
	if err != nil {
		t.Fatal(err)
	}
	c.send(packet(kindInit, number(3)))
	if kind, body := c.receive(); kind != kindVersion || !bytes.HasPrefix(body, number(3)) {
		t.Fatalf("INIT is answered by kind %d, %x", kind, body)
	}
	return c
}

func (c *client) send(b []byte) {
	c.t.Helper()
	if _, err := c.w.Write(b); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) receive() (kind byte, body []byte) {
	c.t.Helper()
	var head [5]byte
	if _, err := io.ReadFull(c.r, head[:]); err != nil {
		c.t.Fatalf("read a reply: %v", err)
	}
	body = make([]byte, binary.BigEndian.Uint32(head[:])-1)
	if _, err := io.ReadFull(c.r, body); err != nil {
		c.t.Fatalf("read a reply: %v", err)
	}
	return head[4], body
}

// ask sends a request and returns the answer, after its id.
func (c *client) ask(kind byte, body ...[]byte) (byte, fields) {
	c.t.Helper()
	c.id++
	c.send(packet(kind, append([][]byte{number(c.id)}, body...)...))
	got, answer := c.receive()
	f := fields(answer)
	if id := f.u32(); id != c.id {
		c.t.Fatalf("request %d is answered as %d", c.id, id)
	}
	return got, f
}

func (c *client) open(kind byte, path string) string {
	c.t.Helper()
	body := text(path)
	if kind == 3 {
		body = append(body, 0, 0, 0, 1, 0, 0, 0, 0) // for reading, no attributes
	}
	got, answer := c.ask(kind, body)
	if got != kindHandle {
		c.t.Fatalf("open %q is answered by kind %d", path, got)
	}
	return answer.text()
}

func TestRulesReachTheWire(t *testing.T) {
	t.Parallel()
	s := New(t, Manner{})
	s.Put("f", Claims(1000, "abc"))
	s.Put("out", Link("/etc/passwd"))
	c := dialRaw(t, s)

	if _, answer := c.ask(17, text("f")); answer.change().size != 1000 {
		t.Error("a claimed size is not told")
	}
	if kind, answer := c.ask(5, text(c.open(3, "f")), long(0), number(100)); kind != kindData || answer.text() != "abc" {
		t.Errorf("a read is answered by kind %d, want the true content", kind)
	}
	if _, answer := c.ask(5, text(c.open(3, "out")), long(0), number(100)); answer.text() != Outside {
		t.Error("an open does not follow a link out of the working directory")
	}

	s.Behave(Manner{Rules: []Rule{Pretends(Write), Refuses(Denied, Remove), Swaps(Lstat, "f", Link("/secret/key"))}})
	handle := c.open(3, "f")
	if _, answer := c.ask(6, text(handle), long(0), text("xyz")); answer.u32() != uint32(OK) {
		t.Error("a pretended write does not succeed")
	}
	if f, _ := s.Get("f"); f.Data != "abc" {
		t.Errorf("a pretended write has written: %q", f.Data)
	}
	if _, answer := c.ask(13, text("f")); answer.u32() != uint32(Denied) {
		t.Error("a refused remove is not refused")
	}
	if _, answer := c.ask(7, text("f")); answer.change().mode&typeMask != TypeRegular {
		t.Error("the swapped file was no file at first")
	}
	if _, answer := c.ask(5, text(c.open(3, "f")), long(0), number(100)); answer.text() != Outside {
		t.Error("the swapped file is no link now")
	}

	s.Behave(Manner{Rules: []Rule{Lists("", BadNames()...)}})
	_, answer := c.ask(12, text(c.open(11, ".")))
	if want := 2 + 2 + len(BadNames()); int(answer.u32()) != want {
		t.Errorf("the listing does not have %d names", want)
	}

	ticks := make(chan time.Time)
	s.Behave(Manner{Rules: []Rule{Drips(ticks, Stat)}})
	go func() { // ends with the connection, which takes every tick that the reply needs
		for range 4 + 1 + 4 + 4 + 8 + 8 + 4 + 8 {
			ticks <- time.Time{}
		}
		close(ticks)
	}()
	if kind, _ := c.ask(17, text("f")); kind != kindAttrs {
		t.Errorf("a dripped reply is of kind %d, want %d", kind, kindAttrs)
	}
	if strays := s.Strays(); len(strays) != 0 {
		t.Errorf("requests that stayed inside count as strays: %v", strays)
	}
	c.ask(17, text("../../etc/passwd"))
	if strays := s.Strays(); len(strays) != 1 {
		t.Errorf("a request that left counts as %v, want one stray", strays)
	}
}

func TestEveryBreachIsSent(t *testing.T) {
	t.Parallel()
	for _, breach := range Breaches() {
		t.Run(breach.Name, func(t *testing.T) {
			t.Parallel()
			s := New(t, Manner{})
			s.Put("f", File{})
			honest := dialRaw(t, s)
			honest.send(packet(17, number(7), text("f")))
			kind, body := honest.receive()
			want := packet(kind, body)

			s.Behave(Manner{Rules: []Rule{breach.Rule(Stat)}})
			c := dialRaw(t, s)
			c.send(packet(17, number(7), text("f")))
			got := make([]byte, 4)
			if _, err := io.ReadFull(c.r, got); err != nil {
				t.Fatal(err)
			}
			s.Behave(Manner{Rules: []Rule{Cuts(Lstat)}})
			c.send(packet(7, number(8), text("f")))
			rest, _ := io.ReadAll(c.r) // ends with the connection, one way or another
			if got = append(got, rest...); bytes.Equal(got, want) {
				t.Errorf("the broken answer is the honest one: %x", got)
			}
		})
	}
}

func TestCloseLeavesNobody(t *testing.T) {
	t.Parallel()
	for name, m := range map[string]Manner{
		"honest": {}, "silent": {Wire: Says("")}, "flood": {Wire: SaysForEver("x")}, "drip": {Wire: DripsGreeting(nil)},
		"stall": {Rules: []Rule{Stall(Stat)}}, "endless": {Rules: []Rule{ListsForEver(200)}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := New(t, m)
			if m.Wire == nil {
				c := dialRaw(t, s)
				c.send(packet(17, number(1), text(".")))
				c.send(packet(12, number(2), text("none")))
			} else if tcp, err := net.Dial("tcp", s.listener.Addr().String()); err != nil {
				t.Fatal(err)
			} else {
				defer tcp.Close()
			}
			closed := make(chan struct{})
			go func() { // ends when the server has
				s.Close()
				close(closed)
			}()
			select {
			case <-closed:
			case <-time.After(5 * time.Second):
				t.Fatal("the server does not end")
			}
		})
	}
}
