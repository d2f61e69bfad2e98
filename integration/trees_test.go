package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"pierfs/integration/daemon"
	"pierfs/integration/process"
	"pierfs/integration/servers"
)

// treeTold is what get and put say of a whole directory.
type treeTold struct {
	Files, Here, Links, Verified, Failed, Directories int
	Bytes                                             int64
	Failures                                          []struct{ Path, Error any }
}

// fresh is a definition that sees what others do at once.
var fresh = daemon.Fields{"metadataTTL": 0}

// listedFile is a file as ls tells it; names that are no text are objects.
type listedFile struct{ Name, Path any }

// ownHand runs pierfs in a directory of its own, with a state directory of its own.
type ownHand struct {
	t     *testing.T
	d     *daemon.Daemon
	local string
	env   []string
	more  []string // arguments behind all others
}

func newHand(t *testing.T, d *daemon.Daemon) *ownHand {
	t.Helper()
	return &ownHand{t: t, d: d, local: t.TempDir(), env: []string{"STATE_DIRECTORY=" + t.TempDir()}}
}

func (h *ownHand) run(want int, args ...string) daemon.Result {
	h.t.Helper()
	r := h.d.PierfsWith(h.t, daemon.Call{Dir: h.local, Env: h.env}, append(args, h.more...)...)
	if r.Status != want {
		h.t.Errorf("pierfs %s: exit %d, want %d\n%s%s", strings.Join(args, " "), r.Status, want, r.Stdout, r.Stderr)
	}
	return r
}

// tree runs get or put of a directory.
func (h *ownHand) tree(want int, args ...string) (told treeTold) {
	h.t.Helper()
	r := h.run(want, append(args, "--json")...)
	if err := json.Unmarshal([]byte(r.Stdout), &told); err != nil {
		h.t.Errorf("pierfs %s says %q: %v", strings.Join(args, " "), r.Stdout, err)
	}
	return told
}

// wantSame wants two trees to hold the same names, contents and links.
func wantSame(t *testing.T, a, b string) {
	t.Helper()
	if out, err := exec.Command("diff", "-r", "--no-dereference", a, b).CombinedOutput(); err != nil {
		t.Errorf("the trees differ: %v\n%s", err, out)
	}
}

