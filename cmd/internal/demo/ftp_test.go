package demo

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"pierfs/backends"
	"pierfs/backends/backendtest"
	"pierfs/backends/dial"
	"pierfs/conncfg"
)

// What people try in the demonstration is what a mount promises: the server must keep the contract that real ones keep.
func TestFTPServerKeepsTheContract(t *testing.T) {
	dir := t.TempDir()
	s, err := startFTP("password", dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	host, port, err := net.SplitHostPort(s.address)
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	backendtest.Run(t, func(t *testing.T) backends.Backend {
		n++
		working := fmt.Sprint("/rule", n)
		if err := os.Mkdir(filepath.Join(dir, working), 0o755); err != nil {
			t.Fatal(err)
		}
		b, err := dial.Dial(conncfg.Target{
			Protocol: conncfg.FTP, Host: host, Port: number, Username: login, Password: conncfg.NewSecret("password"), WorkingDir: working,
			MaxSessions: 4, ConnectTimeout: 5 * time.Second, SocketTimeout: 5 * time.Second, RetryCount: 1,
		}, dial.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { b.Close() })
		return b
	}, backendtest.Options{Confined: true, Refused: []string{"new\nline", "carriage\rreturn"}})
}
