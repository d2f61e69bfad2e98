package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"pierfs/integration/daemon"
	"pierfs/integration/link"
	"pierfs/integration/process"
	"pierfs/integration/servers"
)

// longAgo is a time of change that is over, so that what bears it can be kept.
var longAgo = time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)

// cacheStage is a stage whose server has a large and a small file of long ago, and how much is on the wire.
type cacheStage struct {
	*stage
	way      *link.Link // nil but for SFTP
	contents map[string][]byte
}

// eachCache runs f over SFTP, and over FTP with a server that lists minutes alone.
func eachCache(t *testing.T, f func(t *testing.T, s *cacheStage)) {
	t.Run("SFTP", func(t *testing.T) {
		t.Parallel()
		server, way := servers.NewSSHD(t, servers.SSHOptions{}), link.New(t, link.Options{})
		s := &cacheStage{way: way}
		s.fill(t, server.Dir)
		s.stage = connect(t, newDaemon(t), server, way.Forward(t, "", server.Address()), nil)
		f(t, s)
	})
	t.Run("FTP", func(t *testing.T) {
		t.Parallel()
		o := servers.FTPOptions{Kind: servers.Vsftpd}
		server := servers.NewFTP(t, o)
		s := &cacheStage{}
		s.fill(t, server.Dir)
		s.stage = stageOf(t, server, o, nil)
		f(t, s)
	})
}

func (s *cacheStage) fill(t *testing.T, behind string) {
	t.Helper()
	s.contents = map[string][]byte{"large": random(1, 5<<20+77), "small": random(2, 5000)}
	for name, content := range s.contents {
		s.give(t, behind, name, content, longAgo)
	}
}

// give makes a file on the server that was last changed at some time.
func (s *cacheStage) give(t *testing.T, behind, name string, content []byte, at time.Time) {
	t.Helper()
	s.contents[name] = content
	path := filepath.Join(behind, name)
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, at, at); err != nil {
		t.Fatal(err)
	}
}

// readAll reads every file through the mount, and demands that it is what the server has.
func (s *cacheStage) readAll(t *testing.T) {
	t.Helper()
	for name, want := range s.contents {
		got, err := os.ReadFile(filepath.Join(s.mount, name))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes are read, %v, want %d; the same: %v", name, len(got), err, len(want), bytes.Equal(got, want))
		}
	}
}

// start starts the daemon again.
func (s *cacheStage) start(t *testing.T) {
	t.Helper()
	s.daemon.Start(t)
	s.daemon.AwaitState(t, connection, "ready", process.Patience)
}

func (s *cacheStage) restart(t *testing.T, between func()) {
	t.Helper()
	if status := s.daemon.Stop(t); status != 0 {
		t.Fatalf("pierfsd ends with %d\n%s", status, s.daemon.Log())
	}
	between()
	s.start(t)
}

// cached is what `pierfs cache status --json` tells of a connection.
type cached struct {
	Files             int
	Bytes, FromServer int64
}

// status returns what `pierfs cache status` tells of the connection.
func (s *cacheStage) status(t *testing.T) cached {
	t.Helper()
	var a struct{ Connections []cached }
	r := s.daemon.Pierfs(t, "cache", "status", connection, "--json")
	if err := json.Unmarshal([]byte(r.Stdout), &a); err != nil || r.Status != 0 || len(a.Connections) != 1 {
		t.Fatalf("pierfs cache status: %d, %s%s, %v", r.Status, r.Stdout, r.Stderr, err)
	}
	return a.Connections[0]
}

// kept returns the files of the cache with this suffix.
func (s *cacheStage) kept(t *testing.T, suffix string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(s.daemon.CacheDir, "content", "*", "*"+suffix))
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

// readsFromHere reads every file and demands that no content crosses the wire.
func (s *cacheStage) readsFromHere(t *testing.T) {
	t.Helper()
	count := func() link.Counts { return link.Counts{} }
	if s.way != nil {
		count = s.way.Meter()
	}
	s.readAll(t)
	if c := count(); c.ToClient > 4<<10 {
		t.Errorf("files that are here cost %v; states are some hundred bytes", c)
	}
	if c := s.status(t); c.FromServer != 0 {
		t.Errorf("files that are here are fetched: %+v", c)
	}
}

