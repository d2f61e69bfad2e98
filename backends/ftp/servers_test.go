package ftp

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"pierfs/backends"
	"pierfs/backends/ftp/listing"
	"pierfs/backends/ftp/wire"
	"pierfs/integration/link"
	"pierfs/integration/servers"

	"golang.org/x/sync/errgroup"
)

// noise is n bytes that look like nothing.
func noise(n int, seed uint64) []byte {
	p := make([]byte, n)
	source := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	source.Read(p)
	return p
}

// put uploads content as the cache does.
func put(ctx context.Context, b *Backend, name string, content []byte) (backends.Info, error) {
	w, err := b.Create(ctx, name, backends.WriteMode{TempName: name + ".temp", Perm: 0o644})
	if err != nil {
		return backends.Info{}, err
	}
	for off := 0; off < len(content); off += 1 << 20 {
		if _, err := w.WriteAt(ctx, content[off:min(off+1<<20, len(content))], int64(off)); err != nil {
			w.Abort()
			return backends.Info{}, err
		}
	}
	return w.Commit(ctx, backends.Commit{Size: int64(len(content))})
}

func get(ctx context.Context, b *Backend, name string) ([]byte, error) {
	r, err := b.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var content bytes.Buffer
	p := make([]byte, 300_000)
	for off := int64(0); ; {
		n, err := r.ReadAt(ctx, p, off)
		content.Write(p[:n])
		off += int64(n)
		if err == io.EOF {
			return content.Bytes(), nil
		}
		if err != nil {
			return content.Bytes(), err
		}
	}
}

// onServer is what the server has under name, as its machine sees it.
func onServer(t *testing.T, s *servers.FTP, name string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(s.Dir, name))
	ok(t, err)
	return string(content)
}

// leftOvers are the names in the server's directory beside the wanted.
func leftOvers(t *testing.T, s *servers.FTP, wanted ...string) (rest []string) {
	t.Helper()
	entries, err := os.ReadDir(s.Dir)
	ok(t, err)
	for _, e := range entries {
		if !strings.Contains(" "+strings.Join(wanted, " ")+" ", " "+e.Name()+" ") {
			rest = append(rest, e.Name())
		}
	}
	return rest
}

// Over TLS 1.3 libraries lose such uploads on vsftpd: their closing resets the connection while tickets lie unread in it.
func TestManyLongUploadsArrive(t *testing.T) {
	if testing.Short() {
		t.Skip("slow")
	}
	s := servers.NewFTP(t, way{servers.Vsftpd, servers.Explicit, tls.VersionTLS13}.options())
	b := connect(t, s, servers.Explicit, Options{})
	content := noise(8<<20, 1)
	for i := range 20 {
		_, err := put(t.Context(), b, fmt.Sprint("file", i), content)
		ok(t, err)
	}
	for i := range 20 {
		if onServer(t, s, fmt.Sprint("file", i)) != string(content) {
			t.Errorf("file%d arrived changed", i)
		}
	}
}

// A transfer of nothing over TLS makes no handshake by itself, which breaks every server's session.
func TestEmptyFilesTravelOverTLS(t *testing.T) {
	for _, w := range ways() {
		if w.mode == servers.Plain {
			continue
		}
		t.Run(w.String(), func(t *testing.T) {
			s := servers.NewFTP(t, w.options())
			b := connect(t, s, w.mode, Options{})
			for i := range 5 {
				name := fmt.Sprint("file", i)
				info, err := put(t.Context(), b, name, nil)
				ok(t, err)
				if info.Size != 0 {
					t.Errorf("Commit says %+v", info)
				}
				content, err := get(t.Context(), b, name)
				ok(t, err)
				if len(content) != 0 {
					t.Errorf("%d bytes came of an empty file", len(content))
				}
				u, err := b.Update(t.Context(), name)
				ok(t, err)
				_, err = u.Commit(t.Context(), backends.Commit{})
				ok(t, err)
			}
		})
	}
}

// proftpd wants each data connection to resume the session of its own control connection.
func TestSessionsDoNotShareTLS(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		w := way{servers.ProFTPD, servers.Explicit, version}
		t.Run(w.String(), func(t *testing.T) {
			s := servers.NewFTP(t, w.options())
			b := connect(t, s, w.mode, Options{MaxSessions: 4})
			content := noise(2<<20, 3)
			var group errgroup.Group
			for i := range 6 {
				group.Go(func() error {
					name := fmt.Sprint("file", i)
					if _, err := put(t.Context(), b, name, content); err != nil {
						return err
					}
					came, err := get(t.Context(), b, name)
					if err == nil && !bytes.Equal(came, content) {
						err = errors.New(name + " came back changed")
					}
					return err
				})
			}
			ok(t, group.Wait())
			if s.Sessions(t) < 2 {
				t.Errorf("%d sessions, want 2 at least", s.Sessions(t))
			}
		})
	}
}

// pure-ftpd lists 10,000 entries of a directory, and says so in its last reply only.
func TestCutListingIsIncomplete(t *testing.T) {
	for _, kind := range servers.FTPKinds() {
		t.Run(kind.String(), func(t *testing.T) {
			s := servers.NewFTP(t, servers.FTPOptions{Kind: kind})
			for i := range 12_000 {
				ok(t, os.WriteFile(filepath.Join(s.Dir, fmt.Sprintf("entry%05d", i)), nil, 0o644))
			}
			b := connect(t, s, servers.Plain, Options{})
			n := 0
			for _, err := range b.List(t.Context(), "") {
				ok(t, err)
				n++
			}
			limit := b.Caps().ListLimit
			if kind == servers.PureFTPd && (n >= 12_000 || limit == 0 || n < limit) {
				t.Errorf("%d entries of 12,000 with ListLimit %d pass for all", n, limit)
			}
			if kind != servers.PureFTPd && (n != 12_000 || limit != 0) {
				t.Errorf("%d entries, ListLimit %d, want 12,000 and none", n, limit)
			}
			_, err := b.Stat(t.Context(), "entry11999")
			ok(t, err)
		})
	}
}

