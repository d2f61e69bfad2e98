package ftp

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"pierfs/backends"
	"pierfs/backends/ftp/listing"
	"pierfs/integration/link"
	"pierfs/integration/servers"
)

// shortly lists all dirs at the same time, each wanted whole.
func shortly(t *testing.T, b *Backend, dirs ...string) map[string]map[string]backends.Info {
	t.Helper()
	var mu sync.Mutex
	var all sync.WaitGroup
	got := map[string]map[string]backends.Info{}
	for _, dir := range dirs {
		all.Go(func() {
			infos := map[string]backends.Info{}
			for info, err := range b.List(backends.WithWhole(t.Context()), dir) {
				if err != nil {
					t.Errorf("list %q: %v", dir, err)
					continue
				}
				infos[info.Name] = info
			}
			mu.Lock()
			defer mu.Unlock()
			got[dir] = infos
		})
	}
	all.Wait()
	return got
}

// slowly lists dir as somebody who reads it while it comes.
func slowly(t *testing.T, b *Backend, dir string) map[string]backends.Info {
	t.Helper()
	infos := map[string]backends.Info{}
	for info, err := range b.List(t.Context(), dir) {
		ok(t, err)
		infos[info.Name] = info
	}
	return infos
}

// branches makes n directories with files in them, and returns their names.
func branches(t *testing.T, s *servers.FTP, n, files int) (dirs []string) {
	for i := range n {
		dir := fmt.Sprint("branch", i)
		dirs = append(dirs, dir)
		ok(t, os.Mkdir(filepath.Join(s.Dir, dir), 0o755))
		for k := range files {
			ok(t, os.WriteFile(filepath.Join(s.Dir, dir, fmt.Sprint("file", k)), make([]byte, i+k), 0o644))
		}
	}
	return dirs
}

// Listings that are wanted whole travel in one flight, however many they are.
func TestShortListingsShareAFlight(t *testing.T) {
	for _, mode := range []servers.TLSMode{servers.Plain, servers.Explicit} {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			s := servers.NewFTP(t, servers.FTPOptions{TLS: mode})
			dirs := branches(t, s, 40, 5)
			l := link.New(t, link.Options{RoundTrip: 100 * time.Millisecond})
			b := connect(t, s, mode, Options{Login: Login{Address: s.Through(t, l)}, MaxSessions: 1})
			slowly(t, b, "") // learns whether numbers come back
			count := l.Meter()
			shortly(t, b, dirs[0])
			if n := count().Flights; n > 2 { // learns the server's clock
				t.Errorf("a first listing took %d flights, 2 are allowed", n)
			}
			count = l.Meter()
			got := shortly(t, b, dirs...)
			if n := count(); n.Flights > 1 || n.Connections > 0 {
				t.Errorf("%d listings took %d flights and %d connections, 1 and 0 are allowed", len(dirs), n.Flights, n.Connections)
			}
			for i, dir := range dirs {
				if len(got[dir]) != 5 {
					t.Errorf("%s has %d entries, want 5", dir, len(got[dir]))
				}
				if info := got[dir]["file3"]; info.Size != int64(i+3) || time.Since(info.ModTime) > 5*time.Minute {
					t.Errorf("%s/file3 is %+v", dir, info)
				}
			}
		})
	}
}

// What STAT cannot tell is told by LIST, and no directory is told in another way than by that.
func TestShortListingsAreThoseOfLIST(t *testing.T) {
	s := servers.NewFTP(t, servers.FTPOptions{})
	b := connect(t, s, servers.Plain, Options{MaxSessions: 2})
	odd := []string{"plain", "with space ", " lead", "star*", "q?", "{a,b}", "?", "line\nfeed", "cr\rhere", "\n", "latin1-\xe4", "\xff\xfe", "213 End of status", "213-x", ".hidden", "-rf"}
	dirs := slices.Clone(odd)
	for _, dir := range odd {
		ok(t, os.Mkdir(filepath.Join(s.Dir, dir), 0o755))
		ok(t, os.WriteFile(filepath.Join(s.Dir, dir, "file"), []byte("x"), 0o644))
	}
	names := "names"
	dirs = append(dirs, names, "empty", "link", "")
	ok(t, os.Mkdir(filepath.Join(s.Dir, "empty"), 0o755))
	ok(t, os.Symlink(names, filepath.Join(s.Dir, "link")))
	ok(t, os.Mkdir(filepath.Join(s.Dir, names), 0o755))
	for _, name := range odd {
		ok(t, os.WriteFile(filepath.Join(s.Dir, names, name), []byte(name), 0o644))
	}
	ok(t, os.Symlink("away", filepath.Join(s.Dir, names, "dangling")))
	slowly(t, b, names) // learns the server's clock, and that it bears line ends
	for range 2 {
		got := shortly(t, b, dirs...)
		for _, dir := range dirs {
			if want := slowly(t, b, dir); !maps.Equal(got[dir], want) {
				t.Errorf("%q is\n%v, want\n%v", dir, got[dir], want)
			}
		}
	}
	for name, want := range map[string]syscall.Errno{"nothing": syscall.ENOENT, "names/plain": syscall.ENOTDIR, "nothing/below": syscall.ENOENT} {
		for _, err := range b.List(backends.WithWhole(t.Context()), name) {
			if backends.Errno(err) != want {
				t.Errorf("list %q: %v, want %v", name, err, want)
			}
		}
	}
	ok(t, os.RemoveAll(filepath.Join(s.Dir, "?"))) // to vsftpd a pattern, which "." fits
	for _, err := range b.List(backends.WithWhole(t.Context()), "?") {
		if backends.Errno(err) != syscall.ENOENT {
			t.Errorf("list of a pattern: %v, want ENOENT", err)
		}
	}
}

