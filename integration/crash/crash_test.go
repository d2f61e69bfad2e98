package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pierfs/integration/daemon"
)

// The programs under test.
var (
	underTest = daemon.Share("-tags", "crash")
	built     = underTest.Programs
)

func TestMain(m *testing.M) {
	if tapping() || isStoring() {
		return
	}
	os.Exit(daemon.Main(m, 0, underTest))
}

func programs(t *testing.T) daemon.Programs {
	t.Helper()
	p, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// plant is a harm that a server is done behind a daemon's back, after what a program did.
type plant struct {
	name string
	work func(w *worker) error
	harm func(dir string, w *worker) error // nil does none
	want []string                          // the harms, as kind and name
}

// plants are one of each kind that there is, and none.
var plants = []plant{
	{name: "none", work: steps(write("a", 3000), add("a", 500), move("a", "b"), write("c", 10), remove("c"))},
	{
		name: "a byte that was acknowledged is lost", work: steps(write("a", 3000)),
		harm: func(dir string, w *worker) error {
			return os.Truncate(filepath.Join(dir, "a"), int64(len(w.now["a"].content))-1)
		},
		want: []string{"lost a"},
	},
	{
		name: "a file that was acknowledged is lost", work: steps(write("a", 3000)),
		harm: func(dir string, _ *worker) error { return os.Remove(filepath.Join(dir, "a")) },
		want: []string{"lost a"},
	},
	{
		name: "a byte within a file is another", work: steps(write("a", 3000)),
		harm: func(dir string, w *worker) error {
			content := slices.Clone(w.now["a"].content)
			content[1000] ^= 1
			return os.WriteFile(filepath.Join(dir, "a"), content, 0o644)
		},
		want: []string{"strange a"},
	},
	{
		name: "an append arrives twice", work: steps(write("a", 3000), add("a", 500)),
		harm: func(dir string, w *worker) error {
			content := w.now["a"].content
			return os.WriteFile(filepath.Join(dir, "a"), append(slices.Clip(content), content[len(content)-500:]...), 0o644)
		},
		want: []string{"doubled a"},
	},
	{
		name: "half a file bears its final name", work: cut(write("a", 3000)),
		harm: func(dir string, w *worker) error {
			return os.WriteFile(filepath.Join(dir, "a"), w.may[1].world["a"].content[:1500], 0o644)
		},
		want: []string{"half a"},
	},
	{
		name: "half a file replaces one that was whole", work: steps(write("a", 3000), cut(write("a", 5000))),
		harm: func(dir string, w *worker) error {
			return os.WriteFile(filepath.Join(dir, "a"), w.may[1].world["a"].content[:1500], 0o644)
		},
		want: []string{"half a"},
	},
	{
		name: "a name that was unlinked rises again", work: steps(write("a", 3000), remove("a")),
		harm: func(dir string, _ *worker) error { return os.WriteFile(filepath.Join(dir, "a"), []byte("a"), 0o644) },
		want: []string{"risen a"},
	},
	{
		name: "a rename is lost", work: steps(write("a", 3000), move("a", "b")),
		harm: func(dir string, _ *worker) error { return os.Rename(filepath.Join(dir, "b"), filepath.Join(dir, "a")) },
		want: []string{"risen a", "lost b"},
	},
	{
		name: "a rename over another name is lost", work: steps(write("a", 3000), write("b", 100), move("a", "b")),
		harm: func(dir string, _ *worker) error {
			if err := os.Rename(filepath.Join(dir, "b"), filepath.Join(dir, "a")); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(dir, "b"), []byte("what was there"), 0o644)
		},
		want: []string{"risen a", "strange b"},
	},
	{
		name: "a directory is lost", work: steps(makeDir("d"), write("d/a", 10)),
		harm: func(dir string, _ *worker) error { return os.RemoveAll(filepath.Join(dir, "d")) },
		want: []string{"lost d", "lost d/a"},
	},
	{
		name: "a line of the common log is lost", work: steps((*worker).writeLog, (*worker).writeLog),
		harm: func(dir string, w *worker) error { return os.Truncate(logAt(dir), int64(len(w.log.told[w.name][0]))) },
		want: []string{"lost ../together/log"},
	},
	{
		name: "a line of the common log is there twice", work: (*worker).writeLog,
		harm: func(dir string, w *worker) error {
			line := w.log.told[w.name][0]
			return os.WriteFile(logAt(dir), slices.Concat(w.log.base, line, line), 0o644)
		},
		want: []string{"doubled ../together/log"},
	},
	{
		name: "a temporary name is left", work: steps(write("a", 10)),
		harm: func(dir string, _ *worker) error {
			return os.WriteFile(filepath.Join(dir, ".a.pierfs-0123abcd"), []byte("a"), 0o600)
		},
		want: []string{"glimpsed .a.pierfs-0123abcd", "left .a.pierfs-0123abcd"},
	},
}

func logAt(dir string) string { return filepath.Join(filepath.Dir(dir), logbookDir, logbookName) }

