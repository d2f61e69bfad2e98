package daemon

import (
	"context"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"pierfs/cache"
	"pierfs/cmd/internal/control"
	"pierfs/cmd/internal/metrics"
)

// metrics tells the figures that monitoring wants.
func (d *Daemon) metrics(_ context.Context, q control.MetricsRequest) (a control.MetricsAnswer, err error) {
	if q.Text {
		a.Text, err = d.figures.Text()
		a.Metrics = []control.Metric{}
		return a, err
	}
	a.Metrics, err = d.figures.Figures()
	return a, err
}

// serveMetrics lets Prometheus read the figures over the network of this machine, where that is wanted, until ctx ends. What it
// returns is closed then.
func (d *Daemon) serveMetrics(ctx context.Context) (<-chan struct{}, error) {
	done := make(chan struct{})
	if d.o.MetricsAddress == "" {
		close(done)
		return done, nil
	}
	listener, err := metrics.Listen(d.o.MetricsAddress)
	if err != nil {
		return nil, control.Errorf(control.Usage, "--metrics-address: %v", err).WithHint("the figures are read without a password: name an address of the loopback interface, or put a proxy in front that asks")
	}
	d.log.Info("figures for monitoring", "address", "http://"+listener.Addr().String()+"/metrics")
	go func() { // ends with ctx; Run waits for it
		defer close(done)
		if err := d.figures.Serve(ctx, listener, d.log); err != nil {
			d.log.Error("nobody can read the figures over the network any more", "err", err)
		}
	}()
	return done, nil
}

// look is how things stand: every connection that is mounted, owes something, or may owe something that nobody can read.
func (d *Daemon) look() metrics.Look {
	l := metrics.Look{Findings: map[string]int{}, Events: d.events.Published(), StateFree: freeBytes(d.o.Dirs.State)}
	for _, f := range d.known().Findings {
		l.Findings[string(f.Severity)]++
	}
	if d.spool != nil {
		u, size := d.spool.Usage()
		l.Kept = metrics.Kept{Files: u.Files, Bytes: u.Bytes, Size: size}
	}
	for _, b := range d.debtors(filter("", "")) {
		if c := d.lookAt(b); c.Mounted || c.Damaged || c.Owed > 0 {
			l.Connections = append(l.Connections, c)
		}
	}
	return l
}

func (d *Daemon) lookAt(b debtor) metrics.Connection {
	c := metrics.Connection{Name: b.name, Environment: b.environment}
	if m := b.mount; m != nil {
		status := m.status()
		now, _ := m.holds()
		c.Mounted, c.State, c.Since = true, status.State, status.Since
		c.OpenFiles, c.Quarantined, c.Conflicts = m.openFiles(), now.Quarantined, now.Conflicts
		for _, e := range d.endings(m.reach()) {
			switch e.Of {
			case "server":
				c.Certificate = e.NotAfter
			case "client":
				c.ClientCertificate = e.NotAfter
			case "authority":
				c.Authority = e.NotAfter
			}
		}
		if all := d.ageings(b.name, b.environment); len(all) > 0 {
			c.RotateBy = all[0].Due
		}
	}
	if b.tree != nil {
		r := b.tree.Reading()
		c.Reads = metrics.Reads{Hits: r.Hits, Misses: r.Misses, FromCache: r.FromCache, FromServer: r.FromServer, Prefetched: r.Prefetched, Wasted: r.Wasted}
	}
	all, err := b.owes()
	if c.Damaged = err != nil; c.Damaged { // `pierfs status` says why
		return c
	}
	f := figuresOf(b, all)
	c.Owed, c.OwedBytes, c.OwedOldest, c.Held, c.Unserved = len(all), f.bytes, f.age, f.held, f.unserved
	return c
}

// forgetFigures drops what was counted of those of mounts that are defined no more.
func (d *Daemon) forgetFigures(mounts []*mount, plan Plan) {
	for _, m := range mounts {
		if !slices.ContainsFunc(plan.Wants, func(w Want) bool { return w.key() == m.want.key() }) {
			d.figures.Forget(m.want.Name, m.want.Environment)
		}
	}
}

// freeBytes returns the room below dir for this process; -1 if nobody knows.
func freeBytes(dir string) int64 {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return -1
	}
	return int64(s.Bavail) * s.Bsize
}

// figures are sums over what is owed.
type figures struct {
	bytes          int64
	age            time.Duration
	held, unserved int
}

func figuresOf(b debtor, all []cache.Due) (f figures) {
	for _, due := range all {
		f.bytes += due.Size
		f.age = max(f.age, time.Since(due.Since))
		switch b.due(due).State {
		case control.DueHeld:
			f.held++
		case control.DueUnserved:
			f.unserved++
		}
	}
	return f
}
