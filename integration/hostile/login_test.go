package hostile

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"pierfs/backends"
)

func stat(ctx context.Context, b backends.Backend) error {
	_, err := b.Stat(ctx, "dir")
	return err
}

// refused calls f within the budget, and fails the test if it succeeds or costs the password.
func (c *connection) refused(what string, f func(context.Context) error) error {
	c.t.Helper()
	err := c.bounded(what, f)
	if err == nil {
		c.t.Errorf("%s succeeded", what)
	}
	return err
}

// TestNoServerOfSSH: whatever answers on the port in place of SSH costs an error in time and never the password.
func TestNoServerOfSSH(t *testing.T) {
	t.Parallel()
	drip := time.NewTicker(20 * time.Millisecond)
	t.Cleanup(drip.Stop)
	for name, wire := range map[string]func(*Wire) net.Conn{
		"nothing":                        Says(""),
		"end":                            SaysAndCuts(""),
		"version and nothing":            Says("SSH-2.0-OpenSSH_9.2p1\r\n"),
		"version and end":                SaysAndCuts("SSH-2.0-OpenSSH_9.2p1\r\n"),
		"half a version":                 Says("SSH-2.0-Open"),
		"version 1":                      Says("SSH-1.5-old\r\n"),
		"version with escapes":           SaysAndCuts("SSH-2.0-\x1b]0;pwned\a\r\n"),
		"ftp":                            Says("220 ready\r\n"),
		"http":                           SaysAndCuts("HTTP/1.1 400 Bad Request\r\n\r\n"),
		"tls alert":                      SaysAndCuts("\x15\x03\x01\x00\x02\x02\x28"),
		"version one byte at a time":     DripsGreeting(drip.C),
		"lines without end":              SaysForEver("hello\r\n"),
		"a line without end":             SaysForEver("A"),
		"zeros without end":              SaysForEver("\x00"),
		"version, then text without end": SaysForEver("SSH-2.0-x\r\n"),
		"version and a packet of 4 GiB":  Says("SSH-2.0-x\r\n\xff\xff\xff\xff\x04\x14"),
		"version and a packet of 0":      Says("SSH-2.0-x\r\n\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"),
		"version and ignore, for ever":   SaysForEver("SSH-2.0-x\r\n" + strings.Repeat("\x00\x00\x00\x0c\x06\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", 4000)),
		"garbage for KEXINIT":            Says("SSH-2.0-x\r\n\x00\x00\x00\x1c\x0a\x14" + strings.Repeat("\xff", 26)),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := New(t, Manner{Wire: wire})
			connect(t, s, func(c *connection) {
				c.refused("stat", func(ctx context.Context) error { return stat(ctx, c) })
				if n := c.log.size(); n > 64<<10 {
					t.Errorf("the log has %d bytes of it", n)
				}
			})
			if n := s.Passwords(); n != 0 {
				t.Errorf("the password was given away %d times", n)
			}
		})
	}
}

// TestCutAtEveryByte: a connection that ends at whatever byte of the login, of the greeting or of the first answers is
// a passing trouble. The call ends in time, and the next ones work once connections hold.
func TestCutAtEveryByte(t *testing.T) {
	t.Parallel()
	for _, n := range breaks(t) {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			s := New(t, Manner{Wire: CutsAfter(n)})
			furnish(s)
			connect(t, s, func(c *connection) {
				err := c.bounded("stat", func(ctx context.Context) error { return stat(ctx, c) })
				if err == nil {
					return // so many bytes are enough for a login and a stat
				}
				if s.Passwords() > 0 && backends.CauseOf(err) == backends.CauseAuth {
					return // to hang up is how some servers refuse a password, and it must not be tried again then
				}
				s.Behave(Manner{})
				c.recovers()
			})
		})
	}
}

// breaks returns the bytes at which to break off what a server sends until a first stat is answered: the first of the
// version, some of the key exchange, and many of the login and the greeting.
func breaks(t *testing.T) []int {
	t.Helper()
	sent := new(atomic.Int64)
	s := New(t, Manner{Wire: Counts(sent)})
	furnish(s)
	connect(t, s, func(c *connection) { c.warm() })
	whole, first := int(sent.Load()), 1200
	if whole < first+500 {
		t.Fatalf("a login and a stat take %d bytes, want more than %d", whole, first+500)
	}
	return slices.Concat([]int{0, 1, 2, 3, 4, 5, 22, 23, 24}, slices.Collect(steps(211, first, 211)), slices.Collect(steps(first, whole, 31)))
}

