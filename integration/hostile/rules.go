package hostile

import (
	"fmt"
	"math"
	"path"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
)

// On answers the ops by answer.
func On(answer func(*Exchange), ops ...Op) Rule {
	return func(x *Exchange) bool {
		if !slices.Contains(ops, x.Op) {
			return false
		}
		answer(x)
		return true
	}
}

// Only asks rule only about what lies in the working directory under one of the names.
func Only(rule Rule, names ...string) Rule {
	return func(x *Exchange) bool {
		return slices.ContainsFunc(names, func(name string) bool {
			return x.d.server.abs(name) == x.d.server.abs(x.Path)
		}) && rule(x)
	}
}

// After leaves the first n requests that rule would take to the honest server.
func After(n int, rule Rule, ops ...Op) Rule {
	var seen atomic.Int64
	return func(x *Exchange) bool { return slices.Contains(ops, x.Op) && seen.Add(1) > int64(n) && rule(x) }
}

// Mute never answers the ops, and goes on with others.
func Mute(ops ...Op) Rule { return On(func(*Exchange) {}, ops...) }

// Stall answers nothing any more once one of the ops was asked for.
func Stall(ops ...Op) Rule { return On(func(x *Exchange) { <-x.Gone() }, ops...) }

// Floods answers nothing any more once one of the ops was asked for, and calls flood over and over until it fails.
func Floods(flood func(ssh.Channel, ssh.Conn) error, ops ...Op) Rule {
	return On(func(x *Exchange) {
		for flood(x.d.rw, x.d.conn) == nil {
		}
		<-x.Gone()
	}, ops...)
}

// Cuts ends the connection in place of an answer.
func Cuts(ops ...Op) Rule { return On((*Exchange).Cut, ops...) }

// CutsWithin sends the first n bytes of the honest reply and ends the connection.
func CutsWithin(n int, ops ...Op) Rule {
	return On(func(x *Exchange) {
		reply := x.honest()
		x.Send(reply[:min(n, len(reply))])
		x.Cut()
	}, ops...)
}

// Refuses answers with a status and does nothing.
func Refuses(s Status, ops ...Op) Rule { return On(func(x *Exchange) { x.Status(s) }, ops...) }

// Pretends answers that the ops have succeeded and does nothing: discarded writes, renames that never were.
func Pretends(ops ...Op) Rule { return Refuses(OK, ops...) }

// Sends sends bytes in place of an answer, whatever they are.
func Sends(b []byte, ops ...Op) Rule { return On(func(x *Exchange) { x.Send(b) }, ops...) }

// Answers sends a packet of that kind and content in place of the answer.
func Answers(kind byte, body []byte, ops ...Op) Rule {
	return On(func(x *Exchange) { x.Reply(kind, body) }, ops...)
}

// Alters sends what f makes of the honest reply.
func Alters(f func(x *Exchange, reply []byte) []byte, ops ...Op) Rule {
	return On(func(x *Exchange) { x.Send(f(x, x.honest())) }, ops...)
}

// Lists adds entries to the listing of the directory name.
func Lists(name string, entries ...Entry) Rule {
	return Only(On(func(x *Exchange) {
		reply := x.honest()
		for _, h := range x.d.handles {
			if h.path == x.Path {
				h.entries = append(h.entries, entries...)
			}
		}
		x.Send(reply)
	}, Opendir), name)
}

// ListsForEver answers every READDIR with another hundred names, each length bytes long and never seen before.
func ListsForEver(length int) Rule {
	var next atomic.Int64
	prefix := strings.Repeat("n", max(0, length-10))
	return On(func(x *Exchange) {
		body := number(100)
		for range 100 {
			body = append(str(str(body, fmt.Sprintf("%s%010d", prefix, next.Add(1))), ""), File{}.attrs()...)
		}
		x.Reply(kindName, body)
	}, Readdir)
}

// Drips sends the honest reply byte by byte, one for each tick.
func Drips(ticks <-chan time.Time, ops ...Op) Rule {
	return On(func(x *Exchange) {
		for _, b := range x.honest() {
			select {
			case <-ticks:
				x.Send([]byte{b})
			case <-x.Gone():
				return
			}
		}
	}, ops...)
}

