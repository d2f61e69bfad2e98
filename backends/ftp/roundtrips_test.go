package ftp

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"pierfs/backends"
	"pierfs/backends/pool"
	"pierfs/integration/link"
	"pierfs/integration/servers"
)

// What each operation may take on a session that is warm. Counted is the longest chain of question and answer.
func TestRoundTrips(t *testing.T) {
	for _, w := range ways() {
		t.Run(w.String(), func(t *testing.T) {
			s := servers.NewFTP(t, w.options())
			trip := 40 * time.Millisecond
			if w.mode != servers.Plain { // what leaves behind a handshake must be gone before the server's tickets come, on a busy machine too
				trip = 120 * time.Millisecond
			}
			l := link.New(t, link.Options{RoundTrip: trip})
			b := connect(t, s, w.mode, Options{Login: Login{Address: s.Through(t, l)}, MaxSessions: 1})
			extra := 0 // what a handshake adds to a transfer
			if w.mode != servers.Plain {
				extra = 1
			}
			in := func(name string) string { return filepath.Join(s.Dir, name) }
			content := bytes.Repeat([]byte("pier"), 1024)
			for name, content := range map[string][]byte{"file": content, "other": content} {
				ok(t, os.WriteFile(in(name), content, 0o666))
				ok(t, os.Chmod(in(name), 0o666))
			}
			ok(t, os.Mkdir(in("dir"), 0o777))
			ok(t, os.Chmod(in("dir"), 0o777))
			for n := range 20 {
				ok(t, os.WriteFile(in(fmt.Sprint("dir/small", n)), nil, 0o644))
			}
			ctx := t.Context()
			check := func(what string, want int, f func()) {
				t.Helper()
				warm(t, b)
				count := l.Meter()
				f()
				if got := count().Flights; got > want {
					t.Errorf("%s took %d flights, at most %d are allowed", what, got, want)
				} else {
					t.Logf("%s: %d", what, got)
				}
			}
			_, err := b.Stat(ctx, "file")
			ok(t, err)
			for range b.List(ctx, "dir") { // learns the server's clock where it must
			}
			check("stat", 1, func() { _, err := b.Stat(ctx, "file"); ok(t, err) })
			check("stat of a directory", 1, func() { _, err := b.Stat(ctx, "dir"); ok(t, err) })
			check("stat of nothing", 1, func() { b.Stat(ctx, "nothing") })
			list := 1 + extra
			if w.kind == servers.ProFTPD || w.kind == servers.PyFTPdlib { // which say only after our close_notify that it was all
				list += extra
			}
			check("list of a small directory", list, func() {
				n := 0
				for _, err := range b.List(ctx, "dir") {
					ok(t, err)
					n++
				}
				if n != 20 {
					t.Errorf("%d entries, want 20", n)
				}
			})
			read, write := 1+extra, 2+extra
			if w.kind == servers.PyFTPdlib { // which runs commands beside a transfer, and takes no handshake before it has answered
				read, write = 1+2*extra, 4+extra
			}
			if w.kind == servers.PureFTPd { // which answers what comes into a transfer before that has ended
				write++
			}
			check("open and read of 4 KiB", read, func() {
				r, err := b.Open(ctx, "file")
				ok(t, err)
				p := make([]byte, 8192)
				n, info, err := r.ReadLast(ctx, p, 0)
				if n != 4096 || err != io.EOF || info.Size != 4096 || !bytes.Equal(p[:n], content) {
					t.Errorf("ReadLast = %d, %+v, %v", n, info, err)
				}
				ok(t, r.Close())
			})
			check("replacing a file", write, func() {
				writer, err := b.Create(ctx, "file", backends.WriteMode{TempName: ".file.tmp", Perm: 0o600})
				ok(t, err)
				_, err = writer.WriteAt(ctx, content, 0)
				ok(t, err)
				when := time.Unix(1700000000, 0)
				info, err := writer.Commit(ctx, backends.Commit{Size: 4096, Attr: backends.Attr{ModTime: &when}})
				ok(t, err)
				if info.Size != 4096 || !info.ModTime.Equal(when) || info.Name != "file" {
					t.Errorf("Commit says %+v", info)
				}
			})
			for range b.List(ctx, "dir") { // shows that the name is free
			}
			check("making a file where nothing may be replaced", write, func() {
				writer, err := b.Create(ctx, "dir/new", backends.WriteMode{TempName: "dir/.new.tmp", Perm: 0o600})
				ok(t, err)
				_, err = writer.WriteAt(ctx, content, 0)
				ok(t, err)
				var said error
				free := func(_ backends.Info, err error) error { said = err; return nil }
				info, err := writer.Commit(ctx, backends.Commit{Size: 4096, Before: free})
				ok(t, err)
				if info.Size != 4096 || !errors.Is(said, os.ErrNotExist) {
					t.Errorf("Commit says %+v, and asked with %v of a name that is free", info, said)
				}
			})
			check("mkdir", 1, func() { ok(t, b.Mkdir(ctx, "d", 0o755)) })
			check("rename", 1, func() { ok(t, b.Rename(ctx, "d", "e", backends.Replace)) })
			check("rmdir", 1, func() { ok(t, b.Rmdir(ctx, "e")) })
			check("remove", 1, func() { ok(t, b.Remove(ctx, "other")) })
			check("utimes", 2, func() {
				when := time.Unix(1600000000, 0)
				info, err := b.SetAttr(ctx, "file", backends.Attr{ModTime: &when})
				ok(t, err)
				if !info.ModTime.Equal(when) {
					t.Errorf("SetAttr says %v", info.ModTime)
				}
			})
		})
	}
}