// TestSilenceAtEveryByte is the same with a server that stays connected and says no more.
func TestSilenceAtEveryByte(t *testing.T) {
	t.Parallel()
	for _, n := range breaks(t) {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			s := New(t, Manner{Wire: StopsAfter(n)})
			furnish(s)
			connect(t, s, func(c *connection) {
				if err := c.bounded("stat", func(ctx context.Context) error { return stat(ctx, c) }); err == nil {
					return
				}
				s.Behave(Manner{})
				c.recovers()
			})
		})
	}
}

// steps yields from, from+by, ... below to.
func steps(from, to, by int) func(yield func(int) bool) {
	return func(yield func(int) bool) {
		for n := from; n < to; n += by {
			if !yield(n) {
				return
			}
		}
	}
}

// TestHostKeyChange is half of the tenth row: another host key at a reconnect is refused with both fingerprints, without
// the password being told, and nobody knocks again and again.
func TestHostKeyChange(t *testing.T) {
	t.Parallel()
	s := New(t, Manner{})
	furnish(s)
	connect(t, s, func(c *connection) {
		c.warm()
		old, passwords := s.Fingerprint(), s.Passwords()
		changed := s.ChangeHostKey(t)
		s.CutAll()
		err := c.refused("stat", func(ctx context.Context) error {
			for { // the call that meets the cut may end with it
				err := stat(ctx, c)
				if err == nil || backends.ClassOf(err) == backends.Refused || ctx.Err() != nil {
					return err
				}
				pause(ctx)
			}
		})
		if backends.CauseOf(err) != backends.CauseHostKeyChanged || backends.Errno(err) == 0 {
			t.Errorf("the error has cause %q and code %v, want %q: %v", backends.CauseOf(err), backends.Errno(err), backends.CauseHostKeyChanged, err)
		}
		if text := fmt.Sprint(err); !strings.Contains(text, old) || !strings.Contains(text, changed) {
			t.Errorf("the error does not have both fingerprints, %s and %s:\n%s", old, changed, text)
		}
		knocks := s.Connections()
		for range 20 {
			c.refused("stat after the refusal", func(ctx context.Context) error { return stat(ctx, c) })
		}
		if got := s.Connections(); got > knocks+1 {
			t.Errorf("20 calls have knocked %d times", got-knocks)
		}
		if got := s.Passwords(); got != passwords {
			t.Errorf("the password was given to the stranger %d times", got-passwords)
		}
	})
}

// TestStrictKeyExchange is the other half: the client offers strict key exchange (CVE-2023-48795), and does not go on with
// somebody between who takes the offer away or meddles before the keys are in use.
func TestStrictKeyExchange(t *testing.T) {
	t.Parallel()
	const offer, answer = "kex-strict-c-v00@openssh.com", "kex-strict-s-v00@openssh.com"
	t.Run("offered", func(t *testing.T) {
		t.Parallel()
		heard := &Heard{}
		s := New(t, Manner{Wire: Listens(heard)})
		furnish(s)
		connect(t, s, func(c *connection) {
			c.warm()
		})
		if offered := heard.KeyExchanges(); !slices.Contains(offered, offer) {
			t.Errorf("the client offers %q, without %s", offered, offer)
		}
	})
	for name, wire := range map[string]func(*Wire) net.Conn{
		"answer taken away": Replaces(answer, strings.ReplaceAll(answer, "strict", "tcirts")),
		"packet injected":   InjectsIgnore(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := New(t, Manner{Wire: wire})
			connect(t, s, func(c *connection) {
				c.refused("stat", func(ctx context.Context) error { return stat(ctx, c) })
			})
			if n := s.Passwords(); n != 0 {
				t.Errorf("the password was given away %d times", n)
			}
		})
	}
}

