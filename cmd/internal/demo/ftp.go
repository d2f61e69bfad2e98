package demo

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The FTP server of the demonstration is our own: embedded ones to be had answer errors twice, remove full directories with
// RMD and replace files with APPE, which no mount could show honestly. It speaks what our client uses of RFC 959, 2428 and
// 3659, over passive data connections, runs one command after the other, and keeps inside its directory by os.Root.

// How long an FTP session may stand still, between commands and within a transfer.
const (
	ftpIdle = 5 * time.Minute
	ftpData = time.Minute
)

// maxFTPLine bounds a command.
const maxFTPLine = 8 << 10

// startFTP serves the files below dir to whoever knows the password. It listens on loopback only, and ends with close.
func startFTP(password, dir string, log *slog.Logger) (*server, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	s, err := listen(func(ctx context.Context, conn net.Conn) error {
		f := &ftpSession{ctx: ctx, conn: conn, in: bufio.NewReaderSize(conn, maxFTPLine), root: root, password: password}
		return f.run()
	}, log)
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	s.release = root.Close
	return s, nil
}

// ftpSession is one control connection.
type ftpSession struct {
	ctx      context.Context // of the server
	conn     net.Conn
	in       *bufio.Reader
	root     *os.Root
	password string

	user   string
	known  bool // logged in
	dir    string
	from   string       // of a rename, after RNFR
	rest   int64        // where the next transfer begins
	data   net.Listener // for the next transfer
	closed bool
}

// ftpCommands is what a session does, by verb. Each returns its reply; a transfer sends its first one itself.
var ftpCommands = map[string]func(s *ftpSession, arg string) string{
	"FEAT": func(*ftpSession, string) string {
		return "211-Features:\r\n MLST type*;size*;modify*;unix.mode*;unique*;\r\n SIZE\r\n MDTM\r\n MFMT\r\n REST STREAM\r\n EPSV\r\n UTF8\r\n211 End"
	},
	"SYST": func(*ftpSession, string) string { return "215 UNIX Type: L8" },
	"NOOP": func(*ftpSession, string) string { return "200 Here" },
	"OPTS": func(*ftpSession, string) string { return "200 As it is" },
	"TYPE": func(*ftpSession, string) string { return "200 Bytes as they are" },
	"ALLO": func(*ftpSession, string) string { return "202 There is room" },
	"PWD":  func(s *ftpSession, _ string) string { return "257 " + quoteFTP("/"+s.dir) },
	"CWD":  (*ftpSession).cwd,
	"EPSV": (*ftpSession).epsv,
	"PASV": (*ftpSession).pasv,
	"REST": (*ftpSession).restart,
	"MLSD": (*ftpSession).mlsd,
	"MLST": (*ftpSession).mlst,
	"SIZE": (*ftpSession).size,
	"MDTM": (*ftpSession).mdtm,
	"MFMT": (*ftpSession).mfmt,
	"SITE": (*ftpSession).site,
	"RETR": (*ftpSession).retr,
	"STOR": func(s *ftpSession, arg string) string { return s.store(arg, os.O_TRUNC) },
	"APPE": func(s *ftpSession, arg string) string { return s.store(arg, os.O_APPEND) },
	"DELE": func(s *ftpSession, arg string) string { return s.remove(arg, false) },
	"RMD":  func(s *ftpSession, arg string) string { return s.remove(arg, true) },
	"MKD":  (*ftpSession).mkd,
	"RNFR": (*ftpSession).renameFrom,
	"RNTO": (*ftpSession).renameTo,
}

func (s *ftpSession) run() error {
	defer s.dropData()
	if err := s.say("220 pierfs demo"); err != nil {
		return err
	}
	for !s.closed {
		if err := s.conn.SetDeadline(time.Now().Add(ftpIdle)); err != nil {
			return err
		}
		line, err := s.in.ReadSlice('\n')
		if err != nil { // also a line that is too long
			return err
		}
		verb, arg, _ := strings.Cut(strings.TrimRight(string(line), "\r\n"), " ")
		if err := s.say(s.do(strings.ToUpper(verb), arg)); err != nil {
			return err
		}
	}
	return nil
}

func (s *ftpSession) say(reply string) error {
	_, err := io.WriteString(s.conn, reply+"\r\n")
	return err
}

func (s *ftpSession) do(verb, arg string) string {
	switch verb {
	case "USER":
		s.user, s.known = arg, false
		return "331 And the password"
	case "PASS":
		s.known = knows(s.user, arg, s.password)
		if !s.known {
			s.closed = true // one guess each
			return "530 Not that one"
		}
		return "230 Come in"
	case "QUIT":
		s.closed = true
		return "221 Bye"
	}
	command := ftpCommands[verb]
	switch {
	case command == nil:
		return "502 Not here"
	case !s.known && verb != "FEAT" && verb != "SYST" && verb != "OPTS":
		return "530 Log in first"
	}
	reply := command(s, arg)
	if verb != "REST" {
		s.rest = 0
	}
	return reply
}

