package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"pierfs/integration/servers"
)

// A tap stands between sshd, which starts it as its SFTP server, and the real sftp-server, and asks a gate before it passes on
// anything. It is this program called with the word tapWord and the gate's socket.

const tapWord = "crash-tap"

// tapping reports whether this process is to be a tap, which it then was.
func tapping() bool {
	if len(os.Args) != 3 || os.Args[1] != tapWord {
		return false
	}
	if err := tap(os.Args[2], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return true
}

// tap returns when the server has done with everything that it was given, whether or not somebody still listens.
func tap(socket string, in io.Reader, out io.Writer) error {
	c, err := net.Dial("unix", socket)
	if err != nil {
		return err
	}
	defer c.Close()
	server := exec.Command(servers.External)
	requests, err := server.StdinPipe()
	if err != nil {
		return err
	}
	answers, err := server.StdoutPipe()
	if err != nil {
		return err
	}
	if err := server.Start(); err != nil {
		return err
	}
	t := sftpTap{gate: &asker{c: c}, open: map[uint32]string{}, opening: map[uint32][]string{}, handles: map[string][]string{}}
	go func() { // ends with the daemon's side of the session, at the latest with this process
		t.up(requests, in)
		requests.Close()
	}()
	err = t.down(out, answers)
	return errors.Join(err, server.Wait())
}

// sftpTap follows one SFTP session.
type sftpTap struct {
	gate *asker
	mu   sync.Mutex
	open map[uint32]string // what was asked, by request id

	opening map[uint32][]string // of these, what opens a contested file: its name, and a number of its own
	handles map[string][]string // the same by handle
}

// up passes requests on until there are no more, or the daemon is killed.
func (t *sftpTap) up(to io.Writer, from io.Reader) {
	for {
		p, err := readPacket(from)
		if err != nil {
			return
		}
		word := p.request()
		t.mu.Lock()
		t.open[p.id()] = word
		t.mu.Unlock()
		if t.gate.pass(strings.Join(append([]string{"sftp." + word + ".asked"}, t.contested(p)...), " ")) != nil {
			return
		}
		if _, err := to.Write(p); err != nil {
			return
		}
	}
}

// down passes answers on; what nobody hears any more is read all the same, so that the server goes on to its end.
func (t *sftpTap) down(to io.Writer, from io.Reader) error {
	for {
		p, err := readPacket(from)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		t.mu.Lock()
		word := t.open[p.id()]
		delete(t.open, p.id())
		if names := t.opening[p.id()]; names != nil && p[4] == fxpHandle && len(p) > 13 {
			t.handles[string(p[13:])] = names
		}
		delete(t.opening, p.id())
		t.mu.Unlock()
		if to == nil {
			continue
		}
		if t.gate.pass("sftp."+word+".answered") != nil {
			to = nil
		} else if _, err := to.Write(p); err != nil {
			to = nil
		}
	}
}

// packet is one of SFTP version 3, with its length before it.
type packet []byte

// maxPacket is more than OpenSSH takes or sends.
const maxPacket = 1 << 20

func readPacket(r io.Reader) (packet, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(head[:])
	if size == 0 || size > maxPacket {
		return nil, fmt.Errorf("an SFTP packet of %d bytes", size)
	}
	p := make(packet, 4+size)
	copy(p, head[:])
	_, err := io.ReadFull(r, p[4:])
	return p, err
}

// Types of packets (draft-ietf-secsh-filexfer-02, section 3).
const (
	fxpInit     = 1
	fxpVersion  = 2
	fxpOpen     = 3
	fxpWrite    = 6
	fxpFsetstat = 10
	fxpHandle   = 102
	fxpExtended = 200
)

var requestNames = map[byte]string{
	fxpInit: "init", 3: "open", 4: "close", 5: "read", 6: "write", 7: "lstat", 8: "fstat", 9: "setstat", 10: "fsetstat", 11: "opendir",
	12: "readdir", 13: "remove", 14: "mkdir", 15: "rmdir", 16: "realpath", 17: "stat", 18: "rename", 19: "readlink", 20: "symlink",
}

// id is the number by which an answer finds its request; 0 for the greetings, which have none.
func (p packet) id() uint32 {
	if p[4] == fxpInit || p[4] == fxpVersion || len(p) < 9 {
		return 0
	}
	return binary.BigEndian.Uint32(p[5:])
}

// contested returns the contested names that p is about. Behind that of a file that it opens, writes to or sets attributes of by its handle comes
// which opening it is about.
func (t *sftpTap) contested(p packet) (names []string) {
	switch p[4] {
	case fxpOpen:
		if names = p.contested(); len(names) > 0 {
			names = append(names[:1], fmt.Sprintf("%d-%d", os.Getpid(), p.id()))
			t.mu.Lock()
			t.opening[p.id()] = names
			t.mu.Unlock()
		}
		return names
	case fxpWrite, fxpFsetstat:
		if len(p) < 13 {
			return nil
		}
		n := binary.BigEndian.Uint32(p[9:])
		t.mu.Lock()
		defer t.mu.Unlock()
		return t.handles[string(p[13:min(13+int(n), len(p))])]
	}
	return p.contested()
}

// contested returns the names in p below the directory of that name.
func (p packet) contested() (names []string) {
	rest := p[min(len(p), 9):]
	for len(rest) > 4 {
		n := binary.BigEndian.Uint32(rest)
		if uint64(n) > uint64(len(rest)-4) {
			break
		}
		if name := string(rest[4 : 4+n]); filepath.Base(filepath.Dir(name)) == contested && !strings.ContainsAny(name, " \n") {
			names = append(names, name)
		}
		rest = rest[4+n:]
	}
	return names
}

// request names what p asks for, an extension by its own name without the domain.
func (p packet) request() string {
	if p[4] != fxpExtended {
		if name, ok := requestNames[p[4]]; ok {
			return name
		}
		return fmt.Sprintf("type%d", p[4])
	}
	if len(p) < 13 {
		return "extended"
	}
	n := binary.BigEndian.Uint32(p[9:])
	name, _, _ := strings.Cut(string(p[13:13+min(int(n), len(p)-13)]), "@")
	return name
}