// Slowly asks rule only after a tick.
func Slowly(ticks <-chan time.Time, rule Rule) Rule {
	return func(x *Exchange) bool {
		select {
		case <-ticks:
		case <-x.Gone():
		}
		return rule(x)
	}
}

// ListsSlowly answers each READDIR after a tick with one new name, for ever.
func ListsSlowly(ticks <-chan time.Time) Rule {
	var next atomic.Int64
	return On(func(x *Exchange) {
		select {
		case <-ticks:
		case <-x.Gone():
			return
		}
		x.Reply(kindName, append(number(1), Entry{fmt.Sprint(next.Add(1)), File{}}.encode()...))
	}, Readdir)
}

// ReadsSlowly answers each READ after a tick with one byte of what it asked for.
func ReadsSlowly(ticks <-chan time.Time, ops ...Op) Rule {
	return On(func(x *Exchange) {
		select {
		case <-ticks:
			x.Length = 1
			x.Send(x.honest())
		case <-x.Gone():
		}
	}, ops...)
}

// Halves keeps the first half of each write, and says that all is well.
func Halves() Rule {
	return On(func(x *Exchange) {
		x.Data = x.Data[:len(x.Data)/2]
		x.Send(x.honest())
	}, Write)
}

// Empties does what was asked and then empties the file name.
func Empties(op Op, name string) Rule {
	return On(func(x *Exchange) {
		reply := x.honest()
		x.d.server.Put(name, File{})
		x.Send(reply)
	}, op)
}

// RefusesWriteFrom answers writes with FAILURE, and keeps nothing of them, that reach beyond the first k bytes of a file.
func RefusesWriteFrom(k uint64) Rule {
	return func(x *Exchange) bool {
		if x.Op != Write || x.Offset+uint64(len(x.Data)) <= k {
			return false
		}
		x.Status(Failure)
		return true
	}
}

// Swaps puts f under name once op was answered for it: what was looked at is no longer what is opened.
func Swaps(op Op, name string, f File) Rule {
	return Only(On(func(x *Exchange) {
		reply := x.honest()
		x.d.server.Put(name, f)
		x.Send(reply)
	}, op), name)
}

// LimitsOf answers limits@openssh.com with these figures.
func LimitsOf(packet, read, write, handles uint64) Rule {
	return Answers(kindExtendedReply, u64(u64(u64(long(packet), read), write), handles), Limits)
}

// Breach is a broken answer.
type Breach struct {
	Name string
	Lie  bool // it parses as a proper answer to some requests, and is untrue
	Rule func(ops ...Op) Rule
}