func TestContentIsReadFromHereAfterARestart(t *testing.T) {
	t.Parallel()
	eachCache(t, func(t *testing.T, s *cacheStage) {
		s.readAll(t)
		if c := s.status(t); c.FromServer < 5<<20 || c.Files != 2 || c.Bytes < 5<<20 {
			t.Errorf("after reading: %+v", c)
		}
		s.restart(t, func() {})
		s.readsFromHere(t)
		s.restart(t, func() {
			s.give(t, s.behind, "large", random(3, len(s.contents["large"])), longAgo.Add(time.Second))
			s.give(t, s.behind, "small", random(4, len(s.contents["small"])), longAgo.Add(time.Second))
		})
		s.readAll(t)
		if c := s.status(t); c.FromServer < 5<<20 {
			t.Errorf("what changed is not fetched: %+v", c)
		}
	})
}

// holds reports whether the cache has a file of that kind with more than size bytes: one that is being written is there already.
func (s *cacheStage) holds(t *testing.T, kind string, size int) bool {
	t.Helper()
	return slices.ContainsFunc(s.kept(t, kind), func(name string) bool {
		info, err := os.Stat(name)
		return err == nil && info.Size() > int64(size)
	})
}

// TestContentIsReadFromHereAfterACrash: what was noted is there, and the rest is fetched.
func TestContentIsReadFromHereAfterACrash(t *testing.T) {
	t.Parallel()
	eachCache(t, func(t *testing.T, s *cacheStage) {
		s.readAll(t)
		await(t, "what was read is noted", func() bool { return len(s.kept(t, ".note")) == 1 && s.holds(t, ".small", len(s.contents["small"])) })
		s.daemon.Kill()
		s.start(t)
		s.readsFromHere(t)
	})
}

