package hostile

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"path"
	"strconv"
	"strings"
	"time"
)

// FTPRule answers a command otherwise than an honest server would; false leaves it to the next one. It may block: the
// session goes on with the next command only when it returns. What blocks must give up when x.Gone is closed.
type FTPRule func(x *FTPExchange) (taken bool)

// FTPExchange is one command, and the way to answer it.
type FTPExchange struct {
	Command
	d *session
}

// Gone is closed when the client has left.
func (x *FTPExchange) Gone() <-chan struct{} { return x.d.gone }

// Cut ends the connection.
func (x *FTPExchange) Cut() { x.d.raw.Close() }

// Reply sends a reply, or several, or part of one; a line end is added.
func (x *FTPExchange) Reply(text string) { x.d.say(text) }

// Send sends bytes as they are, and reports whether the client is still there.
func (x *FTPExchange) Send(b []byte) bool {
	_, err := x.d.conn.Write(b)
	return err == nil
}

// Path is the argument as an absolute path.
func (x *FTPExchange) Path() string { return x.d.abs(x.Arg) }

func (d *session) abs(name string) string {
	if path.IsAbs(name) {
		return path.Clean(name)
	}
	return path.Join("/", d.at, name)
}

// errNoData means that there was no data connection to be had.
var errNoData = errors.New("no data connection")

// Data returns the data connection of this command, with TLS where the client has asked for it. Whoever takes it closes
// it.
func (x *FTPExchange) Data() (net.Conn, error) {
	d := x.d
	var c net.Conn
	var err error
	switch {
	case d.target != "":
		c, err = net.DialTimeout("tcp", d.target, 10*time.Second)
		d.target = ""
	case d.listener != nil:
		d.listener.(*net.TCPListener).SetDeadline(time.Now().Add(10 * time.Second)) // an open listener takes it
		c, err = d.listener.Accept()
		d.listener.Close()
		d.listener = nil
	default:
		err = errNoData
	}
	if err != nil {
		return nil, err
	}
	if !d.server.take(c) {
		return nil, errNoData
	}
	raw := c
	context := func() { d.server.drop(raw) }
	m := d.server.how()
	if m.Data != nil {
		if c = m.Data(&Wire{c}); c == nil {
			context()
			return nil, errNoData
		}
	}
	if d.guarded {
		config := m.DataTLS
		if config == nil {
			config = m.TLS
		}
		c = tls.Server(c, config)
	}
	return &dataConn{Conn: c, drop: context}, nil
}

// dataConn is a data connection that the server counts among its own until it is closed.
type dataConn struct {
	net.Conn
	drop func()
}

func (c *dataConn) Close() error {
	err := c.Conn.Close()
	c.drop()
	return err
}

// Honest answers as an honest server would.
func (x *FTPExchange) Honest() {
	m := x.d.server.how()
	switch x.Verb {
	case "AUTH", "PBSZ", "PROT", "USER", "PASS", "ACCT":
		x.login(m)
	case "FEAT", "OPTS", "SYST", "TYPE", "NOOP", "PWD", "CWD", "REST", "QUIT", "SITE":
		x.simple(m)
	case "EPSV", "PASV", "EPRT", "PORT":
		x.open()
	case "RETR", "STOR", "APPE", "LIST", "MLSD", "NLST":
		if x.Verb == "MLSD" && !m.lists() {
			x.Reply("500 Unknown command.")
			return
		}
		x.transfer()
	case "MLST":
		if !m.lists() {
			x.Reply("500 Unknown command.")
			return
		}
		x.files()
	default:
		x.files()
	}
}

// lists reports whether the server knows MLST and MLSD.
func (m FTPManner) lists() bool {
	if m.Features == nil {
		return true
	}
	for _, line := range m.Features {
		if strings.HasPrefix(line, "MLST") {
			return true
		}
	}
	return false
}

func (x *FTPExchange) login(m FTPManner) {
	s := x.d.server
	switch {
	case x.Verb == "AUTH" && (m.TLS == nil || x.d.private):
		x.Reply("500 AUTH not understood")
	case x.Verb == "AUTH":
		x.Reply("234 AUTH TLS OK.")
		x.d.secure(m.TLS)
	case x.Verb == "PBSZ":
		x.Reply("200 PBSZ=0")
	case x.Verb == "PROT":
		x.d.guarded = x.Arg == "P"
		x.Reply("200 Protection set")
	case x.Verb == "USER":
		x.Reply("331 Password required")
	case x.Verb == "PASS" && x.Arg != s.Password:
		x.Reply("530 Login incorrect.")
	case x.Verb == "PASS":
		x.d.at = s.Root
		x.Reply("230 Login successful.")
	default:
		x.Reply("502 No account needed.")
	}
}