// Breaches returns every way to break an answer that the server knows.
func Breaches() []Breach {
	answer := func(name string, kind byte, body ...byte) Breach {
		return Breach{Name: name, Rule: func(ops ...Op) Rule { return Answers(kind, body, ops...) }}
	}
	send := func(name string, b []byte) Breach {
		return Breach{Name: name, Rule: func(ops ...Op) Rule { return Sends(b, ops...) }}
	}
	alter := func(name string, f func(*Exchange, []byte) []byte) Breach {
		return Breach{Name: name, Rule: func(ops ...Op) Rule { return Alters(f, ops...) }}
	}
	lie := func(b Breach) Breach {
		b.Lie = true
		return b
	}
	honestEntry := Entry{"honest", File{}}.encode()
	return []Breach{
		answer("unknown kind", 99),
		answer("kind of a request", 3),
		answer("second VERSION", kindVersion, 0, 0, 0, 3),
		answer("empty STATUS", kindStatus),
		answer("STATUS without words", kindStatus, number(uint32(Failure))...),
		answer("STATUS of an unknown code", kindStatus, slices.Concat(number(4_000_000_000), text("?"), text(""))...),
		answer("STATUS with words beyond the packet", kindStatus, u32(number(uint32(Failure)), math.MaxUint32)...),
		answer("empty HANDLE packet", kindHandle),
		answer("handle of 0 bytes", kindHandle, text("")...),
		answer("handle of 257 bytes", kindHandle, text(strings.Repeat("h", 257))...),
		answer("handle of 100 KiB", kindHandle, text(strings.Repeat("h", 100<<10))...),
		answer("handle beyond the packet", kindHandle, number(math.MaxUint32)...),
		answer("empty DATA packet", kindData),
		answer("DATA of 0 bytes", kindData, text("")...),
		lie(answer("DATA of 200 KiB", kindData, text(strings.Repeat("d", 200<<10))...)),
		answer("DATA beyond the packet", kindData, number(math.MaxUint32)...),
		answer("empty NAME packet", kindName),
		lie(answer("NAME of 0 names", kindName, number(0)...)),
		answer("NAME of 2^32-1 names", kindName, number(math.MaxUint32)...),
		answer("NAME of more names than it has", kindName, slices.Concat(number(1000), honestEntry)...),
		answer("NAME with a name beyond the packet", kindName, slices.Concat(number(1), number(math.MaxUint32))...),
		answer("empty ATTRS", kindAttrs),
		lie(answer("ATTRS without any attribute", kindAttrs, number(0)...)),
		answer("ATTRS with all flags and nothing behind", kindAttrs, number(math.MaxUint32)...),
		answer("ATTRS with 2^32-1 extended", kindAttrs, u32(number(1<<31), math.MaxUint32)...),
		answer("ATTRS with an extended one beyond the packet", kindAttrs, slices.Concat(number(1<<31), number(1), number(math.MaxUint32))...),
		answer("empty EXTENDED_REPLY", kindExtendedReply),
		answer("EXTENDED_REPLY of all ones", kindExtendedReply, slices.Repeat([]byte{255}, 88)...),
		lie(answer("STATUS OK", kindStatus, slices.Concat(number(0), text(""), text(""))...)),
		lie(answer("STATUS EOF", kindStatus, slices.Concat(number(1), text(""), text(""))...)),
		send("packet of 4 GiB", append(number(math.MaxUint32), kindStatus, 0, 0)),
		send("packet of 0 bytes", number(0)),
		send("packet of 1 byte", append(number(1), kindStatus)),
		send("text", []byte("HTTP/1.1 400 Bad Request\r\n\r\n")),
		send("unknown id", packet(kindStatus, number(0xfffffff0), number(0), text(""), text(""))),
		send("id of nobody", packet(kindStatus, number(0x7ffffff0), number(0), text(""), text(""))),
		alter("reply twice", func(_ *Exchange, reply []byte) []byte { return slices.Concat(reply, reply) }),
		alter("reply and one more of an unknown id", func(_ *Exchange, reply []byte) []byte {
			return append(reply, packet(kindStatus, number(0xfffffff0), number(0), text(""), text(""))...)
		}),
		alter("first half of the reply, then the next", func(_ *Exchange, reply []byte) []byte { return reply[:len(reply)/2] }),
		alter("reply with 100 KiB of rubbish behind", func(_ *Exchange, reply []byte) []byte {
			return packet(reply[4], reply[5:], make([]byte, 100<<10))
		}),
	}
}

// BadNames are names that a server may list but that no directory can hold, or that do harm where they are printed.
func BadNames() []Entry {
	names := []string{"../escape", "../../etc/passwd", "/etc/passwd", "..", ".", "", "a/b", "nul\x00byte", strings.Repeat("x", 300),
		"/", "//", "dir/", "./dot"}
	var entries []Entry
	for _, name := range names {
		entries = append(entries, Entry{name, File{Data: "evil"}})
	}
	return entries
}

// OddNames are names that a directory can hold, and that must survive as they are.
func OddNames() []string {
	return []string{"esc\x1b[2Jape", "line\nfeed", "bell\a", "carriage\rreturn", " blank ", "-rf", "latin1-\xe4", "back\\slash", "del\x7f",
		"c1-\u009b31m", "...", strings.Repeat("y", 255)}
}

// inside reports whether a client's path stays within the working directory.
func (s *Server) inside(name string) bool {
	at := s.abs(name)
	return at == s.Root || strings.HasPrefix(at, s.Root+"/") || path.Clean(name) == "."
}

// Strays returns the requests that named something outside of the working directory.
func (s *Server) Strays() []Request {
	var strays []Request
	for _, r := range s.Requests() {
		named := r.Path
		if r.Op == Symlink {
			named = r.To // its Path is the content of the link
		}
		if r.Op != Limits && (!s.inside(named) || r.To != "" && !s.inside(r.To)) {
			strays = append(strays, r)
		}
	}
	return strays
}
