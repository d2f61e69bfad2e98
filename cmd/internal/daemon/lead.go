package daemon

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"pierfs/cache"
	"pierfs/cmd/internal/control"
)

// A definition that changes, and an environment that takes the place of another at a mountPoint, lead a mount elsewhere without
// taking it away: a new mount takes over what the kernel shows of the old one, which lives on as a former one, in nobody's lists,
// until what programs had open on it is closed.

// standing is what a mount has while it stands.
type standing struct {
	spot     *spot
	tree     *cache.Tree
	line     Backend
	server   Mounted
	readOnly bool // the kernel was told so when it mounted, and stays so
}

// leading is a mount that leads to w from now on.
type leading struct {
	from *mount
	to   Want
}

// follower returns the mount that w is to take over: one of the same connection at the same place, in an environment that is left.
func (d *Daemon) follower(w Want, wanted map[key]bool) *mount {
	for _, m := range d.all() {
		if !m.want.AdHoc && m.want.Name == w.Name && m.want.Dir == w.Dir && !wanted[m.want.key()] && m.serving() {
			return m
		}
	}
	return nil
}

// mayLead reports whether m can lead to w as it stands. Where it owes something to the very place that w leads to, w goes on with its
// journal, and only one of them can have that: then it is taken down and made.
func (d *Daemon) mayLead(ctx context.Context, m *mount, w Want) bool {
	if !m.serving() || m.want.Dir != w.Dir || w.Refused != nil {
		return false
	}
	target, findings := w.Resolve(ctx)
	if d.refusal(findings) != nil || m.mountedReadOnly() && !target.ReadOnly {
		return false
	}
	if _, owes, err := m.debtor().owing(); owes || err != nil {
		return err == nil && target.Identity() != m.reach().Identity()
	}
	return true
}

func (m *mount) mountedReadOnly() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.readOnly
}

// errMeanwhile says that a mount which was to lead elsewhere was taken away in the same moment.
var errMeanwhile = errors.New("the mount was taken away meanwhile")

// lead makes the mount of to out of from. An error leaves from as it was. d.changing is held.
func (d *Daemon) lead(from *mount, to Want) (*mount, error) {
	m := newMount(d, to)
	target, err := m.resolve()
	if err != nil {
		return nil, err
	}
	tree, line, err := m.plant(target)
	if err != nil {
		return nil, err
	}
	s := from.handOver(func(s standing) <-chan struct{} {
		gone := s.server.Lead(tree, mountOptions(to, target, s.spot, m.log))
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.mounts, from.want.key())
		d.mounts[to.key()] = m // before from asks who leads there now
		d.formers[from] = true
		return gone
	})
	if s == nil {
		return nil, errors.Join(errMeanwhile, m.fell(tree))
	}
	s.tree, s.line = tree, line
	m.inherited = s
	d.log.Info("led elsewhere", "dir", to.Dir, "from", from.reach().Identity(), "to", target.Identity())
	m.start()
	return m, nil
}

// handOver lets do lead what the kernel shows of m elsewhere, and returns what goes along; nil if m does not stand any more.
func (m *mount) handOver(do func(standing) (gone <-chan struct{})) *standing {
	m.mu.Lock()
	if m.server == nil || m.ctx.Err() != nil {
		m.mu.Unlock()
		return nil
	}
	m.leaving = make(chan struct{})
	s := standing{spot: m.spot, server: m.server, readOnly: m.readOnly}
	m.mu.Unlock()
	gone := do(s)
	m.mu.Lock()
	m.gone = gone
	m.mu.Unlock()
	close(m.leaving)
	close(m.led)
	return &s
}

// away returns what is closed when nobody uses the tree any more; nil where m was not led elsewhere.
func (m *mount) away() <-chan struct{} {
	m.mu.Lock()
	leaving := m.leaving
	m.mu.Unlock()
	if leaving == nil {
		return nil
	}
	<-leaving // the kernel is just being told
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.gone
}