// TestInterrogation: a login that asks strange questions, or asks for ever, ends in time, and the password is told at most
// once in it.
func TestInterrogation(t *testing.T) {
	t.Parallel()
	many := slices.Repeat([]string{"Password: "}, 50)
	for name, ask := range map[string]func(ssh.KeyboardInteractiveChallenge) error{
		"fifty questions at once": func(client ssh.KeyboardInteractiveChallenge) error {
			answers, err := client("", "", many, make([]bool, len(many)))
			return errors.Join(err, fmt.Errorf("%q", answers))
		},
		"the same question for ever": func(client ssh.KeyboardInteractiveChallenge) error {
			for {
				if _, err := client("", "", many[:1], []bool{false}); err != nil {
					return err
				}
			}
		},
		"no question for ever": func(client ssh.KeyboardInteractiveChallenge) error {
			for {
				if _, err := client("", "nothing to ask", nil, nil); err != nil {
					return err
				}
			}
		},
		"long words": func(client ssh.KeyboardInteractiveChallenge) error {
			_, err := client(strings.Repeat("n", 100<<10), strings.Repeat("i", 100<<10), []string{"\x1b[2J"}, []bool{true})
			return errors.Join(err, os.ErrPermission)
		},
		"no answer ever": func(ssh.KeyboardInteractiveChallenge) error { return os.ErrPermission },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var s *Server
			told := make(chan string, 10_000)
			s = New(t, Manner{Login: Interrogates(func(client ssh.KeyboardInteractiveChallenge) error {
				return ask(func(name, instruction string, questions []string, echos []bool) ([]string, error) {
					answers, err := client(name, instruction, questions, echos)
					for _, answer := range answers {
						if answer == s.Password {
							told <- answer
						}
					}
					return answers, err
				})
			})})
			once := target(s)
			once.RetryCount = 0
			connectTo(t, once, func(c *connection) {
				c.refused("stat", func(ctx context.Context) error { return stat(ctx, c) })
				if n := c.log.size(); n > 64<<10 {
					t.Errorf("the log has %d bytes of it", n)
				}
			})
			if len(told) > 1 {
				t.Errorf("the password was told %d times in one login", len(told))
			}
		})
	}
}

// TestRefusedLoginIsNotRepeated: whoever refuses a password is not shown it again, however many methods he offers and
// however often we are called: accounts get locked by that.
func TestRefusedLoginIsNotRepeated(t *testing.T) {
	t.Parallel()
	tries := make(chan struct{}, 10_000)
	s := New(t, Manner{Login: func(c *ssh.ServerConfig) {
		c.PasswordCallback = func(ssh.ConnMetadata, []byte) (*ssh.Permissions, error) {
			tries <- struct{}{}
			return nil, os.ErrPermission
		}
		c.KeyboardInteractiveCallback = func(_ ssh.ConnMetadata, client ssh.KeyboardInteractiveChallenge) (*ssh.Permissions, error) {
			if answers, err := client("", "", []string{"Password: "}, []bool{false}); err == nil && len(answers) > 0 {
				tries <- struct{}{}
			}
			return nil, os.ErrPermission
		}
	}})
	connect(t, s, func(c *connection) {
		for range 20 {
			err := c.refused("stat", func(ctx context.Context) error { return stat(ctx, c) })
			if backends.CauseOf(err) != backends.CauseAuth {
				t.Fatalf("the cause is %q, want %q: %v", backends.CauseOf(err), backends.CauseAuth, err)
			}
		}
	})
	if len(tries) != 1 {
		t.Errorf("the password was tried %d times, want once", len(tries))
	}
}

// TestBannerOfTenMegabytes: words before the login cost neither the login, nor memory, nor the log.
func TestBannerOfTenMegabytes(t *testing.T) {
	t.Parallel()
	s := New(t, Manner{Login: Banners(80, strings.Repeat("\x1b[31mWelcome!\r\n", 10_000))})
	furnish(s)
	connect(t, s, func(c *connection) {
		c.bounded("stat", func(ctx context.Context) error { return stat(ctx, c) }) // both a login and a refusal will do
		if n := c.log.size(); n > 64<<10 {
			t.Errorf("the log has %d bytes of it", n)
		}
	})
}