// A server without room costs an error, never the file that was there. Those that say so by 452 are ENOSPC; 451 may be any fault.
func TestFullServerKeepsTheOldFile(t *testing.T) {
	full := map[way][]syscall.Errno{
		{servers.Vsftpd, servers.Plain, 0}:                    {syscall.EIO}, // "451 Failure writing to local file."
		{servers.Vsftpd, servers.Explicit, tls.VersionTLS13}:  {syscall.EIO},
		{servers.PureFTPd, servers.Plain, 0}:                  {syscall.EIO},                    // "451 Transfer aborted", or "451 0.022 seconds"
		{servers.ProFTPD, servers.Plain, 0}:                   {syscall.EIO},                    // "451 Transfer aborted. Input/output error"
		{servers.ProFTPD, servers.Explicit, tls.VersionTLS13}: {syscall.EIO, syscall.ENOSPC},    // or "452 Transfer aborted. No space left on device"
		{servers.PyFTPdlib, servers.Plain, 0}:                 {syscall.EIO, syscall.ETIMEDOUT}, // "426 None; transfer aborted.", or nothing at all
	}
	for _, code := range []int{452, 552} {
		err := seam("commit", "file", &wire.Refusal{Command: "STOR file", Reply: wire.Reply{Code: code}})
		if backends.Errno(err) != syscall.ENOSPC {
			t.Errorf("%d is %v, want ENOSPC", code, err)
		}
	}
	for w, want := range full {
		t.Run(w.String(), func(t *testing.T) {
			o := w.options()
			o.Size = 4 << 20
			s := servers.NewFTP(t, o)
			b := connect(t, s, w.mode, Options{Login: Login{SocketTimeout: 3 * time.Second}})
			_, err := put(t.Context(), b, "file", []byte("old"))
			ok(t, err)
			_, err = put(t.Context(), b, "file", noise(8<<20, 1))
			if err == nil {
				t.Fatal("8 MiB went into 4 MiB")
			}
			if code := backends.Errno(err); !slices.Contains(want, code) {
				t.Errorf("got %v (%v), want %v", code, err, want)
			}
			if got := onServer(t, s, "file"); got != "old" {
				t.Errorf("the file holds %d bytes, want the old 3", len(got))
			}
			if rest := leftOvers(t, s, "file"); len(rest) > 0 {
				t.Errorf("left over: %q", rest)
			}
			_, err = put(t.Context(), b, "file", []byte("new"))
			ok(t, err)
		})
	}
}

// A connection that breaks at any point of an upload leaves the old file or the new one, whole.
func TestCutUploadLeavesOldOrNew(t *testing.T) {
	for _, w := range []way{{servers.Vsftpd, servers.Plain, 0}, {servers.ProFTPD, servers.Explicit, tls.VersionTLS13}} {
		t.Run(w.String(), func(t *testing.T) {
			s := servers.NewFTP(t, w.options())
			l := link.New(t, link.Options{})
			b := connect(t, s, w.mode, Options{Login: Login{Address: s.Through(t, l)}})
			content := noise(1<<20, 7)
			old := noise(1000, 8)
			for _, after := range []int64{0, 10, 100, 300, 1000, 5000, 100_000, 900_000, 1<<20 + 200, 1<<20 + 400} {
				_, err := put(t.Context(), b, "file", old)
				for range 20 {
					if err == nil {
						break
					}
					_, err = put(t.Context(), b, "file", old)
				}
				ok(t, err)
				l.CutAfter(link.ToServer, after)
				_, err = put(t.Context(), b, "file", content)
				l.CutAfter(link.ToServer, -1)
				got := onServer(t, s, "file")
				switch {
				case err == nil && got != string(content):
					t.Errorf("cut after %d bytes: success, and the file holds %d bytes", after, len(got))
				case err != nil && got == string(content) && backends.ClassOf(err) != backends.Lost:
					t.Errorf("cut after %d bytes: %v (%v), and the file is the new one", after, err, backends.ClassOf(err))
				case got != string(content) && got != string(old):
					t.Errorf("cut after %d bytes: the file holds %d bytes, neither the old nor the new", after, len(got))
				}
			}
		})
	}
}

// Whoever is interrupted in an upload returns soon and leaves the old file. The temporary name is removed too, unless the server
// begins to write it only when it was: it never becomes more than that, and who chose it knows it.
func TestInterruptedUploadLeavesTheOldFile(t *testing.T) {
	for _, w := range []way{{servers.Vsftpd, servers.Plain, 0}, {servers.ProFTPD, servers.Explicit, tls.VersionTLS13}} {
		t.Run(w.String(), func(t *testing.T) {
			s := servers.NewFTP(t, w.options())
			l := link.New(t, link.Options{RoundTrip: 100 * time.Millisecond})
			b := connect(t, s, w.mode, Options{Login: Login{Address: s.Through(t, l)}})
			_, err := put(t.Context(), b, "file", []byte("old"))
			ok(t, err)
			content := noise(2<<20, 3)
			for _, after := range []time.Duration{50 * time.Millisecond, 150 * time.Millisecond, 250 * time.Millisecond, 350 * time.Millisecond} {
				ctx, cancel := context.WithTimeout(t.Context(), after)
				begun := time.Now()
				_, err := put(ctx, b, "file", content)
				cancel()
				if took := time.Since(begun); took > after+5*time.Second {
					t.Errorf("interrupted after %v: it returned after %v", after, took)
				}
				if err == nil || backends.ClassOf(err) == backends.Lost {
					break // it was over, or may have been
				}
				if got := onServer(t, s, "file"); got != "old" {
					t.Errorf("interrupted after %v with %v: the file holds %d bytes", after, err, len(got))
				}
			}
			for _, name := range leftOvers(t, s, "file") {
				if name != "file.temp" {
					t.Errorf("left over: %q", name)
				}
				if err := b.Remove(t.Context(), name); err != nil && backends.Errno(err) != syscall.ENOENT {
					t.Errorf("remove what is left over: %v", err)
				}
			}
		})
	}
}

