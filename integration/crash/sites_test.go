package main

import (
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pierfs/cache"
	"pierfs/integration/daemon"
)

// wireSites are the steps on the wire that the load leads to, by protocol: each command as it is about to reach the server (asked), as its
// answer is about to reach the daemon (answered) and, of a transfer, its beginning (begun).
var wireSites = map[protocol]string{
	sftp: "init limits realpath lstat stat fstat open close read write fsync fsetstat setstat opendir readdir mkdir rmdir remove " +
		"posix-rename hardlink symlink",
	ftp: "USER PASS SYST FEAT OPTS TYPE PWD CWD EPSV LIST STAT SIZE MDTM REST RETR STOR APPE RNFR RNTO DELE MKD RMD SITE-CHMOD",
}

// inPassing are further steps on the wire, which a daemon is killed at when it comes by: no load is sure to lead to them.
var inPassing = map[protocol]string{
	sftp: "users-groups-by-id lsetstat readlink rename copy-data",
	ftp:  "connect",
}

// transfers are the commands of FTP that have a beginning.
var transfers = []string{"LIST", "RETR", "STOR", "APPE"}

// unreached are sites that no load leads to, and why.
var unreached = map[protocol]map[string]string{
	sftp: {
		"wire.takeover.before": "an upload goes on only where it broke behind 4 MiB that were synced, which no load is sure of; package cache kills a daemon there",
		"wire.takeover.after":  "an upload goes on only where it broke behind 4 MiB that were synced, which no load is sure of; package cache kills a daemon there",
	},
	ftp: {
		"wire.takeover.before": "FTP has no copying", "wire.takeover.after": "FTP has no copying",
		"wire.symlink.before": "FTP has no links", "wire.symlink.after": "FTP has no links",
		"wire.link.before": "FTP has no links", "wire.link.after": "FTP has no links",
	},
}

// unreachedLate are the sites that no load leads to with commit = "background", and why.
var unreachedLate = map[string]string{
	"wire.abort.before":     "what is sent is broken off only if its name goes at that moment, which no load can be sure of",
	"wire.abort.after":      "what is sent is broken off only if its name goes at that moment, which no load can be sure of",
	"sftp.setstat.asked":    "a file that is cut is owed as a content, and sent as one",
	"sftp.setstat.answered": "a file that is cut is owed as a content, and sent as one",
}

// sites returns all that a daemon is to be killed at.
func sites(p protocol, commit string) (all []string) {
	for command := range strings.FieldsSeq(wireSites[p]) {
		all = append(all, string(p)+"."+command+".asked", string(p)+"."+command+".answered")
		if slices.Contains(transfers, command) {
			all = append(all, string(p)+"."+command+".begun")
		}
	}
	for _, site := range cache.Sites() {
		onWire := strings.HasPrefix(site, "wire.")
		if _, cannot := unreached[p][site]; !cannot && (onWire || commit == "background") {
			all = append(all, site)
		}
	}
	if commit == "background" {
		all = slices.DeleteFunc(all, func(site string) bool { _, cannot := unreachedLate[site]; return cannot })
	}
	return all
}

// unlisted are the steps on the wire that daemons were killed at and that no list names: a command that the product has learned to
// use must be named in wireSites, lest it be missed when no load leads to it any more.
func (s *stage) unlisted() (all []string) {
	for site := range s.sum.sites {
		protocol, step, _ := strings.Cut(site, ".")
		command, _, _ := strings.Cut(step, ".")
		if protocol == string(s.protocol) && !slices.Contains(strings.Fields(wireSites[s.protocol]+" "+inPassing[s.protocol]), command) {
			all = append(all, site)
		}
	}
	return all
}

// tries is how many daemons may live to the end of their load without passing a site at which none was killed before.
const tries = 20