// makeTree makes one with all that a name may be.
func makeTree(t *testing.T, dir string, links bool) (files int) {
	t.Helper()
	for name, content := range map[string]string{
		"plain": "1", "-r": "2", "two words": "3", "line\nfeed": "4", "Grüße": "5", "empty": "", "sub/deep/er/f": "6", "sub/.hidden": "7", `quote"'$(x)`: "8",
		"big": string(random(1, 3<<20)),
	} {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		files++
	}
	if err := os.MkdirAll(filepath.Join(dir, "nothing/in it"), 0o755); err != nil {
		t.Fatal(err)
	}
	if !links {
		return files
	}
	if err := os.WriteFile(filepath.Join(dir, "\xff\xfe no text"), []byte("9"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("sub/deep", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	return files + 1
}

// TestTreesTravel: whole directories there and back, with odd names, empty directories and links; what is done is not done again, and what has
// changed on either side is. Rows 63, 64, 117, 123 and 127 to 130.
// Holds rows 63, 64, 79, 117, 123, 127, 128, 129 and 130 of the requirements.
func TestTreesTravel(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"sshd", "vsftpd"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			links := kind == "sshd"
			var s *stage
			if links {
				s = newStage(t, servers.SSHOptions{}, fresh)
			} else {
				s = newFTPStage(t, servers.FTPOptions{}, fresh)
			}
			h := newHand(t, s.daemon)
			from := filepath.Join(h.local, "from")
			files := makeTree(t, from, links)
			at := connection + ":/in/tree"
			if told := h.tree(0, "put", "-r", "--verify", "from", at); told.Files != files || told.Verified != files || told.Here != 0 || told.Failed != 0 {
				t.Errorf("put -r says %+v; want %d files, all verified", told, files)
			}
			wantSame(t, from, filepath.Join(s.behind, "in/tree"))
			if told := h.tree(0, "put", "-r", "from", at); told.Here != files || told.Files != files {
				t.Errorf("put -r of the same says %+v; want all %d to be there", told, files)
			}
			if err := os.WriteFile(filepath.Join(from, "plain"), []byte("another one"), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(s.behind, "in/tree/sub/.hidden"), []byte("somebody else's"), 0o644); err != nil {
				t.Fatal(err)
			}
			if told := h.tree(0, "put", "-r", "from", at); told.Here != files-2 {
				t.Errorf("put -r after a change on either side says %+v; want %d to be left alone", told, files-2)
			}
			wantSame(t, from, filepath.Join(s.behind, "in/tree"))

			if told := h.tree(0, "get", "-r", "--verify", at, "to"); told.Files != files || told.Verified != files || told.Failed != 0 {
				t.Errorf("get -r says %+v; want %d files", told, files)
			}
			wantSame(t, from, filepath.Join(h.local, "to"))
			if told := h.tree(0, "get", "-r", at, "to"); told.Here != files {
				t.Errorf("get -r of the same says %+v; want all %d to be here", told, files)
			}
			if err := os.WriteFile(filepath.Join(h.local, "to/plain"), []byte("damaged ???"), 0o644); err != nil {
				t.Fatal(err)
			}
			if told := h.tree(0, "get", "-r", at, "to"); told.Here != files-1 {
				t.Errorf("get -r where one file is another says %+v; want it alone to be got", told)
			}
			wantSame(t, from, filepath.Join(h.local, "to"))

			var listed struct {
				Count int
				Files []listedFile
			}
			if err := json.Unmarshal([]byte(h.run(0, "ls", "-R", at, "--json").Stdout), &listed); err != nil {
				t.Fatal(err)
			}
			var paths []string
			for _, f := range listed.Files {
				paths = append(paths, fmt.Sprint(f.Path))
			}
			if listed.Count != len(paths) || !slices.Contains(paths, "sub/deep/er/f") || !slices.Contains(paths, "nothing/in it") || !slices.Contains(paths, "line\nfeed") {
				t.Errorf("ls -R tells %q", paths)
			}
			if told := h.run(0, "ls", "-R", at).Stdout; strings.Contains(told, "line\nfeed") || !strings.Contains(told, "sub/deep/er/f") {
				t.Errorf("ls -R prints %q", told)
			}
			h.run(0, "mkdir", "-p", connection+":/done/2026")
			h.run(0, "mv", at+"/sub", connection+":/done/2026/")
			h.run(0, "mv", at+"/big", connection+":/done/big.1")
			has(t, filepath.Join(s.behind, "done/2026/sub/deep/er/f"), []byte("6"))
			if r := h.run(0, "stat", connection+":/done/big.1", "--json"); !strings.Contains(r.Stdout, `"size":3145728`) {
				t.Errorf("stat of a file that was moved across directories: %s", r.Stdout)
			}
			h.run(0, "rm", "-r", connection+":/in")
			if _, err := os.Lstat(filepath.Join(s.behind, "in")); !os.IsNotExist(err) {
				t.Errorf("rm -r leaves something: %v", err)
			}
		})
	}
}