func (x *FTPExchange) simple(m FTPManner) {
	d := x.d
	switch x.Verb {
	case "FEAT":
		lines := m.Features
		if lines == nil {
			lines = MLSTFeatures()
		}
		if len(lines) == 0 {
			x.Reply("502 FEAT not implemented.")
			return
		}
		x.Reply("211-Features:\r\n " + strings.Join(lines, "\r\n ") + "\r\n211 End")
	case "SYST":
		x.Reply("215 UNIX Type: L8")
	case "PWD":
		x.Reply(`257 "` + strings.ReplaceAll(d.at, `"`, `""`) + `" is the current directory`)
	case "CWD":
		t := d.server.tree
		t.mu.Lock()
		f := t.files[t.resolve(x.Path(), true)]
		t.mu.Unlock()
		if f == nil || !f.is(TypeDir) {
			x.Reply("550 Failed to change directory.")
			return
		}
		d.at = x.Path()
		x.Reply("250 Directory successfully changed.")
	case "REST":
		n, err := strconv.ParseInt(x.Arg, 10, 64)
		if err != nil || n < 0 {
			x.Reply("501 Bad offset.")
			return
		}
		d.rest = n
		x.Reply(fmt.Sprintf("350 Restart position accepted (%d).", n))
	case "SITE":
		x.site()
	case "QUIT":
		x.Reply("221 Goodbye.")
		d.raw.Close()
	default:
		x.Reply("200 OK.")
	}
}

func (x *FTPExchange) site() {
	word, rest, _ := strings.Cut(x.Arg, " ")
	perm, name, _ := strings.Cut(rest, " ")
	bits, err := strconv.ParseUint(perm, 8, 12)
	if strings.ToUpper(word) != "CHMOD" || err != nil {
		x.Reply("500 Unknown SITE command.")
		return
	}
	x.change(name, "200 SITE CHMOD command ok.", func(f *File) { f.Mode = f.mode()&typeMask | uint32(bits) })
}

// change changes a file that is there.
func (x *FTPExchange) change(name, done string, f func(*File)) {
	t := x.d.server.tree
	t.mu.Lock()
	file := t.files[t.resolve(x.d.abs(name), true)]
	if file != nil {
		f(file)
	}
	t.mu.Unlock()
	if file == nil {
		done = "550 No such file or directory."
	}
	x.Reply(done)
}

func (x *FTPExchange) open() {
	d := x.d
	if x.Verb == "EPRT" || x.Verb == "PORT" {
		d.target = x.invited()
		x.Reply("200 Command successful.")
		return
	}
	if d.listener != nil {
		d.listener.Close()
	}
	l, err := net.Listen("tcp", net.JoinHostPort(d.server.Host, "0"))
	if err != nil {
		x.Reply("425 " + err.Error())
		return
	}
	d.listener = l
	port := l.Addr().(*net.TCPAddr).Port
	if x.Verb == "EPSV" {
		x.Reply(fmt.Sprintf("229 Entering Extended Passive Mode (|||%d|)", port))
		return
	}
	x.Reply(fmt.Sprintf("227 Entering Passive Mode (%s,%d,%d).", strings.ReplaceAll(d.server.Host, ".", ","), port>>8, port&0xff))
}

// invited returns the address of EPRT or PORT, or one that nobody listens at.
func (x *FTPExchange) invited() string {
	if parts := strings.Split(x.Arg, "|"); x.Verb == "EPRT" && len(parts) == 5 {
		return net.JoinHostPort(parts[2], parts[3])
	}
	var n [6]int
	if _, err := fmt.Sscanf(x.Arg, "%d,%d,%d,%d,%d,%d", &n[0], &n[1], &n[2], &n[3], &n[4], &n[5]); err != nil {
		return "127.0.0.1:1"
	}
	return fmt.Sprintf("%d.%d.%d.%d:%d", n[0], n[1], n[2], n[3], n[4]<<8|n[5])
}