// TestStrangeSessions: a server that lets us in and then serves something else than SFTP costs an error in time.
func TestStrangeSessions(t *testing.T) {
	t.Parallel()
	version := func(body ...[]byte) Manner { return Manner{Version: packet(kindVersion, body...)} }
	extensions := func(n int) (b []byte) {
		b = number(3)
		for i := range n {
			b = str(str(b, fmt.Sprintf("ext%d@example.com", i)), "1")
		}
		return b
	}
	for name, test := range map[string]struct {
		manner Manner
		works  bool // it is odd, and no reason not to work
	}{
		"no session":                   {Manner{Channel: func(c ssh.NewChannel) bool { c.Reject(ssh.Prohibited, "\x1b[2Jno"); return true }}, false},
		"no answer for the session":    {Manner{Channel: func(ssh.NewChannel) bool { return true }}, false},
		"version 2":                    {version(number(2)), false},
		"version 6":                    {version(number(6)), false},
		"version 2^32-1":               {version(number(1<<32 - 1)), false},
		"version cut short":            {version([]byte{0, 0}), false},
		"version of 4 GiB":             {Manner{Version: append(number(1<<32-1), kindVersion, 0, 0, 0, 3)}, false},
		"version of 1 MiB":             {version(extensions(40_000)), false},
		"extension beyond the packet":  {version(number(3), number(1<<32-1)), false},
		"extension without data":       {version(number(3), text(string(Fsync))), false},
		"a thousand extensions":        {version(extensions(1000)), true},
		"no extension":                 {Manner{Extensions: []Op{}}, true},
		"words of a shell":             {Manner{Version: []byte("Welcome to the machine\r\nLast login: today\r\n")}, false},
		"limits of 0":                  {Manner{Rules: []Rule{LimitsOf(0, 0, 0, 0)}}, true},
		"limits of 1":                  {Manner{Rules: []Rule{LimitsOf(1, 1, 1, 1)}}, true},
		"limits of 2^64-1":             {Manner{Rules: []Rule{LimitsOf(1<<64-1, 1<<64-1, 1<<64-1, 1<<64-1)}}, true},
		"limits refused":               {Manner{Rules: []Rule{Refuses(Failure, Limits)}}, true},
		"limits cut short":             {Manner{Rules: []Rule{Answers(kindExtendedReply, number(0), Limits)}}, true},
		"limits never":                 {Manner{Rules: []Rule{Mute(Limits)}}, false},
		"working directory nowhere":    {Manner{Rules: []Rule{Refuses(NoSuchFile, Realpath)}}, false},
		"working directory without /":  {Manner{Rules: []Rule{Answers(kindName, slices.Concat(number(1), text("home"), text(""), number(0)), Realpath)}}, false},
		"working directory with NUL":   {Manner{Rules: []Rule{Answers(kindName, slices.Concat(number(1), text("/ho\x00me"), text(""), number(0)), Realpath)}}, false},
		"working directory of 100 KiB": {Manner{Rules: []Rule{Answers(kindName, slices.Concat(number(1), text("/"+strings.Repeat("x/", 50<<10)), text(""), number(0)), Realpath)}}, false},
		"two working directories":      {Manner{Rules: []Rule{Answers(kindName, slices.Concat(number(2), text("/a"), text(""), number(0), text("/b"), text(""), number(0)), Realpath)}}, false},
		"working directory is a file":  {Manner{Rules: []Rule{Answers(kindAttrs, File{}.attrs(), Stat)}}, false},
		"no attributes":                {Manner{Rules: []Rule{Answers(kindAttrs, number(0), Stat)}}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := New(t, test.manner)
			furnish(s)
			connect(t, s, func(c *connection) {
				err := c.bounded("read", func(ctx context.Context) error {
					got, err := read(ctx, c, "file", 100)
					if err == nil && got != "abc" {
						err = untrue("content %q", got)
					}
					return err
				})
				if (err == nil) != test.works || errors.Is(err, errUntrue) {
					t.Errorf("reading a file: %v, want success: %v", err, test.works)
				}
				if err != nil {
					return
				}
				if err := c.bounded("upload", func(ctx context.Context) error {
					return upload(ctx, c, "new", "short", backends.WriteMode{TempName: ".new.part", Perm: 0o644})
				}); err != nil {
					t.Errorf("uploading a file: %v", err)
				}
				if f, _ := s.Get("new"); f.Data != "short" {
					t.Errorf("the server has %q, want %q", f.Data, "short")
				}
			})
		})
	}
}

// TestFloodBesideSilence: bytes without end that answer nothing are no sign of life.
func TestFloodBesideSilence(t *testing.T) {
	t.Parallel()
	for name, flood := range map[string]func(ssh.Channel, ssh.Conn) error{
		"standard error": func(c ssh.Channel, _ ssh.Conn) error {
			_, err := c.Stderr().Write(make([]byte, 16<<10))
			return err
		},
		"requests": func(_ ssh.Channel, c ssh.Conn) error {
			_, _, err := c.SendRequest("keepalive@openssh.com", true, nil)
			return err
		},
		"channels": func(_ ssh.Channel, c ssh.Conn) error {
			_, _, err := c.OpenChannel("forwarded-tcpip", make([]byte, 1000))
			if _, refused := errors.AsType[*ssh.OpenChannelError](err); refused {
				return nil
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := New(t, Manner{})
			furnish(s)
			connect(t, s, func(c *connection) {
				s.Behave(Manner{Rules: []Rule{Floods(flood, Lstat)}})
				c.refused("stat", func(ctx context.Context) error { return stat(ctx, c) })
				s.Behave(Manner{})
				s.CutAll() // the flood goes on as long as its connection
				c.recovers()
			})
		})
	}
}
