package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// figures are what a run has come to.
type figures struct {
	cuts     int // kills with which the server lost its sessions
	terms    int // kills that SIGTERM went before
	kills    int
	sites    map[string]int // where daemons were killed on the wire
	passed   map[string]int // how often each site was passed
	calls    int            // changes that programs were told are done
	acked    int64          // bytes in them
	whole    int            // changes that nobody was told of, and that are there
	nothing  int            // and that are not
	torn     int            // appends in place of which a part is there, which nobody was told of
	temps    int            // temporary names that were left by the dead
	harms    map[harmKind]int
	forgiven int            // temporary names that programs have seen behind a failure of the power
	dropped  int            // changes that were not on the disk when the power failed
	outages  int            // of the server
	contest  map[string]int // what became of what was written to names that others wrote to
	told     map[string]int // what programs were told behind an outage, by a daemon that lives
}

func newFigures() figures {
	return figures{sites: map[string]int{}, passed: map[string]int{}, harms: map[harmKind]int{}, told: map[string]int{}, contest: map[string]int{}}
}

func (f *figures) add(g figures) {
	f.kills += g.kills
	f.cuts += g.cuts
	f.terms += g.terms
	f.calls += g.calls
	f.acked += g.acked
	f.whole += g.whole
	f.nothing += g.nothing
	f.torn += g.torn
	f.temps += g.temps
	f.dropped += g.dropped
	f.forgiven += g.forgiven
	f.outages += g.outages
	addAll(f.told, g.told)
	addAll(f.contest, g.contest)
	addAll(f.sites, g.sites)
	addAll(f.passed, g.passed)
	addAll(f.harms, g.harms)
}

func addAll[K comparable](to, more map[K]int) {
	for k, n := range more {
		to[k] += n
	}
}

// String is one line.
func (f figures) String() string {
	var harms []string
	for _, kind := range []harmKind{lost, half, doubled, risen, strange, left, shown, glimpsed, stale} {
		harms = append(harms, fmt.Sprintf("%d %s", f.harms[kind], kind))
	}
	text := fmt.Sprintf("%d kills (%d with the server's sessions, %d behind SIGTERM) at %d of %d sites and between them; %d changes with %.1f MiB acknowledged: %s; "+
		"unacknowledged: %d whole, %d not at all, %d appends in part; temporary names after the kills: %d",
		f.kills, f.cuts, f.terms, len(f.sites), len(f.passed), f.calls, float64(f.acked)/(1<<20), strings.Join(harms, ", "),
		f.whole, f.nothing, f.torn, f.temps)
	if f.dropped > 0 {
		text += fmt.Sprintf("; %d changes were dropped with the power; forgiven, for no sync is spent on them: temporary names that programs see until they are a day old, %d times",
			f.dropped, f.forgiven)
	}
	if f.outages > 0 {
		text += fmt.Sprintf("; %d outages of the server, behind which programs were told %v", f.outages, f.told)
	}
	if len(f.contest) > 0 {
		text += fmt.Sprintf("; of what was written to names that somebody else wrote to: %v", f.contest)
	}
	return text
}

// table lists each site with how often it was passed, and how often a daemon was killed at it.
func (f figures) table() string {
	var b strings.Builder
	for _, site := range slices.Sorted(maps.Keys(f.passed)) {
		fmt.Fprintf(&b, "%7d %5d %s\n", f.passed[site], f.sites[site], site)
	}
	return b.String()
}
