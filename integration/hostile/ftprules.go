package hostile

import (
	"io"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// FTPOn answers the verbs by answer; no verb at all is every verb.
func FTPOn(answer func(*FTPExchange), verbs ...string) FTPRule {
	return func(x *FTPExchange) bool {
		if len(verbs) > 0 && !slices.Contains(verbs, x.Verb) {
			return false
		}
		answer(x)
		return true
	}
}

// FTPReplies sends text in place of the answer; a line end is added.
func FTPReplies(text string, verbs ...string) FTPRule {
	return FTPOn(func(x *FTPExchange) { x.Reply(text) }, verbs...)
}

// FTPAdds sends text behind the honest answer: a reply to nothing.
func FTPAdds(text string, verbs ...string) FTPRule {
	return FTPOn(func(x *FTPExchange) {
		x.Honest()
		x.Reply(text)
	}, verbs...)
}

// FTPSaysFirst sends text, which nobody has asked for, and then answers honestly.
func FTPSaysFirst(text string, verbs ...string) FTPRule {
	return FTPOn(func(x *FTPExchange) {
		x.Reply(text)
		x.Honest()
	}, verbs...)
}

// FTPDoes does what was asked, and says text in place of the honest final reply.
func FTPDoes(text string, verbs ...string) FTPRule {
	return FTPOn(func(x *FTPExchange) {
		d := *x.d
		d.conn = &rewriter{Conn: x.d.conn, final: text}
		y := &FTPExchange{Command: x.Command, d: &d}
		y.Honest()
		d.conn = x.d.conn
		*x.d = d
	}, verbs...)
}

// rewriter puts final in place of replies that are final.
type rewriter struct {
	net.Conn
	final string
}

func (r *rewriter) Write(p []byte) (int, error) {
	if p[0] != '1' {
		_, err := io.WriteString(r.Conn, r.final+"\r\n")
		return len(p), err
	}
	return r.Conn.Write(p)
}

// FTPStolen has thief come first to every passive port, in place of the client who was told of it.
func FTPStolen(thief func(net.Conn)) FTPRule {
	return FTPOn(func(x *FTPExchange) {
		d := *x.d
		late := &holder{Conn: x.d.conn}
		d.conn = late
		(&FTPExchange{Command: x.Command, d: &d}).Honest()
		d.conn = x.d.conn
		*x.d = d
		if c, err := net.Dial("tcp", d.listener.Addr().String()); err == nil {
			d.server.work.Go(func() { // ends with the data connection
				defer c.Close()
				thief(c)
			})
		}
		x.Send(late.said)
	}, "EPSV", "PASV")
}

// holder keeps what is said.
type holder struct {
	net.Conn
	said []byte
}

func (h *holder) Write(p []byte) (int, error) {
	h.said = append(h.said, p...)
	return len(p), nil
}

// FTPMute never answers the verbs, and goes on with others.
func FTPMute(verbs ...string) FTPRule { return FTPOn(func(*FTPExchange) {}, verbs...) }

// FTPStalls answers nothing any more once one of the verbs was sent.
func FTPStalls(verbs ...string) FTPRule { return FTPOn(func(x *FTPExchange) { <-x.Gone() }, verbs...) }

// FTPCuts ends the connection in place of an answer.
func FTPCuts(verbs ...string) FTPRule { return FTPOn((*FTPExchange).Cut, verbs...) }

// FTPFloods sends text over and over in place of an answer.
func FTPFloods(text string, verbs ...string) FTPRule {
	block := []byte(strings.Repeat(text, 64<<10/len(text)+1))
	return FTPOn(func(x *FTPExchange) {
		for x.Send(block) {
		}
	}, verbs...)
}

// FTPOnce lets rule take only the first command that it would.
func FTPOnce(rule FTPRule, verbs ...string) FTPRule {
	var seen atomic.Bool
	return func(x *FTPExchange) bool { return slices.Contains(verbs, x.Verb) && !seen.Swap(true) && rule(x) }
}

// FTPSends answers downloads and listings by content, whatever was asked for, and then by final; "" is no final reply.
func FTPSends(content, final string, verbs ...string) FTPRule {
	return FTPOn(func(x *FTPExchange) {
		content := content[min(int(x.d.rest), len(content)):]
		x.d.rest = 0
		x.Reply("150 Here it comes.")
		c, err := x.Data()
		if err != nil {
			x.Reply("425 Failed to establish connection.")
			return
		}
		io.WriteString(c, content) // a client may leave early
		x.shut(c)
		if final != "" {
			x.Reply(final)
		}
	}, verbs...)
}

// FTPSendsForEver answers downloads and listings by what next returns, over and over, until the client has enough.
func FTPSendsForEver(next func() string, verbs ...string) FTPRule {
	return FTPOn(func(x *FTPExchange) {
		x.Reply("150 Here it comes.")
		c, err := x.Data()
		if err != nil {
			x.Reply("425 Failed to establish connection.")
			return
		}
		for err == nil {
			_, err = io.WriteString(c, next())
		}
		c.Close()
		x.Reply("426 Failure writing network stream.")
	}, verbs...)
}

// FTPDripsData sends one byte of content a tick on the data connection, over and over.
func FTPDripsData(ticks <-chan time.Time, content string, verbs ...string) FTPRule {
	n := 0
	return FTPOn(func(x *FTPExchange) {
		x.Reply("150 Here it comes.")
		c, err := x.Data()
		if err != nil {
			return
		}
		defer c.Close()
		for err == nil {
			select {
			case <-ticks:
				n++
				_, err = io.WriteString(c, content[n%len(content):][:1])
			case <-x.Gone():
				return
			}
		}
	}, verbs...)
}

// FTPTakes answers an upload by final after it has read n bytes, all for a negative n, and keeps the first keep of them,
// all for a negative keep. With "" there is no final reply.
func FTPTakes(n, keep int, final string) FTPRule {
	return FTPOn(func(x *FTPExchange) {
		x.Reply("150 Ok to send data.")
		c, err := x.Data()
		if err != nil {
			x.Reply("425 Failed to establish connection.")
			return
		}
		from := io.Reader(c)
		if n >= 0 {
			from = io.LimitReader(c, int64(n))
		}
		data, _ := io.ReadAll(from) // what came is what counts
		c.Close()
		if keep >= 0 {
			data = data[:min(keep, len(data))]
		}
		x.d.server.Put(x.Path(), File{Data: string(data), Mtime: uint32(time.Now().Unix())})
		if final != "" {
			x.Reply(final)
		}
	}, "STOR")
}

// StallsAfter lets the server send n bytes, and then waits until the client has left.
func StallsAfter(n int) func(*Wire) net.Conn {
	return func(w *Wire) net.Conn { return &staller{Conn: w, left: n} }
}

type staller struct {
	net.Conn
	left int
}

// Write is called by one goroutine at a time.
func (s *staller) Write(p []byte) (int, error) {
	n, err := s.Conn.Write(p[:min(len(p), s.left)])
	if s.left -= n; err != nil || n == len(p) {
		return n, err
	}
	_, _ = io.Copy(io.Discard, s.Conn) // until the client leaves
	return n, net.ErrClosed
}

// HearsOnly passes the first n bytes that the client sends, and then cuts, or hears nothing more and stays connected.
func HearsOnly(n int, stay bool) func(*Wire) net.Conn {
	return func(w *Wire) net.Conn { return &deaf{Conn: w, left: n, stay: stay} }
}

type deaf struct {
	net.Conn
	stay bool // connected
	left int
}

// Read is called by one goroutine at a time.
func (d *deaf) Read(p []byte) (int, error) {
	if d.left == 0 && d.stay {
		_, _ = io.Copy(io.Discard, d.Conn) // until the client leaves
		return 0, net.ErrClosed
	}
	if d.left == 0 {
		d.Conn.Close()
		return 0, net.ErrClosed
	}
	n, err := d.Conn.Read(p[:min(len(p), d.left)])
	d.left -= n
	return n, err
}