// Content is what a RETR or a listing sends, before the offset of REST; false if there is nothing of the kind.
func (x *FTPExchange) Content() (string, bool) {
	t := x.d.server.tree
	t.mu.Lock()
	defer t.mu.Unlock()
	name := x.Path()
	if x.Verb == "LIST" || x.Verb == "NLST" {
		arg := strings.TrimPrefix(x.Arg, "-a")
		name = x.d.abs(strings.TrimSpace(arg))
	}
	at := t.resolve(name, true)
	f := t.files[at]
	switch {
	case f == nil:
		return "", x.Verb == "LIST" // as vsftpd: nothing, and that is all
	case x.Verb == "RETR":
		return f.Data, f.is(TypeRegular)
	case !f.is(TypeDir):
		return x.line(path.Base(name), *f), x.Verb == "LIST"
	}
	var b strings.Builder
	if x.Verb == "MLSD" {
		b.WriteString("type=cdir; .\r\n")
	}
	for _, name := range t.children(at) {
		b.WriteString(x.line(name, *t.files[path.Join(at, name)]))
	}
	return b.String(), true
}

// line is one entry of a listing.
func (x *FTPExchange) line(name string, f File) string {
	switch x.Verb {
	case "NLST":
		return name + "\r\n"
	case "MLSD":
		return f.facts() + " " + name + "\r\n"
	}
	kind, target := "-", ""
	switch {
	case f.is(TypeDir):
		kind = "d"
	case f.is(TypeLink):
		kind, target = "l", " -> "+f.Target
	}
	mode := fmt.Sprintf("%s%s%s%s", kind, bits(f.mode()>>6), bits(f.mode()>>3), bits(f.mode()))
	when := time.Unix(int64(f.Mtime), 0).UTC().Format("Jan 02  2006")
	return fmt.Sprintf("%s    1 %-8d %-8d %8d %s %s%s\r\n", mode, f.UID, f.GID, f.size(), when, name, target)
}

func bits(mode uint32) string {
	b := []byte("rwx")
	for i := range b {
		if mode>>(2-i)&1 == 0 {
			b[i] = '-'
		}
	}
	return string(b)
}

// size is what the server tells of the file's size.
func (f File) size() uint64 {
	if f.Claim != nil {
		return *f.Claim
	}
	return uint64(len(f.Data))
}

func (f File) facts() string {
	kind := "file"
	switch {
	case f.is(TypeDir):
		kind = "dir"
	case f.is(TypeLink):
		kind = "OS.unix=slink:" + f.Target
	}
	return fmt.Sprintf("type=%s;size=%d;modify=%s;UNIX.mode=%04o;UNIX.uid=%d;UNIX.gid=%d;", kind, f.size(), stamp(f), f.mode()&0o7777, f.UID, f.GID)
}

func stamp(f File) string { return time.Unix(int64(f.Mtime), 0).UTC().Format("20060102150405") }

func (x *FTPExchange) transfer() {
	rest := x.d.rest
	x.d.rest = 0
	if x.Verb == "STOR" || x.Verb == "APPE" {
		x.upload()
		return
	}
	content, ok := x.Content()
	if !ok || rest > int64(len(content)) {
		x.Reply("550 Failed to open file.")
		return
	}
	x.Reply("150 Opening data connection.")
	c, err := x.Data()
	if err != nil {
		x.Reply("425 Failed to establish connection.")
		return
	}
	_, err = io.WriteString(c, content[rest:])
	if closed := x.shut(c); err != nil || closed != nil {
		x.Reply("426 Failure writing network stream.")
		return
	}
	x.Reply("226 Transfer complete.")
}

// shut ends a data connection that the server has written to.
func (x *FTPExchange) shut(c net.Conn) error {
	inner := c.(*dataConn).Conn
	if secured, ok := inner.(*tls.Conn); ok {
		if err := secured.Handshake(); err != nil { // nothing to send is no reason for none
			c.Close()
			return err
		}
	}
	return c.Close()
}

func (x *FTPExchange) upload() {
	t := x.d.server.tree
	name := x.Path()
	t.mu.Lock()
	at := t.resolve(name, true)
	f, dir := t.files[at], t.files[path.Dir(at)]
	t.mu.Unlock()
	if dir == nil || !dir.is(TypeDir) || f != nil && !f.is(TypeRegular) {
		x.Reply("553 Could not create file.")
		return
	}
	x.Reply("150 Ok to send data.")
	c, err := x.Data()
	if err != nil {
		x.Reply("425 Failed to establish connection.")
		return
	}
	defer c.Close()
	data, err := io.ReadAll(c)
	t.mu.Lock()
	next := File{Data: string(data), Mtime: uint32(time.Now().Unix())}
	if f != nil {
		next.Mode = f.Mode
		if x.Verb == "APPE" {
			next.Data = f.Data + next.Data
		}
	}
	t.set(at, &next)
	t.mu.Unlock()
	if err != nil {
		x.Reply("426 Failure reading network stream.")
		return
	}
	x.Reply("226 Transfer complete.")
}

