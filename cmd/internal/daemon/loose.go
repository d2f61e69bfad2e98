package daemon

import (
	"context"
	"path/filepath"
	"sync"
	"time"

	"pierfs/cache"
	"pierfs/cache/spool"
	"pierfs/cmd/internal/control"
	"pierfs/conncfg"
)

// looseIdle is how long a tree without a mount waits for its next use.
const looseIdle = 20 * time.Second

// loose are the trees of connections that file verbs use where nothing is mounted: because a person has unmounted it, because it cannot be
// mounted, or because this daemon is a hand's own and mounts nothing. They commit in the call itself, whatever the definition says, and
// have staging directories of their own: what the journal of the connection owes is left alone. The zero value has none.
//
// loose.mu is taken before Daemon.mu and mount.mu, and held while a tree is made, which resolves secrets but asks no server.
type loose struct {
	mu    sync.Mutex
	trees map[key]*lent
}

// lent is one such tree.
type lent struct {
	mount *mount // that was never started
	tree  *cache.Tree
	users int
	idle  *time.Timer // set while nobody uses it
}

// treeOf returns the tree of a connection, mounted or not. It is good until ctx ends.
func (d *Daemon) treeOf(ctx context.Context, name, environment string) (*cache.Tree, Want, error) {
	m, err := d.mountOf(name, environment)
	if err == nil {
		tree, err := m.use()
		if err == nil || !m.failed() || m.want.AdHoc {
			return tree, m.want, err
		}
	}
	w, unknown := d.wanted(name, environment)
	if unknown != nil || !w.Enabled || d.waits(w.Name) {
		return nil, w, err
	}
	tree, err := d.loose.lend(ctx, d, w)
	return tree, w, err
}

// lend returns the tree of w until ctx ends.
func (l *loose) lend(ctx context.Context, d *Daemon, w Want) (*cache.Tree, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.trees[w.key()]
	if t != nil && !t.mount.want.same(w) { // whoever uses it still goes on with it
		delete(l.trees, w.key())
		t = nil
	}
	if t == nil {
		var err error
		if t, err = d.plantLoose(w); err != nil {
			return nil, err
		}
		if l.trees == nil {
			l.trees = map[key]*lent{}
		}
		l.trees[w.key()] = t
	}
	t.users++
	if t.idle != nil {
		t.idle.Stop()
		t.idle = nil
	}
	context.AfterFunc(ctx, func() { l.giveBack(t) })
	return t.tree, nil
}

// plantLoose makes the tree of w.
func (d *Daemon) plantLoose(w Want) (*lent, error) {
	w.loose = true
	m := newMount(d, w)
	target, err := m.resolve()
	if err != nil {
		return nil, err
	}
	target.Commit = conncfg.CommitClose
	tree, _, err := m.plant(target)
	if err != nil {
		return nil, told(err)
	}
	return &lent{mount: m, tree: tree}, nil
}

func (l *loose) giveBack(t *lent) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if t.users--; t.users > 0 {
		return
	}
	if l.trees[t.mount.want.key()] != t { // another one has taken its place
		go t.end() // it has nothing to say, and its sessions are given up
		return
	}
	t.idle = time.AfterFunc(looseIdle, func() {
		l.mu.Lock()
		unused := t.users == 0 && l.trees[t.mount.want.key()] == t
		if unused {
			delete(l.trees, t.mount.want.key())
		}
		l.mu.Unlock()
		if unused {
			t.end()
		}
	})
}

// end closes the tree. Every change was made in its call: nothing is left but what nobody was promised.
func (t *lent) end() {
	ctx, cancel := context.WithTimeout(context.Background(), t.mount.reach().DrainTimeout)
	defer cancel()
	if err := t.tree.Close(ctx); err != nil {
		t.mount.log.Warn("close of a tree without a mount", "err", err)
	}
	t.mount.cancel()
}

// close ends them all.
func (l *loose) close() {
	l.mu.Lock()
	trees := l.trees
	l.trees = nil
	l.mu.Unlock()
	for _, t := range trees {
		if t.idle != nil {
			t.idle.Stop()
		}
		t.end()
	}
}

// serveLoose makes d one that mounts nothing, and keeps what it reads and writes meanwhile below its runtime directory.
func (d *Daemon) serveLoose(s *control.Server) {
	d.private = true
	store, err := spool.OpenStore(filepath.Join(d.o.Dirs.Runtime, "content"), spool.StoreOptions{Logger: d.log})
	if err != nil {
		d.log.Warn("large files are read without reading ahead", "err", err)
	} else {
		d.spool = store
	}
	d.serveFiles(s)
}
