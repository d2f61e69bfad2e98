package main

import (
	"bufio"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"unicode"
)

// hearControl leads one control connection of FTP to the server at address, and has every command and every reply pass the gate.
// Data connections go their own way.
func (r *road) hearControl(c net.Conn, address string) {
	g := r.now()
	g.enter()
	defer g.leave()
	server, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	defer server.Close()
	t := controlTap{gate: g, asked: []string{"connect"}}
	var up sync.WaitGroup
	up.Go(func() {
		t.up(server, c)
		_ = server.(*net.TCPConn).CloseWrite() // the server then ends the session, when it has done with what it was given
	})
	t.down(c, server)
	c.Close()
	up.Wait()
}

// hearSealed is hearControl where nobody can read what passes: each piece of it is a step.
func (r *road) hearSealed(c net.Conn, address string) {
	g := r.now()
	g.enter()
	defer g.leave()
	server, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	defer server.Close()
	var up sync.WaitGroup
	up.Go(func() {
		passPieces(server, c, g, "sealed.asked")
		_ = server.(*net.TCPConn).CloseWrite()
	})
	passPieces(c, server, g, "sealed.answered")
	c.Close()
	up.Wait()
}

// passPieces passes on what it reads, until the gate says that nobody hears it any more; what comes then is read to its end.
func passPieces(to io.Writer, from io.Reader, g *gate, site string) {
	for piece := make([]byte, 32<<10); ; {
		n, err := from.Read(piece)
		if n > 0 && !g.pass(site) {
			to = io.Discard
		}
		if _, lost := to.Write(piece[:n]); lost != nil {
			to = io.Discard
		}
		if err != nil {
			return
		}
	}
}

// controlTap follows one control connection.
type controlTap struct {
	gate  *gate
	mu    sync.Mutex
	asked []string // commands without a final reply, the oldest first; at the beginning the connection itself
}

func (t *controlTap) up(to io.Writer, from io.Reader) {
	for lines := bufio.NewReader(from); ; {
		line, err := lines.ReadString('\n')
		if err != nil {
			return
		}
		word := commandOf(line)
		t.mu.Lock()
		t.asked = append(t.asked, word)
		t.mu.Unlock()
		site := "ftp." + word + ".asked"
		if _, name, _ := strings.Cut(strings.TrimSpace(line), " "); t.gate.hear != nil && filepath.Base(filepath.Dir(name)) == contested {
			t.gate.hear(site, []string{name})
		}
		if !t.gate.pass(site) {
			return
		}
		if _, err := io.WriteString(to, line); err != nil {
			return
		}
	}
}

// down passes replies on; what nobody hears any more is read all the same, so that the server goes on to its end.
func (t *controlTap) down(to io.Writer, from io.Reader) {
	code := "" // of the reply whose lines are being read
	for lines := bufio.NewReader(from); ; {
		line, err := lines.ReadString('\n')
		if err != nil {
			return
		}
		if code == "" && len(line) > 3 {
			code = line[:3]
		}
		if strings.HasPrefix(line, code+" ") {
			if !t.gate.pass(t.replied(code)) {
				to = io.Discard
			}
			code = ""
		}
		if _, err := io.WriteString(to, line); err != nil {
			to = io.Discard
		}
	}
}

// replied names the step that a reply of code is: the beginning of a transfer, or an answer.
func (t *controlTap) replied(code string) (site string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.asked) == 0 {
		return "ftp.unasked.answered"
	}
	word := t.asked[0]
	if code[0] == '1' {
		return "ftp." + word + ".begun"
	}
	t.asked = t.asked[1:]
	return "ftp." + word + ".answered"
}

// commandOf is the verb of a line, of SITE with what follows it.
func commandOf(line string) string {
	line = strings.TrimLeftFunc(line, func(r rune) bool { return r > unicode.MaxASCII }) // signals of Telnet before ABOR
	words := strings.Fields(strings.ToUpper(line))
	switch {
	case len(words) == 0:
		return "nothing"
	case words[0] == "SITE" && len(words) > 1:
		return "SITE-" + words[1]
	}
	return words[0]
}
