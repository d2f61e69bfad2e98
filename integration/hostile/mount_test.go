package hostile

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"pierfs/integration/daemon"
	"pierfs/integration/process"
)

// patience is what a program may wait for one system call: the budget of the connection, and what a machine adds that runs
// a daemon for each test.
const patience = limit + 2*slack

// stage is a daemon with one mount of an honest server, which has to serve whatever is done to others, and mounts of
// hostile ones.
type stage struct {
	t      *testing.T
	daemon *daemon.Daemon
	honest *Server

	secrets []string // of servers of FTP, that the daemon's log must not tell
}

const honest = "honest"

// newStage prepares a daemon; it is started when all connections are defined.
func newStage(t *testing.T) *stage {
	t.Helper()
	programs, err := built()
	if err != nil {
		t.Fatal(err)
	}
	s := &stage{t: t, daemon: daemon.New(t, programs), honest: New(t, Manner{})}
	furnish(s.honest)
	// Nobody waits for its timeouts: it is to serve however slow the machine is.
	s.define(honest, s.honest, daemon.Fields{"timeout": "30s", "retryCount": 3})
	return s
}

// define defines a connection to server.
func (s *stage) define(name string, server *Server, more daemon.Fields) {
	s.t.Helper()
	fields := daemon.Fields{
		"protocol": "SFTP", "host": server.Host, "port": server.Port, "username": server.User, "password": server.Password,
		"workingDir": server.Root, "hostKey": server.Fingerprint(), "timeout": timeout.String(), "allowOddTimeout": true, "retryCount": retries,
	}
	maps.Copy(fields, more)
	s.daemon.Define(s.t, name, fields)
}

// start starts the daemon. When the test ends the daemon must be alive, small and tight-lipped.
func (s *stage) start(servers ...*Server) {
	s.t.Helper()
	s.daemon.Start(s.t)
	s.daemon.AwaitState(s.t, honest, "ready", process.Patience)
	pid := s.daemon.Pid()
	s.t.Cleanup(func() {
		if got, err := os.ReadFile(s.at(honest, "file")); err != nil || string(got) != "abc" {
			s.t.Errorf("at the end the honest mount has %q, %v", got, err)
		}
		if size := highWater(s.t, strconv.Itoa(pid)); size > most {
			s.t.Errorf("the daemon took %d MiB", size>>20)
		}
		log := s.daemon.Log()
		for _, bad := range []string{"panic", "goroutine ", "DATA RACE"} {
			if at := strings.Index(log, bad); at >= 0 {
				s.t.Errorf("the daemon's log has %q:\n%.4000s", bad, log[max(0, at-500):])
			}
		}
		for _, server := range append(servers, s.honest) {
			s.secrets = append(s.secrets, server.Password)
		}
		for _, secret := range s.secrets {
			if strings.Contains(log, secret) {
				s.t.Error("the daemon's log has a password in it")
			}
		}
	})
}

func (s *stage) at(connection, name string) string {
	return filepath.Join(s.daemon.Mount(connection), name)
}

// mostSlow is how many reads of the honest mount may be slow while others are attacked: a machine that stands still for a
// moment makes one slow, an attack that holds up the daemon makes nearly all.
const mostSlow = 3

// watch reads from the honest mount over and over until the func that it returns is called, and fails the test if reads take
// long or have the wrong bytes.
func (s *stage) watch() (stop func()) {
	ended := make(chan struct{})
	var watcher sync.WaitGroup
	watcher.Go(func() {
		var slow []time.Duration
		for n := 0; ; n++ {
			select {
			case <-ended:
				if len(slow) > mostSlow {
					s.t.Errorf("of %d reads of a small file from the honest mount %d were slow: %v", n, len(slow), slow)
				}
				return
			case <-time.After(50 * time.Millisecond):
			}
			name := fmt.Sprintf("file-%d", n)
			s.honest.Put(name, File{Data: name})
			begun := time.Now()
			got, err := os.ReadFile(s.at(honest, name))
			if err != nil || string(got) != name {
				s.t.Errorf("the honest mount has %q, %v; want %q", got, err, name)
				return
			}
			if took := time.Since(begun); took > 2*time.Second {
				slow = append(slow, took)
			}
		}
	})
	return func() { close(ended); watcher.Wait() }
}