func TestDamagedCacheIsThrownAway(t *testing.T) {
	t.Parallel()
	eachCache(t, func(t *testing.T, s *cacheStage) {
		s.readAll(t)
		s.restart(t, func() {
			for _, path := range append(s.kept(t, ".data"), s.kept(t, ".small")...) {
				content, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				content[len(content)-7] ^= 1
				if err := os.WriteFile(path, content, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		})
		s.readAll(t)
		if c := s.status(t); c.FromServer < 5<<20+5000 {
			t.Errorf("something damaged was believed: %+v", c)
		}
	})
}

// TestCacheIsDeletedUnderARunningDaemon: nothing is read wrongly, nothing owed is lost, and it keeps content again.
func TestCacheIsDeletedUnderARunningDaemon(t *testing.T) {
	t.Parallel()
	eachCache(t, func(t *testing.T, s *cacheStage) {
		s.readAll(t)
		reader, err := os.Open(filepath.Join(s.mount, "large"))
		if err != nil {
			t.Fatal(err)
		}
		defer reader.Close()
		writer, err := os.Create(filepath.Join(s.mount, "owed"))
		if err != nil {
			t.Fatal(err)
		}
		defer writer.Close()
		if _, err := writer.WriteString("written before, "); err != nil {
			t.Fatal(err)
		}
		deleted(t, s.daemon.CacheDir)
		got := make([]byte, len(s.contents["large"]))
		if _, err := reader.ReadAt(got, 0); err != nil || !bytes.Equal(got, s.contents["large"]) {
			t.Errorf("a file that was open is read wrongly: %v", err)
		}
		if _, err := writer.WriteString("and after"); err != nil {
			t.Error(err)
		}
		if err := writer.Close(); err != nil {
			t.Errorf("what is owed: %v", err)
		}
		has(t, filepath.Join(s.behind, "owed"), []byte("written before, and after"))
		if err := reader.Close(); err != nil {
			t.Error(err)
		}
		s.readAll(t)
		s.restart(t, func() {})
		s.readAll(t)
	})
}

func TestTreeIsFetchedAhead(t *testing.T) {
	t.Parallel()
	eachCache(t, func(t *testing.T, s *cacheStage) {
		if err := os.Mkdir(filepath.Join(s.behind, "d"), 0o755); err != nil {
			t.Fatal(err)
		}
		for i := range 20 {
			s.give(t, s.behind, filepath.Join("d", string(rune('a'+i))), random(i, 1000*i), longAgo)
		}
		r := s.daemon.Pierfs(t, "cache", "warm", connection)
		if want := "22 files are here"; r.Status != 0 || !strings.Contains(r.Stdout, want) {
			t.Fatalf("pierfs cache warm: %d, %q, want %q\n%s", r.Status, r.Stdout, want, r.Stderr)
		}
		fetched := s.status(t).FromServer
		s.readAll(t)
		if c := s.status(t); c.FromServer != fetched || c.Files != 22 {
			t.Errorf("after %d bytes were fetched ahead: %+v", fetched, c)
		}
		r = s.daemon.Pierfs(t, "cache", "drop", connection+":/d")
		if r.Status != 0 || !strings.Contains(r.Stdout, "dropped 20 files") {
			t.Errorf("pierfs cache drop: %d, %s%s", r.Status, r.Stdout, r.Stderr)
		}
		r = s.daemon.Pierfs(t, "cache", "warm", connection+":/absent")
		if r.Status != 66 {
			t.Errorf("warming what is not there ends with %d, %s", r.Status, r.Stderr)
		}
	})
}

// TestWarmingShowsABarAndStopsAtCtrlC: what is there by then stays, and nothing more is fetched.
func TestWarmingShowsABarAndStopsAtCtrlC(t *testing.T) {
	t.Parallel()
	server := servers.NewSSHD(t, servers.SSHOptions{})
	s := &cacheStage{contents: map[string][]byte{}}
	const files, size = 20, 1 << 20
	for i := range files {
		s.give(t, server.Dir, fmt.Sprint("f", i), random(i, size), longAgo)
	}
	d := newDaemon(t)
	d.Define(t, connection, daemon.To(t, server, daemon.Fields{"rateLimit": "4MiB"}))
	d.Start(t)
	d.AwaitState(t, connection, "ready", process.Patience)
	s.stage = &stage{server: server, daemon: d, mount: d.Mount(connection), behind: server.Dir}

	cmd := exec.Command(filepath.Join(binaries(t), "pierfs"), "cache", "warm", connection)
	cmd.Env = append(os.Environ(), "PIERFS_RUNTIME_DIR="+d.RuntimeDir)
	x := onTerminal(t, cmd)
	await(t, "a bar, and something is fetched", func() bool {
		return strings.Contains(x.Log.String(), "% |") && s.status(t).FromServer > 0
	})
	x.Signal(syscall.SIGINT)
	if status := x.Wait(t, process.Patience); status != 74 {
		t.Errorf("pierfs cache warm: exit %d after Ctrl-C, want 74\n%s", status, x.Log)
	}
	last := int64(-1)
	await(t, "nothing more is fetched", func() bool {
		before := last
		last = s.status(t).FromServer
		time.Sleep(500 * time.Millisecond) // two mebibytes cross in that time
		return last == before
	})
	if last >= files*size {
		t.Errorf("all of it was fetched though it was stopped")
	}
	s.readAll(t)
}

// TestBoundOfTheCacheIsSet: by the daemon's settings, which `pierfs apply` follows without touching a mount.
func TestBoundOfTheCacheIsSet(t *testing.T) {
	t.Parallel()
	s := newStage(t, servers.SSHOptions{}, nil)
	if err := os.WriteFile(filepath.Join(s.behind, "open"), []byte("content"), 0o644); err != nil {
		t.Fatal(err)
	}
	open, err := os.Open(filepath.Join(s.mount, "open"))
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	settings := filepath.Join(s.daemon.ConfigDir, "pierfs.toml")
	text, err := os.ReadFile(settings)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(settings, append(text, "\ncacheSize = \"64MiB\"\ncacheFree = \"1MB\"\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	s.daemon.Reload(t)
	if r := s.daemon.Pierfs(t, "cache", "status", "--json"); !strings.Contains(r.Stdout, `"size":67108864`) {
		t.Errorf("pierfs cache status: %d, %s%s", r.Status, r.Stdout, r.Stderr)
	}
	if got, err := io.ReadAll(open); err != nil || string(got) != "content" {
		t.Errorf("a file that was open reads %q, %v", got, err)
	}
	large := filepath.Join(s.behind, "large")
	if err := os.WriteFile(large, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(large, 65<<20); err != nil {
		t.Fatal(err)
	}
	r := s.daemon.Pierfs(t, "cache", "warm", filepath.Join(s.mount, "large"))
	if r.Status != 73 || !strings.Contains(r.Stderr, "cacheSize") {
		t.Errorf("a file larger than the cache: %d, %s%s", r.Status, r.Stdout, r.Stderr)
	}
}

// TestWhatIsKeptIsNeverBelievedWrongly does in any order what may happen to files that are kept here: they are read, in whole and
// in parts, changed on the server and through the mount, renamed, and the daemon is stopped, killed, and its cache damaged or deleted
// under it. Whatever is read is what the server has.
func TestWhatIsKeptIsNeverBelievedWrongly(t *testing.T) {
	t.Parallel()
	steps := 150
	if testing.Short() {
		steps = 50
	}
	server := servers.NewSSHD(t, servers.SSHOptions{})
	s := &cacheStage{contents: map[string][]byte{}}
	d := newDaemon(t)
	d.Define(t, connection, daemon.To(t, server, daemon.Fields{"metadataTTL": "0s", "negativeTTL": "0s"}))
	s.stage = &stage{server: server, daemon: d, mount: d.Mount(connection), behind: server.Dir}
	var names []string
	for i := range 12 {
		names = append(names, fmt.Sprint("f", i))
		s.change(t, names[i], i)
	}
	s.start(t)
	random := rand.New(rand.NewPCG(7, 8))
	var done []string // for whoever looks into a failure
	defer func() {
		if t.Failed() {
			t.Logf("the last steps: %q", done[max(0, len(done)-40):])
		}
	}()
	for step := range steps {
		name, version := names[random.IntN(len(names))], 100+step
		what := s.step(t, random, name, names[random.IntN(len(names))], version)
		done = append(done, what+" "+name)
		if t.Failed() {
			return
		}
	}
	s.readAll(t)
}

// change gives a file of the server another content, of any size and a time of its own.
func (s *cacheStage) change(t *testing.T, name string, version int) {
	t.Helper()
	sizes := []int{0, 5, 4000, 255 << 10, 255<<10 + 1, 1 << 20, 3 << 20}
	s.give(t, s.behind, name, random(version, sizes[version%len(sizes)]), timeOf(version))
}

func timeOf(version int) time.Time { return longAgo.Add(time.Duration(version) * time.Second) }

// step does one thing to name, and perhaps to other, and returns what it was.
func (s *cacheStage) step(t *testing.T, chance *rand.Rand, name, other string, version int) string {
	t.Helper()
	path, want := filepath.Join(s.mount, name), s.contents[name]
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	switch k := chance.IntN(100); {
	case k < 50:
		got, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes are read, %v, want %d", name, len(got), err, len(want))
		}
		return "read"
	case k < 65 && len(want) > 0:
		f, err := os.Open(path)
		must(err)
		defer f.Close()
		off := chance.IntN(len(want))
		p := make([]byte, min(10_000, len(want)-off))
		if _, err := f.ReadAt(p, int64(off)); err != nil || !bytes.Equal(p, want[off:off+len(p)]) {
			t.Errorf("%s at %d: %v, or another content", name, off, err)
		}
		return "part"
	case k < 80:
		s.change(t, name, version)
		return "change"
	case k < 86: // of the same size
		s.contents[name] = random(version, len(want))
		must(put(path, s.contents[name]))
		must(os.Chtimes(path, timeOf(version), timeOf(version)))
		return "write"
	case k < 90 && other != name:
		must(os.Rename(path, filepath.Join(s.mount, other)))
		s.contents[other] = want
		s.change(t, name, version)
		return "rename to " + other + ":"
	case k < 93:
		s.daemon.Kill()
		s.start(t)
		return "kill"
	case k < 98:
		kept := append(s.kept(t, ".data"), append(s.kept(t, ".small"), s.kept(t, ".note")...)...)
		s.daemon.Stop(t) // what a kill has left is in quarantine, and then the status is 74
		if len(kept) > 0 && k < 96 {
			damage(t, kept[chance.IntN(len(kept))], chance)
		}
		s.start(t)
		return "restart"
	default:
		deleted(t, filepath.Join(s.daemon.CacheDir, "content"))
		return "delete the cache:"
	}
}

// deleted deletes dir, into which something may be written at this very moment.
func deleted(t *testing.T, dir string) {
	t.Helper()
	await(t, "everything is deleted", func() bool { return os.RemoveAll(dir) == nil })
}

// damage changes a bit of a file, if it is still there.
func damage(t *testing.T, path string, chance *rand.Rand) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil || len(content) == 0 {
		return
	}
	content[chance.IntN(len(content))] ^= 0x40
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}
