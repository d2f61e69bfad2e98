package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"pierfs/backends"
	"pierfs/backends/dial"
	"pierfs/conncfg"
	"pierfs/integration/daemon"
	"pierfs/integration/link"
	"pierfs/integration/process"
	"pierfs/integration/servers"
)

// A round trip must be long enough for a pipelined burst to leave, and to be answered, as one: also on a loaded machine,
// and where a server looks at 10,000 files.
const (
	longWay   = 300 * time.Millisecond
	longerWay = 1500 * time.Millisecond
)

// openBackend returns a Backend as the daemon makes them, with a warm session. Address is the server's, or that of a way to
// it.
func openBackend(t *testing.T, s *servers.SSHD, address string) backends.Backend {
	t.Helper()
	host, port := split(t, address)
	b, err := dial.Dial(conncfg.Target{
		Name: connection, Protocol: conncfg.SFTP, Host: host, Port: port, Username: s.User, Password: conncfg.NewSecret(s.Password),
		WorkingDir: s.Root, SSH: conncfg.SSH{HostKey: s.Fingerprint(t)}, ConnectTimeout: process.Patience, SocketTimeout: process.Patience,
	}, dial.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	if _, err := b.Stat(t.Context(), ""); err != nil {
		t.Fatalf("first stat: %v", err)
	}
	return b
}

// upload creates name with content through a temporary name.
func upload(ctx context.Context, b backends.Backend, name string, content []byte) (backends.Info, error) {
	w, err := b.Create(ctx, name, backends.WriteMode{TempName: "." + name + ".part", Perm: 0o644})
	if err != nil {
		return backends.Info{}, err
	}
	if _, err := w.WriteAt(ctx, content, 0); err != nil {
		return backends.Info{}, errors.Join(err, w.Abort())
	}
	return w.Commit(ctx, backends.Commit{Size: int64(len(content))})
}

// TestRoundTrips counts what calls on a warm session cost on the wire. The figures are the fewest that the protocol
// allows without answering for what the server has not confirmed.
func TestRoundTrips(t *testing.T) {
	t.Parallel()
	s := servers.NewSSHD(t, servers.SSHOptions{})
	if err := os.Mkdir(filepath.Join(s.Dir, "large"), 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range 10_000 {
		if err := os.WriteFile(filepath.Join(s.Dir, "large", fmt.Sprintf("file%05d", i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	content, target := random(1, 4096), filepath.Join(s.Dir, "target")
	if err := os.Mkdir(filepath.Join(s.Dir, "small"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{target, filepath.Join(s.Dir, "small", "a"), filepath.Join(s.Dir, "small", "b")} {
		if err := os.WriteFile(name, content, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	sh(t, s.Dir, `chown -R `+"4742:4742"+` .`)

	way := link.New(t, link.Options{})
	b := openBackend(t, s, way.Forward(t, "", s.Address()))
	ctx := t.Context()
	list := func(dir string, want int) error {
		n := 0
		for _, err := range b.List(ctx, dir) {
			if err != nil {
				return err
			}
			n++
		}
		if n != want {
			return fmt.Errorf("%d entries, want %d", n, want)
		}
		return nil
	}
	for _, test := range []struct {
		name string
		most int
		call func() error
	}{
		{"list 10,000 entries", 6, func() error { return list("large", 10_000) }},
		{"stat", 1, func() error { _, err := b.Stat(ctx, "target"); return err }},
		{"stat of an absent name", 1, func() error {
			if _, err := b.Stat(ctx, "absent"); !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("got %v, want ENOENT", err)
			}
			return nil
		}},
		{"list a small directory", 2, func() error { return list("small", 2) }},
		{"read 4 KiB", 2, func() error {
			r, err := b.Open(ctx, "target")
			if err != nil {
				return err
			}
			got := make([]byte, len(content))
			n, _, err := r.ReadLast(ctx, got, 0)
			if err != nil && err != io.EOF || !bytes.Equal(got[:n], content) {
				return fmt.Errorf("read %s, %v", brief(got[:n]), err)
			}
			return r.Close()
		}},
		{"replace 4 KiB", 3, func() error {
			info, err := upload(ctx, b, "target", content)
			if err == nil && info.Size != int64(len(content)) {
				err = fmt.Errorf("size %d", info.Size)
			}
			return err
		}},
		{"rename", 1, func() error { return b.Rename(ctx, "target", "renamed", backends.Replace) }},
		{"mkdir", 1, func() error { return b.Mkdir(ctx, "made", 0o755) }},
		{"rmdir", 1, func() error { return b.Rmdir(ctx, "made") }},
		{"remove", 1, func() error { return b.Remove(ctx, "renamed") }},
		{"statfs", 1, func() error { _, err := b.StatFS(ctx); return err }},
	} {
		roundTrip := longWay
		if strings.Contains(test.name, "10,000") {
			roundTrip = longerWay
		}
		way.SetRoundTrip(roundTrip)
		count, start := way.Meter(), time.Now()
		err := test.call()
		got, took := count(), time.Since(start)
		t.Logf("%s: %v, %.1f round trips of time", test.name, got, float64(took)/float64(roundTrip))
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
		}
		if got.Flights > test.most || got.Connections > 0 {
			t.Errorf("%s: %v; want at most %d flights and no new connection", test.name, got, test.most)
		}
	}
}

// TestNoRenameBeforeTheContentIsThere: a write that fails for lack of space is followed by no rename, although requests are
// sent in one flight wherever that is safe, and the old target is what it was.
func TestNoRenameBeforeTheContentIsThere(t *testing.T) {
	t.Parallel()
	s := servers.NewSSHD(t, servers.SSHOptions{Size: 1 << 20, Requests: true})
	old := random(1, 100_000)
	target := filepath.Join(s.Dir, "target")
	if err := os.WriteFile(target, old, 0o666); err != nil {
		t.Fatal(err)
	}
	way := link.New(t, link.Options{RoundTrip: 20 * time.Millisecond})
	b := openBackend(t, s, way.Forward(t, "", s.Address()))
	for _, size := range []int{2 << 20, 950_000, 1 << 20} { // far too much, and hardly
		_, err := upload(t.Context(), b, "target", random(2, size))
		if err == nil {
			t.Fatalf("upload of %d bytes: no error", size)
		}
		if got := backends.Errno(err); got != syscall.ENOSPC {
			t.Errorf("upload of %d bytes: %v (%v), want ENOSPC", size, got, err)
		}
		has(t, target, old)
	}
	if names := sh(t, s.Dir, `ls -A`); names != "target\n" {
		t.Errorf("the server has %q, want the target alone", names)
	}
	if requests := s.Requests(t); strings.Contains(requests, "rename") || !strings.Contains(requests, "open") {
		t.Errorf("the server was asked:\n%s", requests)
	}
}

// TestColdCatThroughTheMount: one file, of which nothing is known, costs a program at most three round trips.
func TestColdCatThroughTheMount(t *testing.T) {
	t.Parallel()
	server := servers.NewSSHD(t, servers.SSHOptions{})
	content := random(1, 4096)
	for i := range 3 {
		if err := os.WriteFile(filepath.Join(server.Dir, fmt.Sprintf("f%d", i)), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	way := link.New(t, link.Options{})
	s := connect(t, newDaemon(t), server, way.Forward(t, "", server.Address()), nil)
	sh(t, "/", `cat "$1/f0" >/dev/null`, s.mount) // warms the session, and what is known of the directory itself
	way.SetRoundTrip(longWay)
	for _, name := range []string{"f1", "f2"} {
		count := way.Meter()
		got := sh(t, "/", `cat "$1"`, filepath.Join(s.mount, name))
		counted := count()
		t.Logf("cat: %v", counted)
		if got != string(content) {
			t.Errorf("cat %s: %s", name, brief([]byte(got)))
		}
		if counted.Flights > 3 || counted.Connections > 0 {
			t.Errorf("cat %s: %v; want at most 3 flights", name, counted)
		}
	}
}

// TestManyNamesThroughTheMountCostFewFlights: programs that ask one thing after the other find the answers there, asked for
// ahead or all at once. Without that each line would be hundreds of flights.
func TestManyNamesThroughTheMountCostFewFlights(t *testing.T) {
	t.Parallel()
	process.Need(t, "find")
	server := servers.NewSSHD(t, servers.SSHOptions{})
	content := func(i int) string { return strings.Repeat(fmt.Sprint(i, " "), 500) }
	for i := range 8 {
		for k := range 6 {
			dir := filepath.Join(server.Dir, fmt.Sprintf("tree/d%d/s%d", i, k))
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "f"), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, dir := range []string{"small", "names"} {
		if err := os.Mkdir(filepath.Join(server.Dir, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 80 {
		for _, dir := range []string{"small", "names"} {
			if err := os.WriteFile(filepath.Join(server.Dir, dir, fmt.Sprint("f", i)), []byte(content(i)), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	way := link.New(t, link.Options{})
	s := connect(t, newDaemon(t), server, way.Forward(t, "", server.Address()), daemon.Fields{"metadataTTL": "1m", "negativeTTL": "1m"})
	sh(t, "/", `ls -d "$1" >/dev/null`, s.mount)
	way.SetRoundTrip(longWay)
	for _, test := range []struct {
		name string
		most int
		do   func() error
	}{
		{"find over 57 directories", 30, func() error {
			if n := strings.Count(sh(t, s.mount, `find tree`), "\n"); n != 1+8+48+48 {
				return fmt.Errorf("%d names", n)
			}
			return nil
		}},
		{"80 small files in the order of their numbers", 40, func() error {
			for i := range 80 {
				got, err := os.ReadFile(filepath.Join(s.mount, "small", fmt.Sprint("f", i)))
				if err != nil || string(got) != content(i) {
					return fmt.Errorf("f%d holds %s, %v", i, brief(got), err)
				}
			}
			return nil
		}},
		{"stat of 80 names", 8, func() error {
			for i := range 80 {
				info, err := os.Lstat(filepath.Join(s.mount, "names", fmt.Sprint("f", i)))
				if err != nil || info.Size() != int64(len(content(i))) {
					return fmt.Errorf("f%d: %v, %v", i, info, err)
				}
			}
			return nil
		}},
		{"stat of 80 missing names", 40, func() error { // fewer if the machine is idle
			for i := range 80 {
				if _, err := os.Lstat(filepath.Join(s.mount, "names", fmt.Sprint("missing", i))); !errors.Is(err, os.ErrNotExist) {
					return fmt.Errorf("missing%d: %v", i, err)
				}
			}
			return nil
		}},
	} {
		count := way.Meter()
		err := test.do()
		counted := count()
		t.Logf("%s: %v", test.name, counted)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
		}
		if counted.Flights > test.most || counted.Connections > 0 {
			t.Errorf("%s: %v; want at most %d flights", test.name, counted, test.most)
		}
	}
}