// A download that breaks goes on where it was, if the file is still the same.
func TestBrokenDownloadGoesOn(t *testing.T) {
	for _, w := range []way{{servers.Vsftpd, servers.Plain, 0}, {servers.PureFTPd, servers.Explicit, tls.VersionTLS13}} {
		t.Run(w.String(), func(t *testing.T) {
			s := servers.NewFTP(t, w.options())
			l := link.New(t, link.Options{})
			b := connect(t, s, w.mode, Options{Login: Login{Address: s.Through(t, l)}})
			content := noise(6<<20, 5)
			ok(t, os.WriteFile(filepath.Join(s.Dir, "file"), content, 0o644))
			r, err := b.Open(t.Context(), "file")
			ok(t, err)
			defer r.Close()
			p := make([]byte, 1<<20)
			for off := int64(0); off < 6<<20; off += 1 << 20 {
				_, err := r.ReadAt(t.Context(), p, off)
				if err != nil && err != io.EOF {
					t.Fatalf("at %d: %v", off, err)
				}
				if !bytes.Equal(p, content[off:off+1<<20]) {
					t.Fatalf("at %d: other bytes", off)
				}
				l.Cut()
			}
			_, err = r.ReadAt(t.Context(), p, 0)
			ok(t, err)
			ok(t, os.WriteFile(filepath.Join(s.Dir, "file"), content[1:], 0o644))
			l.Cut()
			switch _, err = r.ReadAt(t.Context(), p, 2<<20); {
			case err == nil && bytes.Equal(p, content[2<<20:3<<20]): // it had all come before
			case backends.Errno(err) != syscall.ESTALE:
				t.Errorf("after the file changed: got %v, want ESTALE", err)
			}
		})
	}
}

// Files that are open and not read keep nobody from anything, however few sessions the server bears.
func TestOpenFilesHoldNoSession(t *testing.T) {
	for _, most := range []int{1, 2} {
		t.Run(fmt.Sprint(most), func(t *testing.T) {
			s := servers.NewFTP(t, servers.FTPOptions{})
			b := connect(t, s, servers.Plain, Options{MaxSessions: most})
			content := noise(3<<20, 9)
			var open []backends.Reader
			for i := range 8 {
				name := fmt.Sprint("file", i)
				ok(t, os.WriteFile(filepath.Join(s.Dir, name), content, 0o644))
				r, err := b.Open(t.Context(), name)
				ok(t, err)
				defer r.Close()
				open = append(open, r)
			}
			p := make([]byte, 100_000)
			for off := int64(0); off < 3<<20; off += 1_000_000 {
				for i, r := range open {
					n, err := r.ReadAt(t.Context(), p, off)
					if err != nil && err != io.EOF || !bytes.Equal(p[:n], content[off:off+int64(n)]) {
						t.Fatalf("file%d at %d: %d bytes, %v", i, off, n, err)
					}
				}
				for info, err := range b.List(t.Context(), "") {
					ok(t, err)
					_, err = b.Stat(t.Context(), info.Name) // while the listing is under way
					ok(t, err)
				}
			}
		})
	}
}

// Reads arrive out of order; the transfer goes on all the same.
func TestReadsOutOfOrderNeedNoNewTransfer(t *testing.T) {
	s := servers.NewFTP(t, servers.FTPOptions{})
	b := connect(t, s, servers.Plain, Options{})
	content := noise(8<<20, 4)
	ok(t, os.WriteFile(filepath.Join(s.Dir, "file"), content, 0o644))
	r, err := b.Open(t.Context(), "file")
	ok(t, err)
	defer r.Close()
	var group errgroup.Group
	for i := range 64 {
		group.Go(func() error {
			off := int64(i^1) * (128 << 10)
			p := make([]byte, 128<<10)
			_, err := r.ReadAt(t.Context(), p, off)
			if err == io.EOF {
				err = nil
			}
			if err == nil && !bytes.Equal(p, content[off:off+128<<10]) {
				err = fmt.Errorf("other bytes at %d", off)
			}
			return err
		})
	}
	ok(t, group.Wait())
	transfers := 0
	for _, command := range s.Commands(t) {
		if strings.HasPrefix(command, "RETR") {
			transfers++
		}
	}
	if transfers > 16 { // how far out of order they arrive is up to the machine
		t.Errorf("64 reads in a row took %d transfers", transfers)
	}
}

// A session that the server has closed in the meantime is replaced, and nobody notices.
func TestDeadSessionsAreReplaced(t *testing.T) {
	for _, kind := range servers.FTPKinds() {
		if kind == servers.PyFTPdlib {
			continue // one process for all: its sessions cannot be ended one by one
		}
		t.Run(kind.String(), func(t *testing.T) {
			s := servers.NewFTP(t, servers.FTPOptions{Kind: kind})
			b := connect(t, s, servers.Plain, Options{})
			for i := range 5 {
				_, err := put(t.Context(), b, "file", []byte("text"))
				ok(t, err)
				s.KillSessions(t)
				switch i {
				case 0:
					_, err = b.Stat(t.Context(), "file")
				case 1:
					_, err = get(t.Context(), b, "file")
				case 2:
					for _, failed := range b.List(t.Context(), "") {
						err = failed
					}
				case 3:
					_, err = put(t.Context(), b, "other", []byte("text"))
				case 4:
					if err = b.Mkdir(t.Context(), "dir", 0o755); backends.ClassOf(err) == backends.Lost { // it left before the end had come: nobody knows
						err = b.Mkdir(t.Context(), "dir", 0o755)
					}
				}
				if err != nil {
					t.Errorf("call %d after the server closed its sessions: %v", i, err)
				}
			}
		})
	}
}