// name is where an argument leads, relative to the root; "." is the root itself.
func (s *ftpSession) name(arg string) string {
	if !path.IsAbs(arg) {
		arg = path.Join("/", s.dir, arg)
	}
	if name := strings.TrimPrefix(path.Clean(arg), "/"); name != "" {
		return name
	}
	return "."
}

// no is the reply to what the disk refused.
func no(err error) string {
	code := 550
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		code = 452
	}
	text := err.Error()
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		text = errno.Error()
	}
	return strconv.Itoa(code) + " " + text
}

// done is the reply to what went well, or not.
func done(err error, reply string) string {
	if err != nil {
		return no(err)
	}
	return reply
}

// quoteFTP writes a path as replies 257 have it: RFC 959 appendix II doubles quotes.
func quoteFTP(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

func (s *ftpSession) cwd(arg string) string {
	name := s.name(arg)
	info, err := s.root.Stat(name)
	switch {
	case err != nil:
		return no(err)
	case !info.IsDir():
		return no(syscall.ENOTDIR)
	}
	s.dir = strings.TrimPrefix(name, ".")
	return "250 There"
}

func (s *ftpSession) size(arg string) string {
	info, err := s.root.Stat(s.name(arg))
	switch {
	case err != nil:
		return no(err)
	case !info.Mode().IsRegular():
		return "550 No file"
	}
	return "213 " + strconv.FormatInt(info.Size(), 10)
}

const timeFTP = "20060102150405"

func (s *ftpSession) mdtm(arg string) string {
	info, err := s.root.Stat(s.name(arg))
	if err != nil {
		return no(err)
	}
	return "213 " + info.ModTime().UTC().Format(timeFTP)
}

func (s *ftpSession) mfmt(arg string) string {
	stamp, name, _ := strings.Cut(arg, " ")
	when, err := time.Parse(timeFTP, stamp)
	if err != nil {
		return "501 No time"
	}
	return done(s.root.Chtimes(s.name(name), time.Time{}, when), "213 Modify="+stamp+"; "+name)
}

// site changes permissions, and nothing else.
func (s *ftpSession) site(arg string) string {
	verb, rest, _ := strings.Cut(arg, " ")
	octal, name, _ := strings.Cut(rest, " ")
	mode, err := strconv.ParseUint(octal, 8, 9)
	if !strings.EqualFold(verb, "CHMOD") || err != nil {
		return "504 SITE CHMOD MODE NAME is all there is"
	}
	return done(s.root.Chmod(s.name(name), os.FileMode(mode)), "200 Changed")
}

func (s *ftpSession) mkd(arg string) string {
	return done(s.root.Mkdir(s.name(arg), 0o755), "257 "+quoteFTP("/"+s.name(arg)))
}

func (s *ftpSession) remove(arg string, dir bool) string {
	info, err := s.root.Lstat(s.name(arg))
	switch {
	case err != nil:
		return no(err)
	case info.IsDir() && !dir:
		return no(syscall.EISDIR)
	case !info.IsDir() && dir:
		return no(syscall.ENOTDIR)
	}
	return done(s.root.Remove(s.name(arg)), "250 Gone")
}

func (s *ftpSession) renameFrom(arg string) string {
	s.from = s.name(arg)
	_, err := s.root.Lstat(s.from)
	if err != nil {
		s.from = ""
	}
	return done(err, "350 To where")
}

func (s *ftpSession) renameTo(arg string) string {
	if s.from == "" {
		return "503 RNFR comes first"
	}
	from, to := s.from, s.name(arg)
	s.from = ""
	err := s.root.Rename(from, to)
	if errors.Is(err, os.ErrExist) && s.bothDirs(from, to) { // os.Root replaces no directory; rename(2) does if it is empty
		err = s.root.Remove(to)
		if err == nil {
			err = s.root.Rename(from, to)
		}
	}
	return done(err, "250 Renamed")
}

func (s *ftpSession) bothDirs(names ...string) bool {
	for _, name := range names {
		if info, err := s.root.Lstat(name); err != nil || !info.IsDir() {
			return false
		}
	}
	return true
}

func (s *ftpSession) restart(arg string) string {
	at, err := strconv.ParseInt(arg, 10, 64)
	if err != nil || at < 0 {
		return "501 No offset"
	}
	s.rest = at
	return "350 From there"
}

// facts describes a file as MLST and MLSD do, without its name.
func facts(info os.FileInfo) string {
	kind := "OS.unix=other"
	switch {
	case info.IsDir():
		kind = "dir"
	case info.Mode().IsRegular():
		kind = "file"
	case info.Mode()&os.ModeSymlink != 0:
		kind = "OS.unix=slink"
	}
	text := fmt.Sprintf("type=%s;size=%d;modify=%s;unix.mode=%04o;", kind, info.Size(), info.ModTime().UTC().Format(timeFTP), info.Mode().Perm())
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		text += fmt.Sprintf("unique=%xg%x;", stat.Dev, stat.Ino)
	}
	return text
}