// outlast serves what programs have open on a mount that leads elsewhere now, and ends with that. What they then have left to be sent
// to the place where the mount leads still, or again, is sent before.
func (m *mount) outlast(tree *cache.Tree, gone <-chan struct{}) error {
	m.mu.Lock()
	m.state, m.why = control.StateDraining, trouble{}
	m.server = nil
	m.mu.Unlock()
	select {
	case <-gone:
		if m.d.leadsTo(m.want.Dir, m.reach().Identity()) {
			_ = tree.Drain(m.ctx) // what is left then stays in the journal
		}
	case <-m.ctx.Done():
	}
	err := m.fell(tree)
	m.d.mu.Lock()
	defer m.d.mu.Unlock()
	delete(m.d.formers, m)
	if left := m.left(); left != nil {
		m.d.lost[m.want.key()] = left
	}
	return err
}

// leadsTo reports whether what is mounted at dir leads to identity.
func (d *Daemon) leadsTo(dir, identity string) bool {
	m := d.mountedOn(dir)
	return m != nil && m.reach().Identity() == identity
}

// formerMounts returns the mounts that lead elsewhere now and are still used.
func (d *Daemon) formerMounts() []*mount {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []*mount
	for m := range d.formers {
		all = append(all, m)
	}
	return all
}

// A mount's journal lies in a staging directory of its own. A connection that leads elsewhere while programs have files open has two
// of them for a while: the further ones have a number behind the name, which no name of a connection can have.
const furtherStaging = "~"

// takeStaging returns the directory for what w owes to identity, and claims it: where something is owed to that very place if there is
// such a one, else the connection's own, else a further one.
func (d *Daemon) takeStaging(w Want, identity string) string {
	own := d.keep("staging", w)
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.staging[own] {
		for _, dir := range furtherOf(own, w) {
			switch {
			case d.staging[dir]:
			case !owesTo(dir, ""):
				d.clear(dir, w)
			case owesTo(dir, identity) && !owesTo(own, ""):
				d.clear(own, w)
				if err := os.Rename(dir, own); err != nil {
					d.log.Error("what is owed stays in another directory", "dir", dir, "err", err)
				}
			}
		}
		d.staging[own] = true
		return own
	}
	dir := d.freeStaging(own)
	d.staging[dir] = true
	return dir
}

// furtherOf returns the further directories of own that there are.
func furtherOf(own string, w Want) []string {
	if w.AdHoc {
		return nil // it never leads elsewhere, and its directory may end in anything
	}
	var all []string
	for _, name := range subdirectories(filepath.Dir(own)) {
		if strings.HasPrefix(name, filepath.Base(own)+furtherStaging) {
			all = append(all, filepath.Join(filepath.Dir(own), name))
		}
	}
	return all
}

// freeStaging returns a further directory that is not there. d.mu is held.
func (d *Daemon) freeStaging(own string) string {
	for n := 1; ; n++ {
		dir := own + furtherStaging + strconv.Itoa(n)
		if _, err := os.Lstat(dir); err != nil && !d.staging[dir] {
			return dir
		}
	}
}

// giveStaging ends the claim of a tree that is closed. A further directory that owes nothing goes, and the connection's own one makes
// room for the one that is in use, so that `pierfs queue` tells them apart.
func (d *Daemon) giveStaging(dir string, w Want) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.staging, dir)
	own := d.keep("staging", w)
	switch further := furtherOf(own, w); {
	case dir != own && !owesTo(dir, ""):
		d.clear(dir, w)
	case dir == own && owesTo(dir, "") && slices.ContainsFunc(further, func(other string) bool { return d.staging[other] }):
		if err := os.Rename(own, d.freeStaging(own)); err != nil {
			d.log.Error("what is owed stays where the connection's own is", "dir", own, "err", err)
		}
	}
}

// owesTo reports whether the journal in dir owes something, to identity if that is given. One that cannot be read does.
func owesTo(dir, identity string) bool {
	all, err := cache.Left(dir)
	return err != nil || slices.ContainsFunc(all, func(due cache.Due) bool { return identity == "" || due.Target == identity })
}

// clear takes a staging directory away that owes nothing. What a daemon that was killed has left in it goes to quarantine.
func (d *Daemon) clear(dir string, w Want) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	quarantine := d.keep("quarantine", w)
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".data") || strings.HasSuffix(e.Name(), ".json") {
			if err := errors.Join(os.MkdirAll(quarantine, 0o700), os.Rename(filepath.Join(dir, e.Name()), filepath.Join(quarantine, e.Name()))); err != nil {
				d.log.Error("a content stays in staging", "dir", dir, "name", e.Name(), "err", err)
				return
			}
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		d.log.Warn("a staging directory stays", "dir", dir, "err", err)
	}
}