// meets lists the root of a mount whose server is honest yet, again and again until it can.
func (s *stage) meets(name string) {
	s.t.Helper()
	err := does(s.t, process.Patience, name+": the first look", func() error {
		for {
			_, err := os.ReadDir(s.daemon.Mount(name))
			if err == nil || s.t.Context().Err() != nil {
				return err
			}
			pause(s.t.Context())
		}
	})
	if err != nil {
		s.t.Errorf("%s: an honest server cannot be listed: %v", name, err)
	}
}

// does runs f, which makes system calls on a mount, and returns its error. If f takes longer than limit the test fails,
// and f is left behind until the daemon's end frees it.
func does(t *testing.T, limit time.Duration, what string, f func() error) error {
	t.Helper()
	result := make(chan error, 1)
	go func() { result <- f() }()
	err, ok := process.Await(result, limit)
	if !ok {
		t.Errorf("%s takes longer than %v", what, limit)
		return os.ErrDeadlineExceeded
	}
	return err
}

// put writes a file as programs do, and returns the first error, that of close among them.
func put(name, content string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(content)
	return errors.Join(err, f.Close())
}

// deeds are what programs do in a mount, each on files of its own.
var deeds = []struct {
	name string
	do   func(dir string) error
}{
	{"stat", func(dir string) error { _, err := os.Lstat(filepath.Join(dir, "stat")); return err }},
	{"read", func(dir string) error {
		got, err := os.ReadFile(filepath.Join(dir, "read"))
		if err == nil && string(got) != "read" {
			err = untrue("content %.40q", got)
		}
		return err
	}},
	{"list", func(dir string) error {
		entries, err := os.ReadDir(filepath.Join(dir, "list"))
		if err == nil && len(entries) != 2 {
			err = untrue("%d entries", len(entries))
		}
		return err
	}},
	{"write", func(dir string) error { return put(filepath.Join(dir, "write"), content) }},
	{"write anew", func(dir string) error { return put(filepath.Join(dir, "new"), content) }},
	{"append", func(dir string) error {
		f, err := os.OpenFile(filepath.Join(dir, "append"), os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteString("more")
		return errors.Join(err, f.Sync(), f.Close())
	}},
	{"mkdir", func(dir string) error { return os.Mkdir(filepath.Join(dir, "mkdir"), 0o755) }},
	{"remove", func(dir string) error { return syscall.Unlink(filepath.Join(dir, "remove")) }},
	{"rmdir", func(dir string) error { return syscall.Rmdir(filepath.Join(dir, "rmdir")) }},
	{"rename", func(dir string) error { return os.Rename(filepath.Join(dir, "rename"), filepath.Join(dir, "renamed")) }},
	{"chmod", func(dir string) error { return os.Chmod(filepath.Join(dir, "chmod"), 0o600) }},
	{"truncate", func(dir string) error { return os.Truncate(filepath.Join(dir, "truncate"), 3) }},
	{"symlink", func(dir string) error { return os.Symlink("read", filepath.Join(dir, "symlink")) }},
	{"readlink", func(dir string) error { _, err := os.Readlink(filepath.Join(dir, "readlink")); return err }},
	{"link", func(dir string) error { return os.Link(filepath.Join(dir, "link"), filepath.Join(dir, "linked")) }},
	{"statfs", func(dir string) error { return syscall.Statfs(dir, new(syscall.Statfs_t)) }},
}

// furnishDeeds puts what the deeds work on into the working directory.
func furnishDeeds(s *Server) {
	for _, name := range []string{"stat", "read", "write", "append", "remove", "rename", "chmod", "truncate", "link"} {
		s.Put(name, File{Data: name})
	}
	s.Put("list/1", File{})
	s.Put("list/2", File{})
	s.Put("rmdir", Dir())
	s.Put("readlink", Link("read"))
}

// TestDaemonUnderAttack is the third row of the threat table as a whole: while connections are served every kind of
// nonsense and silence, no program hangs, the daemon lives and stays small, and the honest mount serves as ever.
func TestDaemonUnderAttack(t *testing.T) {
	t.Parallel()
	attacks := map[string]Rule{"mute": Mute(allOps()...), "stall": Stall(allOps()...), "cut": Cuts(allOps()...), "refused": Refuses(Failure, allOps()...),
		"denied": Refuses(Denied, allOps()...)}
	for i, breach := range Breaches() {
		attacks[fmt.Sprintf("breach-%d", i)] = breach.Rule(allOps()...)
	}
	s := newStage(t)
	servers := map[string]*Server{}
	for name := range attacks {
		server := New(t, Manner{})
		furnishDeeds(server)
		servers[name] = server
		s.define(name, server, nil)
	}
	s.start(slices.Collect(maps.Values(servers))...)
	stop := s.watch()
	var attack sync.WaitGroup
	turns := make(chan struct{}, 8) // so many attacks at once
	for name, rule := range attacks {
		attack.Go(func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			server, dir := servers[name], s.daemon.Mount(name)
			s.meets(name)
			server.Behave(Manner{Rules: []Rule{rule}})
			for _, deed := range deeds {
				err := does(t, patience, name+": "+deed.name, func() error { return deed.do(dir) })
				if err == nil && strings.HasPrefix(deed.name, "write") && name != "stat" {
					if f, _ := server.Get(map[string]string{"write": "write", "write anew": "new"}[deed.name]); f.Data != content {
						t.Errorf("%s: %s succeeded, and the server has %d bytes of %d", name, deed.name, len(f.Data), len(content))
					}
				}
			}
		})
	}
	attack.Wait()
	stop()
}

