package servers

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"pierfs/integration/process"
)

// syslog is the /dev/log of a server that knows no other log.
type syslog struct {
	process.Log
	path    string
	settled atomic.Int64 // markers sent
}

// newSyslog listens at path until the test ends.
func newSyslog(t testing.TB, path string) *syslog {
	t.Helper()
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	s := &syslog{path: path}
	done := make(chan struct{})
	go func() {
		defer close(done)
		line := make([]byte, 64<<10)
		for {
			n, err := c.Read(line)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			fmt.Fprintf(s, "%s\n", strings.TrimRight(string(line[:n]), "\n\x00"))
		}
	}()
	t.Cleanup(func() {
		c.Close()
		<-done
	})
	return s
}

// settle returns when all that was written to the log before is in it: a line of our own comes behind the others.
func (s *syslog) settle(t testing.TB) {
	t.Helper()
	c, err := net.Dial("unixgram", s.path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	marker := fmt.Sprintf("settled %d", s.settled.Add(1))
	if _, err := fmt.Fprintln(c, marker); err != nil {
		t.Fatal(err)
	}
	if err := s.Await(marker+"\n", 0, process.Patience); err != nil {
		t.Fatalf("the server's log does not settle: %v", err)
	}
}