// A session that is never given the time to open its next data connection ahead asks for its port behind the transfer before, where the
// server bears that: one round trip to connect, and one for the transfer.
func TestBusySessionTakesFewRoundTrips(t *testing.T) {
	for kind, most := range map[servers.FTPKind]int{servers.Vsftpd: 2, servers.ProFTPD: 3, servers.PureFTPd: 3} {
		t.Run(kind.String(), func(t *testing.T) {
			s := servers.NewFTP(t, servers.FTPOptions{Kind: kind})
			l := link.New(t, link.Options{RoundTrip: 40 * time.Millisecond})
			b := connect(t, s, servers.Plain, Options{Login: Login{Address: s.Through(t, l)}, MaxSessions: 1})
			ok(t, os.Mkdir(filepath.Join(s.Dir, "dir"), 0o777))
			ok(t, os.WriteFile(filepath.Join(s.Dir, "dir", "file"), make([]byte, 4096), 0o666))
			for range b.List(t.Context(), "dir") { // learns the server's clock where it must
			}
			warm(t, b)
			const rounds = 5
			count := l.Meter()
			for range rounds {
				for _, err := range b.List(t.Context(), "dir") {
					ok(t, err)
				}
			}
			listed := count().Flights
			for range rounds {
				r, err := b.Open(t.Context(), "dir/file")
				ok(t, err)
				if n, _, err := r.ReadLast(t.Context(), make([]byte, 8192), 0); n != 4096 || err != io.EOF {
					t.Errorf("read %d bytes, %v", n, err)
				}
				ok(t, r.Close())
			}
			read := count().Flights - listed
			t.Logf("%d listings took %d flights, %d small files %d", rounds, listed, rounds, read)
			if listed > rounds*most || read > rounds*most {
				t.Errorf("%d flights for %d listings and %d for as many files, at most %d each are allowed", listed, rounds, read, most)
			}
		})
	}
}

func TestLoginTakesFewRoundTrips(t *testing.T) {
	for _, w := range ways() {
		t.Run(w.String(), func(t *testing.T) {
			s := servers.NewFTP(t, w.options())
			l := link.New(t, link.Options{RoundTrip: 40 * time.Millisecond})
			b := connect(t, s, w.mode, Options{Login: Login{Address: s.Through(t, l)}, MaxSessions: 1})
			want := 5
			if w.mode != servers.Plain {
				want = 8
			}
			count := l.Meter()
			lease, err := b.pool.Take(t.Context(), pool.Meta)
			ok(t, err)
			lease.Release()
			if got := count().Flights; got > want {
				t.Errorf("a login took %d flights, at most %d are allowed", got, want)
			} else {
				t.Logf("login: %d", got)
			}
		})
	}
}

// TestFurtherLoginBringsAPort: who logs in once more, for many small files, asks for the first port within the login, where the server
// bears that.
func TestFurtherLoginBringsAPort(t *testing.T) {
	for kind, most := range map[servers.FTPKind]int{servers.Vsftpd: 5, servers.ProFTPD: 6, servers.PureFTPd: 6} {
		t.Run(kind.String(), func(t *testing.T) {
			s := servers.NewFTP(t, servers.FTPOptions{Kind: kind})
			l := link.New(t, link.Options{RoundTrip: 40 * time.Millisecond})
			b := connect(t, s, servers.Plain, Options{Login: Login{Address: s.Through(t, l)}, MaxSessions: 2})
			first, err := b.pool.Take(t.Context(), pool.Meta)
			ok(t, err)
			defer first.Release()
			count := l.Meter()
			second, err := b.pool.Take(t.Context(), pool.Meta)
			ok(t, err)
			defer second.Release()
			channel, err := second.Session().Passive(t.Context())
			ok(t, err)
			if got := count().Flights; got > most || channel.Command != "EPSV" {
				t.Errorf("a login and its first data connection (%s) took %d flights, at most %d are allowed", channel.Command, got, most)
			} else {
				t.Logf("a login and its first data connection: %d", got)
			}
		})
	}
}

// warm waits until the next data connection stands.
func warm(t *testing.T, b *Backend) {
	t.Helper()
	l, err := b.pool.Take(t.Context(), pool.Meta)
	ok(t, err)
	_, err = l.Session().Passive(t.Context())
	ok(t, err)
	l.Release()
}