// TestFiltersChooseFiles: rows 65 and 66.
func TestFiltersChooseFiles(t *testing.T) {
	t.Parallel()
	s := newStage(t, servers.SSHOptions{}, nil)
	h := newHand(t, s.daemon)
	for name, size := range map[string]int{"Invoice-1.csv": 10, "invoice-2.CSV": 20, "invoice-3.pdf": 3000, "notes.csv": 5} {
		if err := os.WriteFile(filepath.Join(s.behind, name), random(size, size), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(s.behind, "invoices"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		want string
		args []string
	}{
		{"Invoice-1.csv invoice-2.CSV invoice-3.pdf", []string{"--filter", "INVOICE"}},
		{"invoice-2.CSV invoice-3.pdf", []string{"--filter", "invoice", "--case-sensitive"}},
		{"Invoice-1.csv invoice-2.CSV notes.csv", []string{"--filter", ".csv", "--filter-type", "ENDS_WITH"}},
		{"notes.csv", []string{"--filter", "NOTES.CSV", "--filter-type", "exact-match"}},
		{"Invoice-1.csv invoice-2.CSV invoice-3.pdf", []string{"--filter", "voice", "--filter-type", "CONTAINS"}},
		{"Invoice-1.csv invoice-2.CSV", []string{"--filter", "inv*-?.csv", "--filter-type", "WILDCARD"}},
		{"Invoice-1.csv invoice-2.CSV", []string{"--filter", "inv", "--max-file-size-kb", "1"}},
		{"", []string{"--filter", "absent"}},
	} {
		var listed struct {
			Count   int
			Message string
			Files   []listedFile
		}
		if err := json.Unmarshal([]byte(h.run(0, append([]string{"ls", connection, "--json"}, test.args...)...).Stdout), &listed); err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, f := range listed.Files {
			names = append(names, fmt.Sprint(f.Name))
		}
		slices.Sort(names)
		if got := strings.Join(names, " "); got != test.want || listed.Count != len(names) || listed.Message == "" {
			t.Errorf("ls %q gives %q, count %d, %q; want %q", test.args, got, listed.Count, listed.Message, test.want)
		}
	}
	if n := strings.Count(h.run(0, "ls", connection, "--filter", "inv", "--first-match").Stdout, "\n"); n != 1 {
		t.Errorf("--first-match gives %d", n)
	}
	h.run(64, "ls", connection, "--filter", "x", "--filter-type", "SOUNDS_LIKE")
	var packed struct {
		Count int
		Files []struct {
			Name    string
			Content []byte
		}
	}
	if err := json.Unmarshal([]byte(h.run(0, "get", connection+":/", "--filter", "inv", "-o", "JSON_BASE64").Stdout), &packed); err != nil {
		t.Fatal(err)
	}
	if packed.Count != 3 || len(packed.Files) != 3 {
		t.Errorf("JSON_BASE64 has %d files", packed.Count)
	}
	for _, f := range packed.Files {
		has(t, filepath.Join(s.behind, f.Name), f.Content)
	}
	if told := h.run(0, "get", connection+":/", "--filter", "absent", "-o", "JSON_BASE64").Stdout; !strings.Contains(told, `"count":0`) {
		t.Errorf("JSON_BASE64 of nothing is %q", told)
	}
	h.run(0, "get", connection+":/", "--filter", "inv", "-o", "ZIP", "all.zip")
	if out, err := exec.Command("unzip", "-t", filepath.Join(h.local, "all.zip")).CombinedOutput(); err != nil || !strings.Contains(string(out), "invoice-2.CSV") {
		t.Errorf("the ZIP: %v\n%s", err, out)
	}
	h.run(66, "get", connection+":/", "--filter", "absent", "-o", "ZIP", "none.zip")
	if _, err := os.Stat(filepath.Join(h.local, "none.zip")); !os.IsNotExist(err) {
		t.Errorf("a ZIP of nothing: %v", err)
	}
	if told := h.tree(0, "get", connection+":/", "csv", "--filter", ".csv", "--filter-type", "ENDS_WITH"); told.Files != 3 {
		t.Errorf("get with a filter says %+v", told)
	}
}

// TestNewFilesAreGotOnce: what a nightly timer calls. Row 68.
func TestNewFilesAreGotOnce(t *testing.T) {
	t.Parallel()
	s := newStage(t, servers.SSHOptions{}, fresh)
	h := newHand(t, s.daemon)
	write := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(s.behind, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	get := func(want int) {
		t.Helper()
		if told := h.tree(0, "get", "--new-only", connection+":/", "in"); told.Files != want || told.Failed != 0 {
			t.Errorf("get --new-only says %+v; want %d files", told, want)
		}
	}
	write("a", "1")
	write("b", "2")
	get(2)
	if err := os.RemoveAll(filepath.Join(h.local, "in", "a")); err != nil { // whoever works on it has taken it away
		t.Fatal(err)
	}
	get(0)
	write("c", "3")
	write("b", "changed")
	if err := os.Chtimes(filepath.Join(s.behind, "b"), time.Now(), time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	get(2)
	has(t, filepath.Join(h.local, "in", "b"), []byte("changed"))
	if _, err := os.Stat(filepath.Join(h.local, "in", "a")); !os.IsNotExist(err) {
		t.Errorf("what was taken away is there again: %v", err)
	}
}

// TestGetGoesOn: a transfer that was interrupted says how to go on, goes on where it was, and never makes one file of two versions. Rows 66
// and 75.
// Holds rows 66 and 75 of the requirements.
func TestGetGoesOn(t *testing.T) {
	t.Parallel()
	s := newStage(t, servers.SSHOptions{}, daemon.Fields{"rateLimit": "4MiB", "metadataTTL": 0})
	h := newHand(t, s.daemon)
	const size = 6 << 20
	old := time.Now().Add(-time.Hour).Truncate(time.Second)
	behind := filepath.Join(s.behind, "big")
	write := func(content []byte, at time.Time) {
		t.Helper()
		if err := os.WriteFile(behind, content, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(behind, at, at); err != nil {
			t.Fatal(err)
		}
	}
	interrupt := func(args ...string) string {
		t.Helper()
		cmd := exec.Command(filepath.Join(binaries(t), "pierfs"), append(args, "--runtime-dir", s.daemon.RuntimeDir)...)
		cmd.Dir, cmd.Env = h.local, append(os.Environ(), h.env...)
		p := process.Start(t, cmd)
		deadline := time.Now().Add(process.Patience)
		for part := 0; part < 1<<20; { // until something of it is here
			if time.Now().After(deadline) {
				t.Fatalf("nothing comes\n%s", p.Log)
			}
			time.Sleep(10 * time.Millisecond)
			found, _ := filepath.Glob(filepath.Join(h.local, args[len(args)-1], ".pierfs-*.part"))
			beside, _ := filepath.Glob(filepath.Join(h.local, ".pierfs-*.part"))
			for _, name := range append(found, beside...) {
				if info, err := os.Stat(name); err == nil {
					part = int(info.Size())
				}
			}
		}
		p.Signal(syscall.SIGINT)
		if status := p.Wait(t, process.Patience); status != 74 {
			t.Errorf("an interrupted get ends with %d\n%s", status, p.Log)
		}
		return p.Log.String()
	}
	first := random(1, size)
	write(first, old)
	if told := interrupt("get", "--resume", connection+":/big", "big"); !strings.Contains(told, "--resume goes on") {
		t.Errorf("an interrupted get says %q", told)
	}
	if _, err := os.Stat(filepath.Join(h.local, "big")); !os.IsNotExist(err) {
		t.Errorf("a part has the name: %v", err)
	}
	var got struct{ Bytes int64 }
	if err := json.Unmarshal([]byte(h.run(0, "get", "--resume", "--verify", connection+":/big", "big", "--json").Stdout), &got); err != nil {
		t.Fatal(err)
	}
	if got.Bytes == 0 || got.Bytes > size-1<<20 {
		t.Errorf("the second get moved %d bytes of %d", got.Bytes, size)
	}
	has(t, filepath.Join(h.local, "big"), first)

	second := random(2, size)
	if told := interrupt("get", "-r", connection+":/", "tree"); !strings.Contains(told, "goes on with the rest") {
		t.Errorf("an interrupted get -r says %q", told)
	}
	write(second, old.Add(time.Minute))
	if told := h.tree(0, "get", "-r", connection+":/", "tree"); told.Files != 1 || told.Failed != 0 {
		t.Errorf("get -r of a file that has changed since says %+v", told)
	}
	has(t, filepath.Join(h.local, "tree", "big"), second)
}

// TestPutGoesOn: a large file that was being put and was cut has no name at the server, and only the rest of it is sent the next time, unless
// somebody has touched what was there.
// Holds row 75 of the requirements.
func TestPutGoesOn(t *testing.T) {
	t.Parallel()
	const size, segment = 24 << 20, 16 << 20
	fields := daemon.Fields{"rateLimit": "24MiB", "metadataTTL": 0}
	for kind, newStage := range map[string]func() *stage{
		"sshd":   func() *stage { return newStage(t, servers.SSHOptions{}, fields) },
		"vsftpd": func() *stage { return newFTPStage(t, servers.FTPOptions{}, fields) },
	} {
		t.Run(kind, func(t *testing.T) {
			s := newStage()
			h := newHand(t, s.daemon)
			parts := func() []string {
				found, _ := filepath.Glob(filepath.Join(s.behind, ".pierfs-*.part"))
				return found
			}
			content := random(1, size)
			if err := os.WriteFile(filepath.Join(h.local, "big"), content, 0o644); err != nil {
				t.Fatal(err)
			}
			interrupt := func() string {
				cmd := exec.Command(filepath.Join(binaries(t), "pierfs"), "put", "--resume", "big", connection+":/big", "--runtime-dir", s.daemon.RuntimeDir)
				cmd.Dir, cmd.Env = h.local, append(os.Environ(), h.env...)
				p := process.Start(t, cmd)
				for deadline := time.Now().Add(process.Patience); ; time.Sleep(5 * time.Millisecond) {
					if found := parts(); len(found) == 1 {
						if info, err := os.Stat(found[0]); err == nil && info.Size() >= segment {
							break
						}
					}
					if time.Now().After(deadline) {
						t.Fatalf("nothing arrives\n%s", p.Log)
					}
				}
				p.Signal(syscall.SIGINT)
				if status := p.Wait(t, process.Patience); status != 74 || !strings.Contains(p.Log.String(), "--resume goes on") {
					t.Errorf("an interrupted put ends with %d\n%s", status, p.Log)
				}
				if _, err := os.Stat(filepath.Join(s.behind, "big")); !os.IsNotExist(err) {
					t.Fatalf("a part has the name: %v", err)
				}
				return parts()[0]
			}
			goOn := func(most float64) {
				t.Helper()
				before := written(t, s.daemon)
				h.run(0, "put", "--resume", "--verify", "big", connection+":/big")
				if sent := written(t, s.daemon) - before; sent > most {
					t.Errorf("%.0f bytes were sent, want %.0f at the most of %d", sent, most, size)
				}
				has(t, filepath.Join(s.behind, "big"), content)
				if left := parts(); len(left) > 0 {
					t.Errorf("left: %q", left)
				}
			}
			interrupt()
			goOn(size - segment)
			if err := os.Remove(filepath.Join(s.behind, "big")); err != nil {
				t.Fatal(err)
			}
			part, err := os.OpenFile(interrupt(), os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer part.Close()
			if _, err := part.WriteAt([]byte{content[5] + 1}, 5); err != nil {
				t.Fatal(err)
			}
			if err := part.Truncate(segment); err != nil { // as it was left, but for its time and that byte
				t.Fatal(err)
			}
			goOn(size)
		})
	}
}

// TestPutInOnePieceWhereNothingIsRenamed: with tempName = "none" --resume gathers nothing beside the name.
func TestPutInOnePieceWhereNothingIsRenamed(t *testing.T) {
	t.Parallel()
	server := servers.NewFTP(t, servers.FTPOptions{})
	s := stageOf(t, server, servers.FTPOptions{}, daemon.Fields{"tempName": "none"})
	h := newHand(t, s.daemon)
	if err := os.WriteFile(filepath.Join(h.local, "f"), []byte("in one piece"), 0o644); err != nil {
		t.Fatal(err)
	}
	h.run(0, "put", "--resume", "--verify", "f", connection+":/f")
	has(t, filepath.Join(s.behind, "f"), []byte("in one piece"))
	for _, command := range server.Commands(t) {
		if strings.HasPrefix(command, "RNFR") || strings.Contains(command, ".part") {
			t.Errorf("the server was told %q", command)
		}
	}
}

// written is how much content has gone to servers.
func written(t *testing.T, d *daemon.Daemon) float64 {
	t.Helper()
	var told struct {
		Metrics []struct {
			Name    string
			Samples []struct{ Value float64 }
		}
	}
	if err := json.Unmarshal([]byte(d.Pierfs(t, "metrics", "--json").Stdout), &told); err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, m := range told.Metrics {
		for _, s := range m.Samples {
			if m.Name == "pierfs_written_bytes_total" {
				sum += s.Value
			}
		}
	}
	return sum
}

// TestFilesWithoutADaemon: file verbs work where no daemon runs and nothing can be mounted, and leave nothing running; and with a daemon whose
// connection was unmounted by hand.
// Holds rows 63, 64, 117, 123, 127, 128, 129 and 130 of the requirements.
func TestFilesWithoutADaemon(t *testing.T) {
	t.Parallel()
	server := servers.NewSSHD(t, servers.SSHOptions{})
	d := newDaemon(t)
	d.Define(t, connection, daemon.To(t, server, nil))
	d.Define(t, "off", daemon.To(t, server, daemon.Fields{"enabled": false}))
	h := newHand(t, d)
	work := func(round string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(h.local, "f"), []byte(round), 0o644); err != nil {
			t.Fatal(err)
		}
		h.run(0, "put", "--verify", "f", connection+":/"+round+"/")
		has(t, filepath.Join(server.Dir, round, "f"), []byte(round))
		h.run(0, "get", connection+":/"+round+"/f", "back")
		has(t, filepath.Join(h.local, "back"), []byte(round))
		if told := h.run(0, "ls", "-R", connection).Stdout; !strings.Contains(told, round+"/f") {
			t.Errorf("ls -R tells %q", told)
		}
		h.run(0, "mv", connection+":/"+round+"/f", connection+":/moved-"+round)
		h.run(0, "rm", "-r", connection+":/"+round)
		h.run(69, "ls", "off")
	}
	for _, round := range []string{"private", "unmounted"} {
		if err := os.Mkdir(filepath.Join(server.Dir, round), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("chown", "-R", "--reference", server.Dir, server.Dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	h.more = []string{"--config-dir", d.ConfigDir}
	work("private")
	h.more = nil
	if pids := pidsOf(t, d.Dir); len(pids) > 0 {
		t.Errorf("processes %v are left of a hand's own daemon", pids)
	}
	d.Start(t)
	d.AwaitState(t, connection, "ready", process.Patience)
	h.run(0, "umount", connection)
	work("unmounted")
	h.run(0, "mount", connection)
	d.AwaitState(t, connection, "ready", process.Patience)
	if told := h.run(0, "ls", connection).Stdout; !strings.Contains(told, "moved-unmounted") {
		t.Errorf("ls of the mounted connection tells %q", told)
	}
}

// TestTraceTellsWhatWasSaid: what failed can be looked at in the server's own words, and no secret is in it. Row 105.
func TestTraceTellsWhatWasSaid(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"sshd", "vsftpd"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			var s *stage
			want := []string{"OPENDIR ", "STATUS ", "auth took"}
			if kind == "sshd" {
				s = newStage(t, servers.SSHOptions{}, fresh)
			} else {
				s = newFTPStage(t, servers.FTPOptions{}, fresh)
				want = []string{"> USER ", "> PASS ****", "< 230 ", "auth took"}
			}
			run := func(want int, args ...string) string {
				t.Helper()
				r := s.daemon.Pierfs(t, args...)
				if r.Status != want {
					t.Errorf("pierfs %s: exit %d, want %d\n%s%s", strings.Join(args, " "), r.Status, want, r.Stdout, r.Stderr)
				}
				return r.Stdout + r.Stderr
			}
			run(0, "ls", connection)
			run(66, "stat", connection+":/absent")
			told := run(0, "trace", connection)
			for _, want := range want {
				if !strings.Contains(told, want) {
					t.Errorf("the trace does not tell of %q:\n%s", want, told)
				}
			}
			const canary = "canary-5up3r-s3cret"
			definition, err := os.ReadFile(filepath.Join(s.daemon.ConfigDir, "connections", connection+".toml"))
			if err != nil {
				t.Fatal(err)
			}
			var lines []string
			for line := range strings.Lines(string(definition)) {
				if strings.HasPrefix(line, "password") {
					line = "password = \"" + canary + "\"\n"
				}
				lines = append(lines, line)
			}
			file := filepath.Join(t.TempDir(), "wrong.toml")
			if err := os.WriteFile(file, []byte(strings.Join(lines, "")), 0o600); err != nil {
				t.Fatal(err)
			}
			failed := run(77, "test", "-v", file)
			if kind == "vsftpd" && !strings.Contains(failed, "< 530 ") || !strings.Contains(failed, "auth failed after") {
				t.Errorf("a test that fails does not show what was said:\n%s", failed)
			}
			if strings.Contains(told+failed, canary) {
				t.Errorf("the password is told:\n%s%s", told, failed)
			}
		})
	}
}

// TestManyUsersOfOneConnection: commands and programs that use one connection at once do not meet, and the server sees no more sessions than the
// definition allows. Row 67.
func TestManyUsersOfOneConnection(t *testing.T) {
	t.Parallel()
	const users, sessions = 6, 3
	server := servers.NewFTP(t, servers.FTPOptions{})
	s := stageOf(t, server, servers.FTPOptions{}, daemon.Fields{"maxSessions": sessions})
	h := newHand(t, s.daemon)
	var waiting sync.WaitGroup
	for user := range users {
		content := random(user+1, 200<<10+user)
		name := fmt.Sprintf("user%d", user)
		if err := os.WriteFile(filepath.Join(h.local, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
		waiting.Go(func() {
			h.run(0, "put", name, connection+":/"+name)
			h.run(0, "get", connection+":/"+name, name+".back")
			has(t, filepath.Join(h.local, name+".back"), content)
		})
		waiting.Go(func() {
			through := filepath.Join(s.mount, name+".mount")
			if err := put(through, content); err != nil {
				t.Errorf("write %s through the mount: %v", name, err)
			}
			has(t, through, content)
		})
	}
	done := make(chan struct{})
	go func() { waiting.Wait(); close(done) }()
	for most := 0; ; {
		most = max(most, server.Sessions(t))
		select {
		case <-done:
			if most == 0 || most > sessions {
				t.Errorf("the server saw %d sessions at once; want at least one and at most %d", most, sessions)
			}
			for user := range users {
				for _, name := range []string{fmt.Sprintf("user%d", user), fmt.Sprintf("user%d.mount", user)} {
					has(t, filepath.Join(s.behind, name), random(user+1, 200<<10+user))
				}
			}
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// TestDryRunsOfFiles: every verb of files tells with --dry-run what it would do, and does nothing on either side.
// Holds row 19 of the requirements.
func TestDryRunsOfFiles(t *testing.T) {
	t.Parallel()
	s := newStage(t, servers.SSHOptions{}, fresh)
	h := newHand(t, s.daemon)
	from := filepath.Join(h.local, "from")
	makeTree(t, from, false)
	if err := os.CopyFS(filepath.Join(s.behind, "d"), os.DirFS(filepath.Join(from, "sub"))); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.behind, "plain"), []byte("there before"), 0o644); err != nil {
		t.Fatal(err)
	}
	before := listed(t, h.local) + listed(t, s.behind)
	at := func(name string) string { return connection + ":/" + name }
	for _, c := range []struct {
		status int
		want   string
		args   []string
	}{
		{0, "would be put: /plain, 1 B, in place of a file of 12 B", []string{"put", "from/plain", at("")}},
		{73, "exists", []string{"put", "-n", "from/plain", at("plain")}},
		{66, "no such", []string{"put", "from/plain", at("nowhere/plain")}},
		{0, "would be put: /new/sub/deep/er/f, 1 B", []string{"put", "-r", "from", at("new")}},
		{0, "would be got: /plain to from/plain, 12 B, in place of a file of 1 B", []string{"get", at("plain"), "from"}},
		{0, "would be got: /d/deep/er/f to to/deep/er/f, 1 B", []string{"get", "-r", at("d"), "to"}},
		{0, "would be removed: /d/deep/er/f, 1 B", []string{"rm", "-r", at("d")}},
		{64, "is a directory", []string{"rm", at("d")}},
		{73, "not empty", []string{"rm", "-d", at("d")}},
		{0, "would be renamed: /plain to /d/plain", []string{"mv", at("plain"), at("d")}},
		{66, "no such", []string{"mv", at("none"), at("d")}},
		{73, "exists", []string{"mv", "-n", at("plain"), at("plain")}},
		{0, "would be made: /e/f/", []string{"mkdir", "-p", at("e/f")}},
		{73, "exists", []string{"mkdir", at("d")}},
		{66, "no such", []string{"mkdir", at("e/f")}},
	} {
		args := append(c.args, "--dry-run")
		r := h.run(c.status, args...)
		if !strings.Contains(r.Stdout+r.Stderr, c.want) {
			t.Errorf("pierfs %s says\n%s%s; want %q", strings.Join(args, " "), r.Stdout, r.Stderr, c.want)
		}
		if c.status == 0 {
			var told struct{ Would []struct{ Do string } }
			if r := h.run(0, append(args, "--json")...); json.Unmarshal([]byte(r.Stdout), &told) != nil || len(told.Would) == 0 {
				t.Errorf("pierfs %s --json says %s", strings.Join(args, " "), r.Stdout)
			}
		}
		if after := listed(t, h.local) + listed(t, s.behind); after != before {
			t.Fatalf("after pierfs %s there is\n%s\nand there was\n%s", strings.Join(args, " "), after, before)
		}
	}
}

// listed is a directory's names, kinds, sizes and times.
func listed(t *testing.T, dir string) string {
	t.Helper()
	out, err := exec.Command("find", dir, "-printf", "%P %y %s %T@\\n").CombinedOutput()
	if err != nil {
		t.Fatalf("find %s: %v\n%s", dir, err, out)
	}
	lines := strings.Split(string(out), "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