func TestCheckerFindsEveryHarm(t *testing.T) {
	t.Parallel()
	for i, p := range []protocol{sftp, ftp} { // which take turns: to the checker they are the same
		t.Run(string(p), func(t *testing.T) {
			t.Parallel()
			s := newStage(t, programs(t), p, "close", 1, nil)
			s.patience = 500 * time.Millisecond // the planted name stays for ever
			for k, plant := range plants {
				if k%2 != i {
					continue
				}
				got, want := s.suffer(t, plant), append([]string{}, plant.want...)
				slices.Sort(want)
				if !slices.Equal(got, want) {
					t.Errorf("%s: the checker finds %q, want %q", plant.name, got, want)
				}
			}
		})
	}
}

// suffer has the first worker do what plant says, kills the daemon, does the harm, and returns what the checker finds: right then,
// and after the next daemon's start.
func (s *stage) suffer(t *testing.T, p plant) (found []string) {
	t.Helper()
	g := s.begin(t, aim{})
	if err := s.daemon.AwaitReady(); err != nil {
		t.Fatalf("%v\n%s", err, s.daemon.Log())
	}
	if harms := s.check(t, g, true); len(harms) > 0 {
		t.Fatalf("%s: before anything was done: %q", p.name, harms)
	}
	w := s.workers[0]
	if err := p.work(w); err != nil {
		t.Fatalf("%s: %v", p.name, err)
	}
	s.finish(t, g)
	dir := filepath.Join(s.behind, w.name)
	if p.harm != nil {
		if err := p.harm(dir, w); err != nil {
			t.Fatal(err)
		}
	}
	tell := func(harms []harm) {
		for _, h := range harms {
			name, err := filepath.Rel(w.name, h.name)
			if err != nil {
				t.Fatal(err)
			}
			found = append(found, string(h.kind)+" "+name)
		}
	}
	tell(s.judge(t))
	if p.harm != nil && len(found) == 0 { // it may show later
		g := s.begin(t, aim{})
		if err := s.daemon.AwaitReady(); err != nil {
			t.Fatalf("%v\n%s", err, s.daemon.Log())
		}
		tell(s.check(t, g, true))
		s.finish(t, g)
	}
	s.clear(t)
	slices.Sort(found)
	return found
}

// clear empties the server behind a daemon that is dead.
func (s *stage) clear(t *testing.T) {
	t.Helper()
	for name := range s.homes() {
		if err := os.RemoveAll(filepath.Join(s.behind, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, w := range s.workers {
		w.found(world{}, state{})
	}
	s.log.found(nil)
	s.register.found(node{}, false)
}

// Works of a program.

func steps(works ...func(*worker) error) func(*worker) error {
	return func(w *worker) error {
		for _, work := range works {
			if err := work(w); err != nil {
				return err
			}
		}
		return nil
	}
}

func write(name string, size int) func(*worker) error {
	return func(w *worker) error {
		content := w.record(size)
		return w.step("write "+name, w.now.with(name, content), func() error { return w.put(name, os.O_CREATE|os.O_TRUNC, content) })
	}
}

func add(name string, size int) func(*worker) error {
	return func(w *worker) error {
		more := w.record(size)[:size]
		next, part := w.grown(name, more)
		return w.step("append to "+name, next, func() error { return w.put(name, os.O_APPEND, more) }, part)
	}
}

func move(from, to string) func(*worker) error {
	return func(w *worker) error {
		return w.step("rename "+from, w.now.renamed(from, to), func() error { return os.Rename(w.path(from), w.path(to)) })
	}
}

func remove(name string) func(*worker) error {
	return func(w *worker) error {
		return w.step("unlink "+name, w.now.without(name), func() error { return os.Remove(w.path(name)) })
	}
}

func makeDir(name string) func(*worker) error {
	return func(w *worker) error {
		return w.step("mkdir "+name, w.now.withDir(name), func() error { return os.Mkdir(w.path(name), 0o755) })
	}
}

// cut is work of whose end the program never heard.
func cut(work func(*worker) error) func(*worker) error {
	return func(w *worker) error {
		before := w.now
		if err := work(w); err != nil {
			return err
		}
		w.may = []state{{world: before}, {world: w.now}}
		return nil
	}
}

func (w *worker) writeLog() error {
	_, err := w.logTogether()
	return err
}

// An append whose program was not told may be there in part; what was there before may not.
func TestCheckerAllowsWhatNobodyWasToldOf(t *testing.T) {
	w := &worker{now: world{"a": {content: []byte("old\n")}}}
	next, part := w.grown("a", []byte("new\n"))
	states := []state{{world: w.now}, {world: next}, part}
	for content, want := range map[string]string{
		"old\n": "", "old\nnew\n": "", "old\nne": "", // as it may be
		"old": string(lost), "": string(lost), "old\nnex": string(strange), "old\nnew\nnew\n": string(strange),
	} {
		_, ok, harms := explain(world{"a": {content: []byte(content)}}, states)
		if got := strings.Join(kinds(harms), " "); ok != (want == "") || got != want {
			t.Errorf("a holding %q is %q, want %q", content, got, want)
		}
	}
}

func kinds(harms []harm) (all []string) {
	for _, h := range harms {
		all = append(all, fmt.Sprint(h.kind))
	}
	return all
}
