package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pierfs/cache"
)

// syncs are what a daemon syncs: contents and names on the way to an acknowledgement, a quarantined content's note, the history of its
// definitions with its logs, and the directories that hold all of it.
var syncs = []string{
	"sync.content", "sync.journal", "sync.journal.new", "sync.note", "sync.object", "sync.audit.jsonl", "sync.deployments.jsonl",
	"names.staging", "names.quarantine", "names.Test", "names.env", "names.state", "names.registry", "names.objects",
}

// powerSites are where the power is to fail: before and behind each sync, and at each step of the journal.
func powerSites() (all []string) {
	for _, sync := range syncs {
		all = append(all, "disk."+sync+".before", "disk."+sync+".after")
	}
	for _, site := range cache.Sites() {
		if !strings.HasPrefix(site, "wire.") {
			all = append(all, site)
		}
	}
	return all
}

// TestPowerFailsAtEverySync: what was not synced is gone, or there by chance, and nothing that a program was told is done is lost.
func TestPowerFailsAtEverySync(t *testing.T) {
	t.Parallel()
	s := newStage(t, programs(t), ftp, "background", 1, nil)
	s.powerFails(t)
	for _, w := range s.workers {
		w.even = true
	}
	missing := powerSites()
	for idle := 0; idle < tries && len(missing) > 0 && !t.Failed(); {
		if !slices.ContainsFunc(missing, func(site string) bool { return site != "journal.aside" && !strings.HasPrefix(site, "disk.sync.note.") }) {
			s.damageJournal(t)
		}
		if !s.live(t, aim{fresh: func(site string) bool { return slices.Contains(missing, site) }}, true) {
			idle++
		}
		missing = slices.DeleteFunc(missing, func(site string) bool { return s.sum.sites[site] > 0 })
	}
	s.end(t)
	if len(missing) > 0 {
		t.Errorf("the power failed never at %q", missing)
	}
	t.Log(s.sum)
}

func TestPowerFailsByChance(t *testing.T) {
	t.Parallel()
	s := newStage(t, programs(t), sftp, "background", 1, nil)
	s.powerFails(t)
	for k := 0; k < 10 && s.survives(t, fmt.Sprint(k), s.chance()); k++ {
	}
	s.end(t)
	if s.sum.dropped == 0 {
		t.Error("nothing was dropped with the power: this test tests nothing")
	}
	t.Log(s.sum)
}