// proftpd ends a session that has moved nothing for a while, and no NOOP keeps it: that costs nobody an error.
func TestSessionsThatQuestionsDoNotKeep(t *testing.T) {
	s := servers.NewFTP(t, servers.FTPOptions{Kind: servers.ProFTPD, Config: []string{"TimeoutNoTransfer 1"}})
	b := connect(t, s, servers.Plain, Options{})
	ok(t, os.WriteFile(filepath.Join(s.Dir, "file"), []byte("text"), 0o644))
	quick := func(call func() error) error { // a machine that stands still so long lets no session answer
		begun := time.Now()
		if err := call(); err != nil && time.Since(begun) < time.Second {
			return err
		}
		return nil
	}
	logins := func() (n int) {
		for _, command := range s.Commands(t) {
			if strings.HasPrefix(command, "USER") {
				n++
			}
		}
		return n
	}
	for first, asks := logins(), time.NewTicker(20*time.Millisecond); logins() < first+3; <-asks.C {
		if err := quick(func() error { _, err := b.Stat(t.Context(), "file"); return err }); err != nil {
			t.Fatalf("stat beside the end of sessions: %v", err)
		}
	}
	if err := quick(func() error {
		got, err := get(t.Context(), b, "file")
		if err == nil && string(got) != "text" {
			t.Errorf("read %q", got)
		}
		return err
	}); err != nil {
		t.Errorf("read: %v", err)
	}
}

// The clock of a server that lists its own time is learned from files that tell theirs in UTC.
func TestZoneOfARealServerIsLearned(t *testing.T) {
	for _, zone := range []string{"America/St_Johns", "Asia/Kathmandu"} { // -3:30 or -2:30, and +5:45
		t.Run(zone, func(t *testing.T) {
			t.Parallel()
			// Of these servers proftpd alone lists local time and tells UTC by MDTM; without facts it must be listed.
			s := servers.NewFTP(t, servers.FTPOptions{Kind: servers.ProFTPD, Zone: zone, Config: []string{"FactsAdvertise off"}})
			times := map[string]time.Time{}
			for i := range 5 {
				name, when := fmt.Sprint("file", i), time.Now().Add(-time.Duration(i*i*50)*time.Hour).Truncate(time.Second)
				times[name] = when
				ok(t, os.WriteFile(filepath.Join(s.Dir, name), nil, 0o644))
				ok(t, os.Chtimes(filepath.Join(s.Dir, name), when, when))
			}
			b := connect(t, s, servers.Plain, Options{})
			n := 0
			for info, err := range b.List(t.Context(), "") {
				ok(t, err)
				n++
				if off := times[info.Name].Sub(info.ModTime); info.TimeUnit != time.Minute || off < 0 || off >= time.Minute {
					t.Errorf("%s: listed as of %v to the %v, want the minute of %v", info.Name, info.ModTime, info.TimeUnit, times[info.Name])
				}
			}
			if !b.patterns() || n != len(times) {
				t.Errorf("%d entries of %d; listed without facts: %v", n, len(times), b.patterns())
			}
		})
	}
}

// A limit of the server is learned, and costs nobody an error.
func TestServerOfFewSessions(t *testing.T) {
	for _, kind := range servers.FTPKinds() {
		t.Run(kind.String(), func(t *testing.T) {
			s := servers.NewFTP(t, servers.FTPOptions{Kind: kind, MaxClients: 2})
			b := connect(t, s, servers.Plain, Options{MaxSessions: 8})
			content := noise(1<<20, 2)
			var group errgroup.Group
			for i := range 12 {
				group.Go(func() error {
					name := fmt.Sprint("file", i)
					if _, err := put(t.Context(), b, name, content); err != nil {
						return err
					}
					came, err := get(t.Context(), b, name)
					if err == nil && !bytes.Equal(came, content) {
						err = errors.New(name + " came back changed")
					}
					return err
				})
			}
			ok(t, group.Wait())
		})
	}
}

// The working directory may be named, and what is wrong with it is told.
func TestWorkingDirectory(t *testing.T) {
	for _, kind := range servers.FTPKinds() {
		t.Run(kind.String(), func(t *testing.T) {
			s := servers.NewFTP(t, servers.FTPOptions{Kind: kind})
			b := connect(t, s, servers.Plain, Options{})
			ok(t, b.Mkdir(t.Context(), "in box", 0o755))
			ok(t, b.Mkdir(t.Context(), "in box/deep", 0o755))
			_, err := put(t.Context(), b, "in box/deep/file", []byte("text"))
			ok(t, err)
			for _, dir := range []string{"in box/deep", "~/in box/deep", "in box/../in box/deep/", strings.TrimSuffix(s.Root, "/") + "/in box/deep"} {
				in := connect(t, s, servers.Plain, Options{WorkingDir: dir})
				if content, err := get(t.Context(), in, "file"); string(content) != "text" {
					t.Errorf("workingDir %q: %q, %v", dir, content, err)
				}
			}
			for dir, want := range map[string]backends.Cause{"nowhere": backends.CauseWorkingDir, "in box/deep/file": backends.CauseWorkingDirFile} {
				in := connect(t, s, servers.Plain, Options{WorkingDir: dir})
				if _, err := in.Stat(t.Context(), ""); backends.CauseOf(err) != want {
					t.Errorf("workingDir %q: got %v (%q), want %q", dir, err, backends.CauseOf(err), want)
				}
			}
		})
	}
}