// TestMountNames is the first row through the mount, and the twentieth: what `pierfs ls` prints cannot move the cursor.
// Holds rows 24 and 77 of the requirements.
func TestMountNames(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	server := New(t, Manner{Rules: []Rule{Lists("dir", BadNames()...)}})
	furnish(server)
	want := []string{"a", "b"}
	for _, name := range OddNames() {
		server.Put("dir/"+name, File{Data: name})
		want = append(want, name)
	}
	slices.Sort(want)
	s.define("names", server, nil)
	s.start(server)

	var got []string
	if err := does(t, patience, "list", func() error {
		entries, err := os.ReadDir(s.at("names", "dir"))
		for _, e := range entries {
			got = append(got, e.Name())
		}
		return err
	}); err != nil {
		t.Errorf("list: %v", err)
	}
	if slices.Sort(got); !slices.Equal(got, want) {
		t.Errorf("the directory has\n%q, want\n%q", got, want)
	}
	for _, name := range OddNames() {
		if err := does(t, patience, "read", func() error {
			content, err := os.ReadFile(s.at("names", filepath.Join("dir", name)))
			if err == nil && string(content) != name {
				err = untrue("content %q", content)
			}
			return err
		}); err != nil {
			t.Errorf("read %q: %v", name, err)
		}
	}
	for _, args := range [][]string{{"ls", "names:/dir"}, {"ls", "names:/dir", "--json"}, {"stat", "names:/dir/" + OddNames()[0]},
		{"stat", "names:/dir/no\x1b[2J"}, {"get", "names:/dir/no\x1b]0;x\a", "-"}, {"rm", "names:/no/\u009b31m"}} {
		r := s.daemon.Pierfs(t, args...)
		for where, out := range map[string]string{"output": r.Stdout, "errors": r.Stderr} {
			if at := control.FindString(out); at != "" {
				t.Errorf("pierfs %q: a terminal is sent %q in its %s:\n%q", args, at, where, out)
			}
		}
	}
	r := s.daemon.Pierfs(t, "ls", "names:/dir")
	if lines := strings.Count(r.Stdout, "\n"); r.Status != 0 || lines < len(want) || lines > len(want)+2 {
		t.Errorf("pierfs ls prints %d lines for %d names (exit %d):\n%s%s", lines, len(want), r.Status, r.Stdout, r.Stderr)
	}
}