func (s *ftpSession) mlst(arg string) string {
	info, err := s.root.Lstat(s.name(arg))
	if err != nil {
		return no(err)
	}
	return "250-Here\r\n " + facts(info) + " /" + strings.TrimPrefix(s.name(arg), ".") + "\r\n250 End"
}

func (s *ftpSession) mlsd(arg string) string {
	dir, err := s.root.Open(s.name(arg))
	if err != nil {
		return no(err)
	}
	defer dir.Close()
	if info, err := dir.Stat(); err != nil || !info.IsDir() {
		return no(errors.Join(err, syscall.ENOTDIR))
	}
	return s.transfer(func(data net.Conn) error {
		w := bufio.NewWriter(data)
		for {
			entries, err := dir.Readdir(100)
			for _, info := range entries {
				if !strings.ContainsAny(info.Name(), "\r\n") { // a line cannot carry them
					fmt.Fprintf(w, "%s %s\r\n", facts(info), info.Name()) // Flush has the error
				}
			}
			if err != nil {
				return errors.Join(ignoreEOF(err), w.Flush())
			}
		}
	})
}

func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func (s *ftpSession) retr(arg string) string {
	file, err := s.root.Open(s.name(arg))
	if err != nil {
		return no(err)
	}
	defer file.Close()
	info, err := file.Stat()
	switch {
	case err != nil:
		return no(err)
	case !info.Mode().IsRegular():
		return "550 No file"
	case s.rest > info.Size():
		return "554 Beyond the end"
	}
	if _, err := file.Seek(s.rest, io.SeekStart); err != nil {
		return no(err)
	}
	return s.transfer(func(data net.Conn) error {
		_, err := io.Copy(data, file)
		return err
	})
}

func (s *ftpSession) store(arg string, flag int) string {
	if s.rest > 0 {
		return "501 Whole files only, or APPE"
	}
	file, err := s.root.OpenFile(s.name(arg), os.O_WRONLY|os.O_CREATE|flag, 0o644)
	if err != nil {
		return no(err)
	}
	reply := s.transfer(func(data net.Conn) error {
		_, err := io.Copy(file, data)
		return err
	})
	return done(file.Close(), reply)
}

func (s *ftpSession) epsv(arg string) string {
	if strings.EqualFold(arg, "ALL") {
		return "200 Nothing else, then"
	}
	port, err := s.listen()
	return done(err, fmt.Sprintf("229 Entering extended passive mode (|||%d|)", port))
}

func (s *ftpSession) pasv(string) string {
	port, err := s.listen()
	return done(err, fmt.Sprintf("227 Entering passive mode (127,0,0,1,%d,%d)", port>>8, port&0xff))
}

// listen waits for a data connection at the address that the client speaks to.
func (s *ftpSession) listen() (port int, err error) {
	s.dropData()
	host, _, err := net.SplitHostPort(s.conn.LocalAddr().String())
	if err != nil {
		return 0, err
	}
	if s.data, err = net.Listen("tcp", net.JoinHostPort(host, "0")); err != nil {
		return 0, err
	}
	return s.data.Addr().(*net.TCPAddr).Port, nil
}

func (s *ftpSession) dropData() {
	if s.data != nil {
		s.data.Close()
		s.data = nil
	}
}

// transfer takes the data connection that was announced, has move use it, and returns the last reply.
func (s *ftpSession) transfer(move func(data net.Conn) error) string {
	if s.data == nil {
		return "425 EPSV comes first"
	}
	defer s.dropData()
	if err := s.say("150 Now"); err != nil {
		return "426 Nobody listens"
	}
	data, err := s.accept()
	if err != nil {
		return "425 No data connection"
	}
	stop := context.AfterFunc(s.ctx, func() { data.Close() })
	defer stop()
	err = move(movingConn{data})
	if err = errors.Join(err, data.Close()); err != nil {
		if disk := no(err); strings.HasPrefix(disk, "452") {
			return disk
		}
		return "426 Cut"
	}
	return "226 All of it"
}

// accept returns the first connection that comes from where the session does: nobody else gets its content.
func (s *ftpSession) accept() (net.Conn, error) {
	listener := s.data.(*net.TCPListener)
	if err := listener.SetDeadline(time.Now().Add(ftpData)); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(s.ctx, func() { listener.Close() })
	defer stop()
	for {
		data, err := listener.Accept()
		if err != nil {
			return nil, err
		}
		if hostOf(data.RemoteAddr()) == hostOf(s.conn.RemoteAddr()) {
			return data, nil
		}
		data.Close()
	}
}

func hostOf(a net.Addr) string {
	host, _, err := net.SplitHostPort(a.String())
	if err != nil {
		return a.String()
	}
	return host
}

// movingConn is a data connection that must not stand still.
type movingConn struct{ net.Conn }

func (c movingConn) Read(p []byte) (int, error) {
	if err := c.SetDeadline(time.Now().Add(ftpData)); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

func (c movingConn) Write(p []byte) (int, error) {
	if err := c.SetDeadline(time.Now().Add(ftpData)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}