// Probe tells each step, in order.
func TestProbeTellsItsSteps(t *testing.T) {
	for _, w := range []way{{servers.Vsftpd, servers.Plain, 0}, {servers.ProFTPD, servers.Explicit, tls.VersionTLS13}} {
		t.Run(w.String(), func(t *testing.T) {
			s := servers.NewFTP(t, w.options())
			var names []string
			b := connect(t, s, w.mode, Options{Step: func(step Step) {
				names = append(names, step.Name)
				if step.Err != nil {
					t.Errorf("%s: %v", step.Name, step.Err)
				}
				if step.Name == "passive" && step.Passive.Port() == 0 {
					t.Errorf("passive tells no port: %+v", step)
				}
			}})
			ok(t, b.Probe(t.Context()))
			t.Log(names)
			want := "banner auth features workingDir passive data list roundTrip"
			if w.mode != servers.Plain {
				want = "banner tls auth features workingDir passive data list roundTrip"
			}
			if got := strings.Join(names, " "); !strings.HasSuffix(got, want) {
				t.Errorf("steps %q, want %q at the end", got, want)
			}
		})
	}
}

// Uploads are verified beyond their size where that is wanted.
// Holds row 79 of the requirements.
func TestUploadsAreVerified(t *testing.T) {
	for _, verify := range []string{"hash", "readback"} {
		t.Run(verify, func(t *testing.T) {
			s := servers.NewFTP(t, servers.FTPOptions{Kind: servers.ProFTPD})
			b := connect(t, s, servers.Plain, Options{Verify: verify})
			content := noise(3<<20, 6)
			_, err := put(t.Context(), b, "file", content)
			ok(t, err)
			if onServer(t, s, "file") != string(content) {
				t.Error("it arrived changed")
			}
			t.Log(s.Commands(t)[len(s.Commands(t))-12:])
		})
	}
}

// TestUploadsAreReadBackWhereNoSumIs: vsftpd computes no checksums. Somebody changes a byte of what is being uploaded.
// Holds row 79 of the requirements.
func TestUploadsAreReadBackWhereNoSumIs(t *testing.T) {
	s := servers.NewFTP(t, servers.FTPOptions{})
	content := noise(1<<20, 7)
	for _, spoilt := range []bool{false, true} {
		b := connect(t, s, servers.Plain, Options{Verify: "hash"})
		w, err := b.Create(t.Context(), "file", backends.WriteMode{TempName: ".file.part"})
		ok(t, err)
		_, err = w.WriteAt(t.Context(), content, 0)
		ok(t, err)
		ok(t, w.Sync(t.Context()))
		if spoilt {
			f, err := os.OpenFile(filepath.Join(s.Dir, ".file.part"), os.O_WRONLY, 0)
			ok(t, err)
			_, err = f.WriteAt([]byte{content[1000] + 1}, 1000)
			ok(t, err)
			ok(t, f.Close())
		}
		_, err = w.Commit(t.Context(), backends.Commit{Size: int64(len(content))})
		if spoilt != (backends.CauseOf(err) == backends.CauseMismatch) || !spoilt && err != nil {
			t.Errorf("spoilt %v: %v", spoilt, err)
		}
	}
	if b := connect(t, s, servers.Plain, Options{}); b.Caps().Sums {
		t.Error("it is said to compute checksums")
	}
}

// TestServersAreAskedForSums: one that computes checksums is asked, one that does not is not, and nothing is read in its place.
// Holds row 79 of the requirements.
func TestServersAreAskedForSums(t *testing.T) {
	for kind, sums := range map[servers.FTPKind]bool{servers.ProFTPD: true, servers.Vsftpd: false} {
		s := servers.NewFTP(t, servers.FTPOptions{Kind: kind})
		b := connect(t, s, servers.Plain, Options{})
		content := noise(100_000, 7)
		_, err := put(t.Context(), b, "a file", content)
		ok(t, err)
		sum, err := b.Sum(t.Context(), "a file")
		if !sums {
			if backends.Errno(err) != syscall.EOPNOTSUPP {
				t.Errorf("%s: got %v, %v, want EOPNOTSUPP", kind, sum, err)
			}
			continue
		}
		ok(t, err)
		h := backends.NewSum(sum.Algorithm)
		h.Write(content)
		if !bytes.Equal(h.Sum(nil), sum.Value) {
			t.Errorf("%s: got %s by %s, want %x", kind, sum, sum.Algorithm, h.Sum(nil))
		}
		if commands := strings.Join(s.Commands(t), " "); strings.Contains(commands, "RETR") {
			t.Errorf("%s was asked %q", kind, commands)
		}
	}
}

// TestServersThatChangeWhatTheyGet: the size that the server tells counts, unless it is said to be of something else.
// Holds row 79 of the requirements.
func TestServersThatChangeWhatTheyGet(t *testing.T) {
	s := servers.NewFTP(t, servers.FTPOptions{})
	for verify, fails := range map[string]bool{"size": true, "off": false} {
		b := connect(t, s, servers.Plain, Options{Verify: verify})
		w, err := b.Create(t.Context(), verify, backends.WriteMode{TempName: ".part"})
		ok(t, err)
		_, err = w.WriteAt(t.Context(), noise(100_000, 7), 0)
		ok(t, err)
		ok(t, w.Sync(t.Context()))
		ok(t, os.Truncate(filepath.Join(s.Dir, ".part"), 10))
		if info, err := w.Commit(t.Context(), backends.Commit{Size: 100_000}); (err != nil) != fails || !fails && info.Size != 100_000 {
			t.Errorf("verify %q: %+v, %v", verify, info, err)
		}
	}
}