// TestWordsOfTheServer: what a server says for people, in greetings, refusals and errors, cannot move the cursor either.
func TestWordsOfTheServer(t *testing.T) {
	t.Parallel()
	const words = "\x1b[2J\x1b]0;pwned\a\u009b31m\r\n\x9b31m"
	status := append(number(uint32(Failure)), append(text(words), text("en")...)...)
	denied := append(number(uint32(Denied)), append(text(words), text("en")...)...)
	s := newStage(t)
	manners := map[string]Manner{
		"status":  {Rules: []Rule{Answers(kindStatus, status, allOps()...)}},
		"denied":  {Rules: []Rule{Answers(kindStatus, denied, Opendir, Open, Mkdir, Remove, Rename, PosixRename)}},
		"foreign": {Wire: SaysAndCuts("220 " + words)},
		"version": {Wire: SaysAndCuts("SSH-2.0-" + words)},
		"banner":  {Login: Banners(3, words)},
		"root":    {Rules: []Rule{Answers(kindName, slices.Concat(number(1), text("/"+words), text(words), number(0)), Realpath)}},
	}
	var servers []*Server
	for name, m := range manners {
		server := New(t, m)
		furnish(server)
		servers = append(servers, server)
		s.define(name, server, nil)
	}
	s.start(servers...)
	commands := [][]string{{"list"}, {"status"}, {"list", "--json"}, {"status", "--json"}}
	for name := range manners {
		for _, verb := range [][]string{{"test", name}, {"show", name}, {"ls", name + ":/"}, {"mkdir", name + ":/d"}, {"rm", name + ":/file"}, {"get", name + ":/file", "-"}} {
			commands = append(commands, verb, append(slices.Clone(verb), "--json"))
		}
	}
	var all sync.WaitGroup
	turns := make(chan struct{}, 4)
	for _, args := range commands {
		all.Go(func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			r := s.daemon.Pierfs(t, args...)
			for where, out := range map[string]string{"output": r.Stdout, "errors": r.Stderr} {
				if at := control.FindString(out); at != "" {
					t.Errorf("pierfs %q: a terminal is sent %q in its %s:\n%q", args, at, where, out)
				}
			}
			if r.Took > 4*patience {
				t.Errorf("pierfs %q took %v", args, r.Took)
			}
		})
	}
	all.Wait()
	if at := control.FindString(s.daemon.Log()); at != "" {
		t.Errorf("the daemon's log has %q in it", at)
	}
}

