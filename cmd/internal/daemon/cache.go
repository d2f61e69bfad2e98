package daemon

import (
	"context"
	"errors"
	"strings"
	"time"

	"pierfs/cache"
	"pierfs/cache/spool"
	"pierfs/cmd/internal/control"
)

// boundSpool bounds what is kept as the definitions say.
func (d *Daemon) boundSpool(plan Plan) {
	if d.spool == nil || plan.Config == nil || plan.Torn {
		return
	}
	c := plan.Config.Cache()
	d.spool.SetBounds(c.Size, spool.Floor{Percent: c.FreePercent, Bytes: c.FreeBytes})
}

// cacheStatus tells what is kept of what was read.
func (d *Daemon) cacheStatus(_ context.Context, q control.CacheRequest) (control.CacheAnswer, error) {
	answer := control.CacheAnswer{Connections: []control.Cached{}}
	if d.spool != nil {
		u, size := d.spool.Usage()
		answer.Dir, answer.Files, answer.Bytes, answer.Size = d.spool.Dir(), u.Files, u.Bytes, size
	}
	mounts := d.all()
	if q.Name != "" {
		m, err := d.mountOf(q.Name, q.Environment)
		if err == nil {
			_, err = m.use()
		}
		if err != nil {
			return answer, err
		}
		mounts = []*mount{m}
	}
	for _, m := range mounts {
		if q.Environment != "" && m.want.Environment != q.Environment {
			continue
		}
		if tree, err := m.use(); err == nil { // else it is not mounted, and there is nothing to tell
			answer.Connections = append(answer.Connections, cachedOf(m.want, tree.Reading()))
		}
	}
	return answer, nil
}

func cachedOf(w Want, r cache.Reading) control.Cached {
	return control.Cached{Name: w.Name, Environment: w.Environment, Files: r.Kept.Files, Bytes: r.Kept.Bytes,
		Hits: r.Hits, Misses: r.Misses, FromCache: r.FromCache, FromServer: r.FromServer, Prefetched: r.Prefetched, Wasted: r.Wasted}
}

// cacheDrop drops what is kept of a file, or of all below a directory.
func (d *Daemon) cacheDrop(ctx context.Context, q control.CacheChange) (control.Dropped, error) {
	p, err := d.find(ctx, q.FileRequest)
	if err != nil {
		return control.Dropped{}, err
	}
	if q.DryRun {
		return control.Dropped(p.tree.KeptBelow(p.name)), nil
	}
	return control.Dropped(p.tree.DropKept(p.name)), nil
}

// warmingEvery is how often the hand is told how far cache-warm has come.
const warmingEvery = 100 * time.Millisecond

// cacheWarm fetches a file, or all below a directory, ahead.
func (d *Daemon) cacheWarm(ctx context.Context, q control.CacheChange, send func(control.Warming) error) error {
	p, err := d.find(ctx, q.FileRequest)
	if err != nil {
		return err
	}
	if d.spool == nil {
		return control.Errorf(control.System, "nothing that is read is kept").WithHint("the daemon's log tells why its cache directory cannot be used")
	}
	var so cache.Warming
	var told time.Time
	warm := p.tree.Warm
	if q.DryRun {
		warm = p.tree.WouldWarm
	}
	err = warm(ctx, p.name, func(now cache.Warming) error {
		so = now
		if time.Since(told) < warmingEvery {
			return nil
		}
		told = time.Now()
		return send(warmingOf(now))
	})
	if err := send(warmingOf(so)); err != nil { // the sum, also of what was cut short
		return err
	}
	if errors.Is(err, cache.ErrCacheFull) {
		return control.Errorf(control.NoSpace, "the cache is full: %d of %d files found so far are in it", so.Done.Files, so.Found.Files).
			WithHint("raise cacheSize in pierfs.toml, or warm less at a time")
	}
	return p.told(err)
}

func warmingOf(w cache.Warming) control.Warming {
	reason := ""
	if w.Reason != nil {
		reason = strings.ReplaceAll(w.Reason.Error(), "\n", "; ")
	}
	return control.Warming{FoundFiles: w.Found.Files, FoundBytes: w.Found.Bytes, Files: w.Done.Files, Bytes: w.Done.Bytes,
		Here: w.Here, Failed: w.Failed, Reason: reason}
}