// Links are told from what they lead to, and where they lead.
func TestLinksAreLinks(t *testing.T) {
	for _, kind := range servers.FTPKinds() {
		if kind == servers.PyFTPdlib {
			continue // it follows links and tells nothing of them
		}
		t.Run(kind.String(), func(t *testing.T) {
			s := servers.NewFTP(t, servers.FTPOptions{Kind: kind})
			in := func(name string) string { return filepath.Join(s.Dir, name) }
			ok(t, os.WriteFile(in("file"), []byte("text"), 0o644))
			ok(t, os.WriteFile(in("open"), []byte("text"), 0o777))
			ok(t, os.Chmod(in("open"), 0o777))
			ok(t, os.Mkdir(in("dir"), 0o755))
			for name, target := range map[string]string{"flink": "file", "dlink": "dir", "long": "dir/../file", "olink": "open"} {
				ok(t, os.Symlink(target, in(name)))
			}
			for _, listed := range []bool{false, true} {
				b := connect(t, s, servers.Plain, Options{})
				if listed {
					for info, err := range b.List(t.Context(), "") {
						ok(t, err)
						if link := strings.HasSuffix(info.Name, "link") || info.Name == "long"; link != (info.Mode&os.ModeSymlink != 0) {
							t.Errorf("the listing says %+v", info)
						}
					}
				}
				for name, want := range map[string]os.FileMode{"flink": os.ModeSymlink, "dlink": os.ModeSymlink, "long": os.ModeSymlink, "olink": os.ModeSymlink, "open": 0, "file": 0, "dir": os.ModeDir} {
					info, err := b.Stat(t.Context(), name)
					ok(t, err)
					if info.Mode.Type() != want {
						t.Errorf("listed %v: stat %s says %v, want %v", listed, name, info.Mode, want)
					}
				}
				for name, want := range map[string]string{"flink": "file", "dlink": "dir", "long": "dir/../file"} {
					if got, err := b.Readlink(t.Context(), name); got != want || err != nil {
						t.Errorf("listed %v: readlink %s: got %q, %v, want %q", listed, name, got, err, want)
					}
				}
			}
		})
	}
}

// LIST tells minutes and days where MDTM tells seconds: both are the same version.
func TestListedTimesAgreeWithStat(t *testing.T) {
	for _, zone := range []string{"UTC", "America/St_Johns"} {
		t.Run(zone, func(t *testing.T) {
			o := servers.FTPOptions{Zone: zone}
			if zone != "UTC" {
				o.Config = append(o.Config, "use_localtime=YES") // MDTM is then wrong by the zone as well: nothing tells the truth
			}
			s := servers.NewFTP(t, o)
			b := connect(t, s, servers.Plain, Options{})
			times := map[string]time.Time{}
			for name, age := range map[string]time.Duration{"hour": time.Hour, "day": 26 * time.Hour, "month": 30 * 24 * time.Hour, "years": 20000 * time.Hour} {
				when := time.Now().Add(-age).Truncate(time.Second)
				times[name] = when
				ok(t, os.WriteFile(filepath.Join(s.Dir, name), nil, 0o644))
				ok(t, os.Chtimes(filepath.Join(s.Dir, name), when, when))
			}
			for info, err := range b.List(t.Context(), "") {
				ok(t, err)
				stat, err := b.Stat(t.Context(), info.Name)
				ok(t, err)
				if !stat.SameVersion(info) || stat.TimeUnit != 0 {
					t.Errorf("%s: stat says %v, list %v to the %v", info.Name, stat.ModTime, info.ModTime, info.TimeUnit)
				}
				if zone == "UTC" && !stat.ModTime.Equal(times[info.Name]) {
					t.Errorf("%s: stat says %v, want %v", info.Name, stat.ModTime, times[info.Name])
				}
			}
		})
	}
}

// Whoever can make a file there can forge the end of vsftpd's reply to STAT, and replies to what follows.
func TestForgedRepliesAreNotBelieved(t *testing.T) {
	s := servers.NewFTP(t, servers.FTPOptions{})
	ok(t, os.WriteFile(filepath.Join(s.Dir, "victim"), []byte("12345"), 0o644))
	ok(t, os.Symlink("victim", filepath.Join(s.Dir, "x\r\n213 End of status\r\n350 Restart position accepted (0).\r\n350 x\r\n213 999")))
	b := connect(t, s, servers.Plain, Options{MaxSessions: 1})
	for range 6 {
		info, err := b.Stat(t.Context(), "victim")
		if err == nil && info.Size != 5 {
			t.Errorf("the size is %d, want 5", info.Size)
		}
		if err != nil {
			t.Errorf("stat: %v", err)
		}
		_, err = b.Stat(t.Context(), "nothing")
		if backends.Errno(err) != syscall.ENOENT {
			t.Errorf("stat of nothing: %v", err)
		}
	}
	info, err := b.Stat(t.Context(), "victim")
	ok(t, err)
	if info.Size != 5 || !info.Mode.IsRegular() {
		t.Errorf("in the end stat says %+v", info)
	}
}

