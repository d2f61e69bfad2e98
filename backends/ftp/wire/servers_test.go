package wire

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pierfs/integration/link"
	"pierfs/integration/servers"
)

// mode is one way to speak with one server.
type mode struct {
	kind    servers.FTPKind
	tls     servers.TLSMode
	version uint16 // of TLS
}

func (m mode) String() string {
	if m.tls == servers.Plain {
		return fmt.Sprintf("%v/%v", m.kind, m.tls)
	}
	return fmt.Sprintf("%v/%v/%s", m.kind, m.tls, strings.TrimPrefix(tls.VersionName(m.version), "TLS "))
}

// everywhere runs f on every server in every mode, session reuse demanded where the server can; only in two modes with -short.
func everywhere(t *testing.T, f func(t *testing.T, m mode)) {
	for _, kind := range servers.FTPKinds() {
		for _, how := range servers.FTPModes(kind) {
			for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
				m := mode{kind, how, version}
				if how == servers.Plain && version != tls.VersionTLS12 || testing.Short() && m.rare() {
					continue
				}
				t.Run(m.String(), func(t *testing.T) { f(t, m) })
			}
		}
	}
}

func (m mode) rare() bool {
	return m.tls == servers.Implicit || m.tls == servers.Explicit && m.version == tls.VersionTLS12
}

func (m mode) start(t testing.TB) *servers.FTP {
	o := servers.FTPOptions{Kind: m.kind, TLS: m.tls, MinTLS: m.version, MaxTLS: m.version}
	if m.kind == servers.ProFTPD && m.version == tls.VersionTLS12 && m.tls != servers.Plain {
		o.Config = append(o.Config, "TLSSessionTickets on")
	}
	return servers.NewFTP(t, o)
}

// options are those to log in to s at address with.
func options(t testing.TB, s *servers.FTP, how servers.TLSMode, address string) Options {
	o := Options{Address: address, Username: s.User, Password: func() (string, error) { return s.Password, nil },
		ConnectTimeout: 10 * time.Second, SocketTimeout: 10 * time.Second}
	if how != servers.Plain {
		o.TLS = &TLS{Implicit: how == servers.Implicit, CAFile: s.Authority.File, ServerName: s.Host}
	}
	return o
}