// Whoever can make files forges no listing, neither of their directory nor of others that are asked for with it.
func TestForgedListingsAreNotBelieved(t *testing.T) {
	const line = "drwxr-xr-x    2 0        0            4096 Jan 01  2026 "
	for what, forged := range map[string]string{
		"the end":              "x\r\n213 End of status",
		"the end and a number": "x\r\n213 End of status\r\n350 Restart position accepted (0).",
		"the whole":            "x\r\n213 End of status\r\n350 Restart position accepted (0).\r\n350 x",
		"another listing":      "x\r\n213 End\r\n350 x\r\n350 y\r\n213-Status\r\n" + line + ".\r\n" + line + "made-up\r\n213 End",
		"another's number":     "x\r\n213 End\r\n350 (1)\r\n350 (2)\r\n213-S\r\n" + line + ".\r\n213 End\r\n350 (3)\r\n350 (4)",
		"a reply of nonsense":  "x\r\n213 End\r\nnonsense",
		"a hang-up":            "x\r\n213 End\r\n421 good-bye",
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			s := servers.NewFTP(t, servers.FTPOptions{})
			dirs := branches(t, s, 20, 3)
			// A link, for a name may have 255 bytes and what a link leads to 4096; vsftpd shows both.
			name, target := forged, "away"
			if len(forged) > 200 {
				name, target = "short", forged
			}
			ok(t, os.Symlink(target, filepath.Join(s.Dir, dirs[7], name)))
			b := connect(t, s, servers.Plain, Options{MaxSessions: 2})
			slowly(t, b, dirs[0])
			for range 3 {
				got := shortly(t, b, dirs...)
				for i, dir := range dirs {
					names := slices.Sorted(maps.Keys(got[dir]))
					want := []string{"file0", "file1", "file2"}
					if i == 7 {
						if !slices.Contains(names, "file0") || !slices.Contains(names, "file2") || got[dir]["file1"].Size != 8 {
							t.Errorf("%s is %q", dir, names)
						}
					} else if !slices.Equal(names, want) || got[dir]["file2"].Size != int64(i+2) {
						t.Errorf("%s is %v, want %q", dir, got[dir], want)
					}
				}
			}
			if !b.known().forged[dirs[7]] && !b.known().longOnes[dirs[7]] {
				t.Errorf("%s is asked for in this way again", dirs[7])
			}
			if others := len(b.known().forged); others > 1 {
				t.Errorf("%d directories are not trusted, 1 is not", others)
			}
		})
	}
}

// A directory that is too long for a reply is listed all the same, and not asked for in this way again.
func TestLongDirectoriesAreListedByLIST(t *testing.T) {
	s := servers.NewFTP(t, servers.FTPOptions{})
	dirs := branches(t, s, 10, 1)
	long := strings.Repeat("x", 240)
	ok(t, os.Mkdir(filepath.Join(s.Dir, "long"), 0o755))
	const files = 4000
	for i := range files {
		ok(t, os.WriteFile(filepath.Join(s.Dir, "long", fmt.Sprint(long, i)), nil, 0o644))
	}
	b := connect(t, s, servers.Plain, Options{MaxSessions: 2})
	slowly(t, b, dirs[0])
	for range 2 {
		for dir, infos := range shortly(t, b, append(dirs, "long")...) {
			if want := map[bool]int{true: files, false: 1}[dir == "long"]; len(infos) != want {
				t.Errorf("%s has %d entries, want %d", dir, len(infos), want)
			}
		}
	}
	if !b.known().longOnes["long"] {
		t.Error("a directory that is too long is asked for by STAT again")
	}
}

// A session that listings share is given up for whoever would have to wait, and comes back.
func TestSharedSessionIsGivenBack(t *testing.T) {
	s := servers.NewFTP(t, servers.FTPOptions{})
	dirs := branches(t, s, 30, 1)
	b := connect(t, s, servers.Plain, Options{MaxSessions: 1})
	slowly(t, b, dirs[0])
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			for range 5 {
				shortly(t, b, dirs...)
			}
		})
		all.Go(func() {
			for range 20 {
				if _, err := get(t.Context(), b, dirs[3]+"/file0"); err != nil {
					t.Errorf("read beside listings: %v", err)
				}
			}
		})
	}
	all.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.leases) > 0 {
		t.Errorf("%d sessions are lent, want none", len(b.leases))
	}
}

// FuzzShortListing is fed with what a server may list in a reply to STAT: no name comes out that may not cross the seam, and what shows itself
// can be read to its end.
func FuzzShortListing(f *testing.F) {
	const line = "-rw-r--r--    1 0        0               3 Jan 01  2026 "
	f.Add(line + "a\r\n" + line + "b")
	f.Add("drwxr-xr-x    2 0        0            4096 Jan 01  2026 .\r\n" + line + "a")
	f.Add("\r\n\n213 End\r\n" + line + "../x")
	b, err := New(Options{Login: Login{Address: "127.0.0.1:21"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		lines := append(append([]string{"Status follows:"}, strings.Split(text, "\r\n")...), "End of status")
		if !b.showsItself(lines) {
			return
		}
		l := &listed{b: b, dir: "dir", yield: func(info backends.Info, err error) bool {
			if err == nil && backends.CheckElement(info.Name) != 0 {
				t.Errorf("%q comes out of %q", info.Name, text)
			}
			return true
		}}
		if _, err := l.take(listing.Status(lines, b.lines())); err != nil {
			t.Errorf("%q was fit to be believed, and is not: %v", text, err)
		}
	})
}