// A line feed travels to vsftpd as a NUL, and a carriage return as itself. What is refused, and what others put there, hurts nobody.
func TestLineEndsInNames(t *testing.T) {
	for _, mode := range []servers.TLSMode{servers.Plain, servers.Explicit} {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			s := servers.NewFTP(t, servers.FTPOptions{TLS: mode})
			b := connect(t, s, mode, Options{})
			ctx := t.Context()
			for _, name := range []string{"a\nb", "c\rd", "\nlead", "trail\n", "\n", "\rx\n\n y", "{a\n*?}", "z\n213 End of status\n350 Restart position accepted (0)."} {
				made, err := put(ctx, b, name, []byte(name))
				ok(t, err)
				if got := onServer(t, s, name); got != name {
					t.Errorf("%q: the server has %q", name, got)
				}
				got, err := get(ctx, b, name)
				if err != nil || string(got) != name {
					t.Errorf("%q: read %q, %v", name, got, err)
				}
				if info, err := b.Stat(ctx, name); err != nil || info.Size != made.Size || !info.Mode.IsRegular() || info.Name != name {
					t.Errorf("%q: stat says %+v, %v", name, info, err)
				}
				ok(t, b.Rename(ctx, name, name+"2", backends.NoReplace))
				_, err = b.Stat(ctx, name)
				if backends.Errno(err) != syscall.ENOENT {
					t.Errorf("%q: after it was renamed: %v", name, err)
				}
				if rest := leftOvers(t, s); len(rest) != 1 || rest[0] != name+"2" {
					t.Errorf("%q: the server has %q", name, rest)
				}
				ok(t, b.Remove(ctx, name+"2"))
				ok(t, b.Mkdir(ctx, name, 0o755))
				_, err = put(ctx, b, name+"/file", []byte("x"))
				ok(t, err)
				if got := namesIn(t, b, name); !slices.Equal(got, []string{"file"}) {
					t.Errorf("%q: as a directory it holds %q", name, got)
				}
				ok(t, b.Remove(ctx, name+"/file"))
				ok(t, b.Rmdir(ctx, name))
			}
			for _, name := range []string{"e\r\nf", "g\r", "g\r/x", "\r\n"} {
				if _, err := put(ctx, b, name, nil); backends.Errno(err) != syscall.EINVAL {
					t.Errorf("%q: %v", name, err)
				}
			}
			if rest := leftOvers(t, s); len(rest) > 0 {
				t.Errorf("left over are %q", rest)
			}
		})
	}
}

// Whoever can make files there makes up no others by their names.
func TestNamesWithLineFeedsForgeNothing(t *testing.T) {
	s := servers.NewFTP(t, servers.FTPOptions{})
	entry := "-rw-r--r--    1 0        0             777 Nov 21 09:30 FAKE"
	want := []string{"\n" + entry, "victim", "x\n" + entry + "\ny", "y\n213 999\n213 End of status\n350 Restart position accepted (0)."}
	for _, name := range want {
		ok(t, os.WriteFile(filepath.Join(s.Dir, name), []byte("12345"), 0o644))
	}
	b := connect(t, s, servers.Plain, Options{MaxSessions: 1})
	for range 3 {
		if got := namesIn(t, b, ""); !slices.Equal(got, want) {
			t.Errorf("listed %q, want %q", got, want)
		}
		for _, name := range want {
			if info, err := b.Stat(t.Context(), name); err != nil || info.Size != 5 {
				t.Errorf("stat of %q: %+v, %v", name, info, err)
			}
		}
		if _, err := b.Stat(t.Context(), "FAKE"); backends.Errno(err) != syscall.ENOENT {
			t.Errorf("stat of what a name made up: %v", err)
		}
	}
	for _, name := range want {
		ok(t, b.Remove(t.Context(), name))
	}
	if rest := leftOvers(t, s); len(rest) > 0 {
		t.Errorf("left over are %q", rest)
	}
}

// namesIn are the names that b lists, in order.
func namesIn(t *testing.T, b *Backend, dir string) (names []string) {
	t.Helper()
	for info, err := range b.List(t.Context(), dir) {
		ok(t, err)
		names = append(names, info.Name)
	}
	slices.Sort(names)
	return names
}

// A question that makes vsftpd read the whole directory is asked a few times a minute, however many files are made, read,
// changed and removed there.
// A listing that was on its way while a mode was changed shows the old one, and does not make it count again: the next content
// of the name would be given it.
func TestListingOnItsWayUndoesNoChange(t *testing.T) {
	for _, way := range []string{"listing", "question"} {
		t.Run(way, func(t *testing.T) {
			s := servers.NewFTP(t, servers.FTPOptions{})
			b := connect(t, s, servers.Plain, Options{})
			for _, name := range []string{"a", "b", "c"} {
				_, err := put(t.Context(), b, name, []byte(name))
				ok(t, err)
			}
			perm := os.FileMode(0o640)
			change := func() {
				_, err := b.SetAttr(t.Context(), "c", backends.Attr{Perm: &perm})
				ok(t, err)
			}
			if way == "question" {
				asked := b.question(wire.Features{}, "c")
				change()
				b.info("c", listing.Entry{Info: backends.Info{Mode: 0o600, Known: backends.HasType | backends.HasPerm}}, asked.asked)
			} else {
				for info, err := range b.List(t.Context(), "") {
					ok(t, err)
					if info.Name == "a" {
						change()
					}
				}
			}
			info, err := b.Stat(t.Context(), "c")
			ok(t, err)
			if info.Mode.Perm() != perm {
				t.Errorf("the mode is %v, want %v", info.Mode, perm)
			}
		})
	}
}

func TestWorkInADirectoryReadsItFewTimes(t *testing.T) {
	s := servers.NewFTP(t, servers.FTPOptions{})
	b := connect(t, s, servers.Plain, Options{})
	ctx := t.Context()
	ok(t, b.Mkdir(ctx, "dir", 0o755))
	const files = 100
	for i := range files {
		name := fmt.Sprintf("dir/file%d", i)
		if _, err := b.Stat(ctx, name); backends.Errno(err) != syscall.ENOENT {
			t.Fatalf("stat of what is not there yet: %v", err)
		}
		_, err := put(ctx, b, name, []byte("text"))
		ok(t, err)
		info, err := b.Stat(ctx, name)
		ok(t, err)
		if info.Size != 4 || info.Mode != 0o644 || !info.Known.Has(backends.HasPerm|backends.HasOwner|backends.HasModTime) {
			t.Fatalf("stat says %+v", info)
		}
		info, err = b.SetAttr(ctx, name, backends.Attr{Perm: new(os.FileMode(0o600))})
		ok(t, err)
		if info.Mode != 0o600 {
			t.Fatalf("setattr says %+v", info)
		}
		ok(t, b.Rename(ctx, name, name+".new", backends.NoReplace))
		info, err = b.Stat(ctx, name+".new")
		ok(t, err)
		if info.Mode != 0o600 || info.Name != base(name)+".new" {
			t.Fatalf("stat after the renaming says %+v", info)
		}
		if i%2 == 0 {
			ok(t, b.Remove(ctx, name+".new"))
		}
	}
	costly := 0
	for _, command := range s.Commands(t) {
		if strings.HasPrefix(command, "STAT") || strings.HasPrefix(command, "LIST") {
			costly++
		}
	}
	if costly > 10 {
		t.Errorf("work on %d files had the server read the directory %d times, at most 10 are allowed", files, costly)
	}
	ok(t, os.WriteFile(filepath.Join(s.Dir, "dir", "other"), []byte("by others"), 0o640))
	info, err := b.Stat(ctx, "dir/other")
	ok(t, err)
	if info.Size != 9 || info.Mode != 0o640 {
		t.Errorf("of what others made stat says %+v", info)
	}
}