func TestKillAtEverySite(t *testing.T) {
	t.Parallel()
	for _, commit := range []string{"close", "background"} {
		for _, p := range []protocol{sftp, ftp} {
			t.Run(commit+" "+string(p), func(t *testing.T) {
				t.Parallel()
				s := newStage(t, programs(t), p, commit, 1, nil)
				for _, w := range s.workers {
					w.even = true
				}
				for idle := 0; idle < tries && len(s.missing()) > 0 && !t.Failed(); {
					missing := s.missing()
					if slices.Contains(missing, "journal.aside") {
						s.damageJournal(t)
					}
					if slices.Contains(missing, "wire.abort.before") || slices.Contains(missing, "wire.abort.after") { // of which chance brings few
						w := s.workers[0]
						w.bag = append([]job{{1, "break off", (*worker).breakOff}}, w.bag...)
					}
					if !s.live(t, aim{fresh: func(site string) bool { return s.sum.sites[site] == 0 }}, false) {
						idle++
					}
				}
				s.end(t)
				if missing := s.missing(); len(missing) > 0 {
					t.Errorf("no daemon was killed at %q", missing)
				}
				if unlisted := s.unlisted(); len(unlisted) > 0 {
					t.Errorf("the daemon came by %q, which neither wireSites nor inPassing name", unlisted)
				}
				t.Log(s.sum)
			})
		}
	}
}

// Beyond the sites, 40 daemons of each mode die at moments of chance, with work of their own behind them.
func TestKillByChance(t *testing.T) {
	t.Parallel()
	for _, commit := range []string{"close", "background"} {
		t.Run(commit, func(t *testing.T) {
			t.Parallel()
			sum := byChance(t, programs(t), options{kills: 40, seed: 1, commit: commit, stages: 2})
			t.Log(sum)
			if sum.kills < 40 || sum.calls < 10*sum.kills {
				t.Errorf("%d kills with %d changes acknowledged before: this test tests too little", sum.kills, sum.calls)
			}
		})
	}
}

// damageJournal puts something between the records of a dead daemon's journal, if it has one, that is none.
func (s *stage) damageJournal(t *testing.T) {
	t.Helper()
	const header = 24 // bytes
	path := filepath.Join(s.daemon.StateDir, "staging", "env", daemon.Environment, connection, "journal")
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) || err == nil && len(text) <= header {
		return
	}
	if err == nil {
		err = os.WriteFile(path, slices.Concat(text[:header], []byte("damage"), text[header:]), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// missing returns the sites at which no daemon was killed yet.
func (s *stage) missing() []string {
	return slices.DeleteFunc(sites(s.protocol, s.commit), func(site string) bool { return s.sum.sites[site] > 0 })
}

// The programs that are released hold nothing that waits for anybody's leave to go on.
func TestReleasedProgramsHaveNoHook(t *testing.T) {
	files := func(tags ...string) (all []string) {
		args := append([]string{"list", "-deps", "-f", "{{range .GoFiles}}{{$.ImportPath}}/{{.}} {{end}}"}, tags...)
		text, err := exec.Command("go", append(args, "pierfs/cmd/pierfs", "pierfs/cmd/pierfsd")...).Output()
		if err != nil {
			t.Fatal(err)
		}
		for name := range strings.FieldsSeq(string(text)) {
			if strings.HasPrefix(name, "pierfs/") {
				all = append(all, name)
			}
		}
		return all
	}
	released, killed := map[string]bool{}, map[string]bool{}
	for _, name := range files() {
		released[name] = true
	}
	for _, name := range files("-tags", "crash") {
		killed[name] = !released[name]
	}
	maps.DeleteFunc(killed, func(_ string, only bool) bool { return !only })
	if want := map[string]bool{"pierfs/cmd/internal/daemon/steps_crash.go": true}; !maps.Equal(killed, want) {
		t.Errorf("only in programs that are built to be killed: %v, want %v", slices.Sorted(maps.Keys(killed)), slices.Sorted(maps.Keys(want)))
	}
}
