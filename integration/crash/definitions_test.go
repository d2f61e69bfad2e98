package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"pierfs/integration/daemon"
	"pierfs/integration/power"
)

// ordained is a change of definitions by command, and what the configuration holds behind it.
type ordained struct {
	command string
	file    string // below the configuration directory
	holds   string // in it; "" if it is gone
	secret  string // that the command reads from its input

	hash string // of its entry in the log of changes, once it is acknowledged
}

// TestPowerFailsBehindEachChangeOfDefinitions: whatever a command has said is done stands in the files and in the log of changes behind a loss
// of power right then, and a power that fails at a sync before leaves the files as they were or as they shall be, and a log that is sound.
func TestPowerFailsBehindEachChangeOfDefinitions(t *testing.T) {
	t.Parallel()
	c := newChancery(t)
	all := []*ordained{
		{command: "create a --disabled --set protocol=SFTP --set host=a.example --set username=u --set workingDir=/", file: "connections/a.toml", holds: "a.example"},
		{command: "create b --disabled --set protocol=SFTP --set host=b.example --set username=u --set workingDir=/", file: "connections/b.toml", holds: "b.example"},
		{command: "edit a --set host=c.example", file: "connections/a.toml", holds: "c.example"},
		{command: "vars set v one", file: "variables.toml", holds: "one"},
		{command: "env create Other", file: "environments/Other.toml", holds: "[variables]"},
		{command: "env create More", file: "environments/More.toml", holds: "[variables]"},
		{command: "vars set v two --env Other", file: "environments/Other.toml", holds: "two"},
		{command: "vars set s --secret --value-file -", file: "variables.toml", holds: "sealed", secret: "secret"},
		{command: "env use Other", file: "pierfs.toml", holds: "Other"},
		{command: "delete a --yes=a --no-backup", file: "connections/a.toml"},
	}
	var done []*ordained
	for _, o := range all {
		for o.hash == "" && !t.Failed() {
			c.daemon.Start(t)
			c.check(done, o)
			if before := len(c.failed); before > 0 && c.stands(o) { // it was not acknowledged, and is made
				history := c.history()
				o.hash = history[len(history)-1].Hash
			} else if r := c.order(o); o.hash == "" && len(c.failed) == before {
				t.Fatalf("%s: status %d, and the power did not fail\n%s%s", o.command, r.Status, r.Stdout, r.Stderr)
			}
			c.blackOut()
		}
		done = append(done, o)
	}
	c.daemon.Start(t)
	c.check(done, nil)
	if status := c.daemon.Stop(t); status != 0 {
		t.Errorf("pierfsd ends with status %d", status)
	}
	if len(c.failed) < 10 {
		t.Errorf("the power failed at %q alone: this test tests too little", c.failed)
	}
	t.Logf("the power failed behind %d changes, and at %q", len(all), c.failed)
}

// chancery is a daemon whose configuration and state lie on a disk that loses its power.
type chancery struct {
	*testing.T
	daemon *daemon.Daemon
	disk   *power.Disk

	mu     sync.Mutex
	armed  bool
	failed []string // the sites at which the power has failed
}

func newChancery(t *testing.T) *chancery {
	t.Helper()
	c := &chancery{T: t, daemon: daemon.New(t, programs(t))}
	dir := filepath.Join(c.daemon.Dir, "disk")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	c.disk = power.New(t, dir, c.fails)
	etc := filepath.Join(dir, "etc")
	err := errors.Join(os.CopyFS(etc, os.DirFS(c.daemon.ConfigDir)), syncAll(dir))
	if err != nil {
		t.Fatal(err)
	}
	c.daemon.ConfigDir, c.daemon.StateDir = etc, filepath.Join(dir, "state")
	return c
}

// fails has the power fail before each kind of sync once.
func (c *chancery) fails(step power.Step) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	site := diskSite(step)
	if !c.armed || step.Made || step.Op != power.Sync && step.Op != power.Names || slices.Contains(c.failed, site) {
		return false
	}
	c.armed = false
	c.failed = append(c.failed, site)
	return true
}

func (c *chancery) arm(yes bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.armed = yes
}

// order has o done, and notes whether that was acknowledged.
func (c *chancery) order(o *ordained) daemon.Result {
	c.Helper()
	c.arm(true)
	r := c.daemon.PierfsWith(c.T, daemon.Call{Stdin: o.secret}, append(strings.Fields(o.command), "--json")...)
	c.arm(false)
	var answer struct{ Revision uint64 }
	if r.Status != 0 {
		return r
	}
	if err := json.Unmarshal([]byte(r.Stdout), &answer); err != nil || answer.Revision == 0 {
		c.Fatalf("%s: %v\n%s", o.command, err, r.Stdout)
	}
	for _, e := range c.history() {
		if e.Revision == answer.Revision {
			o.hash = e.Hash
		}
	}
	if o.hash == "" {
		c.Errorf("%s: the log has no revision %d", o.command, answer.Revision)
	}
	return r
}

// blackOut is a loss of power with all that nobody has synced.
func (c *chancery) blackOut() {
	c.Helper()
	c.disk.Fail()
	c.daemon.Kill()
	if _, err := c.disk.Return(nil); err != nil {
		c.Fatal(err)
	}
}

// revision is an entry of the log of changes.
type revision struct {
	Revision uint64
	Hash     string
}

func (c *chancery) history() []revision {
	c.Helper()
	r := c.daemon.Pierfs(c.T, "history", "--json")
	var answer struct{ Revisions []revision }
	if err := json.Unmarshal([]byte(r.Stdout), &answer); err != nil || r.Status != 0 {
		c.Fatalf("history: status %d, %v\n%s", r.Status, err, r.Stderr)
	}
	return answer.Revisions
}

// check demands that all that was acknowledged is there, but for what next, which was not, may have made of it.
func (c *chancery) check(done []*ordained, next *ordained) {
	c.Helper()
	if r := c.daemon.Pierfs(c.T, "audit", "verify"); r.Status != 0 {
		c.Errorf("behind a loss of power the log of changes is not sound: status %d\n%s%s", r.Status, r.Stdout, r.Stderr)
	}
	history := c.history()
	for i, o := range done {
		if !slices.ContainsFunc(history, func(r revision) bool { return r.Hash == o.hash }) {
			c.Errorf("behind a loss of power the log of changes lacks %q", o.command)
		}
		if slices.ContainsFunc(done[i+1:], func(later *ordained) bool { return later.file == o.file }) {
			continue
		}
		if !c.stands(o) && !(next != nil && next.file == o.file && c.stands(next)) {
			c.Errorf("behind a loss of power %s is not what it was made by %q", o.file, o.command)
		}
	}
}

// stands reports whether the files are what o makes them.
func (c *chancery) stands(o *ordained) bool {
	content, err := os.ReadFile(filepath.Join(c.daemon.ConfigDir, o.file))
	if o.holds == "" {
		return errors.Is(err, os.ErrNotExist)
	}
	return err == nil && strings.Contains(string(content), o.holds)
}

// syncAll brings everything in dir to the disk.
func syncAll(dir string) error {
	return filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		return errors.Join(f.Sync(), f.Close())
	})
}
