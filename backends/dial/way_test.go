package dial_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"pierfs/backends"
	"pierfs/backends/dial"
	"pierfs/conncfg"
	"pierfs/integration/servers"
)

// listening calls f with every connection to the address that it returns, until the test ends.
func listening(t *testing.T, f func(net.Conn)) conncfg.Via {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				release := context.AfterFunc(ctx, func() { conn.Close() })
				f(conn)
				release()
				conn.Close()
			})
		}
	})
	t.Cleanup(func() { l.Close(); cancel(); all.Wait() })
	return conncfg.Via{Host: "127.0.0.1", Port: l.Addr().(*net.TCPAddr).Port}
}

// join carries bytes both ways until both have ended. greeting leaves in one write with the first bytes of there, if it speaks
// first.
func join(here, there net.Conn, greeting []byte) {
	first := make([]byte, 4096)
	there.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	n, _ := there.Read(first)
	there.SetReadDeadline(time.Time{})
	here.Write(append(greeting, first[:n]...))
	var both sync.WaitGroup
	both.Go(func() { io.Copy(there, here); there.(*net.TCPConn).CloseWrite() })
	io.Copy(here, there)
	here.(*net.TCPConn).CloseWrite()
	both.Wait()
	there.Close()
}

// proxySeen is what a proxy was asked.
type proxySeen struct {
	mu    sync.Mutex
	asked []string // addresses
	from  []string // addresses of whoever asked, without ports
}

func (p *proxySeen) note(conn net.Conn, address string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	host, _, _ := net.SplitHostPort(conn.RemoteAddr().String())
	p.asked, p.from = append(p.asked, address), append(p.from, host)
}

const proxyPassword = "Canary-of-the-proxy"

// httpProxy leads wherever it is told, if it is shown the password.
func httpProxy(t *testing.T, seen *proxySeen) conncfg.Via {
	via := listening(t, func(conn net.Conn) {
		r, err := http.ReadRequest(bufio.NewReader(conn))
		if err != nil || r.Method != http.MethodConnect {
			return
		}
		if want := "Basic " + base64.StdEncoding.EncodeToString([]byte("joe:"+proxyPassword)); r.Header.Get("Proxy-Authorization") != want {
			io.WriteString(conn, "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\n\r\n")
			return
		}
		seen.note(conn, r.Host)
		there, err := net.Dial("tcp", r.Host)
		if err != nil {
			io.WriteString(conn, "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 3\r\n\r\nno\n")
			return
		}
		join(conn, there, []byte("HTTP/1.1 200 Connection established\r\nVia: 1.1 x\r\n\r\n"))
	})
	via.Kind, via.Username, via.Password = conncfg.ViaHTTP, "joe", conncfg.NewSecret(proxyPassword)
	return via
}

// socksProxy leads wherever it is told, if it is shown the password.
func socksProxy(t *testing.T, seen *proxySeen) conncfg.Via {
	via := listening(t, func(conn net.Conn) {
		part := func(n int) []byte {
			p := make([]byte, n)
			if _, err := io.ReadFull(conn, p); err != nil {
				return make([]byte, n)
			}
			return p
		}
		methods := part(int(part(2)[1]))
		if !bytes.Contains(methods, []byte{2}) {
			conn.Write([]byte{5, 0xff})
			return
		}
		conn.Write([]byte{5, 2})
		user := part(int(part(2)[1]))
		password := part(int(part(1)[0]))
		if string(user) != "joe" || string(password) != proxyPassword {
			conn.Write([]byte{1, 1})
			return
		}
		conn.Write([]byte{1, 0})
		var host string
		switch kind := part(4)[3]; kind {
		case 1:
			host = net.IP(part(4)).String()
		case 3:
			host = string(part(int(part(1)[0])))
		case 4:
			host = net.IP(part(16)).String()
		}
		port := part(2)
		address := net.JoinHostPort(host, strconv.Itoa(int(port[0])<<8|int(port[1])))
		seen.note(conn, address)
		there, err := net.Dial("tcp", address)
		if err != nil {
			conn.Write([]byte{5, 5, 0, 1, 0, 0, 0, 0, 0, 0})
			return
		}
		join(conn, there, []byte{5, 0, 0, 1, 127, 0, 0, 1, 0, 9})
	})
	via.Kind, via.Username, via.Password = conncfg.ViaSOCKS, "joe", conncfg.NewSecret(proxyPassword)
	return via
}