// A directory that its owner may not enter is there, though the server refuses every question about it: who made it, changed it or
// has only seen it finds it, as does who asks for the first time.
func TestDirectoryThatMayNotBeEntered(t *testing.T) {
	for _, kind := range servers.FTPKinds() {
		t.Run(kind.String(), func(t *testing.T) {
			s := servers.NewFTP(t, servers.FTPOptions{Kind: kind})
			b := connect(t, s, servers.Plain, Options{})
			ctx := t.Context()
			found := func(when, name string) {
				t.Helper()
				for range 3 {
					info, err := b.Stat(ctx, name)
					if err != nil || !info.IsDir() || info.Known.Has(backends.HasPerm) && info.Mode.Perm() != 0o600 {
						t.Errorf("%s: stat says %v, %v", when, info.Mode, err)
					}
				}
			}
			absent := func() {
				t.Helper()
				if _, err := b.Stat(ctx, "nothing"); backends.Errno(err) != syscall.ENOENT {
					t.Errorf("stat of nothing: %v", err)
				}
			}
			list := func() {
				t.Helper()
				for _, err := range b.List(ctx, "") {
					ok(t, err)
				}
			}
			ok(t, os.WriteFile(filepath.Join(s.Dir, "file"), nil, 0o644))
			for _, before := range []func(){absent, list, absent} { // what is known of the directory
				before()
				ok(t, b.Mkdir(ctx, "made", 0o600))
				found("made so", "made")
				before()
				found("made so, and looked at", "made")
				ok(t, b.Rename(ctx, "made", "moved", backends.NoReplace))
				found("renamed", "moved")
				if err := b.Mkdir(ctx, "moved", 0o755); backends.Errno(err) != syscall.EEXIST {
					t.Errorf("mkdir over it: %v", err)
				}
				ok(t, b.Rmdir(ctx, "moved"))
				if _, err := b.Stat(ctx, "moved"); backends.Errno(err) != syscall.ENOENT {
					t.Errorf("stat of what was removed: %v", err)
				}
				before()
				ok(t, b.Mkdir(ctx, "dir", 0o755))
				before()
				_, err := b.SetAttr(ctx, "dir", backends.Attr{Perm: new(os.FileMode(0o600))})
				ok(t, err)
				found("changed", "dir")
				ok(t, b.Rmdir(ctx, "dir"))
			}
			absent()
			ok(t, os.Mkdir(filepath.Join(s.Dir, "theirs"), 0o600)) // of another user
			list()
			found("listed", "theirs")
			ok(t, os.Mkdir(filepath.Join(s.Dir, "theirs", "in"), 0o700))
			if _, err := b.Stat(ctx, "theirs/in"); err == nil {
				t.Error("what is in it is found")
			}
		})
	}
}

// An absent name is asked about again and again: that reads the directory a few times a minute, though it was there once.
func TestAskingForAnAbsentNameCostsLittle(t *testing.T) {
	s := servers.NewFTP(t, servers.FTPOptions{})
	b := connect(t, s, servers.Plain, Options{})
	ctx := t.Context()
	_, err := put(ctx, b, "file", []byte("text"))
	ok(t, err)
	ok(t, b.Mkdir(ctx, "dir", 0o700))
	for _, name := range []string{"file", "dir"} {
		_, err := b.Stat(ctx, name)
		ok(t, err)
		ok(t, os.Remove(filepath.Join(s.Dir, name))) // by others
		if err := b.Remove(ctx, name); backends.Errno(err) != syscall.ENOENT {
			t.Errorf("remove of what is not there: %v", err)
		}
	}
	for range 50 {
		for _, name := range []string{"file", "dir", "other"} {
			if _, err := b.Stat(ctx, name); backends.Errno(err) != syscall.ENOENT {
				t.Fatalf("stat of nothing: %v", err)
			}
		}
	}
	costly := 0
	for _, command := range s.Commands(t) {
		if strings.HasPrefix(command, "STAT") || strings.HasPrefix(command, "LIST") {
			costly++
		}
	}
	if costly > 10 {
		t.Errorf("150 questions had the server read the directory %d times, at most 10 are allowed", costly)
	}
}

// A directory with something in it that no listing of MLSD shows is full all the same: proftpd hides links to nothing.
func TestDirectoryOfDanglingLinksIsFull(t *testing.T) {
	for _, kind := range servers.FTPKinds() {
		t.Run(kind.String(), func(t *testing.T) {
			s := servers.NewFTP(t, servers.FTPOptions{Kind: kind})
			b := connect(t, s, servers.Plain, Options{})
			ok(t, b.Mkdir(t.Context(), "dir", 0o755))
			ok(t, os.Symlink("gone", filepath.Join(s.Dir, "dir", "dangling")))
			if err := b.Rmdir(t.Context(), "dir"); backends.Errno(err) != syscall.ENOTEMPTY {
				t.Errorf("rmdir: %v", err)
			}
		})
	}
}