func (x *FTPExchange) files() {
	t := x.d.server.tree
	name := x.Path()
	if x.Verb == "MFMT" {
		_, rest, _ := strings.Cut(x.Arg, " ")
		name = x.d.abs(rest)
	}
	t.mu.Lock()
	reply := x.onFile(t, name)
	t.mu.Unlock()
	x.Reply(reply)
}

const noFile = "550 No such file or directory."

// onFile answers what names one file. The tree is locked.
func (x *FTPExchange) onFile(t *tree, name string) string {
	at := t.resolve(name, false)
	f, followed := t.files[at], t.files[t.resolve(name, true)]
	switch x.Verb {
	case "MLST":
		if f == nil {
			return noFile
		}
		return "250-Listing " + name + "\r\n " + f.facts() + " " + name + "\r\n250 End"
	case "SIZE", "MDTM":
		if followed == nil || x.Verb == "SIZE" && !followed.is(TypeRegular) {
			return "550 Could not get file information."
		}
		if x.Verb == "SIZE" {
			return fmt.Sprintf("213 %d", followed.size())
		}
		return "213 " + stamp(*followed)
	case "MFMT":
		when, err := time.Parse("20060102150405", strings.SplitN(x.Arg, " ", 2)[0])
		if followed == nil || err != nil {
			return noFile
		}
		followed.Mtime = uint32(when.Unix())
		return "213 Modify=" + stamp(*followed) + "; " + name
	case "DELE":
		if f == nil || f.is(TypeDir) {
			return noFile
		}
		t.drop(at)
		return "250 Delete operation successful."
	case "RMD":
		if f == nil || !f.is(TypeDir) || len(t.children(at)) > 0 {
			return "550 Remove directory operation failed."
		}
		t.drop(at)
		return "250 Remove directory operation successful."
	case "MKD":
		if parent := t.files[path.Dir(at)]; f != nil || parent == nil || !parent.is(TypeDir) {
			return "550 Create directory operation failed."
		}
		d := Dir()
		t.set(at, &d)
		return `257 "` + strings.ReplaceAll(name, `"`, `""`) + `" created`
	case "RNFR":
		if x.d.from = at; f == nil {
			x.d.from = ""
			return noFile
		}
		return "350 Ready for RNTO."
	case "RNTO":
		from := x.d.from
		x.d.from = ""
		parent := t.files[path.Dir(at)]
		switch {
		case from == "":
			return "503 RNFR required first."
		case parent == nil || !parent.is(TypeDir) || f != nil && f.is(TypeDir) != t.files[from].is(TypeDir):
			return "550 Rename failed."
		}
		t.drop(at)
		t.rename(from, at)
		return "250 Rename successful."
	case "STAT":
		return x.status(t)
	}
	return "500 Unknown command."
}

// status answers STAT with a listing, as vsftpd does: of a directory, or of what a pattern matches, of which each character stands in
// brackets or braces for itself.
func (x *FTPExchange) status(t *tree) string {
	arg := strings.TrimSpace(strings.TrimPrefix(x.Arg, "-a"))
	if at := t.resolve(x.d.abs(arg), true); t.files[at] != nil && t.files[at].is(TypeDir) {
		var b strings.Builder
		b.WriteString(x.line(".", *t.files[at]) + x.line("..", *t.files[at]))
		for _, name := range t.children(at) {
			b.WriteString(x.line(name, *t.files[path.Join(at, name)]))
		}
		return "213-Status follows:\r\n" + b.String() + "213 End of status"
	}
	dir, last := path.Split(x.d.abs(arg))
	plain := strings.NewReplacer("{", "", "}", "", "[", "", "]", "", "\\", "").Replace(last)
	var b strings.Builder
	for _, name := range t.children(t.resolve(dir, true)) {
		if name == plain {
			b.WriteString(x.line(name, *t.files[path.Join(t.resolve(dir, true), name)]))
		}
	}
	return "213-Status follows:\r\n" + b.String() + "213 End of status"
}