// sshHost is an OpenSSH server that leads on.
func sshHost(t *testing.T) conncfg.Via {
	s := servers.NewSSHD(t, servers.SSHOptions{Config: []string{"AllowTcpForwarding yes"}})
	return conncfg.Via{
		Kind: conncfg.ViaSSH, Host: s.Host, Port: s.Port, Username: s.User, Password: conncfg.NewSecret(s.Password), HostKey: s.Fingerprint(t),
	}
}

// moves writes a file of more than a window, reads it again, and lists it.
func moves(t *testing.T, b backends.Backend) {
	t.Helper()
	ctx := t.Context()
	content := bytes.Repeat([]byte("0123456789abcdef"), 3<<16) // 3 MiB
	w, err := b.Create(ctx, "file", backends.WriteMode{TempName: ".temp", Perm: 0o644})
	if err != nil {
		t.Fatal(err)
	}
	for off := 0; off < len(content); off += 1 << 17 {
		if _, err := w.WriteAt(ctx, content[off:off+1<<17], int64(off)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Commit(ctx, backends.Commit{Size: int64(len(content))}); err != nil {
		t.Fatal(err)
	}
	r, err := b.Open(ctx, "file")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got := make([]byte, len(content))
	for off := 0; off < len(got); off += 1 << 17 {
		if _, err := r.ReadAt(ctx, got[off:off+1<<17], int64(off)); err != nil && err != io.EOF {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(got, content) {
		t.Error("something else came back")
	}
	n := 0
	for info, err := range b.List(ctx, "") {
		if err != nil {
			t.Fatal(err)
		}
		if n++; info.Name != "file" || info.Size != int64(len(content)) {
			t.Errorf("listed: %+v", info)
		}
	}
	if n != 1 {
		t.Errorf("%d entries", n)
	}
}

func TestThroughOtherHosts(t *testing.T) {
	if testing.Short() {
		t.Skip("starts real servers")
	}
	ssh := servers.NewSSHD(t, servers.SSHOptions{})
	plain := servers.NewFTP(t, servers.FTPOptions{})
	sealed := servers.NewFTP(t, servers.FTPOptions{TLS: servers.Explicit})
	var seen proxySeen
	for kind, via := range map[string]conncfg.Via{"ssh": sshHost(t), "socks5": socksProxy(t, &seen), "http": httpProxy(t, &seen)} {
		for protocol, place := range map[string]conncfg.Target{
			"sftp": target(t, ssh, kind), "ftp": targetFTP(t, plain, servers.Plain, kind), "ftps": targetFTP(t, sealed, servers.Explicit, kind),
		} {
			t.Run(kind+"/"+protocol, func(t *testing.T) {
				place.Via = via
				place.ConnectTimeout, place.SocketTimeout = 20*time.Second, 20*time.Second // of a machine that has other things to do
				if kind != "ssh" {
					place.SourceAddress = "127.0.0.9"
				}
				b := dialled(t, place, dial.Options{})
				moves(t, b)
			})
		}
	}
	for n, from := range seen.from {
		if from != "127.0.0.9" {
			t.Errorf("the proxy was asked for %s from %s, not from sourceAddress", seen.asked[n], from)
		}
	}
	if len(seen.asked) < 6 {
		t.Errorf("the proxies were asked for %q only: data connections have gone another way", seen.asked)
	}
}

// TestSlowRate: a rate is kept on a real server, and nothing dies of it.
func TestSlowRate(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	s := servers.NewFTP(t, servers.FTPOptions{})
	place := targetFTP(t, s, servers.Plain, "slow")
	place.RateLimit = 1 << 20
	begun := time.Now()
	moves(t, dialled(t, place, dial.Options{}))
	if took := time.Since(begun); took < 5*time.Second {
		t.Errorf("3 MiB there and back at 1 MiB a second took %v", took)
	}
}

// unled checks why Test cannot get to a server through via.
func unled(t *testing.T, via conncfg.Via, class backends.Class, cause backends.Cause, code syscall.Errno) {
	t.Helper()
	for _, protocol := range []conncfg.Protocol{conncfg.SFTP, conncfg.FTP} {
		place := conncfg.Target{Protocol: protocol, Host: "127.0.0.1", Port: 1, Username: "u", Via: via, ConnectTimeout: 2 * time.Second, SocketTimeout: 2 * time.Second, MaxSessions: 1}
		last := dial.Step{}
		err := dial.Test(t.Context(), place, dial.Options{}, func(s dial.Step) { last = s })
		e, ok := errors.AsType[*backends.Error](err)
		switch {
		case !ok || e.Class != class || e.Cause != cause || e.Code != code:
			t.Errorf("%s: got %v, %q, %v: %v, want %v, %q, %v", protocol, backends.ClassOf(err), backends.CauseOf(err), backends.Errno(err), err, class, cause, code)
		case e.Hint == "" || last.Err == nil:
			t.Errorf("%s: nobody is told what to do: %v, hint %q, last step %+v", protocol, err, e.Hint, last)
		case cause == backends.CauseHostKeyUnknown && !strings.Contains(e.Hint, "run: pierfs trust NAME SHA256:"):
			t.Errorf("%s: the hint %q does not tell the command that trusts the host in between", protocol, e.Hint)
		case !strings.Contains(err.Error(), via.Address()):
			t.Errorf("%s: %v does not name the host in between", protocol, err)
		}
		if strings.Contains(fmt.Sprintf("%v %+v %q", err, e, last.Detail), "Canary") {
			t.Errorf("%s: the error shows the password: %v", protocol, err)
		}
	}
}

func TestWhyProxiesDoNotLead(t *testing.T) {
	const refused, transient = backends.Refused, backends.Transient
	answer := func(kind conncfg.ViaKind, answers ...string) conncfg.Via {
		via := listening(t, func(conn net.Conn) {
			for _, text := range answers {
				conn.Read(make([]byte, 4096))
				io.WriteString(conn, text)
			}
			conn.Read(make([]byte, 4096))
		})
		via.Kind, via.Username, via.Password = kind, "joe", conncfg.NewSecret(proxyPassword)
		return via
	}
	const socks, http = conncfg.ViaSOCKS, conncfg.ViaHTTP
	for name, test := range map[string]struct {
		via   conncfg.Via
		class backends.Class
		cause backends.Cause
		code  syscall.Errno
	}{
		"http, wrong password":  {answer(http, "HTTP/1.1 407 No\r\n\r\n"), refused, backends.CauseAuth, syscall.EACCES},
		"http, forbidden":       {answer(http, "HTTP/1.1 403 Forbidden\r\n\r\n"), refused, backends.CauseNoRoute, syscall.EACCES},
		"http, no gateway":      {answer(http, "HTTP/1.0 503 Away\r\n\r\n"), transient, backends.CauseNoRoute, syscall.EHOSTUNREACH},
		"http, another server":  {answer(http, "220 ftp\r\n"), refused, backends.CauseWrongProtocol, syscall.EPROTO},
		"http, no status":       {answer(http, "HTTP/1.1 \x1b[31m\r\n\r\n"), refused, backends.CauseWrongProtocol, syscall.EPROTO},
		"http, endless":         {answer(http, "HTTP/1.1 200 OK\r\n"+strings.Repeat("X: y\r\n", 4000)), refused, backends.CauseWrongProtocol, syscall.EPROTO},
		"http, silent":          {answer(http, ""), transient, backends.CauseSilent, syscall.ETIMEDOUT},
		"socks, wrong password": {answer(socks, "\x05\x02", "\x01\x01"), refused, backends.CauseAuth, syscall.EACCES},
		"socks, no method":      {answer(socks, "\x05\xff"), refused, backends.CauseAuthMethod, syscall.EACCES},
		"socks, forbidden":      {answer(socks, "\x05\x00", "\x05\x02\x00\x01\x00\x00\x00\x00\x00\x00"), refused, backends.CauseNoRoute, syscall.EACCES},
		"socks, refused":        {answer(socks, "\x05\x02", "\x01\x00", "\x05\x05\x00\x01\x00\x00\x00\x00\x00\x00"), transient, backends.CauseNoRoute, syscall.ECONNREFUSED},
		"socks, unreachable":    {answer(socks, "\x05\x00", "\x05\x04\x00\x01\x00\x00\x00\x00\x00\x00"), transient, backends.CauseNoRoute, syscall.EHOSTUNREACH},
		"socks, too late":       {answer(socks, "\x05\x00", "\x05\x06\x00\x01\x00\x00\x00\x00\x00\x00"), transient, backends.CauseNoRoute, syscall.ETIMEDOUT},
		"socks, another server": {answer(socks, "HTTP/1.1 400 Bad Request\r\n\r\n"), refused, backends.CauseWrongProtocol, syscall.EPROTO},
		"socks, silent":         {answer(socks, ""), transient, backends.CauseSilent, syscall.ETIMEDOUT},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // the silent ones wait
			unled(t, test.via, test.class, test.cause, test.code)
		})
	}
	for _, kind := range []conncfg.ViaKind{socks, http} {
		t.Run(string(kind)+", hangs up", func(t *testing.T) {
			via := listening(t, func(conn net.Conn) { conn.Read(make([]byte, 1)) })
			via.Kind = kind
			unled(t, via, transient, backends.CauseConnLost, syscall.EIO)
		})
		t.Run(string(kind)+", no proxy", func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			l.Close()
			unled(t, conncfg.Via{Kind: kind, Host: "127.0.0.1", Port: l.Addr().(*net.TCPAddr).Port}, transient, backends.CauseConnRefused, syscall.ECONNREFUSED)
		})
	}
}

func TestWhyAnSSHHostDoesNotLead(t *testing.T) {
	if testing.Short() {
		t.Skip("starts real servers")
	}
	closed := servers.NewSSHD(t, servers.SSHOptions{Config: []string{"AllowTcpForwarding no"}})
	via := conncfg.Via{Kind: conncfg.ViaSSH, Host: closed.Host, Port: closed.Port, Username: closed.User, Password: conncfg.NewSecret(closed.Password), HostKey: closed.Fingerprint(t)}
	unled(t, via, backends.Refused, backends.CauseNoRoute, syscall.EACCES)
	via.HostKey = ""
	unled(t, via, backends.Refused, backends.CauseHostKeyUnknown, syscall.EACCES)
	via = sshHost(t)
	unled(t, via, backends.Transient, backends.CauseNoRoute, syscall.EHOSTUNREACH) // nothing listens at port 1
	via.Password = conncfg.NewSecret("Canary-wrong")
	unled(t, via, backends.Refused, backends.CauseAuth, syscall.EACCES)
}

func TestSourceAddress(t *testing.T) {
	from := make(chan string, 10)
	via := listening(t, func(conn net.Conn) {
		host, _, _ := net.SplitHostPort(conn.RemoteAddr().String())
		from <- host
	})
	place := conncfg.Target{Protocol: conncfg.SFTP, Host: "127.0.0.1", Port: via.Port, Username: "u", SourceAddress: "127.0.0.7", ConnectTimeout: 2 * time.Second, SocketTimeout: 2 * time.Second}
	if err := dial.Test(t.Context(), place, dial.Options{}, func(dial.Step) {}); err == nil {
		t.Fatal("a server that hangs up works")
	}
	if got := <-from; got != "127.0.0.7" {
		t.Errorf("connected from %s", got)
	}
	place.SourceAddress = "192.0.2.1" // of no machine (RFC 5737)
	err := dial.Test(t.Context(), place, dial.Options{}, func(dial.Step) {})
	if e, ok := errors.AsType[*backends.Error](err); !ok || e.Code != syscall.EADDRNOTAVAIL || !strings.Contains(e.Hint, "sourceAddress") {
		t.Errorf("from an address of another machine: %v", err)
	}
	place.SourceAddress = ""
	place.RateLimit, place.Host = 1<<20, "does-not-exist.invalid"
	err = dial.Test(t.Context(), place, dial.Options{}, func(dial.Step) {})
	if backends.CauseOf(err) != backends.CauseDNS {
		t.Errorf("a name that nobody knows: %q, %v", backends.CauseOf(err), err)
	}
	place.Via.Kind = "carrier pigeon"
	if _, err := dial.Dial(place, dial.Options{}); !errors.Is(err, syscall.EPROTONOSUPPORT) {
		t.Errorf("an unknown way: %v", err)
	}
}
