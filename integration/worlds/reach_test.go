package worlds

import (
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"pierfs/integration/link"
	"pierfs/integration/servers"
)

// reachWorlds are servers that are not reached, or are not what is wanted.
func reachWorlds(t *testing.T) []world {
	server, gone, frozen := servers.NewSSHD(t, servers.SSHOptions{}), servers.NewSSHD(t, servers.SSHOptions{}), servers.NewSSHD(t, servers.SSHOptions{})
	plain, lost, silent := toSSH(t, server), toSSH(t, gone), with(toSSH(t, frozen), fields{"timeout": 1})
	full := newBacklog(t, server.Address())
	says := func(text string) fields { return with(plain, fields{"port": answering(t, text, true)}) }
	back := fields{"port": server.Port}
	cut := link.New(t, link.Options{})
	cutAt := netip.MustParseAddrPort(cut.Forward(t, "127.0.0.1:0", server.Address()))
	return []world{
		{name: "name that cannot be resolved", definition: with(plain, fields{"host": "no-such-host.invalid"}), cause: "dns_failed", fix: []string{"spelling of host"},
			mended: fields{"host": "localhost"}},
		{name: "wrong port", definition: with(plain, fields{"port": 1}), cause: "connection_refused", fix: []string{"check port"}, mended: back},
		{name: "service down", definition: lost, before: func(t *testing.T) { gone.Kill(t) }, cause: "connection_refused", fix: []string{"SSH server runs"},
			mend: func(t *testing.T) { gone.Restart(t) }},
		{name: "packets dropped", definition: with(plain, fields{"port": full.port, "timeout": 1}), cause: "connect_timeout", fix: []string{"firewall"}, mend: full.open},
		{name: "source address that this machine has not got", definition: with(plain, fields{"sourceAddress": "192.0.2.7"}), cause: "no_route", fix: []string{"sourceAddress"},
			mended: fields{"sourceAddress": nil}},
		{name: "silent server", definition: silent, before: func(t *testing.T) { frozen.Stop(t) }, cause: "server_silent", fix: []string{"no SSH server answers"},
			mend: func(t *testing.T) { frozen.Cont(t) }},
		{name: "garbage in place of a banner", definition: with(says("\x00\xff\x7f\x01garbage\r\n\r\n"), fields{"timeout": 1}), cause: "wrong_protocol", fix: []string{"check port"}, mended: back},
		{name: "web server", definition: says("HTTP/1.1 400 Bad Request\r\n\r\n"), cause: "wrong_protocol", says: []string{"HTTP"}, fix: []string{"check port"}, mended: back},
		{name: "mail server", definition: says("220 mail.example ESMTP ready\r\n"), cause: "wrong_protocol", fix: []string{"check port"}, mended: back},
		{name: "server that closes behind its banner", definition: with(plain, fields{"port": answering(t, "SSH-2.0-OpenSSH_9.2p1\r\n", false)}), cause: "connection_lost",
			fix: []string{"full", "banned"}, mended: back},
		{name: "server that closes at once", definition: with(plain, fields{"port": answering(t, "", false)}), cause: "connection_lost", fix: []string{"full", "banned"}, mended: back},
		{name: "line that is cut", definition: with(plain, fields{"host": cutAt.Addr().String(), "port": int(cutAt.Port())}), before: func(*testing.T) { cut.CutAfter(link.ToClient, 600) },
			cause: "connection_lost", fix: []string{"broke off"}, mend: func(t *testing.T) { cut.Heal(t) }},
	}
}

// answering listens, says text to whoever comes, and waits for him to go, or goes itself. It returns its port.
func answering(t *testing.T, text string, wait bool) (port int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	var all sync.WaitGroup
	t.Cleanup(all.Wait)
	t.Cleanup(func() { l.Close() })
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer conn.Close()
				if _, err := io.WriteString(conn, text); err == nil && wait {
					_, _ = io.Copy(io.Discard, conn) // until he goes
				}
			})
		}
	})
	return l.Addr().(*net.TCPAddr).Port
}

// backlog is a port behind which nobody answers, not even with a refusal, as behind a firewall: the kernel drops what comes to a
// listener whose queue is full.
type backlog struct {
	t      *testing.T
	port   int
	target string
	fd     int
}

func newBacklog(t *testing.T, target string) *backlog {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	must(t, unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	must(t, unix.Listen(fd, 0))
	name, err := unix.Getsockname(fd)
	must(t, err)
	b := &backlog{t: t, port: name.(*unix.SockaddrInet4).Port, target: target, fd: fd}
	conn, err := net.DialTCP("tcp", nil, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: b.port})
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	return b
}

// open lets everybody through to the target.
func (b *backlog) open(t *testing.T) {
	must(t, unix.Close(b.fd))
	l, err := net.Listen("tcp", (&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: b.port}).String())
	must(t, err)
	relay(b.t, l, b.target)
}

// relay leads what comes to l to target, until t ends.
func relay(t *testing.T, l net.Listener, target string) {
	var all sync.WaitGroup
	t.Cleanup(all.Wait)
	t.Cleanup(func() { l.Close() })
	all.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", target)
			if err != nil {
				near.Close()
				continue
			}
			for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
				all.Go(func() {
					_, _ = io.Copy(way[0], way[1])
					way[0].Close()
				})
			}
		}
	})
}