// TestMountLinks is the second row through the mount, where the kernel follows links: it must get nowhere.
// Holds rows 24 and 77 of the requirements.
func TestMountLinks(t *testing.T) {
	t.Parallel()
	local, err := os.ReadFile("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	s := newStage(t)
	server := New(t, Manner{})
	furnish(server)
	up := strings.Repeat("../", 20)
	outside := map[string]string{
		"passwd": "/etc/passwd", "up": up + "etc/passwd", "dir/up": "../" + up + "etc/passwd", "proc": "/proc/self/environ",
		"sly": "dir/" + up + "etc/passwd", "one": "../etc/passwd", "indirect": "passwd", "through": "deep/er/top/" + up + "etc/passwd",
	}
	for name, target := range outside {
		server.Put(name, Link(target))
	}
	server.Put("deep/er/top", Link("../.."))
	server.Put("rootlink", Link("/"))
	server.Put("uplink", Link(".."))
	server.Put("self", Link("self"))
	server.Put("good", Link("dir/../file"))
	s.define("links", server, nil)
	s.start(server)
	for name := range outside {
		for what, f := range map[string]func() ([]byte, error){
			"read": func() ([]byte, error) { return os.ReadFile(s.at("links", name)) },
			"append": func() ([]byte, error) {
				f, err := os.OpenFile(s.at("links", name), os.O_RDWR|os.O_APPEND, 0)
				if err == nil {
					err = errors.Join(untrue("opened"), f.Close())
				}
				return nil, err
			},
		} {
			var got []byte
			err := does(t, patience, what, func() (err error) { got, err = f(); return err })
			if err == nil || errors.Is(err, errUntrue) || bytes.Equal(got, local) || string(got) == Outside {
				t.Errorf("%s of %q, which leads out, has %.40q, %v", what, name, got, err)
			}
		}
	}
	for _, name := range []string{"rootlink/etc/passwd", "uplink/" + honest + "/file", "uplink/../../etc/passwd", "self"} {
		if err := does(t, patience, "read", func() error { _, err := os.ReadFile(s.at("links", name)); return err }); err == nil {
			t.Errorf("%q could be read", name)
		}
	}
	if err := does(t, patience, "read", func() error {
		got, err := os.ReadFile(s.at("links", "good"))
		if err == nil && string(got) != "abc" {
			err = untrue("content %q", got)
		}
		return err
	}); err != nil {
		t.Errorf("a link that stays inside: %v", err)
	}
	for _, verb := range []string{"passwd", "through", "rootlink/etc/passwd"} {
		if r := s.daemon.Pierfs(t, "get", "links:/"+verb, "-"); r.Status == 0 || strings.Contains(r.Stdout, "root:") {
			t.Errorf("pierfs get of %q, which leads out, ends with %d and prints %.40q", verb, r.Status, r.Stdout)
		}
	}
}

// TestLinkWhoseDirectoryMoves: a link that stays inside where it is would lead out from a directory nearer to the root. The
// kernel remembers the content of links; it must not go by that when the directory has moved.
func TestLinkWhoseDirectoryMoves(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	server := New(t, Manner{})
	furnish(server)
	// From a/b/c/d/e the mount's root is five steps up; from e as many lead to the root of this machine or near it.
	server.Put("a/b/c/d/e/link", Link("../../../../../dir/a"))
	server.Put("a/b/c/d/e/f/g/h/i/j/link", Link(strings.Repeat("../", 10)+"file"))
	s.define("links", server, nil)
	s.start(server)
	for _, moves := range []struct{ dir, link string }{{"a/b/c/d/e/f/g/h/i/j", "a/b/c/d/e/f/g/h/i/j/link"}, {"a/b/c/d/e", "a/b/c/d/e/link"}} {
		if err := does(t, patience, "read", func() error { _, err := os.ReadFile(s.at("links", moves.link)); return err }); err != nil {
			t.Errorf("a link that stays inside: %v", err)
		}
		moved := "moved-" + filepath.Base(moves.dir)
		if err := does(t, patience, "rename", func() error { return os.Rename(s.at("links", moves.dir), s.at("links", moved)) }); err != nil {
			t.Errorf("rename: %v", err)
		}
		target := ""
		err := does(t, patience, "readlink", func() (err error) { target, err = os.Readlink(s.at("links", moved+"/link")); return err })
		if err == nil {
			t.Errorf("from its new place the link still leads to %q, out of the mount", target)
		}
	}
}

// TestMountSwappedLink: a file that has turned into a link when it is opened is not read as the file that was looked at.
func TestMountSwappedLink(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	server := New(t, Manner{})
	ops := []Op{Lstat, Realpath, Stat, Open}
	var rules []Rule
	for _, op := range ops {
		server.Put("dir/"+string(op), File{Data: "harmless", Mtime: 1_700_000_000})
		rules = append(rules, Swaps(op, "dir/"+string(op), Link("/secret/key")))
	}
	s.define("swap", server, nil)
	s.start(server)
	server.Behave(Manner{Rules: rules})
	for _, op := range ops {
		var got []byte
		err := does(t, patience, "read", func() (err error) { got, err = os.ReadFile(s.at("swap", "dir/"+string(op))); return err })
		if err == nil && string(got) != "harmless" {
			t.Errorf("swapped at %s: read %q without an error", op, got)
		}
	}
}

// TestMountReadLies is the sixth row for reads through the mount: a size that the content does not have is an error.
func TestMountReadLies(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	server := New(t, Manner{})
	lies := map[string]File{
		"1000-3": Claims(1000, "abc"), "3-1000": Claims(3, strings.Repeat("x", 1000)), "0-5": Claims(0, "abcde"), "5-0": Claims(5, ""),
		"minus": Claims(1<<64-1, "abc"), "max": Claims(1<<63-1, "abc"), "min": Claims(1<<63, "abc"), "tera": Claims(1<<40, "abc"),
		"big-short": Claims(9<<20, strings.Repeat("x", 5<<20)), "big-long": Claims(5<<20, strings.Repeat("x", 9<<20)),
		"page": Claims(8192, strings.Repeat("x", 4096)),
	}
	for name, f := range lies {
		server.Put("lies/"+name, f)
	}
	server.Put("lies/true", File{Data: "true"})
	s.define("lies", server, nil)
	s.start(server)
	for name, f := range lies {
		var got int64
		err := does(t, 2*patience, "read "+name, func() error {
			r, err := os.Open(s.at("lies", "lies/"+name))
			if err != nil {
				return err
			}
			defer r.Close() // nothing was written
			b := make([]byte, 64<<10)
			for got < 64<<20 {
				n, err := r.Read(b)
				got += int64(n)
				if err != nil {
					if n == 0 && err.Error() == "EOF" {
						return nil
					}
					return err
				}
			}
			return nil
		})
		if err == nil {
			t.Errorf("%s: the server claims %d bytes and has %d; a program read %d and no error", name, *f.Claim, len(f.Data), got)
		}
	}
	if got, err := os.ReadFile(s.at("lies", "lies/true")); err != nil || string(got) != "true" {
		t.Errorf("the true file has %q, %v", got, err)
	}
	if _, err := os.ReadDir(s.at("lies", "lies")); err != nil {
		t.Errorf("list: %v", err)
	}
}

// TestMountUploadLies is the sixth row for writes through the mount: close(2) tells, and so does fsync(2).
func TestMountUploadLies(t *testing.T) {
	t.Parallel()
	rules := map[string]Rule{
		"discarded": Pretends(Write), "refused": Refuses(Failure, Write), "half": Halves(), "late": RefusesWriteFrom(100_000),
		"fsync": Refuses(Failure, Fsync), "close": Refuses(Failure, Close), "rename": Refuses(Failure, PosixRename, Rename),
		"pretended": Pretends(PosixRename, Rename), "cut": Cuts(Write), "mute": Mute(Write), "sized": Alters(sized(7), Lstat, Fstat),
	}
	s := newStage(t)
	servers := map[string]*Server{}
	for name := range rules {
		server := New(t, Manner{})
		server.Put("old", File{Data: "what was there"})
		server.Put("other", File{Data: "what was there"})
		servers[name] = server
		s.define(name, server, nil)
	}
	s.start(slices.Collect(maps.Values(servers))...)
	stop := s.watch()
	defer stop()
	var uploads sync.WaitGroup
	for name, rule := range rules {
		uploads.Go(func() { s.uploadLies(name, servers[name], rule) })
	}
	uploads.Wait()
}

// uploadLies writes to the mount name while its server follows rule.
func (s *stage) uploadLies(name string, server *Server, rule Rule) {
	t, dir := s.t, s.daemon.Mount(name)
	s.meets(name)
	server.Behave(Manner{Rules: []Rule{rule}})
	inPlace := name == "rename" // where nothing may be renamed what is new is written under its own name, and then what is there as well
	// Closing waits for the upload, and the upload for what can be repeated of it.
	for _, target := range []string{"old", "new"} {
		if err := does(t, 3*patience, name+": write and close", func() error { return put(filepath.Join(dir, target), content) }); (err == nil) != (inPlace && target == "new") {
			t.Errorf("%s: writing %s: %v", name, target, err)
		}
	}
	if err := does(t, 3*patience, name+": write and fsync", func() error {
		f, err := os.OpenFile(filepath.Join(dir, "other"), os.O_WRONLY|os.O_TRUNC, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteString(content)
		err = errors.Join(err, f.Sync())
		f.Close() // what it says is not asked here
		return err
	}); (err == nil) != inPlace {
		t.Errorf("%s: fsync: %v", name, err)
	}
	if f, ok := server.Get("old"); !ok || f.Data != "what was there" {
		t.Errorf("%s: after the failed upload the old name has %.40q", name, f.Data)
	}
	switch f, ok := server.Get("new"); {
	case inPlace && f.Data != content:
		t.Errorf("%s: what was written in place is %.40q", name, f.Data)
	case !inPlace && ok && f.Data != "":
		t.Errorf("%s: after the failed upload the new name has %.40q", name, f.Data)
	}
}

// TestMountKinds: whatever kinds of files a server claims, no program hangs on one, no device of this machine opens by a
// server's word, and no bit for another's rights counts.
func TestMountKinds(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	server := New(t, Manner{})
	kinds := map[string]uint32{"fifo": TypeFIFO, "socket": TypeSocket, "block": TypeBlock, "char": TypeChar, "door": 0o150000, "none": 0o170000}
	for name, kind := range kinds {
		server.Put("kinds/"+name, File{Mode: kind | 0o6777, Data: "x"})
	}
	server.Put("kinds/setuid", File{Mode: TypeRegular | 0o6755, Data: "#!/bin/sh\nid -u\n"})
	s.define("kinds", server, nil)
	s.start(server)
	for name := range kinds {
		for what, flag := range map[string]int{"read": os.O_RDONLY, "write": os.O_WRONLY} {
			if err := does(t, patience, fmt.Sprintf("open a %s to %s", name, what), func() error {
				f, err := os.OpenFile(s.at("kinds", "kinds/"+name), flag, 0)
				if err == nil {
					err = errors.Join(untrue("opened"), f.Close())
				}
				return err
			}); errors.Is(err, errUntrue) {
				t.Errorf("a %s could be opened to %s", name, what)
			}
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, s.daemon.Mount("kinds")+" ") {
			if options := strings.Fields(line)[5]; !strings.Contains(options, "nosuid") || !strings.Contains(options, "nodev") {
				t.Errorf("the mount is %s, without nosuid or nodev", options)
			}
			return
		}
	}
	t.Error("the mount is not in mountinfo")
}

// TestMountHostKeyChange is the tenth row through the mount: a stranger gets no password, programs get an errno, and the
// operator is told by `pierfs test`.
// Holds row 70 of the requirements.
func TestMountHostKeyChange(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	server := New(t, Manner{})
	furnish(server)
	s.define("changed", server, nil)
	s.start(server)
	s.meets("changed")
	old, passwords := server.Fingerprint(), server.Passwords()
	changed := server.ChangeHostKey(t)
	server.CutAll()
	for _, deed := range deeds {
		if err := does(t, patience, deed.name, func() error { return deed.do(s.daemon.Mount("changed")) }); err == nil && deed.name != "statfs" {
			t.Errorf("%s succeeded on a stranger's server", deed.name)
		}
	}
	r := s.daemon.Pierfs(t, "test", "changed")
	if said := r.Stdout + r.Stderr; r.Status == 0 || !strings.Contains(said, old) || !strings.Contains(said, changed) {
		t.Errorf("pierfs test ends with %d and does not say both %s and %s:\n%s", r.Status, old, changed, said)
	}
	if got := server.Passwords(); got != passwords {
		t.Errorf("the stranger was given the password %d times", got-passwords)
	}
}

// TestMountMemory is the fourth row: bombs through the mount and through the verbs leave the daemon below half a gigabyte,
// and end within 30 seconds.
func TestMountMemory(t *testing.T) {
	s := newStage(t)
	rules := map[string]Rule{"short": ListsForEver(10), "long": ListsForEver(255), "empty": Answers(kindName, number(0), Readdir)}
	var servers []*Server
	for name, rule := range rules {
		server := New(t, Manner{Rules: []Rule{rule}})
		furnish(server)
		servers = append(servers, server)
		s.define(name, server, nil)
	}
	s.start(servers...)
	stop := s.watch()
	defer stop()
	pid := strconv.Itoa(s.daemon.Pid())
	for name := range rules {
		n := 0
		err := does(t, 30*time.Second, name+": list", func() error {
			f, err := os.Open(s.at(name, "dir"))
			if err != nil {
				return err
			}
			defer f.Close() // nothing was written
			for {
				names, err := f.Readdirnames(1000)
				if n += len(names); n > mostNames {
					return errTooMany
				}
				if n%100_000 < len(names) && highWater(t, pid) > most {
					return errTooMany // no need to wait for the worst; the stage tells
				}
				if err != nil {
					if len(names) == 0 && err.Error() == "EOF" {
						return nil
					}
					return err
				}
			}
		})
		if err == nil || errors.Is(err, errTooMany) {
			t.Errorf("%s: %d names of an endless listing: %v", name, n, err)
		}
		t.Logf("%s: %d names, %v, the daemon has had %d MiB", name, n, err, highWater(t, pid)>>20)
	}
}

// TestPrivacy is the twelfth and thirteenth row as far as a server's doing can bring them about: what is staged for a server
// that does not take it, and what is kept of what it gave, can be read by nobody else; and no file, argument, environment
// or answer of the daemon has the password in it.
func TestPrivacy(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	server := New(t, Manner{})
	furnish(server)
	server.Put("big", File{Data: strings.Repeat("0123456789abcdef", 500_000)})
	s.define("private", server, nil)
	s.start(server)
	s.meets("private")
	if err := does(t, process.Patience, "read", func() error { _, err := os.ReadFile(s.at("private", "big")); return err }); err != nil {
		t.Errorf("read: %v", err)
	}
	f, err := os.Create(s.at("private", "staged"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(content); err != nil {
		t.Errorf("write: %v", err)
	}
	found := 0
	inspect := func() {
		for _, dir := range []string{s.daemon.StateDir, s.daemon.CacheDir, s.daemon.RuntimeDir} {
			if err := filepath.WalkDir(dir, func(name string, entry os.DirEntry, err error) error {
				if err != nil {
					return err
				}
				info, err := entry.Info()
				if err != nil {
					return nil // it has gone meanwhile
				}
				found++
				if info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
					t.Errorf("%s can be read by others: %v", name, info.Mode())
				}
				if info.IsDir() && dir != s.daemon.RuntimeDir && info.Mode().Perm()&0o077 != 0 {
					t.Errorf("%s can be entered by others: %v", name, info.Mode())
				}
				if info.Mode().IsRegular() && info.Size() < 1<<20 {
					if text, err := os.ReadFile(name); err == nil && bytes.Contains(text, []byte(server.Password)) {
						t.Errorf("%s has the password in it", name)
					}
				}
				return nil
			}); err != nil {
				t.Error(err)
			}
		}
	}
	inspect()
	server.Behave(Manner{Rules: []Rule{Refuses(Failure, Write)}})
	if err := does(t, 3*patience, "close", f.Close); err == nil {
		t.Error("closing a refused upload succeeded")
	}
	inspect()
	if found < 4 {
		t.Errorf("only %d files were looked at", found)
	}
	proc := fmt.Sprintf("/proc/%d/", s.daemon.Pid())
	for _, name := range []string{"cmdline", "environ"} {
		if text, err := os.ReadFile(proc + name); err != nil || bytes.Contains(text, []byte(server.Password)) {
			t.Errorf("%s has the password in it, or cannot be read: %v", name, err)
		}
	}
	if limits, err := os.ReadFile(proc + "limits"); err != nil || !regexp.MustCompile(`Max core file size +0 `).Match(limits) {
		t.Errorf("the daemon may leave a core file, which would have the password in it (%v):\n%s", err, limits)
	}
	for _, args := range [][]string{{"list"}, {"show", "private"}, {"status"}, {"test", "private"}} {
		for _, more := range [][]string{nil, {"--json"}} {
			if r := s.daemon.Pierfs(t, append(args, more...)...); strings.Contains(r.Stdout+r.Stderr, server.Password) {
				t.Errorf("pierfs %q prints the password", append(args, more...))
			}
		}
	}
}