func logIn(t testing.TB, o Options) *Session {
	t.Helper()
	s, err := Dial(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// store uploads content by command and returns the replies to what is behind.
func store(ctx context.Context, s *Session, command string, content []byte, behind ...string) ([]Reply, error) {
	u, err := s.Store(ctx, command, behind...)
	if err != nil {
		return nil, err
	}
	_, failed := u.ReadFrom(bytes.NewReader(content))
	_, replies, err := u.End(ctx)
	return replies, errors.Join(err, failed)
}

func retrieve(ctx context.Context, s *Session, path string, off int64) ([]byte, error) {
	d, err := s.Retrieve(ctx, path, off)
	if err != nil {
		return nil, err
	}
	content, failed := io.ReadAll(d)
	_, err = d.End(ctx)
	return content, errors.Join(failed, err)
}

func some(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// TestServers: what the package promises, on every server in every mode.
func TestServers(t *testing.T) {
	everywhere(t, func(t *testing.T, m mode) {
		server := m.start(t)
		s := logIn(t, options(t, server, m.tls, server.Address()))
		t.Logf("home %q, %+v", s.Home(), s.Features())
		if s.Home() != server.Root {
			t.Errorf("home %q, want %q", s.Home(), server.Root)
		}
		if sequential := m.kind != servers.PyFTPdlib; s.Features().Sequential != sequential {
			t.Errorf("sequential: %v, want %v", !sequential, sequential)
		}
		path := server.Root + "/file"
		disk := filepath.Join(server.Dir, "file")
		for _, size := range []int{0, 1, 4096, 4 << 20} {
			content := some(size)
			replies, err := store(t.Context(), s, "STOR "+path, content, "SIZE "+path)
			ok(t, err)
			if len(replies) != 1 || replies[0].Lines[0] != fmt.Sprint(size) {
				t.Errorf("%d bytes stored: SIZE behind it says %v", size, replies)
			}
			if got, err := os.ReadFile(disk); err != nil || !bytes.Equal(got, content) {
				t.Errorf("%d bytes stored: the server has %d, %v", size, len(got), err)
			}
			s.Warm()
			got, err := retrieve(t.Context(), s, path, 0)
			if err != nil || !bytes.Equal(got, content) {
				t.Errorf("%d bytes retrieved: got %d, %v", size, len(got), err)
			}
		}
		// At an offset; appended, nothing and something; given up early; refused.
		content, _ := os.ReadFile(disk)
		if got, err := retrieve(t.Context(), s, path, 1<<20); err != nil || !bytes.Equal(got, content[1<<20:]) {
			t.Errorf("from an offset: %d bytes, %v", len(got), err)
		}
		for _, more := range []int{0, 5000} {
			content = append(content, some(more)...)
			_, err := store(t.Context(), s, "APPE "+path, content[len(content)-more:])
			ok(t, err)
			if got, _ := os.ReadFile(disk); !bytes.Equal(got, content) {
				t.Errorf("%d bytes appended: the server has %d of %d", more, len(got), len(content))
			}
		}
		_, err := retrieve(t.Context(), s, server.Root+"/none", 0)
		if refusal, refused := errors.AsType[*Refusal](err); !refused || refusal.Reply.Code != 550 {
			t.Errorf("a missing file: %v", err)
		}
		_, err = store(t.Context(), s, "STOR "+server.Root+"/none/file", []byte("x"), "SIZE "+path)
		if refusal, refused := errors.AsType[*Refusal](err); !refused || refusal.Reply.Code/100 != 5 {
			t.Errorf("stored in a missing directory: %v", err)
		}
		d, err := s.List(t.Context(), "LIST "+server.Root)
		ok(t, err)
		lines, err := io.ReadAll(d)
		ok(t, err)
		_, err = d.End(t.Context())
		ok(t, err)
		if !bytes.Contains(lines, []byte("file\r\n")) || d.Unsealed() {
			t.Errorf("list: %q, unsealed %v", lines, d.Unsealed())
		}
		s.Warm()
		s.Prepend("SIZE "+path, "MDTM "+path)
		d, err = s.Retrieve(t.Context(), path, 0)
		ok(t, err)
		if before := d.Before(); len(before) != 2 || before[0].Lines[0] != fmt.Sprint(len(content)) || before[1].Code != 213 {
			t.Errorf("in front: %v", before)
		}
		ok(t, func() error { _, err := io.ReadFull(d, make([]byte, 10000)); return err }())
		d.Cancel()
		replies, err := s.Do(t.Context(), "SIZE "+path, "DELE "+path, "SIZE "+path)
		switch {
		case err != nil && m.kind == servers.ProFTPD && m.tls != servers.Plain:
			t.Logf("after an early close: %v", err) // known: the server gives the session up
		case err != nil:
			t.Error(err)
		case len(replies) != 3 || replies[0].Lines[0] != fmt.Sprint(len(content)) || !replies[1].good() || replies[2].good():
			t.Errorf("after an early close: %v", replies)
		}
		ok(t, s.Close())
		if t.Failed() {
			t.Log(server.Log())
		}
	})
}

// TestGivenUpAtOnce: a transfer that is given up before its data connection is ready, in any way that a caller has, leaves the
// session as it was.
func TestGivenUpAtOnce(t *testing.T) {
	everywhere(t, func(t *testing.T, m mode) {
		server := m.start(t)
		s := logIn(t, options(t, server, m.tls, server.Address()))
		path := server.Root + "/file"
		_, err := store(t.Context(), s, "STOR "+path, some(3<<20))
		ok(t, err)
		for n := range 5 {
			d, err := s.Retrieve(t.Context(), path, 0)
			ok(t, err)
			d.Cancel()
			if _, err = s.Do(t.Context(), "NOOP"); err != nil {
				t.Fatalf("a download, %d: %v", n, err)
			}
			s.Warm()
			d, err = s.List(t.Context(), "LIST "+server.Root)
			ok(t, err)
			d.Cancel()
			if _, err = s.Do(t.Context(), "NOOP"); err != nil {
				t.Fatalf("a listing, %d: %v", n, err)
			}
			u, err := s.Store(t.Context(), "STOR "+path+"2", "SIZE "+path)
			ok(t, err)
			if n > 0 {
				_, err = u.Write(make([]byte, n*10000))
				ok(t, err)
			}
			u.Cancel()
			if _, err := s.Do(t.Context(), "NOOP"); err != nil {
				t.Fatalf("an upload, %d: %v", n, err)
			}
		}
	})
}

// TestGivenUpByAnother: who reads a transfer that another gives up may use the session as soon as he has heard of the end.
func TestGivenUpByAnother(t *testing.T) {
	server := servers.NewFTP(t, servers.FTPOptions{Kind: servers.PyFTPdlib, TLS: servers.Explicit})
	s := logIn(t, options(t, server, servers.Explicit, server.Address()))
	_, err := store(t.Context(), s, "STOR "+server.Root+"/file", some(4<<20))
	ok(t, err)
	for n := range 50 {
		d, err := s.Retrieve(t.Context(), server.Root+"/file", 0)
		ok(t, err)
		time.AfterFunc(time.Duration(n)*20*time.Microsecond, d.Cancel)
		if _, err := io.Copy(io.Discard, d); err == nil {
			d.End(t.Context()) // it may have ended before it was given up
		}
		d.Cancel()
		if _, err = s.Do(t.Context(), "NOOP"); err != nil {
			t.Fatalf("%d: %v", n, err)
		}
	}
}

// TestNoTickets: proftpd demands that sessions are resumed, and gives no tickets before TLS 1.3. The refusal says what to do.
func TestNoTickets(t *testing.T) {
	server := servers.NewFTP(t, servers.FTPOptions{Kind: servers.ProFTPD, TLS: servers.Explicit, MaxTLS: tls.VersionTLS12})
	s := logIn(t, options(t, server, servers.Explicit, server.Address()))
	_, err := store(t.Context(), s, "STOR "+server.Root+"/f", []byte("x"))
	if refusal, refused := errors.AsType[*Refusal](err); !refused || refusal.Reply.Code != 425 || !strings.Contains(refusal.Hint, "TLSSessionTickets") {
		t.Errorf("%v, want 425 and a hint", err)
	}
}

// TestManyUploads: 20 uploads of 8 MiB over TLS 1.3 to vsftpd, which loses those whose data connection is reset.
func TestManyUploads(t *testing.T) {
	if testing.Short() {
		t.Skip("slow")
	}
	m := mode{servers.Vsftpd, servers.Explicit, tls.VersionTLS13}
	server := m.start(t)
	s := logIn(t, options(t, server, m.tls, server.Address()))
	content := some(8 << 20)
	for n := range 20 {
		path := fmt.Sprintf("%s/%d", server.Root, n)
		s.Warm()
		_, err := store(t.Context(), s, "STOR "+path, content)
		ok(t, err)
		if got, err := os.ReadFile(filepath.Join(server.Dir, fmt.Sprint(n))); err != nil || !bytes.Equal(got, content) {
			t.Errorf("upload %d: the server has %d bytes, %v", n, len(got), err)
		}
	}
}

// TestRoundTrips counts what a program waits for.
func TestRoundTrips(t *testing.T) {
	everywhere(t, func(t *testing.T, m mode) {
		login, put, get, end := 5, 1, 1, 1
		switch {
		case m.tls == servers.Explicit:
			login, put, get, end = 8, 2, 2, 2
		case m.tls == servers.Implicit:
			login, put, get, end = 7, 2, 2, 2
		}
		if m.kind == servers.ProFTPD && m.tls != servers.Plain {
			end++ // it waits for our close_notify, and resets the connection if that comes early
		}
		if m.kind == servers.PyFTPdlib { // consent, TLS, content, and what is behind, each by itself
			put += 2
			if m.tls != servers.Plain {
				get, end = get+1, end+1
			}
		}
		if m.kind == servers.PureFTPd { // what is behind must not come into the transfer
			put++
		}
		server := m.start(t)
		l := link.New(t, link.Options{RoundTrip: 50 * time.Millisecond})
		o := options(t, server, m.tls, server.Through(t, l))
		count := func(what string, most int, f func()) {
			t.Helper()
			counts := l.Meter()
			f()
			if n := counts().Flights; n > most {
				t.Errorf("%s: %d round trips, want %d", what, n, most)
			}
		}
		var s *Session
		count("login", login, func() { s = logIn(t, o) })
		path := server.Root + "/file"
		warm := func() { _, err := s.Passive(t.Context()); ok(t, err) }
		warm()
		count("store", put, func() {
			u, err := s.Store(t.Context(), "STOR "+path, "SIZE "+path)
			ok(t, err)
			_, err = u.Write(make([]byte, 4096))
			ok(t, err)
			_, _, err = u.End(t.Context())
			ok(t, err)
		})
		for what, most := range map[string]int{"content": get, "end": end} {
			warm()
			var d *Download
			count(what, most, func() {
				var err error
				s.Prepend("SIZE " + path)
				d, err = s.Retrieve(t.Context(), path, 10)
				ok(t, err)
				_, err = io.ReadFull(d, make([]byte, 4086))
				ok(t, err)
				if what == "end" {
					_, err = d.End(t.Context())
					ok(t, err)
				}
			})
			_, _ = d.End(t.Context()) // it may have ended above
		}
		count("three commands", 1, func() { _, err := s.Do(t.Context(), "SIZE "+path, "MDTM "+path, "NOOP"); ok(t, err) })
	})
}
