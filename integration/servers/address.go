package servers

import (
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// ownAddress returns an address of loopback that no other server has while the test runs, in this process or another, so
// that all its ports are free. A listener on its port 9 (discard) is what marks it as taken.
func ownAddress(t testing.TB) string {
	t.Helper()
	var err error
	for range 1000 {
		host := fmt.Sprintf("127.21.%d.%d", rand.IntN(256), 1+rand.IntN(254))
		var l net.Listener
		if l, err = net.Listen("tcp", net.JoinHostPort(host, "9")); err == nil {
			t.Cleanup(func() { l.Close() })
			return host
		}
	}
	t.Fatalf("find an address for a server: %v", err)
	return ""
}

// freePorts returns the first of n ports in a row that nobody listens on at host.
func freePorts(t testing.TB, host string, n int) int {
	t.Helper()
	for range 100 {
		first := 20_000 + rand.IntN(10_000) // below the ports that Linux gives to clients
		if allFree(host, first, n) {
			return first
		}
	}
	t.Fatalf("find %d free ports in a row on %s", n, host)
	return 0
}

func allFree(host string, first, n int) bool {
	for port := first; port < first+n; port++ {
		l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
		if err != nil {
			return false
		}
		l.Close()
	}
	return true
}

// socket is one line of the kernel's list of TCP sockets.
type socket struct {
	state string // as the kernel numbers them
	inode string
}

// States of a socket, as /proc/net/tcp has them.
const (
	established = "01"
	listening   = "0A"
)

// sockets returns the TCP sockets whose own address is local. One that is bound to IPv4 by way of IPv6 is among them.
func sockets(t testing.TB, local netip.AddrPort) []socket {
	t.Helper()
	var found []socket
	for _, name := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		text := read(t, name)
		for line := range strings.Lines(text) {
			fields := strings.Fields(line)
			if len(fields) < 10 {
				continue
			}
			if at, ok := parseAddress(fields[1]); ok && at == local {
				found = append(found, socket{state: fields[3], inode: fields[9]})
			}
		}
	}
	return found
}

// parseAddress reads "0100007F:1F90": words of four bytes in the machine's order, and a port.
func parseAddress(s string) (netip.AddrPort, bool) {
	host, port, _ := strings.Cut(s, ":")
	raw, err := hex.DecodeString(host)
	if err != nil {
		return netip.AddrPort{}, false // the heading
	}
	for word := range slices.Chunk(raw, 4) {
		slices.Reverse(word)
	}
	addr, ok := netip.AddrFromSlice(raw)
	n, err := strconv.ParseUint(port, 16, 16)
	return netip.AddrPortFrom(addr.Unmap(), uint16(n)), ok && err == nil
}

// holds reports whether the process has the socket open.
func (m member) holds(inode string) bool {
	dir := filepath.Join("/proc", strconv.Itoa(m.pid), "fd")
	entries, _ := os.ReadDir(dir) // it may have ended meanwhile
	for _, entry := range entries {
		if link, _ := os.Readlink(filepath.Join(dir, entry.Name())); link == "socket:["+inode+"]" {
			return true
		}
	}
	return false
}
